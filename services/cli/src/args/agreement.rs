//! `wuling agreement`: an agreement's way from its terms to its parties: as a file, or from desk to desk over the wire.

use super::{open, write};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use cli::linkage::{self, Terms};
use cli::{explain, proposals, terms};
use domain::agreement::{Agreement, AgreementForm, Clause, Consent, Force, Grant, Release};
use domain::kernel::{Clock as _, RegionId, Timestamp};
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::key::sha256;
use seal::trust::Trust;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum Word {
    /// Writes an agreement down, to be signed by every party; with --store signs it and shows it to them
    Propose(Propose),
    /// Lists the agreements that the desk's region holds, and how each of them stands
    List {
        #[command(flatten)]
        desk: Desk,
    },
    /// Lists the proposals that the desk's region holds: who has signed, who has not
    Proposals {
        #[command(flatten)]
        desk: Desk,
    },
    /// Drops a proposal here; nobody else is told, and it does not come back from them
    Decline {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// SHA-256 of the proposal, as `proposals` lists it
        sha256: String,
    },
    /// Prints an agreement's terms, and who has signed them
    Show {
        /// A data folder with the linkage's trust, to verify the signatures with
        #[arg(long)]
        data: Option<PathBuf>,
        /// Folder of an enrolled desk, to print a proposal of its region
        #[arg(long, conflicts_with = "data")]
        store: Option<PathBuf>,
        /// The agreement's file; with --store the proposal's SHA-256
        of: String,
    },
    /// Prints what one agreement's terms say (+) that another's do not (-)
    Diff {
        /// The one before
        before: PathBuf,
        /// The one after
        after: PathBuf,
    },
    /// Shows the region's records of the last days as an agreement would; nothing leaves
    DryRun {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Days to look back
        #[arg(long, default_value_t = 30)]
        days: u32,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        /// The agreement, signed or not
        file: PathBuf,
    },
    /// Adds a region's signature
    Sign {
        /// Folder of an enrolled desk whose region signs; or
        #[arg(long, conflicts_with_all = ["data", "region"])]
        store: Option<PathBuf>,
        /// the data folder that holds the region's key
        #[arg(long, required_unless_present = "store")]
        data: Option<PathBuf>,
        /// The region
        #[arg(long, required_unless_present = "store")]
        region: Option<RegionId>,
        /// The agreement's file; with --store the SHA-256 of the proposal, which must have been looked at
        of: String,
    },
    /// Stops for now what leaves under an agreement; all parties but one must sign
    Suspend(Next),
    /// Goes on with an agreement that was suspended; every party must sign
    Resume(Next),
    /// Ends an agreement for good; all parties but one must sign
    Close(Next),
    /// Takes this region out of an agreement of three or more; needs nobody else's signature
    Leave(Next),
    /// Puts an annex into force for some hours; needs nobody else's signature
    Activate {
        #[command(flatten)]
        next: Next,
        /// For so long, at most 72
        #[arg(long, default_value_t = 72, value_parser = clap::value_parser!(i64).range(1..=72))]
        hours: i64,
    },
    /// Puts an agreement that is signed as it must be into a region's folder; the region's server takes it up and
    /// passes it on
    Install {
        /// The data folder
        #[arg(long)]
        data: PathBuf,
        /// The region
        #[arg(long)]
        region: RegionId,
        /// The agreement
        file: PathBuf,
    },
}

/// An enrolled desk that is asked for a list.
#[derive(Debug, Args)]
pub(super) struct Desk {
    /// Folder of an enrolled desk
    #[arg(long)]
    store: PathBuf,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// The next version of an agreement, with this region's signature.
#[derive(Debug, Args)]
pub(super) struct Next {
    /// Folder of an enrolled desk, whose region signs it and shows it to the other parties; or
    #[arg(long, conflicts_with_all = ["data", "region", "out"])]
    store: Option<PathBuf>,
    /// the data folder that holds the region's key
    #[arg(long, required_unless_present = "store")]
    data: Option<PathBuf>,
    /// The region
    #[arg(long, required_unless_present = "store")]
    region: Option<RegionId>,
    /// Where to write it
    #[arg(long, required_unless_present = "store")]
    out: Option<PathBuf>,
    /// The newest version of the agreement: its file; with --store the agreement's id
    of: String,
}

#[derive(Debug, Args)]
pub(super) struct Propose {
    /// Folder of an enrolled desk, whose region signs it and shows it to the other parties; or
    #[arg(long, conflicts_with_all = ["data", "out"])]
    store: Option<PathBuf>,
    /// a data folder with the linkage's trust
    #[arg(long, required_unless_present = "store")]
    data: Option<PathBuf>,
    /// The terms as TOML (deploy/samples/agreement.toml); or title, parties and clauses here
    #[arg(long, conflicts_with_all = ["title", "charter", "annex", "parties", "clauses", "days"])]
    terms: Option<PathBuf>,
    /// Title
    #[arg(long, required_unless_present = "terms")]
    title: Option<String>,
    /// A charter between a region and its superior
    #[arg(long, conflicts_with = "annex")]
    charter: bool,
    /// An annex for emergencies: signed by all beforehand, activated by one
    #[arg(long)]
    annex: bool,
    /// A party; name each
    #[arg(long = "party", required_unless_present = "terms")]
    parties: Vec<RegionId>,
    /// A clause as GRANT:RELEASE, such as EVENT_DETAIL:AT_ONCE
    #[arg(long = "clause", required_unless_present = "terms")]
    clauses: Vec<String>,
    /// Days in force
    #[arg(long, default_value_t = 365)]
    days: i64,
    /// The version that these terms shall replace: its file; with --store the agreement's id
    #[arg(long, value_name = "FILE|ID")]
    supersedes: Option<String>,
    /// Where to write it
    #[arg(long, required_unless_present = "store")]
    out: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "what is printed is what the command is for")]
