//! Records at which the engine failed: how often, over restarts of the engine and of the process, and which of them
//! have failed too often to be tried again.
//!
//! After two failures a record is tried row by row, which gives the same results, so that it is the row that is left out
//! and not its neighbours.
//!
//! Two files in the data directory hold it. `suspects.json` is written and synced when a record has failed. `handling` is
//! sixteen bytes that the engine's thread overwrites before and after each record, without a sync: what the system's
//! page cache holds survives the death of a process, and a power cut is not the record's doing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::durable::DataDir;
use crate::error::{Error, Result};

/// A record that has failed so often is left out.
pub const FAILURES_MAX: u32 = 3;

/// Most rows of one record that are left out by themselves; beyond that the whole record is.
const ROWS_MAX: usize = 16;

/// Most records remembered; the one noted longest ago gives way.
const SUSPECTS_MAX: usize = 64;

/// The longest reason kept, in bytes.
const REASON_BYTES_MAX: usize = 500;

const SUSPECTS: &str = "suspects.json";
const HANDLING: &str = "handling";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Its offset in the log.
    pub offset: u64,
    /// How often the engine, or the process, has failed at it.
    pub failures: u32,
    /// Why, the last time.
    pub reason: String,
    /// Rows of it that are left out.
    #[serde(default)]
    pub rows: Vec<u32>,
}

/// How a record is to be treated that has failed before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Treatment {
    /// Its offset.
    pub offset: u64,
    /// What is left out: these rows, the rest one by one; or, if none are named, all of it.
    pub without: Option<Vec<u32>>,
}

/// The records at which the engine failed.
#[derive(Debug, Default)]
pub struct Suspects {
    list: Vec<Suspect>,
}

impl Suspects {
    /// What the data directory says, and one failure more for the record that was being handled when the process died.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn load(data: &mut DataDir) -> Result<Self> {
        let list = match data.note(SUSPECTS)? {
            None => Vec::new(),
            Some(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(%error, "{SUSPECTS} cannot be read; failures are counted anew");
                Vec::new()
            }),
        };
        let mut suspects = Self { list };
        let handling = Mark::take(&data.path(HANDLING))?;
        if let Some((offset, row)) = handling {
            let reason = "the process died while it was handled";
            let failures = suspects.failed(offset, row, reason, Some(data))?;
            warn!(offset, row, failures, "the process died while it handled this record");
        }
        Ok(suspects)
    }

    /// The engine failed at a record, or at a row of it where rows were tried one by one: how often that makes. It is
    /// durable, where there is somewhere to keep it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn failed(
        &mut self,
        offset: u64,
        row: Option<u32>,
        reason: &str,
        data: Option<&mut DataDir>,
    ) -> Result<u32> {
        let mut suspect = match self.list.iter().position(|known| known.offset == offset) {
            Some(place) => self.list.remove(place),
            None => Suspect { offset, failures: 0, reason: String::new(), rows: Vec::new() },
        };
        match row.filter(|_| suspect.rows.len() < ROWS_MAX) {
            // It goes on row by row.
            Some(row) => suspect.rows.push(row),
            None => suspect.failures = suspect.failures.saturating_add(1),
        }
        suspect.reason = reason.chars().take(REASON_BYTES_MAX / 4).collect();
        let failures = suspect.failures;
        self.list.push(suspect);
        if self.list.len() > SUSPECTS_MAX {
            self.list.remove(0);
        }
        self.keep(data)?;
        Ok(failures)
    }

    /// Records that are behind every checkpoint are nobody's concern any more.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn forget_before(&mut self, offset: u64, data: Option<&mut DataDir>) -> Result<()> {
        let before = self.list.len();
        self.list.retain(|suspect| suspect.offset >= offset);
        if self.list.len() < before { self.keep(data) } else { Ok(()) }
    }

    /// How records are to be treated that have failed too often.
    pub fn treatments(&self) -> Vec<Treatment> {
        let suspects = self.list.iter().filter(|suspect| suspect.failures + 1 >= FAILURES_MAX);
        let treatment = |suspect: &Suspect| Treatment {
            offset: suspect.offset,
            without: (suspect.failures < FAILURES_MAX).then(|| suspect.rows.clone()),
        };
        suspects.map(treatment).collect()
    }

    fn keep(&self, data: Option<&mut DataDir>) -> Result<()> {
        let Some(data) = data else { return Ok(()) };
        let text = serde_json::to_vec(&self.list)
            .map_err(|error| Error::state(format!("{SUSPECTS} cannot be written: {error}")))?;
        data.keep_note(SUSPECTS, &text)
    }
}

/// Where the engine's thread notes the record it is handling.
#[derive(Debug)]
pub struct Mark(File);

