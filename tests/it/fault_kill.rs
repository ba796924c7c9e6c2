//! A server is killed twice while 50,000 records queue: the neighbour has all, in stream order, once.
//!
//! The oracle is what the phones saw acknowledged and what an officer saw who watched through it all.

use crate::harness::{A, AckLog, B, Pusher, Watcher, World, converged, faults, own_records};
use crate::harness::{pull_all, states, until};
use cli::phone::Phone;
use domain::kernel::{RecordId, Role};
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

const RECORDS: usize = 50_000;
const BATCH: usize = 1_000;
/// How long the gateway is down the first time.
const DOWN: Duration = Duration::from_secs(60);
/// How long a region is down each of the two times: a minute in all, as the gateway.
const REGION_DOWN: Duration = Duration::from_secs(30);
/// How long everything may take to arrive; a link that failed for a minute may wait for another.
const ARRIVES: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn all_arrives_in_order_and_once_when_the_gateway_is_down_and_killed_twice() {
    let mut load = Load::start().await;
    let acked = load.pusher.reached(RECORDS / 10, ARRIVES).await;
    assert!(acked < RECORDS, "the gateway was not killed under load");
    load.world.gateway.kill();
    let killed = Instant::now();
    load.pusher.reached(RECORDS, ARRIVES).await;
    until("the outage is over", 2 * DOWN, async || killed.elapsed() >= DOWN).await;
    let queued = load.queued().await;
    assert!(queued > RECORDS as u64 / 2, "only {queued} records queued");

    load.world.gateway.restart().await;
    load.watched(RECORDS / 2).await;
    load.world.gateway.kill();
    assert!(load.watcher.count() < RECORDS, "the gateway was not killed under load");
    load.world.gateway.restart().await;
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_arrives_in_order_and_once_when_the_origin_is_killed_twice() {
    let mut load = Load::start().await;
    for reached in [RECORDS / 5, RECORDS * 3 / 5] {
        let acked = load.pusher.reached(reached, ARRIVES).await;
        assert!(acked < RECORDS, "the origin was not killed under load");
        load.world.a.kill();
        let killed = Instant::now();
        until("the outage is over", ARRIVES, async || killed.elapsed() >= REGION_DOWN).await;
        load.world.a.restart().await;
    }
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_arrives_in_order_and_once_when_the_recipient_is_killed_twice() {
    let mut load = Load::start().await;
    for reached in [RECORDS / 10, RECORDS / 2] {
        load.watched(reached).await;
        load.world.b.kill();
        assert!(load.watcher.count() < RECORDS, "the recipient was not killed under load");
        let killed = Instant::now();
        until("the outage is over", ARRIVES, async || killed.elapsed() >= REGION_DOWN).await;
        load.world.b.restart().await;
    }
    load.check().await;
}

/// A world whose phone reports [`RECORDS`] events while the neighbour's officer watches.
struct Load {
    world: World,
    desk_a: Phone,
    desk_b: Phone,
    pusher: Pusher,
    watcher: Watcher,
}

impl Load {
    async fn start() -> Self {
        let world = World::start().await;
        let phone = world.enrol(A, Role::Patroller, "phone").await;
        let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
        let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
        let watcher = Watcher::start(desk_b.channel().clone());
        let pusher = Pusher::start(phone, &world.path("acked.log"), RECORDS / BATCH, BATCH);
        Self { world, desk_a, desk_b, pusher, watcher }
    }

    /// Waits until the officer has seen so many.
    async fn watched(&self, views: usize) {
        let what = format!("{views} views are seen");
        until(&what, ARRIVES, async || self.watcher.count() >= views).await;
    }

    /// Records that the origin has numbered and no gateway has stored.
    async fn queued(&self) -> u64 {
        let state = states(self.desk_a.channel()).await.expect("the origin answers");
        let row = state.streams.iter().max_by_key(|row| row.last_seq).expect("it has streams");
        row.last_seq - row.stored_seq
    }

    /// Holds what was acknowledged, what was watched, and what lies in both stores against each other.
    async fn check(mut self) {
        self.pusher.finish(ARRIVES).await;
        let acked = AckLog::read(&self.world.path("acked.log"));
        assert_eq!(acked.len(), RECORDS);
        let views = converged(self.desk_a.channel(), self.desk_b.channel(), ARRIVES).await;
        assert_eq!(views, RECORDS as u64);

        let kept = own_records(&pull_all(self.desk_a.channel()).await);
        assert_eq!(kept.len(), RECORDS);
        let kept: BTreeSet<RecordId> = kept.into_iter().collect();
        assert!(acked.is_subset(&kept), "what was acknowledged is not at the origin");

        until("the officer has seen all", ARRIVES, async || self.watcher.count() >= RECORDS).await;
        let faults = faults(&acked, &self.watcher.seen());
        let some = &faults[..faults.len().min(5)];
        assert!(faults.is_empty(), "{} faults, such as {some:?}", faults.len());

        self.world.stop().await;
        let store = |data: &str, id: &str| self.world.path(data).join("regions").join(id);
        check_store(&store("a", A), "record", "SELECT feed_seq FROM record ORDER BY feed_seq");
        check_store(&store("b", B), "view", "SELECT seq FROM view ORDER BY feed_seq");
    }
}

/// Counts in the store itself: as many rows as records, one each, in order.
fn check_store(region: &Path, table: &str, in_order: &str) {
    let path = region.join("store.sqlite");
    let store = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = format!("SELECT COUNT(*), COUNT(DISTINCT record_id) FROM {table}");
    let counts: (i64, i64) =
        store.query_row(&count, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let records = i64::try_from(RECORDS).unwrap();
    assert_eq!(counts, (records, records), "rows and records in {table}");
    let mut statement = store.prepare(in_order).unwrap();
    let numbers: Vec<i64> =
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{table} is out of order");
}
