//! What to do with segments that come in. Pure: the shell around it verifies, opens and writes to the
//! store, and tells what came of it.
//!
//! Streams are taken one after another each, but beside one another: while a range is being applied the
//! next segments of its stream gather, and all that join on are applied together.

use domain::kernel::{Epoch, Lane, Reason, RegionId, Timestamp};
use domain::stream::{Position, StreamId};
use proto::link::{CreditIn, HEAD_LATE_MS};
use seal::segment::Segment;
use std::collections::{BTreeMap, VecDeque};

/// Segments of one stream that may wait; a sender that honours its credit cannot send more.
const SEGMENTS_WAITING_MAX: usize = 8_192;
/// Segments applied together; bounds the size of one transaction.
const SEGMENTS_PER_TAKE_MAX: usize = 256;
/// Entries applied together.
const ENTRIES_PER_TAKE_MAX: u64 = 4_096;
/// Streams that are followed on a link; of more nothing is taken.
const STREAMS_MAX: usize = 10_000;
/// A stream with more parked entries than this is paused: something is wrong with it, not with an entry.
pub const PARKED_MAX: u64 = 1_000;
/// Ends of segments that are kept of each stream, to compare them with what other parties signed for.
const MARKS_MAX: usize = 256;
/// How often a segment that cannot be used is asked for again before the stream waits for a person.
const RETRIES_MAX: u32 = 2;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A whole segment came.
    Segment(Segment, usize),
    /// A range was tried; see [`Outcome`].
    Taken(StreamId, Outcome),
    /// A head came and was verified; made then.
    Head(StreamId, Position, Timestamp),
    /// Another party has signed for this much of a stream.
    Receipt(StreamId, RegionId, Position),
    /// The origin has left the epoch of a stream, of which it knows so far.
    Left(StreamId, Position),
    /// Something of this epoch of an origin was applied, in whatever lane.
    Opened(RegionId, Epoch),
    /// Time passes.
    Tick(Timestamp),
}

/// What came of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was applied before.
    Known,
    /// Applied and on disk.
    Applied {
        /// Where the cursor stands.
        position: Position,
        /// Entries parked in the stream so far.
        parked_count: u64,
        /// Streams of epochs that the origin has left, as far as it knows them.
        left: Vec<(StreamId, Position)>,
    },
    /// Another way has brought all this, or more; nobody has looked at what came this way.
    Passed {
        /// Where the cursor stands.
        position: Position,
        /// Entries parked in the stream so far.
        parked_count: u64,
    },
    /// The first segment begins beyond the cursor, or the cursor has moved since.
    Gap(Position),
    /// Refused: forged, broken or of no agreement; nothing was applied.
    Refused(Position, Reason),
    /// The store could not write; tried again at the next tick.
    Unwritten,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Verify, open and apply these, in order.
    Take {
        /// The stream.
        stream: StreamId,
        /// Where it stands.
        cursor: Position,
        /// What came.
        segments: Vec<Segment>,
    },
    /// Sign and send a receipt.
    Receipt(StreamId, Position, u64),
    /// Let the gateway send more of a lane.
    Grant(Lane, u32),
    /// Ask for a stream again from here.
    Want(StreamId, u64),
    /// No fresh word of a stream: gateway or origin, undecidable from here.
    HeadLate(StreamId),
    /// Something a person must look at.
    Alarm(StreamId, Reason),
}

#[derive(Debug)]
struct Stream {
    applied: Position,
    parked_count: u64,
    waiting: VecDeque<(Segment, usize)>,
    /// Bytes of the segments being applied, by lane the same.
    taking: Option<Vec<(Segment, usize)>>,
    /// Furthest entry known to exist.
    known_seq: u64,
    /// When a segment or head last came that says something new.
    heard_at: Timestamp,
    /// When the newest head that came was made.
    head_at: Timestamp,
    head_late: bool,
    /// Asked for again from here, and nothing that joins on has come since.
    asked: Option<u64>,
    retries: u32,
    /// Waits for a person: forked, or too much parked.
    paused: bool,
    /// Where the last segments ended that were applied, in order.
    marks: VecDeque<Position>,
    /// What other parties have signed for beyond what is applied here, the newest of each.
    beyond: BTreeMap<RegionId, Position>,
}

