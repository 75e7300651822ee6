//! The spool before a sink: deliveries wait here, durably and within a bound, until the receiver has them. Touches files
//! only through `Store`, and knows no clock: the runtime and the simulated world drive the same code.
//!
//! ```text
//! <dir>/live/      a log of entries, in order
//! <dir>/backlog/   another: what came while the receiver was away, where new rows go first
//! <dir>/marks/     a small log: how far each lane is settled, written now and then
//! ```
//!
//! - **What is spooled is known by its id.** Ids only grow, so the last entry of each lane says which deliveries came
//!   before; the last segment of a log stays when all of it is settled, and the position that went into the
//!   checkpoint says it once more. After a restart the replay's deliveries up to there are skipped.
//! - **One lane at a time is not durable**: before the other takes an entry, the first is synced. So what a crash takes is
//!   always the end of the order, and nothing before it.
//! - **Delivered is remembered late.** A mark is never ahead of what is durable, and an entry whose mark was lost is delivered
//!   again under the same name.
//! - **Nothing is kept in memory for an entry.** Opening reads the heads of the segments and the last one of each log.

mod entry;
mod lane;
#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;

use entry::Reached;
pub use entry::{Entry, EntryHead};
use lane::LaneLog;

use super::log::Log;
use super::options::LogOptions;
use super::retention::Retain;
use super::wire::{Wire, put_varint};
use super::{Store, cursor::Damages};
use crate::core::{DeliveryId, Position};
use crate::{Error, Result};

/// The least room for a spool: below, its segments become so small that hardly a batch fits.
pub const BYTES_MIN: u64 = 1 << 20;

/// The largest segment of a lane: what stays at most of each when all is settled, and the limit of an entry.
const SEGMENT_BYTES_MAX: u64 = 8 << 20;

/// Entries that are not durable gather in memory up to so many bytes.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// What the marks may take on disk.
const MARKS: LogOptions = LogOptions {
    segment_bytes_max: 16 << 10,
    block_bytes_max: 1 << 10,
    bytes_max: 64 << 10,
    compress: false,
    retain: Retain { time: std::time::Duration::ZERO, bytes_max: 0 },
    offset_min: 0,
    now_us: 0,
    needed_from: 0,
};

/// What happens when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse: the sink waits, and with it the pipeline.
    Block,
    /// Drop the oldest entries, counted.
    DropOldest,
}

/// How a spool works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolOptions {
    /// Bytes on disk at most, both lanes together; at least [`BYTES_MIN`].
    pub bytes_max: u64,
    /// What happens when there is no room.
    pub when_full: WhenFull,
}

/// One of the two orders of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// What goes out as it comes.
    Live,
    /// What has gathered while the receiver was away.
    Backlog,
}

/// What opening a spool has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpoolReport {
    /// Entries that wait.
    pub entries: u64,
    /// Bytes of unfinished writes that were cut off.
    pub torn_bytes: u64,
    /// Entries that the disk has lost.
    pub lost: u64,
    /// Damage in the last segments.
    pub damages: Damages,
}

/// What became of rows that were to be appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// Rows that are in the spool now.
    pub rows: usize,
    /// Rows that were known already.
    pub known: usize,
    /// Rows, by their number in the delivery, that are too large for an entry and were passed over.
    pub too_large: Vec<usize>,
}

/// What a spool holds and has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Bytes on disk, and of what waits for the next sync.
    pub bytes: u64,
    /// Bytes that they may become.
    pub bytes_max: u64,
    /// Entries that are not settled.
    pub entries: u64,
    /// Their rows.
    pub rows: u64,
    /// When the oldest of them was spooled, wall clock in µs since 1970.
    pub oldest_us: Option<i64>,
    /// Rows that made room for newer ones, since the spool was opened.
    pub dropped_rows: u64,
    /// Entries that could not be read, since the spool was opened.
    pub lost_entries: u64,
}

/// An open spool.
pub struct Spool {
    live: LaneLog,
    backlog: LaneLog,
    marks: Log,
    marked: [u64; 2],
    options: SpoolOptions,
    committed: Option<Reached>,
    newest: Option<Reached>,
    dropped_rows: u64,
    buffer: Vec<u8>,
}

