//! Who watches the run from outside and remembers what was promised: the first broken promise ends it.

use super::linkage::{index_of, region_id};
use super::region_disk::RegionDisk;
use super::trial::{Sight, Trial};
use domain::kernel::{Lane, Reason};
use domain::stream::{Position, StreamId};
use proto::exchange::v1::SegmentPiece;
use proto::link::HEAD_LATE_MS;
use std::collections::{BTreeMap, BTreeSet};

/// Ticks are at most this far apart here while anything is open.
pub(super) const TICK_MS_MAX: u64 = 2_000;

/// An entry that a hostile gateway left out, not named yet.
#[derive(Debug)]
struct Hole {
    region: usize,
    gateway: usize,
    stream: StreamId,
    last_seq: u64,
    since: u64,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// The first broken promise.
    pub(super) broken: Option<String>,
    /// Whether a fork was named by a region or a gateway, and when.
    pub(super) fork_named_at: Option<u64>,
    /// When two entries of one name came to be.
    pub(super) forked_at: Option<u64>,
    /// A region is restored without a new epoch: only what comes of it counts.
    pub(super) goes_back: bool,
    /// A fork is expected: it must be named by the parts themselves.
    pub(super) fork_expected: bool,
    /// Somebody is hostile.
    pub(super) trial: Option<Trial>,
    pub(super) counts: Counts,
    /// Chain hash of every entry ever numbered and on disk.
    chains: BTreeMap<StreamId, Vec<[u8; 32]>>,
    acked: [BTreeSet<u64>; 3],
    gateway_acked: [BTreeMap<StreamId, u64>; 2],
    links: BTreeMap<(usize, usize), u64>,
    holes: Vec<Hole>,
    skip_next: BTreeMap<(usize, usize), u32>,
}

/// What a run went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) numbered: u64,
    pub(super) applied: u64,
    pub(super) acked: u64,
    pub(super) holes: u64,
    pub(super) went_back: u64,
    pub(super) forks_named: u64,
    pub(super) converged: u64,
    /// The longest wait for convergence after faults had ended.
    pub(super) converged_in_ms: u64,
    /// What somebody hostile did, what of that was named, and the longest wait for a name.
    pub(super) done: u64,
    pub(super) named: u64,
    pub(super) named_in_ms: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.numbered += other.numbered;
        self.applied += other.applied;
        self.acked += other.acked;
        self.holes += other.holes;
        self.went_back += other.went_back;
        self.forks_named += other.forks_named;
        self.converged += other.converged;
        self.converged_in_ms = self.converged_in_ms.max(other.converged_in_ms);
        self.done += other.done;
        self.named += other.named;
        self.named_in_ms = self.named_in_ms.max(other.named_in_ms);
    }
}

impl Oracle {
    pub(super) fn fail(&mut self, promise: &str, what: String) {
        self.broken.get_or_insert_with(|| format!("{promise}: {what}"));
    }

    /// An origin has numbered entries and they are on disk (P4, P16).
    pub(super) fn numbered(&mut self, now: u64, stream: &StreamId, disk: &RegionDisk) {
        let chain = self.chains.entry(stream.clone()).or_default();
        let rows = &disk.outbox[stream];
        let from = rows.len().saturating_sub(64).min(chain.len().saturating_sub(64));
        let mut forked = None;
        for out in &rows[from..] {
            let Position { seq, h } = out.row.position;
            match chain.get(usize::try_from(seq - 1).unwrap()) {
                Some(known) if *known != h => forked = forked.or(Some(seq)),
                Some(_) => {}
                None => {
                    chain.push(h);
                    self.counts.numbered += 1;
                }
            }
        }
        if let Some(seq) = forked {
            self.forked_at.get_or_insert(now);
            if !self.fork_expected {
                self.fail("P16", format!("{} numbers {seq} a second time", stream.origin));
            }
        }
    }

    /// Whether an entry is as its origin first numbered it.
    pub(super) fn knows(&self, stream: &StreamId, at: Position) -> bool {
        let Some(before) = at.seq.checked_sub(1) else { return true };
        let chain = self.chains.get(stream);
        chain.and_then(|chain| chain.get(usize::try_from(before).ok()?)) == Some(&at.h)
    }

    /// A gateway holds a segment: what it holds was on disk at its origin first.
    pub(super) fn stored(&mut self, _now: u64, stream: &StreamId, after: Position) {
        if !self.fork_expected && !self.knows(stream, after) {
            let promise = self.trial.as_ref().map_or("P4", |trial| trial.what.promise());
            let what = format!("{} sent {} before it was flushed", stream.origin, after.seq);
            self.fail(promise, what);
        }
    }

