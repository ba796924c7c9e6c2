//! One region's link: frames in, frames out, and what they ask of the store. Everything that waits is a
//! future in a set, so the loop itself never does: a slow disk or peer shows as a queue that is full.

use crate::delivery::{Delivery, Effect, Event, READ_BYTES_MAX};
use crate::hello::{self, Out};
use crate::intake::{self, Refused};
use crate::outbox::{self, Outbox};
use crate::registry::{Lanes, Snapshot, Ticket, Wake};
use crate::service::Shared;
use bytes::Bytes;
use domain::kernel::{Lane, Reason, ReasonKind, RegionId};
use domain::stream::{Position, StreamId};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt as _};
use prost::Message as _;
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_request;
use proto::exchange::v1::link_response::Frame;
use proto::kernel::v1::SignedObject;
use proto::link::{Assembler, CREDIT_BYTES_MAX, CreditIn};
use runtime::ErrorChain;
use seal::signed::Hello;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use storage::gateway::{SegmentVerdict, SegmentWrite, Store, StoredSegment};
use storage::{ReadError, WriteError};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status, Streaming};
use tracing::Instrument as _;

/// Writes of one link that may wait for their flush; its credit bounds their bytes.
const STORES_AWAITED_MAX: usize = 256;
/// Bad frames of one link, after which it is closed: each costs a check of a signature.
const FAULTS_MAX: u32 = 16;
/// How long a sender has to start a stream again before it is asked once more.
const RESEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a write is tried again on a full disk.
const DISK_FULL_PAUSE: Duration = Duration::from_secs(1);
/// How long a link that closes still waits for its writes and for its peer to read.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);
/// Regions come back within this time after the gateway has stopped, each at its own moment.
const COME_BACK_MS_MAX: u16 = 2_000;

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Lost,
    Silent,
    Displaced,
    Told,
}

/// A write that has ended.
enum Written {
    Segment { stream: StreamId, before: Position, bytes: usize, outcome: Result<SegmentVerdict, WriteError> },
    Other(Result<(), WriteError>),
}

/// A read that has ended: the stream, after which place, and what is held there.
type Read = (StreamId, u64, Result<Vec<StoredSegment>, ReadError>);

struct Link<'a> {
    shared: &'a Shared,
    region: RegionId,
    lanes: Lanes,
    assembler: OwnedMutexGuard<Assembler>,
    delivery: Delivery,
    outbox: Outbox,
    credit: CreditIn,
    /// Bytes that came of each lane's segment under way.
    under_way: HashMap<Lane, usize>,
    writes: FuturesOrdered<BoxFuture<'static, Written>>,
    reads: FuturesUnordered<BoxFuture<'static, Read>>,
    /// Streams the peer was asked to send again: from where, and when.
    asked: HashMap<StreamId, (u64, Instant)>,
    /// Streams that were refused because their agreement was not known.
    strangers: HashSet<StreamId>,
    faults: u32,
    opened_at: Instant,
    heard_at: Instant,
    pinged_at: Instant,
    /// Nothing more is taken; the link ends once all is answered, or at this moment.
    closing: Option<Instant>,
}

/// Opens a link with whoever is at the other end, and drives it until it ends. `certified` is the region
/// of the peer's certificate.
pub(crate) async fn run(
    shared: Arc<Shared>,
    certified: Option<RegionId>,
    mut requests: Streaming<pb::LinkRequest>,
    out: Out,
) {
    let hello = match hello::greet(&shared, certified.as_ref(), &mut requests, &out).await {
        Ok(hello) => hello,
        Err(unwelcome) => {
            let region = certified.as_ref().map(tracing::field::display);
            tracing::warn!(region.id = region, error = %ErrorChain(&unwelcome), "link refused");
            let frame = outbox::fatal(unwelcome.reason(), &unwelcome.to_string());
            // The peer may be gone, and then need not be told.
            drop(out.try_send(Ok(pb::LinkResponse { frame: Some(frame) })));
            return;
        }
    };
    let lanes = Lanes::of(&hello.lanes);
    let span = tracing::info_span!("link", region.id = %hello.region);
    let mut ticket = shared.registry.enter(&hello.region, lanes);
    let link = async {
        let assembler = Arc::clone(&ticket.assembler).lock_owned();
        let assembler = tokio::select! {
            // Neither arm holds anything: who is displaced while it waits had nothing yet.
            () = ticket.displaced.cancelled() => return,
            assembler = assembler => assembler,
        };
        let mut link = Link::new(&shared, &hello.region, lanes, assembler);
        link.open(&hello);
        tracing::info!(lanes = ?hello.lanes, software = hello.software, "link opened");
        let end = link.drive(&mut ticket, &mut requests, &out).await;
        tracing::info!(end = ?end, "link closed");
    };
    link.instrument(span).await;
    shared.registry.leave(&ticket);
}

