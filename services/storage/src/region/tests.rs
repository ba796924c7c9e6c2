//! What needs the writing connection itself: its statements, and a disk without space.

use super::*;
use bytes::Bytes;
use domain::kernel::{Entropy, Kind, OperationId, Purpose, RetentionClass, Revision};
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_micros(1_782_864_000_000_000);
/// Pages that the file holds besides the schema, until the test gives them free.
const BALLAST: &str =
    "CREATE TABLE ballast (bytes BLOB); INSERT INTO ballast VALUES (zeroblob(4000000));";

struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

fn region() -> RegionId {
    RegionId::parse("xiaonanhai").expect("a slug")
}

fn epoch() -> Epoch {
    Epoch::mint(NOW, &Zeros)
}

/// A fresh record that takes so many bytes.
fn commit(n: i64, bytes: usize) -> Commit {
    let at = Timestamp::from_micros(n * 1_000);
    let record_id = RecordId::mint(at, &Zeros);
    let operation = OperationRow {
        operation_id: OperationId::mint(at, &Zeros),
        digest: [0; 16],
        device: None,
        record_id,
        outcome: OperationOutcome::Applied,
        reason: None,
        revision_n: 1,
        received_at: NOW,
        encoded: None,
    };
    let write = RecordWrite {
        record_id,
        kind: Kind::Event,
        base: None,
        revision: Revision { t: 0, epoch: epoch(), n: 1 },
        received_at: NOW,
        retention_class: RetentionClass::Event,
        expires_at: NOW,
        encoded: Bytes::from(vec![7; bytes]),
    };
    let item =
        CommitItem { operation, replaces_held: false, write: Some(write), shares: Vec::new() };
    Commit { items: vec![item], now: NOW }
}

#[test]
fn every_statement_of_the_readers_can_be_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let conn = sqlite::open_writer(&dir.path().join("store.sqlite"), MIGRATIONS).unwrap();
    for sql in [device::STATEMENTS, feed::STATEMENTS, stream::STATEMENTS, &[depth::REGION]].concat()
    {
        assert!(conn.prepare(sql).is_ok(), "{sql}");
    }
}

#[tokio::test]
async fn a_full_disk_is_told_loses_nothing_and_work_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let conn = sqlite::open_writer(&path, MIGRATIONS).unwrap();
    conn.execute_batch(BALLAST).unwrap();
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    // As far as this connection goes, the disk ends here.
    let limit: i64 =
        conn.pragma_update_and_check(None, "max_page_count", pages + 32, |row| row.get(0)).unwrap();
    assert_eq!(limit, pages + 32);
    let (store, writer) = Store::over(conn, &path, &region(), epoch()).await.unwrap();
    let thread = std::thread::spawn(move || writer.run());
    store.commit(commit(1, 100)).await.unwrap();
    let mut commits = store.listen();
    let full = store.commit(commit(2, 1_000_000)).await;
    assert_eq!(full, Err(WriteError::DiskFull));
    let watcher = |n: i64| Watcher {
        device: DeviceId::mint(Timestamp::from_micros(n), &Zeros),
        purpose: Purpose::Duty,
    };
    let many: Vec<_> = (0..9_000).map(watcher).collect();
    assert_eq!(store.set_watchers(NOW, many).await, Err(WriteError::DiskFull));
    // Small work still fits; nobody was told of what is not there; the lost set is not named.
    store.commit(commit(3, 100)).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), commits.recv()).await.unwrap();
    assert_eq!(told.unwrap().feed[0].feed_seq, 2);
    let beside = Connection::open(&path).unwrap();
    beside.busy_timeout(Duration::from_secs(5)).unwrap();
    let count = |table: &str| -> i64 {
        beside.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("record"), count("operation"), count("disclosure")), (2, 2, 0));
    beside.execute_batch("DROP TABLE ballast").unwrap();
    assert_eq!(store.commit(commit(2, 1_000_000)).await, Ok(CommitVerdict::Done));
    assert_eq!(count("record"), 3);
    drop(store);
    thread.join().unwrap().unwrap();
}
