//! The folder `trust`: the root's public key, and what the authority has signed. Whoever
//! brings something newer, a program beside the server or a peer, is believed for its signatures alone, and
//! nobody leads back to something older. What is believed is for others to say; here it is kept.

use crate::ErrorChain;
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
/// what it is kept, where that is newer than what is held, and what of it is passed over.
pub type Believe<T, E> =
    fn(&[u8; 32], Option<&T>, &[u8], Timestamp) -> Result<(Option<(T, Vec<u8>)>, Vec<E>), E>;

/// What became of what lay there or was shown.
#[derive(Debug)]
pub struct Looked<E: std::error::Error + 'static> {
    /// Whether something of it is newer, and counts from now on.
    pub newer: bool,
    /// What is not believed of it, or cannot be read or kept.
    pub refused: Vec<TrustFolderError<E>>,
}

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
        let (held, refused) = believe(&root, None, &read(&signed)?, now)
            .map_err(|source| TrustFolderError::Trust { path: signed.clone(), source })?;
        for error in refused {
            let path = signed.display();
            tracing::warn!(%path, error = %ErrorChain(&error), "a part of the trust is passed over");
        }
        let (held, _) = held.ok_or(TrustFolderError::Damaged { path: signed.clone() })?;
        Ok(Self { signed, root, held: held.into(), believe, seen })
    }

    /// What is believed.
    pub const fn held(&self) -> &Arc<T> {
        &self.held
    }

    /// Looks whether a program beside has put something newer there; tells whether it has. What it has put
    /// there that is not is said once, and left lying.
    pub fn look(&mut self, now: Timestamp) -> Looked<E> {
        let found = stamp(&self.signed);
        if found == self.seen {
            return Looked { newer: false, refused: Vec::new() };
        }
        self.seen = found;
        match read(&self.signed) {
            Ok(bytes) => self.take(&bytes, true, now),
            Err(error) => Looked { newer: false, refused: vec![error] },
        }
    }

    /// Takes what somebody shows, as far as it is newer; tells whether it was. It is on disk before it counts.
    pub fn offer(&mut self, shown: &[u8], now: Timestamp) -> Looked<E> {
        self.take(shown, false, now)
    }

    /// Takes what is shown, or lies in the file.
    fn take(&mut self, shown: &[u8], lies: bool, now: Timestamp) -> Looked<E> {
        let refusal = |source| TrustFolderError::Trust { path: self.signed.clone(), source };
        let (newer, refused) = match (self.believe)(&self.root, Some(&self.held), shown, now) {
            Ok((newer, refused)) => (newer, refused.into_iter().map(refusal).collect()),
            Err(source) => (None, vec![refusal(source)]),
        };
        let mut looked = Looked { newer: false, refused };
        let Some((newer, kept)) = newer else { return looked };
        // What lies there may be newer in one part and older in another: then the newest of both is put there.
        if !lies || kept != shown {
            if let Err(source) = write_atomic(&self.signed, &kept, SHARED) {
                let path = self.signed.clone();
                looked.refused.push(TrustFolderError::Write { path, source });
                if !lies {
                    return looked;
                }
            }
            self.seen = stamp(&self.signed);
        }
        self.held = newer.into();
        looked.newer = true;
        looked
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

fn read<E: std::error::Error + 'static>(path: &Path) -> Result<Vec<u8>, TrustFolderError<E>> {
    std::fs::read(path).map_err(|source| TrustFolderError::Read { path: path.to_owned(), source })
}
