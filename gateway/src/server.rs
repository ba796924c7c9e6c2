//! The server: opens its store, serves regions, stops in order.

use crate::book::Book;
use crate::config::{Config, Limits};
use crate::observe::{self, Subject};
use crate::proposals::Proposals;
use crate::registry::Registry;
use crate::service::{Service, Shared};
use crate::trim;
use crate::trust::{self, Heard, Linkage, Own};
use domain::kernel::{Clock, Entropy, GatewayId};
use prost::Message as _;
use proto::exchange::v1::exchange_service_server::ExchangeServiceServer;
use proto::kernel::v1::SignedObject;
use runtime::accept::{self, BindError, Listener};
use runtime::conduct::Conduct;
use runtime::config::Secret;
use runtime::connections::Connections;
use runtime::data_dir::{DataDir, DataDirError, Format};
use runtime::limits::Layers;
use runtime::metrics::Calls;
use runtime::pki::{Authority, PkiError};
use runtime::tls::{ClientAuth, ServerTls, TlsError};
use runtime::trust_folder::{TrustFolder, TrustFolderError};
use runtime::{ErrorChain, OnExit, Shutdown, Tasks};
use seal::trust::{TrustError, believe};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use storage::gateway::{Committed, Store};
use storage::{OpenError, ReadError, Writer};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// What a gateway's data folder is.
pub const FORMAT: Format = Format { name: "gateway", number: 1 };

