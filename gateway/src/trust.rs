//! What the gateway shows, whom it takes, and how both change without a restart.

use crate::book::Book;
use crate::server::ServerError;
use domain::kernel::{Clock, GatewayId, RegionId};
use runtime::ErrorChain;
use runtime::connections::Connections;
use runtime::identity::{Identity, Owner};
use runtime::pki::{Authority, Validity};
use runtime::renewal::{CERTIFICATE_DAYS, Look, Renewal};
use runtime::tls::{Hosted, Lists, ServerTls, Trust};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the gateway's certificate is made from, and its lists.
pub(crate) struct Own {
    pub(crate) gateway_id: GatewayId,
    pub(crate) names: Vec<String>,
    pub(crate) ip: IpAddr,
    pub(crate) authority: Authority,
    pub(crate) book: Arc<Book>,
    pub(crate) lists: Lists,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The folder of the lists.
pub(crate) fn lists(data: &Path) -> Lists {
    Lists::of(&data.join("trust").join("crl"))
}

impl Own {
    /// A fresh certificate, and whom it trusts: every region of the directory, each by its own authority,
    /// without what that has revoked.
    pub(crate) fn keys(&mut self) -> Result<(Vec<Hosted>, Trust), ServerError> {
        self.read_lists();
        let directory = self.book.directory();
        let linkage = &directory.linkage_id;
        let identity = Identity::Gateway(self.gateway_id.clone());
        let validity = Validity::days(self.clock.now(), CERTIFICATE_DAYS);
        let ips = [self.ip, Ipv4Addr::LOCALHOST.into()];
        let mut names = self.names.clone();
        names.push("localhost".to_owned());
        let key = self.authority.issue_server(linkage, &identity, &names, &ips, validity)?;
        let mut trust = Trust::new(linkage.clone());
        for (id, region) in &directory.regions {
            // One bad entry keeps one region's certificates out; its signed hello still lets it in.
            if let Err(error) = trust.add(Owner::Region(id.clone()), &region.authority_certificate)
            {
                tracing::warn!(region.id = %id, error = %ErrorChain(&error), "certificates are not taken");
            }
        }
        self.lists.add_to(&mut trust);
        Ok((vec![Hosted { server_names: vec![identity.dns_name(linkage)], key }], trust))
    }

    fn read_lists(&mut self) -> bool {
        let regions = self.book.directory().regions.iter();
        self.lists.read(regions.map(|(id, region)| {
            (Owner::Region(id.clone()), region.authority_certificate.as_slice())
        }))
    }

    /// Keeps certificate and lists fresh, and closes the connections of those they no longer admit, or
    /// admit to less or more than before.
    pub(crate) async fn run(
        mut self,
        tls: ServerTls,
        connections: Connections,
        soft: CancellationToken,
    ) {
        let mut renewal = Renewal::new();
        let mut stale = self.stale(&tls);
        while let Some(look) = renewal.next(&soft).await {
            if look == Look::Anew || self.read_lists() {
                renewal.renewed();
                match self.keys().and_then(|(keys, trust)| Ok(tls.reload(&keys, trust)?)) {
                    Ok(()) => tracing::info!("certificate and revocation lists are new"),
                    Err(error) => {
                        tracing::error!(error = %ErrorChain(&error), "the certificate was not renewed");
                    }
                }
                let closed = connections.close(|peer| !tls.admits(peer));
                if closed > 0 {
                    tracing::info!(closed, "connections of revoked peers are closed");
                }
            }
            let now = self.stale(&tls);
            for region in now.symmetric_difference(&stale) {
                tracing::warn!(region.id = %region, stale = now.contains(region), "a revocation list ran out or was renewed");
                // It comes back at once, and then gets what it may have now.
                let identity = Identity::Region(region.clone());
                connections.close(|peer| peer.identity.as_ref() == Some(&identity));
            }
            stale = now;
        }
    }

    fn stale(&self, tls: &ServerTls) -> HashSet<RegionId> {
        let now = self.clock.now();
        let regions = self.book.directory().regions.keys();
        regions.filter(|id| tls.is_stale(&Owner::Region((*id).clone()), now)).cloned().collect()
    }
}
