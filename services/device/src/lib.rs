//! The phone's core: store, outbox, sync. What was done is on disk before the screen says so, is sent
//! until the region has answered for good, and is kept for 35 days after.
//!
//! *Is* a library that an app or the command-line phone drives: it gives out signed batches, takes in
//! answers and changes, and survives being killed between any two of its calls.
//!
//! *Never* opens a connection, spawns, sleeps or reads a clock: the caller owns the transport and
//! passes time, randomness and the signing key in. It never merges: a conflict is shown and decided by
//! a person.
//!
//! *Start at* [`Device`]: [`Device::record`], [`Device::next_batch`], [`Device::settle`] are the way
//! out, [`Device::apply_watch`] the way in; [`enrolment`] comes before all of them.

#![warn(missing_docs)]

pub mod backoff;
mod batch;
mod conflict;
pub mod enrolment;
mod inbox;
pub mod key;
mod outbox;
mod phone;
mod settle;
mod status;
mod store;
mod sync;

pub use batch::{
    BATCHES_IN_FLIGHT_MAX, BatchError, HELD_AGAIN_S, Limits, QUARANTINED_AGAIN_S, Window,
};
pub use conflict::{Resolution, ResolveError, Resolved};
pub use inbox::{Applied, ApplyError};
pub use outbox::{Draft, OPERATION_BYTES_MAX, RecordError, Recorded, Standing};
pub use phone::{Device, OpenError};
pub use settle::{Refused, Report};
pub use status::{Kept, Status};
pub use store::{Store, StoreError};
pub use sync::{ALONE_DAYS_MAX, OPERATION_DAYS_KEPT};
