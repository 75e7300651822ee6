//! Decoded rows on their way to Arrow: one row in slots, and the columns of the batch that grows. Pure.
//!
//! A decoder writes the values of a row into the slots of a [`Row`] and pushes the whole row to [`Rows`]: absent
//! fields are null, the last of several values wins, and a row that turns out bad was never there. The columns own
//! plain vectors that become Arrow buffers without a copy; per row nothing is allocated.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use super::fields::{FieldKind, RowFormat, TimeField};
use super::payload::{BadReason, PAYLOAD_TEXT_BYTES_MAX};
use crate::core::schema::time_type;
use crate::error::Result;

/// Where the value of a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Nowhere: the field is absent or null.
    Nothing,
    /// In the slot, or, for a text, in the payload.
    Here,
    /// A text in the row's own bytes, because it had to be unescaped.
    Scratch,
}

/// One value of a row: its bits, or the start and length of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    bits: u64,
    length: u32,
    held: Held,
}

const NOTHING: Slot = Slot { bits: 0, length: 0, held: Held::Nothing };

/// The values of one row while it is decoded.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Slot 0 is the time.
    slots: Vec<Slot>,
    /// Unescaped texts, and room to unescape what is only looked at.
    pub(super) text: Vec<u8>,
    arrival_is_time: bool,
}

impl Row {
    pub(super) fn new(format: &RowFormat) -> Self {
        Self {
            slots: vec![NOTHING; format.fields.len() + 1],
            text: Vec::new(),
            arrival_is_time: format.time == TimeField::Arrival,
        }
    }

    /// Empties the row; where the arrival is the time, sets it.
    #[inline]
    pub(super) fn clear(&mut self, arrival_us: i64) {
        self.text.clear();
        self.slots.fill(NOTHING);
        if self.arrival_is_time
            && let Some(time) = self.slots.first_mut()
        {
            *time = Slot { bits: arrival_us as u64, length: 0, held: Held::Here };
        }
    }

    /// Makes this row equal to `other`, keeping the allocations.
    pub(super) fn copy_from(&mut self, other: &Row) {
        self.slots.copy_from_slice(&other.slots);
        self.text.clear();
        self.text.extend_from_slice(&other.text);
    }

    /// Whether both rows hold the same values in the same places.
    pub(super) fn same_as(&self, other: &Row) -> bool {
        self.slots == other.slots
    }

    /// Whether the time is known.
    pub(super) fn has_time(&self) -> bool {
        self.slots.first().is_some_and(|time| time.held != Held::Nothing)
    }

    #[inline]
    pub(super) fn set(&mut self, slot: u16, bits: u64) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Slot { bits, length: 0, held: Held::Here };
        }
    }

    #[inline]
    pub(super) fn set_null(&mut self, slot: u16) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = NOTHING;
        }
    }

    /// A text that stands at `start..end` of the payload. Payloads are far below 4 GiB.
    #[inline]
    pub(super) fn set_text(&mut self, slot: u16, start: usize, end: usize) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Slot { bits: start as u64, length: (end - start) as u32, held: Held::Here };
        }
    }

    /// A text that stands in `self.text` from `start` to its end.
    pub(super) fn set_scratch(&mut self, slot: u16, start: usize) {
        let length = (self.text.len() - start) as u32;
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Slot { bits: start as u64, length, held: Held::Scratch };
        }
    }

    fn text_of<'a>(&'a self, slot: &Slot, payload: &'a [u8]) -> &'a [u8] {
        let start = slot.bits as usize;
        let range = start..start + slot.length as usize;
        match slot.held {
            Held::Nothing => &[],
            Held::Here => payload.get(range).unwrap_or_default(),
            Held::Scratch => self.text.get(range).unwrap_or_default(),
        }
    }
}

/// Which rows are null. All rows are valid until one is not, so a column without nulls costs nothing.
#[derive(Debug, Default)]
struct Validity {
    /// One bit per row from the lowest, 1 is valid; rows past the end are valid.
    bits: Vec<u8>,
    nulls: usize,
}

