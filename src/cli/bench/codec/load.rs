//! Tables for `tidegate bench codec`: CSV, white-space-separated numbers, NDJSON, Parquet; or a simulated plant.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::Set;
use crate::codec::timestamp::parse_rfc3339;
use crate::error::{Error, Result};

/// Directories in directories are followed so deep.
const DEPTH_MAX: usize = 8;

/// One set for every directory with tables, and one for every file that was named itself.
pub(super) fn sets(paths: &[PathBuf], rows_max: usize) -> Result<Vec<Set>> {
    let mut files: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in paths {
        if path.is_dir() {
            collect(path, DEPTH_MAX, &mut files)?;
        } else {
            files.entry(path.clone()).or_default().push(path.clone());
        }
    }
    let mut sets = Vec::new();
    for (place, mut files) in files {
        files.sort();
        let mut rows = 0;
        let mut tables = Vec::new();
        for file in files {
            if rows >= rows_max {
                break;
            }
            let Some(table) = table(&file)? else { continue };
            let table = table.slice(0, table.num_rows().min(rows_max - rows));
            rows += table.num_rows();
            tables.extend((table.num_rows() > 0).then_some(table));
        }
        let name = place.file_name().unwrap_or(place.as_os_str()).to_string_lossy().into_owned();
        if !tables.is_empty() {
            sets.push(Set { name, tables });
        }
    }
    Ok(sets)
}

fn collect(directory: &Path, depth: usize, files: &mut BTreeMap<PathBuf, Vec<PathBuf>>) -> Result<()> {
    let failed = |error: std::io::Error| Error::io(format!("reading {}", directory.display()), &error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if path.extension().is_some_and(|kind| {
            ["csv", "dat", "txt", "ndjson", "jsonl", "parquet"].iter().any(|known| kind == *known)
        }) {
            files.entry(directory.to_owned()).or_default().push(path);
        }
    }
    Ok(())
}

/// The table in a file; none if there are no numbers in it.
fn table(path: &Path) -> Result<Option<RecordBatch>> {
    let placed = |message: String| Error::data(format!("{}: {message}", path.display()));
    if path.extension().is_some_and(|kind| kind == "parquet") {
        let file = std::fs::File::open(path).map_err(|error| Error::io(path.display(), &error))?;
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| placed(error.to_string()))?;
        let schema = reader.schema().clone();
        let batches: Vec<RecordBatch> = reader
            .build()
            .map_err(|error| placed(error.to_string()))?
            .collect::<Result<_, _>>()
            .map_err(|error| placed(error.to_string()))?;
        return Ok(Some(concat_batches(&schema, &batches)?));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io(path.display(), &error))?;
    let text = String::from_utf8_lossy(&bytes);
    let columns = if text.trim_start().starts_with('{') { ndjson(&text) } else { separated(&text) };
    if !columns.iter().any(|(_, cells)| cells.iter().any(|cell| cell.parse::<f64>().is_ok())) {
        return Ok(None);
    }
    let columns = columns.into_iter().map(|(name, cells)| (name, column(&cells), true));
    Ok(Some(RecordBatch::try_from_iter_with_nullable(columns)?))
}

type Columns = Vec<(String, Vec<String>)>;

fn ndjson(text: &str) -> Columns {
    let mut columns: indexmap::IndexMap<String, Vec<String>> = indexmap::IndexMap::new();
    let mut rows = 0;
    for line in text.lines() {
        let Ok(serde_json::Value::Object(object)) = serde_json::from_str(line) else { continue };
        for (name, value) in object {
            let cells = columns.entry(name).or_default();
            cells.resize(rows, String::new());
            cells.push(match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Null => String::new(),
                other => other.to_string(),
            });
        }
        rows += 1;
    }
    columns.values_mut().for_each(|cells| cells.resize(rows, String::new()));
    columns.into_iter().collect()
}

