//! `tests/vectors.json`: what another implementation must reproduce. Wherever no random number
//! takes part the file is compared with what we compute; the segment and the batch must open and
//! verify. Delete the file to have it written anew, for a new format only.

use crate::fixture::{Counter, NOW, bytes, entries, region, sealed, stream};
use bytes::Bytes;
use domain::directory::{Directory, Gateway, Region, RegionLevel};
use domain::freshness::{AgreementHead, Freshness, Member, Revocation};
use domain::kernel::{GatewayId, Lane, LinkageId, Reason, RegionId, Timestamp};
use domain::outline::Outline;
use domain::stream::{Position, StreamId};
use prost::Message as _;
use proto::convert::{directory, freshness, kernel::encode_time};
use proto::directory::v1::{DirectoryKey, TrustSet};
use proto::kernel::v1::SignedObject;
use seal::batch::{self, DeviceKey};
use seal::key::{SigningKey, key_fingerprint, sha256};
use seal::segment::{Segment, segment_id};
use seal::signed::{self, Head, Hello, Receipt};
use seal::trust::{AUTHORITY, Trust};
use seal::{chain, key, tag};
use serde_json::{Value, json};
use std::path::Path;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors.json");
const RANGE_LENS: &[usize] = &[0, 175, 40];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn read() -> Value {
    if !Path::new(PATH).exists() {
        let text = serde_json::to_string_pretty(&written_anew()).unwrap();
        std::fs::write(PATH, text + "\n").unwrap();
        panic!("the vectors were missing and are written anew: read them, then run again");
    }
    serde_json::from_slice(&std::fs::read(PATH).unwrap()).unwrap()
}

fn written_anew() -> Value {
    let mut vectors = computed();
    vectors["segment"] = new_segment();
    vectors["batch"] = new_batch();
    vectors
}

/// All that follows from fixed inputs.
fn computed() -> Value {
    json!({
        "tags": tags(),
        "chain": Lane::ALL.iter().map(|lane| chain_of(&stream(*lane))).collect::<Vec<_>>(),
        "receipt": receipt(),
        "head": head(),
        "hello": hello(),
        "trust": trust(),
    })
}

fn tags() -> Value {
    json!({
        "commitment": hex(tag::COMMITMENT),
        "link": hex(tag::LINK),
        "genesis": hex(tag::GENESIS),
        "segment": hex(tag::SEGMENT),
        "hpke-info": hex(tag::HPKE_INFO),
        "hello": hex(tag::HELLO),
        "head": hex(tag::HEAD),
        "receipt": hex(tag::RECEIPT),
        "agreement": hex(tag::AGREEMENT),
        "directory": hex(tag::DIRECTORY),
        "directory-key": hex(tag::DIRECTORY_KEY),
        "freshness": hex(tag::FRESHNESS),
        "batch": hex(tag::BATCH),
    })
}

fn stream_fields(stream: &StreamId) -> Value {
    json!({
        "origin": stream.origin.as_str(),
        "epoch": hex(stream.epoch.as_bytes()),
        "agreement_id": hex(stream.agreement.as_bytes()),
        "agreement_version": stream.version,
        "lane": stream.lane.name(),
    })
}

fn chain_of(stream: &StreamId) -> Value {
    let mut position = chain::start(stream);
    let links: Vec<_> = entries(RANGE_LENS)
        .iter()
        .map(|salted| {
            let c = salted.commitment();
            position = chain::extend(position, &c);
            json!({
                "seq": position.seq,
                "salt": hex(&salted.salt),
                "entry": hex(&salted.entry),
                "commitment": hex(&c),
                "h": hex(&position.h),
            })
        })
        .collect();
    json!({
        "stream": stream_fields(stream),
        "stream_bytes": hex(&stream.to_bytes()),
        "genesis": hex(&chain::genesis(stream)),
        "links": links,
    })
}

/// Fields of a signed object that one region signed, and its key.
fn object(object: &SignedObject) -> Value {
    object_by(object, &region(&object.signatures[0].signer).signing)
}

/// Fields of a signed object with one signature, and the key that made it.
fn object_by(object: &SignedObject, signing: &SigningKey) -> Value {
    let [signature] = object.signatures.as_slice() else { panic!("one signature") };
    json!({
        "seed": hex(&signing.seed()),
        "public": hex(&signing.public()),
        "signer": signature.signer,
        "key_id": hex(&signature.key_id),
        "body": hex(&object.body),
        "signature": hex(&signature.signature),
    })
}

fn receipt() -> Value {
    let receipt = Receipt {
        stream: stream(Lane::Routine),
        position: Position { seq: 12, h: [12; 32] },
        party: region("xianfeng").id,
        created_at: NOW,
        parked: vec![(7, Reason::KindUnknown)],
        parked_count: 1,
    };
    object(&receipt.sign(&region("xianfeng").signing))
}

