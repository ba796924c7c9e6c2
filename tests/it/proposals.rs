//! Goal: an agreement comes into force everywhere without a file carried: one proposes, the others see it, sign it, and it
//! counts once those have signed who must, no sooner. Method: three real processes, and the commands that people type
//! at their desks; nobody touches a folder. Forged and foreign ones: `doubles::proposals`, `gateway/tests/it/proposals.rs`.

use crate::explain::folder;
use crate::harness::{A, B, COUNTY, World, binary, region, until};
use crate::versions::border;
use cli::phone::Phone;
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::kernel::{Clock as _, Purpose, Role};
use proto::agreement::v1 as pb;
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use tonic_types::StatusExt as _;

/// How soon a proposal or a version that one has is everywhere.
const HEARD: Duration = Duration::from_secs(15);
/// For what must not come; what does takes milliseconds.
const STAYS_AWAY: Duration = Duration::from_secs(3);
const PARTIES: [&str; 3] = [A, COUNTY, B];

/// Runs `wuling agreement` at a desk; gives what it printed, or what it said on its way out.
fn agreement(world: &World, id: &str, desk: &str, words: &[&str]) -> Result<String, String> {
    let store = folder(world, id, desk);
    let (word, rest) = words.split_first().unwrap();
    let mut command = Command::new(binary("wuling"));
    let out = command.args(["agreement", word, "--store"]).arg(store).args(rest).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

/// The id of the agreement and the SHA-256 of its text, as `propose` and its like print them.
fn named(printed: &str) -> (String, String) {
    let (id, sha256) = printed.split_once(' ').unwrap();
    (id.to_owned(), sha256.to_owned())
}

fn listed(world: &World, id: &str, word: &str) -> Vec<Value> {
    let printed = agreement(world, id, "admin", &[word, "--json"]).unwrap();
    serde_json::from_str::<Value>(&printed).unwrap().as_array().unwrap().clone()
}

/// The proposal of this text, as a region holds it.
fn proposal(world: &World, id: &str, sha256: &str) -> Option<Value> {
    listed(world, id, "proposals").into_iter().find(|held| held["sha256"] == sha256)
}

/// Waits until these have signed, as a region knows it.
async fn signed(world: &World, at: &str, sha256: &str, signers: &[&str]) {
    until("these have signed", HEARD, async || {
        proposal(world, at, sha256).is_some_and(|held| held["signed"] == json!(signers))
    })
    .await;
}

/// How a version stands at a region; `None` where it is not held.
fn state(world: &World, at: &str, id: &str, version: u32) -> Option<String> {
    let held = listed(world, at, "list").into_iter();
    let mut held = held.filter(|held| held["agreement_id"] == id && held["version"] == version);
    held.next().map(|held| held["state"].as_str().unwrap().to_owned())
}

/// Waits until a version stands so at these.
async fn stands(world: &World, regions: &[&str], id: &str, version: u32, wanted: &str) {
    until("the version stands", HEARD, async || {
        regions.iter().all(|at| state(world, at, id, version).as_deref() == Some(wanted))
    })
    .await;
}

/// An administrator's desk of each region.
async fn administrators(world: &World) -> Vec<Phone> {
    let mut desks = Vec::new();
    for id in PARTIES {
        desks.push(world.enrol(id, Role::Administrator, "admin").await);
    }
    desks
}

fn propose(world: &World, id: &str, parties: &[&str]) -> (String, String) {
    let mut words = vec!["propose", "--title", "三方联防", "--clause", "EVENT_DETAIL:AT_ONCE"];
    words.extend(parties.iter().flat_map(|party| ["--party", party]));
    named(&agreement(world, id, "admin", &words).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_proposes_and_all_have_signed_is_in_force_everywhere_without_a_file() {
    let mut world = World::start().await;
    let desks = administrators(&world).await;
    let duty = world.enrol(B, Role::DutyOfficer, "duty").await;
    let (id, sha256) = propose(&world, A, &PARTIES);
    for at in PARTIES {
        signed(&world, at, &sha256, &[A]).await;
    }
    let held = proposal(&world, B, &sha256).unwrap();
    assert_eq!((&held["consent"], &held["needed"]), (&Value::from("ALL"), &Value::from(2)));
    assert_eq!(held["missing"], json!([COUNTY, B]));
    let shown = agreement(&world, B, "admin", &["show", &sha256]).unwrap();
    for line in ["signed by xiaonanhai", "NOT SIGNED by xianfeng", "title = \"三方联防\""] {
        assert!(shown.contains(line), "{shown}");
    }

    // Whoever is on duty does not bind the county to it, and of what was looked at one digit counts.
    let refused = agreement(&world, B, "duty", &["sign", &sha256]).unwrap_err();
    assert!(refused.contains("[ROLE_FORBIDDEN]"), "{refused}");
    let mut service = cli::client::agreement_service(duty.channel());
    let request = pb::ListProposalsRequest { sha256: Default::default(), purpose: 0 };
    let refused = service.list_proposals(request).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "PURPOSE_REQUIRED");
    let held = border(&world);
    let request = pb::SignAgreementRequest {
        agreement_id: held.agreement_id.as_bytes().to_vec().into(),
        version: 1,
        sha256: vec![7; 32].into(),
        purpose: Purpose::Operation.code(),
    };
    let mut service = cli::client::agreement_service(desks[2].channel());
    let refused = service.sign_agreement(request).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "PROPOSAL_UNKNOWN");

    // One signature that is missing keeps it from all.
    agreement(&world, B, "admin", &["sign", &sha256]).unwrap();
    for at in PARTIES {
        signed(&world, at, &sha256, &[B, A]).await;
    }
    tokio::time::sleep(STAYS_AWAY).await;
    assert!(PARTIES.iter().all(|at| state(&world, at, &id, 1).is_none()));
    let said = agreement(&world, COUNTY, "admin", &["sign", &sha256]).unwrap();
    assert_eq!(said, "agreed 已达成");
    stands(&world, &PARTIES, &id, 1, "IN_FORCE").await;
    until("nobody holds a proposal any more", HEARD, async || {
        PARTIES.iter().all(|at| listed(&world, at, "proposals").is_empty())
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wider_version_waits_for_all_a_stop_for_all_but_one_and_who_leaves_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    crate::harness::set_up(dir.path()).await;
    let at =
        |id: &domain::kernel::RegionId| dir.path().join(if id.as_str() == B { "b" } else { "a" });
    let clauses = vec![Clause::whole(Grant::EventDetail, Release::AtOnce)];
    let terms = cli::linkage::Terms::plain(
        AgreementForm::Agreement,
        "三方联防".to_owned(),
        PARTIES.map(region).to_vec(),
        clauses,
    );
    let now = SystemClock.now();
    let directory = cli::linkage::read_directory(&dir.path().join("a"), now).unwrap();
    cli::linkage::conclude(&directory, terms, at, now, &SystemEntropy).unwrap();
    let mut world = World::start_as_is(dir).await;
    administrators(&world).await;
    for id in [A, B] {
        world.enrol(id, Role::DutyOfficer, "duty").await;
    }
    let held = listed(&world, A, "list").into_iter().find(|held| held["title"] == "三方联防");
    let id = held.unwrap()["agreement_id"].as_str().unwrap().to_owned();

    // Two of three suspend it, and those on duty may.
    let (_, sha256) = named(&agreement(&world, A, "duty", &["suspend", &id]).unwrap());
    signed(&world, B, &sha256, &[A]).await;
    let held = proposal(&world, B, &sha256).unwrap();
    assert_eq!((&held["consent"], &held["needed"]), (&"ALL_BUT_ONE".into(), &Value::from(1)));
    assert_eq!(state(&world, A, &id, 1).as_deref(), Some("IN_FORCE"));
    agreement(&world, B, "duty", &["sign", &sha256]).unwrap();
    stands(&world, &PARTIES, &id, 2, "SUSPENDED").await;

    // To go on needs all three, and who is on duty may not.
    let refused = agreement(&world, A, "duty", &["resume", &id]).unwrap_err();
    assert!(refused.contains("[ROLE_FORBIDDEN]"), "{refused}");
    let (_, sha256) = named(&agreement(&world, A, "admin", &["resume", &id]).unwrap());
    signed(&world, B, &sha256, &[A]).await;
    agreement(&world, B, "admin", &["sign", &sha256]).unwrap();
    signed(&world, COUNTY, &sha256, &[B, A]).await;
    tokio::time::sleep(STAYS_AWAY).await;
    assert!(PARTIES.iter().all(|at| state(&world, at, &id, 3).is_none()));
    agreement(&world, COUNTY, "admin", &["sign", &sha256]).unwrap();
    stands(&world, &PARTIES, &id, 3, "IN_FORCE").await;

    // Who leaves needs nobody; who is left goes on, and one of two closes it.
    let refused = agreement(&world, B, "duty", &["leave", &id]).unwrap_err();
    assert!(refused.contains("[ROLE_FORBIDDEN]"), "{refused}");
    agreement(&world, B, "admin", &["leave", &id]).unwrap();
    stands(&world, &PARTIES, &id, 4, "IN_FORCE").await;
    agreement(&world, COUNTY, "admin", &["close", &id]).unwrap();
    stands(&world, &[A, COUNTY], &id, 5, "CLOSING").await;
    // A version of which it is no party is none of its business.
    let refused = agreement(&world, B, "admin", &["resume", &id]).unwrap_err();
    assert!(refused.contains("[NOT_A_PARTY]"), "{refused}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_declined_stays_away_until_somebody_here_proposes_it() {
    let mut world = World::start().await;
    let desks = administrators(&world).await;
    world.enrol(B, Role::DutyOfficer, "duty").await;
    let (id, sha256) = propose(&world, A, &[A, B]);
    let (_, other) = propose(&world, A, &[A, B]);
    signed(&world, B, &sha256, &[A]).await;
    signed(&world, B, &other, &[A]).await;
    let refused = agreement(&world, B, "duty", &["decline", &sha256]).unwrap_err();
    assert!(refused.contains("[ROLE_FORBIDDEN]"), "{refused}");
    agreement(&world, B, "admin", &["decline", &sha256]).unwrap();
    world.b.stop().await;
    world.gateway.stop().await;
    world.gateway.restart().await;
    world.b.restart().await;
    // The control: the other one came the same way, and is there.
    signed(&world, B, &other, &[A]).await;
    tokio::time::sleep(STAYS_AWAY).await;
    assert_eq!(proposal(&world, B, &sha256), None);
    let refused = agreement(&world, B, "admin", &["sign", &sha256]).unwrap_err();
    assert!(refused.contains("[PROPOSAL_UNKNOWN]"), "{refused}");
    assert!(proposal(&world, A, &sha256).is_some(), "nobody else was told");

    // Its own people take it up again by its text, and with that it is signed by both.
    let mut service = cli::client::agreement_service(desks[0].channel());
    let purpose = Purpose::Operation.code();
    let named = cli::proposals::sha256(&sha256).unwrap().to_vec().into();
    let request = pb::ListProposalsRequest { sha256: named, purpose };
    let mut text = service.list_proposals(request).await.unwrap().into_inner().proposals;
    let text = text.remove(0).agreement;
    let request = pb::ProposeAgreementRequest { agreement: text, purpose };
    let mut service = cli::client::agreement_service(desks[2].channel());
    service.propose_agreement(request).await.unwrap();
    stands(&world, &[A, B], &id, 1, "IN_FORCE").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_signs_later_and_a_gateway_that_is_started_anew_loses_nothing() {
    let mut world = World::start().await;
    administrators(&world).await;
    world.b.stop().await;
    let (id, sha256) = propose(&world, A, &PARTIES);
    signed(&world, COUNTY, &sha256, &[A]).await;
    agreement(&world, COUNTY, "admin", &["sign", &sha256]).unwrap();
    // The gateway forgets, and the server of the two as well: it is in their folders.
    world.gateway.stop().await;
    world.a.stop().await;
    world.gateway.restart().await;
    world.a.restart().await;
    world.b.restart().await;
    signed(&world, B, &sha256, &[COUNTY, A]).await;
    assert!(PARTIES.iter().all(|at| state(&world, at, &id, 1).is_none()));
    agreement(&world, B, "admin", &["sign", &sha256]).unwrap();
    stands(&world, &PARTIES, &id, 1, "IN_FORCE").await;
    world.stop().await;
}
