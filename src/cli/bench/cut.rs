//! What a cut costs the engine: the pause, and what a checkpoint writes, by the number of keys.
//!
//! One operator alone in an engine, filled with one row for each key. Then a cut, then a row for one key in a
//! hundred, and another cut. The pause is the time that the engine's thread spends on the barrier; writing happens
//! beside it and is timed for itself.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow::datatypes::Int32Type;
use clap::Args;

use super::median;
use crate::cli::Outcome;
use crate::core::schema::time_array;
use crate::core::{
    Barrier, Commit, Edge, Effect, Engine, Epoch, EventTime, Fingerprint, Graph, Now, Position, Record,
};
use crate::error::{Error, Result};
use crate::registry::{Registry, example_schema};
use crate::sim::harness::Subject;
use crate::store::Disk;
use crate::store::recovery::{self, Saved, Saver};

/// Arguments of `tidegate bench cut`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate bench cut --keys 1000,100000 --runs 5")]
pub struct CutArgs {
    /// Numbers of keys to measure with.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    pub keys: Vec<usize>,
    /// Runs of each; the median counts.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Print one JSON object per line instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Operators and the bodies of their tables.
const SUBJECTS: [(&str, &str, &str); 4] = [
    (
        "window, 8 statistics",
        "window",
        r#"size = "1h"
by = ["device"]
columns = { vib = ["mean", "std", "rms", "kurtosis", "max"], temp = ["mean", "max", "slope"] }
max_keys = 1000000
max_windows = 2000000"#,
    ),
    (
        "window with quantiles",
        "window",
        r#"size = "1h"
by = ["device"]
columns = { vib = ["mean", "p50", "p99"] }
max_keys = 1000000
max_windows = 2000000"#,
    ),
    (
        "dedup by device and time",
        "dedup",
        r#"by = ["device", "time"]
horizon = "1h"
max_entries = 2000000"#,
    ),
    (
        "detect robust_z, 2 columns",
        "detect",
        r#"by = ["device"]
columns = ["temp", "vib"]
max_keys = 1000000"#,
    ),
];

/// What one run measured.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Cost {
    /// The pause of a cut after every key has changed.
    pub pause_ms: f64,
    /// The pause of one after one key in a hundred has changed.
    pub pause_again_ms: f64,
    /// Bytes of state that the engine's thread wrote or copied at the cut.
    pub copied_bytes: u64,
    /// Size of a checkpoint's file when every key has changed.
    pub base_bytes: u64,
    /// Size of it when one key in a hundred has changed, and these stand beside each other.
    pub delta_bytes: u64,
    /// The same when they are spread evenly.
    pub spread_bytes: u64,
    /// Time to write the base, beside the engine.
    pub write_ms: f64,
    /// Reading the newest checkpoint and building the engine on it.
    pub restore_ms: f64,
    /// A batch that changes every key while the snapshot is not written yet, over one behind a written snapshot.
    pub batch_ratio: f64,
}

