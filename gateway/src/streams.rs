//! What the gateway holds of every stream, in memory: how far it goes, its newest head, and how far each
//! party is. Filled from the store at start and kept up by its commits, so that a region that connects
//! costs no read.

use crate::book::Version;
use bytes::Bytes;
use domain::kernel::RegionId;
use domain::stream::{Position, StreamId};
use std::collections::{BTreeMap, HashMap};
use storage::gateway::{GatewayReceipt, StoredSegment, StoredStream};

/// Streams of one region that the gateway keeps: as many as a welcome can name.
pub const STREAMS_PER_ORIGIN_MAX: usize = 10_000;

/// Entries of a segment that an origin is asked to pack: as many as one holds.
const ENTRIES_PACKED_MAX: u64 = seal::segment::ENTRIES_PER_SEGMENT_MAX as u64;
/// Segments that are worth packing into one.
const SEGMENTS_PACKED_MIN: u64 = 16;

/// All streams.
#[derive(Debug, Default)]
pub struct Streams {
    by_version: HashMap<Version, BTreeMap<StreamId, StreamState>>,
    per_origin: HashMap<RegionId, usize>,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct StreamState {
    /// How far it is stored.
    pub last: Position,
    /// The newest head, as it came.
    pub head: Option<Bytes>,
    /// The newest receipt of each party: how far it is, and the receipt as it came.
    pub receipts: BTreeMap<RegionId, (Position, Bytes)>,
    /// The small segments at its end.
    loose: Loose,
}

/// Segments that follow one another and would fit into one.
#[derive(Clone, Copy, Debug, Default)]
struct Loose {
    first_seq: u64,
    last_seq: u64,
    segments: u64,
}

impl Streams {
    /// Takes in what the store holds.
    pub fn load(&mut self, streams: Vec<StoredStream>, receipts: Vec<GatewayReceipt>) {
        for StoredStream { stream, last, head, .. } in streams {
            let state = self.entry(&stream);
            state.last = last;
            state.head = head.or(state.head.take());
        }
        for receipt in receipts {
            self.receipted(&receipt);
        }
    }

    /// A stream goes so far.
    pub fn grew(&mut self, stream: &StreamId, last: Position) {
        let state = self.entry(stream);
        if last.seq > state.last.seq {
            state.last = last;
        }
    }

    /// A segment was stored. Gives the range before it that would be better off as one segment: it is in
    /// many, and one of `recipients` has not come so far. Opening a segment costs a recipient as much as
    /// a hundred entries.
    pub(crate) fn packable<'a>(
        &mut self,
        stream: &StreamId,
        segment: &StoredSegment,
        recipients: impl IntoIterator<Item = &'a RegionId>,
    ) -> Option<(u64, u64)> {
        let state = self.entry(stream);
        let Loose { first_seq, last_seq, segments } = state.loose;
        if segment.last_seq <= last_seq {
            // An old range that came again.
            return None;
        }
        let follows = segments > 0 && segment.first_seq == last_seq + 1;
        if follows && segment.last_seq - first_seq < ENTRIES_PACKED_MAX {
            state.loose = Loose { first_seq, last_seq: segment.last_seq, segments: segments + 1 };
            return None;
        }
        state.loose =
            Loose { first_seq: segment.first_seq, last_seq: segment.last_seq, segments: 1 };
        let waits = |party: &RegionId| {
            state.receipts.get(party).is_none_or(|(applied, _)| applied.seq < first_seq)
        };
        let packable = segments >= SEGMENTS_PACKED_MIN && recipients.into_iter().any(waits);
        packable.then_some((first_seq, last_seq))
    }

    /// A head came.
    pub fn headed(&mut self, stream: &StreamId, signed: Bytes) {
        self.entry(stream).head = Some(signed);
    }

