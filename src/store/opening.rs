//! Opening a log: what its directory says, the last block written again, and a view for those who only look. Touches
//! files only through `Store`.

use super::Store;
use super::block::{self, Packer};
use super::cursor::Damage;
use super::log::Log;
use super::options::{LogOptions, OpenReport};
use super::retention;
use super::segment::{BlockReader, HEAD_BYTES, Segment, SegmentId};
use crate::Result;

impl Log {
    /// Opens the log in a directory of the store, making it where there is none.
    ///
    /// # Errors
    /// [`Config`](crate::Kind::Config) for options that contradict themselves, [`State`](crate::Kind::State) for
    /// segments of a newer format, [`Io`](crate::Kind::Io) where the store fails.
    pub fn open(store: Box<dyn Store>, dir: &str, options: LogOptions) -> Result<(Log, OpenReport)> {
        options.check()?;
        let mut log = Log::empty(store, dir, options)?;
        let mut report = OpenReport::default();
        log.store.create_dir(dir)?;
        // What is seen now shall be what is there after a crash: a file that was given up and removed stays gone.
        log.store.sync_dir(dir)?;
        log.find_segments(&mut report)?;
        if log.pending_count > 0 {
            report.in_doubt = log.sync().err();
        }
        if log.pending_count == 0 && log.begun.is_some_and(|begun| begun.base <= log.pending_first) {
            log.forget_begun()?;
        }
        log.skip_to(log.options.offset_min, &mut report)?;
        log.count_retained();
        report.segments = log.segments.len();
        Ok((log, report))
    }

    /// Of no segments yet.
    fn empty(store: Box<dyn Store>, dir: &str, options: LogOptions) -> Result<Log> {
        Ok(Log {
            store,
            dir: dir.to_owned(),
            options,
            segments: Vec::new(),
            segments_bytes: 0,
            removed_bytes: 0,
            needed_from: options.needed_from,
            retained_bytes: 0,
            now_s: retention::seconds(options.now_us),
            writing: None,
            next_id: SegmentId { base: 0, generation: 0 },
            pending: vec![0; block::HEADER_BYTES],
            pending_first: 0,
            pending_count: 0,
            packer: options.compress.then(Packer::new).transpose()?,
            doubtful: None,
            superseded: Vec::new(),
            begun: None,
        })
    }

    /// Opens a log for those who only look, also while another process writes it: nothing is changed, made or held. What
    /// is there at this moment is seen; whether its last block is durable is not known.
    ///
    /// # Errors
    /// As [`open`](Log::open).
    pub(super) fn look(store: Box<dyn Store>, dir: &str) -> Result<(Log, OpenReport)> {
        let mut log = Log::empty(store, dir, LogOptions { compress: false, ..LogOptions::default() })?;
        let mut report = OpenReport::default();
        let mut found: Vec<Segment> = Vec::new();
        for name in log.store.list(dir)? {
            let Some(id) = SegmentId::parse(&name) else { continue };
            let head = id.check_head(log.store.as_mut(), dir)?;
            report.heads_damaged += u64::from(head.is_none());
            let bytes = log.store.len(&id.path(dir))?;
            // Names ascend, and of two with the same first offset the later holds.
            found.pop_if(|last| last.id.base == id.base);
            found.push(Segment { id, bytes, begun_s: head.unwrap_or(0) });
        }
        while let Some(last) = found.pop() {
            if log.take_tail(last.id, Some(last.begun_s), &mut report)? {
                let end = last.bytes - report.torn_bytes;
                found.push(Segment { bytes: end.min(last.bytes), ..last });
                log.pending_first += u64::from(log.pending_count);
                break;
            }
            log.pending_first = log.pending_first.max(last.id.base);
        }
        log.doubtful = None;
        log.pending_count = 0;
        log.pending.truncate(block::HEADER_BYTES);
        found.into_iter().for_each(|segment| log.keep(segment));
        report.segments = log.segments.len();
        Ok((log, report))
    }

