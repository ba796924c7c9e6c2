//! Agreements and proposals as an enrolled desk sees them: what its region holds, who has signed, who has not.

use crate::client::{agreement_service, directory_service};
use crate::explain::beijing;
use crate::linkage::{self, Terms, hex};
use crate::phone::{Phone, said};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use domain::agreement::Agreement;
use domain::kernel::{AgreementId, Clock as _, Purpose, RegionId};
use prost::Message as _;
use proto::agreement::v1 as pb;
use proto::convert;
use proto::convert::kernel::decode_time;
use proto::directory::v1::GetRegionRequest;
use proto::kernel::v1::SignedObject;
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PURPOSE: Purpose = Purpose::Operation;

/// Names the text of a proposal: all 64 digits of its SHA-256, so that nothing else is signed.
///
/// # Errors
/// When it is not that.
pub fn sha256(word: &str) -> Result<[u8; 32]> {
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = word.as_bytes().chunks(2).map(digit).collect();
    let sha256 = bytes.and_then(|bytes| bytes.try_into().ok());
    sha256.filter(|_| word.len() == 64).with_context(|| format!("`{word}` is no SHA-256"))
}

/// Writes terms down between parties whose keys the region knows.
///
/// # Errors
/// When a party is not in the directory, the terms are not well formed, or the region does not answer.
pub async fn write(phone: &Phone, terms: Terms) -> Result<SignedObject> {
    let mut service = directory_service(phone.channel());
    let mut keys = BTreeMap::new();
    for party in &terms.parties {
        let request = GetRegionRequest { region_id: party.to_string(), purpose: PURPOSE.code() };
        let answer = service.get_region(request).await.map_err(said);
        let listed = answer.with_context(|| format!("region {party}"))?.into_inner().region;
        let key = listed.and_then(|listed| listed.signing_key.as_ref().try_into().ok());
        keys.insert(party.clone(), key.context("the region's key has no 32 bytes")?);
    }
    linkage::propose_between(&keys, terms, SystemClock.now(), &SystemEntropy)
}

/// Has the region sign a version and propose it; prints the agreement's id and the SHA-256 of the text.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "what names the proposal is what the caller needs next")]
pub async fn propose(phone: &Phone, object: SignedObject) -> Result<()> {
    let sha256 = seal::key::sha256(&object.body);
    let agreement = convert::agreement::decode(&object.body, sha256)?;
    let request = pb::ProposeAgreementRequest { agreement: object.body, purpose: PURPOSE.code() };
    let mut service = agreement_service(phone.channel());
    service.propose_agreement(request).await.map_err(said)?;
    println!("{} {}", agreement.agreement_id, hex(&sha256));
    Ok(())
}

/// Has the region sign the proposal of this text, and prints who is still to sign.
///
/// # Errors
/// When there is no such proposal, or the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn sign(phone: &Phone, sha256: &[u8; 32]) -> Result<()> {
    let found = find(phone, sha256).await?;
    let request = pb::SignAgreementRequest {
        agreement_id: found.agreement_id,
        version: found.version,
        sha256: found.sha256,
        purpose: PURPOSE.code(),
    };
    let mut service = agreement_service(phone.channel());
    let answer = service.sign_agreement(request).await.map_err(said)?.into_inner();
    match answer.proposal {
        Some(proposal) => println!("{}", missing(&proposal)),
        None => println!("agreed 已达成"),
    }
    Ok(())
}

/// Has the region drop the proposal of this text.
///
/// # Errors
/// When there is no such proposal, or the region refuses or does not answer.
pub async fn decline(phone: &Phone, sha256: &[u8; 32]) -> Result<()> {
    let found = find(phone, sha256).await?;
    let request = pb::DeclineProposalRequest {
        agreement_id: found.agreement_id,
        version: found.version,
        sha256: found.sha256,
        purpose: PURPOSE.code(),
    };
    agreement_service(phone.channel()).decline_proposal(request).await.map_err(said)?;
    Ok(())
}

/// A proposal with its text.
///
/// # Errors
/// When there is no such proposal, or the region refuses or does not answer.
pub async fn find(phone: &Phone, sha256: &[u8; 32]) -> Result<pb::Proposal> {
    let sha256 = Bytes::copy_from_slice(sha256);
    let found = proposals(phone, sha256.clone()).await?.into_iter().next();
    let found = found.context("the region named no proposal")?;
    // What is printed and what is signed are the same, whatever the region answers.
    if seal::key::sha256(&found.agreement)[..] != sha256[..] || found.sha256 != sha256 {
        bail!("the region answered with another text");
    }
    Ok(found)
}

