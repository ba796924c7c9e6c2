//! What a hostile gateway does with what leaves it. Its store, its registry and its delivery stay honest: so
//! what is lost, late or forged is so on purpose, and everything around it is as good as it can be.

use super::bus::Bus;
use super::link::Down;
use super::linkage::{Linkage, forger, index_of};
use super::trial::Sign;
use super::{Hostile, linkage};
use bytes::Bytes;
use domain::kernel::{Lane, Reason, RegionId};
use domain::stream::StreamId;
use prost::{Message as _, bytes};
use proto::exchange::v1 as pb;
use proto::kernel::v1::SignedObject;
use proto::link::{Assembler, pieces};
use seal::key::{SigningKey, sha256};
use seal::segment::{Range, SaltedEntry, Segment, segment_id};
use seal::signed::{Head, Receipt};
use std::collections::{BTreeMap, BTreeSet};

/// A segment that waits to be shown behind a later one is shown after so long in any case.
const HELD_MS_MAX: u64 = 10_000;

const FORGED: &[Reason] = &[Reason::SignatureInvalid];
const STRANGE: &[Reason] = &[Reason::AgreementUnknown, Reason::NotAParty];

/// A stream as one region was shown it.
type Showing = (usize, StreamId);

#[derive(Debug)]
struct Shown {
    lane: Lane,
    bytes: Bytes,
    segment: Segment,
}

pub(super) struct Malice {
    what: Hostile,
    /// Whom it harms, where it harms one, and in whose streams.
    victim: usize,
    origin: usize,
    /// It also hides what would give it away.
    hides: bool,
    key: SigningKey,
    sealing_keys: BTreeMap<RegionId, [u8; 32]>,
    assemblers: [Assembler; 3],
    /// What it has shown, the oldest first.
    shown: BTreeMap<Showing, Vec<Shown>>,
    heads: BTreeMap<Showing, SignedObject>,
    /// When it last showed something of a stream.
    showed_at: BTreeMap<Showing, u64>,
    held: BTreeMap<Showing, (u64, Lane, Bytes)>,
    /// Whether a segment is one that it keeps.
    kept: BTreeMap<(StreamId, u64), bool>,
    /// What was done already.
    done: BTreeSet<(usize, StreamId, u64)>,
    begun: bool,
    /// It has two histories of the origin.
    pub(super) forked: bool,
}

impl Malice {
    pub(super) fn new(what: Hostile, linkage: &Linkage, bus: &Bus) -> Self {
        let (victim, other) = (bus.chance.index(3), bus.chance.within(1, 2));
        let regions = linkage.trust.directory.regions.values();
        Self {
            what,
            victim,
            origin: (victim + usize::try_from(other).unwrap()) % 3,
            hides: bus.chance.per_mille(500),
            key: forger(),
            sealing_keys: regions.map(|of| (of.region_id.clone(), of.sealing_key)).collect(),
            assemblers: [const { Assembler::new(sha256) }; 3],
            shown: BTreeMap::new(),
            heads: BTreeMap::new(),
            showed_at: BTreeMap::new(),
            held: BTreeMap::new(),
            kept: BTreeMap::new(),
            done: BTreeSet::new(),
            begun: false,
            forked: false,
        }
    }

    /// The region that is restored, where there are two histories.
    pub(super) const fn origin(&self) -> usize {
        self.origin
    }

    /// Segments that it said it has, and has not.
    pub(super) fn lost(&self) -> impl Iterator<Item = &(StreamId, u64)> {
        self.kept.iter().filter(|(_, kept)| !**kept).map(|(of, _)| of)
    }

    /// What a region is sent in place of a frame.
    pub(super) fn twist(&mut self, bus: &mut Bus, region: usize, frame: Down) -> Vec<Down> {
        let on = bus.is_hostile();
        match frame {
            Down::Piece(piece) => match self.assemblers[region].take(piece).unwrap() {
                Some((lane, bytes)) => self.segment(bus, region, lane, bytes),
                None => Vec::new(),
            },
            Down::Head(object) => {
                let stream = stream_of(&object);
                if on && self.keeps_back(region, &stream) {
                    return Vec::new();
                }
                self.showed_at.insert((region, stream.clone()), bus.now);
                bus.trial().shows(region, &stream);
                self.heads.insert((region, stream), object.clone());
                vec![Down::Head(object)]
            }
            Down::Receipt(_)
                if on && self.what == Hostile::Fork && self.hides && region == self.origin =>
            {
                Vec::new()
            }
            Down::Trust(_) if on && self.what == Hostile::WithholdFreshness => {
                bus.trial().did();
                Vec::new()
            }
            other => vec![other],
        }
    }

