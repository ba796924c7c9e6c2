//! A region that is not ours: a peer in Python, written from proto/EXCHANGE.md and the proto files alone,
//! exchanges records with ours through our gateway, both ways, and erases what ours has erased.

use crate::explain::{explain, folder, of, report, wuling};
use crate::fault_canary::{count, files};
use crate::harness::{
    A, ARRIVES, Python, World, batch, event, kept, pull_all, region, root, sos, states, until,
};
use cli::authority::Authority;
use cli::linkage::{self, Terms, hex};
use cli::phone::Phone;
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::kernel::{Clock as _, Purpose, RecordId, Role};
use domain::operation::Change;
use prost::Message as _;
use proto::agreement::v1 as agreement;
use proto::device::v1::change::Subject;
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::{Value, json};
use std::path::Path;
use tonic::transport::Channel;

/// The county whose server is the peer.
const PEER: &str = "pengshui";
/// Records that ours sends in one go, beside those it tells one by one.
const MANY: usize = 1_500;
/// What is erased in the end, and what is not.
const GONE: &str = "canaryofwhatgoes";
const STAYS: &str = "canaryofwhatstays";

/// The peer beside a running linkage.
struct Peer<'a> {
    python: &'a Python,
    /// Its folder.
    dir: String,
    /// The agreement, signed by both.
    agreement: String,
    /// What it writes down.
    theirs: String,
    trust: String,
    endpoint: String,
}

impl Peer<'_> {
    /// The words with which it runs until it holds so many views.
    fn words(&self, views: usize) -> Vec<String> {
        let Self { dir, agreement, theirs, trust, endpoint, .. } = self;
        let words = ["run", dir, "--trust", trust, "--agreement", agreement, "--send", theirs];
        let views = views.to_string();
        let more = ["--gateway-endpoint", endpoint, "--expect", &views, "--seconds", "60"];
        words.iter().chain(&more).map(|word| (*word).to_owned()).collect()
    }

    fn run(&self, views: usize) -> Value {
        let words = self.words(views);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        tokio::task::block_in_place(|| self.python.done(&words))
    }

    fn writes_down(&self, texts: &[&str]) {
        let line = |text: &&str| json!({"category": "FLASH_FLOOD", "place": "郁山", "text": text, "lon": 108.4, "lat": 29.5});
        let text: Vec<_> = texts.iter().map(|text| line(text).to_string() + "\n").collect();
        std::fs::write(&self.theirs, text.concat()).unwrap();
    }

    /// How often its folder holds a text.
    fn holds(&self, canary: &str) -> usize {
        count(&files(self.dir.as_ref()), canary.as_bytes())
    }
}

/// Sets the peer up beside a running linkage: it makes its own keys, the authority lists it, and it signs the
/// agreement that ours has proposed and signed.
async fn join<'a>(world: &mut World, python: &'a Python) -> Peer<'a> {
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    let (dir, card, file) = (path("peer"), path("peer.card"), path("peer.signed"));
    let (theirs, trust) = (path("theirs.jsonl"), path("authority/trust"));
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
    let signer = Authority::open(&authority, now).unwrap();
    let signer = signer.publish(regions, Vec::new(), now).unwrap();
    let directory = &signer.trust().directory;
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
    let mut object = linkage::propose(directory, terms, now, &SystemEntropy).unwrap();
    linkage::sign_agreement(&mut object, &world.path("a"), &region(A)).unwrap();
    std::fs::write(&file, object.encode_to_vec()).unwrap();
    python.done(&["sign", &dir, &file]);
    let signed = std::fs::read(&file).unwrap();
    let object = proto::kernel::v1::SignedObject::decode(&signed[..]).unwrap();
    linkage::install_agreement(&object, &world.path("a"), &region(A), now).unwrap();
    for process in [&mut world.gateway, &mut world.a] {
        process.restart().await;
    }
    let endpoint = format!("127.0.0.1:{}", world.gateway.port);
    Peer { python, dir, agreement: file, theirs, trust, endpoint }
}

