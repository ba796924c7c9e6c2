//! `TransferService`: records that change their owner.

use super::{Services, device::region_or_own};
use crate::hosted::{Caller, Hosted};
use crate::operations::decode_record;
use crate::shares::shares;
use crate::status::{malformed, refuse, refuse_field, unreadable, unwritten};
use crate::transfer::{say, signed};
use bytes::Bytes;
use domain::guard;
use domain::kernel::{Reason, RecordId, RegionId, Revision};
use domain::record::Record;
use domain::sharing::may_transfer;
use domain::stream::Shown;
use domain::transfer::{Direction, Offer, ReturnReason, TRANSFERS_MAX, TransferState};
use exchange::book::{Book, SignedAgreement};
use exchange::open::offered;
use prost::Message as _;
use proto::agreement::v1 as pb;
use proto::agreement::v1::transfer_service_server::TransferService;
use proto::convert;
use proto::convert::kernel::encode_time;
use proto::convert::transfer::Word;
use proto::convert::view::Outgoing;
use proto::kernel::v1 as kernel;
use storage::region::{
    Base, CommitVerdict, RecordRow, RecordWrite, ShareWrite, Step, TransferRow, TransferStep,
};
use tonic::{Request, Response, Status};

/// How often a step is decided again when its ground moves.
const TRIES_MAX: usize = 8;
/// Offers that are listed.
const TRANSFERS_LISTED_MAX: u32 = 1_000;

#[tonic::async_trait]
impl TransferService for Services {
    async fn offer_record(
        &self,
        request: Request<pb::OfferRecordRequest>,
    ) -> Result<Response<pb::OfferRecordResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.TransferService/OfferRecord").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let record = RecordId::from_slice(&request.record_id)
            .ok_or_else(|| refuse_field("record_id", "must be a UUIDv7 in 16 bytes"))?;
        let etag = request.etag.map(Revision::try_from).transpose();
        let etag = etag.map_err(|violations| malformed(&violations))?;
        let to = region_or_own(&request.to_region, region.region())?;
        region.disclose(&caller, purpose, "OfferRecord", (0, 0), 1).await.map_err(unwritten)?;
        let row = offer(&region, record, etag, &to).await?;
        Ok(Response::new(pb::OfferRecordResponse { transfer: Some(told(&region, row)?) }))
    }

    async fn recall_offer(
        &self,
        request: Request<pb::RecallOfferRequest>,
    ) -> Result<Response<pb::RecallOfferResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.TransferService/RecallOffer").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let offer = named(&request.offer_sha256)?;
        region.disclose(&caller, purpose, "RecallOffer", (0, 0), 1).await.map_err(unwritten)?;
        let row = decided(&region, offer, Direction::Out, |row| Ok(recall(&region, row))).await?;
        Ok(Response::new(pb::RecallOfferResponse { transfer: Some(told(&region, row)?) }))
    }

    async fn accept_offer(
        &self,
        request: Request<pb::AcceptOfferRequest>,
    ) -> Result<Response<pb::AcceptOfferResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.TransferService/AcceptOffer").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let offer = named(&request.offer_sha256)?;
        region.disclose(&caller, purpose, "AcceptOffer", (0, 0), 1).await.map_err(unwritten)?;
        let step = |row: &TransferRow| accept(&region, &caller, row);
        let row = decided(&region, offer, Direction::In, step).await?;
        Ok(Response::new(pb::AcceptOfferResponse { transfer: Some(told(&region, row)?) }))
    }

    async fn return_offer(
        &self,
        request: Request<pb::ReturnOfferRequest>,
    ) -> Result<Response<pb::ReturnOfferResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.TransferService/ReturnOffer").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let offer = named(&request.offer_sha256)?;
        let reason = ReturnReason::try_from(request.reason).ok();
        let reason = reason.filter(|reason| *reason != ReturnReason::Recalled);
        let reason = reason.ok_or_else(|| {
            refuse_field("reason", "must be NOT_HERE, NOT_COMPETENT or INCOMPLETE")
        })?;
        region.disclose(&caller, purpose, "ReturnOffer", (0, 0), 1).await.map_err(unwritten)?;
        let step = |row: &TransferRow| {
            let word = Word::Return(row.offered.offer_sha256, reason);
            let said = say(&region, &region.book(), row.offered.agreement, word);
            Ok((Step::Return(reason), said.into_iter().collect()))
        };
        let row = decided(&region, offer, Direction::In, step).await?;
        Ok(Response::new(pb::ReturnOfferResponse { transfer: Some(told(&region, row)?) }))
    }

    async fn list_transfers(
        &self,
        request: Request<pb::ListTransfersRequest>,
    ) -> Result<Response<pb::ListTransfersResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.agreement.v1.TransferService/ListTransfers").await?;
        let purpose = super::purpose(request.into_inner().purpose)?;
        let rows = region.store.list_transfers(TRANSFERS_LISTED_MAX).await;
        let rows = rows.map_err(|error| unreadable(&error))?.into_iter();
        let transfers = rows.map(|row| told(&region, row)).collect::<Result<Vec<_>, _>>()?;
        let shown = transfers.len();
        region
            .disclose(&caller, purpose, "ListTransfers", (0, 0), shown)
            .await
            .map_err(unwritten)?;
        Ok(Response::new(pb::ListTransfersResponse { transfers }))
    }
}

