//! Operations become records and stream entries, in one transaction, numbered and chained there.
//!
//! The rules were asked before, outside; here it is only made sure that what they saw still stands. A
//! commit whose ground has moved is handed back whole and decided again.

use super::{FeedItem, FeedSource, Job, ShownKey, State};
use crate::sqlite::{blob, insert_rows, int, select_in, uint};
use bytes::Bytes;
use domain::kernel::{
    AgreementId, DeviceId, Epoch, Kind, Lane, OperationId, Reason, RecordId, RetentionClass,
    Revision, Timestamp,
};
use domain::stream::{LastShown, Position, Standing, StreamId};
use rusqlite::Connection;
use rusqlite::types::Value;
use std::collections::{HashMap, HashSet};

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
struct Rows {
    operations: Vec<Vec<Value>>,
    records: Vec<Option<Vec<Value>>>,
    history: Vec<Vec<Value>>,
    replaced: Vec<Value>,
    shown: HashMap<ShownKey, LastShown>,
    outbox: Vec<Vec<Value>>,
}

/// Applies every commit among the jobs.
pub(super) fn run(state: &mut State, conn: &Connection, jobs: &mut [Job]) -> rusqlite::Result<()> {
    let commits = || {
        jobs.iter().filter_map(|job| if let Job::Commit(c) = job { Some(&c.input) } else { None })
    };
    if commits().next().is_none() {
        return Ok(());
    }
    let mut ground = Ground::read(conn, &commits())?;
    let mut rows = Rows::default();
    for job in jobs.iter_mut() {
        let Job::Commit(call) = job else { continue };
        let verdict = ground.check(&call.input);
        if verdict == CommitVerdict::Done {
            state.pending.now = Some(call.input.now);
            for item in &call.input.items {
                put(state, conn, &mut ground, &mut rows, item, call.input.now)?;
            }
        }
        call.set(verdict);
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
    Ok(())
}

impl Ground {
    fn read<'a>(
        conn: &Connection,
        commits: &(impl Iterator<Item = &'a Commit> + Clone),
    ) -> rusqlite::Result<Self> {
        let items = || commits.clone().flat_map(|commit| &commit.items);
        let ids: Vec<Value> =
            items().map(|item| blob(item.operation.operation_id.as_bytes())).collect();
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
        let keys: Vec<Value> = written.iter().map(|id| blob(id.as_bytes())).collect();
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
        let known: Vec<Value> = ground.revisions.keys().map(|id| blob(id.as_bytes())).collect();
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

fn put(
    state: &mut State,
    conn: &Connection,
    ground: &mut Ground,
    rows: &mut Rows,
    item: &CommitItem,
    now: Timestamp,
) -> rusqlite::Result<()> {
    ground.operations.insert(item.operation.operation_id, item.operation.outcome);
    rows.operations.push(operation_row(&item.operation));
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

fn put_record(
    state: &mut State,
    conn: &Connection,
    ground: &mut Ground,
    rows: &mut Rows,
    write: &RecordWrite,
) -> rusqlite::Result<()> {
    state.memory.feed_seq += 1;
    let feed_seq = state.memory.feed_seq;
    let (id, revision) = (write.record_id.as_bytes(), write.revision);
    match ground.revisions.get(&write.record_id).map(|(_, old)| old.clone()) {
        None => {}
        Some(Old::Stored(old_seq)) => {
            conn.prepare_cached(
                "INSERT INTO record_history (record_id, revision_t, revision_epoch, revision_n, replaced_at, expires_at, encoded)
                 SELECT record_id, revision_t, revision_epoch, revision_n, ?2, expires_at, encoded FROM record WHERE feed_seq = ?1",
            )?
            .execute((old_seq, write.received_at.micros()))?;
            rows.replaced.push(Value::Integer(old_seq));
        }
        Some(Old::Fresh(index)) => {
            if let Some(old) = rows.records.get_mut(index).and_then(Option::take) {
                rows.history.push(history_row(old, write.received_at));
            }
        }
    }
    ground.revisions.insert(write.record_id, (revision, Old::Fresh(rows.records.len())));
    rows.records.push(Some(vec![
        int(feed_seq),
        blob(id),
        Value::Integer(write.kind.code().into()),
        Value::Integer(revision.t.into()),
        blob(revision.epoch.as_bytes()),
        int(revision.n),
        Value::Integer(write.received_at.micros()),
        Value::Integer(write.retention_class.code().into()),
        Value::Integer(write.expires_at.micros()),
        Value::Blob(write.encoded.to_vec()),
    ]));
    state.pending.feed.push(FeedItem {
        feed_seq,
        kind: write.kind,
        source: FeedSource::Own,
        encoded: write.encoded.clone(),
    });
    Ok(())
}

/// A record row that was replaced before it was written, as a row of history.
fn history_row(record: Vec<Value>, replaced_at: Timestamp) -> Vec<Value> {
    let mut columns = record.into_iter();
    let mut next = || columns.next().unwrap_or(Value::Null);
    let (_feed_seq, id, _kind) = (next(), next(), next());
    let (t, epoch, n) = (next(), next(), next());
    let (_received, _class, expires_at, encoded) = (next(), next(), next(), next());
    vec![id, t, epoch, n, Value::Integer(replaced_at.micros()), expires_at, encoded]
}

/// Numbers and chains an entry.
fn append(
    state: &mut State,
    conn: &Connection,
    rows: &mut Rows,
    share: &ShareWrite,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let (number, mut position) = match state.memory.streams.get(&share.stream) {
        Some(known) => *known,
        None => {
            let genesis = seal::chain::start(&share.stream);
            let number: i64 = conn
                .prepare_cached("INSERT INTO stream (stream_id, last_seq, last_h) VALUES (?1, 0, ?2) RETURNING stream_no")?
                .query_row((share.stream.to_bytes(), genesis.h.as_slice()), |row| row.get(0))?;
            (number, genesis)
        }
    };
    if position.seq == 0 {
        let (entry, salt) = &share.start;
        position = seal::chain::extend(position, &seal::chain::commitment(salt, entry));
        rows.outbox.push(outbox_row(number, position, salt, entry, None, now, share.expires_at));
    }
    position = seal::chain::extend(position, &seal::chain::commitment(&share.salt, &share.entry));
    rows.outbox.push(outbox_row(
        number,
        position,
        &share.salt,
        &share.entry,
        Some(share),
        now,
        share.expires_at,
    ));
    state.memory.streams.insert(share.stream.clone(), (number, position));
    state.pending.streams.insert(share.stream.clone(), position);
    Ok(())
}

fn outbox_row(
    number: i64,
    position: Position,
    salt: &[u8; 16],
    entry: &Bytes,
    share: Option<&ShareWrite>,
    now: Timestamp,
    expires_at: Timestamp,
) -> Vec<Value> {
    let of = |value: fn(&ShareWrite) -> Value| share.map_or(Value::Null, value);
    vec![
        Value::Integer(number),
        int(position.seq),
        blob(&position.h),
        blob(salt),
        Value::Blob(entry.to_vec()),
        of(|s| blob(s.record_id.as_bytes())),
        of(|s| Value::Integer(s.revision.t.into())),
        of(|s| blob(s.revision.epoch.as_bytes())),
        of(|s| int(s.revision.n)),
        of(|s| int(s.shown.share_n)),
        of(|s| s.view_sha256.map_or(Value::Null, |hash| blob(&hash))),
        Value::Integer(now.micros()),
        Value::Integer(expires_at.micros()),
    ]
}

fn operation_row(operation: &OperationRow) -> Vec<Value> {
    vec![
        blob(operation.operation_id.as_bytes()),
        blob(&operation.digest),
        operation.device.map_or(Value::Null, |id| blob(id.as_bytes())),
        blob(operation.record_id.as_bytes()),
        Value::Integer(operation.outcome.code()),
        Value::Integer(operation.reason.map_or(0, |reason| reason.code().into())),
        int(operation.revision_n),
        Value::Integer(operation.received_at.micros()),
        operation.encoded.as_ref().map_or(Value::Null, |bytes| Value::Blob(bytes.to_vec())),
    ]
}

impl Rows {
    fn write(self, conn: &Connection) -> rusqlite::Result<()> {
        const OPERATION: &str = "INSERT INTO operation (operation_id, digest, device_id, record_id, outcome, reason, revision_n, received_at, encoded)";
        // Only a waiting operation is ever written twice: when it is applied or refused at last.
        const RELEASED: &str = " ON CONFLICT (operation_id) DO UPDATE SET outcome = excluded.outcome, reason = excluded.reason,
             revision_n = excluded.revision_n, encoded = excluded.encoded WHERE operation.outcome = 5";
        const RECORD: &str = "INSERT INTO record (feed_seq, record_id, kind, revision_t, revision_epoch, revision_n, received_at, retention_class, expires_at, encoded)";
        const HISTORY: &str = "INSERT INTO record_history (record_id, revision_t, revision_epoch, revision_n, replaced_at, expires_at, encoded)";
        const SHOWN: &str = "INSERT INTO shown (record_id, agreement_id, share_n, lane, standing)";
        const SHOWN_AGAIN: &str = " ON CONFLICT (record_id, agreement_id) DO UPDATE SET share_n = excluded.share_n, lane = excluded.lane, standing = excluded.standing";
        const OUTBOX: &str = "INSERT INTO outbox (stream_no, seq, h, salt, entry, record_id, revision_t, revision_epoch, revision_n, share_n, view_sha256, numbered_at, expires_at)";
        insert_rows(conn, OPERATION, 9, RELEASED, &self.operations)?;
        for feed_seq in &self.replaced {
            conn.prepare_cached("DELETE FROM record WHERE feed_seq = ?1")?.execute([feed_seq])?;
        }
        let records: Vec<Vec<Value>> = self.records.into_iter().flatten().collect();
        insert_rows(conn, RECORD, 10, "", &records)?;
        insert_rows(conn, HISTORY, 7, "", &self.history)?;
        let shown: Vec<Vec<Value>> = self.shown.into_iter().map(shown_row).collect();
        insert_rows(conn, SHOWN, 5, SHOWN_AGAIN, &shown)?;
        insert_rows(conn, OUTBOX, 13, "", &self.outbox)
    }
}

fn shown_row(((record, agreement), shown): (ShownKey, LastShown)) -> Vec<Value> {
    vec![
        blob(record.as_bytes()),
        blob(agreement.as_bytes()),
        int(shown.share_n),
        Value::Integer(shown.lane.code().into()),
        Value::Integer(standing_code(shown.standing)),
    ]
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
