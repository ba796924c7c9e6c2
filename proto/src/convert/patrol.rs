//! Shifts, rounds, check-ins, observations, calls for help. Tracks are in [`super::track`].

use super::kernel::{STAFF_REF_BYTES_MAX, UNIT_BYTES_MAX, encode_id, encode_time, point};
use super::{Door, Path, Rules};
use crate::patrol::v1 as pb;
use bytes::Bytes;
use domain::kernel::RecordId;
use domain::patrol::{
    CheckIn, Leg, Observation, Patrol, PatrolState, Shift, ShiftState, SosAlert, SosState,
};

/// Bytes of the name of a station.
pub const STATION_BYTES_MAX: usize = 128;
/// Members of staff on one shift.
pub const STAFF_COUNT_MAX: u32 = 1_000;
/// References on the roster of a shift.
pub const ROSTER_REFS_MAX: usize = 64;
/// Bytes of a handover note.
pub const HANDOVER_NOTE_BYTES_MAX: usize = 2_000;
/// Bytes of what a patrol is for.
pub const MANDATE_BYTES_MAX: usize = 256;
/// Bytes of the name of a route.
pub const ROUTE_BYTES_MAX: usize = 128;
/// Members of staff on one patrol.
pub const MEMBER_COUNT_MAX: u32 = 200;
/// Units of a neighbour on one patrol.
pub const PARTNER_UNITS_MAX: usize = 16;
/// Legs of one patrol.
pub const LEGS_MAX: usize = 64;
/// Bytes of the name of a checkpoint.
pub const CHECKPOINT_BYTES_MAX: usize = 128;
/// Metres from a checkpoint.
pub const DISTANCE_M_MAX: f64 = 1_000_000.0;
/// Bytes of a remark.
pub const REMARK_BYTES_MAX: usize = 500;
/// Bytes of a category code.
pub const CATEGORY_BYTES_MAX: usize = 32;
/// Bytes of what was seen or happened.
pub const TEXT_BYTES_MAX: usize = 2_000;

impl From<&Shift> for pb::Shift {
    fn from(shift: &Shift) -> Self {
        let Shift {
            unit,
            station,
            planned_start_at,
            planned_end_at,
            opened_at,
            closed_at,
            state,
            staff_count,
            roster_refs,
            handover_note,
        } = shift;
        Self {
            unit: unit.clone(),
            station: station.clone(),
            plan_start_time: planned_start_at.map(encode_time),
            plan_end_time: planned_end_at.map(encode_time),
            open_time: opened_at.map(encode_time),
            close_time: closed_at.map(encode_time),
            state: state.code(),
            staff_count: *staff_count,
            roster_refs: roster_refs.clone(),
            handover_note: handover_note.clone(),
        }
    }
}

pub(super) fn shift(door: &mut Door, at: Path<'_>, shift: pb::Shift) -> Option<Shift> {
    let pb::Shift {
        unit,
        station,
        plan_start_time,
        plan_end_time,
        open_time,
        close_time,
        state,
        staff_count,
        roster_refs,
        handover_note,
    } = shift;
    let unit = door.text(at.field("unit"), unit, 1..=UNIT_BYTES_MAX);
    let station = door.text(at.field("station"), station, 0..=STATION_BYTES_MAX);
    let planned_start_at = door.optional_time(at.field("plan_start_time"), plan_start_time);
    let planned_end_at = door.optional_time(at.field("plan_end_time"), plan_end_time);
    if let (Some(Some(start)), Some(Some(end))) = (planned_start_at, planned_end_at)
        && end <= start
    {
        door.refuse::<()>(at.field("plan_end_time"), "must be after plan_start_time");
    }
    let opened_at = door.output_time(at.field("open_time"), open_time);
    let closed_at = door.output_time(at.field("close_time"), close_time);
    let state = door.output_code(at.field("state"), state, ShiftState::Open);
    let staff_count = door.number(at.field("staff_count"), staff_count, 0..=STAFF_COUNT_MAX);
    let roster_refs = door.list(
        at.field("roster_refs"),
        roster_refs,
        0..=ROSTER_REFS_MAX,
        |door, at, reference| match door.staff_ref(at, reference, STAFF_REF_BYTES_MAX)? {
            Some(reference) => Some(reference),
            None => door.refuse(at, "must be given"),
        },
    );
    let handover_note =
        door.free_text(at.field("handover_note"), handover_note, HANDOVER_NOTE_BYTES_MAX);
    Some(Shift {
        unit: unit?,
        station: station?,
        planned_start_at: planned_start_at?,
        planned_end_at: planned_end_at?,
        opened_at: opened_at?,
        closed_at: closed_at?,
        state: state?,
        staff_count: staff_count?,
        roster_refs: roster_refs?,
        handover_note: handover_note?,
    })
}

