//! Records that change their owner: what this region offers and decides, and what it hears of others.

use super::commit::{keep_revision, put_new, read_revision, revision};
use super::outbox::Runs;
use super::{
    Base, CommitVerdict, FeedItem, FeedSource, RecordWrite, ShareWrite, State, Store, ViewRow,
};
use crate::ReadError;
use crate::sqlite::int;
use crate::writer::WriteError;
use bytes::Bytes;
use domain::kernel::{AgreementId, Kind, RecordId, RegionId, Revision, Timestamp};
use domain::stream::{Shown, StreamId};
use domain::transfer::{Direction, ReturnReason, TransferState};
use rusqlite::{Connection, OptionalExtension as _};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};
use std::collections::HashSet;

/// What was offered, and by or to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// SHA-256 of the body of the signed offer: names it.
    pub offer_sha256: [u8; 32],
    /// The record.
    pub record_id: RecordId,
    /// Where it was born.
    pub birth_region: RegionId,
    /// Its kind.
    pub kind: Kind,
    /// The revision that is offered.
    pub revision: Revision,
    /// The other region.
    pub party: RegionId,
    /// The agreement that grants it.
    pub agreement: AgreementId,
    /// When it was offered.
    pub offered_at: Timestamp,
    /// When the record is deleted at the latest.
    pub expires_at: Timestamp,
    /// The offer as it was signed; opaque here.
    pub offer: Bytes,
}

/// An offer, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRow {
    /// What was offered.
    pub offered: Offered,
    /// Which way the record goes.
    pub direction: Direction,
    /// How it stands.
    pub state: TransferState,
    /// What was decided has yet to be done here.
    pub is_due: bool,
    /// Its content has yet to be erased here: who owns it now has erased it.
    pub erase_due: bool,
    /// When this region decided or heard.
    pub decided_at: Option<Timestamp>,
    /// Why it was returned.
    pub return_reason: Option<ReturnReason>,
    /// The acceptance as it was signed; opaque here.
    pub accept: Option<Bytes>,
    /// The record as it is offered to this region; opaque here.
    pub record: Option<Bytes>,
}

/// What this region does about an offer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Offers a record that stands so.
    Offer(Offered, Base),
    /// Asks for it back.
    Recall,
    /// Has it back without an answer: the other is no live party any more.
    TakeBack,
    /// Becomes its owner, with this first revision.
    Accept {
        /// The acceptance as it was signed; opaque here.
        accept: Bytes,
        /// The record.
        write: Box<RecordWrite>,
    },
    /// Does not take it.
    Return(ReturnReason),
    /// The other has accepted: the record, which stands so, is not this region's any more.
    Gone {
        /// What was decided on; `None` where it is not here.
        base: Option<Base>,
        /// What watchers are sent; opaque here.
        withdrawal: Bytes,
    },
    /// The content of a record that is gone was erased.
    Erased,
}

/// A step, and what leaves with it.
#[derive(Clone, Debug)]
pub struct TransferStep {
    /// The offer.
    pub offer_sha256: [u8; 32],
    /// What is done.
    pub step: Step,
    /// What leaves.
    pub shares: Vec<ShareWrite>,
    /// As in a commit.
    pub turns: u64,
    /// The region's clock.
    pub now: Timestamp,
}

/// What another region says of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferWord {
    /// It offers a record to this region: so it is.
    Offer(Offered, Bytes),
    /// It asks for it back.
    Recall([u8; 32]),
    /// It has accepted what this region offered; the acceptance as it was signed.
    Accept(Offered, Bytes),
    /// It does not take it.
    Return([u8; 32], ReturnReason),
}

/// How it is known that a record with this owner came to it by right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It was born there, or both signatures of each change of hands are good.
    Proven,
    /// Somebody of the chain is not listed any more with the key that signed.
    Unproven,
}

/// Records that are offered, or gone and still here: nobody changes them.
pub(super) fn load(conn: &Connection) -> rusqlite::Result<HashSet<RecordId>> {
    let mut found = conn.prepare(
        "SELECT record_id FROM transfer WHERE direction = 1 AND (state <= 2 OR state = 3 AND due & 1)",
    )?;
    let rows = found.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|id| RecordId::from_slice(&id?).ok_or(rusqlite::Error::InvalidQuery)).collect()
}

