//! Epochs. A store that was restored from a copy has lost some of what it numbered, and others hold that: it numbers
//! in new streams from then on, which name those that they follow, and what is open is shown in them again.

use super::{State, Store, outbox};
use crate::ReadError;
use crate::sqlite::{int, uint};
use crate::writer::WriteError;
use domain::kernel::{AgreementId, Epoch, RegionId, Timestamp};
use domain::stream::{Parent, StreamId};
use rusqlite::{Connection, OptionalExtension as _};
use sqlx::Row as _;
use std::collections::{BTreeSet, HashMap, HashSet};

/// The live parties of each agreement version, without this region.
pub type Recipients = HashMap<(AgreementId, u32), Vec<RegionId>>;

/// An epoch to open.
#[derive(Clone, Debug)]
pub struct OpenEpoch {
    /// The region.
    pub region: RegionId,
    /// The one that is left; nothing is done where that has happened already.
    pub left: Epoch,
    /// The new one; greater than all that were shown.
    pub epoch: Epoch,
    /// Epochs that were opened by other copies of this store: the new one follows these too.
    pub beside: Vec<Epoch>,
    /// Who receives what is shown under each agreement version.
    pub recipients: Recipients,
    /// The region's clock.
    pub now: Timestamp,
}

/// The facts of this region's present epoch.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) epoch: Epoch,
    /// The epochs that it follows, the lowest first.
    pub(super) parents: Vec<Epoch>,
    /// Epochs that other copies of this store have opened, and that none follows yet.
    pub(super) beside: Vec<Epoch>,
}

/// Reads the present epoch; the store has one.
pub(super) fn load(conn: &Connection) -> rusqlite::Result<Present> {
    let fact = "SELECT value FROM store_fact WHERE name = 'epoch'";
    let bytes: Vec<u8> = conn.query_row(fact, [], |row| row.get(0))?;
    let epoch = Epoch::from_slice(&bytes).ok_or(rusqlite::Error::InvalidQuery)?;
    let mut found = conn.prepare(
        "SELECT epoch, parents, opened_at IS NULL FROM epoch
         WHERE region = (SELECT CAST(value AS TEXT) FROM store_fact WHERE name = 'region_id')",
    )?;
    let rows: Vec<(Vec<u8>, Vec<u8>, bool)> = found
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let followed: BTreeSet<Epoch> =
        rows.iter().filter(|row| !row.2).flat_map(|(_, parents, _)| split(parents)).collect();
    let elsewhere = rows.iter().filter(|row| row.2).filter_map(|row| Epoch::from_slice(&row.0));
    let beside = elsewhere.filter(|epoch| !followed.contains(epoch)).collect();
    let own = rows.iter().find(|row| row.0 == bytes);
    let parents = own.map(|(_, parents, _)| split(parents)).unwrap_or_default();
    Ok(Present { epoch, parents, beside })
}

fn split(bytes: &[u8]) -> Vec<Epoch> {
    bytes.chunks(16).filter_map(Epoch::from_slice).collect()
}

fn join(epochs: &BTreeSet<Epoch>) -> Vec<u8> {
    epochs.iter().flat_map(|epoch| epoch.as_bytes()).copied().collect()
}

/// The epochs that a stream's own follows, and how far this store knows their streams.
pub(super) fn parents(state: &State, stream: &StreamId) -> Vec<Parent> {
    let known = |epoch: &Epoch| {
        let before = StreamId { epoch: *epoch, ..stream.clone() };
        let last = state.memory.streams.get(&before).map(|state| state.last);
        Parent { epoch: *epoch, last: last.filter(|last| last.seq > 0) }
    };
    state.memory.footing.present.parents.iter().map(known).collect()
}

/// Opens an epoch; gives the present one.
pub(super) fn open(
    state: &mut State,
    conn: &Connection,
    open: &OpenEpoch,
) -> rusqlite::Result<Epoch> {
    let OpenEpoch { region, left, epoch, beside, recipients, now } = open;
    let present = state.memory.footing.present.epoch;
    if present != *left || *epoch <= present {
        return Ok(present);
    }
    #[cfg(feature = "known-bad")]
    if crate::known_bad::is(crate::known_bad::Variant::RestoreWithoutEpoch) {
        return Ok(present);
    }
    let mut parents = BTreeSet::from([present]);
    parents.extend(beside);
    let again_from = again_from(state, conn, recipients)?;
    conn.execute("UPDATE store_fact SET value = ?1 WHERE name = 'epoch'", [epoch.as_bytes()])?;
    conn.execute(
        "INSERT INTO epoch (region, epoch, parents, opened_at) VALUES (?1, ?2, ?3, ?4)",
        (region.as_str(), epoch.as_bytes(), join(&parents), now.micros()),
    )?;
    for (agreement, version) in &state.memory.footing.in_force {
        conn.prepare_cached(
            "UPDATE turn SET after_seq = 0, through_seq = ?3, again_from = ?4 WHERE agreement_id = ?1 AND version = ?2",
        )?
        .execute((
            agreement.as_bytes().as_slice(),
            version.to_be_bytes(),
            int(state.memory.feed_seq),
            again_from,
        ))?;
    }
    let parents = parents.into_iter().collect();
    state.memory.footing.present = Present { epoch: *epoch, parents, beside: Vec::new() };
    state.memory.footing.turns += 1;
    state.pending.turned = true;
    state.pending.now = Some(*now);
    Ok(*epoch)
}

