//! Operations become records and stream entries, in one transaction, numbered and chained there.
//!
//! The rules were asked before, outside; here it is only made sure that what they saw still stands. A
//! commit whose ground has moved is handed back whole and decided again.

use super::outbox::Runs;
use super::{FeedItem, FeedSource, Job, State};
use crate::sqlite::{Insert, int, select_in, uint};
use crate::writer::Look;
use bytes::Bytes;
use domain::kernel::{
    DeviceId, Epoch, Kind, OperationId, Reason, RecordId, RetentionClass, Revision, Timestamp,
};
use domain::stream::{Shown, StreamId};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// What became of an operation, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationOutcome {
    /// The record was written.
    Applied,
    /// Refused for good.
    Rejected,
    /// Waits for its parents.
    Held,
    /// Waits for an officer.
    Quarantined,
}

impl OperationOutcome {
    pub(super) const fn code(self) -> i64 {
        match self {
            Self::Applied => 1,
            Self::Rejected => 4,
            Self::Held => 5,
            Self::Quarantined => 6,
        }
    }

    pub(super) const fn from_code(code: i64) -> Option<Self> {
        match code {
            1 => Some(Self::Applied),
            4 => Some(Self::Rejected),
            5 => Some(Self::Held),
            6 => Some(Self::Quarantined),
            _ => None,
        }
    }
}

/// An operation and what became of it.
#[derive(Clone, Debug)]
pub struct OperationRow {
    /// The operation.
    pub operation_id: OperationId,
    /// First 16 bytes of SHA-256 of the operation; tells a repeat from a reuse of its id.
    pub digest: [u8; 16],
    /// Who sent it; `None` for a call from the desk.
    pub device: Option<DeviceId>,
    /// The record.
    pub record_id: RecordId,
    /// What became of it.
    pub outcome: OperationOutcome,
    /// Why, unless applied.
    pub reason: Option<Reason>,
    /// The revision it made; 0 for none.
    pub revision_n: u64,
    /// When it came.
    pub received_at: Timestamp,
    /// The operation itself, only while it waits.
    pub encoded: Option<Bytes>,
}

/// The next revision of a record, and what leaves with it.
#[derive(Clone, Debug)]
pub struct RecordWrite {
    /// The record.
    pub record_id: RecordId,
    /// Its kind.
    pub kind: Kind,
    /// What the rules saw; `None`: no record.
    pub base: Option<Base>,
    /// The new revision.
    pub revision: Revision,
    /// When it was taken.
    pub received_at: Timestamp,
    /// How long it is kept.
    pub retention_class: RetentionClass,
    /// Deleted at the latest.
    pub expires_at: Timestamp,
    /// The record as it goes over the wire; opaque here.
    pub encoded: Bytes,
    /// What is remembered as shown from now on.
    pub shown: Shown,
    /// What leaves.
    pub shares: Vec<ShareWrite>,
}

/// What a revision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The revision before.
    pub revision: Revision,
    /// What was shown of the record before.
    pub shown: Shown,
}

/// One entry for one stream.
#[derive(Clone, Debug)]
pub struct ShareWrite {
    /// The stream.
    pub stream: StreamId,
    /// The entry; opaque here.
    pub entry: Bytes,
    /// Fresh random bytes.
    pub salt: [u8; 16],
    /// When the entry expires.
    pub expires_at: Timestamp,
    /// What opens the stream if this is its first entry.
    pub opening: Opening,
    /// It calls off what was shown under a version that is not in force any more, for those whom the version in
    /// force leaves out.
    pub behind_end: bool,
}

/// How a stream opens, and the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// SHA-256 of what the parties of the version have signed.
    pub agreement_sha256: [u8; 32],
    /// Fresh random bytes for either entry.
    pub salts: [[u8; 16]; 2],
}

/// An operation with all it does.
#[derive(Clone, Debug)]
pub struct CommitItem {
    /// The operation.
    pub operation: OperationRow,
    /// A waiting operation of this id may be there already; it is replaced.
    pub replaces_held: bool,
    /// The record's next revision, when it was applied.
    pub write: Option<RecordWrite>,
}

/// Operations to apply, all or none.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The operations, in order; later ones may rest on earlier ones.
    pub items: Vec<CommitItem>,
    /// How many agreement versions had come into force when it was decided; see [`super::Store::turns`].
    pub turns: u64,
    /// The region's clock.
    pub now: Timestamp,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitVerdict {
    /// On disk.
    Done,
    /// Nothing was written: one of its operations was answered before, a record or what was shown of it has moved
    /// on, or another version of an agreement has come into force. Read again, decide again.
    Stale,
}

