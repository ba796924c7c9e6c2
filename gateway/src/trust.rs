//! What the gateway shows, whom it takes, and how both change without a restart: the one place that writes the
//! folder `trust` and renews the book.

use crate::book::Book;
use crate::registry::{Registry, Wake};
use crate::server::ServerError;
use domain::kernel::{Clock, GatewayId, Reason, RegionId, Timestamp, TrustAge};
use prost::Message as _;
use proto::directory::v1::TrustSet;
use runtime::ErrorChain;
use runtime::connections::Connections;
use runtime::identity::{Identity, Owner};
use runtime::pki::{Authority, Validity};
use runtime::renewal::{CERTIFICATE_DAYS, Look, Renewal};
use runtime::tls::{Hosted, Lists, ServerTls, Trust};
use runtime::trust_folder::{Looked, TrustFolder, TrustFolderError};
use seal::trust::TrustError;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the gateway holds of what the authority has signed.
pub(crate) type Linkage = TrustFolder<seal::trust::Trust, TrustError>;

/// What peers show and nobody has looked at yet; each may cost the check of three signatures.
pub(crate) const OFFERS_QUEUED_MAX: usize = 16;
/// Who was revoked is told so over its link, which ends; its line is closed so much later.
const CLOSED_AFTER: Duration = Duration::from_secs(2);

/// Trust that somebody shows.
pub(crate) struct Offer {
    pub(crate) set: TrustSet,
    /// Told once it is kept or known, or why it is not.
    pub(crate) taken: oneshot::Sender<Result<(), Reason>>,
}

