//! What a store must hold to, on a file of its own: commits, applied ranges, devices, disclosures, and a
//! gateway's segments.

#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod apply;
mod commit;
mod epoch;
mod gateway;
mod quarantine;
mod region;
mod settle;
mod transfer;
mod turn;
mod world;
