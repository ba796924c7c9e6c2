//! A record has moved on: a person decides, and everything that rests on the decision waits.

use crate::world::{Phone, Region, START, check_in, patrol, verb};
use device::{Draft, Recorded, Resolution, ResolveError, Standing};
use domain::kernel::{Reason, RecordId};
use domain::patrol::PatrolVerb;
use proto::device::v1::PullResponse;

/// A patrol under way on which somebody else has worked, and a pause that does not know.
fn conflict(phone: &mut Phone, region: &mut Region) -> (RecordId, Recorded) {
    let plan = phone.do_now(patrol());
    phone.change(plan.record_id, verb(PatrolVerb::Start));
    phone.push(region);
    region.touch(plan.record_id);
    let pause = phone.change(plan.record_id, verb(PatrolVerb::Pause));
    (plan.record_id, pause)
}

#[test]
fn a_conflict_becomes_a_card_with_the_record_as_it_is_now() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let (patrol_id, pause) = conflict(&mut phone, &mut region);
    let report = &phone.push(&mut region)[0];
    assert_eq!(report.conflicts, [pause.operation_id]);
    phone.kill();
    let [card] = &phone.kept(Standing::Conflict)[..] else { panic!("one card") };
    assert_eq!(card.operation.operation_id, pause.operation_id);
    assert_eq!(card.reason, Some(Reason::RevisionStale));
    let revision = region.records[&patrol_id].meta.revision;
    assert_eq!(card.current.as_ref().map(|record| record.meta.revision), Some(revision));
    let seen = phone.device.find_record(patrol_id).unwrap().unwrap();
    assert_eq!(seen.meta.revision, revision);
    assert_eq!(phone.next(), None, "it is not sent again by itself");
}

#[test]
fn what_rests_on_a_conflict_waits_and_other_work_does_not() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let (patrol_id, pause) = conflict(&mut phone, &mut region);
    let resume = phone.change(patrol_id, verb(PatrolVerb::Resume));
    let report = &phone.push(&mut region)[0];
    assert_eq!((report.conflicts.len(), report.held), (1, 1));
    let complete = phone.change(patrol_id, verb(PatrolVerb::Complete));
    let child = Draft { parent_ids: vec![pause.operation_id], ..Draft::making(check_in(), START) };
    let child = phone.device.record(child).unwrap();
    let blocked = [resume.operation_id, complete.operation_id, child.operation_id];
    assert_eq!(phone.ids(Standing::Blocked), blocked);
    phone.do_now(check_in());
    assert_eq!(phone.push(&mut region)[0].applied, 1);
    phone.clock.advance_s(7 * 86_400);
    assert_eq!(phone.next(), None);
}

#[test]
fn a_change_that_still_holds_is_done_again_with_all_that_rests_on_it() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let (patrol_id, pause) = conflict(&mut phone, &mut region);
    let resume = phone.change(patrol_id, verb(PatrolVerb::Resume));
    let child = Draft { parent_ids: vec![resume.operation_id], ..Draft::making(check_in(), START) };
    let child = phone.device.record(child).unwrap();
    phone.push(&mut region);
    let resolved = phone.device.resolve(pause.operation_id, Resolution::Resend).unwrap();
    let old: Vec<_> = resolved.iter().map(|one| one.operation_id).collect();
    assert_eq!(old, [pause.operation_id, resume.operation_id, child.operation_id]);
    phone.kill();
    let [pause_again, resume_again, child_again] = &phone.kept(Standing::Queued)[..] else {
        panic!("three are queued again")
    };
    let current = region.records[&patrol_id].meta.revision;
    assert_eq!(pause_again.operation.base_revision, Some(current));
    assert_eq!(resume_again.operation.parent_ids, [pause_again.operation.operation_id]);
    assert_eq!(child_again.operation.parent_ids, [resume_again.operation.operation_id]);
    assert_eq!(child_again.operation.record_id, child.record_id);
    assert_eq!(phone.push(&mut region)[0].applied, 3);
    assert_eq!(phone.ids(Standing::Dropped), old);
    assert!(old.iter().all(|id| !region.effects.contains_key(id)), "the old ones did nothing");
}

#[test]
fn a_change_that_is_given_up_takes_with_it_only_its_own_record() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let (patrol_id, pause) = conflict(&mut phone, &mut region);
    let resume = phone.change(patrol_id, verb(PatrolVerb::Resume));
    let parent_ids = vec![resume.operation_id];
    let child = Draft { parent_ids, ..Draft::making(check_in(), START) };
    let child = phone.device.record(child).unwrap();
    phone.push(&mut region);
    let resolved = phone.device.resolve(pause.operation_id, Resolution::Drop).unwrap();
    assert_eq!(resolved[0].replacement, None);
    assert_eq!(resolved[1].replacement, None);
    assert_eq!(resolved[2].replacement.unwrap().record_id, child.record_id);
    phone.kill();
    assert_eq!(phone.device.status().unwrap().unsettled(), 1);
    assert_eq!(phone.push(&mut region)[0].applied, 1);
    assert!(region.records.contains_key(&child.record_id));
    // The record can be worked on again.
    phone.change(patrol_id, verb(PatrolVerb::Pause));
    assert_eq!(phone.push(&mut region)[0].applied, 1);
}

#[test]
fn a_conflict_may_come_again() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let (patrol_id, pause) = conflict(&mut phone, &mut region);
    phone.push(&mut region);
    let mut id = pause.operation_id;
    for _ in 0..3 {
        region.touch(patrol_id);
        let resolved = phone.device.resolve(id, Resolution::Resend).unwrap();
        id = resolved[0].replacement.unwrap().operation_id;
        assert_eq!(phone.push(&mut region)[0].conflicts, [id]);
    }
    phone.device.resolve(id, Resolution::Resend).unwrap();
    assert_eq!(phone.push(&mut region)[0].applied, 1);
}

#[test]
fn the_region_has_the_last_word_about_a_revision_that_only_the_phone_believes_in() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let plan = phone.do_now(patrol());
    phone.push(&mut region);
    let believed = region.clone();
    region.touch(plan.record_id);
    region.touch(plan.record_id);
    let change = region.told(1, plan.record_id);
    let next_cursor = Some(region.cursor(1));
    let page = PullResponse { changes: vec![change], next_cursor, more: false };
    phone.device.apply_pull(page).unwrap();
    region = believed;
    let start = phone.change(plan.record_id, verb(PatrolVerb::Start));
    assert_eq!(phone.push(&mut region)[0].conflicts, [start.operation_id]);
    phone.device.resolve(start.operation_id, Resolution::Resend).unwrap();
    assert_eq!(phone.push(&mut region)[0].applied, 1);
}

#[test]
fn only_a_conflict_is_decided() {
    let mut phone = Phone::new();
    let mut region = Region::of(&phone);
    let (patrol_id, pause) = conflict(&mut phone, &mut region);
    let resume = phone.change(patrol_id, verb(PatrolVerb::Resume));
    let refused = phone.device.resolve(pause.operation_id, Resolution::Drop).unwrap_err();
    assert!(matches!(refused, ResolveError::NotInConflict), "not yet answered");
    phone.push(&mut region);
    let refused = phone.device.resolve(resume.operation_id, Resolution::Drop).unwrap_err();
    assert!(matches!(refused, ResolveError::NotInConflict), "only blocked");
    phone.device.resolve(pause.operation_id, Resolution::Drop).unwrap();
    let refused = phone.device.resolve(pause.operation_id, Resolution::Drop).unwrap_err();
    assert!(matches!(refused, ResolveError::NotInConflict), "decided");
}
