//! Goal: whether a place lies in an area, or near it, is never answered wrongly. Method: real outlines and
//! random places against an oracle that knows no box, no flat map and no ray: distances are straight lines
//! through the earth, insides are counted by turning round.

use super::*;
use crate::fixture::{outlines, point};
use std::f64::consts::TAU;

const PLACES: usize = 10_000;
/// Longest piece of an edge that the oracle takes for straight.
const PIECE_E7: f64 = 50_000.0;
const NEAR_M: [f64; 3] = [0.0, 500.0, 5_000.0];

fn square() -> Vec<Corner> {
    ring(&[(0, 0), (100, 0), (100, 100), (0, 100)])
}

fn ring(corners: &[(i32, i32)]) -> Vec<Corner> {
    corners
        .iter()
        .map(|(x, y)| Corner { lon_e7: 1_080_000_000 + x * 1_000, lat_e7: 290_000_000 + y * 1_000 })
        .collect()
}

fn at(x: f64, y: f64) -> GeoPoint {
    point(108.0 + x / 1e4, 29.0 + y / 1e4)
}

#[test]
fn an_area_is_what_an_odd_number_of_rings_surrounds() {
    let hole = ring(&[(40, 40), (60, 40), (60, 60), (40, 60)]);
    let part = ring(&[(200, 0), (210, 0), (210, 10), (200, 10)]);
    let mut closed = square();
    closed.push(closed[0]);
    for outer in [square(), closed, square().into_iter().rev().collect()] {
        let outline = Outline::new(vec![outer, hole.clone(), part.clone()]);
        assert!(outline.contains(&at(10.0, 50.0)) && outline.contains(&at(205.0, 5.0)));
        assert!(!outline.contains(&at(50.0, 50.0)) && !outline.contains(&at(150.0, 5.0)));
        // The hole's middle is 97 m from the hole's edge; east of the square the parts are 970 m away.
        assert!(outline.is_within(&at(50.0, 50.0), 98.0));
        assert!(!outline.is_within(&at(50.0, 50.0), 96.0));
        assert!(outline.is_within(&at(150.0, 5.0), 488.0));
        assert!(!outline.is_within(&at(150.0, 5.0), 485.0));
    }
    let none = Outline::new(vec![Vec::new()]);
    assert!(none.middle().is_none() && none == Outline::new(vec![Vec::new()]));
    assert!(!none.contains(&at(0.0, 0.0)) && !none.is_within(&at(0.0, 0.0), 1e9));
}

#[test]
fn areas_that_share_an_edge_leave_no_place_out_and_none_twice() {
    let east = ring(&[(100, 0), (200, 0), (200, 100), (100, 100)]);
    let (west, east) = (Outline::new(vec![square()]), Outline::new(vec![east]));
    for y in 0..100 {
        for x in [50.0, 99.999, 100.0, 100.001, 150.0] {
            let place = at(x, f64::from(y) + 0.5);
            assert!(west.contains(&place) != east.contains(&place), "{place:?}");
        }
    }
}

#[test]
fn a_degree_measures_what_surveyors_say() {
    // Metres of a degree at 30 degrees north on the ellipsoid, from the tables.
    let local = Local::new(108.0, 30.0);
    assert!((local.north * 1e7 - 110_852.0).abs() < 1.0, "{}", local.north * 1e7);
    assert!((local.east * 1e7 - 96_486.0).abs() < 1.0, "{}", local.east * 1e7);
}

/// A place in space, metres from the middle of the earth.
fn in_space(lon_e7: f64, lat_e7: f64) -> [f64; 3] {
    let (lon, lat) = ((lon_e7 / 1e7).to_radians(), (lat_e7 / 1e7).to_radians());
    let n = SEMI_MAJOR_AXIS_M / (1.0 - ECCENTRICITY_SQUARED * lat.sin().powi(2)).sqrt();
    let z = n * (1.0 - ECCENTRICITY_SQUARED) * lat.sin();
    [n * lat.cos() * lon.cos(), n * lat.cos() * lon.sin(), z]
}

