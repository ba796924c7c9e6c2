//! The second path: a neighbour reads the streams of a region that are for it. Links and all else are the gateways'.

use super::Services;
use crate::status::{malformed, refuse, uncut, unreadable};
use domain::kernel::{Reason, RegionId};
use exchange::serve::{self, Party, ServeError};
use proto::convert::fetch::{asked, wanted};
use proto::exchange::v1::exchange_service_server::ExchangeService;
use proto::exchange::v1::{
    FetchRequest, FetchResponse, LinkRequest, LinkResponse, RefreshRequest, RefreshResponse,
};
use runtime::connections::Peer;
use runtime::identity::{Identity, Owner};
use std::pin::Pin;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// Neighbours that are answered at a time, by all regions of the server: phones come first, and what is asked for is
/// sealed anew each time.
pub(crate) const ANSWERED_MAX: usize = 4;

#[tonic::async_trait]
impl ExchangeService for Services {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<LinkResponse, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        neighbour(&request)?;
        Err(refuse(Reason::NotAGateway))
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<FetchResponse>, Status> {
        let neighbour = neighbour(&request)?;
        let mut request = request.into_inner();
        let receipt = request.receipt.take();
        let wanted = match request.stream {
            Some(_) => Some(wanted(request.clone()).map_err(|violations| malformed(&violations))?),
            None => None,
        };
        let origin = match &wanted {
            Some(wanted) => wanted.stream.origin.clone(),
            None => asked(&request.origin_region).map_err(|violations| malformed(&violations))?,
        };
        let region = self.regions.get(&origin).ok_or_else(|| refuse(Reason::RegionUnknown))?;
        let answered = self.answered.try_acquire();
        let _answered = answered.map_err(|_| refuse(Reason::ServerBusy))?;
        let owner = Owner::Region(neighbour.clone());
        let is_restricted = self.tls.is_stale(&owner, region.now());
        let party = Party { region: &neighbour, is_restricted };
        let home = region.home();
        let answer = match wanted {
            Some(wanted) => serve::range(&home, party, wanted, receipt).await,
            None => serve::heads(&home, party).await,
        };
        match answer {
            Ok(answer) => Ok(Response::new(answer)),
            Err(ServeError::Refused(reason)) => Err(refuse(reason)),
            Err(ServeError::Read(error)) => Err(unreadable(&error)),
            Err(ServeError::Cut(error)) => Err(uncut(&error)),
        }
    }

    async fn refresh(
        &self,
        request: Request<RefreshRequest>,
    ) -> Result<Response<RefreshResponse>, Status> {
        neighbour(&request)?;
        Err(refuse(Reason::NotAGateway))
    }
}

/// The neighbour that calls, from its certificate. Whom the door lets in, it has held against the directory.
fn neighbour<T>(request: &Request<T>) -> Result<RegionId, Status> {
    match request.extensions().get::<Peer>().and_then(|peer| peer.identity.as_ref()) {
        None => Err(refuse(Reason::CertificateRequired)),
        Some(Identity::Region(region)) => Ok(region.clone()),
        Some(Identity::Device(..) | Identity::Gateway(_)) => Err(refuse(Reason::RoleForbidden)),
    }
}
