use super::*;
use crate::fixture::{NOW, stream};
use proptest::prelude::*;
use proto::link::PIECE_BYTES_MAX;

const LANES: &[Lane] = &[Lane::Alert, Lane::Routine];

fn at(seq: u64) -> Position {
    Position { seq, h: [seq as u8; 32] }
}

fn routine(origin: &str) -> StreamId {
    stream(origin, Lane::Routine)
}

fn ready(of: &StreamId, from: u64, to: u64, size: usize) -> Event {
    let mut segment_id = [0; 16];
    segment_id[..8].copy_from_slice(&to.to_be_bytes());
    let bytes = Bytes::from(vec![7; size]);
    Event::Cut(Ready { stream: of.clone(), first_seq: from, after: at(to), bytes, segment_id })
}

/// A link on which nothing is held back by credit.
fn open(streams: Vec<(StreamId, Position)>) -> Sender {
    let mut sender = Sender::new(LANES, streams, NOW);
    for lane in LANES {
        sender.step(Event::Granted(*lane, 4 << 20));
    }
    sender
}

/// The cuts among the effects: after, to.
fn cuts(effects: Vec<Effect>) -> Vec<(u64, u64)> {
    let cut = |effect| match effect {
        Effect::Cut { after, to_seq, .. } => Some((after, to_seq)),
        _ => None,
    };
    effects.into_iter().filter_map(cut).collect()
}

fn piece(sender: &mut Sender) -> Option<SegmentPiece> {
    sender.step(Event::Writable).into_iter().find_map(|effect| match effect {
        Effect::Send(piece) => Some(piece),
        _ => None,
    })
}

#[test]
fn entries_gather_while_a_cut_is_under_way() {
    let of = routine("daluba");
    let mut sender = Sender::new(LANES, Vec::new(), NOW);
    assert_eq!(cuts(sender.step(Event::Durable(of.clone(), at(1)))), [(0, 0)]);
    assert_eq!(cuts(sender.step(Event::Durable(of.clone(), at(5)))), []);
    assert_eq!(cuts(sender.step(ready(&of, 1, 1, 10))), [(1, 0)]);
    assert_eq!(cuts(sender.step(ready(&of, 2, 5, 10))), []);
    // A commit told late, of what the last cut took along.
    assert_eq!(cuts(sender.step(Event::Durable(of.clone(), at(5)))), []);
    assert_eq!(cuts(sender.step(Event::Durable(of, at(6)))), [(5, 0)]);
}

#[test]
fn no_more_is_cut_ahead_than_keeps_the_wire_busy() {
    let of = routine("daluba");
    let mut sender = open(vec![(of.clone(), at(100))]);
    for seq in 1..=4 {
        sender.step(ready(&of, seq, seq, 10));
    }
    assert_eq!(cuts(sender.step(Event::Tick(NOW))), []);
    assert!(piece(&mut sender).is_some());
    assert!(sender.streams.values().all(|known| known.cutting));
}

#[test]
fn a_welcome_says_where_to_go_on() {
    let (of, new, foreign) = (routine("daluba"), routine("xiaonanhai"), routine("huolu"));
    let mut sender = Sender::new(LANES, vec![(of.clone(), at(9)), (new, at(2))], NOW);
    let stored = vec![(of.clone(), at(7)), (foreign, at(3))];
    let effects = sender.step(Event::Welcomed { stored, resumes: Vec::new() });
    assert_eq!(cuts(effects), [(7, 0), (0, 0)]);
    // The gateway has more than we do: this region was restored from a copy.
    let mut sender = Sender::new(LANES, vec![(of.clone(), at(9))], NOW);
    let stored = vec![(of.clone(), at(12))];
    let effects = sender.step(Event::Welcomed { stored, resumes: Vec::new() });
    assert!(matches!(&effects[..], [Effect::WentBack(stream)] if *stream == of));
}