/// Lists the proposals that the region holds.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn list(phone: &Phone, as_json: bool) -> Result<()> {
    let proposals = proposals(phone, Bytes::new()).await?;
    if as_json {
        let proposals: Vec<_> = proposals.iter().map(told).collect();
        println!("{}", Value::from(proposals));
        return Ok(());
    }
    for proposal in &proposals {
        println!("{}", text(proposal));
    }
    Ok(())
}

async fn proposals(phone: &Phone, sha256: Bytes) -> Result<Vec<pb::Proposal>> {
    let request = pb::ListProposalsRequest { sha256, purpose: PURPOSE.code() };
    let mut service = agreement_service(phone.channel());
    Ok(service.list_proposals(request).await.map_err(said)?.into_inner().proposals)
}

/// The newest version of an agreement that the region holds.
///
/// # Errors
/// When it holds none, refuses or does not answer.
pub async fn newest(phone: &Phone, id: &str) -> Result<Agreement> {
    let held = agreements(phone).await?.into_iter().map(|(agreement, _)| agreement);
    let versions = held.filter(|held| held.agreement_id.to_string() == id);
    versions
        .max_by_key(|held| held.version)
        .with_context(|| format!("the region holds no agreement `{id}`: see `agreement list`"))
}

/// Lists the agreements that the region holds, and how each of them stands.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn list_agreements(phone: &Phone, as_json: bool) -> Result<()> {
    let mut all = Vec::new();
    for (agreement, state) in agreements(phone).await? {
        let Agreement { agreement_id: id, version, title, sha256, .. } = &agreement;
        let (state, sha256) =
            (state.as_str_name().trim_start_matches("AGREEMENT_STATE_"), hex(sha256));
        let parties: Vec<_> = agreement.parties.iter().map(|of| of.region.to_string()).collect();
        if as_json {
            all.push(json!({
                "agreement_id": id.to_string(),
                "version": version,
                "title": title,
                "state": state,
                "parties": parties,
                "sha256": sha256,
            }));
        } else {
            println!("{id} v{version} {state} 《{title}》 {}", parties.join(", "));
        }
    }
    if as_json {
        println!("{}", Value::from(all));
    }
    Ok(())
}

async fn agreements(phone: &Phone) -> Result<Vec<(Agreement, pb::AgreementState)>> {
    let request = pb::ListAgreementsRequest { purpose: PURPOSE.code() };
    let mut service = agreement_service(phone.channel());
    let answer = service.list_agreements(request).await.map_err(said)?.into_inner();
    let pb::ListAgreementsResponse { agreements, states, sha256s } = answer;
    let held = agreements.into_iter().zip(states).zip(sha256s);
    held.map(|((agreement, state), sha256)| {
        let sha256 = sha256.as_ref().try_into().context("the region named no SHA-256")?;
        let agreement = convert::agreement::decode(&agreement.encode_to_vec(), sha256)?;
        Ok((agreement, pb::AgreementState::try_from(state).unwrap_or_default()))
    })
    .collect()
}

/// The region whose desk it is.
pub fn region(phone: &Phone) -> &RegionId {
    &phone.device.identity().region_id
}

fn told(proposal: &pb::Proposal) -> Value {
    json!({
        "agreement_id": id_text(proposal),
        "version": proposal.version,
        "sha256": hex(&proposal.sha256),
        "title": proposal.title,
        "consent": proposal.consent().as_str_name().trim_start_matches("PROPOSAL_CONSENT_"),
        "signed": proposal.signed_regions,
        "missing": proposal.missing_regions,
        "needed": proposal.needed_count,
        "signed_here": proposal.signed_here,
        "expires_at": expires(proposal),
    })
}

fn text(proposal: &pb::Proposal) -> String {
    format!(
        "《{}》 v{} {}\n  SHA-256 {}\n  signed by 已签: {}\n  {}\n  until 有效至 {}",
        proposal.title,
        proposal.version,
        id_text(proposal),
        hex(&proposal.sha256),
        proposal.signed_regions.join(", "),
        missing(proposal),
        expires(proposal),
    )
}

fn missing(proposal: &pb::Proposal) -> String {
    let pb::Proposal { missing_regions, needed_count, .. } = proposal;
    format!("NOT SIGNED by 未签: {} (needs 尚需 {needed_count})", missing_regions.join(", "))
}

fn expires(proposal: &pb::Proposal) -> String {
    let at = proposal.expire_time.and_then(decode_time);
    at.map_or_else(String::new, |at| beijing(at.micros()))
}

fn id_text(proposal: &pb::Proposal) -> String {
    AgreementId::from_slice(&proposal.agreement_id).map_or_else(String::new, |id| id.to_string())
}
