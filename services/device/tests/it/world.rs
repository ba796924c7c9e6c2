//! A phone on a folder of its own, and a region in memory that decides by `domain::operation::decide`.

use bytes::Bytes;
use device::enrolment::EnrolmentCode;
use device::key::KeyFile;
use device::{Device, Draft, Kept, Limits, Recorded, Report, Standing, Store, Window};
use domain::kernel::{
    Clock, DeviceId, Entropy, Epoch, LinkageId, OperationId, Reason, RecordId, RegionId, Revision,
    Role, Timestamp,
};
use domain::operation::{Change, Context, Operation, decide};
use domain::patrol::{
    CheckIn, CheckInMethod, Patrol, PatrolState, PatrolVerb, SosAlert, SosState, SosTrigger,
};
use domain::record::Record;
use prost::Message as _;
use proto::convert::kernel::{decode_time, encode_time};
use proto::device::v1 as pb;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;

/// 2026-07-01T00:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_782_864_000_000_000);

pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn set(&self, now: Timestamp) {
        self.0.store(now.micros(), Ordering::Relaxed);
    }

    pub(crate) fn advance_s(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    /// Each look is a microsecond later than the one before, as on a real machine.
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Bytes that differ from draw to draw and are the same in every run.
pub(crate) struct TestEntropy(AtomicU64);

pub(crate) const fn entropy(seed: u64) -> TestEntropy {
    TestEntropy(AtomicU64::new(seed))
}

impl Entropy for TestEntropy {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bytes = (z ^ (z >> 31)).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

pub(crate) fn epoch(n: i64) -> Epoch {
    Epoch::mint(START.plus_days(n), &entropy(1))
}

pub(crate) fn record_id(n: u64) -> RecordId {
    RecordId::mint(START, &entropy(n.wrapping_mul(0x5851_f42d_4c95_7f2d)))
}

pub(crate) fn region_id() -> RegionId {
    RegionId::parse("xiaonanhai").unwrap()
}

pub(crate) fn device_id() -> DeviceId {
    DeviceId::mint(START, &entropy(7))
}

/// The region's authority, made once.
pub(crate) fn authority() -> &'static rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    static AUTHORITY: OnceLock<rcgen::CertifiedIssuer<'static, rcgen::KeyPair>> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
    })
}

pub(crate) fn code() -> EnrolmentCode {
    EnrolmentCode {
        linkage_id: LinkageId::parse("wuling").unwrap(),
        region_id: region_id(),
        endpoint: "xiaonanhai.example:7443".to_owned(),
        authority_sha256: seal::key::sha256(authority().der()),
        code: "abcdefghijklmnop".to_owned(),
    }
}

/// The answer of a region to a certificate request.
pub(crate) fn enrol_response(certificate_request: &[u8]) -> pb::EnrolResponse {
    let request = certificate_request.to_vec().into();
    let request = rcgen::CertificateSigningRequestParams::from_der(&request).unwrap();
    let leaf = request.signed_by(authority()).unwrap();
    let chain = [leaf.der().to_vec(), authority().der().to_vec()];
    pb::EnrolResponse {
        device_id: Bytes::copy_from_slice(device_id().as_bytes()),
        role: Role::ShiftLead.code(),
        certificate_chain: chain.map(Bytes::from).to_vec(),
        expire_time: Some(encode_time(START.plus_days(30))),
        epoch: Bytes::copy_from_slice(epoch(0).as_bytes()),
    }
}

/// Enrols a phone in a folder.
pub(crate) fn enrol(dir: &Path) -> Arc<KeyFile> {
    let key = KeyFile::open_or_create(&dir.join("device.key")).unwrap();
    let response = enrol_response(&key.certificate_request().unwrap());
    let mut store = Store::open(&dir.join("phone.sqlite")).unwrap();
    store.enrol(&code(), &key.public(), &response).unwrap();
    Arc::new(key)
}

/// Opens the phone of a folder.
pub(crate) fn open(dir: &Path, seed: u64) -> Device {
    let key = KeyFile::open_or_create(&dir.join("device.key")).unwrap();
    let store = Store::open(&dir.join("phone.sqlite")).unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(START.micros())));
    Device::open(store, Arc::new(key), clock, Arc::new(entropy(seed))).unwrap()
}

