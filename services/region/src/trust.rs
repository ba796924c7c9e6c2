//! What the server shows and whom it takes: the certificates of its regions, and their devices without
//! those that were revoked. Both change without a restart.

use crate::hosted::Hosted;
use crate::server::{HostedMap, ServerError};
use domain::kernel::{Clock, LinkageId, RegionId};
use runtime::ErrorChain;
use runtime::connections::Connections;
use runtime::data_dir::{SHARED, write_atomic};
use runtime::identity::{Identity, Owner};
use runtime::pki::{Authority, RevocationList, Validity};
use runtime::renewal::{CERTIFICATE_DAYS, Look, Renewal};
use runtime::tls::{Hosted as HostedKey, Lists, ServerTls, Trust};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use storage::ReadError;
use storage::region::RevokedDevice;
use tokio_util::sync::CancellationToken;

/// The devices that each hosted region has revoked.
pub(crate) type Revoked = BTreeMap<RegionId, Vec<RevokedDevice>>;

/// What certificates and lists are made from.
pub(crate) struct Own {
    pub(crate) linkage: LinkageId,
    pub(crate) names: Vec<String>,
    pub(crate) ip: IpAddr,
    /// Where the lists are put, for those who take this region's certificates elsewhere.
    pub(crate) lists: PathBuf,
    pub(crate) hosted: Arc<HostedMap>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Own {
    /// Certificates of all hosted regions, and whom they trust: each its own devices without those that
    /// it has revoked.
    pub(crate) fn keys(&self, revoked: &Revoked) -> Result<(Vec<HostedKey>, Trust), ServerError> {
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
        Ok((keys, trust))
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

    /// Reads what is revoked; a program beside the server may have done it.
    pub(crate) async fn revoked(&self) -> Result<Revoked, ReadError> {
        let mut revoked = Revoked::new();
        for (id, region) in self.hosted.iter() {
            revoked.insert(id.clone(), region.store.list_revoked_devices().await?);
        }
        Ok(revoked)
    }

    /// Keeps both fresh, which were made for what was `known` to be revoked, and closes the connections of
    /// devices that were revoked since, with every stream on them.
    pub(crate) async fn run(
        self,
        mut known: Revoked,
        tls: ServerTls,
        connections: Connections,
        soft: CancellationToken,
    ) {
        let mut renewal = Renewal::new();
        while let Some(look) = renewal.next(&soft).await {
            let revoked = match self.revoked().await {
                Ok(revoked) => revoked,
                Err(error) => {
                    tracing::error!(error = %ErrorChain(&error), "revoked devices cannot be read");
                    continue;
                }
            };
            if look == Look::Changes && revoked == known {
                continue;
            }
            match self.keys(&revoked).and_then(|(keys, trust)| Ok(tls.reload(&keys, trust)?)) {
                Ok(()) => {
                    renewal.renewed();
                    known = revoked;
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
