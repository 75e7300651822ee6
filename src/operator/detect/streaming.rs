//! The ensembles that need no model and no settings: what a key has learned, row by row. Pure.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::keyed::Keyed;
use super::numbers::{ModelName, Numbers, with_anomalies};
use crate::core::keys::REFUSED;
use crate::core::{Chunks, EventTime, Operator, Output, StateReader, StateWriter, schema};
use crate::error::{Error, Result};
use crate::model::streaming::ensemble::{Kind, Learned, Scratch};

/// Keys that a cut shares together: they are large.
const SHARED: usize = 1;

/// When a row is an alarm, and how long is learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Alarms {
    /// A score above this is an alarm, …
    pub(super) threshold: f64,
    /// … unless there was one so few rows before.
    pub(super) refractory_rows: u32,
    /// Rows of a key that are learned.
    pub(super) learn_rows: u32,
}

/// The running part.
pub(super) struct Streaming {
    kind: Kind,
    alarms: Alarms,
    keyed: Keyed,
    numbers: Numbers,
    learned: Chunks<Learned, SHARED>,
    schema: SchemaRef,
    name: ModelName,
    row: Vec<f64>,
    scratch: Scratch,
}

impl Streaming {
    /// Scores the columns at `columns`, for each key of the columns at `by`; `schema` is the output's.
    pub(super) fn new(
        kind: Kind,
        alarms: Alarms,
        keyed: Keyed,
        columns: Vec<usize>,
        schema: SchemaRef,
    ) -> Self {
        Self {
            kind,
            alarms,
            keyed,
            numbers: Numbers::new(columns),
            learned: Chunks::new(),
            schema,
            name: ModelName::new(Some(name(kind))),
            row: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    fn forget(&mut self, ids: &[u32]) {
        for id in ids {
            if let Some(learned) = self.learned.get_mut(*id as usize) {
                *learned = Learned::default();
            }
        }
    }

    /// Scores one row, whose key is known; whether it is an alarm.
    fn score(&mut self, row: usize, time: i64, score: &mut f64) -> bool {
        let id = self.keyed.ids()[row];
        if id == REFUSED || self.numbers.is_missing(row) {
            return false;
        }
        self.row.clear();
        self.row.extend(self.numbers.columns().map(|values| values[row]));
        let Some(learned) = self.learned.get_mut(id as usize) else { return false };
        let judgement = learned.step(self.kind, &self.row, time, self.alarms.learn_rows, &mut self.scratch);
        *score = judgement.decades;
        let quiet = learned.quiet_rows.is_none_or(|rows| rows >= self.alarms.refractory_rows);
        // A record is an alarm at once and leaves the others their turn.
        let is_high = judgement.decades > self.alarms.threshold && quiet;
        learned.quiet_rows =
            if is_high { Some(0) } else { learned.quiet_rows.map(|rows| rows.saturating_add(1)) };
        is_high || judgement.is_record
    }
}

/// What the method is called, in the configuration and in the column `model`.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Metric => "metric",
        Kind::Signal => "signal",
        Kind::Process => "process",
    }
}

impl Operator for Streaming {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let times = schema::times(&batch)?.values();
        self.numbers.read(&batch)?;
        self.keyed.begin(&batch);
        let mut scores = vec![f64::NAN; batch.num_rows()];
        let mut anomalies = vec![false; batch.num_rows()];
        let (mut from, mut evicted_keys) = (0, 0);
        while from < times.len() {
            let to = self.keyed.resolve(times, from);
            self.learned.grow(self.keyed.keys.capacity());
            for row in from..to {
                anomalies[row] = self.score(row, times[row], &mut scores[row]);
            }
            let evicted = self.keyed.keys.take_evicted();
            evicted_keys += evicted.len() as u64;
            self.forget(&evicted);
            from = to;
        }
        out.count("evicted_keys", "", evicted_keys);
        self.keyed.count_unscored(&self.numbers, &scores, out);
        out.emit(0, with_anomalies(&batch, &self.schema, scores, &anomalies, &self.name)?);
        Ok(())
    }

    fn watermark(&mut self, to: EventTime, _out: &mut Output) -> Result<()> {
        let gone = self.keyed.keys.expire(to);
        self.forget(&gone);
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        self.keyed.keys.save(state);
        state.chunks("learned", "", &mut self.learned);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.keyed.keys.load(state)?;
        self.learned = Chunks::load(state)?;
        let width = self.numbers.places().len();
        let fits = self.learned.iter().all(|learned| learned.fits(self.kind, width));
        if self.learned.len() > self.keyed.keys.capacity() || !fits {
            return Err(Error::state("saved detectors do not fit the keys or the columns"));
        }
        Ok(())
    }
}
