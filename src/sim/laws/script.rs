//! Random scripts for one operator, and the batches that they become in several forms. Pure.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, new_null_array,
};
use arrow::compute::concat;
use arrow::datatypes::DataType;

use crate::Result;
use crate::core::schema::time_array;
use crate::core::{EventTime, Now};
use crate::registry::example_schema;
use crate::sim::dice::Dice;
use crate::sim::harness::Step;

/// Where time begins, µs: November 2023, on a grid of all usual windows.
const BEGIN_US: i64 = 1_699_999_200_000_000;

/// Most items in a script.
const ITEMS_MAX: usize = 90;

/// One row before it is in a batch, over the columns of the examples.
#[derive(Debug, Clone, Default)]
pub struct Row {
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
pub enum Item {
    Row(Row),
    Watermark(i64),
    Tick(Now),
}

/// What one item is made from; times are relative to what came before, so that any part can be left out.
#[derive(Debug, Clone)]
pub enum Drawn {
    Row { ahead_ms: i64, behind_ms: i64, row: Row },
    Watermark { lag_ms: i64 },
    Tick { passed_ms: u64 },
}

/// Draws a script.
pub fn draw(dice: &mut Dice) -> Vec<Drawn> {
    (0..=dice.below(ITEMS_MAX)).map(|_| item(dice)).collect()
}

fn item(dice: &mut Dice) -> Drawn {
    match dice.below(17) {
        0 if dice.below(4) == 0 => Drawn::Tick { passed_ms: 120_000 },
        0 => Drawn::Tick { passed_ms: 1 + dice.below(3000) as u64 },
        // A watermark ahead of the rows makes those that follow late.
        1 | 2 if dice.below(4) == 0 => Drawn::Watermark { lag_ms: -20_000 },
        1 | 2 => Drawn::Watermark { lag_ms: dice.below(2500) as i64 },
        _ => row(dice),
    }
}

fn row(dice: &mut Dice) -> Drawn {
    let behind_ms = match dice.below(10) {
        0..6 => 0,
        6..9 => dice.below(1500) as i64,
        _ => dice.below(90_000) as i64,
    };
    let row = Row {
        port: dice.below(2),
        time: 0,
        line: one_of(dice, &[Some("north"), Some("north"), Some("south"), None]),
        device: one_of(
            dice,
            &[Some("press-1"), Some("press-1"), Some("press-2"), Some("press-2"), Some("pump"), None],
        ),
        seq: dice.happens(900).then(|| dice.below(60) as i64),
        temp: number(dice),
        vib: number(dice),
        rpm: dice.happens(900).then(|| dice.below(3000) as i64),
        ok: one_of(dice, &[Some(true), Some(false), None]),
        // The examples of operators that turn tags into columns name these.
        note: one_of(dice, &[Some("inlet"), Some("flow"), Some("x"), Some("y"), Some(""), None]),
    };
    Drawn::Row { ahead_ms: dice.below(700) as i64, behind_ms, row }
}

fn one_of<T: Copy>(dice: &mut Dice, values: &[T]) -> T {
    values[dice.below(values.len())]
}

fn number(dice: &mut Dice) -> Option<f64> {
    match dice.below(15) {
        0 | 1 => None,
        2 => Some(one_of(dice, &[f64::NAN, f64::INFINITY, -0.0, 1e300])),
        _ => Some((dice.below(2500) as f64 - 500.0) / 10.0),
    }
}

/// Gives what was drawn its times: they go on, watermarks never go back, and the end comes last.
pub fn items(drawn: &[Drawn], inputs: usize) -> Vec<Item> {
    let (mut clock_us, mut watermark, mut now) = (BEGIN_US, i64::MIN, at(0));
    let mut items = Vec::with_capacity(drawn.len() + 2);
    for drawn in drawn {
        match drawn {
            Drawn::Row { ahead_ms, behind_ms, row } => {
                clock_us += ahead_ms * 1000 + ahead_ms % 7;
                let time = clock_us - behind_ms * 1000;
                items.push(Item::Row(Row { port: row.port % inputs.max(1), time, ..row.clone() }));
            }
            Drawn::Watermark { lag_ms } => {
                watermark = watermark.max(clock_us - lag_ms * 1000);
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
pub enum Form {
    /// Arrays that begin at their first value, dictionaries in order of appearance.
    Plain,
    /// A slice out of longer arrays with other rows around.
    Sliced,
    /// Dictionaries in reverse order, with values that no row uses.
    Reordered,
}

/// Cuts the rows into batches, where `cut` says so and where a batch must end.
///
/// # Errors
/// None that is known: the columns are those of the examples.
pub fn steps(items: &[Item], form: Form, cut: &mut dyn FnMut() -> bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut open: Vec<&Row> = Vec::new();
    let mut now = at(0);
    let close = |open: &mut Vec<&Row>, now: Now, steps: &mut Vec<Step>| -> Result<()> {
        if let Some(first) = open.first() {
            steps.push(Step::Rows { port: first.port, batch: batch(open, form)?, now });
            open.clear();
        }
        Ok(())
    };
    for item in items {
        match item {
            Item::Row(row) => {
                if open.first().is_some_and(|first| first.port != row.port) || cut() {
                    close(&mut open, now, &mut steps)?;
                }
                open.push(row);
            }
            Item::Watermark(to) => {
                close(&mut open, now, &mut steps)?;
                steps.push(Step::Watermark(EventTime(*to)));
            }
            Item::Tick(to) => {
                close(&mut open, now, &mut steps)?;
                now = *to;
                steps.push(Step::Tick(now));
            }
        }
    }
    Ok(steps)
}

fn batch(rows: &[&Row], form: Form) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![
        time_array(rows.iter().map(|row| row.time).collect()),
        tags(rows.iter().map(|row| row.line), form)?,
        tags(rows.iter().map(|row| row.device), form)?,
        Arc::new(rows.iter().map(|row| row.seq).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.temp).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.vib).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.rpm).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.ok).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.note).collect::<StringArray>()),
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| payload(row)))),
    ];
    let columns: Vec<ArrayRef> = match form {
        Form::Sliced => columns.iter().map(sliced).collect::<Result<_>>()?,
        Form::Plain | Form::Reordered => columns,
    };
    Ok(RecordBatch::try_new(example_schema(), columns)?)
}

fn payload(row: &Row) -> String {
    let temp = match row.temp {
        Some(value) if value.is_finite() => value.to_string(),
        _ => "null".to_owned(),
    };
    format!(r#"{{"ts":{},"a":{temp},"b":{}}}"#, row.time.div_euclid(1000), row.rpm.unwrap_or(0))
}

fn tags(values: impl Iterator<Item = Option<&'static str>>, form: Form) -> Result<ArrayRef> {
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
    Ok(Arc::new(DictionaryArray::try_new(keys, Arc::new(StringArray::from(names)) as ArrayRef)?))
}

/// The same column as a slice: its own last values come before it, nulls or itself after it.
fn sliced(column: &ArrayRef) -> Result<ArrayRef> {
    let before = column.slice(column.len() / 2, column.len() - column.len() / 2);
    let after = match column.data_type() {
        DataType::Timestamp(..) => Arc::clone(column),
        other => new_null_array(other, 3),
    };
    let whole = concat(&[before.as_ref(), column.as_ref(), after.as_ref()])?;
    Ok(whole.slice(before.len(), column.len()))
}
