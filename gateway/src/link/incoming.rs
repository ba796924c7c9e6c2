//! What a region sends over its link: what is checked, what is written, and what is answered.

use super::Link;
use crate::delivery::Event;
use crate::intake::{self, Refused};
use crate::service::Shared;
use crate::trust::Offer;
use bytes::Bytes;
use domain::kernel::{Lane, Reason, ReasonKind};
use domain::stream::{Position, StreamId};
use futures_util::future::FutureExt as _;
use proto::directory::v1::TrustSet;
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_request::Frame;
use proto::kernel::v1::SignedObject;
use proto::link::CREDIT_BYTES_MAX;
use runtime::ErrorChain;
use std::time::Duration;
use storage::WriteError;
use storage::gateway::{SegmentVerdict, SegmentWrite, Store};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Bad frames of one link, after which it is closed: each costs a check of a signature.
const FAULTS_MAX: u32 = 16;
/// How long a sender has to start a stream again before it is asked once more.
const RESEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a write is tried again on a full disk.
const DISK_FULL_PAUSE: Duration = Duration::from_secs(1);

/// A write that has ended.
pub(super) enum Written {
    Segment {
        stream: StreamId,
        before: Position,
        after: u64,
        bytes: usize,
        outcome: Result<SegmentVerdict, WriteError>,
    },
    Replaced(StreamId, (u64, u64), Result<(), WriteError>),
    Other(Result<(), WriteError>),
}

