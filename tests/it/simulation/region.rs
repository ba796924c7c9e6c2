//! A region: the real sending and receiving cores, a model of its store, and between them what
//! `exchange::session` does with frames.

use super::bus::{Bus, Event};
use super::link::{ConnId, Down, Up, Way};
use super::linkage::{gateway_id, region_id};
use super::region_disk::RegionDisk;
use super::region_flush::Job;
use super::trial::Sight;
use super::{Bad, Hostile, linkage};
use domain::kernel::{Epoch, Lane, Reason, Timestamp, TrustAge};
use domain::stream::{Position, StreamId};
use exchange::book::Book;
use exchange::link::REDIAL;
use exchange::receive::{self, Outcome, Receiver};
use exchange::send::{self, Ready, Sender};
use proto::directory::v1::TrustSet;
use proto::exchange::v1 as pb;
use proto::kernel::v1::SignedObject;
use proto::link::{Assembler, LINK_PROTOCOL};
use seal::segment::Segment;
use seal::signed;
use std::collections::{BTreeMap, VecDeque};
use storage::region::{Apply, InboxItem};

pub(super) const LANES: &[Lane] = &[Lane::Alert, Lane::Routine];
/// Frames that may wait for the network, as at the real link.
const FRAMES_QUEUED_MAX: usize = 64;

/// Work of a link that has ended.
#[derive(Debug)]
pub(super) enum Done {
    Cut(StreamId, Option<Ready>),
    Taken(StreamId, Outcome),
}

pub(super) struct Session {
    lanes: &'static [Lane],
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    control: VecDeque<Up>,
    /// Newest receipt of each stream that is not yet sent.
    receipts: BTreeMap<StreamId, (Position, u64)>,
}

/// This region's end of the link to one gateway.
pub(super) struct End {
    pub(super) conn: Option<ConnId>,
    pub(super) session: Option<Session>,
    applied: Vec<(StreamId, Position, u64)>,
    failures: u32,
    assembler: Assembler,
    heard: BTreeMap<StreamId, receive::Heard>,
}

pub(super) struct RegionNode {
    pub(super) index: usize,
    pub(super) up: bool,
    /// Counts restarts; what was begun in an earlier life is void.
    pub(super) life: u64,
    pub(super) book: Book,
    /// What whoever believes forgers believes besides.
    forged_book: Book,
    root: [u8; 32],
    pub(super) disk: RegionDisk,
    pub(super) copy: RegionDisk,
    pub(super) ends: [End; 2],
    /// Until when the disk is full.
    pub(super) full_until: u64,
    /// Killed in its next flush, and down for so long.
    pub(super) doomed: Option<u64>,
    pub(super) skew_ms: i64,
    pub(super) jobs: Vec<Job>,
    pub(super) flushing: Vec<Job>,
}

impl End {
    fn new() -> Self {
        let assembler = Assembler::new(seal::key::sha256);
        let (applied, heard) = (Vec::new(), BTreeMap::new());
        Self { conn: None, session: None, applied, failures: 0, assembler, heard }
    }
}

impl RegionNode {
    pub(super) fn new(index: usize, linkage: &linkage::Linkage, bus: &Bus) -> Self {
        let disk = RegionDisk::new(Epoch::mint(bus.time(0), &bus.chance));
        // Where it counts to the second when a word grows old, clocks are right.
        let withheld = bus.options.hostile == Some(Hostile::WithholdFreshness);
        let skew_ms = bus.chance.within(0, 1_200_000).cast_signed() - 600_000;
        Self {
            index,
            up: false,
            life: 0,
            book: linkage.book(index),
            forged_book: linkage.forged_book(index),
            root: linkage.authority.root(),
            copy: disk.clone(),
            disk,
            ends: [End::new(), End::new()],
            full_until: 0,
            doomed: None,
            skew_ms: if withheld { 0 } else { skew_ms },
            jobs: Vec::new(),
            flushing: Vec::new(),
        }
    }

