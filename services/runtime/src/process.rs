//! A process from its command line to its exit code; the same for every program.

use crate::clock::{SystemClock, SystemEntropy};
use crate::config::{ConfigError, EXIT_CODE};
use crate::tasks::{Shutdown, wait_for_signals};
use crate::telemetry::{self, ErrorChain, Otlp, Traces};
use clap::{CommandFactory as _, FromArgMatches, Parser, Subcommand};
use domain::kernel::{Clock, Entropy};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// A fifth of a busy server's time went into the system's allocator; this one takes a third of that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What sets one server apart from another.
#[derive(Clone, Copy, Debug)]
pub struct Program<C> {
    /// Its name.
    pub name: &'static str,
    /// What it is, for `--help`.
    pub about: &'static str,
    /// Reads its configuration.
    pub load: fn(&Path) -> Result<C, ConfigError>,
    /// How it logs.
    pub log: fn(&C) -> &telemetry::Config,
    /// Where its traces go.
    pub otlp: fn(&C) -> Option<&Otlp>,
}

#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reads the configuration, tells every mistake, starts nothing.
    CheckConfig,
}

/// Reads the flags of a command.
///
/// # Errors
/// With the code to exit with, once help was shown or what is wrong was told in one line.
pub fn flags<F: FromArgMatches>(command: clap::Command) -> Result<F, ExitCode> {
    let read = command.try_get_matches().and_then(|matches| F::from_arg_matches(&matches));
    read.map_err(|error| {
        if error.use_stderr() {
            return refused(error.to_string().lines().next().unwrap_or_default());
        }
        // Help for somebody who is gone is no failure.
        drop(error.print());
        ExitCode::SUCCESS
    })
}

/// Starts logs, without traces.
///
/// # Errors
/// With the code to exit with, once what is wrong was told.
pub fn logs(config: &telemetry::Config) -> Result<(), ExitCode> {
    telemetry::init(config, "wuling", None).map(Traces::flush).map_err(|error| told(&error))
}

fn told(error: &telemetry::TelemetryError) -> ExitCode {
    refused(&ErrorChain(error).to_string())
}

/// Runs a server from its flags to its end. `serve` binds and serves until the shutdown: the first signal
/// stops softly, the second at once. Logs go to standard error unbuffered; traces are flushed at the end.
pub fn server<C, E: Error + 'static>(
    program: Program<C>,
    serve: impl AsyncFnOnce(C, Arc<dyn Clock>, Arc<dyn Entropy>, Shutdown) -> Result<(), E>,
) -> ExitCode {
    // Huge pages would round every thread's heap up to 2 MiB; a township's machine is small.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tell(&format!("{}: huge pages stay on: {error}", program.name));
    }
    let command = Flags::command().name(program.name).about(program.about);
    start(program, command, serve).unwrap_or_else(|code| code)
}

fn start<C, E: Error + 'static>(
    program: Program<C>,
    command: clap::Command,
    serve: impl AsyncFnOnce(C, Arc<dyn Clock>, Arc<dyn Entropy>, Shutdown) -> Result<(), E>,
) -> Result<ExitCode, ExitCode> {
    let flags: Flags = flags(command)?;
    let config = (program.load)(&flags.config).map_err(|error| refused(&error.to_string()))?;
    if let Some(Command::CheckConfig) = flags.command {
        return Ok(ExitCode::SUCCESS);
    }
    let failed = |error: &(dyn Error + 'static)| {
        tell(&format!("{}: {}", program.name, ErrorChain(error)));
        ExitCode::FAILURE
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| failed(&error))?;
    let entered = runtime.enter();
    let (log, otlp) = ((program.log)(&config), (program.otlp)(&config));
    let traces = telemetry::init(log, program.name, otlp).map_err(|error| told(&error))?;
    drop(entered);
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::new();
        let signals = shutdown.clone();
        tokio::select! {
            // Signals are watched before anything is opened that a stop must close in order.
            biased;
            Err(error) = wait_for_signals(&signals) => Err(failed(&error)),
            served = serve(config, Arc::new(SystemClock), Arc::new(SystemEntropy), shutdown) => {
                served.map_err(|error| failed(&error))
            }
        }
    });
    // Last, and outside of the runtime that still carries them: spans of the stop itself go out too.
    traces.flush();
    ended.map(|()| ExitCode::SUCCESS)
}

fn refused(what: &str) -> ExitCode {
    tell(what);
    ExitCode::from(EXIT_CODE)
}

#[expect(clippy::print_stderr, reason = "a program talks to whoever started it")]
fn tell(what: &str) {
    eprintln!("{what}");
}
