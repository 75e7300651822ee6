//! The demo's verdict: which injected faults were found, and how many alarms had no cause.

use std::fmt;

use super::Models;
use super::plant::{DemoPlant, PRESSES, SPEED};
use super::watch::{Watch, Window};
use crate::runtime::metrics::PipelineMetrics;
use crate::source::simulate::Label;

/// Alarms up to this long after a fault's end still belong to it: a window may have begun inside.
const AFTER_US: i64 = 5_000_000;

/// More false alarms than this per device-hour of the plant's time fail the demo.
pub const FALSE_ALARMS_MAX: f64 = 0.5;

/// One fault and what became of it.
pub struct Finding {
    /// The fault.
    pub label: Label,
    /// From its beginning to the end of the first alarmed window, in seconds of the plant's time.
    pub found_after_s: Option<f64>,
}

/// What the demo has shown.
pub struct Verdict {
    findings: Vec<Finding>,
    false_alarms: Vec<Window>,
    device_hours: f64,
    messages: u64,
    sent: u64,
    windows: u64,
    bytes_in: u64,
    bytes_out: u64,
    models: Vec<String>,
    expected: Vec<String>,
    swapped: bool,
    changes_max: u32,
    interrupted: bool,
    /// That the broker was gone at the end, in words.
    pub broker_away: Option<String>,
}

/// What became of each fault.
pub fn findings(labels: &[Label], alarms: &[Window]) -> Vec<Finding> {
    labels
        .iter()
        .map(|label| {
            let first = alarms.iter().filter(|alarm| belongs(alarm, label)).map(|alarm| alarm.end_us).min();
            Finding {
                label: label.clone(),
                found_after_s: first.map(|end| (end - label.start_us) as f64 / 1e6),
            }
        })
        .collect()
}

/// Whether an alarm has a fault as its cause.
pub fn belongs(alarm: &Window, label: &Label) -> bool {
    alarm.device == label.device && alarm.end_us > label.start_us && alarm.start_us < label.end_us + AFTER_US
}

impl Verdict {
    /// Judges a run.
    pub fn new(
        plant: &DemoPlant,
        watch: &Watch,
        metrics: &PipelineMetrics,
        sent: u64,
        models: &Models,
        interrupted: bool,
    ) -> Self {
        // A fault that had not begun when the demo was interrupted cannot have been found.
        let newest = watch.models.iter().map(|(_, end)| *end).max().unwrap_or(0);
        let reached = watch.alarms.iter().map(|alarm| alarm.end_us).max().unwrap_or(0).max(newest);
        let labels: Vec<Label> =
            plant.labels().iter().filter(|label| !interrupted || label.end_us <= reached).cloned().collect();
        let totals = metrics.totals();
        let windows_s = 5.0;
        Self {
            findings: findings(&labels, &watch.alarms),
            false_alarms: watch
                .alarms
                .iter()
                .filter(|alarm| !plant.labels().iter().any(|label| belongs(alarm, label)))
                .cloned()
                .collect(),
            device_hours: watch.windows as f64 * windows_s / 3600.0,
            messages: totals.source_rows,
            sent,
            windows: watch.windows,
            bytes_in: totals.source_bytes,
            bytes_out: watch.frame_bytes,
            models: watch.models.iter().map(|(model, _)| model.clone()).collect(),
            expected: vec![models.first.short(), models.second.short()],
            swapped: models.swapped,
            changes_max: watch.changes.values().map(|(_, changes)| *changes).max().unwrap_or(0),
            interrupted,
            broker_away: None,
        }
    }

    fn false_alarm_rate(&self) -> f64 {
        self.false_alarms.len() as f64 / self.device_hours.max(f64::MIN_POSITIVE)
    }

    /// Whether every fault was found, with few false alarms, nothing lost and the model replaced.
    pub fn is_good(&self) -> bool {
        let found = self.findings.iter().all(|finding| finding.found_after_s.is_some());
        let quiet = self.false_alarm_rate() <= FALSE_ALARMS_MAX;
        let replaced =
            self.interrupted || (self.swapped && self.models == self.expected && self.changes_max == 1);
        found && quiet && replaced && self.messages >= self.sent && self.windows > 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nSummary")?;
        writeln!(f, "  messages    {} published, {} received over MQTT", self.sent, self.messages)?;
        if self.sent > self.messages {
            writeln!(f, "  LOST        {} messages did not arrive", self.sent - self.messages)?;
        }
        writeln!(
            f,
            "  windows     {} of {PRESSES} presses, plant time {SPEED} × wall-clock time",
            self.windows
        )?;
        writeln!(
            f,
            "  bandwidth   {:.1} KiB of JSON in, {:.1} KiB of frames out: {:.1} to 1",
            self.bytes_in as f64 / 1024.0,
            self.bytes_out as f64 / 1024.0,
            self.bytes_in as f64 / (self.bytes_out.max(1)) as f64
        )?;
        let models = if self.models.is_empty() { "none".to_owned() } else { self.models.join(" → ") };
        writeln!(f, "  model       {models}, at most {} change per press", self.changes_max)?;
        for finding in &self.findings {
            let label = &finding.label;
            let signal = label.signal.map_or(String::new(), |signal| format!(" ({})", signal.name()));
            match finding.found_after_s {
                Some(after) => {
                    writeln!(
                        f,
                        "  found       {:<9} {}{signal}, after {after:.0} s",
                        label.device,
                        label.kind.name()
                    )?;
                }
                None => writeln!(f, "  MISSED      {:<9} {}{signal}", label.device, label.kind.name())?,
            }
        }
        writeln!(
            f,
            "  false       {} alarms in {:.2} device-hours: {:.2} per device-hour, {FALSE_ALARMS_MAX} allowed",
            self.false_alarms.len(),
            self.device_hours,
            self.false_alarm_rate()
        )?;
        for alarm in self.false_alarms.iter().take(5) {
            writeln!(f, "    {} score {:.2}", alarm.device, alarm.score.unwrap_or(f64::NAN))?;
        }
        Ok(())
    }
}
