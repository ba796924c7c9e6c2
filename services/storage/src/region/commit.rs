//! Operations become records and stream entries, in one transaction, numbered and chained there.
//!
//! The rules were asked before, outside; here it is only made sure that what they saw still stands. A
//! commit whose ground has moved is handed back whole and decided again.

use super::stream::OutboxEntry;
use super::tail::Numbered;
use super::{FeedItem, FeedSource, Job, ShownKey, State};
use crate::sqlite::{Insert, int, select_in, uint};
use bytes::Bytes;
use domain::kernel::{
    AgreementId, DeviceId, Epoch, Kind, Lane, OperationId, Reason, RecordId, RetentionClass,
    Revision, Timestamp,
};
use domain::stream::{LastShown, Position, Standing, StreamId};
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

/// The next revision of a record.
#[derive(Clone, Debug)]
pub struct RecordWrite {
    /// The record.
    pub record_id: RecordId,
    /// Its kind.
    pub kind: Kind,
    /// The revision the rules saw; `None`: no record.
    pub base: Option<Revision>,
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
}

/// One entry for one stream.
#[derive(Clone, Debug)]
pub struct ShareWrite {
    /// The stream.
    pub stream: StreamId,
    /// The record.
    pub record_id: RecordId,
    /// Its revision.
    pub revision: Revision,
    /// `share_n` the rules saw last; 0 for none.
    pub seen_share_n: u64,
    /// What is remembered from now on.
    pub shown: LastShown,
    /// The entry; opaque here.
    pub entry: Bytes,
    /// Fresh random bytes.
    pub salt: [u8; 16],
    /// SHA-256 of the encoded view; `None` when it is a withdrawal.
    pub view_sha256: Option<[u8; 32]>,
    /// When the entry expires.
    pub expires_at: Timestamp,
    /// What opens the stream if this is its first entry: START and its salt.
    pub start: (Bytes, [u8; 16]),
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
    /// What leaves.
    pub shares: Vec<ShareWrite>,
}

/// Operations to apply, all or none.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The operations, in order; later ones may rest on earlier ones.
    pub items: Vec<CommitItem>,
    /// The region's clock.
    pub now: Timestamp,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitVerdict {
    /// On disk.
    Done,
    /// Nothing was written: these operations were answered before, or (when empty) a record or what was
    /// shown of it has moved on. Read again, decide again.
    Stale(Vec<OperationId>),
}

/// The ground that commits stand on: read once a transaction, then kept up to date by each job.
#[derive(Default)]
struct Ground {
    operations: HashMap<OperationId, OperationOutcome>,
    revisions: HashMap<RecordId, (Revision, Old)>,
    share_ns: HashMap<ShownKey, u64>,
}

/// Where the present revision of a record lies.
#[derive(Clone)]
enum Old {
    /// On disk before this transaction, at this place in the feed.
    Stored(i64),
    /// Made in this transaction; index of its row.
    Fresh(usize),
}

/// Rows to write, gathered over all jobs of the transaction.
#[derive(Default)]
struct Rows<'a> {
    operations: Vec<&'a OperationRow>,
    /// With their places in the feed; `None`: replaced before it was written.
    records: Vec<Option<(u64, &'a RecordWrite)>>,
    /// Records that were replaced before they were written, and when.
    history: Vec<(&'a RecordWrite, Timestamp)>,
    /// Places in the feed of records that were replaced.
    replaced: Vec<i64>,
    shown: HashMap<ShownKey, LastShown>,
    outbox: Vec<OutboxRow<'a>>,
}

/// An entry to write.
struct OutboxRow<'a> {
    stream_no: i64,
    position: Position,
    salt: &'a [u8; 16],
    entry: &'a Bytes,
    /// What it shows; `None` for the entry that opens the stream.
    share: Option<&'a ShareWrite>,
    numbered_at: Timestamp,
    expires_at: Timestamp,
}

