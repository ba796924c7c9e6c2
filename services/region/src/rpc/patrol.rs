//! `PatrolService`: patrol work as the duty desk reads it.

use super::Services;
use super::desk::{self, Asked, DeskChange, Shown};
use crate::status::refuse_field;
use domain::kernel::Kind;
use domain::operation::Change;
use domain::patrol::SosVerb;
use proto::patrol::v1 as pb;
use proto::patrol::v1::patrol_service_server::PatrolService;
use storage::region::Views;
use tonic::{Request, Response, Status};

/// Which rows a list shows, and what its rows are.
macro_rules! record {
    ($name:ident, $record:ident, $field:ident) => {
        fn $name(shown: Shown) -> Result<pb::$record, Status> {
            Ok(pb::$record {
                meta: Some(shown.meta),
                $field: Some(desk::body(shown.payload)?),
                shared_from: shown.from,
            })
        }
    };
}

record!(shift, ShiftRecord, shift);
record!(patrol, PatrolRecord, patrol);
record!(check_in, CheckInRecord, check_in);
record!(track_batch, TrackBatchRecord, track_batch);
record!(observation, ObservationRecord, observation);
record!(sos_alert, SosAlertRecord, sos_alert);

/// A list method: authenticate, read a page, convert.
macro_rules! list {
    ($self:ident, $request:ident, $method:literal, $kind:ident, $views:ident, $convert:ident, $response:ident, $field:ident) => {{
        let method = concat!("wuling.patrol.v1.PatrolService/", $method);
        let (region, caller) = $self.caller(&$request, method).await?;
        let request = $request.into_inner();
        let asked = Asked {
            page_size: request.page_size,
            page_token: &request.page_token,
            purpose: request.purpose,
            views: Views::$views,
            method: $method,
        };
        let (page, next_page_token) = desk::list(&region, &caller, Kind::$kind, asked).await?;
        let $field = page.into_iter().map($convert).collect::<Result<_, _>>()?;
        Ok(Response::new(pb::$response { $field, next_page_token }))
    }};
}

/// A get method: authenticate, read one, convert.
macro_rules! get {
    ($self:ident, $request:ident, $method:literal, $kind:ident, $convert:ident, $response:ident, $field:ident) => {{
        let method = concat!("wuling.patrol.v1.PatrolService/", $method);
        let (region, caller) = $self.caller(&$request, method).await?;
        let request = $request.into_inner();
        let asked = (request.record_id.as_ref(), request.owner_region.as_str(), request.purpose);
        let shown = desk::get(&region, &caller, Kind::$kind, asked, $method).await?;
        Ok(Response::new(pb::$response { $field: Some($convert(shown)?) }))
    }};
}

#[tonic::async_trait]
impl PatrolService for Services {
    async fn get_shift(
        &self,
        request: Request<pb::GetShiftRequest>,
    ) -> Result<Response<pb::GetShiftResponse>, Status> {
        get!(self, request, "GetShift", Shift, shift, GetShiftResponse, shift)
    }

    async fn list_shifts(
        &self,
        request: Request<pb::ListShiftsRequest>,
    ) -> Result<Response<pb::ListShiftsResponse>, Status> {
        list!(self, request, "ListShifts", Shift, Without, shift, ListShiftsResponse, shifts)
    }

    async fn get_patrol(
        &self,
        request: Request<pb::GetPatrolRequest>,
    ) -> Result<Response<pb::GetPatrolResponse>, Status> {
        get!(self, request, "GetPatrol", Patrol, patrol, GetPatrolResponse, patrol)
    }

    async fn list_patrols(
        &self,
        request: Request<pb::ListPatrolsRequest>,
    ) -> Result<Response<pb::ListPatrolsResponse>, Status> {
        list!(self, request, "ListPatrols", Patrol, With, patrol, ListPatrolsResponse, patrols)
    }

    async fn list_check_ins(
        &self,
        request: Request<pb::ListCheckInsRequest>,
    ) -> Result<Response<pb::ListCheckInsResponse>, Status> {
        list!(
            self,
            request,
            "ListCheckIns",
            CheckIn,
            With,
            check_in,
            ListCheckInsResponse,
            check_ins
        )
    }

    async fn list_track_batches(
        &self,
        request: Request<pb::ListTrackBatchesRequest>,
    ) -> Result<Response<pb::ListTrackBatchesResponse>, Status> {
        list!(
            self,
            request,
            "ListTrackBatches",
            TrackBatch,
            Without,
            track_batch,
            ListTrackBatchesResponse,
            track_batches
        )
    }

    async fn list_observations(
        &self,
        request: Request<pb::ListObservationsRequest>,
    ) -> Result<Response<pb::ListObservationsResponse>, Status> {
        list!(
            self,
            request,
            "ListObservations",
            Observation,
            Without,
            observation,
            ListObservationsResponse,
            observations
        )
    }

    async fn list_sos_alerts(
        &self,
        request: Request<pb::ListSosAlertsRequest>,
    ) -> Result<Response<pb::ListSosAlertsResponse>, Status> {
        list!(
            self,
            request,
            "ListSosAlerts",
            SosAlert,
            With,
            sos_alert,
            ListSosAlertsResponse,
            sos_alerts
        )
    }

    async fn transition_sos_alert(
        &self,
        request: Request<pb::TransitionSosAlertRequest>,
    ) -> Result<Response<pb::TransitionSosAlertResponse>, Status> {
        let method = "wuling.patrol.v1.PatrolService/TransitionSosAlert";
        let (region, caller) = self.caller(&request, method).await?;
        let request = request.into_inner();
        let verb =
            SosVerb::try_from(request.verb).map_err(|_| refuse_field("verb", "must be a verb"))?;
        let change = DeskChange {
            request_id: &request.request_id,
            record_id: &request.record_id,
            etag: request.etag,
            occurred_at: region.now(),
            sensitivity: None,
            change: Change::Sos { verb, unit: request.unit },
        };
        let record = desk::write(&region, &caller, change).await?;
        let alert = sos_alert(desk::written(&record)?)?;
        Ok(Response::new(pb::TransitionSosAlertResponse { sos_alert: Some(alert) }))
    }
}
