//! No log, metric or trace holds what a record, a position, a member of staff, a code or a token says.
//!
//! Goal: whatever is switched on, an operator learns nothing from what the three servers tell of themselves.
//! Method: logs at `trace`, the neighbours' libraries included; a canary in every field that the contract
//! calls personal or sensitive, sent so that it is applied, repeated, refused, malformed and unreadable; then
//! a search in all three forms in which bytes are printed. The search is shown what it must find.

mod payload;

use crate::harness::{A, ARRIVES, B, Collector, World, converged, get, metrics, until};
use cli::phone::Phone;
use device::enrolment::EnrolmentCode;
use device::key::KeyFile;
use domain::kernel::{Clock as _, Entropy as _, Purpose, Role};
use payload::{Canaries, operation_of, payloads, pushed, reported, signed};
use proto::device::v1 as pb;
use proto::device::v1::device_service_client::DeviceServiceClient;
use proto::directory::v1::GetRegionRequest;
use proto::directory::v1::directory_service_client::DirectoryServiceClient;
use proto::risk::v1 as risk;
use proto::risk::v1::risk_service_client::RiskServiceClient;
use runtime::clock::{SystemClock, SystemEntropy};
use tonic::transport::Channel;
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread")]
async fn what_people_write_is_in_no_log_metric_or_trace() {
    let collector = Collector::start().await;
    let mut world = World::start().await;
    let ports = world.observe("trace", Some(&collector)).await;
    let mut canaries = Canaries::new();
    let lead = enrol(&world, A, Role::ShiftLead, &mut canaries).await;
    let desk_a = enrol(&world, A, Role::DutyOfficer, &mut canaries).await;
    let desk_b = enrol(&world, B, Role::DutyOfficer, &mut canaries).await;

    let applied = applied_and_repeated(&lead, &mut canaries).await;
    payload::assert_complete(&applied, &canaries);
    refused(&lead, &mut canaries).await;
    malformed(&lead, &mut canaries).await;
    at_the_desk(desk_a.channel(), &mut canaries).await;
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    for (id, desk) in [(A, &desk_a), (B, &desk_b)] {
        pulled(desk.channel()).await.unwrap();
        unreadable(&world, id, desk.channel(), &mut canaries).await;
    }
    let shown = [
        metrics(ports.a).await,
        metrics(ports.b).await,
        metrics(ports.gateway).await,
        get(ports.a, "/readyz").await.1,
    ];
    world.stop().await;
    until("the traces arrive", ARRIVES, async || {
        collector.spans().iter().any(|(_, span)| span.name.ends_with("/Pull"))
    })
    .await;

    let (logs, traces) = (world.logs(), collector.text());
    assert!(logs.contains(" TRACE "), "the logs are not at `trace`");
    for error in ["a stored change is unreadable", "a stored record is unreadable"] {
        assert!(logs.contains(error), "an error path was not taken: {error}");
    }
    let told = [("log", &logs), ("metrics", &shown.concat()), ("traces", &traces)];
    for (of, text) in told {
        // Control: it searches where something is.
        assert!(text.contains(A) || of == "traces", "{of} do not name the region");
        let hits = canaries.found_in(text);
        assert!(hits.is_empty(), "{of} hold what people wrote: {hits:#?}");
    }
    assert!(traces.contains("DeviceService/Push"), "{traces}");
    // Control: it finds each form of each canary where it was put.
    for needle in canaries.needles() {
        let bad = format!("{logs}DEBUG region: taken text={needle:?}\n");
        assert_eq!(canaries.found_in(&bad).len(), 1, "{needle} is not found where it is");
    }
}

/// Enrols a device whose code, model and key are canaries too; before that, a code that nobody issued.
async fn enrol(world: &World, id: &str, role: Role, canaries: &mut Canaries) -> Phone {
    let (data, port) = if id == B { ("b", world.b.port) } else { ("a", world.a.port) };
    let (region, now) = (crate::harness::region(id), SystemClock.now());
    let endpoint = format!("127.0.0.1:{port}");
    let unit = canaries.text();
    let issued = cli::linkage::issue_code(
        &world.path(data),
        &region,
        role,
        &unit,
        &endpoint,
        now,
        &SystemEntropy,
    );
    let code = EnrolmentCode::parse(&issued.unwrap()).unwrap();
    canaries.secret(&code.code);
    let dir = world.path(&format!("phone-{id}-{}", role.name()));
    std::fs::create_dir_all(&dir).unwrap();
    let key = KeyFile::open_or_create(&dir.join("device.key")).unwrap();
    let request = code.request(key.certificate_request().unwrap(), &canaries.text());
    let mut service: DeviceServiceClient<Channel> = cli::client::unknown(&code).unwrap();
    let unknown = pb::EnrolRequest { code: canaries.text(), ..request.clone() };
    service.enrol(unknown).await.expect_err("nobody issued that code");
    let no_request = canaries.text().into_bytes().into();
    let garbage = pb::EnrolRequest { certificate_request: no_request, ..request.clone() };
    service.enrol(garbage).await.expect_err("that is no request");
    let answer = service.enrol(request).await.unwrap().into_inner();
    let mut store = device::Store::open(&dir.join("phone.sqlite")).unwrap();
    store.enrol(&code, &key.public(), &answer).unwrap();
    let (clock, entropy) = (std::sync::Arc::new(SystemClock), std::sync::Arc::new(SystemEntropy));
    Phone::open(&dir, clock, entropy).unwrap()
}

