//! The detector that runs a quantized model, and the gate that models pass on their way to it. Pure.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use super::numbers::{ModelName, Numbers, with_scores};
use crate::core::{Model, ModelGate, ModelId, ModelOrigin, Operator, Output, StateReader, StateWriter};
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
        Ok(Model {
            id: dense.id(),
            bytes: Arc::from(bytes),
            origin: ModelOrigin::Request,
            prepared: Box::new(dense),
        })
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

/// What the file and the topic brought last.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Heeded {
    /// The model that the file held, at the start or when it changed.
    file: Option<ModelId>,
    topic: Option<ModelId>,
}

/// The running part.
pub(super) struct Network {
    gate: Arc<Gate>,
    /// In place of the model's own threshold.
    threshold: Option<f64>,
    input: SchemaRef,
    output: SchemaRef,
    running: Option<Running>,
    heeded: Heeded,
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
            heeded: Heeded { file: first.map(|model| model.id), topic: None },
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
        if model.origin == ModelOrigin::Topic && self.heeded.topic == Some(model.id) {
            return match self.model() == Some(model.id) {
                true => Ok(()),
                false => Err(Error::model(
                    "the topic brought this model before, and another one has come since; to return to it, post it",
                )),
            };
        }
        self.running = Some(Running::new(&model, &self.input)?);
        match model.origin {
            ModelOrigin::Request => {}
            ModelOrigin::File => self.heeded.file = Some(model.id),
            ModelOrigin::Topic => self.heeded.topic = Some(model.id),
        }
        Ok(())
    }

    fn model(&self) -> Option<ModelId> {
        self.running.as_ref().map(|running| running.dense.id())
    }

    /// What was heeded, and the model that runs, whole: a checkpoint needs no other file.
    fn save(&mut self, state: &mut StateWriter) {
        state.value(&self.heeded);
        state.value(&self.running.is_some());
        if let Some(running) = &self.running {
            state.bytes(&running.bytes);
        }
    }

    /// The saved model goes on, unless the file has become another since: then the file is the newer word. A
    /// file that is gone says nothing.
    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let heeded: Heeded = state.value()?;
        let saved = if state.value::<bool>()? { Some(state.bytes()?) } else { None };
        let file_changed = self.heeded.file.is_some() && self.heeded.file != heeded.file;
        if let Some(bytes) = saved.filter(|_| !file_changed) {
            let model = self.gate.admit(bytes)?;
            self.running = Some(Running::new(&model, &self.input)?);
        }
        self.heeded = Heeded { file: self.heeded.file.or(heeded.file), topic: heeded.topic };
        Ok(())
    }
}
