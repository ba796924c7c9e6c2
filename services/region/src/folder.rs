//! The data folder: what lies where, and reading it with everything verified.
//!
//! ```text
//! trust/root.pub linkage.signed                            the linkage, as its authority signed it
//! regions/<id>/signing.key sealing.key authority.crt authority.key
//! regions/<id>/signing.next sealing.next                   the keys that it changes to once they are listed
//! regions/<id>/sealing.former                              opens what was sealed before the last change
//! regions/<id>/agreements/*.signed                         what it agreed
//! regions/<id>/store.sqlite                                its records
//! regions/<id>/mark                                        which file that was, and how far it went
//! ```

pub mod keys;

use domain::agreement::{Consent, SHORT_VERSIONS_MAX};
use domain::directory::Directory;
use domain::kernel::{AgreementId, Reason, RegionId, STALE_HOURS, Timestamp, TrustAge};
use exchange::book::{Book, SignedAgreement};
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use runtime::ErrorChain;
use runtime::config::Secret;
use runtime::data_dir::{Format, SHARED, write_atomic};
use runtime::pki::{Authority, PkiError};
use runtime::trust_folder::{TrustFolder, TrustFolderError};
use seal::key::{SealingKey, SigningKey};
use seal::trust::{Trust, TrustError, believe};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use storage::region::Recipients;

/// What a server holds of what the authority has signed.
pub(crate) type Linkage = TrustFolder<Trust, TrustError>;

/// What a region server's data folder is.
pub const FORMAT: Format = Format { name: "region", number: 1 };

/// What lies there.
const AGREEMENT: &str = "the agreement";
/// Where a region's agreements lie.
const AGREEMENTS: &str = "agreements";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged: restore it from a copy")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The authority's certificate or key cannot be used.
    #[error("{path} is damaged: restore it from a copy")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PkiError,
    },
    /// What makes the linkage believed cannot be read or is not believed.
    #[error(transparent)]
    Linkage(#[from] TrustFolderError<TrustError>),
    /// The region is not in the directory, or with another key.
    #[error(
        "region {0} is not in the directory with the keys of this folder: ask the authority to add it"
    )]
    NotListed(RegionId),
}

/// A hosted region's keys and book.
pub(crate) struct Loaded {
    pub(crate) book: Book,
    pub(crate) authority: Authority,
}

/// Where a region's files lie.
pub fn region_dir(data: &Path, region: &RegionId) -> PathBuf {
    data.join("regions").join(region.as_str())
}

/// Where a region's store lies.
pub fn store_path(data: &Path, region: &RegionId) -> PathBuf {
    region_dir(data, region).join("store.sqlite")
}

/// Who is in the linkage, verified.
///
/// # Errors
/// When a file is missing or not believed.
pub fn read_directory(data: &Path, now: Timestamp) -> Result<Directory, FolderError> {
    Ok(TrustFolder::open(data, now, believe)?.held().directory.clone())
}

/// A region's keys and agreements, verified against what is believed of the linkage.
pub(crate) fn read_region(
    data: &Path,
    region: &RegionId,
    trust: &Arc<Trust>,
    now: Timestamp,
) -> Result<Loaded, FolderError> {
    let dir = region_dir(data, region);
    let listed = trust.directory.regions.get(region);
    if let Some(listed) = listed {
        keys::take_next(&dir, listed)?;
    }
    let signing = SigningKey::from_seed(&fixed(&dir.join(keys::SIGNING))?);
    let sealing = SealingKey::from_bytes(&fixed(&dir.join(keys::SEALING))?);
    let sealing_beside = keys::beside(&dir, listed, now);
    let authority = read_authority(&dir)?;
    let listed = listed.is_some_and(|listed| {
        listed.signing_key == signing.public()
            && listed.sealing_key == sealing.public()
            && listed.authority_certificate == authority.certificate_der()
    });
    if !listed {
        return Err(FolderError::NotListed(region.clone()));
    }
    let agreements = read_agreements(&dir.join(AGREEMENTS), region, trust, now)?;
    let trust = Arc::clone(trust);
    let region = region.clone();
    let book = Book { region, signing, sealing, sealing_beside, trust, agreements };
    Ok(Loaded { book, authority })
}

