//! From verified bytes to rows: who signed, does it join on, whose record is it, of what use is it.

use crate::book::Book;
use crate::receive::Outcome;
use bytes::Bytes;
use domain::erasure::Erase;
use domain::kernel::{Kind, Lane, Reason, RecordId, RegionId, Revision, Timestamp, TrustAge};
use domain::stream::{Parent, Position, StreamId};
use domain::transfer::Offer;
use prost::Message as _;
use proto::convert::entry::{self, Entry};
use proto::convert::record;
use proto::convert::transfer::Word;
use proto::convert::view::ViewHead;
use proto::device::v1 as device;
use proto::kernel::v1::{self as kernel, SignedObject};
use proto::splice::splice;
use seal::segment::{SaltedEntry, Segment};
use seal::signed::SignedError;
use seal::transfer::{self, Proof};
use storage::region::{
    Apply, Claim, InboxEntry, InboxItem, Offered, ParkedEntry, TransferWord, ViewRow,
};

/// Verifies and opens segments of one stream from where the cursor stands. Pure.
///
/// # Errors
/// With the outcome to report, when nothing of the range may be applied.
pub fn open(
    book: &Book,
    cursor: Position,
    segments: &[Segment],
    now: Timestamp,
) -> Result<Option<Apply>, Outcome> {
    let Some(first) = segments.first() else { return Ok(None) };
    let stream = first.stream().clone();
    let refuse = |reason| Outcome::Refused(cursor, reason);
    // Before anything is waited for: what is sealed to others was handed on by who must not.
    if !segments.iter().all(|segment| segment.parties().any(|party| *party == book.region)) {
        return Err(refuse(Reason::NotAParty));
    }
    let agreement =
        book.agreement(stream.agreement, stream.version).ok_or(refuse(Reason::AgreementUnknown))?;
    if stream.origin == book.region || !agreement.has_party(&stream.origin) {
        return Err(refuse(Reason::NotAParty));
    }
    if book.find_party(agreement, &stream.origin).is_none() {
        return Err(refuse(Reason::RegionRevoked));
    }
    let mut reached = cursor;
    let mut entries = Vec::new();
    // No line is open for these then; a file may bring them.
    if stream.lane != Lane::Alert && book.trust.age(now) == TrustAge::Lapsed {
        return Err(refuse(Reason::TrustStale));
    }
    // An alert is shown as it is, whatever is known of who sent it.
    let unconfirmed = stream.lane != Lane::Alert && book.trust.age(now) > TrustAge::Fresh;
    let source = device::ViewSource { unconfirmed, ..source(&stream) };
    let parents = Vec::new();
    let agreement_sha256 = agreement.sha256;
    let mut reader = Reader { book, stream: &stream, agreement_sha256, source, parents };
    for segment in segments {
        if segment.last_seq() <= reached.seq {
            continue;
        }
        let key = book.trust.key_of(&stream.origin, &segment.key_id(), now);
        let key = key.ok_or(refuse(Reason::RegionRevoked))?;
        segment.verify(&key).map_err(|error| refuse(error.reason()))?;
        if segment.before().seq > reached.seq {
            break;
        }
        let opened = match book.open(segment) {
            Ok(opened) => opened,
            Err(error) => return Err(refuse(error.reason())),
        };
        reached = reader
            .extend(segment, reached, opened, &mut entries)
            .ok_or(refuse(Reason::StreamForked))?;
    }
    if reached == cursor {
        let beyond = segments.iter().any(|segment| segment.last_seq() > cursor.seq);
        return if beyond { Err(Outcome::Gap(cursor)) } else { Ok(None) };
    }
    let parents = reader.parents;
    Ok(Some(Apply { stream, before: cursor, after: reached, entries, parents, now }))
}

