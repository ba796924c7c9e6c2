//! One agreement version takes another's place.

use crate::world::*;
use domain::kernel::Lane;
use domain::stream::{LastShown, Position, Shown, StreamId};
use storage::region::{Base, Commit, CommitVerdict, Places, Reshare, Turn, TurnPage};

fn second(of: &StreamId) -> StreamId {
    StreamId { version: 2, ..of.clone() }
}

pub(crate) fn turn(of: &StreamId, version: u32, shows_open: bool) -> Turn {
    Turn {
        agreement: of.agreement,
        version,
        openings: vec![OPENING; 3],
        writes: true,
        shows_open,
        expires_at: NOW.plus_days(9),
        now: NOW,
    }
}

fn places(after: u64, through: u64) -> Places {
    Places { after, through, again_from: u64::MAX }
}

pub(crate) async fn rows(world: &World, of: &StreamId) -> Vec<(Position, bytes::Bytes)> {
    let rows = world.store.list_outbox(of, 0, 100).await.unwrap();
    rows.into_iter().map(|row| (row.position, row.entry)).collect()
}

#[tokio::test]
async fn the_streams_before_end_where_the_new_ones_say_they_do() {
    let world = World::new().await;
    let (alert, routine) = (stream("xiaonanhai", Lane::Alert), stream("xiaonanhai", Lane::Routine));
    for (n, of) in [(1, &alert), (2, &routine), (3, &routine)] {
        let items = vec![shown(of, n, n, 1)];
        assert_eq!(world.store.commit(commit(items)).await, Ok(CommitVerdict::Done));
    }
    world.store.turn(turn(&alert, 2, true)).await.unwrap();
    assert_eq!(world.store.version_in_force(alert.agreement), Some(2));
    for (of, last) in [(&alert, 3), (&routine, 4)] {
        let before = rows(&world, of).await;
        let (end, entry) = before.last().unwrap();
        assert_eq!((end.seq, entry), (last, &seal::entry::end(2, &OPENING.agreement_sha256)));
        let start = seal::entry::start(&OPENING.agreement_sha256, Some((1, *end)), &[]);
        let after = rows(&world, &second(of)).await;
        assert_eq!(after.iter().map(|(_, entry)| entry).collect::<Vec<_>>(), [&start]);
    }
    // Again, and after a restart, it is what it was; what was read back goes on.
    world.store.turn(turn(&alert, 2, true)).await.unwrap();
    let world = world.reopened().await;
    assert_eq!(world.store.version_in_force(alert.agreement), Some(2));
    assert_eq!(world.store.list_streams().await.unwrap().len(), 4);
    let later = vec![shown(&second(&alert), 9, 9, 1)];
    assert_eq!(
        world.store.commit(Commit { turns: world.store.turns(), ..commit(later) }).await,
        Ok(CommitVerdict::Done)
    );
    assert_eq!(rows(&world, &second(&alert)).await.len(), 2);
}

#[tokio::test]
async fn what_was_decided_under_the_version_before_is_handed_back() {
    let world = World::new().await;
    let routine = stream("xiaonanhai", Lane::Routine);
    world.store.turn(turn(&routine, 1, true)).await.unwrap();
    let fresh = vec![shown(&routine, 1, 1, 1)];
    assert_eq!(
        world.store.commit(Commit { turns: world.store.turns(), ..commit(fresh) }).await,
        Ok(CommitVerdict::Done)
    );
    world.store.turn(turn(&routine, 2, true)).await.unwrap();
    let late = vec![shown(&routine, 2, 2, 1)];
    assert_eq!(world.store.commit(commit(late)).await, Ok(CommitVerdict::Stale));
    // Also in a lane in which the version before has shown nothing.
    let alert = stream("xiaonanhai", Lane::Alert);
    let late = vec![shown(&alert, 3, 3, 1)];
    assert_eq!(world.store.commit(commit(late)).await, Ok(CommitVerdict::Stale));
    // And what shows nothing: under the version in force it might.
    let late = vec![write(5, 5, 1)];
    assert_eq!(world.store.commit(commit(late)).await, Ok(CommitVerdict::Stale));
    let mut off = shown(&second(&routine), 4, 1, 2);
    let write = off.write.as_mut().unwrap();
    let mut leave = share(&routine, 1, 2);
    leave.behind_end = true;
    write.shares.push(leave);
    assert_eq!(
        world.store.commit(Commit { turns: world.store.turns(), ..commit(vec![off]) }).await,
        Ok(CommitVerdict::Done)
    );
    assert_eq!(rows(&world, &routine).await.len(), 4, "start, view, end, and what calls it off");
    // The version that went is not put into force again.
    world.store.turn(turn(&routine, 1, true)).await.unwrap();
    assert_eq!(world.store.version_in_force(routine.agreement), Some(2));
}

