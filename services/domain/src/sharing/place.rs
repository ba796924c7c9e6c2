//! Where a clause holds, and how exactly it lets a place be seen.

use crate::agreement::{Agreement, Area, Clause, Precision};
use crate::directory::Directory;
use crate::kernel::{GeoPoint, Kind};
use crate::record::Record;

/// Half the diagonal of a cell of a thousandth of a degree, at the equator, where it is largest.
const HUNDRED_METRES_RADIUS_M: f32 = 80.0;
const KILOMETRE_RADIUS_M: f32 = 800.0;

/// Whether the record lies where the clause holds. One that lies nowhere passes only a clause that holds
/// everywhere, but for a call for help: that nobody knows where it comes from must not keep it from those
/// who could help.
pub(super) fn holds(
    record: &Record,
    clause: &Clause,
    agreement: &Agreement,
    directory: &Directory,
) -> bool {
    let body = &record.body;
    let nowhere = body.kind() == Kind::SosAlert;
    let on_the_ground = |holds: &dyn Fn(&GeoPoint) -> bool| {
        body.points().next().map_or(nowhere, |(_, point)| holds(point))
    };
    match &clause.area {
        Area::Everywhere => true,
        Area::Zones(zones) => {
            on_the_ground(&|point| zones.iter().any(|zone| zone.outline.contains(point)))
        }
        Area::NearParties(metres) => on_the_ground(&|point| {
            let others = agreement.parties.iter().map(|party| &party.region);
            others
                .filter(|region| **region != record.meta.owner_region)
                .filter_map(|region| directory.regions.get(region))
                .any(|region| region.outline.is_within(point, f64::from(*metres)))
        }),
        Area::Places(names) => body
            .place()
            .map_or(nowhere, |(_, place)| names.iter().any(|name| place.contains(name.as_str()))),
    }
}

/// A place as it may be seen. It is the middle of a cell that does not depend on the place, so that what is
/// shown again and again cannot be averaged; `None` where no region is drawn around it.
pub(super) fn coarse(
    point: &GeoPoint,
    precision: Precision,
    directory: &Directory,
) -> Option<GeoPoint> {
    let (lon, lat, radius_m) = match precision {
        Precision::Exact => return Some(*point),
        Precision::HundredMetres => snapped(point, 1_000.0, HUNDRED_METRES_RADIUS_M),
        Precision::Kilometre => snapped(point, 100.0, KILOMETRE_RADIUS_M),
        Precision::Township => {
            let outline = &directory.locate(point)?.outline;
            let (lon, lat) = outline.middle()?;
            (lon, lat, outline.radius_m())
        }
    };
    let accuracy_m = point.accuracy_m.max(radius_m);
    Some(GeoPoint { lon, lat, accuracy_m, source: None, altitude_m: None, ..*point })
}

/// The middle of the cell, so many of which make a degree.
fn snapped(point: &GeoPoint, cells: f64, radius_m: f32) -> (f64, f64, f32) {
    let middle = |degrees: f64| ((degrees * cells).floor() + 0.5) / cells;
    (middle(point.lon), middle(point.lat), radius_m)
}