/// What entries that were parked come to now, without those that still cannot be used. Pure.
pub fn reopen(
    book: &Book,
    stream: &StreamId,
    parked: Vec<ParkedEntry>,
    now: Timestamp,
) -> Vec<InboxEntry> {
    let Some(agreement) = book.agreement(stream.agreement, stream.version) else {
        return Vec::new();
    };
    if book.find_party(agreement, &stream.origin).is_none() {
        return Vec::new();
    }
    let unconfirmed = stream.lane != Lane::Alert && book.trust.age(now) > TrustAge::Fresh;
    let source = device::ViewSource { unconfirmed, ..source(stream) };
    let agreement_sha256 = agreement.sha256;
    let mut reader = Reader { book, stream, agreement_sha256, source, parents: Vec::new() };
    let item = |ParkedEntry { seq, salt, entry }| {
        let item = reader.item(seq, SaltedEntry { salt, entry });
        (!matches!(item, InboxItem::Parked { .. })).then_some(InboxEntry { seq, item })
    };
    parked.into_iter().filter_map(item).collect()
}

/// Reads the entries of one stream.
struct Reader<'a> {
    book: &'a Book,
    stream: &'a StreamId,
    agreement_sha256: [u8; 32],
    /// Where the entry comes from that is read.
    source: device::ViewSource,
    /// The epochs that the stream's own follows, once its first entry was read.
    parents: Vec<Parent>,
}

