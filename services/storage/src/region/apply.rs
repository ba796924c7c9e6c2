//! A neighbour's entries become views, with the cursor, in one transaction.

use super::commit::read_revision;
use super::{FeedItem, FeedSource, InboxState, State};
use crate::sqlite::{blob, insert_rows, int, uint};
use bytes::Bytes;
use domain::kernel::{Kind, Reason, RecordId, RegionId, Revision, Timestamp};
use domain::stream::{Position, StreamId};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _};
use std::collections::HashMap;

/// A view, or the withdrawal of one.
#[derive(Clone, Debug)]
pub struct ViewRow {
    /// The record.
    pub record_id: RecordId,
    /// Where it was born.
    pub birth_region: RegionId,
    /// Its kind.
    pub kind: Kind,
    /// The revision shown.
    pub revision: Revision,
    /// Counts what the origin showed.
    pub share_n: u64,
    /// SHA-256 of the encoded view; `None` for a withdrawal.
    pub view_sha256: Option<[u8; 32]>,
    /// Deleted at the latest.
    pub expires_at: Timestamp,
    /// What watchers are sent; opaque here.
    pub encoded: Bytes,
}

/// What an entry comes to.
#[derive(Clone, Debug)]
pub enum InboxItem {
    /// A view.
    View(ViewRow),
    /// A record is no longer shown.
    Withdrawal(ViewRow),
    /// Nothing to keep; the cursor moves over it.
    Control,
    /// Verified but of no use, and why.
    Parked {
        /// Why.
        reason: Reason,
        /// Its salt.
        salt: [u8; 16],
        /// Its bytes.
        entry: Bytes,
    },
}

/// An entry of a neighbour's stream.
#[derive(Clone, Debug)]
pub struct InboxEntry {
    /// Its place.
    pub seq: u64,
    /// What it comes to.
    pub item: InboxItem,
}

/// A verified range of a neighbour's stream.
#[derive(Clone, Debug)]
pub struct Apply {
    /// The stream.
    pub stream: StreamId,
    /// Where the range begins; must be where the cursor stands.
    pub before: Position,
    /// Where it ends.
    pub after: Position,
    /// Its entries, in order.
    pub entries: Vec<InboxEntry>,
    /// The region's clock.
    pub now: Timestamp,
}

/// Where the cursor stands afterwards. When it is not the range's end, nothing was applied: the range
/// did not begin at the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The cursor.
    pub position: Position,
    /// Entries parked in the stream so far.
    pub parked_count: u64,
}

pub(super) fn load(conn: &Connection) -> rusqlite::Result<HashMap<StreamId, InboxState>> {
    let mut statement = conn
        .prepare("SELECT inbox_no, stream_id, applied_seq, applied_h, parked_count FROM inbox")?;
    let rows = statement.query_map([], |row| {
        let stream: Vec<u8> = row.get(1)?;
        let applied = Position { seq: uint(row.get(2)?), h: row.get(3)? };
        Ok((stream, InboxState { number: row.get(0)?, applied, parked_count: uint(row.get(4)?) }))
    })?;
    let mut inboxes = HashMap::new();
    for row in rows {
        let (stream, inbox) = row?;
        let stream = StreamId::from_bytes(&stream).ok_or(rusqlite::Error::InvalidQuery)?;
        inboxes.insert(stream, inbox);
    }
    Ok(inboxes)
}

pub(super) fn run(
    state: &mut State,
    conn: &Connection,
    apply: &Apply,
) -> rusqlite::Result<Applied> {
    let mut inbox = match state.memory.inboxes.get(&apply.stream) {
        Some(known) => *known,
        None => {
            let genesis = seal::chain::start(&apply.stream);
            let number = conn
                .prepare_cached(
                    "INSERT INTO inbox (stream_id, applied_seq, applied_h, parked_count) VALUES (?1, 0, ?2, 0) RETURNING inbox_no",
                )?
                .query_row((apply.stream.to_bytes(), genesis.h.as_slice()), |row| row.get(0))?;
            InboxState { number, applied: genesis, parked_count: 0 }
        }
    };
    if inbox.applied == apply.before {
        keep_entries(state, conn, &mut inbox, apply)?;
        inbox.applied = apply.after;
        conn.prepare_cached("UPDATE inbox SET applied_seq = ?2, applied_h = ?3, parked_count = ?4 WHERE inbox_no = ?1")?
            .execute((inbox.number, int(inbox.applied.seq), inbox.applied.h.as_slice(), int(inbox.parked_count)))?;
        state.pending.inbox.insert(apply.stream.clone(), inbox.applied);
        state.pending.now = Some(apply.now);
    }
    state.memory.inboxes.insert(apply.stream.clone(), inbox);
    Ok(Applied { position: inbox.applied, parked_count: inbox.parked_count })
}

