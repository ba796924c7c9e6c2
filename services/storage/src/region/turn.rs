//! One agreement version takes another's place: the streams of the one before end, and what is open is shown under
//! the new one, page by page, while operations go on.

use super::commit::read_revision;
use super::epoch::Present;
use super::outbox::Runs;
use super::{Base, Opening, RecordRow, ShareWrite, State, Store};
use crate::ReadError;
use crate::sqlite::{int, uint};
use domain::kernel::{AgreementId, Epoch, RecordId, Timestamp};
use domain::stream::{Shown, StreamId};
use rusqlite::{Connection, OptionalExtension as _};
use sqlx::Row as _;
use std::collections::{HashMap, HashSet};

/// A version that comes into force.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The agreement.
    pub agreement: AgreementId,
    /// The version.
    pub version: u32,
    /// How its streams open; one a lane.
    pub openings: Vec<Opening>,
    /// Whether this region writes streams of it: it does not where the version leaves it out.
    pub writes: bool,
    /// Whether what is open is shown under it: it shows others, or otherwise, than the one before.
    pub shows_open: bool,
    /// When what opens and ends the streams expires.
    pub expires_at: Timestamp,
    /// The region's clock.
    pub now: Timestamp,
}

/// What a record that is open comes to under a version that has come into force.
#[derive(Clone, Debug)]
pub struct Reshare {
    /// The record.
    pub record_id: RecordId,
    /// What was decided on. One that has changed since was decided under the version by whoever changed it.
    pub base: Base,
    /// What is remembered as shown from now on.
    pub shown: Shown,
    /// What leaves.
    pub shares: Vec<ShareWrite>,
}

/// Places of the feed that have yet to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Behind this one.
    pub after: u64,
    /// Up to this one.
    pub through: u64,
    /// From this one on also what is over or was taken back is shown again.
    pub again_from: u64,
}

/// A part of what is open.
#[derive(Clone, Debug)]
pub struct TurnPage {
    /// The agreement.
    pub agreement: AgreementId,
    /// The version.
    pub version: u32,
    /// The epoch in which it is shown; of no use in another.
    pub epoch: Epoch,
    /// What leaves.
    pub records: Vec<Reshare>,
    /// Places of the feed up to here are done.
    pub after_seq: u64,
    /// The region's clock.
    pub now: Timestamp,
}

/// What is decided rests on it: the epoch, and the versions that are in force.
#[derive(Clone, Debug)]
pub(super) struct Footing {
    /// How often any of it has changed since the store was opened.
    pub(super) turns: u64,
    pub(super) present: Present,
    /// By agreement.
    pub(super) in_force: HashMap<AgreementId, u32>,
    /// Records that nobody changes: they are offered, or gone and still here.
    pub(super) offered: HashSet<RecordId>,
}

/// Footing in force.
pub(super) fn load(conn: &Connection) -> rusqlite::Result<HashMap<AgreementId, u32>> {
    let mut statement =
        conn.prepare("SELECT agreement_id, max(version) FROM turn GROUP BY agreement_id")?;
    let rows = statement.query_map([], |row| {
        let (agreement, version): (Vec<u8>, [u8; 4]) = (row.get(0)?, row.get(1)?);
        Ok((AgreementId::from_slice(&agreement), u32::from_be_bytes(version)))
    })?;
    let known = rows.map(|row| {
        let (agreement, version) = row?;
        Ok((agreement.ok_or(rusqlite::Error::InvalidQuery)?, version))
    });
    known.collect()
}

