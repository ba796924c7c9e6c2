//! The sample configurations are those that the programs read.

use std::path::{Path, PathBuf};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples").join(name)
}

#[test]
fn the_sample_configurations_parse() {
    region::config::Config::load(&sample("region.toml")).unwrap();
    gateway::Config::load(&sample("gateway.toml")).unwrap();
}
