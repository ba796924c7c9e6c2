//! Servers are down for a minute while 50,000 records queue, and killed again while these drain: the
//! neighbour has all, in stream order, once.
//!
//! The gateway is down for 60 s, and in that time the origin for 30 s; while it drains the gateway is
//! killed a second time, then the recipient is, and is down for 30 s. The oracle is what the phones saw
//! acknowledged and what an officer saw who watched through it all.

use crate::harness::{A, AckLog, B, Pusher, Shown, Store, Watcher, World, converged, faults};
use crate::harness::{own_records, pull_all, states, until};
use cli::phone::Phone;
use domain::kernel::{RecordId, Role};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

const RECORDS: usize = 50_000;
const BATCH: usize = 1_000;
/// How long the gateway is down.
const GATEWAY_DOWN: Duration = Duration::from_secs(60);
/// How long a region is down.
const REGION_DOWN: Duration = Duration::from_secs(30);
/// How long everything may take to arrive; a link that failed for a minute may wait for another.
const ARRIVES: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn all_arrives_in_order_and_once_when_each_server_was_down_and_killed_again() {
    let mut load = Load::start().await;
    let acked = load.pusher.reached(RECORDS / 10, ARRIVES).await;
    assert!(acked < RECORDS, "the gateway was not killed under load");
    load.world.gateway.kill();
    let gateway_killed = Instant::now();

    let acked = load.pusher.reached(RECORDS / 5, ARRIVES).await;
    assert!(acked < RECORDS, "the origin was not killed under load");
    load.world.a.kill();
    over(Instant::now(), REGION_DOWN).await;
    load.world.a.restart().await;
    load.pusher.reached(RECORDS, ARRIVES).await;
    over(gateway_killed, GATEWAY_DOWN).await;
    let queued = load.queued().await;
    assert!(queued > RECORDS as u64 / 2, "only {queued} records queued");

    load.world.gateway.restart().await;
    load.watched(RECORDS / 4).await;
    load.world.gateway.kill();
    assert!(load.watcher.count() < RECORDS, "the gateway was not killed under load");
    load.world.gateway.restart().await;
    load.watched(RECORDS / 2).await;
    load.world.b.kill();
    assert!(load.watcher.count() < RECORDS, "the recipient was not killed under load");
    over(Instant::now(), REGION_DOWN).await;
    load.world.b.restart().await;
    load.check().await;
}

/// Waits until an outage is over.
async fn over(since: Instant, outage: Duration) {
    until("the outage is over", 2 * outage, async || since.elapsed() >= outage).await;
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
        let acks = AckLog::read(&self.world.path("acked.log"), 0);
        assert_eq!(acks.len(), RECORDS);
        let views = converged(self.desk_a.channel(), self.desk_b.channel(), ARRIVES).await;
        assert_eq!(views, RECORDS as u64);

        let kept = own_records(&pull_all(self.desk_a.channel()).await);
        assert_eq!(kept.len(), RECORDS);
        let kept: BTreeSet<RecordId> = kept.into_iter().collect();
        assert!(
            acks.iter().all(|ack| kept.contains(&ack.record)),
            "acknowledged, not at the origin"
        );

        until("the officer has seen all", ARRIVES, async || self.watcher.count() >= RECORDS).await;
        let acked: BTreeSet<Shown> = acks.iter().map(|ack| (ack.record, ack.revision)).collect();
        let faults = faults(&acked, &self.watcher.seen(0));
        let some = &faults[..faults.len().min(5)];
        assert!(faults.is_empty(), "{} faults, such as {some:?}", faults.len());

        self.world.stop().await;
        let store = |data: &str, id: &str| {
            Store::open(&self.world.path(data).join("regions").join(id).join("store.sqlite"))
        };
        let (a, b) = (store("a", A), store("b", B));
        assert_eq!(a.missing(&acks), Vec::<String>::new());
        assert_eq!(a.records(), (RECORDS, acked.clone()));
        assert_eq!(b.views(), (RECORDS, acked));
        assert_eq!([a.holes(), b.holes()].concat(), Vec::<String>::new());
    }
}
