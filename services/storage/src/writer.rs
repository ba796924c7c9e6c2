//! Group commit: one thread takes whatever waits, applies it in one transaction, flushes once, then
//! answers everybody. No timer: batches form by themselves under load, and alone a job waits for its
//! own flush only.

use crate::metrics::Metrics;
use rusqlite::{Connection, ErrorCode};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Jobs taken into one transaction; more would only make the first of them wait longer.
const JOBS_PER_COMMIT_MAX: usize = 512;
/// Jobs that may wait; a sender past it waits too, which is how load reaches the caller.
const JOBS_QUEUED_MAX: usize = 2_048;
/// How long nobody writes before what the file still needs is tried again.
const SETTLE_AFTER: Duration = Duration::from_secs(1);

/// Why a write was not made. Nothing of it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// No space; the store takes up work by itself when there is some.
    #[error("the disk is full")]
    DiskFull,
    /// The disk or the writer failed; the process must stop and read its disk again.
    #[error("the store cannot write")]
    Stopped,
    /// The job broke a rule of the schema; a mistake of this program.
    #[error("the store refused the rows")]
    Refused,
}

/// One thing to write, and who waits for it.
#[derive(Debug)]
pub(crate) struct Call<I, O> {
    pub(crate) input: I,
    output: Option<O>,
    reply: Option<oneshot::Sender<Result<O, WriteError>>>,
}

impl<I, O> Call<I, O> {
    fn new(input: I) -> (Self, oneshot::Receiver<Result<O, WriteError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { input, output: None, reply: Some(reply) }, answer)
    }

    /// Notes what to answer once the transaction is on disk.
    pub(crate) fn set(&mut self, output: O) {
        self.output = Some(output);
    }
}

/// Anything that waits for its flush.
pub(crate) trait Answer {
    /// Tells whoever waits. `Ok` means: on disk.
    fn answer(&mut self, flushed: Result<(), WriteError>);

    /// Its kind, as a place in the list of the store's kinds.
    fn kind(&self) -> usize;
}

impl<I, O> Call<I, O> {
    /// Tells whoever waits; see [`Answer::answer`].
    pub(crate) fn answer(&mut self, flushed: Result<(), WriteError>) {
        let Some(reply) = self.reply.take() else { return };
        let outcome = flushed.and_then(|()| self.output.take().ok_or(WriteError::Refused));
        // The caller may have hung up; what was written stays written.
        drop(reply.send(outcome));
    }
}

/// The sending side of a store's writer.
#[derive(Debug)]
pub(crate) struct Queue<J>(mpsc::Sender<J>);

impl<J> Clone for Queue<J> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<J> Queue<J> {
    pub(crate) fn new() -> (Self, mpsc::Receiver<J>) {
        let (sender, receiver) = mpsc::channel(JOBS_QUEUED_MAX);
        (Self(sender), receiver)
    }

    /// How many jobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }

    /// Hands a job in and waits for its flush. Dropping the future leaves the job in the queue: it is
    /// written all the same, which is why every job must be idempotent by its own keys.
    #[tracing::instrument(name = "db.write", level = "debug", skip_all)]
    pub(crate) async fn call<I, O>(
        &self,
        input: I,
        wrap: impl FnOnce(Call<I, O>) -> J,
    ) -> Result<O, WriteError> {
        let (call, answer) = Call::new(input);
        self.0.send(wrap(call)).await.map_err(|_| WriteError::Stopped)?;
        answer.await.map_err(|_| WriteError::Stopped)?
    }
}

/// How carefully jobs are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// What is said to be new is taken to be new: if it is not, the schema refuses the whole.
    Trusting,
    /// All that is there already is looked up first.
    Careful,
}

/// What a store does with the jobs of one transaction.
pub(crate) trait Apply {
    /// Its jobs.
    type Job: Answer;

    /// Applies the jobs on an open transaction and notes each one's output.
    fn apply(
        &mut self,
        conn: &Connection,
        jobs: &mut [Self::Job],
        look: Look,
    ) -> rusqlite::Result<()>;

    /// The transaction is on disk: tell those who watch.
    fn flushed(&mut self);

    /// Everybody was answered: what the file still needs, outside of any transaction. Tells whether that is done;
    /// it is tried again until it is.
    fn settle(&mut self, conn: &Connection) -> bool;

    /// The transaction was rolled back: forget what it left in memory.
    fn rolled_back(&mut self, conn: &Connection) -> rusqlite::Result<()>;
}

/// The writing side of a store. [`Self::run`] blocks its thread until every sender is gone.
pub struct Writer(Box<dyn FnOnce() -> Result<(), WriteError> + Send>);

