//! One region's link: frames in, frames out, and what they ask of the store. Everything that waits is a
//! future in a set, so the loop itself never does: a slow disk or peer shows as a queue that is full.

mod incoming;

use crate::delivery::{Delivery, Effect, Event, READ_BYTES_MAX};
use crate::hello::{self, Out};
use crate::intake;
use crate::outbox::{self, Outbox};
use crate::registry::{Lanes, Snapshot, Ticket, Wake};
use crate::service::Shared;
use bytes::Bytes;
use domain::freshness::TrustMark;
use domain::kernel::{Lane, Reason, RegionId};
use domain::stream::{Position, StreamId};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt as _};
use prost::Message as _;
use proto::exchange::v1 as pb;
use proto::exchange::v1::link_response::Frame;
use proto::kernel::v1::SignedObject;
use proto::link::{Assembler, CreditIn};
use runtime::{ErrorChain, end_of};
use seal::signed::Hello;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use storage::ReadError;
use storage::gateway::StoredSegment;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status, Streaming};
use tracing::Instrument as _;

/// Writes of one link that may wait for their flush; its credit bounds their bytes.
const STORES_AWAITED_MAX: usize = 256;
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

/// A read that has ended: the stream, after which place, and what is held there.
type Read = (StreamId, u64, Result<Vec<StoredSegment>, ReadError>);

struct Link<'a> {
    shared: &'a Shared,
    region: RegionId,
    /// Lanes that the peer has.
    lanes: Lanes,
    /// Lanes that it asked for: it may not know yet that it has fewer.
    asked_for: Lanes,
    assembler: OwnedMutexGuard<Assembler>,
    delivery: Delivery,
    outbox: Outbox,
    credit: CreditIn,
    /// Bytes that came of each lane's segment under way.
    under_way: HashMap<Lane, usize>,
    writes: FuturesOrdered<BoxFuture<'static, incoming::Written>>,
    reads: FuturesUnordered<BoxFuture<'static, Read>>,
    /// Streams the peer was asked to send again: from where, and when.
    asked: HashMap<StreamId, (u64, Instant)>,
    /// Streams that were refused because their agreement was not known.
    strangers: HashSet<StreamId>,
    /// What the peer knows of the linkage.
    knows: TrustMark,
    /// What the peer has shown that it holds.
    shows: TrustMark,
    /// What the peer has shown of the authority's word is being looked at.
    trusting: Option<BoxFuture<'static, ()>>,
    /// Agreement versions that the peer holds.
    holds: HashSet<[u8; 32]>,
    /// How many signatures the peer has of each proposal; `None` where it takes none on this link.
    proposals: Option<HashMap<[u8; 32], usize>>,
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
    let (hello, lanes) = match hello::greet(&shared, certified.as_ref(), &mut requests, &out).await
    {
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
    let span = tracing::info_span!("link", region.id = %hello.region);
    let mut ticket = shared.registry.enter(&hello.region, lanes);
    let link = async {
        let assembler = Arc::clone(&ticket.assembler).lock_owned();
        let assembler = tokio::select! {
            // Neither arm holds anything: who is displaced while it waits had nothing yet.
            () = ticket.displaced.cancelled() => return,
            assembler = assembler => assembler,
        };
        let mut link = Link::new(&shared, &hello, lanes, assembler);
        link.open(&hello);
        let served: Vec<_> = lanes.iter().collect();
        tracing::info!(lanes = ?served, software = hello.software, "link opened");
        let end = link.drive(&mut ticket, &mut requests, &out).await;
        tracing::info!(end = ?end, "link closed");
    };
    link.instrument(span).await;
    shared.registry.leave(&ticket);
}

