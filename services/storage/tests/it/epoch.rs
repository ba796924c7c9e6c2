//! A store that was restored from a copy goes on in a new epoch.

use crate::apply::range;
use crate::turn::{rows, turn};
use crate::world::*;
use domain::kernel::{Epoch, Lane, Timestamp};
use domain::stream::{LastShown, Parent, Position, Shown, Standing, StreamId};
use storage::region::{
    Base, Commit, CommitVerdict, OpenEpoch, Places, ReceiptRow, Reshare, TurnPage,
};

fn later(n: i64) -> Epoch {
    Epoch::mint_after(epoch(), Timestamp::from_micros(n * 1_000_000), &Zeros)
}

fn opens(left: Epoch, epoch: Epoch) -> OpenEpoch {
    let of = stream("xiaonanhai", Lane::Routine);
    let recipients = [((of.agreement, of.version), vec![slug("daluba")])].into();
    OpenEpoch { region: slug("xiaonanhai"), left, epoch, beside: Vec::new(), recipients, now: NOW }
}

async fn done(world: &World, items: Vec<storage::region::CommitItem>) {
    let commit = Commit { turns: world.store.turns(), ..commit(items) };
    assert_eq!(world.store.commit(commit).await, Ok(CommitVerdict::Done));
}

#[tokio::test]
async fn nothing_is_numbered_any_more_in_an_epoch_that_was_left() {
    let world = World::new().await;
    let old = stream("xiaonanhai", Lane::Routine);
    world.store.turn(turn(&old, 1, true)).await.unwrap();
    done(&world, vec![shown(&old, 1, 1, 1)]).await;
    let height = world.store.height().await.unwrap();
    let decided = Commit { turns: world.store.turns(), ..commit(vec![shown(&old, 2, 2, 1)]) };
    assert_eq!(world.store.open_epoch(opens(epoch(), later(1))).await, Ok(later(1)));
    assert_eq!(world.store.epoch(), later(1));
    assert_eq!(world.store.commit(decided).await, Ok(CommitVerdict::Stale));
    // Whoever finds it out a moment later opens no second one.
    assert_eq!(world.store.open_epoch(opens(epoch(), later(2))).await, Ok(later(1)));
    // The new stream begins with where the old one was left.
    let new = StreamId { epoch: later(1), ..old.clone() };
    done(&world, vec![shown(&new, 3, 3, 1)]).await;
    let last = rows(&world, &old).await.last().map(|(position, _)| *position);
    assert_eq!(last.map(|last| last.seq), Some(2));
    let parents = [Parent { epoch: epoch(), last }];
    let start = seal::entry::start(&OPENING.agreement_sha256, None, &parents);
    let numbered = rows(&world, &new).await;
    assert_eq!((numbered.len(), &numbered[0].1), (2, &start));
    // A version ends the streams of this epoch alone.
    world.store.turn(turn(&new, 2, false)).await.unwrap();
    assert_eq!((rows(&world, &old).await.len(), rows(&world, &new).await.len()), (2, 3));
    let world = world.reopened().await;
    assert_eq!((world.store.epoch(), world.store.parents()), (later(1), vec![epoch()]));
    assert!(world.store.height().await.unwrap() > height);
    assert_eq!(world.store.open_epoch(opens(later(1), later(3))).await, Ok(later(3)));
    assert_eq!(world.store.parents(), [later(1)]);
    // One that is not greater is none.
    assert_eq!(world.store.open_epoch(opens(later(3), later(2))).await, Ok(later(3)));
}

/// What takes a record back, as it goes over the wire: record id, kind, birth region, revision, count, reason.
fn leave(of: i64) -> bytes::Bytes {
    let revision = [&[0x12, 16], epoch().as_bytes().as_slice(), &[0x18, 1]].concat();
    let leave = [
        &[0x0a, 16],
        record(of).as_bytes().as_slice(),
        &[0x10, 6, 0x1a, 10],
        b"xiaonanhai",
        &[0x22, 20],
        &revision,
        &[0x28, 2, 0x30, 3],
    ]
    .concat();
    [&[0x1a, u8::try_from(leave.len()).unwrap()], leave.as_slice()].concat().into()
}

