//! Goal: a record has one owner at any time, whoever hands it to whom and whatever fails meanwhile; who is shown it
//! follows it from owner to owner, and nobody believes who only says that it is his. Method: three real processes,
//! four regions' desks, the neighbour away at the worst moments, and a search through all files after the new owner has
//! erased it.

use crate::erasure::{holds, verified};
use crate::explain::{accept, explain, folder, report, transition, wuling};
use crate::harness::{
    A, ARRIVES, B, COUNTY, World, agree, converged, event, pull_all, set_up, until,
};
use cli::phone::Phone;
use device::Draft;
use domain::agreement::{AgreementForm, Grant, Release};
use domain::kernel::{Clock as _, RecordId, Role};
use domain::operation::Change;
use domain::risk::EventVerb;
use proto::device::v1::change::Subject;
use proto::risk::v1 as risk;
use proto::risk::v1::risk_service_client::RiskServiceClient;
use runtime::clock::SystemClock;
use serde_json::{Value, json};
use tonic::Status;

const CANARY: &str = "canaryofwhatchangeshands";

/// Runs `wuling transfer` at a desk.
fn transfer(world: &World, id: &str, words: &[&str]) -> Result<Value, String> {
    let store = folder(world, id, "desk");
    let all = [&["transfer", words[0], "--json", "--store", store.to_str().unwrap()], &words[1..]];
    wuling(&all.concat())
}

fn offer(world: &World, id: &str, record: RecordId, to: &str) -> Result<Value, String> {
    transfer(world, id, &["offer", "--to", to, &record.to_string()])
}

/// How the newest offer stands at a desk.
fn newest(world: &World, id: &str) -> Value {
    transfer(world, id, &["list"]).unwrap()[0].clone()
}

async fn stands(world: &World, id: &str, state: &str) -> String {
    until(&format!("{id} knows that it is {state}"), ARRIVES, async || {
        newest(world, id)["state"] == state
    })
    .await;
    newest(world, id)["offer"].as_str().unwrap().to_owned()
}

/// The event as a desk gets it of an owner.
async fn of_owner(
    desk: &Phone,
    record: RecordId,
    owner: &str,
) -> Result<risk::EventRecord, Status> {
    let request = risk::GetEventRequest {
        record_id: record.as_bytes().to_vec().into(),
        owner_region: owner.to_owned(),
        purpose: 1,
    };
    let mut service = RiskServiceClient::new(desk.channel().clone());
    Ok(service.get_event(request).await?.into_inner().event.unwrap())
}

/// Who owns the events that a desk lists.
async fn owners(desk: &Phone) -> Vec<String> {
    let request = risk::ListEventsRequest { purpose: 1, ..Default::default() };
    let mut service = RiskServiceClient::new(desk.channel().clone());
    let events = service.list_events(request).await.unwrap().into_inner().events;
    events.into_iter().map(|event| event.meta.unwrap().owner_region).collect()
}

async fn try_transition(desk: &Phone, record: RecordId, verb: risk::EventVerb) -> Status {
    let id = domain::kernel::OperationId::mint(SystemClock.now(), &runtime::clock::SystemEntropy);
    let request = risk::TransitionEventRequest {
        request_id: id.as_bytes().to_vec().into(),
        record_id: record.as_bytes().to_vec().into(),
        verb: verb.into(),
        ..Default::default()
    };
    RiskServiceClient::new(desk.channel().clone()).transition_event(request).await.unwrap_err()
}

fn cancelling(record: RecordId) -> Draft {
    let change =
        Change::Event { verb: EventVerb::Cancel, level: None, handling_unit: String::new() };
    Draft::changing(record, change, SystemClock.now())
}

