//! Proposals of agreement versions, on their way from party to party. They are held in memory alone: the regions keep
//! them, and show them again to a gateway that was started anew.

use crate::book::Book;
use domain::kernel::{Reason, RegionId, Timestamp};
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use seal::key::sha256;
use seal::proposal::Proposal;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Proposals that one region may have brought: as many as a region holds.
pub const PROPOSALS_PER_REGION_MAX: usize = 64;
/// Bytes of those.
pub const BYTES_PER_REGION_MAX: usize = 4 * 1024 * 1024;
/// Bytes of all proposals.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is held, by text.
#[derive(Debug, Default)]
pub struct Proposals(Mutex<BTreeMap<[u8; 32], Held>>);

#[derive(Debug)]
struct Held {
    proposal: Proposal,
    /// Who brought it first, and has it on its account.
    brought_by: RegionId,
}

impl Held {
    fn bytes(&self) -> usize {
        self.proposal.signed.encoded_len()
    }
}

impl Proposals {
    /// Takes a proposal that `peer` shows; gives it with all signatures that are known now, where one of them is new.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn take(
        &self,
        book: &Book,
        peer: &RegionId,
        proposal: Proposal,
        now: Timestamp,
    ) -> Result<Option<SignedObject>, Reason> {
        let mut held = self.held();
        held.retain(|_, held| stands(book, &held.proposal, now));
        if let Some(known) = held.get_mut(&proposal.agreement.sha256) {
            return Ok(known.proposal.unite(&proposal).then(|| known.proposal.signed.clone()));
        }
        let new = Held { proposal, brought_by: peer.clone() };
        let of_peer = || held.values().filter(|held| held.brought_by == *peer);
        let bytes = new.bytes();
        let full = of_peer().count() >= PROPOSALS_PER_REGION_MAX
            || of_peer().map(Held::bytes).sum::<usize>() + bytes > BYTES_PER_REGION_MAX
            || held.values().map(Held::bytes).sum::<usize>() + bytes > BYTES_MAX;
        if full {
            return Err(Reason::ProposalsFull);
        }
        let signed = new.proposal.signed.clone();
        held.insert(new.proposal.agreement.sha256, new);
        Ok(Some(signed))
    }

    /// Whether all that is shown is known, signature by signature.
    pub fn knows(&self, object: &SignedObject) -> bool {
        let held = self.held();
        let known = held.get(&sha256(&object.body)).map(|held| &held.proposal.signed.signatures);
        let all = |known: &Vec<_>| object.signatures.iter().all(|shown| known.contains(shown));
        known.is_some_and(all)
    }

    /// What concerns a region.
    pub fn of_region(&self, book: &Book, region: &RegionId, now: Timestamp) -> Vec<SignedObject> {
        let held = self.held();
        let of_region = held.values().map(|held| &held.proposal).filter(|proposal| {
            stands(book, proposal, now) && book.concerned_by(&proposal.agreement).contains(region)
        });
        of_region.map(|proposal| proposal.signed.clone()).collect()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Held>> {
        // Every change leaves it whole, so a panic elsewhere did not break it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it may still be signed, and one who has is believed still.
fn stands(book: &Book, proposal: &Proposal, now: Timestamp) -> bool {
    let Proposal { agreement, signed, .. } = proposal;
    let believed = |signer: &str| {
        let region = RegionId::parse(signer).ok();
        region.is_some_and(|region| book.lists(&region))
    };
    now < agreement.proposal_expires_at()
        && book.terms((agreement.agreement_id, agreement.version)).is_none()
        && signed.signatures.iter().any(|signature| believed(&signature.signer))
}
