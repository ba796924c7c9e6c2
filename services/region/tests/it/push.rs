//! What becomes of operations.

use crate::world::*;
use bytes::Bytes;
use domain::kernel::{OperationId, Role};
use proto::device::v1 as pb;
use proto::device::v1::operation::Change;
use proto::device::v1::{Outcome, device_service_client::DeviceServiceClient};
use proto::patrol::v1 as patrol;
use proto::risk::v1::EventVerb;
use runtime::clock::{SystemClock, SystemEntropy};
use tonic::Code;

fn unknown_parent() -> Bytes {
    use domain::kernel::Clock as _;
    Bytes::copy_from_slice(OperationId::mint(SystemClock.now(), &SystemEntropy).as_bytes())
}

#[tokio::test]
async fn an_operation_is_applied_once_however_often_it_is_sent() {
    let world = World::new().await;
    let phone = world.officer().await;
    let operation = phone.report(new_record());
    let first = phone.push(vec![operation.clone()]).await.unwrap();
    assert_eq!(first[0].outcome(), Outcome::Applied);
    for _ in 0..2 {
        let again = phone.push(vec![operation.clone()]).await.unwrap();
        assert_eq!(again[0].outcome(), Outcome::Duplicate);
        assert_eq!(again[0].revision, first[0].revision);
    }
    // Twice in one batch is once as well.
    let twice = phone.report(new_record());
    let outcomes = phone.outcomes(vec![twice.clone(), twice]).await;
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Duplicate]);
    assert_eq!(phone.pull(None).await.0.len(), 2);
}

#[tokio::test]
async fn copies_of_a_batch_sent_at_once_are_applied_once() {
    let world = World::new().await;
    let phone = world.officer().await;
    let operations: Vec<_> = (0..5).map(|_| phone.report(new_record())).collect();
    let (one, two, three) = tokio::join!(
        phone.outcomes(operations.clone()),
        phone.outcomes(operations.clone()),
        phone.outcomes(operations),
    );
    let all = [one, two, three].concat();
    let applied = all.iter().filter(|outcome| **outcome == Outcome::Applied).count();
    let duplicate = all.iter().filter(|outcome| **outcome == Outcome::Duplicate).count();
    assert_eq!((applied, duplicate), (5, 10));
}

#[tokio::test]
async fn an_id_that_is_used_again_for_something_else_is_rejected() {
    let world = World::new().await;
    let phone = world.officer().await;
    let first = phone.report(new_record());
    phone.push(vec![first.clone()]).await.unwrap();
    let other = pb::Operation { operation_id: first.operation_id, ..phone.report(new_record()) };
    let result = phone.push(vec![other]).await.unwrap();
    assert_eq!(result[0].outcome(), Outcome::Rejected);
    assert_eq!(result[0].reason(), proto::kernel::v1::ErrorReason::OperationIdReused);
}

#[tokio::test]
async fn a_change_of_an_old_revision_is_a_conflict_that_shows_the_present_one() {
    let world = World::new().await;
    let phone = world.officer().await;
    let record = new_record();
    let first = phone.push(vec![phone.report(record)]).await.unwrap();
    let base = first[0].revision.clone();
    let accepted =
        phone.push(vec![phone.transition(record, EventVerb::Accept, base.clone())]).await;
    assert_eq!(accepted.unwrap()[0].outcome(), Outcome::Applied);
    let late = phone.transition(record, EventVerb::Reject, base);
    let result = phone.push(vec![late.clone()]).await.unwrap();
    assert_eq!(result[0].outcome(), Outcome::Conflict);
    let current = result[0].current.as_ref().unwrap().meta.as_ref().unwrap();
    assert_eq!(current.revision.as_ref().unwrap().n, 2);
    // A conflict leaves no trace: on the present revision it is judged anew.
    let again = pb::Operation { base_revision: current.revision.clone(), ..late };
    let result = phone.push(vec![again]).await.unwrap();
    assert_eq!(result[0].outcome(), Outcome::Rejected);
}

