//! Goal: a region changes its keys by plan and nobody notices but the directory: what is on its way arrives once and in
//! order, what was agreed goes on, also for who was away; and a former key that is revoked is worth nothing. Method:
//! three real processes, `wuling` as an operator calls it, load all the while.

use crate::harness::{A, ARRIVES, AckLog, B, Pusher, Watcher, World, binary, converged, event};
use crate::harness::{faults, region, until, views};
use crate::trust::{HEARD, open, publish, report, trust_of};
use crate::verify::findings;
use cli::authority::Authority;
use cli::linkage::hex;
use cli::phone::Phone;
use domain::kernel::Role;
use domain::operation::Change;
use seal::key::key_fingerprint;
use std::process::{Command, Output};
use std::time::Duration;

/// Records that are reported while keys change.
const BATCHES: usize = 120;
const BATCH_SIZE: usize = 5;
const RECORDS: usize = BATCHES * BATCH_SIZE;
/// All of it is reported and received.
const WHOLE: Duration = Duration::from_secs(120);

fn wuling(words: &[&str]) -> Output {
    Command::new(binary("wuling")).args(words).output().unwrap()
}

fn done(words: &[&str]) -> String {
    let output = wuling(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Draws A's next keys and has the authority publish them; the gateway is shown it.
async fn rotate(world: &World) -> Authority {
    let [data, authority, card] =
        ["a", "authority", "a.card"].map(|name| world.path(name).display().to_string());
    done(&["region", "rotate", "--data", &data, "--region", A, "--card", &card]);
    let said = done(&["authority", "publish", "--dir", &authority, &card]);
    assert!(said.contains(&format!("{A}: changes keys")), "{said}");
    let signer = open(world);
    publish(world, &signer).await;
    let keys = world.path("a").join("regions").join(A);
    until("A has taken its next keys", HEARD, async || !keys.join("signing.next").exists()).await;
    signer
}

async fn heard(world: &World, data: &str, signer: &Authority) {
    let newest = signer.trust().signed_at();
    until("it has heard the authority", HEARD, async || {
        trust_of(world, data).signed_at() == newest
    })
    .await;
}

fn assert_nothing_refused(world: &World) {
    for name in ["a.log", "b.log", "gateway.log"] {
        let log = std::fs::read_to_string(world.path(name)).unwrap();
        for reason in ["SIGNATURE_INVALID", "REGION_REVOKED", "AGREEMENT_UNKNOWN"] {
            let line = log.lines().find(|line| line.contains(reason));
            assert_eq!(line, None, "{name}");
        }
    }
}

/// Changes A's keys twice under load, the second time while its neighbour is away: all arrives once and in order.
async fn rotate_twice(world: &mut World, desk_b: &Phone) -> Authority {
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let watcher = Watcher::start(desk_b.channel().clone());
    let acked = world.path("acked");
    let mut pusher = Pusher::start(phone, &acked, BATCHES, BATCH_SIZE);

    // With all lines open.
    pusher.reached(RECORDS / 6, WHOLE).await;
    let first = rotate(world).await;
    heard(world, "b", &first).await;
    let soon = pusher.reached(1, WHOLE).await + RECORDS / 6;
    pusher.reached(soon.min(RECORDS), WHOLE).await;
    // Segments under the key of before wait for the neighbour at the gateway.
    world.b.stop().await;
    let soon = pusher.reached(1, WHOLE).await + RECORDS / 6;
    pusher.reached(soon.min(RECORDS), WHOLE).await;
    let second = rotate(world).await;
    pusher.finish(WHOLE).await;
    world.b.restart().await;
    heard(world, "b", &second).await;
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), WHOLE).await, RECORDS as u64);
    until("all is shown", ARRIVES, async || watcher.count() >= RECORDS).await;
    let acked = AckLog::read(&acked, 0).into_iter().map(|ack| (ack.record, ack.revision));
    assert_eq!(faults(&acked.collect(), &watcher.seen(0)), Vec::<String>::new());
    assert_nothing_refused(world);
    second
}

/// A card with other keys and nothing that leads to them is not published by mistake.
fn assert_no_change_without_a_chain(world: &World, signer: &Authority) {
    let [authority, card] =
        ["authority", "forged.card"].map(|name| world.path(name).display().to_string());
    let mut forged = signer.trust().authority_directory().unwrap();
    forged.regions.retain(|id, _| *id == region(A));
    forged.gateways.clear();
    let own = forged.regions.get_mut(&region(A)).unwrap();
    (own.signing_key, own.former_keys) = ([7; 32], Vec::new());
    std::fs::write(&card, proto::convert::directory::encode(&forged)).unwrap();
    let refused = wuling(&["authority", "publish", "--dir", &authority, &card]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("no change that leads"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_under_load_and_a_former_key_that_is_revoked_is_worth_nothing() {
    let mut world = World::start().await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let second = rotate_twice(&mut world, &desk_b).await;
    let listed = &second.trust().directory.regions[&region(A)];
    assert_eq!(listed.former_keys.len(), 2);
    world.stop().await;
    for data in ["a", "b", "gateway"] {
        assert_eq!(findings(&world.path(data)), Vec::new(), "{data}");
    }
    for process in [&mut world.gateway, &mut world.a, &mut world.b] {
        process.restart().await;
    }

    assert_no_change_without_a_chain(&world, &second);
    // The key between is revoked: what was agreed under the one before it goes on.
    let mut phone = world.enrol(A, Role::Patroller, "last").await;
    let revoke = |former: usize| {
        let key = hex(&key_fingerprint(&listed.former_keys[former].signing_key));
        let authority = world.path("authority").display().to_string();
        let words = ["authority", "revoke", "--dir", &authority, "--region", A, "--former-key"];
        done(&[&words[..], &[key.as_str()]].concat());
        open(&world)
    };
    let between = revoke(1);
    publish(&world, &between).await;
    heard(&world, "b", &between).await;
    report(&mut phone, Change::ReportEvent(event("塌方"))).await;
    until("it arrives", ARRIVES, async || views(desk_b.channel()).await == RECORDS + 1).await;
    // The one under which it was agreed: it does not go on.
    let agreed = revoke(0);
    publish(&world, &agreed).await;
    heard(&world, "b", &agreed).await;
    heard(&world, "a", &agreed).await;
    report(&mut phone, Change::ReportEvent(event("积水"))).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(views(desk_b.channel()).await, RECORDS + 1);
    assert!(open(&world).trust().find_region(&region(A)).is_some(), "it is in the linkage still");
    drop(phone);
    world.stop().await;
}
