//! The real clock and the real random source. Everything else takes them as arguments.

use domain::kernel::{Clock, Entropy, Timestamp};
use std::cell::RefCell;
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

/// Bytes drawn at a time. A salt for each entry, drawn by itself, took a twentieth of a busy server's time.
const DRAWN_BYTES: usize = 1_024;

thread_local! {
    /// Random bytes that nobody has seen, and how many of them are used up and wiped.
    static DRAWN: RefCell<([u8; DRAWN_BYTES], usize)> =
        const { RefCell::new(([0; DRAWN_BYTES], DRAWN_BYTES)) };
}

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        if out.len() > DRAWN_BYTES {
            return draw(out);
        }
        DRAWN.with_borrow_mut(|(drawn, used)| {
            if DRAWN_BYTES - *used < out.len() {
                draw(drawn);
                *used = 0;
            }
            let next = &mut drawn[*used..*used + out.len()];
            out.copy_from_slice(next);
            // Whoever reads this memory later learns nothing of a key that was drawn.
            next.fill(0);
            *used += out.len();
        });
    }
}

fn draw(out: &mut [u8]) {
    aws_lc_rs::rand::fill(out).expect("the random source only fails before it was first seeded");
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

    #[test]
    fn no_byte_is_given_twice() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..DRAWN_BYTES {
            let mut id = [0; 24];
            SystemEntropy.fill(&mut id);
            assert!(seen.insert(id), "drawn twice");
        }
        let mut long = vec![0; DRAWN_BYTES + 1];
        SystemEntropy.fill(&mut long);
        assert!(long.iter().any(|byte| *byte != 0));
    }
}