/// Does a step, whole or not at all.
pub(super) fn run(
    state: &mut State,
    conn: &Connection,
    step: &TransferStep,
) -> rusqlite::Result<CommitVerdict> {
    let TransferStep { offer_sha256, step, shares, turns, now } = step;
    let behind = shares.iter().any(|share| share.is_behind(state));
    if *turns != state.memory.footing.turns || behind {
        return Ok(CommitVerdict::Stale);
    }
    let done = match step {
        Step::Offer(offered, base) => offer(state, conn, offered, base)?,
        Step::Recall => decide(conn, offer_sha256, (Direction::Out, "1"), "state = 2", *now)?,
        Step::TakeBack => {
            let back = "state = 4, return_reason = 4";
            let done = decide(conn, offer_sha256, (Direction::Out, "1, 2"), back, *now)?;
            unfreeze(state, conn, offer_sha256, done)?
        }
        Step::Accept { accept, write } => take(state, conn, (offer_sha256, accept), write, *now)?,
        Step::Return(reason) => {
            let back =
                format!("state = 4, due = 0, record = NULL, return_reason = {}", reason.code());
            decide(conn, offer_sha256, (Direction::In, "1, 2"), &back, *now)?
        }
        Step::Gone { base, withdrawal } => {
            give(state, conn, (offer_sha256, base.as_ref()), withdrawal, *now)?
        }
        Step::Erased => decide(conn, offer_sha256, (Direction::Out, "3"), "due = due & ~2", *now)?,
    };
    if !done {
        return Ok(CommitVerdict::Stale);
    }
    let mut runs = Runs::default();
    for share in shares {
        runs.append(state, conn, share, *now)?;
    }
    runs.write(state, conn)?;
    state.pending.transfers = true;
    state.pending.now = Some(*now);
    Ok(CommitVerdict::Done)
}

/// Sets columns of an offer that stands in one of these states; tells whether there was one.
fn decide(
    conn: &Connection,
    offer_sha256: &[u8; 32],
    (direction, states): (Direction, &str),
    set: &str,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let sql = format!(
        "UPDATE transfer SET {set}, decided_at = ?3 WHERE offer_sha256 = ?1 AND direction = ?2 AND state IN ({states})"
    );
    let done = conn.prepare_cached(&sql)?.execute((
        offer_sha256.as_slice(),
        direction.code(),
        now.micros(),
    ))?;
    Ok(done > 0)
}

/// A record may be changed again; what is decided meanwhile is decided anew.
fn unfreeze(
    state: &mut State,
    conn: &Connection,
    offer_sha256: &[u8; 32],
    done: bool,
) -> rusqlite::Result<bool> {
    if done {
        let id: Vec<u8> = conn
            .prepare_cached("SELECT record_id FROM transfer WHERE offer_sha256 = ?1")?
            .query_row([offer_sha256.as_slice()], |row| row.get(0))?;
        let id = RecordId::from_slice(&id).ok_or(rusqlite::Error::InvalidQuery)?;
        state.memory.footing.offered.remove(&id);
        turned(state);
    }
    Ok(done)
}

fn turned(state: &mut State) {
    state.memory.footing.turns += 1;
    state.pending.turned = true;
}

fn stands(conn: &Connection, record: RecordId, base: &Base) -> rusqlite::Result<Option<i64>> {
    let present = conn
        .prepare_cached(
            "SELECT revision_t, revision_epoch, revision_n, shown, feed_seq FROM record WHERE record_id = ?1",
        )?
        .query_row([record.as_bytes().as_slice()], |row| {
            Ok((read_revision(row, 0)?, row.get::<_, Vec<u8>>(3)?, row.get::<_, i64>(4)?))
        })
        .optional()?;
    let same = present.filter(|(revision, shown, _)| {
        *revision == Some(base.revision) && Shown::from_bytes(shown).as_ref() == Some(&base.shown)
    });
    Ok(same.map(|(.., feed_seq)| feed_seq))
}

fn offer(
    state: &mut State,
    conn: &Connection,
    offered: &Offered,
    base: &Base,
) -> rusqlite::Result<bool> {
    let open = state.memory.footing.offered.contains(&offered.record_id);
    if open || stands(conn, offered.record_id, base)?.is_none() {
        return Ok(false);
    }
    insert(conn, offered, (Direction::Out, TransferState::Offered), None, None)?;
    state.memory.footing.offered.insert(offered.record_id);
    turned(state);
    Ok(true)
}

