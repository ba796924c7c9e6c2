//! Reads a range of a stream from the store and seals it.

use crate::book::Book;
use crate::home::Home;
use crate::send::Ready;
use domain::kernel::{Entropy, Timestamp};
use domain::stream::{Position, StreamId};
use seal::segment::{ENTRIES_PER_SEGMENT_MAX, Range, SEGMENT_CUT_BYTES, SaltedEntry, SealError};
use std::sync::Arc;
use storage::ReadError;
use storage::region::OutboxEntry;

/// Why a range was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The store cannot be read.
    #[error("the outbox could not be read")]
    Read(#[from] ReadError),
    /// The seal refused.
    #[error("the range could not be sealed")]
    Seal(#[from] SealError),
    /// The agreement is not known here any more.
    #[error("the agreement is not known")]
    AgreementUnknown,
    /// The server stops.
    #[error("the server stops")]
    Stopped,
    /// The store holds fewer entries than it said.
    #[error("the outbox ends before the range does")]
    Short,
}

/// Entries from which a range is sealed on a thread of its own: it takes longer than a hop there.
const ENTRIES_SEALED_INLINE_MAX: usize = 64;

/// Seals the entries after `after`: all there are, up to the limits of a segment. Those that are new
/// (`to_seq` 0) go at most `entries_max` at a time, a range that was asked for to its end.
///
/// # Errors
/// When the store cannot be read or the range cannot be sealed.
#[tracing::instrument(
    name = "exchange.cut",
    level = "debug",
    parent = None,
    skip_all,
    fields(agreement.id = %stream.agreement, stream.lane = stream.lane.name(), after)
)]
pub(crate) async fn cut(
    home: &Home,
    stream: &StreamId,
    after: u64,
    to_seq: u64,
    entries_max: u32,
) -> Result<Ready, CutError> {
    let most = ENTRIES_PER_SEGMENT_MAX as u64;
    let room = if to_seq == 0 { u64::from(entries_max) } else { to_seq.saturating_sub(after) };
    let limit = u32::try_from(room.min(most)).unwrap_or(1);
    let h = home.store.find_outbox_hash(stream, after).await?.ok_or(CutError::Short)?;
    let before = Position { seq: after, h };
    let rows = home.store.list_outbox(stream, after, limit).await?;
    if rows.len() <= ENTRIES_SEALED_INLINE_MAX {
        return seal_rows(&home.book, stream, before, rows, home.entropy.as_ref());
    }
    let (book, entropy) = (Arc::clone(&home.book), Arc::clone(&home.entropy));
    let stream = stream.clone();
    let work = move || seal_rows(&book, &stream, before, rows, entropy.as_ref());
    home.tasks.blocking("exchange.seal", work).await.unwrap_or(Err(CutError::Stopped))
}

/// How many of the rows fit into one segment: at least one, up to the cut size.
fn within(rows: &[OutboxEntry]) -> usize {
    let mut size = 0;
    rows.iter()
        .take_while(|row| {
            let first = size == 0;
            size += row.entry.len() + row.salt.len();
            first || size <= SEGMENT_CUT_BYTES
        })
        .count()
}

/// Seals the rows after `before`, as many as fit into one segment. Pure.
///
/// # Errors
/// When there is none, or the range cannot be sealed.
pub fn seal_rows(
    book: &Book,
    stream: &StreamId,
    before: Position,
    mut rows: Vec<OutboxEntry>,
    entropy: &dyn Entropy,
) -> Result<Ready, CutError> {
    let fits = within(&rows);
    rows.truncate(fits);
    let agreement =
        book.agreement(stream.agreement, stream.version).ok_or(CutError::AgreementUnknown)?;
    let parties = book.sealing_keys(agreement);
    let expires_at =
        rows.iter().map(|row| row.expires_at).max().unwrap_or(Timestamp::from_micros(0));
    let after = rows.last().ok_or(CutError::Short)?.position;
    let entries: Vec<SaltedEntry> =
        rows.into_iter().map(|row| SaltedEntry { salt: row.salt, entry: row.entry }).collect();
    let range = Range { stream, before, entries: &entries, expires_at };
    let sealed = seal::segment::seal_chained(range, after, &book.signing, &parties, entropy)?;
    #[cfg(feature = "known-bad")]
    storage::known_bad::pass(storage::known_bad::Point::RangeSealed);
    Ok(Ready {
        stream: stream.clone(),
        first_seq: before.seq + 1,
        after: sealed.after,
        bytes: sealed.bytes.into(),
        segment_id: sealed.segment_id,
    })
}
