//! Goal (P16): a region whose store was put back from a copy numbers nothing twice. It goes on in a new epoch, what it
//! lost comes back from phones and neighbours, and nobody sees a fork; two copies at work are named. Method: real
//! processes; a copy of the store takes the place of the one that went on, so that one way alone can find it out.
//! Control: a server that goes on in its epoch.

use crate::erasure::{erase, holds, verified};
use crate::explain::{folder, transition, wuling};
use crate::harness::{A, ARRIVES, B, Process, World};
use crate::harness::{converged, event, free_port, pull_all, region, states, until};
use crate::trust::copy_folder;
use cli::linkage;
use cli::phone::Phone;
use device::Draft;
use domain::kernel::{Clock as _, Epoch, RecordId, Role};
use domain::operation::Change;
use proto::device::v1::change::Subject;
use proto::risk::v1::EventVerb;
use runtime::clock::{SystemClock, SystemEntropy};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const OPENED: &str = "a new epoch is open";
const CLONED: &str = "REGION_CLONED";
/// Alarms of a fork, at whoever sees it.
const FORKED: [&str; 2] = ["STREAM_FORKED", "CHAIN_BROKEN"];
/// For what must not arrive; what does takes milliseconds.
const STAYS_AWAY: Duration = Duration::from_secs(5);

/// What alone can find it out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The administrator says so.
    Told,
    /// The store is another file than the one that was written last.
    OtherFile,
    /// The store does not go as far as it went.
    LessFar,
    /// The gateway shows a segment that this region has signed.
    Segment,
    /// Gateway and neighbour say what the gateway cannot show any more.
    Receipts,
    /// The gateway shows a receipt that this region has signed.
    OwnReceipt,
}

/// A township and its neighbour, between which some has gone to and fro since a copy was made.
struct Town {
    world: World,
    phone: Phone,
    desk_a: Phone,
    phone_b: Phone,
    desk_b: Phone,
    /// What the township has reported, and its neighbour.
    reported: (BTreeSet<RecordId>, BTreeSet<RecordId>),
}

fn report(phone: &mut Phone, text: &str) -> RecordId {
    let draft = Draft::making(Change::ReportEvent(event(text)), SystemClock.now());
    phone.device.record(draft).unwrap().record_id
}

/// The records that a desk sees: its own region's, and views of its neighbours'.
async fn seen(desk: &Phone) -> (BTreeSet<RecordId>, BTreeSet<RecordId>) {
    let (mut own, mut views) = (BTreeSet::new(), BTreeSet::new());
    for change in pull_all(desk.channel()).await {
        let id = |meta: Option<proto::kernel::v1::RecordMeta>| {
            RecordId::from_slice(&meta.unwrap().record_id).unwrap()
        };
        match change.subject.unwrap() {
            Subject::Record(record) => drop(own.insert(id(record.meta))),
            Subject::View(view) => drop(views.insert(id(view.view.unwrap().meta))),
            Subject::Withdrawal(_) => {}
        }
    }
    (own, views)
}

impl Town {
    async fn start() -> Self {
        let world = World::start().await;
        let phone = world.enrol(A, Role::Patroller, "phone").await;
        let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
        let phone_b = world.enrol(B, Role::Patroller, "phone").await;
        let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
        let mut town = Self { world, phone, desk_a, phone_b, desk_b, reported: Default::default() };
        town.report("before").await;
        town.report_b("before").await;
        town.agree().await;
        town
    }

    async fn report(&mut self, text: &str) {
        self.reported.0.insert(report(&mut self.phone, text));
        self.phone.sync().await.unwrap();
    }

    async fn report_b(&mut self, text: &str) {
        self.reported.1.insert(report(&mut self.phone_b, text));
        self.phone_b.sync().await.unwrap();
    }

    /// Waits until both have all, and have the same.
    async fn agree(&self) {
        let (a, b) = &self.reported;
        until("both have all", ARRIVES, async || {
            seen(&self.desk_a).await == (a.clone(), b.clone())
                && seen(&self.desk_b).await == (b.clone(), a.clone())
        })
        .await;
        converged(self.desk_a.channel(), self.desk_b.channel(), ARRIVES).await;
    }

    /// Waits until the gateway has all that the township has for its neighbour.
    async fn stored(&self) {
        until("the gateway has it", ARRIVES, async || {
            let Some(state) = states(self.desk_a.channel()).await else { return false };
            let mut rows = state.streams.iter().filter(|row| row.party_region == B).peekable();
            rows.peek().is_some() && rows.all(|row| row.stored_seq == row.last_seq)
        })
        .await;
    }

