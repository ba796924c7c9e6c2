//! Operations with a canary in every field that the contract calls personal or sensitive.

use crate::harness::{event, sos};
use cli::phone::{Phone, fresh};
use domain::kernel::{Clock as _, Datum, Entropy as _, GeoPoint, RecordId};
use domain::operation::{Change, Operation};
use domain::patrol::{
    CheckIn, CheckInMethod, Observation, Patrol, PatrolState, Shift, ShiftState, ShiftVerb,
    TrackBatch, TrackGap,
};
use domain::record::ExternalRef;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, MessageDescriptor, Value,
};
use proto::device::v1 as pb;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::batch::DeviceKey;
use std::collections::BTreeSet;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Texts and numbers that are found nowhere by chance.
pub(super) struct Canaries {
    /// Every text begins so.
    pub(super) common: String,
    pub(super) count: usize,
    /// What does not begin so: positions, codes.
    pub(super) others: Vec<String>,
}

impl Canaries {
    /// A text of its own, such as an opaque reference or a place has.
    pub(super) fn text(&mut self) -> String {
        self.count += 1;
        let number = self.count;
        let letters = [number / 676, number / 26 % 26, number % 26];
        let letters = letters.map(|letter| char::from(b'A' + u8::try_from(letter).unwrap()));
        format!("{}{}", self.common, letters.iter().collect::<String>())
    }

    /// Something secret that others chose.
    pub(super) fn secret(&mut self, text: &str) {
        self.others.push(text.to_owned());
    }

    /// A place of its own, so many whole degrees east.
    pub(super) fn point(&mut self, lon: u32) -> GeoPoint {
        let ([lon, lon_text], [lat, lat_text]) = (self.degrees(lon), self.degrees(29));
        self.others.extend([lon_text, lat_text]);
        GeoPoint {
            lon: lon.parse().unwrap(),
            lat: lat.parse().unwrap(),
            accuracy_m: 5.0,
            datum: Datum::Wgs84,
            source: None,
            altitude_m: None,
        }
    }

    /// Degrees with nine random digits, and the first seven of them as a text to be found.
    fn degrees(&self, whole: u32) -> [String; 2] {
        let mut random = [0; 9];
        SystemEntropy.fill(&mut random);
        // No nought, which would not be printed at the end.
        let digits: String = random.map(|byte| char::from(b'1' + byte % 9)).iter().collect();
        [format!("{whole}.{digits}"), format!("{whole}.{}", &digits[..7])]
    }

    /// A position of a track, in 1e-7 degrees.
    fn degrees_e7(&mut self, whole: u32) -> i32 {
        let [_, text] = self.degrees(whole);
        let text = text.replace('.', "");
        self.others.push(text.clone());
        text.parse().unwrap()
    }
}

/// One operation of each kind that says anything, parents first.
pub(super) fn payloads(canaries: &mut Canaries) -> Vec<pb::Operation> {
    let now = SystemClock.now();
    let opened = Change::OpenShift(shift(canaries));
    let open = operation(canaries, opened);
    let shift_id = open.record_id;
    let note = Change::Shift { verb: ShiftVerb::HandOver, handover_note: canaries.text() };
    let track = TrackBatch {
        patrol_id: RecordId::mint(now, &SystemEntropy),
        shift_id,
        started_at: now,
        time_delta_s: vec![0],
        lon_delta_e7: vec![canaries.degrees_e7(108)],
        lat_delta_e7: vec![canaries.degrees_e7(29)],
        datum: Datum::Wgs84,
        sampling_s: 30,
        gaps: vec![TrackGap { start_offset_s: 0, duration_s: 0, reason: canaries.text() }],
        battery_pct: 50,
    };
    let on_shift = |canaries: &mut Canaries, change| Operation {
        parent_ids: vec![open.operation_id],
        ..operation(canaries, change)
    };
    let track = on_shift(canaries, Change::TrackBatch(track));
    let hand_over = Operation { record_id: shift_id, ..on_shift(canaries, note) };
    let mut reported = event(&canaries.text());
    (reported.place, reported.point) = (canaries.text(), Some(canaries.point(108)));
    let mut alert = sos(&canaries.text());
    (alert.point, alert.last_known) = (Some(canaries.point(108)), Some(canaries.point(108)));
    let others = [
        Change::PlanPatrol(patrol(canaries, shift_id)),
        Change::CheckIn(check_in(canaries)),
        Change::Observation(Observation {
            patrol_id: None,
            category: "GEOLOGICAL".to_owned(),
            text: canaries.text(),
            point: Some(canaries.point(108)),
            suggested_level: None,
        }),
        Change::ReportEvent(reported),
        Change::RaiseSos(alert),
    ];
    let mut operations = vec![open.clone(), track, hand_over];
    operations.extend(others.map(|change| operation(canaries, change)));
    operations.iter().map(pb::Operation::from).collect()
}

