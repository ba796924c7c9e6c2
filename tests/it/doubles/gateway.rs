//! A gateway that does what it is told, be it ever so bad: it has the keys of the real one, and speaks the
//! link as that does.

use crate::doors::{linkage, read_authority};
use crate::harness::{A, B, region};
use bytes::Bytes;
use domain::kernel::{Clock as _, Lane, RegionId};
use domain::stream::{Position, StreamId};
use proto::directory::v1::TrustSet;
use proto::exchange::v1 as pb;
use proto::exchange::v1::exchange_service_server::{ExchangeService, ExchangeServiceServer};
use proto::exchange::v1::link_request::Frame as Said;
use proto::exchange::v1::link_response::Frame as Told;
use proto::exchange::v1::{LinkRequest, LinkResponse};
use proto::kernel::v1::SignedObject;
use proto::link::{Assembler, CREDIT_BYTES_MAX, pieces};
use runtime::accept::{self, Listener};
use runtime::clock::SystemClock;
use runtime::connections::Connections;
use runtime::identity::{Identity, Owner};
use runtime::limits::Limits;
use runtime::pki::Validity;
use runtime::tls::{ClientAuth, Hosted, ServerTls, Trust};
use seal::key::sha256;
use seal::segment::{Segment, segment_id};
use seal::signed::{Hello, signer};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// What it does with what A wrote, where that goes to B.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Passes it on.
    #[default]
    Honest,
    /// Says that it has it, and has not.
    Drop,
    /// Shows each second segment before the first.
    Reorder,
    /// Shows each segment three times, and all before it again.
    Duplicate,
    /// Shows nothing of it.
    KeepBack,
    /// Shows a part under the name of the whole, once.
    CutPiece,
    /// Shows a part under a name of its own, once.
    CutSegment,
    /// Turns one bit, once.
    Forge,
}

/// A segment as it lies there; what it lost is only a place.
struct Held {
    before: Position,
    after: Position,
    bytes: Option<Bytes>,
}

struct Link {
    number: u64,
    region: RegionId,
    lanes: Vec<Lane>,
    out: mpsc::Sender<Result<LinkResponse, Status>>,
}

#[derive(Default)]
struct State {
    conduct: Conduct,
    /// Regions that see nothing of what A writes.
    blind: Vec<RegionId>,
    streams: BTreeMap<StreamId, Vec<Held>>,
    waiting: BTreeMap<StreamId, Bytes>,
    heads: BTreeMap<StreamId, SignedObject>,
    receipts: BTreeMap<(StreamId, RegionId), SignedObject>,
    /// Receipts are kept from those they are for.
    mute: bool,
    links: Vec<Link>,
    next: u64,
    /// What B asked for again.
    wants: Vec<(StreamId, u64)>,
}

/// The gateway. It ends when it is dropped.
pub(crate) struct Double {
    pub(crate) port: u16,
    state: Shared,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<State>>, Arc<BTreeMap<RegionId, [u8; 32]>>);

struct Service(Shared, Mutex<JoinSet<()>>);

impl Double {
    /// Serves in place of the gateway whose folder lies here.
    pub(crate) async fn start(dir: &Path) -> Self {
        runtime::tls::install_provider();
        let now = SystemClock.now();
        let directory = cli::linkage::read_directory(&dir.join("gateway"), now).unwrap();
        let identity = Identity::Gateway("gateway-1".parse().unwrap());
        let (names, ips) = (["localhost".to_owned()], [Ipv4Addr::LOCALHOST.into()]);
        let authority = read_authority(&dir.join("gateway/gateway"));
        let validity = Validity::days(now, 7);
        let key = authority.issue_server(&linkage(), &identity, &names, &ips, validity).unwrap();
        let mut trust = Trust::new(linkage());
        for (id, region) in &directory.regions {
            trust.add(Owner::Region(id.clone()), &region.authority_certificate).unwrap();
        }
        let hosted = Hosted { server_names: vec![identity.dns_name(&linkage())], key };
        let tls = ServerTls::new(&[hosted], trust, ClientAuth::Optional).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(any).await.unwrap();
        let port = listener.addr().port();
        let keys = directory.regions.iter().map(|(id, region)| (id.clone(), region.signing_key));
        let state = Shared(Arc::default(), Arc::new(keys.collect()));
        let service = ExchangeServiceServer::new(Service(state.clone(), Mutex::default()));
        let incoming = accept::serve(listener, tls, Limits::PEER, Connections::default());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { port, state, _serving: serving }
    }

