//! The configuration of a region server: one file, parsed once, every mistake told.

use domain::kernel::{GatewayId, RegionId};
use runtime::config::{Check, ConfigError};
use runtime::limits::{Given, Limits};
use runtime::telemetry;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Port of a region's gRPC.
pub const PORT: u16 = 7443;
/// Port of its metrics and health.
pub const METRICS_PORT: u16 = 7490;
/// Long enough for every stream to be told; short enough for an operator who waits.
const SHUTDOWN_GRACE_S: u64 = 10;

/// As many as a segment holds.
const ENTRIES_PER_SEGMENT_MAX: u32 = 512;

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
    exchange: ExchangeConfig,
    #[serde(default)]
    log: telemetry::Config,
    metrics_listen: Option<String>,
    otlp: Option<telemetry::Otlp>,
    #[serde(default)]
    limits: GivenLimits,
    /// What breaks a promise and where it dies, for the fault tests; see `storage::known_bad`.
    #[cfg(feature = "known-bad")]
    #[serde(default)]
    known_bad: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenLimits {
    device: Given,
    console: Given,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hosted {
    id: String,
    gateway: Option<String>,
    gateway_endpoint: Option<String>,
}

/// How a region writes its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExchangeConfig {
    /// Entries that leave together when more than one waits, 1 to 512. Fewer cost the recipients more.
    pub entries_per_segment_max: u32,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        Self { entries_per_segment_max: ENTRIES_PER_SEGMENT_MAX }
    }
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
    /// How streams are written.
    pub exchange: ExchangeConfig,
    /// Logs.
    pub log: telemetry::Config,
    /// Where metrics and health are read; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where traces go; `None`: nowhere.
    pub otlp: Option<telemetry::Otlp>,
    /// Limits of the phones' port.
    pub limits: Limits,
    /// Limits of the console's port.
    pub console_limits: Limits,
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
        if !(1..=ENTRIES_PER_SEGMENT_MAX).contains(&file.exchange.entries_per_segment_max) {
            check.mistake("exchange.entries_per_segment_max", "must be 1 to 512");
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
        #[cfg(feature = "known-bad")]
        for what in file.known_bad.iter().filter(|what| !storage::known_bad::choose(what)) {
            check.mistake("known_bad", format_args!("`{what}` is not known"));
        }
        let limits = file.limits.device.over(Limits::DEVICE, "limits.device", &mut check);
        let console_limits =
            file.limits.console.over(Limits::CONSOLE, "limits.console", &mut check);
        let metrics = file.metrics_listen.as_deref();
        let metrics_listen = runtime::observe::listen(&mut check, metrics, METRICS_PORT);
        if let Some(otlp) = &file.otlp {
            otlp.check(&mut check);
        }
        check.finish()?;
        Ok(Self {
            data: file.data,
            // `finish` has told it, had it not parsed.
            listen: listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)),
            regions,
            names: file.names,
            shutdown_grace_s: file.shutdown_grace_s,
            exchange: file.exchange,
            log: file.log,
            metrics_listen,
            otlp: file.otlp,
            limits,
            console_limits,
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
            exchange: ExchangeConfig::default(),
            log: telemetry::Config::default(),
            metrics_listen: None,
            otlp: None,
            limits: Limits::DEVICE,
            console_limits: Limits::CONSOLE,
        }
    }
}
