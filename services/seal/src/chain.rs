//! The permanent hash chain over a stream's entries.
//!
//! An entry takes part by its commitment alone, so when its payload and salt are erased the chain
//! still verifies; the salt keeps a short entry from being guessed from what remains.

use crate::key::sha256_parts;
use crate::tag;
use domain::stream::{Position, StreamId};

/// `h_0`: where the chain of a stream starts.
pub fn genesis(stream: &StreamId) -> [u8; 32] {
    sha256_parts(&[tag::GENESIS, &stream.to_bytes()])
}

/// The position before the first entry of a stream.
pub fn start(stream: &StreamId) -> Position {
    Position { seq: 0, h: genesis(stream) }
}

/// The salt of an entry that was erased: what stands in the place of its bytes is its commitment. No salt that is
/// drawn is all zeros.
pub const ERASED: [u8; 16] = [0; 16];

/// The commitment of an erased entry; `None` for one that is whole.
pub fn erased(salt: &[u8; 16], entry: &[u8]) -> Option<[u8; 32]> {
    (*salt == ERASED).then(|| entry.try_into().ok()).flatten()
}

/// `c_n`: the commitment to an entry.
pub fn commitment(salt: &[u8; 16], entry: &[u8]) -> [u8; 32] {
    if let Some(erased) = erased(salt, entry) {
        return erased;
    }
    sha256_parts(&[tag::COMMITMENT, salt, entry])
}

/// `h_n`: the chain hash at `seq`, from the one before it and the entry's commitment.
pub fn link(seq: u64, h_before: &[u8; 32], c: &[u8; 32]) -> [u8; 32] {
    sha256_parts(&[tag::LINK, &seq.to_be_bytes(), h_before, c])
}

/// The position after one more entry.
#[must_use]
pub fn extend(before: Position, c: &[u8; 32]) -> Position {
    // A segment ends below `segment::SEQ_MAX`, so no position that was verified is near the edge.
    let seq = before.seq.saturating_add(1);
    Position { seq, h: link(seq, &before.h, c) }
}
