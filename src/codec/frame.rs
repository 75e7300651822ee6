//! Frames: one Arrow batch as self-describing, checksummed, compressed bytes. Pure.
//!
//! A frame carries its schema and its length, so that frames can be put one after the other in a file or a
//! stream, and any of them can be decoded alone, by a process that knows nothing else. [`FrameEncoder`] makes
//! them, [`decode`] and [`FrameDecoder`] read one, [`FrameReader`] reads a stream of them and finds its way
//! again after damage.
//!
//! # Format, version 2
//!
//! All fixed-width numbers are little-endian. A *varint* is unsigned LEB128 of at most 64 bits: seven bits per
//! byte, lowest first, the high bit set on all bytes but the last. *Text* and *bytes* are a varint length and
//! as many bytes (text is UTF-8).
//!
//! ## Frame
//!
//! | at | size | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `89 54 47 46` (`\x89TGF`) |
//! | 4 | 1 | version: 2 |
//! | 5 | 1 | header length `h`: 20; a later version may insert fields before the header's checksum |
//! | 6 | 1 | required flags: bit 0 schema by fingerprint (reserved, not written yet), bit 1 dictionary. A reader refuses a frame with a bit it does not know |
//! | 7 | 1 | optional flags: none yet; a reader ignores bits it does not know |
//! | 8 | 4 | total length, from the magic to the end of the checksum |
//! | 12 | 4 | number of rows |
//! | `h`-4 | 4 | CRC-32 of the bytes 0 to `h`-5 |
//! | `h` | | if required flag 1: 8 bytes, the dictionary's id (first 8 bytes of the BLAKE3 hash of the dictionary) |
//! | | | the schema section, as a *block* |
//! | | | for each column of the schema: varint length, then the *column* |
//! | | | anything that later versions add; a reader ignores it |
//! | total-4 | 4 | CRC-32 of everything before |
//!
//! CRC-32 is that of IEEE 802.3, as in zip and PNG. The magic, the version, `h`, the total length and the header's
//! checksum keep their places in all versions, so that every reader can step over a frame it cannot read.
//!
//! ## Schema section
//!
//! Varint number of columns (at most 4096); for each one a varint length and a *field*; then *metadata* of the schema.
//!
//! A field: text name; one byte of flags (bit 0: nullable); the type; metadata. Bytes after that are ignored.
//! Metadata: varint number of pairs; for each pair text key and text value, in the order of the keys.
//!
//! | code | type and its parameters | values |
//! |---:|---|---|
//! | 0 | Null | none |
//! | 1 | Boolean | bits |
//! | 2, 3, 4, 5 | Int8, Int16, Int32, Int64 | words of 1, 2, 4, 8 bytes |
//! | 6, 7, 8, 9 | UInt8, UInt16, UInt32, UInt64 | words of 1, 2, 4, 8 bytes |
//! | 10, 11, 12 | Float16, Float32, Float64 | words of 2, 4, 8 bytes: the IEEE 754 bits |
//! | 13, 14 | Utf8, LargeUtf8 | variable |
//! | 15, 16 | Binary, LargeBinary | variable |
//! | 17 | FixedSizeBinary: varint size | rows × size bytes |
//! | 18 | Timestamp: unit (0 s, 1 ms, 2 µs, 3 ns); 0, or 1 and the zone as text | words of 8 bytes |
//! | 19, 20 | Date32, Date64 | words of 4, 8 bytes |
//! | 21 | Duration: unit | words of 8 bytes |
//! | 22 | Dictionary of Int32 keys and Utf8 values | dictionary |
//! | 23 | FixedSizeList: varint size, varint length and field of the items, whose type is one of words | a column of rows × size items |
//!
//! ## Column
//!
//! One byte of flags: bit 0 *nulls*, bit 1 *notes*; a reader that meets another bit skips the column. With
//! notes: bytes that a reader may ignore. With nulls: the validity as bits; all that follows then describes
//! the valid rows only, one after the other. Then by type:
//!
//! - *bits*: a block, eight rows per byte, the first row lowest, unused bits zero;
//! - *words* of 1 byte and *rows × size bytes*: a block of them;
//! - *words* of 2, 4 or 8 bytes: a *series*, to the end of the column;
//! - *variable*: a varint length and a series of 4-byte words, the lengths; a block, all bytes one after the other;
//! - *dictionary*: a varint length and a series of 4-byte words, the keys; a varint number of values; the values as
//!   *variable*, numbered from 0. The values are those that occur in this frame, in the order in which they first do;
//! - *a column of items*: a column as described here (flags and all), without a length before it.
//!
//! ## Series and block
//!
//! A *series* of numbers is described in `series.rs`, with the files below it. A series of no words is no bytes. A *block*
//! is one byte, the stage's id (see [`super::stage`]); a varint, the raw length; for every stage but 0 (stored) a
//! varint, the packed length; and the bytes. A reader that does not know a mapping, a coder, a stage or a type skips
//! that column.
//!
//! ## Limits
//!
//! A writer puts at most 2²² rows, 4096 columns, a schema section of 1 MiB and 48 MiB of columns into a frame. A
//! reader lets the columns of one frame take 256 MiB of memory ([`Limits`]), which is enough for every such frame
//! with all that is needed on the way. Every length is checked before memory is asked for.
//!
//! ## Example
//!
//! Three rows, stored: `time` (Timestamp in µs, UTC, not null) 1000, 2000, 3000 and `vib` (Float64) 1.5, null, −0.0.
//!
//! ```text
//! 89544746 02 14 00 00 4b000000 03000000 ea6292c4    header: version 2, 20 bytes of 75, 3 rows
//! 00 19                                              schema: stored, 25 bytes
//! 02                                                 two columns
//! 0e 04 74696d65 00 12 02 01 03 555443 00            "time": not null, Timestamp in µs, zone "UTC", no metadata
//! 07 03 766962 01 0c 00                              "vib": nullable, Float64, no metadata
//! 00                                                 no metadata of the schema
//! 07 00                                              column of 7 bytes: no flags
//! 04 00 d00f d00f                                    order 0 with a slope, zeros; base 1000, slope 1000
//! 0f 01                                              column of 15 bytes: nulls
//! 00 01 05                                           validity: stored, 1 byte: rows 0 and 2
//! b4 00 01 1e 1d                                     narrowed, decimals with corrections, a slope, zeros; 10^-1; 15 - 15 i
//! 05 00 01 00 01 02                                  corrections: order 0, packed; base 0; 1 bit each: 0, -1 (0.0 to -0.0)
//! 8bc31ca8                                           CRC-32
//! ```

