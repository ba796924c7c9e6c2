//! What it costs to decide what leaves: `share()` alone, on records all over real outlines.

use super::Options;
use super::limits::{self, Limits};
use super::load;
use super::report::{self, Usage, median, noisy, percentile, put_spread, round};
use crate::demo::outline_of;
use crate::linkage::{Terms, written};
use anyhow::{Context as _, Result};
use domain::agreement::{AgreementForm, Area, Clause, Grant, Party, Precision, Release, Zone};
use domain::directory::{Directory, Region, RegionLevel};
use domain::kernel::{Clock as _, EmergencyLevel, Entropy as _, Epoch, RegionId, Role, Timestamp};
use domain::operation::{Change, Context, decide};
use domain::record::Record;
use domain::sharing::{Decision, share};
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Whose records they are, and to whom they go.
const OWNER: &str = "xiaonanhai";
const PARTIES: [&str; 3] = ["lichuan", "qianjiang", "xianfeng"];
/// Records of a round.
const RECORDS: usize = 20_000;
/// Degrees, west to east and south to north, of all of them.
const AROUND: [(f64, f64); 2] = [(108.3, 109.4), (29.2, 30.2)];

/// Terms that let all leave as it is.
pub(super) fn pass_all() -> Vec<Clause> {
    vec![Clause::whole(Grant::EventDetail, Release::AtOnce)]
}

/// Terms as neighbours make them: levels, categories, zones, distance from the boundary, fewer fields, coarse
/// places. The last lets pass what phones of a benchmark report.
pub(super) fn with_clauses() -> Result<Vec<Clause>> {
    let plain = || Clause::whole(Grant::EventDetail, Release::AtOnce);
    let zone = Zone { name: "黔江区".to_owned(), outline: outline_of("qianjiang")? };
    let text = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
    Ok(vec![
        Clause {
            release: Release::OnAccept,
            categories: text(&["FLASH_FLOOD"]),
            area: Area::NearParties(5_000),
            ..plain()
        },
        Clause { min_level: Some(EmergencyLevel::II), area: Area::Zones(vec![zone]), ..plain() },
        Clause {
            categories: text(&["GEOLOGICAL", "FOREST_FIRE"]),
            area: Area::NearParties(20_000),
            precision: Precision::HundredMetres,
            fields: text(&["domain", "category", "place", "point", "text", "source", "state"]),
            ..plain()
        },
    ])
}

/// As much as an agreement can hold: 64 clauses, each with zones that the record may lie in.
fn most() -> Result<Vec<Clause>> {
    let names = ["xianfeng", "lichuan", "qianjiang", "youyang"];
    let zones: Vec<Zone> = names
        .iter()
        .map(|name| Ok(Zone { name: (*name).to_owned(), outline: outline_of(name)? }))
        .collect::<Result<_>>()?;
    let clause = |_| Clause {
        min_level: Some(EmergencyLevel::I),
        area: Area::Zones(zones.clone()),
        precision: Precision::Township,
        ..Clause::whole(Grant::EventDetail, Release::AtOnce)
    };
    Ok((0..64).map(clause).collect())
}

/// Runs the suite.
pub(super) async fn run(options: &Options) -> Result<bool> {
    let lines = lines(options, RECORDS)?;
    report::print(&lines, options.json)?;
    Ok(true)
}

fn lines(options: &Options, records: usize) -> Result<Vec<Value>> {
    let cases = [("pass_all", pass_all()), ("clauses", with_clauses()?), ("most", most()?)];
    let records = self::records(records)?;
    let mut samples: Vec<Vec<Sample>> = cases.iter().map(|_| Vec::new()).collect();
    let mut limits = Vec::new();
    for _ in 0..options.rounds {
        limits.push(limits::measure_for(options.data.as_deref(), 0.2)?);
        for (samples, (_, clauses)) in samples.iter_mut().zip(&cases) {
            samples.push(measure(&records, clauses)?);
        }
    }
    let told = cases.iter().zip(&samples);
    Ok(told.map(|((name, _), samples)| line(name, samples, &limits)).collect())
}

/// What one round of a case came to.
struct Sample {
    us: [f64; 3],
    shown: f64,
    others_cpu: f64,
}

