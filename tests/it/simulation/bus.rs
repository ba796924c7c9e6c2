//! What all parts of the world share: the time, the queue of what happens next, the network, chance and
//! the oracle.

use super::Options;
use super::chance::Chance;
use super::link::{ConnId, Net, Way};
use super::linkage::START;
use super::load::Fault;
use super::oracle::Oracle;
use super::region::Done;
use super::trial::{Sight, Sign, Trial};
use domain::kernel::{Reason, Timestamp};
use domain::stream::StreamId;
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use seal::key::sha256;
use seal::signed::{self, SignedError};
use std::collections::{BTreeMap, HashMap};

/// Something that happens at its time.
#[derive(Debug)]
pub(super) enum Event {
    /// A frame arrives.
    Deliver(ConnId, Way),
    /// The end that this way leads to learns that the connection is gone.
    Hangup(ConnId, Way),
    /// A region dials a gateway.
    Dial {
        region: usize,
        gateway: usize,
        life: u64,
    },
    /// The call reaches the gateway.
    Arrive(ConnId),
    /// An opening that takes too long is given up.
    OpeningTimeout(ConnId),
    /// Who has heard nothing since the line was cut gives up its end.
    Silence {
        region: usize,
        gateway: usize,
        way: Way,
        since: u64,
    },
    /// Work of a link has ended.
    Done {
        region: usize,
        conn: ConnId,
        done: Done,
    },
    RegionFlush {
        region: usize,
        life: u64,
    },
    GatewayFlush {
        gateway: usize,
        life: u64,
    },
    GatewayRead {
        gateway: usize,
        conn: ConnId,
        stream: StreamId,
        after: u64,
    },
    /// The links of a gateway hear what was committed.
    Wakes(usize),
    Tick(ConnId),
    /// A phone sends its next operation; `turn` makes older timers void.
    Phone {
        region: usize,
        phone: usize,
        turn: u64,
    },
    /// A region's answer reaches a phone.
    Answer {
        region: usize,
        phone: usize,
        op: u64,
    },
    RegionUp {
        region: usize,
        life: u64,
    },
    GatewayUp {
        gateway: usize,
        life: u64,
    },
    /// Copies of all stores are taken.
    Copy,
    /// Phones do something.
    Burst(u64),
    /// Phones of one region do.
    Work {
        region: usize,
        count: u64,
    },
    /// Whoever is hostile does something of itself.
    Mischief,
    Fault(Fault),
    /// A fault of a line or a disk ends.
    Unblock {
        region: usize,
        gateway: usize,
        way: Way,
    },
    /// All faults end; from here the minute of convergence counts.
    Heal,
    /// The minute is over.
    Deadline {
        healed_at: u64,
    },
}

pub(super) struct Bus {
    /// Milliseconds since [`START`].
    pub(super) now: u64,
    pub(super) net: Net,
    pub(super) chance: Chance,
    pub(super) oracle: Oracle,
    pub(super) options: Options,
    /// How many gateways there are.
    pub(super) gateways: usize,
    /// Counts everything that happened; two runs of one seed agree on it.
    pub(super) steps: u64,
    pub(super) receipts: Verified<signed::Receipt>,
    pub(super) heads: Verified<signed::Head>,
    queue: BTreeMap<(u64, u64), Event>,
    ticks: BTreeMap<(u64, u64), Event>,
    next: u64,
}

/// What was read of objects whose signatures were verified, by their SHA-256. Each comes to its readers by
/// two gateways and again with each connection, and verifying takes most of a day's time.
#[derive(Debug)]
pub(super) struct Verified<T>(HashMap<[u8; 32], T>);

impl<T: Clone> Verified<T> {
    /// What the object says, verified now or before.
    pub(super) fn read(
        &mut self,
        object: &SignedObject,
        verify: impl FnOnce() -> Result<T, SignedError>,
    ) -> Result<T, SignedError> {
        let name = sha256(&object.encode_to_vec());
        if let Some(known) = self.0.get(&name) {
            return Ok(known.clone());
        }
        let read = verify()?;
        self.0.insert(name, read.clone());
        Ok(read)
    }
}

