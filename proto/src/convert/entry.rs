//! What is numbered in a stream.

use super::kernel::{encode_id, revision};
use super::transfer::{Word, chain, encode_chain};
use super::view::{ENTRY_VIEW, ViewHead, check};
use super::{Door, Path, Rules};
use crate::exchange::v1::{self as pb, entry::Entry as Wire};
use crate::kernel::v1 as kernel_pb;
use crate::splice::{head, splice};
use bytes::Bytes;
use domain::erasure::{ENTRIES_PER_ERASE_MAX, Erase};
use domain::kernel::{Epoch, Kind, Reason, RecordId, RegionId, Revision};
use domain::record::RecordMeta;
use domain::sharing::{Leave, LeaveReason};
use domain::stream::{Parent, Position};
use prost::Message;

/// Bytes of an encoded entry.
pub const ENTRY_BYTES_MAX: usize = 131_072;
/// Epochs that one may follow: the one before, and those that copies at work have opened beside it.
pub const PARENTS_MAX: usize = 16;

/// An entry that a recipient can use.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Opens a stream.
    Start {
        /// SHA-256 of the body of the signed agreement version.
        agreement_sha256: [u8; 32],
        /// The epochs that the stream's own follows.
        parents: Vec<Parent>,
    },
    /// Another version of the agreement has come into force.
    End,
    /// A record was erased; how it came to its owner, not verified.
    Erase(Erase, Vec<Vec<u8>>),
    /// A word on who owns a record.
    Transfer(Word),
    /// What is needed to file a view, and the view as it came: an encoded [`kernel_pb::View`].
    View(ViewHead, Bytes),
    /// A record is no longer shown.
    Leave {
        /// The record.
        record_id: RecordId,
        /// Its kind.
        kind: Kind,
        /// Where it was born.
        birth_region: RegionId,
        /// Revision that leaves.
        revision: Revision,
        /// Counts what the origin has shown of this record under this agreement.
        share_n: u64,
        /// Why.
        reason: LeaveReason,
        /// How it came to its owner, and with `Transferred` where it went; not verified.
        transfers: Vec<Vec<u8>>,
    },
}

/// The bytes of the first entry of a stream; `predecessor` is the version whose stream it takes the place of, and
/// where that ended; `parents` are the epochs that the stream's own follows.
pub fn encode_start(
    agreement_sha256: &[u8; 32],
    predecessor: Option<(u32, Position)>,
    parents: &[Parent],
) -> Bytes {
    let place = |place: Option<Position>| {
        place.map_or_else(Default::default, |Position { seq, h }| (seq, Bytes::copy_from_slice(&h)))
    };
    let (seq, h) = place(predecessor.map(|(_, end)| end));
    let parent = |parent: &Parent| {
        let (seq, h) = place(parent.last);
        pb::Parent { epoch: encode_id(parent.epoch.as_bytes()), seq, h }
    };
    encode(Wire::Start(pb::Start {
        agreement_sha256: Bytes::copy_from_slice(agreement_sha256),
        predecessor_version: predecessor.map_or(0, |(version, _)| version),
        predecessor_seq: seq,
        predecessor_h: h,
        parents: parents.iter().map(parent).collect(),
    }))
}

/// The bytes of the entry behind which a stream shows nothing new.
pub fn encode_end(successor_version: u32, successor_sha256: &[u8; 32]) -> Bytes {
    let successor_sha256 = Bytes::copy_from_slice(successor_sha256);
    encode(Wire::End(pb::End { successor_version, successor_sha256 }))
}

/// The bytes of a withdrawal.
pub fn encode_leave(meta: &RecordMeta, leave: &Leave) -> Bytes {
    let Leave { share_n, lane: _, reason } = leave;
    encode(Wire::Leave(pb::Leave {
        record_id: encode_id(meta.record_id.as_bytes()),
        kind: meta.kind.code(),
        birth_region: meta.birth_region.as_str().to_owned(),
        revision: Some((&meta.revision).into()),
        share_n: *share_n,
        reason: reason.code(),
        transfers: encode_chain(&meta.transfers),
    }))
}

