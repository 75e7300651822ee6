//! What the operating system has counted for this process.

use crate::error::{Error, Result};

/// CPU seconds (user and system) and the largest resident memory in bytes.
///
/// # Errors
/// If `/proc` does not say.
pub fn of_this_process() -> Result<(f64, u64)> {
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
    let status = read("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or_else(unreadable)?;
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().map_err(|_| unreadable())?;
    Ok((cpu_seconds, kilobytes << 10))
}