    /// Whether a region sees nothing of a stream.
    fn keeps_back(&self, region: usize, stream: &StreamId) -> bool {
        let third = 3 - self.victim - self.origin;
        let unseen_by = match self.what {
            Hostile::StaleHeads | Hostile::OldHeads => self.victim,
            // The first history is for the one, the second for the other.
            Hostile::Fork if self.forked => self.victim,
            Hostile::Fork => third,
            _ => return false,
        };
        region == unseen_by && index_of(&stream.origin) == self.origin
    }

    fn segment(&mut self, bus: &mut Bus, region: usize, lane: Lane, bytes: Bytes) -> Vec<Down> {
        let segment = Segment::parse(bytes.clone()).unwrap();
        if bus.is_hostile()
            && let Some(sent) = self.bent(bus, region, lane, &bytes, &segment)
        {
            return sent;
        }
        self.show(bus, region, lane, bytes, segment)
    }

    fn show(
        &mut self,
        bus: &mut Bus,
        region: usize,
        lane: Lane,
        bytes: Bytes,
        segment: Segment,
    ) -> Vec<Down> {
        let showing = (region, segment.stream().clone());
        self.showed_at.insert(showing.clone(), bus.now);
        bus.trial().shows(region, segment.stream());
        let frames = frames(lane, &bytes);
        self.shown.entry(showing).or_default().push(Shown { lane, bytes, segment });
        frames
    }

    /// What is sent in place of a segment; `None`: the segment.
    fn bent(
        &mut self,
        bus: &mut Bus,
        region: usize,
        lane: Lane,
        bytes: &Bytes,
        segment: &Segment,
    ) -> Option<Vec<Down>> {
        let stream = segment.stream();
        let (first, last) = (segment.first_seq(), segment.last_seq());
        let showing = (region, stream.clone());
        // Who has seen nothing of a stream cannot know that there is one.
        let known = self.shown.contains_key(&showing);
        let hole = || Sign::Hole(stream.clone(), last);
        match self.what {
            Hostile::Drop => {
                let place = (stream.clone(), first);
                let kept = self.kept.entry(place).or_insert_with(|| !bus.chance.per_mille(200));
                if *kept {
                    return None;
                }
                if known && self.done.insert((region, stream.clone(), first)) {
                    bus.trial_did_to(region, hole());
                }
                Some(Vec::new())
            }
            Hostile::Reorder => {
                if let Some((_, lane, earlier)) = self.held.remove(&showing) {
                    bus.trial_did_to(region, hole());
                    return Some([frames(lane, bytes), frames(lane, &earlier)].concat());
                }
                (known && bus.chance.per_mille(400)).then(|| {
                    self.held.insert(showing, (bus.now, lane, bytes.clone()));
                    Vec::new()
                })
            }
            Hostile::Duplicate => {
                bus.trial().did();
                let older = self.shown.get(&showing).map(|shown| bus.chance.pick(shown));
                let older = older.map(|older| frames(older.lane, &older.bytes)).unwrap_or_default();
                let this = self.show(bus, region, lane, bytes.clone(), segment.clone());
                Some([this.clone(), older, this].concat())
            }
            Hostile::Fork => {
                let of_origin = index_of(&stream.origin) == self.origin;
                if self.forked && of_origin && region != self.victim {
                    self.forks(bus, segment);
                }
                self.keeps_back(region, stream).then(Vec::new)
            }
            Hostile::StaleHeads | Hostile::OldHeads => {
                self.keeps_back(region, stream).then(Vec::new)
            }
            Hostile::Truncate if known && bus.chance.per_mille(250) => {
                bus.trial_did_to(region, hole());
                Some(cut_short(bus, lane, bytes))
            }
            // Once a stream: who is shown too much that is forged waits for a person.
            Hostile::Forge
                if known
                    && bus.chance.per_mille(300)
                    && self.done.insert((region, stream.clone(), 0)) =>
            {
                bus.trial_did_to(region, hole());
                let mut bytes = bytes.to_vec();
                let at = bus.chance.index(bytes.len());
                bytes[at] ^= 1 << bus.chance.index(8);
                Some(frames(lane, &bytes.into()))
            }
            _ => None,
        }
    }

