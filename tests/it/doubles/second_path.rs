//! What a gateway keeps from a region, alone or with an origin that is of one mind with it, the region finds out by
//! asking the origin; without the second path it does not.

use super::{ARRIVES, Conduct, Pair, alarms, arrives, stores, tell};
use crate::harness::{A, B, until, views};
use crate::second_path::{asks, list};
use cli::phone::Phone;
use domain::kernel::{Reason, Role};
use std::time::Duration;

/// How often a region asks here; it is a day as a rule.
const EVERY_S: u64 = 10;
/// A question comes after fifteen seconds at the latest, or a minute where the origin was just started.
const NAMED: Duration = Duration::from_secs(75);

/// A pair, of which B asks A so often.
async fn asking(every_s: u64) -> (Pair, Phone, Phone) {
    let mut pair = Pair::plain().await;
    list(pair.dir.path(), &[(A, pair.a.port)]);
    let config = pair.dir.path().join("b.toml");
    asks(&mut pair.b, &config, every_s).await;
    let phone = pair.enrol(A, Role::Patroller).await;
    let desk = pair.enrol(B, Role::DutyOfficer).await;
    (pair, phone, desk)
}

/// A stream of which the gateway has never shown anything.
async fn hidden(every_s: u64) -> (Pair, Phone) {
    let (pair, mut phone, desk) = asking(every_s).await;
    pair.gateway.conduct(Conduct::KeepBack);
    tell(&mut phone, "kept back").await;
    (pair, desk)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_hides_a_stream_is_named_and_passed_by() {
    let ((pair, desk), (control, blind)) = tokio::join!(hidden(EVERY_S), hidden(0));
    until("it comes all the same", NAMED, async || views(desk.channel()).await == 1).await;
    until("it is named", ARRIVES, async || pair.raised(Reason::HeldBack) > 0).await;
    let heard = Duration::from_secs(2 * EVERY_S);
    tokio::time::sleep(heard).await;
    assert_eq!((pair.raised(Reason::HeldBack), pair.raised(Reason::StreamForked)), (1, 0));
    assert_eq!(views(blind.channel()).await, 0, "nobody else brings it");
    assert_eq!(control.raised(Reason::HeldBack), 0);
}

/// One history of a restored region for B; then another, of which B is shown nothing, nor any receipt.
async fn forked(every_s: u64) -> Pair {
    let (mut pair, mut phone, desk) = asking(every_s).await;
    tell(&mut phone, "before").await;
    arrives(&desk, 1).await;
    let places = pair.gateway.places();
    let folder = pair.dir.path().join("a/regions").join(A);
    pair.a.stop().await;
    let copy = stores(&folder);
    pair.a.restart().await;
    tell(&mut phone, "the first history").await;
    arrives(&desk, 2).await;
    pair.gateway.mute(true);
    pair.gateway.blind(&[B]);
    pair.a.stop().await;
    for path in stores(&folder).into_keys() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in copy {
        std::fs::write(path, bytes).unwrap();
    }
    pair.gateway.fork(&places);
    // As it is, it would leave the epoch.
    pair.a.configure(&["known-bad:restore-without-epoch".to_owned()]);
    pair.a.restart().await;
    tell(&mut phone, "the second history").await;
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_of_which_gateway_and_origin_are_of_one_mind_is_named_by_who_asks() {
    let (pair, control) = tokio::join!(forked(EVERY_S), forked(0));
    until("the fork is named", NAMED, async || pair.raised(Reason::StreamForked) > 0).await;
    assert!(alarms(&pair.a, Reason::StreamForked) > 0, "both are told");
    assert_eq!(control.raised(Reason::StreamForked), 0, "there is no other way to see it");
    assert_eq!(alarms(&control.a, Reason::StreamForked), 0);
}
