//! One run of the simulation, named by its seed.

use crate::step::{cargo, run};
use anyhow::{Context, Result, bail};
use std::fmt::Write;

/// Replays a seed: `--seed N [--mode safety|liveness] [--days D] [--trace]`.
pub(crate) fn sim(arguments: &[&str]) -> Result<()> {
    let mut words = String::new();
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        if *flag == "--trace" {
            words.push_str(" trace");
            continue;
        }
        let value = rest.next().with_context(|| format!("{flag} needs a value"))?;
        match *flag {
            "--seed" | "--days" => {
                value.parse::<u64>().with_context(|| format!("`{value}` is no number"))?;
            }
            "--mode" if matches!(*value, "safety" | "liveness") => {}
            _ => bail!("unknown flag: {flag} {value}"),
        }
        write!(words, " {}={value}", flag.trim_start_matches('-'))?;
    }
    let mut command = cargo(&["test", "--workspace", "--test", "it", "--", "--nocapture"]);
    run(command.args(["--exact", "simulation::replay"]).env("WULING_SIM", words))
}
