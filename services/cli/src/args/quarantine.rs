//! `wuling quarantine` and `wuling region receipts`: what lies beyond the cut of a revoked region, and where to cut.

use anyhow::Result;
use clap::{Args, Subcommand};
use cli::{cut, quarantine};
use domain::kernel::{Clock as _, RecordId, RegionId, Timestamp};
use domain::quarantine::ReleaseReason;
use runtime::clock::SystemClock;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Word {
    /// Lists what is quarantined
    List {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Has what is quarantined of a record shown again, marked 未核实
    Release {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// The region that owns the record
        #[arg(long)]
        owner: RegionId,
        /// Why it is right: OWNER_CONFIRMED, SEEN or ORDER
        #[arg(long, value_parser = reason)]
        reason: ReleaseReason,
        /// The record
        record: RecordId,
    },
}

#[derive(Debug, Args)]
pub(super) struct Receipts {
    /// The data folder; its server may be running
    #[arg(long)]
    data: PathBuf,
    /// The region that signs
    #[arg(long)]
    region: RegionId,
    /// The region whose streams it signs for
    #[arg(long)]
    of: RegionId,
    /// Sign for what had come before this time, such as 2026-12-01T08:00:00+08:00; without it, before now
    #[arg(long, value_parser = time)]
    before: Option<Timestamp>,
    /// Where to write the receipts
    #[arg(long)]
    out: PathBuf,
}

pub(super) async fn run(word: Word) -> Result<()> {
    match word {
        Word::List { store, json } => quarantine::list(&super::open(&store)?, json).await,
        Word::Release { store, owner, reason, record } => {
            quarantine::release(&super::open(&store)?, record, &owner, reason).await
        }
    }
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
pub(super) async fn receipts(asked: Receipts) -> Result<()> {
    let Receipts { data, region, of, before, out } = asked;
    let before = before.unwrap_or_else(|| SystemClock.now());
    let streams = cut::sign(&data, &region, &of, before, &out).await?;
    println!("{region}: receipts 回执 for {streams} streams of {of}");
    Ok(())
}

fn reason(word: &str) -> Result<ReleaseReason, String> {
    ReleaseReason::from_name(word).ok_or_else(|| "is OWNER_CONFIRMED, SEEN or ORDER".to_owned())
}

fn time(word: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = word.parse().map_err(|error| format!("is no time: {error}"))?;
    Ok(Timestamp::from_micros(time.as_microsecond()))
}
