//! What lies beyond a cut is kept and shown to nobody, until the cut is lifted or a person has it released.

use crate::apply::range;
use crate::world::*;
use bytes::Bytes;
use domain::kernel::{Kind, Lane, Reason, RecordId, RegionId};
use domain::quarantine::ReleaseReason;
use domain::stream::{Position, StreamId};
use std::collections::BTreeSet;
use std::slice;
use storage::region::{
    Apply, Cutting, FeedSource, InboxItem, Quarantined, Releasing, StreamCut, Views,
};

const GONE: &[u8] = b"quarantined";

fn withdrawn(_: &StreamId, _: RecordId, _: Kind) -> Bytes {
    Bytes::from_static(GONE)
}

fn view(of: i64, n: u64) -> InboxItem {
    InboxItem::View(view_row("daluba", of, n, n))
}

/// Cuts a stream behind a place, or not any more, as the region's task does.
async fn cut(world: &World, stream: &StreamId, after: Option<u64>) -> Quarantined {
    let held = world.store.list_cuts().await.unwrap();
    let before = held.iter().find(|held| held.stream == *stream).map_or(u64::MAX, |cut| cut.after);
    let from = before.min(after.unwrap_or(u64::MAX));
    let records = world.store.list_records_behind(stream, from).await.unwrap();
    let records: BTreeSet<(RegionId, RecordId)> = records.into_iter().collect();
    let cut = after.map(|after| StreamCut {
        stream: stream.clone(),
        listed: Some(place(stream, after)),
        after,
        through: 9,
    });
    let lifted = if cut.is_none() { vec![stream.clone()] } else { Vec::new() };
    let cutting = Cutting { cut: cut.into_iter().collect(), lifted, records, withdrawn, now: NOW };
    world.store.cut(cutting).await.unwrap()
}

async fn release(world: &World, of: i64) -> Quarantined {
    let releasing = Releasing {
        birth_region: slug("daluba"),
        record_id: record(of),
        device: device(1),
        reason: ReleaseReason::Seen,
        withdrawn,
        now: NOW,
    };
    world.store.release_quarantined(releasing).await.unwrap()
}

/// What a list shows, the newest first.
async fn listed(world: &World) -> Vec<(FeedSource, Bytes)> {
    let page = world.store.list_kind(Kind::Event, Views::With, u64::MAX, 9).await.unwrap();
    page.into_iter().map(|row| (row.source, row.encoded)).collect()
}

/// What somebody is told who reads the feed from a place on.
async fn told(world: &World, after: u64) -> Vec<(FeedSource, Bytes)> {
    let page = world.store.list_feed(after, 99).await.unwrap();
    page.items.into_iter().map(|item| (item.source, item.encoded)).collect()
}

fn shown(text: &'static str) -> (FeedSource, Bytes) {
    (FeedSource::View, Bytes::from_static(text.as_bytes()))
}

fn gone() -> (FeedSource, Bytes) {
    (FeedSource::Withdrawal, Bytes::from_static(GONE))
}

#[tokio::test]
async fn what_lies_behind_a_cut_is_shown_to_nobody_and_what_was_before_is_shown_again() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    let items = vec![control(), view(1, 1), view(1, 2), view(2, 1)];
    world.store.apply(range(&of, 0, items)).await.unwrap();
    world.watched().await;
    let mut commits = world.store.listen();
    let done = cut(&world, &of, Some(2)).await;
    assert_eq!(done, Quarantined { kept: 2, let_out: 0 });
    assert_eq!(listed(&world).await, [shown("daluba 1 1 1")]);
    let found = world.store.list_views_of(record(2)).await.unwrap();
    assert!(found.is_empty());
    let kept = world.store.list_quarantined_of(record(2)).await.unwrap();
    assert_eq!(kept[0].encoded, "daluba 2 1 1");
    // Who has it is told that it is gone, in the order in which it must be forgotten and learned.
    let news = [gone(), shown("daluba 1 1 1"), gone()];
    assert_eq!(told(&world, 3).await, news);
    let live = in_time(commits.recv()).await.unwrap().feed.to_vec();
    let live: Vec<_> = live.into_iter().map(|item| (item.source, item.encoded)).collect();
    assert_eq!(live, news);
    assert_eq!(told(&world, 0).await[0], shown("daluba 1 1 1"));
    assert_eq!(told(&world, 0).await.len(), 4);
    // It is held all the same: the digest counts it, and an officer finds it.
    assert_eq!(world.store.list_received_views(&of).await.unwrap().len(), 3);
    assert_eq!(world.store.count_quarantined().await.unwrap(), [(of.clone(), 2)]);
    let kept = world.store.list_quarantined(u64::MAX, 9).await.unwrap();
    assert_eq!(kept.iter().map(|row| row.feed_seq).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(world.store.list_quarantined(3, 9).await.unwrap().len(), 1);
    // Again, and after a restart, it is the same, and nobody is told again.
    let world = world.reopened().await;
    assert_eq!(cut(&world, &of, Some(2)).await, Quarantined::default());
    assert_eq!(told(&world, 6).await, []);
    assert_eq!(listed(&world).await, [shown("daluba 1 1 1")]);
}

