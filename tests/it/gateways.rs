//! Goal: a region that has several gateways needs any one of them. One is lost for good under load, and nothing
//! is lost, doubled or out of order; the states name it; one that lost its store is filled again and used; one
//! that joins the linkage or is struck off is taken up or left without a restart. Method: real processes, two
//! gateways with a folder each; the oracle is what the phone saw acknowledged, what an officer saw who watched
//! through it all, and the stores.

use crate::harness::{A, ARRIVES, AckLog, B, Process, Pusher, Shown, Store, Watcher, World};
use crate::harness::{batch, converged, faults, free_port, kept, states, until, views};
use cli::authority::Authority;
use cli::linkage;
use cli::phone::Phone;
use domain::directory::Gateway;
use domain::freshness::Member;
use domain::kernel::{Clock as _, Role};
use runtime::clock::SystemClock;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const RECORDS: usize = 20_000;
const BATCH: usize = 200;
/// How long nothing may come to a region whose only gateway is lost; over a line that is up it takes milliseconds.
const COMES_NOT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_one_of_two_gateways_is_lost_for_good_under_load() {
    let mut two = Two::start().await;
    two.both().await;
    let phone = two.world.enrol(A, Role::Patroller, "busy-phone").await;
    let watcher = Watcher::start(two.desk_b.channel().clone());
    let log = two.world.path("acked.log");
    let mut pusher = Pusher::start(phone, &log, RECORDS / BATCH, BATCH);
    let acked = pusher.reached(RECORDS / 4, ARRIVES).await;
    assert!(acked < RECORDS, "the gateway was not lost under load");
    two.world.gateway.kill();
    fs::remove_dir_all(two.world.path("gateway")).unwrap();
    for desk in [&two.desk_a, &two.desk_b] {
        until("the lost gateway is named, and the other goes on", ARRIVES, async || {
            let state = states(desk.channel()).await.unwrap();
            state.link_up && state.link_error.starts_with("gateway-1: ")
        })
        .await;
    }
    pusher.finish(ARRIVES).await;
    assert_eq!(two.converged().await, RECORDS as u64);

    let acks = AckLog::read(&log, 0);
    let acked: BTreeSet<Shown> = acks.iter().map(|ack| (ack.record, ack.revision)).collect();
    until("the officer has seen all", ARRIVES, async || watcher.count() >= RECORDS).await;
    let seen = watcher.seen(0);
    assert_eq!(faults(&acked, &seen), Vec::<String>::new());
    // The control: one record that was not seen.
    assert_eq!(faults(&acked, &seen[..RECORDS - 1]).len(), 1);
    two.assert_calm();

    for process in [&mut two.world.a, &mut two.world.b] {
        process.stop().await;
    }
    let (a, b) = (two.store("a/regions", A), two.store("b/regions", B));
    assert_eq!(a.missing(&acks), Vec::<String>::new());
    assert_eq!((a.records(), b.views()), ((RECORDS, acked.clone()), (RECORDS, acked)));
    assert_eq!([a.holes(), b.holes(), a.sums(), b.sums()].concat(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_lost_its_store_is_filled_again_and_carries_all_when_the_other_is_lost() {
    let mut two = Two::start().await;
    two.both().await;
    two.report(1_000).await;
    assert_eq!(two.converged().await, 1_000);
    two.world.gateway.kill();
    for file in ["gateway.sqlite", "gateway.sqlite-wal", "gateway.sqlite-shm"] {
        fs::remove_file(two.world.path("gateway").join(file)).unwrap();
    }
    two.report(500).await;
    assert_eq!(two.converged().await, 1_500);

    two.world.gateway.restart().await;
    until("it is reached again", ARRIVES, async || {
        states(two.desk_a.channel()).await.unwrap().link_error.is_empty()
    })
    .await;
    let of_a = two.store("a/regions", A).written();
    let holds = |store: &Store| of_a.iter().all(|at| store.written().get(at.0) == Some(at.1));
    let first = two.world.path("gateway/gateway.sqlite");
    until("it is filled again", ARRIVES, async || holds(&Store::open(&first))).await;
    two.second().kill();
    two.report(500).await;
    assert_eq!(two.converged().await, 2_000);
    until("the lost gateway is named, and the other goes on", ARRIVES, async || {
        let state = states(two.desk_b.channel()).await.unwrap();
        state.link_up && state.link_error.starts_with("gateway-2: ")
    })
    .await;
    assert_eq!(views(two.desk_b.channel()).await, 2_000);
    // What its party has, it need not hold: the receipts have come to it, too.
    let of_a = two.store("a/regions", A).written();
    until("it knows how far the party is", ARRIVES, async || {
        let receipted = Store::open(&first).receipted(B);
        receipted.iter().any(|(stream, seq)| *seq > 2_000 && of_a.get(stream) == Some(seq))
    })
    .await;
    two.assert_calm();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_has_the_lost_gateway_alone_gets_nothing_and_says_so() {
    let mut two = Two::start().await;
    two.join().await;
    let both = two.both_named();
    two.configure("a", &both).await;
    two.world.gateway.kill();
    fs::remove_dir_all(two.world.path("gateway")).unwrap();
    two.report(100).await;
    tokio::time::sleep(COMES_NOT).await;
    assert_eq!(views(two.desk_b.channel()).await, 0);
    let state = states(two.desk_a.channel()).await.unwrap();
    let waits = |row: &&proto::agreement::v1::StreamState| {
        row.stored_seq == row.last_seq && row.applied_seq < row.last_seq
    };
    assert!(state.link_up && state.streams.iter().find(waits).is_some(), "{state:?}");
    let state = states(two.desk_b.channel()).await.unwrap();
    assert!(!state.link_up && state.link_error.starts_with("gateway-1: "), "{state:?}");
    // It was for want of the other gateway alone.
    two.configure("b", &both).await;
    assert_eq!(two.converged().await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_joins_is_linked_and_one_that_is_struck_off_is_left_without_a_restart() {
    let mut two = Two::start().await;
    for data in ["a", "b"] {
        two.configure(data, "").await;
    }
    two.report(10).await;
    assert_eq!(two.converged().await, 10);
    two.join().await;
    two.linked("gateway-2").await;
    two.report(10).await;
    assert_eq!(two.converged().await, 20);

    let signer = two.authority();
    let first = Member::Gateway("gateway-1".parse().unwrap());
    signer.revoke(first, SystemClock.now()).unwrap();
    two.tell(&["a", "b", "gateway-2"]);
    for process in [&two.world.a, &two.world.b] {
        let told = ["link lost", "gateway.id=gateway-1", "revoked"];
        until("it is left", ARRIVES, async || has_line(process, &told)).await;
    }
    two.world.gateway.kill();
    two.report(10).await;
    assert_eq!(two.converged().await, 30);
    for desk in [&two.desk_a, &two.desk_b] {
        let state = states(desk.channel()).await.unwrap();
        // Nobody asked for it by name, and so nobody need do anything.
        assert_eq!((state.link_up, &*state.link_error), (true, ""));
    }

    // Named, it is missed; yet the region starts, as another is left.
    let named =
        "gateways = [{ id = \"gateway-1\" }, { id = \"gateway-9\" }, { id = \"gateway-2\" }]";
    two.configure("b", named).await;
    two.report(10).await;
    assert_eq!(two.converged().await, 40);
    let told = ["link lost", "gateway.id=gateway-9", "no longer in the directory"];
    assert!(has_line(&two.world.b, &told), "{}", two.world.b.log_text());
    let state = states(two.desk_b.channel()).await.unwrap();
    let missed = |id: &str| state.link_error.contains(&format!("{id}: the gateway is revoked"));
    assert!(missed("gateway-1") && missed("gateway-9"), "{state:?}");
}

/// A world beside which stands a second gateway.
struct Two {
    world: World,
    desk_a: Phone,
    desk_b: Phone,
    phone: Phone,
    /// Reports of the phone so far.
    reported: usize,
    /// The second gateway as the directory is to list it, and its process once it does.
    listing: Gateway,
    port: u16,
    second: Option<Process>,
}

impl Two {
    /// The first gateway is listed as it is reached; the second has a folder of its own and is not listed yet.
    async fn start() -> Self {
        let world = World::start().await;
        let signer = authority(&world);
        let directory = &signer.trust().directory;
        let (port, now) = (free_port(), SystemClock.now());
        let (data, id) = (world.path("gateway-2"), "gateway-2".parse().unwrap());
        let endpoint = format!("127.0.0.1:{port}");
        let listing = linkage::init_gateway(&data, &directory.linkage_id, &id, &endpoint, now);
        let endpoint = format!("127.0.0.1:{}", world.gateway.port);
        let first = directory.gateways.values().next().unwrap().clone();
        signer.publish(Vec::new(), vec![Gateway { endpoint, ..first }], now).unwrap();
        let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
        let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
        let phone = world.enrol(A, Role::Patroller, "phone").await;
        let (listing, second) = (listing.unwrap(), None);
        let two = Self { world, desk_a, desk_b, phone, reported: 0, listing, port, second };
        two.tell(&["gateway", "a", "b"]);
        two
    }

    /// The directory lists the second gateway, too, and it starts.
    async fn join(&mut self) {
        let gateways = vec![self.listing.clone()];
        self.authority().publish(Vec::new(), gateways, SystemClock.now()).unwrap();
        self.tell(&["gateway", "gateway-2", "a", "b"]);
        let (config, log) = (self.world.path("gateway-2.toml"), self.world.path("gateway-2.log"));
        let data = self.world.path("gateway-2");
        let text = format!(
            "gateway_id = \"gateway-2\"\ndata = \"{}\"\nlisten = \"127.0.0.1:{}\"\nmetrics_listen = \"off\"\n",
            data.display(),
            self.port
        );
        fs::write(&config, text).unwrap();
        self.second = Some(Process::start("wuling-gateway", &config, self.port, &log).await);
    }

    /// Both gateways run, and all regions are linked to both: the township, which names them, and its neighbour,
    /// which takes those that the directory lists.
    async fn both(&mut self) {
        self.join().await;
        let both = self.both_named();
        self.configure("a", &both).await;
        self.configure("b", "").await;
        self.linked("gateway-1").await;
        self.linked("gateway-2").await;
    }

    fn both_named(&self) -> String {
        let at = |id, port| format!("{{ id = \"{id}\", endpoint = \"127.0.0.1:{port}\" }}");
        let (first, second) =
            (at("gateway-1", self.world.gateway.port), at("gateway-2", self.port));
        format!("gateways = [{first}, {second}]")
    }

    /// Gives a region server these gateways, and starts it again.
    async fn configure(&mut self, data: &str, gateways: &str) {
        let config = self.world.path(&format!("{data}.toml"));
        let text = fs::read_to_string(&config).unwrap();
        let others = text.lines().filter(|line| !line.starts_with("gateways = "));
        let with = |line: &str| match line.starts_with("id = ") {
            true => format!("{line}\n{gateways}\n"),
            false => format!("{line}\n"),
        };
        fs::write(&config, others.map(with).collect::<String>()).unwrap();
        let log = self.world.path(&format!("{data}.log"));
        let process = if data == "a" { &mut self.world.a } else { &mut self.world.b };
        process.stop().await;
        fs::remove_file(log).unwrap();
        process.restart().await;
    }

    /// Waits until both region servers are linked to a gateway.
    async fn linked(&self, gateway: &str) {
        let linked = ["link up", &format!("gateway.id={gateway}"), "lanes=[Routine]"];
        for process in [&self.world.a, &self.world.b] {
            until("it is linked", ARRIVES, async || has_line(process, &linked)).await;
        }
    }

    fn authority(&self) -> Authority {
        authority(&self.world)
    }

    /// Puts what the authority has signed into these folders.
    fn tell(&self, folders: &[&str]) {
        for data in folders {
            linkage::install_trust(&self.world.path("authority"), &self.world.path(data)).unwrap();
        }
    }

    /// The phone reports so many events, all of which are on disk at its region afterwards.
    async fn report(&mut self, count: usize) {
        let (request, records) = batch(&self.phone, self.reported as u64 + 1, count);
        let mut service = cli::client::device_service(self.phone.channel());
        let answer = service.push(request).await.unwrap().into_inner();
        assert_eq!(kept(&answer, &records).len(), count);
        self.reported += count;
    }

    async fn converged(&self) -> u64 {
        converged(self.desk_a.channel(), self.desk_b.channel(), ARRIVES).await
    }

    fn second(&mut self) -> &mut Process {
        self.second.as_mut().unwrap()
    }

    fn store(&self, data: &str, region: &str) -> Store {
        let dir: PathBuf = self.world.path(data).join(region);
        Store::open(&dir.join("store.sqlite"))
    }

    /// All came twice, and that alarmed nobody.
    fn assert_calm(&self) {
        for process in [&self.world.a, &self.world.b] {
            let log = process.log_text();
            let alarms: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
            assert!(alarms.is_empty(), "{alarms:#?}");
        }
    }
}

fn authority(world: &World) -> Authority {
    Authority::open(&world.path("authority"), SystemClock.now()).unwrap()
}

fn has_line(process: &Process, words: &[&str]) -> bool {
    process.log_text().lines().any(|line| words.iter().all(|word| line.contains(word)))
}