/// Measures cuts.
///
/// # Errors
/// If a checkpoint cannot be written.
pub fn run(args: &CutArgs, registry: &Registry) -> Outcome {
    if !args.json {
        println!("cut: medians of {} runs; the pause is time on the engine's thread\n", args.runs);
        println!(
            "| operator | keys | pause | pause, 1 % changed | copied | base | delta, 1 % beside each other | 1 % spread | \
             write | restore | batch |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    }
    for (name, kind, body) in SUBJECTS {
        for keys in &args.keys {
            let runs = (0..args.runs.max(1)).map(|_| measure(kind, body, *keys, registry));
            let runs: Vec<Cost> = runs.collect::<Result<_>>()?;
            if args.json {
                println!("{}", serde_json::json!({ "operator": name, "keys": keys, "runs": runs }));
                continue;
            }
            let of = |what: fn(&Cost) -> f64| median(runs.iter().map(what));
            println!(
                "| {name} | {keys} | {:.2} ms | {:.2} ms | {:.0} B | {:.0} kB | {:.0} kB | {:.0} kB | {:.0} ms | {:.0} ms \
                 | {:.1} x |",
                of(|run| run.pause_ms),
                of(|run| run.pause_again_ms),
                of(|run| run.copied_bytes as f64),
                of(|run| run.base_bytes as f64 / 1e3),
                of(|run| run.delta_bytes as f64 / 1e3),
                of(|run| run.spread_bytes as f64 / 1e3),
                of(|run| run.write_ms),
                of(|run| run.restore_ms),
                of(|run| run.batch_ratio),
            );
        }
    }
    Ok(())
}

/// One operator under cuts.
struct Bench {
    engine: Engine,
    disk: Disk,
    saver: Saver,
    devices: ArrayRef,
    /// Seconds since 1970 of the last batch, and the last epoch.
    time_s: i64,
    epoch: u64,
}

impl Bench {
    /// A batch with one row for each of some keys; how long the engine took.
    fn touch(&mut self, keys: impl Iterator<Item = usize>) -> Result<Duration> {
        self.time_s += 1;
        give(&mut self.engine, rows(keys, &self.devices, self.time_s * 1_000_000)?)
    }

    /// A cut that is written; the pause, the bytes copied at it, what was written, and how long that took.
    fn checkpoint(&mut self) -> Result<(Duration, u64, Saved, Duration)> {
        self.epoch += 1;
        let (commit, pause) = cut(&mut self.engine, self.epoch)?;
        let copied = commit.snapshot.nodes.iter().map(|node| node.state.copied_bytes()).sum();
        let start = Instant::now();
        let saved = self.saver.save(&mut self.disk, &commit, now(self.epoch))?;
        Ok((pause, copied, saved, start.elapsed()))
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn measure(kind: &str, body: &str, keys: usize, registry: &Registry) -> Result<Cost> {
    let directory = super::bench_directory();
    let outcome = measure_in(&directory, kind, body, keys, registry);
    let _ = std::fs::remove_dir_all(&directory);
    outcome
}

fn measure_in(directory: &Path, kind: &str, body: &str, keys: usize, registry: &Registry) -> Result<Cost> {
    let names = (0..keys).map(|key| Some(format!("device-{key:06}")));
    let mut bench = Bench {
        engine: Engine::new(graph(kind, body, registry)?, None)?.0,
        disk: Disk::open(directory)?,
        saver: Saver::new(vec!["in".to_owned()], vec!["out".to_owned()]),
        devices: Arc::new(names.collect::<StringArray>()),
        time_s: 0,
        epoch: 0,
    };
    bench.touch(0..keys)?;
    bench.checkpoint()?;
    let free = bench.touch(0..keys)?;
    let (pause, copied_bytes, base, write) = bench.checkpoint()?;
    // Two cuts go by after each change, since a checkpoint builds on the one before the last one.
    bench.checkpoint()?;
    let some = (keys / 100).max(1);
    bench.touch(keys / 2..keys / 2 + some)?;
    let (pause_again, _, delta, _) = bench.checkpoint()?;
    bench.checkpoint()?;
    bench.touch((0..some).map(|key| key * (keys / some)))?;
    let (_, _, spread, _) = bench.checkpoint()?;
    let start = Instant::now();
    let recovered = recovery::recover(&mut bench.disk)?;
    Engine::new(graph(kind, body, registry)?, recovered.snapshot.as_ref())?;
    let restore = start.elapsed();
    // Held, as by a writer that has not begun.
    bench.epoch += 1;
    let held = cut(&mut bench.engine, bench.epoch)?;
    let copying = bench.touch(0..keys)?;
    drop(held);
    Ok(Cost {
        pause_ms: milliseconds(pause),
        pause_again_ms: milliseconds(pause_again),
        copied_bytes,
        base_bytes: base.bytes,
        delta_bytes: delta.bytes,
        spread_bytes: spread.bytes,
        write_ms: milliseconds(write),
        restore_ms: milliseconds(restore),
        batch_ratio: copying.as_secs_f64() / free.as_secs_f64(),
    })
}

/// One operator between an input and a sink.
fn graph(kind: &str, body: &str, registry: &Registry) -> Result<Graph> {
    let component = registry
        .operator_type(kind)
        .ok_or_else(|| Error::config(format!("there is no operator type `{kind}`")))?;
    let built = Subject { component, body }.build()?;
    Graph::of_one(built.node(kind, component.name, vec![Edge::Input(0)], Fingerprint(1)))
}

/// One row for each of some keys, at a time.
fn rows(keys: impl Iterator<Item = usize>, devices: &ArrayRef, time: i64) -> Result<RecordBatch> {
    let keys: Vec<i32> = keys.map(|key| key as i32).collect();
    let count = keys.len();
    let value = |key: &i32| 1.0 + f64::from(key % 997) * 0.25;
    let device = DictionaryArray::<Int32Type>::try_new(Int32Array::from(keys.clone()), Arc::clone(devices))?;
    let line = DictionaryArray::<Int32Type>::try_new(
        Int32Array::from(vec![0; count]),
        Arc::new(StringArray::from(vec!["north"])),
    )?;
    let columns: Vec<ArrayRef> = vec![
        time_array(vec![time; count]),
        Arc::new(line),
        Arc::new(device),
        Arc::new(Int64Array::from(vec![Some(1); count])),
        Arc::new(keys.iter().map(|key| Some(value(key))).collect::<Float64Array>()),
        Arc::new(keys.iter().map(|key| Some(value(key) * 3.0)).collect::<Float64Array>()),
        Arc::new(Int64Array::from(vec![Some(1_500); count])),
        Arc::new(BooleanArray::from(vec![true; count])),
        Arc::new(StringArray::from(vec!["note"; count])),
        Arc::new(BinaryArray::from(vec![b"{}".as_slice(); count])),
    ];
    Ok(RecordBatch::try_new(example_schema(), columns)?)
}

fn now(mono_s: u64) -> Now {
    Now { mono: Duration::from_secs(mono_s), wall: EventTime(0) }
}

/// Makes a cut; the commit and the time it took.
fn cut(engine: &mut Engine, epoch: u64) -> Result<(Commit, Duration)> {
    let barrier = Record::Barrier(Barrier { epoch: Epoch(epoch), change: None });
    let start = Instant::now();
    engine.handle(now(epoch), barrier)?;
    let pause = start.elapsed();
    let mut snapshot = None;
    while let Some(effect) = engine.poll() {
        if let Effect::Snapshot(taken) = effect {
            snapshot = Some(taken);
        }
    }
    let snapshot = snapshot.ok_or_else(|| Error::data("a cut without a snapshot"))?;
    let sinks = vec![Position(String::new())];
    Ok((Commit { epoch: Epoch(epoch), offset: epoch, snapshot, sources: vec![None], sinks }, pause))
}

/// Gives rows in; how long it took.
fn give(engine: &mut Engine, batch: RecordBatch) -> Result<Duration> {
    let start = Instant::now();
    engine.handle(now(0), Record::Batch { input: 0, batch })?;
    let taken = start.elapsed();
    while engine.poll().is_some() {}
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_copies_next_to_nothing_however_many_keys_there_are() {
        let registry = crate::builtin::registry();
        for (name, kind, body) in SUBJECTS {
            let keys = if name == SUBJECTS[0].0 { 100_000 } else { 10_000 };
            let cost = measure(kind, body, keys, &registry).unwrap();
            println!("{name}, {keys} keys: {cost:?}");
            assert!(cost.copied_bytes < 256, "{name}: {} bytes", cost.copied_bytes);
            assert!(cost.base_bytes > 10 * keys as u64, "{name}: {} bytes", cost.base_bytes);
            let rest = cost.delta_bytes as f64 / cost.base_bytes as f64;
            // Hashes have no neighbours: `dedup` writes all its tables.
            assert!(rest < 0.2 || kind == "dedup", "{name}: a delta of {rest} of the base");
        }
    }
}
