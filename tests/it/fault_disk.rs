//! A full disk: nothing is acknowledged, nothing acknowledged is lost, nothing is read that could not be
//! put on record, and work is taken up by itself when there is space again.

use crate::harness::{A, ARRIVES, B, World, batch, converged, kept, own_records, pull_all};
use crate::harness::{try_pull_all, until};
use domain::kernel::{RecordId, Role};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use tonic::Code;
use tonic_types::StatusExt as _;

const BATCH: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_loses_nothing_and_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Mount::make(dir.path().join("a")) else {
        println!("skipped: cannot mount");
        return;
    };
    // The mount goes first, before the folder that it lies in is deleted.
    let (world, small) = (World::start_in(dir).await, small);
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let mut service = cli::client::device_service(phone.channel());
    let pid = world.a.pid();

    let mut acked = Vec::new();
    let mut full = false;
    let (waiting, refused) = loop {
        let (request, records) = batch(&phone, 1 + acked.len() as u64, BATCH);
        match service.push(request.clone()).await {
            Ok(answer) => acked.extend(kept(&answer.into_inner(), &records)),
            Err(status) => break (request, status),
        }
        if acked.len() >= 4 * BATCH && !full {
            small.fill();
            full = true;
        }
        assert!(acked.len() < 100 * BATCH, "the disk never fills");
    };
    assert!(full, "it was refused while there was space: {refused:?}");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "STORAGE_UNAVAILABLE");

    // It stays so. A read shows all or, where it cannot be put on record, is refused in the same words.
    let again = service.push(waiting.clone()).await.expect_err("the disk is full");
    assert_eq!(again.get_details_error_info().unwrap().reason, "STORAGE_UNAVAILABLE");
    match try_pull_all(desk_a.channel()).await {
        Ok(changes) => assert_eq!(own_records(&changes), acked),
        Err(refused) => {
            let info = refused.get_details_error_info().unwrap();
            assert_eq!(info.reason, "STORAGE_UNAVAILABLE");
        }
    }

    small.empty();
    let mut answer = None;
    until("work is taken up", ARRIVES, async || {
        answer = service.push(waiting.clone()).await.ok();
        answer.is_some()
    })
    .await;
    assert_eq!(answer.unwrap().into_inner().results.len(), BATCH);
    assert_eq!(world.a.pid(), pid);
    let all = own_records(&pull_all(desk_a.channel()).await);
    assert_eq!(all.len(), acked.len() + BATCH);
    let once: BTreeSet<RecordId> = all.iter().copied().collect();
    assert_eq!((once.len(), &all[..acked.len()]), (all.len(), &acked[..]));
    let views = converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    assert_eq!(views, all.len() as u64);
}

/// The control of the test above.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_flush_is_caught_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Mount::make(dir.path().join("a")) else {
        println!("skipped: cannot mount");
        return;
    };
    let (mut world, small) = (World::start_in(dir).await, small);
    world.a.kill();
    world.a.configure(&["known-bad:answer-before-flush".to_owned()]);
    world.a.restart().await;
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    let mut service = cli::client::device_service(phone.channel());
    let mut acked = Vec::new();
    small.fill();
    for turn in 0..20 {
        let (request, records) = batch(&phone, 1 + turn * BATCH as u64, BATCH);
        if let Ok(answer) = service.push(request).await {
            acked.extend(kept(&answer.into_inner(), &records));
        }
    }
    small.empty();
    let all: BTreeSet<RecordId> =
        own_records(&pull_all(desk.channel()).await).into_iter().collect();
    assert!(acked.iter().any(|record| !all.contains(record)), "{} acknowledged", acked.len());
}

/// A small file system.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// `None` where the system lets nobody mount.
    pub(crate) fn make(path: PathBuf) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs"]).arg(&path);
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(path))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all the space that is left.
    pub(crate) fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        for size in [1 << 20, 1 << 12] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What still runs there keeps it until it ends.
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}
