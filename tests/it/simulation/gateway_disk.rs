//! What a gateway holds on disk. A model of `storage::gateway`: the same verdicts, in memory.

use bytes::Bytes;
use domain::agreement::Agreement;
use domain::kernel::RegionId;
use domain::stream::{Position, StreamId};
use prost::bytes;
use std::collections::BTreeMap;
use storage::gateway::{
    Committed, GatewayReceipt, ReceiptVerdict, SegmentVerdict, SegmentWrite, StoredSegment,
    StoredStream,
};

/// Segments read at a time.
const SEGMENTS_PER_READ_MAX: usize = 16;

#[derive(Clone, Debug)]
struct Held {
    before: Position,
    after: Position,
    encoded: Bytes,
}

#[derive(Clone, Debug)]
struct Stream {
    last: Position,
    head: Option<Bytes>,
    segments: BTreeMap<u64, Held>,
    receipts: BTreeMap<RegionId, GatewayReceipt>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct GatewayDisk {
    streams: BTreeMap<StreamId, Stream>,
    pub(super) agreements: Vec<Agreement>,
}

/// What a commit changed, as [`Committed`] tells it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    streams: BTreeMap<StreamId, Position>,
    segments: Vec<(StreamId, StoredSegment)>,
    receipts: Vec<GatewayReceipt>,
    heads: Vec<(StreamId, Bytes)>,
}

impl Changes {
    pub(super) fn committed(self) -> Committed {
        Committed {
            streams: self.streams.into_iter().collect(),
            segments: self.segments.into(),
            receipts: self.receipts.into(),
            heads: self.heads.into(),
        }
    }

    fn segment(&mut self, write: &SegmentWrite, last: Position) {
        self.streams.insert(write.stream.clone(), last);
        let (first_seq, last_seq) = (write.before.seq + 1, write.after.seq);
        let segment = StoredSegment { first_seq, last_seq, encoded: write.encoded.clone() };
        self.segments.push((write.stream.clone(), segment));
    }
}

impl GatewayDisk {
    pub(super) fn last(&self, stream: &StreamId) -> u64 {
        self.streams.get(stream).map_or(0, |held| held.last.seq)
    }

    pub(super) fn stored_streams(&self) -> Vec<StoredStream> {
        let row = |(stream, held): (&StreamId, &Stream)| StoredStream {
            stream: stream.clone(),
            last: held.last,
            oldest_seq: held.segments.keys().next().copied().unwrap_or(held.last.seq + 1),
            head: held.head.clone(),
        };
        self.streams.iter().map(row).collect()
    }

    pub(super) fn receipts(&self) -> Vec<GatewayReceipt> {
        self.streams.values().flat_map(|held| held.receipts.values().cloned()).collect()
    }

    pub(super) fn read(
        &self,
        stream: &StreamId,
        after: u64,
        bytes_max: usize,
    ) -> Vec<StoredSegment> {
        let Some(held) = self.streams.get(stream) else { return Vec::new() };
        let mut bytes = 0;
        held.segments
            .values()
            .filter(|segment| segment.after.seq > after)
            .take(SEGMENTS_PER_READ_MAX)
            .take_while(|segment| {
                let first = bytes == 0;
                bytes += segment.encoded.len();
                first || bytes <= bytes_max
            })
            .map(|segment| StoredSegment {
                first_seq: segment.before.seq + 1,
                last_seq: segment.after.seq,
                encoded: segment.encoded.clone(),
            })
            .collect()
    }

    /// A segment is gone, of which everybody was told that it is there.
    pub(super) fn lose(&mut self, stream: &StreamId, first_seq: u64) {
        if let Some(held) = self.streams.get_mut(stream) {
            held.segments.remove(&(first_seq - 1));
        }
    }

    pub(super) fn keep_agreement(&mut self, agreement: Agreement) {
        let of = |known: &Agreement| (known.agreement_id, known.version);
        if !self.agreements.iter().any(|known| of(known) == of(&agreement)) {
            self.agreements.push(agreement);
        }
    }

    pub(super) fn keep_head(&mut self, stream: &StreamId, signed: Bytes, changes: &mut Changes) {
        self.entry(stream).head = Some(signed.clone());
        changes.heads.push((stream.clone(), signed));
    }

