//! Checkpoints: the engine's state at a cut, in files that are there whole or not at all. Touches files only through
//! `Store`.
//!
//! ```text
//! head, 64 bytes, laid out alike in every format version:
//!   magic "tidechk\n" │ version u16 │ 0 (6 bytes) │ epoch u64 │ log offset u64
//!   │ mono µs u64 │ wall µs i64 │ epoch of the base u64 │ 0 (4 bytes) │ CRC-32 of these
//! parts of the state, one behind the other
//! manifest: where the pipeline stood, what its nodes are, in which file and where each part is, its CRC-32
//! foot, 24 bytes:
//!   offset of the manifest u64 │ its bytes u64 │ CRC-32 of the epoch and the manifest │ "end\n"
//! ```
//!
//! A checkpoint whose parts are all in its own file is a *base*. A *delta* holds only the parts that have changed; its
//! manifest names the files of the others, so that a checkpoint is read from its newest manifest alone.
//!
//! The last two checkpoints are kept, and they have no file in common: each builds on the one before the last one.
//! Whatever file turns out damaged, the other checkpoint is whole. A change is thereby written twice where little
//! changes, which is the price of that.
//!
//! A file is written under another name, synced, renamed, and its directory synced: in this order, so that the name
//! never stands for anything but the whole.

use std::collections::BTreeSet;

use super::Store;
pub use super::head::Head;
use super::head::{Failure, HEAD_BYTES, damaged};
use super::manifest::{Manifest, Place, SavedNode, checksum};
use super::wire::Wire;
use crate::{Error, Result};

/// Where the checkpoints are, in the store.
const DIR: &str = "checkpoint";
const SUFFIX: &str = ".ckpt";
const UNFINISHED: &str = ".tmp";
const DAMAGED: &str = ".damaged";
const FOOT_MAGIC: [u8; 4] = *b"end\n";
const FOOT_BYTES: usize = 24;
/// Checkpoints that are kept: should the newest turn out damaged, there is one more.
const KEPT: usize = 2;
/// The largest file that is written, and the largest state.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Bytes that are appended to a file at once, about.
const APPEND_BYTES: usize = 1 << 20;

/// A checkpoint on disk, without the bytes of its state: see [`read_state`].
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// When and where it was made.
    pub head: Head,
    /// What is in it.
    pub manifest: Manifest,
    /// Bytes of its own file.
    pub file_bytes: u64,
}

/// What loading met on the way to a whole checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Newer checkpoints that could not be used, each with the reason. Damaged ones were renamed to `….damaged`.
    pub passed_over: Vec<String>,
}

/// A file in the making.
pub(super) struct Writing<'a> {
    store: &'a mut dyn Store,
    file: super::FileId,
    epoch: u64,
    buffer: Vec<u8>,
    /// Bytes given so far, the head's too.
    written: u64,
}

