//! What may come in. Pure: each function takes something a region sent and says what it is, or why it is
//! refused. Nothing is stored that did not pass here.

use crate::book::{Book, Terms};
use bytes::Bytes;
use domain::agreement::{Agreement, SHORT_VERSIONS_MAX};
use domain::kernel::{Lane, Reason, RegionId, Timestamp};
use domain::stream::StreamId;
use prost::Message as _;
use proto::exchange::v1 as pb;
use proto::kernel::v1::SignedObject;
use seal::proposal::{Proposal, ProposalError};
use seal::segment::{Segment, SegmentError};
use seal::signed::{Head, Receipt, SignedError, key_id_of};
use seal::trust::TrustError;
use std::sync::Arc;
use storage::gateway::{AgreementRow, GatewayReceipt, SegmentWrite};

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The code.
    pub reason: Reason,
    /// The stream it is about.
    pub stream: Option<StreamId>,
    /// For an engineer.
    pub detail: String,
}

impl Refused {
    fn new(reason: Reason, stream: Option<&StreamId>, detail: impl Into<String>) -> Self {
        Self { reason, stream: stream.cloned(), detail: detail.into() }
    }

    fn segment(error: SegmentError, stream: Option<&StreamId>) -> Self {
        Self::new(error.reason(), stream, error.to_string())
    }

    fn signed(error: &SignedError) -> Self {
        Self::new(error.reason(), None, error.to_string())
    }
}

/// A segment that `origin` sent on `lane`.
pub fn segment(
    book: &Book,
    origin: &RegionId,
    lane: Lane,
    encoded: Bytes,
    now: Timestamp,
) -> Result<SegmentWrite, Refused> {
    let segment = Segment::parse(encoded.clone()).map_err(|error| Refused::segment(error, None))?;
    let stream = segment.stream();
    if stream.origin != *origin || stream.lane != lane {
        let what = "the segment is of another origin or lane than its sender";
        return Err(Refused::new(Reason::ProtocolViolation, Some(stream), what));
    }
    let terms = terms_for(book, stream, origin)?;
    // All who may read it can, and nobody else; who was struck off may stand in older seals.
    let sealed_to = |party: &RegionId| segment.parties().any(|wrapped| wrapped == party);
    if !segment.parties().all(|party| terms.agreement.has_party(party))
        || !terms.live.iter().all(sealed_to)
    {
        let what = "the segment is sealed to others than the parties";
        return Err(Refused::new(Reason::NotAParty, Some(stream), what));
    }
    let key = book.signing_key(origin, &segment.key_id(), now);
    let key = key.ok_or_else(|| unknown_region(origin))?;
    segment.verify(&key).map_err(|error| Refused::segment(error, Some(stream)))?;
    #[cfg(feature = "known-bad")]
    storage::known_bad::pass(storage::known_bad::Point::SegmentVerified);
    Ok(SegmentWrite {
        stream: stream.clone(),
        before: segment.before(),
        after: segment.after(),
        encoded,
        recipients: terms.recipients(origin).cloned().collect(),
        now,
    })
}

/// A receipt that `party` sent of itself.
pub fn receipt(
    book: &Book,
    party: &RegionId,
    object: &SignedObject,
    now: Timestamp,
) -> Result<GatewayReceipt, Refused> {
    let key = book.signing_key(party, key_id_of(object), now);
    let key = key.ok_or_else(|| unknown_region(party))?;
    let receipt = Receipt::verify(object, &key).map_err(|error| Refused::signed(&error))?;
    let stream = receipt.stream;
    if receipt.party != *party || stream.origin == *party {
        let what = "the receipt is of another region, or of a stream of its own";
        return Err(Refused::new(Reason::NotAParty, Some(&stream), what));
    }
    let terms = terms_for(book, &stream, party)?;
    Ok(GatewayReceipt {
        recipients: terms.recipients(&stream.origin).cloned().collect(),
        stream,
        party: receipt.party,
        position: receipt.position,
        signed: object.encode_to_vec().into(),
        now,
    })
}

/// A head of a stream that `origin` writes.
pub fn head(
    book: &Book,
    origin: &RegionId,
    object: &SignedObject,
    now: Timestamp,
) -> Result<(StreamId, Bytes), Refused> {
    let key = book.signing_key(origin, key_id_of(object), now);
    let key = key.ok_or_else(|| unknown_region(origin))?;
    let head = Head::verify(object, &key).map_err(|error| Refused::signed(&error))?;
    if head.stream.origin != *origin {
        let what = "the head is of another region's stream";
        return Err(Refused::new(Reason::NotAParty, Some(&head.stream), what));
    }
    terms_for(book, &head.stream, origin)?;
    Ok((head.stream, object.encode_to_vec().into()))
}

