//! Laws that every operator keeps, over random scripts of rows, watermarks and ticks at fixed positions:
//!
//! - cutting the batches otherwise changes nothing, nor do sliced arrays and dictionaries in another order;
//! - saving and loading into a fresh operator at any point changes nothing;
//! - the same script gives the same, and nothing is emitted behind the watermark or after the end.
//!
//! An operator is under these laws by being in the registry: each of its examples is a subject. The laws are
//! themselves tested on operators that break one each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int32Array,
    Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tidegate::core::schema::time_array;
use tidegate::core::{EventTime, Now, Operator, Output, StateReader, StateWriter};
use tidegate::registry::{Built, example_schema};
use tidegate::sim::harness::{self, Said, Step, Subject};
use tidegate::{Result, builtin};

/// Random scripts per subject; `LAW_CASES` in the environment sets another number.
const CASES: u32 = 12;
/// Where time begins, µs: November 2023, on a grid of all usual windows.
const BEGIN_US: i64 = 1_699_999_200_000_000;

/// One row before it is in a batch.
#[derive(Debug, Clone)]
struct Row {
    port: usize,
    time: i64,
    line: Option<&'static str>,
    device: Option<&'static str>,
    seq: Option<i64>,
    temp: Option<f64>,
    vib: Option<f64>,
    rpm: Option<i64>,
    ok: Option<bool>,
    note: Option<&'static str>,
}

/// A script before its rows are cut into batches.
#[derive(Debug, Clone)]
enum Item {
    Row(Row),
    Watermark(i64),
    Tick(Now),
}

/// What one item is drawn from; times are relative to what came before.
#[derive(Debug, Clone)]
enum Drawn {
    Row { port: usize, ahead_ms: i64, behind_ms: i64, row: Row },
    Watermark { lag_ms: i64 },
    Tick { passed_ms: u64 },
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        12 => (-500i32..2000).prop_map(|tenths| Some(f64::from(tenths) / 10.0)),
        2 => Just(None),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-0.0), Just(1e300)].prop_map(Some),
    ]
}

fn row() -> impl Strategy<Value = Drawn> {
    let tags = (
        prop_oneof![4 => Just(Some("north")), 3 => Just(Some("south")), 1 => Just(None)],
        prop_oneof![
            5 => Just(Some("press-1")), 4 => Just(Some("press-2")), 3 => Just(Some("pump")), 1 => Just(None)
        ],
    );
    let rest = (
        prop_oneof![9 => (0i64..60).prop_map(Some), 1 => Just(None)],
        prop_oneof![9 => (0i64..3000).prop_map(Some), 1 => Just(None)],
        prop_oneof![Just(Some(true)), Just(Some(false)), Just(None)],
        // The examples of operators that turn tags into columns name these.
        prop::sample::select(vec![Some("inlet"), Some("flow"), Some("x"), Some("y"), Some(""), None]),
    );
    let times = (0i64..700, prop_oneof![6 => Just(0i64), 3 => 0i64..1500, 1 => 0i64..90_000]);
    (0usize..2, times, tags, number(), number(), rest).prop_map(
        |(port, (ahead_ms, behind_ms), (line, device), temp, vib, (seq, rpm, ok, note))| Drawn::Row {
            port,
            ahead_ms,
            behind_ms,
            row: Row { port, time: 0, line, device, seq, temp, vib, rpm, ok, note },
        },
    )
}

fn script() -> impl Strategy<Value = Vec<Drawn>> {
    let item = prop_oneof![
        14 => row(),
        2 => prop_oneof![3 => 0i64..2500, 1 => Just(-20_000i64)].prop_map(|lag_ms| Drawn::Watermark { lag_ms }),
        1 => prop_oneof![3 => 1u64..3000, 1 => Just(120_000u64)].prop_map(|passed_ms| Drawn::Tick { passed_ms }),
    ];
    prop::collection::vec(item, 1..90)
}

