//! The simulated store: a directory in memory that forgets, tears and fails as a disk may. Pure: chance is a seed.
//!
//! It keeps what a file system promises and nothing more. Bytes are durable up to the last successful sync of their
//! file, names as of the last sync of their directory. [`Memory::crash`] keeps those and throws dice for the rest: a
//! file's unsynced tail is cut at any byte and some of its sectors may be zeros, or hold what a removed file had there
//! before; of the unsynced creations, renames and removals none, the first few, or any subset has happened. A failed
//! sync is the treacherous kind that Linux has: its bytes may be gone although a later sync of the same file succeeds.

mod crash;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crash::{Content, Dice};

use super::{FileId, Store, parent};
use crate::{Error, Kind, Result};

/// Operations the trace keeps; later ones are only counted.
const TRACE_OPERATIONS_MAX: usize = 65_536;

/// One operation that was asked for, whether or not it then failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the method of the same name")]
pub enum Operation {
    /// [`Store::create`]
    Create { path: String },
    /// [`Store::append`]
    Append { path: String, bytes: usize },
    /// [`Store::sync`]
    Sync { path: String },
    /// [`Store::sync_dir`]
    SyncDir { dir: String },
    /// [`Store::truncate`]
    Truncate { path: String, len: u64 },
    /// [`Store::rename`]
    Rename { from: String, to: String },
    /// [`Store::remove`]
    Remove { path: String },
}

/// How often each operation was asked for since the store was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Files created.
    pub creates: u64,
    /// Appends.
    pub appends: u64,
    /// Bytes appended.
    pub appended_bytes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
    /// Renames.
    pub renames: u64,
    /// Removals.
    pub removes: u64,
    /// Cuts.
    pub truncates: u64,
    /// Reads.
    pub reads: u64,
}

/// What shall go wrong. Counts run down as operations meet them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Let this many changing operations pass, fail the next with an I/O error, then no more.
    pub fail_after: Option<u64>,
    /// Let this many syncs of files pass, fail the next, then no more.
    pub fail_sync_after: Option<u64>,
    /// Every sync of this many following syncs of files fails.
    pub fail_syncs: u64,
    /// Bytes all files together may hold: the append that passes it writes what fits and fails.
    pub disk_bytes_max: Option<u64>,
    /// Every read of this many following reads fails.
    pub fail_reads: u64,
}

/// A handle on a simulated directory; clones and [`Store::share`] see the same one.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    disk: Arc<Mutex<Simulated>>,
}

#[derive(Debug, Clone, Default)]
struct Simulated {
    files: BTreeMap<u64, Content>,
    /// Names as a running process sees them.
    names: BTreeMap<String, u64>,
    /// Names as they are sure to be after a crash.
    durable_names: BTreeMap<String, u64>,
    /// What leads from `durable_names` to `names`, in order.
    unsynced_names: Vec<NameChange>,
    directories: BTreeSet<String>,
    appending: BTreeMap<FileId, (String, u64)>,
    /// What the file had that was removed last: its blocks are the next to be used.
    stale: Vec<u8>,
    next: u64,
    faults: Faults,
    counters: Counters,
    trace: Vec<Operation>,
}

#[derive(Debug, Clone)]
struct NameChange {
    dir: String,
    gone: Option<String>,
    there: Option<(String, u64)>,
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, file)) = &self.there {
            names.insert(name.clone(), *file);
        }
    }
}

impl Memory {
    /// An empty directory without faults.
    #[must_use]
    pub fn new() -> Memory {
        Memory::default()
    }

    fn disk(&self) -> MutexGuard<'_, Simulated> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes: every open file is gone, and of what was not synced, what the dice leave.
    pub fn crash(&self, seed: u64) {
        self.disk().crash(&mut Dice(seed));
    }

    /// What shall go wrong from now on, replacing what was to go wrong so far.
    pub fn set_faults(&self, faults: Faults) {
        self.disk().faults = faults;
    }

