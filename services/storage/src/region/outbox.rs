//! Entries of the streams this region writes: numbered and chained as they are committed, kept in runs,
//! read back to be sealed.

use super::{Opening, ShareWrite, State, Store, StreamState, Tail, epoch};
use crate::ReadError;
use crate::sqlite::{int, uint};
use bytes::{Buf as _, BufMut as _, Bytes};
use domain::kernel::{RecordId, Timestamp};
use domain::stream::{Position, StreamId};
use rusqlite::Connection;
use sqlx::Row as _;
use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

/// Bytes of a run from which the next one begins: who wants one entry reads no more than this.
const RUN_BYTES: usize = 32 * 1024;

/// An entry of a stream this region writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Its place and the chain hash there.
    pub position: Position,
    /// Its salt.
    pub salt: [u8; 16],
    /// Its bytes.
    pub entry: Bytes,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// What an entry takes in its run besides its bytes: hash, salt, time, length.
const ENTRY_HEAD_BYTES: usize = 32 + 16 + 8 + 4;

/// Entries of one stream that were numbered together.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) stream: StreamId,
    /// The place before the first.
    pub(super) before: Position,
    pub(super) entries: Vec<OutboxEntry>,
    /// What the row takes.
    pub(super) size: usize,
}

/// The runs of one transaction.
#[derive(Default)]
pub(super) struct Runs {
    /// With the number of the stream and when it was begun.
    runs: Vec<(i64, Timestamp, Run)>,
    /// The run of each stream that goes on.
    open: HashMap<StreamId, usize>,
    /// Streams that ended, and where.
    ended: HashMap<StreamId, Position>,
}

impl Runs {
    /// Numbers and chains an entry; the first of a stream comes after what opens it.
    pub(super) fn append(
        &mut self,
        state: &mut State,
        conn: &Connection,
        share: &ShareWrite,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let ShareWrite { stream, entry, salt, expires_at, opening, behind_end } = share;
        let entry = (*salt, entry.clone(), *expires_at);
        if !behind_end {
            self.open(state, conn, stream, opening, (*expires_at, now))?;
            return self.push(state, conn, stream, entry, now).map(drop);
        }
        // It was shown there in some lane: where it was, or in the most urgent that there is.
        let of_version =
            |other: &&StreamId| StreamId { lane: stream.lane, ..(*other).clone() } == *stream;
        let known = state.memory.streams.keys().filter(of_version);
        let known = known.min_by_key(|other| (other.lane != stream.lane, other.lane)).cloned();
        let Some(known) = known else {
            // It was shown in an epoch that was left.
            self.open_over(state, conn, stream, opening, (*expires_at, now))?;
            return self.push(state, conn, stream, entry, now).map(drop);
        };
        self.push(state, conn, &known, entry, now).map(drop)
    }

    /// Opens a stream of a version that may not be in force any more: what stands in an epoch that was left is called
    /// off there. Nothing is ever shown in it, so no later version ends it.
    pub(super) fn open_over(
        &mut self,
        state: &mut State,
        conn: &Connection,
        stream: &StreamId,
        opening: &Opening,
        times: (Timestamp, Timestamp),
    ) -> rusqlite::Result<()> {
        let known = self.open.contains_key(stream) || state.memory.streams.contains_key(stream);
        self.open(state, conn, stream, opening, times)?;
        let in_force = state.memory.footing.in_force.get(&stream.agreement);
        if !known && in_force.is_some_and(|in_force| *in_force > stream.version) {
            let start = self.open.get(stream).and_then(|index| self.runs.get(*index));
            let start = start.map(|(.., run)| run.last());
            self.ended.extend(start.map(|start| (stream.clone(), start)));
        }
        Ok(())
    }

    /// Opens a stream that is new, and ends the one whose place it takes.
    pub(super) fn open(
        &mut self,
        state: &mut State,
        conn: &Connection,
        stream: &StreamId,
        opening: &Opening,
        (expires_at, now): (Timestamp, Timestamp),
    ) -> rusqlite::Result<()> {
        if self.open.contains_key(stream) || state.memory.streams.contains_key(stream) {
            return Ok(());
        }
        let Opening { agreement_sha256, salts: [start_salt, _] } = opening;
        let mut predecessor = None;
        if let Some(before) = self.before(state, stream) {
            let held = state.memory.streams.get(&before).and_then(|state| state.end);
            let end = match held.or_else(|| self.ended.get(&before).copied()) {
                Some(end) => end,
                None => {
                    self.end(state, conn, &before, (stream.version, opening), (expires_at, now))?
                }
            };
            predecessor = Some((before.version, end));
        }
        let parents = epoch::parents(state, stream);
        let entry = seal::entry::start(agreement_sha256, predecessor, &parents);
        self.push(state, conn, stream, (*start_salt, entry, expires_at), now)?;
        Ok(())
    }

