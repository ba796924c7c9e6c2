//! The server: opens what it hosts, serves phones and desks, keeps the links, stops in order.

use crate::config::{Config, ExchangeConfig, GatewayConfig, HostedConfig};
use crate::expiry;
use crate::folder::{self, FolderError, Linkage, Loaded};
use crate::hosted::Hosted;
use crate::mark::{self, MarkError};
use crate::metrics::Answers;
use crate::observe::{Observe, Subject};
use crate::proposals;
use crate::quarantine;
use crate::release;
use crate::rpc::Services;
use crate::rpc::exchange::ANSWERED_MAX;
use crate::transfer;
use crate::trust::Own;
use crate::turn::{self, TurnError};
use domain::kernel::{Clock, Entropy, Epoch, GatewayId, RegionId};
use exchange::book::Shelf;
use exchange::epoch::{Left, Lost};
use exchange::home::Offer;
use exchange::link::{Exchange, LANE_CLASSES};
use exchange::proposals::Proposals;
use exchange::pull::Pull;
use exchange::status::Status as Links;
use proto::agreement::v1::agreement_service_server::AgreementServiceServer;
use proto::agreement::v1::transfer_service_server::TransferServiceServer;
use proto::device::v1::device_service_server::DeviceServiceServer;
use proto::directory::v1::directory_service_server::DirectoryServiceServer;
use proto::exchange::v1::exchange_service_server::ExchangeServiceServer;
use proto::patrol::v1::patrol_service_server::PatrolServiceServer;
use proto::risk::v1::risk_service_server::RiskServiceServer;
use runtime::accept::{self, BindError, Listener};
use runtime::conduct::Conduct;
use runtime::connections::Connections;
use runtime::data_dir::{DataDir, DataDirError};
use runtime::limits::{Layers, Limits};
use runtime::metrics::Calls;
use runtime::pki::PkiError;
use runtime::tls::{ClientAuth, Lists, ServerTls, TlsError};
use runtime::trust_folder::TrustFolder;
use runtime::{ErrorChain, OnExit, Shutdown, Tasks};
use seal::trust::believe;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::region::Store;
use storage::{OpenError, ReadError, StoreError, WriteError};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc, oneshot};
use tonic::codec::CompressionEncoding;
use tonic::transport::server::Router;

/// What peers show and nobody has looked at yet; each may cost the check of many signatures.
const NEWS_QUEUED_MAX: usize = 16;
/// Bytes of a signed batch besides the batch.
const BATCH_BYTES_BESIDE: usize = 1_024;