    fn store(&self, data: &str) -> PathBuf {
        self.world.path(data).join("regions").join(A).join("store.sqlite")
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.world.path(name)).unwrap()
    }

    fn assert_no_fork(&self) {
        for (name, word) in
            ["a.log", "b.log", "gateway.log"].map(|name| FORKED.map(|w| (name, w))).as_flattened()
        {
            let log = self.log(name);
            assert!(!log.contains(word), "{word} in {name}: {log}");
        }
    }

    /// Makes a copy of the township's store, in order.
    async fn copy(&mut self, to: &str) {
        self.world.a.stop().await;
        copy_folder(&self.world.path("a"), &self.made(to));
        self.world.a.restart().await;
    }

    fn made(&self, name: &str) -> PathBuf {
        let path = self.world.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Puts the copy into the place of the store, so that one way alone finds it out.
    async fn restore(&self, way: Way) {
        let (copy, place) = (self.store("copy"), self.store("a"));
        for beside in ["store.sqlite-wal", "store.sqlite-shm"] {
            let (from, to) = (copy.with_file_name(beside), place.with_file_name(beside));
            drop(fs::remove_file(&to));
            if from.exists() {
                fs::copy(from, to).unwrap();
            }
        }
        if way == Way::OtherFile {
            // Renamed, so that its number is not given to the copy.
            fs::rename(&place, place.with_extension("old")).unwrap();
            fs::copy(&copy, &place).unwrap();
            let (inode, _) = mark(&place);
            return write_mark(&place, (inode, 0));
        }
        // The same file, with other content.
        fs::write(&place, fs::read(&copy).unwrap()).unwrap();
        if way != Way::LessFar {
            let (inode, _) = mark(&place);
            write_mark(&place, (inode, 0));
        }
        if way == Way::Told {
            let (now, a) = (SystemClock.now(), region(A));
            let restored =
                linkage::restore_region(&self.world.path("a"), &a, now, &SystemEntropy).await;
            let (left, epoch) = restored.unwrap();
            assert!(left < epoch);
        }
    }
}

fn mark(store: &Path) -> (u64, u64) {
    let text = fs::read_to_string(store.with_file_name("mark")).unwrap();
    let (inode, height) = text.trim_end().split_once(' ').unwrap();
    (inode.parse().unwrap(), height.parse().unwrap())
}

fn write_mark(store: &Path, (inode, height): (u64, u64)) {
    fs::write(store.with_file_name("mark"), format!("{inode} {height}\n")).unwrap();
}

async fn restored(way: Way) {
    let mut town = Town::start().await;
    town.copy("copy").await;
    match way {
        Way::OwnReceipt => town.report_b("lost").await,
        Way::Segment => {
            town.world.b.stop().await;
            town.report("lost").await;
            town.stored().await;
        }
        _ => town.report("lost").await,
    }
    if way != Way::Segment {
        town.agree().await;
    }
    town.world.a.stop().await;
    town.restore(way).await;
    town.world.a.restart().await;
    if way != Way::Told {
        until("it is found out", ARRIVES, async || town.log("a.log").contains(OPENED)).await;
    }
    town.report("after").await;
    if way == Way::Segment {
        town.world.b.restart().await;
    }
    town.agree().await;
    town.assert_no_fork();
    let opened = town.log("a.log").matches(OPENED).count();
    assert_eq!(opened, usize::from(way != Way::Told), "{way:?}");
    assert!(!town.log("a.log").contains(CLONED) && !town.log("b.log").contains(CLONED));
    // A restart finds nothing more.
    town.world.a.stop().await;
    town.world.a.restart().await;
    town.report("later").await;
    town.agree().await;
    assert_eq!(town.log("a.log").matches(OPENED).count(), opened, "{way:?}");
    town.world.stop().await;
}

#[tokio::test]
async fn a_store_that_is_said_to_be_a_copy_goes_on_in_a_new_epoch() {
    restored(Way::Told).await;
}

#[tokio::test]
async fn a_store_that_is_another_file_goes_on_in_a_new_epoch() {
    restored(Way::OtherFile).await;
}

#[tokio::test]
async fn a_store_that_goes_less_far_than_it_went_goes_on_in_a_new_epoch() {
    restored(Way::LessFar).await;
}

#[tokio::test]
async fn who_is_shown_a_segment_of_its_own_that_it_does_not_know_goes_on_in_a_new_epoch() {
    restored(Way::Segment).await;
}

#[tokio::test]
async fn who_hears_of_neighbour_and_gateway_what_it_does_not_know_goes_on_in_a_new_epoch() {
    restored(Way::Receipts).await;
}

#[tokio::test]
async fn who_is_shown_a_receipt_of_its_own_that_it_does_not_know_goes_on_in_a_new_epoch() {
    restored(Way::OwnReceipt).await;
}

