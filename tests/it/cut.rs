//! Goal: what a thief of a county's keys has written is shown to nobody, once the county is revoked with a cut that its
//! neighbour's receipts of before give; what was shown before is shown again, on phones too; a person brings back what
//! proves right; and all of it is still there, so that the chains verify. Method: three real processes and the commands
//! that people type. Control: the same with a revocation without a cut, after which all stays as it was.

use crate::erasure::verified;
use crate::explain::{accept, explain, folder, report, wuling};
use crate::harness::{
    A, ARRIVES, B, World, binary, event, metrics, pull_all, region, sos, until, value,
};
use crate::trust::{HEARD, open, publish};
use cli::phone::Phone;
use domain::freshness::{Cut, Member};
use domain::kernel::{Clock as _, Kind, Purpose, Reason, RecordId, Role};
use domain::operation::Change;
use domain::quarantine::ReleaseReason;
use proto::agreement::v1 as pb;
use proto::device::v1::change::Subject;
use proto::patrol::v1::ListSosAlertsRequest;
use proto::patrol::v1::patrol_service_client::PatrolServiceClient;
use proto::risk::v1::ListEventsRequest;
use proto::risk::v1::risk_service_client::RiskServiceClient;
use runtime::clock::SystemClock;
use rusqlite::Connection;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use tonic_types::StatusExt as _;

/// Of each record its revision, and whether it is marked 未核实.
type Seen = BTreeMap<RecordId, (u64, bool)>;

/// A county that is taken over, and its neighbour's people.
struct Stolen {
    world: World,
    desk: Phone,
    phone: Phone,
    /// What the neighbour had signed for before.
    receipts: PathBuf,
    /// Reported before, accepted by the thief.
    changed: RecordId,
    /// Reported by the thief.
    made: RecordId,
    help: RecordId,
}

impl Stolen {
    /// Two records from before, of which one the thief then accepts; and from him a report and a call for help.
    async fn new() -> Self {
        let world = World::start().await;
        let mut thief = world.enrol(B, Role::Patroller, "phone").await;
        let officer = world.enrol(B, Role::DutyOfficer, "desk").await;
        let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
        let phone = world.enrol(A, Role::Patroller, "phone").await;
        let changed = report(&mut thief, Change::ReportEvent(event("先前"))).await;
        report(&mut thief, Change::ReportEvent(event("先前之二"))).await;
        until("both arrive", ARRIVES, async || seen(&desk).await.len() == 2).await;
        let receipts = world.path("receipts");
        let (data, out) = (world.path("a"), receipts.to_str().unwrap());
        let words = ["region", "receipts", "--data", data.to_str().unwrap(), "--region", A];
        let said = run(&[&words[..], &["--of", B, "--out", out]].concat());
        assert!(said.contains("for 1 streams"), "{said}");
        let early = ["--of", B, "--before", "2026-01-01T00:00:00+08:00", "--out", out];
        assert!(refused(&[&words[..], &early].concat()).contains("had received nothing"));

        accept(&officer, changed).await;
        let made = report(&mut thief, Change::ReportEvent(event("窃取之后"))).await;
        let help = report(&mut thief, Change::RaiseSos(sos("窃取之后"))).await;
        let mut stolen = Self { world, desk, phone, receipts, changed, made, help };
        until("all arrives", ARRIVES, async || stolen.is_as_the_thief_left_it().await).await;
        stolen.phone.sync().await.unwrap();
        assert_eq!(stolen.on_the_phone(), seen(&stolen.desk).await);
        stolen
    }

    async fn is_as_the_thief_left_it(&self) -> bool {
        let seen = seen(&self.desk).await;
        let all = seen.len() == 3 && seen.get(&self.changed) == Some(&(2, false));
        all && seen.contains_key(&self.made) && calls_for_help(&self.desk).await == 1
    }

    /// Only what was there before, as it was then.
    async fn is_as_before(&mut self) -> bool {
        let seen = seen(&self.desk).await;
        let before = seen.len() == 2 && seen.get(&self.changed) == Some(&(1, true));
        self.phone.sync().await.unwrap();
        before && calls_for_help(&self.desk).await == 0 && self.on_the_phone() == seen
    }

