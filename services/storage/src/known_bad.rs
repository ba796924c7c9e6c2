//! Ways to break a promise, and points to die at: what the fault tests must be able to see.
//!
//! Compiled only under the feature `known-bad`, which only `tests` turns on, and chosen when a process
//! reads its configuration, by a key that no release knows. Every name begins with [`PREFIX`], so that a
//! release can be searched for it.

use crate::writer::Answer;
use domain::stream::Position;
use rusqlite::Connection;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How every name here begins; no release holds it.
pub const PREFIX: &str = "known-bad:";

/// A way to break a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The writer answers as soon as the rows are written, and commits a little later (against P1).
    AnswerBeforeFlush,
    /// Places in the feed are drawn before the commit by two writers, as `bigserial` gives them out; a
    /// reader goes by "after my cursor" as ever, and never sees who commits late with a lower number
    /// (against P2 and P4).
    IdCursorPoller,
    /// The cursor of a neighbour's stream is written one range late, apart from what it counts, and
    /// nothing else remembers what was applied (against P3).
    DedupeThatForgets,
    /// A store that was restored from a copy goes on in its epoch (against P16).
    RestoreWithoutEpoch,
}

/// A point at which a process can be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Any writer: all rows are written, the transaction is open.
    RowsWritten,
    /// Any writer: the transaction is on disk, nobody knows.
    RowsFlushed,
    /// Any writer: listeners know, callers do not.
    ListenersTold,
    /// Any writer: callers have their answers.
    CallersAnswered,
    /// A recipient: the views of a range are written, its cursor is not.
    ViewsWritten,
    /// An origin: a range is sealed, the gateway has nothing of it.
    RangeSealed,
    /// A gateway: a segment is verified, nothing of it is written.
    SegmentVerified,
}

/// The variants by name.
pub const VARIANTS: [(&str, Variant); 4] = [
    ("known-bad:answer-before-flush", Variant::AnswerBeforeFlush),
    ("known-bad:id-cursor-poller", Variant::IdCursorPoller),
    ("known-bad:dedupe-that-forgets", Variant::DedupeThatForgets),
    ("known-bad:restore-without-epoch", Variant::RestoreWithoutEpoch),
];

/// The points by name.
pub const POINTS: [(&str, Point); 7] = [
    ("known-bad:rows-written", Point::RowsWritten),
    ("known-bad:rows-flushed", Point::RowsFlushed),
    ("known-bad:listeners-told", Point::ListenersTold),
    ("known-bad:callers-answered", Point::CallersAnswered),
    ("known-bad:views-written", Point::ViewsWritten),
    ("known-bad:range-sealed", Point::RangeSealed),
    ("known-bad:segment-verified", Point::SegmentVerified),
];

/// How long an early answer is ahead of its commit.
const AHEAD: Duration = Duration::from_millis(20);
/// Numbers that a writer draws at a time.
const NUMBERS_DRAWN: u64 = 1 << 20;

static VARIANT: OnceLock<Variant> = OnceLock::new();
static DEATH: OnceLock<(Point, u64)> = OnceLock::new();
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Chooses, for the whole process and once: the name of a variant, or of a point and, behind a space, at
/// which passage to die. Tells whether it was understood.
pub fn choose(what: &str) -> bool {
    let (name, passage) = what.split_once(' ').unwrap_or((what, "1"));
    let variant = VARIANTS.iter().find(|(of, _)| *of == name);
    let point = POINTS.iter().find(|(of, _)| *of == name);
    match (variant, point, passage.parse()) {
        (Some((_, variant)), _, _) => VARIANT.set(*variant).is_ok(),
        (_, Some((_, point)), Ok(passage)) => DEATH.set((*point, passage)).is_ok(),
        _ => false,
    }
}

/// Dies here, as by kill -9, if this is the chosen point and its time has come.
pub fn pass(point: Point) {
    let Some((chosen, passage)) = DEATH.get() else { return };
    if *chosen == point && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *passage {
        std::process::abort();
    }
}

pub(crate) fn is(variant: Variant) -> bool {
    VARIANT.get() == Some(&variant)
}

/// Between the rows of a transaction and its commit.
pub(crate) fn rows_written(jobs: &mut [impl Answer]) {
    pass(Point::RowsWritten);
    if is(Variant::AnswerBeforeFlush) {
        jobs.iter_mut().for_each(|job| job.answer(Ok(())));
        std::thread::park_timeout(AHEAD);
    }
}

/// Two writers that draw from one sequence and commit in turn, the one with the higher numbers first.
#[derive(Debug, Default)]
pub(crate) struct TwoWriters {
    /// Where the numbers of the writer begin that has drawn and not committed.
    late: Option<u64>,
    /// The highest number that was drawn.
    highest: u64,
}

impl TwoWriters {
    /// Sets the place in the feed after which the next transaction numbers.
    pub(crate) fn draw(&mut self, feed_seq: &mut u64) {
        if !is(Variant::IdCursorPoller) {
            return;
        }
        self.highest = self.highest.max(*feed_seq);
        *feed_seq = match self.late.take() {
            Some(low) => low,
            None => {
                self.late = Some(self.highest);
                self.highest + NUMBERS_DRAWN
            }
        };
    }
}

/// Before a range is applied from `before`: makes room for what may come for the second time.
pub(crate) fn forget_views(
    conn: &Connection,
    inbox_no: i64,
    before: Position,
) -> rusqlite::Result<()> {
    if is(Variant::DedupeThatForgets) {
        conn.prepare_cached("DELETE FROM view WHERE inbox_no = ?1 AND seq > ?2")?
            .execute((inbox_no, crate::sqlite::int(before.seq)))?;
    }
    Ok(())
}

/// After a range was applied from `before`: leaves the cursor on disk where it was.
pub(crate) fn forget_cursor(
    conn: &Connection,
    inbox_no: i64,
    before: Position,
) -> rusqlite::Result<()> {
    if is(Variant::DedupeThatForgets) {
        conn.prepare_cached(
            "UPDATE inbox SET applied_seq = ?2, applied_h = ?3 WHERE inbox_no = ?1",
        )?
        .execute((inbox_no, crate::sqlite::int(before.seq), before.h.as_slice()))?;
    }
    Ok(())
}
