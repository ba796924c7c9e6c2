//! What to send next to one region. Pure: the link around it reads the store and writes to the network,
//! and tells what came of it.
//!
//! A stream that is followed as it grows is sent from memory; one that is behind is read piece by piece.
//! Either way a stream goes in order and without holes, streams of a lane go in turn, and a lane waits
//! for every piece of a more urgent one.

use domain::kernel::Lane;
use domain::stream::StreamId;
use proto::exchange::v1::SegmentPiece;
use proto::link::{CreditOut, PIECE_BYTES_MAX, SegmentId};
use std::collections::{HashMap, VecDeque};
use storage::gateway::StoredSegment;

/// Bytes of segments of one lane that are read ahead; one that is larger goes alone.
pub const READ_BYTES_MAX: usize = 256 * 1_024;
/// Bytes of one lane that may wait in memory. What is told beyond half of it is read again when its turn
/// comes, so that a busy stream never keeps one that is behind from being read.
const HELD_BYTES_MAX: usize = 2 * READ_BYTES_MAX;
/// Entries asked of an origin at a time: as many as one segment holds.
const REFILL_ENTRIES_MAX: u64 = seal::segment::ENTRIES_PER_SEGMENT_MAX as u64;
/// How long an origin has to fill a gap before it is asked again.
const REFILL_TIMEOUT_MS: u64 = 10_000;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The peer has applied a stream up to here, and whether it has receipted it there; told before anything else of
    /// the stream.
    Applied(StreamId, u64, bool),
    /// A stream is stored up to here.
    Grew(StreamId, u64),
    /// A segment was stored just now.
    Stored(StreamId, StoredSegment),
    /// What the store holds after a place, as asked for.
    Read {
        /// The stream.
        stream: StreamId,
        /// The place.
        after: u64,
        /// What is held, in order.
        segments: Vec<StoredSegment>,
    },
    /// The store could not be read; tried again at the next tick.
    ReadFailed(StreamId),
    /// The peer takes more bytes of a lane.
    Granted(Lane, u32),
    /// The peer wants a stream again from here.
    Wanted(StreamId, u64),
    /// Packagings of a stream were deleted: what is held of it is read anew.
    Replaced(StreamId),
    /// The network takes one more frame.
    Writable,
    /// Time passes.
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Read what is held of a stream after a place, at most [`READ_BYTES_MAX`] of it.
    Read(StreamId, u64),
    /// Send a piece.
    Send(SegmentPiece),
    /// Ask the origin of a stream for a range, of which nothing is held any more.
    Ask {
        /// The stream.
        stream: StreamId,
        /// First entry.
        from_seq: u64,
        /// Last entry.
        to_seq: u64,
    },
}

/// What is sent to one region, and what waits.
#[derive(Debug, Default)]
pub struct Delivery {
    streams: HashMap<StreamId, Stream>,
    lanes: [Queue; Lane::ALL.len()],
    credit: CreditOut,
}

/// One stream on its way to the peer.
#[derive(Debug, Default)]
struct Stream {
    /// Put on its way up to here.
    sent: u64,
    /// It began at its start or where the peer has receipted it, and went on without a leap since.
    receipted: bool,
    /// Stored up to here.
    last: u64,
    /// What comes next, without holes.
    held: VecDeque<StoredSegment>,
    place: Place,
    /// When the origin was last asked to fill a gap, unless it has filled it since.
    asked_at_ms: Option<u64>,
}

/// Where a stream waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// There is nothing to send.
    #[default]
    Idle,
    /// For its turn.
    Ready,
    /// For its turn to be read.
    Unread,
    /// For the store's answer about what comes after this place.
    Reading(u64),
    /// For its origin to fill a gap that ends here.
    Gap(u64),
}

/// The streams of one lane.
#[derive(Debug, Default)]
struct Queue {
    going: Option<Going>,
    ready: VecDeque<StreamId>,
    unread: VecDeque<StreamId>,
    reading: bool,
    held_bytes: usize,
}

/// A segment on its way, piece by piece.
#[derive(Debug)]
struct Going {
    segment: StoredSegment,
    segment_id: SegmentId,
    offset: usize,
}

