//! What a region holds on disk. A model of `storage::region`: the same decisions, in memory. What was
//! not flushed never comes here, so a crash has nothing to undo.

use super::chance::Chance;
use super::{Bad, linkage};
use bytes::Bytes;
use domain::kernel::{
    AgreementId, EmergencyLevel, Entropy as _, Epoch, Kind, Reason, RecordId, RegionId, Revision,
    Sensitivity, Timestamp,
};
use domain::record::{Body, Record, RecordMeta};
use domain::risk::{Event, EventDomain, EventSource, EventState};
use domain::sharing::{Decision, share};
use domain::stream::{LastShown, Parent, Position, StreamId};
use exchange::book::Book;
use prost::bytes;
use proto::convert::entry;
use proto::convert::view::Outgoing;
use seal::key::sha256;
use std::collections::{BTreeMap, BTreeSet};
use storage::region::{Applied, Apply, DigestRow, InboxItem, OutboxEntry};

/// What a phone did: the whole new content of an event.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) no: u64,
    pub(super) record_id: RecordId,
    pub(super) level: EmergencyLevel,
    pub(super) state: EventState,
    pub(super) category: &'static str,
    pub(super) sensitivity: Sensitivity,
    pub(super) text: String,
}

/// The newest that was shown of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) at: (Revision, u64),
    /// `None` once it was withdrawn.
    pub(super) view_sha256: Option<[u8; 32]>,
}

#[derive(Clone, Debug)]
pub(super) struct OutRow {
    pub(super) row: OutboxEntry,
    /// `None` for the entry that opens a stream.
    pub(super) record: Option<(RecordId, Newest)>,
}

#[derive(Clone, Debug)]
pub(super) struct Inbox {
    pub(super) applied: Position,
    /// Entries that could not be used, and why.
    pub(super) parked: Vec<(u64, Reason)>,
    /// What each entry came to, in the order in which they were applied.
    pub(super) rows: Vec<(u64, Option<DigestRow>)>,
    /// What its first entry says of streams of epochs that the origin has left.
    pub(super) left: Vec<(StreamId, Position)>,
}

#[derive(Clone, Debug)]
pub(super) struct RegionDisk {
    pub(super) epoch: Epoch,
    /// The one before.
    parent: Option<Epoch>,
    pub(super) ops: BTreeSet<u64>,
    pub(super) outbox: BTreeMap<StreamId, Vec<OutRow>>,
    pub(super) inbox: BTreeMap<StreamId, Inbox>,
    pub(super) receipts: BTreeMap<(StreamId, RegionId), Position>,
    /// What neighbours show, by birth region, agreement and record.
    pub(super) views: BTreeMap<(RegionId, AgreementId, RecordId), Newest>,
    /// What this region last showed.
    pub(super) newest: BTreeMap<(RecordId, AgreementId), Newest>,
    revisions: BTreeMap<RecordId, Revision>,
    shown: BTreeMap<(RecordId, AgreementId), LastShown>,
    /// Rows that a bad store wrote behind the cursor and has not flushed.
    late: Vec<Apply>,
}

