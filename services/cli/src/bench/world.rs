//! A linkage of three real processes: a gateway, a region server that is reported to, and one that hosts
//! its neighbours.

use super::sharing::{pass_all, with_clauses};
use crate::authority;
use crate::demo::outline_of;
use crate::linkage::{self, RegionSpec, Terms};
use crate::phone::{self, Phone};
use anyhow::{Context as _, Result, bail, ensure};
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::directory::{Directory, RegionLevel};
use domain::kernel::{Clock as _, Entropy as _, Epoch, GatewayId, LinkageId, RegionId, Role};
use domain::outline::Outline;
use runtime::clock::{SystemClock, SystemEntropy};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use storage::region::Store;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Who shares with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One agreement, one recipient.
    One,
    /// The same, and calls for help are shown too.
    Calls,
    /// One agreement, ten recipients.
    TenParties,
    /// Ten agreements, each with a recipient of its own.
    TenAgreements,
    /// One agreement, three recipients, on real outlines.
    ThreeParties,
    /// The same, and terms that look at each record and change it.
    ThreePartiesClauses,
}

/// How long a process may take to start.
const STARTS: Duration = Duration::from_secs(20);
/// The region that phones report to.
const ORIGIN: &str = "origin";

/// The running linkage.
pub(super) struct World {
    pub(super) gateway: Server,
    pub(super) a: Server,
    pub(super) b: Server,
    pub(super) recipients: Vec<RegionId>,
    /// Last, so that it is removed when nobody writes there any more.
    dir: tempfile::TempDir,
}

/// A server as a process of its own.
pub(super) struct Server {
    binary: PathBuf,
    config: PathBuf,
    port: u16,
    child: Option<Child>,
    /// From the start of the process until it took a connection.
    pub(super) started_ms: f64,
}

impl World {
    /// Sets it up below `parent` and starts it.
    pub(super) async fn start(
        shape: Shape,
        entries_per_segment_max: Option<u64>,
        parent: Option<&Path>,
    ) -> Result<Self> {
        Self::start_by(shape, entries_per_segment_max, parent, Ok).await
    }

    /// The same, where the region reaches the gateway by the port that is given for the gateway's own.
    pub(super) async fn start_by(
        shape: Shape,
        entries_per_segment_max: Option<u64>,
        parent: Option<&Path>,
        by: impl FnOnce(u16) -> Result<u16>,
    ) -> Result<Self> {
        let dir = match parent {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        }
        .context("no folder for the files")?;
        let path = dir.path();
        let recipients = recipients(shape)?;
        set_up(path, shape, &recipients).await?;
        let (at_gateway, at_a, at_b) = (free_port()?, free_port()?, free_port()?);
        let text = format!(
            "gateway_id = \"gateway-1\"\ndata = \"{}\"\nlisten = \"127.0.0.1:{at_gateway}\"\n",
            path.join("gateway").display()
        );
        let gateway = Server::start("wuling-gateway", path, "gateway", &text, at_gateway).await?;
        let exchange = entries_per_segment_max.map_or_else(String::new, |max| {
            format!("[exchange]\nentries_per_segment_max = {max}\n")
        });
        let text = config(&path.join("a"), at_a, by(at_gateway)?, &[ORIGIN.parse()?]) + &exchange;
        let a = Server::start("wuling-region", path, "a", &text, at_a).await?;
        let text = config(&path.join("b"), at_b, at_gateway, &recipients);
        let b = Server::start("wuling-region", path, "b", &text, at_b).await?;
        Ok(Self { gateway, a, b, recipients, dir })
    }

    /// Pids of the three: region, gateway, neighbour.
    pub(super) fn pids(&self) -> [u32; 3] {
        [&self.a, &self.gateway, &self.b].map(Server::pid)
    }

    /// Enrols a phone of the region.
    pub(super) async fn phone(&self, name: &str) -> Result<Phone> {
        self.enrol("a", &ORIGIN.parse()?, self.a.port, Role::Patroller, name).await
    }

    /// Enrols the duty officer of a neighbour.
    pub(super) async fn officer(&self, region: &RegionId) -> Result<Phone> {
        self.enrol("b", region, self.b.port, Role::DutyOfficer, region.as_str()).await
    }

    async fn enrol(
        &self,
        data: &str,
        region: &RegionId,
        port: u16,
        role: Role,
        name: &str,
    ) -> Result<Phone> {
        let (data, endpoint) = (self.dir.path().join(data), format!("127.0.0.1:{port}"));
        let now = SystemClock.now();
        let code =
            linkage::issue_code(&data, region, role, "unit-1", &endpoint, now, &SystemEntropy)?;
        let dir = self.dir.path().join(format!("device-{name}"));
        phone::enrol(&dir, &code).await?;
        Phone::open(&dir, Arc::new(SystemClock), Arc::new(SystemEntropy))
    }

    /// The store of the region, to look at beside its server.
    pub(super) async fn store_of_a(&self) -> Result<Store> {
        self.store("a", &ORIGIN.parse()?).await
    }

    /// The store of a neighbour, to look at beside its server.
    pub(super) async fn store_of_b(&self, region: &RegionId) -> Result<Store> {
        self.store("b", region).await
    }

    /// The store of the gateway, to look at beside its server.
    pub(super) async fn store_of_gateway(&self) -> Result<storage::gateway::Store> {
        let path = self.dir.path().join("gateway/gateway.sqlite");
        Ok(storage::gateway::Store::open(&path, &"gateway-1".parse()?).await?.0)
    }

