//! A gateway: the real delivery core, intake, outbox and registry, a model of its store, and between
//! them what `gateway::link` does with frames.

use super::Bad;
use super::bus::{Bus, Event};
use super::gateway_disk::GatewayDisk;
use super::gateway_flush::Job;
use super::gateway_malice::Malice;
use super::link::{ConnId, Down, Up, Way};
use super::linkage::{Linkage, gateway_id};
use super::trial::Sight;
use bytes::Bytes;
use domain::kernel::{Entropy as _, Lane, Reason, ReasonKind, RegionId};
use domain::stream::{Position, StreamId};
use gateway::book::Book;
use gateway::delivery::{self, Delivery, READ_BYTES_MAX};
use gateway::intake::{self, Refused};
use gateway::outbox::{self, Outbox};
use gateway::registry::{Lanes, Registry, Snapshot, Ticket, Wake};
use prost::{Message as _, bytes};
use proto::directory::v1::TrustSet;
use proto::exchange::v1 as pb;
use proto::kernel::v1::SignedObject;
use proto::link::{Assembler, CreditIn};
use seal::segment::Segment;
use seal::signed::Hello;
use seal::trust::Trust;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage::gateway::{SegmentVerdict, SegmentWrite};
use tokio::sync::OwnedMutexGuard;

/// Frames that may wait for the network: the real queue, and what the transport takes.
const FRAMES_QUEUED_MAX: usize = 16;
const FAULTS_MAX: u32 = 16;
const RESEND_TIMEOUT_MS: u64 = 5_000;

struct Link {
    region: RegionId,
    region_index: usize,
    lanes: Lanes,
    ticket: Ticket,
    assembler: OwnedMutexGuard<Assembler>,
    delivery: Delivery,
    outbox: Outbox,
    credit: CreditIn,
    under_way: BTreeMap<Lane, usize>,
    asked: BTreeMap<StreamId, (u64, u64)>,
    strangers: BTreeSet<StreamId>,
    faults: u32,
    opened_at: u64,
    closing: bool,
}

pub(super) struct GatewayNode {
    pub(super) index: usize,
    pub(super) up: bool,
    pub(super) life: u64,
    pub(super) disk: GatewayDisk,
    pub(super) copy: GatewayDisk,
    pub(super) full_until: u64,
    /// Killed in its next flush, and down for so long.
    pub(super) doomed: Option<u64>,
    trust: Arc<Trust>,
    root: [u8; 32],
    book: Arc<Book>,
    pub(super) registry: Registry,
    /// It is hostile.
    pub(super) malice: Option<Malice>,
    /// Challenges that were not answered yet.
    greeted: BTreeMap<ConnId, [u8; 32]>,
    links: BTreeMap<ConnId, Link>,
    pub(super) jobs: Vec<Job>,
    pub(super) flushing: Vec<Job>,
}

impl GatewayNode {
    pub(super) fn new(index: usize, linkage: &Linkage) -> Self {
        let book = Arc::new(Book::new(Arc::clone(&linkage.trust)));
        Self {
            index,
            up: false,
            life: 0,
            disk: GatewayDisk::default(),
            copy: GatewayDisk::default(),
            full_until: 0,
            doomed: None,
            trust: Arc::clone(&linkage.trust),
            root: linkage.authority.root(),
            malice: None,
            registry: Registry::new(Arc::clone(&book), Vec::new(), Vec::new()),
            book,
            greeted: BTreeMap::new(),
            links: BTreeMap::new(),
            jobs: Vec::new(),
            flushing: Vec::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        let quiet = |link: &Link| link.outbox.is_empty() && !link.delivery.has_piece();
        self.up
            && self.jobs.is_empty()
            && self.flushing.is_empty()
            && self.links.values().all(quiet)
    }

    pub(super) fn start(&mut self) {
        self.up = true;
        self.life += 1;
        let book = Book::new(Arc::clone(&self.trust));
        for agreement in &self.disk.agreements {
            book.learn(agreement, &SignedObject::default());
        }
        self.book = Arc::new(book);
        let (streams, receipts) = (self.disk.stored_streams(), self.disk.receipts());
        self.registry = Registry::new(Arc::clone(&self.book), streams, receipts);
    }

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
        let greeted = std::mem::take(&mut self.greeted).into_keys();
        let links = std::mem::take(&mut self.links).into_keys();
        for conn in greeted.chain(links) {
            hang_up(bus, conn);
        }
    }