/// Why a gateway does not start or does not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file is missing or unreadable.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged: restore it from a copy")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// What makes the linkage believed cannot be read or is not believed.
    #[error(transparent)]
    Trust(#[from] TrustFolderError<TrustError>),
    /// The gateway is not in the directory.
    #[error(
        "gateway {0} is revoked, or not in the directory with the certificate of this folder: ask the authority to add it"
    )]
    NotListed(GatewayId),
    /// The store cannot be opened.
    #[error("the gateway's store cannot be opened")]
    Store(#[from] OpenError),
    /// The store cannot be read.
    #[error("the gateway's store cannot be read")]
    StoreRead(#[from] ReadError),
    /// A certificate cannot be made.
    #[error("the gateway's certificate cannot be made")]
    Certificate(#[from] PkiError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// gRPC failed.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
    /// A part of the server ended by itself.
    #[error(transparent)]
    Ended(#[from] runtime::tasks::ShutdownError),
}

/// A gateway that has taken its port and opened its folder, not yet serving.
pub struct Gateway {
    config: Config,
    listener: Listener,
    /// Held, so that no second process works on the folder.
    data: DataDir,
    trust: Linkage,
    authority: Authority,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Gateway {
    /// Takes the port, opens the folder, verifies what lies in it.
    ///
    /// # Errors
    /// When any of it cannot be used.
    pub async fn bind(
        config: Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, ServerError> {
        let limits = accept::within_files(config.limits.peer)?;
        let config = Config { limits: Limits { peer: limits, ..config.limits }, ..config };
        runtime::tls::install_provider();
        let data = DataDir::open(&config.data, FORMAT)?;
        let trust = TrustFolder::open(data.path(), clock.now(), believe)?;
        let authority = authority(&data.path().join("gateway"))?;
        let listed = trust.held().find_gateway(&config.gateway_id);
        if listed.is_none_or(|listed| listed.authority_certificate != authority.certificate_der()) {
            return Err(ServerError::NotListed(config.gateway_id));
        }
        let listener = Listener::bind(config.listen).await?;
        Ok(Self { config, listener, data, trust, authority, clock, entropy })
    }

    /// Where it will serve.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// Serves until the shutdown, then stops in order.
    ///
    /// # Errors
    /// When a part of it failed or had to be cut off.
    pub async fn serve(self, shutdown: Shutdown) -> Result<(), ServerError> {
        let Self { config, listener, data, trust, authority, clock, entropy } = self;
        let tasks = Tasks::new(shutdown);
        let addr = listener.addr();
        let book = Arc::new(Book::new(Arc::clone(trust.held())));
        let mut own = own(&config, addr, (authority, trust), &book, &data, &clock);
        let (keys, trust) = own.keys()?;
        let tls = ServerTls::new(&keys, trust, ClientAuth::Optional)?;
        let (store, registry) = open(&tasks, data.path(), &config, &book).await?;
        let connections = Connections::default();
        let subject = Subject {
            data: data.path().to_owned(),
            book: Arc::clone(&book),
            registry: Arc::clone(&registry),
            store: store.clone(),
            tls: tls.clone(),
            clock: Arc::clone(&clock),
        };
        let (calls, metrics) =
            observe::spawn(subject, &connections, &tasks, config.metrics_listen).await;
        let heard = Heard {
            tls: tls.clone(),
            connections: connections.clone(),
            registry: Arc::clone(&registry),
        };
        let offers = trusting(&tasks, own, heard);
        let Config { gateway_id, limits, shutdown_grace_s, .. } = config;
        let grace = Duration::from_secs(shutdown_grace_s);
        let conduct = Conduct::new(&limits.peer);
        tasks.spawn("gateway.conduct", OnExit::Log, conduct.clone().run(tasks.soft().clone()));
        let incoming = accept::serve(listener, tls.clone(), limits.peer, connections.clone());
        tracing::info!(%addr, gateway.id = %gateway_id, "serving");
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ExchangeServiceServer<Service>>().await;
        let shared = Shared {
            gateway_id,
            book,
            registry,
            proposals: Proposals::default(),
            store,
            offers,
            limits,
            tls,
            metrics,
            tasks: tasks.clone(),
            clock,
            entropy,
        };
        let router = router(&limits.peer, &calls, &conduct, Service(Arc::new(shared)));
        let router = router.add_service(health_service);

        // Stop accepting; links watch the same token, tell their regions when to come back, and end.
        let unready = unready(&tasks, &health);
        let mut served = pin!(router.serve_with_incoming_shutdown(incoming, unready));
        let served = tokio::select! {
            // Neither arm holds anything: what still serves goes on below.
            served = &mut served => served,
            () = overdue(&tasks, grace / 2) => {
                connections.close(|_| true);
                served.await
            }
        };
        // Background loops and links end; with the last of them the last hand on the store, and so its
        // writer, which first writes what it was given.
        let stopped = tasks.shutdown(grace).await;
        drop(data);
        served?;
        stopped?;
        Ok(())
    }
}

/// Waits for the soft stop, and says that it serves no more.
async fn unready(tasks: &Tasks, health: &HealthReporter) {
    tasks.soft().cancelled().await;
    health.set_not_serving::<ExchangeServiceServer<Service>>().await;
    health.set_service_status("", ServingStatus::NotServing).await;
}

/// Starts what keeps certificate and trust fresh; gives where that goes which peers show.
fn trusting(tasks: &Tasks, own: Own, heard: Heard) -> mpsc::Sender<trust::Offer> {
    let (offers, offered) = mpsc::channel(trust::OFFERS_QUEUED_MAX);
    let trusting = own.run(heard, offered, tasks.soft().clone());
    tasks.spawn("gateway.trust", OnExit::Log, trusting);
    offers
}

/// What the gateway shows and trusts.
fn own(
    config: &Config,
    addr: SocketAddr,
    (authority, folder): (Authority, Linkage),
    book: &Arc<Book>,
    data: &DataDir,
    clock: &Arc<dyn Clock>,
) -> Own {
    Own {
        gateway_id: config.gateway_id.clone(),
        names: config.names.clone(),
        ip: addr.ip(),
        authority,
        folder,
        book: Arc::clone(book),
        lists: trust::lists(data.path()),
        clock: Arc::clone(clock),
    }
}

/// Over when those who were told to stop have had their time.
async fn overdue(tasks: &Tasks, grace: Duration) {
    tasks.soft().cancelled().await;
    // Neither arm holds anything.
    tokio::select! {
        () = tasks.hard().cancelled() => {}
        () = tokio::time::sleep(grace) => {}
    }
}

/// Opens the store, starts its writer, and takes up what it holds.
async fn open(
    tasks: &Tasks,
    data: &Path,
    Config { gateway_id, limits, .. }: &Config,
    book: &Arc<Book>,
) -> Result<(Store, Arc<Registry>), ServerError> {
    let path = data.join("gateway.sqlite");
    let (store, writer) = Store::open(&path, gateway_id).await?;
    write(tasks, writer);
    for row in store.list_agreements().await? {
        let signed = SignedObject::decode(row.signed)
            .map_err(|_| ServerError::Damaged { path: path.clone() })?;
        let version = row.version.checked_sub(1).map(|before| (row.agreement, before));
        let before = version.and_then(|before| book.terms(before));
        let before = before.as_ref().map(|before| &before.agreement);
        match seal::trust::agreement_again(&signed, before, &book.trust()) {
            Ok(agreement) => drop(book.learn(&agreement, &signed)),
            // A party may have left the directory; the others may show the version that follows.
            Err(error) => tracing::warn!(
                agreement.id = %row.agreement,
                agreement.version = row.version,
                error = %ErrorChain(&error),
                "an agreement is no longer believed"
            ),
        }
    }
    // Nobody is served yet, so nothing is committed between this and what is read next.
    let heard = store.listen();
    let (streams, receipts) = (store.list_streams().await?, store.list_receipts().await?);
    let registry = Arc::new(Registry::new(Arc::clone(book), streams, receipts));
    let route = route(Arc::clone(&registry), store.clone(), heard, tasks.soft().clone());
    tasks.spawn("gateway.route", OnExit::Stop, route);
    let (bytes_max, soft) = (limits.stored_bytes_per_party_max, tasks.soft().clone());
    let trim = trim::run(Arc::clone(&registry), store.clone(), bytes_max, soft);
    tasks.spawn("gateway.trim", OnExit::Log, trim);
    Ok((store, registry))
}

fn router(
    limits: &runtime::limits::Limits,
    calls: &Calls,
    conduct: &Conduct,
    service: Service,
) -> Router<Layers> {
    // No compression: segments are compressed inside.
    let service = ExchangeServiceServer::new(service)
        .max_decoding_message_size(limits.message_bytes_max as usize)
        .max_encoding_message_size(limits.answer_bytes_max as usize);
    limits.server(calls, conduct).add_service(service)
}

/// Runs the writer. One that ends before the stop has lost its disk: what that holds is unknown, so the
/// process ends and reads it again.
fn write(tasks: &Tasks, writer: Writer) {
    let runner = tasks.clone();
    tasks.spawn("storage.write", OnExit::Stop, async move {
        match runner.blocking("storage.write", move || writer.run()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %ErrorChain(&error), "the writer stopped"),
            Err(error) => tracing::error!(error = %ErrorChain(&error), "the writer stopped"),
        }
    });
}

/// Tells each commit to the links it is for.
async fn route(
    registry: Arc<Registry>,
    store: Store,
    mut heard: broadcast::Receiver<Committed>,
    soft: tokio_util::sync::CancellationToken,
) {
    loop {
        // No arm holds state across its await.
        let committed = tokio::select! {
            () = soft.cancelled() => return,
            committed = heard.recv() => committed,
        };
        match committed {
            Ok(committed) => registry.route(&committed),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "commits were not heard, the store is read instead");
                match (store.list_streams().await, store.list_receipts().await) {
                    (Ok(streams), Ok(receipts)) => registry.reload(streams, receipts),
                    (Err(error), _) | (_, Err(error)) => {
                        tracing::error!(error = %ErrorChain(&error), "the store cannot be read");
                        return;
                    }
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn authority(dir: &Path) -> Result<Authority, ServerError> {
    let path = dir.join("authority.crt");
    let text = |path: &Path| {
        String::from_utf8(read(path)?).map_err(|_| ServerError::Damaged { path: path.to_owned() })
    };
    let key = Secret::new(text(&dir.join("authority.key"))?);
    Ok(Authority::from_pem(&text(&path)?, &key)?)
}

fn read(path: &Path) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|source| ServerError::Read { path: path.to_owned(), source })
}
