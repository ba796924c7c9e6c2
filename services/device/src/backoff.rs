//! How long to wait before the region is called again.

/// Ceiling of the wait after the first failure.
pub const BASE_MS: u64 = 1_000;
/// Highest ceiling. A valley without signal costs battery with each try, and a minute is not long
/// for what waited half a day.
pub const CAP_MS: u64 = 60_000;

/// The wait after so many failures in a row, for a random `draw`. Full jitter: evenly between nothing
/// and a ceiling that doubles, so that a township's phones do not come back in one wave.
pub const fn wait_ms(failures: u32, draw: u64) -> u64 {
    if failures == 0 {
        return 0;
    }
    // Sixteen doublings are far above the cap, and cannot overflow.
    let doublings = if failures > 16 { 16 } else { failures - 1 };
    let ceiling_ms = BASE_MS << doublings;
    draw % (if ceiling_ms > CAP_MS { CAP_MS } else { ceiling_ms } + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_its_cap() {
        for (failures, ceiling_ms) in
            [(1, 1_000), (2, 2_000), (6, 32_000), (7, 60_000), (17, 60_000), (u32::MAX, 60_000)]
        {
            assert_eq!(wait_ms(failures, ceiling_ms), ceiling_ms, "{failures} failures");
            assert_eq!(wait_ms(failures, ceiling_ms + 1), 0, "{failures} failures");
            assert!(wait_ms(failures, u64::MAX) <= ceiling_ms);
        }
    }

    #[test]
    fn without_a_failure_there_is_no_wait() {
        assert_eq!(wait_ms(0, u64::MAX), 0);
    }
}
