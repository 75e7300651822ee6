//! The rows of a batch by their keys, for detectors that learn for each key. Pure.

use arrow::array::{ArrayRef, RecordBatch};

use super::numbers::Numbers;
use crate::core::keys::REFUSED;
use crate::core::{Keys, Output};

/// Keys, and which of them each row of the last batch has.
pub(super) struct Keyed {
    pub(super) keys: Keys,
    /// Where the columns of the key stand in the input.
    by: Vec<usize>,
    columns: Vec<ArrayRef>,
    ids: Vec<u32>,
}

impl Keyed {
    pub(super) fn new(keys: Keys, by: Vec<usize>) -> Self {
        Self { keys, by, columns: Vec::new(), ids: Vec::new() }
    }

    /// Takes another batch, none of whose rows has its id yet.
    pub(super) fn begin(&mut self, batch: &RecordBatch) {
        self.columns.clear();
        self.columns.extend(self.by.iter().map(|place| ArrayRef::clone(batch.column(*place))));
        self.ids.clear();
    }

    /// Finds the ids of rows from one on, up to the row that it gives: then those that were evicted for them must be
    /// forgotten.
    pub(super) fn resolve(&mut self, times: &[i64], from: usize) -> usize {
        self.keys.resolve(&self.columns, times, from, &mut self.ids)
    }

    /// The ids of all rows so far; [`REFUSED`] where there was no room.
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Counts the rows without a score by why they have none.
    pub(super) fn count_unscored(&self, numbers: &Numbers, scores: &[f64], out: &mut Output) {
        let (mut refused, mut missing, mut warming) = (0, 0, 0);
        for (row, (score, id)) in scores.iter().zip(&self.ids).enumerate() {
            match score.is_nan() {
                false => {}
                true if *id == REFUSED => refused += 1,
                true if numbers.is_missing(row) => missing += 1,
                true => warming += 1,
            }
        }
        out.count("unscored_rows", "max_keys", refused);
        out.count("unscored_rows", "missing_values", missing);
        out.count("unscored_rows", "warm_up", warming);
    }
}
