//! Which segments are stored: the next one, a refill that joins on, or a jump that every party's
//! receipt backs.

use super::{State, Store};
use crate::ReadError;
use crate::sqlite::{Insert, int, uint};
use bytes::Bytes;
use domain::kernel::{RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use futures_util::TryStreamExt as _;
use rusqlite::{Connection, OptionalExtension as _};
use sqlx::Row as _;
use std::sync::LazyLock;

/// A verified segment.
#[derive(Clone, Debug)]
pub struct SegmentWrite {
    /// Its stream.
    pub stream: StreamId,
    /// Where it begins.
    pub before: Position,
    /// Where it ends.
    pub after: Position,
    /// The segment, as it came.
    pub encoded: Bytes,
    /// Who must receive it: the live parties of its agreement version without the origin.
    pub recipients: Vec<RegionId>,
    /// The gateway's clock.
    pub now: Timestamp,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentVerdict {
    /// On disk; the stream goes so far.
    Stored(Position),
    /// Was on disk before; the stream goes so far.
    Known(Position),
    /// Does not join on; the stream goes so far.
    Apart(Position),
    /// Another chain hash is known for a position it covers: two streams of one name.
    Forked(Position),
}

/// A stream as far as it is stored.
#[derive(Clone, Debug)]
pub struct StoredStream {
    /// The stream.
    pub stream: StreamId,
    /// How far it goes.
    pub last: Position,
    /// Seq of the oldest segment that is still held; `last.seq + 1` when none is.
    pub oldest_seq: u64,
    /// The newest signed head, as it came.
    pub head: Option<Bytes>,
}

/// A segment that is held.
#[derive(Clone, Debug)]
pub struct StoredSegment {
    /// Its first entry.
    pub first_seq: u64,
    /// Its last entry.
    pub last_seq: u64,
    /// The segment, as it came.
    pub encoded: Bytes,
}

/// Segments read at a time; the driver reads ahead, and a segment may have a megabyte.
const SEGMENTS_PER_READ_MAX: i64 = 16;
const SEGMENTS: &str = "SELECT g.first_seq, g.last_seq, g.encoded FROM segment g JOIN stream s ON s.stream_no = g.stream_no
    WHERE s.stream_id = $1 AND g.last_seq > $2 ORDER BY g.last_seq LIMIT $3";
const STREAMS: &str = "SELECT s.stream_id, s.last_seq, s.last_h, s.head,
    (SELECT g.first_seq FROM segment g WHERE g.stream_no = s.stream_no ORDER BY g.last_seq LIMIT 1) FROM stream s ORDER BY s.stream_no";
const SIZES: &str = "SELECT s.stream_id, sum(length(g.encoded)) FROM segment g JOIN stream s ON s.stream_no = g.stream_no
    GROUP BY g.stream_no";
const SIZE_BEHIND: &str = "SELECT coalesce(sum(length(g.encoded)), 0) FROM segment g JOIN stream s ON s.stream_no = g.stream_no
    WHERE s.stream_id = $1 AND g.last_seq > $2";
const SEGMENT_SIZES: &str =
    "SELECT g.last_seq, length(g.encoded) FROM segment g JOIN stream s ON s.stream_no = g.stream_no
    WHERE s.stream_id = $1 AND g.last_seq > $2 ORDER BY g.last_seq LIMIT $3";
const BEHIND: &str = "SELECT first_seq, h_before, last_seq, h_after FROM segment
    WHERE stream_no = ?1 AND last_seq > ?2 ORDER BY last_seq";
const HASH_AFTER: &str = "SELECT h_after FROM segment WHERE stream_no = ?1 AND last_seq = ?2";
const DROP_RANGE: &str =
    "DELETE FROM segment WHERE stream_no = ?1 AND last_seq > ?2 AND last_seq <= ?3";
const DROP_THROUGH: &str = "DELETE FROM segment WHERE stream_no = ?1 AND last_seq <= ?2";

/// Every statement that looks for segments; a test holds that none goes through all of a stream.
#[cfg(test)]
pub(super) const LOOKS: &[&str] =
    &[SEGMENTS, SIZE_BEHIND, SEGMENT_SIZES, BEHIND, HASH_AFTER, DROP_RANGE, DROP_THROUGH];

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[SEGMENTS, STREAMS, SIZES, SIZE_BEHIND, SEGMENT_SIZES];

impl Store {
    /// Segments of a stream that reach past `after`, in order: the first, and more up to `bytes_max`
    /// in all.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.segments.list", level = "debug", skip_all)]
    pub async fn list_segments(
        &self,
        stream: &StreamId,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<StoredSegment>, ReadError> {
        let mut rows = sqlx::query(SEGMENTS)
            .bind(stream.to_bytes())
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(SEGMENTS_PER_READ_MAX)
            .fetch(&self.readers);
        let mut segments = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.try_next().await? {
            let encoded: Bytes = row.try_get::<Vec<u8>, _>(2)?.into();
            bytes += encoded.len();
            if bytes > bytes_max && !segments.is_empty() {
                break;
            }
            let (first_seq, last_seq) = (uint(row.try_get(0)?), uint(row.try_get(1)?));
            segments.push(StoredSegment { first_seq, last_seq, encoded });
        }
        Ok(segments)
    }

    /// Bytes that are held of each stream.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.sizes.list", level = "debug", skip_all)]
    pub async fn list_sizes(&self) -> Result<Vec<(StreamId, u64)>, ReadError> {
        let rows = sqlx::query(SIZES).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let stream = StreamId::from_bytes(row.try_get(0)?);
                Ok((stream.ok_or(ReadError::Inconsistent("stream"))?, uint(row.try_get(1)?)))
            })
            .collect()
    }

    /// Bytes that are held of a stream and reach past a place.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.size.find", level = "debug", skip_all)]
    pub async fn size_behind(&self, stream: &StreamId, after: u64) -> Result<u64, ReadError> {
        let query = sqlx::query(SIZE_BEHIND).bind(stream.to_bytes()).bind(int(after));
        Ok(uint(query.fetch_one(&self.readers).await?.try_get(0)?))
    }

    /// Where the next segments of a stream end that reach past a place, and how large they are.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.segment_sizes.list", level = "debug", skip_all)]
    pub async fn list_segment_sizes(
        &self,
        stream: &StreamId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, u64)>, ReadError> {
        let query = sqlx::query(SEGMENT_SIZES)
            .bind(stream.to_bytes())
            .bind(int(after))
            .bind(i64::from(limit));
        let rows = query.fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((uint(row.try_get(0)?), uint(row.try_get(1)?)))).collect()
    }

    /// All streams.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.streams.list", level = "debug", skip_all)]
    pub async fn list_streams(&self) -> Result<Vec<StoredStream>, ReadError> {
        let rows = sqlx::query(STREAMS).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let bad = || ReadError::Inconsistent("stream");
                let h: Vec<u8> = row.try_get(2)?;
                let last =
                    Position { seq: uint(row.try_get(1)?), h: h.try_into().map_err(|_| bad())? };
                Ok(StoredStream {
                    stream: StreamId::from_bytes(row.try_get(0)?).ok_or_else(bad)?,
                    last,
                    head: row.try_get::<Option<Vec<u8>>, _>(3)?.map(Bytes::from),
                    oldest_seq: row.try_get::<Option<i64>, _>(4)?.map_or(last.seq + 1, uint),
                })
            })
            .collect()
    }
}

