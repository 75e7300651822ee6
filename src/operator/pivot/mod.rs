//! `pivot`: from one reading per row to aligned columns on a grid of time. Pure.
//!
//! This file is the configuration and the way from rows to readings and from values to rows; `grid` knows the
//! readings that wait and the values that hold.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, PrimitiveArray, RecordBatch, StringArray,
    UInt32Array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{cast, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Schema, SchemaRef};
use hashbrown::HashMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::core::keys::REFUSED;
use crate::core::schema::{TIME, time_array, time_field, time_type, times, type_name};
use crate::core::{EventTime, KeyLimits, Keys, OnFull, Operator, Output, StateReader, StateWriter};
use crate::error::Result;
use crate::registry::{Built, Checked, Context, OperatorConfig, Problem};
use crate::units::Period;

mod grid;
#[cfg(test)]
mod tests;

use grid::{Filled, Grid, Placed};

/// The longest hold, in grid points: how many rows one reading can make.
const HOLD_POINTS_MAX: i64 = 10_000;

/// The widest grid.
const GRID_MAX: Period = Period::seconds(3660 * 86_400);

/// The most columns that can be made.
const COLUMNS_MAX: usize = 1024;

/// Rows are sent in batches of about this many.
const ROWS_PER_BATCH: usize = 8192;

/// What the readings of one grid cell come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The latest by time; at equal times the one that arrived last.
    #[default]
    Last,
    /// The mean of all.
    Mean,
    /// The least.
    Min,
    /// The greatest.
    Max,
}

/// Turns readings, one signal per row, into rows with one column per signal on a common grid of time.
///
/// Grid points are the multiples of `grid` since 1970 UTC. A reading belongs to the first grid point at or
/// behind its time: the cell of grid point g is (g − `grid`, g]. The value of a signal at g is what the readings
/// of its cell come to (`aggregate`); if there are none, the value of its last cell that had some. It is null
/// when its newest reading is `hold` or more before g. With `aggregate = "last"` that is: the last reading at or
/// before g, if it is behind g − `hold`.
///
/// When the watermark has passed a grid point, one row for each key leaves whose `time` is the grid point, in the
/// order of the grid points and then of the keys. A key of which no signal has a value makes no row. When the
/// input ends, rows leave up to the first grid point at or behind the newest reading.
///
/// A reading is late if its grid point has been passed: the row leaves unchanged on the port `late` and is counted
/// (`late_rows`). Counted and left out are rows of a signal that is not in `columns` (`unknown_rows`), and
/// values that are null, NaN or infinite or whose grid point is beyond the range of times (`skipped_values`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PivotConfig {
    /// The column that says which signal a reading is of: a tag or a text.
    tag: String,
    /// The column with the reading: a number or an integer (taken as a float, exact to 2⁵³).
    value: String,
    /// The signals that become columns, in this order: values of the column `tag`, which are also the names of
    /// the new columns. At most 1,024; a `select` behind can rename them.
    #[schemars(length(min = 1))]
    columns: Vec<String>,
    /// The columns that make the key, for instance the device: texts, integers or true/false. Each key has its
    /// own rows. Without it, all readings share theirs.
    #[serde(default)]
    by: Vec<String>,
    /// The distance of grid points.
    grid: Period,
    /// How long a reading counts, at most 10,000 grid points. As long as `grid` unless it is said.
    hold: Option<Period>,
    /// What several readings of a signal in one grid cell come to.
    #[serde(default)]
    aggregate: Aggregate,
    /// The most keys at once. A key takes about 100 bytes, and for each of `columns` 56, or 184 once it has had a
    /// reading. A key of which no signal has a value any more is forgotten.
    #[serde(default = "max_keys")]
    #[schemars(range(min = 1))]
    max_keys: usize,
    /// What happens to a new key when there are `max_keys`: `"refuse"` leaves its rows out (counted as
    /// `refused_rows`), `"evict"` lets the key that was seen longest ago give way; its values are lost
    /// (counted as `evicted_keys`).
    #[serde(default)]
    on_full: OnFull,
    /// The most grid cells with readings that wait for the watermark, over all keys and columns; one takes 32
    /// bytes. A reading that would begin one more is left out and counted (`refused_rows`, reason `cell_limit`).
    #[serde(default = "max_cells")]
    #[schemars(range(min = 1))]
    max_cells: usize,
}

fn max_keys() -> usize {
    10_000
}

fn max_cells() -> usize {
    1_000_000
}