    fn on_the_phone(&self) -> Seen {
        let views = self.phone.device.list_views(Kind::Event, None, 99).unwrap().into_iter();
        let views = views.map(|view| view.view.unwrap());
        views.map(|view| of(view.meta.unwrap(), view.unverified)).collect()
    }

    /// Revokes the county as its authority does.
    async fn revoke(&self, words: &[&str]) {
        let dir = self.world.path("authority");
        let dir = dir.to_str().unwrap();
        run(&[&["authority", "revoke", "--dir", dir, "--region", B], words].concat());
        publish(&self.world, &open(&self.world)).await;
    }

    /// Has the authority say how far the county is believed.
    async fn cut(&self, cut: Option<Cut>) {
        let signer = open(&self.world).cut(&region(B), cut, SystemClock.now()).unwrap();
        publish(&self.world, &signer).await;
    }

    fn explained(&self, record: RecordId) -> Vec<serde_json::Value> {
        let store = folder(&self.world, A, "desk");
        let told = explain(store.to_str().unwrap(), record, &["--owner", B]).unwrap();
        let sharings = told["sharings"].as_array().unwrap().iter();
        sharings.map(|sharing| sharing["standing"].clone()).collect()
    }

    fn quarantined(&self) -> usize {
        let store = folder(&self.world, A, "desk");
        let words = ["quarantine", "list", "--json", "--store", store.to_str().unwrap()];
        wuling(&words).unwrap().as_array().unwrap().len()
    }
}

fn output(words: &[&str]) -> std::process::Output {
    Command::new(binary("wuling")).args(words).output().unwrap()
}

