//! What a phone must hold to, against a region in memory that decides by the real rules
//! (`domain::operation::decide`): what was done is sent until it is settled, once, whatever is lost,
//! doubled, late or killed.

#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod batch;
mod conflict;
mod enrolment;
mod inbox;
mod interleaving;
mod kill;
mod outbox;
mod settle;
mod world;
