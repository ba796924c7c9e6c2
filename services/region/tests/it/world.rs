//! A linkage with two regions on one server, and their phones.

use bytes::Bytes;
use domain::directory::{Directory, Gateway, Region, RegionLevel};
use domain::kernel::{
    Clock, EmergencyLevel, Epoch, GatewayId, LinkageId, OperationId, Purpose, RecordId, RegionId,
    Role, Timestamp,
};
use domain::outline::Outline;
use prost::Message as _;
use proto::convert;
use proto::convert::kernel::encode_time;
use proto::device::v1 as pb;
use proto::device::v1::device_service_client::DeviceServiceClient;
use proto::device::v1::operation::Change;
use proto::directory::v1::{DirectoryKey, TrustSet};
use proto::kernel::v1::Revision;
use proto::risk::v1 as risk;
use proto::risk::v1::risk_service_client::RiskServiceClient;
use region::config::{Config, HostedConfig};
use region::folder::{FORMAT, region_dir, store_path};
use region::server::{Server, ServerError};
use runtime::Shutdown;
use runtime::channel::{Limits, channel};
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::data_dir::DataDir;
use runtime::identity::{Identity, Owner};
use runtime::pki::{Authority, IssuedKey, Validity, new_request};
use runtime::tls::{Anchor, ClientTls};
use seal::batch::DeviceKey;
use seal::key::{SealingKey, SigningKey, sha256};
use seal::{signed, tag, trust};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use storage::region::{EnrolmentCode, Store, issue_code};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Longest any awaited thing in a test may take.
const SOON: Duration = Duration::from_secs(10);
pub(crate) const DUTY: i32 = Purpose::Duty.code();

pub(crate) async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

pub(crate) fn slug(text: &str) -> RegionId {
    RegionId::parse(text).expect("a slug")
}

pub(crate) fn linkage() -> LinkageId {
    LinkageId::parse("wuling").expect("a slug")
}

/// The reason in a refusal's details, which must also say it in both languages.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let message = details.localized_message().expect("a message").message.clone();
    assert!(message.contains(" / "), "{message}");
    let info = details.error_info().expect("a reason");
    assert_eq!(info.domain, "wuling");
    info.reason.clone()
}

/// Code and reason of a refusal.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("a refusal");
    (status.code(), reason(&status))
}

/// A clock that a test moves.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms * 1_000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// A server that hosts `xiaonanhai` and `zhoubai`.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) clock: Arc<TestClock>,
    authorities: BTreeMap<RegionId, Vec<u8>>,
    addr: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) served: JoinSet<Result<(), ServerError>>,
    issued: AtomicI64,
}

impl World {
    pub(crate) async fn new() -> Self {
        runtime::tls::install_provider();
        let dir = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(TestClock(AtomicI64::new(SystemClock.now().micros())));
        let data = dir.path().join("data");
        drop(DataDir::open(&data, FORMAT).expect("a data folder"));
        let mut listed = Vec::new();
        for name in ["xiaonanhai", "zhoubai"] {
            listed.push(found(&data, &slug(name), clock.now()).await);
        }
        let authorities = listed
            .iter()
            .map(|region| (region.region_id.clone(), region.authority_certificate.clone()))
            .collect();
        write_trust(&data, listed, clock.now());
        let hosted = ["xiaonanhai", "zhoubai"]
            .map(|name| HostedConfig { region: slug(name), gateways: Vec::new() });
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = Config::new(data, listen, hosted.to_vec());
        config.shutdown_grace_s = 2;
        let as_clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let server = Server::bind(config, as_clock, Arc::new(SystemEntropy)).await.expect("bound");
        let (addr, shutdown) = (server.addr(), Shutdown::new());
        let mut served = JoinSet::new();
        served.spawn(server.serve(shutdown.clone()));
        Self { dir, clock, authorities, addr, shutdown, served, issued: AtomicI64::new(0) }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The store of a region, beside the server.
    pub(crate) fn beside(&self, region: &str) -> rusqlite::Connection {
        let path = store_path(&self.data(), &slug(region));
        let conn = rusqlite::Connection::open(path).expect("the store");
        conn.busy_timeout(SOON).expect("a timeout");
        conn
    }

    /// A new enrolment code, good for 15 minutes.
    pub(crate) fn code(&self, region: &str, role: Role) -> String {
        let number = self.issued.fetch_add(1, Ordering::SeqCst);
        let code = format!("enrolment-code-{number:08}");
        let row = EnrolmentCode {
            code_sha256: sha256(code.as_bytes()),
            role,
            unit: "police-1".to_owned(),
            expires_at: self.clock.now().plus_millis(15 * 60_000),
        };
        issue_code(&store_path(&self.data(), &slug(region)), &row).expect("issued");
        code
    }

    /// A channel to a region, with a certificate or without.
    pub(crate) fn channel(&self, region: &str, own: Option<&IssuedKey>) -> Channel {
        let anchor = Anchor::Certificate(&self.authorities[&slug(region)]);
        let server = Identity::Region(slug(region));
        let tls = ClientTls::new(&linkage(), server, anchor, own).expect("a client");
        channel(&self.addr.to_string(), tls, Limits::DEVICE).expect("an endpoint")
    }

    /// Trades a code in.
    pub(crate) async fn enrol(&self, region: &str, code: &str) -> Result<Phone, Status> {
        let (key_der, request) = new_request().expect("a request");
        let call = pb::EnrolRequest {
            region_id: region.to_owned(),
            code: code.to_owned(),
            certificate_request: request.into(),
            model: "phone".to_owned(),
        };
        let mut client = DeviceServiceClient::new(self.channel(region, None));
        let answer = in_time(client.enrol(call)).await?.into_inner();
        let key = DeviceKey::from_pkcs8(key_der.expose()).expect("a key");
        let chain_der = answer.certificate_chain.iter().map(|der| der.to_vec()).collect();
        let own = IssuedKey { chain_der, key_der };
        Ok(Phone {
            region: region.to_owned(),
            device_id: answer.device_id,
            channel: self.channel(region, Some(&own)),
            clock: Arc::clone(&self.clock),
            key,
            own,
        })
    }

    pub(crate) async fn phone(&self, region: &str, role: Role) -> Phone {
        let code = self.code(region, role);
        self.enrol(region, &code).await.expect("enrolled")
    }

    pub(crate) async fn officer(&self) -> Phone {
        self.phone("xiaonanhai", Role::DutyOfficer).await
    }

    pub(crate) fn revoke(&self, phone: &Phone) {
        let sql = "UPDATE device SET revoked_at = 1 WHERE device_id = ?1";
        let changed = self.beside(&phone.region).execute(sql, [&phone.device_id[..]]);
        assert_eq!(changed, Ok(1));
    }
}

/// An enrolled device.
pub(crate) struct Phone {
    pub(crate) region: String,
    pub(crate) device_id: Bytes,
    pub(crate) channel: Channel,
    pub(crate) own: IssuedKey,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) key: DeviceKey,
}

