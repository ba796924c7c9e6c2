//! Goal: each limit of a port holds at its value, as the configuration says it. Method: a real server
//! with one small limit; up to it everything passes, one more is refused in the way that is promised.

use crate::doors::frames::{self, ENHANCE_YOUR_CALM, REFUSED_STREAM};
use crate::doors::{Class, Device, Door, Raw, SOON, in_time, reason};
use domain::kernel::{Purpose, Role};
use proto::device::v1 as pb;
use proto::device::v1::device_service_client::DeviceServiceClient;
use proto::risk::v1 as risk;
use proto::risk::v1::risk_service_client::RiskServiceClient;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const BOTH: [Class; 2] = [Class::Device, Class::Peer];
/// Methods that take one message and answer once.
const PUSH: &str = "wuling.device.v1.DeviceService/Push";
const FETCH: &str = "wuling.exchange.v1.ExchangeService/Fetch";

fn unary(class: Class) -> &'static str {
    if class == Class::Device { PUSH } else { FETCH }
}

/// Whether a connection ends within a moment; one that should stay is looked at for that long.
async fn ends(tcp: &mut TcpStream, within: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(within, tcp.read_to_end(&mut rest)).await.is_ok()
}

/// How long it is looked whether something stays.
const MOMENT: Duration = Duration::from_millis(300);

async fn silent(door: &Door) -> TcpStream {
    TcpStream::connect(door.endpoint()).await.unwrap()
}

#[tokio::test]
async fn a_handshake_has_its_time_and_no_more() {
    for class in BOTH {
        let door = Door::open(class, "handshake_timeout_ms = 800").await;
        let began = Instant::now();
        let mut tcp = silent(&door).await;
        assert!(!ends(&mut tcp, MOMENT).await, "{class:?}: there is time left");
        assert!(ends(&mut tcp, SOON).await, "{class:?}");
        assert!(began.elapsed() >= Duration::from_millis(800), "{class:?}");
        // The time of the first bytes after it is limited too; who speaks stays.
        let mut mute = in_time(Raw::silent(&door.nobody(), &door.endpoint())).await.unwrap();
        let mut honest = door.enter(&door.nobody()).await.expect("let in");
        assert_eq!(in_time(mute.ended()).await, None, "{class:?}");
        assert!(in_time(honest.seen()).await, "{class:?}");
    }
}

#[tokio::test]
async fn one_handshake_too_many_pushes_out_the_oldest() {
    for class in BOTH {
        let door = Door::open(class, "handshakes_pending_max = 4").await;
        let mut pending = Vec::new();
        for _ in 0..4 {
            pending.push(silent(&door).await);
        }
        assert!(!ends(&mut pending[0], MOMENT).await, "{class:?}: four may");
        pending.push(silent(&door).await);
        assert!(ends(&mut pending[0], SOON).await, "{class:?}: five may not");
        for tcp in &mut pending[1..] {
            assert!(!ends(tcp, Duration::from_millis(50)).await, "{class:?}: the others stay");
        }
    }
}

#[tokio::test]
async fn one_handshake_too_many_of_an_address_is_refused() {
    for class in BOTH {
        let door = Door::open(class, "handshakes_per_ip_max = 2").await;
        // Whoever looked whether the server had started is gone once somebody else was let in.
        drop(door.enter(&door.nobody()).await.expect("let in"));
        let (mut first, mut second) = (silent(&door).await, silent(&door).await);
        assert!(!ends(&mut first, MOMENT).await && !ends(&mut second, MOMENT).await, "{class:?}");
        assert!(ends(&mut silent(&door).await, SOON).await, "{class:?}: three may not");
        drop(first);
        let room_again = async { while door.enter(&door.nobody()).await.is_none() {} };
        in_time(room_again).await;
    }
}

#[tokio::test]
async fn one_connection_too_many_is_refused() {
    for class in BOTH {
        let door = Door::open(class, "connections_max = 3").await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(door.enter(&door.nobody()).await.expect("there is room"));
        }
        assert!(door.enter(&door.nobody()).await.is_none(), "{class:?}: four may not");
        for raw in &mut held {
            assert!(in_time(raw.seen()).await, "{class:?}: the others stay");
        }
        drop(held.pop());
        let again = async { while door.enter(&door.nobody()).await.is_none() {} };
        in_time(again).await;
    }
}

