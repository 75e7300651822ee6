//! NDJSON and CSV files as raw messages, one record each. Reads in chunks: memory holds one chunk, one record and
//! one batch, however long the file is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use super::pace::TIME_UNKNOWN;
use super::reader::Portion;
use crate::codec::csv::{CsvDecoder, CsvFormat};
use crate::codec::fields::{RowFormat, TimeField};
use crate::codec::json::{JsonDecoder, JsonFormat};
use crate::codec::payload::PayloadDecoder;
use crate::codec::records::{Ending, Records};
use crate::codec::rows::Rows;
use crate::codec::timestamp::TimeUnit;
use crate::error::{Error, Result};
use crate::registry::BatchLimits;
use crate::source::raw::RawBuilder;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// A longer record is passed over and counted.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// Time between two arrivals.
const ARRIVAL_STEP_US: i64 = 1_000;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a text file is laid out.
#[derive(Debug, Clone)]
pub struct TextLayout {
    /// The delimiter, for CSV.
    pub csv: Option<u8>,
    /// Whether the first record names the columns.
    pub header: bool,
    /// Whether each record is a topic, a space and the message, as `mosquitto_sub -v` writes them.
    pub topics: bool,
    /// How to find event times, if the pace follows them.
    pub time: Option<PaceTime>,
}

/// Where the event time of a record is.
#[derive(Debug, Clone)]
pub struct PaceTime {
    format: RowFormat,
    csv: Option<CsvFormat>,
}

impl PaceTime {
    /// A place of the time: a path of keys with dots between them, or a CSV column's name or number.
    ///
    /// # Errors
    /// If there can be no such place.
    pub fn new(path: &str, unit: TimeUnit, csv: Option<u8>, header: bool) -> Result<Self> {
        let path = match csv {
            Some(_) => vec![path.to_owned()],
            None => path.split('.').map(str::to_owned).collect(),
        };
        let format = RowFormat::new(Vec::new(), TimeField::At { path, unit });
        let csv = csv.map(|delimiter| CsvFormat { delimiter, header, columns: Vec::new() });
        let time = Self { format, csv };
        time.finder().map(|_| time)
    }

    fn finder(&self) -> Result<TimeFinder> {
        let decoder = match &self.csv {
            Some(csv) => PayloadDecoder::Csv(CsvDecoder::new(&self.format, csv)?),
            None => PayloadDecoder::Json(JsonDecoder::new(&self.format, &JsonFormat::default())?),
        };
        Ok(TimeFinder { decoder, rows: Rows::new(&self.format) })
    }
}

/// Reads the event time of records.
#[derive(Debug)]
struct TimeFinder {
    decoder: PayloadDecoder,
    rows: Rows,
}

impl TimeFinder {
    /// A record of several rows has the time of its first; one that cannot be read, none.
    fn time_of(&mut self, payload: &[u8]) -> i64 {
        self.rows.truncate(0);
        match self.decoder.decode(payload, 0, &mut self.rows) {
            Ok(_) => self.rows.times().first().copied().unwrap_or(TIME_UNKNOWN),
            Err(_) => TIME_UNKNOWN,
        }
    }
}

/// A text file, being read.
pub struct TextReader {
    name: String,
    /// The topic of every record; `None` where a record begins with its own.
    topic: Option<String>,
    file: File,
    chunk: Vec<u8>,
    records: Records,
    /// Where in the file `records` began.
    base: u64,
    /// What goes in front of every record: the header and a line break.
    header: Vec<u8>,
    finder: Option<TimeFinder>,
    builder: RawBuilder,
    /// Records of this source given before the next one.
    record: u64,
    ended: bool,
    too_long_told: u64,
}

