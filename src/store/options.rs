//! What a log is told when it is opened, and what it tells then. Pure.

use super::block::{HEADER_BYTES, RECORD_HEADER_BYTES};
use super::cursor::Damages;
use super::retention::Retain;
use super::segment::HEAD_BYTES;
use crate::{Error, Result};

/// How large a log and its parts may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes of a segment: what is removed at a time. From one block's up.
    pub segment_bytes_max: u64,
    /// Bytes of a block before compression: what one sync writes, what gathers in memory at most, and so the limit of
    /// a record. At most 32 MiB.
    pub block_bytes_max: usize,
    /// Bytes of what is needed, whole segments: a log with more refuses. At least two segments and a block, so that
    /// removal always makes room.
    pub bytes_max: u64,
    /// What is kept beyond that when it is not needed any more.
    pub retain: Retain,
    /// Whether to compress blocks with zstd, at a fast level.
    pub compress: bool,
    /// The next record's offset is at least this. Pass the log offset of the newest checkpoint: should the disk have
    /// lost the end of the log, no offset is given out twice.
    pub offset_min: u64,
    /// Records before this offset are not needed any more, as [`Log::remove_before`](super::Log::remove_before) was told.
    pub needed_from: u64,
}

impl Default for LogOptions {
    /// 256 MiB in segments of 8 MiB and blocks of up to 4 MiB, compressed.
    fn default() -> Self {
        Self {
            segment_bytes_max: 8 << 20,
            block_bytes_max: 4 << 20,
            bytes_max: 256 << 20,
            compress: true,
            retain: Retain::default(),
            offset_min: 0,
            needed_from: 0,
        }
    }
}

impl LogOptions {
    /// Refuses what contradicts itself.
    pub(crate) fn check(&self) -> Result<()> {
        let overhead = (HEADER_BYTES + RECORD_HEADER_BYTES) as u64 + HEAD_BYTES;
        let block = self.block_bytes_max as u64;
        let wrong = if block <= overhead || block > 32 << 20 {
            format!("block_bytes_max = {block} must lie between {} and {}", overhead + 1, 32 << 20)
        } else if self.segment_bytes_max < block {
            format!("segment_bytes_max = {} must hold a block of {block}", self.segment_bytes_max)
        } else if self.bytes_max / 2 < self.segment_bytes_max
            || self.bytes_max - 2 * self.segment_bytes_max < block
        {
            let least = self.segment_bytes_max.saturating_mul(2).saturating_add(block);
            format!("bytes_max = {} must hold two segments and a block: at least {least}", self.bytes_max)
        } else {
            return Ok(());
        };
        Err(Error::config(format!("log: {wrong}")))
    }
}

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Segments that hold records.
    pub segments: usize,
    /// Bytes of unfinished writes that were cut off.
    pub torn_bytes: u64,
    /// Segments whose head is damaged; their blocks are read all the same.
    pub heads_damaged: u64,
    /// Damage in the last segment. Damage in the others shows when they are read: see [`Cursor::damages`](super::Cursor::damages).
    pub damages: Damages,
    /// Offsets between the end that was found and [`LogOptions::offset_min`]: records the disk has lost.
    pub lost_at_end: u64,
    /// Why the last block could not be written again. Its records can be read but are not durable until a
    /// [`Log::sync`](super::Log::sync) succeeds.
    pub in_doubt: Option<Error>,
}
