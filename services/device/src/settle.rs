//! What the region answers.

use crate::batch::Window;
use crate::conflict;
use crate::inbox::{learn_record, learn_revision};
use crate::outbox::Standing;
use crate::phone::Device;
use crate::store::{StoreError, int, read, uint};
use crate::sync;
use domain::kernel::{FieldViolation, OperationId, Reason, RecordId, Revision, Timestamp};
use domain::operation::Operation;
use prost::Message as _;
use proto::convert::kernel::decode_time;
use proto::device::v1 as pb;
use rusqlite::{Connection, OptionalExtension as _, Transaction};
use std::collections::BTreeSet;

/// What an answer has settled and what not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Applied by this batch.
    pub applied: u64,
    /// Applied before.
    pub duplicate: u64,
    /// Refused for good.
    pub rejected: Vec<Refused>,
    /// In conflict: each has become a card for a person to decide.
    pub conflicts: Vec<OperationId>,
    /// On the region's disk, waiting for what they rest on.
    pub held: u64,
    /// On the region's disk, waiting for an officer.
    pub quarantined: u64,
    /// Results that answer nothing in flight, or cannot be read.
    pub ignored: u64,
}

impl Report {
    /// Takes in what another answer has settled.
    pub fn add(&mut self, other: Self) {
        let Self { applied, duplicate, rejected, conflicts, held, quarantined, ignored } = other;
        self.applied += applied;
        self.duplicate += duplicate;
        self.rejected.extend(rejected);
        self.conflicts.extend(conflicts);
        self.held += held;
        self.quarantined += quarantined;
        self.ignored += ignored;
    }
}

/// An operation that was refused for good.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The operation.
    pub operation_id: OperationId,
    /// The record it would have made or changed.
    pub record_id: RecordId,
    /// Why; `None` when the reason is newer than this program.
    pub reason: Option<Reason>,
    /// Which fields, where it is fields.
    pub violations: Vec<FieldViolation>,
}

const SQL_FIND: &str = "SELECT device_seq, standing, encoded FROM operation
    WHERE operation_id = ?1 AND settled_at IS NULL";
const SQL_APPLIED: &str = "UPDATE operation
    SET standing = ?2, settled_at = ?3, asked_at = NULL, answer = NULL WHERE device_seq = ?1";
const SQL_REJECTED: &str = "UPDATE operation
    SET standing = ?2, settled_at = ?3, asked_at = NULL, answer = ?4 WHERE device_seq = ?1";
const SQL_WAITING: &str =
    "UPDATE operation SET standing = ?2, asked_at = ?3, answer = ?4 WHERE device_seq = ?1";
const SQL_WAKE_CHILDREN: &str = "UPDATE operation SET asked_at = NULL WHERE standing = 2
    AND device_seq IN (SELECT child_seq FROM operation_parent WHERE parent_id = ?1)";

const SQL_FORGET: &str = "DELETE FROM record WHERE record_id = ?1";

/// An unsettled operation that was answered.
struct Answered {
    device_seq: u64,
    standing: Standing,
    operation: Operation,
}

impl Device {
    /// Takes the answer to a batch. Answers may come twice, late or not at all: only what `window` has in
    /// flight is settled, and it is settled once.
    ///
    /// # Errors
    /// When the store fails; everything in flight is sent again then.
    pub fn settle(
        &mut self,
        response: pb::PushResponse,
        window: &mut Window,
    ) -> Result<Report, StoreError> {
        let now = self.clock.now();
        let pb::PushResponse { results, receive_time, clock_offset_ms } = response;
        let region_now = receive_time.and_then(decode_time);
        let (report, answered) = self.store.write(|tx| {
            tx.execute("UPDATE sync_state SET clock_offset_ms = ?1", [clock_offset_ms])?;
            let mut settling = Settling {
                tx,
                now,
                settled_at: region_now.unwrap_or(now),
                report: Report::default(),
                answered: BTreeSet::new(),
            };
            for result in results {
                settling.take(result, window)?;
            }
            let Settling { report, answered, .. } = settling;
            if !report.conflicts.is_empty() {
                conflict::block_again(tx)?;
            }
            sync::note_contact(tx, now, region_now)?;
            Ok::<_, StoreError>((report, answered))
        })?;
        window.answered(&answered);
        Ok(report)
    }
}

struct Settling<'a> {
    tx: &'a Transaction<'a>,
    now: Timestamp,
    settled_at: Timestamp,
    report: Report,
    answered: BTreeSet<u64>,
}

