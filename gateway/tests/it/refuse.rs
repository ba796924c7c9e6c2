//! What is refused over an open link. A test fails here when something that is not proven gets on disk,
//! or an honest region is not told what to do.

use crate::world::{World, Writer, region};
use domain::kernel::{Lane, Reason};
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_request::Frame as Request;
use runtime::clock::SystemEntropy;
use seal::key::SigningKey;

#[tokio::test]
async fn a_segment_signed_with_another_key_is_refused_and_the_good_one_is_stored() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let mut writer = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Routine);
    let good = writer.write(3, 100);
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.send(Request::Agreement(signed)).await;
    let forged = writer.seal_with(1, 3, &SigningKey::generate(&SystemEntropy));
    link.segment(Lane::Routine, &forged).await;
    let refusal = (Reason::SignatureInvalid, Some(writer.stream.clone()));
    assert_eq!(link.refusal().await, refusal);
    // The signature of the good one under what the forger made of it.
    let mut bent = good.clone();
    let last = bent.bytes.len() - 1;
    bent.bytes[last] ^= 1;
    bent.segment_id = seal::segment::segment_id(&bent.bytes);
    link.segment(Lane::Routine, &bent).await;
    assert_eq!(link.refusal().await, refusal);
    assert!(world.fetch(serving.addr, "b", &writer.stream).await.segments.is_empty());
    link.store(&writer.stream, &good).await;
    assert_eq!(world.fetch(serving.addr, "b", &writer.stream).await.segments, [good.bytes]);
    serving.stop().await;
}

#[tokio::test]
async fn a_segment_of_another_origin_than_its_sender_ends_the_link() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let mut writer = Writer::new(&world, "b", agreement, &["a", "b"], Lane::Routine);
    let sealed = writer.write(1, 100);
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.send(Request::Agreement(signed)).await;
    link.segment(Lane::Routine, &sealed).await;
    assert_eq!(link.fatal().await, Reason::ProtocolViolation);
    link.ended().await;
    assert!(world.fetch(serving.addr, "a", &writer.stream).await.segments.is_empty());
    serving.stop().await;
}

#[tokio::test]
async fn a_segment_waits_for_its_agreement_and_is_asked_for_once_that_came() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let mut writer = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Routine);
    let sealed = writer.write(2, 100);
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.segment(Lane::Routine, &sealed).await;
    let refusal = (Reason::AgreementUnknown, Some(writer.stream.clone()));
    assert_eq!(link.refusal().await, refusal);
    link.send(Request::Agreement(signed)).await;
    assert_eq!(link.want(&writer.stream).await, (1, 0));
    link.store(&writer.stream, &sealed).await;
    serving.stop().await;
}

/// The other party may be the one who brings it.
#[tokio::test]
async fn an_agreement_that_another_party_brings_admits_the_stream_too() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let mut writer = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Alert);
    let sealed = writer.write(1, 100);
    let mut a = world.link(serving.addr, "a", &[]).await;
    a.segment(Lane::Alert, &sealed).await;
    assert_eq!(a.refusal().await.0, Reason::AgreementUnknown);
    let b = world.link(serving.addr, "b", &[]).await;
    b.send(Request::Agreement(signed)).await;
    assert_eq!(a.want(&writer.stream).await, (1, 0));
    a.store(&writer.stream, &sealed).await;
    serving.stop().await;
}

#[tokio::test]
async fn an_agreement_that_a_party_has_not_signed_is_refused() {
    let world = World::new();
    let serving = world.serve().await;
    let (_, mut signed) = world.agree(&["a", "b"]);
    signed.signatures.pop();
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.send(Request::Agreement(signed)).await;
    assert_eq!(link.refusal().await, (Reason::SignatureInvalid, None));
    let (_, others) = world.agree(&["b", "c"]);
    link.send(Request::Agreement(others)).await;
    assert_eq!(link.refusal().await, (Reason::NotAParty, None));
    serving.stop().await;
}

#[tokio::test]
async fn a_segment_sealed_to_others_than_the_parties_is_refused() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.send(Request::Agreement(signed)).await;
    for sealed_to in [&["a", "b", "c"][..], &["a"]] {
        let mut writer = Writer::new(&world, "a", agreement, sealed_to, Lane::Routine);
        let sealed = writer.write(1, 100);
        link.segment(Lane::Routine, &sealed).await;
        assert_eq!(link.refusal().await, (Reason::NotAParty, Some(writer.stream.clone())));
    }
    serving.stop().await;
}

