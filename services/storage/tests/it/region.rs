//! Receipts, devices, disclosures, and whose file it is.

use crate::world::*;
use bytes::Bytes;
use domain::kernel::{DeviceId, Lane, Purpose, Role};
use domain::stream::StreamId;
use rusqlite::Connection;
use storage::region::{
    Disclosure, EnrolVerdict, Enrolment, EnrolmentCode, ReceiptRow, Store, issue_code,
};
use storage::{OpenError, WriteError};

fn receipt(of: &StreamId, seq: u64) -> ReceiptRow {
    ReceiptRow {
        stream: of.clone(),
        party: slug("daluba"),
        position: place(of, seq),
        parked_count: 0,
        received_at: NOW,
        signed: Bytes::from(format!("signed {seq}")),
    }
}

fn code(n: u8) -> EnrolmentCode {
    EnrolmentCode {
        code_sha256: [n; 32],
        role: Role::Patroller,
        unit: "police-1".to_owned(),
        expires_at: NOW.plus_millis(900_000),
    }
}

fn enrolment(n: u8, who: DeviceId) -> Enrolment {
    Enrolment {
        code_sha256: [n; 32],
        device_id: who,
        public_key: vec![4; 65],
        model: "phone".to_owned(),
        expires_at: NOW.plus_days(30),
        now: NOW,
    }
}

#[tokio::test]
async fn receipts_only_go_forward_and_only_for_own_streams() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Routine);
    assert_eq!(world.store.keep_receipt(receipt(&of, 1)).await, Ok(false));
    world.store.commit(commit(vec![shown(&of, 1, 1, 1), shown(&of, 2, 2, 1)])).await.unwrap();
    for (seq, newer) in [(2, true), (1, false), (2, false), (3, true)] {
        assert_eq!(world.store.keep_receipt(receipt(&of, seq)).await, Ok(newer));
    }
    let held = world.store.list_receipts().await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!((held[0].position, &held[0].signed[..]), (place(&of, 3), &b"signed 3"[..]));
}

#[tokio::test]
async fn a_code_enrols_one_device_once_before_it_expires() {
    let world = World::new().await;
    world.store.add_enrolment_code(code(1)).await.unwrap();
    issue_code(&world.path(), &code(2)).unwrap();
    let invalid = Ok(EnrolVerdict::CodeInvalid);
    assert_eq!(world.store.enrol(enrolment(9, device(1))).await, invalid);
    let late = Enrolment { now: NOW.plus_millis(900_000), ..enrolment(1, device(1)) };
    assert_eq!(world.store.enrol(late).await, invalid);
    let (one, two) = tokio::join!(
        world.store.enrol(enrolment(1, device(1))),
        world.store.enrol(enrolment(1, device(2))),
    );
    assert_eq!((one, two), (Ok(EnrolVerdict::Enrolled(Role::Patroller)), invalid));
    let found = world.store.find_device(device(1)).await.unwrap().unwrap();
    assert_eq!(
        (found.role, &found.unit[..], found.revoked_at),
        (Role::Patroller, "police-1", None)
    );
    assert!(world.store.find_device(device(2)).await.unwrap().is_none());
    let second = world.store.enrol(enrolment(2, device(2))).await;
    assert_eq!(second, Ok(EnrolVerdict::Enrolled(Role::Patroller)));
    assert_eq!(world.store.add_enrolment_code(code(1)).await, Err(WriteError::Refused));
}

#[tokio::test]
async fn a_device_is_revoked_once() {
    let world = World::new().await;
    world.store.add_enrolment_code(code(1)).await.unwrap();
    world.store.enrol(enrolment(1, device(1))).await.unwrap();
    assert_eq!(world.store.revoke_device(device(1), NOW).await, Ok(true));
    assert_eq!(world.store.revoke_device(device(1), NOW.plus_days(1)).await, Ok(false));
    assert_eq!(world.store.revoke_device(device(2), NOW).await, Ok(false));
    let found = world.store.find_device(device(1)).await.unwrap().unwrap();
    assert_eq!(found.revoked_at, Some(NOW));
}

