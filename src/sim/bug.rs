//! Mistakes to be made on purpose, so that the world's own sight is tested. Pure.
//!
//! Those in the order of things are made where the process takes its steps; those of whoever talks to the disk are
//! made in [`Mistaken`], a store between the production code and the simulated disk.

use crate::Result;
use crate::store::{FileId, Memory, Store};

/// A mistake to be made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Sources acknowledge what is appended and not yet synced.
    AcknowledgeBeforeSync,
    /// At a cut the state is saved first, and then the change is made.
    SnapshotBeforeChange,
    /// A sink says that it has flushed and has not.
    CommitWithoutFlush,
    /// The file is not cut to the committed position when it is opened again.
    TruncationIgnored,
    /// A replay begins one record late.
    ReplayFromWrongOffset,
    /// The engine gets records before they are synced.
    EffectsBeforeSync,
    /// After a restart the epochs that the log holds behind the checkpoint are forgotten.
    ForgetUnflushedEpochs,
    /// The first rows do not wait for a first checkpoint.
    RowsBeforeFirstCheckpoint,
    /// A sync that has failed is tried again on the same file, and the second answer is believed.
    SyncRetried,
    /// A torn or doubtful end of the log is cut off with a byte of the block before it.
    LogCutTooShort,
    /// The log is removed up to the newest checkpoint, although the one before it may be needed.
    LogRemovedTooFar,
    /// A log that has lost its end goes on where it ends, not where the checkpoint says that it was.
    OffsetsGivenTwice,
    /// A graph that is started on another's checkpoint loads state that means something else there.
    StateOfAnotherMeaning,
}

impl Bug {
    /// Every mistake there is.
    pub const ALL: [Self; 13] = [
        Self::AcknowledgeBeforeSync,
        Self::SnapshotBeforeChange,
        Self::CommitWithoutFlush,
        Self::TruncationIgnored,
        Self::ReplayFromWrongOffset,
        Self::EffectsBeforeSync,
        Self::ForgetUnflushedEpochs,
        Self::RowsBeforeFirstCheckpoint,
        Self::SyncRetried,
        Self::LogCutTooShort,
        Self::LogRemovedTooFar,
        Self::OffsetsGivenTwice,
        Self::StateOfAnotherMeaning,
    ];
}

/// The disk through the hands of someone who makes a mistake.
pub(super) struct Mistaken {
    disk: Box<dyn Store>,
    bug: Option<Bug>,
}

impl Mistaken {
    /// A handle on the disk.
    pub fn on(memory: &Memory, bug: Option<Bug>) -> Box<dyn Store> {
        Box::new(Self { disk: memory.share(), bug })
    }
}

impl Store for Mistaken {
    fn create_dir(&mut self, dir: &str) -> Result<()> {
        self.disk.create_dir(dir)
    }

    fn list(&mut self, dir: &str) -> Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&mut self, path: &str) -> Result<FileId> {
        self.disk.create(path)
    }

    fn append(&mut self, file: FileId, bytes: &[u8]) -> Result<()> {
        self.disk.append(file, bytes)
    }

    fn sync(&mut self, file: FileId) -> Result<()> {
        match self.disk.sync(file) {
            Err(_) if self.bug == Some(Bug::SyncRetried) => self.disk.sync(file),
            outcome => outcome,
        }
    }

    fn close(&mut self, file: FileId) {
        self.disk.close(file);
    }

    fn sync_dir(&mut self, dir: &str) -> Result<()> {
        self.disk.sync_dir(dir)
    }

    fn read(&mut self, path: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.disk.read(path, offset, buffer)
    }

    fn len(&mut self, path: &str) -> Result<u64> {
        self.disk.len(path)
    }

    fn truncate(&mut self, path: &str, len: u64) -> Result<()> {
        let too_short = u64::from(self.bug == Some(Bug::LogCutTooShort));
        self.disk.truncate(path, len.saturating_sub(too_short))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        self.disk.remove(path)
    }

    fn share(&self) -> Box<dyn Store> {
        Box::new(Self { disk: self.disk.share(), bug: self.bug })
    }
}