/// The ground that commits stand on: read once a transaction, then kept up to date by each job.
struct Ground<'a> {
    operations: HashMap<OperationId, OperationOutcome>,
    records: HashMap<RecordId, Present<'a>>,
    /// Records that were erased, of those that are to be made anew.
    erased: HashSet<RecordId>,
}

/// The present revision of a record.
enum Present<'a> {
    /// On disk before this transaction, at this place in the feed.
    Stored(i64, Base),
    /// Made in this transaction; index of its row.
    Fresh(usize, &'a RecordWrite),
}

impl Present<'_> {
    fn is(&self, base: &Base) -> bool {
        match self {
            Self::Stored(_, stored) => stored == base,
            Self::Fresh(_, write) => write.is(base),
        }
    }
}

impl ShareWrite {
    /// Whether the version is not in force any more, and this is no calling off.
    pub(super) fn is_behind(&self, state: &State) -> bool {
        let opened = state.memory.footing.in_force.get(&self.stream.agreement);
        !self.behind_end && opened.is_some_and(|opened| *opened > self.stream.version)
    }
}

impl RecordWrite {
    fn is(&self, base: &Base) -> bool {
        self.revision == base.revision && self.shown == base.shown
    }
}

/// Rows to write, gathered over all jobs of the transaction.
#[derive(Default)]
struct Rows<'a> {
    operations: Vec<&'a OperationRow>,
    /// Operations that may be there, waiting.
    released: Vec<&'a OperationRow>,
    /// With their places in the feed; `None`: replaced before it was written.
    records: Vec<Option<(u64, &'a RecordWrite)>>,
    /// Records that were replaced before they were written, and when.
    history: Vec<(&'a RecordWrite, Timestamp)>,
    /// Places in the feed of records that were replaced.
    replaced: Vec<i64>,
}

/// Applies every commit among the jobs.
pub(super) fn run(
    state: &mut State,
    conn: &Connection,
    jobs: &mut [Job],
    look: Look,
) -> rusqlite::Result<()> {
    let verdicts = write(state, conn, jobs, look)?;
    let calls =
        jobs.iter_mut().filter_map(|job| if let Job::Commit(c) = job { Some(c) } else { None });
    calls.zip(verdicts).for_each(|(call, verdict)| call.set(verdict));
    Ok(())
}

/// Writes what can be written; one verdict a commit.
fn write(
    state: &mut State,
    conn: &Connection,
    jobs: &[Job],
    look: Look,
) -> rusqlite::Result<Vec<CommitVerdict>> {
    let commits = || {
        jobs.iter().filter_map(|job| if let Job::Commit(c) = job { Some(&c.input) } else { None })
    };
    if commits().next().is_none() {
        return Ok(Vec::new());
    }
    let mut ground = Ground::read(conn, &commits(), look)?;
    let mut rows = Rows::default();
    let mut runs = Runs::default();
    let mut verdicts = Vec::new();
    for commit in commits() {
        // Also where it shows nothing: under the version in force it might.
        let turned = commit.turns != state.memory.footing.turns;
        let verdict = if turned { CommitVerdict::Stale } else { ground.check(commit) };
        if verdict == CommitVerdict::Done {
            state.pending.now = Some(commit.now);
            for item in &commit.items {
                ground.operations.insert(item.operation.operation_id, item.operation.outcome);
                let operations =
                    if item.replaces_held { &mut rows.released } else { &mut rows.operations };
                operations.push(&item.operation);
                if let Some(write) = &item.write {
                    put_record(state, conn, &mut ground, &mut rows, write)?;
                    for share in &write.shares {
                        runs.append(state, conn, share, commit.now)?;
                    }
                }
            }
        }
        verdicts.push(verdict);
    }
    rows.write(conn)?;
    runs.write(state, conn)?;
    Ok(verdicts)
}

impl<'a> Ground<'a> {
    fn read(
        conn: &Connection,
        commits: &(impl Iterator<Item = &'a Commit> + Clone),
        look: Look,
    ) -> rusqlite::Result<Self> {
        let careful = look == Look::Careful;
        let items = || commits.clone().flat_map(|commit| &commit.items);
        let ids: Vec<&[u8]> = items()
            .filter(|item| careful || item.replaces_held)
            .map(|item| item.operation.operation_id.as_bytes().as_slice())
            .collect();
        let operations = select_in(
            conn,
            "SELECT operation_id, outcome FROM operation WHERE operation_id",
            &ids,
            |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)),
        )?;
        let operations = operations.into_iter().filter_map(|(id, code)| {
            Some((OperationId::from_slice(&id)?, OperationOutcome::from_code(code)?))
        });
        let writes = || items().filter_map(|item| item.write.as_ref());
        let written: HashSet<RecordId> =
            writes().filter(|w| careful || w.base.is_some()).map(|w| w.record_id).collect();
        let keys: Vec<&[u8]> = written.iter().map(|id| id.as_bytes().as_slice()).collect();
        let records = select_in(
            conn,
            "SELECT record_id, revision_t, revision_epoch, revision_n, shown, feed_seq FROM record WHERE record_id",
            &keys,
            |row| {
                let (id, shown): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(4)?);
                Ok((id, read_revision(row, 1)?, shown, row.get::<_, i64>(5)?))
            },
        )?;
        let records = records.into_iter().filter_map(|(id, revision, shown, feed_seq)| {
            let base = Base { revision: revision?, shown: Shown::from_bytes(&shown)? };
            Some((RecordId::from_slice(&id)?, Present::Stored(feed_seq, base)))
        });
        let erased = select_in(
            conn,
            "SELECT record_id FROM erasure WHERE record_id",
            if careful { &keys } else { &[] },
            |row| row.get::<_, Vec<u8>>(0),
        )?;
        let mut ground = Self {
            operations: HashMap::with_capacity(items().count()),
            records: HashMap::with_capacity(items().count()),
            erased: erased.iter().filter_map(|id| RecordId::from_slice(id)).collect(),
        };
        ground.operations.extend(operations);
        ground.records.extend(records);
        Ok(ground)
    }

    /// Whether all that the commit saw still stands, each item after those before it.
    fn check(&self, commit: &Commit) -> CommitVerdict {
        let answered = commit.items.iter().any(|item| {
            match self.operations.get(&item.operation.operation_id) {
                None => false,
                Some(OperationOutcome::Held) => !item.replaces_held,
                Some(_) => true,
            }
        });
        if answered {
            return CommitVerdict::Stale;
        }
        let mut written: HashMap<RecordId, &RecordWrite> =
            HashMap::with_capacity(commit.items.len());
        for write in commit.items.iter().filter_map(|item| item.write.as_ref()) {
            let (before, present) =
                (written.get(&write.record_id), self.records.get(&write.record_id));
            let stands = match (&write.base, before, present) {
                (None, None, None) => !self.erased.contains(&write.record_id),
                (Some(base), Some(before), _) => before.is(base),
                (Some(base), None, Some(present)) => present.is(base),
                (None, ..) | (Some(_), None, None) => false,
            };
            if !stands {
                return CommitVerdict::Stale;
            }
            written.insert(write.record_id, write);
        }
        CommitVerdict::Done
    }
}

