use super::{NOW_S, by, check, id, nil, point, sample, samples, time};
use crate::convert::{Path, Rules, VIOLATIONS_MAX};
use crate::convert::{agreement, body, kernel, operation, patrol, risk, track};
use crate::risk::v1 as risk_pb;
use crate::{agreement::v1 as agreement_pb, device::v1 as device_pb};
use crate::{kernel::v1 as pb, patrol::v1 as patrol_pb};
use bytes::Bytes;
use device_pb::operation::Change;
use domain::kernel::Kind;
use domain::record::Body;
use prost::Message;
use prost_types::Timestamp;

#[test]
fn each_field_of_a_place_is_refused() {
    check(
        "wuling.kernel.v1.GeoPoint",
        &point(),
        by(Rules::Caller, kernel::point),
        &[],
        &[
            ("lon", |p| p.lon = 180.1),
            ("lon", |p| p.lon = f64::NAN),
            ("lon", |p| p.lon = f64::NEG_INFINITY),
            ("lat", |p| p.lat = -90.1),
            ("lat", |p| p.lat = f64::INFINITY),
            ("accuracy_m", |p| p.accuracy_m = -1.0),
            ("accuracy_m", |p| p.accuracy_m = 100_001.0),
            ("accuracy_m", |p| p.accuracy_m = f32::NAN),
            ("datum", |p| p.datum = 0),
            ("datum", |p| p.datum = 4),
            ("source", |p| p.source = -1),
            ("altitude_m", |p| p.altitude_m = Some(-501.0)),
            ("altitude_m", |p| p.altitude_m = Some(f32::NAN)),
        ],
    );
}

#[test]
fn each_field_of_a_revision_and_a_reference_is_refused() {
    let revision = pb::Revision { t: 0, epoch: id(1), n: 1 };
    check(
        "wuling.kernel.v1.Revision",
        &revision,
        by(Rules::Caller, kernel::revision),
        &["t"],
        &[
            ("epoch", |r| r.epoch = nil()),
            ("epoch", |r| r.epoch = Bytes::new()),
            ("n", |r| r.n = 0),
        ],
    );
    let external = pb::ExternalRef { system: "grid".into(), id: "42".into() };
    check(
        "wuling.kernel.v1.ExternalRef",
        &external,
        by(Rules::Caller, kernel::external_ref),
        &[],
        &[
            ("system", |r| r.system = "x".repeat(65)),
            ("system", |r| r.system.clear()),
            ("id", |r| r.id = "x".repeat(129)),
            ("id", |r| r.id = "4\n2".into()),
        ],
    );
}

/// A signed acceptance of so many bytes.
fn accept(size: usize) -> pb::SignedObject {
    pb::SignedObject { body: vec![1; size].into(), signatures: Vec::new() }
}

#[test]
fn each_field_of_meta_is_refused() {
    let meta = pb::RecordMeta::from(&sample(samples::record()).meta);
    check(
        "wuling.kernel.v1.RecordMeta",
        &meta,
        by(Rules::Store, kernel::meta),
        &["clock_offset_ms"],
        &[
            ("record_id", |m| m.record_id = nil()),
            ("kind", |m| m.kind = 8),
            ("birth_region", |m| m.birth_region = "小南海".into()),
            ("owner_region", |m| m.owner_region.clear()),
            ("revision", |m| m.revision = None),
            ("revision.n", |m| m.revision.as_mut().unwrap().n = 0),
            ("occur_time", |m| m.occur_time = time(kernel::TIME_S_MIN - 1)),
            ("record_time", |m| m.record_time = time(kernel::TIME_S_MAX + 1)),
            ("receive_time", |m| m.receive_time = None),
            ("expire_time", |m| m.expire_time = Some(Timestamp { seconds: NOW_S, nanos: -1 })),
            ("author_unit", |m| m.author_unit = "x".repeat(65)),
            ("author_ref", |m| m.author_ref = "x".repeat(65)),
            ("sensitivity", |m| m.sensitivity = 6),
            ("sensitivity_parties", |m| m.sensitivity_parties = vec!["a".into(); 65]),
            ("sensitivity_parties[1]", |m| {
                m.sensitivity_parties = vec!["a".into(), "B".into()];
            }),
            ("external_ref.id", |m| {
                m.external_ref = Some(pb::ExternalRef { system: "grid".into(), id: "".into() });
            }),
            ("retention_class", |m| m.retention_class = 0),
            ("transfers", |m| m.transfers = vec![accept(1); 17]),
            ("transfers[1]", |m| m.transfers = vec![accept(1), accept(2_100)]),
            ("transfers[0]", |m| m.transfers = vec![pb::SignedObject::default()]),
        ],
    );
}

