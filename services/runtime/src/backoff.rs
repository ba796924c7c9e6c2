//! How long to wait before the next try.

/// Full jitter: a wait drawn evenly between nothing and a ceiling that doubles with each failure.
/// A thousand peers that lost one gateway then come back spread out, not in waves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first wait.
    pub base_ms: u64,
    /// Highest ceiling.
    pub cap_ms: u64,
}

impl Backoff {
    /// The wait before try number `attempt` (0 after the first failure), for a random `draw`.
    pub fn next(self, attempt: u32, draw: u64) -> u64 {
        let doubled = 1u64.checked_shl(attempt).and_then(|by| self.base_ms.checked_mul(by));
        let ceiling_ms = doubled.unwrap_or(self.cap_ms).min(self.cap_ms);
        match ceiling_ms.checked_add(1) {
            Some(choices) => draw % choices,
            None => draw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base_ms: 250, cap_ms: 30_000 };

    #[test]
    fn the_ceiling_doubles_up_to_its_cap() {
        for (attempt, ceiling_ms) in [(0, 250), (1, 500), (6, 16_000), (7, 30_000), (200, 30_000)] {
            assert_eq!(BACKOFF.next(attempt, ceiling_ms), ceiling_ms, "attempt {attempt}");
            assert_eq!(BACKOFF.next(attempt, ceiling_ms + 1), 0, "attempt {attempt}");
        }
    }

    #[test]
    fn any_draw_stays_below_the_ceiling() {
        for draw in [0, 1, 999_999_937, u64::MAX] {
            assert!(BACKOFF.next(u32::MAX, draw) <= 30_000);
            assert!(BACKOFF.next(0, draw) <= 250);
        }
        assert_eq!(Backoff { base_ms: u64::MAX, cap_ms: u64::MAX }.next(0, 7), 7);
    }
}
