//! What the operating system has counted for this process.

use super::{LogWrites, Measured};
use crate::error::{Error, Result};

/// What a process has used.
pub struct Usage {
    /// CPU seconds, user and system.
    pub cpu_seconds: f64,
    /// The largest resident memory in bytes.
    pub peak_bytes: u64,
    /// Bytes it gave to the disk.
    pub disk_bytes: u64,
}

impl Usage {
    /// Together with what the process has done.
    pub fn measured(self, messages: u64, seconds: f64, windows: u64, log: LogWrites) -> Measured {
        let Self { cpu_seconds, peak_bytes, disk_bytes } = self;
        Measured { messages, seconds, cpu_seconds, peak_bytes, windows, log, disk_bytes }
    }
}

/// What this process has used so far.
///
/// # Errors
/// If `/proc` does not say.
pub fn of_this_process() -> Result<Usage> {
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| Error::io(format!("reading {path}"), &error))
    };
    let stat = read("/proc/self/stat")?;
    let unreadable = || Error::data("/proc/self is not as expected");
    // The command's name, in parentheses, may hold spaces; fields 14 and 15 are the ticks.
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or_else(unreadable)?.1.split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).ok_or_else(unreadable);
    // Linux counts in hundredths of a second, whatever the kernel's own tick is (USER_HZ).
    let cpu_seconds = (ticks(11)? + ticks(12)?) as f64 / 100.0;
    let line = |text: &str, name: &str| -> Result<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(unreadable)?;
        value.trim().trim_end_matches(" kB").parse().map_err(|_| unreadable())
    };
    let peak_bytes = line(&read("/proc/self/status")?, "VmHWM:")? << 10;
    // Not every kernel is built with the accounts of I/O.
    let disk_bytes = read("/proc/self/io").and_then(|text| line(&text, "write_bytes:")).unwrap_or(0);
    Ok(Usage { cpu_seconds, peak_bytes, disk_bytes })
}
