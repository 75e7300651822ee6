//! The reader of columns, over foreign bytes. Pure. The layout is described in [`super`].
//!
//! Two kinds of trouble are told apart: what this version does not know makes the column unreadable and
//! nothing else; what is damaged makes the frame an error.

use std::sync::Arc;

use arrow::array::{
    ArrayData, ArrayRef, BooleanArray, DictionaryArray, FixedSizeListArray, Int32Array, NullArray,
    StringArray, UInt32Array, make_array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::take;
use arrow::datatypes::{DataType, Int32Type};

use super::super::series::{Meaning, SeriesReader};
use super::super::stage::{Block, BlockReader};
use super::super::wire::Reader;
use super::column::{HAS_NOTES, HAS_NULLS, Layout};
use crate::error::{Error, Result};

pub(super) use super::super::series::Fault;

impl From<arrow::error::ArrowError> for Fault {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Damaged(error.into())
    }
}

/// Reads the columns of one frame within a budget of memory.
pub(super) struct ColumnReader<'a> {
    pub(super) blocks: &'a mut BlockReader,
    pub(super) series: &'a mut SeriesReader,
    /// How many bytes the columns still to be read may take.
    pub(super) budget_bytes: usize,
}

impl ColumnReader<'_> {
    /// Reads a whole column.
    pub(super) fn read(
        &mut self,
        data_type: &DataType,
        rows: usize,
        bytes: &[u8],
    ) -> Result<ArrayRef, Fault> {
        let layout = Layout::of(data_type).map_err(Fault::Unknown)?;
        let mut reader = Reader::new(bytes);
        let array = self.column(&layout, data_type, rows, &mut reader)?;
        if reader.remaining() > 0 {
            return Err(Error::data(format!("{} bytes are left over", reader.remaining())).into());
        }
        Ok(array)
    }

    fn column(
        &mut self,
        layout: &Layout,
        data_type: &DataType,
        rows: usize,
        reader: &mut Reader<'_>,
    ) -> Result<ArrayRef, Fault> {
        let flags = reader.u8()?;
        if flags & !(HAS_NULLS | HAS_NOTES) != 0 {
            return Err(Fault::Unknown(format!("its flags {flags:#04x} are not known to this version")));
        }
        if flags & HAS_NOTES != 0 {
            reader.bytes()?;
        }
        if flags & HAS_NULLS == 0 {
            return self.values(layout, data_type, rows, reader);
        }
        let nulls = NullBuffer::new(self.bits(rows, reader)?);
        let dense_rows = rows - nulls.null_count();
        let before_bytes = self.budget_bytes;
        let dense = self.values(layout, data_type, dense_rows, reader)?;
        let dense_bytes = before_bytes - self.budget_bytes;
        self.charge(1, spread_bytes(layout, rows))?;
        if dense_rows == 0 {
            return Ok(new_null_array(data_type, rows));
        }
        let places_bytes = self.charge(1, places_bytes(layout, rows))?;
        let spread = spread(&dense, nulls)?;
        self.budget_bytes += places_bytes;
        if !matches!(layout, Layout::VariableBytes | Layout::Dictionary) {
            self.budget_bytes += dense_bytes;
        }
        Ok(spread)
    }

    fn values(
        &mut self,
        layout: &Layout,
        data_type: &DataType,
        rows: usize,
        reader: &mut Reader<'_>,
    ) -> Result<ArrayRef, Fault> {
        Ok(match layout {
            Layout::Nothing => Arc::new(NullArray::new(rows)),
            Layout::Bits => Arc::new(BooleanArray::new(self.bits(rows, reader)?, None)),
            Layout::Words { width, meaning } => {
                let buffer = if *width == 1 {
                    self.bytes(rows, reader)?
                } else {
                    self.series(*meaning, *width, rows, reader)?
                };
                make_array(ArrayData::builder(data_type.clone()).len(rows).add_buffer(buffer).build()?)
            }
            Layout::FixedBytes(size) => {
                let buffer = self.bytes(rows.saturating_mul(*size), reader)?;
                make_array(ArrayData::builder(data_type.clone()).len(rows).add_buffer(buffer).build()?)
            }
            Layout::VariableBytes => {
                let large = matches!(data_type, DataType::LargeUtf8 | DataType::LargeBinary);
                let (offsets, bytes) = self.variable(rows, large, reader)?;
                let data =
                    ArrayData::builder(data_type.clone()).len(rows).add_buffer(offsets).add_buffer(bytes);
                make_array(data.build()?)
            }
            Layout::Dictionary => {
                let keys = self.series(Meaning::Unsigned, 4, rows, &mut Reader::new(reader.bytes()?))?;
                // Every value occurs at least once.
                let count = reader.length(rows, "the size of a dictionary")?;
                let (offsets, bytes) = self.variable(count, false, reader)?;
                let offsets = OffsetBuffer::new(ScalarBuffer::new(offsets, 0, count + 1));
                let values = StringArray::try_new(offsets, bytes, None)?;
                let keys = Int32Array::new(ScalarBuffer::new(keys, 0, rows), None);
                Arc::new(DictionaryArray::<Int32Type>::try_new(keys, Arc::new(values))?)
            }
            Layout::List { item, size, width, meaning } => {
                let items =
                    rows.checked_mul(*size).ok_or_else(|| Error::data("a list column is too long"))?;
                let layout = Layout::Words { width: *width, meaning: *meaning };
                let values = self.column(&layout, item.data_type(), items, reader)?;
                // The size came from a type, where it was an i32.
                Arc::new(FixedSizeListArray::try_new(item.clone(), *size as i32, values, None)?)
            }
        })
    }

    /// Takes `count * width` bytes from the budget before they are allocated.
    fn charge(&mut self, count: usize, width: usize) -> Result<usize, Fault> {
        let bytes = count.saturating_mul(width);
        if bytes > self.budget_bytes {
            return Err(Error::data(format!(
                "the frame's columns take more memory than is allowed ({bytes} bytes where {} are left)",
                self.budget_bytes
            ))
            .into());
        }
        self.budget_bytes -= bytes;
        Ok(bytes)
    }

    /// A series of `count` words, to the end of the reader.
    fn series(
        &mut self,
        meaning: Meaning,
        width: usize,
        count: usize,
        reader: &mut Reader<'_>,
    ) -> Result<Buffer, Fault> {
        let bytes = self.charge(count, width)?;
        let mut values = MutableBuffer::from_len_zeroed(bytes);
        self.series.read(meaning, width, reader, self.blocks, values.as_slice_mut())?;
        if reader.remaining() > 0 {
            return Err(Error::data(format!("{} bytes are left over", reader.remaining())).into());
        }
        Ok(values.into())
    }

    /// A block of `count` bytes.
    fn bytes(&mut self, count: usize, reader: &mut Reader<'_>) -> Result<Buffer, Fault> {
        let block = Block::read(reader)?;
        if !self.blocks.knows(block.stage) {
            return Err(Fault::Unknown(format!("its stage {} is not known to this version", block.stage)));
        }
        self.charge(count, 1)?;
        let raw = self.blocks.read(block, count)?;
        if raw.len() != count {
            return Err(Error::data(format!("{} bytes of values where {count} belong", raw.len())).into());
        }
        Ok(Buffer::from_slice_ref(raw))
    }

    fn bits(&mut self, rows: usize, reader: &mut Reader<'_>) -> Result<BooleanBuffer, Fault> {
        let bytes = self.bytes(rows.div_ceil(8), reader)?;
        Ok(BooleanBuffer::new(bytes, 0, rows))
    }

    /// Lengths and bytes, as an Arrow offset buffer of `i32` or `i64` and the bytes.
    fn variable(
        &mut self,
        rows: usize,
        large: bool,
        reader: &mut Reader<'_>,
    ) -> Result<(Buffer, Buffer), Fault> {
        let lengths = self.series(Meaning::Unsigned, 4, rows, &mut Reader::new(reader.bytes()?))?;
        let lengths = ScalarBuffer::<u32>::new(lengths, 0, rows);
        let total: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let total = usize::try_from(total)
            .ok()
            .filter(|&total| total <= i32::MAX as usize)
            .ok_or_else(|| Error::data(format!("values of {total} bytes in one column")))?;
        self.charge(rows + 1, if large { 8 } else { 4 })?;
        let offsets = if large {
            Buffer::from_vec(offsets_of(&lengths, i64::from))
        } else {
            Buffer::from_vec(offsets_of(&lengths, |total| total))
        };
        Ok((offsets, self.bytes(total, reader)?))
    }
}

