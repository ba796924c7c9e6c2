//! One integration binary: a file a concern.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod contract;
mod fault_canary;
mod fault_disk;
mod fault_kill;
mod harness;
mod main_job;
mod sample_configs;
mod start;
mod tidy;
