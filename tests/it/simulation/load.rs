//! What happens to the world: operations of phones, and the faults of a day.

use super::bus::{Bus, Event};
use super::link::Way;
use super::linkage::START;
use super::region_disk::Op;
use super::{Bad, Hostile, Mode};
use domain::kernel::{EmergencyLevel, RecordId, Sensitivity};
use domain::risk::EventState;
use std::collections::VecDeque;

/// Phones of one region.
const PHONES: usize = 10;
/// Operations that a phone keeps to offer them again to a restored region.
const KEPT_MAX: usize = 120;
/// How long a phone waits for an answer.
const ANSWER_TIMEOUT_MS: u64 = 2_000;
const DAY_MS: u64 = 86_400_000;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// A process is killed, at once or in the middle of its next flush.
    CrashRegion {
        region: usize,
        down_ms: u64,
        at_work: bool,
    },
    CrashGateway {
        gateway: usize,
        down_ms: u64,
        at_work: bool,
    },
    /// Nothing gets through, one way or both.
    Partition {
        region: usize,
        gateway: usize,
        up: bool,
        down: bool,
        for_ms: u64,
    },
    /// Both ends lose the connection.
    Reset {
        region: usize,
        gateway: usize,
    },
    /// The line gets slow or fast.
    Delay {
        region: usize,
        gateway: usize,
        delay_ms: u64,
    },
    FullRegion {
        region: usize,
        for_ms: u64,
    },
    FullGateway {
        gateway: usize,
        for_ms: u64,
    },
    /// The store is replaced by an older copy.
    RestoreRegion {
        region: usize,
        down_ms: u64,
    },
    RestoreGateway {
        gateway: usize,
        down_ms: u64,
    },
    /// A gateway leaves segments out.
    Skip {
        region: usize,
        gateway: usize,
        count: u32,
    },
    /// A region asks for everything again.
    Again {
        region: usize,
        gateway: usize,
    },
}

#[derive(Default)]
struct Phone {
    waiting: VecDeque<Op>,
    kept: VecDeque<Op>,
    turn: u64,
}

/// The phones of one region.
#[derive(Default)]
pub(super) struct Phones {
    phones: Vec<Phone>,
    records: Vec<RecordId>,
    next_op: u64,
}

impl Phones {
    pub(super) fn new() -> Self {
        let phones = (0..PHONES).map(|_| Phone::default()).collect();
        Self { phones, ..Self::default() }
    }

    pub(super) fn are_idle(&self) -> bool {
        self.phones.iter().all(|phone| phone.waiting.is_empty())
    }

    /// An operation of which no phone knows.
    pub(super) fn invent(bus: &Bus) -> Op {
        op(bus, bus.chance.next(), RecordId::mint(bus.time(0), &bus.chance))
    }

    /// Phones record something: new events, and changes of such as are there.
    pub(super) fn work(&mut self, bus: &mut Bus, region: usize, count: u64) {
        for _ in 0..count {
            let fresh = self.records.is_empty() || bus.chance.per_mille(500);
            let at = if fresh {
                self.records.push(RecordId::mint(bus.time(0), &bus.chance));
                self.records.len() - 1
            } else {
                let recent = self.records.len().saturating_sub(40);
                recent + bus.chance.index(self.records.len() - recent)
            };
            self.next_op += 1;
            let op = op(bus, self.next_op, self.records[at]);
            // What one phone began it goes on with, so that its operations come in their order.
            let phone = at % PHONES;
            self.phones[phone].waiting.push_back(op);
            self.call(bus, region, phone, 10);
        }
    }

    fn call(&mut self, bus: &mut Bus, region: usize, phone: usize, delay_ms: u64) {
        self.phones[phone].turn += 1;
        let turn = self.phones[phone].turn;
        bus.after(delay_ms, Event::Phone { region, phone, turn });
    }