mod column;
mod column_reader;
mod head;
mod reader;
mod schema;

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};

pub use reader::FrameReader;
pub use schema::COLUMNS_MAX;

use self::column::{ColumnWriter, HAS_NULLS, Layout};
use self::column_reader::{ColumnReader, Fault};
use self::head::{Head, Header, is_intact};
use super::series::SeriesReader;
use super::stage::{Block, BlockReader, Dictionary, Stage};
use super::wire::{Reader, put_varint};
use crate::error::{Error, Result};

/// The column that holds frames where rows carry them.
pub const FRAME_COLUMN: &str = "frame";
/// The first bytes of every frame. No UTF-8 text begins with them.
pub const MAGIC: [u8; 4] = *b"\x89TGF";
/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 2;
/// The length of the header that is written.
pub const HEADER_BYTES: usize = 20;

const CHECKSUM_BYTES: usize = 4;
const FLAG_DICTIONARY: u8 = 2;
const SCHEMA_BYTES_MAX: usize = 1 << 20;

/// The most bytes of columns, in Arrow's layout, that are put into one frame. A reader needs at most five times as
/// many, and four bytes a row, which the default [`Limits`] allow.
pub const RAW_BYTES_MAX: usize = 48 << 20;

/// What a frame may ask of the one that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most rows of one frame.
    pub rows_max: usize,
    /// The most bytes that the decoded columns of one frame take in memory, with what is needed on the way.
    pub raw_bytes_max: usize,
    /// The most bytes of one frame.
    pub frame_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows_max: 1 << 22, raw_bytes_max: 256 << 20, frame_bytes_max: 64 << 20 }
    }
}

