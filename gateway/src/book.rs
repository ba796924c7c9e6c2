//! What the gateway knows of the linkage: its directory, and the agreement versions it was shown.

use domain::agreement::Agreement;
use domain::directory::Directory;
use domain::kernel::{AgreementId, RegionId};
use domain::stream::StreamId;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Names one version of an agreement.
pub type Version = (AgreementId, u32);

/// What the gateway knows. All of it was verified before it came in here.
#[derive(Debug)]
pub struct Book {
    directory: Directory,
    versions: RwLock<Versions>,
}

/// Who are the parties of an agreement version.
#[derive(Debug)]
pub struct Terms {
    /// SHA-256 of the signed body.
    pub sha256: [u8; 32],
    /// All who signed.
    pub parties: Vec<RegionId>,
    /// Those of them who are still in the directory.
    pub live: Vec<RegionId>,
}

#[derive(Debug, Default)]
struct Versions {
    terms: HashMap<Version, Arc<Terms>>,
    of_region: HashMap<RegionId, Vec<Version>>,
}

impl Book {
    /// A book without agreements.
    pub fn new(directory: Directory) -> Self {
        Self { directory, versions: RwLock::default() }
    }

    /// The linkage.
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The key with which a region of the linkage signs. Agreements pin the same one.
    pub fn signing_key(&self, region: &RegionId) -> Option<&[u8; 32]> {
        self.directory.regions.get(region).map(|region| &region.signing_key)
    }

    /// Takes an agreement version in, and gives what is now known of it: a version that is there
    /// already stays as it was.
    pub fn learn(&self, agreement: &Agreement) -> Arc<Terms> {
        let version = (agreement.agreement_id, agreement.version);
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = versions.terms.get(&version) {
            return Arc::clone(known);
        }
        let parties: Vec<_> = agreement.parties.iter().map(|party| party.region.clone()).collect();
        let in_directory = |party: &&RegionId| self.directory.regions.contains_key(*party);
        let live: Vec<_> = parties.iter().filter(in_directory).cloned().collect();
        for party in &live {
            versions.of_region.entry(party.clone()).or_default().push(version);
        }
        let terms = Arc::new(Terms { sha256: agreement.sha256, parties, live });
        versions.terms.insert(version, Arc::clone(&terms));
        terms
    }

    /// The parties of an agreement version, if it is known.
    pub fn terms(&self, version: Version) -> Option<Arc<Terms>> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.terms.get(&version).map(Arc::clone)
    }

    /// The parties under whose agreement a stream is.
    pub fn terms_of(&self, stream: &StreamId) -> Option<Arc<Terms>> {
        self.terms((stream.agreement, stream.version))
    }

    /// The agreement versions of which a region is a party.
    pub fn versions_of(&self, region: &RegionId) -> Vec<Version> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.of_region.get(region).cloned().unwrap_or_default()
    }
}

impl Terms {
    /// Whether a region is a party that is still in the directory.
    pub fn admits(&self, region: &RegionId) -> bool {
        self.live.contains(region)
    }

    /// Who must receive what `origin` writes.
    pub fn recipients(&self, origin: &RegionId) -> impl Iterator<Item = &RegionId> {
        self.live.iter().filter(move |party| *party != origin)
    }
}
