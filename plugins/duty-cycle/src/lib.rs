//! `duty_cycle`: the share of time that a machine is on, per key and stretch of event time. Pure, as all operators are.
//!
//! This file is the configuration and its checks; `running` is the operator, `fold` does the arithmetic of one key.

mod fold;
mod running;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use tidegate::core::schema::{time_field, time_type, type_name};
use tidegate::core::{KeyLimits, Keys};
use tidegate::registry::{Built, Checked, Context, OperatorConfig, Problem, Registry};
use tidegate::units::Period;

use running::DutyCycle;

/// The built-in components and `duty_cycle`.
pub fn registry() -> Registry {
    tidegate::builtin::registry().operator::<DutyCycleConfig>()
}

/// The share of time for which a column is above a threshold: how much a machine is on, how often it starts.
///
/// A value holds from its row until the next row of its key, but not longer than `hold`: after that it is not known
/// whether the machine is on. Time is cut into stretches of length `every`, aligned to 1970 UTC; a stretch leaves when the
/// watermark reaches its end, in the order of ends and then of keys. One in which nothing is known has no row. What is
/// still open when the input ends leaves then, known up to each key's last row.
///
/// Emitted columns: `time` (one microsecond before the end), `window_start`, `window_end`, the columns of `by`, `duty`
/// (time above ÷ time known, from 0 to 1), `on_seconds`, `known_seconds`, and `starts` (how often it went above; a first
/// value that is above is no start, since nobody saw it begin).
///
/// Rows may come out of order as far as the source's `lateness` allows. Later ones leave unchanged on the port `late` and
/// are counted (`late_rows`). Null and NaN say nothing; they are counted (`skipped_values`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DutyCycleConfig {
    /// The column that is looked at: numbers or integers; or true/false, which is above where it is true.
    column: String,
    /// Above which value the machine is on. Only for numbers and integers, which need it.
    threshold: Option<f64>,
    /// The length of a stretch.
    every: Period,
    /// For how long a value holds when no other comes. Without it, as long as `every`.
    hold: Option<Period>,
    /// The columns that make the key: texts, integers or true/false.
    #[serde(default)]
    by: Vec<String>,
    /// The most keys at once; rows of further ones are left out and counted (`refused_rows`).
    #[serde(default = "max_keys")]
    #[schemars(range(min = 1))]
    max_keys: usize,
    /// A key without rows for this long in event time is forgotten; not shorter than `every` and `hold` together. Without
    /// it, keys stay.
    key_ttl: Option<Period>,
    /// The most rows that wait for the watermark at once, 24 bytes each; further ones are left out and counted
    /// (`refused_rows`).
    #[serde(default = "max_waiting")]
    #[schemars(range(min = 1))]
    max_waiting: usize,
}

fn max_keys() -> usize {
    KeyLimits::default().max_keys
}

fn max_waiting() -> usize {
    1 << 20
}

/// The longest stretch, and the longest that a value holds.
const PERIOD_MAX: Period = Period::seconds(366 * 86_400);

impl OperatorConfig for DutyCycleConfig {
    const TYPE: &'static str = "duty_cycle";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# A press is on when it vibrates; a sensor that says nothing for 5 s is not to be relied on.
column = "vib"
threshold = 2.5
every = "10s"
hold = "5s"
by = ["line", "device"]
"#,
        r#"# A flag, over all rows.
column = "ok"
every = "1s"
"#,
        r#"# Integers; machines silent for a day are forgotten.
column = "rpm"
threshold = 1000
every = "1m"
by = ["device"]
key_ttl = "1d"
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let input = context.schema();
        let mut problems = self.period_problems();
        let column = self.column_index(input, &mut problems);
        let by = self.key_indices(input, &mut problems);
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

        let hold = self.hold.unwrap_or(self.every);
        let output = output_schema(input, &by);
        let threshold = self.threshold.unwrap_or(0.0);
        let lengths = fold::Lengths { every: self.every.micros(), hold: hold.micros() };
        // The state depends on what is on and how time is cut; not on limits, which may change at a restart.
        let meaning =
            format!("{} > {threshold} every {} hold {hold} by {:?}", self.column, self.every, self.by);
        let operator =
            DutyCycle::new(column, threshold, lengths, keys, by, self.max_waiting, Arc::clone(&output));
        Ok(Built::new(operator, output, meaning).port("late", Arc::clone(input)))
    }
}

