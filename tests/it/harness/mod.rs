//! A linkage of three real processes: a gateway and two region servers, on a scratch folder, with phones
//! and desks that are enrolled as users are.

mod checker;
mod process;

pub(crate) use checker::{AckLog, Seen, faults};
pub(crate) use process::{Process, binary, free_port, wait_until};

use cli::linkage::{self, RegionSpec, Terms};
use cli::phone::{self, Phone};
use domain::agreement::{AgreementForm, Clause, Grant, Release};
use domain::directory::RegionLevel;
use domain::kernel::{
    Clock, Datum, Entropy, GeoPoint, LinkageId, OperationId, Purpose, RecordId, RegionId, Role,
};
use domain::operation::{Change, Operation};
use domain::risk::{EmergencyClass, Event, EventDomain, EventSource, EventState};
use prost::Message as _;
use proto::agreement::v1 as agreement;
use proto::device::v1 as pb;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::batch::DeviceKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

pub(crate) const A: &str = "xiaonanhai";
pub(crate) const B: &str = "xianfeng";

/// A linkage of three processes.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) gateway: Process,
    pub(crate) a: Process,
    pub(crate) b: Process,
}

pub(crate) fn linkage_id() -> LinkageId {
    "wuling-test".parse().unwrap()
}

pub(crate) fn region(id: &str) -> RegionId {
    id.parse().unwrap()
}

/// Data folders of a gateway and two regions with an agreement, ready to be started.
pub(crate) async fn set_up(dir: &Path) {
    let (now, linkage) = (SystemClock.now(), linkage_id());
    let authority = dir.join("authority");
    linkage::init_authority(&authority, &linkage, now, &SystemEntropy).unwrap();
    let gateway_id = "gateway-1".parse().unwrap();
    let gateway =
        linkage::init_gateway(&dir.join("gateway"), &linkage, &gateway_id, "127.0.0.1:7444", now)
            .unwrap();
    let mut regions = Vec::new();
    for (data, id, name_zh) in [("a", A, "小南海镇"), ("b", B, "咸丰县")] {
        let spec = RegionSpec {
            region_id: region(id),
            level: RegionLevel::Township,
            codes: Vec::new(),
            name_zh: name_zh.to_owned(),
            name_en: id.to_owned(),
            superior: None,
            endpoint: String::new(),
        };
        regions.push(
            linkage::init_region(&dir.join(data), &linkage, spec, now, &SystemEntropy)
                .await
                .unwrap(),
        );
    }
    let directory = linkage::publish(&authority, regions, vec![gateway], now).unwrap();
    for data in ["gateway", "a", "b"] {
        linkage::install_trust(&authority, &dir.join(data)).unwrap();
    }
    let clause = |grant| Clause {
        grant,
        categories: Vec::new(),
        min_level: None,
        release: Release::AtOnce,
        fields: Vec::new(),
    };
    let terms = Terms {
        form: AgreementForm::Agreement,
        title: "中坝河边界联防协议".to_owned(),
        parties: vec![region(A), region(B)],
        clauses: vec![clause(Grant::Sos), clause(Grant::EventDetail), clause(Grant::PatrolSummary)],
        purposes: Purpose::ALL.to_vec(),
        days: 365,
    };
    let mut object = linkage::propose(&directory, terms, now, &SystemEntropy).unwrap();
    for (data, id) in [("a", A), ("b", B)] {
        linkage::sign_agreement(&mut object, &dir.join(data), &region(id)).unwrap();
    }
    for (data, id) in [("a", A), ("b", B)] {
        linkage::install_agreement(&object, &dir.join(data), &region(id), now).unwrap();
    }
}