/// A phone, its folder, its clock.
pub(crate) struct Phone {
    pub(crate) device: Device,
    pub(crate) window: Window,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) key: Arc<KeyFile>,
    entropy: Arc<TestEntropy>,
    dir: TempDir,
}

impl Phone {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = enrol(dir.path());
        let clock = Arc::new(TestClock(AtomicI64::new(START.micros())));
        let entropy = Arc::new(entropy(42));
        let device = Self::device(dir.path(), &key, &clock, &entropy);
        Self { device, window: Window::default(), clock, key, entropy, dir }
    }

    fn device(
        dir: &Path,
        key: &Arc<KeyFile>,
        clock: &Arc<TestClock>,
        entropy: &Arc<TestEntropy>,
    ) -> Device {
        let store = Store::open(&dir.join("phone.sqlite")).unwrap();
        let (signer, clock, entropy) = (Arc::clone(key), Arc::clone(clock), Arc::clone(entropy));
        Device::open(store, signer, clock, entropy).unwrap()
    }

    /// Goes on with what a phone that is killed here has on its disk: the files as they are, while the
    /// old process still has them open.
    pub(crate) fn kill(&mut self) {
        let after = tempfile::tempdir().unwrap();
        for name in ["phone.sqlite", "phone.sqlite-wal"] {
            let from: PathBuf = self.dir.path().join(name);
            if from.exists() {
                std::fs::copy(from, after.path().join(name)).unwrap();
            }
        }
        self.device = Self::device(after.path(), &self.key, &self.clock, &self.entropy);
        self.window.clear();
        self.dir = after;
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("phone.sqlite")
    }

    pub(crate) fn do_now(&mut self, change: Change) -> Recorded {
        self.device.record(Draft::making(change, self.clock.now())).unwrap()
    }

    pub(crate) fn change(&mut self, record_id: RecordId, change: Change) -> Recorded {
        self.device.record(Draft::changing(record_id, change, self.clock.now())).unwrap()
    }

    pub(crate) fn next(&mut self) -> Option<pb::SignedBatch> {
        self.device.next_batch(&mut self.window).unwrap()
    }

    pub(crate) fn settle(&mut self, answer: pb::PushResponse) -> Report {
        self.device.settle(answer, &mut self.window).unwrap()
    }

    /// Sends all that may be sent, one batch after the other.
    pub(crate) fn push(&mut self, region: &mut Region) -> Vec<Report> {
        let mut reports = Vec::new();
        while let Some(batch) = self.next() {
            let answer = region.push(&batch, self.now());
            reports.push(self.settle(answer));
        }
        reports
    }

    pub(crate) fn kept(&self, standing: Standing) -> Vec<Kept> {
        self.device.list_operations(standing, 0, 10_000).unwrap()
    }

    pub(crate) fn ids(&self, standing: Standing) -> Vec<OperationId> {
        self.kept(standing).iter().map(|kept| kept.operation.operation_id).collect()
    }
}

pub(crate) fn limits(operations_max: usize) -> Limits {
    Limits { operations_max, ..Limits::default() }
}

/// The operations of a batch, as a region reads them.
pub(crate) fn operations(batch: &pb::SignedBatch) -> Vec<Operation> {
    let batch = pb::Batch::decode(batch.batch.clone()).unwrap();
    batch.operations.into_iter().map(|operation| operation.try_into().unwrap()).collect()
}

pub(crate) fn device_seqs(batch: &pb::SignedBatch) -> Vec<u64> {
    operations(batch).iter().map(|operation| operation.device_seq).collect()
}

/// What a region remembers of an operation.
#[derive(Clone)]
struct Stored {
    bytes: Vec<u8>,
    outcome: pb::Outcome,
    operation: Operation,
    revision: Option<Revision>,
}

/// A region in memory: the rules of `domain`, the answers of DESIGN 6.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) epoch: Epoch,
    pub(crate) records: HashMap<RecordId, Record>,
    /// How often each operation has changed a record.
    pub(crate) effects: BTreeMap<OperationId, u32>,
    /// Numbers of the phone in the order of their effect, by record.
    pub(crate) order: HashMap<RecordId, Vec<u64>>,
    /// Whether the phone's certificate has run out.
    pub(crate) expired: bool,
    operations: HashMap<OperationId, Stored>,
    public_key: Vec<u8>,
}