impl Delivery {
    /// Takes an event at `now_ms` of a clock that only goes forward, tells what to do.
    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Applied(stream, seq, receipted) => {
                let stream = self.streams.entry(stream).or_default();
                (stream.sent, stream.receipted) = (seq, receipted);
            }
            Event::Grew(stream, last) => self.grew(stream, last),
            Event::Stored(stream, segment) => self.stored(stream, segment),
            Event::Read { stream, after, segments } => {
                self.read(now_ms, stream, after, segments, &mut effects);
            }
            Event::ReadFailed(stream) => self.read_failed(now_ms, &stream),
            Event::Granted(lane, bytes) => self.credit.grant(lane, bytes),
            Event::Wanted(stream, from_seq) => self.wanted(stream, from_seq),
            Event::Replaced(stream) => {
                if let Some(sent) = self.streams.get(&stream).map(|known| known.sent) {
                    self.wanted(stream, sent.saturating_add(1));
                }
            }
            Event::Writable => effects.extend(self.next_piece().map(Effect::Send)),
            Event::Tick => self.tick(now_ms),
        }
        self.start_reads(&mut effects);
        effects
    }

    /// Whether [`Event::Writable`] would give a piece.
    pub fn has_piece(&self) -> bool {
        Lane::ALL.iter().any(|lane| self.next_size(*lane).is_some())
    }

    fn grew(&mut self, id: StreamId, last: u64) {
        let stream = self.streams.entry(id.clone()).or_default();
        stream.last = stream.last.max(last);
        self.settle(id);
    }

    fn stored(&mut self, id: StreamId, segment: StoredSegment) {
        let queue = &mut self.lanes[index(id.lane)];
        let stream = self.streams.entry(id.clone()).or_default();
        stream.last = stream.last.max(segment.last_seq);
        match stream.place {
            Place::Gap(to_seq) if segment.last_seq <= to_seq => {
                stream.asked_at_ms = None;
                stream.place = Place::Idle;
            }
            // Nothing may be held while the store is asked for what comes first, or while it is unread.
            Place::Idle | Place::Ready
                if segment.first_seq == stream.tail() + 1
                    && queue.held_bytes + segment.encoded.len() <= HELD_BYTES_MAX / 2 =>
            {
                queue.held_bytes += segment.encoded.len();
                stream.held.push_back(segment);
            }
            _ => {}
        }
        self.settle(id);
    }

    fn read(
        &mut self,
        now_ms: u64,
        id: StreamId,
        after: u64,
        segments: Vec<StoredSegment>,
        effects: &mut Vec<Effect>,
    ) {
        let queue = &mut self.lanes[index(id.lane)];
        queue.reading = false;
        let stream = self.streams.entry(id.clone()).or_default();
        if stream.place != Place::Reading(after) {
            return;
        }
        stream.place = Place::Idle;
        // The peer may have asked for another place meanwhile.
        if stream.sent == after {
            let mut gap_end = stream.last;
            for segment in segments {
                if segment.first_seq > stream.tail() + 1 {
                    gap_end = segment.first_seq - 1;
                    break;
                }
                if segment.last_seq > stream.tail() {
                    queue.held_bytes += segment.encoded.len();
                    stream.held.push_back(segment);
                }
            }
            if stream.held.is_empty() && stream.sent < gap_end {
                stream.place = Place::Gap(gap_end);
                if stream.may_ask(now_ms) {
                    // From where the peer stands: what it has receipted is where a refill joins on, and no more
                    // is held than it takes. Where that is not known, from what is held on the far side.
                    let again = stream.asked_at_ms.replace(now_ms).is_some();
                    stream.receipted |= stream.sent == 0;
                    let next = stream.sent + 1;
                    let (from_seq, to_seq) = if stream.receipted && !again {
                        (next, gap_end.min(stream.sent.saturating_add(REFILL_ENTRIES_MAX)))
                    } else {
                        (next.max(gap_end.saturating_sub(REFILL_ENTRIES_MAX - 1)), gap_end)
                    };
                    effects.push(Effect::Ask { stream: id.clone(), from_seq, to_seq });
                }
            }
        }
        self.settle(id);
    }

    fn read_failed(&mut self, now_ms: u64, id: &StreamId) {
        self.lanes[index(id.lane)].reading = false;
        if let Some(stream) = self.streams.get_mut(id) {
            // Tried again when an origin would be asked again: a failing disk is not hammered.
            stream.place = Place::Gap(0);
            stream.asked_at_ms = Some(now_ms);
        }
    }

    fn wanted(&mut self, id: StreamId, from_seq: u64) {
        let queue = &mut self.lanes[index(id.lane)];
        let stream = self.streams.entry(id.clone()).or_default();
        stream.receipted &= from_seq == stream.sent.saturating_add(1);
        stream.sent = from_seq.saturating_sub(1);
        queue.held_bytes -= stream.held.drain(..).map(|held| held.encoded.len()).sum::<usize>();
        if stream.place == Place::Ready {
            queue.ready.retain(|other| *other != id);
        }
        if matches!(stream.place, Place::Ready | Place::Gap(_)) {
            stream.place = Place::Idle;
        }
        self.settle(id);
    }

    fn tick(&mut self, now_ms: u64) {
        let overdue =
            |stream: &Stream| matches!(stream.place, Place::Gap(_)) && stream.may_ask(now_ms);
        let mut again: Vec<_> =
            self.streams.iter().filter(|(_, s)| overdue(s)).map(|(id, _)| id.clone()).collect();
        // In order, so that what happens can be repeated.
        again.sort_unstable();
        for id in again {
            self.streams.entry(id.clone()).or_default().place = Place::Idle;
            self.settle(id);
        }
    }

    /// Puts a stream that waits for nothing where it belongs.
    fn settle(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.place != Place::Idle {
            return;
        }
        let queue = &mut self.lanes[index(id.lane)];
        if !stream.held.is_empty() {
            stream.place = Place::Ready;
            queue.ready.push_back(id);
        } else if stream.sent < stream.last {
            stream.place = Place::Unread;
            queue.unread.push_back(id);
        }
    }

    /// One read a lane at a time, and none for a peer that takes nothing.
    fn start_reads(&mut self, effects: &mut Vec<Effect>) {
        for lane in Lane::ALL {
            let queue = &mut self.lanes[index(*lane)];
            if queue.reading
                || queue.held_bytes >= HELD_BYTES_MAX
                || self.credit.available(*lane) == 0
            {
                continue;
            }
            while let Some(id) = queue.unread.pop_front() {
                let Some(stream) = self.streams.get_mut(&id) else { continue };
                stream.place = Place::Idle;
                if stream.sent < stream.last {
                    stream.place = Place::Reading(stream.sent);
                    queue.reading = true;
                    effects.push(Effect::Read(id, stream.sent));
                    break;
                }
            }
        }
    }

    fn next_piece(&mut self) -> Option<SegmentPiece> {
        // The most urgent lane first, even between two pieces of another.
        let (lane, size) =
            Lane::ALL.iter().find_map(|lane| Some((*lane, self.next_size(*lane)?)))?;
        if self.lanes[index(lane)].going.is_none() {
            self.begin(lane);
        }
        let queue = &mut self.lanes[index(lane)];
        let Going { segment, segment_id, offset } = queue.going.as_mut()?;
        let from = u32::try_from(*offset).unwrap_or(u32::MAX);
        let piece = proto::link::pieces(&segment.encoded, *segment_id, lane, from).next()?;
        if !self.credit.take(lane, size) {
            return None;
        }
        *offset += size;
        if *offset >= segment.encoded.len() {
            queue.going = None;
        }
        Some(piece)
    }

    /// Bytes of the next piece of a lane, if the peer takes it.
    fn next_size(&self, lane: Lane) -> Option<usize> {
        let queue = &self.lanes[index(lane)];
        let rest = match &queue.going {
            Some(going) => going.segment.encoded.len() - going.offset,
            None => self.streams.get(queue.ready.front()?)?.held.front()?.encoded.len(),
        };
        let size = rest.min(PIECE_BYTES_MAX);
        (self.credit.available(lane) as usize >= size).then_some(size)
    }

    /// Puts the next segment of a lane on its way; its stream goes to the end of the queue.
    fn begin(&mut self, lane: Lane) {
        let queue = &mut self.lanes[index(lane)];
        let Some(id) = queue.ready.pop_front() else { return };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Some(segment) = stream.held.pop_front() {
            queue.held_bytes -= segment.encoded.len();
            stream.sent = segment.last_seq;
            let segment_id = seal::segment::segment_id(&segment.encoded);
            queue.going = Some(Going { segment, segment_id, offset: 0 });
        }
        stream.place = Place::Idle;
        self.settle(id);
    }
}

impl Stream {
    /// The last entry that is sent or held.
    fn tail(&self) -> u64 {
        self.held.back().map_or(self.sent, |held| held.last_seq)
    }

    fn may_ask(&self, now_ms: u64) -> bool {
        self.asked_at_ms.is_none_or(|asked| now_ms >= asked + REFILL_TIMEOUT_MS)
    }
}

const fn index(lane: Lane) -> usize {
    match lane {
        Lane::Alert => 0,
        Lane::Routine => 1,
        Lane::Bulk => 2,
    }
}

#[cfg(test)]
mod tests;
