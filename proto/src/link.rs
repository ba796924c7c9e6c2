//! Flow control of a link, the same at the region and at the gateway: segments go in pieces, so that
//! an alert never waits behind a long one; a sender spends credit, so that no lane fills the other
//! side's memory. Pure: the callers own the connection, the clock and the disk.

use crate::exchange::v1 as pb;
use bytes::{Bytes, BytesMut};
use domain::kernel::{Lane, Reason};

/// Version of the link protocol.
pub const LINK_PROTOCOL: u32 = 1;
/// Bytes of a segment in one piece.
pub const PIECE_BYTES_MAX: usize = 16_384;
/// Bytes of an encoded segment.
pub const SEGMENT_BYTES_MAX: u32 = 2 * 1_024 * 1_024;
/// Bytes of credit a sender may hold on a lane.
pub const CREDIT_BYTES_MAX: u32 = 64 * 1_024 * 1_024;
/// Bytes that may be under way on the alert lane, and on the routine lane.
pub const WINDOW_BYTES: u32 = 4 * 1_024 * 1_024;
/// Bytes that may be under way on the bulk lane.
pub const BULK_WINDOW_BYTES: u32 = 1_024 * 1_024;
/// Bytes a receiver gathers before it grants them again: a credit frame for each small segment would
/// double the frames.
pub const GRANT_STEP_BYTES: u32 = 64 * 1_024;
/// Milliseconds between signs of life.
pub const PING_INTERVAL_MS: u64 = 2_000;
/// Milliseconds without a byte after which the other side is dead.
pub const DEAD_AFTER_MS: u64 = 6_000;
/// Milliseconds of silence on a stream after which its origin signs a head.
pub const HEAD_SILENCE_MS: u64 = 60_000;
/// Milliseconds without a fresh head after which a recipient calls it late.
pub const HEAD_LATE_MS: u64 = 65_000;

/// First 16 bytes of SHA-256 of an encoded segment.
pub type SegmentId = [u8; 16];

/// Bytes that may be under way on a lane.
pub const fn window_bytes(lane: Lane) -> u32 {
    match lane {
        Lane::Alert | Lane::Routine => WINDOW_BYTES,
        Lane::Bulk => BULK_WINDOW_BYTES,
    }
}

/// Bytes of the largest segment of a lane. One that is larger than what a sender may have under way
/// would never be complete, and its lane would stand still for ever.
pub const fn segment_bytes_max(lane: Lane) -> u32 {
    let under_way = window_bytes(lane) - GRANT_STEP_BYTES;
    if under_way < SEGMENT_BYTES_MAX { under_way } else { SEGMENT_BYTES_MAX }
}

/// Cuts a segment into pieces, from an offset that the other side has already. The bytes are shared,
/// not copied.
pub fn pieces(
    segment: &Bytes,
    segment_id: SegmentId,
    lane: Lane,
    from_offset: u32,
) -> impl Iterator<Item = pb::SegmentPiece> + use<> {
    let segment = segment.clone();
    let segment_id = Bytes::copy_from_slice(&segment_id);
    // A segment too long for the field is also too long for the receiver, who says so.
    let total_size = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    (from_offset..total_size).step_by(PIECE_BYTES_MAX).map(move |offset| {
        let start = offset as usize;
        let end = segment.len().min(start + PIECE_BYTES_MAX);
        pb::SegmentPiece {
            segment_id: segment_id.clone(),
            lane: lane.code(),
            total_size,
            offset,
            data: segment.slice(start..end),
        }
    })
}

/// Puts pieces together, per lane at most one segment at a time. Kept across reconnects, so that a
/// sender goes on where the line broke.
#[derive(Debug)]
pub struct Assembler {
    sha256: fn(&[u8]) -> [u8; 32],
    under_way: [Option<Partial>; Lane::ALL.len()],
}

#[derive(Debug)]
struct Partial {
    segment_id: SegmentId,
    total_size: u32,
    bytes: BytesMut,
}

impl Assembler {
    /// An assembler with nothing under way.
    pub const fn new(sha256: fn(&[u8]) -> [u8; 32]) -> Self {
        Self { sha256, under_way: [const { None }; Lane::ALL.len()] }
    }

