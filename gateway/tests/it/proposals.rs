//! Proposals: to whom they go, what is refused, and that nobody has more than its part of the room.

use crate::world::*;
use domain::agreement::Agreement;
use domain::kernel::Reason;
use gateway::proposals::PROPOSALS_PER_REGION_MAX;
use proto::convert;
use proto::exchange::v1::link_request::Frame as Request;
use proto::kernel::v1::SignedObject;
use seal::key::sha256;
use seal::{signed, tag};

/// An agreement of these that nobody has signed, as it is then changed.
fn unsigned(world: &World, parties: &[&str], change: impl FnOnce(&mut Agreement)) -> SignedObject {
    let (_, object) = world.agree(parties);
    let mut agreement = convert::agreement::decode(&object.body, [0; 32]).unwrap();
    change(&mut agreement);
    SignedObject { body: convert::agreement::encode(&agreement), signatures: Vec::new() }
}

/// The same, with the signatures of these.
fn signed_by(world: &World, object: &SignedObject, signers: &[&str]) -> SignedObject {
    let mut object = object.clone();
    for signer in signers {
        let key = &world.regions[&region(signer)].signing;
        signed::add_signature(&mut object, tag::AGREEMENT, signer, key);
    }
    object
}

fn signers(object: &SignedObject) -> Vec<&str> {
    object.signatures.iter().map(|signature| signature.signer.as_str()).collect()
}

