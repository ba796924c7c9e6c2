//! Erasing a record: its content goes from this store at once, every stream that held it says so to its parties,
//! and what stays is its place in each chain.

use super::outbox::{self, Runs};
use super::{FeedItem, FeedSource, Opening, State, Store, StreamState};
use crate::ReadError;
use crate::region::commit::{OperationOutcome, read_revision};
use crate::region::stream::stream_id;
use crate::sqlite::{int, uint};
use crate::writer::WriteError;
use bytes::Bytes;
use domain::erasure::{ENTRIES_PER_ERASE_MAX, Erase, EraseReason};
use domain::kernel::{
    AgreementId, DeviceId, GatewayId, Kind, Lane, Reason, RecordId, RegionId, Revision, Timestamp,
};
use domain::stream::{Shown, StreamId};
use rusqlite::{Connection, OptionalExtension as _};
use sqlx::Row as _;
use std::collections::HashSet;

/// A record to erase.
#[derive(Clone, Debug)]
pub struct Erasing {
    /// The record.
    pub record_id: RecordId,
    /// Why.
    pub reason: EraseReason,
    /// Who asked.
    pub device: Option<DeviceId>,
    /// Fresh random bytes for the words of erasure: one for each stream that this region writes.
    pub salts: Vec<[u8; 16]>,
    /// How the streams of each agreement version open of which the region is a party: what stands in an epoch that was
    /// left is called off in the present one.
    pub openings: Vec<(AgreementId, u32, Opening)>,
    /// Where a record was born, and how it came to this region.
    pub origin: fn(&[u8]) -> Option<(RegionId, Vec<Vec<u8>>)>,
    /// What watchers are sent, by the record's kind; opaque here.
    pub encoded: fn(RecordId, Kind) -> Bytes,
    /// Until when the words of erasure are kept.
    pub expires_at: Timestamp,
    /// The region's clock.
    pub now: Timestamp,
}

/// An erased record, and the streams that held it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureRow {
    /// The record.
    pub record_id: RecordId,
    /// Its kind.
    pub kind: Kind,
    /// When it was erased.
    pub erased_at: Timestamp,
    /// Why.
    pub reason: EraseReason,
    /// Where it lay.
    pub streams: Vec<ErasedFrom>,
}

/// A stream that held an erased record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedFrom {
    /// The stream.
    pub stream: StreamId,
    /// First of its entries; 0 where there are none.
    pub from_seq: u64,
    /// Last of its entries.
    pub to_seq: u64,
    /// The entry that says so; 0 where it stands in another stream of the agreement, and out of reach where nothing
    /// is said any more.
    pub said_seq: u64,
    /// Gateways that deleted each packaging.
    pub gateways: Vec<GatewayId>,
}

