//! Three processes, end to end: phone to region, gateway, neighbour; with mutual TLS, rules, agreements,
//! sealing, and three flushes. A case counts only when the neighbour's table equals what was acknowledged.

use super::Options;
use super::limits::{self, Limits};
use super::load::{self, Answered, Batch};
use super::report::{self, Usage, percentile, round};
use super::world::{Shape, World};
use crate::client;
use crate::phone::{Phone, said};
use anyhow::{Context as _, Result, bail, ensure};
use domain::kernel::{Purpose, RecordId, RegionId};
use domain::stream::StreamId;
use proto::device::v1 as pb;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use storage::region::Store;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the neighbour's table is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Longest time until a backlog lies at the gateway.
const QUEUES: Duration = Duration::from_secs(1_800);
/// Longest time without anything arriving.
const STALLS: Duration = Duration::from_secs(30);
/// Records in flight of a unary case: phones, and calls of each at a time.
const UNARY_PHONES: usize = 32;
const UNARY_CALLS: usize = 8;
/// Phones of a streamed case, and batches of each in flight. A window of 2,048 is batches of 256, a
/// quarter of what the device library sends at once when a phone comes back with many.
const STREAM_PHONES: usize = 4;
const STREAM_DEPTH: usize = 2;
/// A call each 10 ms.
const PACE: Duration = Duration::from_millis(10);
const PACED_RECORDS: usize = 1_000;
/// How long each limit is measured, in seconds.
const LIMITS_S: f64 = 0.5;

/// How a case sends.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Streams of signed batches, so many records in flight together.
    Stream(usize),
    /// One record a call.
    Unary,
    /// One record a call, 100 calls a second.
    Paced,
    /// As streamed, but the neighbour is down until all is queued, one entry a segment.
    CatchUp,
}

const CASES: [(&str, Shape, Way); 9] = [
    ("stream", Shape::One, Way::Stream(2_048)),
    ("stream_w256", Shape::One, Way::Stream(256)),
    ("stream_10_parties", Shape::TenParties, Way::Stream(2_048)),
    ("stream_10_agreements", Shape::TenAgreements, Way::Stream(2_048)),
    ("stream_3_parties", Shape::ThreeParties, Way::Stream(2_048)),
    ("stream_3_parties_clauses", Shape::ThreePartiesClauses, Way::Stream(2_048)),
    ("unary", Shape::One, Way::Unary),
    ("paced100", Shape::One, Way::Paced),
    ("catchup", Shape::One, Way::CatchUp),
];

/// What one round of a case came to.
struct Round {
    records_per_s: f64,
    e2e_ms: [f64; 2],
    ack_ms: [f64; 2],
    rss_mib: [f64; 3],
    rss_idle_mib: [f64; 3],
    started_ms: [f64; 3],
    cpu_us_per_record: [f64; 3],
    others_cpu: f64,
}

/// Runs the cases, round by round, so that what drifts drifts for all.
pub(super) async fn run(options: &Options) -> Result<bool> {
    for name in &options.cases {
        let known = CASES.map(|(known, ..)| known);
        ensure!(
            known.contains(&name.as_str()),
            "`{name}` is no case; there are {}",
            known.join(", ")
        );
    }
    let wanted = |name: &str| options.cases.is_empty() || options.cases.iter().any(|c| c == name);
    let mut rounds: BTreeMap<usize, Vec<Round>> = BTreeMap::new();
    let mut limits = Vec::new();
    for round in 0..options.rounds {
        limits.push(limits::measure_for(options.data.as_deref(), LIMITS_S)?);
        for (index, (name, shape, way)) in CASES.into_iter().enumerate() {
            // One backlog is long enough, and takes long enough.
            let once = matches!(way, Way::CatchUp) && round > 0;
            if wanted(name) && !once {
                let outcome = one(shape, way, options).await;
                rounds
                    .entry(index)
                    .or_default()
                    .push(outcome.with_context(|| format!("case {name}"))?);
            }
        }
    }
    let told = rounds.iter().map(|(index, each)| {
        let (case, shape, _) = CASES[*index];
        let mut line = line(case, each, &limits);
        // What terms cost: the same to the same parties, without them.
        let base = CASES.iter().position(|(_, base, _)| {
            (shape, *base) == (Shape::ThreePartiesClauses, Shape::ThreeParties)
        });
        if let Some(base) = base.and_then(|base| rounds.get(&base)) {
            let ratios =
                each.iter().zip(base).map(|(with, base)| with.records_per_s / base.records_per_s);
            line["ratio_to_pass_all"] = json!(round(report::median(ratios.collect())));
        }
        line
    });
    let lines: Vec<Value> = told.collect();
    report::print(&lines, options.json)?;
    Ok(true)
}

