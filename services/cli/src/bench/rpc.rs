//! The phones' service without its store: what HTTP/2, TLS and the codec leave room for. The server is
//! built as a region's is, with the limits of the phones' port, and answers each push at once. Phones
//! and server share this process, so its cores too.

use super::Options;
use super::limits::{self, Limits};
use super::report::{self, Usage, median, noisy, percentile, put_spread, round};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use domain::kernel::{Clock as _, DeviceId, LinkageId, RegionId};
use proto::device::v1 as pb;
use proto::device::v1::device_service_client::DeviceServiceClient;
use proto::device::v1::device_service_server::{DeviceService, DeviceServiceServer};
use runtime::accept::{self, Listener};
use runtime::channel::{self, channel};
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::conduct::Conduct;
use runtime::connections::Connections;
use runtime::identity::{Identity, Owner};
use runtime::limits::Limits as ServerLimits;
use runtime::pki::{Authority, IssuedKey, Validity, new_request};
use runtime::tls::{Anchor, ClientAuth, ClientTls, Hosted, ServerTls, Trust};
use runtime::{ErrorChain, OnExit, Tasks};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codec::CompressionEncoding;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Those of the phones' port.
const LIMITS: ServerLimits = ServerLimits::DEVICE;
/// Calls at a time on a connection, as the port allows.
const CALLS_PER_CONNECTION: usize = LIMITS.streams_per_connection_max as usize;
/// Bytes of a signed batch of one record, and of its signature.
const BATCH_BYTES: usize = 300;
const SIGNATURE_BYTES: usize = 71;
/// How long the server's tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// What protects the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Transport {
    /// Nothing: by tonic's own accept loop, because ours takes only TLS.
    Plain,
    /// The server shows a certificate.
    Tls,
    /// Both do.
    Mtls,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    /// `Push`, so many calls at a time.
    Unary(usize),
    /// `Sync`, so many pushes unanswered on one stream.
    Stream(usize),
}

/// A line of the report.
type Case = (Load, Transport);

const LOADS: [Load; 5] =
    [Load::Unary(1), Load::Unary(32), Load::Unary(256), Load::Stream(256), Load::Stream(2_048)];
const TRANSPORTS: [Transport; 3] = [Transport::Plain, Transport::Tls, Transport::Mtls];

/// How much is done for a figure.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    seconds: f64,
    limits_seconds: f64,
}

/// What a round of a case came to.
#[derive(Clone, Copy, Debug)]
struct Sample {
    requests_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us_per_request: f64,
    others_cpu: f64,
}

/// Runs the suite.
pub(super) async fn run(options: &Options) -> Result<bool> {
    let effort = Effort { rounds: options.rounds, seconds: 1.0, limits_seconds: 0.5 };
    let wanted = |case: &Case| options.cases.is_empty() || options.cases.contains(&name(*case));
    let cases: Vec<Case> = all().into_iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no such case; there are {}", all().map(name).join(", "));
    report::print(&lines(options.data.as_deref(), &cases, effort).await?, options.json)?;
    Ok(true)
}

fn all() -> [Case; LOADS.len() * TRANSPORTS.len()] {
    std::array::from_fn(|at| (LOADS[at / TRANSPORTS.len()], TRANSPORTS[at % TRANSPORTS.len()]))
}

fn name((load, transport): Case) -> String {
    let transport = transport_name(transport);
    match load {
        Load::Unary(calls) => format!("unary_{calls}_{transport}"),
        Load::Stream(window) => format!("stream_w{window}_{transport}"),
    }
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Plain => "plain",
        Transport::Tls => "tls",
        Transport::Mtls => "mtls",
    }
}

/// Calls in flight, and over how many connections.
fn in_flight(load: Load) -> (usize, usize) {
    match load {
        Load::Unary(calls) => (calls, calls.div_ceil(CALLS_PER_CONNECTION)),
        Load::Stream(window) => (window, 1),
    }
}

