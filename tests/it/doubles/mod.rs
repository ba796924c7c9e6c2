//! Goal: real servers name what a hostile gateway or region does, as `simulation::hostile` has it of their cores,
//! and go on once it has ended. Method: real region processes whose gateway is a double in this process, with the
//! keys of the real one and bad conduct on command; a real gateway and a real neighbour against a region that is
//! made by hand, with keys of its own. Each behaviour once; what must be waited for is waited for at one time.

mod forge;
mod gateway;
mod proposals;
mod region;
mod second_path;

use crate::explain::report;
use crate::harness::{
    A, ARRIVES, B, COUNTY, Process, event, free_port, pull_all, region, region_config,
    set_up_as_of, sos, states, until, views,
};
use cli::authority::Authority;
use cli::linkage::{self, Terms};
use cli::phone::{self, Phone};
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::kernel::{Clock as _, Lane, Reason, RegionId, Role, Timestamp};
use domain::operation::Change;
use gateway::{Conduct, Double};
use proto::device::v1::change::Subject;
use proto::link::HEAD_LATE_MS;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::key::SigningKey;
use seal::segment::Segment;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// P6: how soon what is visible has a name, and a moment for the word to be written.
const NAMED: Duration = Duration::from_millis(HEAD_LATE_MS + 3_000);

/// Two region processes, the gateway of which is a double.
struct Pair {
    gateway: Double,
    a: Process,
    b: Process,
    dir: tempfile::TempDir,
}

impl Pair {
    /// The linkage of the other tests, of which the authority last spoke then; `more` is agreed besides.
    async fn start(said_at: Timestamp, more: impl AsyncFnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        set_up_as_of(path, said_at).await;
        more(path).await;
        let gateway = Double::start(path).await;
        let (at_a, at_b) = (free_port(), free_port());
        let config = region_config(path, "a", at_a, gateway.port);
        let a = Process::start("wuling-region", &config, at_a, &path.join("a.log")).await;
        let config = region_config(path, "b", at_b, gateway.port);
        let b = Process::start("wuling-region", &config, at_b, &path.join("b.log")).await;
        Self { gateway, a, b, dir }
    }

    async fn plain() -> Self {
        Self::start(SystemClock.now(), async |_| ()).await
    }

