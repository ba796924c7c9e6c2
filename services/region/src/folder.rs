//! The data folder: what lies where, and reading it with everything verified.
//!
//! ```text
//! trust/root.pub directory-key.signed directory.signed     the linkage, as its authority signed it
//! regions/<id>/signing.key sealing.key authority.crt authority.key
//! regions/<id>/agreements/*.signed                         what it agreed
//! regions/<id>/store.sqlite                                its records
//! ```

use domain::directory::Directory;
use domain::kernel::{RegionId, Timestamp};
use exchange::book::{Book, SignedAgreement};
use prost::Message as _;
use proto::kernel::v1::SignedObject;
use runtime::config::Secret;
use runtime::data_dir::Format;
use runtime::pki::{Authority, PkiError};
use seal::key::{SealingKey, SigningKey};
use seal::trust::TrustError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a region server's data folder is.
pub const FORMAT: Format = Format { name: "region", number: 1 };

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
    /// A signed object is not believed.
    #[error("{path} is not believed")]
    Trust {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TrustError,
    },
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

/// The linkage, verified.
///
/// # Errors
/// When a file is missing or not believed.
pub fn read_directory(data: &Path, now: Timestamp) -> Result<Directory, FolderError> {
    let trust = data.join("trust");
    let path = trust.join("directory.signed");
    let root = fixed(&trust.join("root.pub"))?;
    let key = read(&trust.join("directory-key.signed"))?;
    seal::trust::directory(&root, &key, &read(&path)?, now)
        .map_err(|source| FolderError::Trust { path, source })
}

/// A region's keys and agreements, verified against the directory.
pub(crate) fn read_region(
    data: &Path,
    region: &RegionId,
    directory: &Directory,
) -> Result<Loaded, FolderError> {
    let dir = region_dir(data, region);
    let signing = SigningKey::from_seed(&fixed(&dir.join("signing.key"))?);
    let sealing = SealingKey::from_bytes(&fixed(&dir.join("sealing.key"))?);
    let authority = read_authority(&dir)?;
    let listed = directory.regions.get(region).is_some_and(|listed| {
        listed.signing_key == signing.public()
            && listed.sealing_key == sealing.public()
            && listed.authority_certificate == authority.certificate_der()
    });
    if !listed {
        return Err(FolderError::NotListed(region.clone()));
    }
    let agreements = read_agreements(&dir.join("agreements"), region, directory)?;
    let book =
        Book { region: region.clone(), signing, sealing, directory: directory.clone(), agreements };
    Ok(Loaded { book, authority })
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
    directory: &Directory,
) -> Result<BTreeMap<(domain::kernel::AgreementId, u32), SignedAgreement>, FolderError> {
    let mut agreements = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(agreements),
        Err(source) => return Err(FolderError::Read { path: dir.to_owned(), source }),
    };
    for entry in entries {
        let path =
            entry.map_err(|source| FolderError::Read { path: dir.to_owned(), source })?.path();
        if path.extension().is_none_or(|extension| extension != "signed") {
            continue;
        }
        let damaged = |_| FolderError::Damaged { path: path.clone() };
        let signed = SignedObject::decode(read(&path)?.as_slice()).map_err(damaged)?;
        let agreement = seal::trust::agreement(&signed, directory)
            .map_err(|source| FolderError::Trust { path: path.clone(), source })?;
        if agreement.has_party(region) {
            agreements.insert(
                (agreement.agreement_id, agreement.version),
                SignedAgreement::new(agreement, signed),
            );
        }
    }
    Ok(agreements)
}

fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    std::fs::read(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })
}

fn fixed(path: &Path) -> Result<[u8; 32], FolderError> {
    read(path)?.try_into().map_err(|_| FolderError::Damaged { path: path.to_owned() })
}
