//! The running part of `duty_cycle`. Pure.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use tidegate::core::keys::REFUSED;
use tidegate::core::schema::{time_array, times};
use tidegate::core::{Chunks, EventTime, Keys, Operator, Output, StateReader, StateWriter};
use tidegate::{Error, Result};

use crate::fold::{Fold, Lengths, Stretch};

/// The port of rows behind the watermark.
const LATE: usize = 1;

/// A row that waits until no earlier one can come: time, key, whether it is above.
type Waiting = (i64, u32, bool);

pub(crate) struct DutyCycle {
    column: usize,
    threshold: f64,
    lengths: Lengths,
    keys: Keys,
    by: Vec<usize>,
    max_waiting: usize,
    schema: SchemaRef,
    /// In the order of arrival.
    waiting: Vec<Waiting>,
    /// By the key's number; none before its first row.
    folds: Chunks<Option<Fold>>,
    watermark: i64,
    ids: Vec<u32>,
}

impl DutyCycle {
    pub fn new(
        column: usize,
        threshold: f64,
        lengths: Lengths,
        keys: Keys,
        by: Vec<usize>,
        max_waiting: usize,
        schema: SchemaRef,
    ) -> Self {
        Self {
            column,
            threshold,
            lengths,
            keys,
            by,
            max_waiting,
            schema,
            waiting: Vec::new(),
            folds: Chunks::new(),
            watermark: i64::MIN,
            ids: Vec::new(),
        }
    }

    /// Puts rows, all of them on time and with a value, to those that wait.
    fn wait(&mut self, batch: &RecordBatch, above: &BooleanArray, out: &mut Output) -> Result<()> {
        let times = times(batch)?.values();
        let by: Vec<ArrayRef> = self.by.iter().map(|index| Arc::clone(batch.column(*index))).collect();
        self.ids.clear();
        // Keys are refused beyond their limit, never evicted, so that one call goes to the end.
        self.keys.resolve(&by, times, 0, &mut self.ids);
        let (mut full, mut refused) = (0, 0);
        for ((time, id), on) in times.iter().zip(&self.ids).zip(above.values()) {
            if *id == REFUSED {
                refused += 1;
            } else if self.waiting.len() == self.max_waiting {
                full += 1;
            } else {
                self.waiting.push((*time, *id, on));
            }
        }
        out.count("refused_rows", "max_waiting", full);
        out.count("refused_rows", "max_keys", refused);
        Ok(())
    }

    /// Lets the rows before the watermark pass, in the order of time, and then time up to it.
    fn pass(&mut self, to: i64) -> Vec<(Stretch, u32)> {
        let due = |row: &Waiting| row.0 < to || to == i64::MAX;
        let mut rows: Vec<Waiting> = self.waiting.iter().copied().filter(due).collect();
        self.waiting.retain(|row| !due(row));
        // Stable: rows of one moment stay in the order in which they came.
        rows.sort_by_key(|(time, ..)| *time);
        self.folds.grow(self.keys.capacity());
        let mut over = Vec::new();
        for (time, id, on) in rows {
            match &mut self.folds[id as usize] {
                Some(fold) => fold.row(time, on, self.lengths, &mut |stretch| over.push((stretch, id))),
                unknown => *unknown = Some(Fold::new(time, on)),
            }
        }
        for id in 0..self.folds.len() as u32 {
            let Some(fold) = &mut self.folds[id as usize] else { continue };
            let mut push = |stretch| over.push((stretch, id));
            match to {
                i64::MAX => fold.finish(self.lengths, &mut push),
                to => fold.advance(to, self.lengths, &mut push),
            }
        }
        over.sort_by_key(|(stretch, id)| (stretch.end, *id));
        over
    }

    fn emit(&self, over: &[(Stretch, u32)], out: &mut Output) -> Result<()> {
        let seconds = |us: i64| us as f64 / 1e6;
        let ids: Vec<u32> = over.iter().map(|(_, id)| *id).collect();
        let column = |value: &dyn Fn(&Stretch) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(over.iter().map(|(stretch, _)| value(stretch))))
        };
        let ends = over.iter().map(|(stretch, _)| stretch.end);
        let mut columns = vec![
            time_array(ends.clone().map(|end| end - 1).collect()),
            time_array(ends.clone().map(|end| end - self.lengths.every).collect()),
            time_array(ends.collect()),
        ];
        columns.extend(self.keys.columns(&ids));
        columns.push(column(&|stretch| stretch.on_us as f64 / stretch.known_us as f64));
        columns.push(column(&|stretch| seconds(stretch.on_us)));
        columns.push(column(&|stretch| seconds(stretch.known_us)));
        columns.push(Arc::new(Int64Array::from_iter_values(over.iter().map(|(stretch, _)| stretch.starts))));
        out.emit(0, RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        Ok(())
    }
}

/// Whether each value is above; null where nothing is said.
fn above(column: &ArrayRef, threshold: f64) -> Result<BooleanArray> {
    Ok(match column.data_type() {
        DataType::Boolean => column.as_boolean().clone(),
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>();
            values.iter().map(|value| value.map(|value| value as f64 > threshold)).collect()
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            let said = |value: f64| (!value.is_nan()).then_some(value > threshold);
            values.iter().map(|value| value.and_then(said)).collect()
        }
        other => return Err(Error::data(format!("a column of type {other} came in"))),
    })
}

impl Operator for DutyCycle {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let late: BooleanArray =
            times(&batch)?.values().iter().map(|time| Some(*time < self.watermark)).collect();
        let late_rows = late.true_count();
        if late_rows > 0 {
            out.count("late_rows", "", late_rows as u64);
            out.emit(LATE, filter_record_batch(&batch, &late)?);
        }
        let above = above(batch.column(self.column), self.threshold)?;
        // Late rows have left; those that say nothing make no key known.
        let usable: BooleanArray =
            late.values().iter().enumerate().map(|(row, late)| Some(!late && above.is_valid(row))).collect();
        let usable_rows = usable.true_count();
        out.count("skipped_values", "", (batch.num_rows() - late_rows - usable_rows) as u64);
        let (batch, above) = match usable_rows == batch.num_rows() {
            true => (batch, above),
            false => (filter_record_batch(&batch, &usable)?, filter(&above, &usable)?.as_boolean().clone()),
        };
        self.wait(&batch, &above, out)
    }

    fn watermark(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        let over = self.pass(to.micros());
        self.emit(&over, out)?;
        self.watermark = to.micros();
        for id in self.keys.expire(to) {
            if let Some(fold) = self.folds.get_mut(id as usize) {
                *fold = None;
            }
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        self.keys.save(state);
        state.value(&(&self.waiting, self.watermark));
        state.chunks("folds", "", &mut self.folds);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.keys.load(state)?;
        (self.waiting, self.watermark) = state.value()?;
        self.folds = Chunks::load(state)?;
        let known = |id: u32| self.keys.is_live(id);
        if self.folds.len() > self.keys.capacity() || !self.waiting.iter().all(|(_, id, _)| known(*id)) {
            return Err(Error::state("rows wait for keys that are not there"));
        }
        Ok(())
    }
}
