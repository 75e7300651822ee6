//! Tidegate inside a program of your own, in three ways that give the same results:
//!
//! 1. a whole pipeline from TOML text, with files as its ends;
//! 2. a whole pipeline whose source and sink are streams that the program holds;
//! 3. the engine alone: records in, effects out, no tokio, no clock, no thread, and a snapshot in between.
//!
//! `cargo run --example embed`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use tidegate::cli::files::DiskFiles;
use tidegate::codec::text_ndjson::NdjsonWriter;
use tidegate::config::{self, Options, Pipeline};
use tidegate::core::schema::time_array;
use tidegate::core::{Barrier, Effect, Engine, Epoch, Event, EventTime, Now, Record, Snapshot};
use tidegate::runtime::pipeline::start;
use tidegate::{builtin, embed};
use tokio_stream::StreamExt;

/// What is computed, whatever the ends are.
const MIDDLE: &str = r#"
[operator.seconds]
type = "window"
inputs = ["plant"]
size = "1s"
by = ["device"]
columns = { vib = ["mean", "max"] }
"#;

/// The ends of the second and third way.
const ROWS: &str = r#"
[pipeline]
name = "embedded"

[source.plant]
type = "rows"
columns = { device = "tag", vib = "f64" }
event_time = { lateness = "500ms" }

[sink.results]
type = "rows"
inputs = ["seconds"]
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let directory = tempfile::tempdir()?;

    let from_files = runtime.block_on(through_files(directory.path()))?;
    println!("1. files:   {} windows, the first: {}", from_files.len(), first(&from_files));
    let from_streams = runtime.block_on(through_streams())?;
    println!("2. streams: {} windows, the first: {}", from_streams.len(), first(&from_streams));
    let from_engine = through_the_engine()?;
    println!("3. engine:  {} windows, the first: {}", from_engine.len(), first(&from_engine));

    if from_files.len() != 20 || from_files != from_streams || from_files != from_engine {
        return Err("the three ways differ".into());
    }
    println!("All three ways give the same.");
    Ok(())
}

