use super::*;
use crate::fixture::{Log, NOW, Zeros, book, stream};
use crate::send::{self, Ready, Sender};
use bytes::Bytes;
use proptest::prelude::*;
use proto::link::{Assembler, GRANT_STEP_BYTES, WINDOW_BYTES};

fn routine() -> StreamId {
    stream("daluba", Lane::Routine)
}

/// A log, and a core on an open link that has applied nothing of it.
fn opened(count: usize) -> (Log, Receiver) {
    let log = Log::of(&routine(), count);
    let mut receiver = Receiver::new(Vec::new(), &BTreeMap::new(), NOW);
    receiver.open(&[Lane::Alert, Lane::Routine]);
    (log, receiver)
}

/// A segment comes, of so many bytes as far as credit goes.
fn comes(receiver: &mut Receiver, log: &Log, from: usize, to: usize) -> Vec<Effect> {
    receiver.step(Event::Segment(log.segment(from, to), 10))
}

fn applied(receiver: &mut Receiver, log: &Log, seq: usize) -> Vec<Effect> {
    let outcome =
        Outcome::Applied { position: log.positions[seq], parked_count: 0, left: Vec::new() };
    receiver.step(Event::Taken(routine(), outcome))
}

#[test]
fn nothing_is_missed_of_an_epoch_that_was_left_but_what_is_known_to_be_missing() {
    let late = |left: bool, knows: u64| {
        let (log, mut receiver) = opened(3);
        comes(&mut receiver, &log, 1, 2);
        applied(&mut receiver, &log, 2);
        if left {
            // As another link knows: nothing of the next epoch came in this lane.
            let next = Epoch::mint_after(routine().epoch, NOW, &Zeros);
            receiver.step(Event::Opened(routine().origin, next));
        }
        let position = Position { seq: knows, h: log.positions[2].h };
        let wanted = told(&receiver.step(Event::Left(routine(), position)));
        assert_eq!(wanted.len(), usize::from(knows > 2), "a hole by name");
        let ticked = receiver.step(Event::Tick(NOW.plus_millis(66_000)));
        told(&ticked).contains(&"late".to_owned())
    };
    assert_eq!([late(false, 2), late(true, 2), late(true, 3)], [true, false, true]);
}

/// Effects in short: `take 1-3`, `want 4`, `receipt 3`, an alarm's reason.
fn told(effects: &[Effect]) -> Vec<String> {
    let one = |effect: &Effect| match effect {
        Effect::Take { segments, .. } => {
            let (first, last) = (segments.first().unwrap(), segments.last().unwrap());
            format!("take {}-{}", first.first_seq(), last.last_seq())
        }
        Effect::Receipt(_, position, _) => format!("receipt {}", position.seq),
        Effect::Grant(_, size) => format!("grant {size}"),
        Effect::Want(_, seq) => format!("want {seq}"),
        Effect::HeadLate(_) => "late".to_owned(),
        Effect::Alarm(_, reason) => reason.name().to_owned(),
    };
    effects.iter().map(one).collect()
}

#[test]
fn segments_gather_while_a_range_is_applied() {
    let (log, mut receiver) = opened(9);
    assert_eq!(told(&comes(&mut receiver, &log, 1, 2)), ["take 1-2"]);
    assert!(comes(&mut receiver, &log, 3, 3).is_empty());
    assert!(comes(&mut receiver, &log, 4, 6).is_empty());
    assert_eq!(told(&applied(&mut receiver, &log, 2)), ["receipt 2", "take 3-6"]);
    assert_eq!(told(&applied(&mut receiver, &log, 6)), ["receipt 6"]);
    // What was applied comes again: of no use, but to tell who sent it how far this is.
    assert_eq!(told(&comes(&mut receiver, &log, 3, 6)), ["receipt 6"]);
    assert_eq!(told(&comes(&mut receiver, &log, 5, 9)), ["take 5-9"]);
}

