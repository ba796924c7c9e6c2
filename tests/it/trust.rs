//! Goal: what the authority says counts everywhere within seconds and without a restart: who joins, who is
//! revoked; what is old or forged moves nobody; silence of the authority stops what it must and never a call for
//! help. Method: three real processes; the authority speaks to the gateway alone, as `wuling authority` does.

use crate::harness::{
    A, ARRIVES, B, Process, World, event, free_port, gateway_config, pull_all, region,
    set_up_as_of, sos, until, views,
};
use crate::versions::border;
use cli::authority::Authority;
use cli::linkage::{self, Terms};
use cli::phone::Phone;
use device::Draft;
use domain::agreement::{Agreement, AgreementForm, Clause, Force, Grant, Release};
use domain::freshness::Member;
use domain::kernel::{Clock as _, Lane, Reason, Role, Timestamp};
use domain::operation::Change;
use prost::Message as _;
use proto::device::v1::ViewSource;
use proto::device::v1::change::Subject;
use proto::directory::v1::TrustSet;
use proto::exchange::v1::RefreshRequest;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use runtime::channel::{Limits, channel};
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::identity::Identity;
use runtime::tls::{Anchor, ClientTls};
use runtime::trust_folder::ROOT_FILE;
use seal::trust::TrustError;
use std::path::Path;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// How soon what the authority says counts; five minutes are promised.
pub(crate) const HEARD: Duration = Duration::from_secs(15);

pub(crate) fn open(world: &World) -> Authority {
    Authority::open(&world.path("authority"), SystemClock.now()).unwrap()
}

/// Shows the gateway of this world a trust set, as anybody may.
pub(crate) async fn show(world: &World, set: TrustSet) -> Result<(), Status> {
    let signer = open(world);
    let directory = &signer.trust().directory;
    let gateway = directory.gateways.values().next().unwrap();
    let identity = Identity::Gateway(gateway.gateway_id.clone());
    let anchor = Anchor::Certificate(&gateway.authority_certificate);
    let tls = ClientTls::new(&directory.linkage_id, identity, anchor, None).unwrap();
    let endpoint = format!("127.0.0.1:{}", world.gateway.port);
    let mut service = ExchangeServiceClient::new(channel(&endpoint, tls, Limits::PEER).unwrap());
    let answer = service.refresh(RefreshRequest { trust: Some(set) }).await?.into_inner();
    // Who showed no certificate is not told who is in the linkage.
    assert_eq!(answer.trust, None);
    assert!(answer.mark.is_some());
    Ok(())
}

pub(crate) async fn publish(world: &World, signer: &Authority) {
    show(world, signer.trust().signed().clone()).await.unwrap();
}

/// What a data folder holds.
pub(crate) fn trust_of(world: &World, data: &str) -> std::sync::Arc<seal::trust::Trust> {
    let folder = runtime::trust_folder::TrustFolder::open(
        &world.path(data),
        SystemClock.now(),
        seal::trust::believe,
    );
    std::sync::Arc::clone(folder.unwrap().held())
}

/// The newest word that a data folder holds.
fn held(world: &World, data: &str) -> Timestamp {
    trust_of(world, data).signed_at()
}

async fn everywhere(world: &World, signer: &Authority) {
    let newest = signer.trust().signed_at();
    until("all have heard the authority", HEARD, async || {
        ["gateway", "a", "b"].iter().all(|data| held(world, data) == newest)
    })
    .await;
}

pub(crate) async fn report(phone: &mut Phone, change: Change) {
    phone.device.record(Draft::making(change, SystemClock.now())).unwrap();
    phone.sync().await.unwrap();
}

/// Where the views came from that a desk was shown.
async fn sources(desk: &Phone) -> Vec<ViewSource> {
    let changes = pull_all(desk.channel()).await.into_iter();
    let source = |change: proto::device::v1::Change| match change.subject {
        Some(Subject::View(view)) => view.source,
        _ => None,
    };
    changes.filter_map(source).collect()
}