impl Phone {
    pub(crate) fn device(&self) -> DeviceServiceClient<Channel> {
        DeviceServiceClient::new(self.channel.clone())
    }

    pub(crate) fn risk(&self) -> RiskServiceClient<Channel> {
        RiskServiceClient::new(self.channel.clone())
    }

    pub(crate) fn batch(&self, operations: Vec<pb::Operation>) -> pb::PushRequest {
        let batch = pb::Batch {
            region_id: self.region.clone(),
            device_id: self.device_id.clone(),
            send_time: Some(encode_time(self.clock.now())),
            operations,
        };
        let batch = batch.encode_to_vec();
        let signature = self.key.sign(&batch).into();
        pb::PushRequest { signed_batch: Some(pb::SignedBatch { batch: batch.into(), signature }) }
    }

    pub(crate) async fn push(
        &self,
        operations: Vec<pb::Operation>,
    ) -> Result<Vec<pb::OperationResult>, Status> {
        let request = self.batch(operations);
        Ok(in_time(self.device().push(request)).await?.into_inner().results)
    }

    /// Pushes and gives the outcomes.
    pub(crate) async fn outcomes(&self, operations: Vec<pb::Operation>) -> Vec<pb::Outcome> {
        let results = self.push(operations).await.expect("answered");
        results.iter().map(|result| result.outcome()).collect()
    }

    /// Everything after a cursor, and the cursor after it.
    pub(crate) async fn pull(&self, cursor: Option<pb::Cursor>) -> (Vec<RecordSeen>, pb::Cursor) {
        let (mut cursor, mut seen) = (cursor, Vec::new());
        loop {
            let request = pb::PullRequest { cursor, page_size: 2, purpose: DUTY, kinds: vec![] };
            let page = in_time(self.device().pull(request)).await.expect("a page").into_inner();
            seen.extend(page.changes.iter().filter_map(record_seen));
            cursor = page.next_cursor;
            if !page.more {
                return (seen, cursor.expect("a cursor"));
            }
        }
    }

    /// An operation on a record, made now.
    pub(crate) fn operation(&self, record_id: RecordId, change: Change) -> pb::Operation {
        let now = self.clock.now();
        let operation_id = OperationId::mint(now, &SystemEntropy);
        pb::Operation {
            operation_id: Bytes::copy_from_slice(operation_id.as_bytes()),
            record_id: Bytes::copy_from_slice(record_id.as_bytes()),
            occur_time: Some(encode_time(now)),
            record_time: Some(encode_time(now)),
            device_seq: 1,
            author_unit: "police-1".to_owned(),
            change: Some(change),
            ..Default::default()
        }
    }

    pub(crate) fn report(&self, record_id: RecordId) -> pb::Operation {
        self.operation(record_id, Change::ReportEvent(event()))
    }

