//! How old the authority's word may be, and what follows.

use super::Timestamp;

/// Hours after which trust counts as old: an operator must look, nothing is widened.
pub const STALE_HOURS: i64 = 24;
/// Days after which all but alerts stops.
pub const GRACE_DAYS: i64 = 30;

/// What trust is worth by its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrustAge {
    /// Signed within a day.
    Fresh,
    /// Older: nothing is widened, no new peer is taken, routine entries are marked unconfirmed.
    Stale,
    /// Older than the grace: only alerts go on.
    Lapsed,
}

impl TrustAge {
    /// Of trust that was signed then.
    pub fn of(signed_at: Timestamp, now: Timestamp) -> Self {
        if now <= signed_at.plus_millis(STALE_HOURS * 3_600_000) {
            Self::Fresh
        } else if now <= signed_at.plus_days(GRACE_DAYS) {
            Self::Stale
        } else {
            Self::Lapsed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_grows_old_by_the_hour_and_lapses_by_the_day() {
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        let hours = |hours: i64| TrustAge::of(at, at.plus_millis(hours * 3_600_000));
        assert_eq!([-1, 0, 24].map(hours), [TrustAge::Fresh; 3]);
        assert_eq!([25, 30 * 24].map(hours), [TrustAge::Stale; 2]);
        assert_eq!(hours(30 * 24 + 1), TrustAge::Lapsed);
    }
}
