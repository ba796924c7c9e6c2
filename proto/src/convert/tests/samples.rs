//! Values to convert: generated ones of every shape the door passes.

use domain::agreement::{
    Agreement, AgreementForm, Area, Clause, Force, Grant, Party, Precision, Release, Zone,
};
use domain::directory::{
    CodeScheme, DelegatedDirectory, Directory, DivisionCode, Gateway, Region, RegionLevel,
};
use domain::kernel::{
    AgreementId, Datum, EmergencyLevel, Epoch, FixSource, GatewayId, GeoPoint, Lane, LinkageId,
    OperationId, Purpose, RecordId, RegionId, RetentionClass, Revision, Sensitivity, Timestamp,
};
use domain::operation::{Change, Operation};
use domain::outline::{Corner, Outline};
use domain::patrol::{
    CheckIn, CheckInMethod, CheckInQuality, Leg, Observation, Patrol, PatrolMode, PatrolState,
    PatrolVerb, RouteKind, Shift, ShiftState, ShiftVerb, SosAlert, SosState, SosTrigger, SosVerb,
    TrackBatch, TrackGap,
};
use domain::record::{Body, ExternalRef, Record, RecordMeta};
use domain::risk::{EmergencyClass, Event, EventDomain, EventSource, EventState, EventVerb};
use domain::stream::{Position, StreamId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message as _;
use std::fmt::Debug;

pub(super) fn time() -> impl Strategy<Value = Timestamp> {
    (946_684_800_000_000..=253_402_300_799_999_999_i64).prop_map(Timestamp::from_micros)
}

/// Two times, the first before the second where both are given.
fn period() -> impl Strategy<Value = (Option<Timestamp>, Option<Timestamp>)> {
    (option::of(time()), option::of(time())).prop_map(|(a, b)| match (a, b) {
        (Some(a), Some(b)) if a == b => (Some(a), None),
        (Some(a), Some(b)) => (Some(a.min(b)), Some(a.max(b))),
        other => other,
    })
}

fn code<T: Copy + Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    select(all)
}

fn maybe<T: Copy + Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = Option<T>> {
    option::of(select(all))
}

fn id<T: Debug>(parse: fn(&[u8]) -> Option<T>) -> impl Strategy<Value = T> {
    any::<[u8; 16]>().prop_map(move |mut bytes| {
        bytes[6] = 0x70 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        parse(&bytes).expect("made as a UUIDv7")
    })
}

fn record_id() -> impl Strategy<Value = RecordId> {
    id(RecordId::from_slice)
}

fn region_id() -> impl Strategy<Value = RegionId> {
    "[a-z0-9-]{1,63}".prop_map(|text| RegionId::parse(&text).expect("made as a slug"))
}

/// A name: Han characters are three bytes each.
fn line(bytes_min: usize, bytes_max: usize) -> impl Strategy<Value = String> {
    vec(select(vec!['a', '9', ' ', '-', '滑', '坡']), bytes_min..=bytes_max / 3)
        .prop_map(|chars| chars.into_iter().collect())
}

fn words(bytes_max: usize) -> impl Strategy<Value = String> {
    vec(select(vec!['a', '\n', '\t', '。', '溪']), 0..=bytes_max.min(300) / 3)
        .prop_map(|chars| chars.into_iter().collect())
}

fn staff_ref() -> impl Strategy<Value = Option<String>> {
    option::of(line(1, 64))
}

prop_compose! {
    pub(super) fn point()(
        lon in -180.0..=180.0_f64,
        lat in -90.0..=90.0_f64,
        accuracy_m in 0.0..=100_000.0_f32,
        datum in select(vec![Datum::Wgs84, Datum::Cgcs2000]),
        source in maybe(FixSource::ALL),
        altitude_m in option::of(-500.0..=9_000.0_f32),
    ) -> GeoPoint {
        GeoPoint { lon, lat, accuracy_m, datum, source, altitude_m }
    }
}