impl Writing<'_> {
    /// Appends a part; where it is.
    ///
    /// # Errors
    /// If the store fails, or the file becomes larger than one may be.
    pub fn part(&mut self, part: &[u8]) -> Result<Place> {
        let place = Place::of(part, self.epoch, self.written);
        self.append(part)?;
        place.ok_or_else(|| too_large(part.len() as u64))
    }

    /// How many bytes of parts there are so far.
    pub fn part_bytes(&self) -> u64 {
        self.written.saturating_sub(HEAD_BYTES as u64)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > FILE_BYTES_MAX {
            return Err(too_large(self.written));
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= APPEND_BYTES {
            self.store.append(self.file, &self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Ends the file and makes its bytes durable.
    fn finish(&mut self, manifest: &Manifest) -> Result<()> {
        let start = self.written;
        let bytes = encode(manifest)?;
        self.append(&bytes)?;
        let mut foot = Vec::with_capacity(FOOT_BYTES);
        foot.extend_from_slice(&start.to_le_bytes());
        foot.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        foot.extend_from_slice(&checksum(self.epoch, &bytes).to_le_bytes());
        foot.extend_from_slice(&FOOT_MAGIC);
        self.append(&foot)?;
        self.store.append(self.file, &self.buffer)?;
        self.store.sync(self.file)
    }
}

fn too_large(bytes: u64) -> Error {
    Error::state(format!(
        "a checkpoint of {bytes} bytes or more is too large (at most {FILE_BYTES_MAX}): reduce `max_keys` or `key_ttl` \
         of the operators that keep most"
    ))
}

fn encode(manifest: &Manifest) -> Result<Vec<u8>> {
    postcard::to_stdvec(manifest)
        .map_err(|error| Error::state(format!("the checkpoint cannot be written: {error}")))
}

/// Writes a checkpoint durably. `fill` gives its parts and then its manifest; if it fails, or the store does, nothing
/// has changed. The file counts once this returns.
///
/// # Errors
/// [`Io`](crate::Kind::Io) where the store fails: the checkpoint does not count then, try again with a later one.
/// [`State`](crate::Kind::State) when it is larger than 1 GiB. What `fill` says.
pub(super) fn write<T>(
    store: &mut dyn Store,
    head: &Head,
    fill: impl FnOnce(&mut Writing<'_>) -> Result<(Manifest, T)>,
) -> Result<(Checkpoint, T)> {
    store.create_dir(DIR)?;
    let path = path_of(head.epoch);
    let unfinished = format!("{path}{UNFINISHED}");
    let written = write_file(store, head, &unfinished, fill).and_then(|written| {
        store.rename(&unfinished, &path)?;
        store.sync_dir(DIR)?;
        Ok(written)
    });
    if written.is_err() {
        let _ = store.remove(&unfinished);
    }
    written
}

fn write_file<T>(
    store: &mut dyn Store,
    head: &Head,
    unfinished: &str,
    fill: impl FnOnce(&mut Writing<'_>) -> Result<(Manifest, T)>,
) -> Result<(Checkpoint, T)> {
    if store.len(unfinished).is_ok() {
        // Left behind by a crash. Appending to it would be appending to a file of unknown content.
        store.remove(unfinished)?;
    }
    let file = store.create(unfinished)?;
    let mut writing = Writing { store, file, epoch: head.epoch, buffer: Vec::new(), written: 0 };
    let outcome = writing.append(&head.encode()).and_then(|()| {
        let (manifest, more) = fill(&mut writing)?;
        writing.finish(&manifest)?;
        Ok((Checkpoint { head: *head, manifest, file_bytes: writing.written }, more))
    });
    store.close(file);
    outcome
}

/// Removes the files that neither this checkpoint, which is the newest, nor the one before it needs, nor the next ones,
/// which build on `files`; returns the log offset from which these two need records.
///
/// # Errors
/// [`Io`](crate::Kind::Io) where the store fails.
pub(super) fn prune(store: &mut dyn Store, newest: &Checkpoint, mut files: BTreeSet<u64>) -> Result<u64> {
    let names = store.list(DIR)?;
    let mut epochs: Vec<u64> = names.iter().filter_map(|name| epoch_of(name)).collect();
    epochs.sort_unstable();
    let mut needed = newest.head.log_offset;
    files.extend(newest.manifest.files());
    files.insert(newest.head.epoch);
    // Older files than the one before this are there for their parts; as checkpoints they count no more: the log does
    // not reach back to them.
    if let Some(epoch) = epochs.iter().rfind(|epoch| **epoch < newest.head.epoch) {
        let path = path_of(*epoch);
        match read_checkpoint(store, &path) {
            Ok(before) => {
                needed = needed.min(before.head.log_offset);
                files.extend(before.manifest.files());
                files.insert(*epoch);
            }
            Err(Failure::Unreadable(error)) => return Err(error),
            // A damaged one needs nothing any more.
            Err(Failure::Damaged(_) | Failure::Refused(_)) => {}
        }
    }
    // Whatever claims to be newer was passed over by `load`, else this one would not have its epoch.
    for epoch in epochs.iter().filter(|epoch| !files.contains(epoch)) {
        store.remove(&path_of(*epoch))?;
    }
    for name in names.iter().filter(|name| is_garbage(name, newest.head.epoch)) {
        store.remove(&format!("{DIR}/{name}"))?;
    }
    Ok(needed)
}

/// The smallest log offset of the checkpoints that are kept: records before it are needed by none. Files that are there
/// for their parts do not count.
///
/// # Errors
/// [`Io`](crate::Kind::Io) where the store cannot read.
pub fn needed_from(store: &mut dyn Store) -> Result<u64> {
    let epochs = kept(&store.list(DIR)?);
    let mut needed = None;
    for epoch in epochs {
        match read_head(store, &path_of(epoch)) {
            Ok(head) => {
                needed = Some(needed.map_or(head.log_offset, |needed: u64| needed.min(head.log_offset)))
            }
            Err(Failure::Unreadable(error)) => return Err(error),
            Err(Failure::Damaged(_) | Failure::Refused(_)) => {}
        }
    }
    Ok(needed.unwrap_or(0))
}

/// The epochs of the checkpoints that count, the newest first: those that a start may go back to.
///
/// Older files are no checkpoints any more: the log does not reach back to them. They are there for their parts, or have
/// come back: nothing syncs the directory after a removal, and a crash may undo it. What was set aside as damaged had a
/// place among those that count until another followed; an older one does not inherit it.
fn kept(names: &[String]) -> Vec<u64> {
    let mut epochs: Vec<u64> = names.iter().filter_map(|name| epoch_of(name)).collect();
    epochs.sort_unstable_by(|one, other| other.cmp(one));
    let set_aside = names.iter().filter_map(|name| name.strip_suffix(DAMAGED).and_then(epoch_of));
    let set_aside = set_aside.filter(|epoch| Some(epoch) > epochs.first()).count();
    // At least one: should there be more of them, the newest is the one that was loaded last.
    epochs.truncate(KEPT.saturating_sub(set_aside).max(1));
    epochs
}

/// Unfinished files, and damaged ones that two good checkpoints have followed.
fn is_garbage(name: &str, newest: u64) -> bool {
    let damaged = name.strip_suffix(DAMAGED).and_then(epoch_of);
    name.ends_with(UNFINISHED) || damaged.is_some_and(|epoch| epoch.saturating_add(KEPT as u64) <= newest)
}

/// A whole checkpoint with the state of its nodes, in order.
pub type Whole = (Checkpoint, Vec<Vec<u8>>);

/// Loads the newest whole checkpoint of the two that are kept, if there is one, and makes sure that it stays.
///
/// # Errors
/// [`State`](crate::Kind::State) when the newest is of another format, or when there are checkpoints but neither of the
/// newest two is whole: starting from nothing must be a person's decision. [`Io`](crate::Kind::Io) where the store
/// fails.
pub fn load(store: &mut dyn Store) -> Result<Option<(Whole, Report)>> {
    let Search { whole, report, damaged } = newest(store)?;
    let Some(whole) = whole else { return Ok(None) };
    // A process that died between rename and sync has left a name that a crash could take back.
    store.sync_dir(DIR)?;
    for path in &damaged {
        // Out of the way, so that it is not counted as one of the kept. Best effort.
        let _ = store.rename(path, &format!("{path}{DAMAGED}"));
    }
    Ok(Some((whole, report)))
}

/// The newest whole checkpoint, for those who only look: nothing is changed.
///
/// # Errors
/// As [`load`].
pub fn peek(store: &mut dyn Store) -> Result<Option<(Whole, Report)>> {
    let Search { whole, report, .. } = newest(store)?;
    Ok(whole.map(|whole| (whole, report)))
}

/// The newest whole checkpoint, and what was passed over on the way to it.
struct Search {
    whole: Option<Whole>,
    report: Report,
    /// The paths of what is damaged.
    damaged: Vec<String>,
}

fn newest(store: &mut dyn Store) -> Result<Search> {
    let names = store.list(DIR)?;
    let mut report = Report::default();
    let mut damaged: Vec<String> = Vec::new();
    for epoch in kept(&names) {
        let path = path_of(epoch);
        let outcome = read_checkpoint(store, &path).and_then(|checkpoint| {
            let state = checkpoint.manifest.nodes.iter().map(|node| read_state(store, node));
            let state = state.collect::<Result<Vec<_>, Failure>>()?;
            Ok((checkpoint, state))
        });
        match outcome {
            Ok(whole) if whole.0.head.epoch == epoch => {
                return Ok(Search { whole: Some(whole), report, damaged });
            }
            Ok(whole) => {
                report.passed_over.push(format!("{path} holds epoch {}", whole.0.head.epoch));
                damaged.push(path);
            }
            Err(Failure::Refused(error)) => return Err(error),
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
        return Ok(Search { whole: None, report, damaged });
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

/// Reads a piece of a file that must be there.
fn read_at(store: &mut dyn Store, path: &str, offset: u64, bytes: &mut [u8]) -> Result<bool, Failure> {
    let read = store.read(path, offset, bytes).map_err(Failure::Unreadable)?;
    Ok(read == bytes.len())
}

fn read_head(store: &mut dyn Store, path: &str) -> Result<Head, Failure> {
    let mut head = [0; HEAD_BYTES];
    let len = store.len(path).map_err(Failure::Unreadable)?;
    if !read_at(store, path, 0, &mut head)? {
        return damaged(format!("it ends after {len} bytes"));
    }
    Head::decode(&head, path)
}

fn read_checkpoint(store: &mut dyn Store, path: &str) -> Result<Checkpoint, Failure> {
    let head = read_head(store, path)?;
    let file_bytes = store.len(path).map_err(Failure::Unreadable)?;
    let mut foot = [0; FOOT_BYTES];
    let foot_start = file_bytes.saturating_sub(FOOT_BYTES as u64);
    let whole = read_at(store, path, foot_start, &mut foot)?;
    let mut wire = Wire(&foot);
    let fields = (wire.u64(), wire.u64(), wire.u32(), wire.array::<4>());
    let (Some(start), Some(length), Some(expected), Some(FOOT_MAGIC)) = fields else {
        return damaged("it has no end");
    };
    if !whole || start < HEAD_BYTES as u64 || start.checked_add(length) != Some(foot_start) {
        return damaged("its end is not where it should be");
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    if !read_at(store, path, start, &mut bytes)? || checksum(head.epoch, &bytes) != expected {
        return damaged("its manifest is not whole");
    }
    match postcard::from_bytes(&bytes) {
        Ok(manifest) => Ok(Checkpoint { head, manifest, file_bytes }),
        Err(error) => damaged(format!("its manifest cannot be read: {error}")),
    }
}

/// The state of a node, out of all files that it is in.
fn read_state(store: &mut dyn Store, node: &SavedNode) -> Result<Vec<u8>, Failure> {
    let places: Vec<Place> = node.places().copied().collect();
    for epoch in places.iter().map(|place| place.epoch).collect::<BTreeSet<u64>>() {
        let path = path_of(epoch);
        let found = match read_head(store, &path) {
            Ok(head) => head.epoch,
            // A file that is gone is as good as damaged: nobody will bring it back.
            Err(Failure::Unreadable(_)) if store.list(DIR).is_ok_and(|names| !contains(&names, epoch)) => {
                return damaged(format!("{path}, which it builds on, is not there"));
            }
            Err(Failure::Damaged(reason)) => {
                return damaged(format!("{path}, which it builds on, is damaged: {reason}"));
            }
            Err(failure) => return Err(failure),
        };
        if found != epoch {
            return damaged(format!("{path}, which it builds on, holds epoch {found}"));
        }
    }
    let mut state = Vec::new();
    let mut at = 0;
    while let Some(first) = places.get(at) {
        // Parts that follow each other are read at once.
        let mut end = first.offset;
        let run = places.iter().skip(at).take_while(|place| {
            let follows = place.epoch == first.epoch && place.offset == end;
            end = end.saturating_add(u64::from(place.bytes));
            follows
        });
        let run = run.count();
        let run = &places[at..at + run];
        read_run(store, &node.name, run, &mut state)?;
        at += run.len();
    }
    Ok(state)
}

fn contains(names: &[String], epoch: u64) -> bool {
    names.iter().any(|name| epoch_of(name) == Some(epoch))
}

/// Appends parts that follow each other in one file.
fn read_run(store: &mut dyn Store, node: &str, run: &[Place], state: &mut Vec<u8>) -> Result<(), Failure> {
    let Some(first) = run.first() else { return Ok(()) };
    let path = path_of(first.epoch);
    let length: u64 = run.iter().map(|place| u64::from(place.bytes)).sum();
    let len = store.len(&path).map_err(Failure::Unreadable)?;
    let start = state.len();
    if first.offset.saturating_add(length) > len || start as u64 + length > FILE_BYTES_MAX {
        return damaged(format!("{path} ends before the state of {node} does"));
    }
    state.resize(start + usize::try_from(length).unwrap_or(0), 0);
    let whole = read_at(store, &path, first.offset, &mut state[start..])?;
    let mut rest = &state[start..];
    for place in run {
        let (part, behind) = rest.split_at(place.bytes as usize);
        if !whole || !place.is(part) {
            return damaged(format!("the state of {node} in {path} is not what was written"));
        }
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;

    #[test]
    fn too_large_is_refused_in_words() {
        let mut store = Memory::new();
        store.create_dir(DIR).unwrap();
        let file = store.create("checkpoint/x").unwrap();
        let mut writing =
            Writing { store: &mut store, file, epoch: 1, buffer: Vec::new(), written: FILE_BYTES_MAX - 3 };
        writing.part(&[1; 3]).unwrap();
        assert!(writing.part(&[1]).unwrap_err().message.contains("reduce `max_keys`"));
    }
}
