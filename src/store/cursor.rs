//! Reading the log from an offset on, past whatever is damaged. Touches files only through the log's `Store`.

use super::block;
use super::log::Log;
use super::segment::{BlockReader, HEAD_BYTES, Segment, SegmentId};
use crate::Result;

/// Damaged stretches that are told in full; more are only counted.
const DAMAGES_TOLD_MAX: usize = 16;

/// A stretch of the log that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's path.
    pub path: String,
    /// Where in it the first bad byte's block begins.
    pub position: u64,
    /// The first offset that is lost.
    pub from: u64,
    /// The offset after the last that is lost.
    pub to: u64,
}

/// What was found damaged: counted in full, told up to the sixteenth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damages {
    /// Damaged stretches.
    pub stretches: u64,
    /// Records lost in them.
    pub records: u64,
    /// The first stretches.
    pub first: Vec<Damage>,
}

impl Damages {
    pub(crate) fn add(&mut self, damage: Damage) {
        self.stretches += 1;
        self.records += damage.to - damage.from;
        if self.first.len() < DAMAGES_TOLD_MAX {
            self.first.push(damage);
        }
    }
}

/// A place in the log; see [`Log::read`]. It borrows nothing, so a log can be read and written in turn.
///
/// It reads everything that was appended, also what is not yet durable: compare with [`Log::durable`] where that
/// matters. Records that [`Log::remove_before`] has removed are passed over.
pub struct Cursor {
    next: u64,
    reader: BlockReader,
    /// The block in `reader`: offset of the record at `at`, and the offset after the block's last.
    at: usize,
    at_offset: u64,
    block_end: u64,
    /// Where the search for the next block goes on.
    segment: Option<SegmentId>,
    position: u64,
    /// The record given out last, where it came from memory.
    unsynced: Vec<u8>,
    /// Where the record at `next` starts among the unsynced ones that begin with this offset.
    pending: Option<(u64, usize)>,
    damages: Damages,
}

enum Found {
    Block,
    Unsynced,
    Nothing,
}

impl Cursor {
    pub(crate) fn new(from: u64) -> Cursor {
        Cursor {
            next: from,
            reader: BlockReader::default(),
            at: 0,
            at_offset: 0,
            block_end: 0,
            segment: None,
            position: HEAD_BYTES,
            unsynced: Vec::new(),
            pending: None,
            damages: Damages::default(),
        }
    }

    /// The offset that comes next, unless it is damaged or removed.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.next
    }

    /// What could not be read so far.
    #[must_use]
    pub fn damages(&self) -> &Damages {
        &self.damages
    }

    /// The next record and its offset, or `None` at the end of the log (for now: more may be appended).
    ///
    /// # Errors
    /// When the store cannot read. The cursor stays where it is; try again, or give the segment up with
    /// [`skip_segment`](Cursor::skip_segment).
    pub fn next(&mut self, log: &mut Log) -> Result<Option<(u64, &[u8])>> {
        match self.advance(log)? {
            Found::Nothing => Ok(None),
            Found::Unsynced => {
                let offset = self.next;
                self.next += 1;
                Ok(Some((offset, &self.unsynced)))
            }
            Found::Block => {
                let offset = self.at_offset;
                let (bytes, at) = self.record();
                let (start, end) = (at - bytes, at);
                self.at = at;
                self.at_offset += 1;
                self.next = self.at_offset;
                Ok(self.reader.payload.get(start..end).map(|record| (offset, record)))
            }
        }
    }

    /// Whether there is a next record: then [`next`](Cursor::next) gives it without reading.
    pub(super) fn is_ready(&mut self, log: &mut Log) -> Result<bool> {
        Ok(!matches!(self.advance(log)?, Found::Nothing))
    }

    /// Gives up what is left of the segment that cannot be read, as damaged; false at the last segment.
    pub fn skip_segment(&mut self, log: &Log) -> bool {
        let index = log.segment_of(self.next);
        let Some((id, end)) = log.segments().get(index).map(|segment| (segment.id, log.segment_end(index)))
        else {
            return false;
        };
        self.lose(log, id, self.position, end);
        end < log.next_offset()
    }

    /// Length of the record at `at` and where the next one starts. The block's framing was checked when it was read.
    fn record(&self) -> (usize, usize) {
        match block::record(&self.reader.payload, self.at) {
            Some((bytes, next)) => (bytes.len(), next),
            None => (0, self.at),
        }
    }

    fn lose(&mut self, log: &Log, id: SegmentId, position: u64, to: u64) {
        if to > self.next {
            self.damages.add(Damage { path: id.path(log.dir()), position, from: self.next, to });
            self.next = to;
        }
    }

    /// Makes the record at `next` ready: in `reader` at `at`, or in `unsynced`.
    fn advance(&mut self, log: &mut Log) -> Result<Found> {
        loop {
            if self.next < self.block_end && self.next >= self.at_offset {
                while self.at_offset < self.next {
                    self.at = self.record().1;
                    self.at_offset += 1;
                }
                return Ok(Found::Block);
            }
            if self.next >= log.durable() {
                return Ok(self.advance_unsynced(log));
            }
            self.next_block(log)?;
        }
    }

    fn advance_unsynced(&mut self, log: &Log) -> Found {
        let (first, payload) = log.unsynced();
        if self.next >= log.next_offset() {
            return Found::Nothing;
        }
        let mut at = 0;
        let mut offset = first;
        if let Some((known, start)) = self.pending
            && known == first
        {
            (at, offset) = (start, self.next);
        }
        while let Some((bytes, next)) = block::record(payload, at) {
            if offset == self.next {
                self.unsynced.clear();
                self.unsynced.extend_from_slice(bytes);
                self.pending = Some((first, next));
                return Found::Unsynced;
            }
            (at, offset) = (next, offset + 1);
        }
        Found::Nothing
    }

    /// Reads on by one block, or to the end of the segment where there is none.
    fn next_block(&mut self, log: &mut Log) -> Result<()> {
        self.block_end = 0;
        let index = log.segment_of(self.next);
        let Some(Segment { id, bytes: end, .. }) = log.segments().get(index).copied() else {
            // Nothing is on disk below `durable`: the log was told to begin there.
            self.next = log.durable();
            return Ok(());
        };
        // Below the first segment everything was removed.
        self.next = self.next.max(id.base);
        if self.segment != Some(id) {
            (self.segment, self.position) = (Some(id), HEAD_BYTES);
        }
        let (from, to) = (self.position, log.segment_end(index));
        let path = id.path(log.dir());
        let mut found = self.reader.load(log.store(), &path, id, from, end)?.map(|header| (from, header));
        if found.is_none() && from < end {
            found = self.reader.find(log.store(), &path, id, from + 1, end)?;
        }
        match found.filter(|(_, header)| header.first < to) {
            Some((position, header)) => {
                self.position = position + header.bytes();
                self.lose(log, id, from, header.first);
                (self.at, self.at_offset, self.block_end) = (0, header.first, header.end().min(to));
            }
            None => {
                self.position = end;
                self.lose(log, id, from, to);
            }
        }
        Ok(())
    }
}
