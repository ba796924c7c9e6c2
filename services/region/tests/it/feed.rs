//! What changes is pulled, watched, and missed by nobody.

use crate::world::*;
use domain::kernel::{Kind, Role};
use proto::device::v1 as pb;
use proto::risk::v1::EventVerb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

fn watch_from(cursor: Option<pb::Cursor>) -> pb::WatchRequest {
    pb::WatchRequest { cursor, purpose: DUTY, kinds: vec![] }
}

async fn watch(phone: &Phone, cursor: Option<pb::Cursor>) -> Streaming<pb::WatchResponse> {
    in_time(phone.device().watch(watch_from(cursor))).await.expect("watched").into_inner()
}

/// The next so many records of a watch, and the cursor after them.
async fn seen(
    messages: &mut Streaming<pb::WatchResponse>,
    count: usize,
) -> (Vec<RecordSeen>, Option<pb::Cursor>) {
    let (mut all, mut cursor) = (Vec::new(), None);
    while all.len() < count {
        let message = in_time(messages.message()).await.expect("no error").expect("goes on");
        all.extend(message.changes.iter().filter_map(record_seen));
        cursor = message.cursor;
    }
    (all, cursor)
}

#[tokio::test]
async fn a_pull_gives_the_newest_of_each_record_page_by_page() {
    let world = World::new().await;
    let phone = world.officer().await;
    let records: Vec<_> = (0..5).map(|_| new_record()).collect();
    phone.push(records.iter().map(|record| phone.report(*record)).collect()).await.unwrap();
    phone.push(vec![phone.transition(records[1], EventVerb::Accept, None)]).await.unwrap();
    let (all, cursor) = phone.pull(None).await;
    let expected: Vec<_> = [0, 2, 3, 4]
        .map(|i| (id(records[i]), 1))
        .into_iter()
        .chain([(id(records[1]), 2)])
        .collect();
    assert_eq!(all, expected);
    assert!(phone.pull(Some(cursor)).await.0.is_empty());
}

#[tokio::test]
async fn a_read_without_purpose_of_another_epoch_or_of_too_much_is_refused() {
    let world = World::new().await;
    let phone = world.officer().await;
    let pull = async |request| refused(in_time(phone.device().pull(request)).await);
    let good = pb::PullRequest { purpose: DUTY, ..Default::default() };
    let cursor = Some(pb::Cursor { epoch: vec![1; 16].into(), feed_seq: 0 });
    let cases = [
        (pb::PullRequest { purpose: 0, ..good.clone() }, Code::InvalidArgument, "PURPOSE_REQUIRED"),
        (
            pb::PullRequest { page_size: 1_001, ..good.clone() },
            Code::InvalidArgument,
            "FIELD_INVALID",
        ),
        (
            pb::PullRequest { kinds: vec![99], ..good.clone() },
            Code::InvalidArgument,
            "FIELD_INVALID",
        ),
        (pb::PullRequest { cursor, ..good }, Code::Aborted, "EPOCH_CHANGED"),
    ];
    for (request, code, reason) in cases {
        assert_eq!(pull(request).await, (code, reason.to_owned()));
    }
    let watch = pb::WatchRequest::default();
    let result = refused(in_time(phone.device().watch(watch)).await.map(drop));
    assert_eq!(result.1, "PURPOSE_REQUIRED");
}

#[tokio::test]
async fn nobody_is_shown_kinds_that_its_role_may_not_read() {
    let world = World::new().await;
    let (officer, patroller) =
        (world.officer().await, world.phone("xiaonanhai", Role::Patroller).await);
    let kinds = vec![Kind::TrackBatch.code()];
    let pull = pb::PullRequest { purpose: DUTY, kinds: kinds.clone(), ..Default::default() };
    let result = refused(in_time(patroller.device().pull(pull)).await);
    assert_eq!(result, (Code::PermissionDenied, "ROLE_FORBIDDEN".to_owned()));
    let administrator = world.phone("xiaonanhai", Role::Administrator).await;
    officer.push(vec![officer.report(new_record())]).await.unwrap();
    assert_eq!(patroller.pull(None).await.0.len(), 1);
    assert!(administrator.pull(None).await.0.is_empty());
}