pub(super) async fn run(word: Word) -> Result<()> {
    let now = SystemClock.now();
    match word {
        Word::Propose(words) => propose(words).await,
        Word::List { desk } => proposals::list_agreements(&open(&desk.store)?, desk.json).await,
        Word::Proposals { desk } => proposals::list(&open(&desk.store)?, desk.json).await,
        Word::Decline { store, sha256 } => {
            proposals::decline(&open(&store)?, &proposals::sha256(&sha256)?).await
        }
        Word::Show { data, store, of } => print(data.as_deref(), store.as_deref(), &of).await,
        Word::Diff { before, after } => {
            let (one, other) = (decode(&read(&before)?, &before)?, decode(&read(&after)?, &after)?);
            if one.agreement_id != other.agreement_id {
                println!("! these are versions of different agreements");
            }
            print!("{}", terms::diff(&one, &other));
            Ok(())
        }
        Word::DryRun { store, days, json, file } => {
            let object = read(&file)?;
            decode(&object, &file)?;
            explain::dry_run(&open(&store)?, object.body, days, json).await
        }
        Word::Sign { store: Some(store), of, .. } => {
            proposals::sign(&open(&store)?, &proposals::sha256(&of)?).await
        }
        Word::Sign { store: None, data, region, of } => {
            let (data, region) = (given(data)?, given(region)?);
            let file = Path::new(&of);
            let mut object = read(file)?;
            let agreement = decode(&object, file)?;
            if !agreement.has_party(&region) {
                bail!("{region} is no party of `{}`", agreement.title);
            }
            linkage::sign_agreement(&mut object, &data, &region)?;
            write(file, &object.encode_to_vec())
        }
        Word::Suspend(words) => next(words, now, |next, _| next.force = Force::Suspended).await,
        Word::Resume(words) => next(words, now, |next, _| next.force = Force::InForce).await,
        Word::Close(words) => next(words, now, |next, _| next.force = Force::Closed).await,
        Word::Leave(words) => {
            let leave = |next: &mut Agreement, region: &RegionId| {
                next.parties.retain(|party| party.region != *region);
            };
            next(words, now, leave).await
        }
        Word::Activate { next: words, hours } => {
            let activate = |next: &mut Agreement, _: &RegionId| {
                next.force = Force::InForce;
                next.ended_at = now.plus_millis(hours * 3_600_000);
            };
            next(words, now, activate).await
        }
        Word::Install { data, region, file } => {
            linkage::install_agreement(&read(&file)?, &data, &region, now).map(drop)
        }
    }
}

/// Prints the agreement of a file, or a proposal of a desk's region.
#[expect(clippy::print_stdout, reason = "what is printed is what the command is for")]
async fn print(data: Option<&Path>, store: Option<&Path>, of: &str) -> Result<()> {
    let file = Path::new(of);
    if let Some(store) = store {
        let found = proposals::find(&open(store)?, &proposals::sha256(of)?).await?;
        let object = SignedObject { body: found.agreement, signatures: Vec::new() };
        show(&decode(&object, file)?, of, &found.signed_regions);
        return Ok(());
    }
    let object = read(file)?;
    let signers: Vec<_> = object.signatures.iter().map(|s| s.signer.clone()).collect();
    let agreement = decode(&object, file)?;
    show(&agreement, of, &signers);
    if let Some(data) = data {
        let directory = linkage::read_directory(data, SystemClock.now())?;
        seal::trust::agreement(&object, None, &Trust::of(directory))?;
        println!("# every signature is good");
    }
    Ok(())
}

