//! Goal: every rule of `decide` is held by a case that breaks it alone. Method: one plain operation
//! of each kind, changed in one place.

use super::super::{Change, Context, Operation, Rejection};
use super::*;
use crate::fixture::{self, NOW, epoch, record, record_id, region};
use crate::kernel::{
    EmergencyLevel, Entropy, Epoch, FieldViolation, OperationId, RegionId, RetentionClass,
};
use crate::patrol::{
    PatrolMode, PatrolState, PatrolVerb, Shift, ShiftState, ShiftVerb, SosState, SosVerb,
};
use crate::record::ExternalRef;
use crate::risk::{EventState, EventVerb};

struct Zeros;
impl Entropy for Zeros {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

fn here() -> RegionId {
    region("xiaonanhai")
}

fn context(region: &RegionId, role: Role) -> Context<'_> {
    Context { region, epoch: epoch(), now: NOW, clock_offset_ms: 0, role, device: None }
}

fn operation(change: Change) -> Operation {
    Operation {
        operation_id: OperationId::mint(NOW, &Zeros),
        record_id: record_id(1_000),
        parent_ids: Vec::new(),
        base_revision: None,
        occurred_at: NOW.plus_millis(-30_000),
        recorded_at: NOW.plus_millis(-20_000),
        device_seq: 1,
        author_unit: "police-1".to_owned(),
        author_ref: Some("s-17".to_owned()),
        sensitivity: None,
        external_ref: None,
        change,
    }
}

fn shift_record(shift: Shift) -> Record {
    let mut record = record(Body::Shift(shift));
    record.meta.record_id = record_id(900);
    record
}

fn creates() -> Vec<Change> {
    vec![
        Change::OpenShift(fixture::shift()),
        Change::PlanPatrol(fixture::patrol()),
        Change::CheckIn(fixture::check_in()),
        Change::TrackBatch(fixture::track_batch()),
        Change::Observation(fixture::observation()),
        Change::ReportEvent(fixture::event()),
        Change::RaiseSos(fixture::sos()),
    ]
}

fn run(operation: &Operation, current: Option<&Record>, role: Role) -> Result<Record, Rejection> {
    decide(operation, current, Some(&shift_record(fixture::shift())), &context(&here(), role))
}

fn reason(result: Result<Record, Rejection>) -> Reason {
    result.expect_err("refused").reason
}

fn event_verb(verb: EventVerb) -> Change {
    Change::Event { verb, level: None, handling_unit: String::new() }
}

#[test]
fn a_first_revision_carries_what_the_rules_say() {
    let sensitivities = [
        Sensitivity::Local,
        Sensitivity::Region,
        Sensitivity::Region,
        Sensitivity::Local,
        Sensitivity::Local,
        Sensitivity::Region,
        Sensitivity::Region,
    ];
    for (change, sensitivity) in creates().into_iter().zip(sensitivities) {
        let kind = change.kind();
        let made = run(&operation(change), None, Role::ShiftLead).expect("made");
        assert_eq!(made.meta.kind, kind);
        assert_eq!(made.body.kind(), kind);
        assert_eq!(made.meta.birth_region, here());
        assert_eq!(made.meta.owner_region, here());
        assert_eq!(made.meta.revision, Revision { t: 0, epoch: epoch(), n: 1 });
        assert_eq!(made.meta.sensitivity, sensitivity, "{kind:?}");
        assert_eq!(made.meta.received_at, NOW);
        assert_eq!(made.meta.expires_at, NOW.plus_days(kind.retention_class().days()));
    }
}

#[test]
fn only_its_creators_make_a_kind() {
    let oracle = [
        (Kind::Shift, "SHIFT_LEAD DISPATCHER DUTY_OFFICER"),
        (Kind::Patrol, "GRID_WORKER PATROLLER SHIFT_LEAD DISPATCHER DUTY_OFFICER"),
        (Kind::CheckIn, "GRID_WORKER PATROLLER SHIFT_LEAD"),
        (Kind::TrackBatch, "GRID_WORKER PATROLLER SHIFT_LEAD"),
        (Kind::Observation, "GRID_WORKER PATROLLER SHIFT_LEAD"),
        (Kind::Event, "GRID_WORKER PATROLLER SHIFT_LEAD DISPATCHER DUTY_OFFICER"),
        (
            Kind::SosAlert,
            "GRID_WORKER PATROLLER SHIFT_LEAD DISPATCHER VERIFIER DUTY_OFFICER ADMINISTRATOR",
        ),
    ];
    for (change, (kind, roles)) in creates().into_iter().zip(oracle) {
        assert_eq!(change.kind(), kind);
        for role in Role::ALL {
            let result = run(&operation(change.clone()), None, *role);
            if roles.split(' ').any(|name| name == role.name()) {
                assert!(result.is_ok(), "{kind:?} {role:?} {result:?}");
            } else {
                assert_eq!(reason(result), Reason::RoleForbidden, "{kind:?} {role:?}");
            }
        }
    }
}

