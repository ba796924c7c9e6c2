//! SQLite as both stores use it: one writing connection, a pool of readers, settings that survive a
//! power cut and are read back.
//!
//! The writer is a `rusqlite` connection on a thread of its own: a statement costs it 3.5 us, where an
//! async driver pays about 60 us for the hop to its thread, and a commit here has eight statements.
//! Readers are a `sqlx` pool, because handlers are async. Both link the same bundled library.

use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, ToSql, params_from_iter};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use std::path::Path;

/// First version without the WAL-reset corruption of 3.7.0 to 3.51.2.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Handlers that read at once; a read takes well under a millisecond.
const READERS_MAX: u32 = 4;
/// How long a statement waits for a lock, which only the command line ever holds.
const BUSY_TIMEOUT_MS: u64 = 5_000;
/// Prepared statements kept; the multi-row inserts have one text a power of two.
const STATEMENTS_KEPT: usize = 256;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    /// The store belongs to somebody else.
    #[error("the store belongs to {found}, not to {wanted}")]
    WrongOwner {
        /// Who is written in the file.
        found: String,
        /// Who asks.
        wanted: String,
    },
    /// The file holds what this program never writes.
    #[error("the store's {0} is unreadable")]
    Inconsistent(&'static str),
    /// SQLite failed.
    #[error("SQLite failed to open the store")]
    Sqlite(#[from] rusqlite::Error),
    /// The pool of readers failed.
    #[error("SQLite failed to open the readers")]
    Readers(#[from] sqlx::Error),
}

/// One step of the schema.
pub(crate) struct Migration {
    pub(crate) number: i64,
    pub(crate) sql: &'static str,
}

/// Opens the writing connection, makes the settings sure and brings the schema up to date.
pub(crate) fn open_writer(path: &Path, migrations: &[Migration]) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(OpenError::LibraryTooOld(rusqlite::version()));
    }
    let mut conn = Connection::open(path)?;
    conn.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // WAL with FULL is the one mode that lost nothing in power cuts; NORMAL loses the last commits.
    set(&conn, "journal_mode", "WAL", "wal")?;
    set(&conn, "synchronous", "FULL", "2")?;
    set(&conn, "mmap_size", "0", "0")?;
    set(&conn, "foreign_keys", "ON", "1")?;
    set(&conn, "cache_size", "-4096", "-4096")?;
    // Pages that are written again and again, as the ends of all tables are, go into the file once a
    // checkpoint: four times as rarely as by default, for 16 MiB of log.
    set(&conn, "wal_autocheckpoint", "4000", "4000")?;
    // What is deleted is not left lying in the file.
    set(&conn, "secure_delete", "ON", "1")?;
    migrate(&mut conn, migrations)?;
    Ok(conn)
}

/// Brings the log into the file and empties it; tells whether it is empty. A reader that is at work keeps it: nobody
/// waits for that one.
pub(crate) fn empty_log(conn: &Connection) -> bool {
    let patience = |ms| conn.busy_timeout(std::time::Duration::from_millis(ms));
    let empty =
        || conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    let busy = patience(0).and_then(|()| empty());
    let busy = patience(BUSY_TIMEOUT_MS).and(busy);
    if let Err(error) = &busy {
        tracing::warn!(error = %error, "the log was not emptied");
    }
    matches!(busy, Ok(0))
}

/// How a statement would be answered, step by step.
#[cfg(test)]
pub(crate) fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let none = vec![rusqlite::types::Null; plan.parameter_count()];
    let steps = plan.query_map(params_from_iter(none), |row| row.get("detail"));
    steps.unwrap().map(Result::unwrap).collect()
}

fn set(
    conn: &Connection,
    name: &'static str,
    value: &str,
    expected: &str,
) -> Result<(), OpenError> {
    conn.pragma_update(None, name, value)?;
    let found: Value = conn.pragma_query_value(None, name, |row| row.get(0))?;
    let fits = match found {
        Value::Text(text) => text == expected,
        Value::Integer(number) => number.to_string() == expected,
        _ => false,
    };
    if fits { Ok(()) } else { Err(OpenError::SettingRefused(name)) }
}

