//! The configuration of a region server: one file, parsed once, every mistake told.

use domain::directory::Directory;
use domain::kernel::{GatewayId, RegionId};
use runtime::config::{Check, ConfigError};
use runtime::limits::{Given, Limits};
use runtime::telemetry;
use seal::trust::Trust;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Port of a region's gRPC.
pub const PORT: u16 = 7443;
/// Port of its metrics and health.
pub const METRICS_PORT: u16 = 7490;
/// Long enough for every stream to be told; short enough for an operator who waits.
const SHUTDOWN_GRACE_S: u64 = 10;

/// Gateways that a region links to when it names none, out of the directory, in order of their ids. More than
/// one, because a region that depends on a single gateway without saying so falls silent with it. Not all,
/// because each is sent all that is written, and a directory lists up to 256. The first, because regions meet
/// only at a gateway that they share: all with one directory choose the same.
pub const GATEWAYS_CHOSEN: usize = 3;
/// Gateways that a region may name.
const GATEWAYS_NAMED_MAX: usize = 8;

/// A day: how long a gateway and an origin that are of one mind may keep something from a region.
const SECOND_PATH_EVERY_S: u64 = 86_400;
/// Longest that a region may leave it.
const SECOND_PATH_EVERY_S_MAX: u64 = 7 * 86_400;

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
    gateways: Option<Vec<Gateway>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    id: String,
    endpoint: Option<String>,
}

/// How a region writes its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExchangeConfig {
    /// Entries that leave together when more than one waits, 1 to 512. Fewer cost the recipients more.
    pub entries_per_segment_max: u32,
    /// Seconds between two questions to a neighbour on the second path, 10 to 604,800; 0: it is never asked.
    pub second_path_every_s: u64,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        Self {
            entries_per_segment_max: ENTRIES_PER_SEGMENT_MAX,
            second_path_every_s: SECOND_PATH_EVERY_S,
        }
    }
}

/// A region that this server hosts.
#[derive(Clone, Debug)]
pub struct HostedConfig {
    /// The region.
    pub region: RegionId,
    /// Its gateways, each of which gets all that it writes; none: the first [`GATEWAYS_CHOSEN`] of the directory.
    pub gateways: Vec<GatewayConfig>,
}

impl HostedConfig {
    /// Its gateways now: those that it names, believed or not, or else the first that are.
    pub(crate) fn gateways_of(&self, trust: &Trust) -> Vec<GatewayConfig> {
        if !self.gateways.is_empty() {
            return self.gateways.clone();
        }
        let listed = trust.directory.gateways.keys();
        let believed = listed.filter(|id| trust.find_gateway(id).is_some());
        let chosen = |id: &GatewayId| GatewayConfig { id: id.clone(), endpoint: None };
        believed.take(GATEWAYS_CHOSEN).map(chosen).collect()
    }

    /// Whether the directory lists a gateway that it may have. A revoked one counts: it may be in another's hands,
    /// but those who report here must not be turned away because of it.
    pub(crate) fn has_gateway_of(&self, directory: &Directory) -> bool {
        match &*self.gateways {
            [] => !directory.gateways.is_empty(),
            named => named.iter().any(|gateway| directory.gateways.contains_key(&gateway.id)),
        }
    }
}

/// A gateway of a region.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The gateway, by its id in the directory.
    pub id: GatewayId,
    /// host:port where it is reached; `None`: as the directory says.
    pub endpoint: Option<String>,
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