    /// Ends a stream, because another version has come into force.
    pub(super) fn end(
        &mut self,
        state: &State,
        conn: &Connection,
        stream: &StreamId,
        (version, opening): (u32, &Opening),
        (expires_at, now): (Timestamp, Timestamp),
    ) -> rusqlite::Result<Position> {
        let Opening { agreement_sha256, salts: [_, end_salt] } = opening;
        let entry = seal::entry::end(version, agreement_sha256);
        let end = self.push(state, conn, stream, (*end_salt, entry, expires_at), now)?;
        self.ended.insert(stream.clone(), end);
        Ok(end)
    }

    /// The stream of the newest version before, in the same epoch and lane.
    fn before(&self, state: &State, stream: &StreamId) -> Option<StreamId> {
        let older = |other: &&StreamId| {
            other.version < stream.version
                && StreamId { version: stream.version, ..(*other).clone() } == *stream
        };
        let known = state.memory.streams.keys().chain(self.open.keys());
        known.filter(older).max_by_key(|other| other.version).cloned()
    }

    /// The number of a stream that has a run here.
    pub(super) fn number_of(&self, stream: &StreamId) -> Option<i64> {
        self.runs.get(*self.open.get(stream)?).map(|(number, ..)| *number)
    }

    /// Numbers and chains an entry of a stream that is open.
    pub(super) fn push(
        &mut self,
        state: &State,
        conn: &Connection,
        stream: &StreamId,
        (salt, entry, expires_at): ([u8; 16], Bytes, Timestamp),
        now: Timestamp,
    ) -> rusqlite::Result<Position> {
        let opened = self.open.get(stream).and_then(|index| self.runs.get_mut(*index));
        let run = match opened {
            Some((.., run)) if run.size < RUN_BYTES => run,
            full => {
                let (number, before) = match full {
                    Some((number, _, run)) => (*number, run.last()),
                    None => number(state, conn, stream)?,
                };
                let run = Run { stream: stream.clone(), before, entries: Vec::new(), size: 0 };
                self.open.insert(stream.clone(), self.runs.len());
                self.runs.push((number, now, run));
                let (.., run) = self.runs.last_mut().ok_or(rusqlite::Error::InvalidQuery)?;
                run
            }
        };
        run.push(salt, entry, expires_at);
        Ok(run.last())
    }

    /// Writes the runs and how far their streams go now.
    pub(super) fn write(self, state: &mut State, conn: &Connection) -> rusqlite::Result<()> {
        for (number, now, run) in &self.runs {
            let expire = || run.entries.iter().map(|entry| entry.expires_at.micros());
            let (expires_at, expires_first) = (expire().max(), expire().min());
            conn.prepare_cached(
                "INSERT INTO outbox (stream_no, last_seq, first_seq, h_before, numbered_at, expires_at, entries, expires_first) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute((
                number,
                int(run.last().seq),
                int(run.before.seq + 1),
                (run.before.seq > 0).then_some(run.before.h.as_slice()),
                now.micros(),
                expires_at,
                run.encode(),
                expires_first,
            ))?;
        }
        for (stream, index) in self.open {
            let Some((number, _, run)) = self.runs.get(index) else { continue };
            let (number, last) = (*number, run.last());
            conn.prepare_cached(
                "UPDATE stream SET last_seq = ?2, last_h = ?3 WHERE stream_no = ?1",
            )?
            .execute((number, int(last.seq), last.h.as_slice()))?;
            let mut end = state.memory.streams.get(&stream).and_then(|state| state.end);
            if let Some(ended) = self.ended.get(&stream) {
                conn.prepare_cached(
                    "UPDATE stream SET end_seq = ?2, end_h = ?3 WHERE stream_no = ?1",
                )?
                .execute((number, int(ended.seq), ended.h.as_slice()))?;
                end = Some(*ended);
            }
            state.memory.streams.insert(stream.clone(), StreamState { number, last, end });
            state.pending.streams.insert(stream, last);
        }
        state.pending.runs.extend(self.runs.into_iter().map(|(.., run)| run));
        Ok(())
    }
}

