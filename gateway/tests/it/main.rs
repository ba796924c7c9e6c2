//! A real gateway over real TLS, and regions made by hand: what is stored, refused, delivered, asked
//! for again, and what a restart keeps. Each test has a linkage and a data folder of its own.

#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod deliver;
mod limits;
mod opening;
mod proposals;
mod refuse;
mod restart;
mod world;