/// A row that is new; one that is there stays as it is.
fn insert(
    conn: &Connection,
    offered: &Offered,
    (direction, state): (Direction, TransferState),
    accept: Option<(&Bytes, Timestamp)>,
    record: Option<&Bytes>,
) -> rusqlite::Result<()> {
    let Offered { offer_sha256, record_id, birth_region, kind, revision, .. } = offered;
    conn.prepare_cached(
        "INSERT INTO transfer (offer_sha256, direction, state, due, record_id, birth_region, kind, revision_t, revision_epoch,
           revision_n, party, agreement_id, offered_at, offer, accept, decided_at, record, expires_at)
         VALUES (?1, ?2, ?3, ?15 IS NOT NULL, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) ON CONFLICT DO NOTHING",
    )?
    .execute(rusqlite::params![
        offer_sha256.as_slice(),
        direction.code(),
        state.code(),
        record_id.as_bytes().as_slice(),
        birth_region.as_str(),
        kind.code(),
        revision.t,
        revision.epoch.as_bytes().as_slice(),
        int(revision.n),
        offered.party.as_str(),
        offered.agreement.as_bytes().as_slice(),
        offered.offered_at.micros(),
        offered.offer.as_ref(),
        accept.map(|(accept, _)| accept.as_ref()),
        accept.map(|(_, at)| at.micros()),
        record.map(AsRef::as_ref),
        offered.expires_at.micros(),
    ])?;
    Ok(())
}

/// This region becomes the owner.
fn take(
    state: &mut State,
    conn: &Connection,
    (offer_sha256, accept): (&[u8; 32], &Bytes),
    write: &RecordWrite,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let id = write.record_id.as_bytes().as_slice();
    let taken: bool = conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM record WHERE record_id = ?1) OR EXISTS (SELECT 1 FROM erasure WHERE record_id = ?1)")?
        .query_row([id], |row| row.get(0))?;
    let set = "state = 3, due = 0, record = NULL";
    if taken || !decide(conn, offer_sha256, (Direction::In, "1"), set, now)? {
        return Ok(false);
    }
    conn.prepare_cached("UPDATE transfer SET accept = ?2 WHERE offer_sha256 = ?1")?
        .execute((offer_sha256.as_slice(), accept.as_ref()))?;
    // What its owner before has shown of it is shown no more beside it.
    conn.prepare_cached("UPDATE view SET current = 2 WHERE record_id = ?1 AND current = 1")?
        .execute([id])?;
    put_new(state, conn, write)?;
    Ok(true)
}

