//! `wuling demo`: a whole linkage in one process, with everything between its parts over loopback TCP and
//! mutual TLS, on disk; phones replay real shapes and made-up events, one link is cut and healed, and a
//! verdict says whether all arrived, once and the same.

mod data;
mod observe;
mod plan;
mod proxy;
mod screen;
mod verdict;
mod world;

pub(crate) use data::outline_of;

use crate::phone::Phone;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use domain::kernel::{RegionId, Role};
use observe::Board;
use plan::{Action, CUT_AT, CUT_FOR, OnDuty};
use runtime::{OnExit, Shutdown};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use verdict::Verdict;
use world::{CUT, TOWNSHIP, World};

/// How long the last records may take once the link is healed.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether they have.
const SETTLE_EVERY: Duration = Duration::from_millis(200);
/// Wait before a phone tries again what its region did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// How the demo is run.
#[derive(Debug, Default)]
pub struct Options {
    /// Print the verdict as JSON.
    pub json: bool,
    /// Keep the linkage up afterwards, and print how to connect.
    pub serve: bool,
    /// Where the files go; `None`: a folder that is removed at the end.
    pub data: Option<PathBuf>,
}

/// Runs the demo; tells whether all was well.
///
/// # Errors
/// When the linkage cannot be set up.
pub async fn run(options: Options) -> Result<bool> {
    let scratch = tempfile::Builder::new().prefix("wuling-demo-").tempdir()?;
    let dir = match &options.data {
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            anyhow::ensure!(
                std::fs::read_dir(dir)?.next().is_none(),
                "{} is not empty: name a new folder for the demo",
                dir.display()
            );
            dir.clone()
        }
        None => scratch.path().to_owned(),
    };
    let world = World::start(&dir).await?;
    let verdict = show(&world).await;
    if let Ok(verdict) = &verdict {
        print(verdict, options.json)?;
    }
    if options.serve && verdict.is_ok() {
        serve(&world).await?;
    }
    world.stop().await?;
    Ok(verdict?.ok)
}

/// Enrols everybody, plays the plan, waits until all has arrived, judges.
async fn show(world: &World) -> Result<Verdict> {
    let board = Board::default();
    let mut officers = BTreeMap::new();
    let mut phones = BTreeMap::new();
    for region in &world.regions {
        let officer = world.enrol(region, Role::DutyOfficer, "desk").await?;
        observe::watch(&board, &world.tasks, region.id.clone(), &officer);
        officers.insert(region.id.clone(), officer);
        phones.insert(region.id.clone(), world.enrol(region, Role::ShiftLead, "phone").await?);
    }
    links_up(&board, world.regions.len()).await;
    let plan = plan::plan(data::events()?, &data::tracks()?);
    let total = plan.values().map(Vec::len).sum();
    let started = Instant::now();
    let left = Arc::new(AtomicUsize::new(total));
    for (region, todo) in plan {
        let phone = phones.remove(&region).context("a region of the plan has no phone")?;
        play(world, &board, started, &left, region, phone, todo);
    }
    let failures = tokio::select! {
        failures = conduct(world, &board, started, &left) => failures,
        () = screen::draw(world, &board, started, total) => Vec::new(),
    };
    verdict::judge(world, &board, &officers, failures).await
}

/// Waits until every region's link is up; what is not up by then shows in the verdict.
async fn links_up(board: &Board, regions: usize) {
    let deadline = Instant::now() + SETTLE_MAX;
    let all_up = || board.with(|seen| seen.links_up.values().filter(|up| **up).count()) == regions;
    while !all_up() && Instant::now() < deadline {
        tokio::time::sleep(SETTLE_EVERY).await;
    }
}

