//! A region that is made by hand: it has the keys and the certificate of a real one, and says what it is told.

use super::{Reason, region};
use crate::doors::{linkage, read_authority};
use crate::explain::report;
use crate::harness::{A, ARRIVES, B, COUNTY, World, converged_with, event, states, until, views};
use bytes::Bytes;
use domain::agreement::Agreement;
use domain::kernel::{Clock as _, Epoch, Lane, RecordId, RegionId, Role};
use domain::operation::Change;
use domain::stream::{Position, StreamId};
use prost::Message as _;
use proto::convert::entry;
use proto::exchange::v1 as pb;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use proto::exchange::v1::link_request::Frame as Say;
use proto::exchange::v1::link_response::Frame as Told;
use proto::kernel::v1::{Revision, SignedObject};
use proto::link::{CREDIT_BYTES_MAX, LINK_PROTOCOL, pieces};
use runtime::channel::{Limits, channel};
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::identity::Identity;
use runtime::pki::Validity;
use runtime::tls::{Anchor, ClientTls};
use seal::key::{SigningKey, sha256};
use seal::segment::{Range, SaltedEntry, segment_id};
use seal::signed::{Head, Hello, Receipt};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

const LANES: [Lane; 2] = [Lane::Alert, Lane::Routine];
/// Longest wait for a gateway's word.
const SOON: Duration = Duration::from_secs(20);

/// A region's end of a link, without any honesty.
pub(super) struct Double {
    region: RegionId,
    key: SigningKey,
    channel: Channel,
    out: mpsc::Sender<pb::LinkRequest>,
    inbound: Streaming<pb::LinkResponse>,
}

impl Double {
    /// Dials as a region whose server does not run.
    pub(super) async fn open(world: &World, id: &str) -> Self {
        let folder = world.path("a/regions").join(id);
        let own = Identity::Region(region(id));
        let validity = Validity::days(SystemClock.now(), 7);
        let certificate =
            read_authority(&folder).issue_server(&linkage(), &own, &[], &[], validity).unwrap();
        let authority = read_authority(&world.path("gateway/gateway"));
        let anchor = Anchor::Certificate(authority.certificate_der());
        let gateway = Identity::Gateway("gateway-1".parse().unwrap());
        let tls = ClientTls::new(&linkage(), gateway, anchor, Some(&certificate)).unwrap();
        let endpoint = format!("127.0.0.1:{}", world.gateway.port);
        let channel = channel(&endpoint, tls, Limits::PEER).unwrap();
        let (out, requests) = mpsc::channel(1_024);
        let mut service = ExchangeServiceClient::new(channel.clone());
        let answer = service.link(ReceiverStream::new(requests)).await.unwrap();
        let key = std::fs::read(folder.join("signing.key")).unwrap();
        let key = SigningKey::from_seed(&key.try_into().unwrap());
        let inbound = answer.into_inner();
        let mut double = Self { region: region(id), key, channel, out, inbound };
        let Told::Challenge(challenge) = double.next().await.unwrap() else {
            panic!("a challenge")
        };
        let hello = Hello {
            region: double.region.clone(),
            nonce: challenge.nonce.as_ref().try_into().unwrap(),
            gateway: "gateway-1".parse().unwrap(),
            protocol: LINK_PROTOCOL,
            lanes: LANES.to_vec(),
            applied: Vec::new(),
            software: "double".to_owned(),
            trust: Default::default(),
            agreements: Vec::new(),
            takes_proposals: false,
        };
        double.say(Say::Hello(hello.sign(&double.key))).await;
        assert!(matches!(double.next().await, Some(Told::Welcome(_))));
        for lane in LANES {
            let credit = pb::Credit { lane: lane.code(), size: CREDIT_BYTES_MAX };
            double.say(Say::Credit(credit)).await;
        }
        double
    }

    pub(super) async fn say(&self, frame: Say) {
        // A gateway that has closed the link takes no more, and that is what is looked at.
        self.out.send(pb::LinkRequest { frame: Some(frame) }).await.ok();
    }

    async fn segment(&self, lane: Lane, bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        for piece in pieces(&bytes, segment_id(&bytes), lane, 0) {
            self.say(Say::Piece(piece)).await;
        }
    }

    async fn next(&mut self) -> Option<Told> {
        let answer = tokio::time::timeout(SOON, self.inbound.message()).await.expect("in time");
        answer.ok()??.frame
    }

