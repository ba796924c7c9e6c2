//! The rules of patrol, risk and sharing, as values and functions.
//!
//! *Is* what a record is, which state follows which, what may leave a region and why.
//!
//! *Never* does I/O, reads a clock, draws a random number or knows a wire format: time and entropy
//! are arguments, and the wire is converted at the door (`proto::convert`).
//!
//! *Start at* [`operation::decide`] for what a phone may do, [`sharing::share`] for what leaves.

#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::wildcard_enum_match_arm,
        clippy::float_cmp,
        clippy::string_slice
    )
)]

pub mod agreement;
pub mod directory;
pub mod erasure;
pub mod freshness;
pub mod guard;
pub mod kernel;
pub mod operation;
pub mod outline;
pub mod patrol;
pub mod quarantine;
pub mod record;
pub mod risk;
pub mod sharing;
pub mod stream;
pub mod transfer;

#[cfg(test)]
mod fixture;
