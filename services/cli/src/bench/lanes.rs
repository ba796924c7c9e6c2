//! Calls for help over a narrow line that is full of other things: how long each takes from the phone to the
//! neighbour's duty officer.

use super::Options;
use super::line::Line;
use super::load::{self, Batch};
use super::pipeline::{ms, seen};
use super::report::{self, percentile, round};
use super::world::{Shape, World};
use crate::client;
use crate::phone::{fresh, said};
use anyhow::{Context as _, Result, ensure};
use domain::kernel::{Entropy as _, Purpose};
use domain::operation::Change;
use domain::patrol::{SosAlert, SosState, SosTrigger};
use proto::device::v1 as pb;
use runtime::clock::SystemEntropy;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// A township's line.
const BITS_PER_S: u32 = 2_000_000;
/// Calls for help, and how far they are apart.
const CALLS: usize = 100;
const EVERY: Duration = Duration::from_millis(250);
/// Reports that wait, and how many there are in a batch: more than the line carries in the time.
const REPORTS: usize = 30_000;
const BATCH: usize = 200;
/// Characters of a report, drawn, so that little is gained by packing it.
const CHARACTERS: usize = 300;

/// Runs both cases: the line is idle; it is full of reports.
pub(super) async fn run(options: &Options) -> Result<bool> {
    let mut lines = Vec::new();
    let mut idle = Vec::new();
    for (case, reports) in [("idle", 0), ("full", REPORTS)] {
        let mut rounds = Vec::new();
        for _ in 0..options.rounds {
            rounds.push(one(reports, options).await.with_context(|| format!("case {case}"))?);
        }
        let of = |index: usize| report::median(rounds.iter().map(|round| round[index]).collect());
        if reports == 0 {
            idle = vec![of(1)];
        }
        let mut line: Value = json!({
            "suite": "lanes",
            "case": case,
            "bits_per_s": BITS_PER_S,
            "p50_ms": round(of(0)),
            "p99_ms": round(of(1)),
            "max_ms": round(of(2)),
            "carried_share": round(of(3)),
            "n": rounds.len(),
        });
        if let Some(idle) = idle.first().filter(|_| reports > 0) {
            line["ratio_to_idle"] = json!(round(of(1) / idle));
        }
        lines.push(line);
    }
    report::print(&lines, options.json)?;
    Ok(true)
}

/// How long the calls took (median, 99 of 100, longest, milliseconds), and which share of the reports had come by then.
async fn one(reports: usize, options: &Options) -> Result<[f64; 4]> {
    let mut line = None;
    let narrow = |gateway: u16| {
        let narrow = Line::start(gateway, BITS_PER_S)?;
        let port = narrow.port;
        line = Some(narrow);
        Ok(port)
    };
    let world = World::start_by(Shape::Calls, None, options.data.as_deref(), narrow).await?;
    let region = world.recipients.first().context("nobody to watch")?;
    let officer = world.officer(region).await?;
    let (busy, caller) = (world.phone("busy").await?, world.phone("caller").await?);
    let mut batches = Vec::new();
    for first in (0..reports).step_by(BATCH) {
        let of = |seq| load::report(seq as u64 + 1, &drawn());
        let operations: Vec<_> = (first..first + BATCH).map(of).collect();
        let records = operations.iter().map(|report| report.record_id).collect();
        batches.push(Batch { request: busy.sign(&operations)?, records });
    }
    // All of it is on the region's disk before the first call.
    load::stream(busy.channel().clone(), batches, 4).await?;
    let request = pb::WatchRequest {
        cursor: None,
        purpose: Purpose::Duty.code(),
        kinds: vec![domain::kernel::Kind::SosAlert.code()],
    };
    let watch = client::device_service(officer.channel()).watch(request).await.map_err(said)?;
    let mut calls = Vec::with_capacity(CALLS);
    for seq in 0..CALLS {
        let call = fresh(seq as u64 + 1, Change::RaiseSos(sos()));
        let records = vec![call.record_id];
        calls.push(Batch { request: caller.sign(&[call])?, records });
    }
    let ids: Vec<_> = calls.iter().flat_map(|batch| batch.records.clone()).collect();
    let watched = seen(watch.into_inner(), CALLS);
    let from = Instant::now();
    let (sent, seen) =
        tokio::try_join!(load::calls(caller.channel().clone(), calls, Some(EVERY)), watched)?;
    let mut took = Vec::with_capacity(CALLS);
    for (id, sent) in ids.iter().zip(&sent) {
        took.push(ms(*seen.get(id).context("a call was not seen")? - sent.sent_at));
    }
    let came: u64 = world
        .store_of_b(region)
        .await?
        .list_inboxes()
        .await?
        .iter()
        .map(|row| row.position.seq)
        .sum();
    let came = usize::try_from(came)?.saturating_sub(CALLS + 2);
    ensure!(
        reports == 0 || came < reports,
        "the line was not full: all came in {:?}",
        from.elapsed()
    );
    drop(line);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let share = if reports == 0 { 0.0 } else { came as f64 / reports as f64 };
    let longest = took.iter().copied().fold(0.0, f64::max);
    Ok([percentile(&mut took, 50.0), percentile(&mut took, 99.0), longest, share])
}

fn sos() -> SosAlert {
    SosAlert {
        point: None,
        last_known: None,
        trigger: SosTrigger::Button,
        state: SosState::Raised,
        acknowledged_at: None,
        acknowledge_unit: String::new(),
        patrol_id: None,
        remark: String::new(),
    }
}

/// Chinese characters that say nothing.
fn drawn() -> String {
    let mut bytes = vec![0; 2 * CHARACTERS];
    SystemEntropy.fill(&mut bytes);
    let draw = |pair: &[u8]| {
        let number = pair.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        char::from_u32(0x4e00 + number % 0x5000)
    };
    bytes.chunks(2).filter_map(draw).collect()
}
