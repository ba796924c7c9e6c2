//! A neighbour's entries become views, with the cursor, in one transaction.

use super::commit::read_revision;
use super::{Claim, TransferWord, epoch, quarantine, transfer, withdrawal};
use super::{FeedItem, FeedSource, InboxState, State};
use crate::sqlite::{Insert, int, select_in, uint};
use bytes::Bytes;
use domain::kernel::{Kind, Reason, RecordId, RegionId, Revision, Timestamp};
use domain::stream::{Parent, Position, StreamId};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

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
    /// The salt of its entry.
    pub salt: [u8; 16],
    /// The entry, where it does not follow from what is sent.
    pub entry: Option<Bytes>,
    /// How it is known that the origin owns the record.
    pub claim: Claim,
}

impl ViewRow {
    /// Its entry, as it came.
    fn whole_entry(&self) -> Bytes {
        let entry = self.entry.clone().or_else(|| seal::entry::of_sent(self.encoded.clone()));
        entry.unwrap_or_default()
    }
}

/// What an entry comes to.
#[derive(Clone, Debug)]
pub enum InboxItem {
    /// A view.
    View(ViewRow),
    /// A record is no longer shown.
    Withdrawal(ViewRow),
    /// A record was erased: it is no longer shown, and of its entries only the commitments stay.
    Erase(ViewRow, Vec<(u64, [u8; 32])>),
    /// Nothing to show; the cursor moves over it.
    Control {
        /// Its salt.
        salt: [u8; 16],
        /// Its bytes.
        entry: Bytes,
    },
    /// A word on who owns a record, which concerns this region.
    Transfer {
        /// What it says.
        word: TransferWord,
        /// Its salt.
        salt: [u8; 16],
        /// Its bytes.
        entry: Bytes,
    },
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
    /// The epochs that the stream's own follows, where the range opens it.
    pub parents: Vec<Parent>,
    /// The region's clock.
    pub now: Timestamp,
}

impl Apply {
    /// Streams of epochs that the origin has left, as far as it knows them.
    pub fn left(&self) -> Vec<(StreamId, Position)> {
        self.parents.iter().filter_map(|parent| parent.known(&self.stream)).collect()
    }
}

/// Where the cursor stands afterwards. When it is not the range's end, nothing was applied: the range
/// did not begin at the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The cursor.
    pub position: Position,
    /// Entries parked in the stream so far.
    pub parked_count: u64,
    /// The origin has opened two epochs out of one, and none that follows both.
    pub cloned: bool,
}

pub(super) fn load(conn: &Connection) -> rusqlite::Result<HashMap<StreamId, InboxState>> {
    let mut statement = conn.prepare(
        "SELECT inbox_no, stream_id, applied_seq, applied_h, parked_count, applied_at FROM inbox",
    )?;
    let rows = statement.query_map([], |row| {
        let stream: Vec<u8> = row.get(1)?;
        let applied = Position { seq: uint(row.get(2)?), h: row.get(3)? };
        let (parked_count, applied_at) = (uint(row.get(4)?), Timestamp::from_micros(row.get(5)?));
        Ok((stream, InboxState { number: row.get(0)?, applied, parked_count, applied_at }))
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
            let applied_at = Timestamp::default();
            InboxState { number, applied: genesis, parked_count: 0, applied_at }
        }
    };
    let mut cloned = false;
    if inbox.applied == apply.before {
        #[cfg(feature = "known-bad")]
        crate::known_bad::forget_views(conn, inbox.number, apply.before)?;
        keep_entries(state, conn, &mut inbox, apply)?;
        let StreamId { origin, epoch, .. } = &apply.stream;
        cloned = !apply.parents.is_empty() && epoch::note(conn, origin, *epoch, &apply.parents)?;
        #[cfg(feature = "known-bad")]
        crate::known_bad::pass(crate::known_bad::Point::ViewsWritten);
        // A clock that was set back does not make what comes now older than what came before.
        let applied_at = inbox.applied_at.max(apply.now);
        quarantine::log(conn, (inbox.number, inbox.applied, inbox.applied_at), applied_at)?;
        (inbox.applied, inbox.applied_at) = (apply.after, applied_at);
        conn.prepare_cached(
            "UPDATE inbox SET applied_seq = ?2, applied_h = ?3, parked_count = ?4, applied_at = ?5 WHERE inbox_no = ?1",
        )?
        .execute((
            inbox.number,
            int(inbox.applied.seq),
            inbox.applied.h.as_slice(),
            int(inbox.parked_count),
            inbox.applied_at.micros(),
        ))?;
        #[cfg(feature = "known-bad")]
        crate::known_bad::forget_cursor(conn, inbox.number, apply.before)?;
        state.pending.inbox.insert(apply.stream.clone(), inbox.applied);
        state.pending.now = Some(apply.now);
    }
    state.memory.inboxes.insert(apply.stream.clone(), inbox);
    Ok(Applied { position: inbox.applied, parked_count: inbox.parked_count, cloned })
}

