//! What a hostile region does besides what it must: it has its own keys and its own line, and no others.

use super::Hostile;
use super::bus::Bus;
use super::link::Up;
use super::linkage::{START, index_of, region_id};
use super::load::Phones;
use super::region::RegionNode;
use super::region_disk::view_of;
use super::trial::Sign;
use bytes::Bytes;
use domain::kernel::{Lane, Reason, RegionId};
use domain::stream::StreamId;
use exchange::receive::PARKED_MAX;
use exchange::send;
use prost::{Message as _, bytes};
use proto::convert::entry;
use proto::exchange::v1 as pb;
use proto::link::pieces;
use seal::segment::segment_id;
use seal::signed::{Head, Receipt};
use storage::region::OutboxEntry;

/// More bad frames than a gateway bears on one link.
const FLOOD_FRAMES: usize = 24;

const SPEAKS_FOR_OTHERS: &[Reason] =
    &[Reason::ProtocolViolation, Reason::NotAParty, Reason::SignatureInvalid];

impl RegionNode {
    /// Does something of itself, over a line that is open; `streams` are all there are.
    pub(super) fn mischief(&mut self, bus: &mut Bus, what: Hostile, streams: &[StreamId]) {
        let gateway = bus.chance.index(bus.gateways);
        if self.ends[gateway].session.is_none() {
            return;
        }
        match what {
            Hostile::SpeakForOthers => self.speak_for_others(bus, gateway),
            Hostile::OverRead => self.over_read(bus, gateway, streams),
            Hostile::Flood => self.flood(bus, gateway),
            Hostile::Poison => self.poison(bus),
            _ => {}
        }
    }

    fn say(&self, bus: &mut Bus, gateway: usize, frame: Up) {
        if let Some(conn) = self.ends[gateway].conn {
            bus.send_up(conn, frame);
        }
    }

    fn say_segment(&self, bus: &mut Bus, gateway: usize, lane: Lane, encoded: &Bytes) {
        for piece in pieces(encoded, segment_id(encoded), lane, 0) {
            self.say(bus, gateway, Up::Piece(piece));
        }
    }

    /// What it says in the name of the origin of a stream that it receives, or of another party.
    fn speak_for_others(&mut self, bus: &mut Bus, gateway: usize) {
        let inboxes = self.disk.inboxes();
        if inboxes.is_empty() {
            return;
        }
        let (stream, applied, _) = bus.chance.pick(&inboxes).clone();
        let created_at = bus.time(0);
        match bus.chance.index(4) {
            0 => {
                let (salt, made_up) = ([7; 16], Bytes::from_static(b"made up"));
                let commitment = seal::chain::commitment(&salt, &made_up);
                let position = seal::chain::extend(applied, &commitment);
                let expires_at = START.plus_days(1);
                let rows = vec![OutboxEntry { position, salt, entry: made_up, expires_at }];
                let sealed =
                    exchange::cut::seal_rows(&self.book, &stream, applied, rows, &bus.chance);
                bus.trial_did_to(self.index, Sign::Raised(SPEAKS_FOR_OTHERS));
                self.say_segment(bus, gateway, stream.lane, &sealed.unwrap().bytes);
            }
            1 => {
                let others = (0..3).filter(|of| *of != self.index).map(region_id);
                let party = others.filter(|of| *of != stream.origin).chain([stream.origin.clone()]);
                let receipt = Receipt {
                    party: party.last().unwrap(),
                    stream,
                    position: applied,
                    created_at,
                    parked: Vec::new(),
                    parked_count: 0,
                };
                bus.trial_did_to(self.index, Sign::Raised(SPEAKS_FOR_OTHERS));
                self.say(bus, gateway, Up::Receipt(receipt.sign(&self.book.signing)));
            }
            2 => {
                let head = Head { stream, position: applied, created_at };
                let now = bus.now;
                // Refused at the door, or by whoever it is shown to.
                bus.trial().did_to(now, None, Sign::Raised(SPEAKS_FOR_OTHERS));
                self.say(bus, gateway, Up::Head(head.sign(&self.book.signing)));
            }
            _ => {
                let op = Phones::invent(bus);
                let owner = stream.origin;
                let view = view_of(&owner, &self.book, stream.agreement, &op, created_at);
                if let Some(view) = view {
                    self.spoil(bus, &view, Reason::NotTheOwner);
                }
            }
        }
    }

