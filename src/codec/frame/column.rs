//! How a column of each type lies in a frame, and the writer of columns. Pure. The layout is described in
//! [`super`]; the reader is in [`super::column_reader`].

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, GenericByteArray, downcast_primitive};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::filter;
use arrow::datatypes::{
    ArrowNativeType, BinaryType, ByteArrayType, DataType, FieldRef, Int32Type, LargeBinaryType,
    LargeUtf8Type, Utf8Type,
};

use super::super::series::{Meaning, SeriesWriter};
use super::super::stage::{BlockWriter, Stage};
use super::super::wire::{put_bytes, put_varint};
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
            DataType::Int8 => words(1, Meaning::Signed),
            DataType::UInt8 => words(1, Meaning::Unsigned),
            DataType::Int16 => words(2, Meaning::Signed),
            DataType::UInt16 => words(2, Meaning::Unsigned),
            DataType::Int32 | DataType::Date32 => words(4, Meaning::Signed),
            DataType::UInt32 => words(4, Meaning::Unsigned),
            DataType::UInt64 => words(8, Meaning::Unsigned),
            DataType::Int64 | DataType::Date64 => words(8, Meaning::Signed),
            DataType::Timestamp(..) | DataType::Duration(_) => words(8, Meaning::Signed),
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

/// Writes columns with one stage; buffers and choices live from batch to batch.
pub(super) struct ColumnWriter {
    pub(super) stage: BlockWriter,
    series: SeriesWriter,
    /// The number of the next series of this frame: series with the same number are alike from frame to frame.
    slot: usize,
    part: Vec<u8>,
    words: Vec<u8>,
    lengths: Vec<u8>,
    text: Vec<u8>,
    /// New dictionary key by old one, `u32::MAX` where the value has not occurred.
    keys: Vec<u32>,
}

/// Whether the column ends with a series, which then needs no length before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Within,
    Last,
}

impl ColumnWriter {
    pub(super) fn new(stage: &Stage) -> Result<Self> {
        Ok(Self {
            stage: BlockWriter::new(stage)?,
            series: SeriesWriter::new(stage)?,
            slot: 0,
            part: Vec::new(),
            words: Vec::new(),
            lengths: Vec::new(),
            text: Vec::new(),
            keys: Vec::new(),
        })
    }

    /// Another frame begins; with other columns than the last one, what was chosen for those is forgotten.
    pub(super) fn begin(&mut self, same_columns: bool) {
        self.slot = 0;
        if !same_columns {
            self.series.forget();
        }
    }

    /// See [`SeriesWriter::choices`].
    pub(super) fn choices(&self) -> Vec<u8> {
        self.series.choices()
    }

    /// See [`SeriesWriter::resume`].
    pub(super) fn resume(&mut self, choices: &[u8]) {
        self.series.resume(choices);
    }

    /// From now on, keeps a copy of whatever the stage gets; and gives what was kept.
    pub(super) fn sample(&mut self, on: bool) -> Vec<Vec<u8>> {
        let fresh = || on.then(Vec::new);
        let mut samples = std::mem::replace(&mut self.stage.samples, fresh()).unwrap_or_default();
        if let Some(bytes) = self.series.bytes() {
            samples.extend(std::mem::replace(&mut bytes.samples, fresh()).unwrap_or_default());
        }
        samples
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
        self.stage.write(&validity, 0, out)?;
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
                self.stage.write(&bits, 0, out)?;
                Ok(bits.len())
            }
            Layout::Words { width, meaning } => {
                let bytes = words_of(array).ok_or_else(|| {
                    Error::data(format!("its type {} is not one that frames carry", array.data_type()))
                })?;
                self.series(*meaning, *width, bytes, Place::Last, out)?;
                Ok(bytes.len())
            }
            Layout::FixedBytes(size) => {
                let bytes = &array.as_fixed_size_binary().value_data()[..rows * size];
                self.stage.write(bytes, 0, out)?;
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
        let written = self.series(Meaning::Unsigned, 4, &lengths, Place::Within, out);
        self.lengths = lengths;
        written?;
        self.stage.write(bytes, 0, out)?;
        Ok(size_of_val(offsets) + bytes.len())
    }

    /// The keys, numbered anew in the order in which their values first occur, and then those values.
    fn dictionary(&mut self, array: &ArrayRef, out: &mut Vec<u8>) -> Result<usize> {
        let array = array.as_dictionary::<Int32Type>();
        let values = array.values().as_string::<i32>();
        let mut text = std::mem::take(&mut self.text);
        let mut lengths = std::mem::take(&mut self.lengths);
        let mut words = std::mem::take(&mut self.words);
        words.clear();
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
        let written = self.series(Meaning::Unsigned, 4, &words, Place::Within, out).and_then(|()| {
            put_varint(u64::from(used), out);
            self.series(Meaning::Unsigned, 4, &lengths, Place::Within, out)?;
            self.stage.write(&text, 0, out)
        });
        let raw_bytes = words.len() + lengths.len() + 4 + text.len();
        self.text = text;
        self.words = words;
        self.lengths = lengths;
        written.map(|()| raw_bytes)
    }

    /// Appends a series; words of one byte are a block.
    fn series(
        &mut self,
        meaning: Meaning,
        width: usize,
        values: &[u8],
        place: Place,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if width == 1 {
            return self.stage.write(values, 0, out);
        }
        let slot = self.slot;
        self.slot += 1;
        if place == Place::Last {
            return self.series.write(slot, meaning, width, values, out);
        }
        let mut part = std::mem::take(&mut self.part);
        part.clear();
        let written = self.series.write(slot, meaning, width, values, &mut part);
        put_bytes(&part, out);
        self.part = part;
        written
    }
}

/// The values of an array of words as bytes, in place.
fn words_of(array: &ArrayRef) -> Option<&[u8]> {
    macro_rules! bytes_of {
        ($type:ty, $array:expr) => {
            Some($array.as_primitive_opt::<$type>()?.values().inner().as_slice())
        };
    }
    downcast_primitive! {
        array.data_type() => (bytes_of, array),
        _ => None
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
