//! Drives one operator in tests: a script of rows and watermarks in, rows per port and counts out.
//!
//! A [`Run`] says how the script is fed: where batches are cut, where the operator is saved and loaded anew,
//! and whether the same rows come as slices of larger arrays with other dictionaries. No such choice may be
//! seen in the [`Outcome`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int32Array,
    Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::core::schema::{time_array, times};
use crate::core::{EventTime, Flow, Now, Output, StateReader, StateWriter};
use crate::registry::{
    BatchLimits, Built, Checked, Context, InputSchema, NoFiles, OperatorConfig, Problem, example_schema,
};

/// One row over [`example_schema`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub time: i64,
    pub line: Option<&'static str>,
    pub device: Option<&'static str>,
    pub seq: Option<i64>,
    pub temp: Option<f64>,
    pub vib: Option<f64>,
    pub rpm: Option<i64>,
    pub ok: Option<bool>,
    pub note: Option<&'static str>,
}

/// One step of a script.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Row(Row),
    Mark(i64),
}

/// The watermark that ends a script.
pub const END: Step = Step::Mark(i64::MAX);

/// How a script is fed.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Steps before which the batch is cut.
    pub cuts: Vec<usize>,
    /// Steps before which the operator is saved and a new one loaded.
    pub saves: Vec<usize>,
    /// Rows come as slices, and tags through dictionaries with other orders and unused values.
    pub disguised: bool,
}

/// What came out.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// The rows of each port, in order, as text.
    pub ports: Vec<Vec<String>>,
    /// What was counted.
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Rows of the main port that lie before the watermark of the step before.
    pub behind: Vec<String>,
}

impl Outcome {
    pub fn count(&self, what: &'static str, reason: &'static str) -> u64 {
        self.counts.get(&(what, reason)).copied().unwrap_or(0)
    }
}

/// Builds an operator from its table over the example columns.
pub fn build<C: OperatorConfig>(body: &str) -> Checked<Built> {
    build_over::<C>(body, &[example_schema()])
}

/// Builds an operator from its table over some inputs, called `a`, `b` and so on.
pub fn build_over<C: OperatorConfig>(body: &str, schemas: &[SchemaRef]) -> Checked<Built> {
    let config: C = toml::from_str(body).map_err(|error| vec![Problem::new("", error.message())])?;
    let inputs: Vec<InputSchema> = ('a'..)
        .zip(schemas)
        .map(|(name, schema)| InputSchema { name: name.into(), schema: schema.clone() })
        .collect();
    let batch = BatchLimits::default();
    config.build(&Context { name: "it", pipeline: "test", inputs: &inputs, files: &NoFiles, batch })
}

/// The problems of a table, each as `path[span]: message; help`.
pub fn problems<C: OperatorConfig>(body: &str) -> Vec<String> {
    let found = build::<C>(body).err().unwrap_or_default();
    let written = |problem: Problem| {
        let span = problem.span.map(|span| format!("[{}..{}]", span.start, span.end)).unwrap_or_default();
        let help = problem.help.map(|help| format!("; {help}")).unwrap_or_default();
        format!("{}{span}: {}{help}", problem.path, problem.message)
    };
    found.into_iter().map(written).collect()
}

/// The rows as one batch over the example columns.
pub fn batch(rows: &[Row], disguised: bool) -> RecordBatch {
    if disguised {
        let odd = Row { line: Some("odd"), seq: Some(-7), note: Some("odd"), ..Row::default() };
        let padded: Vec<Row> = [odd.clone()].into_iter().chain(rows.iter().cloned()).chain([odd]).collect();
        return arrays(&padded, true).slice(1, rows.len());
    }
    arrays(rows, false)
}

fn arrays(rows: &[Row], backwards: bool) -> RecordBatch {
    let arrays: Vec<ArrayRef> = vec![
        time_array(rows.iter().map(|row| row.time).collect()),
        tags(rows.iter().map(|row| row.line), backwards),
        tags(rows.iter().map(|row| row.device), backwards),
        Arc::new(rows.iter().map(|row| row.seq).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.temp).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.vib).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.rpm).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.ok).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.note).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.note.map(str::as_bytes)).collect::<BinaryArray>()),
    ];
    RecordBatch::try_new(example_schema(), arrays).unwrap()
}