#[tokio::test]
async fn what_was_shown_in_an_epoch_that_was_left_is_erased_everywhere_all_the_same() {
    const GONE: [&str; 2] = ["canaryofwhatisopen", "canaryofwhatisover"];
    let mut town = Town::start().await;
    for text in GONE {
        town.report(text).await;
    }
    let records: Vec<RecordId> = town.reported.0.iter().copied().skip(1).collect();
    town.agree().await;
    // Nothing of what is over is shown again in a new epoch.
    transition(&town.desk_a, records[1], EventVerb::Reject).await;
    town.agree().await;
    town.world.a.stop().await;
    again(&town, "a").await;
    town.world.a.restart().await;
    town.report("after").await;
    town.agree().await;
    for (record, text) in records.iter().zip(GONE) {
        assert!(holds(&town.world, "b", text) > 0);
        erase(&town.world, *record);
    }
    let store = folder(&town.world, A, "desk");
    until("all have signed that it is gone", ARRIVES, async || {
        let told = wuling(&["erasures", "--json", "--store", store.to_str().unwrap()]).unwrap();
        let told = told.as_array().unwrap().clone();
        let gone = |of: &serde_json::Value| {
            of["confirmed"] == serde_json::json!([B])
                && of["gateways"] == serde_json::json!(["gateway-1"])
        };
        told.len() == 2 && told.iter().all(gone)
    })
    .await;
    town.world.stop().await;
    for data in ["a", "b", "gateway"] {
        assert!(verified(&town.world, data), "{data}");
        assert_eq!(GONE.map(|text| holds(&town.world, data, text)), [0, 0], "{data}");
    }
}

#[tokio::test]
async fn a_copy_that_goes_on_in_its_epoch_is_seen() {
    let mut town = Town::start().await;
    town.copy("copy").await;
    town.report("lost").await;
    town.agree().await;
    town.world.a.stop().await;
    town.restore(Way::LessFar).await;
    town.world.a.configure(&["known-bad:restore-without-epoch".to_owned()]);
    town.world.a.restart().await;
    // By another phone, which has nothing to offer again.
    let mut other = town.world.enrol(A, Role::Patroller, "other").await;
    let after = report(&mut other, "after");
    other.sync().await.unwrap();
    tokio::time::sleep(STAYS_AWAY).await;
    assert!(!seen(&town.desk_b).await.1.contains(&after), "it came in an epoch that was over");
    // It was for want of an epoch alone.
    town.world.a.stop().await;
    town.world.a.configure(&[]);
    town.world.a.restart().await;
    until("it arrives", ARRIVES, async || seen(&town.desk_b).await.1.contains(&after)).await;
    town.world.stop().await;
}

/// Says that a store is a copy.
async fn again(town: &Town, data: &str) {
    let (path, now) = (town.world.path(data), SystemClock.now());
    linkage::restore_region(&path, &region(A), now, &SystemEntropy).await.unwrap();
}

/// The epoch that a store is in.
async fn epoch_of(store: &Path) -> Epoch {
    let any = Epoch::mint(SystemClock.now(), &SystemEntropy);
    storage::region::Store::open(store, &region(A), any).await.unwrap().0.epoch()
}

#[tokio::test]
async fn two_copies_at_work_are_named_until_a_third_epoch_follows_both() {
    let mut town = Town::start().await;
    town.copy("clone").await;
    town.world.a.stop().await;
    again(&town, "clone").await;
    again(&town, "a").await;
    let (clone, original) =
        (epoch_of(&town.store("clone")).await, epoch_of(&town.store("a")).await);
    assert!(clone < original);
    // What the gateway holds for somebody, it can show.
    town.world.b.stop().await;
    town.world.a.restart().await;
    town.stored().await;
    town.world.a.stop().await;
    let port = free_port();
    let config = fs::read_to_string(town.world.path("a.toml")).unwrap();
    let (a, b) = (town.world.path("a"), town.world.path("clone"));
    let config = config.replace(&a.display().to_string(), &b.display().to_string());
    let config = config.replace(&format!(":{}\"", town.world.a.port), &format!(":{port}\""));
    let (path, log) = (town.world.path("clone.toml"), town.world.path("clone.log"));
    fs::write(&path, config).unwrap();
    let mut cloned = Process::start("wuling-region", &path, port, &log).await;
    until("the one that comes later names it", ARRIVES, async || {
        town.log("clone.log").contains(CLONED)
    })
    .await;
    town.world.b.restart().await;
    until("the neighbour names it", ARRIVES, async || town.log("b.log").contains(CLONED)).await;
    // A person chooses the one that stays.
    cloned.stop().await;
    again(&town, "clone").await;
    let alarms = town.log("b.log").matches(CLONED).count();
    cloned.restart().await;
    tokio::time::sleep(STAYS_AWAY).await;
    assert_eq!(town.log("b.log").matches(CLONED).count(), alarms);
    let epoch = epoch_of(&town.store("clone")).await;
    assert!(epoch > original);
    cloned.stop().await;
}
