//! Erasing a record: its content goes everywhere it was shown, and the chains still verify.

use crate::code_table;
use crate::kernel::{Kind, RecordId, RegionId, Revision};

/// Entries that one word of erasure names.
pub const ENTRIES_PER_ERASE_MAX: usize = 2_000;

code_table! {
    /// Why a record was erased.
    EraseReason {
        /// It should not have been written.
        Mistaken = 1 "MISTAKEN",
        /// It says of somebody what it must not.
        Privacy = 2 "PRIVACY",
        /// A lawful order.
        Order = 3 "ORDER",
    }
}

/// What a stream says of a record that was erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erase {
    /// The record.
    pub record_id: RecordId,
    /// Its kind.
    pub kind: Kind,
    /// Where it was born.
    pub birth_region: RegionId,
    /// Its last revision.
    pub revision: Revision,
    /// Counts on from the views.
    pub share_n: u64,
    /// Why.
    pub reason: EraseReason,
    /// Its entries in the stream: seq and commitment, ascending.
    pub entries: Vec<(u64, [u8; 32])>,
}