fn named(offer_sha256: &[u8]) -> Result<[u8; 32], Status> {
    offer_sha256.try_into().map_err(|_| refuse_field("offer_sha256", "must be 32 bytes"))
}

async fn found(
    region: &Hosted,
    offer_sha256: &[u8; 32],
    direction: Direction,
) -> Result<TransferRow, Status> {
    let row = region.store.find_transfer(offer_sha256).await;
    let row = row.map_err(|error| unreadable(&error))?;
    row.filter(|row| row.direction == direction).ok_or_else(|| refuse(Reason::RecordNotFound))
}

/// Does a step about an offer that stands; one that was done before is told again.
async fn decided(
    region: &Hosted,
    offer_sha256: [u8; 32],
    direction: Direction,
    step: impl Fn(&TransferRow) -> Result<(Step, Vec<ShareWrite>), Status>,
) -> Result<TransferRow, Status> {
    for _ in 0..TRIES_MAX {
        let turns = region.store.turns();
        let row = found(region, &offer_sha256, direction).await?;
        let (step, shares) = step(&row)?;
        let done = matches!(
            (&step, row.state),
            (Step::Recall, TransferState::Recalled)
                | (Step::Accept { .. }, TransferState::Accepted)
                | (Step::Return(_) | Step::TakeBack, TransferState::Returned)
        );
        if done {
            return Ok(row);
        }
        let may = row.state == TransferState::Offered
            || matches!(step, Step::TakeBack) && row.state.is_open();
        if !may {
            return Err(refuse(Reason::OfferDecided));
        }
        let step = TransferStep { offer_sha256, step, shares, turns, now: region.now() };
        if region.store.transfer(step).await.map_err(unwritten)? == CommitVerdict::Done {
            return found(region, &offer_sha256, direction).await;
        }
    }
    Err(refuse(Reason::ServerBusy))
}

/// Offers a record; one that is offered to the same region is told again.
async fn offer(
    region: &Hosted,
    record: RecordId,
    etag: Option<Revision>,
    to: &RegionId,
) -> Result<TransferRow, Status> {
    if to == region.region() {
        return Err(refuse_field("to_region", "must be another region"));
    }
    for _ in 0..TRIES_MAX {
        let turns = region.store.turns();
        let known = region.store.list_transfers_of(record).await;
        let known = known.map_err(|error| unreadable(&error))?;
        let mut open = known.iter().filter(|row| row.direction == Direction::Out);
        if let Some(open) = open.find(|row| row.state.is_open()) {
            let same = open.offered.party == *to;
            return if same { Ok(open.clone()) } else { Err(refuse(Reason::RecordOffered)) };
        }
        let row = region.store.find_record(record).await.map_err(|error| unreadable(&error))?;
        let Some(row) = row else {
            let gone = known.iter().any(|row| row.direction == Direction::Out);
            return Err(refuse(if gone { Reason::NotTheOwner } else { Reason::RecordNotFound }));
        };
        if etag.is_some_and(|etag| etag != row.revision) {
            return Err(refuse(Reason::RevisionStale));
        }
        let step = offering(region, row, to, turns)?;
        let offer_sha256 = step.offer_sha256;
        if region.store.transfer(step).await.map_err(unwritten)? == CommitVerdict::Done {
            return found(region, &offer_sha256, Direction::Out).await;
        }
    }
    Err(refuse(Reason::ServerBusy))
}

