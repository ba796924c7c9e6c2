//! The entries that are made where entries are numbered: only there it is known where the stream before ended, and
//! what a stream holds of a record that is erased.

use bytes::Bytes;
use domain::erasure::Erase;
use domain::kernel::RecordId;
use domain::stream::{Parent, Position};
use prost::Message as _;
use proto::convert::entry::{self, Entry};
use proto::convert::transfer::{self, Word};

/// The first entry of a stream of this agreement version; `predecessor` is the version whose stream it takes the
/// place of, and where that ended; `parents` are the epochs that the stream's own follows.
pub fn start(
    agreement_sha256: &[u8; 32],
    predecessor: Option<(u32, Position)>,
    parents: &[Parent],
) -> Bytes {
    entry::encode_start(agreement_sha256, predecessor, parents)
}

/// The entry behind which a stream shows nothing new, because this agreement version has come into force.
pub fn end(successor_version: u32, successor_sha256: &[u8; 32]) -> Bytes {
    entry::encode_end(successor_version, successor_sha256)
}

/// The entry that says that a record was erased; `transfers` is how it came to its owner.
pub fn erase(erase: &Erase, transfers: &[Vec<u8>]) -> Bytes {
    entry::encode_erase(erase, transfers)
}

/// The entry of a view, as it follows from the encoded `device.v1.NeighbourView` that watchers are sent.
pub fn of_sent(encoded: Bytes) -> Option<Bytes> {
    /// A `NeighbourView` whose view is not taken apart.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Sent {
        #[prost(bytes = "bytes", optional, tag = "1")]
        view: Option<Bytes>,
    }
    Some(entry::wrap(&Sent::decode(encoded).ok()?.view?))
}

/// The record of which an entry shows something: an offer shows it to one.
pub fn record_of(entry: &Bytes) -> Option<RecordId> {
    match entry::decode(entry.clone()) {
        Ok(Entry::View(head, _)) => Some(head.record_id),
        Ok(Entry::Leave { record_id, .. }) => Some(record_id),
        Ok(Entry::Transfer(Word::Offer { offer, .. })) => {
            transfer::decode_offer(&offer.body).ok().map(|offer| offer.record_id)
        }
        _ => None,
    }
}
