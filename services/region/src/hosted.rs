//! One hosted region: its store, its book, its links, who watches it.

use crate::metrics::Answers;
use domain::agreement::Agreement;
use domain::kernel::{Clock, DeviceId, Entropy, Purpose, RegionId, Role, Timestamp};
use exchange::book::{Book, Shelf, SignedAgreement};
use exchange::epoch::{Left, Lost};
use exchange::home::{Home, Offer};
use exchange::proposals::Proposals;
use exchange::status::Status;
use runtime::Tasks;
use runtime::limits::Limits;
use runtime::pki::Authority;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use storage::WriteError;
use storage::region::{Disclosure, Store, Watcher};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

/// One hosted region.
pub(crate) struct Hosted {
    pub(crate) region: RegionId,
    pub(crate) shelf: Shelf,
    pub(crate) store: Store,
    pub(crate) authority: Arc<Authority>,
    pub(crate) links: Status,
    /// Of the port that its phones connect to.
    pub(crate) limits: Limits,
    /// Counts what becomes of operations.
    pub(crate) answers: Answers,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Who watches now, by number of the stream. Held until the set is on record: an older set must not
    /// come after a newer one.
    pub(crate) watchers: AsyncMutex<Vec<(u64, Watcher)>>,
    pub(crate) held: Mutex<Held>,
    /// Where that goes which may change the book.
    pub(crate) news: mpsc::Sender<Offer>,
    /// What is not signed yet by all who must.
    pub(crate) proposals: Proposals,
    /// Whether an epoch was left since the server was started.
    pub(crate) left: Left,
    /// Streams that are not sent any more.
    pub(crate) lost: Lost,
}

/// What is known of operations that wait for their parents.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// How often something was made to wait.
    pub(crate) count: u64,
    /// Devices that surely have nothing waiting; saves a look at each push.
    pub(crate) nothing: HashSet<DeviceId>,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) device: DeviceId,
    pub(crate) role: Role,
    pub(crate) unit: String,
}

impl Hosted {
    pub(crate) fn region(&self) -> &RegionId {
        &self.region
    }

    /// What the region knows of the linkage now.
    pub(crate) fn book(&self) -> Arc<Book> {
        self.shelf.book()
    }

    /// The version of each agreement that is in force here, by id.
    pub(crate) fn in_force<'a>(&self, book: &'a Book) -> impl Iterator<Item = &'a SignedAgreement> {
        let in_force = |signed: &&SignedAgreement| {
            let Agreement { agreement_id, version, .. } = signed.agreement;
            self.store.version_in_force(agreement_id) == Some(version)
        };
        book.agreements.values().filter(in_force)
    }

    /// The region, as far as exchange is concerned.
    pub(crate) fn home(&self) -> Home {
        Home {
            book: self.book(),
            shelf: self.shelf.clone(),
            store: self.store.clone(),
            status: self.links.clone(),
            tasks: self.tasks.clone(),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            news: self.news.clone(),
            proposals: self.proposals.clone(),
            left: Arc::clone(&self.left),
            lost: Arc::clone(&self.lost),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Notes a read; the reply waits for it.
    pub(crate) async fn disclose(
        &self,
        caller: &Caller,
        purpose: Purpose,
        method: &'static str,
        feed: (u64, u64),
        count: usize,
    ) -> Result<(), WriteError> {
        let disclosure = Disclosure {
            device: caller.device,
            purpose,
            method,
            feed_from: feed.0,
            feed_to: feed.1,
            count: u64::try_from(count).unwrap_or(u64::MAX),
            now: self.now(),
        };
        self.store.disclose(disclosure).await
    }

    /// Notes that somebody watches from now on; gives the number to end it with.
    pub(crate) async fn begin_watch(
        &self,
        device: DeviceId,
        purpose: Purpose,
    ) -> Result<u64, WriteError> {
        let mut watchers = self.watchers.lock().await;
        let number = watchers.last().map_or(1, |(last, _)| last + 1);
        watchers.push((number, Watcher { device, purpose }));
        let noted = self.store.set_watchers(self.now(), all(&watchers)).await;
        if noted.is_err() {
            watchers.pop();
        }
        noted.map(|()| number)
    }

    /// Notes that a watch has ended.
    pub(crate) async fn end_watch(&self, number: u64) -> Result<(), WriteError> {
        let mut watchers = self.watchers.lock().await;
        watchers.retain(|(other, _)| *other != number);
        self.store.set_watchers(self.now(), all(&watchers)).await
    }
}

fn all(watchers: &[(u64, Watcher)]) -> Vec<Watcher> {
    watchers.iter().map(|(_, watcher)| watcher.clone()).collect()
}