/// Lets a phone do what is planned for it.
fn play(
    world: &World,
    board: &Board,
    started: Instant,
    left: &Arc<AtomicUsize>,
    region: RegionId,
    mut phone: Phone,
    todo: Vec<(Duration, Action)>,
) {
    let name_zh = world.region(&region).map(|region| region.name_zh.clone()).unwrap_or_default();
    let (board, left, clock) = (board.clone(), Arc::clone(left), Arc::clone(&world.clock));
    world.tasks.spawn("demo.phone", OnExit::Log, async move {
        let mut duty = OnDuty::default();
        for (when, action) in todo {
            tokio::time::sleep_until(started + when).await;
            match duty.act(&mut phone, &name_zh, action, clock.now()) {
                Ok(record) => {
                    let id = Bytes::copy_from_slice(record.as_bytes());
                    board.with(|seen| seen.sent.insert(id, Instant::now()));
                }
                Err(error) => tracing::error!(region.id = %region, error = %format!("{error:#}"), "not recorded"),
            }
            while let Err(error) = phone.push().await {
                tracing::warn!(region.id = %region, error = %format!("{error:#}"), "not sent, tried again");
                tokio::time::sleep(RETRY).await;
            }
            left.fetch_sub(1, Ordering::Relaxed);
        }
    });
}

/// Cuts the link, heals it, waits until all has arrived; gives what went wrong.
async fn conduct(
    world: &World,
    board: &Board,
    started: Instant,
    left: &AtomicUsize,
) -> Vec<String> {
    tokio::time::sleep_until(started + CUT_AT).await;
    world.proxy.set_up(false);
    tokio::time::sleep_until(started + CUT_AT + CUT_FOR).await;
    world.proxy.set_up(true);
    let deadline = started + plan::BUSY + SETTLE_MAX;
    let mut still = 0;
    loop {
        let unsent = left.load(Ordering::Relaxed);
        let arrived = board.with(|seen| {
            !seen.rows.is_empty()
                && seen
                    .rows
                    .values()
                    .all(|row| row.last > 0 && row.applied == row.last && row.queued == 0)
        });
        // The states come once a second: two seconds without a difference mean that nothing is under way.
        still = if unsent == 0 && arrived { still + 1 } else { 0 };
        if still * SETTLE_EVERY >= Duration::from_secs(2) {
            return Vec::new();
        }
        if Instant::now() > deadline {
            return vec![format!("not all arrived in time; {unsent} actions were not sent")];
        }
        tokio::time::sleep(SETTLE_EVERY).await;
    }
}

#[expect(clippy::print_stdout, reason = "the verdict is what the command is for")]
fn print(verdict: &Verdict, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(verdict)?);
        return Ok(());
    }
    let entries: u64 = verdict.streams.iter().map(|stream| stream.entries).sum();
    let applied: u64 = verdict.streams.iter().map(|stream| stream.applied).sum();
    let parked: u64 = verdict.streams.iter().map(|stream| stream.parked).sum();
    let queued = verdict.streams.iter().map(|stream| stream.queued_max).max().unwrap_or(0);
    println!(
        "\n{} streams 流 (stream × recipient), {entries} entries 条目: {applied} applied 已应用, {parked} parked 搁置",
        verdict.streams.len()
    );
    println!(
        "link cut 链路断开 {} s, at most {queued} entries queued in one stream 单流最多排队",
        verdict.cut_s
    );
    println!(
        "phone to neighbour 手机到毗邻: p50 {} ms, p99 {} ms, max {} ms",
        verdict.latency_ms.p50, verdict.latency_ms.p99, verdict.latency_ms.max
    );
    for failure in &verdict.failures {
        println!("  ✗ {failure}");
    }
    println!(
        "{}",
        if verdict.ok {
            "✓ everything arrived, once, in order 全部送达，各一次，次序不乱"
        } else {
            "✗ see above 见上"
        }
    );
    Ok(())
}

/// Keeps the linkage up and says how to connect.
#[expect(clippy::print_stdout, reason = "how to connect is what --serve is for")]
async fn serve(world: &World) -> Result<()> {
    println!("\nThe linkage stays up 联动保持运行: {}. Ctrl-C stops it.", world.dir.display());
    for id in [TOWNSHIP, data::DISTRICT, CUT] {
        let region = world.region(&id.parse()?).context("a region on screen is missing")?;
        let code = world.code(region, Role::DutyOfficer)?;
        println!("  {} ({}) at {}\n    {code}", region.name_zh, region.id, world.endpoint(region));
    }
    println!("Enrol with: wuling phone --store DIR enrol 'CODE' (15 min, once)");
    let shutdown = Shutdown::new();
    tokio::select! {
        () = shutdown.soft().cancelled() => {}
        failed = runtime::tasks::wait_for_signals(&shutdown) => { failed?; }
    }
    Ok(())
}
