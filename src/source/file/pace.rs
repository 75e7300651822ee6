//! When which rows are due. Pure: the caller brings the time.

use std::time::Duration;

/// How fast rows are given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// At once.
    Fast,
    /// So many rows per second at most.
    Rate {
        /// Rows per second.
        rows_per_second: f64,
    },
    /// As event time goes, times a factor.
    EventTime {
        /// Seconds of event time in one second.
        speed: f64,
    },
}

/// What to do with the rows at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Give the first so many of them, at least one.
    Rows(usize),
    /// Wait until this time.
    At(Duration),
}

/// The time of a row that has none: it is due when the row before it is.
pub const TIME_UNKNOWN: i64 = i64::MIN;

/// Longest wait for a row, so that no time in a file can overflow a clock: about 30 years.
const WAIT_MAX: f64 = 1e9;

/// A pace since its first row.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    /// How long the first row of a batch may wait for others.
    age: Duration,
    /// When the first row was given, and its event time.
    first: Option<(Duration, i64)>,
    given: u64,
}

impl Pacer {
    /// Nothing given yet.
    pub fn new(pace: Pace, age: Duration) -> Self {
        Self { pace, age, first: None, given: 0 }
    }

    /// How many of `rows` rows are due at `now`. `times` holds their event times where the pace follows them.
    pub fn due(&mut self, rows: usize, times: &[i64], now: Duration) -> Due {
        match self.pace {
            Pace::Fast => Due::Rows(rows),
            Pace::Rate { rows_per_second } => self.by_rate(rows, rows_per_second, now),
            Pace::EventTime { speed } => self.by_event_time(rows, times, speed, now),
        }
    }

    /// Rows were given.
    pub fn gave(&mut self, rows: usize) {
        self.given += rows as u64;
    }

    fn by_rate(&mut self, rows: usize, rate: f64, now: Duration) -> Due {
        let (start, _) = *self.first.get_or_insert((now, 0));
        let elapsed = now.saturating_sub(start).as_secs_f64();
        // Row number n, from 0, is due after n / rate seconds.
        let due = (elapsed * rate + 1e-9).floor() as u64 + 1;
        let due = due.saturating_sub(self.given).min(rows as u64);
        let group = ((self.age.as_secs_f64() * rate) as u64).clamp(1, rows.max(1) as u64);
        if due >= group {
            return Due::Rows(due as usize);
        }
        let last = (self.given + group - 1) as f64 / rate;
        Due::At(start + Duration::from_secs_f64(last.min(WAIT_MAX)))
    }

    fn by_event_time(&mut self, rows: usize, times: &[i64], speed: f64, now: Duration) -> Due {
        let known = times.iter().copied().find(|time| *time != TIME_UNKNOWN);
        let Some(known) = known else { return Due::Rows(rows) };
        let (start, first) = *self.first.get_or_insert((now, known));
        let due_at = |time: i64| {
            let seconds = time.saturating_sub(first) as f64 / 1e6 / speed;
            start + Duration::from_secs_f64(seconds.clamp(0.0, WAIT_MAX))
        };
        let is_due = |time: &i64| *time == TIME_UNKNOWN || due_at(*time) <= now;
        match times.iter().take(rows).take_while(|time| is_due(time)).count() {
            // Others may become due while the first one waits, as in any batch.
            0 => Due::At(due_at(known) + self.age),
            due => Due::Rows(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_rate_gives_rows_in_groups_of_one_age() {
        let mut pacer = Pacer::new(Pace::Rate { rows_per_second: 1000.0 }, ms(20));
        assert_eq!(pacer.due(100, &[], ms(5)), Due::At(ms(24)));
        assert_eq!(pacer.due(100, &[], ms(24)), Due::Rows(20));
        pacer.gave(20);
        assert_eq!(pacer.due(80, &[], ms(24)), Due::At(ms(44)));
        assert_eq!(pacer.due(80, &[], ms(104)), Due::Rows(80), "behind: all that is due");
        pacer.gave(80);
        assert_eq!(
            pacer.due(3, &[], ms(105)),
            Due::At(ms(107)),
            "a short rest does not wait for a full group"
        );
        let mut slow = Pacer::new(Pace::Rate { rows_per_second: 0.5 }, ms(20));
        assert_eq!(slow.due(9, &[], ms(0)), Due::Rows(1));
        slow.gave(1);
        assert_eq!(slow.due(8, &[], ms(0)), Due::At(ms(2000)));
    }

    #[test]
    fn event_time_gives_rows_when_their_time_has_come() {
        let mut pacer = Pacer::new(Pace::EventTime { speed: 2.0 }, ms(20));
        let times = [1_000_000, 1_100_000, 900_000, TIME_UNKNOWN, 1_300_000];
        assert_eq!(pacer.due(5, &times, ms(7)), Due::Rows(1));
        pacer.gave(1);
        assert_eq!(pacer.due(4, &times[1..], ms(8)), Due::At(ms(77)), "50 ms after the first, and an age");
        assert_eq!(
            pacer.due(4, &times[1..], ms(77)),
            Due::Rows(3),
            "an earlier time and none are due at once"
        );
        pacer.gave(3);
        assert_eq!(pacer.due(1, &times[4..], ms(157)), Due::Rows(1));
        assert_eq!(pacer.due(2, &[TIME_UNKNOWN; 2], ms(157)), Due::Rows(2));
        assert!(matches!(pacer.due(1, &[i64::MAX], ms(157)), Due::At(_)), "no time overflows");
    }
}