    /// From now on it does this.
    pub(crate) fn conduct(&self, conduct: Conduct) {
        self.state.lock().conduct = conduct;
    }

    /// It is honest again, and brings what it can of what it kept back or lost.
    pub(crate) fn repent(&self) {
        let mut state = self.state.lock();
        state.conduct = Conduct::Honest;
        state.waiting.clear();
        let streams: Vec<_> = state.streams.keys().cloned().collect();
        for stream in streams {
            state.fill(&stream);
        }
    }

    /// Regions that see nothing of what A writes.
    pub(crate) fn blind(&self, regions: &[&str]) {
        self.state.lock().blind = regions.iter().map(|id| region(id)).collect();
    }

    /// Whether receipts are kept from those they are for. What is not kept any more is shown.
    pub(crate) fn mute(&self, mute: bool) {
        let mut state = self.state.lock();
        state.mute = mute;
        let links: Vec<_> = state.links.iter().map(|link| link.number).collect();
        for number in links {
            state.show_receipts(number);
        }
    }

    /// How far A's streams go that are held.
    pub(crate) fn places(&self) -> BTreeMap<StreamId, usize> {
        let state = self.state.lock();
        let own = state.streams.iter().filter(|(stream, _)| stream.origin.as_str() == A);
        own.map(|(stream, held)| (stream.clone(), held.len())).collect()
    }

    /// Takes a second history of A's streams, which begins where these places are.
    pub(crate) fn fork(&self, places: &BTreeMap<StreamId, usize>) {
        for (stream, held) in &mut self.state.lock().streams {
            if stream.origin.as_str() == A {
                held.truncate(places.get(stream).copied().unwrap_or(0));
            }
        }
    }

    /// Whether it has lost something that it said it had.
    pub(crate) fn has_lost(&self) -> bool {
        self.state.lock().streams.values().flatten().any(|held| held.bytes.is_none())
    }

    /// What B asked for again so far.
    pub(crate) fn wants(&self) -> Vec<(StreamId, u64)> {
        self.state.lock().wants.clone()
    }

    /// A's streams as they are held, of those that are for a region: what is left of them.
    pub(crate) fn held(&self, party: &str) -> Vec<(StreamId, Vec<Bytes>)> {
        let state = self.state.lock();
        let own = state.streams.iter().filter(|(stream, _)| stream.origin.as_str() == A);
        let segments = own.map(|(stream, held)| {
            let bytes: Vec<_> = held.iter().filter_map(|held| held.bytes.clone()).collect();
            (stream.clone(), bytes)
        });
        let is_for = |bytes: &Bytes| {
            Segment::parse(bytes.clone()).unwrap().parties().any(|of| of.as_str() == party)
        };
        segments.filter(|(_, held)| held.first().is_some_and(is_for)).collect()
    }

    /// Shows a region a segment, whatever it is.
    pub(crate) fn show(&self, to: &str, lane: Lane, encoded: &[u8]) {
        let bytes = Bytes::copy_from_slice(encoded);
        self.state.lock().pieces(&region(to), lane, &bytes);
    }

    /// Shows a region an object.
    pub(crate) fn tell(&self, to: &str, lane: Lane, frame: Told) {
        self.state.lock().say(&region(to), lane, frame);
    }

