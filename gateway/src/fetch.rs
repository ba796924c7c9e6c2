//! Reading a range without a link.

use crate::service::Shared;
use crate::{intake, status};
use domain::kernel::{Lane, Reason, RegionId};
use proto::convert::fetch::{Wanted, wanted};
use proto::exchange::v1::{FetchRequest, FetchResponse};
use runtime::ErrorChain;
use tonic::Status;

/// Gives `region` what is held of a stream from a place on.
pub(crate) async fn fetch(
    shared: &Shared,
    region: Option<RegionId>,
    request: FetchRequest,
) -> Result<FetchResponse, Status> {
    let region = region.ok_or_else(|| status::refused(Reason::CertificateRequired))?;
    let wanted = wanted(request).map_err(|violations| status::fields_invalid(violations.0))?;
    let Wanted { stream, from_seq, bytes_max } = wanted;
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
    // Its heads are for links: who polls has segments for it.
    Ok(FetchResponse { segments, last: Some((&stream, last).into()), heads: Vec::new() })
}