#[tokio::test]
async fn what_is_open_is_shown_again_and_what_was_taken_back_where_not_all_have_signed_for_it() {
    let world = World::new().await;
    let old = stream("xiaonanhai", Lane::Routine);
    world.store.turn(turn(&old, 1, true)).await.unwrap();
    let at = |seconds: i64| NOW.plus_millis(seconds * 1_000);
    for n in 1..=3 {
        let mut item = shown(&old, n, n, 1);
        item.write.as_mut().unwrap().shares[0].entry = leave(n);
        let commit = Commit { turns: world.store.turns(), now: at(n), ..commit(vec![item]) };
        assert_eq!(world.store.commit(commit).await, Ok(CommitVerdict::Done));
    }
    // Start, and the first two records.
    let signed = rows(&world, &old).await[2].0;
    let receipt = ReceiptRow {
        stream: old.clone(),
        party: slug("daluba"),
        position: signed,
        parked_count: 0,
        received_at: NOW,
        signed: bytes::Bytes::new(),
    };
    world.store.keep_receipt(receipt).await.unwrap();
    assert_eq!(world.store.find_turn(old.agreement, 1).await.unwrap(), None);
    world.store.open_epoch(opens(epoch(), later(1))).await.unwrap();
    let places = Places { after: 0, through: 3, again_from: 3 };
    assert_eq!(world.store.find_turn(old.agreement, 1).await.unwrap(), Some(places));
    // A page that was decided in the epoch before moves nothing.
    let row = world.store.find_record(record(1)).await.unwrap().unwrap();
    let mut anew = Shown::default();
    let last =
        LastShown { share_n: 2, lane: old.lane, standing: Standing::Shown, since_version: 1 };
    anew.set(old.agreement, last);
    let page = |epoch: Epoch| {
        let stream = StreamId { epoch, ..old.clone() };
        let base = Base { revision: row.revision, shown: row.shown.clone() };
        let shares = vec![share(&stream, 1, 2)];
        let shown = anew.clone();
        let records = vec![Reshare { record_id: record(1), base, shown, shares }];
        TurnPage { agreement: old.agreement, version: 1, epoch, records, after_seq: 3, now: NOW }
    };
    world.store.turn_page(page(epoch())).await.unwrap();
    assert_eq!(world.store.find_turn(old.agreement, 1).await.unwrap(), Some(places));
    world.store.turn_page(page(later(1))).await.unwrap();
    assert_eq!(world.store.find_turn(old.agreement, 1).await.unwrap(), None);
    let new = StreamId { epoch: later(1), ..old.clone() };
    assert_eq!((rows(&world, &old).await.len(), rows(&world, &new).await.len()), (4, 2));
}

/// Whether a neighbour that opens an epoch is found to be two.
async fn is_cloned(world: &World, epoch: Epoch, parents: &[Epoch]) -> bool {
    let of = StreamId { epoch, ..stream("daluba", Lane::Routine) };
    let mut opens = range(&of, 0, vec![control()]);
    let parent = |epoch: &Epoch| Parent { epoch: *epoch, last: None };
    opens.parents = parents.iter().map(parent).collect();
    world.store.apply(opens).await.unwrap().cloned
}

#[tokio::test]
async fn two_epochs_out_of_one_are_two_copies_at_work_until_a_third_follows_both() {
    let world = World::new().await;
    assert!(!is_cloned(&world, epoch(), &[]).await);
    assert!(!is_cloned(&world, later(1), &[epoch()]).await);
    // Again in another lane it is the same epoch.
    let alert = StreamId { epoch: later(1), ..stream("daluba", Lane::Alert) };
    let mut again = range(&alert, 0, vec![control()]);
    again.parents = vec![Parent { epoch: epoch(), last: Some(Position { seq: 1, h: [1; 32] }) }];
    assert!(!world.store.apply(again).await.unwrap().cloned);
    assert!(is_cloned(&world, later(2), &[epoch()]).await);
    assert!(!is_cloned(&world, later(3), &[later(1), later(2)]).await);
    // One more copy of the first.
    let world = world.reopened().await;
    assert!(is_cloned(&world, later(4), &[epoch()]).await);
    // The third may come first.
    let world = World::new().await;
    for (n, parents) in [(3, vec![later(1), later(2)]), (1, vec![epoch()]), (2, vec![epoch()])] {
        assert!(!is_cloned(&world, later(n), &parents).await, "{n}");
    }
}

#[tokio::test]
async fn what_another_copy_has_opened_is_followed_by_the_next() {
    let world = World::new().await;
    world.store.open_epoch(opens(epoch(), later(1))).await.unwrap();
    world.store.note_epoch_beside(slug("xiaonanhai"), later(2)).await.unwrap();
    let world = world.reopened().await;
    assert_eq!(world.store.epochs_beside(), [later(2)]);
    let next = OpenEpoch { beside: world.store.epochs_beside(), ..opens(later(1), later(3)) };
    world.store.open_epoch(next).await.unwrap();
    assert_eq!(world.store.parents(), [later(1), later(2)]);
    let world = world.reopened().await;
    assert_eq!((world.store.epochs_beside(), world.store.parents().len()), (Vec::new(), 2));
}

#[tokio::test]
async fn what_was_shown_under_an_earlier_version_is_called_off_in_the_new_epoch_too() {
    let world = World::new().await;
    let first = stream("xiaonanhai", Lane::Routine);
    world.store.turn(turn(&first, 1, true)).await.unwrap();
    done(&world, vec![shown(&first, 1, 1, 1)]).await;
    world.store.turn(turn(&first, 2, true)).await.unwrap();
    world.store.open_epoch(opens(epoch(), later(1))).await.unwrap();
    let first = StreamId { epoch: later(1), ..first };
    let second = StreamId { version: 2, ..first.clone() };
    let mut off = shown(&second, 2, 1, 2);
    let write = off.write.as_mut().unwrap();
    let mut leave = share(&first, 1, 2);
    leave.behind_end = true;
    write.shares.push(leave);
    done(&world, vec![off]).await;
    assert_eq!((rows(&world, &first).await.len(), rows(&world, &second).await.len()), (2, 2));
    // Nothing ends it any more, and what comes after ends the one that is shown in.
    world.store.turn(turn(&first, 3, false)).await.unwrap();
    assert_eq!((rows(&world, &first).await.len(), rows(&world, &second).await.len()), (2, 3));
}
