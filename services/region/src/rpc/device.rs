//! `DeviceService`: what a phone says.

use super::Services;
use crate::feed::{self, Wanted, cursor};
use crate::hosted::Hosted;
use crate::operations::{self, Answer, Incoming, OperationsError, Sender};
use crate::status::{refuse, refuse_field, unreadable, unwritten};
use bytes::Bytes;
use domain::kernel::{DeviceId, Reason, RegionId, Revision};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use prost::Message as _;
use proto::convert::kernel::{decode_time, encode_time};
use proto::convert::{Path, operation, record};
use proto::device::v1 as pb;
use proto::device::v1::device_service_server::DeviceService;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use storage::region::DeviceRow;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

const PULL: &str = "wuling.device.v1.DeviceService/Pull";
const WATCH: &str = "wuling.device.v1.DeviceService/Watch";
const SYNC: &str = "wuling.device.v1.DeviceService/Sync";
/// Changes in a page, unless the phone asks for fewer.
const PAGE_DEFAULT: u32 = 200;
const PAGE_MAX: u32 = 1_000;
/// Answers that may wait for a slow phone; past it no more pushes are taken.
const ANSWERS_QUEUED_MAX: usize = 64;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DeviceService for Services {
    async fn enrol(
        &self,
        request: Request<pb::EnrolRequest>,
    ) -> Result<Response<pb::EnrolResponse>, Status> {
        let request = request.into_inner();
        let region = self.region(&request.region_id)?;
        single(&region, &request)?;
        Ok(Response::new(crate::enrol::enrol(&region, request).await?))
    }

    async fn push(
        &self,
        request: Request<pb::PushRequest>,
    ) -> Result<Response<pb::PushResponse>, Status> {
        let batch = Arrived::new(self, request.into_inner()).await?;
        Ok(Response::new(batch.apply().await?))
    }

    async fn pull(
        &self,
        request: Request<pb::PullRequest>,
    ) -> Result<Response<pb::PullResponse>, Status> {
        let (region, caller) = self.caller(&request, PULL).await?;
        let request = request.into_inner();
        single(&region, &request)?;
        let limit = match request.page_size {
            0 => PAGE_DEFAULT,
            1..=PAGE_MAX => request.page_size,
            _ => return Err(refuse_field("page_size", "must be 1 to 1000")),
        };
        let wanted =
            Wanted::new(&region, &caller, request.cursor, request.purpose, &request.kinds)?;
        let (changes, last, more) = feed::page(&region, &wanted, limit).await?;
        region
            .disclose(
                &caller,
                wanted.purpose,
                "Pull",
                (wanted.after.saturating_add(1), last),
                changes.len(),
            )
            .await
            .map_err(unwritten)?;
        Ok(Response::new(pb::PullResponse {
            changes,
            next_cursor: Some(cursor(&region, last)),
            more,
        }))
    }

    type WatchStream = Out<pb::WatchResponse>;

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (region, caller) = self.caller(&request, WATCH).await?;
        let request = request.into_inner();
        single(&region, &request)?;
        let wanted =
            Wanted::new(&region, &caller, request.cursor, request.purpose, &request.kinds)?;
        let messages = feed::watch(region, caller, wanted);
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    type SyncStream = Out<pb::SyncResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (region, caller) = self.caller(&request, SYNC).await?;
        let (out, answers) = mpsc::channel(ANSWERS_QUEUED_MAX);
        let services = self.clone();
        let inbound = request.into_inner();
        let tasks = region.tasks.clone();
        tasks.spawn("region.sync", runtime::OnExit::Log, async move {
            let session = Sync { services, region, caller, out: out.clone(), watching: false };
            if let Err(status) = session.run(inbound).await {
                // The phone may be gone, which is then why the stream ended.
                drop(out.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Pushes of a stream that are taken at a time: while one is written, the next is decided.
const PUSHES_AT_A_TIME_MAX: usize = 4;

/// Pushes under way, answered in the order in which they came.
type Pushes = FuturesOrdered<BoxFuture<'static, Result<pb::PushResponse, Status>>>;

/// A stream of pushes and one watch.
struct Sync {
    services: Services,
    region: Arc<Hosted>,
    caller: crate::hosted::Caller,
    out: mpsc::Sender<Result<pb::SyncResponse, Status>>,
    watching: bool,
}

impl Sync {
    async fn run(mut self, mut inbound: Streaming<pb::SyncRequest>) -> Result<(), Status> {
        let mut pushes = Pushes::new();
        let end = self.take(&mut inbound, &mut pushes).await;
        // What was taken is answered, whatever ended the stream.
        self.settle(&mut pushes).await?;
        end
    }

    async fn take(
        &mut self,
        inbound: &mut Streaming<pb::SyncRequest>,
        pushes: &mut Pushes,
    ) -> Result<(), Status> {
        let soft = self.region.tasks.soft().clone();
        let idle = self.region.limits.stream_idle();
        loop {
            // A watch is heard of by what it is sent.
            let quiet = !self.watching && pushes.is_empty();
            let silence = async {
                if quiet { tokio::time::sleep(idle).await } else { std::future::pending().await }
            };
            let room = pushes.len() < PUSHES_AT_A_TIME_MAX;
            // No arm loses a message or an answer when another is taken.
            let request = tokio::select! {
                () = soft.cancelled() => return Ok(()),
                () = self.out.closed() => return Ok(()),
                () = silence => return Ok(()),
                Some(answer) = pushes.next() => {
                    self.answer(answer).await?;
                    continue;
                }
                request = inbound.message(), if room => request?,
            };
            match request.map(|request| request.request) {
                None => return Ok(()),
                Some(Some(pb::sync_request::Request::Push(request))) => {
                    let batch = Arrived::new(&self.services, request).await?;
                    let alone = batch.stands_alone();
                    // What may rest on what came before is decided when that is on disk, and so is what
                    // comes after it.
                    if !alone {
                        self.settle(pushes).await?;
                    }
                    let span = tracing::debug_span!(parent: None, "rpc.sync.push");
                    pushes.push_back(Box::pin(batch.apply().instrument(span)));
                    if !alone {
                        self.settle(pushes).await?;
                    }
                }
                Some(Some(pb::sync_request::Request::Watch(request))) => {
                    self.watch(request).await?
                }
                Some(None) => return Err(refuse_field("request", "must be push or watch")),
            }
        }
    }

    /// Waits for all pushes under way.
    async fn settle(&self, pushes: &mut Pushes) -> Result<(), Status> {
        while let Some(answer) = pushes.next().await {
            self.answer(answer).await?;
        }
        Ok(())
    }

    async fn answer(&self, answer: Result<pb::PushResponse, Status>) -> Result<(), Status> {
        let response = Some(pb::sync_response::Response::Push(answer?));
        // A phone that is gone will send it again.
        drop(self.out.send(Ok(pb::SyncResponse { response })).await);
        Ok(())
    }

    async fn watch(&mut self, request: pb::WatchRequest) -> Result<(), Status> {
        single(&self.region, &request)?;
        if std::mem::replace(&mut self.watching, true) {
            return Err(refuse_field("watch", "may be asked for once a stream"));
        }
        let wanted = Wanted::new(
            &self.region,
            &self.caller,
            request.cursor,
            request.purpose,
            &request.kinds,
        )?;
        let messages = feed::watch(Arc::clone(&self.region), self.caller.clone(), wanted);
        let mut messages = ReceiverStream::new(messages).map(|message| {
            message.map(|message| pb::SyncResponse {
                response: Some(pb::sync_response::Response::Watch(message)),
            })
        });
        let out = self.out.clone();
        self.region.tasks.spawn("region.sync.watch", runtime::OnExit::Log, async move {
            while let Some(message) = messages.next().await {
                if out.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }
}

/// Refuses a message that is no batch and as large as one.
fn single(region: &Hosted, message: &impl prost::Message) -> Result<(), Status> {
    if message.encoded_len() > region.limits.message_bytes_max as usize {
        return Err(refuse(Reason::LimitExceeded));
    }
    Ok(())
}

/// A [`pb::Batch`] whose operations stay as they came: the digest that tells a repeat from a reuse is
/// over exactly these bytes, and nothing is encoded again for it.
#[derive(Clone, PartialEq, prost::Message)]
struct BatchAsSent {
    #[prost(string, tag = "1")]
    region_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    device_id: Bytes,
    #[prost(message, optional, tag = "3")]
    send_time: Option<prost_types::Timestamp>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    operations: Vec<Bytes>,
}

/// A batch that came, verified: the device's signature is the caller's proof, whatever the connection.
struct Arrived {
    region: Arc<Hosted>,
    sender: Sender,
    /// Its operations, and the answers to those that are malformed, at their places.
    incoming: Vec<Incoming>,
    results: Vec<Option<pb::OperationResult>>,
}

impl Arrived {
    async fn new(services: &Services, request: pb::PushRequest) -> Result<Self, Status> {
        let signed =
            request.signed_batch.ok_or_else(|| refuse_field("signed_batch", "must be given"))?;
        if signed.batch.len() > seal::batch::BATCH_BYTES_MAX {
            return Err(refuse(Reason::LimitExceeded));
        }
        // Counted before they are made: an operation of two bytes takes many more in memory.
        if operation_count(&signed.batch) > operation::OPERATIONS_PER_BATCH_MAX {
            return Err(operations_wrong());
        }
        let batch = BatchAsSent::decode(signed.batch.clone())
            .map_err(|_| refuse_field("signed_batch.batch", "is no Batch message"))?;
        let region = services.region(&batch.region_id)?;
        if signed.batch.len() > region.limits.batch_bytes_max as usize {
            return Err(refuse(Reason::LimitExceeded));
        }
        let device = device(&region, &batch.device_id).await?;
        seal::batch::verify(&device.public_key, &signed.batch, &signed.signature)
            .map_err(|error| refuse(error.reason()))?;
        if device.revoked_at.is_some() {
            return Err(refuse(Reason::DeviceRevoked));
        }
        let now = region.now();
        let sent = batch.send_time.and_then(decode_time);
        let sent =
            sent.ok_or_else(|| refuse_field("signed_batch.batch.send_time", "must be a time"))?;
        let sender = Sender {
            role: device.role,
            device: Some(device.device_id),
            clock_offset_ms: now.millis_since(sent),
            now,
            expired: device.expires_at <= now,
            desk: false,
        };
        if batch.operations.is_empty() {
            return Err(operations_wrong());
        }
        let (incoming, results) = read(batch.operations)?;
        Ok(Self { region, sender, incoming, results })
    }

    /// Whether nothing in it can rest on what came before.
    fn stands_alone(&self) -> bool {
        self.incoming.iter().all(|one| operations::stands_alone(&one.operation))
    }

    /// Applies and answers its operations.
    async fn apply(self) -> Result<pb::PushResponse, Status> {
        let Self { region, sender, incoming, results } = self;
        let answers =
            operations::apply(&region, &sender, &incoming).await.map_err(|error| failed(&error))?;
        region.answers.count(&answers, results.len() - incoming.len());
        release(&region, &sender, &answers).await.map_err(|error| failed(&error))?;
        let mut answered = incoming.iter().zip(answers);
        let results = results
            .into_iter()
            .filter_map(|done| {
                done.or_else(|| answered.next().map(|(one, answer)| result(&region, one, answer)))
            })
            .collect();
        Ok(pb::PushResponse {
            results,
            receive_time: Some(encode_time(sender.now)),
            clock_offset_ms: sender.clock_offset_ms,
        })
    }
}

fn operations_wrong() -> Status {
    refuse_field("signed_batch.batch.operations", "must hold 1 to 1000 operations")
}

/// How many operations an encoded batch holds, as far as it can be read.
fn operation_count(mut batch: &[u8]) -> usize {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    /// Number of the field.
    const OPERATIONS: u32 = 4;
    let mut count = 0;
    while let Ok((number, wire_type)) = decode_key(&mut batch) {
        count += usize::from(number == OPERATIONS);
        if skip_field(wire_type, number, &mut batch, DecodeContext::default()).is_err() {
            break;
        }
    }
    count
}

async fn device(region: &Hosted, id: &[u8]) -> Result<DeviceRow, Status> {
    let id = DeviceId::from_slice(id).ok_or_else(|| refuse(Reason::DeviceUnknown))?;
    let found = region.store.find_device(id).await.map_err(|error| unreadable(&error))?;
    found.ok_or_else(|| refuse(Reason::DeviceUnknown))
}

/// Reads the operations of a batch; a malformed one is refused by itself.
fn read(
    operations: Vec<Bytes>,
) -> Result<(Vec<Incoming>, Vec<Option<pb::OperationResult>>), Status> {
    let mut results = Vec::with_capacity(operations.len());
    let mut incoming = Vec::with_capacity(operations.len());
    for encoded in operations {
        let pb = pb::Operation::decode(encoded.clone()).map_err(|_| {
            refuse_field("signed_batch.batch.operations", "must hold Operation messages")
        })?;
        let operation_id = pb.operation_id.clone();
        // Paths begin in the operation, as those of the rules do: it may be answered without its batch.
        match operation::decode(pb, Path::ROOT) {
            Ok(operation) => {
                let digest = operations::digest(&encoded);
                incoming.push(Incoming { operation, digest, encoded });
                results.push(None);
            }
            Err(violations) => results.push(Some(pb::OperationResult {
                operation_id,
                outcome: pb::Outcome::Rejected.into(),
                reason: Reason::FieldInvalid.code(),
                field_violations: violations.0.iter().map(violation).collect(),
                ..Default::default()
            })),
        }
    }
    Ok((incoming, results))
}

/// After operations were applied, those that waited for them may follow.
async fn release(
    region: &Hosted,
    sender: &Sender,
    answers: &[Answer],
) -> Result<(), OperationsError> {
    let Some(device) = sender.device else { return Ok(()) };
    let holds = answers.iter().any(|answer| matches!(answer, Answer::Held));
    let seen = {
        let mut held = region.held.lock().unwrap_or_else(PoisonError::into_inner);
        if holds {
            held.count += 1;
            held.nothing.remove(&device);
        } else if held.nothing.contains(&device) {
            return Ok(());
        }
        held.count
    };
    while operations::release_held(region, sender, device).await? > 0 {}
    if region.store.list_held(device, 1).await?.is_empty() {
        let mut held = region.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Something held since would be forgotten.
        if held.count == seen {
            held.nothing.insert(device);
        }
    }
    Ok(())
}

/// A failure of the whole call.
pub(super) fn failed(error: &OperationsError) -> Status {
    match error {
        OperationsError::Read(error) => unreadable(error),
        OperationsError::Write(error) => unwritten(*error),
        OperationsError::Busy => refuse(Reason::ServerBusy),
        OperationsError::Unreadable => {
            tracing::error!("a stored record is unreadable");
            refuse(Reason::Internal)
        }
    }
}

fn result(region: &Hosted, one: &Incoming, answer: Answer) -> pb::OperationResult {
    let epoch = region.store.epoch();
    let mut result = pb::OperationResult {
        operation_id: Bytes::copy_from_slice(one.operation.operation_id.as_bytes()),
        ..Default::default()
    };
    let outcome = match answer {
        Answer::Applied(record) => {
            result.revision = Some((&record.meta.revision).into());
            pb::Outcome::Applied
        }
        Answer::Duplicate { revision_n, .. } => {
            result.revision = Some((&Revision { t: 0, epoch, n: revision_n }).into());
            pb::Outcome::Duplicate
        }
        Answer::Conflict(current) => {
            result.reason = Reason::RevisionStale.code();
            result.revision = current.as_ref().map(|record| (&record.meta.revision).into());
            result.current = current.as_deref().map(record::encode);
            pb::Outcome::Conflict
        }
        Answer::Rejected(rejection) => {
            result.reason = rejection.reason.code();
            result.field_violations = rejection.violations.iter().map(violation).collect();
            pb::Outcome::Rejected
        }
        Answer::Held => pb::Outcome::Held,
        Answer::Quarantined => pb::Outcome::Quarantined,
    };
    result.outcome = outcome.into();
    result
}

fn violation(violation: &domain::kernel::FieldViolation) -> pb::FieldViolation {
    pb::FieldViolation {
        field: violation.field.clone(),
        description: violation.description.clone(),
    }
}

/// A region's id for the wire; empty means the region that answers.
pub(super) fn region_or_own(text: &str, own: &RegionId) -> Result<RegionId, Status> {
    if text.is_empty() {
        Ok(own.clone())
    } else {
        RegionId::parse(text).map_err(|_| refuse(Reason::RegionUnknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_as_sent_is_the_batch_of_the_contract() {
        let operation = pb::Operation { device_seq: 7, ..Default::default() };
        let batch = pb::Batch {
            region_id: "here".to_owned(),
            device_id: Bytes::from_static(&[1; 16]),
            send_time: Some(prost_types::Timestamp { seconds: 5, nanos: 6 }),
            operations: vec![operation.clone(), pb::Operation::default()],
        };
        let sent = BatchAsSent::decode(batch.encode_to_vec().as_slice()).unwrap();
        assert_eq!(sent.region_id, batch.region_id);
        assert_eq!((sent.device_id, sent.send_time), (batch.device_id, batch.send_time));
        assert_eq!(sent.operations, [operation.encode_to_vec(), Vec::new()]);
    }
}
