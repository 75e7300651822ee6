//! How a column of each type lies in a frame, and the writer of columns. Pure. The layout is described in
//! [`super`]; the reader is in [`super::column_reader`].

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, GenericByteArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::filter;
use arrow::datatypes::{
    ArrowNativeType, BinaryType, ByteArrayType, DataType, FieldRef, Int32Type, LargeBinaryType,
    LargeUtf8Type, Utf8Type,
};

use super::super::stage::BlockWriter;
use super::super::transform::{Chooser, Meaning};
use super::super::wire::put_varint;
use crate::error::{Error, Result};

/// Column flag: a validity stream follows and only the valid rows have values.
pub(super) const HAS_NULLS: u8 = 1;
/// Column flag: a varint length and as many bytes follow that a reader may ignore.
pub(super) const HAS_NOTES: u8 = 2;

/// What a type's values look like in a frame.
#[derive(Debug, Clone)]
pub(super) enum Layout {
    Nothing,
    Bits,
    Words { width: usize, meaning: Meaning },
    FixedBytes(usize),
    VariableBytes,
    Dictionary,
    List { item: FieldRef, size: usize, width: usize, meaning: Meaning },
}

impl Layout {
    /// The layout of a type, or why there is none.
    pub(super) fn of(data_type: &DataType) -> Result<Self, String> {
        let words = |width, meaning| Ok(Self::Words { width, meaning });
        match data_type {
            DataType::Null => Ok(Self::Nothing),
            DataType::Boolean => Ok(Self::Bits),
            DataType::Int8 | DataType::UInt8 => words(1, Meaning::Integers),
            DataType::Int16 | DataType::UInt16 => words(2, Meaning::Integers),
            DataType::Int32 | DataType::UInt32 | DataType::Date32 => words(4, Meaning::Integers),
            DataType::Int64 | DataType::UInt64 | DataType::Date64 => words(8, Meaning::Integers),
            DataType::Timestamp(..) | DataType::Duration(_) => words(8, Meaning::Integers),
            DataType::Float16 => words(2, Meaning::Floats),
            DataType::Float32 => words(4, Meaning::Floats),
            DataType::Float64 => words(8, Meaning::Floats),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
                Ok(Self::VariableBytes)
            }
            DataType::FixedSizeBinary(size) if *size > 0 => Ok(Self::FixedBytes(size.as_usize())),
            DataType::Dictionary(key, value) if **key == DataType::Int32 && **value == DataType::Utf8 => {
                Ok(Self::Dictionary)
            }
            DataType::FixedSizeList(item, size) if *size > 0 => match Self::of(item.data_type())? {
                Self::Words { width, meaning } => {
                    Ok(Self::List { item: item.clone(), size: size.as_usize(), width, meaning })
                }
                _ => Err(format!("its type {data_type} is a list of something other than numbers")),
            },
            _ => Err(format!("its type {data_type} is not one that frames carry")),
        }
    }
}

/// Writes columns with one stage; buffers live from column to column.
pub(super) struct ColumnWriter {
    pub(super) stage: BlockWriter,
    chooser: Chooser,
    scratch: Vec<u8>,
    transformed: Vec<u8>,
    lengths: Vec<u8>,
    text: Vec<u8>,
    /// New dictionary key by old one, `u32::MAX` where the value has not occurred.
    keys: Vec<u32>,
    /// When present, receives a copy of every stream after its transform.
    pub(super) samples: Option<Vec<Vec<u8>>>,
}

impl ColumnWriter {
    pub(super) fn new(stage: BlockWriter) -> Self {
        Self {
            stage,
            chooser: Chooser::default(),
            scratch: Vec::new(),
            transformed: Vec::new(),
            lengths: Vec::new(),
            text: Vec::new(),
            keys: Vec::new(),
            samples: None,
        }
    }

    /// Appends a column and says how many bytes its rows take in Arrow's layout.
    pub(super) fn write(&mut self, layout: &Layout, array: &ArrayRef, out: &mut Vec<u8>) -> Result<usize> {
        let nulls = match layout {
            Layout::Nothing => None,
            // A key may point at a null value.
            Layout::Dictionary => array.logical_nulls(),
            _ => array.nulls().cloned(),
        };
        let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else {
            out.push(0);
            return self.values(layout, array, out);
        };
        out.push(HAS_NULLS);
        let validity = packed_bits(nulls.inner());
        self.stream(Meaning::Bytes, 1, &validity, out)?;
        let dense = filter(array, &BooleanArray::new(nulls.inner().clone(), None))?;
        Ok(validity.len() + self.values(layout, &dense, out)? + absent_bytes(layout, &nulls))
    }