#[test]
fn the_peer_computes_what_the_vectors_say() {
    let world = tempfile::tempdir().unwrap();
    let python = Python::in_folder(world.path(), "peers/python/vectors.py");
    let vectors = root().join("services/seal/tests/vectors.json");
    let told = python.done(&[vectors.to_str().unwrap()]);
    assert!(told["checked"].as_u64().unwrap() > 10, "{told}");
    // The control: one digit of a file is another.
    let text = std::fs::read_to_string(vectors).unwrap();
    let at = text.find("\"chain\"").unwrap();
    let digit = at + text[at..].find("\"h\"").unwrap() + 8;
    let other = if &text[digit..=digit] == "0" { "1" } else { "0" };
    let broken = world.path().join("broken.json");
    std::fs::write(&broken, [&text[..digit], other, &text[digit + 1..]].concat()).unwrap();
    let refused = python.command(&[broken.to_str().unwrap()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("FIELD_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_from_the_written_protocol_alone_exchanges_records_both_ways() {
    let mut world = World::start().await;
    let python = Python::new(&world, "peers/python/wuling_peer.py");
    let peer = join(&mut world, &python).await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    let event_id = report(&mut phone, Change::ReportEvent(event(GONE))).await;
    let sos_id = report(&mut phone, Change::RaiseSos(sos(STAYS))).await;
    let other = world.enrol(A, Role::Patroller, "other").await;
    let (request, records) = batch(&other, 1, MANY / 2);
    let mut service = cli::client::device_service(other.channel());
    assert_eq!(kept(&service.push(request).await.unwrap().into_inner(), &records).len(), MANY / 2);

    peer.writes_down(&["郁江水位上涨", "漫水桥已封"]);
    let told = peer.run(MANY / 2 + 2);
    let received = told["received"].as_array().unwrap();
    assert_eq!(received.len(), MANY / 2 + 2, "each once");
    let found = |id: &RecordId| {
        let id = id.to_string().replace('-', "");
        let is_it = |view: &&Value| view["record_id"].as_str().unwrap().replace('-', "") == id;
        received.iter().find(is_it).cloned().unwrap_or_else(|| panic!("no {id}: {}", received[0]))
    };
    assert_eq!(
        (&found(&event_id)["text"], &found(&event_id)["unverified"]),
        (&json!(GONE), &json!(true))
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
    peer.writes_down(&["水位回落"]);
    let words = peer.words(MANY + 2);
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
    what_ours_erases_the_peer_erases(&peer, &desk, &store, event_id).await;
    world.stop().await;
}

/// The peer is away when ours erases a record that it holds; it runs again.
async fn what_ours_erases_the_peer_erases(
    peer: &Peer<'_>,
    desk: &Phone,
    store: &Path,
    record: RecordId,
) {
    assert!(peer.holds(GONE) > 0 && peer.holds(STAYS) > 0);
    let (store, id) = (store.to_str().unwrap(), record.to_string());
    let words = ["erase", "--json", "--reason", "PRIVACY", "--store", store, &id];
    let among = |told: &Value, list: &str| told[list].as_array().unwrap().contains(&json!(PEER));
    assert!(among(&wuling(&words).unwrap(), "unconfirmed"));
    let list = || wuling(&["erasures", "--json", "--store", store]).unwrap()[0].clone();
    until("the gateway has deleted every packaging", ARRIVES, async || {
        list()["gateways"] == json!(["gateway-1"])
    })
    .await;
    assert!(among(&list(), "unconfirmed") && peer.holds(GONE) > 0, "it is away");

    let told = peer.run(MANY + 1);
    let received = told["received"].as_array().unwrap();
    assert_eq!(received.len(), MANY + 1);
    let id = id.replace('-', "");
    assert!(received.iter().all(|view| view["record_id"].as_str().unwrap() != id));
    assert_eq!((&told["parked"], &told["alarms"]), (&json!([]), &json!([])), "{told}");
    assert_eq!(peer.holds(GONE), 0);
    assert!(peer.holds(STAYS) > 0, "the search is blind");
    until("it has signed that it is gone", ARRIVES, async || {
        let told = list();
        among(&told, "confirmed") && !among(&told, "unconfirmed")
    })
    .await;

    // Both sides say the same of every stream; the one of the erased record is among them.
    let streams = states(desk.channel()).await.unwrap().streams.into_iter();
    let streams = streams.filter_map(|row| Some((row.stream?, row.party_region)));
    let both = streams.filter(|(stream, party)| stream.origin_region == PEER || party == PEER);
    let streams: Vec<_> = both.map(|(stream, _)| stream).collect();
    assert_eq!(streams.len(), told["digests"].as_object().unwrap().len());
    for stream in streams {
        let label = label(&stream);
        let digest = hex(&digest(desk.channel(), stream).await);
        assert_eq!(told["digests"][&label], json!(digest), "{label}");
    }
}

/// What the peer calls a stream.
fn label(stream: &agreement::StreamKey) -> String {
    let lane = stream.lane().as_str_name().trim_start_matches("LANE_");
    let (epoch, id) = (hex(&stream.epoch), hex(&stream.agreement_id));
    format!("{}/{epoch}/{id}/{}/{lane}", stream.origin_region, stream.agreement_version)
}

/// What ours says that it holds of a stream.
async fn digest(channel: &Channel, stream: agreement::StreamKey) -> bytes::Bytes {
    let purpose = Purpose::Operation.code();
    let request = agreement::GetStreamDigestRequest { stream: Some(stream), purpose };
    let mut service = cli::client::agreement_service(channel);
    service.get_stream_digest(request).await.unwrap().into_inner().digest
}
