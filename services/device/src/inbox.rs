//! What the region tells: its records and its neighbours' views, newest of each, and how far they were
//! read, in one transaction.

use crate::phone::Device;
use crate::store::{StoreError, int, read};
use crate::sync::{self, SyncState};
use bytes::Bytes;
use domain::kernel::{AgreementId, Epoch, Kind, Reason, RecordId, Revision, Timestamp};
use domain::operation::Operation;
use domain::record::Record;
use prost::Message as _;
use proto::convert::kernel::decode_time;
use proto::convert::{record, view};
use proto::device::v1 as pb;
use proto::device::v1::change::Subject;
use proto::kernel::v1 as kernel_pb;
use rusqlite::{Connection, OptionalExtension as _};

/// What came of a page of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Records, views and withdrawals that are new to the phone.
    pub changed: u64,
    /// Changes that were known, or older than what is known.
    pub late: u64,
    /// Changes that this program cannot read: of a newer kind, or broken.
    pub unreadable: u64,
    /// The region has come back from a copy: so many kept operations are offered again.
    pub offered_again: Option<u64>,
    /// The page was not used; read on from [`Device::cursor`].
    pub read_again: bool,
}

/// Why a page of changes was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The cursor names no place in a feed.
    #[error("the region sent an invalid cursor")]
    CursorInvalid,
    /// The page is of an epoch that the region has left.
    #[error("the page is of an epoch that is over")]
    EpochOver,
    /// The store failed.
    #[error("the changes were not stored")]
    Store(#[from] StoreError),
}

// A newer epoch of the region overrules whatever revision was seen before: what a backup did not hold
// is gone, however new it was.
const SQL_UPSERT_RECORD: &str = "INSERT INTO record
    (record_id, kind, revision_t, revision_epoch, revision_n, region_epoch, expires_at, encoded)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (record_id) DO UPDATE SET kind = excluded.kind, revision_t = excluded.revision_t,
      revision_epoch = excluded.revision_epoch, revision_n = excluded.revision_n,
      region_epoch = excluded.region_epoch, expires_at = excluded.expires_at,
      encoded = excluded.encoded
    WHERE record.region_epoch < excluded.region_epoch
      OR (excluded.revision_t, excluded.revision_epoch, excluded.revision_n)
      >= (record.revision_t, record.revision_epoch, record.revision_n)";
const SQL_UPSERT_REVISION: &str = "INSERT INTO record
    (record_id, kind, revision_t, revision_epoch, revision_n, region_epoch, expires_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (record_id) DO UPDATE SET revision_t = excluded.revision_t,
      revision_epoch = excluded.revision_epoch, revision_n = excluded.revision_n,
      region_epoch = excluded.region_epoch
    WHERE record.region_epoch < excluded.region_epoch
      OR (excluded.revision_t, excluded.revision_epoch, excluded.revision_n)
      > (record.revision_t, record.revision_epoch, record.revision_n)";
const SQL_UPSERT_VIEW: &str = "INSERT INTO view (record_id, agreement_id, kind, revision_t,
      revision_epoch, revision_n, share_n, region_epoch, expires_at, encoded)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT (record_id, agreement_id) DO UPDATE SET kind = excluded.kind,
      revision_t = excluded.revision_t, revision_epoch = excluded.revision_epoch,
      revision_n = excluded.revision_n, share_n = excluded.share_n,
      region_epoch = excluded.region_epoch, expires_at = excluded.expires_at,
      encoded = excluded.encoded
    WHERE view.region_epoch < excluded.region_epoch
      OR (excluded.revision_t, excluded.revision_epoch, excluded.revision_n, excluded.share_n)
      > (view.revision_t, view.revision_epoch, view.revision_n, view.share_n)";
// A withdrawal names no revision: it ends what was shown before it in the feed.
const SQL_WITHDRAW: &str = "INSERT INTO view (record_id, agreement_id, kind, revision_t,
      revision_epoch, revision_n, share_n, region_epoch, expires_at)
    VALUES (?1, ?2, ?3, 0, x'', 0, 0, ?4, ?5)
    ON CONFLICT (record_id, agreement_id) DO UPDATE SET region_epoch = excluded.region_epoch,
      encoded = NULL";
