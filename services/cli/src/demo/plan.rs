//! What the phones do, and when.

use super::data::{DemoEvent, DemoTrack};
use super::world::TOWNSHIP;
use crate::phone::Phone;
use anyhow::Result;
use device::Draft;
use domain::kernel::{Datum, EmergencyLevel, FixSource, GeoPoint, RecordId, RegionId, Timestamp};
use domain::operation::Change;
use domain::patrol::{
    CheckIn, CheckInMethod, CheckInQuality, Patrol, PatrolMode, PatrolState, PatrolVerb, RouteKind,
    Shift, ShiftState, SosAlert, SosState, SosTrigger, TrackBatch,
};
use domain::risk::{Event, EventSource, EventState, category};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the phones are busy.
pub(super) const BUSY: Duration = Duration::from_secs(24);
/// When the link is cut, after the start of the load, and for how long.
pub(super) const CUT_AT: Duration = Duration::from_secs(7);
pub(super) const CUT_FOR: Duration = Duration::from_secs(10);

/// Points of a track handed in together.
const POINTS_PER_BATCH: usize = 60;

/// Something a phone does.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Report(DemoEvent),
    OpenShift,
    StartPatrol,
    CheckIn(f64, f64, usize),
    Track(Vec<(f64, f64)>),
    CompletePatrol,
    Sos(f64, f64),
}

/// What the phone of each region does, in order of time.
pub(super) fn plan(
    events: Vec<DemoEvent>,
    tracks: &[DemoTrack],
) -> BTreeMap<RegionId, Vec<(Duration, Action)>> {
    let mut plan: BTreeMap<RegionId, Vec<(Duration, Action)>> = BTreeMap::new();
    // Events of one region and urgency are spread evenly, so that each stream has some while the link is
    // cut: the k-th of n comes at (k+1)/(n+1) of the time.
    let mut groups: BTreeMap<(RegionId, bool), Vec<DemoEvent>> = BTreeMap::new();
    for event in events {
        let urgent = matches!(event.level, Some(EmergencyLevel::I | EmergencyLevel::II));
        groups.entry((event.region.clone(), urgent)).or_default().push(event);
    }
    for ((region, _), group) in groups {
        let count = group.len();
        let todo = plan.entry(region).or_default();
        for (index, event) in group.into_iter().enumerate() {
            todo.push((at(index, count), Action::Report(event)));
        }
    }
    for track in tracks {
        let todo = plan.entry(track.region.clone()).or_default();
        todo.push((Duration::ZERO, Action::OpenShift));
        todo.push((Duration::from_millis(100), Action::StartPatrol));
        let batches: Vec<_> = track.points.chunks(POINTS_PER_BATCH).collect();
        for (index, points) in batches.iter().enumerate() {
            let when = at(index, batches.len());
            todo.push((when, Action::Track(points.to_vec())));
            if let Some((lon, lat)) = points.last() {
                todo.push((when, Action::CheckIn(*lon, *lat, index + 1)));
            }
        }
        todo.push((BUSY, Action::CompletePatrol));
        if track.region.as_str() == TOWNSHIP
            && let Some((lon, lat)) = track.points.get(track.points.len() / 2)
        {
            // One call for help while the link is up, one while it is cut.
            todo.push((CUT_AT / 2, Action::Sos(*lon, *lat)));
            todo.push((CUT_AT + CUT_FOR / 2, Action::Sos(*lon, *lat)));
        }
    }
    plan.values_mut().for_each(|todo| todo.sort_by_key(|(when, _)| *when));
    plan
}

fn at(index: usize, count: usize) -> Duration {
    let (index, count) =
        (u32::try_from(index).unwrap_or(0), u32::try_from(count).unwrap_or(u32::MAX - 1));
    BUSY * (index + 1) / (count + 1)
}

/// A shift and a patrol under way.
#[derive(Debug, Default)]
pub(super) struct OnDuty {
    shift: Option<RecordId>,
    patrol: Option<RecordId>,
}