/// Writes a region server's configuration.
pub(crate) fn region_config(
    dir: &Path,
    data: &str,
    id: &str,
    port: u16,
    gateway_port: u16,
) -> PathBuf {
    let path = dir.join(format!("{data}.toml"));
    let text = format!(
        "data = \"{}\"\nlisten = \"127.0.0.1:{port}\"\n[[regions]]\nid = \"{id}\"\ngateway_endpoint = \"127.0.0.1:{gateway_port}\"\n",
        dir.join(data).display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Writes a gateway's configuration.
pub(crate) fn gateway_config(dir: &Path, port: u16) -> PathBuf {
    let path = dir.join("gateway.toml");
    let text = format!(
        "gateway_id = \"gateway-1\"\ndata = \"{}\"\nlisten = \"127.0.0.1:{port}\"\n",
        dir.join("gateway").display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

impl World {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        set_up(dir.path()).await;
        let ports = [free_port(), free_port(), free_port()];
        let process = |binary: &str, config: PathBuf, port: u16, log: &str| {
            Process::start(binary, &config, port, &dir.path().join(log))
        };
        let gateway = process(
            "wuling-gateway",
            gateway_config(dir.path(), ports[0]),
            ports[0],
            "gateway.log",
        );
        let a = process(
            "wuling-region",
            region_config(dir.path(), "a", A, ports[1], ports[0]),
            ports[1],
            "a.log",
        );
        let b = process(
            "wuling-region",
            region_config(dir.path(), "b", B, ports[2], ports[0]),
            ports[2],
            "b.log",
        );
        Self { dir, gateway, a, b }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Enrols a device of a region with the code that its administrator would issue.
    pub(crate) async fn enrol(&self, id: &str, role: Role, name: &str) -> Phone {
        let (data, server) = if id == A { ("a", &self.a) } else { ("b", &self.b) };
        let endpoint = format!("127.0.0.1:{}", server.port);
        let code = linkage::issue_code(
            &self.path(data),
            &region(id),
            role,
            "unit-1",
            &endpoint,
            SystemClock.now(),
            &SystemEntropy,
        )
        .unwrap();
        let dir = self.path(&format!("device-{id}-{name}"));
        phone::enrol(&dir, &code).await.unwrap();
        Phone::open(&dir, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap()
    }
}

/// An event as a patrol reports it.
pub(crate) fn event(text: &str) -> Event {
    Event {
        domain: EventDomain::Safety,
        category: "GEOLOGICAL".to_owned(),
        emergency_class: Some(EmergencyClass::NaturalDisaster),
        level: None,
        place: "黑溪桥头".to_owned(),
        point: Some(GeoPoint {
            lon: 108.7625,
            lat: 29.6615,
            accuracy_m: 5.0,
            datum: Datum::Wgs84,
            source: None,
            altitude_m: None,
        }),
        text: text.to_owned(),
        source: EventSource::Patrol,
        affected_count: 0,
        urgent: false,
        deadline_at: None,
        state: EventState::Reported,
        handling_unit: String::new(),
        observation_id: None,
    }
}

/// A batch of fresh reports, signed as the phone's keystore would; and the records in it.
pub(crate) fn batch(phone: &Phone, count: usize) -> (pb::PushRequest, Vec<RecordId>) {
    let now = SystemClock.now();
    let entropy: &dyn Entropy = &SystemEntropy;
    let mut records = Vec::with_capacity(count);
    let operations = (0..count)
        .map(|index| {
            let record_id = RecordId::mint(now, entropy);
            records.push(record_id);
            let operation = Operation {
                operation_id: OperationId::mint(now, entropy),
                record_id,
                parent_ids: Vec::new(),
                base_revision: None,
                occurred_at: now,
                recorded_at: now,
                device_seq: index as u64 + 1,
                author_unit: "unit-1".to_owned(),
                author_ref: None,
                sensitivity: None,
                external_ref: None,
                change: Change::ReportEvent(event("落石")),
            };
            pb::Operation::from(&operation)
        })
        .collect();
    let identity = phone.device.identity();
    let batch = pb::Batch {
        region_id: identity.region_id.to_string(),
        device_id: identity.device_id.as_bytes().to_vec().into(),
        send_time: Some(proto::convert::kernel::encode_time(now)),
        operations,
    }
    .encode_to_vec();
    let signature = DeviceKey::from_pkcs8(&phone.key.pkcs8()).unwrap().sign(&batch);
    let signed = pb::SignedBatch { batch: batch.into(), signature: signature.into() };
    (pb::PushRequest { signed_batch: Some(signed) }, records)
}

/// All changes that a desk sees, from the start.
pub(crate) async fn pull_all(channel: &Channel) -> Vec<pb::Change> {
    let mut service = cli::client::device_service(channel);
    let (mut cursor, mut changes) = (None, Vec::new());
    loop {
        let request = pb::PullRequest {
            cursor,
            page_size: 1_000,
            purpose: Purpose::Duty.code(),
            kinds: Vec::new(),
        };
        let page = service.pull(request).await.unwrap().into_inner();
        changes.extend(page.changes);
        cursor = page.next_cursor;
        if !page.more {
            return changes;
        }
    }
}

/// How all streams of a region stand.
pub(crate) async fn states(channel: &Channel) -> Option<agreement::WatchStreamsResponse> {
    let request = agreement::WatchStreamsRequest { purpose: Purpose::Operation.code() };
    let mut stream =
        cli::client::agreement_service(channel).watch_streams(request).await.ok()?.into_inner();
    tokio::time::timeout(Duration::from_secs(5), stream.message()).await.ok()?.ok()?
}

/// Digest of a stream's views, as one side tells it.
pub(crate) async fn digest(
    channel: &Channel,
    stream: &agreement::StreamKey,
) -> agreement::GetStreamDigestResponse {
    let request = agreement::GetStreamDigestRequest {
        stream: Some(stream.clone()),
        purpose: Purpose::Operation.code(),
    };
    cli::client::agreement_service(channel).get_stream_digest(request).await.unwrap().into_inner()
}
