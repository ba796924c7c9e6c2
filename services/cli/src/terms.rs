//! The terms of an agreement as people write and read them: TOML, one `[[clause]]` a line of the view rule.

use crate::geojson::{self, e7};
use crate::linkage::Terms;
use anyhow::{Context as _, Result, bail, ensure};
use domain::agreement::{Agreement, AgreementForm, Area, Clause, Grant, Precision, Release, Zone};
use domain::kernel::{EmergencyLevel, Kind, Purpose, RegionId};
use domain::outline::{Corner, Outline};
use domain::risk::category;
use domain::sharing::fields;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const DAY_MS: i64 = 24 * 3_600_000;
const DAYS_DEFAULT: u32 = 365;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TermsFile {
    title: String,
    /// AGREEMENT unless it says otherwise.
    #[serde(default)]
    form: Option<String>,
    parties: Vec<String>,
    /// All unless it names some.
    #[serde(default)]
    purposes: Vec<String>,
    /// In force for so many days.
    #[serde(default)]
    days: Option<u32>,
    /// Days that parties keep a view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retention_days: Option<u32>,
    #[serde(rename = "clause")]
    clauses: Vec<ClauseFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClauseFile {
    grant: String,
    release: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_level: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    precision: Option<String>,
    /// One of these three, or the clause holds everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    near_parties_m: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    places: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    zones: Vec<ZoneFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneFile {
    name: String,
    /// A file beside the terms; or
    #[serde(default, skip_serializing_if = "Option::is_none")]
    geojson: Option<PathBuf>,
    /// rings of [longitude, latitude], WGS-84, degrees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rings: Vec<Vec<[f64; 2]>>,
}

/// Reads a file of terms; what it names lies beside it.
///
/// # Errors
/// When a word of it is not known, with the place.
pub fn read(path: &Path) -> Result<Terms> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let beside = path.parent().unwrap_or(Path::new("."));
    parse(&text, beside).with_context(|| format!("{} holds no terms", path.display()))
}

fn parse(text: &str, beside: &Path) -> Result<Terms> {
    let file: TermsFile = toml::from_str(text)?;
    let TermsFile { title, form, parties, purposes, days, retention_days, clauses } = file;
    let clause =
        |(index, file)| clause(file, beside).with_context(|| format!("clause {}", index + 1));
    let all = if purposes.is_empty() { Purpose::ALL.to_vec() } else { Vec::new() };
    Ok(Terms {
        form: form.map_or(Ok(AgreementForm::Agreement), |form| {
            known("form", &form, AgreementForm::from_name)
        })?,
        title,
        parties: parties
            .iter()
            .map(|id| RegionId::parse(id).with_context(|| format!("`{id}` is no region id")))
            .collect::<Result<_>>()?,
        clauses: clauses.into_iter().enumerate().map(clause).collect::<Result<_>>()?,
        purposes: purposes
            .iter()
            .map(|purpose| known("purpose", purpose, Purpose::from_name))
            .chain(all.into_iter().map(Ok))
            .collect::<Result<_>>()?,
        days: i64::from(days.unwrap_or(DAYS_DEFAULT)),
        retention_days,
        supersedes: None,
    })
}

fn known<T>(what: &str, name: &str, find: fn(&str) -> Option<T>) -> Result<T> {
    find(name).with_context(|| format!("`{name}` is no {what}"))
}

fn clause(file: ClauseFile, beside: &Path) -> Result<Clause> {
    let ClauseFile {
        grant,
        release,
        min_level,
        categories,
        fields: listed,
        precision,
        near_parties_m,
        places,
        zones,
    } = file;
    // A word that nothing answers to would keep back what it was meant to let pass, and say nothing.
    for code in &categories {
        ensure!(category(code).is_some(), "`{code}` is no category");
    }
    for field in &listed {
        let is_one = Kind::ALL.iter().any(|kind| fields(*kind).contains(&field.as_str()));
        ensure!(is_one, "`{field}` is no field of a record");
    }
    let area = match (near_parties_m, places.is_empty(), zones.is_empty()) {
        (None, true, true) => Area::Everywhere,
        (Some(metres), true, true) => Area::NearParties(metres),
        (None, false, true) => Area::Places(places),
        (None, true, false) => Area::Zones(
            zones.into_iter().map(|zone| self::zone(zone, beside)).collect::<Result<_>>()?,
        ),
        _ => bail!("near_parties_m, places and zones exclude one another"),
    };
    Ok(Clause {
        grant: known("grant", &grant, Grant::from_name)?,
        categories,
        min_level: min_level
            .map(|level| known("level", &level, EmergencyLevel::from_name))
            .transpose()?,
        release: known("release", &release, Release::from_name)?,
        fields: listed,
        area,
        precision: precision.map_or(Ok(Precision::Exact), |precision| {
            known("precision", &precision, Precision::from_name)
        })?,
    })
}

fn zone(file: ZoneFile, beside: &Path) -> Result<Zone> {
    let ZoneFile { name, geojson, rings } = file;
    let outline = match geojson {
        Some(file) => {
            ensure!(rings.is_empty(), "zone `{name}` has both geojson and rings");
            geojson::read(&beside.join(file))?
        }
        None => {
            let corner = |[lon, lat]: &[f64; 2]| Corner { lon_e7: e7(*lon), lat_e7: e7(*lat) };
            Outline::new(rings.iter().map(|ring| ring.iter().map(corner).collect()).collect())
        }
    };
    Ok(Zone { name, outline })
}

