//! The data folder of a process: its own alone, of one known format.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Mode of a file only its owner may read: keys, and all that stands in a data folder.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that everyone may read: certificates and signed objects that are handed out.
pub const SHARED: u32 = 0o644;

const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";

/// A data folder, held by this process until dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

/// What a data folder holds, and in which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Who writes it, one word: `region`, `gateway`.
    pub name: &'static str,
    /// Raised when an older program could no longer read what a newer one writes.
    pub number: u32,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds it.
    #[error("data folder {} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It holds files, but none that says it is a data folder.
    #[error("{} holds files but is no data folder", path.display())]
    NotADataDir {
        /// The folder.
        path: PathBuf,
    },
    /// A program of another kind writes it, or its format file cannot be read as one.
    #[error("data folder of an unknown kind: {} holds `{found}`, expected `{expected}`", path.display())]
    OtherKind {
        /// The folder.
        path: PathBuf,
        /// What its format file holds.
        found: String,
        /// What this program writes.
        expected: String,
    },
    /// A newer program wrote it.
    #[error("data folder of a newer version: {} has format {found}, this program knows {known}", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format of this program.
        known: u32,
    },
    /// An older program wrote it.
    #[error("data folder of an older version: {} has format {found}, this program knows {known}", path.display())]
    Older {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format of this program.
        known: u32,
    },
    /// The disk refused.
    #[error("cannot use data folder {}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

impl DataDir {
    /// Opens the folder, making it on first use, and holds it against other processes.
    ///
    /// # Errors
    /// When another process holds it, it is of another kind or version, or the disk refuses.
    pub fn open(path: &Path, format: Format) -> Result<Self, DataDirError> {
        let refused = |source| DataDirError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refused)?;
        // Looked at before anything is written, so that a folder named by mistake stays as it was.
        let known = path.join(FORMAT_FILE).try_exists().map_err(refused)?;
        if !known && !is_fresh(path).map_err(refused)? {
            return Err(DataDirError::NotADataDir { path: path.to_owned() });
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(PRIVATE)
            .open(path.join(LOCK_FILE))
            .map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::InUse { path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        format.settle(path)?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    /// Closing would not do: a child that another thread has forked and that has not become its own program
    /// yet has the file open too, and a lock lasts until all have closed it.
    fn drop(&mut self) {
        // Where this fails, closing is all that is left.
        drop(self.lock.unlock());
    }
}

impl Format {
    /// Checks the format file of a folder that is held, or writes it on first use.
    fn settle(self, path: &Path) -> Result<(), DataDirError> {
        let file = path.join(FORMAT_FILE);
        let refused = |source| DataDirError::Io { path: file.clone(), source };
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return write_atomic(&file, format!("{self}\n").as_bytes(), PRIVATE)
                    .map_err(refused);
            }
            // Not text at all: told below as what it is.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => String::from("bytes"),
            Err(error) => return Err(refused(error)),
        };
        let number = text
            .trim_end()
            .strip_prefix("wuling-")
            .and_then(|rest| rest.strip_prefix(self.name)?.strip_prefix(' ')?.parse().ok());
        let path = path.to_owned();
        match number {
            None => {
                let found = text.chars().filter(|c| !c.is_control()).take(40).collect();
                Err(DataDirError::OtherKind { path, found, expected: self.to_string() })
            }
            Some(found) if found > self.number => {
                Err(DataDirError::Newer { path, found, known: self.number })
            }
            Some(found) if found < self.number => {
                Err(DataDirError::Older { path, found, known: self.number })
            }
            Some(_) => Ok(()),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "wuling-{} {}", self.name, self.number)
    }
}

/// Writes a file so that after a crash it holds either the old bytes or the new ones, whole.
///
/// # Errors
/// When the disk refuses; the old file then still stands.
pub fn write_atomic(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    let temporary = folder.join(temporary);
    let written = replace(file, &temporary, bytes, mode);
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        drop(std::fs::remove_file(&temporary));
    }
    written?;
    // The new name itself is on disk only when the folder is.
    File::open(folder)?.sync_all()
}