impl From<&Leg> for pb::Leg {
    fn from(leg: &Leg) -> Self {
        let Leg { mode, started_at, ended_at } = *leg;
        Self {
            mode: mode.map_or(0, |mode| mode.code()),
            start_time: Some(encode_time(started_at)),
            end_time: ended_at.map(encode_time),
        }
    }
}

fn leg(door: &mut Door, at: Path<'_>, leg: pb::Leg) -> Option<Leg> {
    let pb::Leg { mode, start_time, end_time } = leg;
    let mode = door.optional_code(at.field("mode"), mode);
    let started_at = door.time(at.field("start_time"), start_time);
    let ended_at = door.optional_time(at.field("end_time"), end_time);
    Some(Leg { mode: mode?, started_at: started_at?, ended_at: ended_at? })
}

impl From<&Patrol> for pb::Patrol {
    fn from(patrol: &Patrol) -> Self {
        let Patrol {
            shift_id,
            mandate,
            route,
            route_kind,
            member_count,
            partner_units,
            legs,
            state,
            started_at,
            ended_at,
            leader_ref,
        } = patrol;
        Self {
            shift_id: encode_id(shift_id.as_bytes()),
            mandate: mandate.clone(),
            route: route.clone(),
            route_kind: route_kind.map_or(0, |kind| kind.code()),
            member_count: *member_count,
            partner_units: partner_units.clone(),
            legs: legs.iter().map(Into::into).collect(),
            state: state.code(),
            start_time: started_at.map(encode_time),
            end_time: ended_at.map(encode_time),
            leader_ref: leader_ref.clone().unwrap_or_default(),
        }
    }
}

pub(super) fn patrol(door: &mut Door, at: Path<'_>, patrol: pb::Patrol) -> Option<Patrol> {
    let pb::Patrol {
        shift_id,
        mandate,
        route,
        route_kind,
        member_count,
        partner_units,
        legs,
        state,
        start_time,
        end_time,
        leader_ref,
    } = patrol;
    let shift_id = door.id(at.field("shift_id"), &shift_id, RecordId::from_slice);
    let mandate = door.free_text(at.field("mandate"), mandate, MANDATE_BYTES_MAX);
    let route = door.text(at.field("route"), route, 1..=ROUTE_BYTES_MAX);
    let route_kind = door.optional_code(at.field("route_kind"), route_kind);
    let member_count = door.number(at.field("member_count"), member_count, 1..=MEMBER_COUNT_MAX);
    let partner_units = door.list(
        at.field("partner_units"),
        partner_units,
        0..=PARTNER_UNITS_MAX,
        |door, at, unit| door.text(at, unit, 1..=UNIT_BYTES_MAX),
    );
    let legs = door.list(at.field("legs"), legs, 0..=LEGS_MAX, leg);
    let state = door.output_code(at.field("state"), state, PatrolState::Planned);
    let started_at = door.output_time(at.field("start_time"), start_time);
    let ended_at = door.output_time(at.field("end_time"), end_time);
    let leader_ref = door.staff_ref(at.field("leader_ref"), leader_ref, STAFF_REF_BYTES_MAX);
    Some(Patrol {
        shift_id: shift_id?,
        mandate: mandate?,
        route: route?,
        route_kind: route_kind?,
        member_count: member_count?,
        partner_units: partner_units?,
        legs: legs?,
        state: state?,
        started_at: started_at?,
        ended_at: ended_at?,
        leader_ref: leader_ref?,
    })
}

impl From<&CheckIn> for pb::CheckIn {
    fn from(check_in: &CheckIn) -> Self {
        let CheckIn { patrol_id, checkpoint, method, point, distance_m, quality, remark } =
            check_in;
        Self {
            patrol_id: encode_id(patrol_id.as_bytes()),
            checkpoint: checkpoint.clone(),
            method: method.code(),
            point: point.as_ref().map(Into::into),
            distance_m: *distance_m,
            quality: quality.map_or(0, |quality| quality.code()),
            remark: remark.clone(),
        }
    }
}