#[tokio::test]
async fn a_watch_shows_what_was_there_and_what_comes() {
    let world = World::new().await;
    let phone = world.officer().await;
    let (before, after) = (new_record(), new_record());
    phone.push(vec![phone.report(before)]).await.unwrap();
    let mut messages = watch(&phone, None).await;
    assert_eq!(seen(&mut messages, 1).await.0, [(id(before), 1)]);
    phone.push(vec![phone.report(after)]).await.unwrap();
    assert_eq!(seen(&mut messages, 1).await.0, [(id(after), 1)]);
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_from_its_cursor_and_misses_nothing() {
    let world = World::new().await;
    let phone = world.officer().await;
    let records: Vec<_> = (0..40).map(|_| new_record()).collect();
    let pushes = async {
        for record in &records {
            phone.push(vec![phone.report(*record)]).await.unwrap();
        }
    };
    let watches = async {
        let (mut all, mut cursor) = (Vec::new(), None);
        while all.len() < records.len() {
            // A new watch for every few records, while more come.
            let mut messages = watch(&phone, cursor.clone()).await;
            let rest = records.len() - all.len();
            let (found, after) = seen(&mut messages, rest.min(3)).await;
            all.extend(found);
            cursor = after;
        }
        all
    };
    let ((), all) = tokio::join!(pushes, watches);
    assert_eq!(all, records.iter().map(|record| (id(*record), 1)).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_stream_carries_pushes_and_a_watch() {
    let world = World::new().await;
    let phone = world.officer().await;
    let (requests, queued) = mpsc::channel(8);
    let mut answers =
        in_time(phone.device().sync(ReceiverStream::new(queued))).await.unwrap().into_inner();
    let ask = async |request| {
        requests.send(pb::SyncRequest { request: Some(request) }).await.unwrap();
    };
    ask(pb::sync_request::Request::Watch(watch_from(None))).await;
    let record = new_record();
    ask(pb::sync_request::Request::Push(phone.batch(vec![phone.report(record)]))).await;
    let (mut pushed, mut watched) = (None, None);
    while pushed.is_none() || watched.is_none() {
        match in_time(answers.message()).await.unwrap().unwrap().response.unwrap() {
            pb::sync_response::Response::Push(answer) => pushed = Some(answer.results[0].outcome()),
            pb::sync_response::Response::Watch(message) => {
                watched = message.changes.iter().filter_map(record_seen).next();
            }
        }
    }
    assert_eq!((pushed, watched), (Some(pb::Outcome::Applied), Some((id(record), 1))));
    // A second watch on the same stream is a mistake, which ends it.
    ask(pb::sync_request::Request::Watch(watch_from(None))).await;
    let status = loop {
        match in_time(answers.message()).await {
            Ok(message) => assert!(message.is_some(), "told why"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), &reason(&status)[..]), (Code::InvalidArgument, "FIELD_INVALID"));
}

#[tokio::test]
async fn who_watches_is_on_record_from_the_first_change_to_the_last() {
    let world = World::new().await;
    let phone = world.officer().await;
    let conn = world.beside("xiaonanhai");
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let mut messages = watch(&phone, None).await;
    phone.push(vec![phone.report(new_record())]).await.unwrap();
    seen(&mut messages, 1).await;
    let mut other = watch(&phone, None).await;
    seen(&mut other, 1).await;
    assert_eq!(number("SELECT count(*) FROM watcher_set"), 2);
    let both: String = conn
        .query_row("SELECT watchers FROM watcher_set WHERE set_no = 2", [], |row| row.get(0))
        .unwrap();
    assert_eq!(both.matches("device_id").count(), 2, "{both}");
    drop((messages, other));
    // Both are noted as gone; a change that nobody watches names nobody.
    let shown = || number("SELECT count(*) FROM disclosure WHERE set_no IS NOT NULL");
    in_time(async {
        loop {
            let before = shown();
            phone.push(vec![phone.report(new_record())]).await.unwrap();
            if shown() == before {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_stop_ends_watches_and_the_server() {
    let mut world = World::new().await;
    let phone = world.officer().await;
    phone.push(vec![phone.report(new_record())]).await.unwrap();
    let mut messages = watch(&phone, None).await;
    seen(&mut messages, 1).await;
    world.shutdown.stop();
    assert!(!matches!(in_time(messages.message()).await, Ok(Some(_))));
    let served = in_time(world.served.join_next()).await.unwrap().unwrap();
    assert!(served.is_ok(), "{served:?}");
}

#[tokio::test]
async fn two_regions_on_one_port_see_nothing_of_each_other() {
    let world = World::new().await;
    let (here, there) = (world.officer().await, world.phone("zhoubai", Role::DutyOfficer).await);
    let record = new_record();
    here.push(vec![here.report(record)]).await.unwrap();
    assert_eq!(here.pull(None).await.0.len(), 1);
    assert!(there.pull(None).await.0.is_empty());
    // Nor by a batch for the other region, nor by the other's name with a certificate of one's own.
    let stray = Phone { region: "zhoubai".to_owned(), ..here };
    let result = refused(stray.push(vec![stray.report(new_record())]).await);
    assert_eq!(result, (Code::Unauthenticated, "DEVICE_UNKNOWN".to_owned()));
    let crossed = Phone { channel: world.channel("zhoubai", Some(&stray.own)), ..stray };
    let request = pb::PullRequest { purpose: DUTY, ..Default::default() };
    let page = in_time(crossed.device().pull(request)).await.unwrap().into_inner();
    let found: Vec<_> = page.changes.iter().filter_map(record_seen).collect();
    assert_eq!(found, [(id(record), 1)], "its own region answers, whatever name it dialled");
    assert!(there.pull(None).await.0.is_empty());
}
