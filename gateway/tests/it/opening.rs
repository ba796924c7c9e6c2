//! Who gets a link and who does not. A test fails here when the gateway welcomes a region that did not
//! prove itself, or does not say why it refuses.

use crate::world::{World, Writer, in_time, region};
use domain::kernel::{GatewayId, Lane, Reason};
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_request::Frame as Request;
use seal::key::{SigningKey, sha256};
use seal::signed::Hello;
use tonic::Code;

#[tokio::test]
async fn a_hello_over_another_nonce_is_refused() {
    let world = World::new();
    let serving = world.serve().await;
    let own = world.certificate("a", "a");
    let dialled = world.dial(serving.addr, Some(&own)).await.unwrap();
    let hello = world.hello("a", [7; 32], &[]).sign(&world.regions[&region("a")].signing);
    assert_eq!(dialled.refused(Request::Hello(hello)).await, Reason::SignatureInvalid);
    serving.stop().await;
}

#[tokio::test]
async fn a_hello_that_names_another_gateway_is_refused() {
    let world = World::new();
    let serving = world.serve().await;
    let own = world.certificate("a", "a");
    let dialled = world.dial(serving.addr, Some(&own)).await.unwrap();
    let mut hello = world.hello("a", dialled.nonce, &[]);
    hello.gateway = GatewayId::parse("gw2").unwrap();
    let hello = hello.sign(&world.regions[&region("a")].signing);
    assert_eq!(dialled.refused(Request::Hello(hello)).await, Reason::SignatureInvalid);
    serving.stop().await;
}

#[tokio::test]
async fn a_hello_signed_with_another_key_or_of_a_stranger_is_refused() {
    let world = World::new();
    let serving = world.serve().await;
    let key = SigningKey::generate(&runtime::clock::SystemEntropy);
    let own = world.certificate("a", "a");
    for (slug, reason) in [("a", Reason::SignatureInvalid), ("x", Reason::RegionUnknown)] {
        let dialled = world.dial(serving.addr, Some(&own)).await.unwrap();
        let hello = world.hello(slug, dialled.nonce, &[]).sign(&key);
        assert_eq!(dialled.refused(Request::Hello(hello)).await, reason, "{slug}");
    }
    serving.stop().await;
}

#[tokio::test]
async fn a_hello_of_another_protocol_is_refused_and_so_is_none() {
    let world = World::new();
    let serving = world.serve().await;
    let own = world.certificate("a", "a");
    let dialled = world.dial(serving.addr, Some(&own)).await.unwrap();
    let mut hello = world.hello("a", dialled.nonce, &[]);
    hello.protocol += 1;
    let hello = hello.sign(&world.regions[&region("a")].signing);
    assert_eq!(dialled.refused(Request::Hello(hello)).await, Reason::ProtocolViolation);
    let dialled = world.dial(serving.addr, Some(&own)).await.unwrap();
    let ping = Request::Ping(pb::Ping { reply: false, token: 1 });
    assert_eq!(dialled.refused(ping).await, Reason::ProtocolViolation);
    serving.stop().await;
}

