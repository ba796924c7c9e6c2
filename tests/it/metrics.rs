//! What a monitoring system reads: everything that must be there is, in the form it takes, with names and
//! labels from closed sets; and a line that is cut shows, with a reason, in metrics, health and log.

use crate::harness::{
    A, ARRIVES, B, World, batch, converged, free_port, get, metrics, until, value,
};
use domain::kernel::Role;
use std::collections::{BTreeMap, BTreeSet};

/// On every server.
const EVERYWHERE: [&str; 23] = [
    "wuling_build",
    "wuling_connection_refusals",
    "wuling_connection_live_connections",
    "wuling_handshake_pending_connections",
    "wuling_task_alive_count",
    "wuling_certificate_expiry_seconds",
    "wuling_process_resident_bytes",
    "wuling_disk_free_bytes",
    "wuling_health_check_state",
    "wuling_transaction_duration_seconds",
    "wuling_transaction_changed_rows",
    "wuling_transaction_jobs",
    "wuling_transaction_failures",
    "wuling_store_disk_full",
    "wuling_store_queued_jobs",
    "wuling_store_size_bytes",
    "wuling_pool_open_connections",
    "wuling_pool_idle_connections",
    "wuling_pool_wait_seconds",
    "wuling_directory_age_seconds",
    "wuling_trust_age_seconds",
    "wuling_link_up_links",
    "wuling_outbox_depth_entries",
];
/// On a region server besides.
const AT_A_REGION: [&str; 8] = [
    "wuling_request_duration_seconds",
    "wuling_outbox_oldest_age_seconds",
    "wuling_outbox_unstored_entries",
    "wuling_inbox_lag_entries",
    "wuling_inbox_parked_entries",
    "wuling_inbox_quarantined_views",
    "wuling_head_late_streams",
    "wuling_operation_answers",
];
/// At a gateway besides.
const AT_A_GATEWAY: [&str; 2] = ["wuling_outbox_oldest_age_seconds", "wuling_frame_refusals"];
/// Labels; the values of each are of a set that no caller can make larger.
const LABELS: [&str; 14] = [
    "check", "code", "file", "gateway", "kind", "le", "method", "name", "outcome", "owner", "peer",
    "reason", "region", "store",
];

