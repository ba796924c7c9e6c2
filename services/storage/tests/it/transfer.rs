//! Records that change their owner: one at a time, whatever is said of them.

use crate::apply::range;
use crate::world::*;
use bytes::Bytes;
use domain::kernel::{Kind, Lane, Revision};
use domain::stream::{Shown, StreamId};
use domain::transfer::{Direction, ReturnReason, TransferState};
use storage::region::{
    Base, Claim, CommitVerdict, FeedSource, InboxItem, Offered, Step, TransferStep, TransferWord,
    ViewRow,
};

/// Record 1 of this region, offered to `daluba`.
fn offered() -> Offered {
    Offered {
        offer_sha256: [8; 32],
        record_id: record(1),
        birth_region: slug("xiaonanhai"),
        kind: Kind::Event,
        revision: revision(1),
        party: slug("daluba"),
        agreement: stream("xiaonanhai", Lane::Routine).agreement,
        offered_at: NOW,
        expires_at: NOW.plus_days(9),
        offer: Bytes::from_static(b"offer"),
    }
}

fn step(world: &World, step: Step) -> TransferStep {
    let turns = world.store.turns();
    TransferStep { offer_sha256: [8; 32], step, shares: Vec::new(), turns, now: NOW }
}

fn word(word: TransferWord) -> InboxItem {
    InboxItem::Transfer { word, salt: [2; 16], entry: Bytes::from_static(b"word") }
}

/// As [`word`], from `daluba`.
async fn hear(world: &World, of: &StreamId, from: u64, said: TransferWord) {
    world.store.apply(range(of, from, vec![word(said)])).await.unwrap();
}

fn base() -> Base {
    Base { revision: revision(1), shown: Shown::default() }
}

/// The view of a record of `huolu` that `origin` shows as its own after so many changes of hands.
fn seized(t: u32, claim: Claim) -> InboxItem {
    let row = view_row("huolu", 5, 1, 1);
    let revision = Revision { t, ..row.revision };
    InboxItem::View(ViewRow { revision, claim, ..row })
}

#[tokio::test]
async fn nobody_changes_what_is_offered_until_it_is_decided() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    world.store.commit(commit(vec![write(1, 1, 1)])).await.unwrap();
    let decided_before = commit(vec![write(2, 1, 2)]);
    let done = world.store.transfer(step(&world, Step::Offer(offered(), base()))).await.unwrap();
    assert_eq!((done, world.store.is_offered(record(1))), (CommitVerdict::Done, true));
    let again = world.store.transfer(step(&world, Step::Offer(offered(), base()))).await;
    assert_eq!(again, Ok(CommitVerdict::Stale));
    // What was decided before it was offered is handed back, and decided again.
    let late = world.store.commit(decided_before.clone()).await;
    assert_eq!(late, Ok(CommitVerdict::Stale));
    let world = world.reopened().await;
    assert!(world.store.is_offered(record(1)));
    // Only from whom it was offered to.
    let other = stream("huolu", Lane::Routine);
    let back = TransferWord::Return([8; 32], ReturnReason::NotHere);
    hear(&world, &other, 0, back.clone()).await;
    assert!(world.store.is_offered(record(1)));
    hear(&world, &of, 0, back).await;
    assert!(!world.store.is_offered(record(1)));
    let row = world.store.find_transfer(&[8; 32]).await.unwrap().unwrap();
    assert_eq!((row.direction, row.state), (Direction::Out, TransferState::Returned));
    assert_eq!(row.return_reason, Some(ReturnReason::NotHere));
    let mut again = decided_before;
    again.turns = world.store.turns();
    assert_eq!(world.store.commit(again).await, Ok(CommitVerdict::Done));
    // What comes after the decision changes nothing.
    hear(&world, &of, 1, TransferWord::Accept(offered(), Bytes::from_static(b"accept"))).await;
    let row = world.store.find_transfer(&[8; 32]).await.unwrap().unwrap();
    assert_eq!(row.state, TransferState::Returned);
}

