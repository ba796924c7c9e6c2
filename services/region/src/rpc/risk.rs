//! `RiskService`: events as the duty desk works them.

use super::Services;
use super::desk::{self, Asked, DeskChange, Shown};
use crate::status::{malformed, refuse_field};
use domain::kernel::{EmergencyLevel, Kind, Sensitivity};
use domain::operation::Change;
use domain::risk::EventVerb;
use proto::convert::Path;
use proto::convert::kernel::decode_time;
use proto::risk::v1 as pb;
use proto::risk::v1::risk_service_server::RiskService;
use storage::region::Views;
use tonic::{Request, Response, Status};

fn event(shown: Shown) -> Result<pb::EventRecord, Status> {
    Ok(pb::EventRecord {
        meta: Some(shown.meta),
        event: Some(desk::body(shown.payload)?),
        shared_from: shown.from,
    })
}

/// An enum that may be left out.
fn optional<T: TryFrom<i32>>(number: i32, field: &str) -> Result<Option<T>, Status> {
    match number {
        0 => Ok(None),
        _ => T::try_from(number)
            .map(Some)
            .map_err(|_| refuse_field(field, "is a number of no meaning")),
    }
}

#[tonic::async_trait]
impl RiskService for Services {
    async fn report_event(
        &self,
        request: Request<pb::ReportEventRequest>,
    ) -> Result<Response<pb::ReportEventResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.risk.v1.RiskService/ReportEvent").await?;
        let request = request.into_inner();
        let body = request.event.ok_or_else(|| refuse_field("event", "must be given"))?;
        let body = proto::convert::risk::decode(body, Path::ROOT.field("event"))
            .map_err(|v| malformed(&v))?;
        let occurred_at = request
            .occur_time
            .and_then(decode_time)
            .ok_or_else(|| refuse_field("occur_time", "must be a time"))?;
        let change = DeskChange {
            request_id: &request.request_id,
            record_id: &request.record_id,
            etag: None,
            occurred_at,
            sensitivity: optional::<Sensitivity>(request.sensitivity, "sensitivity")?,
            change: Change::ReportEvent(body),
        };
        let record = desk::write(&region, &caller, change).await?;
        Ok(Response::new(pb::ReportEventResponse { event: Some(event(desk::written(&record)?)?) }))
    }

    async fn get_event(
        &self,
        request: Request<pb::GetEventRequest>,
    ) -> Result<Response<pb::GetEventResponse>, Status> {
        let (region, caller) = self.caller(&request, "wuling.risk.v1.RiskService/GetEvent").await?;
        let request = request.into_inner();
        let asked = (request.record_id.as_ref(), request.owner_region.as_str(), request.purpose);
        let shown = desk::get(&region, &caller, Kind::Event, asked, "GetEvent").await?;
        Ok(Response::new(pb::GetEventResponse { event: Some(event(shown)?) }))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.risk.v1.RiskService/ListEvents").await?;
        let request = request.into_inner();
        let asked = Asked {
            page_size: request.page_size,
            page_token: &request.page_token,
            purpose: request.purpose,
            views: Views::With,
            method: "ListEvents",
        };
        let (page, next_page_token) = desk::list(&region, &caller, Kind::Event, asked).await?;
        let events = page.into_iter().map(event).collect::<Result<_, _>>()?;
        Ok(Response::new(pb::ListEventsResponse { events, next_page_token }))
    }

    async fn transition_event(
        &self,
        request: Request<pb::TransitionEventRequest>,
    ) -> Result<Response<pb::TransitionEventResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.risk.v1.RiskService/TransitionEvent").await?;
        let request = request.into_inner();
        let verb = EventVerb::try_from(request.verb)
            .map_err(|_| refuse_field("verb", "must be a verb"))?;
        let level = optional::<EmergencyLevel>(request.level, "level")?;
        let change = DeskChange {
            request_id: &request.request_id,
            record_id: &request.record_id,
            etag: request.etag,
            occurred_at: region.now(),
            sensitivity: None,
            change: Change::Event { verb, level, handling_unit: request.handling_unit },
        };
        let record = desk::write(&region, &caller, change).await?;
        Ok(Response::new(pb::TransitionEventResponse {
            event: Some(event(desk::written(&record)?)?),
        }))
    }
}
