//! How far each party is: its receipts, as they came. What every party has is dropped.

use super::{State, Store, segment};
use crate::ReadError;
use crate::sqlite::{int, uint};
use bytes::Bytes;
use domain::kernel::{RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use rusqlite::Connection;
use sqlx::Row as _;

/// A party's receipt.
#[derive(Clone, Debug)]
pub struct GatewayReceipt {
    /// The stream.
    pub stream: StreamId,
    /// The party.
    pub party: RegionId,
    /// Applied up to here.
    pub position: Position,
    /// The signed object, as it came.
    pub signed: Bytes,
    /// Who must receive the stream: the live parties of its agreement version without the origin.
    pub recipients: Vec<RegionId>,
    /// The gateway's clock.
    pub now: Timestamp,
}

/// What became of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptVerdict {
    /// Newer than the one held.
    Newer,
    /// The one held, or an older one.
    Known,
    /// The stream is not known here.
    UnknownStream,
}

const RECEIPTS: &str =
    "SELECT s.stream_id, r.party, r.seq, r.h, r.received_at, r.signed FROM receipt r
    JOIN stream s ON s.stream_no = r.stream_no ORDER BY r.stream_no, r.party";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[RECEIPTS, super::AGREEMENTS];

impl Store {
    /// The newest receipt of every party and stream; `recipients` is left empty.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.receipts.list", level = "debug", skip_all)]
    pub async fn list_receipts(&self) -> Result<Vec<GatewayReceipt>, ReadError> {
        let rows = sqlx::query(RECEIPTS).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let bad = || ReadError::Inconsistent("receipt");
                let h: Vec<u8> = row.try_get(3)?;
                Ok(GatewayReceipt {
                    stream: StreamId::from_bytes(row.try_get(0)?).ok_or_else(bad)?,
                    party: RegionId::parse(row.try_get(1)?).map_err(|_| bad())?,
                    position: Position {
                        seq: uint(row.try_get(2)?),
                        h: h.try_into().map_err(|_| bad())?,
                    },
                    signed: row.try_get::<Vec<u8>, _>(5)?.into(),
                    recipients: Vec::new(),
                    now: Timestamp::from_micros(row.try_get(4)?),
                })
            })
            .collect()
    }
}

pub(super) fn keep(
    state: &mut State,
    conn: &Connection,
    receipt: &GatewayReceipt,
) -> rusqlite::Result<ReceiptVerdict> {
    let Some((number, _)) = state.memory.streams.get(&receipt.stream) else {
        return Ok(ReceiptVerdict::UnknownStream);
    };
    let number = *number;
    let key = (number, receipt.party.clone());
    let held = state.memory.receipts.get(&key);
    if held.is_some_and(|held| held.seq >= receipt.position.seq) {
        let again = held == Some(&receipt.position) && renew(conn, number, receipt)?;
        if again {
            state.pending.receipts.push(receipt.clone());
        }
        return Ok(if again { ReceiptVerdict::Newer } else { ReceiptVerdict::Known });
    }
    conn.prepare_cached(
        "INSERT INTO receipt (stream_no, party, seq, h, received_at, signed) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (stream_no, party) DO UPDATE SET seq = excluded.seq, h = excluded.h,
           received_at = excluded.received_at, signed = excluded.signed",
    )?
    .execute((
        number,
        receipt.party.as_str(),
        int(receipt.position.seq),
        receipt.position.h.as_slice(),
        receipt.now.micros(),
        receipt.signed.as_ref(),
    ))?;
    state.memory.receipts.insert(key, receipt.position);
    let all_have = receipt
        .recipients
        .iter()
        .map(|party| state.memory.receipts.get(&(number, party.clone())).map_or(0, |at| at.seq))
        .min()
        .unwrap_or(0);
    segment::drop_through(conn, number, all_have)?;
    state.pending.receipts.push(receipt.clone());
    Ok(ReceiptVerdict::Newer)
}

/// Keeps a receipt that says the same as the one held, under another key: the one before is not believed for ever. Tells
/// whether it was kept.
fn renew(conn: &Connection, number: i64, receipt: &GatewayReceipt) -> rusqlite::Result<bool> {
    let place = (number, receipt.party.as_str());
    let held: Vec<u8> = conn
        .prepare_cached("SELECT signed FROM receipt WHERE stream_no = ?1 AND party = ?2")?
        .query_row(place, |row| row.get(0))?;
    if seal::signed::is_same_key(&held, &receipt.signed) {
        return Ok(false);
    }
    conn.prepare_cached(
        "UPDATE receipt SET signed = ?3, received_at = ?4 WHERE stream_no = ?1 AND party = ?2",
    )?
    .execute((place.0, place.1, receipt.signed.as_ref(), receipt.now.micros()))?;
    Ok(true)
}
