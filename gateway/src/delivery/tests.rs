//! What is sent next, told by data: a store of segments in memory answers the reads, nothing else runs.

use super::*;
use bytes::Bytes;
use domain::kernel::{AgreementId, Entropy, Epoch, RegionId, Timestamp};
use std::collections::BTreeMap;

/// The window of a peer in these tests: as much as anything here needs.
const PLENTY: u32 = 64 * 1_024 * 1_024;

struct Zeros;
impl Entropy for Zeros {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

fn stream(origin: &str, lane: Lane) -> StreamId {
    StreamId {
        origin: RegionId::parse(origin).unwrap(),
        epoch: Epoch::mint(Timestamp::default(), &Zeros),
        agreement: AgreementId::mint(Timestamp::default(), &Zeros),
        version: 1,
        lane,
    }
}

/// A segment whose bytes no other has.
fn segment(stream: &StreamId, first_seq: u64, last_seq: u64, size: usize) -> StoredSegment {
    let name = format!("{} {} {first_seq} {last_seq} ", stream.origin, stream.lane.name());
    let encoded: Bytes = name.bytes().cycle().take(size).collect();
    StoredSegment { first_seq, last_seq, encoded }
}

/// A delivery with a store behind it and a peer in front of it.
#[derive(Default)]
struct World {
    delivery: Delivery,
    now_ms: u64,
    held: BTreeMap<StreamId, BTreeMap<u64, StoredSegment>>,
    names: HashMap<SegmentId, (StreamId, u64)>,
    /// First seqs of the segments whose first piece was sent, by stream.
    begun: Vec<(StreamId, u64)>,
    /// What was asked of an origin.
    asked: Vec<(StreamId, u64, u64)>,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        for lane in Lane::ALL {
            world.tell(Event::Granted(*lane, PLENTY));
        }
        world
    }

    /// Puts a segment into the store and tells nobody.
    fn hold(
        &mut self,
        stream: &StreamId,
        first_seq: u64,
        last_seq: u64,
        size: usize,
    ) -> StoredSegment {
        let segment = segment(stream, first_seq, last_seq, size);
        let id = seal::segment::segment_id(&segment.encoded);
        self.names.insert(id, (stream.clone(), first_seq));
        self.held.entry(stream.clone()).or_default().insert(first_seq, segment.clone());
        segment
    }

    /// A segment of one entry is stored while the peer follows.
    fn store(&mut self, stream: &StreamId, seq: u64, size: usize) {
        let segment = self.hold(stream, seq, seq, size);
        self.tell(Event::Stored(stream.clone(), segment));
    }

    /// Tells an event, and answers every read it leads to.
    fn tell(&mut self, event: Event) {
        let mut effects = VecDeque::from(self.delivery.step(self.now_ms, event));
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Read(stream, after) => {
                    let segments = self.list(&stream, after);
                    let event = Event::Read { stream, after, segments };
                    effects.extend(self.delivery.step(self.now_ms, event));
                }
                Effect::Ask { stream, from_seq, to_seq } => {
                    self.asked.push((stream, from_seq, to_seq));
                }
                Effect::Send(_) => panic!("nothing is sent before the network is writable"),
            }
        }
    }

    fn list(&self, stream: &StreamId, after: u64) -> Vec<StoredSegment> {
        let mut bytes = 0;
        let held = self.held.get(stream).into_iter().flat_map(BTreeMap::values);
        held.filter(|segment| segment.last_seq > after)
            .take_while(|segment| {
                let first = bytes == 0;
                bytes += segment.encoded.len();
                first || bytes <= READ_BYTES_MAX
            })
            .cloned()
            .collect()
    }

    /// The next piece: its lane, its size.
    fn piece(&mut self) -> Option<(Lane, usize)> {
        let promised = self.delivery.has_piece();
        let mut sent = None;
        for effect in self.delivery.step(self.now_ms, Event::Writable) {
            match effect {
                Effect::Send(piece) => sent = Some(piece),
                Effect::Read(stream, after) => {
                    let segments = self.list(&stream, after);
                    self.tell(Event::Read { stream, after, segments });
                }
                Effect::Ask { stream, from_seq, to_seq } => {
                    self.asked.push((stream, from_seq, to_seq));
                }
            }
        }
        assert_eq!(promised, sent.is_some(), "a promised piece comes, and no other");
        let piece = sent?;
        let id = SegmentId::try_from(&piece.segment_id[..]).unwrap();
        if piece.offset == 0 {
            self.begun.push(self.names[&id].clone());
        }
        Some((Lane::try_from(piece.lane).unwrap(), piece.data.len()))
    }

    /// Sends until there is nothing; gives the segments begun since the last time.
    fn drain(&mut self) -> Vec<(StreamId, u64)> {
        while self.piece().is_some() {}
        std::mem::take(&mut self.begun)
    }

    /// Sends until there is nothing; gives the seqs of one stream, and there must be no other.
    fn drain_one(&mut self, stream: &StreamId) -> Vec<u64> {
        let begun = self.drain().into_iter();
        begun
            .map(|(of, seq)| {
                assert_eq!(of, *stream);
                seq
            })
            .collect()
    }
}

