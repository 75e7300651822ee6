//! How long to wait before trying again: doubling, with jitter, up to a bound.
//!
//! Full jitter after Brooker, "Exponential Backoff And Jitter" (2015): it keeps a fleet of gateways that lost the
//! same broker from coming back at the same instant.

use std::time::Duration;

/// The waits between tries of one peer.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
    /// State of the jitter: SplitMix64 (Steele, Lea, Flood 2014).
    seed: u64,
}

impl Backoff {
    /// Starts at `least`, doubles up to `most`, with a jitter of its own.
    pub fn new(least: Duration, most: Duration) -> Self {
        // Which moment within the bound does not matter, only that gateways differ.
        Self::seeded(least, most, uuid::Uuid::new_v4().as_u64_pair().0)
    }

    /// The same with the jitter that a seed gives.
    pub fn seeded(least: Duration, most: Duration, seed: u64) -> Self {
        Self { least, most, next: least, seed }
    }

    /// The next wait: between half the current bound and all of it.
    pub fn wait(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(self.most);
        bound.mul_f64(0.5 + self.noise() / 2.0)
    }

    /// A number from 0 up to 1.
    fn noise(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The peer answered: start over.
    pub fn reset(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_over() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(least, most);
        for bound in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.wait();
            assert!(
                wait <= Duration::from_millis(bound) && wait >= Duration::from_millis(bound / 2),
                "{wait:?}"
            );
        }
        backoff.reset();
        assert!(backoff.wait() <= least);
        let waits = |seed| {
            let mut backoff = Backoff::seeded(least, most, seed);
            [backoff.wait(), backoff.wait(), backoff.wait()]
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }
}
