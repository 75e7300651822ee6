//! The head of a checkpoint's file, laid out alike in every format version, and what can be wrong with a file. Pure.

use super::wire::Wire;
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"tidechk\n";
/// Version 2 has parts and deltas. Any change of what an operator writes is another version, too.
const VERSION: u16 = 2;
pub(super) const HEAD_BYTES: usize = 64;

/// What is said at the head of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// The epoch the cut ended.
    pub epoch: u64,
    /// The offset of the first log record that is not in the state.
    pub log_offset: u64,
    /// Monotonic time at the commit, in µs. It continues across restarts.
    pub mono_us: u64,
    /// Wall-clock time at the commit, in µs since 1970.
    pub wall_us: i64,
    /// The epoch of the base it builds on; its own if it is one.
    pub base_epoch: u64,
}

/// Why a checkpoint cannot be used.
#[derive(Debug)]
pub(super) enum Failure {
    /// Of a format this program does not read.
    Refused(Error),
    /// Not what was written.
    Damaged(String),
    /// The store could not read it.
    Unreadable(Error),
}

pub(super) fn damaged<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Damaged(reason.into()))
}

impl Head {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..10].copy_from_slice(&VERSION.to_le_bytes());
        head[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        head[24..32].copy_from_slice(&self.log_offset.to_le_bytes());
        head[32..40].copy_from_slice(&self.mono_us.to_le_bytes());
        head[40..48].copy_from_slice(&self.wall_us.to_le_bytes());
        head[48..56].copy_from_slice(&self.base_epoch.to_le_bytes());
        let crc = crc32fast::hash(&head[..60]);
        head[60..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    pub(super) fn decode(head: &[u8; HEAD_BYTES], path: &str) -> Result<Head, Failure> {
        let (covered, crc) = head.split_at(HEAD_BYTES - 4);
        if Wire(crc).u32() != Some(crc32fast::hash(covered)) {
            return damaged("the checksum of its head is wrong");
        }
        let mut wire = Wire(covered);
        let magic: Option<[u8; 8]> = wire.array();
        let (version, _reserved) = (wire.u16(), wire.take(6));
        if magic != Some(MAGIC) {
            return damaged("it is not a checkpoint");
        }
        if let Some(version) = version.filter(|version| *version != VERSION) {
            return Err(Failure::Refused(Error::state(format!(
                "{path} has format version {version} and this program reads {VERSION}: run the version that wrote it, \
                 or move the directory away to start without its state"
            ))));
        }
        let fields = (wire.u64(), wire.u64(), wire.u64(), wire.u64(), wire.u64());
        let (Some(epoch), Some(log_offset), Some(mono_us), Some(wall_us), Some(base_epoch)) = fields else {
            return damaged("its head is too short");
        };
        Ok(Head { epoch, log_offset, mono_us, wall_us: wall_us as i64, base_epoch })
    }
}
