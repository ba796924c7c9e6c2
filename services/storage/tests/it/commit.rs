//! Operations become records and stream entries.

use crate::world::*;
use domain::erasure::EraseReason;
use domain::kernel::Lane;
use domain::stream::Shown;
use storage::region::{CommitItem, CommitVerdict, Erasing, FeedSource, OperationOutcome};
use storage::{ReadError, WriteError};

const STALE: Result<CommitVerdict, WriteError> = Ok(CommitVerdict::Stale);

#[tokio::test]
async fn entries_are_numbered_without_holes_and_chained_from_a_start() {
    let world = World::new().await;
    let (alert, routine) = (stream("xiaonanhai", Lane::Alert), stream("xiaonanhai", Lane::Routine));
    let mut mixed = shown(&routine, 3, 3, 1);
    mixed.write.as_mut().unwrap().shares.insert(0, share(&alert, 4, 1));
    for items in [vec![shown(&routine, 1, 1, 1), shown(&routine, 2, 2, 1)], vec![mixed]] {
        assert_eq!(world.store.commit(commit(items)).await, Ok(CommitVerdict::Done));
    }
    for (of, count) in [(&alert, 2), (&routine, 4)] {
        let rows = world.store.list_outbox(of, 0, 100).await.unwrap();
        assert_eq!(rows.len(), count);
        assert_eq!(rows[0].entry, seal::entry::start(&OPENING.agreement_sha256, None, &[]));
        for (index, row) in rows.iter().enumerate() {
            let upto = rows[..=index].iter().map(|row| (&row.salt, row.entry.as_ref()));
            assert_eq!(row.position, chain(of, upto));
            assert_eq!(row.position.seq, index as u64 + 1);
            let h = world.store.find_outbox_hash(of, row.position.seq).await.unwrap();
            assert_eq!(h, Some(row.position.h));
        }
        let streams = world.store.list_streams().await.unwrap();
        let row = streams.iter().find(|row| row.stream == *of).unwrap();
        assert_eq!(row.position, rows.last().unwrap().position);
    }
    assert_eq!(world.store.find_outbox_hash(&routine, 5).await.unwrap(), None);
    let genesis = world.store.find_outbox_hash(&routine, 0).await.unwrap();
    assert_eq!(genesis, Some(seal::chain::genesis(&routine)));
}

#[tokio::test]
async fn a_replaced_revision_becomes_history_and_the_record_moves_to_the_end_of_the_feed() {
    let world = World::new().await;
    world.store.commit(commit(vec![write(1, 1, 1), write(2, 2, 1)])).await.unwrap();
    world.store.commit(commit(vec![write(3, 1, 2)])).await.unwrap();
    let feed = world.store.list_feed(0, 10).await.unwrap();
    let texts: Vec<_> = feed.items.iter().map(|item| (item.feed_seq, &item.encoded[..])).collect();
    assert_eq!(texts, [(2, &b"record 2 revision 1"[..]), (3, b"record 1 revision 2")]);
    assert!(feed.items.iter().all(|item| item.source == FeedSource::Own) && !feed.more);
    assert_eq!(world.store.find_record(record(1)).await.unwrap().unwrap().revision, revision(2));
    let history: Vec<u8> = world.look("SELECT encoded FROM record_history");
    assert_eq!(history, b"record 1 revision 1");
}

#[tokio::test]
async fn revisions_made_within_one_commit_leave_each_its_history() {
    let world = World::new().await;
    let items = (1..=5).map(|n| write(n, 1, n as u64)).collect();
    assert_eq!(world.store.commit(commit(items)).await, Ok(CommitVerdict::Done));
    assert_eq!(world.look::<i64>("SELECT count(*) FROM record_history"), 4);
    assert_eq!(world.look::<i64>("SELECT count(*) FROM record"), 1);
    assert_eq!(world.store.find_record(record(1)).await.unwrap().unwrap().revision, revision(5));
}