/// Erases a record; tells whether there was one.
pub(super) fn run(
    state: &mut State,
    conn: &Connection,
    erasing: &Erasing,
) -> rusqlite::Result<bool> {
    let id = erasing.record_id.as_bytes().as_slice();
    let found = conn
        .prepare_cached(
            // Of a record that has another owner by now, what this region had of it.
            "SELECT revision_t, revision_epoch, revision_n, kind, shown, encoded FROM record WHERE record_id = ?1
             UNION ALL
             SELECT * FROM (SELECT h.revision_t, h.revision_epoch, h.revision_n, t.kind, t.shown, h.encoded
               FROM transfer t JOIN record_history h ON h.record_id = t.record_id
               WHERE t.record_id = ?1 AND t.direction = 1 AND t.state = 3 AND t.shown IS NOT NULL
               ORDER BY h.revision_t DESC, h.revision_epoch DESC, h.revision_n DESC, t.offered_at DESC LIMIT 1)
             LIMIT 1",
        )?
        .query_row([id], |row| {
            let (kind, shown): (i64, Vec<u8>) = (row.get(3)?, row.get(4)?);
            Ok((read_revision(row, 0)?, Kind::try_from(kind).ok(), shown, row.get::<_, Vec<u8>>(5)?))
        })
        .optional()?;
    let Some((Some(revision), Some(kind), shown, encoded)) = found else { return Ok(false) };
    let shown = Shown::from_bytes(&shown).ok_or(rusqlite::Error::InvalidQuery)?;
    state.memory.feed_seq += 1;
    let feed_seq = state.memory.feed_seq;
    let (birth, transfers) = (erasing.origin)(&encoded).ok_or(rusqlite::Error::InvalidQuery)?;
    let last = Last { kind, revision, birth, transfers, shown: &shown, feed_seq };
    from_streams(state, conn, erasing, last)?;
    conn.prepare_cached("DELETE FROM record WHERE record_id = ?1")?.execute([id])?;
    conn.prepare_cached("DELETE FROM record_history WHERE record_id = ?1")?.execute([id])?;
    // What waits is answered: there is nothing any more that it could change.
    conn.prepare_cached(
        "UPDATE operation SET encoded = NULL, outcome = ?2, reason = ?3 WHERE record_id = ?1 AND encoded IS NOT NULL",
    )?
    .execute((id, OperationOutcome::Rejected.code(), Reason::RecordNotFound.code()))?;
    let encoded = (erasing.encoded)(erasing.record_id, kind);
    conn.prepare_cached(
        "INSERT INTO erasure (feed_seq, record_id, kind, erased_at, reason, device_id, encoded) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((
        int(feed_seq),
        id,
        kind.code(),
        erasing.now.micros(),
        erasing.reason.code(),
        erasing.device.as_ref().map(|device| device.as_bytes().as_slice()),
        encoded.as_ref(),
    ))?;
    state.tell(|| FeedItem { feed_seq, kind, source: FeedSource::Withdrawal, encoded });
    state.pending.now = Some(erasing.now);
    state.unsettled = true;
    Ok(true)
}

/// What a record was when it was erased.
struct Last<'a> {
    kind: Kind,
    revision: Revision,
    birth: RegionId,
    /// How it came to this region.
    transfers: Vec<Vec<u8>>,
    shown: &'a Shown,
    /// The erasure's place in the feed.
    feed_seq: u64,
}

/// Takes a record out of every stream that holds it, and has each say so.
fn from_streams(
    state: &mut State,
    conn: &Connection,
    erasing: &Erasing,
    last: Last<'_>,
) -> rusqlite::Result<()> {
    let mut streams: Vec<_> =
        state.memory.streams.iter().map(|(id, state)| (id.clone(), state.number)).collect();
    streams.sort_unstable();
    let present = state.memory.footing.present.epoch;
    let mut runs = Runs::default();
    let mut salts = erasing.salts.iter().copied();
    let (mut said_in, mut left) = (HashSet::new(), Vec::new());
    let from = received_under(conn, erasing.record_id)?;
    for (stream, number) in &streams {
        let (stream, number) = (stream.clone(), *number);
        let erased = outbox::erase(conn, &stream, number, erasing.record_id)?;
        let (Some((from, _)), Some((to, _))) = (erased.first(), erased.last()) else { continue };
        state.pending.erased.push((stream.clone(), *from, *to));
        let place = Place { number, range: (*from, *to) };
        if stream.epoch != present {
            // Nothing is numbered there any more.
            left.push((stream, place));
            continue;
        }
        let mut said = 0;
        for entries in erased.chunks(ENTRIES_PER_ERASE_MAX) {
            let erase = erasing.word(&last, stream.agreement, entries);
            let salt = salts.next().ok_or(rusqlite::Error::InvalidQuery)?;
            let word = (salt, erase, erasing.expires_at);
            said = runs.push(state, conn, &stream, word, erasing.now)?.seq;
        }
        said_in.insert((stream.agreement, stream.version));
        place.write(conn, &last, said)?;
    }
    for (stream, place) in left {
        let version = (stream.agreement, stream.version);
        let opening = erasing.openings.iter().find(|(id, of, _)| (*id, *of) == version);
        let Some((agreement, _, opening)) = opening else {
            place.write(conn, &last, NEVER_SAID)?;
            continue;
        };
        place.write(conn, &last, 0)?;
        if said_in.insert(version) {
            let times = (erasing.expires_at, erasing.now);
            let stream = StreamId { epoch: present, ..stream };
            runs.open_over(state, conn, &stream, opening, times)?;
            let salt = salts.next().ok_or(rusqlite::Error::InvalidQuery)?;
            let word = (salt, erasing.word(&last, *agreement, &[]), erasing.expires_at);
            let said = runs.push(state, conn, &stream, word, erasing.now)?.seq;
            let number = runs.number_of(&stream).ok_or(rusqlite::Error::InvalidQuery)?;
            Place { number, range: (0, 0) }.write(conn, &last, said)?;
        }
    }
    // Whoever handed it over hears of it, also where it was shown nothing since.
    for (stream, number) in streams.iter().rev().filter(|(stream, _)| stream.epoch == present) {
        let lane = stream.lane == Lane::Routine;
        let heard = said_in.iter().any(|(agreement, _)| *agreement == stream.agreement);
        if lane && !heard && from.contains(&stream.agreement) {
            said_in.insert((stream.agreement, stream.version));
            let salt = salts.next().ok_or(rusqlite::Error::InvalidQuery)?;
            let word = (salt, erasing.word(&last, stream.agreement, &[]), erasing.expires_at);
            let said = runs.push(state, conn, stream, word, erasing.now)?.seq;
            Place { number: *number, range: (0, 0) }.write(conn, &last, said)?;
        }
    }
    runs.write(state, conn)
}

