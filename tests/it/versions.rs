//! Goal: what was agreed can be changed, stopped, left and called up while servers run, and everybody shows and holds
//! what the version in force says: no sooner, no longer, no more. Method: three real processes; a version is put
//! into one region's folder, as its administrator does, and reaches the others over the gateway alone.

use crate::explain::{explain, folder, of, report, transition};
use crate::harness::{
    A, ARRIVES, B, COUNTY, World, converged, event, pull_all, region, sos, until,
};
use cli::linkage::{self, Terms};
use cli::phone::Phone;
use domain::agreement::{Agreement, AgreementForm, Clause, Force, Grant, Release};
use domain::kernel::{Clock as _, EmergencyLevel, Purpose, RecordId, RegionId, Role};
use domain::operation::Change;
use domain::risk::Event;
use proto::agreement::v1::{AgreementState, ListAgreementsRequest};
use proto::device::v1::change::Subject;
use proto::kernel::v1::SignedObject;
use proto::risk::v1::EventVerb;
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// How soon a version that one has counts everywhere.
const HEARD: Duration = Duration::from_secs(15);
/// For what must not arrive; what does takes milliseconds.
const STAYS_AWAY: Duration = Duration::from_secs(3);

fn data(world: &World, id: &RegionId) -> PathBuf {
    world.path(if id.as_str() == B { "b" } else { "a" })
}

/// Signs it for these, and puts it into the folder of the first.
fn install(world: &World, object: &mut SignedObject, signers: &[&str]) {
    for signer in signers {
        let signer = region(signer);
        linkage::sign_agreement(object, &data(world, &signer), &signer).unwrap();
    }
    let (first, now) = (region(signers[0]), SystemClock.now());
    linkage::install_agreement(object, &data(world, &first), &first, now).unwrap();
}

/// The agreement between the township and its neighbour, as it was made.
pub(crate) fn border(world: &World) -> Agreement {
    let folder = world.path("a/regions").join(A).join("agreements");
    let files = std::fs::read_dir(folder).unwrap();
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let object = <SignedObject as prost::Message>::decode(bytes.as_slice()).unwrap();
        seal::trust::read_agreement(&object).unwrap()
    };
    files.map(read).find(|agreement| agreement.has_party(&region(B))).unwrap()
}

/// Puts the next version into force, as these sign it; gives it.
fn change(
    world: &World,
    before: &Agreement,
    signers: &[&str],
    change: impl FnOnce(&mut Agreement),
) -> Agreement {
    let mut object = linkage::next_version(before, SystemClock.now(), change).unwrap();
    install(world, &mut object, signers);
    seal::trust::read_agreement(&object).unwrap()
}

/// How a region says that a version stands; `None` before it has it.
async fn state(desk: &Phone, version: &Agreement) -> Option<AgreementState> {
    let mut service = cli::client::agreement_service(desk.channel());
    let request = ListAgreementsRequest { purpose: Purpose::Duty.code() };
    let told = service.list_agreements(request).await.unwrap().into_inner();
    let id = version.agreement_id.as_bytes().as_slice();
    let at = told
        .agreements
        .iter()
        .position(|known| known.agreement_id == id && known.version == version.version)?;
    AgreementState::try_from(told.states[at]).ok()
}

async fn stands(desk: &Phone, version: &Agreement, wanted: AgreementState) {
    until("the version stands", HEARD, async || state(desk, version).await == Some(wanted)).await;
}

/// Records that a desk of a neighbour is shown now: what was shown and has not been called off since.
async fn shown(desk: &Phone) -> BTreeSet<RecordId> {
    let mut shown = BTreeSet::new();
    for change in pull_all(desk.channel()).await {
        match change.subject {
            Some(Subject::View(view)) => {
                let meta = view.view.unwrap().meta.unwrap();
                shown.insert(RecordId::from_slice(&meta.record_id).unwrap());
            }
            Some(Subject::Withdrawal(gone)) => {
                shown.remove(&RecordId::from_slice(&gone.record_id).unwrap());
            }
            _ => {}
        }
    }
    shown
}

async fn shows(desk: &Phone, records: &[RecordId]) {
    let wanted: BTreeSet<_> = records.iter().copied().collect();
    until("what is shown is what may be", ARRIVES, async || shown(desk).await == wanted).await;
}

async fn goes_on_showing(desk: &Phone, records: &[RecordId]) {
    tokio::time::sleep(STAYS_AWAY).await;
    assert_eq!(shown(desk).await, records.iter().copied().collect());
}

fn of_level(level: EmergencyLevel) -> Change {
    Change::ReportEvent(Event { level: Some(level), ..event("落石") })
}