prop_compose! {
    pub(super) fn revision()(
        t in any::<u32>(),
        epoch in id(Epoch::from_slice),
        n in 1..=u64::MAX,
    ) -> Revision {
        Revision { t, epoch, n }
    }
}

prop_compose! {
    fn external_ref()(system in line(1, 64), id in line(1, 128)) -> ExternalRef {
        ExternalRef { system, id }
    }
}

prop_compose! {
    fn shift()(
        unit in line(1, 64),
        station in line(0, 128),
        (planned_start_at, planned_end_at) in period(),
        opened_at in option::of(time()),
        closed_at in option::of(time()),
        state in code(ShiftState::ALL),
        staff_count in 0..=1_000_u32,
        roster_refs in vec(line(1, 64), 0..4),
        handover_note in words(2_000),
    ) -> Shift {
        Shift {
            unit, station, planned_start_at, planned_end_at, opened_at, closed_at, state,
            staff_count, roster_refs, handover_note,
        }
    }
}

prop_compose! {
    fn leg()(
        mode in maybe(PatrolMode::ALL),
        started_at in time(),
        ended_at in option::of(time()),
    ) -> Leg {
        Leg { mode, started_at, ended_at }
    }
}

prop_compose! {
    fn patrol()(
        shift_id in record_id(),
        mandate in words(256),
        route in line(1, 128),
        route_kind in maybe(RouteKind::ALL),
        member_count in 1..=200_u32,
        partner_units in vec(line(1, 64), 0..4),
        legs in vec(leg(), 0..4),
        state in code(PatrolState::ALL),
        (started_at, ended_at) in period(),
        leader_ref in staff_ref(),
    ) -> Patrol {
        Patrol {
            shift_id, mandate, route, route_kind, member_count, partner_units, legs, state,
            started_at, ended_at, leader_ref,
        }
    }
}

prop_compose! {
    fn check_in()(
        patrol_id in record_id(),
        checkpoint in line(1, 128),
        method in code(CheckInMethod::ALL),
        point in option::of(point()),
        distance_m in 0.0..=1_000_000.0_f64,
        quality in maybe(CheckInQuality::ALL),
        remark in words(500),
    ) -> CheckIn {
        CheckIn { patrol_id, checkpoint, method, point, distance_m, quality, remark }
    }
}

prop_compose! {
    fn gap()(
        start_offset_s in any::<u32>(),
        duration_s in any::<u32>(),
        reason in line(0, 32),
    ) -> TrackGap {
        TrackGap { start_offset_s, duration_s, reason }
    }
}

prop_compose! {
    pub(super) fn track_batch()(
        patrol_id in record_id(),
        shift_id in record_id(),
        started_at in time(),
        points in vec((0..=600_u32, -1_000..=1_000_i32, -1_000..=1_000_i32), 0..50),
        datum in select(vec![Datum::Wgs84, Datum::Cgcs2000]),
        sampling_s in 1..=3_600_u32,
        gaps in vec(gap(), 0..4),
        battery_pct in 0..=100_u32,
    ) -> TrackBatch {
        let mut batch = TrackBatch {
            patrol_id, shift_id, started_at, datum, sampling_s, gaps, battery_pct,
            time_delta_s: points.iter().map(|point| point.0).collect(),
            lon_delta_e7: points.iter().map(|point| point.1).collect(),
            lat_delta_e7: points.iter().map(|point| point.2).collect(),
        };
        // The first point is where the batch starts, in the north of Xiaonanhai.
        for (first, value) in [(&mut batch.lon_delta_e7, 1_087_000_000), (&mut batch.lat_delta_e7, 296_000_000)] {
            first.iter_mut().take(1).for_each(|delta| *delta = value);
        }
        batch.time_delta_s.iter_mut().take(1).for_each(|delta| *delta = 0);
        batch
    }
}

prop_compose! {
    fn observation()(
        patrol_id in option::of(record_id()),
        category in line(1, 32),
        text in words(2_000),
        point in option::of(point()),
        suggested_level in maybe(EmergencyLevel::ALL),
    ) -> Observation {
        Observation { patrol_id, category, text, point, suggested_level }
    }
}

