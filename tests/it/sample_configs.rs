//! The sample configurations are those that the programs read, with the defaults that they have.

use std::path::{Path, PathBuf};

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples")
}

#[test]
fn every_sample_configuration_is_read_without_a_mistake() {
    let mut found = 0;
    for entry in std::fs::read_dir(samples()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        match name.split('-').next() {
            Some("region") => drop(region::config::Config::load(&path).unwrap()),
            Some("agreement") => drop(cli::terms::read(&path).unwrap()),
            Some("gateway") => drop(gateway::Config::load(&path).unwrap()),
            _ => panic!("no program reads {}", path.display()),
        }
        found += 1;
    }
    assert!(found >= 2, "there are {found} samples");
}

#[test]
fn what_a_sample_says_is_the_default_is_the_default() {
    let said = region::config::Config::load(&samples().join("region.toml")).unwrap();
    let default = region::config::Config::new(said.data, said.listen, said.regions);
    assert_eq!(said.listen.port(), 7_443);
    assert_eq!(said.names, default.names);
    assert_eq!(said.shutdown_grace_s, default.shutdown_grace_s);
    assert_eq!(said.exchange, default.exchange);
    assert_eq!((said.log, said.limits), (default.log, default.limits));
    assert_eq!(said.console_limits, default.console_limits);
    let said = gateway::Config::load(&samples().join("gateway.toml")).unwrap();
    let default = gateway::Config::new(said.gateway_id, said.data, said.listen);
    assert_eq!(said.listen.port(), 7_444);
    assert_eq!(said.names, default.names);
    assert_eq!(said.shutdown_grace_s, default.shutdown_grace_s);
    assert_eq!((said.log, said.limits), (default.log, default.limits));
}
