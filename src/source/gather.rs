//! How many messages to wait for before a batch is handed on, where the sender waits for acknowledgements. Pure.
//!
//! Few large batches cost less than many small ones: each becomes a record of the log, and each group of records a sync
//! of the disk. But a broker sends only so many messages ahead of their acknowledgements (its in-flight window), and
//! does not say how many. Who waits for more than that stands still. So the window is found out:
//!
//! - Messages come while more than a batch's worth is unacknowledged: the window is larger, and batches may grow.
//! - A batch has waited until its age and nothing came in the second half of it: the window, or all that the senders have to
//!   say, is what is unacknowledged now. From then on batches are half of that: one is made safe while the next gathers.
//!
//! A message that comes alone waits once, and the next one that comes alone does not.

use std::time::Duration;

/// What has been found out about one connection.
#[derive(Debug, Clone)]
pub struct Gather {
    /// Rows of a batch that need not wait for more.
    enough: usize,
    /// Messages under way at which nothing more came; none where that has not been seen.
    window: Option<usize>,
    /// When messages came last.
    came_at: Duration,
}

impl Default for Gather {
    fn default() -> Self {
        Self { enough: 1, window: None, came_at: Duration::ZERO }
    }
}

impl Gather {
    /// Messages have come at `mono`, and so many are under way without an acknowledgement now.
    pub fn came(&mut self, under_way: usize, mono: Duration) {
        self.came_at = mono;
        if self.window.is_some_and(|window| under_way > window) {
            self.window = None;
        }
        if under_way > self.enough {
            let most = self.window.map_or(usize::MAX, |window| (window / 2).max(1));
            self.enough = self.enough.saturating_mul(2).min(most);
        }
    }

    /// A batch has reached its age at `mono`.
    pub fn aged(&mut self, under_way: usize, mono: Duration, age: Duration) {
        if mono.saturating_sub(self.came_at) >= age / 2 {
            self.window = Some(under_way);
            self.enough = (under_way / 2).max(1);
        }
    }

    /// Whether a batch of so many rows need not wait.
    pub fn is_enough(&self, rows: usize) -> bool {
        rows >= self.enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_millis(20);
    const ROUND_TRIP: Duration = Duration::from_micros(1200);

    /// A broker that sends a message each `interval` while fewer than `window` are unacknowledged, and a log that takes
    /// a round trip per batch. Gives the batches of the last second of four.
    fn batches(window: usize, interval: Duration) -> Vec<usize> {
        let mut gather = Gather::default();
        let step = Duration::from_micros(20);
        let (mut at, mut next_message) = (Duration::ZERO, Duration::ZERO);
        let (mut rows, mut first_at, mut syncing) = (0, Duration::ZERO, Vec::new());
        let mut sizes = Vec::new();
        while at < Duration::from_secs(4) {
            at += step;
            syncing.retain(|(done, _)| *done > at);
            let under_way = |rows: usize, syncing: &[(Duration, usize)]| {
                rows + syncing.iter().map(|(_, rows)| rows).sum::<usize>()
            };
            while next_message <= at && under_way(rows, &syncing) < window {
                first_at = if rows == 0 { at } else { first_at };
                rows += 1;
                next_message = (next_message + interval).max(at);
                gather.came(under_way(rows, &syncing), at);
            }
            let aged = rows > 0 && at >= first_at + AGE;
            if aged {
                gather.aged(under_way(rows, &syncing), at, AGE);
            }
            if rows > 0 && (aged || gather.is_enough(rows)) {
                if at > Duration::from_secs(3) {
                    sizes.push(rows);
                }
                syncing.push((at + ROUND_TRIP, rows));
                rows = 0;
            }
        }
        sizes
    }

    #[test]
    fn a_stream_is_cut_by_its_age() {
        let sizes = batches(60_000, Duration::from_micros(100));
        assert!(sizes.len() <= 60, "{} batches in a second", sizes.len());
    }

    #[test]
    fn a_small_window_is_never_waited_for() {
        for window in [1, 2, 20, 1000] {
            let sizes = batches(window, Duration::ZERO);
            let rows: usize = sizes.iter().sum();
            // Half a window is under way while the other half gathers: at least that in each round trip.
            let least = (window / 2).max(1) as f64 / (ROUND_TRIP.as_secs_f64() + 20e-6) * 0.8;
            assert!(rows as f64 >= least, "window {window}: {rows} rows in a second, not {least}");
        }
    }

    #[test]
    fn what_comes_alone_does_not_wait() {
        let mut gather = Gather::default();
        gather.came(1, AGE);
        assert!(gather.is_enough(1));
        // A burst, and then silence again: one wait.
        (1..=8).for_each(|under_way| gather.came(under_way, 2 * AGE));
        assert!(!gather.is_enough(1));
        gather.aged(1, 3 * AGE, AGE);
        assert!(gather.is_enough(1));
        gather.came(1, 9 * AGE);
        assert!(gather.is_enough(1));
    }
}