impl Settling<'_> {
    fn take(&mut self, result: pb::OperationResult, window: &Window) -> Result<(), StoreError> {
        let answered = match OperationId::from_slice(&result.operation_id) {
            Some(id) => find(self.tx, id)?,
            None => None,
        };
        let Some(answered) = answered.filter(|answered| window.holds(answered.device_seq)) else {
            self.report.ignored += 1;
            return Ok(());
        };
        self.answered.insert(answered.device_seq);
        match result.outcome() {
            pb::Outcome::Applied => {
                self.report.applied += 1;
                self.applied(&answered, result)
            }
            pb::Outcome::Duplicate => {
                self.report.duplicate += 1;
                self.applied(&answered, result)
            }
            pb::Outcome::Rejected => self.rejected(&answered, &result),
            pb::Outcome::Conflict => self.conflict(&answered, result),
            pb::Outcome::Held => {
                self.report.held += 1;
                self.waiting(&answered, Standing::Held)
            }
            pb::Outcome::Quarantined => {
                self.report.quarantined += 1;
                self.waiting(&answered, Standing::Quarantined)
            }
            pb::Outcome::Unspecified => {
                self.report.ignored += 1;
                Ok(())
            }
        }
    }

    /// The revision is learned from a repeat too: the phone's own change is in it, and to rest the next
    /// change on an older one would be a conflict with oneself each time an answer is lost.
    fn applied(&self, answered: &Answered, result: pb::OperationResult) -> Result<(), StoreError> {
        self.tx.prepare_cached(SQL_APPLIED)?.execute((
            int(answered.device_seq),
            Standing::Applied.code(),
            self.settled_at.micros(),
        ))?;
        let operation = &answered.operation;
        self.tx
            .prepare_cached(SQL_WAKE_CHILDREN)?
            .execute([operation.operation_id.as_bytes().as_slice()])?;
        self.learn(operation, result)
    }

    fn rejected(
        &mut self,
        answered: &Answered,
        result: &pb::OperationResult,
    ) -> Result<(), StoreError> {
        self.tx.prepare_cached(SQL_REJECTED)?.execute((
            int(answered.device_seq),
            Standing::Rejected.code(),
            self.settled_at.micros(),
            result.encode_to_vec(),
        ))?;
        self.report.rejected.push(Refused {
            operation_id: answered.operation.operation_id,
            record_id: answered.operation.record_id,
            reason: Reason::try_from(result.reason).ok(),
            violations: violations(result),
        });
        Ok(())
    }

    fn conflict(
        &mut self,
        answered: &Answered,
        result: pb::OperationResult,
    ) -> Result<(), StoreError> {
        self.tx.prepare_cached(SQL_WAITING)?.execute((
            int(answered.device_seq),
            Standing::Conflict.code(),
            None::<i64>,
            Some(result.encode_to_vec()),
        ))?;
        self.report.conflicts.push(answered.operation.operation_id);
        // The region has the last word: on a revision that only the phone believes in, every change
        // would be in conflict for ever.
        if result.revision.is_some() || result.current.is_some() {
            self.tx.prepare_cached(SQL_FORGET)?.execute([answered
                .operation
                .record_id
                .as_bytes()
                .as_slice()])?;
        }
        self.learn(&answered.operation, result)
    }

    /// What waits for a person on this phone goes on waiting for that person.
    fn waiting(&self, answered: &Answered, standing: Standing) -> Result<(), StoreError> {
        if matches!(answered.standing, Standing::Conflict | Standing::Blocked) {
            return Ok(());
        }
        self.tx.prepare_cached(SQL_WAITING)?.execute((
            int(answered.device_seq),
            standing.code(),
            Some(self.now.micros()),
            None::<Vec<u8>>,
        ))?;
        Ok(())
    }

    fn learn(&self, operation: &Operation, result: pb::OperationResult) -> Result<(), StoreError> {
        let pb::OperationResult { revision, current, .. } = result;
        if let Some(current) = current {
            learn_record(self.tx, &current, Some(operation.record_id))?;
        }
        if let Some(revision) = revision.and_then(|revision| Revision::try_from(revision).ok()) {
            let expires_at = self.settled_at.plus_days(sync::OPERATION_DAYS_KEPT);
            learn_revision(self.tx, operation, revision, expires_at)?;
        }
        Ok(())
    }
}

/// The violations that a result names.
pub(crate) fn violations(result: &pb::OperationResult) -> Vec<FieldViolation> {
    let named = |found: &pb::FieldViolation| {
        FieldViolation::new(found.field.as_str(), found.description.as_str())
    };
    result.field_violations.iter().map(named).collect()
}

fn find(conn: &Connection, id: OperationId) -> Result<Option<Answered>, StoreError> {
    let row: Option<(i64, i64, Vec<u8>)> = conn
        .prepare_cached(SQL_FIND)?
        .query_row([id.as_bytes().as_slice()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((device_seq, standing, encoded)) = row else { return Ok(None) };
    let standing = read(Standing::try_from(standing).ok(), "standing")?;
    let operation = decode(&encoded)?;
    Ok(Some(Answered { device_seq: uint(device_seq), standing, operation }))
}

/// Reads an operation of our own back.
pub(crate) fn decode(encoded: &[u8]) -> Result<Operation, StoreError> {
    let operation = pb::Operation::decode(encoded).ok().and_then(|o| Operation::try_from(o).ok());
    read(operation, "operation")
}
