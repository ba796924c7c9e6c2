//! `wuling`: sets a linkage up, plays a phone, shows the demo.

mod args;

use clap::Parser as _;
use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a command talks to whoever typed it")]
fn main() -> ExitCode {
    let flags = match args::Flags::try_parse() {
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
    if let Err(error) = runtime::telemetry::init(&flags.log()) {
        eprintln!("wuling: {}", runtime::ErrorChain(&error));
        return ExitCode::from(runtime::config::EXIT_CODE);
    }
    match args::run(flags) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("wuling: {error:#}");
            ExitCode::FAILURE
        }
    }
}
