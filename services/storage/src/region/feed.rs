//! Reading what there is: the feed of changes, one record, pages of a kind.

use super::OperationRow;
use super::Store;
use super::commit::{OperationOutcome, revision};
use crate::ReadError;
use crate::sqlite::uint;
use bytes::Bytes;
use domain::kernel::{DeviceId, Kind, OperationId, Reason, RecordId, Revision, Timestamp};
use domain::stream::Shown;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};

/// What a place in the feed holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedSource {
    /// A record of this region.
    Own,
    /// A view of a neighbour's.
    View,
    /// A neighbour's record is no longer shown.
    Withdrawal,
    /// A view of a neighbour's that was quarantined and released by a person.
    Released,
}

/// A place in the feed.
#[derive(Clone, Debug)]
pub struct FeedItem {
    /// The place.
    pub feed_seq: u64,
    /// Kind of the record.
    pub kind: Kind,
    /// What it holds.
    pub source: FeedSource,
    /// The encoded message; opaque here.
    pub encoded: Bytes,
}

/// A page of the feed.
#[derive(Clone, Debug)]
pub struct FeedPage {
    /// Places in order.
    pub items: Vec<FeedItem>,
    /// There may be more.
    pub more: bool,
}

/// A record of this region as it stands.
#[derive(Clone, Debug)]
pub struct RecordRow {
    /// The record.
    pub record_id: RecordId,
    /// Its kind.
    pub kind: Kind,
    /// Its revision.
    pub revision: Revision,
    /// What was shown of it.
    pub shown: Shown,
    /// The encoded record; opaque here.
    pub encoded: Bytes,
}

/// What an agreement shows of a neighbour's record.
#[derive(Clone, Debug)]
pub struct ViewFound {
    /// Its kind.
    pub kind: Kind,
    /// A view or a withdrawal.
    pub source: FeedSource,
    /// The encoded view or withdrawal; opaque here.
    pub encoded: Bytes,
}

/// A row of a page.
#[derive(Clone, Debug)]
pub struct ListedRow {
    /// Its place; the keyset of the next page.
    pub feed_seq: u64,
    /// What it holds; never a withdrawal.
    pub source: FeedSource,
    /// The encoded record or view; opaque here.
    pub encoded: Bytes,
}

// What is quarantined is told nowhere; where a view went there, or came from there, its note tells it.
const FEED: &str = "SELECT feed_seq, kind, 1 AS source, encoded FROM record WHERE feed_seq > $1
    UNION ALL SELECT v.feed_seq, v.kind, 2 + v.withdrawn + 2 * EXISTS (SELECT 1 FROM quarantine_release r WHERE r.view_seq = v.feed_seq), v.encoded
      FROM view v WHERE v.feed_seq > $1 AND v.current IN (1, 2)
    UNION ALL SELECT feed_seq, kind, 3, encoded FROM erasure WHERE feed_seq > $1
    UNION ALL SELECT feed_seq, kind, 3, gone FROM transfer WHERE feed_seq > $1
    UNION ALL SELECT n.feed_seq, n.kind, CASE WHEN n.withdrawal IS NULL
        THEN 2 + v.withdrawn + 2 * EXISTS (SELECT 1 FROM quarantine_release r WHERE r.view_seq = v.feed_seq) ELSE 3 END,
        coalesce(n.withdrawal, v.encoded)
      FROM quarantine_note n LEFT JOIN view v ON v.feed_seq = n.view_seq AND v.current = 1
      WHERE n.feed_seq > $1 AND (n.withdrawal IS NOT NULL OR v.feed_seq IS NOT NULL)
    ORDER BY feed_seq LIMIT $2";
const RECORD_ONE: &str = "SELECT record_id, kind, revision_t, revision_epoch, revision_n, encoded, shown FROM record WHERE record_id = $1";
// What each agreement shows of a record or has withdrawn: the newest first, views before withdrawals.
const VIEWS_OF: &str =
    "SELECT kind, withdrawn + 2 * EXISTS (SELECT 1 FROM quarantine_release r WHERE r.view_seq = view.feed_seq), encoded
    FROM view WHERE record_id = $1 AND current = 1
    ORDER BY withdrawn, revision_t DESC, revision_epoch DESC, revision_n DESC, feed_seq DESC";
