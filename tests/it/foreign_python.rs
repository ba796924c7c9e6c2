//! A client that is not ours: Python and grpcio, written from the proto files alone, against real servers.

use crate::fault_disk::Mount;
use crate::harness::{A, B, Python, World, region};
use cli::linkage;
use domain::kernel::{Clock as _, Role};
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

/// Exit codes of the program.
const REFUSED: i32 = 1;
const PIN_MISMATCH: i32 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_from_the_proto_files_alone_works_offline_and_with_signal() {
    let mut world = World::start().await;
    let python = Python::new(&world, "foreign/python/journey.py");
    let phone = world.path("foreign");
    let phone = phone.to_str().unwrap();
    let code = code(&world, A, Role::ShiftLead);

    // One digit of the pin is another: the client hangs up, and the code is not used up.
    let (exit, told) = python.run(&["enrol", phone, &with_another_pin(&code)]);
    assert_eq!(exit, PIN_MISMATCH, "{told}");
    assert!(told["error"].as_str().unwrap().contains("shows no certificate"), "{told}");
    assert!(!Path::new(phone).exists());
    let told = python.done(&["enrol", phone, &code]);
    assert_eq!((&told["region"], &told["role"]), (&json!(A), &json!("ROLE_SHIFT_LEAD")));
    let (exit, told) = python.run(&["enrol", &format!("{phone}-2"), &code]);
    assert_eq!((exit, reason(&told)), (REFUSED, "ENROLMENT_CODE_INVALID"));

    world.a.kill();
    let told = python.done(&["offline", phone]);
    assert_eq!((&told["refusal"]["code"], &told["waiting"]), (&json!("UNAVAILABLE"), &json!(5)));
    assert_eq!(reason(&told), "", "nobody was there to give a reason");
    world.a.restart().await;

    // One bit of the signature is another: nothing of the batch is taken.
    let (exit, told) = python.run(&["work", phone, "--tamper", "signature"]);
    assert_eq!((exit, reason(&told)), (REFUSED, "SIGNATURE_INVALID"), "{told}");
    assert_eq!(told["refusal"]["code"], "UNAUTHENTICATED");

    let told = python.done(&["work", phone]);
    assert_pushed(&told);
    assert_read(&told);
    assert_refused(&told["refusals"]);

    let desk = world.path("foreign-desk");
    let desk = desk.to_str().unwrap();
    python.done(&["enrol", desk, &self::code(&world, B, Role::DutyOfficer)]);
    // Three patrols and three events; shifts and what names a person stay at home.
    let views = python.done(&["neighbour", desk, "6"]);
    let of_kind = |kind| views.as_object().unwrap().values().filter(move |v| v["kind"] == kind);
    assert_eq!((of_kind("KIND_PATROL").count(), of_kind("KIND_EVENT").count()), (3, 3), "{views}");
    assert!(of_kind("KIND_EVENT").all(|view| view["unverified"] == true && view["from"] == A));
    assert!(of_kind("KIND_PATROL").all(|v| v["withheld"] == json!(["mandate", "leader_ref"])));
    assert_eq!(views[told["sync"]["sent"].as_str().unwrap()]["kind"], "KIND_EVENT");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_waits_as_long_as_a_full_server_says() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Mount::make(dir.path().join("a")) else {
        println!("skipped: cannot mount");
        return;
    };
    // The mount goes first, before the folder that it lies in is deleted.
    let (world, small) = (World::start_in(dir).await, small);
    let python = Python::new(&world, "foreign/python/journey.py");
    let phone = world.path("foreign");
    let phone = phone.to_str().unwrap();
    python.done(&["enrol", phone, &code(&world, A, Role::Patroller)]);
    small.fill();
    let mut child = python.command(&["persist", phone]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let refused = next();
    small.empty();
    assert_eq!(
        (&refused["code"], &refused["reason"]),
        (&json!("UNAVAILABLE"), &json!("STORAGE_UNAVAILABLE"))
    );
    assert!(refused["retry_after_s"].as_f64().unwrap() > 0.0, "{refused}");
    let told = loop {
        let told = next();
        if told.get("outcomes").is_some() {
            break told;
        }
    };
    assert_eq!(told["outcomes"], json!(["OUTCOME_APPLIED"]), "{told}");
    assert!(child.wait().unwrap().success());
}

/// What was pushed: once, again, out of order, on an old revision.
fn assert_pushed(told: &Value) {
    let backlog = &told["backlog"];
    let rejected = "REJECTED";
    assert_eq!(outcomes(&backlog["first"]), ["APPLIED", "APPLIED", "APPLIED", "APPLIED", rejected]);
    let again = ["DUPLICATE", "DUPLICATE", "DUPLICATE", "DUPLICATE", rejected];
    assert_eq!(outcomes(&backlog["again"]), again);
    let named = &backlog["first"][4];
    assert_eq!(named["reason"], "TEXT_NAMES_PERSON");
    let violation = named["violations"]["report_event.text"].as_str().unwrap();
    assert!(violation.contains("mobile number"), "{violation}");
    let order = &told["out_of_order"];
    assert_eq!(outcomes(&order["child"]), ["HELD", "HELD"]);
    assert_eq!(order["waiting"], 2);
    assert_eq!(outcomes(&order["both"]), ["HELD", "HELD", "APPLIED"]);
    assert_eq!(outcomes(&order["asked"]), ["DUPLICATE", "DUPLICATE"]);
    assert_eq!(outcomes(&told["conflict"]), ["CONFLICT", "APPLIED"]);
    let stale = &told["conflict"][0];
    assert_eq!((&stale["reason"], &stale["revision"]), (&json!("REVISION_STALE"), &json!(2)));
    assert_eq!(told["conflict"][1]["revision"], 3);
    assert_eq!(told["waiting"], 0);
}

/// What was read: by page, by watch, by stream.
fn assert_read(told: &Value) {
    let pull = &told["pull"];
    // Three shifts, three patrols, an event.
    assert_eq!((pull["records"].as_array().unwrap().len(), &pull["after"]), (7, &json!(0)));
    assert_eq!(
        (&pull["text"], &pull["datum"]),
        (&json!("桥头落石，路半幅不通"), &json!("DATUM_WGS84"))
    );
    assert!((108.755..108.761).contains(&pull["lon"].as_f64().unwrap()), "{pull}");
    assert!((7_200..7_300).contains(&pull["age_s"].as_i64().unwrap()), "{pull}");
    for way in ["watch", "sync"] {
        assert_eq!(told[way]["seen"], told[way]["sent"], "{told}");
    }
    assert_eq!(outcomes(&told["sync"]["answer"]), ["APPLIED"]);
}

/// What was refused, in the words of the contract and of people.
fn assert_refused(refusals: &Value) {
    for (call, code, reason, field) in [
        ("no_purpose", "INVALID_ARGUMENT", "PURPOSE_REQUIRED", None),
        ("page_size", "INVALID_ARGUMENT", "FIELD_INVALID", Some("page_size")),
        ("other_epoch", "ABORTED", "EPOCH_CHANGED", None),
        ("no_batch", "INVALID_ARGUMENT", "FIELD_INVALID", Some("signed_batch")),
        (
            "no_operations",
            "INVALID_ARGUMENT",
            "FIELD_INVALID",
            Some("signed_batch.batch.operations"),
        ),
        ("too_large", "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED", None),
        ("stranger", "UNAUTHENTICATED", "DEVICE_UNKNOWN", None),
        ("role", "PERMISSION_DENIED", "ROLE_FORBIDDEN", None),
        ("code", "INVALID_ARGUMENT", "FIELD_INVALID", Some("code")),
        ("no_certificate", "UNAUTHENTICATED", "CERTIFICATE_REQUIRED", None),
    ] {
        let refusal = &refusals[call];
        assert_eq!(
            (&refusal["code"], &refusal["reason"]),
            (&json!(code), &json!(reason)),
            "{call}"
        );
        assert_eq!((&refusal["domain"], &refusal["locale"]), (&json!("wuling"), &json!("zh-CN")));
        assert!(refusal["message"].as_str().unwrap().contains(" / "), "{refusal}");
        let violations = refusal["violations"].as_object().unwrap();
        assert_eq!(violations.keys().next().map(String::as_str), field, "{call}");
        // None of them goes away by waiting.
        assert_eq!(refusal["retry_after_s"], Value::Null, "{call}");
    }
    assert_eq!(refusals.as_object().unwrap().len(), 10);
}

fn outcomes(results: &Value) -> Vec<&str> {
    results.as_array().unwrap().iter().map(|result| result["outcome"].as_str().unwrap()).collect()
}

fn reason(told: &Value) -> &str {
    told["refusal"]["reason"].as_str().unwrap()
}

/// The text that an officer's screen would show.
fn code(world: &World, id: &str, role: Role) -> String {
    let (data, port) = if id == B { ("b", world.b.port) } else { ("a", world.a.port) };
    let (data, endpoint, now) = (world.path(data), format!("127.0.0.1:{port}"), SystemClock.now());
    let code =
        linkage::issue_code(&data, &region(id), role, "unit-1", &endpoint, now, &SystemEntropy);
    code.unwrap().to_string()
}

fn with_another_pin(code: &str) -> String {
    let (before, after) = code.split_once("ca=").unwrap();
    let other = if after.starts_with('0') { '1' } else { '0' };
    format!("{before}ca={other}{}", &after[1..])
}
