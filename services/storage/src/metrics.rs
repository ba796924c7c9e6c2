//! What a store measures of itself. The writer records once a transaction, never once a record; what is
//! known anyway is read when somebody asks.

use crate::writer::WriteError;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;
use sqlx::SqlitePool;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// From a flush that a disk with a battery swallows to one that hangs.
const SECONDS: [f64; 12] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
/// Kinds of jobs of a store, at most.
const KINDS_MAX: usize = 32;
/// Longest wait for a reader when the waiting itself is measured.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// What one store measures. Cheap to clone; all clones show the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Measured>);

/// Shows the stores of one server to Prometheus.
#[derive(Clone, Debug, Default)]
pub struct Stores(Vec<Metrics>);

#[derive(Debug)]
struct Measured {
    /// Whose store it is.
    owner: String,
    path: PathBuf,
    /// The name of its transactions.
    transaction: &'static str,
    /// Kinds of its jobs.
    kinds: &'static [&'static str],
    readers: SqlitePool,
    duration: Histogram,
    rows: Counter,
    jobs: [AtomicU64; KINDS_MAX],
    failures: [AtomicU64; FAILURES.len()],
    disk_full: AtomicBool,
    queued: AtomicI64,
    /// How long a reader had to wait when it was last measured.
    wait_micros: AtomicU64,
}

/// Why transactions are rolled back, in the order of [`failure`].
const FAILURES: [&str; 3] = ["disk_full", "refused", "stopped"];

const fn failure(error: WriteError) -> usize {
    match error {
        WriteError::DiskFull => 0,
        WriteError::Refused => 1,
        WriteError::Stopped => 2,
    }
}