pub(crate) fn last_line_with<'a>(log: &'a str, words: &[&str]) -> Option<&'a str> {
    log.lines().rev().find(|line| words.iter().all(|word| line.contains(word)))
}

#[tokio::test]
async fn what_the_authority_says_reaches_all_and_what_is_old_or_forged_moves_nobody() {
    let mut world = World::start().await;
    let old = open(&world);
    let old_set = old.trust().signed().clone();
    let newer = old.freshen(SystemClock.now()).unwrap();
    publish(&world, &newer).await;
    everywhere(&world, &newer).await;
    let newest = newer.trust().signed_at();

    // An old word is no news, and leads nobody back.
    show(&world, old_set.clone()).await.unwrap();
    // One flipped bit in each part: refused by name.
    let flip = |object: &mut Option<proto::kernel::v1::SignedObject>| {
        let object = object.as_mut().unwrap();
        let mut bytes = object.signatures[0].signature.to_vec();
        bytes[0] ^= 1;
        object.signatures[0].signature = bytes.into();
    };
    let forge: [fn(&mut TrustSet) -> &mut Option<proto::kernel::v1::SignedObject>; 3] =
        [|set| &mut set.directory_key, |set| &mut set.directory, |set| &mut set.freshness];
    for part in forge {
        let mut set = newer.trust().signed().clone();
        flip(part(&mut set));
        let status = show(&world, set).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, Reason::SignatureInvalid.name());
    }
    // The words of two directories do not mix.
    let newer = newer.publish(Vec::new(), Vec::new(), SystemClock.now()).unwrap();
    let mut mixed = newer.trust().signed().clone();
    mixed.freshness = old_set.freshness;
    let status = show(&world, mixed).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, Reason::TrustStale.name());
    for data in ["gateway", "a", "b"] {
        assert_eq!(held(&world, data), newest, "{data} was moved");
    }
    // The control: what is newer and whole is taken.
    publish(&world, &newer).await;
    everywhere(&world, &newer).await;
    // The authority that signs two directories of one version is found out.
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&world.path("authority"), copy.path());
    let mut gateway = newer.trust().directory.gateways.values().next().unwrap().clone();
    let one = newer.publish(Vec::new(), Vec::new(), SystemClock.now()).unwrap();
    publish(&world, &one).await;
    gateway.endpoint = "elsewhere:7444".to_owned();
    let other = Authority::open(copy.path(), SystemClock.now()).unwrap();
    let other = other.publish(Vec::new(), vec![gateway], SystemClock.now()).unwrap();
    let status = show(&world, other.trust().signed().clone()).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, Reason::TrustForked.name());
    world.stop().await;
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if entry.is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy_folder(&entry, &to);
        } else {
            std::fs::copy(entry, to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_revoked_region_gets_nothing_more_and_comes_back_with_new_keys() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    report(&mut phone, Change::ReportEvent(event("before"))).await;
    until("it arrives", ARRIVES, async || views(desk.channel()).await == 1).await;

    let revoked = open(&world).revoke(Member::Region(region(B)), SystemClock.now()).unwrap();
    publish(&world, &revoked).await;
    let log = || std::fs::read_to_string(world.path("b.log")).unwrap();
    until("it is told that it was revoked", HEARD, async || {
        last_line_with(&log(), &["link lost", "REGION_REVOKED"]).is_some()
    })
    .await;
    // Nor does its signature, which may be a thief's by now, stop what needs one of two. Its neighbour's does.
    let before = border(&world);
    let stopped = |by: &str, data: &str| {
        let stop = |next: &mut Agreement| next.force = Force::Suspended;
        let mut object = linkage::next_version(&before, SystemClock.now(), stop).unwrap();
        linkage::sign_agreement(&mut object, &world.path(data), &region(by)).unwrap();
        seal::trust::agreement(&object, Some(&before), revoked.trust())
    };
    assert!(matches!(stopped(B, "b"), Err(TrustError::Unsigned { .. })));
    assert!(stopped(A, "a").is_ok());
    // Not even a call for help is sealed to it, and its neighbour goes on.
    report(&mut phone, Change::RaiseSos(sos("after"))).await;
    report(&mut phone, Change::ReportEvent(event("after"))).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(views(desk.channel()).await, 1);

    // It comes back: new keys in an empty folder, a card, a new agreement; nobody else is restarted.
    world.b.stop().await;
    let data = world.path("b2");
    let spec = linkage::RegionSpec {
        region_id: region(B),
        level: domain::directory::RegionLevel::County,
        codes: Vec::new(),
        name_zh: "咸丰县".to_owned(),
        name_en: B.to_owned(),
        superior: None,
        endpoint: String::new(),
        outline: Default::default(),
    };
    let now = SystemClock.now();
    let linkage_id = revoked.trust().directory.linkage_id.clone();
    let made = linkage::init_region(&data, &linkage_id, spec, now, &SystemEntropy).await.unwrap();
    let signer = revoked.publish(vec![made], Vec::new(), now).unwrap();
    publish(&world, &signer).await;
    until("its neighbour has heard", HEARD, async || {
        held(&world, "a") == signer.trust().signed_at()
    })
    .await;
    linkage::install_trust(&world.path("authority"), &data).unwrap();
    let clauses = vec![Clause::whole(Grant::EventDetail, Release::AtOnce)];
    let parties = vec![region(A), region(B)];
    let title = "中坝河边界联防（重签）".to_owned();
    let terms = Terms::plain(AgreementForm::Agreement, title, parties, clauses);
    let data_of =
        |id: &domain::kernel::RegionId| world.path(if id.as_str() == B { "b2" } else { "a" });
    let directory = &signer.trust().directory;
    linkage::conclude(directory, terms, data_of, now, &SystemEntropy).unwrap();
    let port = free_port();
    let config = std::fs::read_to_string(world.path("b.toml")).unwrap();
    let config =
        config.replace(&world.path("b").display().to_string(), &data.display().to_string());
    let config = config.replace(&format!(":{}\"", world.b.port), &format!(":{port}\""));
    std::fs::write(world.path("b2.toml"), config).unwrap();
    let (config, log) = (world.path("b2.toml"), world.path("b2.log"));
    let mut back = Process::start("wuling-region", &config, port, &log).await;
    let endpoint = format!("127.0.0.1:{port}");
    let role = Role::DutyOfficer;
    let code =
        linkage::issue_code(&data, &region(B), role, "unit-1", &endpoint, now, &SystemEntropy);
    let dir = world.path("device-back");
    cli::phone::enrol(&dir, &code.unwrap()).await.unwrap();
    let clock = std::sync::Arc::new(SystemClock);
    let desk = Phone::open(&dir, clock, std::sync::Arc::new(SystemEntropy)).unwrap();
    report(&mut phone, Change::ReportEvent(event("again"))).await;
    // Under the new agreement it is shown what is open, and what comes.
    until("all that is open arrives", ARRIVES, async || views(desk.channel()).await == 3).await;
    let log = std::fs::read_to_string(world.path("a.log")).unwrap();
    assert!(!log.contains("\"alarm\"") && !log.contains(": alarm "), "{log}");
    back.stop().await;
    world.gateway.stop().await;
    world.a.stop().await;
}

/// A linkage whose authority has been silent for so many days; gives the lane of each view that arrived, and
/// whether it was marked unconfirmed.
async fn silent_for(days: i64) -> (World, Phone, Phone, Vec<(i32, bool)>) {
    let dir = tempfile::tempdir().unwrap();
    // Within the hours of the last day, so that neither side of a limit is met by chance.
    let signed_at = SystemClock.now().plus_days(-days).plus_millis(-3_600_000);
    set_up_as_of(dir.path(), signed_at).await;
    let world = World::start_as_is(dir).await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    report(&mut phone, Change::ReportEvent(event("落石"))).await;
    report(&mut phone, Change::RaiseSos(sos("求助"))).await;
    until("the call for help arrives", ARRIVES, async || {
        sources(&desk).await.iter().any(|source| source.lane == Lane::Alert.code())
    })
    .await;
    // What takes milliseconds has had its time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut came: Vec<_> = sources(&desk).await;
    came.sort_by_key(|source| source.lane);
    let came = came.iter().map(|source| (source.lane, source.unconfirmed)).collect();
    (world, phone, desk, came)
}

#[tokio::test]
async fn silence_of_the_authority_marks_then_stops_all_but_calls_for_help() {
    let (alert, routine) = (Lane::Alert.code(), Lane::Routine.code());
    let (mut world, .., came) = silent_for(0).await;
    assert_eq!(came, [(alert, false), (routine, false)]);
    world.stop().await;
    let (mut world, .., came) = silent_for(2).await;
    assert_eq!(came, [(alert, false), (routine, true)], "marked");
    world.stop().await;
    let (mut world, mut phone, desk, came) = silent_for(31).await;
    assert_eq!(came, [(alert, false)], "held back");
    // One word, and what waited goes on, without a restart.
    let signer = open(&world).freshen(SystemClock.now()).unwrap();
    publish(&world, &signer).await;
    everywhere(&world, &signer).await;
    report(&mut phone, Change::ReportEvent(event("落石"))).await;
    until("what waited arrives", ARRIVES, async || sources(&desk).await.len() == 3).await;
    assert!(sources(&desk).await.iter().all(|source| !source.unconfirmed));
    world.stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_revoked_is_not_dialled() {
    let mut world = World::start().await;
    let id = "gateway-1".parse().unwrap();
    let signer = open(&world).revoke(Member::Gateway(id), SystemClock.now()).unwrap();
    // Over the gateway itself, which cannot hold it back for long: its silence would show.
    publish(&world, &signer).await;
    let log = || std::fs::read_to_string(world.path("a.log")).unwrap();
    until("the region leaves it", HEARD, async || {
        last_line_with(&log(), &["link lost", "revoked"]).is_some()
    })
    .await;
    world.gateway.stop().await;
    // Nor does it start again.
    let port = free_port();
    let config = gateway_config(world.path("").as_path(), port);
    let out = std::process::Command::new(crate::harness::binary("wuling-gateway"))
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    assert!(!out.status.success());
    world.a.stop().await;
    world.b.stop().await;
}

#[test]
fn a_directory_key_that_was_replaced_signs_nothing_new() {
    let (dir, stolen) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (now, linkage) = (SystemClock.now(), "wuling-test".parse().unwrap());
    let at = |minutes: i64| now.plus_millis(minutes * 60_000);
    let signer = cli::authority::init(dir.path(), &linkage, now, &SystemEntropy).unwrap();
    copy_folder(dir.path(), stolen.path());
    let held = signer.rotate(at(1), &SystemEntropy).unwrap();
    let thief = Authority::open(stolen.path(), at(2)).unwrap();
    let thief = thief.publish(Vec::new(), Vec::new(), at(2)).unwrap();
    let thief = thief.publish(Vec::new(), Vec::new(), at(3)).unwrap();
    let root = std::fs::read(dir.path().join("trust").join(ROOT_FILE)).unwrap();
    let root = root.try_into().unwrap();
    let trust = held.trust().clone();
    let offered = |set: &TrustSet| trust.offered(&root, set.clone(), at(4));
    assert!(matches!(offered(thief.trust().signed()), Err(TrustError::KeyReplaced)));
    // The control: the key that took its place does.
    let next = held.publish(Vec::new(), Vec::new(), at(4)).unwrap();
    assert!(offered(next.trust().signed()).unwrap().0.is_some());
}

#[test]
fn a_trust_set_survives_its_encoding() {
    let dir = tempfile::tempdir().unwrap();
    let (now, linkage) = (SystemClock.now(), "wuling-test".parse().unwrap());
    let signer = cli::authority::init(dir.path(), &linkage, now, &SystemEntropy).unwrap();
    let bytes = signer.trust().signed().encode_to_vec();
    assert_eq!(&TrustSet::decode(bytes.as_slice()).unwrap(), signer.trust().signed());
}