/// The agreements under which a record was handed over to this region.
fn received_under(conn: &Connection, record: RecordId) -> rusqlite::Result<Vec<AgreementId>> {
    let mut found = conn.prepare_cached(
        "SELECT agreement_id FROM transfer WHERE record_id = ?1 AND direction = 2 AND state = 3",
    )?;
    let rows = found.query_map([record.as_bytes().as_slice()], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|id| AgreementId::from_slice(&id?).ok_or(rusqlite::Error::InvalidQuery)).collect()
}

/// No receipt ever comes so far.
const NEVER_SAID: u64 = i64::MAX.cast_unsigned();

/// The entries of an erased record in a stream.
struct Place {
    number: i64,
    range: (u64, u64),
}

impl Place {
    /// Keeps where it lay, and which entry says that it was erased.
    fn write(&self, conn: &Connection, last: &Last<'_>, said: u64) -> rusqlite::Result<()> {
        let (from, to) = self.range;
        conn.prepare_cached(
            "INSERT INTO erasure_stream (feed_seq, stream_no, from_seq, to_seq, said_seq) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((int(last.feed_seq), self.number, int(from), int(to), int(said)))?;
        Ok(())
    }
}

impl Erasing {
    /// The word of erasure for a stream of the agreement, which names these entries.
    fn word(&self, last: &Last<'_>, agreement: AgreementId, entries: &[(u64, [u8; 32])]) -> Bytes {
        let before = last.shown.get(agreement);
        let word = Erase {
            record_id: self.record_id,
            kind: last.kind,
            birth_region: last.birth.clone(),
            revision: last.revision,
            share_n: before.map_or(1, |before| before.share_n.saturating_add(1)),
            reason: self.reason,
            entries: entries.to_vec(),
        };
        seal::entry::erase(&word, &last.transfers)
    }
}

/// Notes that a gateway deleted each packaging of a range.
pub(super) fn confirm(
    state: &State,
    conn: &Connection,
    (gateway, stream, from_seq, to_seq): &(GatewayId, StreamId, u64, u64),
) -> rusqlite::Result<()> {
    let Some(StreamState { number, .. }) = state.memory.streams.get(stream) else { return Ok(()) };
    conn.prepare_cached(
        "INSERT INTO erasure_gateway (feed_seq, stream_no, gateway_id)
         SELECT feed_seq, stream_no, ?2 FROM erasure_stream WHERE stream_no = ?1 AND from_seq >= ?3 AND to_seq <= ?4
         ON CONFLICT DO NOTHING",
    )?
    .execute((number, gateway.as_str(), int(*from_seq), int(*to_seq)))?;
    Ok(())
}

const ERASURES: &str = "SELECT e.feed_seq, e.record_id, e.kind, e.erased_at, e.reason, s.stream_id, t.from_seq, t.to_seq, t.said_seq, g.gateway_id
    FROM (SELECT * FROM erasure ORDER BY feed_seq DESC LIMIT $1) e LEFT JOIN erasure_stream t ON t.feed_seq = e.feed_seq
      LEFT JOIN stream s ON s.stream_no = t.stream_no
      LEFT JOIN erasure_gateway g ON g.feed_seq = t.feed_seq AND g.stream_no = t.stream_no
    ORDER BY e.feed_seq DESC, t.stream_no, g.gateway_id";

const UNCONFIRMED: &str = "SELECT s.stream_id, t.from_seq, t.to_seq FROM erasure_stream t JOIN stream s ON s.stream_no = t.stream_no
      LEFT JOIN erasure_gateway g ON g.feed_seq = t.feed_seq AND g.stream_no = t.stream_no AND g.gateway_id = $1
    WHERE g.gateway_id IS NULL AND t.from_seq > 0 ORDER BY t.feed_seq, t.stream_no LIMIT $2";
const IS_ERASED: &str = "SELECT 1 FROM erasure WHERE record_id = $1";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[ERASURES, UNCONFIRMED, IS_ERASED];

impl Store {
    /// Erases a record, and says so in every stream that held it; tells whether there was one.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn erase(&self, erasing: Erasing) -> Result<bool, WriteError> {
        self.queue.call(erasing, super::Job::Erase).await
    }

