//! What is known of a spool and the receiver behind it, for metrics, health and displays.

use super::super::metrics::Add;
use crate::core::EventTime;
use crate::store::spool::SpoolStats;

/// How the last try to reach a receiver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

impl SpoolStatus {
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