    /// A region has applied a range and it is on disk (P3, P4, P5).
    pub(super) fn applied(
        &mut self,
        now: u64,
        region: usize,
        _gateway: usize,
        stream: &StreamId,
        disk: &RegionDisk,
    ) {
        self.counts.applied += 1;
        let inbox = &disk.inbox[stream];
        let from = inbox.rows.len().saturating_sub(600);
        let in_order = inbox.rows[from..]
            .iter()
            .zip(from as u64 + 1..)
            .all(|((seq, _), expected)| *seq == expected);
        if !in_order {
            let what = format!(
                "region {region} applied entries of {} twice or not in order",
                stream.origin
            );
            self.fail("P3, P4", what);
        }
        if !self.fork_expected && !self.knows(stream, inbox.applied) {
            let what = format!("region {region} applied what {} never numbered", stream.origin);
            self.fail("P5", what);
        }
        let applied = inbox.applied.seq;
        if let Some(trial) = &mut self.trial {
            trial.sees(now, region, Sight::Applied(stream, applied));
        }
        self.holes.retain(|hole| {
            hole.region != region || hole.stream != *stream || hole.last_seq > applied
        });
    }

    /// A region was shown a stream that it is no party of (P8). A gateway that means to is another matter.
    pub(super) fn shown_to_stranger(&mut self, region: usize, stream: &StreamId) {
        if self.trial.as_ref().is_none_or(|trial| trial.what.is_of_region()) {
            let what = format!("region {region} was shown a stream of {}", stream.origin);
            self.fail("P8", what);
        }
    }

    /// A region has applied an entry of a neighbour whose word of the authority grows old: routine is marked
    /// from then on, or comes no more; alerts go on as ever (P9).
    pub(super) fn confirmed(&mut self, now: u64, lane: Lane, unconfirmed: bool, alone: bool) {
        let Some(trial) = &self.trial else { return };
        let old = alone && trial.is_on(now) && now > trial.grows_old_at + TICK_MS_MAX;
        // What was taken a moment before may be on disk a moment after.
        let sure = !alone || now < trial.grows_old_at || old;
        let broken = match lane {
            Lane::Alert => unconfirmed,
            _ if trial.lapses => old,
            _ => sure && unconfirmed != old,
        };
        if broken {
            let what = format!("{} applied, unconfirmed {unconfirmed}, old {old}", lane.name());
            self.fail("P9", what);
        }
    }

    /// A region signs that it has applied so far.
    pub(super) fn receipt(
        &mut self,
        _now: u64,
        region: usize,
        stream: &StreamId,
        at: Position,
        disk: &RegionDisk,
    ) {
        let applied = disk.inbox.get(stream).map_or(0, |inbox| inbox.applied.seq);
        if at.seq > applied {
            self.fail("P1", format!("region {region} receipts {} of {applied} applied", at.seq));
        }
    }

    /// A server answered a phone.
    pub(super) fn acked(&mut self, region: usize, op: u64) {
        if self.acked[region].insert(op) {
            self.counts.acked += 1;
        }
    }

    /// A gateway said that it has a stream on disk.
    pub(super) fn gateway_acked(&mut self, gateway: usize, stream: &StreamId, at: Position) {
        let seq = self.gateway_acked[gateway].entry(stream.clone()).or_default();
        *seq = (*seq).max(at.seq);
    }

    /// What a region answered is on its disk, and every entry behind its cursor has had its effect.
    pub(super) fn check_region(&mut self, region: usize, disk: &RegionDisk) {
        if let Some(op) = self.acked[region].difference(&disk.ops).next() {
            self.fail("P1", format!("region {region} answered operation {op} and lost it"));
        }
        for (stream, inbox) in &disk.inbox {
            if inbox.rows.len() as u64 != inbox.applied.seq {
                let (rows, applied) = (inbox.rows.len(), inbox.applied.seq);
                let what = format!(
                    "region {region} holds {rows} of {applied} entries of {}",
                    stream.origin
                );
                self.fail("P2", what);
            }
        }
    }

    pub(super) fn check_gateway(&mut self, gateway: usize, last: impl Fn(&StreamId) -> u64) {
        let lost = self.gateway_acked[gateway].iter().find(|(stream, seq)| last(stream) < **seq);
        if let Some((stream, seq)) = lost {
            let what =
                format!("gateway {gateway} acknowledged {seq} of {} and lost it", stream.origin);
            self.fail("P1", what);
        }
    }

    pub(super) fn restored_region(&mut self, region: usize, disk: &RegionDisk) {
        self.acked[region].retain(|op| disk.ops.contains(op));
        // Of what the origin does not know any more it can tell nobody.
        let lost = |hole: &Hole| hole.last_seq > disk.last(&hole.stream).seq;
        let own = region_id(region);
        self.holes
            .retain(|hole| hole.region != region && !(hole.stream.origin == own && lost(hole)));
    }

    pub(super) fn restored_gateway(&mut self, gateway: usize) {
        self.gateway_acked[gateway].clear();
    }

