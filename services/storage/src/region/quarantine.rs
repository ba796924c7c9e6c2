//! Beyond the cut of a revoked region: what a thief of its keys may have written is kept, so that the chain still
//! verifies, and shown to nobody; what was shown before is shown again. A person may release what proves right.

use super::apply::Rank;
use super::commit::read_revision;
use super::feed::{FeedSource, ListedRow, ViewFound};
use super::stream::{fixed, stream_id};
use super::{FeedItem, State, Store};
use crate::ReadError;
use crate::sqlite::{int, uint};
use crate::writer::WriteError;
use bytes::Bytes;
use domain::kernel::{AgreementId, DeviceId, Kind, RecordId, RegionId, Timestamp};
use domain::quarantine::ReleaseReason;
use domain::stream::{Position, StreamId};
use rusqlite::Connection;
use sqlx::Row as _;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// How `view.current` says that a view is quarantined.
const QUARANTINED: i64 = 3;

/// What watchers are told of a view that goes into quarantine; opaque here.
pub type Withdrawn = fn(&StreamId, RecordId, Kind) -> Bytes;

/// A stream that is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamCut {
    /// The stream.
    pub stream: StreamId,
    /// The place that the revocation names; `None` where it does not name the stream.
    pub listed: Option<Position>,
    /// Entries behind this one are quarantined.
    pub after: u64,
    /// As far as the stream is applied. What is applied later is looked at again.
    pub through: u64,
}

/// Streams to cut, and others to cut no more, all at once.
#[derive(Clone, Debug)]
pub struct Cutting {
    /// The streams that are cut from now on.
    pub cut: Vec<StreamCut>,
    /// The streams that are not any more.
    pub lifted: Vec<StreamId>,
    /// Records of which something lies behind a cut that is or was; see [`Store::list_records_behind`].
    pub records: BTreeSet<(RegionId, RecordId)>,
    /// What watchers are told.
    pub withdrawn: Withdrawn,
    /// The region's clock.
    pub now: Timestamp,
}

/// A record that proved right.
#[derive(Clone, Debug)]
pub struct Releasing {
    /// Where it was born.
    pub birth_region: RegionId,
    /// The record.
    pub record_id: RecordId,
    /// Who asked.
    pub device: DeviceId,
    /// Why.
    pub reason: ReleaseReason,
    /// What watchers are told.
    pub withdrawn: Withdrawn,
    /// The region's clock.
    pub now: Timestamp,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Cut(Cutting),
    Release(Releasing),
}

/// Views and withdrawals that went into quarantine, and that came out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quarantined {
    /// They went in.
    pub kept: u64,
    /// They came out.
    pub let_out: u64,
}

pub(super) fn run(
    state: &mut State,
    conn: &Connection,
    order: &Order,
) -> rusqlite::Result<Quarantined> {
    match order {
        Order::Cut(cutting) => cut(state, conn, cutting),
        Order::Release(releasing) => release(state, conn, releasing),
    }
}

fn cut(state: &mut State, conn: &Connection, cutting: &Cutting) -> rusqlite::Result<Quarantined> {
    let number =
        |state: &State, stream: &StreamId| state.memory.inboxes.get(stream).map(|of| of.number);
    for StreamCut { stream, listed, after, through } in &cutting.cut {
        let Some(number) = number(state, stream) else { continue };
        conn.prepare_cached(
            "INSERT INTO cut (inbox_no, after_seq, through_seq, listed_seq, listed_h) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (inbox_no) DO UPDATE SET after_seq = excluded.after_seq, through_seq = excluded.through_seq,
               listed_seq = excluded.listed_seq, listed_h = excluded.listed_h",
        )?
        .execute((
            number,
            int(*after),
            int(*through),
            listed.map(|listed| int(listed.seq)),
            listed.as_ref().map(|listed| listed.h.as_slice()),
        ))?;
    }
    for stream in &cutting.lifted {
        let Some(number) = number(state, stream) else { continue };
        conn.prepare_cached("DELETE FROM cut WHERE inbox_no = ?1")?.execute([number])?;
    }
    let mut done = Quarantined::default();
    for (birth_region, record) in &cutting.records {
        let of = settle(state, conn, (birth_region, *record), cutting.withdrawn)?;
        done.kept += of.kept;
        done.let_out += of.let_out;
    }
    state.pending.now = Some(cutting.now);
    Ok(done)
}

