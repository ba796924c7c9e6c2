//! Areas on the ground.

use super::{Door, Path};
use crate::kernel::v1 as pb;
use domain::outline::{Corner, Outline};

/// Rings of one area.
pub const RINGS_MAX: usize = 64;
/// Fewest corners of a ring.
pub const CORNERS_MIN: usize = 3;
/// Corners of all rings of one area.
pub const CORNERS_MAX: usize = 4_096;

const LON_E7_MAX: i32 = 1_800_000_000;
const LAT_E7_MAX: i32 = 900_000_000;

/// An area of at least so many rings.
pub(super) fn outline(
    door: &mut Door,
    at: Path<'_>,
    rings: Vec<pb::Ring>,
    rings_min: usize,
) -> Option<Outline> {
    let corners: usize = rings.iter().map(|ring| ring.lon_delta_e7.len()).sum();
    door.size(at, corners, 0..=CORNERS_MAX)?;
    Some(Outline::new(door.list(at, rings, rings_min..=RINGS_MAX, ring)?))
}

fn ring(door: &mut Door, at: Path<'_>, ring: pb::Ring) -> Option<Vec<Corner>> {
    let pb::Ring { lon_delta_e7, lat_delta_e7 } = ring;
    let lon = sums(door, at.field("lon_delta_e7"), &lon_delta_e7, LON_E7_MAX);
    let lat = sums(door, at.field("lat_delta_e7"), &lat_delta_e7, LAT_E7_MAX);
    let (lon, lat) = (lon?, lat?);
    if lon.len() != lat.len() {
        return door.refuse(at.field("lat_delta_e7"), "must be as many as lon_delta_e7");
    }
    Some(lon.into_iter().zip(lat).map(|(lon_e7, lat_e7)| Corner { lon_e7, lat_e7 }).collect())
}

/// Degrees from what lies between them.
fn sums(door: &mut Door, at: Path<'_>, deltas: &[i32], most: i32) -> Option<Vec<i32>> {
    door.size(at, deltas.len(), CORNERS_MIN..=CORNERS_MAX)?;
    let mut sum = 0_i32;
    let mut next = |delta: &i32| {
        sum = sum.wrapping_add(*delta);
        (-most..=most).contains(&sum).then_some(sum)
    };
    match deltas.iter().map(&mut next).collect() {
        Some(degrees) => Some(degrees),
        None => door.refuse(at, "must stay on earth"),
    }
}

/// As the wire says it.
pub(super) fn encode(outline: &Outline) -> Vec<pb::Ring> {
    outline
        .rings()
        .iter()
        .map(|ring| pb::Ring {
            lon_delta_e7: deltas(ring.iter().map(|corner| corner.lon_e7)),
            lat_delta_e7: deltas(ring.iter().map(|corner| corner.lat_e7)),
        })
        .collect()
}

fn deltas(degrees: impl Iterator<Item = i32>) -> Vec<i32> {
    let mut before = 0_i32;
    // From end to end of the earth is more than 31 bits hold; where that wraps, the sum wraps back.
    degrees.map(|at| at.wrapping_sub(std::mem::replace(&mut before, at))).collect()
}
