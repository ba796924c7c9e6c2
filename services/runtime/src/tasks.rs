//! The only spawner, and how a server stops.
//!
//! A task that nobody waits for dies in silence and outlives its server. So every task has a name
//! and says what its end means, and a server has ended only when all of them have.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// How long a task may take to fall after it was cut off; only blocking work is slower.
const CUT_OFF_WAIT: Duration = Duration::from_secs(2);

/// The tasks of one server.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    shutdown: Shutdown,
    tracker: TaskTracker,
    failed: Arc<OnceLock<&'static str>>,
}

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// The server cannot go on without it: an early end stops the server, with an error.
    Stop,
    /// It may end at any time; a panic is logged.
    Log,
}

/// The end of what is under way; never, while nothing is.
pub async fn end_of(under_way: &mut Option<BoxFuture<'_, ()>>) {
    match under_way {
        Some(under_way) => under_way.await,
        None => std::future::pending().await,
    }
}

/// Asks one server to stop: first softly (finish what you have), then hard (fall where you stand).
#[derive(Clone, Debug)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
}

/// A server that did not stop cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShutdownError {
    /// A task that had to go on ended.
    #[error("task {0} ended early")]
    TaskEnded(&'static str),
    /// Tasks were cut off in their work.
    #[error("{0} tasks were cut off")]
    CutOff(usize),
}

/// Blocking work that gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("blocking task {0} panicked")]
pub struct BlockingPanicked(pub &'static str);

impl Tasks {
    /// No tasks yet; they stop with `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, ..Self::default() }
    }

    /// Runs `task` beside the caller until it ends or the hard stop cuts it off. A panic in it
    /// ends that task alone.
    pub fn spawn<F>(&self, name: &'static str, on_exit: OnExit, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let watched = async move {
            tokio::select! {
                // The task falls where it awaits: its unfinished work is lost, as in a crash.
                () = tasks.shutdown.hard.cancelled() => {}
                end = AssertUnwindSafe(task).catch_unwind() => {
                    tasks.ended(name, on_exit, end.is_err());
                }
            }
        };
        drop(self.tracker.spawn(watched.instrument(tracing::info_span!("task", task.name = name))));
    }

    /// Runs work that computes or blocks for over a millisecond where it holds nobody up.
    ///
    /// # Errors
    /// When the work panicked.
    pub async fn blocking<T, F>(&self, name: &'static str, work: F) -> Result<T, BlockingPanicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.tracker.spawn_blocking(work).await.map_err(|_| BlockingPanicked(name))
    }

    /// Told when the server should finish what it has and take nothing new.
    pub fn soft(&self) -> &CancellationToken {
        self.shutdown.soft()
    }

    /// Told when the server should fall where it stands.
    pub fn hard(&self) -> &CancellationToken {
        self.shutdown.hard()
    }

    /// The first task marked [`OnExit::Stop`] that ended early or panicked.
    pub fn failed(&self) -> Option<&'static str> {
        self.failed.get().copied()
    }

    /// How many tasks run.
    pub fn alive(&self) -> usize {
        self.tracker.len()
    }

    /// Stops softly, waits until every task has ended, and cuts off what still runs after `grace`
    /// or at the hard stop.
    ///
    /// # Errors
    /// When a task had ended early, or tasks had to be cut off.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), ShutdownError> {
        self.shutdown.stop();
        self.tracker.close();
        let left = tokio::select! {
            () = self.tracker.wait() => 0,
            () = self.shutdown.hard.cancelled() => self.tracker.len(),
            () = tokio::time::sleep(grace) => self.tracker.len(),
        };
        if left > 0 {
            tracing::warn!(tasks.left = left, "cutting off tasks");
            self.shutdown.stop_now();
            // Blocking work cannot be cut off; a process that ends takes it along.
            if tokio::time::timeout(CUT_OFF_WAIT, self.tracker.wait()).await.is_err() {
                tracing::warn!(tasks.left = self.tracker.len(), "leaving blocking tasks behind");
            }
        }
        match (self.failed(), left) {
            (Some(name), _) => Err(ShutdownError::TaskEnded(name)),
            (None, 0) => Ok(()),
            (None, left) => Err(ShutdownError::CutOff(left)),
        }
    }

    fn ended(&self, name: &'static str, on_exit: OnExit, panicked: bool) {
        if panicked {
            tracing::error!(task.name = name, "task panicked");
        }
        let early = !self.shutdown.soft.is_cancelled();
        if on_exit == OnExit::Stop && (early || panicked) {
            tracing::error!(task.name = name, "task ended early, the server stops");
            // Only the first failure is the cause; later ones follow from it.
            self.failed.get_or_init(|| name);
            self.shutdown.stop();
        }
    }
}