/// An agreement version that `peer` shows; `None` when it is known already.
pub fn agreement(
    book: &Book,
    peer: &RegionId,
    object: &SignedObject,
) -> Result<Option<(Agreement, AgreementRow)>, Refused> {
    let sha256 = seal::key::sha256(&object.body);
    let versions = book.versions_of(peer).into_iter();
    // Many signatures are not verified again each time a region connects.
    if versions
        .filter_map(|version| book.terms(version))
        .any(|terms| terms.agreement.sha256 == sha256)
    {
        return Ok(None);
    }
    let signed: Bytes = object.encode_to_vec().into();
    let unbelieved = |error: TrustError| Refused::new(error.reason(), None, error.to_string());
    let before = book.before(&seal::trust::read_agreement(object).map_err(unbelieved)?);
    let before = before.as_ref().map(|before| &before.agreement);
    let agreement = seal::trust::agreement(object, before, &book.trust()).map_err(unbelieved)?;
    let earlier = book.earlier(&agreement, SHORT_VERSIONS_MAX);
    if agreement.short_versions(earlier.iter().map(|terms| &terms.agreement)) > SHORT_VERSIONS_MAX {
        let what = "too many versions in a row that not all parties have signed";
        return Err(Refused::new(Reason::LimitExceeded, None, what));
    }
    // Who leaves says so itself.
    let leaves = before.is_some_and(|before| before.has_party(peer));
    if !agreement.has_party(peer) && !leaves {
        return Err(Refused::new(
            Reason::NotAParty,
            None,
            "the sender is no party of the agreement",
        ));
    }
    let row = AgreementRow {
        agreement: agreement.agreement_id,
        version: agreement.version,
        sha256: agreement.sha256,
        signed,
    };
    Ok(Some((agreement, row)))
}

/// A proposal that `peer` shows, with its good signatures alone; `None` where it is an agreement already.
pub fn proposal(
    book: &Book,
    peer: &RegionId,
    object: &SignedObject,
    now: Timestamp,
) -> Result<Option<Proposal>, Refused> {
    let unbelieved = |error: ProposalError| Refused::new(error.reason(), None, error.to_string());
    let proposed = seal::proposal::read(object).map_err(unbelieved)?;
    if let Some(terms) = book.terms((proposed.agreement_id, proposed.version)) {
        let what = "another text of this version is agreed already";
        let other = || Refused::new(Reason::AgreementSuperseded, None, what);
        return if terms.agreement.sha256 == proposed.sha256 { Ok(None) } else { Err(other()) };
    }
    let before = book.before(&proposed);
    let before = before.as_ref().map(|before| &before.agreement);
    if !proposed.has_party(peer) && before.is_none_or(|before| !before.has_party(peer)) {
        let what = "the sender is no party of the proposal, nor of the version before";
        return Err(Refused::new(Reason::NotAParty, None, what));
    }
    let proposal = Proposal::verify(object, before, &book.trust(), now).map_err(unbelieved)?;
    Ok(Some(proposal))
}

/// A range of a stream that `origin` writes, each packaging of which is to be deleted.
pub fn replace(
    book: &Book,
    origin: &RegionId,
    replace: pb::Replace,
) -> Result<(StreamId, (u64, u64)), Refused> {
    let pb::Replace { stream, from_seq, to_seq } = replace;
    let stream = stream
        .and_then(|stream| StreamId::try_from(stream).ok())
        .filter(|_| (1..=to_seq).contains(&from_seq))
        .ok_or_else(|| Refused::new(Reason::FieldInvalid, None, "there is no such range"))?;
    if stream.origin != *origin {
        let what = "the range is of a stream of another";
        return Err(Refused::new(Reason::NotAParty, Some(&stream), what));
    }
    terms_for(book, &stream, origin)?;
    Ok((stream, (from_seq, to_seq)))
}

/// A stream of which `recipient` wants more.
pub fn want(book: &Book, recipient: &RegionId, want: pb::Want) -> Result<(StreamId, u64), Refused> {
    let pb::Want { stream, from_seq, to_seq: _ } = want;
    let stream = stream
        .and_then(|stream| StreamId::try_from(stream).ok())
        .filter(|_| from_seq > 0)
        .ok_or_else(|| Refused::new(Reason::FieldInvalid, None, "the want names no place"))?;
    if stream.origin == *recipient {
        let what = "the want is for a stream of its sender";
        return Err(Refused::new(Reason::NotAParty, Some(&stream), what));
    }
    terms_for(book, &stream, recipient)?;
    Ok((stream, from_seq))
}

/// The terms of a stream, if they are known and `region` and the origin are parties.
pub fn terms_for(book: &Book, stream: &StreamId, region: &RegionId) -> Result<Arc<Terms>, Refused> {
    let Some(terms) = book.terms_of(stream) else {
        let what = "the agreement version is not known here";
        return Err(Refused::new(Reason::AgreementUnknown, Some(stream), what));
    };
    if terms.admits(region) && terms.admits(&stream.origin) {
        Ok(terms)
    } else {
        let what = "the region is no party of the agreement version";
        Err(Refused::new(Reason::NotAParty, Some(stream), what))
    }
}

fn unknown_region(region: &RegionId) -> Refused {
    Refused::new(Reason::RegionUnknown, None, format!("{region} is not in the directory"))
}
