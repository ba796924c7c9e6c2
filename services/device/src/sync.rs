//! How far the talk with the region has come, and what is no longer kept.

use crate::outbox::Standing;
use crate::store::{StoreError, int, read, uint};
use domain::kernel::{Epoch, Timestamp};
use rusqlite::Connection;

/// Days a settled operation is kept, equal to the age of the oldest usable backup of a region: a
/// restored region gets back from its phones what its backup did not hold.
pub const OPERATION_DAYS_KEPT: i64 = 35;
/// Days without the region after which its records are wiped from the phone. What was done on the
/// phone stays.
pub const ALONE_DAYS_MAX: i64 = 14;

/// How far the talk has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyncState {
    /// Newest epoch the region has shown.
    pub(crate) epoch: Option<Epoch>,
    /// Last change read in it.
    pub(crate) feed_seq: u64,
    /// When the region last answered.
    pub(crate) last_sync_at: Option<Timestamp>,
    /// Server clock minus phone clock.
    pub(crate) clock_offset_ms: i64,
}

impl SyncState {
    pub(crate) fn load(conn: &Connection) -> Result<Self, StoreError> {
        type Row = (Option<Vec<u8>>, i64, Option<i64>, i64);
        let (epoch, feed_seq, last_sync_at, clock_offset_ms): Row = conn
            .prepare_cached(
                "SELECT epoch, feed_seq, last_sync_at, clock_offset_ms FROM sync_state",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let epoch = match epoch {
            Some(epoch) => Some(read(Epoch::from_slice(&epoch), "epoch")?),
            None => None,
        };
        Ok(Self {
            epoch,
            feed_seq: uint(feed_seq),
            last_sync_at: last_sync_at.map(Timestamp::from_micros),
            clock_offset_ms,
        })
    }

    /// The region's clock, as far as the phone knows it.
    pub(crate) const fn region_now(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(self.clock_offset_ms)
    }
}

/// Takes the next number for an operation.
pub(crate) fn next_device_seq(conn: &Connection) -> Result<u64, StoreError> {
    let seq: i64 = conn
        .prepare_cached("UPDATE sync_state SET device_seq = device_seq + 1 RETURNING device_seq")?
        .query_row([], |row| row.get(0))?;
    Ok(uint(seq))
}

/// Moves the place in the region's feed.
pub(crate) fn set_feed(conn: &Connection, epoch: Epoch, feed_seq: i64) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE sync_state SET epoch = ?1, feed_seq = ?2")?
        .execute((epoch.as_bytes().as_slice(), feed_seq))?;
    Ok(())
}

/// Notes the epoch that an enrolment tells. A newer one restarts the feed, and what was applied in
/// the older one is offered again.
pub(crate) fn note_epoch(conn: &Connection, epoch: Epoch) -> Result<(), StoreError> {
    match SyncState::load(conn)?.epoch {
        Some(known) if epoch <= known => {}
        Some(_) => {
            offer_again(conn)?;
            set_feed(conn, epoch, 0)?;
        }
        None => set_feed(conn, epoch, 0)?,
    }
    Ok(())
}

/// Puts every kept operation that was applied back into the outbox.
pub(crate) fn offer_again(conn: &Connection) -> Result<u64, StoreError> {
    let offered = conn
        .prepare_cached(
            "UPDATE operation SET standing = ?1, settled_at = NULL WHERE standing = ?2",
        )?
        .execute((Standing::Queued.code(), Standing::Applied.code()))?;
    Ok(u64::try_from(offered).unwrap_or(u64::MAX))
}

/// Notes that the region has answered, and deletes what has had its time.
pub(crate) fn note_contact(
    conn: &Connection,
    now: Timestamp,
    region_now: Option<Timestamp>,
) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE sync_state SET last_sync_at = ?1")?.execute([now.micros()])?;
    // The earlier of the two clocks: one that runs ahead must not delete what is still needed.
    sweep(conn, region_now.map_or(now, |region_now| region_now.min(now)))
}

fn sweep(conn: &Connection, now: Timestamp) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM operation WHERE settled_at < ?1")?
        .execute([now.plus_days(-OPERATION_DAYS_KEPT).micros()])?;
    conn.prepare_cached("DELETE FROM record WHERE expires_at < ?1")?.execute([now.micros()])?;
    conn.prepare_cached("DELETE FROM view WHERE expires_at < ?1")?.execute([now.micros()])?;
    Ok(())
}

/// Wipes the region's records after [`ALONE_DAYS_MAX`] without it. Their revisions stay, so that a
/// later change still says what it rests on.
pub(crate) fn wipe_when_alone(conn: &Connection, now: Timestamp) -> Result<(), StoreError> {
    let state = SyncState::load(conn)?;
    let since = now.plus_days(-ALONE_DAYS_MAX);
    if state.last_sync_at.is_none_or(|last| last >= since) {
        return Ok(());
    }
    conn.execute("UPDATE record SET encoded = NULL WHERE encoded IS NOT NULL", [])?;
    conn.execute("DELETE FROM view", [])?;
    conn.execute("UPDATE sync_state SET feed_seq = ?1", [int(0)])?;
    Ok(())
}
