//! What a pipeline writes to its disk in a year, and for how long that disk bears it. Pure; all of it estimates.

use super::limits::Bounds;

/// The part of its payload that a message takes in the log: readings in JSON take less, what has nothing in common more.
const LOGGED_SHARE: f64 = 0.25;

/// Bytes that a message takes beside its payload: number of the topic, arrival.
const LOGGED_BESIDE: f64 = 3.0;

/// Bytes that a device writes for each sync beyond what the file grows by: the page of 4 KiB that is begun, and as much
/// for the file system's own notes.
const SYNC_BYTES: f64 = 8192.0;

const SECONDS_PER_YEAR: f64 = 31_557_600.0;

/// What is written, in bytes and times a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wear {
    /// Bytes that the log's files grow by.
    pub file_bytes: f64,
    /// Syncs of the log, at most, where messages come all the time.
    pub syncs: f64,
    /// Bytes that the device writes for the log.
    pub device_bytes: f64,
    /// Bytes of checkpoints when all state is full.
    pub checkpoint_bytes: f64,
}

impl Bounds {
    /// What is written at so many messages of so many bytes a second; `None` where there is no log.
    pub fn wear(&self, messages_per_second: f64, message_bytes: f64) -> Option<Wear> {
        self.log_bytes_max?;
        let syncs = self.syncs_per_second.min(messages_per_second);
        let file_bytes = messages_per_second * (message_bytes * LOGGED_SHARE + LOGGED_BESIDE);
        let device_bytes = file_bytes + syncs * SYNC_BYTES;
        Some(Wear { file_bytes, syncs, device_bytes, checkpoint_bytes: self.checkpoint_bytes_per_second })
    }

    /// How long the log holds while the sinks take nothing, in seconds, where messages shrink as readings do.
    pub fn likely_outage_seconds(&self, messages_per_second: f64, message_bytes: f64) -> Option<f64> {
        let wear = self.wear(messages_per_second, message_bytes)?;
        Some(
            self.outage_seconds(messages_per_second, message_bytes)?
                * messages_per_second
                * (message_bytes + super::limits::LOGGED_BESIDE_MAX)
                / wear.file_bytes,
        )
    }
}

/// Bytes a second over a year.
pub fn per_year(bytes: f64) -> u64 {
    (bytes * SECONDS_PER_YEAR) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Batches;

    #[test]
    fn a_year_of_readings() {
        let bounds = Bounds {
            batches: Batches { count: 0, bytes: 0 },
            results: 0,
            results_bytes: 0,
            keeping: Vec::new(),
            log_bytes_max: Some(256 << 20),
            retained_bytes_max: 0,
            spools: Vec::new(),
            dead_letters_bytes: 0,
            checkpoint_bytes: 0,
            syncs_per_second: 50.0,
            checkpoint_bytes_per_second: 1000.0,
            rates_max: Vec::new(),
        };
        let wear = bounds.wear(10_000.0, 60.0).unwrap();
        assert_eq!((wear.file_bytes, wear.syncs), (180_000.0, 50.0));
        assert_eq!(wear.device_bytes, 180_000.0 + 50.0 * 8192.0);
        // A message a second is one sync a second.
        assert_eq!(bounds.wear(1.0, 60.0).unwrap().device_bytes, 18.0 + 8192.0);
        assert_eq!(per_year(1000.0), 31_557_600_000);
        let seconds = bounds.likely_outage_seconds(10_000.0, 60.0).unwrap();
        assert!((seconds - f64::from(192 << 20) / 180_000.0).abs() < 1.0, "{seconds}");
        assert_eq!(Bounds { log_bytes_max: None, ..bounds }.wear(1.0, 1.0), None);
    }
}
