//! `cargo xtask`: one word for each thing a developer or CI does. `cargo xtask help` lists them.
//!
//! *Is* the runner: CI and a laptop say the same words.
//!
//! *Never* part of a product, and never changes `RUSTFLAGS`: that would build every dependency again.
//!
//! *Start at* `main`; `ci` is the longest word.
#![expect(clippy::print_stderr, reason = "a runner says what it runs")]

mod check;
mod kill;
mod proto;
mod sim;
mod step;

use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use step::{Step, cargo, run, run_all};

const WORDS: &str = "\
cargo xtask check          formatting, lints, the house rules, documentation, generated code
cargo xtask test [--fast]  every test; --fast leaves out those with `fault` in their name
cargo xtask proto          makes proto/src/gen from proto/wuling
cargo xtask db             migrations from empty to latest, and every SQL text prepared
cargo xtask demo [ARGS]    `wuling demo ARGS`
cargo xtask kill [--cycles N] [--seed N]
                           kills each server so often, 1,000 times unless told; repeats a failure by its seed
cargo xtask sim --seed N [--mode safety|liveness] [--days D] [--trace]
                           runs the simulation with this seed again
cargo xtask ci             check, build, test and the demo's own check, with the seconds of each";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["check"] => run_all(&check::STEPS),
        ["test"] => run_all(&[BUILD, TEST]),
        ["test", "--fast"] => run_all(&[BUILD, TEST_FAST]),
        ["proto"] => proto::generate(),
        ["db"] => db(),
        ["demo", ref arguments @ ..] => return demo(arguments),
        ["kill", ref arguments @ ..] => kill::kill(arguments),
        ["sim", ref arguments @ ..] => sim::sim(arguments),
        ["ci"] => run_all(&[&check::STEPS[..], &[BUILD, FREE, TEST, DEMO_CHECK]].concat()),
        ["help"] => {
            eprintln!("{WORDS}");
            Ok(())
        }
        _ => Err(anyhow::anyhow!("unknown words: {}\n{WORDS}", words.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The programs, which end-to-end tests start as processes of their own.
const BUILD: Step = ("build", || run(&mut cargo(&["build"])));
/// What was just built has the features of a release.
const FREE: Step = ("free of known-bad behaviour", kill::verify_free);
const TEST: Step = ("test", || run(&mut cargo(&["test", "--workspace"])));
const TEST_FAST: Step =
    ("test --fast", || run(&mut cargo(&["test", "--workspace", "--", "--skip", "fault"])));
const DEMO_CHECK: Step = ("demo --check", || {
    run(&mut cargo(&["run", "--quiet", "--bin", "wuling", "--", "demo", "--check", "--json"]))
});

fn db() -> Result<()> {
    run(&mut cargo(&["test", "--package", "storage", "--quiet"]))
}

/// Runs the demo in the caller's folder and terminal, and answers with its exit code.
fn demo(arguments: &[&str]) -> ExitCode {
    let manifest = root().join("Cargo.toml");
    let mut command = std::process::Command::new("cargo");
    command.args(["run", "--manifest-path"]).arg(manifest).args(["--bin", "wuling", "--", "demo"]);
    match command.args(arguments).status() {
        Ok(status) => status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1).into(),
        Err(error) => {
            eprintln!("xtask: cargo did not start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root: where cargo runs this, which a moved target folder does not know.
fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR");
    Path::new(&own.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()))
        .ancestors()
        .nth(2)
        .expect("deploy/xtask lies two below")
        .into()
}