fn shift() -> patrol_pb::Shift {
    patrol_pb::Shift {
        unit: "小南海派出所".into(),
        plan_start_time: time(NOW_S),
        plan_end_time: time(NOW_S + 28_800),
        state: patrol_pb::ShiftState::Open.into(),
        ..Default::default()
    }
}

#[test]
fn each_field_of_a_shift_is_refused() {
    check(
        "wuling.patrol.v1.Shift",
        &shift(),
        by(Rules::Store, patrol::shift),
        &[],
        &[
            ("unit", |s| s.unit.clear()),
            ("unit", |s| s.unit = "x".repeat(65)),
            ("station", |s| s.station = "x".repeat(129)),
            ("plan_start_time", |s| s.plan_start_time = time(0)),
            ("plan_end_time", |s| s.plan_end_time = time(NOW_S)),
            ("open_time", |s| s.open_time = time(0)),
            ("close_time", |s| s.close_time = time(0)),
            ("state", |s| s.state = 0),
            ("state", |s| s.state = 4),
            ("staff_count", |s| s.staff_count = 1_001),
            ("roster_refs", |s| s.roster_refs = vec!["a".into(); 65]),
            ("roster_refs[0]", |s| s.roster_refs = vec!["x".repeat(65)]),
            ("roster_refs[1]", |s| s.roster_refs = vec!["a".into(), String::new()]),
            ("handover_note", |s| s.handover_note = "x".repeat(2_001)),
            ("handover_note", |s| s.handover_note = "bell\u{7}".into()),
        ],
    );
}

#[test]
fn each_field_of_a_patrol_and_its_legs_is_refused() {
    let patrol = patrol_pb::Patrol {
        shift_id: id(1),
        route: "中坝河".into(),
        member_count: 3,
        state: patrol_pb::PatrolState::Active.into(),
        legs: vec![patrol_pb::Leg { mode: 4, start_time: time(NOW_S), end_time: None }],
        ..Default::default()
    };
    check(
        "wuling.patrol.v1.Patrol",
        &patrol,
        by(Rules::Store, patrol::patrol),
        &[],
        &[
            ("shift_id", |p| p.shift_id = Bytes::new()),
            ("mandate", |p| p.mandate = "x".repeat(257)),
            ("route", |p| p.route.clear()),
            ("route", |p| p.route = "x".repeat(129)),
            ("route_kind", |p| p.route_kind = 9),
            ("member_count", |p| p.member_count = 0),
            ("member_count", |p| p.member_count = 201),
            ("partner_units", |p| p.partner_units = vec!["a".into(); 17]),
            ("partner_units[0]", |p| p.partner_units = vec!["x".repeat(65)]),
            ("legs", |p| p.legs = vec![patrol_pb::Leg::default(); 65]),
            ("legs[0].mode", |p| p.legs[0].mode = 6),
            ("legs[0].start_time", |p| p.legs[0].start_time = None),
            ("legs[0].end_time", |p| p.legs[0].end_time = time(0)),
            ("state", |p| p.state = 0),
            ("start_time", |p| p.start_time = time(0)),
            ("end_time", |p| p.end_time = time(0)),
            ("leader_ref", |p| p.leader_ref = "x".repeat(65)),
        ],
    );
}

#[test]
fn each_field_of_a_check_in_is_refused() {
    let check_in = patrol_pb::CheckIn {
        patrol_id: id(1),
        checkpoint: "12号界桩".into(),
        method: patrol_pb::CheckInMethod::Nfc.into(),
        point: Some(point()),
        ..Default::default()
    };
    check(
        "wuling.patrol.v1.CheckIn",
        &check_in,
        by(Rules::Store, patrol::check_in),
        &[],
        &[
            ("patrol_id", |c| c.patrol_id = Bytes::from_static(b"short")),
            ("checkpoint", |c| c.checkpoint.clear()),
            ("checkpoint", |c| c.checkpoint = "a\tb".into()),
            ("method", |c| c.method = 0),
            ("point.datum", |c| c.point.as_mut().unwrap().datum = 0),
            ("distance_m", |c| c.distance_m = -0.1),
            ("distance_m", |c| c.distance_m = f64::NAN),
            ("quality", |c| c.quality = 6),
            ("remark", |c| c.remark = "x".repeat(501)),
        ],
    );
}

