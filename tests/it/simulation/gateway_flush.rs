//! What a gateway writes: what waits is flushed together, told to all links and answered after its flush.

use super::bus::{Bus, Event};
use super::gateway_disk::Changes;
use super::gateway_node::GatewayNode;
use super::link::ConnId;
use super::load::Fault;
use bytes::Bytes;
use domain::agreement::Agreement;
use domain::stream::StreamId;
use prost::bytes;
use storage::gateway::{GatewayReceipt, SegmentVerdict, SegmentWrite};

pub(super) enum Job {
    Segment { conn: ConnId, write: SegmentWrite, bytes: usize },
    Receipt(GatewayReceipt),
    Head(StreamId, Bytes),
    Agreement(Agreement),
}

impl GatewayNode {
    pub(super) fn submit(&mut self, bus: &mut Bus, job: Job) {
        self.jobs.push(job);
        self.begin_flush(bus);
    }

    fn begin_flush(&mut self, bus: &mut Bus) {
        if self.flushing.is_empty() && !self.jobs.is_empty() {
            self.flushing = std::mem::take(&mut self.jobs);
            let gateway = self.index;
            let crash = self.doomed.take();
            let crash =
                crash.map(|down_ms| Fault::CrashGateway { gateway, down_ms, at_work: false });
            bus.flush(Event::GatewayFlush { gateway, life: self.life }, crash);
        }
    }

    /// A flush has returned.
    pub(super) fn flushed(&mut self, bus: &mut Bus) {
        let jobs = std::mem::take(&mut self.flushing);
        if bus.now < self.full_until {
            // Segments are tried again until there is room; what has no answer comes again anyway.
            let again = jobs.into_iter().filter(|job| matches!(job, Job::Segment { .. }));
            self.flushing = again.collect();
            if !self.flushing.is_empty() {
                bus.after(1_000, Event::GatewayFlush { gateway: self.index, life: self.life });
            }
        } else {
            for (conn, write, bytes, verdict) in self.write(bus, jobs) {
                self.verdict(bus, conn, &write, bytes, verdict);
                self.pump(bus, conn);
            }
            bus.after(bus.chance.within(0, 10), Event::Wakes(self.index));
        }
        self.begin_flush(bus);
    }

    pub(super) fn write(
        &mut self,
        bus: &mut Bus,
        jobs: Vec<Job>,
    ) -> Vec<(ConnId, SegmentWrite, usize, SegmentVerdict)> {
        let mut changes = Changes::default();
        let mut verdicts = Vec::new();
        for job in jobs {
            match job {
                Job::Segment { conn, write, bytes } => {
                    let verdict = self.disk.store(&write, &mut changes);
                    if matches!(verdict, SegmentVerdict::Stored(_)) {
                        bus.oracle.stored(bus.now, &write.stream, write.after);
                    }
                    verdicts.push((conn, write, bytes, verdict));
                }
                Job::Receipt(receipt) => {
                    self.disk.keep_receipt(&receipt, &mut changes);
                }
                Job::Head(stream, signed) => self.disk.keep_head(&stream, signed, &mut changes),
                Job::Agreement(agreement) => self.disk.keep_agreement(agreement),
            }
        }
        self.registry.route(&changes.committed());
        verdicts
    }
}
