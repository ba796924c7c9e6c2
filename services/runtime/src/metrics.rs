//! What every server measures of itself: calls, connections, tasks, certificates, its disk, its health.
//!
//! Chosen: `prometheus-client`, because a registry there is a value, so that forty servers in one process
//! measure apart. Rejected: `metrics`, whose recorder is the process's. Names are
//! `wuling_<subject>_<measure>_<unit>[_total]`; the library puts `wuling_`, units and `_total` to them.

use crate::accept::REFUSALS;
use crate::connections::{Connections, Peer};
use crate::health::{Check, State, disk_free_bytes, seconds_between};
use crate::identity::{Identity, Owner};
use crate::tasks::Tasks;
use crate::tls::ServerTls;
use domain::kernel::{Timestamp, TrustAge};
use hyper::body::{Body, Frame, SizeHint};
use hyper::http::{HeaderMap, Request, Response};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::Instrument as _;
use tracing::instrument::Instrumented;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// From a read out of memory to a stream that lasts for hours.
const SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 3_600.0];
/// Memory is counted by the system in pages of this size on all targets of ours.
const PAGE_BYTES: u64 = 4_096;

/// What every server measures. Clones share all values.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Requests,
    checks: Family<Checked, Gauge>,
    certificates: Family<Certificate, Gauge>,
    live: Gauge,
    tasks: Gauge,
    memory: Gauge,
    disk_free: Gauge,
    directory_age: Gauge,
    trust_age: Gauge,
}

/// What the accept loop counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted {
    refusals: Family<Refused, Counter>,
    pending: Gauge,
}

/// Measures each call: how long until its last byte, and how it ended. A call whose caller left or whose
/// time was up counts as `CANCELLED`.
#[derive(Clone, Debug)]
pub struct Calls {
    requests: Requests,
    methods: Arc<BTreeSet<&'static str>>,
}

/// A service whose calls are measured.
#[derive(Clone, Debug)]
pub struct Measured<S> {
    inner: S,
    calls: Calls,
}

type Requests = Family<Call, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    check: &'static str,
    region: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Certificate {
    owner: String,
    kind: &'static str,
}

/// A histogram of durations.
pub fn durations() -> Histogram {
    Histogram::new(SECONDS)
}

/// A number as a gauge shows it.
pub fn gauge_value(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How old what the authority has signed is.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// When it last said what is newest.
    pub signed_at: Timestamp,
    /// When it signed the directory.
    pub directory_at: Timestamp,
    /// How long the key that signed the directory is good.
    pub key_expires_at: Timestamp,
}

impl Metrics {
    /// Registers them; `connections` are those of the server's port.
    pub fn new(registry: &mut Registry, connections: &Connections) -> Self {
        let metrics = Self {
            requests: Family::new_with_constructor(durations),
            checks: Family::default(),
            certificates: Family::default(),
            live: Gauge::default(),
            tasks: Gauge::default(),
            memory: Gauge::default(),
            disk_free: Gauge::default(),
            directory_age: Gauge::default(),
            trust_age: Gauge::default(),
        };
        let counted = connections.counted();
        // Who has none yet shows that there are none.
        for reason in REFUSALS {
            drop(counted.refusals.get_or_create(&Refused { reason }));
        }
        let entries = || Unit::Other("connections".to_owned());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        let help = "From the first byte of a call to its last, by how it ended";
        registry.register_with_unit(
            "request_duration",
            help,
            Unit::Seconds,
            metrics.requests.clone(),
        );
        let help = "Connections that did not come about";
        registry.register("connection_refusals", help, counted.refusals.clone());
        let help = "Handshakes that go on";
        registry.register_with_unit("handshake_pending", help, entries(), counted.pending.clone());
        let help = "Connections that are open";
        registry.register_with_unit("connection_live", help, entries(), metrics.live.clone());
        let help = "Tasks that run";
        registry.register("task_alive_count", help, metrics.tasks.clone());
        let help = "Until a certificate runs out; below zero after it has";
        let unit = Unit::Seconds;
        registry.register_with_unit("certificate_expiry", help, unit, metrics.certificates.clone());
        let help = "Memory in use";
        registry.register_with_unit("process_resident", help, Unit::Bytes, metrics.memory.clone());
        let help = "Space left where the data folder lies";
        registry.register_with_unit("disk_free", help, Unit::Bytes, metrics.disk_free.clone());
        let help = "Since the authority signed the directory";
        let gauge = metrics.directory_age.clone();
        registry.register_with_unit("directory_age", help, Unit::Seconds, gauge);
        let help = "Since the authority last said what is newest";
        registry.register_with_unit("trust_age", help, Unit::Seconds, metrics.trust_age.clone());
        let help = "What a check finds: 0 ok, 1 warn, 2 fail";
        registry.register("health_check_state", help, metrics.checks.clone());
        metrics
    }