impl Region {
    pub(crate) fn of(phone: &Phone) -> Self {
        Self {
            epoch: epoch(0),
            records: HashMap::new(),
            effects: BTreeMap::new(),
            order: HashMap::new(),
            expired: false,
            operations: HashMap::new(),
            public_key: phone.key.public(),
        }
    }

    pub(crate) fn outcome(&self, id: OperationId) -> Option<pb::Outcome> {
        self.operations.get(&id).map(|stored| stored.outcome)
    }

    /// Answers a batch as a region does, and holds the phone to what a batch must be.
    pub(crate) fn push(&mut self, signed: &pb::SignedBatch, now: Timestamp) -> pb::PushResponse {
        seal::batch::verify(&self.public_key, &signed.batch, &signed.signature).unwrap();
        let batch = pb::Batch::decode(signed.batch.clone()).unwrap();
        assert_eq!(batch.region_id, region_id().as_str());
        assert_eq!(batch.device_id.as_ref(), device_id().as_bytes());
        assert!((1..=1_000).contains(&batch.operations.len()));
        let sent_at = batch.send_time.and_then(decode_time).unwrap();
        let clock_offset_ms = now.millis_since(sent_at);
        let results = batch
            .operations
            .into_iter()
            .map(|operation| self.answer(operation, clock_offset_ms, now))
            .collect();
        while self.release(clock_offset_ms, now) {}
        pb::PushResponse { results, receive_time: Some(encode_time(now)), clock_offset_ms }
    }

    fn answer(
        &mut self,
        encoded: pb::Operation,
        clock_offset_ms: i64,
        now: Timestamp,
    ) -> pb::OperationResult {
        let bytes = encoded.encode_to_vec();
        let operation = Operation::try_from(encoded).unwrap();
        let mut result = pb::OperationResult {
            operation_id: Bytes::copy_from_slice(operation.operation_id.as_bytes()),
            ..Default::default()
        };
        let known = self.operations.get(&operation.operation_id);
        let outcome = match known.map(|stored| (stored.bytes == bytes, stored.outcome)) {
            Some((false, _)) => panic!("operation {} was changed", operation.operation_id),
            Some((true, pb::Outcome::Applied)) => {
                result.revision = known.and_then(|k| k.revision).as_ref().map(Into::into);
                pb::Outcome::Duplicate
            }
            Some((true, pb::Outcome::Quarantined)) if self.expired => pb::Outcome::Quarantined,
            Some((true, pb::Outcome::Rejected)) => pb::Outcome::Rejected,
            _ => self.judge(&operation, bytes, clock_offset_ms, now, &mut result),
        };
        result.outcome = outcome.into();
        result
    }

    fn judge(
        &mut self,
        operation: &Operation,
        bytes: Vec<u8>,
        clock_offset_ms: i64,
        now: Timestamp,
        result: &mut pb::OperationResult,
    ) -> pb::Outcome {
        let parents: HashSet<_> = operation.parent_ids.iter().map(|id| self.outcome(*id)).collect();
        let calls_for_help = matches!(operation.change, Change::RaiseSos(_));
        let mut revision = None;
        let outcome = if parents.contains(&Some(pb::Outcome::Rejected)) {
            result.reason = Reason::ParentRejected.code();
            pb::Outcome::Rejected
        } else if self.expired && !calls_for_help {
            pb::Outcome::Quarantined
        } else if parents.iter().any(|outcome| *outcome != Some(pb::Outcome::Applied)) {
            pb::Outcome::Held
        } else {
            match self.apply(operation, clock_offset_ms, now) {
                Ok(applied) => {
                    revision = Some(applied);
                    result.revision = Some((&applied).into());
                    pb::Outcome::Applied
                }
                Err(Reason::RevisionStale) => {
                    let current = self.records.get(&operation.record_id);
                    result.reason = Reason::RevisionStale.code();
                    result.revision = current.map(|record| (&record.meta.revision).into());
                    result.current = current.map(proto::convert::record::encode);
                    // A conflict leaves no trace.
                    return pb::Outcome::Conflict;
                }
                Err(reason) => {
                    result.reason = reason.code();
                    pb::Outcome::Rejected
                }
            }
        };
        let operation = operation.clone();
        let stored = Stored { bytes, outcome, operation, revision };
        self.operations.insert(stored.operation.operation_id, stored);
        outcome
    }