    async fn enrol(&self, id: &str, role: Role) -> Phone {
        let (data, port) = if id == B { ("b", self.b.port) } else { ("a", self.a.port) };
        let (data, endpoint) = (self.dir.path().join(data), format!("127.0.0.1:{port}"));
        let (id, now) = (region(id), SystemClock.now());
        let code = linkage::issue_code(&data, &id, role, "unit-1", &endpoint, now, &SystemEntropy);
        let dir = self.dir.path().join(format!("device-{id}-{role:?}"));
        phone::enrol(&dir, &code.unwrap()).await.unwrap();
        Phone::open(&dir, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap()
    }

    /// How often B has raised this.
    fn raised(&self, reason: Reason) -> usize {
        alarms(&self.b, reason)
    }
}

fn alarms(process: &Process, reason: Reason) -> usize {
    let log = process.log_text();
    let named = |line: &&str| line.contains("alarm") && line.contains(reason.name());
    log.lines().filter(named).count()
}

async fn tell(phone: &mut Phone, text: &str) {
    report(phone, Change::ReportEvent(event(text))).await;
}

async fn arrives(desk: &Phone, count: usize) {
    until("all has arrived, once", ARRIVES, async || views(desk.channel()).await == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_loses_turns_round_or_repeats_arrives_in_order_and_once() {
    let mut pair = Pair::plain().await;
    let mut phone = pair.enrol(A, Role::Patroller).await;
    let desk = pair.enrol(B, Role::DutyOfficer).await;
    tell(&mut phone, "honest").await;
    arrives(&desk, 1).await;

    pair.gateway.conduct(Conduct::Duplicate);
    for _ in 0..3 {
        tell(&mut phone, "again and again").await;
    }
    arrives(&desk, 4).await;
    assert_eq!(pair.gateway.wants(), [], "what is there twice is no loss");

    pair.gateway.conduct(Conduct::Reorder);
    tell(&mut phone, "first").await;
    tell(&mut phone, "second").await;
    until("the hole is asked for", NAMED, async || pair.gateway.wants().len() == 1).await;
    pair.gateway.repent();
    arrives(&desk, 6).await;

    pair.gateway.conduct(Conduct::Drop);
    tell(&mut phone, "acknowledged and lost").await;
    until("it is lost", ARRIVES, async || pair.gateway.has_lost()).await;
    pair.gateway.conduct(Conduct::Honest);
    tell(&mut phone, "after it").await;
    until("the loss is asked for", NAMED, async || pair.gateway.wants().len() >= 2).await;
    assert_eq!(views(desk.channel()).await, 6, "nothing goes past a hole");
    until("the officer sees that something is missing", ARRIVES, async || {
        let state = states(desk.channel()).await.unwrap();
        state.streams.iter().any(|row| row.last_seq > row.applied_seq && row.applied_seq > 0)
    })
    .await;
    pair.gateway.repent();
    arrives(&desk, 8).await;
    for reason in Reason::ALL {
        assert_eq!(pair.raised(*reason), 0, "{reason:?}");
    }
    pair.a.stop().await;
    pair.b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_cuts_alters_or_makes_up_is_refused_by_name_and_comes_right() {
    let mut pair = Pair::plain().await;
    let mut phone = pair.enrol(A, Role::Patroller).await;
    let desk = pair.enrol(B, Role::DutyOfficer).await;
    tell(&mut phone, "honest").await;
    arrives(&desk, 1).await;

    // The link ends because of what cannot be read, and brings it whole when it is there again.
    for (nth, conduct, why) in
        [(2, Conduct::CutPiece, "protocol: piece"), (3, Conduct::CutSegment, "protocol: segment")]
    {
        pair.gateway.conduct(conduct);
        tell(&mut phone, "cut short").await;
        until("it is named", NAMED, async || pair.b.log_text().contains(why)).await;
        arrives(&desk, nth).await;
    }

    pair.gateway.conduct(Conduct::Forge);
    tell(&mut phone, "one bit").await;
    let forged = |count| async move |pair: &Pair| pair.raised(Reason::SignatureInvalid) == count;
    let named = forged(1);
    until("it is named", NAMED, async || named(&pair).await).await;
    arrives(&desk, 4).await;

    // The next of a stream, signed by somebody else; and what was said to the county, as if it were said to B.
    report(&mut phone, Change::RaiseSos(sos("for both"))).await;
    arrives(&desk, 5).await;
    let (stream, held) =
        pair.gateway.held(B).into_iter().find(|(of, _)| of.lane == Lane::Routine).unwrap();
    let last = Segment::parse(held.last().unwrap().clone()).unwrap();
    let directory = linkage::read_directory(&pair.dir.path().join("b"), SystemClock.now()).unwrap();
    let key = |id: &RegionId| (id.clone(), directory.regions[id].sealing_key);
    let parties: Vec<_> = last.parties().map(key).collect();
    let forger = SigningKey::generate(&SystemEntropy);
    pair.gateway.show(B, Lane::Routine, &forge::next(&last, &forger, &parties));
    let named = forged(2);
    until("it is named", NAMED, async || named(&pair).await).await;
    let (_, to_county) = pair.gateway.held(COUNTY).remove(0);
    tell(&mut phone, "so that the next is tried anew").await;
    arrives(&desk, 6).await;
    let held = pair.gateway.held(B).into_iter().find(|(of, _)| *of == stream).unwrap().1;
    let last = Segment::parse(held.last().unwrap().clone()).unwrap();
    let swapped = forge::under(&to_county[0], &stream, last.after());
    pair.gateway.show(B, Lane::Routine, &swapped);
    let handed_on = async |count| pair.raised(Reason::NotAParty) == count;
    until("it is named", NAMED, async || handed_on(1).await).await;
    // As it is, nobody but the county can open it.
    pair.gateway.show(B, Lane::Alert, &to_county[0]);
    until("it is named", NAMED, async || handed_on(2).await).await;
    tell(&mut phone, "all as before").await;
    arrives(&desk, 7).await;
    pair.a.stop().await;
    pair.b.stop().await;
}

/// What is new is kept back from B: late. What is old in its place keeps up appearances, for now.
async fn keeps_back() {
    let mut pair = Pair::plain().await;
    let mut phone = pair.enrol(A, Role::Patroller).await;
    let desk = pair.enrol(B, Role::DutyOfficer).await;
    tell(&mut phone, "honest").await;
    report(&mut phone, Change::RaiseSos(sos("honest"))).await;
    arrives(&desk, 2).await;
    pair.gateway.conduct(Conduct::KeepBack);
    tell(&mut phone, "kept back").await;
    let late = async |lane: Lane| {
        let state = states(desk.channel()).await.unwrap();
        let mut rows = state.streams.iter().filter(|row| {
            row.stream.as_ref().is_some_and(|of| of.origin_region == A && of.lane == lane.code())
        });
        rows.any(|row| row.head_late)
    };
    assert!(!late(Lane::Routine).await && !late(Lane::Alert).await);
    until("the stream is late", NAMED, async || {
        pair.gateway.repeat(Lane::Alert);
        tokio::time::sleep(Duration::from_secs(1)).await;
        late(Lane::Routine).await
    })
    .await;
    assert!(pair.b.log_text().contains("no fresh head"));
    // What is old does not pass for new, however often it is said.
    until("the repeated stream is late", NAMED, async || {
        pair.gateway.repeat(Lane::Alert);
        tokio::time::sleep(Duration::from_secs(1)).await;
        late(Lane::Alert).await
    })
    .await;
    pair.gateway.repent();
    arrives(&desk, 3).await;
    pair.a.stop().await;
    pair.b.stop().await;
}

/// One history of a restored region for B, another for the county: B's receipts tell.
async fn forks() {
    let among_three = async |path: &Path| {
        let now = SystemClock.now();
        let directory = linkage::read_directory(&path.join("a"), now).unwrap();
        let clauses = vec![Clause::whole(Grant::EventDetail, Release::AtOnce)];
        let parties = [A, B, COUNTY].map(region).to_vec();
        let title = "三方联防".to_owned();
        let terms = Terms::plain(AgreementForm::Agreement, title, parties, clauses);
        let data = |id: &RegionId| path.join(if id.as_str() == B { "b" } else { "a" });
        linkage::conclude(&directory, terms, data, now, &SystemEntropy).unwrap();
    };
    let mut pair = Pair::start(SystemClock.now(), among_three).await;
    let mut phone = pair.enrol(A, Role::Patroller).await;
    let (at_b, at_county) =
        (pair.enrol(B, Role::DutyOfficer).await, pair.enrol(COUNTY, Role::DutyOfficer).await);
    tell(&mut phone, "before").await;
    // Under two agreements, each of which shows it.
    let seen = async |desk: &Phone| views(desk.channel()).await;
    until("both have it", ARRIVES, async || seen(&at_b).await > 0 && seen(&at_county).await > 0)
        .await;
    let (of_b, of_county) = (seen(&at_b).await, seen(&at_county).await);
    let places = pair.gateway.places();
    let folder = pair.dir.path().join("a/regions").join(A);
    pair.a.stop().await;
    let copy = stores(&folder);
    pair.a.restart().await;
    pair.gateway.blind(&[COUNTY]);
    tell(&mut phone, "the first history").await;
    until("B has it", ARRIVES, async || seen(&at_b).await > of_b).await;

    pair.gateway.mute(true);
    pair.a.stop().await;
    for path in stores(&folder).into_keys() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in copy {
        std::fs::write(path, bytes).unwrap();
    }
    pair.gateway.fork(&places);
    pair.gateway.blind(&[B]);
    // As it is, it would leave the epoch.
    pair.a.configure(&["known-bad:restore-without-epoch".to_owned()]);
    pair.a.restart().await;
    tell(&mut phone, "the second history").await;
    until("the county has it", ARRIVES, async || seen(&at_county).await > of_county).await;
    assert_eq!(alarms(&pair.a, Reason::StreamForked), 0, "nobody has told");
    pair.gateway.mute(false);
    until("the fork is named", NAMED, async || alarms(&pair.a, Reason::StreamForked) > 0).await;
    pair.a.stop().await;
    pair.b.stop().await;
}

/// The files of a store that nobody has open.
fn stores(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of_store =
        |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("store.sqlite");
    files.filter(of_store).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// A word of the authority that is two days old, because the gateway keeps the newer ones: marked, until it comes.
async fn withholds() {
    let old = SystemClock.now().plus_days(-2);
    let mut pair = Pair::start(old, async |_| ()).await;
    let mut phone = pair.enrol(A, Role::Patroller).await;
    let desk = pair.enrol(B, Role::DutyOfficer).await;
    let authority = Authority::open(&pair.dir.path().join("authority"), SystemClock.now()).unwrap();
    let newer = authority.freshen(SystemClock.now()).unwrap();
    tell(&mut phone, "routine").await;
    report(&mut phone, Change::RaiseSos(sos("help"))).await;
    arrives(&desk, 2).await;
    let marked = async || {
        let changes = pull_all(desk.channel()).await.into_iter();
        let sources = changes.filter_map(|change| match change.subject {
            Some(Subject::View(view)) => view.source,
            _ => None,
        });
        let mut marks: Vec<_> = sources.map(|source| (source.lane, source.unconfirmed)).collect();
        marks.sort_unstable();
        marks
    };
    let (alert, routine) = (Lane::Alert.code(), Lane::Routine.code());
    assert_eq!(marked().await, [(alert, false), (routine, true)]);
    // The control: the same once it is passed on.
    pair.gateway.pass_on(newer.trust().signed());
    let held = |data: &str| {
        let path = pair.dir.path().join(data);
        let folder = runtime::trust_folder::TrustFolder::open(
            &path,
            SystemClock.now(),
            seal::trust::believe,
        );
        folder.unwrap().held().signed_at()
    };
    until("it is heard", ARRIVES, async || held("b") == newer.trust().signed_at()).await;
    tell(&mut phone, "routine again").await;
    arrives(&desk, 3).await;
    assert_eq!(marked().await, [(alert, false), (routine, false), (routine, true)]);
    pair.a.stop().await;
    pair.b.stop().await;
}

/// At one time, because the first takes as long as silence may.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_keeps_back_forks_or_withholds_the_authoritys_word_is_named() {
    tokio::join!(keeps_back(), forks(), withholds());
}
