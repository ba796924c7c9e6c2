//! Goal: what has had its time is deleted here, at the neighbour and at the gateway; the chains still verify, both sides
//! hold the same, and what has time left stays. Method: real servers; the time of one record is set to be over, in the
//! places where a store keeps it, while they are stopped.

use crate::erasure::{holds, verified};
use crate::explain::report;
use crate::harness::{A, ARRIVES, B, World, converged, event, pull_all, until, views};
use domain::kernel::{RecordId, Role};
use domain::operation::Change;
use proto::device::v1::change::Subject;
use rusqlite::Connection;

const GONE: &str = "canaryofwhathashaditstime";
const STAYS: &str = "canaryofwhathastimeleft";
/// What stands before an entry in a run: chain hash, salt, when it expires, length.
const HASH_AND_SALT: usize = 48;

/// Sets in a run when the entries of a record expire.
fn over(run: &mut [u8], record: RecordId) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < run.len() {
        let expires = at + HASH_AND_SALT;
        let length = u32::from_be_bytes(run[expires + 8..expires + 12].try_into().unwrap());
        let (begins, ends) = (expires + 12, expires + 12 + length as usize);
        if run[begins..ends].windows(16).any(|window| window == record.as_bytes()) {
            run[expires..expires + 8].copy_from_slice(&1_i64.to_be_bytes());
            count += 1;
        }
        at = ends;
    }
    count
}

fn open(world: &World, data: &str, region: &str) -> Connection {
    Connection::open(world.path(data).join("regions").join(region).join("store.sqlite")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_had_its_time_is_nowhere_and_what_has_time_left_stays() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let gone = report(&mut phone, Change::ReportEvent(event(GONE))).await;
    report(&mut phone, Change::ReportEvent(event(STAYS))).await;
    until("both arrive", ARRIVES, async || views(desk_b.channel()).await == 2).await;
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    world.a.stop().await;
    world.b.stop().await;

    let of_a = open(&world, "a", A);
    let record = "UPDATE record SET expires_at = 1 WHERE record_id = ?1";
    assert_eq!(of_a.execute(record, [gone.as_bytes()]).unwrap(), 1);
    let runs: Vec<(i64, i64, Vec<u8>)> = of_a
        .prepare("SELECT stream_no, last_seq, entries FROM outbox")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let mut count = 0;
    for (stream, last_seq, mut entries) in runs {
        count += over(&mut entries, gone);
        let run = "UPDATE outbox SET entries = ?3, expires_first = 0 WHERE stream_no = ?1 AND last_seq = ?2";
        assert_eq!(of_a.execute(run, (stream, last_seq, entries)).unwrap(), 1);
    }
    assert_eq!(count, 1, "it was shown once");
    let view = "UPDATE view SET expires_at = 1 WHERE record_id = ?1";
    assert_eq!(open(&world, "b", B).execute(view, [gone.as_bytes()]).unwrap(), 1);
    drop(of_a);
    assert!(holds(&world, "a", GONE) > 0 && holds(&world, "b", GONE) > 0, "the search is blind");

    world.a.restart().await;
    world.b.restart().await;
    for data in ["a", "b"] {
        until("it is deleted", ARRIVES, async || holds(&world, data, GONE) == 0).await;
        assert!(holds(&world, data, STAYS) > 0, "{data}");
    }
    let seen = pull_all(desk_b.channel()).await;
    let views_left =
        |change: &&proto::device::v1::Change| matches!(change.subject, Some(Subject::View(_)));
    assert_eq!(seen.iter().filter(views_left).count(), 1);
    report(&mut phone, Change::ReportEvent(event("后来"))).await;
    until("what comes after arrives", ARRIVES, async || views(desk_b.channel()).await == 2).await;
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), ARRIVES).await, 2);
    // Whatever the gateway held of it in a sealed packaging: it has said that it deleted that.
    let said = "SELECT count(*) FROM erasure_gateway WHERE feed_seq < 0";
    until("the gateway has deleted it", ARRIVES, async || {
        open(&world, "a", A).query_row(said, [], |row| row.get::<_, i64>(0)).unwrap() == 1
    })
    .await;
    world.stop().await;
    for data in ["a", "b", "gateway"] {
        assert!(verified(&world, data), "{data}");
        assert_eq!(holds(&world, data, GONE), 0, "{data}");
    }
}