const PAGE: &str = "SELECT feed_seq, 1 AS source, encoded FROM record WHERE kind = $1 AND feed_seq < $2
    UNION ALL SELECT v.feed_seq, 2 + 2 * EXISTS (SELECT 1 FROM quarantine_release r WHERE r.view_seq = v.feed_seq), v.encoded FROM view v WHERE v.kind = $1 AND v.feed_seq < $2 AND v.current = 1 AND v.withdrawn = 0
      AND NOT EXISTS (SELECT 1 FROM view w WHERE w.record_id = v.record_id AND w.birth_region = v.birth_region AND w.current = 1 AND w.withdrawn = 0 AND w.feed_seq > v.feed_seq)
    ORDER BY feed_seq DESC LIMIT $3";
const PAGE_OWN: &str =
    "SELECT feed_seq, 1 AS source, encoded FROM record WHERE kind = $1 AND feed_seq < $2
    ORDER BY feed_seq DESC LIMIT $3";
const OPERATION: &str = "SELECT operation_id, digest, device_id, record_id, outcome, reason, revision_n, received_at, encoded FROM operation WHERE operation_id IN ";
const HELD: &str = "SELECT operation_id, digest, device_id, record_id, outcome, reason, revision_n, received_at, encoded FROM operation
    WHERE device_id = $1 AND outcome = 5 ORDER BY operation_id LIMIT $2";

/// Every fixed statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[FEED, RECORD_ONE, VIEWS_OF, PAGE, PAGE_OWN, HELD];

impl Store {
    /// Changes after a place in the feed, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.feed.list", level = "debug", skip_all)]
    pub async fn list_feed(&self, after: u64, limit: u32) -> Result<FeedPage, ReadError> {
        let rows = sqlx::query(FEED)
            .bind(signed(after))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        let more = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let items = rows
            .iter()
            .map(|row| {
                Ok(FeedItem {
                    feed_seq: uint(row.try_get(0)?),
                    kind: kind(row.try_get(1)?)?,
                    source: source(row.try_get(2)?)?,
                    encoded: bytes(row, 3)?,
                })
            })
            .collect::<Result<_, ReadError>>()?;
        Ok(FeedPage { items, more })
    }

    /// A record of this region.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.record.find", level = "debug", skip_all)]
    pub async fn find_record(&self, record: RecordId) -> Result<Option<RecordRow>, ReadError> {
        let row = sqlx::query(RECORD_ONE)
            .bind(record.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| record_row(&row, 0)).transpose()
    }

    /// What each agreement shows of a neighbour's record or has withdrawn: the newest first, views before
    /// withdrawals. Of whom each came from, it says so itself.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.views.list", level = "debug", skip_all)]
    pub async fn list_views_of(&self, record: RecordId) -> Result<Vec<ViewFound>, ReadError> {
        let rows = sqlx::query(VIEWS_OF)
            .bind(record.as_bytes().as_slice())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(view_found).collect()
    }

    /// A page of a kind, newest first: own records and, with `views`, the neighbours'.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.kind.list", level = "debug", skip_all)]
    pub async fn list_kind(
        &self,
        kind: Kind,
        views: Views,
        before: u64,
        limit: u32,
    ) -> Result<Vec<ListedRow>, ReadError> {
        let sql = match views {
            Views::With => PAGE,
            Views::Without => PAGE_OWN,
        };
        let rows = sqlx::query(sql)
            .bind(i64::from(kind.code()))
            .bind(signed(before))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(ListedRow {
                    feed_seq: uint(row.try_get(0)?),
                    source: source(row.try_get(1)?)?,
                    encoded: bytes(row, 2)?,
                })
            })
            .collect()
    }

    /// Operations that were answered before.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.operations.list", level = "debug", skip_all)]
    pub async fn list_operations(
        &self,
        ids: &[OperationId],
    ) -> Result<Vec<OperationRow>, ReadError> {
        /// SQLite takes 32,766 parameters; batches hold at most 1,000 operations with 8 parents.
        const IDS_PER_STATEMENT_MAX: usize = 1_000;
        let mut found = Vec::new();
        for chunk in ids.chunks(IDS_PER_STATEMENT_MAX) {
            let marks = vec!["?"; chunk.len()].join(",");
            // Only question marks are put into the text.
            let mut query =
                sqlx::query(AssertSqlSafe(format!("{OPERATION} ({marks})"))).persistent(false);
            for id in chunk {
                query = query.bind(id.as_bytes().as_slice());
            }
            for row in query.fetch_all(&self.readers).await? {
                found.push(operation(&row)?);
            }
        }
        Ok(found)
    }

    /// Operations of a device that wait for their parents, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.held.list", level = "debug", skip_all)]
    pub async fn list_held(
        &self,
        device: DeviceId,
        limit: u32,
    ) -> Result<Vec<OperationRow>, ReadError> {
        let rows = sqlx::query(HELD)
            .bind(device.as_bytes().as_slice())
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(operation).collect()
    }
}

