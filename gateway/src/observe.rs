//! What an operator reads of a gateway: all metrics in one place, and how it is, with reasons.

use crate::book::Book;
use crate::metrics::Metrics;
use crate::registry::Registry;
use domain::kernel::{Clock, RegionId};
use prometheus_client::registry::Registry as Shown;
use runtime::connections::Connections;
use runtime::health::{Check, State};
use runtime::identity::Owner;
use runtime::metrics::{Calls, Metrics as RuntimeMetrics, Word};
use runtime::observe::{Look, Observed};
use runtime::tls::ServerTls;
use runtime::{ErrorChain, Tasks};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use storage::gateway::Store;
use storage::metrics::Stores;

/// Methods that regions call.
const METHODS: [&str; 5] = [
    "wuling.exchange.v1.ExchangeService/Link",
    "wuling.exchange.v1.ExchangeService/Fetch",
    "wuling.exchange.v1.ExchangeService/Refresh",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
];

/// What is looked at.
pub(crate) struct Subject {
    pub(crate) data: PathBuf,
    pub(crate) book: Arc<Book>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Store,
    pub(crate) tls: ServerTls,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Shows metrics and health, and looks after itself, until the soft stop. Gives the layer that measures
/// calls, and what links count in.
pub(crate) async fn spawn(
    subject: Subject,
    connections: &Connections,
    tasks: &Tasks,
    listen: Option<SocketAddr>,
) -> (Calls, Metrics) {
    let mut shown = Shown::with_prefix("wuling");
    let runtime = RuntimeMetrics::new(&mut shown, connections);
    let metrics = Metrics::new(&mut shown);
    let given = (runtime.calls(METHODS), metrics.clone());
    let stores = Stores::new(vec![subject.store.measure().await]);
    shown.register_collector(Box::new(stores));
    let (measured, connections) = (runtime.clone(), connections.clone());
    let (subject, tasks_seen) = (Arc::new(subject), tasks.clone());
    let look: Look = Box::new(move || {
        let (subject, runtime, metrics) = (Arc::clone(&subject), measured.clone(), metrics.clone());
        let (connections, tasks) = (connections.clone(), tasks_seen.clone());
        Box::pin(async move {
            let mut checks = vec![runtime.refresh(&connections, &tasks, &subject.data)];
            checks.extend(subject.look(&metrics, &runtime).await);
            checks
        })
    });
    Observed { registry: shown, metrics: runtime, look }.spawn(tasks, listen).await;
    given
}

impl Subject {
    async fn look(&self, metrics: &Metrics, runtime: &RuntimeMetrics) -> Vec<Check> {
        let now = self.clock.now();
        let trust = self.book.trust();
        let directory = &trust.directory;
        let authorities = directory.regions.keys().cloned().map(Owner::Region);
        let store = self.store.measure().await;
        let connected = self.registry.connected();
        let mut checks = vec![Check::store(store.disk_full())];
        let word = Word {
            signed_at: trust.signed_at(),
            directory_at: directory.created_at,
            key_expires_at: trust.key_expires_at,
        };
        checks.extend(runtime.trust(word, &self.tls, authorities, now));
        checks.push(check_regions(directory.regions.keys(), &connected));
        match self.store.list_depths().await {
            Ok(depths) => metrics.behind(&self.book, &connected, &depths, now),
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "the store was not read");
                checks.push(Check::unreadable());
            }
        }
        checks
    }
}

/// A region that is not connected is a matter of its own operator first: to know, not to alarm.
fn check_regions<'a>(
    regions: impl Iterator<Item = &'a RegionId>,
    connected: &BTreeMap<RegionId, usize>,
) -> Check {
    let (mut all, mut here) = (0, 0);
    for region in regions {
        all += 1;
        here += usize::from(connected.contains_key(region));
    }
    Check::new("regions", State::Ok, format!("{here} of {all} are connected"), "")
}
