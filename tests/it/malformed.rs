//! Goal: no bytes that come in by any door panic or stay in memory. Method: a million messages a door,
//! each a good one with something broken, taken as far as the door takes them: decoded, checked, and now
//! and then verified. In a process of its own, so that its memory is nobody else's.
//!
//! The good ones are made from the contract itself, so a new request is covered when it is written.

use crate::doors::uuid;
use crate::harness::{Dice, event, sos};
use cli::phone::fresh;
use domain::kernel::{
    AgreementId, Clock as _, Entropy as _, Epoch, Lane, RecordId, Revision, Timestamp,
};
use domain::operation::Change;
use domain::stream::StreamId;
use domain::transfer::Offer;
use prost::Message;
use prost::bytes::Bytes;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use proto::agreement::v1 as agreement;
use proto::convert::entry::Entry;
use proto::convert::transfer::{self, Word};
use proto::convert::{Path, entry};
use proto::device::v1 as device;
use proto::directory::v1 as directory;
use proto::exchange::v1 as exchange;
use proto::kernel::v1::SignedObject;
use proto::link::Assembler;
use proto::patrol::v1 as patrol;
use proto::risk::v1 as risk;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::key::{SealingKey, SigningKey, sha256};
use seal::segment::{Range, SaltedEntry, Segment};
use seal::signed::{self, Head, Hello, Receipt};
use std::process::Command;

/// Messages of each door.
const MESSAGES: u64 = 1_000_000;
/// Of so many, one is also verified: a signature costs as much as a hundred checks.
const VERIFIED_ONE_IN: u64 = 64;
const SEED: u64 = 0x5eed_0003;
/// What memory may grow by between the first tenth and the end; what a message leaves behind, a million
/// leave a million times.
const GROWTH_KIB_MAX: u64 = 8 * 1_024;

/// Takes a message as a door does; says whether it was good so far.
type Take = fn(&[u8], bool) -> bool;

/// What may come in by a door: a good message, and who takes it.
struct Sample {
    bytes: Vec<u8>,
    take: Take,
}

/// Takes a request that has no more to it than its fields.
fn plain<M: Message + Default>(bytes: &[u8], _: bool) -> bool {
    M::decode(bytes).is_ok()
}

fn push(request: device::PushRequest, verify: bool) -> bool {
    let Some(signed) = request.signed_batch else { return false };
    if verify {
        let known = [4; 65];
        // Nobody's key: it costs what a good one costs.
        let verified = seal::batch::verify(&known, &signed.batch, &signed.signature);
        assert!(verified.is_err(), "it is nobody's key");
    }
    let Ok(batch) = device::Batch::decode(signed.batch) else { return false };
    batch.operations.into_iter().all(operation)
}

fn operation(operation: device::Operation) -> bool {
    match proto::convert::operation::decode(operation, Path::ROOT) {
        Ok(operation) => domain::operation::check_texts(&operation).is_ok(),
        Err(violations) => {
            // What is said of them goes back to the sender, so it must be a text, and not long.
            assert!(violations.0.iter().all(|violation| violation.description.len() <= 512));
            false
        }
    }
}

fn enrol(bytes: &[u8], _: bool) -> bool {
    device::EnrolRequest::decode(bytes).is_ok_and(|request| {
        runtime::pki::public_key_of_request(&request.certificate_request).is_ok()
    })
}

fn sync(bytes: &[u8], verify: bool) -> bool {
    match device::SyncRequest::decode(bytes).map(|request| request.request) {
        Ok(Some(device::sync_request::Request::Push(request))) => push(request, verify),
        Ok(Some(device::sync_request::Request::Watch(_))) => true,
        Ok(None) | Err(_) => false,
    }
}

fn report(bytes: &[u8], _: bool) -> bool {
    let Ok(request) = risk::ReportEventRequest::decode(bytes) else { return false };
    request
        .event
        .is_some_and(|event| proto::convert::risk::decode(event, Path::ROOT.field("event")).is_ok())
}

