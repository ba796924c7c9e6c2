//! What an operator reads of a region server: all metrics in one place, and how the server is, with
//! reasons.

use crate::hosted::Hosted;
use crate::metrics::Metrics;
use domain::kernel::{Clock, RegionId};
use exchange::metrics::Metrics as ExchangeMetrics;
use prometheus_client::registry::Registry;
use runtime::connections::Connections;
use runtime::health::{Check, seconds_between};
use runtime::identity::Owner;
use runtime::metrics::{Calls, Metrics as RuntimeMetrics, Word};
use runtime::observe::{Look, Observed};
use runtime::pki::Validity;
use runtime::tls::ServerTls;
use runtime::{ErrorChain, Tasks};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use storage::metrics::Stores;

/// Metrics of a server that starts.
pub(crate) struct Observe {
    pub(crate) metrics: Metrics,
    registry: Registry,
    runtime: RuntimeMetrics,
    exchange: ExchangeMetrics,
    connections: Connections,
}

/// What is looked at.
pub(crate) struct Subject {
    pub(crate) data: PathBuf,
    pub(crate) hosted: Arc<BTreeMap<RegionId, Arc<Hosted>>>,
    pub(crate) tls: ServerTls,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Observe {
    pub(crate) fn new(connections: &Connections) -> Self {
        let mut registry = Registry::with_prefix("wuling");
        Self {
            runtime: RuntimeMetrics::new(&mut registry, connections),
            exchange: ExchangeMetrics::new(&mut registry),
            metrics: Metrics::new(&mut registry),
            registry,
            connections: connections.clone(),
        }
    }

    /// The layer that measures calls.
    pub(crate) fn calls(&self) -> Calls {
        let health = ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"];
        self.runtime.calls(crate::authorise::methods().chain(health))
    }

    /// Shows metrics and health, and looks after itself, until the soft stop.
    pub(crate) async fn spawn(self, subject: Subject, tasks: &Tasks, listen: Option<SocketAddr>) {
        let Self { mut registry, runtime, exchange, connections, .. } = self;
        let mut stores = Vec::new();
        for region in subject.hosted.values() {
            stores.push(region.store.measure().await);
        }
        registry.register_collector(Box::new(Stores::new(stores)));
        let shown = runtime.clone();
        let (subject, tasks_seen) = (Arc::new(subject), tasks.clone());
        let look: Look = Box::new(move || {
            let (subject, runtime, exchange) =
                (Arc::clone(&subject), shown.clone(), exchange.clone());
            let (connections, tasks) = (connections.clone(), tasks_seen.clone());
            Box::pin(async move {
                let mut checks = vec![runtime.refresh(&connections, &tasks, &subject.data)];
                let authorities = subject.hosted.keys().cloned().map(Owner::Region);
                // All that are hosted here know the same of the linkage.
                if let Some(region) = subject.hosted.values().next() {
                    let (trust, now) = (&region.book().trust, subject.clock.now());
                    let word = Word {
                        signed_at: trust.signed_at(),
                        directory_at: trust.directory.created_at,
                        key_expires_at: trust.key_expires_at,
                    };
                    checks.extend(runtime.trust(word, &subject.tls, authorities, now));
                }
                for region in subject.hosted.values() {
                    checks.extend(look_at(region, &exchange, &runtime).await);
                }
                checks
            })
        });
        Observed { registry, metrics: runtime, look }.spawn(tasks, listen).await;
    }
}

/// How one hosted region is.
async fn look_at(
    region: &Hosted,
    exchange: &ExchangeMetrics,
    runtime: &RuntimeMetrics,
) -> Vec<Check> {
    let (id, now) = (region.region().as_str(), region.now());
    let store = region.store.measure().await;
    let mut checks = vec![Check::store(store.disk_full()).of(id)];
    if let Ok(validity) = Validity::of(region.authority.certificate_der()) {
        runtime.certificate(id, "authority", seconds_between(now, validity.not_after));
    }
    match exchange.refresh(&region.book(), &region.store, &region.links.get(), now).await {
        Ok(found) => checks.extend(found),
        Err(error) => {
            tracing::error!(region.id = id, error = %ErrorChain(&error), "the store was not read");
            checks.push(Check::unreadable().of(id));
        }
    }
    checks
}
