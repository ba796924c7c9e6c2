//! What must be clean before anything is committed.

use crate::proto;
use crate::step::{Step, cargo, run};
use anyhow::Result;
use std::process::Stdio;

/// The steps, cheapest first. `--workspace` throughout: another choice of packages chooses other
/// features and would build the dependencies again.
pub(crate) const STEPS: [Step; 6] = [
    ("fmt", || run(&mut cargo(&["fmt", "--all", "--check"]))),
    ("generated code", proto::verify),
    ("clippy", || {
        run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
    }),
    ("doc", doc),
    ("deny", deny),
    ("tidy", || run(&mut cargo(&["test", "--workspace", "--test", "it", "--", "tidy"]))),
];

fn doc() -> Result<()> {
    let mut command = cargo(&["doc", "--workspace", "--no-deps"]);
    run(command.env("RUSTDOCFLAGS", "--deny warnings"))
}

/// Licences, sources and banned crates. Not part of the toolchain, so a machine may lack it.
fn deny() -> Result<()> {
    let version =
        cargo(&["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if version.is_ok_and(|status| status.success()) {
        return run(&mut cargo(&["deny", "check", "bans", "licenses", "sources"]));
    }
    eprintln!("xtask: skipped: cargo-deny not installed");
    Ok(())
}
