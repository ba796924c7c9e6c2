//! How a server is, with reasons: what was looked at, what was found, and what to do about it.

use domain::kernel::{Timestamp, TrustAge};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Below this much space an operator should act, and below the second writes soon fail.
const DISK_FREE_WARN_BYTES: u64 = 2 << 30;
const DISK_FREE_FAIL_BYTES: u64 = 256 << 20;

/// Half the life of a server's certificate: it should have been renewed by then.
const CERTIFICATE_WARN_S: i64 = 7 * 86_400 / 2;
/// The key that signs directories lives for 90 days, and the authority for a new one may be far away.
const DIRECTORY_KEY_WARN_S: i64 = 15 * 86_400;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All is well.
    Ok,
    /// It serves, but somebody should look.
    Warn,
    /// It cannot do its work: not ready.
    Fail,
}

/// One thing that was looked at. Reasons hold numbers and names of ours, never what a peer said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// The hosted region it is about; empty when it is the whole server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// What was found.
    pub state: State,
    /// Why.
    pub reason: String,
    /// What to do; empty where all is well.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub advice: &'static str,
}

/// Remembers what was found, and tells the log what changed.
#[derive(Debug, Default)]
pub(crate) struct Health {
    seen: Mutex<BTreeMap<(&'static str, String), State>>,
}

impl Check {
    /// A check of the whole server.
    pub fn new(name: &'static str, state: State, reason: String, advice: &'static str) -> Self {
        let advice = if state == State::Ok { "" } else { advice };
        Self { name, region: String::new(), state, reason, advice }
    }

    /// The same, about one region.
    #[must_use]
    pub fn of(self, region: &str) -> Self {
        Self { region: region.to_owned(), ..self }
    }

    /// Whether there is space for what is to come.
    pub fn disk(free_bytes: Option<u64>) -> Self {
        let Some(free) = free_bytes else {
            let reason = "the space that is left cannot be read".to_owned();
            return Self::new("disk_space", State::Warn, reason, "look at the file system");
        };
        let state = match free {
            ..DISK_FREE_FAIL_BYTES => State::Fail,
            DISK_FREE_FAIL_BYTES..DISK_FREE_WARN_BYTES => State::Warn,
            DISK_FREE_WARN_BYTES.. => State::Ok,
        };
        let reason = format!("{} MiB are free", free >> 20);
        Self::new("disk_space", state, reason, "free space where the data folder lies")
    }

    /// Whether a store takes writes.
    pub fn store(disk_full: bool) -> Self {
        let (state, reason) = if disk_full {
            (State::Fail, "the last write found the disk full")
        } else {
            (State::Ok, "writes reach the disk")
        };
        let advice = "free space; the store takes up work again by itself";
        Self::new("store", state, reason.to_owned(), advice)
    }

    /// Whether a certificate holds, and for long enough.
    pub fn certificate(seconds: i64) -> Self {
        let state = match seconds {
            ..=0 => State::Fail,
            1..CERTIFICATE_WARN_S => State::Warn,
            CERTIFICATE_WARN_S.. => State::Ok,
        };
        let reason = format!("the server's certificate holds for {} h", seconds.max(0) / 3_600);
        let advice = "it renews itself at a third of its life: see the log, and the clock";
        Self::new("certificate", state, reason, advice)
    }

    /// Whether the authority has said of late what is newest. However old it is, calls for help go on.
    pub fn trust(age: TrustAge, age_s: i64) -> Self {
        let (state, effect) = match age {
            TrustAge::Fresh => (State::Ok, ""),
            TrustAge::Stale => (State::Warn, "; nothing is widened, what comes is unconfirmed"),
            TrustAge::Lapsed => (State::Warn, "; nothing but alerts is exchanged"),
        };
        let hours = age_s.max(0) / 3_600;
        let reason = format!("the authority last said {hours} h ago what is newest{effect}");
        let advice = "have the authority freshen, and see whether its word reaches the gateway";
        Self::new("trust", state, reason, advice)
    }

