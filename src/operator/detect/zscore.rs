//! The detector that needs no model: a robust z-score per key, learning as it goes. Pure.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::keyed::Keyed;
use super::numbers::{ModelName, Numbers, with_scores};
use super::robust::{Estimate, Estimation, score_column};
use crate::core::{Chunks, EventTime, Operator, Output, StateReader, StateWriter, schema};
use crate::error::{Error, Result};

/// The name of the method, in the configuration and in the column `model`.
pub(super) const NAME: &str = "robust_z";

/// The running part.
pub(super) struct RobustZ {
    estimation: Estimation,
    threshold: f64,
    keyed: Keyed,
    numbers: Numbers,
    /// Per scored column the estimates of all keys, by the key's id.
    estimates: Vec<Chunks<Estimate>>,
    schema: SchemaRef,
    name: ModelName,
}

impl RobustZ {
    /// Scores the columns at `columns`, for each key of the columns at `by`; `schema` is the output's.
    pub(super) fn new(
        estimation: Estimation,
        threshold: f64,
        keyed: Keyed,
        columns: Vec<usize>,
        schema: SchemaRef,
    ) -> Self {
        Self {
            estimation,
            threshold,
            keyed,
            estimates: columns.iter().map(|_| Chunks::new()).collect(),
            numbers: Numbers::new(columns),
            schema,
            name: ModelName::new(Some(NAME)),
        }
    }

    /// Forgets what is known of some keys.
    fn forget(&mut self, ids: &[u32]) {
        for estimates in &mut self.estimates {
            for id in ids {
                if let Some(estimate) = estimates.get_mut(*id as usize) {
                    *estimate = Estimate::default();
                }
            }
        }
    }

    /// Scores the rows from one to another, whose ids are known.
    fn score(&mut self, from: usize, to: usize, times: &[i64], scores: &mut [f64]) {
        let keys = self.keyed.keys.capacity();
        for (values, estimates) in self.numbers.columns().zip(&mut self.estimates) {
            estimates.grow(keys);
            let (values, times) = (&values[from..to], &times[from..to]);
            score_column(
                self.estimation,
                values,
                times,
                &self.keyed.ids()[from..to],
                estimates,
                &mut scores[from..to],
            );
        }
    }
}

impl Operator for RobustZ {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let times = schema::times(&batch)?.values();
        self.numbers.read(&batch)?;
        self.keyed.begin(&batch);
        let mut scores = vec![f64::NAN; batch.num_rows()];
        let (mut from, mut evicted_keys) = (0, 0);
        while from < times.len() {
            let to = self.keyed.resolve(times, from);
            self.score(from, to, times, &mut scores);
            let evicted = self.keyed.keys.take_evicted();
            evicted_keys += evicted.len() as u64;
            self.forget(&evicted);
            from = to;
        }
        out.count("evicted_keys", "", evicted_keys);
        self.keyed.count_unscored(&self.numbers, &scores, out);
        out.emit(0, with_scores(&batch, &self.schema, scores, self.threshold, &self.name)?);
        Ok(())
    }

    fn watermark(&mut self, to: EventTime, _out: &mut Output) -> Result<()> {
        let gone = self.keyed.keys.expire(to);
        self.forget(&gone);
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        self.keyed.keys.save(state);
        for (place, estimates) in self.numbers.places().iter().zip(&mut self.estimates) {
            let column = self.schema.field(*place).name();
            state.chunks(&format!("estimates of {column}"), Estimate::FIELDS, estimates);
        }
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.keyed.keys.load(state)?;
        for estimates in &mut self.estimates {
            *estimates = Chunks::load(state)?;
            if estimates.len() > self.keyed.keys.capacity() {
                return Err(Error::state("saved estimates do not fit the keys"));
            }
        }
        Ok(())
    }
}
