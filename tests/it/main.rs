//! One integration binary: a file a concern.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod backlog;
mod bundles;
mod certificates;
mod contract;
mod cut;
mod delegation;
mod doors;
mod doubles;
mod erasure;
mod expiry;
mod explain;
mod fault_canary;
mod fault_disk;
mod fault_kill;
mod fault_outage;
mod fault_row;
mod foreign_python;
mod gateways;
mod harness;
mod hostile;
mod limits;
mod log_canary;
mod main_job;
mod malformed;
mod metrics;
mod otlp;
mod ownership;
mod parked;
mod peer_python;
mod proposals;
mod restore;
mod revocation;
mod rotation;
mod runbook;
mod sample_configs;
mod second_path;
mod simulation;
mod start;
mod tidy;
mod trust;
mod verify;
mod versions;
