//! The checked door between wire and domain. One file a noun; each names the limits of its fields
//! beside the conversion, equal to the comments in the proto files.
//!
//! Messages are taken apart field by field, so that a new field breaks the build until somebody
//! decides what it means. All mistakes of a message are reported together: a sender who must mend
//! five fields should not have to send five times.

#[cfg(test)]
mod tests;

pub mod agreement;
pub mod body;
pub mod directory;
mod door;
pub mod entry;
pub mod fetch;
pub mod freshness;
pub mod kernel;
pub mod operation;
pub mod outline;
pub mod patrol;
pub mod record;
pub mod risk;
pub mod stream;
pub mod track;
pub mod transfer;
pub mod view;

pub use door::{Door, Path, Rules};

use domain::kernel::FieldViolation;

/// What is wrong with a message: every mistake found, at most [`VIOLATIONS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", summary(.0))]
pub struct Violations(pub Vec<FieldViolation>);

/// Mistakes reported of one message; a message full of mistakes is not answered in full.
pub const VIOLATIONS_MAX: usize = 16;

fn summary(violations: &[FieldViolation]) -> String {
    match violations {
        [] => "a field is missing".to_owned(),
        [only] => format!("{} {}", only.field, only.description),
        [first, rest @ ..] => {
            format!(
                "{} {}, and {} more fields are wrong",
                first.field,
                first.description,
                rest.len()
            )
        }
    }
}