/// How frames are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameOptions {
    /// The byte coder behind the columns' transforms.
    pub stage: Stage,
}

/// What encoding one batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// The bytes that the rows take in Arrow's layout: values, offsets, validity where there are nulls.
    pub raw_bytes: usize,
    /// The bytes of the frame.
    pub frame_bytes: usize,
}

/// Makes frames, with buffers, coders and choices that are kept from batch to batch. What was chosen for a column is kept
/// for 64 frames or until its bits per value change by a tenth; what a frame *holds* depends on its batch alone, and
/// every frame can be decoded on its own.
pub struct FrameEncoder {
    options: FrameOptions,
    columns: ColumnWriter,
    column: Vec<u8>,
    /// The schema of the last batch, its block and its columns' layouts: most batches have the same one.
    schema: Option<(SchemaRef, Vec<u8>, Vec<Layout>)>,
    /// Choices came from another encoder for the same columns.
    resumed: bool,
}

impl FrameEncoder {
    /// An encoder for these options.
    ///
    /// # Errors
    /// The zstd level is not 1 to 19.
    pub fn new(options: FrameOptions) -> Result<Self> {
        let columns = ColumnWriter::new(&options.stage)?;
        Ok(Self { options, columns, column: Vec::new(), schema: None, resumed: false })
    }

