//! The rules that make the next revision of a record, in the order in which they are asked:
//! permission, existence, owner, kind, revision, then the noun's own rules, then the guard.

use super::{Change, Context, Operation, Rejection};
use crate::guard;
use crate::kernel::{
    FIELD, FIELD_AND_DESK, FieldViolation, Kind, LEAD_AND_DESK, Reason, Revision, Role,
    Sensitivity, Timestamp,
};
use crate::patrol::TrackBatch;
use crate::record::{Body, Record, RecordMeta};
use crate::risk::EventStep;

/// How far a corrected device time may lie ahead of the server before it is only a claim (P12).
pub const CLAIM_AHEAD_MS: i64 = 5 * 60_000;

/// Makes the next revision of a record. `current` is the record as it stands, `shift` the shift that
/// a track batch names. Whether the operation was applied before is not asked here.
///
/// # Errors
/// The [`Rejection`] to answer; nothing has changed.
pub fn decide(
    operation: &Operation,
    current: Option<&Record>,
    shift: Option<&Record>,
    context: &Context<'_>,
) -> Result<Record, Rejection> {
    let at = occurred_at(operation, context);
    let (body, meta) = if operation.change.creates() {
        let body = create(operation, current, shift, context, at)?;
        let meta = first_meta(operation, context, at);
        (body, meta)
    } else {
        let current = changeable(operation, current, context)?;
        let body = change(operation, &current.body, context, at)?;
        (body, next_meta(operation, &current.meta, context))
    };
    check_texts(operation)?;
    Ok(Record { meta, body, device: context.device })
}

/// The roles that may make a record of the kind. A call for help is refused to nobody.
pub const fn creators(kind: Kind) -> &'static [Role] {
    match kind {
        Kind::Shift => LEAD_AND_DESK,
        Kind::CheckIn | Kind::TrackBatch | Kind::Observation => FIELD,
        Kind::Patrol | Kind::Event => FIELD_AND_DESK,
        Kind::SosAlert => Role::ALL,
    }
}

/// The device's time corrected with the measured offset. A time further ahead than
/// [`CLAIM_AHEAD_MS`] stays a claim in `recorded_at`; one before 1970 is no time of a phone.
fn occurred_at(operation: &Operation, context: &Context<'_>) -> Timestamp {
    let corrected = operation.occurred_at.plus_millis(context.clock_offset_ms);
    if corrected > context.now.plus_millis(CLAIM_AHEAD_MS) {
        return context.now;
    }
    corrected.max(Timestamp::from_micros(0))
}

fn create(
    operation: &Operation,
    current: Option<&Record>,
    shift: Option<&Record>,
    context: &Context<'_>,
    at: Timestamp,
) -> Result<Body, Rejection> {
    if !creators(operation.change.kind()).contains(&context.role) {
        return Err(Rejection::of(Reason::RoleForbidden));
    }
    if current.is_some() {
        return Err(Rejection::of(Reason::RevisionStale));
    }
    if operation.base_revision.is_some() {
        return Err(Rejection::field("base_revision", "must be absent when the record is made"));
    }
    let (body, violations) = match operation.change.clone() {
        Change::OpenShift(shift) => {
            let violations = shift.violations();
            (Body::Shift(shift.open(at)), violations)
        }
        Change::PlanPatrol(patrol) => (Body::Patrol(patrol.plan()), Vec::new()),
        Change::CheckIn(check_in) => (Body::CheckIn(check_in), Vec::new()),
        Change::TrackBatch(batch) => {
            let violations = batch.violations();
            if violations.is_empty() {
                check_shift(&batch, shift, context)?;
            }
            (Body::TrackBatch(batch), violations)
        }
        Change::Observation(observation) => {
            let violations = observation.violations();
            (Body::Observation(observation), violations)
        }
        Change::ReportEvent(event) => {
            let violations = event.violations();
            (Body::Event(event.report(context.now)), violations)
        }
        Change::RaiseSos(sos) => (Body::SosAlert(sos.raise()), Vec::new()),
        Change::Shift { .. }
        | Change::Patrol { .. }
        | Change::Event { .. }
        | Change::Sos { .. }
        | Change::Withdraw(_) => {
            return Err(Rejection::of(Reason::RecordNotFound));
        }
    };
    if violations.is_empty() {
        return Ok(body);
    }
    let below = operation.change.field();
    let violations = violations
        .into_iter()
        .map(|found| FieldViolation { field: format!("{below}.{}", found.field), ..found })
        .collect();
    Err(Rejection { reason: Reason::FieldInvalid, violations })
}

/// Points outside a shift of this region are nobody's business.
fn check_shift(
    batch: &TrackBatch,
    shift: Option<&Record>,
    context: &Context<'_>,
) -> Result<(), Rejection> {
    let outside = Rejection::of(Reason::OutsideShift);
    let Some(Record { meta, body: Body::Shift(shift), .. }) = shift else { return Err(outside) };
    let named = meta.record_id == batch.shift_id && meta.owner_region == *context.region;
    if named && batch.within(shift, context.clock_offset_ms, context.now) {
        Ok(())
    } else {
        Err(outside)
    }
}

/// The record as it stands, where this operation may change it.
fn changeable<'a>(
    operation: &Operation,
    current: Option<&'a Record>,
    context: &Context<'_>,
) -> Result<&'a Record, Rejection> {
    let current = current.ok_or(Reason::RecordNotFound)?;
    if current.meta.owner_region != *context.region {
        return Err(Rejection::of(Reason::NotTheOwner));
    }
    if current.body.kind() != operation.change.kind() {
        return Err(Rejection::field("record_id", "names a record of another kind"));
    }
    if operation.base_revision.is_some_and(|base| base != current.meta.revision) {
        return Err(Rejection::of(Reason::RevisionStale));
    }
    Ok(current)
}