/// Everything that a phone can say, once and again, with a token beside it.
async fn applied_and_repeated(lead: &Phone, canaries: &mut Canaries) -> Vec<pb::Operation> {
    let operations = payloads(canaries);
    let mut service = cli::client::device_service(lead.channel());
    let mut request = Request::new(signed(lead, operations.clone()));
    let token = format!("Bearer {}", canaries.text());
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    let answer = service.push(request).await.unwrap().into_inner();
    let outcomes: Vec<_> = answer.results.iter().map(|result| result.outcome()).collect();
    assert_eq!(outcomes, vec![pb::Outcome::Applied; operations.len()], "{answer:?}");
    let answer = pushed(lead, operations.clone()).await.unwrap();
    assert!(answer.results.iter().all(|result| result.outcome() == pb::Outcome::Duplicate));
    operations
}

/// What the rules refuse: an id used again, a person named, a place that is none, a stale revision, a verb
/// on what is not there.
async fn refused(lead: &Phone, canaries: &mut Canaries) {
    let first = reported(canaries);
    let again = pb::Operation {
        operation_id: first.operation_id.clone(),
        record_id: first.record_id.clone(),
        ..reported(canaries)
    };
    let named = operation_of(canaries, |canaries| {
        let text = format!("{}电话13812345678", canaries.text());
        domain::operation::Change::ReportEvent(crate::harness::event(&text))
    });
    let far = operation_of(canaries, |canaries| {
        let mut event = crate::harness::event(&canaries.text());
        event.point = Some(canaries.point(208));
        domain::operation::Change::ReportEvent(event)
    });
    let stranger = operation_of(canaries, |canaries| domain::operation::Change::Shift {
        verb: domain::patrol::ShiftVerb::HandOver,
        handover_note: canaries.text(),
    });
    let answer = pushed(lead, vec![first, again, named, far, stranger]).await.unwrap();
    let outcomes: Vec<_> = answer.results.iter().map(|result| result.outcome()).collect();
    let (applied, rejected) = (pb::Outcome::Applied, pb::Outcome::Rejected);
    assert_eq!(outcomes, [applied, rejected, rejected, rejected, rejected], "{answer:?}");
}

/// What the door refuses, an operation or a whole batch.
async fn malformed(lead: &Phone, canaries: &mut Canaries) {
    let long = pb::Operation { author_ref: canaries.text().repeat(64), ..reported(canaries) };
    let text = canaries.text();
    let ids = pb::Operation { operation_id: text.into_bytes().into(), ..reported(canaries) };
    let empty = pb::Operation { change: None, author_ref: canaries.text(), ..reported(canaries) };
    let answer = pushed(lead, vec![long, ids, empty]).await.unwrap();
    assert!(answer.results.iter().all(|result| result.outcome() == pb::Outcome::Rejected));

    let good = signed(lead, vec![reported(canaries)]).signed_batch.unwrap();
    let other = signed(lead, vec![reported(canaries)]).signed_batch.unwrap();
    let mut bytes = || canaries.text().into_bytes().into();
    let batches = [
        pb::SignedBatch { batch: bytes(), ..good.clone() },
        pb::SignedBatch { signature: bytes(), ..good.clone() },
        pb::SignedBatch { signature: other.signature, ..good },
        payload::of_another_region(lead, canaries.text()),
        payload::of_another_device(lead, canaries.text()),
    ];
    let mut service = cli::client::device_service(lead.channel());
    for signed_batch in batches {
        let request = pb::PushRequest { signed_batch: Some(signed_batch) };
        service.push(request).await.expect_err("the batch is wrong");
    }
    // No message at all, on a method and on none.
    for path in ["/wuling.device.v1.DeviceService/Push", "/wuling.device.v1.DeviceService/Nothing"]
    {
        payload::raw(lead.channel(), path, canaries.text()).await.expect_err("that is no call");
    }
}

