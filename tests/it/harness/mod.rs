//! A linkage of three real processes: a gateway and two region servers, on a scratch folder, with
//! phones and desks that are enrolled as users are.

mod checker;
mod dice;
mod kill;
mod load;
mod observed;
mod process;
mod proxy;
mod python;
mod store;

pub(crate) use checker::{AckLog, Shown, faults, own_records};
pub(crate) use dice::Dice;
pub(crate) use kill::{Lane, Victim};
pub(crate) use load::{Pusher, Watcher, batch, kept};
pub(crate) use observed::{Collector, get, metrics, value};
pub(crate) use process::{Process, binary, free_port, until};
pub(crate) use proxy::Proxy;
pub(crate) use python::{Python, root};
pub(crate) use store::Store;

use cli::authority::{self, Authority};
use cli::linkage::{self, RegionSpec, Terms};
use cli::phone::{self, Phone};
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::directory::{Directory, Gateway, Region, RegionLevel};
use domain::kernel::{Clock as _, Datum, GeoPoint, LinkageId, Purpose, RegionId, Role, Timestamp};
use domain::outline::Outline;
use domain::patrol::{Shift, ShiftState, SosAlert, SosState, SosTrigger};
use domain::risk::{EmergencyClass, Event, EventDomain, EventSource, EventState};
use proto::agreement::v1 as agreement;
use proto::device::v1 as pb;
use proto::device::v1::change::Subject;
use runtime::clock::{SystemClock, SystemEntropy};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use tonic::transport::Channel;

/// The township, the county above it, and the neighbour.
pub(crate) const A: &str = "xiaonanhai";
pub(crate) const COUNTY: &str = "qianjiang";
pub(crate) const B: &str = "xianfeng";
/// Longest time a record may take to the neighbour over a line that is up; it takes milliseconds.
pub(crate) const ARRIVES: Duration = Duration::from_secs(30);

/// Nobody reads metrics, and many worlds stand on one machine.
const METRICS_OFF: &str = "metrics_listen = \"off\"\n";

/// A linkage of three processes; the township's also hosts the county.
pub(crate) struct World {
    pub(crate) gateway: Process,
    pub(crate) a: Process,
    pub(crate) b: Process,
    /// Between the township's process and the gateway.
    pub(crate) line: Proxy,
    // Last, so that it is deleted when nobody writes there any more.
    dir: tempfile::TempDir,
}

pub(crate) fn region(id: &str) -> RegionId {
    id.parse().unwrap()
}

/// The data folder that hosts a region.
fn data_of(id: &str) -> &'static str {
    if id == B { "b" } else { "a" }
}

/// Data folders of a gateway, three regions, their charter and their agreement, ready to be started.
pub(crate) async fn set_up(dir: &Path) {
    set_up_as_of(dir, SystemClock.now()).await;
}

/// The same, of which the authority has said nothing since this time.
pub(crate) async fn set_up_as_of(dir: &Path, now: Timestamp) {
    let (signer, gateway, regions) = make(dir, now).await;
    let signer = signer.publish(regions, vec![gateway], now).unwrap();
    let directory = &signer.trust().directory;
    for data in ["gateway", "a", "b"] {
        linkage::install_trust(&dir.join("authority"), &dir.join(data)).unwrap();
    }
    // A county sees what its township's officer has accepted, and every call for help.
    let charter = [(Grant::EventDetail, Release::OnAccept), (Grant::Sos, Release::AtOnce)];
    agree(dir, directory, AgreementForm::Charter, [A, COUNTY], &charter, now);
    let at_once = [Grant::Sos, Grant::EventDetail, Grant::PatrolSummary, Grant::Transfer];
    let clauses = at_once.map(|grant| (grant, Release::AtOnce));
    agree(dir, directory, AgreementForm::Agreement, [A, B], &clauses, now);
}

/// An authority, and the keys of a gateway and three regions that it does not list yet.
pub(crate) async fn make(dir: &Path, now: Timestamp) -> (Authority, Gateway, Vec<Region>) {
    let linkage: LinkageId = "wuling-test".parse().unwrap();
    let authority = dir.join("authority");
    let signer = authority::init(&authority, &linkage, now, &SystemEntropy).unwrap();
    let (data, id) = (dir.join("gateway"), "gateway-1".parse().unwrap());
    let gateway = linkage::init_gateway(&data, &linkage, &id, "127.0.0.1:7444", now).unwrap();
    let mut regions = Vec::new();
    for (id, level, superior, name_zh) in [
        (A, RegionLevel::Township, Some(COUNTY), "小南海镇"),
        (COUNTY, RegionLevel::County, None, "黔江区"),
        (B, RegionLevel::County, None, "咸丰县"),
    ] {
        let spec = RegionSpec {
            region_id: region(id),
            level,
            codes: Vec::new(),
            name_zh: name_zh.to_owned(),
            name_en: id.to_owned(),
            superior: superior.map(region),
            endpoint: String::new(),
            outline: Outline::default(),
        };
        let data = dir.join(data_of(id));
        regions
            .push(linkage::init_region(&data, &linkage, spec, now, &SystemEntropy).await.unwrap());
    }
    (signer, gateway, regions)
}