async fn one(shape: Shape, way: Way, options: &Options) -> Result<Round> {
    let each = matches!(way, Way::CatchUp).then_some(1);
    let mut world = World::start(shape, each, options.data.as_deref()).await?;
    let started_ms = [&world.a, &world.gateway, &world.b].map(|server| server.started_ms);
    let phones = match way {
        Way::Stream(_) | Way::CatchUp => STREAM_PHONES,
        Way::Unary => UNARY_PHONES,
        Way::Paced => 1,
    };
    let (count, size) = match way {
        Way::Stream(window) => (options.records, window / STREAM_PHONES / STREAM_DEPTH),
        Way::CatchUp => (options.backlog, 128),
        Way::Unary => (options.records / 4, 1),
        Way::Paced => (PACED_RECORDS, 1),
    };
    let mut enrolled = Vec::new();
    for number in 0..phones {
        enrolled.push(world.phone(&number.to_string()).await?);
    }
    let written = load::write(&enrolled, count / phones, size)?;
    let records = |batches: &Vec<Batch>| batches.iter().flat_map(|b| b.records.clone()).collect();
    let expected: HashSet<RecordId> = written.iter().flat_map::<Vec<_>, _>(records).collect();
    let work: Vec<_> = enrolled.into_iter().zip(written).collect();
    let usage = Usage::of(&world.pids())?;
    let (from, sent, arrived) = match way {
        Way::CatchUp => {
            world.b.kill()?;
            drop(drive(work, way).await?);
            queued(&world, expected.len()).await?;
            world.b.restart().await?;
            let from = Instant::now();
            let arrived = arrivals(&world, expected.len()).await?;
            (from, Vec::new(), arrived)
        }
        Way::Paced => paced(&world, work).await?,
        Way::Stream(_) | Way::Unary => {
            let from = Instant::now();
            let (sent, arrived) =
                tokio::try_join!(drive(work, way), arrivals(&world, expected.len()))?;
            (from, sent, arrived)
        }
    };
    let used = usage.until_now(&world.pids())?;
    equal(&world, &expected).await?;
    let end = arrived.last().context("nothing arrived")?.0;
    let mut ack: Vec<f64> = sent.iter().map(|a| ms(a.acked_at - a.sent_at)).collect();
    let mut e2e = latencies(&sent, &arrived);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let records = expected.len() as f64;
    Ok(Round {
        records_per_s: records / (end - from).as_secs_f64(),
        e2e_ms: [percentile(&mut e2e, 50.0), percentile(&mut e2e, 99.0)],
        ack_ms: [percentile(&mut ack, 50.0), percentile(&mut ack, 99.0)],
        rss_mib: used.peak_mib,
        rss_idle_mib: usage.rss_mib(),
        started_ms,
        cpu_us_per_record: used.cpu_s.map(|s| s * 1e6 / records),
        others_cpu: used.others_cpu,
    })
}

/// All phones at once.
async fn drive(work: Vec<(Phone, Vec<Batch>)>, way: Way) -> Result<Vec<Answered>> {
    let mut tasks = JoinSet::new();
    for (phone, mut batches) in work {
        if matches!(way, Way::Unary) {
            let each = batches.len().div_ceil(UNARY_CALLS);
            while !batches.is_empty() {
                let some = batches.split_off(batches.len().saturating_sub(each));
                tasks.spawn(load::calls(phone.channel().clone(), some, None));
            }
        } else {
            tasks.spawn(load::stream(phone.channel().clone(), batches, STREAM_DEPTH));
        }
    }
    let mut sent = Vec::new();
    while let Some(answered) = tasks.join_next().await {
        sent.extend(answered??);
    }
    sent.sort_by_key(|answered| answered.sent_at);
    Ok(sent)
}

