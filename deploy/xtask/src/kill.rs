//! The kill harness at length, or again with the seed of a failure; and that what is built to be used
//! holds none of the known-bad behaviour that proves the harness.

use crate::root;
use crate::step::{cargo, run};
use anyhow::{Context, Result, bail, ensure};

/// Cycles of each server when none are asked for; the test alone does a hundred.
const CYCLES: &str = "1000";
/// How every name in `services/storage/src/known_bad.rs` begins. A test finds it in the binaries that the
/// tests use.
const KNOWN_BAD: &[u8] = b"known-bad:";
/// What is built to be used.
const PROGRAMS: [&str; 3] = ["wuling", "wuling-gateway", "wuling-region"];

/// Kills each server so many times, with the seed if one is given.
pub(crate) fn kill(arguments: &[&str]) -> Result<()> {
    let (mut cycles, mut seed) = (CYCLES, None);
    for pair in arguments.chunks(2) {
        match *pair {
            ["--cycles", count] => cycles = count,
            ["--seed", number] => seed = Some(number),
            _ => bail!("unknown flags: {}", arguments.join(" ")),
        }
    }
    for number in [Some(cycles), seed].into_iter().flatten() {
        number.parse::<u64>().with_context(|| format!("`{number}` is no number"))?;
    }
    let mut command = cargo(&["test", "--workspace", "--test", "it", "--", "--nocapture"]);
    command.arg("fault_kill::").env("WULING_KILL_CYCLES", cycles);
    if let Some(seed) = seed {
        command.env("WULING_KILL_SEED", seed);
    }
    run(&mut command)
}

/// Fails when a program that was just built with the features of a release knows known-bad behaviour.
pub(crate) fn verify_free() -> Result<()> {
    for program in PROGRAMS {
        let path = root().join("target/debug").join(program);
        let bytes =
            std::fs::read(&path).with_context(|| format!("{} is missing", path.display()))?;
        let found = bytes.windows(KNOWN_BAD.len()).any(|window| window == KNOWN_BAD);
        ensure!(!found, "{program} was built with known-bad behaviour");
    }
    Ok(())
}