impl OperatorConfig for PivotConfig {
    const TYPE: &'static str = "pivot";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# Each second, the latest of every signal of a device; after ten seconds without a reading it is null.
tag = "note"
value = "temp"
columns = ["inlet", "outlet", "flow"]
by = ["device"]
grid = "1s"
hold = "10s"
"#,
        r#"# Means over a minute, one row for the whole plant; the tag `line` names the signal.
tag = "line"
value = "rpm"
columns = ["north", "south"]
grid = "1m"
aggregate = "mean"
"#,
        r#"# At most a thousand devices; the one that was seen longest ago gives way.
tag = "note"
value = "vib"
columns = ["x", "y", "z"]
by = ["line", "device"]
grid = "100ms"
hold = "1s"
aggregate = "max"
max_keys = 1000
on_full = "evict"
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let input = context.schema();
        let mut problems = Vec::new();
        if input.column_with_name(TIME).is_none_or(|(_, field)| *field.data_type() != time_type()) {
            let problem = Problem::new("", "the input has no `time` column, which the grid divides");
            problems.push(problem.help("put a `decode` operator before this one"));
        }
        let tag = self.column("tag", &self.tag, input, is_text, "a tag or a text", &mut problems);
        let value = self.column("value", &self.value, input, is_number, "a number", &mut problems);
        let by = self.keys(input, &mut problems);
        let hold = self.check_grid(&mut problems);
        self.check_limits(&mut problems);
        let schema = self.output_schema(input, &by, &mut problems);
        // A key whose last row is this old has no value and waits for nothing.
        let key_ttl = Some(hold.max(self.grid).0);
        let limits = KeyLimits { max_keys: self.max_keys, key_ttl, on_full: self.on_full };
        let types = by.iter().map(|place| input.field(*place).data_type().clone()).collect();
        let keys = Keys::new(types, limits).map_err(|error| vec![Problem::new("by", error.message)]);
        let (Some(tag), Some(value), Ok(keys), true) = (tag, value, keys, problems.is_empty()) else {
            return Err(problems);
        };
        let meaning = format!(
            "{:?} of {:?} as {:?} by {:?} grid {} hold {hold} {:?} {:?}",
            self.value, self.tag, self.columns, self.by, self.grid, self.aggregate, self.on_full
        );
        let grid = Grid::new(
            (self.grid.micros(), hold.micros()),
            self.columns.len(),
            self.aggregate,
            self.max_cells,
        );
        let keys_max = if self.by.is_empty() { 1 } else { self.max_keys };
        let kept = grid::kept(keys_max, self.columns.len(), self.max_cells);
        let signals = (0u32..).zip(self.columns).map(|(index, name)| (name, index)).collect();
        let pivot = Pivot {
            places: Places { tag, value, by },
            signals,
            known: None,
            keys,
            grid,
            schema: schema.clone(),
            ids: Vec::new(),
        };
        Ok(Built::new(pivot, schema, meaning).port("late", input.clone()).keeps(&self.by, kept))
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(key, value) => **key == DataType::Int32 && **value == DataType::Utf8,
        other => *other == DataType::Utf8,
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Float32 | DataType::Float64)
}