fn put_record<'a>(
    state: &mut State,
    conn: &Connection,
    ground: &mut Ground<'a>,
    rows: &mut Rows<'a>,
    write: &'a RecordWrite,
) -> rusqlite::Result<()> {
    state.memory.feed_seq += 1;
    let feed_seq = state.memory.feed_seq;
    let fresh = Present::Fresh(rows.records.len(), write);
    match ground.records.insert(write.record_id, fresh) {
        None => {}
        Some(Present::Stored(old_seq, _)) => {
            keep_revision(conn, old_seq, write.received_at)?;
            rows.replaced.push(old_seq);
        }
        Some(Present::Fresh(index, old)) => {
            if let Some(row) = rows.records.get_mut(index) {
                *row = None;
            }
            rows.history.push((old, write.received_at));
        }
    }
    rows.records.push(Some((feed_seq, write)));
    tell(state, feed_seq, write);
    Ok(())
}

fn tell(state: &mut State, feed_seq: u64, write: &RecordWrite) {
    state.tell(|| FeedItem {
        feed_seq,
        kind: write.kind,
        source: FeedSource::Own,
        encoded: write.encoded.clone(),
    });
}

/// Keeps a revision that is about to be replaced.
pub(super) fn keep_revision(
    conn: &Connection,
    feed_seq: i64,
    replaced_at: Timestamp,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO record_history (record_id, revision_t, revision_epoch, revision_n, replaced_at, expires_at, encoded)
         SELECT record_id, revision_t, revision_epoch, revision_n, ?2, expires_at, encoded FROM record WHERE feed_seq = ?1",
    )?
    .execute((feed_seq, replaced_at.micros()))?;
    Ok(())
}

