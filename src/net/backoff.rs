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
}

impl Backoff {
    /// Starts at `least`, doubles up to `most`.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// The next wait: between half the current bound and all of it.
    pub fn wait(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(self.most);
        // Which moment within the bound does not matter, only that gateways differ.
        let noise = u64::from(uuid::Uuid::new_v4().as_fields().0) as f64 / f64::from(u32::MAX);
        bound.mul_f64(0.5 + noise / 2.0)
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
    }
}
