//! Goal: what is erased is nowhere any more - not here, not at a neighbour who had it, not at one who was away, not at
//! the gateway - everybody says so, and every chain still verifies; what is taken back is shown to nobody and stays
//! at home. Method: three real processes, a canary in the text, and a search through their files that finds the
//! canary of a record that was not erased.

use crate::explain::{explain, folder, of, report, wuling};
use crate::fault_canary::{count, files};
use crate::harness::{A, ARRIVES, B, World, binary, converged, event, pull_all, until, views};
use domain::kernel::{RecordId, Role};
use domain::operation::Change;
use proto::device::v1::change::Subject;
use serde_json::json;
use std::process::Command;

const GONE: &str = "canaryofwhatgoes";
const LATE: &str = "canaryofwhatcomeslate";
const STAYS: &str = "canaryofwhatstays";

/// How often the folder of a process holds a text.
pub(crate) fn holds(world: &World, data: &str, canary: &str) -> usize {
    count(&files(&world.path(data)), canary.as_bytes())
}

pub(crate) fn erase(world: &World, record: RecordId) -> serde_json::Value {
    let (store, record) = (folder(world, A, "desk"), record.to_string());
    let words = ["erase", "--json", "--reason", "PRIVACY", "--store", store.to_str().unwrap()];
    wuling(&[&words[..], &[record.as_str()]].concat()).unwrap()
}

pub(crate) fn verified(world: &World, data: &str) -> bool {
    let data = world.path(data);
    let words = ["verify", "--data", data.to_str().unwrap()];
    Command::new(binary("wuling")).args(words).output().unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_nowhere_and_every_chain_still_verifies() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let stays = report(&mut phone, Change::ReportEvent(event(STAYS))).await;
    let gone = report(&mut phone, Change::ReportEvent(event(GONE))).await;
    until("both arrive", ARRIVES, async || views(desk_b.channel()).await == 2).await;
    assert!(holds(&world, "a", GONE) > 0 && holds(&world, "b", GONE) > 0);
    // The neighbour is away; what it has not got lies sealed at the gateway.
    world.b.stop().await;
    let late = report(&mut phone, Change::ReportEvent(event(LATE))).await;
    let store = folder(&world, A, "desk");
    until("it is at the gateway", ARRIVES, async || {
        let told = explain(store.to_str().unwrap(), late, &["--party", B]).unwrap();
        of(&told, B)["deliveries"][0]["state"] == "STORED"
    })
    .await;

    for record in [gone, late] {
        let told = erase(&world, record);
        assert_eq!((&told["confirmed"], &told["unconfirmed"]), (&json!([]), &json!([B])));
    }
    let list = || wuling(&["erasures", "--json", "--store", store.to_str().unwrap()]).unwrap();
    until("the gateway has deleted every packaging", ARRIVES, async || {
        let told = list();
        let told = told.as_array().unwrap();
        told.len() == 2 && told.iter().all(|of| of["gateways"] == json!(["gateway-1"]))
    })
    .await;
    until("it is gone at home", ARRIVES, async || {
        holds(&world, "a", GONE) + holds(&world, "a", LATE) == 0
    })
    .await;
    // Asked again, it was erased already; what never was is unknown.
    assert_eq!(erase(&world, gone)["unconfirmed"], json!([B]));
    let nobody = explain(store.to_str().unwrap(), gone, &[]).unwrap_err();
    assert!(nobody.contains("[RECORD_NOT_FOUND]"), "{nobody}");

    world.b.restart().await;
    until("the neighbour has signed that it is gone", ARRIVES, async || {
        let told = list();
        let told = told.as_array().unwrap();
        told.iter().all(|of| of["confirmed"] == json!([B]) && of["unconfirmed"] == json!([]))
    })
    .await;
    until("it is gone there", ARRIVES, async || {
        holds(&world, "b", GONE) + holds(&world, "b", LATE) == 0
    })
    .await;
    assert_eq!(views(desk_b.channel()).await, 1);
    for canary in [GONE, LATE] {
        assert_eq!(holds(&world, "gateway", canary), 0);
    }
    assert!(holds(&world, "a", STAYS) > 0 && holds(&world, "b", STAYS) > 0, "the search is blind");
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    let told = explain(store.to_str().unwrap(), stays, &["--party", B]).unwrap();
    assert_eq!(of(&told, B)["deliveries"][0]["state"], "APPLIED");

    // What comes after joins on, and the phone that sends again brings nothing back.
    let after = report(&mut phone, Change::ReportEvent(event("后来"))).await;
    until("what comes after arrives", ARRIVES, async || views(desk_b.channel()).await == 2).await;
    phone.sync().await.unwrap();
    assert!(phone.device.find_record(gone).unwrap().is_none(), "the phone forgot it too");
    assert!(phone.device.find_record(after).unwrap().is_some());
    world.stop().await;
    assert!(["a", "b", "gateway"].iter().all(|data| verified(&world, data)));
    for (data, canary) in [("a", GONE), ("a", LATE), ("b", GONE), ("b", LATE)] {
        assert_eq!(holds(&world, data, canary), 0, "{canary} in {data}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_leaves_everybody_and_stays_at_home() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let record = report(&mut phone, Change::ReportEvent(event(GONE))).await;
    until("it arrives", ARRIVES, async || views(desk_b.channel()).await == 1).await;
    assert!(holds(&world, "b", GONE) > 0);
    let store = folder(&world, A, "desk");
    let done = Command::new(binary("wuling"))
        .args(["withdraw", "--store", store.to_str().unwrap(), &record.to_string()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    until("it leaves", ARRIVES, async || {
        let changes = pull_all(desk_b.channel()).await;
        changes.iter().any(|change| match &change.subject {
            Some(Subject::Withdrawal(gone)) => gone.record_id == record.as_bytes().as_slice(),
            _ => false,
        })
    })
    .await;
    let told = explain(store.to_str().unwrap(), record, &["--party", B]).unwrap();
    let neighbour = of(&told, B);
    assert_eq!((&neighbour["standing"], &told["revision"]), (&json!("LEFT"), &json!(2)));
    until("its content is gone there", ARRIVES, async || holds(&world, "b", GONE) == 0).await;
    assert!(holds(&world, "a", GONE) > 0, "it stays at home");
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    // Only those who lead may; who patrols asks them.
    phone.sync().await.unwrap();
    let mine = report(&mut phone, Change::ReportEvent(event("另一处"))).await;
    let change = Change::Withdraw(domain::kernel::Kind::Event);
    let draft = device::Draft::changing(
        mine,
        change,
        domain::kernel::Clock::now(&runtime::clock::SystemClock),
    );
    phone.device.record(draft).unwrap();
    let refused = phone.push().await.unwrap();
    assert_eq!((refused.applied, refused.rejected.len()), (0, 1));
    world.stop().await;
    assert!(["a", "b"].iter().all(|data| verified(&world, data)));
}
