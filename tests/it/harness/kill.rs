//! A lane: a world under load in which one server is killed over and over, at random moments (SIGKILL)
//! and at named points (it aborts there), and the promises are checked after each time.

use super::checker::{AckLog, Order, Shown};
use super::dice::Dice;
use super::load::{Reporter, Reports, Watcher};
use super::process::Process;
use super::store::{Store, beyond};
use super::{A, B, COUNTY, World, converged_with};
use cli::phone::Phone;
use domain::kernel::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Longest time until a killed process is killed again.
const LIVES_MS_MAX: u64 = 150;
/// The highest passage at which a process dies at its point.
const PASSAGES_MAX: u64 = 24;
/// How long a process may take to come to the point at which it dies; else it is killed.
const COMES_TO_POINT: Duration = Duration::from_secs(2);
/// How long it may take, between two kills, until something new has come to the neighbour. Full jitter
/// may draw a few long waits for the link in a row.
const FLOWS: Duration = Duration::from_secs(20);
/// How long everything may take to arrive when the faults have stopped (P13).
const CONVERGES: Duration = Duration::from_secs(60);

/// What a process ends with that aborts.
const SIGABRT: i32 = nix::sys::signal::Signal::SIGABRT as i32;

/// The server that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// Region A, whose phones report.
    Origin,
    /// The gateway.
    Gateway,
    /// Region B, which receives.
    Recipient,
}

impl Victim {
    /// Where it can be made to die; see `storage::known_bad`.
    pub(crate) const fn points(self) -> &'static [&'static str] {
        match self {
            Self::Origin => &[
                "known-bad:rows-written",
                "known-bad:rows-flushed",
                "known-bad:listeners-told",
                "known-bad:callers-answered",
                "known-bad:range-sealed",
            ],
            Self::Gateway => &[
                "known-bad:rows-written",
                "known-bad:rows-flushed",
                "known-bad:listeners-told",
                "known-bad:callers-answered",
                "known-bad:segment-verified",
            ],
            Self::Recipient => &[
                "known-bad:rows-written",
                "known-bad:rows-flushed",
                "known-bad:listeners-told",
                "known-bad:callers-answered",
                "known-bad:views-written",
            ],
        }
    }
}

/// A world and who is killed in it.
pub(crate) struct Lane {
    world: World,
    victim: Victim,
    /// How the victim breaks a promise; `None`: not at all.
    variant: Option<&'static str>,
    dice: Dice,
    /// The point at which the running process dies, unless it is killed.
    point: Option<&'static str>,
    reporters: Vec<Reporter>,
    logs: Vec<(PathBuf, usize)>,
    acked: BTreeSet<(Shown, bool)>,
    watched: Vec<Watched>,
    desk: Phone,
    /// How each time went.
    pub(crate) deaths: BTreeMap<&'static str, usize>,
    pub(crate) starts: Vec<Duration>,
}

/// A party and the officer who watches there.
struct Watched {
    party: &'static str,
    desk: Phone,
    watcher: Watcher,
    known: usize,
    order: Order,
}

impl Watched {
    /// What the party is shown of what was acknowledged: B all and at once, the county above what an
    /// officer has accepted, and every call for help.
    fn expects(&self, acked: &BTreeSet<(Shown, bool)>) -> BTreeSet<Shown> {
        let shown = acked.iter().filter(|((_, n), sos)| self.party == B || *sos || *n == 2);
        shown.map(|(shown, _)| *shown).collect()
    }

    fn follow(&mut self) -> Vec<String> {
        let seen = self.watcher.seen(self.known);
        self.known += seen.len();
        self.order.follow(&seen)
    }
}

