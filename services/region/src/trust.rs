//! What the server shows, whom it takes, and what its regions know of the linkage: their certificates, their
//! devices without those that were revoked, the authority's word, their agreements. All of it changes without a
//! restart, and here alone.

use crate::folder::{self, Linkage};
use crate::hosted::Hosted;
use crate::proposals::{self, By, Taken};
use crate::server::{HostedMap, ServerError};
use domain::kernel::{Clock, LinkageId, Reason, RegionId};
use exchange::home::{News, Offer};
use prost::Message as _;
use proto::directory::v1::TrustSet;
use proto::kernel::v1::SignedObject;
use runtime::ErrorChain;
use runtime::connections::Connections;
use runtime::data_dir::{SHARED, write_atomic};
use runtime::identity::{Identity, Owner};
use runtime::pki::{Authority, RevocationList, Validity};
use runtime::renewal::{CERTIFICATE_DAYS, Look, Renewal};
use runtime::tls::{Hosted as HostedKey, Lists, ServerTls, Trust};
use runtime::trust_folder::{Looked, TrustFolderError};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use storage::ReadError;
use storage::region::RevokedDevice;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The devices that each hosted region has revoked.
pub(crate) type Revoked = BTreeMap<RegionId, Vec<RevokedDevice>>;

/// Whom certificates are taken of, and of whom not: what the server's trust is made from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    revoked: Revoked,
    /// Regions that read here what is for them, with their authorities' certificates.
    neighbours: BTreeMap<RegionId, Vec<u8>>,
}

/// What certificates and lists are made from.
pub(crate) struct Own {
    pub(crate) linkage: LinkageId,
    pub(crate) data: PathBuf,
    pub(crate) names: Vec<String>,
    pub(crate) ip: IpAddr,
    /// Where the lists are put, for those who take this region's certificates elsewhere.
    pub(crate) lists: PathBuf,
    pub(crate) hosted: Arc<HostedMap>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The authority's word.
    pub(crate) folder: Linkage,
    /// What lay in each region's folder of agreements when it was last read.
    pub(crate) stamps: BTreeMap<RegionId, Stamp>,
    /// What the neighbours' authorities have revoked.
    pub(crate) neighbour_lists: Lists,
}

/// Tells a folder of agreements from what it was before.
type Stamp = Vec<(Option<SystemTime>, PathBuf)>;

impl Own {
    /// Certificates of all hosted regions, and whom they trust: each its own devices without those that
    /// it has revoked, and its neighbours, but none of theirs.
    pub(crate) fn keys(
        &mut self,
        Admitted { revoked, neighbours }: &Admitted,
    ) -> Result<(Vec<HostedKey>, Trust), ServerError> {
        self.read_lists(neighbours);
        let mut trust = Trust::new(self.linkage.clone());
        let mut keys = Vec::new();
        for (id, region) in self.hosted.iter() {
            let authority: &Authority = &region.authority;
            let identity = Identity::Region(id.clone());
            let validity = Validity::days(self.clock.now(), CERTIFICATE_DAYS);
            let ips = [self.ip, Ipv4Addr::LOCALHOST.into()];
            let key =
                authority.issue_server(&self.linkage, &identity, &self.names, &ips, validity)?;
            trust.add(Owner::Region(id.clone()), authority.certificate_der())?;
            let none = Vec::new();
            self.revoke(region, revoked.get(id).unwrap_or(&none), &mut trust)?;
            keys.push(HostedKey { server_names: vec![identity.dns_name(&self.linkage)], key });
        }
        for (id, certificate) in neighbours {
            // One bad entry keeps one neighbour out.
            if let Err(error) = trust.add_without_devices(Owner::Region(id.clone()), certificate) {
                tracing::warn!(peer.id = %id, error = %ErrorChain(&error), "a neighbour's certificate is not taken");
            }
        }
        self.neighbour_lists.add_to(&mut trust);
        Ok((keys, trust))
    }

    /// Reads the lists of the neighbours' authorities that have changed; says whether any has.
    fn read_lists(&mut self, neighbours: &BTreeMap<RegionId, Vec<u8>>) -> bool {
        let of = |(id, der): (&RegionId, _)| (Owner::Region(id.clone()), der);
        let authorities = neighbours.iter().map(|(id, der)| (id, der.as_slice()));
        self.neighbour_lists.read(authorities.map(of))
    }

