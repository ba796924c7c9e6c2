//! What somebody makes who has not the keys to it.

use bytes::Bytes;
use domain::kernel::RegionId;
use domain::stream::{Position, StreamId};
use prost::Message as _;
use proto::exchange::v1 as pb;
use runtime::clock::SystemEntropy;
use seal::key::SigningKey;
use seal::segment::{Range, SaltedEntry, Segment};

/// What was said under one agreement, as the next of a stream under another.
pub(crate) fn under(segment: &Bytes, stream: &StreamId, before: Position) -> Vec<u8> {
    let mut outer = pb::Segment::decode(segment.clone()).unwrap();
    let mut prefix = pb::SegmentPrefix::decode(outer.prefix.clone()).unwrap();
    prefix.stream = Some(stream.into());
    prefix.first_seq = before.seq + 1;
    prefix.h_before = Bytes::copy_from_slice(&before.h);
    outer.prefix = prefix.encode_to_vec().into();
    outer.encode_to_vec()
}

/// The next segment of a stream, right in everything but the key that signs it.
pub(crate) fn next(like: &Segment, key: &SigningKey, parties: &[(RegionId, [u8; 32])]) -> Vec<u8> {
    let entries = [SaltedEntry { salt: [7; 16], entry: Bytes::from_static(b"made up") }];
    let (stream, before, expires_at) = (like.stream(), like.after(), like.expires_at());
    let range = Range { stream, before, entries: &entries, expires_at };
    seal::segment::seal(range, key, parties, &SystemEntropy).unwrap().bytes
}