impl Lane {
    /// Starts a world and its load; `variant` is how the victim behaves from its first restart on.
    pub(crate) async fn start(victim: Victim, variant: Option<&'static str>, seed: u64) -> Self {
        // A process that dies at a point leaves no image of its memory behind.
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).unwrap();
        let world = World::start().await;
        let mut dice = Dice::new(seed);
        let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
        let mut watched = Vec::new();
        for party in [B, COUNTY] {
            let desk = world.enrol(party, Role::DutyOfficer, "desk").await;
            let watcher = Watcher::start(desk.channel().clone());
            watched.push(Watched { party, desk, watcher, known: 0, order: Order::default() });
        }
        let (mut reporters, mut logs) = (Vec::new(), Vec::new());
        for (role, name, reports) in [
            (Role::Patroller, "phone", Reports::FromTheField),
            (Role::DutyOfficer, "second-desk", Reports::FromTheDesk),
        ] {
            let phone = world.enrol(A, role, name).await;
            let log = world.path(&format!("acked-{name}.log"));
            reporters.push(Reporter::start(phone, reports, &log, dice.fork()));
            logs.push((log, 0));
        }
        Self {
            world,
            victim,
            variant,
            dice,
            point: None,
            reporters,
            logs,
            acked: BTreeSet::new(),
            watched,
            desk,
            deaths: BTreeMap::new(),
            starts: Vec::new(),
        }
    }

    fn process(&mut self) -> &mut Process {
        match self.victim {
            Victim::Origin => &mut self.world.a,
            Victim::Gateway => &mut self.world.gateway,
            Victim::Recipient => &mut self.world.b,
        }
    }

    /// Lets the victim die, starts it again, lets something flow; tells which promises were broken.
    pub(crate) async fn cycle(&mut self) -> Vec<String> {
        let mut faults = self.death().await;
        self.point = match self.dice.below(2) {
            0 => None,
            _ => {
                let points = self.victim.points();
                Some(points[usize::try_from(self.dice.below(points.len() as u64)).unwrap()])
            }
        };
        let passage = 1 + self.dice.below(PASSAGES_MAX);
        let point = self.point.map(|point| format!("{point} {passage}"));
        self.start_victim(point).await;
        // Once in a while it is killed before it has come to itself.
        if !self.dice.once_in(4) {
            faults.extend(self.flow().await);
        }
        faults.extend(self.check());
        faults
    }

    /// The end of the victim: at its point, or by SIGKILL after a random time.
    async fn death(&mut self) -> Vec<String> {
        let lives = Duration::from_millis(self.dice.below(LIVES_MS_MAX));
        let point = self.point.take();
        let within = if point.is_some() { COMES_TO_POINT } else { lives };
        let process = self.process();
        let died = process.dies(within).await;
        if died.is_none() {
            process.kill();
        }
        let (how, fault) = match (died.map(|status| status.signal()), point) {
            (None, _) => ("SIGKILL", None),
            (Some(Some(SIGABRT)), Some(point)) => (point, None),
            (Some(_), _) => ("by itself", Some(self.process().log_text())),
        };
        *self.deaths.entry(how).or_default() += 1;
        let last = |log: String| log.lines().last().unwrap_or_default().to_owned();
        fault.map(|log| format!("it ended by itself: {}", last(log))).into_iter().collect()
    }

    async fn start_victim(&mut self, point: Option<String>) {
        let chosen: Vec<String> =
            self.variant.map(str::to_owned).into_iter().chain(point).collect();
        let process = self.process();
        process.configure(&chosen);
        process.spawn();
        let ready = process.ready().await;
        self.starts.extend(ready);
    }

    /// Waits until something new has come to the neighbour, or the victim is dead.
    async fn flow(&mut self) -> Vec<String> {
        let (before, deadline) = (self.watched[0].watcher.count(), Instant::now() + FLOWS);
        while self.watched[0].watcher.count() == before && !self.process().is_dead() {
            if Instant::now() >= deadline {
                return vec![format!("P13: nothing new has come to the neighbour in {FLOWS:?}")];
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Vec::new()
    }

    fn store(&self, data: &str, region: &str) -> Store {
        Store::open(&self.world.path(data).join("regions").join(region).join("store.sqlite"))
    }

    /// What can be seen at any time. Claims are read before that which they are about.
    fn check(&mut self) -> Vec<String> {
        let mut faults: Vec<String> = self.reporters.iter().flat_map(Reporter::refused).collect();
        let mut acks = Vec::new();
        for (log, known) in &mut self.logs {
            let fresh = AckLog::read(log, *known);
            *known += fresh.len();
            acks.extend(fresh);
        }
        self.acked.extend(acks.iter().map(|ack| ((ack.record, ack.revision), ack.sos)));
        let gateway = Store::open(&self.world.path("gateway/gateway.sqlite"));
        let (stored, told) = (gateway.written(), gateway.receipted(B));
        let a = self.store("a", A);
        let (receipts, written) = (a.receipted(B), a.written());
        let b = self.store("b", B);
        let applied = b.applied();
        faults.extend(a.missing(&acks));
        faults.extend([a, b, self.store("a", COUNTY)].iter().flat_map(Store::sums));
        faults.extend(beyond("A's receipts of B", &receipts, &applied));
        faults.extend(beyond("the gateway's receipts of B", &told, &applied));
        let of_a = stored.into_iter().filter(|(stream, _)| written.contains_key(stream)).collect();
        faults.extend(beyond("the gateway's segments of A", &of_a, &written));
        faults.extend(self.watched.iter_mut().flat_map(Watched::follow));
        faults
    }

    /// Stops the faults and the load, waits for all to arrive, and compares all with all.
    pub(crate) async fn finish(&mut self) -> Vec<String> {
        let mut faults = self.death().await;
        self.start_victim(None).await;
        for reporter in &mut self.reporters {
            reporter.finish(CONVERGES).await;
        }
        faults.extend(self.check());
        let deadline = Instant::now() + CONVERGES;
        for at in 0..self.watched.len() {
            let expected = self.watched[at].expects(&self.acked);
            let watched = &mut self.watched[at];
            while watched.watcher.count() < expected.len() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            faults.extend(watched.follow());
            faults.extend(watched.order.end(&expected));
        }
        if faults.is_empty() {
            faults.extend(self.compare(deadline).await);
        }
        faults
    }

    /// Digests, sums and the rows themselves.
    async fn compare(&mut self, deadline: Instant) -> Vec<String> {
        let mut faults = Vec::new();
        for watched in &self.watched {
            let left = deadline - Instant::now();
            let (a, party) = (self.desk.channel(), watched.desk.channel());
            let delivered = converged_with(a, party, watched.party, left).await;
            let accepted = watched.expects(&self.acked).len() as u64;
            // Nothing is queued, parked or refused by then, and nothing was withdrawn or has expired.
            if delivered != accepted {
                let to = watched.party;
                faults
                    .push(format!("P2: {accepted} were accepted for {to}, {delivered} delivered"));
            }
        }
        self.world.stop().await;
        let (a, b, county) = (self.store("a", A), self.store("b", B), self.store("a", COUNTY));
        let newest: BTreeMap<_, _> = self.acked.iter().map(|((id, n), _)| (*id, *n)).collect();
        let views = |at: usize| self.watched[at].expects(&self.acked);
        for (what, (rows, found), expected) in [
            ("records at A", a.records(), newest.into_iter().collect()),
            ("views at B", b.views(), views(0)),
            ("views in the county", county.views(), views(1)),
        ] {
            if rows != expected.len() || found != expected {
                faults.push(format!("P3: {what}: {rows} rows for {} entries", expected.len()));
            }
        }
        faults.extend([a, b, county].iter().flat_map(Store::holes));
        faults
    }

    /// What was done, in a line.
    pub(crate) fn report(&mut self) -> String {
        self.starts.sort();
        let at = |of: usize| self.starts.get(self.starts.len() * of / 100).copied();
        let (p50, max) = (at(50).unwrap_or_default(), self.starts.last().copied());
        format!(
            "{:?}: deaths {:?}; ready after p50 {p50:?}, max {:?}; {} operations",
            self.victim,
            self.deaths,
            max.unwrap_or_default(),
            self.acked.len()
        )
    }
}
