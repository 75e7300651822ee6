//! Every pipeline of `pipelines/` over a simulated plant, in modes that must agree: straight, with batches cut
//! otherwise, and with a crash and a restore at every barrier. What comes out is held by `tests/golden/`, and one
//! pipeline is computed again by a plain program that shares nothing with the engine.
//!
//! `UPDATE=1 cargo test golden` writes the files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;
use tidegate::cli::PipelineArgs;
use tidegate::cli::files::{LoadFailure, load};
use tidegate::codec::text_ndjson::NdjsonWriter;
use tidegate::core::{Barrier, Commit, Effect, Engine, Epoch, Event, EventTime, Graph, Now, Record};
use tidegate::source::simulate::{Encoder, FaultKind, FaultSpec, PayloadFormat, Plant, PlantConfig, Profile};
use tidegate::store::Memory;
use tidegate::store::recovery::{self, Saver};

/// What is fed to a pipeline.
struct Case {
    pipeline: &'static str,
    format: PayloadFormat,
    plant: PlantConfig,
}

fn plant(profile: Profile, seconds: f64, rate_hz: f64, devices: u32) -> PlantConfig {
    PlantConfig { seed: 7, profile, devices, rate_hz, duration_s: Some(seconds), ..PlantConfig::default() }
}

fn fault(kind: FaultKind, device: &str, start_s: f64, duration_s: f64) -> FaultSpec {
    FaultSpec { kind, device: device.to_owned(), signal: None, start_s, duration_s, severity: 1.5 }
}

fn cases() -> Vec<Case> {
    let mut press = plant(Profile::PressLine, 120.0, 10.0, 4);
    press.faults.list = vec![fault(FaultKind::BearingWear, "press-02", 40.0, 60.0)];
    let mut pump = plant(Profile::PumpVibration, 600.0, 5.0, 2);
    pump.faults.list = vec![fault(FaultKind::Cavitation, "pump-01", 450.0, 120.0)];
    let mut cold = plant(Profile::ColdChain, 4.0 * 3600.0, 0.1, 5);
    (cold.late, cold.delay_ms_max, cold.duplicate, cold.missing) = (0.05, 60_000.0, 0.1, 0.02);
    let meters = plant(Profile::EnergyMeters, 2.0 * 3600.0, 0.2, 3);
    let water = plant(Profile::WaterLoop, 300.0, 2.0, 2);
    let mut fan_out = plant(Profile::PressLine, 200.0, 5.0, 4);
    (fan_out.late, fan_out.delay_ms_max) = (0.02, 90_000.0);
    let json = PayloadFormat::Json;
    vec![
        Case { pipeline: "press-line", format: json, plant: press },
        Case { pipeline: "pump-vibration", format: json, plant: pump },
        Case { pipeline: "cold-chain", format: json, plant: cold },
        Case { pipeline: "energy-meters", format: PayloadFormat::Csv, plant: meters },
        Case { pipeline: "water-loop", format: PayloadFormat::Tags, plant: water },
        Case { pipeline: "fan-out", format: json, plant: fan_out },
    ]
}

fn graph(pipeline: &str) -> Graph {
    let path = format!("pipelines/{pipeline}.toml");
    match load(Path::new(&path), &PipelineArgs::default(), &tidegate::builtin::registry()) {
        Ok(pipeline) => pipeline.graph,
        Err(LoadFailure::Error(error)) => panic!("{path}: {error}"),
        Err(LoadFailure::Diagnostics(diagnostics)) => panic!("{diagnostics}"),
    }
}

fn messages(case: &Case, rows_max: impl Fn(usize) -> usize) -> Vec<RecordBatch> {
    let mut plant = Plant::new(&case.plant).unwrap();
    let encoder = Encoder::new(&plant, case.format);
    let mut batches = Vec::new();
    while let Some(batch) = plant.next_raw_batch(&encoder, rows_max(batches.len()), i64::MAX).unwrap() {
        batches.push(batch);
    }
    batches
}

