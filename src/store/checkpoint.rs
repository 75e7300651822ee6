//! Checkpoints: the engine's state at a cut, as one file that is there whole or not at all. Touches files only
//! through `Store`.
//!
//! ```text
//! head, 64 bytes, laid out alike in every format version:
//!   magic "tidechk\n" │ version u16 │ 0 u16 │ sections u32 │ epoch u64 │ log offset u64
//!   │ mono µs u64 │ wall µs i64 │ 0 (12 bytes) │ CRC-32 of these
//! section: name bytes u32 │ body bytes u64 │ name │ body │ CRC-32 of these, the epoch and the section's number
//! ```
//!
//! The file is written under another name, synced, renamed, and its directory synced: in this order, so that the name
//! never stands for anything but the whole. The last two are kept.

use std::collections::BTreeMap;

use super::Store;
use super::wire::Wire;
use crate::{Error, Result};

/// Where the checkpoints are, in the store.
const DIR: &str = "checkpoint";
const SUFFIX: &str = ".ckpt";
const UNFINISHED: &str = ".tmp";
const DAMAGED: &str = ".damaged";
const MAGIC: [u8; 8] = *b"tidechk\n";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 64;
/// Checkpoints that are kept: should the newest turn out damaged, there is one more.
const KEPT: usize = 2;
/// The largest file that is read or written.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most sections: a few for each node of a graph.
const SECTIONS_MAX: usize = 65_536;

/// The engine's state at a cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// The epoch the cut ended.
    pub epoch: u64,
    /// The offset of the first log record that is not in the state.
    pub log_offset: u64,
    /// The engine's monotonic time at the cut, in µs. It continues across restarts.
    pub mono_us: u64,
    /// Wall-clock time at the cut, in µs since 1970.
    pub wall_us: i64,
    /// The state of each part, by its name.
    pub sections: BTreeMap<String, Vec<u8>>,
}

/// What loading met on the way to a whole checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Newer checkpoints that could not be used, each with the reason. Damaged ones were renamed to `….damaged`.
    pub passed_over: Vec<String>,
}

/// Writes a checkpoint durably and removes those older than the one before it.
///
/// Returns the log offset from which records are still needed, by the older of the two that are kept: what to pass to
/// [`Log::remove_before`](super::Log::remove_before).
///
/// # Errors
/// [`Io`](crate::Kind::Io) where the store fails: the checkpoint does not count then, try again with a later one.
/// [`State`](crate::Kind::State) when it is larger than 1 GiB.
pub fn save(store: &mut dyn Store, checkpoint: &Checkpoint) -> Result<u64> {
    let bytes = checkpoint.encode()?;
    store.create_dir(DIR)?;
    let path = path_of(checkpoint.epoch);
    let unfinished = format!("{path}{UNFINISHED}");
    if let Err(error) = write(store, &bytes, &unfinished, &path) {
        let _ = store.remove(&unfinished);
        return Err(error);
    }
    // The new one is safe from here on, whatever becomes of the old ones.
    Ok(prune(store, checkpoint).unwrap_or(0))
}

fn write(store: &mut dyn Store, bytes: &[u8], unfinished: &str, path: &str) -> Result<()> {
    if store.len(unfinished).is_ok() {
        // Left behind by a crash. Appending to it would be appending to a file of unknown content.
        store.remove(unfinished)?;
    }
    let file = store.create(unfinished)?;
    let written = store.append(file, bytes).and_then(|()| store.sync(file));
    store.close(file);
    written?;
    store.rename(unfinished, path)?;
    store.sync_dir(DIR)
}