/// Gives what was drawn its times: they go on, watermarks never go back, and the end comes last.
fn items(drawn: &[Drawn], inputs: usize) -> Vec<Item> {
    let (mut clock_us, mut watermark, mut now) = (BEGIN_US, i64::MIN, at(0));
    let mut items = Vec::with_capacity(drawn.len());
    for drawn in drawn {
        match drawn {
            Drawn::Row { port, ahead_ms, behind_ms, row } => {
                clock_us += ahead_ms * 1000 + ahead_ms % 7;
                let time = clock_us - behind_ms * 1000;
                items.push(Item::Row(Row { port: port % inputs, time, ..row.clone() }));
            }
            Drawn::Watermark { lag_ms } => {
                watermark = watermark.max(clock_us - lag_ms * 1000);
                // A watermark ahead of the rows makes those that follow late.
                clock_us = clock_us.max(watermark - 1_000_000);
                items.push(Item::Watermark(watermark));
            }
            Drawn::Tick { passed_ms } => {
                now = at(now.mono.as_millis() as u64 + passed_ms);
                items.push(Item::Tick(now));
            }
        }
    }
    items.push(Item::Watermark(i64::MAX));
    // Nothing may come of time that passes after the end.
    items.push(Item::Tick(at(now.mono.as_millis() as u64 + 86_400_000)));
    items
}

fn at(mono_ms: u64) -> Now {
    Now { mono: Duration::from_millis(mono_ms), wall: EventTime(BEGIN_US + mono_ms as i64 * 1000) }
}

/// How the same rows may stand in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Arrays that begin at their first value, dictionaries in order of appearance.
    Plain,
    /// A slice out of longer arrays with other rows around.
    Sliced,
    /// Dictionaries in reverse order, with values that no row uses.
    Reordered,
}

/// Cuts the rows into batches, where `cut` says so and where a batch must end.
fn steps(items: &[Item], form: Form, cut: &mut dyn FnMut() -> bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut open: Vec<&Row> = Vec::new();
    let mut now = at(0);
    let close = |open: &mut Vec<&Row>, now: Now, steps: &mut Vec<Step>| {
        if let Some(first) = open.first() {
            steps.push(Step::Rows { port: first.port, batch: batch(open, form), now });
            open.clear();
        }
    };
    for item in items {
        match item {
            Item::Row(row) => {
                if open.first().is_some_and(|first| first.port != row.port) || cut() {
                    close(&mut open, now, &mut steps);
                }
                open.push(row);
            }
            Item::Watermark(to) => {
                close(&mut open, now, &mut steps);
                steps.push(Step::Watermark(EventTime(*to)));
            }
            Item::Tick(to) => {
                close(&mut open, now, &mut steps);
                now = *to;
                steps.push(Step::Tick(now));
            }
        }
    }
    steps
}

fn tags(values: impl Iterator<Item = Option<&'static str>>, form: Form) -> ArrayRef {
    let values: Vec<Option<&str>> = values.collect();
    let mut names: Vec<&str> = Vec::new();
    for value in values.iter().flatten() {
        if !names.contains(value) {
            names.push(value);
        }
    }
    if form == Form::Reordered {
        names.push("never seen");
        names.reverse();
        names.insert(0, "nor this");
    }
    let key = |value: &str| names.iter().position(|name| *name == value).map(|key| key as i32);
    let keys: Int32Array = values.iter().map(|value| value.and_then(key)).collect();
    Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(names)) as ArrayRef))
}

fn batch(rows: &[&Row], form: Form) -> RecordBatch {
    let payload = |row: &&Row| {
        let number = |value: Option<f64>| match value {
            Some(value) if value.is_finite() => value.to_string(),
            _ => "null".to_owned(),
        };
        let (a, b) = (number(row.temp), row.rpm.unwrap_or(0));
        format!(r#"{{"ts":{},"a":{a},"b":{b}}}"#, row.time.div_euclid(1000))
    };
    let payloads: Vec<String> = rows.iter().map(payload).collect();
    let columns: Vec<ArrayRef> = vec![
        time_array(rows.iter().map(|row| row.time).collect()),
        tags(rows.iter().map(|row| row.line), form),
        tags(rows.iter().map(|row| row.device), form),
        Arc::new(rows.iter().map(|row| row.seq).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.temp).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.vib).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.rpm).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.ok).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.note).collect::<StringArray>()),
        Arc::new(BinaryArray::from_iter_values(payloads)),
    ];
    let columns = match form {
        Form::Sliced => columns.iter().map(|column| sliced(column)).collect(),
        Form::Plain | Form::Reordered => columns,
    };
    RecordBatch::try_new(example_schema(), columns).unwrap()
}

