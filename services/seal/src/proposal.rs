//! An agreement version on its way from its first signature to its last.

use crate::key::key_id;
use crate::trust::{self, Trust, TrustError};
use crate::{signed, tag};
use domain::agreement::{Agreement, Consent};
use domain::kernel::{Reason, RegionId, Timestamp};
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use std::collections::BTreeMap;

/// Bytes of a proposal, encoded: what is larger goes from party to party as a file.
pub const PROPOSAL_BYTES_MAX: usize = 256 * 1024;

/// Why something is no proposal.
#[derive(Debug, thiserror::Error)]
pub enum ProposalError {
    /// Over the limit.
    #[error("the proposal is over its limit: hand it on as a file")]
    TooLarge,
    /// It is not believed.
    #[error("the proposal is not believed")]
    Trust(#[from] TrustError),
    /// The version before is not held, so it cannot be told who must sign.
    #[error("the version before is not held")]
    Before,
    /// It has had its time.
    #[error("the proposal is too old to be signed")]
    Expired,
}

impl ProposalError {
    /// Why, by code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TooLarge => Reason::LimitExceeded,
            Self::Trust(error) => error.reason(),
            Self::Before => Reason::AgreementUnknown,
            Self::Expired => Reason::ProposalExpired,
        }
    }
}

/// A version that some have signed of those who must.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// What is proposed.
    pub agreement: Agreement,
    /// Whose signatures it needs.
    pub consent: Consent,
    /// With the good signatures alone, one a signer, by id.
    pub signed: SignedObject,
}

/// What an object proposes. Nothing is verified.
///
/// # Errors
/// When it is over its limit or not well formed.
pub fn read(object: &SignedObject) -> Result<Agreement, ProposalError> {
    if object.encoded_len() > PROPOSAL_BYTES_MAX {
        return Err(ProposalError::TooLarge);
    }
    Ok(trust::read_agreement(object)?)
}

impl Proposal {
    /// Looks at a version as if all had signed it, before any has: its parties and their keys, what it takes the place
    /// of, its time.
    ///
    /// # Errors
    /// When not even all signatures would make it believed.
    pub fn unsigned(
        agreement: Agreement,
        before: Option<&Agreement>,
        trust: &Trust,
        now: Timestamp,
    ) -> Result<(Agreement, Consent), ProposalError> {
        let consent = match (before, agreement.supersedes) {
            (None, Some(_)) => return Err(ProposalError::Before),
            (Some(before), Some(named)) if before.sha256 != named => {
                return Err(TrustError::AgreementForked.into());
            }
            (Some(before), Some(_)) => before.consent(&agreement),
            (_, None) => Consent::All,
        };
        trust::all_listed(&agreement, trust)?;
        if now >= agreement.proposal_expires_at() {
            return Err(ProposalError::Expired);
        }
        Ok((agreement, consent))
    }

    /// Believes a proposal as far as it goes: it is what all could sign, and somebody has whose signature counts.
    /// `before` is the version that it takes the place of. Signatures of others, and of who is not believed, are left
    /// out.
    ///
    /// # Errors
    /// When it could not be signed, or nobody has.
    pub fn verify(
        object: &SignedObject,
        before: Option<&Agreement>,
        trust: &Trust,
        now: Timestamp,
    ) -> Result<Self, ProposalError> {
        let (agreement, consent) = Self::unsigned(read(object)?, before, trust, now)?;
        let (mut good, mut bad) = (BTreeMap::new(), None);
        let left = before.filter(|_| matches!(consent, Consent::Leaver(_)));
        let parties = agreement.parties.iter().chain(left.iter().flat_map(|left| &left.parties));
        for party in parties {
            let listed = trust.find_region(&party.region);
            let keys = listed.and_then(|_| trust.keys_of(party)).unwrap_or_default();
            let name = party.region.as_str();
            for key in keys {
                match signed::verify_one(object, tag::AGREEMENT, name, &key) {
                    Ok(_) => {
                        let mut of_key = object.signatures.iter().filter(|signature| {
                            signature.signer == name && signature.key_id == key_id(&key)[..]
                        });
                        let signature = of_key.next().cloned();
                        good.extend(signature.map(|signature| (&party.region, signature)));
                    }
                    Err(signed::SignedError::SignatureMissing(_)) => {}
                    Err(error) => bad = Some(error),
                }
            }
        }
        if good.is_empty() {
            let nobody = || signed::SignedError::SignatureMissing("a party".to_owned());
            let source = bad.unwrap_or_else(nobody);
            return Err(TrustError::Unsigned { what: "the proposal", source }.into());
        }
        let signatures = good.into_values().collect();
        let signed = SignedObject { body: object.body.clone(), signatures };
        Ok(Self { agreement, consent, signed })
    }

    /// Whether a region has signed.
    pub fn is_signed_by(&self, region: &RegionId) -> bool {
        self.signed.signatures.iter().any(|signature| signature.signer == region.as_str())
    }

    /// Whether a region's signature counts.
    pub fn may_sign(&self, region: &RegionId) -> bool {
        match &self.consent {
            Consent::Leaver(leaver) => leaver == region,
            Consent::All | Consent::AllButOne | Consent::Any => self.agreement.has_party(region),
        }
    }

    /// Whose signature would count and is not there, by id.
    pub fn missing(&self) -> Vec<&RegionId> {
        let parties = self.agreement.parties.iter().map(|party| &party.region);
        let leaver = match &self.consent {
            Consent::Leaver(leaver) => Some(leaver),
            Consent::All | Consent::AllButOne | Consent::Any => None,
        };
        let who = parties.chain(leaver);
        who.filter(|region| self.may_sign(region) && !self.is_signed_by(region)).collect()
    }

    /// How many of those it needs.
    pub fn needed(&self) -> usize {
        let missing = self.missing().len();
        let signs = self.agreement.parties.iter().any(|party| self.is_signed_by(&party.region));
        match &self.consent {
            Consent::All | Consent::Leaver(_) => missing,
            Consent::AllButOne => missing.saturating_sub(1),
            Consent::Any => usize::from(!signs),
        }
    }

    /// Adds what another of the same text was signed by besides; tells whether there was any.
    pub fn unite(&mut self, other: &Self) -> bool {
        let mut signatures: BTreeMap<_, _> = other.by_signer().collect();
        // Who has signed twice has signed once.
        signatures.extend(self.by_signer());
        let more = signatures.len() > self.signed.signatures.len();
        self.signed.signatures = signatures.into_values().collect();
        more
    }

    fn by_signer(&self) -> impl Iterator<Item = (String, proto::kernel::v1::Signature)> + '_ {
        let signatures = self.signed.signatures.iter();
        signatures.map(|signature| (signature.signer.clone(), signature.clone()))
    }
}