fn track() -> patrol_pb::TrackBatch {
    patrol_pb::TrackBatch {
        patrol_id: id(1),
        shift_id: id(2),
        start_time: time(NOW_S),
        time_delta_s: vec![0, 60],
        lon_delta_e7: vec![1_087_000_000, 500],
        lat_delta_e7: vec![296_000_000, -500],
        datum: pb::Datum::Wgs84.into(),
        sampling_s: 60,
        gaps: vec![patrol_pb::TrackGap { reason: "SAVING".into(), ..Default::default() }],
        battery_pct: 80,
    }
}

#[test]
fn each_field_of_a_track_is_refused() {
    check(
        "wuling.patrol.v1.TrackBatch",
        &track(),
        by(Rules::Store, track::track_batch),
        &[],
        &[
            ("patrol_id", |t| t.patrol_id = nil()),
            ("shift_id", |t| t.shift_id = nil()),
            ("start_time", |t| t.start_time = None),
            ("time_delta_s[0]", |t| t.time_delta_s[0] = 1),
            ("time_delta_s", |t| t.time_delta_s = vec![0; 1_001]),
            ("lon_delta_e7", |t| t.lon_delta_e7.truncate(1)),
            ("lon_delta_e7[1]", |t| t.lon_delta_e7[1] = 800_000_000),
            ("lat_delta_e7", |t| t.lat_delta_e7.push(0)),
            ("lat_delta_e7[0]", |t| t.lat_delta_e7 = vec![-900_000_001, 500]),
            ("datum", |t| t.datum = 0),
            ("datum", |t| t.datum = pb::Datum::Gcj02.into()),
            ("sampling_s", |t| t.sampling_s = 0),
            ("sampling_s", |t| t.sampling_s = 3_601),
            ("gaps", |t| t.gaps = vec![patrol_pb::TrackGap::default(); 65]),
            ("gaps[0].reason", |t| t.gaps[0].reason = "x".repeat(33)),
            ("battery_pct", |t| t.battery_pct = 101),
        ],
    );
}

#[test]
fn each_field_of_an_observation_is_refused() {
    let sound = patrol_pb::Observation { category: "GEOLOGICAL".into(), ..Default::default() };
    check(
        "wuling.patrol.v1.Observation",
        &sound,
        by(Rules::Store, patrol::observation),
        &[],
        &[
            ("patrol_id", |o| o.patrol_id = nil()),
            ("category", |o| o.category.clear()),
            ("category", |o| o.category = "x".repeat(33)),
            ("text", |o| o.text = "x".repeat(2_001)),
            ("text", |o| o.text = "\r\n".into()),
            ("point.lon", |o| o.point = Some(pb::GeoPoint { lon: 181.0, ..point() })),
            ("suggested_level", |o| o.suggested_level = 5),
        ],
    );
}

#[test]
fn each_field_of_a_call_for_help_is_refused() {
    let sound = patrol_pb::SosAlert { trigger: 1, state: 1, ..Default::default() };
    check(
        "wuling.patrol.v1.SosAlert",
        &sound,
        by(Rules::Store, patrol::sos_alert),
        &[],
        &[
            ("point.lat", |s| s.point = Some(pb::GeoPoint { lat: 91.0, ..point() })),
            ("last_known.datum", |s| s.last_known = Some(pb::GeoPoint { datum: 0, ..point() })),
            ("trigger", |s| s.trigger = 0),
            ("state", |s| s.state = 5),
            ("acknowledge_time", |s| s.acknowledge_time = time(0)),
            ("acknowledge_unit", |s| s.acknowledge_unit = "x".repeat(65)),
            ("patrol_id", |s| s.patrol_id = nil()),
            ("remark", |s| s.remark = "x".repeat(501)),
        ],
    );
}

fn event() -> risk_pb::Event {
    risk_pb::Event {
        domain: risk_pb::EventDomain::Safety.into(),
        category: "GEOLOGICAL".into(),
        source: risk_pb::EventSource::Patrol.into(),
        state: risk_pb::EventState::Reported.into(),
        ..Default::default()
    }
}

#[test]
fn each_field_of_an_event_is_refused() {
    check(
        "wuling.risk.v1.Event",
        &event(),
        by(Rules::Store, risk::event),
        &["urgent"],
        &[
            ("domain", |e| e.domain = 0),
            ("domain", |e| e.domain = 7),
            ("category", |e| e.category.clear()),
            ("emergency_class", |e| e.emergency_class = 5),
            ("level", |e| e.level = 5),
            ("place", |e| e.place = "x".repeat(257)),
            ("point.datum", |e| e.point = Some(pb::GeoPoint { datum: 3, ..point() })),
            ("text", |e| e.text = "x".repeat(2_001)),
            ("source", |e| e.source = 0),
            ("affected_count", |e| e.affected_count = 10_000_001),
            ("deadline_time", |e| e.deadline_time = time(i64::MAX)),
            ("state", |e| e.state = 0),
            ("handling_unit", |e| e.handling_unit = "x".repeat(65)),
            ("observation_id", |e| e.observation_id = nil()),
        ],
    );
}

