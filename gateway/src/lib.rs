//! The gateway: stores and forwards what regions show one another.
//!
//! *Is* the server that regions dial: it verifies who signed a segment and that it joins on, has it on
//! disk before it says so, and delivers it to each party as far as that party takes it.
//!
//! *Never* opens a payload, holds no key that could, and has no rule about what is inside one. It waits
//! for no peer: each link has queues of its own, and a peer is sent what it gave credit for.
//!
//! *Start at* [`Gateway`] for the server, `link.rs` for one region's connection, `delivery.rs` for what is
//! sent next.

// The cores are public for the simulation, which drives them without a network and a disk.
pub mod audit;
pub mod book;
pub mod config;
pub mod delivery;
mod fetch;
mod hello;
pub mod intake;
mod link;
mod metrics;
mod observe;
pub mod outbox;
pub mod proposals;
pub mod registry;
mod server;
mod service;
mod status;
pub mod streams;
mod trim;
mod trust;

pub use config::Config;
pub use server::{FORMAT, Gateway, ServerError};
