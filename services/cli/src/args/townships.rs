//! `wuling region publish`: the townships that a county lists itself.

use super::authority::{read_cards, show_all, tell_changes};
use super::write;
use anyhow::{Result, ensure};
use clap::Args;
use cli::linkage;
use domain::kernel::{Clock as _, RegionId};
use prost::Message as _;
use proto::directory::v1::TrustSet;
use runtime::clock::SystemClock;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The data folder; its server may be running
    #[arg(long)]
    data: PathBuf,
    /// The county
    #[arg(long)]
    region: RegionId,
    /// A township to leave out from now on; may be given again
    #[arg(long, value_name = "REGION")]
    remove: Vec<RegionId>,
    /// Begin with no townships in place of those of the list before
    #[arg(long)]
    anew: bool,
    /// Where to write the list, for the authority: from then on no older one is believed
    #[arg(long)]
    out: Option<PathBuf>,
    /// Show it to every gateway of the directory
    #[arg(long)]
    push: bool,
    /// Take cards with other keys than are listed, also where nothing leads from these to those
    #[arg(long)]
    replace: bool,
    /// Cards that `region init` and `region rotate` wrote
    cards: Vec<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "what is printed is what the command is for")]
pub(super) async fn publish(words: Publish) -> Result<()> {
    let Publish { data, region, remove, anew, out, push, replace, cards } = words;
    let (regions, gateways) = read_cards(&cards)?;
    ensure!(gateways.is_empty(), "gateways are listed by the authority");
    let trust = linkage::read_trust(&data, SystemClock.now())?;
    tell_changes(&trust, &regions, replace)?;
    let change = linkage::Townships { put: regions, remove, anew };
    let (object, trust) = linkage::list_townships(&data, &region, change, SystemClock.now())?;
    if let Some(out) = out {
        write(&out, &object.encode_to_vec())?;
    }
    if let Some(part) = trust.delegated_directory(&region) {
        println!("{region}: list 名录 {}", part.version);
        for township in part.regions.values() {
            println!("township {} {}", township.region_id, township.name_zh);
        }
    }
    if push {
        let delegated = vec![object];
        return show_all(&trust, &TrustSet { delegated, ..trust.signed().clone() }).await;
    }
    Ok(())
}