/// Names a record: no neighbour can put another's record behind one of its own.
type RecordKey<'a> = (&'a RegionId, RecordId);

/// A view to write.
struct Line<'a> {
    feed_seq: u64,
    seq: u64,
    view: &'a ViewRow,
    withdrawn: bool,
    /// How it stands beside other views of its record and agreement.
    current: Current,
}

/// An entry to park: seq, why, salt, bytes.
type ParkedLine<'a> = (u64, Reason, &'a [u8; 16], &'a Bytes);

pub(super) fn keep_entries(
    state: &mut State,
    conn: &Connection,
    inbox: &mut InboxState,
    apply: &Apply,
) -> rusqlite::Result<()> {
    let mut filed = Filed { newest: newest_held(conn, apply)?, ..Filed::default() };
    filed.views.reserve(apply.entries.len());
    // Of records that somebody else was seen to own.
    let mut seized = Vec::new();
    for InboxEntry { seq, item } in &apply.entries {
        match item {
            InboxItem::Control { salt, entry } => filed.controls.push((*seq, salt, entry)),
            InboxItem::Transfer { word, salt, entry } => {
                transfer::hear(state, conn, &apply.stream.origin, word, apply.now)?;
                filed.controls.push((*seq, salt, entry));
            }
            InboxItem::View(view) | InboxItem::Withdrawal(view) | InboxItem::Erase(view, _)
                if view.revision.t > 0 && !transfer::may_own(conn, &apply.stream.origin, view)? =>
            {
                inbox.parked_count += 1;
                seized.push((*seq, &view.salt, view.whole_entry()));
            }
            InboxItem::View(view) | InboxItem::Withdrawal(view) => {
                let withdrawn = matches!(item, InboxItem::Withdrawal(_));
                filed.file(state, apply.stream.version, *seq, (view, withdrawn));
            }
            InboxItem::Erase(view, entries) => {
                transfer::erased(state, conn, view.record_id)?;
                let of = |(seq, commitment): &(u64, [u8; 32])| (view.record_id, *seq, *commitment);
                filed.erased.extend(entries.iter().map(of));
                filed.file(state, apply.stream.version, *seq, (view, true));
            }
            InboxItem::Parked { reason, salt, entry } => {
                inbox.parked_count += 1;
                filed.parked.push((*seq, *reason, salt, entry));
            }
        }
    }
    let seized = seized.iter().map(|(seq, salt, entry)| (*seq, Reason::NotTheOwner, *salt, entry));
    filed.parked.extend(seized);
    filed.write(state, conn, inbox, apply)
}

/// Entries of a range, as they are written.
#[derive(Default)]
struct Filed<'a> {
    views: Vec<Line<'a>>,
    parked: Vec<ParkedLine<'a>>,
    controls: Vec<ControlLine<'a>>,
    /// The newest of each record under the agreement, as far as this range has changed it.
    newest: Newest<'a>,
    /// Places in the feed of views that are the newest no more.
    replaced: Vec<i64>,
    /// Records of which something was taken back, or came late.
    stirred: HashSet<RecordKey<'a>>,
    /// Entries of records that were erased: record, seq, commitment.
    erased: Vec<(RecordId, u64, [u8; 32])>,
}