    /// The operation that a phone sends now.
    pub(super) fn send(
        &mut self,
        bus: &mut Bus,
        region: usize,
        phone: usize,
        turn: u64,
    ) -> Option<Op> {
        if self.phones[phone].turn != turn {
            return None;
        }
        let op = self.phones[phone].waiting.front().cloned()?;
        self.call(bus, region, phone, ANSWER_TIMEOUT_MS);
        Some(op)
    }

    pub(super) fn answered(&mut self, bus: &mut Bus, region: usize, phone: usize, op: u64) {
        let of = &mut self.phones[phone];
        if of.waiting.front().is_none_or(|front| front.no != op) {
            return;
        }
        of.kept.extend(of.waiting.pop_front());
        if of.kept.len() > KEPT_MAX {
            of.kept.pop_front();
        }
        self.call(bus, region, phone, 5);
    }

    /// The region was restored: what was answered is offered again, oldest first.
    pub(super) fn offer_again(&mut self, bus: &mut Bus, region: usize) {
        for phone in 0..PHONES {
            let of = &mut self.phones[phone];
            let kept = std::mem::take(&mut of.kept);
            for op in kept.into_iter().rev() {
                of.waiting.push_front(op);
            }
            self.call(bus, region, phone, 1_000);
        }
    }
}

fn op(bus: &Bus, no: u64, record_id: RecordId) -> Op {
    let chance = &bus.chance;
    let letters = if chance.per_mille(30) { 1_500 } else { 200 };
    let text = (0..chance.within(5, letters)).map(|_| char::from(b'a' + chance.index(26) as u8));
    Op {
        no,
        record_id,
        level: *chance.pick(&[
            EmergencyLevel::I,
            EmergencyLevel::II,
            EmergencyLevel::III,
            EmergencyLevel::III,
            EmergencyLevel::IV,
            EmergencyLevel::IV,
        ]),
        state: *chance.pick(&[
            EventState::Reported,
            EventState::Accepted,
            EventState::Accepted,
            EventState::Handling,
            EventState::Closed,
        ]),
        category: "GEOLOGICAL",
        sensitivity: *chance.pick(&[
            Sensitivity::Region,
            Sensitivity::Region,
            Sensitivity::Region,
            Sensitivity::Public,
            Sensitivity::Local,
        ]),
        text: text.collect(),
    }
}

/// Plans all that happens in so many days.
pub(super) fn plan(bus: &mut Bus) {
    let end = bus.options.days * DAY_MS;
    debug_assert!(bus.time(0) >= START);
    let mut at = 60_000;
    while at < end && bus.options.hostile.is_none() {
        bus.push(at, Event::Copy);
        at += bus.chance.within(7_200_000, 14_400_000);
    }
    if let Some(what) = bus.options.hostile {
        return hostile(bus, what);
    }
    match bus.options.mode {
        Mode::Safety => safety(bus, end),
        Mode::Liveness => liveness(bus, end),
    }
}

/// Faults and work at any time, and no end to either.
fn safety(bus: &mut Bus, end: u64) {
    let mut at = 0;
    while at < end {
        at += bus.chance.within(1_000, 3_600_000);
        bursts(bus, at, 3);
    }
    at = 120_000;
    while at < end {
        let fault = fault(bus);
        bus.push(at, Event::Fault(fault));
        // Faults come in swarms, with quiet between them.
        let pause_ms = if bus.chance.per_mille(600) {
            bus.chance.within(10, 20_000)
        } else {
            bus.chance.within(60_000, 5_400_000)
        };
        at += pause_ms;
    }
}