    /// Takes a piece; gives the segment when it was the last. A piece at offset 0 begins a segment, and
    /// what was under way on its lane is dropped: after a reconnect the sender may have sealed anew.
    ///
    /// # Errors
    /// `LimitExceeded` for what is too large, `ProtocolViolation` for what does not join on or does not
    /// bear out its id.
    pub fn take(&mut self, piece: pb::SegmentPiece) -> Result<Option<(Lane, Bytes)>, Reason> {
        let pb::SegmentPiece { segment_id, lane, total_size, offset, data } = piece;
        let lane = Lane::try_from(lane).map_err(|_| Reason::ProtocolViolation)?;
        let segment_id =
            SegmentId::try_from(&segment_id[..]).map_err(|_| Reason::ProtocolViolation)?;
        if data.len() > PIECE_BYTES_MAX || total_size > segment_bytes_max(lane) {
            return Err(Reason::LimitExceeded);
        }
        let rest = total_size.checked_sub(offset).ok_or(Reason::ProtocolViolation)? as usize;
        if data.is_empty() || data.len() > rest {
            return Err(Reason::ProtocolViolation);
        }
        let last = data.len() == rest;
        let under_way = &mut self.under_way[index(lane)];
        if offset == 0 {
            *under_way = None;
            if last {
                return whole(self.sha256, segment_id, lane, data);
            }
            *under_way = Some(Partial { segment_id, total_size, bytes: BytesMut::from(data) });
            return Ok(None);
        }
        let joins = under_way.as_ref().is_some_and(|partial| {
            partial.segment_id == segment_id
                && partial.total_size == total_size
                && partial.bytes.len() == offset as usize
        });
        let partial = under_way.as_mut().filter(|_| joins).ok_or(Reason::ProtocolViolation)?;
        partial.bytes.extend_from_slice(&data);
        if !last {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut partial.bytes);
        *under_way = None;
        whole(self.sha256, segment_id, lane, bytes.freeze())
    }

    /// The segments under way and how many of their bytes are here.
    pub fn resumes(&self) -> Vec<(SegmentId, u32)> {
        let have = |partial: &Partial| u32::try_from(partial.bytes.len()).unwrap_or(u32::MAX);
        self.under_way.iter().flatten().map(|partial| (partial.segment_id, have(partial))).collect()
    }
}

fn whole(
    sha256: fn(&[u8]) -> [u8; 32],
    segment_id: SegmentId,
    lane: Lane,
    bytes: Bytes,
) -> Result<Option<(Lane, Bytes)>, Reason> {
    if sha256(&bytes).starts_with(&segment_id) {
        Ok(Some((lane, bytes)))
    } else {
        Err(Reason::ProtocolViolation)
    }
}

/// The sender's side of credit: what the other side still takes on each lane.
#[derive(Clone, Debug, Default)]
pub struct CreditOut {
    bytes: [u32; Lane::ALL.len()],
}

impl CreditOut {
    /// Adds what the other side grants. More than [`CREDIT_BYTES_MAX`] is held at that: a peer's number
    /// is not believed beyond reason.
    pub fn grant(&mut self, lane: Lane, bytes: u32) {
        let credit = &mut self.bytes[index(lane)];
        *credit = credit.saturating_add(bytes).min(CREDIT_BYTES_MAX);
    }

    /// Spends credit for so many bytes; false, and nothing spent, where it does not suffice.
    #[must_use]
    pub fn take(&mut self, lane: Lane, bytes: usize) -> bool {
        let credit = &mut self.bytes[index(lane)];
        let rest = u32::try_from(bytes).ok().and_then(|bytes| credit.checked_sub(bytes));
        *credit = rest.unwrap_or(*credit);
        rest.is_some()
    }

    /// Bytes that may still be sent on a lane.
    pub const fn available(&self, lane: Lane) -> u32 {
        self.bytes[index(lane)]
    }
}

/// The receiver's side of credit: a window of bytes per lane that may be under way or waiting.
#[derive(Clone, Debug, Default)]
pub struct CreditIn {
    lanes: [Window; Lane::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    granted: u32,
    to_grant: u32,
}

impl CreditIn {
    /// Opens a lane; gives the first credit to send.
    pub const fn open(&mut self, lane: Lane) -> u32 {
        let bytes = window_bytes(lane);
        self.lanes[index(lane)] = Window { granted: bytes, to_grant: 0 };
        bytes
    }

    /// Counts a piece that came.
    ///
    /// # Errors
    /// `ProtocolViolation` when the sender had no credit for it.
    pub fn received(&mut self, lane: Lane, bytes: usize) -> Result<(), Reason> {
        let window = &mut self.lanes[index(lane)];
        let rest = u32::try_from(bytes).ok().and_then(|bytes| window.granted.checked_sub(bytes));
        window.granted = rest.ok_or(Reason::ProtocolViolation)?;
        Ok(())
    }