/// Removes what is not kept; returns the smallest log offset of what is.
fn prune(store: &mut dyn Store, newest: &Checkpoint) -> Result<u64> {
    let names = store.list(DIR)?;
    let mut epochs: Vec<u64> = names.iter().filter_map(|name| epoch_of(name)).collect();
    epochs.sort_unstable();
    // Whatever claims to be newer was passed over by `load`, else this one would not have its epoch.
    let (kept, newer): (Vec<u64>, Vec<u64>) = epochs.iter().partition(|epoch| **epoch <= newest.epoch);
    let old = kept.len().saturating_sub(KEPT);
    for epoch in kept.iter().take(old).chain(&newer) {
        store.remove(&path_of(*epoch))?;
    }
    for name in names.iter().filter(|name| is_garbage(name, newest.epoch)) {
        store.remove(&format!("{DIR}/{name}"))?;
    }
    let mut needed = newest.log_offset;
    for epoch in kept.iter().skip(old).filter(|epoch| **epoch != newest.epoch) {
        let mut head = [0; HEAD_BYTES];
        let path = path_of(*epoch);
        store.read(&path, 0, &mut head)?;
        // A damaged one needs nothing any more.
        if let Ok(Head { log_offset, .. }) = Head::decode(&head, &path) {
            needed = needed.min(log_offset);
        }
    }
    Ok(needed)
}

/// The smallest log offset of the checkpoints there are: records before it are needed by none.
///
/// # Errors
/// [`Io`](crate::Kind::Io) where the store cannot read.
pub fn needed_from(store: &mut dyn Store) -> Result<u64> {
    let mut needed = None;
    for epoch in store.list(DIR)?.iter().filter_map(|name| epoch_of(name)) {
        let (mut head, path) = ([0; HEAD_BYTES], path_of(epoch));
        store.read(&path, 0, &mut head)?;
        if let Ok(Head { log_offset, .. }) = Head::decode(&head, &path) {
            needed = Some(needed.map_or(log_offset, |needed: u64| needed.min(log_offset)));
        }
    }
    Ok(needed.unwrap_or(0))
}

/// Unfinished files, and damaged ones that two good checkpoints have followed.
fn is_garbage(name: &str, newest: u64) -> bool {
    let damaged = name.strip_suffix(DAMAGED).and_then(epoch_of);
    name.ends_with(UNFINISHED) || damaged.is_some_and(|epoch| epoch.saturating_add(KEPT as u64) <= newest)
}

/// Loads the newest whole checkpoint, if there is one, and makes sure that it stays.
///
/// # Errors
/// [`State`](crate::Kind::State) when the newest is of a newer format, or when there are checkpoints but not one of them is
/// whole: starting from nothing must be a person's decision. [`Io`](crate::Kind::Io) where the store fails.
pub fn load(store: &mut dyn Store) -> Result<Option<(Checkpoint, Report)>> {
    let mut epochs: Vec<u64> = store.list(DIR)?.iter().filter_map(|name| epoch_of(name)).collect();
    epochs.sort_unstable();
    let mut report = Report::default();
    let mut damaged: Vec<String> = Vec::new();
    while let Some(epoch) = epochs.pop() {
        let path = path_of(epoch);
        let outcome = read_file(store, &path).and_then(|bytes| Checkpoint::decode(&bytes, &path));
        match outcome {
            Ok(checkpoint) if checkpoint.epoch == epoch => {
                // A process that died between rename and sync has left a name that a crash could take back.
                store.sync_dir(DIR)?;
                for path in damaged {
                    // Out of the way, so that it is not counted as one of the kept. Best effort.
                    let _ = store.rename(&path, &format!("{path}{DAMAGED}"));
                }
                return Ok(Some((checkpoint, report)));
            }
            Ok(checkpoint) => {
                report.passed_over.push(format!("{path} holds epoch {}", checkpoint.epoch));
                damaged.push(path);
            }
            Err(Failure::Newer(error)) => return Err(error),
            Err(Failure::Damaged(reason)) => {
                report.passed_over.push(format!("{path} is damaged: {reason}"));
                damaged.push(path);
            }
            // It may be readable the next time. Were an older one taken now, the sinks would go back to where that
            // one has them, and then this one would come back and miss what they have cut off.
            Err(Failure::Unreadable(error)) => return Err(error),
        }
    }
    if report.passed_over.is_empty() {
        return Ok(None);
    }
    Err(Error::state(format!(
        "no checkpoint in {DIR} can be used ({}); to start without the state so far, move the directory away",
        report.passed_over.join("; ")
    )))
}