/// The number of a stream and how far it goes; one that is new gets a row.
fn number(
    state: &State,
    conn: &Connection,
    stream: &StreamId,
) -> rusqlite::Result<(i64, Position)> {
    if let Some(known) = state.memory.streams.get(stream) {
        return Ok((known.number, known.last));
    }
    let genesis = seal::chain::start(stream);
    let number = conn
        .prepare_cached(
            "INSERT INTO stream (stream_id, last_seq, last_h) VALUES (?1, 0, ?2) RETURNING stream_no",
        )?
        .query_row((stream.to_bytes(), genesis.h.as_slice()), |row| row.get(0))?;
    Ok((number, genesis))
}

impl Run {
    fn push(&mut self, salt: [u8; 16], entry: Bytes, expires_at: Timestamp) {
        let commitment = seal::chain::commitment(&salt, &entry);
        let position = seal::chain::extend(self.last(), &commitment);
        self.size += ENTRY_HEAD_BYTES + entry.len();
        self.entries.push(OutboxEntry { position, salt, entry, expires_at });
    }

    /// The place of the last entry.
    pub(super) fn last(&self) -> Position {
        self.entries.last().map_or(self.before, |entry| entry.position)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size);
        for OutboxEntry { position, salt, entry, expires_at } in &self.entries {
            out.put_slice(&position.h);
            out.put_slice(salt);
            out.put_i64(expires_at.micros());
            out.put_u32(u32::try_from(entry.len()).unwrap_or(u32::MAX));
            out.put_slice(entry);
        }
        out
    }
}

impl OutboxEntry {
    /// Leaves the commitment alone; gives it.
    fn erase(&mut self) -> [u8; 32] {
        let commitment = seal::chain::commitment(&self.salt, &self.entry);
        (self.salt, self.entry) = (seal::chain::ERASED, Bytes::copy_from_slice(&commitment));
        commitment
    }
}

/// The place before a run, and its entries, of a row that begins with `first_seq, h_before, entries`.
fn read(
    stream: &StreamId,
    row: &rusqlite::Row<'_>,
) -> rusqlite::Result<(Position, Vec<OutboxEntry>)> {
    let h: Option<[u8; 32]> = row.get(1)?;
    let before = Position {
        seq: uint(row.get(0)?).saturating_sub(1),
        h: h.unwrap_or_else(|| seal::chain::genesis(stream)),
    };
    let entries = decode(before, row.get::<_, Vec<u8>>(2)?.into());
    Ok((before, entries.ok_or(rusqlite::Error::InvalidQuery)?))
}

/// Takes the content of a record out of a stream; gives its entries there, seq and commitment. The chain goes on
/// leading where it led.
pub(super) fn erase(
    conn: &Connection,
    stream: &StreamId,
    number: i64,
    record: RecordId,
) -> rusqlite::Result<Vec<(u64, [u8; 32])>> {
    let mut found = conn.prepare_cached(
        "SELECT first_seq, h_before, entries, last_seq FROM outbox
         WHERE stream_no = ?1 AND instr(entries, ?2) > 0 ORDER BY last_seq",
    )?;
    // Read before any is written: both go through the same rows.
    let rows: Vec<_> = found
        .query_map((number, record.as_bytes().as_slice()), |row| {
            Ok((row.get::<_, i64>(3)?, read(stream, row)?))
        })?
        .collect::<Result<_, _>>()?;
    let mut erased = Vec::new();
    for (last_seq, (before, mut entries)) in rows {
        for held in entries.iter_mut() {
            if seal::entry::record_of(&held.entry) == Some(record) {
                erased.push((held.position.seq, held.erase()));
            }
        }
        let run = Run { stream: stream.clone(), before, entries, size: 0 };
        conn.prepare_cached(
            "UPDATE outbox SET entries = ?3 WHERE stream_no = ?1 AND last_seq = ?2",
        )?
        .execute((number, last_seq, run.encode()))?;
    }
    Ok(erased)
}