/// Writes a record that is new here, without an operation that made it.
pub(super) fn put_new(
    state: &mut State,
    conn: &Connection,
    write: &RecordWrite,
) -> rusqlite::Result<()> {
    state.memory.feed_seq += 1;
    let feed_seq = state.memory.feed_seq;
    tell(state, feed_seq, write);
    Rows { records: vec![Some((feed_seq, write))], ..Rows::default() }.write(conn)
}

const OPERATION_HEAD: &str = "INSERT INTO operation (operation_id, digest, device_id, record_id, outcome, reason, revision_n, received_at, encoded)";
static OPERATION: LazyLock<Insert> = LazyLock::new(|| Insert::new(OPERATION_HEAD, 9, ""));
static RELEASED: LazyLock<Insert> = LazyLock::new(|| {
    let released = " ON CONFLICT (operation_id) DO UPDATE SET outcome = excluded.outcome, reason = excluded.reason,
             revision_n = excluded.revision_n, encoded = excluded.encoded WHERE operation.outcome = 5";
    Insert::new(OPERATION_HEAD, 9, released)
});
static RECORD: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO record (feed_seq, record_id, kind, revision_t, revision_epoch, revision_n, received_at, retention_class, expires_at, encoded, shown)";
    Insert::new(head, 11, "")
});
static HISTORY: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO record_history (record_id, revision_t, revision_epoch, revision_n, replaced_at, expires_at, encoded)";
    Insert::new(head, 7, "")
});

impl Rows<'_> {
    fn write(self, conn: &Connection) -> rusqlite::Result<()> {
        for (insert, rows) in [(&OPERATION, &self.operations), (&RELEASED, &self.released)] {
            insert.write(conn, rows, |row, to| {
                to.put(row.operation_id.as_bytes().as_slice())?;
                to.put(row.digest.as_slice())?;
                to.put(row.device.as_ref().map(|device| device.as_bytes().as_slice()))?;
                to.put(row.record_id.as_bytes().as_slice())?;
                to.put(row.outcome.code())?;
                to.put(row.reason.map_or(0, Reason::code))?;
                to.put(int(row.revision_n))?;
                to.put(row.received_at.micros())?;
                to.put(row.encoded.as_deref())
            })?;
        }
        for feed_seq in &self.replaced {
            conn.prepare_cached("DELETE FROM record WHERE feed_seq = ?1")?.execute([feed_seq])?;
        }
        let records: Vec<_> = self.records.into_iter().flatten().collect();
        RECORD.write(conn, &records, |(feed_seq, row), to| {
            to.put(int(*feed_seq))?;
            to.put(row.record_id.as_bytes().as_slice())?;
            to.put(row.kind.code())?;
            to.put(row.revision.t)?;
            to.put(row.revision.epoch.as_bytes().as_slice())?;
            to.put(int(row.revision.n))?;
            to.put(row.received_at.micros())?;
            to.put(row.retention_class.code())?;
            to.put(row.expires_at.micros())?;
            to.put(row.encoded.as_ref())?;
            to.put(row.shown.to_bytes())
        })?;
        HISTORY.write(conn, &self.history, |(row, replaced_at), to| {
            to.put(row.record_id.as_bytes().as_slice())?;
            to.put(row.revision.t)?;
            to.put(row.revision.epoch.as_bytes().as_slice())?;
            to.put(int(row.revision.n))?;
            to.put(replaced_at.micros())?;
            to.put(row.expires_at.micros())?;
            to.put(row.encoded.as_ref())
        })
    }
}

/// Reads a revision from three columns; `None` for what this program never writes.
pub(super) fn read_revision(
    row: &rusqlite::Row<'_>,
    first: usize,
) -> rusqlite::Result<Option<Revision>> {
    let (t, epoch, n): (i64, Vec<u8>, i64) =
        (row.get(first)?, row.get(first + 1)?, row.get(first + 2)?);
    Ok(revision(t, &epoch, n))
}

pub(super) fn revision(t: i64, epoch: &[u8], n: i64) -> Option<Revision> {
    Some(Revision { t: t.try_into().ok()?, epoch: Epoch::from_slice(epoch)?, n: uint(n) })
}
