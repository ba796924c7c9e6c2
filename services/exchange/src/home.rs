//! What a region brings to every way of exchange, be it a line or a file: what it knows, its store, and how
//! what comes is taken.

use crate::book::Book;
use crate::open;
use crate::receive::Outcome;
use crate::status::Status;
use domain::kernel::{Clock, Entropy, Reason, RegionId};
use domain::stream::{Position, StreamId};
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use runtime::{ErrorChain, Tasks};
use seal::segment::Segment;
use seal::signed;
use std::sync::Arc;
use storage::region::{ReceiptRow, Store};

/// Ranges up to this many entries are opened where they come: cheaper than a hop to another thread.
const ENTRIES_OPENED_INLINE_MAX: u64 = 8;

/// A region, as far as exchange is concerned.
#[derive(Clone)]
pub struct Home {
    /// What the region knows.
    pub book: Arc<Book>,
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
        let now = self.clock.now();
        let entries: u64 = segments.iter().map(Segment::count).sum();
        let opened = if entries <= ENTRIES_OPENED_INLINE_MAX {
            open::open(&self.book, cursor, &segments, now)
        } else {
            let book = Arc::clone(&self.book);
            let work = move || open::open(&book, cursor, &segments, now);
            self.tasks.blocking("exchange.open", work).await.unwrap_or(Err(Outcome::Unwritten))
        };
        let apply = match opened {
            Ok(Some(apply)) => apply,
            Ok(None) => return Outcome::Known,
            Err(outcome) => return outcome,
        };
        let after = apply.after;
        match self.store.apply(apply).await {
            // Another way may have applied all this, and more, in the meantime.
            Ok(applied) if applied.position == after || applied.position.seq > after.seq => {
                Outcome::Applied { position: applied.position, parked_count: applied.parked_count }
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
        let known = self.store.find_outbox_hash(&receipt.stream, receipt.position.seq).await;
        // A place that this region never reached, or reached with another hash: two of one name.
        if known.is_ok_and(|h| h != Some(receipt.position.h)) {
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
            parked = rows.into_iter().filter_map(known).collect();
        }
        let (party, created_at) = (self.book.region.clone(), self.clock.now());
        let receipt = signed::Receipt { stream, position, party, created_at, parked, parked_count };
        Some(receipt.sign(&self.book.signing))
    }

    /// Something a person must look at.
    pub(crate) fn alarm(&self, stream: Option<&StreamId>, reason: Reason) {
        let origin: Option<&RegionId> = stream.map(|stream| &stream.origin);
        tracing::error!(region.id = %self.book.region, origin = ?origin, error.reason = reason.name(), "alarm");
        self.status.with(|state| state.error = reason.name().to_owned());
    }

    /// The key of the region that claims to have signed, if it is in the directory.
    pub(crate) fn key_of_signer(&self, object: &SignedObject) -> Option<[u8; 32]> {
        let signer = signed::signer(object).ok()?;
        Some(self.book.find_region(&signer)?.signing_key)
    }
}