#[tokio::test(flavor = "multi_thread")]
async fn all_that_must_be_measured_is_and_a_cut_line_shows_with_its_reason() {
    let mut world = World::start().await;
    let ports = world.observe("info", None).await;
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let (desk_a, desk_b) = (
        world.enrol(A, Role::DutyOfficer, "desk").await,
        world.enrol(B, Role::DutyOfficer, "desk").await,
    );
    let mut service = cli::client::device_service(phone.channel());
    let (request, _) = batch(&phone, 1, 20);
    service.push(request.clone()).await.unwrap();
    service.push(request).await.unwrap();
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    // Not gRPC: the handshake fails, and is counted.
    drop(tokio::net::TcpStream::connect(("127.0.0.1", world.a.port)).await.unwrap());

    let [a, b, gateway] =
        [metrics(ports.a).await, metrics(ports.b).await, metrics(ports.gateway).await];
    for (metrics, own) in
        [(&a, &AT_A_REGION[..]), (&b, &AT_A_REGION[..]), (&gateway, &AT_A_GATEWAY[..])]
    {
        let types = well_formed(metrics);
        let missing: Vec<_> =
            EVERYWHERE.iter().chain(own).filter(|name| !types.contains_key(**name)).collect();
        assert!(missing.is_empty(), "{missing:?} are missing in {types:?}");
    }
    let push = ["method=\"wuling.device.v1.DeviceService/Push\"", "code=\"OK\""];
    assert_eq!(value(&a, "wuling_request_duration_seconds_count", &push), Some(2.0));
    let answers = |outcome| {
        let labels = [&format!("region=\"{A}\"")[..], outcome];
        value(&a, "wuling_operation_answers_total", &labels)
    };
    assert_eq!(answers("outcome=\"applied\""), Some(20.0));
    assert_eq!(answers("outcome=\"duplicate\""), Some(20.0));
    let store = format!("store=\"{A}\"");
    let written = |name| value(&a, name, &[&store]).unwrap();
    assert!(written("wuling_transaction_duration_seconds_count") >= 1.0, "{a}");
    assert!(written("wuling_transaction_changed_rows_total") >= 40.0, "{a}");
    let certificate = value(&a, "wuling_certificate_expiry_seconds", &["owner=\"server\""]);
    assert!(certificate.unwrap() > 6.0 * 86_400.0, "{certificate:?}");
    assert!(value(&gateway, "wuling_link_up_links", &[&format!("peer=\"{A}\"")]) >= Some(3.0));

    let peer = format!("peer=\"{B}\"");
    let of_a = format!("region=\"{A}\"");
    let depth = async || {
        let metrics = metrics(ports.a).await;
        let at = |name| value(&metrics, name, &[&of_a, "gateway=\"gateway-1\""]).unwrap();
        let to_b = value(&metrics, "wuling_outbox_depth_entries", &[&of_a, &peer]).unwrap();
        (to_b, at("wuling_outbox_unstored_entries"), at("wuling_link_up_links"))
    };
    until("all is receipted", ARRIVES, async || depth().await == (0.0, 0.0, 3.0)).await;
    world.line.cut();
    service.push(batch(&phone, 21, 5).0).await.unwrap();
    until("the cut line shows", ARRIVES, async || depth().await == (5.0, 5.0, 0.0)).await;
    // A link is one call, which counts when it has ended.
    let link = ["method=\"wuling.exchange.v1.ExchangeService/Link\""];
    let calls = metrics(ports.gateway).await;
    assert!(value(&calls, "wuling_request_duration_seconds_count", &link) >= Some(3.0), "{calls}");
    let (code, body) = get(ports.a, "/readyz").await;
    assert_eq!(code, 200, "phones are served all the same: {body}");
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    let checks = health["checks"].as_array().unwrap();
    let links = checks.iter().find(|check| check["name"] == "links" && check["region"] == A);
    let links = links.unwrap();
    assert_eq!((&links["state"], &links["reason"]), (&"warn".into(), &"0 of 3 are up".into()));
    assert!(links["advice"].as_str().unwrap().contains("network"), "{links}");
    let logged = |what| world.a.log_text().lines().any(|line| line.contains(what));
    assert!(logged("degraded check=\"links\""), "{}", world.a.log_text());
    world.line.heal();
    until("all is receipted again", ARRIVES, async || depth().await == (0.0, 0.0, 3.0)).await;
    assert!(logged("healthy again check=\"links\""), "{}", world.a.log_text());
    assert_eq!(get(ports.gateway, "/healthz").await, (200, "ok\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_metrics_port_is_taken_serves_all_the_same() {
    let mut world = World::start().await;
    let config = world.path("b.toml");
    world.b.kill();
    let taken = tokio::net::TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let on = format!("metrics_listen = \"{}\"\n", taken.local_addr().unwrap());
    std::fs::write(&config, text.replace("metrics_listen = \"off\"\n", &on)).unwrap();
    world.b.restart().await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    assert!(crate::harness::states(desk.channel()).await.is_some());
    let log = world.b.log_text();
    assert!(log.contains("metrics and health are not served"), "{log}");
}

/// Checks the text form; gives the type of each family.
fn well_formed(metrics: &str) -> BTreeMap<String, String> {
    let mut types = BTreeMap::new();
    let mut faults = Vec::new();
    let mut lines = metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# ") {
            match rest.split(' ').collect::<Vec<_>>()[..] {
                ["EOF"] => assert!(lines.peek().is_none(), "something follows the end"),
                ["TYPE", name, kind]
                    if types.insert(name.to_owned(), kind.to_owned()).is_some() =>
                {
                    faults.push(format!("{name} is there twice"));
                }
                _ => {}
            }
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap();
        if value.parse::<f64>().is_err() {
            faults.push(format!("no number: {line}"));
        }
        let (name, labels) = key.split_once('{').unwrap_or((key, ""));
        let family = ["_total", "_count", "_sum", "_bucket", "_info", ""].iter();
        let family = family.filter_map(|suffix| name.strip_suffix(suffix));
        if !name.starts_with("wuling_") || !family.into_iter().any(|of| types.contains_key(of)) {
            faults.push(format!("of no family: {line}"));
        }
        let known: BTreeSet<&str> = LABELS.into_iter().chain(["version"]).collect();
        for label in labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)) {
            if !known.contains(label) {
                faults.push(format!("label {label}: {line}"));
            }
        }
    }
    assert!(metrics.ends_with("# EOF\n"), "the end is missing");
    assert!(faults.is_empty(), "{faults:#?}");
    types
}
