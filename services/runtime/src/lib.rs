//! What the binaries share: configuration, logs, tasks and shutdown, certificates, TLS, the accept
//! loop, and the only real clock.
//!
//! *Is* the shell around a server: it turns a port and a certificate into connections whose peer is
//! known, and ends them and every task in order.
//!
//! *Never* knows a record, a message or a table, and decides nothing about what a peer may do.
//!
//! *Start at* [`accept::serve`] for how a connection comes in, [`tasks::Tasks`] for how a process
//! runs and stops.

pub mod accept;
pub mod backoff;
pub mod channel;
pub mod clock;
pub mod conduct;
pub mod config;
pub mod connections;
pub mod data_dir;
pub mod health;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod observe;
pub mod pki;
pub mod process;
pub mod renewal;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod trust_folder;

#[cfg(test)]
mod fixture;

pub use tasks::{OnExit, Shutdown, Tasks, end_of};
pub use telemetry::ErrorChain;