impl<'a> Link<'a> {
    fn new(
        shared: &'a Shared,
        hello: &Hello,
        lanes: Lanes,
        assembler: OwnedMutexGuard<Assembler>,
    ) -> Self {
        let (now, carries) = (Instant::now(), lanes.contains(Lane::Routine));
        Self {
            shared,
            region: hello.region.clone(),
            lanes,
            asked_for: Lanes::of(&hello.lanes),
            assembler,
            delivery: Delivery::default(),
            outbox: Outbox::default(),
            credit: CreditIn::default(),
            under_way: HashMap::new(),
            writes: FuturesOrdered::new(),
            reads: FuturesUnordered::new(),
            asked: HashMap::new(),
            strangers: HashSet::new(),
            knows: hello.trust.clone(),
            shows: hello.trust.clone(),
            trusting: None,
            holds: hello.agreements.iter().copied().collect(),
            proposals: (hello.takes_proposals && carries).then(HashMap::new),
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
        let trust = Some((&self.shared.book.trust().mark()).into());
        let takes_proposals = self.lanes.contains(Lane::Routine);
        self.outbox.welcome(pb::Welcome { stored, resumes, trust, takes_proposals });
        self.tell_trust();
        self.tell_agreements();
        self.tell_proposals();
        for lane in self.lanes.iter() {
            self.outbox.credit(lane, self.credit.open(lane));
        }
        for (stream, applied) in &hello.applied {
            let receives = stream.origin != self.region
                && self.lanes.contains(stream.lane)
                && intake::terms_for(&self.shared.book, stream, &self.region).is_ok();
            if receives {
                let receipted = self.compare(stream, *applied, &snapshot);
                self.deliver(Event::Applied(stream.clone(), applied.seq, receipted));
            }
        }
        self.catch_up(snapshot);
    }

    /// Shows the peer what the authority has signed, where that is newer than what it knows.
    fn tell_trust(&mut self) {
        let trust = self.shared.book.trust();
        let mark = trust.mark();
        if mark.exceeds(&self.knows) {
            // Told is not taken: the directory is left out only where the peer has shown that it holds it.
            self.outbox.trust(trust.signed_beyond(&self.shows));
            self.knows = mark;
        }
    }

    /// Shows the peer the agreement versions that concern it and that it does not hold.
    fn tell_agreements(&mut self) {
        for terms in self.shared.book.terms_for(&self.region) {
            self.tell_agreement(&terms.signed);
        }
    }

    fn tell_agreement(&mut self, signed: &SignedObject) {
        if self.holds.insert(seal::key::sha256(&signed.body)) {
            self.outbox.agreement(signed.clone());
        }
    }

    /// Shows the peer the proposals that concern it, as far as it takes any.
    fn tell_proposals(&mut self) {
        let Shared { proposals, book, clock, .. } = self.shared;
        for signed in proposals.of_region(book, &self.region, clock.now()) {
            self.tell_proposal(signed);
        }
    }

    fn tell_proposal(&mut self, signed: SignedObject) {
        let Some(has) = &mut self.proposals else { return };
        let (sha256, signatures) = (seal::key::sha256(&signed.body), signed.signatures.len());
        let has = has.entry(sha256).or_default();
        if *has < signatures {
            *has = signatures;
            self.outbox.proposal(sha256, signed);
        }
    }

    /// A region that shows less than it once signed was restored from a copy; it is believed. Tells whether it has
    /// signed for just what it shows.
    fn compare(&self, stream: &StreamId, applied: Position, snapshot: &Snapshot) -> bool {
        let mut own = snapshot.receipts.iter();
        let own = own.find(|(of, party, ..)| of == stream && *party == self.region);
        let Some((_, _, receipted, _)) = own else { return false };
        if applied.seq < receipted.seq {
            tracing::warn!(
                stream.origin = %stream.origin,
                stream.lane = stream.lane.name(),
                seq = applied.seq,
                receipted = receipted.seq,
                error.reason = Reason::WentBack.name(),
                "a recipient went back"
            );
        }
        *receipted == applied
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
        let half = self.shared.limits.peer.stream_keepalive() / 2;
        let mut ticks = tokio::time::interval(half.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let soft = self.shared.tasks.soft().clone();
        loop {
            let open = self.closing.is_none();
            if !open && self.writes.is_empty() && self.outbox.is_empty() {
                return End::Told;
            }
            // What comes behind newer trust may rest on it.
            let takes = open && self.writes.len() < STORES_AWAITED_MAX && self.trusting.is_none();
            let speaks = !self.outbox.is_empty() || open && self.delivery.has_piece();
            tokio::select! {
                // No arm holds anything across its await that another arm's end would lose: frames,
                // wakes, writes and reads stay where they are, and a permit has nothing in it yet.
                () = ticket.displaced.cancelled() => {
                    if self.shared.book.trust().find_region(&self.region).is_none() {
                        let told = outbox::fatal(Reason::RegionRevoked, "the region was revoked");
                        // Its line is closed in a moment, whether it has heard this or not.
                        drop(out.try_send(Ok(pb::LinkResponse { frame: Some(told) })));
                    }
                    return End::Displaced;
                }
                () = soft.cancelled(), if open => self.come_back(),
                () = out.closed() => return End::Closed,
                frame = requests.message(), if takes => match frame {
                    Ok(Some(frame)) => self.frame(frame),
                    Ok(None) => return End::Closed,
                    Err(status) if is_fault(&status) => self.violation("a frame cannot be read"),
                    Err(_) => return End::Lost,
                },
                () = end_of(&mut self.trusting) => self.trusting = None,
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
                self.tell_trust();
                self.tell_agreements();
                self.tell_proposals();
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
            Wake::Replaced(stream) => self.deliver(Event::Replaced(stream)),
            Wake::Trust => self.tell_trust(),
            Wake::Agreement(signed) => self.tell_agreement(&signed),
            Wake::Proposal(signed) => self.tell_proposal(signed),
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
        let limits = &self.shared.limits.peer;
        if self.closing.is_some_and(|deadline| now >= deadline) {
            return Some(End::Told);
        }
        if !takes {
            // Nobody can be heard who is not listened to.
            self.heard_at = now;
        }
        if now > self.heard_at + limits.stream_idle() {
            return Some(End::Silent);
        }
        if now >= self.pinged_at + limits.stream_keepalive() {
            self.pinged_at = now;
            self.outbox.ping(self.now_ms());
        }
        self.deliver(Event::Tick);
        self.admit_strangers();
        None
    }

    /// The peer broke the protocol: the link ends, and no other.
    fn violation(&mut self, detail: &str) {
        self.close(Reason::ProtocolViolation, detail);
    }

    fn close(&mut self, reason: Reason, detail: &str) {
        tracing::warn!(error.reason = reason.name(), detail, "the link is closed");
        self.shared.metrics.refused(reason);
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

/// A signed object as it was kept.
fn object(signed: Bytes) -> Option<SignedObject> {
    SignedObject::decode(signed).ok()
}

/// Whether a broken stream of requests is the peer's doing: a frame that is too large or no message.
fn is_fault(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::OutOfRange | Code::ResourceExhausted)
}