    /// The other party is shown what contradicts what the victim holds.
    fn forks(&mut self, bus: &mut Bus, segment: &Segment) {
        let (stream, after) = (segment.stream(), segment.after());
        let seen = self.shown.get(&(self.victim, stream.clone()));
        let seen = seen.and_then(|shown| shown.iter().map(|of| of.segment.last_seq()).max());
        if bus.oracle.knows(stream, after) || seen.is_none_or(|seen| seen < after.seq) {
            return;
        }
        if !self.done.insert((self.victim, stream.clone(), 0)) {
            return;
        }
        if bus.gateways > 1 {
            // Then the other gateway sees both histories, and what was done is known by it.
        } else if self.hides {
            // Nobody else has a word in it: what is left is that nothing new comes.
            bus.trial_did_to(self.victim, Sign::Hole(stream.clone(), u64::MAX));
        } else {
            bus.trial_forks();
        }
    }

    /// What it does of itself, now and then: frames, and whom they go to.
    pub(super) fn acts(&mut self, bus: &mut Bus) -> Vec<(usize, Down)> {
        let begins = !std::mem::replace(&mut self.begun, true);
        match self.what {
            Hostile::Reorder => {
                let late =
                    |_: &Showing, (at, ..): &mut (u64, Lane, Bytes)| bus.now >= *at + HELD_MS_MAX;
                let late: Vec<_> = self.held.extract_if(.., late).collect();
                let show = |((region, _), (_, lane, bytes)): (Showing, (u64, Lane, Bytes))| {
                    to(region, frames(lane, &bytes))
                };
                late.into_iter().flat_map(show).collect()
            }
            Hostile::StaleHeads | Hostile::OldHeads => self.keep_back(bus, begins),
            Hostile::HandOn => self.hand_on(bus),
            Hostile::SwapAgreements => self.under_another_agreement(bus),
            Hostile::Forge => match bus.chance.index(3) {
                0 => self.make_up_segment(bus),
                1 => self.make_up_head(bus),
                _ => self.make_up_receipt(bus),
            },
            _ => Vec::new(),
        }
    }

    /// The streams of the origin are late from the moment on at which the victim last heard of them.
    fn keep_back(&self, bus: &mut Bus, begins: bool) -> Vec<(usize, Down)> {
        let of_origin = |(region, stream): &&Showing| {
            *region == self.victim && index_of(&stream.origin) == self.origin
        };
        let showings: Vec<_> = self.shown.keys().filter(of_origin).cloned().collect();
        let mut old = Vec::new();
        for showing in showings {
            if begins {
                let sign = Sign::Late(showing.1.clone());
                bus.trial().did_to(self.showed_at[&showing], Some(self.victim), sign);
            }
            if self.what == Hostile::StaleHeads {
                continue;
            }
            if let Some(head) = self.heads.get(&showing) {
                old.push((self.victim, Down::Head(head.clone())));
            }
            let Shown { lane, bytes, .. } = bus.chance.pick(&self.shown[&showing]);
            old.extend(to(self.victim, frames(*lane, bytes)));
        }
        old
    }

    /// A stream is handed to a region that is no party of it.
    fn hand_on(&mut self, bus: &mut Bus) -> Vec<(usize, Down)> {
        for ((_, stream), shown) in &self.shown {
            let oldest = &shown[0];
            let is_party = |id: &RegionId| oldest.segment.parties().any(|party| party == id);
            let stranger = (0..3).find(|region| !is_party(&linkage::region_id(*region)));
            let Some(region) = stranger else { continue };
            if self.done.insert((region, stream.clone(), 0)) {
                bus.trial_did_to(region, Sign::Raised(STRANGE));
                return to(region, frames(oldest.lane, &oldest.bytes));
            }
        }
        Vec::new()
    }

    /// What was said under one agreement is shown as if it were the next of a stream under another.
    fn under_another_agreement(&mut self, bus: &mut Bus) -> Vec<(usize, Down)> {
        for ((region, stream), shown) in &self.shown {
            let foreign = self
                .shown
                .iter()
                .find(|((other, of), _)| other == region && of.agreement != stream.agreement);
            let Some((_, foreign)) = foreign else { continue };
            if !self.done.insert((*region, stream.clone(), 0)) {
                continue;
            }
            let Some(last) = furthest(shown) else { continue };
            let mut outer = pb::Segment::decode(foreign[0].bytes.clone()).unwrap();
            let mut prefix = pb::SegmentPrefix::decode(outer.prefix.clone()).unwrap();
            prefix.stream = Some(stream.into());
            prefix.first_seq = last.seq + 1;
            prefix.h_before = Bytes::copy_from_slice(&last.h);
            outer.prefix = prefix.encode_to_vec().into();
            let reaches = last.seq + u64::from(prefix.count);
            let (sign, moot) = (Sign::Raised(FORGED), (stream.clone(), reaches));
            bus.trial_did_unless(*region, sign, moot);
            return to(*region, frames(stream.lane, &outer.encode_to_vec().into()));
        }
        Vec::new()
    }

