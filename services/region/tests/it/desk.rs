//! The duty desk: events from the report to the end, page by page, every look on record.

use crate::world::*;
use bytes::Bytes;
use domain::kernel::{Clock as _, OperationId, RecordId};
use proto::convert::kernel::encode_time;
use proto::kernel::v1::Revision;
use proto::patrol::v1::ListPatrolsRequest;
use proto::patrol::v1::patrol_service_client::PatrolServiceClient;
use proto::risk::v1 as pb;
use proto::risk::v1::{EventState, EventVerb};
use runtime::clock::{SystemClock, SystemEntropy};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn request_id() -> Bytes {
    Bytes::copy_from_slice(OperationId::mint(SystemClock.now(), &SystemEntropy).as_bytes())
}

fn report(record: RecordId) -> pb::ReportEventRequest {
    pb::ReportEventRequest {
        request_id: request_id(),
        record_id: id(record),
        occur_time: Some(encode_time(SystemClock.now())),
        event: Some(event()),
        sensitivity: 0,
    }
}

fn step(record: RecordId, verb: EventVerb, etag: Option<Revision>) -> pb::TransitionEventRequest {
    pb::TransitionEventRequest {
        request_id: request_id(),
        record_id: id(record),
        etag,
        verb: verb.into(),
        level: 0,
        handling_unit: String::new(),
    }
}

fn revision(event: &pb::EventRecord) -> Option<Revision> {
    event.meta.as_ref()?.revision.clone()
}

async fn transition(
    desk: &Phone,
    request: pb::TransitionEventRequest,
) -> Result<pb::EventRecord, Status> {
    let response = in_time(desk.risk().transition_event(request)).await?;
    Ok(response.into_inner().event.expect("an event"))
}

async fn reported(desk: &Phone, record: RecordId) -> pb::EventRecord {
    let response = in_time(desk.risk().report_event(report(record))).await.expect("reported");
    response.into_inner().event.expect("an event")
}

#[tokio::test]
async fn an_event_goes_from_report_to_filing_each_step_on_the_revision_before() {
    let world = World::new().await;
    let desk = world.officer().await;
    let record = new_record();
    let mut at = reported(&desk, record).await;
    for (verb, state) in
        [(EventVerb::Accept, EventState::Accepted), (EventVerb::File, EventState::Filed)]
    {
        at = transition(&desk, step(record, verb, revision(&at))).await.unwrap();
        assert_eq!(at.event.as_ref().unwrap().state(), state);
    }
    assert_eq!(revision(&at).unwrap().n, 3);
    let get =
        pb::GetEventRequest { record_id: id(record), owner_region: String::new(), purpose: DUTY };
    let found = in_time(desk.risk().get_event(get)).await.unwrap().into_inner().event;
    assert_eq!(found, Some(at));
}