    /// What is still to go wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.disk().faults
    }

    /// How often each operation was asked for.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.disk().counters
    }

    /// Takes the operations since the last call, oldest first; at most 65,536 are kept.
    #[must_use]
    pub fn take_trace(&self) -> Vec<Operation> {
        std::mem::take(&mut self.disk().trace)
    }

    /// The bytes of a file as a running process sees them.
    #[must_use]
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        let file = disk.names.get(path)?;
        disk.files.get(file).map(|content| content.bytes.clone())
    }

    /// Puts durable bytes in the place of a file: what bit rot, a foreign hand or another version leaves behind.
    pub fn plant(&self, path: &str, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let file = disk.fresh();
        disk.files.insert(file, Content { durable: bytes.len(), bytes, doomed: Vec::new() });
        disk.names.insert(path.to_owned(), file);
        disk.durable_names.insert(path.to_owned(), file);
        disk.directories.insert(parent(path).to_owned());
    }

    /// Another disk that holds the same and then goes its own way; nothing goes wrong there yet.
    #[must_use]
    pub fn fork(&self) -> Memory {
        let disk = Simulated { faults: Faults::default(), ..self.disk().clone() };
        Memory { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Changes the bits of a byte where it lies, durable or not: bit rot. False where there is no such byte.
    pub fn flip(&self, path: &str, at: usize, bits: u8) -> bool {
        let mut disk = self.disk();
        let byte = disk.file("damaging", path).ok().and_then(|content| content.bytes.get_mut(at));
        byte.map(|byte| *byte ^= bits).is_some()
    }

    /// Bytes of all files whose paths begin so.
    #[must_use]
    pub fn bytes_under(&self, prefix: &str) -> u64 {
        let disk = self.disk();
        let files = disk.names.iter().filter(|(path, _)| path.starts_with(prefix));
        files.filter_map(|(_, file)| disk.files.get(file)).map(|content| content.bytes.len() as u64).sum()
    }

    /// Bytes that count against [`Faults::disk_bytes_max`]: also those of files that are removed and not yet gone.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disk().used_bytes()
    }

    /// Every file by its path, ascending.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.disk().names.keys().cloned().collect()
    }
}

impl Simulated {
    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn crash(&mut self, dice: &mut Dice) {
        self.appending.clear();
        let changes = std::mem::take(&mut self.unsynced_names);
        let mood = dice.below(3);
        let first = dice.below(changes.len() + 1);
        for (at, change) in changes.iter().enumerate() {
            let survives = match mood {
                0 => false,
                1 => at < first,
                _ => dice.coin(),
            };
            if survives {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        self.forget_nameless();
        for content in self.files.values_mut() {
            content.crash(&self.stale, dice);
        }
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|content| content.bytes.len() as u64).sum()
    }

    fn forget_nameless(&mut self) {
        let named: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.durable_names.values())
            .chain(
                self.unsynced_names.iter().filter_map(|change| change.there.as_ref().map(|(_, file)| file)),
            )
            .chain(self.appending.values().map(|(_, file)| file))
            .copied()
            .collect();
        self.files.retain(|file, _| named.contains(file));
    }

    fn note(&mut self, operation: Operation) {
        match &operation {
            Operation::Create { .. } => self.counters.creates += 1,
            Operation::Append { bytes, .. } => {
                self.counters.appends += 1;
                self.counters.appended_bytes += *bytes as u64;
            }
            Operation::Sync { .. } => self.counters.syncs += 1,
            Operation::SyncDir { .. } => self.counters.dir_syncs += 1,
            Operation::Truncate { .. } => self.counters.truncates += 1,
            Operation::Rename { .. } => self.counters.renames += 1,
            Operation::Remove { .. } => self.counters.removes += 1,
        }
        if self.trace.len() < TRACE_OPERATIONS_MAX {
            self.trace.push(operation);
        }
    }

    /// Notes an operation that changes something, and whether it is the one that shall fail.
    fn change(&mut self, doing: &str, path: &str, operation: Operation) -> Result<()> {
        self.note(operation);
        if runs_out(&mut self.faults.fail_after) {
            return Err(injected(doing, path));
        }
        Ok(())
    }

    fn file(&mut self, doing: &str, path: &str) -> Result<&mut Content> {
        let file = self.names.get(path).copied();
        file.and_then(|file| self.files.get_mut(&file)).ok_or_else(|| missing(doing, path))
    }

