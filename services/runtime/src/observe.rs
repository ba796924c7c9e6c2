//! What an operator reads of a server, over HTTP on a port of its own: `/metrics` for Prometheus,
//! `/healthz` (it lives) and `/readyz` (it can do its work, and if not, why not).
//!
//! The port has no authentication, so it listens on the machine itself unless told otherwise, and shows
//! nothing that a record says.

use crate::health::{Check, Health, State};
use crate::metrics::Metrics;
use crate::telemetry::ErrorChain;
use crate::{OnExit, Tasks};
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Prometheus metrics in the text form of `OpenMetrics`.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Readers at a time: a monitoring system, a person, and those that hang.
const READERS_MAX: usize = 16;
/// Longest wait for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the checks are made when nobody asks, so that the log tells of changes.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Brings the gauges up to date and says how the server is.
pub type Look = Box<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;

/// What there is to read of a server.
pub struct Observed {
    /// All metrics.
    pub registry: Registry,
    /// Those that every server has.
    pub metrics: Metrics,
    /// Called before each reading.
    pub look: Look,
}

/// A key of the configuration: where it is read; `off` for nowhere.
pub const KEY: &str = "metrics_listen";

/// Where it is read when the configuration does not say: on the machine itself.
pub const fn default_listen(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Reads the value of [`KEY`]; notes when it is neither an address nor `off`.
pub fn listen(
    check: &mut crate::config::Check,
    text: Option<&str>,
    default_port: u16,
) -> Option<SocketAddr> {
    match text {
        None => Some(default_listen(default_port)),
        Some("off") => None,
        Some(text) => check.parsed(KEY, text),
    }
}

impl Observed {
    /// Makes the checks every few seconds and, where an address is given, answers who reads there, until
    /// the soft stop. A port that cannot be had is told in the log; the server goes on without.
    pub async fn spawn(self, tasks: &Tasks, listen: Option<SocketAddr>) {
        let observed = Arc::new(Shared { observed: self, health: Health::default() });
        tasks.spawn("observe.check", OnExit::Log, check(Arc::clone(&observed), tasks.clone()));
        let Some(addr) = listen else { return };
        match TcpListener::bind(addr).await {
            Ok(listener) => {
                let addr = listener.local_addr().unwrap_or(addr);
                tracing::info!(%addr, "metrics and health are served");
                tasks.spawn("observe.serve", OnExit::Log, serve(listener, observed, tasks.clone()));
            }
            Err(error) => {
                tracing::warn!(%addr, error = %ErrorChain(&error), "metrics and health are not served");
            }
        }
    }
}

struct Shared {
    observed: Observed,
    health: Health,
}

async fn check(shared: Arc<Shared>, tasks: Tasks) {
    loop {
        // No arm holds state across its await.
        tokio::select! {
            () = tasks.soft().cancelled() => return,
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
        shared.look().await;
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, tasks: Tasks) {
    let readers = Arc::new(Semaphore::new(READERS_MAX));
    loop {
        // No arm holds state across its await; a reader that is not taken waits in the kernel.
        let accepted = tokio::select! {
            () = tasks.soft().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(REQUEST_TIMEOUT).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&readers).try_acquire_owned() else { continue };
        let (shared, soft) = (Arc::clone(&shared), tasks.soft().clone());
        tasks.spawn("observe.answer", OnExit::Log, async move {
            // Neither arm holds anything that must be kept: who reads can ask again.
            tokio::select! {
                () = soft.cancelled() => {}
                () = answer_all(stream, &shared) => {}
            }
            drop(permit);
        });
    }
}

async fn answer_all(stream: TcpStream, shared: &Arc<Shared>) {
    let service = service_fn(|request: Request<Incoming>| {
        let shared = Arc::clone(shared);
        async move { Ok::<_, Infallible>(shared.answer(request.method(), request.uri().path()).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(16 * 1_024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(error = %ErrorChain(&error), "a reader of metrics was lost");
    }
}

impl Shared {
    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".to_owned());
        }
        match path {
            "/healthz" => reply(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" => {
                let checks = self.look().await;
                let ready = checks.iter().all(|check| check.state != State::Fail);
                let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                let body = json!({ "ready": ready, "checks": checks }).to_string();
                reply(code, "application/json", body + "\n")
            }
            "/metrics" => {
                self.look().await;
                let mut body = String::new();
                match text::encode(&mut body, &self.observed.registry) {
                    Ok(()) => reply(StatusCode::OK, METRICS_TYPE, body),
                    Err(_) => {
                        let code = StatusCode::INTERNAL_SERVER_ERROR;
                        reply(code, "text/plain", "no metrics\n".to_owned())
                    }
                }
            }
            _ => {
                let paths = "/metrics /healthz /readyz\n".to_owned();
                reply(StatusCode::NOT_FOUND, "text/plain", paths)
            }
        }
    }

    async fn look(&self) -> Vec<Check> {
        let checks = (self.observed.look)().await;
        self.observed.metrics.checked(&checks);
        self.health.found(&checks);
        checks
    }
}

fn reply(code: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = code;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Connections;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn observed(full: &Arc<AtomicBool>) -> Shared {
        let mut registry = Registry::with_prefix("wuling");
        let metrics = Metrics::new(&mut registry, &Connections::default());
        let full = Arc::clone(full);
        let look: Look = Box::new(move || {
            let check = Check::store(full.load(Ordering::Relaxed)).of("a");
            Box::pin(async move { vec![check] })
        });
        Shared { observed: Observed { registry, metrics, look }, health: Health::default() }
    }

    #[tokio::test]
    async fn a_server_that_cannot_write_lives_but_is_not_ready() {
        let full = Arc::new(AtomicBool::new(false));
        let shared = observed(&full);
        let status = async |path| shared.answer(&Method::GET, path).await.status();
        assert_eq!(status("/readyz").await, StatusCode::OK);
        full.store(true, Ordering::Relaxed);
        assert_eq!(status("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("/healthz").await, StatusCode::OK);
        assert_eq!(status("/metrics").await, StatusCode::OK);
        assert_eq!(status("/").await, StatusCode::NOT_FOUND);
        let posted = shared.answer(&Method::POST, "/metrics").await;
        assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn the_place_is_an_address_or_off_or_this_machine() {
        let mut check = crate::config::Check::default();
        assert_eq!(listen(&mut check, None, 7), Some(default_listen(7)));
        assert_eq!(listen(&mut check, Some("off"), 7), None);
        let anywhere = Some(SocketAddr::from(([0, 0, 0, 0], 9)));
        assert_eq!(listen(&mut check, Some("0.0.0.0:9"), 7), anywhere);
        assert_eq!(listen(&mut check, Some("on"), 7), None);
        let said = check.finish().expect_err("one mistake").to_string();
        assert!(said.starts_with("metrics_listen: `on`"), "{said}");
    }
}