impl DutyCycleConfig {
    fn period_problems(&self) -> Vec<Problem> {
        let periods = [("every", Some(self.every)), ("hold", self.hold), ("key_ttl", self.key_ttl)];
        let mut problems = Vec::new();
        for (key, period) in periods {
            let Some(period) = period else { continue };
            if period.micros() == 0 {
                problems.push(Problem::new(key, format!("`{key}` is no time at all")).help("write \"10s\""));
            } else if period > PERIOD_MAX {
                problems.push(Problem::new(key, format!("`{key}` is longer than {PERIOD_MAX}")));
            }
        }
        let held = self.hold.unwrap_or(self.every).0.saturating_add(self.every.0);
        if self.key_ttl.is_some_and(|ttl| ttl.0 < held) {
            let message = "`key_ttl` is shorter than `every` and `hold` together: what is open would be lost";
            problems.push(Problem::new("key_ttl", message));
        }
        problems
    }

    fn column_index(&self, input: &SchemaRef, problems: &mut Vec<Problem>) -> Option<usize> {
        let Ok(index) = input.index_of(&self.column) else {
            problems.push(Problem::no_column("column", &self.column, input));
            return None;
        };
        let name = &self.column;
        match (input.field(index).data_type(), self.threshold) {
            (DataType::Boolean, None) => {}
            (DataType::Boolean, Some(_)) => {
                let message = format!("column \"{name}\" is true/false and needs no `threshold`");
                problems.push(Problem::new("threshold", message).help("leave it out"));
            }
            (DataType::Float64 | DataType::Int64, Some(threshold)) if threshold.is_finite() => {}
            (DataType::Float64 | DataType::Int64, Some(threshold)) => {
                problems.push(Problem::new("threshold", format!("nothing is above or below {threshold}")));
            }
            (DataType::Float64 | DataType::Int64, None) => {
                let message = format!("above which value of \"{name}\" is it on?");
                problems.push(Problem::new("", message).help("add for example `threshold = 2.5`"));
            }
            (other, _) => {
                let message = format!(
                    "column \"{name}\" is {}; it must be a number, an integer or true/false",
                    type_name(other)
                );
                problems.push(Problem::new("column", message));
            }
        }
        Some(index)
    }

    fn key_indices(&self, input: &SchemaRef, problems: &mut Vec<Problem>) -> Vec<usize> {
        let mut indices = Vec::new();
        for (at, name) in self.by.iter().enumerate() {
            match input.index_of(name) {
                Ok(_) if ADDED.contains(&name.as_str()) => {
                    let message = format!("\"{name}\" is the name of a column that comes out");
                    problems.push(Problem::new(format!("by[{at}]"), message));
                }
                Ok(index) if indices.contains(&index) => {
                    problems
                        .push(Problem::new(format!("by[{at}]"), format!("\"{name}\" stands there twice")));
                }
                Ok(index) => indices.push(index),
                Err(_) => problems.push(Problem::no_column(format!("by[{at}]"), name, input)),
            }
        }
        indices
    }
}

/// The columns that stand beside those of the key.
const ADDED: [&str; 7] =
    ["time", "window_start", "window_end", "duty", "on_seconds", "known_seconds", "starts"];

fn output_schema(input: &SchemaRef, by: &[usize]) -> SchemaRef {
    let mut fields = vec![
        time_field(),
        Field::new("window_start", time_type(), false),
        Field::new("window_end", time_type(), false),
    ];
    fields.extend(by.iter().map(|index| input.field(*index).clone().with_nullable(true)));
    fields.extend(
        ["duty", "on_seconds", "known_seconds"].map(|name| Field::new(name, DataType::Float64, false)),
    );
    fields.push(Field::new("starts", DataType::Int64, false));
    Arc::new(Schema::new(fields))
}
