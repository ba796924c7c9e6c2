//! Entries that were parked because an older release could not use them, and that this one can.

use super::apply::{self, Apply, InboxEntry};
use super::{State, Store};
use crate::ReadError;
use crate::sqlite::{int, uint};
use crate::writer::WriteError;
use bytes::Bytes;
use domain::kernel::Timestamp;
use domain::stream::StreamId;
use rusqlite::Connection;
use sqlx::Row as _;

/// Parked entries of one stream, and what each comes to now.
#[derive(Clone, Debug)]
pub struct Release {
    /// The stream.
    pub stream: StreamId,
    /// The entries, in order; none of them is parked any more.
    pub entries: Vec<InboxEntry>,
    /// The region's clock.
    pub now: Timestamp,
}

/// An entry that is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedEntry {
    /// Its place.
    pub seq: u64,
    /// Its salt.
    pub salt: [u8; 16],
    /// Its bytes.
    pub entry: Bytes,
}

/// Files entries as if they came now; tells how many were parked still. The cursor has long passed them.
pub(super) fn run(
    state: &mut State,
    conn: &Connection,
    release: &Release,
) -> rusqlite::Result<u64> {
    let Release { stream, entries, now } = release;
    let Some(mut inbox) = state.memory.inboxes.get(stream).copied() else { return Ok(0) };
    let mut released = Vec::with_capacity(entries.len());
    for entry in entries {
        let parked = conn
            .prepare_cached("DELETE FROM parked WHERE inbox_no = ?1 AND seq = ?2")?
            .execute((inbox.number, int(entry.seq)))?;
        if parked > 0 {
            released.push(entry.clone());
        }
    }
    let count = released.len() as u64;
    inbox.parked_count = inbox.parked_count.saturating_sub(count);
    let (before, after) = (inbox.applied, inbox.applied);
    let stream = stream.clone();
    let apply = Apply { stream, before, after, entries: released, parents: Vec::new(), now: *now };
    apply::keep_entries(state, conn, &mut inbox, &apply)?;
    conn.prepare_cached("UPDATE inbox SET parked_count = ?2 WHERE inbox_no = ?1")?
        .execute((inbox.number, int(inbox.parked_count)))?;
    state.pending.inbox.insert(apply.stream.clone(), inbox.applied);
    state.pending.now = Some(*now);
    state.memory.inboxes.insert(apply.stream, inbox);
    Ok(count)
}

const ENTRIES: &str =
    "SELECT p.seq, p.salt, p.entry FROM parked p JOIN inbox i ON i.inbox_no = p.inbox_no
    WHERE i.stream_id = $1 AND p.seq > $2 ORDER BY p.seq LIMIT $3";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[ENTRIES];

impl Store {
    /// Files parked entries that are of use now; tells how many were parked still.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn release(&self, release: Release) -> Result<u64, WriteError> {
        self.queue.call(release, super::Job::Release).await
    }

    /// Parked entries of a stream behind a place, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.parked_entries.list", level = "debug", skip_all)]
    pub async fn list_parked_entries(
        &self,
        stream: &StreamId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<ParkedEntry>, ReadError> {
        let query =
            sqlx::query(ENTRIES).bind(stream.to_bytes()).bind(int(after)).bind(i64::from(limit));
        let rows = query.fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let salt: Vec<u8> = row.try_get(1)?;
                Ok(ParkedEntry {
                    seq: uint(row.try_get(0)?),
                    salt: salt.try_into().map_err(|_| ReadError::Inconsistent("parked.salt"))?,
                    entry: row.try_get::<Vec<u8>, _>(2)?.into(),
                })
            })
            .collect()
    }
}