/// A record is not this region's any more; its revisions stay, as what this region did.
fn give(
    state: &mut State,
    conn: &Connection,
    (offer_sha256, base): (&[u8; 32], Option<&Base>),
    withdrawal: &Bytes,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let row = conn
        .prepare_cached(
            "SELECT record_id, kind FROM transfer WHERE offer_sha256 = ?1 AND direction = 1 AND state = 3 AND due & 1",
        )?
        .query_row([offer_sha256.as_slice()], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((id, kind)) = row else { return Ok(false) };
    let (Some(record), Ok(kind)) = (RecordId::from_slice(&id), Kind::try_from(kind)) else {
        return Err(rusqlite::Error::InvalidQuery);
    };
    if let Some(base) = base {
        let Some(old_seq) = stands(conn, record, base)? else { return Ok(false) };
        keep_revision(conn, old_seq, now)?;
        conn.prepare_cached("DELETE FROM record WHERE feed_seq = ?1")?.execute([old_seq])?;
    }
    state.memory.feed_seq += 1;
    let feed_seq = state.memory.feed_seq;
    let shown = base.map(|base| base.shown.to_bytes()).unwrap_or_default();
    conn.prepare_cached(
        "UPDATE transfer SET due = due & ~1, feed_seq = ?2, gone = ?3, shown = ?4 WHERE offer_sha256 = ?1",
    )?
    .execute((offer_sha256.as_slice(), int(feed_seq), withdrawal.as_ref(), shown))?;
    let encoded = withdrawal.clone();
    state.tell(|| FeedItem { feed_seq, kind, source: FeedSource::Withdrawal, encoded });
    state.memory.footing.offered.remove(&record);
    turned(state);
    Ok(true)
}

/// Keeps what another region says of an offer. What does not fit how it stands is passed over: it was decided before.
pub(super) fn hear(
    state: &mut State,
    conn: &Connection,
    origin: &RegionId,
    word: &TransferWord,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let of_party = |offer_sha256: &[u8; 32]| {
        conn.prepare_cached("SELECT party FROM transfer WHERE offer_sha256 = ?1")?
            .query_row([offer_sha256.as_slice()], |row| row.get::<_, String>(0))
            .optional()
            .map(|party| party.as_deref() == Some(origin.as_str()))
    };
    match word {
        TransferWord::Offer(offered, record) => {
            let new = (Direction::In, TransferState::Offered);
            insert(conn, offered, new, None, Some(record))?;
        }
        TransferWord::Recall(offer) if of_party(offer)? => {
            decide(conn, offer, (Direction::In, "1"), "state = 2, due = 1", now)?;
        }
        TransferWord::Accept(offered, accept) => {
            let set = "state = 3, due = 1";
            let offer = &offered.offer_sha256;
            if of_party(offer)? {
                decide(conn, offer, (Direction::Out, "1, 2"), set, now)?;
                // It may have accepted once more, in another epoch.
                conn.prepare_cached(
                    "UPDATE transfer SET accept = ?2 WHERE offer_sha256 = ?1 AND direction = 1 AND state = 3",
                )?
                .execute((offer.as_slice(), accept.as_ref()))?;
            } else {
                // It was offered before this store was restored from a copy.
                let accepted = (Direction::Out, TransferState::Accepted);
                insert(conn, offered, accepted, Some((accept, now)), None)?;
            }
            state.memory.footing.offered = load(conn)?;
            turned(state);
        }
        TransferWord::Return(offer, reason) if of_party(offer)? => {
            let set = format!("state = 4, return_reason = {}", reason.code());
            let done = decide(conn, offer, (Direction::Out, "1, 2"), &set, now)?;
            unfreeze(state, conn, offer, done)?;
        }
        TransferWord::Recall(_) | TransferWord::Return(..) => {}
    }
    state.pending.transfers = true;
    Ok(())
}

/// Content that has had its time: what is offered to this region and nobody decided about, what this region did with a
/// record before it had another owner.
pub(super) fn expire(
    conn: &Connection,
    offer_sha256: &[u8],
    at: Timestamp,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "DELETE FROM record_history WHERE expires_at <= ?2
           AND record_id = (SELECT record_id FROM transfer WHERE offer_sha256 = ?1 AND direction = 1 AND state = 3)
           AND NOT EXISTS (SELECT 1 FROM record WHERE record.record_id = record_history.record_id)",
    )?
    .execute((offer_sha256, at.micros()))?;
    conn.prepare_cached(
        "UPDATE transfer SET record = NULL, expires_at = ?2,
           state = CASE WHEN direction = 2 AND state <= 2 THEN 4 ELSE state END WHERE offer_sha256 = ?1",
    )?
    .execute((offer_sha256, i64::MAX))?;
    Ok(())
}

/// Who owns a record now has erased it: what this region still has of it is to be erased too.
pub(super) fn erased(
    state: &mut State,
    conn: &Connection,
    record: RecordId,
) -> rusqlite::Result<()> {
    let due = conn
        .prepare_cached(
            "UPDATE transfer SET due = due | 2 WHERE record_id = ?1 AND direction = 1 AND state = 3
               AND NOT EXISTS (SELECT 1 FROM erasure WHERE record_id = ?1)",
        )?
        .execute([record.as_bytes().as_slice()])?;
    state.pending.transfers |= due > 0;
    Ok(())
}

/// Whether an origin may own a record that has changed hands: nobody else was seen to own it after as many changes, and
/// what is not proven was seen before.
pub(super) fn may_own(
    conn: &Connection,
    origin: &RegionId,
    view: &ViewRow,
) -> rusqlite::Result<bool> {
    let id = view.record_id.as_bytes().as_slice();
    let here: bool = conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM record WHERE record_id = ?1 AND revision_t = ?2)",
        )?
        .query_row((id, view.revision.t), |row| row.get(0))?;
    let mut found = conn.prepare_cached(
        "SELECT DISTINCT i.stream_id FROM view v JOIN inbox i ON i.inbox_no = v.inbox_no
         WHERE v.record_id = ?1 AND v.birth_region = ?2 AND v.revision_t = ?3",
    )?;
    let seen = found
        .query_map((id, view.birth_region.as_str(), view.revision.t), |row| {
            Ok(StreamId::from_bytes(&row.get::<_, Vec<u8>>(0)?).map(|stream| stream.origin))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let seen = || seen.iter().flatten();
    let proven = view.claim == Claim::Proven || seen().next().is_some();
    Ok(!here && proven && seen().all(|other| other == origin))
}

const COLUMNS: &str = "SELECT offer_sha256, direction, state, due, record_id, birth_region, kind, revision_t, revision_epoch,
  revision_n, party, agreement_id, offered_at, decided_at, return_reason, offer, accept, record, expires_at FROM transfer";
const FIND: &str = "WHERE offer_sha256 = $1";
const OF_RECORD: &str = "WHERE record_id = $1 ORDER BY offered_at DESC";
const LIST: &str = "ORDER BY offered_at DESC LIMIT $1";
const DUE: &str = "WHERE due > 0 ORDER BY offered_at LIMIT $1";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) fn statements() -> Vec<String> {
    [FIND, OF_RECORD, LIST, DUE].map(|rest| format!("{COLUMNS} {rest}")).to_vec()
}

