//! What a revoked region's key has signed beyond the cut is kept from everybody here.
//!
//! It is looked at what lies here and what the newest book says, never at what has happened: once or again, after a
//! restart or before, with a cut that has moved or gone, it comes to the same.

use crate::book::Book;
use crate::home::Home;
use crate::open;
use domain::freshness::Cut;
use domain::kernel::Reason;
use domain::stream::{Position, StreamId};
use seal::chain;
use seal::key::key_fingerprint;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use storage::region::{Cutting, HeldView, StreamCut, StreamRow};
use storage::{ReadError, StoreError};

/// Rows read at once.
const PAGE: u32 = 1_024;

impl Home {
    /// Has the store quarantine what lies beyond the cuts of the newest book, and let out what does not any more.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn quarantine(&self) -> Result<(), StoreError> {
        let (book, held) = (self.shelf.book(), self.store.list_cuts().await?);
        let said = book.trust.freshness.iter().flat_map(|freshness| &freshness.revocations);
        if held.is_empty() && said.filter(|revocation| revocation.cut.is_some()).count() == 0 {
            return Ok(());
        }
        let held: HashMap<_, _> = held.into_iter().map(|cut| (cut.stream.clone(), cut)).collect();
        let inboxes = self.store.list_inboxes().await?;
        let moved = moved(&book, &held, &inboxes);
        let hashes = hashes(self, &moved).await?;
        let (mut cut, mut records) = (Vec::new(), BTreeSet::new());
        for (row, listed) in moved {
            let after = listed.map_or(0, |listed| after(row, listed, &hashes));
            let before = held.get(&row.stream).map_or(after, |before| before.after);
            let (stream, through) = (row.stream.clone(), row.position.seq);
            records.extend(self.store.list_records_behind(&stream, after.min(before)).await?);
            cut.push(StreamCut { stream, listed, after, through });
        }
        let mut lifted = Vec::new();
        for (stream, before) in held {
            if cut_of(&book, &stream).is_none() {
                records.extend(self.store.list_records_behind(&stream, before.after).await?);
                lifted.push(stream);
            }
        }
        if cut.is_empty() && lifted.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let origins: BTreeSet<_> = cut.iter().map(|cut| cut.stream.origin.clone()).collect();
        let cutting = Cutting { cut, lifted, records, withdrawn: open::quarantined, now };
        let done = self.store.cut(cutting).await?;
        let (kept, let_out) = (done.kept, done.let_out);
        tracing::warn!(region.id = %book.region, ?origins, kept, let_out, "a cut is in force");
        for origin in origins.iter().filter(|_| kept > 0) {
            self.alarm_of(Some(origin), Reason::RecordQuarantined);
        }
        Ok(())
    }
}

/// The cut of the key that signed a stream, where that was revoked with one.
fn cut_of<'a>(book: &'a Book, stream: &StreamId) -> Option<&'a Cut> {
    let agreement = book.agreement(stream.agreement, stream.version);
    let mut parties = agreement.into_iter().flat_map(|agreement| &agreement.parties);
    let party = parties.find(|party| party.region == stream.origin);
    let key_sha256 = party.map(|party| &party.signing_key_sha256);
    let freshness = book.trust.freshness.as_ref()?;
    // Under an agreement that pins a former key the one signs that came after it.
    let after = || {
        let listed = book.directory().regions.get(&stream.origin)?;
        let key_sha256 = key_fingerprint(&listed.signing_key);
        let came_after = party.is_some_and(|party| book.trust.is_pinned(party));
        came_after.then(|| freshness.cut_of(&stream.origin, Some(&key_sha256))).flatten()
    };
    freshness.cut_of(&stream.origin, key_sha256).or_else(after)
}

/// Streams that are not cut as the book says, or of which more was applied since, and where it cuts them.
fn moved<'a>(
    book: &Book,
    held: &HashMap<StreamId, StreamCut>,
    inboxes: &'a [StreamRow],
) -> Vec<(&'a StreamRow, Option<Position>)> {
    let cut =
        |row: &'a StreamRow| Some((row, cut_of(book, &row.stream)?.get(&row.stream).copied()));
    let is_done = |row: &StreamRow, listed: &Option<Position>| {
        let held = held.get(&row.stream);
        held.is_some_and(|held| (held.listed, held.through) == (*listed, row.position.seq))
    };
    inboxes.iter().filter_map(cut).filter(|(row, listed)| !is_done(row, listed)).collect()
}

/// Behind which entry a stream is void whose revocation names a place.
fn after(row: &StreamRow, listed: Position, hashes: &HashMap<&StreamId, [u8; 32]>) -> u64 {
    // What goes less far is before it, as far as anybody can tell.
    let fits = row.position.seq < listed.seq || hashes.get(&row.stream) == Some(&listed.h);
    // Else what lies here is another history than others had signed for: none of it is theirs.
    if fits { listed.seq } else { 0 }
}

/// The chain hashes of what lies here at the places that are named. Without that of a stream whose rows do not lead
/// there: it cannot be shown that it is the same.
async fn hashes<'a>(
    home: &Home,
    moved: &[(&'a StreamRow, Option<Position>)],
) -> Result<HashMap<&'a StreamId, [u8; 32]>, ReadError> {
    let (mut hashes, mut walked) = (HashMap::new(), HashMap::new());
    for (row, listed) in moved {
        let Some(listed) = listed.filter(|listed| listed.seq <= row.position.seq) else { continue };
        if listed.seq == row.position.seq {
            hashes.insert(&row.stream, row.position.h);
            continue;
        }
        let mut links = BTreeMap::new();
        for held in home.store.list_held_beside(&row.stream).await? {
            if let (Some(salt), Some(entry)) = (held.salt, held.entry) {
                links.insert(held.seq, chain::commitment(&salt, &entry));
            }
        }
        walked.insert(&row.stream, (listed.seq, links));
    }
    let mut place = 0;
    while !walked.is_empty() {
        let views = home.store.list_held_views(place, PAGE).await?;
        let Some(last) = views.last() else { break };
        place = last.feed_seq;
        for view in &views {
            if let Some((seq, links)) = walked.get_mut(&view.stream)
                && view.held.seq <= *seq
                && let Some(commitment) = commitment(view)
            {
                links.insert(view.held.seq, commitment);
            }
        }
    }
    for (stream, (seq, links)) in walked {
        let mut at = chain::start(stream);
        while at.seq < seq {
            let Some(link) = links.get(&(at.seq + 1)) else { break };
            at = chain::extend(at, link);
        }
        if at.seq == seq {
            hashes.insert(stream, at.h);
        }
    }
    Ok(hashes)
}

fn commitment(view: &HeldView) -> Option<[u8; 32]> {
    let entry = view.held.entry.clone().or_else(|| seal::entry::of_sent(view.encoded.clone()))?;
    Some(chain::commitment(&view.held.salt?, &entry))
}
