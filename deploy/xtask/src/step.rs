//! Steps: commands that say what they run, stop at the first failure and tell their seconds.

use crate::root;
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::process::{Command, Stdio};

/// A name and what it does.
pub(crate) type Step = (&'static str, fn() -> Result<()>);

/// Runs the steps in order until one fails, then prints the seconds of each.
pub(crate) fn run_all(steps: &[Step]) -> Result<()> {
    let mut table = String::new();
    let mut outcome = Ok(());
    for (name, step) in steps {
        let (seconds, ran) = timed(*step);
        writeln!(table, "{seconds:>8.1} s  {name}{}", if ran.is_ok() { "" } else { "  FAILED" })?;
        if ran.is_err() {
            outcome = ran.context(*name);
            break;
        }
    }
    eprint!("{table}");
    outcome
}

#[expect(clippy::disallowed_methods, reason = "no test pauses the time of a build")]
fn timed(step: fn() -> Result<()>) -> (f64, Result<()>) {
    let start = std::time::Instant::now();
    let ran = step();
    (start.elapsed().as_secs_f64(), ran)
}

/// A cargo command at the root of the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root());
    command
}

/// Says the command, runs it without input, and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    let words = words.join(" ");
    eprintln!("xtask: {words}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("`{words}` did not start"))?;
    ensure!(status.success(), "`{words}`: {status}");
    Ok(())
}
