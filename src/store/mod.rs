//! Durable storage behind one small trait: the log, the checkpoints, and the two places they can live.
//!
//! ```text
//! log, checkpoint      what the engine keeps: order of bytes, checksums, what survives what
//!        │
//!      Store           named files with explicit durability
//!      ┌─┴──┐
//!    disk  memory      the file system; its simulated twin that loses and tears whatever was not synced
//! ```
//!
//! Everything above [`Store`] runs unchanged on both, so the code that is tested against crashes is the code that
//! runs. Only `disk` touches the world. `dead_letters` are a log of what could not be delivered or used. `record` gives bytes to what the engine is fed; `journal` and `recovery` take the
//! engine's records to the log and its epochs to checkpoints, and back.

mod block;
mod chain;
pub mod checkpoint;
mod cursor;
pub mod dead_letters;
pub mod disk;
mod head;
pub mod journal;
pub mod log;
pub mod look;
pub mod manifest;
pub mod memory;
#[cfg(test)]
mod mutations;
mod opening;
mod options;
mod payloads;
mod planes;
pub mod record;
pub mod recovery;
mod retention;
mod segment;
pub mod show;
pub mod spool;
mod wire;

pub use checkpoint::Checkpoint;
pub use cursor::{Cursor, Damage, Damages};
pub use dead_letters::{DeadLetters, Letter, LetterBody, LetterKind};
pub use disk::Disk;
pub use log::Log;
pub use look::LogReader;
pub use memory::Memory;
pub use options::{LogOptions, OpenReport};
pub use record::{LogRecord, RecordKind, Stamp};
pub use retention::Retain;
pub use spool::Spool;

use crate::Result;

/// An open file that can only grow, given out by [`Store::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(crate) u64);

/// A root directory of named files, with durability said out loud.
///
/// Paths are relative to the root, parts joined by `/`, without `.` and `..`. Nothing is durable until a sync says
/// so: the *bytes* of a file after [`sync`](Store::sync) of that file, the *name* of a file (created, renamed or
/// removed) after [`sync_dir`](Store::sync_dir) of its directory. Whoever has not called them must be ready to find
/// after a crash any prefix of the bytes, sectors of zeros among them, and any subset of the names.
///
/// After a failed [`append`](Store::append) or [`sync`](Store::sync) what the file holds beyond its last successful
/// sync is unknown, and a later successful sync proves nothing (Rebello et al., "Can Applications Recover from fsync
/// Failures?", USENIX ATC 2020): write those bytes to another file.
///
/// Every error is of kind [`Io`](crate::Kind::Io) and says what was being done to which path.
pub trait Store: Send {
    /// Makes a directory and those above it, durably. One that is there already is fine.
    fn create_dir(&mut self, dir: &str) -> Result<()>;

    /// The names of the files directly in a directory, ascending. A directory that does not exist has none.
    fn list(&mut self, dir: &str) -> Result<Vec<String>>;

    /// Creates an empty file to append to; an error if the name is taken. Its name is durable after `sync_dir`.
    fn create(&mut self, path: &str) -> Result<FileId>;

    /// Appends all bytes in one write. After an error any prefix of them may be in the file.
    fn append(&mut self, file: FileId, bytes: &[u8]) -> Result<()>;

    /// Makes everything appended so far durable (`fdatasync`).
    fn sync(&mut self, file: FileId) -> Result<()>;

    /// Closes the file; without a sync this makes nothing durable.
    fn close(&mut self, file: FileId);

    /// Makes the names in a directory durable (`fsync` of the directory; `""` is the root).
    fn sync_dir(&mut self, dir: &str) -> Result<()>;

    /// Fills `buffer` from `offset` on; returns how many bytes there were, fewer than asked only at the file's end.
    fn read(&mut self, path: &str, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Length of a file in bytes.
    fn len(&mut self, path: &str) -> Result<u64>;

    /// Cuts a file that nobody appends to any more down to `len` bytes, durably.
    fn truncate(&mut self, path: &str, len: u64) -> Result<()>;

    /// Renames a file inside one directory, replacing what bore the new name: after a crash it is the old or the new.
    fn rename(&mut self, from: &str, to: &str) -> Result<()>;

    /// Removes a file. The removal is durable after `sync_dir`.
    fn remove(&mut self, path: &str) -> Result<()>;

    /// Another handle on the same root, so that the log, the checkpoints and the spools of one pipeline share it.
    fn share(&self) -> Box<dyn Store>;
}

/// The directory part of a path: `""` for a file in the root.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
