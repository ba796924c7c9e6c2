//! What a region knows of the linkage: its own keys, who is in it, the agreements it is a party of.

use domain::agreement::Agreement;
use domain::directory::{Directory, Region};
use domain::kernel::{AgreementId, LinkageId, RegionId};
use domain::stream::Position;
use proto::kernel::v1::SignedObject;
use seal::key::{SealingKey, SigningKey};
use seal::segment::{SaltedEntry, Segment, SegmentError};
use seal::trust::Trust;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage::region::Recipients;
use tokio::sync::watch;

/// An agreement version and the object its parties signed.
#[derive(Clone, Debug)]
pub struct SignedAgreement {
    /// What was agreed.
    pub agreement: Agreement,
    /// As it was signed.
    pub signed: SignedObject,
}

impl SignedAgreement {
    /// An agreement that was verified.
    pub fn new(agreement: Agreement, signed: SignedObject) -> Self {
        Self { agreement, signed }
    }
}

/// What a region knows at one moment, all of it verified. What changes is put on the [`Shelf`] as another.
#[derive(Debug)]
pub struct Book {
    /// The region.
    pub region: RegionId,
    /// Signs its segments, heads and receipts.
    pub signing: SigningKey,
    /// Opens what is sealed to it.
    pub sealing: SealingKey,
    /// Open what was sealed to it before it changed its keys, or by who has heard of the change before it.
    pub sealing_beside: Vec<SealingKey>,
    /// The linkage.
    pub trust: Arc<Trust>,
    /// Versions of agreements that this region is a party of, and those that have left it out.
    pub agreements: BTreeMap<(AgreementId, u32), SignedAgreement>,
}

impl Book {
    /// The linkage's id.
    pub fn linkage(&self) -> &LinkageId {
        &self.trust.directory.linkage_id
    }

    /// Who is in the linkage.
    pub fn directory(&self) -> &Directory {
        &self.trust.directory
    }

    /// An agreement version.
    pub fn agreement(&self, id: AgreementId, version: u32) -> Option<&Agreement> {
        self.agreements.get(&(id, version)).map(|signed| &signed.agreement)
    }

    /// The agreements that this region is or was a party of.
    pub fn agreement_ids(&self) -> BTreeSet<AgreementId> {
        self.agreements.keys().map(|(id, _)| *id).collect()
    }

    /// The versions of an agreement, oldest first.
    pub fn versions(&self, id: AgreementId) -> impl Iterator<Item = &Agreement> {
        self.agreements.range((id, 0)..=(id, u32::MAX)).map(|(_, signed)| &signed.agreement)
    }

    /// A region of the linkage that is believed.
    pub fn find_region(&self, region: &RegionId) -> Option<&Region> {
        self.trust.find_region(region)
    }

    /// The live parties of each agreement version, without this region.
    pub fn recipients(&self) -> Recipients {
        let of = |signed: &SignedAgreement| {
            let parties = signed.agreement.parties.iter().map(|party| party.region.clone());
            let live = |party: &RegionId| {
                *party != self.region && self.find_party(&signed.agreement, party).is_some()
            };
            parties.filter(live).collect()
        };
        self.agreements.iter().map(|(version, signed)| (*version, of(signed))).collect()
    }

    /// A party of an agreement that is believed, with a key that the agreement pins, or that came after it.
    pub fn find_party(&self, agreement: &Agreement, region: &RegionId) -> Option<&Region> {
        let party = agreement.parties.iter().find(|party| party.region == *region)?;
        let listed = self.find_region(region)?;
        self.trust.is_pinned(party).then_some(listed)
    }

    /// The keys with which what is sealed to this region may open, the likeliest first.
    pub fn openers(&self) -> impl Iterator<Item = &SealingKey> {
        std::iter::once(&self.sealing).chain(&self.sealing_beside)
    }

    /// Opens a segment, with the first key that fits.
    pub(crate) fn open(
        &self,
        segment: &Segment,
    ) -> Result<Vec<(Position, SaltedEntry)>, SegmentError> {
        let opened = segment.open(&self.region, &self.sealing);
        let again = |opened, key| match opened {
            Err(SegmentError::Unopenable) => segment.open(&self.region, key),
            opened => opened,
        };
        self.sealing_beside.iter().fold(opened, again)
    }

    /// The parties of an agreement with the keys to seal to, by id, the origin among them: without those who
    /// were revoked or have left, who get nothing that is sealed from now on.
    pub fn sealing_keys(&self, agreement: &Agreement) -> Vec<(RegionId, [u8; 32])> {
        let parties = agreement.parties.iter();
        let live = parties.filter_map(|party| self.find_party(agreement, &party.region));
        live.map(|region| (region.region_id.clone(), region.sealing_key)).collect()
    }

    /// Whether anything that is decided by it has changed since another.
    pub fn differs(&self, other: &Self) -> bool {
        let versions = |book: &Self| -> Vec<_> {
            book.agreements.values().map(|signed| signed.agreement.sha256).collect()
        };
        self.trust.differs(&other.trust) || versions(self) != versions(other)
    }
}

/// Where the book lies. Who works with it takes it in hand once and keeps to it; who must hear of a change
/// watches.
#[derive(Clone, Debug)]
pub struct Shelf(watch::Sender<Arc<Book>>);

impl Shelf {
    /// With this book.
    pub fn new(book: Book) -> Self {
        Self(watch::Sender::new(Arc::new(book)))
    }

    /// The book as it is now.
    pub fn book(&self) -> Arc<Book> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts another in its place.
    pub fn put(&self, book: Book) {
        self.0.send_replace(Arc::new(book));
    }

    /// Hears of others from now on.
    pub fn watch(&self) -> watch::Receiver<Arc<Book>> {
        self.0.subscribe()
    }
}