    pub(super) fn restore(&mut self, bus: &mut Bus) {
        self.disk = self.copy.clone();
        bus.oracle.restored_gateway(self.index);
    }

    /// A region calls.
    pub(super) fn arrive(&mut self, bus: &mut Bus, conn: ConnId) {
        if !self.up {
            return hang_up(bus, conn);
        }
        let mut nonce = [0; 32];
        bus.chance.fill(&mut nonce);
        self.greeted.insert(conn, nonce);
        let gateway_id = gateway_id(self.index).as_str().to_owned();
        let nonce = Bytes::copy_from_slice(&nonce);
        bus.send_down(conn, Down::Challenge(pb::Challenge { nonce, gateway_id }));
    }

    pub(super) fn has(&self, conn: ConnId) -> bool {
        self.links.contains_key(&conn) || self.greeted.contains_key(&conn)
    }

    /// The link ends here.
    pub(super) fn end(&mut self, bus: &mut Bus, conn: ConnId, why: &str) {
        if let Some(link) = self.links.remove(&conn) {
            bus.trace(|| format!("{} {}: closed: {why}", gateway_id(self.index), link.region));
            self.registry.leave(&link.ticket);
            hang_up(bus, conn);
        } else if self.greeted.remove(&conn).is_some() {
            hang_up(bus, conn);
        }
    }

    /// A frame arrives from a region.
    pub(super) fn frame(&mut self, bus: &mut Bus, conn: ConnId, frame: Up) {
        match (self.greeted.remove(&conn), frame) {
            (Some(nonce), Up::Hello(object)) => self.hello(bus, conn, nonce, &object),
            (Some(_), _) => return hang_up(bus, conn),
            (None, frame) => {
                if self.links.get(&conn).is_none_or(|link| link.closing) {
                    return;
                }
                self.on_frame(bus, conn, frame);
            }
        }
        self.pump(bus, conn);
    }

    fn hello(&mut self, bus: &mut Bus, conn: ConnId, nonce: [u8; 32], object: &SignedObject) {
        let signer = seal::signed::signer(object).unwrap();
        let id = seal::signed::key_id_of(object);
        let key = self.book.signing_key(&signer, id, bus.time(0)).unwrap();
        let hello = Hello::verify(object, &key, &nonce, &gateway_id(self.index)).unwrap();
        let lanes = Lanes::of(&hello.lanes);
        let ticket = self.registry.enter(&hello.region, lanes);
        let displaced =
            |(id, link): (&ConnId, &Link)| link.ticket.displaced.is_cancelled().then_some(*id);
        let displaced: Vec<_> = self.links.iter().filter_map(displaced).collect();
        for id in displaced {
            self.end(bus, id, "displaced");
        }
        let assembler = Arc::clone(&ticket.assembler).try_lock_owned().unwrap();
        let link = Link {
            region_index: super::linkage::index_of(&hello.region),
            region: hello.region.clone(),
            lanes,
            ticket,
            assembler,
            delivery: Delivery::default(),
            outbox: Outbox::default(),
            credit: CreditIn::default(),
            under_way: BTreeMap::new(),
            asked: BTreeMap::new(),
            strangers: BTreeSet::new(),
            faults: 0,
            opened_at: bus.now,
            closing: false,
        };
        self.links.insert(conn, link);
        self.open(bus, conn, &hello);
        bus.after(500, Event::Tick(conn));
    }

