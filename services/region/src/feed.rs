//! The feed of changes, for whoever pulls or watches.

use crate::hosted::{Caller, Hosted};
use crate::rpc::desk::neighbour_view;
use crate::status::{refuse, unreadable, unwritten};
use bytes::Bytes;
use domain::kernel::{Epoch, Kind, Purpose, Reason};
use prost::Message as _;
use proto::convert::kernel::encode_time;
use proto::device::v1::{Change, Cursor, WatchResponse, Withdrawal, change};
use proto::kernel::v1::Record;
use std::sync::Arc;
use storage::region::{Committed, FeedItem, FeedSource};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tonic::Status;

/// Changes in one message.
const CHANGES_PER_MESSAGE_MAX: u32 = 512;
/// Messages that may wait for a slow reader.
const MESSAGES_QUEUED_MAX: usize = 16;

/// What a reader asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) after: u64,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) purpose: Purpose,
}

impl Wanted {
    /// Checks a cursor, a purpose and kinds against the role.
    pub(crate) fn new(
        region: &Hosted,
        caller: &Caller,
        cursor: Option<Cursor>,
        purpose: i32,
        kinds: &[i32],
    ) -> Result<Self, Status> {
        let purpose = Purpose::try_from(purpose).map_err(|_| refuse(Reason::PurposeRequired))?;
        let cursor = cursor.unwrap_or_default();
        if !cursor.epoch.is_empty() && cursor.epoch.as_ref() != region.store.epoch().as_bytes() {
            return Err(refuse(Reason::EpochChanged));
        }
        let readable = crate::authorise::readable(caller.role);
        let mut wanted = Vec::with_capacity(kinds.len());
        for number in kinds {
            let kind = Kind::try_from(*number).map_err(|_| {
                crate::status::refuse_field("kinds", "holds a number that is no kind")
            })?;
            if !readable.contains(&kind) {
                return Err(refuse(Reason::RoleForbidden));
            }
            wanted.push(kind);
        }
        if wanted.is_empty() {
            wanted = readable.to_vec();
        }
        Ok(Self { after: cursor.feed_seq, kinds: wanted, purpose })
    }
}

/// A page after a cursor.
pub(crate) async fn page(
    region: &Hosted,
    wanted: &Wanted,
    limit: u32,
) -> Result<(Vec<Change>, u64, bool), Status> {
    let page =
        region.store.list_feed(wanted.after, limit).await.map_err(|error| unreadable(&error))?;
    let last = page.items.last().map_or(wanted.after, |item| item.feed_seq);
    Ok((changes(region, &wanted.kinds, &page.items), last, page.more))
}

/// Starts a watch; what it sends comes out of the receiver until either side ends. All of it happens in
/// a task, which no caller who hangs up can stop half way: who was noted as a watcher is noted as gone.
pub(crate) fn watch(
    region: Arc<Hosted>,
    caller: Caller,
    wanted: Wanted,
) -> mpsc::Receiver<Result<WatchResponse, Status>> {
    let (out, messages) = mpsc::channel(MESSAGES_QUEUED_MAX);
    let tasks = region.tasks.clone();
    tasks.spawn("region.watch", runtime::OnExit::Log, async move {
        let epoch = region.store.epoch();
        let mut watch = Watch { region, epoch, wanted, out, spoke_at: Instant::now() };
        if let Err(status) = watch.noted(&caller).await {
            // The reader may be gone, which is then why the watch ended.
            drop(watch.out.send(Err(status)).await);
        }
    });
    messages
}

struct Watch {
    region: Arc<Hosted>,
    /// Places in the feed are of this one.
    epoch: Epoch,
    wanted: Wanted,
    out: mpsc::Sender<Result<WatchResponse, Status>>,
    spoke_at: Instant,
}

