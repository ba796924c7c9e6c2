//! What the terminal shows while the demo runs: a picture that redraws itself, or a line a second.

use super::observe::Board;
use super::plan::{BUSY, CUT_AT, CUT_FOR};
use super::world::{CUT, TOWNSHIP, World};
use crate::demo::data::DISTRICT;
use domain::kernel::RegionId;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;
use tokio::time::Instant;

/// How often the picture is drawn.
const REDRAW: Duration = Duration::from_millis(250);
/// How often a line is printed where there is no terminal.
const LINE: Duration = Duration::from_secs(1);
const BAR_WIDTH: usize = 40;

/// Draws until it is dropped; everything goes to standard error, so that standard output is the verdict's.
pub(super) async fn draw(world: &World, board: &Board, started: Instant, total: usize) {
    let terminal = std::io::stderr().is_terminal();
    let mut drawn = 0;
    loop {
        let elapsed = started.elapsed();
        let text = if terminal {
            picture(world, board, elapsed, total)
        } else {
            line(world, board, elapsed)
        };
        let mut out = std::io::stderr().lock();
        let up = if drawn > 0 && terminal { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
        // A terminal that is gone is no reason to stop the demo.
        drop(write!(out, "{up}{text}").and_then(|()| out.flush()));
        drop(out);
        drawn = text.lines().count();
        tokio::time::sleep(if terminal { REDRAW } else { LINE }).await;
    }
}

fn link_state(elapsed: Duration) -> &'static str {
    if elapsed < CUT_AT {
        "咸丰链路 up"
    } else if elapsed < CUT_AT + CUT_FOR {
        "咸丰链路 CUT 已断开"
    } else {
        "咸丰链路 healed 已恢复"
    }
}

fn queued(board: &Board) -> u64 {
    board.with(|seen| seen.rows.values().map(|row| row.queued).sum())
}

fn counts(board: &Board, id: &str) -> (u64, u64) {
    let Ok(id) = id.parse::<RegionId>() else { return (0, 0) };
    board.with(|seen| seen.counts.get(&id).copied().unwrap_or_default())
}

fn line(world: &World, board: &Board, elapsed: Duration) -> String {
    let mut text = format!("{:>3} s  {}", elapsed.as_secs(), link_state(elapsed));
    for id in [TOWNSHIP, DISTRICT, CUT] {
        let (own, views) = counts(board, id);
        text.push_str(&format!("  {} {own}+{views}", name(world, id)));
    }
    text.push_str(&format!("  queued 排队 {}\n", queued(board)));
    text
}

fn name(world: &World, id: &str) -> String {
    let region =
        id.parse().ok().and_then(|id| world.region(&id).map(|region| region.name_zh.clone()));
    region.unwrap_or_default()
}

fn picture(world: &World, board: &Board, elapsed: Duration, total: usize) -> String {
    let sent = board.with(|seen| seen.sent.len());
    let share = (sent * BAR_WIDTH / total.max(1)).min(BAR_WIDTH);
    let mut text = format!(
        "武陵联动 Wuling Link  {:>3}/{} s  [{}{}] {sent}/{total}\n{}  queued 排队 {}\n",
        elapsed.as_secs(),
        BUSY.as_secs(),
        "#".repeat(share),
        " ".repeat(BAR_WIDTH - share),
        link_state(elapsed),
        queued(board),
    );
    for id in [TOWNSHIP, DISTRICT, CUT] {
        let (own, views) = counts(board, id);
        text.push_str(&format!(
            "  {}: own 本地 {own}, from neighbours 毗邻 {views}\n",
            name(world, id)
        ));
    }
    board.with(|seen| {
        seen.newest.iter().for_each(|newest| text.push_str(&format!("    {newest}\n")))
    });
    text
}
