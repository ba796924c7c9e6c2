//! The demo's linkage: an authority, a gateway, two servers that host forty-one regions, on disk in one
//! folder, with everything between them over loopback TCP and mutual TLS.

use super::data::{self, DISTRICT, DemoRegion};
use super::proxy::Proxy;
use crate::authority;
use crate::linkage::{self, RegionSpec, Terms};
use crate::phone;
use anyhow::{Context as _, Result};
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::kernel::{Clock, Entropy, GatewayId, LinkageId, RegionId, Role};
use region::config::{GatewayConfig, HostedConfig};
use region::server::Server;
use runtime::{ErrorChain, OnExit, Shutdown, Tasks};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The region whose link is cut.
pub(super) const CUT: &str = "xianfeng";
/// The township on screen.
pub(super) const TOWNSHIP: &str = "xiaonanhai";

/// Ports below those that clients are given, so that a server's port is never taken by a call.
const PORTS: std::ops::Range<u16> = 17_000..27_000;
const PORT_TRIES: usize = 50;

/// The running linkage.
pub(super) struct World {
    pub(super) dir: PathBuf,
    pub(super) regions: Vec<DemoRegion>,
    pub(super) proxy: Proxy,
    pub(super) tasks: Tasks,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    hosts: [SocketAddr; 2],
    shutdown: Shutdown,
}

impl World {
    /// Sets everything up below `dir` and starts it.
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(runtime::clock::SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(runtime::clock::SystemEntropy);
        let regions = data::regions()?;
        let gateway_id: GatewayId = "gateway-1".parse()?;
        set_up(dir, &regions, &gateway_id, &clock, &entropy).await?;
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let gateway = bind_gateway(dir, &gateway_id, &clock, &entropy).await?;
        let gateway_addr = gateway.addr();
        serve(&tasks, "gateway", gateway.serve(shutdown.clone()));
        let proxy = Proxy::start(gateway_addr, &tasks).await?;
        let mut hosts = [gateway_addr; 2];
        for (host, addr) in hosts.iter_mut().enumerate() {
            let hosted = regions
                .iter()
                .filter(|region| host_of(region) == host)
                .map(|region| {
                    let at = if region.id.as_str() == CUT { proxy.addr } else { gateway_addr };
                    let endpoint = Some(at.to_string());
                    let gateways = vec![GatewayConfig { id: gateway_id.clone(), endpoint }];
                    HostedConfig { region: region.id.clone(), gateways }
                })
                .collect();
            let server = bind_region(&host_dir(dir, host), hosted, &clock, &entropy).await?;
            *addr = server.addr();
            serve(&tasks, "region", server.serve(shutdown.clone()));
        }
        Ok(Self { dir: dir.to_owned(), regions, proxy, tasks, clock, entropy, hosts, shutdown })
    }

    /// Where a region's server listens.
    pub(super) fn endpoint(&self, region: &DemoRegion) -> SocketAddr {
        self.hosts[host_of(region)]
    }

    /// A code to enrol a device with.
    pub(super) fn code(&self, region: &DemoRegion, role: Role) -> Result<String> {
        let data = host_dir(&self.dir, host_of(region));
        let endpoint = self.endpoint(region).to_string();
        let unit = format!("{}-desk", region.id);
        linkage::issue_code(
            &data,
            &region.id,
            role,
            &unit,
            &endpoint,
            self.clock.now(),
            self.entropy.as_ref(),
        )
    }

    /// Enrols a device of a region, by the code that its screen would show.
    pub(super) async fn enrol(
        &self,
        region: &DemoRegion,
        role: Role,
        name: &str,
    ) -> Result<phone::Phone> {
        let dir = self.dir.join("devices").join(format!("{}-{name}", region.id));
        let code = self.code(region, role)?;
        phone::enrol(&dir, &code)
            .await
            .with_context(|| format!("{} is not enrolled", dir.display()))?;
        phone::Phone::open(&dir, Arc::clone(&self.clock), Arc::clone(&self.entropy))
    }

    /// A region by its id.
    pub(super) fn region(&self, id: &RegionId) -> Option<&DemoRegion> {
        self.regions.iter().find(|region| region.id == *id)
    }

    /// Stops everything in order.
    pub(super) async fn stop(&self) -> Result<()> {
        self.shutdown.stop();
        self.tasks.shutdown(std::time::Duration::from_secs(20)).await?;
        Ok(())
    }
}

/// Townships and district on one small server, the partners on another.
fn host_of(region: &DemoRegion) -> usize {
    usize::from(region.superior.is_none() && region.id.as_str() != DISTRICT)
}

fn host_dir(dir: &Path, host: usize) -> PathBuf {
    dir.join(["host-qianjiang", "host-partners"][host])
}

