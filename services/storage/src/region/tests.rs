//! What needs the writing connection itself: its statements, and a disk without space.

use super::*;
use bytes::Bytes;
use domain::kernel::{
    AgreementId, Entropy, Kind, Lane, OperationId, Purpose, RecordId, RetentionClass, Revision,
};
use domain::stream::{LastShown, Shown, Standing};
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
        shown: Shown::default(),
        shares: Vec::new(),
    };
    let item = CommitItem { operation, replaces_held: false, write: Some(write) };
    Commit { items: vec![item], turns: 0, now: NOW }
}

#[test]
fn every_statement_of_the_readers_can_be_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let conn = sqlite::open_writer(&dir.path().join("store.sqlite"), MIGRATIONS).unwrap();
    for sql in [
        audit::STATEMENTS,
        device::STATEMENTS,
        epoch::STATEMENTS,
        erasure::STATEMENTS,
        expiry::STATEMENTS,
        feed::STATEMENTS,
        outbox::STATEMENTS,
        quarantine::STATEMENTS,
        release::STATEMENTS,
        stream::STATEMENTS,
        turn::STATEMENTS,
        &[depth::REGION],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .chain(transfer::statements())
    {
        assert!(conn.prepare(&sql).is_ok(), "{sql}");
    }
}

#[test]
fn a_range_of_the_outbox_is_read_without_what_comes_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let conn = sqlite::open_writer(&dir.path().join("store.sqlite"), MIGRATIONS).unwrap();
    let steps = sqlite::plan(&conn, outbox::STATEMENTS[0]);
    let bound =
        |step: &String| step.contains("SEARCH o ") && step.contains("last_seq>? AND last_seq<?");
    assert!(steps.iter().any(bound), "{steps:?}");
}

#[test]
fn what_is_quarantined_is_found_without_a_look_at_all_views() {
    let dir = tempfile::tempdir().unwrap();
    let conn = sqlite::open_writer(&dir.path().join("store.sqlite"), MIGRATIONS).unwrap();
    for sql in &quarantine::STATEMENTS[2..4] {
        let steps = sqlite::plan(&conn, sql);
        assert!(steps.iter().any(|step| step.contains("view_quarantined")), "{steps:?}");
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
    let watcher = |n: i64| Watcher {
        device: DeviceId::mint(Timestamp::from_micros(n), &Zeros),
        purpose: Purpose::Duty,
    };
    store.set_watchers(NOW, vec![watcher(0)]).await.unwrap();
    let mut commits = store.listen();
    let full = store.commit(commit(2, 1_000_000)).await;
    assert_eq!(full, Err(WriteError::DiskFull));
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
    assert_eq!((count("record"), count("operation"), count("disclosure")), (2, 2, 1));
    assert_eq!(count("disclosure WHERE set_no = 1"), 1);
    beside.execute_batch("DROP TABLE ballast").unwrap();
    assert_eq!(store.commit(commit(2, 1_000_000)).await, Ok(CommitVerdict::Done));
    assert_eq!(count("record"), 3);
    drop(store);
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_store_of_the_first_schema_keeps_its_streams_and_what_was_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let stream = StreamId {
        origin: region(),
        epoch: epoch(),
        agreement: AgreementId::mint(NOW, &Zeros),
        version: 1,
        lane: Lane::Alert,
    };
    let record_id = RecordId::mint(NOW, &Zeros);
    let entries = [&b"start"[..], b"", &[0; 300], b"last"];
    let mut rows = Vec::new();
    let mut at = seal::chain::start(&stream);
    {
        let conn = sqlite::open_writer(&path, &MIGRATIONS[..1]).unwrap();
        for (n, entry) in (1_u8..).zip(entries) {
            let (salt, expires_at) = ([n; 16], NOW.plus_days(i64::from(n)));
            at = seal::chain::extend(at, &seal::chain::commitment(&salt, entry));
            conn.execute(
                "INSERT INTO outbox (stream_no, seq, h, salt, entry, numbered_at, expires_at) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
                (n, at.h, salt, entry, NOW.micros(), expires_at.micros()),
            )
            .unwrap();
            let entry = Bytes::copy_from_slice(entry);
            rows.push(OutboxEntry { position: at, salt, entry, expires_at });
        }
        conn.execute(
            "INSERT INTO stream VALUES (1, ?1, ?2, ?3)",
            (stream.to_bytes(), sqlite::int(at.seq), at.h),
        )
        .unwrap();
        let record = "INSERT INTO record VALUES (?1, ?2, 6, 0, ?3, 1, 0, 1, 9, x'00')";
        let others = RecordId::mint(NOW.plus_days(1), &Zeros);
        for (feed_seq, id) in [(1, record_id), (2, others)] {
            let (id, epoch) = (id.as_bytes().as_slice(), epoch());
            conn.execute(record, (feed_seq, id, epoch.as_bytes().as_slice())).unwrap();
        }
        for (agreement, share_n) in [([0x79; 16], 300), ([0x71; 16], 2)] {
            conn.execute(
                "INSERT INTO shown VALUES (?1, ?2, ?3, 1, 3)",
                (record_id.as_bytes().as_slice(), agreement, share_n),
            )
            .unwrap();
        }
    }
    let (store, writer) = Store::open(&path, &region(), epoch()).await.unwrap();
    assert_eq!(store.list_outbox(&stream, 0, 100).await.unwrap(), rows);
    assert_eq!(store.list_streams().await.unwrap()[0].position, at);
    let mut shown = Shown::default();
    for (agreement, share_n) in [([0x71; 16], 2), ([0x79; 16], 300)] {
        let last =
            LastShown { share_n, lane: Lane::Alert, standing: Standing::Left, since_version: 1 };
        shown.set(AgreementId::from_slice(&agreement).unwrap(), last);
    }
    assert_eq!(store.find_record(record_id).await.unwrap().unwrap().shown, shown);
    drop((store, writer));
}