fn sound_operation(change: Change) -> device_pb::Operation {
    device_pb::Operation {
        operation_id: id(1),
        record_id: id(2),
        parent_ids: vec![id(3)],
        base_revision: Some(pb::Revision { t: 0, epoch: id(4), n: 1 }),
        occur_time: time(NOW_S),
        record_time: time(NOW_S),
        device_seq: 1,
        author_unit: String::new(),
        author_ref: String::new(),
        sensitivity: 0,
        external_ref: None,
        change: Some(change),
    }
}

#[test]
fn each_field_of_an_operation_is_refused() {
    let sound = sound_operation(Change::ReportEvent(event()));
    let decode = |operation| operation::decode(operation, Path::ROOT);
    check(
        "wuling.device.v1.Operation",
        &sound,
        decode,
        &[],
        &[
            ("operation_id", |o| o.operation_id = nil()),
            ("record_id", |o| o.record_id = Bytes::new()),
            ("parent_ids", |o| o.parent_ids = vec![id(3); 9]),
            ("parent_ids[1]", |o| o.parent_ids.push(nil())),
            ("base_revision.epoch", |o| o.base_revision.as_mut().unwrap().epoch = nil()),
            ("occur_time", |o| o.occur_time = None),
            ("record_time", |o| o.record_time = time(-1)),
            ("device_seq", |o| o.device_seq = 0),
            ("author_unit", |o| o.author_unit = "\u{1b}[31m".into()),
            ("author_ref", |o| o.author_ref = "x".repeat(65)),
            ("sensitivity", |o| o.sensitivity = 6),
            ("external_ref.system", |o| {
                o.external_ref = Some(pb::ExternalRef { system: String::new(), id: "1".into() });
            }),
            ("change", |o| o.change = None),
        ],
    );
}

#[test]
fn each_verb_and_its_words_are_refused() {
    let cases: [(&str, Change); 9] = [
        ("shift_transition.verb", Change::ShiftTransition(device_pb::ShiftTransition::default())),
        (
            "shift_transition.handover_note",
            Change::ShiftTransition(device_pb::ShiftTransition {
                verb: 1,
                handover_note: "x".repeat(2_001),
            }),
        ),
        (
            "patrol_transition.verb",
            Change::PatrolTransition(device_pb::PatrolTransition { verb: 8, mode: 0 }),
        ),
        (
            "patrol_transition.mode",
            Change::PatrolTransition(device_pb::PatrolTransition { verb: 1, mode: 6 }),
        ),
        ("event_transition.verb", Change::EventTransition(device_pb::EventTransition::default())),
        (
            "event_transition.level",
            Change::EventTransition(device_pb::EventTransition {
                verb: 1,
                level: 9,
                handling_unit: String::new(),
            }),
        ),
        (
            "event_transition.handling_unit",
            Change::EventTransition(device_pb::EventTransition {
                verb: 4,
                level: 0,
                handling_unit: "x".repeat(65),
            }),
        ),
        ("sos_transition.verb", Change::SosTransition(device_pb::SosTransition::default())),
        (
            "sos_transition.unit",
            Change::SosTransition(device_pb::SosTransition { verb: 1, unit: "x".repeat(65) }),
        ),
    ];
    for (path, change) in cases {
        let refused = operation::decode(sound_operation(change), Path::ROOT).expect_err(path).0;
        assert_eq!(refused.len(), 1, "{path}");
        assert_eq!(refused[0].field, path);
    }
}

#[test]
fn each_member_of_an_operation_is_named_in_the_path() {
    let changes = [
        ("open_shift.unit", Change::OpenShift(patrol_pb::Shift::default())),
        ("plan_patrol.route", Change::PlanPatrol(patrol_pb::Patrol::default())),
        ("check_in.checkpoint", Change::CheckIn(patrol_pb::CheckIn::default())),
        ("track_batch.datum", Change::TrackBatch(patrol_pb::TrackBatch::default())),
        ("observation.category", Change::Observation(patrol_pb::Observation::default())),
        ("report_event.domain", Change::ReportEvent(risk_pb::Event::default())),
        ("raise_sos.trigger", Change::RaiseSos(patrol_pb::SosAlert::default())),
    ];
    let batch = Path::from("operations");
    for (path, change) in changes {
        let refused = operation::decode(sound_operation(change), batch.item(3)).expect_err(path);
        let path = format!("operations[3].{path}");
        assert!(refused.0.iter().any(|violation| violation.field == path), "{path}: {refused}");
    }
}