fn serve<E: std::error::Error + Send + 'static>(
    tasks: &Tasks,
    name: &'static str,
    server: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    tasks.spawn(name, OnExit::Stop, async move {
        if let Err(error) = server.await {
            tracing::error!(server = name, error = %ErrorChain(&error), "a server ended");
        }
    });
}

async fn set_up(
    dir: &Path,
    regions: &[DemoRegion],
    gateway_id: &GatewayId,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<()> {
    let now = clock.now();
    let entropy = entropy.as_ref();
    let linkage: LinkageId = "wuling-demo".parse()?;
    let authority = dir.join("authority");
    let signer = authority::init(&authority, &linkage, now, entropy)?;
    let gateway_dir = dir.join("gateway");
    let gateway = linkage::init_gateway(&gateway_dir, &linkage, gateway_id, "127.0.0.1:7444", now)?;
    let mut listed = Vec::with_capacity(regions.len());
    for region in regions {
        let spec = RegionSpec {
            region_id: region.id.clone(),
            level: region.level,
            codes: vec![region.code.clone()],
            name_zh: region.name_zh.clone(),
            name_en: region.name_en.clone(),
            superior: region.superior.clone(),
            endpoint: String::new(),
            outline: region.outline.clone(),
        };
        listed.push(
            linkage::init_region(&host_dir(dir, host_of(region)), &linkage, spec, now, entropy)
                .await?,
        );
    }
    let signer = signer.publish(listed, vec![gateway], now)?;
    let directory = &signer.trust().directory;
    for data in [gateway_dir, host_dir(dir, 0), host_dir(dir, 1)] {
        linkage::install_trust(&authority, &data)?;
    }
    let data_of = |id: &RegionId| {
        let region = regions.iter().find(|region| region.id == *id);
        host_dir(dir, region.map_or(0, host_of))
    };
    for terms in agreements(regions)? {
        linkage::conclude(directory, terms, data_of, now, entropy)?;
    }
    Ok(())
}

/// A charter of each township with its district, one agreement of the district with the ten partners, and
/// one across the boundary river. All release at once, marked 未核实.
fn agreements(regions: &[DemoRegion]) -> Result<Vec<Terms>> {
    let clause = |grant| Clause::whole(grant, Release::AtOnce);
    let all = || vec![clause(Grant::Sos), clause(Grant::EventDetail), clause(Grant::PatrolSummary)];
    let mut agreements = Vec::new();
    for township in regions.iter().filter(|region| region.superior.is_some()) {
        let parties = vec![township.id.clone(), DISTRICT.parse()?];
        let title = format!("{}属地协议", township.name_zh);
        agreements.push(Terms::plain(AgreementForm::Charter, title, parties, all()));
    }
    let counties =
        regions.iter().filter(|region| region.superior.is_none()).map(|region| region.id.clone());
    let summary = vec![clause(Grant::Sos), clause(Grant::EventSummary)];
    agreements.push(Terms::plain(
        AgreementForm::Agreement,
        "武陵山区联防协议".to_owned(),
        counties.collect(),
        summary,
    ));
    let border = vec![TOWNSHIP.parse()?, CUT.parse()?];
    agreements.push(Terms::plain(
        AgreementForm::Agreement,
        "中坝河边界联防协议".to_owned(),
        border,
        all(),
    ));
    Ok(agreements)
}

async fn bind_gateway(
    dir: &Path,
    id: &GatewayId,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<gateway::Gateway> {
    for _ in 0..PORT_TRIES {
        let config = gateway::Config::new(id.clone(), dir.join("gateway"), port(entropy.as_ref()));
        match gateway::Gateway::bind(config, Arc::clone(clock), Arc::clone(entropy)).await {
            Err(gateway::ServerError::Bind(runtime::accept::BindError::Taken { .. })) => {}
            bound => return Ok(bound?),
        }
    }
    anyhow::bail!("no free port for the gateway between {} and {}", PORTS.start, PORTS.end)
}

async fn bind_region(
    data: &Path,
    hosted: Vec<HostedConfig>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Server> {
    for _ in 0..PORT_TRIES {
        let config =
            region::config::Config::new(data.to_owned(), port(entropy.as_ref()), hosted.clone());
        match Server::bind(config, Arc::clone(clock), Arc::clone(entropy)).await {
            Err(region::server::ServerError::Bind(runtime::accept::BindError::Taken {
                ..
            })) => {}
            bound => return Ok(bound?),
        }
    }
    anyhow::bail!("no free port for a region server between {} and {}", PORTS.start, PORTS.end)
}

fn port(entropy: &dyn Entropy) -> SocketAddr {
    let mut bytes = [0; 2];
    entropy.fill(&mut bytes);
    let port = PORTS.start + u16::from_be_bytes(bytes) % (PORTS.end - PORTS.start);
    SocketAddr::from(([127, 0, 0, 1], port))
}
