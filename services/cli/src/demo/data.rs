//! The demo's data, inside the binary: regions, events, GPS shapes. Sources and licences lie beside them.

use crate::geojson::e7;
use anyhow::{Context as _, Result};
use domain::directory::{CodeScheme, DivisionCode, RegionLevel};
use domain::kernel::{EmergencyLevel, RegionId};
use domain::outline::{Corner, Outline};
use domain::risk::EventDomain;
use std::collections::BTreeMap;

const REGIONS: &str = include_str!("../../data/regions.csv");
const OUTLINES: &str = include_str!("../../data/outlines.csv");
const EVENTS: &str = include_str!("../../data/events.csv");
const TRACKS: &[(&str, &str)] = &[
    ("xiaonanhai", include_str!("../../data/tracks/xiaonanhai_daluba_joint_river_patrol.csv")),
    ("zhoubai", include_str!("../../data/tracks/zhoubai_foot_patrol.csv")),
    ("heixi", include_str!("../../data/tracks/heixi_hazard_point_long_patrol.csv")),
    ("zhengyang", include_str!("../../data/tracks/zhengyang_vehicle_patrol.csv")),
];

/// The district whose thirty townships are hosted.
pub(super) const DISTRICT: &str = "qianjiang";

/// A region of the demo.
#[derive(Clone, Debug)]
pub(super) struct DemoRegion {
    pub(super) id: RegionId,
    pub(super) level: RegionLevel,
    pub(super) code: DivisionCode,
    pub(super) name_zh: String,
    pub(super) name_en: String,
    pub(super) superior: Option<RegionId>,
    pub(super) outline: Outline,
}

/// An event to report.
#[derive(Clone, Debug)]
pub(super) struct DemoEvent {
    pub(super) region: RegionId,
    pub(super) domain: EventDomain,
    pub(super) category: String,
    pub(super) lon: f64,
    pub(super) lat: f64,
    pub(super) level: Option<EmergencyLevel>,
}

/// The shape of a patrol.
#[derive(Clone, Debug)]
pub(super) struct DemoTrack {
    pub(super) region: RegionId,
    pub(super) points: Vec<(f64, f64)>,
}

/// The district, its townships and the ten partners.
pub(super) fn regions() -> Result<Vec<DemoRegion>> {
    let mut outlines = outlines()?;
    rows(REGIONS)
        .map(|row| {
            let [code, name_zh, name_en, level, _parent, _lon, _lat, id] = columns(row)?;
            let township = level != "county";
            let superior = township.then(|| DISTRICT.parse()).transpose()?;
            Ok(DemoRegion {
                id: id.parse()?,
                level: if township { RegionLevel::Township } else { RegionLevel::County },
                code: DivisionCode {
                    scheme: if township { CodeScheme::Nbs } else { CodeScheme::Gb2260 },
                    code: code.to_owned(),
                    edition: "2023".to_owned(),
                },
                name_zh: name_zh.to_owned(),
                name_en: name_en.to_owned(),
                superior,
                outline: outlines.remove(id).map(Outline::new).unwrap_or_default(),
            })
        })
        .collect()
}

/// The outline of a region, by its id.
pub(crate) fn outline_of(id: &str) -> Result<Outline> {
    let rings = outlines()?.remove(id).with_context(|| format!("nobody has drawn {id}"))?;
    Ok(Outline::new(rings))
}

/// The rings of each region; they are numbered from 1 as they come.
fn outlines() -> Result<BTreeMap<&'static str, Vec<Vec<Corner>>>> {
    let mut outlines: BTreeMap<_, Vec<Vec<Corner>>> = BTreeMap::new();
    for row in rows(OUTLINES) {
        let [region, ring, lon, lat] = columns(row)?;
        let corner = Corner { lon_e7: e7(lon.parse()?), lat_e7: e7(lat.parse()?) };
        let rings = outlines.entry(region).or_default();
        rings.resize(rings.len().max(ring.parse()?), Vec::new());
        rings.last_mut().context("rings are numbered from 1")?.push(corner);
    }
    Ok(outlines)
}

/// A thousand synthetic events, each of the region whose phone reports it.
pub(super) fn events() -> Result<Vec<DemoEvent>> {
    rows(EVENTS)
        .map(|row| {
            let [_id, domain, category, _code, region, _at, lon, lat, severity] = columns(row)?;
            let domain =
                EventDomain::from_name(domain).with_context(|| format!("domain {domain}"))?;
            Ok(DemoEvent {
                region: region.parse()?,
                domain,
                category: category.to_owned(),
                lon: lon.parse()?,
                lat: lat.parse()?,
                level: level(domain, severity),
            })
        })
        .collect()
}

/// Public security carries no level, and a dispute has a grade instead of one.
fn level(domain: EventDomain, severity: &str) -> Option<EmergencyLevel> {
    if matches!(domain, EventDomain::Security | EventDomain::Dispute) {
        return None;
    }
    match severity {
        "RED" => Some(EmergencyLevel::I),
        "ORANGE" => Some(EmergencyLevel::II),
        "YELLOW" => Some(EmergencyLevel::III),
        "BLUE" => Some(EmergencyLevel::IV),
        _ => None,
    }
}

/// Four real GPS shapes, moved here.
pub(super) fn tracks() -> Result<Vec<DemoTrack>> {
    TRACKS
        .iter()
        .map(|(region, text)| {
            let points = rows(text)
                .map(|row| {
                    let [_at, lon, lat, _ele] = columns(row)?;
                    Ok((lon.parse()?, lat.parse()?))
                })
                .collect::<Result<_>>()?;
            Ok(DemoTrack { region: region.parse()?, points })
        })
        .collect()
}

/// Lines after the header; lines with `#` say where the data are from.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).skip(1)
}

fn columns<const N: usize>(row: &str) -> Result<[&str; N]> {
    let columns: Vec<&str> = row.split(',').collect();
    columns.try_into().map_err(|_| anyhow::anyhow!("row `{row}` has not {N} columns"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_hold_thirty_townships_ten_partners_and_a_thousand_events() {
        let regions = regions().unwrap();
        assert_eq!(regions.len(), 41);
        assert_eq!(regions.iter().filter(|region| region.superior.is_some()).count(), 30);
        let events = events().unwrap();
        assert_eq!(events.len(), 1_000);
        assert!(events.iter().all(|event| regions.iter().any(|region| region.id == event.region)));
        assert_eq!(tracks().unwrap().len(), 4);
    }
}