#[test]
fn a_hole_is_asked_for_once_and_the_stream_goes_on_when_it_is_filled() {
    let (log, mut receiver) = opened(60);
    comes(&mut receiver, &log, 1, 2);
    assert_eq!(told(&comes(&mut receiver, &log, 5, 6)), ["want 3"]);
    // More that was under way by then, much more than an honest retry counts.
    for from in 7..40 {
        assert!(comes(&mut receiver, &log, from, from).is_empty());
    }
    assert_eq!(told(&applied(&mut receiver, &log, 2)), ["receipt 2"]);
    assert_eq!(told(&comes(&mut receiver, &log, 3, 6)), ["take 3-6"]);
    assert_eq!(told(&applied(&mut receiver, &log, 6)), ["receipt 6"]);
    // The next hole is another one.
    assert_eq!(told(&comes(&mut receiver, &log, 9, 9)), ["want 7"]);
}

#[test]
fn a_head_beyond_the_cursor_names_a_hole() {
    let (log, mut receiver) = opened(9);
    comes(&mut receiver, &log, 1, 2);
    let head = |seq: usize| Event::Head(routine(), log.positions[seq], NOW);
    // Not while something is being applied.
    assert!(receiver.step(head(4)).is_empty());
    applied(&mut receiver, &log, 2);
    assert_eq!(told(&receiver.step(head(4))), ["want 3"]);
    assert_eq!(told(&receiver.step(head(5))), ["want 3"]);
    assert!(receiver.step(head(2)).is_empty());
    assert_eq!(receiver.standings().next().unwrap().1.known_seq, 5);
}

#[test]
fn a_refused_range_is_asked_for_again_twice_and_then_waits_for_a_person() {
    let (log, mut receiver) = opened(9);
    let start = log.positions[0];
    for _ in 0..2 {
        comes(&mut receiver, &log, 1, 2);
        comes(&mut receiver, &log, 3, 4);
        let refused = Outcome::Refused(start, Reason::SignatureInvalid);
        let effects = receiver.step(Event::Taken(routine(), refused));
        // What waited was sent after it and comes again.
        assert_eq!(told(&effects), ["SIGNATURE_INVALID", "want 1"]);
        assert!(comes(&mut receiver, &log, 5, 6).is_empty());
    }
    comes(&mut receiver, &log, 1, 2);
    let refused = Outcome::Refused(start, Reason::SignatureInvalid);
    let effects = receiver.step(Event::Taken(routine(), refused));
    assert_eq!(told(&effects), ["SIGNATURE_INVALID"]);
    assert!(comes(&mut receiver, &log, 1, 2).is_empty());
}