fn to_segment(p: [f64; 3], a: [f64; 3], b: [f64; 3]) -> f64 {
    let minus = |u: [f64; 3], v: [f64; 3]| [u[0] - v[0], u[1] - v[1], u[2] - v[2]];
    let dot = |u: [f64; 3], v: [f64; 3]| u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
    let (ab, ap) = (minus(b, a), minus(p, a));
    let t = if dot(ab, ab) > 0.0 { (dot(ap, ab) / dot(ab, ab)).clamp(0.0, 1.0) } else { 0.0 };
    let off = minus(ap, [ab[0] * t, ab[1] * t, ab[2] * t]);
    dot(off, off).sqrt()
}

/// Every edge in pieces short enough to be straight, in degrees and in space.
pub(crate) type Piece = ([f64; 2], [f64; 2], [f64; 3], [f64; 3]);

pub(crate) fn pieces(outline: &Outline) -> Vec<Piece> {
    let mut all = Vec::new();
    for ring in outline.rings() {
        for (from, to) in ring.iter().zip(ring.iter().cycle().skip(1)) {
            let (x, y) = (f64::from(from.lon_e7), f64::from(from.lat_e7));
            let (dx, dy) = (f64::from(to.lon_e7) - x, f64::from(to.lat_e7) - y);
            let count = (dx.abs().max(dy.abs()) / PIECE_E7).ceil().max(1.0);
            let mut step = 0.0;
            while step < count {
                let place = |k: f64| [x + dx * k / count, y + dy * k / count];
                let (a, b) = (place(step), place(step + 1.0));
                all.push((a, b, in_space(a[0], a[1]), in_space(b[0], b[1])));
                step += 1.0;
            }
        }
    }
    all
}

/// Metres to the nearest piece, and whether the pieces turn round the place.
pub(crate) fn oracle(pieces: &[Piece], place: &GeoPoint) -> (f64, bool) {
    let (x, y) = (place.lon * 1e7, place.lat * 1e7);
    let here = in_space(x, y);
    let (mut nearest, mut turn) = (f64::INFINITY, 0.0);
    for (a, b, a_space, b_space) in pieces {
        nearest = nearest.min(to_segment(here, *a_space, *b_space));
        let angle = |p: &[f64; 2]| (p[1] - y).atan2(p[0] - x);
        let step = angle(b) - angle(a);
        turn += step - TAU * (step / TAU).round();
    }
    (nearest, (turn / TAU).round() % 2.0 != 0.0)
}

#[test]
fn random_places_and_real_outlines_agree_with_the_oracle() {
    let outlines: Vec<Outline> = outlines().into_iter().map(|(_, outline)| outline).collect();
    assert!(outlines.len() >= 41, "{}", outlines.len());
    let pieces: Vec<Vec<Piece>> = outlines.iter().map(pieces).collect();
    let mut seed = 7_u32;
    let (mut asked, mut near, mut inside) = (0, 0, 0);
    for n in 0..PLACES {
        let mut draw = |low: f64, high: f64| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            low + f64::from(seed) / f64::from(u32::MAX) * (high - low)
        };
        // The counties lie there; each place is held against three outlines, one of them a county's.
        let place = point(draw(107.9, 110.4), draw(27.9, 30.6));
        for index in [n % outlines.len(), (n * 7 + 3) % outlines.len(), n % 11] {
            let (distance, within) = oracle(&pieces[index], &place);
            asked += 1;
            if distance > 1.0 {
                assert_eq!(outlines[index].contains(&place), within, "{place:?} {index}");
            }
            inside += usize::from(within);
            for metres in NEAR_M {
                // On the very line the answer is a matter of rounding.
                if (distance - metres).abs() > 1.0 + metres / 2_000.0 {
                    let expected = within || distance <= metres;
                    let found = outlines[index].is_within(&place, metres);
                    assert_eq!(found, expected, "{place:?} {index} {metres} {distance}");
                    near += usize::from(expected && !within);
                }
            }
        }
    }
    assert!(asked == 3 * PLACES && near > 300 && inside > 500, "{asked} {near} {inside}");
}