#[test]
fn all_mistakes_of_a_message_are_reported_together_up_to_a_limit() {
    let refused = operation::decode(device_pb::Operation::default(), Path::ROOT).unwrap_err();
    let paths: Vec<_> = refused.0.iter().map(|violation| violation.field.as_str()).collect();
    let missing =
        ["operation_id", "record_id", "occur_time", "record_time", "device_seq", "change"];
    assert_eq!(paths, missing);
    assert_eq!(refused.to_string(), "operation_id must be given, and 5 more fields are wrong");
    let parties = vec![agreement_pb::Party::default(); 64];
    let many = agreement_pb::Agreement { parties, ..Default::default() };
    let refused = agreement::decode(&many.encode_to_vec(), [0; 32]).unwrap_err();
    assert_eq!(refused.0.len(), VIOLATIONS_MAX);
}

#[test]
fn a_callers_word_on_what_only_the_rules_set_is_ignored() {
    let spoilt = risk_pb::Event { state: 2, ..event() };
    let event = risk::decode(spoilt, "event").unwrap();
    assert_eq!(event.state, domain::risk::EventState::Reported);
    let spoilt = patrol_pb::Shift { open_time: time(NOW_S), state: 3, ..shift() };
    let shift = by(Rules::Caller, patrol::shift)(spoilt).unwrap();
    assert_eq!((shift.state, shift.opened_at), (domain::patrol::ShiftState::Open, None));
}

#[test]
fn a_callers_gcj02_becomes_wgs84_and_a_stored_one_is_refused() {
    let (lon, lat) = domain::kernel::wgs84_to_gcj02(108.7, 29.6);
    let moved = pb::GeoPoint { lon, lat, datum: pb::Datum::Gcj02.into(), ..point() };
    let kept = by(Rules::Caller, kernel::point)(moved).unwrap();
    assert!((kept.lon - 108.7).abs() < 1e-8 && (kept.lat - 29.6).abs() < 1e-8);
    assert_eq!(kept.datum, domain::kernel::Datum::Wgs84);
    let refused = by(Rules::Store, kernel::point)(moved).unwrap_err().0;
    assert_eq!(refused[0].field, "datum");
}

#[test]
fn a_track_in_gcj02_is_moved_point_by_point() {
    let places = [(108.7, 29.6), (108.701, 29.6005), (108.7025, 29.599)];
    let e7 = |degrees: f64| (degrees * 1e7).round() as i32;
    let deltas = |all: Vec<i32>| {
        all.iter().scan(0, |last, &at| Some(at - std::mem::replace(last, at))).collect::<Vec<_>>()
    };
    let moved = places.map(|(lon, lat)| domain::kernel::wgs84_to_gcj02(lon, lat));
    let batch = patrol_pb::TrackBatch {
        datum: pb::Datum::Gcj02.into(),
        time_delta_s: vec![0, 60, 60],
        lon_delta_e7: deltas(moved.iter().map(|place| e7(place.0)).collect()),
        lat_delta_e7: deltas(moved.iter().map(|place| e7(place.1)).collect()),
        ..track()
    };
    let kept = by(Rules::Caller, track::track_batch)(batch).unwrap();
    assert_eq!(kept.datum, domain::kernel::Datum::Wgs84);
    let (mut lon, mut lat) = (0, 0);
    for (i, place) in places.iter().enumerate() {
        lon += kept.lon_delta_e7[i];
        lat += kept.lat_delta_e7[i];
        assert!((lon - e7(place.0)).abs() <= 1 && (lat - e7(place.1)).abs() <= 1, "point {i}");
    }
}

#[test]
fn a_body_of_another_kind_or_too_long_is_refused() {
    let Body::Event(_) = body::decode(Kind::Event, &event().encode_to_vec()).unwrap() else {
        panic!("an event is read as an event");
    };
    assert!(body::decode(Kind::Shift, &event().encode_to_vec()).is_err());
    assert!(body::decode(Kind::Event, b"\xff\xff").is_err());
    let long = vec![0; body::PAYLOAD_BYTES_MAX + 1];
    assert_eq!(body::decode(Kind::Event, &long).unwrap_err().0[0].field, "payload");
}