impl RegionDisk {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            parent: None,
            ops: BTreeSet::new(),
            outbox: BTreeMap::new(),
            inbox: BTreeMap::new(),
            receipts: BTreeMap::new(),
            views: BTreeMap::new(),
            newest: BTreeMap::new(),
            revisions: BTreeMap::new(),
            shown: BTreeMap::new(),
            late: Vec::new(),
        }
    }

    /// How far a stream goes that this region writes.
    pub(super) fn last(&self, stream: &StreamId) -> Position {
        let rows = self.outbox.get(stream).and_then(|rows| rows.last());
        rows.map_or_else(|| seal::chain::start(stream), |last| last.row.position)
    }

    /// The place of `seq` in a stream that this region writes.
    pub(super) fn position(&self, stream: &StreamId, seq: u64) -> Option<Position> {
        let Some(before) = seq.checked_sub(1) else { return Some(seal::chain::start(stream)) };
        let row = self.outbox.get(stream)?.get(usize::try_from(before).ok()?)?;
        Some(row.row.position)
    }

    pub(super) fn streams(&self) -> Vec<(StreamId, Position)> {
        self.outbox.keys().map(|stream| (stream.clone(), self.last(stream))).collect()
    }

    pub(super) fn inboxes(&self) -> Vec<(StreamId, Position, u64)> {
        let row = |(stream, inbox): (&StreamId, &Inbox)| {
            (stream.clone(), inbox.applied, inbox.parked.len() as u64)
        };
        self.inbox.iter().map(row).collect()
    }

    /// Applies an operation unless it was applied before; gives the streams that grew.
    pub(super) fn commit(
        &mut self,
        book: &Book,
        op: &Op,
        now: Timestamp,
        chance: &Chance,
    ) -> BTreeSet<StreamId> {
        let mut grown = BTreeSet::new();
        if !self.ops.insert(op.no) {
            return grown;
        }
        let n = self.revisions.get(&op.record_id).map_or(1, |revision| revision.n + 1);
        let revision = Revision { t: 0, epoch: self.epoch, n };
        self.revisions.insert(op.record_id, revision);
        let record = record(&book.region, op, revision, now);
        for signed in book.agreements.values() {
            let agreement = &signed.agreement;
            let key = (op.record_id, agreement.agreement_id);
            let decision = share(&record, agreement, book.directory(), self.shown.get(&key), now);
            let entry = match &decision {
                Decision::Nothing(_) => continue,
                Decision::Show(decided) => Outgoing::new(&record).entry(decided),
                Decision::Leave(leave) => entry::encode_leave(&record.meta, leave),
            };
            let Some(shown) = decision.shown(self.shown.get(&key), agreement.version) else {
                continue;
            };
            let is_view = matches!(decision, Decision::Show(_));
            let newest = Newest {
                at: (revision, shown.share_n),
                view_sha256: is_view.then(|| sha256(&entry)),
            };
            let stream = StreamId {
                origin: book.region.clone(),
                epoch: self.epoch,
                agreement: agreement.agreement_id,
                version: agreement.version,
                lane: shown.lane,
            };
            self.shown.insert(key, shown);
            self.newest.insert(key, newest);
            self.append(book, &stream, entry, Some((op.record_id, newest)), chance);
            grown.insert(stream);
        }
        grown
    }

    /// Writes what no honest region would into a stream of its own.
    pub(super) fn spoil(&mut self, book: &Book, stream: &StreamId, entry: Bytes, chance: &Chance) {
        self.append(book, stream, entry, None, chance);
    }

    fn append(
        &mut self,
        book: &Book,
        stream: &StreamId,
        entry: Bytes,
        record: Option<(RecordId, Newest)>,
        chance: &Chance,
    ) {
        let before = self.last(stream);
        if before.seq == 0 && record.is_some() {
            let agreement = book.agreement(stream.agreement, stream.version).unwrap();
            let parent = |epoch: &Epoch| {
                let last = self.last(&StreamId { epoch: *epoch, ..stream.clone() });
                Parent { epoch: *epoch, last: Some(last).filter(|last| last.seq > 0) }
            };
            let parents: Vec<_> = self.parent.iter().map(parent).collect();
            let start = entry::encode_start(&agreement.sha256, None, &parents);
            self.append(book, stream, start, None, chance);
            return self.append(book, stream, entry, record, chance);
        }
        let mut salt = [0; 16];
        chance.fill(&mut salt);
        let position = seal::chain::extend(before, &seal::chain::commitment(&salt, &entry));
        let expires_at = linkage::START.plus_days(4_000);
        let row = OutboxEntry { position, salt, entry, expires_at };
        self.outbox.entry(stream.clone()).or_default().push(OutRow { row, record });
    }

    /// Applies a range of a neighbour's stream when it begins at the cursor.
    pub(super) fn apply(&mut self, apply: &Apply, bad: Option<Bad>) -> Applied {
        let inbox = self.inbox.entry(apply.stream.clone()).or_insert_with(|| Inbox {
            applied: seal::chain::start(&apply.stream),
            parked: Vec::new(),
            rows: Vec::new(),
            left: Vec::new(),
        });
        inbox.left.extend(apply.left());
        let joins =
            inbox.applied == apply.before || matches!(bad, Some(Bad::NoDedupe | Bad::AnyOrder));
        if joins {
            if apply.after.seq > inbox.applied.seq {
                inbox.applied = apply.after;
            }
            if bad == Some(Bad::CursorBeforeViews) {
                self.late.push(apply.clone());
            } else {
                self.write(apply);
            }
        }
        let inbox = &self.inbox[&apply.stream];
        Applied { position: inbox.applied, parked_count: inbox.parked.len() as u64, cloned: false }
    }

    fn write(&mut self, apply: &Apply) {
        let inbox = self.inbox.get_mut(&apply.stream).unwrap();
        for entry in &apply.entries {
            let (InboxItem::View(row) | InboxItem::Withdrawal(row)) = &entry.item else {
                if let InboxItem::Parked { reason, .. } = &entry.item {
                    inbox.parked.push((entry.seq, *reason));
                }
                inbox.rows.push((entry.seq, None));
                continue;
            };
            let digest = row.view_sha256.map(|view_sha256| DigestRow {
                record_id: row.record_id,
                revision: row.revision,
                share_n: row.share_n,
                view_sha256,
            });
            inbox.rows.push((entry.seq, digest));
            let newest = Newest { at: (row.revision, row.share_n), view_sha256: row.view_sha256 };
            let key = (row.birth_region.clone(), apply.stream.agreement, row.record_id);
            let held = self.views.entry(key).or_insert(newest);
            if held.at < newest.at {
                *held = newest;
            }
        }
    }

    /// What a bad store left behind the cursor reaches the disk at last.
    pub(super) fn write_late(&mut self) {
        for apply in std::mem::take(&mut self.late) {
            self.write(&apply);
        }
    }

    /// What was not flushed is gone.
    pub(super) fn crash(&mut self) {
        self.late.clear();
    }

    pub(super) fn keep_receipt(&mut self, stream: StreamId, party: RegionId, at: Position) {
        let held = self.receipts.entry((stream, party)).or_insert(at);
        if held.seq < at.seq {
            *held = at;
        }
    }

    /// Opens an epoch after a restore: nothing is numbered in the streams of the old one any more, and
    /// what a party has not receipted is shown again.
    pub(super) fn open_epoch(&mut self, book: &Book, epoch: Epoch, chance: &Chance) {
        self.parent = Some(std::mem::replace(&mut self.epoch, epoch));
        let mut again = Vec::new();
        for (stream, rows) in &self.outbox {
            let agreement = book.agreement(stream.agreement, stream.version).unwrap();
            let others = agreement.parties.iter().filter(|party| party.region != book.region);
            let receipted = others
                .map(|party| {
                    let at = self.receipts.get(&(stream.clone(), party.region.clone()));
                    at.map_or(0, |at| at.seq)
                })
                .min()
                .unwrap_or(0);
            let open = rows.iter().filter(|out| out.row.position.seq > receipted);
            again.extend(open.filter_map(|out| {
                let stream = StreamId { epoch, ..stream.clone() };
                Some((stream, out.row.entry.clone(), out.record?))
            }));
        }
        for (stream, entry, record) in again {
            self.append(book, &stream, entry, Some(record), chance);
        }
    }

    pub(super) fn shown_digest(&self, stream: &StreamId) -> [u8; 32] {
        let rows = self.outbox.get(stream).into_iter().flatten();
        digest(rows.filter_map(|out| {
            let (record_id, newest) = out.record?;
            Some(DigestRow {
                record_id,
                revision: newest.at.0,
                share_n: newest.at.1,
                view_sha256: newest.view_sha256?,
            })
        }))
    }

    pub(super) fn received_digest(&self, stream: &StreamId) -> [u8; 32] {
        let rows = self.inbox.get(stream).into_iter().flat_map(|inbox| &inbox.rows);
        digest(rows.filter_map(|(_, row)| row.clone()))
    }
}

