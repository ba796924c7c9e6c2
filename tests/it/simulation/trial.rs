//! What a hostile part does in a run, and whether it is seen: each of its deeds waits here until it has its
//! name, and breaks a promise when it has none in time.

use super::Hostile;
use super::chance::Chance;
use super::linkage::START;
use super::oracle::TICK_MS_MAX;
use domain::kernel::{GRACE_DAYS, Reason, STALE_HOURS, Timestamp};
use domain::stream::StreamId;
use proto::link::HEAD_LATE_MS;
use std::collections::{BTreeMap, BTreeSet};

/// P6, and the time that ticks are apart here.
pub(super) const NAMED_WITHIN_MS: u64 = HEAD_LATE_MS + TICK_MS_MAX;

/// How a deed is seen.
#[derive(Debug)]
pub(super) enum Sign {
    /// Entries up to here are asked for or come after all, or their stream is called late.
    Hole(StreamId, u64),
    /// The stream is called late.
    Late(StreamId),
    /// One of these is raised, or the link is ended.
    Raised(&'static [Reason]),
    /// An entry of the stream is parked for this.
    Parked(StreamId, Reason),
    /// It does as one must whose word of the authority is old.
    Old,
}

/// Something that was done to a region, and is to be seen by it; to a region that does it itself it is told.
#[derive(Debug)]
struct Deed {
    at: u64,
    /// `None`: by anybody.
    region: Option<usize>,
    sign: Sign,
    /// Once the region has these entries there is nothing left to be seen.
    moot: Option<(StreamId, u64)>,
}

/// Something that a region sees, or is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sight<'a> {
    /// It asks for a stream again from here.
    Wants(&'a StreamId, u64),
    /// It calls a stream late.
    Late(&'a StreamId),
    /// It raises this, or a gateway refuses it with this.
    Raised(Reason),
    /// It ends the link because of what came, or is told that the link ends.
    Ended,
    /// It has applied a stream up to here.
    Applied(&'a StreamId, u64),
    /// It has parked an entry.
    Parked(&'a StreamId, Reason),
    /// It marks what it takes, or takes alerts alone.
    Old,
}

#[derive(Debug)]
pub(super) struct Trial {
    pub(super) what: Hostile,
    /// When it begins and when it ends.
    pub(super) from: u64,
    pub(super) until: u64,
    /// How often something was done.
    pub(super) done: u64,
    /// How often that was seen, and the longest wait until it was.
    pub(super) named: u64,
    pub(super) named_in_ms: u64,
    /// When the authority's word that all hold grows old, where that is what is tried.
    pub(super) grows_old_at: u64,
    /// Then it has lapsed, and was old before.
    pub(super) lapses: bool,
    /// A region whose streams a person must look after.
    pub(super) given_up: Option<usize>,
    deeds: Vec<Deed>,
    applied: BTreeMap<(usize, StreamId), u64>,
    /// Streams that a region calls late, until it is shown something of them.
    late: BTreeSet<(usize, StreamId)>,
    /// Where a region asks a stream again from, until it comes.
    asked: BTreeMap<(usize, StreamId), u64>,
}

impl Trial {
    pub(super) fn new(what: Hostile, chance: &Chance) -> Self {
        let from = chance.within(60_000, 150_000);
        Self {
            what,
            from,
            until: from + chance.within(150_000, 200_000),
            done: 0,
            named: 0,
            named_in_ms: 0,
            grows_old_at: from + chance.within(20_000, 50_000),
            lapses: chance.per_mille(500),
            given_up: None,
            deeds: Vec::new(),
            applied: BTreeMap::new(),
            late: BTreeSet::new(),
            asked: BTreeMap::new(),
        }
    }

    /// When the authority spoke whose word all hold, where that is what is tried.
    pub(super) fn said_at(&self) -> Option<Timestamp> {
        let days = if self.lapses { GRACE_DAYS } else { STALE_HOURS / 24 };
        let grows_old_at = START.plus_millis(self.grows_old_at.cast_signed());
        (self.what == Hostile::WithholdFreshness).then(|| grows_old_at.plus_days(-days))
    }

    pub(super) const fn is_on(&self, now: u64) -> bool {
        self.from <= now && now < self.until
    }

    /// Something was done that needs no name, because nothing comes of it.
    pub(super) const fn did(&mut self) {
        self.done += 1;
    }

    /// A region is shown something of a stream, which so is not late any more.
    pub(super) fn shows(&mut self, region: usize, stream: &StreamId) {
        self.late.remove(&(region, stream.clone()));
    }

    /// Something was done to a region since `at`.
    pub(super) fn did_to(&mut self, at: u64, region: Option<usize>, sign: Sign) {
        self.did();
        if let (Some(region), Sign::Hole(stream, last)) = (region, &sign) {
            let of = (region, stream.clone());
            if self.applied.get(&of).is_some_and(|applied| applied >= last) {
                // It has these entries by another way.
                return;
            }
            let asked = self.asked.get(&of).is_some_and(|from| from <= last);
            if asked || self.late.contains(&of) {
                self.named += 1;
                return;
            }
        }
        self.deeds.push(Deed { at, region, sign, moot: None });
    }

    /// The same, of which nothing is left once the region has these entries.
    pub(super) fn did_unless(&mut self, at: u64, region: usize, sign: Sign, moot: (StreamId, u64)) {
        let applied = self.applied.get(&(region, moot.0.clone()));
        if applied.is_none_or(|applied| *applied < moot.1) {
            self.did();
            self.deeds.push(Deed { at, region: Some(region), sign, moot: Some(moot) });
        }
    }

    pub(super) fn sees(&mut self, now: u64, region: usize, sight: Sight<'_>) {
        match sight {
            Sight::Wants(stream, from) => {
                self.asked.insert((region, stream.clone()), from);
            }
            Sight::Late(stream) => {
                self.late.insert((region, stream.clone()));
            }
            // The next link knows of nothing that this one asked for.
            Sight::Ended => self.asked.retain(|(of, _), _| *of != region),
            Sight::Applied(stream, seq) => {
                let of = (region, stream.clone());
                if self.asked.get(&of).is_some_and(|from| *from <= seq) {
                    self.asked.remove(&of);
                }
                self.applied.insert(of, seq);
            }
            _ => {}
        }
        let is_of = |deed: &Deed| deed.region.is_none_or(|of| of == region);
        if let Sight::Applied(stream, seq) = sight {
            let is_moot = |deed: &Deed| {
                let of = deed.moot.as_ref();
                of.is_some_and(|(of, last)| of == stream && *last <= seq)
            };
            self.deeds.retain(|deed| !(is_of(deed) && is_moot(deed)));
        }
        // One alarm is one deed's; what is asked for, late or there is that of all.
        let once = matches!(sight, Sight::Raised(_) | Sight::Parked(..));
        let mut seen = 0;
        let (named, named_in_ms) = (&mut self.named, &mut self.named_in_ms);
        self.deeds.retain(|deed| {
            if once && seen > 0 || !is_of(deed) || !deed.sign.is(sight) {
                return true;
            }
            seen += 1;
            *named += 1;
            *named_in_ms = (*named_in_ms).max(now.saturating_sub(deed.at));
            false
        });
    }

    /// A deed that has waited for too long.
    pub(super) fn unnamed(&self, now: u64) -> Option<String> {
        let deed = self.deeds.iter().find(|deed| now > deed.at + NAMED_WITHIN_MS)?;
        Some(format!("{} has no name: {deed:?}", self.what.name()))
    }

    /// What is wrong with a run that has come to its end.
    pub(super) fn ends(&self) -> Option<String> {
        let what = self.what.name();
        if self.done == 0 {
            return Some(format!("{what} never happened"));
        }
        let deed = self.deeds.first()?;
        Some(format!("{what} has no name at the end: {deed:?}"))
    }
}

impl Sign {
    fn is(&self, sight: Sight<'_>) -> bool {
        match (self, sight) {
            (Self::Hole(of, last), Sight::Wants(stream, from)) => of == stream && from <= *last,
            (Self::Hole(of, last), Sight::Applied(stream, seq)) => of == stream && seq >= *last,
            (Self::Hole(of, _) | Self::Late(of), Sight::Late(stream)) => of == stream,
            (Self::Hole(..) | Self::Raised(_), Sight::Ended) | (Self::Old, Sight::Old) => true,
            (Self::Raised(reasons), Sight::Raised(reason)) => reasons.contains(&reason),
            (Self::Parked(of, why), Sight::Parked(stream, reason)) => {
                of == stream && *why == reason
            }
            _ => false,
        }
    }
}
