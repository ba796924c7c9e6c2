//! Any order of work, batches, losses, repeats, delays, kills and foreign changes ends with every
//! operation settled exactly once, as the region has it.

use crate::world::{Phone, Region, check_in, limits, patrol, sos, verb};
use device::{Draft, HELD_AGAIN_S, QUARANTINED_AGAIN_S, Report, Resolution, Standing, Window};
use domain::kernel::{OperationId, RecordId};
use domain::operation::Change;
use domain::patrol::PatrolVerb;
use proptest::collection::vec;
use proptest::prelude::*;
use proto::device::v1 as pb;
use std::collections::{BTreeMap, HashMap};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Something new is done.
    Make(u8),
    /// Something is done to a patrol, now and then by a verb that is out of place.
    Change(u8, u8),
    /// Something is done that rests on the last change of a patrol.
    Follow(u8),
    /// A batch goes out.
    Send,
    /// A batch on its way reaches the region; it may be any, and may come again.
    Deliver(u8, bool),
    /// An answer on its way reaches the phone; it may be any, and may come again.
    Answer(u8, bool),
    /// All that may be sent is sent and answered.
    Exchange,
    /// All that is on its way is lost.
    Lose,
    /// The connection is made anew; what was on its way may still come.
    Connect,
    /// The phone's process is killed.
    Kill,
    /// Time passes.
    Wait,
    /// Somebody else changes a record.
    Touch(u8),
    /// The certificate ends, or is renewed.
    Expire(bool),
    /// A person decides the oldest conflict.
    Resolve(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_u8).prop_map(Step::Make),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(record, verb)| Step::Change(record, verb)),
        2 => any::<u8>().prop_map(Step::Follow),
        6 => Just(Step::Send),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(which, again)| Step::Deliver(which, again)),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(which, again)| Step::Answer(which, again)),
        3 => Just(Step::Exchange),
        1 => Just(Step::Lose),
        1 => Just(Step::Connect),
        1 => Just(Step::Kill),
        1 => Just(Step::Wait),
        4 => any::<u8>().prop_map(Step::Touch),
        1 => prop::bool::weighted(0.2).prop_map(Step::Expire),
        2 => any::<bool>().prop_map(Step::Resolve),
    ]
}

struct Run {
    phone: Phone,
    region: Region,
    /// Patrols, with the verb that comes next and the last thing done to each.
    patrols: Vec<(RecordId, PatrolVerb, OperationId)>,
    batches: Vec<pb::SignedBatch>,
    answers: Vec<pb::PushResponse>,
    /// How often each operation was reported as settled.
    settled: u64,
    recorded: u64,
}

