//! What a region signs when somebody of its own asks for it, and what it refuses by name; nobody else hears of it here.

use crate::world::*;
use bytes::Bytes;
use domain::agreement::{Agreement, AgreementForm, Clause, Force, Grant, Party, Release};
use domain::kernel::{AgreementId, Clock as _, Purpose, Role};
use proto::agreement::v1 as pb;
use proto::agreement::v1::agreement_service_client::AgreementServiceClient;
use proto::convert::agreement;
use proto::directory::v1::GetRegionRequest;
use proto::directory::v1::directory_service_client::DirectoryServiceClient;
use runtime::clock::SystemEntropy;
use seal::key::{key_fingerprint, sha256};
use tonic::Code;

const OPERATION: i32 = Purpose::Operation.code();

/// An agreement between the two regions of the server.
async fn agreed(world: &World, desk: &Phone) -> Agreement {
    let mut directory = DirectoryServiceClient::new(desk.channel.clone());
    let mut parties = Vec::new();
    for name in ["xiaonanhai", "zhoubai"] {
        let request = GetRegionRequest { region_id: name.to_owned(), purpose: DUTY };
        let found = in_time(directory.get_region(request)).await.expect("listed").into_inner();
        let key = found.region.expect("a region").signing_key.as_ref().try_into().expect("a key");
        parties.push(Party { region: slug(name), signing_key_sha256: key_fingerprint(&key) });
    }
    let now = world.clock.now();
    Agreement {
        agreement_id: AgreementId::mint(now, &SystemEntropy),
        version: 1,
        form: AgreementForm::Agreement,
        title: "联防".to_owned(),
        parties,
        clauses: vec![Clause::whole(Grant::Sos, Release::AtOnce)],
        purposes: vec![Purpose::Duty],
        started_at: now,
        ended_at: now.plus_days(90),
        retention_days: None,
        force: Force::InForce,
        supersedes: None,
        sha256: [0; 32],
    }
}

/// Another agreement that says the same.
fn another(world: &World, of: &Agreement) -> Agreement {
    let agreement_id = AgreementId::mint(world.clock.now(), &SystemEntropy);
    Agreement { agreement_id, ..of.clone() }
}

async fn propose(desk: &Phone, body: Bytes) -> Result<Option<pb::Proposal>, tonic::Status> {
    let mut service = AgreementServiceClient::new(desk.channel.clone());
    let request = pb::ProposeAgreementRequest { agreement: body, purpose: OPERATION };
    Ok(in_time(service.propose_agreement(request)).await?.into_inner().proposal)
}

async fn held(desk: &Phone) -> Vec<pb::Proposal> {
    let mut service = AgreementServiceClient::new(desk.channel.clone());
    let request = pb::ListProposalsRequest { sha256: Bytes::new(), purpose: OPERATION };
    in_time(service.list_proposals(request)).await.expect("listed").into_inner().proposals
}

#[tokio::test]
async fn what_could_not_be_agreed_is_refused_by_name_and_not_signed() {
    let world = World::new().await;
    let desk = world.phone("xiaonanhai", Role::Administrator).await;
    let good = agreed(&world, &desk).await;
    let with = |change: fn(&mut Agreement)| {
        let mut agreement = good.clone();
        change(&mut agreement);
        agreement::encode(&agreement)
    };
    for (body, refusal) in [
        (Bytes::from_static(b"\xff\xff"), (Code::InvalidArgument, "FIELD_INVALID")),
        (vec![0; 300_000].into(), (Code::ResourceExhausted, "LIMIT_EXCEEDED")),
        (
            with(|next| next.parties[1].region = slug("aaa-unordered")),
            (Code::InvalidArgument, "FIELD_INVALID"),
        ),
        (
            with(|next| next.parties[1].region = slug("zz-unlisted")),
            (Code::NotFound, "REGION_UNKNOWN"),
        ),
        (
            with(|next| next.parties[1].signing_key_sha256 = [7; 32]),
            (Code::Unauthenticated, "SIGNATURE_INVALID"),
        ),
        (
            with(|next| (next.version, next.supersedes) = (2, Some([7; 32]))),
            (Code::NotFound, "AGREEMENT_UNKNOWN"),
        ),
        (
            with(|next| next.started_at = next.started_at.plus_days(-31)),
            (Code::FailedPrecondition, "PROPOSAL_EXPIRED"),
        ),
    ] {
        let told = refused(propose(&desk, body).await);
        assert_eq!((told.0, told.1.as_str()), refusal);
    }
    assert_eq!(held(&desk).await, []);
    // The control, and once more: it is the same one.
    let body = agreement::encode(&good);
    for _ in 0..2 {
        let told = propose(&desk, body.clone()).await.expect("good").expect("not by all");
        assert_eq!((told.signed_regions, told.signed_here), (vec!["xiaonanhai".to_owned()], true));
        assert_eq!((told.missing_regions, told.needed_count), (vec!["zhoubai".to_owned()], 1));
    }
    assert_eq!(held(&desk).await.len(), 1);
}