impl Spool {
    /// Opens the spool in a directory of the store, making it where there is none. `committed` is the position that the
    /// last checkpoint holds; one that was made by something else than a spool says nothing.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(
        store: &dyn Store,
        dir: &str,
        options: SpoolOptions,
        committed: Option<&Position>,
    ) -> Result<(Self, SpoolReport)> {
        let bytes_max = options.bytes_max.max(BYTES_MIN);
        let segment = (bytes_max / 8).min(SEGMENT_BYTES_MAX);
        Self::open_sized(store, dir, SpoolOptions { bytes_max, ..options }, segment, committed)
    }

    /// The same with segments of so many bytes and no least room: for the simulated world, which is small.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub(crate) fn open_sized(
        store: &dyn Store,
        dir: &str,
        options: SpoolOptions,
        segment: u64,
        committed: Option<&Position>,
    ) -> Result<(Self, SpoolReport)> {
        let bytes_max = options.bytes_max;
        let log = LogOptions {
            segment_bytes_max: segment,
            block_bytes_max: segment as usize,
            bytes_max,
            compress: true,
            ..LogOptions::default()
        };
        let (mut marks, _) = Log::open(store.share(), &format!("{dir}/marks"), MARKS)?;
        let marked = last_mark(&mut marks)?;
        let open = |name, settled| LaneLog::open(store.share(), &format!("{dir}/{name}"), log, settled);
        let (live, report) = open("live", marked[0])?;
        let (backlog, other) = open("backlog", marked[1])?;
        let mut damages = report.damages;
        other.damages.first.into_iter().for_each(|damage| damages.add(damage));
        let report = SpoolReport {
            entries: live.entries() + backlog.entries(),
            torn_bytes: report.torn_bytes + other.torn_bytes,
            lost: report.lost_at_end + other.lost_at_end,
            damages,
        };
        let committed = committed.and_then(|position| position.get::<Reached>().ok());
        let spool = Self {
            newest: committed.clone(),
            options,
            live,
            backlog,
            marks,
            marked,
            committed,
            dropped_rows: 0,
            buffer: Vec::new(),
        };
        Ok((spool, report))
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneLog {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Backlog => &mut self.backlog,
        }
    }

    /// How many rows of a delivery were spooled at some time, whatever became of them.
    fn known_rows(&self, id: &DeliveryId) -> u64 {
        let lanes = [&self.live, &self.backlog];
        let lanes = lanes.into_iter().filter_map(|lane| lane.last.as_ref().map(EntryHead::reached));
        lanes.chain(self.committed.clone()).map(|reached| reached.rows_of(id)).max().unwrap_or(0)
    }

    /// Spools the rows of a delivery, in as many entries as they need; those that are known are skipped. They are durable
    /// after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Unavailable`](crate::Kind::Unavailable): there is no room; try again when entries are settled.
    /// [`Io`](crate::Kind::Io): the store fails; try again. What was taken in before is known then.
    /// [`Data`](crate::Kind::Data): rows that cannot be written.
    pub fn append(
        &mut self,
        lane: Lane,
        id: &DeliveryId,
        rows: &RecordBatch,
        queued_us: i64,
    ) -> Result<Appended> {
        let total = rows.num_rows();
        let known = usize::try_from(self.known_rows(id)).unwrap_or(total).min(total);
        let mut appended = Appended { known, ..Appended::default() };
        let (mut row, mut size) = (known, total - known);
        if size > 0 {
            self.sync_other(lane)?;
        }
        while row < total {
            size = size.clamp(1, total - row);
            let head = EntryHead {
                id: id.clone(),
                first_row: row as u64,
                rows: size as u64,
                rows_before: self.lane(lane).rows_end(),
                queued_us,
            };
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let outcome = entry::encode(&head, &rows.slice(row, size), &mut buffer)
                .and_then(|()| self.put(lane, head, &buffer));
            buffer.shrink_to(PENDING_BYTES_MAX);
            self.buffer = buffer;
            match outcome? {
                Put::Taken => (appended.rows, row) = (appended.rows + size, row + size),
                Put::TooLarge if size > 1 => size /= 2,
                Put::TooLarge => {
                    appended.too_large.push(row);
                    row += 1;
                }
            }
        }
        Ok(appended)
    }

    fn put(&mut self, lane: Lane, head: EntryHead, bytes: &[u8]) -> Result<Put> {
        if bytes.len() > self.live.log.record_bytes_max() {
            return Ok(Put::TooLarge);
        }
        if self.lane(lane).log.pending_bytes() + bytes.len() > PENDING_BYTES_MAX {
            self.lane(lane).log.sync()?;
        }
        self.make_room(bytes.len())?;
        let reached = head.reached();
        self.lane(lane).append(head, bytes)?;
        self.newest = Some(reached);
        Ok(Put::Taken)
    }

    fn make_room(&mut self, record: usize) -> Result<()> {
        let full = |spool: &Self| {
            let bytes = spool.live.bytes_with(record) + spool.backlog.bytes_with(0) + MARKS.bytes_max;
            bytes > spool.options.bytes_max
        };
        if full(self) {
            // What waits counts in full, and takes less when it is written.
            self.sync()?;
        }
        while full(self) {
            let dropped = match self.options.when_full {
                WhenFull::Block => None,
                WhenFull::DropOldest => match self.backlog.drop_segment()? {
                    None => self.live.drop_segment()?,
                    dropped => dropped,
                },
            };
            let Some((_, rows)) = dropped else {
                return Err(Error::unavailable(format!(
                    "the spool is full: {} of {} bytes wait to be delivered",
                    self.live.log.bytes() + self.backlog.log.bytes(),
                    self.options.bytes_max
                )));
            };
            self.dropped_rows += rows;
        }
        Ok(())
    }

    /// Else a crash could take entries of one lane and leave later ones in the other, which would then seem to have come
    /// after everything was spooled.
    fn sync_other(&mut self, lane: Lane) -> Result<()> {
        match lane {
            Lane::Live => self.backlog.log.sync()?,
            Lane::Backlog => self.live.log.sync()?,
        };
        Ok(())
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io); nothing is lost by trying again.
    pub fn sync(&mut self) -> Result<()> {
        self.live.log.sync()?;
        self.backlog.log.sync()?;
        Ok(())
    }

    /// Remembers how far the lanes are settled, if that has changed: one small write and one sync.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io); nothing is lost by trying again.
    pub fn mark(&mut self) -> Result<()> {
        let marks = [&self.live, &self.backlog].map(|lane| lane.settled().min(lane.log.durable()));
        if marks == self.marked {
            return Ok(());
        }
        self.marks.append_with(|out| {
            marks.iter().for_each(|mark| put_varint(out, *mark));
            Ok(())
        })?;
        let next = self.marks.sync()?;
        self.marked = marks;
        self.marks.remove_before(next.saturating_sub(1))
    }

    /// The position for the checkpoint: how far deliveries are in the spool. Sync before it counts.
    ///
    /// # Errors
    /// If it cannot be written as text.
    pub fn position(&self) -> Result<Position> {
        match &self.newest {
            Some(reached) => Position::of(reached),
            None => Ok(Position(String::new())),
        }
    }

    /// The next entry of a lane that was not given out since the spool was opened. It stays until it is settled.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io) where the store cannot read; the next call tries again.
    pub fn next(&mut self, lane: Lane) -> Result<Option<Entry>> {
        self.lane(lane).next()
    }

    /// Whether [`next`](Self::next) has something to give, unless it is damaged.
    #[must_use]
    pub fn has_next(&self, lane: Lane) -> bool {
        match lane {
            Lane::Live => self.live.has_next(),
            Lane::Backlog => self.backlog.has_next(),
        }
    }

    /// The sequence number at which [`next`](Self::next) goes on.
    #[must_use]
    pub fn reading(&self, lane: Lane) -> u64 {
        match lane {
            Lane::Live => self.live.reading(),
            Lane::Backlog => self.backlog.reading(),
        }
    }

    /// The sequence number that the next entry of a lane gets.
    #[must_use]
    pub fn next_sequence(&self, lane: Lane) -> u64 {
        match lane {
            Lane::Live => self.live.log.next_offset(),
            Lane::Backlog => self.backlog.log.next_offset(),
        }
    }

    /// Gives out again what was given out and is not settled.
    pub fn rewind(&mut self) {
        self.live.rewind();
        self.backlog.rewind();
    }

    /// All entries of a lane below `sequence` are done with: delivered, or dead letters.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io) where a segment cannot be removed; they are settled all the same.
    pub fn settle(&mut self, lane: Lane, sequence: u64) -> Result<()> {
        self.lane(lane).settle(sequence)
    }

    /// Whether every entry is settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.entries() + self.backlog.entries() == 0
    }

    /// Whether everything appended is durable.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.live.is_synced() && self.backlog.is_synced()
    }

    /// What it holds and has counted.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io) where the oldest entry cannot be looked up.
    pub fn stats(&mut self) -> Result<SpoolStats> {
        let rows = self.live.rows()? + self.backlog.rows()?;
        let oldest = [self.live.oldest()?, self.backlog.oldest()?];
        let oldest_us = oldest.into_iter().flatten().map(|head| head.queued_us).min();
        Ok(SpoolStats {
            bytes: self.live.log.bytes() + self.backlog.log.bytes() + self.marks.bytes(),
            bytes_max: self.options.bytes_max,
            entries: self.live.entries() + self.backlog.entries(),
            rows,
            oldest_us,
            dropped_rows: self.dropped_rows,
            lost_entries: self.live.lost + self.backlog.lost,
        })
    }
}

enum Put {
    Taken,
    TooLarge,
}

/// The last mark there is.
fn last_mark(marks: &mut Log) -> Result<[u64; 2]> {
    let mut cursor = marks.read(marks.first_offset());
    let mut mark = [0; 2];
    while let Some((_, bytes)) = cursor.next(marks)? {
        let mut wire = Wire(bytes);
        if let (Some(live), Some(backlog)) = (wire.varint(), wire.varint()) {
            mark = [live, backlog];
        }
    }
    Ok(mark)
}