#[tokio::test]
async fn what_was_shown_is_remembered_with_the_record() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Routine);
    world.store.commit(commit(vec![shown(&of, 1, 1, 1), write(2, 2, 1)])).await.unwrap();
    world.store.commit(commit(vec![shown(&of, 3, 1, 2)])).await.unwrap();
    for (n, memory) in [(1, memory(&of, 2)), (2, Shown::default())] {
        assert_eq!(world.store.find_record(record(n)).await.unwrap().unwrap().shown, memory);
    }
}

#[tokio::test]
async fn entries_are_read_back_as_they_were_numbered_wherever_they_lie() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Routine);
    // More than one run takes, and more than is kept in memory.
    for first in 0..12 {
        let items = (1..=100).map(|n| {
            let mut item = shown(&of, first * 100 + n, first * 100 + n, 1);
            let text = format!("{n}").repeat(2_000);
            item.write.as_mut().unwrap().shares[0].entry = text.into_bytes().into();
            item
        });
        world.store.commit(commit(items.collect())).await.unwrap();
    }
    let all = world.store.list_outbox(&of, 0, 2_000).await.unwrap();
    assert!(all.iter().map(|row| row.position.seq).eq(1..=1_201));
    let chained = chain(&of, all.iter().map(|row| (&row.salt, row.entry.as_ref())));
    assert_eq!(Some(chained), all.last().map(|row| row.position));
    assert_eq!(all[1].expires_at, NOW.plus_days(9));
    for (after, limit) in [(0, 1), (57, 1), (57, 200), (600, 3), (1_190, 50), (1_201, 5)] {
        let some = world.store.list_outbox(&of, after, limit).await.unwrap();
        let (from, to) = (after as usize, (after as usize + limit as usize).min(all.len()));
        assert_eq!(some, all[from..to]);
    }
    for (seq, row) in (1..).zip(&all) {
        let h = world.store.find_outbox_hash(&of, seq).await.unwrap();
        assert_eq!(h, Some(row.position.h));
        assert_eq!(
            world.store.list_outbox(&of, seq - 1, 1).await.unwrap(),
            std::slice::from_ref(row)
        );
    }
}

#[tokio::test]
async fn a_run_that_was_edited_beside_the_store_is_not_read() {
    let of = stream("xiaonanhai", Lane::Routine);
    for (column, whole) in [("entries", "x'00' || substr(entries, 2)"), ("h_before", "x'00'")] {
        let world = World::new().await;
        world.store.commit(commit(vec![shown(&of, 1, 1, 1)])).await.unwrap();
        let world =
            world.edited(&format!("UPDATE outbox SET {column} = CAST({whole} AS BLOB)")).await;
        let read = world.store.list_outbox(&of, 0, 9).await;
        assert!(matches!(read, Err(ReadError::Inconsistent("outbox.entries"))), "{column}");
    }
}

#[tokio::test]
async fn a_commit_whose_ground_has_moved_is_handed_back_whole() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Routine);
    world.store.commit(commit(vec![shown(&of, 1, 1, 1)])).await.unwrap();
    let before = world.store.list_streams().await.unwrap();
    let mut seen_less = shown(&of, 4, 1, 2);
    seen_less.write.as_mut().unwrap().base.as_mut().unwrap().shown = Shown::default();
    let cases = [
        // The record is there already; has another revision; is not there.
        write(2, 1, 1),
        write(2, 1, 3),
        write(2, 9, 2),
        // More was shown of it.
        seen_less,
        // The operation was answered before.
        shown(&of, 1, 1, 2),
        write(1, 4, 1),
    ];
    for item in cases {
        assert_eq!(world.store.commit(commit(vec![write(3, 3, 1), item])).await, STALE);
    }
    assert_eq!(world.store.list_streams().await.unwrap(), before);
    assert!(world.store.find_record(record(3)).await.unwrap().is_none());
    assert_eq!(world.look::<i64>("SELECT count(*) FROM operation"), 1);
}

