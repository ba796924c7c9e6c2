//! Areas on the ground, and how far a place lies from them. An edge is straight in degrees, as maps draw
//! it; distances are metres on the WGS-84 ellipsoid, which is CGCS2000's to a tenth of a millimetre.

use crate::kernel::GeoPoint;

/// Edges that are looked at together: a place far from all of them costs one comparison.
const EDGES_PER_RUN: usize = 32;

const SEMI_MAJOR_AXIS_M: f64 = 6_378_137.0;
const ECCENTRICITY_SQUARED: f64 = 0.006_694_379_990_14;

/// A corner, in units of 1e-7 degrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Corner {
    /// East.
    pub lon_e7: i32,
    /// North.
    pub lat_e7: i32,
}

/// An area: what an odd number of its rings surrounds, so that parts and holes need no word of their own.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outline {
    rings: Vec<Vec<Corner>>,
    runs: Vec<Run>,
    bounds: Option<Bounds>,
}

/// Edges that follow one another, and the box around them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    bounds: Bounds,
    edges: Vec<(Corner, Corner)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    west: i32,
    east: i32,
    south: i32,
    north: i32,
}

impl Outline {
    /// The area that these rings surround. A ring closes by itself, whether or not its first corner is
    /// said again at its end.
    pub fn new(rings: Vec<Vec<Corner>>) -> Self {
        let runs: Vec<Run> = rings.iter().flat_map(|ring| runs(ring)).collect();
        let bounds = runs.iter().map(|run| run.bounds).reduce(Bounds::with);
        Self { rings, runs, bounds }
    }

    /// Its rings, as they were given.
    pub fn rings(&self) -> &[Vec<Corner>] {
        &self.rings
    }

    /// Whether the place lies in the area.
    pub fn contains(&self, place: &GeoPoint) -> bool {
        let (lon, lat) = (place.lon * 1e7, place.lat * 1e7);
        let Some(bounds) = self.bounds else { return false };
        if !bounds.reach(lon, lat, 0.0, 0.0) {
            return false;
        }
        // Only edges that a line to the east meets count, so only runs at this height.
        let at_height = self.runs.iter().filter(|run| {
            lat >= f64::from(run.bounds.south)
                && lat <= f64::from(run.bounds.north)
                && lon <= f64::from(run.bounds.east)
        });
        at_height
            .flat_map(|run| &run.edges)
            .filter(|(from, to)| crosses(*from, *to, lon, lat))
            .count()
            % 2
            == 1
    }

    /// Whether the place lies in the area, or no further from its edge than so many metres.
    pub fn is_within(&self, place: &GeoPoint, metres: f64) -> bool {
        let Some(bounds) = self.bounds else { return false };
        let local = Local::new(place.lon, place.lat);
        let (lon, lat) = (place.lon * 1e7, place.lat * 1e7);
        // A little more than asked for, as the box is only to leave out what is far away.
        let (wide, high) = local.degrees_e7(metres * 1.01 + 1.0);
        if !bounds.reach(lon, lat, wide, high) {
            return false;
        }
        let near = self.runs.iter().filter(|run| run.bounds.reach(lon, lat, wide, high));
        near.flat_map(|run| &run.edges)
            .any(|(from, to)| distance_m(local.metres(*from), local.metres(*to)) <= metres)
            || self.contains(place)
    }

    /// The middle of the box around it.
    pub fn middle(&self) -> Option<(f64, f64)> {
        let Bounds { west, east, south, north } = self.bounds?;
        let half = |a: i32, b: i32| f64::midpoint(f64::from(a), f64::from(b)) / 1e7;
        Some((half(west, east), half(south, north)))
    }

    /// Metres from the middle to a corner of the box around it.
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "no place on earth is further than 2e7 m from another"
    )]
    pub fn radius_m(&self) -> f32 {
        let (Some((lon, lat)), Some(bounds)) = (self.middle(), self.bounds) else { return 0.0 };
        let local = Local::new(lon, lat);
        let (x, y) = local.metres(Corner { lon_e7: bounds.west, lat_e7: bounds.south });
        x.hypot(y) as f32
    }
}