#[tokio::test]
async fn one_connection_too_many_of_an_identity_closes_the_oldest() {
    for class in BOTH {
        let door = Door::open(class, "connections_per_identity_max = 2").await;
        let own = door.somebody().await;
        let mut first = door.enter(&own).await.expect("let in");
        let mut second = door.enter(&own).await.expect("let in");
        assert!(in_time(first.seen()).await, "{class:?}: two may");
        let mut third = door.enter(&own).await.expect("the newest wins");
        in_time(first.ended()).await;
        assert!(in_time(second.seen()).await && in_time(third.seen()).await, "{class:?}");
    }
}

#[tokio::test]
async fn one_call_too_many_of_a_connection_is_refused_by_http2() {
    for class in BOTH {
        let door = Door::open(class, "streams_per_connection_max = 3").await;
        let mut raw = door.enter(&door.nobody()).await.expect("let in");
        for stream in [1, 3, 5] {
            raw.send(&frames::call(stream, unary(class))).await.unwrap();
        }
        assert!(in_time(raw.seen()).await, "{class:?}: three may");
        raw.send(&frames::call(7, unary(class))).await.unwrap();
        let reset = in_time(raw.wait(|frame| frame.kind == frames::RST_STREAM)).await;
        let reset = reset.expect("refused");
        assert_eq!((reset.stream, reset.code()), (7, REFUSED_STREAM), "{class:?}");
        // A call that was given up no longer counts.
        raw.send(&frames::frame(frames::RST_STREAM, 0, 1, &frames::CANCEL.to_be_bytes()))
            .await
            .unwrap();
        assert!(in_time(raw.seen()).await);
        raw.send(&frames::call(9, unary(class))).await.unwrap();
        assert!(in_time(raw.seen()).await, "{class:?}: there is room again");
    }
}

/// A call whose request never comes to its end.
async fn endless(channel: Channel, method: &'static str) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
    let codec = tonic_prost::ProstCodec::<pb::PushRequest, pb::PushResponse>::default();
    let never = Request::new(tokio_stream::pending());
    client.client_streaming(never, path, codec).await.map(drop).unwrap_err()
}

fn path(class: Class) -> &'static str {
    match class {
        Class::Device => "/wuling.device.v1.DeviceService/Push",
        Class::Peer => "/wuling.exchange.v1.ExchangeService/Fetch",
    }
}

#[tokio::test]
async fn one_call_too_many_that_waits_for_its_answer_is_refused() {
    for class in BOTH {
        let door = Door::open(class, "calls_per_connection_max = 2").await;
        let tls = door.somebody().await;
        let channel = door.channel(&tls);
        assert!(in_time(door.call(&channel)).await);
        // On a connection of its own: the server may learn late that it was given up.
        let one = endless(door.channel(&tls), path(class));
        assert!(tokio::time::timeout(MOMENT, one).await.is_err(), "it waits");
        let (one, two) =
            (endless(channel.clone(), path(class)), endless(channel.clone(), path(class)));
        let third = async {
            tokio::time::sleep(MOMENT).await;
            endless(channel.clone(), path(class)).await
        };
        tokio::select! {
            biased;
            status = one => panic!("{class:?}: the first was refused: {status}"),
            status = two => panic!("{class:?}: the second was refused: {status}"),
            status = third => assert_eq!(status.code(), Code::ResourceExhausted, "{class:?}"),
            () = tokio::time::sleep(SOON) => panic!("{class:?}: the third was not refused"),
        }
        let room_again = async { while !door.call(&channel).await {} };
        in_time(room_again).await;
    }
}

#[tokio::test]
async fn a_call_has_its_time_and_no_more() {
    for class in BOTH {
        let door = Door::open(class, "call_timeout_ms = 700").await;
        let channel = door.channel(&door.somebody().await);
        let began = Instant::now();
        let status = in_time(endless(channel.clone(), path(class))).await;
        assert_eq!(status.code(), Code::Cancelled, "{class:?}: {status}");
        assert!(status.message().contains("Timeout"), "{class:?}: {status}");
        assert!(began.elapsed() >= Duration::from_millis(700), "{class:?}");
        assert!(in_time(door.call(&channel)).await, "{class:?}: the connection goes on");
    }
}

