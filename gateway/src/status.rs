//! The one place that makes statuses: a reason becomes a code, its sentences in Chinese and English, and
//! the details that clients are programmed against.

use domain::kernel::{Entropy, FieldViolation, Reason, ReasonKind};
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{
    BadRequest, ErrorDetail, ErrorInfo, LocalizedMessage, RequestInfo, RetryInfo, StatusExt as _,
};

/// The domain of every reason.
const DOMAIN: &str = "wuling";
/// How long a caller should wait where trying again helps.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Says why a call was refused.
pub(crate) fn refused(reason: Reason) -> Status {
    build(reason, Vec::new(), HashMap::new())
}

/// Says which fields are wrong.
pub(crate) fn fields_invalid(violations: Vec<FieldViolation>) -> Status {
    let violations: Vec<_> = violations
        .into_iter()
        .map(|FieldViolation { field, description }| {
            tonic_types::FieldViolation::new(field, description)
        })
        .collect();
    build(Reason::FieldInvalid, vec![BadRequest::new(violations).into()], HashMap::new())
}

/// Says that it is our fault, and by which id the log knows it.
pub(crate) fn internal(request_id: String) -> Status {
    let metadata = HashMap::from([("request_id".to_owned(), request_id.clone())]);
    build(Reason::Internal, vec![RequestInfo::new(request_id, "").into()], metadata)
}

/// An id under which a failure is logged and answered.
pub(crate) fn request_id(entropy: &dyn Entropy) -> String {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn build(
    reason: Reason,
    mut details: Vec<ErrorDetail>,
    metadata: HashMap<String, String>,
) -> Status {
    let code = code(reason.kind());
    if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
        details.push(RetryInfo::new(Some(RETRY_AFTER)).into());
    }
    details.push(ErrorInfo::new(reason.name(), DOMAIN, metadata).into());
    details.push(LocalizedMessage::new("zh-CN", reason.message_zh()).into());
    details.push(LocalizedMessage::new("en", reason.message_en()).into());
    Status::with_error_details_vec(code, reason.message_en(), details)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_its_reason_in_both_languages() {
        for reason in Reason::ALL {
            let details = refused(*reason).get_error_details_vec();
            let mut said = Vec::new();
            for detail in details {
                match detail {
                    ErrorDetail::ErrorInfo(info) => {
                        assert_eq!(
                            (info.reason.as_str(), info.domain.as_str()),
                            (reason.name(), DOMAIN)
                        );
                    }
                    ErrorDetail::LocalizedMessage(message) => said.push(message.locale),
                    _ => {}
                }
            }
            assert_eq!(said, ["zh-CN", "en"]);
        }
    }
}