#[tokio::test]
async fn what_all_must_sign_is_not_signed_by_who_is_on_duty_nor_under_trust_that_is_old() {
    let world = World::new().await;
    let desk = world.phone("xiaonanhai", Role::Administrator).await;
    let duty = world.phone("xiaonanhai", Role::DutyOfficer).await;
    let other = world.phone("zhoubai", Role::Administrator).await;
    let first = agreed(&world, &desk).await;
    let body = agreement::encode(&first);
    propose(&desk, body.clone()).await.expect("good");
    assert_eq!(held(&other).await, [], "no gateway is there to carry it");
    // The other side has the text by some other way, and takes it up; no gateway is there to bring it back.
    let told = propose(&other, body.clone()).await.expect("good").expect("not by all");
    assert_eq!(told.signed_regions, ["zhoubai"]);

    let wider = agreement::encode(&another(&world, &first));
    assert_eq!(refused(propose(&duty, wider.clone()).await).1, "ROLE_FORBIDDEN");
    world.clock.advance(25 * 3_600_000);
    assert_eq!(refused(propose(&desk, wider.clone()).await).1, "TRUST_STALE");
    let named = held(&desk).await.remove(0);
    let mut service = AgreementServiceClient::new(desk.channel.clone());
    let request = pb::DeclineProposalRequest {
        agreement_id: named.agreement_id,
        version: named.version,
        sha256: named.sha256,
        purpose: OPERATION,
    };
    in_time(service.decline_proposal(request.clone())).await.expect("declined");
    assert_eq!(refused(in_time(service.decline_proposal(request)).await).1, "PROPOSAL_UNKNOWN");
    assert_eq!(held(&desk).await, []);
}

#[tokio::test]
async fn a_region_holds_so_many_proposals_and_no_more_until_some_have_had_their_time() {
    let world = World::new().await;
    let desk = world.phone("xiaonanhai", Role::Administrator).await;
    let good = agreed(&world, &desk).await;
    for number in 0..9 {
        let text = Agreement { title: format!("第{number}稿"), ..good.clone() };
        let told = propose(&desk, agreement::encode(&text)).await;
        assert_eq!(told.is_ok(), number < 8, "{number}");
        if let Err(status) = told {
            assert_eq!(reason(&status), "PROPOSALS_FULL");
        }
    }
    for number in 8..65 {
        let told = propose(&desk, agreement::encode(&another(&world, &good))).await;
        assert_eq!(told.is_ok(), number < 64, "{number}");
        if let Err(status) = told {
            assert_eq!(
                refused::<()>(Err(status)),
                (Code::ResourceExhausted, "PROPOSALS_FULL".into())
            );
        }
    }
    let listed = held(&desk).await;
    assert_eq!(listed.len(), 64);
    let text = listed.iter().find(|held| held.title == "第3稿").expect("listed");
    let body = agreement::encode(&Agreement { title: "第3稿".to_owned(), ..good.clone() });
    assert_eq!(text.sha256, sha256(&body)[..]);
    // In thirty days all have had their time.
    world.clock.advance(30 * 24 * 3_600_000 + 1);
    let gone = async {
        while !held(&desk).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    in_time(gone).await;
}
