//! Reading a range without a link.

use crate::service::Shared;
use crate::{intake, status};
use domain::kernel::{FieldViolation, Lane, Reason, RegionId};
use domain::stream::StreamId;
use proto::exchange::v1::{FetchRequest, FetchResponse};
use runtime::ErrorChain;
use tonic::Status;

/// Most bytes of segments in one answer.
pub(crate) const FETCH_BYTES_MAX: u32 = 1_024 * 1_024;
/// Bytes of segments where a caller does not say.
const FETCH_BYTES_DEFAULT: u32 = 256 * 1_024;

/// Gives `region` what is held of a stream from a place on.
pub(crate) async fn fetch(
    shared: &Shared,
    region: Option<RegionId>,
    request: FetchRequest,
) -> Result<FetchResponse, Status> {
    let region = region.ok_or_else(|| status::refused(Reason::CertificateRequired))?;
    let (stream, from_seq, bytes_max) = checked(request).map_err(status::fields_invalid)?;
    if stream.lane != Lane::Alert && shared.is_restricted(&region) {
        return Err(status::refused(Reason::RoleForbidden));
    }
    // Whether an agreement exists is the business of its parties alone.
    intake::terms_for(&shared.book, &stream, &region)
        .map_err(|_| status::refused(Reason::NotAParty))?;
    // Asked before the segments are read, so that it never says less than comes with it.
    let last = shared.registry.last(&stream);
    let segments = shared.store.list_segments(&stream, from_seq - 1, bytes_max).await;
    let segments = segments.map_err(|error| {
        let request_id = status::request_id(&*shared.entropy);
        tracing::error!(request.id = request_id, error = %ErrorChain(&error), "a fetch failed");
        status::internal(request_id)
    })?;
    let segments = segments.into_iter().map(|segment| segment.encoded).collect();
    Ok(FetchResponse { segments, last: Some((&stream, last).into()) })
}

fn checked(request: FetchRequest) -> Result<(StreamId, u64, usize), Vec<FieldViolation>> {
    let FetchRequest { stream, from_seq, max_size } = request;
    let mut violations = Vec::new();
    if from_seq == 0 {
        violations.push(FieldViolation::new("from_seq", "must be 1 or more"));
    }
    if max_size > FETCH_BYTES_MAX {
        violations
            .push(FieldViolation::new("max_size", format!("must be at most {FETCH_BYTES_MAX}")));
    }
    let stream = stream.map(StreamId::try_from).transpose().unwrap_or_else(|wrong| {
        let within = |violation: FieldViolation| FieldViolation {
            field: format!("stream.{}", violation.field),
            ..violation
        };
        violations.extend(wrong.0.into_iter().map(within));
        None
    });
    let bytes_max = if max_size == 0 { FETCH_BYTES_DEFAULT } else { max_size };
    match stream {
        Some(stream) if violations.is_empty() => Ok((stream, from_seq, bytes_max as usize)),
        None if violations.is_empty() => {
            Err(vec![FieldViolation::new("stream", "is missing; name a stream")])
        }
        _ => Err(violations),
    }
}