#[tokio::test]
async fn who_is_no_party_may_not_write_want_receipt_or_fetch() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let a = world.link(serving.addr, "a", &[]).await;
    a.send(Request::Agreement(signed)).await;
    let mut writer = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Routine);
    let sealed = writer.write(1, 100);
    let mut a = a;
    a.store(&writer.stream, &sealed).await;
    let mut c = world.link(serving.addr, "c", &[]).await;
    let mut own = Writer::new(&world, "c", agreement, &["a", "b", "c"], Lane::Routine);
    let intruder = own.write(1, 100);
    let refusal = |stream| (Reason::NotAParty, Some(stream));
    c.segment(Lane::Routine, &intruder).await;
    assert_eq!(c.refusal().await, refusal(own.stream.clone()));
    let stream = Some((&writer.stream).into());
    c.send(Request::Want(pb::Want { stream, from_seq: 1, to_seq: 0 })).await;
    assert_eq!(c.refusal().await, refusal(writer.stream.clone()));
    let receipt = world.receipt("c", &writer.stream, sealed.after);
    c.send(Request::Receipt(receipt)).await;
    assert_eq!(c.refusal().await, refusal(writer.stream.clone()));
    let mut client = world.client(serving.addr, Some(&world.certificate("c", "c")));
    let stream = Some((&writer.stream).into());
    let request = pb::FetchRequest { stream, from_seq: 1, ..Default::default() };
    let refused = crate::world::in_time(client.fetch(request)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    serving.stop().await;
}

#[tokio::test]
async fn a_receipt_in_another_name_is_refused() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b", "c"]);
    let mut writer = Writer::new(&world, "a", agreement, &["a", "b", "c"], Lane::Routine);
    let sealed = writer.write(1, 100);
    let mut a = world.link(serving.addr, "a", &[]).await;
    a.send(Request::Agreement(signed)).await;
    a.store(&writer.stream, &sealed).await;
    let mut c = world.link(serving.addr, "c", &[]).await;
    // Good in itself, but not c's to send: the key at hand is c's.
    c.send(Request::Receipt(world.receipt("b", &writer.stream, sealed.after))).await;
    assert_eq!(c.refusal().await.0, Reason::SignatureInvalid);
    // Of a stream of one's own.
    a.send(Request::Receipt(world.receipt("a", &writer.stream, sealed.after))).await;
    assert_eq!(a.refusal().await.0, Reason::NotAParty);
    assert_eq!(world.fetch(serving.addr, "b", &writer.stream).await.segments.len(), 1);
    serving.stop().await;
}

#[tokio::test]
async fn a_segment_that_leaves_a_hole_is_answered_with_where_to_go_on() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let mut writer = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Routine);
    let (first, _lost, third) = (writer.write(2, 100), writer.write(2, 100), writer.write(2, 100));
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.send(Request::Agreement(signed)).await;
    link.store(&writer.stream, &first).await;
    link.segment(Lane::Routine, &third).await;
    assert_eq!(link.want(&writer.stream).await, (3, 0));
    link.store(&writer.stream, &writer.seal(3, 6)).await;
    serving.stop().await;
}

#[tokio::test]
async fn a_fork_of_a_stream_is_refused_and_the_first_branch_stays() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let mut writer = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Routine);
    let mut other = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Routine);
    other.restart_as(writer.stream.clone());
    let first = writer.write(2, 100);
    other.write(2, 100);
    let branch = other.write(1, 100);
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.send(Request::Agreement(signed)).await;
    link.store(&writer.stream, &first).await;
    link.segment(Lane::Routine, &branch).await;
    let refusal = (Reason::StreamForked, Some(writer.stream.clone()));
    assert_eq!(link.refusal().await, refusal);
    let held = world.fetch(serving.addr, "b", &writer.stream).await;
    assert_eq!(held.segments, [first.bytes]);
    serving.stop().await;
}

#[tokio::test]
async fn a_link_that_sends_too_much_that_is_bad_is_closed() {
    let world = World::new();
    let serving = world.serve().await;
    let mut link = world.link(serving.addr, "a", &[]).await;
    let (_, others) = world.agree(&["b", "c"]);
    for _ in 0..17 {
        link.send(Request::Agreement(others.clone())).await;
    }
    assert_eq!(link.fatal().await, Reason::LimitExceeded);
    link.ended().await;
    serving.stop().await;
}

#[tokio::test]
async fn a_piece_of_another_lane_and_a_second_hello_end_the_link() {
    let world = World::new();
    let serving = world.serve().await;
    let mut writer = Writer::new(&world, "a", world.agree(&["a", "b"]).0, &["a", "b"], Lane::Bulk);
    let sealed = writer.write(1, 100);
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.segment(Lane::Bulk, &sealed).await;
    assert_eq!(link.fatal().await, Reason::ProtocolViolation);
    link.ended().await;
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.send(Request::Hello(
        world.hello("a", [0; 32], &[]).sign(&world.regions[&region("a")].signing),
    ))
    .await;
    assert_eq!(link.fatal().await, Reason::ProtocolViolation);
    serving.stop().await;
}

#[tokio::test]
async fn a_segment_across_the_end_of_what_is_stored_is_asked_for_in_another_cut() {
    let world = World::new();
    let serving = world.serve().await;
    let (agreement, signed) = world.agree(&["a", "b"]);
    let mut writer = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Routine);
    let first = writer.write(2, 100);
    writer.write(1, 100);
    let mut link = world.link(serving.addr, "a", &[]).await;
    link.send(Request::Agreement(signed)).await;
    link.store(&writer.stream, &first).await;
    // Cut when the welcome still said 1, because 2 was being stored for an earlier link.
    link.segment(Lane::Routine, &writer.seal(2, 3)).await;
    assert_eq!(link.want(&writer.stream).await, (3, 0));
    link.store(&writer.stream, &writer.seal(3, 3)).await;
    serving.stop().await;
}
