//! What the region answers, and what it answers twice, late, or not at all.

use crate::world::{Phone, Region, START, check_in, patrol, sos, verb};
use bytes::Bytes;
use device::{Draft, OPERATION_DAYS_KEPT, Standing, Status};
use domain::kernel::{Reason, Timestamp};
use domain::patrol::PatrolVerb;
use proto::convert::kernel::encode_time;
use proto::device::v1 as pb;

fn result(id: &[u8], outcome: pb::Outcome) -> pb::OperationResult {
    pb::OperationResult {
        operation_id: Bytes::copy_from_slice(id),
        outcome: outcome.into(),
        ..Default::default()
    }
}

fn answer(results: Vec<pb::OperationResult>) -> pb::PushResponse {
    pb::PushResponse { results, receive_time: Some(encode_time(START)), clock_offset_ms: 0 }
}

#[test]
fn an_answer_settles_once_and_stays_settled_after_a_kill() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let done = phone.do_now(check_in());
    let batch = phone.next().unwrap();
    let answer = region.push(&batch, phone.now());
    let report = phone.settle(answer.clone());
    assert_eq!((report.applied, report.ignored), (1, 0));
    let again = phone.settle(answer.clone());
    assert_eq!((again.applied, again.ignored), (0, 1));
    phone.kill();
    assert_eq!(phone.settle(answer).ignored, 1);
    assert_eq!(phone.next(), None);
    assert_eq!(phone.ids(Standing::Applied), [done.operation_id]);
}

#[test]
fn a_lost_answer_is_a_duplicate_the_next_time() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let plan = phone.do_now(patrol());
    let lost = region.push(&phone.next().unwrap(), phone.now());
    phone.kill();
    let [report] = &phone.push(&mut region)[..] else { panic!("one batch") };
    assert_eq!((report.applied, report.duplicate), (0, 1));
    assert_eq!(region.effects[&plan.operation_id], 1);
    assert_eq!(phone.settle(lost).ignored, 1);
    // What comes next rests on the revision that the repeat told.
    phone.change(plan.record_id, verb(PatrolVerb::Start));
    assert_eq!(phone.push(&mut region)[0].applied, 1);
}

#[test]
fn an_answer_settles_only_what_is_in_flight_on_its_connection() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    phone.do_now(check_in());
    let stale = region.push(&phone.next().unwrap(), phone.now());
    phone.window.clear();
    assert_eq!(phone.settle(stale.clone()).ignored, 1);
    assert_eq!(phone.device.status().unwrap().queued, 1);
    phone.next().unwrap();
    assert_eq!(phone.settle(stale).applied, 1);
}

#[test]
fn a_refusal_is_kept_with_its_reason() {
    let mut phone = Phone::new();
    let plan = phone.do_now(check_in());
    phone.next().unwrap();
    let refused = pb::OperationResult {
        reason: Reason::FieldInvalid.code(),
        field_violations: vec![pb::FieldViolation {
            field: "check_in.checkpoint".to_owned(),
            description: "is no checkpoint".to_owned(),
        }],
        ..result(plan.operation_id.as_bytes(), pb::Outcome::Rejected)
    };
    let report = phone.settle(answer(vec![refused]));
    assert_eq!(report.rejected.len(), 1);
    assert_eq!(report.rejected[0].reason, Some(Reason::FieldInvalid));
    assert_eq!(report.rejected[0].violations[0].field, "check_in.checkpoint");
    phone.kill();
    let [kept] = &phone.kept(Standing::Rejected)[..] else { panic!("one was refused") };
    assert_eq!(kept.reason, Some(Reason::FieldInvalid));
    assert_eq!(kept.violations, report.rejected[0].violations);
    assert_eq!(phone.device.status().unwrap().rejected, 1);
}

