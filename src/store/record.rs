//! Bytes of a log record: everything an engine is ever given, so that it can be given again. Pure.
//!
//! ```text
//! tag u8 │ mono µs varint │ wall µs zigzag varint │ by tag:
//!   1 raw batch    source text │ position text │ rows varint │ topics varint │ topic text …
//!                  │ column of topic numbers │ column of arrivals │ payloads
//!   2 other batch  source text │ position text │ CRC-32 │ Arrow IPC stream
//!   3 end          source text
//!   4 tick
//!   5 barrier      epoch varint │ change: 0, or 1 and the bytes to the end
//! text   = length varint │ UTF-8; columns as in `planes`, payloads as in `payloads`
//! ```
//!
//! Records name their source: a pipeline whose sources have changed, or another one, finds for each record the source that
//! it belongs to, whatever came before it in the log.
//!
//! Raw batches are what a gateway writes all day, so they have a form of their own: a topic once, then columns of
//! numbers, and of the payloads what they have in common once. A reading of 60 bytes takes six to eight. Flash wears by
//! what is written, and a log of a given size holds for so much longer.

use std::sync::{Arc, LazyLock};

use arrow::array::types::Int32Type;
use arrow::array::{
    Array, ArrayRef, AsArray as _, BinaryArray, DictionaryArray, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;

use super::payloads::{self, PAYLOADS_BYTES_MAX};
use super::planes::{self, Column};
use super::wire::{Wire, put_bytes, put_varint, unzigzag, zigzag};
use crate::{Error, Result};

const TAG_RAW_BATCH: u8 = 1;
const TAG_OTHER_BATCH: u8 = 2;
const TAG_END: u8 = 3;
const TAG_TICK: u8 = 4;
const TAG_BARRIER: u8 = 5;

/// Rows of a batch in the raw form at most: a column may take no bytes a row, so a reader's memory needs another bound.
const ROWS_MAX: usize = 1 << 20;

/// Turns the order of signed numbers into that of unsigned ones.
const SIGN: u64 = 1 << 63;

/// The instant at which something was given to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Monotonic time in µs; it continues across restarts.
    pub mono_us: u64,
    /// Wall-clock time in µs since 1970.
    pub wall_us: i64,
}

/// One thing that was given to the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// When.
    pub now: Stamp,
    /// What.
    pub kind: RecordKind,
}

/// What can be given to an engine.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordKind {
    /// Rows of a source.
    Batch {
        /// The source's name in the pipeline file.
        source: String,
        /// The source's own name for the place behind this batch, to resume from.
        position: String,
        /// The rows.
        batch: RecordBatch,
    },
    /// A source has come to its end.
    End {
        /// The source's name in the pipeline file.
        source: String,
    },
    /// Time has passed.
    Tick,
    /// A cut, with the change that is applied there.
    Barrier {
        /// The epoch that ends.
        epoch: u64,
        /// The change, in bytes of its own.
        change: Option<Vec<u8>>,
    },
}

/// The schema of a batch of messages as they came: `topic` Dictionary(Int32, Utf8), `payload` Binary, `arrival`
/// Timestamp(µs, UTC), none of them null.
#[must_use]
pub fn raw_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let text = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        Arc::new(Schema::new(vec![
            Field::new("topic", text, false),
            Field::new("payload", DataType::Binary, false),
            Field::new("arrival", time, false),
        ]))
    });
    Arc::clone(&SCHEMA)
}