    /// A receipt came. Two hashes for one place prove that somebody was shown another stream.
    pub fn receipted(&mut self, receipt: &GatewayReceipt) {
        let GatewayReceipt { stream, party, position, signed, .. } = receipt;
        let state = self.entry(stream);
        let others = state.receipts.iter().map(|(other, (at, _))| (Some(other), *at));
        let own = [(None, state.last)];
        let contradicts = |at: &Position| at.seq == position.seq && at.h != position.h;
        if let Some((other, _)) = others.chain(own).find(|(_, at)| contradicts(at)) {
            tracing::error!(
                region.id = %party,
                stream.origin = %stream.origin,
                stream.lane = stream.lane.name(),
                agreement.id = %stream.agreement,
                seq = position.seq,
                against = other.map(tracing::field::display),
                "a receipt proves a fork"
            );
        }
        state.receipts.insert(party.clone(), (*position, signed.clone()));
    }

    /// What is held of one stream.
    pub fn find(&self, stream: &StreamId) -> Option<&StreamState> {
        self.by_version.get(&(stream.agreement, stream.version))?.get(stream)
    }

    /// All streams of an agreement version.
    pub fn of_version(&self, version: Version) -> impl Iterator<Item = (&StreamId, &StreamState)> {
        self.by_version.get(&version).into_iter().flatten()
    }

    /// How many streams of a region there are.
    pub fn count_of(&self, origin: &RegionId) -> usize {
        self.per_origin.get(origin).copied().unwrap_or(0)
    }

    fn entry(&mut self, stream: &StreamId) -> &mut StreamState {
        let of_version = self.by_version.entry((stream.agreement, stream.version)).or_default();
        if !of_version.contains_key(stream) {
            *self.per_origin.entry(stream.origin.clone()).or_default() += 1;
        }
        of_version.entry(stream.clone()).or_insert_with(|| StreamState {
            last: seal::chain::start(stream),
            head: None,
            receipts: BTreeMap::new(),
            loose: Loose::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::kernel::{AgreementId, Epoch, Lane, Timestamp};

    fn stream() -> StreamId {
        StreamId {
            origin: "a".parse().unwrap(),
            epoch: Epoch::from_slice(&[0x77; 16]).unwrap(),
            agreement: AgreementId::from_slice(&[0x77; 16]).unwrap(),
            version: 1,
            lane: Lane::Routine,
        }
    }

    /// Ranges that are asked for as segments of so many entries come, by a recipient that is so far.
    fn asked(streams: &mut Streams, first_seq: u64, sizes: &[u64]) -> Vec<(u64, u64)> {
        let party: RegionId = "b".parse().unwrap();
        let mut next = first_seq;
        let mut asked = Vec::new();
        for size in sizes {
            let segment =
                StoredSegment { first_seq: next, last_seq: next + size - 1, encoded: Bytes::new() };
            next += size;
            asked.extend(streams.packable(&stream(), &segment, [&party]));
        }
        asked
    }

    #[test]
    fn many_small_segments_that_somebody_still_lacks_are_asked_for_as_one() {
        let mut streams = Streams::default();
        assert_eq!(asked(&mut streams, 1, &[1; 1_025]), [(1, 512), (513, 1_024)]);
        // What came packed, or again, is no reason to ask once more.
        assert_eq!(asked(&mut streams, 1, &[512, 512]), []);
        assert_eq!(asked(&mut streams, 1_026, &[1; 512]), [(1_025, 1_536)]);
    }

    #[test]
    fn segments_that_are_large_or_that_everybody_has_stay_as_they_are() {
        let mut streams = Streams::default();
        assert_eq!(asked(&mut streams, 1, &[256; 8]), []);
        streams.receipted(&GatewayReceipt {
            stream: stream(),
            party: "b".parse().unwrap(),
            position: Position { seq: 2_049, h: [1; 32] },
            recipients: Vec::new(),
            signed: Bytes::new(),
            now: Timestamp::from_micros(0),
        });
        assert_eq!(asked(&mut streams, 2_049, &[1; 1_200]), [(2_561, 3_072)]);
    }
}
