//! Deletes what has had its time: once a server is started, and each hour.

use crate::hosted::Hosted;
use runtime::ErrorChain;
use std::sync::Arc;
use std::time::Duration;
use storage::StoreError;

const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// Found at once; finding goes through all records and views.
const ROWS_PER_LOOK: u32 = 50_000;
/// Deleted at once: operations wait no longer than that takes.
const ROWS_PER_JOB: usize = 200;

/// Looks until the soft stop.
pub(crate) async fn run(region: Arc<Hosted>) {
    loop {
        match look(&region).await {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(region.id = %region.region, count, "what had its time is deleted");
            }
            Err(error) => {
                tracing::error!(region.id = %region.region, error = %ErrorChain(&error), "what had its time is not deleted yet");
            }
        }
        // Neither arm holds anything.
        tokio::select! {
            () = region.tasks.soft().cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(region: &Hosted) -> Result<usize, StoreError> {
    let (at, mut count) = (region.now(), 0);
    loop {
        let mut rest = region.store.list_expired(at, ROWS_PER_LOOK).await?;
        if rest.is_empty() {
            return Ok(count);
        }
        while !rest.is_empty() {
            if region.tasks.soft().is_cancelled() {
                return Ok(count);
            }
            let (some, more) = rest.split(ROWS_PER_JOB);
            count += some.count();
            region.store.expire(some).await?;
            rest = more;
        }
    }
}
