//! Conflicts. The region says that a record has moved on; the phone keeps the change, shows it beside
//! the record as it is now, and a person decides. Until then nothing that rests on it is sent, because
//! it was done by somebody who believed the change.

use crate::outbox::{Draft, RecordError, Recorded, Standing, enqueue};
use crate::phone::Device;
use crate::settle::decode;
use crate::store::{StoreError, int, uint};
use domain::kernel::{OperationId, RecordId, Timestamp};
use domain::operation::Operation;
use rusqlite::{Connection, Transaction};
use std::collections::{HashMap, HashSet};

/// What a person decides about a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The change still holds: it is done again on the record as it is now, and all that rests on it
    /// after it.
    Resend,
    /// The change is given up, and with it what was done to the same record after it. What rests on
    /// it but is about another record stands by itself.
    Drop,
}

/// What became of an operation when a conflict was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The operation; it will not be sent again.
    pub operation_id: OperationId,
    /// What takes its place; `None` when it was given up.
    pub replacement: Option<Recorded>,
}

/// Why a conflict was not decided.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no conflict about this operation.
    #[error("the operation is not in conflict")]
    NotInConflict,
    /// The change cannot be done again.
    #[error("the change could not be written down again")]
    Record(#[from] RecordError),
}

impl From<StoreError> for ResolveError {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

/// Unsettled operations that rest on ?1, itself included, oldest first.
const SQL_BELOW: &str = "WITH RECURSIVE below (device_seq, operation_id) AS (
      SELECT device_seq, operation_id FROM operation WHERE operation_id = ?1 AND settled_at IS NULL
      UNION
      SELECT o.device_seq, o.operation_id FROM below b
      JOIN operation_parent p ON p.parent_id = b.operation_id
      JOIN operation o ON o.device_seq = p.child_seq WHERE o.settled_at IS NULL
    )
    SELECT o.device_seq, o.standing, o.encoded FROM below JOIN operation o USING (device_seq)
    ORDER BY o.device_seq";
const SQL_BLOCK: &str = "WITH RECURSIVE below (device_seq, operation_id) AS (
      SELECT device_seq, operation_id FROM operation WHERE standing = 4
      UNION
      SELECT o.device_seq, o.operation_id FROM below b
      JOIN operation_parent p ON p.parent_id = b.operation_id
      JOIN operation o ON o.device_seq = p.child_seq WHERE o.settled_at IS NULL
    )
    UPDATE operation SET standing = 5, asked_at = NULL
    WHERE standing IN (1, 2, 3) AND device_seq IN (SELECT device_seq FROM below)";
const SQL_UNBLOCK: &str = "UPDATE operation SET standing = 1 WHERE standing = 5";
const SQL_DROP: &str = "UPDATE operation SET standing = ?2, settled_at = ?3, asked_at = NULL,
    answer = NULL WHERE device_seq = ?1";

impl Device {
    /// Decides a conflict. The replacements are new operations: an answer to the old ones that comes
    /// late can then settle nothing.
    ///
    /// # Errors
    /// When the operation is not in conflict, the change can no longer be written down, or the store
    /// fails; nothing has changed then.
    pub fn resolve(
        &mut self,
        operation_id: OperationId,
        resolution: Resolution,
    ) -> Result<Vec<Resolved>, ResolveError> {
        let now = self.clock.now();
        let entropy = &*self.entropy;
        self.store.write(|tx| {
            let below = list_below(tx, operation_id)?;
            let in_conflict = below.iter().any(|(_, standing, operation)| {
                operation.operation_id == operation_id && *standing == Standing::Conflict.code()
            });
            if !in_conflict {
                return Err(ResolveError::NotInConflict);
            }
            for (device_seq, ..) in &below {
                drop_operation(tx, *device_seq, now)?;
            }
            let mut replaced: HashMap<OperationId, Option<Recorded>> = HashMap::new();
            let mut given_up: HashSet<RecordId> = HashSet::new();
            let mut resolved = Vec::with_capacity(below.len());
            for (_, _, operation) in below {
                let id = operation.operation_id;
                let drop = resolution == Resolution::Drop
                    && (id == operation_id || given_up.contains(&operation.record_id));
                let replacement = if drop {
                    given_up.insert(operation.record_id);
                    None
                } else {
                    let recorded_at = operation.recorded_at;
                    let draft = draft(operation, &replaced);
                    Some(enqueue(tx, draft, recorded_at, now, entropy)?)
                };
                replaced.insert(id, replacement);
                resolved.push(Resolved { operation_id: id, replacement });
            }
            block_again(tx)?;
            Ok(resolved)
        })
    }
}

/// Blocks what rests on a conflict and nothing else.
pub(crate) fn block_again(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.prepare_cached(SQL_UNBLOCK)?.execute([])?;
    tx.prepare_cached(SQL_BLOCK)?.execute([])?;
    Ok(())
}

/// The same change again, resting on the replacements of what it rested on.
fn draft(operation: Operation, replaced: &HashMap<OperationId, Option<Recorded>>) -> Draft {
    let parent_ids = operation
        .parent_ids
        .into_iter()
        .filter_map(|id| match replaced.get(&id) {
            Some(replacement) => replacement.map(|replacement| replacement.operation_id),
            None => Some(id),
        })
        .collect();
    Draft {
        change: operation.change,
        record_id: Some(operation.record_id),
        occurred_at: operation.occurred_at,
        parent_ids,
        author_unit: operation.author_unit,
        author_ref: operation.author_ref,
        sensitivity: operation.sensitivity,
        external_ref: operation.external_ref,
    }
}

fn list_below(
    conn: &Connection,
    id: OperationId,
) -> Result<Vec<(u64, i32, Operation)>, StoreError> {
    let mut statement = conn.prepare_cached(SQL_BELOW)?;
    let mut rows = statement.query([id.as_bytes().as_slice()])?;
    let mut below = Vec::new();
    while let Some(row) = rows.next()? {
        let encoded: Vec<u8> = row.get(2)?;
        below.push((uint(row.get(0)?), row.get(1)?, decode(&encoded)?));
    }
    Ok(below)
}

fn drop_operation(conn: &Connection, device_seq: u64, now: Timestamp) -> Result<(), StoreError> {
    conn.prepare_cached(SQL_DROP)?.execute((
        int(device_seq),
        Standing::Dropped.code(),
        now.micros(),
    ))?;
    Ok(())
}
