//! The log: an append-only sequence of numbered records in segments, durable group by group. Touches files only
//! through `Store`.
//!
//! Appended records gather in memory; [`Log::sync`] writes them as one block and waits until it is durable. What that
//! gives, and how:
//!
//! - **Only the last block can be in doubt.** A block is written when the one before it is durable. So after a crash
//!   everything but the last block is known to be good, and an intact block behind a bad one proves that the bad one
//!   was good once: that is damage, told with its offsets, and not a torn end.
//! - **What is in doubt is written again, elsewhere.** After a failed write or sync nothing more goes to that file:
//!   the records that were not durable go to a new segment. Opening does the same with the last block it finds,
//!   because a process that died of a failed sync leaves bytes behind that can be read and are not on the disk.
//! - **The directory is the truth.** There is no ledger. Opening reads the heads of the segments and walks through the
//!   last one.
//! - **Everything has a limit**: records, blocks, segments and the whole. A full log refuses; nothing is overwritten.
//! - **What is not needed any more may stay** for a while, in a budget of its own (see [`Retain`](super::Retain)).

use super::block::{self, Packer, RECORD_HEADER_BYTES};
use super::cursor::Cursor;
use super::options::LogOptions;
use super::retention;
use super::segment::{HEAD_BYTES, Segment, SegmentId};
use super::{FileId, Store};
use crate::{Error, Result};

/// An open log. One process owns it (see [`Disk`](super::Disk)); any number of [`Cursor`]s read it.
pub struct Log {
    pub(super) store: Box<dyn Store>,
    pub(super) dir: String,
    pub(super) options: LogOptions,
    /// Segments with at least one durable block, ascending; `bytes` says how far each is durable.
    pub(super) segments: Vec<Segment>,
    pub(super) segments_bytes: u64,
    pub(super) removed_bytes: u64,
    /// Records before this offset are not needed any more; so many bytes are in segments that hold only such.
    pub(super) needed_from: u64,
    pub(super) retained_bytes: u64,
    /// What time it is, in seconds since 1970, as far as the log was told.
    pub(super) now_s: u32,
    /// The segment that takes the next block. It is the last of `segments` unless it is `fresh`.
    pub(super) writing: Option<Writing>,
    /// The first offset and generation that no file has yet, for the next segment that begins there.
    pub(super) next_id: SegmentId,
    /// Room for a block's header, and the records that are not yet durable.
    pub(super) pending: Vec<u8>,
    pub(super) pending_first: u64,
    pub(super) pending_count: u32,
    pub(super) packer: Option<Packer>,
    /// A segment whose last block was in doubt when the log was opened, and how much of it is not: cut when the block
    /// is durable elsewhere.
    pub(super) doubtful: Option<Segment>,
    /// Segments that others with the same first offset stand in for; removed at the same time.
    pub(super) superseded: Vec<SegmentId>,
    /// A segment that was only begun. It proves that all offsets before it are spent, so it stays until what is durable
    /// proves it too.
    pub(super) begun: Option<SegmentId>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Writing {
    file: FileId,
    segment: Segment,
    fresh: bool,
}

impl Log {
    /// The offset the next record gets.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.pending_first + u64::from(self.pending_count)
    }

