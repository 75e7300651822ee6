//! `window`: statistics over windows of event time: tumbling, hopping, session and count windows. Pure.
//!
//! This file is the configuration and its checks; `running` is the operator, `column` reads its input, `open`
//! knows which windows are open, `accumulate` and `sketch` hold what is kept of their values, `stat` makes
//! statistics of it, `emit` makes rows of those.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::core::schema::{TIME, time_field, time_type, type_name};
use crate::core::{KeyLimits, Keys, OnFull};
use crate::registry::{Built, Checked, Context, Kept, OperatorConfig, Problem, nearest};
use crate::units::Period;

mod accumulate;
mod column;
mod emit;
mod open;
mod running;
mod sketch;
mod stat;
#[cfg(test)]
mod tests;

use emit::Column;
use running::{Extent, Window};
use stat::{Plan, Stat};

/// The most panes of one hopping window.
const PANES_MAX: i64 = 1000;

/// The longest window or pause.
const EXTENT_MAX: Period = Period::seconds(3660 * 86_400);

/// Cuts the rows of each key into windows of event time and emits one row of statistics per window.
///
/// | keys | windows |
/// |------|---------|
/// | `size` | tumbling: one after the other |
/// | `size`, `slide` | hopping: one every `slide`, overlapping |
/// | `gap` | session: rows less than `gap` apart; the window ends `gap` after its last row |
/// | `rows` | count: every so many rows of a key |
///
/// Tumbling and hopping windows are intervals `[start, end)` whose edges are aligned to 1970 UTC. A window
/// leaves when the watermark reaches its end, windows in the order of their ends and then of their keys; a
/// count window leaves with its last row. What is still open when the input ends leaves then; a count window
/// that is not full also leaves when its key is forgotten.
///
/// Emitted columns: `time` (one microsecond before the end), `window_start`, `window_end`, the columns of
/// `by`, `rows` (how many rows are in the window), and for each column and statistic `<column>_<statistic>`, in
/// the order of `columns`. A count window starts at its earliest row and ends one microsecond
/// behind its latest; if it leaves unfilled, its `time` is not before the watermark.
///
/// A row is late if all windows that could hold it have left: for a session, if its time plus `gap` is not
/// behind the watermark and no open session is near; for a count window, if its time is before the watermark.
/// Late rows leave unchanged on the port `late` and are counted (`late_rows`). Values that are null, NaN or
/// infinite are in no statistic and are counted (`skipped_values`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// The length of a window, for tumbling and hopping windows.
    size: Option<Period>,
    /// How often a hopping window starts: at most `size`. Each row is in about `size` / `slide` windows; it is
    /// accumulated once, in a pane of the greatest length that divides both, and a window is put together
    /// from at most 1,000 panes.
    slide: Option<Period>,
    /// The pause that ends a session: a row `gap` or more behind the last one begins the next session.
    gap: Option<Period>,
    /// The number of rows of a count window.
    #[schemars(range(min = 1))]
    rows: Option<u64>,
    /// The columns that make the key: texts, integers or true/false. Each key has its own windows. Without
    /// it, all rows share theirs.
    #[serde(default)]
    by: Vec<String>,
    /// Which statistics of which columns. Columns are numbers or integers (taken as floats, exact to 2⁵³).
    ///
    /// `count` and `nulls` (rows without a usable value) are integers, all others floats: `sum` (Neumaier's),
    /// `mean`, `min`, `max`, `range`, `first` and `last` (by time; at equal times by order of arrival),
    /// `var` and `std` (of a sample: divided by n − 1), `skew` (of the population: m₃ / m₂^1.5), `kurtosis` (of
    /// the population: m₄ / m₂², not less three: 3 for a normal distribution, as in bearing diagnosis),
    /// `rms`, `crest_factor` (peak magnitude / rms), `slope` (least squares, per second), `median`, and `p1` to
    /// `p99` or finer (`p99_9` is 99.9 %), the value of rank ⌊p × (n − 1)⌋ within 1 % by a DDSketch.
    /// `basic` stands for `count`, `mean`, `std`, `min`, `max`. A statistic is null where it has no value: of
    /// no values, of too few (`var`, `std` 2, `skew` 3, `kurtosis` 4), of a shape without spread, or beyond
    /// the range of floats.
    #[serde(default)]
    columns: IndexMap<String, Vec<String>>,
    /// The most keys at once.
    #[serde(default = "max_keys")]
    #[schemars(range(min = 1))]
    max_keys: usize,
    /// A key without rows for this long in event time is forgotten, and its place is free for another. Not
    /// shorter than `size` or `gap`. Without it, keys stay.
    key_ttl: Option<Period>,
    /// What happens to a new key when there are `max_keys`: `"refuse"` leaves its rows out (counted as
    /// `refused_rows`), `"evict"` lets the key that was seen longest ago give way; its open windows are
    /// lost (counted as `evicted_keys` and `lost_rows`).
    #[serde(default)]
    on_full: OnFull,
    /// The most windows open at once, over all keys; for hopping windows the most panes. One takes about 40
    /// bytes and, for each column, 8 to 220 by what is asked of it; with quantiles 256 more for each power of
    /// two that the values range over, at most 6 KiB. A key has as many open as begin in `size` and the lateness of
    /// its source, and one more. Rows that would open one too many are left out and counted (`refused_rows`, reason
    /// `window_limit`), as are those that would open more than 4,096 of one key.
    #[serde(default = "max_windows")]
    #[schemars(range(min = 1))]
    max_windows: usize,
}