impl<'a> Link<'a> {
    fn new(
        shared: &'a Shared,
        region: &RegionId,
        lanes: Lanes,
        assembler: OwnedMutexGuard<Assembler>,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            region: region.clone(),
            lanes,
            assembler,
            delivery: Delivery::default(),
            outbox: Outbox::default(),
            credit: CreditIn::default(),
            under_way: HashMap::new(),
            writes: FuturesOrdered::new(),
            reads: FuturesUnordered::new(),
            asked: HashMap::new(),
            strangers: HashSet::new(),
            faults: 0,
            opened_at: now,
            heard_at: now,
            pinged_at: now,
            closing: None,
        }
    }

    /// What is said first: how far its streams are stored, credit, then what it lacks.
    fn open(&mut self, hello: &Hello) {
        let snapshot = self.shared.registry.snapshot(&self.region, self.lanes);
        let stored = snapshot.written.iter().map(|(stream, last)| (stream, *last).into()).collect();
        let resumes = self.assembler.resumes().into_iter();
        let resumes = resumes
            .map(|(id, have)| pb::PieceResume { segment_id: Bytes::copy_from_slice(&id), have })
            .collect();
        self.outbox.welcome(pb::Welcome { stored, resumes });
        for lane in self.lanes.iter() {
            self.outbox.credit(lane, self.credit.open(lane));
        }
        for (stream, applied) in &hello.applied {
            let receives = stream.origin != self.region
                && self.lanes.contains(stream.lane)
                && intake::terms_for(&self.shared.book, stream, &self.region).is_ok();
            if receives {
                self.compare(stream, *applied, &snapshot);
                self.deliver(Event::Applied(stream.clone(), applied.seq));
            }
        }
        self.catch_up(snapshot);
    }

    /// A region that shows less than it once signed was restored from a copy; it is believed.
    fn compare(&self, stream: &StreamId, applied: Position, snapshot: &Snapshot) {
        let own = snapshot.receipts.iter();
        let mut own = own.filter(|(of, party, ..)| of == stream && *party == self.region);
        if let Some((_, _, receipted, _)) = own.next()
            && applied.seq < receipted.seq
        {
            tracing::warn!(
                stream.origin = %stream.origin,
                stream.lane = stream.lane.name(),
                seq = applied.seq,
                receipted = receipted.seq,
                error.reason = Reason::WentBack.name(),
                "a recipient went back"
            );
        }
    }

    /// Takes up everything that matters to the peer as it is now.
    fn catch_up(&mut self, snapshot: Snapshot) {
        for (stream, last, head) in snapshot.received {
            if let Some(head) = head.and_then(object) {
                self.outbox.head(stream.clone(), head);
            }
            self.deliver(Event::Grew(stream, last.seq));
        }
        for (stream, party, _, signed) in snapshot.receipts {
            if let Some(receipt) = object(signed) {
                self.outbox.receipt(stream, party, receipt);
            }
        }
    }

    async fn drive(
        &mut self,
        ticket: &mut Ticket,
        requests: &mut Streaming<pb::LinkRequest>,
        out: &Out,
    ) -> End {
        let half = Duration::from_millis(self.shared.limits.ping_interval_ms / 2);
        let mut ticks = tokio::time::interval(half.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let soft = self.shared.tasks.soft().clone();
        loop {
            let open = self.closing.is_none();
            if !open && self.writes.is_empty() && self.outbox.is_empty() {
                return End::Told;
            }
            let takes = open && self.writes.len() < STORES_AWAITED_MAX;
            let speaks = !self.outbox.is_empty() || open && self.delivery.has_piece();
            tokio::select! {
                // No arm holds anything across its await that another arm's end would lose: frames,
                // wakes, writes and reads stay where they are, and a permit has nothing in it yet.
                () = ticket.displaced.cancelled() => return End::Displaced,
                () = soft.cancelled(), if open => self.come_back(),
                () = out.closed() => return End::Closed,
                frame = requests.message(), if takes => match frame {
                    Ok(Some(frame)) => self.frame(frame),
                    Ok(None) => return End::Closed,
                    Err(status) if is_fault(&status) => self.violation("a frame cannot be read"),
                    Err(_) => return End::Lost,
                },
                Some(written) = self.writes.next(), if !self.writes.is_empty() => self.written(written),
                Some(read) = self.reads.next(), if !self.reads.is_empty() => self.read(read),
                Some(wake) = ticket.wakes.recv() => self.wake(wake),
                permit = out.reserve(), if speaks => {
                    let Ok(permit) = permit else { return End::Closed };
                    if let Some(frame) = self.next_frame() {
                        permit.send(Ok(pb::LinkResponse { frame: Some(frame) }));
                    }
                }
                _ = ticks.tick() => {
                    if let Some(end) = self.tick(takes) {
                        return end;
                    }
                }
            }
            if ticket.fell_behind() {
                let snapshot = self.shared.registry.snapshot(&self.region, self.lanes);
                self.catch_up(snapshot);
            }
        }
    }

    fn next_frame(&mut self) -> Option<Frame> {
        if let Some(frame) = self.outbox.pop() {
            return Some(frame);
        }
        let mut piece = None;
        for effect in self.delivery.step(self.now_ms(), Event::Writable) {
            match effect {
                Effect::Send(next) => piece = Some(Frame::Piece(next)),
                other => self.effect(other),
            }
        }
        piece
    }

    fn frame(&mut self, frame: pb::LinkRequest) {
        use link_request::Frame as In;
        self.heard_at = Instant::now();
        match frame.frame {
            Some(In::Piece(piece)) => self.piece(piece),
            Some(In::Receipt(object)) => self.receipt(&object),
            Some(In::Head(object)) => self.head(&object),
            Some(In::Agreement(object)) => self.agreement(&object),
            Some(In::Credit(credit)) => self.granted(credit),
            Some(In::Want(want)) => match intake::want(&self.shared.book, &self.region, want) {
                Ok((stream, from_seq)) if self.lanes.contains(stream.lane) => {
                    self.deliver(Event::Wanted(stream, from_seq));
                }
                Ok(_) => self.violation("a want for a lane that the link does not carry"),
                Err(refused) => self.refuse(&refused),
            },
            Some(In::Ping(ping)) if ping.reply => {}
            Some(In::Ping(ping)) => self.outbox.pong(ping.token),
            Some(In::Hello(_)) => self.violation("a second hello"),
            None => self.violation("a frame of no known kind"),
        }
    }

    fn granted(&mut self, credit: pb::Credit) {
        let lane = Lane::try_from(credit.lane).ok().filter(|lane| self.lanes.contains(*lane));
        match lane {
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

    fn written(&mut self, written: Written) {
        match written {
            Written::Segment { stream, before, bytes, outcome } => {
                self.consumed(stream.lane, bytes);
                match outcome {
                    Ok(verdict) => self.verdict(stream, before, verdict),
                    Err(error) => self.unwritten(error),
                }
            }
            Written::Other(Ok(())) => {}
            // What has no answer comes again with the next of its kind, or the next link.
            Written::Other(Err(WriteError::DiskFull)) => {}
            Written::Other(Err(error)) => self.unwritten(error),
        }
    }

    fn verdict(&mut self, stream: StreamId, before: Position, verdict: SegmentVerdict) {
        match verdict {
            SegmentVerdict::Stored(last) | SegmentVerdict::Known(last) => {
                self.asked.remove(&stream);
                self.outbox.stored(stream, last);
            }
            SegmentVerdict::Apart(last) if before.seq > last.seq => self.ask_again(stream, last.seq),
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
        match intake::head(&self.shared.book, &self.region, object) {
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

    fn agreement(&mut self, object: &SignedObject) {
        match intake::agreement(&self.shared.book, &self.region, object) {
            Ok(None) => {}
            Ok(Some((agreement, row))) => {
                // Known from here on: the segments behind it are written after it, never before.
                let terms = self.shared.book.learn(&agreement);
                if terms.sha256 == agreement.sha256 {
                    let store = self.shared.store.clone();
                    let kept = async move { store.keep_agreement(row).await };
                    self.writes.push_back(kept.map(Written::Other).boxed());
                } else {
                    let (id, version) = (agreement.agreement_id, agreement.version);
                    tracing::error!(agreement.id = %id, agreement.version = version, "an agreement was forked");
                    self.outbox.refuse(Reason::StreamForked, None, "another text of this version is known");
                }
            }
            Err(refused) => self.refuse(&refused),
        }
        self.admit_strangers();
    }

    /// Asks for streams that were refused until their agreement came.
    fn admit_strangers(&mut self) {
        let book = &self.shared.book;
        for stream in self.strangers.extract_if(|stream| book.terms_of(stream).is_some()) {
            let last = self.shared.registry.last(&stream);
            self.outbox.want(stream, last.seq + 1, 0);
        }
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Segment(stream, segment) => self.deliver(Event::Stored(stream, segment)),
            Wake::Grew(stream, last) => self.deliver(Event::Grew(stream, last)),
            Wake::Receipt(receipt) => {
                if let Some(signed) = object(receipt.signed) {
                    self.outbox.receipt(receipt.stream, receipt.party, signed);
                }
            }
            Wake::Head(stream, signed) => {
                if let Some(signed) = object(signed) {
                    self.outbox.head(stream, signed);
                }
            }
            Wake::Want(stream, from_seq, to_seq) => self.outbox.want(stream, from_seq, to_seq),
        }
    }

    fn read(&mut self, (stream, after, segments): Read) {
        match segments {
            Ok(segments) => self.deliver(Event::Read { stream, after, segments }),
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "a stream could not be read");
                self.deliver(Event::ReadFailed(stream));
            }
        }
    }

    fn deliver(&mut self, event: Event) {
        for effect in self.delivery.step(self.now_ms(), event) {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Read(stream, after) => {
                let store = self.shared.store.clone();
                let read = async move {
                    let segments = store.list_segments(&stream, after, READ_BYTES_MAX).await;
                    (stream, after, segments)
                };
                self.reads.push(read.boxed());
            }
            Effect::Ask { stream, from_seq, to_seq } => {
                tracing::info!(
                    stream.origin = %stream.origin,
                    stream.lane = stream.lane.name(),
                    from_seq,
                    to_seq,
                    "a range is asked of its origin again"
                );
                self.shared.registry.ask_origin(&stream, from_seq, to_seq);
            }
            // Only a writable network asks for pieces, and takes them itself.
            Effect::Send(_) => {}
        }
    }

    /// Time passes; `takes` says whether the link listens to its peer at all.
    fn tick(&mut self, takes: bool) -> Option<End> {
        let now = Instant::now();
        let limits = &self.shared.limits;
        if self.closing.is_some_and(|deadline| now >= deadline) {
            return Some(End::Told);
        }
        if !takes {
            // Nobody can be heard who is not listened to.
            self.heard_at = now;
        }
        if now > self.heard_at + Duration::from_millis(limits.dead_after_ms) {
            return Some(End::Silent);
        }
        if now >= self.pinged_at + Duration::from_millis(limits.ping_interval_ms) {
            self.pinged_at = now;
            self.outbox.ping(self.now_ms());
        }
        self.deliver(Event::Tick);
        self.admit_strangers();
        None
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
        self.outbox.refuse(*reason, stream.as_ref(), detail);
        let kind = reason.kind();
        if matches!(kind, ReasonKind::Invalid | ReasonKind::Unauthenticated | ReasonKind::Forbidden) {
            self.faults += 1;
        }
        if self.faults > FAULTS_MAX {
            self.close(Reason::LimitExceeded, "too many bad frames");
        }
    }

    /// The peer broke the protocol: the link ends, and no other.
    fn violation(&mut self, detail: &str) {
        self.close(Reason::ProtocolViolation, detail);
    }

    fn close(&mut self, reason: Reason, detail: &str) {
        tracing::warn!(error.reason = reason.name(), detail, "the link is closed");
        self.outbox.close(outbox::fatal(reason, detail));
        self.closing.get_or_insert(Instant::now() + CLOSING_TIMEOUT);
    }

    /// The gateway stops: each region comes back at its own moment.
    fn come_back(&mut self) {
        let mut drawn = [0; 2];
        self.shared.entropy.fill(&mut drawn);
        let after_ms = u32::from(u16::from_be_bytes(drawn) % (COME_BACK_MS_MAX + 1));
        self.outbox.close(Frame::ComeBack(pb::ComeBack { after_ms }));
        self.closing.get_or_insert(Instant::now() + CLOSING_TIMEOUT);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Writes a segment, for as long as the disk is full again and again: its credit is not given back
/// meanwhile, which is how the sender learns of it.
async fn store_segment(store: Store, write: SegmentWrite, bytes: usize) -> Written {
    let (stream, before) = (write.stream.clone(), write.before);
    let outcome = loop {
        match store.store(vec![write.clone()]).await {
            Ok(verdicts) => break verdicts.first().copied().ok_or(WriteError::Refused),
            Err(WriteError::DiskFull) => tokio::time::sleep(DISK_FULL_PAUSE).await,
            Err(error) => break Err(error),
        }
    };
    Written::Segment { stream, before, bytes, outcome }
}

/// A signed object as it was kept.
fn object(signed: Bytes) -> Option<SignedObject> {
    SignedObject::decode(signed).ok()
}

/// Whether a broken stream of requests is the peer's doing: a frame that is too large or no message.
fn is_fault(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::OutOfRange | Code::ResourceExhausted)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
