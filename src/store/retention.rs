//! How long the log keeps what no restart needs, so that it can be replayed. Pure: bytes and times in, a decision out.
//!
//! What checkpoints need is never touched here, and what is kept longer never costs new records: it has a budget of its
//! own, and gives way when the disk is full.

use std::time::Duration;

/// How much is kept beyond what checkpoints need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retain {
    /// For how long after it was written, at least where `bytes_max` allows; zero keeps nothing.
    pub time: Duration,
    /// Bytes that it may take, in whole segments.
    pub bytes_max: u64,
}

impl Retain {
    /// Whether a segment that no checkpoint needs goes: `retained` bytes are kept with it, its last record was written
    /// before `closed_s`, and it is `now_s`, both in seconds since 1970; 0 where a time is not known.
    ///
    /// Where a clock was set from 1970 to today in between, everything before seems old: such a gateway keeps less than
    /// it was told to, and loses nothing else.
    pub(crate) fn lets_go(self, retained: u64, closed_s: u32, now_s: u32) -> bool {
        retained > self.bytes_max
            || self.time.is_zero()
            || now_s.saturating_sub(closed_s) as u64 > self.time.as_secs()
    }
}

/// Seconds since 1970 as a segment's head has them: 0 for what it cannot hold.
pub(crate) fn seconds(wall_us: i64) -> u32 {
    u32::try_from(wall_us / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_age_both_let_go() {
        let day = Retain { time: Duration::from_secs(86_400), bytes_max: 1000 };
        for (retained, closed, now, goes) in [
            (1000, 5_000, 5_000 + 86_400, false),
            (1001, 5_000, 5_000, true),
            (1, 5_000, 5_001 + 86_400, true),
            // A clock that went back, or is not known, makes nothing old.
            (1, 5_000, 0, false),
        ] {
            assert_eq!(day.lets_go(retained, closed, now), goes, "{retained} {closed} {now}");
        }
        assert!(Retain::default().lets_go(0, 0, 0));
        assert_eq!([seconds(-1), seconds(1_700_000_000_000_000), seconds(i64::MAX)], [0, 1_700_000_000, 0]);
    }
}
