//! Goal: only certificates that are good now let anybody in, and they change under way without a call
//! lost. Method: real servers; certificates and lists are made as authorities make them.

use crate::doors::{Class, Door, Raw, SOON, in_time, linkage, read_authority};
use crate::explain::report;
use crate::harness::{A, ARRIVES, B, COUNTY, World, event, region, sos, until, views};
use domain::kernel::{Clock as _, Lane, Reason, Role, Timestamp};
use domain::operation::Change;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::exchange::v1 as exchange;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use proto::exchange::v1::link_request::Frame as Say;
use proto::exchange::v1::link_response::Frame as Told;
use runtime::clock::SystemClock;
use runtime::data_dir::{SHARED, write_atomic};
use runtime::identity::{Identity, Owner};
use runtime::pki::{IssuedKey, Validity, serial_of};
use runtime::tls::{ClientTls, Lists};
use seal::key::SigningKey;
use seal::signed::Hello;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// How soon a server notices what lies in its folder.
const NOTICED: Duration = Duration::from_secs(15);

fn days(from: i64, to: i64) -> Validity {
    let now = SystemClock.now();
    Validity { not_before: now.plus_days(from), not_after: now.plus_days(to) }
}

/// Puts a list of region A's authority where the gateway looks.
fn publish(door: &Door, bytes: &[u8]) {
    let path = Lists::path(&door.path("gateway/trust/crl"), &Owner::Region(region(A)));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_atomic(&path, bytes, SHARED).unwrap();
}

fn list(door: &Door, revoked: &[&IssuedKey], validity: Validity) -> Vec<u8> {
    let serials: Vec<_> = revoked.iter().map(|key| serial_of(&key.chain_der[0]).unwrap()).collect();
    door.authority(A).revocation_list(&serials, validity).unwrap().into_bytes()
}

#[tokio::test]
async fn only_a_good_certificate_lets_a_region_in() {
    let door = Door::open(Class::Peer, "").await;
    let week = days(-1, 7);
    let of_another = {
        let identity = Identity::Region(region(A));
        let authority = door.authority(COUNTY);
        authority.issue_server(&linkage(), &identity, &[], &[], week).unwrap()
    };
    let of_nobody = {
        let identity = Identity::Region("nowhere".parse().unwrap());
        door.authority(A).issue_server(&linkage(), &identity, &[], &[], week).unwrap()
    };
    let elsewhere = {
        let (linkage, identity) = ("elsewhere".parse().unwrap(), Identity::Region(region(A)));
        door.authority(A).issue_server(&linkage, &identity, &[], &[], week).unwrap()
    };
    for (what, key) in [
        ("expired", door.region_key(A, days(-8, -1))),
        ("not yet valid", door.region_key(A, days(1, 8))),
        ("another's authority", of_another),
        ("another's name", of_nobody),
        ("another linkage", elsewhere),
    ] {
        assert!(!door.lets_in(&door.client(Some(&key))).await, "{what}");
    }
    assert!(door.lets_in(&door.client(Some(&door.region_key(A, week)))).await, "a good one");
}

#[tokio::test]
async fn a_list_in_the_folder_closes_who_is_on_it_and_nobody_else() {
    let door = Door::open(Class::Peer, "").await;
    let (lost, kept) = (door.region_key(A, days(-1, 7)), door.region_key(A, days(-1, 8)));
    let (of_lost, of_kept) = (door.client(Some(&lost)), door.client(Some(&kept)));
    let mut open = door.enter(&of_lost).await.expect("let in");
    let mut other = door.enter(&of_kept).await.expect("let in");
    publish(&door, &list(&door, &[&lost], days(-1, 7)));
    tokio::time::timeout(NOTICED, open.ended()).await.expect("closed");
    assert!(in_time(other.seen()).await, "the other stays");
    assert!(!door.lets_in(&of_lost).await && door.lets_in(&of_kept).await);
    // Garbage, another's list and an older one leave it in force.
    let older = list(&door, &[], days(-2, 9));
    let another = door.authority(COUNTY).revocation_list(&[], days(0, 7)).unwrap();
    for bytes in [&b"garbage"[..], another.as_bytes(), &older] {
        let said = door.process.log_text().matches("revocation list not taken").count();
        publish(&door, bytes);
        until("it is refused", NOTICED, async || {
            door.process.log_text().matches("revocation list not taken").count() > said
        })
        .await;
        assert!(!door.lets_in(&of_lost).await && door.lets_in(&of_kept).await);
    }
    // A newer one counts.
    publish(&door, &list(&door, &[&kept], days(0, 7)));
    tokio::time::timeout(NOTICED, other.ended()).await.expect("closed");
    assert!(door.lets_in(&of_lost).await, "an authority may take a revocation back");
}