fn digest(bytes: &[u8], _: bool) -> bool {
    let Ok(request) = agreement::GetStreamDigestRequest::decode(bytes) else { return false };
    request.stream.is_some_and(|stream| StreamId::try_from(stream).is_ok())
}

fn agreed(body: &[u8]) -> bool {
    proto::convert::agreement::decode(body, sha256(body)).is_ok()
}

fn fetch(bytes: &[u8], _: bool) -> bool {
    let Ok(request) = exchange::FetchRequest::decode(bytes) else { return false };
    request.stream.is_some_and(|stream| StreamId::try_from(stream).is_ok())
}

/// Who takes each request of the contract.
const TAKES: &[(&str, Take)] = &[
    ("wuling.device.v1.EnrolRequest", enrol),
    ("wuling.device.v1.PushRequest", |bytes, verify| {
        device::PushRequest::decode(bytes).is_ok_and(|request| push(request, verify))
    }),
    ("wuling.device.v1.PullRequest", plain::<device::PullRequest>),
    ("wuling.device.v1.WatchRequest", plain::<device::WatchRequest>),
    ("wuling.device.v1.SyncRequest", sync),
    ("wuling.patrol.v1.GetShiftRequest", plain::<patrol::GetShiftRequest>),
    ("wuling.patrol.v1.ListShiftsRequest", plain::<patrol::ListShiftsRequest>),
    ("wuling.patrol.v1.GetPatrolRequest", plain::<patrol::GetPatrolRequest>),
    ("wuling.patrol.v1.ListPatrolsRequest", plain::<patrol::ListPatrolsRequest>),
    ("wuling.patrol.v1.ListCheckInsRequest", plain::<patrol::ListCheckInsRequest>),
    ("wuling.patrol.v1.ListTrackBatchesRequest", plain::<patrol::ListTrackBatchesRequest>),
    ("wuling.patrol.v1.ListObservationsRequest", plain::<patrol::ListObservationsRequest>),
    ("wuling.patrol.v1.ListSosAlertsRequest", plain::<patrol::ListSosAlertsRequest>),
    ("wuling.patrol.v1.TransitionSosAlertRequest", plain::<patrol::TransitionSosAlertRequest>),
    ("wuling.risk.v1.ReportEventRequest", report),
    ("wuling.risk.v1.GetEventRequest", plain::<risk::GetEventRequest>),
    ("wuling.risk.v1.ListEventsRequest", plain::<risk::ListEventsRequest>),
    ("wuling.risk.v1.TransitionEventRequest", plain::<risk::TransitionEventRequest>),
    ("wuling.directory.v1.GetRegionRequest", plain::<directory::GetRegionRequest>),
    ("wuling.directory.v1.ListRegionsRequest", plain::<directory::ListRegionsRequest>),
    ("wuling.agreement.v1.ListAgreementsRequest", plain::<agreement::ListAgreementsRequest>),
    ("wuling.agreement.v1.WatchStreamsRequest", plain::<agreement::WatchStreamsRequest>),
    ("wuling.agreement.v1.OfferRecordRequest", plain::<agreement::OfferRecordRequest>),
    ("wuling.agreement.v1.RecallOfferRequest", plain::<agreement::RecallOfferRequest>),
    ("wuling.agreement.v1.AcceptOfferRequest", plain::<agreement::AcceptOfferRequest>),
    ("wuling.agreement.v1.ReturnOfferRequest", plain::<agreement::ReturnOfferRequest>),
    ("wuling.agreement.v1.ListTransfersRequest", plain::<agreement::ListTransfersRequest>),
    ("wuling.agreement.v1.GetStreamDigestRequest", digest),
    ("wuling.agreement.v1.ExplainRecordRequest", plain::<agreement::ExplainRecordRequest>),
    ("wuling.agreement.v1.PreviewOperationRequest", |bytes, _| {
        agreement::PreviewOperationRequest::decode(bytes)
            .is_ok_and(|request| request.operation.is_some_and(operation))
    }),
    ("wuling.agreement.v1.DryRunAgreementRequest", |bytes, _| {
        let request = agreement::DryRunAgreementRequest::decode(bytes);
        request.is_ok_and(|request| agreed(&request.agreement))
    }),
    ("wuling.agreement.v1.ProposeAgreementRequest", |bytes, _| {
        let request = agreement::ProposeAgreementRequest::decode(bytes);
        request.is_ok_and(|request| agreed(&request.agreement))
    }),
    ("wuling.agreement.v1.ListProposalsRequest", plain::<agreement::ListProposalsRequest>),
    ("wuling.agreement.v1.SignAgreementRequest", plain::<agreement::SignAgreementRequest>),
    ("wuling.agreement.v1.DeclineProposalRequest", plain::<agreement::DeclineProposalRequest>),
    ("wuling.agreement.v1.EraseRecordRequest", plain::<agreement::EraseRecordRequest>),
    ("wuling.agreement.v1.ListErasuresRequest", plain::<agreement::ListErasuresRequest>),
    ("wuling.agreement.v1.ListQuarantinedRequest", plain::<agreement::ListQuarantinedRequest>),
    (
        "wuling.agreement.v1.ReleaseQuarantinedRequest",
        plain::<agreement::ReleaseQuarantinedRequest>,
    ),
    ("wuling.agreement.v1.ExportBundleRequest", plain::<agreement::ExportBundleRequest>),
    ("wuling.agreement.v1.ImportBundleRequest", |bytes, verify| {
        agreement::ImportBundleRequest::decode(bytes).is_ok_and(|request| part(request, verify))
    }),
    ("wuling.exchange.v1.LinkRequest", |bytes, verify| {
        exchange::LinkRequest::decode(bytes).is_ok_and(|request| link_request(request, verify))
    }),
    ("wuling.exchange.v1.FetchRequest", fetch),
    ("wuling.exchange.v1.RefreshRequest", |bytes, _| {
        let request = exchange::RefreshRequest::decode(bytes);
        request.is_ok_and(|request| request.trust.is_some_and(trusted))
    }),
];