    /// The next refusal, and whether it ends the link.
    async fn refused(&mut self) -> (Reason, bool) {
        loop {
            match self.next().await.expect("the link is open") {
                Told::Refusal(refusal) => {
                    return (Reason::try_from(refusal.reason).unwrap(), refusal.fatal);
                }
                Told::Ping(ping) if !ping.reply => {
                    self.say(Say::Ping(pb::Ping { reply: true, token: ping.token })).await;
                }
                _ => {}
            }
        }
    }

    /// The newest receipt of a party that reaches so far.
    async fn receipt(&mut self, party: &str, key: &[u8; 32], seq: u64) -> Receipt {
        loop {
            if let Told::Receipt(object) = self.next().await.expect("the link is open")
                && let Ok(receipt) = Receipt::verify(&object, key)
                && receipt.party.as_str() == party
                && receipt.position.seq == seq
            {
                return receipt;
            }
        }
    }
}

/// An agreement of a region with another, as it lies in its folder.
fn agreement(world: &World, with: &str) -> (Agreement, SignedObject) {
    let files = std::fs::read_dir(world.path("a/regions").join(A).join("agreements")).unwrap();
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let object = SignedObject::decode(&*std::fs::read(file.unwrap().path()).unwrap()).unwrap();
        let found = proto::convert::agreement::decode(&object.body, sha256(&object.body));
        (found.unwrap(), object)
    };
    files.map(read).find(|(found, _)| found.has_party(&region(with))).unwrap()
}

fn stream(origin: &str, agreement: &Agreement, lane: Lane) -> StreamId {
    StreamId {
        origin: region(origin),
        epoch: Epoch::mint(SystemClock.now(), &SystemEntropy),
        agreement: agreement.agreement_id,
        version: agreement.version,
        lane,
    }
}

/// Seals entries to all parties, with whatever key.
fn sealed(
    world: &World,
    stream: &StreamId,
    before: Position,
    entries: &[Bytes],
    agreement: &Agreement,
    key: &SigningKey,
) -> (Vec<u8>, Position) {
    let directory = cli::linkage::read_directory(&world.path("a"), SystemClock.now()).unwrap();
    let parties: Vec<_> = agreement
        .parties
        .iter()
        .map(|party| (party.region.clone(), directory.regions[&party.region].sealing_key))
        .collect();
    let salted = |entry: &Bytes| SaltedEntry { salt: [7; 16], entry: entry.clone() };
    let entries: Vec<_> = entries.iter().map(salted).collect();
    let expires_at = SystemClock.now().plus_days(1);
    let range = Range { stream, before, entries: &entries, expires_at };
    let sealed = seal::segment::seal(range, key, &parties, &SystemEntropy).unwrap();
    (sealed.bytes, sealed.after)
}

/// A record of this region is no longer shown: usable where the region is the stream's origin.
fn leave(of: &str) -> Bytes {
    let now = SystemClock.now();
    let epoch = Epoch::mint(now, &SystemEntropy);
    let leave = pb::Leave {
        record_id: RecordId::mint(now, &SystemEntropy).as_bytes().to_vec().into(),
        kind: domain::kernel::Kind::Event.code(),
        birth_region: of.to_owned(),
        revision: Some(Revision { t: 0, epoch: epoch.as_bytes().to_vec().into(), n: 1 }),
        share_n: 1,
        reason: pb::LeaveReason::Category.into(),
        transfers: Vec::new(),
    };
    pb::Entry { entry: Some(pb::entry::Entry::Leave(leave)) }.encode_to_vec().into()
}