    async fn store(&self, data: &str, region: &RegionId) -> Result<Store> {
        let path = self.dir.path().join(data).join("regions").join(region.as_str());
        // The epoch counts for new stores only; the writer is not run, so nothing is ever written.
        let epoch = Epoch::mint(SystemClock.now(), &SystemEntropy);
        Ok(Store::open(&path.join("store.sqlite"), region, epoch).await?.0)
    }
}

fn recipients(shape: Shape) -> Result<Vec<RegionId>> {
    let count = match shape {
        Shape::One | Shape::Calls => 1,
        Shape::ThreeParties | Shape::ThreePartiesClauses => 3,
        Shape::TenParties | Shape::TenAgreements => 10,
    };
    (1..=count).map(|number| Ok(format!("neighbour-{number}").parse()?)).collect()
}

async fn set_up(dir: &Path, shape: Shape, recipients: &[RegionId]) -> Result<()> {
    let (now, linkage): (_, LinkageId) = (SystemClock.now(), "wuling-bench".parse()?);
    let authority = dir.join("authority");
    let signer = authority::init(&authority, &linkage, now, &SystemEntropy)?;
    let id: GatewayId = "gateway-1".parse()?;
    let gateway =
        linkage::init_gateway(&dir.join("gateway"), &linkage, &id, "127.0.0.1:7444", now)?;
    let origin: RegionId = ORIGIN.parse()?;
    let mut regions = Vec::new();
    for id in std::iter::once(&origin).chain(recipients) {
        let spec = RegionSpec {
            region_id: id.clone(),
            level: RegionLevel::County,
            codes: Vec::new(),
            name_zh: id.to_string(),
            name_en: id.to_string(),
            superior: None,
            endpoint: String::new(),
            outline: outline(shape, id)?,
        };
        let data = data_of(dir, id);
        regions.push(linkage::init_region(&data, &linkage, spec, now, &SystemEntropy).await?);
    }
    let signer = signer.publish(regions, vec![gateway], now)?;
    let directory = &signer.trust().directory;
    for data in ["gateway", "a", "b"] {
        linkage::install_trust(&authority, &dir.join(data))?;
    }
    match shape {
        Shape::TenAgreements => recipients
            .iter()
            .try_for_each(|one| agree(dir, directory, &[origin.clone(), one.clone()], pass_all())),
        Shape::One
        | Shape::Calls
        | Shape::TenParties
        | Shape::ThreeParties
        | Shape::ThreePartiesClauses => {
            let parties: Vec<_> = std::iter::once(&origin).chain(recipients).cloned().collect();
            let clauses = shape == Shape::ThreePartiesClauses;
            let mut clauses = if clauses { with_clauses()? } else { pass_all() };
            if shape == Shape::Calls {
                clauses.push(Clause::whole(Grant::Sos, Release::AtOnce));
            }
            agree(dir, directory, &parties, clauses)
        }
    }
}

/// Where a region lies, in the shapes for which that matters: 小南海镇 and its neighbours.
fn outline(shape: Shape, id: &RegionId) -> Result<Outline> {
    if !matches!(shape, Shape::ThreeParties | Shape::ThreePartiesClauses) {
        return Ok(Outline::default());
    }
    outline_of(match id.as_str() {
        ORIGIN => "xiaonanhai",
        "neighbour-1" => "xianfeng",
        "neighbour-2" => "qianjiang",
        _ => "lichuan",
    })
}

fn data_of(dir: &Path, id: &RegionId) -> PathBuf {
    dir.join(if id.as_str() == ORIGIN { "a" } else { "b" })
}

/// Proposes, has all sign, hands it to all.
fn agree(
    dir: &Path,
    directory: &Directory,
    parties: &[RegionId],
    clauses: Vec<Clause>,
) -> Result<()> {
    let now = SystemClock.now();
    let title = "边界联防".to_owned();
    let terms = Terms::plain(AgreementForm::Agreement, title, parties.to_vec(), clauses);
    linkage::conclude(directory, terms, |id| data_of(dir, id), now, &SystemEntropy)
}

fn config(data: &Path, port: u16, gateway_port: u16, regions: &[RegionId]) -> String {
    let mut text = format!("data = \"{}\"\nlisten = \"127.0.0.1:{port}\"\n", data.display());
    for id in regions {
        text += &format!(
            "[[regions]]\nid = \"{id}\"\ngateways = [{{ id = \"gateway-1\", endpoint = \"127.0.0.1:{gateway_port}\" }}]\n"
        );
    }
    text
}

impl Server {
    async fn start(binary: &str, dir: &Path, name: &str, config: &str, port: u16) -> Result<Self> {
        let path = dir.join(format!("{name}.toml"));
        std::fs::write(&path, config)?;
        let binary = std::env::current_exe()?.with_file_name(binary);
        ensure!(
            binary.exists(),
            "{} is missing: run `cargo build --release --workspace` first",
            binary.display()
        );
        let mut server = Self { binary, config: path, port, child: None, started_ms: 0.0 };
        server.restart().await?;
        Ok(server)
    }

    /// Starts it, or starts it again on the same folder and port.
    pub(super) async fn restart(&mut self) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.config.with_extension("log"))?;
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config);
        let from = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        self.child = Some(child);
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if ended || from.elapsed() > STARTS {
                let log = std::fs::read_to_string(self.config.with_extension("log"))?;
                bail!("{} does not start: {log}", self.binary.display());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.started_ms = from.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Ends it without a word.
    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The measurement is over, also when it failed.
        drop(self.kill());
    }
}

/// A port below those that the system gives to clients.
fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let mut bytes = [0; 2];
        SystemEntropy.fill(&mut bytes);
        let port = 10_000 + u16::from_be_bytes(bytes) % 22_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 10000 and 32000")
}