/// Who receives what a region shows, by its agreements.
///
/// # Errors
/// When a file is missing or not believed.
pub fn recipients(
    data: &Path,
    region: &RegionId,
    now: Timestamp,
) -> Result<Recipients, FolderError> {
    let trust = TrustFolder::open(data, now, believe)?;
    Ok(read_region(data, region, trust.held(), now)?.book.recipients())
}

/// Tells a region's agreements and its next keys from what they were before: names and times of the files.
pub(crate) fn stamp(data: &Path, region: &RegionId) -> Vec<(Option<SystemTime>, PathBuf)> {
    let entries = std::fs::read_dir(region_dir(data, region).join(AGREEMENTS));
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = paths.filter(|path| is_signed(path)).collect();
    paths.push(region_dir(data, region).join(keys::SEALING_NEXT));
    let modified = |path: &PathBuf| path.metadata().ok().and_then(|file| file.modified().ok());
    let mut found: Vec<_> = paths.into_iter().map(|path| (modified(&path), path)).collect();
    found.sort();
    found
}

fn is_signed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "signed")
}

fn read_authority(dir: &Path) -> Result<Authority, FolderError> {
    let path = dir.join("authority.crt");
    let text = |path: &Path| {
        String::from_utf8(read(path)?).map_err(|_| FolderError::Damaged { path: path.to_owned() })
    };
    let key = Secret::new(text(&dir.join("authority.key"))?);
    Authority::from_pem(&text(&path)?, &key)
        .map_err(|source| FolderError::Authority { path, source })
}

fn read_agreements(
    dir: &Path,
    region: &RegionId,
    trust: &Trust,
    now: Timestamp,
) -> Result<BTreeMap<(AgreementId, u32), SignedAgreement>, FolderError> {
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(FolderError::Read { path: dir.to_owned(), source }),
    };
    for entry in entries {
        let path =
            entry.map_err(|source| FolderError::Read { path: dir.to_owned(), source })?.path();
        if !is_signed(&path) {
            continue;
        }
        let bytes = read(&path)?;
        let signed =
            SignedObject::decode(bytes.as_slice()).map_err(|_| TrustError::Unreadable(AGREEMENT));
        match signed.and_then(|signed| Ok((seal::trust::read_agreement(&signed)?, signed))) {
            Ok((named, signed)) => files.push(((named.agreement_id, named.version), path, signed)),
            Err(error) => not_taken(&path, &error),
        }
    }
    // Each version is looked at beside the one before it.
    files.sort_by_key(|(version, ..)| *version);
    let mut agreements: BTreeMap<_, SignedAgreement> = BTreeMap::new();
    for ((id, version), path, signed) in files {
        let before = agreements.get(&(id, version.saturating_sub(1))).map(|held| &held.agreement);
        let agreement = match seal::trust::agreement_again(&signed, before, trust) {
            Ok(agreement) => agreement,
            Err(error) => {
                not_taken(&path, &error);
                continue;
            }
        };
        if !agreement.has_party(region) && before.is_none_or(|before| !before.has_party(region)) {
            continue;
        }
        // What widens what others may see waits until the authority has spoken again; to stop needs nobody.
        let widens = before.is_none_or(|before| before.consent(&agreement) == Consent::All);
        let old_from = trust.signed_at().plus_millis(STALE_HOURS * 3_600_000);
        if widens && trust.age(now) > TrustAge::Fresh && agreement.started_at > old_from {
            tracing::warn!(path = %path.display(), "an agreement waits for a newer word of the authority");
            continue;
        }
        agreements.insert((id, version), SignedAgreement::new(agreement, signed));
    }
    Ok(agreements)
}