fn runs(ring: &[Corner]) -> Vec<Run> {
    let ends = ring.iter().skip(1).chain(ring.first());
    let edges: Vec<_> = ring.iter().copied().zip(ends.copied()).collect();
    edges
        .chunks(EDGES_PER_RUN)
        .filter_map(|edges| {
            let corners = edges.iter().flat_map(|(from, to)| [*from, *to]);
            let bounds = corners.map(Bounds::of).reduce(Bounds::with)?;
            Some(Run { bounds, edges: edges.to_vec() })
        })
        .collect()
}

impl Bounds {
    const fn of(corner: Corner) -> Self {
        let Corner { lon_e7, lat_e7 } = corner;
        Self { west: lon_e7, east: lon_e7, south: lat_e7, north: lat_e7 }
    }

    fn with(self, other: Self) -> Self {
        Self {
            west: self.west.min(other.west),
            east: self.east.max(other.east),
            south: self.south.min(other.south),
            north: self.north.max(other.north),
        }
    }

    /// Whether the place lies in the box when it is made so much wider and higher on every side.
    fn reach(self, lon: f64, lat: f64, wide: f64, high: f64) -> bool {
        lon >= f64::from(self.west) - wide
            && lon <= f64::from(self.east) + wide
            && lat >= f64::from(self.south) - high
            && lat <= f64::from(self.north) + high
    }
}

/// Whether a line from the place to the east meets the edge. The lower end of an edge belongs to it, the
/// upper does not, so that a corner between two edges counts once.
fn crosses(from: Corner, to: Corner, lon: f64, lat: f64) -> bool {
    let (x1, y1) = (f64::from(from.lon_e7), f64::from(from.lat_e7));
    let (x2, y2) = (f64::from(to.lon_e7), f64::from(to.lat_e7));
    (y1 > lat) != (y2 > lat) && lon < (x2 - x1) * (lat - y1) / (y2 - y1) + x1
}

/// Metres around a place. Degrees of longitude shrink to the north: what they measure half way is taken,
/// which is off by less than a metre in fifty kilometres here.
struct Local {
    lon_e7: f64,
    lat_e7: f64,
    /// Metres in 1e-7 degrees of latitude.
    north: f64,
    /// Metres in 1e-7 degrees of longitude, at the place.
    east: f64,
    /// By how much that shrinks each 1e-7 degrees to the north, half way.
    shrink: f64,
}

impl Local {
    fn new(lon: f64, lat: f64) -> Self {
        let unit = 1e-7_f64.to_radians();
        let (sin, cos) = lat.to_radians().sin_cos();
        let magic = 1.0 - ECCENTRICITY_SQUARED * sin * sin;
        let across = SEMI_MAJOR_AXIS_M / magic.sqrt();
        Self {
            lon_e7: lon * 1e7,
            lat_e7: lat * 1e7,
            north: across * (1.0 - ECCENTRICITY_SQUARED) / magic * unit,
            east: across * cos * unit,
            shrink: across * sin * unit * unit / 2.0,
        }
    }

    /// East and north of the place.
    fn metres(&self, corner: Corner) -> (f64, f64) {
        let up = f64::from(corner.lat_e7) - self.lat_e7;
        let right = f64::from(corner.lon_e7) - self.lon_e7;
        (right * (self.east - self.shrink * up), up * self.north)
    }

    /// So many metres in 1e-7 degrees, east and north.
    fn degrees_e7(&self, metres: f64) -> (f64, f64) {
        (metres / self.east, metres / self.north)
    }
}

/// From the origin to the nearest place between two others.
fn distance_m((x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> f64 {
    let (dx, dy) = (x2 - x1, y2 - y1);
    let length = dx.mul_add(dx, dy * dy);
    let along = if length > 0.0 { (-(x1 * dx + y1 * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
    (x1 + along * dx).hypot(y1 + along * dy)
}

#[cfg(test)]
pub(crate) mod tests;
