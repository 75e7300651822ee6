//! One `detect` operator in an engine of its own, over the rows of one series.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};

use crate::core::schema::{time_array, time_field};
use crate::core::{Barrier, Edge, Effect, Engine, Epoch, Event, EventTime, Fingerprint, Graph, Now, Record};
use crate::error::{Error, Result};
use crate::registry::{BatchLimits, Built, Context, Files, InputSchema, Registry};

/// Rows that the engine is given at once.
const BATCH_ROWS: usize = 1_024;

/// What a detector said of a series.
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    /// A score per row, NaN where there is none.
    pub scores: Vec<f64>,
    /// Whether the operator marked the row.
    pub anomalies: Vec<bool>,
    /// The time that the engine's calls took.
    pub taken: Duration,
    /// Bytes of the state that a checkpoint at the end would hold.
    pub state_bytes: usize,
}

/// Runs `detect` with this body of its table over columns of numbers.
///
/// # Errors
/// If the configuration is wrong, with everything that is, or the operator fails.
pub fn run(
    body: &toml::Table,
    names: &[String],
    columns: &[Vec<f64>],
    times: &[i64],
    files: &dyn Files,
    registry: &Registry,
) -> Result<Verdicts> {
    let fields = names.iter().map(|name| Field::new(name, DataType::Float64, true));
    let schema = Arc::new(Schema::new([time_field()].into_iter().chain(fields).collect::<Vec<_>>()));
    let mut engine = Engine::new(graph(body, &schema, files, registry)?, None)?.0;
    let mut verdicts = Verdicts::default();
    for from in (0..times.len()).step_by(BATCH_ROWS) {
        let to = (from + BATCH_ROWS).min(times.len());
        let batch = batch(&schema, columns, times, from, to)?;
        let start = Instant::now();
        engine.handle(Now::ZERO, Record::Batch { input: 0, batch })?;
        verdicts.taken += start.elapsed();
        while let Some(effect) = engine.poll() {
            if let Effect::Emit { event: Event::Batch(batch), .. } = effect {
                verdicts.take(&batch)?;
            }
        }
    }
    verdicts.state_bytes = state_bytes(&mut engine)?;
    match verdicts.scores.len() == times.len() {
        true => Ok(verdicts),
        false => Err(Error::data("the operator did not give a row for every row")),
    }
}

impl Verdicts {
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| Error::data(format!("the output has no column \"{name}\"")))
        };
        let scores = column("score")?.as_primitive::<Float64Type>();
        self.scores.extend(scores.iter().map(|score| score.unwrap_or(f64::NAN)));
        let anomalies = column("anomaly")?.as_boolean();
        self.anomalies.extend((0..anomalies.len()).map(|row| anomalies.value(row)));
        Ok(())
    }
}

fn graph(body: &toml::Table, schema: &SchemaRef, files: &dyn Files, registry: &Registry) -> Result<Graph> {
    let component = registry
        .operator_type("detect")
        .ok_or_else(|| Error::config("this program has no operator type `detect`"))?;
    let inputs = [InputSchema { name: "in".to_owned(), schema: SchemaRef::clone(schema) }];
    let context =
        Context { name: "detect", pipeline: "eval", inputs: &inputs, files, batch: BatchLimits::default() };
    let built: Built = (component.build)(body.clone(), &context).map_err(|problems| {
        let told = problems.iter().map(|problem| {
            let help = problem.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{}: {}{help}", problem.path, problem.message)
        });
        Error::config(told.collect::<Vec<_>>().join("; "))
    })?;
    Graph::of_one(built.node("detect", component.name, vec![Edge::Input(0)], Fingerprint(1)))
}

fn batch(
    schema: &SchemaRef,
    columns: &[Vec<f64>],
    times: &[i64],
    from: usize,
    to: usize,
) -> Result<RecordBatch> {
    let number = |values: &Vec<f64>| -> ArrayRef {
        Arc::new(
            values[from..to]
                .iter()
                .map(|value| value.is_finite().then_some(*value))
                .collect::<Float64Array>(),
        )
    };
    let time = time_array(times[from..to].to_vec());
    let columns: Vec<ArrayRef> = [time].into_iter().chain(columns.iter().map(number)).collect();
    Ok(RecordBatch::try_new(SchemaRef::clone(schema), columns)?)
}

fn state_bytes(engine: &mut Engine) -> Result<usize> {
    let now = Now { mono: Duration::ZERO, wall: EventTime(0) };
    engine.handle(now, Record::Barrier(Barrier { epoch: Epoch(1), change: None }))?;
    let mut bytes = 0;
    while let Some(effect) = engine.poll() {
        if let Effect::Snapshot(snapshot) = effect {
            for node in &snapshot.nodes {
                bytes += node.state.to_bytes()?.len();
            }
        }
    }
    Ok(bytes)
}