/// What the gateway's certificate is made from, and whom it believes.
pub(crate) struct Own {
    pub(crate) gateway_id: GatewayId,
    pub(crate) names: Vec<String>,
    pub(crate) ip: IpAddr,
    pub(crate) authority: Authority,
    pub(crate) folder: Linkage,
    pub(crate) book: Arc<Book>,
    pub(crate) lists: Lists,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What hears of it when any of this changes.
pub(crate) struct Heard {
    pub(crate) tls: ServerTls,
    pub(crate) connections: Connections,
    pub(crate) registry: Arc<Registry>,
}

/// The folder of the lists.
pub(crate) fn lists(data: &Path) -> Lists {
    Lists::of(&data.join("trust").join("crl"))
}

impl Own {
    /// A fresh certificate, and whom it trusts: every region of the linkage, each by its own authority,
    /// without what that has revoked.
    pub(crate) fn keys(&mut self) -> Result<(Vec<Hosted>, Trust), ServerError> {
        self.read_lists();
        let held = self.book.trust();
        let linkage = &held.directory.linkage_id;
        let identity = Identity::Gateway(self.gateway_id.clone());
        let validity = Validity::days(self.clock.now(), CERTIFICATE_DAYS);
        let ips = [self.ip, Ipv4Addr::LOCALHOST.into()];
        let mut names = self.names.clone();
        names.push("localhost".to_owned());
        let key = self.authority.issue_server(linkage, &identity, &names, &ips, validity)?;
        let mut trust = Trust::new(linkage.clone());
        for (id, region) in &held.directory.regions {
            if held.is_revoked(region) {
                continue;
            }
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
        let trust = self.book.trust();
        self.lists.read(trust.directory.regions.iter().map(|(id, region)| {
            (Owner::Region(id.clone()), region.authority_certificate.as_slice())
        }))
    }

    /// Keeps certificate, lists and trust fresh, and closes the connections of those they no longer admit, or
    /// admit to less or more than before.
    pub(crate) async fn run(
        mut self,
        heard: Heard,
        mut offers: mpsc::Receiver<Offer>,
        soft: CancellationToken,
    ) {
        let mut renewal = Renewal::new();
        let mut restricted = self.restricted(&heard.tls);
        let mut closes_at: Option<Instant> = None;
        loop {
            // Neither arm holds state across its await.
            let (look, trusts) = tokio::select! {
                look = renewal.next(&soft) => {
                    let Some(look) = look else { return };
                    (look, self.look(&heard))
                }
                Some(offer) = offers.recv() => (Look::Changes, self.offered(offer, &heard)),
            };
            if look == Look::Anew || trusts || self.read_lists() {
                renewal.renewed();
                match self.keys().and_then(|(keys, trust)| Ok(heard.tls.reload(&keys, trust)?)) {
                    Ok(()) => tracing::info!("certificate and revocation lists are new"),
                    Err(error) => {
                        tracing::error!(error = %ErrorChain(&error), "the certificate was not renewed");
                    }
                }
                closes_at.get_or_insert_with(|| Instant::now() + CLOSED_AFTER);
            }
            if closes_at.is_some_and(|at| at <= Instant::now()) {
                closes_at = None;
                let closed = heard.connections.close(|peer| !heard.tls.admits(peer));
                if closed > 0 {
                    tracing::info!(closed, "connections of revoked peers are closed");
                }
            }
            let now = self.restricted(&heard.tls);
            for region in now.symmetric_difference(&restricted) {
                tracing::warn!(region.id = %region, restricted = now.contains(region), "a revocation list or the trust ran out or was renewed");
                // It comes back at once, and then gets what it may have now: by its link where a front ends its
                // line, else by its line.
                heard.registry.displace(|other| other == region);
                let identity = Identity::Region(region.clone());
                heard.connections.close(|peer| peer.identity.as_ref() == Some(&identity));
            }
            restricted = now;
        }
    }

    fn look(&mut self, heard: &Heard) -> bool {
        let Looked { newer, refused } = self.folder.look(self.clock.now());
        for error in refused {
            tracing::error!(error = %ErrorChain(&error), "the trust that lies here is not taken");
        }
        if newer {
            self.renew(heard);
        }
        newer
    }

    fn offered(&mut self, Offer { set, taken }: Offer, heard: &Heard) -> bool {
        let Looked { newer, refused } = self.folder.offer(&set.encode_to_vec(), self.clock.now());
        if newer {
            self.renew(heard);
        }
        let mut answer = Ok(());
        for error in &refused {
            let reason = match error {
                TrustFolderError::Trust { source, .. } => source.reason(),
                _ => Reason::StorageUnavailable,
            };
            tracing::warn!(error.reason = reason.name(), error = %ErrorChain(error), "trust that a peer showed is not taken");
            answer = answer.and(Err(reason));
        }
        // Who asked may have gone.
        taken.send(answer).ok();
        newer
    }

    /// Puts newer trust into force.
    fn renew(&self, heard: &Heard) {
        let trust = Arc::clone(self.folder.held());
        let mark = trust.mark();
        let (version, counties) = (mark.directory_version, mark.delegated.len());
        tracing::info!(
            directory.version = version,
            counties,
            "what the authority and its counties say is newer"
        );
        if trust.find_gateway(&self.gateway_id).is_none() {
            tracing::error!("this gateway is revoked or no longer in the directory");
        }
        self.book.renew(Arc::clone(&trust));
        heard.registry.displace(|region| trust.find_region(region).is_none());
        heard.registry.tell_all(&Wake::Trust);
    }

    /// Regions that may have the alert lane alone.
    fn restricted(&self, tls: &ServerTls) -> HashSet<RegionId> {
        let (now, trust) = (self.clock.now(), self.book.trust());
        let regions = trust.directory.regions.keys();
        regions.filter(|region| is_restricted(region, &trust, tls, now)).cloned().collect()
    }
}

/// Whether it is not known what a region's authority has revoked since, or what the linkage's has: a region then
/// has the alert lane alone, which harms least and matters most.
pub(crate) fn is_restricted(
    region: &RegionId,
    trust: &seal::trust::Trust,
    tls: &ServerTls,
    now: Timestamp,
) -> bool {
    trust.age(now) == TrustAge::Lapsed || tls.is_stale(&Owner::Region(region.clone()), now)
}