#[test]
fn an_alert_overtakes_between_the_pieces_of_a_routine_segment() {
    let (alert, routine) = (stream("daluba", Lane::Alert), routine("daluba"));
    let mut sender = open(vec![(routine.clone(), at(1))]);
    sender.step(ready(&routine, 1, 1, 3 * PIECE_BYTES_MAX));
    let mut lanes = vec![piece(&mut sender).unwrap().lane];
    sender.step(Event::Durable(alert.clone(), at(1)));
    sender.step(ready(&alert, 1, 1, PIECE_BYTES_MAX + 1));
    lanes.extend(std::iter::from_fn(|| piece(&mut sender)).map(|piece| piece.lane));
    let (a, r) = (Lane::Alert.code(), Lane::Routine.code());
    assert_eq!(lanes, [r, a, a, r, r]);
    assert!(!sender.has_piece());
}

#[test]
fn streams_of_a_lane_take_turns() {
    let (one, two) = (routine("daluba"), routine("xiaonanhai"));
    let mut sender = open(vec![(one.clone(), at(9)), (two.clone(), at(9))]);
    for seq in 1..=2 {
        sender.step(ready(&one, seq, seq, 11));
        sender.step(ready(&two, seq, seq, 22));
    }
    let sizes: Vec<_> =
        std::iter::from_fn(|| piece(&mut sender)).map(|piece| piece.total_size).collect();
    assert_eq!(sizes, [11, 22, 11, 22]);
}

#[test]
fn a_large_segment_waits_for_credit_and_is_not_passed_by() {
    let (large, small) = (routine("daluba"), routine("xiaonanhai"));
    let mut sender = Sender::new(LANES, vec![(large.clone(), at(1)), (small.clone(), at(1))], NOW);
    sender.step(Event::Granted(Lane::Routine, 500));
    sender.step(ready(&large, 1, 1, 1_000));
    sender.step(ready(&small, 1, 1, 10));
    // It says that it has nothing to send, so that nobody spins on it.
    assert!(!sender.has_piece());
    assert!(piece(&mut sender).is_none());
    sender.step(Event::Granted(Lane::Routine, 510));
    assert!(sender.has_piece());
    assert_eq!(piece(&mut sender).unwrap().total_size, 1_000);
    assert_eq!(piece(&mut sender).unwrap().total_size, 10);
}

#[test]
fn a_segment_goes_on_where_the_gateway_has_it() {
    let of = routine("daluba");
    let mut sender = open(vec![(of.clone(), at(5))]);
    let Event::Cut(cut) = ready(&of, 1, 5, 40_000) else { unreachable!() };
    let resumes = vec![(cut.segment_id, 16_384)];
    sender.step(Event::Welcomed { stored: Vec::new(), resumes });
    sender.step(Event::Cut(cut));
    let offsets: Vec<_> = std::iter::from_fn(|| piece(&mut sender)).map(|p| p.offset).collect();
    assert_eq!(offsets, [16_384, 32_768]);
}

#[test]
fn a_cut_under_way_that_no_longer_joins_on_is_ignored_and_the_stream_goes_on() {
    let of = routine("daluba");
    let mut sender = open(vec![(of.clone(), at(9))]);
    sender.step(ready(&of, 1, 6, 10));
    // Entries 7 to 9 are being cut; the gateway goes back to 3.
    let wanted = Event::Wanted { stream: of.clone(), from_seq: 3, to_seq: 0 };
    assert_eq!(cuts(sender.step(wanted)), []);
    assert!(!sender.has_piece(), "what was cut before does not join on");
    assert_eq!(cuts(sender.step(ready(&of, 7, 9, 10))), [(2, 0)]);
    assert!(!sender.has_piece());
    assert_eq!(cuts(sender.step(ready(&of, 3, 9, 10))), []);
    assert!(piece(&mut sender).is_some());
}

#[test]
fn a_cut_that_fails_is_tried_again_at_the_next_tick_alone() {
    let of = routine("daluba");
    let mut sender = open(vec![(of.clone(), at(9))]);
    assert_eq!(cuts(sender.step(Event::CutFailed(of.clone()))), []);
    let wanted = Event::Wanted { stream: of.clone(), from_seq: 1, to_seq: 0 };
    assert_eq!(cuts(sender.step(wanted)), []);
    assert_eq!(cuts(sender.step(Event::Durable(of, at(10)))), []);
    assert_eq!(cuts(sender.step(Event::Tick(NOW))), [(0, 0)]);
}