fn head() -> Value {
    let stream = stream(Lane::Alert);
    let position = chain::start(&stream);
    object(&Head { stream, position, created_at: NOW }.sign(&region("xiaonanhai").signing))
}

fn hello() -> Value {
    let hello = Hello {
        region: region("xianfeng").id,
        nonce: [32; 32],
        gateway: "gw-1".parse().unwrap(),
        protocol: 1,
        lanes: Lane::ALL.to_vec(),
        applied: vec![(stream(Lane::Routine), Position { seq: 12, h: [12; 32] })],
        software: "vectors".into(),
        trust: Default::default(),
        agreements: Vec::new(),
        takes_proposals: false,
    };
    object(&hello.sign(&region("xianfeng").signing))
}

fn linkage() -> LinkageId {
    "wuling".parse().unwrap()
}

fn gateway_id() -> GatewayId {
    "gw-1".parse().unwrap()
}

/// Two regions, of which one is revoked further down, and a gateway.
fn listed(freshness_key: [u8; 32]) -> Directory {
    let regions = ["xianfeng", "xiaonanhai"].map(|slug| {
        let keys = region(slug);
        let listed = Region {
            region_id: keys.id.clone(),
            level: RegionLevel::County,
            codes: Vec::new(),
            name_zh: slug.to_owned(),
            name_en: slug.to_owned(),
            superior: None,
            signing_key: keys.signing.public(),
            sealing_key: keys.sealing.public(),
            authority_certificate: b"a certificate".to_vec(),
            endpoint: String::new(),
            outline: Outline::default(),
            former_keys: Vec::new(),
        };
        (keys.id, listed)
    });
    let gateway = Gateway {
        gateway_id: gateway_id(),
        authority_certificate: b"a certificate".to_vec(),
        endpoint: "localhost:7444".to_owned(),
    };
    Directory {
        linkage_id: linkage(),
        version: 7,
        created_at: NOW,
        regions: regions.into(),
        gateways: [(gateway_id(), gateway)].into(),
        freshness_key: Some(freshness_key),
        delegations: Default::default(),
    }
}

/// What is newest: a region is revoked with the key that the directory names, the gateway with one that it
/// had before.
fn newest(directory_sha256: [u8; 32]) -> Freshness {
    let keys = region("xianfeng");
    let head = AgreementHead { version: 3, sha256: [3; 32] };
    let revoked =
        |member, key_sha256| Revocation { member, key_sha256, revoked_at: NOW, cut: None };
    Freshness {
        linkage_id: linkage(),
        created_at: fresh_at(),
        directory_version: 7,
        directory_sha256,
        revocations: vec![
            revoked(Member::Region(keys.id), key_fingerprint(&keys.signing.public())),
            revoked(Member::Gateway(gateway_id()), sha256(b"an older certificate")),
        ],
        agreements: [(stream(Lane::Routine).agreement, head)].into(),
        delegated: Default::default(),
    }
}

fn fresh_at() -> Timestamp {
    NOW.plus_millis(300_000)
}

/// A trust set, and who is believed by it.
fn trust() -> Value {
    let [root, directory_key, freshness_key] =
        ["root", "directory", "freshness"].map(|name| region(name).signing);
    let vouched = DirectoryKey {
        linkage_id: linkage().to_string(),
        key: Bytes::copy_from_slice(&directory_key.public()),
        create_time: Some(encode_time(NOW.plus_days(-1))),
        expire_time: Some(encode_time(NOW.plus_days(89))),
    };
    let vouched = signed::sign(tag::DIRECTORY_KEY, vouched.encode_to_vec(), AUTHORITY, &root);
    let body = directory::encode(&listed(freshness_key.public()));
    let said = freshness::encode(&newest(sha256(&body)));
    let directory = signed::sign(tag::DIRECTORY, body, AUTHORITY, &directory_key);
    let freshness = signed::sign(tag::FRESHNESS, said, AUTHORITY, &freshness_key);
    let parts = json!({
        "directory_key": object_by(&vouched, &root),
        "directory": object_by(&directory, &directory_key),
        "freshness": object_by(&freshness, &freshness_key),
    });
    let [directory_key, directory, freshness] = [vouched, directory, freshness].map(Some);
    let set = TrustSet { directory_key, directory, freshness, delegated: Vec::new() };
    json!({
        "parts": parts,
        "bytes": hex(&set.encode_to_vec()),
        "directory_version": 7,
        "freshness_time_us": fresh_at().micros(),
        "regions_believed": ["xiaonanhai"],
        "gateways_believed": ["gw-1"],
    })
}