/// The desk's calls: good, malformed, with a token that is none, about a record that is not there.
async fn at_the_desk(desk: &Channel, canaries: &mut Canaries) {
    let mut service = RiskServiceClient::new(desk.clone());
    let mut event = crate::harness::event(&canaries.text());
    event.point = Some(canaries.point(108));
    let good = risk::ReportEventRequest {
        request_id: reported(canaries).operation_id,
        record_id: reported(canaries).record_id,
        occur_time: Some(proto::convert::kernel::encode_time(SystemClock.now())),
        event: Some((&event).into()),
        sensitivity: 0,
    };
    service.report_event(good.clone()).await.unwrap();
    let bad = risk::ReportEventRequest {
        request_id: canaries.text().into_bytes().into(),
        ..good.clone()
    };
    service.report_event(bad).await.expect_err("no id");
    let stale = risk::TransitionEventRequest {
        request_id: reported(canaries).operation_id,
        record_id: reported(canaries).record_id,
        verb: risk::EventVerb::Dispatch.into(),
        handling_unit: canaries.text(),
        ..Default::default()
    };
    service.transition_event(stale).await.expect_err("no record");
    let purpose = Purpose::Duty.code();
    let list = risk::ListEventsRequest { page_size: 0, page_token: canaries.text(), purpose };
    service.list_events(list.clone()).await.expect_err("no token");
    let all = risk::ListEventsRequest { page_token: String::new(), ..list };
    let page = service.list_events(all).await.unwrap().into_inner();
    assert!(!page.events.is_empty());
    let mut service = DirectoryServiceClient::new(desk.clone());
    let region_id = canaries.text();
    service.get_region(GetRegionRequest { region_id, purpose }).await.expect_err("no region");
}

/// Records that a broken disk changed: calls fail inside.
async fn unreadable(world: &World, id: &str, desk: &Channel, canaries: &mut Canaries) {
    let data = world.path(if id == B { "b" } else { "a" });
    let store = region::folder::store_path(&data, &crate::harness::region(id));
    let bytes = canaries.text().into_bytes();
    let conn = rusqlite::Connection::open(store).unwrap();
    conn.busy_timeout(ARRIVES).unwrap();
    let broken = ["UPDATE record SET encoded = ?1", "UPDATE view SET encoded = ?1"]
        .map(|sql| conn.execute(sql, [&bytes]).unwrap());
    assert!(broken.iter().sum::<usize>() > 0, "nothing is stored at {id}");
    pulled(desk).await.unwrap();
    let purpose = Purpose::Duty.code();
    let list = risk::ListEventsRequest { page_size: 0, page_token: String::new(), purpose };
    let failed = RiskServiceClient::new(desk.clone()).list_events(list).await;
    let failed = failed.expect_err("what is stored is unreadable");
    assert_eq!(failed.code(), Code::Internal, "{failed:?}");
}

async fn pulled(desk: &Channel) -> Result<pb::PullResponse, tonic::Status> {
    let purpose = Purpose::Duty.code();
    let request = pb::PullRequest { cursor: None, page_size: 0, purpose, kinds: Vec::new() };
    Ok(cli::client::device_service(desk).pull(request).await?.into_inner())
}

impl Canaries {
    /// No text but ours begins so.
    fn new() -> Self {
        let mut random = [0; 12];
        SystemEntropy.fill(&mut random);
        // Letters alone, so that nothing reads as a number that names a person.
        let common = random.map(|byte| char::from(b'a' + byte % 26)).into_iter().collect();
        Self { common, count: 0, others: Vec::new() }
    }

    /// What is searched for.
    fn needles(&self) -> Vec<String> {
        let mut needles = vec![self.common.clone()];
        // Bytes as they are printed: as hexadecimal digits, and as a list of numbers.
        needles.push(self.common.bytes().map(|byte| format!("{byte:02x}")).collect());
        let numbers: Vec<String> = self.common.bytes().map(|byte| byte.to_string()).collect();
        needles.push(numbers.join(", "));
        needles.extend(self.others.iter().cloned());
        needles
    }

    /// The needles that are found, each with where.
    fn found_in(&self, text: &str) -> Vec<String> {
        let found = |needle: String| {
            let at = text.find(&needle)?;
            let begin = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let line: String = text[begin..].lines().next()?.chars().take(400).collect();
            Some(format!("{needle} in {line}"))
        };
        self.needles().into_iter().filter_map(found).collect()
    }
}