impl Run {
    fn new() -> Self {
        let mut phone = Phone::new();
        phone.window = Window::new(limits(4));
        let region = Region::of(&phone);
        let (patrols, batches, answers) = (Vec::new(), Vec::new(), Vec::new());
        Self { phone, region, patrols, batches, answers, settled: 0, recorded: 0 }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Make(kind) => self.make(kind),
            Step::Change(which, by) => self.change(which, by),
            Step::Follow(which) => self.follow(which),
            Step::Send => self.batches.extend(self.phone.next()),
            Step::Deliver(which, again) => {
                if let Some(batch) = draw(&mut self.batches, which, again) {
                    let answer = self.region.push(&batch, self.phone.now());
                    self.answers.push(answer);
                }
            }
            Step::Answer(which, again) => {
                if let Some(answer) = draw(&mut self.answers, which, again) {
                    let report = self.phone.settle(answer);
                    self.count(&report);
                }
            }
            Step::Exchange => self.exchange(),
            Step::Lose => {
                self.batches.clear();
                self.answers.clear();
                self.phone.window.clear();
            }
            Step::Connect => self.phone.window.clear(),
            Step::Kill => self.phone.kill(),
            Step::Wait => self.phone.clock.advance_s(HELD_AGAIN_S),
            Step::Touch(which) => {
                if let Some(patrol) = pick(&self.patrols, which) {
                    self.region.touch(self.patrols[patrol].0);
                }
            }
            Step::Expire(expired) => self.region.expired = expired,
            Step::Resolve(resend) => {
                self.resolve(if resend { Resolution::Resend } else { Resolution::Drop });
            }
        }
    }

    fn make(&mut self, kind: u8) {
        let change = match kind {
            0 => sos("腿伤,走不了"),
            1 => check_in(),
            _ => patrol(),
        };
        let is_patrol = matches!(change, Change::PlanPatrol(_));
        let made = self.phone.do_now(change);
        self.recorded += 1;
        if is_patrol {
            self.patrols.push((made.record_id, PatrolVerb::Start, made.operation_id));
        }
    }

    fn change(&mut self, which: u8, by: u8) {
        let Some(patrol) = pick(&self.patrols, which) else { return };
        let (id, next, last) = &mut self.patrols[patrol];
        let by = if by < 16 { PatrolVerb::Resume } else { *next };
        *last = self.phone.change(*id, verb(by)).operation_id;
        self.recorded += 1;
        *next = match by {
            PatrolVerb::Pause => PatrolVerb::Resume,
            _ => PatrolVerb::Pause,
        };
    }

    fn follow(&mut self, which: u8) {
        let Some(patrol) = pick(&self.patrols, which) else { return };
        let parent_ids = vec![self.patrols[patrol].2];
        let draft = Draft { parent_ids, ..Draft::making(check_in(), self.phone.now()) };
        // What it would rest on may have been refused by now.
        if self.phone.device.record(draft).is_ok() {
            self.recorded += 1;
        }
    }

    fn exchange(&mut self) {
        for report in self.phone.push(&mut self.region) {
            self.count(&report);
        }
    }

    fn count(&mut self, report: &Report) {
        self.settled += report.applied + report.duplicate;
        self.settled += u64::try_from(report.rejected.len()).unwrap();
    }

    fn resolve(&mut self, resolution: Resolution) {
        if let Some(id) = self.phone.ids(Standing::Conflict).first() {
            let resolved = self.phone.device.resolve(*id, resolution).unwrap();
            let replaced = resolved.iter().filter(|one| one.replacement.is_some()).count();
            self.recorded += u64::try_from(replaced).unwrap();
        }
    }

    /// Faults stop: everything is sent and answered, every conflict decided.
    fn heal(&mut self) {
        self.region.expired = false;
        for _ in 0..100 {
            self.phone.window.clear();
            self.phone.clock.advance_s(QUARANTINED_AGAIN_S);
            self.exchange();
            while self.phone.device.status().unwrap().conflicts > 0 {
                self.resolve(Resolution::Resend);
            }
            if self.phone.device.status().unwrap().unsettled() == 0 {
                return;
            }
        }
        panic!("never settled: {:?}", self.phone.device.status().unwrap());
    }

    fn check(&self) {
        let mut standing: BTreeMap<u64, (OperationId, Standing)> = BTreeMap::new();
        let mut of_record: HashMap<RecordId, Vec<u64>> = HashMap::new();
        for settled in [Standing::Applied, Standing::Rejected, Standing::Dropped] {
            for kept in self.phone.kept(settled) {
                let operation = kept.operation;
                standing.insert(operation.device_seq, (operation.operation_id, settled));
                if settled == Standing::Applied {
                    of_record.entry(operation.record_id).or_default().push(operation.device_seq);
                }
            }
        }
        assert!(standing.keys().copied().eq(1..=self.recorded), "every number, once");
        let mut told = 0;
        for (id, settled) in standing.values() {
            let effects = self.region.effects.get(id).copied().unwrap_or(0);
            let (expected, outcome) = match settled {
                Standing::Applied => (1, Some(pb::Outcome::Applied)),
                Standing::Rejected => (0, Some(pb::Outcome::Rejected)),
                _ => (0, None),
            };
            assert_eq!(effects, expected, "{id} is {settled:?}");
            if outcome.is_some() {
                told += 1;
                assert_eq!(self.region.outcome(*id), outcome, "{id} is {settled:?}");
            }
        }
        assert_eq!(self.settled, told, "reported as settled once each");
        for (record, seqs) in of_record {
            assert_eq!(self.region.order[&record], seqs, "in the order in which they were done");
        }
    }
}

fn pick<T>(from: &[T], which: u8) -> Option<usize> {
    (!from.is_empty()).then(|| usize::from(which) % from.len())
}

/// Takes one of what is on its way; `again` leaves a copy there.
fn draw<T: Clone>(under_way: &mut Vec<T>, which: u8, again: bool) -> Option<T> {
    let index = pick(under_way, which)?;
    Some(if again { under_way[index].clone() } else { under_way.remove(index) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_is_settled_exactly_once(steps in vec(step(), 20..120)) {
        let mut run = Run::new();
        for step in steps {
            run.take(step);
        }
        run.heal();
        run.check();
    }
}
