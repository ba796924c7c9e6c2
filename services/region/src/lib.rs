//! The region server: phones and desks on one side, the exchange on the other, rules between.
//!
//! *Is* the one place where authentication, rules, store and wire meet: a handler authenticates,
//! converts, asks the rules, commits once and converts back.
//!
//! *Never* holds a rule of its own (`domain`), writes SQL (`storage`) or touches what a neighbour sent
//! before it was verified (`exchange`).
//!
//! *Start at* [`server::Server`], then [`authorise`] for who may do what, then `operations.rs` for a
//! record's way in.

pub mod authorise;
pub mod config;
mod enrol;
mod expiry;
mod feed;
pub mod folder;
mod hosted;
pub mod mark;
mod metrics;
mod observe;
mod operations;
mod proposals;
mod quarantine;
mod release;
mod rpc;
pub mod server;
mod shares;
mod status;
mod transfer;
mod trust;
mod turn;