fn replace(file: &Path, temporary: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // What a crash left behind may have another mode.
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut out = OpenOptions::new().create_new(true).write(true).mode(mode).open(temporary)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(temporary, file)
}

fn is_fresh(path: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        // Two names of our own: a first start may have been killed between lock and format.
        let name = entry?.file_name();
        if name != LOCK_FILE && name != ".format.new" {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const REGION: Format = Format { name: "region", number: 2 };

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    /// What opening says of a folder whose format file holds `text`, with the folder cut off.
    fn check(text: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join(FORMAT_FILE), text).expect("written");
        let said = DataDir::open(folder.path(), REGION).map(|_| "good".to_owned());
        said.unwrap_or_else(|error| error.to_string())
            .replace(&folder.path().display().to_string(), "DATA")
    }

    #[test]
    fn a_new_folder_is_private_and_says_its_format() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a/b");
        let data = DataDir::open(&path, REGION).expect("opened");
        assert_eq!((mode(data.path()), mode(&path.join("format"))), (0o700, PRIVATE));
        let format = std::fs::read_to_string(path.join("format")).expect("there");
        assert_eq!(format, "wuling-region 2\n");
    }

    #[test]
    fn a_folder_in_use_is_named_and_free_again_after_its_process() {
        let folder = tempfile::tempdir().expect("folder");
        let first = DataDir::open(folder.path(), REGION).expect("opened");
        let second = DataDir::open(folder.path(), REGION).expect_err("in use").to_string();
        let path = folder.path().display();
        assert_eq!(second, format!("data folder {path} is in use by another process"));
        drop(first);
        DataDir::open(folder.path(), REGION).expect("free again");
    }

    #[test]
    fn a_folder_is_free_again_though_a_child_has_its_files_open() {
        let folder = tempfile::tempdir().expect("folder");
        let first = DataDir::open(folder.path(), REGION).expect("opened");
        let _of_a_child = first.lock.try_clone().expect("as a fork does");
        DataDir::open(folder.path(), REGION).expect_err("in use");
        drop(first);
        DataDir::open(folder.path(), REGION).expect("free again");
    }

    #[test]
    fn only_a_folder_of_this_kind_and_version_opens() {
        for (text, said) in [
            (&b"wuling-region 2\n"[..], "good"),
            (
                b"wuling-region 3\n",
                "data folder of a newer version: DATA has format 3, this program knows 2",
            ),
            (
                b"wuling-region 1\n",
                "data folder of an older version: DATA has format 1, this program knows 2",
            ),
            (
                b"wuling-gateway 2\n",
                "data folder of an unknown kind: DATA holds `wuling-gateway 2`, \
                 expected `wuling-region 2`",
            ),
            (
                b"\xff\xfe",
                "data folder of an unknown kind: DATA holds `bytes`, expected `wuling-region 2`",
            ),
        ] {
            assert_eq!(check(text), said);
        }
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("letter.txt"), "Dear").expect("written");
        let error = DataDir::open(folder.path(), REGION).expect_err("no data folder");
        assert!(matches!(error, DataDirError::NotADataDir { .. }));
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
    }

    #[test]
    fn a_written_file_replaces_the_old_one_whole_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("key.pem");
        std::fs::write(folder.path().join(".key.pem.new"), "left by a crash").expect("written");
        write_atomic(&file, b"old", SHARED).expect("written");
        write_atomic(&file, b"new", PRIVATE).expect("written");
        assert_eq!(std::fs::read(&file).expect("there"), b"new");
        assert_eq!(mode(&file), PRIVATE);
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("taken");
        std::fs::create_dir(&file).expect("made");
        write_atomic(&file, b"new", PRIVATE).expect_err("a folder stands there");
        assert!(file.is_dir());
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
    }
}