fn new_segment() -> Value {
    let stream = stream(Lane::Alert);
    let parties = ["xianfeng", "xiaonanhai"];
    let sealed = sealed(&stream, chain::start(&stream), &entries(RANGE_LENS), &parties);
    let keys: serde_json::Map<_, _> = parties
        .iter()
        .map(|party| ((*party).to_owned(), hex(&region(party).sealing.private()).into()))
        .collect();
    json!({
        "signing_public": hex(&region("xiaonanhai").signing.public()),
        "sealing_private": keys,
        "segment_id": hex(&sealed.segment_id),
        "bytes": hex(&sealed.bytes),
        "stream": stream_fields(&stream),
        "first_seq": 1,
        "count": RANGE_LENS.len(),
        "h_after": hex(&sealed.after.h),
    })
}

fn new_batch() -> Value {
    let key = DeviceKey::generate();
    let batch = b"an encoded batch";
    json!({
        "public": hex(&key.public()),
        "batch": hex(batch),
        "signature": hex(&key.sign(batch)),
    })
}

#[test]
fn what_we_compute_is_what_the_file_says() {
    let file = read();
    for (name, value) in computed().as_object().unwrap() {
        assert_eq!(file[name], *value, "{name}");
    }
}

#[test]
fn the_segment_of_the_file_opens_with_the_keys_beside_it() {
    let vector = &read()["segment"];
    let encoded = Bytes::from(unhex(&vector["bytes"]));
    assert_eq!(hex(&segment_id(&encoded)), vector["segment_id"].as_str().unwrap());
    let segment = Segment::parse(encoded).unwrap();
    segment.verify(&unhex(&vector["signing_public"]).try_into().unwrap()).unwrap();
    assert_eq!(stream_fields(segment.stream()), vector["stream"]);
    assert_eq!(segment.first_seq(), vector["first_seq"].as_u64().unwrap());
    assert_eq!(segment.count(), vector["count"].as_u64().unwrap());
    assert_eq!(hex(&segment.after().h), vector["h_after"].as_str().unwrap());
    for (party, private) in vector["sealing_private"].as_object().unwrap() {
        let sealing = key::SealingKey::from_bytes(&unhex(private).try_into().unwrap());
        let opened = segment.open(&region(party).id, &sealing).unwrap();
        assert!(opened.into_iter().map(|(_, salted)| salted).eq(entries(RANGE_LENS)));
    }
}

/// HPKE draws an ephemeral key, so only the wraps and the signature over them may differ.
#[test]
fn a_segment_sealed_today_is_the_one_of_the_file_but_for_its_wraps() {
    let decode = |bytes: Bytes| proto::exchange::v1::Segment::decode(bytes).unwrap();
    let old = decode(unhex(&read()["segment"]["bytes"]).into());
    let stream = stream(Lane::Alert);
    let parties = ["xianfeng", "xiaonanhai"];
    let new = sealed(&stream, chain::start(&stream), &entries(RANGE_LENS), &parties);
    let new = decode(bytes(&new));
    assert_eq!(hex(&new.prefix), hex(&old.prefix));
    assert_eq!(new.sealed.len(), old.sealed.len());
    assert_eq!(new.wraps.len(), old.wraps.len());
    assert_ne!(new.wraps, old.wraps);
}

#[test]
fn the_trust_set_of_the_file_says_who_is_believed() {
    let vector = &read()["trust"];
    let root = unhex(&vector["parts"]["directory_key"]["public"]).try_into().unwrap();
    let set = TrustSet::decode(unhex(&vector["bytes"]).as_slice()).unwrap();
    let (trust, _) = Trust::read(&root, set).unwrap();
    let mark = trust.mark();
    assert_eq!(vector["directory_version"], mark.directory_version);
    assert_eq!(vector["freshness_time_us"], mark.freshness_at.unwrap().micros());
    let regions = trust.directory.regions.keys();
    let regions: Vec<_> =
        regions.filter(|id| trust.find_region(id).is_some()).map(RegionId::as_str).collect();
    assert_eq!(vector["regions_believed"], json!(regions));
    let gateways = trust.directory.gateways.keys();
    let gateways: Vec<_> =
        gateways.filter(|id| trust.find_gateway(id).is_some()).map(GatewayId::as_str).collect();
    assert_eq!(vector["gateways_believed"], json!(gateways));
}

#[test]
fn the_batch_of_the_file_verifies() {
    let vector = &read()["batch"];
    let [public, batch, signature] =
        ["public", "batch", "signature"].map(|field| unhex(&vector[field]));
    assert_eq!(batch::verify(&public, &batch, &signature), Ok(()));
}

#[test]
fn the_counter_repeats() {
    use domain::kernel::Entropy;
    let draw = || {
        let mut out = [0; 40];
        Counter::default().fill(&mut out);
        out
    };
    assert_eq!(draw(), draw());
}
