//! What makes a row the same as another: a 128-bit hash of the values of its key columns. Pure.
//!
//! The hash is BLAKE3 cut to 128 bits, over an encoding in which no two different keys are equal. Two different
//! keys meet with a probability of 2⁻¹²⁸ per pair: with ten million remembered and a million rows per second for
//! ten years, about 10⁻¹⁷ in all; and nobody can construct such a pair.

use arrow::array::{
    Array as _, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, Int32Array, PrimitiveArray,
    StringArray,
};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

/// Whether a column of this type can be part of a key here.
pub(super) fn supports(data_type: &DataType) -> bool {
    use DataType::{
        Binary, Boolean, Dictionary, Float32, Float64, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16,
        UInt32, UInt64, Utf8,
    };
    match data_type {
        Dictionary(key, value) => **key == Int32 && **value == Utf8,
        Timestamp(unit, _) => *unit == TimeUnit::Microsecond,
        Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => true,
        Float32 | Float64 | Utf8 | Binary => true,
        _ => false,
    }
}

/// The key columns of one batch, ready to be read row by row.
pub(super) struct Identity<'a> {
    columns: Vec<Column<'a>>,
    scratch: Vec<u8>,
}

/// One column by what its values look like.
enum Column<'a> {
    Text(&'a StringArray),
    Tag(&'a Int32Array, &'a StringArray),
    Bytes(&'a BinaryArray),
    Boolean(&'a BooleanArray),
    Word(Box<dyn Fn(usize) -> u64 + 'a>),
}

impl<'a> Identity<'a> {
    pub(super) fn of(columns: impl Iterator<Item = &'a ArrayRef>) -> Self {
        Self { columns: columns.map(Column::of).collect(), scratch: Vec::new() }
    }

    /// The hash of a row's key, in which no value is null.
    pub(super) fn hash(&mut self, row: usize) -> [u64; 2] {
        self.scratch.clear();
        for column in &self.columns {
            column.encode(row, &mut self.scratch);
        }
        let digest = blake3::hash(&self.scratch);
        let (words, _) = digest.as_bytes().as_chunks::<8>();
        [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
    }
}

impl<'a> Column<'a> {
    fn of(column: &'a ArrayRef) -> Self {
        match column.data_type() {
            DataType::Utf8 => Self::Text(column.as_string()),
            DataType::Dictionary(..) => {
                let dictionary = column.as_dictionary::<Int32Type>();
                Self::Tag(dictionary.keys(), dictionary.values().as_string())
            }
            DataType::Binary => Self::Bytes(column.as_binary()),
            DataType::Boolean => Self::Boolean(column.as_boolean()),
            DataType::Int8 => words::<Int8Type>(column, |value| value as u64),
            DataType::Int16 => words::<Int16Type>(column, |value| value as u64),
            DataType::Int32 => words::<Int32Type>(column, |value| value as u64),
            DataType::UInt8 => words::<UInt8Type>(column, u64::from),
            DataType::UInt16 => words::<UInt16Type>(column, u64::from),
            DataType::UInt32 => words::<UInt32Type>(column, u64::from),
            DataType::UInt64 => words::<UInt64Type>(column, |value| value),
            DataType::Float32 => words::<Float32Type>(column, |value| float(f64::from(value))),
            DataType::Float64 => words::<Float64Type>(column, float),
            DataType::Timestamp(..) => words::<TimestampMicrosecondType>(column, |value| value as u64),
            _ => words::<Int64Type>(column, |value| value as u64),
        }
    }

    /// Appends a value that is not null: words as they are, texts and bytes with their length before them.
    fn encode(&self, row: usize, to: &mut Vec<u8>) {
        let mut sized = |bytes: &[u8]| {
            to.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            to.extend_from_slice(bytes);
        };
        match self {
            Self::Text(column) => sized(column.value(row).as_bytes()),
            Self::Bytes(column) => sized(column.value(row)),
            Self::Tag(keys, values) => sized(values.value(keys.value(row) as usize).as_bytes()),
            Self::Boolean(column) => to.push(u8::from(column.value(row))),
            Self::Word(word) => to.extend_from_slice(&word(row).to_le_bytes()),
        }
    }
}

fn words<'a, T: ArrowPrimitiveType>(column: &'a ArrayRef, bits: fn(T::Native) -> u64) -> Column<'a> {
    let column: &PrimitiveArray<T> = column.as_primitive();
    Column::Word(Box::new(move |row| bits(column.value(row))))
}

/// The bits of a float, the same for both zeros and for all that is not a number.
fn float(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }
}