    fn rename_entry(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

/// Whether this is the operation at which a countdown ends.
fn runs_out(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn injected(doing: &str, path: &str) -> Error {
    Error::io(format!("{doing} {path}"), &io::Error::other("injected I/O error"))
}

fn missing(doing: &str, path: &str) -> Error {
    Error::io(format!("{doing} {path}"), &io::ErrorKind::NotFound.into())
}

fn closed(file: FileId) -> Error {
    Error::new(Kind::Io, format!("file {} was closed before", file.0))
}

impl Store for Memory {
    fn create_dir(&mut self, dir: &str) -> Result<()> {
        let mut disk = self.disk();
        let mut dir = dir;
        while !dir.is_empty() {
            disk.directories.insert(dir.to_owned());
            dir = parent(dir);
        }
        Ok(())
    }

    fn list(&mut self, dir: &str) -> Result<Vec<String>> {
        let disk = self.disk();
        let inside = disk.names.keys().filter(|path| parent(path) == dir);
        Ok(inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect())
    }

    fn create(&mut self, path: &str) -> Result<FileId> {
        let mut disk = self.disk();
        disk.change("creating", path, Operation::Create { path: path.to_owned() })?;
        if !parent(path).is_empty() && !disk.directories.contains(parent(path)) {
            return Err(missing("creating", path));
        }
        if disk.names.contains_key(path) {
            return Err(Error::io(format!("creating {path}"), &io::ErrorKind::AlreadyExists.into()));
        }
        let content = disk.fresh();
        disk.files.insert(content, Content::default());
        let there = Some((path.to_owned(), content));
        disk.rename_entry(NameChange { dir: parent(path).to_owned(), gone: None, there });
        let id = FileId(disk.fresh());
        disk.appending.insert(id, (path.to_owned(), content));
        Ok(id)
    }

    fn append(&mut self, file: FileId, bytes: &[u8]) -> Result<()> {
        let mut disk = self.disk();
        let (path, content) = disk.appending.get(&file).cloned().ok_or_else(|| closed(file))?;
        let outcome =
            disk.change("writing to", &path, Operation::Append { path: path.clone(), bytes: bytes.len() });
        let used = disk.used_bytes();
        let room = disk.faults.disk_bytes_max.map_or(u64::MAX, |max| max.saturating_sub(used));
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        // A write that fails has still written some of it.
        let written = if outcome.is_err() { fits / 2 } else { fits };
        let content = disk.files.get_mut(&content).ok_or_else(|| missing("writing to", &path))?;
        content.bytes.extend_from_slice(bytes.get(..written).unwrap_or_default());
        outcome?;
        if fits < bytes.len() {
            return Err(Error::io(format!("writing to {path}"), &io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn sync(&mut self, file: FileId) -> Result<()> {
        let mut disk = self.disk();
        let (path, content) = disk.appending.get(&file).cloned().ok_or_else(|| closed(file))?;
        let mut outcome = disk.change("syncing", &path, Operation::Sync { path: path.clone() });
        let fails = disk.faults.fail_syncs > 0 || runs_out(&mut disk.faults.fail_sync_after);
        disk.faults.fail_syncs = disk.faults.fail_syncs.saturating_sub(1);
        if outcome.is_ok() && fails {
            outcome = Err(injected("syncing", &path));
        }
        let content = disk.files.get_mut(&content).ok_or_else(|| missing("syncing", &path))?;
        let unsynced = content.durable..content.bytes.len();
        if outcome.is_err() {
            content.doomed.push(unsynced);
        } else {
            content.durable = unsynced.end;
        }
        outcome
    }

    fn close(&mut self, file: FileId) {
        self.disk().appending.remove(&file);
    }

    fn sync_dir(&mut self, dir: &str) -> Result<()> {
        let mut disk = self.disk();
        disk.change("syncing directory", dir, Operation::SyncDir { dir: dir.to_owned() })?;
        let (synced, rest) =
            std::mem::take(&mut disk.unsynced_names).into_iter().partition(|change| change.dir == dir);
        disk.unsynced_names = rest;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(&mut disk.durable_names);
        }
        disk.forget_nameless();
        Ok(())
    }

    fn read(&mut self, path: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut disk = self.disk();
        disk.counters.reads += 1;
        if disk.faults.fail_reads > 0 {
            disk.faults.fail_reads -= 1;
            return Err(injected("reading", path));
        }
        let bytes = &disk.file("reading", path)?.bytes;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(count)
    }

    fn len(&mut self, path: &str) -> Result<u64> {
        Ok(self.disk().file("looking at", path)?.bytes.len() as u64)
    }

    fn truncate(&mut self, path: &str, len: u64) -> Result<()> {
        let mut disk = self.disk();
        disk.change("cutting", path, Operation::Truncate { path: path.to_owned(), len })?;
        let content = disk.file("cutting", path)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(content.bytes.len());
        content.bytes.truncate(len);
        content.durable = len;
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let mut disk = self.disk();
        let operation = Operation::Rename { from: from.to_owned(), to: to.to_owned() };
        disk.change("renaming", from, operation)?;
        let file = disk.names.get(from).copied().ok_or_else(|| missing("renaming", from))?;
        let there = Some((to.to_owned(), file));
        disk.rename_entry(NameChange { dir: parent(to).to_owned(), gone: Some(from.to_owned()), there });
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        let mut disk = self.disk();
        disk.change("removing", path, Operation::Remove { path: path.to_owned() })?;
        disk.stale = disk.file("removing", path)?.bytes.clone();
        let gone = Some(path.to_owned());
        disk.rename_entry(NameChange { dir: parent(path).to_owned(), gone, there: None });
        Ok(())
    }

    fn share(&self) -> Box<dyn Store> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(path: &str, bytes: &[u8]) -> (Memory, FileId) {
        let mut store = Memory::new();
        let file = store.create(path).unwrap();
        store.append(file, bytes).unwrap();
        (store, file)
    }

    /// What different seeds leave of one file, `None` when its name is gone.
    fn outcomes(prepare: impl Fn() -> Memory, path: &str) -> BTreeSet<Option<Vec<u8>>> {
        (0..200)
            .map(|seed| {
                let store = prepare();
                store.crash(seed);
                store.contents(path)
            })
            .collect()
    }

    #[test]
    fn what_was_synced_survives_every_crash() {
        let outcomes = outcomes(
            || {
                let (mut store, file) = with_file("a", b"safe");
                store.sync(file).unwrap();
                store.sync_dir("").unwrap();
                store
            },
            "a",
        );
        assert_eq!(outcomes, BTreeSet::from([Some(b"safe".to_vec())]));
    }

    #[test]
    fn an_unsynced_name_may_vanish_and_unsynced_bytes_tear_anywhere() {
        let outcomes = outcomes(|| with_file("a", b"abc").0, "a");
        for expected in [None, Some(&b""[..]), Some(b"a"), Some(b"ab"), Some(b"abc"), Some(b"\0\0\0")] {
            assert!(outcomes.contains(&expected.map(<[u8]>::to_vec)), "never saw {expected:?}");
        }
    }

    #[test]
    fn sectors_that_were_never_written_are_zeros_or_what_a_removed_file_had_there() {
        let prepare = || {
            let (mut store, _) = with_file("old", &[7; 1200]);
            store.remove("old").unwrap();
            store.sync_dir("").unwrap();
            let new = store.create("new").unwrap();
            store.sync_dir("").unwrap();
            store.append(new, &[1; 100]).unwrap();
            store.sync(new).unwrap();
            store.append(new, &[2; 1500]).unwrap();
            store
        };
        let mut seen = [false; 3];
        for bytes in outcomes(prepare, "new").into_iter().flatten() {
            assert_eq!(bytes[..100], [1; 100], "what is durable stays, also where it shares a sector");
            for sector in bytes[100..].chunk_by(|left, right| left == right) {
                let of = [2, 0, 7].iter().position(|byte| *byte == sector[0]).unwrap();
                seen[of] = true;
            }
        }
        assert_eq!(seen, [true; 3]);
    }

    #[test]
    fn a_fork_goes_its_own_way_and_rot_changes_what_is_durable() {
        let mut store = Memory::new();
        store.create_dir("a").unwrap();
        let file = store.create("a/b").unwrap();
        store.append(file, b"safe").unwrap();
        store.sync(file).unwrap();
        let fork = store.fork();
        assert!(fork.flip("a/b", 1, 1) && !fork.flip("a/b", 4, 1) && !fork.flip("c", 0, 1));
        assert_eq!(
            (fork.contents("a/b").unwrap(), store.contents("a/b").unwrap()),
            (b"s`fe".to_vec(), b"safe".to_vec())
        );
        assert_eq!((store.bytes_under("a/"), store.bytes_under("b"), store.used_bytes()), (4, 0, 4));
        store.set_faults(Faults { fail_syncs: 2, ..Faults::default() });
        assert!(store.sync(file).is_err() && store.sync(file).is_err() && store.sync(file).is_ok());
    }

    #[test]
    fn a_rename_is_old_or_new_and_without_a_sync_of_the_file_the_new_one_may_be_torn() {
        let prepare = || {
            let (mut store, old) = with_file("a", b"old");
            store.sync(old).unwrap();
            store.sync_dir("").unwrap();
            let new = store.create("a.tmp").unwrap();
            store.append(new, b"new").unwrap();
            store.rename("a.tmp", "a").unwrap();
            store
        };
        let outcomes = outcomes(prepare, "a");
        assert!(!outcomes.contains(&None), "the name is never without a file");
        for expected in [&b"old"[..], b"new", b"n"] {
            assert!(outcomes.contains(&Some(expected.to_vec())), "never saw {expected:?}");
        }
    }

    #[test]
    fn a_sync_after_a_failed_one_proves_nothing() {
        let outcomes = outcomes(
            || {
                let (mut store, file) = with_file("a", b"ab");
                store.sync_dir("").unwrap();
                store.set_faults(Faults { fail_sync_after: Some(0), ..Faults::default() });
                store.sync(file).unwrap_err();
                store.append(file, b"cd").unwrap();
                store.sync(file).unwrap();
                store
            },
            "a",
        );
        assert_eq!(outcomes, BTreeSet::from([Some(b"abcd".to_vec()), Some(b"\0\0cd".to_vec())]));
    }

    #[test]
    fn faults_come_when_they_are_due_and_only_then() {
        let (mut store, file) = with_file("a", b"12345678");
        store.set_faults(Faults { fail_after: Some(1), ..Faults::default() });
        store.sync(file).unwrap();
        let error = store.append(file, b"abcd").unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (Kind::Io, "writing to a: injected I/O error"));
        assert_eq!(store.contents("a").unwrap(), b"12345678ab", "half of it was written");
        store.append(file, b"x").unwrap();
        store.set_faults(Faults { disk_bytes_max: Some(13), ..Faults::default() });
        assert!(store.append(file, b"full").is_err());
        assert_eq!(store.contents("a").unwrap(), b"12345678abxfu");
        store.set_faults(Faults { fail_reads: 1, ..Faults::default() });
        assert!(store.read("a", 0, &mut [0]).is_err());
        assert_eq!(store.read("a", 12, &mut [0; 4]).unwrap(), 1);
    }

    #[test]
    fn operations_are_traced_and_counted() {
        let (mut store, file) = with_file("a", b"xyz");
        store.sync(file).unwrap();
        store.rename("a", "b").unwrap();
        store.sync_dir("").unwrap();
        let path = || "a".to_owned();
        let expected = [
            Operation::Create { path: path() },
            Operation::Append { path: path(), bytes: 3 },
            Operation::Sync { path: path() },
            Operation::Rename { from: path(), to: "b".to_owned() },
            Operation::SyncDir { dir: String::new() },
        ];
        assert_eq!(store.take_trace(), expected);
        assert_eq!(store.take_trace(), []);
        let counters = store.counters();
        assert_eq!((counters.appended_bytes, counters.syncs, counters.dir_syncs), (3, 1, 1));
    }

    #[test]
    fn a_crash_closes_every_file() {
        let (mut store, file) = with_file("a", b"");
        store.crash(1);
        assert!(store.append(file, b"x").is_err());
        assert!(store.sync(file).is_err());
    }
}