/// The same column as a slice: its own last values come before it, nulls or itself after it.
fn sliced(column: &ArrayRef) -> ArrayRef {
    let before = column.slice(column.len() / 2, column.len() - column.len() / 2);
    let after = match column.data_type() {
        DataType::Timestamp(..) => Arc::clone(column),
        other => new_null_array(other, 3),
    };
    let whole = concat(&[before.as_ref(), column.as_ref(), after.as_ref()]).unwrap();
    whole.slice(before.len(), column.len())
}

type Build<'a> = dyn Fn() -> Result<Built> + 'a;

/// Holds one operator to all laws on one script and gives the number of rows that it said; the name of the law
/// that it breaks comes first in the error.
fn hold(build: &Build<'_>, drawn: &[Drawn], inputs: usize, chance: u64) -> Result<usize, String> {
    let items = items(drawn, inputs);
    let whole = |form| steps(&items, form, &mut || false);
    let run = |law: &str, steps: &[Step], moves: &dyn Fn(usize) -> bool| {
        harness::run(build, steps, moves).map_err(|error| format!("{law}: {error}"))
    };
    let plain = whole(Form::Plain);
    let expected = run("going on", &plain, &|_| false)?;
    if let Some(breach) = expected.breaches.first() {
        return Err(format!("watermark: {breach}"));
    }
    let same = |law: &str, actual: Said| match first_difference(&expected, &actual) {
        None => Ok(()),
        Some(difference) => Err(format!("{law}: {difference}")),
    };
    same("determinism", run("determinism", &plain, &|_| false)?)?;
    let mut seed = chance;
    let cut = &mut || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 62 == 0
    };
    let somewhere = steps(&items, Form::Plain, cut);
    let everywhere = steps(&items, Form::Plain, &mut || true);
    same("cuts", run("cuts", &everywhere, &|_| false)?)?;
    same("cuts", run("cuts", &somewhere, &|_| false)?)?;
    same("state", run("state", &everywhere, &|_| true)?)?;
    let once = (chance % somewhere.len() as u64) as usize;
    same("state", run("state", &somewhere, &|step| step == once)?)?;
    same("form", run("form", &whole(Form::Sliced), &|_| false)?)?;
    same("form", run("form", &whole(Form::Reordered), &|_| false)?)?;
    same("form", run("form", &steps(&items, Form::Reordered, &mut || true), &|step| step == once)?)?;
    Ok(expected.ports.iter().map(Vec::len).sum())
}

fn first_difference(expected: &Said, actual: &Said) -> Option<String> {
    for (port, (left, right)) in expected.ports.iter().zip(&actual.ports).enumerate() {
        if let Some(row) = (0..left.len().max(right.len())).find(|row| left.get(*row) != right.get(*row)) {
            let (left, right) = (left.get(row), right.get(row));
            return Some(format!("row {row} of port {port} was\n  {left:?}\nand is\n  {right:?}"));
        }
    }
    if expected.counts != actual.counts {
        return Some(format!("it had counted {:?} and counts {:?}", expected.counts, actual.counts));
    }
    (expected.breaches != actual.breaches).then(|| format!("breaches {:?}", actual.breaches))
}

