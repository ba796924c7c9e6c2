//! "Did they get it?", "why not?", "who would see this?": the region's answer, for every party, against what
//! really left and arrived.

use crate::harness::{
    A, ARRIVES, B, COUNTY, World, binary, event, pull_all, region, shift, sos, until,
};
use cli::linkage::{self, Terms};
use cli::phone::{self, Phone};
use device::Draft;
use domain::agreement::{AgreementForm, Clause, Grant, Precision, Release};
use domain::kernel::{Clock as _, EmergencyLevel, OperationId, Purpose, RecordId, Role};
use domain::operation::Change;
use domain::risk::Event;
use prost::Message as _;
use proto::agreement::v1 as pb;
use proto::device::v1 as device_pb;
use proto::risk::v1 as risk;
use proto::risk::v1::risk_service_client::RiskServiceClient;
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// The folder of a device that [`World::enrol`] enrolled.
pub(crate) fn folder(world: &World, id: &str, name: &str) -> PathBuf {
    world.path(&format!("device-{id}-{name}"))
}

/// Runs `wuling`; gives its JSON, or what it said on its way out.
pub(crate) fn wuling(words: &[&str]) -> Result<Value, String> {
    let out = Command::new(binary("wuling")).args(words).output().unwrap();
    if out.status.success() {
        return Ok(serde_json::from_slice(&out.stdout).unwrap());
    }
    Err(String::from_utf8(out.stderr).unwrap())
}

pub(crate) fn explain(store: &str, record: RecordId, more: &[&str]) -> Result<Value, String> {
    let record = record.to_string();
    wuling(&[&["explain", "--json", "--store", store, &record], more].concat())
}

/// Writes something down on a phone and sends it.
pub(crate) async fn report(phone: &mut Phone, change: Change) -> RecordId {
    let record = phone.device.record(Draft::making(change, SystemClock.now())).unwrap().record_id;
    assert_eq!(phone.push().await.unwrap().applied, 1);
    record
}

pub(crate) async fn accept(desk: &Phone, record: RecordId) {
    transition(desk, record, risk::EventVerb::Accept).await;
}

pub(crate) async fn transition(desk: &Phone, record: RecordId, verb: risk::EventVerb) {
    let request = risk::TransitionEventRequest {
        request_id: OperationId::mint(SystemClock.now(), &SystemEntropy).as_bytes().to_vec().into(),
        record_id: record.as_bytes().to_vec().into(),
        etag: None,
        verb: verb.into(),
        level: 0,
        handling_unit: String::new(),
    };
    let mut service = RiskServiceClient::new(desk.channel().clone());
    service.transition_event(request).await.unwrap();
}

