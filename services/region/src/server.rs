//! The server: opens what it hosts, serves phones and desks, keeps the links, stops in order.

use crate::config::{Config, HostedConfig};
use crate::folder::{self, FolderError, Loaded};
use crate::hosted::Hosted;
use crate::metrics::Answers;
use crate::observe::{Observe, Subject};
use crate::rpc::Services;
use crate::trust::Own;
use domain::directory::Directory;
use domain::kernel::{Clock, Entropy, Epoch, RegionId};
use exchange::link::{Exchange, LANE_CLASSES};
use exchange::status::Status as Links;
use proto::agreement::v1::agreement_service_server::AgreementServiceServer;
use proto::device::v1::device_service_server::DeviceServiceServer;
use proto::directory::v1::directory_service_server::DirectoryServiceServer;
use proto::patrol::v1::patrol_service_server::PatrolServiceServer;
use proto::risk::v1::risk_service_server::RiskServiceServer;
use runtime::accept::{self, BindError, Listener};
use runtime::conduct::Conduct;
use runtime::connections::Connections;
use runtime::data_dir::{DataDir, DataDirError};
use runtime::identity::Identity;
use runtime::limits::{Layers, Limits};
use runtime::metrics::Calls;
use runtime::pki::{PkiError, Validity};
use runtime::tls::{Anchor, ClientAuth, ClientTls, ServerTls, TlsError};
use runtime::{ErrorChain, OnExit, Shutdown, Tasks};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::region::Store;
use storage::{OpenError, ReadError};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tonic::codec::CompressionEncoding;
use tonic::transport::server::Router;

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
    /// A certificate cannot be made.
    #[error("the server's certificate cannot be made")]
    Certificate(#[from] PkiError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// The directory has no gateway of that name.
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
    directory: Directory,
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
        let directory = folder::read_directory(data.path(), clock.now())?;
        let loaded = config
            .regions
            .iter()
            .map(|hosted| {
                Ok((hosted.clone(), folder::read_region(data.path(), &hosted.region, &directory)?))
            })
            .collect::<Result<Vec<_>, FolderError>>()?;
        let listener = Listener::bind(config.listen).await?;
        Ok(Self { config, listener, data, directory, loaded, clock, entropy })
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
        let Self { config, listener, data, directory, loaded, clock, entropy } = self;
        let tasks = Tasks::new(shutdown);
        let grace = Duration::from_secs(config.shutdown_grace_s);
        let addr = listener.addr();
        let connections = Connections::default();
        let observe = Observe::new(&connections);
        let mut hosted = BTreeMap::new();
        for (of, loaded) in loaded {
            let answers = observe.metrics.answers(&of.region);
            let region =
                open(&data, &tasks, loaded, (config.limits, answers), &clock, &entropy).await?;
            link(&tasks, &config, &directory, &of, &region, &clock)?;
            hosted.insert(of.region, region);
        }
        let hosted = Arc::new(hosted);
        let own = Own {
            linkage: directory.linkage_id.clone(),
            names: config.names.clone(),
            ip: addr.ip(),
            lists: data.path().join("trust").join("crl"),
            hosted: Arc::clone(&hosted),
            clock: Arc::clone(&clock),
        };
        let revoked = own.revoked().await.map_err(ServerError::StoreRead)?;
        let (keys, trust) = own.keys(&revoked)?;
        let tls = ServerTls::new(&keys, trust, ClientAuth::Optional)?;
        let trusting = own.run(revoked, tls.clone(), connections.clone(), tasks.soft().clone());
        tasks.spawn("region.trust", OnExit::Log, trusting);
        let calls = observe.calls();
        let subject = Subject {
            data: data.path().to_owned(),
            directory_at: directory.created_at,
            hosted: Arc::clone(&hosted),
            tls: tls.clone(),
            clock,
        };
        observe.spawn(subject, &tasks, config.metrics_listen).await;
        let services = Services { regions: Arc::clone(&hosted) };
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
        // A bundle's part holds a segment.
        .add_service(service!(AgreementServiceServer, batch.max(single)))
}

/// Opens a region's store and starts its writer.
async fn open(
    data: &DataDir,
    tasks: &Tasks,
    loaded: Loaded,
    (limits, answers): (Limits, Answers),
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
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
    Ok(Arc::new(Hosted {
        book: Arc::new(book),
        store,
        authority,
        links: Links::default(),
        limits,
        answers,
        tasks: tasks.clone(),
        clock: Arc::clone(clock),
        entropy: Arc::clone(entropy),
        watchers: AsyncMutex::new(Vec::new()),
        held: Mutex::default(),
    }))
}

/// Starts a region's links.
fn link(
    tasks: &Tasks,
    config: &Config,
    directory: &Directory,
    of: &HostedConfig,
    region: &Hosted,
    clock: &Arc<dyn Clock>,
) -> Result<(), ServerError> {
    let none = || ServerError::NoGateway(of.region.clone());
    let gateway = match &of.gateway {
        Some(id) => directory.gateways.get(id),
        None => directory.gateways.values().next(),
    };
    let gateway = gateway.ok_or_else(none)?;
    let identity = Identity::Region(of.region.clone());
    let validity = Validity::days(clock.now(), 365);
    let own =
        region.authority.issue_server(&directory.linkage_id, &identity, &[], &[], validity)?;
    let tls = ClientTls::new(
        &directory.linkage_id,
        Identity::Gateway(gateway.gateway_id.clone()),
        Anchor::Certificate(&gateway.authority_certificate),
        Some(&own),
    )?;
    for lanes in LANE_CLASSES {
        let exchange = Exchange {
            home: region.home(),
            gateway: gateway.gateway_id.clone(),
            endpoint: of.gateway_endpoint.clone().unwrap_or_else(|| gateway.endpoint.clone()),
            tls: tls.clone(),
            lanes,
            entries_per_segment_max: config.exchange.entries_per_segment_max,
        };
        tasks.spawn("exchange.link", OnExit::Log, exchange.run());
    }
    Ok(())
}

/// What is hosted.
pub(crate) type HostedMap = BTreeMap<RegionId, Arc<Hosted>>;