/// What each sink got, as lines; frames are decoded to their rows.
struct Results {
    names: Vec<String>,
    lines: BTreeMap<String, Vec<u8>>,
    writer: NdjsonWriter,
}

impl Results {
    fn new(graph: &Graph) -> Self {
        let names = graph.sinks.iter().map(|sink| sink.name.clone()).collect();
        Self { names, lines: BTreeMap::new(), writer: NdjsonWriter::new() }
    }

    fn take(&mut self, engine: &mut Engine) -> Option<tidegate::core::Snapshot> {
        let mut snapshot = None;
        while let Some(effect) = engine.poll() {
            match effect {
                Effect::Emit { sink, event: Event::Batch(batch) } => {
                    let out = self.lines.entry(self.names[sink].clone()).or_default();
                    match batch.column_by_name("frame") {
                        None => self.writer.write(&batch, out).unwrap(),
                        Some(frames) => {
                            let frames = arrow::array::AsArray::as_binary::<i32>(frames.as_ref());
                            for frame in frames.iter().flatten() {
                                let decoded = tidegate::codec::frame::decode(frame).unwrap();
                                assert!(decoded.skipped.is_empty());
                                self.writer.write(&decoded.batch, out).unwrap();
                            }
                        }
                    }
                }
                Effect::Emit { .. } => {}
                Effect::Snapshot(taken) => snapshot = Some(taken),
                Effect::Rejected { error, .. } => panic!("{error}"),
            }
        }
        snapshot
    }
}

/// The moment of the n-th record; the wall clock stands where the plant's time ends, so nothing is ahead of it.
fn now(index: usize) -> Now {
    Now { mono: Duration::from_millis(index as u64), wall: EventTime(4_000_000_000_000_000) }
}

fn run(case: &Case, batches: Vec<RecordBatch>, crash_every: Option<usize>) -> BTreeMap<String, Vec<u8>> {
    let mut engine = Engine::new(graph(case.pipeline), None).unwrap().0;
    let mut results = Results::new(engine.graph());
    let mut epoch = 0;
    let (mut store, mut saver) = (Memory::new(), Saver::new(vec![], vec![]));
    for (index, batch) in batches.into_iter().enumerate() {
        engine.handle(now(index), Record::Batch { input: 0, batch }).unwrap();
        results.take(&mut engine);
        if crash_every.is_some_and(|every| index % every == 0) {
            epoch += 1;
            let barrier = Barrier { epoch: Epoch(epoch), change: None };
            engine.handle(now(index), Record::Barrier(barrier)).unwrap();
            let snapshot = results.take(&mut engine).unwrap();
            // Through files, as on disk: bases and deltas.
            let commit = Commit { epoch: Epoch(epoch), offset: 0, snapshot, sources: vec![], sinks: vec![] };
            saver.save(&mut store, &commit, now(index)).unwrap();
            let snapshot = recovery::recover(&mut store).unwrap().snapshot.unwrap();
            assert_eq!(snapshot, commit.snapshot);
            drop(commit);
            if epoch % 3 == 2 {
                // Goes on, so that what the engine has shared with the snapshot is taken back.
                continue;
            }
            let (restored, outcomes) = Engine::new(graph(case.pipeline), Some(&snapshot)).unwrap();
            assert!(outcomes.iter().all(|outcome| *outcome == tidegate::core::Restored::Loaded));
            engine = restored;
        }
    }
    engine.handle(now(usize::MAX >> 32), Record::End { input: 0 }).unwrap();
    results.take(&mut engine);
    results.lines
}

/// A summary that a person can read and that changes with every byte.
fn summary(lines: &BTreeMap<String, Vec<u8>>) -> String {
    let mut text = String::new();
    for (sink, bytes) in lines {
        let all: Vec<&str> = std::str::from_utf8(bytes).unwrap().lines().collect();
        let hash = blake3::hash(bytes).to_hex();
        let _ = writeln!(text, "{sink}: {} rows, {} bytes, {}", all.len(), bytes.len(), &hash[..16]);
        let shown = all.iter().take(2).chain(all.last());
        shown.for_each(|line| _ = writeln!(text, "  {line}"));
    }
    text
}

