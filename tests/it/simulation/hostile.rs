//! Goal: what a gateway or a region does on purpose is named within 65 s by those to whom it is visible, or
//! nothing comes of it; and no promise is broken by it.
//!
//! Method: the same world without faults for some minutes, in which one gateway or one region does one bad
//! thing again and again, from a random moment on. Half of the worlds have no other gateway. The hostile
//! parts are the honest ones, bent where something leaves them, so that what they show is as good as it can
//! be without the keys of others. Each deed waits in `trial` until it is seen. Once the bad part is put
//! right, all agree within a minute. Regions that look away and gateways that take all show that it counts.

use super::oracle::Counts;
use super::{Bad, Hostile, Mode, Options, run, run_all};
use domain::kernel::Reason;
use std::collections::BTreeMap;

/// Seeds after which a mistake must have been seen.
const SEEDS_UNTIL_SEEN: u64 = 12;

impl Hostile {
    pub(super) const ALL: [Self; 15] = [
        Self::Drop,
        Self::Reorder,
        Self::Duplicate,
        Self::Fork,
        Self::StaleHeads,
        Self::OldHeads,
        Self::SwapAgreements,
        Self::HandOn,
        Self::Truncate,
        Self::Forge,
        Self::WithholdFreshness,
        Self::SpeakForOthers,
        Self::OverRead,
        Self::Flood,
        Self::Poison,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reorder => "reorder",
            Self::Duplicate => "duplicate",
            Self::Fork => "fork",
            Self::StaleHeads => "stale-heads",
            Self::OldHeads => "old-heads",
            Self::SwapAgreements => "swap-agreements",
            Self::HandOn => "hand-on",
            Self::Truncate => "truncate",
            Self::Forge => "forge",
            Self::WithholdFreshness => "withhold-freshness",
            Self::SpeakForOthers => "speak-for-others",
            Self::OverRead => "over-read",
            Self::Flood => "flood",
            Self::Poison => "poison",
        }
    }

    /// The promise that is broken when it has no name.
    pub(super) const fn promise(self) -> &'static str {
        match self {
            Self::Forge | Self::SpeakForOthers => "P5",
            Self::SwapAgreements | Self::HandOn | Self::OverRead => "P8",
            Self::WithholdFreshness => "P9",
            Self::Flood | Self::Poison => "P10",
            _ => "P6",
        }
    }

    pub(super) const fn is_of_region(self) -> bool {
        matches!(self, Self::SpeakForOthers | Self::OverRead | Self::Flood | Self::Poison)
    }

    /// Whether each run must have had something to name: what is only there twice has no effect, and a word
    /// that one gateway withholds another passes on.
    pub(super) const fn needs_name(self) -> bool {
        !matches!(self, Self::Duplicate | Self::WithholdFreshness)
    }

    /// What may be raised because of it; anything else is an alarm for nothing.
    pub(super) const fn may_raise(self) -> &'static [Reason] {
        use Reason::{
            AgreementUnknown, ChainBroken, EntryUnreadable, FieldInvalid, LimitExceeded, NotAParty,
            ProtocolViolation, SignatureInvalid, StreamForked, SuiteUnknown, TrustStale, WentBack,
        };
        match self {
            Self::Fork => &[StreamForked, WentBack],
            Self::SwapAgreements | Self::HandOn | Self::Forge => {
                &[SignatureInvalid, NotAParty, AgreementUnknown, ChainBroken]
            }
            Self::SpeakForOthers => {
                &[ProtocolViolation, NotAParty, SignatureInvalid, LimitExceeded]
            }
            Self::OverRead => &[NotAParty, LimitExceeded, ChainBroken],
            Self::Flood => &[
                FieldInvalid,
                SuiteUnknown,
                SignatureInvalid,
                EntryUnreadable,
                ProtocolViolation,
                LimitExceeded,
            ],
            // What comes in the moment before its link has ended is refused.
            Self::WithholdFreshness => &[TrustStale],
            Self::Poison => &[LimitExceeded],
            _ => &[],
        }
    }
}

pub(super) const fn options(seed: u64, hostile: Hostile) -> Options {
    let hostile = Some(hostile);
    Options { seed, days: 1, mode: Mode::Liveness, bad: None, hostile, trace: false }
}

#[test]
fn a_thousand_hostile_runs_are_named_in_time_or_do_nothing() {
    let behaviours = Hostile::ALL.iter().cycle();
    let runs: Vec<_> = behaviours.zip(0..1_000).map(|(what, seed)| options(seed, *what)).collect();
    let mut table: BTreeMap<Hostile, (u64, Counts)> = BTreeMap::new();
    for (what, counts) in run_all(&runs, |options, counts| (options.hostile.unwrap(), counts)) {
        let (runs, all) = table.entry(what).or_default();
        *runs += 1;
        all.add(counts);
    }
    for (what, (runs, Counts { done, named, named_in_ms, converged, .. })) in &table {
        println!(
            "{:20} {runs} runs, {done} deeds, {named} named, the last after {named_in_ms} ms, {converged} agreed",
            what.name()
        );
        // A run in which nothing happens fails by itself; here one in which all agree never.
        assert!(*runs >= 66 && (*what == Hostile::Fork || converged == runs), "{what:?}");
        assert!(!what.needs_name() || named > done.min(runs), "{what:?}");
    }
}

#[test]
fn a_hostile_run_can_be_repeated() {
    for what in Hostile::ALL {
        let [first, second] = [(); 2].map(|()| run(options(3, what)).map_err(|it| it.to_string()));
        assert_eq!(first, second);
    }
}

/// How a mistake shows when somebody is hostile.
fn seen(bad: Bad, what: Hostile, promise: &str) {
    for seed in 0..SEEDS_UNTIL_SEEN {
        if let Err(broken) = run(Options { bad: Some(bad), ..options(seed, what) }) {
            let seen = broken.what.split_once(": ").unwrap().1.starts_with(promise);
            assert!(seen && !broken.what.starts_with("00:00"), "{}", broken.what);
            println!("{bad:?}, {}: seed {seed}, {}", what.name(), broken.what);
            return;
        }
    }
    panic!("nobody saw {bad:?} under {}", what.name());
}

#[test]
fn a_region_that_looks_away_is_seen() {
    for what in [
        Hostile::Drop,
        Hostile::Reorder,
        Hostile::Fork,
        Hostile::StaleHeads,
        Hostile::SwapAgreements,
        Hostile::Truncate,
        Hostile::Forge,
    ] {
        seen(Bad::SaysNothing, what, what.promise());
    }
}

#[test]
fn a_region_that_believes_forgers_is_seen() {
    seen(Bad::BelievesForgers, Hostile::Forge, "P5");
}

#[test]
fn a_region_that_applies_what_comes_as_it_comes_is_seen() {
    seen(Bad::AnyOrder, Hostile::Duplicate, "P3, P4");
    seen(Bad::AnyOrder, Hostile::Reorder, "P3, P4");
}

#[test]
fn a_region_that_does_not_ask_how_old_the_authoritys_word_is_is_seen() {
    seen(Bad::Timeless, Hostile::WithholdFreshness, "P9");
}

#[test]
fn a_gateway_that_takes_whatever_comes_is_seen() {
    for what in [Hostile::SpeakForOthers, Hostile::OverRead, Hostile::Flood] {
        seen(Bad::TakesAll, what, what.promise());
    }
}

#[test]
fn a_region_that_stops_at_what_it_cannot_use_is_seen() {
    seen(Bad::NeverParks, Hostile::Poison, "P10");
}
