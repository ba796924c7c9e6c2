//! What has had its time goes: this region's records with their revisions, what it said of them in its streams, and its
//! neighbours' views. What stays is their places in each chain.

use super::{State, Store, outbox, transfer, withdrawal};
use crate::ReadError;
use crate::sqlite::{int, uint};
use crate::writer::WriteError;
use domain::kernel::{RecordId, Timestamp};
use rusqlite::{Connection, OptionalExtension as _};
use sqlx::Row as _;

/// What has had its time.
#[derive(Clone, Debug, Default)]
pub struct Expired {
    /// At this time.
    pub at: Timestamp,
    /// Records, by their places in the feed.
    records: Vec<i64>,
    /// Views, by theirs.
    views: Vec<i64>,
    /// Runs of streams: stream and last entry.
    runs: Vec<(i64, i64)>,
    /// Offers of records, by their names.
    transfers: Vec<Vec<u8>>,
}

impl Expired {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        let Self { at: _, records, views, runs, transfers } = self;
        records.is_empty() && views.is_empty() && runs.is_empty() && transfers.is_empty()
    }

    /// So much of it, and the rest.
    pub fn split(mut self, most: usize) -> (Self, Self) {
        let rest = Self {
            at: self.at,
            records: self.records.split_off(most.min(self.records.len())),
            views: self.views.split_off(most.min(self.views.len())),
            runs: self.runs.split_off(most.min(self.runs.len())),
            transfers: self.transfers.split_off(most.min(self.transfers.len())),
        };
        (self, rest)
    }

    /// Records and views.
    pub fn count(&self) -> usize {
        self.records.len() + self.views.len()
    }
}

/// Deletes what has had its time. How far the feed goes is kept: no place is given to another.
pub(super) fn run(state: &mut State, conn: &Connection, expired: &Expired) -> rusqlite::Result<()> {
    let at = expired.at;
    conn.prepare_cached(
        "INSERT INTO store_fact (name, value) VALUES ('feed_seq', ?1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )?
    .execute([state.memory.feed_seq.to_be_bytes()])?;
    for feed_seq in &expired.records {
        let gone: Option<Vec<u8>> = conn
            .prepare_cached("DELETE FROM record WHERE feed_seq = ?1 RETURNING record_id")?
            .query_row([feed_seq], |row| row.get(0))
            .optional()?;
        if let Some(record) = gone {
            conn.prepare_cached("DELETE FROM record_history WHERE record_id = ?1")?
                .execute([record])?;
        }
    }
    for feed_seq in &expired.views {
        expire_view(state, conn, *feed_seq)?;
    }
    for offer in &expired.transfers {
        transfer::expire(conn, offer, at)?;
    }
    for (number, last_seq) in &expired.runs {
        let of = |(_, known): &(_, &super::StreamState)| known.number == *number;
        let stream = state.memory.streams.iter().find(of).map(|(stream, _)| stream.clone());
        let Some(stream) = stream else { continue };
        let range = outbox::expire(conn, &stream, (*number, *last_seq), at)?;
        if let Some((from, to)) = range {
            outdate(conn, (*number, *last_seq), (from, to))?;
            state.pending.erased.push((stream, from, to));
        }
    }
    state.unsettled = true;
    state.pending.now = Some(at);
    Ok(())
}

/// Has every gateway delete each packaging of a range of a run, as after an erasure, also those that are away now. It
/// stands behind no erasure: under the run's last entry, below zero.
fn outdate(
    conn: &Connection,
    (number, last_seq): (i64, i64),
    (from, to): (u64, u64),
) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM erasure_gateway WHERE feed_seq = ?1 AND stream_no = ?2")?
        .execute((-last_seq, number))?;
    conn.prepare_cached(
        "INSERT INTO erasure_stream (feed_seq, stream_no, from_seq, to_seq, said_seq) VALUES (?1, ?2, ?3, ?4, 0)
         ON CONFLICT (feed_seq, stream_no) DO UPDATE SET from_seq = min(from_seq, excluded.from_seq),
           to_seq = max(to_seq, excluded.to_seq)",
    )?
    .execute((-last_seq, number, int(from), int(to)))?;
    Ok(())
}

fn expire_view(state: &mut State, conn: &Connection, feed_seq: i64) -> rusqlite::Result<()> {
    let found: Option<(i64, i64, Vec<u8>)> = conn
        .prepare_cached("SELECT inbox_no, seq, record_id FROM view WHERE feed_seq = ?1")?
        .query_row([feed_seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((number, seq, record)) = found else { return Ok(()) };
    let record = RecordId::from_slice(&record).ok_or(rusqlite::Error::InvalidQuery)?;
    let mut inboxes = state.memory.inboxes.values_mut();
    if let Some(inbox) = inboxes.find(|inbox| inbox.number == number)
        && withdrawal::erase(conn, inbox, record, uint(seq), None)?
    {
        return Ok(());
    }
    // It came before salts were kept: there is no chain to follow over it.
    conn.prepare_cached(
        "UPDATE view SET encoded = x'', current = 0, expires_at = ?2 WHERE feed_seq = ?1",
    )?
    .execute((feed_seq, i64::MAX))?;
    Ok(())
}

const RECORDS: &str = "SELECT feed_seq FROM record WHERE expires_at <= $1 LIMIT $2";
const VIEWS: &str = "SELECT feed_seq FROM view WHERE expires_at <= $1 LIMIT $2";
const RUNS: &str = "SELECT stream_no, last_seq FROM outbox WHERE expires_first <= $1 LIMIT $2";
const TRANSFERS: &str = "SELECT offer_sha256 FROM transfer WHERE expires_at <= $1 LIMIT $2";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[RECORDS, VIEWS, RUNS, TRANSFERS];

impl Store {
    /// What has had its time, at most so many of each.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.expired.list", level = "debug", skip_all)]
    pub async fn list_expired(&self, at: Timestamp, limit: u32) -> Result<Expired, ReadError> {
        let limit = i64::from(limit);
        let places = async |sql: &'static str| {
            let rows =
                sqlx::query(sql).bind(at.micros()).bind(limit).fetch_all(&self.readers).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<Vec<i64>, ReadError>>()
        };
        let runs = sqlx::query(RUNS).bind(at.micros()).bind(limit).fetch_all(&self.readers).await?;
        let run = |row: &sqlx::sqlite::SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
        let offers = sqlx::query(TRANSFERS).bind(at.micros()).bind(limit);
        let offers = offers.fetch_all(&self.readers).await?;
        let offer = |row: &sqlx::sqlite::SqliteRow| Ok(row.try_get(0)?);
        Ok(Expired {
            at,
            records: places(RECORDS).await?,
            views: places(VIEWS).await?,
            runs: runs.iter().map(run).collect::<Result<_, ReadError>>()?,
            transfers: offers.iter().map(offer).collect::<Result<_, ReadError>>()?,
        })
    }

    /// Deletes what has had its time.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn expire(&self, expired: Expired) -> Result<(), WriteError> {
        self.queue.call(expired, super::Job::Expire).await
    }
}