fn shift(canaries: &mut Canaries) -> Shift {
    Shift {
        unit: canaries.text(),
        station: canaries.text(),
        planned_start_at: None,
        planned_end_at: None,
        opened_at: None,
        closed_at: None,
        state: ShiftState::Open,
        staff_count: 2,
        roster_refs: vec![canaries.text()],
        handover_note: canaries.text(),
    }
}

fn patrol(canaries: &mut Canaries, shift_id: RecordId) -> Patrol {
    Patrol {
        shift_id,
        mandate: canaries.text(),
        route: canaries.text(),
        route_kind: None,
        member_count: 2,
        partner_units: vec![canaries.text()],
        legs: Vec::new(),
        state: PatrolState::Planned,
        started_at: None,
        ended_at: None,
        leader_ref: Some(canaries.text()),
    }
}

fn check_in(canaries: &mut Canaries) -> CheckIn {
    CheckIn {
        patrol_id: RecordId::mint(SystemClock.now(), &SystemEntropy),
        checkpoint: canaries.text(),
        method: CheckInMethod::Manual,
        point: Some(canaries.point(108)),
        distance_m: 0.0,
        quality: None,
        remark: canaries.text(),
    }
}

/// An operation of a member of staff who is a canary.
fn operation(canaries: &mut Canaries, change: Change) -> Operation {
    let external = ExternalRef { system: canaries.text(), id: canaries.text() };
    Operation {
        author_unit: canaries.text(),
        author_ref: Some(canaries.text()),
        external_ref: change.creates().then_some(external),
        ..fresh(1, change)
    }
}

/// An operation whose change is made with canaries.
pub(super) fn operation_of(
    canaries: &mut Canaries,
    change: impl FnOnce(&mut Canaries) -> Change,
) -> pb::Operation {
    let change = change(canaries);
    (&operation(canaries, change)).into()
}

/// A report of an event.
pub(super) fn reported(canaries: &mut Canaries) -> pb::Operation {
    operation_of(canaries, |canaries| {
        let mut event = event(&canaries.text());
        event.point = Some(canaries.point(108));
        Change::ReportEvent(event)
    })
}

/// A batch, signed as the phone's keystore would.
pub(super) fn signed(phone: &Phone, operations: Vec<pb::Operation>) -> pb::PushRequest {
    let signed = sign(phone, |batch| batch.operations = operations);
    pb::PushRequest { signed_batch: Some(signed) }
}

/// A batch of nothing for a region of this name.
pub(super) fn of_another_region(phone: &Phone, region_id: String) -> pb::SignedBatch {
    sign(phone, |batch| batch.region_id = region_id)
}

/// A batch of nothing by a device of this id.
pub(super) fn of_another_device(phone: &Phone, device_id: String) -> pb::SignedBatch {
    sign(phone, |batch| batch.device_id = device_id.into_bytes().into())
}

