//! The one place where time is read, for the shell, the sources and the sinks. Pure code is given it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::{EventTime, Now};

/// Monotonic time that goes on where it stopped before a restart, and wall-clock time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    base: Duration,
}

impl Clock {
    /// Goes on from a monotonic time reached earlier.
    pub fn from(base: Duration) -> Self {
        Self { started: Instant::now(), base }
    }

    /// This moment.
    pub fn now(&self) -> Now {
        Now { mono: self.base + self.started.elapsed(), wall: wall() }
    }

    /// When a monotonic time of the pipeline comes, by the runtime's own clock.
    pub fn instant(&self, mono: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.started + mono.saturating_sub(self.base))
    }
}

/// The wall clock, in microseconds since 1970; 0 if it stands before that.
pub fn wall() -> EventTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventTime(crate::core::event::micros(since))
}
