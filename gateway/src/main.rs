//! `wuling-gateway`: one gateway.

use gateway::{Config, Gateway};
use runtime::process::{self, Program};
use std::process::ExitCode;

fn main() -> ExitCode {
    let program = Program {
        name: "wuling-gateway",
        about: "A gateway of the Wuling linkage (武陵联动 网关)",
        load: Config::load,
        log: |config: &Config| &config.log,
        otlp: |config| config.otlp.as_ref(),
    };
    // The order in which it stops stands in `Gateway::serve`.
    process::server(program, async |config, clock, entropy, shutdown| {
        Gateway::bind(config, clock, entropy).await?.serve(shutdown).await
    })
}
