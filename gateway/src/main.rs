//! `wuling-gateway`: one gateway.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use gateway::Config;
use gateway::Gateway;
use runtime::{ErrorChain, Shutdown};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// A gateway of the Wuling linkage (武陵联动 网关).
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

#[expect(clippy::print_stderr, reason = "before logs are started")]
fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) if error.use_stderr() => {
            eprintln!("{}", error.to_string().lines().next().unwrap_or_default());
            return ExitCode::from(runtime::config::EXIT_CODE);
        }
        Err(error) => {
            drop(error.print());
            return ExitCode::SUCCESS;
        }
    };
    let config = match Config::load(&flags.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(runtime::config::EXIT_CODE);
        }
    };
    if let Some(Command::CheckConfig) = flags.command {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = runtime::telemetry::init(&config.log) {
        eprintln!("{}", ErrorChain(&error));
        return ExitCode::from(runtime::config::EXIT_CODE);
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wuling-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    let clock = Arc::new(runtime::clock::SystemClock);
    let entropy = Arc::new(runtime::clock::SystemEntropy);
    let server = Gateway::bind(config, clock, entropy).await?;
    let signals = shutdown.clone();
    // The first signal stops softly, in this order (see `Gateway::serve`); the second at once:
    // readiness off, stop accepting, links told, background loops, drain, store closed.
    // Logs go to standard error unbuffered, so there is nothing left to flush.
    let serve = server.serve(shutdown);
    tokio::select! {
        served = serve => Ok(served?),
        failed = runtime::tasks::wait_for_signals(&signals) => {
            let error = failed.err().context("signals cannot fail otherwise")?;
            Err(error).context("signals cannot be heard")
        }
    }
}
