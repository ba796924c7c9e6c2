//! What goes wrong at start is told in one clear line, with an exit code that a script can use.

use crate::harness::{
    A, World, binary, free_port, gateway_config, region_config, set_up, wait_until,
};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn run(name: &str, args: &[&str]) -> Output {
    Command::new(binary(name)).args(args).output().unwrap()
}

/// Runs a server that must not start; gives exit code and what it said.
fn refused(name: &str, config: &Path) -> (i32, String) {
    let output = run(name, &["--config", config.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said.trim_end().to_owned())
}

#[test]
fn a_bad_flag_is_one_line_and_exit_code_64() {
    for name in ["wuling", "wuling-region", "wuling-gateway"] {
        let output = run(name, &["--no-such-flag"]);
        assert_eq!(output.status.code(), Some(64), "{name}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
        assert!(said.contains("--no-such-flag"), "{name}: {said}");
    }
    let output = run("wuling", &["demo", "--no-such-flag"]);
    assert_eq!(output.status.code(), Some(64));
}

#[tokio::test]
async fn a_configuration_with_two_mistakes_tells_both_and_exits_64() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("region.toml");
    std::fs::write(
        &config,
        "data = \"x\"\nlisten = \"nowhere\"\n[[regions]]\nid = \"Not A Slug\"\n",
    )
    .unwrap();
    let (code, said) = refused("wuling-region", &config);
    assert_eq!(code, 64);
    assert_eq!(said.lines().count(), 2, "{said}");
    let config = dir.path().join("gateway.toml");
    std::fs::write(&config, "gateway_id = \"A B\"\ndata = \"x\"\nlisten = \"nowhere\"\n").unwrap();
    let (code, said) = refused("wuling-gateway", &config);
    assert_eq!((code, said.lines().count()), (64, 2), "{said}");
}

#[tokio::test]
async fn a_taken_port_a_folder_in_use_and_a_newer_folder_are_one_line_each() {
    let world = World::start().await;
    for (name, folder) in [("wuling-region", "b"), ("wuling-gateway", "gateway")] {
        let config = world.path(&format!("{folder}.toml"));
        let (code, said) = refused(name, &config);
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains(folder), "it does not name the folder: {said}");
    }
    let dir = tempfile::tempdir().unwrap();
    set_up(dir.path()).await;
    let region = region_config(dir.path(), "a", A, world.a.port, world.gateway.port);
    let gateway = gateway_config(dir.path(), world.gateway.port);
    for (name, config, port) in
        [("wuling-region", &region, world.a.port), ("wuling-gateway", &gateway, world.gateway.port)]
    {
        let (code, said) = refused(name, config);
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains(&port.to_string()), "it does not name the port: {said}");
    }
    for (name, config, folder, format) in [
        ("wuling-region", &region, "a", "wuling-region 99"),
        ("wuling-gateway", &gateway, "gateway", "wuling-gateway 99"),
    ] {
        std::fs::write(dir.path().join(folder).join("format"), format).unwrap();
        let (code, said) = refused(name, config);
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains("99"), "it does not name the version: {said}");
    }
}

#[tokio::test]
async fn a_wrong_certificate_is_one_line_at_start_and_named_when_a_link_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    set_up(dir.path()).await;
    set_up(other.path()).await;
    // A region whose authority the directory does not list.
    let of = |root: &Path, file: &str| root.join("a/regions").join(A).join(file);
    for file in ["authority.crt", "authority.key"] {
        std::fs::copy(of(other.path(), file), of(dir.path(), file)).unwrap();
    }
    let config = region_config(dir.path(), "a", A, free_port(), 1);
    let (code, said) = refused("wuling-region", &config);
    assert_eq!((code, said.lines().count()), (1, 1), "{said}");
    assert!(said.contains(A) && said.contains("directory"), "{said}");
    // A gateway that is another linkage's: the link is refused, and the log says so.
    let gateway_port = free_port();
    let gateway = gateway_config(other.path(), gateway_port);
    let log = other.path().join("gateway.log");
    let _gateway = crate::harness::Process::start("wuling-gateway", &gateway, gateway_port, &log);
    let port = free_port();
    let config = region_config(dir.path(), "b", crate::harness::B, port, gateway_port);
    let log = dir.path().join("b.log");
    let region = crate::harness::Process::start("wuling-region", &config, port, &log);
    let told = wait_until(Duration::from_secs(10), || region.log_text().contains("link lost"));
    assert!(told, "{}", region.log_text());
}
