//! The words of the command line, and what each calls.

mod agreement;
mod authority;
mod quarantine;
mod townships;
mod transfer;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use cli::linkage::{self, RegionSpec};
use cli::phone::{self, Phone};
use cli::{bench, bundle, demo, erase, explain, geojson, verify};
use device::Draft;
use domain::directory::{CodeScheme, Directory, DivisionCode, Gateway, Region, RegionLevel};
use domain::erasure::EraseReason;
use domain::kernel::{
    Clock as _, Datum, FixSource, GatewayId, GeoPoint, LinkageId, RecordId, RegionId, Role,
};
use domain::operation::Change;
use domain::risk::{Event, EventSource, EventState, category};
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::data_dir::{SHARED, write_atomic};
use runtime::telemetry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Wuling Link (武陵联动): patrol, risk and joint-defence records across county lines.
#[derive(Debug, Parser)]
#[command(version, name = "wuling")]
pub(crate) struct Flags {
    /// What is logged (tracing directives).
    #[arg(long, global = true, default_value = "error")]
    log: String,
    #[command(subcommand)]
    word: Word,
}

impl Flags {
    /// How to log.
    pub(crate) fn log(&self) -> telemetry::Config {
        telemetry::Config { filter: self.log.clone(), ..telemetry::Config::default() }
    }
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Shows the main job: a linkage in one process, a link cut and healed, a verdict 演示
    Demo(Demo),
    /// Measures this program on this machine 测速
    Bench(Bench),
    /// The linkage's authority 联动管理机构
    #[command(subcommand)]
    Authority(authority::Word),
    /// A region's keys, trust and enrolment codes 区域
    #[command(subcommand)]
    Region(RegionWord),
    /// A gateway's keys 网关
    #[command(subcommand)]
    Gateway(GatewayWord),
    /// Charters and agreements: proposed, signed, stopped, as files or over the wire 协议
    #[command(subcommand)]
    Agreement(agreement::Word),
    /// Where a record is and why: who was shown what, how far it has come 溯源
    Explain(Explain),
    /// Takes a record back: it stays here, and leaves everybody who was shown it 撤回
    Withdraw {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// The record
        record: RecordId,
    },
    /// Erases a record: its content here, at everybody who was shown it, and at the gateways 清除
    Erase {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Why: MISTAKEN, PRIVACY or ORDER
        #[arg(long, value_parser = reason)]
        reason: EraseReason,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        /// The record
        record: RecordId,
    },
    /// Lists what was erased, and who has not confirmed it 清除回执
    Erasures {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Records that change their owner: offer, accept, return 移交
    #[command(subcommand)]
    Transfer(transfer::Word),
    /// What a revoked region's keys have signed beyond its cut 隔离
    #[command(subcommand)]
    Quarantine(quarantine::Word),
    /// Streams in files, for where no line goes 离线数据包
    #[command(subcommand)]
    Bundle(BundleWord),
    /// Audits the stores in a data folder: chains, receipts, gaps; exit 0 only when all of it fits 核验
    Verify(Verify),
    /// A phone on the command line 手机
    Phone(PhoneArgs),
}

fn reason(word: &str) -> Result<EraseReason, String> {
    EraseReason::from_name(word).ok_or_else(|| "is MISTAKEN, PRIVACY or ORDER".to_owned())
}

#[derive(Debug, Args)]
struct Verify {
    /// The data folder; its server may be running
    #[arg(long)]
    data: PathBuf,
    /// Only this region's store
    #[arg(long)]
    region: Option<RegionId>,
    /// One line of JSON a store
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum BundleWord {
    /// Writes what a party has not signed for yet, and receipts for what came from it
    Export {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// The party it is for
        #[arg(long)]
        to: RegionId,
        /// Where to write it
        #[arg(long)]
        out: PathBuf,
    },
    /// Hands a bundle to this region; exit 0 only when all of it was taken
    Import {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        /// The bundle
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Explain {
    /// Folder of an enrolled desk
    #[arg(long)]
    store: PathBuf,
    /// The region that owns the record, where it is a neighbour's
    #[arg(long)]
    owner: Option<RegionId>,
    /// Only what concerns this party
    #[arg(long)]
    party: Option<RegionId>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// The record
    record: RecordId,
}

#[derive(Debug, Args)]
struct Demo {
    /// Exit 0 only when everything arrived, once, the same on both sides (it always does; kept for scripts)
    #[arg(long)]
    check: bool,
    /// Print the verdict as one line of JSON, last on standard output
    #[arg(long)]
    json: bool,
    /// Keep the linkage up afterwards and print how to connect
    #[arg(long)]
    serve: bool,
    /// Empty or new folder for the demo's files; without it a scratch folder that is removed
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Bench {
    /// What to measure
    #[arg(value_enum)]
    suite: bench::Suite,
    /// One line of JSON a case instead of a table
    #[arg(long)]
    json: bool,
    /// Times each case is run; figures are medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Records of a streamed case
    #[arg(long, default_value_t = 400_000)]
    records: usize,
    /// Records that wait in the case `catchup`
    #[arg(long, default_value_t = 1_000_000)]
    backlog: usize,
    /// Only this case of `pipeline`; may be given again
    #[arg(long = "case")]
    cases: Vec<String>,
    /// Folder on the disk to be measured; without it the system's scratch folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum RegionWord {
    /// Makes a region's keys and store, and its card for the authority
    Init(RegionInit),
    /// Copies what the authority published into a data folder
    Trust {
        /// The data folder
        #[arg(long)]
        data: PathBuf,
        /// The authority's folder, or a copy of its `trust` beside nothing else
        #[arg(long)]
        authority: PathBuf,
    },
    /// Signs the next list of a county's own townships, where the authority lets it list them
    Publish(townships::Publish),
    /// Draws the keys that a region changes to, and its card with the change: they count once the card is published
    Rotate {
        /// The data folder; its server may be running
        #[arg(long)]
        data: PathBuf,
        /// The region
        #[arg(long)]
        region: RegionId,
        /// Where to write the card
        #[arg(long)]
        card: PathBuf,
    },
    /// Goes on in a new epoch, once a copy was put in the place of the store: its own numbers are taken
    Restore {
        /// The data folder; its server must be stopped
        #[arg(long)]
        data: PathBuf,
        /// The region
        #[arg(long)]
        region: RegionId,
    },
    /// Signs for how far another region's streams had come before a time: of this the authority makes a cut
    Receipts(quarantine::Receipts),
    /// Issues a code to enrol a phone or desk with: once, 15 minutes
    Code {
        /// The data folder
        #[arg(long)]
        data: PathBuf,
        /// The region
        #[arg(long)]
        region: RegionId,
        /// What the device may do, such as PATROLLER or DUTY_OFFICER
        #[arg(long)]
        role: String,
        /// Code of the unit it belongs to
        #[arg(long, default_value = "")]
        unit: String,
        /// host:port of the region's server
        #[arg(long)]
        endpoint: String,
    },
}

#[derive(Debug, Args)]
struct RegionInit {
    /// The data folder
    #[arg(long)]
    data: PathBuf,
    /// Id of the linkage
    #[arg(long)]
    linkage: LinkageId,
    /// Id of the region
    #[arg(long)]
    region: RegionId,
    /// township or county
    #[arg(long, default_value = "township")]
    level: String,
    /// Division code as SCHEME:CODE:EDITION, such as NBS:500114117:2023
    #[arg(long)]
    code: Vec<String>,
    /// Name in Chinese
    #[arg(long)]
    name_zh: String,
    /// Name in English
    #[arg(long)]
    name_en: String,
    /// The region above it
    #[arg(long)]
    superior: Option<RegionId>,
    /// Its area: a GeoJSON Polygon, MultiPolygon or Feature of one, WGS-84
    #[arg(long)]
    outline: Option<PathBuf>,
    /// Where to write the card
    #[arg(long)]
    card: PathBuf,
}

#[derive(Debug, Subcommand)]
enum GatewayWord {
    /// Makes a gateway's keys, and its card for the authority
    Init {
        /// The data folder
        #[arg(long)]
        data: PathBuf,
        /// Id of the linkage
        #[arg(long)]
        linkage: LinkageId,
        /// Id of the gateway
        #[arg(long)]
        gateway: GatewayId,
        /// host:port under which regions reach it
        #[arg(long)]
        endpoint: String,
        /// Where to write the card
        #[arg(long)]
        card: PathBuf,
    },
}

#[derive(Debug, Args)]
struct PhoneArgs {
    /// The phone's folder
    #[arg(long)]
    store: PathBuf,
    #[command(subcommand)]
    word: PhoneWord,
}

#[derive(Debug, Subcommand)]
enum PhoneWord {
    /// Trades a code for a certificate
    Enrol {
        /// wuling:enrol?…
        code: String,
    },
    /// Writes an event down; needs no line
    Report {
        /// Category code, such as GEOLOGICAL
        #[arg(long)]
        category: String,
        /// Degrees east, WGS-84
        #[arg(long)]
        lon: f64,
        /// Degrees north, WGS-84
        #[arg(long)]
        lat: f64,
        /// What was seen
        text: String,
    },
    /// Sends what waits, reads what is new
    Sync,
    /// What waits and what is held
    Status,
}

/// Does what was asked; tells whether it came out well.
#[tokio::main]
pub(crate) async fn run(flags: Flags) -> Result<bool> {
    match flags.word {
        Word::Demo(Demo { check: _, json, serve, data }) => {
            return demo::run(demo::Options { json, serve, data }).await;
        }
        Word::Bench(Bench { suite, json, rounds, records, backlog, cases, data }) => {
            let options = bench::Options { json, rounds, records, backlog, cases, data };
            return bench::run(suite, options).await;
        }
        Word::Authority(word) => authority::run(word).await?,
        Word::Region(word) => region(word).await?,
        Word::Gateway(GatewayWord::Init { data, linkage, gateway, endpoint, card }) => {
            let made =
                linkage::init_gateway(&data, &linkage, &gateway, &endpoint, SystemClock.now())?;
            write_card(&card, linkage, Vec::new(), vec![made])?;
        }
        Word::Agreement(word) => agreement::run(word).await?,
        Word::Explain(Explain { store, owner, party, json, record }) => {
            explain::run(&open(&store)?, record, owner.as_ref(), party.as_ref(), json).await?;
        }
        Word::Withdraw { store, record } => erase::withdraw(&mut open(&store)?, record).await?,
        Word::Erase { store, reason, json, record } => {
            erase::erase(&open(&store)?, record, reason, json).await?;
        }
        Word::Erasures { store, json } => erase::list(&open(&store)?, json).await?,
        Word::Quarantine(word) => quarantine::run(word).await?,
        Word::Transfer(word) => transfer::run(word).await?,
        Word::Bundle(BundleWord::Export { store, to, out }) => {
            bundle::export(&open(&store)?, &to, &out).await?;
        }
        Word::Bundle(BundleWord::Import { store, json, file }) => {
            return bundle::import(&open(&store)?, &file, json).await;
        }
        Word::Verify(Verify { data, region, json }) => {
            return verify::run(&data, region.as_ref(), json).await;
        }
        Word::Phone(PhoneArgs { store, word }) => of_phone(&store, word).await?,
    }
    Ok(true)
}

/// An enrolled phone or desk.
fn open(store: &Path) -> Result<Phone> {
    Phone::open(store, Arc::new(SystemClock), Arc::new(SystemEntropy))
}

/// A card is a directory of one, not signed: what the authority is asked to publish.
fn write_card(
    path: &Path,
    linkage_id: LinkageId,
    regions: Vec<Region>,
    gateways: Vec<Gateway>,
) -> Result<()> {
    let card = Directory {
        linkage_id,
        version: 1,
        created_at: SystemClock.now(),
        regions: regions.into_iter().map(|region| (region.region_id.clone(), region)).collect(),
        gateways: gateways
            .into_iter()
            .map(|gateway| (gateway.gateway_id.clone(), gateway))
            .collect(),
        freshness_key: None,
        delegations: Default::default(),
    };
    write(path, &proto::convert::directory::encode(&card))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, bytes, SHARED).with_context(|| format!("cannot write {}", path.display()))
}

#[expect(clippy::print_stdout, reason = "the code is what the command is for")]
async fn region(word: RegionWord) -> Result<()> {
    let now = SystemClock.now();
    match word {
        RegionWord::Init(init) => {
            let spec = RegionSpec {
                region_id: init.region,
                level: RegionLevel::from_name(&init.level.to_uppercase())
                    .context("--level is township or county")?,
                codes: init.code.iter().map(|code| division(code)).collect::<Result<_>>()?,
                name_zh: init.name_zh,
                name_en: init.name_en,
                superior: init.superior,
                endpoint: String::new(),
                outline: init
                    .outline
                    .as_deref()
                    .map(geojson::read)
                    .transpose()?
                    .unwrap_or_default(),
            };
            let made =
                linkage::init_region(&init.data, &init.linkage, spec, now, &SystemEntropy).await?;
            write_card(&init.card, init.linkage, vec![made], Vec::new())
        }
        RegionWord::Trust { data, authority } => linkage::install_trust(&authority, &data),
        RegionWord::Publish(words) => townships::publish(words).await,
        RegionWord::Rotate { data, region, card } => {
            let (linkage_id, made) = linkage::rotate_region(&data, &region, now, &SystemEntropy)?;
            write_card(&card, linkage_id, vec![made], Vec::new())
        }
        RegionWord::Restore { data, region } => {
            let now = SystemClock.now();
            let (left, epoch) =
                linkage::restore_region(&data, &region, now, &SystemEntropy).await?;
            println!("{region}: epoch 纪元 {left} -> {epoch}");
            Ok(())
        }
        RegionWord::Receipts(asked) => quarantine::receipts(asked).await,
        RegionWord::Code { data, region, role, unit, endpoint } => {
            let role = Role::from_name(&role.to_uppercase()).context("--role is no role")?;
            let code =
                linkage::issue_code(&data, &region, role, &unit, &endpoint, now, &SystemEntropy)?;
            println!("{code}");
            Ok(())
        }
    }
}

fn division(text: &str) -> Result<DivisionCode> {
    let mut parts = text.splitn(3, ':');
    let mut part = || parts.next().context("--code is SCHEME:CODE:EDITION");
    let scheme = CodeScheme::from_name(part()?).context("the scheme is GB2260, MCA10114 or NBS")?;
    Ok(DivisionCode { scheme, code: part()?.to_owned(), edition: part()?.to_owned() })
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
async fn of_phone(store: &Path, word: PhoneWord) -> Result<()> {
    match word {
        PhoneWord::Enrol { code } => phone::enrol(store, &code).await,
        PhoneWord::Report { category: code, lon, lat, text } => {
            let known = category(&code).with_context(|| format!("`{code}` is no category"))?;
            let point = GeoPoint {
                lon,
                lat,
                accuracy_m: 0.0,
                datum: Datum::Wgs84,
                source: Some(FixSource::Gnss),
                altitude_m: None,
            };
            let event = Event {
                domain: known.domain,
                category: code,
                emergency_class: known.class,
                level: None,
                place: String::new(),
                point: Some(point),
                text,
                source: EventSource::Patrol,
                affected_count: 0,
                urgent: false,
                deadline_at: None,
                state: EventState::Reported,
                handling_unit: String::new(),
                observation_id: None,
            };
            let recorded = open(store)?
                .device
                .record(Draft::making(Change::ReportEvent(event), SystemClock.now()))?;
            println!("{}", recorded.record_id);
            Ok(())
        }
        PhoneWord::Sync => {
            let synced = open(store)?.sync().await?;
            let sent = synced.sent;
            println!(
                "applied {} duplicate {} rejected {} conflicts {} held {} quarantined {}; changes read {}",
                sent.applied,
                sent.duplicate,
                sent.rejected.len(),
                sent.conflicts.len(),
                sent.held,
                sent.quarantined,
                synced.changes
            );
            Ok(())
        }
        PhoneWord::Status => {
            let status = open(store)?.device.status()?;
            println!(
                "waiting {} held {} conflicts {}",
                status.unsettled(),
                status.held,
                status.conflicts
            );
            Ok(())
        }
    }
}