    fn over_read(&self, bus: &mut Bus, gateway: usize, streams: &[StreamId]) {
        let foreign = |stream: &&StreamId| {
            stream.origin == self.book.region
                || self.book.agreement(stream.agreement, stream.version).is_none()
        };
        let foreign: Vec<_> = streams.iter().filter(foreign).collect();
        if foreign.is_empty() {
            return;
        }
        let stream = Some((*bus.chance.pick(&foreign)).into());
        bus.trial_did_to(self.index, Sign::Raised(&[Reason::NotAParty]));
        self.say(bus, gateway, Up::Want(pb::Want { stream, from_seq: 1, to_seq: 0 }));
    }

    fn flood(&self, bus: &mut Bus, gateway: usize) {
        match bus.chance.index(3) {
            0 => {
                bus.trial_did_to(self.index, Sign::Raised(&[Reason::LimitExceeded]));
                for _ in 0..FLOOD_FRAMES {
                    let garbage = Bytes::copy_from_slice(&bus.chance.next().to_be_bytes());
                    self.say_segment(bus, gateway, Lane::Routine, &garbage);
                }
            }
            1 => {
                bus.trial_did_to(self.index, Sign::Raised(&[Reason::LimitExceeded]));
                let streams = self.disk.streams();
                let Some((stream, position)) = streams.first().cloned() else { return };
                let head = Head { stream, position, created_at: bus.time(0) };
                let mut head = head.sign(&self.book.signing);
                head.signatures[0].signature = Bytes::from_static(&[7; 64]);
                for _ in 0..FLOOD_FRAMES {
                    self.say(bus, gateway, Up::Head(head.clone()));
                }
            }
            // Nobody gave it credit for that lane.
            _ => {
                bus.trial_did_to(self.index, Sign::Raised(&[Reason::ProtocolViolation]));
                let bytes = Bytes::from(vec![7; 100_000]);
                self.say_segment(bus, gateway, Lane::Bulk, &bytes);
            }
        }
    }

    fn poison(&mut self, bus: &mut Bus) {
        let start = |stream: &StreamId| self.disk.outbox[stream][0].row.entry.clone();
        let Some((stream, _)) = self.disk.streams().first().cloned() else { return };
        if bus.trial().given_up.is_some() {
            return;
        }
        match bus.chance.index(60) {
            0..=25 => {
                let bytes = Bytes::copy_from_slice(&bus.chance.next().to_be_bytes());
                self.spoil_unreadable(bus, bytes);
            }
            26..=42 => self.spoil_unreadable(bus, pb::Entry { entry: None }.encode_to_vec().into()),
            43..=58 => {
                let again = start(&stream);
                self.spoil(bus, &again, Reason::AgreementUnknown);
            }
            // So much that something is wrong with the stream and not with an entry.
            _ => {
                let Some((stream, parties)) = self.own_stream(bus) else { return };
                bus.trial().given_up = Some(self.index);
                for party in parties {
                    bus.trial_did_to(index_of(&party), Sign::Raised(&[Reason::LimitExceeded]));
                }
                for _ in 0..=PARKED_MAX {
                    self.disk.spoil(&self.book, &stream, Bytes::new(), &bus.chance);
                    bus.oracle.numbered(bus.now, &stream, &self.disk);
                }
                self.tell(bus, &stream);
            }
        }
    }

    fn spoil_unreadable(&mut self, bus: &mut Bus, bytes: Bytes) {
        if let Err(reason) = entry::decode(bytes.clone()) {
            self.spoil(bus, &bytes, reason);
        }
    }

    /// One of its streams, and who reads it.
    fn own_stream(&self, bus: &Bus) -> Option<(StreamId, Vec<RegionId>)> {
        let streams = self.disk.streams();
        if streams.is_empty() {
            return None;
        }
        let (stream, _) = bus.chance.pick(&streams).clone();
        let agreement = self.book.agreement(stream.agreement, stream.version)?;
        let parties = agreement.parties.iter().map(|party| party.region.clone());
        let others = parties.filter(|party| *party != self.book.region).collect();
        Some((stream, others))
    }

    /// Writes an entry that its readers will park.
    fn spoil(&mut self, bus: &mut Bus, entry: &Bytes, reason: Reason) {
        let Some((stream, parties)) = self.own_stream(bus) else { return };
        for party in parties {
            bus.trial_did_to(index_of(&party), Sign::Parked(stream.clone(), reason));
        }
        self.disk.spoil(&self.book, &stream, entry.clone(), &bus.chance);
        bus.oracle.numbered(bus.now, &stream, &self.disk);
        self.tell(bus, &stream);
    }

    /// Its links hear that a stream has grown.
    fn tell(&mut self, bus: &mut Bus, stream: &StreamId) {
        for gateway in 0..bus.gateways {
            let event = send::Event::Durable(stream.clone(), self.disk.last(stream));
            self.send_event(bus, gateway, event);
            self.pump(bus, gateway);
        }
    }
}
