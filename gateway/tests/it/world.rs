//! A linkage with three regions and a gateway, and a region's end of a link.

use bytes::Bytes;
use domain::agreement::{Agreement, AgreementForm, Clause, Force, Grant, Party, Release};
use domain::directory::{Directory, Gateway as ListedGateway, Region, RegionLevel};
use domain::freshness::TrustMark;
use domain::kernel::{
    AgreementId, Clock as _, Entropy as _, Epoch, GatewayId, Lane, LinkageId, Purpose, Reason,
    RegionId, Timestamp,
};
use domain::outline::Outline;
use domain::stream::{Position, StreamId};
use gateway::{Config, Gateway, ServerError};
use prost::Message as _;
use proto::convert;
use proto::directory::v1::{DirectoryKey, TrustSet};
use proto::exchange::v1 as pb;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use proto::exchange::v1::link_request::Frame as Request;
use proto::exchange::v1::link_response::Frame;
use proto::kernel::v1::SignedObject;
use proto::link::{Assembler, LINK_PROTOCOL, pieces};
use runtime::Shutdown;
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::data_dir::DataDir;
use runtime::identity::{Identity, Owner};
use runtime::pki::{Authority, IssuedKey, Validity};
use runtime::tls::{Anchor, ClientTls};
use seal::key::{SealingKey, SigningKey, key_fingerprint, sha256};
use seal::segment::{Range, SaltedEntry, Sealed, Segment};
use seal::signed::{Hello, Receipt};
use seal::{signed, tag, trust};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Longest any awaited thing in a test may take.
const SOON: Duration = Duration::from_secs(10);
/// All that a test may send on a lane.
pub(crate) const PLENTY: u32 = 64 * 1_024 * 1_024;
/// Lanes of the links in these tests.
pub(crate) const LANES: &[Lane] = &[Lane::Alert, Lane::Routine];

pub(crate) async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

pub(crate) fn region(slug: &str) -> RegionId {
    RegionId::parse(slug).unwrap()
}

fn linkage() -> LinkageId {
    LinkageId::parse("wuling").unwrap()
}

fn gateway_id() -> GatewayId {
    GatewayId::parse("gw1").unwrap()
}

/// The keys of one region.
pub(crate) struct Keys {
    pub(crate) signing: SigningKey,
    sealing: SealingKey,
    authority: Authority,
}

/// The regions `a`, `b` and `c`, and the data folder of a gateway.
pub(crate) struct World {
    dir: TempDir,
    pub(crate) regions: BTreeMap<RegionId, Keys>,
    gateway_certificate: Vec<u8>,
}