#[tokio::test]
async fn of_two_commits_at_once_the_second_stands_on_the_first() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Alert);
    // Whether they share a transaction or not, the verdicts are the same.
    let (first, second, third, fourth) = tokio::join!(
        world.store.commit(commit(vec![shown(&of, 1, 1, 1)])),
        world.store.commit(commit(vec![shown(&of, 2, 1, 2)])),
        world.store.commit(commit(vec![shown(&of, 3, 1, 2)])),
        world.store.commit(commit(vec![write(2, 8, 1)])),
    );
    assert_eq!([first, second], [Ok(CommitVerdict::Done), Ok(CommitVerdict::Done)]);
    assert_eq!([third, fourth], [STALE, STALE]);
    assert_eq!(world.store.list_outbox(&of, 0, 9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_operation_that_waited_is_replaced_when_it_is_applied_and_only_then() {
    let world = World::new().await;
    let held = CommitItem {
        operation: answered(1, 1, OperationOutcome::Held, 0),
        write: None,
        ..write(1, 1, 1)
    };
    world.store.commit(commit(vec![held.clone()])).await.unwrap();
    let waiting = world.store.list_held(device(1), 10).await.unwrap();
    assert_eq!(waiting[0].encoded.as_deref(), Some(&b"waiting"[..]));
    assert_eq!(world.store.commit(commit(vec![held])).await, STALE);
    let applied = CommitItem { replaces_held: true, ..write(1, 1, 1) };
    let done = world.store.commit(commit(vec![applied.clone()])).await;
    assert_eq!(done, Ok(CommitVerdict::Done));
    assert!(world.store.list_held(device(1), 10).await.unwrap().is_empty());
    let rows = world.store.list_operations(&[operation(1), operation(2)]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].outcome, rows[0].revision_n), (OperationOutcome::Applied, 1));
    assert_eq!(rows[0].encoded, None);
    assert_eq!(world.store.commit(commit(vec![applied])).await, STALE);
}

#[tokio::test]
async fn more_rows_than_one_statement_takes_are_all_written() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Routine);
    let items = (1..=301).map(|n| shown(&of, n, n, 1)).collect();
    assert_eq!(world.store.commit(commit(items)).await, Ok(CommitVerdict::Done));
    let all: Vec<_> = (1..=1_500).map(operation).collect();
    assert_eq!(world.store.list_operations(&all).await.unwrap().len(), 301);
    let page = world.store.list_feed(290, 11).await.unwrap();
    assert_eq!((page.items.len(), page.more), (11, true));
    assert_eq!(world.store.list_outbox(&of, 300, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_committed_is_told_once_it_is_on_disk() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Routine);
    let mut commits = world.store.listen();
    world.store.commit(commit(vec![write(2, 2, 1)])).await.unwrap();
    assert_eq!(in_time(commits.recv()).await.unwrap().feed.len(), 0, "nobody watches");
    world.watched().await;
    let mut commits = world.store.listen();
    world.store.commit(commit(vec![shown(&of, 1, 1, 1)])).await.unwrap();
    let told = in_time(commits.recv()).await.unwrap();
    assert_eq!(told.feed.len(), 1);
    assert_eq!(told.streams.len(), 1);
    let rows = world.store.list_outbox(&of, 0, 9).await.unwrap();
    assert_eq!(told.streams[0], (of, rows.last().unwrap().position));
}