/// The record, whole but for who wrote it, sealed to the other and signed.
fn offering(
    region: &Hosted,
    row: RecordRow,
    to: &RegionId,
    turns: u64,
) -> Result<TransferStep, Status> {
    let (book, now) = (region.book(), region.now());
    let record = decode_record(&row.encoded).ok_or_else(|| refuse(Reason::Internal))?;
    if record.meta.transfers.len() >= TRANSFERS_MAX {
        return Err(refuse(Reason::LimitExceeded));
    }
    // A record may be older than the guard.
    if record.body.texts().iter().any(|(_, text)| guard::find(text).is_some()) {
        return Err(refuse(Reason::TextNamesPerson));
    }
    let signed = granting(region, &book, &record, to)?;
    let agreement = signed.agreement.agreement_id;
    let party = book.find_party(&signed.agreement, to).ok_or_else(|| refuse(Reason::NotAParty))?;
    let mut plain = convert::record::encode(&record);
    if let Some(meta) = &mut plain.meta {
        meta.author_ref.clear();
    }
    let sealed = seal::transfer::seal(to, &party.sealing_key, &plain.encode_to_vec());
    let (enc, sealed) = sealed.ok_or_else(|| refuse(Reason::Internal))?;
    let offer = Offer {
        record_id: record.meta.record_id,
        kind: record.meta.kind,
        birth_region: record.meta.birth_region.clone(),
        revision: record.meta.revision,
        from: region.region.clone(),
        to: to.clone(),
        agreement,
        sealed_sha256: seal::key::sha256(&sealed),
        offered_at: now,
    };
    let object = seal::transfer::sign_offer(&offer, &book.signing);
    let offered = offered(offer, to.clone(), &object, record.meta.expires_at);
    let word = Word::Offer { offer: object, enc, sealed };
    let said = say(region, &book, agreement, word).ok_or_else(|| refuse(Reason::NotAParty))?;
    // The content goes with the record.
    let shares = vec![ShareWrite { expires_at: record.meta.expires_at, ..said }];
    let base = Base { revision: row.revision, shown: row.shown };
    let offer_sha256 = offered.offer_sha256;
    Ok(TransferStep { offer_sha256, step: Step::Offer(offered, base), shares, turns, now })
}

/// The agreement in force that lets a record be handed over to a region.
fn granting<'a>(
    region: &Hosted,
    book: &'a Book,
    record: &Record,
    to: &RegionId,
) -> Result<&'a SignedAgreement, Status> {
    book.find_region(to).ok_or_else(|| refuse(Reason::RegionUnknown))?;
    let mut with = region.in_force(book).filter(|of| book.find_party(&of.agreement, to).is_some());
    let grants = |of: &&SignedAgreement| {
        may_transfer(record, &of.agreement, book.directory(), region.now()).is_none()
    };
    with.find(grants).ok_or_else(|| refuse(Reason::TransferNotGranted))
}

/// Asks for a record back. Of who is no live party any more, no answer comes.
fn recall(region: &Hosted, row: &TransferRow) -> (Step, Vec<ShareWrite>) {
    let (book, offered) = (region.book(), &row.offered);
    let mut versions = region.in_force(&book).map(|signed| &signed.agreement);
    let live = versions.any(|agreement| {
        agreement.agreement_id == offered.agreement
            && book.find_party(agreement, &offered.party).is_some()
    });
    let said = say(region, &book, offered.agreement, Word::Recall(offered.offer_sha256));
    match said.filter(|_| live) {
        Some(said) => (Step::Recall, vec![said]),
        None => (Step::TakeBack, Vec::new()),
    }
}

