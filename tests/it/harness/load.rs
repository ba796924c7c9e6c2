//! Phones that report without end, and an officer who watches without end: what they saw is the oracle.

use super::checker::{Ack, AckLog, Seen};
use super::dice::Dice;
use cli::phone::{Phone, fresh};
use domain::kernel::{Purpose, RecordId};
use domain::operation::{Change, Operation};
use domain::risk::EventVerb;
use proto::device::v1 as pb;
use proto::device::v1::device_service_client::DeviceServiceClient;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Pause after a refused or lost call, as a phone makes one.
const RETRY: Duration = Duration::from_millis(100);
/// The same for phones that must lose no time.
const RETRY_SOON: Duration = Duration::from_millis(10);
/// Longest pause between two batches of a [`Reporter`].
const PAUSE_MS_MAX: u64 = 10;
/// Operations in a batch of a [`Reporter`].
const BATCH_MAX: u64 = 8;

/// A batch of fresh reports, signed as the phone's keystore would; and the records in it.
pub(crate) fn batch(
    phone: &Phone,
    first_seq: u64,
    count: usize,
) -> (pb::PushRequest, Vec<RecordId>) {
    let reports = (first_seq..).take(count);
    let reports: Vec<Operation> =
        reports.map(|seq| fresh(seq, Change::ReportEvent(super::event("落石")))).collect();
    let records = reports.iter().map(|report| report.record_id).collect();
    (phone.sign(&reports).unwrap(), records)
}

/// What an officer does with an event that was just reported.
fn accept(report: &Operation) -> Operation {
    let change =
        Change::Event { verb: EventVerb::Accept, level: None, handling_unit: String::new() };
    Operation {
        record_id: report.record_id,
        parent_ids: vec![report.operation_id],
        ..fresh(report.device_seq + 1, change)
    }
}

/// Sends a batch until it is answered, always the same bytes.
async fn push(
    service: &mut DeviceServiceClient<Channel>,
    request: pb::PushRequest,
    retry: Duration,
) -> pb::PushResponse {
    loop {
        match service.push(request.clone()).await {
            Ok(answer) => return answer.into_inner(),
            Err(_) => tokio::time::sleep(retry).await,
        }
    }
}

/// A phone that sends so many batches of fresh reports, one after another.
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
            let mut seqs = 1..;
            for _ in 0..batches {
                let change = || Change::ReportEvent(super::event("落石"));
                let reports: Vec<Operation> =
                    seqs.by_ref().take(batch_size).map(|seq| fresh(seq, change())).collect();
                let answer = push(&mut service, phone.sign(&reports).unwrap(), RETRY).await;
                let (acks, refused) = told(&answer, &reports);
                assert!(refused.is_empty(), "a fresh report was refused: {}", refused[0]);
                log.ack(&acks);
                count.send_modify(|count| *count += acks.len());
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
        ended(&mut self.task, deadline).await;
    }
}

async fn ended(task: &mut JoinSet<()>, deadline: Duration) {
    let all = async {
        while let Some(ended) = task.join_next().await {
            ended.unwrap();
        }
    };
    tokio::time::timeout(deadline, all).await.expect("the phone is not answered");
}

/// A phone or a desk that reports until it is told to stop, in small batches without much of a pause.
pub(crate) struct Reporter {
    stop: watch::Sender<bool>,
    refused: Arc<Mutex<Vec<String>>>,
    task: JoinSet<()>,
}

/// What a [`Reporter`] sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reports {
    /// Events, and a call for help now and then.
    FromTheField,
    /// Events that are accepted in the same batch: two revisions of each.
    FromTheDesk,
}

impl Reporter {
    /// Every answer seen goes into the log before the next batch is sent.
    pub(crate) fn start(phone: Phone, reports: Reports, log: &Path, mut dice: Dice) -> Self {
        let mut log = AckLog::create(log);
        let (stop, stopped) = watch::channel(false);
        let refused = Arc::new(Mutex::new(Vec::new()));
        let told_of = Arc::clone(&refused);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut service = cli::client::device_service(phone.channel());
            let mut next_seq = 1;
            while !*stopped.borrow() {
                let operations = some(reports, next_seq, &mut dice);
                next_seq += operations.len() as u64;
                let answer = push(&mut service, phone.sign(&operations).unwrap(), RETRY_SOON).await;
                let (acks, refused) = told(&answer, &operations);
                log.ack(&acks);
                told_of.lock().unwrap().extend(refused);
                let pause = Duration::from_millis(dice.below(PAUSE_MS_MAX));
                tokio::time::sleep(pause).await;
            }
        });
        Self { stop, refused, task }
    }

    /// What was refused since this was last asked; none of it should be.
    pub(crate) fn refused(&self) -> Vec<String> {
        std::mem::take(&mut self.refused.lock().unwrap())
    }

    /// Stops, once the batch under way is answered.
    pub(crate) async fn finish(&mut self, deadline: Duration) {
        self.stop.send_replace(true);
        ended(&mut self.task, deadline).await;
    }
}

/// The operations of the next batch.
fn some(reports: Reports, next_seq: u64, dice: &mut Dice) -> Vec<Operation> {
    let count = 1 + dice.below(BATCH_MAX);
    let event = |seq| fresh(seq, Change::ReportEvent(super::event("落石")));
    match reports {
        Reports::FromTheField => (next_seq..next_seq + count)
            .map(|seq| match dice.once_in(BATCH_MAX) {
                true => fresh(seq, Change::RaiseSos(super::sos("摔伤"))),
                false => event(seq),
            })
            .collect(),
        Reports::FromTheDesk => (0..count.div_ceil(2))
            .flat_map(|pair| {
                let report = event(next_seq + 2 * pair);
                let accepted = accept(&report);
                [report, accepted]
            })
            .collect(),
    }
}

/// What an answer says: the operations that are on disk, and in words those that are not or otherwise
/// than they should be.
fn told(answer: &pb::PushResponse, operations: &[Operation]) -> (Vec<Ack>, Vec<String>) {
    let (mut acks, mut refused) = (Vec::new(), Vec::new());
    assert_eq!(answer.results.len(), operations.len(), "one answer an operation");
    for (result, operation) in answer.results.iter().zip(operations) {
        let revision = if operation.change.creates() { 1 } else { 2 };
        let made = result.revision.as_ref().map(|revision| revision.n);
        let (record, outcome) = (operation.record_id, result.outcome());
        if !is_on_disk(result.outcome) {
            refused.push(format!("P3: {record} was answered {}", outcome.as_str_name()));
        } else if made != Some(revision) {
            refused.push(format!("P3: {record} is at {made:?} and not at {revision}"));
        } else {
            let sos = matches!(operation.change, Change::RaiseSos(_));
            acks.push(Ack { operation: operation.operation_id, record, revision, sos });
        }
    }
    (acks, refused)
}

fn is_on_disk(outcome: i32) -> bool {
    [i32::from(pb::Outcome::Applied), i32::from(pb::Outcome::Duplicate)].contains(&outcome)
}

/// The records that an answer says are on disk.
pub(crate) fn kept(answer: &pb::PushResponse, records: &[RecordId]) -> Vec<RecordId> {
    let results = answer.results.iter().zip(records);
    results.filter(|(result, _)| is_on_disk(result.outcome)).map(|(_, id)| *id).collect()
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

    /// What was seen after the first `known`.
    pub(crate) fn seen(&self, known: usize) -> Vec<Seen> {
        self.seen.lock().unwrap()[known..].to_vec()
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
        tokio::time::sleep(RETRY_SOON).await;
    }
}