/// Proposes, has both sign, hands it to both.
pub(crate) fn agree(
    dir: &Path,
    directory: &Directory,
    form: AgreementForm,
    parties: [&str; 2],
    clauses: &[(Grant, Release)],
    now: Timestamp,
) {
    let clause = |&(grant, release): &(Grant, Release)| Clause::whole(grant, release);
    let clauses = clauses.iter().map(clause).collect();
    let parties = parties.map(region).to_vec();
    let terms = Terms::plain(form, "中坝河边界联防".to_owned(), parties, clauses);
    let data = |id: &RegionId| dir.join(data_of(id.as_str()));
    linkage::conclude(directory, terms, data, now, &SystemEntropy).unwrap();
}

/// Writes the configuration of a region server; gives its path.
pub(crate) fn region_config(dir: &Path, data: &str, port: u16, gateway_port: u16) -> PathBuf {
    let mut text =
        format!("data = \"{}\"\nlisten = \"127.0.0.1:{port}\"\n", dir.join(data).display());
    text += METRICS_OFF;
    for id in [A, COUNTY, B].into_iter().filter(|id| data_of(id) == data) {
        text += &format!(
            "[[regions]]\nid = \"{id}\"\ngateways = [{{ id = \"gateway-1\", endpoint = \"127.0.0.1:{gateway_port}\" }}]\n"
        );
    }
    let path = dir.join(format!("{data}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

/// Writes the configuration of the gateway; gives its path.
pub(crate) fn gateway_config(dir: &Path, port: u16) -> PathBuf {
    let data = dir.join("gateway");
    let (data, path) = (data.display(), dir.join("gateway.toml"));
    let text =
        format!("gateway_id = \"gateway-1\"\ndata = \"{data}\"\nlisten = \"127.0.0.1:{port}\"\n");
    let text = text + METRICS_OFF;
    std::fs::write(&path, text).unwrap();
    path
}

impl World {
    /// Sets the linkage up and starts its three processes.
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    /// The same in a folder that was made before.
    pub(crate) async fn start_in(dir: tempfile::TempDir) -> Self {
        set_up(dir.path()).await;
        Self::start_as_is(dir).await
    }

    /// Starts three processes on what was set up.
    pub(crate) async fn start_as_is(dir: tempfile::TempDir) -> Self {
        let path = dir.path();
        let (at_gateway, at_a, at_b) = (free_port(), free_port(), free_port());
        let line = Proxy::start(at_gateway).await;
        let config = gateway_config(path, at_gateway);
        let log = path.join("gateway.log");
        let gateway = Process::start("wuling-gateway", &config, at_gateway, &log).await;
        let config = region_config(path, "a", at_a, line.port);
        let a = Process::start("wuling-region", &config, at_a, &path.join("a.log")).await;
        let config = region_config(path, "b", at_b, at_gateway);
        let b = Process::start("wuling-region", &config, at_b, &path.join("b.log")).await;
        Self { gateway, a, b, line, dir }
    }

    /// A file or folder of this world.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Enrols a device of a region with the code that its administrator would issue.
    pub(crate) async fn enrol(&self, id: &str, role: Role, name: &str) -> Phone {
        let port = if data_of(id) == "b" { self.b.port } else { self.a.port };
        let (data, endpoint) = (self.path(data_of(id)), format!("127.0.0.1:{port}"));
        let (id, now) = (region(id), SystemClock.now());
        let code = linkage::issue_code(&data, &id, role, "unit-1", &endpoint, now, &SystemEntropy);
        let dir = self.path(&format!("device-{id}-{name}"));
        phone::enrol(&dir, &code.unwrap()).await.unwrap();
        Phone::open(&dir, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap()
    }

    /// Stops all three as an operator does.
    pub(crate) async fn stop(&mut self) {
        for process in [&mut self.a, &mut self.b, &mut self.gateway] {
            process.stop().await;
        }
    }
}

/// Where things happen.
pub(crate) fn point() -> GeoPoint {
    GeoPoint {
        lon: 108.7625,
        lat: 29.6615,
        accuracy_m: 5.0,
        datum: Datum::Wgs84,
        source: None,
        altitude_m: None,
    }
}

/// An event as a patrol reports it.
pub(crate) fn event(text: &str) -> Event {
    Event {
        domain: EventDomain::Safety,
        category: "GEOLOGICAL".to_owned(),
        emergency_class: Some(EmergencyClass::NaturalDisaster),
        level: None,
        place: "黑溪桥头".to_owned(),
        point: Some(point()),
        text: text.to_owned(),
        source: EventSource::Patrol,
        affected_count: 0,
        urgent: false,
        deadline_at: None,
        state: EventState::Reported,
        handling_unit: String::new(),
        observation_id: None,
    }
}

/// A shift as its lead opens it; the roster names staff, and stays at home.
pub(crate) fn shift() -> Shift {
    Shift {
        unit: "unit-1".to_owned(),
        station: "小南海所".to_owned(),
        planned_start_at: None,
        planned_end_at: None,
        opened_at: None,
        closed_at: None,
        state: ShiftState::Open,
        staff_count: 2,
        roster_refs: vec!["staff-007".to_owned()],
        handover_note: String::new(),
    }
}

/// A call for help.
pub(crate) fn sos(remark: &str) -> SosAlert {
    SosAlert {
        point: Some(point()),
        last_known: None,
        trigger: SosTrigger::Button,
        state: SosState::Raised,
        acknowledged_at: None,
        acknowledge_unit: String::new(),
        patrol_id: None,
        remark: remark.to_owned(),
    }
}

/// All changes that a desk sees, from the start.
pub(crate) async fn pull_all(channel: &Channel) -> Vec<pb::Change> {
    try_pull_all(channel).await.unwrap()
}

/// The same, or the refusal.
pub(crate) async fn try_pull_all(channel: &Channel) -> Result<Vec<pb::Change>, Status> {
    let mut service = cli::client::device_service(channel);
    let (mut cursor, mut changes) = (None, Vec::new());
    loop {
        let purpose = Purpose::Duty.code();
        let request = pb::PullRequest { cursor, page_size: 1_000, purpose, kinds: Vec::new() };
        let page = service.pull(request).await?.into_inner();
        changes.extend(page.changes);
        cursor = page.next_cursor;
        if !page.more {
            return Ok(changes);
        }
    }
}

/// Views that a desk was shown, all that came counted.
pub(crate) async fn views(channel: &Channel) -> usize {
    let changes = pull_all(channel).await;
    changes.iter().filter(|change| matches!(change.subject, Some(Subject::View(_)))).count()
}

/// How all streams of a region stand now; `None` while its server does not answer.
pub(crate) async fn states(channel: &Channel) -> Option<agreement::WatchStreamsResponse> {
    let request = agreement::WatchStreamsRequest { purpose: Purpose::Operation.code() };
    let mut service = cli::client::agreement_service(channel);
    service.watch_streams(request).await.ok()?.into_inner().message().await.ok()?
}

/// Waits until all that A wrote for B was stored and applied, then compares both sides; gives the
/// number of views.
pub(crate) async fn converged(a: &Channel, b: &Channel, deadline: Duration) -> u64 {
    converged_with(a, b, B, deadline).await
}

/// The same for what A wrote for any party, of which `b` is a desk.
pub(crate) async fn converged_with(
    a: &Channel,
    b: &Channel,
    party: &str,
    deadline: Duration,
) -> u64 {
    let mut rows = Vec::new();
    until("all that was written is stored and applied", deadline, async || {
        let Some(state) = states(a).await else { return false };
        let written = |row: &agreement::StreamState| {
            let origin = row.stream.as_ref().is_some_and(|stream| stream.origin_region == A);
            origin && row.party_region == party
        };
        rows = state.streams.into_iter().filter(written).collect();
        let whole = |row: &agreement::StreamState| {
            row.stored_seq == row.last_seq && row.applied_seq == row.last_seq
        };
        !rows.is_empty() && rows.iter().all(whole)
    })
    .await;
    let mut views = 0;
    for row in rows {
        let stream = row.stream.unwrap();
        let (origin, recipient) = (digest(a, &stream).await, digest(b, &stream).await);
        assert_eq!(origin.digest, recipient.digest, "the two sides hold different views");
        assert_eq!(origin.view_count, recipient.view_count);
        assert_eq!((origin.entry_count, recipient.entry_count), (row.last_seq, row.last_seq));
        assert_eq!((row.parked_count, recipient.parked_count), (0, 0));
        views += origin.view_count;
    }
    views
}

/// Digest of a stream's views, as one side tells it.
async fn digest(
    channel: &Channel,
    stream: &agreement::StreamKey,
) -> agreement::GetStreamDigestResponse {
    let request = agreement::GetStreamDigestRequest {
        stream: Some(stream.clone()),
        purpose: Purpose::Operation.code(),
    };
    let mut service = cli::client::agreement_service(channel);
    service.get_stream_digest(request).await.unwrap().into_inner()
}
