//! Record batches as NDJSON: one JSON object per row and line. Pure.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::text::{Cells, Style, escape_json};
use super::timestamp::TimeWriter;
use crate::error::Result;

/// Writes batches as NDJSON. Every column of a row is written, in the order of the schema, nulls as `null`.
#[derive(Debug, Default)]
pub struct NdjsonWriter {
    /// The schema that `keys` are of.
    schema: Option<SchemaRef>,
    /// What stands before each value: `{"time":`, `,"temp":`, …
    keys: Vec<Vec<u8>>,
    times: TimeWriter,
}

impl NdjsonWriter {
    /// A writer for batches of any schema; it prepares the keys whenever the schema changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the rows of the batch. Fails, with nothing appended, on a type without a text form, see
    /// [`check_schema`](super::text::check_schema).
    pub fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let columns = batch.columns().iter().map(|column| Cells::new(column.as_ref(), Style::Json));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        self.prepare(&batch.schema_ref().clone());
        let end: &[u8] = if columns.is_empty() { b"{}\n" } else { b"}\n" };
        for row in 0..batch.num_rows() {
            for (key, cells) in self.keys.iter().zip(&columns) {
                out.extend_from_slice(key);
                cells.write(row, Style::Json, &mut self.times, out);
            }
            out.extend_from_slice(end);
        }
        Ok(())
    }

    fn prepare(&mut self, schema: &SchemaRef) {
        if self.schema.as_ref().is_some_and(|known| std::sync::Arc::ptr_eq(known, schema)) {
            return;
        }
        self.keys.clear();
        for (index, field) in schema.fields().iter().enumerate() {
            let mut key = vec![if index == 0 { b'{' } else { b',' }, b'"'];
            escape_json(field.name(), &mut key);
            key.extend_from_slice(b"\":");
            self.keys.push(key);
        }
        self.schema = Some(schema.clone());
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
