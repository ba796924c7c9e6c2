//! Positions of a patrol on duty.

use super::kernel::{LAT_DEG_MAX, LON_DEG_MAX, datum, encode_id, encode_time};
use super::{Door, Path, Rules};
use crate::patrol::v1 as pb;
use domain::kernel::{Datum, RecordId, gcj02_to_wgs84};
use domain::patrol::{TrackBatch, TrackGap};

/// Points of one batch.
pub const POINTS_MAX: usize = 1_000;
/// Gaps of one batch.
pub const GAPS_MAX: usize = 64;
/// Bytes of the reason of a gap.
pub const GAP_REASON_BYTES_MAX: usize = 32;
/// Seconds between points that a policy may ask for.
pub const SAMPLING_S_MAX: u32 = 3_600;
/// Percent of a full battery.
pub const BATTERY_PCT_MAX: u32 = 100;
/// Units of 1e-7 degrees in a degree.
const E7: f64 = 1e7;

impl From<&TrackBatch> for pb::TrackBatch {
    fn from(batch: &TrackBatch) -> Self {
        let TrackBatch {
            patrol_id,
            shift_id,
            started_at,
            time_delta_s,
            lon_delta_e7,
            lat_delta_e7,
            datum,
            sampling_s,
            gaps,
            battery_pct,
        } = batch;
        Self {
            patrol_id: encode_id(patrol_id.as_bytes()),
            shift_id: encode_id(shift_id.as_bytes()),
            start_time: Some(encode_time(*started_at)),
            time_delta_s: time_delta_s.clone(),
            lon_delta_e7: lon_delta_e7.clone(),
            lat_delta_e7: lat_delta_e7.clone(),
            datum: datum.code(),
            sampling_s: *sampling_s,
            gaps: gaps.iter().map(Into::into).collect(),
            battery_pct: *battery_pct,
        }
    }
}

impl From<&TrackGap> for pb::TrackGap {
    fn from(gap: &TrackGap) -> Self {
        let TrackGap { start_offset_s, duration_s, reason } = gap;
        Self { start_offset_s: *start_offset_s, duration_s: *duration_s, reason: reason.clone() }
    }
}

/// Checks a batch; a caller's GCJ-02 becomes WGS-84.
pub(super) fn track_batch(
    door: &mut Door,
    at: Path<'_>,
    batch: pb::TrackBatch,
) -> Option<TrackBatch> {
    let pb::TrackBatch {
        patrol_id,
        shift_id,
        start_time,
        time_delta_s,
        lon_delta_e7,
        lat_delta_e7,
        datum,
        sampling_s,
        gaps,
        battery_pct,
    } = batch;
    let patrol_id = door.id(at.field("patrol_id"), &patrol_id, RecordId::from_slice);
    let shift_id = door.id(at.field("shift_id"), &shift_id, RecordId::from_slice);
    let started_at = door.time(at.field("start_time"), start_time);
    let time_delta_s = time_deltas(door, at.field("time_delta_s"), time_delta_s);
    let count = time_delta_s.as_ref().map(Vec::len);
    let lon_delta_e7 = deltas(door, at.field("lon_delta_e7"), lon_delta_e7, count, LON_DEG_MAX);
    let lat_delta_e7 = deltas(door, at.field("lat_delta_e7"), lat_delta_e7, count, LAT_DEG_MAX);
    let datum = self::datum(door, at.field("datum"), datum);
    let sampling_s = door.number(at.field("sampling_s"), sampling_s, 1..=SAMPLING_S_MAX);
    let gaps = door.list(at.field("gaps"), gaps, 0..=GAPS_MAX, gap);
    let battery_pct = door.number(at.field("battery_pct"), battery_pct, 0..=BATTERY_PCT_MAX);
    let (mut lon, mut lat, mut datum) = (lon_delta_e7?, lat_delta_e7?, datum?);
    if datum == Datum::Gcj02 {
        (lon, lat) = to_wgs84(&lon, &lat);
        datum = Datum::Wgs84;
    }
    Some(TrackBatch {
        patrol_id: patrol_id?,
        shift_id: shift_id?,
        started_at: started_at?,
        time_delta_s: time_delta_s?,
        lon_delta_e7: lon,
        lat_delta_e7: lat,
        datum,
        sampling_s: sampling_s?,
        gaps: gaps?,
        battery_pct: battery_pct?,
    })
}

fn time_deltas(door: &mut Door, at: Path<'_>, deltas: Vec<u32>) -> Option<Vec<u32>> {
    let deltas = door.list(at, deltas, 0..=POINTS_MAX, |_, _, delta| Some(delta))?;
    if deltas.first().is_some_and(|&first| first != 0) {
        return door.refuse(at.item(0), "must be 0: the batch starts at its first point");
    }
    Some(deltas)
}

/// Checks that the deltas are as many as the times, and that no point they add up to leaves the Earth.
fn deltas(
    door: &mut Door,
    at: Path<'_>,
    deltas: Vec<i32>,
    count: Option<usize>,
    deg_max: f64,
) -> Option<Vec<i32>> {
    let mut absolute = 0_i64;
    let deltas = door.list(at, deltas, 0..=POINTS_MAX, |door, at, delta| {
        absolute += i64::from(delta);
        let within = degrees(absolute).abs() <= deg_max;
        if within {
            Some(delta)
        } else {
            door.refuse(at, format!("leads beyond {deg_max} degrees"))
        }
    })?;
    let withheld = door.rules() == Rules::View && (deltas.is_empty() || count == Some(0));
    if count.is_some_and(|count| count != deltas.len()) && !withheld {
        return door.refuse(at, "must have as many items as time_delta_s");
    }
    Some(deltas)
}

fn gap(door: &mut Door, at: Path<'_>, gap: pb::TrackGap) -> Option<TrackGap> {
    let pb::TrackGap { start_offset_s, duration_s, reason } = gap;
    let reason = door.text(at.field("reason"), reason, 0..=GAP_REASON_BYTES_MAX);
    Some(TrackGap { start_offset_s, duration_s, reason: reason? })
}

/// Converts each point where it lies and takes the differences anew, so that no rounding adds up.
fn to_wgs84(lon_delta_e7: &[i32], lat_delta_e7: &[i32]) -> (Vec<i32>, Vec<i32>) {
    let (mut lon, mut lat) = (Vec::new(), Vec::new());
    let (mut from_lon, mut from_lat) = (0_i64, 0_i64);
    let (mut to_lon, mut to_lat) = (0_i64, 0_i64);
    for (&lon_delta, &lat_delta) in lon_delta_e7.iter().zip(lat_delta_e7) {
        from_lon += i64::from(lon_delta);
        from_lat += i64::from(lat_delta);
        let (x, y) = gcj02_to_wgs84(degrees(from_lon), degrees(from_lat));
        lon.push(step(&mut to_lon, x));
        lat.push(step(&mut to_lat, y));
    }
    (lon, lat)
}

fn degrees(e7: i64) -> f64 {
    e7 as f64 / E7
}

/// Moves `last` to a place in degrees and gives the difference. A difference that does not fit, half
/// round the Earth within one step, is held at the largest that does, and the next makes up for it.
fn step(last: &mut i64, degrees: f64) -> i32 {
    let delta = (degrees * E7).round() as i64 - *last;
    let held = i32::try_from(delta).unwrap_or(if delta < 0 { i32::MIN } else { i32::MAX });
    *last += i64::from(held);
    held
}