#[test]
fn a_record_is_made_only_once() {
    for change in creates() {
        let made = run(&operation(change.clone()), None, Role::ShiftLead).expect("made");
        let again = run(&operation(change.clone()), Some(&made), Role::ShiftLead);
        assert_eq!(reason(again), Reason::RevisionStale);
        let base_revision = Some(made.meta.revision);
        let based = run(&Operation { base_revision, ..operation(change) }, None, Role::ShiftLead);
        assert_eq!(based.expect_err("refused").violations[0].field, "base_revision");
    }
}

#[test]
fn what_only_the_rules_set_is_never_taken_from_a_phone() {
    let at = NOW.plus_millis(-30_000);
    let shift = Shift {
        state: ShiftState::Closed,
        opened_at: Some(NOW.plus_days(-9)),
        closed_at: Some(NOW),
        ..fixture::shift()
    };
    let made = run(&operation(Change::OpenShift(shift)), None, Role::ShiftLead).expect("made");
    let Body::Shift(shift) = made.body else { panic!("a shift") };
    let expected = (ShiftState::Open, Some(at), None);
    assert_eq!((shift.state, shift.opened_at, shift.closed_at), expected);

    let mut patrol = fixture::patrol();
    patrol.state = PatrolState::Completed;
    patrol.started_at = Some(NOW);
    patrol.ended_at = Some(NOW);
    patrol.legs = vec![crate::patrol::Leg { mode: None, started_at: NOW, ended_at: None }];
    let made = run(&operation(Change::PlanPatrol(patrol)), None, Role::Patroller).expect("made");
    assert_eq!(made.body, Body::Patrol(fixture::patrol()));

    let mut event = fixture::event();
    event.state = EventState::Closed;
    let made = run(&operation(Change::ReportEvent(event)), None, Role::Patroller).expect("made");
    let Body::Event(event) = made.body else { panic!("an event") };
    assert_eq!(event.state, EventState::Reported);

    let mut sos = fixture::sos();
    sos.state = SosState::Resolved;
    sos.acknowledged_at = Some(NOW);
    sos.acknowledge_unit = "police-9".to_owned();
    let made = run(&operation(Change::RaiseSos(sos)), None, Role::Patroller).expect("made");
    assert_eq!(made.body, Body::SosAlert(fixture::sos()));
}

#[test]
fn a_transition_makes_the_next_revision_in_the_present_epoch() {
    let mut current = record(Body::Event(fixture::event()));
    current.meta.revision = Revision { t: 3, epoch: epoch(), n: 7 };
    current.meta.sensitivity = Sensitivity::District;
    current.meta.external_ref =
        Some(ExternalRef { system: "tianque".to_owned(), id: "A-7".to_owned() });
    let later = Epoch::mint(NOW, &Zeros);
    let file = Operation {
        base_revision: Some(current.meta.revision),
        sensitivity: Some(Sensitivity::Public),
        author_unit: "centre".to_owned(),
        ..operation(event_verb(EventVerb::File))
    };
    let region = here();
    let context = Context { epoch: later, ..context(&region, Role::Dispatcher) };
    let next = decide(&file, Some(&current), None, &context).expect("filed");
    let expected = RecordMeta {
        revision: Revision { t: 3, epoch: later, n: 8 },
        recorded_at: file.recorded_at,
        received_at: NOW,
        author_unit: "centre".to_owned(),
        expires_at: NOW.plus_days(RetentionClass::Event.days()),
        ..current.meta.clone()
    };
    assert_eq!(next.meta, expected);
    assert_eq!(next.meta.occurred_at, current.meta.occurred_at);
}

