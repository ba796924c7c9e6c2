//! One file a service; a handler authenticates, converts, asks the rules, commits once, converts back.

pub(crate) mod agreement;
mod bundle;
pub(crate) mod desk;
pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod erase;
pub(crate) mod exchange;
mod explain;
pub(crate) mod patrol;
mod propose;
mod quarantine;
pub(crate) mod risk;
pub(crate) mod transfer;

use crate::hosted::{Caller, Hosted};
use crate::status::{refuse, unreadable};
use domain::kernel::{Purpose, Reason, RegionId};
use runtime::connections::Peer;
use runtime::identity::Identity;
use runtime::tls::ServerTls;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::{Request, Status};

/// What every service holds.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) regions: Arc<BTreeMap<RegionId, Arc<Hosted>>>,
    /// Asked whose certificates are known to be good now.
    pub(crate) tls: ServerTls,
    /// Neighbours that may be answered now.
    pub(crate) answered: Arc<Semaphore>,
}

impl Services {
    /// A hosted region by its id.
    pub(crate) fn region(&self, id: &str) -> Result<Arc<Hosted>, Status> {
        let id = RegionId::parse(id).map_err(|_| refuse(Reason::RegionUnknown))?;
        self.regions.get(&id).cloned().ok_or_else(|| refuse(Reason::RegionUnknown))
    }

    /// Who calls, from its certificate; whether it may, from the table.
    pub(crate) async fn caller<T>(
        &self,
        request: &Request<T>,
        method: &'static str,
    ) -> Result<(Arc<Hosted>, Caller), Status> {
        let peer = request.extensions().get::<Peer>();
        let Some(Identity::Device(region, device)) = peer.and_then(|peer| peer.identity.clone())
        else {
            return Err(refuse(Reason::CertificateRequired));
        };
        let region =
            self.regions.get(&region).cloned().ok_or_else(|| refuse(Reason::RegionUnknown))?;
        let found = region.store.find_device(device).await.map_err(|error| unreadable(&error))?;
        let found = found.ok_or_else(|| refuse(Reason::DeviceUnknown))?;
        if found.revoked_at.is_some() {
            return Err(refuse(Reason::DeviceRevoked));
        }
        if !crate::authorise::may(method, found.role) {
            return Err(refuse(Reason::RoleForbidden));
        }
        Ok((region, Caller { device, role: found.role, unit: found.unit }))
    }
}

/// A read must say why.
pub(crate) fn purpose(number: i32) -> Result<Purpose, Status> {
    Purpose::try_from(number).map_err(|_| refuse(Reason::PurposeRequired))
}