fn migrate(conn: &mut Connection, migrations: &[Migration]) -> Result<(), OpenError> {
    let known = migrations.last().map_or(0, |m| m.number);
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(OpenError::SchemaUnknown { found, known });
    }
    for migration in migrations.iter().filter(|m| m.number > found) {
        tx.execute_batch(migration.sql)?;
        tx.pragma_update(None, "user_version", migration.number)?;
    }
    tx.commit()?;
    Ok(())
}

/// Opens the pool of readers; they cannot write.
pub(crate) async fn open_readers(path: &Path) -> Result<SqlitePool, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS))
        .pragma("cache_size", "-1024");
    Ok(SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .min_connections(0)
        .connect_with(options)
        .await?)
}

/// An insert of many rows with few statements: `INSERT … VALUES (…),(…)`. Rows go out in chunks of powers
/// of two, so that the texts stay few, are written once and stay prepared.
pub(crate) struct Insert {
    columns: usize,
    /// By the logarithm of the rows they take.
    texts: [String; CHUNKS],
}

/// 64 rows of the widest table stay far below SQLite's 32,766 parameters.
const CHUNKS: usize = 7;

impl Insert {
    /// `head` names table and columns; `tail` says what to do about rows that are there.
    pub(crate) fn new(head: &str, columns: usize, tail: &str) -> Self {
        let row = format!("({})", vec!["?"; columns].join(","));
        let text = |power: usize| {
            format!("{head} VALUES {}{tail}", vec![row.as_str(); 1_usize << power].join(","))
        };
        Self { columns, texts: std::array::from_fn(text) }
    }

    /// Writes the rows; `bind` binds the columns of one, in order.
    pub(crate) fn write<R>(
        &self,
        conn: &Connection,
        rows: &[R],
        bind: impl Fn(&R, &mut Binder<'_, '_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let mut rest = rows;
        while !rest.is_empty() {
            let power = (CHUNKS - 1).min(rest.len().ilog2() as usize);
            let (chunk, after) = rest.split_at(1 << power);
            let mut statement = conn.prepare_cached(&self.texts[power])?;
            let mut binder = Binder { statement: &mut statement, bound: 0 };
            for row in chunk {
                bind(row, &mut binder)?;
            }
            debug_assert_eq!(binder.bound, self.columns << power, "every column is bound");
            statement.raw_execute()?;
            rest = after;
        }
        Ok(())
    }
}

/// Binds column after column. Nothing is copied on the way to SQLite.
pub(crate) struct Binder<'a, 'c> {
    statement: &'a mut CachedStatement<'c>,
    bound: usize,
}

impl Binder<'_, '_> {
    pub(crate) fn put(&mut self, value: impl ToSql) -> rusqlite::Result<()> {
        self.bound += 1;
        self.statement.raw_bind_parameter(self.bound, value)
    }
}

/// Reads rows by many keys with few statements: `… IN (?, ?, …)`, again in powers of two.
pub(crate) fn select_in<T>(
    conn: &Connection,
    head: &str,
    keys: &[&[u8]],
    mut read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    const KEYS_PER_STATEMENT_MAX: usize = 256;
    let mut found = Vec::new();
    let mut rest = keys;
    while !rest.is_empty() {
        let take = KEYS_PER_STATEMENT_MAX.min(1 << rest.len().ilog2());
        let (chunk, after) = rest.split_at(take);
        let sql = format!("{head} IN ({})", vec!["?"; take].join(","));
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(chunk))?;
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        rest = after;
    }
    Ok(found)
}

/// A number of ours (sequence numbers, counts) as SQLite keeps it. None of ours reaches 2^63.
pub(crate) fn int(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A number as SQLite kept it.
pub(crate) fn uint(number: i64) -> u64 {
    number.try_into().unwrap_or(0)
}
