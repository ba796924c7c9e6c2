//! An open link: frames in, frames out, and the two cores between them.

use crate::book::Book;
use crate::epoch::Claims;
use crate::home::News;
use crate::link::{Ended, Exchange, LinkError, Work, line, reason_name};
use crate::proposals::{Known, are_carried_on};
use crate::receive::{self, Heard, Outcome, Receiver};
use crate::send::{self, Ready, Sender};
use bytes::Bytes;
use domain::freshness::TrustMark;
use domain::kernel::{Lane, Reason};
use domain::stream::{Position, StreamId};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::convert::entry::{self, Entry};
use proto::convert::freshness::decode_mark;
use proto::exchange::v1 as pb;
use proto::exchange::v1::{LinkRequest, LinkResponse, Welcome, link_request, link_response};
use proto::kernel::v1::SignedObject;
use proto::link::{Assembler, DEAD_AFTER_MS, PING_INTERVAL_MS};
use runtime::{ErrorChain, end_of};
use seal::segment::Segment;
use seal::signed;
use seal::trust::Trust;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use storage::StoreError;
use storage::region::Committed;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

/// How often the cores are told the time.
const TICK: Duration = Duration::from_millis(500);
/// Frames and work that may wait before no more is read from the gateway.
const WAITING_MAX: usize = 1_024;

/// Erasures of which a gateway is reminded at once.
const ERASURES_MAX: u32 = 10_000;

/// Work that ends some time.
enum Done {
    Cut(StreamId, Option<Ready>),
    Taken(StreamId, Outcome),
    Frame(Option<link_request::Frame>),
}