impl OnDuty {
    /// Writes an action down on the phone; gives the record.
    pub(super) fn act(
        &mut self,
        phone: &mut Phone,
        name_zh: &str,
        action: Action,
        now: Timestamp,
    ) -> Result<RecordId> {
        let draft = match action {
            Action::Report(event) => {
                Draft::making(Change::ReportEvent(report(event, name_zh)), now)
            }
            Action::OpenShift => Draft::making(Change::OpenShift(shift(name_zh)), now),
            Action::StartPatrol => {
                let planned =
                    Draft::making(Change::PlanPatrol(patrol(self.shift()?, name_zh)), now);
                let planned = phone.device.record(planned)?;
                self.patrol = Some(planned.record_id);
                let start =
                    Change::Patrol { verb: PatrolVerb::Start, mode: Some(PatrolMode::Foot) };
                Draft::changing(planned.record_id, start, now)
            }
            Action::CheckIn(lon, lat, number) => {
                let check_in = CheckIn {
                    patrol_id: self.patrol()?,
                    checkpoint: format!("{name_zh}巡查点{number}"),
                    method: CheckInMethod::Qr,
                    point: Some(point(lon, lat)),
                    distance_m: 3.0,
                    quality: Some(CheckInQuality::Ok),
                    remark: String::new(),
                };
                Draft::making(Change::CheckIn(check_in), now)
            }
            Action::Track(points) => Draft::making(
                Change::TrackBatch(track(self.patrol()?, self.shift()?, &points, now)),
                now,
            ),
            Action::CompletePatrol => {
                let complete = Change::Patrol { verb: PatrolVerb::Complete, mode: None };
                Draft::changing(self.patrol()?, complete, now)
            }
            Action::Sos(lon, lat) => {
                Draft::making(Change::RaiseSos(sos(lon, lat, self.patrol)), now)
            }
        };
        let opens_shift = matches!(draft.change, Change::OpenShift(_));
        let recorded = phone.device.record(draft)?;
        if opens_shift {
            self.shift = Some(recorded.record_id);
        }
        Ok(recorded.record_id)
    }

    fn shift(&self) -> Result<RecordId> {
        self.shift.ok_or_else(|| anyhow::anyhow!("no shift is open"))
    }

    fn patrol(&self) -> Result<RecordId> {
        self.patrol.ok_or_else(|| anyhow::anyhow!("no patrol is under way"))
    }
}

fn point(lon: f64, lat: f64) -> GeoPoint {
    GeoPoint {
        lon,
        lat,
        accuracy_m: 8.0,
        datum: Datum::Wgs84,
        source: Some(FixSource::Gnss),
        altitude_m: None,
    }
}

fn report(event: DemoEvent, name_zh: &str) -> Event {
    let known = category(&event.category);
    Event {
        domain: event.domain,
        emergency_class: known.and_then(|category| category.class),
        level: event.level,
        place: name_zh.to_owned(),
        point: Some(point(event.lon, event.lat)),
        text: format!("演示：{}", known.map_or("其他", |category| category.zh)),
        category: event.category,
        source: EventSource::Patrol,
        affected_count: 0,
        urgent: matches!(event.level, Some(EmergencyLevel::I | EmergencyLevel::II)),
        deadline_at: None,
        state: EventState::Reported,
        handling_unit: String::new(),
        observation_id: None,
    }
}

fn shift(name_zh: &str) -> Shift {
    Shift {
        unit: "patrol-1".to_owned(),
        station: name_zh.to_owned(),
        planned_start_at: None,
        planned_end_at: None,
        opened_at: None,
        closed_at: None,
        state: ShiftState::Open,
        staff_count: 3,
        roster_refs: Vec::new(),
        handover_note: String::new(),
    }
}

fn patrol(shift_id: RecordId, name_zh: &str) -> Patrol {
    Patrol {
        shift_id,
        mandate: "演示".to_owned(),
        route: format!("{name_zh}联合巡查"),
        route_kind: Some(RouteKind::Border),
        member_count: 3,
        partner_units: Vec::new(),
        legs: Vec::new(),
        state: PatrolState::Planned,
        started_at: None,
        ended_at: None,
        leader_ref: None,
    }
}

/// The shape of a whole patrol is replayed within the demo's half minute: a second a point, ending now.
fn track(
    patrol_id: RecordId,
    shift_id: RecordId,
    points: &[(f64, f64)],
    now: Timestamp,
) -> TrackBatch {
    let mut before = (0, 0);
    let mut batch = TrackBatch {
        patrol_id,
        shift_id,
        started_at: now.plus_millis(-1_000 * i64::try_from(points.len()).unwrap_or(0)),
        time_delta_s: Vec::new(),
        lon_delta_e7: Vec::new(),
        lat_delta_e7: Vec::new(),
        datum: Datum::Wgs84,
        sampling_s: 1,
        gaps: Vec::new(),
        battery_pct: 80,
    };
    for (index, (lon, lat)) in points.iter().enumerate() {
        let (lon, lat) = (e7(*lon), e7(*lat));
        batch.time_delta_s.push(u32::from(index > 0));
        batch.lon_delta_e7.push(lon - before.0);
        batch.lat_delta_e7.push(lat - before.1);
        before = (lon, lat);
    }
    batch
}

/// Degrees as 1e-7 degrees; 180 degrees fit.
fn e7(degrees: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "at most 1.8e9")]
    let scaled = (degrees * 1e7).round() as i32;
    scaled
}

fn sos(lon: f64, lat: f64, patrol_id: Option<RecordId>) -> SosAlert {
    SosAlert {
        point: Some(point(lon, lat)),
        last_known: None,
        trigger: SosTrigger::Button,
        state: SosState::Raised,
        acknowledged_at: None,
        acknowledge_unit: String::new(),
        patrol_id,
        remark: String::new(),
    }
}
