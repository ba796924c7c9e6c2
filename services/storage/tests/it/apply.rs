//! A neighbour's entries become views, with the cursor.

use crate::world::*;
use bytes::Bytes;
use domain::kernel::{Kind, Lane, Reason};
use domain::stream::StreamId;
use storage::region::{Applied, Apply, FeedSource, InboxEntry, InboxItem, ViewRow, Views};

pub(crate) fn range(of: &StreamId, from: u64, items: Vec<InboxItem>) -> Apply {
    let entries: Vec<InboxEntry> =
        (from + 1..).zip(items).map(|(seq, item)| entry(seq, item)).collect();
    let after = place(of, from + entries.len() as u64);
    Apply {
        stream: of.clone(),
        before: place(of, from),
        after,
        entries,
        parents: Vec::new(),
        now: NOW,
    }
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
    let stands = Applied { position: place(&of, 2), parked_count: 0, cloned: false };
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
    assert_eq!(applied, Ok(Applied { position: place(&of, 3), parked_count: 2, cloned: false }));
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
    let found = world.store.list_views_of(record(1)).await.unwrap().remove(0);
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
    let known = async || world.store.list_views_of(record(1)).await.unwrap()[0].source;
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
async fn what_is_erased_keeps_its_place_in_the_chain_and_takes_nothing_else_along() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    let mut shown = view_row("daluba", 1, 1, 1);
    shown.entry = Some(Bytes::from_static(b"as it came"));
    let held = seal::chain::commitment(&shown.salt, b"as it came");
    let shown = InboxItem::View(shown);
    world.store.apply(range(&of, 0, vec![control(), shown, view(2, 1, 1)])).await.unwrap();
    let mut row = view_row("daluba", 1, 2, 2);
    row.view_sha256 = None;
    // The origin names another commitment than its entry had, and a place that is not the record's.
    let erase = InboxItem::Erase(row, vec![(2, [9; 32]), (3, [9; 32])]);
    world.store.apply(range(&of, 3, vec![erase])).await.unwrap();
    let places = "SELECT group_concat(seq) FROM control WHERE salt = zeroblob(16)";
    assert_eq!(world.look::<String>(places), "2");
    let kept: Vec<u8> = world.look("SELECT entry FROM control WHERE seq = 2");
    assert_eq!(kept, held);
    assert_eq!(world.look::<i64>("SELECT count(*) FROM view WHERE seq = 2"), 0);
    let other = world.store.list_views_of(record(2)).await.unwrap();
    assert_eq!(other[0].encoded, "daluba 2 1 1");
}

#[tokio::test]
async fn a_record_of_the_same_id_born_elsewhere_hides_nothing() {
    let world = World::new().await;
    let (honest, forger) = (stream("daluba", Lane::Routine), stream("huolu", Lane::Routine));
    let forged = InboxItem::View(view_row("huolu", 1, 99, 99));
    world.store.apply(range(&forger, 0, vec![forged])).await.unwrap();
    world.store.apply(range(&honest, 0, vec![view(1, 1, 1)])).await.unwrap();
    let found = world.store.list_views_of(record(1)).await.unwrap();
    let found: Vec<_> = found.iter().map(|found| &found.encoded[..]).collect();
    assert_eq!(found, [&b"huolu 1 99 99"[..], b"daluba 1 1 1"]);
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

#[tokio::test]
async fn views_of_two_agreements_do_not_overrule_each_other() {
    let world = World::new().await;
    let one = stream("daluba", Lane::Routine);
    let other = StreamId { agreement: another_agreement(), ..one.clone() };
    let of = |text: &'static str, n, share_n| {
        let encoded = text.as_bytes().into();
        InboxItem::View(ViewRow { encoded, ..view_row("daluba", 1, n, share_n) })
    };
    let found = async || {
        let found = world.store.list_views_of(record(1)).await.unwrap();
        found.into_iter().map(|view| (view.source, view.encoded)).collect::<Vec<_>>()
    };
    let shown = |text: &'static str| (FeedSource::View, Bytes::from_static(text.as_bytes()));
    // Each counts its own: the second agreement has shown less, and is not history for that.
    world.store.apply(range(&one, 0, vec![of("one 1", 1, 1), of("one 2", 2, 7)])).await.unwrap();
    world.store.apply(range(&other, 0, vec![of("other 2", 2, 1)])).await.unwrap();
    assert_eq!(found().await, [shown("other 2"), shown("one 2")]);
    world.store.apply(range(&one, 2, vec![of("one 3", 3, 8)])).await.unwrap();
    assert_eq!(found().await, [shown("one 3"), shown("other 2")]);
    let page = world.store.list_kind(Kind::Event, Views::With, u64::MAX, 9).await.unwrap();
    assert_eq!(page.len(), 1, "a record is listed once");
    // The feed tells each that was the newest when it came.
    assert_eq!(world.store.list_feed(0, 9).await.unwrap().items.len(), 4);
    // Withdrawn by one, it is still shown by the other.
    let mut row = view_row("daluba", 1, 3, 9);
    row.view_sha256 = None;
    world.store.apply(range(&one, 3, vec![InboxItem::Withdrawal(row)])).await.unwrap();
    let left = found().await;
    assert_eq!((left.len(), &left[0]), (2, &shown("other 2")));
    assert_eq!(left[1].0, FeedSource::Withdrawal);
    let page = world.store.list_kind(Kind::Event, Views::With, u64::MAX, 9).await.unwrap();
    assert_eq!(page[0].encoded, "other 2");
}