/// Whether a page shows the neighbours' views too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Views {
    /// It does.
    With,
    /// Own records only.
    Without,
}

/// A view from three columns: kind, source counted from that of a view, content.
pub(super) fn view_found(row: &SqliteRow) -> Result<ViewFound, ReadError> {
    Ok(ViewFound {
        kind: kind(row.try_get(0)?)?,
        source: source(row.try_get::<i64, _>(1)?.saturating_add(2))?,
        encoded: bytes(row, 2)?,
    })
}

/// A record from seven columns.
pub(super) fn record_row(row: &SqliteRow, first: usize) -> Result<RecordRow, ReadError> {
    let (id, epoch): (Vec<u8>, Vec<u8>) = (row.try_get(first)?, row.try_get(first + 3)?);
    let revision = revision(row.try_get(first + 2)?, &epoch, row.try_get(first + 4)?);
    let shown = Shown::from_bytes(row.try_get(first + 6)?);
    Ok(RecordRow {
        record_id: RecordId::from_slice(&id).ok_or(ReadError::Inconsistent("record.record_id"))?,
        kind: kind(row.try_get(first + 1)?)?,
        revision: revision.ok_or(ReadError::Inconsistent("record.revision"))?,
        shown: shown.ok_or(ReadError::Inconsistent("record.shown"))?,
        encoded: bytes(row, first + 5)?,
    })
}

fn operation(row: &SqliteRow) -> Result<OperationRow, ReadError> {
    let bad = || ReadError::Inconsistent("operation");
    let (id, digest, device, record): (Vec<u8>, Vec<u8>, Option<Vec<u8>>, Vec<u8>) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    Ok(OperationRow {
        operation_id: OperationId::from_slice(&id).ok_or_else(bad)?,
        digest: digest.try_into().map_err(|_| bad())?,
        device: device.as_deref().map(|id| DeviceId::from_slice(id).ok_or_else(bad)).transpose()?,
        record_id: RecordId::from_slice(&record).ok_or_else(bad)?,
        outcome: OperationOutcome::from_code(row.try_get(4)?).ok_or_else(bad)?,
        reason: Reason::try_from(row.try_get::<i64, _>(5)?).ok(),
        revision_n: uint(row.try_get(6)?),
        received_at: Timestamp::from_micros(row.try_get(7)?),
        encoded: row.try_get::<Option<Vec<u8>>, _>(8)?.map(Bytes::from),
    })
}

fn bytes(row: &SqliteRow, column: usize) -> Result<Bytes, ReadError> {
    Ok(row.try_get::<Vec<u8>, _>(column)?.into())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn kind(code: i64) -> Result<Kind, ReadError> {
    Kind::try_from(code).map_err(|_| ReadError::Inconsistent("kind"))
}

fn source(code: i64) -> Result<FeedSource, ReadError> {
    match code {
        1 => Ok(FeedSource::Own),
        2 => Ok(FeedSource::View),
        3 => Ok(FeedSource::Withdrawal),
        4 => Ok(FeedSource::Released),
        _ => Err(ReadError::Inconsistent("feed source")),
    }
}