/// Prints an agreement's terms under who has signed them.
#[expect(clippy::print_stdout, reason = "what is printed is what the command is for")]
fn show(agreement: &Agreement, of: &str, signers: &[String]) {
    println!("# {of}");
    println!("# agreement {} version {}", agreement.agreement_id, agreement.version);
    println!(
        "# in force from {} to {}",
        beijing(agreement.started_at),
        beijing(agreement.ended_at)
    );
    println!("# {}", agreement.force.name());
    println!("# SHA-256 {}", linkage::hex(&agreement.sha256));
    for party in &agreement.parties {
        let signed = signers.iter().any(|signer| signer == party.region.as_str());
        println!("# {} {}", if signed { "signed by" } else { "NOT SIGNED by" }, party.region);
    }
    print!("{}", terms::print(agreement));
}

/// Has the next version signed by the region: writes it, and says who else must sign; or proposes it.
#[expect(clippy::print_stdout, reason = "who must sign is what the caller needs to know next")]
async fn next(
    words: Next,
    now: Timestamp,
    change: impl FnOnce(&mut Agreement, &RegionId),
) -> Result<()> {
    let Next { store, data, region, out, of } = words;
    if let Some(store) = store {
        let phone = open(&store)?;
        let before = proposals::newest(&phone, &of).await?;
        let region = proposals::region(&phone);
        let object = linkage::next_version(&before, now, |next| change(next, region))?;
        return proposals::propose(&phone, object).await;
    }
    let (data, region, out, file) = (given(data)?, given(region)?, given(out)?, Path::new(&of));
    let before = decode(&read(file)?, file)?;
    let mut object = linkage::next_version(&before, now, |next| change(next, &region))?;
    linkage::sign_agreement(&mut object, &data, &region)?;
    write(&out, &object.encode_to_vec())?;
    let next = decode(&object, &out)?;
    let others = || next.parties.iter().map(|party| party.region.to_string());
    let all: Vec<_> = others().filter(|party| *party != region.as_str()).collect();
    match before.consent(&next) {
        Consent::All => println!("to be signed by {}", all.join(", ")),
        Consent::AllButOne if all.len() > 1 => {
            println!("to be signed by all but one of {}", all.join(", "));
        }
        Consent::AllButOne | Consent::Any | Consent::Leaver(_) => println!("ready to be installed"),
    }
    Ok(())
}

async fn propose(words: Propose) -> Result<()> {
    let Propose {
        store,
        data,
        terms,
        title,
        charter,
        annex,
        parties,
        clauses,
        days,
        supersedes,
        out,
    } = words;
    let form = match (charter, annex) {
        (true, _) => AgreementForm::Charter,
        (_, true) => AgreementForm::Annex,
        _ => AgreementForm::Agreement,
    };
    let terms = match terms {
        Some(path) => terms::read(&path)?,
        None => {
            let clauses = clauses.iter().map(|text| clause(text)).collect::<Result<_>>()?;
            let title = title.unwrap_or_default();
            Terms { days, ..Terms::plain(form, title, parties, clauses) }
        }
    };
    if let Some(store) = store {
        let phone = open(&store)?;
        let supersedes = match supersedes {
            Some(id) => Some(Box::new(proposals::newest(&phone, &id).await?)),
            None => None,
        };
        let object = proposals::write(&phone, Terms { supersedes, ..terms }).await?;
        return proposals::propose(&phone, object).await;
    }
    let supersedes = supersedes.map(|file| {
        let file = Path::new(&file);
        decode(&read(file)?, file).map(Box::new)
    });
    let terms = Terms { supersedes: supersedes.transpose()?, ..terms };
    let now = SystemClock.now();
    let directory = linkage::read_directory(&given(data)?, now)?;
    let object = linkage::propose(&directory, terms, now, &SystemEntropy)?;
    write(&given(out)?, &object.encode_to_vec())
}

/// A word that is asked for wherever `--store` is not given.
fn given<T>(word: Option<T>) -> Result<T> {
    word.context("a word is missing: see --help")
}

fn clause(text: &str) -> Result<Clause> {
    let (grant, release) = text.split_once(':').context("--clause is GRANT:RELEASE")?;
    let grant = Grant::from_name(grant).with_context(|| format!("`{grant}` is no grant"))?;
    let release =
        Release::from_name(release).with_context(|| format!("`{release}` is no release"))?;
    Ok(Clause::whole(grant, release))
}

fn read(path: &Path) -> Result<SignedObject> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    SignedObject::decode(bytes.as_slice())
        .with_context(|| format!("{} is no agreement", path.display()))
}

fn decode(object: &SignedObject, path: &Path) -> Result<Agreement> {
    proto::convert::agreement::decode(&object.body, sha256(&object.body))
        .with_context(|| format!("{} is no agreement", path.display()))
}

fn beijing(time: Timestamp) -> String {
    explain::beijing(time.micros())
}