/// The bodies that a trust set carries, as if each were signed well.
fn trusted(set: directory::TrustSet) -> bool {
    let directory::TrustSet { directory_key, directory, freshness, delegated } = set;
    let key = directory_key.is_none_or(|key| directory::DirectoryKey::decode(key.body).is_ok());
    let listed =
        directory.is_none_or(|listed| proto::convert::directory::decode(&listed.body).is_ok());
    let fresh =
        freshness.is_none_or(|fresh| proto::convert::freshness::decode(&fresh.body).is_ok());
    let part =
        |part: &SignedObject| proto::convert::directory::decode_delegated(&part.body).is_ok();
    key && listed && fresh && delegated.iter().all(part)
}

fn part(request: agreement::ImportBundleRequest, verify: bool) -> bool {
    use exchange::bundle_part::Part;
    match request.part.and_then(|part| part.part) {
        Some(Part::Header(_) | Part::End(_)) => true,
        Some(Part::Agreement(object)) => agreed(&object.body),
        Some(Part::Trust(set)) => trusted(set),
        Some(Part::Segment(bytes)) => Segment::parse(bytes).is_ok(),
        Some(Part::Head(object) | Part::Receipt(object)) => object_of(&object, verify),
        None => false,
    }
}

fn link_request(request: exchange::LinkRequest, verify: bool) -> bool {
    use exchange::link_request::Frame;
    match request.frame {
        Some(Frame::Hello(object)) => object_of(&object, verify),
        Some(Frame::Agreement(object)) => agreed(&object.body),
        Some(Frame::Proposal(object)) => seal::proposal::read(&object).is_ok(),
        Some(Frame::Piece(piece)) => Assembler::new(sha256).take(piece).is_ok(),
        Some(Frame::Receipt(object) | Frame::Head(object)) => object_of(&object, verify),
        Some(Frame::Want(want)) => {
            want.stream.is_some_and(|stream| StreamId::try_from(stream).is_ok())
        }
        Some(Frame::Trust(set)) => trusted(set),
        Some(Frame::Replace(replace)) => {
            replace.stream.is_some_and(|stream| StreamId::try_from(stream).is_ok())
        }
        Some(Frame::Credit(_) | Frame::Ping(_)) => true,
        None => false,
    }
}