prop_compose! {
    fn event()(
        (domain, emergency_class, level) in (
            code(EventDomain::ALL), maybe(EmergencyClass::ALL), maybe(EmergencyLevel::ALL),
        ),
        category in line(1, 32),
        (place, text) in (words(256), words(2_000)),
        point in option::of(point()),
        source in code(EventSource::ALL),
        affected_count in 0..=10_000_000_u32,
        urgent in any::<bool>(),
        deadline_at in option::of(time()),
        state in code(EventState::ALL),
        handling_unit in line(0, 64),
        observation_id in option::of(record_id()),
    ) -> Event {
        Event {
            domain, category, emergency_class, level, place, point, text, source, affected_count,
            urgent, deadline_at, state, handling_unit, observation_id,
        }
    }
}

prop_compose! {
    fn sos_alert()(
        point in option::of(point()),
        last_known in option::of(point()),
        trigger in code(SosTrigger::ALL),
        state in code(SosState::ALL),
        acknowledged_at in option::of(time()),
        acknowledge_unit in line(0, 64),
        patrol_id in option::of(record_id()),
        remark in words(500),
    ) -> SosAlert {
        SosAlert {
            point, last_known, trigger, state, acknowledged_at, acknowledge_unit, patrol_id, remark,
        }
    }
}

pub(super) fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        shift().prop_map(Body::Shift),
        patrol().prop_map(Body::Patrol),
        check_in().prop_map(Body::CheckIn),
        track_batch().prop_map(Body::TrackBatch),
        observation().prop_map(Body::Observation),
        event().prop_map(Body::Event),
        sos_alert().prop_map(Body::SosAlert),
    ]
}

prop_compose! {
    /// A signed acceptance, as far as the door looks at one.
    fn accept()(body in vec(any::<u8>(), 1..64), signature in vec(any::<u8>(), 64)) -> Vec<u8> {
        let signature = crate::kernel::v1::Signature {
            signer: "daluba".to_owned(),
            key_id: bytes::Bytes::from_static(&[1; 8]),
            signature: signature.into(),
        };
        crate::kernel::v1::SignedObject { body: body.into(), signatures: vec![signature] }
            .encode_to_vec()
    }
}

prop_compose! {
    fn meta()(
        (record_id, birth_region, owner_region, revision) in
            (record_id(), region_id(), region_id(), revision()),
        (occurred_at, recorded_at, received_at, expires_at) in (time(), time(), time(), time()),
        clock_offset_ms in any::<i64>(),
        author_unit in line(0, 64),
        author_ref in staff_ref(),
        sensitivity in code(Sensitivity::ALL),
        sensitivity_parties in vec(region_id(), 0..4),
        external_ref in option::of(external_ref()),
        retention_class in code(RetentionClass::ALL),
        transfers in vec(accept(), 0..3),
    ) -> RecordMeta {
        RecordMeta {
            record_id, birth_region, owner_region, revision, occurred_at, recorded_at, received_at,
            clock_offset_ms, author_unit, author_ref, sensitivity, sensitivity_parties,
            external_ref, retention_class, expires_at, transfers,
            // Replaced by the body's.
            kind: domain::kernel::Kind::Shift,
        }
    }
}

prop_compose! {
    pub(super) fn record()(meta in meta(), body in body()) -> Record {
        Record { meta: RecordMeta { kind: body.kind(), ..meta }, body, device: None }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        7 => body().prop_map(fresh),
        1 => (code(ShiftVerb::ALL), words(2_000))
            .prop_map(|(verb, handover_note)| Change::Shift { verb, handover_note }),
        1 => (code(PatrolVerb::ALL), maybe(PatrolMode::ALL))
            .prop_map(|(verb, mode)| Change::Patrol { verb, mode }),
        1 => (code(EventVerb::ALL), maybe(EmergencyLevel::ALL), line(0, 64))
            .prop_map(|(verb, level, handling_unit)| Change::Event { verb, level, handling_unit }),
        1 => (code(SosVerb::ALL), line(0, 64)).prop_map(|(verb, unit)| Change::Sos { verb, unit }),
    ]
}

