//! Goal (P10): a region that is away for long fills nobody's disk: the gateway holds no more for it than its limit, lets
//! the oldest go, and asks the origin for it when the region is back; nothing is lost, doubled or out of order. Method:
//! real processes, texts that cannot be packed, a limit far below what waits. Control: the same with the limit as it is.

use crate::harness::{A, ARRIVES, B, World, converged, event, gateway_config, until, views};
use cli::phone::Phone;
use device::Draft;
use domain::kernel::{Clock as _, Entropy as _, Role};
use domain::operation::Change;
use runtime::clock::{SystemClock, SystemEntropy};
use rusqlite::Connection;
use std::time::Duration;

const BYTES_MAX: u64 = 131_072;
const RECORDS: usize = 1_200;
/// Characters of a text; each is worth more than a byte, however it is packed.
const CHARACTERS: usize = 300;
/// The gateway looks each 15 s.
const LOOKED: Duration = Duration::from_secs(40);

/// Chinese characters that say nothing.
fn drawn() -> String {
    let mut bytes = vec![0; 2 * CHARACTERS];
    SystemEntropy.fill(&mut bytes);
    let draw = |pair: &[u8]| {
        let number = pair.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        char::from_u32(0x4e00 + number % 0x5000).unwrap()
    };
    bytes.chunks(2).map(draw).collect()
}

async fn report(phone: &mut Phone, count: usize) {
    for _ in 0..count {
        let draft = Draft::making(Change::ReportEvent(event(&drawn())), SystemClock.now());
        phone.device.record(draft).unwrap();
    }
    let synced = phone.sync().await.unwrap();
    assert_eq!(synced.sent.applied, count as u64);
}

/// Bytes of segments at the gateway.
fn held(world: &World) -> u64 {
    let conn = Connection::open(world.path("gateway/gateway.sqlite")).unwrap();
    let sum = "SELECT coalesce(sum(length(encoded)), 0) FROM segment";
    conn.query_row(sum, [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}

/// A neighbour goes, the township reports, and the gateway has it.
async fn away(limits: &str) -> (World, Phone, Phone, Phone) {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    world.gateway.stop().await;
    let config = gateway_config(&world.path(""), world.gateway.port);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + limits).unwrap();
    world.gateway.restart().await;
    report(&mut phone, 3).await;
    until("the first arrive", ARRIVES, async || views(desk_b.channel()).await == 3).await;
    world.b.stop().await;
    report(&mut phone, RECORDS).await;
    until("all is at the gateway", ARRIVES, async || {
        let state = crate::harness::states(desk_a.channel()).await.unwrap();
        state.streams.iter().all(|row| row.stored_seq == row.last_seq)
    })
    .await;
    (world, phone, desk_a, desk_b)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_for_who_is_away_stays_within_its_limit_and_comes_from_the_origin() {
    let limits = format!("[limits]\nstored_bytes_per_party_max = {BYTES_MAX}\n");
    let (mut world, mut phone, desk_a, desk_b) = away(&limits).await;
    until("the oldest goes", LOOKED, async || held(&world) <= BYTES_MAX).await;
    assert!(held(&world) > 0, "not more than must");
    let log = world.gateway.log_text();
    assert!(log.contains("more is held for a region than its limit"), "{log}");
    // Without the origin the neighbour gets nothing that would leave a hole.
    world.line.cut();
    world.b.restart().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(views(desk_b.channel()).await, 3);
    world.line.heal();
    until("all arrives", ARRIVES, async || views(desk_b.channel()).await == RECORDS + 3).await;
    report(&mut phone, 2).await;
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), ARRIVES).await, RECORDS as u64 + 5);
    for name in ["a.log", "b.log", "gateway.log"] {
        let log = std::fs::read_to_string(world.path(name)).unwrap();
        assert!(!log.contains("alarm"), "{name}: {log}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_is_held_where_the_limit_is_not_reached() {
    let (mut world, _phone, desk_a, desk_b) = away("").await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(held(&world) > BYTES_MAX, "the texts were packed to {}", held(&world));
    // All of it is there without the origin.
    world.line.cut();
    world.b.restart().await;
    until("all arrives", ARRIVES, async || views(desk_b.channel()).await == RECORDS + 3).await;
    world.line.heal();
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    world.stop().await;
}