#[tokio::test]
async fn a_cut_that_moves_or_goes_lets_out_what_is_before_it() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    let items = vec![control(), view(1, 1), view(1, 2), view(1, 3)];
    world.store.apply(range(&of, 0, items)).await.unwrap();
    // What came before the newest is in the feed only while it was the newest.
    assert_eq!(cut(&world, &of, Some(0)).await.kept, 3);
    assert_eq!((listed(&world).await, told(&world, 0).await), (vec![], vec![gone()]));
    assert_eq!(cut(&world, &of, Some(3)).await, Quarantined { kept: 0, let_out: 2 });
    assert_eq!(listed(&world).await, [shown("daluba 1 2 2")]);
    assert_eq!(told(&world, 4).await, [shown("daluba 1 2 2")]);
    assert_eq!(cut(&world, &of, Some(2)).await, Quarantined { kept: 1, let_out: 0 });
    assert_eq!(listed(&world).await, [shown("daluba 1 1 1")]);
    assert_eq!(cut(&world, &of, None).await, Quarantined { kept: 0, let_out: 2 });
    assert_eq!(listed(&world).await, [shown("daluba 1 3 3")]);
    assert!(world.store.count_quarantined().await.unwrap().is_empty());
    assert!(world.store.list_cuts().await.unwrap().is_empty());
    // The feed goes on behind all that was told.
    let height = world.store.height().await.unwrap();
    let last = world.store.list_feed(0, 99).await.unwrap().items.last().unwrap().feed_seq;
    let world = world.reopened().await;
    world.store.commit(commit(vec![write(1, 9, 1)])).await.unwrap();
    assert!(world.store.height().await.unwrap() > height);
    let next = world.store.list_feed(last, 9).await.unwrap();
    assert_eq!(next.items.iter().map(|item| item.feed_seq).collect::<Vec<_>>(), [last + 1]);
}

#[tokio::test]
async fn what_a_person_has_released_stays_so_under_the_same_cut() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    let items = vec![control(), view(1, 1), view(1, 2), view(2, 1)];
    world.store.apply(range(&of, 0, items)).await.unwrap();
    cut(&world, &of, Some(2)).await;
    assert_eq!(release(&world, 3).await, Quarantined::default(), "there is no such");
    assert_eq!(release(&world, 1).await, Quarantined { kept: 0, let_out: 1 });
    let released = (FeedSource::Released, Bytes::from_static(b"daluba 1 2 2"));
    assert_eq!(listed(&world).await, slice::from_ref(&released));
    assert_eq!(told(&world, 6).await, slice::from_ref(&released));
    let found = world.store.list_views_of(record(1)).await.unwrap();
    assert_eq!((found[0].source, found.len()), (FeedSource::Released, 1));
    let world = world.reopened().await;
    cut(&world, &of, Some(2)).await;
    assert_eq!(release(&world, 1).await, Quarantined::default());
    assert_eq!(listed(&world).await, [released]);
    // The other was not.
    assert_eq!(world.store.count_quarantined().await.unwrap(), [(of, 1)]);
    let who: String = world
        .look("SELECT view_seq || ' ' || reason || ' ' || hex(device_id) FROM quarantine_release");
    assert!(who.starts_with("2 2 "), "{who}");
}

