//! Goal: no order of losses, crashes, partitions and restores breaks a promise between three regions and
//! two gateways, and whenever faults end all hold the same.
//!
//! Method: the real cores (`exchange::send`, `receive`, `open`, `cut`; the gateway's `delivery`, `intake`,
//! `outbox`, `registry`; `domain::sharing`; real seals and signatures) run on one thread between a model
//! of store, network, clock and chance, driven by a queue of events that skips idle time. Everything
//! comes from one seed: the same seed gives the same run. An oracle remembers what was answered,
//! numbered and applied, and stops the run at the first broken promise. Known-bad variants show that it
//! sees them. What somebody does on purpose is in `hostile`.

#![expect(clippy::print_stdout, reason = "a run shows what it went through, a replay each step")]

mod bus;
mod chance;
mod gateway_disk;
mod gateway_flush;
mod gateway_malice;
mod gateway_node;
mod hostile;
mod link;
mod linkage;
mod load;
mod oracle;
mod region;
mod region_disk;
mod region_flush;
mod region_malice;
mod trial;
mod world;

use oracle::Counts;
use std::fmt;
use world::World;

/// What a run is asked to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Faults never end; what was promised holds at every step.
    Safety,
    /// Faults end now and then; within a minute all agree.
    Liveness,
}

/// A mistake that the oracle must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// A region answers its phones before the flush.
    AnswerBeforeFlush,
    /// A region's cursor is on disk before its views are.
    CursorBeforeViews,
    /// A region applies whatever comes.
    NoDedupe,
    /// A gateway says that it has stored what is not flushed.
    StoredBeforeFlush,
    /// A region that was restored goes on in its old epoch.
    RestoreWithoutEpoch,
    /// A region sees what is missing, late or forged, and neither asks for it nor says so.
    SaysNothing,
    /// A region believes whoever signs in another's name.
    BelievesForgers,
    /// A region applies segments in the order in which they come.
    AnyOrder,
    /// A region does not ask how old the authority's word is.
    Timeless,
    /// A region stops at what it cannot use.
    NeverParks,
    /// A gateway takes whatever a region sends, and shows it what it asks for.
    TakesAll,
}

/// What somebody does on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hostile {
    /// A gateway says of one segment in some that it has stored it, and has not.
    Drop,
    /// A gateway shows segments in another order.
    Reorder,
    /// A gateway shows segments again and again.
    Duplicate,
    /// A gateway shows one chain of a restored region to one party and another to another.
    Fork,
    /// A gateway keeps back what is new of a stream.
    StaleHeads,
    /// The same, and it shows what is old again and again.
    OldHeads,
    /// A gateway shows what was said under one agreement as if it were said under another.
    SwapAgreements,
    /// A gateway hands a stream to a region that is no party of it.
    HandOn,
    /// A gateway cuts segments short, or a stream.
    Truncate,
    /// A gateway alters what it forwards and makes up what was never written.
    Forge,
    /// A gateway does not pass on what the authority says.
    WithholdFreshness,
    /// A region signs in another's name.
    SpeakForOthers,
    /// A region asks for what it is no party of.
    OverRead,
    /// A region sends more than it may.
    Flood,
    /// A region writes what nobody can use.
    Poison,
}

/// Names a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) days: u64,
    pub(super) mode: Mode,
    pub(super) bad: Option<Bad>,
    /// What somebody does on purpose. Then the run is short and has no other faults.
    pub(super) hostile: Option<Hostile>,
    pub(super) trace: bool,
}

/// A broken promise, and how to see it again.
struct Broken {
    options: Options,
    what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { seed, days, mode, hostile, .. } = self.options;
        if let Some(hostile) = hostile {
            let name = hostile.name();
            writeln!(f, "seed {seed}, {name}, {}", self.what)?;
            write!(f, "replay: WULING_SIM=\"seed={seed} hostile={name} trace\" ")?;
            return write!(f, "cargo test -p tests --test it -- simulation::replay --nocapture");
        }
        let mode = if mode == Mode::Safety { "safety" } else { "liveness" };
        writeln!(f, "seed {seed}, {mode}, {}", self.what)?;
        write!(f, "replay: cargo xtask sim --seed {seed} --mode {mode} --days {days} --trace")
    }
}

fn run(options: Options) -> Result<(Counts, u64), Broken> {
    World::new(options).run().map_err(|what| Broken { options, what })
}

fn options(seed: u64, mode: Mode) -> Options {
    Options { seed, days: 1, mode, bad: None, hostile: None, trace: false }
}

