//! The region's side of the link: what was numbered is sealed and sent, what comes is verified, opened
//! and applied.
//!
//! *Is* two pure cores ([`send::Sender`], [`receive::Receiver`]: `step(event) -> effects`) and the I/O
//! around them.
//!
//! *Never* decides what may leave (`domain::sharing` does), and never numbers (the store's commit does).
//!
//! *Start at* [`send::Sender::step`], then [`receive::Receiver::step`], then [`link::Exchange::run`].

pub mod audit;
pub mod book;
pub mod bundle;
pub mod cut;
pub mod digest;
pub mod epoch;
#[cfg(test)]
mod fixture;
pub mod home;
pub mod link;
pub mod metrics;
pub mod open;
pub mod proposals;
pub mod pull;
pub mod quarantine;
pub mod receive;
pub mod send;
pub mod serve;
mod session;
pub mod status;
