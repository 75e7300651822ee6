//! Rows as bytes, in the formats that sinks share. Pure: batches in, bytes out.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::codec::frame::FRAME_COLUMN;
use crate::codec::text_csv::CsvWriter;
use crate::codec::text_ndjson::NdjsonWriter;
use crate::error::{Error, Result};

/// How rows are written where each row stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
    /// The bytes of the column `frame`, as `compress` makes them, one after another.
    Frames,
}

/// Writes rows of one format.
pub enum RowEncoder {
    /// NDJSON.
    Ndjson(NdjsonWriter),
    /// CSV.
    Csv(CsvWriter),
    /// Frames.
    Frames,
}

impl RowEncoder {
    /// An encoder for a format.
    pub fn new(format: RowFormat) -> Self {
        match format {
            RowFormat::Ndjson => Self::Ndjson(NdjsonWriter::new()),
            RowFormat::Csv => Self::Csv(CsvWriter::new(b',')),
            RowFormat::Frames => Self::Frames,
        }
    }

    /// What stands at the head of a file.
    pub fn head(&self, schema: &Schema, out: &mut Vec<u8>) {
        if let Self::Csv(writer) = self {
            writer.write_header(schema, out);
        }
    }

    /// Appends a batch.
    ///
    /// # Errors
    /// If a column has a type that the format cannot carry.
    pub fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Ndjson(writer) => writer.write(batch, out),
            Self::Csv(writer) => writer.write(batch, out),
            Self::Frames => {
                let frames = batch
                    .column_by_name(FRAME_COLUMN)
                    .and_then(|column| column.as_binary_opt::<i32>())
                    .ok_or_else(|| Error::data("there is no binary column `frame`"))?;
                frames.iter().flatten().for_each(|frame| out.extend_from_slice(frame));
                Ok(())
            }
        }
    }
}

/// Whether a schema has the column that `compress` emits.
pub fn has_frames(schema: &Schema) -> bool {
    schema.field_with_name(FRAME_COLUMN).is_ok_and(|field| *field.data_type() == DataType::Binary)
}
