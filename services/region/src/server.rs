//! The server: opens what it hosts, serves phones and desks, keeps the links, stops in order.

use crate::config::{Config, HostedConfig};
use crate::folder::{self, FolderError, Loaded};
use crate::hosted::Hosted;
use crate::rpc::Services;
use domain::directory::Directory;
use domain::kernel::{Clock, Entropy, Epoch, RegionId};
use exchange::book::Book;
use exchange::link::{Exchange, LANE_CLASSES};
use exchange::status::Status as Links;
use proto::agreement::v1::agreement_service_server::AgreementServiceServer;
use proto::device::v1::device_service_server::DeviceServiceServer;
use proto::directory::v1::directory_service_server::DirectoryServiceServer;
use proto::patrol::v1::patrol_service_server::PatrolServiceServer;
use proto::risk::v1::risk_service_server::RiskServiceServer;
use runtime::accept::{self, BindError, Listener};
use runtime::connections::Connections;
use runtime::data_dir::{DataDir, DataDirError};
use runtime::identity::{Identity, Owner};
use runtime::pki::{Authority, PkiError, Validity};
use runtime::tls::{
    Anchor, ClientAuth, ClientTls, Hosted as HostedKey, ServerTls, TlsError, Trust,
};
use runtime::{ErrorChain, OnExit, Shutdown, Tasks};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::OpenError;
use storage::region::Store;
use tokio::sync::Mutex as AsyncMutex;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server as Tonic;

/// A server certificate is good for a week and made anew at every start and each third of its life.
const CERTIFICATE_DAYS: i64 = 7;
const RENEW_EVERY: Duration = Duration::from_secs(7 * 86_400 / 3);
/// Messages of phones: a batch of 1 MiB and its signature.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;
/// Transport limits of the phones' port.
const STREAMS_PER_CONNECTION_MAX: u32 = 8;
const CALLS_PER_CONNECTION_MAX: usize = 16;
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
const HEADERS_BYTES_MAX: u32 = 8 * 1024;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(2 * 3_600);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(240);

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
        let mut hosted = BTreeMap::new();
        for (of, loaded) in loaded {
            let region = open(&data, &tasks, loaded, &clock, &entropy).await?;
            link(&tasks, &directory, &of, &region, &clock)?;
            hosted.insert(of.region, region);
        }
        let hosted = Arc::new(hosted);
        let tls = tls(&config, &directory, &hosted, addr, clock.as_ref())?;
        renew(&tasks, tls.clone(), &config, &directory, &hosted, addr, &clock);
        let services = Services { regions: Arc::clone(&hosted) };
        let connections = Connections::default();
        let incoming = accept::serve(listener, tls, config.limits, connections.clone());
        tracing::info!(%addr, regions = hosted.len(), "serving");
        drop(hosted);
        let soft = tasks.soft().clone();
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<DeviceServiceServer<Services>>().await;
        let cut_off = {
            let (soft, hard) = (soft.clone(), tasks.hard().clone());
            let connections = connections.clone();
            async move {
                soft.cancelled().await;
                tokio::select! {
                    () = hard.cancelled() => {}
                    // Phones that hold a stream open have been told by now; what is left is not waited for.
                    () = tokio::time::sleep(grace / 2) => {}
                }
                connections.close(|_| true);
            }
        };
        tasks.spawn("region.cut_off", OnExit::Log, cut_off);
        let served = router(services)
            .add_service(health_service)
            .serve_with_incoming_shutdown(incoming, async move { soft.cancelled().await })
            .await;
        let stopped = tasks.shutdown(grace).await;
        served?;
        stopped?;
        Ok(())
    }
}

fn router(services: Services) -> tonic::transport::server::Router {
    macro_rules! service {
        ($server:ident) => {
            $server::new(services.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(4 * MESSAGE_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
                .send_compressed(CompressionEncoding::Gzip)
        };
    }
    Tonic::builder()
        .timeout(CALL_TIMEOUT)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .load_shed(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .max_connection_age(CONNECTION_AGE_MAX)
        .add_service(service!(DeviceServiceServer))
        .add_service(service!(PatrolServiceServer))
        .add_service(service!(RiskServiceServer))
        .add_service(service!(DirectoryServiceServer))
        .add_service(service!(AgreementServiceServer))
}

/// Opens a region's store and starts its writer.
async fn open(
    data: &DataDir,
    tasks: &Tasks,
    loaded: Loaded,
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
            book: Arc::<Book>::clone(&region.book),
            store: region.store.clone(),
            status: region.links.clone(),
            gateway: gateway.gateway_id.clone(),
            endpoint: of.gateway_endpoint.clone().unwrap_or_else(|| gateway.endpoint.clone()),
            tls: tls.clone(),
            lanes,
            tasks: tasks.clone(),
            clock: Arc::clone(clock),
            entropy: Arc::clone(&region.entropy),
        };
        tasks.spawn("exchange.link", OnExit::Log, exchange.run());
    }
    Ok(())
}

type HostedMap = BTreeMap<RegionId, Arc<Hosted>>;

/// Certificates of all hosted regions, and whom they trust: each its own devices.
fn keys(
    config: &Config,
    directory: &Directory,
    hosted: &HostedMap,
    addr: SocketAddr,
    clock: &dyn Clock,
) -> Result<(Vec<HostedKey>, Trust), ServerError> {
    let mut trust = Trust::new(directory.linkage_id.clone());
    let mut keys = Vec::new();
    for (id, region) in hosted {
        let authority: &Authority = &region.authority;
        let identity = Identity::Region(id.clone());
        let validity = Validity::days(clock.now(), CERTIFICATE_DAYS);
        let ips = [addr.ip(), std::net::Ipv4Addr::LOCALHOST.into()];
        let key = authority.issue_server(
            &directory.linkage_id,
            &identity,
            &config.names,
            &ips,
            validity,
        )?;
        trust.add(Owner::Region(id.clone()), authority.certificate_der())?;
        keys.push(HostedKey { server_names: vec![identity.dns_name(&directory.linkage_id)], key });
    }
    Ok((keys, trust))
}

fn tls(
    config: &Config,
    directory: &Directory,
    hosted: &HostedMap,
    addr: SocketAddr,
    clock: &dyn Clock,
) -> Result<ServerTls, ServerError> {
    let (keys, trust) = keys(config, directory, hosted, addr, clock)?;
    Ok(ServerTls::new(&keys, trust, ClientAuth::Optional)?)
}

/// Makes the server's certificates anew at each third of their life, without a restart.
fn renew(
    tasks: &Tasks,
    tls: ServerTls,
    config: &Config,
    directory: &Directory,
    hosted: &Arc<HostedMap>,
    addr: SocketAddr,
    clock: &Arc<dyn Clock>,
) {
    let (config, directory, hosted) = (config.clone(), directory.clone(), Arc::clone(hosted));
    let (clock, soft) = (Arc::clone(clock), tasks.soft().clone());
    tasks.spawn("region.renew", OnExit::Log, async move {
        loop {
            // No arm holds state across its await.
            tokio::select! {
                () = soft.cancelled() => return,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
            let renewed = keys(&config, &directory, &hosted, addr, clock.as_ref())
                .and_then(|(keys, trust)| Ok(tls.reload(&keys, trust)?));
            if let Err(error) = renewed {
                tracing::error!(error = %ErrorChain(&error), "certificates were not renewed");
            }
        }
    });
}
