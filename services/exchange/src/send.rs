//! What to send next over one link. Pure: the shell around it reads the store, seals and writes to the
//! network, and tells what came of it.
//!
//! A stream's entries are cut into a segment at once when the stream was idle; while a cut is under way
//! more entries gather, and the next cut takes them all. So batches form by themselves.

use bytes::Bytes;
use domain::kernel::{Lane, Timestamp};
use domain::stream::{Position, StreamId};
use proto::exchange::v1::SegmentPiece;
use proto::link::{CreditOut, HEAD_SILENCE_MS};
use std::collections::{BTreeMap, VecDeque};

/// Segments of one stream that are cut but not sent; enough to keep the wire busy while the next is cut.
const SEGMENTS_READY_MAX: usize = 4;

/// Ranges of one stream that the gateway may want at a time; it asks again for what it still lacks.
const RANGES_WANTED_MAX: usize = 64;

/// A sealed range, ready to send.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its stream.
    pub stream: StreamId,
    /// Its first entry.
    pub first_seq: u64,
    /// Where it ends.
    pub after: Position,
    /// The encoded segment.
    pub bytes: Bytes,
    /// First 16 bytes of its SHA-256.
    pub segment_id: [u8; 16],
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The gateway said how far it has this region's streams. The first event of a link.
    Welcomed {
        /// Streams it knows.
        stored: Vec<(StreamId, Position)>,
        /// Pieces of segments it holds: the segment and how many bytes.
        resumes: Vec<([u8; 16], u32)>,
    },
    /// Entries are on disk up to here.
    Durable(StreamId, Position),
    /// A range was sealed.
    Cut(Ready),
    /// A range could not be sealed now; it is tried again at the next tick.
    CutFailed(StreamId),
    /// The gateway has a stream on disk up to here.
    Stored(StreamId, Position),
    /// The gateway takes more bytes of a lane.
    Granted(Lane, u32),
    /// The gateway wants a range again; `to_seq` 0 means to the end.
    Wanted {
        /// The stream.
        stream: StreamId,
        /// First entry.
        from_seq: u64,
        /// Last entry; a segment must end here.
        to_seq: u64,
    },
    /// Something of a stream was erased: what was sealed before and is not at the gateway yet is sealed anew.
    Erased(StreamId),
    /// The network takes one more frame.
    Writable,
    /// Time passes.
    Tick(Timestamp),
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Read and seal entries after `after`, at most up to `to_seq` (0: to the end).
    Cut {
        /// The stream.
        stream: StreamId,
        /// Where the range begins.
        after: u64,
        /// Where it must end at the latest.
        to_seq: u64,
    },
    /// Send a piece.
    Send(SegmentPiece),
    /// Sign and send a head: nothing was sent for a while.
    Head(StreamId, Position),
    /// The gateway has more than is on disk here: this store went back.
    WentBack(StreamId),
}

/// One stream as this link sees it.
#[derive(Debug)]
struct Stream {
    /// On disk here.
    durable: Position,
    /// Cut up to here.
    cut: u64,
    /// On disk at the gateway.
    stored: u64,
    /// A cut is under way.
    cutting: bool,
    /// What is being cut was read before something was erased.
    outdated: bool,
    /// The last cut failed; the next tick tries again, so that a failing disk is not hammered.
    failed: bool,
    /// Sealed, not sent.
    ready: VecDeque<Ready>,
    /// Ranges wanted again, before anything new.
    wanted: VecDeque<(u64, u64)>,
    /// When something of it was last sent.
    spoke_at: Timestamp,
}

/// A segment on its way, piece by piece.
#[derive(Debug)]
struct Going {
    stream: StreamId,
    pieces: VecDeque<SegmentPiece>,
}

/// The sending core of one link.
#[derive(Debug)]
pub struct Sender {
    lanes: Vec<Lane>,
    streams: BTreeMap<(Lane, StreamId), Stream>,
    credit: CreditOut,
    going: BTreeMap<Lane, Going>,
    resumes: Vec<([u8; 16], u32)>,
    turn: BTreeMap<Lane, StreamId>,
    now: Timestamp,
}