/// Keeps that another copy of this store has opened an epoch.
pub(super) fn note_beside(
    state: &mut State,
    conn: &Connection,
    (region, epoch): &(RegionId, Epoch),
) -> rusqlite::Result<()> {
    let none: &[u8] = &[];
    conn.prepare_cached(
        "INSERT INTO epoch (region, epoch, parents) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    )?
    .execute((region.as_str(), epoch.as_bytes(), none))?;
    state.memory.footing.present = load(conn)?;
    state.pending.turned = true;
    Ok(())
}

/// The first place in the feed of the records of which something was said that some recipient has not signed for.
fn again_from(
    state: &State,
    conn: &Connection,
    recipients: &Recipients,
) -> rusqlite::Result<Option<i64>> {
    let left = state.memory.footing.present.epoch;
    let mut records = HashSet::new();
    for (stream, known) in state.memory.streams.iter().filter(|(stream, _)| stream.epoch == left) {
        let Some(parties) = recipients.get(&(stream.agreement, stream.version)) else { continue };
        let mut found =
            conn.prepare_cached("SELECT party, seq FROM receipt WHERE stream_no = ?1")?;
        let signed: HashMap<String, i64> = found
            .query_map([known.number], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let seq = |party: &RegionId| signed.get(party.as_str()).copied().unwrap_or(0);
        if let Some(all_have) = parties.iter().map(seq).min() {
            records.extend(outbox::records_behind(conn, stream, known.number, all_have)?);
        }
    }
    let mut first = None;
    for record in records {
        let place: Option<i64> = conn
            .prepare_cached("SELECT feed_seq FROM record WHERE record_id = ?1")?
            .query_row([record.as_bytes()], |row| row.get(0))
            .optional()?;
        first = match (first, place) {
            (Some(first), Some(place)) => Some(place.min(first)),
            (first, place) => first.or(place),
        };
    }
    Ok(first)
}

/// Keeps that an epoch follows others, as the stream that opened it says; tells whether another follows one of
/// them too and none names both: then two copies of that region are at work.
pub(super) fn note(
    conn: &Connection,
    region: &RegionId,
    epoch: Epoch,
    parents: &[Parent],
) -> rusqlite::Result<bool> {
    let own: BTreeSet<Epoch> = parents.iter().map(|parent| parent.epoch).collect();
    let new = conn
        .prepare_cached(
            "INSERT INTO epoch (region, epoch, parents) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute((region.as_str(), epoch.as_bytes(), join(&own)))?;
    if new == 0 || own.is_empty() {
        return Ok(false);
    }
    let mut found = conn.prepare_cached("SELECT epoch, parents FROM epoch WHERE region = ?1")?;
    let known: Vec<(Option<Epoch>, Vec<Epoch>)> = found
        .query_map([region.as_str()], |row| {
            let (epoch, parents): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
            Ok((Epoch::from_slice(&epoch), split(&parents)))
        })?
        .collect::<Result<_, _>>()?;
    let settled = |other: &Epoch| {
        own.contains(other)
            || known.iter().any(|(_, parents)| parents.contains(other) && parents.contains(&epoch))
    };
    Ok(known.iter().any(|(other, parents)| {
        other.is_some_and(|other| other != epoch && !settled(&other))
            && parents.iter().any(|parent| own.contains(parent))
    }))
}

/// How far the feed goes, where what was there has expired; 8 bytes, big endian.
pub(super) const FEED_SEQ: &str = "SELECT value FROM store_fact WHERE name = 'feed_seq'";
const HEIGHT: &str = "SELECT max(coalesce((SELECT max(feed_seq) FROM record), 0),
      coalesce((SELECT max(feed_seq) FROM view), 0), coalesce((SELECT max(feed_seq) FROM erasure), 0),
      coalesce((SELECT max(feed_seq) FROM transfer), 0),
      coalesce((SELECT max(feed_seq) FROM quarantine_note), 0), $1)
    + coalesce((SELECT sum(last_seq) FROM stream), 0) + coalesce((SELECT sum(applied_seq) FROM inbox), 0)";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[FEED_SEQ, HEIGHT];

impl Store {
    /// The epochs that the present one follows, the lowest first.
    pub fn parents(&self) -> Vec<Epoch> {
        self.footing().present.parents.clone()
    }

    /// Epochs that other copies of this store have opened, and that none follows yet.
    pub fn epochs_beside(&self) -> Vec<Epoch> {
        self.footing().present.beside.clone()
    }

    /// Keeps that another copy of this store has opened an epoch.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn note_epoch_beside(
        &self,
        region: RegionId,
        epoch: Epoch,
    ) -> Result<(), WriteError> {
        self.queue.call((region, epoch), super::Job::NoteBeside).await
    }

    /// Leaves the present epoch, because the store was restored from a copy; gives the one it is in then. What is
    /// decided in the one before is handed back, and what is open is shown again.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn open_epoch(&self, open: OpenEpoch) -> Result<Epoch, WriteError> {
        self.queue.call(open, super::Job::OpenEpoch).await
    }

    /// Grows with all that is written, and never shrinks but by a restore.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.height.find", level = "debug", skip_all)]
    pub async fn height(&self) -> Result<u64, ReadError> {
        let kept = sqlx::query(FEED_SEQ).fetch_optional(&self.readers).await?;
        let kept: Option<Vec<u8>> = kept.map(|row| row.try_get(0)).transpose()?;
        let kept = kept.and_then(|kept| Some(u64::from_be_bytes(kept.try_into().ok()?)));
        let height = sqlx::query(HEIGHT).bind(int(kept.unwrap_or(0)));
        Ok(uint(height.fetch_one(&self.readers).await?.try_get(0)?))
    }
}
