//! Proposals that a hostile gateway or region shows: refused by name, and no more is kept than there is room for.

use super::region::Double;
use super::{A, B, COUNTY, Pair, Reason, until};
use crate::harness::{Process, World, region};
use cli::linkage::{self, Terms};
use cli::phone::Phone;
use domain::agreement::{Agreement, AgreementForm, Clause, Grant, Release};
use domain::kernel::{Clock as _, Lane, Purpose, Role};
use proto::agreement::v1::ListProposalsRequest;
use proto::convert;
use proto::exchange::v1::link_request::Frame as Say;
use proto::exchange::v1::link_response::Frame as Told;
use proto::kernel::v1::SignedObject;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::key::{SigningKey, sha256};
use seal::{signed, tag};
use std::path::Path;
use std::time::Duration;

/// How soon what is shown is looked at.
const HEARD: Duration = Duration::from_secs(10);
/// Proposals that one neighbour may have in a region's folder without that region's signature.
const PER_SIGNER_MAX: usize = 8;

/// An agreement of these that nobody has signed, as it is then changed.
fn unsigned(dir: &Path, parties: &[&str], change: impl FnOnce(&mut Agreement)) -> SignedObject {
    let now = SystemClock.now();
    let directory = linkage::read_directory(&dir.join("a"), now).unwrap();
    let parties = parties.iter().map(|party| region(party)).collect();
    let clauses = vec![Clause::whole(Grant::Sos, Release::AtOnce)];
    let terms = Terms::plain(AgreementForm::Agreement, "提议".to_owned(), parties, clauses);
    let object = linkage::propose(&directory, terms, now, &SystemEntropy).unwrap();
    let mut agreement = convert::agreement::decode(&object.body, sha256(&object.body)).unwrap();
    change(&mut agreement);
    SignedObject { body: convert::agreement::encode(&agreement), signatures: Vec::new() }
}

fn signed_by(dir: &Path, mut object: SignedObject, signer: &str) -> SignedObject {
    let data = dir.join(if signer == B { "b" } else { "a" });
    linkage::sign_agreement(&mut object, &data, &region(signer)).unwrap();
    object
}

/// SHA-256 of the proposals that a desk's region holds.
async fn held(desk: &Phone) -> Vec<Vec<u8>> {
    let purpose = Purpose::Operation.code();
    let request = ListProposalsRequest { sha256: Default::default(), purpose };
    let mut service = cli::client::agreement_service(desk.channel());
    let listed = service.list_proposals(request).await.unwrap().into_inner().proposals;
    listed.into_iter().map(|held| held.sha256.to_vec()).collect()
}

/// Files of proposals in B's folder.
fn files(dir: &Path) -> usize {
    let folder = dir.join("b/regions").join(B).join("proposals");
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn names(process: &Process, reason: Reason) -> bool {
    let log = process.log_text();
    log.lines().any(|line| line.contains("a proposal is not taken") && line.contains(reason.name()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_makes_up_is_no_proposal_and_is_not_kept() {
    let mut pair = Pair::plain().await;
    let desk = pair.enrol(B, Role::DutyOfficer).await;
    let dir = pair.dir.path().to_owned();
    let text = |change: fn(&mut Agreement)| unsigned(&dir, &[A, B], change);
    let mut forged = text(|_| {});
    let thief = SigningKey::from_seed(&[7; 32]);
    signed::add_signature(&mut forged, tag::AGREEMENT, A, &thief);
    let by_a = |object| signed_by(&dir, object, A);
    let foreign = by_a(unsigned(&dir, &[A, COUNTY], |_| {}));
    let large = SignedObject { body: vec![0; 300_000].into(), ..forged.clone() };
    let garbage = SignedObject { body: vec![7; 100].into(), ..forged.clone() };
    let old = by_a(text(|next| next.started_at = next.started_at.plus_days(-31)));
    let unfounded = by_a(text(|next| (next.version, next.supersedes) = (2, Some([7; 32]))));
    let tell = |object: &SignedObject| {
        pair.gateway.tell(B, Lane::Routine, Told::Proposal(object.clone()));
    };
    for (shown, reason) in [
        (text(|_| {}), Reason::SignatureInvalid),
        (forged, Reason::SignatureInvalid),
        (foreign, Reason::NotAParty),
        (large, Reason::LimitExceeded),
        (garbage, Reason::EntryUnreadable),
        (old, Reason::ProposalExpired),
        (unfounded, Reason::AgreementUnknown),
    ] {
        tell(&shown);
        until("it is named", HEARD, async || names(&pair.b, reason)).await;
    }
    assert_eq!((held(&desk).await.len(), files(&dir)), (0, 0));
    // The control: a good one, with a signature beside it that is not, is kept without that.
    let mut good = by_a(text(|_| {}));
    let honest = good.signatures.clone();
    signed::add_signature(&mut good, tag::AGREEMENT, COUNTY, &thief);
    tell(&good);
    let name = sha256(&good.body).to_vec();
    until("it is kept", HEARD, async || held(&desk).await == [name.clone()]).await;
    let folder = dir.join("b/regions").join(B).join("proposals");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let kept = <SignedObject as prost::Message>::decode(&*std::fs::read(file).unwrap()).unwrap();
    assert_eq!((kept.body, kept.signatures), (good.body, honest));
    pair.a.stop().await;
    pair.b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_floods_its_neighbour_with_proposals_fills_its_own_part_alone() {
    let mut world = World::start().await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    world.a.stop().await;
    let dir = world.path("");
    let proposal = |of: &str| signed_by(&dir, unsigned(&dir, &[of, B], |_| {}), of);
    let double = Double::open(&world, A).await;
    for _ in 0..3 * PER_SIGNER_MAX {
        double.say(Say::Proposal(proposal(A))).await;
    }
    until("they are named", HEARD, async || names(&world.b, Reason::ProposalsFull)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((held(&desk).await.len(), files(&dir)), (PER_SIGNER_MAX, PER_SIGNER_MAX));
    // Another neighbour has its own part.
    let other = Double::open(&world, COUNTY).await;
    let theirs = proposal(COUNTY);
    let name = sha256(&theirs.body).to_vec();
    other.say(Say::Proposal(theirs)).await;
    until("the other's is kept", HEARD, async || held(&desk).await.contains(&name)).await;
    assert_eq!(files(&dir), PER_SIGNER_MAX + 1);
    world.b.stop().await;
    world.gateway.stop().await;
}
