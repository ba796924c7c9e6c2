//! A neighbour's entries become views, with the cursor.

use crate::world::*;
use bytes::Bytes;
use domain::kernel::{Kind, Lane, Reason};
use domain::stream::StreamId;
use storage::region::{Applied, Apply, FeedSource, InboxEntry, InboxItem, Views};

fn range(of: &StreamId, from: u64, items: Vec<InboxItem>) -> Apply {
    let entries: Vec<InboxEntry> =
        (from + 1..).zip(items).map(|(seq, item)| entry(seq, item)).collect();
    let after = place(of, from + entries.len() as u64);
    Apply { stream: of.clone(), before: place(of, from), after, entries, now: NOW }
}

fn view(of: i64, n: u64, share_n: u64) -> InboxItem {
    InboxItem::View(view_row("daluba", of, n, share_n))
}

fn parked() -> InboxItem {
    let entry = Bytes::from_static(b"unknown");
    InboxItem::Parked { reason: Reason::KindUnknown, salt: [1; 16], entry }
}

#[tokio::test]
async fn a_range_is_applied_only_where_the_cursor_stands() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    let first = range(&of, 0, vec![control(), view(1, 1, 1)]);
    let stands = Applied { position: place(&of, 2), parked_count: 0 };
    assert_eq!(world.store.apply(first.clone()).await, Ok(stands));
    // Again; beyond a hole; from another hash: nothing moves.
    let mut forked = range(&of, 2, vec![view(3, 1, 1)]);
    forked.before.h = [9; 32];
    for other in [first, range(&of, 3, vec![view(2, 1, 1)]), forked] {
        assert_eq!(world.store.apply(other).await, Ok(stands));
    }
    assert_eq!(world.store.list_received_views(&of).await.unwrap().len(), 1);
    let second = world.store.apply(range(&of, 2, vec![view(2, 1, 1)])).await.unwrap();
    assert_eq!(second.position, place(&of, 3));
    let world = world.reopened().await;
    let inboxes = world.store.list_inboxes().await.unwrap();
    assert_eq!((&inboxes[0].stream, inboxes[0].position), (&of, place(&of, 3)));
    let third = world.store.apply(range(&of, 3, vec![view(4, 1, 1)])).await.unwrap();
    assert_eq!(third.position, place(&of, 4));
}

#[tokio::test]
async fn two_copies_of_a_range_at_once_are_applied_once() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    let apply = range(&of, 0, vec![control(), view(1, 1, 1)]);
    let (one, two) = tokio::join!(world.store.apply(apply.clone()), world.store.apply(apply));
    assert_eq!(one, two);
    assert_eq!(world.look::<i64>("SELECT count(*) FROM view"), 1);
}

#[tokio::test]
async fn parked_entries_are_counted_and_the_stream_moves_on() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    let applied = world.store.apply(range(&of, 0, vec![parked(), view(1, 1, 1), parked()])).await;
    assert_eq!(applied, Ok(Applied { position: place(&of, 3), parked_count: 2 }));
    let newest = world.store.list_parked(&of, 1).await.unwrap();
    assert_eq!(newest, [(3, i64::from(Reason::KindUnknown.code()))]);
    let world = world.reopened().await;
    let applied = world.store.apply(range(&of, 3, vec![parked()])).await.unwrap();
    assert_eq!(applied.parked_count, 3);
}

#[tokio::test]
async fn a_late_lower_revision_is_history_whatever_lane_brought_it() {
    let world = World::new().await;
    let (alert, routine) = (stream("daluba", Lane::Alert), stream("daluba", Lane::Routine));
    world.watched().await;
    let mut commits = world.store.listen();
    world.store.apply(range(&alert, 0, vec![view(1, 3, 3)])).await.unwrap();
    world.store.apply(range(&routine, 0, vec![view(1, 2, 2), view(1, 3, 4)])).await.unwrap();
    let told: Vec<_> = [in_time(commits.recv()).await, in_time(commits.recv()).await]
        .into_iter()
        .flat_map(|commit| commit.unwrap().feed.to_vec())
        .map(|item| item.encoded)
        .collect();
    assert_eq!(told, ["daluba 1 3 3", "daluba 1 3 4"]);
    let found = world.store.find_view(&slug("daluba"), record(1)).await.unwrap().unwrap();
    assert_eq!((found.kind, &found.encoded[..]), (Kind::Event, &b"daluba 1 3 4"[..]));
    // The digest counts all that came.
    assert_eq!(world.store.list_received_views(&routine).await.unwrap().len(), 2);
    let page = world.store.list_kind(Kind::Event, Views::With, u64::MAX, 9).await.unwrap();
    assert_eq!(page.iter().map(|row| &row.encoded[..]).collect::<Vec<_>>(), [b"daluba 1 3 4"]);
}