impl Writer {
    pub(crate) fn new<A>(
        conn: Connection,
        jobs: mpsc::Receiver<A::Job>,
        state: A,
        metrics: Metrics,
    ) -> Self
    where
        A: Apply + Send + 'static,
        A::Job: Send,
    {
        // Whoever was here before may have been stopped before it was done.
        let settled = false;
        Self(Box::new(move || Committer { conn, jobs, state, metrics, settled }.run()))
    }

    /// Writes until every sender is gone.
    ///
    /// # Errors
    /// When a flush failed: what the disk holds is unknown then, so the process must end and read it
    /// again.
    pub fn run(self) -> Result<(), WriteError> {
        (self.0)()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

struct Committer<A: Apply> {
    conn: Connection,
    jobs: mpsc::Receiver<A::Job>,
    state: A,
    metrics: Metrics,
    /// The file needs nothing more.
    settled: bool,
}

/// Wakes the writer's thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<A: Apply> Committer<A> {
    fn run(mut self) -> Result<(), WriteError> {
        let mut batch = Vec::new();
        while let Some(first) = self.next() {
            batch.push(first);
            while batch.len() < JOBS_PER_COMMIT_MAX {
                let Ok(next) = self.jobs.try_recv() else { break };
                batch.push(next);
            }
            self.commit(&mut batch, Look::Trusting)?;
            batch.clear();
        }
        Ok(())
    }

    /// The next job; `None` when every sender is gone. While nobody writes, what the file still needs is tried
    /// again: a reader may have been in the way, and what was erased must not wait for the next job.
    fn next(&mut self) -> Option<A::Job> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut waited = false;
        while !self.settled {
            match self.jobs.poll_recv(&mut Context::from_waker(&waker)) {
                Poll::Ready(job) => return job,
                Poll::Pending if waited => {
                    self.settled = self.state.settle(&self.conn);
                    waited = false;
                }
                Poll::Pending => {
                    thread::park_timeout(SETTLE_AFTER);
                    waited = true;
                }
            }
        }
        self.jobs.blocking_recv()
    }

    fn commit(&mut self, batch: &mut [A::Job], look: Look) -> Result<(), WriteError> {
        let span = tracing::debug_span!(parent: None, "db.commit", jobs = batch.len()).entered();
        let (begin, rows) = (Instant::now(), self.conn.total_changes());
        match self.transact(batch, look) {
            Ok(()) => {
                drop(span);
                let rows = self.conn.total_changes() - rows;
                self.metrics.committed(begin.elapsed(), rows, batch.iter().map(Answer::kind));
                #[cfg(feature = "known-bad")]
                crate::known_bad::pass(crate::known_bad::Point::RowsFlushed);
                self.state.flushed();
                #[cfg(feature = "known-bad")]
                crate::known_bad::pass(crate::known_bad::Point::ListenersTold);
                batch.iter_mut().for_each(|job| job.answer(Ok(())));
                #[cfg(feature = "known-bad")]
                crate::known_bad::pass(crate::known_bad::Point::CallersAnswered);
                self.settled = self.state.settle(&self.conn);
                Ok(())
            }
            Err(error) => {
                let verdict = judge(&error);
                let again = verdict == WriteError::Refused && look == Look::Trusting;
                if !again {
                    self.metrics.failed(verdict);
                    tracing::error!(error = %error, jobs = batch.len(), "a transaction was rolled back");
                }
                if self.state.rolled_back(&self.conn).is_err() || verdict == WriteError::Stopped {
                    batch.iter_mut().for_each(|job| job.answer(Err(WriteError::Stopped)));
                    return Err(WriteError::Stopped);
                }
                if again {
                    // What was taken to be new was there already: a repeat, which is quite usual.
                    return self.commit(batch, Look::Careful);
                }
                if verdict == WriteError::Refused && batch.len() > 1 {
                    // One bad job must not take the others with it.
                    return batch
                        .iter_mut()
                        .try_for_each(|job| self.commit(std::slice::from_mut(job), look));
                }
                batch.iter_mut().for_each(|job| job.answer(Err(verdict)));
                Ok(())
            }
        }
    }

    fn transact(&mut self, batch: &mut [A::Job], look: Look) -> rusqlite::Result<()> {
        let tx = self.conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        self.state.apply(&tx, batch, look)?;
        #[cfg(feature = "known-bad")]
        crate::known_bad::rows_written(batch);
        tx.commit()
    }
}

fn judge(error: &rusqlite::Error) -> WriteError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => WriteError::DiskFull,
        Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            WriteError::Stopped
        }
        _ => WriteError::Refused,
    }
}
