//! What must come out of the plant, recomputed from the accepted records in one naive loop: no engine, no
//! operators, no batches. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plant::{LEFT_OUT, PULSE, REFUSED_FACTOR, Reading, SOURCES, WINDOW_US, watermark_behind};
use crate::core::Now;

/// An accepted record, as far as the plant cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Messages of a source.
    Messages { input: usize, readings: Vec<Reading> },
    /// A tick.
    Tick,
    /// A cut, perhaps with a model.
    Cut { factor: Option<u8> },
}

/// The rows that one record must bring to a sink.
pub(super) type Due = Vec<String>;

/// The state of the naive plant.
pub(super) struct Oracle {
    factor: u8,
    sources: [i64; SOURCES.len()],
    watermark: i64,
    seen: BTreeSet<(String, i64)>,
    windows: BTreeMap<(i64, String), (i64, i64)>,
    pulse: Option<Duration>,
    rows: i64,
}

impl Oracle {
    /// A plant that has seen nothing.
    pub fn new() -> Self {
        Self {
            factor: 1,
            sources: [i64::MIN; SOURCES.len()],
            watermark: i64::MIN,
            seen: BTreeSet::new(),
            windows: BTreeMap::new(),
            pulse: None,
            rows: 0,
        }
    }

    /// What a record that entered at `now` brings to the ledger and to the postbox.
    pub fn accept(&mut self, now: Now, record: &Accepted) -> [Due; 2] {
        let (mut ledger, mut postbox) = (Vec::new(), Vec::new());
        match record {
            Accepted::Messages { input, readings } => {
                for reading in readings {
                    self.reading(now.mono, reading, &mut ledger);
                    let source = &mut self.sources[*input];
                    *source = (*source).max(watermark_behind(reading.time));
                    self.fire(&mut postbox);
                }
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
        let end = reading.time - reading.time.rem_euclid(WINDOW_US) + WINDOW_US;
        if end > self.watermark {
            let window = self.windows.entry((end, reading.device.clone())).or_default();
            *window = (window.0 + 1, window.1 + value);
        }
        self.rows += 1;
        self.pulse = self.pulse.or(Some(mono + PULSE));
    }

    fn fire(&mut self, postbox: &mut Due) {
        let least = self.sources.iter().copied().min().unwrap_or(i64::MIN);
        self.watermark = self.watermark.max(least);
        while let Some(((end, device), (count, sum))) = self.windows.pop_first() {
            if end > self.watermark {
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