/// The records of which a stream says something behind a place.
pub(super) fn records_behind(
    conn: &Connection,
    stream: &StreamId,
    number: i64,
    after: i64,
) -> rusqlite::Result<Vec<RecordId>> {
    let mut found = conn.prepare_cached(
        "SELECT first_seq, h_before, entries FROM outbox WHERE stream_no = ?1 AND last_seq > ?2",
    )?;
    let mut rows = found.query((number, after))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let (_, entries) = read(stream, row)?;
        let unsigned = entries.iter().filter(|held| int(held.position.seq) > after);
        records.extend(unsigned.filter_map(|held| seal::entry::record_of(&held.entry)));
    }
    Ok(records)
}

/// Takes the content of what has had its time out of a run; gives the first and the last of these entries.
pub(super) fn expire(
    conn: &Connection,
    stream: &StreamId,
    run: (i64, i64),
    at: Timestamp,
) -> rusqlite::Result<Option<(u64, u64)>> {
    let (before, mut entries) = conn
        .prepare_cached(
            "SELECT first_seq, h_before, entries FROM outbox WHERE stream_no = ?1 AND last_seq = ?2",
        )?
        .query_row(run, |row| read(stream, row))?;
    let (mut range, mut next): (Option<(u64, u64)>, Option<i64>) = (None, None);
    for held in &mut entries {
        // What opens and ends a stream, and says that a record was erased, stays for as long as the stream.
        if seal::entry::record_of(&held.entry).is_none() {
            continue;
        }
        if held.expires_at > at {
            let expires = held.expires_at.micros();
            next = Some(next.map_or(expires, |next| next.min(expires)));
            continue;
        }
        held.erase();
        let seq = held.position.seq;
        range = Some((range.map_or(seq, |(from, _)| from), seq));
    }
    let encoded = Run { stream: stream.clone(), before, entries, size: 0 }.encode();
    conn.prepare_cached(
        "UPDATE outbox SET entries = ?3, expires_first = ?4 WHERE stream_no = ?1 AND last_seq = ?2",
    )?
    .execute((run.0, run.1, encoded, next))?;
    Ok(range)
}

/// Reads [`Run::encode`] back and follows the chain over it; `None` for what this program never writes.
fn decode(mut before: Position, mut run: Bytes) -> Option<Vec<OutboxEntry>> {
    let mut entries = Vec::new();
    while !run.is_empty() {
        let (mut h, mut salt) = ([0; 32], [0; 16]);
        run.try_copy_to_slice(&mut h).ok()?;
        run.try_copy_to_slice(&mut salt).ok()?;
        let expires_at = Timestamp::from_micros(run.try_get_i64().ok()?);
        let len = usize::try_from(run.try_get_u32().ok()?).ok()?;
        let entry = (len <= run.len()).then(|| run.split_to(len))?;
        let position = seal::chain::extend(before, &seal::chain::commitment(&salt, &entry));
        if position.h != h {
            return None;
        }
        entries.push(OutboxEntry { position, salt, entry, expires_at });
        before = position;
    }
    Some(entries)
}

// The last run that is wanted is the first that reaches to the last entry: without this bound each read
// would go through all that comes after.
const RANGE: &str = "SELECT o.first_seq, o.h_before, o.entries FROM stream s JOIN outbox o ON o.stream_no = s.stream_no
    WHERE s.stream_id = $1 AND o.last_seq > $2 AND o.last_seq <= coalesce(
      (SELECT min(r.last_seq) FROM outbox r WHERE r.stream_no = s.stream_no AND r.last_seq >= $3), $3)
    ORDER BY o.last_seq";

// A record's id stands in its entries as it is. Whoever explains where a record is pays for this search;
// an index would cost every commit.
const NEWEST_WITH: &str = "SELECT o.first_seq, o.h_before, o.entries FROM stream s JOIN outbox o ON o.stream_no = s.stream_no
    WHERE s.stream_id = $1 AND o.first_seq < $2 AND instr(o.entries, $3) > 0
    ORDER BY o.last_seq DESC LIMIT 1";

/// Runs that were read last, one a stream: who reads a stream entry by entry, far behind its end, would
/// read each run as often as it has entries.
#[derive(Debug, Default)]
pub(super) struct Recent {
    runs: HashMap<StreamId, (Position, Vec<OutboxEntry>)>,
    /// How often something was erased: what was read before is not kept after.
    erasures: u64,
}

/// Streams of which a run is remembered.
const RECENT_MAX: usize = 16;

impl Recent {
    /// Keeps a run that was read when so many erasures were known.
    fn keep(&mut self, stream: &StreamId, (before, run): (Position, Vec<OutboxEntry>), known: u64) {
        if known != self.erasures {
            return;
        }
        if self.runs.len() >= RECENT_MAX {
            self.runs.clear();
        }
        self.runs.insert(stream.clone(), (before, run));
    }

