//! What to send next. A batch is read from the outbox anew each time, so a lost batch or answer needs
//! no care: what is unsettled goes out again, and the region knows it by its id.

use crate::key::SignError;
use crate::outbox::Standing;
use crate::phone::{Device, sayable};
use crate::store::{StoreError, int, uint};
use bytes::Bytes;
use domain::kernel::Timestamp;
use prost::Message as _;
use proto::convert::kernel::encode_time;
use proto::convert::operation::OPERATIONS_PER_BATCH_MAX;
use proto::device::v1 as pb;
use rusqlite::Connection;
use std::collections::{BTreeSet, VecDeque};

/// How large a batch may be. Smaller on a slow link, where a call has 30 s to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operations of one batch, at most 1,000.
    pub operations_max: usize,
    /// Bytes of its operations; one operation always goes, however large.
    pub bytes_max: usize,
}

impl Default for Limits {
    /// The largest batch that a region takes, less what stands around the operations.
    fn default() -> Self {
        Self { operations_max: OPERATIONS_PER_BATCH_MAX, bytes_max: 900 * 1024 }
    }
}

/// Batches that were sent and not answered. One for each connection: what a dead one had in flight
/// must be sent again.
#[derive(Clone, Debug, Default)]
pub struct Window {
    limits: Limits,
    in_flight: VecDeque<BTreeSet<u64>>,
}

/// Why no batch was made.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The keystore did not sign.
    #[error("the batch was not signed")]
    Sign(#[from] SignError),
    /// The store failed.
    #[error("the outbox could not be read")]
    Store(#[from] StoreError),
}

/// Batches in flight at most; more would not make a slow link faster. A call for help does not wait.
pub const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// Seconds after which what is held is asked for again; its parent may have come by another phone.
pub const HELD_AGAIN_S: i64 = 60;
/// Seconds after which what is quarantined is asked for again; an officer looks at it.
pub const QUARANTINED_AGAIN_S: i64 = 3_600;

/// Bytes that stand around an operation in a batch: its tag and its length.
const FRAME_BYTES: usize = 5;

/// What may be sent now. A clock that was set back must not put the next question off for years.
const DUE: &str =
    "(o.standing = 1 OR o.standing IN (2, 3) AND (o.asked_at IS NULL OR o.asked_at > ?1
    OR o.asked_at <= CASE o.standing WHEN 2 THEN ?2 ELSE ?3 END))";

impl Window {
    /// A window of a new connection.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, in_flight: VecDeque::new() }
    }

    /// Batches that were sent and not answered.
    pub fn batches_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Forgets what is in flight: the connection is gone, or a call has failed.
    pub fn clear(&mut self) {
        self.in_flight.clear();
    }

    pub(crate) fn holds(&self, device_seq: u64) -> bool {
        self.in_flight.iter().any(|batch| batch.contains(&device_seq))
    }

    /// Forgets the batches that hold any of these.
    pub(crate) fn answered(&mut self, device_seqs: &BTreeSet<u64>) {
        self.in_flight.retain(|batch| batch.is_disjoint(device_seqs));
    }
}

impl Device {
    /// The next batch to send, signed; `None` when there is nothing to send now. Operations come oldest
    /// first, but those about a call for help go ahead with what they rest on, in a small batch of
    /// their own.
    ///
    /// # Errors
    /// When the store or the keystore fails.
    pub fn next_batch(&self, window: &mut Window) -> Result<Option<pb::SignedBatch>, BatchError> {
        let now = self.clock.now();
        let conn = self.store.conn();
        let mut found = list_urgent(conn, window, now)?;
        if found.is_empty() && window.in_flight.len() < BATCHES_IN_FLIGHT_MAX {
            found = list_due(conn, window, now)?;
        }
        if found.is_empty() {
            return Ok(None);
        }
        let mut device_seqs = BTreeSet::new();
        let mut operations = Vec::with_capacity(found.len());
        for (device_seq, encoded) in found {
            let operation = pb::Operation::decode(&*encoded)
                .map_err(|_| StoreError::Inconsistent("operation"))?;
            device_seqs.insert(device_seq);
            operations.push(operation);
        }
        let batch = pb::Batch {
            region_id: self.identity.region_id.as_str().to_owned(),
            device_id: Bytes::copy_from_slice(self.identity.device_id.as_bytes()),
            send_time: Some(encode_time(sayable(now))),
            operations,
        };
        let batch = batch.encode_to_vec();
        let signature = self.signer.sign(&batch)?;
        window.in_flight.push_back(device_seqs);
        Ok(Some(pb::SignedBatch { batch: batch.into(), signature: signature.into() }))
    }
}

type Found = Vec<(u64, Vec<u8>)>;

fn list_due(conn: &Connection, window: &Window, now: Timestamp) -> Result<Found, StoreError> {
    list(
        conn,
        &format!(
            "SELECT o.device_seq, o.encoded FROM operation o INDEXED BY operation_unsettled
             WHERE o.settled_at IS NULL AND {DUE} ORDER BY o.device_seq LIMIT ?4"
        ),
        window,
        now,
    )
}

/// What is about a call for help, and all unsettled operations below it.
fn list_urgent(conn: &Connection, window: &Window, now: Timestamp) -> Result<Found, StoreError> {
    list(
        conn,
        &format!(
            "WITH RECURSIVE wanted (device_seq) AS (
               SELECT o.device_seq FROM operation o INDEXED BY operation_urgent
               WHERE o.settled_at IS NULL AND o.urgent = 1 AND {DUE}
               UNION
               SELECT o.device_seq FROM wanted w
               JOIN operation_parent p ON p.child_seq = w.device_seq
               JOIN operation o ON o.operation_id = p.parent_id WHERE o.settled_at IS NULL
             )
             SELECT o.device_seq, o.encoded FROM wanted w JOIN operation o USING (device_seq)
             WHERE {DUE} ORDER BY o.device_seq LIMIT ?4"
        ),
        window,
        now,
    )
}

/// Reads rows up to the limits, less what is in flight.
fn list(
    conn: &Connection,
    sql: &str,
    window: &Window,
    now: Timestamp,
) -> Result<Found, StoreError> {
    let limits = window.limits;
    let operations_max = limits.operations_max.clamp(1, OPERATIONS_PER_BATCH_MAX);
    let in_flight: usize = window.in_flight.iter().map(BTreeSet::len).sum();
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query((
        now.micros(),
        now.plus_millis(-HELD_AGAIN_S * 1_000).micros(),
        now.plus_millis(-QUARANTINED_AGAIN_S * 1_000).micros(),
        int(operations_max + in_flight),
    ))?;
    let mut found = Found::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let device_seq = uint(row.get(0)?);
        if window.holds(device_seq) {
            continue;
        }
        let encoded: Vec<u8> = row.get(1)?;
        bytes += encoded.len() + FRAME_BYTES;
        let full = found.len() >= operations_max || bytes > limits.bytes_max;
        if full && !found.is_empty() {
            break;
        }
        found.push((device_seq, encoded));
    }
    Ok(found)
}

const _: () = assert!(
    Standing::Queued.code() == 1 && Standing::Held.code() == 2 && Standing::Quarantined.code() == 3,
    "the statements above name these numbers"
);
