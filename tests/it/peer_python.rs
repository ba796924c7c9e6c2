//! A region that is not ours: a peer in Python, written from proto/EXCHANGE.md and the proto files alone,
//! exchanges records with ours through our gateway, both ways.

use crate::explain::{explain, folder, of, report};
use crate::harness::{
    A, ARRIVES, Python, World, batch, event, kept, pull_all, region, root, sos, until,
};
use cli::linkage::{self, Terms};
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::kernel::{Clock as _, Role};
use domain::operation::Change;
use prost::Message as _;
use proto::device::v1::change::Subject;
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::{Value, json};

/// The county whose server is the peer.
const PEER: &str = "pengshui";
/// Records that ours sends in one go, beside those it tells one by one.
const MANY: usize = 1_500;

/// Sets the peer up beside a running linkage: it makes its own keys, the authority lists it, and it signs the
/// agreement that ours has proposed and signed.
async fn join(world: &mut World, python: &Python) -> (String, String) {
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    let (dir, card, file) = (path("peer"), path("peer.card"), path("peer.signed"));
    python.done(&[
        "init",
        &dir,
        "--linkage",
        "wuling-test",
        "--region",
        PEER,
        "--level",
        "county",
        "--name-zh",
        "彭水县",
        "--name-en",
        "Pengshui",
        "--card",
        &card,
    ]);
    let now = SystemClock.now();
    let card = proto::convert::directory::decode(&std::fs::read(card).unwrap()).unwrap();
    let regions = card.regions.into_values().collect();
    let authority = world.path("authority");
    let directory = linkage::publish(&authority, regions, Vec::new(), now).unwrap();
    for process in [&mut world.a, &mut world.gateway] {
        process.stop().await;
    }
    for data in ["gateway", "a"] {
        linkage::install_trust(&authority, &world.path(data)).unwrap();
    }
    let clauses =
        [Grant::Sos, Grant::EventDetail].map(|grant| Clause::whole(grant, Release::AtOnce));
    let parties = vec![region(A), region(PEER)];
    let form = AgreementForm::Agreement;
    let terms = Terms::plain(form, "郁江联防".to_owned(), parties, clauses.to_vec());
    let mut object = linkage::propose(&directory, terms, now, &SystemEntropy).unwrap();
    linkage::sign_agreement(&mut object, &world.path("a"), &region(A)).unwrap();
    std::fs::write(&file, object.encode_to_vec()).unwrap();
    python.done(&["sign", &dir, &file]);
    let signed = std::fs::read(&file).unwrap();
    let object = proto::kernel::v1::SignedObject::decode(&signed[..]).unwrap();
    linkage::install_agreement(&object, &world.path("a"), &region(A), now).unwrap();
    for process in [&mut world.gateway, &mut world.a] {
        process.restart().await;
    }
    (dir, file)
}