/// Work and faults, then none of either for a minute, in which all must agree; then quiet.
fn liveness(bus: &mut Bus, end: u64) {
    let mut at = 60_000;
    while at + 1_800_000 < end {
        let length_ms = if bus.chance.per_mille(700) {
            bus.chance.within(5_000, 120_000)
        } else {
            bus.chance.within(120_000, 1_200_000)
        };
        for _ in 0..bus.chance.within(1, 4) {
            let during = at + bus.chance.within(0, length_ms);
            bursts(bus, during, 2);
        }
        for _ in 0..bus.chance.within(1, 8) {
            let during = at + bus.chance.within(0, length_ms);
            let fault = fault(bus);
            bus.push(during, Event::Fault(fault));
        }
        bus.push(at + length_ms, Event::Heal);
        // Between episodes a quiet, healthy time with a little work.
        let quiet = at + length_ms + 120_000;
        let next = quiet + bus.chance.within(1_800_000, 10_800_000);
        bursts(bus, bus.chance.within(quiet, next - 60_000), 1);
        at = next;
    }
}

/// Some minutes of work, in which somebody is hostile for a while.
fn hostile(bus: &mut Bus, what: Hostile) {
    let trial = bus.trial();
    let (from, until, grows_old_at) = (trial.from, trial.until, trial.grows_old_at);
    // All streams are there before anything is done to them.
    for region in 0..3 {
        bus.push(500, Event::Work { region, count: 10 });
    }
    let mut at = 5_000;
    while at < until - 5_000 {
        bus.push(at, Event::Burst(bus.chance.within(1, 4)));
        at += bus.chance.within(2_000, 20_000);
    }
    if what == Hostile::WithholdFreshness {
        for region in 0..3 {
            bus.push(grows_old_at + 5_000, Event::Work { region, count: 10 });
        }
    }
    bus.push(from, Event::Mischief);
    bus.push(until, Event::Heal);
}

fn bursts(bus: &mut Bus, at: u64, count_max: u64) {
    for _ in 0..bus.chance.within(1, count_max) {
        let size = if bus.chance.per_mille(30) {
            bus.chance.within(50, 250)
        } else {
            bus.chance.within(1, 6)
        };
        bus.push(at + bus.chance.within(0, 5_000), Event::Burst(size));
    }
}

fn fault(bus: &Bus) -> Fault {
    let chance = &bus.chance;
    let (region, gateway) = (chance.index(3), chance.index(2));
    let long = || {
        if chance.per_mille(800) {
            chance.within(100, 90_000)
        } else {
            chance.within(90_000, 1_800_000)
        }
    };
    let short = || {
        if chance.per_mille(800) { chance.within(50, 5_000) } else { chance.within(5_000, 120_000) }
    };
    let restores_only = bus.options.bad == Some(Bad::RestoreWithoutEpoch);
    match chance.index(if restores_only { 22 } else { 20 }) {
        0..=2 => Fault::CrashRegion { region, down_ms: short(), at_work: chance.per_mille(700) },
        3..=5 => Fault::CrashGateway { gateway, down_ms: short(), at_work: chance.per_mille(700) },
        6..=8 => Fault::Partition { region, gateway, up: true, down: true, for_ms: long() },
        9 => Fault::Partition { region, gateway, up: true, down: false, for_ms: long() },
        10 => Fault::Partition { region, gateway, up: false, down: true, for_ms: long() },
        11 | 12 => Fault::Reset { region, gateway },
        13 => Fault::Delay { region, gateway, delay_ms: *chance.pick(&[1, 10, 100, 2_000]) },
        14 => Fault::FullRegion { region, for_ms: long() },
        15 => Fault::FullGateway { gateway, for_ms: long() },
        16 => Fault::RestoreGateway { gateway, down_ms: short() },
        17 => Fault::Skip { region, gateway, count: u32::try_from(chance.within(1, 5)).unwrap() },
        18 => Fault::Again { region, gateway },
        _ => Fault::RestoreRegion { region, down_ms: short() },
    }
}

/// The ways of a partition.
pub(super) fn ways(up: bool, down: bool) -> impl Iterator<Item = Way> {
    [(up, Way::Up), (down, Way::Down)].into_iter().filter(|(cut, _)| *cut).map(|(_, way)| way)
}
