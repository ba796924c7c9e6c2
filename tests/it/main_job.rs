//! The main job with three processes: what a phone in 小南海镇 reports is on the duty officer's side in
//! 咸丰县, redacted as agreed, marked 未核实 until an officer accepts it, the same on both sides.

use crate::harness::{A, B, World, digest, event, pull_all, states};
use device::Draft;
use domain::kernel::{Clock as _, Kind, Lane, OperationId, Purpose, RecordId, Role};
use domain::operation::Change;
use domain::patrol::{SosAlert, SosState, SosTrigger};
use prost::Message as _;
use proto::device::v1 as pb;
use proto::risk::v1 as risk;
use proto::risk::v1::risk_service_client::RiskServiceClient;
use runtime::clock::{SystemClock, SystemEntropy};
use std::time::Duration;

/// Longest time a record may take here; it takes milliseconds.
const ARRIVES: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_phone_reports_is_on_the_neighbours_side_as_agreed() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let mut watch = watch(&desk_b).await;

    let now = SystemClock.now();
    let mut report = Draft::making(Change::ReportEvent(event("桥头落石，路半幅不通")), now);
    report.author_ref = Some("staff-007".to_owned());
    let reported = phone.device.record(report).unwrap().record_id;
    assert_eq!(phone.push().await.unwrap().applied, 1);
    let (view, source) = next_view(&mut watch, reported).await;
    let meta = view.meta.clone().unwrap();
    assert_eq!(meta.owner_region, A);
    assert_eq!(meta.author_ref, "", "a staff reference has left its region");
    assert!(view.unverified, "nobody has accepted it yet");
    assert_eq!(
        (source.origin_region.as_str(), source.lane, source.seq),
        (A, Lane::Routine.code(), 2)
    );
    let shown = risk::Event::decode(view.payload).unwrap();
    assert_eq!(shown.text, "桥头落石，路半幅不通");
    assert!(view.withheld_fields.contains(&"observation_id".to_owned()));

    accept(&desk_a, reported, meta.revision).await;
    let (view, source) = next_view(&mut watch, reported).await;
    assert!(!view.unverified);
    assert_eq!((source.seq, view.share_n), (3, 2));

    let sos = SosAlert {
        point: None,
        last_known: None,
        trigger: SosTrigger::Button,
        state: SosState::Raised,
        acknowledged_at: None,
        acknowledge_unit: String::new(),
        patrol_id: None,
        remark: String::new(),
    };
    let raised = phone
        .device
        .record(Draft::making(Change::RaiseSos(sos), SystemClock.now()))
        .unwrap()
        .record_id;
    phone.push().await.unwrap();
    let (view, source) = next_view(&mut watch, raised).await;
    assert_eq!(view.meta.unwrap().kind, Kind::SosAlert.code());
    assert_eq!(source.lane, Lane::Alert.code());

    counts_add_up(&desk_a, &desk_b).await;
    assert_eq!(pull_all(desk_b.channel()).await.len(), 3);
    drop(watch);
    assert!(world.a.stop() && world.b.stop() && world.gateway.stop(), "a server did not stop well");
}

async fn watch(desk: &cli::phone::Phone) -> tonic::Streaming<pb::WatchResponse> {
    let request =
        pb::WatchRequest { cursor: None, purpose: Purpose::Duty.code(), kinds: Vec::new() };
    cli::client::device_service(desk.channel()).watch(request).await.unwrap().into_inner()
}

async fn next_view(
    watch: &mut tonic::Streaming<pb::WatchResponse>,
    record: RecordId,
) -> (proto::kernel::v1::View, pb::ViewSource) {
    let next = async {
        loop {
            for change in watch.message().await.unwrap().unwrap().changes {
                if let Some(pb::change::Subject::View(shown)) = change.subject {
                    let view = shown.view.unwrap();
                    assert_eq!(view.meta.as_ref().unwrap().record_id.as_ref(), record.as_bytes());
                    return (view, shown.source.unwrap());
                }
            }
        }
    };
    tokio::time::timeout(ARRIVES, next).await.expect("nothing came")
}

async fn accept(
    desk: &cli::phone::Phone,
    record: RecordId,
    etag: Option<proto::kernel::v1::Revision>,
) {
    let mut service = RiskServiceClient::new(desk.channel().clone());
    let request = risk::TransitionEventRequest {
        request_id: OperationId::mint(SystemClock.now(), &SystemEntropy).as_bytes().to_vec().into(),
        record_id: record.as_bytes().to_vec().into(),
        etag,
        verb: risk::EventVerb::Accept.into(),
        level: 0,
        handling_unit: String::new(),
    };
    let first = service.transition_event(request.clone()).await.unwrap().into_inner();
    // A repeat of the call has no effect and gives the same.
    let again = service.transition_event(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.event.as_ref().unwrap().event, again.event.as_ref().unwrap().event);
    // The revision that was named has moved on.
    let stale = risk::TransitionEventRequest {
        request_id: OperationId::mint(SystemClock.now(), &SystemEntropy).as_bytes().to_vec().into(),
        ..request
    };
    let refused = service.transition_event(stale).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Aborted);
    use tonic_types::StatusExt as _;
    assert_eq!(refused.get_details_error_info().unwrap().reason, "REVISION_STALE");
}

async fn counts_add_up(a: &cli::phone::Phone, b: &cli::phone::Phone) {
    let deadline = tokio::time::Instant::now() + ARRIVES;
    let rows = loop {
        let state = states(a.channel()).await.unwrap();
        let done = state.streams.len() == 2
            && state
                .streams
                .iter()
                .all(|row| row.last_seq == row.applied_seq && row.stored_seq == row.last_seq);
        if done {
            break state.streams;
        }
        assert!(tokio::time::Instant::now() < deadline, "the counts do not add up: {state:?}");
    };
    for row in rows {
        let stream = row.stream.unwrap();
        let (origin, recipient) =
            (digest(a.channel(), &stream).await, digest(b.channel(), &stream).await);
        assert_eq!(origin.digest, recipient.digest);
        assert_eq!(origin.entry_count, recipient.entry_count);
        assert_eq!(recipient.parked_count, 0);
    }
}
