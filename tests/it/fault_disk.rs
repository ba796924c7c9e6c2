//! A full disk: nothing is acknowledged, nothing acknowledged is lost, reads go on, and work is taken up
//! by itself when there is space again.

use crate::harness::{A, Process, World, batch, pull_all};
use domain::kernel::Role;
use proto::device::v1 as pb;
use std::path::Path;
use std::process::Command;
use tonic_types::StatusExt as _;

struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // The scratch folder goes away; a mount on it must go first.
        drop(Command::new("umount").arg("-l").arg(self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_loses_nothing_and_recovers_by_itself() {
    let mut world = World::start().await;
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(A, Role::DutyOfficer, "desk").await;
    assert!(world.a.stop());
    let small = world.path("small");
    std::fs::create_dir(&small).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: cannot mount a small file system");
        return;
    }
    let mount = Mount(&small);
    let copied =
        Command::new("cp").arg("-a").arg(world.path("a")).arg(small.join("a")).status().unwrap();
    assert!(copied.success());
    let config = crate::harness::region_config(&small, "a", A, world.a.port, world.gateway.port);
    let mut region =
        Process::start("wuling-region", &config, world.a.port, &world.path("small.log"));

    let mut service = cli::client::device_service(phone.channel());
    let mut acked = 0;
    let refused = loop {
        let (request, records) = batch(&phone, 500);
        match service.push(request).await {
            Ok(answer) => {
                let applied = i32::from(pb::Outcome::Applied);
                assert!(answer.into_inner().results.iter().all(|result| result.outcome == applied));
                acked += records.len();
            }
            Err(status) => break status,
        }
        assert!(acked < 200_000, "the disk never fills");
    };
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "STORAGE_UNAVAILABLE");
    assert!(acked > 0);
    assert!(mount_more_room(&small), "the disk cannot be made larger");
    let (request, records) = batch(&phone, 500);
    let answer = service.push(request).await.expect("it did not recover").into_inner();
    assert_eq!(answer.results.len(), records.len());
    assert_eq!(pull_all(desk.channel()).await.len(), acked + records.len());
    region.kill();
    drop(mount);
}

fn mount_more_room(small: &Path) -> bool {
    Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(small)
        .status()
        .is_ok_and(|status| status.success())
}
