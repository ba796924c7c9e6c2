//! The network between regions and gateways: connections that keep their order, with delay, partitions
//! of one or both directions, silence and resets. Frames are those of the wire.

use super::bus::{Bus, Event};
use proto::exchange::v1::{link_request, link_response};
use std::collections::{BTreeMap, VecDeque};

pub(super) type ConnId = u64;
pub(super) type Up = link_request::Frame;
pub(super) type Down = link_response::Frame;

/// From a region to a gateway, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

/// Frames on their way, each with the time at which it arrives at the earliest.
#[derive(Debug)]
struct Pipe<T> {
    frames: VecDeque<(u64, T)>,
    last_at: u64,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) region: usize,
    pub(super) gateway: usize,
    up: Pipe<Up>,
    down: Pipe<Down>,
}

/// How the lines between one region and one gateway are.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Since when nothing gets through, up and down.
    blocked: [Option<u64>; 2],
    delay_ms: u64,
}

#[derive(Debug)]
pub(super) struct Net {
    conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    lines: [[Line; 2]; 3],
}

impl<T> Pipe<T> {
    const fn new() -> Self {
        Self { frames: VecDeque::new(), last_at: 0 }
    }

    fn push(&mut self, at: u64, frame: T) -> u64 {
        self.last_at = self.last_at.max(at);
        self.frames.push_back((self.last_at, frame));
        self.last_at
    }

    fn pop(&mut self, now: u64) -> Option<T> {
        self.frames.front().filter(|(at, _)| *at <= now)?;
        self.frames.pop_front().map(|(_, frame)| frame)
    }
}

impl Net {
    pub(super) fn new() -> Self {
        let line = Line { blocked: [None; 2], delay_ms: 10 };
        Self { conns: BTreeMap::new(), next: 1, lines: [[line; 2]; 3] }
    }

    pub(super) fn open(&mut self, region: usize, gateway: usize) -> ConnId {
        let id = self.next;
        self.next += 1;
        self.conns.insert(id, Conn { region, gateway, up: Pipe::new(), down: Pipe::new() });
        id
    }

    pub(super) fn find(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(&id)
    }

    pub(super) fn forget(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }

    /// Whether no frame is under way anywhere.
    pub(super) fn is_quiet(&self) -> bool {
        self.conns.values().all(|conn| conn.up.frames.is_empty() && conn.down.frames.is_empty())
    }

    pub(super) fn queued(&self, id: ConnId, way: Way) -> usize {
        self.conns.get(&id).map_or(0, |conn| match way {
            Way::Up => conn.up.frames.len(),
            Way::Down => conn.down.frames.len(),
        })
    }

    pub(super) const fn blocked(&self, region: usize, gateway: usize, way: Way) -> Option<u64> {
        self.lines[region][gateway].blocked[way as usize]
    }

    pub(super) const fn delay(&mut self, region: usize, gateway: usize, delay_ms: u64) {
        self.lines[region][gateway].delay_ms = delay_ms;
    }

    pub(super) const fn block(&mut self, region: usize, gateway: usize, way: Way, now: u64) {
        let blocked = &mut self.lines[region][gateway].blocked[way as usize];
        if blocked.is_none() {
            *blocked = Some(now);
        }
    }

    pub(super) fn take_up(&mut self, id: ConnId, now: u64) -> Option<Up> {
        self.conns.get_mut(&id)?.up.pop(now)
    }

    pub(super) fn take_down(&mut self, id: ConnId, now: u64) -> Option<Down> {
        self.conns.get_mut(&id)?.down.pop(now)
    }
}

impl Bus {
    /// Milliseconds that a frame is under way.
    pub(super) fn transit(&self, region: usize, gateway: usize) -> u64 {
        let delay_ms = self.net.lines[region][gateway].delay_ms;
        self.chance.within(1, delay_ms.max(1))
    }

    pub(super) fn send_up(&mut self, id: ConnId, frame: Up) {
        let Some((region, gateway)) = self.net.ends(id) else { return };
        let at = self.now + self.transit(region, gateway);
        if let Some(conn) = self.net.conns.get_mut(&id) {
            let at = conn.up.push(at, frame);
            self.push(at, Event::Deliver(id, Way::Up));
        }
    }

    pub(super) fn send_down(&mut self, id: ConnId, frame: Down) {
        let Some((region, gateway)) = self.net.ends(id) else { return };
        let at = self.now + self.transit(region, gateway);
        if let Some(conn) = self.net.conns.get_mut(&id) {
            let at = conn.down.push(at, frame);
            self.push(at, Event::Deliver(id, Way::Down));
        }
    }

    /// Lets frames through again; what waited arrives late, as after a retransmission.
    pub(super) fn unblock(&mut self, region: usize, gateway: usize, way: Way) {
        if self.net.lines[region][gateway].blocked[way as usize].take().is_none() {
            return;
        }
        let of = |conn: &Conn| conn.region == region && conn.gateway == gateway;
        let waiting: Vec<_> = self
            .net
            .conns
            .iter()
            .filter(|(_, conn)| of(conn))
            .map(|(id, _)| (*id, self.net.queued(*id, way)))
            .collect();
        for (id, count) in waiting {
            let at = self.now + self.chance.within(1, 500);
            for _ in 0..count {
                self.push(at, Event::Deliver(id, way));
            }
        }
    }
}

impl Net {
    fn ends(&self, id: ConnId) -> Option<(usize, usize)> {
        self.conns.get(&id).map(|conn| (conn.region, conn.gateway))
    }
}
