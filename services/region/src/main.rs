//! `wuling-region`: one region server.

use region::config::Config;
use region::server::Server;
use runtime::process::{self, Program};
use std::process::ExitCode;

fn main() -> ExitCode {
    let program = Program {
        name: "wuling-region",
        about: "A region server of the Wuling linkage (武陵联动 区域服务器)",
        load: Config::load,
        log: |config: &Config| &config.log,
        otlp: |config| config.otlp.as_ref(),
    };
    process::server(program, async |config, clock, entropy, shutdown| {
        Server::bind(config, clock, entropy).await?.serve(shutdown).await
    })
}