#[tokio::test(flavor = "multi_thread")]
async fn other_terms_show_what_is_open_otherwise_and_a_stop_stops_all_but_the_end() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let slight = report(&mut phone, of_level(EmergencyLevel::IV)).await;
    let grave = report(&mut phone, of_level(EmergencyLevel::III)).await;
    shows(&desk_b, &[slight, grave]).await;

    // Fewer clauses, and only what is grave: what is slight is called off, and nobody was restarted.
    let first = border(&world);
    let second = change(&world, &first, &[A, B], |next| {
        next.clauses = vec![Clause {
            min_level: Some(EmergencyLevel::III),
            ..Clause::whole(Grant::EventDetail, Release::AtOnce)
        }];
    });
    stands(&desk_b, &second, AgreementState::InForce).await;
    assert_eq!(state(&desk_b, &first).await, Some(AgreementState::Superseded));
    // Level is a matter of showing it once more, as the last: the neighbour keeps that and is told no more.
    until("what is slight was shown for the last time", ARRIVES, async || {
        let store = folder(&world, A, "desk");
        let told = explain(store.to_str().unwrap(), slight, &["--party", B]).unwrap();
        of(&told, B)["standing"] == "LAST" && of(&told, B)["deliveries"][0]["state"] == "APPLIED"
    })
    .await;
    let store = folder(&world, A, "desk");
    let told = explain(store.to_str().unwrap(), grave, &["--party", B]).unwrap();
    let neighbour = of(&told, B);
    assert_eq!((&neighbour["version"], &neighbour["standing"]), (&json!(2), &json!("SHOWN")));

    // One of two may stop it. What is open stays, what is new waits, what is over is told.
    let third = change(&world, &second, &[A], |next| next.force = Force::Suspended);
    stands(&desk_b, &third, AgreementState::Suspended).await;
    let waits = report(&mut phone, of_level(EmergencyLevel::II)).await;
    goes_on_showing(&desk_b, &[slight, grave]).await;
    transition(&desk_a, grave, EventVerb::Cancel).await;
    until("the end is told", ARRIVES, async || {
        let told = explain(store.to_str().unwrap(), grave, &["--party", B]).unwrap();
        of(&told, B)["standing"] == "LAST" && of(&told, B)["deliveries"][0]["state"] == "APPLIED"
    })
    .await;
    // To go on needs both; then what waited is shown.
    let mut object =
        linkage::next_version(&third, SystemClock.now(), |next| next.force = Force::InForce)
            .unwrap();
    let (id, now) = (region(A), SystemClock.now());
    linkage::sign_agreement(&mut object, &data(&world, &id), &id).unwrap();
    let refused = linkage::install_agreement(&object, &data(&world, &id), &id, now).unwrap_err();
    assert!(format!("{refused:#}").contains("not signed as it must be"), "{refused:#}");
    change(&world, &third, &[A, B], |next| next.force = Force::InForce);
    shows(&desk_b, &[slight, grave, waits]).await;
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_told_what_is_over_of_what_it_was_shown_and_nothing_else() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let county = world.enrol(COUNTY, Role::DutyOfficer, "desk").await;
    // The agreement of two becomes one of three, and what is open is shown to the third.
    let early = report(&mut phone, of_level(EmergencyLevel::IV)).await;
    let first = border(&world);
    let now = SystemClock.now();
    let directory = linkage::read_directory(&world.path("a"), now).unwrap();
    let parties = [A, B, COUNTY].map(region).to_vec();
    let terms = Terms {
        supersedes: Some(Box::new(first.clone())),
        ..Terms::plain(AgreementForm::Agreement, first.title, parties, first.clauses)
    };
    let mut object = linkage::propose(&directory, terms, now, &SystemEntropy).unwrap();
    install(&world, &mut object, &[A, B, COUNTY]);
    let three = seal::trust::read_agreement(&object).unwrap();
    shows(&county, &[early]).await;
    shows(&desk_b, &[early]).await;

    let two = change(&world, &three, &[B], |next| {
        next.parties.retain(|party| party.region != region(B));
    });
    stands(&desk_a, &two, AgreementState::InForce).await;
    until("who left knows it", HEARD, async || state(&desk_b, &two).await.is_some()).await;
    let late = report(&mut phone, of_level(EmergencyLevel::IV)).await;
    shows(&county, &[early, late]).await;
    goes_on_showing(&desk_b, &[early]).await;
    // An end is told to who has it, without a word of what it has become.
    transition(&desk_a, early, EventVerb::Cancel).await;
    transition(&desk_a, late, EventVerb::Cancel).await;
    shows(&desk_b, &[]).await;
    shows(&county, &[early, late]).await;
    // Of what it never saw, it did not even learn that it was there.
    let changes = pull_all(desk_b.channel()).await;
    let is_late = |record_id: &[u8]| record_id == late.as_bytes();
    assert!(changes.iter().all(|change| match &change.subject {
        Some(Subject::View(view)) => {
            !is_late(&view.view.as_ref().unwrap().meta.as_ref().unwrap().record_id)
        }
        Some(Subject::Withdrawal(gone)) => !is_late(&gone.record_id),
        _ => true,
    }));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annex_sleeps_until_one_party_calls_it_up_and_ends_by_itself() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let county = world.enrol(COUNTY, Role::DutyOfficer, "desk").await;
    let directory = linkage::read_directory(&world.path("a"), SystemClock.now()).unwrap();
    let clauses = vec![Clause::whole(Grant::EventDetail, Release::AtOnce)];
    let parties = vec![region(A), region(COUNTY)];
    let terms = Terms::plain(AgreementForm::Annex, "应急附件".to_owned(), parties, clauses);
    let now = SystemClock.now();
    let mut object = linkage::propose(&directory, terms, now, &SystemEntropy).unwrap();
    install(&world, &mut object, &[A, COUNTY]);
    let ready = seal::trust::read_agreement(&object).unwrap();
    stands(&county, &ready, AgreementState::Ready).await;
    // The charter shows the county what was accepted; this was not.
    let before = report(&mut phone, Change::ReportEvent(event("before"))).await;
    goes_on_showing(&county, &[]).await;
    let called = change(&world, &ready, &[COUNTY], |next| {
        next.force = Force::InForce;
        next.ended_at = SystemClock.now().plus_millis(6_000);
    });
    stands(&desk_a, &called, AgreementState::InForce).await;
    shows(&county, &[before]).await;
    stands(&desk_a, &called, AgreementState::Closing).await;
    report(&mut phone, Change::ReportEvent(event("after"))).await;
    let help = report(&mut phone, Change::RaiseSos(sos("help"))).await;
    // By the charter, which knows no end of it.
    shows(&county, &[before, help]).await;
    goes_on_showing(&county, &[before, help]).await;
    // Longer than 72 hours, or with a word changed, one signature does not do.
    let longer = linkage::next_version(&called, SystemClock.now(), |next| {
        next.ended_at = SystemClock.now().plus_days(4);
    });
    assert!(longer.is_err());
    let mut wider = linkage::next_version(&called, SystemClock.now(), |next| {
        next.ended_at = SystemClock.now().plus_days(1);
        next.clauses.push(Clause::whole(Grant::PatrolSummary, Release::AtOnce));
    })
    .unwrap();
    let id = region(COUNTY);
    linkage::sign_agreement(&mut wider, &data(&world, &id), &id).unwrap();
    let now = SystemClock.now();
    assert!(linkage::install_agreement(&wider, &data(&world, &id), &id, now).is_err());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_texts_of_one_version_the_one_counts_that_the_authority_names() {
    let mut world = World::start().await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let first = border(&world);
    let one = change(&world, &first, &[A, B], |next| next.title = "其一".to_owned());
    stands(&desk_b, &one, AgreementState::InForce).await;
    let mut other = linkage::next_version(&first, SystemClock.now(), |next| {
        next.title = "其二".to_owned();
    })
    .unwrap();
    for signer in [A, B].map(region) {
        linkage::sign_agreement(&mut other, &data(&world, &signer), &signer).unwrap();
    }
    let (id, now) = (region(A), SystemClock.now());
    let refused = linkage::install_agreement(&other, &data(&world, &id), &id, now).unwrap_err();
    assert!(format!("{refused:#}").contains("another text of this version"), "{refused:#}");
    // The authority was shown the other.
    let signer = cli::authority::Authority::open(&world.path("authority"), now).unwrap();
    let signer = signer.register(&other, now).unwrap();
    let gateway = signer.trust().directory.gateways.values().next().unwrap().clone();
    let endpoint = format!("127.0.0.1:{}", world.gateway.port);
    let (linkage, set) = (&signer.trust().directory.linkage_id, signer.trust().signed().clone());
    let gateway = domain::directory::Gateway { endpoint, ..gateway };
    cli::authority::show(linkage, set, &gateway).await.unwrap();
    let other_sha256 = seal::key::sha256(&other.body);
    until("it is taken now", HEARD, async || {
        let now = SystemClock.now();
        linkage::install_agreement(&other, &data(&world, &id), &id, now).is_ok()
    })
    .await;
    until("both hold the text that counts", HEARD, async || {
        let held = |data: &str, id: &str| {
            let path = world.path(data).join("regions").join(id).join("agreements");
            let path = path.join(format!("{}-2.signed", first.agreement_id));
            let bytes = std::fs::read(path).unwrap();
            let object = <SignedObject as prost::Message>::decode(bytes.as_slice()).unwrap();
            seal::key::sha256(&object.body)
        };
        held("a", A) == other_sha256 && held("b", B) == other_sha256
    })
    .await;
    drop((desk_a, desk_b));
    world.stop().await;
}