/// Applies every commit among the jobs.
pub(super) fn run(state: &mut State, conn: &Connection, jobs: &mut [Job]) -> rusqlite::Result<()> {
    let verdicts = write(state, conn, jobs)?;
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
) -> rusqlite::Result<Vec<CommitVerdict>> {
    let commits = || {
        jobs.iter().filter_map(|job| if let Job::Commit(c) = job { Some(&c.input) } else { None })
    };
    if commits().next().is_none() {
        return Ok(Vec::new());
    }
    let mut ground = Ground::read(conn, &commits())?;
    let mut rows = Rows::default();
    let mut verdicts = Vec::new();
    for commit in commits() {
        let verdict = ground.check(commit);
        if verdict == CommitVerdict::Done {
            state.pending.now = Some(commit.now);
            for item in &commit.items {
                put(state, conn, &mut ground, &mut rows, item, commit.now)?;
            }
        }
        verdicts.push(verdict);
    }
    rows.write(conn)?;
    for (stream, position) in &state.pending.streams {
        if let Some((number, _)) = state.memory.streams.get(stream) {
            conn.prepare_cached(
                "UPDATE stream SET last_seq = ?2, last_h = ?3 WHERE stream_no = ?1",
            )?
            .execute((number, int(position.seq), position.h.as_slice()))?;
        }
    }
    Ok(verdicts)
}

impl Ground {
    fn read<'a>(
        conn: &Connection,
        commits: &(impl Iterator<Item = &'a Commit> + Clone),
    ) -> rusqlite::Result<Self> {
        let items = || commits.clone().flat_map(|commit| &commit.items);
        let ids: Vec<&[u8]> =
            items().map(|item| item.operation.operation_id.as_bytes().as_slice()).collect();
        let mut ground = Self::default();
        let operations = select_in(
            conn,
            "SELECT operation_id, outcome FROM operation WHERE operation_id",
            &ids,
            |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)),
        )?;
        ground.operations = operations
            .into_iter()
            .filter_map(|(id, code)| {
                Some((OperationId::from_slice(&id)?, OperationOutcome::from_code(code)?))
            })
            .collect();
        let written: HashSet<RecordId> =
            items().filter_map(|item| item.write.as_ref()).map(|w| w.record_id).collect();
        let keys: Vec<&[u8]> = written.iter().map(|id| id.as_bytes().as_slice()).collect();
        ground.revisions = select_in(
            conn,
            "SELECT record_id, revision_t, revision_epoch, revision_n, feed_seq FROM record WHERE record_id",
            &keys,
            |row| Ok((row.get::<_, Vec<u8>>(0)?, read_revision(row, 1)?, row.get::<_, i64>(4)?)),
        )?
        .into_iter()
        .filter_map(|(id, revision, feed_seq)| Some((RecordId::from_slice(&id)?, (revision?, Old::Stored(feed_seq)))))
        .collect();
        // What was shown is remembered for records that were there before; a new one has no memory.
        let known: Vec<&[u8]> =
            ground.revisions.keys().map(|id| id.as_bytes().as_slice()).collect();
        ground.share_ns = select_in(
            conn,
            "SELECT record_id, agreement_id, share_n FROM shown WHERE record_id",
            &known,
            |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, i64>(2)?)),
        )?
        .into_iter()
        .filter_map(|(record, agreement, share_n)| {
            Some((
                (RecordId::from_slice(&record)?, AgreementId::from_slice(&agreement)?),
                uint(share_n),
            ))
        })
        .collect();
        Ok(ground)
    }

    /// Whether all that the commit saw still stands, each item after those before it.
    fn check(&self, commit: &Commit) -> CommitVerdict {
        let answered: Vec<OperationId> = commit
            .items
            .iter()
            .filter(|item| match self.operations.get(&item.operation.operation_id) {
                None => false,
                Some(OperationOutcome::Held) => !item.replaces_held,
                Some(_) => true,
            })
            .map(|item| item.operation.operation_id)
            .collect();
        if !answered.is_empty() {
            return CommitVerdict::Stale(answered);
        }
        let mut revisions: HashMap<RecordId, Revision> = HashMap::new();
        let mut share_ns: HashMap<ShownKey, u64> = HashMap::new();
        for item in &commit.items {
            if let Some(write) = &item.write {
                let now = revisions.get(&write.record_id).copied();
                let now = now.or_else(|| {
                    self.revisions.get(&write.record_id).map(|(revision, _)| *revision)
                });
                if now != write.base {
                    return CommitVerdict::Stale(Vec::new());
                }
                revisions.insert(write.record_id, write.revision);
            }
            for share in &item.shares {
                let key = (share.record_id, share.stream.agreement);
                let now =
                    share_ns.get(&key).or_else(|| self.share_ns.get(&key)).copied().unwrap_or(0);
                if now != share.seen_share_n {
                    return CommitVerdict::Stale(Vec::new());
                }
                share_ns.insert(key, share.shown.share_n);
            }
        }
        CommitVerdict::Done
    }
}