impl PivotConfig {
    /// The position of a column of the right type.
    fn column(
        &self,
        key: &str,
        name: &str,
        input: &Schema,
        fits: fn(&DataType) -> bool,
        wanted: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<usize> {
        let Some((place, field)) = input.column_with_name(name) else {
            problems.push(Problem::no_column(key, name, input));
            return None;
        };
        if fits(field.data_type()) {
            return Some(place);
        }
        let message = format!("column \"{name}\" is {}, not {wanted}", type_name(field.data_type()));
        let fitting = input.fields().iter().filter(|field| fits(field.data_type()));
        let fitting: Vec<&str> = fitting.map(|field| field.name().as_str()).collect();
        problems.push(Problem::new(key, message).help(match fitting[..] {
            [] => "a `select` with CAST before can make one".to_owned(),
            _ => format!("such columns here are: {}", fitting.join(", ")),
        }));
        None
    }

    /// The positions of the key columns.
    fn keys(&self, input: &Schema, problems: &mut Vec<Problem>) -> Vec<usize> {
        let mut places = Vec::new();
        for (index, name) in self.by.iter().enumerate() {
            let path = format!("by[{index}]");
            let Some((place, field)) = input.column_with_name(name) else {
                problems.push(Problem::no_column(path, name, input));
                continue;
            };
            if places.contains(&place) {
                problems.push(Problem::new(path, format!("\"{name}\" is in the key already")));
            } else if [&self.tag, &self.value].contains(&name) {
                let message = format!("\"{name}\" makes the columns, so it is no key");
                problems.push(Problem::new(path, message).help("leave it out of `by`"));
            } else if !Keys::supports(field.data_type()) {
                let kind = type_name(field.data_type());
                let message = format!("column \"{name}\" is {kind} ({}) and makes no key", field.data_type());
                problems.push(Problem::new(path, message).help(
                    "keys are texts, 64-bit integers or true/false; a `select` with CAST can make one",
                ));
            } else {
                places.push(place);
            }
        }
        places
    }

    /// Checks grid and hold; returns the hold.
    fn check_grid(&self, problems: &mut Vec<Problem>) -> Period {
        let hold = self.hold.unwrap_or(self.grid);
        if self.grid.micros() == 0 {
            let problem = Problem::new("grid", "grid points would have no distance");
            problems.push(problem.help("write for example \"1s\""));
        } else if self.grid > GRID_MAX {
            problems.push(Problem::new("grid", "`grid` is longer than ten years"));
        } else if hold.micros() / self.grid.micros() > HOLD_POINTS_MAX {
            let message = format!(
                "a reading would be held for more than {HOLD_POINTS_MAX} grid points of {}",
                self.grid
            );
            problems.push(Problem::new("hold", message).help("choose a shorter `hold` or a wider `grid`"));
        }
        if hold.micros() == 0 && self.hold.is_some() {
            let problem = Problem::new("hold", "no reading would count");
            problems.push(problem.help("make it at least as long as `grid`, or leave it out"));
        }
        hold
    }

    fn check_limits(&self, problems: &mut Vec<Problem>) {
        for (key, limit) in [("max_keys", self.max_keys), ("max_cells", self.max_cells)] {
            if limit == 0 {
                problems.push(Problem::new(key, "with a limit of none, every reading would be left out"));
            }
        }
        if self.columns.is_empty() {
            problems.push(Problem::new("columns", "no signal becomes a column"));
        }
        if self.columns.len() > COLUMNS_MAX {
            let message = format!("{} columns, and {COLUMNS_MAX} are the most", self.columns.len());
            problems.push(Problem::new("columns", message).help("divide them among several pivots"));
        }
    }

    /// The emitted columns. No two may have the same name.
    fn output_schema(&self, input: &Schema, by: &[usize], problems: &mut Vec<Problem>) -> SchemaRef {
        let mut fields = vec![time_field()];
        fields.extend(by.iter().map(|place| input.field(*place).clone().with_nullable(true)));
        for (index, name) in self.columns.iter().enumerate() {
            let path = format!("columns[{index}]");
            if name.is_empty() {
                problems.push(Problem::new(path, "a column needs a name"));
            } else if self.columns[..index].contains(name) {
                problems.push(Problem::new(path, format!("\"{name}\" is in the list already")));
            } else if fields.iter().any(|field| field.name() == name) {
                let message = format!("two emitted columns would be called \"{name}\"");
                let help = "rename the column of the input, or the signal, with a `select` before";
                problems.push(Problem::new(path, message).help(help));
            }
            fields.push(Field::new(name, DataType::Float64, true));
        }
        Arc::new(Schema::new(fields))
    }
}

/// Where the columns are.
struct Places {
    tag: usize,
    value: usize,
    by: Vec<usize>,
}

struct Pivot {
    places: Places,
    /// The column that each signal becomes.
    signals: HashMap<String, u32>,
    /// The signals of the dictionary seen last.
    known: Option<(ArrayRef, Vec<u32>)>,
    keys: Keys,
    grid: Grid,
    schema: SchemaRef,
    /// Room for the group ids of one batch.
    ids: Vec<u32>,
}

/// The signal of a row that becomes no column.
const UNKNOWN: u32 = u32::MAX;

/// What a row is to the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Reading,
    /// Of a signal that becomes no column.
    Unknown,
    /// Without a value.
    Skipped,
    Late,
}

