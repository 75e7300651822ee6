//! The window operator against tables, against a naive twin that keeps all rows, and against the laws.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;

use super::running::TIME_MAX;
use super::*;
use crate::core::schema::{tag_type, time_array};
use crate::core::{EventTime, Flow, Now, Operator, Output, StateReader, StateWriter};
use crate::registry::{BatchLimits, InputSchema, NoFiles, example_schema};

/// A row: time in µs, device, temp, rpm.
type Row = (i64, Option<&'static str>, Option<f64>, Option<i64>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Item {
    Row(Row),
    Mark(i64),
}
use Item::{Mark, Row as R};

/// The watermark that ends a script.
const END: Item = Mark(i64::MAX);

fn input() -> SchemaRef {
    Arc::new(Schema::new(vec![
        time_field(),
        Field::new("device", tag_type(), true),
        Field::new("temp", DataType::Float64, true),
        Field::new("rpm", DataType::Int64, true),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let arrays: Vec<ArrayRef> = vec![
        time_array(rows.iter().map(|row| row.0).collect()),
        Arc::new(rows.iter().map(|row| row.1).collect::<DictionaryArray<Int32Type>>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(input(), arrays).unwrap()
}

fn build(config: &str, schema: SchemaRef) -> Checked<Built> {
    let config: WindowConfig =
        toml::from_str(config).map_err(|error| vec![Problem::new("", error.message())])?;
    let inputs = [InputSchema { name: "plant".into(), schema }];
    config.build(&Context {
        name: "w",
        pipeline: "p",
        inputs: &inputs,
        files: &NoFiles,
        batch: BatchLimits::default(),
    })
}

/// One emitted row: its times, its device, its number of rows, its statistics.
#[derive(Debug, Clone, PartialEq)]
struct Emitted {
    time: i64,
    start: i64,
    end: i64,
    device: Option<String>,
    rows: i64,
    stats: Vec<Option<f64>>,
}

impl Emitted {
    /// All that is in it, to the bit.
    fn bits(&self) -> String {
        let stats: Vec<_> = self.stats.iter().map(|value| value.map(f64::to_bits)).collect();
        let Self { time, start, end, device, rows, .. } = self;
        format!("{time} {start} {end} {device:?} {rows} {stats:x?}")
    }
}

/// By what and reason.
type Counts = BTreeMap<(&'static str, &'static str), u64>;

#[derive(Debug, Default)]
struct Outcome {
    rows: Vec<Emitted>,
    late: Vec<i64>,
    counts: Counts,
}

impl Outcome {
    fn bits(&self) -> (Vec<String>, &[i64], &Counts) {
        (self.rows.iter().map(Emitted::bits).collect(), &self.late, &self.counts)
    }

    fn count(&self, what: &'static str, reason: &'static str) -> u64 {
        self.counts.get(&(what, reason)).copied().unwrap_or(0)
    }

    /// `(time, start, end, device, rows)` of each emitted row.
    fn windows(&self) -> Vec<(i64, i64, i64, &str, i64)> {
        let window = |row: &Emitted| (row.time, row.start, row.end, row.rows);
        self.rows
            .iter()
            .map(|row| (window(row), row.device.as_deref().unwrap_or("-")))
            .map(|((time, start, end, rows), device)| (time, start, end, device, rows))
            .collect()
    }

    fn take(&mut self, out: &mut Output, watermark: i64) {
        let before = self.rows.len();
        for (port, flow) in out.drain() {
            let Flow::Batch(batch) = flow else { panic!("a window makes no watermark") };
            match port {
                0 => self.rows.extend(decode(&batch)),
                _ => {
                    assert_eq!(batch.schema(), input());
                    self.late.extend(batch.column(0).as_primitive::<TimestampMicrosecondType>().values());
                }
            }
        }
        let behind = self.rows[before..].iter().find(|row| row.time < watermark);
        assert_eq!(behind, None, "emitted behind the watermark {watermark}");
        for (count, by) in out.drain_counts() {
            *self.counts.entry((count.what, count.reason)).or_default() += by;
        }
    }
}

fn decode(batch: &RecordBatch) -> Vec<Emitted> {
    let time = |name: &str, row: usize| {
        batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().value(row)
    };
    let rows = batch.schema().index_of("rows").unwrap();
    let number = |column: &ArrayRef, row: usize| match column.data_type() {
        DataType::Int64 => Some(column.as_primitive::<Int64Type>().value(row) as f64),
        _ => column.is_valid(row).then(|| column.as_primitive::<Float64Type>().value(row)),
    };
    let device = |row: usize| {
        let column = batch.column_by_name("device")?.as_dictionary::<Int32Type>();
        let key = column.key(row)?;
        Some(column.values().as_string::<i32>().value(key).to_owned())
    };
    (0..batch.num_rows())
        .map(|row| Emitted {
            time: time("time", row),
            start: time("window_start", row),
            end: time("window_end", row),
            device: device(row),
            rows: batch.column(rows).as_primitive::<Int64Type>().value(row),
            stats: batch.columns()[rows + 1..].iter().map(|column| number(column, row)).collect(),
        })
        .collect()
}

/// Runs a script; `cut` says before which items a batch ends, `restart` before which the operator is saved
/// and goes on as another one.
fn run(config: &str, items: &[Item], cut: &[bool], restart: Option<usize>) -> Outcome {
    let fresh = || match build(config, input()) {
        Ok(built) => built.operator,
        Err(problems) => panic!("{problems:?}"),
    };
    let (mut operator, mut outcome, mut rows) = (fresh(), Outcome::default(), Vec::new());
    let (mut out, mut watermark) = (Output::new(Now::ZERO), i64::MIN);
    fn process(operator: &mut Box<dyn Operator>, rows: &mut Vec<Row>, out: &mut Output) {
        if !rows.is_empty() {
            operator.process(0, batch(rows), out).unwrap();
            rows.clear();
        }
    }
    for (index, item) in items.iter().enumerate() {
        if cut.get(index).copied().unwrap_or(false) || restart == Some(index) {
            process(&mut operator, &mut rows, &mut out);
            outcome.take(&mut out, watermark);
        }
        if restart == Some(index) {
            let mut state = StateWriter::new();
            operator.save(&mut state);
            let bytes = state.finish().unwrap();
            operator = fresh();
            let mut reader = StateReader::new(&bytes);
            operator.load(&mut reader).unwrap();
            reader.finish().unwrap();
        }
        match item {
            R(row) => rows.push(*row),
            Mark(to) => {
                process(&mut operator, &mut rows, &mut out);
                outcome.take(&mut out, watermark);
                operator.watermark(EventTime(*to), &mut out).unwrap();
                outcome.take(&mut out, watermark);
                watermark = watermark.max(*to);
            }
        }
    }
    process(&mut operator, &mut rows, &mut out);
    outcome.take(&mut out, watermark);
    outcome
}

fn a(time: i64) -> Item {
    R((time, Some("a"), Some(1.0), None))
}

fn b(time: i64) -> Item {
    R((time, Some("b"), Some(1.0), None))
}

#[test]
fn windows_leave_in_order_when_the_watermark_reaches_their_end() {
    type Windows = [(i64, i64, i64, &'static str, i64)];
    let table: [(&str, &[Item], &Windows, &[i64]); 9] = [
        (
            "tumbling, from before 1970 on",
            &[a(-1), b(3), a(0), a(9), Mark(9), a(-10), a(10), Mark(10), a(9), b(12)],
            &[(-1, -10, 0, "a", 1), (9, 0, 10, "a", 2), (9, 0, 10, "b", 1)],
            &[-10, 9],
        ),
        (
            "hopping: what has fired is over, what is open still takes rows",
            &[a(1), a(12), Mark(10), a(7), Mark(15), a(4), a(5), Mark(25)],
            &[(4, -5, 5, "a", 1), (9, 0, 10, "a", 1), (14, 5, 15, "a", 2), (19, 10, 20, "a", 1)],
            &[4, 5],
        ),
        (
            "a gap in the data is skipped",
            &[a(0), a(1 << 50), END],
            &[(9, 0, 10, "a", 1), ((1 << 50) + 5, (1 << 50) - 4, (1 << 50) + 6, "a", 1)],
            &[],
        ),
        (
            "sessions: a pause of the gap begins another, a row between two makes them one",
            &[a(0), a(9), a(19), b(5), a(14), Mark(15), a(40), END],
            &[(14, 5, 15, "b", 1), (28, 0, 29, "a", 4), (49, 40, 50, "a", 1)],
            &[],
        ),
        (
            "sessions: near an open one a row is never late",
            &[a(20), Mark(25), a(15), a(11), a(1), b(15), b(16), Mark(30), a(25), Mark(40)],
            &[(25, 16, 26, "b", 1), (29, 11, 30, "a", 3), (34, 25, 35, "a", 1)],
            &[1, 15],
        ),
        (
            "count: every three rows, the rest at the end",
            &[a(1), a(5), b(2), a(3), a(7), b(8), b(8), a(6), Mark(6), a(5), b(6), END],
            &[(5, 1, 6, "a", 3), (8, 2, 9, "b", 3), (6, 6, 7, "b", 1), (7, 6, 8, "a", 2)],
            &[5],
        ),
        (
            "count: what leaves unfilled is not behind the watermark",
            &[a(1), Mark(100), END],
            &[(100, 1, 2, "a", 1)],
            &[],
        ),
        ("unkeyed", &[a(0), b(1), Mark(10), b(11), END], &[(9, 0, 10, "-", 2), (19, 10, 20, "-", 1)], &[]),
        ("nothing", &[Mark(5), END, a(1)], &[], &[1]),
    ];
    let configs = [
        "size = '10us'\nby = ['device']",
        "size = '10us'\nslide = '5us'\nby = ['device']",
        "size = '10us'\nby = ['device']",
        "gap = '10us'\nby = ['device']",
        "gap = '10us'\nby = ['device']",
        "rows = 3\nby = ['device']",
        "rows = 3\nby = ['device']",
        "size = '10us'",
        "size = '10us'",
    ];
    for ((name, items, windows, late), config) in table.into_iter().zip(configs) {
        let outcome = run(config, items, &[], None);
        assert_eq!(outcome.windows(), windows, "{name}");
        assert_eq!(outcome.late, late, "{name}");
        assert_eq!(outcome.count("late_rows", ""), late.len() as u64, "{name}");
    }
}

#[test]
fn statistics_of_a_window_skip_and_count_what_is_no_number() {
    let config = "size = '10us'
        by = ['device']
        columns.temp = ['basic', 'nulls', 'sum', 'range', 'first', 'last', 'var', 'rms', 'median', 'slope']
        columns.rpm = ['count', 'mean', 'max']";
    let row = |time, temp, rpm| R((time, Some("a"), temp, rpm));
    let items = [
        row(4, Some(3.0), Some(-4)),
        row(2, Some(1.0), None),
        row(5, None, Some(10)),
        row(6, Some(f64::NAN), None),
        row(7, Some(f64::NEG_INFINITY), None),
        row(4, Some(5.0), None),
        R((1, Some("b"), None, None)),
        END,
    ];
    let outcome = run(config, &items, &[], None);
    let none = [None; 11];
    let expected: [Vec<Option<f64>>; 2] = [
        [
            3.0,
            3.0,
            2.0,
            1.0,
            5.0,
            3.0,
            9.0,
            4.0,
            1.0,
            5.0,
            4.0,
            (35.0f64 / 3.0).sqrt(),
            3.0,
            1.5e6,
            2.0,
            3.0,
            10.0,
        ]
        .map(Some)
        .to_vec(),
        [Some(0.0)]
            .iter()
            .chain(&none[..4])
            .chain(&[Some(1.0)])
            .chain(&none[..8])
            .chain(&[Some(0.0), None, None])
            .copied()
            .collect(),
    ];
    for (row, expected) in outcome.rows.iter().zip(&expected) {
        assert_eq!(row.stats.len(), expected.len());
        for (place, (found, wanted)) in row.stats.iter().zip(expected).enumerate() {
            let close = match (found, wanted) {
                // The median comes out of a sketch.
                (Some(found), Some(wanted)) => {
                    (found - wanted).abs() <= if place == 12 { 0.03 } else { 1e-9 }
                }
                (found, wanted) => found == wanted,
            };
            assert!(close, "{place}: {found:?} {wanted:?}");
        }
    }
    let skipped = ["null", "nan", "infinite"].map(|reason| outcome.count("skipped_values", reason));
    assert_eq!(skipped, [1 + 4 + 2, 1, 1]);
}

#[test]
fn every_limit_is_kept_and_what_it_costs_is_counted() {
    let rows = |names: &[&'static str]| -> Vec<Item> {
        (1..).zip(names).map(|(time, name)| R((time, Some(*name), Some(1.0), None))).collect()
    };
    let refused = run(
        "rows = 2
by = ['device']
max_keys = 1",
        &rows(&["a", "b", "a", "b"]),
        &[],
        None,
    );
    assert_eq!((refused.windows(), refused.count("refused_rows", "max_keys")), (vec![(3, 1, 4, "a", 2)], 2));

    let items = rows(&["a", "a", "b", "a", "a", "b", "b"]);
    let evicted = run(
        "rows = 2
by = ['device']
max_keys = 1
on_full = 'evict'",
        &items,
        &[],
        None,
    );
    let windows = vec![(2, 1, 3, "a", 2), (5, 4, 6, "a", 2), (7, 6, 8, "b", 2)];
    assert_eq!((evicted.windows(), evicted.count("evicted_keys", "")), (windows, 3));
    assert_eq!(evicted.count("lost_rows", "evicted"), 1);

    let items = [a(0), a(10), a(20), a(5), a(30), b(5), Mark(10), a(30), END];
    let limited = run(
        "size = '10us'
by = ['device']
max_windows = 3",
        &items,
        &[],
        None,
    );
    assert_eq!(limited.rows.iter().map(|row| row.rows).collect::<Vec<_>>(), [2, 1, 1, 1]);
    assert_eq!(limited.count("refused_rows", "window_limit"), 2);

    let items = [a(i64::MAX), a(i64::MIN), a(TIME_MAX + 1), a(TIME_MAX), a(-TIME_MAX), END];
    for extent in [
        "size = '9us'",
        "gap = '3660d'",
        "rows = 1",
        "size = '3660d'
slide = '366d'",
    ] {
        let far = run(extent, &items, &[], None);
        assert_eq!(far.count("refused_rows", "time_range"), 3, "{extent}");
        assert!(far.rows.len() >= 2 && far.rows.iter().all(|row| row.start < row.end), "{extent}");
    }

    let items = [a(0), b(90), Mark(99), b(101), Mark(112), a(120), b(120), END];
    let forgotten = run(
        "rows = 3
by = ['device']
key_ttl = '100us'",
        &items,
        &[],
        None,
    );
    let windows = vec![(99, 0, 1, "a", 1), (120, 90, 121, "b", 3), (120, 120, 121, "a", 1)];
    assert_eq!((forgotten.windows(), forgotten.count("lost_rows", "expired")), (windows, 0));
}

#[test]
fn saved_state_goes_on_under_a_lower_limit_and_damage_is_refused() {
    let config = |most: u64| {
        format!(
            "size = '10us'
by = ['device']
columns.temp = ['mean']
max_windows = {most}"
        )
    };
    let mut out = Output::new(Now::ZERO);
    let mut before = build(&config(9), input()).ok().unwrap().operator;
    let rows: Vec<Row> = [0, 10, 20].map(|time| (time, Some("a"), Some(1.0), None)).to_vec();
    before.process(0, batch(&rows), &mut out).unwrap();
    let mut state = StateWriter::new();
    before.save(&mut state);
    let bytes = state.finish().unwrap();
    let mut after = build(&config(1), input()).ok().unwrap().operator;
    after.load(&mut StateReader::new(&bytes)).unwrap();
    after.watermark(EventTime::MAX, &mut out).unwrap();
    let mut outcome = Outcome::default();
    outcome.take(&mut out, i64::MIN);
    assert_eq!(outcome.rows.len(), 3);

    for cut in 0..bytes.len() {
        let mut operator = build(&config(9), input()).ok().unwrap().operator;
        assert!(operator.load(&mut StateReader::new(&bytes[..cut])).is_err(), "cut at {cut}");
    }
    for place in 0..bytes.len() {
        // Whatever the bytes say: an error or a state, never a panic.
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[place] ^= flip;
            let mut operator = build(&config(9), input()).ok().unwrap().operator;
            if operator.load(&mut StateReader::new(&damaged)).is_ok() {
                operator.process(0, batch(&rows), &mut out).unwrap();
                operator.watermark(EventTime::MAX, &mut out).unwrap();
            }
        }
    }
}

/// The naive twin: it keeps every row of every window and computes each statistic in two passes.
mod twin {
    use super::*;

    #[derive(Debug, Clone)]
    pub struct Window {
        pub start: i64,
        pub end: i64,
        pub device: Option<&'static str>,
        pub rows: Vec<Row>,
    }

    pub enum Kind {
        Hopping { size: i64, slide: i64 },
        Session { gap: i64 },
        Count { rows: usize },
    }

    /// The windows of a script in the order in which they leave, and the times of late rows.
    pub fn windows(kind: &Kind, items: &[Item]) -> (Vec<Window>, Vec<i64>) {
        let (mut open, mut done, mut late): (Vec<Window>, Vec<Window>, Vec<i64>) = Default::default();
        let (mut devices, mut watermark) = (Vec::new(), i64::MIN);
        for item in items {
            match item {
                R(row) => {
                    let on_time = match kind {
                        Kind::Hopping { size, slide } => hopping(*size, *slide, watermark, *row, &mut open),
                        Kind::Session { gap } => session(*gap, watermark, *row, &mut open),
                        Kind::Count { rows } => count(*rows, watermark, *row, &mut open, &mut done),
                    };
                    if !on_time {
                        late.push(row.0);
                    }
                    // Keys are in the order in which they came; a session's late row makes its key known.
                    let known = on_time || matches!(kind, Kind::Session { .. });
                    if known && !devices.contains(&row.1) {
                        devices.push(row.1);
                    }
                }
                Mark(to) => {
                    watermark = watermark.max(*to);
                    let over = |window: &Window| match kind {
                        Kind::Count { .. } => watermark == i64::MAX,
                        _ => window.end <= watermark,
                    };
                    let mut fired: Vec<Window> = open.iter().filter(|window| over(window)).cloned().collect();
                    open.retain(|window| !over(window));
                    fired.sort_by_key(|window| {
                        (window.end, devices.iter().position(|device| *device == window.device))
                    });
                    done.extend(fired);
                }
            }
        }
        (done, late)
    }

    fn hopping(size: i64, slide: i64, watermark: i64, row: Row, open: &mut Vec<Window>) -> bool {
        let mut on_time = false;
        let last = row.0.div_euclid(slide) * slide;
        let starts = std::iter::successors(Some(last), |start| Some(start - slide));
        for start in starts.take_while(|start| start + size > row.0) {
            let end = start + size;
            if end > watermark {
                on_time = true;
                match open.iter_mut().find(|window| window.start == start && window.device == row.1) {
                    Some(window) => window.rows.push(row),
                    None => open.push(Window { start, end, device: row.1, rows: vec![row] }),
                }
            }
        }
        on_time
    }

    fn session(gap: i64, watermark: i64, row: Row, open: &mut Vec<Window>) -> bool {
        let (start, end) = (row.0, row.0 + gap);
        let near = |window: &Window| window.device == row.1 && window.start < end && start < window.end;
        let parts: Vec<Window> = open.iter().filter(|window| near(window)).cloned().collect();
        if parts.is_empty() && end <= watermark {
            return false;
        }
        open.retain(|window| !near(window));
        let mut whole = Window { start, end, device: row.1, rows: Vec::new() };
        for part in parts {
            whole.start = whole.start.min(part.start);
            whole.end = whole.end.max(part.end);
            whole.rows.extend(part.rows);
        }
        whole.rows.push(row);
        open.push(whole);
        true
    }

    fn count(most: usize, watermark: i64, row: Row, open: &mut Vec<Window>, done: &mut Vec<Window>) -> bool {
        if row.0 < watermark {
            return false;
        }
        let place = open.iter().position(|window| window.device == row.1).unwrap_or_else(|| {
            open.push(Window { start: row.0, end: row.0 + 1, device: row.1, rows: Vec::new() });
            open.len() - 1
        });
        let window = &mut open[place];
        window.rows.push(row);
        (window.start, window.end) = (window.start.min(row.0), window.end.max(row.0 + 1));
        if window.rows.len() == most {
            done.push(open.remove(place));
        }
        true
    }

    /// One statistic of times and values, in the order of the rows.
    pub fn statistic(name: &str, rows: usize, values: &[(i64, f64)]) -> Option<f64> {
        match name {
            "count" => return Some(values.len() as f64),
            "nulls" => return Some((rows - values.len()) as f64),
            _ if values.is_empty() => return None,
            _ => {}
        }
        let n = values.len() as f64;
        let sum = |of: &dyn Fn(&(i64, f64)) -> f64| values.iter().map(of).sum::<f64>();
        let mean = sum(&|(_, value)| *value) / n;
        let power = |power: i32| sum(&|(_, value)| (value - mean).powi(power));
        let rms = (sum(&|(_, value)| value * value) / n).sqrt();
        let sorted = {
            let mut sorted: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
            sorted.sort_by(f64::total_cmp);
            sorted
        };
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        let value = match name {
            "sum" => sum(&|(_, value)| *value),
            "mean" => mean,
            "min" => min,
            "max" => max,
            "range" => max - min,
            // The earliest, of equal ones the first row; the latest, of equal ones the last row.
            "first" => values.iter().min_by_key(|(time, _)| *time)?.1,
            "last" => values.iter().max_by_key(|(time, _)| *time)?.1,
            "var" | "std" if values.len() < 2 => return None,
            "var" => power(2) / (n - 1.0),
            "std" => (power(2) / (n - 1.0)).sqrt(),
            "skew" if values.len() < 3 => return None,
            "skew" => power(3) / n / (power(2) / n).powf(1.5),
            "kurtosis" if values.len() < 4 => return None,
            "kurtosis" => power(4) / n / (power(2) / n).powi(2),
            "rms" => rms,
            "crest_factor" => max.abs().max(min.abs()) / rms,
            "slope" => {
                let middle = sum(&|(time, _)| *time as f64) / n;
                let spread = sum(&|(time, _)| (*time as f64 - middle).powi(2));
                sum(&|(time, value)| (*time as f64 - middle) * (value - mean)) / spread * 1e6
            }
            "median" => sorted[(0.5 * (n - 1.0)) as usize],
            "p90" => sorted[(0.9 * (n - 1.0)) as usize],
            other => panic!("{other}"),
        };
        value.is_finite().then_some(value)
    }
}

const STATS: [&str; 18] = [
    "count",
    "nulls",
    "sum",
    "mean",
    "min",
    "max",
    "range",
    "first",
    "last",
    "std",
    "var",
    "skew",
    "kurtosis",
    "rms",
    "crest_factor",
    "slope",
    "median",
    "p90",
];

/// All kinds with all statistics; hopping with slides that divide the size and that do not.
fn kinds() -> Vec<(String, twin::Kind)> {
    let config = |extent: &str| {
        format!("{extent}\nby = ['device']\ncolumns = {{ temp = {STATS:?}, rpm = {STATS:?} }}")
    };
    vec![
        (config("size = '12us'"), twin::Kind::Hopping { size: 12, slide: 12 }),
        (config("size = '12us'\nslide = '4us'"), twin::Kind::Hopping { size: 12, slide: 4 }),
        (config("size = '10us'\nslide = '4us'"), twin::Kind::Hopping { size: 10, slide: 4 }),
        (config("gap = '5us'"), twin::Kind::Session { gap: 5 }),
        (config("rows = 4"), twin::Kind::Count { rows: 4 }),
    ]
}

/// Rows of four keys whose times run forward with some jitter, quarters as values (their sums are exact), and
/// watermarks close behind.
fn scripts() -> impl Strategy<Value = Vec<Item>> {
    let device = prop::sample::select(vec![None, Some("a"), Some("b"), Some("c")]);
    let temp = prop::option::weighted(0.9, (-40..40i32).prop_map(|quarters| f64::from(quarters) / 4.0));
    let rpm = prop::option::weighted(0.9, -5..5i64);
    let step = (0..4i64, -12..3i64, device, temp, rpm, 0..8u8);
    prop::collection::vec(step, 0..120).prop_map(|steps| {
        let (mut clock, mut items) = (-60, Vec::new());
        for (ahead, jitter, device, temp, rpm, kind) in steps {
            clock += ahead;
            items.push(match kind {
                0 => Mark(clock + jitter),
                // One in many is far from the others.
                1 if temp == Some(3.0) => R((clock + 200 * jitter, device, temp, rpm)),
                _ => R((clock + jitter, device, temp, rpm)),
            });
        }
        items.push(END);
        items
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn the_naive_twin_agrees(items in scripts()) {
        for (config, kind) in kinds() {
            let outcome = run(&config, &items, &[], None);
            let (windows, late) = twin::windows(&kind, &items);
            prop_assert_eq!(&outcome.late, &late);
            prop_assert_eq!(outcome.rows.len(), windows.len(), "{}", config);
            for (row, window) in outcome.rows.iter().zip(&windows) {
                prop_assert_eq!((row.start, row.end, row.rows), (window.start, window.end, window.rows.len() as i64));
                prop_assert_eq!(row.device.as_deref(), window.device);
                let temp = window.rows.iter().filter_map(|row| Some((row.0, row.2?))).collect::<Vec<_>>();
                let rpm = window.rows.iter().filter_map(|row| Some((row.0, row.3? as f64))).collect::<Vec<_>>();
                let stats = [temp, rpm].into_iter().flat_map(|values| {
                    STATS.map(|name| (name, twin::statistic(name, window.rows.len(), &values)))
                });
                for ((name, wanted), found) in stats.zip(&row.stats) {
                    let tolerance = match name {
                        "count" | "nulls" | "min" | "max" | "range" | "first" | "last" | "sum" => 0.0,
                        "median" | "p90" => 0.01,
                        _ => 1e-9,
                    };
                    let close = match (found, wanted) {
                        // Near zero the scale is that of the values.
                        (Some(found), Some(wanted)) => {
                            (found - wanted).abs() <= tolerance * if tolerance > 1e-3 { wanted.abs() } else { wanted.abs().max(10.0) }
                        }
                        (found, wanted) => *found == wanted,
                    };
                    prop_assert!(close, "{}: {:?} {:?} of {:?}", name, found, wanted, window);
                }
            }
        }
    }

    /// Cutting batches anywhere, and saving and loading anywhere, changes no bit.
    #[test]
    fn cuts_and_restarts_change_nothing(
        items in scripts(),
        cut in prop::collection::vec(any::<bool>(), 120),
        restart in 0..120usize,
    ) {
        let limits = ["max_keys = 2\non_full = 'evict'", "max_keys = 2\nmax_windows = 3", "key_ttl = '30us'"];
        let limited = kinds().into_iter().flat_map(|(config, _)| {
            let extent = config.split("by =").next().unwrap_or_default().to_owned();
            limits.map(|limit| format!("{extent}{limit}\nby = ['device']\ncolumns.temp = ['std', 'p90']"))
        });
        for config in kinds().into_iter().map(|(config, _)| config).chain(limited) {
            let whole = run(&config, &items, &[], None);
            let parted = run(&config, &items, &cut, None);
            prop_assert_eq!(parted.bits(), whole.bits(), "{}", config);
            let restarted = run(&config, &items, &[], Some(restart % items.len()));
            prop_assert_eq!(restarted.bits(), whole.bits(), "{}", config);
        }
    }

    /// Each row is in exactly one window of those that do not overlap, or is counted where it went instead.
    #[test]
    fn every_row_is_accounted_for(items in scripts()) {
        let rows = items.iter().filter(|item| matches!(item, R(_))).count() as u64;
        for extent in ["size = '12us'", "gap = '5us'", "rows = 3"] {
            for limit in ["", "max_keys = 2", "max_keys = 2\non_full = 'evict'", "max_windows = 2", "key_ttl = '20us'"] {
                let outcome = run(&format!("{extent}\n{limit}\nby = ['device']"), &items, &[], None);
                let emitted: i64 = outcome.rows.iter().map(|row| row.rows).sum();
                let lost = outcome.count("lost_rows", "evicted");
                let refused = ["max_keys", "window_limit", "time_range"]
                    .map(|reason| outcome.count("refused_rows", reason))
                    .iter()
                    .sum::<u64>();
                let late = outcome.count("late_rows", "");
                prop_assert_eq!(late, outcome.late.len() as u64);
                prop_assert_eq!(rows, emitted as u64 + late + refused + lost, "{} {}", extent, limit);
                prop_assert_eq!(outcome.count("lost_rows", "expired"), 0);
            }
        }
    }
}

#[test]
fn many_windows_leave_in_bounded_batches() {
    let items: Vec<Item> = (0..10_000).map(|time| R((time * 10, Some("a"), None, None))).collect();
    let rows: Vec<Row> =
        items.iter().filter_map(|item| if let R(row) = item { Some(*row) } else { None }).collect();
    for (extent, windows) in
        [("size = '10us'", 4096), ("size = '40us'\nslide = '10us'", 4099), ("rows = 1", 10_000)]
    {
        let mut operator = build(extent, input()).ok().unwrap().operator;
        let mut out = Output::new(Now::ZERO);
        operator.process(0, batch(&rows), &mut out).unwrap();
        operator.watermark(EventTime::MAX, &mut out).unwrap();
        let sizes: Vec<usize> = out
            .drain()
            .map(|(_, flow)| if let Flow::Batch(batch) = flow { batch.num_rows() } else { 0 })
            .collect();
        assert_eq!(sizes.iter().sum::<usize>(), windows, "{extent}");
        assert!(sizes.iter().all(|size| *size <= 4096), "{extent}: {sizes:?}");
    }
}

#[test]
fn the_examples_build_and_say_what_they_emit() {
    for example in WindowConfig::EXAMPLES {
        assert!(build(example, example_schema()).is_ok(), "{example}");
    }
    let built = build(WindowConfig::EXAMPLES[0], example_schema()).ok().unwrap();
    let names: Vec<String> = built.ports[0]
        .schema
        .fields()
        .iter()
        .map(|field| format!("{}: {}", field.name(), type_name(field.data_type())))
        .collect();
    assert_eq!(
        names.join(", "),
        "time: time, window_start: time, window_end: time, line: text, device: text, rows: integer, \
         vib_mean: number, vib_std: number, vib_rms: number, vib_kurtosis: number, vib_p99: number, \
         temp_mean: number, temp_max: number"
    );
    assert_eq!((built.ports[1].name, &built.ports[1].schema), ("late", &example_schema()));
}

#[test]
fn the_meaning_is_that_of_the_state() {
    let meaning = |config: &str| build(config, input()).ok().unwrap().meaning;
    let one = meaning("size = '10s'\nby = ['device']\ncolumns.temp = ['min', 'std']");
    let same = ["size = '10000ms'\nby = ['device']\ncolumns.temp = ['max', 'std', 'var']\nmax_keys = 5"];
    let others = [
        "size = '20s'\nby = ['device']\ncolumns.temp = ['min', 'std']",
        "size = '10s'\nslide = '5s'\nby = ['device']\ncolumns.temp = ['min', 'std']",
        "gap = '10s'\nby = ['device']\ncolumns.temp = ['min', 'std']",
        "size = '10s'\ncolumns.temp = ['min', 'std']",
        "size = '10s'\nby = ['device']\ncolumns.rpm = ['min', 'std']",
        "size = '10s'\nby = ['device']\ncolumns.temp = ['min', 'kurtosis']",
        "size = '10s'\nby = ['device']\ncolumns.temp = ['min', 'std']\non_full = 'evict'",
    ];
    same.iter().for_each(|config| assert_eq!(meaning(config), one, "{config}"));
    others.iter().for_each(|config| assert_ne!(meaning(config), one, "{config}"));
}

/// Columns leave in the order of the file; what is kept of them survives another one.
#[test]
fn columns_in_another_order_go_on_with_the_same_state() {
    let body = |columns: &str| format!("size = '10us'\ncolumns = {{ {columns} }}");
    let make = |columns: &str| build(&body(columns), input()).ok().unwrap();
    let (one, other) = ("temp = ['max'], rpm = ['sum', 'max']", "rpm = ['sum', 'max'], temp = ['max']");
    assert_eq!(make(one).meaning, make(other).meaning);
    let out = || Output::new(Now { mono: std::time::Duration::ZERO, wall: EventTime(0) });
    let mut before = make(one).operator;
    before.process(0, batch(&[(1, None, Some(1.5), Some(7))]), &mut out()).unwrap();
    let mut state = StateWriter::new();
    before.save(&mut state);
    let mut after = make(other).operator;
    after.load(&mut StateReader::new(&state.finish().unwrap())).unwrap();
    let mut said = out();
    after.watermark(EventTime(20), &mut said).unwrap();
    let flows: Vec<(usize, Flow)> = said.drain().collect();
    let Some((0, Flow::Batch(rows))) = flows.first() else { panic!("no window: {flows:?}") };
    let value = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Float64Type>().value(0);
    assert_eq!((value("temp_max"), value("rpm_sum"), value("rpm_max")), (1.5, 7.0, 7.0));
    let names: Vec<&str> =
        rows.schema_ref().fields().iter().skip(4).map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["rpm_sum", "rpm_max", "temp_max"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_place_cause_and_fix() {
    let table = [
        ("", "", "it is not said what makes a window", "add `size"),
        ("slide = '1s'", "slide", "not how long it is", "add `size`"),
        ("size = '1s'\ngap = '1s'", "gap", "`size`, `gap` exclude each other", "two operators side by side"),
        ("size = '1s'\nslide = '1s'\nrows = 5", "rows", "`size`, `slide`, `rows` exclude", "keep `size`"),
        ("gap = '1s'\nslide = '1s'", "gap", "`slide`, `gap` exclude", "keep"),
        ("size = '0s'", "size", "`size` is zero", ""),
        ("size = '1s'\nslide = '0s'", "slide", "`slide` is zero", ""),
        ("gap = '0s'", "gap", "`gap` is zero", ""),
        ("rows = 0", "rows", "never ends", ""),
        ("size = '4000d'", "size", "longer than ten years", ""),
        ("size = '1s'\nslide = '2s'", "slide", "of every 2s, rows of only 1s", "with a `filter`"),
        ("size = '10s'\nslide = '7ms'", "slide", "put together from 10000 panes", "that divides `size`"),
        ("size = '1s'\nby = ['devise']", "by[0]", "\"devise\" does not exist", "did you mean \"device\"?"),
        (
            "size = '1s'\nby = ['line', 'temp']",
            "by[1]",
            "\"temp\" is a number (Float64) and makes no key",
            "CAST",
        ),
        ("size = '1s'\nby = ['line', 'line']", "by[1]", "in the key already", ""),
        ("size = '1s'\ncolumns.vibr = ['mean']", "columns.vibr", "\"vibr\" does not exist", "\"vib\"?"),
        ("size = '1s'\ncolumns.note = ['mean']", "columns.note", "\"note\" is text", "seq, temp, vib, rpm"),
        ("size = '1s'\ncolumns.ok = ['mean']", "columns.ok", "\"ok\" is true/false", "temp"),
        ("size = '1s'\ncolumns.vib = []", "columns.vib", "no statistic of \"vib\"", "\"basic\""),
        (
            "size = '1s'\ncolumns.vib = ['max', 'maen']",
            "columns.vib[1]",
            "no statistic \"maen\"",
            "\"mean\"?",
        ),
        (
            "size = '1s'\ncolumns.vib = ['p100']",
            "columns.vib[0]",
            "no statistic \"p100\"",
            "did you mean \"p",
        ),
        (
            "size = '1s'\ncolumns.vib = ['entropy']",
            "columns.vib[0]",
            "no statistic \"entropy\"",
            "count, nulls",
        ),
        (
            "size = '1s'\ncolumns.vib = ['basic', 'max']",
            "columns.vib[1]",
            "named \"vib_max\"",
            "leave one out",
        ),
        ("size = '1s'\nmax_keys = 0", "max_keys", "a limit of none", ""),
        ("size = '1s'\nmax_windows = 0", "max_windows", "a limit of none", ""),
        ("size = '1m'\nkey_ttl = '59s'", "key_ttl", "`size` is longer", "at least `size`"),
        ("gap = '1m'\nkey_ttl = '59s'", "key_ttl", "`gap` is longer", "at least `gap`"),
        ("rows = 9\nkey_ttl = '0s'", "key_ttl", "forgotten at once", ""),
        ("size = '1s'\nsized = 1", "", "unknown field `sized`", ""),
    ];
    for (config, path, message, help) in table {
        let problems = build(config, example_schema()).err().unwrap_or_default();
        assert_eq!(problems.len(), 1, "{config}: {problems:?}");
        let problem = &problems[0];
        assert_eq!(problem.path, path, "{config}");
        assert!(problem.message.contains(message), "{config}: {}", problem.message);
        assert!(problem.help.as_deref().unwrap_or_default().contains(help), "{config}: {:?}", problem.help);
    }
    // All at once.
    let many = "size = '1s'\nslide = '2s'\nby = ['x', 'temp']\nmax_keys = 0\ncolumns = { y = ['mean'], vib = ['a', 'b'] }";
    let paths = ["slide", "max_keys", "by[0]", "by[1]", "columns.y", "columns.vib[0]", "columns.vib[1]"];
    let problems = build(many, example_schema()).err().unwrap();
    assert_eq!(problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), paths);

    let clash = Arc::new(Schema::new(vec![
        time_field(),
        Field::new("rows", DataType::Utf8, true),
        Field::new("v_max", DataType::Utf8, true),
        Field::new("v", DataType::Int32, true),
    ]));
    let problems = build("rows = 9\nby = ['rows', 'v_max']\ncolumns.v = ['max']", clash).err().unwrap();
    assert_eq!(
        problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(),
        ["by[0]", "columns.v[0]"]
    );

    let raw = build("size = '1s'", crate::core::schema::raw()).err().unwrap();
    assert!(raw[0].message.contains("no `time` column"), "{raw:?}");
}
