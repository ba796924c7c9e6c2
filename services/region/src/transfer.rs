//! Records that change their owner: what leaves with each step, and what is done by itself once the other has decided.
//!
//! Nobody waits for what is done here: what was decided lies in the store, and is done after a restart too.

use crate::hosted::Hosted;
use crate::operations::decode_record;
use crate::rpc::erase;
use crate::shares::{opening, salt, transferred};
use bytes::Bytes;
use domain::erasure::EraseReason;
use domain::kernel::{AgreementId, Lane};
use domain::stream::StreamId;
use domain::transfer::{Direction, ReturnReason, TransferState};
use exchange::book::{Book, SignedAgreement};
use prost::Message as _;
use proto::convert::entry::encode_transfer;
use proto::convert::transfer::Word;
use proto::device::v1 as device;
use proto::kernel::v1::SignedObject;
use runtime::ErrorChain;
use std::sync::Arc;
use std::time::Duration;
use storage::region::{Base, ShareWrite, Step, TransferRow, TransferStep};
use storage::{ReadError, StoreError};
use tokio::sync::broadcast::error::RecvError;

/// What could not be done is tried again.
const AGAIN_EVERY: Duration = Duration::from_secs(10);
/// Offers looked at together.
const DUE_MAX: u32 = 500;

/// Does what was decided elsewhere, until the soft stop.
pub(crate) async fn run(region: Arc<Hosted>) {
    let mut commits = region.store.listen();
    loop {
        if let Err(error) = all(&region).await {
            tracing::error!(region.id = %region.region, error = %ErrorChain(&error), "a record has not changed hands yet");
        }
        loop {
            // Neither arm holds anything.
            tokio::select! {
                () = region.tasks.soft().cancelled() => return,
                () = tokio::time::sleep(AGAIN_EVERY) => break,
                commit = commits.recv() => match commit {
                    Ok(commit) if !commit.transfers => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}

async fn all(region: &Hosted) -> Result<(), StoreError> {
    for row in region.store.list_due_transfers(DUE_MAX).await? {
        match (row.direction, row.state, row.is_due) {
            (Direction::In, TransferState::Recalled, true) => give_back(region, &row).await?,
            (Direction::Out, TransferState::Accepted, true) => hand_over(region, &row).await?,
            (Direction::Out, TransferState::Accepted, false) if row.erase_due => {
                // Its owner has said so to all who have it.
                let record = row.offered.record_id;
                region
                    .store
                    .erase(erase::erasing(region, record, EraseReason::Order, None))
                    .await?;
                step(region, &row.offered.offer_sha256, Step::Erased, Vec::new()).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Answers an owner who has asked for an offered record back.
async fn give_back(region: &Hosted, row: &TransferRow) -> Result<(), StoreError> {
    let book = region.book();
    let offer = row.offered.offer_sha256;
    let word = Word::Return(offer, ReturnReason::Recalled);
    // Without a stream to say it in, the owner takes it back by itself.
    let shares = say(region, &book, row.offered.agreement, word).into_iter().collect();
    step(region, &offer, Step::Return(ReturnReason::Recalled), shares).await
}

/// The other owns the record: whoever was shown it by this region is told that it is not this one's any more.
async fn hand_over(region: &Hosted, row: &TransferRow) -> Result<(), StoreError> {
    let offered = &row.offered;
    let bad = || ReadError::Inconsistent("transfer");
    let accept = row.accept.clone().ok_or_else(bad)?;
    let held = region.store.find_record(offered.record_id).await?;
    // One that this region got back since is of a later change of hands.
    let held = held.filter(|held| held.revision.t <= offered.revision.t);
    let mut shares = Vec::new();
    let mut base = None;
    if let Some(held) = held {
        let record = decode_record(&held.encoded).ok_or_else(bad)?;
        shares = transferred(region, &region.book(), &record, &held.shown, &accept);
        base = Some(Base { revision: held.revision, shown: held.shown });
    }
    let withdrawal = device::Withdrawal {
        record_id: Bytes::copy_from_slice(offered.record_id.as_bytes()),
        kind: offered.kind.code(),
        source: None,
        reason: 0,
    };
    let withdrawal = withdrawal.encode_to_vec().into();
    step(region, &offered.offer_sha256, Step::Gone { base, withdrawal }, shares).await?;
    let to = &offered.party;
    tracing::info!(region.id = %region.region, record.id = %offered.record_id, %to, "a record has another owner");
    Ok(())
}

/// What does not stand any more is looked at again with the next commit.
async fn step(
    region: &Hosted,
    offer_sha256: &[u8; 32],
    step: Step,
    shares: Vec<ShareWrite>,
) -> Result<(), StoreError> {
    let (turns, now) = (region.store.turns(), region.now());
    let step = TransferStep { offer_sha256: *offer_sha256, step, shares, turns, now };
    Ok(region.store.transfer(step).await.map(drop)?)
}

/// A word on an owner, in the stream of the version of the agreement that is in force; `None` where this region writes
/// none.
pub(crate) fn say(
    region: &Hosted,
    book: &Book,
    agreement: AgreementId,
    word: Word,
) -> Option<ShareWrite> {
    let mut in_force = region.in_force(book).filter(|of| of.agreement.has_party(&region.region));
    let signed: &SignedAgreement = in_force.find(|of| of.agreement.agreement_id == agreement)?;
    let stream = StreamId {
        origin: region.region.clone(),
        epoch: region.store.epoch(),
        agreement,
        version: signed.agreement.version,
        lane: Lane::Routine,
    };
    Some(ShareWrite {
        stream,
        entry: encode_transfer(word),
        salt: salt(region),
        expires_at: signed.agreement.ended_at.max(region.now()),
        opening: opening(region, signed),
        behind_end: false,
    })
}

/// A signed object as it was kept.
pub(crate) fn signed(bytes: &Bytes) -> Option<SignedObject> {
    SignedObject::decode(bytes.clone()).ok()
}
