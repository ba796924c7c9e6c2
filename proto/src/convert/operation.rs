//! What a phone does.

use super::kernel::{
    STAFF_REF_BYTES_MAX, UNIT_BYTES_MAX, encode_id, encode_time, external_ref, revision,
};
use super::patrol::HANDOVER_NOTE_BYTES_MAX;
use super::{Door, Path, Rules, Violations, patrol, risk, track};
use crate::device::v1 as pb;
use crate::device::v1::operation::Change as Wire;
use bytes::Bytes;
use domain::kernel::{OperationId, RecordId};
use domain::operation::{Change, Operation};

/// Operations that one may rest on.
pub const PARENT_IDS_MAX: usize = 8;
/// Operations of one batch.
pub const OPERATIONS_PER_BATCH_MAX: usize = 1_000;

impl TryFrom<pb::Operation> for Operation {
    type Error = Violations;
    fn try_from(operation: pb::Operation) -> Result<Self, Violations> {
        decode(operation, Path::ROOT)
    }
}

/// Checks an operation; `path` is where it lies in the caller's message, such as
/// `Path::from("operations").item(3)`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode<'a>(
    operation: pb::Operation,
    path: impl Into<Path<'a>>,
) -> Result<Operation, Violations> {
    let mut door = Door::new(Rules::Caller);
    let value = self::operation(&mut door, path.into(), operation);
    door.finish(value)
}

fn operation(door: &mut Door, at: Path<'_>, operation: pb::Operation) -> Option<Operation> {
    let pb::Operation {
        operation_id,
        record_id,
        parent_ids,
        base_revision,
        occur_time,
        record_time,
        device_seq,
        author_unit,
        author_ref,
        sensitivity,
        external_ref,
        change,
    } = operation;
    let operation_id = door.id(at.field("operation_id"), &operation_id, OperationId::from_slice);
    let record_id = door.id(at.field("record_id"), &record_id, RecordId::from_slice);
    let parent_ids =
        door.list(at.field("parent_ids"), parent_ids, 0..=PARENT_IDS_MAX, |door, at, id: Bytes| {
            door.id(at, &id, OperationId::from_slice)
        });
    let base_revision = door.optional(at.field("base_revision"), base_revision, revision);
    let occurred_at = door.time(at.field("occur_time"), occur_time);
    let recorded_at = door.time(at.field("record_time"), record_time);
    let device_seq = door.number(at.field("device_seq"), device_seq, 1..=u64::MAX);
    let author_unit = door.text(at.field("author_unit"), author_unit, 0..=UNIT_BYTES_MAX);
    let author_ref = door.staff_ref(at.field("author_ref"), author_ref, STAFF_REF_BYTES_MAX);
    let sensitivity = door.optional_code(at.field("sensitivity"), sensitivity);
    let external_ref = door.optional(at.field("external_ref"), external_ref, self::external_ref);
    let change =
        door.required(at.field("change"), change).and_then(|change| self::change(door, at, change));
    Some(Operation {
        operation_id: operation_id?,
        record_id: record_id?,
        parent_ids: parent_ids?,
        base_revision: base_revision?,
        occurred_at: occurred_at?,
        recorded_at: recorded_at?,
        device_seq: device_seq?,
        author_unit: author_unit?,
        author_ref: author_ref?,
        sensitivity: sensitivity?,
        external_ref: external_ref?,
        change: change?,
    })
}

fn change(door: &mut Door, at: Path<'_>, change: Wire) -> Option<Change> {
    Some(match change {
        Wire::OpenShift(shift) => {
            Change::OpenShift(patrol::shift(door, at.field("open_shift"), shift)?)
        }
        Wire::ShiftTransition(transition) => {
            shift_transition(door, at.field("shift_transition"), transition)?
        }
        Wire::PlanPatrol(patrol) => {
            Change::PlanPatrol(patrol::patrol(door, at.field("plan_patrol"), patrol)?)
        }
        Wire::PatrolTransition(transition) => {
            patrol_transition(door, at.field("patrol_transition"), transition)?
        }
        Wire::CheckIn(check_in) => {
            Change::CheckIn(patrol::check_in(door, at.field("check_in"), check_in)?)
        }
        Wire::TrackBatch(batch) => {
            Change::TrackBatch(track::track_batch(door, at.field("track_batch"), batch)?)
        }
        Wire::Observation(observation) => {
            Change::Observation(patrol::observation(door, at.field("observation"), observation)?)
        }
        Wire::ReportEvent(event) => {
            Change::ReportEvent(risk::event(door, at.field("report_event"), event)?)
        }
        Wire::EventTransition(transition) => {
            event_transition(door, at.field("event_transition"), transition)?
        }
        Wire::RaiseSos(alert) => {
            Change::RaiseSos(patrol::sos_alert(door, at.field("raise_sos"), alert)?)
        }
        Wire::SosTransition(transition) => {
            sos_transition(door, at.field("sos_transition"), transition)?
        }
        Wire::Withdraw(pb::Withdraw { kind }) => {
            Change::Withdraw(door.code(at.field("withdraw.kind"), kind)?)
        }
    })
}

