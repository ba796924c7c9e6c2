//! Positions of a patrol on duty, delta-coded as they came. Points outside an open shift are refused.

use super::Shift;
use crate::kernel::{Datum, FieldViolation, RecordId, Timestamp};

/// A stretch without points, and why; never held against the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackGap {
    /// After the start of the batch.
    pub start_offset_s: u32,
    /// How long.
    pub duration_s: u32,
    /// Reason by code; may be empty.
    pub reason: String,
}

/// Positions of a patrol on duty. The three delta lists have one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackBatch {
    /// The patrol.
    pub patrol_id: RecordId,
    /// The shift.
    pub shift_id: RecordId,
    /// Time of the first point, by the device's clock.
    pub started_at: Timestamp,
    /// Seconds since the point before; the first is 0.
    pub time_delta_s: Vec<u32>,
    /// 1e-7 degrees east, from the point before; the first from 0.
    pub lon_delta_e7: Vec<i32>,
    /// 1e-7 degrees north, from the point before; the first from 0.
    pub lat_delta_e7: Vec<i32>,
    /// Never `Gcj02` inside.
    pub datum: Datum,
    /// Seconds between points that the policy asked for.
    pub sampling_s: u32,
    /// Stretches without points.
    pub gaps: Vec<TrackGap>,
    /// Battery of the phone.
    pub battery_pct: u32,
}

/// Points of one batch at most.
pub const POINTS_MAX: usize = 1_000;
/// How far a point may lie outside its shift; phones are a little off, and people start early.
pub const SHIFT_TOLERANCE_MS: i64 = 5 * 60_000;

impl TrackBatch {
    /// What a person typed, by proto field.
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        self.gaps.iter().map(|gap| ("gaps.reason", gap.reason.as_str())).collect()
    }

    /// What is wrong with it, by proto field.
    pub(crate) fn violations(&self) -> Vec<FieldViolation> {
        let points = self.time_delta_s.len();
        let mut violations = Vec::new();
        if !(1..=POINTS_MAX).contains(&points) {
            violations.push(FieldViolation::new("time_delta_s", "must hold 1 to 1,000 points"));
        }
        for (field, deltas, limit_e7) in [
            ("lon_delta_e7", &self.lon_delta_e7, 1_800_000_000_i64),
            ("lat_delta_e7", &self.lat_delta_e7, 900_000_000),
        ] {
            if deltas.len() != points {
                violations.push(FieldViolation::new(field, "must be as long as time_delta_s"));
            }
            let mut sum = 0_i64;
            let on_earth = deltas.iter().all(|delta| {
                sum = sum.saturating_add(i64::from(*delta));
                (-limit_e7..=limit_e7).contains(&sum)
            });
            if !on_earth {
                violations.push(FieldViolation::new(field, "must add up to places on earth"));
            }
        }
        violations
    }

    /// Whether all points lie within the shift: after it was opened, before it was closed or, while it
    /// is open, before now.
    pub(crate) fn within(&self, shift: &Shift, clock_offset_ms: i64, now: Timestamp) -> bool {
        let Some(opened_at) = shift.opened_at else { return false };
        let first = self.started_at.plus_millis(clock_offset_ms);
        let duration_s = self.time_delta_s.iter().map(|delta| i64::from(*delta)).sum::<i64>();
        let last = first.plus_millis(duration_s.saturating_mul(1_000));
        opened_at.plus_millis(-SHIFT_TOLERANCE_MS) <= first
            && last <= shift.closed_at.unwrap_or(now).plus_millis(SHIFT_TOLERANCE_MS)
    }
}
