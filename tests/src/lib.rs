//! End-to-end and fault tests, and the harness they run on.
//!
//! *Is* where real processes are started, killed and compared; see `tests/it`.
//!
//! *Never* ships: it is no default member of the workspace.
//!
//! *Start at* `it/harness/mod.rs`, then `it/main_job.rs`.
