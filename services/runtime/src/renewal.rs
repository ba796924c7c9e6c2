//! When a server makes anew what it shows and looks again whom it believes.

use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// A server certificate is good for a week and made anew at every start, each third of its life, and at
/// SIGHUP.
pub const CERTIFICATE_DAYS: i64 = 7;
const RENEW_EVERY: Duration = Duration::from_secs(7 * 86_400 / 3);
/// How often it is looked whether something has changed or run out: files and stores are changed by
/// programs beside the server.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The clock of one server's looks. The first comes at once.
#[derive(Debug)]
pub struct Renewal {
    ticks: Interval,
    /// `None` where the system gives no signals.
    hangups: Option<Signal>,
    renewed_at: Instant,
}

/// Why it is time to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A second has passed: what has not changed stays.
    Changes,
    /// All is made anew: an operator asked, or its time has come.
    Anew,
}

impl Renewal {
    /// From now on, when all was just made.
    pub fn new() -> Self {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, hangups: signal(SignalKind::hangup()).ok(), renewed_at: Instant::now() }
    }

    /// Waits for the next look; `None` at the soft stop.
    pub async fn next(&mut self, soft: &CancellationToken) -> Option<Look> {
        let hangup = async {
            match &mut self.hangups {
                Some(hangups) => hangups.recv().await,
                None => std::future::pending().await,
            }
        };
        // No arm holds state across its await.
        let asked = tokio::select! {
            () = soft.cancelled() => return None,
            _ = hangup => true,
            _ = self.ticks.tick() => false,
        };
        let anew = asked || self.renewed_at.elapsed() >= RENEW_EVERY;
        Some(if anew { Look::Anew } else { Look::Changes })
    }

    /// All was made anew.
    pub fn renewed(&mut self) {
        self.renewed_at = Instant::now();
    }
}

impl Default for Renewal {
    fn default() -> Self {
        Self::new()
    }
}