impl Store {
    /// Does a step about an offer; see [`CommitVerdict`].
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn transfer(&self, step: TransferStep) -> Result<CommitVerdict, WriteError> {
        self.queue.call(step, super::Job::Transfer).await
    }

    /// Whether a record is offered, or gone and still here.
    pub fn is_offered(&self, record: RecordId) -> bool {
        self.footing().offered.contains(&record)
    }

    /// An offer.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.transfer.find", level = "debug", skip_all)]
    pub async fn find_transfer(
        &self,
        offer_sha256: &[u8; 32],
    ) -> Result<Option<TransferRow>, ReadError> {
        let rows = self.transfers(FIND, |query| query.bind(offer_sha256.as_slice())).await?;
        Ok(rows.into_iter().next())
    }

    /// The offers of a record, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.transfers.of_record", level = "debug", skip_all)]
    pub async fn list_transfers_of(&self, record: RecordId) -> Result<Vec<TransferRow>, ReadError> {
        self.transfers(OF_RECORD, |query| query.bind(record.as_bytes().as_slice())).await
    }

    /// Offers by and to this region, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.transfers.list", level = "debug", skip_all)]
    pub async fn list_transfers(&self, limit: u32) -> Result<Vec<TransferRow>, ReadError> {
        self.transfers(LIST, |query| query.bind(i64::from(limit))).await
    }

    /// Offers about which something has yet to be done here, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.transfers.due", level = "debug", skip_all)]
    pub async fn list_due_transfers(&self, limit: u32) -> Result<Vec<TransferRow>, ReadError> {
        self.transfers(DUE, |query| query.bind(i64::from(limit))).await
    }

    async fn transfers<'q>(
        &self,
        rest: &str,
        bind: impl FnOnce(Query<'q>) -> Query<'q>,
    ) -> Result<Vec<TransferRow>, ReadError> {
        // Both parts are texts of this file.
        let query = sqlx::query(AssertSqlSafe(format!("{COLUMNS} {rest}")));
        let rows = bind(query).fetch_all(&self.readers).await?;
        rows.iter().map(row).collect()
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn row(row: &SqliteRow) -> Result<TransferRow, ReadError> {
    let bad = || ReadError::Inconsistent("transfer");
    let blob = |column: usize| -> Result<Option<Bytes>, ReadError> {
        Ok(row.try_get::<Option<Vec<u8>>, _>(column)?.map(Bytes::from))
    };
    let code = |column: usize| row.try_get::<i64, _>(column);
    let (epoch, due) = (row.try_get::<Vec<u8>, _>(8)?, code(3)?);
    let offered = Offered {
        offer_sha256: row.try_get::<Vec<u8>, _>(0)?.try_into().map_err(|_| bad())?,
        record_id: RecordId::from_slice(row.try_get(4)?).ok_or_else(bad)?,
        birth_region: RegionId::parse(row.try_get(5)?).map_err(|_| bad())?,
        kind: Kind::try_from(code(6)?).map_err(|_| bad())?,
        revision: revision(code(7)?, &epoch, code(9)?).ok_or_else(bad)?,
        party: RegionId::parse(row.try_get(10)?).map_err(|_| bad())?,
        agreement: AgreementId::from_slice(row.try_get(11)?).ok_or_else(bad)?,
        offered_at: Timestamp::from_micros(code(12)?),
        expires_at: Timestamp::from_micros(code(18)?),
        offer: blob(15)?.ok_or_else(bad)?,
    };
    Ok(TransferRow {
        offered,
        direction: Direction::try_from(code(1)?).map_err(|_| bad())?,
        state: TransferState::try_from(code(2)?).map_err(|_| bad())?,
        is_due: due & 1 != 0,
        erase_due: due & 2 != 0,
        decided_at: row.try_get::<Option<i64>, _>(13)?.map(Timestamp::from_micros),
        return_reason: ReturnReason::try_from(code(14)?).ok(),
        accept: blob(16)?,
        record: blob(17)?,
    })
}