    pub(crate) fn transition(
        &self,
        record_id: RecordId,
        verb: risk::EventVerb,
        base_revision: Option<Revision>,
    ) -> pb::Operation {
        let transition = pb::EventTransition { verb: verb.into(), ..Default::default() };
        let change = Change::EventTransition(transition);
        pb::Operation { base_revision, ..self.operation(record_id, change) }
    }
}

/// A record's id and revision number, as the feed shows it.
pub(crate) type RecordSeen = (Bytes, u64);

pub(crate) fn record_seen(change: &pb::Change) -> Option<RecordSeen> {
    let Some(pb::change::Subject::Record(record)) = &change.subject else { return None };
    let meta = record.meta.as_ref()?;
    Some((meta.record_id.clone(), meta.revision.as_ref()?.n))
}

pub(crate) fn new_record() -> RecordId {
    RecordId::mint(SystemClock.now(), &SystemEntropy)
}

pub(crate) fn id(record: RecordId) -> Bytes {
    Bytes::copy_from_slice(record.as_bytes())
}

pub(crate) fn event() -> risk::Event {
    risk::Event {
        domain: risk::EventDomain::Safety.into(),
        category: "GEOLOGICAL".to_owned(),
        level: EmergencyLevel::III.code(),
        place: "黑溪镇后山".to_owned(),
        text: "滑坡,约 300 方".to_owned(),
        source: risk::EventSource::Patrol.into(),
        affected_count: 23,
        ..Default::default()
    }
}

/// Makes a region's keys and its empty store.
async fn found(data: &std::path::Path, region: &RegionId, now: Timestamp) -> Region {
    let dir = region_dir(data, region);
    std::fs::create_dir_all(&dir).expect("a folder");
    let (signing, sealing) = (SigningKey::generate(&SystemEntropy), SealingKey::generate());
    let owner = Owner::Region(region.clone());
    let authority = Authority::create(&linkage(), &owner, Validity::days(now, 365));
    let authority = authority.expect("an authority");
    let (certificate, key) = (authority.certificate_pem(), authority.key_pem());
    let files: [(&str, &[u8]); 4] = [
        ("signing.key", &signing.seed()),
        ("sealing.key", &sealing.private()),
        ("authority.crt", certificate.as_bytes()),
        ("authority.key", key.expose().as_bytes()),
    ];
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("written");
    }
    let epoch = Epoch::mint(now, &SystemEntropy);
    drop(Store::open(&dir.join("store.sqlite"), region, epoch).await.expect("a store"));
    Region {
        region_id: region.clone(),
        level: RegionLevel::Township,
        codes: Vec::new(),
        name_zh: region.to_string(),
        name_en: region.to_string(),
        superior: None,
        signing_key: signing.public(),
        sealing_key: sealing.public(),
        authority_certificate: authority.certificate_der().to_vec(),
        endpoint: String::new(),
        outline: Outline::default(),
        former_keys: Vec::new(),
    }
}

fn write_trust(data: &std::path::Path, regions: Vec<Region>, now: Timestamp) {
    let (root, key) = (SigningKey::generate(&SystemEntropy), SigningKey::generate(&SystemEntropy));
    let vouched = DirectoryKey {
        linkage_id: linkage().to_string(),
        key: Bytes::copy_from_slice(&key.public()),
        create_time: Some(encode_time(now.plus_days(-1))),
        expire_time: Some(encode_time(now.plus_days(90))),
    };
    let gateway_id = GatewayId::parse("gw1").expect("a slug");
    let owner = Owner::Gateway(gateway_id.clone());
    let authority = Authority::create(&linkage(), &owner, Validity::days(now, 365));
    let gateway = Gateway {
        gateway_id: gateway_id.clone(),
        authority_certificate: authority.expect("an authority").certificate_der().to_vec(),
        // Nobody listens there.
        endpoint: "127.0.0.1:1".to_owned(),
    };
    let directory = Directory {
        linkage_id: linkage(),
        version: 1,
        created_at: now,
        regions: regions.into_iter().map(|region| (region.region_id.clone(), region)).collect(),
        gateways: [(gateway_id, gateway)].into(),
        freshness_key: None,
        delegations: Default::default(),
    };
    let sign = |tag, body: Vec<u8>, key| signed::sign(tag, body, trust::AUTHORITY, key);
    let vouched = sign(tag::DIRECTORY_KEY, vouched.encode_to_vec(), &root);
    let listed = sign(tag::DIRECTORY, convert::directory::encode(&directory).to_vec(), &key);
    let (directory_key, directory) = (Some(vouched), Some(listed));
    let set = TrustSet { directory_key, directory, ..TrustSet::default() };
    let files: [(&str, Vec<u8>); 2] =
        [("root.pub", root.public().to_vec()), ("linkage.signed", set.encode_to_vec())];
    std::fs::create_dir_all(data.join("trust")).expect("a folder");
    for (name, bytes) in files {
        std::fs::write(data.join("trust").join(name), bytes).expect("written");
    }
}