/// Running sums, which the caller has proven to fit an `i32`.
fn offsets_of<T>(lengths: &[u32], convert: impl Fn(i32) -> T) -> Vec<T> {
    let mut total = 0i32;
    let mut offsets = Vec::with_capacity(lengths.len() + 1);
    offsets.push(convert(0));
    offsets.extend(lengths.iter().map(|&length| {
        total += length as i32;
        convert(total)
    }));
    offsets
}

/// What [`spread`] makes of `rows` rows: fixed-width values, or the offsets or keys of variable ones.
fn spread_bytes(layout: &Layout, rows: usize) -> usize {
    match layout {
        Layout::Nothing => 0,
        Layout::Bits => rows.div_ceil(8),
        Layout::Words { width, .. } => rows.saturating_mul(*width),
        Layout::FixedBytes(size) => rows.saturating_mul(*size),
        Layout::VariableBytes => rows.saturating_add(1).saturating_mul(8),
        Layout::Dictionary => rows.saturating_mul(4),
        Layout::List { size, width, .. } => rows.saturating_mul(*size).saturating_mul(*width),
    }
}

/// What [`spread`] needs on the way: the place of every row, and perhaps of every item of a list.
fn places_bytes(layout: &Layout, rows: usize) -> usize {
    match layout {
        Layout::List { size, .. } => rows.saturating_mul(size.saturating_add(1)).saturating_mul(4),
        _ => rows.saturating_mul(4),
    }
}

/// Puts the values of the valid rows where they belong.
fn spread(dense: &ArrayRef, nulls: NullBuffer) -> Result<ArrayRef, Fault> {
    let mut next = 0u32;
    let places: Vec<u32> = nulls
        .iter()
        .map(|valid| {
            let place = if valid { next } else { 0 };
            next += u32::from(valid);
            place
        })
        .collect();
    let places = UInt32Array::new(places.into(), Some(nulls));
    Ok(take(dense, &places, None)?)
}
