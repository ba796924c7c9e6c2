//! Proposals: a version of an agreement on its way from the first signature to the last.

use crate::authorise;
use crate::hosted::{Caller, Hosted};
use crate::proposals::{before, is_agreed};
use crate::status::{malformed, refuse, refuse_field};
use bytes::Bytes;
use domain::agreement::{Agreement, Consent, SHORT_VERSIONS_MAX};
use domain::kernel::{AgreementId, Reason, TrustAge};
use exchange::home::News;
use proto::agreement::v1 as pb;
use proto::convert::agreement;
use proto::convert::kernel::encode_time;
use proto::kernel::v1::SignedObject;
use seal::key::sha256;
use seal::proposal::{PROPOSAL_BYTES_MAX, Proposal};
use seal::{signed, tag};
use tonic::Status;

/// A version that somebody of the region wants to sign, and may.
pub(super) struct Wanted {
    sha256: [u8; 32],
    /// Without this region's signature; `None` where it is held as an agreement already.
    object: Option<SignedObject>,
}

/// Looks at a version that nobody has signed as if all had.
pub(super) fn proposed(region: &Hosted, caller: &Caller, body: Bytes) -> Result<Wanted, Status> {
    if body.len() > PROPOSAL_BYTES_MAX {
        return Err(refuse(Reason::LimitExceeded));
    }
    let sha256 = sha256(&body);
    let agreement =
        agreement::decode(&body, sha256).map_err(|violations| malformed(&violations))?;
    let book = region.book();
    if is_agreed(&book, &agreement).map_err(|error| refuse(error.reason()))? {
        return Ok(Wanted { sha256, object: None });
    }
    let held = before(&book, &agreement);
    let (agreement, consent) = Proposal::unsigned(agreement, held, &book.trust, region.now())
        .map_err(|error| refuse(error.reason()))?;
    let leaves = consent == Consent::Leaver(region.region.clone());
    if !agreement.has_party(&region.region) && !leaves {
        return Err(refuse(Reason::NotAParty));
    }
    may_bind(region, caller, &agreement, &consent)?;
    Ok(Wanted { sha256, object: Some(SignedObject { body, signatures: Vec::new() }) })
}

/// The proposal that a caller names, if it may sign it.
pub(super) fn named(
    region: &Hosted,
    caller: &Caller,
    request: &pb::SignAgreementRequest,
) -> Result<Wanted, Status> {
    let (id, version, sha256) =
        identified(&request.agreement_id, request.version, &request.sha256)?;
    let agreed = region.book();
    let agreed = agreed.agreement(id, version);
    if agreed.is_some_and(|agreed| agreed.sha256 == sha256) {
        return Ok(Wanted { sha256, object: None });
    }
    let held = region.proposals.held();
    let is_it = |held: &&Proposal| {
        let agreement = &held.agreement;
        (agreement.agreement_id, agreement.version, agreement.sha256) == (id, version, sha256)
    };
    let found = held.iter().find(is_it).ok_or_else(|| refuse(Reason::ProposalUnknown))?;
    if !found.may_sign(&region.region) {
        return Err(refuse(Reason::NotAParty));
    }
    may_bind(region, caller, &found.agreement, &found.consent)?;
    Ok(Wanted { sha256, object: Some(found.signed.clone()) })
}

/// Signs for the region; gives how it stands then, or nothing where it needs no more.
pub(super) async fn sign(
    region: &Hosted,
    caller: &Caller,
    wanted: Wanted,
) -> Result<Option<pb::Proposal>, Status> {
    let Wanted { sha256, object } = wanted;
    let Some(mut object) = object else { return Ok(None) };
    let name = region.region.as_str();
    signed::add_signature(&mut object, tag::AGREEMENT, name, &region.book().signing);
    let news = News::Signed(region.region.clone(), object);
    region.home().show(news).await.map_err(refuse)?;
    tracing::warn!(region.id = name, device.id = %caller.device, role = caller.role.name(), sha256 = hex(&sha256), "an agreement was signed");
    let held = region.proposals.held();
    let stands = held.iter().find(|held| held.agreement.sha256 == sha256);
    Ok(stands.map(|stands| told(region, stands)))
}