/// One bad file keeps neither the other agreements nor newer trust from being taken.
fn not_taken(path: &Path, error: &TrustError) {
    let (path, reason) = (path.display(), error.reason().name());
    tracing::error!(%path, error.reason = reason, error = %ErrorChain(error), "an agreement is not believed");
}

/// Why an agreement version is not taken.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is not believed.
    #[error("the agreement is not believed")]
    Trust(#[from] TrustError),
    /// The region has nothing to do with it.
    #[error("region {0} is no party of the agreement, nor was of the version before")]
    NotAParty(RegionId),
    /// Another text of this version is held, and the authority does not say that this one counts.
    #[error("another text of this version is held: ask the authority which counts")]
    Forked,
    /// One party makes others busy with versions that it may make alone.
    #[error("too many versions in a row that not all parties have signed: have all sign the next")]
    TooMany,
    /// The version before is not held, so it cannot be told who must have signed.
    #[error("a signature is missing, or the version before: install that first")]
    Before(#[source] TrustError),
    /// The folder cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl InstallError {
    /// Why, by code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Trust(error) => error.reason(),
            Self::NotAParty(_) => Reason::NotAParty,
            Self::Forked => Reason::AgreementForked,
            Self::TooMany => Reason::LimitExceeded,
            Self::Before(_) => Reason::AgreementUnknown,
            Self::Folder(_) | Self::Write { .. } => Reason::StorageUnavailable,
        }
    }
}

/// Puts an agreement version, which those have signed who must, into a region's folder; a server that runs takes it
/// up by itself. Gives its file; one that is held already stays as it is.
///
/// # Errors
/// When it is not believed, or another text of the version is held.
pub fn install(
    data: &Path,
    region: &RegionId,
    object: &SignedObject,
    trust: &Trust,
    now: Timestamp,
) -> Result<PathBuf, InstallError> {
    let dir = region_dir(data, region).join(AGREEMENTS);
    let named = seal::trust::read_agreement(object)?;
    let (id, version) = (named.agreement_id, named.version);
    let path = dir.join(format!("{id}-{version}.signed"));
    let held = read_agreements(&dir, region, trust, now)?;
    if let Some(held) = held.get(&(id, version)) {
        let head = trust.freshness.as_ref().and_then(|freshness| freshness.agreements.get(&id));
        let counts =
            head.is_some_and(|head| (head.version, head.sha256) == (version, named.sha256));
        if held.agreement.sha256 != named.sha256 && !counts {
            return Err(InstallError::Forked);
        }
    }
    let before = held.get(&(id, version.saturating_sub(1))).map(|held| &held.agreement);
    let agreement = match seal::trust::agreement(object, before, trust) {
        Err(error @ TrustError::Unsigned { .. }) if version > 1 && before.is_none() => {
            return Err(InstallError::Before(error));
        }
        believed => believed?,
    };
    if !agreement.has_party(region) && before.is_none_or(|before| !before.has_party(region)) {
        return Err(InstallError::NotAParty(region.clone()));
    }
    let earlier = (1..version).rev().map_while(|version| held.get(&(id, version)));
    if agreement.short_versions(earlier.map(|held| &held.agreement)) > SHORT_VERSIONS_MAX {
        return Err(InstallError::TooMany);
    }
    // What is held already stays as it is.
    let known = held.get(&(id, version)).is_some_and(|held| held.agreement == agreement);
    if known {
        return Ok(path);
    }
    let written = std::fs::create_dir_all(&dir)
        .and_then(|()| write_atomic(&path, &object.encode_to_vec(), SHARED));
    written.map_err(|source| InstallError::Write { path: path.clone(), source })?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    std::fs::read(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })
}

fn fixed(path: &Path) -> Result<[u8; 32], FolderError> {
    read(path)?.try_into().map_err(|_| FolderError::Damaged { path: path.to_owned() })
}
