//! Phones that report without end, and an officer who watches without end: what they saw is the oracle.

use super::checker::{AckLog, Seen};
use cli::phone::Phone;
use domain::kernel::{Clock as _, OperationId, Purpose, RecordId};
use domain::operation::{Change, Operation};
use prost::Message as _;
use proto::device::v1 as pb;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::batch::DeviceKey;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Pause after a refused or lost call, as a phone makes one.
const RETRY: Duration = Duration::from_millis(100);

/// A batch of fresh reports, signed as the phone's keystore would; and the records in it.
pub(crate) fn batch(
    phone: &Phone,
    first_seq: u64,
    count: usize,
) -> (pb::PushRequest, Vec<RecordId>) {
    let now = SystemClock.now();
    let mut records = Vec::with_capacity(count);
    let operations = (first_seq..)
        .take(count)
        .map(|device_seq| {
            let record_id = RecordId::mint(now, &SystemEntropy);
            records.push(record_id);
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
                change: Change::ReportEvent(super::event("落石")),
            })
        })
        .collect();
    let identity = phone.device.identity();
    let batch = pb::Batch {
        region_id: identity.region_id.to_string(),
        device_id: identity.device_id.as_bytes().to_vec().into(),
        send_time: Some(proto::convert::kernel::encode_time(now)),
        operations,
    }
    .encode_to_vec();
    let signature = DeviceKey::from_pkcs8(&phone.key.pkcs8()).unwrap().sign(&batch);
    let signed = pb::SignedBatch { batch: batch.into(), signature: signature.into() };
    (pb::PushRequest { signed_batch: Some(signed) }, records)
}

/// A phone that sends batch after batch; each until it is answered, the same bytes.
pub(crate) struct Pusher {
    acked: watch::Receiver<usize>,
    task: JoinSet<()>,
}

impl Pusher {
    /// Sends so many records; every answer seen goes into the log before the next batch is sent.
    pub(crate) fn start(phone: Phone, log: &Path, batches: usize, batch_size: usize) -> Self {
        let mut log = AckLog::create(log);
        let (count, acked) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut service = cli::client::device_service(phone.channel());
            let mut first_seq = 1;
            for _ in 0..batches {
                let (request, records) = batch(&phone, first_seq, batch_size);
                let answer = loop {
                    match service.push(request.clone()).await {
                        Ok(answer) => break answer.into_inner(),
                        Err(_) => tokio::time::sleep(RETRY).await,
                    }
                };
                first_seq += batch_size as u64;
                let kept = kept(&answer, &records);
                assert_eq!(kept.len(), records.len(), "a fresh report was refused");
                log.ack(&kept);
                count.send_modify(|count| *count += kept.len());
            }
        });
        Self { acked, task }
    }

    /// Waits until so many were acknowledged; gives how many are.
    pub(crate) async fn reached(&mut self, records: usize, deadline: Duration) -> usize {
        let reached = self.acked.wait_for(|acked| *acked >= records);
        let reached = tokio::time::timeout(deadline, reached).await;
        *reached.expect("the phone is not answered").expect("the phone gave up")
    }

    /// Waits until all were acknowledged.
    pub(crate) async fn finish(mut self, deadline: Duration) {
        let all = async {
            while let Some(ended) = self.task.join_next().await {
                ended.unwrap();
            }
        };
        tokio::time::timeout(deadline, all).await.expect("the phone is not answered");
    }
}

/// The records that an answer says are on disk.
pub(crate) fn kept(answer: &pb::PushResponse, records: &[RecordId]) -> Vec<RecordId> {
    let on_disk = [i32::from(pb::Outcome::Applied), i32::from(pb::Outcome::Duplicate)];
    let results = answer.results.iter().zip(records);
    results.filter(|(result, _)| on_disk.contains(&result.outcome)).map(|(_, id)| *id).collect()
}

/// An officer who watches the feed and, when the line or the server is lost, goes on where it ended.
pub(crate) struct Watcher {
    seen: Arc<Mutex<Vec<Seen>>>,
    _task: JoinSet<()>,
}

impl Watcher {
    pub(crate) fn start(channel: Channel) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        task.spawn(watch_for_ever(channel, Arc::clone(&seen)));
        Self { seen, _task: task }
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn watch_for_ever(channel: Channel, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut service = cli::client::device_service(&channel);
    let mut cursor = None;
    loop {
        let purpose = Purpose::Duty.code();
        let request = pb::WatchRequest { cursor: cursor.clone(), purpose, kinds: Vec::new() };
        if let Ok(messages) = service.watch(request).await {
            let mut messages = messages.into_inner();
            while let Ok(Some(message)) = messages.message().await {
                seen.lock().unwrap().extend(Seen::of(&message.changes));
                cursor = message.cursor;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