#[tokio::test]
async fn a_withdrawal_behind_a_cut_is_undone_as_far_as_the_content_is_here() {
    let world = World::new().await;
    let (of, other) = (stream("daluba", Lane::Routine), another_agreement());
    let other = StreamId { agreement: other, ..of.clone() };
    let mut leave = view_row("daluba", 1, 2, 2);
    leave.view_sha256 = None;
    let mut whole = view_row("daluba", 1, 1, 1);
    whole.entry = Some(Bytes::from_static(b"as it came"));
    let items = vec![control(), InboxItem::View(whole)];
    world.store.apply(range(&of, 0, items)).await.unwrap();
    world.store.apply(range(&other, 0, vec![control(), view(1, 1)])).await.unwrap();
    world.store.apply(range(&of, 2, vec![InboxItem::Withdrawal(leave.clone())])).await.unwrap();
    let left = (FeedSource::Withdrawal, leave.encoded.clone());
    assert_eq!(told(&world, 2).await, slice::from_ref(&left));
    cut(&world, &of, Some(2)).await;
    // Its content went when it was taken back; that which came under another agreement is not touched.
    let found = world.store.list_views_of(record(1)).await.unwrap();
    assert_eq!(found.iter().map(|found| found.source).collect::<Vec<_>>(), [FeedSource::View]);
    assert!(world.store.list_quarantined(u64::MAX, 9).await.unwrap().is_empty());
    assert_eq!(release(&world, 1).await, Quarantined::default());
    cut(&world, &of, None).await;
    assert_eq!(told(&world, 4).await, [left]);
    // A lane that was not cut showed it later: then that is what is current.
    let alert = stream("daluba", Lane::Alert);
    world.store.apply(range(&alert, 0, vec![control(), view(1, 3)])).await.unwrap();
    world.store.apply(range(&of, 3, vec![view(1, 4)])).await.unwrap();
    cut(&world, &of, Some(3)).await;
    let found = world.store.list_views_of(record(1)).await.unwrap();
    assert_eq!(found[0].encoded, "daluba 1 3 3");
}

/// Where the streams stood, as somebody signs for it later.
async fn stood(world: &World, before: domain::kernel::Timestamp) -> Vec<(Position, u64)> {
    let rows = world.store.list_inboxes_before(before).await.unwrap();
    rows.into_iter().map(|row| (row.position, row.parked_count)).collect()
}

#[tokio::test]
async fn where_a_stream_stood_is_known_to_the_minute_for_thirty_five_days() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    let at = |seconds: i64| NOW.plus_millis(seconds * 1_000);
    let apply = async |from: u64, seconds: i64, item: InboxItem| {
        let apply = Apply { now: at(seconds), ..range(&of, from, vec![item]) };
        assert_eq!(world.store.apply(apply).await.unwrap().position.seq, from + 1);
    };
    let parked = InboxItem::Parked {
        reason: Reason::KindUnknown,
        salt: [1; 16],
        entry: Bytes::from_static(b"unknown"),
    };
    apply(0, 0, control()).await;
    apply(1, 20, parked).await;
    apply(2, 59, view(1, 1)).await;
    // A day later; then the clock is set back by an hour.
    apply(3, 86_400, view(1, 2)).await;
    apply(4, 86_400 - 3_600, view(1, 3)).await;
    let place = |seq| place(&of, seq);
    // Within a minute it is only known where it ended.
    for (before, expected) in [(0, None), (59, None), (60, Some(3)), (86_400, Some(3))] {
        let expected: Vec<_> = expected.into_iter().map(|seq| (place(seq), 1)).collect();
        assert_eq!(stood(&world, at(before)).await, expected, "{before}");
    }
    assert_eq!(stood(&world, at(86_401)).await, [(place(5), 1)]);
    assert_eq!(world.look::<i64>("SELECT count(*) FROM inbox_log"), 1);
    // Of what is older the newest stays: it stood there ever since.
    for (from, days) in [(5, 2), (6, 30), (7, 50), (8, 60)] {
        apply(from, days * 86_400, view(1, from)).await;
    }
    let days = "SELECT group_concat(applied_seq) FROM inbox_log";
    assert_eq!(world.look::<String>(days), "6,7,8");
    assert_eq!(stood(&world, at(55 * 86_400)).await, [(place(8), 1)]);
}

#[tokio::test]
async fn a_store_of_before_knows_where_its_streams_stand_now() {
    let world = World::new().await;
    let of = stream("daluba", Lane::Routine);
    world.store.apply(range(&of, 0, vec![control()])).await.unwrap();
    let world = world
        .edited(
            "DROP TABLE inbox_log; DROP TABLE cut; DROP TABLE quarantine_note; DROP TABLE quarantine_release;
             DROP INDEX view_quarantined; ALTER TABLE inbox DROP COLUMN applied_at; PRAGMA user_version = 10",
        )
        .await;
    let long_after = NOW.plus_days(36_500);
    assert_eq!(stood(&world, long_after).await, [(place(&of, 1), 0)]);
    assert_eq!(stood(&world, domain::kernel::Timestamp::default()).await, []);
}