impl Watch {
    /// Runs with its begin and end on record.
    async fn noted(&mut self, caller: &Caller) -> Result<(), Status> {
        let region = Arc::clone(&self.region);
        let purpose = self.wanted.purpose;
        let number = region.begin_watch(caller.device, purpose).await.map_err(unwritten)?;
        // Catching up reads what was there before the watch began, which no commit notes.
        let from = (self.wanted.after.saturating_add(1), 0);
        let noted = region.disclose(caller, purpose, "Watch", from, 0).await.map_err(unwritten);
        let ended = match noted {
            Ok(()) => self.run().await,
            Err(status) => Err(status),
        };
        if let Err(error) = region.end_watch(number).await {
            tracing::warn!(error = %error, "the end of a watch was not noted");
        }
        ended
    }

    async fn run(&mut self) -> Result<(), Status> {
        // Listening begins before the catch-up, so that no commit falls between.
        let mut commits = self.region.store.listen();
        if !self.catch_up().await? {
            return Ok(());
        }
        let soft = self.region.tasks.soft().clone();
        loop {
            // No arm holds state across its await: a lost race loses nothing.
            let goes_on = tokio::select! {
                () = soft.cancelled() => return Ok(()),
                () = self.out.closed() => return Ok(()),
                commit = commits.recv() => match commit {
                    Ok(commit) => self.live(&commit).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up().await?,
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                () = tokio::time::sleep_until(self.spoke_at + self.region.limits.stream_keepalive()) => self.send(Vec::new()).await,
            };
            if !goes_on {
                return Ok(());
            }
            if self.region.store.epoch() != self.epoch {
                return Err(refuse(Reason::EpochChanged));
            }
        }
    }

    /// Sends what is on disk; false when the reader is gone.
    async fn catch_up(&mut self) -> Result<bool, Status> {
        loop {
            let (changes, last, more) =
                page(&self.region, &self.wanted, CHANGES_PER_MESSAGE_MAX).await?;
            self.wanted.after = last;
            if !changes.is_empty() && !self.send(changes).await {
                return Ok(false);
            }
            if !more {
                return Ok(true);
            }
        }
    }

    async fn live(&mut self, commit: &Committed) -> bool {
        let fresh: &[FeedItem] = &commit.feed;
        let begin = fresh.partition_point(|item| item.feed_seq <= self.wanted.after);
        for part in fresh.get(begin..).unwrap_or_default().chunks(CHANGES_PER_MESSAGE_MAX as usize)
        {
            self.wanted.after = part.last().map_or(self.wanted.after, |item| item.feed_seq);
            let changes = changes(&self.region, &self.wanted.kinds, part);
            if !changes.is_empty() && !self.send(changes).await {
                return false;
            }
        }
        true
    }

    async fn send(&mut self, changes: Vec<Change>) -> bool {
        let message = WatchResponse {
            changes,
            cursor: Some(cursor(&self.region, self.wanted.after)),
            server_time: Some(encode_time(self.region.now())),
        };
        self.spoke_at = Instant::now();
        self.out.send(Ok(message)).await.is_ok()
    }
}

/// A place in a region's feed.
pub(crate) fn cursor(region: &Hosted, feed_seq: u64) -> Cursor {
    Cursor { epoch: Bytes::copy_from_slice(region.store.epoch().as_bytes()), feed_seq }
}

fn changes(region: &Hosted, kinds: &[Kind], items: &[FeedItem]) -> Vec<Change> {
    items
        .iter()
        .filter(|item| kinds.contains(&item.kind))
        .filter_map(|item| {
            let subject = subject(item)?;
            Some(Change { cursor: Some(cursor(region, item.feed_seq)), subject: Some(subject) })
        })
        .collect()
}

fn subject(item: &FeedItem) -> Option<change::Subject> {
    let encoded = item.encoded.clone();
    let subject = match item.source {
        FeedSource::Own => Record::decode(encoded).map(change::Subject::Record),
        FeedSource::View | FeedSource::Released => {
            neighbour_view(item.source, encoded).map(change::Subject::View)
        }
        FeedSource::Withdrawal => Withdrawal::decode(encoded).map(change::Subject::Withdrawal),
    };
    if subject.is_err() {
        tracing::error!(feed_seq = item.feed_seq, "a stored change is unreadable");
    }
    subject.ok()
}