impl Validity {
    fn set_null(&mut self, row: usize) {
        if self.bits.len() <= row / 8 {
            self.bits.resize(row / 8 + 1, 0xff);
        }
        if let Some(byte) = self.bits.get_mut(row / 8) {
            *byte &= !(1 << (row % 8));
            self.nulls += 1;
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.bits.truncate(rows.div_ceil(8));
        if let Some(last) = self.bits.get_mut(rows / 8) {
            *last |= 0xff << (rows % 8);
        }
        self.nulls = self.bits.iter().map(|byte| byte.count_zeros() as usize).sum();
    }

    fn finish(&mut self, rows: usize) -> Option<NullBuffer> {
        let mut bits = std::mem::take(&mut self.bits);
        if std::mem::take(&mut self.nulls) == 0 {
            return None;
        }
        bits.resize(rows.div_ceil(8), 0xff);
        Some(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows)))
    }
}

#[derive(Debug)]
enum Values {
    F64(Vec<f64>),
    F32(Vec<f32>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
    Text { offsets: Vec<i32>, bytes: Vec<u8> },
    Time(Vec<i64>),
}

#[derive(Debug)]
struct Column {
    values: Values,
    validity: Validity,
}

impl Column {
    fn new(kind: FieldKind) -> Self {
        let values = match kind {
            FieldKind::F64 => Values::F64(Vec::new()),
            FieldKind::F32 => Values::F32(Vec::new()),
            FieldKind::I64 => Values::I64(Vec::new()),
            FieldKind::Bool => Values::Bool(Vec::new()),
            FieldKind::Text => Values::Text { offsets: vec![0], bytes: Vec::new() },
            FieldKind::Time(_) => Values::Time(Vec::new()),
        };
        Self { values, validity: Validity::default() }
    }

    fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::F64(values) => values.truncate(rows),
            Values::F32(values) => values.truncate(rows),
            Values::I64(values) | Values::Time(values) => values.truncate(rows),
            Values::Bool(values) => values.truncate(rows),
            Values::Text { offsets, bytes } => {
                offsets.truncate(rows + 1);
                bytes.truncate(offsets.last().map_or(0, |&end| end as usize));
            }
        }
        self.validity.truncate(rows);
    }

    /// The column as an array of `rows` rows; room for as many stays behind.
    fn finish(&mut self, rows: usize) -> Result<ArrayRef> {
        let nulls = self.validity.finish(rows);
        Ok(match &mut self.values {
            Values::F64(values) => Arc::new(Float64Array::try_new(scalars(values), nulls)?),
            Values::F32(values) => Arc::new(Float32Array::try_new(scalars(values), nulls)?),
            Values::I64(values) => Arc::new(Int64Array::try_new(scalars(values), nulls)?),
            Values::Time(values) => Arc::new(
                TimestampMicrosecondArray::try_new(scalars(values), nulls)?.with_data_type(time_type()),
            ),
            Values::Bool(values) => {
                let array = BooleanArray::new(BooleanBuffer::from(values.as_slice()), nulls);
                values.clear();
                Arc::new(array)
            }
            Values::Text { offsets, bytes } => {
                let mut next = Vec::with_capacity(offsets.len());
                next.push(0);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, next)));
                let room = bytes.len();
                let bytes = Buffer::from_vec(std::mem::replace(bytes, Vec::with_capacity(room)));
                Arc::new(StringArray::try_new(offsets, bytes, nulls)?)
            }
        })
    }
}

/// Takes the values out and leaves room for as many: the next batch is about as large.
fn scalars<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    let room = values.len();
    ScalarBuffer::from(std::mem::replace(values, Vec::with_capacity(room)))
}

/// The rows of the batch that grows: `time`, then one column per field of the format.
#[derive(Debug)]
pub struct Rows {
    time: Vec<i64>,
    columns: Vec<Column>,
    text_bytes: usize,
    text_bytes_limit: usize,
}

