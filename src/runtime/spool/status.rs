//! What is known of a spool and the receiver behind it, for metrics, health and displays.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::health::span;
use super::super::metrics::Add;
use crate::config::limits::about;
use crate::core::EventTime;
use crate::store::spool::SpoolStats;

/// A receiver that is away for longer is worth a word.
const AWAY_PATIENCE: Duration = Duration::from_secs(60);

/// A spool that is fuller is worth a word.
const FULL_PERCENT: u64 = 80;

/// How the last try to reach a receiver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// Nothing was sent yet.
    #[default]
    Untried,
    /// It takes deliveries.
    Connected,
    /// It is away, or answers with a failure that may pass.
    Away,
}

impl Link {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Connected => "connected",
            Self::Away => "away",
        }
    }
}

/// A spool and its receiver at some moment; renewed about twice a second while something happens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SpoolStatus {
    /// What the spool holds.
    pub stats: SpoolStats,
    /// How the receiver is.
    pub link: Link,
    /// Since when it is so, wall clock.
    pub since: EventTime,
    /// Why it was away the last time, or why the spool cannot be written.
    pub error: Option<String>,
}

/// The same as `/health` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SpoolHealth {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes that they may become.
    pub bytes_max: u64,
    /// Entries that wait.
    pub entries: u64,
    /// Their rows.
    pub rows: u64,
    /// How old the oldest of them is; `null` if none wait.
    pub oldest_seconds: Option<f64>,
    /// Rows that made room for newer ones since the start.
    pub dropped_rows: u64,
    /// How the receiver is: `connected`, `away`, or `untried` while nothing was sent.
    pub receiver: Link,
    /// For how long it has been so.
    pub receiver_seconds: f64,
    /// Why it was away the last time, or why the spool cannot be written.
    pub last_error: Option<String>,
}

impl SpoolHealth {
    /// In a few words: how the receiver is, and what waits for it.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut text = match (self.receiver, &self.last_error) {
            (Link::Untried, _) => "nothing sent yet".to_owned(),
            (Link::Connected, _) => "connected".to_owned(),
            (Link::Away, why) => {
                let away = span(Duration::from_secs_f64(self.receiver_seconds));
                let why = why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
                format!("away for {away}{why}")
            }
        };
        if self.entries == 0 {
            text.push_str(", nothing spooled");
        } else {
            let _ = write!(text, ", {} spooled", about(self.bytes));
        }
        if let Some(oldest) = self.oldest_seconds {
            let _ = write!(text, ", the oldest {} old", span(Duration::from_secs_f64(oldest)));
        }
        text
    }

    /// What a person should know.
    pub(crate) fn problems(&self, sink: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.receiver == Link::Away && self.receiver_seconds > AWAY_PATIENCE.as_secs_f64() {
            problems.push(format!("sink `{sink}`: {}", self.in_words()));
        }
        let percent = (self.bytes * 100).checked_div(self.bytes_max).unwrap_or(0);
        if self.entries > 0 && percent > FULL_PERCENT {
            let (bytes, bytes_max) = (about(self.bytes), about(self.bytes_max));
            let dropped = match self.dropped_rows {
                0 => String::new(),
                rows => format!("; {rows} rows have made room for newer ones"),
            };
            problems.push(format!(
                "the spool of sink `{sink}` is {percent} % full ({bytes} of {bytes_max}){dropped}"
            ));
        }
        problems
    }
}

impl SpoolStatus {
    /// As `/health` shows it.
    #[must_use]
    pub fn health(&self, now: EventTime) -> SpoolHealth {
        let seconds = |since: i64| now.micros().saturating_sub(since).max(0) as f64 / 1e6;
        let stats = &self.stats;
        SpoolHealth {
            bytes: stats.bytes,
            bytes_max: stats.bytes_max,
            entries: stats.entries,
            rows: stats.rows,
            oldest_seconds: stats.oldest_us.map(seconds),
            dropped_rows: stats.dropped_rows,
            receiver: self.link,
            receiver_seconds: seconds(self.since.micros()),
            last_error: self.error.clone(),
        }
    }

    /// Adds its metrics, for the sink of this name.
    pub(crate) fn collect(&self, sink: &str, now: EventTime, add: &mut Add<'_>) {
        let stats = &self.stats;
        let age = stats.oldest_us.map_or(0, |oldest| now.micros().saturating_sub(oldest).max(0));
        let gauges = [
            ("bytes", stats.bytes as f64),
            ("bytes_max", stats.bytes_max as f64),
            ("entries", stats.entries as f64),
            ("rows", stats.rows as f64),
            ("oldest_age_seconds", age as f64 / 1e6),
        ];
        for (what, value) in gauges {
            add(format!("tidegate_spool_{what}"), "gauge", &[("sink", sink)], value);
        }
        let counters = [("dropped_rows", stats.dropped_rows), ("lost_entries", stats.lost_entries)];
        for (what, value) in counters {
            add(format!("tidegate_spool_{what}_total"), "counter", &[("sink", sink)], value as f64);
        }
        if self.link != Link::Untried {
            let connected = if self.link == Link::Connected { 1.0 } else { 0.0 };
            add("tidegate_sink_connected".to_owned(), "gauge", &[("sink", sink)], connected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn status(link: Link, since_us: i64, mib: u64, oldest_us: Option<i64>) -> SpoolStatus {
        let entries = oldest_us.map_or(0, |_| 7);
        let stats = SpoolStats {
            bytes: mib * MIB,
            bytes_max: 100 * MIB,
            entries,
            oldest_us,
            ..SpoolStats::default()
        };
        SpoolStatus { stats, link, since: EventTime(since_us), error: Some("connection refused".to_owned()) }
    }

    #[test]
    fn words_and_problems() {
        let now = EventTime(100_000_000);
        type Case<'a> = (Link, i64, u64, Option<i64>, &'a str, &'a [&'a str]);
        let table: [Case<'_>; 6] = [
            (Link::Untried, 99_000_000, 0, None, "nothing sent yet, nothing spooled", &[]),
            (Link::Connected, 1, 0, None, "connected, nothing spooled", &[]),
            (
                Link::Away,
                57_000_000,
                18,
                Some(60_000_000),
                "away for 43 s (connection refused), 18 MiB spooled, the oldest 40 s old",
                &[],
            ),
            (
                Link::Away,
                39_000_000,
                18,
                Some(60_000_000),
                "away for 61 s (connection refused), 18 MiB spooled, the oldest 40 s old",
                &["sink `cloud`: away for 61 s (connection refused), 18 MiB spooled, the oldest 40 s old"],
            ),
            (
                Link::Connected,
                1,
                81,
                Some(99_500_000),
                "connected, 81 MiB spooled, the oldest 0.5 s old",
                &["the spool of sink `cloud` is 81 % full (81 MiB of 100 MiB)"],
            ),
            (
                Link::Connected,
                1,
                80,
                Some(99_500_000),
                "connected, 80 MiB spooled, the oldest 0.5 s old",
                &[],
            ),
        ];
        for (link, since, mib, oldest, words, problems) in table {
            let health = status(link, since, mib, oldest).health(now);
            assert_eq!(health.in_words(), words);
            assert_eq!(health.problems("cloud"), problems);
        }
        let mut status = status(Link::Connected, 1, 90, Some(99_500_000));
        status.stats.dropped_rows = 12;
        let [problem] = status.health(now).problems("cloud").try_into().unwrap();
        assert!(problem.ends_with("; 12 rows have made room for newer ones"), "{problem}");
    }
}