pub(super) fn store(
    state: &mut State,
    conn: &Connection,
    segments: &[SegmentWrite],
) -> rusqlite::Result<Vec<SegmentVerdict>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut verdicts = Vec::with_capacity(segments.len());
    for segment in segments {
        let last = state.memory.last(&segment.stream);
        let next = segment.before == last || fast_forward(state, segment, last);
        let verdict = if next {
            let number = number(state, conn, &segment.stream)?;
            rows.push((number, segment));
            state.memory.streams.insert(segment.stream.clone(), (number, segment.after));
            state.pending.streams.insert(segment.stream.clone(), segment.after);
            state.pending.segment(segment);
            SegmentVerdict::Stored(segment.after)
        } else if segment.before.seq == last.seq {
            SegmentVerdict::Forked(last)
        } else if segment.after.seq <= last.seq {
            // Rows of this call must be visible to the refill's look at its neighbours.
            write_rows(conn, &mut rows)?;
            refill(state, conn, segment, last)?
        } else {
            SegmentVerdict::Apart(last)
        };
        verdicts.push(verdict);
    }
    write_rows(conn, &mut rows)?;
    Ok(verdicts)
}

/// Deletes each packaging of a range; the positions of the stream stay.
pub(super) fn delete(
    state: &mut State,
    conn: &Connection,
    (stream, from_seq, to_seq): &(StreamId, u64, u64),
) -> rusqlite::Result<()> {
    let Some((number, _)) = state.memory.streams.get(stream) else { return Ok(()) };
    conn.prepare_cached(
        "DELETE FROM segment WHERE stream_no = ?1 AND last_seq >= ?2 AND first_seq <= ?3",
    )?
    .execute((number, int(*from_seq), int(*to_seq)))?;
    state.unsettled = true;
    Ok(())
}

