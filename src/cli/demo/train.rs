//! Trains the demo's models on the very features that the pipeline computes: the plant's readings go through the
//! engine with the pipeline's own `plant` and `features` nodes.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};

use super::PIPELINE;
use super::plant::DemoPlant;
use crate::builtin;
use crate::cli::PipelineArgs;
use crate::cli::files::{LoadFailure, load_text};
use crate::core::{Effect, Engine, Event, Now, Record};
use crate::error::{Error, Result};
use crate::model::{Trained, TrainingData, TrainingOptions, train};
use crate::source::simulate::{Encoder, PayloadFormat};

/// How long the sound plant is watched, in seconds of its own time.
const WATCH_S: u64 = 600;

/// Two models of the same plant that differ in their first weights; the second names the first as its parent.
///
/// # Errors
/// If the features cannot be computed or learned.
pub fn two_models(plant: &DemoPlant) -> Result<(Trained, Trained)> {
    let (names, rows) = features(plant)?;
    let data = TrainingData { names: &names, rows: &rows };
    let options = TrainingOptions {
        name: "press-line".to_owned(),
        created_us: crate::clock::wall().micros(),
        false_alarm_rate: 0.0,
        seed: 1,
        ..TrainingOptions::default()
    };
    let first = train(data, &options, &mut |_| {})?;
    let options = TrainingOptions { version: 2, parent: Some(first.id), seed: 2, ..options };
    let second = train(data, &options, &mut |_| {})?;
    Ok((first, second))
}

/// The pipeline's features over a sound plant: column names and rows, row-major.
fn features(plant: &DemoPlant) -> Result<(Vec<String>, Vec<f64>)> {
    let mut engine = Engine::new(training_graph()?, None)?.0;
    let mut sound = plant.sound(WATCH_S)?;
    let encoder = Encoder::new(&sound, PayloadFormat::Json);
    let mut windows = Vec::new();
    let now = Now { mono: std::time::Duration::ZERO, wall: crate::clock::wall() };
    while let Some(batch) = sound.next_raw_batch(&encoder, 8192, i64::MAX)? {
        engine.handle(now, Record::Batch { input: 0, batch })?;
        collect(&mut engine, &mut windows);
    }
    engine.handle(now, Record::End { input: 0 })?;
    collect(&mut engine, &mut windows);
    let schema =
        windows.first().map(RecordBatch::schema).ok_or_else(|| Error::data("no windows to learn from"))?;
    let columns: Vec<usize> = (0..schema.fields().len())
        .filter(|index| *schema.field(*index).data_type() == DataType::Float64)
        .collect();
    let names = columns.iter().map(|index| schema.field(*index).name().clone()).collect();
    let mut rows = Vec::new();
    for batch in &windows {
        for row in 0..batch.num_rows() {
            rows.extend(
                columns.iter().map(|index| batch.column(*index).as_primitive::<Float64Type>().value(row)),
            );
        }
    }
    Ok((names, rows))
}

/// The pipeline up to its features, with a sink behind them.
fn training_graph() -> Result<crate::core::Graph> {
    let mut table: toml::Table =
        PIPELINE.parse().map_err(|error: toml::de::Error| Error::config(error.to_string()))?;
    let keep = |table: &mut toml::Table, kind: &str, names: &[&str]| {
        if let Some(toml::Value::Table(kind)) = table.get_mut(kind) {
            kind.retain(|name, _| names.contains(&name));
        }
    };
    keep(&mut table, "operator", &["features"]);
    keep(&mut table, "sink", &["windows"]);
    if let Some(sink) = table.get_mut("sink").and_then(|sinks| sinks.get_mut("windows")) {
        *sink = toml::Value::Table(toml::Table::from_iter([
            ("type".to_owned(), toml::Value::from("stdout")),
            ("inputs".to_owned(), toml::Value::from(vec!["features"])),
        ]));
    }
    match load_text(
        &table.to_string(),
        "press-line (training)",
        &PipelineArgs::default(),
        &builtin::registry(),
    ) {
        Ok(pipeline) => Ok(pipeline.graph),
        Err(LoadFailure::Error(error)) => Err(error),
        Err(LoadFailure::Diagnostics(diagnostics)) => Err(Error::config(diagnostics.to_string())),
    }
}

fn collect(engine: &mut Engine, windows: &mut Vec<RecordBatch>) {
    while let Some(effect) = engine.poll() {
        if let Effect::Emit { event: Event::Batch(batch), .. } = effect {
            windows.push(batch);
        }
    }
}