/// A pipeline file's text, read, checked and run as `tidegate run` would.
async fn through_files(directory: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let (input, output) = (directory.join("plant.ndjson"), directory.join("seconds.ndjson"));
    let lines: Vec<String> = readings()
        .map(|(time_us, device, vib)| {
            format!(r#"{{"ts":{},"device":"{device}","vib":{vib}}}"#, time_us / 1000)
        })
        .collect();
    std::fs::write(&input, lines.join("\n"))?;

    // `{:?}` writes a path as a TOML text.
    let text = format!(
        r#"
[pipeline]
name = "files"

[source.plant]
type = "file"
path = {input:?}
format = {{ type = "json", time = "ts", time_unit = "ms" }}
fields = {{ device = "text", vib = "f64" }}
event_time = {{ lateness = "500ms" }}

[sink.results]
type = "file"
inputs = ["seconds"]
path = {output:?}
{MIDDLE}"#
    );
    // Everything that is wrong with the text comes at once, with its places; print it to see.
    let pipeline = config::load(&text, "files.toml", &builtin::registry(), &Options::new(&DiskFiles))?;
    let running = start(pipeline).await?;
    // It ends by itself when the file does; `running.requests` takes a `Request::Stop` before that.
    running.task.await??;
    Ok(std::fs::read_to_string(&output)?.lines().map(str::to_owned).collect())
}

/// The same with ends that are streams: of a driver, a channel, another program's data.
async fn through_streams() -> Result<Vec<String>, Box<dyn Error>> {
    let mut pipeline = pipeline_over_rows()?;
    embed::feed(&mut pipeline, "plant", tokio_stream::iter(batches()?))?;
    let mut results = embed::take(&mut pipeline, "results")?;

    let running = start(pipeline).await?;
    let mut lines = Vec::new();
    while let Some(batch) = results.next().await {
        lines.extend(ndjson(&batch)?);
    }
    running.task.await??;
    Ok(lines)
}

/// The engine alone. Half-way its state is saved and a fresh engine goes on from it, as after a restart.
fn through_the_engine() -> Result<Vec<String>, Box<dyn Error>> {
    let mut engine = Engine::new(pipeline_over_rows()?.graph, None)?.0;
    let schema = pipeline_over_rows()?.sources[0].schema.clone();
    let batches = batches()?;
    let half = batches.len() / 2;
    let mut lines = Vec::new();
    // Time is an argument: here it is the number of the record.
    let now = |record: usize| Now { mono: Duration::from_millis(record as u64), wall: EventTime(0) };

    for (index, batch) in batches.iter().enumerate() {
        if index == half {
            let cut = Barrier { epoch: Epoch(1), change: None };
            engine.handle(now(index), Record::Barrier(cut))?;
            let snapshot = drain(&mut engine, &mut lines)?.ok_or("a cut gives a snapshot")?;
            engine = Engine::new(pipeline_over_rows()?.graph, Some(&snapshot))?.0;
        }
        // Inputs and sinks are numbered in the order of `pipeline.sources` and `pipeline.sinks`.
        let batch = embed::fit(&schema, batch)?;
        engine.handle(now(index), Record::Batch { input: 0, batch })?;
        drain(&mut engine, &mut lines)?;
    }
    engine.handle(now(batches.len()), Record::End { input: 0 })?;
    drain(&mut engine, &mut lines)?;
    Ok(lines)
}

/// Takes out everything that the last record has caused.
fn drain(engine: &mut Engine, lines: &mut Vec<String>) -> Result<Option<Snapshot>, Box<dyn Error>> {
    let mut snapshot = None;
    while let Some(effect) = engine.poll() {
        match effect {
            Effect::Emit { event: Event::Batch(batch), .. } => lines.extend(ndjson(&batch)?),
            Effect::Emit { .. } => {}
            Effect::Snapshot(taken) => snapshot = Some(taken),
            Effect::Rejected { error, .. } => return Err(error.into()),
        }
    }
    Ok(snapshot)
}

fn pipeline_over_rows() -> Result<Pipeline, Box<dyn Error>> {
    let text = format!("{ROWS}{MIDDLE}");
    Ok(config::load(&text, "rows.toml", &embed::registry(), &Options::new(&DiskFiles))?)
}

/// Two machines, ten readings a second, ten seconds: time in µs since 1970, device, vibration.
fn readings() -> impl Iterator<Item = (i64, &'static str, f64)> {
    (0..100).flat_map(|tick: i64| {
        let time_us = 1_700_000_000_000_000 + tick * 100_000;
        [(time_us, "press-1", tick as f64 / 10.0), (time_us, "press-2", 5.0)]
    })
}

/// The same as batches, in columns of types as a program may have them.
fn batches() -> Result<Vec<RecordBatch>, Box<dyn Error>> {
    let readings: Vec<(i64, &str, f64)> = readings().collect();
    let batch = |rows: &[(i64, &str, f64)]| {
        let devices: Vec<&str> = rows.iter().map(|row| row.1).collect();
        let vib: Vec<f64> = rows.iter().map(|row| row.2).collect();
        RecordBatch::try_from_iter([
            ("time", time_array(rows.iter().map(|row| row.0).collect())),
            ("device", Arc::new(StringArray::from(devices)) as ArrayRef),
            ("vib", Arc::new(Float64Array::from(vib))),
        ])
    };
    Ok(readings.chunks(7).map(batch).collect::<Result<_, _>>()?)
}

fn ndjson(batch: &RecordBatch) -> Result<Vec<String>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    NdjsonWriter::new().write(batch, &mut bytes)?;
    Ok(String::from_utf8(bytes)?.lines().map(str::to_owned).collect())
}

fn first(lines: &[String]) -> &str {
    lines.first().map_or("none", String::as_str)
}