/// An agreement's terms, as [`read`] takes them.
pub fn print(agreement: &Agreement) -> String {
    let days = (agreement.ended_at.micros() - agreement.started_at.micros()) / 1_000 / DAY_MS;
    let file = TermsFile {
        title: agreement.title.clone(),
        form: Some(agreement.form.name().to_owned()),
        parties: agreement.parties.iter().map(|party| party.region.to_string()).collect(),
        purposes: agreement.purposes.iter().map(|purpose| purpose.name().to_owned()).collect(),
        days: u32::try_from(days).ok(),
        retention_days: agreement.retention_days,
        clauses: agreement.clauses.iter().map(clause_file).collect(),
    };
    // Strings, numbers and lists of them: there is nothing that TOML cannot say.
    toml::to_string(&file).unwrap_or_default()
}

fn clause_file(clause: &Clause) -> ClauseFile {
    let Clause { grant, categories, min_level, release, fields, area, precision } = clause;
    let degrees = |e7: i32| f64::from(e7) / 1e7;
    let ring = |ring: &Vec<Corner>| {
        ring.iter().map(|corner| [degrees(corner.lon_e7), degrees(corner.lat_e7)]).collect()
    };
    let zone = |zone: &Zone| ZoneFile {
        name: zone.name.clone(),
        geojson: None,
        rings: zone.outline.rings().iter().map(ring).collect(),
    };
    let (mut near_parties_m, mut places, mut zones) = (None, Vec::new(), Vec::new());
    match area {
        Area::Everywhere => {}
        Area::NearParties(metres) => near_parties_m = Some(*metres),
        Area::Places(names) => places.clone_from(names),
        Area::Zones(drawn) => zones = drawn.iter().map(zone).collect(),
    }
    ClauseFile {
        grant: grant.name().to_owned(),
        release: release.name().to_owned(),
        min_level: min_level.map(|level| level.name().to_owned()),
        categories: categories.clone(),
        fields: fields.clone(),
        precision: (*precision != Precision::Exact).then(|| precision.name().to_owned()),
        near_parties_m,
        places,
        zones,
    }
}

/// What was taken out of the terms (`-`) and put in (`+`), by lines before the clauses and by whole clauses.
pub fn diff(before: &Agreement, after: &Agreement) -> String {
    let (before, after) = (print(before), print(after));
    let (before, after) = (parts(&before), parts(&after));
    let marked = |mark: char, part: &str| {
        part.lines().map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    let gone = before.iter().filter(|part| !after.contains(part)).map(|part| marked('-', part));
    let come = after.iter().filter(|part| !before.contains(part)).map(|part| marked('+', part));
    gone.chain(come).collect()
}

fn parts(text: &str) -> Vec<&str> {
    const CLAUSE: &str = "[[clause]]\n";
    let (head, clauses) = text.split_once(CLAUSE).unwrap_or((text, ""));
    let lines = head.lines().filter(|line| !line.is_empty());
    lines.chain(clauses.split(CLAUSE)).map(str::trim_end).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linkage;
    use domain::kernel::Timestamp;

    const SAMPLE: &str = include_str!("../../../deploy/samples/agreement.toml");

    fn agreed(terms: Terms) -> Agreement {
        let now = Timestamp::from_micros(0);
        linkage::written(terms, Vec::new(), now, &runtime::clock::SystemEntropy)
    }

    #[test]
    fn what_is_printed_reads_as_what_was_agreed() {
        let terms = parse(SAMPLE, Path::new("/")).unwrap();
        let agreement = agreed(terms);
        let printed = print(&agreement);
        let again = parse(&printed, Path::new("/")).unwrap();
        assert_eq!(again.clauses, agreement.clauses);
        assert_eq!(again.days, 365);
        assert_eq!(
            print(&agreed(again)).replace("parties = []", ""),
            printed.replace("parties = []", "")
        );
        assert_eq!(diff(&agreement, &agreement), "");
    }

    #[test]
    fn a_diff_names_what_was_changed_and_nothing_else() {
        let terms = parse(SAMPLE, Path::new("/")).unwrap();
        let before = agreed(terms.clone());
        let mut changed = Terms { title: "新".to_owned(), ..terms };
        changed.clauses[0].min_level = Some(EmergencyLevel::II);
        let told = diff(&before, &agreed(changed));
        assert!(told.contains("+ title = \"新\"\n"), "{told}");
        assert!(told.contains("+ min_level = \"II\"\n"), "{told}");
        assert!(!told.contains("purposes"), "{told}");
        let grants = told.lines().filter(|line| line.contains("grant = ")).count();
        assert_eq!(grants, 2, "the clause before and the clause after: {told}");
    }

    #[test]
    fn a_word_that_means_nothing_is_refused_by_its_place() {
        for (from, to, why) in [
            ("EVENT_DETAIL", "EVERYTHING", "clause 1: `EVERYTHING` is no grant"),
            ("ON_ACCEPT", "LATER", "`LATER` is no release"),
            ("\"GEOLOGICAL\"", "\"GEOLOGICL\"", "`GEOLOGICL` is no category"),
            ("\"category\"", "\"categry\"", "`categry` is no field"),
            ("100_M", "10_M", "`10_M` is no precision"),
            ("\"xianfeng\"", "\"Xian feng\"", "is no region id"),
            ("near_parties_m = 5000", "near_parties_m = 5000\nplaces = [\"黑溪\"]", "exclude"),
            ("title", "titel", "titel"),
        ] {
            assert!(SAMPLE.contains(from), "{from}");
            let error = parse(&SAMPLE.replacen(from, to, 1), Path::new("/")).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(why), "{error}");
        }
    }
}