#[test]
fn an_alert_goes_between_two_pieces_of_a_routine_segment() {
    let (routine, alert) = (stream("a", Lane::Routine), stream("a", Lane::Alert));
    let mut world = World::new();
    world.store(&routine, 1, 3 * PIECE_BYTES_MAX);
    assert_eq!(world.piece(), Some((Lane::Routine, PIECE_BYTES_MAX)));
    world.store(&alert, 1, PIECE_BYTES_MAX + 10);
    let order: Vec<_> = std::iter::from_fn(|| world.piece()).collect();
    let expected = [
        (Lane::Alert, PIECE_BYTES_MAX),
        (Lane::Alert, 10),
        (Lane::Routine, PIECE_BYTES_MAX),
        (Lane::Routine, PIECE_BYTES_MAX),
    ];
    assert_eq!(order, expected);
}

#[test]
fn a_lane_without_credit_waits_and_does_not_hold_up_another() {
    let (routine, alert) = (stream("a", Lane::Routine), stream("a", Lane::Alert));
    let mut world = World::default();
    world.tell(Event::Granted(Lane::Routine, PLENTY));
    world.store(&alert, 1, 100);
    world.store(&routine, 1, 100);
    assert_eq!(world.drain(), [(routine, 1)]);
    world.tell(Event::Granted(Lane::Alert, 99));
    assert!(!world.delivery.has_piece(), "99 bytes are granted, the piece has 100");
    world.tell(Event::Granted(Lane::Alert, 1));
    assert_eq!(world.drain(), [(alert, 1)]);
}

#[test]
fn no_more_is_sent_than_was_granted() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::default();
    let granted = 2 * PIECE_BYTES_MAX + PIECE_BYTES_MAX / 2;
    world.tell(Event::Granted(Lane::Routine, u32::try_from(granted).unwrap()));
    world.store(&routine, 1, 4 * PIECE_BYTES_MAX);
    let sent: usize = std::iter::from_fn(|| world.piece()).map(|(_, size)| size).sum();
    assert_eq!(sent, 2 * PIECE_BYTES_MAX);
    world.tell(Event::Granted(Lane::Routine, PLENTY));
    let rest: usize = std::iter::from_fn(|| world.piece()).map(|(_, size)| size).sum();
    assert_eq!(sent + rest, 4 * PIECE_BYTES_MAX);
}

#[test]
fn nothing_is_read_for_a_peer_that_takes_nothing() {
    let routine = stream("a", Lane::Routine);
    let mut delivery = Delivery::default();
    assert_eq!(delivery.step(0, Event::Grew(routine.clone(), 5)), []);
    let effects = delivery.step(0, Event::Granted(Lane::Routine, 1));
    assert_eq!(effects, [Effect::Read(routine, 0)]);
}

#[test]
fn streams_of_a_lane_go_in_turn() {
    let (busy, quiet) = (stream("busy", Lane::Routine), stream("quiet", Lane::Routine));
    let mut world = World::new();
    for seq in 1..=4 {
        world.store(&busy, seq, 100);
    }
    for seq in 1..=2 {
        world.store(&quiet, seq, 100);
    }
    let order = world.drain();
    let expected = [(&busy, 1), (&quiet, 1), (&busy, 2), (&quiet, 2), (&busy, 3), (&busy, 4)];
    assert_eq!(order, expected.map(|(stream, seq)| (stream.clone(), seq)));
}