/// Drops what ends at this entry or before; the positions of the stream stay.
pub(super) fn trim(
    state: &State,
    conn: &Connection,
    (stream, through_seq): &(StreamId, u64),
) -> rusqlite::Result<()> {
    let Some((number, _)) = state.memory.streams.get(stream) else { return Ok(()) };
    drop_through(conn, *number, *through_seq)
}

/// A jump over entries that every recipient has receipted: nobody will ever need them from here.
fn fast_forward(state: &State, segment: &SegmentWrite, last: Position) -> bool {
    let Some((number, _)) = state.memory.streams.get(&segment.stream) else { return false };
    segment.before.seq > last.seq
        && !segment.recipients.is_empty()
        && segment.recipients.iter().all(|party| {
            state
                .memory
                .receipts
                .get(&(*number, party.clone()))
                .is_some_and(|at| at.seq > segment.before.seq || *at == segment.before)
        })
}

/// A range that was dropped or lost and is asked for again. It must join on to what is known: to a stored segment, to
/// an end of the stream, or to where a party has receipted it.
fn refill(
    state: &mut State,
    conn: &Connection,
    segment: &SegmentWrite,
    last: Position,
) -> rusqlite::Result<SegmentVerdict> {
    let number = number(state, conn, &segment.stream)?;
    let Beside { overlapping, next } = beside(conn, number, segment)?;
    let end = segment.after.seq == last.seq && segment.after.h != last.h;
    if end || overlapping.iter().any(|held| differs(held, segment)) {
        return Ok(SegmentVerdict::Forked(last));
    }
    if packs(&overlapping, segment) {
        conn.prepare_cached(DROP_RANGE)?.execute((
            number,
            int(segment.before.seq),
            int(segment.after.seq),
        ))?;
        write_rows(conn, &mut vec![(number, segment)])?;
        state.pending.streams.insert(segment.stream.clone(), last);
        state.pending.segment(segment);
        return Ok(SegmentVerdict::Stored(last));
    }
    if !overlapping.is_empty() {
        return Ok(SegmentVerdict::Known(last));
    }
    let before = if segment.before.seq == 0 {
        Some(seal::chain::genesis(&segment.stream))
    } else {
        let held = conn
            .prepare_cached(HASH_AFTER)?
            .query_row((number, int(segment.before.seq)), |row| row.get(0))
            .optional()?;
        held.or_else(|| receipted(state, number, segment))
    };
    let after = if segment.after.seq == last.seq { Some(last) } else { next };
    let after = after.filter(|at| at.seq == segment.after.seq).map(|at| at.h);
    let fits = |known: Option<[u8; 32]>, shown: [u8; 32]| known.is_none_or(|known| known == shown);
    if !fits(before, segment.before.h) || !fits(after, segment.after.h) {
        return Ok(SegmentVerdict::Forked(last));
    }
    if before.is_none() && after.is_none() {
        // It touches nothing that is known, so nothing proves that it belongs here yet.
        return Ok(SegmentVerdict::Apart(last));
    }
    write_rows(conn, &mut vec![(number, segment)])?;
    state.pending.streams.insert(segment.stream.clone(), last);
    state.pending.segment(segment);
    Ok(SegmentVerdict::Stored(last))
}

/// The hash where a range begins, if a party has signed for it. What one signs otherwise holds up nobody.
fn receipted(state: &State, number: i64, segment: &SegmentWrite) -> Option<[u8; 32]> {
    let signed = |party: &RegionId| {
        state.memory.receipts.get(&(number, party.clone())) == Some(&segment.before)
    };
    segment.recipients.iter().any(signed).then_some(segment.before.h)
}

/// What is held beside a range.
struct Beside {
    /// Where the segments begin and end that share an entry with it.
    overlapping: Vec<(Position, Position)>,
    /// Where the first segment behind it begins.
    next: Option<Position>,
}