/// Takes a signed object for whatever it could be.
fn object_of(object: &SignedObject, verify: bool) -> bool {
    let signer = signed::signer(object).is_ok();
    if verify {
        let (public, gateway) = (key().public(), "gateway-1".parse().unwrap());
        drop(Hello::verify(object, &public, &[0; 32], &gateway));
        drop(Head::verify(object, &public));
        drop(Receipt::verify(object, &public));
    }
    signer
}

fn segment(bytes: &[u8], verify: bool) -> bool {
    let Ok(segment) = Segment::parse(bytes.to_vec().into()) else { return false };
    if verify && segment.verify(&key().public()).is_ok() {
        // Only what is signed is opened: what is inside is as its origin wrote it.
        return segment.open(&stream().origin, &sealing()).is_ok();
    }
    true
}

fn link_response(bytes: &[u8], verify: bool) -> bool {
    use exchange::link_response::Frame;
    match exchange::LinkResponse::decode(bytes).map(|response| response.frame) {
        Ok(Some(Frame::Piece(piece))) => Assembler::new(sha256).take(piece).is_ok(),
        Ok(Some(Frame::Receipt(object) | Frame::Head(object))) => object_of(&object, verify),
        Ok(Some(Frame::Proposal(object))) => seal::proposal::read(&object).is_ok(),
        Ok(Some(Frame::Stored(stored))) => {
            <(StreamId, domain::stream::Position)>::try_from(stored).is_ok()
        }
        Ok(Some(_)) => true,
        Ok(None) | Err(_) => false,
    }
}

/// Takes a word on who owns a record, down to what was signed.
fn word_of(word: Word) -> bool {
    match word {
        Word::Offer { offer, .. } => transfer::decode_offer(&offer.body).is_ok(),
        Word::Accept(accept) => transfer::decode_accept(&accept.body)
            .is_ok_and(|accept| transfer::decode_offer(&accept.offer.body).is_ok()),
        Word::Recall(_) | Word::Return(..) => true,
    }
}

/// An offer and its acceptance.
fn words() -> impl Iterator<Item = Word> {
    let (stream, now) = (stream(), SystemClock.now());
    let revision = Revision { t: 0, epoch: stream.epoch, n: 1 };
    let offer = Offer {
        record_id: RecordId::mint(now, &SystemEntropy),
        kind: domain::kernel::Kind::Event,
        birth_region: stream.origin.clone(),
        revision,
        from: stream.origin.clone(),
        to: "xianfeng".parse().unwrap(),
        agreement: stream.agreement,
        sealed_sha256: [1; 32],
        offered_at: now,
    };
    let signed = seal::transfer::sign_offer(&offer, &key());
    let signer = (&offer.to, &key());
    let accept = seal::transfer::sign_accept(signed.clone(), revision, now, signer);
    let sealed = Bytes::from_static(&[7; 300]);
    [Word::Offer { offer: signed, enc: [2; 32], sealed }, Word::Accept(accept)].into_iter()
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn sealing() -> SealingKey {
    SealingKey::from_bytes(&[9; 32])
}

fn stream() -> StreamId {
    let time = Timestamp::from_micros(1_760_000_000_000_000);
    StreamId {
        origin: "xiaonanhai".parse().unwrap(),
        epoch: Epoch::mint(time, &SystemEntropy),
        agreement: AgreementId::mint(time, &SystemEntropy),
        version: 1,
        lane: Lane::Routine,
    }
}

/// A message of this kind with every field filled; where one of several may be, the `choice`th.
fn filled(of: &MessageDescriptor, choice: usize, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        if let Some(one) = field.containing_oneof() {
            let fields: Vec<FieldDescriptor> = one.fields().collect();
            if fields[choice % fields.len()] != field {
                continue;
            }
        }
        if depth > 6 {
            continue;
        }
        let value = if field.name() == "nanos" {
            Value::I32(0)
        } else {
            match field.kind() {
                Kind::Message(of) => Value::Message(filled(&of, choice, depth + 1)),
                Kind::Enum(_) => Value::EnumNumber(1),
                Kind::String if is_slug(field.name()) => Value::String("xiaonanhai".to_owned()),
                Kind::String => Value::String("黑溪桥头落石".to_owned()),
                Kind::Bytes => Value::Bytes(uuid()),
                Kind::Bool => Value::Bool(true),
                Kind::Double => Value::F64(30.5),
                Kind::Float => Value::F32(5.5),
                Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(1),
                Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(1_782_864_000),
                Kind::Uint32 | Kind::Fixed32 => Value::U32(1),
                Kind::Uint64 | Kind::Fixed64 => Value::U64(1),
            }
        };
        let value = if field.is_list() { Value::List(vec![value.clone(), value]) } else { value };
        message.set_field(&field, value);
    }
    message
}

