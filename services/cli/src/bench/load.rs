//! Phones whose reports were written and signed beforehand: what is measured is the servers.

use crate::client;
use crate::phone::{Phone, fresh, said};
use anyhow::{Context as _, Result, ensure};
use domain::kernel::{Datum, GeoPoint, RecordId};
use domain::operation::{Change, Operation};
use domain::risk::{EmergencyClass, Event, EventDomain, EventSource, EventState};
use prost::Message as _;
use proto::device::v1 as pb;
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
    let padding = padding(&report(device_seq, ""));
    let reports: Vec<Operation> =
        (device_seq..).take(size).map(|seq| report(seq, &padding)).collect();
    let records = reports.iter().map(|report| report.record_id).collect();
    Ok(Batch { request: phone.sign(&reports)?, records })
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

/// Sends one call after another, each `every` where that is given; several may run beside each other on
/// one phone.
pub(super) async fn calls(
    channel: Channel,
    batches: Vec<Batch>,
    every: Option<Duration>,
) -> Result<Vec<Answered>> {
    let mut service = client::device_service(&channel);
    let mut ticks = every.map(tokio::time::interval);
    let mut answered = Vec::with_capacity(batches.len());
    for Batch { request, records } in batches {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
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

/// A report as a phone writes it.
pub(super) fn report(device_seq: u64, padding: &str) -> Operation {
    fresh(
        device_seq,
        Change::ReportEvent(Event {
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
    )
}

/// What makes a report as long as it should be.
fn padding(bare: &Operation) -> String {
    let lacks = RECORD_BYTES.saturating_sub(pb::Operation::from(bare).encoded_len());
    "，可绕行"
        .chars()
        .cycle()
        .scan(0, |size, next| {
            *size += next.len_utf8();
            (*size <= lacks).then_some(next)
        })
        .collect()
}
