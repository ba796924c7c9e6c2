//! The main job with three processes: what a phone in 小南海镇 reports is on the duty officer's side in
//! 咸丰县, redacted as agreed, marked 未核实 until an officer accepts it, the same on both sides.

use crate::harness::{A, ARRIVES, B, COUNTY, World, converged, event, own_records, point};
use crate::harness::{batch, kept, pull_all, shift, sos, states, until};
use cli::phone::Phone;
use device::Draft;
use domain::kernel::{Clock as _, Kind, Lane, OperationId, Purpose, RecordId, Role};
use domain::operation::Change;
use domain::patrol::RouteKind;
use domain::patrol::{CheckIn, CheckInMethod, CheckInQuality, Patrol, PatrolState};
use prost::Message as _;
use proto::device::v1 as pb;
use proto::kernel::v1::{Revision, View};
use proto::patrol::v1 as patrol;
use proto::risk::v1 as risk;
use proto::risk::v1::risk_service_client::RiskServiceClient;
use runtime::clock::{SystemClock, SystemEntropy};
use tonic_types::StatusExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_phone_reports_is_on_the_neighbours_side_as_agreed() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let mut lead = world.enrol(A, Role::ShiftLead, "lead").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let mut watch = Watch::start(&desk_b).await;

    // The shift stays at home; the patrol leaves without what it is for and who leads it.
    let shift_id = record(&mut lead, Change::OpenShift(shift())).await;
    let patrol_id = record(&mut lead, Change::PlanPatrol(round(shift_id))).await;
    let (view, source) = watch.next(patrol_id).await;
    assert_eq!((source.lane, source.seq), (Lane::Routine.code(), 2));
    assert_withheld(&view, &["mandate", "leader_ref"]);
    let shown = patrol::Patrol::decode(view.payload).unwrap();
    assert_eq!((shown.route.as_str(), shown.mandate.as_str()), ("中坝河左岸", ""));
    assert_eq!(shown.leader_ref, "");

    let event_id = record(&mut phone, Change::ReportEvent(event("桥头落石，路半幅不通"))).await;
    let (view, source) = watch.next(event_id).await;
    assert!(view.unverified, "no officer has accepted it yet");
    assert_eq!((source.lane, source.seq, view.share_n), (Lane::Routine.code(), 3, 1));
    assert_eq!(source.origin_region, A);
    assert_withheld(&view, &["observation_id"]);
    let revision = view.meta.unwrap().revision;
    let shown = risk::Event::decode(view.payload).unwrap();
    assert_eq!((shown.text.as_str(), shown.place.as_str()), ("桥头落石，路半幅不通", "黑溪桥头"));

    let check_in_id = record(&mut phone, Change::CheckIn(check_in(patrol_id))).await;
    let (view, source) = watch.next(check_in_id).await;
    assert_eq!((source.lane, source.seq), (Lane::Routine.code(), 4));
    assert_withheld(&view, &["remark"]);
    let shown = patrol::CheckIn::decode(view.payload).unwrap();
    assert_eq!((shown.checkpoint.as_str(), shown.remark.as_str()), ("三号桩", ""));

    let sos_id = record(&mut phone, Change::RaiseSos(sos("摔伤"))).await;
    let (view, source) = watch.next(sos_id).await;
    assert_eq!((source.lane, source.seq), (Lane::Alert.code(), 2));
    assert_eq!(view.meta.unwrap().kind, Kind::SosAlert.code());
    assert_eq!(patrol::SosAlert::decode(view.payload).unwrap().remark, "摔伤");

    accept(&desk_a, event_id, revision).await;
    let (view, source) = watch.next(event_id).await;
    assert!(!view.unverified, "an officer has accepted it");
    assert_eq!((source.seq, view.share_n), (5, 2));

    // Explainable: each count has its place, and the shift has none.
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), ARRIVES).await, 5);
    assert_eq!(pull_all(desk_b.channel()).await.len(), 5);
    drop(watch);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_county_sees_what_the_townships_officer_has_accepted() {
    let world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    let county = world.enrol(COUNTY, Role::DutyOfficer, "desk").await;
    let mut watch = Watch::start(&county).await;
    let kept_home = record(&mut phone, Change::ReportEvent(event("路面积水"))).await;
    let accepted = record(&mut phone, Change::ReportEvent(event("山体裂缝"))).await;
    accept(&desk, accepted, None).await;
    // Had the first one left, it would stand before the second.
    let (view, source) = watch.next(accepted).await;
    assert_eq!((view.share_n, view.unverified, source.seq), (1, false, 2));
    let own = own_records(&pull_all(desk.channel()).await);
    assert!(own.contains(&kept_home) && own.contains(&accepted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_line_is_told_and_what_queued_arrives_when_it_is_healed() {
    let world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let mut watch = Watch::start(&desk_b).await;
    let before = record(&mut phone, Change::ReportEvent(event("落石"))).await;
    watch.next(before).await;

    world.line.cut();
    let during = record(&mut phone, Change::ReportEvent(event("塌方"))).await;
    until("the lost link is told with its reason", ARRIVES, async || {
        let state = states(desk_a.channel()).await.unwrap();
        !state.link_up && !state.link_error.is_empty()
    })
    .await;
    assert_eq!(pull_all(desk_b.channel()).await.len(), 1, "it came over a line that is cut");

    world.line.heal();
    watch.next(during).await;
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), ARRIVES).await, 2);
    until("all links are up and nothing is told of them", ARRIVES, async || {
        let state = states(desk_a.channel()).await.unwrap();
        state.link_up && state.link_error.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_small_segments_than_may_wait_at_once_all_leave() {
    let mut world = World::start().await;
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    world.a.stop().await;
    let config = world.path("a.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + "[exchange]\nentries_per_segment_max = 1\n").unwrap();
    world.a.restart().await;

    let (request, records) = batch(&phone, 1, 200);
    let mut service = cli::client::device_service(phone.channel());
    let answer = service.push(request).await.unwrap().into_inner();
    assert_eq!(kept(&answer, &records).len(), records.len());
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), ARRIVES).await, 200);
}

/// A duty officer who watches.
struct Watch {
    messages: tonic::Streaming<pb::WatchResponse>,
}

impl Watch {
    async fn start(desk: &Phone) -> Self {
        let purpose = Purpose::Duty.code();
        let request = pb::WatchRequest { cursor: None, purpose, kinds: Vec::new() };
        let mut service = cli::client::device_service(desk.channel());
        Self { messages: service.watch(request).await.unwrap().into_inner() }
    }

    /// The next change, which must be a view of this record as no agreement lets more be seen.
    async fn next(&mut self, record: RecordId) -> (View, pb::ViewSource) {
        let next = async {
            loop {
                let mut changes = self.messages.message().await.unwrap().unwrap().changes;
                assert!(changes.len() < 2, "more came than was sent: {changes:?}");
                if let Some(change) = changes.pop() {
                    return change;
                }
            }
        };
        let next = tokio::time::timeout(ARRIVES, next).await.expect("nothing came");
        let Some(pb::change::Subject::View(shown)) = next.subject else { panic!("{next:?}") };
        let view = shown.view.unwrap();
        let meta = view.meta.as_ref().unwrap();
        assert_eq!(meta.record_id, record.as_bytes().as_slice());
        assert_eq!((meta.owner_region.as_str(), meta.author_ref.as_str()), (A, ""));
        (view, shown.source.unwrap())
    }
}

/// Writes something down on the phone and sends it.
async fn record(phone: &mut Phone, change: Change) -> RecordId {
    let mut draft = Draft::making(change, SystemClock.now());
    draft.author_ref = Some("staff-007".to_owned());
    let record_id = phone.device.record(draft).unwrap().record_id;
    let report = phone.push().await.unwrap();
    assert_eq!((report.applied, report.rejected.len()), (1, 0), "{report:?}");
    record_id
}

fn assert_withheld(view: &View, fields: &[&str]) {
    assert_eq!(view.withheld_fields, fields);
}

async fn accept(desk: &Phone, record: RecordId, etag: Option<Revision>) {
    let request_id = || {
        let id = OperationId::mint(SystemClock.now(), &SystemEntropy);
        id.as_bytes().to_vec().into()
    };
    let mut service = RiskServiceClient::new(desk.channel().clone());
    let request = risk::TransitionEventRequest {
        request_id: request_id(),
        record_id: record.as_bytes().to_vec().into(),
        etag,
        verb: risk::EventVerb::Accept.into(),
        level: 0,
        handling_unit: String::new(),
    };
    let first = service.transition_event(request.clone()).await.unwrap().into_inner();
    // A repeat of the call has no effect and gives the same.
    let again = service.transition_event(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.event, again.event);
    // The revision that was named has moved on.
    if request.etag.is_some() {
        let stale = risk::TransitionEventRequest { request_id: request_id(), ..request };
        let refused = service.transition_event(stale).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Aborted);
        assert_eq!(refused.get_details_error_info().unwrap().reason, "REVISION_STALE");
    }
}

fn round(shift_id: RecordId) -> Patrol {
    Patrol {
        shift_id,
        mandate: "汛期巡查".to_owned(),
        route: "中坝河左岸".to_owned(),
        route_kind: Some(RouteKind::RiverReach),
        member_count: 2,
        partner_units: Vec::new(),
        legs: Vec::new(),
        state: PatrolState::Planned,
        started_at: None,
        ended_at: None,
        leader_ref: Some("staff-007".to_owned()),
    }
}

fn check_in(patrol_id: RecordId) -> CheckIn {
    CheckIn {
        patrol_id,
        checkpoint: "三号桩".to_owned(),
        method: CheckInMethod::Nfc,
        point: Some(point()),
        distance_m: 3.0,
        quality: Some(CheckInQuality::Ok),
        remark: "桩已松动".to_owned(),
    }
}