/// Drops a proposal here.
pub(super) async fn decline(
    region: &Hosted,
    caller: &Caller,
    request: &pb::DeclineProposalRequest,
) -> Result<(), Status> {
    let (id, version, sha256) =
        identified(&request.agreement_id, request.version, &request.sha256)?;
    let held = region.proposals.held();
    let mut held = held.iter().map(|held| &held.agreement);
    let is_it =
        |held: &Agreement| (held.agreement_id, held.version, held.sha256) == (id, version, sha256);
    if !held.any(is_it) {
        return Err(refuse(Reason::ProposalUnknown));
    }
    let news = News::Declined(region.region.clone(), sha256);
    region.home().show(news).await.map_err(refuse)?;
    tracing::warn!(region.id = %region.region, device.id = %caller.device, sha256 = hex(&sha256), "a proposal was declined");
    Ok(())
}

/// The proposals that are held; the one of this text with its text.
pub(super) fn list(region: &Hosted, named: &Bytes) -> Result<Vec<pb::Proposal>, Status> {
    let held = region.proposals.held();
    if named.is_empty() {
        return Ok(held.iter().map(|held| told(region, held)).collect());
    }
    let found = held.iter().find(|held| held.agreement.sha256[..] == named[..]);
    let found = found.ok_or_else(|| refuse(Reason::ProposalUnknown))?;
    Ok(vec![pb::Proposal { agreement: found.signed.body.clone(), ..told(region, found) }])
}

/// Whether the caller may bind the region to a version, and the region itself now.
fn may_bind(
    region: &Hosted,
    caller: &Caller,
    agreement: &Agreement,
    consent: &Consent,
) -> Result<(), Status> {
    if !authorise::may_bind(caller.role, consent, agreement.force) {
        return Err(refuse(Reason::RoleForbidden));
    }
    let book = region.book();
    // To stop needs nobody's newer word.
    if *consent == Consent::All && book.trust.age(region.now()) > TrustAge::Fresh {
        return Err(refuse(Reason::TrustStale));
    }
    let earlier = (1..agreement.version).rev();
    let earlier = earlier.map_while(|version| book.agreement(agreement.agreement_id, version));
    if agreement.short_versions(earlier) > SHORT_VERSIONS_MAX {
        return Err(refuse(Reason::LimitExceeded));
    }
    Ok(())
}

fn identified(
    id: &[u8],
    version: u32,
    sha256: &[u8],
) -> Result<(AgreementId, u32, [u8; 32]), Status> {
    let id = AgreementId::from_slice(id)
        .ok_or_else(|| refuse_field("agreement_id", "must be a UUIDv7 in 16 bytes"))?;
    let sha256 = sha256.try_into().map_err(|_| refuse_field("sha256", "must have 32 bytes"))?;
    Ok((id, version, sha256))
}

fn told(region: &Hosted, held: &Proposal) -> pb::Proposal {
    let agreement = &held.agreement;
    let consent = match held.consent {
        Consent::All => pb::ProposalConsent::All,
        Consent::AllButOne => pb::ProposalConsent::AllButOne,
        Consent::Any => pb::ProposalConsent::Any,
        Consent::Leaver(_) => pb::ProposalConsent::Leaver,
    };
    let signers = held.signed.signatures.iter().map(|signature| signature.signer.clone());
    pb::Proposal {
        agreement_id: Bytes::copy_from_slice(agreement.agreement_id.as_bytes()),
        version: agreement.version,
        sha256: Bytes::copy_from_slice(&agreement.sha256),
        title: agreement.title.clone(),
        consent: consent.into(),
        signed_regions: signers.collect(),
        missing_regions: held.missing().into_iter().map(ToString::to_string).collect(),
        needed_count: u32::try_from(held.needed()).unwrap_or(u32::MAX),
        signed_here: held.is_signed_by(&region.region),
        expire_time: Some(encode_time(agreement.proposal_expires_at())),
        agreement: Bytes::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
