//! A gateway's store: sealed segments, receipts, signed agreements and heads. It holds nothing that it
//! could read.

mod receipt;
mod segment;

pub use receipt::{GatewayReceipt, ReceiptVerdict};
pub use segment::{SegmentVerdict, SegmentWrite, StoredSegment, StoredStream};

use crate::ReadError;
use crate::depth::{self, DepthRow};
use crate::metrics::Metrics;
use crate::sqlite::{self, Migration, OpenError, uint};
use crate::writer::{Answer, Call, Look, Queue, WriteError, Writer};
use bytes::Bytes;
use domain::kernel::{AgreementId, GatewayId, RegionId};
use domain::stream::{Position, StreamId};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use sqlx::{Row as _, SqlitePool};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::broadcast;

const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        sql: include_str!("../../migrations/sqlite/gateway/0001_create_gateway_tables.sql"),
    },
    Migration {
        number: 2,
        sql: include_str!("../../migrations/sqlite/gateway/0002_find_segments_by_their_end.sql"),
    },
];

/// Commits that a slow listener may be behind before it must read the store instead.
const COMMITS_KEPT: usize = 128;
/// Bytes of segments told with a commit: what lies unheard in memory stays bounded.
pub const TOLD_BYTES_MAX: usize = 1_024 * 1_024;

/// What a commit changed, told to everybody who listens once it is on disk.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Streams that grew or were filled again, and how far they go.
    pub streams: Arc<[(StreamId, Position)]>,
    /// The segments stored, for who is up to date and so need not read them: at most
    /// [`TOLD_BYTES_MAX`] of them, in the order of their streams.
    pub segments: Arc<[(StreamId, StoredSegment)]>,
    /// Receipts that are newer than those held before.
    pub receipts: Arc<[GatewayReceipt]>,
    /// Heads that came.
    pub heads: Arc<[(StreamId, Bytes)]>,
}

/// The store of one gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    queue: Queue<Job>,
    readers: SqlitePool,
    committed: broadcast::Sender<Committed>,
    metrics: Metrics,
}

/// A signed agreement version.
#[derive(Clone, Debug)]
pub struct AgreementRow {
    /// The agreement.
    pub agreement: AgreementId,
    /// Its version.
    pub version: u32,
    /// SHA-256 of the signed body.
    pub sha256: [u8; 32],
    /// The signed object, as it came.
    pub signed: Bytes,
}

#[derive(Debug)]
pub(crate) enum Job {
    Segments(Call<Vec<SegmentWrite>, Vec<SegmentVerdict>>),
    Receipt(Call<GatewayReceipt, ReceiptVerdict>),
    Head(Call<(StreamId, Bytes), ()>),
    Agreement(Call<AgreementRow, ()>),
    Replace(Call<(StreamId, u64, u64), ()>),
    Trim(Call<(StreamId, u64), ()>),
}

/// Names of the kinds of jobs, in the order of [`Answer::kind`].
const JOB_KINDS: &[&str] = &["segments", "receipt", "head", "agreement", "replace", "trim"];

impl Store {
    /// Opens or makes the store of `gateway` at `path`. The writer must be run on a thread of its own.
    ///
    /// # Errors
    /// When the file is another gateway's, of a newer program, or cannot be opened.
    pub async fn open(path: &Path, gateway: &GatewayId) -> Result<(Self, Writer), OpenError> {
        let conn = sqlite::open_writer(path, MIGRATIONS)?;
        own(&conn, gateway)?;
        let (queue, jobs) = Queue::new();
        let (committed, _) = broadcast::channel(COMMITS_KEPT);
        let memory = Memory::load(&conn)?;
        let state = State {
            memory,
            pending: Pending::default(),
            unsettled: true,
            committed: committed.clone(),
        };
        let readers = sqlite::open_readers(path).await?;
        let pool = readers.clone();
        let metrics = Metrics::new(gateway.to_string(), path, "gateway.write", JOB_KINDS, pool);
        let store = Self { queue, readers, committed, metrics: metrics.clone() };
        Ok((store, Writer::new(conn, jobs, state, metrics)))
    }

    /// What the store measures of itself, brought up to date.
    pub async fn measure(&self) -> Metrics {
        self.metrics.refresh(self.queue.waiting()).await;
        self.metrics.clone()
    }

    /// How far each party is behind in each stream.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.depths.list", level = "debug", skip_all)]
    pub async fn list_depths(&self) -> Result<Vec<DepthRow>, ReadError> {
        depth::read(&self.readers, depth::GATEWAY).await
    }

    /// Hears of every commit from now on. A listener that falls behind is told how many it missed.
    pub fn listen(&self) -> broadcast::Receiver<Committed> {
        self.committed.subscribe()
    }