/// How a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Applied up to here.
    pub applied: Position,
    /// Furthest entry known to exist.
    pub known_seq: u64,
    /// Entries parked.
    pub parked_count: u64,
    /// No fresh word of it for 65 s.
    pub head_late: bool,
}

/// What was heard of a stream over the links to one gateway: one that hangs up, or says again what it has said,
/// gains no time by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When the newest head that came was made.
    head_at: Timestamp,
    /// Milliseconds for which a link was up since something new came.
    silent_ms: i64,
}

/// The receiving core of one link.
#[derive(Debug)]
pub struct Receiver {
    streams: BTreeMap<StreamId, Stream>,
    /// The newest epoch of each origin, as other links know it.
    opened: BTreeMap<RegionId, Epoch>,
    credit: CreditIn,
    now: Timestamp,
}

impl Receiver {
    /// A core over streams that are applied so far, and what earlier links have heard of them.
    pub fn new(
        applied: Vec<(StreamId, Position, u64)>,
        heard: &BTreeMap<StreamId, Heard>,
        now: Timestamp,
    ) -> Self {
        let of = |(id, position, parked): (StreamId, _, _)| {
            let mut stream = Stream::new(position, parked, now);
            if let Some(heard) = heard.get(&id) {
                stream.head_at = heard.head_at;
                stream.heard_at = now.plus_millis(-heard.silent_ms);
            }
            (id, stream)
        };
        let streams = applied.into_iter().map(of).collect();
        Self { streams, opened: BTreeMap::new(), credit: CreditIn::default(), now }
    }

    /// What the next link must know of what this one heard.
    pub fn heard(&self) -> BTreeMap<StreamId, Heard> {
        let of = |stream: &Stream| Heard {
            head_at: stream.head_at,
            silent_ms: self.now.millis_since(stream.heard_at).max(0),
        };
        self.streams.iter().map(|(id, stream)| (id.clone(), of(stream))).collect()
    }

