//! The decoding operator: payloads to rows, tags beside them, bad payloads aside. Pure.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Int32Type, SchemaRef, TimestampMicrosecondType};

use super::progress::Progress;
use super::tags::Tags;
use crate::codec::payload::{BadReason, PayloadDecoder};
use crate::codec::rows::Rows;
use crate::core::{EventTime, Operator, Output, StateReader, StateWriter};
use crate::error::{Error, Result};

/// Decoded rows go on when there are so many. Messages that are arrays can make many of one batch.
const PIECE_ROWS: usize = 1 << 16;

/// Decoded rows go on when they hold so many bytes. One payload more may be on top.
const PIECE_BYTES: usize = 32 << 20;

/// The operator `decode`.
pub(super) struct Decode {
    /// How messages become rows; without it rows are rows already.
    pub messages: Option<Messages>,
    /// The time of the rows, where it is not that of the input.
    pub progress: Option<Progress>,
}

impl Operator for Decode {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        match &mut self.messages {
            Some(messages) => messages.decode(&batch, self.progress.as_mut(), out),
            None => send(batch, self.progress.as_mut(), out),
        }
    }

    fn watermark(&mut self, to: EventTime, _out: &mut Output) -> Result<()> {
        if let Some(progress) = &mut self.progress
            && to == EventTime::MAX
        {
            progress.end();
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        self.progress.as_ref().and_then(Progress::deadline)
    }

    fn tick(&mut self, out: &mut Output) -> Result<()> {
        if let Some(progress) = &mut self.progress {
            progress.tick(out);
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        if let Some(progress) = &self.progress {
            progress.save(state);
        }
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.progress.as_mut().map_or(Ok(()), |progress| progress.load(state))
    }
}

fn send(batch: RecordBatch, progress: Option<&mut Progress>, out: &mut Output) -> Result<()> {
    match progress {
        Some(progress) => progress.send(batch, out),
        None => {
            out.emit(0, batch);
            Ok(())
        }
    }
}

/// Where things stand in the input.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The time of a message: of its arrival, or that of the row it is in.
    pub time: usize,
    /// The payload, binary or text.
    pub payload: usize,
    /// The topic, where tags are made of it.
    pub topic: Option<usize>,
    /// What is carried along.
    pub carried: Vec<usize>,
    /// What a bad payload is carried away with.
    pub carried_bad: Vec<usize>,
}

/// A way out.
#[derive(Debug, Clone)]
pub(super) struct BadPort {
    pub port: usize,
    pub schema: SchemaRef,
}

/// Makes rows of messages.
pub(super) struct Messages {
    frame: Frame,
    decoding: Option<Decoding>,
}

/// Makes fields of payloads.
pub(super) struct Decoding {
    pub decoder: PayloadDecoder,
    pub rows: Rows,
    pub bad_port: BadPort,
    /// The bad payloads of the batch: their place, and why.
    pub bad: Vec<(u32, BadReason)>,
}

/// What stands around the fields of a row: where it is taken from, and the columns it goes to.
struct Frame {
    places: Places,
    schema: SchemaRef,
    tags: Tags,
    /// For each row in the making, the place of its message in the batch.
    origins: Vec<u32>,
}

impl Messages {
    /// For an input with these places; rows come out in `schema`. Without `decoding` payloads stay as they are.
    pub(super) fn new(places: Places, schema: SchemaRef, tags: Tags, decoding: Option<Decoding>) -> Self {
        Self { frame: Frame { places, schema, tags, origins: Vec::new() }, decoding }
    }

    fn decode(
        &mut self,
        batch: &RecordBatch,
        mut progress: Option<&mut Progress>,
        out: &mut Output,
    ) -> Result<()> {
        let Self { frame, decoding } = self;
        let count = u32::try_from(batch.num_rows()).map_err(|_| Error::data("a batch of 2³² rows"))?;
        frame.origins.clear();
        let time = batch.column(frame.places.time);
        let Some(decoding) = decoding else {
            frame.origins.extend(0..count);
            return send(frame.rows(batch, vec![Arc::clone(time)])?, progress, out);
        };
        let payloads = Payloads::of(batch.column(frame.places.payload))?;
        let times = time
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| Error::data("the times of messages are no times"))?;
        for (place, time) in (0..count).zip(times.values().iter()) {
            match decoding.decoder.decode(payloads.get(place as usize), *time, &mut decoding.rows) {
                Ok(1) => frame.origins.push(place),
                Ok(readings) => frame.origins.extend(std::iter::repeat_n(place, readings)),
                Err(bad) => decoding.bad.push((place, bad.reason)),
            }
            if decoding.rows.len() >= PIECE_ROWS || decoding.rows.bytes() >= PIECE_BYTES {
                send(frame.rows(batch, decoding.rows.finish()?)?, progress.as_deref_mut(), out)?;
            }
        }
        if !decoding.rows.is_empty() {
            send(frame.rows(batch, decoding.rows.finish()?)?, progress, out)?;
        }
        if !decoding.bad.is_empty() {
            decoding.send_bad(batch, &frame.places, out)?;
        }
        Ok(())
    }
}