impl World {
    pub(crate) fn new() -> Self {
        runtime::tls::install_provider();
        let validity = Validity::days(now(), 365);
        let authority = |owner: Owner| Authority::create(&linkage(), &owner, validity).unwrap();
        let keys = |id: &RegionId| Keys {
            signing: SigningKey::generate(&SystemEntropy),
            sealing: SealingKey::generate(),
            authority: authority(Owner::Region(id.clone())),
        };
        let regions: BTreeMap<_, _> =
            ["a", "b", "c"].map(|slug| (region(slug), keys(&region(slug)))).into();
        let dir = tempfile::tempdir().unwrap();
        let own = authority(Owner::Gateway(gateway_id()));
        let world = Self { dir, regions, gateway_certificate: own.certificate_der().to_vec() };
        drop(DataDir::open(&world.data(), gateway::FORMAT).unwrap());
        world.write("gateway/authority.crt", own.certificate_pem().as_bytes());
        world.write("gateway/authority.key", own.key_pem().expose().as_bytes());
        world.write_trust();
        world
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.data().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn write_trust(&self) {
        let (root, key) =
            (SigningKey::generate(&SystemEntropy), SigningKey::generate(&SystemEntropy));
        let vouched = DirectoryKey {
            linkage_id: linkage().to_string(),
            key: Bytes::copy_from_slice(&key.public()),
            create_time: Some(convert::kernel::encode_time(now().plus_days(-1))),
            expire_time: Some(convert::kernel::encode_time(now().plus_days(89))),
        };
        let sign = |tag, body: Bytes, key| signed::sign(tag, body, trust::AUTHORITY, key);
        let directory = convert::directory::encode(&self.directory());
        self.write("trust/root.pub", &root.public());
        let set = TrustSet {
            directory_key: Some(sign(tag::DIRECTORY_KEY, vouched.encode_to_vec().into(), &root)),
            directory: Some(sign(tag::DIRECTORY, directory, &key)),
            freshness: None,
            delegated: Vec::new(),
        };
        self.write("trust/linkage.signed", &set.encode_to_vec());
    }

    fn directory(&self) -> Directory {
        let listed = self.regions.iter().map(|(id, keys)| Region {
            region_id: id.clone(),
            level: RegionLevel::County,
            codes: Vec::new(),
            name_zh: id.to_string(),
            name_en: id.to_string(),
            superior: None,
            signing_key: keys.signing.public(),
            sealing_key: keys.sealing.public(),
            authority_certificate: keys.authority.certificate_der().to_vec(),
            endpoint: String::new(),
            outline: Outline::default(),
            former_keys: Vec::new(),
        });
        let gateway = ListedGateway {
            gateway_id: gateway_id(),
            authority_certificate: self.gateway_certificate.clone(),
            endpoint: "localhost:7444".to_owned(),
        };
        Directory {
            linkage_id: linkage(),
            version: 1,
            created_at: now(),
            regions: listed.map(|region| (region.region_id.clone(), region)).collect(),
            gateways: [(gateway_id(), gateway)].into(),
            freshness_key: None,
            delegations: Default::default(),
        }
    }

    pub(crate) fn config(&self) -> Config {
        Config::new(gateway_id(), self.data(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    pub(crate) async fn bind(&self, config: Config) -> Result<Gateway, ServerError> {
        Gateway::bind(config, Arc::new(SystemClock), Arc::new(SystemEntropy)).await
    }

    /// Starts the gateway.
    pub(crate) async fn serve(&self) -> Serving {
        self.serve_with(self.config()).await
    }

    /// Starts the gateway with other limits.
    pub(crate) async fn serve_with(&self, config: Config) -> Serving {
        let gateway = self.bind(config).await.unwrap();
        let (addr, shutdown) = (gateway.addr(), Shutdown::new());
        let mut task = JoinSet::new();
        task.spawn(gateway.serve(shutdown.clone()));
        Serving { addr, shutdown, task }
    }

    /// An agreement of these regions, signed by all of them.
    pub(crate) fn agree(&self, parties: &[&str]) -> (AgreementId, SignedObject) {
        let parties: Vec<_> = parties.iter().map(|slug| region(slug)).collect();
        let pinned = |id: &RegionId| Party {
            region: id.clone(),
            signing_key_sha256: key_fingerprint(&self.regions[id].signing.public()),
        };
        let agreement = Agreement {
            agreement_id: AgreementId::mint(now(), &SystemEntropy),
            version: 1,
            form: AgreementForm::Agreement,
            title: "平安边界".to_owned(),
            parties: parties.iter().map(pinned).collect(),
            clauses: vec![Clause::whole(Grant::Sos, Release::AtOnce)],
            purposes: vec![Purpose::Duty],
            started_at: now().plus_days(-1),
            ended_at: now().plus_days(30),
            retention_days: None,
            force: Force::InForce,
            supersedes: None,
            sha256: [0; 32],
        };
        let body = convert::agreement::encode(&agreement);
        let mut object = SignedObject { body, signatures: Vec::new() };
        for id in &parties {
            let key = &self.regions[id].signing;
            signed::add_signature(&mut object, tag::AGREEMENT, id.as_str(), key);
        }
        (agreement.agreement_id, object)
    }

    /// What the authority of `signer` signs in the name of `identity`.
    pub(crate) fn certificate(&self, signer: &str, identity: &str) -> IssuedKey {
        let identity = Identity::Region(region(identity));
        let authority = &self.regions[&region(signer)].authority;
        authority.issue_server(&linkage(), &identity, &[], &[], Validity::days(now(), 7)).unwrap()
    }

    /// A client that shows this certificate.
    pub(crate) fn client(
        &self,
        addr: SocketAddr,
        own: Option<&IssuedKey>,
    ) -> ExchangeServiceClient<Channel> {
        let anchor = Anchor::Certificate(&self.gateway_certificate);
        let tls = ClientTls::new(&linkage(), Identity::Gateway(gateway_id()), anchor, own).unwrap();
        let limits = runtime::channel::Limits::PEER;
        let channel = runtime::channel::channel(&addr.to_string(), tls, limits).unwrap();
        ExchangeServiceClient::new(channel).max_decoding_message_size(2 * 1_024 * 1_024)
    }

    /// Reads what the gateway holds of a stream, as a party without a link.
    pub(crate) async fn fetch(
        &self,
        addr: SocketAddr,
        party: &str,
        stream: &StreamId,
    ) -> pb::FetchResponse {
        let mut client = self.client(addr, Some(&self.certificate(party, party)));
        let request =
            pb::FetchRequest { stream: Some(stream.into()), from_seq: 1, ..Default::default() };
        in_time(client.fetch(request)).await.unwrap().into_inner()
    }

    /// Calls with this certificate and takes the challenge.
    pub(crate) async fn dial(
        &self,
        addr: SocketAddr,
        own: Option<&IssuedKey>,
    ) -> Result<Dialled, tonic::Status> {
        let (out, requests) = mpsc::channel(1_024);
        let mut client = self.client(addr, own);
        let answered = in_time(client.link(ReceiverStream::new(requests))).await?;
        let mut inbound = answered.into_inner();
        let first = in_time(inbound.message()).await?.and_then(|frame| frame.frame);
        let Some(Frame::Challenge(challenge)) = first else { panic!("no challenge: {first:?}") };
        assert_eq!(challenge.gateway_id, gateway_id().as_str());
        let nonce = challenge.nonce.as_ref().try_into().unwrap();
        let link = Link {
            out,
            inbound,
            assembler: Assembler::new(sha256),
            kept: VecDeque::new(),
            welcome: pb::Welcome::default(),
        };
        Ok(Dialled { nonce, link })
    }

    /// The hello of a region that has applied this much.
    pub(crate) fn hello(&self, slug: &str, nonce: [u8; 32], applied: &[At<'_>]) -> Hello {
        Hello {
            region: region(slug),
            nonce,
            gateway: gateway_id(),
            protocol: LINK_PROTOCOL,
            lanes: LANES.to_vec(),
            applied: applied.iter().map(|(stream, at)| ((*stream).clone(), *at)).collect(),
            software: "test".to_owned(),
            // As the gateway does, so that it has nothing to tell.
            trust: TrustMark { directory_version: 1, ..TrustMark::default() },
            agreements: Vec::new(),
            takes_proposals: false,
        }
    }

    /// An open link of a region that has applied this much, and takes nothing yet.
    pub(crate) async fn open(&self, addr: SocketAddr, slug: &str, applied: &[At<'_>]) -> Link {
        let own = self.certificate(slug, slug);
        let dialled = self.dial(addr, Some(&own)).await.unwrap();
        let hello = self.hello(slug, dialled.nonce, applied);
        dialled.enter(hello.sign(&self.regions[&region(slug)].signing)).await
    }

    /// An open link of a region that has applied this much, and takes whatever comes.
    pub(crate) async fn link(&self, addr: SocketAddr, slug: &str, applied: &[At<'_>]) -> Link {
        let link = self.open(addr, slug, applied).await;
        link.grant_all().await;
        link
    }

    /// The same of a region that takes proposals.
    pub(crate) async fn taking(&self, addr: SocketAddr, slug: &str) -> Link {
        let own = self.certificate(slug, slug);
        let dialled = self.dial(addr, Some(&own)).await.unwrap();
        let hello = Hello { takes_proposals: true, ..self.hello(slug, dialled.nonce, &[]) };
        dialled.enter(hello.sign(&self.regions[&region(slug)].signing)).await
    }

    /// A receipt that a region signs.
    pub(crate) fn receipt(
        &self,
        slug: &str,
        stream: &StreamId,
        position: Position,
    ) -> SignedObject {
        let receipt = Receipt {
            stream: stream.clone(),
            position,
            party: region(slug),
            created_at: now(),
            parked: Vec::new(),
            parked_count: 0,
        };
        receipt.sign(&self.regions[&region(slug)].signing)
    }
}

/// A place in a stream.
pub(crate) type At<'a> = (&'a StreamId, Position);

/// A gateway that runs.
pub(crate) struct Serving {
    pub(crate) addr: SocketAddr,
    shutdown: Shutdown,
    task: JoinSet<Result<(), ServerError>>,
}

impl Serving {
    /// Stops it in order.
    pub(crate) async fn stop(mut self) {
        self.shutdown.stop();
        in_time(self.task.join_next()).await.unwrap().unwrap().unwrap();
    }
}

/// A call that was challenged.
pub(crate) struct Dialled {
    pub(crate) nonce: [u8; 32],
    pub(crate) link: Link,
}

impl Dialled {
    /// Says hello, which must be welcome.
    pub(crate) async fn enter(self, hello: SignedObject) -> Link {
        let mut link = self.link;
        link.send(Request::Hello(hello)).await;
        link.welcome = link
            .wait(
                |got| if let Got::Frame(Frame::Welcome(w)) = got { Some(w.clone()) } else { None },
            )
            .await;
        link
    }

    /// Says something that must be refused; gives the reason.
    pub(crate) async fn refused(self, first: Request) -> Reason {
        let mut link = self.link;
        link.send(first).await;
        let reason = link.fatal().await;
        link.ended().await;
        reason
    }
}

/// What came over a link.
#[derive(Clone, Debug)]
pub(crate) enum Got {
    /// A whole segment.
    Segment(Bytes),
    /// Any other frame.
    Frame(Frame),
}

/// A region's end of a link.
pub(crate) struct Link {
    out: mpsc::Sender<pb::LinkRequest>,
    inbound: tonic::Streaming<pb::LinkResponse>,
    assembler: Assembler,
    /// What came and nobody has waited for yet.
    kept: VecDeque<Got>,
    pub(crate) welcome: pb::Welcome,
}

impl Link {
    pub(crate) async fn send(&self, frame: Request) {
        in_time(self.out.send(pb::LinkRequest { frame: Some(frame) })).await.unwrap();
    }

    pub(crate) async fn grant(&self, lane: Lane, size: u32) {
        self.send(Request::Credit(pb::Credit { lane: lane.code(), size })).await;
    }

    pub(crate) async fn grant_all(&self) {
        for lane in LANES {
            self.grant(*lane, PLENTY).await;
        }
    }

    /// Sends a segment, however it was sealed.
    pub(crate) async fn segment(&self, lane: Lane, sealed: &Sealed) {
        let bytes = Bytes::copy_from_slice(&sealed.bytes);
        for piece in pieces(&bytes, sealed.segment_id, lane, 0) {
            self.send(Request::Piece(piece)).await;
        }
    }

    /// Sends a segment and waits until it is on disk.
    pub(crate) async fn store(&mut self, stream: &StreamId, sealed: &Sealed) {
        self.segment(stream.lane, sealed).await;
        self.stored(stream, sealed.after).await;
    }

    /// Waits until the gateway says that a stream is on disk up to here.
    pub(crate) async fn stored(&mut self, stream: &StreamId, at: Position) {
        let expected = pb::StreamPosition::from((stream, at));
        self.wait(|got| match got {
            Got::Frame(Frame::Stored(stored)) => (*stored == expected).then_some(()),
            _ => None,
        })
        .await;
    }

    /// The next thing that is no sign of life and no credit; `None` at the end.
    async fn pull(&mut self) -> Option<Got> {
        loop {
            let frame = in_time(self.inbound.message()).await.ok()??.frame?;
            match frame {
                Frame::Credit(_) => {}
                Frame::Ping(ping) if ping.reply => {}
                Frame::Ping(ping) => {
                    let reply = pb::Ping { reply: true, token: ping.token };
                    self.send(Request::Ping(reply)).await;
                }
                Frame::Piece(piece) => {
                    if let Some((_, segment)) = self.assembler.take(piece).unwrap() {
                        return Some(Got::Segment(segment));
                    }
                }
                other => return Some(Got::Frame(other)),
            }
        }
    }

    /// Waits for something; what else comes is kept for later.
    pub(crate) async fn wait<T>(&mut self, wanted: impl Fn(&Got) -> Option<T>) -> T {
        if let Some(at) = self.kept.iter().position(|got| wanted(got).is_some()) {
            return self.kept.remove(at).as_ref().and_then(&wanted).unwrap();
        }
        loop {
            let got = in_time(self.pull()).await;
            let got = got.unwrap_or_else(|| panic!("the link ended; kept: {:?}", self.kept));
            if let Some(found) = wanted(&got) {
                return found;
            }
            self.kept.push_back(got);
        }
    }

    /// The next segment, which must be of this stream and well signed: its first and last seq.
    pub(crate) async fn next_segment(&mut self, world: &World, stream: &StreamId) -> (u64, u64) {
        let encoded = self
            .wait(|got| if let Got::Segment(segment) = got { Some(segment.clone()) } else { None })
            .await;
        let segment = Segment::parse(encoded).unwrap();
        segment.verify(&world.regions[&stream.origin].signing.public()).unwrap();
        assert_eq!(segment.stream(), stream);
        (segment.before().seq + 1, segment.after().seq)
    }

    /// The receipt of a party, which must be good: how far it is.
    pub(crate) async fn next_receipt(
        &mut self,
        world: &World,
        party: &str,
    ) -> (StreamId, Position) {
        let public = world.regions[&region(party)].signing.public();
        let receipt = self
            .wait(|got| match got {
                Got::Frame(Frame::Receipt(object)) => Receipt::verify(object, &public).ok(),
                _ => None,
            })
            .await;
        (receipt.stream, receipt.position)
    }

    /// The next refusal that leaves the link open.
    pub(crate) async fn refusal(&mut self) -> (Reason, Option<StreamId>) {
        let refusal = self
            .wait(|got| match got {
                Got::Frame(Frame::Refusal(refusal)) => Some(refusal.clone()),
                _ => None,
            })
            .await;
        assert!(!refusal.fatal, "{refusal:?}");
        let stream = refusal.stream.map(|stream| StreamId::try_from(stream).unwrap());
        (Reason::try_from(refusal.reason).unwrap(), stream)
    }

    /// The refusal that closes the link.
    pub(crate) async fn fatal(&mut self) -> Reason {
        let reason = self
            .wait(|got| match got {
                Got::Frame(Frame::Refusal(refusal)) if refusal.fatal => Some(refusal.reason),
                _ => None,
            })
            .await;
        Reason::try_from(reason).unwrap()
    }

    /// What the gateway wants again of a stream: from where and up to where.
    pub(crate) async fn want(&mut self, stream: &StreamId) -> (u64, u64) {
        let stream = pb::StreamId::from(stream);
        self.wait(|got| match got {
            Got::Frame(Frame::Want(want)) if want.stream.as_ref() == Some(&stream) => {
                Some((want.from_seq, want.to_seq))
            }
            _ => None,
        })
        .await
    }

    /// Waits for the end of the link, and answers nothing meanwhile.
    pub(crate) async fn ended_in_silence(&mut self) {
        while let Ok(Some(_)) = in_time(self.inbound.message()).await {}
    }

    /// Waits for the end of the link.
    pub(crate) async fn ended(&mut self) {
        while self.pull().await.is_some() {}
    }

    /// The next agreement version that the link is told of.
    pub(crate) async fn next_agreement(&mut self) -> SignedObject {
        let agreement = |got: &Got| match got {
            Got::Frame(Frame::Agreement(signed)) => Some(signed.clone()),
            _ => None,
        };
        self.wait(agreement).await
    }

    /// Agreement versions of which the link is told before the answer to a ping.
    pub(crate) async fn agreements_until_pong(&mut self) -> Vec<Got> {
        let came = self.all_until_pong().await.into_iter();
        came.filter(|got| matches!(got, Got::Frame(Frame::Agreement(_)))).collect()
    }

    /// The next proposal that the link is shown.
    pub(crate) async fn next_proposal(&mut self) -> SignedObject {
        let proposal = |got: &Got| match got {
            Got::Frame(Frame::Proposal(signed)) => Some(signed.clone()),
            _ => None,
        };
        self.wait(proposal).await
    }

    /// Proposals that the link is shown before the answer to a ping.
    pub(crate) async fn proposals_until_pong(&mut self) -> Vec<Got> {
        let came = self.all_until_pong().await.into_iter();
        came.filter(|got| matches!(got, Got::Frame(Frame::Proposal(_)))).collect()
    }

    /// Everything that came before the answer to a ping, but for what the link was told of agreements.
    pub(crate) async fn until_pong(&mut self) -> Vec<Got> {
        let came = self.all_until_pong().await.into_iter();
        came.filter(|got| !matches!(got, Got::Frame(Frame::Agreement(_)))).collect()
    }

    async fn all_until_pong(&mut self) -> Vec<Got> {
        const TOKEN: u64 = 7_777;
        self.send(Request::Ping(pb::Ping { reply: false, token: TOKEN })).await;
        let mut came: Vec<_> = self.kept.drain(..).collect();
        loop {
            let frame = in_time(self.inbound.message()).await.unwrap().unwrap().frame.unwrap();
            match frame {
                Frame::Ping(ping) if ping.reply && ping.token == TOKEN => return came,
                Frame::Ping(_) | Frame::Credit(_) => {}
                Frame::Piece(piece) => {
                    let whole = self.assembler.take(piece).unwrap();
                    came.extend(whole.map(|(_, segment)| Got::Segment(segment)));
                }
                other => came.push(Got::Frame(other)),
            }
        }
    }
}

/// A stream as its origin writes it.
pub(crate) struct Writer<'a> {
    world: &'a World,
    pub(crate) stream: StreamId,
    parties: Vec<RegionId>,
    entries: Vec<SaltedEntry>,
    /// Where the chain stands after each entry, from 0.
    positions: Vec<Position>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        world: &'a World,
        origin: &str,
        agreement: AgreementId,
        parties: &[&str],
        lane: Lane,
    ) -> Self {
        let stream = StreamId {
            origin: region(origin),
            epoch: Epoch::mint(now(), &SystemEntropy),
            agreement,
            version: 1,
            lane,
        };
        let positions = vec![seal::chain::start(&stream)];
        let parties = parties.iter().map(|slug| region(slug)).collect();
        Self { world, stream, parties, entries: Vec::new(), positions }
    }

    /// Writes under the name of another stream from its start: a clone of its origin would.
    pub(crate) fn restart_as(&mut self, stream: StreamId) {
        self.positions = vec![seal::chain::start(&stream)];
        self.entries.clear();
        self.stream = stream;
    }

    /// Where the stream stands.
    pub(crate) fn last(&self) -> Position {
        *self.positions.last().unwrap()
    }

    /// Where the stream stood after so many entries.
    pub(crate) fn at(&self, seq: u64) -> Position {
        self.positions[usize::try_from(seq).unwrap()]
    }

    /// Writes so many entries of this size, sealed in one segment.
    pub(crate) fn write(&mut self, count: usize, size: usize) -> Sealed {
        let from_seq = self.last().seq + 1;
        for _ in 0..count {
            let (mut salt, mut entry) = ([0; 16], vec![0; size]);
            SystemEntropy.fill(&mut salt);
            SystemEntropy.fill(&mut entry);
            let salted = SaltedEntry { salt, entry: entry.into() };
            self.positions.push(seal::chain::extend(self.last(), &salted.commitment()));
            self.entries.push(salted);
        }
        self.seal(from_seq, self.last().seq)
    }

    /// Seals a range, again or for the first time.
    pub(crate) fn seal(&self, from_seq: u64, to_seq: u64) -> Sealed {
        self.seal_with(from_seq, to_seq, &self.world.regions[&self.stream.origin].signing)
    }

    /// Seals a range with any key.
    pub(crate) fn seal_with(&self, from_seq: u64, to_seq: u64, key: &SigningKey) -> Sealed {
        let index = |seq: u64| usize::try_from(seq).unwrap();
        let range = Range {
            stream: &self.stream,
            before: self.at(from_seq - 1),
            entries: &self.entries[index(from_seq) - 1..index(to_seq)],
            expires_at: now().plus_days(30),
        };
        let public = |id: &RegionId| (id.clone(), self.world.regions[id].sealing.public());
        let parties: Vec<_> = self.parties.iter().map(public).collect();
        seal::segment::seal(range, key, &parties, &SystemEntropy).unwrap()
    }
}