fn hold(case: &Case) {
    let batches = messages(case, |_| 500);
    assert!(!batches.is_empty());
    let straight = run(case, batches.clone(), None);
    let cut = run(case, messages(case, |index| 1 + index * 7919 % 400), None);
    let crashed = run(case, batches, Some(1));
    for (mode, lines) in [("batches cut otherwise", &cut), ("crash at every barrier", &crashed)] {
        assert_eq!(summary(lines), summary(&straight), "{}: {mode}", case.pipeline);
    }
    let path = format!("tests/golden/{}.txt", case.pipeline);
    let found = summary(&straight);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all("tests/golden").unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let expected =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}; run with UPDATE=1"));
    assert_eq!(found, expected, "{path}");
}

#[test]
fn press_line() {
    hold(&cases()[0]);
}

#[test]
fn pump_vibration() {
    hold(&cases()[1]);
}

#[test]
fn cold_chain() {
    hold(&cases()[2]);
}

#[test]
fn energy_meters() {
    hold(&cases()[3]);
}

#[test]
fn water_loop() {
    hold(&cases()[4]);
}

#[test]
fn fan_out() {
    hold(&cases()[5]);
}

#[test]
fn every_pipeline_has_a_case() {
    let files: BTreeSet<String> = std::fs::read_dir("pipelines")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let held: BTreeSet<String> = cases().iter().map(|case| case.pipeline.to_owned()).collect();
    assert_eq!(files, held);
}

/// Quarters of the cold chain from the messages alone: JSON by serde_json, a set for duplicates, plain sums.
#[test]
fn the_cold_chain_computed_by_a_plain_program_is_the_same() {
    let case = &cases()[2];
    let record = run(case, messages(case, |_| 500), None).remove("record").unwrap();

    let mut seen = BTreeSet::new();
    let mut newest = i64::MIN;
    let mut quarters: BTreeMap<(i64, String), Vec<f64>> = BTreeMap::new();
    const QUARTER_US: i64 = 300_000_000;
    for batch in messages(case, |_| 500) {
        let topics = arrow::array::AsArray::as_dictionary::<arrow::datatypes::Int32Type>(batch.column(0));
        let topics = topics.downcast_dict::<arrow::array::StringArray>().unwrap();
        let payloads = arrow::array::AsArray::as_binary::<i32>(batch.column(1).as_ref());
        for (topic, payload) in topics.into_iter().zip(payloads.iter()) {
            let room = topic.unwrap().split('/').nth(2).unwrap().to_owned();
            let message: serde_json::Value = serde_json::from_slice(payload.unwrap()).unwrap();
            let time = message["ts"].as_i64().unwrap() * 1000;
            newest = newest.max(time);
            if seen.insert((room.clone(), message["seq"].as_i64().unwrap()))
                && let Some(temp) = message["temp"].as_f64()
            {
                quarters.entry((time.div_euclid(QUARTER_US), room)).or_default().push(temp);
            }
        }
    }
    // No reading comes later than the lateness that the pipeline allows, so none is missing from a window.
    let lines = std::str::from_utf8(&record).unwrap();
    let mut compared = 0;
    for line in lines.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let end = tidegate::codec::timestamp::parse_rfc3339(row["window_end"].as_str().unwrap().as_bytes())
            .unwrap();
        let key = (end.div_euclid(QUARTER_US) - 1, row["room"].as_str().unwrap().to_owned());
        let Some(values) = quarters.remove(&key) else {
            assert!(row["temp_mean"].is_null(), "{line}");
            continue;
        };
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!((row["temp_mean"].as_f64().unwrap() - mean).abs() < 1e-9, "{line}: {mean}");
        assert_eq!(row["temp_min"].as_f64().unwrap(), min, "{line}");
        assert_eq!(row["temp_max"].as_f64().unwrap(), max, "{line}");
        compared += 1;
    }
    assert!(quarters.is_empty(), "windows are missing: {quarters:?}");
    assert!(compared > 200, "{compared}");
}