/// Opens a link for these lanes; gives those that were given credit, or why not. `ServerBusy`: the gateway hung
/// up, as it does on all of a region's connections when what the region may have has changed.
async fn link(door: &Door, tls: &ClientTls, lanes: &[Lane]) -> Result<Vec<i32>, Reason> {
    let (out, requests) = tokio::sync::mpsc::channel(8);
    let mut service = ExchangeServiceClient::new(door.channel(tls));
    let answer = in_time(service.link(ReceiverStream::new(requests))).await;
    let Ok(mut answers) = answer.map(tonic::Response::into_inner) else {
        return Err(Reason::ServerBusy);
    };
    let mut credited = Vec::new();
    let seed = std::fs::read(door.path("a/regions").join(A).join("signing.key")).unwrap();
    let key = SigningKey::from_seed(&seed.try_into().unwrap());
    loop {
        let Ok(answer) = in_time(answers.message()).await else { return Err(Reason::ServerBusy) };
        let answer = answer.expect("an answer");
        match answer.frame.unwrap() {
            Told::Challenge(challenge) => {
                let hello = Hello {
                    region: region(A),
                    nonce: challenge.nonce.as_ref().try_into().unwrap(),
                    gateway: "gateway-1".parse().unwrap(),
                    protocol: proto::link::LINK_PROTOCOL,
                    lanes: lanes.to_vec(),
                    applied: Vec::new(),
                    software: "test".to_owned(),
                    trust: Default::default(),
                    agreements: Vec::new(),
                    takes_proposals: false,
                };
                let frame = Some(Say::Hello(hello.sign(&key)));
                out.send(exchange::LinkRequest { frame }).await.unwrap();
            }
            Told::Credit(credit) => {
                credited.push(credit.lane);
                // What is granted is granted in one go; a ping's answer comes after it.
                let ping = Say::Ping(exchange::Ping { reply: false, token: 8 });
                out.send(exchange::LinkRequest { frame: Some(ping) }).await.unwrap();
            }
            Told::Refusal(refusal) => return Err(Reason::try_from(refusal.reason).unwrap()),
            Told::Ping(ping) if ping.reply && ping.token == 8 => return Ok(credited),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_region_whose_list_ran_out_has_health_and_alerts_alone() {
    let door = Door::open(Class::Peer, "").await;
    let (alert, routine) = (Lane::Alert.code(), Lane::Routine.code());
    let both = [Lane::Alert, Lane::Routine];
    // Fresh for as long as a busy machine takes to notice it, then not.
    let soon = Validity {
        not_before: SystemClock.now().plus_days(-1),
        not_after: SystemClock.now().plus_millis(20_000),
    };
    publish(&door, &list(&door, &[], soon));
    let tls = door.region_client(A);
    assert_eq!(link(&door, &tls, &both).await, Ok(vec![alert, routine]));
    let mut open = door.enter(&tls).await.expect("let in");
    let mut other = door.enter(&door.region_client(B)).await.expect("let in");
    let ran_out = async {
        // Whoever stays must answer signs of life meanwhile.
        let mut ended = Box::pin(open.ended());
        while tokio::time::timeout(Duration::from_secs(1), &mut ended).await.is_err() {
            assert!(
                in_time(other.seen()).await,
                "a region whose list is not known to be old stays"
            );
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ran_out).await.expect("it ran out");
    // It comes in again, and gets what harms nobody.
    assert_eq!(link(&door, &tls, &both).await, Ok(vec![alert]));
    assert_eq!(link(&door, &tls, &[Lane::Bulk]).await, Err(Reason::RoleForbidden));
    let fetch = |lane: i32| {
        let stream = exchange::StreamId {
            origin: A.to_owned(),
            epoch: crate::doors::uuid(),
            agreement_id: crate::doors::uuid(),
            agreement_version: 1,
            lane,
        };
        exchange::FetchRequest { stream: Some(stream), from_seq: 1, ..Default::default() }
    };
    let channel = door.channel(&tls);
    let mut service = ExchangeServiceClient::new(channel.clone());
    let mut reasons = Vec::new();
    for lane in [alert, routine] {
        let status = in_time(service.fetch(fetch(lane))).await.unwrap_err();
        reasons.push(crate::doors::reason(&status));
    }
    assert_eq!(reasons, ["NOT_A_PARTY", "ROLE_FORBIDDEN"]);
    let mut health = HealthClient::new(channel.clone());
    in_time(health.check(HealthCheckRequest::default())).await.unwrap();
    assert!(in_time(other.seen()).await, "a region whose list is not known to be old stays");
    // One who is on the old list is refused all the same.
    let lost = door.region_key(A, days(-1, 7));
    publish(
        &door,
        &list(&door, &[&lost], Validity { not_before: SystemClock.now(), ..days(0, 7) }),
    );
    until("the new list counts", NOTICED, async || {
        link(&door, &tls, &both).await == Ok(vec![alert, routine])
    })
    .await;
    assert!(!door.lets_in(&door.client(Some(&lost))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_goes_through_while_a_regions_list_is_old_and_the_rest_when_it_is_new() {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    let authority = read_authority(&world.path("a/regions").join(A));
    let publish = |until: Timestamp| {
        let validity = Validity { not_before: SystemClock.now().plus_days(-1), not_after: until };
        let text = authority.revocation_list(&[], validity).unwrap();
        let path = Lists::path(&world.path("gateway/trust/crl"), &Owner::Region(region(A)));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_atomic(&path, text.as_bytes(), SHARED).unwrap();
    };
    publish(SystemClock.now().plus_millis(3_000));
    until("the list ran out", Duration::from_secs(40), async || {
        world.gateway.log_text().contains("ran out or was renewed")
    })
    .await;
    report(&mut phone, Change::ReportEvent(event("落石"))).await;
    report(&mut phone, Change::RaiseSos(sos("摔伤"))).await;
    until("the call for help is there", ARRIVES, async || views(desk.channel()).await == 1).await;
    publish(SystemClock.now().plus_days(7));
    until("the event follows", ARRIVES, async || views(desk.channel()).await == 2).await;
    world.stop().await;
}

/// Clients that connect anew for each call while something happens; how many calls failed, and of how many.
async fn failures(door: &Arc<Door>, tls: Vec<ClientTls>, happens: impl Future) -> (usize, usize) {
    let (failed, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for tls in tls {
        let (door, failed, made) = (Arc::clone(door), Arc::clone(&failed), Arc::clone(&made));
        clients.spawn(async move {
            loop {
                let channel = door.channel(&tls);
                let answered = in_time(door.call(&channel)).await;
                made.fetch_add(1, Ordering::SeqCst);
                failed.fetch_add(usize::from(!answered), Ordering::SeqCst);
            }
        });
    }
    happens.await;
    clients.shutdown().await;
    (failed.load(Ordering::SeqCst), made.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_without_a_call_lost() {
    for class in [Class::Device, Class::Peer] {
        let door = Arc::new(Door::open(class, "connections_per_identity_max = 64").await);
        let mut tls = Vec::new();
        for _ in 0..3 {
            tls.push(door.somebody().await);
        }
        let shown = async || {
            in_time(Raw::silent(&door.nobody(), &door.endpoint()))
                .await
                .unwrap()
                .server_certificate()
        };
        let before = shown().await;
        let changes = async {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(3) {
                kill(Pid::from_raw(door.process.pid()), Signal::SIGHUP).unwrap();
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        };
        let (failed, made) = failures(&door, tls, changes).await;
        assert_ne!(shown().await, before, "{class:?}: nothing changed");
        assert!(made > 100, "{class:?}: {made} calls are no load");
        assert_eq!(failed, 0, "{class:?}: of {made}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_place_of_a_reload_would_be_seen() {
    let door = Door::open(Class::Peer, "connections_per_identity_max = 64").await;
    let tls = door.somebody().await;
    let channel = door.channel(&tls);
    assert!(in_time(door.call(&channel)).await);
    let mut door = door;
    door.process.stop().await;
    assert!(!tokio::time::timeout(SOON, door.call(&channel)).await.unwrap());
    door.process.restart().await;
}