fn is_slug(field: &str) -> bool {
    field.contains("region") || field.ends_with("_id") || field == "origin"
}

/// Operations that are good in every way.
fn good_operations() -> Vec<device::Operation> {
    let changes = [Change::ReportEvent(event("落石")), Change::RaiseSos(sos("摔伤"))];
    changes.map(|change| device::Operation::from(&fresh(1, change))).into()
}

fn pushed(operations: Vec<device::Operation>) -> Vec<u8> {
    let batch = device::Batch {
        region_id: "xiaonanhai".to_owned(),
        device_id: uuid(),
        send_time: Some(proto::convert::kernel::encode_time(SystemClock.now())),
        operations,
    };
    let signed_batch = Some(device::SignedBatch {
        batch: batch.encode_to_vec().into(),
        signature: vec![0x30; 70].into(),
    });
    device::PushRequest { signed_batch }.encode_to_vec()
}

fn samples_of(services: &[&str], pool: &DescriptorPool) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (name, take) in TAKES.iter().copied() {
        let of = pool.get_message_by_name(name).unwrap();
        if !services.iter().any(|service| name.starts_with(service)) {
            continue;
        }
        for choice in 0..11 {
            samples.push(Sample { bytes: filled(&of, choice, 0).encode_to_vec(), take });
        }
    }
    samples
}

/// What phones and desks send.
fn device_door(pool: &DescriptorPool) -> Vec<Sample> {
    let services = ["device", "patrol", "risk", "directory", "agreement"];
    let services = services.map(|service| format!("wuling.{service}."));
    let mut samples = samples_of(&services.each_ref().map(String::as_str), pool);
    let take = |bytes: &[u8], verify| {
        device::PushRequest::decode(bytes).is_ok_and(|request| push(request, verify))
    };
    let of = pool.get_message_by_name("wuling.device.v1.Operation").unwrap();
    for choice in 0..11 {
        let encoded = filled(&of, choice, 0).encode_to_vec();
        let operation = device::Operation::decode(&encoded[..]).unwrap();
        samples.push(Sample { bytes: pushed(vec![operation]), take });
    }
    for _ in 0..10 {
        samples.push(Sample { bytes: pushed(good_operations()), take });
    }
    samples
}