    /// Whom certificates are taken of now; a program beside the server may have revoked some.
    pub(crate) async fn admitted(&self) -> Result<Admitted, ReadError> {
        Ok(Admitted { revoked: self.revoked().await?, neighbours: self.neighbours() })
    }

    /// The live parties of all that a hosted region has agreed, but those that are hosted here themselves.
    fn neighbours(&self) -> BTreeMap<RegionId, Vec<u8>> {
        let mut neighbours = BTreeMap::new();
        for region in self.hosted.values() {
            let book = region.book();
            for agreement in book.agreements.values().map(|signed| &signed.agreement) {
                let parties = agreement.parties.iter();
                let live = parties.filter_map(|party| book.find_party(agreement, &party.region));
                for party in live.filter(|party| !self.hosted.contains_key(&party.region_id)) {
                    let certificate = party.authority_certificate.clone();
                    neighbours.insert(party.region_id.clone(), certificate);
                }
            }
        }
        neighbours
    }

    /// Signs a region's list of its own devices, and puts it into force.
    fn revoke(
        &self,
        region: &Hosted,
        revoked: &[RevokedDevice],
        trust: &mut Trust,
    ) -> Result<(), ServerError> {
        let mut serials = Vec::with_capacity(revoked.len());
        for device in revoked {
            let identity = Identity::Device(region.region().clone(), device.device_id);
            if let Ok(key) = device.public_key.as_slice().try_into() {
                let from = Validity::days(device.enrolled_at, CERTIFICATE_DAYS).not_before;
                serials.push(Authority::serial_of_issued(&identity, key, from));
            }
            trust.revoke(identity);
        }
        let validity = Validity::days(self.clock.now(), CERTIFICATE_DAYS);
        let text = region.authority.revocation_list(&serials, validity)?;
        let owner = Owner::Region(region.region().clone());
        // The server itself knows its devices by name; others know them by this file.
        let path = Lists::path(&self.lists, &owner);
        let written = std::fs::create_dir_all(&self.lists)
            .and_then(|()| write_atomic(&path, text.as_bytes(), SHARED));
        if let Err(error) = written {
            tracing::error!(path = %path.display(), error = %error, "revocation list not written");
        }
        match RevocationList::read(region.authority.certificate_der(), text.as_bytes()) {
            Ok(list) => trust.add_list(&owner, Arc::new(list)),
            Err(error) => tracing::error!(error = %error, "revocation list not taken"),
        }
        Ok(())
    }

    async fn revoked(&self) -> Result<Revoked, ReadError> {
        let mut revoked = Revoked::new();
        for (id, region) in self.hosted.iter() {
            revoked.insert(id.clone(), region.store.list_revoked_devices().await?);
        }
        Ok(revoked)
    }

    /// Takes news, and then says so to who waits.
    fn offered(&mut self, Offer { news, taken }: Offer) {
        let answer = match news {
            News::Trust(set) => self.offered_trust(&set),
            News::Agreement(region, object) => self.offered_agreement(&region, &object),
            News::Proposal(region, object) => self.offered_proposal(&region, &object, By::Wire),
            News::Signed(region, object) => self.offered_proposal(&region, &object, By::Staff),
            News::Declined(region, sha256) => {
                self.hosted.get(&region).map_or(Err(Reason::RegionUnknown), |hosted| {
                    proposals::decline(&self.data, hosted, &sha256, self.clock.now())
                })
            }
        };
        // Who asked may have gone.
        taken.send(answer).ok();
    }

    fn offered_trust(&mut self, set: &TrustSet) -> Result<(), Reason> {
        let Looked { newer, refused } = self.folder.offer(&set.encode_to_vec(), self.clock.now());
        self.renew(newer);
        let mut answer = Ok(());
        for error in refused {
            let reason = match &error {
                TrustFolderError::Trust { source, .. } => source.reason(),
                _ => Reason::StorageUnavailable,
            };
            tracing::error!(error.reason = reason.name(), error = %ErrorChain(&error), "trust that was shown is not taken");
            answer = answer.and(Err(reason));
        }
        answer
    }