#[test]
fn a_transition_needs_its_record_as_it_stands() {
    let current = record(Body::Event(fixture::event()));
    let file = operation(event_verb(EventVerb::File));
    assert_eq!(reason(run(&file, None, Role::Dispatcher)), Reason::RecordNotFound);

    let stale = Revision { n: 9, ..current.meta.revision };
    let file_stale = Operation { base_revision: Some(stale), ..file.clone() };
    assert_eq!(reason(run(&file_stale, Some(&current), Role::Dispatcher)), Reason::RevisionStale);

    let mut foreign = current.clone();
    foreign.meta.owner_region = region("daluba");
    assert_eq!(reason(run(&file, Some(&foreign), Role::Dispatcher)), Reason::NotTheOwner);

    let other = record(Body::SosAlert(fixture::sos()));
    let rejection = run(&file, Some(&other), Role::Dispatcher).expect_err("refused");
    assert_eq!(rejection.reason, Reason::FieldInvalid);
    assert_eq!(rejection.violations[0].field, "record_id");

    assert_eq!(reason(run(&file, Some(&current), Role::Patroller)), Reason::RoleForbidden);
    let close = operation(event_verb(EventVerb::Close));
    assert_eq!(reason(run(&close, Some(&current), Role::Verifier)), Reason::StateForbidsVerb);
}

/// What a rule makes of the clock of a device, and what it should: time of the device, measured offset,
/// time of the record.
fn clocks(rule: impl Fn(&Operation, &Context<'_>) -> Record) -> Vec<(Record, Timestamp)> {
    let day = 86_400_000;
    let cases = [
        (NOW.plus_millis(-1_000), 0, NOW.plus_millis(-1_000)),
        (NOW.plus_millis(day), -day, NOW),
        (NOW.plus_millis(-day), day, NOW),
        (NOW.plus_millis(CLAIM_AHEAD_MS), 0, NOW.plus_millis(CLAIM_AHEAD_MS)),
        (NOW.plus_millis(CLAIM_AHEAD_MS + 1), 0, NOW),
        (NOW.plus_days(3_650), 0, NOW),
        (NOW.plus_days(-3_650), 0, NOW.plus_days(-3_650)),
        (Timestamp::from_micros(i64::MAX), i64::MAX, NOW),
        (Timestamp::from_micros(i64::MAX), i64::MIN, Timestamp::from_micros(0)),
        (Timestamp::from_micros(i64::MIN), i64::MIN, Timestamp::from_micros(0)),
    ];
    let mut made = Vec::new();
    for (device, clock_offset_ms, expected) in cases {
        let report = Operation {
            occurred_at: device,
            recorded_at: device,
            ..operation(Change::ReportEvent(fixture::event()))
        };
        let region = here();
        let context = Context { clock_offset_ms, ..context(&region, Role::Patroller) };
        let record = rule(&report, &context);
        assert_eq!(record.meta.recorded_at, device);
        assert_eq!(record.meta.clock_offset_ms, clock_offset_ms);
        made.push((record, expected));
    }
    made
}

#[test]
fn the_device_clock_is_corrected_and_a_time_ahead_stays_a_claim() {
    for (record, expected) in clocks(|report, at| decide(report, None, None, at).expect("made")) {
        assert_eq!(record.meta.occurred_at, expected, "{record:?}");
        assert_eq!(record.meta.received_at, NOW);
    }
}

/// The control of the test above: rules that forget the offset, or believe any time ahead.
#[test]
fn a_rule_that_believes_the_device_clock_is_caught() {
    let forgetful = |report: &Operation, at: &Context<'_>| {
        let mut record = decide(report, None, None, &Context { clock_offset_ms: 0, ..at.clone() })
            .expect("made");
        record.meta.clock_offset_ms = at.clock_offset_ms;
        record
    };
    let credulous = |report: &Operation, at: &Context<'_>| {
        let late = Timestamp::from_micros(i64::MAX);
        decide(report, None, None, &Context { now: late, ..at.clone() }).expect("made")
    };
    for made in [clocks(forgetful), clocks(credulous)] {
        assert!(made.iter().any(|(record, expected)| record.meta.occurred_at != *expected));
    }
}