impl Frame {
    /// Rows of the messages at `origins`, which it empties: their time and fields, and what goes with them.
    fn rows(&mut self, batch: &RecordBatch, mut decoded: Vec<ArrayRef>) -> Result<RecordBatch> {
        let fields = decoded.split_off(decoded.len().min(1));
        let mut columns = decoded;
        columns.reserve(self.schema.fields().len());
        if let Some(topic) = self.places.topic {
            let topics = batch
                .column(topic)
                .as_dictionary_opt::<Int32Type>()
                .ok_or_else(|| Error::data("the topics of messages are no dictionary"))?;
            columns.extend(self.tags.columns(topics, &self.origins)?);
        }
        carry(batch, &self.places.carried, &self.origins, &mut columns)?;
        columns.extend(fields);
        self.origins.clear();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl Decoding {
    /// Counts the bad payloads and sends them out of their port.
    fn send_bad(&mut self, batch: &RecordBatch, places: &Places, out: &mut Output) -> Result<()> {
        for reason in BadReason::ALL {
            let count = self.bad.iter().filter(|(_, bad)| *bad == reason).count();
            out.count("bad_payloads", reason.label(), count as u64);
        }
        if !out.wants(self.bad_port.port) {
            self.bad.clear();
            return Ok(());
        }
        let reasons = StringArray::from_iter_values(self.bad.iter().map(|(_, reason)| reason.label()));
        let rows: Vec<u32> = self.bad.drain(..).map(|(place, _)| place).collect();
        let mut columns = Vec::with_capacity(self.bad_port.schema.fields().len());
        carry(batch, &[places.time], &rows, &mut columns)?;
        carry(batch, &places.carried_bad, &rows, &mut columns)?;
        columns.push(Arc::new(reasons));
        carry(batch, &[places.payload], &rows, &mut columns)?;
        out.emit(self.bad_port.port, RecordBatch::try_new(Arc::clone(&self.bad_port.schema), columns)?);
        Ok(())
    }
}

/// Adds some columns of a batch at the given rows, which are ascending and may repeat.
fn carry(batch: &RecordBatch, columns: &[usize], rows: &[u32], to: &mut Vec<ArrayRef>) -> Result<()> {
    if columns.is_empty() {
        return Ok(());
    }
    let all = rows.len() == batch.num_rows() && rows.iter().zip(0..).all(|(row, place)| *row == place);
    let indices = if all { None } else { Some(UInt32Array::from(rows.to_vec())) };
    for column in columns {
        let column = batch.column(*column);
        to.push(match &indices {
            None => Arc::clone(column),
            Some(indices) => take(column, indices, None)?,
        });
    }
    Ok(())
}

/// The payloads of a batch.
struct Payloads<'a> {
    offsets: &'a [i32],
    bytes: &'a [u8],
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Payloads<'a> {
    fn of(column: &'a ArrayRef) -> Result<Self> {
        let (offsets, bytes) = match column.data_type() {
            DataType::Binary => {
                let column = column.as_binary::<i32>();
                (column.value_offsets(), column.value_data())
            }
            DataType::Utf8 => {
                let column = column.as_string::<i32>();
                (column.value_offsets(), column.value_data())
            }
            other => return Err(Error::data(format!("payloads of the type {other} cannot be decoded"))),
        };
        Ok(Self { offsets, bytes, nulls: column.nulls() })
    }

    /// The payload at a place; a null one is empty.
    #[inline]
    fn get(&self, place: usize) -> &'a [u8] {
        if self.nulls.is_some_and(|nulls| nulls.is_null(place)) {
            return &[];
        }
        match self.offsets.get(place..place + 2) {
            Some(&[start, end]) => self.bytes.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }
}
