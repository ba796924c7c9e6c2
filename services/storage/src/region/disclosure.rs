//! Every look is on record: insert only, chained, written before the reply.

use super::{State, Store};
use crate::sqlite::int;
use crate::writer::WriteError;
use domain::kernel::{DeviceId, Purpose, Timestamp};
use rusqlite::Connection;

/// One read by one reader.
#[derive(Clone, Debug)]
pub struct Disclosure {
    /// Who reads.
    pub device: DeviceId,
    /// Why.
    pub purpose: Purpose,
    /// The call.
    pub method: &'static str,
    /// First place of the feed that is shown; 0 for a read outside the feed.
    pub feed_from: u64,
    /// Last place.
    pub feed_to: u64,
    /// Records shown.
    pub count: u64,
    /// The region's clock.
    pub now: Timestamp,
}

/// Somebody who watches the feed.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// Who.
    pub device: DeviceId,
    /// Why.
    pub purpose: Purpose,
}

impl Store {
    /// Notes who is about to read what. The reply to the reader must wait for this.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn disclose(&self, disclosure: Disclosure) -> Result<(), WriteError> {
        self.queue.call(disclosure, super::Job::Disclose).await
    }

    /// Notes who watches the feed from now on.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn set_watchers(
        &self,
        now: Timestamp,
        watchers: Vec<Watcher>,
    ) -> Result<(), WriteError> {
        self.queue.call((now, watchers), super::Job::Watchers).await
    }
}

/// A row as its chain hashes it.
struct Row<'a> {
    now: Timestamp,
    device: Option<DeviceId>,
    set_no: Option<i64>,
    purpose: i64,
    method: &'a str,
    feed_from: u64,
    feed_to: u64,
    count: u64,
}

pub(super) fn insert(
    state: &mut State,
    conn: &Connection,
    disclosure: &Disclosure,
) -> rusqlite::Result<()> {
    let row = Row {
        now: disclosure.now,
        device: Some(disclosure.device),
        set_no: None,
        purpose: disclosure.purpose.code().into(),
        method: disclosure.method,
        feed_from: disclosure.feed_from,
        feed_to: disclosure.feed_to,
        count: disclosure.count,
    };
    append(state, conn, &row)
}

/// Notes a new set of watchers; each commit from now on names it.
pub(super) fn set_watchers(
    state: &mut State,
    conn: &Connection,
    now: Timestamp,
    watchers: &[Watcher],
) -> rusqlite::Result<()> {
    state.pending.watchers_before.get_or_insert(state.memory.watcher_set);
    if watchers.is_empty() {
        state.memory.watcher_set = None;
        return Ok(());
    }
    // Ids and codes hold nothing that JSON would have to escape.
    let list: Vec<String> = watchers
        .iter()
        .map(|w| format!("{{\"device_id\":\"{}\",\"purpose\":\"{}\"}}", w.device, w.purpose.name()))
        .collect();
    let number = conn
        .prepare_cached(
            "INSERT INTO watcher_set (since_at, watchers) VALUES (?1, ?2) RETURNING set_no",
        )?
        .query_row((now.micros(), format!("[{}]", list.join(","))), |row| row.get(0))?;
    state.memory.watcher_set = Some(number);
    Ok(())
}

/// One row for all changes of the open transaction and all who watch.
pub(super) fn note_watched(state: &mut State, conn: &Connection) -> rusqlite::Result<()> {
    let (Some(set_no), Some(now)) = (state.memory.watcher_set, state.pending.now) else {
        return Ok(());
    };
    let (Some(first), Some(last)) = (state.pending.feed.first(), state.pending.feed.last()) else {
        return Ok(());
    };
    let row = Row {
        now,
        device: None,
        set_no: Some(set_no),
        purpose: 0,
        method: "Watch",
        feed_from: first.feed_seq,
        feed_to: last.feed_seq,
        count: u64::try_from(state.pending.feed.len()).unwrap_or(u64::MAX),
    };
    append(state, conn, &row)
}

fn append(state: &mut State, conn: &Connection, row: &Row<'_>) -> rusqlite::Result<()> {
    let numbers = [int(row.feed_from), int(row.feed_to), int(row.count)];
    let device = row.device.as_ref().map(|id| id.as_bytes().as_slice());
    let before = &state.memory.disclosure_hash;
    let now = row.now.micros();
    let hash = hash(before, now, device, row.set_no, row.purpose, row.method, numbers);
    conn.prepare_cached(
        "INSERT INTO disclosure (disclosed_at, device_id, set_no, purpose, method, feed_from, feed_to, count, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute((
        now,
        device,
        row.set_no,
        row.purpose,
        row.method,
        numbers[0],
        numbers[1],
        numbers[2],
        hash.as_slice(),
    ))?;
    state.memory.disclosure_hash = hash;
    Ok(())
}

/// What a row's hash is: over the one before and all that the row says; `numbers` are `feed_from`, `feed_to`
/// and `count`.
pub(super) fn hash(
    before: &[u8; 32],
    disclosed_at: i64,
    device: Option<&[u8]>,
    set_no: Option<i64>,
    purpose: i64,
    method: &str,
    numbers: [i64; 3],
) -> [u8; 32] {
    let mut bytes = before.to_vec();
    bytes.extend_from_slice(&disclosed_at.to_be_bytes());
    bytes.extend_from_slice(device.unwrap_or(&[0; 16]));
    bytes.extend_from_slice(&set_no.unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(&purpose.to_be_bytes());
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_be_bytes()));
    bytes.extend_from_slice(method.as_bytes());
    seal::key::sha256(&bytes)
}