/// An open link.
pub(crate) struct Session<'a> {
    link: &'a Exchange,
    lanes: &'static [Lane],
    sender: Sender,
    receiver: Receiver,
    assembler: &'a mut Assembler,
    /// What the gateway says that it holds and this store does not.
    claims: Arc<Claims>,
    /// What the gateway knows of the linkage.
    gateway_knows: TrustMark,
    /// What the gateway has shown that it holds.
    gateway_holds: TrustMark,
    /// What the gateway has of the proposals; `None` where the link carries none.
    proposals: Option<Known>,
    /// What the gateway has shown is being looked at; nothing more is read meanwhile.
    offering: Option<BoxFuture<'a, ()>>,
    out: mpsc::Sender<LinkRequest>,
    /// Frames that go before pieces.
    control: VecDeque<link_request::Frame>,
    /// Newest receipt of each stream that is not yet sent; signed when it goes.
    receipts: BTreeMap<StreamId, (Position, u64)>,
    work: FuturesUnordered<BoxFuture<'a, Done>>,
    heard_at: Instant,
    pinged_at: Instant,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        link: &'a Exchange,
        lanes: &'static [Lane],
        sender: Sender,
        receiver: Receiver,
        assembler: &'a mut Assembler,
        claims: Claims,
        out: mpsc::Sender<LinkRequest>,
    ) -> Self {
        let now = Instant::now();
        Self {
            link,
            lanes,
            sender,
            receiver,
            assembler,
            claims: Arc::new(claims),
            gateway_knows: TrustMark::default(),
            gateway_holds: TrustMark::default(),
            proposals: None,
            offering: None,
            out,
            control: VecDeque::new(),
            receipts: BTreeMap::new(),
            work: FuturesUnordered::new(),
            heard_at: now,
            pinged_at: now,
        }
    }

    /// What the next link must know of what this one heard.
    pub(crate) fn heard(&self) -> BTreeMap<StreamId, Heard> {
        self.receiver.heard()
    }

    /// What is said first: agreements, receipts, credit; then what the gateway lacks.
    pub(crate) fn open(&mut self, welcome: Welcome, stored: Vec<(StreamId, Position)>) {
        self.gateway_knows = decode_mark(welcome.trust);
        self.gateway_holds = self.gateway_knows.clone();
        self.tell_trust(&self.link.home.book.trust);
        for signed in self.link.home.book.agreements.values() {
            self.control.push_back(link_request::Frame::Agreement(signed.signed.clone()));
        }
        let carries = welcome.takes_proposals && are_carried_on(self.lanes);
        self.proposals = carries.then(Known::default);
        let standings: Vec<_> = self.receiver.standings().map(|(id, s)| (id.clone(), s)).collect();
        let book = &self.link.home.book;
        // Who has left or was revoked waits for none, and the gateway for none of theirs.
        let believed = |stream: &StreamId| {
            let agreement = book.agreement(stream.agreement, stream.version);
            agreement.is_some_and(|agreement| book.find_party(agreement, &stream.origin).is_some())
        };
        for (stream, standing) in standings.into_iter().filter(|(stream, _)| believed(stream)) {
            self.receipts.insert(stream, (standing.applied, standing.parked_count));
        }
        let grants = self.receiver.open(self.lanes);
        self.receive_effects(grants);
        let resumes = welcome
            .resumes
            .into_iter()
            .filter_map(|resume| Some((resume.segment_id.as_ref().try_into().ok()?, resume.have)))
            .collect();
        self.send_event(send::Event::Welcomed { stored, resumes });
    }

    /// What the first entries of streams say of those of epochs that their origins have left.
    pub(crate) fn left(&mut self, starts: Vec<(StreamId, Bytes)>) {
        for (stream, entry) in starts.into_iter().filter(|(of, _)| self.lanes.contains(&of.lane)) {
            let Ok(Entry::Start { parents, .. }) = entry::decode(entry) else { continue };
            for (left, at) in parents.iter().filter_map(|parent| parent.known(&stream)) {
                let effects = self.receiver.step(receive::Event::Left(left, at));
                self.receive_effects(effects);
            }
        }
    }

    /// Drives the link until it ends.
    pub(crate) async fn run(
        &mut self,
        mut inbound: tonic::Streaming<LinkResponse>,
        mut commits: broadcast::Receiver<Committed>,
        mut books: watch::Receiver<Arc<Book>>,
    ) -> Result<Ended, LinkError> {
        let mut ticks = tokio::time::interval(TICK);
        let out = self.out.clone();
        let mut proposals = self.link.home.proposals.watch();
        proposals.mark_changed();
        loop {
            let listens = self.control.len() < WAITING_MAX
                && self.work.len() < WAITING_MAX
                && self.offering.is_none();
            let speaks =
                !self.control.is_empty() || !self.receipts.is_empty() || self.sender.has_piece();
            // No arm holds state across its await: a lost race loses nothing.
            tokio::select! {
                () = self.link.home.tasks.soft().cancelled() => return Ok(Ended::Stopped),
                frame = inbound.message(), if listens => {
                    let frame = frame.map_err(line)?;
                    let frame = frame.ok_or_else(|| LinkError::Line("closed".to_owned()))?;
                    self.heard_at = Instant::now();
                    if let Some(ended) = self.frame(frame.frame)? {
                        return Ok(ended);
                    }
                }
                commit = commits.recv() => self.committed(commit).await?,
                _ = books.changed() => {
                    let book = Arc::clone(&books.borrow_and_update());
                    if book.differs(&self.link.home.book) {
                        return Ok(Ended::Renewed);
                    }
                    self.tell_trust(&book.trust);
                }
                _ = proposals.changed(), if self.proposals.is_some() => {
                    let held = Arc::clone(&proposals.borrow_and_update());
                    let known = self.proposals.as_mut();
                    let lacks = known.map(|known| known.lacks(&held)).unwrap_or_default();
                    self.control.extend(lacks.into_iter().map(link_request::Frame::Proposal));
                }
                () = end_of(&mut self.offering) => self.offering = None,
                Some(done) = self.work.next(), if !self.work.is_empty() => self.done(done),
                permit = out.reserve(), if speaks => {
                    let permit = permit.map_err(|_| LinkError::Line("closed".to_owned()))?;
                    if let Some(frame) = self.next_frame() {
                        permit.send(LinkRequest { frame: Some(frame) });
                    }
                }
                _ = ticks.tick() => {
                    self.tick(listens)?;
                    if self.link.lanes_now() != self.lanes {
                        return Ok(Ended::Renewed);
                    }
                }
            }
        }
    }

    /// Shows the gateway what the authority has signed, where that is newer than what it knows.
    fn tell_trust(&mut self, trust: &Trust) {
        let mark = trust.mark();
        if mark.exceeds(&self.gateway_knows) {
            // Told is not taken: the directory is left out only where the gateway has shown that it holds it.
            let set = trust.signed_beyond(&self.gateway_holds);
            self.control.push_back(link_request::Frame::Trust(set));
            self.gateway_knows = mark;
        }
    }

    /// Has a person's or the authority's word looked at before anything more is read: one gateway's news never take
    /// the place of another's.
    fn offer(&mut self, news: News) {
        let home = &self.link.home;
        self.offering = Some(Box::pin(async move {
            // What is not taken is shown again with the next link.
            home.show(news).await.ok();
        }));
    }

    fn next_frame(&mut self) -> Option<link_request::Frame> {
        if let Some(frame) = self.control.pop_front() {
            return Some(frame);
        }
        while let Some((stream, (position, parked_count))) = self.receipts.pop_first() {
            if let Some(receipt) = self.receipt(stream, position, parked_count) {
                return Some(receipt);
            }
        }
        // A piece that leaves makes room, so a cut may follow it: all that is to be done is done.
        let mut next = None;
        for effect in self.sender.step(send::Event::Writable) {
            match effect {
                send::Effect::Send(piece) => next = Some(link_request::Frame::Piece(piece)),
                other => self.effect(Work::Send(other)),
            }
        }
        next
    }

    /// Signs a receipt; one that names parked entries needs the store and follows later.
    fn receipt(
        &mut self,
        stream: StreamId,
        position: Position,
        parked_count: u64,
    ) -> Option<link_request::Frame> {
        let home = &self.link.home;
        let receipt = home.sign_receipt(stream, position, parked_count);
        if parked_count == 0 {
            // Nothing to wait for.
            return receipt.now_or_never().flatten().map(link_request::Frame::Receipt);
        }
        let signed = async move { Done::Frame(receipt.await.map(link_request::Frame::Receipt)) };
        self.work.push(Box::pin(signed));
        None
    }

    /// Time passes; `listens` says whether the gateway is heard at all.
    fn tick(&mut self, listens: bool) -> Result<(), LinkError> {
        let now = self.link.home.clock.now();
        self.send_event(send::Event::Tick(now));
        for (origin, epoch) in self.link.home.status.epochs() {
            let effects = self.receiver.step(receive::Event::Opened(origin, epoch));
            self.receive_effects(effects);
        }
        let effects = self.receiver.step(receive::Event::Tick(now));
        self.receive_effects(effects);
        self.show();
        if !listens {
            // Nobody can be heard who is not listened to.
            self.heard_at = Instant::now();
        }
        if self.heard_at.elapsed() > Duration::from_millis(DEAD_AFTER_MS) {
            return Err(LinkError::Silent);
        }
        if self.pinged_at.elapsed() >= Duration::from_millis(PING_INTERVAL_MS) {
            self.pinged_at = Instant::now();
            self.control.push_back(link_request::Frame::Ping(pb::Ping { reply: false, token: 0 }));
        }
        Ok(())
    }

    fn show(&self) {
        let (stored, received) = (self.sender.stored(), self.receiver.standings());
        self.link.home.status.at(&self.link.gateway, |gateway| gateway.show(stored, received));
    }

    async fn committed(
        &mut self,
        commit: Result<Committed, broadcast::error::RecvError>,
    ) -> Result<(), LinkError> {
        let grown: Vec<(StreamId, Position)> = match commit {
            Ok(commit) => {
                for (stream, from_seq, to_seq) in commit.erased.iter() {
                    self.send_event(send::Event::Erased(stream.clone()));
                    self.replace(stream, (*from_seq, *to_seq));
                }
                commit.streams.to_vec()
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                self.remind().await?;
                let rows = self.link.home.store.list_streams().await?;
                rows.into_iter().map(|row| (row.stream, row.position)).collect()
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        for (stream, position) in grown {
            if self.link.home.is_lost(&stream) {
                continue;
            }
            self.send_event(send::Event::Durable(stream, position));
        }
        Ok(())
    }

    /// Has the gateway delete each packaging of what was erased that it has not said that it deleted.
    pub(crate) async fn remind(&mut self) -> Result<(), LinkError> {
        let Exchange { home, gateway, .. } = self.link;
        for (stream, from_seq, to_seq) in home.store.list_unconfirmed(gateway, ERASURES_MAX).await?
        {
            self.replace(&stream, (from_seq, to_seq));
            self.send_event(send::Event::Erased(stream));
        }
        Ok(())
    }

    /// Has the gateway delete each packaging of a range.
    pub(crate) fn replace(&mut self, stream: &StreamId, (from_seq, to_seq): (u64, u64)) {
        if self.lanes.contains(&stream.lane) {
            let stream = Some(stream.into());
            let replace = pb::Replace { stream, from_seq, to_seq };
            self.control.push_back(link_request::Frame::Replace(replace));
        }
    }

    fn replaced(&mut self, replaced: pb::Replace) -> Result<(), LinkError> {
        let pb::Replace { stream, from_seq, to_seq } = replaced;
        let stream = stream.and_then(|stream| StreamId::try_from(stream).ok());
        let stream = stream.ok_or(LinkError::Protocol("replaced"))?;
        let (home, gateway) = (&self.link.home, self.link.gateway.clone());
        self.work.push(Box::pin(async move {
            let kept = home.store.confirm_replaced(gateway, stream, (from_seq, to_seq)).await;
            if let Err(error) = kept {
                tracing::error!(error = %ErrorChain(&error), "a gateway's word was not kept");
            }
            Done::Frame(None)
        }));
        Ok(())
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Cut(_, Some(ready)) => self.send_event(send::Event::Cut(ready)),
            Done::Cut(stream, None) => self.send_event(send::Event::CutFailed(stream)),
            Done::Taken(stream, outcome) => {
                let effects = self.receiver.step(receive::Event::Taken(stream, outcome));
                self.receive_effects(effects);
            }
            Done::Frame(frame) => self.control.extend(frame),
        }
    }

    fn frame(&mut self, frame: Option<link_response::Frame>) -> Result<Option<Ended>, LinkError> {
        use link_response::Frame;
        match frame.ok_or(LinkError::Protocol("unknown frame"))? {
            Frame::Piece(piece) => self.piece(piece)?,
            Frame::Stored(position) => {
                let (stream, position) = decode(position)?;
                self.send_event(send::Event::Stored(stream, position));
            }
            Frame::Credit(credit) => {
                let lane =
                    Lane::try_from(credit.lane).map_err(|_| LinkError::Protocol("credit"))?;
                self.send_event(send::Event::Granted(lane, credit.size));
            }
            Frame::Receipt(receipt) => self.keep_receipt(receipt),
            Frame::Head(head) => self.head(&head),
            Frame::Want(want) => {
                let stream = want.stream.and_then(|stream| StreamId::try_from(stream).ok());
                let stream = stream.ok_or(LinkError::Protocol("want"))?;
                self.send_event(send::Event::Wanted {
                    stream,
                    from_seq: want.from_seq,
                    to_seq: want.to_seq,
                });
            }
            Frame::Ping(ping) if !ping.reply => {
                self.control.push_back(link_request::Frame::Ping(pb::Ping {
                    reply: true,
                    token: ping.token,
                }));
            }
            Frame::Ping(_) => {}
            Frame::Refusal(refusal) => {
                tracing::warn!(region.id = %self.link.home.book.region, gateway.id = %self.link.gateway, error.reason = reason_name(refusal.reason), "the gateway refused");
                if refusal.fatal {
                    return Err(LinkError::Refused(reason_name(refusal.reason)));
                }
                self.status_error(reason_name(refusal.reason));
            }
            Frame::Trust(set) => {
                let shown = seal::trust::shown_mark(&set);
                self.gateway_holds = std::mem::take(&mut self.gateway_holds).newest(shown.clone());
                self.gateway_knows = std::mem::take(&mut self.gateway_knows).newest(shown);
                self.offer(News::Trust(set));
            }
            Frame::Replaced(replaced) => self.replaced(replaced)?,
            Frame::Agreement(object) => {
                let region = self.link.home.book.region.clone();
                self.offer(News::Agreement(region, object));
            }
            Frame::Proposal(object) => {
                if let Some(known) = &mut self.proposals {
                    known.shown(&object);
                }
                self.offer(News::Proposal(self.link.home.book.region.clone(), object));
            }
            Frame::ComeBack(come_back) => {
                return Ok(Some(Ended::ComeBack(come_back.after_ms.min(60_000))));
            }
            Frame::Challenge(_) | Frame::Welcome(_) => {
                return Err(LinkError::Protocol("out of turn"));
            }
        }
        Ok(None)
    }

    fn status_error(&self, reason: &str) {
        let Exchange { home, gateway, lanes, .. } = self.link;
        home.status.at(gateway, |gateway| gateway.refused(lanes, reason.to_owned()));
    }

    fn piece(&mut self, piece: pb::SegmentPiece) -> Result<(), LinkError> {
        let lane = Lane::try_from(piece.lane).map_err(|_| LinkError::Protocol("lane"))?;
        self.receiver
            .received(lane, piece.data.len())
            .map_err(|_| LinkError::Protocol("no credit"))?;
        let whole = self.assembler.take(piece).map_err(|_| LinkError::Protocol("piece"))?;
        let Some((_, bytes)) = whole else { return Ok(()) };
        let size = bytes.len();
        // Broken before a stream can be named: the link ends, and the next one asks from the cursor.
        let segment = Segment::parse(bytes).map_err(|_| LinkError::Protocol("segment"))?;
        let effects = self.receiver.step(receive::Event::Segment(segment, size));
        self.receive_effects(effects);
        Ok(())
    }

    fn keep_receipt(&mut self, object: SignedObject) {
        let home = &self.link.home;
        let receipt = match home.receipt(&object) {
            Ok(receipt) => receipt,
            // Of a region that this directory does not name yet: it is not ours to judge.
            Err(Reason::RegionUnknown) => return,
            Err(reason) => return home.alarm(None, reason),
        };
        if receipt.stream.origin == home.book.region {
            let claims = Arc::clone(&self.claims);
            self.work.push(Box::pin(async move {
                if claims.agree(&receipt) {
                    not_compared(home.compare_claim(&receipt).await);
                }
                // What keeps it from being kept was said where it was found.
                home.keep_receipt(receipt, &object).await.ok();
                Done::Frame(None)
            }));
        } else if receipt.party == home.book.region {
            let standing = self.receiver.standing(&receipt.stream);
            if standing.is_none_or(|standing| standing.applied.seq < receipt.position.seq) {
                self.work.push(Box::pin(async move {
                    not_compared(home.compare_own(&receipt).await);
                    Done::Frame(None)
                }));
            }
        } else if self.lanes.contains(&receipt.stream.lane) {
            let agreement = home.book.agreement(receipt.stream.agreement, receipt.stream.version);
            // Of what this region is no party to it has nothing to compare.
            if agreement.is_some_and(|agreement| agreement.has_party(&receipt.party)) {
                let signed::Receipt { stream, party, position, .. } = receipt;
                let effects = self.receiver.step(receive::Event::Receipt(stream, party, position));
                self.receive_effects(effects);
            }
        }
    }

    fn head(&mut self, object: &SignedObject) {
        let Some(key) = self.link.home.key_of_signer(object) else { return };
        match signed::Head::verify(object, &key) {
            Ok(head) => {
                let event = receive::Event::Head(head.stream, head.position, head.created_at);
                let effects = self.receiver.step(event);
                self.receive_effects(effects);
            }
            Err(_) => self.alarm(None, Reason::SignatureInvalid),
        }
    }

    fn send_event(&mut self, event: send::Event) {
        for effect in self.sender.step(event) {
            self.effect(Work::Send(effect));
        }
    }

    fn receive_effects(&mut self, effects: Vec<receive::Effect>) {
        for effect in effects {
            self.effect(Work::Receive(effect));
        }
    }

    fn effect(&mut self, work: Work) {
        match work {
            Work::Send(send::Effect::Cut { stream, after, to_seq }) => {
                self.start_cut(stream, after, to_seq)
            }
            Work::Send(send::Effect::Send(piece)) => {
                self.control.push_back(link_request::Frame::Piece(piece))
            }
            Work::Send(send::Effect::Head(stream, position)) => {
                let home = &self.link.home;
                let created_at = home.status.head_time(home.clock.now());
                let head = signed::Head { stream, position, created_at };
                self.control.push_back(link_request::Frame::Head(head.sign(&home.book.signing)));
            }
            Work::Send(send::Effect::WentBack(stream)) => {
                self.alarm(Some(&stream), Reason::WentBack)
            }
            Work::Receive(receive::Effect::Take { stream, cursor, segments }) => {
                self.start_take(stream, cursor, segments)
            }
            Work::Receive(receive::Effect::Receipt(stream, position, parked)) => {
                self.receipts.insert(stream, (position, parked));
            }
            Work::Receive(receive::Effect::Grant(lane, size)) => {
                self.control
                    .push_back(link_request::Frame::Credit(pb::Credit { lane: lane.code(), size }));
            }
            Work::Receive(receive::Effect::Want(stream, from_seq)) => {
                let want = pb::Want { stream: Some((&stream).into()), from_seq, to_seq: 0 };
                self.control.push_back(link_request::Frame::Want(want));
            }
            Work::Receive(receive::Effect::HeadLate(stream)) => {
                tracing::warn!(origin = %stream.origin, lane = stream.lane.name(), "no fresh head");
            }
            Work::Receive(receive::Effect::Alarm(stream, reason)) => {
                self.alarm(Some(&stream), reason)
            }
        }
    }

    fn alarm(&self, stream: Option<&StreamId>, reason: Reason) {
        self.link.home.alarm(stream, reason);
    }

    fn start_cut(&mut self, stream: StreamId, after: u64, to_seq: u64) {
        let link = self.link;
        self.work.push(Box::pin(async move {
            let most = link.entries_per_segment_max;
            match crate::cut::cut(&link.home, &stream, after, to_seq, most).await {
                Ok(ready) => Done::Cut(stream, Some(ready)),
                Err(error) => {
                    tracing::error!(error = %ErrorChain(&error), "a range was not sealed");
                    Done::Cut(stream, None)
                }
            }
        }));
    }

    fn start_take(&mut self, stream: StreamId, cursor: Position, segments: Vec<Segment>) {
        let home = &self.link.home;
        self.work.push(Box::pin(async move {
            let outcome = home.take(cursor, segments).await;
            Done::Taken(stream, outcome)
        }));
    }
}

fn decode(position: pb::StreamPosition) -> Result<(StreamId, Position), LinkError> {
    <(StreamId, Position)>::try_from(position).map_err(|_| LinkError::Protocol("position"))
}

fn not_compared(result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::error!(error = %ErrorChain(&error), "it is not known whether the store went back");
    }
}