    /// Takes an event, tells what to do.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Segment(segment, size) => self.segment(segment, size, &mut effects),
            Event::Taken(stream, outcome) => self.taken(&stream, outcome, &mut effects),
            Event::Head(stream, ..) | Event::Receipt(stream, ..) if self.is_full_for(&stream) => {}
            Event::Head(stream, position, made_at) => {
                self.head(&stream, position, made_at, &mut effects);
            }
            Event::Receipt(stream, party, position) => {
                let other = self.stream(&stream).differs(party, position);
                effects.extend(other.then(|| Effect::Alarm(stream, Reason::StreamForked)));
            }
            Event::Opened(origin, epoch) => {
                let newest = self.opened.entry(origin).or_insert(epoch);
                *newest = epoch.max(*newest);
            }
            Event::Left(stream, position) => self.left(&stream, position, &mut effects),
            Event::Tick(now) => self.tick(now, &mut effects),
        }
        effects
    }

    /// Initial grants for the lanes of a new link.
    pub fn open(&mut self, lanes: &[Lane]) -> Vec<Effect> {
        lanes.iter().map(|lane| Effect::Grant(*lane, self.credit.open(*lane))).collect()
    }

    /// Counts a piece that came.
    ///
    /// # Errors
    /// When the gateway had no credit for it.
    pub fn received(&mut self, lane: Lane, size: usize) -> Result<(), Reason> {
        self.credit.received(lane, size)
    }

    /// How every stream stands.
    pub fn standings(&self) -> impl Iterator<Item = (&StreamId, Standing)> {
        self.streams.iter().map(|(id, stream)| (id, stream.standing()))
    }

    /// How one stream stands; `None` where nothing of it was heard.
    pub fn standing(&self, id: &StreamId) -> Option<Standing> {
        self.streams.get(id).map(Stream::standing)
    }

    fn stream(&mut self, id: &StreamId) -> &mut Stream {
        let now = self.now;
        self.streams
            .entry(id.clone())
            .or_insert_with(|| Stream::new(seal::chain::start(id), 0, now))
    }

    /// Whether a stream is one too many. A gateway can make up as many names as it likes.
    fn is_full_for(&self, id: &StreamId) -> bool {
        self.streams.len() >= STREAMS_MAX && !self.streams.contains_key(id)
    }

    fn segment(&mut self, segment: Segment, size: usize, effects: &mut Vec<Effect>) {
        let id = segment.stream().clone();
        if self.is_full_for(&id) {
            return self.consumed(id.lane, size, effects);
        }
        let now = self.now;
        let stream = self.stream(&id);
        if segment.last_seq() > stream.known_seq {
            stream.hear(now);
            stream.known_seq = segment.last_seq();
        }
        let reach = stream.reach();
        let useless = stream.paused
            || segment.last_seq() <= reach
            || stream.waiting.len() >= SEGMENTS_WAITING_MAX;
        if useless || segment.first_seq() > reach + 1 {
            if !useless {
                stream.want(&id, reach + 1, effects);
            } else if !stream.paused && segment.last_seq() <= stream.applied.seq {
                // A gateway that has come back without its store does not know how far this is.
                effects.push(Effect::Receipt(id.clone(), stream.applied, stream.parked_count));
            }
            // Of no use now: its bytes are free again.
            self.consumed(id.lane, size, effects);
            return;
        }
        stream.asked = None;
        stream.waiting.push_back((segment, size));
        stream.take(&id, effects);
    }

    fn taken(&mut self, id: &StreamId, outcome: Outcome, effects: &mut Vec<Effect>) {
        let stream = self.stream(id);
        let taken = stream.taking.take().unwrap_or_default();
        let mut size = bytes(&taken);
        match outcome {
            Outcome::Known => {}
            Outcome::Applied { position, parked_count, .. }
            | Outcome::Passed { position, parked_count } => {
                stream.retries = 0;
                stream.applied = position;
                stream.parked_count = parked_count;
                stream.known_seq = stream.known_seq.max(position.seq);
                effects.push(Effect::Receipt(id.clone(), position, parked_count));
                let seen = matches!(outcome, Outcome::Applied { .. });
                if stream.mark(if seen { &taken } else { &[] }, position) {
                    effects.push(Effect::Alarm(id.clone(), Reason::StreamForked));
                }
                if parked_count > PARKED_MAX {
                    size += stream.pause();
                    effects.push(Effect::Alarm(id.clone(), Reason::LimitExceeded));
                }
                if let Outcome::Applied { left, .. } = outcome {
                    left.iter().for_each(|(left, at)| self.left(left, *at, effects));
                }
            }
            Outcome::Gap(position) if position.seq > stream.applied.seq => {
                // Another link went on meanwhile: what reaches beyond is taken again from there.
                stream.applied = position;
                for segment in taken.into_iter().rev() {
                    stream.waiting.push_front(segment);
                }
                return stream.take(id, effects);
            }
            Outcome::Gap(position) => {
                stream.applied = position;
                size += stream.ask_again(id, effects);
                if stream.paused {
                    effects.push(Effect::Alarm(id.clone(), Reason::ChainBroken));
                }
            }
            Outcome::Refused(position, reason) => {
                stream.applied = position;
                if reason == Reason::AgreementUnknown {
                    // It waits for the agreement, with which another link begins.
                    size += stream.pause();
                    self.consumed(id.lane, size, effects);
                    return;
                }
                effects.push(Effect::Alarm(id.clone(), reason));
                if reason == Reason::StreamForked {
                    size += stream.pause();
                } else {
                    size += stream.ask_again(id, effects);
                }
            }
            Outcome::Unwritten => {
                // Keeps the range; a tick tries again.
                for segment in taken.into_iter().rev() {
                    stream.waiting.push_front(segment);
                }
                return;
            }
        }
        self.consumed(id.lane, size, effects);
        self.stream(id).take(id, effects);
    }

    fn head(
        &mut self,
        id: &StreamId,
        position: Position,
        made_at: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        let stream = self.stream(id);
        // One that was shown before says nothing of how the stream stands now.
        if made_at > stream.head_at || position.seq > stream.known_seq {
            stream.hear(now);
            stream.head_at = stream.head_at.max(made_at);
        }
        stream.known_seq = stream.known_seq.max(position.seq);
        let idle = stream.taking.is_none() && stream.waiting.is_empty() && !stream.paused;
        if position.seq == stream.applied.seq && position.h != stream.applied.h {
            let size = stream.pause();
            effects.push(Effect::Alarm(id.clone(), Reason::StreamForked));
            self.consumed(id.lane, size, effects);
        } else if idle && position.seq > stream.applied.seq {
            // The origin has more than came here: a hole, by name.
            stream.asked = None;
            stream.want(id, stream.applied.seq + 1, effects);
        }
    }

    /// The origin has left the epoch of a stream, of which it knows so far. Where this and what is held here differ it
    /// is no fork: it may have numbered in the stream until it was told that others hold more of it.
    fn left(&mut self, id: &StreamId, position: Position, effects: &mut Vec<Effect>) {
        if self.is_full_for(id) {
            return;
        }
        let stream = self.stream(id);
        if position.seq > stream.known_seq {
            stream.known_seq = position.seq;
            let reach = stream.reach();
            stream.want(id, reach + 1, effects);
        }
    }

    fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.now = now;
        let mut newest: Option<(&RegionId, Epoch)> = None;
        // In their order: an origin's newest epoch comes first.
        for (id, stream) in self.streams.iter_mut().rev() {
            if newest.is_none_or(|(origin, _)| *origin != id.origin) {
                let here = (stream.applied.seq > 0).then_some(id.epoch);
                let epoch = here.max(self.opened.get(&id.origin).copied());
                newest = epoch.map(|epoch| (&id.origin, epoch)).or(newest);
            }
            // Of an epoch that its origin has left nothing more is said; what is missing there stays missing.
            let left = newest != Some((&id.origin, id.epoch));
            if !(left && stream.known_seq <= stream.applied.seq)
                && stream.applied.seq > 0
                && now.millis_since(stream.heard_at) > HEAD_LATE_MS.cast_signed()
                && !stream.head_late
            {
                stream.head_late = true;
                effects.push(Effect::HeadLate(id.clone()));
            }
            stream.take(id, effects);
        }
    }

    fn consumed(&mut self, lane: Lane, size: usize, effects: &mut Vec<Effect>) {
        if let Some(grant) = self.credit.consumed(lane, size) {
            effects.push(Effect::Grant(lane, grant));
        }
    }
}