/// The gateways that a region names.
fn gateways(check: &mut Check, key: &str, given: Option<&[Gateway]>) -> Vec<GatewayConfig> {
    let given = match given {
        None => return Vec::new(),
        Some(given) if (1..=GATEWAYS_NAMED_MAX).contains(&given.len()) => given,
        Some(_) => {
            let what = format!("name 1 to {GATEWAYS_NAMED_MAX}, or leave it out");
            check.mistake(key, what);
            return Vec::new();
        }
    };
    let mut gateways: Vec<GatewayConfig> = Vec::with_capacity(given.len());
    for (at, Gateway { id, endpoint }) in given.iter().enumerate() {
        let key = format!("{key}.{at}.id");
        let Some(id) = check.parsed::<GatewayId>(&key, id) else { continue };
        if gateways.iter().any(|named| named.id == id) {
            check.mistake(&key, "is named twice");
        }
        gateways.push(GatewayConfig { id, endpoint: endpoint.clone() });
    }
    gateways
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
        if !matches!(file.exchange.second_path_every_s, 0 | 10..=SECOND_PATH_EVERY_S_MAX) {
            check.mistake("exchange.second_path_every_s", "must be 10 to 604800, or 0");
        }
        let mut regions = Vec::new();
        for (at, hosted) in file.regions.iter().enumerate() {
            let region = check.parsed::<RegionId>(&format!("regions.{at}.id"), &hosted.id);
            let key = format!("regions.{at}.gateways");
            let gateways = gateways(&mut check, &key, hosted.gateways.as_deref());
            regions.extend(region.map(|region| HostedConfig { region, gateways }));
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

#[cfg(test)]
mod tests {
    use super::*;
    use domain::directory::Gateway;
    use domain::freshness::{Freshness, Member, Revocation};
    use domain::kernel::{LinkageId, Timestamp};
    use std::collections::BTreeMap;

    const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);

    fn id(text: &str) -> GatewayId {
        text.parse().unwrap()
    }

    /// A linkage of these gateways, of which one is revoked.
    fn trust(ids: &[&str], revoked: &str) -> Trust {
        let listed = |text: &&str| {
            let authority_certificate = text.as_bytes().to_vec();
            let endpoint = format!("{text}.example:7444");
            (id(text), Gateway { gateway_id: id(text), authority_certificate, endpoint })
        };
        let linkage_id: LinkageId = "wuling".parse().unwrap();
        let mut trust = Trust::of(Directory {
            linkage_id: linkage_id.clone(),
            version: 1,
            created_at: NOW,
            regions: BTreeMap::new(),
            gateways: ids.iter().map(listed).collect(),
            freshness_key: None,
            delegations: Default::default(),
        });
        let key_sha256 = seal::key::sha256(revoked.as_bytes());
        let member = Member::Gateway(id(revoked));
        trust.freshness = Some(Freshness {
            linkage_id,
            created_at: NOW,
            directory_version: 1,
            directory_sha256: [0; 32],
            revocations: vec![Revocation { member, key_sha256, revoked_at: NOW, cut: None }],
            agreements: BTreeMap::new(),
            delegated: BTreeMap::new(),
        });
        trust
    }

    fn hosted(gateways: &[&str]) -> HostedConfig {
        let named = |text: &&str| GatewayConfig { id: id(text), endpoint: None };
        let gateways = gateways.iter().map(named).collect();
        HostedConfig { region: "xiaonanhai".parse().unwrap(), gateways }
    }

    fn chosen(of: &HostedConfig, trust: &Trust) -> Vec<String> {
        of.gateways_of(trust).iter().map(|gateway| gateway.id.to_string()).collect()
    }

    #[test]
    fn a_region_that_names_no_gateway_has_the_first_three_that_are_believed() {
        let trust = trust(&["e", "d", "c", "b", "a"], "b");
        assert_eq!(chosen(&hosted(&[]), &trust), ["a", "c", "d"]);
        assert_eq!(chosen(&hosted(&["e", "b", "z"]), &trust), ["e", "b", "z"]);
    }

    #[test]
    fn a_region_without_any_gateway_in_the_directory_is_a_mistake_and_one_that_is_revoked_is_none()
    {
        let (some, none) = (trust(&["a"], "a").directory, trust(&[], "a").directory);
        for (named, of_some) in
            [(&[][..], true), (&["a"], true), (&["z", "a"], true), (&["z"], false)]
        {
            assert_eq!(hosted(named).has_gateway_of(&some), of_some, "{named:?}");
            assert!(!hosted(named).has_gateway_of(&none), "{named:?}");
        }
    }
}
