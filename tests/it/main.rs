//! One integration binary: a file a concern.

#![expect(clippy::disallowed_methods, reason = "tests look at the real clock and sleep in polls")]
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on says so by panicking, and why it was skipped on standard output"
)]

mod contract;
mod fault_canary;
mod fault_disk;
mod fault_kill;
mod harness;
mod main_job;
mod sample_configs;
mod start;
mod tidy;
