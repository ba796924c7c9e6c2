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

mod book;
pub mod config;
mod delivery;
mod fetch;
mod hello;
mod intake;
mod link;
mod outbox;
mod registry;
mod server;
mod service;
mod status;
mod streams;

pub use config::Config;
pub use server::{FORMAT, Gateway, ServerError};
