//! `wuling authority`: who is in the linkage, who no longer, and what is newest.

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use cli::authority::{self, Authority};
use cli::linkage::hex;
use cli::{cut, explain};
use domain::directory::{Directory, Gateway, Region};
use domain::freshness::{Cut, Freshness, Member};
use domain::kernel::{Clock as _, GatewayId, LinkageId, RegionId};
use prost::Message as _;
use proto::directory::v1::TrustSet;
use proto::kernel::v1::SignedObject;
use runtime::ErrorChain;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::key::key_fingerprint;
use seal::trust::Trust;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(super) enum Word {
    /// Makes root key, directory key, freshness key and an empty directory
    Init {
        /// The authority's folder
        #[arg(long)]
        dir: PathBuf,
        /// Id of the linkage
        #[arg(long)]
        linkage: LinkageId,
    },
    /// Publishes the directory with these cards put in or replaced, and notes agreements
    #[command(visible_alias = "add-region")]
    Publish {
        /// The authority's folder
        #[arg(long)]
        dir: PathBuf,
        /// An agreement that all its parties have signed; may be given again
        #[arg(long = "agreement", value_name = "FILE")]
        agreements: Vec<PathBuf>,
        /// A county's list of its townships, as `region publish` wrote it; may be given again
        #[arg(long = "townships", value_name = "FILE")]
        townships: Vec<PathBuf>,
        /// Show it to every gateway of the directory
        #[arg(long)]
        push: bool,
        /// Take cards with other keys than are listed, also where nothing leads from these to those
        #[arg(long)]
        replace: bool,
        /// Cards that `region init`, `region rotate` and `gateway init` wrote
        cards: Vec<PathBuf>,
    },
    /// Lets a county list its own townships, by `region publish`
    Delegate {
        /// The authority's folder
        #[arg(long)]
        dir: PathBuf,
        /// The county
        #[arg(long)]
        region: RegionId,
        /// Townships that it may list; 0 takes the right away, and with it the townships
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(..=1_000))]
        regions_max: u32,
        /// Show it to every gateway of the directory
        #[arg(long)]
        push: bool,
    },
    /// Says that a region or gateway is no longer believed; needs the freshness key alone
    Revoke(Revoke),
    /// Draws a new directory key and freshness key, for which the root vouches
    Rotate {
        /// The authority's folder
        #[arg(long)]
        dir: PathBuf,
        /// Show it to every gateway of the directory
        #[arg(long)]
        push: bool,
    },
    /// Says again what is newest; needs the freshness key alone
    Freshen {
        /// The authority's folder
        #[arg(long)]
        dir: PathBuf,
        /// Show it to every gateway of the directory
        #[arg(long)]
        push: bool,
        /// Go on saying so, at this pace, until stopped
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        every: Option<u64>,
    },
    /// Prints what was published last, and how long it holds
    Show {
        /// The authority's folder, or a data folder
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The authority's folder
    #[arg(long)]
    dir: PathBuf,
    /// The region
    #[arg(long, required_unless_present = "gateway", conflicts_with = "gateway")]
    region: Option<RegionId>,
    /// The gateway
    #[arg(long)]
    gateway: Option<GatewayId>,
    /// Its keys were in other hands: what it signed is void but for what these receipts of others, of before the
    /// incident, are for (`wuling region receipts`); may be given again. Those that were named before count no more
    #[arg(long, value_name = "FILE", conflicts_with = "gateway")]
    cut: Vec<PathBuf>,
    /// All that its present key has signed is void
    #[arg(long, conflicts_with_all = ["gateway", "cut"])]
    cut_at_start: bool,
    /// What was taken of it before it was revoked is believed after all
    #[arg(long, conflicts_with_all = ["gateway", "cut", "cut_at_start"])]
    lift_cut: bool,
    /// A key that the region had before and not its present one: SHA-256 of it in hex, as `authority show` prints it
    #[arg(long, value_name = "SHA256", conflicts_with_all = ["gateway", "cut", "cut_at_start", "lift_cut"])]
    former_key: Option<String>,
    /// Show it to every gateway of the directory
    #[arg(long)]
    push: bool,
}

impl Revoke {
    /// Says so; without a word on cuts, one that is in force stays.
    fn say(&self, signer: Authority) -> Result<Authority> {
        let now = SystemClock.now();
        let Some(region) = &self.region else {
            let gateway = self.gateway.clone().map(Member::Gateway);
            return signer.revoke(gateway.context("name a region or a gateway")?, now);
        };
        if let Some(former) = &self.former_key {
            return signer.revoke_former(region, former, now);
        }
        match (self.cut.as_slice(), self.cut_at_start, self.lift_cut) {
            ([], false, false) => signer.revoke(Member::Region(region.clone()), now),
            ([], true, _) => signer.cut(region, Some(Cut::new()), now),
            ([], false, true) => signer.cut(region, None, now),
            (files, ..) => {
                let cut = cut::cut(signer.trust(), region, files)?;
                signer.cut(region, Some(cut), now)
            }
        }
    }
}