/// Round by round, so that what drifts drifts for all.
async fn lines(parent: Option<&Path>, cases: &[Case], effort: Effort) -> Result<Vec<Value>> {
    let world = World::start().await?;
    let mut samples: BTreeMap<Case, Vec<Sample>> = BTreeMap::new();
    let mut limits = Vec::new();
    for _ in 0..effort.rounds {
        limits.push(limits::measure_for(parent, effort.limits_seconds)?);
        for (load, transport) in cases {
            let sample = world.measure(*load, *transport, effort.seconds).await;
            let sample = sample.with_context(|| format!("case {}", name((*load, *transport))))?;
            samples.entry((*load, *transport)).or_default().push(sample);
        }
    }
    world.tasks.shutdown(GRACE).await?;
    let told = cases.iter().filter_map(|case| Some((*case, samples.get(case)?)));
    Ok(told.map(|(case, samples)| line(case, samples, &limits)).collect())
}

fn line(case: Case, samples: &[Sample], limits: &[Limits]) -> Value {
    let of = |pick: fn(&Sample) -> f64| samples.iter().map(pick).collect::<Vec<f64>>();
    let (in_flight, connections) = in_flight(case.0);
    let others_cpu = of(|s| s.others_cpu);
    let trips = median(limits.iter().map(|limits| limits.tcp_trips_per_s).collect());
    let mut named = limits::named(limits);
    named["tcp_trips_per_s"] = json!(round(trips));
    let mut line = json!({
        "suite": "rpc",
        "case": name(case),
        "transport": transport_name(case.1),
        "in_flight": in_flight,
        "connections": connections,
        "p50_ms": round(median(of(|s| s.p50_ms))),
        "p99_ms": round(median(of(|s| s.p99_ms))),
        "cpu_us_per_request": round(median(of(|s| s.cpu_us_per_request))),
        "ratio_to_tcp": round(median(of(|s| s.requests_per_s)) / trips),
        "limits": named,
        "n": samples.len(),
        "others_cpu": round(median(others_cpu.clone())),
        "noisy": noisy(others_cpu, limits),
    });
    put_spread(&mut line, "requests_per_s", of(|s| s.requests_per_s));
    line
}

/// The two servers, and what phones need to reach them.
struct World {
    tasks: Tasks,
    linkage: LinkageId,
    region: RegionId,
    authority: Authority,
    plain: SocketAddr,
    tls: SocketAddr,
}