#[tokio::test]
async fn a_job_whose_caller_hung_up_is_written_all_the_same() {
    let world = World::new().await;
    {
        let call = world.store.commit(commit(vec![write(1, 1, 1)]));
        let mut call = Box::pin(call);
        // Polled once, so that it is in the queue; then dropped.
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_ready()));
        let _ready: bool = polled.await;
    }
    world.store.commit(commit(vec![write(2, 2, 1)])).await.unwrap();
    assert!(world.store.find_record(record(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_job_that_breaks_the_schema_fails_alone() {
    let world = World::new().await;
    let mut bad = write(2, 2, 1);
    if let Some(write) = &mut bad.write {
        write.revision.n = 0;
    }
    let (first, refused, last) = tokio::join!(
        world.store.commit(commit(vec![write(1, 1, 1)])),
        world.store.commit(commit(vec![bad])),
        world.store.commit(commit(vec![write(3, 1, 2)])),
    );
    assert_eq!(refused, Err(WriteError::Refused));
    assert_eq!([first, last], [Ok(CommitVerdict::Done), Ok(CommitVerdict::Done)]);
    assert_eq!(world.look::<i64>("SELECT count(*) FROM operation"), 2);
}

#[tokio::test]
async fn a_store_opened_again_goes_on_where_it_was() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Routine);
    world.store.commit(commit(vec![shown(&of, 1, 1, 1)])).await.unwrap();
    let world = world.reopened().await;
    assert_eq!(world.store.epoch(), epoch());
    assert_eq!(world.store.commit(commit(vec![shown(&of, 1, 1, 1)])).await, STALE);
    assert_eq!(
        world.store.commit(commit(vec![shown(&of, 2, 1, 2)])).await,
        Ok(CommitVerdict::Done)
    );
    let rows = world.store.list_outbox(&of, 0, 9).await.unwrap();
    let all = rows.iter().map(|row| (&row.salt, row.entry.as_ref()));
    assert_eq!(rows[2].position, chain(&of, all));
    assert_eq!(world.store.list_feed(0, 9).await.unwrap().items[0].feed_seq, 2);
}

#[tokio::test]
async fn the_newest_entry_of_a_record_is_found_behind_others_that_name_it() {
    let world = World::new().await;
    let of = stream("xiaonanhai", Lane::Routine);
    let naming = |n, revision, text: &str| {
        let mut item = shown(&of, n, n, revision);
        let write = item.write.as_mut().unwrap();
        write.shares[0].entry = [text.as_bytes(), record(1).as_bytes()].concat().into();
        item
    };
    let long = "x".repeat(40_000);
    world.store.commit(commit(vec![naming(1, 1, "own first"), shown(&of, 2, 2, 1)])).await.unwrap();
    // Each in a run of its own.
    for (n, text) in [(3, format!("{long} own")), (4, format!("{long} other")), (5, "other".into())]
    {
        world.store.commit(commit(vec![naming(n, 1, &text)])).await.unwrap();
    }
    let find = async |text: &str| {
        let is_it = |held: &storage::region::OutboxEntry| {
            held.entry.windows(text.len()).any(|part| part == text.as_bytes())
        };
        let found = world.store.find_entry_with(&of, record(1), is_it).await.unwrap();
        found.map(|found| found.position.seq)
    };
    assert_eq!(find("own").await, Some(4), "the newest of several");
    assert_eq!(find("own first").await, Some(2));
    assert_eq!(find("other").await, Some(6));
    assert_eq!(find("nothing").await, None);
    let never = stream("xiaonanhai", Lane::Alert);
    assert!(world.store.find_entry_with(&never, record(1), |_| true).await.unwrap().is_none());
    let found = world.store.find_entry_with(&of, record(9), |_| true).await.unwrap();
    assert!(found.is_none(), "no entry names it");
}

#[tokio::test]
async fn what_was_erased_is_waited_for_by_nothing_and_never_there_again() {
    let world = World::new().await;
    let mut waits = write(2, 1, 2);
    (waits.operation, waits.write) = (answered(2, 1, OperationOutcome::Held, 0), None);
    world.store.commit(commit(vec![write(1, 1, 1), waits])).await.unwrap();
    let erasing = Erasing {
        record_id: record(1),
        reason: EraseReason::Privacy,
        device: None,
        salts: Vec::new(),
        openings: Vec::new(),
        origin: |_| Some((slug("xiaonanhai"), Vec::new())),
        encoded: |_, _| bytes::Bytes::from_static(b"withdrawn"),
        expires_at: NOW.plus_days(9),
        now: NOW,
    };
    assert_eq!(world.store.erase(erasing.clone()).await, Ok(true));
    assert_eq!(world.look::<i64>("SELECT count(*) FROM operation WHERE encoded IS NOT NULL"), 0);
    assert_eq!(world.store.list_held(device(1), 9).await.unwrap().len(), 0);
    assert!(world.store.is_erased(record(1)).await.unwrap());
    // Its id is not given to another record.
    let again = world.store.commit(commit(vec![write(3, 1, 1)])).await;
    assert_eq!(again, Ok(CommitVerdict::Stale));
    assert_eq!(world.store.commit(commit(vec![write(4, 4, 1)])).await, Ok(CommitVerdict::Done));
    assert_eq!(world.store.erase(erasing).await, Ok(false));
}
