//! What a region brings to every way of exchange, be it a line or a file: what it knows, its store, and how
//! what comes is taken.

use crate::book::{Book, Shelf};
use crate::epoch::{Left, Lost};
use crate::open;
use crate::proposals::Proposals;
use crate::receive::Outcome;
use crate::status::Status;
use domain::kernel::{Clock, Entropy, Reason, RegionId};
use domain::stream::{Position, StreamId};
use prost::Message as _;
use proto::directory::v1::TrustSet;
use proto::kernel::v1::SignedObject;
use runtime::{ErrorChain, Tasks};
use seal::segment::Segment;
use seal::signed;
use std::sync::Arc;
use storage::region::{ReceiptRow, Store};
use tokio::sync::{mpsc, oneshot};

/// Ranges up to this many entries are opened where they come: cheaper than a hop to another thread.
const ENTRIES_OPENED_INLINE_MAX: u64 = 8;

/// A region, as far as exchange is concerned.
#[derive(Clone)]
pub struct Home {
    /// What the region knows, taken in hand when the link or the bundle began.
    pub book: Arc<Book>,
    /// Where the newest book lies.
    pub shelf: Shelf,
    /// Its store.
    pub store: Store,
    /// Where the state of its links is shown.
    pub status: Status,
    /// Runs work that computes.
    pub tasks: Tasks,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Draws random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// Where that goes which may change the book.
    pub news: mpsc::Sender<Offer>,
    /// What is not signed yet by all who must.
    pub proposals: Proposals,
    /// Whether an epoch was left since the server was started.
    pub left: Left,
    /// Streams that are not sent any more.
    pub lost: Lost,
}

/// What a gateway, a bundle or somebody of the region shows that may change the book, or what is proposed.
#[derive(Debug)]
pub enum News {
    /// What the authority signed.
    Trust(TrustSet),
    /// An agreement version, for this region.
    Agreement(RegionId, SignedObject),
    /// A proposal, for this region.
    Proposal(RegionId, SignedObject),
    /// A proposal that somebody of this region has signed for it: it counts where it was declined before, too.
    Signed(RegionId, SignedObject),
    /// Somebody of this region declines the proposal of this text.
    Declined(RegionId, [u8; 32]),
}

/// News, and who waits to hear what became of it.
#[derive(Debug)]
pub struct Offer {
    /// What is shown.
    pub news: News,
    /// Told once the book is renewed or the news is known, or why it is not taken.
    pub taken: oneshot::Sender<Result<(), Reason>>,
}

