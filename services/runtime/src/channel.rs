//! A gRPC channel over our own TLS.

use crate::tls::ClientTls;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Uri};

/// How patient and how large a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Longest dial and handshake together.
    pub connect_timeout_ms: u64,
    /// Silence after which the server is pinged.
    pub ping_after_ms: u64,
    /// Wait for an answer to the ping, after which the connection is dead.
    pub ping_timeout_ms: u64,
    /// What one stream may send before it is read.
    pub stream_window_bytes: u32,
    /// What all streams of the connection may send before they are read.
    pub connection_window_bytes: u32,
}

/// Why no channel could be set up.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The endpoint is not of the form host:port.
    #[error("`{0}` is not of the form host:port")]
    Endpoint(String),
}

impl Limits {
    /// Between a region and a gateway: dead after 6 s of silence.
    pub const PEER: Self = Self {
        connect_timeout_ms: 5_000,
        ping_after_ms: 2_000,
        ping_timeout_ms: 4_000,
        stream_window_bytes: 1 << 20,
        connection_window_bytes: 4 << 20,
    };

    /// From a phone: patient with slow networks and sparing with its battery.
    pub const DEVICE: Self = Self {
        connect_timeout_ms: 20_000,
        ping_after_ms: 240_000,
        ping_timeout_ms: 20_000,
        stream_window_bytes: 128 << 10,
        connection_window_bytes: 512 << 10,
    };
}