impl Mark {
    /// In a data directory.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn open(data: &DataDir) -> Result<Self> {
        let path = data.path(HANDLING);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let mark = Self(file.map_err(|error| Error::io(format!("opening {}", path.display()), &error))?);
        mark.leave();
        Ok(mark)
    }

    /// A record is handled from here on, or a row of it.
    pub fn enter(&self, offset: u64, row: Option<u32>) {
        self.write(offset.saturating_add(1), row.map_or(0, |row| u64::from(row) + 1));
    }

    /// It was handled.
    pub fn leave(&self) {
        self.write(0, 0);
    }

    /// Where it cannot be written, a record that ends the process is not found out; nothing else follows from that.
    fn write(&self, record: u64, row: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&record.to_le_bytes());
        bytes[8..].copy_from_slice(&row.to_le_bytes());
        let _ = self.0.write_all_at(&bytes, 0);
    }

    /// The record that was being handled when the process died, if one was; it is told once.
    fn take(path: &Path) -> Result<Option<(u64, Option<u32>)>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), &error)),
        };
        std::fs::remove_file(path)
            .map_err(|error| Error::io(format!("removing {}", path.display()), &error))?;
        let Some((record, row)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
        let Some(offset) = u64::from_le_bytes(*record).checked_sub(1) else { return Ok(None) };
        let row = row.first_chunk::<8>().map_or(0, |row| u64::from_le_bytes(*row));
        Ok(Some((offset, row.checked_sub(1).and_then(|row| u32::try_from(row).ok()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(suspects: &Suspects) -> Vec<(u64, u32)> {
        suspects.list.iter().map(|suspect| (suspect.offset, suspect.failures)).collect()
    }

    #[test]
    fn failures_are_counted_over_restarts_and_deaths_of_the_process_count_too() {
        let directory = tempfile::tempdir().unwrap();
        let open = || DataDir::open(directory.path(), "a").unwrap();
        {
            let mut data = open();
            let mut suspects = Suspects::load(&mut data).unwrap();
            assert_eq!(failures(&suspects), []);
            assert_eq!(suspects.failed(7, None, "it panicked", Some(&mut data)).unwrap(), 1);
            assert_eq!(suspects.failed(9, None, "it panicked", Some(&mut data)).unwrap(), 1);
            let mark = Mark::open(&data).unwrap();
            mark.enter(3, None);
            mark.leave();
            // Died.
            mark.enter(7, None);
        }
        for round in 2..=3 {
            let mut data = open();
            let suspects = Suspects::load(&mut data).unwrap();
            assert_eq!(failures(&suspects), [(9, 1), (7, round)]);
            let without = if round == 2 { Some(Vec::new()) } else { None };
            assert_eq!(suspects.treatments(), [Treatment { offset: 7, without }]);
            Mark::open(&data).unwrap().enter(7, None);
        }
        let mut data = open();
        let mark = Mark::open(&data).unwrap();
        mark.enter(7, None);
        mark.leave();
        let mut suspects = Suspects::load(&mut data).unwrap();
        assert_eq!(failures(&suspects), [(9, 1), (7, 3)], "it was handled to its end");
        suspects.forget_before(8, Some(&mut data)).unwrap();
        assert_eq!(failures(&Suspects::load(&mut data).unwrap()), [(9, 1)]);
    }

    #[test]
    fn rows_are_left_out_by_themselves_until_there_are_too_many() {
        let directory = tempfile::tempdir().unwrap();
        let mut data = DataDir::open(directory.path(), "a").unwrap();
        let mut suspects = Suspects::default();
        suspects.failed(5, None, "it panicked", None).unwrap();
        assert_eq!(suspects.treatments(), []);
        suspects.failed(5, None, "it panicked", None).unwrap();
        let treatment = |without| [Treatment { offset: 5, without }];
        assert_eq!(suspects.treatments(), treatment(Some(vec![])));
        assert_eq!(suspects.failed(5, Some(40), "it panicked", Some(&mut data)).unwrap(), 2);
        assert_eq!(suspects.treatments(), treatment(Some(vec![40])));
        Mark::open(&data).unwrap().enter(5, Some(70));
        let mut suspects = Suspects::load(&mut data).unwrap();
        assert_eq!(suspects.treatments(), treatment(Some(vec![40, 70])));
        for row in 0..ROWS_MAX as u32 {
            suspects.failed(5, Some(row), "it panicked", None).unwrap();
        }
        assert_eq!(suspects.failed(5, Some(90), "it panicked", None).unwrap(), 5, "no rows more");
        assert_eq!(suspects.treatments(), treatment(None));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_damage_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let mut data = DataDir::open(directory.path(), "a").unwrap();
        let mut suspects = Suspects::default();
        for offset in 0..=SUSPECTS_MAX as u64 {
            suspects.failed(offset, None, &"x".repeat(10_000), Some(&mut data)).unwrap();
        }
        assert_eq!((suspects.list.len(), suspects.list[0].offset), (SUSPECTS_MAX, 1));
        let loaded = Suspects::load(&mut data).unwrap();
        assert_eq!(loaded.list, suspects.list);
        std::fs::write(directory.path().join("a/suspects.json"), "{").unwrap();
        std::fs::write(directory.path().join("a/handling"), "abc").unwrap();
        assert_eq!(failures(&Suspects::load(&mut data).unwrap()), []);
    }
}
