//! `wuling`: sets a linkage up, plays a phone, shows the demo.

mod args;

use clap::CommandFactory as _;
use runtime::process;
use std::process::ExitCode;

fn main() -> ExitCode {
    start().unwrap_or_else(|code| code)
}

#[expect(clippy::print_stderr, reason = "a command talks to whoever typed it")]
fn start() -> Result<ExitCode, ExitCode> {
    let flags: args::Flags = process::flags(args::Flags::command())?;
    process::logs(&flags.log())?;
    match args::run(flags) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Err(ExitCode::FAILURE),
        Err(error) => {
            eprintln!("wuling: {error:#}");
            Err(ExitCode::FAILURE)
        }
    }
}