#[tokio::test]
async fn what_is_accepted_leaves_the_feed_and_comes_back_with_no_restart() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    world.store.commit(commit(vec![write(1, 1, 1)])).await.unwrap();
    world.store.transfer(step(&world, Step::Offer(offered(), base()))).await.unwrap();
    hear(&world, &of, 0, TransferWord::Accept(offered(), Bytes::from_static(b"accept"))).await;
    // Still here, and nobody's to change, until it was told to all who were shown it.
    assert!(world.store.is_offered(record(1)));
    let due = world.store.list_due_transfers(9).await.unwrap();
    assert_eq!(
        (due.len(), due[0].is_due, due[0].accept.as_deref()),
        (1, true, Some(&b"accept"[..]))
    );
    let withdrawal = Bytes::from_static(b"gone");
    let gone = Step::Gone { base: Some(base()), withdrawal: withdrawal.clone() };
    let done = world.store.transfer(step(&world, gone.clone())).await;
    assert_eq!(done, Ok(CommitVerdict::Done));
    assert_eq!(world.store.transfer(step(&world, gone)).await, Ok(CommitVerdict::Stale));
    let world = world.reopened().await;
    assert!(world.store.find_record(record(1)).await.unwrap().is_none());
    assert!(world.store.list_due_transfers(9).await.unwrap().is_empty());
    let feed = world.store.list_feed(0, 9).await.unwrap().items;
    let [told] = feed.as_slice() else { panic!("{feed:?}") };
    assert_eq!((told.source, &told.encoded), (FeedSource::Withdrawal, &withdrawal));
    assert_eq!(world.look::<i64>("SELECT count(*) FROM record_history"), 1);
    // The next place in the feed is a new one.
    world.store.commit(commit(vec![write(2, 2, 1)])).await.unwrap();
    let next = world.store.list_feed(told.feed_seq, 9).await.unwrap().items;
    assert_eq!(next.len(), 1);
}

#[tokio::test]
async fn a_store_from_before_the_offer_hears_that_it_was_accepted() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    world.store.commit(commit(vec![write(1, 1, 1)])).await.unwrap();
    hear(&world, &of, 0, TransferWord::Accept(offered(), Bytes::from_static(b"accept"))).await;
    let due = world.store.list_due_transfers(9).await.unwrap();
    assert_eq!((due.len(), due[0].state), (1, TransferState::Accepted));
    assert!(world.store.is_offered(record(1)));
}

#[tokio::test]
async fn of_two_who_claim_a_record_the_first_counts_and_who_proves_nothing_must_be_known() {
    let world = World::new().await;
    let (one, other) = (stream("daluba", Lane::Routine), stream("xianfeng", Lane::Routine));
    let parked = async |of: &StreamId, from: u64, item: InboxItem| {
        world.store.apply(range(of, from, vec![item])).await.unwrap().parked_count
    };
    // Nobody has seen it there.
    assert_eq!(parked(&one, 0, seized(1, Claim::Unproven)).await, 1);
    assert_eq!(parked(&one, 1, seized(1, Claim::Proven)).await, 1, "it is proven");
    assert_eq!(parked(&one, 2, seized(1, Claim::Unproven)).await, 1, "it was seen there");
    // Its former owner has given it away twice.
    assert_eq!(parked(&other, 0, seized(1, Claim::Proven)).await, 1);
    // From the first it goes on to the second by right.
    assert_eq!(parked(&other, 1, seized(2, Claim::Proven)).await, 1);
    let why: i64 = world.look("SELECT max(reason) FROM parked");
    assert_eq!(why, i64::from(domain::kernel::Reason::NotTheOwner.code()));
    let kept: i64 = world.look("SELECT count(*) FROM view WHERE current = 1");
    assert_eq!(kept, 1, "one agreement, one newest");
}

#[tokio::test]
async fn what_was_offered_and_what_was_done_before_it_was_given_go_in_their_time() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    world.store.commit(commit(vec![write(1, 1, 1)])).await.unwrap();
    world.store.transfer(step(&world, Step::Offer(offered(), base()))).await.unwrap();
    let accept = TransferWord::Accept(offered(), Bytes::from_static(b"accept"));
    let here = Offered { offer_sha256: [9; 32], record_id: record(2), ..offered() };
    let said = vec![word(accept), word(TransferWord::Offer(here, Bytes::from_static(b"record")))];
    world.store.apply(range(&of, 0, said)).await.unwrap();
    let withdrawal = Bytes::from_static(b"gone");
    let gone = Step::Gone { base: Some(base()), withdrawal };
    world.store.transfer(step(&world, gone)).await.unwrap();
    let kept = "SELECT (SELECT count(*) FROM record_history) + (SELECT count(*) FROM transfer WHERE record IS NOT NULL)";
    assert!(world.store.list_expired(NOW.plus_days(8), 9).await.unwrap().is_empty());
    assert_eq!(world.look::<i64>(kept), 2);
    let expired = world.store.list_expired(NOW.plus_days(9), 9).await.unwrap();
    world.store.expire(expired).await.unwrap();
    assert_eq!(world.look::<i64>(kept), 0);
    assert!(world.store.list_expired(NOW.plus_days(99), 9).await.unwrap().is_empty());
    let late = world.store.find_transfer(&[9; 32]).await.unwrap().unwrap();
    assert_eq!(late.state, TransferState::Returned);
}