/// What regions send to a gateway.
fn peer_door(pool: &DescriptorPool) -> Vec<Sample> {
    let mut samples = samples_of(&["wuling.exchange."], pool);
    let hello = Hello {
        region: stream().origin,
        nonce: [0; 32],
        gateway: "gateway-1".parse().unwrap(),
        protocol: 1,
        lanes: Lane::ALL.to_vec(),
        applied: vec![(stream(), seal::chain::start(&stream()))],
        software: "test".to_owned(),
        trust: Default::default(),
        agreements: Vec::new(),
        takes_proposals: false,
    };
    let (stream, now) = (stream(), SystemClock.now());
    let position = seal::chain::start(&stream);
    let head = Head { stream: stream.clone(), position, created_at: now };
    let receipt = Receipt {
        party: stream.origin.clone(),
        stream,
        position,
        created_at: now,
        parked: Vec::new(),
        parked_count: 0,
    };
    use exchange::link_request::Frame;
    for frame in [
        Frame::Hello(hello.sign(&key())),
        Frame::Head(head.sign(&key())),
        Frame::Receipt(receipt.sign(&key())),
    ] {
        let request = exchange::LinkRequest { frame: Some(frame) };
        samples.push(Sample {
            bytes: request.encode_to_vec(),
            take: |bytes, verify| {
                exchange::LinkRequest::decode(bytes)
                    .is_ok_and(|request| link_request(request, verify))
            },
        });
    }
    for _ in 0..4 {
        samples.push(Sample { bytes: sealed(), take: segment });
    }
    samples
}

/// What a gateway sends to a region, down to what a neighbour's entry says.
fn link_door(pool: &DescriptorPool) -> Vec<Sample> {
    let of = pool.get_message_by_name("wuling.exchange.v1.LinkResponse").unwrap();
    let mut samples: Vec<Sample> = (0..15)
        .map(|choice| Sample { bytes: filled(&of, choice, 0).encode_to_vec(), take: link_response })
        .collect();
    let take: Take = |bytes, _| match entry::decode(Bytes::copy_from_slice(bytes)) {
        Ok(Entry::Transfer(word)) => word_of(word),
        read => read.is_ok(),
    };
    let of = pool.get_message_by_name("wuling.exchange.v1.Entry").unwrap();
    for choice in 0..6 {
        samples.push(Sample { bytes: filled(&of, choice, 0).encode_to_vec(), take });
    }
    let words = words().map(|word| entry::encode_transfer(word).to_vec());
    samples.extend(words.map(|bytes| Sample { bytes, take }));
    samples.push(Sample { bytes: entry::encode_start(&[1; 32], None, &[]).to_vec(), take });
    samples.push(Sample { bytes: sealed(), take: segment });
    samples.push(Sample {
        bytes: list(),
        take: |bytes, _| {
            // Lists lie in files; whoever can write there is not trusted with a crash either.
            runtime::pki::RevocationList::read(b"no certificate", bytes).is_ok()
        },
    });
    samples
}

fn list() -> Vec<u8> {
    let owner = runtime::identity::Owner::Region(stream().origin);
    let validity = runtime::pki::Validity::days(SystemClock.now(), 7);
    let linkage = "wuling-test".parse().unwrap();
    let authority = runtime::pki::Authority::create(&linkage, &owner, validity).unwrap();
    let text = authority.revocation_list(&[vec![1, 2, 3]], validity).unwrap();
    text.into_bytes()
}

fn sealed() -> Vec<u8> {
    let stream = stream();
    let mut salt = [0; 16];
    SystemEntropy.fill(&mut salt);
    let entries = [SaltedEntry { salt, entry: entry::encode_start(&[1; 32], None, &[]) }];
    let range = Range {
        stream: &stream,
        before: seal::chain::start(&stream),
        entries: &entries,
        expires_at: SystemClock.now().plus_days(1),
    };
    let parties = [(stream.origin.clone(), sealing().public())];
    seal::segment::seal(range, &key(), &parties, &SystemEntropy).unwrap().bytes
}