pub(super) fn check_in(door: &mut Door, at: Path<'_>, check_in: pb::CheckIn) -> Option<CheckIn> {
    let pb::CheckIn { patrol_id, checkpoint, method, point, distance_m, quality, remark } =
        check_in;
    let patrol_id = door.id(at.field("patrol_id"), &patrol_id, RecordId::from_slice);
    let checkpoint = door.text(at.field("checkpoint"), checkpoint, 1..=CHECKPOINT_BYTES_MAX);
    let method = door.code(at.field("method"), method);
    let point = door.optional(at.field("point"), point, self::point);
    let distance_m = door.number(at.field("distance_m"), distance_m, 0.0..=DISTANCE_M_MAX);
    let quality = door.optional_code(at.field("quality"), quality);
    let remark = door.free_text(at.field("remark"), remark, REMARK_BYTES_MAX);
    Some(CheckIn {
        patrol_id: patrol_id?,
        checkpoint: checkpoint?,
        method: method?,
        point: point?,
        distance_m: distance_m?,
        quality: quality?,
        remark: remark?,
    })
}

impl From<&Observation> for pb::Observation {
    fn from(observation: &Observation) -> Self {
        let Observation { patrol_id, category, text, point, suggested_level } = observation;
        Self {
            patrol_id: encode_optional_id(*patrol_id),
            category: category.clone(),
            text: text.clone(),
            point: point.as_ref().map(Into::into),
            suggested_level: suggested_level.map_or(0, |level| level.code()),
        }
    }
}

pub(super) fn observation(
    door: &mut Door,
    at: Path<'_>,
    observation: pb::Observation,
) -> Option<Observation> {
    let pb::Observation { patrol_id, category, text, point, suggested_level } = observation;
    let patrol_id = door.optional_id(at.field("patrol_id"), &patrol_id, RecordId::from_slice);
    let category = door.text(at.field("category"), category, 1..=CATEGORY_BYTES_MAX);
    let text = door.free_text(at.field("text"), text, TEXT_BYTES_MAX);
    let point = door.optional(at.field("point"), point, self::point);
    let suggested_level = door.optional_code(at.field("suggested_level"), suggested_level);
    Some(Observation {
        patrol_id: patrol_id?,
        category: category?,
        text: text?,
        point: point?,
        suggested_level: suggested_level?,
    })
}

impl From<&SosAlert> for pb::SosAlert {
    fn from(alert: &SosAlert) -> Self {
        let SosAlert {
            point,
            last_known,
            trigger,
            state,
            acknowledged_at,
            acknowledge_unit,
            patrol_id,
            remark,
        } = alert;
        Self {
            point: point.as_ref().map(Into::into),
            last_known: last_known.as_ref().map(Into::into),
            trigger: trigger.code(),
            state: state.code(),
            acknowledge_time: acknowledged_at.map(encode_time),
            acknowledge_unit: acknowledge_unit.clone(),
            patrol_id: encode_optional_id(*patrol_id),
            remark: remark.clone(),
        }
    }
}

pub(super) fn sos_alert(door: &mut Door, at: Path<'_>, alert: pb::SosAlert) -> Option<SosAlert> {
    let pb::SosAlert {
        point,
        last_known,
        trigger,
        state,
        acknowledge_time,
        acknowledge_unit,
        patrol_id,
        remark,
    } = alert;
    let point = door.optional(at.field("point"), point, self::point);
    let last_known = door.optional(at.field("last_known"), last_known, self::point);
    let trigger = door.code(at.field("trigger"), trigger);
    let state = door.output_code(at.field("state"), state, SosState::Raised);
    let acknowledged_at = door.output_time(at.field("acknowledge_time"), acknowledge_time);
    let acknowledge_unit = match door.rules() {
        Rules::Caller => Some(String::new()),
        Rules::Store | Rules::View => {
            door.text(at.field("acknowledge_unit"), acknowledge_unit, 0..=UNIT_BYTES_MAX)
        }
    };
    let patrol_id = door.optional_id(at.field("patrol_id"), &patrol_id, RecordId::from_slice);
    let remark = door.free_text(at.field("remark"), remark, REMARK_BYTES_MAX);
    Some(SosAlert {
        point: point?,
        last_known: last_known?,
        trigger: trigger?,
        state: state?,
        acknowledged_at: acknowledged_at?,
        acknowledge_unit: acknowledge_unit?,
        patrol_id: patrol_id?,
        remark: remark?,
    })
}

/// The bytes of an id, empty for none.
pub(super) fn encode_optional_id(id: Option<RecordId>) -> Bytes {
    id.map_or_else(Bytes::new, |id| encode_id(id.as_bytes()))
}