/// A state of [`Rows`] to go back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) rows: usize,
    text_bytes: usize,
}

impl Rows {
    /// No rows yet, in the columns of this format.
    pub fn new(format: &RowFormat) -> Self {
        Self {
            time: Vec::new(),
            columns: format.fields.iter().map(|field| Column::new(field.kind)).collect(),
            text_bytes: 0,
            text_bytes_limit: PAYLOAD_TEXT_BYTES_MAX,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// About how many bytes the rows hold. Finish the batch well before 1 GiB: text offsets have 31 bits, and a
    /// payload that does not fit is refused as too large.
    pub fn bytes(&self) -> usize {
        self.time.len() * 8 * (self.columns.len() + 1) + self.text_bytes
    }

    /// The times of the rows so far, in µs since 1970.
    pub fn times(&self) -> &[i64] {
        &self.time
    }

    /// Keeps the first `rows` rows.
    pub fn truncate(&mut self, rows: usize) {
        self.time.truncate(rows);
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
        self.text_bytes = self.columns.iter().map(text_bytes).sum();
    }

    /// Turns the rows into arrays (`time` first, as in [`RowFormat::arrow_fields`]) and starts anew.
    pub fn finish(&mut self) -> Result<Vec<ArrayRef>> {
        let rows = self.time.len();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 1);
        let time =
            TimestampMicrosecondArray::try_new(scalars(&mut self.time), None)?.with_data_type(time_type());
        arrays.push(Arc::new(time));
        self.text_bytes = 0;
        for column in &mut self.columns {
            arrays.push(column.finish(rows)?);
        }
        Ok(arrays)
    }

    /// Before a payload: the state to go back to, and from here the payload's bound on text counts.
    #[inline]
    pub(super) fn begin(&mut self) -> Mark {
        self.text_bytes_limit = (self.text_bytes + PAYLOAD_TEXT_BYTES_MAX).min(i32::MAX as usize);
        Mark { rows: self.time.len(), text_bytes: self.text_bytes }
    }

    /// Back to the state of `mark`, also from the middle of a push.
    #[cold]
    pub(super) fn rollback(&mut self, mark: Mark) {
        self.time.truncate(mark.rows);
        self.columns.iter_mut().for_each(|column| column.truncate(mark.rows));
        self.text_bytes = mark.text_bytes;
    }

    /// Appends a row. After an error the columns differ in length until [`Rows::rollback`].
    #[inline]
    pub(super) fn push(&mut self, row: &Row, payload: &[u8]) -> Result<(), BadReason> {
        let Some((time, slots)) = row.slots.split_first() else { return Err(BadReason::BadTime) };
        if time.held == Held::Nothing {
            return Err(BadReason::BadTime);
        }
        let at = self.time.len();
        self.time.push(time.bits as i64);
        for (column, slot) in self.columns.iter_mut().zip(slots) {
            match &mut column.values {
                Values::F64(values) => values.push(f64::from_bits(slot.bits)),
                Values::F32(values) => values.push(f32::from_bits(slot.bits as u32)),
                Values::I64(values) | Values::Time(values) => values.push(slot.bits as i64),
                Values::Bool(values) => values.push(slot.bits != 0),
                Values::Text { offsets, bytes } => {
                    let text = row.text_of(slot, payload);
                    self.text_bytes += text.len();
                    if self.text_bytes > self.text_bytes_limit {
                        return Err(BadReason::TooLarge);
                    }
                    bytes.extend_from_slice(text);
                    offsets.push(bytes.len() as i32);
                }
            }
            if slot.held == Held::Nothing {
                column.validity.set_null(at);
            }
        }
        Ok(())
    }
}

fn text_bytes(column: &Column) -> usize {
    match &column.values {
        Values::Text { bytes, .. } => bytes.len(),
        _ => 0,
    }
}