#[tokio::test]
async fn what_a_version_had_yet_to_show_is_shown_under_the_one_that_takes_its_place() {
    let world = World::new().await;
    let routine = stream("xiaonanhai", Lane::Routine);
    let items = (1..=3).map(|n| shown(&routine, n, n, 1)).collect();
    assert_eq!(world.store.commit(commit(items)).await, Ok(CommitVerdict::Done));
    world.store.turn(turn(&routine, 2, true)).await.unwrap();
    world.store.turn(turn(&routine, 3, false)).await.unwrap();
    assert_eq!(world.store.find_turn(routine.agreement, 3).await.unwrap(), Some(places(0, 3)));
    let (agreement, records) = (routine.agreement, Vec::new());
    let page = TurnPage { agreement, version: 3, epoch: epoch(), records, after_seq: 3, now: NOW };
    world.store.turn_page(page).await.unwrap();
    world.store.turn(turn(&routine, 4, false)).await.unwrap();
    assert_eq!(world.store.find_turn(routine.agreement, 4).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_open_is_shown_anew_page_by_page_but_for_what_has_changed() {
    let world = World::new().await;
    let routine = stream("xiaonanhai", Lane::Routine);
    let items = (1..=3).map(|n| shown(&routine, n, n, 1)).collect();
    assert_eq!(world.store.commit(commit(items)).await, Ok(CommitVerdict::Done));
    world.store.turn(turn(&routine, 2, true)).await.unwrap();
    let found = world.store.find_turn(routine.agreement, 2).await.unwrap();
    assert_eq!(found, Some(places(0, 3)));
    let open = world.store.list_records(places(0, 3), 2).await.unwrap();
    assert_eq!(
        open.iter().map(|(at, row)| (*at, row.record_id)).collect::<Vec<_>>(),
        [(1, record(1)), (2, record(2))]
    );
    // Meanwhile the second goes on: it was decided under the version in force.
    let changed = vec![shown(&second(&routine), 4, 2, 2)];
    assert_eq!(
        world.store.commit(Commit { turns: world.store.turns(), ..commit(changed) }).await,
        Ok(CommitVerdict::Done)
    );
    let anew = |share_n| {
        let mut shown = Shown::default();
        let (lane, standing) = (routine.lane, domain::stream::Standing::Shown);
        shown.set(routine.agreement, LastShown { share_n, lane, standing, since_version: 1 });
        shown
    };
    let records = open.iter().map(|(_, row)| Reshare {
        record_id: row.record_id,
        base: Base { revision: row.revision, shown: row.shown.clone() },
        shown: anew(7),
        shares: vec![share(&second(&routine), 8, 7)],
    });
    let page = TurnPage {
        agreement: routine.agreement,
        version: 2,
        epoch: epoch(),
        records: records.collect(),
        after_seq: 2,
        now: NOW,
    };
    world.store.turn_page(page.clone()).await.unwrap();
    assert_eq!(rows(&world, &second(&routine)).await.len(), 3, "start, the change, one anew");
    let shown_of = |n| world.store.find_record(record(n));
    assert_eq!(shown_of(1).await.unwrap().unwrap().shown, anew(7));
    assert_ne!(shown_of(2).await.unwrap().unwrap().shown, anew(7));
    assert_eq!(world.store.find_turn(routine.agreement, 2).await.unwrap(), Some(places(2, 3)));
    // The same page again finds what it has changed itself.
    world.store.turn_page(page).await.unwrap();
    assert_eq!(rows(&world, &second(&routine)).await.len(), 3);
    let rest = TurnPage {
        agreement: routine.agreement,
        version: 2,
        epoch: epoch(),
        records: Vec::new(),
        after_seq: 3,
        now: NOW,
    };
    world.store.turn_page(rest).await.unwrap();
    let world = world.reopened().await;
    assert_eq!(world.store.find_turn(routine.agreement, 2).await.unwrap(), None);
}
