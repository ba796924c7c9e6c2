//! Outlines as maps give them: a GeoJSON (RFC 7946) geometry or feature, WGS-84, degrees.

use anyhow::{Context as _, Result, bail, ensure};
use domain::outline::{Corner, Outline};
use serde_json::Value;
use std::path::Path;

/// Reads a file of one.
///
/// # Errors
/// When it cannot be read or is no such thing.
pub fn read(path: &Path) -> Result<Outline> {
    let text = std::fs::read_to_string(path).map_err(Into::into);
    text.and_then(|text| outline(&text))
        .with_context(|| format!("{} is no outline", path.display()))
}

/// Reads a `Polygon` or `MultiPolygon`, bare or in a `Feature`. Its size is checked where it is signed.
///
/// # Errors
/// When it is no such thing.
pub fn outline(text: &str) -> Result<Outline> {
    let value: Value = serde_json::from_str(text).context("it is no JSON")?;
    let geometry = if value["type"] == "Feature" { &value["geometry"] } else { &value };
    let polygons = match geometry["type"].as_str() {
        Some("Polygon") => std::slice::from_ref(&geometry["coordinates"]),
        Some("MultiPolygon") => list(&geometry["coordinates"])?,
        _ => bail!("it is no Polygon, MultiPolygon or Feature of one"),
    };
    let mut rings = Vec::new();
    for polygon in polygons {
        for ring in list(polygon)? {
            rings.push(list(ring)?.iter().map(corner).collect::<Result<_>>()?);
        }
    }
    Ok(Outline::new(rings))
}

fn list(value: &Value) -> Result<&[Value]> {
    Ok(value.as_array().context("its coordinates are no lists of lists of positions")?)
}

fn corner(position: &Value) -> Result<Corner> {
    let degrees = |index: usize, most: f64| {
        let degrees = position[index].as_f64().context("a position is no two numbers")?;
        ensure!(degrees.abs() <= most, "{degrees} degrees lie nowhere on earth");
        Ok(e7(degrees))
    };
    Ok(Corner { lon_e7: degrees(0, 180.0)?, lat_e7: degrees(1, 90.0)? })
}

/// Degrees in steps of 1e-7; those that are none on earth end at the edge of the number.
#[expect(clippy::cast_possible_truncation, clippy::as_conversions, reason = "as said")]
pub(crate) fn e7(degrees: f64) -> i32 {
    (degrees * 1e7).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_geometry_or_a_feature_of_one_is_read() {
        let ring = "[[108.5,29.0],[108.6,29.0,700],[108.6,29.1],[108.5,29.0]]";
        let polygon = format!(r#"{{"type":"Polygon","coordinates":[{ring}]}}"#);
        let many = format!(r#"{{"type":"MultiPolygon","coordinates":[[{ring}],[{ring}]]}}"#);
        let feature = format!(r#"{{"type":"Feature","properties":{{}},"geometry":{polygon}}}"#);
        for (text, rings) in [(&polygon, 1), (&many, 2), (&feature, 1)] {
            let outline = outline(text).unwrap();
            assert_eq!(outline.rings().len(), rings);
            let last = outline.rings()[0][2];
            assert_eq!(last, Corner { lon_e7: 1_086_000_000, lat_e7: 291_000_000 });
        }
    }

    #[test]
    fn what_is_no_area_is_refused() {
        for (text, why) in [
            ("{", "no JSON"),
            (r#"{"type":"Point","coordinates":[108.5,29.0]}"#, "no Polygon"),
            (r#"{"type":"Polygon","coordinates":[1,2]}"#, "no lists"),
            (r#"{"type":"Polygon","coordinates":[[[1]]]}"#, "no two numbers"),
            (r#"{"type":"Polygon","coordinates":[[[29.0,108.5]]]}"#, "nowhere on earth"),
        ] {
            let error = format!("{:#}", outline(text).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