impl Shutdown {
    /// Nothing asked yet.
    pub fn new() -> Self {
        let hard = CancellationToken::new();
        // A child, so that a hard stop is a soft one too.
        Self { soft: hard.child_token(), hard }
    }

    /// Asks to stop softly.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Asks to stop at once.
    pub fn stop_now(&self) {
        self.hard.cancel();
    }

    /// Cancelled at the soft stop.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled at the hard stop.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// Turns SIGINT and SIGTERM into a shutdown: the first softly, the second hard. Returns only when
/// the signals cannot be watched, so `main` selects it beside the server.
///
/// # Errors
/// When the signals cannot be watched.
pub async fn wait_for_signals(shutdown: &Shutdown) -> std::io::Result<Infallible> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        // Both arms only wait; a signal that comes meanwhile is kept for the next turn.
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if shutdown.soft.is_cancelled() {
            tracing::warn!("second signal, stopping at once");
            shutdown.stop_now();
        } else {
            tracing::info!("signal, stopping");
            shutdown.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use nix::sys::signal::{Signal, raise};
    use std::future::pending;
    use std::pin::pin;

    const SOON: Duration = Duration::from_secs(5);

    async fn in_time<F: Future>(what: F) -> F::Output {
        tokio::time::timeout(SOON, what).await.expect("in time")
    }

    #[tokio::test]
    async fn the_early_end_of_a_stop_task_stops_its_server_alone() {
        let (server, other) = (Tasks::default(), Tasks::default());
        server.spawn("exchange.pull", OnExit::Stop, async {});
        in_time(server.soft().cancelled()).await;
        assert_eq!(server.failed(), Some("exchange.pull"));
        assert!(!other.soft().is_cancelled());
        let stopped = in_time(server.shutdown(SOON)).await;
        assert_eq!(stopped, Err(ShutdownError::TaskEnded("exchange.pull")));
    }

    #[tokio::test]
    async fn a_panic_in_a_stop_task_stops_the_server() {
        let tasks = Tasks::default();
        tasks.spawn("db.write", OnExit::Stop, async { panic!("made to panic") });
        in_time(tasks.soft().cancelled()).await;
        assert_eq!(tasks.failed(), Some("db.write"));
    }

    #[tokio::test]
    async fn a_log_task_ends_or_panics_without_harm() {
        let tasks = Tasks::default();
        tasks.spawn("once", OnExit::Log, async {});
        tasks.spawn("twice", OnExit::Log, async { panic!("made to panic") });
        assert_eq!(in_time(tasks.shutdown(SOON)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_stop_task_that_ends_after_the_soft_stop_has_ended_well() {
        let tasks = Tasks::default();
        let soft = tasks.soft().clone();
        tasks.spawn("loop", OnExit::Stop, async move { soft.cancelled().await });
        assert_eq!(in_time(tasks.shutdown(SOON)).await, Ok(()));
        assert_eq!((tasks.failed(), tasks.alive()), (None, 0));
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_cut_off_after_the_grace_period() {
        let tasks = Tasks::default();
        tasks.spawn("stuck", OnExit::Stop, pending());
        let stopped = in_time(tasks.shutdown(Duration::from_millis(20))).await;
        assert_eq!(stopped, Err(ShutdownError::CutOff(1)));
        assert_eq!(tasks.alive(), 0);
    }

    #[tokio::test]
    async fn the_hard_stop_does_not_wait_for_the_grace_period() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("stuck", OnExit::Log, pending());
        shutdown.stop_now();
        assert!(tasks.soft().is_cancelled());
        // What had fallen before it was counted is not told as cut off.
        let _stopped = in_time(tasks.shutdown(Duration::from_secs(3_600))).await;
        assert_eq!(tasks.alive(), 0);
    }

    #[tokio::test]
    async fn blocking_work_gives_its_result_or_its_name() {
        let tasks = Tasks::default();
        assert_eq!(tasks.blocking("sum", || 1 + 1).await, Ok(2));
        let panicked = tasks.blocking("sum", || -> u8 { panic!("made to panic") }).await;
        assert_eq!(panicked, Err(BlockingPanicked("sum")));
    }

    #[tokio::test]
    async fn the_first_signal_is_soft_and_the_second_hard() {
        let shutdown = Shutdown::new();
        let mut signals = pin!(wait_for_signals(&shutdown));
        assert!(poll!(signals.as_mut()).is_pending());
        for (signal, token) in
            [(Signal::SIGTERM, shutdown.soft()), (Signal::SIGINT, shutdown.hard())]
        {
            assert!(!token.is_cancelled());
            raise(signal).expect("raised");
            in_time(async {
                tokio::select! {
                    _ = signals.as_mut() => unreachable!("it never returns"),
                    () = token.cancelled() => {}
                }
            })
            .await;
        }
    }
}
