//! The real clock and the real random source. Everything else takes them as arguments.

use domain::kernel::{Clock, Entropy, Timestamp};
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> Timestamp {
        let now = SystemTime::now();
        // A clock before 1970 is broken; it is told as it is, because no order depends on it.
        let micros = match now.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)
            }
        };
        Timestamp::from_micros(micros)
    }
}

/// The random source of the cryptographic library.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out)
            .expect("the random source only fails before it was first seeded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_past_the_year_2025_and_does_not_go_back_within_a_test() {
        let first = SystemClock.now();
        assert!(first > Timestamp::from_micros(1_735_689_600_000_000));
        assert!(SystemClock.now() >= first);
    }

    #[test]
    fn two_draws_differ() {
        let (mut a, mut b) = ([0; 16], [0; 16]);
        SystemEntropy.fill(&mut a);
        SystemEntropy.fill(&mut b);
        assert_ne!(a, b);
    }
}