fn change(
    operation: &Operation,
    body: &Body,
    context: &Context<'_>,
    at: Timestamp,
) -> Result<Body, Rejection> {
    let role = context.role;
    match (&operation.change, body) {
        (Change::Shift { verb, handover_note }, Body::Shift(shift)) => {
            Ok(Body::Shift(shift.apply(*verb, handover_note, role, at)?))
        }
        (Change::Patrol { verb, mode }, Body::Patrol(patrol)) => {
            Ok(Body::Patrol(patrol.apply(*verb, *mode, role, at)?))
        }
        (Change::Event { verb, level, handling_unit }, Body::Event(event)) => {
            let (verb, level) = (*verb, *level);
            let (author_unit, now) = (operation.author_unit.as_str(), context.now);
            let step = EventStep { verb, level, handling_unit, author_unit, role, now };
            Ok(Body::Event(event.apply(&step)?))
        }
        (Change::Sos { verb, unit }, Body::SosAlert(sos)) => {
            let unit = if unit.is_empty() { &operation.author_unit } else { unit };
            Ok(Body::SosAlert(sos.apply(*verb, unit, role, at)?))
        }
        (Change::Withdraw(_), body) if LEAD_AND_DESK.contains(&role) => Ok(body.clone()),
        (Change::Withdraw(_), _) => Err(Rejection::of(Reason::RoleForbidden)),
        // `changeable` has compared the kinds, and what creates does not come here.
        _ => Err(Rejection::of(Reason::RecordNotFound)),
    }
}

fn first_meta(operation: &Operation, context: &Context<'_>, at: Timestamp) -> RecordMeta {
    let kind = operation.change.kind();
    let retention_class = kind.retention_class();
    RecordMeta {
        record_id: operation.record_id,
        kind,
        birth_region: context.region.clone(),
        owner_region: context.region.clone(),
        revision: Revision { t: 0, epoch: context.epoch, n: 1 },
        occurred_at: at,
        recorded_at: operation.recorded_at,
        received_at: context.now,
        clock_offset_ms: context.clock_offset_ms,
        author_unit: operation.author_unit.clone(),
        author_ref: operation.author_ref.clone(),
        sensitivity: operation.sensitivity.unwrap_or(default_sensitivity(kind)),
        sensitivity_parties: Vec::new(),
        external_ref: operation.external_ref.clone(),
        retention_class,
        expires_at: context.now.plus_days(retention_class.days()),
        transfers: Vec::new(),
    }
}

/// Who wrote this revision and when is new. When it happened, how far it may travel and its key
/// elsewhere are the record's: a neighbour who first sees an event when it is accepted must still
/// learn when it happened.
fn next_meta(operation: &Operation, current: &RecordMeta, context: &Context<'_>) -> RecordMeta {
    let Revision { t, n, .. } = current.revision;
    RecordMeta {
        revision: Revision { t, epoch: context.epoch, n: n.saturating_add(1) },
        recorded_at: operation.recorded_at,
        received_at: context.now,
        clock_offset_ms: context.clock_offset_ms,
        author_unit: operation.author_unit.clone(),
        author_ref: operation.author_ref.clone(),
        expires_at: context.now.plus_days(current.retention_class.days()),
        // What was taken back stays so.
        sensitivity: if matches!(operation.change, Change::Withdraw(_)) {
            Sensitivity::Local
        } else {
            current.sensitivity
        },
        ..current.clone()
    }
}

const fn default_sensitivity(kind: Kind) -> Sensitivity {
    match kind {
        Kind::Event | Kind::SosAlert | Kind::CheckIn | Kind::Patrol => Sensitivity::Region,
        Kind::Shift | Kind::Observation | Kind::TrackBatch => Sensitivity::Local,
    }
}

/// No text may name a person. References of staff are read too, because only an opaque one is one.
/// Keys of other systems may look like bank cards by chance, one in ten of those long enough.
///
/// # Errors
/// [`Reason::TextNamesPerson`], with each place that was found.
pub fn check_texts(operation: &Operation) -> Result<(), Rejection> {
    let below = operation.change.field();
    let mut found = Vec::new();
    for (field, text) in operation.change.texts() {
        found.extend(guard::find(text).map(|at| (format!("{below}.{field}"), at)));
    }
    let staff = operation.author_ref.iter().map(|text| ("author_ref", text.as_str()));
    for (field, text) in staff.chain([("author_unit", operation.author_unit.as_str())]) {
        found.extend(guard::find(text).map(|at| (field.to_owned(), at)));
    }
    if let Some(external) = &operation.external_ref {
        let key = guard::find(&external.id).filter(|key| key.what != guard::What::BankCard);
        found.extend(key.map(|key| ("external_ref.id".to_owned(), key)));
    }
    if found.is_empty() {
        return Ok(());
    }
    let violations = found
        .into_iter()
        .map(|(field, guard::Finding { what, at, .. })| {
            let what = what.name();
            FieldViolation::new(field, format!("reads as a {what} at byte {at}; take it out"))
        })
        .collect();
    Err(Rejection { reason: Reason::TextNamesPerson, violations })
}

#[cfg(test)]
mod tests;