fn sign(phone: &Phone, fill: impl FnOnce(&mut pb::Batch)) -> pb::SignedBatch {
    let identity = phone.device.identity();
    let mut batch = pb::Batch {
        region_id: identity.region_id.to_string(),
        device_id: identity.device_id.as_bytes().to_vec().into(),
        send_time: Some(proto::convert::kernel::encode_time(SystemClock.now())),
        operations: Vec::new(),
    };
    fill(&mut batch);
    let batch = batch.encode_to_vec();
    let signature = DeviceKey::from_pkcs8(&phone.key.pkcs8()).unwrap().sign(&batch);
    pb::SignedBatch { batch: batch.into(), signature: signature.into() }
}

pub(super) async fn pushed(
    phone: &Phone,
    operations: Vec<pb::Operation>,
) -> Result<pb::PushResponse, Status> {
    let mut service = cli::client::device_service(phone.channel());
    Ok(service.push(signed(phone, operations)).await?.into_inner())
}

/// A call whose message is a text.
pub(super) async fn raw(channel: &Channel, path: &str, text: String) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<String, ()>::default();
    client.unary(Request::new(text), path.parse().unwrap(), codec).await.map(drop)
}

/// Checks that no personal or sensitive field of an operation was left without a canary.
pub(super) fn assert_complete(operations: &[pb::Operation], canaries: &Canaries) {
    let pool = DescriptorPool::decode(proto::DESCRIPTOR).unwrap();
    let class = pool.get_extension_by_name("wuling.kernel.v1.privacy").unwrap();
    let whole = pool.get_message_by_name("wuling.device.v1.Operation").unwrap();
    let mut wanted = BTreeSet::new();
    wanted_fields(&whole, &class, &mut wanted, &mut BTreeSet::new());
    assert!(wanted.len() >= 15, "the walk misses most of the contract: {wanted:?}");
    let mut filled = BTreeSet::new();
    for operation in operations {
        let bytes = operation.encode_to_vec();
        let message = DynamicMessage::decode(whole.clone(), bytes.as_slice()).unwrap();
        filled_fields(&message, canaries, &mut filled);
    }
    let missing: Vec<_> = wanted.difference(&filled).collect();
    assert!(missing.is_empty(), "without a canary: {missing:#?}");
}

/// Texts and positions of the classes personal and sensitive, by full name.
fn wanted_fields(
    message: &MessageDescriptor,
    class: &ExtensionDescriptor,
    wanted: &mut BTreeSet<String>,
    seen: &mut BTreeSet<String>,
) {
    if !seen.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        let options = field.options();
        let Value::EnumNumber(number) = *options.get_extension(class) else { continue };
        let kind = class.kind();
        let classes = kind.as_enum().unwrap();
        let of = |name: &str| classes.get_value_by_name(name).unwrap().number() == number;
        let secret = of("PRIVACY_PERSONAL") || of("PRIVACY_SENSITIVE");
        if let Some(inner) = field.kind().as_message() {
            if !inner.full_name().starts_with("google.") {
                wanted_fields(inner, class, wanted, seen);
            }
        } else if secret && is_searchable(field.name(), &field.kind()) {
            wanted.insert(field.full_name().to_owned());
        }
    }
}

/// Other numbers are too short to be found nowhere by chance.
fn is_searchable(name: &str, kind: &prost_reflect::Kind) -> bool {
    matches!(kind, prost_reflect::Kind::String)
        || matches!(name, "lon" | "lat" | "lon_delta_e7" | "lat_delta_e7")
}

fn filled_fields(message: &DynamicMessage, canaries: &Canaries, filled: &mut BTreeSet<String>) {
    for (field, value) in message.fields() {
        let values = value.as_list().map_or_else(|| vec![value.clone()], <[Value]>::to_vec);
        for value in values {
            if let Value::Message(inner) = &value {
                filled_fields(inner, canaries, filled);
            } else if canaries.hold(&value) {
                filled.insert(field.full_name().to_owned());
            }
        }
    }
}

impl Canaries {
    fn hold(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => text.starts_with(&self.common),
            Value::F64(number) => {
                self.others.iter().any(|other| number.to_string().starts_with(other.as_str()))
            }
            Value::I32(number) => self.others.contains(&number.to_string()),
            _ => false,
        }
    }
}
