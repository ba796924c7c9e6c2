//! Records for tests, each as plain as its kind allows.

use crate::agreement::{Agreement, AgreementForm, Clause, Force, Grant, Party, Release};
use crate::directory::{Directory, Region, RegionLevel};
use crate::kernel::{
    AgreementId, Datum, EmergencyLevel, Entropy, Epoch, FixSource, GeoPoint, LinkageId, Purpose,
    RecordId, RegionId, Revision, Sensitivity, Timestamp,
};
use crate::outline::{Corner, Outline};
use crate::patrol::{
    CheckIn, CheckInMethod, Observation, Patrol, PatrolState, Shift, ShiftState, SosAlert,
    SosState, SosTrigger, TrackBatch,
};
use crate::record::{Body, Record, RecordMeta};
use crate::risk::{Event, EventDomain, EventSource, EventState};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// 2026-07-01T00:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_782_864_000_000_000);

struct Zeros;
impl Entropy for Zeros {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

pub(crate) fn region(slug: &str) -> RegionId {
    RegionId::parse(slug).expect("a slug")
}

pub(crate) fn record_id(n: i64) -> RecordId {
    RecordId::mint(Timestamp::from_micros(n), &Zeros)
}

pub(crate) fn epoch() -> Epoch {
    Epoch::mint(Timestamp::from_micros(1_000), &Zeros)
}

pub(crate) fn shift() -> Shift {
    Shift {
        unit: "police-1".to_owned(),
        station: "小南海派出所".to_owned(),
        planned_start_at: None,
        planned_end_at: None,
        opened_at: Some(NOW.plus_millis(-3_600_000)),
        closed_at: None,
        state: ShiftState::Open,
        staff_count: 4,
        roster_refs: vec!["s-17".to_owned()],
        handover_note: String::new(),
    }
}

pub(crate) fn patrol() -> Patrol {
    Patrol {
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
        leader_ref: Some("s-17".to_owned()),
    }
}

pub(crate) fn check_in() -> CheckIn {
    CheckIn {
        patrol_id: record_id(901),
        checkpoint: "界桩 12".to_owned(),
        method: CheckInMethod::Nfc,
        point: None,
        distance_m: 3.0,
        quality: None,
        remark: String::new(),
    }
}

pub(crate) fn track_batch() -> TrackBatch {
    TrackBatch {
        patrol_id: record_id(901),
        shift_id: record_id(900),
        started_at: NOW.plus_millis(-600_000),
        time_delta_s: vec![0, 60, 60],
        lon_delta_e7: vec![1_087_718_700, 12, -7],
        lat_delta_e7: vec![295_351_200, 4, 9],
        datum: Datum::Wgs84,
        sampling_s: 60,
        gaps: Vec::new(),
        battery_pct: 80,
    }
}

pub(crate) fn observation() -> Observation {
    Observation {
        patrol_id: None,
        category: "ROAD_DAMAGE".to_owned(),
        text: "路面塌陷".to_owned(),
        point: None,
        suggested_level: None,
    }
}

pub(crate) fn event() -> Event {
    Event {
        domain: EventDomain::Safety,
        category: "GEOLOGICAL".to_owned(),
        emergency_class: None,
        level: Some(EmergencyLevel::III),
        place: "黑溪镇后山".to_owned(),
        point: None,
        text: "滑坡,约 300 方".to_owned(),
        source: EventSource::Patrol,
        affected_count: 23,
        urgent: false,
        deadline_at: None,
        state: EventState::Accepted,
        handling_unit: String::new(),
        observation_id: None,
    }
}

pub(crate) fn sos() -> SosAlert {
    SosAlert {
        point: None,
        last_known: None,
        trigger: SosTrigger::Button,
        state: SosState::Raised,
        acknowledged_at: None,
        acknowledge_unit: String::new(),
        patrol_id: None,
        remark: "腿伤,走不了".to_owned(),
    }
}

/// A place that was measured well.
pub(crate) fn point(lon: f64, lat: f64) -> GeoPoint {
    let source = Some(FixSource::Gnss);
    GeoPoint { lon, lat, accuracy_m: 5.0, datum: Datum::Wgs84, source, altitude_m: Some(700.0) }
}

/// Counties and townships as they are drawn in the demo's data.
pub(crate) fn outlines() -> Vec<(RegionId, Outline)> {
    let mut rings: Vec<(&str, &str, Vec<Corner>)> = Vec::new();
    for line in include_str!("../../cli/data/outlines.csv").lines().skip(1) {
        let mut cells = line.split(',');
        let (Some(id), Some(ring)) = (cells.next(), cells.next()) else { panic!("{line}") };
        let mut e7 = || -> i32 {
            let degrees: f64 = cells.next().expect("two numbers").parse().expect("a number");
            (degrees * 1e7).round() as i32
        };
        let corner = Corner { lon_e7: e7(), lat_e7: e7() };
        match rings.last_mut() {
            Some((of, last, corners)) if *of == id && *last == ring => corners.push(corner),
            _ => rings.push((id, ring, vec![corner])),
        }
    }
    let regions = rings.chunk_by(|one, next| one.0 == next.0);
    let outline = |rings: &[(&str, &str, Vec<Corner>)]| {
        (region(rings[0].0), Outline::new(rings.iter().map(|(_, _, ring)| ring.clone()).collect()))
    };
    regions.map(outline).collect()
}

/// A record of `xiaonanhai`, taken a minute ago.
pub(crate) fn record(body: Body) -> Record {
    let kind = body.kind();
    Record {
        meta: RecordMeta {
            record_id: record_id(1_000),
            kind,
            birth_region: region("xiaonanhai"),
            owner_region: region("xiaonanhai"),
            revision: Revision { t: 0, epoch: epoch(), n: 1 },
            occurred_at: NOW.plus_millis(-120_000),
            recorded_at: NOW.plus_millis(-110_000),
            received_at: NOW.plus_millis(-60_000),
            clock_offset_ms: 0,
            author_unit: "police-1".to_owned(),
            author_ref: Some("s-17".to_owned()),
            sensitivity: Sensitivity::Region,
            sensitivity_parties: Vec::new(),
            external_ref: None,
            retention_class: kind.retention_class(),
            expires_at: NOW.plus_days(30),
            transfers: Vec::new(),
        },
        body,
        device: None,
    }
}

/// A clause that lets all of its grant leave at once.
pub(crate) fn clause(grant: Grant) -> Clause {
    Clause::whole(grant, Release::AtOnce)
}

/// An agreement in force between the regions.
pub(crate) fn agreement(parties: &[&str], clauses: Vec<Clause>) -> Agreement {
    Agreement {
        agreement_id: AgreementId::mint(Timestamp::from_micros(2_000), &Zeros),
        version: 1,
        form: AgreementForm::Agreement,
        title: "平安边界".to_owned(),
        parties: parties
            .iter()
            .map(|slug| Party { region: region(slug), signing_key_sha256: [0; 32] })
            .collect(),
        clauses,
        purposes: vec![Purpose::Duty],
        started_at: NOW.plus_days(-10),
        ended_at: NOW.plus_days(10),
        retention_days: None,
        force: Force::InForce,
        supersedes: None,
        sha256: [0; 32],
    }
}

static OUTLINES: LazyLock<BTreeMap<String, Outline>> =
    LazyLock::new(|| outlines().into_iter().map(|(id, it)| (id.to_string(), it)).collect());

/// `xiaonanhai` and `zhoubai` in `qianjiang`, `daluba` in `xianfeng`; nobody has drawn `daluba`.
pub(crate) fn directory() -> Directory {
    let rows = [
        ("qianjiang", None),
        ("xiaonanhai", Some("qianjiang")),
        ("zhoubai", Some("qianjiang")),
        ("xianfeng", None),
        ("daluba", Some("xianfeng")),
    ];
    let regions = rows.map(|(slug, superior)| {
        let level = if superior.is_some() { RegionLevel::Township } else { RegionLevel::County };
        let region_id = region(slug);
        let found = Region {
            region_id: region_id.clone(),
            level,
            codes: Vec::new(),
            name_zh: slug.to_owned(),
            name_en: slug.to_owned(),
            superior: superior.map(region),
            signing_key: [0; 32],
            sealing_key: [0; 32],
            authority_certificate: Vec::new(),
            endpoint: String::new(),
            outline: OUTLINES.get(slug).cloned().unwrap_or_default(),
            former_keys: Vec::new(),
        };
        (region_id, found)
    });
    Directory {
        linkage_id: LinkageId::parse("wuling").expect("a slug"),
        version: 1,
        created_at: NOW,
        regions: regions.into(),
        gateways: BTreeMap::new(),
        freshness_key: None,
        delegations: Default::default(),
    }
}
