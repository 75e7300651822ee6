//! A log for those who only look: what is in it, segment by segment and record by record, also while it is written.
//! Touches files only through `Store`, and changes none.

use super::cursor::{Cursor, Damages};
use super::log::Log;
use super::options::OpenReport;
use super::segment::HEAD_BYTES;
use super::{Store, block};
use crate::{Error, Result};

/// A log that is only read.
pub struct LogReader {
    log: Log,
    cursor: Cursor,
    report: OpenReport,
    gone: u64,
}

/// A segment as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its file in the log's directory.
    pub path: String,
    /// Offset of its first record.
    pub first: u64,
    /// The offset after its last record.
    pub end: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// When it was begun, in seconds since 1970; 0 where that is not known.
    pub begun_s: u32,
}

impl LogReader {
    /// Opens the log in a directory of the store, and makes, cuts and locks nothing.
    ///
    /// # Errors
    /// [`State`](crate::Kind::State) for another format, and where there is no log; [`Io`](crate::Kind::Io) where the
    /// store cannot read.
    pub fn open(mut store: Box<dyn Store>, dir: &str) -> Result<LogReader> {
        if store.list(dir)?.is_empty() {
            return Err(Error::state(format!("there is no log in {dir}")));
        }
        let (log, report) = Log::look(store, dir)?;
        let cursor = log.read(0);
        Ok(LogReader { log, cursor, report, gone: 0 })
    }

