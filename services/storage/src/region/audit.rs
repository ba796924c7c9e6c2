//! Rows as they lie, for whoever holds them against their chains.

use super::{Store, disclosure, stream::stream_id};
use crate::ReadError;
use crate::sqlite::{int, uint};
use bytes::Bytes;
use domain::stream::StreamId;
use sqlx::Row as _;

/// What is held of an entry of a neighbour's stream.
#[derive(Clone, Debug)]
pub struct HeldEntry {
    /// Its place.
    pub seq: u64,
    /// Its salt; `None` for what came before salts were kept.
    pub salt: Option<[u8; 16]>,
    /// Its bytes, where they are kept as they came; else they follow from what is shown.
    pub entry: Option<Bytes>,
}

/// A view or withdrawal, and what is held of its entry.
#[derive(Clone, Debug)]
pub struct HeldView {
    /// Its place in the feed; the keyset of the next page.
    pub feed_seq: u64,
    /// The stream it came by.
    pub stream: StreamId,
    /// What is held of its entry.
    pub held: HeldEntry,
    /// What watchers are sent; opaque here.
    pub encoded: Bytes,
    /// SHA-256 of its entry; `None` for a withdrawal.
    pub view_sha256: Option<Vec<u8>>,
}

/// A look, and whether its row follows from the one before.
#[derive(Clone, Copy, Debug)]
pub struct HeldLook {
    /// Its number.
    pub number: u64,
    /// The hash that stands there: the next row is held against it.
    pub hash: [u8; 32],
    /// Whether it follows from the row and the one before.
    pub fits: bool,
}

const VIEWS: &str = "SELECT v.feed_seq, i.stream_id, v.seq, v.salt, v.entry, v.encoded, v.view_sha256
    FROM view v JOIN inbox i ON i.inbox_no = v.inbox_no WHERE v.feed_seq > $1 ORDER BY v.feed_seq LIMIT $2";
const BESIDE: &str = "SELECT c.seq, c.salt, c.entry FROM control c JOIN inbox i ON i.inbox_no = c.inbox_no WHERE i.stream_id = $1
    UNION ALL SELECT p.seq, p.salt, p.entry FROM parked p JOIN inbox i ON i.inbox_no = p.inbox_no WHERE i.stream_id = $1
    ORDER BY 1";
const LOOKS: &str = "SELECT disclosure_no, disclosed_at, device_id, set_no, purpose, method, feed_from, feed_to, count, hash
    FROM disclosure WHERE disclosure_no > $1 ORDER BY disclosure_no LIMIT $2";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[VIEWS, BESIDE, LOOKS];

impl Store {
    /// Views and withdrawals after a place in the feed, in the order in which they came.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.held_views.list", level = "debug", skip_all)]
    pub async fn list_held_views(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<HeldView>, ReadError> {
        let rows = sqlx::query(VIEWS)
            .bind(int(after))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(HeldView {
                    feed_seq: uint(row.try_get(0)?),
                    stream: stream_id(row, 1)?,
                    held: held(row, 2)?,
                    encoded: row.try_get::<Vec<u8>, _>(5)?.into(),
                    view_sha256: row.try_get(6)?,
                })
            })
            .collect()
    }

    /// Entries of a neighbour's stream that are neither view nor withdrawal, in their order.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.held_beside.list", level = "debug", skip_all)]
    pub async fn list_held_beside(&self, stream: &StreamId) -> Result<Vec<HeldEntry>, ReadError> {
        let rows = sqlx::query(BESIDE).bind(stream.to_bytes()).fetch_all(&self.readers).await?;
        rows.iter().map(|row| held(row, 0)).collect()
    }

    /// Looks after a number, each held against the hash that the one before should have.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.looks.list", level = "debug", skip_all)]
    pub async fn list_looks(
        &self,
        after: u64,
        mut before: [u8; 32],
        limit: u32,
    ) -> Result<Vec<HeldLook>, ReadError> {
        let rows = sqlx::query(LOOKS)
            .bind(int(after))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                let device: Option<Vec<u8>> = row.try_get(2)?;
                let expected = disclosure::hash(
                    &before,
                    row.try_get(1)?,
                    device.as_deref(),
                    row.try_get(3)?,
                    row.try_get(4)?,
                    row.try_get(5)?,
                    [row.try_get(6)?, row.try_get(7)?, row.try_get(8)?],
                );
                let found: Vec<u8> = row.try_get(9)?;
                let fits = found == expected;
                // One finding a row: those after it are held against what stands there.
                before = found.try_into().unwrap_or(expected);
                Ok(HeldLook { number: uint(row.try_get(0)?), hash: before, fits })
            })
            .collect()
    }
}

fn held(row: &sqlx::sqlite::SqliteRow, first: usize) -> Result<HeldEntry, ReadError> {
    let salt: Option<Vec<u8>> = row.try_get(first + 1)?;
    let entry: Option<Vec<u8>> = row.try_get(first + 2)?;
    Ok(HeldEntry {
        seq: uint(row.try_get(first)?),
        // What is no salt fits no chain: it is as good as changed.
        salt: salt.map(|salt| salt.try_into().unwrap_or_default()),
        entry: entry.map(Bytes::from),
    })
}
