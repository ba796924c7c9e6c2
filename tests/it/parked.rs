//! Goal: what a region could not use was kept with its place and its reason, and is shown once a release that can use
//! it is started. Method: real servers; an entry is set aside as an older release would have done it. That what no
//! release can use stays is held in services/exchange/src/open/tests.rs.

use crate::erasure::verified;
use crate::explain::report;
use crate::harness::{A, ARRIVES, B, World, converged, event, pull_all, states, until, views};
use domain::kernel::{Reason, RecordId, Role};
use domain::operation::Change;
use proto::device::v1::change::Subject;
use rusqlite::Connection;

/// Sets the entry of a record aside, as a release does that does not know its kind.
fn set_aside(world: &World, record: RecordId) {
    let path = world.path("b/regions").join(B).join("store.sqlite");
    let conn = Connection::open(path).unwrap();
    let row = "SELECT inbox_no, seq, salt, encoded FROM view WHERE record_id = ?1";
    let (inbox, seq, salt, encoded): (i64, i64, Vec<u8>, Vec<u8>) = conn
        .query_row(row, [record.as_bytes()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap();
    let entry = seal::entry::of_sent(encoded.into()).unwrap();
    let reason = Reason::KindUnknown.code();
    conn.execute(
        "INSERT INTO parked (inbox_no, seq, reason, salt, entry, parked_at) VALUES (?1, ?2, ?3, ?4, ?5, 0)",
        (inbox, seq, reason, salt, entry.as_ref()),
    )
    .unwrap();
    let gone = "DELETE FROM view WHERE record_id = ?1";
    assert_eq!(conn.execute(gone, [record.as_bytes()]).unwrap(), 1);
    let count = "UPDATE inbox SET parked_count = parked_count + 1 WHERE inbox_no = ?1";
    assert_eq!(conn.execute(count, [inbox]).unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_release_has_set_aside_is_shown_by_one_that_can_use_it() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    report(&mut phone, Change::ReportEvent(event("先到"))).await;
    let record = report(&mut phone, Change::ReportEvent(event("搁置"))).await;
    until("both arrive", ARRIVES, async || views(desk_b.channel()).await == 2).await;
    world.b.stop().await;
    assert!(verified(&world, "b"));
    set_aside(&world, record);
    assert!(verified(&world, "b"), "it is held as an older release would");
    world.b.restart().await;
    until("it is shown", ARRIVES, async || {
        let changes = pull_all(desk_b.channel()).await;
        changes.iter().any(|change| match &change.subject {
            Some(Subject::View(view)) => {
                let meta = view.view.as_ref().and_then(|view| view.meta.as_ref());
                meta.is_some_and(|meta| meta.record_id == record.as_bytes().as_slice())
            }
            _ => false,
        })
    })
    .await;
    until("it says so", ARRIVES, async || {
        world.b.log_text().contains("what was set aside is shown now")
    })
    .await;
    let state = states(desk_b.channel()).await.unwrap();
    assert!(state.streams.iter().all(|row| row.parked_count == 0), "{state:?}");
    // Nothing is left of it, and all goes on.
    report(&mut phone, Change::ReportEvent(event("后到"))).await;
    until("the next arrives", ARRIVES, async || views(desk_b.channel()).await == 3).await;
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), ARRIVES).await, 3);
    world.stop().await;
    assert!(verified(&world, "b"));
}
