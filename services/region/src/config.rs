//! The configuration of a region server: one file, parsed once, every mistake told.

use domain::kernel::{GatewayId, RegionId};
use runtime::accept::Limits;
use runtime::config::{Check, ConfigError};
use runtime::telemetry;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Port of a region's gRPC.
pub const PORT: u16 = 7443;
/// Long enough for every stream to be told; short enough for an operator who waits.
const SHUTDOWN_GRACE_S: u64 = 10;

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: PathBuf,
    #[serde(default = "listen")]
    listen: String,
    /// Hosted regions; each has a folder below `data/regions`.
    regions: Vec<Hosted>,
    /// Host names under which phones reach this server, besides its addresses.
    #[serde(default = "names")]
    names: Vec<String>,
    #[serde(default = "grace")]
    shutdown_grace_s: u64,
    #[serde(default)]
    log: telemetry::Config,
    #[serde(default = "limits")]
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hosted {
    id: String,
    gateway: Option<String>,
    gateway_endpoint: Option<String>,
}

/// A region that this server hosts.
#[derive(Clone, Debug)]
pub struct HostedConfig {
    /// The region.
    pub region: RegionId,
    /// Its gateway; `None`: the first of the directory.
    pub gateway: Option<GatewayId>,
    /// Where the gateway is reached; `None`: as the directory says.
    pub gateway_endpoint: Option<String>,
}

/// The configuration of a region server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data folder.
    pub data: PathBuf,
    /// Where phones connect.
    pub listen: SocketAddr,
    /// What is hosted, at least one.
    pub regions: Vec<HostedConfig>,
    /// Host names in the server's certificates.
    pub names: Vec<String>,
    /// How long a soft stop may take.
    pub shutdown_grace_s: u64,
    /// Logs.
    pub log: telemetry::Config,
    /// Limits of the phones' port.
    pub limits: Limits,
}

fn listen() -> String {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT).to_string()
}

fn names() -> Vec<String> {
    vec!["localhost".to_owned()]
}

const fn grace() -> u64 {
    SHUTDOWN_GRACE_S
}

const fn limits() -> Limits {
    Limits::DEVICE
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// With every mistake in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (file, mut check): (File, Check) = runtime::config::load(path)?;
        let listen = check.parsed::<SocketAddr>("listen", &file.listen);
        if file.regions.is_empty() {
            check.mistake("regions", "name at least one region");
        }
        let mut regions = Vec::new();
        for hosted in &file.regions {
            let region = check.parsed::<RegionId>("regions.id", &hosted.id);
            let gateway =
                hosted.gateway.as_ref().map(|id| check.parsed::<GatewayId>("regions.gateway", id));
            if let Some(region) = region {
                regions.push(HostedConfig {
                    region,
                    gateway: gateway.flatten(),
                    gateway_endpoint: hosted.gateway_endpoint.clone(),
                });
            }
        }
        check.finish()?;
        Ok(Self {
            data: file.data,
            // `finish` has told it, had it not parsed.
            listen: listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)),
            regions,
            names: file.names,
            shutdown_grace_s: file.shutdown_grace_s,
            log: file.log,
            limits: file.limits,
        })
    }

    /// A configuration with the defaults; port 0 takes a free one.
    pub fn new(data: PathBuf, listen: SocketAddr, regions: Vec<HostedConfig>) -> Self {
        Self {
            data,
            listen,
            regions,
            names: names(),
            shutdown_grace_s: SHUTDOWN_GRACE_S,
            log: telemetry::Config::default(),
            limits: Limits::DEVICE,
        }
    }
}