pub(super) async fn run(word: Word) -> Result<()> {
    let now = SystemClock.now();
    match word {
        Word::Init { dir, linkage } => {
            authority::init(&dir, &linkage, now, &SystemEntropy).map(drop)
        }
        Word::Publish { dir, agreements, townships, push, replace, cards } => {
            let mut signer = Authority::open(&dir, now)?;
            if !cards.is_empty() {
                let (regions, gateways) = read_cards(&cards)?;
                tell_changes(signer.trust(), &regions, replace)?;
                signer = signer.publish(regions, gateways, SystemClock.now())?;
            }
            for path in townships {
                signer = signer.note_townships(read_object(&path, "list of townships")?, now)?;
            }
            for path in agreements {
                signer = signer.register(&read_object(&path, "agreement")?, now)?;
            }
            show(&signer.freshen(now)?, push).await
        }
        Word::Delegate { dir, region, regions_max, push } => {
            show(&Authority::open(&dir, now)?.delegate(&region, regions_max, now)?, push).await
        }
        Word::Revoke(revoke) => {
            show(&revoke.say(Authority::open(&revoke.dir, now)?)?, revoke.push).await
        }
        Word::Rotate { dir, push } => {
            show(&Authority::open(&dir, now)?.rotate(now, &SystemEntropy)?, push).await
        }
        Word::Freshen { dir, push, every: None } => {
            show(&Authority::open(&dir, now)?.freshen(now)?, push).await
        }
        Word::Freshen { dir, push, every: Some(seconds) } => loop {
            let now = SystemClock.now();
            let signer = Authority::open(&dir, now)?.freshen(now)?;
            if let Err(error) = show(&signer, push).await {
                // A gateway that is down hears the next word.
                tracing::error!(error = %ErrorChain(error.as_ref()), "not every gateway has heard");
            }
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        },
        Word::Show { dir } => print(&dir),
    }
}

fn read_object(path: &Path, what: &str) -> Result<SignedObject> {
    SignedObject::decode(read(path)?.as_slice())
        .with_context(|| format!("{} is no {what}", path.display()))
}

/// Prints whose keys change.
#[expect(clippy::print_stdout, reason = "what is printed is what the command is for")]
pub(super) fn tell_changes(trust: &Trust, cards: &[Region], replace: bool) -> Result<()> {
    match authority::key_changes(trust, cards) {
        Err(error) if !replace => return Err(error),
        changed => {
            for region in changed.unwrap_or_default() {
                println!("{region}: changes keys 换钥");
            }
        }
    }
    Ok(())
}

/// What `region init` and `gateway init` ask to be listed.
pub(super) fn read_cards(paths: &[PathBuf]) -> Result<(Vec<Region>, Vec<Gateway>)> {
    let (mut regions, mut gateways) = (Vec::new(), Vec::new());
    for path in paths {
        let card = proto::convert::directory::decode(&read(path)?)
            .with_context(|| format!("{} is no card", path.display()))?;
        regions.extend(card.regions.into_values());
        gateways.extend(card.gateways.into_values());
    }
    Ok((regions, gateways))
}

async fn show(signer: &Authority, push: bool) -> Result<()> {
    if push {
        return show_all(signer.trust(), signer.trust().signed()).await;
    }
    Ok(())
}

/// Shows every gateway that is believed what is newest; tells of all that have not heard.
pub(super) async fn show_all(trust: &Trust, set: &TrustSet) -> Result<()> {
    let Directory { linkage_id, gateways, .. } = &trust.directory;
    let mut deaf = Vec::new();
    for gateway in gateways.keys().filter_map(|id| trust.find_gateway(id)) {
        if let Err(error) = authority::show(linkage_id, set.clone(), gateway).await {
            deaf.push(format!("{}: {error:#}", gateway.gateway_id));
        }
    }
    if !deaf.is_empty() {
        bail!("published, but not heard by {}", deaf.join("; "));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what is printed is what the command is for")]
fn print(dir: &Path) -> Result<()> {
    let now = SystemClock.now();
    let signer = Authority::open(dir, now)?;
    let (trust, time) =
        (signer.trust(), |time: domain::kernel::Timestamp| explain::beijing(time.micros()));
    let directory = &trust.directory;
    println!("linkage {} directory {}", directory.linkage_id, directory.version);
    println!("directory signed {}", time(directory.created_at));
    println!("directory key holds until {}", time(trust.key_expires_at));
    println!("last word {} {:?}", time(trust.signed_at()), trust.age(now));
    for region in directory.regions.values() {
        let state = if trust.is_revoked(region) { "REVOKED" } else { "" };
        println!("region {} {} {state}", region.region_id, region.name_zh);
        for former in &region.former_keys {
            let key = hex(&key_fingerprint(&former.signing_key));
            println!("former key of {} {key} until {}", region.region_id, time(former.changed_at));
        }
    }
    let revocations = trust.freshness.iter().flat_map(|freshness| &freshness.revocations);
    for revocation in revocations {
        if let (Member::Region(region), Some(cut)) = (&revocation.member, &revocation.cut) {
            println!("cut 截断 {region}: believed in {} streams", cut.len());
        }
    }
    for id in directory.gateways.keys() {
        let state = if trust.find_gateway(id).is_none() { "REVOKED" } else { "" };
        println!("gateway {id} {state}");
    }
    let heads = trust.delegated();
    for (county, most) in &directory.delegations {
        let version = heads.get(county).map_or(0, |head| head.version);
        println!("townships of {county} list {version} at most {most}");
    }
    if let Some(Freshness { agreements, .. }) = &trust.freshness {
        for (id, head) in agreements {
            println!("agreement {id} version {}", head.version);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
