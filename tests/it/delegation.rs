//! Goal: a county lists its own townships, and all believe it as far as the authority lets it and no further.
//! Method: three real processes; the authority lists the two counties alone, and the township is on its county's
//! list, made by the commands that a county's operator has. The list starts in the county's folder and reaches the
//! gateway and the neighbour over their lines.

use crate::harness::{A, ARRIVES, B, COUNTY, World, binary, event, make, region, until, views};
use crate::trust::{HEARD, last_line_with, open, report, show, trust_of};
use cli::authority::Authority;
use cli::linkage::{self, Terms};
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::directory::{DelegatedDirectory, Directory, Gateway, Region};
use domain::freshness::Member;
use domain::kernel::{Clock as _, Reason, Role, Timestamp};
use domain::operation::Change;
use prost::Message as _;
use proto::convert::directory;
use proto::directory::v1::TrustSet;
use proto::kernel::v1::SignedObject;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::key::SigningKey;
use seal::{signed, tag};
use std::path::Path;
use std::process::{Command, Output};
use tonic_types::StatusExt as _;

/// Runs `wuling` with these words.
fn wuling(words: &[&str]) -> Output {
    Command::new(binary("wuling")).args(words).output().unwrap()
}

fn done(words: &[&str]) {
    let output = wuling(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write_card(path: &Path, linkage: &Directory, region: &Region) {
    let card = Directory {
        version: 1,
        regions: [(region.region_id.clone(), region.clone())].into(),
        gateways: [].into(),
        freshness_key: None,
        delegations: [].into(),
        ..linkage.clone()
    };
    std::fs::write(path, directory::encode(&card)).unwrap();
}

/// A linkage whose authority lists two counties, of which one lists the township.
async fn start() -> World {
    let dir = tempfile::tempdir().unwrap();
    let (path, now) = (dir.path(), SystemClock.now());
    let (signer, gateway, mut regions) = make(path, now).await;
    let township = regions.remove(0);
    let signer = signer.publish(regions, vec![gateway], now).unwrap();
    let text = |name: &str| path.join(name).display().to_string();
    let (authority, data, card) = (text("authority"), text("a"), text("a.card"));
    write_card(Path::new(&card), &signer.trust().directory, &township);
    for data in ["gateway", "a", "b"] {
        linkage::install_trust(&path.join("authority"), &path.join(data)).unwrap();
    }
    // Nobody lists what it may not.
    let list = ["region", "publish", "--data", &data, "--region", COUNTY, &card];
    let refused = wuling(&list);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("does not let"), "{said}");
    done(&["authority", "delegate", "--dir", &authority, "--region", COUNTY, "--regions-max", "2"]);
    for data in ["gateway", "a", "b"] {
        linkage::install_trust(&path.join("authority"), &path.join(data)).unwrap();
    }
    done(&list);
    let signer = Authority::open(&path.join("authority"), now).unwrap();
    assert!(!signer.trust().directory.regions.contains_key(&region(A)), "the authority lists it");
    agree(path, now);
    World::start_as_is(dir).await
}

/// The two neighbours agree; only the township's folder is given it.
fn agree(dir: &Path, now: Timestamp) {
    let directory = linkage::read_directory(&dir.join("a"), now).unwrap();
    let clauses = vec![Clause::whole(Grant::EventDetail, Release::AtOnce)];
    let parties = [A, B].map(region);
    let title = "中坝河边界联防".to_owned();
    let terms = Terms::plain(AgreementForm::Agreement, title, parties.to_vec(), clauses);
    let mut object = linkage::propose(&directory, terms, now, &SystemEntropy).unwrap();
    for (data, party) in [("a", A), ("b", B)] {
        linkage::sign_agreement(&mut object, &dir.join(data), &region(party)).unwrap();
    }
    linkage::install_agreement(&object, &dir.join("a"), &region(A), now).unwrap();
}

/// A county's list as it would sign it, with something changed.
fn signed_by(
    world: &World,
    (data, county): (&str, &str),
    change: impl FnOnce(&mut DelegatedDirectory),
) -> SignedObject {
    let mut part = trust_of(world, "a").delegated_directory(&region(COUNTY)).unwrap();
    part.superior = region(county);
    for township in part.regions.values_mut() {
        township.superior = Some(region(county));
    }
    change(&mut part);
    let seed = std::fs::read(world.path(data).join("regions").join(county).join("signing.key"));
    let key = SigningKey::from_seed(&seed.unwrap().try_into().unwrap());
    let body = directory::encode_delegated(&part);
    signed::sign(tag::DELEGATED_DIRECTORY, body, county, &key)
}

/// Shows the gateway a list, as anybody may; gives by what name it is refused.
async fn refusal(world: &World, part: SignedObject) -> String {
    let set = TrustSet { delegated: vec![part], ..TrustSet::default() };
    show(world, set).await.unwrap_err().get_details_error_info().unwrap().reason
}

/// Shows the gateway what the authority says, without what counties list.
async fn say(world: &World, signer: &Authority) {
    let signed = signer.trust().signed().clone();
    show(world, TrustSet { delegated: Vec::new(), ..signed }).await.unwrap();
}

fn list_of(world: &World, data: &str) -> u64 {
    trust_of(world, data).delegated().get(&region(COUNTY)).map_or(0, |head| head.version)
}

async fn everywhere(world: &World, version: u64) {
    until("all hold the county's list", HEARD, async || {
        ["gateway", "a", "b"].iter().all(|data| list_of(world, data) == version)
    })
    .await;
}

#[tokio::test]
async fn a_township_that_its_county_lists_exchanges_and_leaves_with_the_list() {
    let mut world = start().await;
    everywhere(&world, 1).await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    report(&mut phone, Change::ReportEvent(event("落石"))).await;
    until("it arrives", ARRIVES, async || views(desk.channel()).await == 1).await;

    // The county takes it off its list: its lines end, and nothing more goes through.
    let (data, card) = (world.path("a").display().to_string(), world.path("a.card"));
    let words = ["region", "publish", "--data", &data, "--region", COUNTY];
    done(&[&words[..], &["--remove", A]].concat());
    everywhere(&world, 2).await;
    let log = || std::fs::read_to_string(world.path("a.log")).unwrap();
    until("it is told so", HEARD, async || {
        last_line_with(&log(), &["link lost", A, "REGION_REVOKED"]).is_some()
    })
    .await;
    report(&mut phone, Change::ReportEvent(event("塌方"))).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(views(desk.channel()).await, 1);

    // And puts it back: what waited arrives, and nobody was restarted.
    done(&[&words[..], &[card.to_str().unwrap()]].concat());
    everywhere(&world, 3).await;
    until("what waited arrives", ARRIVES, async || views(desk.channel()).await == 2).await;

    // When the county is revoked, its townships go with it.
    let part = signed_by(&world, ("a", COUNTY), |part| part.version = 9);
    let revoked = open(&world).revoke(Member::Region(region(COUNTY)), SystemClock.now()).unwrap();
    show(&world, revoked.trust().signed().clone()).await.unwrap();
    until("nobody believes the list", HEARD, async || {
        ["gateway", "b"].iter().all(|data| list_of(&world, data) == 0)
    })
    .await;
    report(&mut phone, Change::ReportEvent(event("积水"))).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(views(desk.channel()).await, 2);
    assert_eq!(refusal(&world, part).await, Reason::RegionRevoked.name());
    drop(phone);
    world.stop().await;
}

#[tokio::test]
async fn what_a_county_may_not_list_is_refused_by_name_and_the_authority_settles_the_rest() {
    let mut world = start().await;
    everywhere(&world, 1).await;
    let now = SystemClock.now();
    let mine = ("a", COUNTY);
    let changed = |part: &mut DelegatedDirectory| part.created_at = now;
    let more = |part: &mut DelegatedDirectory| {
        part.version = 2;
        let sample = part.regions[&region(A)].clone();
        for id in ["zhoubai", "fengjia"].map(region) {
            part.regions.insert(id.clone(), Region { region_id: id, ..sample.clone() });
        }
    };
    // Two texts of one version; more than two townships; a county that may list none.
    let part = signed_by(&world, mine, changed);
    assert_eq!(refusal(&world, part).await, Reason::TrustForked.name());
    let part = signed_by(&world, mine, more);
    assert_eq!(refusal(&world, part).await, Reason::LimitExceeded.name());
    let theirs = ("b", B);
    let claim = signed_by(&world, theirs, changed);
    assert_eq!(refusal(&world, claim.clone()).await, Reason::NotDelegated.name());
    // It may now, but not what another lists; nor does the authority take note of it beside the other.
    let signer = open(&world).delegate(&region(B), 2, now).unwrap();
    say(&world, &signer).await;
    assert_eq!(refusal(&world, claim.clone()).await, Reason::TownshipTaken.name());
    let first = trust_of(&world, "a").signed().delegated[0].clone();
    let signer = signer.note_townships(first.clone(), now).unwrap();
    assert!(signer.note_townships(claim, now).is_err());
    everywhere(&world, 1).await;

    // The county goes on at its own word; the authority, once shown, lets nobody be held at an older list.
    let second = signed_by(&world, mine, |part| part.version = 2);
    show(&world, TrustSet { delegated: vec![second.clone()], ..TrustSet::default() })
        .await
        .unwrap();
    everywhere(&world, 2).await;
    show(&world, TrustSet { delegated: vec![first], ..TrustSet::default() }).await.unwrap();
    everywhere(&world, 2).await;
    let third = signed_by(&world, mine, |part| part.version = 3);
    let signer = open(&world).note_townships(third, now).unwrap();
    say(&world, &signer).await;
    until("the older list is believed no more", HEARD, async || {
        ["gateway", "b"].iter().all(|data| list_of(&world, data) == 0)
    })
    .await;
    assert_eq!(refusal(&world, second).await, Reason::TrustStale.name());
    assert!(trust_of(&world, "gateway").find_region(&region(A)).is_none());
    // The control: the list that the authority names is taken everywhere, by whoever shows it.
    show(&world, signer.trust().signed().clone()).await.unwrap();
    everywhere(&world, 3).await;
    assert!(trust_of(&world, "b").find_region(&region(A)).is_some());
    world.stop().await;
}

#[tokio::test]
async fn what_is_listed_survives_every_change_of_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemClock.now();
    let at = |minutes: i64| now.plus_millis(minutes * 60_000);
    let (signer, gateway, mut regions) = make(dir.path(), now).await;
    let township = regions.remove(0);
    let (county, data) = (region(COUNTY), dir.path().join("a"));
    let moved = Gateway { endpoint: "elsewhere:7444".to_owned(), ..gateway.clone() };
    let signer = signer.publish(regions, vec![gateway], at(1)).unwrap();
    assert!(signer.delegate(&region(A), 1, at(2)).is_err(), "a township lists nobody");
    let signer = Authority::open(&dir.path().join("authority"), now).unwrap();
    let signer = signer.delegate(&county, 1, at(2)).unwrap();
    linkage::install_trust(&dir.path().join("authority"), &data).unwrap();
    let change = linkage::Townships { put: vec![township], ..linkage::Townships::default() };
    let (part, trust) = linkage::list_townships(&data, &county, change, at(3)).unwrap();
    assert!(trust.find_region(&region(A)).is_some());
    let signer = signer.note_townships(part.clone(), at(3)).unwrap();
    let listed = |signer: &Authority| {
        let own = signer.trust().authority_directory().unwrap();
        signer.trust().find_region(&region(A)).is_some() && !own.regions.contains_key(&region(A))
    };
    let signer = signer.publish(Vec::new(), vec![moved], at(4)).unwrap();
    assert!(listed(&signer), "published");
    let signer = signer.rotate(at(5), &SystemEntropy).unwrap();
    assert!(listed(&signer), "rotated");
    let signer = signer.freshen(at(6)).unwrap();
    assert!(listed(&signer), "freshened");
    let named = signer.trust().freshness.as_ref().unwrap().delegated.clone();
    assert_eq!(named, signer.trust().delegated());
    // Taken back: the list is not published any more, and is remembered, so that no older one comes back.
    let signer = signer.delegate(&county, 0, at(7)).unwrap();
    assert!(!listed(&signer) && signer.trust().signed().delegated.is_empty());
    assert_eq!(signer.trust().freshness.as_ref().unwrap().delegated, named);
    let signer = signer.delegate(&county, 1, at(8)).unwrap();
    let signer = signer.note_townships(part, at(9)).unwrap();
    assert!(listed(&signer));
    let kept = std::fs::read(dir.path().join("authority/trust/linkage.signed")).unwrap();
    assert_eq!(&TrustSet::decode(kept.as_slice()).unwrap(), signer.trust().signed());
}
