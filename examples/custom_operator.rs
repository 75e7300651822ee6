//! An operator of your own, outside the crate: `deadband` lets a reading through only when its smoothed value has moved
//! by more than a band. A plant's line to the cloud is thin, and most readings say what the last one said.
//!
//! It stands beside the built-in operators in every way: keyed state that survives restarts, documentation made from
//! its doc comments, errors with a place in the file, the laws, and the whole command line:
//!
//! ```sh
//! cargo run --example custom_operator                          # laws, documentation, and a run over a simulated plant
//! cargo run --example custom_operator -- explain deadband      # `tidegate`'s command line, with this operator in it
//! cargo run --example custom_operator -- run my-pipeline.toml
//! ```
//!
//! `plugins/duty-cycle` is the same as a crate of its own.

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate::config::{self, Options};
use tidegate::core::keys::REFUSED;
use tidegate::core::{
    Chunks, EventTime, KeyLimits, Keys, Operator, Output, StateReader, StateWriter, schema,
};
use tidegate::registry::{Built, Checked, Context, NoFiles, OperatorConfig, Problem, Registry};
use tidegate::runtime::pipeline::start;
use tidegate::sim::laws;
use tidegate::units::Period;
use tidegate::{cli, embed};
use tokio_stream::StreamExt;

/// Lets a row through when the smoothed value of its key has moved by more than a band since the row before that was
/// let through; a key's first row always goes. The value is smoothed exponentially over event time.
///
/// Emitted columns: those of the input, then `smoothed`. Rows without a usable value are left out and counted
/// (`skipped_values`), as are those of keys beyond `max_keys` (`refused_rows`).
// These doc comments are what `explain` prints and what an editor shows; a field without one is a mistake.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeadbandConfig {
    /// The column of numbers that is looked at.
    column: String,
    /// The columns that make the key: texts, integers or true/false. Each key is smoothed by itself.
    #[serde(default)]
    by: Vec<String>,
    /// How far the smoothed value moves before a row is let through, in the column's unit.
    #[schemars(range(min = 0.0))]
    band: f64,
    /// After this long a new value counts half.
    half_life: Period,
    /// The most keys at once.
    #[serde(default = "max_keys")]
    #[schemars(range(min = 1))]
    max_keys: usize,
    /// A key without rows for this long in event time is forgotten. Without it, keys stay.
    key_ttl: Option<Period>,
}

fn max_keys() -> usize {
    KeyLimits::default().max_keys
}

impl OperatorConfig for DeadbandConfig {
    const TYPE: &'static str = "deadband";
    // Over the columns of `registry::example_schema`. The laws are tried on each of them.
    const EXAMPLES: &'static [&'static str] = &[
        r#"# A reading per press when its temperature has moved by half a degree.
column = "temp"
by = ["line", "device"]
band = 0.5
half_life = "1s"
"#,
        r#"# All rows are one series; of those that were silent for an hour nothing is kept.
column = "vib"
band = 2.0
half_life = "250ms"
key_ttl = "1h"
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let input = context.schema();
        let mut problems = Vec::new();
        let mut find = |path: String, name: &str| match input.index_of(name) {
            Ok(index) => Some(index),
            Err(_) => {
                problems.push(Problem::no_column(path, name, input));
                None
            }
        };
        let column = find("column".to_owned(), &self.column);
        let by: Vec<usize> =
            self.by.iter().enumerate().filter_map(|(at, name)| find(format!("by[{at}]"), name)).collect();
        if let Some(column) = column.filter(|column| *input.field(*column).data_type() != DataType::Float64) {
            let kind = schema::type_name(input.field(column).data_type());
            let message = format!("column \"{}\" is {kind}; numbers (f64) can be smoothed", self.column);
            problems.push(Problem::new("column", message));
        }
        if self.half_life.micros() == 0 {
            problems.push(Problem::new("half_life", "`half_life` is nothing").help("\"1s\" is usual"));
        }
        let types = by.iter().map(|index| input.field(*index).data_type().clone()).collect();
        let limits = KeyLimits {
            max_keys: self.max_keys,
            key_ttl: self.key_ttl.map(|ttl| ttl.0),
            ..KeyLimits::default()
        };
        let keys = Keys::new(types, limits).map_err(|error| problems.push(Problem::new("by", error.message)));
        let (Some(column), Ok(keys), true) = (column, keys, problems.is_empty()) else {
            return Err(problems);
        };
        let fields = input.fields().iter().map(|field| field.as_ref().clone());
        let fields = fields.chain([Field::new("smoothed", DataType::Float64, false)]);
        let output: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        // What the saved state depends on. A restart with another band goes on with the state; one with another
        // half-life starts fresh.
        let meaning = format!("{} {:?} {}", self.column, self.by, self.half_life);
        let operator = Deadband {
            column,
            by,
            band: self.band,
            half_life_us: self.half_life.micros() as f64,
            keys,
            ids: Vec::new(),
            smoothing: Chunks::new(),
            schema: output.clone(),
        };
        Ok(Built::new(operator, output, meaning))
    }
}

