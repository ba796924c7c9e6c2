//! All SQL, and one writer a store.
//!
//! *Is* the region's store and the gateway's store on SQLite: group-commit writers, readers,
//! migrations, numbering and chaining of streams inside the commit.
//!
//! *Never* decides what may be written, knows a wire format (payloads are opaque bytes), reads a clock
//! or spawns a task: [`Writer::run`] is given to the caller's task runner.
//!
//! *Start at* [`region::Store`], then `writer.rs` for how a commit is made.

pub mod audit;
pub mod depth;
pub mod gateway;
#[cfg(feature = "known-bad")]
pub mod known_bad;
pub mod metrics;
pub mod region;
mod sqlite;
mod writer;

pub use sqlite::OpenError;
pub use writer::{WriteError, Writer};

/// Why something that reads and then writes is not done; the cause is for the log.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be read.
    #[error("the store could not be read")]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error("the store could not be written")]
    Write(#[from] WriteError),
}

/// Why a read failed; the cause is for the log.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// SQLite failed.
    #[error("the store could not be read")]
    Sqlite(#[from] sqlx::Error),
    /// The store holds what this program never writes.
    #[error("the store's {0} is unreadable")]
    Inconsistent(&'static str),
}
