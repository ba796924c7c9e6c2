//! What a region knows of the linkage: its own keys, the directory, the agreements it is a party of.

use bytes::Bytes;
use domain::agreement::Agreement;
use domain::directory::{Directory, Region};
use domain::kernel::{AgreementId, LinkageId, RegionId};
use proto::convert::entry;
use proto::kernel::v1::SignedObject;
use seal::key::{SealingKey, SigningKey};
use std::collections::BTreeMap;

/// An agreement version and the object its parties signed.
#[derive(Clone, Debug)]
pub struct SignedAgreement {
    /// What was agreed.
    pub agreement: Agreement,
    /// As it was signed.
    pub signed: SignedObject,
    /// The entry that opens its streams.
    pub start: Bytes,
}

impl SignedAgreement {
    /// An agreement that was verified.
    pub fn new(agreement: Agreement, signed: SignedObject) -> Self {
        let start = entry::encode_start(&agreement.sha256);
        Self { agreement, signed, start }
    }
}

/// What a region knows. Verified when it was loaded; does not change while the server runs.
#[derive(Debug)]
pub struct Book {
    /// The region.
    pub region: RegionId,
    /// Signs its segments, heads and receipts.
    pub signing: SigningKey,
    /// Opens what is sealed to it.
    pub sealing: SealingKey,
    /// The linkage.
    pub directory: Directory,
    /// Agreements this region is a party of.
    pub agreements: BTreeMap<(AgreementId, u32), SignedAgreement>,
}

impl Book {
    /// The linkage's id.
    pub fn linkage(&self) -> &LinkageId {
        &self.directory.linkage_id
    }

    /// An agreement version this region is a party of.
    pub fn agreement(&self, id: AgreementId, version: u32) -> Option<&Agreement> {
        self.agreements.get(&(id, version)).map(|signed| &signed.agreement)
    }

    /// A region of the linkage.
    pub fn find_region(&self, region: &RegionId) -> Option<&Region> {
        self.directory.regions.get(region)
    }

    /// The parties of an agreement with the keys to seal to, by id, the origin among them. `None` when
    /// one of them is not in the directory.
    pub fn sealing_keys(&self, agreement: &Agreement) -> Option<Vec<(RegionId, [u8; 32])>> {
        agreement
            .parties
            .iter()
            .map(|party| Some((party.region.clone(), self.find_region(&party.region)?.sealing_key)))
            .collect()
    }
}
