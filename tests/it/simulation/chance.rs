//! Where all randomness of a run comes from: one seed.

use domain::kernel::Entropy;
use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64: every draw is the next of a sequence that the seed names.
#[derive(Debug)]
pub(super) struct Chance(AtomicU64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        let chance = Self(AtomicU64::new(seed));
        // Neighbouring seeds go different ways from the first draw on.
        let first = chance.next();
        Self(AtomicU64::new(first))
    }

    pub(super) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `from` up to and with `to`.
    pub(super) fn within(&self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    pub(super) fn index(&self, len: usize) -> usize {
        usize::try_from(self.next() % len as u64).unwrap()
    }

    /// True so many times in a thousand.
    pub(super) fn per_mille(&self, of_thousand: u64) -> bool {
        self.next() % 1_000 < of_thousand
    }

    pub(super) fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
}

impl Entropy for Chance {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_be_bytes()[..chunk.len()]);
        }
    }
}