/// Runs all of these, on two threads; gives what each went through, or fails with the first broken promise.
fn run_all<T: Send>(runs: &[Options], of: impl Fn(&Options, Counts) -> T + Sync) -> Vec<T> {
    let each = |parity| {
        let mine = runs.iter().skip(parity).step_by(2);
        let went = mine.map(|options| match run(*options) {
            Ok((counts, _)) => of(options, counts),
            Err(broken) => panic!("{broken}"),
        });
        went.collect::<Vec<_>>()
    };
    let (mut all, odd) = std::thread::scope(|scope| {
        let odd = scope.spawn(|| each(1));
        (each(0), odd.join())
    });
    match odd {
        Ok(odd) => all.extend(odd),
        Err(broken) => std::panic::resume_unwind(broken),
    }
    all
}

/// A day for each seed.
fn days(mode: Mode, seeds: std::ops::Range<u64>) {
    let runs: Vec<_> = seeds.map(|seed| options(seed, mode)).collect();
    let mut all = Counts::default();
    for counts in run_all(&runs, |_, counts| counts) {
        all.add(counts);
    }
    println!("{all:?}");
    // A run in which nothing happens proves nothing.
    assert!(all.numbered > 1_000 && all.applied > 1_000 && all.holes > 10, "{all:?}");
}

#[test]
fn a_hundred_days_of_faults_break_no_promise() {
    days(Mode::Safety, 0..100);
}

#[test]
fn all_agree_within_a_minute_whenever_faults_end() {
    days(Mode::Liveness, 1_000..1_100);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for mode in [Mode::Safety, Mode::Liveness] {
        let [first, second] = [(); 2].map(|()| run(options(7, mode)).map_err(|it| it.to_string()));
        assert_eq!(first, second);
    }
}

/// How many seeds it takes until a mistake is seen.
fn seeds_until_seen(bad: Bad, promise: &str) -> u64 {
    for seed in 0..10 {
        if let Err(broken) = run(Options { bad: Some(bad), ..options(seed, Mode::Safety) }) {
            let seen = broken.what.split_once(": ").unwrap().1.starts_with(promise);
            assert!(seen, "{}", broken.what);
            println!("{bad:?}: seed {seed}, {}", broken.what);
            return seed + 1;
        }
    }
    panic!("nobody saw {bad:?}");
}

#[test]
fn a_region_that_answers_before_the_flush_is_seen() {
    assert!(seeds_until_seen(Bad::AnswerBeforeFlush, "P1") <= 5);
}

#[test]
fn a_cursor_that_is_on_disk_before_its_views_is_seen() {
    assert!(seeds_until_seen(Bad::CursorBeforeViews, "P2") <= 5);
}

#[test]
fn a_region_that_applies_twice_is_seen() {
    assert!(seeds_until_seen(Bad::NoDedupe, "P3") <= 5);
}

#[test]
fn a_gateway_that_acknowledges_before_the_flush_is_seen() {
    assert!(seeds_until_seen(Bad::StoredBeforeFlush, "P1") <= 5);
}

#[test]
fn a_restore_without_an_epoch_is_seen_as_a_fork() {
    assert!(seeds_until_seen(Bad::RestoreWithoutEpoch, "P16") <= 5);
}

/// The same mistake, with an oracle that looks away: the regions and gateways must see it themselves.
#[test]
fn a_fork_is_named_by_those_who_are_shown_it() {
    let bad = Some(Bad::RestoreWithoutEpoch);
    let mut all = Counts::default();
    for seed in 0..5 {
        match run(Options { bad, ..options(seed, Mode::Liveness) }) {
            Ok((counts, _)) => all.add(counts),
            Err(broken) => panic!("{broken}"),
        }
    }
    assert!(all.forks_named > 0, "no run had a fork");
}

/// `cargo xtask sim` runs this test alone and names the run; in CI it has nothing to do.
#[test]
fn replay() {
    #[expect(clippy::disallowed_methods, reason = "a test has no arguments of its own")]
    let Ok(words) = std::env::var("WULING_SIM") else { return };
    let mut asked = options(0, Mode::Safety);
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("seed", value) => asked.seed = value.parse().unwrap(),
            ("days", value) => asked.days = value.parse().unwrap(),
            ("mode", "safety") => asked.mode = Mode::Safety,
            ("mode", "liveness") => asked.mode = Mode::Liveness,
            ("hostile", name) => {
                let named = Hostile::ALL.iter().find(|hostile| hostile.name() == name);
                asked = hostile::options(asked.seed, *named.expect("a behaviour"));
            }
            ("trace", _) => asked.trace = true,
            _ => panic!("unknown: {word}"),
        }
    }
    match run(asked) {
        Ok((counts, steps)) => println!("{steps} steps, no promise broken: {counts:?}"),
        Err(broken) => panic!("{broken}"),
    }
}
