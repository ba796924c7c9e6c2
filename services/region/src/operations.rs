//! A record's way in: operations are decided by the rules, shared under the agreements, and committed
//! together; what the ground has moved under is decided again.

use crate::hosted::Hosted;
use crate::shares::shares;
use bytes::Bytes;
use domain::kernel::{DeviceId, OperationId, Reason, RecordId, Role, Timestamp};
use domain::operation::{Change, Context, Operation, Rejection, decide};
use domain::record::Record;
use domain::stream::Shown;
use domain::transfer::Direction;
use exchange::book::Book;
use prost::Message as _;
use proto::convert;
use proto::convert::view::Outgoing;
use proto::kernel::v1 as kernel;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use storage::region::{
    Base, Commit, CommitItem, CommitVerdict, OperationOutcome, OperationRow, RecordWrite,
};
use storage::{ReadError, WriteError};

/// How often a commit is decided again when its ground moves; past it the store is too busy.
const TRIES_MAX: usize = 8;
/// Waiting operations looked at when their device pushes.
const HELD_MAX: u32 = 1_000;

/// An operation as it came.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) operation: Operation,
    /// First 16 bytes of SHA-256 of its bytes.
    pub(crate) digest: [u8; 16],
    /// Its bytes, to be kept while it waits.
    pub(crate) encoded: Bytes,
}

/// First 16 bytes of SHA-256 of an operation: tells a repeat from a reuse of its id.
pub(crate) fn digest(encoded: &[u8]) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&seal::key::sha256(encoded)[..16]);
    first
}

/// Who sends operations, and when they came.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) role: Role,
    pub(crate) device: Option<DeviceId>,
    pub(crate) clock_offset_ms: i64,
    pub(crate) now: Timestamp,
    /// The certificate has run out: what it sends waits for an officer, but for a call for help.
    pub(crate) expired: bool,
    /// It waits for an answer: nothing is held for it.
    pub(crate) desk: bool,
}