/// The one that is behind must be read, the one that never stops must be sent: both move on.
#[test]
fn a_stream_that_never_stops_does_not_starve_one_that_is_behind() {
    let (busy, behind) = (stream("busy", Lane::Routine), stream("behind", Lane::Routine));
    let mut world = World::new();
    let size = READ_BYTES_MAX / 2;
    for seq in 1..=20 {
        world.hold(&behind, seq, seq, size);
    }
    world.tell(Event::Grew(behind.clone(), 20));
    let mut sent = 0;
    for seq in 1..=400 {
        world.store(&busy, seq, size);
        // As fast as it comes in, and not faster.
        for _ in 0..size.div_ceil(PIECE_BYTES_MAX) {
            world.piece();
        }
        sent = world.begun.iter().filter(|(stream, _)| *stream == behind).count();
        if sent == 20 {
            break;
        }
    }
    assert_eq!(sent, 20);
    assert!(world.begun.len() <= 60, "{} segments were sent meanwhile", world.begun.len());
    assert!(world.begun.iter().filter(|(stream, _)| *stream == busy).count() >= 10);
}

#[test]
fn what_is_held_in_memory_is_bounded_however_much_is_told() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::default();
    for seq in 1..=100 {
        world.store(&routine, seq, READ_BYTES_MAX / 4);
    }
    let held = world.delivery.lanes[index(Lane::Routine)].held_bytes;
    assert!(held <= HELD_BYTES_MAX, "{held} bytes");
    world.tell(Event::Granted(Lane::Routine, PLENTY));
    assert_eq!(world.drain_one(&routine), (1..=100).collect::<Vec<_>>());
    assert_eq!(world.delivery.lanes[index(Lane::Routine)].held_bytes, 0);
}

#[test]
fn a_stream_goes_in_order_from_where_the_peer_is_and_nothing_twice() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    for seq in 1..=50 {
        world.hold(&routine, seq, seq, 20_000);
    }
    world.tell(Event::Applied(routine.clone(), 10, true));
    world.tell(Event::Grew(routine.clone(), 50));
    world.piece();
    // Told while it is still behind, and told again as any listener may be.
    for seq in 51..=60 {
        world.store(&routine, seq, 20_000);
        world.tell(Event::Grew(routine.clone(), seq));
    }
    assert_eq!(world.drain_one(&routine), (11..=60).collect::<Vec<_>>());
    world.tell(Event::Grew(routine.clone(), 60));
    let again = segment(&routine, 60, 60, 20_000);
    world.tell(Event::Stored(routine.clone(), again));
    assert_eq!(world.drain(), []);
    assert_eq!(world.asked, []);
}

#[test]
fn a_segment_that_reaches_back_before_the_peers_place_is_sent_whole() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    world.hold(&routine, 1, 8, 100);
    world.hold(&routine, 9, 12, 100);
    world.tell(Event::Applied(routine.clone(), 5, true));
    world.tell(Event::Grew(routine.clone(), 12));
    assert_eq!(world.drain_one(&routine), [1, 9]);
}

#[test]
fn a_gap_is_asked_of_the_origin_up_to_where_something_is_held() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    world.hold(&routine, 6, 9, 100);
    world.tell(Event::Grew(routine.clone(), 9));
    assert_eq!(world.asked, [(routine.clone(), 1, 5)]);
    assert_eq!(world.drain(), [], "a stream has no holes");
    let refill = world.hold(&routine, 1, 5, 100);
    world.tell(Event::Stored(routine.clone(), refill));
    assert_eq!(world.drain_one(&routine), [1, 6]);
}

#[test]
fn a_gap_up_to_the_end_is_asked_of_the_origin() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    world.tell(Event::Applied(routine.clone(), 3, true));
    world.tell(Event::Grew(routine.clone(), 7));
    assert_eq!(world.asked, [(routine, 4, 7)]);
}

#[test]
fn a_long_gap_is_filled_one_segment_at_a_time_as_the_peer_takes_it() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    world.tell(Event::Grew(routine.clone(), 1_200));
    let (mut asked, mut sent) = (Vec::new(), Vec::new());
    while let Some((_, from_seq, to_seq)) = world.asked.pop() {
        assert!(world.asked.is_empty(), "one at a time");
        asked.push((from_seq, to_seq));
        let refill = world.hold(&routine, from_seq, to_seq, 100);
        world.tell(Event::Stored(routine.clone(), refill));
        sent.extend(world.drain_one(&routine));
    }
    assert_eq!(asked, [(1, 512), (513, 1_024), (1_025, 1_200)]);
    assert_eq!(sent, [1, 513, 1_025]);
}