fn path_of(epoch: u64) -> String {
    format!("{DIR}/{epoch:020}{SUFFIX}")
}

fn epoch_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[derive(Debug)]
enum Failure {
    /// Of a format this program does not know.
    Newer(Error),
    /// Not what was written.
    Damaged(String),
    /// The store could not read it.
    Unreadable(Error),
}

fn damaged<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Damaged(reason.into()))
}

fn read_file(store: &mut dyn Store, path: &str) -> Result<Vec<u8>, Failure> {
    let len = store.len(path).map_err(Failure::Unreadable)?;
    if len > FILE_BYTES_MAX {
        return damaged(format!("{len} bytes are more than a checkpoint ever has ({FILE_BYTES_MAX})"));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = store.read(path, 0, &mut bytes).map_err(Failure::Unreadable)?;
    bytes.truncate(read);
    Ok(bytes)
}

struct Head {
    sections: u32,
    epoch: u64,
    log_offset: u64,
    mono_us: u64,
    wall_us: i64,
}

impl Head {
    fn encode(&self, version: u16) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..10].copy_from_slice(&version.to_le_bytes());
        head[12..16].copy_from_slice(&self.sections.to_le_bytes());
        head[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        head[24..32].copy_from_slice(&self.log_offset.to_le_bytes());
        head[32..40].copy_from_slice(&self.mono_us.to_le_bytes());
        head[40..48].copy_from_slice(&self.wall_us.to_le_bytes());
        let crc = crc32fast::hash(&head[..60]);
        head[60..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    fn decode(head: &[u8; HEAD_BYTES], path: &str) -> Result<Head, Failure> {
        let (covered, crc) = head.split_at(HEAD_BYTES - 4);
        if Wire(crc).u32() != Some(crc32fast::hash(covered)) {
            return damaged("the checksum of its head is wrong");
        }
        let mut wire = Wire(covered);
        let magic: Option<[u8; 8]> = wire.array();
        let (version, _reserved) = (wire.u16(), wire.u16());
        if magic != Some(MAGIC) {
            return damaged("it is not a checkpoint");
        }
        if let Some(version) = version.filter(|version| *version > VERSION) {
            return Err(Failure::Newer(Error::state(format!(
                "{path} has format version {version} and this program reads up to {VERSION}: run the version that \
                 wrote it, or move the directory away to start without its state"
            ))));
        }
        let fields = (wire.u32(), wire.u64(), wire.u64(), wire.u64(), wire.u64());
        let (Some(sections), Some(epoch), Some(log_offset), Some(mono_us), Some(wall_us)) = fields else {
            return damaged("its head is too short");
        };
        Ok(Head { sections, epoch, log_offset, mono_us, wall_us: wall_us as i64 })
    }
}

fn section_checksum(epoch: u64, number: u32, section: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&epoch.to_le_bytes());
    crc.update(&number.to_le_bytes());
    crc.update(section);
    crc.finalize()
}

impl Checkpoint {
    fn encode(&self) -> Result<Vec<u8>> {
        let section_bytes = |(name, body): (&String, &Vec<u8>)| 16 + name.len() as u64 + body.len() as u64;
        let bytes = HEAD_BYTES as u64 + self.sections.iter().map(section_bytes).sum::<u64>();
        if bytes > FILE_BYTES_MAX || self.sections.len() > SECTIONS_MAX {
            return Err(Error::state(format!(
                "a checkpoint of {bytes} bytes in {} sections is too large (at most {FILE_BYTES_MAX} in \
                 {SECTIONS_MAX}): reduce `max_keys` or `key_ttl` of the operators that keep most",
                self.sections.len()
            )));
        }
        let head = Head {
            sections: self.sections.len() as u32,
            epoch: self.epoch,
            log_offset: self.log_offset,
            mono_us: self.mono_us,
            wall_us: self.wall_us,
        };
        let mut out = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        out.extend_from_slice(&head.encode(VERSION));
        for (number, (name, body)) in (0u32..).zip(&self.sections) {
            let start = out.len();
            out.extend_from_slice(&(name.len() as u32).to_le_bytes());
            out.extend_from_slice(&(body.len() as u64).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(body);
            let crc = section_checksum(self.epoch, number, out.get(start..).unwrap_or_default());
            out.extend_from_slice(&crc.to_le_bytes());
        }
        Ok(out)
    }

    fn decode(bytes: &[u8], path: &str) -> Result<Checkpoint, Failure> {
        let Some((head, mut rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return damaged(format!("it ends after {} bytes", bytes.len()));
        };
        let head = Head::decode(head, path)?;
        let mut sections = BTreeMap::new();
        for number in 0..head.sections {
            let Some((name, body, after)) = decode_section(rest, head.epoch, number) else {
                return damaged(format!("section {} of {} is not whole", number + 1, head.sections));
            };
            if sections.insert(name.to_owned(), body.to_vec()).is_some() {
                return damaged(format!("section {name:?} is there twice"));
            }
            rest = after;
        }
        if !rest.is_empty() {
            return damaged(format!("{} bytes follow its last section", rest.len()));
        }
        let Head { epoch, log_offset, mono_us, wall_us, .. } = head;
        Ok(Checkpoint { epoch, log_offset, mono_us, wall_us, sections })
    }
}

fn decode_section(bytes: &[u8], epoch: u64, number: u32) -> Option<(&str, &[u8], &[u8])> {
    let mut wire = Wire(bytes);
    let (name_bytes, body_bytes) = (wire.u32()?, wire.u64()?);
    let name = wire.take(usize::try_from(name_bytes).ok()?)?;
    let body = wire.take(usize::try_from(body_bytes).ok()?)?;
    let covered = bytes.get(..bytes.len() - wire.0.len())?;
    if wire.u32()? != section_checksum(epoch, number, covered) {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?, body, wire.0))
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Faults, Memory, Operation};
    use super::super::{Disk, FileId};
    use super::*;

    fn checkpoint(epoch: u64) -> Checkpoint {
        let sections = [
            ("window".to_owned(), vec![epoch as u8; 700]),
            ("empty".to_owned(), Vec::new()),
            (String::new(), b"nameless".to_vec()),
        ];
        Checkpoint {
            epoch,
            log_offset: epoch * 100,
            mono_us: epoch * 1_000_000,
            wall_us: -5,
            sections: sections.into(),
        }
    }

    fn loaded_epoch(store: &mut dyn Store) -> Option<u64> {
        load(store).unwrap().map(|(checkpoint, _)| checkpoint.epoch)
    }

    #[test]
    fn the_newest_of_two_comes_back_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let stores: [Box<dyn Store>; 2] =
            [Box::new(Memory::new()), Box::new(Disk::open(dir.path()).unwrap())];
        for mut store in stores {
            let store = store.as_mut();
            assert_eq!(load(store).unwrap(), None);
            assert_eq!(save(store, &checkpoint(1)).unwrap(), 100);
            assert_eq!(save(store, &checkpoint(2)).unwrap(), 100, "the older one still needs its records");
            assert_eq!(save(store, &checkpoint(5)).unwrap(), 200);
            assert_eq!(load(store).unwrap(), Some((checkpoint(5), Report::default())));
            let names = store.list(DIR).unwrap();
            assert_eq!(names, ["00000000000000000002.ckpt", "00000000000000000005.ckpt"]);
            assert_eq!(save(store, &checkpoint(5)).unwrap(), 200, "the same epoch again");
        }
    }

    #[test]
    fn the_file_is_synced_before_the_rename_and_the_directory_after_it() {
        let mut store = Memory::new();
        save(&mut store, &checkpoint(1)).unwrap();
        let _ = store.take_trace();
        save(&mut store, &checkpoint(2)).unwrap();
        let path = path_of(2);
        let unfinished = format!("{path}{UNFINISHED}");
        let bytes = checkpoint(2).encode().unwrap().len();
        let expected = [
            Operation::Create { path: unfinished.clone() },
            Operation::Append { path: unfinished.clone(), bytes },
            Operation::Sync { path: unfinished.clone() },
            Operation::Rename { from: unfinished, to: path },
            Operation::SyncDir { dir: DIR.to_owned() },
        ];
        assert_eq!(store.take_trace(), expected);
    }

    #[test]
    fn whatever_is_damaged_the_one_before_it_is_loaded_and_the_damage_told() {
        let good = checkpoint(2).encode().unwrap();
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            bad.push(flipped);
        }
        bad.push([&good[..], b"\0"].concat());
        bad.push(checkpoint(3).encode().unwrap());
        for bytes in bad {
            let mut store = Memory::new();
            save(&mut store, &checkpoint(1)).unwrap();
            store.plant(&path_of(2), bytes);
            let (found, report) = load(&mut store).unwrap().unwrap();
            assert_eq!(found, checkpoint(1));
            assert_eq!(report.passed_over.len(), 1);
            assert!(report.passed_over[0].starts_with(&path_of(2)), "{report:?}");
            // It does not take the place of a good one when the next ones are kept.
            save(&mut store, &checkpoint(3)).unwrap();
            assert!(store.contents(&path_of(1)).is_some());
        }
    }

    #[test]
    fn damaged_files_do_not_pile_up() {
        let mut store = Memory::new();
        save(&mut store, &checkpoint(1)).unwrap();
        store.plant(&path_of(2), b"rot".to_vec());
        load(&mut store).unwrap().unwrap();
        assert!(store.contents(&format!("{}{DAMAGED}", path_of(2))).is_some());
        for epoch in 2..5 {
            save(&mut store, &checkpoint(epoch)).unwrap();
        }
        assert_eq!(store.list(DIR).unwrap().len(), KEPT);
    }

    #[test]
    fn nothing_whole_is_an_error_and_a_newer_format_is_refused() {
        let mut store = Memory::new();
        store.plant(&path_of(2), b"rot".to_vec());
        let error = load(&mut store).unwrap_err();
        assert_eq!(error.kind, crate::Kind::State);
        assert!(error.message.contains("is damaged: it ends after 3 bytes"), "{error}");
        save(&mut store, &checkpoint(3)).unwrap();
        let head = Head { sections: 0, epoch: 4, log_offset: 0, mono_us: 0, wall_us: 0 };
        store.plant(&path_of(4), head.encode(VERSION + 1).to_vec());
        let error = load(&mut store).unwrap_err();
        assert_eq!(error.kind, crate::Kind::State);
        assert!(error.message.contains("format version 2 and this program reads up to 1"), "{error}");
    }

    #[test]
    fn an_unreadable_file_is_an_error_and_not_passed_over() {
        let mut store = Memory::new();
        save(&mut store, &checkpoint(1)).unwrap();
        save(&mut store, &checkpoint(2)).unwrap();
        store.set_faults(Faults { fail_reads: 1, ..Faults::default() });
        assert_eq!(load(&mut store).unwrap_err().kind, crate::Kind::Io);
        assert_eq!(loaded_epoch(&mut store), Some(2));
    }

    #[test]
    fn a_failed_save_leaves_the_last_one_and_no_remains() {
        for operations in 0..5 {
            let mut store = Memory::new();
            save(&mut store, &checkpoint(1)).unwrap();
            store.set_faults(Faults { fail_after: Some(operations), ..Faults::default() });
            save(&mut store, &checkpoint(2)).unwrap_err();
            assert_eq!(loaded_epoch(&mut store), Some(if operations == 4 { 2 } else { 1 }));
            let names = store.list(DIR).unwrap();
            assert!(names.iter().all(|name| name.ends_with(SUFFIX)), "{names:?}");
            save(&mut store, &checkpoint(3)).unwrap();
            assert_eq!(loaded_epoch(&mut store), Some(3));
        }
    }

    #[test]
    fn too_large_is_refused_in_words() {
        let names = (0..=SECTIONS_MAX).map(|number| (number.to_string(), Vec::new()));
        let error = save(&mut Memory::new(), &Checkpoint { sections: names.collect(), ..checkpoint(1) });
        assert!(error.unwrap_err().message.contains("reduce `max_keys`"));
    }

    /// A store that forgets one of its duties: the crash test below must notice.
    struct Careless {
        store: Memory,
        forget_sync: bool,
        forget_sync_dir: bool,
    }

    impl Store for Careless {
        fn create_dir(&mut self, dir: &str) -> Result<()> {
            self.store.create_dir(dir)
        }
        fn list(&mut self, dir: &str) -> Result<Vec<String>> {
            self.store.list(dir)
        }
        fn create(&mut self, path: &str) -> Result<FileId> {
            self.store.create(path)
        }
        fn append(&mut self, file: FileId, bytes: &[u8]) -> Result<()> {
            self.store.append(file, bytes)
        }
        fn sync(&mut self, file: FileId) -> Result<()> {
            if self.forget_sync { Ok(()) } else { self.store.sync(file) }
        }
        fn close(&mut self, file: FileId) {
            self.store.close(file);
        }
        fn sync_dir(&mut self, dir: &str) -> Result<()> {
            if self.forget_sync_dir { Ok(()) } else { self.store.sync_dir(dir) }
        }
        fn read(&mut self, path: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
            self.store.read(path, offset, buffer)
        }
        fn len(&mut self, path: &str) -> Result<u64> {
            self.store.len(path)
        }
        fn truncate(&mut self, path: &str, len: u64) -> Result<()> {
            self.store.truncate(path, len)
        }
        fn rename(&mut self, from: &str, to: &str) -> Result<()> {
            self.store.rename(from, to)
        }
        fn remove(&mut self, path: &str) -> Result<()> {
            self.store.remove(path)
        }
        fn share(&self) -> Box<dyn Store> {
            Box::new(Careless { store: self.store.clone(), ..*self })
        }
    }

    /// Saves, with a fault somewhere, crashes, loads: at least the last saved one must come back. The first seed at
    /// which it does not.
    fn first_loss(forget_sync: bool, forget_sync_dir: bool) -> Option<u64> {
        (0..300).find(|seed| {
            let memory = Memory::new();
            let mut store = Careless { store: memory.clone(), forget_sync, forget_sync_dir };
            let mut saved = 0;
            for epoch in 1..4 {
                if epoch == 1 + seed % 3 {
                    memory.set_faults(Faults { fail_after: Some(seed / 3 % 8), ..Faults::default() });
                }
                if save(&mut store, &checkpoint(epoch)).is_ok() {
                    saved = epoch;
                }
            }
            memory.set_faults(Faults::default());
            memory.crash(*seed);
            match load(&mut store) {
                Ok(Some((found, _))) => found.epoch < saved || found != checkpoint(found.epoch),
                Ok(None) => saved > 0,
                Err(_) => true,
            }
        })
    }

    #[test]
    fn a_saved_checkpoint_survives_every_crash() {
        assert_eq!(first_loss(false, false), None);
    }

    #[test]
    fn a_store_that_does_not_sync_is_found_out() {
        assert!(first_loss(true, false).is_some(), "files were not synced and nothing was lost");
        assert!(first_loss(false, true).is_some(), "the directory was not synced and nothing was lost");
    }
}