fn put<'a>(
    state: &mut State,
    conn: &Connection,
    ground: &mut Ground,
    rows: &mut Rows<'a>,
    item: &'a CommitItem,
    now: Timestamp,
) -> rusqlite::Result<()> {
    ground.operations.insert(item.operation.operation_id, item.operation.outcome);
    rows.operations.push(&item.operation);
    if let Some(write) = &item.write {
        put_record(state, conn, ground, rows, write)?;
    }
    for share in &item.shares {
        let key = (share.record_id, share.stream.agreement);
        ground.share_ns.insert(key, share.shown.share_n);
        rows.shown.insert(key, share.shown);
        append(state, conn, rows, share, now)?;
    }
    Ok(())
}

fn put_record<'a>(
    state: &mut State,
    conn: &Connection,
    ground: &mut Ground,
    rows: &mut Rows<'a>,
    write: &'a RecordWrite,
) -> rusqlite::Result<()> {
    state.memory.feed_seq += 1;
    let feed_seq = state.memory.feed_seq;
    match ground.revisions.get(&write.record_id).map(|(_, old)| old.clone()) {
        None => {}
        Some(Old::Stored(old_seq)) => {
            conn.prepare_cached(
                "INSERT INTO record_history (record_id, revision_t, revision_epoch, revision_n, replaced_at, expires_at, encoded)
                 SELECT record_id, revision_t, revision_epoch, revision_n, ?2, expires_at, encoded FROM record WHERE feed_seq = ?1",
            )?
            .execute((old_seq, write.received_at.micros()))?;
            rows.replaced.push(old_seq);
        }
        Some(Old::Fresh(index)) => {
            if let Some((_, old)) = rows.records.get_mut(index).and_then(Option::take) {
                rows.history.push((old, write.received_at));
            }
        }
    }
    ground.revisions.insert(write.record_id, (write.revision, Old::Fresh(rows.records.len())));
    rows.records.push(Some((feed_seq, write)));
    state.pending.feed.push(FeedItem {
        feed_seq,
        kind: write.kind,
        source: FeedSource::Own,
        encoded: write.encoded.clone(),
    });
    Ok(())
}

/// Numbers and chains an entry.
fn append<'a>(
    state: &mut State,
    conn: &Connection,
    rows: &mut Rows<'a>,
    share: &'a ShareWrite,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let (stream_no, mut position) = match state.memory.streams.get(&share.stream) {
        Some(known) => *known,
        None => {
            let genesis = seal::chain::start(&share.stream);
            let number: i64 = conn
                .prepare_cached("INSERT INTO stream (stream_id, last_seq, last_h) VALUES (?1, 0, ?2) RETURNING stream_no")?
                .query_row((share.stream.to_bytes(), genesis.h.as_slice()), |row| row.get(0))?;
            (number, genesis)
        }
    };
    let ShareWrite { stream, salt, entry, expires_at, start: (start, start_salt), .. } = share;
    let opens = (position.seq == 0).then_some((start_salt, start, None));
    for (salt, entry, share) in opens.into_iter().chain([(salt, entry, Some(share))]) {
        let before = position;
        position = seal::chain::extend(position, &seal::chain::commitment(salt, entry));
        rows.outbox.push(OutboxRow {
            stream_no,
            position,
            salt,
            entry,
            share,
            numbered_at: now,
            expires_at: *expires_at,
        });
        let entry =
            OutboxEntry { position, salt: *salt, entry: entry.clone(), expires_at: *expires_at };
        state.pending.numbered.push(Numbered { stream: stream.clone(), before, entry });
    }
    state.pending.streams.insert(share.stream.clone(), position);
    state.memory.streams.insert(share.stream.clone(), (stream_no, position));
    Ok(())
}

