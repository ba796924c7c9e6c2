//! What was deleted leaves the log too, though somebody reads just then and nobody writes any more.

use crate::gateway;
use crate::world::{NOW, World, commit, in_time, record, slug, write};
use bytes::Bytes;
use domain::erasure::EraseReason;
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;
use storage::region::Erasing;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether the log of a store holds a text.
fn is_logged(store: &Path, text: &str) -> bool {
    let log = std::fs::read(store.with_extension("sqlite-wal")).expect("a log");
    log.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn until_gone(store: &Path, text: &str) {
    in_time(async {
        while is_logged(store, text) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
}

/// Begins a read, which keeps the log as it is until it is dropped.
fn read(store: &Path, table: &str) -> Connection {
    let conn = Connection::open(store).expect("the file");
    conn.execute_batch(&format!("BEGIN; SELECT count(*) FROM {table};")).expect("read");
    conn
}

#[tokio::test]
async fn what_a_region_erased_leaves_its_log_when_the_reader_ends_and_nobody_writes() {
    let (world, text) = (World::new().await, "record 1 revision 1");
    let reader = read(&world.path(), "record");
    world.store.commit(commit(vec![write(1, 1, 1)])).await.expect("written");
    let erasing = Erasing {
        record_id: record(1),
        origin: |_| Some((slug("xiaonanhai"), Vec::new())),
        reason: EraseReason::Privacy,
        device: None,
        salts: Vec::new(),
        openings: Vec::new(),
        encoded: |_, _| Bytes::from_static(b"withdrawn"),
        expires_at: NOW.plus_days(9),
        now: NOW,
    };
    assert_eq!(world.store.erase(erasing).await, Ok(true));
    assert!(is_logged(&world.path(), text), "the reader holds the log");
    drop(reader);
    until_gone(&world.path(), text).await;
    // The writer has not stopped over it.
    world.store.commit(commit(vec![write(2, 2, 1)])).await.expect("written");
}

#[tokio::test]
async fn what_a_gateway_deleted_leaves_its_log_when_the_reader_ends_and_nobody_writes() {
    let (world, text) = (gateway::World::new().await, "1-3");
    let reader = read(&world.path(), "segment");
    world.put(1, 3).await;
    world.store.replace(gateway::of(), (1, 3)).await.expect("written");
    assert!(is_logged(&world.path(), text), "the reader holds the log");
    drop(reader);
    until_gone(&world.path(), text).await;
    world.put(4, 5).await;
}