    /// A stream that it has not forged yet, and how far the region was shown it.
    fn unforged(&mut self, bus: &Bus) -> Option<Showing> {
        let showings: Vec<_> = self.shown.keys().cloned().collect();
        if showings.is_empty() {
            return None;
        }
        let (region, stream) = bus.chance.pick(&showings).clone();
        self.done.insert((region, stream.clone(), 0)).then_some((region, stream))
    }

    /// A segment that joins on, sealed to all who may read it: all that is missing is the origin's key.
    fn make_up_segment(&mut self, bus: &mut Bus) -> Vec<(usize, Down)> {
        let Some((region, stream)) = self.unforged(bus) else { return Vec::new() };
        let shown = &self.shown[&(region, stream.clone())];
        let Some(before) = furthest(shown) else { return Vec::new() };
        let key = |id: &RegionId| (id.clone(), self.sealing_keys[id]);
        let parties: Vec<_> = shown[0].segment.parties().map(key).collect();
        let entries = [SaltedEntry { salt: [7; 16], entry: Bytes::from_static(b"made up") }];
        let expires_at = linkage::START.plus_days(1);
        let range = Range { stream: &stream, before, entries: &entries, expires_at };
        let sealed = seal::segment::seal(range, &self.key, &parties, &bus.chance).unwrap();
        let moot = (stream.clone(), sealed.after.seq);
        bus.trial_did_unless(region, Sign::Raised(FORGED), moot);
        to(region, frames(stream.lane, &sealed.bytes.into()))
    }

    fn make_up_head(&self, bus: &mut Bus) -> Vec<(usize, Down)> {
        let Some(((region, stream), shown)) = self.shown.first_key_value() else {
            return Vec::new();
        };
        let Some(mut position) = furthest(shown) else { return Vec::new() };
        position.seq += 1_000;
        let head = Head { stream: stream.clone(), position, created_at: bus.time(0) };
        bus.trial_did_to(*region, Sign::Raised(FORGED));
        vec![(*region, Down::Head(head.sign(&self.key)))]
    }

    fn make_up_receipt(&self, bus: &mut Bus) -> Vec<(usize, Down)> {
        let Some(((region, stream), shown)) = self.shown.last_key_value() else {
            return Vec::new();
        };
        let Some(position) = furthest(shown) else { return Vec::new() };
        let receipt = Receipt {
            stream: stream.clone(),
            position,
            party: linkage::region_id(*region),
            created_at: bus.time(0),
            parked: Vec::new(),
            parked_count: 0,
        };
        let origin = index_of(&stream.origin);
        bus.trial_did_to(origin, Sign::Raised(FORGED));
        vec![(origin, Down::Receipt(receipt.sign(&self.key)))]
    }
}

/// How far a region was shown a stream.
fn furthest(shown: &[Shown]) -> Option<domain::stream::Position> {
    shown.iter().map(|of| of.segment.after()).max_by_key(|after| after.seq)
}

fn frames(lane: Lane, bytes: &Bytes) -> Vec<Down> {
    pieces(bytes, segment_id(bytes), lane, 0).map(Down::Piece).collect()
}

fn to(region: usize, frames: Vec<Down>) -> Vec<(usize, Down)> {
    frames.into_iter().map(|frame| (region, frame)).collect()
}

/// A segment of which the end is missing: not sent, said not to be there, not there, or none of it sent.
fn cut_short(bus: &Bus, lane: Lane, bytes: &Bytes) -> Vec<Down> {
    let short = bytes.slice(..bytes.len() * 2 / 3);
    let total_size = u32::try_from(bytes.len()).unwrap();
    let whole = segment_id(bytes);
    match bus.chance.index(4) {
        0 => {
            let unfinished = pieces(&short, whole, lane, 0);
            let unfinished = unfinished.map(|piece| pb::SegmentPiece { total_size, ..piece });
            unfinished.map(Down::Piece).collect()
        }
        1 => pieces(&short, whole, lane, 0).map(Down::Piece).collect(),
        2 => frames(lane, &short),
        _ => Vec::new(),
    }
}

fn stream_of(head: &SignedObject) -> StreamId {
    let head = pb::Head::decode(head.body.clone()).unwrap();
    head.position.unwrap().stream.unwrap().try_into().unwrap()
}
