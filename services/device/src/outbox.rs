//! What was done on the phone, written down before the screen says so.

use crate::phone::{Device, sayable};
use crate::store::{StoreError, int, read, uint};
use crate::sync;
use domain::code_table;
use domain::kernel::{
    Entropy, Epoch, OperationId, Reason, RecordId, Revision, Sensitivity, Timestamp,
};
use domain::operation::{Change, Operation, Rejection, check_texts};
use domain::record::ExternalRef;
use prost::Message as _;
use proto::convert::operation as door;
use proto::device::v1 as pb;
use rusqlite::{Connection, OptionalExtension as _};

code_table! {
    /// What became of an operation. The numbers are those of the store; from 6 on it is settled.
    Standing {
        /// To be sent.
        Queued = 1 "QUEUED",
        /// On the region's disk, waiting for what it rests on; asked again now and then.
        Held = 2 "HELD",
        /// On the region's disk, waiting for an officer; asked again now and then.
        Quarantined = 3 "QUARANTINED",
        /// The record has moved on; a person decides.
        Conflict = 4 "CONFLICT",
        /// Rests on a conflict, and is not sent before that is decided.
        Blocked = 5 "BLOCKED",
        /// Applied by the region.
        Applied = 6 "APPLIED",
        /// Refused by the region for good.
        Rejected = 7 "REJECTED",
        /// Given up, or replaced by another operation, after a conflict.
        Dropped = 8 "DROPPED",
    }
}

impl Standing {
    /// Whether nothing more will be done about it.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Applied | Self::Rejected | Self::Dropped)
    }
}

/// Something done on the phone.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What is done.
    pub change: Change,
    /// The record it changes; for one that it makes, `None` to have an id minted.
    pub record_id: Option<RecordId>,
    /// When it happened, by the phone's clock.
    pub occurred_at: Timestamp,
    /// Operations that must be applied before, beside those on the same record.
    pub parent_ids: Vec<OperationId>,
    /// Code of the unit that writes; may be empty.
    pub author_unit: String,
    /// Opaque reference of the member of staff.
    pub author_ref: Option<String>,
    /// How far the record may travel; only when it is made.
    pub sensitivity: Option<Sensitivity>,
    /// Key in a system that existed before; only when it is made.
    pub external_ref: Option<ExternalRef>,
}

impl Draft {
    /// A change that makes a record.
    pub fn making(change: Change, occurred_at: Timestamp) -> Self {
        Self {
            change,
            record_id: None,
            occurred_at,
            parent_ids: Vec::new(),
            author_unit: String::new(),
            author_ref: None,
            sensitivity: None,
            external_ref: None,
        }
    }

    /// A change of a record.
    pub fn changing(record_id: RecordId, change: Change, occurred_at: Timestamp) -> Self {
        Self { record_id: Some(record_id), ..Self::making(change, occurred_at) }
    }
}

/// What was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The operation.
    pub operation_id: OperationId,
    /// The record it makes or changes.
    pub record_id: RecordId,
    /// Its number on this phone.
    pub device_seq: u64,
}

/// Why something was not written down.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The region would refuse it: a field of the wrong form, a text that names a person, a parent
    /// that was refused.
    #[error("refused as {}", .0.reason.name())]
    Refused(Rejection),
    /// The store failed.
    #[error("the operation was not stored")]
    Store(#[from] StoreError),
}

/// Bytes of an encoded operation: what a single message to a region may have.
pub const OPERATION_BYTES_MAX: usize = 256 * 1024;

const SQL_LAST_ON_RECORD: &str = "SELECT operation_id, standing FROM operation
    WHERE record_id = ?1 AND settled_at IS NULL ORDER BY device_seq DESC LIMIT 1";
const SQL_REVISION: &str =
    "SELECT revision_t, revision_epoch, revision_n FROM record WHERE record_id = ?1";
const SQL_STANDING: &str = "SELECT standing FROM operation WHERE operation_id = ?1";
const SQL_INSERT: &str = "INSERT INTO operation
    (device_seq, operation_id, record_id, recorded_at, urgent, standing, encoded)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const SQL_INSERT_PARENT: &str =
    "INSERT INTO operation_parent (child_seq, parent_id) VALUES (?1, ?2)";

