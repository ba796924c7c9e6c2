//! The one place where a refusal becomes a gRPC status, with `google.rpc` details: reason by code,
//! fields, what to do, in Chinese and English.

use domain::kernel::{FieldViolation, Reason, ReasonKind};
use exchange::cut::CutError;
use proto::convert::Violations;
use runtime::ErrorChain;
use std::time::Duration;
use storage::{ReadError, WriteError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "wuling";
/// When to try again after "busy" or "cannot write".
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A refusal by code.
pub(crate) fn refuse(reason: Reason) -> Status {
    build(reason, &[])
}

/// A refusal of fields.
pub(crate) fn refuse_fields(reason: Reason, violations: &[FieldViolation]) -> Status {
    build(reason, violations)
}

/// A refusal of one field.
pub(crate) fn refuse_field(field: &str, description: &str) -> Status {
    build(Reason::FieldInvalid, &[FieldViolation::new(field, description)])
}

/// What the door refused.
pub(crate) fn malformed(violations: &Violations) -> Status {
    build(Reason::FieldInvalid, &violations.0)
}

/// The store could not be read: the cause is logged here, once, and not told.
pub(crate) fn unreadable(error: &ReadError) -> Status {
    tracing::error!(error = %ErrorChain(error), "a read failed");
    build(Reason::Internal, &[])
}

/// A range could not be sealed: the cause is logged here, once, and not told.
pub(crate) fn uncut(error: &CutError) -> Status {
    tracing::error!(error = %ErrorChain(error), "a range was not sealed");
    build(Reason::Internal, &[])
}

/// The store could not be written.
pub(crate) fn unwritten(error: WriteError) -> Status {
    tracing::error!(error = %ErrorChain(&error), "a write failed");
    match error {
        WriteError::DiskFull | WriteError::Stopped => build(Reason::StorageUnavailable, &[]),
        WriteError::Refused => build(Reason::Internal, &[]),
    }
}

fn build(reason: Reason, violations: &[FieldViolation]) -> Status {
    let kind = reason.kind();
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.name(), DOMAIN, std::collections::HashMap::new());
    // gRPC allows one localized message; both languages stand in it, Chinese first.
    let message = format!("{} / {}", reason.message_zh(), reason.message_en());
    details.set_localized_message("zh-CN", message);
    for violation in violations {
        details.add_bad_request_violation(&violation.field, &violation.description);
    }
    match kind {
        ReasonKind::Precondition => {
            details.add_precondition_failure_violation(
                reason.name(),
                "record",
                reason.message_en(),
            );
        }
        // What is too large now is too large in two seconds.
        ReasonKind::Exhausted => {
            details.add_quota_failure_violation(reason.name(), reason.message_en());
        }
        ReasonKind::Unavailable => {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        _ => {}
    }
    let text = violations.first().map_or_else(
        || reason.message_en().to_owned(),
        |v| format!("{}: {}", v.field, v.description),
    );
    Status::with_error_details(code(kind), text, details)
}

const fn code(kind: ReasonKind) -> Code {
    match kind {
        ReasonKind::Invalid => Code::InvalidArgument,
        ReasonKind::Unauthenticated => Code::Unauthenticated,
        ReasonKind::Forbidden => Code::PermissionDenied,
        ReasonKind::NotFound => Code::NotFound,
        ReasonKind::AlreadyExists => Code::AlreadyExists,
        ReasonKind::Conflict => Code::Aborted,
        ReasonKind::Precondition => Code::FailedPrecondition,
        ReasonKind::Exhausted => Code::ResourceExhausted,
        ReasonKind::Unavailable => Code::Unavailable,
        ReasonKind::Internal => Code::Internal,
    }
}