#[tokio::test]
async fn a_hello_of_another_region_than_the_certificate_is_refused() {
    let world = World::new();
    let serving = world.serve().await;
    let own = world.certificate("b", "b");
    let dialled = world.dial(serving.addr, Some(&own)).await.unwrap();
    let hello = world.hello("a", dialled.nonce, &[]).sign(&world.regions[&region("a")].signing);
    assert_eq!(dialled.refused(Request::Hello(hello)).await, Reason::RoleForbidden);
    serving.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_regions_authority_is_refused() {
    let world = World::new();
    let serving = world.serve().await;
    let forged = world.certificate("b", "a");
    assert!(world.dial(serving.addr, Some(&forged)).await.is_err());
    assert!(world.dial(serving.addr, Some(&world.certificate("a", "a"))).await.is_ok());
    serving.stop().await;
}

#[tokio::test]
async fn a_region_behind_a_front_is_admitted_by_its_hello_and_may_not_fetch() {
    let world = World::new();
    let serving = world.serve().await;
    let dialled = world.dial(serving.addr, None).await.unwrap();
    let hello = world.hello("a", dialled.nonce, &[]).sign(&world.regions[&region("a")].signing);
    let link = dialled.enter(hello).await;
    let trust = Some(pb::TrustMark { directory_version: 1, ..pb::TrustMark::default() });
    let takes_proposals = true;
    let welcome = pb::Welcome { trust, takes_proposals, ..pb::Welcome::default() };
    assert_eq!(link.welcome, welcome);
    let (agreement, _) = world.agree(&["a", "b"]);
    let writer = Writer::new(&world, "a", agreement, &["a", "b"], Lane::Alert);
    let stream = Some((&writer.stream).into());
    let request = pb::FetchRequest { stream, from_seq: 1, ..Default::default() };
    let refused = in_time(world.client(serving.addr, None).fetch(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    serving.stop().await;
}

#[tokio::test]
async fn a_newer_link_of_a_region_takes_the_place_of_the_older() {
    let world = World::new();
    let serving = world.serve().await;
    let mut older = world.link(serving.addr, "a", &[]).await;
    let mut newer = world.link(serving.addr, "a", &[]).await;
    older.ended().await;
    assert!(newer.until_pong().await.is_empty());
    serving.stop().await;
}

#[tokio::test]
async fn a_version_is_told_to_those_whom_it_concerns_and_who_do_not_hold_it() {
    let world = World::new();
    let serving = world.serve().await;
    let (_, signed) = world.agree(&["a", "b"]);
    let mut early = world.link(serving.addr, "b", &[]).await;
    let mut stranger = world.link(serving.addr, "c", &[]).await;
    let a = world.link(serving.addr, "a", &[]).await;
    a.send(Request::Agreement(signed.clone())).await;
    assert_eq!(early.next_agreement().await, signed);
    // Who dials later is told, once; who says that it holds it is not.
    let mut later = world.link(serving.addr, "b", &[]).await;
    assert_eq!(later.next_agreement().await, signed);
    assert!(later.agreements_until_pong().await.is_empty());
    assert!(stranger.agreements_until_pong().await.is_empty());
    let own = world.certificate("b", "b");
    let dialled = world.dial(serving.addr, Some(&own)).await.unwrap();
    let held = vec![sha256(&signed.body)];
    let hello = Hello { agreements: held, ..world.hello("b", dialled.nonce, &[]) };
    let mut holder = dialled.enter(hello.sign(&world.regions[&region("b")].signing)).await;
    assert!(holder.agreements_until_pong().await.is_empty());
    serving.stop().await;
}

#[tokio::test]
async fn a_second_gateway_on_the_same_folder_is_refused_with_one_clear_line() {
    let world = World::new();
    let first = world.bind(world.config()).await.unwrap();
    let refused = world.bind(world.config()).await.err().unwrap();
    let line = runtime::ErrorChain(&refused).to_string();
    let expected = format!("data folder {} is in use by another process", world.data().display());
    assert_eq!(line, expected);
    drop(first);
    world.bind(world.config()).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_not_of_a_listed_gateway_is_refused() {
    let world = World::new();
    let mut config = world.config();
    config.gateway_id = GatewayId::parse("gw2").unwrap();
    let clock = std::sync::Arc::new(runtime::clock::SystemClock);
    let entropy = std::sync::Arc::new(runtime::clock::SystemEntropy);
    let refused = gateway::Gateway::bind(config, clock, entropy).await.err().unwrap();
    assert!(matches!(refused, gateway::ServerError::NotListed(_)), "{refused:?}");
    world.write("trust/linkage.signed", b"nothing");
    let refused = world.bind(world.config()).await.err().unwrap();
    assert!(matches!(refused, gateway::ServerError::Trust(_)), "{refused:?}");
}
