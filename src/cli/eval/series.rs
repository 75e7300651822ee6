//! Labelled series from files: tables of any kind, and the layouts of the corpora.

use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};

use crate::cli::tables::{Wanted, read_table};
use crate::codec::timestamp::parse_rfc3339;
use crate::core::schema::time_type;
use crate::error::{Error, Result};
use crate::eval::nab::window_rows;
use crate::eval::ranking::spans;

/// Microseconds between rows of a series that has no times.
const STEP_US: i64 = 1_000_000;

/// A series, and what is known to be anomalous in it.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// The file, as it is called in its corpus.
    pub name: String,
    /// Event times, µs since 1970.
    pub times: Vec<i64>,
    /// The names of the columns.
    pub names: Vec<String>,
    /// Their values; NaN where there is none.
    pub columns: Vec<Vec<f64>>,
    /// Whether each row is labelled an anomaly.
    pub labels: Vec<bool>,
    /// The labelled windows, as first row and row behind the last.
    pub windows: Vec<(usize, usize)>,
}

impl Series {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    /// The columns as slices.
    pub fn slices(&self) -> Vec<&[f64]> {
        self.columns.iter().map(Vec::as_slice).collect()
    }
}

/// How the columns of a table are understood.
pub struct Layout<'a> {
    /// The column of event times, if there is one.
    pub time: Option<&'a str>,
    /// The column that is not 0 or true for anomalies, if there is one.
    pub label: Option<&'a str>,
    /// Columns that are not looked at.
    pub without: &'a [&'a str],
    /// The columns that are looked at; without any, all numbers.
    pub columns: &'a [String],
    /// What stands between the cells of CSV.
    pub delimiter: u8,
}

/// Reads a table, CSV or Parquet.
///
/// # Errors
/// If the file cannot be read, or lacks a column.
pub fn read(path: &Path, name: &str, layout: &Layout<'_>) -> Result<Series> {
    let mut batches: Vec<RecordBatch> = Vec::new();
    let wanted = Wanted { columns: &[], others: true, delimiter: layout.delimiter };
    read_table(path, &wanted, &mut |batch| {
        batches.push(batch);
        Ok(())
    })?;
    let in_file = |message: String| Error::data(format!("{}: {message}", path.display()));
    let first = batches.first().ok_or_else(|| in_file("there is no row that can be read".to_owned()))?;
    let table = concat_batches(&first.schema(), &batches)?;
    let rows = table.num_rows();
    let column = |name: &str| {
        table.column_by_name(name).ok_or_else(|| in_file(format!("column \"{name}\" does not exist")))
    };
    let times = match layout.time {
        Some(time) => times_of(column(time)?).map_err(|error| in_file(error.message))?,
        None => (0..rows as i64).map(|row| row * STEP_US).collect(),
    };
    let labels = match layout.label {
        Some(label) => {
            numbers(column(label)?)?.iter().map(|value| *value != 0.0 && !value.is_nan()).collect()
        }
        None => vec![false; rows],
    };
    let (mut names, mut columns) = (Vec::new(), Vec::new());
    for (field, array) in table.schema().fields().iter().zip(table.columns()) {
        let name = field.name();
        let asked = layout.columns.is_empty() || layout.columns.contains(name);
        let other = [layout.time, layout.label].contains(&Some(name.as_str()))
            || layout.without.contains(&name.as_str());
        if other || !asked || *field.data_type() == time_type() {
            continue;
        }
        let values = numbers(array)?;
        if values.iter().all(|value| value.is_nan()) && layout.columns.is_empty() {
            continue;
        }
        names.push(name.clone());
        columns.push(values);
    }
    if let Some(missing) = layout.columns.iter().find(|name| !names.contains(name)) {
        return Err(in_file(format!("column \"{missing}\" does not exist")));
    }
    if columns.is_empty() {
        return Err(in_file("there is no column of numbers".to_owned()));
    }
    let windows = spans(&labels);
    Ok(Series { name: name.to_owned(), times, names, columns, labels, windows })
}

fn numbers(array: &ArrayRef) -> Result<Vec<f64>> {
    let array = match array.data_type() {
        // Through integers, since booleans do not become floats.
        DataType::Boolean => cast(&cast(array, &DataType::Int64)?, &DataType::Float64)?,
        _ => cast(array, &DataType::Float64)?,
    };
    Ok(array.as_primitive::<Float64Type>().iter().map(|value| value.unwrap_or(f64::NAN)).collect())
}

fn times_of(array: &ArrayRef) -> Result<Vec<i64>> {
    let bad = |row: usize| Error::data(format!("row {} has no time that can be read", row + 1));
    if let Some(texts) = array.as_string_opt::<i32>() {
        let parse = |row: usize| parse_rfc3339(texts.value(row).trim().as_bytes()).ok_or_else(|| bad(row));
        return (0..texts.len()).map(parse).collect();
    }
    match array.data_type() {
        DataType::Timestamp(..) => {
            let array = cast(array, &time_type())?;
            let times = array.as_primitive::<TimestampMicrosecondType>();
            (0..times.len())
                .map(|row| times.is_valid(row).then(|| times.value(row)).ok_or_else(|| bad(row)))
                .collect()
        }
        // Numbers without a unit only say the order.
        _ => {
            let array = cast(array, &DataType::Int64)?;
            let times = array.as_primitive::<Int64Type>();
            (0..times.len())
                .map(|row| {
                    times
                        .is_valid(row)
                        .then(|| times.value(row).saturating_mul(STEP_US))
                        .ok_or_else(|| bad(row))
                })
                .collect()
        }
    }
}