#[test]
fn another_link_may_go_on_any_number_of_times() {
    let (log, mut receiver) = opened(40);
    comes(&mut receiver, &log, 1, 4);
    for seq in 1..4 {
        // Each time the other link's range came first: no hole, and nobody's fault.
        let gone_on = Event::Taken(routine(), Outcome::Gap(log.positions[seq]));
        let effects = receiver.step(gone_on);
        let [Effect::Take { cursor, .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(*cursor, log.positions[seq]);
    }
    assert_eq!(told(&applied(&mut receiver, &log, 4)), ["receipt 4"]);
    // Nor when it went on past all that is here.
    comes(&mut receiver, &log, 5, 6);
    let past = Event::Taken(routine(), Outcome::Gap(log.positions[9]));
    assert_eq!(told(&receiver.step(past)), ["take 5-6"]);
    assert!(receiver.step(Event::Taken(routine(), Outcome::Known)).is_empty());
    assert_eq!(told(&comes(&mut receiver, &log, 10, 12)), ["take 10-12"]);
}

#[test]
fn a_range_that_was_known_changes_nothing() {
    let log = Log::of(&routine(), 4);
    let mut receiver = Receiver::new(vec![(routine(), log.positions[2], 1)], &BTreeMap::new(), NOW);
    assert_eq!(told(&comes(&mut receiver, &log, 1, 4)), ["take 1-4"]);
    assert!(receiver.step(Event::Taken(routine(), Outcome::Known)).is_empty());
    let standing = receiver.standings().next().unwrap().1;
    assert_eq!((standing.applied, standing.parked_count), (log.positions[2], 1));
}

#[test]
fn a_fork_pauses_its_stream_and_no_other() {
    let (log, mut receiver) = opened(9);
    comes(&mut receiver, &log, 1, 2);
    let forked = Outcome::Refused(log.positions[0], Reason::StreamForked);
    let effects = receiver.step(Event::Taken(routine(), forked));
    assert_eq!(told(&effects), ["STREAM_FORKED"]);
    assert!(comes(&mut receiver, &log, 1, 2).is_empty());
    let other = Log::of(&stream("xiaonanhai", Lane::Routine), 2);
    assert_eq!(told(&comes(&mut receiver, &other, 1, 2)), ["take 1-2"]);
    // A head beside the cursor proves one too.
    let mut receiver = Receiver::new(vec![(routine(), log.positions[2], 0)], &BTreeMap::new(), NOW);
    let beside = Position { seq: 2, h: [0; 32] };
    assert_eq!(told(&receiver.step(Event::Head(routine(), beside, NOW))), ["STREAM_FORKED"]);
    assert!(comes(&mut receiver, &log, 3, 4).is_empty());
}

#[test]
fn a_stream_that_is_paused_gives_its_credit_back() {
    let size = GRANT_STEP_BYTES as usize;
    let pauses: [fn(&Log) -> Event; 3] = [
        |log| Event::Taken(routine(), Outcome::Refused(log.positions[0], Reason::StreamForked)),
        |log| {
            let applied = Outcome::Applied {
                position: log.positions[1],
                parked_count: 1_001,
                left: Vec::new(),
            };
            Event::Taken(routine(), applied)
        },
        |log| Event::Taken(routine(), Outcome::Refused(log.positions[0], Reason::KindUnknown)),
    ];
    for pause in pauses {
        let (log, mut receiver) = opened(4);
        let mut outstanding = 0;
        let mut granted = 0;
        let mut step = |receiver: &mut Receiver, event| {
            for effect in receiver.step(event) {
                if let Effect::Grant(_, size) = effect {
                    granted += size;
                }
            }
        };
        for seq in 1..=4 {
            receiver.received(Lane::Routine, size).unwrap();
            outstanding += GRANT_STEP_BYTES;
            step(&mut receiver, Event::Segment(log.segment(seq, seq), size));
        }
        step(&mut receiver, pause(&log));
        assert_eq!(granted, outstanding);
    }
}

#[test]
fn what_could_not_be_written_is_tried_again_at_a_tick() {
    let (log, mut receiver) = opened(9);
    comes(&mut receiver, &log, 1, 2);
    comes(&mut receiver, &log, 3, 4);
    assert!(receiver.step(Event::Taken(routine(), Outcome::Unwritten)).is_empty());
    assert_eq!(told(&receiver.step(Event::Tick(NOW))), ["take 1-4"]);
}

#[test]
fn a_stream_without_fresh_word_is_late_once() {
    let (log, mut receiver) = opened(9);
    comes(&mut receiver, &log, 1, 2);
    applied(&mut receiver, &log, 2);
    let mut tick = |ms| told(&receiver.step(Event::Tick(NOW.plus_millis(ms))));
    assert!(tick(65_000).is_empty());
    assert_eq!(tick(65_001), ["late"]);
    assert!(tick(70_000).is_empty());
    let late = |receiver: &Receiver| receiver.standings().next().unwrap().1.head_late;
    assert!(late(&receiver));
    receiver.step(Event::Head(routine(), log.positions[2], NOW));
    assert!(!late(&receiver));
    // What was shown before is no fresh word, however often it is said.
    receiver.step(Event::Tick(NOW.plus_millis(130_000)));
    receiver.step(Event::Head(routine(), log.positions[2], NOW));
    comes(&mut receiver, &log, 1, 2);
    assert_eq!(told(&receiver.step(Event::Tick(NOW.plus_millis(135_002)))), ["late"]);
    receiver.step(Event::Head(routine(), log.positions[2], NOW.plus_millis(1)));
    assert!(!late(&receiver));
}

#[test]
fn a_gateway_that_hangs_up_gains_no_time_by_it() {
    let log = Log::of(&routine(), 2);
    let position = || vec![(routine(), log.positions[2], 0)];
    let mut heard = BTreeMap::new();
    let mut late = 0;
    for link in 0..4 {
        // What passes between two links does not count: nobody could have said anything.
        let opened = NOW.plus_millis(link * 3_600_000);
        let mut receiver = Receiver::new(position(), &heard, opened);
        receiver.step(Event::Head(routine(), log.positions[2], NOW));
        late += receiver.step(Event::Tick(opened.plus_millis(20_000))).len();
        heard = receiver.heard();
    }
    // The first head was new; three times twenty seconds later it is not late yet, with the fourth it is.
    assert_eq!(late, 1);
}

#[test]
fn another_hash_that_another_party_signed_for_is_told_and_stops_nothing() {
    let (log, mut receiver) = opened(9);
    let other: RegionId = "xiaonanhai".parse().unwrap();
    let signed = |receiver: &mut Receiver, position| {
        told(&receiver.step(Event::Receipt(routine(), other.clone(), position)))
    };
    comes(&mut receiver, &log, 1, 2);
    applied(&mut receiver, &log, 2);
    assert!(signed(&mut receiver, log.positions[2]).is_empty());
    let forked = |seq: usize| Position { h: [0; 32], ..log.positions[seq] };
    assert_eq!(signed(&mut receiver, forked(2)), ["STREAM_FORKED"]);
    // What is not here yet is compared when it is, also where it is not the end of what is applied together.
    assert!(signed(&mut receiver, forked(4)).is_empty());
    comes(&mut receiver, &log, 3, 3);
    comes(&mut receiver, &log, 4, 4);
    comes(&mut receiver, &log, 5, 6);
    assert_eq!(told(&applied(&mut receiver, &log, 3)), ["receipt 3", "take 4-6"]);
    assert_eq!(told(&applied(&mut receiver, &log, 6)), ["receipt 6", "STREAM_FORKED"]);
    assert!(signed(&mut receiver, log.positions[4]).is_empty());
    assert_eq!(told(&comes(&mut receiver, &log, 7, 7)), ["take 7-7"]);
}

#[test]
fn one_transaction_stays_bounded() {
    let (log, mut receiver) = opened(600);
    comes(&mut receiver, &log, 1, 1);
    for seq in 2..=600 {
        comes(&mut receiver, &log, seq, seq);
    }
    assert_eq!(told(&applied(&mut receiver, &log, 1))[..2], ["receipt 1", "take 2-257"]);
}

/// An origin and a recipient with nothing but a line between them, and disks on both sides.
struct Line {
    logs: Vec<Log>,
    sender: Sender,
    receiver: Receiver,
    assembler: Assembler,
    cuts: Vec<(StreamId, u64, u64)>,
    takes: Vec<(StreamId, Position, Vec<Segment>)>,
    /// The recipient's disk: every entry that was applied, in order, and the cursor.
    disk: Vec<(StreamId, Position, Vec<u64>)>,
    copies: Vec<(Segment, usize)>,
    /// Segments that the line loses next.
    lose: usize,
    losing: bool,
    now: Timestamp,
}

const LANES: &[Lane] = &[Lane::Alert, Lane::Routine];

impl Line {
    fn new() -> Self {
        let streams = LANES.iter().map(|lane| stream("daluba", *lane));
        let logs: Vec<Log> = streams.map(|of| Log::new(&of)).collect();
        let disk = logs.iter().map(|log| (log.stream.clone(), log.positions[0], Vec::new()));
        let mut line = Self {
            disk: disk.collect(),
            logs,
            sender: Sender::new(LANES, Vec::new(), NOW),
            receiver: Receiver::new(Vec::new(), &BTreeMap::new(), NOW),
            assembler: Assembler::new(seal::key::sha256),
            cuts: Vec::new(),
            takes: Vec::new(),
            copies: Vec::new(),
            lose: 0,
            losing: false,
            now: NOW,
        };
        line.connect();
        line
    }

    /// A new connection; whatever was under way is lost.
    fn connect(&mut self) {
        (self.cuts, self.takes) = (Vec::new(), Vec::new());
        self.losing = false;
        let durable = self.logs.iter().map(|log| (log.stream.clone(), log.last())).collect();
        self.sender = Sender::new(LANES, durable, self.now);
        let applied: Vec<_> = self.disk.iter().map(|(of, at, _)| (of.clone(), *at)).collect();
        let positions = applied.iter().map(|(of, at)| (of.clone(), *at, 0)).collect();
        self.receiver = Receiver::new(positions, &self.receiver.heard(), self.now);
        let grants = self.receiver.open(LANES);
        self.received(grants);
        self.send(send::Event::Welcomed { stored: applied, resumes: Vec::new() });
    }

    fn grow(&mut self, which: usize, count: usize) {
        self.logs[which].grow(count);
        let (of, last) = (self.logs[which].stream.clone(), self.logs[which].last());
        self.send(send::Event::Durable(of, last));
    }

    fn send(&mut self, event: send::Event) {
        for effect in self.sender.step(event) {
            match effect {
                send::Effect::Cut { stream, after, to_seq } => {
                    self.cuts.push((stream, after, to_seq));
                }
                send::Effect::Send(piece) => self.carry(piece),
                send::Effect::Head(stream, at) => {
                    let effects = self.receiver.step(Event::Head(stream, at, self.now));
                    self.received(effects);
                }
                send::Effect::WentBack(_) => panic!("nobody was restored"),
            }
        }
    }

    fn carry(&mut self, piece: proto::exchange::v1::SegmentPiece) {
        let lane = Lane::try_from(piece.lane).unwrap();
        let size = piece.data.len();
        if piece.offset == 0 && self.lose > 0 {
            self.lose -= 1;
            self.losing = true;
        }
        let last = piece.offset as usize + size == piece.total_size as usize;
        let lost = self.losing;
        self.losing = lost && !last;
        if lost {
            // Whoever loses it before the recipient gives its credit back.
            return self.send(send::Event::Granted(lane, size as u32));
        }
        self.receiver.received(lane, size).expect("the sender has credit");
        let Some((_, bytes)) = self.assembler.take(piece).unwrap() else { return };
        let size = bytes.len();
        let segment = Segment::parse(bytes).unwrap();
        self.copies.push((segment.clone(), size));
        let effects = self.receiver.step(Event::Segment(segment, size));
        self.received(effects);
    }

    fn received(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Take { stream, cursor, segments } => {
                    self.takes.push((stream, cursor, segments));
                }
                Effect::Receipt(stream, at, _) => self.send(send::Event::Stored(stream, at)),
                Effect::Grant(lane, size) => {
                    assert!(size <= WINDOW_BYTES);
                    self.send(send::Event::Granted(lane, size));
                }
                Effect::Want(stream, from_seq) => {
                    self.send(send::Event::Wanted { stream, from_seq, to_seq: 0 });
                }
                Effect::HeadLate(_) => {}
                Effect::Alarm(_, reason) => panic!("alarmed: {}", reason.name()),
            }
        }
    }

    /// Ends one piece of work, whichever is asked for; false when nothing is under way.
    fn work(&mut self, pick: usize) -> bool {
        let all = self.cuts.len() + self.takes.len() + usize::from(self.sender.has_piece());
        if all == 0 {
            return false;
        }
        let pick = pick % all;
        if pick < self.cuts.len() {
            let (of, after, to_seq) = self.cuts.remove(pick);
            self.cut(&of, after as usize, to_seq as usize);
        } else if pick < self.cuts.len() + self.takes.len() {
            let (of, cursor, segments) = self.takes.remove(pick - self.cuts.len());
            self.take(&of, cursor, &segments);
        } else {
            self.send(send::Event::Writable);
        }
        true
    }

    fn cut(&mut self, of: &StreamId, after: usize, to_seq: usize) {
        let log = self.logs.iter().find(|log| log.stream == *of).unwrap();
        let end = if to_seq == 0 { log.entries.len() } else { to_seq };
        let sealed = log.seal(after + 1, end.min(after + 5));
        let ready = Ready {
            stream: of.clone(),
            first_seq: after as u64 + 1,
            after: sealed.after,
            bytes: Bytes::from(sealed.bytes),
            segment_id: sealed.segment_id,
        };
        self.send(send::Event::Cut(ready));
    }

    fn take(&mut self, of: &StreamId, cursor: Position, segments: &[Segment]) {
        let opened = crate::open::open(&book("xiaonanhai"), cursor, segments, self.now);
        let (_, at, seqs) = self.disk.iter_mut().find(|(stream, ..)| stream == of).unwrap();
        let outcome = match opened {
            Ok(Some(apply)) => {
                assert_eq!(apply.before, *at, "a range that does not begin at the cursor");
                seqs.extend(apply.entries.iter().map(|entry| entry.seq));
                *at = apply.after;
                Outcome::Applied { position: *at, parked_count: 0, left: Vec::new() }
            }
            Ok(None) => Outcome::Known,
            Err(outcome) => outcome,
        };
        let effects = self.receiver.step(Event::Taken(of.clone(), outcome));
        self.received(effects);
    }

    fn tick(&mut self, ms: i64) {
        self.now = self.now.plus_millis(ms);
        self.send(send::Event::Tick(self.now));
        let effects = self.receiver.step(Event::Tick(self.now));
        self.received(effects);
    }

    /// Lets everything come to rest, with as many minutes of silence as heads need.
    fn settle(&mut self) {
        self.lose = 0;
        for _ in 0..3 {
            let mut steps = 0;
            while self.work(steps) {
                steps += 1;
                assert!(steps < 20_000, "it does not come to rest");
            }
            self.tick(61_000);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Grow(usize, usize),
    Work(usize),
    Lose(usize),
    Copy(usize),
    Reconnect,
    Tick(i64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..2_usize, 1..12_usize).prop_map(|(which, count)| Act::Grow(which, count)),
        12 => any::<usize>().prop_map(Act::Work),
        1 => (1..3_usize).prop_map(Act::Lose),
        2 => any::<usize>().prop_map(Act::Copy),
        1 => Just(Act::Reconnect),
        1 => (1..70_000_i64).prop_map(Act::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_the_line_does_everything_is_applied_once_and_in_order(
        acts in proptest::collection::vec(act(), 1..120),
    ) {
        let mut line = Line::new();
        for act in acts {
            match act {
                Act::Grow(which, count) => line.grow(which, count),
                Act::Work(pick) => {
                    line.work(pick);
                }
                Act::Lose(count) => line.lose = count,
                Act::Copy(pick) => {
                    // An old copy comes again, whatever came since.
                    if let Some((segment, size)) =
                        pick.checked_rem(line.copies.len()).map(|i| line.copies[i].clone())
                    {
                        let effects = line.receiver.step(Event::Segment(segment, size));
                        line.received(effects);
                    }
                }
                Act::Reconnect => line.connect(),
                Act::Tick(ms) => line.tick(ms),
            }
        }
        line.settle();
        for (log, (_, at, seqs)) in line.logs.iter().zip(&line.disk) {
            prop_assert_eq!(*at, log.last());
            prop_assert_eq!(seqs, &(1..=log.entries.len() as u64).collect::<Vec<_>>());
        }
    }
}