/// A channel to `endpoint` (host:port) that connects with the first call and again with the first
/// call after a loss. It must be made inside the runtime.
///
/// # Errors
/// When the endpoint is not of the form host:port.
pub fn channel(endpoint: &str, tls: ClientTls, limits: Limits) -> Result<Channel, ChannelError> {
    let bad = || ChannelError::Endpoint(endpoint.to_owned());
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(bad)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    // tonic refuses `https` where its own TLS is off, so it dials `http` through our connector and
    // names the real origin in each request.
    let dial: Uri = format!("http://{endpoint}").parse().map_err(|_| bad())?;
    let origin: Uri = format!("https://{}", tls.server_name()).parse().map_err(|_| bad())?;
    let connector = {
        let endpoint = endpoint.to_owned();
        tower::service_fn(move |_: Uri| {
            let (tls, endpoint) = (tls.clone(), endpoint.clone());
            async move { tls.connect(&endpoint).await.map(TokioIo::new) }
        })
    };
    Ok(Endpoint::from(dial)
        .origin(origin)
        .connect_timeout(Duration::from_millis(limits.connect_timeout_ms))
        .http2_keep_alive_interval(Duration::from_millis(limits.ping_after_ms))
        .keep_alive_timeout(Duration::from_millis(limits.ping_timeout_ms))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .connect_with_connector_lazy(connector))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::{Connections, Peer};
    use crate::fixture::{LIMITS, Party, Port, gateway, in_time, region, server, trust};
    use crate::tasks::{OnExit, Tasks};
    use crate::telemetry::ErrorChain;
    use crate::tls::{ClientAuth, ServerTls};
    use std::net::SocketAddr;
    use std::time::Duration;
    use tokio::sync::mpsc;
    use tonic::Request;
    use tonic::service::interceptor::InterceptedService;
    use tonic::transport::Server;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    /// A real gRPC server behind the accept loop, which tells who called.
    struct Running {
        tasks: Tasks,
        addr: SocketAddr,
        connections: Connections,
        callers: mpsc::Receiver<Peer>,
    }

    async fn run(tls: &ServerTls) -> Running {
        let tasks = Tasks::default();
        let Port { addr, connections, incoming } = Port::open(tls, LIMITS).await;
        let (heard, callers) = mpsc::channel(16);
        let (_, health) = tonic_health::server::health_reporter();
        let health = InterceptedService::new(health, move |request: Request<()>| {
            let peer = request.extensions().get::<Peer>().expect("a peer").clone();
            heard.try_send(peer).expect("room");
            Ok(request)
        });
        let soft = tasks.soft().clone();
        tasks.spawn("rpc.serve", OnExit::Stop, async move {
            let served = Server::builder()
                .add_service(health)
                .serve_with_incoming_shutdown(incoming, soft.cancelled_owned())
                .await;
            served.expect("served");
        });
        Running { tasks, addr, connections, callers }
    }

    fn call(running: &Running, to: &Party, from: &Party) -> HealthClient<Channel> {
        let tls = to.client(Some(&from.key()));
        let channel = channel(&running.addr.to_string(), tls, Limits::PEER).expect("a channel");
        HealthClient::new(channel)
    }

    #[tokio::test]
    async fn a_call_reaches_its_handler_with_its_peer() {
        let (gateway, a) = (gateway(), region("a"));
        let tls = server(&[&gateway], trust(&[&a]), ClientAuth::Required);
        let mut running = run(&tls).await;
        let mut client = call(&running, &gateway, &a);
        in_time(client.check(HealthCheckRequest::default())).await.expect("answered");
        let peer = in_time(running.callers.recv()).await.expect("a caller");
        assert_eq!(peer.identity, Some(a.identity));
        drop(client);
        assert_eq!(in_time(running.tasks.shutdown(Duration::from_secs(5))).await, Ok(()));
        assert_eq!(running.connections.count(), 0);
    }

    #[tokio::test]
    async fn a_revoked_caller_loses_its_open_stream_and_gets_no_new_one() {
        let (gateway, a, b) = (gateway(), region("a"), region("b"));
        let tls = server(&[&gateway], trust(&[&a, &b]), ClientAuth::Required);
        let running = run(&tls).await;
        let (mut of_a, mut of_b) = (call(&running, &gateway, &a), call(&running, &gateway, &b));
        let watch = in_time(of_a.watch(HealthCheckRequest::default())).await.expect("a stream");
        let mut watch = watch.into_inner();
        in_time(watch.message()).await.expect("a first message");
        in_time(of_b.check(HealthCheckRequest::default())).await.expect("answered");

        tls.reload(&[gateway.hosted()], trust(&[&b])).expect("reloaded");
        running.connections.close(|peer| peer.identity.as_ref() == Some(&a.identity));
        in_time(watch.message()).await.expect_err("cut off");
        in_time(of_a.check(HealthCheckRequest::default())).await.expect_err("refused");
        in_time(of_b.check(HealthCheckRequest::default())).await.expect("still served");
    }

    #[tokio::test]
    async fn a_lost_connection_comes_back_with_the_next_call() {
        let (gateway, a) = (gateway(), region("a"));
        let tls = server(&[&gateway], trust(&[&a]), ClientAuth::Required);
        let running = run(&tls).await;
        let mut client = call(&running, &gateway, &a);
        in_time(client.check(HealthCheckRequest::default())).await.expect("answered");
        assert_eq!(running.connections.close(|_| true), 1);
        let again = async {
            // The first call may still find the old connection closing.
            while client.check(HealthCheckRequest::default()).await.is_err() {}
        };
        in_time(again).await;
    }

    #[tokio::test]
    async fn a_wrong_server_is_named_in_the_error() {
        let (gateway, other, a) = (gateway(), region("other"), region("a"));
        let tls = server(&[&other], trust(&[&a]), ClientAuth::Required);
        let running = run(&tls).await;
        let mut client = call(&running, &gateway, &a);
        let error = in_time(client.check(HealthCheckRequest::default())).await;
        let said = ErrorChain(&error.expect_err("refused")).to_string();
        for part in [
            format!("no secure connection to gateway/gw1 at {}", running.addr),
            "certificate is of region/other of linkage wuling, expected gateway/gw1".to_owned(),
        ] {
            assert!(said.contains(&part), "`{said}` should say `{part}`");
        }
    }

    #[tokio::test]
    async fn an_endpoint_is_a_host_and_a_port() {
        let (gateway, a) = (gateway(), region("a"));
        for endpoint in ["", "host", "host:", ":1", "host:x", "host:99999", "two words:1"] {
            let made = channel(endpoint, gateway.client(Some(&a.key())), Limits::PEER);
            assert!(matches!(made, Err(ChannelError::Endpoint(_))), "{endpoint}");
        }
        for endpoint in ["127.0.0.1:7444", "[::1]:7444", "gateway.example:7444"] {
            channel(endpoint, gateway.client(None), Limits::DEVICE).expect(endpoint);
        }
    }
}