    /// Appends one frame with all rows of `batch` to `out`.
    ///
    /// # Errors
    /// A column has a type that frames do not carry, or the batch is over the default [`Limits`]. `out` is then as before.
    pub fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<Encoded> {
        let start = out.len();
        let result = self.append(batch, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// All choices, to be saved. Another encoder with the same options that goes on with them makes the same frames.
    #[must_use]
    pub fn choices(&self) -> Vec<u8> {
        self.columns.choices()
    }

    /// Goes on with the choices of another encoder for the same columns; those of one with other options are not used.
    pub fn resume(&mut self, choices: &[u8]) {
        self.columns.resume(choices);
        self.resumed = true;
    }

    /// What [`Dictionary::train`] wants to see: every stream of the batch as the stage would get it.
    ///
    /// # Errors
    /// As for [`FrameEncoder::encode`].
    pub fn samples(&mut self, batch: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        // What is tried for a choice is not what frames carry: only the second encoding is looked at.
        self.encode(batch, &mut Vec::new())?;
        self.columns.sample(true);
        let encoded = self.encode(batch, &mut Vec::new());
        let samples = self.columns.sample(false);
        encoded.map(|_| samples)
    }

    fn append(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<Encoded> {
        let start = out.len();
        let limits = Limits::default();
        let rows = u32::try_from(batch.num_rows()).ok().filter(|&rows| rows as usize <= limits.rows_max);
        let rows = rows.ok_or_else(|| {
            Error::data(format!(
                "{} rows do not fit a frame of {}; cut the batch smaller",
                batch.num_rows(),
                limits.rows_max
            ))
        })?;
        let dictionary = self.options.stage.dictionary().map(|dictionary| dictionary.id());
        let flags = if dictionary.is_some() { FLAG_DICTIONARY } else { 0 };
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, HEADER_BYTES as u8, flags, 0]);
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&rows.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        if let Some(id) = dictionary {
            out.extend_from_slice(&id.to_le_bytes());
        }
        let raw_bytes = self.put_columns(batch, out)?;
        let frame_bytes = out.len() - start + CHECKSUM_BYTES;
        let total = u32::try_from(frame_bytes).map_err(|_| {
            Error::data(format!("a frame of {frame_bytes} bytes is too long; cut the batch smaller"))
        })?;
        let frame = &mut out[start..];
        frame[8..12].copy_from_slice(&total.to_le_bytes());
        let checksum = crc32fast::hash(&frame[..HEADER_BYTES - CHECKSUM_BYTES]);
        frame[HEADER_BYTES - CHECKSUM_BYTES..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc32fast::hash(frame);
        out.extend_from_slice(&checksum.to_le_bytes());
        Ok(Encoded { raw_bytes, frame_bytes })
    }

    /// Appends the schema section and the columns, and says how many raw bytes those have.
    fn put_columns(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<usize> {
        let schema = batch.schema_ref();
        let same = |known: &SchemaRef| Arc::ptr_eq(known, schema) || known == schema;
        let known = self.schema.as_ref().is_some_and(|(known, ..)| same(known));
        self.columns.begin(known || std::mem::take(&mut self.resumed));
        if !known {
            self.schema = Some((schema.clone(), self.schema_block(schema)?, layouts(schema)?));
        }
        let Some((_, block, layouts)) = &self.schema else { return Ok(0) };
        out.extend_from_slice(block);
        let mut raw_bytes = 0;
        for ((layout, array), field) in layouts.iter().zip(batch.columns()).zip(schema.fields()) {
            self.column.clear();
            let written = self.columns.write(layout, array, &mut self.column);
            raw_bytes += written.map_err(|error| in_column(field.name(), &error))?;
            // A dictionary can hide nulls in its values, where Arrow does not look for them.
            if !field.is_nullable() && self.column.first().is_some_and(|flags| flags & HAS_NULLS != 0) {
                return Err(in_column(
                    field.name(),
                    &Error::data("it has nulls, and its field says it has none"),
                ));
            }
            if raw_bytes > RAW_BYTES_MAX {
                return Err(Error::data(format!(
                    "{raw_bytes} bytes of columns do not fit a frame of {RAW_BYTES_MAX}; cut the batch smaller"
                )));
            }
            put_varint(self.column.len() as u64, out);
            out.extend_from_slice(&self.column);
        }
        Ok(raw_bytes)
    }

    fn schema_block(&mut self, schema: &Schema) -> Result<Vec<u8>> {
        let (mut raw, mut block) = (Vec::new(), Vec::new());
        schema::put_schema(schema, &mut raw)?;
        if raw.len() > SCHEMA_BYTES_MAX {
            return Err(Error::data(format!(
                "a schema of {} bytes does not fit a frame of {SCHEMA_BYTES_MAX}",
                raw.len()
            )));
        }
        self.columns.stage.write(&raw, 0, &mut block)?;
        Ok(block)
    }
}

fn layouts(schema: &Schema) -> Result<Vec<Layout>> {
    let layout = |field: &arrow::datatypes::FieldRef| {
        Layout::of(field.data_type())
            .map_err(|reason| Error::data(format!("column \"{}\": {reason}", field.name())))
    };
    schema.fields().iter().map(layout).collect()
}

fn in_column(name: &str, error: &Error) -> Error {
    Error::data(format!("column \"{name}\": {}", error.message))
}

/// A column that could not be read while its frame could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The column's name.
    pub column: String,
    /// What this version does not know about it.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column \"{}\" is skipped: {}; a newer version may read it", self.column, self.reason)
    }
}

/// One decoded frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The rows, without the columns that were skipped.
    pub batch: RecordBatch,
    /// How many bytes the frame has: the next one begins there.
    pub consumed: usize,
    /// The columns that this version cannot read.
    pub skipped: Vec<Skipped>,
}

/// Decodes the frame at the start of `bytes` with the default [`Limits`] and no dictionary.
///
/// # Errors
/// There is no whole, undamaged frame of a known version there.
pub fn decode(bytes: &[u8]) -> Result<Decoded> {
    FrameDecoder::default().decode(bytes)
}

