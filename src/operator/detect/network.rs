//! The detector that runs a quantized model, and the gate that models pass on their way to it. Pure.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::numbers::{ModelName, Numbers, with_scores};
use crate::core::{Model, ModelGate, ModelId, Operator, Output, StateReader, StateWriter};
use crate::error::{Error, Result};
use crate::model::{Dense, Kernel, Scratch, verify};

/// Checks models against the columns that one node offers, and packs them for its kernel.
pub(super) struct Gate {
    /// The names of the columns that a model may ask for.
    pub(super) offered: Vec<String>,
    /// The kernel that it will run with.
    pub(super) kernel: Kernel,
}

impl ModelGate for Gate {
    fn admit(&self, bytes: &[u8]) -> Result<Model> {
        let dense = verify(bytes, &self.offered, self.kernel)?;
        Ok(Model { id: dense.id(), bytes: Arc::from(bytes), prepared: Box::new(dense) })
    }
}

/// A model at work.
struct Running {
    dense: Arc<Dense>,
    bytes: Arc<[u8]>,
    numbers: Numbers,
    name: ModelName,
}

impl Running {
    fn new(model: &Model, input: &SchemaRef) -> Result<Self> {
        let dense = model
            .prepared
            .downcast_ref::<Arc<Dense>>()
            .ok_or_else(|| Error::model("the model was prepared for another type of operator"))?;
        let places = dense.file().columns.iter().map(|column| Ok(input.index_of(&column.name)?));
        Ok(Self {
            numbers: Numbers::new(places.collect::<Result<_>>()?),
            dense: Arc::clone(dense),
            bytes: Arc::clone(&model.bytes),
            name: ModelName::new(Some(&model.id.short())),
        })
    }
}

/// The running part.
pub(super) struct Network {
    gate: Arc<Gate>,
    /// In place of the model's own threshold.
    threshold: Option<f64>,
    input: SchemaRef,
    output: SchemaRef,
    running: Option<Running>,
    /// The id of the model it was built with.
    initial: Option<ModelId>,
    scratch: Scratch,
    no_model: ModelName,
}

impl Network {
    /// Without a model, or with a first one that the gate has admitted.
    pub(super) fn new(
        gate: Arc<Gate>,
        threshold: Option<f64>,
        input: SchemaRef,
        output: SchemaRef,
        first: Option<&Model>,
    ) -> Result<Self> {
        Ok(Self {
            gate,
            threshold,
            running: first.map(|model| Running::new(model, &input)).transpose()?,
            initial: first.map(|model| model.id),
            input,
            output,
            scratch: Scratch::default(),
            no_model: ModelName::new(None),
        })
    }
}

impl Operator for Network {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let mut scores = vec![f64::NAN; batch.num_rows()];
        let Some(running) = &mut self.running else {
            out.count("unscored_rows", "no_model", scores.len() as u64);
            out.emit(0, with_scores(&batch, &self.output, scores, 0.0, &self.no_model)?);
            return Ok(());
        };
        running.numbers.read(&batch)?;
        let columns: Vec<&[f64]> = running.numbers.columns().collect();
        running.dense.score_columns(&mut self.scratch, &columns, &mut scores);
        let missing = scores.iter().filter(|score| score.is_nan()).count();
        out.count("unscored_rows", "missing_values", missing as u64);
        let threshold = self.threshold.unwrap_or(running.dense.file().threshold);
        out.emit(0, with_scores(&batch, &self.output, scores, threshold, &running.name)?);
        Ok(())
    }

    fn update(&mut self, model: Arc<Model>) -> Result<()> {
        self.running = Some(Running::new(&model, &self.input)?);
        Ok(())
    }

    fn model(&self) -> Option<ModelId> {
        self.running.as_ref().map(|running| running.dense.id())
    }

    /// The file it was built with, and the model that runs, whole: a checkpoint needs no other file.
    fn save(&self, state: &mut StateWriter) {
        state.value(&self.initial);
        state.value(&self.running.is_some());
        if let Some(running) = &self.running {
            state.bytes(&running.bytes);
        }
    }

    /// The saved model goes on, unless the file has become another since: then the file is the newer word. A
    /// file that is gone says nothing.
    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let initial: Option<ModelId> = state.value()?;
        let saved = if state.value::<bool>()? { Some(state.bytes()?) } else { None };
        let file_changed = self.initial.is_some() && self.initial != initial;
        if let Some(bytes) = saved.filter(|_| !file_changed) {
            let model = self.gate.admit(bytes)?;
            self.running = Some(Running::new(&model, &self.input)?);
        }
        if self.initial.is_none() {
            self.initial = initial;
        }
        Ok(())
    }
}