fn max_keys() -> usize {
    KeyLimits::default().max_keys
}

fn max_windows() -> usize {
    50_000
}

impl OperatorConfig for WindowConfig {
    const TYPE: &'static str = "window";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# Every ten seconds, per device.
size = "10s"
by = ["line", "device"]
columns = { vib = ["mean", "std", "rms", "kurtosis", "p99"], temp = ["mean", "max"] }
"#,
        r#"# The last minute, every ten seconds.
size = "1m"
slide = "10s"
by = ["device"]
columns = { temp = ["mean", "slope", "range", "median"], rpm = ["first", "last"] }
"#,
        r#"# From one pause of a device to the next, for instance one press stroke or one batch.
gap = "2s"
by = ["device"]
columns = { vib = ["basic", "crest_factor", "skew"], seq = ["count", "nulls"] }
"#,
        r#"# Blocks of 16 rows of each device; devices silent for an hour are forgotten.
rows = 16
by = ["device"]
columns = { vib = ["rms", "var", "p99_9"], rpm = ["sum", "min"] }
key_ttl = "1h"
max_keys = 1000
on_full = "evict"
"#,
        r#"# All rows together; only how many there are.
size = "1s"
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let input = context.schema();
        let mut problems = Vec::new();
        if input.column_with_name(TIME).is_none_or(|(_, field)| *field.data_type() != time_type()) {
            let problem = Problem::new("", "the input has no `time` column, which windows are cut by");
            problems.push(problem.help("put a `decode` operator before this one"));
        }
        let extent = note(self.extent(), &mut problems);
        self.check_limits(extent, &mut problems);
        let by = self.keys(input, &mut problems);
        let stats = self.stats(input, &mut problems);
        let schema = output_schema(input, &by, &stats, &mut problems);
        let limits = KeyLimits {
            max_keys: self.max_keys,
            key_ttl: self.key_ttl.map(|ttl| ttl.0),
            on_full: self.on_full,
        };
        let types = by.iter().map(|place| input.field(*place).data_type().clone()).collect();
        let keys = Keys::new(types, limits).map_err(|error| vec![Problem::new("by", error.message)]);
        let (Some(extent), Ok(keys), true) = (extent, keys, problems.is_empty()) else {
            return Err(problems);
        };
        let mut meaning = format!("{extent:?} by {:?} {:?}", self.by, self.on_full);
        let mut columns = Vec::with_capacity(stats.len());
        // What is kept, and what it means, is in the order of the input, so that it outlives another order of `columns`.
        let mut stats: Vec<(usize, ColumnStats)> = stats.into_iter().enumerate().collect();
        stats.sort_by_key(|(_, column)| column.place);
        for (rank, ColumnStats { place, stats }) in stats {
            let stats: Vec<Stat> = stats.into_iter().map(|(stat, ..)| stat).collect();
            let plan = Plan::of(stats.iter().copied());
            meaning += &format!(" {}: {plan:?}", input.field(place).name());
            let name = input.field(place).name().clone();
            columns.push(Column { name, place, rank, stats, slabs: accumulate::slabs(plan) });
        }
        let cells = columns.iter().flat_map(|column| &column.slabs).map(|slab| slab.cell_bytes_max());
        let window_bytes = size_of::<open::Slot>() + cells.sum::<usize>();
        let mut kept = vec![Kept {
            what: "open windows",
            max: self.max_windows,
            key: "max_windows",
            bytes: window_bytes,
        }];
        if !self.by.is_empty() {
            kept.push(Kept { what: "keys", max: self.max_keys, key: "max_keys", bytes: Kept::KEY_BYTES });
        }
        let window =
            Window::new(extent, by, columns, schema.clone(), (keys, limits.key_ttl), self.max_windows);
        Ok(Built::new(window, schema, meaning).port("late", input.clone()).keeps(&self.by, kept))
    }
}

