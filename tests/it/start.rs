//! What goes wrong at start is told in one clear line, with an exit code that a script can use.

use crate::harness::{A, ARRIVES, B, Process, World, binary, free_port, gateway_config};
use crate::harness::{region_config, set_up, states, until};
use domain::kernel::Role;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Exit codes: wrong flags or configuration, and everything else.
const USAGE: i32 = 64;
const FAILURE: i32 = 1;
/// Longest time a program may take to refuse; it takes milliseconds.
const REFUSES: Duration = Duration::from_secs(20);

/// Runs a program that must not start; gives what it said, a line a mistake.
async fn refused(name: &str, args: &[&str], exit_code: i32) -> Vec<String> {
    let mut command = Command::new(binary(name));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut status = None;
    until("the program refuses", REFUSES, async || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.unwrap().code(), Some(exit_code), "{name} said: {said}");
    said.lines().map(str::to_owned).collect()
}

/// Runs a server that must not start; it says one line, with these words in it.
async fn refused_for(name: &str, config: &Path, exit_code: i32, words: &[&str]) {
    let said = refused(name, &["--config", config.to_str().unwrap()], exit_code).await;
    assert_eq!(said.len(), 1, "{name} said: {said:#?}");
    for word in words {
        assert!(said[0].contains(word), "{name} does not say `{word}`: {said:#?}");
    }
}

#[tokio::test]
async fn a_bad_flag_is_one_line_and_exit_code_64() {
    let flag = "--no-such-flag";
    let all: [(&str, &[&str]); 4] = [
        ("wuling-region", &[flag]),
        ("wuling-gateway", &[flag]),
        ("wuling", &[flag]),
        ("wuling", &["demo", flag]),
    ];
    for (name, args) in all {
        let said = refused(name, args, USAGE).await;
        assert_eq!(said.len(), 1, "{name} said: {said:#?}");
        assert!(said[0].contains(flag), "{name} said: {said:#?}");
    }
}

#[tokio::test]
async fn every_mistake_of_a_configuration_is_told_with_its_line_and_exit_code_64() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.toml");
    let region = "data = \"x\"\nlisten = \"nowhere\"\n[[regions]]\nid = \"Not A Slug\"\n\
                  gateways = [{ id = \"gw\" }, { id = \"A B\" }, { id = \"gw\" }]\n\
                  [[regions]]\nid = \"a\"\ngateways = []\n";
    let gateway = "gateway_id = \"A B\"\ndata = \"x\"\nlisten = \"nowhere\"\n";
    let in_region = [
        (2, "listen"),
        (4, "regions.0.id"),
        (5, "regions.0.gateways.1.id"),
        (5, "regions.0.gateways.2.id"),
        (8, "regions.1.gateways"),
    ];
    let in_gateway = [(1, "gateway_id"), (3, "listen")];
    for (name, text, mistakes) in
        [("wuling-region", region, &in_region[..]), ("wuling-gateway", gateway, &in_gateway[..])]
    {
        fs::write(&config, text).unwrap();
        let said = refused(name, &["--config", config.to_str().unwrap()], USAGE).await;
        assert_eq!(said.len(), mistakes.len(), "{name} said: {said:#?}");
        for (line, key) in mistakes {
            let place = format!("{}:{line}: {key}", config.display());
            let told = said.iter().any(|told| told.starts_with(&place));
            assert!(told, "{name} does not say `{place}`: {said:#?}");
        }
        fs::write(&config, "data = \n").unwrap();
        refused_for(name, &config, USAGE, &["server.toml:1:"]).await;
        refused_for(name, &dir.path().join("none.toml"), USAGE, &["none.toml"]).await;
    }
}