    fn open(&mut self, bus: &mut Bus, conn: ConnId, hello: &Hello) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let snapshot = self.registry.snapshot(&link.region, link.lanes);
        let stored = snapshot.written.iter().map(|(stream, last)| (stream, *last).into()).collect();
        let resumes = link.assembler.resumes().into_iter();
        let resumes = resumes
            .map(|(id, have)| pb::PieceResume { segment_id: Bytes::copy_from_slice(&id), have })
            .collect();
        link.outbox.welcome(pb::Welcome { stored, resumes, ..Default::default() });
        if self.trust.mark().exceeds(&hello.trust) {
            link.outbox.trust(self.trust.signed().clone());
        }
        for lane in link.lanes.iter() {
            link.outbox.credit(lane, link.credit.open(lane));
        }
        let region = link.region.clone();
        for (stream, applied) in &hello.applied {
            let receives =
                stream.origin != region && intake::terms_for(&self.book, stream, &region).is_ok();
            if receives {
                let event = delivery::Event::Applied(stream.clone(), applied.seq, false);
                self.deliver(bus, conn, event);
            }
        }
        self.catch_up(bus, conn, snapshot);
    }

    fn catch_up(&mut self, bus: &mut Bus, conn: ConnId, snapshot: Snapshot) {
        for (stream, last, head) in snapshot.received {
            let Some(link) = self.links.get_mut(&conn) else { return };
            if let Some(head) = head.and_then(object) {
                link.outbox.head(stream.clone(), head);
            }
            self.deliver(bus, conn, delivery::Event::Grew(stream, last.seq));
        }
        let Some(link) = self.links.get_mut(&conn) else { return };
        for (stream, party, _, signed) in snapshot.receipts {
            if let Some(receipt) = object(signed) {
                link.outbox.receipt(stream, party, receipt);
            }
        }
    }

    fn on_frame(&mut self, bus: &mut Bus, conn: ConnId, frame: Up) {
        let now = bus.time(0);
        let Some(link) = self.links.get_mut(&conn) else { return };
        match frame {
            Up::Piece(piece) => self.piece(bus, conn, piece),
            Up::Receipt(object) => match intake::receipt(&self.book, &link.region, &object, now) {
                Ok(receipt) => self.submit(bus, Job::Receipt(receipt)),
                Err(refused) => self.refuse(bus, conn, &refused),
            },
            Up::Head(object) => {
                match intake::head(&self.book, &link.region, &object, bus.time(0)) {
                    Ok((stream, signed)) => self.submit(bus, Job::Head(stream, signed)),
                    Err(refused) => self.refuse(bus, conn, &refused),
                }
            }
            Up::Agreement(object) => {
                match intake::agreement(&self.book, &link.region, &object) {
                    Ok(None) => {}
                    Ok(Some((agreement, _))) => {
                        self.book.learn(&agreement, &object);
                        self.submit(bus, Job::Agreement(agreement));
                    }
                    Err(refused) => self.refuse(bus, conn, &refused),
                }
                self.admit_strangers(conn);
            }
            // Nobody erases or proposes anything here.
            Up::Replace(_) | Up::Proposal(_) => {}
            Up::Credit(credit) => {
                let lane = Lane::try_from(credit.lane).unwrap();
                self.deliver(bus, conn, delivery::Event::Granted(lane, credit.size));
            }
            Up::Want(want) => match intake::want(&self.book, &link.region, want.clone()) {
                Ok((stream, from_seq)) => {
                    self.deliver(bus, conn, delivery::Event::Wanted(stream, from_seq));
                }
                Err(_) if bus.options.bad == Some(Bad::TakesAll) => {
                    let stream: StreamId = want.stream.unwrap().try_into().unwrap();
                    let last = self.disk.last(&stream);
                    self.deliver(bus, conn, delivery::Event::Wanted(stream.clone(), 1));
                    self.deliver(bus, conn, delivery::Event::Grew(stream, last));
                }
                Err(refused) => self.refuse(bus, conn, &refused),
            },
            Up::Trust(set) => self.hears(bus, set),
            Up::Ping(_) | Up::Hello(_) => {}
        }
    }

    fn piece(&mut self, bus: &mut Bus, conn: ConnId, piece: pb::SegmentPiece) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let lane = Lane::try_from(piece.lane).unwrap();
        let size = piece.data.len();
        let takes_all = bus.options.bad == Some(Bad::TakesAll);
        if link.credit.received(lane, size).is_err() && !takes_all {
            return self.close(bus, conn, Reason::ProtocolViolation, "a piece without credit");
        }
        if piece.offset == 0 {
            let dropped = link.under_way.remove(&lane).unwrap_or(0);
            link.consumed(lane, dropped);
        }
        *link.under_way.entry(lane).or_default() += size;
        match link.assembler.take(piece) {
            Ok(None) => {}
            Ok(Some((lane, encoded))) => {
                let bytes = link.under_way.remove(&lane).unwrap_or(0);
                self.segment(bus, conn, lane, encoded, bytes);
            }
            Err(reason) => self.close(bus, conn, reason, "a piece that does not join on"),
        }
    }

    fn segment(&mut self, bus: &mut Bus, conn: ConnId, lane: Lane, encoded: Bytes, bytes: usize) {
        if bus.options.bad == Some(Bad::TakesAll) {
            return self.unchecked(bus, conn, encoded);
        }
        let Some(link) = self.links.get_mut(&conn) else { return };
        match intake::segment(&self.book, &link.region, lane, encoded, bus.time(0)) {
            Ok(write) => {
                if bus.options.bad == Some(Bad::StoredBeforeFlush) {
                    link.outbox.stored(write.stream.clone(), write.after);
                }
                self.submit(bus, Job::Segment { conn, write, bytes });
            }
            Err(refused) => {
                link.consumed(lane, bytes);
                self.refuse(bus, conn, &refused);
            }
        }
    }

    /// Who takes all takes what a region signs of another's stream.
    fn unchecked(&mut self, bus: &mut Bus, conn: ConnId, encoded: Bytes) {
        let Ok(segment) = Segment::parse(encoded.clone()) else { return };
        let (stream, now) = (segment.stream().clone(), bus.time(0));
        let recipients = segment.parties().filter(|party| **party != stream.origin).cloned();
        let (before, after) = (segment.before(), segment.after());
        let recipients = recipients.collect();
        let write = SegmentWrite { stream, before, after, encoded, recipients, now };
        self.submit(bus, Job::Segment { conn, write, bytes: 0 });
    }

    pub(super) fn verdict(
        &mut self,
        bus: &mut Bus,
        conn: ConnId,
        write: &SegmentWrite,
        bytes: usize,
        verdict: SegmentVerdict,
    ) {
        let SegmentWrite { stream, before, .. } = write;
        let now = bus.now;
        bus.trace(|| {
            let (origin, lane, first) = (&stream.origin, stream.lane.name(), before.seq + 1);
            format!(
                "gw-{} {origin} {lane} {first}-{}: {verdict:?}",
                self.index + 1,
                write.after.seq
            )
        });
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.consumed(stream.lane, bytes);
        match verdict {
            SegmentVerdict::Stored(last) | SegmentVerdict::Known(last) => {
                link.asked.remove(stream);
                link.outbox.stored(stream.clone(), last);
            }
            SegmentVerdict::Apart(last) if write.after.seq > last.seq => {
                let asked = link.asked.get(stream);
                let waits =
                    |(seq, at): &(u64, u64)| *seq == last.seq && now < at + RESEND_TIMEOUT_MS;
                if !asked.is_some_and(waits) {
                    link.asked.insert(stream.clone(), (last.seq, now));
                    link.outbox.want(stream.clone(), last.seq + 1, 0);
                }
            }
            SegmentVerdict::Apart(_) => {}
            // Who means to fork does not say so.
            SegmentVerdict::Forked(_) if self.malice.is_some() => {}
            SegmentVerdict::Forked(_) => {
                let reason = Reason::StreamForked;
                bus.oracle.alarm(now, gateway_id(self.index).as_str(), reason);
                bus.sees(link.region_index, Sight::Raised(reason));
                link.outbox.refuse(reason, Some(stream), "stored before");
            }
        }
    }

    fn refuse(&mut self, bus: &mut Bus, conn: ConnId, refused: &Refused) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        if bus.options.bad == Some(Bad::TakesAll) {
            return;
        }
        let Refused { reason, stream, detail } = refused;
        if *reason == Reason::AgreementUnknown
            && let Some(stream) = stream
            && !link.strangers.insert(stream.clone())
        {
            return;
        }
        bus.trace(|| format!("{} refuses {}: {detail}", gateway_id(self.index), link.region));
        if *reason == Reason::ProtocolViolation {
            return self.close(bus, conn, *reason, detail);
        }
        bus.sees(link.region_index, Sight::Raised(*reason));
        link.outbox.refuse(*reason, stream.as_ref(), detail);
        let kind = reason.kind();
        if matches!(kind, ReasonKind::Invalid | ReasonKind::Unauthenticated | ReasonKind::Forbidden)
        {
            link.faults += 1;
        }
        if link.faults > FAULTS_MAX {
            self.close(bus, conn, Reason::LimitExceeded, "too many bad frames");
        }
    }

    fn close(&mut self, bus: &mut Bus, conn: ConnId, reason: Reason, detail: &str) {
        bus.oracle.alarm(bus.now, detail, reason);
        let Some(link) = self.links.get_mut(&conn) else { return };
        bus.sees(link.region_index, Sight::Raised(reason));
        link.outbox.close(outbox::fatal(reason, detail));
        link.closing = true;
    }

    fn admit_strangers(&mut self, conn: ConnId) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let known: Vec<_> =
            link.strangers.extract_if(.., |stream| self.book.terms_of(stream).is_some()).collect();
        for stream in known {
            let last = self.registry.last(&stream);
            link.outbox.want(stream, last.seq + 1, 0);
        }
    }

    fn deliver(&mut self, bus: &mut Bus, conn: ConnId, event: delivery::Event) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        for effect in link.delivery.step(bus.now - link.opened_at, event) {
            self.effect(bus, conn, effect);
        }
    }

    fn effect(&self, bus: &mut Bus, conn: ConnId, effect: delivery::Effect) {
        match effect {
            delivery::Effect::Read(stream, after) => {
                let event = Event::GatewayRead { gateway: self.index, conn, stream, after };
                bus.after(bus.chance.within(1, 20), event);
            }
            delivery::Effect::Ask { stream, from_seq, to_seq } => {
                self.registry.ask_origin(&stream, from_seq, to_seq);
                bus.after(1, Event::Wakes(self.index));
            }
            delivery::Effect::Send(_) => {}
        }
    }

    /// A read has ended.
    pub(super) fn read(&mut self, bus: &mut Bus, conn: ConnId, stream: StreamId, after: u64) {
        let event = if bus.chance.per_mille(5) {
            delivery::Event::ReadFailed(stream)
        } else {
            let segments = self.disk.read(&stream, after, READ_BYTES_MAX);
            delivery::Event::Read { stream, after, segments }
        };
        self.deliver(bus, conn, event);
        self.pump(bus, conn);
    }

    /// Every link hears what it was told.
    pub(super) fn wakes(&mut self, bus: &mut Bus) {
        let conns: Vec<_> = self.links.keys().copied().collect();
        for conn in conns {
            while let Some(wake) =
                self.links.get_mut(&conn).and_then(|link| link.ticket.wakes.try_recv().ok())
            {
                self.wake(bus, conn, wake);
            }
            let Some(link) = self.links.get(&conn) else { continue };
            if link.ticket.fell_behind() {
                let snapshot = self.registry.snapshot(&link.region, link.lanes);
                self.catch_up(bus, conn, snapshot);
            }
            self.pump(bus, conn);
        }
    }

    fn wake(&mut self, bus: &mut Bus, conn: ConnId, wake: Wake) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        match wake {
            Wake::Segment(stream, segment) => {
                self.deliver(bus, conn, delivery::Event::Stored(stream, segment));
            }
            Wake::Grew(stream, last) => {
                self.deliver(bus, conn, delivery::Event::Grew(stream, last));
            }
            Wake::Receipt(receipt) => {
                if let Some(signed) = object(receipt.signed) {
                    link.outbox.receipt(receipt.stream, receipt.party, signed);
                }
            }
            Wake::Head(stream, signed) => {
                if let Some(signed) = object(signed) {
                    link.outbox.head(stream, signed);
                }
            }
            Wake::Want(stream, from_seq, to_seq) => link.outbox.want(stream, from_seq, to_seq),
            // All know all their agreements from the start.
            Wake::Agreement(_) | Wake::Replaced(_) | Wake::Proposal(_) => {}
            Wake::Trust => link.outbox.trust(self.trust.signed().clone()),
        }
    }

    /// The authority, or a region that has heard it, shows what it said.
    pub(super) fn hears(&mut self, bus: &mut Bus, set: TrustSet) {
        if let (Some(newer), _) = self.trust.offered(&self.root, set, bus.time(0)).unwrap() {
            // Nobody joins or leaves by it: the book stays as it is.
            self.trust = Arc::new(newer);
            self.registry.tell_all(&Wake::Trust);
            bus.after(1, Event::Wakes(self.index));
        }
    }

    /// Whoever is hostile here does something of itself.
    pub(super) fn mischief(&mut self, bus: &mut Bus) {
        let Some(mut malice) = self.malice.take() else { return };
        for (region, frame) in malice.acts(bus) {
            let of_region = |(_, link): &(&ConnId, &Link)| link.region_index == region;
            if let Some((conn, _)) = self.links.iter().find(of_region) {
                bus.send_down(*conn, frame);
            }
        }
        self.malice = Some(malice);
    }

    /// It is as it should be from here on; what it lost is lost.
    pub(super) fn repent(&mut self) {
        for (stream, first_seq) in self.malice.iter().flat_map(Malice::lost) {
            self.disk.lose(stream, *first_seq);
        }
    }

    /// Sends a frame, or what somebody hostile sends in its place.
    fn emit(&mut self, bus: &mut Bus, conn: ConnId, frame: Down) {
        let Some(malice) = &mut self.malice else { return bus.send_down(conn, frame) };
        let region = self.links[&conn].region_index;
        for frame in malice.twist(bus, region, frame) {
            bus.send_down(conn, frame);
        }
    }

    pub(super) fn tick(&mut self, bus: &mut Bus, conn: ConnId) {
        self.deliver(bus, conn, delivery::Event::Tick);
        self.admit_strangers(conn);
        self.pump(bus, conn);
    }

    pub(super) fn pump(&mut self, bus: &mut Bus, conn: ConnId) {
        while let Some(link) = self.links.get_mut(&conn) {
            if bus.net.queued(conn, Way::Down) >= FRAMES_QUEUED_MAX {
                return;
            }
            if let Some(frame) = link.outbox.pop() {
                self.emit(bus, conn, frame);
                continue;
            }
            if link.closing {
                return self.end(bus, conn, "told why");
            }
            if !link.delivery.has_piece() {
                return;
            }
            let mut piece = None;
            for effect in link.delivery.step(bus.now - link.opened_at, delivery::Event::Writable) {
                match effect {
                    delivery::Effect::Send(next) => piece = Some(next),
                    other => {
                        let this = &*self;
                        this.effect(bus, conn, other);
                    }
                }
            }
            let Some(piece) = piece else { return };
            let region = self.links[&conn].region_index;
            if bus.oracle.skips(bus.now, region, self.index, &piece) {
                continue;
            }
            self.emit(bus, conn, Down::Piece(piece));
        }
    }
}

impl Link {
    fn consumed(&mut self, lane: Lane, bytes: usize) {
        if let Some(grant) = self.credit.consumed(lane, bytes) {
            self.outbox.credit(lane, grant);
        }
    }
}

fn hang_up(bus: &mut Bus, conn: ConnId) {
    let Some(of) = bus.net.find(conn) else { return };
    let blocked = bus.net.blocked(of.region, of.gateway, Way::Down).is_some();
    let silent = blocked || bus.chance.per_mille(200);
    let delay_ms = if silent { bus.chance.within(6_000, 7_000) } else { bus.chance.within(1, 100) };
    bus.after(delay_ms, Event::Hangup(conn, Way::Down));
}

fn object(signed: Bytes) -> Option<SignedObject> {
    SignedObject::decode(signed).ok()
}

/// Where a stream stands, for who looks at it from outside.
impl GatewayNode {
    pub(super) fn reaches(&self, stream: &StreamId, at: Position) -> bool {
        self.disk.last(stream) >= at.seq
    }
}