/// What is known of one key.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Smoothing {
    value: f64,
    time_us: i64,
    /// The smoothed value of the row that was let through last.
    told: f64,
}

struct Deadband {
    column: usize,
    by: Vec<usize>,
    band: f64,
    half_life_us: f64,
    /// From the values of the key columns to small numbers, with their limits.
    keys: Keys,
    /// The numbers of the rows of a batch; kept for its room.
    ids: Vec<u32>,
    /// By the key's number; none before its first value.
    smoothing: Chunks<Option<Smoothing>>,
    schema: SchemaRef,
}

impl Deadband {
    /// Takes a value in; gives the smoothed one, and whether it has left the band.
    fn smooth(&mut self, id: u32, time_us: i64, value: f64) -> (f64, bool) {
        let known = &mut self.smoothing[id as usize];
        let Some(known) = known else {
            *known = Some(Smoothing { value, time_us, told: value });
            return (value, true);
        };
        // A row from before the last one changes nothing: no time has passed.
        let passed_us = time_us.saturating_sub(known.time_us).max(0);
        let weight = 1.0 - (-(passed_us as f64) / self.half_life_us).exp2();
        known.value += weight * (value - known.value);
        known.time_us = known.time_us.max(time_us);
        let moved = (known.value - known.told).abs() > self.band;
        if moved {
            known.told = known.value;
        }
        (known.value, moved)
    }
}

impl Operator for Deadband {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> tidegate::Result<()> {
        let times = schema::times(&batch)?.values();
        let values = batch.column(self.column).as_primitive::<Float64Type>();
        let by: Vec<ArrayRef> = self.by.iter().map(|index| batch.column(*index).clone()).collect();
        self.ids.clear();
        // Keys that are refused rather than evicted: one call goes to the end.
        self.keys.resolve(&by, times, 0, &mut self.ids);
        self.smoothing.grow(self.keys.capacity());

        let (mut smoothed, mut through) = (vec![0.0; times.len()], vec![false; times.len()]);
        let (mut skipped, mut refused) = (0, 0);
        for row in 0..times.len() {
            let usable = values.is_valid(row) && values.value(row).is_finite();
            match (usable, self.ids[row]) {
                (false, _) => skipped += 1,
                (true, REFUSED) => refused += 1,
                (true, id) => {
                    (smoothed[row], through[row]) = self.smooth(id, times[row], values.value(row));
                }
            }
        }
        out.count("skipped_values", "", skipped);
        out.count("refused_rows", "max_keys", refused);

        let columns = batch.columns().iter().cloned().chain([Arc::new(Float64Array::from(smoothed)) as _]);
        let all = RecordBatch::try_new(self.schema.clone(), columns.collect())?;
        // An empty batch is nothing: `emit` leaves it out.
        out.emit(0, filter_record_batch(&all, &BooleanArray::from(through))?);
        Ok(())
    }