#[tokio::test]
async fn a_proposal_goes_to_whom_it_names_with_its_good_signatures_alone() {
    let world = World::new();
    let serving = world.serve().await;
    let text = unsigned(&world, &["a", "b"], |_| {});
    let mut a = world.taking(serving.addr, "a").await;
    let mut b = world.taking(serving.addr, "b").await;
    let mut stranger = world.taking(serving.addr, "c").await;
    // Somebody signs in the name of the other party, and of one who is none.
    let mut shown = signed_by(&world, &text, &["a", "c"]);
    let key = &world.regions[&region("a")].signing;
    signed::add_signature(&mut shown, tag::AGREEMENT, "b", key);
    a.send(Request::Proposal(shown)).await;
    let came = b.next_proposal().await;
    assert_eq!((&came.body, signers(&came)), (&text.body, vec!["a"]));
    assert!(a.proposals_until_pong().await.is_empty(), "it has it");
    // What the other has signed comes back, once, whatever it leaves out of what it was shown.
    b.send(Request::Proposal(signed_by(&world, &text, &["b"]))).await;
    assert_eq!(signers(&a.next_proposal().await), ["a", "b"]);
    b.send(Request::Proposal(signed_by(&world, &text, &["b"]))).await;
    assert!(a.proposals_until_pong().await.is_empty());
    // Who dials later is shown all of it, if it takes any.
    let mut later = world.taking(serving.addr, "b").await;
    assert_eq!(signers(&later.next_proposal().await), ["a", "b"]);
    let mut takes_none = world.link(serving.addr, "b", &[]).await;
    assert!(takes_none.proposals_until_pong().await.is_empty());
    assert!(stranger.proposals_until_pong().await.is_empty());
    // Once it is agreed, it is no proposal any more.
    a.send(Request::Agreement(signed_by(&world, &text, &["a", "b"]))).await;
    takes_none.next_agreement().await;
    let mut again = world.taking(serving.addr, "b").await;
    assert!(again.proposals_until_pong().await.is_empty());
    serving.stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_started_anew_hears_of_proposals_from_the_regions() {
    let world = World::new();
    let serving = world.serve().await;
    let proposal = signed_by(&world, &unsigned(&world, &["a", "b"], |_| {}), &["a"]);
    let mut b = world.taking(serving.addr, "b").await;
    let a = world.link(serving.addr, "a", &[]).await;
    a.send(Request::Proposal(proposal.clone())).await;
    assert_eq!(b.next_proposal().await, proposal);
    serving.stop().await;
    let serving = world.serve().await;
    let mut b = world.taking(serving.addr, "b").await;
    assert!(b.proposals_until_pong().await.is_empty());
    let a = world.link(serving.addr, "a", &[]).await;
    a.send(Request::Proposal(proposal.clone())).await;
    assert_eq!(b.next_proposal().await, proposal);
    serving.stop().await;
}

#[tokio::test]
async fn what_is_no_proposal_is_refused_by_name_and_goes_no_further() {
    let world = World::new();
    let serving = world.serve().await;
    let mut a = world.link(serving.addr, "a", &[]).await;
    let mut b = world.taking(serving.addr, "b").await;
    let mut stranger = world.link(serving.addr, "c", &[]).await;
    let text = unsigned(&world, &["a", "b"], |_| {});
    let good = signed_by(&world, &text, &["a"]);
    let mut forged = text.clone();
    let other = &world.regions[&region("c")].signing;
    signed::add_signature(&mut forged, tag::AGREEMENT, "a", other);
    let mut altered = good.clone();
    altered.body = unsigned(&world, &["a", "b"], |next| next.title = "另".to_owned()).body;
    let garbage = SignedObject { body: vec![7; 100].into(), ..good.clone() };
    let large = SignedObject { body: vec![0; 300_000].into(), ..good.clone() };
    let by_a = |change: fn(&mut Agreement)| {
        signed_by(&world, &unsigned(&world, &["a", "b"], change), &["a"])
    };
    let old = by_a(|next| {
        (next.started_at, next.ended_at) = (now().plus_days(-31), now().plus_days(300));
    });
    let over = by_a(|next| next.ended_at = now().plus_millis(-1));
    let unfounded = by_a(|next| (next.version, next.supersedes) = (2, Some([7; 32])));
    let unpinned = by_a(|next| next.parties[1].signing_key_sha256 = [7; 32]);
    let unlisted = by_a(|next| next.parties[1].region = region("d"));
    for (shown, reason) in [
        (text.clone(), Reason::SignatureInvalid),
        (forged, Reason::SignatureInvalid),
        (altered, Reason::SignatureInvalid),
        (garbage, Reason::EntryUnreadable),
        (large, Reason::LimitExceeded),
        (old, Reason::ProposalExpired),
        (over, Reason::ProposalExpired),
        (unfounded, Reason::AgreementUnknown),
        (unpinned, Reason::SignatureInvalid),
        (unlisted, Reason::RegionUnknown),
    ] {
        a.send(Request::Proposal(shown)).await;
        assert_eq!(a.refusal().await.0, reason);
    }
    stranger.send(Request::Proposal(good.clone())).await;
    assert_eq!(stranger.refusal().await.0, Reason::NotAParty);
    let agreed = signed_by(&world, &text, &["a", "b"]);
    let rival = |title: &str| {
        let mut rival = convert::agreement::decode(&text.body, sha256(&text.body)).unwrap();
        rival.title = title.to_owned();
        let body = convert::agreement::encode(&rival);
        signed_by(&world, &SignedObject { body, signatures: Vec::new() }, &["a"])
    };
    // The controls: two texts of one version are proposals, until one of them is agreed.
    for control in [&good, &rival("另")] {
        a.send(Request::Proposal(control.clone())).await;
        assert_eq!(b.next_proposal().await, *control);
    }
    a.send(Request::Agreement(agreed)).await;
    b.next_agreement().await;
    a.send(Request::Proposal(rival("又"))).await;
    assert_eq!(a.refusal().await.0, Reason::AgreementSuperseded);
    assert!(b.proposals_until_pong().await.is_empty());
    serving.stop().await;
}

#[tokio::test]
async fn a_region_that_brings_too_many_has_filled_its_own_part_alone() {
    let world = World::new();
    let serving = world.serve().await;
    let mut a = world.link(serving.addr, "a", &[]).await;
    let mut b = world.link(serving.addr, "b", &[]).await;
    let mut c = world.taking(serving.addr, "c").await;
    let by = |signer: &str, parties: &[&str]| {
        signed_by(&world, &unsigned(&world, parties, |_| {}), &[signer])
    };
    let first = by("a", &["a", "c"]);
    a.send(Request::Proposal(first.clone())).await;
    c.next_proposal().await;
    for _ in 1..PROPOSALS_PER_REGION_MAX {
        a.send(Request::Proposal(by("a", &["a", "c"]))).await;
        c.next_proposal().await;
    }
    a.send(Request::Proposal(by("a", &["a", "c"]))).await;
    assert_eq!(a.refusal().await.0, Reason::ProposalsFull);
    assert!(c.proposals_until_pong().await.is_empty());
    // What it brought is known still, and others have their room.
    b.send(Request::Proposal(by("b", &["b", "c"]))).await;
    assert_eq!(signers(&c.next_proposal().await), ["b"]);
    c.send(Request::Proposal(signed_by(&world, &first, &["c"]))).await;
    assert!(b.until_pong().await.is_empty());
    let mut a = world.taking(serving.addr, "a").await;
    let both = |object: &SignedObject| signers(object) == ["a", "c"];
    let mut seen = 0;
    while !both(&a.next_proposal().await) {
        seen += 1;
    }
    assert!(seen < PROPOSALS_PER_REGION_MAX);
    serving.stop().await;
}