fn tags<'a>(values: impl Iterator<Item = Option<&'a str>>, backwards: bool) -> ArrayRef {
    let plain: DictionaryArray<Int32Type> = values.collect();
    if !backwards {
        return Arc::new(plain);
    }
    let words = plain.values().as_string::<i32>();
    let turned: StringArray =
        [Some("unused")].into_iter().chain((0..words.len()).rev().map(|at| Some(words.value(at)))).collect();
    let keys: Int32Array = plain.keys().iter().map(|key| key.map(|key| words.len() as i32 - key)).collect();
    Arc::new(DictionaryArray::<Int32Type>::new(keys, Arc::new(turned)))
}

/// Each row of a batch as text: times in microseconds, dictionaries decoded, floats to the last bit.
pub fn rows(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("-");
    let plain = |column: &ArrayRef| match column.data_type() {
        DataType::Timestamp(..) => {
            Arc::new(column.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>()) as _
        }
        _ => column.clone(),
    };
    let columns: Vec<ArrayRef> = batch.columns().iter().map(plain).collect();
    let columns: Vec<ArrayFormatter<'_>> =
        columns.iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    let row = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ");
    (0..batch.num_rows()).map(row).collect()
}

/// Feeds a script to an operator.
pub fn run(make: &dyn Fn() -> Built, script: &[Step], run: &Run) -> Outcome {
    let mut built = make();
    let mut outcome = Outcome { ports: vec![Vec::new(); built.ports.len()], ..Outcome::default() };
    let (mut waiting, mut mark): (Vec<Row>, i64) = (Vec::new(), i64::MIN);
    for (index, step) in script.iter().enumerate() {
        if run.cuts.contains(&index) || run.saves.contains(&index) {
            feed(&mut built, &mut waiting, mark, run.disguised, &mut outcome);
        }
        if run.saves.contains(&index) {
            let mut writer = StateWriter::new();
            built.operator.save(&mut writer);
            let bytes = writer.finish().unwrap();
            built = make();
            let mut reader = StateReader::new(&bytes);
            built.operator.load(&mut reader).unwrap();
            reader.finish().unwrap();
        }
        match step {
            Step::Row(row) => waiting.push(row.clone()),
            Step::Mark(to) => {
                feed(&mut built, &mut waiting, mark, run.disguised, &mut outcome);
                let mut out = Output::new(Now::ZERO);
                built.operator.watermark(EventTime(*to), &mut out).unwrap();
                collect(&built, &mut out, mark, &mut outcome);
                mark = *to;
            }
        }
    }
    feed(&mut built, &mut waiting, mark, run.disguised, &mut outcome);
    outcome
}

fn feed(built: &mut Built, waiting: &mut Vec<Row>, mark: i64, disguised: bool, outcome: &mut Outcome) {
    if waiting.is_empty() {
        return;
    }
    let mut out = Output::new(Now::ZERO);
    built.operator.process(0, batch(waiting, disguised), &mut out).unwrap();
    collect(built, &mut out, mark, outcome);
    waiting.clear();
}

fn collect(built: &Built, out: &mut Output, mark: i64, outcome: &mut Outcome) {
    for (count, by) in out.drain_counts() {
        *outcome.counts.entry((count.what, count.reason)).or_default() += by;
    }
    for (port, flow) in out.drain() {
        let Flow::Batch(batch) = flow else { panic!("only rows are expected") };
        assert_eq!(batch.schema(), built.ports[port].schema, "port {port} is declared with other columns");
        let texts = rows(&batch);
        if port == 0 {
            let times = times(&batch).unwrap();
            let behind = texts.iter().zip(times.values()).filter(|(_, time)| **time < mark);
            outcome.behind.extend(behind.map(|(text, _)| text.clone()));
        }
        outcome.ports[port].extend(texts);
    }
}

/// Asserts that no way of feeding the script shows in what comes out, and returns that.
pub fn law(make: &dyn Fn() -> Built, script: &[Step], cuts: &[usize], save: usize) -> Outcome {
    let straight = run(make, script, &Run::default());
    for other in [
        Run { cuts: cuts.to_vec(), ..Run::default() },
        Run { cuts: (0..script.len()).collect(), disguised: true, ..Run::default() },
        Run { saves: vec![save.min(script.len() - 1)], cuts: cuts.to_vec(), ..Run::default() },
        Run { saves: (0..script.len()).collect(), ..Run::default() },
    ] {
        assert_eq!(run(make, script, &other), straight, "fed as {other:?}");
    }
    straight
}