fn release(
    state: &mut State,
    conn: &Connection,
    releasing: &Releasing,
) -> rusqlite::Result<Quarantined> {
    let Releasing { birth_region, record_id, device, reason, withdrawn, now } = releasing;
    conn.prepare_cached(
        "INSERT INTO quarantine_release (view_seq, released_at, device_id, reason)
         SELECT feed_seq, ?3, ?4, ?5 FROM view
         WHERE record_id = ?1 AND birth_region = ?2 AND current = 3 AND withdrawn = 0 ON CONFLICT DO NOTHING",
    )?
    .execute((
        record_id.as_bytes().as_slice(),
        birth_region.as_str(),
        now.micros(),
        device.as_bytes().as_slice(),
        reason.code(),
    ))?;
    state.pending.now = Some(*now);
    settle(state, conn, (birth_region, *record_id), *withdrawn)
}

/// What is held of a record by one entry.
struct Held {
    feed_seq: i64,
    kind: Kind,
    stream: StreamId,
    rank: Rank,
    withdrawn: bool,
    /// It was neither emptied nor has it expired.
    whole: bool,
    current: i64,
    /// It lies behind a cut, and nobody has released it.
    barred: bool,
    released: bool,
}

/// Finds which of a record's views is current under each agreement, now that some are barred or not any more, and says
/// so in the feed. Done again it changes nothing.
fn settle(
    state: &mut State,
    conn: &Connection,
    (birth_region, record): (&RegionId, RecordId),
    withdrawn: Withdrawn,
) -> rusqlite::Result<Quarantined> {
    let held = held(conn, birth_region, record)?;
    let agreements: BTreeSet<AgreementId> = held.iter().map(|held| held.stream.agreement).collect();
    let mut done = Quarantined::default();
    for agreement in agreements {
        let of = || held.iter().filter(|held| held.stream.agreement == agreement);
        let shown = of().filter(|held| !held.barred && held.whole);
        // Of equal ones that which came first, as when they came.
        let newest = shown.max_by_key(|held| (held.rank, Reverse(held.feed_seq)));
        let before = of().find(|held| held.current == 1);
        let place = |held: Option<&Held>| held.map(|held| held.feed_seq);
        for held in of() {
            let wanted = match held.current {
                _ if held.barred && held.whole => QUARANTINED,
                _ if place(newest) == Some(held.feed_seq) => 1,
                1 => 2,
                QUARANTINED => 0,
                other => other,
            };
            if wanted != held.current {
                conn.prepare_cached("UPDATE view SET current = ?2 WHERE feed_seq = ?1")?
                    .execute((held.feed_seq, wanted))?;
                done.kept += u64::from(wanted == QUARANTINED);
                done.let_out += u64::from(held.current == QUARANTINED);
            }
        }
        if place(newest) == place(before) {
            continue;
        }
        // First, and also where an earlier one takes its place: who has the later one must forget it.
        if let Some(before) = before.filter(|before| before.barred) {
            let encoded = withdrawn(&before.stream, record, before.kind);
            note(state, conn, before, Some(encoded))?;
        }
        if let Some(newest) = newest {
            note(state, conn, newest, None)?;
        }
    }
    Ok(done)
}

fn held(
    conn: &Connection,
    birth_region: &RegionId,
    record: RecordId,
) -> rusqlite::Result<Vec<Held>> {
    let bad = || rusqlite::Error::InvalidQuery;
    let mut found = conn.prepare_cached(
        "SELECT v.feed_seq, v.kind, v.revision_t, v.revision_epoch, v.revision_n, v.share_n, i.stream_id, v.withdrawn,
           length(v.encoded) > 0, v.current, coalesce(v.seq > c.after_seq, 0) AND r.view_seq IS NULL, r.view_seq IS NOT NULL
         FROM view v JOIN inbox i ON i.inbox_no = v.inbox_no LEFT JOIN cut c ON c.inbox_no = v.inbox_no
           LEFT JOIN quarantine_release r ON r.view_seq = v.feed_seq
         WHERE v.record_id = ?1 AND v.birth_region = ?2",
    )?;
    let rows = found.query_map((record.as_bytes().as_slice(), birth_region.as_str()), |row| {
        let stream: Vec<u8> = row.get(6)?;
        let stream = StreamId::from_bytes(&stream).ok_or_else(bad)?;
        let revision = read_revision(row, 2)?.ok_or_else(bad)?;
        Ok(Held {
            feed_seq: row.get(0)?,
            kind: Kind::try_from(row.get::<_, i64>(1)?).map_err(|_| bad())?,
            rank: (revision, uint(row.get(5)?), stream.version),
            stream,
            withdrawn: row.get(7)?,
            whole: row.get(8)?,
            current: row.get(9)?,
            barred: row.get(10)?,
            released: row.get(11)?,
        })
    })?;
    rows.collect()
}

