//! The running part of the `file` source: one file after the other, and where it stands behind every row.
//!
//! Files are read on a thread for blocking work; the reader travels there and back, and what a dropped `next` had
//! begun the following one finishes.

use std::path::PathBuf;
use std::time::Instant;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::pace::{Due, Pace, Pacer};
use super::parquet::{ColumnPlan, ParquetReader};
use super::text::{TextLayout, TextReader};
use crate::core::ends::SourceBatch;
use crate::core::{Count, Position, Source};
use crate::error::{Error, Result};
use crate::registry::BatchLimits;

/// How a file source works.
pub struct FileSettings {
    /// The files, in order.
    pub paths: Vec<PathBuf>,
    /// What is in them.
    pub layout: Layout,
    /// How fast rows are given.
    pub pace: Pace,
    /// Bounds of a batch.
    pub batch: BatchLimits,
}

/// What is in the files.
#[derive(Debug, Clone)]
pub enum Layout {
    /// Records of text.
    Text(TextLayout),
    /// Columns.
    Parquet(Box<ColumnPlan>),
}

/// Where the source is: behind so many bytes (text) or rows (Parquet) of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Which of the files, from 0.
    file: usize,
    /// Bytes of a text file, rows of a Parquet file.
    offset: u64,
    /// Records given so far, over all files.
    record: u64,
}

/// Some rows of one file.
#[derive(Debug, Default)]
pub struct Portion {
    /// The rows; none if all of them were passed over.
    pub batch: Option<RecordBatch>,
    /// Behind each row: bytes or rows of the file that are done with.
    pub ends: Vec<u64>,
    /// The event time of each row, where the pace follows it.
    pub times: Vec<i64>,
    /// Records given before the first of these.
    pub first_record: u64,
    /// Records passed over because they are too long.
    pub too_long: u64,
    /// Rows passed over because they have no time.
    pub without_time: u64,
}

enum Reader {
    Text(Box<TextReader>),
    Parquet(Box<ParquetReader>),
}

impl Reader {
    fn open(path: &std::path::Path, layout: &Layout, batch: BatchLimits, place: Place) -> Result<Self> {
        Ok(match layout {
            Layout::Text(layout) => {
                Self::Text(Box::new(TextReader::open(path, layout, batch, place.offset, place.record)?))
            }
            Layout::Parquet(plan) => {
                Self::Parquet(Box::new(ParquetReader::open(path, plan, batch, place.offset, place.record)?))
            }
        })
    }

    fn read(&mut self) -> Result<Option<Portion>> {
        match self {
            Self::Text(reader) => reader.read(),
            Self::Parquet(reader) => reader.read(),
        }
    }
}

type Reading = JoinHandle<Result<(Reader, Option<Portion>)>>;

/// The `file` source.
pub struct FileSource {
    settings: FileSettings,
    /// Behind the row given last.
    place: Place,
    reader: Option<Reader>,
    reading: Option<Reading>,
    /// Rows read, of which the first `given` were given.
    portion: Option<(RecordBatch, Portion)>,
    given: usize,
    pacer: Pacer,
    started: Instant,
    counts: Vec<(Count, u64)>,
}

const TOO_LONG: Count = Count { what: "too_long_records", reason: "" };
const WITHOUT_TIME: Count = Count { what: "rows_without_time", reason: "" };

impl FileSource {
    /// Nothing open yet.
    pub fn new(settings: FileSettings) -> Self {
        Self {
            pacer: Pacer::new(settings.pace, settings.batch.age),
            settings,
            place: Place::default(),
            reader: None,
            reading: None,
            portion: None,
            given: 0,
            started: Instant::now(),
            counts: Vec::new(),
        }
    }

    fn open_reader(&self) -> Result<Option<Reader>> {
        let Some(path) = self.settings.paths.get(self.place.file) else { return Ok(None) };
        Reader::open(path, &self.settings.layout, self.settings.batch, self.place).map(Some)
    }

    /// Reads on until there are rows; false at the end of the last file. Cancel-safe.
    async fn read_on(&mut self) -> Result<bool> {
        loop {
            if self.reading.is_none() {
                let reader = match self.reader.take() {
                    Some(reader) => Some(reader),
                    None => self.open_reader()?,
                };
                let Some(mut reader) = reader else { return Ok(false) };
                self.reading = Some(tokio::task::spawn_blocking(move || {
                    let portion = reader.read()?;
                    Ok((reader, portion))
                }));
            }
            let Some(reading) = &mut self.reading else { continue };
            let outcome = reading.await;
            self.reading = None;
            let (reader, portion) =
                outcome.map_err(|error| Error::data(format!("reading a file failed: {error}")))??;
            let Some(mut portion) = portion else {
                // The next file begins where this one ends.
                self.place = Place { file: self.place.file + 1, offset: 0, record: self.place.record };
                continue;
            };
            self.reader = Some(reader);
            self.counts.extend([(TOO_LONG, portion.too_long), (WITHOUT_TIME, portion.without_time)]);
            self.counts.retain(|(_, by)| *by > 0);
            if let Some(batch) = portion.batch.take() {
                self.portion = Some((batch, portion));
                self.given = 0;
                return Ok(true);
            }
        }
    }

    /// Gives the next rows of what was read.
    fn give(&mut self, rows: usize) -> Result<Option<SourceBatch>> {
        let Some((batch, portion)) = &self.portion else { return Ok(None) };
        let end = (self.given + rows).min(batch.num_rows());
        let part = batch.slice(self.given, end - self.given);
        let Some(offset) = end.checked_sub(1).and_then(|last| portion.ends.get(last)) else {
            return Ok(None);
        };
        self.place.offset = *offset;
        self.place.record = portion.first_record + end as u64;
        self.pacer.gave(part.num_rows());
        self.given = end;
        if end == batch.num_rows() {
            self.portion = None;
        }
        Ok(Some(SourceBatch { batch: part, position: Position::of(&self.place)? }))
    }
}

#[async_trait]
impl Source for FileSource {
    async fn open(&mut self, from: Option<&Position>) -> Result<()> {
        self.place = from.map(Position::get).transpose()?.unwrap_or_default();
        // It may have been open, further on or elsewhere.
        (self.reading, self.portion, self.given) = (None, None, 0);
        self.pacer = Pacer::new(self.settings.pace, self.settings.batch.age);
        self.started = Instant::now();
        // What cannot be read is said at once.
        self.reader = self.open_reader()?;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        loop {
            let Some((batch, portion)) = &self.portion else {
                match self.read_on().await? {
                    true => continue,
                    false => return Ok(None),
                }
            };
            let rows = batch.num_rows() - self.given;
            let times = portion.times.get(self.given..).unwrap_or_default();
            match self.pacer.due(rows, times, self.started.elapsed()) {
                Due::Rows(rows) => return self.give(rows),
                Due::At(at) => {
                    tokio::time::sleep_until(tokio::time::Instant::from_std(self.started + at)).await;
                }
            }
        }
    }

    async fn acknowledge(&mut self, _upto: &Position) -> Result<()> {
        // A file stays where it is.
        Ok(())
    }

    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        std::mem::take(&mut self.counts)
    }
}