#[test]
fn what_rests_on_a_refusal_is_refused_by_the_region() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let plan = phone.do_now(patrol());
    phone.change(plan.record_id, verb(PatrolVerb::Resume));
    phone.change(plan.record_id, verb(PatrolVerb::Complete));
    let report = &phone.push(&mut region)[0];
    let reasons: Vec<_> = report.rejected.iter().map(|refused| refused.reason).collect();
    assert_eq!(reasons, [Some(Reason::StateForbidsVerb), Some(Reason::ParentRejected)]);
    assert_eq!(report.applied, 1);
}

#[test]
fn broken_answers_settle_nothing() {
    let mut phone = Phone::new();
    let done = phone.do_now(check_in());
    phone.next().unwrap();
    let unknown = pb::OperationResult { outcome: 99, ..result(&[], pb::Outcome::Applied) };
    let unspecified = result(done.operation_id.as_bytes(), pb::Outcome::Unspecified);
    let report = phone.settle(pb::PushResponse {
        results: vec![unknown, result(&[7; 3], pb::Outcome::Applied), unspecified],
        receive_time: Some(prost_time(i64::MAX)),
        clock_offset_ms: i64::MIN,
    });
    assert_eq!((report.applied, report.ignored), (0, 3));
    assert_eq!(phone.device.status().unwrap().queued, 1);
    phone.next().unwrap();
    let garbled = pb::OperationResult {
        revision: Some(proto::kernel::v1::Revision { t: 1, epoch: Bytes::new(), n: 0 }),
        current: Some(proto::kernel::v1::Record::default()),
        ..result(done.operation_id.as_bytes(), pb::Outcome::Applied)
    };
    assert_eq!(phone.settle(answer(vec![garbled])).applied, 1, "settled, with nothing learned");
    assert_eq!(phone.device.find_record(done.record_id).unwrap(), None);
}

fn prost_time(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: -1 }
}

#[test]
fn settled_operations_are_kept_for_35_days_by_both_clocks() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    phone.do_now(check_in());
    phone.push(&mut region);
    let push_at = |phone: &mut Phone, region: &mut Region, at: Timestamp| {
        phone.do_now(sos(""));
        let batch = phone.next().unwrap();
        let answer = region.push(&batch, at);
        phone.settle(answer);
    };
    let later = START.plus_days(OPERATION_DAYS_KEPT + 1);
    phone.clock.set(later);
    push_at(&mut phone, &mut region, START.plus_days(1));
    assert_eq!(phone.kept(Standing::Applied).len(), 2, "the phone's clock alone deletes nothing");
    phone.clock.set(START.plus_days(1));
    push_at(&mut phone, &mut region, later);
    assert_eq!(phone.kept(Standing::Applied).len(), 3, "the region's clock alone deletes nothing");
    phone.clock.set(later);
    push_at(&mut phone, &mut region, later);
    assert_eq!(phone.kept(Standing::Applied).len(), 3);
    assert_eq!(phone.do_now(check_in()).device_seq, 5, "a number is never given twice");
}

#[test]
fn the_status_counts_what_is_where() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    assert_eq!(phone.device.status().unwrap(), Status::default());
    let since = phone.now();
    phone.do_now(check_in());
    let plan = phone.do_now(patrol());
    let start = phone.change(plan.record_id, verb(PatrolVerb::Start));
    let status = phone.device.status().unwrap();
    assert_eq!((status.queued, status.unsettled(), status.last_sync_at), (3, 3, None));
    assert!(status.unsettled_since.unwrap() > since);
    phone.push(&mut region);
    let status = phone.device.status().unwrap();
    assert_eq!((status.unsettled(), status.unsettled_since), (0, None));
    assert!(status.last_sync_at.is_some());
    region.touch(plan.record_id);
    phone.change(plan.record_id, verb(PatrolVerb::Pause));
    let child = Draft { parent_ids: vec![start.operation_id], ..Draft::making(check_in(), START) };
    phone.device.record(child).unwrap();
    phone.push(&mut region);
    phone.change(plan.record_id, verb(PatrolVerb::Complete));
    let status = phone.device.status().unwrap();
    assert_eq!((status.queued, status.conflicts, status.blocked), (0, 1, 1));
}
