//! Places on the ground. Stored as WGS-84 (equal to CGCS2000 at field accuracy); GCJ-02, which phone
//! map kits in China give and which lies about 500 m off here, is converted at the door.

use super::{Datum, FixSource};
use std::f64::consts::PI;

/// A place on the ground.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeoPoint {
    /// Degrees east.
    pub lon: f64,
    /// Degrees north.
    pub lat: f64,
    /// Radius of 68 % confidence; 0 when unknown.
    pub accuracy_m: f32,
    /// `Wgs84` or `Cgcs2000`; never `Gcj02` inside.
    pub datum: Datum,
    /// How it was found.
    pub source: Option<FixSource>,
    /// Above the ellipsoid.
    pub altitude_m: Option<f32>,
}

const SEMI_MAJOR_AXIS_M: f64 = 6_378_245.0;
const ECCENTRICITY_SQUARED: f64 = 0.006_693_421_622_965_943;

/// Moves a WGS-84 position as phone map kits in China do.
pub fn wgs84_to_gcj02(lon: f64, lat: f64) -> (f64, f64) {
    if !(72.004..=137.834_7).contains(&lon) || !(0.829_3..=55.827_1).contains(&lat) {
        return (lon, lat);
    }
    let (x, y) = (lon - 105.0, lat - 35.0);
    let wave = |v: f64, amplitude: f64, period: f64| amplitude * (v * PI / period).sin();
    let shared = (wave(x, 20.0, 1.0 / 6.0) + wave(x, 20.0, 0.5)) * 2.0 / 3.0;
    let north = -100.0
        + 2.0 * x
        + 3.0 * y
        + 0.2 * y * y
        + 0.1 * x * y
        + 0.2 * x.abs().sqrt()
        + shared
        + (wave(y, 20.0, 1.0) + wave(y, 40.0, 3.0)) * 2.0 / 3.0
        + (wave(y, 160.0, 12.0) + wave(y, 320.0, 30.0)) * 2.0 / 3.0;
    let east = 300.0
        + x
        + 2.0 * y
        + 0.1 * x * x
        + 0.1 * x * y
        + 0.1 * x.abs().sqrt()
        + shared
        + (wave(x, 20.0, 1.0) + wave(x, 40.0, 3.0)) * 2.0 / 3.0
        + (wave(x, 150.0, 12.0) + wave(x, 300.0, 30.0)) * 2.0 / 3.0;
    let phi = lat * PI / 180.0;
    let magic = 1.0 - ECCENTRICITY_SQUARED * phi.sin() * phi.sin();
    let meridian_m = SEMI_MAJOR_AXIS_M * (1.0 - ECCENTRICITY_SQUARED) / (magic * magic.sqrt());
    let parallel_m = SEMI_MAJOR_AXIS_M / magic.sqrt() * phi.cos();
    (lon + east * 180.0 / (parallel_m * PI), lat + north * 180.0 / (meridian_m * PI))
}

/// The way back. The forward move has no closed inverse, so it is approached; four rounds reach
/// well under a millimetre.
pub fn gcj02_to_wgs84(lon: f64, lat: f64) -> (f64, f64) {
    let (mut x, mut y) = (lon, lat);
    for _ in 0..4 {
        let (moved_x, moved_y) = wgs84_to_gcj02(x, y);
        x += lon - moved_x;
        y += lat - moved_y;
    }
    (x, y)
}
