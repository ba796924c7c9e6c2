//! Reading streams back: ranges to seal, positions, receipts, digests.

use super::{State, Store, StreamState};
use crate::ReadError;
use crate::region::commit::revision;
use crate::sqlite::{int, uint};
use bytes::Bytes;
use domain::kernel::{RecordId, RegionId, Revision, Timestamp};
use domain::stream::{Position, StreamId};
use rusqlite::Connection;
use sqlx::Row as _;
use std::collections::HashMap;

/// How far a stream goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// The stream.
    pub stream: StreamId,
    /// Last entry: numbered at the origin, applied at the recipient.
    pub position: Position,
    /// Entries parked; 0 at the origin.
    pub parked_count: u64,
}

/// A party's receipt for a stream this region writes.
#[derive(Clone, Debug)]
pub struct ReceiptRow {
    /// The stream.
    pub stream: StreamId,
    /// The party.
    pub party: RegionId,
    /// Applied up to here.
    pub position: Position,
    /// Entries it has parked.
    pub parked_count: u64,
    /// When it came.
    pub received_at: Timestamp,
    /// The signed object, as it came.
    pub signed: Bytes,
}

/// A view as the digest of its stream counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestRow {
    /// The record.
    pub record_id: RecordId,
    /// The revision shown.
    pub revision: Revision,
    /// Counts what was shown.
    pub share_n: u64,
    /// SHA-256 of the encoded view.
    pub view_sha256: [u8; 32],
}

const STREAMS: &str =
    "SELECT stream_id, last_seq, last_h, 0 AS parked_count FROM stream ORDER BY stream_no";
const INBOXES: &str =
    "SELECT stream_id, applied_seq, applied_h, parked_count FROM inbox ORDER BY inbox_no";
const STARTS: &str =
    "SELECT i.stream_id, c.entry FROM inbox i JOIN control c ON c.inbox_no = i.inbox_no
    WHERE c.seq = 1 ORDER BY i.inbox_no";
const RECEIPTS: &str =
    "SELECT s.stream_id, r.party, r.seq, r.h, r.parked_count, r.received_at, r.signed
    FROM receipt r JOIN stream s ON s.stream_no = r.stream_no ORDER BY r.stream_no, r.party";
const PARKED: &str = "SELECT p.seq, p.reason FROM parked p JOIN inbox i ON i.inbox_no = p.inbox_no
    WHERE i.stream_id = $1 ORDER BY p.seq DESC LIMIT $2";
const DIGEST: &str = "SELECT v.record_id, v.revision_t, v.revision_epoch, v.revision_n, v.share_n, v.view_sha256
    FROM view v JOIN inbox i ON i.inbox_no = v.inbox_no WHERE i.stream_id = $1 AND v.view_sha256 IS NOT NULL
    ORDER BY v.record_id, v.revision_t, v.revision_epoch, v.revision_n, v.share_n";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[STREAMS, INBOXES, STARTS, RECEIPTS, PARKED, DIGEST];

impl Store {
    /// Streams this region writes, and how far they go.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.streams.list", level = "debug", skip_all)]
    pub async fn list_streams(&self) -> Result<Vec<StreamRow>, ReadError> {
        self.stream_rows(STREAMS).await
    }

    /// Streams this region receives, and how far they are applied.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.inboxes.list", level = "debug", skip_all)]
    pub async fn list_inboxes(&self) -> Result<Vec<StreamRow>, ReadError> {
        self.stream_rows(INBOXES).await
    }

    /// The first entries of the streams this region receives.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.starts.list", level = "debug", skip_all)]
    pub async fn list_starts(&self) -> Result<Vec<(StreamId, Bytes)>, ReadError> {
        let rows = sqlx::query(STARTS).fetch_all(&self.readers).await?;
        let start = |row| Ok((stream_id(row, 0)?, row.try_get::<Vec<u8>, _>(1)?.into()));
        rows.iter().map(start).collect()
    }

    async fn stream_rows(&self, sql: &'static str) -> Result<Vec<StreamRow>, ReadError> {
        let rows = sqlx::query(sql).fetch_all(&self.readers).await?;
        rows.iter().map(stream_row).collect()
    }

