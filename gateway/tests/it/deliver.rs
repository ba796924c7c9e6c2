//! What goes where. A test fails here when something stored does not reach a party, reaches it out of
//! order, is kept when all have it, or when one region can hold up another.

use crate::world::{Got, Link, PLENTY, World, Writer};
use domain::kernel::{AgreementId, Lane};
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_request::Frame as Request;
use proto::exchange::v1::link_response::Frame;
use seal::signed::Head;
use std::net::SocketAddr;

const ALL: &[&str] = &["a", "b", "c"];

/// A link of `a` that has shown an agreement of all three.
async fn origin(world: &World, addr: SocketAddr) -> (Link, AgreementId) {
    let (agreement, signed) = world.agree(ALL);
    let link = world.link(addr, "a", &[]).await;
    link.send(Request::Agreement(signed)).await;
    (link, agreement)
}

#[tokio::test]
async fn what_one_region_stores_another_gets_and_its_receipt_comes_back() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let mut b = world.link(serving.addr, "b", &[]).await;
    let mut c = world.link(serving.addr, "c", &[]).await;
    for (first, last) in [(1, 2), (3, 4)] {
        let sealed = writer.write(2, 200);
        a.store(&writer.stream, &sealed).await;
        for recipient in [&mut b, &mut c] {
            assert_eq!(recipient.next_segment(&world, &writer.stream).await, (first, last));
        }
    }
    b.send(Request::Receipt(world.receipt("b", &writer.stream, writer.last()))).await;
    // All parties get it: the origin and the other recipients.
    let receipt = (writer.stream.clone(), writer.last());
    assert_eq!(a.next_receipt(&world, "b").await, receipt);
    assert_eq!(c.next_receipt(&world, "b").await, receipt);
    let head = Head {
        stream: writer.stream.clone(),
        position: writer.last(),
        created_at: crate::world::now(),
    };
    let head = head.sign(&world.regions[&writer.stream.origin].signing);
    a.send(Request::Head(head.clone())).await;
    let came =
        b.wait(
            |got| if let Got::Frame(Frame::Head(head)) = got { Some(head.clone()) } else { None },
        );
    assert_eq!(came.await, head);
    serving.stop().await;
}

#[tokio::test]
async fn both_directions_go_at_once() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    assert!(a.until_pong().await.is_empty());
    let mut b = world.link(serving.addr, "b", &[]).await;
    let mut of_a = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let mut of_b = Writer::new(&world, "b", agreement, ALL, Lane::Alert);
    for seq in 1..=20 {
        a.segment(Lane::Routine, &of_a.write(1, 2_000)).await;
        b.segment(Lane::Alert, &of_b.write(1, 2_000)).await;
        assert_eq!(b.next_segment(&world, &of_a.stream).await, (seq, seq));
        assert_eq!(a.next_segment(&world, &of_b.stream).await, (seq, seq));
    }
    serving.stop().await;
}

#[tokio::test]
async fn what_came_while_a_region_was_away_is_there_in_order_from_where_it_is() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let mut b = world.link(serving.addr, "b", &[]).await;
    let segment = writer.write(4, 100);
    a.store(&writer.stream, &segment).await;
    assert_eq!(b.next_segment(&world, &writer.stream).await, (1, 4));
    drop(b);
    for _ in 0..30 {
        let sealed = writer.write(2, 20_000);
        a.store(&writer.stream, &sealed).await;
    }
    let mut b = world.link(serving.addr, "b", &[(&writer.stream, writer.at(4))]).await;
    for nth in 0..30 {
        let first = 5 + 2 * nth;
        assert_eq!(b.next_segment(&world, &writer.stream).await, (first, first + 1));
    }
    // Nothing twice, nothing more.
    assert!(b.until_pong().await.is_empty());
    let segment = writer.write(1, 100);
    a.store(&writer.stream, &segment).await;
    assert_eq!(b.next_segment(&world, &writer.stream).await, (65, 65));
    serving.stop().await;
}

#[tokio::test]
async fn an_origin_that_comes_back_is_told_how_far_it_is_stored_and_who_has_it() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let segment = writer.write(3, 100);
    a.store(&writer.stream, &segment).await;
    let b = world.link(serving.addr, "b", &[]).await;
    b.send(Request::Receipt(world.receipt("b", &writer.stream, writer.last()))).await;
    assert_eq!(a.next_receipt(&world, "b").await, (writer.stream.clone(), writer.last()));
    drop(a);
    let mut a = world.link(serving.addr, "a", &[]).await;
    let stored: pb::StreamPosition = (&writer.stream, writer.last()).into();
    assert_eq!(a.welcome.stored, [stored]);
    assert_eq!(a.next_receipt(&world, "b").await, (writer.stream.clone(), writer.last()));
    serving.stop().await;
}

/// Once `b` and `c` have receipted all, nothing is held.
async fn receipt_all(
    world: &World,
    a: &mut Link,
    recipients: &[(&str, &Link)],
    writer: &Writer<'_>,
) {
    for (slug, link) in recipients {
        let receipt = world.receipt(slug, &writer.stream, writer.last());
        link.send(Request::Receipt(receipt)).await;
        assert_eq!(a.next_receipt(world, slug).await, (writer.stream.clone(), writer.last()));
    }
}

