//! What a peer may take. A test fails here when a link outlives a peer that is silent, or one that sends
//! what it has no credit for.

use crate::world::World;
use bytes::Bytes;
use domain::kernel::{Lane, Reason};
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_request::Frame as Request;

fn piece(lane: Lane, offset: u32, bytes: usize) -> Request {
    Request::Piece(pb::SegmentPiece {
        segment_id: Bytes::from_static(&[7; 16]),
        lane: lane.code(),
        total_size: 1_000_000,
        offset,
        data: vec![0; bytes].into(),
    })
}

#[tokio::test]
async fn a_silent_peer_is_given_up_and_one_that_answers_pings_is_not() {
    let world = World::new();
    let mut config = world.config();
    let limits = &mut config.limits.peer;
    (limits.stream_keepalive_ms, limits.stream_idle_ms) = (50, 400);
    let serving = world.serve_with(config).await;
    let mut silent = world.link(serving.addr, "a", &[]).await;
    let mut living = world.link(serving.addr, "b", &[]).await;
    tokio::select! {
        // The living one is only polled: it must not be lost while the silent one is.
        () = silent.ended_in_silence() => {}
        () = living.ended() => panic!("it answered"),
    }
    assert!(living.until_pong().await.is_empty());
    serving.stop().await;
}

#[tokio::test]
async fn a_frame_that_nobody_may_send_closes_the_link() {
    let world = World::new();
    let serving = world.serve().await;
    for (frame, reason) in [
        (Request::Credit(pb::Credit { lane: 2, size: 0 }), Reason::ProtocolViolation),
        (Request::Credit(pb::Credit { lane: 9, size: 1 }), Reason::ProtocolViolation),
        (piece(Lane::Bulk, 0, 10), Reason::ProtocolViolation),
        (piece(Lane::Routine, 0, 0), Reason::ProtocolViolation),
        (piece(Lane::Routine, 500, 10), Reason::ProtocolViolation),
        (piece(Lane::Routine, 0, 20_000), Reason::LimitExceeded),
    ] {
        let mut link = world.link(serving.addr, "a", &[]).await;
        link.send(frame).await;
        assert_eq!(link.fatal().await, reason);
        link.ended().await;
    }
    serving.stop().await;
}