    /// No row before `to` will come: what has been silent for long can be forgotten.
    fn watermark(&mut self, to: EventTime, _out: &mut Output) -> tidegate::Result<()> {
        for id in self.keys.expire(to) {
            if let Some(known) = self.smoothing.get_mut(id as usize) {
                *known = None;
            }
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        self.keys.save(state);
        // Shared with the snapshot rather than written: the engine waits for this, and there may be many keys.
        state.chunks("smoothing", "", &mut self.smoothing);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> tidegate::Result<()> {
        self.keys.load(state)?;
        self.smoothing = Chunks::load(state)?;
        if self.smoothing.len() > self.keys.capacity() {
            return Err(tidegate::Error::state("more keys are smoothed than there are"));
        }
        Ok(())
    }
}

/// The built-in components, the program's own ends, and the operator above.
fn registry() -> Registry {
    embed::registry().operator::<DeadbandConfig>()
}

const PIPELINE: &str = r#"
[pipeline]
name = "thin-line"

[source.plant]
type = "simulate"
devices = 4
rate_hz = 10.0
start = "2026-01-01T00:00:00Z"
duration = "10m"
speed = "max"

[operator.news]
type = "deadband"
inputs = ["plant"]
column = "temp"
by = ["device"]
band = 0.25
half_life = "1s"

[sink.results]
type = "rows"
inputs = ["news"]
"#;

fn main() -> ExitCode {
    // With arguments it is `tidegate` with one more operator.
    if std::env::args_os().len() > 1 {
        return cli::main_with(registry());
    }
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<(), Box<dyn Error>> {
    // In a crate these two are its tests: everything that the built-in operators are held to.
    laws::hold::<DeadbandConfig>()?;
    if let [missing, ..] = config::undocumented(&registry()).as_slice() {
        return Err(missing.clone().into());
    }
    println!("deadband keeps the laws on {} examples.\n", DeadbandConfig::EXAMPLES.len());
    println!("{}", config::explain(&registry(), "deadband")?);

    let mut pipeline = config::load(PIPELINE, "thin-line.toml", &registry(), &Options::new(&NoFiles))?;
    let mut results = embed::take(&mut pipeline, "results")?;
    let (rows_in, rows_out, told) =
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let running = start(pipeline).await?;
            let mut told: HashMap<String, Vec<f64>> = HashMap::new();
            while let Some(batch) = results.next().await {
                note(&batch, &mut told)?;
            }
            running.task.await??;
            let rows_in = running.served.metrics().totals().source_rows;
            let rows_out: usize = told.values().map(Vec::len).sum();
            Ok::<_, Box<dyn Error>>((rows_in, rows_out, told))
        })?;
    println!("{rows_in} readings of {} devices, {rows_out} of them news.", told.len());

    let moves = told.values().flat_map(|values| values.windows(2).map(|pair| (pair[1] - pair[0]).abs()));
    let least = moves.fold(f64::INFINITY, f64::min);
    println!("The smallest step between two of them is {least:.3}, the band is 0.25.");
    if told.len() != 4 || rows_out < 20 || rows_out as u64 * 4 > rows_in || least <= 0.25 {
        return Err("this is not what a deadband does".into());
    }
    Ok(())
}

/// Notes the smoothed values of each device.
fn note(batch: &RecordBatch, told: &mut HashMap<String, Vec<f64>>) -> Result<(), Box<dyn Error>> {
    let column = |name: &str| batch.column_by_name(name).ok_or(format!("there is no column {name}"));
    let devices = column("device")?.as_dictionary::<Int32Type>();
    let names = devices.values().as_string::<i32>();
    let smoothed = column("smoothed")?.as_primitive::<Float64Type>().values();
    for (row, value) in smoothed.iter().enumerate() {
        let name = devices.key(row).map_or("", |key| names.value(key));
        told.entry(name.to_owned()).or_default().push(*value);
    }
    Ok(())
}