/// Looks at the neighbours' tables until all have all; gives how many had come by when.
async fn arrivals(world: &World, count: usize) -> Result<Vec<(Instant, usize)>> {
    let mut stores = Vec::new();
    for region in &world.recipients {
        stores.push(world.store_of_b(region).await?);
    }
    let mut arrived: Vec<(Instant, usize)> = Vec::new();
    loop {
        let mut least = usize::MAX;
        for store in &stores {
            let rows = store.list_inboxes().await?;
            // The first entry of a stream opens it.
            let views: u64 = rows.iter().map(|row| row.position.seq.saturating_sub(1)).sum();
            least = least.min(usize::try_from(views)?);
        }
        let now = Instant::now();
        match arrived.last() {
            Some((_, before)) if *before == least => {}
            _ => arrived.push((now, least)),
        }
        if least >= count {
            return Ok(arrived);
        }
        if arrived.last().is_some_and(|(last, _)| now - *last > STALLS) {
            bail!("only {least} of {count} records arrived");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until the gateway holds everything.
async fn queued(world: &World, count: usize) -> Result<()> {
    let store = world.store_of_gateway().await?;
    let from = Instant::now();
    loop {
        let rows = store.list_streams().await?;
        let stored: u64 = rows.iter().map(|row| row.last.seq.saturating_sub(1)).sum();
        if usize::try_from(stored)? >= count {
            return Ok(());
        }
        ensure!(from.elapsed() < QUEUES, "the gateway has only {stored}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// One record each 10 ms, each timed from the phone to the neighbour's duty officer.
async fn paced(
    world: &World,
    work: Vec<(Phone, Vec<Batch>)>,
) -> Result<(Instant, Vec<Answered>, Vec<(Instant, usize)>)> {
    let region = world.recipients.first().context("nobody to watch")?;
    let officer = world.officer(region).await?;
    let (phone, batches) = work.into_iter().next().context("no phone")?;
    let ids: Vec<RecordId> = batches.iter().flat_map(|batch| batch.records.clone()).collect();
    let request =
        pb::WatchRequest { cursor: None, purpose: Purpose::Duty.code(), kinds: Vec::new() };
    let watch = client::device_service(officer.channel()).watch(request).await.map_err(said)?;
    let watched = seen(watch.into_inner(), ids.len());
    let from = Instant::now();
    let (sent, seen) =
        tokio::try_join!(load::calls(phone.channel().clone(), batches, Some(PACE)), watched)?;
    let mut arrived = Vec::with_capacity(ids.len());
    for (index, id) in ids.iter().enumerate() {
        let at = seen.get(id).context("a record was not seen")?;
        arrived.push((*at, index + 1));
    }
    Ok((from, sent, arrived))
}

pub(super) async fn seen(
    mut messages: tonic::Streaming<pb::WatchResponse>,
    count: usize,
) -> Result<HashMap<RecordId, Instant>> {
    let mut seen = HashMap::with_capacity(count);
    while seen.len() < count {
        let message = tokio::time::timeout(STALLS, messages.message()).await?.map_err(said)?;
        let now = Instant::now();
        for change in message.context("the watch ended")?.changes {
            if let Some(pb::change::Subject::View(view)) = change.subject
                && let Some(meta) = view.view.and_then(|view| view.meta)
                && let Some(id) = RecordId::from_slice(&meta.record_id)
            {
                seen.insert(id, now);
            }
        }
    }
    Ok(seen)
}

/// From phone to table: of the n-th record sent and the n-th that had come.
fn latencies(sent: &[Answered], arrived: &[(Instant, usize)]) -> Vec<f64> {
    let (mut latencies, mut so_far, mut at) = (Vec::with_capacity(sent.len()), 0, 0);
    for answered in sent {
        so_far += answered.count;
        while arrived.get(at).is_some_and(|(_, count)| *count < so_far) {
            at += 1;
        }
        if let Some((when, _)) = arrived.get(at) {
            latencies.push(ms(when.saturating_duration_since(answered.sent_at)));
        }
    }
    latencies
}

pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Each neighbour holds each acknowledged record once, and the view that was shown of it.
async fn equal(world: &World, expected: &HashSet<RecordId>) -> Result<()> {
    let origin = world.store_of_a().await?;
    for region in &world.recipients {
        let store = world.store_of_b(region).await?;
        let mut records = HashSet::with_capacity(expected.len());
        for row in store.list_inboxes().await? {
            ensure!(row.parked_count == 0, "{region} parked entries");
            same_views(&origin, &store, &row.stream, region, &mut records).await?;
        }
        ensure!(records == *expected, "{region} does not hold what was acknowledged");
    }
    Ok(())
}

async fn same_views(
    origin: &Store,
    store: &Store,
    stream: &StreamId,
    region: &RegionId,
    records: &mut HashSet<RecordId>,
) -> Result<()> {
    let (shown, received) =
        (exchange::digest::shown(origin, stream).await?, store.list_received_views(stream).await?);
    ensure!(shown == received, "{region} holds other views than were shown to it");
    for row in received {
        ensure!(records.insert(row.record_id), "{region} applied a record twice");
    }
    Ok(())
}

fn line(case: &str, rounds: &[Round], limits: &[Limits]) -> Value {
    let of =
        |figure: &dyn Fn(&Round) -> f64| round(report::median(rounds.iter().map(figure).collect()));
    let three = |each: fn(&Round) -> [f64; 3]| {
        let at = |index: usize| of(&|round| each(round)[index]);
        json!({ "a": at(0), "gateway": at(1), "b": at(2) })
    };
    let named = limits::named(limits);
    let rows_per_s = named["sqlite_rows_per_s"].as_f64().unwrap_or(f64::INFINITY);
    let mut line = json!({
        "suite": "pipeline",
        "case": case,
        "p50_ms": of(&|round| round.e2e_ms[0]),
        "p99_ms": of(&|round| round.e2e_ms[1]),
        "ack_p50_ms": of(&|round| round.ack_ms[0]),
        "ack_p99_ms": of(&|round| round.ack_ms[1]),
        "rss_mib": three(|round| round.rss_mib),
        "rss_idle_mib": three(|round| round.rss_idle_mib),
        "started_ms": three(|round| round.started_ms),
        "cpu_us_per_record": of(&|round| round.cpu_us_per_record.iter().sum()),
        "cpu_us": three(|round| round.cpu_us_per_record),
        "ratio_to_sqlite": of(&|round| round.records_per_s / rows_per_s),
        "limits": named,
        "equal": true,
        "n": rounds.len(),
        "noisy": report::noisy(rounds.iter().map(|round| round.others_cpu), limits),
    });
    report::put_spread(
        &mut line,
        "records_per_s",
        rounds.iter().map(|r| r.records_per_s).collect(),
    );
    line
}