// What came from a thief is not the newest of anything: what was shown before it may come again.
const SQL_FORGET: &str =
    "UPDATE view SET revision_t = 0, revision_epoch = x'', revision_n = 0, share_n = 0
    WHERE record_id = ?1 AND agreement_id = ?2";

impl Device {
    /// Where to read on. Of an empty epoch when everything is to be read from the start.
    ///
    /// # Errors
    /// When the store fails.
    pub fn cursor(&self) -> Result<pb::Cursor, StoreError> {
        let state = SyncState::load(self.store.conn())?;
        Ok(match state.epoch {
            Some(epoch) if state.feed_seq > 0 => pb::Cursor {
                epoch: Bytes::copy_from_slice(epoch.as_bytes()),
                feed_seq: state.feed_seq,
            },
            _ => pb::Cursor::default(),
        })
    }

    /// Reads from the start next time; to be called when the region answers `EPOCH_CHANGED`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn restart_feed(&mut self) -> Result<(), StoreError> {
        self.store.write(|tx| {
            tx.execute("UPDATE sync_state SET feed_seq = ?1", [int(0)])?;
            Ok(())
        })
    }

    /// Takes in a page that was read from [`Device::cursor`].
    ///
    /// # Errors
    /// When the page has no place in the feed, or the store fails; nothing was taken then.
    pub fn apply_pull(&mut self, page: pb::PullResponse) -> Result<Applied, ApplyError> {
        let pb::PullResponse { changes, next_cursor, more: _ } = page;
        self.apply(&changes, next_cursor, None)
    }

    /// Takes in a message of a watch that began at [`Device::cursor`]; messages come in order.
    ///
    /// # Errors
    /// When the message has no place in the feed, or the store fails; nothing was taken then.
    pub fn apply_watch(&mut self, message: pb::WatchResponse) -> Result<Applied, ApplyError> {
        let pb::WatchResponse { changes, cursor, server_time } = message;
        self.apply(&changes, cursor, server_time.and_then(decode_time))
    }

    fn apply(
        &mut self,
        changes: &[pb::Change],
        cursor: Option<pb::Cursor>,
        region_now: Option<Timestamp>,
    ) -> Result<Applied, ApplyError> {
        let now = self.clock.now();
        let own = self.identity.region_id.as_str();
        self.store.write(|tx| {
            sync::note_contact(tx, now, region_now)?;
            let last = || changes.last().and_then(|change| change.cursor.clone());
            let Some(cursor) = cursor.or_else(last) else { return Ok(Applied::default()) };
            let (epoch, end) = place(&cursor).ok_or(ApplyError::CursorInvalid)?;
            let mut applied = Applied::default();
            let from = enter(tx, epoch, &mut applied)?;
            if applied.read_again {
                return Ok(applied);
            }
            let withdrawn_until = region_now.unwrap_or(now).plus_days(sync::OPERATION_DAYS_KEPT);
            let page = Page { conn: tx, epoch, own, withdrawn_until };
            let mut reached = end.max(from);
            for change in changes {
                let seq = change.cursor.as_ref().and_then(place).map(|(_, seq)| seq);
                if seq.is_some_and(|seq| seq <= from) {
                    applied.late += 1;
                    continue;
                }
                reached = reached.max(seq.unwrap_or(0));
                match change.subject.as_ref().map_or(Ok(None), |subject| page.take(subject))? {
                    Some(true) => applied.changed += 1,
                    Some(false) => applied.late += 1,
                    None => applied.unreadable += 1,
                }
            }
            sync::set_feed(tx, epoch, reached)?;
            Ok(applied)
        })
    }

    /// A record of the region as the phone last saw it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn find_record(&self, record_id: RecordId) -> Result<Option<Record>, StoreError> {
        let encoded: Option<Vec<u8>> = self
            .store
            .conn()
            .prepare_cached(
                "SELECT encoded FROM record
                 WHERE record_id = ?1 AND encoded IS NOT NULL AND expires_at > ?2",
            )?
            .query_row((record_id.as_bytes().as_slice(), self.region_now()?), |row| row.get(0))
            .optional()?;
        encoded.map(|encoded| decode_record(&encoded)).transpose()
    }

    /// Records of a kind, those born last first, before `before`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn list_records(
        &self,
        kind: Kind,
        before: Option<RecordId>,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        let mut statement = self.store.conn().prepare_cached(
            "SELECT encoded FROM record
             WHERE kind = ?1 AND (?2 IS NULL OR record_id < ?2) AND encoded IS NOT NULL
               AND expires_at > ?3
             ORDER BY record_id DESC LIMIT ?4",
        )?;
        let before = before.map(|id| id.as_bytes().to_vec());
        let rows = statement
            .query_map((kind.code(), before, self.region_now()?, limit), |row| {
                row.get::<_, Vec<u8>>(0)
            })?
            .collect::<Result<Vec<_>, _>>()?;
        rows.iter().map(|encoded| decode_record(encoded)).collect()
    }

    /// Neighbours' records of a kind, those born last first, before `before`; of each the newest view.
    ///
    /// # Errors
    /// When the store fails.
    pub fn list_views(
        &self,
        kind: Kind,
        before: Option<RecordId>,
        limit: u32,
    ) -> Result<Vec<pb::NeighbourView>, StoreError> {
        let mut statement = self.store.conn().prepare_cached(
            "SELECT encoded FROM (
               SELECT record_id, encoded, ROW_NUMBER() OVER (PARTITION BY record_id
                 ORDER BY revision_t DESC, revision_epoch DESC, revision_n DESC, share_n DESC,
                   agreement_id) AS place
               FROM view
               WHERE kind = ?1 AND (?2 IS NULL OR record_id < ?2) AND encoded IS NOT NULL
                 AND expires_at > ?3)
             WHERE place = 1 ORDER BY record_id DESC LIMIT ?4",
        )?;
        let before = before.map(|id| id.as_bytes().to_vec());
        let rows = statement
            .query_map((kind.code(), before, self.region_now()?, limit), |row| {
                row.get::<_, Vec<u8>>(0)
            })?
            .collect::<Result<Vec<_>, _>>()?;
        rows.iter()
            .map(|encoded| read(pb::NeighbourView::decode(&**encoded).ok(), "view"))
            .collect()
    }

    fn region_now(&self) -> Result<i64, StoreError> {
        let state = SyncState::load(self.store.conn())?;
        Ok(state.region_now(self.clock.now()).micros())
    }
}