#[test]
fn a_shift_is_handed_over_and_closed() {
    let verb = |verb, note: &str| Change::Shift { verb, handover_note: note.to_owned() };
    let open = shift_record(fixture::shift());
    let hand_over = operation(verb(ShiftVerb::HandOver, "黑溪后山继续盯"));
    let pending = run(&hand_over, Some(&open), Role::ShiftLead).expect("handed over");
    let close = operation(verb(ShiftVerb::Close, ""));
    let closed = run(&close, Some(&pending), Role::ShiftLead).expect("closed");
    let Body::Shift(shift) = closed.body else { panic!("a shift") };
    assert_eq!(shift.state, ShiftState::Closed);
    assert_eq!(shift.closed_at, Some(close.occurred_at));
    assert_eq!(shift.handover_note, "黑溪后山继续盯");
    assert_eq!(reason(run(&close, Some(&open), Role::ShiftLead)), Reason::StateForbidsVerb);
}

#[test]
fn the_first_answer_to_a_call_for_help_is_kept() {
    let verb = |verb, unit: &str| Change::Sos { verb, unit: unit.to_owned() };
    let raised = record(Body::SosAlert(fixture::sos()));
    let answer = operation(verb(SosVerb::Acknowledge, "centre"));
    let answered = run(&answer, Some(&raised), Role::DutyOfficer).expect("answered");
    let resolve = operation(verb(SosVerb::Resolve, "fire-2"));
    for (current, unit) in [(&answered, "centre"), (&raised, "fire-2")] {
        let resolved = run(&resolve, Some(current), Role::DutyOfficer).expect("resolved");
        let Body::SosAlert(sos) = resolved.body else { panic!("a call") };
        assert_eq!(sos.state, SosState::Resolved);
        assert_eq!(sos.acknowledged_at, Some(answer.occurred_at));
        assert_eq!(sos.acknowledge_unit, unit);
    }
    let silent = operation(verb(SosVerb::Acknowledge, ""));
    let answered = run(&silent, Some(&raised), Role::DutyOfficer).expect("answered");
    let Body::SosAlert(sos) = answered.body else { panic!("a call") };
    assert_eq!(sos.acknowledge_unit, "police-1");
}

#[test]
fn a_patrol_is_walked_through_operations() {
    let mut current = record(Body::Patrol(fixture::patrol()));
    for (verb, mode, state) in [
        (PatrolVerb::Start, Some(PatrolMode::Foot), PatrolState::Active),
        (PatrolVerb::Pause, None, PatrolState::Paused),
        (PatrolVerb::Complete, None, PatrolState::Completed),
    ] {
        let step = operation(Change::Patrol { verb, mode });
        current = run(&step, Some(&current), Role::Patroller).expect("walked");
        let Body::Patrol(patrol) = &current.body else { panic!("a patrol") };
        assert_eq!(patrol.state, state);
    }
    assert_eq!(current.meta.revision.n, 4);
}

#[test]
fn track_points_lie_within_an_open_shift_of_this_region() {
    let minute = 60_000;
    let batch = |start_ms: i64, duration_s: u32| {
        let mut batch = fixture::track_batch();
        batch.started_at = NOW.plus_millis(start_ms);
        batch.time_delta_s = vec![0, duration_s, 0];
        operation(Change::TrackBatch(batch))
    };
    let region = here();
    let context = context(&region, Role::Patroller);
    let open = shift_record(fixture::shift());
    let outcome = |operation: &Operation, shift: Option<&Record>| {
        decide(operation, None, shift, &context).map(|_| ()).map_err(|rejection| rejection.reason)
    };
    // Opened an hour ago and still open.
    for (start_ms, duration_s, expected) in [
        (-60 * minute, 3_600, Ok(())),
        (-65 * minute, 60, Ok(())),
        (-65 * minute - 1, 60, Err(Reason::OutsideShift)),
        (0, 300, Ok(())),
        (0, 301, Err(Reason::OutsideShift)),
        (-60 * minute, u32::MAX, Err(Reason::OutsideShift)),
    ] {
        assert_eq!(outcome(&batch(start_ms, duration_s), Some(&open)), expected, "{start_ms}");
    }
    // Closed half an hour ago: what was walked before may still come.
    let closed_at = Some(NOW.plus_millis(-30 * minute));
    let closed = Shift { closed_at, state: ShiftState::Closed, ..fixture::shift() };
    let closed = shift_record(closed);
    assert_eq!(outcome(&batch(-60 * minute, 1_800), Some(&closed)), Ok(()));
    assert_eq!(outcome(&batch(-25 * minute, 1), Some(&closed)), Err(Reason::OutsideShift));

    let good = batch(-10 * minute, 60);
    assert_eq!(outcome(&good, None), Err(Reason::OutsideShift));
    let other = record(Body::Shift(fixture::shift()));
    assert_eq!(outcome(&good, Some(&other)), Err(Reason::OutsideShift));
    let mut foreign = open.clone();
    foreign.meta.owner_region = fixture::region("daluba");
    assert_eq!(outcome(&good, Some(&foreign)), Err(Reason::OutsideShift));
    let mut no_shift = record(Body::Patrol(fixture::patrol()));
    no_shift.meta.record_id = record_id(900);
    assert_eq!(outcome(&good, Some(&no_shift)), Err(Reason::OutsideShift));
    let never = shift_record(Shift { opened_at: None, ..fixture::shift() });
    assert_eq!(outcome(&good, Some(&never)), Err(Reason::OutsideShift));
}