    /// Whether nothing is to be done at the ends of so many links.
    pub(super) fn is_idle(&self, gateways: usize) -> bool {
        let quiet = |session: &Session| {
            session.control.is_empty() && session.receipts.is_empty() && !session.sender.has_piece()
        };
        let open = |end: &End| end.session.as_ref().is_some_and(quiet);
        let ends = &self.ends[..gateways];
        self.up && self.jobs.is_empty() && self.flushing.is_empty() && ends.iter().all(open)
    }

    /// The process starts and dials.
    pub(super) fn start(&mut self, bus: &mut Bus) {
        self.up = true;
        self.life += 1;
        for gateway in 0..bus.gateways {
            let dial = Event::Dial { region: self.index, gateway, life: self.life };
            bus.after(bus.chance.within(0, 100), dial);
        }
    }

    /// The process is gone. A flush that was under way may have reached the disk or not.
    pub(super) fn crash(&mut self, bus: &mut Bus) {
        if !self.up {
            return;
        }
        if bus.chance.per_mille(500) {
            let flushing = std::mem::take(&mut self.flushing);
            self.write(bus, flushing);
        }
        self.up = false;
        self.life += 1;
        self.jobs.clear();
        self.flushing.clear();
        self.disk.crash();
        for gateway in 0..2 {
            let end = std::mem::replace(&mut self.ends[gateway], End::new());
            if let Some(conn) = end.conn {
                self.hang_up(bus, gateway, conn);
            }
        }
    }

    /// The store is as it was when the copy was taken.
    pub(super) fn restore(&mut self, bus: &mut Bus) {
        self.disk = self.copy.clone();
        bus.oracle.restored_region(self.index, &self.disk);
        if bus.options.bad != Some(Bad::RestoreWithoutEpoch)
            && bus.options.hostile != Some(Hostile::Fork)
        {
            let epoch = Epoch::mint(bus.time(0), &bus.chance);
            self.disk.open_epoch(&self.book, epoch, &bus.chance);
            for (stream, _) in self.disk.streams() {
                bus.oracle.numbered(bus.now, &stream, &self.disk);
            }
        }
    }

    fn hang_up(&self, bus: &mut Bus, gateway: usize, conn: ConnId) {
        let blocked = bus.net.blocked(self.index, gateway, Way::Up).is_some();
        let silent = blocked || bus.chance.per_mille(200);
        let delay_ms =
            if silent { bus.chance.within(6_000, 7_000) } else { bus.chance.within(1, 100) };
        bus.after(delay_ms, Event::Hangup(conn, Way::Up));
    }

    /// The link ends here; the gateway hears of it or finds out.
    pub(super) fn end(&mut self, bus: &mut Bus, gateway: usize, why: &str) {
        let end = &mut self.ends[gateway];
        let Some(conn) = end.conn.take() else { return };
        let session = end.session.take();
        end.failures = if session.is_some() { 1 } else { end.failures + 1 };
        if let Some(session) = session {
            end.heard = session.receiver.heard();
        }
        let wait_ms = REDIAL.next(end.failures - 1, bus.chance.next());
        bus.trace(|| format!("{} {}: link lost: {why}", self.book.region, gateway_id(gateway)));
        bus.oracle.link_down(self.index, gateway);
        self.hang_up(bus, gateway, conn);
        let dial = Event::Dial { region: self.index, gateway, life: self.life };
        bus.after(wait_ms, dial);
    }

    pub(super) fn dial(&mut self, bus: &mut Bus, gateway: usize, life: u64) {
        if !self.up || life != self.life || self.ends[gateway].conn.is_some() {
            return;
        }
        let conn = bus.net.open(self.index, gateway);
        self.ends[gateway].conn = Some(conn);
        bus.after(bus.transit(self.index, gateway), Event::Arrive(conn));
        bus.after(10_000, Event::OpeningTimeout(conn));
    }

    /// A frame arrives from a gateway.
    pub(super) fn frame(&mut self, bus: &mut Bus, gateway: usize, frame: Down) {
        match self.try_frame(bus, gateway, frame) {
            Ok(()) => self.pump(bus, gateway),
            // What cannot be read is thrown away.
            Err("piece" | "segment") if bus.options.bad == Some(Bad::SaysNothing) => {}
            Err(why) => {
                bus.sees(self.index, Sight::Ended);
                self.end(bus, gateway, why);
            }
        }
    }

