//! What an operator sees of a world: metrics, health, traces.

use super::{Process, World, free_port};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Where metrics and health of the three processes are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) gateway: u16,
    pub(crate) a: u16,
    pub(crate) b: u16,
}

impl World {
    /// Starts all three again with metrics on, this filter for their logs, and traces to a collector.
    pub(crate) async fn observe(&mut self, filter: &str, collector: Option<&Collector>) -> Ports {
        let ports = Ports { gateway: free_port(), a: free_port(), b: free_port() };
        let configs = ["gateway", "a", "b"].map(|name| self.path(&format!("{name}.toml")));
        let processes = [&mut self.gateway, &mut self.a, &mut self.b];
        let at = [ports.gateway, ports.a, ports.b];
        for ((process, config), port) in processes.into_iter().zip(configs).zip(at) {
            process.kill();
            let text = std::fs::read_to_string(&config).unwrap();
            assert!(text.contains("metrics_listen = \"off\"\n"), "{text}");
            let on = format!("metrics_listen = \"127.0.0.1:{port}\"\n");
            let mut text = text.replace("metrics_listen = \"off\"\n", &on);
            text += &format!("[log]\nfilter = \"{filter}\"\n");
            if let Some(collector) = collector {
                text += &format!("[otlp]\nendpoint = \"http://127.0.0.1:{}\"\n", collector.port);
            }
            std::fs::write(&config, text).unwrap();
            process.restart().await;
        }
        ports
    }

    /// What all three have logged.
    pub(crate) fn logs(&self) -> String {
        [&self.gateway, &self.a, &self.b].map(Process::log_text).concat()
    }
}

/// The code and the body of what is read under a path.
pub(crate) async fn get(port: u16, path: &str) -> (u16, String) {
    let mut line = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    line.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    line.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

/// The metrics of a server.
pub(crate) async fn metrics(port: u16) -> String {
    let (code, body) = get(port, "/metrics").await;
    assert_eq!(code, 200, "{body}");
    body
}

/// The sum of the samples of a name whose labels hold all of these; `None` when there are none.
pub(crate) fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let samples = metrics.lines().filter_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        let (of, own) = key.split_once('{').unwrap_or((key, ""));
        (of == name && labels.iter().all(|label| own.contains(label))).then_some(value)
    });
    let values: Vec<f64> = samples.map(|value| value.parse().unwrap()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// A collector of traces. It ends when it is dropped.
pub(crate) struct Collector {
    pub(crate) port: u16,
    received: Received,
    _task: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<ResourceSpans>>>);

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { port, received, _task: task }
    }

    /// All that came, with the name of the service that sent it.
    pub(crate) fn spans(&self) -> Vec<(String, Span)> {
        let received = self.received.0.lock().unwrap();
        let of = |spans: &ResourceSpans| format!("{:?}", spans.resource);
        received
            .iter()
            .flat_map(|spans| spans.scope_spans.iter().map(move |scope| (of(spans), scope)))
            .flat_map(|(of, scope)| scope.spans.iter().map(move |span| (of.clone(), span.clone())))
            .collect()
    }

    /// All that came, as a person would print it.
    pub(crate) fn text(&self) -> String {
        format!("{:#?}", self.received.0.lock().unwrap())
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().extend(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