#[tokio::test]
async fn what_every_party_has_receipted_is_dropped_and_what_one_lacks_is_not() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let segment = writer.write(2, 100);
    a.store(&writer.stream, &segment).await;
    let segment = writer.write(2, 100);
    a.store(&writer.stream, &segment).await;
    let b = world.link(serving.addr, "b", &[]).await;
    let c = world.link(serving.addr, "c", &[]).await;
    receipt_all(&world, &mut a, &[("b", &b)], &writer).await;
    assert_eq!(world.fetch(serving.addr, "c", &writer.stream).await.segments.len(), 2);
    c.send(Request::Receipt(world.receipt("c", &writer.stream, writer.at(2)))).await;
    assert_eq!(a.next_receipt(&world, "c").await.1, writer.at(2));
    assert_eq!(world.fetch(serving.addr, "c", &writer.stream).await.segments.len(), 1);
    receipt_all(&world, &mut a, &[("c", &c)], &writer).await;
    let held = world.fetch(serving.addr, "c", &writer.stream).await;
    assert!(held.segments.is_empty());
    assert_eq!(held.last, Some((&writer.stream, writer.last()).into()), "its place is kept");
    let segment = writer.write(1, 100);
    a.store(&writer.stream, &segment).await;
    serving.stop().await;
    let path = world.data().join("gateway.sqlite");
    let id = world.config().gateway_id;
    let (store, _writer) = storage::gateway::Store::open(&path, &id).await.unwrap();
    let held = store.list_segments(&writer.stream, 0, usize::MAX).await.unwrap();
    assert_eq!(held.iter().map(|s| (s.first_seq, s.last_seq)).collect::<Vec<_>>(), [(5, 5)]);
}

#[tokio::test]
async fn a_recipient_that_went_back_is_filled_again_from_the_origin() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    for _ in 0..3 {
        let segment = writer.write(2, 100);
        a.store(&writer.stream, &segment).await;
    }
    let b = world.link(serving.addr, "b", &[]).await;
    let c = world.link(serving.addr, "c", &[]).await;
    receipt_all(&world, &mut a, &[("b", &b), ("c", &c)], &writer).await;
    // Restored from a copy that held the first two entries.
    drop(b);
    let mut b = world.link(serving.addr, "b", &[(&writer.stream, writer.at(2))]).await;
    assert_eq!(a.want(&writer.stream).await, (3, 6));
    a.segment(Lane::Routine, &writer.seal(3, 6)).await;
    assert_eq!(b.next_segment(&world, &writer.stream).await, (3, 6));
    let segment = writer.write(1, 100);
    a.store(&writer.stream, &segment).await;
    assert_eq!(b.next_segment(&world, &writer.stream).await, (7, 7));
    serving.stop().await;
}

#[tokio::test]
async fn a_recipient_that_wants_again_gets_again() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let mut b = world.link(serving.addr, "b", &[]).await;
    for seq in 1..=3 {
        let segment = writer.write(1, 100);
        a.store(&writer.stream, &segment).await;
        assert_eq!(b.next_segment(&world, &writer.stream).await, (seq, seq));
    }
    let stream = Some((&writer.stream).into());
    b.send(Request::Want(pb::Want { stream, from_seq: 2, to_seq: 0 })).await;
    for seq in 2..=3 {
        assert_eq!(b.next_segment(&world, &writer.stream).await, (seq, seq));
    }
    assert!(b.until_pong().await.is_empty());
    serving.stop().await;
}

/// `b` grants nothing; `c` has taken more than any queue between could hold before `b` takes anything.
#[tokio::test]
async fn a_recipient_that_takes_nothing_does_not_delay_another() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let mut b = world.open(serving.addr, "b", &[]).await;
    let mut c = world.link(serving.addr, "c", &[]).await;
    for seq in 1..=40 {
        let segment = writer.write(1, 100_000);
        a.store(&writer.stream, &segment).await;
        assert_eq!(c.next_segment(&world, &writer.stream).await, (seq, seq));
    }
    b.grant(Lane::Routine, PLENTY).await;
    for seq in 1..=40 {
        assert_eq!(b.next_segment(&world, &writer.stream).await, (seq, seq));
    }
    serving.stop().await;
}

/// `b` grants and does not read, so that its connection fills up.
#[tokio::test]
async fn a_recipient_that_does_not_read_does_not_delay_another() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut writer = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let b = world.link(serving.addr, "b", &[]).await;
    let mut c = world.link(serving.addr, "c", &[]).await;
    for seq in 1..=40 {
        let segment = writer.write(1, 100_000);
        a.store(&writer.stream, &segment).await;
        assert_eq!(c.next_segment(&world, &writer.stream).await, (seq, seq));
    }
    drop(b);
    serving.stop().await;
}

#[tokio::test]
async fn an_alert_overtakes_what_a_slow_recipient_has_not_taken() {
    let world = World::new();
    let serving = world.serve().await;
    let (mut a, agreement) = origin(&world, serving.addr).await;
    let mut routine = Writer::new(&world, "a", agreement, ALL, Lane::Routine);
    let mut alert = Writer::new(&world, "a", agreement, ALL, Lane::Alert);
    let mut b = world.open(serving.addr, "b", &[]).await;
    b.grant(Lane::Alert, PLENTY).await;
    for _ in 0..10 {
        let segment = routine.write(1, 100_000);
        a.store(&routine.stream, &segment).await;
    }
    // Two pieces of the first segment, and no more.
    b.grant(Lane::Routine, 2 * 16_384).await;
    let segment = alert.write(1, 100);
    a.store(&alert.stream, &segment).await;
    assert_eq!(b.next_segment(&world, &alert.stream).await, (1, 1));
    b.grant(Lane::Routine, PLENTY).await;
    for seq in 1..=10 {
        assert_eq!(b.next_segment(&world, &routine.stream).await, (seq, seq));
    }
    serving.stop().await;
}