impl Metrics {
    pub(crate) fn new(
        owner: String,
        path: &Path,
        transaction: &'static str,
        kinds: &'static [&'static str],
        readers: SqlitePool,
    ) -> Self {
        debug_assert!(kinds.len() <= KINDS_MAX);
        Self(Arc::new(Measured {
            owner,
            path: path.to_owned(),
            transaction,
            kinds,
            readers,
            duration: Histogram::new(SECONDS),
            rows: Counter::default(),
            jobs: Default::default(),
            failures: Default::default(),
            disk_full: AtomicBool::new(false),
            queued: AtomicI64::new(0),
            wait_micros: AtomicU64::new(0),
        }))
    }

    /// A transaction is on disk: how long it took, how many rows it changed, how many jobs of each kind
    /// were in it.
    pub(crate) fn committed(&self, took: Duration, rows: u64, kinds: impl Iterator<Item = usize>) {
        let mut counts = [0; KINDS_MAX];
        for kind in kinds {
            counts[kind] += 1;
        }
        for (total, count) in self.0.jobs.iter().zip(counts).filter(|(_, count)| *count > 0) {
            total.fetch_add(count, Ordering::Relaxed);
        }
        self.0.duration.observe(took.as_secs_f64());
        self.0.rows.inc_by(rows);
        self.0.disk_full.store(false, Ordering::Relaxed);
    }

    /// A transaction was rolled back.
    pub(crate) fn failed(&self, error: WriteError) {
        self.0.failures[failure(error)].fetch_add(1, Ordering::Relaxed);
        if error == WriteError::DiskFull {
            self.0.disk_full.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the last write found the disk full.
    pub fn disk_full(&self) -> bool {
        self.0.disk_full.load(Ordering::Relaxed)
    }

    /// Measures what is known only now: how many jobs wait, and how long a reader does.
    pub(crate) async fn refresh(&self, queued: usize) {
        self.0.queued.store(i64::try_from(queued).unwrap_or(i64::MAX), Ordering::Relaxed);
        let begin = tokio::time::Instant::now();
        // A pool that gives none for so long is told by the time itself.
        drop(tokio::time::timeout(WAIT_MAX, self.0.readers.acquire()).await);
        let waited = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.wait_micros.store(waited, Ordering::Relaxed);
    }
}

impl Measured {
    /// Bytes of the store's files: the database, and what is not yet moved into it.
    fn sizes(&self) -> [(&'static str, i64); 2] {
        let size = |suffix: &str| {
            let mut path = self.path.clone().into_os_string();
            path.push(suffix);
            // A file that is not there takes no space.
            let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
            i64::try_from(bytes).unwrap_or(i64::MAX)
        };
        [("database", size("")), ("log", size("-wal"))]
    }
}

impl Stores {
    /// These stores.
    pub fn new(stores: Vec<Metrics>) -> Self {
        Self(stores)
    }

    fn each(&self) -> impl Iterator<Item = &Measured> {
        self.0.iter().map(|metrics| &*metrics.0)
    }

    fn transactions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "From the first statement of a transaction until it is on disk.";
        let unit = Unit::Seconds;
        let (name, kind) = ("transaction_duration", MetricType::Histogram);
        let mut family = encoder.encode_descriptor(name, help, Some(&unit), kind)?;
        for store in self.each() {
            let labels = [("store", store.owner.as_str()), ("name", store.transaction)];
            store.duration.encode(family.encode_family(&labels)?)?;
        }
        let help = "Rows that transactions changed.";
        let unit = Unit::Other("rows".to_owned());
        let (name, kind) = ("transaction_changed", MetricType::Counter);
        let mut family = encoder.encode_descriptor(name, help, Some(&unit), kind)?;
        for store in self.each() {
            let labels = [("store", store.owner.as_str()), ("name", store.transaction)];
            store.rows.encode(family.encode_family(&labels)?)?;
        }
        let help = "Jobs that were written; many share one transaction.";
        let kind = MetricType::Counter;
        let mut family = encoder.encode_descriptor("transaction_jobs", help, None, kind)?;
        for store in self.each() {
            for (name, count) in store.kinds.iter().zip(&store.jobs) {
                let labels = [("store", store.owner.as_str()), ("name", name)];
                let count = ConstCounter::new(count.load(Ordering::Relaxed));
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Transactions that were rolled back.";
        let mut family = encoder.encode_descriptor("transaction_failures", help, None, kind)?;
        for store in self.each() {
            for (reason, count) in FAILURES.iter().zip(&store.failures) {
                let labels = [("store", store.owner.as_str()), ("reason", reason)];
                let count = ConstCounter::new(count.load(Ordering::Relaxed));
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, unit): (&str, &str, Option<Unit>),
        read: impl Fn(&Measured) -> i64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for store in self.each() {
            let value = ConstGauge::new(read(store));
            value.encode(family.encode_family(&[("store", store.owner.as_str())])?)?;
        }
        Ok(())
    }
}

impl Collector for Stores {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.transactions(encoder)?;
        let full = ("store_disk_full", "Whether the last write found the disk full.", None);
        self.gauge(encoder, full, |store| store.disk_full.load(Ordering::Relaxed).into())?;
        let unit = Some(Unit::Other("jobs".to_owned()));
        let queued = ("store_queued", "Jobs that wait for their transaction.", unit);
        self.gauge(encoder, queued, |store| store.queued.load(Ordering::Relaxed))?;
        let unit = Some(Unit::Other("connections".to_owned()));
        let open = ("pool_open", "Reading connections that are open.", unit.clone());
        self.gauge(encoder, open, |store| store.readers.size().into())?;
        let idle = ("pool_idle", "Reading connections that nobody uses.", unit);
        self.gauge(encoder, idle, |store| store.readers.num_idle().try_into().unwrap_or(i64::MAX))?;
        let help = "How long a reader waited for a connection just now.";
        let unit = Unit::Seconds;
        let kind = MetricType::Gauge;
        let mut family = encoder.encode_descriptor("pool_wait", help, Some(&unit), kind)?;
        for store in self.each() {
            let waited = Duration::from_micros(store.wait_micros.load(Ordering::Relaxed));
            let labels = [("store", store.owner.as_str())];
            ConstGauge::new(waited.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        let (help, unit) = ("Size of the store's files.", Unit::Bytes);
        let mut family = encoder.encode_descriptor("store_size", help, Some(&unit), kind)?;
        for store in self.each() {
            for (file, bytes) in store.sizes() {
                let labels = [("store", store.owner.as_str()), ("file", file)];
                ConstGauge::new(bytes).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;
    use sqlx::sqlite::SqlitePoolOptions;

    #[tokio::test]
    async fn a_store_shows_what_its_writer_recorded() {
        let readers = SqlitePoolOptions::new().connect_lazy("sqlite::memory:").unwrap();
        let path = Path::new("/there/is/none");
        let kinds = &["commit", "apply"];
        let metrics = Metrics::new("a".to_owned(), path, "region.write", kinds, readers);
        metrics.failed(WriteError::DiskFull);
        assert!(metrics.disk_full());
        metrics.committed(Duration::from_millis(3), 12, [0, 1, 1].into_iter());
        assert!(!metrics.disk_full());
        metrics.refresh(5).await;
        let mut registry = Registry::with_prefix("wuling");
        registry.register_collector(Box::new(Stores::new(vec![metrics])));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        for line in [
            "wuling_transaction_duration_seconds_count{store=\"a\",name=\"region.write\"} 1",
            "wuling_transaction_changed_rows_total{store=\"a\",name=\"region.write\"} 12",
            "wuling_transaction_jobs_total{store=\"a\",name=\"commit\"} 1",
            "wuling_transaction_jobs_total{store=\"a\",name=\"apply\"} 2",
            "wuling_transaction_failures_total{store=\"a\",reason=\"disk_full\"} 1",
            "wuling_store_disk_full{store=\"a\"} 0",
            "wuling_store_queued_jobs{store=\"a\"} 5",
            "wuling_store_size_bytes{store=\"a\",file=\"database\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
