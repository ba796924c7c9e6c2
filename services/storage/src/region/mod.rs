//! A region's store: its records, what it showed to whom, what its neighbours showed to it.

mod apply;
mod audit;
mod commit;
mod device;
mod disclosure;
mod epoch;
mod erasure;
mod expiry;
mod feed;
mod job;
mod outbox;
mod quarantine;
mod release;
mod schema;
mod stream;
mod tail;
#[cfg(test)]
mod tests;
mod transfer;
mod turn;
mod withdrawal;

pub use apply::{Applied, Apply, InboxEntry, InboxItem, ViewRow};
pub use audit::{HeldEntry, HeldLook, HeldView};
pub use commit::{
    Base, Commit, CommitItem, CommitVerdict, Opening, OperationOutcome, OperationRow, RecordWrite,
    ShareWrite,
};
pub use device::{
    DeviceRow, EnrolVerdict, Enrolment, EnrolmentCode, RevokedDevice, issue_code, revoke_device,
};
pub use disclosure::{Disclosure, Watcher};
pub use epoch::{OpenEpoch, Recipients};
pub use erasure::{ErasedFrom, Erasing, ErasureRow};
pub use expiry::Expired;
pub use feed::{FeedItem, FeedPage, FeedSource, ListedRow, RecordRow, ViewFound, Views};
pub use outbox::OutboxEntry;
pub use quarantine::{Cutting, Quarantined, Releasing, StreamCut, Withdrawn};
pub use release::{ParkedEntry, Release};
pub use stream::{DigestRow, ReceiptRow, StreamRow};
pub use transfer::{Claim, Offered, Step, TransferRow, TransferStep, TransferWord};
pub use turn::{Places, Reshare, Turn, TurnPage};

use crate::ReadError;
use crate::depth::{self, DepthRow};
use crate::metrics::Metrics;
use crate::sqlite::{self, OpenError};
use crate::writer::{Look, Queue, WriteError, Writer};
use device::Devices;
use domain::kernel::{AgreementId, DeviceId, Epoch, RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use job::{JOB_KINDS, Job};
use outbox::{Recent, Run};
use rusqlite::{Connection, OptionalExtension as _};
use schema::{MIGRATIONS, own};
use sqlx::SqlitePool;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tail::Tail;
use tokio::sync::broadcast;
use turn::Footing;

/// Commits that a slow listener may be behind before it must read the store instead.
const COMMITS_KEPT: usize = 1_024;

/// What a commit changed, told to everybody who listens once it is on disk.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// New places in the feed, oldest first; none while nobody is noted as a watcher.
    pub feed: Arc<[FeedItem]>,
    /// Streams this region writes that grew, and how far they go now.
    pub streams: Arc<[(StreamId, Position)]>,
    /// Streams this region receives that were applied, and how far.
    pub inbox: Arc<[(StreamId, Position)]>,
    /// Receipts of other parties came in.
    pub receipts: bool,
    /// An offer of a record stands otherwise.
    pub transfers: bool,
    /// Ranges of streams that this region writes and that were sealed with what is erased now.
    pub erased: Arc<[(StreamId, u64, u64)]>,
}

/// The store of one region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    queue: Queue<Job>,
    readers: SqlitePool,
    committed: broadcast::Sender<Committed>,
    tail: Arc<Mutex<Tail>>,
    recent: Arc<Mutex<Recent>>,
    devices: Arc<Mutex<Devices>>,
    footing: Arc<Mutex<Footing>>,
    metrics: Metrics,
}

impl Store {
    /// Opens or makes the store of `region` at `path`; `epoch` is used when it is made. The writer must
    /// be run on a thread of its own for anything to be written.
    ///
    /// # Errors
    /// When the file is another region's, of a newer program, or cannot be opened.
    pub async fn open(
        path: &Path,
        region: &RegionId,
        epoch: Epoch,
    ) -> Result<(Self, Writer), OpenError> {
        let conn = sqlite::open_writer(path, MIGRATIONS)?;
        Self::over(conn, path, region, epoch).await
    }