#[test]
fn track_times_are_corrected_before_they_are_compared() {
    let region = here();
    let mut batch = fixture::track_batch();
    batch.started_at = batch.started_at.plus_days(400);
    let context =
        Context { clock_offset_ms: -400 * 86_400_000, ..context(&region, Role::Patroller) };
    let shift = shift_record(fixture::shift());
    let change = Change::TrackBatch(batch);
    assert!(decide(&operation(change), None, Some(&shift), &context).is_ok());
}

#[test]
fn the_lists_of_a_track_batch_fit() {
    type Spoil = fn(&mut TrackBatch);
    let cases: [(&str, Spoil); 6] = [
        ("track_batch.time_delta_s", |batch| {
            batch.time_delta_s.clear();
            batch.lon_delta_e7.clear();
            batch.lat_delta_e7.clear();
        }),
        ("track_batch.time_delta_s", |batch| {
            batch.time_delta_s = vec![0; 1_001];
            batch.lon_delta_e7 = vec![0; 1_001];
            batch.lat_delta_e7 = vec![0; 1_001];
        }),
        ("track_batch.lon_delta_e7", |batch| batch.lon_delta_e7.push(1)),
        ("track_batch.lat_delta_e7", |batch| batch.lat_delta_e7.clear()),
        ("track_batch.lon_delta_e7", |batch| batch.lon_delta_e7 = vec![i32::MAX; 3]),
        ("track_batch.lat_delta_e7", |batch| batch.lat_delta_e7 = vec![0, -900_000_000, -1]),
    ];
    for (field, spoil) in cases {
        let mut batch = fixture::track_batch();
        spoil(&mut batch);
        let result = run(&operation(Change::TrackBatch(batch)), None, Role::Patroller);
        let rejection = result.expect_err("refused");
        assert_eq!(rejection.reason, Reason::FieldInvalid);
        assert_eq!(rejection.violations[0].field, field);
    }
    let mut full = fixture::track_batch();
    full.time_delta_s = vec![0; 1_000];
    full.lon_delta_e7 = vec![0; 1_000];
    full.lat_delta_e7 = vec![0; 1_000];
    assert!(run(&operation(Change::TrackBatch(full)), None, Role::Patroller).is_ok());
}

#[test]
fn nouns_name_their_wrong_fields_by_path() {
    let mut event = fixture::event();
    event.category = "UNKNOWN".to_owned();
    let mut observation = fixture::observation();
    observation.category = "NEIGHBOUR".to_owned();
    let mut shift = fixture::shift();
    shift.planned_start_at = Some(NOW);
    shift.planned_end_at = Some(NOW);
    for (change, field) in [
        (Change::ReportEvent(event), "report_event.category"),
        (Change::Observation(observation), "observation.category"),
        (Change::OpenShift(shift), "open_shift.plan_end_time"),
    ] {
        let rejection = run(&operation(change), None, Role::ShiftLead).expect_err("refused");
        assert_eq!(rejection.reason, Reason::FieldInvalid);
        assert_eq!(rejection.violations[0].field, field);
    }
}