    /// Appends the values of an array without nulls.
    fn values(&mut self, layout: &Layout, array: &ArrayRef, out: &mut Vec<u8>) -> Result<usize> {
        let rows = array.len();
        match layout {
            Layout::Nothing => Ok(0),
            Layout::Bits => {
                let bits = packed_bits(array.as_boolean().values());
                self.stream(Meaning::Bytes, 1, &bits, out)?;
                Ok(bits.len())
            }
            Layout::Words { width, meaning } => {
                let data = array.to_data();
                let bytes = data
                    .buffers()
                    .first()
                    .and_then(|buffer| buffer.get(data.offset() * width..(data.offset() + rows) * width))
                    .ok_or_else(|| Error::data("a column's buffer is shorter than the column"))?;
                self.stream(*meaning, *width, bytes, out)?;
                Ok(bytes.len())
            }
            Layout::FixedBytes(size) => {
                let bytes = &array.as_fixed_size_binary().value_data()[..rows * size];
                self.stream(Meaning::Bytes, 1, bytes, out)?;
                Ok(bytes.len())
            }
            Layout::VariableBytes => match array.data_type() {
                DataType::Utf8 => self.variable(array.as_bytes::<Utf8Type>(), out),
                DataType::LargeUtf8 => self.variable(array.as_bytes::<LargeUtf8Type>(), out),
                DataType::Binary => self.variable(array.as_bytes::<BinaryType>(), out),
                _ => self.variable(array.as_bytes::<LargeBinaryType>(), out),
            },
            Layout::Dictionary => self.dictionary(array, out),
            Layout::List { size, width, meaning, .. } => {
                let list = array.as_fixed_size_list();
                let items = list.values().slice(0, rows * size);
                self.write(&Layout::Words { width: *width, meaning: *meaning }, &items, out)
            }
        }
    }

    /// The lengths of the values, then all their bytes.
    fn variable<T: ByteArrayType>(
        &mut self,
        array: &GenericByteArray<T>,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let offsets = array.value_offsets();
        let mut lengths = std::mem::take(&mut self.lengths);
        lengths.clear();
        for pair in offsets.windows(2) {
            let length = pair[1].as_usize() - pair[0].as_usize();
            let length = u32::try_from(length)
                .map_err(|_| Error::data(format!("a value of {length} bytes does not fit a frame")))?;
            lengths.extend_from_slice(&length.to_le_bytes());
        }
        let range = match offsets {
            [first, .., last] => first.as_usize()..last.as_usize(),
            _ => 0..0,
        };
        let bytes = &array.value_data()[range];
        let written = self.stream(Meaning::Integers, 4, &lengths, out);
        self.lengths = lengths;
        written?;
        self.stream(Meaning::Bytes, 1, bytes, out)?;
        Ok(size_of_val(offsets) + bytes.len())
    }

    /// The keys, numbered anew in the order in which their values first occur, and then those values.
    fn dictionary(&mut self, array: &ArrayRef, out: &mut Vec<u8>) -> Result<usize> {
        let array = array.as_dictionary::<Int32Type>();
        let values = array.values().as_string::<i32>();
        let mut text = std::mem::take(&mut self.text);
        let mut lengths = std::mem::take(&mut self.lengths);
        let mut words = Vec::with_capacity(array.len() * 4);
        text.clear();
        lengths.clear();
        self.keys.clear();
        self.keys.resize(values.len(), u32::MAX);
        let mut used = 0u32;
        for key in array.keys().values() {
            let new = &mut self.keys[key.as_usize()];
            if *new == u32::MAX {
                *new = used;
                used += 1;
                let value = values.value(key.as_usize());
                // Offsets of Utf8 are 32 bits, so that no value is longer.
                lengths.extend_from_slice(&(value.len() as u32).to_le_bytes());
                text.extend_from_slice(value.as_bytes());
            }
            words.extend_from_slice(&new.to_le_bytes());
        }
        let written = self.stream(Meaning::Integers, 4, &words, out).and_then(|()| {
            put_varint(u64::from(used), out);
            self.stream(Meaning::Integers, 4, &lengths, out)?;
            self.stream(Meaning::Bytes, 1, &text, out)
        });
        let raw_bytes = words.len() + lengths.len() + 4 + text.len();
        self.text = text;
        self.lengths = lengths;
        written.map(|()| raw_bytes)
    }

    /// Appends a stream: transform id, then the transformed bytes as a block.
    fn stream(&mut self, meaning: Meaning, width: usize, values: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let transform = self.chooser.choose(meaning, width, values, &mut self.stage)?;
        transform.apply(width, values, &mut self.scratch, &mut self.transformed);
        out.push(transform as u8);
        if let Some(samples) = &mut self.samples {
            samples.push(self.transformed.clone());
        }
        self.stage.write(&self.transformed, transform.segment(width, self.transformed.len()), out)
    }
}

/// The bytes that null rows take in Arrow's layout and a frame does not have.
fn absent_bytes(layout: &Layout, nulls: &NullBuffer) -> usize {
    let width = match layout {
        Layout::Nothing | Layout::Bits => 0,
        Layout::Words { width, .. } => *width,
        Layout::FixedBytes(size) => *size,
        Layout::VariableBytes | Layout::Dictionary => 4,
        Layout::List { size, width, .. } => size * width,
    };
    nulls.null_count() * width
}

/// Eight rows per byte, the first row lowest; what is left of the last byte is zero.
fn packed_bits(bits: &BooleanBuffer) -> Vec<u8> {
    let mut bytes = bits.sliced().as_slice()[..bits.len().div_ceil(8)].to_vec();
    if let (Some(last), used @ 1..) = (bytes.last_mut(), bits.len() % 8) {
        *last &= (1 << used) - 1;
    }
    bytes
}