    async fn over(
        conn: Connection,
        path: &Path,
        region: &RegionId,
        epoch: Epoch,
    ) -> Result<(Self, Writer), OpenError> {
        own(&conn, region, epoch)?;
        let (queue, jobs) = Queue::new();
        let (committed, _) = broadcast::channel(COMMITS_KEPT);
        let tail: Arc<Mutex<Tail>> = Arc::default();
        let devices: Arc<Mutex<Devices>> = Arc::default();
        let recent: Arc<Mutex<Recent>> = Arc::default();
        let memory = Memory::load(&conn)?;
        let footing = Arc::new(Mutex::new(memory.footing.clone()));
        let state = State {
            tail: Arc::clone(&tail),
            devices: Arc::clone(&devices),
            footing: Arc::clone(&footing),
            recent: Arc::clone(&recent),
            // Whoever was here before may have been stopped before it was done with that.
            unsettled: true,
            memory,
            pending: Pending::default(),
            committed: committed.clone(),
            #[cfg(feature = "known-bad")]
            two_writers: crate::known_bad::TwoWriters::default(),
        };
        let readers = sqlite::open_readers(path).await?;
        let pool = readers.clone();
        let metrics = Metrics::new(region.to_string(), path, "region.write", JOB_KINDS, pool);
        let store = Self {
            queue,
            readers,
            committed,
            tail,
            recent,
            devices,
            footing,
            metrics: metrics.clone(),
        };
        Ok((store, Writer::new(conn, jobs, state, metrics)))
    }

    /// What the store measures of itself, brought up to date.
    pub async fn measure(&self) -> Metrics {
        self.metrics.refresh(self.queue.waiting()).await;
        self.metrics.clone()
    }

    /// How far each party is behind in each stream that this region writes.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.depths.list", level = "debug", skip_all)]
    pub async fn list_depths(&self) -> Result<Vec<DepthRow>, ReadError> {
        depth::read(&self.readers, depth::REGION).await
    }

    /// The epoch the store is in.
    pub fn epoch(&self) -> Epoch {
        self.footing().present.epoch
    }

    fn footing(&self) -> MutexGuard<'_, Footing> {
        // Each change leaves it whole.
        self.footing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of an agreement that is in force here, by what was written; `None` before the first.
    pub fn version_in_force(&self, agreement: AgreementId) -> Option<u32> {
        self.footing().in_force.get(&agreement).copied()
    }

    /// How many versions have come into force and epochs were opened by now: what is decided names it, and is handed
    /// back when there is another meanwhile.
    pub fn turns(&self) -> u64 {
        self.footing().turns
    }

    /// Puts an agreement version into force: what is decided under those before it is handed back from now on.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn turn(&self, turn: Turn) -> Result<(), WriteError> {
        self.queue.call(turn, Job::Turn).await
    }

    /// Shows what is open under a version that has come into force.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn turn_page(&self, page: TurnPage) -> Result<(), WriteError> {
        self.queue.call(page, Job::TurnPage).await
    }

    /// Hears of every commit from now on. A listener that falls behind is told how many it missed.
    pub fn listen(&self) -> broadcast::Receiver<Committed> {
        self.committed.subscribe()
    }

    /// Applies operations, all or none; see [`CommitVerdict`].
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn commit(&self, commit: Commit) -> Result<CommitVerdict, WriteError> {
        self.queue.call(commit, Job::Commit).await
    }

    /// Applies a range of a neighbour's stream, all or none.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn apply(&self, apply: Apply) -> Result<Applied, WriteError> {
        self.queue.call(apply, Job::Apply).await
    }

    /// Keeps a party's receipt if it is newer than the one held; tells whether it was.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn keep_receipt(&self, receipt: ReceiptRow) -> Result<bool, WriteError> {
        self.queue.call(receipt, Job::Receipt).await
    }

    /// Keeps an enrolment code.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn add_enrolment_code(&self, code: EnrolmentCode) -> Result<(), WriteError> {
        self.queue.call(code, Job::Code).await
    }

    /// Trades an enrolment code for a device, once.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn enrol(&self, enrolment: Enrolment) -> Result<EnrolVerdict, WriteError> {
        self.queue.call(enrolment, Job::Enrol).await
    }

    /// Revokes a device; tells whether there was one to revoke.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn revoke_device(
        &self,
        device: DeviceId,
        now: Timestamp,
    ) -> Result<bool, WriteError> {
        self.queue.call((device, now), Job::Revoke).await
    }
}

/// What the writer keeps in memory so that a commit reads little; always what the disk holds.
#[derive(Debug)]
pub(crate) struct Memory {
    feed_seq: u64,
    streams: HashMap<StreamId, StreamState>,
    /// What is decided rests on it.
    footing: Footing,
    inboxes: HashMap<StreamId, InboxState>,
    watcher_set: Option<i64>,
    disclosure_hash: [u8; 32],
}

/// A stream that this region writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamState {
    number: i64,
    last: Position,
    /// Where it was ended.
    end: Option<Position>,
}

#[derive(Clone, Copy, Debug)]
struct InboxState {
    number: i64,
    applied: Position,
    parked_count: u64,
    /// When something was last applied.
    applied_at: Timestamp,
}

