//! The proposals that a region holds, and what each gateway has of them.

use domain::kernel::Lane;
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use seal::key::sha256;
use seal::proposal::{PROPOSAL_BYTES_MAX, Proposal};
use seal::signed::SIGNATURES_MAX;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::watch;

/// Proposals of a gateway that a link keeps in mind; beyond, it forgets them, and tells some once more.
const KNOWN_MAX: usize = 256;

/// Whether proposals go over a link of these lanes: no call for help waits behind one.
pub(crate) fn are_carried_on(lanes: &[Lane]) -> bool {
    lanes.contains(&Lane::Routine)
}

/// What a region holds, by agreement, version and text, for all who must hear when it changes.
#[derive(Clone, Debug)]
pub struct Proposals(watch::Sender<Arc<Vec<Proposal>>>);

impl Proposals {
    /// These.
    pub fn new(held: Vec<Proposal>) -> Self {
        Self(watch::Sender::new(Arc::new(held)))
    }

    /// As they are now.
    pub fn held(&self) -> Arc<Vec<Proposal>> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts others in their place.
    pub fn put(&self, held: Vec<Proposal>) {
        self.0.send_replace(Arc::new(held));
    }

    /// Hears of others from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Vec<Proposal>>> {
        self.0.subscribe()
    }
}

/// Who has signed each text, as far as the other side of a link has shown or was told.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<[u8; 32], BTreeSet<String>>);

impl Known {
    /// The other side has shown this.
    pub(crate) fn shown(&mut self, object: &SignedObject) {
        // What is no proposal is not kept in mind.
        if object.encoded_len() > PROPOSAL_BYTES_MAX || object.signatures.len() > SIGNATURES_MAX {
            return;
        }
        if self.0.len() >= KNOWN_MAX {
            self.0.clear();
        }
        self.0.entry(sha256(&object.body)).or_default().extend(signers(object));
    }

    /// What the other side lacks of these; it has it from here on.
    pub(crate) fn lacks(&mut self, held: &[Proposal]) -> Vec<SignedObject> {
        let mut lacks = Vec::new();
        for proposal in held {
            let known = self.0.entry(proposal.agreement.sha256).or_default();
            let before = known.len();
            known.extend(signers(&proposal.signed));
            if known.len() > before {
                lacks.push(proposal.signed.clone());
            }
        }
        lacks
    }
}

fn signers(object: &SignedObject) -> impl Iterator<Item = String> + '_ {
    object.signatures.iter().map(|signature| signature.signer.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::book;
    use domain::agreement::{Agreement, Consent};
    use proto::kernel::v1::Signature;

    fn signed_by(signers: &[&str]) -> SignedObject {
        let signature =
            |signer: &&str| Signature { signer: (*signer).to_owned(), ..Signature::default() };
        SignedObject {
            body: b"text".as_slice().into(),
            signatures: signers.iter().map(signature).collect(),
        }
    }

    fn held(signers: &[&str]) -> Vec<Proposal> {
        let held = book("daluba").agreements.into_values().next().unwrap().agreement;
        let signed = signed_by(signers);
        let agreement = Agreement { sha256: sha256(&signed.body), ..held };
        vec![Proposal { agreement, consent: Consent::All, signed }]
    }

    #[test]
    fn the_other_side_is_told_whatever_it_has_not_shown_once() {
        let mut known = Known::default();
        assert_eq!(known.lacks(&held(&["a"])), [signed_by(&["a"])]);
        assert_eq!(known.lacks(&held(&["a"])), []);
        known.shown(&signed_by(&["a", "b"]));
        assert_eq!(known.lacks(&held(&["a", "b"])), []);
        // As many, and not the same.
        let mut known = Known::default();
        known.shown(&signed_by(&["a"]));
        assert_eq!(known.lacks(&held(&["b"])), [signed_by(&["b"])]);
    }
}
