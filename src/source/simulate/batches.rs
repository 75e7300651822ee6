//! Readings as Arrow batches: decoded columns, or raw messages as a broker would deliver them. Pure.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, DictionaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};

use super::payloads::Encoder;
use super::plant::{Arrived, Plant};
use super::signals::Signal;
use crate::Result;

/// Rows of one batch, at most, whatever is asked for.
const ROWS_MAX: usize = 1_000_000;
/// Payload bytes after which a raw batch is closed, so that its offsets stay far inside 32 bits.
const RAW_BYTES_MAX: usize = 256 << 20;

fn tag() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns of decoded readings: `time`, `line`, `device`, `seq`, then one nullable column per signal.
pub(super) fn schema(signals: &[Signal]) -> SchemaRef {
    let mut fields = vec![
        Field::new("time", micros(), false),
        Field::new("line", tag(), false),
        Field::new("device", tag(), false),
        Field::new("seq", DataType::Int64, false),
    ];
    fields.extend(signals.iter().map(|signal| {
        let kind = if signal.is_integer() { DataType::Int64 } else { DataType::Float64 };
        Field::new(signal.name(), kind, true)
    }));
    Arc::new(Schema::new(fields))
}

/// The columns of raw messages: `topic`, `payload`, `arrival`; none is nullable.
fn raw_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("topic", tag(), false),
        Field::new("payload", DataType::Binary, false),
        Field::new("arrival", micros(), false),
    ]))
}

fn timestamps(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

fn dictionary(keys: Vec<i32>, names: &Arc<StringArray>) -> Result<ArrayRef> {
    let names: ArrayRef = Arc::clone(names) as ArrayRef;
    Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(keys), names)?))
}

/// One signal's column; NaN becomes null.
fn column(values: Vec<f64>, signal: Signal) -> ArrayRef {
    let gaps = values.iter().any(|value| value.is_nan());
    let nulls = gaps.then(|| NullBuffer::from_iter(values.iter().map(|value| !value.is_nan())));
    if signal.is_integer() {
        let whole: Vec<i64> = values.iter().map(|value| *value as i64).collect();
        return Arc::new(Int64Array::new(ScalarBuffer::from(whole), nulls));
    }
    Arc::new(Float64Array::new(ScalarBuffer::from(values), nulls))
}

/// The names that dictionary columns point at, made once per plant.
#[derive(Debug, Clone)]
pub(super) struct Names {
    lines: Arc<StringArray>,
    devices: Arc<StringArray>,
}

impl Names {
    pub fn new(lines: u32, devices: impl Iterator<Item = String>) -> Self {
        let lines = StringArray::from_iter_values((1..=lines).map(|line| format!("line-{line}")));
        Self { lines: Arc::new(lines), devices: Arc::new(StringArray::from_iter_values(devices)) }
    }
}

impl Plant {
    /// The readings that arrive before `until_us`, at most `rows_max` (and a million) of them, as columns of
    /// [`Plant::schema`]; `None` if none does.
    ///
    /// # Errors
    /// None that a plant can cause; arrow's refusal of the columns is passed on.
    pub fn next_batch(&mut self, rows_max: usize, until_us: i64) -> Result<Option<RecordBatch>> {
        let rows_max = rows_max.clamp(1, ROWS_MAX);
        let mut arrived: Vec<Arrived> = Vec::new();
        let mut columns: Vec<Vec<f64>> = vec![Vec::new(); self.signals().len()];
        while arrived.len() < rows_max {
            let Some(reading) = self.advance(until_us) else { break };
            arrived.push(reading);
            for (column, value) in columns.iter_mut().zip(self.values()) {
                column.push(*value);
            }
        }
        if arrived.is_empty() {
            return Ok(None);
        }
        let names = self.names();
        let lines = arrived.iter().map(|reading| self.line_of(reading.device) as i32).collect();
        let devices = arrived.iter().map(|reading| reading.device as i32).collect();
        let sequences = Int64Array::from_iter_values(arrived.iter().map(|reading| reading.sequence as i64));
        let mut arrays = vec![
            timestamps(arrived.iter().map(|reading| reading.time_us).collect()),
            dictionary(lines, &names.lines)?,
            dictionary(devices, &names.devices)?,
            Arc::new(sequences),
        ];
        let signals = self.signals().iter();
        arrays.extend(columns.into_iter().zip(signals).map(|(values, signal)| column(values, *signal)));
        Ok(Some(RecordBatch::try_new(Arc::clone(self.schema()), arrays)?))
    }

    /// The messages that arrive before `until_us`, as a broker would deliver them: `topic`
    /// (`Dictionary(Int32, Utf8)`), `payload` (`Binary`) and `arrival` (`Timestamp(µs, UTC)`), none of them
    /// nullable. At most `rows_max` messages (and a million), or those of one reading if it has more.
    ///
    /// # Errors
    /// None that a plant can cause; arrow's refusal of the columns is passed on.
    pub fn next_raw_batch(
        &mut self,
        encoder: &Encoder,
        rows_max: usize,
        until_us: i64,
    ) -> Result<Option<RecordBatch>> {
        let rows_max = rows_max.clamp(1, ROWS_MAX);
        let (mut topics, mut arrivals): (Vec<i32>, Vec<i64>) = (Vec::new(), Vec::new());
        let (mut bytes, mut ends): (Vec<u8>, Vec<i32>) = (Vec::new(), vec![0]);
        while (topics.is_empty() || topics.len() + encoder.messages() <= rows_max)
            && bytes.len() < RAW_BYTES_MAX
        {
            let Some(reading) = self.next(until_us) else { break };
            for message in 0..encoder.messages() {
                if encoder.append(&reading, message, &mut bytes) {
                    topics.push((reading.device as usize * encoder.messages() + message) as i32);
                    arrivals.push(reading.delivery_us);
                    ends.push(bytes.len() as i32);
                }
            }
        }
        if topics.is_empty() {
            return Ok(None);
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
        let payloads = BinaryArray::try_new(offsets, Buffer::from_vec(bytes), None)?;
        let arrays =
            vec![dictionary(topics, encoder.topics())?, Arc::new(payloads) as ArrayRef, timestamps(arrivals)];
        Ok(Some(RecordBatch::try_new(raw_schema(), arrays)?))
    }
}
