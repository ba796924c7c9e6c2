//! What a Fetch asks for.

use super::{Door, Path, Rules, Violations};
use crate::exchange::v1::FetchRequest;
use domain::kernel::{FieldViolation, RegionId};
use domain::stream::StreamId;

/// Most bytes of segments in one answer.
pub const FETCH_BYTES_MAX: u32 = 1_024 * 1_024;
/// Bytes of segments where a caller does not say.
const FETCH_BYTES_DEFAULT: u32 = 256 * 1_024;

/// A part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The stream.
    pub stream: StreamId,
    /// First entry wanted, from 1.
    pub from_seq: u64,
    /// Most bytes of segments.
    pub bytes_max: usize,
}

/// The part of a stream that is asked for.
///
/// # Errors
/// With every mistake in the request.
pub fn wanted(request: FetchRequest) -> Result<Wanted, Violations> {
    // The caller's receipt is the business of its door; who names a stream names its origin.
    let FetchRequest { stream, from_seq, max_size, origin_region: _, receipt: _ } = request;
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
        Some(stream) if violations.is_empty() => {
            Ok(Wanted { stream, from_seq, bytes_max: bytes_max as usize })
        }
        None if violations.is_empty() => {
            Err(Violations(vec![FieldViolation::new("stream", "is missing; name a stream")]))
        }
        _ => Err(Violations(violations)),
    }
}

/// The region that is asked how far its streams go.
///
/// # Errors
/// When none is named.
pub fn asked(origin_region: &str) -> Result<RegionId, Violations> {
    let mut door = Door::new(Rules::Caller);
    let region = door.slug(Path::ROOT.field("origin_region"), origin_region);
    door.finish(region)
}
