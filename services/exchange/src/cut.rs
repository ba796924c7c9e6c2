//! Reads a range of a stream from the store and seals it.

use crate::book::Book;
use crate::send::Ready;
use domain::kernel::{Entropy, Timestamp};
use domain::stream::{Position, StreamId};
use seal::segment::{ENTRIES_PER_SEGMENT_MAX, Range, SEGMENT_CUT_BYTES, SaltedEntry, SealError};
use storage::ReadError;
use storage::region::{OutboxEntry, Store};

/// Why a range was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The store cannot be read.
    #[error("the outbox could not be read")]
    Read(#[from] ReadError),
    /// The seal refused.
    #[error("the range could not be sealed")]
    Seal(#[from] SealError),
    /// The agreement or one of its parties is not known here any more.
    #[error("the agreement or a party of it is not known")]
    AgreementUnknown,
    /// The store holds fewer entries than it said.
    #[error("the outbox ends before the range does")]
    Short,
}

/// Seals the entries after `after`: all there are, up to the limits of a segment, and no further than
/// `to_seq` unless that is 0.
///
/// # Errors
/// When the store cannot be read or the range cannot be sealed.
pub async fn cut(
    store: &Store,
    book: &Book,
    stream: &StreamId,
    after: u64,
    to_seq: u64,
    entropy: &dyn Entropy,
) -> Result<Ready, CutError> {
    let room = if to_seq == 0 { u64::MAX } else { to_seq.saturating_sub(after) };
    let limit = u32::try_from(room.min(ENTRIES_PER_SEGMENT_MAX as u64)).unwrap_or(1);
    let h = store.find_outbox_hash(stream, after).await?.ok_or(CutError::Short)?;
    let mut rows = store.list_outbox(stream, after, limit).await?;
    let fits = within(&rows);
    rows.truncate(fits);
    seal_rows(book, stream, Position { seq: after, h }, rows, entropy)
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

fn seal_rows(
    book: &Book,
    stream: &StreamId,
    before: Position,
    rows: Vec<OutboxEntry>,
    entropy: &dyn Entropy,
) -> Result<Ready, CutError> {
    let agreement =
        book.agreement(stream.agreement, stream.version).ok_or(CutError::AgreementUnknown)?;
    let parties = book.sealing_keys(agreement).ok_or(CutError::AgreementUnknown)?;
    let expires_at =
        rows.iter().map(|row| row.expires_at).max().unwrap_or(Timestamp::from_micros(0));
    let entries: Vec<SaltedEntry> =
        rows.into_iter().map(|row| SaltedEntry { salt: row.salt, entry: row.entry }).collect();
    if entries.is_empty() {
        return Err(CutError::Short);
    }
    let range = Range { stream, before, entries: &entries, expires_at };
    let sealed = seal::segment::seal(range, &book.signing, &parties, entropy)?;
    Ok(Ready {
        stream: stream.clone(),
        first_seq: before.seq + 1,
        after: sealed.after,
        bytes: sealed.bytes.into(),
        segment_id: sealed.segment_id,
    })
}