#[tokio::test]
async fn a_silent_watch_has_a_sign_of_life_each_time() {
    let door = Door::open(Class::Device, "stream_keepalive_ms = 400").await;
    let device = Device::enrol(&door, Role::DutyOfficer).await;
    let mut watch = device.watch().await.unwrap();
    for _ in 0..2 {
        let began = Instant::now();
        let sign = in_time(watch.next()).await.unwrap().unwrap();
        assert!(sign.changes.is_empty() && sign.cursor.is_some());
        assert!(began.elapsed() >= Duration::from_millis(200), "it is no flood");
    }
    let limits = "stream_keepalive_ms = 400\nping_timeout_ms = 300";
    for class in BOTH {
        // Below the calls, HTTP/2 asks too, and one who does not answer is gone.
        let door = Door::open(class, limits).await;
        let mut dead = in_time(Raw::silent(&door.nobody(), &door.endpoint())).await.unwrap();
        let mut honest = door.enter(&door.nobody()).await.unwrap();
        dead.begin().await.unwrap();
        tokio::select! {
            // Polled, so that it answers.
            _ = honest.ended() => panic!("{class:?}: it answers"),
            ended = dead.gone() => assert!(ended, "{class:?}"),
            () = tokio::time::sleep(SOON) => panic!("{class:?}: a dead peer stays"),
        }
    }
}