fn logged(world: &World, reason: Reason) -> usize {
    let log = world.gateway.log_text();
    log.lines().filter(|line| line.contains(reason.name())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_speaks_for_others_reads_too_much_or_floods_is_refused_by_name() {
    let mut world = World::start().await;
    let mut phone = world.enrol(B, Role::Patroller, "phone").await;
    let (terms, signed) = agreement(&world, B);
    let (charter, _) = agreement(&world, COUNTY);
    world.a.stop().await;

    // In B's name: a segment, a receipt, a head.
    let of_b = stream(B, &terms, Lane::Routine);
    let mut double = Double::open(&world, A).await;
    double.say(Say::Agreement(signed.clone())).await;
    let start = seal::chain::start(&of_b);
    let (segment, position) = sealed(&world, &of_b, start, &[leave(B)], &terms, &double.key);
    let (created_at, key) = (SystemClock.now(), &double.key);
    let (parked, parked_count) = (Vec::new(), 0);
    let of_a = stream(A, &terms, Lane::Routine);
    let receipt =
        Receipt { stream: of_a, position, party: region(B), created_at, parked, parked_count };
    let receipt = receipt.sign(key);
    double.say(Say::Receipt(receipt)).await;
    assert_eq!(double.refused().await, (Reason::NotAParty, false));
    double.segment(Lane::Routine, segment).await;
    assert_eq!(double.refused().await, (Reason::ProtocolViolation, true));
    let mut double = Double::open(&world, A).await;
    let head = Head { stream: of_b.clone(), position, created_at }.sign(&double.key);
    double.say(Say::Head(head)).await;
    assert_eq!(double.refused().await, (Reason::NotAParty, false));

    // What was agreed with others, and its own.
    drop(double);
    let mut double = Double::open(&world, COUNTY).await;
    for foreign in [&of_b, &stream(COUNTY, &charter, Lane::Alert)] {
        let stream = Some(foreign.into());
        double.say(Say::Want(pb::Want { stream, from_seq: 1, to_seq: 0 })).await;
        assert_eq!(double.refused().await, (Reason::NotAParty, false));
    }
    let mut service = ExchangeServiceClient::new(double.channel.clone());
    let request =
        pb::FetchRequest { stream: Some((&of_b).into()), from_seq: 1, ..Default::default() };
    let status = service.fetch(request).await.unwrap_err();
    assert_eq!(crate::doors::reason(&status), Reason::NotAParty.name());

    // More than it has credit for; and more that is bad than a link bears.
    double.segment(Lane::Bulk, vec![7; 100_000]).await;
    assert_eq!(double.refused().await, (Reason::ProtocolViolation, true));
    let mut double = Double::open(&world, COUNTY).await;
    for _ in 0..40 {
        double.segment(Lane::Routine, vec![7; 100]).await;
    }
    let mut refusals = 0;
    while !matches!(double.refused().await, (Reason::LimitExceeded, true)) {
        refusals += 1;
    }
    assert!(refusals <= 17, "{refusals} bad frames were borne");
    for reason in [Reason::NotAParty, Reason::ProtocolViolation, Reason::LimitExceeded] {
        assert!(logged(&world, reason) > 0, "the gateway does not name {reason:?}");
    }

    // The others have noticed nothing, and the region itself is welcome once it behaves.
    world.a.restart().await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    report(&mut phone, Change::ReportEvent(event("from B"))).await;
    until("it arrives", ARRIVES, async || views(desk.channel()).await == 1).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_region_writes_and_nobody_can_use_is_parked_by_name_and_stops_nothing() {
    let mut world = World::start().await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let (terms, signed) = agreement(&world, B);
    let directory = cli::linkage::read_directory(&world.path("b"), SystemClock.now()).unwrap();
    world.a.stop().await;
    let mut double = Double::open(&world, A).await;
    double.say(Say::Agreement(signed)).await;
    let poisoned = stream(A, &terms, Lane::Routine);
    let unreadable = Bytes::from_static(b"\xff\xff\xff\xff");
    let entries = [
        entry::encode_start(&terms.sha256, None, &[]),
        unreadable.clone(),
        pb::Entry { entry: None }.encode_to_vec().into(),
        leave(B),
        entry::encode_start(&terms.sha256, None, &[]),
        leave(A),
    ];
    let start = seal::chain::start(&poisoned);
    let (segment, after) = sealed(&world, &poisoned, start, &entries, &terms, &double.key);
    double.segment(Lane::Routine, segment).await;
    let receipt = double.receipt(B, &directory.regions[&region(B)].signing_key, after.seq).await;
    let reason = |bytes: &Bytes| entry::decode(bytes.clone()).unwrap_err();
    let parked = [
        (2, reason(&unreadable)),
        (3, reason(&entries[2])),
        (4, Reason::NotTheOwner),
        (5, Reason::AgreementUnknown),
    ];
    let mut named = receipt.parked;
    named.sort_unstable_by_key(|(seq, _)| *seq);
    assert_eq!((named.as_slice(), receipt.parked_count), (&parked[..], 4));
    let state = states(desk.channel()).await.unwrap();
    let row = state.streams.iter().find(|row| row.parked_count > 0).expect("the officer sees it");
    assert_eq!((row.parked_count, row.applied_seq), (4, 6));

    // The streams beside it go on.
    drop(double);
    world.a.restart().await;
    report(&mut phone, Change::ReportEvent(event("good"))).await;
    let own = world.enrol(A, Role::DutyOfficer, "desk").await;
    assert_eq!(converged_with(own.channel(), desk.channel(), B, ARRIVES).await, 1);
    world.stop().await;
}
