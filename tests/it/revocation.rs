//! Goal: a device that was revoked is out within seconds, with everything it had open, and comes in by no
//! other way. Method: real server; the administrator revokes beside it.

use crate::doors::{Class, Device, Door, in_time, own, reason};
use crate::harness::A;
use domain::kernel::{Purpose, Role};
use proto::device::v1 as pb;
use runtime::identity::{Identity, Owner};
use runtime::pki::{RevocationList, serial_of};
use runtime::tls::Lists;
use std::time::Duration;
use tokio_stream::StreamExt as _;
use tonic::Code;

/// How soon a server notices; five minutes are promised.
const NOTICED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_revoked_device_loses_its_streams_at_once_and_comes_in_by_no_way() {
    let door = Door::open(Class::Device, "stream_keepalive_ms = 500").await;
    let lost = Device::enrol(&door, Role::DutyOfficer).await;
    let kept = Device::enrol(&door, Role::DutyOfficer).await;
    let (mut watch, mut other) = (lost.watch().await.unwrap(), kept.watch().await.unwrap());
    let request = pb::WatchRequest { purpose: Purpose::Duty.code(), ..Default::default() };
    let request = pb::SyncRequest { request: Some(pb::sync_request::Request::Watch(request)) };
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let mut sync = in_time(lost.service().sync(requests)).await.unwrap().into_inner();
    // The control: for as long as it takes to be noticed, both go on.
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    while tokio::time::Instant::now() < until {
        assert!(in_time(watch.message()).await.unwrap().is_some());
        assert!(in_time(sync.message()).await.unwrap().is_some());
    }
    let batch = lost.batch(1, "落石");
    door.revoke(lost.id);
    let out = async {
        while watch.message().await.is_ok_and(|message| message.is_some()) {}
        while sync.message().await.is_ok_and(|message| message.is_some()) {}
    };
    tokio::time::timeout(NOTICED, out).await.expect("both streams end");
    assert!(in_time(other.message()).await.unwrap().is_some(), "the other goes on");
    // Not by its certificate, not without it, not by its old channel.
    assert!(!door.lets_in(&lost.tls).await);
    in_time(door.call(&lost.channel)).await.then(|| panic!("it reads"));
    let nobody = door.channel(&door.nobody());
    let mut service = pb::device_service_client::DeviceServiceClient::new(nobody);
    let status = in_time(service.push(batch)).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::PermissionDenied, "DEVICE_REVOKED"));
    assert!(in_time(door.call(&kept.channel)).await);
    assert!(door.lets_in(&kept.tls).await);
}

#[tokio::test]
async fn a_region_signs_the_list_of_its_devices_and_keeps_it_through_a_restart() {
    let mut door = Door::open(Class::Device, "").await;
    let lost = Device::enrol(&door, Role::Patroller).await;
    let path = Lists::path(&door.path("a/trust/crl"), &Owner::Region(own()));
    let authority = door.authority(A);
    let revoked = || {
        let text = std::fs::read(&path).unwrap();
        let list = RevocationList::read(authority.certificate_der(), &text).unwrap();
        list.revokes(&serial_of(&lost.certificate).unwrap())
    };
    assert!(!revoked());
    door.revoke(lost.id);
    crate::harness::until("it is on the list", NOTICED, async || revoked()).await;
    door.process.kill();
    door.process.restart().await;
    assert!(revoked());
    assert!(!door.lets_in(&lost.tls).await);
    let fresh = Device::enrol(&door, Role::Patroller).await;
    assert!(door.lets_in(&fresh.tls).await);
    let named = Identity::Device(own(), lost.id);
    assert_ne!(named, Identity::Device(own(), fresh.id));
}