impl Reader<'_> {
    /// Adds a segment's entries after `reached`; entries before it were applied from another packaging and
    /// must have led to the same hash. `None` when they did not.
    fn extend(
        &mut self,
        segment: &Segment,
        reached: Position,
        opened: Vec<(Position, SaltedEntry)>,
        entries: &mut Vec<InboxEntry>,
    ) -> Option<Position> {
        let before = segment.before();
        if before.seq == reached.seq && before != reached {
            return None;
        }
        for (position, salted) in opened {
            if position.seq < reached.seq {
                continue;
            }
            if position.seq == reached.seq {
                if position != reached {
                    return None;
                }
                continue;
            }
            let item = self.item(position.seq, salted);
            entries.push(InboxEntry { seq: position.seq, item });
        }
        Some(segment.after())
    }

    /// What an entry comes to. An entry that cannot be used is parked, and the stream moves on.
    fn item(&mut self, seq: u64, salted: SaltedEntry) -> InboxItem {
        self.source.seq = seq;
        let origin = &self.stream.origin;
        let park = |reason, salted: SaltedEntry| InboxItem::Parked {
            reason,
            salt: salted.salt,
            entry: salted.entry,
        };
        if seal::chain::erased(&salted.salt, &salted.entry).is_some() {
            return InboxItem::Control { salt: salted.salt, entry: salted.entry };
        }
        match entry::decode(salted.entry.clone()) {
            Err(reason) => park(reason, salted),
            Ok(Entry::Start { agreement_sha256: named, parents }) => {
                let follows = parents.iter().all(|parent| parent.epoch < self.stream.epoch);
                if seq == 1 && !follows {
                    park(Reason::FieldInvalid, salted)
                } else if seq == 1 && named == self.agreement_sha256 {
                    self.parents = parents;
                    InboxItem::Control { salt: salted.salt, entry: salted.entry }
                } else {
                    park(Reason::AgreementUnknown, salted)
                }
            }
            Ok(Entry::End) => InboxItem::Control { salt: salted.salt, entry: salted.entry },
            Ok(Entry::View(head, view)) => {
                let claim = (head.birth_region.clone(), head.record_id, head.revision.t);
                match self.claim(&claim, &head.transfers) {
                    Some(claim) if head.owner_region == *origin => {
                        InboxItem::View(self.view_row(head, &view, salted, claim))
                    }
                    _ => park(Reason::NotTheOwner, salted),
                }
            }
            Ok(Entry::Erase(erase, transfers)) => {
                let Erase { record_id, kind, birth_region, revision, share_n, entries, .. } = erase;
                let before = entries.last().is_none_or(|(last, _)| *last < seq);
                let claim = self.claim(&(birth_region.clone(), record_id, revision.t), &transfers);
                let Some(claim) = claim.filter(|_| before) else {
                    return park(Reason::NotTheOwner, salted);
                };
                let came = (revision, share_n, claim);
                let gone = self.gone(record_id, kind, birth_region, came, salted);
                InboxItem::Erase(gone, entries)
            }
            Ok(Entry::Leave {
                record_id,
                kind,
                birth_region,
                revision,
                share_n,
                transfers,
                reason: _,
            }) => {
                let claim = self.claim(&(birth_region.clone(), record_id, revision.t), &transfers);
                let Some(claim) = claim else { return park(Reason::NotTheOwner, salted) };
                let came = (revision, share_n, claim);
                InboxItem::Withdrawal(self.gone(record_id, kind, birth_region, came, salted))
            }
            Ok(Entry::Transfer(word)) => match self.word(word) {
                Ok(Some(word)) => {
                    InboxItem::Transfer { word, salt: salted.salt, entry: salted.entry }
                }
                Ok(None) => InboxItem::Control { salt: salted.salt, entry: salted.entry },
                Err(reason) => park(reason, salted),
            },
        }
    }

    /// How it is known that the origin owns a record, which was born there or has changed hands so often; `None` where
    /// it does not.
    fn claim(
        &self,
        (birth, record, t): &(RegionId, RecordId, u32),
        transfers: &[Vec<u8>],
    ) -> Option<Claim> {
        let (origin, trust) = (&self.stream.origin, &self.book.trust);
        if *t == 0 {
            return (birth == origin).then_some(Claim::Proven);
        }
        match transfer::proves((birth, *record), *t, transfers, origin, trust) {
            Proof::Good => Some(Claim::Proven),
            Proof::Unknown => Some(Claim::Unproven),
            Proof::Bad => None,
        }
    }

    /// What a word on an owner says to this region; `None` where it is not for it.
    fn word(&self, word: Word) -> Result<Option<TransferWord>, Reason> {
        let (book, origin) = (self.book, &self.stream.origin);
        let refused = |error: SignedError| error.reason();
        match word {
            Word::Recall(offer) => Ok(Some(TransferWord::Recall(offer))),
            Word::Return(offer, reason) => Ok(Some(TransferWord::Return(offer, reason))),
            Word::Offer { offer: object, enc, sealed } => {
                let offer = transfer::offer(&object, &book.trust).map_err(refused)?;
                if offer.from != *origin || offer.agreement != self.stream.agreement {
                    return Err(Reason::NotTheOwner);
                }
                if offer.to != book.region {
                    return Ok(None);
                }
                if offer.sealed_sha256 != seal::key::sha256(&sealed) {
                    return Err(Reason::EntryUnreadable);
                }
                let open = |key| transfer::open(&book.region, key, enc, &sealed);
                let opened = book.openers().find_map(open);
                let bytes = Bytes::from(opened.ok_or(Reason::EntryUnreadable)?);
                let record = kernel::Record::decode(bytes.clone());
                let record = record.map_err(|_| Reason::EntryUnreadable)?;
                let record = record::decode(record).map_err(|_| Reason::FieldInvalid)?;
                let meta = &record.meta;
                let same = (meta.record_id, meta.kind, &meta.birth_region, meta.revision)
                    == (offer.record_id, offer.kind, &offer.birth_region, offer.revision);
                let claim = (offer.birth_region.clone(), offer.record_id, offer.revision.t);
                // What is not proven is not taken over.
                let owns = self.claim(&claim, &meta.transfers) == Some(Claim::Proven);
                if !same || !owns || meta.owner_region != *origin || meta.author_ref.is_some() {
                    return Err(Reason::NotTheOwner);
                }
                let expires_at = meta.expires_at;
                let offered = offered(offer, origin.clone(), &object, expires_at);
                Ok(Some(TransferWord::Offer(offered, bytes)))
            }
            Word::Accept(object) => {
                let accept = transfer::accept(&object, &book.trust).map_err(refused)?;
                let domain::transfer::Accept { offer, revision, .. } = accept;
                let next = (offer.revision.t.checked_add(1), offer.revision.n.checked_add(1));
                if offer.to != *origin || (Some(revision.t), Some(revision.n)) != next {
                    return Err(Reason::NotTheOwner);
                }
                if offer.from != book.region {
                    return Ok(None);
                }
                let signed = proto::convert::transfer::decode_accept(&object.body);
                let signed = signed.map_err(|_| Reason::EntryUnreadable)?.offer;
                // As long as any of its kind, where this region does not know the offer.
                let days = offer.kind.retention_class().days();
                let expires_at = offer.offered_at.plus_days(days);
                let offered = offered(offer, origin.clone(), &signed, expires_at);
                Ok(Some(TransferWord::Accept(offered, object.encode_to_vec().into())))
            }
        }
    }

    /// What stays of a record that is no longer shown.
    fn gone(
        &self,
        record_id: RecordId,
        kind: Kind,
        birth_region: RegionId,
        (revision, share_n, claim): (Revision, u64, Claim),
        salted: SaltedEntry,
    ) -> ViewRow {
        let encoded = device::Withdrawal {
            record_id: Bytes::copy_from_slice(record_id.as_bytes()),
            kind: kind.code(),
            source: Some(self.source.clone()),
            reason: 0,
        };
        ViewRow {
            record_id,
            birth_region,
            kind,
            revision,
            share_n,
            view_sha256: None,
            // A tombstone outlives what it stands for: a view that comes late must not bring it back.
            expires_at: Timestamp::from_micros(i64::MAX),
            encoded: encoded.encode_to_vec().into(),
            salt: salted.salt,
            entry: Some(salted.entry),
            claim,
        }
    }

    /// A [`device::NeighbourView`] whose view stays as it came: it is not encoded again, and a field that
    /// this release does not know reaches whoever knows it.
    fn view_row(&self, head: ViewHead, view: &[u8], salted: SaltedEntry, claim: Claim) -> ViewRow {
        // Over the bytes as they came: a field that this release does not know counts too.
        let view_sha256 = seal::key::sha256(&salted.entry);
        let source = self.source.encode_to_vec();
        ViewRow {
            record_id: head.record_id,
            birth_region: head.birth_region,
            kind: head.kind,
            revision: head.revision,
            share_n: head.share_n,
            view_sha256: Some(view_sha256),
            expires_at: head.expires_at,
            encoded: splice(None, &[(1, view), (2, &source)], &()),
            salt: salted.salt,
            // Kept twice only if it would not come out of the view again as it came.
            entry: (!entry::is_plain(&salted.entry, view)).then_some(salted.entry),
            claim,
        }
    }
}

