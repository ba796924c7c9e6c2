//! What patrols do (DOMAIN 3.3, 4.1). One file a noun; each state machine is a table.

mod check_in;
mod observation;
mod round;
mod shift;
mod sos;
mod track;

pub use check_in::{CheckIn, CheckInMethod, CheckInQuality};
pub use observation::Observation;
pub use round::{
    LEGS_MAX, Leg, PATROL_TRANSITIONS, Patrol, PatrolMode, PatrolState, PatrolVerb, RouteKind,
};
pub use shift::{SHIFT_TRANSITIONS, Shift, ShiftState, ShiftVerb};
pub use sos::{SOS_ACKNOWLEDGE_S, SOS_TRANSITIONS, SosAlert, SosState, SosTrigger, SosVerb};
pub use track::{POINTS_MAX, SHIFT_TOLERANCE_MS, TrackBatch, TrackGap};