#[test]
fn a_gap_that_is_not_filled_from_the_peers_place_is_filled_from_its_end() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    world.tell(Event::Grew(routine.clone(), 1_200));
    assert_eq!(world.asked.pop(), Some((routine.clone(), 1, 512)));
    world.now_ms = REFILL_TIMEOUT_MS;
    world.tell(Event::Tick);
    let mut asked = Vec::new();
    while let Some((_, from_seq, to_seq)) = world.asked.pop() {
        asked.push((from_seq, to_seq));
        let refill = world.hold(&routine, from_seq, to_seq, 100);
        world.now_ms += REFILL_TIMEOUT_MS;
        world.tell(Event::Tick);
        world.tell(Event::Stored(routine.clone(), refill));
    }
    assert_eq!(asked.first(), Some(&(689, 1_200)));
    assert_eq!(world.drain_one(&routine).first(), Some(&1));
}

#[test]
fn an_origin_that_does_not_answer_is_asked_again_and_not_before_its_time() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    world.tell(Event::Grew(routine.clone(), 4));
    world.now_ms = REFILL_TIMEOUT_MS - 1;
    world.tell(Event::Tick);
    world.tell(Event::Grew(routine.clone(), 4));
    assert_eq!(world.asked.len(), 1);
    world.now_ms = REFILL_TIMEOUT_MS;
    world.tell(Event::Tick);
    assert_eq!(world.asked, [(routine.clone(), 1, 4), (routine, 1, 4)]);
}

#[test]
fn a_gap_of_one_stream_does_not_hold_up_another_of_its_lane() {
    let (holed, whole) = (stream("holed", Lane::Routine), stream("whole", Lane::Routine));
    let mut world = World::new();
    world.tell(Event::Grew(holed, 4));
    world.hold(&whole, 1, 3, 100);
    world.tell(Event::Grew(whole.clone(), 3));
    assert_eq!(world.drain(), [(whole, 1)]);
}

#[test]
fn a_want_starts_the_stream_again_from_there() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    for seq in 1..=6 {
        world.store(&routine, seq, 100);
    }
    assert_eq!(world.drain_one(&routine), (1..=6).collect::<Vec<_>>());
    world.tell(Event::Wanted(routine.clone(), 3));
    assert_eq!(world.drain_one(&routine), [3, 4, 5, 6]);
}

#[test]
fn a_want_while_segments_wait_drops_what_waits() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    for seq in 1..=6 {
        world.store(&routine, seq, 2 * PIECE_BYTES_MAX);
    }
    // Half of the second is on its way, and goes to its end.
    for _ in 0..3 {
        world.piece();
    }
    world.tell(Event::Wanted(routine.clone(), 1));
    assert_eq!(world.drain_one(&routine), [1, 2, 1, 2, 3, 4, 5, 6]);
    assert_eq!(world.delivery.lanes[index(Lane::Routine)].held_bytes, 0);
}

#[test]
fn a_want_while_the_store_is_read_does_not_take_the_old_answer() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    for seq in 1..=6 {
        world.hold(&routine, seq, seq, 100);
    }
    world.tell(Event::Applied(routine.clone(), 4, true));
    let effects = world.delivery.step(0, Event::Grew(routine.clone(), 6));
    assert_eq!(effects, [Effect::Read(routine.clone(), 4)]);
    world.tell(Event::Wanted(routine.clone(), 2));
    let segments = world.list(&routine, 4);
    world.tell(Event::Read { stream: routine.clone(), after: 4, segments });
    assert_eq!(world.drain_one(&routine), [2, 3, 4, 5, 6]);
}

#[test]
fn a_want_of_what_is_no_longer_held_is_passed_to_the_origin() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    for seq in 1..=6 {
        world.store(&routine, seq, 100);
    }
    world.drain();
    world.held.clear();
    world.tell(Event::Wanted(routine.clone(), 3));
    assert_eq!(world.asked, [(routine, 3, 6)]);
}

#[test]
fn a_read_that_failed_is_tried_again_later() {
    let routine = stream("a", Lane::Routine);
    let mut world = World::new();
    world.hold(&routine, 1, 2, 100);
    let effects = world.delivery.step(0, Event::Grew(routine.clone(), 2));
    assert_eq!(effects, [Effect::Read(routine.clone(), 0)]);
    world.tell(Event::ReadFailed(routine.clone()));
    world.tell(Event::Tick);
    assert_eq!(world.drain(), [], "a failing disk is not hammered");
    world.now_ms = REFILL_TIMEOUT_MS;
    world.tell(Event::Tick);
    assert_eq!(world.drain_one(&routine), [1]);
    assert_eq!(world.asked, []);
}