static OPERATION: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO operation (operation_id, digest, device_id, record_id, outcome, reason, revision_n, received_at, encoded)";
    // Only a waiting operation is ever written twice: when it is applied or refused at last.
    let released = " ON CONFLICT (operation_id) DO UPDATE SET outcome = excluded.outcome, reason = excluded.reason,
             revision_n = excluded.revision_n, encoded = excluded.encoded WHERE operation.outcome = 5";
    Insert::new(head, 9, released)
});
static RECORD: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO record (feed_seq, record_id, kind, revision_t, revision_epoch, revision_n, received_at, retention_class, expires_at, encoded)";
    Insert::new(head, 10, "")
});
static HISTORY: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO record_history (record_id, revision_t, revision_epoch, revision_n, replaced_at, expires_at, encoded)";
    Insert::new(head, 7, "")
});
static SHOWN: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO shown (record_id, agreement_id, share_n, lane, standing)";
    let again = " ON CONFLICT (record_id, agreement_id) DO UPDATE SET share_n = excluded.share_n, lane = excluded.lane, standing = excluded.standing";
    Insert::new(head, 5, again)
});
static OUTBOX: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO outbox (stream_no, seq, h, salt, entry, record_id, revision_t, revision_epoch, revision_n, share_n, view_sha256, numbered_at, expires_at)";
    Insert::new(head, 13, "")
});

impl Rows<'_> {
    fn write(self, conn: &Connection) -> rusqlite::Result<()> {
        OPERATION.write(conn, &self.operations, |row, to| {
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
            to.put(row.encoded.as_ref())
        })?;
        HISTORY.write(conn, &self.history, |(row, replaced_at), to| {
            to.put(row.record_id.as_bytes().as_slice())?;
            to.put(row.revision.t)?;
            to.put(row.revision.epoch.as_bytes().as_slice())?;
            to.put(int(row.revision.n))?;
            to.put(replaced_at.micros())?;
            to.put(row.expires_at.micros())?;
            to.put(row.encoded.as_ref())
        })?;
        let shown: Vec<_> = self.shown.into_iter().collect();
        SHOWN.write(conn, &shown, |((record, agreement), shown), to| {
            to.put(record.as_bytes().as_slice())?;
            to.put(agreement.as_bytes().as_slice())?;
            to.put(int(shown.share_n))?;
            to.put(shown.lane.code())?;
            to.put(standing_code(shown.standing))
        })?;
        OUTBOX.write(conn, &self.outbox, |row, to| {
            to.put(row.stream_no)?;
            to.put(int(row.position.seq))?;
            to.put(row.position.h.as_slice())?;
            to.put(row.salt.as_slice())?;
            to.put(row.entry.as_ref())?;
            to.put(row.share.map(|share| share.record_id.as_bytes().as_slice()))?;
            to.put(row.share.map(|share| share.revision.t))?;
            to.put(row.share.map(|share| share.revision.epoch.as_bytes().as_slice()))?;
            to.put(row.share.map(|share| int(share.revision.n)))?;
            to.put(row.share.map(|share| int(share.shown.share_n)))?;
            to.put(
                row.share.and_then(|share| share.view_sha256.as_ref().map(<[u8; 32]>::as_slice)),
            )?;
            to.put(row.numbered_at.micros())?;
            to.put(row.expires_at.micros())
        })
    }
}

const fn standing_code(standing: Standing) -> i64 {
    match standing {
        Standing::Shown => 1,
        Standing::Last => 2,
        Standing::Left => 3,
    }
}

/// Reads [`LastShown`] from its three columns; `None` for what this program never writes.
pub(super) fn last_shown(share_n: i64, lane: i64, standing: i64) -> Option<LastShown> {
    let standing = match standing {
        1 => Standing::Shown,
        2 => Standing::Last,
        3 => Standing::Left,
        _ => return None,
    };
    Some(LastShown { share_n: uint(share_n), lane: Lane::try_from(lane).ok()?, standing })
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