#[tokio::test]
async fn what_is_wrong_is_rejected_by_path_and_the_rest_of_the_batch_applied() {
    let world = World::new().await;
    let phone = world.officer().await;
    let mut malformed = phone.report(new_record());
    malformed.device_seq = 0;
    let mut named = phone.report(new_record());
    if let Some(Change::ReportEvent(event)) = &mut named.change {
        event.text = "联系 13812345678".to_owned();
    }
    let batch =
        vec![phone.report(new_record()), malformed, named.clone(), phone.report(new_record())];
    let results = phone.push(batch.clone()).await.unwrap();
    let outcomes: Vec<_> = results.iter().map(|result| result.outcome()).collect();
    use Outcome::{Applied, Rejected};
    assert_eq!(outcomes, [Applied, Rejected, Rejected, Applied]);
    for (result, operation) in results.iter().zip(&batch) {
        assert_eq!(result.operation_id, operation.operation_id);
    }
    assert_eq!(results[1].field_violations[0].field, "device_seq");
    assert_eq!(results[2].field_violations[0].field, "report_event.text");
    let again = phone.push(vec![named]).await.unwrap();
    assert_eq!((again[0].outcome(), again[0].reason), (Rejected, results[2].reason));
}

#[tokio::test]
async fn what_waits_for_its_parents_follows_them() {
    let world = World::new().await;
    let phone = world.officer().await;
    let record = new_record();
    let report = phone.report(record);
    let mut accept = phone.transition(record, EventVerb::Accept, None);
    accept.parent_ids = vec![report.operation_id.clone()];
    let mut file = phone.transition(record, EventVerb::File, None);
    file.parent_ids = vec![accept.operation_id.clone()];
    assert_eq!(phone.outcomes(vec![file.clone()]).await, [Outcome::Held]);
    assert_eq!(phone.outcomes(vec![accept.clone()]).await, [Outcome::Held]);
    assert_eq!(phone.outcomes(vec![report]).await, [Outcome::Applied]);
    assert_eq!(phone.pull(None).await.0, [(id(record), 3)]);
    assert_eq!(phone.outcomes(vec![accept, file]).await, [Outcome::Duplicate; 2]);
}

#[tokio::test]
async fn a_batch_that_makes_something_wait_still_releases_what_waited() {
    let world = World::new().await;
    let phone = world.officer().await;
    let record = new_record();
    let report = phone.report(record);
    let mut accept = phone.transition(record, EventVerb::Accept, None);
    accept.parent_ids = vec![report.operation_id.clone()];
    assert_eq!(phone.outcomes(vec![accept.clone()]).await, [Outcome::Held]);
    let mut orphan = phone.report(new_record());
    orphan.parent_ids = vec![unknown_parent()];
    assert_eq!(phone.outcomes(vec![report, orphan]).await, [Outcome::Applied, Outcome::Held]);
    assert_eq!(phone.outcomes(vec![accept]).await, [Outcome::Duplicate]);
}

#[tokio::test]
async fn what_waited_and_then_conflicts_holds_nobody_up() {
    let world = World::new().await;
    let phone = world.officer().await;
    let (record, other) = (new_record(), new_record());
    let first = phone.push(vec![phone.report(record)]).await.unwrap();
    let parent = phone.report(other);
    let mut late = phone.transition(record, EventVerb::Cancel, first[0].revision.clone());
    late.parent_ids = vec![parent.operation_id.clone()];
    assert_eq!(phone.outcomes(vec![late.clone()]).await, [Outcome::Held]);
    let accept = phone.transition(record, EventVerb::Accept, None);
    assert_eq!(phone.outcomes(vec![accept]).await, [Outcome::Applied]);
    assert_eq!(phone.outcomes(vec![parent]).await, [Outcome::Applied]);
    assert_eq!(phone.outcomes(vec![late]).await, [Outcome::Conflict]);
}