impl Device {
    /// Writes a change down. When this returns `Ok`, it is on disk and will be sent.
    ///
    /// A call for help is not refused for what is wrong with it, which is left out instead, and rests
    /// on nothing, so that nothing can hold it up.
    ///
    /// # Errors
    /// When the region would refuse it for sure, or it could not be stored; nothing was written then.
    pub fn record(&mut self, draft: Draft) -> Result<Recorded, RecordError> {
        let now = self.clock.now();
        let entropy = &*self.entropy;
        self.store.write(|tx| {
            check_record(tx, &draft)?;
            check_parents(tx, &draft)?;
            enqueue(tx, draft, now, now, entropy)
        })
    }
}

/// A record is made once, and a change names its record.
fn check_record(conn: &Connection, draft: &Draft) -> Result<(), RecordError> {
    let refused = |what| Err(RecordError::Refused(Rejection::field("record_id", what)));
    match draft.record_id {
        None if !draft.change.creates() => refused("must be given"),
        Some(id) if draft.change.creates() => {
            if find_revision(conn, id)?.is_some() || last_on_record(conn, id)?.is_some() {
                return refused("names a record that exists");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_parents(conn: &Connection, draft: &Draft) -> Result<(), RecordError> {
    for parent in &draft.parent_ids {
        if let Some(Standing::Rejected | Standing::Dropped) = find_standing(conn, *parent)? {
            return Err(RecordError::Refused(Rejection::of(Reason::ParentRejected)));
        }
    }
    Ok(())
}

/// Gives the draft its ids, number, parents and base, and puts it into the outbox.
pub(crate) fn enqueue(
    conn: &Connection,
    mut draft: Draft,
    recorded_at: Timestamp,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Recorded, RecordError> {
    let calls_for_help = matches!(draft.change, Change::RaiseSos(_));
    if calls_for_help {
        draft.parent_ids.clear();
    }
    let record_id = draft.record_id.unwrap_or_else(|| RecordId::mint(now, entropy));
    let (parent_ids, base_revision, standing) = rest_on(conn, &draft, record_id)?;
    let operation = Operation {
        operation_id: OperationId::mint(now, entropy),
        record_id,
        parent_ids,
        base_revision,
        occurred_at: sayable(draft.occurred_at),
        recorded_at: sayable(recorded_at),
        device_seq: sync::next_device_seq(conn)?,
        author_unit: draft.author_unit,
        author_ref: draft.author_ref,
        sensitivity: draft.sensitivity,
        external_ref: draft.external_ref,
        change: draft.change,
    };
    let operation = match pass(&operation) {
        Err(RecordError::Refused(_)) if calls_for_help => pass_without_faults(operation)?,
        passed => passed?,
    };
    insert(conn, &operation, standing)?;
    Ok(Recorded {
        operation_id: operation.operation_id,
        record_id,
        device_seq: operation.device_seq,
    })
}

/// What an operation rests on: its parents, the revision it was made on, and whether it may be sent.
fn rest_on(
    conn: &Connection,
    draft: &Draft,
    record_id: RecordId,
) -> Result<(Vec<OperationId>, Option<Revision>, Standing), StoreError> {
    let previous = last_on_record(conn, record_id)?;
    let mut parents = Vec::new();
    parents.extend(previous);
    // The region refuses a track for good when it does not know the shift, so it waits for the shift.
    if let Change::TrackBatch(batch) = &draft.change {
        parents.extend(last_on_record(conn, batch.shift_id)?);
    }
    for id in &draft.parent_ids {
        match find_standing(conn, *id)? {
            Some(Standing::Applied) => {}
            standing => parents.push((*id, standing.unwrap_or(Standing::Applied))),
        }
    }
    let stuck = |(_, standing): &_| matches!(standing, Standing::Conflict | Standing::Blocked);
    let standing = if parents.iter().any(stuck) { Standing::Blocked } else { Standing::Queued };
    let base_revision = match previous {
        None if !draft.change.creates() => find_revision(conn, record_id)?,
        _ => None,
    };
    let mut ids: Vec<OperationId> = Vec::with_capacity(parents.len());
    for (id, _) in parents {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok((ids, base_revision, standing))
}

/// Lets the operation through the region's own door and guard, so that what is queued is well formed.
fn pass(operation: &Operation) -> Result<Operation, RecordError> {
    let refused = RecordError::Refused;
    let operation = door::decode(pb::Operation::from(operation), proto::convert::Path::ROOT)
        .map_err(|found| {
            refused(Rejection { reason: Reason::FieldInvalid, violations: found.0 })
        })?;
    check_texts(&operation).map_err(refused)?;
    Ok(operation)
}

/// Leaves out of a call for help what would have it refused: its words, then as few of its places as
/// it takes.
fn pass_without_faults(mut operation: Operation) -> Result<Operation, RecordError> {
    operation.author_unit.clear();
    operation.author_ref = None;
    operation.external_ref = None;
    if let Change::RaiseSos(alert) = &mut operation.change {
        alert.remark.clear();
        alert.acknowledge_unit.clear();
    }
    for (keep_point, keep_last_known) in [(true, true), (true, false), (false, true)] {
        let mut tried = operation.clone();
        if let Change::RaiseSos(alert) = &mut tried.change {
            alert.point = alert.point.filter(|_| keep_point);
            alert.last_known = alert.last_known.filter(|_| keep_last_known);
        }
        if let Ok(passed) = pass(&tried) {
            return Ok(passed);
        }
    }
    if let Change::RaiseSos(alert) = &mut operation.change {
        (alert.point, alert.last_known) = (None, None);
    }
    pass(&operation)
}

fn insert(conn: &Connection, operation: &Operation, standing: Standing) -> Result<(), RecordError> {
    let encoded = pb::Operation::from(operation).encode_to_vec();
    if encoded.len() > OPERATION_BYTES_MAX {
        return Err(RecordError::Refused(Rejection::of(Reason::LimitExceeded)));
    }
    let seq = int(operation.device_seq);
    let urgent = operation.change.kind() == domain::kernel::Kind::SosAlert;
    let row = (
        seq,
        operation.operation_id.as_bytes().as_slice(),
        operation.record_id.as_bytes().as_slice(),
        operation.recorded_at.micros(),
        urgent,
        standing.code(),
        encoded,
    );
    conn.prepare_cached(SQL_INSERT).and_then(|mut s| s.execute(row)).map_err(StoreError::from)?;
    for parent in &operation.parent_ids {
        let row = (seq, parent.as_bytes().as_slice());
        conn.prepare_cached(SQL_INSERT_PARENT)
            .and_then(|mut statement| statement.execute(row))
            .map_err(StoreError::from)?;
    }
    Ok(())
}

/// The last operation on a record that is not settled.
fn last_on_record(
    conn: &Connection,
    record_id: RecordId,
) -> Result<Option<(OperationId, Standing)>, StoreError> {
    let row: Option<(Vec<u8>, i64)> = conn
        .prepare_cached(SQL_LAST_ON_RECORD)?
        .query_row([record_id.as_bytes().as_slice()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, standing)) = row else { return Ok(None) };
    let id = read(OperationId::from_slice(&id), "operation id")?;
    Ok(Some((id, read(Standing::try_from(standing).ok(), "standing")?)))
}

/// What became of an operation of this phone.
fn find_standing(conn: &Connection, id: OperationId) -> Result<Option<Standing>, StoreError> {
    let standing: Option<i64> = conn
        .prepare_cached(SQL_STANDING)?
        .query_row([id.as_bytes().as_slice()], |row| row.get(0))
        .optional()?;
    standing.map(|code| read(Standing::try_from(code).ok(), "standing")).transpose()
}

/// The newest known revision of a record.
fn find_revision(conn: &Connection, record_id: RecordId) -> Result<Option<Revision>, StoreError> {
    let row: Option<(u32, Vec<u8>, i64)> = conn
        .prepare_cached(SQL_REVISION)?
        .query_row([record_id.as_bytes().as_slice()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((t, epoch, n)) = row else { return Ok(None) };
    let epoch = read(Epoch::from_slice(&epoch), "revision")?;
    Ok(Some(Revision { t, epoch, n: uint(n) }))
}