#[tokio::test]
async fn a_withdrawal_that_comes_first_stays_as_a_tombstone() {
    let world = World::new().await;
    let (alert, routine) = (stream("daluba", Lane::Alert), stream("daluba", Lane::Routine));
    let mut row = view_row("daluba", 1, 2, 2);
    row.view_sha256 = None;
    world.store.apply(range(&alert, 0, vec![InboxItem::Withdrawal(row)])).await.unwrap();
    world.store.apply(range(&routine, 0, vec![view(1, 1, 1)])).await.unwrap();
    let known = async || {
        let found = world.store.find_view(&slug("daluba"), record(1)).await.unwrap();
        found.unwrap().source
    };
    assert_eq!(known().await, FeedSource::Withdrawal);
    let page = world.store.list_kind(Kind::Event, Views::With, u64::MAX, 9).await.unwrap();
    assert!(page.is_empty());
    let feed = world.store.list_feed(0, 9).await.unwrap();
    assert_eq!(feed.items.iter().map(|i| i.source).collect::<Vec<_>>(), [FeedSource::Withdrawal]);
    // Shown again, it is there again.
    world.store.apply(range(&routine, 1, vec![view(1, 3, 3)])).await.unwrap();
    assert_eq!(known().await, FeedSource::View);
}

#[tokio::test]
async fn a_record_of_the_same_id_born_elsewhere_hides_nothing() {
    let world = World::new().await;
    let (honest, forger) = (stream("daluba", Lane::Routine), stream("huolu", Lane::Routine));
    let forged = InboxItem::View(view_row("huolu", 1, 99, 99));
    world.store.apply(range(&forger, 0, vec![forged])).await.unwrap();
    world.store.apply(range(&honest, 0, vec![view(1, 1, 1)])).await.unwrap();
    for (birth, text) in [("daluba", "daluba 1 1 1"), ("huolu", "huolu 1 99 99")] {
        let found = world.store.find_view(&slug(birth), record(1)).await.unwrap();
        assert_eq!(found.unwrap().encoded, text);
    }
    let page = world.store.list_kind(Kind::Event, Views::With, u64::MAX, 9).await.unwrap();
    assert_eq!(page.len(), 2);
}

#[tokio::test]
async fn the_feed_holds_own_records_and_views_in_the_order_they_came() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    world.store.commit(commit(vec![write(1, 1, 1)])).await.unwrap();
    world.store.apply(range(&of, 0, vec![control(), view(2, 1, 1)])).await.unwrap();
    world.store.commit(commit(vec![write(2, 3, 1)])).await.unwrap();
    let feed = world.store.list_feed(0, 9).await.unwrap();
    let found: Vec<_> = feed.items.iter().map(|item| (item.feed_seq, item.source)).collect();
    assert_eq!(found, [(1, FeedSource::Own), (2, FeedSource::View), (3, FeedSource::Own)]);
    assert_eq!(world.store.list_feed(2, 9).await.unwrap().items.len(), 1);
    let (with, without) = (Views::With, Views::Without);
    for (views, before, seqs) in [(with, u64::MAX, vec![3, 2, 1]), (without, 3, vec![1])] {
        let page = world.store.list_kind(Kind::Event, views, before, 9).await.unwrap();
        assert_eq!(page.iter().map(|row| row.feed_seq).collect::<Vec<_>>(), seqs);
    }
    assert!(world.store.list_kind(Kind::Shift, with, u64::MAX, 9).await.unwrap().is_empty());
}