/// An offer as it is kept, by or to this other region.
pub fn offered(
    offer: Offer,
    party: RegionId,
    signed: &SignedObject,
    expires_at: Timestamp,
) -> Offered {
    Offered {
        offer_sha256: transfer::offer_sha256(signed),
        record_id: offer.record_id,
        birth_region: offer.birth_region,
        kind: offer.kind,
        revision: offer.revision,
        party,
        agreement: offer.agreement,
        offered_at: offer.offered_at,
        expires_at,
        offer: signed.encode_to_vec().into(),
    }
}

/// What those are told who were shown what is quarantined now.
pub fn quarantined(stream: &StreamId, record_id: RecordId, kind: Kind) -> Bytes {
    let withdrawal = device::Withdrawal {
        record_id: Bytes::copy_from_slice(record_id.as_bytes()),
        kind: kind.code(),
        source: Some(source(stream)),
        reason: Reason::RecordQuarantined.code(),
    };
    withdrawal.encode_to_vec().into()
}

fn source(stream: &StreamId) -> device::ViewSource {
    device::ViewSource {
        origin_region: stream.origin.to_string(),
        agreement_id: Bytes::copy_from_slice(stream.agreement.as_bytes()),
        agreement_version: stream.version,
        lane: stream.lane.code(),
        seq: 0,
        unconfirmed: false,
    }
}

#[cfg(test)]
mod tests;
