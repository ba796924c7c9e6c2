//! What is written down, and what is refused before it is queued.

use crate::world::{Phone, Region, START, check_in, patrol, record_id, sos, verb};
use device::{Draft, RecordError, Standing};
use domain::kernel::{Datum, GeoPoint, OperationId, Reason, Timestamp};
use domain::operation::{Change, Operation};
use domain::patrol::{PatrolVerb, Shift, ShiftState, SosAlert, TrackBatch};

fn queued(phone: &Phone) -> Vec<Operation> {
    phone.kept(Standing::Queued).into_iter().map(|kept| kept.operation).collect()
}

/// Records and expects to be refused, with nothing queued.
fn check_refused(phone: &mut Phone, draft: Draft, reason: Reason, field: &str) {
    let before = phone.device.status().unwrap().queued;
    let Err(RecordError::Refused(refused)) = phone.device.record(draft) else {
        panic!("{field} was taken")
    };
    assert_eq!(refused.reason, reason);
    let fields: Vec<_> = refused.violations.iter().map(|found| found.field.as_str()).collect();
    assert!(field.is_empty() || fields.contains(&field), "{fields:?}");
    assert_eq!(phone.device.status().unwrap().queued, before);
}

#[test]
fn what_was_recorded_is_there_after_a_kill_and_counted_from_one() {
    let mut phone = Phone::new();
    for device_seq in 1..=5 {
        let recorded = phone.do_now(check_in());
        assert_eq!(recorded.device_seq, device_seq);
        phone.kill();
        assert_eq!(phone.ids(Standing::Queued).last(), Some(&recorded.operation_id));
        assert_eq!(phone.device.status().unwrap().queued, device_seq);
    }
}

#[test]
fn a_chain_on_one_record_rests_on_itself_until_the_region_has_answered() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let plan = phone.do_now(patrol());
    let start = phone.change(plan.record_id, verb(PatrolVerb::Start));
    let pause = phone.change(plan.record_id, verb(PatrolVerb::Pause));
    let chain = queued(&phone);
    assert_eq!(chain[0].parent_ids, []);
    assert_eq!(chain[1].parent_ids, [plan.operation_id]);
    assert_eq!(chain[2].parent_ids, [start.operation_id]);
    assert!(chain.iter().all(|operation| operation.base_revision.is_none()));
    phone.push(&mut region);
    assert_eq!(phone.ids(Standing::Applied).last(), Some(&pause.operation_id));
    phone.change(plan.record_id, verb(PatrolVerb::Resume));
    let [resume] = &queued(&phone)[..] else { panic!("one is queued") };
    assert_eq!(resume.parent_ids, []);
    assert_eq!(resume.base_revision, Some(region.records[&plan.record_id].meta.revision));
}

#[test]
fn explicit_parents_are_named_once_and_left_out_when_applied() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let done = phone.do_now(check_in());
    phone.push(&mut region);
    let waiting = phone.do_now(check_in());
    let elsewhere = OperationId::from_slice(record_id(5).as_bytes()).unwrap();
    let parents = vec![done.operation_id, waiting.operation_id, elsewhere, waiting.operation_id];
    let draft = Draft { parent_ids: parents, ..Draft::making(check_in(), START) };
    phone.device.record(draft).unwrap();
    assert_eq!(queued(&phone)[1].parent_ids, [waiting.operation_id, elsewhere]);
}

#[test]
fn what_the_region_would_refuse_is_refused_here_with_its_place() {
    let mut phone = Phone::new();
    let planning = |spoil: fn(&mut domain::patrol::Patrol)| {
        let Change::PlanPatrol(mut patrol) = patrol() else { panic!("a patrol") };
        spoil(&mut patrol);
        Draft::making(Change::PlanPatrol(patrol), START)
    };
    let named = planning(|patrol| patrol.mandate = "电话 13800138000".to_owned());
    check_refused(&mut phone, named, Reason::TextNamesPerson, "plan_patrol.mandate");
    let nowhere = planning(|patrol| patrol.route.clear());
    check_refused(&mut phone, nowhere, Reason::FieldInvalid, "plan_patrol.route");
    let unnamed = Draft::making(verb(PatrolVerb::Start), START);
    check_refused(&mut phone, unnamed, Reason::FieldInvalid, "record_id");
    let nine: Vec<_> =
        (0..9).map(|n| OperationId::from_slice(record_id(n).as_bytes()).unwrap()).collect();
    let crowded = Draft { parent_ids: nine, ..Draft::making(check_in(), START) };
    check_refused(&mut phone, crowded, Reason::FieldInvalid, "parent_ids");
    // A number that was drawn for something refused is given to the next.
    assert_eq!(phone.do_now(check_in()).device_seq, 1);
}

#[test]
fn a_record_is_made_once_so_an_app_may_try_again_after_a_kill() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let id = record_id(77);
    let draft = Draft { record_id: Some(id), ..Draft::making(check_in(), START) };
    assert_eq!(phone.device.record(draft.clone()).unwrap().record_id, id);
    phone.kill();
    check_refused(&mut phone, draft.clone(), Reason::FieldInvalid, "record_id");
    phone.push(&mut region);
    check_refused(&mut phone, draft, Reason::FieldInvalid, "record_id");
}