fn beside(conn: &Connection, number: i64, segment: &SegmentWrite) -> rusqlite::Result<Beside> {
    let mut statement = conn.prepare_cached(BEHIND)?;
    let mut rows = statement.query((number, int(segment.before.seq)))?;
    let mut overlapping = Vec::new();
    while let Some(row) = rows.next()? {
        let before = Position { seq: uint(row.get(0)?) - 1, h: row.get(1)? };
        if before.seq >= segment.after.seq {
            return Ok(Beside { overlapping, next: Some(before) });
        }
        overlapping.push((before, Position { seq: uint(row.get(2)?), h: row.get(3)? }));
    }
    Ok(Beside { overlapping, next: None })
}

/// Drops what ends at this entry or before.
pub(super) fn drop_through(conn: &Connection, number: i64, seq: u64) -> rusqlite::Result<()> {
    conn.prepare_cached(DROP_THROUGH)?.execute((number, int(seq))).map(drop)
}

/// Whether the range is several that are held, packed as one: they follow one another, and lead from the
/// same hash to the same hash. So the chain says that the entries are the same.
fn packs(held: &[(Position, Position)], segment: &SegmentWrite) -> bool {
    held.len() > 1
        && held.first().is_some_and(|(before, _)| *before == segment.before)
        && held.last().is_some_and(|(_, after)| *after == segment.after)
        && held.windows(2).all(|pair| pair[0].1 == pair[1].0)
}

/// Whether two packagings of one range tell different hashes of one place. Where they were cut at other
/// places nothing is told.
fn differs((before, after): &(Position, Position), segment: &SegmentWrite) -> bool {
    let other = |a: &Position, b: &Position| a.seq == b.seq && a.h != b.h;
    other(before, &segment.before) || other(after, &segment.after)
}

fn number(state: &mut State, conn: &Connection, stream: &StreamId) -> rusqlite::Result<i64> {
    if let Some((number, _)) = state.memory.streams.get(stream) {
        return Ok(*number);
    }
    let genesis = state.memory.last(stream);
    let number = conn
        .prepare_cached(
            "INSERT INTO stream (stream_id, origin, last_seq, last_h) VALUES (?1, ?2, 0, ?3) RETURNING stream_no",
        )?
        .query_row((stream.to_bytes(), stream.origin.as_str(), genesis.h.as_slice()), |row| row.get(0))?;
    state.memory.streams.insert(stream.clone(), (number, genesis));
    Ok(number)
}

static SEGMENT: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO segment (stream_no, last_seq, first_seq, h_before, h_after, stored_at, encoded)";
    Insert::new(head, 7, "")
});

/// A segment to write, under the number of its stream.
type Row<'a> = (i64, &'a SegmentWrite);

fn write_rows(conn: &Connection, rows: &mut Vec<Row<'_>>) -> rusqlite::Result<()> {
    SEGMENT.write(conn, rows, |(number, segment), to| {
        to.put(number)?;
        to.put(int(segment.after.seq))?;
        to.put(int(segment.before.seq + 1))?;
        to.put(segment.before.h.as_slice())?;
        to.put(segment.after.h.as_slice())?;
        to.put(segment.now.micros())?;
        to.put(segment.encoded.as_ref())
    })?;
    rows.clear();
    Ok(())
}

/// One update a stream, however many segments the transaction held.
pub(super) fn write_positions(state: &State, conn: &Connection) -> rusqlite::Result<()> {
    for stream in state.pending.streams.keys() {
        if let Some((number, last)) = state.memory.streams.get(stream) {
            conn.prepare_cached(
                "UPDATE stream SET last_seq = ?2, last_h = ?3 WHERE stream_no = ?1",
            )?
            .execute((number, int(last.seq), last.h.as_slice()))?;
        }
    }
    Ok(())
}

pub(super) fn keep_head(
    state: &mut State,
    conn: &Connection,
    stream: &StreamId,
    signed: &Bytes,
) -> rusqlite::Result<()> {
    let number = number(state, conn, stream)?;
    conn.prepare_cached("UPDATE stream SET head = ?2 WHERE stream_no = ?1")?
        .execute((number, signed.as_ref()))?;
    state.pending.heads.push((stream.clone(), signed.clone()));
    Ok(())
}