impl Stream {
    fn new(applied: Position, parked_count: u64, now: Timestamp) -> Self {
        Self {
            applied,
            parked_count,
            waiting: VecDeque::new(),
            taking: None,
            known_seq: applied.seq,
            heard_at: now,
            head_at: Timestamp::from_micros(0),
            head_late: false,
            asked: None,
            retries: 0,
            paused: false,
            marks: VecDeque::from([applied]),
            beyond: BTreeMap::new(),
        }
    }

    const fn standing(&self) -> Standing {
        Standing {
            applied: self.applied,
            known_seq: self.known_seq,
            parked_count: self.parked_count,
            head_late: self.head_late,
        }
    }

    /// Keeps where segments ended that were applied; tells whether another party has signed for another hash.
    fn mark(&mut self, taken: &[(Segment, usize)], applied: Position) -> bool {
        let last = self.marks.back().map_or(0, |mark| mark.seq);
        let ends = taken.iter().map(|(segment, _)| segment.after()).chain([applied]);
        self.marks.extend(ends.filter(|end| end.seq > last && end.seq <= applied.seq));
        let old = self.marks.len().saturating_sub(MARKS_MAX);
        self.marks.drain(..old);
        let reached = |_: &RegionId, position: &mut Position| position.seq <= applied.seq;
        let reached: Vec<_> = self.beyond.extract_if(.., reached).collect();
        reached.into_iter().fold(false, |differs, (party, at)| self.differs(party, at) || differs)
    }

