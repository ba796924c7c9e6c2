//! Goal: regions that have an agreement need no gateway to find out what the other has written. The only gateway is
//! lost for good, and both go on; and who is no party, is revoked or shows no certificate is given nothing. Method:
//! real processes whose addresses the directory lists; callers with certificates as authorities make them. The same
//! against hostile gateways: `doubles/second_path.rs`.

use crate::doors::{in_time, linkage, read_authority, reason};
use crate::explain::report;
use crate::harness::{A, ARRIVES, B, COUNTY, Process, World, event, region, states, until, views};
use cli::authority::Authority;
use cli::phone::Phone;
use domain::directory::Region;
use domain::freshness::Member;
use domain::kernel::{Clock as _, DeviceId, Reason, Role};
use domain::operation::Change;
use domain::stream::StreamId;
use proto::exchange::v1 as exchange;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use runtime::channel::{Limits, channel};
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::identity::Identity;
use runtime::pki::{IssuedKey, Validity};
use runtime::tls::{Anchor, ClientTls};
use seal::segment::Segment;
use seal::signed::Head;
use std::path::Path;
use std::time::Duration;
use tokio_stream::iter;
use tonic::transport::Channel;

/// A minute without a gateway, and a few questions.
const IN_PLACE: Duration = Duration::from_secs(120);
/// How soon a server takes up what lies in its folder.
const NOTICED: Duration = Duration::from_secs(15);

/// Has the directory list where regions are reached.
pub(crate) fn list(dir: &Path, ports: &[(&str, u16)]) {
    let now = SystemClock.now();
    let signer = Authority::open(&dir.join("authority"), now).unwrap();
    let directory = &signer.trust().directory;
    let listed = ports.iter().map(|(id, port)| Region {
        endpoint: format!("127.0.0.1:{port}"),
        ..directory.regions[&region(id)].clone()
    });
    let listed = listed.collect();
    signer.publish(listed, Vec::new(), now).unwrap();
    for data in ["gateway", "a", "b"] {
        cli::linkage::install_trust(&dir.join("authority"), &dir.join(data)).unwrap();
    }
}

/// Starts a region server again that asks its neighbours so often.
pub(crate) async fn asks(process: &mut Process, config: &Path, every_s: u64) {
    process.stop().await;
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{text}[exchange]\nsecond_path_every_s = {every_s}\n")).unwrap();
    process.restart().await;
}

/// Two regions that reported to one another before their only gateway was lost, and once after.
struct Cut {
    world: World,
    desk_a: Phone,
    desk_b: Phone,
}

impl Cut {
    async fn start(every_s: u64) -> Self {
        let mut world = World::start().await;
        let (config_a, config_b) = (world.path("a.toml"), world.path("b.toml"));
        list(&world.path(""), &[(A, world.a.port), (B, world.b.port)]);
        asks(&mut world.a, &config_a, every_s).await;
        asks(&mut world.b, &config_b, every_s).await;
        let mut phone_a = world.enrol(A, Role::Patroller, "phone").await;
        let mut phone_b = world.enrol(B, Role::Patroller, "phone").await;
        let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
        let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
        report(&mut phone_a, Change::ReportEvent(event("before"))).await;
        let mut cut = Self { world, desk_a, desk_b };
        until("it comes by the gateway", ARRIVES, async || cut.seen().await == (0, 1)).await;
        cut.world.gateway.kill();
        std::fs::remove_dir_all(cut.world.path("gateway")).unwrap();
        for text in ["after", "and again"] {
            report(&mut phone_a, Change::ReportEvent(event(text))).await;
            // Of these streams the other has never heard.
            report(&mut phone_b, Change::ReportEvent(event(text))).await;
        }
        cut
    }

    /// Views that the officers of A and of B were shown.
    async fn seen(&self) -> (usize, usize) {
        (views(self.desk_a.channel()).await, views(self.desk_b.channel()).await)
    }

