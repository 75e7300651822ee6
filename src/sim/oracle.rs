//! What must come out of the plant, recomputed from the accepted records in one naive loop: no engine, no
//! operators, no batches. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plant::{LEFT_OUT, PULSE, REFUSED_FACTOR, Reading, SOURCES, Variant, watermark_behind};
use crate::core::Now;

/// An accepted record, as far as the plant cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Messages of a source.
    Messages { source: usize, readings: Vec<Reading> },
    /// A source has ended.
    End { source: usize },
    /// A tick.
    Tick,
    /// A cut, perhaps with a model.
    Cut { factor: Option<u8> },
}

/// The rows that one record must bring to a sink.
pub(super) type Due = Vec<String>;

/// The state of the naive plant.
pub(super) struct Oracle {
    variant: Variant,
    factor: u8,
    sources: [i64; SOURCES.len()],
    watermark: i64,
    /// How far the windows have been told.
    told: i64,
    seen: BTreeSet<(String, i64)>,
    windows: BTreeMap<(i64, String), (i64, i64)>,
    pulse: Option<Duration>,
    rows: i64,
}

impl Oracle {
    /// A plant that has seen nothing.
    pub fn new(variant: Variant) -> Self {
        Self {
            variant,
            factor: 1,
            sources: [i64::MIN; SOURCES.len()],
            watermark: i64::MIN,
            told: i64::MIN,
            seen: BTreeSet::new(),
            windows: BTreeMap::new(),
            pulse: None,
            rows: 0,
        }
    }

    /// The plant is started again with another file: what means something else there is forgotten.
    pub fn restart(&mut self, variant: Variant) {
        let before = std::mem::replace(&mut self.variant, variant);
        if (before.sum_name(), before.window_us()) != (variant.sum_name(), variant.window_us()) {
            self.windows.clear();
            // It hears how far its inputs are; where they have ended it waits until they say so again.
            self.told = if self.watermark == i64::MAX { i64::MIN } else { self.watermark };
        }
        if before.once_meaning() != variant.once_meaning() {
            self.seen.clear();
        }
        if before.pulse_name() != variant.pulse_name() {
            (self.pulse, self.rows) = (None, 0);
        }
    }

    /// What a record that entered at `now` brings to the ledger and to the postbox.
    pub fn accept(&mut self, now: Now, record: &Accepted) -> [Due; 2] {
        let (mut ledger, mut postbox) = (Vec::new(), Vec::new());
        match record {
            Accepted::Messages { source, readings } => {
                for reading in readings {
                    self.reading(now.mono, reading, &mut ledger);
                    let newest = &mut self.sources[*source];
                    *newest = (*newest).max(watermark_behind(reading.time));
                    self.fire(&mut postbox);
                }
            }
            Accepted::End { source } => {
                self.sources[*source] = i64::MAX;
                self.fire(&mut postbox);
            }
            Accepted::Tick => {
                if self.pulse.is_some_and(|due| due <= now.mono) {
                    self.pulse = None;
                    postbox.push(show(now.wall.0, "pulse", std::mem::take(&mut self.rows), 0));
                }
            }
            Accepted::Cut { factor } => {
                self.factor = factor.filter(|factor| *factor != REFUSED_FACTOR).unwrap_or(self.factor);
            }
        }
        // To the postbox go the ledger's rows too, and these come earlier in the graph.
        let postbox = ledger.iter().cloned().chain(postbox).collect();
        [ledger, postbox]
    }

    fn reading(&mut self, mono: Duration, reading: &Reading, ledger: &mut Due) {
        if reading.value % LEFT_OUT == 0 {
            return;
        }
        let value = reading.value * i64::from(self.factor);
        if self.seen.insert((reading.device.clone(), reading.seq)) {
            ledger.push(show(reading.time, &reading.device, reading.seq, value));
        }
        let length = self.variant.window_us();
        let end = reading.time - reading.time.rem_euclid(length) + length;
        if end > self.told {
            let window = self.windows.entry((end, reading.device.clone())).or_default();
            *window = (window.0 + 1, window.1 + value);
        }
        self.rows += 1;
        self.pulse = self.pulse.or(Some(mono + PULSE));
    }

    fn fire(&mut self, postbox: &mut Due) {
        let least = self.sources.iter().copied().min().unwrap_or(i64::MIN);
        if least <= self.watermark {
            return;
        }
        (self.watermark, self.told) = (least, least);
        while let Some(((end, device), (count, sum))) = self.windows.pop_first() {
            if end > self.told {
                self.windows.insert((end, device), (count, sum));
                break;
            }
            postbox.push(show(end - 1, &device, count, sum));
        }
    }
}

/// A row as the sinks keep it.
pub(super) fn show(time: i64, device: &str, seq: i64, value: i64) -> String {
    format!("{time}, {device:?}, {seq}, {value}")
}