impl World {
    async fn start() -> Result<Self> {
        runtime::tls::install_provider();
        let (tasks, validity) = (Tasks::default(), Validity::days(SystemClock.now(), 1));
        let (linkage, region): (LinkageId, RegionId) = ("wuling-bench".parse()?, "origin".parse()?);
        let (owner, identity) = (Owner::Region(region.clone()), Identity::Region(region.clone()));
        let authority = Authority::create(&linkage, &owner, validity)?;
        let key = authority.issue_server(&linkage, &identity, &[], &[], validity)?;
        let hosted = Hosted { server_names: vec![identity.dns_name(&linkage)], key };
        let mut trust = Trust::new(linkage.clone());
        trust.add(owner, authority.certificate_der())?;
        let tls = ServerTls::new(&[hosted], trust, ClientAuth::Optional)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));

        let listener = Listener::bind(any).await?;
        let tls_addr = listener.addr();
        serve(&tasks, accept::serve(listener, tls, LIMITS, Connections::default()));
        let incoming = TcpIncoming::bind(any)?.with_nodelay(Some(true));
        let plain = incoming.local_addr()?;
        serve(&tasks, incoming);
        Ok(Self { tasks, linkage, region, authority, plain, tls: tls_addr })
    }

    async fn measure(&self, load: Load, transport: Transport, seconds: f64) -> Result<Sample> {
        let (in_flight, connections) = in_flight(load);
        let mut clients = Vec::with_capacity(connections);
        for _ in 0..connections {
            let mut client = DeviceServiceClient::new(self.connect(transport)?);
            // The first call connects.
            client.push(push()).await?;
            clients.push(client);
        }
        let (usage, from) = (Usage::own()?, Instant::now());
        let until = from + Duration::from_secs_f64(seconds);
        let mut tasks = JoinSet::new();
        match load {
            Load::Unary(_) => {
                for client in clients.iter().cycle().take(in_flight) {
                    tasks.spawn(unary(client.clone(), until));
                }
            }
            Load::Stream(window) => {
                for client in clients {
                    tasks.spawn(stream(client, window, until));
                }
            }
        }
        let mut took_ms = Vec::new();
        while let Some(some) = tasks.join_next().await {
            took_ms.extend(some??);
        }
        let took = from.elapsed().as_secs_f64();
        let used = usage.until_now(&[std::process::id()])?;
        let requests = took_ms.len() as f64;
        Ok(Sample {
            requests_per_s: requests / took,
            p50_ms: percentile(&mut took_ms, 50.0),
            p99_ms: percentile(&mut took_ms, 99.0),
            cpu_us_per_request: used.cpu_s[0] * 1e6 / requests,
            others_cpu: used.others_cpu,
        })
    }

    /// A connection of its own, with mutual TLS that of a phone of its own.
    fn connect(&self, transport: Transport) -> Result<Channel> {
        let own = match transport {
            Transport::Plain => {
                let limits = channel::Limits::DEVICE;
                let endpoint = Endpoint::from_shared(format!("http://{}", self.plain))?
                    .initial_stream_window_size(limits.stream_window_bytes)
                    .initial_connection_window_size(limits.connection_window_bytes);
                return Ok(endpoint.connect_lazy());
            }
            Transport::Tls => None,
            Transport::Mtls => Some(self.phone()?),
        };
        let server = Identity::Region(self.region.clone());
        let anchor = Anchor::Certificate(self.authority.certificate_der());
        let tls = ClientTls::new(&self.linkage, server, anchor, own.as_ref())?;
        Ok(channel(&self.tls.to_string(), tls, channel::Limits::DEVICE)?)
    }

    fn phone(&self) -> Result<IssuedKey> {
        let now = SystemClock.now();
        let device = DeviceId::mint(now, &SystemEntropy);
        let identity = Identity::Device(self.region.clone(), device);
        let (key_der, request) = new_request()?;
        let validity = Validity::days(now, 1);
        let chain_der =
            self.authority.issue_from_request(&self.linkage, &identity, &request, validity)?;
        Ok(IssuedKey { chain_der, key_der })
    }
}

/// Serves as a region's server does, by the limits of the phones' port, until the soft stop.
fn serve<I, C, E>(tasks: &Tasks, incoming: I)
where
    I: Stream<Item = Result<C, E>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let service = DeviceServiceServer::new(AtOnce)
        .max_decoding_message_size(LIMITS.message_bytes_max as usize)
        .max_encoding_message_size(LIMITS.answer_bytes_max as usize)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip);
    let served = LIMITS
        .server(&runtime::metrics::Calls::default(), &Conduct::new(&LIMITS))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, tasks.soft().clone().cancelled_owned());
    tasks.spawn("bench.serve", OnExit::Stop, async move {
        if let Err(error) = served.await {
            tracing::error!(error = %ErrorChain(&error), "the server failed");
        }
    });
}

/// One call after another; milliseconds each took.
async fn unary(mut client: DeviceServiceClient<Channel>, until: Instant) -> Result<Vec<f64>> {
    let mut took_ms = Vec::new();
    let mut from = Instant::now();
    while from < until {
        client.push(push()).await?;
        let now = Instant::now();
        took_ms.push((now - from).as_secs_f64() * 1e3);
        from = now;
    }
    Ok(took_ms)
}

