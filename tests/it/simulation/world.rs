//! Three regions, two gateways and what happens to them, one event after another.

use super::bus::{Bus, Event};
use super::gateway_malice::Malice;
use super::gateway_node::GatewayNode;
use super::link::{ConnId, Way};
use super::linkage::{Authority, Linkage, region_id};
use super::load::{self, Fault, Phones};
use super::oracle::{Counts, TICK_MS_MAX};
use super::region::RegionNode;
use super::region_disk::Newest;
use super::trial::{Sign, Trial};
use super::{Bad, Hostile, Mode, Options};
use domain::kernel::{AgreementId, RecordId};
use domain::stream::StreamId;
use seal::signed::Head;
use std::collections::BTreeMap;

const DAY_MS: u64 = 86_400_000;
/// P13: how soon all agree once faults have ended.
const CONVERGED_WITHIN_MS: u64 = 60_000;
/// Idle time goes by in steps of this.
const IDLE_STEP_MS: u64 = 4_000;
/// Nothing is begun any more so long before whoever is hostile is put right.
const MISCHIEF_LEAD_MS: u64 = 10_000;
/// Without an event for so long, ticks come slower.
const CALM_MS: u64 = 1_500;

pub(super) struct World {
    pub(super) bus: Bus,
    regions: Vec<RegionNode>,
    gateways: Vec<GatewayNode>,
    phones: Vec<Phones>,
    agreements: BTreeMap<AgreementId, Vec<usize>>,
    authority: Authority,
    /// When something other than a tick last happened.
    active_at: u64,
    looked_at: u64,
    /// When faults last ended, until all agree.
    healed_at: Option<u64>,
    /// A region was restored and not all agree yet.
    restored: bool,
    /// Nothing more is to be seen.
    ended: bool,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let mut bus = Bus::new(options);
        let forks = options.hostile == Some(Hostile::Fork);
        bus.oracle.goes_back = forks || options.bad == Some(Bad::RestoreWithoutEpoch);
        bus.oracle.fork_expected = bus.oracle.goes_back && options.mode == Mode::Liveness;
        bus.oracle.trial = options.hostile.map(|what| Trial::new(what, &bus.chance));
        if options.hostile.is_some() {
            // A second way would hide a mistake from who looks for it.
            let alone = bus.chance.per_mille(500) || options.bad.is_some();
            bus.gateways = if alone { 1 } else { 2 };
        }
        let said_at = bus.oracle.trial.as_ref().and_then(Trial::said_at);
        let linkage = Linkage::new(&bus.chance, said_at);
        let regions = (0..3).map(|index| RegionNode::new(index, &linkage, &bus)).collect();
        let gateways = (0..bus.gateways).map(|index| GatewayNode::new(index, &linkage));
        let mut gateways: Vec<_> = gateways.collect();
        if let Some(what) = options.hostile.filter(|what| !what.is_of_region()) {
            gateways[0].malice = Some(Malice::new(what, &linkage, &bus));
        }
        let agreements = linkage.agreements.iter().map(|of| {
            let parties = (0..3).filter(|index| of.agreement.has_party(&region_id(*index)));
            (of.agreement.agreement_id, parties.collect())
        });
        let agreements = agreements.collect();
        load::plan(&mut bus);
        let phones = (0..3).map(|_| Phones::new()).collect();
        Self {
            bus,
            regions,
            gateways,
            phones,
            agreements,
            authority: linkage.authority,
            active_at: 0,
            looked_at: 0,
            healed_at: None,
            restored: false,
            ended: false,
        }
    }

    /// Runs to the end, or to the first broken promise.
    pub(super) fn run(mut self) -> Result<(Counts, u64), String> {
        for gateway in &mut self.gateways {
            gateway.start();
        }
        for region in &mut self.regions {
            region.start(&mut self.bus);
        }
        let end = self.bus.options.days * DAY_MS;
        while let Some(event) = self.bus.pop() {
            if self.bus.now >= end {
                break;
            }
            self.happen(event);
            if self.bus.oracle.broken.is_some() || self.ended {
                break;
            }
        }
        self.check_all();
        self.bus.oracle.end_trial();
        match self.bus.oracle.broken.take() {
            Some(broken) => Err(format!("{}: {broken}", self.bus.clock())),
            None => Ok((self.bus.oracle.counts, self.bus.steps)),
        }
    }

    fn happen(&mut self, event: Event) {
        if !matches!(event, Event::Tick(_)) {
            self.active_at = self.bus.now;
        }
        let bus = &mut self.bus;
        match event {
            Event::Deliver(conn, way) => self.deliver(conn, way),
            Event::Hangup(conn, way) => self.hang_up(conn, way),
            Event::Dial { region, gateway, life } => self.regions[region].dial(bus, gateway, life),
            Event::Arrive(conn) => self.arrive(conn),
            Event::OpeningTimeout(conn) => self.opening_timeout(conn),
            Event::Silence { region, gateway, way, since } => {
                if bus.net.blocked(region, gateway, way) == Some(since) {
                    self.silence(region, gateway, way);
                }
            }
            Event::Done { region, conn, done } => self.regions[region].done(bus, conn, done),
            Event::RegionFlush { region, life } => {
                let region = &mut self.regions[region];
                if region.life == life {
                    region.flushed(bus);
                }
            }
            Event::GatewayFlush { gateway, life } => {
                let gateway = &mut self.gateways[gateway];
                if gateway.life == life {
                    gateway.flushed(bus);
                }
            }
            Event::GatewayRead { gateway, conn, stream, after } => {
                self.gateways[gateway].read(bus, conn, stream, after);
            }
            Event::Wakes(gateway) => self.gateways[gateway].wakes(bus),
            Event::Tick(conn) => self.tick(conn),
            Event::Phone { region, phone, turn } => {
                let op = self.phones[region].send(bus, region, phone, turn);
                let node = &mut self.regions[region];
                if let Some(op) = op.filter(|_| node.up) {
                    node.push(bus, phone, op);
                }
            }
            Event::Answer { region, phone, op } => {
                self.phones[region].answered(bus, region, phone, op);
            }
            Event::RegionUp { region, life } => self.region_up(region, life),
            Event::GatewayUp { gateway, life } => self.gateway_up(gateway, life),
            Event::Copy => self.copy(),
            Event::Burst(count) => {
                let region = bus.chance.index(3);
                self.phones[region].work(bus, region, count);
            }
            Event::Work { region, count } => self.phones[region].work(bus, region, count),
            Event::Mischief => self.mischief(),
            Event::Fault(fault) => self.fault(fault),
            Event::Unblock { region, gateway, way } => bus.unblock(region, gateway, way),
            Event::Heal => self.heal(),
            Event::Deadline { healed_at } => self.deadline(healed_at),
        }
    }

    fn deliver(&mut self, conn: ConnId, way: Way) {
        let bus = &mut self.bus;
        let Some((region, gateway)) = bus.net.find(conn).map(|of| (of.region, of.gateway)) else {
            return;
        };
        if bus.net.blocked(region, gateway, way).is_some() {
            return;
        }
        let (region, gateway) = (&mut self.regions[region], &mut self.gateways[gateway]);
        let current = region.gateway_of(conn);
        match way {
            Way::Up => {
                if let Some(frame) = bus.net.take_up(conn, bus.now) {
                    gateway.frame(bus, conn, frame);
                }
                if let Some(at) = current {
                    region.pump(bus, at);
                }
            }
            Way::Down => {
                if let (Some(frame), Some(at)) = (bus.net.take_down(conn, bus.now), current) {
                    region.frame(bus, at, frame);
                }
                gateway.pump(bus, conn);
            }
        }
    }

    fn hang_up(&mut self, conn: ConnId, way: Way) {
        let bus = &mut self.bus;
        let Some((region, gateway)) = bus.net.find(conn).map(|of| (of.region, of.gateway)) else {
            return;
        };
        let (region, gateway) = (&mut self.regions[region], &mut self.gateways[gateway]);
        match (way, region.gateway_of(conn)) {
            (Way::Up, _) => gateway.end(bus, conn, "hung up"),
            (Way::Down, Some(at)) => region.end(bus, at, "hung up"),
            (Way::Down, None) => {}
        }
        if region.gateway_of(conn).is_none() && !gateway.has(conn) {
            bus.net.forget(conn);
        }
    }

    fn arrive(&mut self, conn: ConnId) {
        let bus = &mut self.bus;
        let Some((region, gateway)) = bus.net.find(conn).map(|of| (of.region, of.gateway)) else {
            return;
        };
        if self.regions[region].gateway_of(conn).is_none() {
            bus.net.forget(conn);
        } else if bus.net.blocked(region, gateway, Way::Up).is_some() {
            bus.after(1_000, Event::Arrive(conn));
        } else {
            self.gateways[gateway].arrive(bus, conn);
        }
    }

    fn opening_timeout(&mut self, conn: ConnId) {
        for region in &mut self.regions {
            if let Some(gateway) = region.gateway_of(conn)
                && region.ends[gateway].session.is_none()
            {
                region.end(&mut self.bus, gateway, "no welcome in time");
            }
        }
    }

    /// An end that has heard nothing for six seconds.
    fn silence(&mut self, region: usize, gateway: usize, way: Way) {
        let Some(conn) = self.regions[region].ends[gateway].conn else { return };
        match way {
            Way::Down => self.regions[region].end(&mut self.bus, gateway, "silent"),
            Way::Up => self.gateways[gateway].end(&mut self.bus, conn, "silent"),
        }
    }

    fn tick(&mut self, conn: ConnId) {
        let bus = &mut self.bus;
        let Some((region, gateway)) = bus.net.find(conn).map(|of| (of.region, of.gateway)) else {
            return;
        };
        let mut open = false;
        if self.regions[region].gateway_of(conn) == Some(gateway) {
            open = true;
            self.regions[region].tick(bus, gateway);
        }
        if self.gateways[gateway].has(conn) {
            open = true;
            self.gateways[gateway].tick(bus, conn);
        }
        let calm = bus.now - self.active_at >= CALM_MS;
        if open {
            bus.after(if calm { TICK_MS_MAX } else { 500 }, Event::Tick(conn));
        }
        let regions = &self.regions;
        let applied = |region: usize, stream: &StreamId| {
            regions[region].disk.inbox.get(stream).map_or(0, |inbox| inbox.applied.seq)
        };
        let is_late = |region: usize, gateway, stream: &_| regions[region].is_late(gateway, stream);
        bus.oracle.check_holes(bus.now, applied, is_late);
        bus.oracle.check_trial(bus.now);
        if bus.now - self.looked_at >= 1_000 {
            self.looked_at = bus.now;
            self.look();
        }
    }

    /// Looks whether all agree, and passes over the idle time that follows.
    fn look(&mut self) {
        let next_at = self.bus.next_at().unwrap_or(u64::MAX);
        if next_at < self.bus.now + 100 || self.difference().is_some() {
            return;
        }
        if let Some(healed_at) = self.healed_at.take() {
            let in_ms = self.bus.now - healed_at;
            self.bus.trace(|| format!("all agree, {in_ms} ms after faults ended"));
            self.bus.oracle.converged(in_ms);
            if self.bus.options.hostile.is_some() {
                self.ended = true;
                return;
            }
        }
        self.check_all();
        if self.restored {
            // A copy from before a neighbour's new epoch would miss what only its old one held.
            self.restored = false;
            self.copy();
        }
        let idles = !self.bus.oracle.has_holes() && self.bus.oracle.trial.is_none();
        if next_at > self.bus.now + 2 * IDLE_STEP_MS && idles {
            self.idle(next_at.min(self.bus.options.days * DAY_MS));
        }
    }

    /// Time in which nothing happens but heads: they go from core to core, without their signatures.
    fn idle(&mut self, until: u64) {
        let bus = &mut self.bus;
        let conns = bus.stop_ticks();
        // A tick may begin something, and then time is not idle any more.
        while bus.now + IDLE_STEP_MS < until.min(bus.next_at().unwrap_or(u64::MAX)) {
            bus.now += IDLE_STEP_MS;
            for (origin, gateway) in (0..3).flat_map(|origin| [(origin, 0), (origin, 1)]) {
                let created_at = bus.time(self.regions[origin].skew_ms);
                for (stream, position) in self.regions[origin].idle_heads(bus, gateway) {
                    for party in &self.agreements[&stream.agreement] {
                        if *party != origin {
                            let head = Head { stream: stream.clone(), position, created_at };
                            self.regions[*party].heard(bus, gateway, head);
                        }
                    }
                }
            }
            for (region, gateway) in (0..3).flat_map(|region| [(region, 0), (region, 1)]) {
                self.regions[region].idle(bus, gateway);
            }
        }
        for conn in conns {
            bus.after(1, Event::Tick(conn));
        }
    }

    /// What keeps the world from having converged; `None` when all hold the same and nothing is open.
    fn difference(&self) -> Option<String> {
        let open = |what: &str, index: usize| Some(format!("{what} {index} still works"));
        if !self.bus.net.is_quiet() {
            return Some("frames are under way".to_owned());
        }
        for (index, region) in self.regions.iter().enumerate() {
            if !region.is_idle(self.bus.gateways) || !self.phones[index].are_idle() {
                return open("region", index);
            }
        }
        for (index, gateway) in self.gateways.iter().enumerate() {
            if !gateway.is_idle() {
                return open("gateway", index);
            }
        }
        let given_up = self.bus.oracle.trial.as_ref().and_then(|trial| trial.given_up);
        let origins = (0..3).filter(|origin| given_up != Some(*origin));
        origins.into_iter().find_map(|origin| self.difference_from(origin))
    }

    fn difference_from(&self, origin: usize) -> Option<String> {
        let shows = &self.regions[origin];
        for (stream, at) in shows.disk.streams() {
            if stream.epoch != shows.disk.epoch {
                continue;
            }
            if let Some(behind) = self.gateways.iter().find(|of| !of.reaches(&stream, at)) {
                return Some(format!("gateway {} lacks entries of {stream:?}", behind.index));
            }
            for party in self.others(origin, &stream) {
                let disk = &self.regions[party].disk;
                let applied = disk.inbox.get(&stream).map(|inbox| inbox.applied);
                if applied != Some(at) {
                    let has = applied.map_or(0, |applied| applied.seq);
                    return Some(format!("region {party} has {has} of {} of {stream:?}", at.seq));
                }
                if disk.received_digest(&stream) != shows.disk.shown_digest(&stream) {
                    return Some(format!("region {party} has other views of {stream:?}"));
                }
            }
        }
        (0..3).filter(|party| *party != origin).find_map(|party| self.views_differ(origin, party))
    }

    fn others(&self, origin: usize, stream: &StreamId) -> impl Iterator<Item = usize> {
        let parties = self.agreements[&stream.agreement].clone();
        parties.into_iter().filter(move |party| *party != origin)
    }

    /// Whether a party believes of every record what its owner last showed (P13).
    fn views_differ(&self, origin: usize, party: usize) -> Option<String> {
        let owner = region_id(origin);
        let newest = self.regions[origin].disk.newest.iter();
        let shown: BTreeMap<(AgreementId, RecordId), Newest> = newest
            .filter(|((_, agreement), _)| self.agreements[agreement].contains(&party))
            .map(|((record, agreement), newest)| ((*agreement, *record), *newest))
            .collect();
        let views = self.regions[party].disk.views.iter();
        let believed: BTreeMap<(AgreementId, RecordId), Newest> = views
            .filter(|((birth, ..), _)| *birth == owner)
            .map(|((_, agreement, record), newest)| ((*agreement, *record), *newest))
            .collect();
        let wrong = shown.keys().chain(believed.keys());
        let wrong = wrong.into_iter().find(|key| shown.get(key) != believed.get(key));
        wrong.map(|(_, record)| {
            format!("region {party} believes another view of {record} of {owner}")
        })
    }

    fn check_all(&mut self) {
        for (index, region) in self.regions.iter().enumerate() {
            self.bus.oracle.check_region(index, &region.disk);
        }
        for gateway in &self.gateways {
            let disk = &gateway.disk;
            self.bus.oracle.check_gateway(gateway.index, |stream| disk.last(stream));
        }
    }

    fn region_up(&mut self, region: usize, life: u64) {
        let node = &mut self.regions[region];
        if !node.up && node.life == life {
            self.bus.trace(|| format!("{} starts", node.book.region));
            self.bus.oracle.check_region(region, &node.disk);
            node.start(&mut self.bus);
        }
    }

    fn gateway_up(&mut self, gateway: usize, life: u64) {
        let node = &mut self.gateways[gateway];
        if !node.up && node.life == life {
            self.bus.trace(|| format!("gateway {gateway} starts"));
            self.bus.oracle.check_gateway(gateway, |stream| node.disk.last(stream));
            node.start();
        }
    }

    /// Takes copies of all stores, unless a restore is not settled yet.
    fn copy(&mut self) {
        if self.restored {
            return;
        }
        for region in &mut self.regions {
            region.copy = region.disk.clone();
        }
        for gateway in &mut self.gateways {
            gateway.copy = gateway.disk.clone();
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.healed_at.is_some() {
            return;
        }
        let bus = &mut self.bus;
        bus.trace(|| format!("{fault:?}"));
        match fault {
            Fault::CrashRegion { region, down_ms, at_work: true } => {
                self.regions[region].doomed = Some(down_ms);
            }
            Fault::CrashGateway { gateway, down_ms, at_work: true } => {
                self.gateways[gateway].doomed = Some(down_ms);
            }
            Fault::CrashRegion { region, down_ms, .. } => {
                self.crash_region(region, down_ms, false);
            }
            Fault::CrashGateway { gateway, down_ms, .. } => {
                self.crash_gateway(gateway, down_ms, false);
            }
            Fault::RestoreRegion { region, down_ms } if bus.options.hostile.is_some() => {
                // The gateway has what it had then, and keeps what it has had since for another.
                self.crash_region(region, down_ms, true);
                self.crash_gateway(0, down_ms, true);
                if let Some(malice) = &mut self.gateways[0].malice {
                    malice.forked = true;
                }
                if self.bus.gateways > 1 {
                    self.bus.trial_forks();
                }
            }
            Fault::RestoreRegion { region, down_ms } => {
                // While one restore is not settled, a second would lose what nobody else holds.
                if self.bus.options.mode == Mode::Safety || !self.restored {
                    self.restored = true;
                    self.crash_region(region, down_ms, true);
                }
            }
            Fault::RestoreGateway { gateway, down_ms } => {
                self.crash_gateway(gateway, down_ms, true)
            }
            Fault::Partition { region, gateway, up, down, for_ms } => {
                for way in load::ways(up, down) {
                    bus.net.block(region, gateway, way, bus.now);
                    let since = bus.now;
                    bus.after(6_500, Event::Silence { region, gateway, way, since });
                    bus.after(for_ms, Event::Unblock { region, gateway, way });
                }
            }
            Fault::Reset { region, gateway } => {
                if let Some(conn) = self.regions[region].ends[gateway].conn {
                    self.gateways[gateway].end(bus, conn, "reset");
                    self.regions[region].end(bus, gateway, "reset");
                }
            }
            Fault::Delay { region, gateway, delay_ms } => bus.net.delay(region, gateway, delay_ms),
            Fault::FullRegion { region, for_ms } => {
                self.regions[region].full_until = bus.now + for_ms;
            }
            Fault::FullGateway { gateway, for_ms } => {
                self.gateways[gateway].full_until = bus.now + for_ms;
            }
            Fault::Skip { region, gateway, count } => bus.oracle.skip(region, gateway, count),
            Fault::Again { region, gateway } => self.regions[region].ask_all_again(bus, gateway),
        }
    }

    /// Whoever is hostile does something, and will again.
    fn mischief(&mut self) {
        let bus = &mut self.bus;
        let (now, trial) = (bus.now, bus.trial());
        let (what, begins, grows_old_at) = (trial.what, now == trial.from, trial.grows_old_at);
        // What is still under way when the lines are put right is lost, and with it its name.
        if now + MISCHIEF_LEAD_MS >= trial.until {
            return;
        }
        bus.after(bus.chance.within(2_000, 8_000), Event::Mischief);
        match what {
            Hostile::WithholdFreshness => {
                if begins && bus.gateways == 1 {
                    for region in 0..3 {
                        bus.trial().did_to(grows_old_at, Some(region), Sign::Old);
                    }
                }
                self.speak();
            }
            Hostile::Fork if begins => self.begin_fork(),
            _ if what.is_of_region() => {
                // The one that is no party of all.
                let of = if what == Hostile::OverRead { 1 } else { bus.options.seed as usize % 3 };
                let streams = self.regions.iter().flat_map(|region| region.disk.streams());
                let streams: Vec<_> = streams.map(|(stream, _)| stream).collect();
                self.regions[of].mischief(bus, what, &streams);
            }
            _ => self.gateways[0].mischief(bus),
        }
    }

    /// The authority speaks to every gateway.
    fn speak(&mut self) {
        let set = self.authority.word(self.bus.time(0));
        for gateway in &mut self.gateways {
            gateway.hears(&mut self.bus, set.clone());
        }
    }

    /// A region writes more after a copy of it was taken than the copy knows, and is then restored from it.
    fn begin_fork(&mut self) {
        self.copy();
        let bus = &mut self.bus;
        let region = self.gateways[0].malice.as_ref().map_or(0, Malice::origin);
        self.phones[region].work(bus, region, 10);
        bus.after(10_000, Event::Work { region, count: 10 });
        bus.after(20_000, Event::Fault(Fault::RestoreRegion { region, down_ms: 500 }));
    }

    fn crash_region(&mut self, region: usize, down_ms: u64, restore: bool) {
        let (bus, node) = (&mut self.bus, &mut self.regions[region]);
        node.crash(bus);
        bus.oracle.check_region(region, &node.disk);
        if restore {
            node.restore(bus);
            self.phones[region].offer_again(bus, region);
        }
        bus.after(down_ms, Event::RegionUp { region, life: node.life });
        for gateway in 0..bus.gateways {
            bus.oracle.link_down(region, gateway);
        }
    }

    fn crash_gateway(&mut self, gateway: usize, down_ms: u64, restore: bool) {
        let (bus, node) = (&mut self.bus, &mut self.gateways[gateway]);
        node.crash(bus);
        bus.oracle.check_gateway(gateway, |stream| node.disk.last(stream));
        if restore {
            node.restore(bus);
        }
        bus.after(down_ms, Event::GatewayUp { gateway, life: node.life });
    }

    /// All faults end.
    fn heal(&mut self) {
        self.bus.trace(|| "all faults end".to_owned());
        if self.bus.options.hostile.is_some() {
            self.put_right();
        }
        for region in 0..3 {
            self.regions[region].full_until = 0;
            self.regions[region].doomed = None;
            let life = self.regions[region].life;
            self.region_up(region, life);
            for gateway in 0..self.bus.gateways {
                self.bus.net.delay(region, gateway, 10);
                self.bus.oracle.skip(region, gateway, 0);
                for way in [Way::Up, Way::Down] {
                    self.bus.unblock(region, gateway, way);
                }
            }
        }
        for gateway in 0..self.bus.gateways {
            self.gateways[gateway].full_until = 0;
            self.gateways[gateway].doomed = None;
            let life = self.gateways[gateway].life;
            self.gateway_up(gateway, life);
        }
        let healed_at = self.bus.now;
        self.healed_at = Some(healed_at);
        self.bus.after(CONVERGED_WITHIN_MS, Event::Deadline { healed_at });
    }

    /// People have looked at what was named: the gateway is as it should be, and called anew.
    fn put_right(&mut self) {
        self.gateways[0].repent();
        if self.bus.options.hostile == Some(Hostile::WithholdFreshness) {
            self.speak();
        }
        for region in 0..3 {
            self.fault(Fault::Reset { region, gateway: 0 });
        }
    }

    fn deadline(&mut self, healed_at: u64) {
        if self.healed_at != Some(healed_at) {
            return;
        }
        let oracle = &mut self.bus.oracle;
        if oracle.fork_expected && oracle.forked_at.is_some() {
            // Nothing more can be expected of a run with a fork than that it was named.
            self.ended = true;
            oracle.counts.forks_named += 1;
            if oracle.fork_named_at.is_none() {
                oracle.fail("P6", "a fork has no name".to_owned());
            }
            return;
        }
        if let Some(difference) = self.difference() {
            self.bus.oracle.fail("P13", format!("a minute after faults ended, {difference}"));
        }
    }
}