/// A result, or nothing and its problem noted.
fn note<T>(result: Result<T, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

/// The statistics of one column of the input: each with its name and its place in the configuration.
struct ColumnStats {
    place: usize,
    stats: Vec<(Stat, String, String)>,
}

impl WindowConfig {
    fn extent(&self) -> Result<Extent, Problem> {
        match (self.size, self.slide, self.gap, self.rows) {
            (Some(size), slide, None, None) => panes(size, slide.unwrap_or(size), slide.is_some()),
            (None, None, Some(gap), None) => {
                check_duration("gap", gap)?;
                Ok(Extent::Session { gap: gap.micros() })
            }
            (None, None, None, Some(0)) => Err(Problem::new("rows", "a window of no rows never ends")),
            (None, None, None, Some(rows)) => Ok(Extent::Count { rows }),
            (None, Some(_), None, None) => Err(Problem::new("slide", "`slide` says how often a window starts, not how long it is")
                .help("add `size`")),
            (None, None, None, None) => Err(Problem::new("", "it is not said what makes a window")
                .help("add `size = \"10s\"` (tumbling), `size` and `slide` (hopping), `gap` (session) or `rows` (count)")),
            (size, slide, gap, rows) => {
                let given = [
                    ("size", size.is_some()),
                    ("slide", slide.is_some()),
                    ("gap", gap.is_some()),
                    ("rows", rows.is_some()),
                ];
                let given: Vec<&str> = given.iter().filter(|(_, is)| *is).map(|(key, _)| *key).collect();
                let last = given.last().copied().unwrap_or_default();
                let message = format!("`{}` exclude each other: each makes another kind of window", given.join("`, `"));
                Err(Problem::new(last, message)
                    .help("keep `size` (with or without `slide`), `gap` or `rows`; two operators side by side make both"))
            }
        }
    }

    fn check_limits(&self, extent: Option<Extent>, problems: &mut Vec<Problem>) {
        for (key, limit) in [("max_keys", self.max_keys), ("max_windows", self.max_windows)] {
            if limit == 0 {
                problems.push(Problem::new(key, "with a limit of none, every row would be left out"));
            }
        }
        let (key, least) = match extent {
            Some(Extent::Panes { size, .. }) => ("size", size),
            Some(Extent::Session { gap }) => ("gap", gap),
            _ => ("", 1),
        };
        match self.key_ttl {
            Some(ttl) if ttl.micros() == 0 => {
                problems.push(Problem::new("key_ttl", "every key would be forgotten at once"));
            }
            Some(ttl) if ttl.micros() < least => {
                let message =
                    format!("a key would be forgotten while its windows are open: `{key}` is longer");
                problems.push(Problem::new("key_ttl", message).help(format!("make it at least `{key}`")));
            }
            _ => {}
        }
    }

    /// The positions of the key columns.
    fn keys(&self, input: &SchemaRef, problems: &mut Vec<Problem>) -> Vec<usize> {
        let mut places = Vec::new();
        for (index, name) in self.by.iter().enumerate() {
            let path = format!("by[{index}]");
            let Some((place, field)) = input.column_with_name(name) else {
                problems.push(Problem::no_column(path, name, input));
                continue;
            };
            if places.contains(&place) {
                problems.push(Problem::new(path, format!("\"{name}\" is in the key already")));
            } else if !Keys::supports(field.data_type()) {
                let kind = type_name(field.data_type());
                let message =
                    format!("column \"{name}\" is a {kind} ({}) and makes no key", field.data_type());
                problems.push(Problem::new(path, message).help(
                    "keys are texts, 64-bit integers or true/false; a `select` with CAST can make one",
                ));
            } else {
                places.push(place);
            }
        }
        places
    }

    /// The statistics of each column, in the order of `columns`.
    fn stats(&self, input: &SchemaRef, problems: &mut Vec<Problem>) -> Vec<ColumnStats> {
        let mut all = Vec::new();
        for (name, words) in &self.columns {
            let path = format!("columns.{name}");
            let Some((place, field)) = input.column_with_name(name) else {
                problems.push(Problem::no_column(path, name, input));
                continue;
            };
            if !column::is_numeric(field.data_type()) {
                let kind = type_name(field.data_type());
                let message = format!("column \"{name}\" is {kind}, and statistics are of numbers");
                let numbers = input.fields().iter().filter(|field| column::is_numeric(field.data_type()));
                let numbers: Vec<&str> = numbers.map(|field| field.name().as_str()).collect();
                let help = match numbers[..] {
                    [] => "no column here is a number".to_owned(),
                    _ => format!("the numbers here are: {}", numbers.join(", ")),
                };
                problems.push(Problem::new(path, message).help(help));
                continue;
            }
            if words.is_empty() {
                let problem = Problem::new(&path, format!("no statistic of \"{name}\" is asked for"));
                problems.push(problem.help("name some, for example [\"mean\", \"max\"], or \"basic\""));
            }
            let stats = words.iter().enumerate().flat_map(|(index, word)| {
                let path = format!("{path}[{index}]");
                let parsed = note(parse_stats(word, &path), problems).unwrap_or_default();
                parsed.into_iter().map(move |(stat, word)| (stat, format!("{name}_{word}"), path.clone()))
            });
            all.push(ColumnStats { place, stats: stats.collect() });
        }
        all
    }
}

fn check_duration(key: &str, period: Period) -> Result<(), Problem> {
    if period.micros() == 0 {
        return Err(Problem::new(key, format!("`{key}` is zero: there would be no end of windows")));
    }
    if period > EXTENT_MAX {
        return Err(Problem::new(key, format!("`{key}` is longer than ten years")));
    }
    Ok(())
}

fn panes(size: Period, slide: Period, is_hopping: bool) -> Result<Extent, Problem> {
    check_duration("size", size)?;
    if is_hopping {
        check_duration("slide", slide)?;
    }
    if slide > size {
        let message = format!(
            "`slide` is longer than `size`: of every {slide}, rows of only {size} would be in a window"
        );
        return Err(Problem::new("slide", message)
            .help("make `slide` at most `size`, or leave rows out with a `filter` before"));
    }
    let (size, slide) = (size.micros(), slide.micros());
    let pane = greatest_divisor(size, slide);
    if size / pane > PANES_MAX {
        let message = format!(
            "each window would be put together from {} panes, and {PANES_MAX} are the most",
            size / pane
        );
        return Err(Problem::new("slide", message).help("choose a longer `slide` that divides `size`"));
    }
    Ok(Extent::Panes { size, slide, pane })
}

/// Euclid's, of positive numbers.
fn greatest_divisor(mut one: i64, mut other: i64) -> i64 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// What one word of a list asks for: one statistic, or those of `basic`, with their names.
fn parse_stats(word: &str, path: &str) -> Result<Vec<(Stat, String)>, Problem> {
    let words = match word {
        "basic" => &["count", "mean", "std", "min", "max"][..],
        word => &[word],
    };
    let parsed: Option<Vec<_>> =
        words.iter().map(|word| Some((Stat::parse(word)?, (*word).to_owned()))).collect();
    parsed.ok_or_else(|| {
        let problem = Problem::new(path, format!("there is no statistic \"{word}\""));
        match nearest(word, stat::names().chain(["basic"])) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => {
                let names: Vec<&str> = stat::names().collect();
                problem.help(format!("the statistics are: {}", names.join(", ")))
            }
        }
    })
}