    pub(super) fn went_back(&mut self, _now: u64, stream: &StreamId, open: bool) {
        self.counts.went_back += 1;
        if open && !self.fork_expected && !self.goes_back {
            let what = format!("{} is behind a gateway in its own epoch", stream.origin);
            self.fail("P1", what);
        }
    }

    /// Somebody raised an alarm. Between honest parts none may sound.
    pub(super) fn alarm(&mut self, now: u64, who: &str, reason: Reason) {
        match reason {
            Reason::StreamForked if self.goes_back => {
                self.fork_named_at.get_or_insert(now);
            }
            _ if self.goes_back => {}
            _ if self.trial.as_ref().is_some_and(|it| it.what.may_raise().contains(&reason)) => {}
            // A restored gateway does not know its agreements until a region shows them.
            Reason::AgreementUnknown => {}
            _ => self.fail("alarm", format!("{who} raises {} for nothing", reason.name())),
        }
    }

    pub(super) fn link_up(&mut self, now: u64, region: usize, gateway: usize) {
        self.links.insert((region, gateway), now);
    }

    pub(super) fn link_down(&mut self, region: usize, gateway: usize) {
        self.links.remove(&(region, gateway));
        self.holes.retain(|hole| (hole.region, hole.gateway) != (region, gateway));
    }

    /// The next whole segments to a region are left out by a hostile gateway.
    pub(super) fn skip(&mut self, region: usize, gateway: usize, count: u32) {
        self.skip_next.insert((region, gateway), count);
    }

    /// Whether this piece is left out. Only segments of one piece are, as a gateway would.
    pub(super) fn skips(
        &mut self,
        now: u64,
        region: usize,
        gateway: usize,
        piece: &SegmentPiece,
    ) -> bool {
        let Some(left) = self.skip_next.get_mut(&(region, gateway)) else { return false };
        let whole = piece.data.len() == piece.total_size as usize;
        // What goes to a region that has just died is missed by nobody.
        if *left == 0 || !whole || !self.links.contains_key(&(region, gateway)) {
            return false;
        }
        *left -= 1;
        let segment = seal::segment::Segment::parse(piece.data.clone()).unwrap();
        self.counts.holes += 1;
        self.holes.push(Hole {
            region,
            gateway,
            stream: segment.stream().clone(),
            last_seq: segment.last_seq(),
            since: now,
        });
        true
    }

    /// A recipient named what is missing: from `from_seq` on, or (0) that it has no fresh word.
    pub(super) fn wanted(
        &mut self,
        region: usize,
        gateway: usize,
        stream: &StreamId,
        from_seq: u64,
    ) {
        self.holes.retain(|hole| {
            (hole.region, hole.gateway) != (region, gateway)
                || hole.stream != *stream
                || hole.last_seq < from_seq
        });
    }

    /// Every hole that has been there for 65 s has a name (P6). One at the start of a stream can only
    /// be seen once a head comes, so there the time counts from when the origin is connected.
    pub(super) fn check_holes(
        &mut self,
        now: u64,
        applied: impl Fn(usize, &StreamId) -> u64,
        is_late: impl Fn(usize, usize, &StreamId) -> bool,
    ) {
        let limit_ms = HEAD_LATE_MS + TICK_MS_MAX;
        self.holes.retain(|hole| applied(hole.region, &hole.stream) < hole.last_seq);
        let links = &self.links;
        let unnamed = self.holes.iter().find(|hole| {
            let origin = (index_of(&hole.stream.origin), hole.gateway);
            let known = applied(hole.region, &hole.stream) > 0;
            let since = if known { Some(hole.since) } else { links.get(&origin).copied() };
            let overdue = since.is_some_and(|since| now > since.max(hole.since) + limit_ms);
            // It may have had no fresh word of the stream before the hole came to be.
            overdue && !is_late(hole.region, hole.gateway, &hole.stream)
        });
        if let Some(hole) = unnamed {
            let what = format!("region {} does not name a hole: {hole:?}", hole.region);
            self.fail("P6", what);
        }
    }

    /// Everything that somebody hostile did has a name in time.
    pub(super) fn check_trial(&mut self, now: u64) {
        let Some(trial) = &self.trial else { return };
        if let Some(what) = trial.unnamed(now) {
            self.fail(trial.what.promise(), what);
        }
    }

    /// What became of what somebody hostile did.
    pub(super) fn end_trial(&mut self) {
        let Some(trial) = &self.trial else { return };
        let Trial { done, named, named_in_ms, .. } = *trial;
        self.counts = Counts { done, named, named_in_ms, ..self.counts };
        if let Some(what) = trial.ends() {
            self.fail(trial.what.promise(), what);
        }
    }

    /// Whether a hole is open.
    pub(super) fn has_holes(&self) -> bool {
        !self.holes.is_empty()
    }

    pub(super) fn converged(&mut self, in_ms: u64) {
        self.counts.converged += 1;
        self.counts.converged_in_ms = self.counts.converged_in_ms.max(in_ms);
    }
}
