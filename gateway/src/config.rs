//! The configuration of a gateway: one file, parsed once, every mistake told.

use domain::kernel::GatewayId;
use runtime::config::{Check, ConfigError};
use runtime::limits::{self, Given};
use runtime::telemetry;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Port of a gateway.
pub const PORT: u16 = 7444;
/// Port of its metrics and health.
pub const METRICS_PORT: u16 = 7491;
/// A region signs its hello in well under a millisecond; the rest is the line.
const HELLO_TIMEOUT_MS: u64 = 5_000;
/// Some ten million sealed records of 300 bytes; what is more is asked of its origin again.
const STORED_BYTES_PER_PARTY_MAX: u64 = 4 << 30;
/// Links are told at once; this is for what still writes.
const SHUTDOWN_GRACE_S: u64 = 10;

/// What a link may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for a hello.
    pub hello_timeout_ms: u64,
    /// Bytes of segments that are held for one region.
    pub stored_bytes_per_party_max: u64,
    /// The regions' port.
    pub peer: limits::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello_timeout_ms: HELLO_TIMEOUT_MS,
            stored_bytes_per_party_max: STORED_BYTES_PER_PARTY_MAX,
            peer: limits::Limits::PEER,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenLimits {
    hello_timeout_ms: u64,
    stored_bytes_per_party_max: u64,
    peer: Given,
}

impl Default for GivenLimits {
    fn default() -> Self {
        Self {
            hello_timeout_ms: HELLO_TIMEOUT_MS,
            stored_bytes_per_party_max: STORED_BYTES_PER_PARTY_MAX,
            peer: Given::default(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    gateway_id: String,
    data: PathBuf,
    #[serde(default = "listen")]
    listen: String,
    /// Host names under which regions reach this gateway, besides its addresses.
    #[serde(default)]
    names: Vec<String>,
    #[serde(default = "grace")]
    shutdown_grace_s: u64,
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

/// The configuration of a gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its id in the directory.
    pub gateway_id: GatewayId,
    /// The data folder.
    pub data: PathBuf,
    /// Where regions connect.
    pub listen: SocketAddr,
    /// Host names in its certificate.
    pub names: Vec<String>,
    /// How long a soft stop may take.
    pub shutdown_grace_s: u64,
    /// Logs.
    pub log: telemetry::Config,
    /// Where metrics and health are read; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where traces go; `None`: nowhere.
    pub otlp: Option<telemetry::Otlp>,
    /// Limits.
    pub limits: Limits,
}

const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);

fn listen() -> String {
    ANYWHERE.to_string()
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
        let gateway_id = check.parsed::<GatewayId>("gateway_id", &file.gateway_id);
        let listen = check.parsed::<SocketAddr>("listen", &file.listen);
        let hello_timeout_ms = file.limits.hello_timeout_ms;
        if !(1..=600_000).contains(&hello_timeout_ms) {
            let what = format_args!("{hello_timeout_ms} is not within 1 to 600000");
            check.mistake("limits.hello_timeout_ms", what);
        }
        let stored_bytes_per_party_max = file.limits.stored_bytes_per_party_max;
        if !(65_536..=1 << 50).contains(&stored_bytes_per_party_max) {
            let what = format_args!(
                "{stored_bytes_per_party_max} is not within 65536 to 1125899906842624"
            );
            check.mistake("limits.stored_bytes_per_party_max", what);
        }
        let peer = file.limits.peer.over(limits::Limits::PEER, "limits.peer", &mut check);
        let limits = Limits { hello_timeout_ms, stored_bytes_per_party_max, peer };
        let metrics = file.metrics_listen.as_deref();
        let metrics_listen = runtime::observe::listen(&mut check, metrics, METRICS_PORT);
        if let Some(otlp) = &file.otlp {
            otlp.check(&mut check);
        }
        #[cfg(feature = "known-bad")]
        for what in file.known_bad.iter().filter(|what| !storage::known_bad::choose(what)) {
            check.mistake("known_bad", format_args!("`{what}` is not known"));
        }
        let (Some(gateway_id), Some(listen)) = (gateway_id, listen) else {
            check.finish()?;
            unreachable!("what did not parse is a mistake")
        };
        check.finish()?;
        let File { data, names, shutdown_grace_s, log, otlp, .. } = file;
        Ok(Self {
            gateway_id,
            data,
            listen,
            names,
            shutdown_grace_s,
            log,
            metrics_listen,
            otlp,
            limits,
        })
    }

    /// A configuration with the defaults; port 0 takes a free one.
    pub fn new(gateway_id: GatewayId, data: PathBuf, listen: SocketAddr) -> Self {
        Self {
            gateway_id,
            data,
            listen,
            names: Vec::new(),
            shutdown_grace_s: SHUTDOWN_GRACE_S,
            log: telemetry::Config::default(),
            metrics_listen: None,
            otlp: None,
            limits: Limits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn two_keys_are_enough() {
        let config = load("gateway_id = \"gw\"\ndata = \"data\"\n").unwrap();
        assert_eq!((config.listen.port(), config.limits), (PORT, Limits::default()));
    }

    #[test]
    fn every_mistake_is_told() {
        let text = "gateway_id = \"GW\"\ndata = \"d\"\nlisten = \"here\"\n\
                    [limits]\nhello_timeout_ms = 0\nstored_bytes_per_party_max = 1\n\
                    [limits.peer]\nstream_keepalive_ms = 9000\n";
        let said = load(text).unwrap_err();
        let keys = [
            "gateway.toml:1: gateway_id",
            "gateway.toml:3: listen",
            "gateway.toml:5: limits.hello_timeout_ms",
            "gateway.toml:6: limits.stored_bytes_per_party_max",
            "gateway.toml:8: limits.peer.stream_keepalive_ms",
        ];
        assert_eq!(said.lines().count(), keys.len(), "{said}");
        for (line, key) in said.lines().zip(keys) {
            assert!(line.contains(key), "{said}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_is_a_mistake() {
        let said = load("gateway_id = \"gw\"\ndata = \"d\"\nregion = 1\n").unwrap_err();
        assert!(said.contains("unknown field `region`"), "{said}");
    }
}
