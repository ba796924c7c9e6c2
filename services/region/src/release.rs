//! Once a server is started: what an older release has set aside, and this one can use, is shown.

use crate::hosted::Hosted;
use exchange::open::reopen;
use runtime::ErrorChain;
use std::sync::Arc;
use storage::StoreError;
use storage::region::{Release, StreamRow};

/// Entries that are looked at together.
const ENTRIES_PER_LOOK: u32 = 500;

/// Looks at all that is parked, once.
pub(crate) async fn run(region: Arc<Hosted>) {
    match all(&region).await {
        Ok(0) => {}
        Ok(count) => {
            tracing::info!(region.id = %region.region, count, "what was set aside is shown now");
        }
        Err(error) => {
            tracing::error!(region.id = %region.region, error = %ErrorChain(&error), "what was set aside was not looked at");
        }
    }
}

async fn all(region: &Hosted) -> Result<u64, StoreError> {
    let book = region.book();
    let mut count = 0;
    let inboxes = region.store.list_inboxes().await?.into_iter();
    for StreamRow { stream, .. } in inboxes.filter(|row| row.parked_count > 0) {
        let mut after = 0;
        loop {
            let parked = region.store.list_parked_entries(&stream, after, ENTRIES_PER_LOOK).await?;
            let Some(last) = parked.last() else { break };
            after = last.seq;
            let now = region.now();
            let entries = reopen(&book, &stream, parked, now);
            if !entries.is_empty() {
                let release = Release { stream: stream.clone(), entries, now };
                count += region.store.release(release).await?;
            }
        }
    }
    Ok(count)
}