/// What became of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Applied(Arc<Record>),
    Duplicate { revision_n: u64, record_id: RecordId },
    Conflict(Option<Arc<Record>>),
    Rejected(Rejection),
    Held,
    Quarantined,
}

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperationsError {
    #[error("the store could not be read")]
    Read(#[from] ReadError),
    #[error("the store could not be written")]
    Write(#[from] WriteError),
    #[error("a stored record is unreadable")]
    Unreadable,
    #[error("the records move faster than they can be decided on")]
    Busy,
}

/// What the rules look at, read from the store and kept up to date as a batch is decided.
struct Ground {
    operations: HashMap<OperationId, OperationRow>,
    records: HashMap<RecordId, Present>,
    /// Records that are there no more, and why.
    gone: HashMap<RecordId, Reason>,
}

/// A record as it stands, and what was shown of it.
struct Present {
    record: Arc<Record>,
    shown: Shown,
}

/// Applies operations in order; one answer each.
pub(crate) async fn apply(
    region: &Hosted,
    sender: &Sender,
    incoming: &[Incoming],
) -> Result<Vec<Answer>, OperationsError> {
    // Fresh reports, the usual case, need to know nothing of what is there: the commit finds out.
    let mut ground = if incoming.iter().all(|i| stands_alone(&i.operation)) {
        Ground {
            operations: HashMap::with_capacity(incoming.len()),
            records: HashMap::with_capacity(incoming.len()),
            gone: HashMap::new(),
        }
    } else {
        Ground::read(region, incoming).await?
    };
    for _ in 0..TRIES_MAX {
        let (commit, answers) = decide_all(region, sender, incoming, ground);
        if commit.items.is_empty() {
            return Ok(answers);
        }
        match region.store.commit(commit).await? {
            CommitVerdict::Done => return Ok(answers),
            CommitVerdict::Stale => ground = Ground::read(region, incoming).await?,
        }
    }
    Err(OperationsError::Busy)
}

/// Applies what a device's waiting operations allow by now; gives how many moved on.
pub(crate) async fn release_held(
    region: &Hosted,
    sender: &Sender,
    device: DeviceId,
) -> Result<usize, OperationsError> {
    let rows = region.store.list_held(device, HELD_MAX).await?;
    let mut incoming = Vec::with_capacity(rows.len());
    for row in rows {
        let encoded = row.encoded.ok_or(OperationsError::Unreadable)?;
        let pb = proto::device::v1::Operation::decode(encoded.clone())
            .map_err(|_| OperationsError::Unreadable)?;
        let operation = Operation::try_from(pb).map_err(|_| OperationsError::Unreadable)?;
        incoming.push(Incoming { operation, digest: row.digest, encoded });
    }
    let answers = apply(region, sender, &incoming).await?;
    // A conflict goes on waiting: its device hears of it when it sends the operation again.
    let moved = |answer: &&Answer| !matches!(answer, Answer::Held | Answer::Conflict(_));
    Ok(answers.iter().filter(moved).count())
}

/// What would become of an operation, and what was shown of its record before. Nothing is kept.
pub(crate) async fn try_out(
    region: &Hosted,
    sender: &Sender,
    operation: Operation,
) -> Result<(Answer, Shown), OperationsError> {
    let one = Incoming { operation, digest: [0; 16], encoded: Bytes::new() };
    let ground = Ground::read(region, std::slice::from_ref(&one)).await?;
    let answer = judge(region, sender, &one.operation, &ground);
    let before = ground.records.get(&one.operation.record_id);
    Ok((answer, before.map(|present| present.shown.clone()).unwrap_or_default()))
}

/// Whether an operation rests on nothing that was there before.
pub(crate) fn stands_alone(operation: &Operation) -> bool {
    operation.change.creates()
        && operation.parent_ids.is_empty()
        && !matches!(operation.change, Change::TrackBatch(_))
}

impl Ground {
    async fn read(region: &Hosted, incoming: &[Incoming]) -> Result<Self, OperationsError> {
        let mut ids: HashSet<OperationId> = HashSet::new();
        let mut records: HashSet<RecordId> = HashSet::new();
        for Incoming { operation, .. } in incoming {
            ids.insert(operation.operation_id);
            ids.extend(&operation.parent_ids);
            records.insert(operation.record_id);
            if let Change::TrackBatch(track) = &operation.change {
                records.insert(track.shift_id);
            }
        }
        let ids: Vec<OperationId> = ids.into_iter().collect();
        let rows = region.store.list_operations(&ids).await?;
        let mut ground = Self {
            operations: rows.into_iter().map(|row| (row.operation_id, row)).collect(),
            records: HashMap::with_capacity(records.len()),
            gone: HashMap::new(),
        };
        for record in records {
            if let Some(row) = region.store.find_record(record).await? {
                let present =
                    decode_record(&row.encoded).ok_or(OperationsError::Unreadable)?.into();
                ground.records.insert(record, Present { record: present, shown: row.shown });
            } else if region.store.is_erased(record).await? {
                ground.gone.insert(record, Reason::RecordNotFound);
            } else {
                let transfers = region.store.list_transfers_of(record).await?;
                if transfers.iter().any(|row| row.direction == Direction::Out) {
                    ground.gone.insert(record, Reason::NotTheOwner);
                }
            }
        }
        Ok(ground)
    }

    fn outcome(&self, id: &OperationId) -> Option<OperationOutcome> {
        self.operations.get(id).map(|row| row.outcome)
    }

    fn record(&self, id: &RecordId) -> Option<&Arc<Record>> {
        self.records.get(id).map(|present| &present.record)
    }
}

/// A stored record of this region.
pub(crate) fn decode_record(encoded: &Bytes) -> Option<Record> {
    let pb = kernel::Record::decode(encoded.clone()).ok()?;
    convert::record::decode(pb).ok()
}

/// Decides a batch in order, each operation on the ground that those before it left.
fn decide_all(
    region: &Hosted,
    sender: &Sender,
    incoming: &[Incoming],
    mut ground: Ground,
) -> (Commit, Vec<Answer>) {
    let turns = region.store.turns();
    let book = region.book();
    let mut items = Vec::new();
    let mut answers = Vec::with_capacity(incoming.len());
    for one in incoming {
        let (answer, item) = decide_one(region, &book, sender, one, &mut ground);
        items.extend(item);
        answers.push(answer);
    }
    (Commit { items, turns, now: sender.now }, answers)
}

fn decide_one(
    region: &Hosted,
    book: &Book,
    sender: &Sender,
    one: &Incoming,
    ground: &mut Ground,
) -> (Answer, Option<CommitItem>) {
    let operation = &one.operation;
    let mut replaces_held = false;
    if let Some(row) = ground.operations.get(&operation.operation_id) {
        if row.digest != one.digest {
            return (Answer::Rejected(Rejection::of(Reason::OperationIdReused)), None);
        }
        match row.outcome {
            OperationOutcome::Applied => {
                let answer =
                    Answer::Duplicate { revision_n: row.revision_n, record_id: row.record_id };
                return (answer, None);
            }
            OperationOutcome::Rejected => {
                let reason = row.reason.unwrap_or(Reason::FieldInvalid);
                return (Answer::Rejected(Rejection::of(reason)), None);
            }
            OperationOutcome::Quarantined => return (Answer::Quarantined, None),
            OperationOutcome::Held => replaces_held = true,
        }
    }
    let answer = judge(region, sender, operation, ground);
    if replaces_held && matches!(answer, Answer::Held) {
        return (answer, None);
    }
    let item = item((region, book), sender, one, &answer, replaces_held, ground);
    if let Some(item) = &item {
        ground.operations.insert(operation.operation_id, item.operation.clone());
    }
    if let Answer::Applied(record) = &answer
        && let Some(write) = item.as_ref().and_then(|item| item.write.as_ref())
    {
        let (record, shown) = (Arc::clone(record), write.shown.clone());
        ground.records.insert(operation.record_id, Present { record, shown });
    }
    (answer, item)
}

fn judge(region: &Hosted, sender: &Sender, operation: &Operation, ground: &Ground) -> Answer {
    if let Some(why) = ground.gone.get(&operation.record_id) {
        return Answer::Rejected(Rejection::of(*why));
    }
    if region.store.is_offered(operation.record_id) {
        // What a phone has done to it is decided on once it is known whose it is.
        let rejected = Answer::Rejected(Rejection::of(Reason::RecordOffered));
        return if sender.desk { rejected } else { Answer::Held };
    }
    let parents = || operation.parent_ids.iter().map(|id| ground.outcome(id));
    if sender.expired && !matches!(operation.change, Change::RaiseSos(_)) {
        return Answer::Quarantined;
    }
    if parents().any(|outcome| outcome == Some(OperationOutcome::Rejected)) {
        return Answer::Rejected(Rejection::of(Reason::ParentRejected));
    }
    if parents().any(|outcome| outcome == Some(OperationOutcome::Quarantined)) {
        return Answer::Quarantined;
    }
    if parents().any(|outcome| outcome != Some(OperationOutcome::Applied)) {
        return Answer::Held;
    }
    let current = ground.record(&operation.record_id);
    let shift = match &operation.change {
        Change::TrackBatch(track) => ground.record(&track.shift_id),
        _ => None,
    };
    let context = Context {
        region: region.region(),
        epoch: region.store.epoch(),
        now: sender.now,
        clock_offset_ms: sender.clock_offset_ms,
        role: sender.role,
        device: sender.device,
    };
    match decide(operation, current.map(AsRef::as_ref), shift.map(AsRef::as_ref), &context) {
        Ok(record) => Answer::Applied(record.into()),
        Err(rejection) if rejection.reason == Reason::RevisionStale => {
            Answer::Conflict(current.cloned())
        }
        Err(rejection) => Answer::Rejected(rejection),
    }
}

/// What is written for an answer; a conflict leaves no trace, so that the phone can try again.
fn item(
    (region, book): (&Hosted, &Book),
    sender: &Sender,
    one: &Incoming,
    answer: &Answer,
    replaces_held: bool,
    ground: &Ground,
) -> Option<CommitItem> {
    let operation = &one.operation;
    let (outcome, reason) = match answer {
        Answer::Applied(_) => (OperationOutcome::Applied, None),
        Answer::Rejected(rejection) => (OperationOutcome::Rejected, Some(rejection.reason)),
        Answer::Held => (OperationOutcome::Held, None),
        Answer::Quarantined => (OperationOutcome::Quarantined, None),
        Answer::Duplicate { .. } | Answer::Conflict(_) => return None,
    };
    let waits = matches!(outcome, OperationOutcome::Held | OperationOutcome::Quarantined);
    let record = if let Answer::Applied(record) = answer { Some(record) } else { None };
    let row = OperationRow {
        operation_id: operation.operation_id,
        digest: one.digest,
        device: sender.device,
        record_id: operation.record_id,
        outcome,
        reason,
        revision_n: record.map_or(0, |record| record.meta.revision.n),
        received_at: sender.now,
        encoded: waits.then(|| one.encoded.clone()),
    };
    let Some(record) = record else {
        return Some(CommitItem { operation: row, replaces_held, write: None });
    };
    let base = ground.records.get(&operation.record_id).map(|Present { record, shown }| Base {
        revision: record.meta.revision,
        shown: shown.clone(),
    });
    let mut shown = base.as_ref().map(|base| base.shown.clone()).unwrap_or_default();
    let outgoing = Outgoing::new(record);
    let shares = shares(region, book, record, &outgoing, &mut shown, sender.now);
    let write = RecordWrite {
        record_id: record.meta.record_id,
        kind: record.meta.kind,
        base,
        revision: record.meta.revision,
        received_at: record.meta.received_at,
        retention_class: record.meta.retention_class,
        expires_at: record.meta.expires_at,
        encoded: outgoing.record(),
        shown,
        shares,
    };
    Some(CommitItem { operation: row, replaces_held, write: Some(write) })
}