    /// Whether each knows that the other has applied all.
    async fn signed_for(&self) -> bool {
        let mut all = true;
        for (desk, party) in [(&self.desk_a, B), (&self.desk_b, A)] {
            let state = states(desk.channel()).await.unwrap();
            let rows = state.streams.iter().filter(|row| row.party_region == party);
            all &=
                rows.clone().count() > 0 && rows.clone().all(|row| row.applied_seq == row.last_seq);
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_whose_only_gateway_is_lost_for_good_go_on_both_ways() {
    // The control: two others without a second path, over the same time.
    let (cut, alone) = tokio::join!(Cut::start(86_400), Cut::start(0));
    until("all comes by the second path", IN_PLACE, async || cut.seen().await == (2, 3)).await;
    until("both have signed for it", IN_PLACE, async || cut.signed_for().await).await;
    assert_eq!(alone.seen().await, (0, 1), "there is no other path");
    for process in [&cut.world.a, &cut.world.b] {
        let log = process.log_text();
        assert!(!log.contains("alarm"), "nothing is wrong with who is asked: {log}");
    }
}

/// What somebody shows who calls a region.
struct Caller<'a> {
    world: &'a World,
}

impl Caller<'_> {
    /// A client of the server that hosts `to`, with a certificate of `identity` by the authority of that region.
    fn client(&self, to: &str, by: Option<(&str, Identity)>) -> ExchangeServiceClient<Channel> {
        let data = |id: &str| self.world.path(if id == B { "b" } else { "a" });
        let now = SystemClock.now();
        let directory = cli::linkage::read_directory(&data(A), now).unwrap();
        let key = by.map(|(id, identity)| -> IssuedKey {
            let authority = read_authority(&data(id).join("regions").join(id));
            let week = Validity { not_before: now.plus_days(-1), not_after: now.plus_days(7) };
            authority.issue_server(&linkage(), &identity, &[], &[], week).unwrap()
        });
        let anchor = Anchor::Certificate(&directory.regions[&region(to)].authority_certificate);
        let server = Identity::Region(region(to));
        let tls = ClientTls::new(&linkage(), server, anchor, key.as_ref()).unwrap();
        let port = if to == B { self.world.b.port } else { self.world.a.port };
        let endpoint = format!("127.0.0.1:{port}");
        ExchangeServiceClient::new(channel(&endpoint, tls, Limits::PEER).unwrap())
    }

    /// The same with the region's own certificate.
    fn region(&self, to: &str, id: &str) -> ExchangeServiceClient<Channel> {
        self.client(to, Some((id, Identity::Region(region(id)))))
    }
}

fn heads_of(id: &str) -> exchange::FetchRequest {
    exchange::FetchRequest { origin_region: id.to_owned(), ..Default::default() }
}

fn range_of(stream: &StreamId) -> exchange::FetchRequest {
    let stream = Some(stream.into());
    exchange::FetchRequest { stream, from_seq: 1, ..Default::default() }
}

/// The reason why a request is refused; empty where the door is shut.
async fn refusal(
    client: &mut ExchangeServiceClient<Channel>,
    request: exchange::FetchRequest,
) -> String {
    reason(&in_time(client.fetch(request)).await.unwrap_err())
}

/// The streams that a region tells a party of.
async fn told(
    client: &mut ExchangeServiceClient<Channel>,
    world: &World,
    of: &str,
) -> Vec<StreamId> {
    let answer = in_time(client.fetch(heads_of(of))).await.unwrap().into_inner();
    let directory = cli::linkage::read_directory(&world.path("a"), SystemClock.now()).unwrap();
    let key = directory.regions[&region(of)].signing_key;
    assert!(answer.segments.is_empty() && answer.last.is_none());
    answer.heads.iter().map(|head| Head::verify(head, &key).unwrap().stream).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_gives_its_streams_to_their_parties_and_nobody_else() {
    let world = World::start().await;
    let caller = Caller { world: &world };
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk = world.enrol(B, Role::DutyOfficer, "desk").await;
    report(&mut phone, Change::ReportEvent(event("for B"))).await;
    report(&mut phone, Change::RaiseSos(crate::harness::sos("for both"))).await;
    until("it arrives", ARRIVES, async || views(desk.channel()).await == 2).await;

    let mut b = caller.region(A, B);
    let for_b = told(&mut b, &world, A).await;
    assert_eq!(for_b.len(), 2, "alerts and routine: {for_b:?}");
    let mut county = caller.region(A, COUNTY);
    let for_county = told(&mut county, &world, A).await;
    assert!(!for_county.is_empty() && for_county.iter().all(|stream| !for_b.contains(stream)));
    for stream in &for_b {
        let answer = in_time(b.fetch(range_of(stream))).await.unwrap().into_inner();
        let segments = answer.segments.into_iter().map(|bytes| Segment::parse(bytes).unwrap());
        let ends: Vec<_> = segments.map(|segment| (segment.first_seq(), segment.after())).collect();
        let last = <(StreamId, _)>::try_from(answer.last.unwrap()).unwrap();
        assert_eq!((ends[0].0, &last.0), (1, stream));
        assert_eq!(ends.last().unwrap().1, last.1, "all of it comes");
        assert_eq!(answer.heads.len(), 1);
        assert_eq!(refusal(&mut county, range_of(stream)).await, Reason::NotAParty.name());
    }
    let of_county = StreamId { origin: region(COUNTY), ..for_county[0].clone() };
    assert_eq!(refusal(&mut b, range_of(&of_county)).await, Reason::NotAParty.name());
    assert_eq!(refusal(&mut b, range_of(&for_county[0])).await, Reason::NotAParty.name());
    assert_eq!(refusal(&mut b, heads_of("nobody")).await, Reason::RegionUnknown.name());
    assert_eq!(refusal(&mut b, heads_of("")).await, Reason::FieldInvalid.name());
    let forged =
        exchange::FetchRequest { receipt: Some(Default::default()), ..range_of(&for_b[0]) };
    assert_eq!(refusal(&mut b, forged).await, Reason::RegionUnknown.name());
    let link = in_time(b.link(iter([exchange::LinkRequest::default()]))).await.unwrap_err();
    assert_eq!(reason(&link), Reason::NotAGateway.name());
    let refresh = in_time(b.refresh(exchange::RefreshRequest::default())).await.unwrap_err();
    assert_eq!(reason(&refresh), Reason::NotAGateway.name());

    let mut nobody = caller.client(A, None);
    assert_eq!(refusal(&mut nobody, heads_of(A)).await, Reason::CertificateRequired.name());
    // A neighbour's phone, one who has another's name, and who has agreed nothing with it: shut out.
    let device = DeviceId::mint(SystemClock.now(), &SystemEntropy);
    let device = Identity::Device(region(B), device);
    let shut_out = [
        caller.client(A, Some((B, device))),
        caller.client(A, Some((COUNTY, Identity::Region(region(B))))),
        caller.region(B, COUNTY),
    ];
    for mut client in shut_out {
        assert_eq!(refusal(&mut client, heads_of(A)).await, "");
    }

    // The control above: it was given all that. Revoked, it is shut out, on the connection that it has, too.
    let signer = Authority::open(&world.path("authority"), SystemClock.now()).unwrap();
    signer.revoke(Member::Region(region(B)), SystemClock.now()).unwrap();
    cli::linkage::install_trust(&world.path("authority"), &world.path("a")).unwrap();
    until("it is given nothing", NOTICED, async || b.fetch(heads_of(A)).await.is_err()).await;
    until("it is shut out", NOTICED, async || {
        b.fetch(heads_of(A)).await.is_err_and(|status| reason(&status).is_empty())
    })
    .await;
    assert_eq!(refusal(&mut caller.region(A, B), heads_of(A)).await, "");
    assert!(!told(&mut county, &world, A).await.is_empty(), "the others are served");
}