/// A record as its maker sends it, before the rules have set anything.
fn fresh(body: Body) -> Change {
    match body {
        Body::Shift(shift) => Change::OpenShift(Shift {
            state: ShiftState::Open,
            opened_at: None,
            closed_at: None,
            ..shift
        }),
        Body::Patrol(patrol) => Change::PlanPatrol(Patrol {
            state: PatrolState::Planned,
            started_at: None,
            ended_at: None,
            ..patrol
        }),
        Body::CheckIn(check_in) => Change::CheckIn(check_in),
        Body::TrackBatch(batch) => Change::TrackBatch(batch),
        Body::Observation(observation) => Change::Observation(observation),
        Body::Event(event) => Change::ReportEvent(Event { state: EventState::Reported, ..event }),
        Body::SosAlert(alert) => Change::RaiseSos(SosAlert {
            state: SosState::Raised,
            acknowledged_at: None,
            acknowledge_unit: String::new(),
            ..alert
        }),
    }
}

prop_compose! {
    pub(super) fn operation()(
        operation_id in id(OperationId::from_slice),
        record_id in record_id(),
        parent_ids in vec(id(OperationId::from_slice), 0..=8),
        base_revision in option::of(revision()),
        (occurred_at, recorded_at) in (time(), time()),
        device_seq in 1..=u64::MAX,
        author_unit in line(0, 64),
        author_ref in staff_ref(),
        sensitivity in maybe(Sensitivity::ALL),
        external_ref in option::of(external_ref()),
        change in change(),
    ) -> Operation {
        Operation {
            operation_id, record_id, parent_ids, base_revision, occurred_at, recorded_at,
            device_seq, author_unit, author_ref, sensitivity, external_ref, change,
        }
    }
}

prop_compose! {
    pub(super) fn stream_id()(
        origin in region_id(),
        epoch in id(Epoch::from_slice),
        agreement in id(AgreementId::from_slice),
        version in 1..=u32::MAX,
        lane in code(Lane::ALL),
    ) -> StreamId {
        StreamId { origin, epoch, agreement, version, lane }
    }
}

prop_compose! {
    pub(super) fn position()(seq in any::<u64>(), h in any::<[u8; 32]>()) -> Position {
        Position { seq, h }
    }
}

prop_compose! {
    fn clause()(
        grant in code(Grant::ALL),
        categories in vec(line(1, 32), 0..4),
        min_level in maybe(EmergencyLevel::ALL),
        release in code(Release::ALL),
        fields in vec("[a-z_]{1,64}", 0..4),
        area in area(),
        precision in code(Precision::ALL),
    ) -> Clause {
        Clause { grant, categories, min_level, release, fields, area, precision }
    }
}

prop_compose! {
    fn outline(rings_min: usize)(
        rings in vec(
            vec((-1_800_000_000..=1_800_000_000, -900_000_000..=900_000_000), 3..9),
            rings_min..4,
        ),
    ) -> Outline {
        let corner = |(lon_e7, lat_e7)| Corner { lon_e7, lat_e7 };
        Outline::new(rings.into_iter().map(|ring| ring.into_iter().map(corner).collect()).collect())
    }
}

fn area() -> impl Strategy<Value = Area> {
    let zone = (line(1, 64), outline(1)).prop_map(|(name, outline)| Zone { name, outline });
    prop_oneof![
        Just(Area::Everywhere),
        vec(zone, 1..4).prop_map(Area::Zones),
        (1..=50_000_u32).prop_map(Area::NearParties),
        vec(line(1, 64), 1..4).prop_map(Area::Places),
    ]
}

