//! The phone's SQLite file. Nothing is held in memory between two calls, so that a phone that is
//! killed at any moment goes on where its disk says.

use rusqlite::types::Value;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// First version without the WAL-reset corruption of 3.7.0 to 3.51.2.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// How long a statement waits for another process of the same phone.
const BUSY_TIMEOUT_MS: u64 = 5_000;
/// Prepared statements kept; there are about forty texts.
const STATEMENTS_KEPT: usize = 64;
/// Only the owner reads what a phone holds.
pub(crate) const PRIVATE: u32 = 0o600;

/// The schema, one file a step; `user_version` counts the steps that were taken.
const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001_create_device_tables.sql")];

/// The store of one phone.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
}

/// Why the store failed. After an error of the disk it may be opened again; nothing that was promised
/// is lost.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The library is too old to be trusted.
    #[error("SQLite {0} is older than 3.51.3, which fixes a corruption bug")]
    LibraryTooOld(&'static str),
    /// A setting did not take.
    #[error("SQLite setting {0} did not take")]
    SettingRefused(&'static str),
    /// The schema is newer than this program.
    #[error(
        "the store has schema {found}, newer than the {known} this program knows; run the newer program"
    )]
    SchemaUnknown {
        /// Number in the file.
        found: i64,
        /// Newest number here.
        known: i64,
    },
    /// The file holds what this program never writes.
    #[error("the store's {0} is unreadable")]
    Inconsistent(&'static str),
    /// The file could not be made.
    #[error("the store's file could not be made")]
    File(#[source] io::Error),
    /// SQLite failed.
    #[error("SQLite failed")]
    Sqlite(#[from] rusqlite::Error),
}

impl Store {
    /// Opens or makes the store at `path`; its folder must be there.
    ///
    /// # Errors
    /// When the file is of a newer program, its settings do not take, or the disk fails.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if rusqlite::version_number() < SQLITE_VERSION_MIN {
            return Err(StoreError::LibraryTooOld(rusqlite::version()));
        }
        make_private(path).map_err(StoreError::File)?;
        let mut conn = Connection::open(path)?;
        conn.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        // WAL with FULL is the one mode that lost nothing in power cuts; NORMAL loses the last commits.
        set(&conn, "journal_mode", "WAL", "wal")?;
        set(&conn, "synchronous", "FULL", "2")?;
        set(&conn, "foreign_keys", "ON", "1")?;
        // What was withdrawn or erased is not left lying in the file.
        set(&conn, "secure_delete", "ON", "1")?;
        migrate(&mut conn)?;
        Ok(Self { conn })
    }

    pub(crate) const fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Changes the store in one transaction, which is on disk when this returns `Ok`.
    pub(crate) fn write<T, E: From<StoreError>>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        // Immediate, because a deferred one that reads first fails at once when another process has
        // written since.
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::from)?;
        let value = change(&tx)?;
        tx.commit().map_err(StoreError::from)?;
        Ok(value)
    }
}

/// Makes the file before SQLite does, because SQLite gives its log the mode of the file it finds.
fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path) {
        Ok(_) => sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Flushes the folder of a file, so that the file is still there after a power cut.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn set(conn: &Connection, name: &'static str, value: &str, taken: &str) -> Result<(), StoreError> {
    conn.pragma_update(None, name, value)?;
    let found = match conn.pragma_query_value(None, name, |row| row.get(0))? {
        Value::Text(text) => text,
        Value::Integer(number) => number.to_string(),
        Value::Null | Value::Real(_) | Value::Blob(_) => String::new(),
    };
    if found == taken { Ok(()) } else { Err(StoreError::SettingRefused(name)) }
}

fn migrate(conn: &mut Connection) -> Result<(), StoreError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = int(MIGRATIONS.len());
    let taken = match usize::try_from(found) {
        Ok(taken) if found <= known => taken,
        _ => return Err(StoreError::SchemaUnknown { found, known }),
    };
    for sql in &MIGRATIONS[taken..] {
        tx.execute_batch(sql)?;
    }
    tx.pragma_update(None, "user_version", known)?;
    tx.commit()?;
    Ok(())
}

/// A count as SQLite holds it.
pub(crate) fn int(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// A number that this program wrote and that is never negative.
pub(crate) fn uint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Reads an id, code or message of our own back.
pub(crate) fn read<T>(value: Option<T>, what: &'static str) -> Result<T, StoreError> {
    value.ok_or(StoreError::Inconsistent(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_store_is_private_and_can_be_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.db");
        let store = Store::open(&path).unwrap();
        for name in ["device.db", "device.db-wal"] {
            let mode = dir.path().join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, PRIVATE, "{name}");
        }
        drop(store);
        Store::open(&path).unwrap();
    }

    #[test]
    fn a_store_of_a_newer_program_is_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.db");
        let store = Store::open(&path).unwrap();
        store.conn().pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        for _ in 0..2 {
            let refused = Store::open(&path).unwrap_err();
            assert!(matches!(refused, StoreError::SchemaUnknown { found: 99, known: 1 }));
        }
    }

    #[test]
    fn a_file_that_is_no_store_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.db");
        std::fs::write(&path, b"something else, long enough to be read as a header of SQLite.....")
            .unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Sqlite(_))));
        let nowhere = dir.path().join("missing").join("device.db");
        assert!(matches!(Store::open(&nowhere), Err(StoreError::File(_))));
    }
}