/// Many random scripts, always the same ones, shrunk where one fails.
fn hold_often(build: &Build<'_>, inputs: usize, cases: u32) -> Result<(), String> {
    let spoken = std::cell::Cell::new(0);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&(script(), any::<u64>()), |(drawn, chance)| {
        let rows = hold(build, &drawn, inputs, chance).map_err(TestCaseError::fail)?;
        spoken.set(spoken.get() + rows);
        Ok(())
    });
    outcome.map_err(|error| match error {
        proptest::test_runner::TestError::Fail(reason, (drawn, _)) => {
            format!("{}\non {:?}", reason.message(), items(&drawn, inputs))
        }
        other => other.to_string(),
    })?;
    match spoken.get() {
        0 => Err("no law: it never says anything, which proves nothing".to_owned()),
        _ => Ok(()),
    }
}

#[test]
fn every_type_is_registered_once() {
    let registry = builtin::registry();
    let names: [Vec<&str>; 3] = [
        registry.sources.iter().map(|component| component.name).collect(),
        registry.operators.iter().map(|component| component.name).collect(),
        registry.sinks.iter().map(|component| component.name).collect(),
    ];
    for names in names {
        let once: std::collections::BTreeSet<&&str> = names.iter().collect();
        assert_eq!(once.len(), names.len(), "{names:?}");
    }
}