fn digest(rows: impl Iterator<Item = DigestRow>) -> [u8; 32] {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable_by_key(|row| (row.record_id, row.revision, row.share_n));
    exchange::digest::digest(&rows)
}

/// The entry that would show an event of this region, as a region makes it that may.
pub(super) fn view_of(
    owner: &RegionId,
    book: &Book,
    agreement: AgreementId,
    op: &Op,
    now: Timestamp,
) -> Option<Bytes> {
    let agreement = book.agreement(agreement, 1)?;
    let revision = Revision { t: 0, epoch: Epoch::mint(now, &Chance::new(op.no)), n: 1 };
    let record = record(owner, op, revision, now);
    match share(&record, agreement, book.directory(), None, now) {
        Decision::Show(decided) => Some(Outgoing::new(&record).entry(&decided)),
        Decision::Nothing(_) | Decision::Leave(_) => None,
    }
}

fn record(region: &RegionId, op: &Op, revision: Revision, now: Timestamp) -> Record {
    Record {
        meta: RecordMeta {
            record_id: op.record_id,
            kind: Kind::Event,
            birth_region: region.clone(),
            owner_region: region.clone(),
            revision,
            occurred_at: now,
            recorded_at: now,
            received_at: now,
            clock_offset_ms: 0,
            author_unit: "police-1".to_owned(),
            author_ref: None,
            sensitivity: op.sensitivity,
            sensitivity_parties: Vec::new(),
            external_ref: None,
            retention_class: Kind::Event.retention_class(),
            expires_at: linkage::START.plus_days(4_000),
            transfers: Vec::new(),
        },
        body: Body::Event(Event {
            domain: EventDomain::Safety,
            category: op.category.to_owned(),
            emergency_class: None,
            level: Some(op.level),
            place: "黑溪镇后山".to_owned(),
            point: None,
            text: op.text.clone(),
            source: EventSource::Patrol,
            affected_count: 0,
            urgent: false,
            deadline_at: None,
            state: op.state,
            handling_unit: String::new(),
            observation_id: None,
        }),
        device: None,
    }
}
