//! The newest entries of the streams this region writes, in memory. What was just committed is what is
//! sealed next, and reading it back would cost more than sealing it. What is not here is in the store.

use super::outbox::{OutboxEntry, Run};
use domain::stream::{Position, StreamId};
use std::collections::{HashMap, VecDeque};

/// Bytes of runs that are kept; some ten thousand usual entries.
const TAIL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is kept, oldest first within each stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    streams: HashMap<StreamId, Kept>,
    /// The stream, entries and bytes of each run that is kept, oldest first.
    order: VecDeque<(StreamId, usize, usize)>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    /// The place before the first entry that is kept.
    before: Position,
    entries: VecDeque<OutboxEntry>,
}

impl Tail {
    /// Keeps a run that is on disk now.
    pub(super) fn push(&mut self, Run { stream, before, entries, size }: Run) {
        self.bytes += size;
        self.order.push_back((stream.clone(), entries.len(), size));
        let kept = self.streams.entry(stream);
        let kept = kept.or_insert_with(|| Kept { before, entries: VecDeque::new() });
        kept.entries.extend(entries);
        while self.bytes > TAIL_BYTES_MAX {
            let Some((oldest, count, size)) = self.order.pop_front() else { return };
            self.bytes -= size;
            if let Some(kept) = self.streams.get_mut(&oldest)
                && let Some(last) = kept.entries.drain(..count).next_back()
            {
                kept.before = last.position;
            }
        }
    }

    /// Something of the stream was erased: what is kept of it is read anew.
    pub(super) fn forget(&mut self, stream: &StreamId) {
        self.streams.remove(stream);
        self.order.retain(|(other, _, size)| {
            let kept = other != stream;
            self.bytes -= if kept { 0 } else { *size };
            kept
        });
    }

    /// At most `limit` entries after `after`; `None` where the store must be asked.
    pub(super) fn after(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Option<Vec<OutboxEntry>> {
        let kept = self.streams.get(stream)?;
        let skip = usize::try_from(after.checked_sub(kept.before.seq)?).ok()?;
        let entries = kept.entries.iter().skip(skip).take(limit);
        (skip <= kept.entries.len()).then(|| entries.cloned().collect())
    }

    /// Chain hash at `seq`; `None` where the store must be asked.
    pub(super) fn hash(&self, stream: &StreamId, seq: u64) -> Option<[u8; 32]> {
        let kept = self.streams.get(stream)?;
        match usize::try_from(seq.checked_sub(kept.before.seq)?).ok()?.checked_sub(1) {
            None => Some(kept.before.h),
            Some(index) => kept.entries.get(index).map(|entry| entry.position.h),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use domain::kernel::{AgreementId, Epoch, Lane, Timestamp};

    fn stream(lane: Lane) -> StreamId {
        StreamId {
            origin: "origin".parse().unwrap(),
            epoch: Epoch::from_slice(&[0x77; 16]).unwrap(),
            agreement: AgreementId::from_slice(&[0x77; 16]).unwrap(),
            version: 1,
            lane,
        }
    }

    fn at(seq: u64) -> Position {
        Position { seq, h: [u8::try_from(seq % 251).unwrap(); 32] }
    }

    /// A run of entries that takes so many bytes.
    fn push(tail: &mut Tail, lane: Lane, seqs: std::ops::RangeInclusive<u64>, size: usize) {
        let before = at(seqs.start() - 1);
        let entry = |seq| OutboxEntry {
            position: at(seq),
            salt: [0; 16],
            entry: Bytes::new(),
            expires_at: Timestamp::from_micros(0),
        };
        tail.push(Run { stream: stream(lane), before, entries: seqs.map(entry).collect(), size });
    }

    fn seqs(tail: &Tail, lane: Lane, after: u64, limit: usize) -> Option<Vec<u64>> {
        let entries = tail.after(&stream(lane), after, limit)?;
        Some(entries.iter().map(|entry| entry.position.seq).collect())
    }

    #[test]
    fn a_range_is_given_only_whole_and_only_from_where_it_is_kept() {
        let mut tail = Tail::default();
        push(&mut tail, Lane::Routine, 5..=9, 10);
        assert_eq!(seqs(&tail, Lane::Routine, 3, 9), None);
        assert_eq!(seqs(&tail, Lane::Routine, 4, 2), Some(vec![5, 6]));
        assert_eq!(seqs(&tail, Lane::Routine, 7, 9), Some(vec![8, 9]));
        assert_eq!(seqs(&tail, Lane::Routine, 9, 9), Some(Vec::new()));
        assert_eq!(seqs(&tail, Lane::Routine, 10, 9), None);
        assert_eq!(seqs(&tail, Lane::Alert, 0, 9), None);
        let hash = |seq| tail.hash(&stream(Lane::Routine), seq);
        assert_eq!(
            [3, 4, 5, 9, 10].map(hash),
            [None, Some(at(4).h), Some(at(5).h), Some(at(9).h), None]
        );
    }

    #[test]
    fn what_is_oldest_goes_first_whatever_its_stream() {
        let mut tail = Tail::default();
        push(&mut tail, Lane::Alert, 1..=2, 10);
        push(&mut tail, Lane::Routine, 1..=3, TAIL_BYTES_MAX / 2);
        push(&mut tail, Lane::Routine, 4..=5, TAIL_BYTES_MAX / 2);
        assert!(tail.bytes <= TAIL_BYTES_MAX);
        assert_eq!(seqs(&tail, Lane::Alert, 0, 9), None);
        assert_eq!(seqs(&tail, Lane::Alert, 2, 9), Some(Vec::new()));
        assert_eq!(seqs(&tail, Lane::Routine, 0, 1), Some(vec![1]));
        push(&mut tail, Lane::Routine, 6..=6, 10);
        assert_eq!(seqs(&tail, Lane::Routine, 2, 1), None);
        assert_eq!(seqs(&tail, Lane::Routine, 3, 9), Some(vec![4, 5, 6]));
        // The next one joins on.
        push(&mut tail, Lane::Alert, 3..=3, 10);
        assert_eq!(seqs(&tail, Lane::Alert, 2, 9), Some(vec![3]));
    }
}