fn shift_transition(
    door: &mut Door,
    at: Path<'_>,
    transition: pb::ShiftTransition,
) -> Option<Change> {
    let pb::ShiftTransition { verb, handover_note } = transition;
    let verb = door.code(at.field("verb"), verb);
    let handover_note =
        door.free_text(at.field("handover_note"), handover_note, HANDOVER_NOTE_BYTES_MAX);
    Some(Change::Shift { verb: verb?, handover_note: handover_note? })
}

fn patrol_transition(
    door: &mut Door,
    at: Path<'_>,
    transition: pb::PatrolTransition,
) -> Option<Change> {
    let pb::PatrolTransition { verb, mode } = transition;
    let verb = door.code(at.field("verb"), verb);
    let mode = door.optional_code(at.field("mode"), mode);
    Some(Change::Patrol { verb: verb?, mode: mode? })
}

fn event_transition(
    door: &mut Door,
    at: Path<'_>,
    transition: pb::EventTransition,
) -> Option<Change> {
    let pb::EventTransition { verb, level, handling_unit } = transition;
    let verb = door.code(at.field("verb"), verb);
    let level = door.optional_code(at.field("level"), level);
    let handling_unit = door.text(at.field("handling_unit"), handling_unit, 0..=UNIT_BYTES_MAX);
    Some(Change::Event { verb: verb?, level: level?, handling_unit: handling_unit? })
}

fn sos_transition(door: &mut Door, at: Path<'_>, transition: pb::SosTransition) -> Option<Change> {
    let pb::SosTransition { verb, unit } = transition;
    let verb = door.code(at.field("verb"), verb);
    let unit = door.text(at.field("unit"), unit, 0..=UNIT_BYTES_MAX);
    Some(Change::Sos { verb: verb?, unit: unit? })
}

impl From<&Operation> for pb::Operation {
    fn from(operation: &Operation) -> Self {
        let Operation {
            operation_id,
            record_id,
            parent_ids,
            base_revision,
            occurred_at,
            recorded_at,
            device_seq,
            author_unit,
            author_ref,
            sensitivity,
            external_ref,
            change,
        } = operation;
        Self {
            operation_id: encode_id(operation_id.as_bytes()),
            record_id: encode_id(record_id.as_bytes()),
            parent_ids: parent_ids.iter().map(|id| encode_id(id.as_bytes())).collect(),
            base_revision: base_revision.as_ref().map(Into::into),
            occur_time: Some(encode_time(*occurred_at)),
            record_time: Some(encode_time(*recorded_at)),
            device_seq: *device_seq,
            author_unit: author_unit.clone(),
            author_ref: author_ref.clone().unwrap_or_default(),
            sensitivity: sensitivity.map_or(0, |sensitivity| sensitivity.code()),
            external_ref: external_ref.as_ref().map(Into::into),
            change: Some(change.into()),
        }
    }
}

impl From<&Change> for Wire {
    fn from(change: &Change) -> Self {
        match change {
            Change::OpenShift(shift) => Self::OpenShift(shift.into()),
            Change::Shift { verb, handover_note } => Self::ShiftTransition(pb::ShiftTransition {
                verb: verb.code(),
                handover_note: handover_note.clone(),
            }),
            Change::PlanPatrol(patrol) => Self::PlanPatrol(patrol.into()),
            Change::Patrol { verb, mode } => Self::PatrolTransition(pb::PatrolTransition {
                verb: verb.code(),
                mode: mode.map_or(0, |mode| mode.code()),
            }),
            Change::CheckIn(check_in) => Self::CheckIn(check_in.into()),
            Change::TrackBatch(batch) => Self::TrackBatch(batch.into()),
            Change::Observation(observation) => Self::Observation(observation.into()),
            Change::ReportEvent(event) => Self::ReportEvent(event.into()),
            Change::Event { verb, level, handling_unit } => {
                Self::EventTransition(pb::EventTransition {
                    verb: verb.code(),
                    level: level.map_or(0, |level| level.code()),
                    handling_unit: handling_unit.clone(),
                })
            }
            Change::RaiseSos(alert) => Self::RaiseSos(alert.into()),
            Change::Sos { verb, unit } => {
                Self::SosTransition(pb::SosTransition { verb: verb.code(), unit: unit.clone() })
            }
            Change::Withdraw(kind) => Self::Withdraw(pb::Withdraw { kind: kind.code() }),
        }
    }
}
