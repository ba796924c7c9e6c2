//! The gateway is blind: a canary in every payload is found nowhere in its files, logs and memory, where
//! the name of the region is found; and it is found in the neighbour's store.

use crate::harness::{A, B, World, event, pull_all};
use device::Draft;
use domain::kernel::{Clock as _, Entropy as _, Role};
use domain::operation::Change;
use domain::patrol::{SosAlert, SosState, SosTrigger};
use runtime::clock::{SystemClock, SystemEntropy};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

const RECORDS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_in_every_payload_is_nowhere_at_the_gateway() {
    let world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    let mut random = [0; 8];
    SystemEntropy.fill(&mut random);
    let canary =
        format!("canary{}", cli::linkage::hex(&random).replace(|c: char| c.is_ascii_digit(), "x"));
    for index in 0..RECORDS {
        let now = SystemClock.now();
        let change = if index % 20 == 0 {
            Change::RaiseSos(SosAlert {
                point: None,
                last_known: None,
                trigger: SosTrigger::Button,
                state: SosState::Raised,
                acknowledged_at: None,
                acknowledge_unit: String::new(),
                patrol_id: None,
                remark: canary.clone(),
            })
        } else {
            let mut reported = event(&canary);
            reported.place.clone_from(&canary);
            Change::ReportEvent(reported)
        };
        phone.device.record(Draft::making(change, now)).unwrap();
    }
    phone.push().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while pull_all(desk.channel()).await.len() < RECORDS {
        assert!(tokio::time::Instant::now() < deadline, "not all came");
    }

    let slug = A.as_bytes();
    let canary = canary.as_bytes();
    let memory = memory(world.gateway.pid());
    assert!(count(&memory, slug) > 0, "the search does not see the gateway's memory");
    assert_eq!(count(&memory, canary), 0, "the gateway's memory holds a payload");
    let files = files(&world.path("gateway"));
    assert!(count(&files, slug) > 0, "the search does not see the gateway's files");
    assert_eq!(count(&files, canary), 0, "the gateway's files hold a payload");
    for process in [&world.gateway, &world.a, &world.b] {
        assert_eq!(count(process.log_text().as_bytes(), canary), 0, "a log holds a payload");
    }
    let store = self::files(&world.path("b"));
    assert!(count(&store, canary) >= RECORDS, "the neighbour's store lacks payloads");
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    let Some(first) = needle.first() else { return 0 };
    let mut rest = haystack;
    let mut found = 0;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        found += usize::from(rest[at..].starts_with(needle));
        rest = &rest[at + 1..];
    }
    found
}

/// Every byte of every file below a folder.
fn files(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(files(&path));
        } else {
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
    bytes
}

/// Every readable byte of a process.
fn memory(pid: i32) -> Vec<u8> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut file = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut bytes = Vec::new();
    for line in maps.lines() {
        let mut parts = line.split_whitespace();
        let (Some(range), Some(access)) = (parts.next(), parts.next()) else { continue };
        if !access.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        else {
            continue;
        };
        let mut part = vec![0; usize::try_from(end - start).unwrap()];
        // A mapping may go while it is read; what is left is searched.
        if file.seek(SeekFrom::Start(start)).is_ok() && file.read_exact(&mut part).is_ok() {
            bytes.extend(part);
        }
    }
    bytes
}
