//! One hosted region: its store, its book, its links, who watches it.

use domain::kernel::{Clock, DeviceId, Entropy, Purpose, RegionId, Role, Timestamp};
use exchange::book::Book;
use exchange::status::Status;
use runtime::Tasks;
use runtime::pki::Authority;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use storage::WriteError;
use storage::region::{Disclosure, Store, Watcher};

/// One hosted region.
pub(crate) struct Hosted {
    pub(crate) book: Arc<Book>,
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) links: Status,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Who watches now, by number of the stream.
    pub(crate) watchers: Mutex<Vec<(u64, Watcher)>>,
    /// Devices that surely have nothing waiting for parents; saves a look at each push.
    pub(crate) nothing_held: Mutex<HashSet<DeviceId>>,
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
        &self.book.region
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
        let (number, all) = {
            let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
            let number = watchers.last().map_or(1, |(last, _)| last + 1);
            watchers.push((number, Watcher { device, purpose }));
            (number, watchers.iter().map(|(_, watcher)| watcher.clone()).collect())
        };
        self.store.set_watchers(self.now(), all).await?;
        Ok(number)
    }

    /// Notes that a watch has ended.
    pub(crate) async fn end_watch(&self, number: u64) -> Result<(), WriteError> {
        let all = {
            let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
            watchers.retain(|(other, _)| *other != number);
            watchers.iter().map(|(_, watcher)| watcher.clone()).collect()
        };
        self.store.set_watchers(self.now(), all).await
    }
}