    pub(super) fn keep_receipt(
        &mut self,
        receipt: &GatewayReceipt,
        changes: &mut Changes,
    ) -> ReceiptVerdict {
        let Some(held) = self.streams.get_mut(&receipt.stream) else {
            return ReceiptVerdict::UnknownStream;
        };
        let known = held.receipts.get(&receipt.party);
        if known.is_some_and(|known| known.position.seq >= receipt.position.seq) {
            return ReceiptVerdict::Known;
        }
        held.receipts.insert(receipt.party.clone(), receipt.clone());
        let seq = |party| held.receipts.get(party).map_or(0, |receipt| receipt.position.seq);
        let all_have = receipt.recipients.iter().map(seq).min().unwrap_or(0);
        held.segments.retain(|_, segment| segment.after.seq > all_have);
        changes.receipts.push(receipt.clone());
        ReceiptVerdict::Newer
    }

    pub(super) fn store(&mut self, write: &SegmentWrite, changes: &mut Changes) -> SegmentVerdict {
        let known = self.streams.contains_key(&write.stream);
        let last = self.streams.get(&write.stream).map(|held| held.last);
        let last = last.unwrap_or_else(|| seal::chain::start(&write.stream));
        if write.before == last || known && self.fast_forward(write, last) {
            let held = self.entry(&write.stream);
            held.last = write.after;
            held.segments.insert(write.before.seq, row(write));
            changes.segment(write, write.after);
            SegmentVerdict::Stored(write.after)
        } else if write.before.seq == last.seq {
            SegmentVerdict::Forked(last)
        } else if write.after.seq <= last.seq {
            self.refill(write, last, changes)
        } else {
            SegmentVerdict::Apart(last)
        }
    }

    fn fast_forward(&self, write: &SegmentWrite, last: Position) -> bool {
        let receipts = &self.streams[&write.stream].receipts;
        write.before.seq > last.seq
            && !write.recipients.is_empty()
            && write.recipients.iter().all(|party| {
                receipts.get(party).is_some_and(|receipt| {
                    receipt.position.seq > write.before.seq || receipt.position == write.before
                })
            })
    }

    fn refill(
        &mut self,
        write: &SegmentWrite,
        last: Position,
        changes: &mut Changes,
    ) -> SegmentVerdict {
        let held = self.entry(&write.stream);
        let (first, end) = (write.before.seq + 1, write.after.seq);
        let overlapping: Vec<_> = held
            .segments
            .values()
            .filter(|held| held.before.seq < end && held.after.seq >= first)
            .collect();
        let other = |a: &Position, b: &Position| a.seq == b.seq && a.h != b.h;
        let differs =
            |held: &&&Held| other(&held.before, &write.before) || other(&held.after, &write.after);
        if other(&write.after, &last) || overlapping.iter().any(|held| differs(&held)) {
            return SegmentVerdict::Forked(last);
        }
        if !overlapping.is_empty() {
            return SegmentVerdict::Known(last);
        }
        let before = if write.before.seq == 0 {
            Some(seal::chain::start(&write.stream))
        } else {
            let ends = |held: &&Held| held.after.seq == write.before.seq;
            held.segments.values().find(ends).map(|held| held.after)
        };
        let after = if end == last.seq {
            Some(last)
        } else {
            held.segments.get(&end).map(|held| held.before)
        };
        let fits = |known: Option<Position>, shown| known.is_none_or(|known| known == shown);
        if !fits(before, write.before) || !fits(after, write.after) {
            return SegmentVerdict::Forked(last);
        }
        if before.is_none() && after.is_none() {
            return SegmentVerdict::Apart(last);
        }
        held.segments.insert(write.before.seq, row(write));
        changes.segment(write, last);
        SegmentVerdict::Stored(last)
    }

    fn entry(&mut self, stream: &StreamId) -> &mut Stream {
        self.streams.entry(stream.clone()).or_insert_with(|| Stream {
            last: seal::chain::start(stream),
            head: None,
            segments: BTreeMap::new(),
            receipts: BTreeMap::new(),
        })
    }
}

fn row(write: &SegmentWrite) -> Held {
    Held { before: write.before, after: write.after, encoded: write.encoded.clone() }
}