#[tokio::test]
async fn a_folder_in_use_and_a_taken_port_are_one_line_each() {
    let world = World::start().await;
    for (name, data) in [("wuling-region", "b"), ("wuling-gateway", "gateway")] {
        let (config, path) = (world.path(&format!("{data}.toml")), world.path(data));
        let words = [path.to_str().unwrap(), "in use by another process"];
        refused_for(name, &config, FAILURE, &words).await;
    }
    let dir = tempfile::tempdir().unwrap();
    set_up(dir.path()).await;
    let (port, gateway_port) = (world.a.port, world.gateway.port);
    let config = region_config(dir.path(), "a", port, gateway_port);
    refused_for("wuling-region", &config, FAILURE, &["taken", &port.to_string()]).await;
    let config = gateway_config(dir.path(), gateway_port);
    refused_for("wuling-gateway", &config, FAILURE, &["taken", &gateway_port.to_string()]).await;
}

#[tokio::test]
async fn a_folder_of_another_version_or_kind_is_one_line_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    set_up(dir.path()).await;
    let region = region_config(dir.path(), "a", free_port(), free_port());
    let gateway = gateway_config(dir.path(), free_port());
    for (name, config, data) in
        [("wuling-region", &region, "a"), ("wuling-gateway", &gateway, "gateway")]
    {
        let path = dir.path().join(data);
        let path = path.to_str().unwrap();
        let format = dir.path().join(data).join("format");
        for (text, word) in
            [(format!("{name} 99\n"), "newer version"), (format!("{name} 0\n"), "older version")]
        {
            fs::write(&format, &text).unwrap();
            refused_for(name, config, FAILURE, &[path, word]).await;
            assert_eq!(fs::read_to_string(&format).unwrap(), text);
        }
        fs::write(&format, "wuling-teapot 1\n").unwrap();
        refused_for(name, config, FAILURE, &[path, "unknown kind", "wuling-teapot"]).await;
        fs::remove_file(&format).unwrap();
        refused_for(name, config, FAILURE, &[path, "no data folder"]).await;
        assert!(!format.exists());
    }
}

#[tokio::test]
async fn keys_that_the_directory_does_not_list_are_one_line() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    set_up(dir.path()).await;
    set_up(other.path()).await;
    let of = |root: &Path, file: &str| root.join(file);
    let region = Path::new("a/regions").join(A);
    for keys in [region.as_path(), Path::new("gateway/gateway")] {
        for file in ["authority.crt", "authority.key"] {
            let file = keys.join(file);
            let file = file.to_str().unwrap();
            fs::copy(of(other.path(), file), of(dir.path(), file)).unwrap();
        }
    }
    let config = region_config(dir.path(), "a", free_port(), free_port());
    refused_for("wuling-region", &config, FAILURE, &[A, "not in the directory"]).await;
    let config = gateway_config(dir.path(), free_port());
    refused_for("wuling-gateway", &config, FAILURE, &["gateway-1", "not in the directory"]).await;
}

#[tokio::test]
async fn a_region_of_whose_gateways_the_directory_lists_none_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    set_up(dir.path()).await;
    let config = region_config(dir.path(), "b", free_port(), free_port());
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("gateway-1", "gateway-9")).unwrap();
    refused_for("wuling-region", &config, FAILURE, &["names no gateway", B]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_anothers_certificate_gets_no_link_and_is_told_in_log_and_status() {
    let mut world = World::start().await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    let other = tempfile::tempdir().unwrap();
    set_up(other.path()).await;
    // Another linkage's gateway of the same name, where the region looks for its own.
    world.gateway.kill();
    let port = world.gateway.port;
    let config = gateway_config(other.path(), port);
    let log = other.path().join("gateway.log");
    let _impostor = Process::start("wuling-gateway", &config, port, &log).await;
    until("the status names the certificate", ARRIVES, async || {
        let state = states(desk.channel()).await.unwrap();
        !state.link_up && state.link_error.contains("certificate")
    })
    .await;
    let log = world.b.log_text();
    let told = log.lines().find(|line| line.contains("link lost") && line.contains("certificate"));
    assert!(told.is_some(), "{log}");
}
