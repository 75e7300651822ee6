//! What leaves: windows that are over, made into rows. Pure.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, Int64Array, Int64Builder, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;

use super::accumulate::Slab;
use super::open::Open;
use super::stat::{Stat, Summary};
use crate::core::{Keys, schema};
use crate::error::Result;

/// The most rows of one emitted batch.
pub(super) const EMIT_ROWS: usize = 4096;

/// One column and what is made of it.
pub(super) struct Column {
    /// Its name in the input, for those who look at saved state.
    pub name: String,
    /// Its position in the input.
    pub place: usize,
    /// Its position among the columns emitted.
    pub rank: usize,
    /// What is emitted of it, in order.
    pub stats: Vec<Stat>,
    /// What is kept of it.
    pub slabs: Vec<Box<dyn Slab>>,
}

/// A window that is over and waits to be emitted. Its slot is in no list and is given back afterwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// Where its values are.
    pub slot: u32,
    /// Its key's group id.
    pub key: u32,
    /// Its row's time.
    pub time: i64,
    /// Where it starts.
    pub start: i64,
    /// The first moment behind it.
    pub end: i64,
}

/// The key columns of all ids, so that emitting picks from ready dictionaries, which the operators behind this
/// one then find unchanged from batch to batch.
#[derive(Default)]
pub(super) struct Tags {
    columns: Vec<ArrayRef>,
    /// They are right while there are so many keys; 0 if they are not right.
    known: usize,
}

impl Tags {
    /// Says that keys were forgotten or loaded. New ones show by their number.
    pub fn forget(&mut self) {
        self.known = 0;
    }

    /// The key columns of some windows.
    pub fn of(&mut self, keys: &Keys, due: &[Due]) -> Result<Vec<ArrayRef>> {
        let ids: Vec<u32> = due.iter().map(|due| due.key).collect();
        if self.known != keys.len() {
            if ids.len() * 4 < keys.capacity() {
                return Ok(keys.columns(&ids));
            }
            let all: Vec<u32> = (0..keys.capacity() as u32).collect();
            (self.columns, self.known) = (keys.columns(&all), keys.len());
        }
        let ids = UInt32Array::from(ids);
        self.columns.iter().map(|column| Ok(take(column, &ids, None)?)).collect()
    }
}

/// One row per window: time, start, end, keys, number of rows, statistics.
pub(super) fn batch(
    schema: &SchemaRef,
    due: &[Due],
    tags: Vec<ArrayRef>,
    open: &Open,
    columns: &[Column],
) -> Result<RecordBatch> {
    let mut arrays = vec![
        schema::time_array(due.iter().map(|due| due.time).collect()),
        schema::time_array(due.iter().map(|due| due.start).collect()),
        schema::time_array(due.iter().map(|due| due.end).collect()),
    ];
    arrays.extend(tags);
    let rows = due.iter().map(|due| open.get(due.slot).rows as i64);
    arrays.push(Arc::new(Int64Array::from_iter_values(rows)));
    let mut columns: Vec<&Column> = columns.iter().collect();
    columns.sort_unstable_by_key(|column| column.rank);
    for column in columns {
        statistics(column, due, open, &mut arrays);
    }
    Ok(RecordBatch::try_new(schema.clone(), arrays)?)
}

/// Appends the arrays of one column's statistics, one row per window.
fn statistics(column: &Column, due: &[Due], open: &Open, arrays: &mut Vec<ArrayRef>) {
    enum Array {
        Whole(Int64Builder),
        Float(Float64Builder),
    }
    let mut builders: Vec<(Stat, Array)> = column
        .stats
        .iter()
        .map(|stat| match stat.is_count() {
            true => (*stat, Array::Whole(Int64Builder::with_capacity(due.len()))),
            false => (*stat, Array::Float(Float64Builder::with_capacity(due.len()))),
        })
        .collect();
    for due in due {
        let mut summary = Summary { rows: open.get(due.slot).rows, ..Summary::default() };
        column.slabs.iter().for_each(|slab| slab.describe(due.slot, &mut summary));
        for (stat, builder) in &mut builders {
            match builder {
                Array::Whole(builder) => builder.append_value(stat.whole(&summary) as i64),
                Array::Float(builder) => builder.append_option(stat.value(&summary)),
            }
        }
    }
    arrays.extend(builders.into_iter().map(|(_, builder)| match builder {
        Array::Whole(mut builder) => Arc::new(builder.finish()) as ArrayRef,
        Array::Float(mut builder) => Arc::new(builder.finish()),
    }));
}
