//! The gRPC service: who calls, and which part answers.

use crate::book::Book;
use crate::config::Limits;
use crate::fetch;
use crate::link;
use crate::metrics::Metrics;
use crate::proposals::Proposals;
use crate::registry::Registry;
use crate::status;
use crate::trust::{self, Offer};
use domain::kernel::{Clock, Entropy, GatewayId, Reason, RegionId};
use proto::directory::v1::TrustSet;
use proto::exchange::v1::exchange_service_server::ExchangeService;
use proto::exchange::v1::{
    FetchRequest, FetchResponse, LinkRequest, LinkResponse, RefreshRequest, RefreshResponse,
};
use runtime::connections::Peer;
use runtime::identity::Identity;
use runtime::tls::ServerTls;
use runtime::{OnExit, Tasks};
use std::sync::Arc;
use storage::gateway::Store;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

/// Frames of a link that wait for the network. Few, because an alert waits behind them.
const FRAMES_QUEUED_MAX: usize = 4;

/// What all links share.
pub(crate) struct Shared {
    pub(crate) gateway_id: GatewayId,
    pub(crate) book: Arc<Book>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) proposals: Proposals,
    pub(crate) store: Store,
    /// Where trust goes that peers show.
    pub(crate) offers: mpsc::Sender<Offer>,
    pub(crate) limits: Limits,
    /// Asked whose certificates are known to be good now.
    pub(crate) tls: ServerTls,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl Shared {
    /// Whether a region may have the alert lane alone.
    pub(crate) fn is_restricted(&self, region: &RegionId) -> bool {
        trust::is_restricted(region, &self.book.trust(), &self.tls, self.clock.now())
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

    async fn refresh(
        &self,
        request: Request<RefreshRequest>,
    ) -> Result<Response<RefreshResponse>, Status> {
        let region = certified(request.extensions())?;
        if let Some(set) = request.into_inner().trust.filter(|set| *set != TrustSet::default()) {
            let (taken, answer) = oneshot::channel();
            let offer = Offer { set, taken };
            let busy = |_| status::refused(Reason::ServerBusy);
            self.0.offers.try_send(offer).map_err(busy)?;
            answer
                .await
                .map_err(|_| status::refused(Reason::ServerBusy))?
                .map_err(status::refused)?;
        }
        let trust = self.0.book.trust();
        let mark = Some((&trust.mark()).into());
        let trust = region.map(|_| trust.signed().clone());
        Ok(Response::new(RefreshResponse { trust, mark }))
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