#[test]
fn nothing_rests_on_what_was_refused() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let plan = phone.do_now(patrol());
    let bad = phone.change(plan.record_id, verb(PatrolVerb::Resume));
    phone.push(&mut region);
    assert_eq!(phone.ids(Standing::Rejected), [bad.operation_id]);
    let draft = Draft { parent_ids: vec![bad.operation_id], ..Draft::making(check_in(), START) };
    check_refused(&mut phone, draft, Reason::ParentRejected, "");
}

#[test]
fn a_track_waits_for_the_shift_that_is_not_sent_yet() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let shift = phone.do_now(Change::OpenShift(Shift {
        unit: "police-1".to_owned(),
        station: String::new(),
        planned_start_at: None,
        planned_end_at: None,
        opened_at: None,
        closed_at: None,
        state: ShiftState::Open,
        staff_count: 4,
        roster_refs: Vec::new(),
        handover_note: String::new(),
    }));
    phone.do_now(Change::TrackBatch(TrackBatch {
        patrol_id: record_id(901),
        shift_id: shift.record_id,
        started_at: START,
        time_delta_s: vec![0, 1],
        lon_delta_e7: vec![1_087_718_700, 12],
        lat_delta_e7: vec![295_351_200, 4],
        datum: Datum::Wgs84,
        sampling_s: 60,
        gaps: Vec::new(),
        battery_pct: 80,
    }));
    assert_eq!(queued(&phone)[1].parent_ids, [shift.operation_id]);
    assert_eq!(phone.push(&mut region)[0].applied, 2);
}

/// A call for help with something wrong with it, and what of it was queued.
fn raised(spoil: impl FnOnce(&mut SosAlert, &mut Draft)) -> (Operation, SosAlert) {
    let mut phone = Phone::new();
    let before = phone.do_now(check_in());
    let Change::RaiseSos(mut alert) = sos("腿伤,走不了") else { panic!("a call for help") };
    alert.point = Some(place(108.7));
    alert.last_known = Some(place(108.8));
    let mut draft = Draft::making(check_in(), START);
    draft.parent_ids = vec![before.operation_id];
    spoil(&mut alert, &mut draft);
    draft.change = Change::RaiseSos(alert);
    let raised = phone.device.record(draft).unwrap();
    let operation = queued(&phone).pop().unwrap();
    assert_eq!(operation.operation_id, raised.operation_id);
    let Change::RaiseSos(alert) = operation.change.clone() else { panic!("a call for help") };
    (operation, alert)
}

fn place(lon: f64) -> GeoPoint {
    let datum = Datum::Wgs84;
    GeoPoint { lon, lat: 29.5, accuracy_m: 8.0, datum, source: None, altitude_m: None }
}

#[test]
fn a_call_for_help_rests_on_nothing_and_is_not_refused() {
    let (operation, alert) = raised(|_, _| {});
    assert_eq!(operation.parent_ids, []);
    assert_eq!(alert.remark, "腿伤,走不了");
    let (_, alert) = raised(|alert, _| alert.remark = "打 13800138000".to_owned());
    assert_eq!((alert.remark.as_str(), alert.point), ("", Some(place(108.7))));
    let (_, alert) = raised(|alert, _| alert.remark = "救".repeat(400));
    assert_eq!(alert.remark, "");
    let (operation, alert) = raised(|_, draft| draft.author_unit = "x".repeat(65));
    assert_eq!((operation.author_unit.as_str(), alert.point), ("", Some(place(108.7))));
    let (_, alert) = raised(|alert, _| alert.point = Some(place(f64::NAN)));
    assert_eq!((alert.point, alert.last_known), (None, Some(place(108.8))));
    let (_, alert) = raised(|alert, _| alert.last_known = Some(place(181.0)));
    assert_eq!((alert.point, alert.last_known), (Some(place(108.7)), None));
    let (_, alert) = raised(|alert, _| {
        (alert.point, alert.last_known) = (Some(place(181.0)), Some(place(f64::INFINITY)));
    });
    assert_eq!((alert.point, alert.last_known), (None, None));
}

#[test]
fn a_clock_that_was_never_set_loses_no_work() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    for now in [0, i64::MIN / 2, i64::MAX - 1_000_000] {
        phone.clock.set(Timestamp::from_micros(now));
        phone.do_now(check_in());
        let batch = phone.next().unwrap();
        let answer = region.push(&batch, START);
        assert_eq!(phone.settle(answer).applied, 1, "clock at {now}");
    }
}

#[test]
fn a_position_of_a_chinese_map_kit_is_kept_as_wgs84() {
    let mut phone = Phone::new();
    let Change::CheckIn(mut seen) = check_in() else { panic!("a check-in") };
    seen.point = Some(GeoPoint { datum: Datum::Gcj02, ..place(108.7) });
    phone.do_now(Change::CheckIn(seen));
    let [operation] = &queued(&phone)[..] else { panic!("one is queued") };
    let Change::CheckIn(kept) = &operation.change else { panic!("a check-in") };
    let point = kept.point.unwrap();
    assert_eq!(point.datum, Datum::Wgs84);
    assert!((0.001..0.01).contains(&(108.7 - point.lon)), "moved by {}", 108.7 - point.lon);
}