    /// Something of the stream was erased.
    pub(super) fn forget(&mut self, stream: &StreamId) {
        self.runs.remove(stream);
        self.erasures += 1;
    }

    /// The entries after `after` to `last`; `None` where the store must be asked.
    fn range(&self, stream: &StreamId, after: u64, last: u64) -> Option<Vec<OutboxEntry>> {
        let (before, run) = self.runs.get(stream)?;
        let index = |seq: u64| usize::try_from(seq.checked_sub(before.seq)?).ok();
        run.get(index(after)?..index(last)?).map(<[OutboxEntry]>::to_vec)
    }
}

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[RANGE, NEWEST_WITH];

/// The place before a run, and its entries.
fn run_of(
    stream: &StreamId,
    row: &sqlx::sqlite::SqliteRow,
) -> Result<(Position, Vec<OutboxEntry>), ReadError> {
    let h = match row.try_get::<Option<&[u8]>, _>(1)? {
        None => Some(seal::chain::genesis(stream)),
        Some(h) => h.try_into().ok(),
    };
    let seq = uint(row.try_get(0)?).saturating_sub(1);
    let before = h.map(|h| Position { seq, h });
    let run: Vec<u8> = row.try_get(2)?;
    let run = before.and_then(|before| Some((before, decode(before, run.into())?)));
    run.ok_or(ReadError::Inconsistent("outbox.entries"))
}

impl Store {
    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Each change leaves it whole.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // Each change leaves it whole.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries of a stream this region writes, after `after`, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.outbox.list", level = "debug", skip_all)]
    pub async fn list_outbox(
        &self,
        stream: &StreamId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<OutboxEntry>, ReadError> {
        let newest = self.tail().after(stream, after, usize::try_from(limit).unwrap_or(usize::MAX));
        if let Some(entries) = newest {
            return Ok(entries);
        }
        let last = after.saturating_add(u64::from(limit));
        let (known, kept) = {
            let recent = self.recent();
            (recent.erasures, recent.range(stream, after, last))
        };
        if let Some(entries) = kept {
            return Ok(entries);
        }
        let rows = sqlx::query(RANGE)
            .bind(stream.to_bytes())
            .bind(int(after))
            .bind(int(last))
            .fetch_all(&self.readers)
            .await?;
        let mut entries = Vec::new();
        let mut newest = None;
        for row in &rows {
            let (before, run) = run_of(stream, row)?;
            entries.extend_from_slice(&run);
            newest = Some((before, run));
        }
        if let Some(newest) = newest {
            self.recent().keep(stream, newest, known);
        }
        entries.retain(|entry| (after + 1..=last).contains(&entry.position.seq));
        Ok(entries)
    }

    /// The newest entry of a stream that holds the record's id and is the one looked for.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.outbox_entry.find", level = "debug", skip_all)]
    pub async fn find_entry_with(
        &self,
        stream: &StreamId,
        record: RecordId,
        is_it: impl Fn(&OutboxEntry) -> bool,
    ) -> Result<Option<OutboxEntry>, ReadError> {
        let mut before = i64::MAX;
        loop {
            let row = sqlx::query(NEWEST_WITH)
                .bind(stream.to_bytes())
                .bind(before)
                .bind(record.as_bytes().as_slice())
                .fetch_optional(&self.readers)
                .await?;
            let Some(row) = row else { return Ok(None) };
            let (at, run) = run_of(stream, &row)?;
            if let Some(found) = run.into_iter().rev().find(&is_it) {
                return Ok(Some(found));
            }
            before = int(at.seq + 1);
        }
    }

    /// Chain hash of a stream this region writes, at `seq`; `None` when it does not go so far.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.outbox_hash.find", level = "debug", skip_all)]
    pub async fn find_outbox_hash(
        &self,
        stream: &StreamId,
        seq: u64,
    ) -> Result<Option<[u8; 32]>, ReadError> {
        let Some(before) = seq.checked_sub(1) else {
            return Ok(Some(seal::chain::genesis(stream)));
        };
        let newest = self.tail().hash(stream, seq);
        if newest.is_some() {
            return Ok(newest);
        }
        let entries = self.list_outbox(stream, before, 1).await?;
        Ok(entries.first().map(|entry| entry.position.h))
    }
}
