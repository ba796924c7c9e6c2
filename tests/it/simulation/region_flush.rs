//! What a region writes: what waits is flushed together, and answered after its flush.

use super::bus::{Bus, Event};
use super::link::ConnId;
use super::load::Fault;
use super::region::{Done, RegionNode};
use super::region_disk::Op;
use super::trial::Sight;
use super::{Bad, Hostile};
use domain::kernel::{Reason, RegionId};
use domain::stream::{Position, StreamId};
use exchange::receive::Outcome;
use exchange::send;
use prost::Message as _;
use proto::device::v1::NeighbourView;
use storage::region::{Apply, InboxItem};

pub(super) enum Job {
    Commit { op: Op, phone: usize },
    Apply { gateway: usize, conn: ConnId, apply: Apply },
    Receipt(StreamId, RegionId, Position),
}

impl RegionNode {
    /// A phone sends an operation.
    pub(super) fn push(&mut self, bus: &mut Bus, phone: usize, op: Op) {
        if bus.options.bad == Some(Bad::AnswerBeforeFlush) {
            self.answer(bus, phone, op.no);
        }
        self.submit(bus, Job::Commit { op, phone });
    }

    fn answer(&self, bus: &mut Bus, phone: usize, op: u64) {
        bus.oracle.acked(self.index, op);
        // Some answers are lost, and the phone sends again.
        if !bus.chance.per_mille(50) {
            let event = Event::Answer { region: self.index, phone, op };
            bus.after(bus.chance.within(5, 300), event);
        }
    }

    pub(super) fn submit(&mut self, bus: &mut Bus, job: Job) {
        self.jobs.push(job);
        self.begin_flush(bus);
    }

    fn begin_flush(&mut self, bus: &mut Bus) {
        if self.flushing.is_empty() && !self.jobs.is_empty() {
            self.flushing = std::mem::take(&mut self.jobs);
            let region = self.index;
            let crash = self.doomed.take();
            let crash = crash.map(|down_ms| Fault::CrashRegion { region, down_ms, at_work: false });
            bus.flush(Event::RegionFlush { region, life: self.life }, crash);
        }
    }

    /// A flush has returned.
    pub(super) fn flushed(&mut self, bus: &mut Bus) {
        self.disk.write_late();
        let jobs = std::mem::take(&mut self.flushing);
        if bus.now < self.full_until {
            self.unwritten(bus, jobs);
        } else {
            let grown = self.write(bus, jobs);
            for gateway in 0..2 {
                for stream in &grown {
                    let event = send::Event::Durable(stream.clone(), self.disk.last(stream));
                    self.send_event(bus, gateway, event);
                }
                self.pump(bus, gateway);
            }
        }
        self.begin_flush(bus);
    }

    fn unwritten(&mut self, bus: &mut Bus, jobs: Vec<Job>) {
        for job in jobs {
            if let Job::Apply { conn, apply, .. } = job {
                let done = Done::Taken(apply.stream, Outcome::Unwritten);
                bus.after(1, Event::Done { region: self.index, conn, done });
            }
        }
    }

    /// What of a range matters where somebody is hostile.
    fn look_at(&self, bus: &mut Bus, apply: &Apply) {
        let Some(trial) = &bus.oracle.trial else { return };
        let withheld = trial.what == Hostile::WithholdFreshness;
        let alone = bus.gateways == 1;
        for entry in &apply.entries {
            match &entry.item {
                InboxItem::Parked { reason, .. } => {
                    bus.sees(self.index, Sight::Parked(&apply.stream, *reason));
                }
                InboxItem::View(row) if withheld => {
                    let view = NeighbourView::decode(row.encoded.as_ref()).unwrap();
                    let unconfirmed = view.source.unwrap().unconfirmed;
                    bus.oracle.confirmed(bus.now, apply.stream.lane, unconfirmed, alone);
                    if unconfirmed {
                        bus.sees(self.index, Sight::Old);
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn write(&mut self, bus: &mut Bus, jobs: Vec<Job>) -> Vec<StreamId> {
        let now = bus.time(self.skew_ms);
        let bad = bus.options.bad;
        let mut all_grown = Vec::new();
        for job in jobs {
            match job {
                Job::Commit { op, phone } => {
                    let grown = self.disk.commit(&self.book, &op, now, &bus.chance);
                    for stream in &grown {
                        bus.oracle.numbered(bus.now, stream, &self.disk);
                    }
                    all_grown.extend(grown);
                    if bad != Some(Bad::AnswerBeforeFlush) {
                        self.answer(bus, phone, op.no);
                    }
                }
                Job::Apply { gateway, conn, apply } => {
                    let applied = self.disk.apply(&apply, bad);
                    self.look_at(bus, &apply);
                    bus.oracle.applied(bus.now, self.index, gateway, &apply.stream, &self.disk);
                    let parked_count = applied.parked_count;
                    let (position, after) = (applied.position, apply.after);
                    let outcome = if position == after || position.seq > after.seq {
                        Outcome::Applied { position, parked_count, left: apply.left() }
                    } else if position.seq == after.seq {
                        Outcome::Refused(position, Reason::StreamForked)
                    } else {
                        Outcome::Gap(position)
                    };
                    let done = Done::Taken(apply.stream, outcome);
                    bus.after(0, Event::Done { region: self.index, conn, done });
                    if bad == Some(Bad::CursorBeforeViews) {
                        let late = Event::RegionFlush { region: self.index, life: self.life };
                        bus.after(2_000, late);
                    }
                }
                Job::Receipt(stream, party, at) => self.disk.keep_receipt(stream, party, at),
            }
        }
        all_grown
    }
}