/// Comes into the epoch of a page, and tells from where the phone reads in it.
fn enter(conn: &Connection, epoch: Epoch, applied: &mut Applied) -> Result<i64, ApplyError> {
    let state = SyncState::load(conn)?;
    let known = state.epoch.unwrap_or(epoch);
    if epoch < known {
        return Err(ApplyError::EpochOver);
    }
    let from = int(state.feed_seq);
    if epoch == known {
        return Ok(from);
    }
    applied.offered_again = Some(sync::offer_again(conn)?);
    sync::set_feed(conn, epoch, 0)?;
    // A page that was asked for from the start is the start of the new feed; any other may lack it.
    applied.read_again = from > 0;
    Ok(0)
}

/// A place as the store holds it.
fn place(cursor: &pb::Cursor) -> Option<(Epoch, i64)> {
    Some((Epoch::from_slice(&cursor.epoch)?, i64::try_from(cursor.feed_seq).ok()?))
}

/// A page of changes while it is taken in.
struct Page<'a> {
    conn: &'a Connection,
    epoch: Epoch,
    own: &'a str,
    /// How long it is remembered that something unseen was withdrawn.
    withdrawn_until: Timestamp,
}

impl Page<'_> {
    /// Takes a change; tells whether it was new, `None` when it cannot be read.
    fn take(&self, subject: &Subject) -> Result<Option<bool>, StoreError> {
        match subject {
            Subject::Record(record) => learn_record(self.conn, record, None),
            Subject::View(view) => self.view(view),
            Subject::Withdrawal(withdrawal) => self.withdraw(withdrawal),
        }
    }

    fn view(&self, view: &pb::NeighbourView) -> Result<Option<bool>, StoreError> {
        let agreement_id = self.agreement(view.source.as_ref());
        let head = view.view.clone().and_then(|view| view::check(view).ok());
        let (Some(agreement_id), Some(head)) = (agreement_id, head) else { return Ok(None) };
        let rows = self.conn.prepare_cached(SQL_UPSERT_VIEW)?.execute((
            head.record_id.as_bytes().as_slice(),
            agreement_id.as_bytes().as_slice(),
            head.kind.code(),
            head.revision.t,
            head.revision.epoch.as_bytes().as_slice(),
            int(head.revision.n),
            int(head.share_n),
            self.epoch.as_bytes().as_slice(),
            head.expires_at.micros(),
            view.encode_to_vec(),
        ))?;
        Ok(Some(rows > 0))
    }

    fn withdraw(&self, withdrawal: &pb::Withdrawal) -> Result<Option<bool>, StoreError> {
        let pb::Withdrawal { record_id, kind, source, reason } = withdrawal;
        if let (Some(record_id), None) = (RecordId::from_slice(record_id), source) {
            return self.erased(record_id).map(Some);
        }
        let (Some(record_id), Ok(kind), Some(agreement_id)) = (
            RecordId::from_slice(record_id),
            Kind::try_from(*kind),
            self.agreement(source.as_ref()),
        ) else {
            return Ok(None);
        };
        self.conn.prepare_cached(SQL_WITHDRAW)?.execute((
            record_id.as_bytes().as_slice(),
            agreement_id.as_bytes().as_slice(),
            kind.code(),
            self.epoch.as_bytes().as_slice(),
            self.withdrawn_until.micros(),
        ))?;
        if *reason == Reason::RecordQuarantined.code() {
            let key = (record_id.as_bytes().as_slice(), agreement_id.as_bytes().as_slice());
            self.conn.prepare_cached(SQL_FORGET)?.execute(key)?;
        }
        Ok(Some(true))
    }

    /// A record of the region was erased: its content goes from here too, what was done to it unless the region has
    /// yet to hear of it.
    fn erased(&self, record_id: RecordId) -> Result<bool, StoreError> {
        let id = record_id.as_bytes().as_slice();
        let known = self
            .conn
            .prepare_cached("UPDATE record SET encoded = NULL WHERE record_id = ?1")?
            .execute([id])?;
        self.conn
            .prepare_cached(
                "DELETE FROM operation WHERE record_id = ?1 AND settled_at IS NOT NULL",
            )?
            .execute([id])?;
        Ok(known > 0)
    }

    /// The agreement of a view; `None` for a view that claims to come from the region itself.
    fn agreement(&self, source: Option<&pb::ViewSource>) -> Option<AgreementId> {
        let source = source.filter(|source| source.origin_region != self.own)?;
        AgreementId::from_slice(&source.agreement_id)
    }
}