    fn apply(
        &mut self,
        operation: &Operation,
        clock_offset_ms: i64,
        now: Timestamp,
    ) -> Result<Revision, Reason> {
        let region = region_id();
        let context = Context {
            region: &region,
            epoch: self.epoch,
            now,
            clock_offset_ms,
            role: Role::ShiftLead,
            device: Some(device_id()),
        };
        let shift = match &operation.change {
            Change::TrackBatch(track) => self.records.get(&track.shift_id),
            _ => None,
        };
        let current = self.records.get(&operation.record_id);
        let record = decide(operation, current, shift, &context).map_err(|found| found.reason)?;
        let revision = record.meta.revision;
        self.records.insert(operation.record_id, record);
        *self.effects.entry(operation.operation_id).or_default() += 1;
        self.order.entry(operation.record_id).or_default().push(operation.device_seq);
        Ok(revision)
    }

    /// Applies what was held and now may be; tells whether anything has moved.
    fn release(&mut self, clock_offset_ms: i64, now: Timestamp) -> bool {
        let held: Vec<Stored> = self
            .operations
            .values()
            .filter(|stored| stored.outcome == pb::Outcome::Held)
            .cloned()
            .collect();
        held.into_iter().fold(false, |moved, stored| {
            let mut result = pb::OperationResult::default();
            let Stored { operation, bytes, .. } = stored;
            let outcome = self.judge(&operation, bytes, clock_offset_ms, now, &mut result);
            moved || !matches!(outcome, pb::Outcome::Held | pb::Outcome::Conflict)
        })
    }

    /// Somebody else raises the revision of a record.
    pub(crate) fn touch(&mut self, record_id: RecordId) {
        if let Some(record) = self.records.get_mut(&record_id) {
            record.meta.revision.n += 1;
            record.meta.revision.epoch = self.epoch;
        }
    }

    /// The cursor of a place in this region's feed.
    pub(crate) fn cursor(&self, feed_seq: u64) -> pb::Cursor {
        pb::Cursor { epoch: Bytes::copy_from_slice(self.epoch.as_bytes()), feed_seq }
    }

    /// A change of the feed that tells of a record as it stands.
    pub(crate) fn told(&self, feed_seq: u64, record_id: RecordId) -> pb::Change {
        let record = proto::convert::record::encode(&self.records[&record_id]);
        pb::Change {
            cursor: Some(self.cursor(feed_seq)),
            subject: Some(pb::change::Subject::Record(record)),
        }
    }
}

pub(crate) fn patrol() -> Change {
    Change::PlanPatrol(Patrol {
        shift_id: record_id(900),
        mandate: "汛期巡查".to_owned(),
        route: "中坝河左岸".to_owned(),
        route_kind: None,
        member_count: 3,
        partner_units: Vec::new(),
        legs: Vec::new(),
        state: PatrolState::Planned,
        started_at: None,
        ended_at: None,
        leader_ref: None,
    })
}

pub(crate) const fn verb(verb: PatrolVerb) -> Change {
    Change::Patrol { verb, mode: None }
}

pub(crate) fn check_in() -> Change {
    Change::CheckIn(CheckIn {
        patrol_id: record_id(901),
        checkpoint: "界桩 12".to_owned(),
        method: CheckInMethod::Nfc,
        point: None,
        distance_m: 3.0,
        quality: None,
        remark: String::new(),
    })
}

pub(crate) fn sos(remark: &str) -> Change {
    Change::RaiseSos(SosAlert {
        point: None,
        last_known: None,
        trigger: SosTrigger::Button,
        state: SosState::Raised,
        acknowledged_at: None,
        acknowledge_unit: String::new(),
        patrol_id: None,
        remark: remark.to_owned(),
    })
}