/// Breaks a message in a few of the ways that attackers and broken disks do.
fn broken(good: &[u8], other: &[u8], dice: &mut Dice, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(good);
    for _ in 0..=dice.below(3) {
        let at = |dice: &mut Dice, length: usize| dice.below(length.max(1) as u64) as usize;
        let here = at(dice, out.len());
        match dice.below(9) {
            0 if !out.is_empty() => out[here] ^= 1 << dice.below(8),
            1 if !out.is_empty() => out[here] = dice.below(256) as u8,
            2 => out.truncate(here),
            3 => out.insert(here, dice.below(256) as u8),
            // The largest number a field can claim, as a length or as a value.
            4 => drop(
                out.splice(here..here, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            ),
            5 => {
                let end = here + at(dice, out.len() - here).min(64);
                let copy = out[here..end].to_vec();
                drop(out.splice(here..here, copy));
            }
            6 => {
                let (from, to) = (at(dice, other.len()), at(dice, other.len()));
                let part = other[from.min(to)..from.max(to)].to_vec();
                drop(out.splice(here..here, part));
            }
            7 => {
                let end = here + at(dice, out.len() - here).min(16);
                drop(out.drain(here..end));
            }
            // A group that opens again and again.
            8 => drop(out.splice(here..here, [0x0b; 120])),
            _ => {}
        }
    }
}

fn rss_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}

/// Sends a million through a door; gives how many were good in spite of it, and the growth of memory.
fn million(samples: &[Sample], seed: u64, leak: &mut Vec<Vec<u8>>, leaks: bool) -> (u64, u64) {
    let (mut dice, mut out, mut good, mut before) = (Dice::new(seed), Vec::new(), 0, 0);
    for number in 0..MESSAGES {
        if number == MESSAGES / 10 {
            before = rss_kib();
        }
        let sample = &samples[dice.below(samples.len() as u64) as usize];
        let other = &samples[dice.below(samples.len() as u64) as usize];
        broken(&sample.bytes, &other.bytes, &mut dice, &mut out);
        good += u64::from((sample.take)(&out, dice.once_in(VERIFIED_ONE_IN)));
        if leaks && number % 4 == 0 {
            leak.push(out.clone());
        }
    }
    (good, rss_kib().saturating_sub(before))
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn a_million_broken_messages_alone() {
    let pool = DescriptorPool::decode(proto::DESCRIPTOR).unwrap();
    let doors = [device_door(&pool), peer_door(&pool), link_door(&pool)];
    std::thread::scope(|scope| {
        for (number, samples) in doors.iter().enumerate() {
            scope.spawn(move || {
                let (good, growth) = million(samples, SEED + number as u64, &mut Vec::new(), false);
                // Mutations that hit nothing pass; were all refused, little would have been looked at.
                assert!(good > MESSAGES / 50, "door {number}: only {good} came far");
                assert!(growth < GROWTH_KIB_MAX, "door {number}: memory grew by {growth} KiB");
            });
        }
    });
    // The control: a door that keeps a quarter of what comes is found out.
    let mut kept = Vec::new();
    let (_, growth) = million(&doors[0], SEED, &mut kept, true);
    assert!(growth > GROWTH_KIB_MAX, "{} kept messages are not seen: {growth} KiB", kept.len());
}

#[test]
fn a_million_broken_messages_a_door_panic_nowhere_and_leave_nothing_behind() {
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["malformed::a_million_broken_messages_alone", "--exact", "--ignored"]);
    let output = alone.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "seed {SEED:#x}: {said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn every_request_of_the_contract_comes_in_by_a_door() {
    let pool = DescriptorPool::decode(proto::DESCRIPTOR).unwrap();
    let known: Vec<&str> = TAKES.iter().map(|(name, _)| *name).collect();
    for service in pool.services() {
        for method in service.methods() {
            let input = method.input();
            assert!(known.contains(&input.full_name()), "{} is not covered", input.full_name());
        }
    }
}

#[test]
fn what_is_broken_here_was_good_before() {
    let pool = DescriptorPool::decode(proto::DESCRIPTOR).unwrap();
    for (number, samples) in
        [device_door(&pool), peer_door(&pool), link_door(&pool)].iter().enumerate()
    {
        let good = samples.iter().filter(|sample| (sample.take)(&sample.bytes, true)).count();
        assert!(good * 4 > samples.len(), "door {number}: {good} of {} are good", samples.len());
    }
}