/// The bytes of a word on who owns a record.
pub fn encode_transfer(word: Word) -> Bytes {
    encode(Wire::Transfer(word.into()))
}

/// The bytes of a word of erasure; `transfers` is how the record came to its owner.
pub fn encode_erase(erase: &Erase, transfers: &[Vec<u8>]) -> Bytes {
    let Erase { record_id, kind, birth_region, revision, share_n, reason, entries } = erase;
    let entry = |(seq, commitment): &(u64, [u8; 32])| pb::ErasedEntry {
        seq: *seq,
        commitment: Bytes::copy_from_slice(commitment),
    };
    encode(Wire::Erase(pb::Erase {
        record_id: encode_id(record_id.as_bytes()),
        kind: kind.code(),
        birth_region: birth_region.as_str().to_owned(),
        revision: Some(revision.into()),
        share_n: *share_n,
        reason: reason.code(),
        entries: entries.iter().map(entry).collect(),
        transfers: encode_chain(transfers),
    }))
}

/// The entry of an encoded view, in its plain wrapping.
pub fn wrap(view: &[u8]) -> Bytes {
    splice(None, &[(ENTRY_VIEW, view)], &())
}

/// Whether an entry is that of its view in its plain wrapping.
pub fn is_plain(entry: &[u8], view: &[u8]) -> bool {
    let head = head(ENTRY_VIEW, view.len());
    entry.strip_prefix(head.as_slice()) == Some(view)
}

fn encode(entry: Wire) -> Bytes {
    pb::Entry { entry: Some(entry) }.encode_to_vec().into()
}

/// A [`pb::Entry`] whose view stays as it came, so that what is checked is what is kept.
#[derive(Clone, PartialEq, Message)]
struct EntryAsSent {
    #[prost(message, optional, tag = "1")]
    start: Option<pb::Start>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    view: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    leave: Option<pb::Leave>,
    #[prost(message, optional, tag = "4")]
    end: Option<pb::End>,
    #[prost(message, optional, tag = "5")]
    erase: Option<pb::Erase>,
    #[prost(message, optional, tag = "6")]
    transfer: Option<pb::Transfer>,
}

/// Reads an entry.
///
/// # Errors
/// The reason under which the entry is parked.
pub fn decode(entry: Bytes) -> Result<Entry, Reason> {
    if entry.len() > ENTRY_BYTES_MAX {
        return Err(Reason::LimitExceeded);
    }
    let sent = EntryAsSent::decode(entry).map_err(|_| Reason::EntryUnreadable)?;
    let EntryAsSent { start, view, leave, end, erase, transfer } = sent;
    let set = [start.is_some(), view.is_some(), leave.is_some(), end.is_some(), erase.is_some()];
    match set.into_iter().chain([transfer.is_some()]).filter(|set| *set).count() {
        1 => {}
        // A newer origin's control entry is a field this release does not know, so none is set.
        0 => return Err(Reason::KindUnknown),
        _ => return Err(Reason::EntryUnreadable),
    }
    if let Some(bytes) = view {
        let view = kernel_pb::View::decode(bytes.clone());
        let head = check(view.map_err(|_| Reason::EntryUnreadable)?);
        return Ok(Entry::View(head.map_err(|refusal| refusal.reason)?, bytes));
    }
    let start = start.map(self::start).or_else(|| leave.map(self::leave));
    let erased = || erase.map(self::erase).or_else(|| transfer.map(self::transfer));
    start.or_else(erased).unwrap_or(Ok(Entry::End))
}

fn transfer(transfer: pb::Transfer) -> Result<Entry, Reason> {
    let word = transfer.word.ok_or(Reason::KindUnknown)?;
    super::transfer::word(word).map(Entry::Transfer)
}

