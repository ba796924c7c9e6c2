//! Phones whose reports were written and signed beforehand: what is measured is the servers.

use crate::client;
use crate::phone::{Phone, said};
use anyhow::{Context as _, Result, ensure};
use domain::kernel::{Clock as _, Datum, GeoPoint, OperationId, RecordId};
use domain::operation::{Change, Operation};
use domain::risk::{EmergencyClass, Event, EventDomain, EventSource, EventState};
use prost::Message as _;
use proto::device::v1 as pb;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::batch::DeviceKey;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Bytes of a report as it goes over the wire.
pub(super) const RECORD_BYTES: usize = 300;

/// A signed batch, ready to go, and what is in it.
pub(super) struct Batch {
    pub(super) request: pb::PushRequest,
    pub(super) records: Vec<RecordId>,
}

/// A batch that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) sent_at: Instant,
    pub(super) acked_at: Instant,
    pub(super) count: usize,
}

/// Writes and signs `count` reports on each phone, in batches of `size`: batch by batch on one phone after
/// the other, as phones do that report at the same time.
pub(super) fn write(phones: &[Phone], count: usize, size: usize) -> Result<Vec<Vec<Batch>>> {
    let mut written: Vec<Vec<Batch>> = phones.iter().map(|_| Vec::new()).collect();
    let mut first = 0;
    while first < count {
        for (phone, batches) in phones.iter().zip(&mut written) {
            batches.push(batch(phone, first as u64 + 1, size.min(count - first))?);
        }
        first += size;
    }
    Ok(written)
}

fn batch(phone: &Phone, device_seq: u64, size: usize) -> Result<Batch> {
    let key = DeviceKey::from_pkcs8(&phone.key.pkcs8()).context("the phone's key")?;
    let now = SystemClock.now();
    let records: Vec<_> = (0..size).map(|_| RecordId::mint(now, &SystemEntropy)).collect();
    let padding = padding(operation(device_seq, "", RecordId::mint(now, &SystemEntropy)));
    let operations = (device_seq..).zip(&records);
    let identity = phone.device.identity();
    let batch = pb::Batch {
        region_id: identity.region_id.to_string(),
        device_id: identity.device_id.as_bytes().to_vec().into(),
        send_time: Some(proto::convert::kernel::encode_time(now)),
        operations: operations.map(|(seq, record)| operation(seq, &padding, *record)).collect(),
    }
    .encode_to_vec();
    let signature = key.sign(&batch).into();
    let signed = pb::SignedBatch { batch: batch.into(), signature };
    Ok(Batch { request: pb::PushRequest { signed_batch: Some(signed) }, records })
}

/// Sends over one `Sync` stream, `depth` batches in flight; each answer must say that all was applied.
pub(super) async fn stream(
    channel: Channel,
    batches: Vec<Batch>,
    depth: usize,
) -> Result<Vec<Answered>> {
    let (out, requests) = mpsc::channel(depth);
    let mut service = client::device_service(&channel);
    let mut answers = service.sync(ReceiverStream::new(requests)).await.map_err(said)?.into_inner();
    let mut in_flight = std::collections::VecDeque::with_capacity(depth);
    let mut answered = Vec::with_capacity(batches.len());
    let mut batches = batches.into_iter();
    loop {
        while in_flight.len() < depth
            && let Some(batch) = batches.next()
        {
            in_flight.push_back((Instant::now(), batch.records.len()));
            let request = Some(pb::sync_request::Request::Push(batch.request));
            out.send(pb::SyncRequest { request }).await?;
        }
        let Some((sent_at, count)) = in_flight.pop_front() else { return Ok(answered) };
        let answer = answers.message().await.map_err(said)?.context("the stream ended")?;
        let Some(pb::sync_response::Response::Push(answer)) = answer.response else {
            anyhow::bail!("an answer to nothing")
        };
        applied(&answer, count)?;
        answered.push(Answered { sent_at, acked_at: Instant::now(), count });
    }
}

/// Sends one call after another; several may run beside each other on one phone.
pub(super) async fn unary(channel: Channel, batches: Vec<Batch>) -> Result<Vec<Answered>> {
    let mut service = client::device_service(&channel);
    let mut answered = Vec::with_capacity(batches.len());
    for Batch { request, records } in batches {
        let sent_at = Instant::now();
        let answer = service.push(request).await.map_err(said)?.into_inner();
        applied(&answer, records.len())?;
        answered.push(Answered { sent_at, acked_at: Instant::now(), count: records.len() });
    }
    Ok(answered)
}

/// Sends one call each `every`, whether or not those before were answered in time.
pub(super) async fn paced(
    channel: Channel,
    batches: Vec<Batch>,
    every: Duration,
) -> Result<Vec<Answered>> {
    let mut service = client::device_service(&channel);
    let mut ticks = tokio::time::interval(every);
    let mut answered = Vec::with_capacity(batches.len());
    for Batch { request, records } in batches {
        ticks.tick().await;
        let sent_at = Instant::now();
        let answer = service.push(request).await.map_err(said)?.into_inner();
        applied(&answer, records.len())?;
        answered.push(Answered { sent_at, acked_at: Instant::now(), count: records.len() });
    }
    Ok(answered)
}

fn applied(answer: &pb::PushResponse, count: usize) -> Result<()> {
    let applied = i32::from(pb::Outcome::Applied);
    let all = answer.results.iter().filter(|result| result.outcome == applied).count();
    ensure!(all == count, "of {count} fresh reports {all} were applied");
    Ok(())
}

fn operation(device_seq: u64, padding: &str, record_id: RecordId) -> pb::Operation {
    let now = SystemClock.now();
    pb::Operation::from(&Operation {
        operation_id: OperationId::mint(now, &SystemEntropy),
        record_id,
        parent_ids: Vec::new(),
        base_revision: None,
        occurred_at: now,
        recorded_at: now,
        device_seq,
        author_unit: "unit-1".to_owned(),
        author_ref: None,
        sensitivity: None,
        external_ref: None,
        change: Change::ReportEvent(Event {
            domain: EventDomain::Safety,
            category: "GEOLOGICAL".to_owned(),
            emergency_class: Some(EmergencyClass::NaturalDisaster),
            level: None,
            place: "黑溪桥头".to_owned(),
            point: Some(GeoPoint {
                lon: 108.7625,
                lat: 29.6615,
                accuracy_m: 5.0,
                datum: Datum::Wgs84,
                source: None,
                altitude_m: None,
            }),
            text: format!("落石挡道{padding}"),
            source: EventSource::Patrol,
            affected_count: 0,
            urgent: false,
            deadline_at: None,
            state: EventState::Reported,
            handling_unit: String::new(),
            observation_id: None,
        }),
    })
}

/// What makes a report as long as it should be.
fn padding(bare: pb::Operation) -> String {
    let lacks = RECORD_BYTES.saturating_sub(bare.encoded_len());
    "，可绕行"
        .chars()
        .cycle()
        .scan(0, |size, next| {
            *size += next.len_utf8();
            (*size <= lacks).then_some(next)
        })
        .collect()
}