/// Puts a version into force, unless it or a later one is.
pub(super) fn begin(state: &mut State, conn: &Connection, turn: &Turn) -> rusqlite::Result<()> {
    let Turn { agreement, version, openings, writes, shows_open, expires_at, now } = turn;
    let known = state.memory.footing.in_force.get(agreement).copied();
    if known >= Some(*version) {
        return Ok(());
    }
    let older = |stream: &&StreamId| {
        let end = state.memory.streams.get(*stream).and_then(|state| state.end);
        stream.epoch == state.memory.footing.present.epoch
            && stream.agreement == *agreement
            && stream.version < *version
            && end.is_none()
    };
    let mut ended: Vec<_> = state.memory.streams.keys().filter(older).cloned().collect();
    ended.sort_unstable();
    let mut runs = Runs::default();
    for (before, opening) in ended.into_iter().zip(openings) {
        let times = (*expires_at, *now);
        if *writes {
            let stream = StreamId { version: *version, ..before };
            runs.open(state, conn, &stream, opening, times)?;
        } else {
            runs.end(state, conn, &before, (*version, opening), times)?;
        }
    }
    runs.write(state, conn)?;
    // What the version before had yet to show is shown under this one.
    let unfinished = conn
        .prepare_cached(
            "SELECT again_from FROM turn WHERE agreement_id = ?1 AND version = ?2 AND after_seq < through_seq",
        )?
        .query_row((agreement.as_bytes().as_slice(), known.unwrap_or(0).to_be_bytes()), |row| {
            row.get::<_, Option<i64>>(0)
        })
        .optional()?;
    let shows = *shows_open || *writes && unfinished.is_some();
    let through = if shows { state.memory.feed_seq } else { 0 };
    let again_from = unfinished.flatten();
    conn.prepare_cached(
        "INSERT INTO turn (agreement_id, version, after_seq, through_seq, again_from) VALUES (?1, ?2, 0, ?3, ?4)",
    )?
    .execute((agreement.as_bytes().as_slice(), version.to_be_bytes(), int(through), again_from))?;
    state.memory.footing.in_force.insert(*agreement, *version);
    state.memory.footing.turns += 1;
    state.pending.turned = true;
    state.pending.now = Some(*now);
    Ok(())
}

/// Shows a part of what is open, in the epoch in which it was decided.
pub(super) fn page(state: &mut State, conn: &Connection, page: &TurnPage) -> rusqlite::Result<()> {
    let TurnPage { agreement, version, epoch, records, after_seq, now } = page;
    if *epoch != state.memory.footing.present.epoch {
        return Ok(());
    }
    let mut runs = Runs::default();
    for Reshare { record_id, base, shown, shares } in records {
        let present = conn
            .prepare_cached(
                "SELECT revision_t, revision_epoch, revision_n, shown FROM record WHERE record_id = ?1",
            )?
            .query_row([record_id.as_bytes().as_slice()], |row| {
                Ok((read_revision(row, 0)?, row.get::<_, Vec<u8>>(3)?))
            })
            .optional()?;
        let same = present.is_some_and(|(revision, shown)| {
            revision == Some(base.revision)
                && Shown::from_bytes(&shown).as_ref() == Some(&base.shown)
        });
        if !same || shares.iter().any(|share| share.is_behind(state)) {
            continue;
        }
        conn.prepare_cached("UPDATE record SET shown = ?2 WHERE record_id = ?1")?
            .execute((record_id.as_bytes().as_slice(), shown.to_bytes()))?;
        for share in shares {
            runs.append(state, conn, share, *now)?;
        }
    }
    runs.write(state, conn)?;
    conn.prepare_cached(
        "UPDATE turn SET after_seq = ?3 WHERE agreement_id = ?1 AND version = ?2 AND after_seq < ?3",
    )?
    .execute((agreement.as_bytes().as_slice(), version.to_be_bytes(), int(*after_seq)))?;
    state.pending.now = Some(*now);
    Ok(())
}

const UNDONE: &str =
    "SELECT after_seq, through_seq, again_from FROM turn WHERE agreement_id = $1 AND version = $2";
const OPEN: &str = "SELECT feed_seq, record_id, kind, revision_t, revision_epoch, revision_n, encoded, shown FROM record
    WHERE feed_seq > $1 AND feed_seq <= $2 ORDER BY feed_seq LIMIT $3";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[UNDONE, OPEN];

impl Store {
    /// What of the feed has yet to be shown under a version that is in force; `None` where nothing has.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.turn.find", level = "debug", skip_all)]
    pub async fn find_turn(
        &self,
        agreement: AgreementId,
        version: u32,
    ) -> Result<Option<Places>, ReadError> {
        let row = sqlx::query(UNDONE)
            .bind(agreement.as_bytes().as_slice())
            .bind(version.to_be_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let (after, through) = (uint(row.try_get(0)?), uint(row.try_get(1)?));
        let again_from = row.try_get::<Option<i64>, _>(2)?.map_or(u64::MAX, uint);
        Ok((after < through).then_some(Places { after, through, again_from }))
    }

    /// Records of this region in these places of the feed, with their places.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.records.list", level = "debug", skip_all)]
    pub async fn list_records(
        &self,
        Places { after, through, .. }: Places,
        limit: u32,
    ) -> Result<Vec<(u64, RecordRow)>, ReadError> {
        let rows = sqlx::query(OPEN)
            .bind(int(after))
            .bind(int(through))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| Ok((uint(row.try_get(0)?), super::feed::record_row(row, 1)?)))
            .collect()
    }
}