    /// All records below this offset are durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.pending_first
    }

    /// The offset of the oldest record there is; [`next_offset`](Log::next_offset) when there is none.
    #[must_use]
    pub fn first_offset(&self) -> u64 {
        self.segments.first().map_or(self.pending_first, |segment| segment.id.base)
    }

    /// Bytes of the log: its files, and what waits for the next sync.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments_bytes + self.pending_bytes() as u64
    }

    /// Bytes of what is not needed any more and kept all the same.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes
    }

    /// Bytes of what is needed: that is what may not grow beyond [`LogOptions::bytes_max`].
    #[must_use]
    pub fn needed_bytes(&self) -> u64 {
        self.bytes() - self.retained_bytes
    }

    /// Tells the log what time it is, in µs since 1970: it goes into the heads of new segments, and old ones go by it.
    pub fn note_time(&mut self, wall_us: i64) {
        self.now_s = retention::seconds(wall_us);
    }

    /// What the log would have without the segments removed since it was opened: it only grows, by everything that
    /// is written, heads of blocks and segments and all.
    #[must_use]
    pub fn grown_bytes(&self) -> u64 {
        self.bytes() + self.removed_bytes
    }

    /// Bytes that wait for the next sync.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.len() - block::HEADER_BYTES
    }

    /// The length of the longest record the log takes, in bytes.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.options.block_bytes_max - block::HEADER_BYTES - HEAD_BYTES as usize - RECORD_HEADER_BYTES
    }

    fn payload_bytes_max(&self) -> usize {
        self.record_bytes_max() + RECORD_HEADER_BYTES
    }

    /// Appends a record and returns its offset. It is durable when [`sync`](Log::sync) has returned a larger one.
    ///
    /// # Errors
    /// See [`append_with`](Log::append_with).
    pub fn append(&mut self, record: &[u8]) -> Result<u64> {
        self.append_with(|out| {
            out.extend_from_slice(record);
            Ok(())
        })
    }

    /// Appends the record that `write` adds to the end of the buffer it is given: no copy on the way.
    ///
    /// When the record does not fit in the block that gathers in memory, that block is synced first.
    ///
    /// # Errors
    /// In each case the log is as it was before. [`Unavailable`](crate::Kind::Unavailable): the log is full; hold the
    /// sources back and try again when [`remove_before`](Log::remove_before) has made room.
    /// [`Data`](crate::Kind::Data): the record is longer than [`record_bytes_max`](Log::record_bytes_max).
    /// [`Io`](crate::Kind::Io): the sync failed. Besides these, whatever `write` returns.
    pub fn append_with(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<u64> {
        let start = self.pending.len();
        self.pending.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        let outcome = write(&mut self.pending).and_then(|()| self.admit(start));
        if outcome.is_err() {
            self.pending.truncate(start);
            // A record that was far too long shall not keep its memory.
            self.pending.shrink_to(self.options.block_bytes_max);
        }
        outcome
    }

    /// Counts the record that was written at `start` in, or says why it cannot be.
    fn admit(&mut self, start: usize) -> Result<u64> {
        let length = self.pending.len() - start - RECORD_HEADER_BYTES;
        if length > self.record_bytes_max() {
            return Err(Error::data(format!(
                "a record of {length} bytes is longer than the log in {} takes: {} bytes",
                self.dir,
                self.record_bytes_max()
            )));
        }
        // Room for the heads of a block and a segment too, so that what is taken in can be written.
        if self.needed_bytes() + HEAD_BYTES + block::HEADER_BYTES as u64 > self.options.bytes_max {
            return Err(Error::unavailable(format!(
                "the log in {} is full: {} of {} bytes are waiting to be delivered",
                self.dir,
                self.segments_bytes - self.retained_bytes,
                self.options.bytes_max
            )));
        }
        if let Some(place) = self.pending.get_mut(start..start + RECORD_HEADER_BYTES) {
            place.copy_from_slice(&(length as u32).to_le_bytes());
        }
        if self.pending_bytes() > self.payload_bytes_max() && self.pending_count > 0 {
            let record = self.pending.split_off(start);
            self.sync()?;
            self.pending.extend_from_slice(&record);
        }
        let offset = self.next_offset();
        self.pending_count += 1;
        Ok(offset)
    }

    /// Makes everything that was appended durable with one write and one sync, and returns the offset below which all
    /// records are durable. (A new segment costs a sync of the directory and a write for its head besides.)
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io). The records stay in memory and the next sync writes them to a new file; nothing is
    /// lost by trying again.
    pub fn sync(&mut self) -> Result<u64> {
        if self.pending_count == 0 {
            return Ok(self.pending_first);
        }
        // With no packed block the pending one is written as it is.
        let mut packed = None;
        if let (Some(packer), Some(payload)) = (&mut self.packer, self.pending.get(block::HEADER_BYTES..)) {
            packed = packer.pack(payload).map(std::mem::take);
        }
        let compressed = packed.is_some();
        let mut block = packed.unwrap_or_else(|| std::mem::take(&mut self.pending));
        let raw = if compressed { self.pending_bytes() } else { block.len() - block::HEADER_BYTES };
        let outcome = self.write(&mut block, raw, compressed);
        match &mut self.packer {
            Some(packer) if compressed => packer.give_back(block),
            _ => self.pending = block,
        }
        if let Err(error) = outcome {
            self.give_way();
            return Err(error);
        }
        self.pending_first += u64::from(self.pending_count);
        self.pending_count = 0;
        self.pending.truncate(block::HEADER_BYTES);
        self.cut_doubtful();
        let stands_for = |last: &Segment, begun: &SegmentId| last.id.base == begun.base && last.id > *begun;
        if self.segments.last().is_some_and(|last| self.begun.is_some_and(|begun| stands_for(last, &begun))) {
            self.superseded.extend(self.begun.take());
            self.cut_doubtful();
        }
        Ok(self.pending_first)
    }

    /// Writes a block of all pending records; on an error the segment is given up.
    fn write(&mut self, block: &mut [u8], raw: usize, compressed: bool) -> Result<()> {
        let bytes = block.len() as u64;
        let full = |writing: &Writing| {
            !writing.fresh && writing.segment.bytes + bytes > self.options.segment_bytes_max
        };
        if self.writing.as_ref().is_some_and(full) {
            self.finish_segment();
        }
        let writing = match self.writing {
            Some(writing) => writing,
            None => self.begin_segment()?,
        };
        let segment = writing.segment;
        let place = segment.id.place(segment.bytes);
        block::seal(block, place, self.pending_first, self.pending_count, raw, compressed);
        if let Err(error) = self.write_durably(writing, block) {
            self.abandon_segment(writing);
            return Err(error);
        }
        let grown = Segment { bytes: segment.bytes + bytes, ..segment };
        self.writing = Some(Writing { segment: grown, fresh: false, ..writing });
        match self.segments.last_mut() {
            Some(last) if !writing.fresh => *last = grown,
            _ => {
                self.segments.push(grown);
                self.segments_bytes += HEAD_BYTES;
                self.count_retained();
            }
        }
        self.segments_bytes += bytes;
        Ok(())
    }

    fn write_durably(&mut self, writing: Writing, block: &[u8]) -> Result<()> {
        self.store.append(writing.file, block)?;
        self.store.sync(writing.file)?;
        if writing.fresh {
            self.store.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<Writing> {
        if self.begun.is_some_and(|begun| begun.base < self.pending_first) {
            self.forget_begun()?;
        }
        if self.next_id.base != self.pending_first {
            self.next_id = SegmentId { base: self.pending_first, generation: 0 };
        }
        let mut id = self.next_id;
        if let Some(begun) = self.begun.filter(|begun| begun.base == id.base) {
            id.generation = id.generation.max(begun.generation.saturating_add(1));
        }
        // Never the same name twice, whatever becomes of this file.
        self.next_id.generation = id.generation.saturating_add(1);
        let file = self.store.create(&id.path(&self.dir))?;
        let writing =
            Writing { file, segment: Segment { id, bytes: HEAD_BYTES, begun_s: self.now_s }, fresh: true };
        if let Err(error) = self.store.append(file, &id.head(self.now_s)) {
            self.abandon_segment(writing);
            return Err(error);
        }
        self.writing = Some(writing);
        Ok(writing)
    }

    pub(super) fn finish_segment(&mut self) {
        if let Some(writing) = self.writing.take() {
            self.store.close(writing.file);
        }
    }

    /// Removes the segment that was only begun, durably: were it to come back behind a segment that goes on beyond its
    /// first offset, and before another, the records between would be out of sight.
    pub(super) fn forget_begun(&mut self) -> Result<()> {
        if let Some(begun) = self.begun {
            let path = begun.path(&self.dir);
            if self.store.len(&path).is_ok() {
                self.store.remove(&path)?;
            }
            self.store.sync_dir(&self.dir)?;
            self.begun = None;
        }
        Ok(())
    }

    /// Gives up a file after a failed write or sync. Cutting off what is in doubt only saves room (think of a full
    /// disk and a try every second); readers do not depend on it, so it may fail.
    fn abandon_segment(&mut self, writing: Writing) {
        self.writing = None;
        self.store.close(writing.file);
        let path = writing.segment.id.path(&self.dir);
        let _ = match writing.fresh {
            true => self.store.remove(&path),
            false => self.store.truncate(&path, writing.segment.bytes),
        };
    }

    /// Once the block that was in doubt is durable in a new segment, cuts it off the old one. Not before: until then
    /// any of the copies may be the only one on the disk. Best effort: readers end a segment where the next begins.
    fn cut_doubtful(&mut self) {
        for id in std::mem::take(&mut self.superseded) {
            let _ = self.store.remove(&id.path(&self.dir));
        }
        if let Some(old) = self.doubtful.take() {
            let path = old.id.path(&self.dir);
            let _ = match old.bytes > HEAD_BYTES {
                true => self.store.truncate(&path, old.bytes),
                false => self.store.remove(&path),
            };
        }
    }

    /// Says that records below `offset` are not needed any more. The segments that hold only such go as soon as
    /// [`LogOptions::retain`] lets them. The last segment stays, and with it the offset that comes next.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io); what could not be removed stays part of the log.
    pub fn remove_before(&mut self, offset: u64) -> Result<()> {
        self.needed_from = self.needed_from.max(offset);
        self.count_retained();
        let mut removed = false;
        while self.first_can_go()
            && self.options.retain.lets_go(self.retained_bytes, self.first_closed_s(), self.now_s)
        {
            self.remove_first()?;
            removed = true;
        }
        if removed {
            // Else a crash could bring some of them back and leave a gap between them.
            self.store.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// Whether the first segment may be removed: nothing in it is needed, and it is not the last.
    fn first_can_go(&self) -> bool {
        let is_doubtful =
            |doubtful: &Segment| Some(doubtful.id) == self.segments.first().map(|first| first.id);
        self.segments.len() > 1
            && self.segment_end(0) <= self.needed_from
            && !self.doubtful.as_ref().is_some_and(is_doubtful)
    }

    /// When the first segment was complete, or some time after that: those that are begun again at a start know no time.
    fn first_closed_s(&self) -> u32 {
        let mut begun = self.segments.iter().skip(1).map(|segment| segment.begun_s);
        begun.find(|begun_s| *begun_s > 0).unwrap_or(0)
    }

    fn remove_first(&mut self) -> Result<()> {
        let Some(Segment { id, bytes, .. }) = self.segments.first().copied() else { return Ok(()) };
        self.store.remove(&id.path(&self.dir))?;
        self.segments.remove(0);
        self.segments_bytes -= bytes;
        self.removed_bytes += bytes;
        self.retained_bytes -= bytes;
        Ok(())
    }

    /// After a write that failed: perhaps the disk is full, and what is only kept must not stand in the way of what is
    /// new. One segment a failure, because it may be another one. Best effort: the failure is told already.
    fn give_way(&mut self) {
        self.count_retained();
        if self.first_can_go() && self.remove_first().is_ok() {
            let _ = self.store.sync_dir(&self.dir);
        }
    }

    pub(super) fn count_retained(&mut self) {
        let ends = (0..self.segments.len().saturating_sub(1)).map(|index| self.segment_end(index));
        let count = ends.take_while(|end| *end <= self.needed_from).count();
        self.retained_bytes = self.segments.iter().take(count).map(|segment| segment.bytes).sum();
    }

    /// A cursor whose next record is the one at `from`, or the oldest there is.
    #[must_use]
    pub fn read(&self, from: u64) -> Cursor {
        Cursor::new(from)
    }

    pub(crate) fn store(&mut self) -> &mut dyn Store {
        self.store.as_mut()
    }

    pub(crate) fn dir(&self) -> &str {
        &self.dir
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Leaves out segments that somebody else has removed.
    pub(super) fn forget_first(&mut self, count: usize) {
        for segment in self.segments.drain(..count.min(self.segments.len())) {
            self.segments_bytes -= segment.bytes;
        }
    }

    /// The segment in which a durable record is to be looked for.
    pub(crate) fn segment_of(&self, offset: u64) -> usize {
        self.segments.partition_point(|segment| segment.id.base <= offset).saturating_sub(1)
    }

    /// The offset at which a segment ends.
    pub(crate) fn segment_end(&self, index: usize) -> u64 {
        self.segments.get(index + 1).map_or(self.pending_first, |next| next.id.base)
    }

    /// The offset of the first record that is not durable, and these records.
    pub(crate) fn unsynced(&self) -> (u64, &[u8]) {
        (self.pending_first, self.pending.get(block::HEADER_BYTES..).unwrap_or_default())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.finish_segment();
    }
}

#[cfg(test)]
mod tests {
    use super::super::cursor::Damage;
    use super::super::memory::{Faults, Memory, Operation};
    use super::super::{Damages, Disk, OpenReport, Retain};
    use super::*;
    use crate::Kind;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

    const DIR: &str = "log";
    const SMALL: LogOptions = LogOptions {
        segment_bytes_max: 2048,
        block_bytes_max: 1024,
        bytes_max: 64 << 10,
        compress: false,
        retain: Retain { time: std::time::Duration::ZERO, bytes_max: 0 },
        offset_min: 0,
        now_us: 0,
        needed_from: 0,
    };

    fn open(memory: &Memory) -> (Log, OpenReport) {
        Log::open(memory.share(), DIR, SMALL).unwrap()
    }

    /// The bytes of the record that is the `number`-th ever appended: their length varies, and they can be told apart.
    fn bytes_of(number: u64) -> Vec<u8> {
        let length = (number * 37 % 211) as usize;
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(8 + length, number as u8);
        bytes
    }

    fn read_all(log: &mut Log, from: u64) -> (Vec<(u64, Vec<u8>)>, Damages) {
        let mut cursor = log.read(from);
        let mut records = Vec::new();
        while let Some((offset, bytes)) = cursor.next(log).unwrap() {
            records.push((offset, bytes.to_vec()));
        }
        (records, cursor.damages().clone())
    }

    fn expected(range: std::ops::Range<u64>) -> Vec<(u64, Vec<u8>)> {
        range.map(|offset| (offset, bytes_of(offset))).collect()
    }

    /// Appends up to offset `to`, syncing after every third record.
    fn fill(log: &mut Log, to: u64) {
        for offset in log.next_offset()..to {
            assert_eq!(log.append(&bytes_of(offset)).unwrap(), offset);
            if offset % 3 == 2 {
                assert_eq!(log.sync().unwrap(), offset + 1);
            }
        }
        log.sync().unwrap();
    }

    #[test]
    fn records_come_back_from_any_offset_synced_or_not_after_reopening_in_memory_and_on_disk() {
        for compress in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let disk = Disk::open(dir.path()).unwrap();
            let memory = Memory::new();
            for store in [&memory as &dyn Store, &disk] {
                let options = LogOptions { compress, ..SMALL };
                let (mut log, report) = Log::open(store.share(), DIR, options).unwrap();
                assert_eq!(report, OpenReport::default());
                fill(&mut log, 50);
                log.append(&bytes_of(50)).unwrap();
                assert_eq!((log.durable(), log.next_offset(), log.first_offset()), (50, 51, 0));
                for from in 0..53 {
                    assert_eq!(read_all(&mut log, from), (expected(from..51), Damages::default()));
                }
                drop(log);
                let (mut log, report) = Log::open(store.share(), DIR, options).unwrap();
                assert!(report.segments > 1, "{report:?}");
                assert_eq!((log.durable(), report.torn_bytes, report.in_doubt), (50, 0, None));
                fill(&mut log, 60);
                assert_eq!(read_all(&mut log, 0), (expected(0..60), Damages::default()));
                let names = store.share().list(DIR).unwrap();
                let files: u64 =
                    names.iter().map(|name| store.share().len(&format!("{DIR}/{name}")).unwrap()).sum();
                assert_eq!(log.bytes(), files, "bytes() is what the files take");
            }
        }
    }

    #[test]
    fn a_group_is_one_write_and_one_sync() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        log.append(b"first").unwrap();
        log.sync().unwrap();
        let _ = memory.take_trace();
        log.append(b"a").unwrap();
        log.append(b"b").unwrap();
        log.sync().unwrap();
        log.sync().unwrap();
        let path = SegmentId { base: 0, generation: 0 }.path(DIR);
        let bytes = block::HEADER_BYTES + 2 * RECORD_HEADER_BYTES + 2;
        assert_eq!(
            memory.take_trace(),
            [Operation::Append { path: path.clone(), bytes }, Operation::Sync { path }]
        );
    }

    #[test]
    fn a_cursor_follows_while_the_log_is_written_and_cut() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        let mut cursor = log.read(0);
        for offset in 0..100 {
            assert_eq!(cursor.next(&mut log).unwrap(), None);
            log.append(&bytes_of(offset)).unwrap();
            if offset % 7 < 2 {
                log.sync().unwrap();
            }
            assert_eq!(cursor.next(&mut log).unwrap(), Some((offset, &bytes_of(offset)[..])));
            log.remove_before(cursor.offset()).unwrap();
            assert!(log.bytes() < 3 * SMALL.segment_bytes_max);
        }
        assert!(log.first_offset() > 80);
        // One that is far behind goes on with what there is.
        let first = log.first_offset();
        assert_eq!(read_all(&mut log, 3), (expected(first..100), Damages::default()));
    }

    #[test]
    fn limits_refuse_and_leave_the_log_as_it_was() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        let longest = vec![1; log.record_bytes_max()];
        assert_eq!(log.append(&longest).unwrap(), 0);
        let error = log.append(&vec![1; longest.len() + 1]).unwrap_err();
        assert_eq!(error.kind, Kind::Data, "{error}");
        assert_eq!(log.append_with(|_| Err(Error::data("no"))), Err(Error::data("no")));
        assert_eq!(log.append(b"").unwrap(), 1, "a full block was synced to make room");
        assert_eq!(log.durable(), 1);
        let full = loop {
            if let Err(error) = log.append(&longest) {
                break error;
            }
        };
        assert_eq!(full.kind, Kind::Unavailable);
        assert!(full.message.starts_with("the log in log is full: "), "{full}");
        assert!(log.bytes() <= SMALL.bytes_max);
        let next = log.next_offset();
        assert_eq!(read_all(&mut log, 0).0.len() as u64, next);
        log.sync().unwrap();
        log.remove_before(next).unwrap();
        assert_eq!(log.append(&longest).unwrap(), next, "removal made room");
    }

    #[test]
    fn options_that_contradict_themselves_are_refused() {
        for options in [
            LogOptions { block_bytes_max: 64, ..SMALL },
            LogOptions { block_bytes_max: usize::MAX, ..SMALL },
            LogOptions { segment_bytes_max: 1000, ..SMALL },
            LogOptions { bytes_max: 4096, ..SMALL },
            LogOptions { segment_bytes_max: u64::MAX, ..SMALL },
        ] {
            let error = Log::open(Box::new(Memory::new()), DIR, options).err().unwrap();
            assert_eq!(error.kind, Kind::Config, "{error}");
        }
    }

    /// A log of 12 records in four blocks of one segment, its path and its bytes.
    fn one_segment() -> (Memory, String, Vec<u8>) {
        let memory = Memory::new();
        let options = LogOptions { segment_bytes_max: 8192, ..SMALL };
        let (mut log, _) = Log::open(memory.share(), DIR, options).unwrap();
        fill(&mut log, 12);
        let path = memory.paths().remove(0);
        let bytes = memory.contents(&path).unwrap();
        (memory, path, bytes)
    }

    #[test]
    fn cut_anywhere_the_whole_blocks_before_the_cut_come_back() {
        let (_, path, bytes) = one_segment();
        for length in 0..bytes.len() {
            let memory = Memory::new();
            memory.plant(&path, bytes[..length].to_vec());
            let (mut log, _) = open(&memory);
            let (records, damages) = read_all(&mut log, 0);
            let count = records.len() as u64;
            assert!(count.is_multiple_of(3) && count < 12, "{count} of {length} bytes");
            assert_eq!(records, expected(0..count));
            assert_eq!(damages, Damages::default());
            fill(&mut log, count + 4);
            assert_eq!(read_all(&mut log, 0).0, expected(0..count + 4));
        }
    }

    #[test]
    fn a_flipped_bit_costs_its_block_and_is_told() {
        let (_, path, bytes) = one_segment();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let memory = Memory::new();
            memory.plant(&path, flipped);
            let (mut log, report) = open(&memory);
            let (records, damages) = read_all(&mut log, 0);
            for (offset, record) in &records {
                assert_eq!(*record, bytes_of(*offset), "byte {at}");
            }
            if at < HEAD_BYTES as usize {
                assert_eq!((records.len(), report.heads_damaged), (12, 1), "byte {at}");
                continue;
            }
            assert_eq!(records.len(), 9, "byte {at}");
            if log.next_offset() < 12 {
                assert!(report.torn_bytes > 0, "the last block cannot be told from a torn one");
                continue;
            }
            let from = (0..12).find(|offset| records.iter().all(|(read, _)| read != offset)).unwrap();
            assert_eq!((damages.stretches, damages.records), (1, 3));
            let told = &damages.first[0];
            assert_eq!((told.from, told.to, told.path.as_str()), (from, from + 3, path.as_str()));
            assert_eq!(report.damages.records, 3);
        }
    }

    #[test]
    fn damage_in_an_older_segment_shows_when_it_is_read() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        fill(&mut log, 60);
        drop(log);
        let paths = memory.paths();
        let end = SegmentId::parse(paths[1].trim_start_matches("log/")).unwrap().base;
        let head = SegmentId { base: 0, generation: 0 }.head(0);
        memory.plant(&paths[0], [&head[..], &[0x5a; 700]].concat());
        let (mut log, report) = open(&memory);
        assert_eq!(report.damages, Damages::default());
        let (records, damages) = read_all(&mut log, 1);
        assert_eq!(records, expected(end..60));
        let told = Damage { path: paths[0].clone(), position: HEAD_BYTES, from: 1, to: end };
        assert_eq!(damages, Damages { stretches: 1, records: end - 1, first: vec![told] });
    }

    #[test]
    fn a_segment_that_cannot_be_read_can_be_given_up() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        fill(&mut log, 60);
        let mut cursor = log.read(0);
        memory.set_faults(Faults { fail_reads: 2, ..Faults::default() });
        assert!(cursor.next(&mut log).is_err());
        assert!(cursor.next(&mut log).is_err());
        assert_eq!(cursor.next(&mut log).unwrap().unwrap().0, 0, "it stays where it is");
        let end = log.segment_end(0);
        assert!(cursor.skip_segment(&log));
        assert_eq!(cursor.damages().records, end - 1);
        assert_eq!(cursor.next(&mut log).unwrap().unwrap().0, end);
    }

    #[test]
    fn a_block_inside_a_record_is_not_taken_for_one() {
        let (_, path, bytes) = one_segment();
        let inner = &bytes[HEAD_BYTES as usize..];
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        log.append(&inner[..700.min(inner.len())]).unwrap();
        log.sync().unwrap();
        log.append(b"after").unwrap();
        log.sync().unwrap();
        drop(log);
        let mut outer = memory.contents(&path).unwrap();
        outer[HEAD_BYTES as usize] ^= 1;
        memory.plant(&path, outer);
        let (mut log, _) = open(&memory);
        let (records, damages) = read_all(&mut log, 0);
        assert_eq!(records, [(1, b"after".to_vec())]);
        assert_eq!(damages.records, 1);
    }

    #[test]
    fn a_newer_format_is_refused_and_nothing_is_touched() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        fill(&mut log, 60);
        drop(log);
        let id = SegmentId { base: 99, generation: 0 };
        memory.plant(&id.path(DIR), id.head_of_version(9, 0).to_vec());
        let before = memory.counters();
        let error = Log::open(memory.share(), DIR, SMALL).err().unwrap();
        assert_eq!(error.kind, Kind::State);
        let after = memory.counters();
        assert_eq!(
            super::super::memory::Counters { reads: before.reads, dir_syncs: before.dir_syncs, ..after },
            before
        );
    }

    #[test]
    fn no_offset_is_given_out_twice_when_the_disk_has_lost_the_end() {
        let (memory, ..) = one_segment();
        let options = LogOptions { offset_min: 40, ..SMALL };
        let (mut log, report) = Log::open(memory.share(), DIR, options).unwrap();
        assert_eq!(report.lost_at_end, 28);
        fill(&mut log, 50);
        drop(log);
        let (mut log, report) = open(&memory);
        assert_eq!(report.lost_at_end, 0);
        let (records, damages) = read_all(&mut log, 0);
        assert_eq!(records, [expected(0..12), expected(40..50)].concat());
        assert_eq!(damages.records, 28);
    }

    #[test]
    fn a_failed_sync_is_final_for_its_file_and_costs_nothing() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        fill(&mut log, 6);
        let _ = memory.take_trace();
        memory.set_faults(Faults { fail_sync_after: Some(0), ..Faults::default() });
        log.append(&bytes_of(6)).unwrap();
        assert_eq!(log.sync().unwrap_err().kind, Kind::Io);
        assert_eq!(log.durable(), 6);
        fill(&mut log, 9);
        let old = SegmentId { base: 0, generation: 0 }.path(DIR);
        let trace = memory.take_trace();
        let touched = |operation: &&Operation| match operation {
            Operation::Append { path, .. } | Operation::Sync { path } => *path == old,
            _ => false,
        };
        assert_eq!(trace.iter().filter(touched).count(), 2, "one write and the sync that failed: {trace:?}");
        memory.crash(3);
        let (mut log, _) = open(&memory);
        assert_eq!(read_all(&mut log, 0), (expected(0..9), Damages::default()));
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind_and_is_no_end() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        fill(&mut log, 20);
        let files = memory.paths().len();
        let used: u64 = log.bytes();
        memory.set_faults(Faults { disk_bytes_max: Some(used + 40), ..Faults::default() });
        log.append(&bytes_of(20)).unwrap();
        for _ in 0..50 {
            assert_eq!(log.sync().unwrap_err().kind, Kind::Io);
        }
        assert_eq!(memory.paths().len(), files);
        // A start meets the same full disk: everything can be read, and what is in doubt is said to be.
        drop(log);
        let (mut log, report) = open(&memory);
        assert_eq!(report.in_doubt.unwrap().kind, Kind::Io);
        assert_eq!(read_all(&mut log, 0), (expected(0..20), Damages::default()));
        memory.set_faults(Faults::default());
        assert_eq!(log.sync().unwrap(), 20);
        fill(&mut log, 30);
        assert_eq!(read_all(&mut log, 0), (expected(0..30), Damages::default()));
    }

    /// A log of at most 6 KiB of what is needed, which keeps what is not for 100 s in `bytes_max` bytes.
    fn retaining(memory: &Memory, bytes_max: u64, needed_from: u64) -> Log {
        let retain = Retain { time: std::time::Duration::from_secs(100), bytes_max };
        let options = LogOptions { bytes_max: 6 << 10, retain, needed_from, ..SMALL };
        Log::open(memory.share(), DIR, options).unwrap().0
    }

    #[test]
    fn what_is_not_needed_stays_for_its_time_and_in_its_bytes_and_takes_no_room_from_what_is() {
        let memory = Memory::new();
        let mut log = retaining(&memory, 20 << 10, 0);
        for second in 0..60 {
            log.note_time((1000 + second) * 1_000_000);
            let next = log.next_offset();
            fill(&mut log, next + 5);
            log.remove_before(log.next_offset()).unwrap();
            assert!(log.needed_bytes() <= 6 << 10 && log.retained_bytes() <= 20 << 10);
        }
        let (first, retained) = (log.first_offset(), log.retained_bytes());
        assert!(first > 0 && retained > 16 << 10, "from {first} on, {retained} bytes");
        assert_eq!(read_all(&mut log, 0).0, expected(first..300));
        // It is still there after a restart that knows what is needed; one that does not takes it for needed.
        drop(log);
        let mut log = retaining(&memory, 20 << 10, 300);
        assert_eq!(log.first_offset(), first);
        assert!(log.retained_bytes().abs_diff(retained) <= SMALL.segment_bytes_max);
        log.note_time(1_145_000_000);
        log.remove_before(0).unwrap();
        let older = log.first_offset();
        assert!(older > first && older < 300, "what is older than 100 s is gone: {older}");
        log.note_time(2_000_000_000);
        log.remove_before(0).unwrap();
        // The one that was begun at the start knows no time: what is before it stays until another is begun.
        assert!(log.retained_bytes() <= SMALL.segment_bytes_max);
        let next = log.next_offset();
        fill(&mut log, next + 20);
        log.note_time(3_000_000_000);
        log.remove_before(next).unwrap();
        assert!(log.first_offset() > first + 40 && log.retained_bytes() <= SMALL.segment_bytes_max);
        drop(log);
        let mut log = retaining(&memory, 20 << 10, 0);
        let end = log.next_offset();
        assert_eq!(read_all(&mut log, 0).0, expected(log.first_offset()..end));
    }

    #[test]
    fn on_a_full_disk_what_is_only_kept_gives_way() {
        let memory = Memory::new();
        let mut log = retaining(&memory, 1 << 20, 0);
        for _ in 0..20 {
            let next = log.next_offset();
            fill(&mut log, next + 5);
            log.remove_before(log.next_offset()).unwrap();
        }
        let bytes = log.bytes();
        memory.set_faults(Faults { disk_bytes_max: Some(bytes + 40), ..Faults::default() });
        log.append(&bytes_of(100)).unwrap();
        let failures = (0..5).take_while(|_| log.sync().is_err()).count();
        assert!(failures <= 2, "{failures} failures");
        assert_eq!(log.durable(), 101);
        let first = log.first_offset();
        assert!(first > 0 && first < 30, "no more than was in the way: {first}");
        assert_eq!(read_all(&mut log, 0).0, expected(first..101));
    }

    #[test]
    fn opening_again_and_again_grows_nothing() {
        let memory = Memory::new();
        let (mut log, _) = open(&memory);
        fill(&mut log, 20);
        let bytes = log.bytes();
        drop(log);
        let mut files = Vec::new();
        for _ in 0..20 {
            let (log, _) = open(&memory);
            assert!(log.bytes() <= bytes + HEAD_BYTES);
            files.push(memory.paths().len());
        }
        assert_eq!(files.first(), files.last());
    }

    /// What a process leaves behind that was killed while it wrote the last block again: a copy that can be read and
    /// is not on the disk.
    #[test]
    fn the_old_copy_stays_until_the_new_one_is_durable() {
        let before = Memory::new();
        let (mut log, _) = open(&before);
        (0..3).for_each(|offset| _ = log.append(&bytes_of(offset)).unwrap());
        log.sync().unwrap();
        drop(log);
        let old = before.paths().remove(0);
        let bytes = before.contents(&old).unwrap();
        drop(open(&before));
        let new = before.paths().remove(0);
        assert_ne!(old, new);
        let copy = before.contents(&new).unwrap();
        for (operations, seed) in (0..9).flat_map(|operations| (0..40).map(move |seed| (operations, seed))) {
            let mut memory = Memory::new();
            memory.plant(&old, bytes.clone());
            let file = memory.create(&new).unwrap();
            memory.append(file, &copy).unwrap();
            memory.set_faults(Faults { fail_after: Some(operations), ..Faults::default() });
            drop(Log::open(memory.share(), DIR, SMALL));
            memory.set_faults(Faults::default());
            memory.crash(seed);
            let (mut log, _) = open(&memory);
            assert_eq!(read_all(&mut log, 0).0, expected(0..3), "fault {operations}, seed {seed}");
        }
    }

    #[test]
    fn a_segment_that_was_only_begun_proves_that_the_offsets_before_it_are_spent() {
        let (memory, path, mut bytes) = one_segment();
        let at = bytes.len() - 5;
        bytes[at] ^= 1;
        memory.plant(&path, bytes);
        memory.plant(&SegmentId { base: 12, generation: 0 }.path(DIR), b"torn".to_vec());
        let (mut log, report) = open(&memory);
        assert_eq!((log.next_offset(), report.lost_at_end), (12, 3));
        fill(&mut log, 15);
        let (records, damages) = read_all(&mut log, 0);
        assert_eq!(records, [expected(0..9), expected(12..15)].concat());
        assert_eq!(damages.records, 3);
    }

    #[test]
    fn that_proof_stays_through_starts_that_die_until_something_durable_says_the_same() {
        // A segment that was only begun behind the last block, which is whole or has rotted.
        for rotten in [false, true] {
            let (memory, path, mut bytes) = one_segment();
            let last = bytes.len() - 3;
            bytes[last] ^= u8::from(rotten);
            memory.plant(&path, bytes);
            let begun = SegmentId { base: 12, generation: 0 };
            memory.plant(&begun.path(DIR), begun.head(0).to_vec());
            for operations in 0..24 {
                for seed in 0..8 {
                    let memory = memory.fork();
                    let full = Faults { disk_bytes_max: Some(memory.used_bytes()), ..Faults::default() };
                    memory.set_faults(match operations {
                        0 => full,
                        _ => Faults { fail_after: Some(operations / 2), ..Faults::default() },
                    });
                    // Some of these starts get far enough to append.
                    if let Ok((mut log, _)) = Log::open(memory.share(), DIR, SMALL) {
                        assert_eq!(log.next_offset(), 12);
                        if operations % 2 == 1 {
                            log.append(&bytes_of(12)).unwrap();
                            let _ = log.sync();
                        }
                    }
                    memory.set_faults(Faults::default());
                    if seed > 0 {
                        memory.crash(seed);
                    }
                    let (mut log, _) = open(&memory);
                    assert!(log.next_offset() >= 12, "rotten {rotten}, {operations} operations, seed {seed}");
                    // It stands in nobody's way: neither now, nor as a name, nor if it comes back.
                    fill(&mut log, 40);
                    drop(log);
                    memory.crash(seed);
                    let (mut log, _) = open(&memory);
                    let from = if rotten { 12 } else { 0 };
                    let (records, _) = read_all(&mut log, 0);
                    assert!(records.ends_with(&expected(from..40)), "rotten {rotten}: {records:?}");
                    let left = memory.contents(&begun.path(DIR));
                    assert!(left.is_none_or(|bytes| bytes.len() > HEAD_BYTES as usize));
                }
            }
        }
    }

    #[test]
    fn a_file_that_was_given_up_does_not_come_back_once_it_was_missing() {
        for seed in 0..40 {
            let memory = Memory::new();
            let (mut log, _) = open(&memory);
            log.append(b"written and synced, but not its name").unwrap();
            memory.set_faults(Faults { fail_after: Some(4), ..Faults::default() });
            log.sync().unwrap_err();
            drop(log);
            assert_eq!(open(&memory).0.next_offset(), 0);
            memory.crash(seed);
            assert_eq!(open(&memory).0.next_offset(), 0, "seed {seed}");
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Append(u8),
        Sync,
        Reopen,
        Crash(u64),
        RemoveBefore(u8),
        FailAfter(u8),
        FailSync(u8),
        DiskFull(u16),
        Repair,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1u8..5).prop_map(Step::Append),
            6 => Just(Step::Sync),
            2 => Just(Step::Reopen),
            2 => any::<u64>().prop_map(Step::Crash),
            1 => any::<u8>().prop_map(Step::RemoveBefore),
            1 => (0u8..10).prop_map(Step::FailAfter),
            1 => (0u8..3).prop_map(Step::FailSync),
            1 => (0u16..2000).prop_map(Step::DiskFull),
            1 => Just(Step::Repair),
        ]
    }

    /// What the log must hold: the number of each record's content, by offset.
    #[derive(Default)]
    struct Model {
        content: Vec<u64>,
        appended: u64,
        durable: u64,
        removed: u64,
        /// The log could not write its last block again: it no longer vouches for it, and must not lose it either.
        in_doubt: bool,
    }

    impl Model {
        /// Every durable record that was not removed is there once, in order, with its bytes; nothing is that was not
        /// appended; what is missing is missing at the end.
        fn check(&self, log: &mut Log) -> Result<(), String> {
            if log.durable() < self.durable && !self.in_doubt {
                return Err(format!("durable up to {} and then only to {}", self.durable, log.durable()));
            }
            let (records, damages) = read_all(log, self.removed);
            if damages != Damages::default() {
                return Err(format!("{damages:?}"));
            }
            let mut next = self.removed;
            for (offset, bytes) in &records {
                if *offset != next {
                    return Err(format!("offset {offset} in the place of {next}"));
                }
                let number = self.content.get(*offset as usize);
                if number.is_none_or(|number| *bytes != bytes_of(*number)) {
                    return Err(format!(
                        "offset {offset} holds {:?} and should hold {number:?}",
                        &bytes[..8]
                    ));
                }
                next += 1;
            }
            if next != log.next_offset() || next < self.durable {
                return Err(format!("ends at {next}, next {}, durable {}", log.next_offset(), self.durable));
            }
            Ok(())
        }

        fn after_opening(&mut self, log: &mut Log, report: &OpenReport) -> Result<(), String> {
            self.in_doubt = report.in_doubt.is_some();
            self.check(log)?;
            self.content.truncate(log.next_offset() as usize);
            self.synced_to(log.durable());
            Ok(())
        }

        fn synced_to(&mut self, durable: u64) {
            self.in_doubt &= durable < self.durable;
            self.durable = self.durable.max(durable);
        }
    }

    /// A store that does not do what it says, to prove that the law below notices.
    #[derive(Clone, Copy, PartialEq)]
    enum Lie {
        None,
        Sync,
        SyncDir,
    }

    struct Liar {
        store: Memory,
        lie: Lie,
    }

    impl Store for Liar {
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
            if self.lie == Lie::Sync { Ok(()) } else { self.store.sync(file) }
        }
        fn close(&mut self, file: FileId) {
            self.store.close(file);
        }
        fn sync_dir(&mut self, dir: &str) -> Result<()> {
            if self.lie == Lie::SyncDir { Ok(()) } else { self.store.sync_dir(dir) }
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
            Box::new(Liar { store: self.store.clone(), lie: self.lie })
        }
    }

    fn run(steps: &[Step], compress: bool, retain: Retain, lie: Lie) -> Result<(), String> {
        let memory = Memory::new();
        let store = Liar { store: memory.clone(), lie };
        let options = LogOptions { segment_bytes_max: 1200, block_bytes_max: 600, compress, retain, ..SMALL };
        // A start may fail as long as faults are injected; then they are gone and it must not.
        let start = || {
            Log::open(store.share(), DIR, options)
                .or_else(|_| {
                    memory.set_faults(Faults::default());
                    Log::open(store.share(), DIR, options)
                })
                .map_err(|error| format!("opening: {error}"))
        };
        let (mut log, _) = start()?;
        let mut model = Model::default();
        for step in steps {
            let faults = memory.faults();
            match step {
                Step::Append(count) => {
                    for _ in 0..*count {
                        if let Ok(offset) = log.append(&bytes_of(model.appended)) {
                            if offset != model.content.len() as u64 {
                                return Err(format!("offset {offset} for record {}", model.content.len()));
                            }
                            model.content.push(model.appended);
                        }
                        model.appended += 1;
                    }
                    // A full block was synced to make room.
                    model.synced_to(log.durable());
                }
                Step::Sync => {
                    let _ = log.sync();
                    model.synced_to(log.durable());
                }
                Step::Reopen | Step::Crash(_) => {
                    drop(log);
                    if let Step::Crash(seed) = step {
                        memory.crash(*seed);
                    }
                    let report;
                    (log, report) = start()?;
                    model.after_opening(&mut log, &report)?;
                }
                Step::RemoveBefore(part) => {
                    let offset = model.durable * u64::from(*part) / 255;
                    // Where it fails half-way, some are gone.
                    let _ = log.remove_before(offset);
                    model.removed = model.removed.max(offset);
                }
                Step::FailAfter(count) => {
                    memory.set_faults(Faults { fail_after: Some(u64::from(*count)), ..faults });
                }
                Step::FailSync(count) => {
                    memory.set_faults(Faults { fail_sync_after: Some(u64::from(*count)), ..faults });
                }
                Step::DiskFull(room) => {
                    let max = Some(log.bytes() + u64::from(*room));
                    memory.set_faults(Faults { disk_bytes_max: max, ..faults });
                }
                Step::Repair => memory.set_faults(Faults::default()),
            }
            model.check(&mut log)?;
        }
        Ok(())
    }

    /// The law over random scripts, with dice that fall the same every time.
    fn try_scripts(cases: u32, lie: Lie) -> Result<(), String> {
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let retain = (0u64..8).prop_map(|segments| Retain {
            time: std::time::Duration::from_secs(segments),
            bytes_max: segments * 1200,
        });
        let scripts = (prop::collection::vec(step(), 1..60), any::<bool>(), retain);
        runner
            .run(&scripts, |(steps, compress, retain)| {
                run(&steps, compress, retain, lie).map_err(TestCaseError::fail)
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_was_synced_survives_whatever_happens() {
        if let Err(error) = try_scripts(400, Lie::None) {
            panic!("{error}");
        }
    }

    #[test]
    fn a_store_that_does_not_sync_is_found_out() {
        assert!(try_scripts(200, Lie::Sync).is_err(), "files were not synced and nothing was lost");
        assert!(try_scripts(200, Lie::SyncDir).is_err(), "directories were not synced and nothing was lost");
    }
}
