//! The rows of a frame before it is one: what they take, and batches joined so that no trace of their cuts is
//! left. Pure.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, Int32Builder, RecordBatch, StringArray};
use arrow::compute::concat;
use arrow::datatypes::{ArrowNativeType, DataType, Int32Type, SchemaRef};
use hashbrown::HashMap;

use crate::error::{Error, Result};

/// Puts the last slices together, as far back as they are not twice as large as all behind them: then those left
/// grow by powers of two, and a row is copied a logarithmic number of times.
pub(super) fn merge_tail(schema: &SchemaRef, parts: &mut Vec<RecordBatch>) -> Result<()> {
    let (mut start, mut rows) = (parts.len(), 0);
    while let Some(part) = start.checked_sub(1).and_then(|before| parts.get(before)) {
        if rows > 0 && part.num_rows() > 2 * rows {
            break;
        }
        rows += part.num_rows();
        start -= 1;
    }
    let merged = join(schema, &parts[start..])?;
    parts.truncate(start);
    parts.push(merged);
    Ok(())
}

/// The rows of all parts in one batch that is the same whatever parts they came in.
pub(super) fn join(schema: &SchemaRef, parts: &[RecordBatch]) -> Result<RecordBatch> {
    let columns = schema.fields().iter().enumerate().map(|(column, field)| {
        let arrays: Vec<&dyn Array> = parts.iter().map(|part| part.column(column).as_ref()).collect();
        match field.data_type() {
            DataType::Dictionary(..) => join_dictionaries(&arrays),
            _ => Ok(concat(&arrays)?),
        }
    });
    Ok(RecordBatch::try_new(SchemaRef::clone(schema), columns.collect::<Result<_>>()?)?)
}

/// One dictionary of all texts that occur, each once, in the order in which they first do: Arrow's own
/// concatenation may keep a text once for every part, which would cost bytes and depend on the parts.
fn join_dictionaries(arrays: &[&dyn Array]) -> Result<ArrayRef> {
    let wrong = || Error::data("a dictionary is not one of texts with 32-bit keys");
    let mut keys = Int32Builder::with_capacity(arrays.iter().map(|array| array.len()).sum());
    let mut texts: HashMap<&str, i32> = HashMap::new();
    let mut order: Vec<&str> = Vec::new();
    let mut renumbered: Vec<Option<i32>> = Vec::new();
    for array in arrays {
        let dictionary = array.as_dictionary_opt::<Int32Type>().ok_or_else(wrong)?;
        let values = dictionary.values().as_string_opt::<i32>().ok_or_else(wrong)?;
        renumbered.clear();
        renumbered.resize(values.len(), None);
        for key in dictionary.keys() {
            let Some(old) = key.map(|key| key as usize).filter(|key| values.is_valid(*key)) else {
                keys.append_null();
                continue;
            };
            let new = *renumbered[old].get_or_insert_with(|| {
                *texts.entry(values.value(old)).or_insert_with_key(|text| {
                    order.push(*text);
                    order.len() as i32 - 1
                })
            });
            keys.append_value(new);
        }
    }
    let values = Arc::new(StringArray::from_iter_values(order));
    Ok(Arc::new(DictionaryArray::try_new(keys.finish(), values)?))
}

/// What each row takes in Arrow's layout, by its own values alone: a text of a dictionary counts in each row, and a
/// column that may be null takes a byte for that. So the sum is no less than what the rows take together, but for
/// some bytes per column.
pub(super) fn measure_rows(batch: &RecordBatch, row_bytes: &mut Vec<usize>) {
    row_bytes.clear();
    let fields = batch.schema_ref().fields().iter();
    let fixed: usize =
        fields.map(|field| fixed_bytes(field.data_type()) + usize::from(field.is_nullable())).sum();
    row_bytes.resize(batch.num_rows(), fixed);
    for column in batch.columns() {
        match column.data_type() {
            DataType::Utf8 => add_lengths(column.as_string::<i32>().value_offsets(), row_bytes),
            DataType::Binary => add_lengths(column.as_binary::<i32>().value_offsets(), row_bytes),
            DataType::LargeUtf8 => add_lengths(column.as_string::<i64>().value_offsets(), row_bytes),
            DataType::LargeBinary => add_lengths(column.as_binary::<i64>().value_offsets(), row_bytes),
            DataType::Dictionary(..) => {
                let Some(dictionary) = column.as_dictionary_opt::<Int32Type>() else { continue };
                let Some(texts) = dictionary.values().as_string_opt::<i32>() else { continue };
                let keys = dictionary.keys();
                for (row, total) in row_bytes.iter_mut().enumerate() {
                    if keys.is_valid(row) {
                        *total += texts.value_length(keys.value(row) as usize) as usize;
                    }
                }
            }
            _ => {}
        }
    }
}

fn add_lengths<T: ArrowNativeType>(offsets: &[T], row_bytes: &mut [usize]) {
    for (pair, total) in offsets.windows(2).zip(row_bytes) {
        *total += pair[1].as_usize() - pair[0].as_usize();
    }
}

/// The bytes of a value that do not depend on it; for a list of fixed size those of its items.
fn fixed_bytes(data_type: &DataType) -> usize {
    match data_type {
        DataType::Null => 0,
        DataType::Boolean => 1,
        DataType::Utf8 | DataType::Binary | DataType::Dictionary(..) => 4,
        DataType::LargeUtf8 | DataType::LargeBinary => 8,
        DataType::FixedSizeBinary(size) => usize::try_from(*size).unwrap_or(0),
        DataType::FixedSizeList(item, size) => {
            usize::try_from(*size).unwrap_or(0) * fixed_bytes(item.data_type())
        }
        other => other.primitive_width().unwrap_or(0),
    }
}