#[tokio::test]
async fn children_of_a_rejected_operation_are_rejected() {
    let world = World::new().await;
    let phone = world.officer().await;
    let missing = phone.transition(new_record(), EventVerb::Accept, None);
    let mut child = phone.report(new_record());
    child.parent_ids = vec![missing.operation_id.clone()];
    let results = phone.push(vec![missing, child]).await.unwrap();
    use proto::kernel::v1::ErrorReason as Reason;
    let reasons = [results[0].reason(), results[1].reason()];
    assert_eq!(reasons, [Reason::RecordNotFound, Reason::ParentRejected]);
}

#[tokio::test]
async fn a_batch_counts_only_with_the_signature_of_a_device_that_may() {
    let world = World::new().await;
    let (phone, other) = (world.officer().await, world.officer().await);
    let unauthenticated = |reason: &str| (Code::Unauthenticated, reason.to_owned());
    let good = phone.batch(vec![phone.report(new_record())]);
    let signed = good.signed_batch.clone().unwrap();
    let mut client = phone.device();
    let foreign = other.batch(vec![]).signed_batch.unwrap().signature;
    for signature in [foreign, Bytes::new(), Bytes::from_static(&[0; 70])] {
        let spoilt = pb::SignedBatch { signature, ..signed.clone() };
        let request = pb::PushRequest { signed_batch: Some(spoilt) };
        let result = refused(in_time(client.push(request)).await);
        assert_eq!(result, unauthenticated("SIGNATURE_INVALID"));
    }
    let stranger = Phone { device_id: unknown_parent(), ..world.officer().await };
    let result = refused(stranger.push(vec![stranger.report(new_record())]).await);
    assert_eq!(result, unauthenticated("DEVICE_UNKNOWN"));
    world.revoke(&phone);
    // Revoked beside the server, which notices soon; without a certificate, because that opens no door
    // any more.
    let mut client = DeviceServiceClient::new(world.channel("xiaonanhai", None));
    let noticed = async {
        loop {
            if let Err(status) = client.push(good.clone()).await {
                return status;
            }
        }
    };
    let result = refused::<()>(Err(in_time(noticed).await));
    assert_eq!(result, (Code::PermissionDenied, "DEVICE_REVOKED".to_owned()));
    let pull = pb::PullRequest { purpose: DUTY, ..Default::default() };
    assert!(in_time(phone.device().pull(pull)).await.is_err());
    other.pull(None).await;
}

#[tokio::test]
async fn a_batch_of_none_or_too_many_is_refused_whole() {
    let world = World::new().await;
    let phone = world.officer().await;
    for count in [0, 1_001] {
        let operations = (0..count).map(|_| phone.report(new_record())).collect();
        let result = refused(phone.push(operations).await);
        assert_eq!(result.0, Code::InvalidArgument);
    }
    let result = refused(in_time(phone.device().push(pb::PushRequest::default())).await);
    assert_eq!(result, (Code::InvalidArgument, "FIELD_INVALID".to_owned()));
}

#[tokio::test]
async fn after_its_certificate_a_phone_is_quarantined_but_for_a_call_for_help() {
    let world = World::new().await;
    let (phone, officer) =
        (world.phone("xiaonanhai", Role::Patroller).await, world.officer().await);
    world.clock.advance(31 * 86_400_000);
    let trigger = patrol::SosTrigger::Button.into();
    let alert = Change::RaiseSos(patrol::SosAlert { trigger, ..Default::default() });
    let (help, report) = (phone.operation(new_record(), alert), phone.report(new_record()));
    let mut child = phone.report(new_record());
    child.parent_ids = vec![report.operation_id.clone()];
    let request = phone.batch(vec![report.clone(), help, child]);
    let mut client = DeviceServiceClient::new(world.channel("xiaonanhai", None));
    let results = in_time(client.push(request)).await.unwrap().into_inner().results;
    let outcomes: Vec<_> = results.iter().map(|result| result.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Quarantined, Outcome::Applied, Outcome::Quarantined]);
    assert_eq!(officer.pull(None).await.0.len(), 1);
    assert_eq!(phone.outcomes(vec![report]).await, [Outcome::Quarantined]);
}
