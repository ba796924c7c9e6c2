//! A server is down for a minute and killed twice while 50,000 records queue: the neighbour has all, in
//! stream order, once. The oracle is the harness's own log of acknowledgements.

use crate::harness::{A, AckLog, B, Process, Seen, World, batch, digest, faults, pull_all, states};
use cli::phone::Phone;
use domain::kernel::Role;
use proto::device::v1 as pb;
use std::time::Duration;
use tokio::time::Instant;

const RECORDS: usize = 50_000;
const BATCH: usize = 1_000;
/// How long the server is down in all.
const DOWN: Duration = Duration::from_secs(60);
/// How long everything may take to arrive afterwards.
const ARRIVES: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_the_gateway_is_down_and_killed_twice() {
    run(|world| &mut world.gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_the_origin_is_down_and_killed_twice() {
    run(|world| &mut world.a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_the_recipient_is_down_and_killed_twice() {
    run(|world| &mut world.b).await;
}

async fn run(victim: fn(&mut World) -> &mut Process) {
    let mut world = World::start().await;
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let (desk_a, desk_b) = (
        world.enrol(A, Role::DutyOfficer, "a").await,
        world.enrol(B, Role::DutyOfficer, "b").await,
    );
    let log = AckLog::create(&world.path("acked.log"));
    let pushing = tokio::spawn(push_all(phone, log));
    // Killed under load, at a moment of nobody's choosing; down for half a minute; twice.
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        tokio::task::block_in_place(|| victim(&mut world).kill());
        tokio::time::sleep(DOWN / 2).await;
        tokio::task::block_in_place(|| victim(&mut world).restart());
    }
    let log = pushing.await.unwrap();
    assert_eq!(log.acked.len(), RECORDS);
    arrived(&desk_a, &desk_b).await;
    let seen = Seen::of(&pull_all(desk_b.channel()).await);
    let faults = faults(&log.acked, &seen);
    assert!(
        faults.is_empty(),
        "{} faults, such as {:?}",
        faults.len(),
        &faults[..faults.len().min(5)]
    );
}

/// Pushes until every record is acknowledged; what was not answered is sent again, the same bytes.
async fn push_all(phone: Phone, mut log: AckLog) -> AckLog {
    let mut service = cli::client::device_service(phone.channel());
    for _ in 0..RECORDS / BATCH {
        let (request, records) = batch(&phone, BATCH);
        loop {
            match service.push(request.clone()).await {
                Ok(answer) => {
                    let kept = [i32::from(pb::Outcome::Applied), i32::from(pb::Outcome::Duplicate)];
                    let results = answer.into_inner().results;
                    assert_eq!(results.len(), BATCH);
                    assert!(
                        results.iter().all(|result| kept.contains(&result.outcome)),
                        "{results:?}"
                    );
                    log.ack(&records);
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        // Spread, so that the kills fall into the load.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    log
}

/// Waits until both sides say the same of every stream.
async fn arrived(a: &Phone, b: &Phone) {
    let deadline = Instant::now() + ARRIVES;
    loop {
        if let Some(state) = states(a.channel()).await
            && let Some(row) = state.streams.first()
            && row.last_seq == row.applied_seq
        {
            let stream = row.stream.clone().unwrap();
            let (origin, recipient) =
                (digest(a.channel(), &stream).await, digest(b.channel(), &stream).await);
            assert_eq!(origin.view_count, RECORDS as u64);
            assert_eq!(recipient.view_count, RECORDS as u64);
            assert_eq!(origin.digest, recipient.digest, "the two sides hold different views");
            assert_eq!(recipient.parked_count, 0);
            return;
        }
        assert!(Instant::now() < deadline, "not all arrived: {:?}", states(a.channel()).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
