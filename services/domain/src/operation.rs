//! What a phone does, and what the rules make of it.

mod decide;

pub use decide::{CLAIM_AHEAD_MS, check_texts, creators, decide};

use crate::kernel::{
    DeviceId, EmergencyLevel, Epoch, FieldViolation, Kind, OperationId, Reason, RecordId, RegionId,
    Revision, Role, Sensitivity, Timestamp,
};
use crate::patrol::{
    CheckIn, Observation, Patrol, PatrolMode, PatrolVerb, Shift, ShiftVerb, SosAlert, SosVerb,
    TrackBatch,
};
use crate::record::ExternalRef;
use crate::risk::{Event, EventVerb};

/// One change, applied once, however often sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Minted by the phone.
    pub operation_id: OperationId,
    /// The record it makes or changes.
    pub record_id: RecordId,
    /// Operations that must be applied before.
    pub parent_ids: Vec<OperationId>,
    /// Revision the phone saw; `None` when it makes the record or rests on its own unsent change.
    pub base_revision: Option<Revision>,
    /// When it happened, by the device's clock.
    pub occurred_at: Timestamp,
    /// When it was written down, by the device's clock.
    pub recorded_at: Timestamp,
    /// Counts the device's operations.
    pub device_seq: u64,
    /// Code of the unit that writes; may be empty.
    pub author_unit: String,
    /// Opaque reference of the member of staff.
    pub author_ref: Option<String>,
    /// How far the record may travel; only used when the record is made.
    pub sensitivity: Option<Sensitivity>,
    /// Key in a system that existed before; only used when the record is made.
    pub external_ref: Option<ExternalRef>,
    /// What is done.
    pub change: Change,
}

/// What is done: a record is made, or a verb is applied to one.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Opens a shift.
    OpenShift(Shift),
    /// Changes a shift.
    Shift {
        /// The verb.
        verb: ShiftVerb,
        /// What the next shift must know.
        handover_note: String,
    },
    /// Plans a patrol.
    PlanPatrol(Patrol),
    /// Changes a patrol.
    Patrol {
        /// The verb.
        verb: PatrolVerb,
        /// Means of transport of the leg that begins.
        mode: Option<PatrolMode>,
    },
    /// Checks in.
    CheckIn(CheckIn),
    /// Hands in positions.
    TrackBatch(TrackBatch),
    /// Notes something.
    Observation(Observation),
    /// Reports an event.
    ReportEvent(Event),
    /// Changes an event.
    Event {
        /// The verb.
        verb: EventVerb,
        /// New level, where it changes.
        level: Option<EmergencyLevel>,
        /// The unit that shall handle it, with DISPATCH.
        handling_unit: String,
    },
    /// Calls for help.
    RaiseSos(SosAlert),
    /// Answers a call for help.
    Sos {
        /// The verb.
        verb: SosVerb,
        /// The unit that answers.
        unit: String,
    },
    /// Takes a record of this kind back from all who were shown it.
    Withdraw(Kind),
}

impl Change {
    /// The kind of record it makes or changes.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::OpenShift(_) | Self::Shift { .. } => Kind::Shift,
            Self::PlanPatrol(_) | Self::Patrol { .. } => Kind::Patrol,
            Self::CheckIn(_) => Kind::CheckIn,
            Self::TrackBatch(_) => Kind::TrackBatch,
            Self::Observation(_) => Kind::Observation,
            Self::ReportEvent(_) | Self::Event { .. } => Kind::Event,
            Self::RaiseSos(_) | Self::Sos { .. } => Kind::SosAlert,
            Self::Withdraw(kind) => *kind,
        }
    }

    /// The field of the wire's operation that carries it; where paths of violations begin.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::OpenShift(_) => "open_shift",
            Self::Shift { .. } => "shift_transition",
            Self::PlanPatrol(_) => "plan_patrol",
            Self::Patrol { .. } => "patrol_transition",
            Self::CheckIn(_) => "check_in",
            Self::TrackBatch(_) => "track_batch",
            Self::Observation(_) => "observation",
            Self::ReportEvent(_) => "report_event",
            Self::Event { .. } => "event_transition",
            Self::RaiseSos(_) => "raise_sos",
            Self::Sos { .. } => "sos_transition",
            Self::Withdraw(_) => "withdraw",
        }
    }

    /// Everything in it that a person typed, by field below [`Self::field`].
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::OpenShift(shift) => shift.texts(),
            Self::Shift { handover_note, .. } => vec![("handover_note", handover_note)],
            Self::PlanPatrol(patrol) => patrol.texts(),
            Self::Patrol { .. } | Self::Withdraw(_) => Vec::new(),
            Self::CheckIn(check_in) => check_in.texts(),
            Self::TrackBatch(batch) => batch.texts(),
            Self::Observation(observation) => observation.texts(),
            Self::ReportEvent(event) => event.texts(),
            Self::Event { handling_unit, .. } => vec![("handling_unit", handling_unit)],
            Self::RaiseSos(sos) => sos.texts(),
            Self::Sos { unit, .. } => vec![("unit", unit)],
        }
    }

    /// Whether it makes a record.
    pub const fn creates(&self) -> bool {
        matches!(
            self,
            Self::OpenShift(_)
                | Self::PlanPatrol(_)
                | Self::CheckIn(_)
                | Self::TrackBatch(_)
                | Self::Observation(_)
                | Self::ReportEvent(_)
                | Self::RaiseSos(_)
        )
    }
}

/// Who acts, where and when. All that the rules know of the world beside the records.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The region that decides; it owns what is made.
    pub region: &'a RegionId,
    /// Its present epoch.
    pub epoch: Epoch,
    /// Server clock.
    pub now: Timestamp,
    /// Server clock minus device clock, as measured with the batch.
    pub clock_offset_ms: i64,
    /// Role of the device.
    pub role: Role,
    /// The device; `None` for a desk call.
    pub device: Option<DeviceId>,
}

/// Why the rules refuse an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// By code.
    pub reason: Reason,
    /// Which fields, where it is fields.
    pub violations: Vec<FieldViolation>,
}

impl Rejection {
    /// A refusal that is not about a field.
    pub fn of(reason: Reason) -> Self {
        Self { reason, violations: Vec::new() }
    }

    /// A refusal of one field.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let violations = vec![FieldViolation::new(field, description)];
        Self { reason: Reason::FieldInvalid, violations }
    }
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        Self::of(reason)
    }
}
