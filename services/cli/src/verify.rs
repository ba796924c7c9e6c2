//! `wuling verify`: an audit of the stores in a data folder, beside a running server or without one.

use crate::linkage;
use crate::progress::Progress;
use anyhow::{Context as _, Result, ensure};
use domain::directory::Directory;
use domain::kernel::{Clock as _, Epoch, RegionId};
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::json;
use std::path::Path;
use storage::audit::{Finding, Report};
use storage::{gateway, region as regions};

/// Audits every store in the folder, or that of one region; tells whether all of it fits.
///
/// # Errors
/// When the folder is none, or a store cannot be read at all.
#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
pub async fn run(data: &Path, only: Option<&RegionId>, as_json: bool) -> Result<bool> {
    let directory = linkage::read_directory(data, SystemClock.now())?;
    let mut reports = Vec::new();
    for region in hosted(data)?.iter().filter(|id| only.is_none_or(|only| only == *id)) {
        reports.push((region.to_string(), region_store(data, region, &directory).await?));
    }
    let at_gateway = data.join("gateway.sqlite");
    if only.is_none() && at_gateway.exists() {
        reports.push(("gateway".to_owned(), gateway_store(&at_gateway, &directory).await?));
    }
    ensure!(!reports.is_empty(), "{} holds no such store", data.display());
    for (name, report) in &reports {
        if as_json {
            println!("{}", told(name, report));
            continue;
        }
        let Report { rows, without_salt, findings } = report;
        println!("{name}: {rows} rows 行, {} findings 问题", findings.len());
        if *without_salt > 0 {
            println!(
                "  {without_salt} rows are older than their salts: checked each by its own hash"
            );
        }
        findings.iter().for_each(|finding| println!("  {}", text(finding)));
    }
    Ok(reports.iter().all(|(_, report)| report.findings.is_empty()))
}

/// The regions of a data folder, by id.
fn hosted(data: &Path) -> Result<Vec<RegionId>> {
    let dir = data.join("regions");
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut hosted = Vec::new();
    for entry in
        std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?
    {
        let name = entry?.file_name();
        hosted.extend(name.to_str().and_then(|name| RegionId::parse(name).ok()));
    }
    hosted.sort();
    Ok(hosted)
}

async fn region_store(data: &Path, region: &RegionId, directory: &Directory) -> Result<Report> {
    let path = ::region::folder::store_path(data, region);
    ensure!(path.exists(), "{} is missing", path.display());
    // Of a store that is there already, it is not used.
    let epoch = Epoch::mint(SystemClock.now(), &SystemEntropy);
    let (store, _writer) = regions::Store::open(&path, region, epoch).await?;
    let mut progress = Progress::of("rows 行");
    Ok(exchange::audit::audit(&store, directory, &mut |rows| progress.tell(rows, None)).await?)
}

async fn gateway_store(path: &Path, directory: &Directory) -> Result<Report> {
    let id = gateway::id_of(path)?;
    let (store, _writer) = gateway::Store::open(path, &id).await?;
    let mut progress = Progress::of("rows 行");
    Ok(::gateway::audit::audit(&store, directory, &mut |rows| progress.tell(rows, None)).await?)
}

fn text(finding: &Finding) -> String {
    let Finding { table, stream, number, what } = finding;
    let stream = stream.as_ref().map_or_else(String::new, |stream| {
        let (origin, lane) = (&stream.origin, stream.lane.name());
        format!(" of {origin}/{}/v{}/{lane}", stream.agreement, stream.version)
    });
    format!("{table} #{number}{stream} {}", what.text())
}

fn told(name: &str, report: &Report) -> serde_json::Value {
    let finding = |finding: &Finding| {
        json!({
            "table": finding.table,
            "origin": finding.stream.as_ref().map(|stream| stream.origin.to_string()),
            "agreement_id": finding.stream.as_ref().map(|stream| stream.agreement.to_string()),
            "lane": finding.stream.as_ref().map(|stream| stream.lane.name()),
            "number": finding.number,
            "what": finding.what.name(),
        })
    };
    json!({
        "store": name,
        "rows": report.rows,
        "without_salt": report.without_salt,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}