/// Why a server does not start or does not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file of the data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A store cannot be opened.
    #[error("the store of {region} cannot be opened")]
    Store {
        /// The region.
        region: RegionId,
        /// What is wrong.
        source: OpenError,
    },
    /// A store cannot be read.
    #[error("a store cannot be read")]
    StoreRead(#[source] ReadError),
    /// It is not known whether a store was restored from a copy.
    #[error("it is not known whether a store was restored from a copy")]
    Mark(#[from] MarkError),
    /// A store that was restored from a copy cannot go on.
    #[error("a store that was restored from a copy cannot go on")]
    Restored(#[source] WriteError),
    /// An agreement version cannot be put into force.
    #[error("an agreement version cannot be put into force")]
    Turn(#[from] TurnError),
    /// A cut cannot be put into force.
    #[error("what lies beyond a cut cannot be quarantined")]
    Quarantine(#[source] StoreError),
    /// A certificate cannot be made.
    #[error("the server's certificate cannot be made")]
    Certificate(#[from] PkiError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// The directory has none of the gateways that a region names, or none at all.
    #[error("the directory names no gateway for {0}")]
    NoGateway(RegionId),
    /// A method of the contract has no rule.
    #[error("{0} has no row in the authorisation table")]
    NoRule(String),
    /// gRPC failed.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
    /// A part of the server ended by itself.
    #[error(transparent)]
    Ended(#[from] runtime::tasks::ShutdownError),
}

/// A server that has taken its port and opened its folder, not yet serving.
pub struct Server {
    config: Config,
    listener: Listener,
    data: DataDir,
    trust: Linkage,
    loaded: Vec<(HostedConfig, Loaded)>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Server {
    /// Takes the port, opens the folder, verifies what lies in it.
    ///
    /// # Errors
    /// When any of it cannot be used.
    pub async fn bind(
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, ServerError> {
        let config = Config { limits: accept::within_files(config.limits)?, ..config };
        runtime::tls::install_provider();
        let unruled = crate::authorise::without_row(proto::DESCRIPTOR)
            .map_or_else(|error| Some(error.to_string()), |missing| missing.into_iter().next());
        if let Some(method) = unruled {
            return Err(ServerError::NoRule(method));
        }
        let data = DataDir::open(&config.data, folder::FORMAT)?;
        let now = clock.now();
        let trust = TrustFolder::open(data.path(), now, believe).map_err(FolderError::Linkage)?;
        let loaded = config
            .regions
            .iter()
            .map(|hosted| {
                let region = &hosted.region;
                Ok((hosted.clone(), folder::read_region(data.path(), region, trust.held(), now)?))
            })
            .collect::<Result<Vec<_>, FolderError>>()?;
        for (of, loaded) in &loaded {
            if !of.has_gateway_of(loaded.book.directory()) {
                return Err(ServerError::NoGateway(of.region.clone()));
            }
        }
        let listener = Listener::bind(config.listen).await?;
        Ok(Self { config, listener, data, trust, loaded, clock, entropy })
    }

    /// Where it will serve.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// Serves until the shutdown, then stops in order: no new connections, streams told, links ended,
    /// writers last, once nobody can hand them anything.
    ///
    /// # Errors
    /// When a part of it failed or had to be cut off.
    pub async fn serve(self, shutdown: Shutdown) -> Result<(), ServerError> {
        let Self { config, listener, data, trust, loaded, clock, entropy } = self;
        let tasks = Tasks::new(shutdown);
        let grace = Duration::from_secs(config.shutdown_grace_s);
        let addr = listener.addr();
        let connections = Connections::default();
        let observe = Observe::new(&connections);
        let (news, heard) = mpsc::channel(NEWS_QUEUED_MAX);
        let mut hosted = BTreeMap::new();
        for (of, loaded) in loaded {
            let answers = observe.metrics.answers(&of.region);
            let world = (&clock, &entropy, &news);
            let region = open(&data, &tasks, loaded, (config.limits, answers), world).await?;
            hosted.insert(of.region.clone(), Arc::clone(&region));
            let mut linked = BTreeSet::new();
            link(&tasks, config.exchange, &of, &region, &mut linked);
            pull(&tasks, config.exchange, &region);
            let linking = link_more(tasks.clone(), config.exchange, of, region, linked);
            tasks.spawn("region.link", OnExit::Log, linking);
        }
        let hosted = Arc::new(hosted);
        let mut own = Own {
            linkage: trust.held().directory.linkage_id.clone(),
            data: data.path().to_owned(),
            names: config.names.clone(),
            ip: addr.ip(),
            lists: data.path().join("trust").join("crl"),
            neighbour_lists: Lists::of(&data.path().join("trust").join("crl")),
            hosted: Arc::clone(&hosted),
            clock: Arc::clone(&clock),
            folder: trust,
            stamps: BTreeMap::new(),
        };
        let admitted = own.admitted().await.map_err(ServerError::StoreRead)?;
        let (keys, trust) = own.keys(&admitted)?;
        let tls = ServerTls::new(&keys, trust, ClientAuth::Optional)?;
        let soft = tasks.soft().clone();
        let trusting = own.run(admitted, tls.clone(), connections.clone(), heard, soft);
        tasks.spawn("region.trust", OnExit::Log, trusting);
        let calls = observe.calls();
        let subject = Subject {
            data: data.path().to_owned(),
            hosted: Arc::clone(&hosted),
            tls: tls.clone(),
            clock,
        };
        observe.spawn(subject, &tasks, config.metrics_listen).await;
        let answered = Arc::new(Semaphore::new(ANSWERED_MAX));
        let services = Services { regions: Arc::clone(&hosted), tls: tls.clone(), answered };
        let conduct = Conduct::new(&config.limits);
        tasks.spawn("region.conduct", OnExit::Log, conduct.clone().run(tasks.soft().clone()));
        let incoming = accept::serve(listener, tls, config.limits, connections.clone());
        tracing::info!(%addr, regions = hosted.len(), "serving");
        drop(hosted);
        let soft = tasks.soft().clone();
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<DeviceServiceServer<Services>>().await;
        let (over, is_over) = oneshot::channel::<()>();
        let cut_off = cut_off(tasks.clone(), connections, grace / 2, is_over);
        tasks.spawn("region.cut_off", OnExit::Log, cut_off);
        let served = router(&config.limits, &calls, &conduct, services)
            .add_service(health_service)
            .serve_with_incoming_shutdown(incoming, async move { soft.cancelled().await })
            .await;
        drop(over);
        let stopped = tasks.shutdown(grace).await;
        served?;
        stopped?;
        Ok(())
    }
}

/// Closes what is left of connections once their phones have been told and have had their time.
async fn cut_off(
    tasks: Tasks,
    connections: Connections,
    grace: Duration,
    is_over: oneshot::Receiver<()>,
) {
    tasks.soft().cancelled().await;
    // Neither arm holds anything.
    tokio::select! {
        () = tasks.hard().cancelled() => {}
        () = tokio::time::sleep(grace) => {}
        // Nobody is served any more.
        _ = is_over => {}
    }
    connections.close(|_| true);
}

fn router(limits: &Limits, calls: &Calls, conduct: &Conduct, services: Services) -> Router<Layers> {
    macro_rules! service {
        ($server:ident, $message_bytes_max:expr) => {
            $server::new(services.clone())
                .max_decoding_message_size($message_bytes_max)
                .max_encoding_message_size(limits.answer_bytes_max as usize)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
                .send_compressed(CompressionEncoding::Gzip)
        };
    }
    let single = limits.message_bytes_max as usize;
    let batch = limits.batch_bytes_max as usize + BATCH_BYTES_BESIDE;
    limits
        .server(calls, conduct)
        // Its messages that are no batch are held to the limit of a single one where they are read.
        .add_service(service!(DeviceServiceServer, batch.max(single)))
        .add_service(service!(PatrolServiceServer, single))
        .add_service(service!(RiskServiceServer, single))
        .add_service(service!(DirectoryServiceServer, single))
        .add_service(service!(TransferServiceServer, single))
        .add_service(service!(ExchangeServiceServer, single))
        // A bundle's part holds a segment.
        .add_service(service!(AgreementServiceServer, batch.max(single)))
}

/// Opens a region's store and starts its writer.
async fn open(
    data: &DataDir,
    tasks: &Tasks,
    loaded: Loaded,
    (limits, answers): (Limits, Answers),
    (clock, entropy, news): (&Arc<dyn Clock>, &Arc<dyn Entropy>, &mpsc::Sender<Offer>),
) -> Result<Arc<Hosted>, ServerError> {
    let region = loaded.book.region.clone();
    let path = folder::store_path(data.path(), &region);
    let epoch = Epoch::mint(clock.now(), entropy.as_ref());
    let opened = Store::open(&path, &region, epoch).await;
    let (store, writer) =
        opened.map_err(|source| ServerError::Store { region: region.clone(), source })?;
    let runner = tasks.clone();
    // A writer ends when nobody can hand it anything any more. One that ends before has lost its disk:
    // what that holds is unknown, so the process ends and reads it again.
    tasks.spawn("storage.write", OnExit::Stop, async move {
        let name = region.as_str();
        match runner.blocking("storage.write", move || writer.run()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(region.id = name, error = %ErrorChain(&error), "the writer stopped")
            }
            Err(error) => {
                tracing::error!(region.id = name, error = %ErrorChain(&error), "the writer stopped")
            }
        }
    });
    let Loaded { book, authority } = loaded;
    let proposed = proposals::load(data.path(), &book, clock.now());
    let region = Arc::new(Hosted {
        region: book.region.clone(),
        shelf: Shelf::new(book),
        store,
        authority: Arc::new(authority),
        links: Links::default(),
        limits,
        answers,
        tasks: tasks.clone(),
        clock: Arc::clone(clock),
        entropy: Arc::clone(entropy),
        watchers: AsyncMutex::new(Vec::new()),
        held: Mutex::default(),
        news: news.clone(),
        proposals: Proposals::new(proposed),
        left: Left::default(),
        lost: Lost::default(),
    });
    if mark::is_restored(data.path(), &region.region, &region.store).await? {
        let left = region.home().leave_epoch(region.store.epoch(), Vec::new()).await;
        left.map_err(ServerError::Restored)?;
    }
    mark::set(data.path(), &region.region, &region.store).await?;
    tasks.spawn("region.mark", OnExit::Log, mark::keep(data.path().into(), Arc::clone(&region)));
    turn::begin_all(&region).await?;
    // Before anybody is served: what lies beyond a cut is shown to nobody.
    region.home().quarantine().await.map_err(ServerError::Quarantine)?;
    tasks.spawn("region.quarantine", OnExit::Log, quarantine::run(Arc::clone(&region)));
    tasks.spawn("region.turn", OnExit::Log, turn::run(Arc::clone(&region)));
    tasks.spawn("region.expiry", OnExit::Log, expiry::run(Arc::clone(&region)));
    tasks.spawn("region.transfer", OnExit::Log, transfer::run(Arc::clone(&region)));
    tasks.spawn("region.release", OnExit::Log, release::run(Arc::clone(&region)));
    Ok(region)
}

/// Starts the links of a region to the gateways that it has now, where they are not started yet. A link ends with
/// the server alone: it waits while its gateway is struck off.
fn link(
    tasks: &Tasks,
    exchange: ExchangeConfig,
    of: &HostedConfig,
    region: &Hosted,
    linked: &mut BTreeSet<GatewayId>,
) {
    for GatewayConfig { id, endpoint } in of.gateways_of(&region.book().trust) {
        if !linked.insert(id.clone()) {
            continue;
        }
        region.links.expect(&id, !of.gateways.is_empty());
        for lanes in LANE_CLASSES {
            let link = Exchange {
                home: region.home(),
                gateway: id.clone(),
                endpoint: endpoint.clone(),
                authority: Arc::clone(&region.authority),
                lanes,
                entries_per_segment_max: exchange.entries_per_segment_max,
            };
            tasks.spawn("exchange.link", OnExit::Log, link.run());
        }
    }
}

/// Has a region ask its neighbours directly, unless that is off.
fn pull(tasks: &Tasks, exchange: ExchangeConfig, region: &Hosted) {
    let every_s = exchange.second_path_every_s;
    if every_s > 0 {
        let authority = Arc::clone(&region.authority);
        let pull = Pull { home: region.home(), authority, every_s };
        tasks.spawn("exchange.pull", OnExit::Log, pull.run());
    }
}

/// Links a region to the gateways that it comes to have while the server runs.
async fn link_more(
    tasks: Tasks,
    exchange: ExchangeConfig,
    of: HostedConfig,
    region: Arc<Hosted>,
    mut linked: BTreeSet<GatewayId>,
) {
    let mut books = region.shelf.watch();
    loop {
        link(&tasks, exchange, &of, &region, &mut linked);
        // Neither arm holds anything.
        tokio::select! {
            () = tasks.soft().cancelled() => return,
            _ = books.changed() => {}
        }
    }
}

/// What is hosted.
pub(crate) type HostedMap = BTreeMap<RegionId, Arc<Hosted>>;