/// Pushes on one stream, `window` of them unanswered; milliseconds each took.
async fn stream(
    mut client: DeviceServiceClient<Channel>,
    window: usize,
    until: Instant,
) -> Result<Vec<f64>> {
    let (out, requests) = mpsc::channel(window);
    let mut answers = client.sync(ReceiverStream::new(requests)).await?.into_inner();
    let (mut sent, mut took_ms) = (VecDeque::with_capacity(window), Vec::new());
    let mut now = Instant::now();
    loop {
        while sent.len() < window && now < until {
            let request = Some(pb::sync_request::Request::Push(push()));
            out.send(pb::SyncRequest { request }).await?;
            sent.push_back(Instant::now());
        }
        let Some(from) = sent.pop_front() else { return Ok(took_ms) };
        if answers.message().await?.is_none() {
            bail!("the stream ended");
        }
        now = Instant::now();
        took_ms.push((now - from).as_secs_f64() * 1e3);
    }
}

fn push() -> pb::PushRequest {
    static BATCH: [u8; BATCH_BYTES] = [7; BATCH_BYTES];
    static SIGNATURE: [u8; SIGNATURE_BYTES] = [7; SIGNATURE_BYTES];
    let (batch, signature) = (Bytes::from_static(&BATCH), Bytes::from_static(&SIGNATURE));
    pb::PushRequest { signed_batch: Some(pb::SignedBatch { batch, signature }) }
}

/// What a region answers to a batch of one that it applied.
fn answer() -> pb::PushResponse {
    const ID: &[u8] = &[7; 16];
    let revision =
        proto::kernel::v1::Revision { epoch: Bytes::from_static(ID), n: 1, ..Default::default() };
    let result = pb::OperationResult {
        operation_id: Bytes::from_static(ID),
        outcome: pb::Outcome::Applied.into(),
        revision: Some(revision),
        ..Default::default()
    };
    let receive_time = Some(proto::convert::kernel::encode_time(SystemClock.now()));
    pb::PushResponse { results: vec![result], receive_time, ..Default::default() }
}

/// The phones' service that does nothing but answer.
struct AtOnce;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DeviceService for AtOnce {
    async fn enrol(
        &self,
        _: Request<pb::EnrolRequest>,
    ) -> Result<Response<pb::EnrolResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn push(
        &self,
        _: Request<pb::PushRequest>,
    ) -> Result<Response<pb::PushResponse>, Status> {
        Ok(Response::new(answer()))
    }

    async fn pull(
        &self,
        _: Request<pb::PullRequest>,
    ) -> Result<Response<pb::PullResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    type WatchStream = Out<pb::WatchResponse>;

    async fn watch(
        &self,
        _: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }

    type SyncStream = Out<pb::SyncResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let answers = request.into_inner().map(|request| {
            request.map(|_| pb::SyncResponse {
                response: Some(pb::sync_response::Response::Push(answer())),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::to_json;

    #[tokio::test]
    async fn every_case_is_answered_and_told() {
        let effort = Effort { rounds: 1, seconds: 0.02, limits_seconds: 0.01 };
        let cases = all();
        let lines = lines(None, &cases, effort).await.expect("measured");
        assert_eq!(lines.len(), 15);
        for (line, case) in lines.iter().zip(cases) {
            let read: Value = serde_json::from_str(&to_json(line)).expect("json");
            assert_eq!((&read["suite"], &read["case"]), (&json!("rpc"), &json!(name(case))));
            for name in ["requests_per_s", "min", "max", "p50_ms", "p99_ms", "ratio_to_tcp"] {
                assert!(read[name].as_f64() > Some(0.0), "{name} of {read}");
            }
            for name in ["in_flight", "connections", "cpu_us_per_request", "n", "others_cpu"] {
                assert!(read[name].is_number(), "{name} of {read}");
            }
            assert!(read["limits"]["tcp_trips_per_s"].as_f64() > Some(0.0), "{read}");
            assert!(read["noisy"].is_boolean(), "{read}");
        }
    }
}