/// Cells between `;`, `,` or white space. A table of numbers that is much wider than long lies on its side.
fn separated(text: &str) -> Columns {
    let first = text.lines().next().unwrap_or_default();
    let separator = [';', ','].into_iter().find(|separator| first.contains(*separator));
    let cells = |line: &str| -> Vec<String> {
        match separator {
            Some(separator) => line.split(separator).map(|cell| cell.trim().to_owned()).collect(),
            None => line.split_whitespace().map(str::to_owned).collect(),
        }
    };
    let mut rows: Vec<Vec<String>> = text.lines().filter(|line| !line.trim().is_empty()).map(cells).collect();
    let headed = rows.first().is_some_and(|row| row.iter().all(|cell| cell.parse::<f64>().is_err()));
    let names = if headed { Some(rows.remove(0)) } else { None };
    let mut width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let on_its_side = names.is_none() && separator.is_none() && width > 2 * rows.len();
    if on_its_side {
        width = rows.len();
        let length = rows.iter().map(Vec::len).min().unwrap_or(0);
        rows = (0..length).map(|at| rows.iter().map(|row| row[at].clone()).collect()).collect();
    }
    let mut columns: Columns = (0..width)
        .map(|at| {
            let name = names.as_ref().and_then(|names| names.get(at)).cloned();
            (name.unwrap_or_else(|| format!("c{}", at + 1)), Vec::with_capacity(rows.len()))
        })
        .collect();
    for row in rows {
        let mut cells = row.into_iter();
        columns.iter_mut().for_each(|(_, column)| column.push(cells.next().unwrap_or_default()));
    }
    columns
}

/// Times, numbers, or texts. An empty cell is a null.
fn column(cells: &[String]) -> ArrayRef {
    let there = || cells.iter().filter(|cell| !cell.is_empty());
    let time = |cell: &String| parse_rfc3339(cell.as_bytes());
    if there().next().is_some() && there().all(|cell| time(cell).is_some()) {
        let times: TimestampMicrosecondArray = cells.iter().map(time).collect();
        return Arc::new(times.with_timezone("UTC"));
    }
    if there().all(|cell| cell.parse::<f64>().is_ok()) {
        return Arc::new(cells.iter().map(|cell| cell.parse().ok()).collect::<Float64Array>());
    }
    Arc::new(cells.iter().map(|cell| (!cell.is_empty()).then_some(cell.as_str())).collect::<StringArray>())
}

/// A plant of five sensors for whoever has no data at hand: decimals that swing, walk, and jump. It is no substitute.
pub(super) fn simulated() -> Vec<Set> {
    let rows = 20_000i64;
    let mut state = 1u64;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    let mut walk = 1000.0;
    let round = |value: f64, places: i32| (value * 10f64.powi(places)).round() / 10f64.powi(places);
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); 5];
    for row in 0..rows {
        let at = row as f64;
        walk += noise();
        let values = [
            round(21.0 + 4.0 * (at / 900.0).sin() + 0.05 * noise(), 2),
            round(0.3 + 0.02 * noise() + 0.01 * (at / 7.0).sin(), 5),
            round(walk, 1),
            if row / 500 % 2 == 0 { 1450.0 } else { 0.0 },
            round(230.0 + 2.0 * noise(), 3),
        ];
        columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
    }
    let times: TimestampMicrosecondArray =
        (0..rows).map(|row| Some(1_700_000_000_000_000 + row * 100_000)).collect();
    let names = ["temp", "vib", "flow", "rpm", "voltage"];
    let floats = names.into_iter().zip(columns);
    let all = std::iter::once(("time", Arc::new(times.with_timezone("UTC")) as ArrayRef))
        .chain(floats.map(|(name, values)| (name, Arc::new(Float64Array::from(values)) as ArrayRef)));
    match RecordBatch::try_from_iter(all) {
        Ok(table) => vec![Set { name: "simulated plant".to_owned(), tables: vec![table] }],
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_all_kinds_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        put("a.csv", "datetime;x;note\n2020-03-09 15:56:30;0.5;ok\n2020-03-09 15:56:31;;bad\n");
        put("b.dat", " 1.0e+00  2.0e+00  3.0 4.0 5.0\n 6 7 8 9 10\n");
        put("c.ndjson", "{\"t\":\"2020-01-01T00:00:00Z\",\"v\":1}\n{\"v\":2.5,\"w\":3}\n");
        put("d.txt", "no numbers here\n");
        let sets = sets(&[directory.path().to_owned()], 1000).unwrap();
        assert_eq!(sets.len(), 1);
        let shapes: Vec<_> =
            sets[0].tables.iter().map(|table| (table.num_rows(), table.num_columns())).collect();
        assert_eq!(shapes, [(2, 3), (5, 2), (2, 3)]);
        let types: Vec<String> =
            sets[0].tables[0].columns().iter().map(|column| column.data_type().to_string()).collect();
        assert_eq!(types, ["Timestamp(µs, \"UTC\")", "Float64", "Utf8"]);
        assert_eq!(sets[0].tables[0].column(1).null_count(), 1);
    }
}