/// The emitted columns. No two may have the same name.
fn output_schema(
    input: &SchemaRef,
    by: &[usize],
    columns: &[ColumnStats],
    problems: &mut Vec<Problem>,
) -> SchemaRef {
    let edge = |name| (Field::new(name, time_type(), false), String::new());
    let mut fields = vec![(time_field(), String::new()), edge("window_start"), edge("window_end")];
    fields.extend(
        by.iter().enumerate().map(|(index, place)| (input.field(*place).clone(), format!("by[{index}]"))),
    );
    fields.push((Field::new("rows", DataType::Int64, false), String::new()));
    for (stat, name, path) in columns.iter().flat_map(|column| &column.stats) {
        let field = match stat.is_count() {
            true => Field::new(name, DataType::Int64, false),
            false => Field::new(name, DataType::Float64, true),
        };
        fields.push((field, path.clone()));
    }
    // The operator's own names come first, so that the problem is noted at what the user can change.
    let mut names: HashSet<&str> =
        fields.iter().filter(|(_, path)| path.is_empty()).map(|(field, _)| field.name().as_str()).collect();
    for (field, path) in fields.iter().filter(|(_, path)| !path.is_empty()) {
        if !names.insert(field.name()) {
            let message = format!("two emitted columns would be named \"{}\"", field.name());
            problems.push(
                Problem::new(path, message)
                    .help("leave one out, or rename the input's column with a `select` before"),
            );
        }
    }
    Arc::new(Schema::new(fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>()))
}