    /// Notes that a gateway deleted each packaging of a range of a stream.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn confirm_replaced(
        &self,
        gateway: GatewayId,
        stream: StreamId,
        (from_seq, to_seq): (u64, u64),
    ) -> Result<(), WriteError> {
        self.queue.call((gateway, stream, from_seq, to_seq), super::Job::Replaced).await
    }

    /// Ranges of streams whose packagings a gateway has not said that it deleted, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.erasures.unconfirmed", level = "debug", skip_all)]
    pub async fn list_unconfirmed(
        &self,
        gateway: &GatewayId,
        limit: u32,
    ) -> Result<Vec<(StreamId, u64, u64)>, ReadError> {
        let rows = sqlx::query(UNCONFIRMED)
            .bind(gateway.as_str())
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| Ok((stream_id(row, 0)?, uint(row.try_get(1)?), uint(row.try_get(2)?))))
            .collect()
    }

    /// Whether a record was erased.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.erasure.find", level = "debug", skip_all)]
    pub async fn is_erased(&self, record: RecordId) -> Result<bool, ReadError> {
        let id = record.as_bytes().as_slice();
        Ok(sqlx::query(IS_ERASED).bind(id).fetch_optional(&self.readers).await?.is_some())
    }

    /// What was erased, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.erasures.list", level = "debug", skip_all)]
    pub async fn list_erasures(&self, limit: u32) -> Result<Vec<ErasureRow>, ReadError> {
        let bad = || ReadError::Inconsistent("erasure");
        let rows = sqlx::query(ERASURES).bind(i64::from(limit)).fetch_all(&self.readers).await?;
        let mut erasures: Vec<ErasureRow> = Vec::new();
        for row in &rows {
            let record_id = RecordId::from_slice(row.try_get(1)?).ok_or_else(bad)?;
            if erasures.last().is_none_or(|last| last.record_id != record_id) {
                erasures.push(ErasureRow {
                    record_id,
                    kind: Kind::try_from(row.try_get::<i64, _>(2)?).map_err(|_| bad())?,
                    erased_at: Timestamp::from_micros(row.try_get(3)?),
                    reason: EraseReason::try_from(row.try_get::<i64, _>(4)?).map_err(|_| bad())?,
                    streams: Vec::new(),
                });
            }
            let Some(erasure) = erasures.last_mut() else { continue };
            if row.try_get::<Option<Vec<u8>>, _>(5)?.is_none() {
                continue;
            }
            let stream = stream_id(row, 5)?;
            if erasure.streams.last().is_none_or(|last| last.stream != stream) {
                erasure.streams.push(ErasedFrom {
                    stream,
                    from_seq: uint(row.try_get(6)?),
                    to_seq: uint(row.try_get(7)?),
                    said_seq: uint(row.try_get(8)?),
                    gateways: Vec::new(),
                });
            }
            let gateway = row.try_get::<Option<&str>, _>(9)?;
            if let (Some(from), Some(gateway)) = (erasure.streams.last_mut(), gateway) {
                from.gateways.push(GatewayId::parse(gateway).map_err(|_| bad())?);
            }
        }
        Ok(erasures)
    }
}