/// Three processes, where the county and the neighbour have an agreement too.
async fn start() -> World {
    let dir = tempfile::tempdir().unwrap();
    set_up(dir.path()).await;
    let now = SystemClock.now();
    let directory = cli::linkage::read_directory(&dir.path().join("a"), now).unwrap();
    let clauses = [(Grant::EventDetail, Release::AtOnce)];
    agree(dir.path(), &directory, AgreementForm::Agreement, [COUNTY, B], &clauses, now);
    World::start_as_is(dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_changes_its_owner_and_all_who_see_it_follow() {
    let mut world = start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let county = world.enrol(COUNTY, Role::DutyOfficer, "desk").await;
    let record = report(&mut phone, Change::ReportEvent(event(CANARY))).await;
    accept(&desk_a, record).await;
    until("the county sees the township's", ARRIVES, async || owners(&county).await == [A]).await;

    let offered = offer(&world, A, record, B).unwrap();
    assert_eq!((&offered["state"], &offered["direction"]), (&json!("OFFERED"), &json!("OUT")));
    assert_eq!(
        offer(&world, A, record, B).unwrap(),
        offered,
        "offered again, it is the same offer"
    );
    // While nobody knows whose it is nobody changes it; what a phone did waits.
    let refused = try_transition(&desk_a, record, risk::EventVerb::File).await;
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    phone.device.record(cancelling(record)).unwrap();
    let held = phone.push().await.unwrap();
    assert_eq!((held.applied, held.rejected.len()), (0, 0));

    let named = stands(&world, B, "OFFERED").await;
    assert_eq!(offered["offer"], json!(named));
    let taken = transfer(&world, B, &["accept", &named[..12]]).unwrap();
    assert_eq!(taken["state"], "ACCEPTED");
    assert_eq!(transfer(&world, B, &["accept", &named]).unwrap()["state"], "ACCEPTED");
    stands(&world, A, "ACCEPTED").await;
    until("it is the neighbour's everywhere", ARRIVES, async || {
        owners(&county).await == [B] && owners(&desk_a).await == [B] && owners(&desk_b).await == [B]
    })
    .await;
    let at_home = of_owner(&desk_a, record, B).await.unwrap();
    let meta = at_home.meta.unwrap();
    assert_eq!((&*meta.birth_region, &*meta.owner_region), (A, B));
    assert_eq!((meta.revision.unwrap().t, meta.transfers.len()), (1, 1));
    assert!(of_owner(&desk_a, record, A).await.is_err(), "it is not the township's any more");
    // Who had it on a phone hears that it is gone, and what waited is refused.
    phone.sync().await.unwrap();
    assert!(phone.device.find_record(record).unwrap().is_none());
    let store = folder(&world, A, "desk");
    let nobody = explain(store.to_str().unwrap(), record, &[]).unwrap_err();
    assert!(nobody.contains("[NOT_THE_OWNER]"), "{nobody}");
    assert!(explain(store.to_str().unwrap(), record, &["--owner", B]).is_ok());
    let late = try_transition(&desk_a, record, risk::EventVerb::File).await;
    assert_eq!(late.code(), tonic::Code::PermissionDenied, "{late}");

    // The new owner goes on with it, and all see that.
    transition(&desk_b, record, risk::EventVerb::File).await;
    until("its next revision is everywhere", ARRIVES, async || {
        let mut states = Vec::new();
        for desk in [&desk_a, &county] {
            states.push(of_owner(desk, record, B).await.unwrap().event.unwrap().state);
        }
        states.iter().all(|state| *state == risk::EventState::Filed as i32)
    })
    .await;
    // Handed back, it has changed hands twice.
    offer(&world, B, record, A).unwrap();
    let named = stands(&world, A, "OFFERED").await;
    transfer(&world, A, &["accept", &named]).unwrap();
    until("it is the township's again", ARRIVES, async || {
        owners(&county).await == [A] && owners(&desk_b).await == [A]
    })
    .await;
    let meta = of_owner(&county, record, A).await.unwrap().meta.unwrap();
    assert_eq!((meta.revision.unwrap().t, meta.transfers.len()), (2, 2));
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    world.stop().await;
    assert!(["a", "b", "gateway"].iter().all(|data| verified(&world, data)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_owner_erases_is_gone_where_it_came_from_too() {
    let mut world = start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    world.enrol(B, Role::DutyOfficer, "desk").await;
    let county = world.enrol(COUNTY, Role::DutyOfficer, "desk").await;
    let record = report(&mut phone, Change::ReportEvent(event(CANARY))).await;
    accept(&desk_a, record).await;
    until("the county sees it", ARRIVES, async || owners(&county).await == [A]).await;
    offer(&world, A, record, B).unwrap();
    let store = folder(&world, A, "desk");
    let early = ["erase", "--json", "--reason", "PRIVACY", "--store", store.to_str().unwrap()];
    let early = wuling(&[&early[..], &[&record.to_string()]].concat()).unwrap_err();
    assert!(early.contains("[RECORD_OFFERED]"), "{early}");
    let named = stands(&world, B, "OFFERED").await;
    transfer(&world, B, &["accept", &named]).unwrap();
    until("the county sees the neighbour's", ARRIVES, async || owners(&county).await == [B]).await;
    assert!(holds(&world, "a", CANARY) > 0 && holds(&world, "b", CANARY) > 0);

    let store = folder(&world, B, "desk");
    let words = ["erase", "--json", "--reason", "PRIVACY", "--store", store.to_str().unwrap()];
    wuling(&[&words[..], &[&record.to_string()]].concat()).unwrap();
    until("it is nowhere", ARRIVES, async || {
        ["a", "b", "gateway"].iter().all(|data| holds(&world, data, CANARY) == 0)
    })
    .await;
    assert!(owners(&county).await.is_empty() && owners(&desk_a).await.is_empty());
    let store = folder(&world, A, "desk");
    until("the parties of its former owner have signed for that", ARRIVES, async || {
        let told = wuling(&["erasures", "--json", "--store", store.to_str().unwrap()]).unwrap();
        told[0]["confirmed"] == json!([COUNTY, B]) || told[0]["confirmed"] == json!([B, COUNTY])
    })
    .await;
    world.stop().await;
    assert!(["a", "b", "gateway"].iter().all(|data| verified(&world, data)));
    for data in ["a", "b", "gateway"] {
        assert_eq!(holds(&world, data, CANARY), 0, "{data}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_returned_or_recalled_stays_with_its_owner_and_the_first_to_decide_counts() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::DutyOfficer, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let record = report(&mut phone, Change::ReportEvent(event("界河漂浮物"))).await;
    // Returned: its owner goes on, and what its phone did meanwhile is done now.
    offer(&world, A, record, B).unwrap();
    phone.device.record(cancelling(record)).unwrap();
    assert_eq!(phone.push().await.unwrap().applied, 0);
    let named = stands(&world, B, "OFFERED").await;
    let taken = transfer(&world, B, &["return", "--reason", "NOT_COMPETENT", &named]).unwrap();
    assert_eq!(taken["state"], "RETURNED");
    let late = transfer(&world, B, &["accept", &named]).unwrap_err();
    assert!(late.contains("[OFFER_DECIDED]"), "{late}");
    stands(&world, A, "RETURNED").await;
    assert_eq!(newest(&world, A)["return_reason"], "NOT_COMPETENT");
    // With whatever the phone sends next, and else within a minute.
    let recalled = report(&mut phone, Change::ReportEvent(event("界碑倾斜"))).await;
    let done = of_owner(&desk_a, record, A).await.unwrap().event.unwrap();
    assert_eq!(done.state, risk::EventState::Cancelled as i32);
    let over = offer(&world, A, record, B).unwrap_err();
    assert!(over.contains("[TRANSFER_NOT_GRANTED]"), "{over}");

    // Recalled while the other is away: known once it is back, with nothing done there.
    let record = recalled;
    offer(&world, A, record, B).unwrap();
    stands(&world, B, "OFFERED").await;
    world.b.stop().await;
    let named = newest(&world, A)["offer"].as_str().unwrap().to_owned();
    assert_eq!(transfer(&world, A, &["recall", &named]).unwrap()["state"], "RECALLED");
    let refused = try_transition(&desk_a, record, risk::EventVerb::Accept).await;
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "not known yet: {refused}");
    world.a.kill();
    world.a.restart().await;
    world.b.restart().await;
    stands(&world, A, "RETURNED").await;
    assert_eq!(newest(&world, A)["return_reason"], "RECALLED");
    let late = transfer(&world, B, &["accept", &named]).unwrap_err();
    assert!(late.contains("[OFFER_DECIDED]"), "{late}");
    accept(&desk_a, record).await;

    // Recalled and accepted while the line is cut: the other was first to decide, and both come to know.
    offer(&world, A, record, B).unwrap();
    let named = stands(&world, B, "OFFERED").await;
    world.line.cut();
    transfer(&world, B, &["accept", &named]).unwrap();
    transfer(&world, A, &["recall", &named]).unwrap();
    world.line.heal();
    stands(&world, A, "ACCEPTED").await;
    until("one owner is left", ARRIVES, async || {
        owners(&desk_b).await.contains(&B.to_owned())
            && of_owner(&desk_a, record, A).await.is_err()
            && of_owner(&desk_b, record, B).await.is_ok()
    })
    .await;
    let feed = pull_all(desk_b.channel()).await;
    let own = feed.iter().filter(|change| match &change.subject {
        Some(Subject::Record(own)) => own.meta.as_ref().unwrap().record_id == record.as_bytes()[..],
        _ => false,
    });
    assert_eq!(own.count(), 1);
    assert_eq!(newest(&world, B)["state"], "ACCEPTED");
    world.stop().await;
    assert!(["a", "b", "gateway"].iter().all(|data| verified(&world, data)));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_an_agreement_grants_changes_hands_and_only_by_who_may() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    world.enrol(A, Role::DutyOfficer, "desk").await;
    world.enrol(B, Role::DutyOfficer, "desk").await;
    world.enrol(COUNTY, Role::DutyOfficer, "desk").await;
    let record = report(&mut phone, Change::ReportEvent(event("塌方"))).await;
    for (to, reason) in [
        (COUNTY, "[TRANSFER_NOT_GRANTED]"),
        ("nowhere", "[REGION_UNKNOWN]"),
        (A, "[FIELD_INVALID]"),
    ] {
        let refused = offer(&world, A, record, to).unwrap_err();
        assert!(refused.contains(reason), "{to}: {refused}");
    }
    // A call for help is its region's, and so is what is not its own.
    let help = report(&mut phone, Change::RaiseSos(crate::harness::sos("滑坠"))).await;
    let refused = offer(&world, A, help, B).unwrap_err();
    assert!(refused.contains("[TRANSFER_NOT_GRANTED]"), "{refused}");
    let refused = offer(&world, B, record, A).unwrap_err();
    assert!(refused.contains("[RECORD_NOT_FOUND]"), "{refused}");
    let store = folder(&world, A, "phone");
    let words = ["transfer", "offer", "--store", store.to_str().unwrap(), "--to", B];
    let refused = wuling(&[&words[..], &[&record.to_string()]].concat()).unwrap_err();
    assert!(refused.contains("[ROLE_FORBIDDEN]"), "{refused}");
    // To one at a time.
    offer(&world, A, record, B).unwrap();
    let refused = offer(&world, A, record, COUNTY).unwrap_err();
    assert!(refused.contains("[RECORD_OFFERED]"), "{refused}");
    world.stop().await;
}