/// The files below a folder whose names end so, by name.
///
/// # Errors
/// If a folder cannot be read.
pub fn files_below(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let failed =
        |folder: &Path, error: &std::io::Error| Error::io(format!("reading {}", folder.display()), error);
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| failed(&folder, &error))? {
            let path = entry.map_err(|error| failed(&folder, &error))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The path below a folder, with `/` on every system.
pub fn name_below(path: &Path, folder: &Path) -> String {
    let below = path.strip_prefix(folder).unwrap_or(path);
    below.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The Numenta Anomaly Benchmark: `data/*/*.csv` with `timestamp` and `value`, and `labels/combined_windows.json`.
///
/// # Errors
/// If files cannot be read, or one has no labels.
pub fn nab(folder: &Path) -> Result<Vec<Series>> {
    let path = folder.join("labels/combined_windows.json");
    let failed = |what: &dyn std::fmt::Display| Error::data(format!("{}: {what}", path.display()));
    let bytes =
        std::fs::read(&path).map_err(|error| Error::io(format!("reading {}", path.display()), &error))?;
    let labels: std::collections::BTreeMap<String, Vec<[String; 2]>> =
        serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    let layout = Layout { time: Some("timestamp"), label: None, without: &[], columns: &[], delimiter: b',' };
    let data = folder.join("data");
    let read_labelled = |path: PathBuf| {
        let name = name_below(&path, &data);
        let windows = labels.get(&name).ok_or_else(|| failed(&format!("there are no labels for {name}")))?;
        let mut series = read(&path, &name, &layout)?;
        for [from, to] in windows {
            let time = |text: &str| {
                parse_rfc3339(text.as_bytes()).ok_or_else(|| failed(&format!("`{text}` is not a time")))
            };
            let (from, to) = window_rows(&series.times, time(from)?, time(to)?);
            if from < to {
                series.windows.push((from, to));
                series.labels[from..to].fill(true);
            }
        }
        series.windows.sort_unstable();
        Ok(series)
    };
    files_below(&data, "csv")?.into_iter().map(read_labelled).collect()
}

/// The Skoltech Anomaly Benchmark: `;` between cells, `datetime`, and the labels `anomaly` and `changepoint`; with the
/// rows of change points beside each series. The recording without anomalies is left out.
///
/// # Errors
/// If files cannot be read.
pub fn skab(folder: &Path) -> Result<Vec<(Series, Vec<bool>)>> {
    let mut found = Vec::new();
    for path in files_below(folder, "csv")? {
        let name = name_below(&path, folder);
        if name.starts_with("anomaly-free") {
            continue;
        }
        let layout = |label, other| Layout {
            time: Some("datetime"),
            label: Some(label),
            without: if other { &["anomaly"] } else { &["changepoint"] },
            columns: &[],
            delimiter: b';',
        };
        let series = read(&path, &name, &layout("anomaly", false))?;
        let changes = read(&path, &name, &layout("changepoint", true))?.labels;
        found.push((series, changes));
    }
    Ok(found)
}

/// The streams of the touchstone benchmark: Parquet with `timestamp` and `is_anomaly`. Rows keep the order of the file.
///
/// # Errors
/// If files cannot be read.
pub fn streams(folder: &Path) -> Result<Vec<Series>> {
    let layout = Layout {
        time: None,
        label: Some("is_anomaly"),
        without: &["timestamp"],
        columns: &[],
        delimiter: b',',
    };
    let files = files_below(folder, "parquet")?;
    files.iter().map(|path| read(path, &name_below(path, folder), &layout)).collect()
}

/// One file of the Tennessee Eastman process: numbers with white space between, a row per sample; the one that is stored
/// the other way round is turned.
///
/// # Errors
/// If the file cannot be read, or does not have 52 variables.
pub fn tep(path: &Path) -> Result<Vec<Vec<f64>>> {
    const VARIABLES: usize = 52;
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::io(format!("reading {}", path.display()), &error))?;
    let parse =
        |line: &str| -> Option<Vec<f64>> { line.split_whitespace().map(|cell| cell.parse().ok()).collect() };
    let rows: Option<Vec<Vec<f64>>> =
        text.lines().filter(|line| !line.trim().is_empty()).map(parse).collect();
    let rows = rows.ok_or_else(|| Error::data(format!("{}: not a table of numbers", path.display())))?;
    let turned = rows.len() == VARIABLES && rows.iter().all(|row| row.len() == rows[0].len());
    if turned {
        return Ok(rows);
    }
    match rows.iter().all(|row| row.len() == VARIABLES) {
        true => Ok((0..VARIABLES).map(|column| rows.iter().map(|row| row[column]).collect()).collect()),
        false => Err(Error::data(format!("{}: not 52 variables", path.display()))),
    }
}