/// What was told of the agreement of which the region is a party.
pub(crate) fn of<'a>(told: &'a Value, party: &str) -> &'a Value {
    let sharings = told["sharings"].as_array().unwrap();
    let concerns = |sharing: &&Value| {
        sharing["deliveries"].as_array().unwrap().iter().any(|to| to["party"] == party)
    };
    let mut found = sharings.iter().filter(concerns);
    let sharing = found.next().unwrap_or_else(|| panic!("nothing of {party} in {told}"));
    assert!(found.next().is_none());
    sharing
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_explained_for_every_party_all_its_way() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    world.enrol(B, Role::DutyOfficer, "desk").await;
    let (store, at_b) = (folder(&world, A, "desk"), folder(&world, B, "desk"));
    let (store, at_b) = (store.to_str().unwrap(), at_b.to_str().unwrap());

    world.line.cut();
    let record = report(&mut phone, Change::ReportEvent(event("落石"))).await;
    let told = explain(store, record, &[]).unwrap();
    assert_eq!(told["revision"], 1);
    let neighbour = of(&told, B);
    assert_eq!((&neighbour["standing"], &neighbour["clause"]), (&json!("SHOWN"), &json!(2)));
    assert_eq!((&neighbour["unverified"], &neighbour["seq"]), (&json!(true), &json!(2)));
    assert_eq!(neighbour["withheld_fields"], json!(["observation_id"]));
    assert_eq!(neighbour["deliveries"][0]["state"], "QUEUED");
    let county = of(&told, COUNTY);
    assert_eq!((&county["standing"], &county["clause"]), (&json!("NOT_SHOWN"), &json!(1)));
    assert_eq!((&county["withheld_for"], &county["seq"]), (&json!("APPROVAL"), &json!(0)));
    assert_eq!(county["deliveries"][0]["state"], "UNSPECIFIED");
    let refused = explain(at_b, record, &["--owner", A]).unwrap_err();
    assert!(refused.contains("[RECORD_NOT_FOUND]"), "{refused}");

    world.line.heal();
    until("both have signed for it", ARRIVES, async || {
        of(&explain(store, record, &[]).unwrap(), B)["deliveries"][0]["state"] == "APPLIED"
    })
    .await;
    // An answer that says so before the neighbour has it would be worse than none.
    assert_eq!(explain(at_b, record, &["--owner", A]).unwrap()["sharings"][0]["seq"], 2);

    accept(&desk, record).await;
    until("the county has signed too", ARRIVES, async || {
        let told = explain(store, record, &["--party", COUNTY]).unwrap();
        assert_eq!(told["sharings"].as_array().unwrap().len(), 1, "{told}");
        of(&told, COUNTY)["deliveries"][0]["state"] == "APPLIED"
    })
    .await;
    let told = explain(store, record, &[]).unwrap();
    let neighbour = of(&told, B);
    assert_eq!((&neighbour["share_n"], &neighbour["seq"]), (&json!(2), &json!(3)));
    assert_eq!((&neighbour["revision"], &neighbour["unverified"]), (&json!(2), &json!(false)));

    // What stays at home is explained as well: a roster is no neighbour's business.
    let mut lead = world.enrol(A, Role::ShiftLead, "lead").await;
    let shift = report(&mut lead, Change::OpenShift(shift())).await;
    for sharing in explain(store, shift, &[]).unwrap()["sharings"].as_array().unwrap() {
        assert_eq!(
            (&sharing["withheld_for"], &sharing["clause"]),
            (&json!("SENSITIVITY"), &json!(0))
        );
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_who_would_see_what_and_leaves_nothing_behind() {
    let world = World::start().await;
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    let mut service = cli::client::agreement_service(phone.channel());
    let mut preview = async |change| {
        let operation = Some(device_pb::Operation::from(&phone::fresh(1, change)));
        let request = pb::PreviewOperationRequest { operation, purpose: Purpose::Duty.code() };
        service.preview_operation(request).await.map(|answer| answer.into_inner().sharings)
    };
    let by_party = |previews: Vec<pb::PreviewedSharing>, party: &str| {
        let concerns = |one: &pb::PreviewedSharing| {
            one.sharing.as_ref().unwrap().deliveries.iter().any(|to| to.party_region == party)
        };
        let found = previews.into_iter().find(concerns).unwrap();
        (found.sharing.unwrap(), found.view)
    };
    let sharings = preview(Change::ReportEvent(event("落石"))).await.unwrap();
    let (neighbour, view) = by_party(sharings.clone(), B);
    assert_eq!((neighbour.standing(), neighbour.share_n), (pb::Standing::Shown, 1));
    let seen = risk::Event::decode(view.unwrap().payload).unwrap();
    assert_eq!(seen.text, "落石");
    let (county, view) = by_party(sharings, COUNTY);
    assert_eq!((county.withhold_reason(), view), (pb::WithholdReason::Approval, None));
    for party in [B, COUNTY] {
        let (sharing, view) =
            by_party(preview(Change::RaiseSos(sos("摔伤"))).await.unwrap(), party);
        assert_eq!((sharing.standing(), view.is_some()), (pb::Standing::Shown, true));
    }
    let named = preview(Change::ReportEvent(event("联系 13812345678"))).await.unwrap_err();
    assert_eq!(named.code(), tonic::Code::InvalidArgument);
    assert!(pull_all(desk.channel()).await.is_empty(), "a preview was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_what_new_terms_would_show_and_shows_nothing() {
    let world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    world.enrol(A, Role::Administrator, "admin").await;
    let grave = || Event { level: Some(EmergencyLevel::III), ..event("塌方") };
    let mut records = Vec::new();
    for change in [event("落石"), event("积水"), grave()] {
        records.push(report(&mut phone, Change::ReportEvent(change)).await);
    }
    let parked = report(&mut phone, Change::RaiseSos(sos("摔伤"))).await;

    let folder = folder(&world, A, "admin");
    let dry_run = |file: &str, more: &[&str]| {
        let words = ["agreement", "dry-run", "--json", "--store", folder.to_str().unwrap(), file];
        wuling(&[&words[..], more].concat())
    };
    // The agreement that is in force, and terms to replace it: grave events alone, to about 1 km.
    let in_force = std::fs::read_dir(world.path("a/regions").join(A).join("agreements")).unwrap();
    let (mut clauses, mut before) = (Vec::new(), None);
    for entry in in_force {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let object = proto::kernel::v1::SignedObject::decode(&bytes[..]).unwrap();
        let agreement = seal::trust::read_agreement(&object).unwrap();
        if agreement.has_party(&region(B)) {
            (clauses, before) = (agreement.clauses.clone(), Some(Box::new(agreement)));
        }
    }
    let propose = |clauses: Vec<Clause>, name: &str| {
        let parties = vec![region(A), region(B)];
        let terms = Terms::plain(AgreementForm::Agreement, "新条款".to_owned(), parties, clauses);
        let terms = Terms { supersedes: before.clone(), ..terms };
        let now = SystemClock.now();
        let directory = linkage::read_directory(&world.path("a"), now).unwrap();
        let object = linkage::propose(&directory, terms, now, &SystemEntropy).unwrap();
        let path = world.path(name);
        std::fs::write(&path, object.encode_to_vec()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let same = dry_run(&propose(clauses.clone(), "same"), &[]).unwrap();
    assert_eq!((&same["version_before"], &same["records"]), (&json!(1), &json!(4)));
    assert_eq!((&same["shown"], &same["shown_before"]), (&json!(4), &json!(4)));
    assert_eq!(same["changes"], json!([]), "terms that say the same change nothing");

    for clause in clauses.iter_mut().filter(|clause| clause.grant == Grant::EventDetail) {
        clause.min_level = Some(EmergencyLevel::III);
        clause.precision = Precision::Kilometre;
    }
    let told = dry_run(&propose(clauses, "narrow"), &[]).unwrap();
    assert_eq!((&told["shown"], &told["shown_before"]), (&json!(2), &json!(4)));
    assert_eq!(
        (&told["lost"], &told["changed"], &told["gained"]),
        (&json!(2), &json!(1), &json!(0))
    );
    let change = |record: RecordId| {
        let changes = told["changes"].as_array().unwrap();
        changes.iter().find(|change| change["record_id"] == record.to_string()).cloned()
    };
    let lost = change(records[0]).unwrap();
    assert_eq!(
        (&lost["before"]["standing"], &lost["after"]["standing"]),
        (&json!("SHOWN"), &json!("NOT_SHOWN"))
    );
    assert_eq!(lost["after"]["withheld_for"], "LEVEL");
    assert_eq!(change(records[2]).unwrap()["after"]["precision"], "1_KM");
    assert_eq!(change(parked), None, "a call for help is shown as before");

    // Terms between others are no question for this region, and a patrol may not ask.
    let clauses = vec![Clause::whole(Grant::Sos, Release::AtOnce)];
    let parties = vec![region(B), region(COUNTY)];
    let terms = Terms::plain(AgreementForm::Agreement, "别人".to_owned(), parties, clauses);
    let directory = linkage::read_directory(&world.path("a"), SystemClock.now()).unwrap();
    let others = linkage::propose(&directory, terms, SystemClock.now(), &SystemEntropy).unwrap();
    let mut service = cli::client::agreement_service(desk.channel());
    let request = pb::DryRunAgreementRequest {
        agreement: others.body,
        days: 0,
        purpose: Purpose::Operation.code(),
    };
    let refused = service.dry_run_agreement(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let mut service = cli::client::agreement_service(phone.channel());
    let refused = service.dry_run_agreement(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}

/// An event of the county's, as an officer of the neighbour reads it.
async fn read(desk: &Phone, record: RecordId) -> risk::EventRecord {
    let request = risk::GetEventRequest {
        record_id: record.as_bytes().to_vec().into(),
        owner_region: COUNTY.to_owned(),
        purpose: Purpose::Duty.code(),
    };
    let mut service = RiskServiceClient::new(desk.channel().clone());
    service.get_event(request).await.unwrap().into_inner().event.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_agreements_show_of_a_record_is_shown_as_one() {
    let mut world = World::start().await;
    let now = SystemClock.now();
    let directory = linkage::read_directory(&world.path("a"), now).unwrap();
    let text = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
    let whole = |grant| Clause::whole(grant, Release::AtOnce);
    for (title, clause) in [
        ("概要", whole(Grant::EventSummary)),
        ("详情", Clause { fields: text(&["text", "state"]), ..whole(Grant::EventDetail) }),
    ] {
        let parties = vec![region(COUNTY), region(B)];
        let form = AgreementForm::Agreement;
        let terms = Terms::plain(form, title.to_owned(), parties, vec![clause]);
        let data =
            |id: &domain::kernel::RegionId| world.path(if id.as_str() == B { "b" } else { "a" });
        linkage::conclude(&directory, terms, data, now, &SystemEntropy).unwrap();
    }
    world.a.stop().await;
    world.b.stop().await;
    world.a.restart().await;
    world.b.restart().await;
    let mut phone = world.enrol(COUNTY, Role::Patroller, "phone").await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    world.enrol(COUNTY, Role::DutyOfficer, "desk").await;
    let record = report(&mut phone, Change::ReportEvent(event("落石"))).await;
    let store = folder(&world, COUNTY, "desk");
    until("both agreements' entries are applied", ARRIVES, async || {
        let told = explain(store.to_str().unwrap(), record, &["--party", B]).unwrap();
        let sharings = told["sharings"].as_array().unwrap();
        sharings.iter().all(|sharing| sharing["deliveries"][0]["state"] == "APPLIED")
    })
    .await;
    let seen = read(&desk, record).await;
    let event = seen.event.unwrap();
    assert_eq!((event.text.as_str(), event.place.as_str()), ("落石", "黑溪桥头"));
    let [first, second] = &seen.shared_from[..] else { panic!("{:?}", seen.shared_from) };
    assert!(first.fields.is_empty() && first.agreement_id != second.agreement_id);
    // Whichever came last is the first; the other gives what it lacks, by name.
    let gives = |field: &str| second.fields.iter().any(|name| name == field);
    assert!(gives("text") != gives("place"), "{:?}", second.fields);
    let told = explain(folder(&world, B, "desk").to_str().unwrap(), record, &["--owner", COUNTY]);
    assert_eq!(told.unwrap()["sharings"].as_array().unwrap().len(), 2);
}