    /// Deletes each packaging of a range; who lacks it is given what the origin seals anew.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn replace(
        &self,
        stream: StreamId,
        (from_seq, to_seq): (u64, u64),
    ) -> Result<(), WriteError> {
        self.queue.call((stream, from_seq, to_seq), Job::Replace).await
    }

    /// Drops what ends at this entry or before, though not all may have it.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn trim(&self, stream: StreamId, through_seq: u64) -> Result<(), WriteError> {
        self.queue.call((stream, through_seq), Job::Trim).await
    }

    /// Stores segments that join on; one verdict each, in order.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn store(
        &self,
        segments: Vec<SegmentWrite>,
    ) -> Result<Vec<SegmentVerdict>, WriteError> {
        self.queue.call(segments, Job::Segments).await
    }

    /// Keeps a receipt when it is newer, and drops what every party has.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn keep_receipt(
        &self,
        receipt: GatewayReceipt,
    ) -> Result<ReceiptVerdict, WriteError> {
        self.queue.call(receipt, Job::Receipt).await
    }

    /// Keeps the newest head of a stream.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn keep_head(&self, stream: StreamId, signed: Bytes) -> Result<(), WriteError> {
        self.queue.call((stream, signed), Job::Head).await
    }

    /// Keeps an agreement version.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn keep_agreement(&self, agreement: AgreementRow) -> Result<(), WriteError> {
        self.queue.call(agreement, Job::Agreement).await
    }

    /// All agreement versions.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.agreements.list", level = "debug", skip_all)]
    pub async fn list_agreements(&self) -> Result<Vec<AgreementRow>, ReadError> {
        let rows = sqlx::query(AGREEMENTS).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let bad = || ReadError::Inconsistent("agreement");
                let (id, sha256): (Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(2)?);
                Ok(AgreementRow {
                    agreement: AgreementId::from_slice(&id).ok_or_else(bad)?,
                    version: row.try_get::<i64, _>(1)?.try_into().map_err(|_| bad())?,
                    sha256: sha256.try_into().map_err(|_| bad())?,
                    signed: row.try_get::<Vec<u8>, _>(3)?.into(),
                })
            })
            .collect()
    }
}

const AGREEMENTS: &str =
    "SELECT agreement_id, version, sha256, signed FROM agreement ORDER BY agreement_id, version";

/// Whose store a file is.
///
/// # Errors
/// When it is no gateway's store, or cannot be read.
pub fn id_of(path: &Path) -> Result<GatewayId, OpenError> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "SELECT value FROM store_fact WHERE name = 'gateway_id'";
    let found: Vec<u8> = conn.query_row(sql, [], |row| row.get(0))?;
    let found = String::from_utf8_lossy(&found).into_owned();
    let wanted = "a gateway".to_owned();
    GatewayId::parse(&found).map_err(|_| OpenError::WrongOwner { found, wanted })
}

fn own(conn: &Connection, gateway: &GatewayId) -> Result<(), OpenError> {
    let found: Option<Vec<u8>> = conn
        .query_row("SELECT value FROM store_fact WHERE name = 'gateway_id'", [], |row| row.get(0))
        .optional()?;
    match found {
        None => {
            conn.execute(
                "INSERT INTO store_fact (name, value) VALUES ('gateway_id', ?1)",
                [gateway.as_str().as_bytes()],
            )?;
            Ok(())
        }
        Some(found) if found == gateway.as_str().as_bytes() => Ok(()),
        Some(found) => Err(OpenError::WrongOwner {
            found: String::from_utf8_lossy(&found).into_owned(),
            wanted: gateway.to_string(),
        }),
    }
}

/// What the writer keeps in memory; always what the disk holds.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    streams: HashMap<StreamId, (i64, Position)>,
    receipts: HashMap<(i64, RegionId), Position>,
}

/// Changes of the open transaction, told to listeners when it is on disk.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    streams: HashMap<StreamId, Position>,
    segments: Vec<(StreamId, StoredSegment)>,
    segments_bytes: usize,
    receipts: Vec<GatewayReceipt>,
    heads: Vec<(StreamId, Bytes)>,
}

/// The writer's side of a gateway's store.
#[derive(Debug)]
pub(crate) struct State {
    memory: Memory,
    pending: Pending,
    /// What was deleted may still stand in the log.
    unsettled: bool,
    committed: broadcast::Sender<Committed>,
}

impl Pending {
    /// Notes a segment for those who listen. Once one was left out, so is what follows: a listener
    /// sees each stream without holes up to where it must read.
    fn segment(&mut self, write: &SegmentWrite) {
        self.segments_bytes += write.encoded.len();
        if self.segments_bytes <= TOLD_BYTES_MAX {
            let SegmentWrite { stream, before, after, encoded, .. } = write;
            let (first_seq, last_seq) = (before.seq + 1, after.seq);
            let segment = StoredSegment { first_seq, last_seq, encoded: encoded.clone() };
            self.segments.push((stream.clone(), segment));
        }
    }
}

