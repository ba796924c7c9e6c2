//! The proposals that a region holds, and what each gateway has of them.

use domain::kernel::Lane;
use proto::kernel::v1::SignedObject;
use seal::key::sha256;
use seal::proposal::Proposal;
use std::collections::HashMap;
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

/// How many signatures the other side of a link has of each text: signatures come to be more and never fewer.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<[u8; 32], usize>);

impl Known {
    /// The other side has shown this.
    pub(crate) fn shown(&mut self, object: &SignedObject) {
        if self.0.len() >= KNOWN_MAX {
            self.0.clear();
        }
        let known = self.0.entry(sha256(&object.body)).or_default();
        *known = object.signatures.len().max(*known);
    }

    /// What the other side lacks of these; it has it from here on.
    pub(crate) fn lacks(&mut self, held: &[Proposal]) -> Vec<SignedObject> {
        let mut lacks = Vec::new();
        for proposal in held {
            let known = self.0.entry(proposal.agreement.sha256).or_default();
            let signatures = proposal.signed.signatures.len();
            if *known < signatures {
                *known = signatures;
                lacks.push(proposal.signed.clone());
            }
        }
        lacks
    }
}