impl<'a> Filed<'a> {
    /// A view, or what is left of one.
    fn file(
        &mut self,
        state: &mut State,
        version: u32,
        seq: u64,
        (view, withdrawn): (&'a ViewRow, bool),
    ) {
        let key = (&view.birth_region, view.record_id);
        let came = (view.revision, view.share_n, version);
        let Self { newest, views, replaced, .. } = self;
        let is_newest = overrule(newest, key, came, views, replaced);
        let current = if is_newest { Current::Newest } else { Current::History };
        if withdrawn || !is_newest {
            self.stirred.insert(key);
        }
        state.memory.feed_seq += 1;
        let feed_seq = state.memory.feed_seq;
        self.views.push(Line { feed_seq, seq, view, withdrawn, current });
        if is_newest {
            let source = if withdrawn { FeedSource::Withdrawal } else { FeedSource::View };
            let (kind, encoded) = (view.kind, &view.encoded);
            state.tell(|| FeedItem { feed_seq, kind, source, encoded: encoded.clone() });
        }
    }

    fn write(
        self,
        state: &mut State,
        conn: &Connection,
        inbox: &mut InboxState,
        apply: &Apply,
    ) -> rusqlite::Result<()> {
        for feed_seq in self.replaced {
            conn.prepare_cached("UPDATE view SET current = ?2 WHERE feed_seq = ?1")?
                .execute((feed_seq, Current::Replaced.code()))?;
        }
        write_views(conn, inbox.number, &self.views)?;
        write_beside(conn, inbox.number, (&self.controls, &self.parked), apply.now)?;
        for (birth_region, record) in self.stirred {
            let agreement = apply.stream.agreement;
            state.unsettled |= withdrawal::empty(conn, birth_region, record, agreement)?;
        }
        for (record, seq, commitment) in self.erased {
            withdrawal::erase(conn, inbox, record, seq, Some(&commitment))?;
            state.unsettled = true;
        }
        Ok(())
    }
}

/// An entry that shows nothing: seq, salt, bytes.
type ControlLine<'a> = (u64, &'a [u8; 16], &'a Bytes);

fn write_beside(
    conn: &Connection,
    inbox_no: i64,
    (controls, parked): (&[ControlLine<'_>], &[ParkedLine<'_>]),
    now: Timestamp,
) -> rusqlite::Result<()> {
    CONTROL.write(conn, controls, |(seq, salt, entry), to| {
        to.put(inbox_no)?;
        to.put(int(*seq))?;
        to.put(salt.as_slice())?;
        to.put(entry.as_ref())
    })?;
    PARKED.write(conn, parked, |(seq, reason, salt, entry), to| {
        to.put(inbox_no)?;
        to.put(int(*seq))?;
        to.put(reason.code())?;
        to.put(salt.as_slice())?;
        to.put(entry.as_ref())?;
        to.put(now.micros())
    })
}

static PARKED: LazyLock<Insert> = LazyLock::new(|| {
    Insert::new("INSERT INTO parked (inbox_no, seq, reason, salt, entry, parked_at)", 6, "")
});
static CONTROL: LazyLock<Insert> =
    LazyLock::new(|| Insert::new("INSERT INTO control (inbox_no, seq, salt, entry)", 4, ""));
static VIEW: LazyLock<Insert> = LazyLock::new(|| {
    let head = "INSERT INTO view (feed_seq, inbox_no, seq, record_id, birth_region, kind, revision_t, revision_epoch, revision_n, share_n, withdrawn, current, view_sha256, expires_at, encoded, salt, entry)";
    Insert::new(head, 17, "")
});

/// How a view stands beside others of its record and agreement.
#[derive(Clone, Copy)]
enum Current {
    /// It came late.
    History,
    /// It is the newest.
    Newest,
    /// It was when it came, and is none any more: the feed still tells it, in its turn.
    Replaced,
}

impl Current {
    const fn code(self) -> i64 {
        match self {
            Self::History => 0,
            Self::Newest => 1,
            Self::Replaced => 2,
        }
    }
}

/// Where the newest view of a record is.
enum Place {
    /// On disk before this range, at this place in the feed.
    Stored(i64),
    /// In this range.
    Line(usize),
}

/// What tells of two views of a record which is newer: revision, `share_n`, version of the agreement. The third
/// decides where a version that went calls off for some what the version in force shows to others for the last time.
pub(super) type Rank = (Revision, u64, u32);

/// The newest view of each record, and where it is.
type Newest<'a> = HashMap<RecordKey<'a>, (Rank, Place)>;

/// Whether what came of a record is newer than what is held; then that is no longer current. A late lower one
/// is history, whatever lane brought it.
fn overrule<'a>(
    newest: &mut Newest<'a>,
    key: RecordKey<'a>,
    came: Rank,
    views: &mut [Line<'_>],
    replaced: &mut Vec<i64>,
) -> bool {
    if newest.get(&key).is_some_and(|(held, _)| *held >= came) {
        return false;
    }
    match newest.insert(key, (came, Place::Line(views.len()))) {
        None => {}
        Some((_, Place::Stored(feed_seq))) => replaced.push(feed_seq),
        Some((_, Place::Line(index))) => {
            if let Some(line) = views.get_mut(index) {
                line.current = Current::Replaced;
            }
        }
    }
    true
}

/// Newest view, under the agreement, of each record that the range touches and that is held already.
fn newest_held<'a>(conn: &Connection, apply: &'a Apply) -> rusqlite::Result<Newest<'a>> {
    #[cfg(feature = "known-bad")]
    if crate::known_bad::is(crate::known_bad::Variant::DedupeThatForgets) {
        return Ok(HashMap::new());
    }
    let views = || {
        apply.entries.iter().filter_map(|entry| match &entry.item {
            InboxItem::View(view) | InboxItem::Withdrawal(view) | InboxItem::Erase(view, _) => {
                Some(view)
            }
            InboxItem::Control { .. } | InboxItem::Transfer { .. } | InboxItem::Parked { .. } => {
                None
            }
        })
    };
    let ids: Vec<&[u8]> = views().map(|view| view.record_id.as_bytes().as_slice()).collect();
    let rows = select_in(
        conn,
        "SELECT v.record_id, v.birth_region, v.revision_t, v.revision_epoch, v.revision_n, v.share_n, v.feed_seq, i.stream_id
         FROM view v JOIN inbox i ON i.inbox_no = v.inbox_no WHERE v.current = 1 AND v.record_id",
        &ids,
        |row| {
            let (id, birth_region): (Vec<u8>, String) = (row.get(0)?, row.get(1)?);
            let stream: Vec<u8> = row.get(7)?;
            let stream = StreamId::from_bytes(&stream);
            let came = (read_revision(row, 2)?, uint(row.get(5)?));
            Ok((id, birth_region, came, row.get::<_, i64>(6)?, stream))
        },
    )?;
    let mut newest = HashMap::with_capacity(ids.len());
    if rows.is_empty() {
        return Ok(newest);
    }
    let keys: HashMap<(&[u8], &str), RecordKey<'a>> = views()
        .map(|view| {
            let key = (&view.birth_region, view.record_id);
            ((view.record_id.as_bytes().as_slice(), view.birth_region.as_str()), key)
        })
        .collect();
    for (id, birth_region, (revision, share_n), feed_seq, stream) in &rows {
        let Some(stream) = stream else { continue };
        let key = keys.get(&(id.as_slice(), birth_region.as_str()));
        if let (Some(key), Some(revision)) = (key, revision)
            && stream.agreement == apply.stream.agreement
        {
            let rank = (*revision, *share_n, stream.version);
            newest.insert(*key, (rank, Place::Stored(*feed_seq)));
        }
    }
    Ok(newest)
}

fn write_views(conn: &Connection, inbox_no: i64, views: &[Line<'_>]) -> rusqlite::Result<()> {
    VIEW.write(conn, views, |Line { feed_seq, seq, view, withdrawn, current }, to| {
        to.put(int(*feed_seq))?;
        to.put(inbox_no)?;
        to.put(int(*seq))?;
        to.put(view.record_id.as_bytes().as_slice())?;
        to.put(view.birth_region.as_str())?;
        to.put(view.kind.code())?;
        to.put(view.revision.t)?;
        to.put(view.revision.epoch.as_bytes().as_slice())?;
        to.put(int(view.revision.n))?;
        to.put(int(view.share_n))?;
        to.put(withdrawn)?;
        to.put(current.code())?;
        to.put(view.view_sha256.as_ref().map(<[u8; 32]>::as_slice))?;
        to.put(view.expires_at.micros())?;
        to.put(view.encoded.as_ref())?;
        to.put(view.salt.as_slice())?;
        to.put(view.entry.as_deref())
    })
}