/// Becomes the owner of a record: its next revision is this region's, and is shared under this region's agreements.
fn accept(
    region: &Hosted,
    caller: &Caller,
    row: &TransferRow,
) -> Result<(Step, Vec<ShareWrite>), Status> {
    let (book, now, offered) = (region.book(), region.now(), &row.offered);
    let Some(encoded) = &row.record else {
        // Decided before: what was accepted is not accepted anew.
        let accept = row.accept.clone().ok_or_else(|| refuse(Reason::OfferDecided))?;
        let write = Box::new(nothing(row));
        return Ok((Step::Accept { accept, write }, Vec::new()));
    };
    let mut in_force = region.in_force(&book).map(|signed| &signed.agreement);
    let agreement = in_force.find(|of| of.agreement_id == offered.agreement && of.in_force(now));
    let agreement = agreement.ok_or_else(|| refuse(Reason::TransferNotGranted))?;
    book.find_party(agreement, &offered.party).ok_or_else(|| refuse(Reason::RegionRevoked))?;
    let mut record = decode_record(encoded).ok_or_else(|| refuse(Reason::Internal))?;
    let meta = &mut record.meta;
    let Revision { t, n, .. } = meta.revision;
    meta.revision =
        Revision { t: t.saturating_add(1), epoch: region.store.epoch(), n: n.saturating_add(1) };
    let offer = signed(&offered.offer).ok_or_else(|| refuse(Reason::Internal))?;
    let signer = (&region.region, &book.signing);
    let object = seal::transfer::sign_accept(offer, meta.revision, now, signer);
    let accept = Bytes::from(object.encode_to_vec());
    meta.owner_region = region.region.clone();
    meta.transfers.push(accept.to_vec());
    (meta.recorded_at, meta.received_at, meta.clock_offset_ms) = (now, now, 0);
    meta.author_unit = caller.unit.clone();
    meta.expires_at = now.plus_days(meta.retention_class.days());
    let (outgoing, mut shown) = (Outgoing::new(&record), Shown::default());
    let said = say(region, &book, offered.agreement, Word::Accept(object));
    let mut said = vec![said.ok_or_else(|| refuse(Reason::NotAParty))?];
    said.extend(shares(region, &book, &record, &outgoing, &mut shown, now));
    let encoded = outgoing.record();
    let meta = &record.meta;
    let write = RecordWrite {
        revision: meta.revision,
        received_at: now,
        retention_class: meta.retention_class,
        expires_at: meta.expires_at,
        encoded,
        shown,
        ..nothing(row)
    };
    Ok((Step::Accept { accept, write: Box::new(write) }, said))
}

/// A write of the offered record, without content.
fn nothing(row: &TransferRow) -> RecordWrite {
    let offered = &row.offered;
    RecordWrite {
        record_id: offered.record_id,
        kind: offered.kind,
        base: None,
        revision: offered.revision,
        received_at: offered.offered_at,
        retention_class: offered.kind.retention_class(),
        expires_at: offered.offered_at,
        encoded: Bytes::new(),
        shown: Shown::default(),
        shares: Vec::new(),
    }
}

fn told(region: &Hosted, row: TransferRow) -> Result<pb::Transfer, Status> {
    let TransferRow { offered, direction, state, record, .. } = row;
    let own = region.region.to_string();
    let party = offered.party.to_string();
    let (from_region, to_region) = match direction {
        Direction::Out => (own, party),
        Direction::In => (party, own),
    };
    let record = record.map(kernel::Record::decode).transpose();
    Ok(pb::Transfer {
        offer_sha256: Bytes::copy_from_slice(&offered.offer_sha256),
        direction: direction.code(),
        state: state.code(),
        record_id: Bytes::copy_from_slice(offered.record_id.as_bytes()),
        kind: offered.kind.code(),
        birth_region: offered.birth_region.to_string(),
        from_region,
        to_region,
        agreement_id: Bytes::copy_from_slice(offered.agreement.as_bytes()),
        revision: Some((&offered.revision).into()),
        offer_time: Some(encode_time(offered.offered_at)),
        decide_time: row.decided_at.map(encode_time),
        return_reason: row.return_reason.map_or(0, |reason| reason.code()),
        record: record.map_err(|_| refuse(Reason::Internal))?,
    })
}