impl Home {
    /// Opens segments of one stream and writes what they come to.
    #[tracing::instrument(
        name = "exchange.take",
        level = "debug",
        parent = None,
        skip_all,
        fields(peer.id = segments.first().map(|s| tracing::field::display(&s.stream().origin)), after = cursor.seq)
    )]
    pub(crate) async fn take(&self, cursor: Position, segments: Vec<Segment>) -> Outcome {
        let Some(end) = segments.last().map(Segment::after) else { return Outcome::Known };
        let turn = segments.first().map(|first| self.status.turn(first.stream()));
        let Some(turn) = turn else { return Outcome::Known };
        let mut last = turn.lock().await;
        // Another way may have brought all this while its turn was waited for: what joins on is not opened again.
        let cursor = match *last {
            Some((position, parked_count)) if position == end || position.seq > end.seq => {
                return Outcome::Passed { position, parked_count };
            }
            Some((position, _)) if position.seq > cursor.seq && position.seq != end.seq => position,
            _ => cursor,
        };
        let now = self.clock.now();
        let entries: u64 = segments.iter().map(Segment::count).sum();
        // The newest: who was revoked a moment ago is not believed, however long the link is open.
        let book = self.shelf.book();
        let opened = if entries <= ENTRIES_OPENED_INLINE_MAX {
            open::open(&book, cursor, &segments, now)
        } else {
            let work = move || open::open(&book, cursor, &segments, now);
            self.tasks.blocking("exchange.open", work).await.unwrap_or(Err(Outcome::Unwritten))
        };
        let apply = match opened {
            Ok(Some(apply)) => apply,
            Ok(None) => return Outcome::Known,
            Err(outcome) => return outcome,
        };
        let (stream, after, left) = (apply.stream.clone(), apply.after, apply.left());
        let applied = self.store.apply(apply).await;
        if applied.as_ref().is_ok_and(|applied| applied.cloned) {
            self.alarm(Some(&stream), Reason::RegionCloned);
        }
        match applied {
            // Another way may have applied all this, and more, in the meantime.
            Ok(applied) if applied.position == after || applied.position.seq > after.seq => {
                *last = Some((applied.position, applied.parked_count));
                self.status.applied(&stream);
                let storage::region::Applied { position, parked_count, .. } = applied;
                Outcome::Applied { position, parked_count, left }
            }
            Ok(applied) if applied.position.seq == after.seq => {
                Outcome::Refused(applied.position, Reason::StreamForked)
            }
            Ok(applied) => Outcome::Gap(applied.position),
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "a range was not applied");
                Outcome::Unwritten
            }
        }
    }

    /// Shows news and waits until the book says so.
    ///
    /// # Errors
    /// Why it is not taken, by code.
    pub async fn show(&self, news: News) -> Result<(), Reason> {
        let (taken, answer) = oneshot::channel();
        let offer = Offer { news, taken };
        self.news.send(offer).await.map_err(|_| Reason::ServerBusy)?;
        answer.await.unwrap_or(Err(Reason::ServerBusy))
    }

    /// A receipt, when its party signed it.
    pub(crate) fn receipt(&self, object: &SignedObject) -> Result<signed::Receipt, Reason> {
        let key = self.key_of_signer(object).ok_or(Reason::RegionUnknown)?;
        signed::Receipt::verify(object, &key).map_err(|error| error.reason())
    }

    /// Keeps a receipt for a stream of this region, with the object that proves it.
    pub(crate) async fn keep_receipt(
        &self,
        receipt: signed::Receipt,
        object: &SignedObject,
    ) -> Result<(), Reason> {
        // A place that this region never reached, or reached with another hash: two of one name.
        if self.knows(&receipt.stream, receipt.position).await.is_ok_and(|knows| !knows) {
            if receipt.stream.epoch < self.store.epoch() {
                // It was left for that.
                return Ok(());
            }
            self.alarm(Some(&receipt.stream), Reason::StreamForked);
            return Err(Reason::StreamForked);
        }
        let row = ReceiptRow {
            stream: receipt.stream,
            party: receipt.party,
            position: receipt.position,
            parked_count: receipt.parked_count,
            received_at: self.clock.now(),
            signed: object.encode_to_vec().into(),
        };
        match self.store.keep_receipt(row).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "a receipt was not kept");
                Err(Reason::StorageUnavailable)
            }
        }
    }

    /// A receipt for what was applied; one that names parked entries looks for them first. `None` where the
    /// store cannot be read.
    pub(crate) async fn sign_receipt(
        &self,
        stream: StreamId,
        position: Position,
        parked_count: u64,
    ) -> Option<SignedObject> {
        let mut parked = Vec::new();
        if parked_count > 0 {
            let limit = u32::try_from(signed::PARKED_PER_RECEIPT_MAX).unwrap_or(1);
            let rows = self.store.list_parked(&stream, limit).await.ok()?;
            let known = |(seq, code): (u64, i64)| Some((seq, Reason::try_from(code).ok()?));
            // The newest were asked for; they are named in their order.
            parked = rows.into_iter().rev().filter_map(known).collect();
        }
        let (party, created_at) = (self.book.region.clone(), self.clock.now());
        let receipt = signed::Receipt { stream, position, party, created_at, parked, parked_count };
        Some(receipt.sign(&self.book.signing))
    }

    /// Something a person must look at.
    pub(crate) fn alarm(&self, stream: Option<&StreamId>, reason: Reason) {
        self.alarm_of(stream.map(|stream| &stream.origin), reason);
    }

    /// Something of a region that a person must look at.
    pub(crate) fn alarm_of(&self, origin: Option<&RegionId>, reason: Reason) {
        tracing::error!(region.id = %self.book.region, origin = ?origin, error.reason = reason.name(), "alarm");
        self.status.with(|state| state.error = reason.name().to_owned());
    }

    /// The key of the region that claims to have signed, if it is believed.
    pub(crate) fn key_of_signer(&self, object: &SignedObject) -> Option<[u8; 32]> {
        let signer = signed::signer(object).ok()?;
        self.book.trust.key_of(&signer, signed::key_id_of(object), self.clock.now())
    }
}