#[tokio::test]
async fn a_phone_that_says_nothing_on_a_stream_is_left() {
    let limits = "stream_keepalive_ms = 200\nstream_idle_ms = 900";
    let door = Door::open(Class::Device, limits).await;
    let device = Device::enrol(&door, Role::DutyOfficer).await;
    let began = Instant::now();
    let mut answers = in_time(device.service().sync(tokio_stream::pending())).await.unwrap();
    assert!(in_time(answers.get_mut().message()).await.unwrap().is_none(), "it ends well");
    assert!(began.elapsed() >= Duration::from_millis(900));
    // One that watches is spoken to, and stays.
    let watch = pb::WatchRequest { purpose: Purpose::Duty.code(), ..Default::default() };
    let watch = pb::SyncRequest { request: Some(pb::sync_request::Request::Watch(watch)) };
    let requests = tokio_stream::once(watch).chain(tokio_stream::pending());
    let mut answers = in_time(device.service().sync(requests)).await.unwrap().into_inner();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_800) {
        assert!(in_time(answers.message()).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_connection_is_asked_to_end_at_its_age_and_ends_a_while_later() {
    let limits = "connection_age_ms = 700\nconnection_grace_ms = 500";
    for class in BOTH {
        let door = Door::open(class, limits).await;
        let began = Instant::now();
        let mut raw = door.enter(&door.nobody()).await.expect("let in");
        // A call that never ends holds it.
        raw.send(&frames::call(1, unary(class))).await.unwrap();
        let farewell = in_time(raw.wait(|frame| frame.kind == frames::GO_AWAY)).await.unwrap();
        assert_eq!(farewell.code(), 0, "{class:?}: no fault of the peer");
        assert!(began.elapsed() >= Duration::from_millis(700), "{class:?}");
        in_time(raw.ended()).await;
        assert!(began.elapsed() >= Duration::from_millis(1_200), "{class:?}");
        // Whoever calls meanwhile, and again where a call met the end of its connection, does not notice.
        let channel = door.channel(&door.somebody().await);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2_000) {
            let answered = in_time(door.call(&channel)).await || in_time(door.call(&channel)).await;
            assert!(answered, "{class:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A question of exactly so many bytes, which is refused for what it says.
fn events(bytes: usize) -> risk::ListEventsRequest {
    let mut request =
        risk::ListEventsRequest { purpose: Purpose::Duty.code(), ..Default::default() };
    let empty = prost::Message::encoded_len(&request);
    for overhead in 2..=5 {
        request.page_token = "x".repeat(bytes - empty - overhead);
        if prost::Message::encoded_len(&request) == bytes {
            return request;
        }
    }
    panic!("no question has {bytes} bytes");
}

#[tokio::test]
async fn a_message_may_be_as_large_as_its_limit() {
    for (limits, max) in [("", 262_144), ("message_bytes_max = 4096", 4_096)] {
        let door = Door::open(Class::Device, limits).await;
        let device = Device::enrol(&door, Role::DutyOfficer).await;
        let mut risk = RiskServiceClient::new(device.channel.clone());
        let status = in_time(risk.list_events(events(max))).await.unwrap_err();
        assert_eq!(reason(&status), "PAGE_TOKEN_INVALID");
        let status = in_time(risk.list_events(events(max + 1))).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        // The same in a service that also takes batches, which are larger.
        let pull =
            |kinds| pb::PullRequest { purpose: Purpose::Duty.code(), kinds, ..Default::default() };
        let beside = prost::Message::encoded_len(&pull(vec![1; max - 100])) - (max - 100);
        let kinds = max - beside;
        assert_eq!(prost::Message::encoded_len(&pull(vec![1; kinds])), max);
        device.pull(pull(vec![1; kinds])).await.unwrap();
        let status = device.pull(pull(vec![1; kinds + 1])).await.unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "LIMIT_EXCEEDED"));
    }
}

#[tokio::test]
async fn a_region_s_message_may_be_as_large_as_its_limit() {
    use proto::exchange::v1 as exchange;
    use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
    for (limits, max) in [("", 1_048_576), ("message_bytes_max = 4096", 4_096)] {
        let door = Door::open(Class::Peer, limits).await;
        let channel = door.channel(&door.somebody().await);
        let mut service = ExchangeServiceClient::new(channel);
        let fetch = |bytes: usize| {
            let stream = exchange::StreamId { origin: "x".repeat(bytes), ..Default::default() };
            exchange::FetchRequest { stream: Some(stream), from_seq: 1, ..Default::default() }
        };
        let beside = prost::Message::encoded_len(&fetch(max - 100)) - (max - 100);
        let status = in_time(service.fetch(fetch(max - beside))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let status = in_time(service.fetch(fetch(max - beside + 1))).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    }
}

#[tokio::test]
async fn a_batch_may_be_as_large_as_its_limit() {
    for (limits, max) in [("", 1_048_576), ("batch_bytes_max = 8192", 8_192)] {
        let door = Door::open(Class::Device, limits).await;
        let device = Device::enrol(&door, Role::Patroller).await;
        let padded = |bytes: usize| {
            let report = |unit: usize| {
                let author_unit = "x".repeat(unit);
                device.unsigned(vec![pb::Operation { author_unit, ..device.report(1, "落石") }])
            };
            let beside = prost::Message::encoded_len(&report(bytes - 1_000)) - (bytes - 1_000);
            // Ids and times differ in no length; what is left is the unit, which is far too long.
            let batch = report(bytes - beside);
            assert_eq!(prost::Message::encoded_len(&batch), bytes);
            device.sign(&batch)
        };
        let answer = device.push(padded(max)).await.unwrap();
        assert_eq!(answer.results[0].outcome(), pb::Outcome::Rejected);
        let status = device.push(padded(max + 1)).await.unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "LIMIT_EXCEEDED"));
        // Far beyond it, nobody reads it at all.
        let status = device.push(padded(max + 300_000)).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    }
}

#[tokio::test]
async fn an_answer_may_be_as_large_as_its_limit() {
    let max = 4_096;
    let door = Door::open(Class::Device, &format!("answer_bytes_max = {max}")).await;
    let device = Device::enrol(&door, Role::DutyOfficer).await;
    device.push(device.batch(12, &"落石".repeat(100))).await.unwrap();
    let mut refused = 0;
    for page_size in (1..=12_u32).rev() {
        let purpose = Purpose::Duty.code();
        let page = pb::PullRequest { page_size, purpose, ..Default::default() };
        match device.pull(page).await {
            Ok(answer) => {
                assert!(prost::Message::encoded_len(&answer) <= max);
                assert!(refused > 0, "the largest page fits in {max}");
                return;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::OutOfRange, "{status}");
                refused += 1;
            }
        }
    }
    panic!("no page fits in {max}");
}

#[tokio::test]
async fn headers_may_be_as_large_as_their_limit() {
    for class in BOTH {
        let door = Door::open(class, "headers_bytes_max = 2048").await;
        let method = unary(class);
        for (bytes, passes) in [(2_048, true), (2_049, false)] {
            let mut raw = door.enter(&door.nobody()).await.expect("let in");
            let beside = frames::header_list_size(method, &[("x-pad", "")]);
            let pad = "x".repeat(bytes - beside);
            let block = frames::headers(method, &[("x-pad", &pad)]);
            let flags = frames::END_HEADERS | frames::END_STREAM;
            raw.send(&frames::frame(frames::HEADERS, flags, 1, &block)).await.unwrap();
            let answer =
                raw.wait(|frame| [frames::HEADERS, frames::RST_STREAM].contains(&frame.kind));
            let answer = in_time(answer).await.expect("answered");
            // 431 is no entry of the table of headers, 200 is the ninth.
            let ok = answer.kind == frames::HEADERS && answer.payload.first() == Some(&0x88);
            assert_eq!(ok, passes, "{class:?} {bytes}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn one_call_too_many_given_up_unseen_ends_the_connection() {
    for class in BOTH {
        let door = Door::open(class, "resets_pending_max = 5").await;
        for (resets, stays) in [(5, true), (6, false)] {
            let mut raw = door.enter(&door.nobody()).await.expect("let in");
            raw.send(&burst(1, resets, unary(class))).await.unwrap();
            if stays {
                assert!(in_time(raw.seen()).await, "{class:?}: {resets} may");
            } else {
                assert_eq!(in_time(raw.ended()).await, Some(ENHANCE_YOUR_CALM), "{class:?}");
            }
        }
    }
}

/// Calls that are opened and given up in one breath.
fn burst(first: u32, count: u32, method: &str) -> Vec<u8> {
    let streams = (0..count).map(|at| first + 2 * at);
    let pair = |stream| {
        let reset = frames::frame(frames::RST_STREAM, 0, stream, &frames::CANCEL.to_be_bytes());
        [frames::call(stream, method), reset].concat()
    };
    streams.flat_map(pair).collect()
}

#[tokio::test]
async fn one_broken_call_too_many_ends_the_connection() {
    for class in BOTH {
        let door = Door::open(class, "resets_local_max = 5").await;
        for (broken, stays) in [(5, true), (6, false)] {
            let mut raw = door.enter(&door.nobody()).await.expect("let in");
            for at in 0..broken {
                let stream = 1 + 2 * at;
                // A window cannot hold that much more.
                let over = 0x7fff_ffff_u32.to_be_bytes();
                let update = frames::frame(frames::WINDOW_UPDATE, 0, stream, &over);
                let both = [frames::call(stream, unary(class)), update].concat();
                if raw.send(&both).await.is_err() {
                    break;
                }
            }
            if stays {
                assert!(in_time(raw.seen()).await, "{class:?}: {broken} may");
            } else {
                assert_eq!(in_time(raw.ended()).await, Some(ENHANCE_YOUR_CALM), "{class:?}");
            }
        }
    }
}

#[tokio::test]
async fn one_call_too_many_given_up_in_a_minute_ends_the_connection() {
    for class in BOTH {
        let door = Door::open(class, "resets_per_minute_max = 5").await;
        let mut raw = door.enter(&door.nobody()).await.expect("let in");
        for at in 0..6 {
            let stream = 1 + 2 * at;
            raw.send(&frames::call(stream, unary(class))).await.unwrap();
            // Seen first: these are not pending.
            assert!(in_time(raw.seen()).await, "{class:?}: {at} may");
            let reset = frames::frame(frames::RST_STREAM, 0, stream, &frames::CANCEL.to_be_bytes());
            raw.send(&reset).await.unwrap();
        }
        in_time(raw.ended()).await;
    }
}

#[tokio::test]
async fn calls_that_are_answered_are_not_given_up() {
    let door = Door::open(Class::Device, "resets_per_minute_max = 1").await;
    let device = Device::enrol(&door, Role::DutyOfficer).await;
    for _ in 0..20 {
        assert!(in_time(door.call(&device.channel)).await);
        // Refusals are answers too.
        let status = device.push(pb::PushRequest::default()).await.unwrap_err();
        assert_eq!(reason(&status), "FIELD_INVALID");
    }
    let watch = device.watch().await.unwrap();
    assert!(in_time(door.call(&device.channel)).await);
    drop(watch);
    assert!(in_time(door.call(&device.channel)).await, "one stream may be given up");
}

#[tokio::test]
async fn windows_are_as_wide_as_their_limits() {
    for class in BOTH {
        let limits = "stream_window_bytes = 70000\nconnection_window_bytes = 200000";
        let door = Door::open(class, limits).await;
        let mut raw = in_time(Raw::open(&door.nobody(), &door.endpoint())).await.unwrap();
        let settings = in_time(raw.next()).await.unwrap();
        assert_eq!(settings.kind, frames::SETTINGS);
        let said = settings.payload.chunks(6).find(|one| one[..2] == [0, 4]).unwrap();
        assert_eq!(said[2..], 70_000_u32.to_be_bytes(), "{class:?}");
        let update =
            |frame: &frames::Frame| frame.kind == frames::WINDOW_UPDATE && frame.stream == 0;
        let update = in_time(raw.wait(update)).await.unwrap();
        assert_eq!(update.payload, (200_000_u32 - 65_535).to_be_bytes(), "{class:?}");
    }
}

#[tokio::test]
async fn a_region_may_not_compress_and_a_phone_may() {
    use proto::exchange::v1 as exchange;
    use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
    use tonic::codec::CompressionEncoding::{Gzip, Zstd};
    let door = Door::open(Class::Device, "").await;
    let device = Device::enrol(&door, Role::DutyOfficer).await;
    for encoding in [Gzip, Zstd] {
        let client = DeviceServiceClient::new(device.channel.clone());
        let mut client = client.send_compressed(encoding).accept_compressed(Gzip);
        in_time(client.push(device.batch(3, "落石"))).await.unwrap();
    }
    let door = Door::open(Class::Peer, "").await;
    let channel = door.channel(&door.somebody().await);
    for encoding in [Gzip, Zstd] {
        let mut client = ExchangeServiceClient::new(channel.clone()).send_compressed(encoding);
        let status = in_time(client.fetch(exchange::FetchRequest::default())).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
    }
}

#[tokio::test]
async fn a_server_starts_only_where_it_may_open_files() {
    use std::process::{Command, Stdio};
    let door = Door::open(Class::Peer, "").await;
    let config = door.dir.path().join("gateway.toml");
    let start = |files: u32| {
        let program = crate::harness::binary("wuling-gateway");
        let line =
            format!("ulimit -n {files}; exec {} --config {}", program.display(), config.display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::null());
        shell
    };
    let refused = start(256).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.trim().lines().count() == 1 && said.contains("256 open files are allowed"),
        "{said}"
    );
    // One more is enough for one connection; then it is the folder, in use, that it stumbles over.
    let said = start(257).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("raise RLIMIT_NOFILE") && !said.contains("are needed"), "{said}");
}

#[tokio::test]
async fn a_server_that_may_open_no_more_files_pauses_and_goes_on() {
    for class in BOTH {
        let door = Door::open(class, "").await;
        let tls = door.somebody().await;
        let honest = door.channel(&tls);
        assert!(in_time(door.call(&honest)).await);
        let files = door.files();
        let pid = door.process.pid().to_string();
        let allow = |files: usize| {
            let mut command = std::process::Command::new("prlimit");
            command.args(["--pid", &pid, &format!("--nofile={files}:20000")]).status()
        };
        assert!(allow(files + 8).unwrap().success());
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(self::silent(&door).await);
        }
        let full = async {
            while door.files() < files + 7 {
                tokio::task::yield_now().await
            }
        };
        in_time(full).await;
        // Who is in is served, and the server does not spin.
        let before = door.cpu_ticks();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(door.cpu_ticks() - before < 20, "{class:?}: it spins");
        assert!(in_time(door.call(&honest)).await, "{class:?}");
        drop(silent);
        assert!(door.enter(&door.nobody()).await.is_some(), "{class:?}: there is room again");
        assert!(allow(20_000).unwrap().success());
        let log = door.process.log_text();
        assert!(log.contains("no room for a connection"), "{class:?}: {log}");
    }
}