impl LogRecord {
    /// Appends the bytes of this record.
    ///
    /// # Errors
    /// [`Data`](crate::Kind::Data) for a batch that Arrow IPC cannot write.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        match &self.kind {
            RecordKind::Batch { source, position, batch } => {
                return encode_batch(self.now, source, position, batch, out);
            }
            RecordKind::End { source } => {
                put_head(out, TAG_END, self.now);
                put_bytes(out, source.as_bytes());
            }
            RecordKind::Tick => put_head(out, TAG_TICK, self.now),
            RecordKind::Barrier { epoch, change } => {
                put_head(out, TAG_BARRIER, self.now);
                put_varint(out, *epoch);
                out.push(u8::from(change.is_some()));
                out.extend_from_slice(change.as_deref().unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// [`State`](crate::Kind::State) for bytes that are not a record, or one that this program does not know.
    pub fn decode(bytes: &[u8]) -> Result<LogRecord> {
        let mut wire = Wire(bytes);
        let record = decode(&mut wire)?;
        match wire.0.len() {
            0 => Ok(record),
            rest => Err(Error::state(format!("{rest} bytes follow the end of a log record"))),
        }
    }
}

/// Appends the bytes of a [`RecordKind::Batch`] record that borrows its batch.
///
/// # Errors
/// [`Data`](crate::Kind::Data) for a batch that Arrow IPC cannot write.
pub fn encode_batch(
    now: Stamp,
    source: &str,
    position: &str,
    batch: &RecordBatch,
    out: &mut Vec<u8>,
) -> Result<()> {
    let raw = RawColumns::of(batch);
    put_head(out, if raw.is_some() { TAG_RAW_BATCH } else { TAG_OTHER_BATCH }, now);
    put_bytes(out, source.as_bytes());
    put_bytes(out, position.as_bytes());
    match raw {
        Some(columns) => {
            columns.encode(out);
            Ok(())
        }
        None => encode_ipc(batch, out),
    }
}

fn put_head(out: &mut Vec<u8>, tag: u8, now: Stamp) {
    out.push(tag);
    put_varint(out, now.mono_us);
    put_varint(out, zigzag(now.wall_us));
}

fn ends_early(what: &str) -> impl FnOnce() -> Error {
    move || Error::state(format!("a log record is damaged: its {what} is missing or out of bounds"))
}

fn decode(wire: &mut Wire) -> Result<LogRecord> {
    let tag = wire.u8().ok_or_else(ends_early("kind"))?;
    let mono_us = wire.varint().ok_or_else(ends_early("monotonic time"))?;
    let wall_us = wire.varint().map(unzigzag).ok_or_else(ends_early("wall time"))?;
    let kind = match tag {
        TAG_RAW_BATCH | TAG_OTHER_BATCH => {
            let source = decode_source(wire)?;
            let position = wire.text().ok_or_else(ends_early("position"))?.to_owned();
            let batch = if tag == TAG_RAW_BATCH { decode_raw(wire)? } else { decode_ipc(wire)? };
            RecordKind::Batch { source, position, batch }
        }
        TAG_END => RecordKind::End { source: decode_source(wire)? },
        TAG_TICK => RecordKind::Tick,
        TAG_BARRIER => {
            let epoch = wire.varint().ok_or_else(ends_early("epoch"))?;
            let change = match wire.u8().ok_or_else(ends_early("change"))? {
                0 => None,
                1 => wire.take(wire.0.len()).map(<[u8]>::to_vec),
                other => return Err(Error::state(format!("a barrier's change is marked {other}"))),
            };
            RecordKind::Barrier { epoch, change }
        }
        other => {
            return Err(Error::state(format!(
                "a log record is of kind {other}, which this program does not know: run the version that wrote it"
            )));
        }
    };
    Ok(LogRecord { now: Stamp { mono_us, wall_us }, kind })
}

fn decode_source(wire: &mut Wire) -> Result<String> {
    wire.text().map(str::to_owned).ok_or_else(ends_early("source"))
}

/// The columns of a batch in the raw schema.
struct RawColumns<'a> {
    topics: &'a StringArray,
    keys: &'a [i32],
    payload: &'a BinaryArray,
    arrival: &'a [i64],
}

impl<'a> RawColumns<'a> {
    /// `None` for any other schema, for a dictionary that says null by its values, and for what is too large.
    fn of(batch: &'a RecordBatch) -> Option<RawColumns<'a>> {
        if batch.schema_ref() != &raw_schema() {
            return None;
        }
        let topic = batch.column(0).as_dictionary_opt::<Int32Type>()?;
        let topics = topic.values().as_string_opt::<i32>()?;
        let payload = batch.column(1).as_binary_opt::<i32>()?;
        let arrival = batch.column(2).as_primitive_opt::<TimestampMicrosecondType>()?;
        let nulls =
            topic.keys().null_count() + topics.null_count() + payload.null_count() + arrival.null_count();
        let fits = batch.num_rows() <= ROWS_MAX && payload_bytes(payload).len() <= PAYLOADS_BYTES_MAX;
        (nulls == 0 && fits).then(|| RawColumns {
            topics,
            keys: topic.keys().values(),
            payload,
            arrival: arrival.values(),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (used, number_of) = used_topics(self.keys, self.topics.len());
        put_varint(out, self.keys.len() as u64);
        put_varint(out, used.len() as u64);
        for topic in &used {
            put_bytes(out, self.topics.value(*topic as usize).as_bytes());
        }
        let number = |key: &i32| u64::from(number_of.get(*key as usize).copied().unwrap_or(0));
        let numbers: Vec<u64> = self.keys.iter().map(number).collect();
        planes::put(out, &numbers);
        // In the order of unsigned numbers, so that times before and after 1970 are near each other.
        let arrivals: Vec<u64> = self.arrival.iter().map(|at| (*at as u64) ^ SIGN).collect();
        planes::put(out, &arrivals);
        payloads::put(out, self.payload.value_offsets(), payload_bytes(self.payload), &numbers, used.len());
    }
}

/// The payloads of all rows: one slice of the column's buffer.
fn payload_bytes(payload: &BinaryArray) -> &[u8] {
    let offsets = payload.value_offsets();
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    payload.values().get(first as usize..last as usize).unwrap_or_default()
}

/// The dictionary entries that rows use, in order of their first use, and the number of each among them.
///
/// A source keeps one dictionary of all its topics; a batch has some of them.
fn used_topics(keys: &[i32], entries: usize) -> (Vec<u32>, Vec<u32>) {
    let mut used = Vec::new();
    let mut number_of = vec![u32::MAX; entries];
    for key in keys {
        if let Some(number) = number_of.get_mut(*key as usize).filter(|number| **number == u32::MAX) {
            *number = used.len() as u32;
            used.push(*key as u32);
        }
    }
    (used, number_of)
}

fn decode_raw(wire: &mut Wire) -> Result<RecordBatch> {
    let rows = wire.varint().and_then(|rows| usize::try_from(rows).ok()).filter(|rows| *rows <= ROWS_MAX);
    let rows = rows.ok_or_else(ends_early("number of rows"))?;
    let topics = decode_count(wire).ok_or_else(ends_early("number of topics"))?;
    let mut values = Vec::with_capacity(topics);
    for _ in 0..topics {
        values.push(wire.text().ok_or_else(ends_early("topics"))?);
    }
    let numbers = Column::read(wire, rows).ok_or_else(ends_early("topic numbers"))?;
    let topics = decode_topics(numbers, StringArray::from(values))?;
    let arrivals = Column::read(wire, rows).ok_or_else(ends_early("arrivals"))?;
    let arrivals = TimestampMicrosecondArray::from_iter_values(arrivals.map(|at| (at ^ SIGN) as i64));
    let payloads = payloads::read(wire, rows).ok_or_else(ends_early("payloads"))?;
    let offsets = OffsetBuffer::new(ScalarBuffer::from(payloads.offsets));
    let payloads = BinaryArray::try_new(offsets, Buffer::from_vec(payloads.bytes), None)?;
    let columns: Vec<ArrayRef> =
        vec![Arc::new(topics), Arc::new(payloads), Arc::new(arrivals.with_timezone("UTC"))];
    Ok(RecordBatch::try_new(raw_schema(), columns)?)
}

/// A number of things of which each takes at least one of the bytes that are left.
fn decode_count(wire: &mut Wire) -> Option<usize> {
    usize::try_from(wire.varint()?).ok().filter(|count| *count <= wire.0.len())
}

fn decode_topics(numbers: Column, values: StringArray) -> Result<DictionaryArray<Int32Type>> {
    let mut keys = Vec::with_capacity(numbers.size_hint().0);
    for number in numbers {
        if number >= values.len() as u64 {
            return Err(ends_early("topic number")());
        }
        keys.push(number as i32);
    }
    Ok(DictionaryArray::try_new(Int32Array::from(keys), Arc::new(values))?)
}

/// Arrow's reader trusts the bytes of its messages further than ours may be trusted (a wrong length is a panic there),
/// so they stand behind a checksum.
pub(super) fn encode_ipc(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut writer = StreamWriter::try_new(&mut *out, batch.schema_ref())?;
    writer.write(batch)?;
    writer.finish()?;
    writer.flush()?;
    drop(writer);
    let (_, written) = out.split_at_mut(start);
    if let Some((crc, stream)) = written.split_first_chunk_mut() {
        *crc = crc32fast::hash(stream).to_le_bytes();
    }
    Ok(())
}

/// Reads a batch that `encode_ipc` wrote: the checksum and the rest of the bytes.
pub(super) fn decode_ipc(wire: &mut Wire) -> Result<RecordBatch> {
    let crc = wire.u32().ok_or_else(ends_early("checksum"))?;
    let stream = wire.take(wire.0.len()).unwrap_or_default();
    if crc32fast::hash(stream) != crc {
        return Err(ends_early("Arrow batch")());
    }
    let mut decoder = StreamDecoder::new();
    let mut buffer = Buffer::from(stream);
    while !buffer.is_empty() {
        if let Some(batch) = decoder.decode(&mut buffer).map_err(|error| Error::state(error.to_string()))? {
            return Ok(batch);
        }
    }
    Err(ends_early("Arrow batch")())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;
    use proptest::prelude::*;

    const NOW: Stamp = Stamp { mono_us: 1_234_567, wall_us: 1_700_000_000_000_000 };

    fn raw_batch(dictionary: &[&str], rows: &[(i32, &[u8], i64)]) -> RecordBatch {
        let keys = Int32Array::from_iter_values(rows.iter().map(|row| row.0));
        let values = StringArray::from_iter_values(dictionary);
        let arrival = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(DictionaryArray::try_new(keys, Arc::new(values)).unwrap()),
            Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(arrival.with_timezone("UTC")),
        ];
        RecordBatch::try_new(raw_schema(), columns).unwrap()
    }

    fn other_batch() -> RecordBatch {
        let schema = Schema::new(vec![Field::new("temp", DataType::Float64, true)]);
        let column = Float64Array::from(vec![Some(1.5), None, Some(-0.0)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column)]).unwrap()
    }

    fn batch_record(batch: RecordBatch) -> LogRecord {
        let kind = RecordKind::Batch { source: "plant".to_owned(), position: "packet 17".to_owned(), batch };
        LogRecord { now: NOW, kind }
    }

    fn encoded(record: &LogRecord) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn every_kind_comes_back() {
        let kinds = [
            RecordKind::End { source: String::new() },
            RecordKind::Tick,
            RecordKind::Barrier { epoch: 7, change: None },
            RecordKind::Barrier { epoch: u64::MAX, change: Some(Vec::new()) },
            RecordKind::Barrier { epoch: 8, change: Some(b"model".to_vec()) },
            RecordKind::Batch { source: "a".to_owned(), position: String::new(), batch: other_batch() },
            RecordKind::Batch {
                source: "a".to_owned(),
                position: String::new(),
                batch: other_batch().slice(1, 1),
            },
            RecordKind::Batch {
                source: "a".to_owned(),
                position: String::new(),
                batch: other_batch().slice(0, 0),
            },
            RecordKind::Batch {
                source: "b".to_owned(),
                position: "ä".to_owned(),
                batch: raw_batch(&["a"], &[]),
            },
        ];
        for kind in kinds {
            for wall_us in [i64::MIN, -1, 0, NOW.wall_us, i64::MAX] {
                let record = LogRecord { now: Stamp { mono_us: u64::MAX, wall_us }, kind: kind.clone() };
                assert_eq!(LogRecord::decode(&encoded(&record)).unwrap(), record);
            }
        }
    }

    #[test]
    fn a_message_costs_a_fraction_of_its_payload() {
        let payloads: Vec<Vec<u8>> = (0..1000u64)
            .map(|row| {
                let (ts, vib) = (1_700_000_000_000 + row / 10, row * 104_729 % 10_000);
                format!(
                    "{{\"ts\":{ts},\"temp\":{}.{:02},\"vib\":0.{vib:04},\"rpm\":148{}}}",
                    20 + row % 9,
                    row % 97,
                    row % 10
                )
                .into_bytes()
            })
            .collect();
        let rows: Vec<(i32, &[u8], i64)> =
            (0..1000).map(|row| (row % 100, &payloads[row as usize][..], i64::from(row) * 40)).collect();
        let names: Vec<String> = (0..100).map(|device| format!("plant/line/{device}/telemetry")).collect();
        let dictionary: Vec<&str> = names.iter().map(String::as_str).collect();
        let bytes = encoded(&batch_record(raw_batch(&dictionary, &rows)));
        let topics: usize = names.iter().map(|name| name.len() + 1).sum();
        let raw: usize = payloads.iter().map(Vec::len).sum();
        // Topic, arrival and time one byte each, temp two, vib two, rpm one.
        assert!(bytes.len() <= 1000 * 8 + topics + 200, "{} of {raw} bytes", bytes.len());
    }

    #[test]
    fn rows_beyond_the_bound_are_refused_and_their_batch_is_written_in_another_form() {
        let mut head = Vec::new();
        put_head(&mut head, TAG_RAW_BATCH, NOW);
        head.extend_from_slice(&[0, 0]);
        for (rows, accepted) in [(ROWS_MAX, true), (ROWS_MAX + 1, false)] {
            let mut bytes = head.clone();
            put_varint(&mut bytes, rows as u64);
            // One topic of no length; columns of zeros; payloads of nothing that fit the template of nothing.
            bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            assert_eq!(LogRecord::decode(&bytes).is_ok(), accepted, "{rows} rows");
        }
        let many: Vec<(i32, &[u8], i64)> = vec![(0, b"", 0); ROWS_MAX + 1];
        let record = batch_record(raw_batch(&["a"], &many));
        let bytes = encoded(&record);
        assert_eq!(bytes[0], TAG_OTHER_BATCH);
        assert_eq!(LogRecord::decode(&bytes).unwrap(), record);
    }

    #[test]
    fn a_slice_of_a_batch_is_that_slice_and_takes_only_its_topics() {
        let long = "never/used/".repeat(100);
        let rows: &[(i32, &[u8], i64)] =
            &[(1, b"one", 5), (2, b"", i64::MIN), (1, &[0xff; 300], i64::MAX), (2, b"x", 70_000)];
        let batch = raw_batch(&[&long, "b", "c"], rows);
        for (start, length) in [(0, 4), (1, 2), (3, 1), (2, 0)] {
            let record = batch_record(batch.slice(start, length));
            let bytes = encoded(&record);
            assert!(bytes.len() < 500, "{start}+{length}: {} bytes", bytes.len());
            assert_eq!(LogRecord::decode(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn a_schema_that_only_resembles_the_raw_one_keeps_its_difference() {
        let raw = raw_batch(&["a"], &[(0, b"x", 1)]);
        let mut fields: Vec<Field> =
            raw.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        fields[1].set_nullable(true);
        let nullable = RecordBatch::try_new(Arc::new(Schema::new(fields)), raw.columns().to_vec()).unwrap();
        let metadata: std::collections::HashMap<_, _> = [("unit".to_owned(), "bar".to_owned())].into();
        let described = Schema::new(raw.schema().fields().clone()).with_metadata(metadata);
        let described = RecordBatch::try_new(Arc::new(described), raw.columns().to_vec()).unwrap();
        for batch in [nullable, described] {
            let record = batch_record(batch);
            let bytes = encoded(&record);
            assert_eq!(bytes[0], TAG_OTHER_BATCH);
            assert_eq!(LogRecord::decode(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn every_prefix_and_every_longer_text_is_refused() {
        let raw = raw_batch(&["a", "b"], &[(0, b"one", 1), (1, b"three", 300), (0, b"", 2)]);
        let barrier = RecordKind::Barrier { epoch: 300, change: None };
        for record in [batch_record(raw), batch_record(other_batch()), LogRecord { now: NOW, kind: barrier }]
        {
            let bytes = encoded(&record);
            for length in 0..bytes.len() {
                let error = LogRecord::decode(&bytes[..length]).unwrap_err();
                assert_eq!(error.kind, crate::Kind::State, "{length} of {} bytes", bytes.len());
            }
            assert!(LogRecord::decode(&[&bytes[..], b"\0"].concat()).is_err());
        }
    }

    #[test]
    fn counts_that_the_bytes_cannot_hold_are_refused_before_an_allocation() {
        let mut head = Vec::new();
        put_head(&mut head, TAG_RAW_BATCH, NOW);
        head.extend_from_slice(&[0, 0]);
        for (rows, topics) in [(u64::MAX, 0), (1 << 21, 1), (0, u64::MAX), (0, 1 << 40)] {
            let mut bytes = head.clone();
            put_varint(&mut bytes, rows);
            put_varint(&mut bytes, topics);
            bytes.extend_from_slice(&[1; 40]);
            assert!(LogRecord::decode(&bytes).is_err(), "{rows} rows, {topics} topics");
        }
        assert!(LogRecord::decode(&[99, 0, 0]).unwrap_err().message.contains("kind 99"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn raw_batches_come_back(
            dictionary in prop::collection::vec("[a-z/]{0,12}", 1..6),
            rows in prop::collection::vec((0usize..6, prop::collection::vec(any::<u8>(), 0..90), any::<i64>(), any::<bool>()), 0..40),
        ) {
            let names: Vec<&str> = dictionary.iter().map(String::as_str).collect();
            let rows: Vec<(i32, &[u8], i64)> = rows.iter().enumerate().map(|(at, (topic, payload, arrival, wild))| {
                let arrival = if *wild { *arrival } else { NOW.wall_us + at as i64 * 100 };
                ((topic % names.len()) as i32, &payload[..], arrival)
            }).collect();
            let record = batch_record(raw_batch(&names, &rows));
            prop_assert_eq!(LogRecord::decode(&encoded(&record)).unwrap(), record);
        }

        #[test]
        fn more_topics_than_a_byte_numbers_come_back(topics in 250i32..700, payload in 0usize..70_000) {
            let names: Vec<String> = (0..topics).map(|topic| format!("t/{topic}")).collect();
            let dictionary: Vec<&str> = names.iter().map(String::as_str).collect();
            let long = vec![7; payload];
            let rows: Vec<(i32, &[u8], i64)> =
                (0..topics).map(|topic| (topics - 1 - topic, if topic == 3 { &long[..] } else { b"x" }, 0)).collect();
            let record = batch_record(raw_batch(&dictionary, &rows));
            prop_assert_eq!(LogRecord::decode(&encoded(&record)).unwrap(), record);
        }

        /// No panic and no runaway allocation, whatever the bytes; what is accepted can be written again.
        #[test]
        fn any_changed_byte_gives_an_error_or_another_record(at: prop::sample::Index, byte: u8, raw: bool) {
            let rows: &[(i32, &[u8], i64)] = &[(0, b"one", 1), (1, b"three", 300), (0, b"", 2)];
            let record = batch_record(if raw { raw_batch(&["a", "b"], rows) } else { other_batch() });
            let mut bytes = encoded(&record);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = LogRecord::decode(&bytes) {
                let again = encoded(&read);
                prop_assert_eq!(LogRecord::decode(&again).unwrap(), read);
            }
        }
    }
}
