//! Cuts of revoked regions: what lies beyond one goes into quarantine as soon as the book names it.
//!
//! One task a region, woken by a new book; now and then it looks whether something came in between, from a line that
//! was still open.

use crate::hosted::Hosted;
use runtime::ErrorChain;
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Looks until the soft stop.
pub(crate) async fn run(region: Arc<Hosted>) {
    let mut books = region.shelf.watch();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // No arm holds state across its await.
        tokio::select! {
            () = region.tasks.soft().cancelled() => return,
            _ = books.changed() => {}
            _ = ticks.tick() => {}
        }
        if let Err(error) = region.home().quarantine().await {
            tracing::error!(region.id = %region.region, error = %ErrorChain(&error), "a cut is not in force yet");
        }
    }
}