#[test]
fn every_operator_keeps_the_laws() {
    let registry = builtin::registry();
    let cases = std::env::var("LAW_CASES").map_or(CASES, |text| text.parse().expect("a number"));
    let mut broken = Vec::new();
    for component in &registry.operators {
        assert!(
            !component.examples.is_empty(),
            "{} has no example: nothing holds it to the laws",
            component.name
        );
        for body in component.examples {
            let subject = Subject { component, body };
            if let Err(reason) = hold_often(&|| subject.build(), subject.inputs(), cases) {
                broken.push(format!("{} with\n{body}\nbreaks {reason}", component.name));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

// From here on: the laws themselves are tested.

/// Which law an operator breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// None: it counts rows per device and tells at each watermark.
    Sound,
    /// It counts and forgets the count at a restart.
    Forgetful,
    /// It tells how many rows a batch had.
    CountsBatches,
    /// It holds a row back past the watermark.
    LetsRowsGoLate,
    /// It tells its devices in the order of a hash with a random key.
    HashOrder,
    /// It takes the number in the dictionary for the device.
    TakesKeysForNames,
    /// It reads the bytes behind an array as if the array began with them.
    ForgetsOffsets,
    /// It speaks on a tick after the end.
    SpeaksAfterTheEnd,
    /// It emits other columns than it promised.
    OtherColumns,
    /// It writes more into its state than it reads back.
    LeavesStateOver,
    /// It keeps every law by saying nothing.
    Silent,
}

struct Faulty {
    fault: Fault,
    rows: i64,
    by_device: std::collections::BTreeMap<String, i64>,
    hashed: HashMap<String, i64>,
    held: Vec<RecordBatch>,
}

impl Faulty {
    fn build(fault: Fault) -> Built {
        let schema = schema_of(fault);
        let operator =
            Self { fault, rows: 0, by_device: Default::default(), hashed: HashMap::new(), held: Vec::new() };
        Built::new(operator, schema, "")
    }
}

/// Rows as they came, or counts.
fn schema_of(fault: Fault) -> SchemaRef {
    match fault {
        Fault::LetsRowsGoLate | Fault::OtherColumns => example_schema(),
        _ => counts(&[]).schema(),
    }
}

fn counts(rows: &[(String, i64)]) -> RecordBatch {
    let names: StringArray = rows.iter().map(|(name, _)| Some(name.as_str())).collect();
    let numbers: Int64Array = rows.iter().map(|(_, number)| Some(*number)).collect();
    RecordBatch::try_from_iter([
        ("name", Arc::new(names) as ArrayRef),
        ("rows", Arc::new(numbers) as ArrayRef),
    ])
    .unwrap()
}

impl Operator for Faulty {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let devices = batch.column(2).as_dictionary::<Int32Type>();
        let names = devices.values().as_string::<i32>();
        for key in devices.keys().iter().flatten() {
            *self.by_device.entry(names.value(key as usize).to_owned()).or_default() += 1;
            *self.hashed.entry(names.value(key as usize).to_owned()).or_default() += 1;
        }
        self.rows += batch.num_rows() as i64;
        match self.fault {
            Fault::CountsBatches => out.emit(0, counts(&[("batch".to_owned(), batch.num_rows() as i64)])),
            Fault::TakesKeysForNames => {
                let keys = devices.keys().iter().flatten();
                out.emit(0, counts(&keys.map(|key| (key.to_string(), 1)).collect::<Vec<_>>()));
            }
            Fault::ForgetsOffsets => {
                let payload = batch.column(9).as_binary::<i32>();
                let begin = payload.value_offsets()[0];
                let bytes = |pair: &[i32]| {
                    let range = (pair[0] - begin) as usize..(pair[1] - begin) as usize;
                    String::from_utf8_lossy(&payload.value_data()[range]).into_owned()
                };
                let rows: Vec<_> = payload.value_offsets().windows(2).map(|pair| (bytes(pair), 1)).collect();
                out.emit(0, counts(&rows));
            }
            Fault::OtherColumns => out.emit(0, counts(&[("x".to_owned(), 1)])),
            Fault::LetsRowsGoLate => self.held.push(batch),
            _ => {}
        }
        Ok(())
    }

    fn watermark(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        match self.fault {
            Fault::LetsRowsGoLate if to != EventTime::MAX => {}
            Fault::LetsRowsGoLate => {
                self.held.drain(..).for_each(|held| out.emit(0, held));
            }
            Fault::Forgetful => out.emit(0, counts(&[("all".to_owned(), self.rows)])),
            Fault::HashOrder => {
                let rows: Vec<_> = self.hashed.iter().map(|(name, rows)| (name.clone(), *rows)).collect();
                out.emit(0, counts(&rows));
            }
            Fault::Sound | Fault::LeavesStateOver => {
                let rows: Vec<_> = self.by_device.iter().map(|(name, rows)| (name.clone(), *rows)).collect();
                out.emit(0, counts(&rows));
            }
            _ => {}
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        (self.fault == Fault::SpeaksAfterTheEnd).then_some(Duration::ZERO)
    }

    fn tick(&mut self, out: &mut Output) -> Result<()> {
        out.emit(0, counts(&[("tick".to_owned(), 1)]));
        Ok(())
    }

    fn save(&self, state: &mut StateWriter) {
        if self.fault != Fault::Forgetful {
            state.value(&(&self.by_device, self.rows, self.held.len()));
            self.held.iter().for_each(|held| state.batch(held));
        }
        if self.fault == Fault::LeavesStateOver {
            state.value(&1u8);
        }
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        if self.fault != Fault::Forgetful {
            let held: usize;
            (self.by_device, self.rows, held) = state.value()?;
            self.hashed = self.by_device.clone().into_iter().collect();
            self.held = (0..held).map(|_| state.batch()).collect::<Result<_>>()?;
        }
        Ok(())
    }
}

#[test]
fn an_operator_that_breaks_a_law_is_found_by_that_law() {
    let table = [
        (Fault::Forgetful, "state:"),
        (Fault::CountsBatches, "cuts:"),
        (Fault::LetsRowsGoLate, "watermark: behind"),
        // Whichever run first meets the other order; a short script can be the same twice by chance.
        (Fault::HashOrder, ""),
        (Fault::TakesKeysForNames, "form:"),
        (Fault::ForgetsOffsets, "form:"),
        (Fault::SpeaksAfterTheEnd, "watermark: after the end"),
        (Fault::OtherColumns, "going on: port 0 promises"),
        (Fault::Silent, "no law:"),
        (Fault::LeavesStateOver, "state: 1 bytes of saved state are left over"),
    ];
    hold_often(&|| Ok(Faulty::build(Fault::Sound)), 2, CASES).unwrap();
    for (fault, law) in table {
        let reason =
            hold_often(&|| Ok(Faulty::build(fault)), 1, 64).expect_err(&format!("{fault:?} goes unseen"));
        assert!(reason.starts_with(law), "{fault:?} is found by another law: {reason}");
    }
}