impl Operator for Pivot {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let uses = self.uses(&batch)?;
        let count = |wanted| uses.iter().filter(|found| **found == wanted).count();
        let late = count(Use::Late);
        out.count("unknown_rows", "", count(Use::Unknown) as u64);
        out.count("skipped_values", "", count(Use::Skipped) as u64);
        out.count("late_rows", "", late as u64);
        let rows_of = |wanted| {
            let chosen = BooleanBuffer::collect_bool(uses.len(), |row| uses[row] == wanted);
            filter_record_batch(&batch, &BooleanArray::new(chosen, None))
        };
        if late > 0 && out.wants(1) {
            out.emit(1, rows_of(Use::Late)?);
        }
        // Rows that are no readings take no place among the keys.
        if count(Use::Reading) < uses.len() {
            self.place(&rows_of(Use::Reading)?, out)
        } else {
            self.place(&batch, out)
        }
    }

    fn watermark(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        let mut names: Option<Vec<ArrayRef>> = None;
        while let Some(filled) = self.grid.fill(to, ROWS_PER_BATCH) {
            let names = names.get_or_insert_with(|| {
                let all: Vec<u32> = (0..self.keys.capacity() as u32).collect();
                self.keys.columns(&all)
            });
            out.emit(0, self.rows(filled, names)?);
        }
        for id in self.keys.expire(to) {
            self.grid.clear(id);
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        self.keys.save(state);
        self.grid.save(state);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.keys.load(state)?;
        self.grid.load(state, self.keys.capacity())
    }
}

impl Pivot {
    /// What each row is to the grid.
    fn uses(&mut self, batch: &RecordBatch) -> Result<Vec<Use>> {
        let signals = self.signals_of(batch.column(self.places.tag));
        let values = cast(batch.column(self.places.value), &DataType::Float64)?;
        let values: &Float64Array = values.as_primitive::<Float64Type>();
        let moments = times(batch)?.values();
        let rows = signals.iter().zip(moments).enumerate();
        Ok(rows
            .map(|(row, (signal, time))| {
                if *signal == UNKNOWN {
                    return Use::Unknown;
                }
                if values.is_null(row) || !values.value(row).is_finite() {
                    return Use::Skipped;
                }
                match self.grid.is_open(*time) {
                    None => Use::Skipped,
                    Some(false) => Use::Late,
                    Some(true) => Use::Reading,
                }
            })
            .collect())
    }

    /// Puts readings on the grid.
    fn place(&mut self, batch: &RecordBatch, out: &mut Output) -> Result<()> {
        let moments = times(batch)?.values();
        let signals = self.signals_of(batch.column(self.places.tag));
        let values = cast(batch.column(self.places.value), &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>().values();
        let by: Vec<ArrayRef> = self.places.by.iter().map(|place| batch.column(*place).clone()).collect();
        let (mut refused, mut no_room, mut from) = (0, 0, 0);
        while from < moments.len() {
            self.ids.clear();
            let to = self.keys.resolve(&by, moments, from, &mut self.ids);
            for (row, id) in (from..to).zip(&self.ids) {
                if *id == REFUSED {
                    refused += 1;
                } else if self.grid.place(*id, signals[row], moments[row], values[row]) == Placed::NoRoom {
                    no_room += 1;
                }
            }
            let evicted = self.keys.take_evicted();
            out.count("evicted_keys", "", evicted.len() as u64);
            evicted.iter().for_each(|id| self.grid.clear(*id));
            from = to;
        }
        out.count("refused_rows", "", refused);
        out.count("refused_rows", "cell_limit", no_room);
        Ok(())
    }

    /// The signal of each row.
    fn signals_of(&mut self, column: &ArrayRef) -> Vec<u32> {
        let signal = |texts: &StringArray, row: usize| match texts.is_valid(row) {
            true => self.signals.get(texts.value(row)).copied().unwrap_or(UNKNOWN),
            false => UNKNOWN,
        };
        if *column.data_type() == DataType::Utf8 {
            let texts = column.as_string::<i32>();
            return (0..texts.len()).map(|row| signal(texts, row)).collect();
        }
        let dictionary = column.as_dictionary::<Int32Type>();
        let fresh = |values: &ArrayRef| {
            let texts = values.as_string::<i32>();
            (values.clone(), (0..texts.len()).map(|at| signal(texts, at)).collect::<Vec<u32>>())
        };
        let known = match self.known.take() {
            Some(known) if Arc::ptr_eq(&known.0, dictionary.values()) => known,
            _ => fresh(dictionary.values()),
        };
        let keys: &PrimitiveArray<Int32Type> = dictionary.keys();
        let found = keys.iter().map(|key| key.map_or(UNKNOWN, |key| known.1[key as usize])).collect();
        self.known = Some(known);
        found
    }

    /// Filled grid points as rows.
    fn rows(&self, filled: Filled, names: &[ArrayRef]) -> Result<RecordBatch> {
        let ids = UInt32Array::from(filled.ids);
        let mut columns = vec![time_array(filled.times)];
        for name in names {
            columns.push(take(name, &ids, None)?);
        }
        for (values, valid) in filled.columns {
            let valid = BooleanBuffer::from(valid);
            columns.push(Arc::new(Float64Array::new(values.into(), Some(valid.into()))));
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}