prop_compose! {
    pub(super) fn agreement()(
        agreement_id in id(AgreementId::from_slice),
        version in 1..=u32::MAX,
        form in code(AgreementForm::ALL),
        title in line(1, 128),
        parties in proptest::collection::btree_map(region_id(), any::<[u8; 32]>(), 2..5),
        clauses in vec(clause(), 1..4),
        purposes in vec(code(Purpose::ALL), 1..=8),
        started_at in time().prop_filter("room for an end", |at| at.micros() < 250_000_000_000_000_000),
        retention_days in option::of(1..=3_650_u32),
        force in code(Force::ALL),
        supersedes in any::<[u8; 32]>(),
        sha256 in any::<[u8; 32]>(),
    ) -> Agreement {
        let party = |(region, signing_key_sha256)| Party { region, signing_key_sha256 };
        Agreement {
            agreement_id, version, form, title, clauses, purposes, started_at, retention_days,
            sha256,
            parties: parties.into_iter().map(party).collect(),
            ended_at: started_at.plus_days(if form == AgreementForm::Annex { 3 } else { 365 }),
            force: if force == Force::Ready && form != AgreementForm::Annex {
                Force::Suspended
            } else {
                force
            },
            supersedes: (version > 1).then_some(supersedes),
        }
    }
}

prop_compose! {
    fn division_code()(
        scheme in code(CodeScheme::ALL),
        code in "[0-9]{6,12}",
        edition in "[0-9-]{4,10}",
    ) -> DivisionCode {
        DivisionCode { scheme, code, edition }
    }
}

prop_compose! {
    fn region()(
        region_id in region_id(),
        level in code(RegionLevel::ALL),
        codes in vec(division_code(), 0..=8),
        (name_zh, name_en) in (line(1, 64), line(1, 64)),
        superior in option::of(region_id()),
        (signing_key, sealing_key) in any::<([u8; 32], [u8; 32])>(),
        authority_certificate in vec(any::<u8>(), 1..64),
        endpoint in select(vec!["", "xiaonanhai.example:7443", "192.0.2.1:1"]),
        outline in outline(0),
    ) -> Region {
        Region {
            region_id, level, codes, name_zh, name_en, superior, signing_key, sealing_key,
            authority_certificate, endpoint: endpoint.to_owned(), outline,
            former_keys: Vec::new(),
        }
    }
}

prop_compose! {
    pub(super) fn directory()(
        linkage in "[a-z0-9-]{1,63}",
        version in 1..=u64::MAX,
        created_at in time(),
        regions in vec(region(), 0..4),
        gateways in vec(("[a-z0-9-]{1,63}", vec(any::<u8>(), 1..64)), 0..4),
        freshness_key in option::of(any::<[u8; 32]>()),
        (delegated, regions_max) in (0..4_usize, 1..=1_000_u32),
    ) -> Directory {
        let counties = regions.iter().take(delegated);
        let delegations =
            counties.map(|region| (region.region_id.clone(), regions_max)).collect();
        let gateway = |(id, authority_certificate): (String, _)| Gateway {
            gateway_id: GatewayId::parse(&id).expect("made as a slug"),
            authority_certificate,
            endpoint: "gateway.example:7444".to_owned(),
        };
        Directory {
            linkage_id: LinkageId::parse(&linkage).expect("made as a slug"),
            version,
            created_at,
            regions: regions.into_iter().map(|region| (region.region_id.clone(), region)).collect(),
            gateways: gateways
                .into_iter()
                .map(gateway)
                .map(|gateway| (gateway.gateway_id.clone(), gateway))
                .collect(),
            freshness_key,
            delegations,
        }
    }
}

prop_compose! {
    pub(super) fn delegated()(
        directory in directory(),
        superior in region_id(),
    ) -> DelegatedDirectory {
        let Directory { linkage_id, version, created_at, mut regions, .. } = directory;
        for region in regions.values_mut() {
            region.level = RegionLevel::Township;
            region.superior = Some(superior.clone());
        }
        DelegatedDirectory { linkage_id, superior, version, created_at, regions }
    }
}
