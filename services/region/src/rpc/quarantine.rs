//! What is quarantined, and releasing what proves right.

use super::desk::place_of;
use super::device::region_or_own;
use crate::hosted::{Caller, Hosted};
use crate::status::{refuse, refuse_field, unreadable, unwritten};
use domain::kernel::{Reason, RecordId};
use domain::quarantine::ReleaseReason;
use prost::Message as _;
use proto::agreement::v1 as pb;
use proto::device::v1::NeighbourView;
use storage::region::Releasing;
use tonic::Status;

/// Views in a page, unless the caller asks for fewer; each may be as large as a record.
const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 100;
/// Bytes of the views of a page besides its last; an answer has room for one more.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// What the token of a page begins with: one of another query is refused.
const TOKEN: &str = "q";

/// A page of what is quarantined, and the token of the next.
pub(super) async fn list(
    region: &Hosted,
    request: &pb::ListQuarantinedRequest,
) -> Result<pb::ListQuarantinedResponse, Status> {
    let limit = match request.page_size {
        0 => PAGE_DEFAULT,
        1..=PAGE_MAX => request.page_size,
        _ => return Err(refuse_field("page_size", "must be 1 to 100")),
    };
    let before = place_of(TOKEN, &request.page_token)?;
    let rows = region.store.list_quarantined(before, limit).await;
    let rows = rows.map_err(|error| unreadable(&error))?;
    let (full, mut bytes, mut last) = (rows.len() == limit as usize, 0, None);
    let mut views = Vec::with_capacity(rows.len());
    for row in &rows {
        if bytes > PAGE_BYTES_MAX {
            break;
        }
        bytes += row.encoded.len();
        last = Some(row.feed_seq);
        let view = NeighbourView::decode(row.encoded.clone());
        views.push(view.map_err(|_| refuse(Reason::Internal))?);
    }
    let more = full || views.len() < rows.len();
    let next = last.filter(|_| more).map(|place| format!("{TOKEN}-{place}"));
    Ok(pb::ListQuarantinedResponse { views, next_page_token: next.unwrap_or_default() })
}

/// Has what is quarantined of a record shown again.
pub(super) async fn release(
    region: &Hosted,
    caller: &Caller,
    request: &pb::ReleaseQuarantinedRequest,
) -> Result<pb::ReleaseQuarantinedResponse, Status> {
    let record_id = RecordId::from_slice(&request.record_id)
        .ok_or_else(|| refuse_field("record_id", "must be a UUIDv7 in 16 bytes"))?;
    let reason = ReleaseReason::try_from(request.reason)
        .map_err(|_| refuse_field("reason", "must say why"))?;
    let releasing = Releasing {
        birth_region: region_or_own(&request.owner_region, region.region())?,
        record_id,
        device: caller.device,
        reason,
        withdrawn: exchange::open::quarantined,
        now: region.now(),
    };
    let done = region.store.release_quarantined(releasing).await.map_err(unwritten)?;
    if done.let_out == 0 {
        return Err(refuse(Reason::NotQuarantined));
    }
    let (device, view_count) = (caller.device, done.let_out);
    tracing::warn!(region.id = %region.region, device.id = %device, reason = reason.name(), view_count, "what was quarantined is released");
    let view_count = u32::try_from(view_count).unwrap_or(u32::MAX);
    Ok(pb::ReleaseQuarantinedResponse { view_count })
}