    /// Counts bytes that no longer wait, as a rule a whole segment that is on disk or was refused; gives
    /// the credit to send, once it is worth a frame.
    pub fn consumed(&mut self, lane: Lane, bytes: usize) -> Option<u32> {
        let window = &mut self.lanes[index(lane)];
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Whoever counts bytes twice must not widen the window.
        let outstanding = window_bytes(lane) - window.granted;
        window.to_grant = window.to_grant.saturating_add(bytes).min(outstanding);
        if window.to_grant < GRANT_STEP_BYTES {
            return None;
        }
        window.granted += window.to_grant;
        Some(std::mem::take(&mut window.to_grant))
    }
}

const fn index(lane: Lane) -> usize {
    match lane {
        Lane::Alert => 0,
        Lane::Routine => 1,
        Lane::Bulk => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    /// Stands in for SHA-256: every byte moves every later one.
    fn hash(bytes: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        let mut state = 0xcbf2_9ce4_8422_2325_u64 ^ bytes.len() as u64;
        for (i, byte) in bytes.iter().chain(&[0; 32]).enumerate() {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
            out[i % 32] ^= state.to_le_bytes()[7];
        }
        out
    }

    fn id(segment: &Bytes) -> SegmentId {
        hash(segment)[..16].try_into().unwrap()
    }

    fn cut(segment: &Bytes, lane: Lane) -> Vec<pb::SegmentPiece> {
        pieces(segment, id(segment), lane, 0).collect()
    }

    fn segment() -> impl Strategy<Value = Bytes> {
        (1..100_000_usize, any::<u8>())
            .prop_map(|(len, seed)| (0..len).map(|i| (i / 7) as u8 ^ seed).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pieces_of_all_lanes_in_any_interleaving_make_the_segments(
            sent in vec((segment(), select(Lane::ALL)), 1..6),
            order in vec(any::<prop::sample::Index>(), 64),
        ) {
            let mut queues: Vec<Vec<pb::SegmentPiece>> = vec![Vec::new(); 3];
            for (segment, lane) in &sent {
                queues[index(*lane)].extend(cut(segment, *lane));
            }
            queues.iter_mut().for_each(|queue| queue.reverse());
            let mut assembler = Assembler::new(hash);
            let mut got = Vec::new();
            let mut turns = order.iter().cycle();
            while queues.iter().any(|queue| !queue.is_empty()) {
                let turn = turns.next().unwrap().index(queues.len());
                let Some(piece) = queues[turn].pop() else { continue };
                prop_assert!(piece.data.len() <= PIECE_BYTES_MAX);
                got.extend(assembler.take(piece).unwrap().map(|(lane, segment)| (segment, lane)));
            }
            for &lane in Lane::ALL {
                let of = |all: &[(Bytes, Lane)]| -> Vec<Bytes> {
                    all.iter().filter(|(_, of)| *of == lane).map(|(s, _)| s.clone()).collect()
                };
                prop_assert_eq!(of(&got), of(&sent));
            }
            prop_assert!(assembler.resumes().is_empty());
        }

        #[test]
        fn a_broken_line_goes_on_where_it_broke(segment in segment(), at in any::<prop::sample::Index>()) {
            let all = cut(&segment, Lane::Routine);
            let before = at.index(all.len());
            let mut assembler = Assembler::new(hash);
            for piece in &all[..before] {
                prop_assert_eq!(assembler.take(piece.clone()), Ok(None));
            }
            let from = match assembler.resumes()[..] {
                [] => 0,
                [(found, have)] => {
                    prop_assert_eq!(found, id(&segment));
                    have
                }
                _ => panic!("one lane holds one segment"),
            };
            prop_assert_eq!(from as usize, before * PIECE_BYTES_MAX);
            let mut last = Ok(None);
            for piece in pieces(&segment, id(&segment), Lane::Routine, from) {
                last = assembler.take(piece);
            }
            prop_assert_eq!(last, Ok(Some((Lane::Routine, segment))));
        }

        #[test]
        fn a_segment_with_a_byte_changed_is_refused(
            segment in segment(),
            at in any::<prop::sample::Index>(),
            flip in 1..=u8::MAX,
        ) {
            let mut bytes = segment.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let changed = Bytes::from(bytes);
            let mut assembler = Assembler::new(hash);
            let mut last = Ok(None);
            for piece in pieces(&changed, id(&segment), Lane::Alert, 0) {
                last = assembler.take(piece);
            }
            prop_assert_eq!(last, Err(Reason::ProtocolViolation));
            prop_assert!(assembler.resumes().is_empty());
        }

        #[test]
        fn a_sender_with_credit_never_overruns_and_never_stands_still(
            sizes in vec(1..=segment_bytes_max(Lane::Bulk) as usize, 1..20),
        ) {
            let (mut out, mut window) = (CreditOut::default(), CreditIn::default());
            let lane = Lane::Bulk;
            out.grant(lane, window.open(lane));
            for size in sizes {
                let mut sent = 0;
                while sent < size {
                    let piece = PIECE_BYTES_MAX.min(size - sent);
                    prop_assert!(out.take(lane, piece), "stands still at {} of {}", sent, size);
                    prop_assert_eq!(window.received(lane, piece), Ok(()));
                    sent += piece;
                }
                if let Some(more) = window.consumed(lane, size) {
                    out.grant(lane, more);
                }
                prop_assert!(out.available(lane) <= window_bytes(lane));
            }
        }
    }

    #[test]
    fn a_piece_that_does_not_join_on_is_refused() {
        let segment = Bytes::from(vec![7; 50_000]);
        let all = cut(&segment, Lane::Routine);
        type Spoil = fn(&mut pb::SegmentPiece);
        let spoilt: [(Reason, Spoil); 9] = [
            (Reason::ProtocolViolation, |piece| piece.offset += 1),
            (Reason::ProtocolViolation, |piece| piece.offset = u32::MAX),
            (Reason::ProtocolViolation, |piece| piece.total_size += 1),
            (Reason::ProtocolViolation, |piece| piece.segment_id = Bytes::from_static(&[0; 16])),
            (Reason::ProtocolViolation, |piece| piece.segment_id = Bytes::from_static(&[0; 15])),
            (Reason::ProtocolViolation, |piece| piece.lane = 0),
            (Reason::ProtocolViolation, |piece| piece.data = Bytes::new()),
            (Reason::LimitExceeded, |piece| piece.data = Bytes::from(vec![0; PIECE_BYTES_MAX + 1])),
            (Reason::LimitExceeded, |piece| piece.total_size = SEGMENT_BYTES_MAX + 1),
        ];
        for (reason, spoil) in spoilt {
            let mut assembler = Assembler::new(hash);
            assert_eq!(assembler.take(all[0].clone()), Ok(None));
            let mut piece = all[1].clone();
            spoil(&mut piece);
            assert_eq!(assembler.take(piece), Err(reason));
            // What came before is kept, for a sender that goes on rightly.
            assert_eq!(assembler.resumes(), [(id(&segment), 16_384)]);
        }
    }

    #[test]
    fn a_new_segment_takes_the_place_of_one_that_was_given_up() {
        let (old, new) = (Bytes::from(vec![1; 40_000]), Bytes::from(vec![2; 10]));
        let mut assembler = Assembler::new(hash);
        assert_eq!(assembler.take(cut(&old, Lane::Bulk).swap_remove(0)), Ok(None));
        let whole = assembler.take(cut(&new, Lane::Bulk).swap_remove(0));
        assert_eq!(whole, Ok(Some((Lane::Bulk, new))));
        assert!(assembler.resumes().is_empty());
    }

    #[test]
    fn pieces_share_the_bytes_of_the_segment() {
        let segment = Bytes::from(vec![1; 40_000]);
        let second = pieces(&segment, [0; 16], Lane::Bulk, 0).nth(1).unwrap();
        assert_eq!(second.data.as_ptr(), segment[PIECE_BYTES_MAX..].as_ptr());
        assert_eq!(pieces(&segment, [0; 16], Lane::Bulk, 40_000).count(), 0);
        assert_eq!(pieces(&segment, [0; 16], Lane::Bulk, u32::MAX).count(), 0);
    }

    #[test]
    fn credit_is_spent_whole_or_not_at_all_and_held_at_its_cap() {
        let mut out = CreditOut::default();
        assert!(!out.take(Lane::Alert, 1));
        out.grant(Lane::Alert, 10);
        assert!(!out.take(Lane::Alert, 11));
        assert!(out.take(Lane::Alert, 10));
        out.grant(Lane::Alert, u32::MAX);
        out.grant(Lane::Alert, u32::MAX);
        assert_eq!(out.available(Lane::Alert), CREDIT_BYTES_MAX);
        assert_eq!(out.available(Lane::Bulk), 0);
    }

    #[test]
    fn a_receiver_refuses_what_it_gave_no_credit_for() {
        let mut window = CreditIn::default();
        assert_eq!(window.received(Lane::Alert, 1), Err(Reason::ProtocolViolation));
        let opened = window.open(Lane::Alert) as usize;
        assert_eq!(window.received(Lane::Alert, opened), Ok(()));
        assert_eq!(window.received(Lane::Alert, 1), Err(Reason::ProtocolViolation));
        // Counted twice, the same bytes do not widen the window.
        assert_eq!(window.consumed(Lane::Alert, opened), Some(WINDOW_BYTES));
        assert_eq!(window.consumed(Lane::Alert, opened), None);
    }

    #[test]
    fn credit_is_granted_once_it_is_worth_a_frame() {
        let mut window = CreditIn::default();
        window.open(Lane::Routine);
        assert_eq!(window.received(Lane::Routine, 100_000), Ok(()));
        assert_eq!(window.consumed(Lane::Routine, 60_000), None);
        assert_eq!(window.consumed(Lane::Routine, 40_000), Some(100_000));
    }
}
