//! What is quarantined, as a duty officer reads it and releases what proves right.

use crate::client::agreement_service;
use crate::phone::{Phone, said};
use anyhow::Result;
use bytes::Bytes;
use domain::kernel::{Kind, Lane, Purpose, RecordId, RegionId};
use domain::quarantine::ReleaseReason;
use prost::Message as _;
use proto::agreement::v1 as pb;
use proto::device::v1::NeighbourView;
use proto::risk::v1::Event;
use serde_json::{Value, json};

/// Lists all that is quarantined, what came last first.
///
/// # Errors
/// When the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn list(phone: &Phone, as_json: bool) -> Result<()> {
    let (mut service, mut views, mut page_token) =
        (agreement_service(phone.channel()), Vec::new(), String::new());
    loop {
        let purpose = Purpose::Duty.code();
        let request = pb::ListQuarantinedRequest { page_size: 0, page_token, purpose };
        let answer = service.list_quarantined(request).await.map_err(said)?.into_inner();
        views.extend(answer.views);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let told: Vec<Value> = views.into_iter().map(told).collect();
    if as_json {
        println!("{}", Value::from(told));
        return Ok(());
    }
    for view in told {
        let word = |name: &str| view[name].as_str().unwrap_or_default().to_owned();
        let (record, kind, owner) = (word("record_id"), word("kind"), word("owner"));
        println!("{record} {kind} {owner} {} #{} {}", word("lane"), view["seq"], word("text"));
    }
    Ok(())
}

/// Has what is quarantined of a record shown again.
///
/// # Errors
/// When nothing of it is, or the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
pub async fn release(
    phone: &Phone,
    record: RecordId,
    owner: &RegionId,
    reason: ReleaseReason,
) -> Result<()> {
    let request = pb::ReleaseQuarantinedRequest {
        record_id: Bytes::copy_from_slice(record.as_bytes()),
        owner_region: owner.to_string(),
        reason: reason.code(),
        purpose: Purpose::Duty.code(),
    };
    let mut service = agreement_service(phone.channel());
    let answer = service.release_quarantined(request).await.map_err(said)?.into_inner();
    println!("{record}: {} views released 放行", answer.view_count);
    Ok(())
}

fn told(view: NeighbourView) -> Value {
    let (view, source) = (view.view.unwrap_or_default(), view.source.unwrap_or_default());
    let meta = view.meta.unwrap_or_default();
    let kind = Kind::try_from(meta.kind).ok();
    // What an officer can hold against what the owner's people say.
    let event = kind.filter(|kind| *kind == Kind::Event);
    let event = event.and_then(|_| Event::decode(view.payload).ok()).unwrap_or_default();
    json!({
        "record_id": RecordId::from_slice(&meta.record_id).map(|id| id.to_string()),
        "kind": kind.map(Kind::name),
        "owner": meta.owner_region,
        "revision": meta.revision.map(|revision| revision.n),
        "share_n": view.share_n,
        "lane": Lane::try_from(source.lane).ok().map(Lane::name),
        "seq": source.seq,
        "text": event.text,
    })
}