    fn try_frame(
        &mut self,
        bus: &mut Bus,
        gateway: usize,
        frame: Down,
    ) -> Result<(), &'static str> {
        match frame {
            Down::Challenge(challenge) => self.hello(bus, gateway, &challenge),
            Down::Welcome(welcome) => self.welcome(bus, gateway, welcome),
            Down::Piece(piece) => return self.piece(bus, gateway, piece),
            Down::Stored(position) => {
                let (stream, position) = position.try_into().map_err(|_| "position")?;
                bus.oracle.gateway_acked(gateway, &stream, position);
                self.send_event(bus, gateway, send::Event::Stored(stream, position));
            }
            Down::Credit(credit) => {
                let lane = Lane::try_from(credit.lane).map_err(|_| "credit")?;
                self.send_event(bus, gateway, send::Event::Granted(lane, credit.size));
            }
            Down::Receipt(receipt) => self.keep_receipt(bus, gateway, &receipt),
            Down::Head(head) => self.head(bus, gateway, &head),
            Down::Want(want) => {
                let stream = want.stream.and_then(|stream| StreamId::try_from(stream).ok());
                let stream = stream.ok_or("want")?;
                let (from_seq, to_seq) = (want.from_seq, want.to_seq);
                let event = send::Event::Wanted { stream, from_seq, to_seq };
                self.send_event(bus, gateway, event);
            }
            Down::Ping(_) | Down::Agreement(_) | Down::Replaced(_) | Down::Proposal(_) => {}
            Down::Trust(set) => self.hears(bus, gateway, set),
            Down::Refusal(refusal) => {
                let reason = Reason::try_from(refusal.reason).map_err(|_| "refusal")?;
                bus.oracle.alarm(bus.now, &format!("{} refuses", gateway_id(gateway)), reason);
                if refusal.fatal {
                    return Err("refused");
                }
            }
            Down::ComeBack(_) => return Err("come back"),
        }
        Ok(())
    }

    /// Lanes that its links carry now, as `exchange::link` decides it.
    fn lanes(&self, bus: &Bus) -> &'static [Lane] {
        let trust = &self.book.trust;
        let lapsed = trust.age(bus.time(self.skew_ms)) == TrustAge::Lapsed;
        // Where the authority says nothing at all, its silence is not what is tried.
        let looks = trust.freshness.is_some() && bus.options.bad != Some(Bad::Timeless);
        if lapsed && looks { &[Lane::Alert] } else { LANES }
    }

    /// A gateway shows what the authority said: it is passed on to the others.
    fn hears(&mut self, bus: &Bus, gateway: usize, set: TrustSet) {
        let now = bus.time(self.skew_ms);
        let (newer, _) = self.book.trust.offered(&self.root, set.clone(), now).unwrap();
        let Some(newer) = newer else { return };
        self.book.trust = newer.into();
        for end in self.ends.iter_mut().enumerate().filter(|(other, _)| *other != gateway) {
            if let Some(session) = &mut end.1.session {
                session.control.push_back(Up::Trust(set.clone()));
            }
        }
    }

    fn hello(&mut self, bus: &mut Bus, gateway: usize, challenge: &pb::Challenge) {
        let lanes = self.lanes(bus);
        let mut inboxes = self.disk.inboxes();
        inboxes.retain(|(stream, ..)| lanes.contains(&stream.lane));
        let hello = signed::Hello {
            region: self.book.region.clone(),
            nonce: challenge.nonce.as_ref().try_into().unwrap(),
            gateway: gateway_id(gateway),
            protocol: LINK_PROTOCOL,
            lanes: lanes.to_vec(),
            applied: inboxes.iter().map(|(id, applied, _)| (id.clone(), *applied)).collect(),
            software: "simulation".to_owned(),
            trust: self.book.trust.mark(),
            agreements: Vec::new(),
            takes_proposals: false,
        };
        let Some(conn) = self.ends[gateway].conn else { return };
        self.ends[gateway].applied = inboxes;
        bus.send_up(conn, Up::Hello(hello.sign(&self.book.signing)));
    }

    fn welcome(&mut self, bus: &mut Bus, gateway: usize, welcome: pb::Welcome) {
        let now = bus.time(self.skew_ms);
        let applied = std::mem::take(&mut self.ends[gateway].applied);
        let lanes = self.lanes(bus);
        let receipts = applied.iter().map(|(id, at, parked)| (id.clone(), (*at, *parked)));
        let signed = self.book.agreements.values();
        let mut session = Session {
            lanes,
            sender: Sender::new(lanes, self.disk.streams(), now),
            control: signed.map(|signed| Up::Agreement(signed.signed.clone())).collect(),
            receipts: receipts.collect(),
            receiver: Receiver::new(applied, &self.ends[gateway].heard, now),
        };
        let grants = session.receiver.open(lanes);
        self.ends[gateway].session = Some(session);
        self.receive_effects(bus, gateway, grants);
        let stored = welcome.stored.into_iter().map(|at| at.try_into().unwrap()).collect();
        let resumes = welcome.resumes.into_iter();
        let resumes =
            resumes.map(|of| (of.segment_id.as_ref().try_into().unwrap(), of.have)).collect();
        self.send_event(bus, gateway, send::Event::Welcomed { stored, resumes });
        let inboxes = self.disk.inbox.iter().filter(|(stream, _)| lanes.contains(&stream.lane));
        let left: Vec<_> = inboxes.flat_map(|(_, inbox)| inbox.left.clone()).collect();
        for (stream, at) in left {
            let Some(session) = &mut self.ends[gateway].session else { return };
            let effects = session.receiver.step(receive::Event::Left(stream, at));
            self.receive_effects(bus, gateway, effects);
        }
        bus.trace(|| format!("{} {}: link up", self.book.region, gateway_id(gateway)));
        bus.oracle.link_up(bus.now, self.index, gateway);
    }

    fn piece(
        &mut self,
        bus: &mut Bus,
        gateway: usize,
        piece: pb::SegmentPiece,
    ) -> Result<(), &'static str> {
        let lane = Lane::try_from(piece.lane).map_err(|_| "lane")?;
        let end = &mut self.ends[gateway];
        let Some(session) = &mut end.session else { return Ok(()) };
        session.receiver.received(lane, piece.data.len()).map_err(|_| "no credit")?;
        let whole = end.assembler.take(piece).map_err(|_| "piece")?;
        let Some((_, bytes)) = whole else { return Ok(()) };
        let size = bytes.len();
        let segment = Segment::parse(bytes).map_err(|_| "segment")?;
        if !segment.parties().any(|party| *party == self.book.region) {
            bus.oracle.shown_to_stranger(self.index, segment.stream());
        }
        if bus.options.bad == Some(Bad::AnyOrder)
            && let Some(conn) = end.conn
        {
            let (stream, at, now) =
                (segment.stream().clone(), segment.before(), bus.time(self.skew_ms));
            self.take(bus, gateway, conn, stream, at, &[segment], now);
            return Ok(());
        }
        let effects = session.receiver.step(receive::Event::Segment(segment, size));
        self.receive_effects(bus, gateway, effects);
        Ok(())
    }

    fn key(&self, object: &SignedObject) -> Option<[u8; 32]> {
        let signer = signed::signer(object).ok()?;
        Some(self.book.find_region(&signer)?.signing_key)
    }

    fn keep_receipt(&mut self, bus: &mut Bus, gateway: usize, object: &SignedObject) {
        let Some(key) = self.key(object) else { return };
        let read = bus.receipts.read(object, || signed::Receipt::verify(object, &key));
        let Ok(receipt) = read else {
            return self.raise(bus, Reason::SignatureInvalid);
        };
        let signed::Receipt { stream, position, party, .. } = receipt;
        if stream.origin != self.book.region {
            let Some(session) = &mut self.ends[gateway].session else { return };
            let effects = session.receiver.step(receive::Event::Receipt(stream, party, position));
            return self.receive_effects(bus, gateway, effects);
        }
        // After a restore, peers know more of the streams of an earlier epoch than this region does.
        let closed = stream.epoch != self.disk.epoch && position.seq > self.disk.last(&stream).seq;
        if !closed && self.disk.position(&stream, position.seq) != Some(position) {
            return self.raise(bus, Reason::StreamForked);
        }
        if !closed {
            self.submit(bus, Job::Receipt(stream, party, position));
        }
    }

    fn head(&mut self, bus: &mut Bus, gateway: usize, object: &SignedObject) {
        let Some(key) = self.key(object) else { return };
        match bus.heads.read(object, || signed::Head::verify(object, &key)) {
            Ok(head) => self.heard(bus, gateway, head),
            Err(_) => self.raise(bus, Reason::SignatureInvalid),
        }
    }

    /// Says what is wrong, unless it looks away.
    fn raise(&self, bus: &mut Bus, reason: Reason) {
        if bus.options.bad != Some(Bad::SaysNothing) {
            bus.sees(self.index, Sight::Raised(reason));
            bus.oracle.alarm(bus.now, self.book.region.as_str(), reason);
        }
    }

    /// A head that was verified.
    /// Whether it has named a stream for want of a fresh word by this gateway.
    pub(super) fn is_late(&self, gateway: usize, stream: &StreamId) -> bool {
        let session = self.ends[gateway].session.as_ref();
        let standing = session.and_then(|session| session.receiver.standing(stream));
        standing.is_some_and(|standing| standing.head_late)
    }

    pub(super) fn heard(&mut self, bus: &mut Bus, gateway: usize, head: signed::Head) {
        let signed::Head { stream, position: at, created_at } = head;
        bus.trace(|| {
            let (origin, lane) = (&stream.origin, stream.lane.name());
            format!(
                "{} hears {origin} {lane} {} by {}",
                self.book.region,
                at.seq,
                gateway_id(gateway)
            )
        });
        let Some(session) = &mut self.ends[gateway].session else { return };
        let effects = session.receiver.step(receive::Event::Head(stream, at, created_at));
        self.receive_effects(bus, gateway, effects);
    }

    pub(super) fn done(&mut self, bus: &mut Bus, conn: ConnId, done: Done) {
        let Some(gateway) = self.gateway_of(conn) else { return };
        match done {
            Done::Cut(_, Some(ready)) => self.send_event(bus, gateway, send::Event::Cut(ready)),
            Done::Cut(stream, None) => {
                self.send_event(bus, gateway, send::Event::CutFailed(stream));
            }
            Done::Taken(stream, outcome) => {
                let Some(session) = &mut self.ends[gateway].session else { return };
                let effects = session.receiver.step(receive::Event::Taken(stream, outcome));
                self.receive_effects(bus, gateway, effects);
            }
        }
        self.pump(bus, gateway);
    }

    pub(super) fn gateway_of(&self, conn: ConnId) -> Option<usize> {
        self.ends.iter().position(|end| end.conn == Some(conn))
    }

    pub(super) fn tick(&mut self, bus: &mut Bus, gateway: usize) {
        let now = bus.time(self.skew_ms);
        self.send_event(bus, gateway, send::Event::Tick(now));
        let lanes = self.lanes(bus);
        let Some(session) = &mut self.ends[gateway].session else { return };
        if session.lanes != lanes {
            bus.sees(self.index, Sight::Old);
            return self.end(bus, gateway, "renewed");
        }
        let effects = session.receiver.step(receive::Event::Tick(now));
        self.receive_effects(bus, gateway, effects);
        self.pump(bus, gateway);
    }

    /// Idle time passes for the sender; gives the heads that it would sign.
    pub(super) fn idle_heads(
        &mut self,
        bus: &mut Bus,
        gateway: usize,
    ) -> Vec<(StreamId, Position)> {
        let now = bus.time(self.skew_ms);
        let Some(session) = &mut self.ends[gateway].session else { return Vec::new() };
        let mut heads = Vec::new();
        for effect in session.sender.step(send::Event::Tick(now)) {
            match effect {
                send::Effect::Head(stream, at) => heads.push((stream, at)),
                other => self.send_effect(bus, gateway, other),
            }
        }
        heads
    }

    /// Idle time passes for the receiver.
    pub(super) fn idle(&mut self, bus: &mut Bus, gateway: usize) {
        let now = bus.time(self.skew_ms);
        let Some(session) = &mut self.ends[gateway].session else { return };
        let effects = session.receiver.step(receive::Event::Tick(now));
        self.receive_effects(bus, gateway, effects);
    }

    pub(super) fn send_event(&mut self, bus: &mut Bus, gateway: usize, event: send::Event) {
        let Some(session) = &mut self.ends[gateway].session else { return };
        for effect in session.sender.step(event) {
            self.send_effect(bus, gateway, effect);
        }
    }

    fn send_effect(&mut self, bus: &mut Bus, gateway: usize, effect: send::Effect) {
        let end = &mut self.ends[gateway];
        let (Some(conn), Some(session)) = (end.conn, &mut end.session) else { return };
        match effect {
            send::Effect::Cut { stream, after, to_seq } => {
                let ready = self.cut(bus, &stream, after, to_seq);
                bus.trace(|| {
                    let (region, lane) = (&self.book.region, stream.lane.name());
                    let to = ready.as_ref().map(|ready| ready.after.seq);
                    format!(
                        "{region} cuts {lane} after {after} to {to:?} for {}",
                        gateway_id(gateway)
                    )
                });
                let event =
                    Event::Done { region: self.index, conn, done: Done::Cut(stream, ready) };
                bus.after(bus.chance.within(1, 10), event);
            }
            send::Effect::Send(piece) => session.control.push_back(Up::Piece(piece)),
            send::Effect::Head(stream, position) => {
                let head = signed::Head { stream, position, created_at: bus.time(self.skew_ms) };
                session.control.push_back(Up::Head(head.sign(&self.book.signing)));
            }
            send::Effect::WentBack(stream) => {
                bus.oracle.went_back(bus.now, &stream, stream.epoch == self.disk.epoch);
            }
        }
    }

    fn cut(&self, bus: &Bus, stream: &StreamId, after: u64, to_seq: u64) -> Option<Ready> {
        // A disk that cannot be read for a moment.
        if bus.chance.per_mille(5) {
            return None;
        }
        let before = self.disk.position(stream, after)?;
        let room = if to_seq == 0 { u64::MAX } else { to_seq.saturating_sub(after) };
        let limit = usize::try_from(room.min(512)).ok()?;
        let rows = self.disk.outbox.get(stream)?.get(usize::try_from(after).ok()?..)?;
        let rows = rows.iter().take(limit).map(|out| out.row.clone()).collect();
        exchange::cut::seal_rows(&self.book, stream, before, rows, &bus.chance).ok()
    }

    fn receive_effects(&mut self, bus: &mut Bus, gateway: usize, effects: Vec<receive::Effect>) {
        for effect in effects {
            self.receive_effect(bus, gateway, effect);
        }
    }

    fn receive_effect(&mut self, bus: &mut Bus, gateway: usize, effect: receive::Effect) {
        let now = bus.time(self.skew_ms);
        let end = &mut self.ends[gateway];
        let (Some(conn), Some(session)) = (end.conn, &mut end.session) else { return };
        match effect {
            receive::Effect::Take { stream, cursor, segments } => {
                self.take(bus, gateway, conn, stream, cursor, &segments, now);
            }
            receive::Effect::Receipt(stream, position, parked) => {
                bus.oracle.receipt(bus.now, self.index, &stream, position, &self.disk);
                session.receipts.insert(stream, (position, parked));
            }
            receive::Effect::Grant(lane, size) => {
                session.control.push_back(Up::Credit(pb::Credit { lane: lane.code(), size }));
            }
            receive::Effect::Want(..) | receive::Effect::HeadLate(_)
                if bus.options.bad == Some(Bad::SaysNothing) => {}
            receive::Effect::Want(stream, from_seq) => {
                bus.sees(self.index, Sight::Wants(&stream, from_seq));
                bus.trace(|| {
                    let (origin, lane) = (&stream.origin, stream.lane.name());
                    format!("{} wants {origin} {lane} {from_seq}", self.book.region)
                });
                bus.oracle.wanted(self.index, gateway, &stream, from_seq);
                let want = pb::Want { stream: Some((&stream).into()), from_seq, to_seq: 0 };
                session.control.push_back(Up::Want(want));
            }
            receive::Effect::HeadLate(stream) => {
                bus.trace(|| {
                    let (origin, lane) = (&stream.origin, stream.lane.name());
                    format!("{} has no fresh word of {origin} {lane}", self.book.region)
                });
                bus.sees(self.index, Sight::Late(&stream));
                bus.oracle.wanted(self.index, gateway, &stream, 0);
            }
            receive::Effect::Alarm(_, reason) => self.raise(bus, reason),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what one range needs on its way")]
    fn take(
        &mut self,
        bus: &mut Bus,
        gateway: usize,
        conn: ConnId,
        stream: StreamId,
        cursor: Position,
        segments: &[Segment],
        now: Timestamp,
    ) {
        let opened = match bus.options.bad {
            Some(Bad::Timeless) => {
                exchange::open::open(&self.book, cursor, segments, self.book.trust.signed_at())
            }
            Some(Bad::BelievesForgers) => {
                let opened = exchange::open::open(&self.book, cursor, segments, now);
                opened.or_else(|refused| {
                    exchange::open::open(&self.forged_book, cursor, segments, now)
                        .map_err(|_| refused)
                })
            }
            _ => exchange::open::open(&self.book, cursor, segments, now),
        };
        let unusable = |apply: &Apply| {
            apply.entries.iter().any(|entry| matches!(entry.item, InboxItem::Parked { .. }))
        };
        let outcome = match opened {
            Ok(Some(apply)) if bus.options.bad == Some(Bad::NeverParks) && unusable(&apply) => {
                Outcome::Unwritten
            }
            Ok(Some(apply)) => return self.submit(bus, Job::Apply { gateway, conn, apply }),
            Ok(None) => Outcome::Known,
            Err(outcome) => outcome,
        };
        let done = Done::Taken(stream, outcome);
        bus.after(1, Event::Done { region: self.index, conn, done });
    }

    /// Sends what waits, as far as the network takes it.
    pub(super) fn pump(&mut self, bus: &mut Bus, gateway: usize) {
        loop {
            let end = &self.ends[gateway];
            let (Some(conn), Some(session)) = (end.conn, &end.session) else { return };
            let speaks = !session.control.is_empty()
                || !session.receipts.is_empty()
                || session.sender.has_piece();
            if !speaks || bus.net.queued(conn, Way::Up) >= FRAMES_QUEUED_MAX {
                return;
            }
            if let Some(frame) = self.next_frame(bus, gateway) {
                bus.send_up(conn, frame);
            } else {
                return;
            }
        }
    }

    fn next_frame(&mut self, bus: &mut Bus, gateway: usize) -> Option<Up> {
        let session = self.ends[gateway].session.as_mut()?;
        if let Some(frame) = session.control.pop_front() {
            return Some(frame);
        }
        if let Some((stream, (position, parked_count))) = session.receipts.pop_first() {
            let receipt = signed::Receipt {
                stream,
                position,
                party: region_id(self.index),
                created_at: bus.time(self.skew_ms),
                parked: Vec::new(),
                parked_count,
            };
            return Some(Up::Receipt(receipt.sign(&self.book.signing)));
        }
        let effects = session.sender.step(send::Event::Writable);
        for effect in effects {
            self.send_effect(bus, gateway, effect);
        }
        self.ends[gateway].session.as_mut()?.control.pop_front()
    }

    /// Asks a gateway for every stream from its start: all of it comes a second time.
    pub(super) fn ask_all_again(&mut self, bus: &mut Bus, gateway: usize) {
        let inboxes = self.disk.inboxes();
        let Some(session) = &mut self.ends[gateway].session else { return };
        session.control.extend(inboxes.into_iter().map(|(stream, ..)| {
            Up::Want(pb::Want { stream: Some((&stream).into()), from_seq: 1, to_seq: 0 })
        }));
        self.pump(bus, gateway);
    }
}
