//! What the gateway knows of the linkage: who is in it, and the agreement versions it was shown.

use domain::agreement::{Agreement, Party};
use domain::kernel::{AgreementId, RegionId, Timestamp};
use domain::stream::StreamId;
use proto::kernel::v1::SignedObject;
use seal::trust::Trust;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Names one version of an agreement.
pub type Version = (AgreementId, u32);

/// What the gateway knows. All of it was verified before it came in here.
#[derive(Debug)]
pub struct Book(RwLock<Known>);

/// An agreement version, and who of its parties is believed.
#[derive(Debug)]
pub struct Terms {
    /// What was signed.
    pub agreement: Agreement,
    /// As it was signed.
    pub signed: SignedObject,
    /// Those of its parties who are in the linkage still, with the key that they signed with.
    pub live: Vec<RegionId>,
}

#[derive(Debug)]
struct Known {
    trust: Arc<Trust>,
    terms: HashMap<Version, Arc<Terms>>,
    of_region: HashMap<RegionId, Vec<Version>>,
}

impl Book {
    /// A book without agreements.
    pub fn new(trust: Arc<Trust>) -> Self {
        Self(RwLock::new(Known { trust, terms: HashMap::new(), of_region: HashMap::new() }))
    }

    /// The linkage.
    pub fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.read().trust)
    }

    /// Takes a newer word of the authority: who has left or was revoked is no party any more.
    pub fn renew(&self, trust: Arc<Trust>) {
        let mut known = self.write();
        known.trust = trust;
        known.of_region.clear();
        for terms in std::mem::take(&mut known.terms).into_values() {
            known.enter(terms.agreement.clone(), terms.signed.clone());
        }
    }

    /// The key of a region of the linkage that it may have signed with under this key id.
    pub fn signing_key(&self, region: &RegionId, id: &[u8], now: Timestamp) -> Option<[u8; 32]> {
        self.read().trust.key_of(region, id, now)
    }

    /// Whether a region is in the linkage and believed.
    pub fn lists(&self, region: &RegionId) -> bool {
        self.read().trust.find_region(region).is_some()
    }

    /// Takes an agreement version in, and gives what is now known of it: a version that is there already stays as it
    /// was, unless the authority says that this text of it counts.
    pub fn learn(&self, agreement: &Agreement, signed: &SignedObject) -> Arc<Terms> {
        let version = (agreement.agreement_id, agreement.version);
        let mut known = self.write();
        if let Some(terms) = known.terms.get(&version).map(Arc::clone) {
            let freshness = known.trust.freshness.as_ref();
            let head = freshness.and_then(|freshness| freshness.agreements.get(&version.0));
            let counts = head
                .is_some_and(|head| (head.version, head.sha256) == (version.1, agreement.sha256));
            if !counts || terms.agreement.sha256 == agreement.sha256 {
                return terms;
            }
            for versions in known.of_region.values_mut() {
                versions.retain(|other| *other != version);
            }
        }
        known.enter(agreement.clone(), signed.clone())
    }

    /// The parties of an agreement version, if it is known.
    pub fn terms(&self, version: Version) -> Option<Arc<Terms>> {
        self.read().terms.get(&version).map(Arc::clone)
    }

    /// The parties under whose agreement a stream is.
    pub fn terms_of(&self, stream: &StreamId) -> Option<Arc<Terms>> {
        self.terms((stream.agreement, stream.version))
    }

    /// The version that one takes the place of, if it is known.
    pub fn before(&self, agreement: &Agreement) -> Option<Arc<Terms>> {
        self.terms((agreement.agreement_id, agreement.version.checked_sub(1)?))
    }

    /// The versions that came before one, the newest first, so far back.
    pub fn earlier(&self, agreement: &Agreement, max: usize) -> Vec<Arc<Terms>> {
        let first = self.before(agreement);
        let earlier = std::iter::successors(first, |terms| self.before(&terms.agreement));
        earlier.take(max + 1).collect()
    }

    /// Those who must hear of a version: its parties, and those whom it leaves out.
    pub fn concerned(&self, terms: &Terms) -> Vec<RegionId> {
        let mut concerned = terms.live.clone();
        let before = self.before(&terms.agreement);
        let left = before.iter().flat_map(|before| &before.live);
        concerned.extend(left.filter(|region| !terms.admits(region)).cloned());
        concerned
    }

    /// Those whom a version would concern that is not signed yet: its parties, and those of the version before.
    pub fn concerned_by(&self, agreement: &Agreement) -> Vec<RegionId> {
        let mut concerned = self.read().live(agreement);
        let before = self.before(agreement);
        let left = before.iter().flat_map(|before| &before.live);
        concerned.extend(left.filter(|region| !agreement.has_party(region)).cloned());
        concerned
    }

    /// What a region must hear of: versions of which it is a party, and those that left it out.
    pub fn terms_for(&self, region: &RegionId) -> Vec<Arc<Terms>> {
        let mut found = Vec::new();
        for (id, version) in self.versions_of(region) {
            found.extend(self.terms((id, version)));
            let next = version.checked_add(1).and_then(|next| self.terms((id, next)));
            found.extend(next.filter(|next| !next.admits(region)));
        }
        found.sort_by_key(|terms| (terms.agreement.agreement_id, terms.agreement.version));
        found
    }

    /// The agreement versions of which a region is a party.
    pub fn versions_of(&self, region: &RegionId) -> Vec<Version> {
        self.read().of_region.get(region).cloned().unwrap_or_default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        // Every change leaves it whole, so a panic elsewhere did not break it.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The parties that are in the linkage still, with the key that is pinned.
    fn live(&self, agreement: &Agreement) -> Vec<RegionId> {
        let stands = |party: &&Party| {
            self.trust.find_region(&party.region).is_some() && self.trust.is_pinned(party)
        };
        agreement.parties.iter().filter(stands).map(|party| party.region.clone()).collect()
    }

    fn enter(&mut self, agreement: Agreement, signed: SignedObject) -> Arc<Terms> {
        let version = (agreement.agreement_id, agreement.version);
        let live = self.live(&agreement);
        for party in &live {
            self.of_region.entry(party.clone()).or_default().push(version);
        }
        let terms = Arc::new(Terms { agreement, signed, live });
        self.terms.insert(version, Arc::clone(&terms));
        terms
    }
}

impl Terms {
    /// Whether a region is a party that is believed.
    pub fn admits(&self, region: &RegionId) -> bool {
        self.live.contains(region)
    }

    /// Who must receive what `origin` writes.
    pub fn recipients(&self, origin: &RegionId) -> impl Iterator<Item = &RegionId> {
        self.live.iter().filter(move |party| *party != origin)
    }
}