impl Sender {
    /// A core for a link that carries `lanes`, over streams that go so far on disk here.
    pub fn new(lanes: &[Lane], streams: Vec<(StreamId, Position)>, now: Timestamp) -> Self {
        let mut sender = Self {
            lanes: lanes.to_vec(),
            streams: BTreeMap::new(),
            credit: CreditOut::default(),
            going: BTreeMap::new(),
            resumes: Vec::new(),
            turn: BTreeMap::new(),
            now,
        };
        for (stream, position) in streams {
            sender.durable(stream, position);
        }
        sender
    }

    /// Takes an event, tells what to do.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Welcomed { stored, resumes } => {
                self.resumes = resumes;
                for (stream, position) in stored {
                    let Some(known) = self.streams.get_mut(&(stream.lane, stream.clone())) else {
                        continue;
                    };
                    known.stored = position.seq;
                    known.cut = position.seq.min(known.durable.seq);
                    if position.seq > known.durable.seq {
                        effects.push(Effect::WentBack(stream));
                    }
                }
            }
            Event::Durable(stream, position) => self.durable(stream, position),
            Event::Cut(ready) => self.cut(ready),
            Event::CutFailed(stream) => {
                if let Some(known) = self.streams.get_mut(&(stream.lane, stream)) {
                    known.failed = true;
                }
            }
            Event::Stored(stream, position) => {
                if let Some(known) = self.streams.get_mut(&(stream.lane, stream)) {
                    known.stored = known.stored.max(position.seq);
                }
            }
            Event::Granted(lane, size) => self.credit.grant(lane, size),
            Event::Wanted { stream, from_seq, to_seq } => self.wanted(&stream, from_seq, to_seq),
            Event::Erased(stream) => self.erased(&stream),
            Event::Writable => {
                if let Some(piece) = self.next_piece() {
                    effects.push(Effect::Send(piece));
                }
            }
            Event::Tick(now) => self.tick(now, &mut effects),
        }
        self.start_cuts(&mut effects);
        effects
    }

    /// Whether a frame is waiting for the network.
    pub fn has_piece(&self) -> bool {
        self.lanes.iter().any(|lane| {
            let fits = |(_, ready): (&StreamId, &Ready)| {
                self.credit.available(*lane) as usize >= ready.bytes.len()
            };
            self.going.contains_key(lane) || self.next_ready(*lane).is_some_and(fits)
        })
    }

    /// Streams and how far the gateway has them on disk.
    pub fn stored(&self) -> impl Iterator<Item = (&StreamId, u64)> {
        self.streams.iter().map(|((_, stream), state)| (stream, state.stored))
    }

    /// The segment of a lane whose turn it is: streams go round. It is waited for even when a smaller
    /// one of another stream would fit the credit, else a large one might never go.
    fn next_ready(&self, lane: Lane) -> Option<(&StreamId, &Ready)> {
        let after = self.turn.get(&lane);
        let mut ready = self
            .streams
            .iter()
            .filter(|((of, _), _)| *of == lane)
            .filter_map(|((_, id), stream)| Some((id, stream.ready.front()?)));
        let first = ready.clone().next();
        ready.find(|(id, _)| after.is_none_or(|last| *id > last)).or(first)
    }

    fn durable(&mut self, stream: StreamId, position: Position) {
        if !self.lanes.contains(&stream.lane) {
            return;
        }
        let now = self.now;
        let known = self.streams.entry((stream.lane, stream)).or_insert_with(|| Stream {
            durable: position,
            cut: 0,
            stored: 0,
            cutting: false,
            outdated: false,
            failed: false,
            ready: VecDeque::new(),
            wanted: VecDeque::new(),
            spoke_at: now,
        });
        if position.seq > known.durable.seq {
            known.durable = position;
        }
    }

    fn cut(&mut self, ready: Ready) {
        let Some(known) = self.streams.get_mut(&(ready.stream.lane, ready.stream.clone())) else {
            return;
        };
        known.cutting = false;
        if std::mem::take(&mut known.outdated) {
            return;
        }
        match known.wanted.front_mut() {
            // A wanted range is worked off from its front.
            Some((from, to)) if *from == ready.first_seq => {
                *from = ready.after.seq + 1;
                if *from > *to {
                    known.wanted.pop_front();
                }
                // Only what joins on: a range further on leaves what lies before it to be cut.
                if ready.first_seq <= known.cut + 1 {
                    known.cut = known.cut.max(ready.after.seq);
                }
            }
            _ if ready.first_seq == known.cut + 1 => known.cut = ready.after.seq,
            // Cut before the gateway asked for another place: of no use any more.
            _ => return,
        }
        known.ready.push_back(ready);
    }

    fn wanted(&mut self, stream: &StreamId, from_seq: u64, to_seq: u64) {
        let Some(known) = self.streams.get_mut(&(stream.lane, stream.clone())) else { return };
        let from = from_seq.max(1);
        if to_seq == 0 {
            // Start again from there: what was cut beyond would not join on.
            known.cut = from.saturating_sub(1).min(known.durable.seq);
            known.ready.clear();
            known.wanted.clear();
        } else if from <= to_seq
            && to_seq <= known.durable.seq
            && known.wanted.len() < RANGES_WANTED_MAX
            && !known.wanted.contains(&(from, to_seq))
        {
            known.wanted.push_back((from, to_seq));
        }
    }

    /// Drops what was sealed and is not stored; the gateway asks again for ranges that it wanted.
    fn erased(&mut self, stream: &StreamId) {
        let Some(known) = self.streams.get_mut(&(stream.lane, stream.clone())) else { return };
        known.outdated = known.cutting;
        known.ready.clear();
        known.wanted.clear();
        known.cut = known.stored.min(known.durable.seq);
        if let Some(going) = self.going.get(&stream.lane).filter(|going| going.stream == *stream) {
            let unsent: usize = going.pieces.iter().map(|piece| piece.data.len()).sum();
            self.credit.grant(stream.lane, u32::try_from(unsent).unwrap_or(u32::MAX));
            self.going.remove(&stream.lane);
        }
    }

    fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.now = now;
        // An epoch that was left is silent.
        let newest = self.streams.keys().map(|(_, id)| id.epoch).max();
        for ((_, id), stream) in &mut self.streams {
            if std::mem::take(&mut stream.failed) {
                (stream.cutting, stream.outdated) = (false, false);
            }
            let idle = stream.ready.is_empty() && stream.cut == stream.durable.seq;
            if idle
                && newest == Some(id.epoch)
                && stream.durable.seq > 0
                && now.millis_since(stream.spoke_at) >= HEAD_SILENCE_MS.cast_signed()
            {
                stream.spoke_at = now;
                effects.push(Effect::Head(id.clone(), stream.durable));
            }
        }
    }

    fn start_cuts(&mut self, effects: &mut Vec<Effect>) {
        for ((_, id), stream) in &mut self.streams {
            if stream.cutting || stream.ready.len() >= SEGMENTS_READY_MAX {
                continue;
            }
            let (after, to_seq) = match stream.wanted.front() {
                Some((from, to)) => (*from - 1, *to),
                None if stream.cut < stream.durable.seq => (stream.cut, 0),
                None => continue,
            };
            stream.cutting = true;
            effects.push(Effect::Cut { stream: id.clone(), after, to_seq });
        }
    }

    /// The next piece: the most urgent lane first, even between pieces of a lower one.
    fn next_piece(&mut self) -> Option<SegmentPiece> {
        let lanes = self.lanes.clone();
        for lane in lanes {
            if !self.going.contains_key(&lane) {
                self.begin(lane);
            }
            let Some(going) = self.going.get_mut(&lane) else { continue };
            let piece = going.pieces.pop_front();
            if going.pieces.is_empty() {
                self.going.remove(&lane);
            }
            if piece.is_some() {
                return piece;
            }
        }
        None
    }

    /// Puts the next segment of a lane on its way, streams in turn, if there is credit for it.
    fn begin(&mut self, lane: Lane) {
        let Some(id) = self.next_ready(lane).map(|(id, _)| id.clone()) else { return };
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&(lane, id.clone())) else { return };
        let Some(front) = stream.ready.front() else { return };
        if !self.credit.take(lane, front.bytes.len()) {
            return;
        }
        let Some(ready) = stream.ready.pop_front() else { return };
        stream.spoke_at = now;
        let from = self
            .resumes
            .iter()
            .find(|(held, _)| *held == ready.segment_id)
            .map_or(0, |(_, have)| *have);
        let pieces = proto::link::pieces(&ready.bytes, ready.segment_id, lane, from).collect();
        self.going.insert(lane, Going { stream: id.clone(), pieces });
        self.turn.insert(lane, id);
    }
}

#[cfg(test)]
mod tests;
