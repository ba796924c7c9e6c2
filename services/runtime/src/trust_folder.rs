//! The folder `trust`: the root's public key, and what the authority has signed. Whoever
//! brings something newer, a program beside the server or a peer, is believed for its signatures alone, and
//! nobody leads back to something older. What is believed is for others to say; here it is kept.

use crate::data_dir::{SHARED, write_atomic};
use domain::kernel::Timestamp;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The root's public key, 32 bytes.
pub const ROOT_FILE: &str = "root.pub";
/// What the authority has signed. One file, so that its parts always fit.
pub const SIGNED_FILE: &str = "linkage.signed";

/// Looks at what lies in the folder (`None` held) or is shown: gives what is to be believed from now on and as
/// what it is kept, where that is newer than what is held.
pub type Believe<T, E> =
    fn(&[u8; 32], Option<&T>, &[u8], Timestamp) -> Result<Option<(T, Vec<u8>)>, E>;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustFolderError<E: std::error::Error + 'static> {
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
    /// What is signed is not believed.
    #[error("{path} is not believed")]
    Trust {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: E,
    },
}

/// What is believed of a linkage, and where it lies.
#[derive(Debug)]
pub struct TrustFolder<T, E> {
    signed: PathBuf,
    root: [u8; 32],
    held: Arc<T>,
    believe: Believe<T, E>,
    /// The file as it was last read.
    seen: Option<Stamp>,
}

/// Tells a file from what it was before.
type Stamp = (u64, i64, i64, u64);

impl<T, E: std::error::Error + 'static> TrustFolder<T, E> {
    /// Reads the folder of a data folder.
    ///
    /// # Errors
    /// When a file is missing or not believed.
    pub fn open(
        data: &Path,
        now: Timestamp,
        believe: Believe<T, E>,
    ) -> Result<Self, TrustFolderError<E>> {
        let trust = data.join("trust");
        let (path, signed) = (trust.join(ROOT_FILE), trust.join(SIGNED_FILE));
        let root = read(&path)?.try_into().map_err(|_| TrustFolderError::Damaged { path })?;
        let seen = stamp(&signed);
        let held = believe(&root, None, &read(&signed)?, now)
            .map_err(|source| TrustFolderError::Trust { path: signed.clone(), source })?;
        let (held, _) = held.ok_or(TrustFolderError::Damaged { path: signed.clone() })?;
        Ok(Self { signed, root, held: held.into(), believe, seen })
    }

    /// What is believed.
    pub const fn held(&self) -> &Arc<T> {
        &self.held
    }

    /// Looks whether a program beside has put something newer there; tells whether it has. What it has put
    /// there that is not is said once, and left lying.
    ///
    /// # Errors
    /// When what lies there now cannot be read or is not believed.
    pub fn look(&mut self, now: Timestamp) -> Result<bool, TrustFolderError<E>> {
        let found = stamp(&self.signed);
        if found == self.seen {
            return Ok(false);
        }
        self.seen = found;
        let newer = self.newer(&read(&self.signed)?, now)?;
        Ok(newer.map(|(newer, _)| self.held = newer.into()).is_some())
    }

    /// Takes what somebody shows, when it is newer; tells whether it was. It is on disk before it counts.
    ///
    /// # Errors
    /// When it is not believed or cannot be kept.
    pub fn offer(&mut self, shown: &[u8], now: Timestamp) -> Result<bool, TrustFolderError<E>> {
        let Some((newer, kept)) = self.newer(shown, now)? else { return Ok(false) };
        write_atomic(&self.signed, &kept, SHARED)
            .map_err(|source| TrustFolderError::Write { path: self.signed.clone(), source })?;
        self.seen = stamp(&self.signed);
        self.held = newer.into();
        Ok(true)
    }

    fn newer(
        &self,
        shown: &[u8],
        now: Timestamp,
    ) -> Result<Option<(T, Vec<u8>)>, TrustFolderError<E>> {
        (self.believe)(&self.root, Some(&self.held), shown, now)
            .map_err(|source| TrustFolderError::Trust { path: self.signed.clone(), source })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

fn read<E: std::error::Error + 'static>(path: &Path) -> Result<Vec<u8>, TrustFolderError<E>> {
    std::fs::read(path).map_err(|source| TrustFolderError::Read { path: path.to_owned(), source })
}