impl Memory {
    fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut memory = Self::default();
        let mut statement =
            conn.prepare("SELECT stream_no, stream_id, last_seq, last_h FROM stream")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let stream: Vec<u8> = row.get(1)?;
            let stream = StreamId::from_bytes(&stream).ok_or(rusqlite::Error::InvalidQuery)?;
            let last = Position { seq: uint(row.get(2)?), h: row.get(3)? };
            memory.streams.insert(stream, (row.get(0)?, last));
        }
        let mut statement = conn.prepare("SELECT stream_no, party, seq, h FROM receipt")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let party: String = row.get(1)?;
            let party = RegionId::parse(&party).map_err(|_| rusqlite::Error::InvalidQuery)?;
            let at = Position { seq: uint(row.get(2)?), h: row.get(3)? };
            memory.receipts.insert((row.get(0)?, party), at);
        }
        Ok(memory)
    }

    /// How far a stream is stored.
    pub(super) fn last(&self, stream: &StreamId) -> Position {
        self.streams.get(stream).map_or_else(|| seal::chain::start(stream), |(_, last)| *last)
    }
}

impl crate::writer::Apply for State {
    type Job = Job;

    fn apply(&mut self, conn: &Connection, jobs: &mut [Job], _look: Look) -> rusqlite::Result<()> {
        for job in jobs {
            match job {
                Job::Segments(call) => {
                    let verdicts = segment::store(self, conn, &call.input)?;
                    call.set(verdicts);
                }
                Job::Receipt(call) => {
                    let verdict = receipt::keep(self, conn, &call.input)?;
                    call.set(verdict);
                }
                Job::Head(call) => {
                    let (stream, signed) = &call.input;
                    segment::keep_head(self, conn, stream, signed)?;
                    call.set(());
                }
                Job::Agreement(call) => {
                    keep_agreement(conn, &call.input)?;
                    call.set(());
                }
                Job::Replace(call) => {
                    segment::delete(self, conn, &call.input)?;
                    call.set(());
                }
                Job::Trim(call) => {
                    segment::trim(self, conn, &call.input)?;
                    call.set(());
                }
            }
        }
        segment::write_positions(self, conn)
    }

    fn flushed(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        // Nobody may be listening; what was written is on disk for whoever comes later.
        drop(self.committed.send(Committed {
            streams: pending.streams.into_iter().collect(),
            segments: pending.segments.into(),
            receipts: pending.receipts.into(),
            heads: pending.heads.into(),
        }));
    }

    fn settle(&mut self, conn: &Connection) -> bool {
        if self.unsettled {
            self.unsettled = !sqlite::empty_log(conn);
        }
        !self.unsettled
    }

    fn rolled_back(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.pending = Pending::default();
        self.memory = Memory::load(conn)?;
        Ok(())
    }
}

fn keep_agreement(conn: &Connection, row: &AgreementRow) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO agreement (agreement_id, version, sha256, signed) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (agreement_id, version) DO UPDATE SET sha256 = excluded.sha256, signed = excluded.signed",
    )?
    .execute((
        row.agreement.as_bytes().as_slice(),
        row.version,
        row.sha256.as_slice(),
        row.signed.as_ref(),
    ))?;
    Ok(())
}

impl Answer for Job {
    fn answer(&mut self, flushed: Result<(), WriteError>) {
        match self {
            Self::Segments(call) => call.answer(flushed),
            Self::Receipt(call) => call.answer(flushed),
            Self::Head(call) => call.answer(flushed),
            Self::Agreement(call) => call.answer(flushed),
            Self::Replace(call) => call.answer(flushed),
            Self::Trim(call) => call.answer(flushed),
        }
    }

    fn kind(&self) -> usize {
        match self {
            Self::Segments(_) => 0,
            Self::Receipt(_) => 1,
            Self::Head(_) => 2,
            Self::Agreement(_) => 3,
            Self::Replace(_) => 4,
            Self::Trim(_) => 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_of_the_readers_can_be_prepared() {
        let dir = tempfile::tempdir().unwrap();
        let conn = sqlite::open_writer(&dir.path().join("gateway.sqlite"), MIGRATIONS).unwrap();
        for sql in [receipt::STATEMENTS, segment::STATEMENTS, &[depth::GATEWAY]].concat() {
            assert!(conn.prepare(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn no_look_at_segments_goes_through_all_of_a_stream() {
        let dir = tempfile::tempdir().unwrap();
        let conn = sqlite::open_writer(&dir.path().join("gateway.sqlite"), MIGRATIONS).unwrap();
        let through_all = |sql: &str| {
            let steps = sqlite::plan(&conn, sql);
            steps.iter().any(|step| step.contains("segment") && !step.contains("last_seq"))
        };
        for sql in segment::LOOKS {
            assert!(!through_all(sql), "{sql}: {:?}", sqlite::plan(&conn, sql));
        }
        // The control: what a look by where segments begin would cost.
        assert!(through_all("SELECT 1 FROM segment WHERE stream_no = ?1 AND first_seq <= ?2"));
    }
}