    /// What opening found.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// The segments, ascending.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments = self.log.segments().iter().enumerate();
        let info = |(index, segment): (usize, &super::segment::Segment)| SegmentInfo {
            path: segment.id.path(self.log.dir()),
            first: segment.id.base,
            end: self.log.segment_end(index),
            bytes: segment.bytes,
            begun_s: segment.begun_s,
        };
        segments.map(info).collect()
    }

    /// The offset of the oldest record there is.
    #[must_use]
    pub fn first_offset(&self) -> u64 {
        self.log.first_offset()
    }

    /// The offset after the last record.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.log.durable()
    }

    /// Goes on at an offset.
    pub fn seek(&mut self, offset: u64) {
        self.cursor = self.log.read(offset);
    }

    /// The next record and its offset; `None` at the end that the log had when it was opened.
    ///
    /// # Errors
    /// When the store cannot read.
    pub fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        loop {
            let ready = self.cursor.is_ready(&mut self.log);
            match ready {
                Ok(true) => return self.cursor.next(&mut self.log),
                Ok(false) => return Ok(None),
                // The writer has removed what it needs no more.
                Err(error) => {
                    if !self.forget_gone()? {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// What could not be read so far.
    #[must_use]
    pub fn damages(&self) -> &Damages {
        self.cursor.damages()
    }

    /// Segments that were removed while they were to be read.
    #[must_use]
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// Bytes of records as they were appended, and of the blocks that hold them, in one segment: what compression gains.
    ///
    /// # Errors
    /// When the store cannot read.
    pub fn sizes(&mut self, index: usize) -> Result<(u64, u64, u64)> {
        let (mut blocks, mut raw, mut stored) = (0, 0, HEAD_BYTES);
        let Some(segment) = self.log.segments().get(index).copied() else { return Ok((0, 0, 0)) };
        let path = segment.id.path(self.log.dir());
        let mut position = HEAD_BYTES;
        let mut bytes = [0; block::HEADER_BYTES];
        while position < segment.bytes {
            let read = self.log.store().read(&path, position, &mut bytes)?;
            let Some(header) = block::Header::parse(&bytes).filter(|_| read == bytes.len()) else { break };
            blocks += 1;
            raw += u64::from(header.raw);
            stored += header.bytes();
            position += header.bytes();
        }
        Ok((blocks, raw, stored))
    }

    /// Leaves out segments that are not there any more; false where all are.
    fn forget_gone(&mut self) -> Result<bool> {
        let dir = self.log.dir().to_owned();
        let names = self.log.store().list(&dir)?;
        let is_there = |path: &str| names.iter().any(|name| path.ends_with(name.as_str()));
        let gone = self.log.segments().iter().take_while(|segment| !is_there(&segment.id.path(&dir))).count();
        self.log.forget_first(gone);
        self.gone += gone as u64;
        Ok(gone > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogOptions, Memory, Retain};
    use super::*;

    const DIR: &str = "log";
    const SMALL: LogOptions = LogOptions {
        segment_bytes_max: 2048,
        block_bytes_max: 1024,
        bytes_max: 64 << 10,
        compress: true,
        retain: Retain { time: std::time::Duration::ZERO, bytes_max: 0 },
        offset_min: 0,
        needed_from: 0,
    };

    fn fill(log: &mut Log, to: u64) {
        for offset in log.next_offset()..to {
            log.append(&vec![offset as u8; 100 + offset as usize % 7]).unwrap();
            if offset % 3 == 2 {
                log.sync().unwrap();
            }
        }
        log.sync().unwrap();
    }

    fn offsets(reader: &mut LogReader) -> Vec<u64> {
        let mut offsets = Vec::new();
        while let Some((offset, bytes)) = reader.next().unwrap() {
            assert_eq!(bytes[0], offset as u8);
            offsets.push(offset);
        }
        offsets
    }

    #[test]
    fn a_reader_sees_what_is_there_and_changes_nothing_while_the_log_is_written() {
        let memory = Memory::new();
        let (mut log, _) = Log::open(memory.share(), DIR, SMALL).unwrap();
        fill(&mut log, 1000);
        log.append(b"not yet synced").unwrap();
        let before: Vec<_> = memory.paths().iter().map(|path| memory.contents(path)).collect();
        let mut reader = LogReader::open(memory.share(), DIR).unwrap();
        assert_eq!((reader.first_offset(), reader.end()), (0, 1000));
        assert_eq!(offsets(&mut reader), (0..1000).collect::<Vec<_>>());
        reader.seek(990);
        assert_eq!(offsets(&mut reader), (990..1000).collect::<Vec<_>>());
        assert_eq!(before, memory.paths().iter().map(|path| memory.contents(path)).collect::<Vec<_>>());
        let segments = reader.segments();
        assert_eq!(segments.len(), before.len());
        for (at, segment) in segments.iter().enumerate() {
            let (blocks, raw, stored) = reader.sizes(at).unwrap();
            assert!(
                blocks > 0 && raw > stored && stored == segment.bytes,
                "{segment:?} {blocks} {raw} {stored}"
            );
        }
        // What is removed under its eyes is passed over, and no damage.
        reader.seek(0);
        log.sync().unwrap();
        log.remove_before(900).unwrap();
        let seen = offsets(&mut reader);
        assert_eq!((seen.last(), reader.damages().records), (Some(&999), 0));
        assert!(reader.gone() > 0 && seen[0] > 800, "{} gone, from {}", reader.gone(), seen[0]);
    }

    #[test]
    fn damage_and_torn_ends_are_told_and_left_alone() {
        let memory = Memory::new();
        let (mut log, _) = Log::open(memory.share(), DIR, SMALL).unwrap();
        fill(&mut log, 300);
        drop(log);
        let paths = memory.paths();
        let mut first = memory.contents(&paths[0]).unwrap();
        first[100] ^= 1;
        memory.plant(&paths[0], first);
        let mut last = memory.contents(paths.last().unwrap()).unwrap();
        last.extend_from_slice(b"TGBK and then the power went");
        memory.plant(paths.last().unwrap(), last.clone());
        let mut reader = LogReader::open(memory.share(), DIR).unwrap();
        let seen = offsets(&mut reader);
        assert_eq!((reader.report().torn_bytes, seen.last()), (28, Some(&299)));
        let damages = reader.damages();
        assert_eq!((damages.stretches, damages.records), (1, 300 - seen.len() as u64));
        assert_eq!(memory.contents(paths.last().unwrap()).unwrap(), last);
        assert!(LogReader::open(memory.share(), "elsewhere").is_err());
    }
}