/// Keeps a record of the region if it is the newest known; tells whether it was, `None` when it cannot
/// be read or is not the `expected` one.
pub(crate) fn learn_record(
    conn: &Connection,
    encoded: &kernel_pb::Record,
    expected: Option<RecordId>,
) -> Result<Option<bool>, StoreError> {
    let Ok(record) = record::decode(encoded.clone()) else { return Ok(None) };
    let meta = &record.meta;
    if expected.is_some_and(|expected| expected != meta.record_id) {
        return Ok(None);
    }
    let rows = conn.prepare_cached(SQL_UPSERT_RECORD)?.execute((
        meta.record_id.as_bytes().as_slice(),
        meta.kind.code(),
        meta.revision.t,
        meta.revision.epoch.as_bytes().as_slice(),
        int(meta.revision.n),
        region_epoch(conn, meta.revision)?.as_bytes().as_slice(),
        meta.expires_at.micros(),
        encoded.encode_to_vec(),
    ))?;
    Ok(Some(rows > 0))
}

/// Keeps the revision that an operation has led to, if it is the newest known.
pub(crate) fn learn_revision(
    conn: &Connection,
    operation: &Operation,
    revision: Revision,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    conn.prepare_cached(SQL_UPSERT_REVISION)?.execute((
        operation.record_id.as_bytes().as_slice(),
        operation.change.kind().code(),
        revision.t,
        revision.epoch.as_bytes().as_slice(),
        int(revision.n),
        region_epoch(conn, revision)?.as_bytes().as_slice(),
        expires_at.micros(),
    ))?;
    Ok(())
}

/// The epoch in which the region speaks, as far as the phone knows it.
fn region_epoch(conn: &Connection, revision: Revision) -> Result<Epoch, StoreError> {
    Ok(SyncState::load(conn)?.epoch.unwrap_or(revision.epoch))
}

fn decode_record(encoded: &[u8]) -> Result<Record, StoreError> {
    let record =
        kernel_pb::Record::decode(encoded).ok().and_then(|record| record::decode(record).ok());
    read(record, "record")
}