    /// Whether the key that signs directories holds for long enough.
    pub fn directory_key(seconds: i64) -> Self {
        let state = if seconds < DIRECTORY_KEY_WARN_S { State::Warn } else { State::Ok };
        let reason = format!("the directory key holds for {} days", seconds.max(0) / 86_400);
        let advice = "have the authority rotate it: what it signs later is not believed";
        Self::new("directory_key", state, reason, advice)
    }

    /// Whether all authorities have said of late what they no longer stand by.
    pub fn revocations(stale: usize) -> Self {
        let state = if stale > 0 { State::Warn } else { State::Ok };
        let reason = format!("{stale} revocation lists have run out");
        let advice = "bring new lists; until then their parties may do only what harms nobody";
        Self::new("revocations", state, reason, advice)
    }

    /// A store that cannot be read.
    pub fn unreadable() -> Self {
        let reason = "the store could not be read".to_owned();
        Self::new("store_read", State::Fail, reason, "the log says what the store answered")
    }

    /// Whether so many links are up as there should be.
    pub fn links(up: usize, wanted: usize) -> Self {
        let state = if up < wanted { State::Warn } else { State::Ok };
        let reason = format!("{up} of {wanted} are up");
        Self::new("links", state, reason, "look for `link lost` in the log, and at the network")
    }
}

impl Health {
    /// Tells the log what differs from what was found before.
    pub(crate) fn found(&self, checks: &[Check]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for Check { name, region, state, reason, advice } in checks {
            let before = seen.insert((name, region.clone()), *state);
            // At the start only what is not well is news.
            if before.unwrap_or(State::Ok) == *state {
                continue;
            }
            match state {
                State::Fail => {
                    tracing::error!(
                        check = name,
                        region.id = region,
                        reason,
                        advice,
                        "not healthy"
                    );
                }
                State::Warn => {
                    tracing::warn!(check = name, region.id = region, reason, advice, "degraded");
                }
                State::Ok => tracing::info!(check = name, region.id = region, "healthy again"),
            }
        }
    }
}

/// Space left where a folder lies, for who is no administrator of the system.
pub(crate) fn disk_free_bytes(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

/// Seconds from one time to another.
pub fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.micros().saturating_sub(from.micros()) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_goes_from_ok_over_warn_to_fail() {
        for (check, state) in [
            (Check::disk(Some(3 << 30)), State::Ok),
            (Check::disk(Some(DISK_FREE_WARN_BYTES - 1)), State::Warn),
            (Check::disk(Some(DISK_FREE_FAIL_BYTES - 1)), State::Fail),
            (Check::disk(None), State::Warn),
            (Check::store(false), State::Ok),
            (Check::store(true), State::Fail),
            (Check::certificate(CERTIFICATE_WARN_S), State::Ok),
            (Check::certificate(CERTIFICATE_WARN_S - 1), State::Warn),
            (Check::certificate(0), State::Fail),
            (Check::trust(TrustAge::Fresh, 60), State::Ok),
            (Check::trust(TrustAge::Stale, 90_000), State::Warn),
            (Check::trust(TrustAge::Lapsed, 3_000_000), State::Warn),
            (Check::directory_key(DIRECTORY_KEY_WARN_S), State::Ok),
            (Check::directory_key(DIRECTORY_KEY_WARN_S - 1), State::Warn),
            (Check::revocations(0), State::Ok),
            (Check::revocations(1), State::Warn),
            (Check::unreadable(), State::Fail),
            (Check::links(2, 2), State::Ok),
            (Check::links(1, 2), State::Warn),
        ] {
            assert_eq!(check.state, state, "{check:?}");
            assert_eq!(check.advice.is_empty(), state == State::Ok, "{check:?}");
        }
    }

    #[test]
    fn the_free_space_of_a_folder_is_read() {
        assert!(disk_free_bytes(Path::new("/")).is_some());
        assert_eq!(disk_free_bytes(Path::new("/there/is/none")), None);
    }
}