fn run(words: &[&str]) -> String {
    let done = output(words);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn refused(words: &[&str]) -> String {
    let done = output(words);
    assert!(!done.status.success());
    String::from_utf8(done.stderr).unwrap()
}

fn of(meta: proto::kernel::v1::RecordMeta, unverified: bool) -> (RecordId, (u64, bool)) {
    let record = RecordId::from_slice(&meta.record_id).unwrap();
    (record, (meta.revision.unwrap().n, unverified))
}

/// The neighbour's events as a desk lists them.
async fn seen(desk: &Phone) -> Seen {
    let purpose = Purpose::Duty.code();
    let request = ListEventsRequest { page_size: 0, page_token: String::new(), purpose };
    let mut service = RiskServiceClient::new(desk.channel().clone());
    let events = service.list_events(request).await.unwrap().into_inner().events.into_iter();
    events.map(|event| of(event.meta.unwrap(), event.shared_from[0].unverified)).collect()
}

async fn calls_for_help(desk: &Phone) -> usize {
    let purpose = Purpose::Duty.code();
    let request = ListSosAlertsRequest { page_size: 0, page_token: String::new(), purpose };
    let mut service = PatrolServiceClient::new(desk.channel().clone());
    service.list_sos_alerts(request).await.unwrap().into_inner().sos_alerts.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_thief_wrote_is_shown_to_nobody_and_what_was_before_is_shown_again() {
    let mut stolen = Stolen::new().await;
    let receipts = stolen.receipts.display().to_string();
    stolen.revoke(&["--cut", &receipts]).await;
    until("what was before is shown again", HEARD, async || stolen.is_as_before().await).await;
    // Who reads all from the start gets the same; the thief's words are in none of it.
    for change in pull_all(stolen.desk.channel()).await {
        if let Some(Subject::View(view)) = &change.subject {
            let view = view.view.as_ref().unwrap();
            let words = String::from_utf8_lossy(&view.payload).into_owned();
            assert!(!words.contains("窃取之后") && view.unverified, "{words}");
        }
    }
    let standings = |record| stolen.explained(record);
    assert_eq!(standings(stolen.changed), ["SHOWN", "QUARANTINED"]);
    assert_eq!(standings(stolen.made), ["QUARANTINED"]);
    // Nothing of this lane was signed for: it is void from its start.
    assert_eq!(standings(stolen.help), ["QUARANTINED"]);
    assert_eq!(stolen.quarantined(), 3);
    let log = stolen.world.a.log_text();
    let alarm = |line: &str| line.contains("alarm") && line.contains("RECORD_QUARANTINED");
    assert!(log.lines().any(alarm), "{log}");

    // One of them proves right.
    let store = folder(&stolen.world, A, "desk");
    let (store, record) = (store.to_str().unwrap(), stolen.changed.to_string());
    let words = ["quarantine", "release", "--store", store, "--owner", B, "--reason", "SEEN"];
    let words = [&words[..], &[record.as_str()]].concat();
    assert!(run(&words).contains("1 views released"));
    assert!(refused(&words).contains("[NOT_QUARANTINED]"));
    // As the thief left it, but marked: no officer of the owner's speaks for it here.
    let released = async |stolen: &mut Stolen| {
        let seen = seen(&stolen.desk).await;
        stolen.phone.sync().await.unwrap();
        seen.len() == 2
            && seen.get(&stolen.changed) == Some(&(2, true))
            && stolen.on_the_phone() == seen
            && calls_for_help(&stolen.desk).await == 0
    };
    assert!(released(&mut stolen).await);
    assert_eq!(stolen.explained(stolen.changed), ["SHOWN"]);

    // It stays so when the authority speaks again, and after a restart.
    let signer = open(&stolen.world).freshen(SystemClock.now()).unwrap();
    publish(&stolen.world, &signer).await;
    let ports = stolen.world.observe("info", None).await;
    assert!(released(&mut stolen).await);
    assert_eq!(stolen.quarantined(), 2);
    let metrics = metrics(ports.a).await;
    let labels = [&format!("region=\"{A}\"")[..], &format!("peer=\"{B}\"")];
    assert_eq!(value(&metrics, "wuling_inbox_quarantined_views", &labels), Some(2.0), "{metrics}");
    stolen.world.stop().await;
    assert!(verified(&stolen.world, "a"), "all of it is still there");
    let path = stolen.world.path("a/regions").join(A).join("store.sqlite");
    let looks = "SELECT group_concat(method) FROM (SELECT method FROM disclosure WHERE method LIKE '%Quarantined')";
    let looks: String =
        Connection::open(path).unwrap().query_row(looks, [], |row| row.get(0)).unwrap();
    let [list, release] = ["ListQuarantined", "ReleaseQuarantined"];
    assert_eq!(looks, [list, release, release, list].join(","), "each is on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cut_what_came_before_the_revocation_stays() {
    let mut stolen = Stolen::new().await;
    stolen.revoke(&[]).await;
    until("it is told that it was revoked", HEARD, async || {
        stolen.world.b.log_text().contains("REGION_REVOKED")
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(stolen.is_as_the_thief_left_it().await);
    assert_eq!((stolen.quarantined(), stolen.explained(stolen.made)), (0, vec![json!("SHOWN")]));
    // Said later it bites all the same.
    let receipts = stolen.receipts.display().to_string();
    stolen.revoke(&["--cut", &receipts]).await;
    until("what was before is shown again", HEARD, async || stolen.is_as_before().await).await;
    stolen.world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_is_quarantined_whole_and_a_better_receipt_lets_it_out() {
    let mut stolen = Stolen::new().await;
    let files = [stolen.receipts.clone()];
    let signed_for = cli::cut::cut(open(&stolen.world).trust(), &region(B), &files).unwrap();
    let nothing = async |stolen: &mut Stolen| {
        stolen.phone.sync().await.unwrap();
        seen(&stolen.desk).await.is_empty() && stolen.on_the_phone().is_empty()
    };
    // Others have signed for another chain than that which lies here: whose it is nobody knows.
    let mut other = signed_for.clone();
    other.values_mut().for_each(|position| position.h[0] ^= 1);
    stolen.cut(Some(other)).await;
    until("nothing is shown", HEARD, async || nothing(&mut stolen).await).await;
    assert_eq!(stolen.quarantined(), 5);
    lists_page_by_page_and_refuses_the_rest(&stolen).await;
    stolen.cut(Some(signed_for)).await;
    until("what was before is shown again", HEARD, async || stolen.is_as_before().await).await;
    stolen.revoke(&["--cut-at-start"]).await;
    until("nothing is shown", HEARD, async || nothing(&mut stolen).await).await;
    // It stays so where the server stops in between.
    stolen.world.a.kill();
    stolen.world.a.restart().await;
    assert!(nothing(&mut stolen).await);
    assert!(verified(&stolen.world, "a"));
    // Without a cut all that came before the revocation is believed.
    stolen.revoke(&["--lift-cut"]).await;
    until("all is shown again", HEARD, async || stolen.is_as_the_thief_left_it().await).await;
    stolen.phone.sync().await.unwrap();
    assert_eq!(stolen.on_the_phone(), seen(&stolen.desk).await);
    let signer = open(&stolen.world);
    let listed = &signer.trust().directory.regions[&region(B)];
    assert!(signer.trust().is_revoked(listed), "but it stays revoked");
    stolen.world.stop().await;
}

/// Holds the two calls to their limits; five views are quarantined.
async fn lists_page_by_page_and_refuses_the_rest(stolen: &Stolen) {
    let mut service = cli::client::agreement_service(stolen.desk.channel());
    let purpose = Purpose::Duty.code();
    let mut page_token = String::new();
    let mut sizes = Vec::new();
    loop {
        let request = pb::ListQuarantinedRequest { page_size: 2, page_token, purpose };
        let page = service.list_quarantined(request).await.unwrap().into_inner();
        sizes.push(page.views.len());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 1]);
    for (page_size, page_token, purpose, reason) in [
        (101, "", purpose, Reason::FieldInvalid),
        (1, "6-1", purpose, Reason::PageTokenInvalid),
        (1, "q", purpose, Reason::PageTokenInvalid),
        (1, "", 0, Reason::PurposeRequired),
    ] {
        let page_token = page_token.to_owned();
        let request = pb::ListQuarantinedRequest { page_size, page_token, purpose };
        assert_eq!(reason_of(&service.list_quarantined(request).await.unwrap_err()), reason.name());
    }
    let sound = pb::ReleaseQuarantinedRequest {
        record_id: stolen.made.as_bytes().to_vec().into(),
        owner_region: B.to_owned(),
        reason: ReleaseReason::Order.code(),
        purpose,
    };
    let bad = [
        (pb::ReleaseQuarantinedRequest { reason: 0, ..sound.clone() }, Reason::FieldInvalid),
        (
            pb::ReleaseQuarantinedRequest { record_id: Default::default(), ..sound.clone() },
            Reason::FieldInvalid,
        ),
        (pb::ReleaseQuarantinedRequest { purpose: 0, ..sound.clone() }, Reason::PurposeRequired),
        // A record of that id that was born elsewhere is another.
        (
            pb::ReleaseQuarantinedRequest { owner_region: String::new(), ..sound },
            Reason::NotQuarantined,
        ),
    ];
    for (request, reason) in bad {
        let status = service.release_quarantined(request).await.unwrap_err();
        assert_eq!(reason_of(&status), reason.name());
    }
    assert_eq!(stolen.quarantined(), 5);
}

fn reason_of(status: &tonic::Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn a_cut_is_of_a_region_and_of_whom_the_directory_knows() {
    let world = World::start().await;
    let dir = world.path("authority");
    let words = ["authority", "revoke", "--dir", dir.to_str().unwrap()];
    let bad = |more: &[&str]| refused(&[&words[..], more].concat());
    assert!(bad(&["--gateway", "gateway-1", "--cut-at-start"]).contains("cannot be used with"));
    let missing = world.path("none").display().to_string();
    assert!(bad(&["--region", B, "--cut", &missing]).contains("cannot read"));
    let other = world.path("a.toml").display().to_string();
    assert!(bad(&["--region", B, "--cut", &other]).contains("is not taken"));
    let nobody = "nobody".parse().unwrap();
    let refusal = open(&world).cut(&nobody, None, SystemClock.now()).err().unwrap();
    assert!(refusal.to_string().contains("is not in the directory"));
    // Nothing of it was said.
    let said = open(&world).trust().freshness.clone().unwrap();
    let listed = said.revocations.iter().any(|of| of.member == Member::Region(region(B)));
    assert!(!listed, "{:?}", Reason::RegionRevoked);
}
