//! The columns that every part of the house agrees on.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::error::{Error, Result};

/// The name of the time column: the first column of every decoded batch, never null.
pub const TIME: &str = "time";

/// The column that says of a row that it waited while newer ones went before it.
pub const REPLAYED_COLUMN: &str = "replayed";

/// The type of the time column: microseconds since 1970, UTC.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

/// The field of the time column.
pub fn time_field() -> Field {
    Field::new(TIME, time_type(), false)
}

/// The type of a tag column: a dictionary of texts.
pub fn tag_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// The schema of raw messages: `topic` (dictionary of texts), `payload` (binary), `arrival` (UTC), none null.
/// For a source without topics (a file) the topic is the file's name.
pub fn raw() -> SchemaRef {
    static RAW: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("topic", tag_type(), false),
            Field::new("payload", DataType::Binary, false),
            Field::new("arrival", time_type(), false),
        ]))
    });
    RAW.clone()
}

/// A time column from microseconds since 1970.
pub fn time_array(micros: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC"))
}

/// The times of a batch, in microseconds since 1970.
///
/// # Errors
/// If the batch has no `time` column of the agreed type; only raw batches have none.
pub fn times(batch: &RecordBatch) -> Result<&TimestampMicrosecondArray> {
    batch
        .column_by_name(TIME)
        .and_then(|column| column.as_any().downcast_ref::<TimestampMicrosecondArray>())
        .filter(|column| column.null_count() == 0)
        .ok_or_else(|| Error::data("the batch has no `time` column (timestamp, µs, UTC, not null)"))
}

/// What a data type is called in messages to the user.
pub fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64 => "integer",
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "number",
        DataType::Boolean => "true/false",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Timestamp(..) => "time",
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView => {
            "bytes"
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "list",
        DataType::Null => "null",
        _ => "unsupported type",
    }
}