/// Gives a place in the feed to what became of a view: a withdrawal, or that it is shown.
fn note(
    state: &mut State,
    conn: &Connection,
    held: &Held,
    withdrawal: Option<Bytes>,
) -> rusqlite::Result<()> {
    state.memory.feed_seq += 1;
    let feed_seq = state.memory.feed_seq;
    conn.prepare_cached(
        "INSERT INTO quarantine_note (feed_seq, view_seq, kind, withdrawal) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute((int(feed_seq), held.feed_seq, held.kind.code(), withdrawal.as_deref()))?;
    let (source, encoded) = match withdrawal {
        Some(withdrawal) => (FeedSource::Withdrawal, withdrawal),
        None => {
            let encoded: Vec<u8> = conn
                .prepare_cached("SELECT encoded FROM view WHERE feed_seq = ?1")?
                .query_row([held.feed_seq], |row| row.get(0))?;
            let source = match (held.withdrawn, held.released) {
                (true, _) => FeedSource::Withdrawal,
                (false, true) => FeedSource::Released,
                (false, false) => FeedSource::View,
            };
            (source, encoded.into())
        }
    };
    state.tell(|| FeedItem { feed_seq, kind: held.kind, source, encoded });
    Ok(())
}

/// For how long it is kept where a stream stood: as long as the oldest backup that is still of use.
const LOG_DAYS: i64 = 35;
const MINUTE_MICROS: i64 = 60_000_000;

/// Keeps where a stream stood, where something of it is applied in a later minute than what came last.
pub(super) fn log(
    conn: &Connection,
    (inbox_no, applied, applied_at): (i64, Position, Timestamp),
    now: Timestamp,
) -> rusqlite::Result<()> {
    let minute = |at: Timestamp| at.micros().div_euclid(MINUTE_MICROS);
    if applied.seq == 0 || minute(applied_at) == minute(now) {
        return Ok(());
    }
    conn.prepare_cached(
        "INSERT INTO inbox_log (inbox_no, applied_at, applied_seq, applied_h) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute((inbox_no, applied_at.micros(), int(applied.seq), applied.h.as_slice()))?;
    // The newest of what is that old stays: it is where the stream stood ever since.
    conn.prepare_cached(
        "DELETE FROM inbox_log WHERE inbox_no = ?1 AND applied_at < (SELECT max(applied_at) FROM inbox_log
           WHERE inbox_no = ?1 AND applied_at <= ?2)",
    )?
    .execute((inbox_no, now.plus_days(-LOG_DAYS).micros()))?;
    Ok(())
}

const CUTS: &str = "SELECT i.stream_id, c.after_seq, c.through_seq, c.listed_seq, c.listed_h
    FROM cut c JOIN inbox i ON i.inbox_no = c.inbox_no ORDER BY c.inbox_no";
const BEHIND: &str = "SELECT DISTINCT v.birth_region, v.record_id FROM view v JOIN inbox i ON i.inbox_no = v.inbox_no
    WHERE i.stream_id = $1 AND v.seq > $2";
// The place in the feed is a term here, so that what is quarantined is looked up, and not looked for in all views.
const LISTED: &str = "SELECT v.feed_seq, v.encoded FROM view v WHERE v.current = 3 AND v.withdrawn = 0 AND +v.feed_seq < $1
    ORDER BY +v.feed_seq DESC LIMIT $2";
const COUNTED: &str =
    "SELECT i.stream_id, count(*) FROM view v JOIN inbox i ON i.inbox_no = v.inbox_no
    WHERE v.current = 3 AND v.withdrawn = 0 GROUP BY v.inbox_no";
const OF_RECORD: &str =
    "SELECT kind, withdrawn, encoded FROM view WHERE record_id = $1 AND current = 3
    ORDER BY revision_t DESC, revision_epoch DESC, revision_n DESC, share_n DESC, feed_seq DESC";
// Of each stream the row with the greatest seq: SQLite takes the other columns from that one.
const STOOD: &str = "SELECT i.stream_id, max(p.applied_seq), p.applied_h,
      (SELECT count(*) FROM parked k WHERE k.inbox_no = i.inbox_no AND k.seq <= p.applied_seq)
    FROM inbox i JOIN (SELECT inbox_no, applied_at, applied_seq, applied_h FROM inbox_log
      UNION ALL SELECT inbox_no, applied_at, applied_seq, applied_h FROM inbox) p ON p.inbox_no = i.inbox_no
    WHERE p.applied_at < $1 AND p.applied_seq > 0 GROUP BY i.inbox_no ORDER BY i.inbox_no";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[CUTS, BEHIND, LISTED, COUNTED, OF_RECORD, STOOD];

impl Store {
    /// Puts cuts into force and others out of it, in one commit.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn cut(&self, cutting: Cutting) -> Result<Quarantined, WriteError> {
        self.queue.call(Order::Cut(cutting), super::Job::Quarantine).await
    }

    /// Has what is quarantined of a record shown; tells what came out.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn release_quarantined(
        &self,
        releasing: Releasing,
    ) -> Result<Quarantined, WriteError> {
        self.queue.call(Order::Release(releasing), super::Job::Quarantine).await
    }

    /// The cuts that are in force.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.cuts.list", level = "debug", skip_all)]
    pub async fn list_cuts(&self) -> Result<Vec<StreamCut>, ReadError> {
        let rows = sqlx::query(CUTS).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let (seq, h): (Option<i64>, Option<Vec<u8>>) = (row.try_get(3)?, row.try_get(4)?);
                let listed = seq.zip(h).map(|(seq, h)| {
                    Ok::<_, ReadError>(Position { seq: uint(seq), h: fixed(&h, "cut")? })
                });
                Ok(StreamCut {
                    stream: stream_id(row, 0)?,
                    listed: listed.transpose()?,
                    after: uint(row.try_get(1)?),
                    through: uint(row.try_get(2)?),
                })
            })
            .collect()
    }

    /// The records of which a stream shows something behind a place.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.records_behind.list", level = "debug", skip_all)]
    pub async fn list_records_behind(
        &self,
        stream: &StreamId,
        after: u64,
    ) -> Result<Vec<(RegionId, RecordId)>, ReadError> {
        let bad = || ReadError::Inconsistent("view");
        let query = sqlx::query(BEHIND).bind(stream.to_bytes()).bind(int(after));
        let rows = query.fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let birth_region = RegionId::parse(row.try_get(0)?).map_err(|_| bad())?;
                Ok((birth_region, RecordId::from_slice(row.try_get(1)?).ok_or_else(bad)?))
            })
            .collect()
    }

    /// Views that are quarantined before a place in the feed, what came last first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.quarantined.list", level = "debug", skip_all)]
    pub async fn list_quarantined(
        &self,
        before: u64,
        limit: u32,
    ) -> Result<Vec<ListedRow>, ReadError> {
        let query = sqlx::query(LISTED).bind(int(before)).bind(i64::from(limit));
        let rows = query.fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                Ok(ListedRow {
                    feed_seq: uint(row.try_get(0)?),
                    source: FeedSource::View,
                    encoded: row.try_get::<Vec<u8>, _>(1)?.into(),
                })
            })
            .collect()
    }

    /// How many views of each stream are quarantined.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.quarantined.count", level = "debug", skip_all)]
    pub async fn count_quarantined(&self) -> Result<Vec<(StreamId, u64)>, ReadError> {
        let rows = sqlx::query(COUNTED).fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((stream_id(row, 0)?, uint(row.try_get(1)?)))).collect()
    }

    /// What is quarantined of a neighbour's record, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.quarantined.find", level = "debug", skip_all)]
    pub async fn list_quarantined_of(&self, record: RecordId) -> Result<Vec<ViewFound>, ReadError> {
        let query = sqlx::query(OF_RECORD).bind(record.as_bytes().as_slice());
        let rows = query.fetch_all(&self.readers).await?;
        rows.iter().map(super::feed::view_found).collect()
    }

    /// How far each neighbour's stream had been applied before a time, to the minute; a stream of which nothing had is
    /// left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.inboxes.list_before", level = "debug", skip_all)]
    pub async fn list_inboxes_before(
        &self,
        before: Timestamp,
    ) -> Result<Vec<super::StreamRow>, ReadError> {
        let rows = sqlx::query(STOOD).bind(before.micros()).fetch_all(&self.readers).await?;
        rows.iter().map(super::stream::stream_row).collect()
    }
}