#[test]
fn a_text_that_names_a_person_is_refused_without_quoting_it() {
    let text = "车主电话13812345678".to_owned();
    let event = crate::risk::Event { text: text.clone(), ..fixture::event() };
    let rejection = run(&operation(Change::ReportEvent(event)), None, Role::Patroller);
    let expected = FieldViolation::new(
        "report_event.text",
        "reads as a mobile number at byte 12; take it out",
    );
    let reason = Reason::TextNamesPerson;
    assert_eq!(rejection, Err(Rejection { reason, violations: vec![expected] }));
}

#[test]
fn every_text_of_every_change_is_read() {
    let bad = || "13812345678".to_owned();
    let mut shift = fixture::shift();
    (shift.unit, shift.station, shift.handover_note) = (bad(), bad(), bad());
    shift.roster_refs = vec![bad()];
    let mut patrol = fixture::patrol();
    (patrol.mandate, patrol.route) = (bad(), bad());
    (patrol.partner_units, patrol.leader_ref) = (vec![bad()], Some(bad()));
    let mut check_in = fixture::check_in();
    (check_in.checkpoint, check_in.remark) = (bad(), bad());
    let mut batch = fixture::track_batch();
    batch.gaps = vec![crate::patrol::TrackGap { start_offset_s: 0, duration_s: 1, reason: bad() }];
    let mut observation = fixture::observation();
    observation.text = bad();
    let mut event = fixture::event();
    (event.place, event.text, event.handling_unit) = (bad(), bad(), bad());
    let mut sos = fixture::sos();
    sos.remark = bad();
    for (change, count) in [
        (Change::OpenShift(shift), 4),
        (Change::PlanPatrol(patrol), 4),
        (Change::CheckIn(check_in), 2),
        (Change::TrackBatch(batch), 1),
        (Change::Observation(observation), 1),
        (Change::ReportEvent(event), 3),
        (Change::RaiseSos(sos), 1),
    ] {
        let result = run(&operation(change), None, Role::ShiftLead);
        let rejection = result.expect_err("refused");
        assert_eq!(rejection.reason, Reason::TextNamesPerson);
        assert_eq!(rejection.violations.len(), count, "{rejection:?}");
    }
}

#[test]
fn the_texts_of_transitions_and_of_the_author_are_read() {
    let bad = || "500114199001011231".to_owned();
    let shift = shift_record(fixture::shift());
    let event =
        record(Body::Event(crate::risk::Event { state: EventState::Filed, ..fixture::event() }));
    let sos = record(Body::SosAlert(fixture::sos()));
    let dispatch = Change::Event { verb: EventVerb::Dispatch, level: None, handling_unit: bad() };
    for (change, current, field) in [
        (
            Change::Shift { verb: ShiftVerb::HandOver, handover_note: bad() },
            &shift,
            "shift_transition.handover_note",
        ),
        (dispatch, &event, "event_transition.handling_unit"),
        (Change::Sos { verb: SosVerb::Resolve, unit: bad() }, &sos, "sos_transition.unit"),
    ] {
        let rejection = run(&operation(change), Some(current), Role::DutyOfficer);
        let rejection = rejection.expect_err("refused");
        assert_eq!(rejection.reason, Reason::TextNamesPerson);
        assert_eq!(rejection.violations[0].field, field);
    }
    let report = || operation(Change::ReportEvent(fixture::event()));
    let key = |id: &str| Some(ExternalRef { system: "tianque".to_owned(), id: id.to_owned() });
    for (refused, field) in [
        (Operation { author_unit: bad(), ..report() }, "author_unit"),
        (Operation { author_ref: Some(bad()), ..report() }, "author_ref"),
        (Operation { external_ref: key(&bad()), ..report() }, "external_ref.id"),
    ] {
        let rejection = run(&refused, None, Role::Patroller).expect_err("refused");
        assert_eq!(rejection.violations[0].field, field);
    }
    let card_like = Operation { external_ref: key("6222021234567894"), ..report() };
    assert!(run(&card_like, None, Role::Patroller).is_ok());
}

#[test]
fn a_level_moves_with_a_verb() {
    let current = record(Body::Event(fixture::event()));
    let level = Some(EmergencyLevel::I);
    let file = Change::Event { verb: EventVerb::File, level, handling_unit: String::new() };
    let filed = run(&operation(file), Some(&current), Role::Dispatcher).expect("filed");
    assert_eq!(filed.body.level(), level);
}
