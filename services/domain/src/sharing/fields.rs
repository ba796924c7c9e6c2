//! The fields of each kind's payload, and which of them a grant lets leave.

use crate::agreement::Grant;
use crate::kernel::Kind;

/// What a grant lets leave, by kind and proto field (DOMAIN 5, 8.10). A kind without a row never
/// leaves. What people wrote and where they came from stays at home: mandate and leader of a patrol,
/// remark of a check-in, observation behind an event. A call for help goes whole: its remark may be
/// what saves.
pub(super) const GRANTS: &[(Kind, Grant, &[&str])] = &[
    (Kind::Patrol, Grant::PatrolSummary, PATROL_SUMMARY),
    (Kind::CheckIn, Grant::PatrolSummary, CHECK_IN_SUMMARY),
    (Kind::Event, Grant::EventSummary, EVENT_SUMMARY),
    (Kind::Event, Grant::EventDetail, EVENT_DETAIL),
    (Kind::Event, Grant::RiverForest, EVENT_SUMMARY),
    (Kind::SosAlert, Grant::Sos, SOS_ALERT),
];

/// The fields that may leave at most; none where the grant does not cover the kind.
pub(super) fn granted_fields(kind: Kind, grant: Grant) -> &'static [&'static str] {
    let row = GRANTS.iter().find(|(of, by, _)| *of == kind && *by == grant);
    row.map_or(&[], |(_, _, fields)| fields)
}

/// All fields of a kind's payload, in proto names and order.
pub const fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Shift => SHIFT,
        Kind::Patrol => PATROL,
        Kind::CheckIn => CHECK_IN,
        Kind::TrackBatch => TRACK_BATCH,
        Kind::Observation => OBSERVATION,
        Kind::Event => EVENT,
        Kind::SosAlert => SOS_ALERT,
    }
}

const PATROL_SUMMARY: &[&str] = &[
    "shift_id",
    "route",
    "route_kind",
    "member_count",
    "partner_units",
    "legs",
    "state",
    "start_time",
    "end_time",
];

const CHECK_IN_SUMMARY: &[&str] =
    &["patrol_id", "checkpoint", "method", "point", "distance_m", "quality"];

const EVENT_SUMMARY: &[&str] = &[
    "domain",
    "category",
    "emergency_class",
    "level",
    "place",
    "point",
    "source",
    "affected_count",
    "urgent",
    "deadline_time",
    "state",
    "handling_unit",
];

const EVENT_DETAIL: &[&str] = &[
    "domain",
    "category",
    "emergency_class",
    "level",
    "place",
    "point",
    "text",
    "source",
    "affected_count",
    "urgent",
    "deadline_time",
    "state",
    "handling_unit",
];

const SHIFT: &[&str] = &[
    "unit",
    "station",
    "plan_start_time",
    "plan_end_time",
    "open_time",
    "close_time",
    "state",
    "staff_count",
    "roster_refs",
    "handover_note",
];

const PATROL: &[&str] = &[
    "shift_id",
    "mandate",
    "route",
    "route_kind",
    "member_count",
    "partner_units",
    "legs",
    "state",
    "start_time",
    "end_time",
    "leader_ref",
];

const CHECK_IN: &[&str] =
    &["patrol_id", "checkpoint", "method", "point", "distance_m", "quality", "remark"];

const TRACK_BATCH: &[&str] = &[
    "patrol_id",
    "shift_id",
    "start_time",
    "time_delta_s",
    "lon_delta_e7",
    "lat_delta_e7",
    "datum",
    "sampling_s",
    "gaps",
    "battery_pct",
];

const OBSERVATION: &[&str] = &["patrol_id", "category", "text", "point", "suggested_level"];

const EVENT: &[&str] = &[
    "domain",
    "category",
    "emergency_class",
    "level",
    "place",
    "point",
    "text",
    "source",
    "affected_count",
    "urgent",
    "deadline_time",
    "state",
    "handling_unit",
    "observation_id",
];

const SOS_ALERT: &[&str] = &[
    "point",
    "last_known",
    "trigger",
    "state",
    "acknowledge_time",
    "acknowledge_unit",
    "patrol_id",
    "remark",
];