impl Bus {
    pub(super) fn new(options: Options) -> Self {
        Self {
            now: 0,
            net: Net::new(),
            chance: Chance::new(options.seed),
            oracle: Oracle::default(),
            options,
            gateways: 2,
            steps: 0,
            queue: BTreeMap::new(),
            ticks: BTreeMap::new(),
            next: 0,
            receipts: Verified(HashMap::new()),
            heads: Verified(HashMap::new()),
        }
    }

    pub(super) fn push(&mut self, at: u64, event: Event) {
        let key = (at.max(self.now), self.next);
        self.next += 1;
        if matches!(event, Event::Tick(_)) {
            self.ticks.insert(key, event);
        } else {
            self.queue.insert(key, event);
        }
    }

    pub(super) fn after(&mut self, delay_ms: u64, event: Event) {
        self.push(self.now + delay_ms, event);
    }

    /// A flush begins, which now and then takes long; `done` tells that it has returned. With `crash` the
    /// process dies while it is under way, or just after.
    pub(super) fn flush(&mut self, done: Event, crash: Option<Fault>) {
        let slow = self.chance.per_mille(20);
        let latency_ms =
            if slow { self.chance.within(50, 1_500) } else { self.chance.within(1, 8) };
        self.after(latency_ms, done);
        if let Some(crash) = crash {
            self.after(self.chance.within(0, latency_ms + 2), Event::Fault(crash));
        }
    }

    /// When the next event that is no tick happens.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Goes on to the next event.
    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.queue.first_key_value().map(|(key, _)| *key);
        let tick = self.ticks.first_key_value().map(|(key, _)| *key);
        let of_ticks = match (event, tick) {
            (None, None) => return None,
            (Some(event), Some(tick)) => tick < event,
            (event, _) => event.is_none(),
        };
        let queue = if of_ticks { &mut self.ticks } else { &mut self.queue };
        let ((at, _), event) = queue.pop_first()?;
        self.now = at;
        self.steps += 1;
        Some(event)
    }

    /// Takes all ticks away; who walks over idle time sets them anew.
    pub(super) fn stop_ticks(&mut self) -> Vec<ConnId> {
        let ticks = std::mem::take(&mut self.ticks).into_values();
        ticks
            .filter_map(|event| if let Event::Tick(id) = event { Some(id) } else { None })
            .collect()
    }

    /// Whether somebody is hostile now.
    pub(super) fn is_hostile(&self) -> bool {
        self.oracle.trial.as_ref().is_some_and(|trial| trial.is_on(self.now))
    }

    /// What is done in a hostile run.
    pub(super) const fn trial(&mut self) -> &mut Trial {
        self.oracle.trial.as_mut().expect("somebody is hostile")
    }

    /// Something was done to a region just now.
    pub(super) fn trial_did_to(&mut self, region: usize, sign: Sign) {
        let now = self.now;
        self.trial().did_to(now, Some(region), sign);
    }

    /// The same, of which nothing is left once the region has these entries.
    pub(super) fn trial_did_unless(&mut self, region: usize, sign: Sign, moot: (StreamId, u64)) {
        let now = self.now;
        self.trial().did_unless(now, region, sign, moot);
    }

    /// A stream was forked, which anybody may say, and may have said already.
    pub(super) fn trial_forks(&mut self) {
        let (now, named) = (self.now, self.oracle.fork_named_at.is_some());
        let trial = self.trial();
        if named {
            trial.did();
            trial.named += 1;
        } else {
            trial.did_to(now, None, Sign::Raised(&[Reason::StreamForked]));
        }
    }

    /// A region sees something, which may be what somebody hostile did.
    pub(super) fn sees(&mut self, region: usize, sight: Sight<'_>) {
        if let Some(trial) = &mut self.oracle.trial {
            trial.sees(self.now, region, sight);
        }
    }

    /// What a clock shows that is off by so much.
    pub(super) fn time(&self, skew_ms: i64) -> Timestamp {
        START.plus_millis(self.now.cast_signed() + skew_ms)
    }

    /// The time of the run, as hours of it.
    pub(super) fn clock(&self) -> String {
        let (seconds, millis) = (self.now / 1_000, self.now % 1_000);
        let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
        format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
    }

    pub(super) fn trace(&self, line: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{} {}", self.clock(), line());
        }
    }
}