    /// The newest receipts for the streams this region writes.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.receipts.list", level = "debug", skip_all)]
    pub async fn list_receipts(&self) -> Result<Vec<ReceiptRow>, ReadError> {
        let rows = sqlx::query(RECEIPTS).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                Ok(ReceiptRow {
                    stream: stream_id(row, 0)?,
                    party: RegionId::parse(row.try_get(1)?)
                        .map_err(|_| ReadError::Inconsistent("receipt.party"))?,
                    position: position(row, 2)?,
                    parked_count: uint(row.try_get(4)?),
                    received_at: Timestamp::from_micros(row.try_get(5)?),
                    signed: row.try_get::<Vec<u8>, _>(6)?.into(),
                })
            })
            .collect()
    }

    /// Entries parked in a stream this region receives, newest first: seq and reason number.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.parked.list", level = "debug", skip_all)]
    pub async fn list_parked(
        &self,
        stream: &StreamId,
        limit: u32,
    ) -> Result<Vec<(u64, i64)>, ReadError> {
        let rows = sqlx::query(PARKED)
            .bind(stream.to_bytes())
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok((uint(row.try_get(0)?), row.try_get(1)?))).collect()
    }

    /// Views this region was shown in a stream, in the digest's order.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.received_views.list", level = "debug", skip_all)]
    pub async fn list_received_views(
        &self,
        stream: &StreamId,
    ) -> Result<Vec<DigestRow>, ReadError> {
        let rows = sqlx::query(DIGEST).bind(stream.to_bytes()).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let bad = ReadError::Inconsistent("digest row");
                let (id, epoch): (Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(2)?);
                let (Some(record_id), Some(revision)) =
                    (RecordId::from_slice(&id), revision(row.try_get(1)?, &epoch, row.try_get(3)?))
                else {
                    return Err(bad);
                };
                let view_sha256 = fixed(row.try_get(5)?, "view_sha256")?;
                Ok(DigestRow { record_id, revision, share_n: uint(row.try_get(4)?), view_sha256 })
            })
            .collect()
    }
}

/// A stream and how far it goes, from four columns.
pub(super) fn stream_row(row: &sqlx::sqlite::SqliteRow) -> Result<StreamRow, ReadError> {
    Ok(StreamRow {
        stream: stream_id(row, 0)?,
        position: position(row, 1)?,
        parked_count: uint(row.try_get(3)?),
    })
}

pub(super) fn stream_id(
    row: &sqlx::sqlite::SqliteRow,
    column: usize,
) -> Result<StreamId, ReadError> {
    StreamId::from_bytes(row.try_get(column)?).ok_or(ReadError::Inconsistent("stream id"))
}

fn position(row: &sqlx::sqlite::SqliteRow, first: usize) -> Result<Position, ReadError> {
    Ok(Position {
        seq: uint(row.try_get(first)?),
        h: fixed(row.try_get(first + 1)?, "chain hash")?,
    })
}

pub(super) fn fixed<const N: usize>(
    bytes: &[u8],
    what: &'static str,
) -> Result<[u8; N], ReadError> {
    bytes.try_into().map_err(|_| ReadError::Inconsistent(what))
}

pub(super) fn load(conn: &Connection) -> rusqlite::Result<HashMap<StreamId, StreamState>> {
    let mut statement =
        conn.prepare("SELECT stream_no, stream_id, last_seq, last_h, end_seq, end_h FROM stream")?;
    let rows = statement.query_map([], |row| {
        let stream: Vec<u8> = row.get(1)?;
        let last = Position { seq: uint(row.get(2)?), h: row.get(3)? };
        let end = match (row.get::<_, Option<i64>>(4)?, row.get(5)?) {
            (Some(seq), Some(h)) => Some(Position { seq: uint(seq), h }),
            _ => None,
        };
        Ok((stream, StreamState { number: row.get(0)?, last, end }))
    })?;
    let mut streams = HashMap::new();
    for row in rows {
        let (stream, state) = row?;
        let stream = StreamId::from_bytes(&stream).ok_or(rusqlite::Error::InvalidQuery)?;
        streams.insert(stream, state);
    }
    Ok(streams)
}

/// Keeps a receipt when it is newer than the one held and the stream is ours.
pub(super) fn keep_receipt(
    state: &mut State,
    conn: &Connection,
    receipt: &ReceiptRow,
) -> rusqlite::Result<bool> {
    let Some(StreamState { number, .. }) = state.memory.streams.get(&receipt.stream) else {
        return Ok(false);
    };
    let changed = conn
        .prepare_cached(
            "INSERT INTO receipt (stream_no, party, seq, h, parked_count, received_at, signed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (stream_no, party) DO UPDATE SET seq = excluded.seq, h = excluded.h, parked_count = excluded.parked_count,
               received_at = excluded.received_at, signed = excluded.signed WHERE excluded.seq > receipt.seq",
        )?
        .execute((
            number,
            receipt.party.as_str(),
            int(receipt.position.seq),
            receipt.position.h.as_slice(),
            int(receipt.parked_count),
            receipt.received_at.micros(),
            receipt.signed.as_ref(),
        ))?;
    state.pending.receipts |= changed > 0;
    Ok(changed > 0)
}