impl Link<'_> {
    pub(super) fn frame(&mut self, frame: pb::LinkRequest) {
        self.heard_at = Instant::now();
        match frame.frame {
            Some(Frame::Piece(piece)) => self.piece(piece),
            Some(Frame::Receipt(object)) => self.receipt(&object),
            Some(Frame::Head(object)) => self.head(&object),
            Some(Frame::Agreement(object)) => self.agreement(&object),
            Some(Frame::Replace(replace)) => self.replace(replace),
            Some(Frame::Proposal(object)) => self.proposal(&object),
            Some(Frame::Credit(credit)) => self.granted(credit),
            Some(Frame::Want(want)) => match intake::want(&self.shared.book, &self.region, want) {
                Ok((stream, from_seq)) if self.lanes.contains(stream.lane) => {
                    self.deliver(Event::Wanted(stream, from_seq));
                }
                Ok((stream, _)) if self.asked_for.contains(stream.lane) => {}
                Ok(_) => self.violation("a want for a lane that the link does not carry"),
                Err(refused) => self.refuse(&refused),
            },
            Some(Frame::Ping(ping)) if ping.reply => {}
            Some(Frame::Ping(ping)) => self.outbox.pong(ping.token),
            Some(Frame::Trust(set)) => self.trust(set),
            Some(Frame::Hello(_)) => self.violation("a second hello"),
            None => self.violation("a frame of no known kind"),
        }
    }

    /// Newer trust, perhaps. It waits for its turn: what comes behind it may rest on it.
    fn trust(&mut self, set: TrustSet) {
        let shown = seal::trust::shown_mark(&set);
        self.shows = std::mem::take(&mut self.shows).newest(shown.clone());
        self.knows = std::mem::take(&mut self.knows).newest(shown);
        let offers = self.shared.offers.clone();
        self.trusting = Some(Box::pin(async move {
            let (taken, answer) = oneshot::channel();
            if offers.send(Offer { set, taken }).await.is_ok() {
                drop(answer.await);
            }
        }));
    }

    fn granted(&mut self, credit: pb::Credit) {
        let lane = Lane::try_from(credit.lane).ok().filter(|lane| self.asked_for.contains(*lane));
        match lane {
            Some(lane) if !self.lanes.contains(lane) => {}
            Some(lane) if (1..=CREDIT_BYTES_MAX).contains(&credit.size) => {
                self.deliver(Event::Granted(lane, credit.size));
            }
            _ => self.violation("a credit of no lane or no size"),
        }
    }

    fn piece(&mut self, piece: pb::SegmentPiece) {
        let lane = Lane::try_from(piece.lane).ok().filter(|lane| self.lanes.contains(*lane));
        let Some(lane) = lane else {
            return self.violation("a piece of a lane that the link does not carry");
        };
        let size = piece.data.len();
        if self.credit.received(lane, size).is_err() {
            return self.violation("a piece without credit");
        }
        if piece.offset == 0 {
            // What was under way is dropped, so its bytes no longer wait.
            let dropped = self.under_way.remove(&lane).unwrap_or(0);
            self.consumed(lane, dropped);
        }
        *self.under_way.entry(lane).or_default() += size;
        match self.assembler.take(piece) {
            Ok(None) => {}
            Ok(Some((lane, encoded))) => {
                let bytes = self.under_way.remove(&lane).unwrap_or(0);
                self.segment(lane, encoded, bytes);
            }
            Err(reason) => self.close(reason, "a piece that does not join on, or is too large"),
        }
    }

    /// A whole segment came, `bytes` of it on this link.
    fn segment(&mut self, lane: Lane, encoded: Bytes, bytes: usize) {
        let shared = self.shared;
        let now = shared.clock.now();
        match intake::segment(&shared.book, &self.region, lane, encoded, now) {
            Ok(write) if shared.registry.has_room_for(&write.stream) => {
                let store = shared.store.clone();
                self.writes.push_back(store_segment(store, write, bytes).boxed());
            }
            Ok(write) => {
                self.consumed(lane, bytes);
                let (reason, stream) = (Reason::LimitExceeded, Some(write.stream));
                self.refuse(&Refused { reason, stream, detail: "too many streams".to_owned() });
            }
            Err(refused) => {
                self.consumed(lane, bytes);
                self.refuse(&refused);
            }
        }
    }

    pub(super) fn written(&mut self, written: Written) {
        match written {
            Written::Segment { stream, before, after, bytes, outcome } => {
                self.consumed(stream.lane, bytes);
                match outcome {
                    Ok(verdict) => self.verdict(stream, before, after, verdict),
                    Err(error) => self.unwritten(error),
                }
            }
            Written::Replaced(stream, range, Ok(())) => {
                self.shared.registry.tell_replaced(&stream);
                self.outbox.replaced(stream, range);
            }
            Written::Replaced(_, _, Err(error)) => self.unwritten(error),
            Written::Other(Ok(())) => {}
            // What has no answer comes again with the next of its kind, or the next link.
            Written::Other(Err(WriteError::DiskFull)) => {}
            Written::Other(Err(error)) => self.unwritten(error),
        }
    }

    fn verdict(&mut self, stream: StreamId, before: Position, after: u64, verdict: SegmentVerdict) {
        match verdict {
            SegmentVerdict::Stored(last) | SegmentVerdict::Known(last) => {
                self.asked.remove(&stream);
                self.outbox.stored(stream, last);
            }
            // Beyond a hole, or across the end: what was under way on an earlier link has been stored
            // meanwhile, and the rest must come in another cut.
            SegmentVerdict::Apart(last) if after > last.seq => self.ask_again(stream, last.seq),
            // A refill that joins on nowhere; who lacks it asks again.
            SegmentVerdict::Apart(_) => {}
            SegmentVerdict::Forked(last) => {
                tracing::error!(
                    stream.origin = %stream.origin,
                    stream.epoch = %stream.epoch,
                    stream.lane = stream.lane.name(),
                    agreement.id = %stream.agreement,
                    agreement.version = stream.version,
                    shown.seq = before.seq,
                    shown.h = hex(&before.h),
                    stored.seq = last.seq,
                    stored.h = hex(&last.h),
                    error.reason = Reason::StreamForked.name(),
                    "a stream was forked"
                );
                let (reason, detail) = (Reason::StreamForked, format!("stored up to {}", last.seq));
                self.outbox.refuse(reason, Some(&stream), &detail);
            }
        }
    }

    /// Asks the peer to send a stream again from where it is stored; once, however much comes that was
    /// under way already.
    fn ask_again(&mut self, stream: StreamId, last_seq: u64) {
        let now = Instant::now();
        let asked = self.asked.get(&stream);
        if asked.is_some_and(|(last, at)| *last == last_seq && now < *at + RESEND_TIMEOUT) {
            return;
        }
        self.asked.insert(stream.clone(), (last_seq, now));
        self.outbox.want(stream, last_seq + 1, 0);
    }

    fn unwritten(&mut self, error: WriteError) {
        tracing::error!(error = %ErrorChain(&error), "a write failed");
        match error {
            WriteError::Refused => self.outbox.refuse(Reason::Internal, None, "not written"),
            WriteError::Stopped | WriteError::DiskFull => {
                self.close(Reason::StorageUnavailable, "the store cannot write");
            }
        }
    }

    fn receipt(&mut self, object: &SignedObject) {
        let now = self.shared.clock.now();
        match intake::receipt(&self.shared.book, &self.region, object, now) {
            Ok(receipt) => {
                let store = self.shared.store.clone();
                let kept = async move { store.keep_receipt(receipt).await.map(|_| ()) };
                self.writes.push_back(kept.map(Written::Other).boxed());
            }
            Err(refused) => self.refuse(&refused),
        }
    }

    fn head(&mut self, object: &SignedObject) {
        match intake::head(&self.shared.book, &self.region, object, self.shared.clock.now()) {
            Ok((stream, signed)) if self.shared.registry.has_room_for(&stream) => {
                let store = self.shared.store.clone();
                let kept = async move { store.keep_head(stream, signed).await };
                self.writes.push_back(kept.map(Written::Other).boxed());
            }
            Ok((stream, _)) => {
                let (reason, stream) = (Reason::LimitExceeded, Some(stream));
                self.refuse(&Refused { reason, stream, detail: "too many streams".to_owned() });
            }
            Err(refused) => self.refuse(&refused),
        }
    }

    fn replace(&mut self, replace: pb::Replace) {
        match intake::replace(&self.shared.book, &self.region, replace) {
            Ok((stream, range)) => {
                let store = self.shared.store.clone();
                let deleted = async move {
                    let outcome = store.replace(stream.clone(), range).await;
                    Written::Replaced(stream, range, outcome)
                };
                self.writes.push_back(deleted.boxed());
            }
            Err(refused) => self.refuse(&refused),
        }
    }

    fn agreement(&mut self, object: &SignedObject) {
        self.holds.insert(seal::key::sha256(&object.body));
        match intake::agreement(&self.shared.book, &self.region, object) {
            Ok(None) => {}
            Ok(Some((agreement, row))) => {
                // Known from here on: the segments behind it are written after it, never before.
                let terms = self.shared.book.learn(&agreement, object);
                if terms.agreement.sha256 == agreement.sha256 {
                    let concerned = self.shared.book.concerned(&terms);
                    self.shared.registry.tell_agreement(&concerned, object);
                    let store = self.shared.store.clone();
                    let kept = async move { store.keep_agreement(row).await };
                    self.writes.push_back(kept.map(Written::Other).boxed());
                } else {
                    let (id, version) = (agreement.agreement_id, agreement.version);
                    tracing::error!(agreement.id = %id, agreement.version = version, "an agreement was forked");
                    self.outbox.refuse(
                        Reason::AgreementForked,
                        None,
                        "another text of this version is known",
                    );
                }
            }
            Err(refused) => self.refuse(&refused),
        }
        self.admit_strangers();
    }

    /// A proposal goes on to those whom it names, as far as its signatures are good.
    fn proposal(&mut self, object: &SignedObject) {
        let Shared { book, proposals, registry, clock, .. } = self.shared;
        // Many signatures are not verified again each time a region connects.
        if !self.lanes.contains(Lane::Routine) || proposals.knows(object) {
            return;
        }
        let now = clock.now();
        let proposal = match intake::proposal(book, &self.region, object, now) {
            Ok(None) => return,
            Ok(Some(proposal)) => proposal,
            Err(refused) => return self.refuse(&refused),
        };
        let concerned = book.concerned_by(&proposal.agreement);
        let (sha256, signatures) = (proposal.agreement.sha256, proposal.signed.signatures.len());
        match proposals.take(book, &self.region, proposal, now) {
            Ok(more) => {
                if let Some(has) = self.proposals.as_mut().map(|has| has.entry(sha256).or_default())
                {
                    *has = signatures.max(*has);
                }
                if let Some(signed) = more {
                    registry.tell_proposal(&concerned, &signed);
                }
            }
            Err(reason) => {
                let detail = "no more proposals are kept here".to_owned();
                self.refuse(&Refused { reason, stream: None, detail });
            }
        }
    }

    /// Asks for streams that were refused until their agreement came.
    pub(super) fn admit_strangers(&mut self) {
        let book = &self.shared.book;
        for stream in self.strangers.extract_if(|stream| book.terms_of(stream).is_some()) {
            let last = self.shared.registry.last(&stream);
            self.outbox.want(stream, last.seq + 1, 0);
        }
    }

    /// Gives back credit for bytes that no longer wait.
    fn consumed(&mut self, lane: Lane, bytes: usize) {
        if let Some(grant) = self.credit.consumed(lane, bytes) {
            self.outbox.credit(lane, grant);
        }
    }

    fn refuse(&mut self, refused: &Refused) {
        let Refused { reason, stream, detail } = refused;
        if *reason == Reason::AgreementUnknown
            && let Some(stream) = stream
            && !self.strangers.insert(stream.clone())
        {
            return;
        }
        if *reason == Reason::ProtocolViolation {
            return self.violation(detail);
        }
        tracing::warn!(
            stream.origin = stream.as_ref().map(|stream| tracing::field::display(&stream.origin)),
            stream.lane = stream.as_ref().map(|stream| stream.lane.name()),
            error.reason = reason.name(),
            detail,
            "refused"
        );
        self.shared.metrics.refused(*reason);
        self.outbox.refuse(*reason, stream.as_ref(), detail);
        let kind = reason.kind();
        if matches!(kind, ReasonKind::Invalid | ReasonKind::Unauthenticated | ReasonKind::Forbidden)
        {
            self.faults += 1;
        }
        if self.faults > FAULTS_MAX {
            self.close(Reason::LimitExceeded, "too many bad frames");
        }
    }
}

/// Writes a segment, for as long as the disk is full again and again: its credit is not given back
/// meanwhile, which is how the sender learns of it.
#[tracing::instrument(
    name = "gateway.store",
    level = "debug",
    parent = None,
    skip_all,
    fields(peer.id = %write.stream.origin, after = write.before.seq)
)]
async fn store_segment(store: Store, write: SegmentWrite, bytes: usize) -> Written {
    let (stream, before, after) = (write.stream.clone(), write.before, write.after.seq);
    let outcome = loop {
        match store.store(vec![write.clone()]).await {
            Ok(verdicts) => break verdicts.first().copied().ok_or(WriteError::Refused),
            Err(WriteError::DiskFull) => tokio::time::sleep(DISK_FULL_PAUSE).await,
            Err(error) => break Err(error),
        }
    };
    Written::Segment { stream, before, after, bytes, outcome }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
