#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]