#[test]
fn a_code_is_issued_only_into_a_store_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    assert!(issue_code(&path, &code(1)).is_err());
    assert!(!path.exists());
}

fn disclosure(count: u64) -> Disclosure {
    Disclosure {
        device: device(1),
        purpose: Purpose::Duty,
        method: "ListEvents",
        feed_from: 1,
        feed_to: 2,
        count,
        now: NOW,
    }
}

/// The disclosure log's hashes worked out from its rows, beside the hashes it holds.
fn chained(world: &World) -> Vec<([u8; 32], [u8; 32])> {
    let conn = Connection::open(world.path()).unwrap();
    let sql =
        "SELECT disclosed_at, device_id, set_no, purpose, feed_from, feed_to, count, method, hash
               FROM disclosure ORDER BY disclosure_no";
    let mut statement = conn.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut before = [0; 32];
    let mut hashes = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let number = |column| row.get::<_, i64>(column).unwrap().to_be_bytes();
        let mut bytes = before.to_vec();
        bytes.extend(number(0));
        bytes.extend(row.get::<_, Option<[u8; 16]>>(1).unwrap().unwrap_or_default());
        bytes.extend(row.get::<_, Option<i64>>(2).unwrap().unwrap_or(0).to_be_bytes());
        bytes.extend((3..7).flat_map(number));
        bytes.extend(row.get::<_, String>(7).unwrap().into_bytes());
        let held: [u8; 32] = row.get(8).unwrap();
        hashes.push((seal::key::sha256(&bytes), held));
        before = held;
    }
    hashes
}

#[tokio::test]
async fn every_look_is_chained_to_the_one_before() {
    let world = World::new().await;
    world.store.disclose(disclosure(1)).await.unwrap();
    world.watched().await;
    world.store.commit(commit(vec![write(1, 1, 1), write(2, 2, 1)])).await.unwrap();
    let world = world.reopened().await;
    world.store.disclose(disclosure(2)).await.unwrap();
    // Nobody watches since the store was opened again.
    world.store.commit(commit(vec![write(3, 3, 1)])).await.unwrap();
    let hashes = chained(&world);
    assert_eq!(hashes.len(), 3);
    assert!(hashes.iter().all(|(worked_out, held)| worked_out == held));
    let watched: i64 = world.look("SELECT count FROM disclosure WHERE set_no IS NOT NULL");
    assert_eq!(watched, 2);
    let watchers: String = world.look("SELECT watchers FROM watcher_set");
    assert!(watchers.contains(&device(2).to_string()) && watchers.contains("DUTY"), "{watchers}");
}

#[tokio::test]
async fn a_set_of_watchers_that_ends_is_named_no_more() {
    let world = World::new().await;
    world.watched().await;
    world.store.set_watchers(NOW, Vec::new()).await.unwrap();
    world.store.commit(commit(vec![write(1, 1, 1)])).await.unwrap();
    assert_eq!(world.look::<i64>("SELECT count(*) FROM disclosure"), 0);
}

#[tokio::test]
async fn a_store_of_another_region_or_of_a_newer_program_is_refused() {
    let world = World::new().await;
    let other = Store::open(&world.path(), &slug("daluba"), epoch()).await;
    assert!(matches!(other, Err(OpenError::WrongOwner { .. })));
    let conn = Connection::open(world.path()).unwrap();
    conn.pragma_update(None, "user_version", 1_000).unwrap();
    let newer = Store::open(&world.path(), &slug("xiaonanhai"), epoch()).await;
    let text = newer.err().unwrap().to_string();
    assert!(text.starts_with("the store has schema 1000, newer than the "), "{text}");
    assert!(text.ends_with(" this program knows; run the newer program"), "{text}");
}
