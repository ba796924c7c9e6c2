//! What a region's writer is asked for, and who does it.

use super::commit::{Commit, CommitVerdict};
use super::device::{self, EnrolVerdict, Enrolment, EnrolmentCode};
use super::{
    Applied, Apply, Disclosure, Erasing, Expired, OpenEpoch, Quarantined, ReceiptRow, Release,
    State, TransferStep, Turn, TurnPage, Watcher,
};
use super::{
    apply, disclosure, epoch, erasure, expiry, quarantine, release, stream, transfer, turn,
};
use crate::writer::{Answer, Call, WriteError};
use domain::kernel::{DeviceId, Epoch, GatewayId, RegionId, Timestamp};
use domain::stream::StreamId;
use rusqlite::Connection;

/// Each kind of job once: its name, what it takes, what it gives, what it is called in metrics.
macro_rules! jobs {
    ($($name:ident($input:ty) -> $output:ty, $text:literal;)+) => {
        #[derive(Debug)]
        pub(crate) enum Job {
            $($name(Call<$input, $output>),)+
        }

        enum Kind {
            $($name,)+
        }

        /// Names of the kinds of jobs, in the order of [`Answer::kind`].
        pub(super) const JOB_KINDS: &[&str] = &[$($text,)+];

        impl Answer for Job {
            fn answer(&mut self, flushed: Result<(), WriteError>) {
                match self {
                    $(Self::$name(call) => call.answer(flushed),)+
                }
            }

            fn kind(&self) -> usize {
                let kind = match self {
                    $(Self::$name(_) => Kind::$name,)+
                };
                kind as usize
            }
        }
    };
}

jobs! {
    Commit(Commit) -> CommitVerdict, "commit";
    Apply(Apply) -> Applied, "apply";
    Receipt(ReceiptRow) -> bool, "receipt";
    Disclose(Disclosure) -> (), "disclose";
    Watchers((Timestamp, Vec<Watcher>)) -> (), "watchers";
    Code(EnrolmentCode) -> (), "code";
    Enrol(Enrolment) -> EnrolVerdict, "enrol";
    Revoke((DeviceId, Timestamp)) -> bool, "revoke";
    Turn(Turn) -> (), "turn";
    TurnPage(TurnPage) -> (), "turn_page";
    Erase(Erasing) -> bool, "erase";
    Replaced((GatewayId, StreamId, u64, u64)) -> (), "replaced";
    OpenEpoch(OpenEpoch) -> Epoch, "open_epoch";
    NoteBeside((RegionId, Epoch)) -> (), "note_beside";
    Release(Release) -> u64, "release";
    Expire(Expired) -> (), "expire";
    Quarantine(quarantine::Order) -> Quarantined, "quarantine";
    Transfer(TransferStep) -> CommitVerdict, "transfer";
}

impl State {
    /// Does what one job asks for; commits are done together, before.
    pub(super) fn run(&mut self, conn: &Connection, job: &mut Job) -> rusqlite::Result<()> {
        match job {
            Job::Commit(_) => {}
            Job::Apply(call) => call.set(apply::run(self, conn, &call.input)?),
            Job::Receipt(call) => call.set(stream::keep_receipt(self, conn, &call.input)?),
            Job::Disclose(call) => call.set(disclosure::insert(self, conn, &call.input)?),
            Job::Watchers(call) => {
                let (now, watchers) = &call.input;
                call.set(disclosure::set_watchers(self, conn, *now, watchers)?);
            }
            Job::Code(call) => call.set(device::insert_code(conn, &call.input)?),
            Job::Enrol(call) => call.set(device::enrol(conn, &call.input)?),
            Job::Revoke(call) => {
                let (device, now) = call.input;
                call.set(device::revoke(conn, device, now)?);
                self.pending.revoked.push(device);
            }
            Job::Turn(call) => call.set(turn::begin(self, conn, &call.input)?),
            Job::TurnPage(call) => call.set(turn::page(self, conn, &call.input)?),
            Job::Erase(call) => call.set(erasure::run(self, conn, &call.input)?),
            Job::Replaced(call) => call.set(erasure::confirm(self, conn, &call.input)?),
            Job::OpenEpoch(call) => call.set(epoch::open(self, conn, &call.input)?),
            Job::NoteBeside(call) => call.set(epoch::note_beside(self, conn, &call.input)?),
            Job::Release(call) => call.set(release::run(self, conn, &call.input)?),
            Job::Expire(call) => call.set(expiry::run(self, conn, &call.input)?),
            Job::Quarantine(call) => call.set(quarantine::run(self, conn, &call.input)?),
            Job::Transfer(call) => call.set(transfer::run(self, conn, &call.input)?),
        }
        Ok(())
    }
}