fn start(start: pb::Start) -> Result<Entry, Reason> {
    let mut door = Door::new(Rules::Store);
    let at = Path::from("start");
    let agreement_sha256 = door.array(at.field("agreement_sha256"), &start.agreement_sha256);
    let parent = |door: &mut Door, at: Path<'_>, parent: pb::Parent| {
        let epoch = door.id(at.field("epoch"), &parent.epoch, Epoch::from_slice)?;
        let last = match parent.seq {
            0 => None,
            seq => Some(Position { seq, h: door.array(at.field("h"), &parent.h)? }),
        };
        Some(Parent { epoch, last })
    };
    let parents = door.list(at.field("parents"), start.parents, 0..=PARENTS_MAX, parent);
    let value = agreement_sha256.zip(parents);
    let value = value.map(|(agreement_sha256, parents)| Entry::Start { agreement_sha256, parents });
    door.finish(value).map_err(|_| Reason::FieldInvalid)
}

fn erase(erase: pb::Erase) -> Result<Entry, Reason> {
    let pb::Erase { record_id, kind, birth_region, revision, share_n, reason, entries, transfers } =
        erase;
    let kind = Kind::try_from(kind).map_err(|_| Reason::KindUnknown)?;
    let mut door = Door::new(Rules::Store);
    let at = Path::from("erase");
    let named = named(&mut door, at, (&record_id, &birth_region, revision, share_n));
    let reason = door.code(at.field("reason"), reason);
    let entry = |door: &mut Door, at: Path<'_>, entry: pb::ErasedEntry| {
        let seq = door.number(at.field("seq"), entry.seq, 1..=u64::MAX);
        let commitment = door.array(at.field("commitment"), &entry.commitment);
        Some((seq?, commitment?))
    };
    let entries = door.list(at.field("entries"), entries, 0..=ENTRIES_PER_ERASE_MAX, entry);
    if entries.as_ref().is_some_and(|entries| !entries.is_sorted_by(|(a, _), (b, _)| a < b)) {
        door.refuse::<()>(at.field("entries"), "must ascend");
    }
    let transfers = chain(&mut door, at.field("transfers"), transfers);
    let value = (|| {
        let (record_id, birth_region, revision, share_n) = named?;
        let (reason, entries) = (reason?, entries?);
        let erase = Erase { record_id, kind, birth_region, revision, share_n, reason, entries };
        Some(Entry::Erase(erase, transfers?))
    })();
    door.finish(value).map_err(|_| Reason::FieldInvalid)
}

fn leave(leave: pb::Leave) -> Result<Entry, Reason> {
    let pb::Leave { record_id, kind, birth_region, revision, share_n, reason, transfers } = leave;
    let kind = Kind::try_from(kind).map_err(|_| Reason::KindUnknown)?;
    let mut door = Door::new(Rules::Store);
    let at = Path::from("leave");
    let named = named(&mut door, at, (&record_id, &birth_region, revision, share_n));
    let reason = door.code(at.field("reason"), reason);
    let transfers = chain(&mut door, at.field("transfers"), transfers);
    let value = (|| {
        let (record_id, birth_region, revision, share_n) = named?;
        let (reason, transfers) = (reason?, transfers?);
        let entry =
            Entry::Leave { record_id, kind, birth_region, revision, share_n, reason, transfers };
        Some(entry)
    })();
    door.finish(value).map_err(|_| Reason::FieldInvalid)
}

/// Which record goes, and as what it was last known: its id, where it was born, revision, `share_n`.
fn named(
    door: &mut Door,
    at: Path<'_>,
    (record_id, birth_region, revision, share_n): (&Bytes, &str, Option<kernel_pb::Revision>, u64),
) -> Option<(RecordId, RegionId, Revision, u64)> {
    let record_id = door.id(at.field("record_id"), record_id, RecordId::from_slice);
    let birth_region = door.slug(at.field("birth_region"), birth_region);
    let revision = door
        .required(at.field("revision"), revision)
        .and_then(|revision| self::revision(door, at.field("revision"), revision));
    let share_n = door.number(at.field("share_n"), share_n, 1..=u64::MAX);
    Some((record_id?, birth_region?, revision?, share_n?))
}