    /// The layer that measures calls of these methods (`package.Service/Method`); others share one name,
    /// so that no caller can make new ones.
    pub fn calls(&self, methods: impl IntoIterator<Item = &'static str>) -> Calls {
        Calls { requests: self.requests.clone(), methods: Arc::new(methods.into_iter().collect()) }
    }

    /// Reads what is known only now, and says whether there is space where the data lies.
    pub fn refresh(&self, connections: &Connections, tasks: &Tasks, data: &Path) -> Check {
        let count = |number| i64::try_from(number).unwrap_or(i64::MAX);
        self.live.set(count(connections.count()));
        self.tasks.set(count(tasks.alive()));
        if let Some(bytes) = resident_bytes() {
            self.memory.set(gauge_value(bytes));
        }
        let disk_free = disk_free_bytes(data);
        if let Some(bytes) = disk_free {
            self.disk_free.set(gauge_value(bytes));
        }
        Check::disk(disk_free)
    }

    /// Looks at what a server shows and whom it believes: its certificate, the authority's word, the lists of
    /// these authorities.
    pub fn trust(
        &self,
        word: Word,
        tls: &ServerTls,
        authorities: impl Iterator<Item = Owner>,
        now: Timestamp,
    ) -> [Check; 4] {
        let left = seconds_between(now, tls.expires_at());
        self.certificate("server", "server", left);
        let key_left = seconds_between(now, word.key_expires_at);
        self.certificate("authority", "directory_key", key_left);
        let age = seconds_between(word.signed_at, now);
        self.directory_age.set(seconds_between(word.directory_at, now));
        self.trust_age.set(age);
        let stale = authorities.filter(|owner| tls.is_stale(owner, now)).count();
        [
            Check::certificate(left),
            Check::trust(TrustAge::of(word.signed_at, now), age),
            Check::directory_key(key_left),
            Check::revocations(stale),
        ]
    }

    /// Notes how long a certificate still holds.
    pub fn certificate(&self, owner: &str, kind: &'static str, seconds: i64) {
        let certificate = Certificate { owner: owner.to_owned(), kind };
        self.certificates.get_or_create(&certificate).set(seconds);
    }

    /// Notes what the checks found.
    pub(crate) fn checked(&self, checks: &[Check]) {
        for Check { name, region, state, .. } in checks {
            let checked = Checked { check: name, region: region.clone() };
            self.checks.get_or_create(&checked).set(match state {
                State::Ok => 0,
                State::Warn => 1,
                State::Fail => 2,
            });
        }
    }
}

impl Accepted {
    /// A connection did not come about.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Refused { reason }).inc();
    }

    /// So many handshakes go on.
    pub(crate) fn pending(&self, handshakes: usize) {
        self.pending.set(i64::try_from(handshakes).unwrap_or(i64::MAX));
    }
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

impl Default for Calls {
    /// Measures for nobody, under one name.
    fn default() -> Self {
        Self { requests: Family::new_with_constructor(durations), methods: Arc::default() }
    }
}

impl<S> Layer<S> for Calls {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, calls: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<MeasuredBody<R>>;
    type Error = S::Error;
    type Future = MeasuredFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let method = self.calls.methods.get(path.strip_prefix('/').unwrap_or(path));
        let method = method.copied().unwrap_or("unknown");
        let span = tracing::debug_span!("rpc", otel.name = method, otel.kind = "server");
        if !span.is_disabled() {
            continue_trace(&span, &request);
        }
        let timer = Timer {
            requests: self.calls.requests.clone(),
            call: Call { method, code: code(Some(1)) },
            started: Instant::now(),
        };
        MeasuredFuture { inner: self.inner.call(request).instrument(span), timer: Some(timer) }
    }
}

/// A device of the region may bring the trace that its call belongs to. What comes over the border begins
/// a trace of its own; streams and places in them join the two.
fn continue_trace<B>(span: &tracing::Span, request: &Request<B>) {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.identity.as_ref());
    if matches!(peer, Some(Identity::Device(..))) {
        let context = TraceContextPropagator::new().extract(&Headers(request.headers()));
        // Without traces there is nothing to continue.
        drop(span.set_parent(context));
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(hyper::http::HeaderName::as_str).collect()
    }
}