    fn find_segments(&mut self, report: &mut OpenReport) -> Result<()> {
        let mut found = Vec::new();
        for name in self.store.list(&self.dir)? {
            if let Some(id) = SegmentId::parse(&name) {
                // All heads before anything is changed: a newer format is refused, not half taken apart.
                found.push((id, id.check_head(self.store.as_mut(), &self.dir)?));
            }
        }
        found.sort_unstable();
        let mut kept = found.clone();
        while let Some((id, head)) = kept.pop() {
            if self.take_tail(id, head, report)? {
                report.heads_damaged += u64::from(head.is_none());
                break;
            }
            // Not one block in it was ever durable, so it counts for nothing: the segment before would end where it
            // begins. But that it was begun proves that all records before it were durable, so their offsets are spent,
            // and should their last block be damaged, nothing else does. Of several the last says it all.
            let path = id.path(&self.dir);
            report.torn_bytes += self.store.len(&path)?;
            match self.begun {
                None => self.begun = Some(id),
                Some(_) => self.store.remove(&path)?,
            }
            self.options.offset_min = self.options.offset_min.max(id.base);
        }
        for (at, (id, head)) in kept.iter().enumerate() {
            let successor =
                kept.get(at + 1).map(|(next, _)| *next).or(self.doubtful.map(|segment| segment.id));
            if successor.is_some_and(|next| next.base == id.base) {
                self.superseded.push(*id);
                continue;
            }
            report.heads_damaged += u64::from(head.is_none());
            let bytes = self.store.len(&id.path(&self.dir))?;
            self.keep(Segment { id: *id, bytes, begun_s: head.unwrap_or(0) });
        }
        if let Some(doubtful) = self.doubtful.filter(|segment| segment.bytes > HEAD_BYTES) {
            self.keep(doubtful);
        }
        let same = found.iter().filter(|(id, _)| id.base == self.pending_first);
        let generation = same.map(|(id, _)| id.generation.saturating_add(1)).max().unwrap_or(0);
        self.next_id = SegmentId { base: self.pending_first, generation };
        Ok(())
    }

    fn keep(&mut self, segment: Segment) {
        self.segments_bytes += segment.bytes;
        self.segments.push(segment);
    }

    /// Walks through the last segment and takes its last block back into memory; false where it has none.
    fn take_tail(&mut self, id: SegmentId, head: Option<u32>, report: &mut OpenReport) -> Result<bool> {
        let path = id.path(&self.dir);
        let len = self.store.len(&path)?;
        let mut reader = BlockReader::default();
        let (mut position, mut next) = (HEAD_BYTES, id.base);
        let mut last = None;
        while position < len {
            let store = self.store.as_mut();
            let found = match reader.load(store, &path, id, position, len)? {
                Some(header) => Some((position, header)),
                None => reader.find(store, &path, id, position + 1, len)?,
            };
            let Some((at, header)) = found else { break };
            if header.first > next {
                let damage = Damage { path: path.clone(), position, from: next, to: header.first };
                report.damages.add(damage);
            }
            (position, next) = (at + header.bytes(), header.end());
            last = Some((at, header));
            self.pending.truncate(block::HEADER_BYTES);
            self.pending.extend_from_slice(&reader.payload);
        }
        let Some((at, header)) = last else { return Ok(false) };
        report.torn_bytes += len.saturating_sub(position);
        self.pending_first = header.first;
        self.pending_count = header.count;
        self.doubtful = Some(Segment { id, bytes: at, begun_s: head.unwrap_or(0) });
        Ok(true)
    }

    /// Goes on at `offset_min` where the log ends before it.
    fn skip_to(&mut self, offset_min: u64, report: &mut OpenReport) -> Result<()> {
        let next = self.next_offset();
        if next >= offset_min {
            return Ok(());
        }
        if let Some(error) = report.in_doubt.take() {
            // A block holds consecutive offsets, so the doubtful one must leave memory first.
            return Err(error);
        }
        report.lost_at_end = offset_min - next;
        self.finish_segment();
        self.pending_first = offset_min;
        Ok(())
    }
}