/// Changes of the open transaction, told to listeners when it is on disk.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    feed: Vec<FeedItem>,
    streams: HashMap<StreamId, Position>,
    runs: Vec<Run>,
    revoked: Vec<DeviceId>,
    /// A version has come into force, or an epoch was opened.
    turned: bool,
    /// Ranges of streams that hold what was erased.
    erased: Vec<(StreamId, u64, u64)>,
    inbox: HashMap<StreamId, Position>,
    receipts: bool,
    transfers: bool,
    now: Option<Timestamp>,
    /// The set of watchers before the transaction, when it changes the set.
    watchers_before: Option<Option<i64>>,
}

/// The writer's side of a region's store.
#[derive(Debug)]
pub(crate) struct State {
    memory: Memory,
    pending: Pending,
    committed: broadcast::Sender<Committed>,
    tail: Arc<Mutex<Tail>>,
    devices: Arc<Mutex<Devices>>,
    footing: Arc<Mutex<Footing>>,
    recent: Arc<Mutex<Recent>>,
    /// What was erased may still stand in the log.
    unsettled: bool,
    #[cfg(feature = "known-bad")]
    two_writers: crate::known_bad::TwoWriters,
}

impl Memory {
    fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let feed_seq: i64 = conn.query_row(
            "SELECT max(coalesce((SELECT max(feed_seq) FROM record), 0),
                        coalesce((SELECT max(feed_seq) FROM view), 0),
                        coalesce((SELECT max(feed_seq) FROM erasure), 0),
                        coalesce((SELECT max(feed_seq) FROM transfer), 0),
                        coalesce((SELECT max(feed_seq) FROM quarantine_note), 0))",
            [],
            |row| row.get(0),
        )?;
        let kept = conn.query_row(epoch::FEED_SEQ, [], |row| row.get(0)).optional()?;
        let kept = kept.map_or(0, u64::from_be_bytes);
        let disclosure_hash = conn
            .query_row(
                "SELECT hash FROM disclosure ORDER BY disclosure_no DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()?
            .unwrap_or([0; 32]);
        Ok(Self {
            feed_seq: sqlite::uint(feed_seq).max(kept),
            streams: stream::load(conn)?,
            footing: Footing {
                turns: 0,
                present: epoch::load(conn)?,
                in_force: turn::load(conn)?,
                offered: transfer::load(conn)?,
            },
            inboxes: apply::load(conn)?,
            watcher_set: None,
            disclosure_hash,
        })
    }
}

impl State {
    /// A new place in the feed, for those who watch; commits carry nothing for nobody. Who begins to
    /// listen was noted as a watcher before, so that no commit falls between.
    fn tell(&mut self, item: impl FnOnce() -> FeedItem) {
        if self.memory.watcher_set.is_some() {
            self.pending.feed.push(item());
        }
    }
}

impl crate::writer::Apply for State {
    type Job = Job;

    fn apply(&mut self, conn: &Connection, jobs: &mut [Job], look: Look) -> rusqlite::Result<()> {
        #[cfg(feature = "known-bad")]
        self.two_writers.draw(&mut self.memory.feed_seq);
        commit::run(self, conn, jobs, look)?;
        for job in jobs.iter_mut() {
            self.run(conn, job)?;
        }
        disclosure::note_watched(self, conn)
    }

    fn flushed(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.runs.is_empty() {
            // Each run leaves it whole.
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            pending.runs.into_iter().for_each(|run| tail.push(run));
        }
        for (stream, ..) in &pending.erased {
            self.tail.lock().unwrap_or_else(PoisonError::into_inner).forget(stream);
            self.recent.lock().unwrap_or_else(PoisonError::into_inner).forget(stream);
        }
        if pending.turned {
            let footing = self.memory.footing.clone();
            *self.footing.lock().unwrap_or_else(PoisonError::into_inner) = footing;
        }
        for device in pending.revoked {
            self.devices.lock().unwrap_or_else(PoisonError::into_inner).revoked(device);
        }
        // Nobody may be listening; what was written is on disk for whoever comes later.
        drop(self.committed.send(Committed {
            feed: pending.feed.into(),
            streams: pending.streams.into_iter().collect(),
            inbox: pending.inbox.into_iter().collect(),
            receipts: pending.receipts,
            transfers: pending.transfers,
            erased: pending.erased.into(),
        }));
    }

    fn settle(&mut self, conn: &Connection) -> bool {
        if self.unsettled {
            self.unsettled = !sqlite::empty_log(conn);
        }
        !self.unsettled
    }

    fn rolled_back(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        // A set that was rolled back has no row, and its number will be another's.
        let watcher_set = pending.watchers_before.unwrap_or(self.memory.watcher_set);
        let footing = self.footing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.memory = Memory { watcher_set, footing, ..Memory::load(conn)? };
        Ok(())
    }
}