/// One call under way; it counts when it is dropped.
#[derive(Debug)]
struct Timer {
    requests: Requests,
    call: Call,
    started: Instant,
}

impl Timer {
    fn ended(&mut self, headers: &HeaderMap) {
        let status = headers.get("grpc-status").and_then(|status| status.to_str().ok());
        if let Some(status) = status {
            self.call.code = code(status.parse().ok());
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.requests.get_or_create(&self.call).observe(seconds);
    }
}

pin_project_lite::pin_project! {
    /// A call until its answer begins.
    #[derive(Debug)]
    pub struct MeasuredFuture<F> {
        #[pin]
        inner: Instrumented<F>,
        timer: Option<Timer>,
    }
}

impl<F, R, E> Future for MeasuredFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<MeasuredBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let mut timer = this.timer.take();
        Poll::Ready(answer.map(|response| {
            if let Some(timer) = &mut timer {
                timer.ended(response.headers());
            }
            response.map(|inner| MeasuredBody { inner, timer })
        }))
    }
}

pin_project_lite::pin_project! {
    /// The answer of a call, until its last byte.
    #[derive(Debug)]
    pub struct MeasuredBody<B> {
        #[pin]
        inner: B,
        timer: Option<Timer>,
    }
}

impl<B: Body> Body for MeasuredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let (Some(trailers), Some(timer)) = (frame.trailers_ref(), &mut *this.timer)
        {
            timer.ended(trailers);
            *this.timer = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The name of a gRPC code.
const fn code(number: Option<u8>) -> &'static str {
    match number {
        Some(0) => "OK",
        Some(1) => "CANCELLED",
        Some(3) => "INVALID_ARGUMENT",
        Some(4) => "DEADLINE_EXCEEDED",
        Some(5) => "NOT_FOUND",
        Some(6) => "ALREADY_EXISTS",
        Some(7) => "PERMISSION_DENIED",
        Some(8) => "RESOURCE_EXHAUSTED",
        Some(9) => "FAILED_PRECONDITION",
        Some(10) => "ABORTED",
        Some(11) => "OUT_OF_RANGE",
        Some(12) => "UNIMPLEMENTED",
        Some(13) => "INTERNAL",
        Some(14) => "UNAVAILABLE",
        Some(15) => "DATA_LOSS",
        Some(16) => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;
    use std::convert::Infallible;
    use tonic::body::Body as TonicBody;
    use tower::{ServiceExt as _, service_fn};

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        text::encode(&mut text, registry).expect("a string takes all");
        text
    }

    #[tokio::test]
    async fn a_call_counts_by_its_method_and_how_it_ended() {
        let mut registry = Registry::with_prefix("wuling");
        let metrics = Metrics::new(&mut registry, &Connections::default());
        let calls = metrics.calls(["a.A/Get"]);
        let answer = async |request: Request<TonicBody>| {
            let mut response = Response::new(TonicBody::empty());
            let status = if request.uri().path() == "/a.A/Get" { "5" } else { "12" };
            response.headers_mut().insert("grpc-status", status.parse().expect("a number"));
            Ok::<_, Infallible>(response)
        };
        for path in ["/a.A/Get", "/a.A/Get", "/b.B/Invented"] {
            let request = Request::builder().uri(path).body(TonicBody::empty()).expect("a request");
            drop(calls.layer(service_fn(answer)).oneshot(request).await);
        }
        let text = shown(&registry);
        let count = |method, code| {
            format!("wuling_request_duration_seconds_count{{method=\"{method}\",code=\"{code}\"}}")
        };
        assert!(text.contains(&(count("a.A/Get", "NOT_FOUND") + " 2\n")), "{text}");
        assert!(text.contains(&(count("unknown", "UNIMPLEMENTED") + " 1\n")), "{text}");
        assert!(!text.contains("Invented"), "{text}");
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_counts_as_cancelled() {
        let mut registry = Registry::with_prefix("wuling");
        let metrics = Metrics::new(&mut registry, &Connections::default());
        let service =
            service_fn(|_| std::future::pending::<Result<Response<TonicBody>, Infallible>>());
        let mut measured = metrics.calls(["a.A/Get"]).layer(service);
        let request = Request::builder().uri("/a.A/Get").body(TonicBody::empty());
        drop(measured.call(request.expect("a request")));
        assert!(shown(&registry).contains("code=\"CANCELLED\"} 1\n"), "{}", shown(&registry));
    }

    #[test]
    fn the_memory_in_use_is_read() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
