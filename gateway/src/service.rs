//! The gRPC service: who calls, and which part answers.

use crate::book::Book;
use crate::config::Limits;
use crate::fetch;
use crate::link;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::status;
use domain::kernel::{Clock, Entropy, GatewayId, Reason, RegionId};
use proto::exchange::v1::exchange_service_server::ExchangeService;
use proto::exchange::v1::{FetchRequest, FetchResponse, LinkRequest, LinkResponse};
use runtime::connections::Peer;
use runtime::identity::{Identity, Owner};
use runtime::tls::ServerTls;
use runtime::{OnExit, Tasks};
use std::sync::Arc;
use storage::gateway::Store;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

/// Frames of a link that wait for the network. Few, because an alert waits behind them.
const FRAMES_QUEUED_MAX: usize = 4;

/// What all links share.
pub(crate) struct Shared {
    pub(crate) gateway_id: GatewayId,
    pub(crate) book: Arc<Book>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    /// Asked whose certificates are known to be good now.
    pub(crate) tls: ServerTls,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl Shared {
    /// Whether it is not known what a region's authority has revoked since: it then has the alert lane
    /// alone, which harms least and matters most.
    pub(crate) fn is_stale(&self, region: &RegionId) -> bool {
        self.tls.is_stale(&Owner::Region(region.clone()), self.clock.now())
    }
}

/// Answers regions.
pub(crate) struct Service(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl ExchangeService for Service {
    type LinkStream = ReceiverStream<Result<LinkResponse, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let region = certified(request.extensions())?;
        let (out, frames) = mpsc::channel(FRAMES_QUEUED_MAX);
        let link = link::run(Arc::clone(&self.0), region, request.into_inner(), out);
        // A task of its own: the handler's future ends with the answer's headers.
        self.0.tasks.spawn("gateway.link", OnExit::Log, link);
        Ok(Response::new(ReceiverStream::new(frames)))
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<FetchResponse>, Status> {
        let region = certified(request.extensions())?;
        fetch::fetch(&self.0, region, request.into_inner()).await.map(Response::new)
    }
}

/// The region of the caller's certificate; `None` when it showed none.
fn certified(extensions: &Extensions) -> Result<Option<RegionId>, Status> {
    match extensions.get::<Peer>().and_then(|peer| peer.identity.as_ref()) {
        None => Ok(None),
        Some(Identity::Region(region)) => Ok(Some(region.clone())),
        Some(Identity::Device(..) | Identity::Gateway(_)) => {
            Err(status::refused(Reason::RoleForbidden))
        }
    }
}