    fn offered_agreement(
        &mut self,
        region: &RegionId,
        object: &SignedObject,
    ) -> Result<(), Reason> {
        let (trust, now) = (self.folder.held(), self.clock.now());
        match folder::install(&self.data, region, object, trust, now) {
            Ok(_) => {
                self.renew(false);
                Ok(())
            }
            Err(error) => {
                let reason = error.reason();
                tracing::error!(region.id = %region, error.reason = reason.name(), error = %ErrorChain(&error), "an agreement that was shown is not taken");
                Err(reason)
            }
        }
    }

    fn offered_proposal(
        &mut self,
        region: &RegionId,
        object: &SignedObject,
        by: By,
    ) -> Result<(), Reason> {
        let hosted = self.hosted.get(region).ok_or(Reason::RegionUnknown)?;
        match proposals::take(&self.data, hosted, object, by, self.clock.now()) {
            Ok(taken) => {
                if taken != Taken::Known {
                    tracing::info!(region.id = %region, taken = ?taken, "a proposal was taken");
                }
                if taken == Taken::Agreed {
                    self.renew(false);
                }
                Ok(())
            }
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(region.id = %region, error.reason = reason.name(), error = %ErrorChain(&error), "a proposal is not taken");
                Err(reason)
            }
        }
    }

    /// Puts new books up where something has changed.
    fn renew(&mut self, newer: bool) {
        let (now, trust) = (self.clock.now(), Arc::clone(self.folder.held()));
        for (id, region) in self.hosted.iter() {
            let found = folder::stamp(&self.data, id);
            // What waits for a newer word is looked at with each word.
            if self.stamps.get(id) == Some(&found) && !newer {
                continue;
            }
            self.stamps.insert(id.clone(), found);
            match folder::read_region(&self.data, id, &trust, now) {
                Ok(loaded) => {
                    let (before, versions) = (region.book(), loaded.book.agreements.len());
                    if loaded.book.find_region(id).is_none() {
                        let reason = Reason::RegionRevoked.name();
                        tracing::error!(region.id = %id, error.reason = reason, "this region is revoked");
                    }
                    if loaded.book.differs(&before) {
                        let version = trust.directory.version;
                        tracing::info!(region.id = %id, directory.version = version, versions, "the linkage has changed");
                    }
                    region.shelf.put(loaded.book);
                }
                Err(error) => {
                    tracing::error!(region.id = %id, error = %ErrorChain(&error), "what changed is not taken");
                }
            }
        }
        for region in self.hosted.values() {
            proposals::sweep(&self.data, region, newer, now);
        }
    }

    /// Keeps all of it fresh, where certificates were made for those who were `known`, and closes the connections of
    /// devices and neighbours that were revoked since, with every stream on them.
    pub(crate) async fn run(
        mut self,
        mut known: Admitted,
        tls: ServerTls,
        connections: Connections,
        mut news: mpsc::Receiver<Offer>,
        soft: CancellationToken,
    ) {
        let mut renewal = Renewal::new();
        loop {
            // Neither arm holds state across its await.
            let look = tokio::select! {
                look = renewal.next(&soft) => look,
                Some(offer) = news.recv() => {
                    self.offered(offer);
                    continue;
                }
            };
            let Some(look) = look else { return };
            let Looked { newer, refused } = self.folder.look(self.clock.now());
            for error in refused {
                tracing::error!(error = %ErrorChain(&error), "the trust that lies here is not taken");
            }
            self.renew(newer);
            let admitted = match self.admitted().await {
                Ok(admitted) => admitted,
                Err(error) => {
                    tracing::error!(error = %ErrorChain(&error), "revoked devices cannot be read");
                    continue;
                }
            };
            let listed = self.read_lists(&admitted.neighbours);
            if look == Look::Changes && admitted == known && !listed {
                continue;
            }
            match self.keys(&admitted).and_then(|(keys, trust)| Ok(tls.reload(&keys, trust)?)) {
                Ok(()) => {
                    renewal.renewed();
                    known = admitted;
                    let closed = connections.close(|peer| !tls.admits(peer));
                    tracing::info!(closed, "certificates and revocation lists are new");
                }
                Err(error) => {
                    tracing::error!(error = %ErrorChain(&error), "certificates were not renewed");
                }
            }
        }
    }
}
