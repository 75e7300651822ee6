//! One lane of a spool: a log of entries, how far they are settled, and where reading goes on. Touches files only through
//! `Store`.

use super::super::cursor::Cursor;
use super::super::log::Log;
use super::super::options::{LogOptions, OpenReport};
use super::super::wire::Wire;
use super::super::{Store, block};
use super::entry::{self, Entry, EntryHead};
use crate::Result;

/// Entries of one order.
pub(super) struct LaneLog {
    pub log: Log,
    /// Everything below is delivered, expired or dropped.
    settled: u64,
    cursor: Cursor,
    /// Damaged records that the cursor had met when they were last counted.
    damaged_seen: u64,
    /// Entries that could not be read.
    pub lost: u64,
    /// The entry appended last, of those that are still known.
    pub last: Option<EntryHead>,
    /// The oldest entry that is not settled, as far as it was looked up: sequence and head.
    oldest: Option<(u64, EntryHead)>,
}

impl LaneLog {
    /// Opens a lane of which everything below `settled` was settled.
    pub fn open(
        store: Box<dyn Store>,
        dir: &str,
        options: LogOptions,
        settled: u64,
    ) -> Result<(Self, OpenReport)> {
        let options = LogOptions { offset_min: settled, ..options };
        let (log, report) = Log::open(store, dir, options)?;
        let settled = settled.max(log.first_offset());
        let cursor = log.read(settled);
        let mut lane = Self {
            log,
            settled,
            cursor,
            damaged_seen: 0,
            lost: report.lost_at_end,
            last: None,
            oldest: None,
        };
        lane.find_last()?;
        Ok((lane, report))
    }

    /// The last entry: nearly always at the end of the log; behind lost ones, the last of the last segment.
    fn find_last(&mut self) -> Result<()> {
        let base = self.log.segments().last().map_or(0, |segment| segment.id.base);
        for from in [self.log.next_offset().saturating_sub(1), base] {
            let mut cursor = self.log.read(from);
            while let Some((_, bytes)) = cursor.next(&mut self.log)? {
                self.last = entry::decode_head(&mut Wire(bytes)).ok().or(self.last.take());
            }
            if self.last.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Everything below is settled.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Entries that are not settled.
    pub fn entries(&self) -> u64 {
        self.log.next_offset().saturating_sub(self.settled)
    }

    /// Whether everything appended is durable.
    pub fn is_synced(&self) -> bool {
        self.log.durable() == self.log.next_offset()
    }

    /// Rows appended since the spool was made.
    pub fn rows_end(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.rows_before + last.rows)
    }

    /// Rows that are not settled.
    pub fn rows(&mut self) -> Result<u64> {
        let end = self.rows_end();
        Ok(self.oldest()?.map_or(0, |oldest| end.saturating_sub(oldest.rows_before)))
    }

    /// The oldest entry that is not settled, without its rows.
    pub fn oldest(&mut self) -> Result<Option<&EntryHead>> {
        let known = self.oldest.as_ref().is_some_and(|(sequence, _)| *sequence >= self.settled);
        if !known {
            self.oldest = None;
            if self.entries() > 0 {
                self.oldest = self.first_from(self.settled)?;
            }
        }
        Ok(self.oldest.as_ref().map(|(_, head)| head))
    }

    fn first_from(&mut self, sequence: u64) -> Result<Option<(u64, EntryHead)>> {
        let mut cursor = self.log.read(sequence);
        while let Some((sequence, bytes)) = cursor.next(&mut self.log)? {
            if let Ok(head) = entry::decode_head(&mut Wire(bytes)) {
                return Ok(Some((sequence, head)));
            }
        }
        Ok(None)
    }

    /// The next entry that was not given out since the spool was opened, or rewound.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let read = self.cursor.next(&mut self.log)?;
            let decoded = read.map(|(sequence, bytes)| (sequence, entry::decode(bytes)));
            let damaged = self.cursor.damages().records;
            self.lost += damaged - std::mem::replace(&mut self.damaged_seen, damaged);
            match decoded {
                None => return Ok(None),
                Some((sequence, Ok((head, rows)))) if sequence >= self.settled => {
                    return Ok(Some(Entry { sequence, head, rows }));
                }
                // Dropped while it was not yet read.
                Some((_, Ok(_))) => {}
                // Its block is whole and it is not: no later try would read it.
                Some((_, Err(_))) => self.lost += 1,
            }
        }
    }

    /// Where `next` goes on.
    pub fn reading(&self) -> u64 {
        self.cursor.offset()
    }

    /// Whether `next` would give an entry, unless it is damaged.
    pub fn has_next(&self) -> bool {
        self.cursor.offset() < self.log.next_offset()
    }

    /// Gives out again what was given out and is not settled.
    pub fn rewind(&mut self) {
        self.cursor = self.log.read(self.settled);
        self.damaged_seen = 0;
    }

    /// Everything below `sequence` is settled: segments of such entries go.
    pub fn settle(&mut self, sequence: u64) -> Result<()> {
        self.settled = self.settled.max(sequence.min(self.log.next_offset()));
        self.log.remove_before(self.settled)
    }

    /// Drops the oldest segment, unless it is the last; the entries and rows that were lost with it.
    pub fn drop_segment(&mut self) -> Result<Option<(u64, u64)>> {
        if self.log.segments().len() < 2 {
            return Ok(None);
        }
        let end = self.log.segment_end(0);
        let entries = end.saturating_sub(self.settled);
        let first = self.oldest()?.map_or(0, |oldest| oldest.rows_before);
        let rows_end = self.rows_end();
        let behind = self.first_from(end)?.map_or(rows_end, |(_, head)| head.rows_before);
        self.settle(end)?;
        Ok(Some((entries, if entries > 0 { behind.saturating_sub(first) } else { 0 })))
    }

    /// Appends an entry.
    pub fn append(&mut self, head: EntryHead, bytes: &[u8]) -> Result<()> {
        self.log.append(bytes)?;
        self.last = Some(head);
        Ok(())
    }

    /// Bytes that a record of so many would add at most.
    pub fn bytes_with(&self, record: usize) -> u64 {
        let heads =
            super::super::segment::HEAD_BYTES + (block::HEADER_BYTES + block::RECORD_HEADER_BYTES) as u64;
        self.log.bytes() + record as u64 + 2 * heads
    }
}
