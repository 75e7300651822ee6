//! From a batch to the bodies of requests. Pure: the same batch gives the same bodies, so that a body keeps its number
//! when it is sent again.

use arrow::array::RecordBatch;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::Result;
use crate::sink::encode::{RowEncoder, RowFormat};

/// What goes into one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// The rows of a batch, as many as fit.
    #[default]
    Batch,
    /// One row.
    Row,
}

/// The bodies of a batch, one after the other; only one is in memory at a time.
pub struct Bodies {
    encoder: RowEncoder,
    format: RowFormat,
    batch: RecordBatch,
    per: Per,
    bytes_max: usize,
    /// Rows that were written.
    done: usize,
    /// Rows to try for the next body.
    rows: usize,
}

impl Bodies {
    /// Bodies of at most `bytes_max` bytes, unless a single row is larger.
    pub fn new(format: RowFormat, batch: RecordBatch, per: Per, bytes_max: usize) -> Self {
        let rows = match per {
            Per::Row => 1,
            Per::Batch => batch.num_rows(),
        };
        Self { encoder: RowEncoder::new(format), format, batch, per, bytes_max, done: 0, rows }
    }

    /// The next body and how many rows are in it.
    ///
    /// # Errors
    /// If a column has a type that the format cannot carry.
    pub fn next_body(&mut self) -> Result<Option<(Vec<u8>, usize)>> {
        let left = self.batch.num_rows() - self.done;
        if left == 0 {
            return Ok(None);
        }
        let mut rows = self.rows.clamp(1, left);
        loop {
            let part = self.batch.slice(self.done, rows);
            let mut body = Vec::new();
            self.encoder.head(&part.schema(), &mut body);
            self.encoder.encode(&part, &mut body)?;
            if body.len() > self.bytes_max && rows > 1 {
                // What did not fit now will not fit later; so the halved number stays.
                rows = rows.div_ceil(2);
                self.rows = rows;
                continue;
            }
            if self.per == Per::Row && self.format == RowFormat::Ndjson {
                // One JSON value, not a line of several.
                body.truncate(body.trim_ascii_end().len());
            }
            self.done += rows;
            return Ok(Some((body, rows)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Int64Array};

    use super::*;

    fn bodies(format: RowFormat, per: Per, bytes_max: usize, batch: &RecordBatch) -> Vec<(String, usize)> {
        let mut bodies = Bodies::new(format, batch.clone(), per, bytes_max);
        let mut found = Vec::new();
        while let Some((body, rows)) = bodies.next_body().unwrap() {
            found.push((String::from_utf8(body).unwrap(), rows));
        }
        found
    }

    #[test]
    fn batches_are_split_by_rows() {
        let numbers = |numbers: std::ops::Range<i64>| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
            RecordBatch::try_from_iter([("n", column)]).unwrap()
        };
        let five = numbers(0..5);
        let line = |n: i64| format!("{{\"n\":{n}}}\n");
        let whole: String = (0..5).map(line).collect();
        assert_eq!(bodies(RowFormat::Ndjson, Per::Batch, 1000, &five), [(whole, 5)]);
        let text = |rows: &[i64]| -> String { rows.iter().map(|n| line(*n)).collect() };
        let split = [(text(&[0, 1]), 2), (text(&[2, 3]), 2), (text(&[4]), 1)];
        assert_eq!(bodies(RowFormat::Ndjson, Per::Batch, 16, &five), split);
        assert_eq!(bodies(RowFormat::Ndjson, Per::Batch, 1, &numbers(0..2)), [(line(0), 1), (line(1), 1)]);
        assert_eq!(
            bodies(RowFormat::Csv, Per::Batch, 7, &numbers(0..3)),
            [("n\n0\n1\n".into(), 2), ("n\n2\n".into(), 1)]
        );
        let rows = [("{\"n\":0}".to_owned(), 1), ("{\"n\":1}".to_owned(), 1)];
        assert_eq!(bodies(RowFormat::Ndjson, Per::Row, 1000, &numbers(0..2)), rows);
        assert!(bodies(RowFormat::Ndjson, Per::Batch, 10, &numbers(0..0)).is_empty());
        let frames: ArrayRef = Arc::new(BinaryArray::from_iter_values(["aa", "bb"]));
        let frames = RecordBatch::try_from_iter([("frame", frames)]).unwrap();
        assert_eq!(bodies(RowFormat::Frames, Per::Batch, 10, &frames), [("aabb".into(), 2)]);
        assert_eq!(bodies(RowFormat::Frames, Per::Row, 10, &frames), [("aa".into(), 1), ("bb".into(), 1)]);
    }
}