/// Decodes frames, with buffers and coders that are kept from frame to frame.
#[derive(Default)]
pub struct FrameDecoder {
    limits: Limits,
    dictionaries: Vec<Arc<Dictionary>>,
    blocks: BlockReader,
    series: SeriesReader,
}

impl FrameDecoder {
    /// Lets frames use these dictionaries; each frame names the one it needs.
    #[must_use]
    pub fn with_dictionaries(mut self, dictionaries: impl IntoIterator<Item = Arc<Dictionary>>) -> Self {
        self.dictionaries.extend(dictionaries);
        self
    }

    /// Sets other limits than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Decodes the frame at the start of `bytes`; more may follow it.
    ///
    /// # Errors
    /// There is no whole, undamaged frame of a known version there, it is over the limits, or its dictionary is missing.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded> {
        let header = match Head::find(bytes) {
            Head::Here(header) => header,
            Head::Cut => {
                return Err(Error::data(format!("{} bytes are less than a frame's header", bytes.len())));
            }
            Head::Absent(why) => return Err(Error::data(format!("not a frame: {why}"))),
        };
        header.check(&self.limits)?;
        let Some(frame) = bytes.get(..header.total) else {
            return Err(Error::data(format!(
                "the frame has {} bytes, {} are there",
                header.total,
                bytes.len()
            )));
        };
        self.whole(&header, frame)
    }

    /// Decodes a frame that is there from its magic to its checksum.
    fn whole(&mut self, header: &Header, frame: &[u8]) -> Result<Decoded> {
        if !is_intact(frame) {
            return Err(Error::data("the frame is damaged: its checksum does not match"));
        }
        let mut reader = Reader::new(&frame[header.header..header.total - CHECKSUM_BYTES]);
        let dictionary = match header.flags & FLAG_DICTIONARY {
            0 => None,
            _ => Some(self.dictionary(reader.u64()?)?),
        };
        self.blocks.set_dictionary(dictionary);
        let block = Block::read(&mut reader)?;
        let raw = self.blocks.read(block, SCHEMA_BYTES_MAX).map_err(|error| in_schema(&error))?;
        let (entries, metadata) = schema::take_schema(raw).map_err(|error| in_schema(&error))?;
        let (mut fields, mut arrays, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        let mut columns = ColumnReader {
            blocks: &mut self.blocks,
            series: &mut self.series,
            budget_bytes: self.limits.raw_bytes_max,
        };
        for entry in entries {
            let bytes = reader.bytes().map_err(|error| in_column(&entry.name, &error))?;
            let read = match entry.field {
                Ok(field) => columns.read(field.data_type(), header.rows, bytes).map(|array| (field, array)),
                Err(reason) => Err(Fault::Unknown(reason)),
            };
            match read {
                Ok((field, array)) => {
                    fields.push(field);
                    arrays.push(array);
                }
                Err(Fault::Unknown(reason)) => skipped.push(Skipped { column: entry.name, reason }),
                Err(Fault::Damaged(error)) => return Err(in_column(&entry.name, &error)),
            }
        }
        let schema = Arc::new(Schema::new(fields).with_metadata(metadata));
        let options = RecordBatchOptions::new().with_row_count(Some(header.rows));
        let batch = RecordBatch::try_new_with_options(schema, arrays, &options)?;
        Ok(Decoded { batch, consumed: header.total, skipped })
    }

    fn dictionary(&self, id: u64) -> Result<Arc<Dictionary>> {
        let found = self.dictionaries.iter().find(|dictionary| dictionary.id() == id);
        found.cloned().ok_or_else(|| {
            Error::data(format!(
                "the frame needs the dictionary {id:016x}, which is not there; give it to the decoder"
            ))
        })
    }
}

fn in_schema(error: &Error) -> Error {
    Error::data(format!("the frame's schema: {}", error.message))
}

#[cfg(test)]
mod tests;
