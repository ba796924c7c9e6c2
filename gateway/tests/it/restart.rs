//! What a gateway that was stopped and started still knows: all of it. A test fails here when a region
//! would have to send or say something again.

use crate::world::{Got, World, Writer};
use bytes::Bytes;
use domain::kernel::Lane;
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_request::Frame as Request;
use proto::exchange::v1::link_response::Frame;

const ALL: &[&str] = &["a", "b", "c"];

#[tokio::test]
async fn a_restart_keeps_agreements_segments_receipts_and_positions() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(ALL);
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let mut a = world.link(serving.addr, "a", &[]).await;
    a.send(Request::Agreement(signed)).await;
    for _ in 0..3 {
        let segment = writer.write(2, 100);
        a.store(&writer.stream, &segment).await;
    }
    let b = world.link(serving.addr, "b", &[]).await;
    b.send(Request::Receipt(world.receipt("b", &writer.stream, writer.at(4)))).await;
    assert_eq!(a.next_receipt(&world, "b").await.1, writer.at(4));
    serving.stop().await;

    let serving = world.serve().await;
    let mut a = world.link(serving.addr, "a", &[]).await;
    let stored: pb::StreamPosition = (&writer.stream, writer.last()).into();
    assert_eq!(a.welcome.stored, [stored]);
    assert_eq!(a.next_receipt(&world, "b").await, (writer.stream.clone(), writer.at(4)));
    let mut c = world.link(serving.addr, "c", &[]).await;
    for first in [1, 3, 5] {
        assert_eq!(c.next_segment(&world, &writer.stream).await, (first, first + 1));
    }
    let mut b = world.link(serving.addr, "b", &[(&writer.stream, writer.at(4))]).await;
    assert_eq!(b.next_segment(&world, &writer.stream).await, (5, 6));
    // The agreement need not be shown again.
    let segment = writer.write(1, 100);
    a.store(&writer.stream, &segment).await;
    assert_eq!(b.next_segment(&world, &writer.stream).await, (7, 7));
    assert_eq!(c.next_segment(&world, &writer.stream).await, (7, 7));
    serving.stop().await;
}

#[tokio::test]
async fn a_gateway_that_stops_tells_its_links_when_to_come_back() {
    let world = World::new();
    let serving = world.serve().await;
    let mut link = world.link(serving.addr, "a", &[]).await;
    let mut stopping = tokio::task::JoinSet::new();
    stopping.spawn(serving.stop());
    let after_ms = link
        .wait(|got| match got {
            Got::Frame(Frame::ComeBack(come_back)) => Some(come_back.after_ms),
            _ => None,
        })
        .await;
    assert!(after_ms <= 2_000, "{after_ms} ms");
    link.ended().await;
    stopping.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_segment_whose_line_broke_goes_on_where_it_broke() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(ALL);
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let mut a = world.link(serving.addr, "a", &[]).await;
    a.send(Request::Agreement(signed)).await;
    let sealed = writer.write(1, 50_000);
    let bytes = Bytes::copy_from_slice(&sealed.bytes);
    let pieces: Vec<_> = proto::link::pieces(&bytes, sealed.segment_id, Lane::Routine, 0).collect();
    for piece in &pieces[..2] {
        a.send(Request::Piece(piece.clone())).await;
    }
    // The answer comes after the pieces were taken.
    assert!(a.until_pong().await.is_empty());
    drop(a);
    let mut a = world.link(serving.addr, "a", &[]).await;
    let have = 2 * u32::try_from(proto::link::PIECE_BYTES_MAX).unwrap();
    let segment_id = Bytes::copy_from_slice(&sealed.segment_id);
    assert_eq!(a.welcome.resumes, [pb::PieceResume { segment_id, have }]);
    for piece in &pieces[2..] {
        a.send(Request::Piece(piece.clone())).await;
    }
    a.stored(&writer.stream, sealed.after).await;
    serving.stop().await;
}