#[test]
fn a_wanted_range_goes_first_ends_where_it_was_asked_to_and_skips_nothing() {
    let of = routine("daluba");
    let mut sender = open(vec![(of.clone(), at(30))]);
    let wanted = Event::Wanted { stream: of.clone(), from_seq: 21, to_seq: 25 };
    sender.step(wanted);
    assert_eq!(cuts(sender.step(ready(&of, 1, 10, 10))), [(20, 25)]);
    assert_eq!(cuts(sender.step(ready(&of, 21, 23, 10))), [(23, 25)]);
    assert_eq!(cuts(sender.step(ready(&of, 24, 25, 10))), [(10, 0)]);
}

#[test]
fn what_a_gateway_wants_is_bounded_and_never_beyond_the_stream() {
    let of = routine("daluba");
    let mut sender = open(vec![(of.clone(), at(1_000))]);
    for from_seq in (1..=1_000).chain(1..=1_000) {
        sender.step(Event::Wanted { stream: of.clone(), from_seq, to_seq: from_seq });
    }
    for (from_seq, to_seq) in [(5, 4), (1, 1_001), (u64::MAX, u64::MAX)] {
        sender.step(Event::Wanted { stream: of.clone(), from_seq, to_seq });
    }
    let known = sender.streams.values().next().unwrap();
    assert_eq!(known.wanted.len(), RANGES_WANTED_MAX);
    sender.step(Event::Wanted { stream: of, from_seq: u64::MAX, to_seq: 0 });
    assert_eq!(sender.streams.values().next().unwrap().cut, 1_000);
}

#[test]
fn a_head_covers_a_minute_of_silence_and_only_that() {
    let of = routine("daluba");
    let mut sender = open(vec![(of.clone(), at(2))]);
    let heads = |effects: Vec<Effect>| {
        effects.into_iter().filter(|effect| matches!(effect, Effect::Head(..))).count()
    };
    // Not while something is still to be sent.
    assert_eq!(heads(sender.step(Event::Tick(NOW.plus_millis(60_000)))), 0);
    sender.step(ready(&of, 1, 2, 10));
    assert!(piece(&mut sender).is_some());
    for (ms, count) in [(119_999, 0), (120_000, 1), (120_500, 0), (180_000, 1)] {
        assert_eq!(heads(sender.step(Event::Tick(NOW.plus_millis(ms)))), count, "{ms}");
    }
}

#[test]
fn streams_of_other_lanes_are_another_links() {
    let of = stream("daluba", Lane::Bulk);
    let mut sender = open(vec![(of.clone(), at(2))]);
    assert!(sender.step(Event::Durable(of.clone(), at(3))).is_empty());
    assert!(sender.step(ready(&of, 1, 3, 10)).is_empty());
    assert!(!sender.has_piece());
}

proptest! {
    #[test]
    fn a_piece_is_announced_exactly_when_there_is_one(
        sizes in proptest::collection::vec((0..3_usize, 1..40_000_usize, 0..60_000_u32), 1..40),
    ) {
        let origins = ["daluba", "huolu", "xiaonanhai"].map(routine);
        let streams = origins.iter().map(|of| (of.clone(), at(1_000))).collect();
        let mut sender = Sender::new(LANES, streams, NOW);
        let mut next = [1; 3];
        let (mut granted, mut sent) = (0_u64, 0_u64);
        for (of, size, grant) in sizes {
            sender.step(ready(&origins[of], next[of], next[of], size));
            next[of] += 1;
            sender.step(Event::Granted(Lane::Routine, grant));
            granted += u64::from(grant);
            while sender.has_piece() {
                let piece = piece(&mut sender);
                prop_assert!(piece.is_some());
                sent += piece.map_or(0, |piece| piece.data.len() as u64);
            }
            prop_assert!(piece(&mut sender).is_none());
            prop_assert!(sent <= granted);
        }
    }
}
