//! Record batches as CSV (RFC 4180, with LF line ends). Pure.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use super::text::{Cells, Style, write_csv_text};
use super::timestamp::TimeWriter;
use crate::error::Result;

/// Writes batches as CSV. A null is an empty cell, an empty text is `""`.
#[derive(Debug)]
pub struct CsvWriter {
    delimiter: u8,
    times: TimeWriter,
}

impl CsvWriter {
    /// A writer with this byte between cells.
    pub fn new(delimiter: u8) -> Self {
        Self { delimiter, times: TimeWriter::new() }
    }

    /// Appends the line of column names.
    pub fn write_header(&self, schema: &Schema, out: &mut Vec<u8>) {
        for (index, field) in schema.fields().iter().enumerate() {
            if index > 0 {
                out.push(self.delimiter);
            }
            write_csv_text(field.name().as_bytes(), self.delimiter, out);
        }
        out.push(b'\n');
    }

    /// Appends the rows of the batch. Fails, with nothing appended, on a type without a text form, see
    /// [`check_schema`](super::text::check_schema).
    pub fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let style = Style::Csv { delimiter: self.delimiter };
        let columns = batch.columns().iter().map(|column| Cells::new(column.as_ref(), style));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            for (index, cells) in columns.iter().enumerate() {
                if index > 0 {
                    out.push(self.delimiter);
                }
                cells.write(row, style, &mut self.times, out);
            }
            out.push(b'\n');
        }
        Ok(())
    }
}