    /// Shows B again what it has shown it of A's streams of a lane: the head, where there is one, and a segment.
    pub(crate) fn repeat(&self, lane: Lane) {
        for (stream, segments) in self.held(B) {
            if stream.lane != lane {
                continue;
            }
            let head = self.state.lock().heads.get(&stream).cloned();
            if let Some(head) = head {
                self.tell(B, lane, Told::Head(head));
            }
            self.show(B, lane, &segments[0]);
        }
    }

    /// Passes on what the authority says, to all.
    pub(crate) fn pass_on(&self, set: &TrustSet) {
        for link in &self.state.lock().links {
            link.say(Told::Trust(set.clone()));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// One link, from its challenge to its end.
    async fn serve(
        self,
        mut requests: Streaming<LinkRequest>,
        out: mpsc::Sender<Result<LinkResponse, Status>>,
    ) -> Option<()> {
        let nonce = [7; 32];
        let gateway_id = "gateway-1".to_owned();
        let challenge = pb::Challenge { nonce: Bytes::copy_from_slice(&nonce), gateway_id };
        let frame = Some(Told::Challenge(challenge));
        out.send(Ok(LinkResponse { frame })).await.ok()?;
        let Some(Said::Hello(object)) = requests.message().await.ok()??.frame else { return None };
        let key = self.1[&signer(&object).unwrap()];
        let gateway = "gateway-1".parse().unwrap();
        let hello = Hello::verify(&object, &key, &nonce, &gateway).unwrap();
        let number = self.lock().enter(&hello, out);
        let mut assembler = Assembler::new(sha256);
        while let Ok(Some(request)) = requests.message().await {
            match request.frame? {
                Said::Piece(piece) => {
                    if let Some((_, bytes)) = assembler.take(piece).unwrap() {
                        self.lock().segment(number, bytes);
                    }
                }
                other => self.lock().frame(number, &hello.region, other),
            }
        }
        self.lock().links.retain(|link| link.number != number);
        Some(())
    }
}

impl State {
    fn enter(&mut self, hello: &Hello, out: mpsc::Sender<Result<LinkResponse, Status>>) -> u64 {
        let number = self.next;
        self.next += 1;
        let (region, lanes) = (hello.region.clone(), hello.lanes.clone());
        let link = Link { number, region: region.clone(), lanes: lanes.clone(), out };
        let own = self.streams.iter().filter(|(stream, _)| stream.origin == region);
        let stored = own.filter_map(|(stream, held)| Some((stream, held.last()?.after).into()));
        let stored = stored.collect();
        link.say(Told::Welcome(pb::Welcome { stored, ..Default::default() }));
        for lane in &lanes {
            let size = CREDIT_BYTES_MAX;
            link.say(Told::Credit(pb::Credit { lane: lane.code(), size }));
        }
        self.links.push(link);
        let received: Vec<_> = self.streams.keys().filter(|of| of.origin != region).collect();
        let received: Vec<_> = received.into_iter().cloned().collect();
        for stream in received {
            let applied = hello.applied.iter().find(|(of, _)| *of == stream);
            self.bring(&region, &stream, applied.map_or(0, |(_, at)| at.seq));
        }
        self.show_receipts(number);
        number
    }

    fn show_receipts(&self, number: u64) {
        let Some(link) = self.links.iter().find(|link| link.number == number) else { return };
        for ((stream, party), receipt) in &self.receipts {
            if !self.mute && *party != link.region && link.lanes.contains(&stream.lane) {
                link.say(Told::Receipt(receipt.clone()));
            }
        }
    }

    fn frame(&mut self, number: u64, from: &RegionId, frame: Said) {
        match frame {
            Said::Receipt(object) => {
                let key = |object: &SignedObject| signer(object).unwrap();
                let body = <pb::Receipt as prost::Message>::decode(object.body.clone()).unwrap();
                let stream = body.position.unwrap().stream.unwrap().try_into().unwrap();
                self.receipts.insert((stream, key(&object)), object);
                let others = self.links.iter().filter(|link| link.region != *from);
                let others: Vec<_> = others.map(|link| link.number).collect();
                others.into_iter().for_each(|other| self.show_receipts(other));
            }
            Said::Head(object) => {
                let body = <pb::Head as prost::Message>::decode(object.body.clone()).unwrap();
                let stream: StreamId = body.position.unwrap().stream.unwrap().try_into().unwrap();
                for link in self.links.iter().filter(|link| link.region != *from) {
                    if link.lanes.contains(&stream.lane) && !self.hides(&link.region, &stream) {
                        link.say(Told::Head(object.clone()));
                    }
                }
                // Who keeps back has only the old to show.
                if self.conduct != Conduct::KeepBack {
                    self.heads.insert(stream, object);
                }
            }
            Said::Want(want) => {
                let stream: StreamId = want.stream.unwrap().try_into().unwrap();
                if from.as_str() == B {
                    self.wants.push((stream.clone(), want.from_seq));
                }
                self.bring(from, &stream, want.from_seq.saturating_sub(1));
            }
            Said::Ping(ping) if !ping.reply => {
                let pong = pb::Ping { reply: true, token: ping.token };
                let link = self.links.iter().find(|link| link.number == number);
                link.into_iter().for_each(|link| link.say(Told::Ping(pong)));
            }
            _ => {}
        }
    }

    /// A whole segment came from its origin.
    fn segment(&mut self, number: u64, bytes: Bytes) {
        let segment = Segment::parse(bytes.clone()).unwrap();
        let stream = segment.stream().clone();
        let to_b = stream.origin.as_str() == A && segment.parties().any(|of| of.as_str() == B);
        let drops = self.conduct == Conduct::Drop && to_b;
        let (before, after) = (segment.before(), segment.after());
        let held = self.streams.entry(stream.clone()).or_default();
        let last = held.last().map_or_else(|| seal::chain::start(&stream), |last| last.after);
        let last_before = last;
        if before == last {
            held.push(Held { before, after, bytes: (!drops).then(|| bytes.clone()) });
        } else if let Some(place) = held.iter_mut().find(|held| held.before == before) {
            place.bytes.get_or_insert(bytes.clone());
        }
        let last = held.last().map_or(last, |last| last.after);
        if let Some(link) = self.links.iter().find(|link| link.number == number) {
            link.say(Told::Stored((&stream, last).into()));
            link.say(Told::Credit(pb::Credit { lane: stream.lane.code(), size: 64 * 1_024 }));
        }
        let parties: Vec<_> = segment.parties().filter(|of| **of != stream.origin).collect();
        for party in parties.into_iter().filter(|_| !drops) {
            if before == last_before {
                self.pass(party, &stream, &bytes);
            } else {
                // What fills a hole brings what waits behind it.
                self.bring(party, &stream, before.seq);
            }
        }
    }

    /// Whether a region sees nothing of a stream.
    fn hides(&self, from: &RegionId, stream: &StreamId) -> bool {
        let keeps_back = self.conduct == Conduct::KeepBack && from.as_str() == B;
        stream.origin.as_str() == A && (keeps_back || self.blind.contains(from))
    }

    /// Shows a segment to one of those it is for, as the conduct says.
    fn pass(&mut self, to: &RegionId, stream: &StreamId, bytes: &Bytes) {
        if self.hides(to, stream) {
            return;
        }
        let lane = stream.lane;
        let bends = to.as_str() == B && stream.origin.as_str() == A;
        let conduct = if bends { self.conduct } else { Conduct::Honest };
        if matches!(conduct, Conduct::CutPiece | Conduct::CutSegment | Conduct::Forge) {
            self.conduct = Conduct::Honest;
        }
        let part = bytes.slice(..bytes.len() / 2);
        match conduct {
            Conduct::Reorder => match self.waiting.remove(stream) {
                Some(earlier) => {
                    self.pieces(to, lane, bytes);
                    self.pieces(to, lane, &earlier);
                }
                None => drop(self.waiting.insert(stream.clone(), bytes.clone())),
            },
            Conduct::Duplicate => {
                let before = self.streams[stream].iter().filter_map(|held| held.bytes.clone());
                for bytes in before.chain([bytes.clone(), bytes.clone()]) {
                    self.pieces(to, lane, &bytes);
                }
            }
            Conduct::CutPiece => {
                let whole = pieces(bytes, segment_id(bytes), lane, 0);
                for piece in whole {
                    let data = piece.data.slice(..piece.data.len() / 2);
                    let total_size = u32::try_from(data.len()).unwrap();
                    self.say(to, lane, Told::Piece(pb::SegmentPiece { data, total_size, ..piece }));
                }
            }
            Conduct::CutSegment => self.pieces(to, lane, &part),
            Conduct::Forge => {
                let mut bent = bytes.to_vec();
                // The signature stands last.
                *bent.last_mut().unwrap() ^= 1;
                self.pieces(to, lane, &bent.into());
            }
            _ => self.pieces(to, lane, bytes),
        }
    }

    fn pieces(&self, to: &RegionId, lane: Lane, bytes: &Bytes) {
        for piece in pieces(bytes, segment_id(bytes), lane, 0) {
            self.say(to, lane, Told::Piece(piece));
        }
    }

    fn say(&self, to: &RegionId, lane: Lane, frame: Told) {
        let links = self.links.iter().rev();
        let mut links = links.filter(|link| link.region == *to && link.lanes.contains(&lane));
        links.next().into_iter().for_each(|link| link.say(frame.clone()));
    }

    /// Brings a region what is held of a stream after a place.
    fn bring(&mut self, to: &RegionId, stream: &StreamId, after: u64) {
        let held = self.streams.get(stream).map(Vec::as_slice).unwrap_or_default();
        let further = held.iter().filter(|held| held.after.seq > after);
        let further: Vec<_> = further.filter_map(|held| held.bytes.clone()).collect();
        for bytes in further {
            let segment = Segment::parse(bytes.clone()).unwrap();
            if segment.parties().any(|party| party == to) {
                self.pass(to, stream, &bytes);
            }
        }
    }

    /// Asks the origin of a stream for what was lost, and brings what is there.
    fn fill(&mut self, stream: &StreamId) {
        let lost: Vec<_> = self.streams[stream]
            .iter()
            .filter(|held| held.bytes.is_none())
            .map(|held| (held.before.seq + 1, held.after.seq))
            .collect();
        for (from_seq, to_seq) in lost {
            let want = pb::Want { stream: Some(stream.into()), from_seq, to_seq };
            self.say(&stream.origin, stream.lane, Told::Want(want));
        }
        self.bring(&region(B), stream, 0);
    }
}

impl Link {
    fn say(&self, frame: Told) {
        // Who does not read any more is gone, and comes again.
        self.out.try_send(Ok(LinkResponse { frame: Some(frame) })).ok();
    }
}

#[tonic::async_trait]
impl ExchangeService for Service {
    type LinkStream = ReceiverStream<Result<LinkResponse, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let (out, answers) = mpsc::channel(1_024);
        let (state, requests) = (self.0.clone(), request.into_inner());
        self.1.lock().unwrap().spawn(async move {
            state.serve(requests, out).await;
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn fetch(
        &self,
        _request: Request<pb::FetchRequest>,
    ) -> Result<Response<pb::FetchResponse>, Status> {
        // Regions that have a link fetch nothing.
        Ok(Response::new(Default::default()))
    }

    async fn refresh(
        &self,
        _request: Request<pb::RefreshRequest>,
    ) -> Result<Response<pb::RefreshResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}
