//! Holds a store against its chains: every entry that was written or applied, every receipt, every look. What
//! was changed, put in or taken out is named by table and place.

use domain::directory::Directory;
use domain::stream::{Position, StreamId};
use prost::Message as _;
use proto::convert::entry::{self, Entry};
use proto::kernel::v1::SignedObject;
use seal::chain;
use seal::key::sha256;
use seal::signed::{Receipt, key_id_of};
use seal::trust::key_ever;
use std::collections::{BTreeMap, HashMap};
use storage::ReadError;
use storage::audit::{Report, What};
use storage::region::{HeldEntry, HeldView, OutboxEntry, ReceiptRow, Store, StreamRow};

/// Rows read at once.
const PAGE: u32 = 1_024;

/// Looks at everything; `tell` hears how many rows are done.
///
/// # Errors
/// When the store cannot be read at all.
pub async fn audit(
    store: &Store,
    directory: &Directory,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<Report, ReadError> {
    let mut report = Report::default();
    written(store, directory, &mut report, tell).await?;
    received(store, &mut report, tell).await?;
    looks(store, &mut report, tell).await?;
    Ok(report)
}

/// The streams that this region writes, and what their parties have signed for.
async fn written(
    store: &Store,
    directory: &Directory,
    report: &mut Report,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ReadError> {
    let mut receipts: HashMap<StreamId, Vec<ReceiptRow>> = HashMap::new();
    for receipt in store.list_receipts().await? {
        report.rows += 1;
        match verified(&receipt, directory) {
            true => receipts.entry(receipt.stream.clone()).or_default().push(receipt),
            false => {
                let (stream, seq) = (&receipt.stream, receipt.position.seq);
                report.find("receipt", Some(stream), seq, What::SignatureInvalid);
            }
        }
    }
    for StreamRow { stream, position: last, .. } in store.list_streams().await? {
        let mut at = chain::start(&stream);
        let signed_for = receipts.remove(&stream).unwrap_or_default();
        let signed = |at: Position, report: &mut Report| {
            let here = signed_for.iter().map(|receipt| receipt.position);
            for _ in here.filter(|position| position.seq == at.seq && position.h != at.h) {
                report.find("receipt", Some(&stream), at.seq, What::OtherHistory);
            }
        };
        let broken = loop {
            let Some(entries) = next(store, &stream, at.seq).await else {
                // A run whose own hashes do not fit: it begins here.
                report.find("outbox", Some(&stream), at.seq + 1, What::Changed);
                break true;
            };
            if entries.is_empty() {
                break false;
            }
            for held in entries {
                report.rows += 1;
                let next = chain::extend(at, &chain::commitment(&held.salt, &held.entry));
                if held.position.seq != next.seq {
                    report.find("outbox", Some(&stream), next.seq, What::Missing);
                } else if held.position != next {
                    report.find("outbox", Some(&stream), next.seq, What::Changed);
                }
                let is_start = matches!(entry::decode(held.entry), Ok(Entry::Start { .. }));
                if is_start != (held.position.seq == 1) {
                    report.find("outbox", Some(&stream), held.position.seq, What::OutOfPlace);
                }
                // One finding a row: those after it are held against what stands there.
                at = held.position;
                signed(at, report);
            }
            tell(report.rows);
        };
        if broken {
            continue;
        }
        if at.seq < last.seq {
            report.find("outbox", Some(&stream), at.seq + 1, What::Missing);
        } else if at != last {
            report.find("stream", Some(&stream), last.seq, What::OtherHistory);
        }
        if signed_for.iter().any(|receipt| receipt.position.seq > at.seq) {
            report.find("receipt", Some(&stream), at.seq + 1, What::OtherHistory);
        }
    }
    for stream in receipts.keys() {
        report.find("receipt", Some(stream), 0, What::OtherHistory);
    }
    Ok(())
}

/// The next entries of a stream, up to a run whose own hashes do not fit; `None` where that is the next.
async fn next(store: &Store, stream: &StreamId, after: u64) -> Option<Vec<OutboxEntry>> {
    let mut page = PAGE;
    loop {
        match store.list_outbox(stream, after, page).await {
            Ok(entries) => return Some(entries),
            Err(_) if page > 1 => page /= 2,
            Err(_) => return None,
        }
    }
}

/// Whether the party signed what the row says.
fn verified(row: &ReceiptRow, directory: &Directory) -> bool {
    let Some(party) = directory.regions.get(&row.party) else { return false };
    let object = SignedObject::decode(row.signed.clone()).ok();
    let receipt = object.and_then(|object| {
        let key = key_ever(party, key_id_of(&object));
        Receipt::verify(&object, &key).ok()
    });
    receipt.is_some_and(|receipt| {
        (receipt.stream, receipt.position, receipt.party, receipt.parked_count)
            == (row.stream.clone(), row.position, row.party.clone(), row.parked_count)
    })
}

/// A neighbour's stream, as far as its rows have led.
struct Followed {
    at: Position,
    /// Entries that are no views, which come between.
    beside: BTreeMap<u64, HeldEntry>,
    /// A row could not be followed: where the stream stands says nothing of the rest.
    lost: bool,
    /// Its last view had a salt.
    salted: bool,
}

impl Followed {
    /// Follows one entry.
    fn follow(&mut self, seq: u64, salt: Option<[u8; 16]>, entry: &[u8]) {
        match salt {
            Some(salt) => self.at = chain::extend(self.at, &chain::commitment(&salt, entry)),
            None => self.lost = true,
        }
        self.at.seq = seq;
    }

    /// Follows what is held between here and `seq`, and names what is not there. What opened a stream was not
    /// kept when salts were not.
    fn follow_beside(&mut self, stream: &StreamId, seq: u64, old: bool, report: &mut Report) {
        while self.at.seq + 1 < seq {
            let next = self.at.seq + 1;
            let Some(HeldEntry { seq: held, salt, entry }) = self.beside.remove(&next) else {
                if !(old && next == 1) {
                    report.find("view", Some(stream), next, What::Missing);
                }
                self.lost = true;
                // Up to the next that is there.
                let there = self.beside.range(next..seq).next().map_or(seq, |(there, _)| *there);
                self.at.seq = there - 1;
                continue;
            };
            report.rows += 1;
            self.follow(held, salt, &entry.unwrap_or_default());
        }
    }
}

/// The streams that this region receives.
async fn received(
    store: &Store,
    report: &mut Report,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ReadError> {
    let inboxes = store.list_inboxes().await?;
    let mut followed: HashMap<StreamId, Followed> = HashMap::new();
    for StreamRow { stream, .. } in &inboxes {
        let beside = store.list_held_beside(stream).await?;
        let beside = beside.into_iter().map(|held| (held.seq, held)).collect();
        let at = chain::start(stream);
        followed.insert(stream.clone(), Followed { at, beside, lost: false, salted: false });
    }
    let mut after = 0;
    loop {
        let views = store.list_held_views(after, PAGE).await?;
        let Some(last) = views.last() else { break };
        after = last.feed_seq;
        for view in views {
            report.rows += 1;
            if let Some(followed) = followed.get_mut(&view.stream) {
                followed_by(followed, &view, report);
            }
        }
        tell(report.rows);
    }
    for StreamRow { stream, position: last, .. } in inboxes {
        let Some(mut followed) = followed.remove(&stream) else { continue };
        followed.follow_beside(&stream, last.seq + 1, false, report);
        if let Some((seq, _)) = followed.beside.first_key_value() {
            report.find("control", Some(&stream), *seq, What::OutOfPlace);
        }
        if !followed.lost && followed.at != last {
            report.find("inbox", Some(&stream), last.seq, What::ChainBroken);
        }
    }
    Ok(())
}

fn followed_by(followed: &mut Followed, view: &HeldView, report: &mut Report) {
    let HeldView { stream, held, encoded, view_sha256, .. } = view;
    if held.seq <= followed.at.seq {
        report.find("view", Some(stream), held.seq, What::OutOfPlace);
        return;
    }
    let old = held.salt.is_none();
    followed.follow_beside(stream, held.seq, old, report);
    if old && followed.salted {
        // Salts are kept since those before it came.
        report.find("view", Some(stream), held.seq, What::Changed);
    }
    followed.salted |= !old;
    let entry = match (&held.entry, seal::entry::of_sent(encoded.clone())) {
        (Some(entry), _) => entry.clone(),
        (None, Some(entry)) => entry,
        (None, None) => {
            report.find("view", Some(stream), held.seq, What::Unreadable);
            (followed.lost, followed.at.seq) = (true, held.seq);
            return;
        }
    };
    // Of one that was taken back, no more than its commitment is left.
    let whole = held.salt.is_none_or(|salt| chain::erased(&salt, &entry).is_none());
    if whole && view_sha256.as_ref().is_some_and(|hash| *hash != sha256(&entry)) {
        report.find("view", Some(stream), held.seq, What::Changed);
        followed.lost = true;
    }
    report.without_salt += u64::from(old);
    followed.follow(held.seq, held.salt, &entry);
}

/// The log of looks.
async fn looks(
    store: &Store,
    report: &mut Report,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ReadError> {
    let (mut after, mut hash) = (0, [0; 32]);
    loop {
        let looks = store.list_looks(after, hash, PAGE).await?;
        let Some(last) = looks.last() else { return Ok(()) };
        for look in &looks {
            report.rows += 1;
            if look.number != after + 1 {
                report.find("disclosure", None, after + 1, What::Missing);
            } else if !look.fits {
                report.find("disclosure", None, look.number, What::Changed);
            }
            after = look.number;
        }
        hash = last.hash;
        tell(report.rows);
    }
}