#[test]
fn the_peer_computes_what_the_vectors_say() {
    let world = tempfile::tempdir().unwrap();
    let python = Python::in_folder(world.path(), "peers/python/wuling_peer.py");
    let vectors = root().join("services/seal/tests/vectors.json");
    let told = python.done(&["vectors", vectors.to_str().unwrap()]);
    assert!(told["checked"].as_u64().unwrap() > 10, "{told}");
    // The control: one digit of a file is another.
    let text = std::fs::read_to_string(vectors).unwrap();
    let at = text.find("\"chain\"").unwrap();
    let digit = at + text[at..].find("\"h\"").unwrap() + 8;
    let other = if &text[digit..=digit] == "0" { "1" } else { "0" };
    let broken = world.path().join("broken.json");
    std::fs::write(&broken, [&text[..digit], other, &text[digit + 1..]].concat()).unwrap();
    assert_eq!(python.run(&["vectors", broken.to_str().unwrap()]).0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_from_the_written_protocol_alone_exchanges_records_both_ways() {
    let mut world = World::start().await;
    let python = Python::new(&world, "peers/python/wuling_peer.py");
    let (dir, agreement) = join(&mut world, &python).await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    let event_id = report(&mut phone, Change::ReportEvent(event("桥头落石"))).await;
    let sos_id = report(&mut phone, Change::RaiseSos(sos("摔伤"))).await;
    let other = world.enrol(A, Role::Patroller, "other").await;
    let (request, records) = batch(&other, 1, MANY / 2);
    let mut service = cli::client::device_service(other.channel());
    assert_eq!(kept(&service.push(request).await.unwrap().into_inner(), &records).len(), MANY / 2);

    let theirs = world.path("theirs.jsonl");
    let theirs = theirs.to_str().unwrap();
    let lines = |texts: &[&str]| {
        let line = |text: &&str| json!({"category": "FLASH_FLOOD", "place": "郁山", "text": text, "lon": 108.4, "lat": 29.5});
        let text: Vec<_> = texts.iter().map(|text| line(text).to_string() + "\n").collect();
        std::fs::write(theirs, text.concat()).unwrap();
    };
    let trust = world.path("authority/trust");
    let endpoint = format!("127.0.0.1:{}", world.gateway.port);
    let words = |expect: &str| {
        let words = ["run", &dir, "--trust", trust.to_str().unwrap(), "--agreement", &agreement];
        let more = ["--gateway-endpoint", &endpoint, "--send", theirs, "--expect", expect];
        let all = [&words[..], &more, &["--seconds", "60"]].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |expect: &str| -> Value {
        let words = words(expect);
        python.done(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    lines(&["郁江水位上涨", "漫水桥已封"]);
    let expected = (MANY / 2 + 2).to_string();
    let told = tokio::task::block_in_place(|| run(&expected));
    let received = told["received"].as_array().unwrap();
    assert_eq!(received.len(), MANY / 2 + 2, "each once");
    let found = |id: &domain::kernel::RecordId| {
        let id = id.to_string().replace('-', "");
        let is_it = |view: &&Value| view["record_id"].as_str().unwrap().replace('-', "") == id;
        received.iter().find(is_it).cloned().unwrap_or_else(|| panic!("no {id}: {}", received[0]))
    };
    assert_eq!(
        (&found(&event_id)["text"], &found(&event_id)["unverified"]),
        (&json!("桥头落石"), &json!(true))
    );
    assert_eq!(found(&sos_id)["lane"], "LANE_ALERT");
    assert_eq!((&told["parked"], &told["alarms"]), (&json!([]), &json!([])), "{told}");
    assert_eq!((&told["sent"], &told["receipted"]), (&json!(2), &json!(2)));

    // Its receipts are ours to show, and its records are on our desk.
    let store = folder(&world, A, "desk");
    until("ours holds its receipt", ARRIVES, async || {
        let told = explain(store.to_str().unwrap(), event_id, &["--party", PEER]).unwrap();
        of(&told, PEER)["deliveries"][0]["state"] == "APPLIED"
    })
    .await;
    let texts = async || -> Vec<String> {
        let changes = pull_all(desk.channel()).await.into_iter();
        let views = changes.filter_map(|change| match change.subject {
            Some(Subject::View(view)) => view.view,
            _ => None,
        });
        let event = |view: proto::kernel::v1::View| proto::risk::v1::Event::decode(view.payload);
        views.map(|view| event(view).unwrap().text).collect()
    };
    assert_eq!(texts().await, ["郁江水位上涨", "漫水桥已封"]);

    // Started again it goes on where it was, with a gateway that was killed meanwhile.
    world.gateway.kill();
    let (request, records) = batch(&other, MANY as u64, MANY / 2);
    assert_eq!(kept(&service.push(request).await.unwrap().into_inner(), &records).len(), MANY / 2);
    lines(&["水位回落"]);
    let expected = (MANY + 2).to_string();
    let words = words(&expected);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let running = python.command(&words).stdout(std::process::Stdio::piped()).spawn().unwrap();
    world.gateway.restart().await;
    let output = tokio::task::block_in_place(|| running.wait_with_output()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8(output.stdout).unwrap();
    let told: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(told["received"].as_array().unwrap().len(), MANY + 2, "each once");
    assert_eq!(told["alarms"], json!([]));
    until("the third is there", ARRIVES, async || texts().await.len() == 3).await;
    assert_eq!(texts().await, ["郁江水位上涨", "漫水桥已封", "水位回落"]);
    world.stop().await;
}