    /// Whether another party has signed for another hash at a place than was applied here: its origin shows
    /// two streams of one name, or the party says so. The stream goes on, since that is undecidable here. Where
    /// segments ended otherwise nothing is said.
    fn differs(&mut self, party: RegionId, position: Position) -> bool {
        if position.seq > self.applied.seq {
            self.beyond.insert(party, position);
            return false;
        }
        self.marks.iter().any(|mark| mark.seq == position.seq && mark.h != position.h)
    }

    /// Something new came.
    const fn hear(&mut self, now: Timestamp) {
        self.heard_at = now;
        self.head_late = false;
    }

    /// Takes all waiting segments that follow one another.
    fn take(&mut self, id: &StreamId, effects: &mut Vec<Effect>) {
        if self.taking.is_some() || self.paused || self.waiting.is_empty() {
            return;
        }
        let mut taking: Vec<(Segment, usize)> = Vec::new();
        let mut entries = 0;
        while let Some((segment, _)) = self.waiting.front() {
            let follows =
                taking.last().is_none_or(|(last, _)| segment.first_seq() <= last.last_seq() + 1);
            if !follows
                || taking.len() >= SEGMENTS_PER_TAKE_MAX
                || entries + segment.count() > ENTRIES_PER_TAKE_MAX
            {
                break;
            }
            entries += segment.count();
            taking.extend(self.waiting.pop_front());
        }
        effects.push(Effect::Take {
            stream: id.clone(),
            cursor: self.applied,
            segments: taking.iter().map(|(segment, _)| segment.clone()).collect(),
        });
        self.taking = Some(taking);
    }

    /// Last entry of what waits and is being applied; a segment must begin there or before.
    fn reach(&self) -> u64 {
        let last = self.waiting.back().or_else(|| self.taking.as_ref()?.last());
        last.map_or(self.applied.seq, |(segment, _)| segment.last_seq().max(self.applied.seq))
    }

    /// Asks for the stream again, once: what is under way beyond a hole asks for nothing new.
    fn want(&mut self, id: &StreamId, from_seq: u64, effects: &mut Vec<Effect>) {
        if self.asked != Some(from_seq) {
            self.asked = Some(from_seq);
            effects.push(Effect::Want(id.clone(), from_seq));
        }
    }

    /// Gives up a range that failed and all that was sent after it: it comes again from there. Gives
    /// the bytes that are free again.
    fn ask_again(&mut self, id: &StreamId, effects: &mut Vec<Effect>) -> usize {
        self.retries += 1;
        if self.retries > RETRIES_MAX {
            return self.pause();
        }
        self.asked = None;
        self.want(id, self.applied.seq + 1, effects);
        bytes(self.waiting.drain(..).collect::<Vec<_>>().as_slice())
    }

    /// Takes no more until a person has looked. Gives the bytes that are free again: the lane's other
    /// streams go on.
    fn pause(&mut self) -> usize {
        self.paused = true;
        bytes(self.waiting.drain(..).collect::<Vec<_>>().as_slice())
    }
}

fn bytes(segments: &[(Segment, usize)]) -> usize {
    segments.iter().fold(0, |sum: usize, (_, size)| sum.saturating_add(*size))
}

#[cfg(test)]
mod tests;