fn line(case: &str, samples: &[Sample], limits: &[Limits]) -> Value {
    let of = |pick: &dyn Fn(&Sample) -> f64| samples.iter().map(pick).collect::<Vec<f64>>();
    let mut line = json!({
        "suite": "share",
        "case": case,
        "p99_us": round(median(of(&|s| s.us[1]))),
        "max_us": round(median(of(&|s| s.us[2]))),
        "shown": round(median(of(&|s| s.shown))),
        "n": samples.len(),
        "noisy": noisy(of(&|s| s.others_cpu), limits),
    });
    put_spread(&mut line, "p50_us", of(&|s| s.us[0]));
    line
}

fn measure(records: &[Record], clauses: &[Clause]) -> Result<Sample> {
    let directory = directory()?;
    let now = SystemClock.now();
    let owner = std::iter::once(OWNER);
    let mut ids: Vec<RegionId> =
        owner.chain(PARTIES).map(|id| Ok(id.parse()?)).collect::<Result<_>>()?;
    ids.sort();
    let party = |region: &RegionId| Party { region: region.clone(), signing_key_sha256: [0; 32] };
    let parties = ids.iter().map(party).collect();
    let form = AgreementForm::Agreement;
    let terms = Terms::plain(form, "边界联防".to_owned(), ids, clauses.to_vec());
    let agreement = written(terms, parties, now, &SystemEntropy);
    let usage = Usage::own()?;
    let (mut us, mut shown) = (Vec::with_capacity(records.len()), 0);
    for record in records {
        let from = Instant::now();
        let decision = share(record, &agreement, &directory, None, now);
        us.push(from.elapsed().as_secs_f64() * 1e6);
        shown += usize::from(matches!(decision, Decision::Show(_)));
    }
    let us = [50.0, 99.0, 100.0].map(|percent| percentile(&mut us, percent));
    let others_cpu = usage.until_now(&[std::process::id()])?.others_cpu;
    let shown = shown as f64 / records.len() as f64;
    Ok(Sample { us, shown, others_cpu })
}

fn directory() -> Result<Directory> {
    let mut regions = BTreeMap::new();
    for id in std::iter::once(OWNER).chain(PARTIES) {
        let region_id: RegionId = id.parse()?;
        let county = id != OWNER;
        let region = Region {
            region_id: region_id.clone(),
            level: if county { RegionLevel::County } else { RegionLevel::Township },
            codes: Vec::new(),
            name_zh: id.to_owned(),
            name_en: id.to_owned(),
            superior: None,
            signing_key: [0; 32],
            sealing_key: [0; 32],
            authority_certificate: Vec::new(),
            endpoint: String::new(),
            outline: outline_of(id)?,
            former_keys: Vec::new(),
        };
        regions.insert(region_id, region);
    }
    Ok(Directory {
        linkage_id: "wuling-bench".parse()?,
        version: 1,
        created_at: SystemClock.now(),
        regions,
        gateways: BTreeMap::new(),
        freshness_key: None,
        delegations: Default::default(),
    })
}

/// Reports as phones make them, all over the map.
fn records(count: usize) -> Result<Vec<Record>> {
    let now = SystemClock.now();
    let (region, epoch): (RegionId, _) = (OWNER.parse()?, Epoch::mint(now, &SystemEntropy));
    (0..count)
        .map(|number| {
            let mut operation = load::report(number as u64 + 1, "");
            if let Change::ReportEvent(event) = &mut operation.change
                && let Some(point) = &mut event.point
            {
                let [lon, lat] = AROUND.map(|(least, most)| least + drawn() * (most - least));
                (point.lon, point.lat) = (lon, lat);
            }
            let context = Context {
                region: &region,
                epoch,
                now: Timestamp::from_micros(now.micros() + 1),
                clock_offset_ms: 0,
                role: Role::Patroller,
                device: None,
            };
            decide(&operation, None, None, &context).ok().context("a report was refused")
        })
        .collect()
}

/// From 0 to 1.
fn drawn() -> f64 {
    let mut bytes = [0; 4];
    SystemEntropy.fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_measured_and_decides_what_it_should() {
        let options = Options {
            json: true,
            rounds: 1,
            records: 0,
            backlog: 0,
            cases: Vec::new(),
            data: None,
        };
        let lines = lines(&options, 500).expect("measured");
        let shown: Vec<_> =
            lines.iter().map(|line| line["shown"].as_f64().expect("told")).collect();
        // All, those near the boundary, none.
        assert!(
            shown[0] == 1.0 && shown[1] > 0.05 && shown[1] < 1.0 && shown[2] == 0.0,
            "{shown:?}"
        );
        assert!(lines.iter().all(|line| line["p99_us"].as_f64() > Some(0.0)), "{lines:?}");
    }
}
