//! What an app shows of the outbox.

use crate::outbox::Standing;
use crate::phone::Device;
use crate::settle::{decode, violations};
use crate::store::{StoreError, int, read, uint};
use crate::sync::SyncState;
use domain::kernel::{FieldViolation, Reason, Timestamp};
use domain::operation::Operation;
use domain::record::Record;
use prost::Message as _;
use proto::convert::record;
use proto::device::v1 as pb;

/// How the outbox stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// To be sent.
    pub queued: u64,
    /// On the region's disk, waiting for what they rest on.
    pub held: u64,
    /// On the region's disk, waiting for an officer.
    pub quarantined: u64,
    /// Waiting for a person to decide.
    pub conflicts: u64,
    /// Waiting behind a conflict.
    pub blocked: u64,
    /// Refused by the region in the last 35 days.
    pub rejected: u64,
    /// When the oldest of the unsettled was written down.
    pub unsettled_since: Option<Timestamp>,
    /// When the region last answered.
    pub last_sync_at: Option<Timestamp>,
    /// Server clock minus phone clock, as last measured.
    pub clock_offset_ms: i64,
}

impl Status {
    /// All that the region has not answered for good.
    pub const fn unsettled(&self) -> u64 {
        self.queued + self.held + self.quarantined + self.conflicts + self.blocked
    }
}

/// An operation that the phone keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The operation.
    pub operation: Operation,
    /// What became of it.
    pub standing: Standing,
    /// Why, for a conflict or a refusal.
    pub reason: Option<Reason>,
    /// Which fields, where it is fields.
    pub violations: Vec<FieldViolation>,
    /// For a conflict, the record as it was then.
    pub current: Option<Record>,
}

impl Device {
    /// How the outbox stands.
    ///
    /// # Errors
    /// When the store fails.
    pub fn status(&self) -> Result<Status, StoreError> {
        let conn = self.store.conn();
        let state = SyncState::load(conn)?;
        let mut status = Status {
            last_sync_at: state.last_sync_at,
            clock_offset_ms: state.clock_offset_ms,
            ..Status::default()
        };
        let mut statement =
            conn.prepare_cached("SELECT standing, COUNT(*) FROM operation GROUP BY standing")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let standing = read(Standing::try_from(row.get::<_, i64>(0)?).ok(), "standing")?;
            let count = uint(row.get(1)?);
            match standing {
                Standing::Queued => status.queued = count,
                Standing::Held => status.held = count,
                Standing::Quarantined => status.quarantined = count,
                Standing::Conflict => status.conflicts = count,
                Standing::Blocked => status.blocked = count,
                Standing::Rejected => status.rejected = count,
                Standing::Applied | Standing::Dropped => {}
            }
        }
        let since: Option<i64> = conn
            .prepare_cached("SELECT MIN(recorded_at) FROM operation WHERE settled_at IS NULL")?
            .query_row([], |row| row.get(0))?;
        status.unsettled_since = since.map(Timestamp::from_micros);
        Ok(status)
    }

    /// Operations of a standing, oldest first, after the number `after`. For [`Standing::Conflict`]
    /// these are the cards that a person decides, see [`Device::resolve`].
    ///
    /// # Errors
    /// When the store fails.
    pub fn list_operations(
        &self,
        standing: Standing,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Kept>, StoreError> {
        let mut statement = self.store.conn().prepare_cached(
            "SELECT encoded, answer FROM operation WHERE standing = ?1 AND device_seq > ?2
             ORDER BY device_seq LIMIT ?3",
        )?;
        let mut rows = statement.query((standing.code(), int(after), limit))?;
        let mut kept = Vec::new();
        while let Some(row) = rows.next()? {
            let encoded: Vec<u8> = row.get(0)?;
            let answer: Option<Vec<u8>> = row.get(1)?;
            let answer = match answer {
                Some(answer) => read(pb::OperationResult::decode(&*answer).ok(), "answer")?,
                None => pb::OperationResult::default(),
            };
            kept.push(Kept {
                operation: decode(&encoded)?,
                standing,
                reason: Reason::try_from(answer.reason).ok(),
                violations: violations(&answer),
                current: answer.current.and_then(|current| record::decode(current).ok()),
            });
        }
        Ok(kept)
    }
}
