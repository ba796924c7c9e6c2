//! Each of three servers is killed a hundred times under load, by SIGKILL at random moments and by itself
//! at named points; nothing that was answered is lost, nothing is applied twice, nothing is out of order.
//!
//! The oracle is what phones saw acknowledged (in a flushed log of the harness), what officers saw who
//! watched through it all, and the stores. Three servers that break a promise prove that it can see.
//! `cargo xtask kill` runs it longer, or again with the seed that a failure printed.

#![expect(clippy::print_stdout, reason = "a run tells its seed and what it went through")]

use crate::harness::{Lane, Victim, binary};
use domain::kernel::Entropy as _;
use runtime::clock::SystemEntropy;
use storage::known_bad::{POINTS, PREFIX, VARIANTS};
use tokio::time::Instant;

/// Times that each server is killed, unless `cargo xtask kill` says otherwise.
const CYCLES: usize = 100;
/// Cycles within which a server that breaks a promise must be caught.
const CONTROL_CYCLES: usize = 20;
/// From so many cycles on, each named point must have had its turn.
const CYCLES_MANY: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_disordered_when_the_origin_is_killed_a_hundred_times() {
    survives(Victim::Origin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_disordered_when_the_gateway_is_killed_a_hundred_times() {
    survives(Victim::Gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_disordered_when_the_recipient_is_killed_a_hundred_times() {
    survives(Victim::Recipient).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_flush_is_caught() {
    caught(Victim::Origin, "known-bad:answer-before-flush", "P1").await;
    caught(Victim::Recipient, "known-bad:answer-before-flush", "P1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_by_numbers_that_commit_out_of_order_is_caught() {
    caught(Victim::Recipient, "known-bad:id-cursor-poller", "P4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedupe_that_forgets_is_caught() {
    caught(Victim::Recipient, "known-bad:dedupe-that-forgets", "P3").await;
}

/// Kills a good server over and over; all promises hold after each time and in the end.
async fn survives(victim: Victim) {
    let cycles =
        asked("WULING_KILL_CYCLES").map_or(CYCLES, |cycles| usize::try_from(cycles).unwrap());
    let (seed, began) = (seed(), Instant::now());
    let mut lane = Lane::start(victim, None, seed).await;
    for cycle in 1..=cycles {
        let faults = lane.cycle().await;
        assert!(faults.is_empty(), "{}", told(&faults, victim, cycle, seed));
    }
    let faults = lane.finish().await;
    println!("{cycles} cycles in {:?}, seed {seed}: {}", began.elapsed(), lane.report());
    assert!(faults.is_empty(), "{}", told(&faults, victim, cycles, seed));
    let missed = victim.points().iter().filter(|point| !lane.deaths.contains_key(*point));
    let missed: Vec<_> = missed.collect();
    assert!(cycles < CYCLES_MANY || missed.is_empty(), "nothing died at {missed:?}");
}

/// Kills a bad server until the checker says that it breaks this promise.
async fn caught(victim: Victim, variant: &'static str, promise: &str) {
    let (seed, began) = (seed(), Instant::now());
    let mut lane = Lane::start(victim, Some(variant), seed).await;
    let mut others = Vec::new();
    for cycle in 1..=CONTROL_CYCLES {
        let faults = lane.cycle().await;
        if let Some(fault) = faults.iter().find(|fault| fault.starts_with(promise)) {
            let took = began.elapsed();
            println!("{variant} at {victim:?}: caught after {cycle} cycles in {took:?}: {fault}");
            return;
        }
        others.extend(faults);
    }
    panic!("{variant} was not caught: {}", told(&others, victim, CONTROL_CYCLES, seed));
}

/// The first faults, and how to see them again.
fn told(faults: &[String], victim: Victim, cycle: usize, seed: u64) -> String {
    let some = faults[..faults.len().min(5)].join("\n");
    let again = format!("cargo xtask kill --cycles {cycle} --seed {seed}");
    format!("{victim:?}, cycle {cycle}: {} faults:\n{some}\nagain: {again}", faults.len())
}

/// The seed asked for, or a fresh one.
fn seed() -> u64 {
    let seed = asked("WULING_KILL_SEED").unwrap_or_else(|| {
        let mut drawn = [0; 4];
        SystemEntropy.fill(&mut drawn);
        u32::from_be_bytes(drawn).into()
    });
    println!("seed {seed}");
    seed
}

/// What `cargo xtask kill` asks for; a test takes no flags of ours.
#[expect(
    clippy::disallowed_methods,
    reason = "set by `cargo xtask kill` alone, for this test alone"
)]
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// The control of the check that releases hold none of it (`cargo xtask ci` does that).
#[test]
fn the_programs_under_test_hold_the_known_bad_behaviour_by_the_names_a_release_is_searched_for() {
    let variants = VARIANTS.iter().map(|(name, _)| *name);
    let points = POINTS.iter().map(|(name, _)| *name);
    let names: Vec<&str> = variants.chain(points).collect();
    for program in ["wuling-region", "wuling-gateway"] {
        let bytes = std::fs::read(binary(program)).unwrap();
        for name in &names {
            assert!(name.starts_with(PREFIX), "{name} is not searched for");
            let found = bytes.windows(name.len()).any(|window| window == name.as_bytes());
            assert!(found, "{program} does not hold {name}");
        }
    }
    let search = include_str!("../../deploy/xtask/src/kill.rs");
    assert!(search.contains(&format!("b\"{PREFIX}\"")), "releases are searched for something else");
}