impl TextReader {
    /// Opens a file at a byte offset; `record` is the number of records given before.
    ///
    /// # Errors
    /// If it cannot be read, or is shorter than the offset.
    pub fn open(
        path: &Path,
        layout: &TextLayout,
        limits: BatchLimits,
        offset: u64,
        record: u64,
    ) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |error: std::io::Error| Error::io(format!("reading {name}"), &error);
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length < offset {
            return Err(Error::state(format!(
                "{name} has {length} bytes, but {offset} were read before: it was changed; put the old file back, or \
                 start without the saved state"
            )));
        }
        if !layout.header {
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        }
        let ending = layout.csv.map_or(Ending::Line, |delimiter| Ending::CsvRecord { delimiter });
        let mut reader = Self {
            topic: (!layout.topics)
                .then(|| path.file_name().unwrap_or_default().to_string_lossy().into_owned()),
            file,
            chunk: vec![0; CHUNK_BYTES],
            records: Records::new(ending, RECORD_BYTES_MAX),
            base: if layout.header { 0 } else { offset },
            header: Vec::new(),
            finder: layout.time.as_ref().map(PaceTime::finder).transpose()?,
            builder: RawBuilder::new(limits),
            record,
            ended: false,
            too_long_told: 0,
            name,
        };
        if layout.header {
            reader.read_header()?;
            if reader.place() < offset {
                let failed = |error: std::io::Error| Error::io(format!("reading {}", reader.name), &error);
                reader.file.seek(SeekFrom::Start(offset)).map_err(failed)?;
                (reader.records, reader.base, reader.ended) =
                    (Records::new(ending, RECORD_BYTES_MAX), offset, false);
            }
        }
        Ok(reader)
    }

    /// How many bytes of the file are done with.
    fn place(&self) -> u64 {
        self.base + self.records.offset()
    }

    fn read_header(&mut self) -> Result<()> {
        loop {
            let found = match self.ended {
                false => self.records.next_record(),
                true => self.records.last_record(),
            };
            if let Some(record) = found {
                self.header.extend_from_slice(record.strip_prefix(BYTE_ORDER_MARK).unwrap_or(record));
                self.header.push(b'\n');
                return Ok(());
            }
            if self.ended {
                // An empty file has no header and needs none.
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<()> {
        let read = self
            .file
            .read(&mut self.chunk)
            .map_err(|error| Error::io(format!("reading {}", self.name), &error))?;
        self.ended = read == 0;
        self.records.push(self.chunk.get(..read).unwrap_or_default());
        Ok(())
    }

    /// The next records, up to the limits of a batch; `None` at the end of the file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&mut self) -> Result<Option<Portion>> {
        let mut portion = Portion { first_record: self.record, ..Portion::default() };
        let mut message = self.header.clone();
        let begin = message.len();
        while !self.builder.is_full() {
            let at_start = self.base == 0 && self.records.offset() == 0;
            let found = match self.ended {
                false => self.records.next_record(),
                true => self.records.last_record(),
            };
            let Some(record) = found else {
                if self.ended {
                    break;
                }
                self.fill()?;
                continue;
            };
            let record = match at_start {
                true => record.strip_prefix(BYTE_ORDER_MARK).unwrap_or(record),
                false => record,
            };
            let (own_topic, payload) = match (&self.topic, memchr::memchr(b' ', record)) {
                (None, Some(space)) => (&record[..space], &record[space + 1..]),
                (None, None) => (record, &[][..]),
                (Some(_), _) => (&[][..], record),
            };
            message.truncate(begin);
            message.extend_from_slice(payload);
            let own_topic = String::from_utf8_lossy(own_topic);
            let topic = self.topic.as_deref().unwrap_or(&own_topic);
            let arrival = i64::try_from(self.record).unwrap_or(i64::MAX).saturating_mul(ARRIVAL_STEP_US);
            self.builder.push(topic, &message, arrival, Duration::ZERO);
            self.record += 1;
            portion.ends.push(self.base + self.records.offset());
            if let Some(finder) = &mut self.finder {
                portion.times.push(finder.time_of(&message));
            }
        }
        let too_long = self.records.too_long();
        portion.too_long = too_long - std::mem::replace(&mut self.too_long_told, too_long);
        match self.builder.finish()? {
            Some(batch) => Ok(Some(Portion { batch: Some(batch), ..portion })),
            None if portion.too_long > 0 => Ok(Some(portion)),
            None => Ok(None),
        }
    }
}