fn keep_entries(
    state: &mut State,
    conn: &Connection,
    inbox: &mut InboxState,
    apply: &Apply,
) -> rusqlite::Result<()> {
    let mut views = Vec::new();
    let mut parked = Vec::new();
    // The newest of each record, as far as this range has changed it.
    let mut newest: HashMap<(RegionId, RecordId), (Revision, u64)> = HashMap::new();
    for entry in &apply.entries {
        match &entry.item {
            InboxItem::Control => {}
            InboxItem::View(view) | InboxItem::Withdrawal(view) => {
                let key = (view.birth_region.clone(), view.record_id);
                let held = match newest.get(&key) {
                    Some(held) => Some(*held),
                    None => newest_held(conn, &key)?,
                };
                // A late lower one is history, whatever lane brought it.
                let current = held.is_none_or(|held| held < (view.revision, view.share_n));
                newest.insert(
                    key,
                    held.map_or((view.revision, view.share_n), |held| {
                        held.max((view.revision, view.share_n))
                    }),
                );
                let withdrawn = matches!(entry.item, InboxItem::Withdrawal(_));
                state.memory.feed_seq += 1;
                let feed_seq = state.memory.feed_seq;
                views.push(view_row(feed_seq, inbox.number, entry.seq, view, withdrawn, current));
                if current {
                    let source = if withdrawn { FeedSource::Withdrawal } else { FeedSource::View };
                    let encoded = view.encoded.clone();
                    state.pending.feed.push(FeedItem {
                        feed_seq,
                        kind: view.kind,
                        source,
                        encoded,
                    });
                }
            }
            InboxItem::Parked { reason, salt, entry: bytes } => {
                inbox.parked_count += 1;
                parked.push(vec![
                    Value::Integer(inbox.number),
                    int(entry.seq),
                    Value::Integer(reason.code().into()),
                    blob(salt),
                    Value::Blob(bytes.to_vec()),
                    Value::Integer(apply.now.micros()),
                ]);
            }
        }
    }
    insert_rows(
        conn,
        "INSERT INTO view (feed_seq, inbox_no, seq, record_id, birth_region, kind, revision_t, revision_epoch, revision_n, share_n, withdrawn, current, view_sha256, expires_at, encoded)",
        15,
        "",
        &views,
    )?;
    insert_rows(
        conn,
        "INSERT INTO parked (inbox_no, seq, reason, salt, entry, parked_at)",
        6,
        "",
        &parked,
    )
}

/// Newest view of a record, which birth region and id name together: no neighbour can put another's
/// record behind one of its own.
fn newest_held(
    conn: &Connection,
    (birth_region, record): &(RegionId, RecordId),
) -> rusqlite::Result<Option<(Revision, u64)>> {
    let found = conn
        .prepare_cached(
            "SELECT revision_t, revision_epoch, revision_n, share_n FROM view WHERE record_id = ?1 AND birth_region = ?2
             ORDER BY revision_t DESC, revision_epoch DESC, revision_n DESC, share_n DESC LIMIT 1",
        )?
        .query_row((record.as_bytes().as_slice(), birth_region.as_str()), |row| {
            Ok((read_revision(row, 0)?, uint(row.get(3)?)))
        })
        .optional()?;
    Ok(found.and_then(|(revision, share_n)| Some((revision?, share_n))))
}

fn view_row(
    feed_seq: u64,
    inbox_no: i64,
    seq: u64,
    view: &ViewRow,
    withdrawn: bool,
    current: bool,
) -> Vec<Value> {
    vec![
        int(feed_seq),
        Value::Integer(inbox_no),
        int(seq),
        blob(view.record_id.as_bytes()),
        Value::Text(view.birth_region.to_string()),
        Value::Integer(view.kind.code().into()),
        Value::Integer(view.revision.t.into()),
        blob(view.revision.epoch.as_bytes()),
        int(view.revision.n),
        int(view.share_n),
        Value::Integer(withdrawn.into()),
        Value::Integer(current.into()),
        view.view_sha256.map_or(Value::Null, |hash| blob(&hash)),
        Value::Integer(view.expires_at.micros()),
        Value::Blob(view.encoded.to_vec()),
    ]
}