#[tokio::test]
async fn a_step_on_an_old_revision_is_aborted_with_details() {
    let world = World::new().await;
    let desk = world.officer().await;
    let record = new_record();
    let first = reported(&desk, record).await;
    transition(&desk, step(record, EventVerb::Accept, revision(&first))).await.unwrap();
    let stale = transition(&desk, step(record, EventVerb::Cancel, revision(&first))).await;
    assert_eq!(refused(stale), (Code::Aborted, "REVISION_STALE".to_owned()));
    let early = transition(&desk, step(record, EventVerb::Close, None)).await.unwrap_err();
    assert_eq!(
        (early.code(), &reason(&early)[..]),
        (Code::FailedPrecondition, "STATE_FORBIDS_VERB")
    );
    let details = early.get_error_details();
    assert_eq!(details.precondition_failure().unwrap().violations.len(), 1);
    let unknown = transition(&desk, step(new_record(), EventVerb::Accept, None)).await;
    assert_eq!(refused(unknown), (Code::NotFound, "RECORD_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn a_call_made_again_gives_what_the_first_gave() {
    let world = World::new().await;
    let desk = world.officer().await;
    let record = new_record();
    let call = report(record);
    let mut risk = desk.risk();
    let first = in_time(risk.report_event(call.clone())).await.unwrap().into_inner();
    world.clock.advance(1_000);
    let again = in_time(risk.report_event(call.clone())).await.unwrap().into_inner();
    assert_eq!(first, again);
    // The same request id for something else is refused.
    let other = pb::ReportEventRequest { record_id: id(new_record()), ..call };
    let result = refused(in_time(risk.report_event(other)).await);
    assert_eq!(result, (Code::AlreadyExists, "OPERATION_ID_REUSED".to_owned()));
}

#[tokio::test]
async fn fields_are_refused_by_name() {
    let world = World::new().await;
    let desk = world.officer().await;
    let good = report(new_record());
    let mut named = event();
    named.text = "联系 13812345678".to_owned();
    let cases = [
        (pb::ReportEventRequest { request_id: Bytes::new(), ..good.clone() }, "request_id"),
        (pb::ReportEventRequest { record_id: vec![1; 16].into(), ..good.clone() }, "record_id"),
        (pb::ReportEventRequest { occur_time: None, ..good.clone() }, "occur_time"),
        (pb::ReportEventRequest { event: None, ..good.clone() }, "event"),
        (pb::ReportEventRequest { sensitivity: 99, ..good.clone() }, "sensitivity"),
        (pb::ReportEventRequest { event: Some(named), ..good }, "report_event.text"),
    ];
    for (request, field) in cases {
        let status = in_time(desk.risk().report_event(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
        reason(&status);
    }
}

#[tokio::test]
async fn pages_follow_one_another_newest_first_and_a_token_is_good_for_its_list_alone() {
    let world = World::new().await;
    let desk = world.officer().await;
    let mut records = Vec::new();
    for _ in 0..5 {
        let record = new_record();
        reported(&desk, record).await;
        records.insert(0, id(record));
    }
    let mut found = Vec::new();
    let mut page_token = String::new();
    let mut tokens = Vec::new();
    loop {
        let request = pb::ListEventsRequest { page_size: 2, page_token, purpose: DUTY };
        let page = in_time(desk.risk().list_events(request)).await.unwrap().into_inner();
        found.extend(page.events.iter().map(|event| event.meta.clone().unwrap().record_id));
        // What comes meanwhile does not move the pages.
        reported(&desk, new_record()).await;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        tokens.push(page_token.clone());
    }
    assert_eq!(found, records);
    let other = ListPatrolsRequest { page_token: tokens[0].clone(), purpose: DUTY, page_size: 0 };
    let mut patrols = PatrolServiceClient::new(desk.channel.clone());
    let invalid = (Code::InvalidArgument, "PAGE_TOKEN_INVALID".to_owned());
    assert_eq!(refused(in_time(patrols.list_patrols(other)).await), invalid);
    for page_token in ["x", "5-", "-1", "6-99999999999999999999"] {
        let page_token = page_token.to_owned();
        let request = pb::ListEventsRequest { page_token, purpose: DUTY, page_size: 0 };
        assert_eq!(refused(in_time(desk.risk().list_events(request)).await), invalid);
    }
}

#[tokio::test]
async fn a_look_is_on_record_before_its_reply_and_none_is_had_without_purpose() {
    let world = World::new().await;
    let desk = world.officer().await;
    reported(&desk, new_record()).await;
    let conn = world.beside("xiaonanhai");
    let looks = || {
        let sql =
            "SELECT method, purpose, count FROM disclosure ORDER BY disclosure_no DESC LIMIT 1";
        conn.query_row(sql, [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i32>(1)?, row.get::<_, i64>(2)?))
        })
    };
    let request = pb::ListEventsRequest { page_size: 0, page_token: String::new(), purpose: 0 };
    let result = refused(in_time(desk.risk().list_events(request.clone())).await);
    assert_eq!(result, (Code::InvalidArgument, "PURPOSE_REQUIRED".to_owned()));
    assert!(looks().is_err());
    let request = pb::ListEventsRequest { purpose: DUTY, ..request };
    in_time(desk.risk().list_events(request)).await.unwrap();
    assert_eq!(looks(), Ok(("ListEvents".to_owned(), DUTY, 1)));
    desk.pull(None).await;
    assert_eq!(looks(), Ok(("Pull".to_owned(), DUTY, 1)));
}
