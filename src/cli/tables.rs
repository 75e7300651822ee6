//! Tables in files for the commands that work on them: CSV and Parquet in; NDJSON, CSV and Parquet out.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use clap::ValueEnum;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::codec::csv::{CsvDecoder, CsvFormat, header_names};
use crate::codec::fields::{Field, FieldKind, RowFormat, TimeField};
use crate::codec::payload::{BadPayload, PAYLOAD_BYTES_MAX};
use crate::codec::records::{Ending, Records};
use crate::codec::rows::Rows;
use crate::codec::text_csv::CsvWriter;
use crate::codec::text_ndjson::NdjsonWriter;
use crate::codec::timestamp::TimeUnit;
use crate::core::schema::TIME;
use crate::error::{Error, Kind, Result};
use crate::registry::nearest;

/// Rows per batch when reading.
const BATCH_ROWS: usize = 8192;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Rows per row group when writing Parquet.
const ROW_GROUP_ROWS: usize = 64 << 10;

/// What rows are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet, zstd-compressed.
    Parquet,
}

/// What to read of a file.
pub struct Wanted<'a> {
    /// The columns that must be there, as numbers.
    pub columns: &'a [String],
    /// Whether the other columns, and the time, are read too; those of CSV as text.
    pub others: bool,
    /// The byte between the cells of CSV.
    pub delimiter: u8,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableReport {
    /// Rows handed on.
    pub rows: u64,
    /// Rows of CSV that cannot be read.
    pub bad_rows: u64,
    /// The first of them, counted from 1 without the header, and why.
    pub first_bad: Option<(u64, &'static str)>,
}

/// Reads a CSV file with a header, or a Parquet file, batch by batch, in order. Which of the two it is, its first
/// bytes tell.
///
/// # Errors
/// If the file cannot be read or lacks a column, or what `each` fails with.
pub fn read_table(
    path: &Path,
    wanted: &Wanted<'_>,
    each: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<TableReport> {
    let failed = |error: std::io::Error| Error::io(format!("reading {}", path.display()), &error);
    let mut file = File::open(path).map_err(failed)?;
    let mut head = Vec::new();
    (&file).take(4).read_to_end(&mut head).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let outcome = match head.as_slice() {
        b"PAR1" => read_parquet(file, wanted, each),
        _ => read_csv(file, wanted, each).map_err(|error| match error {
            ReadError::Io(error) => failed(error),
            ReadError::Other(error) => error,
        }),
    };
    outcome.map_err(|error| match error.kind {
        Kind::Data | Kind::Config => {
            Error { message: format!("{}: {}", path.display(), error.message), ..error }
        }
        _ => error,
    })
}

fn read_parquet(
    file: File,
    wanted: &Wanted<'_>,
    each: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<TableReport> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| parquet_error(&error))?;
    let schema = builder.schema().clone();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    check_columns(wanted.columns, &names)?;
    for name in wanted.columns {
        let data_type = schema.field_with_name(name)?.data_type();
        if !(data_type.is_integer() || data_type.is_floating()) {
            return Err(Error::data(format!("column \"{name}\" is {data_type}, not a number")));
        }
    }
    let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| parquet_error(&error))?;
    let mut report = TableReport::default();
    for batch in reader {
        let batch = batch?;
        report.rows += batch.num_rows() as u64;
        each(batch)?;
    }
    Ok(report)
}

fn parquet_error(error: &ParquetError) -> Error {
    Error::data(format!("not readable as Parquet: {error}"))
}

fn check_columns(wanted: &[String], there: &[&str]) -> Result<()> {
    for name in wanted {
        if !there.contains(&name.as_str()) {
            let hint = match nearest(name, there.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the columns are: {}", there.join(", ")),
            };
            return Err(Error::data(format!("column \"{name}\" does not exist; {hint}")));
        }
    }
    Ok(())
}

enum ReadError {
    Io(std::io::Error),
    Other(Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// A CSV file on its way into batches.
struct CsvTable {
    decoder: CsvDecoder,
    rows: Rows,
    schema: SchemaRef,
    /// Whether the first column of the rows is a time of the file.
    timed: bool,
    records: u64,
    report: TableReport,
}

impl CsvTable {
    fn new(header: &[u8], wanted: &Wanted<'_>) -> Result<Self> {
        let bare = header.strip_prefix(b"\xef\xbb\xbf").unwrap_or(header);
        let names = header_names(bare, wanted.delimiter).map_err(|reason| {
            Error::data(format!("the CSV header is {}; it must be one line of column names", reason.label()))
        })?;
        let there: Vec<&str> = names.iter().map(String::as_str).collect();
        check_columns(wanted.columns, &there)?;
        let is_wanted = |name: &String| wanted.columns.contains(name);
        let fields = names.iter().filter(|name| (wanted.others || is_wanted(name)) && *name != TIME);
        let fields: Vec<Field> = fields
            .map(|name| Field::new(name, if is_wanted(name) { FieldKind::F64 } else { FieldKind::Text }))
            .collect();
        let timed = wanted.others && there.contains(&TIME);
        let time = match timed {
            true => TimeField::At { path: vec![TIME.to_owned()], unit: TimeUnit::Auto },
            false => TimeField::Arrival,
        };
        let format = RowFormat::new(fields, time);
        let csv = CsvFormat { delimiter: wanted.delimiter, columns: names, ..CsvFormat::default() };
        let schema = Schema::new(format.arrow_fields().split_off(usize::from(!timed)));
        Ok(Self {
            decoder: CsvDecoder::new(&format, &csv)?,
            rows: Rows::new(&format),
            schema: Arc::new(schema),
            timed,
            records: 0,
            report: TableReport::default(),
        })
    }

    fn push(&mut self, record: &[u8]) {
        self.records += 1;
        match self.decoder.decode(record, 0, &mut self.rows) {
            Ok(rows) => self.report.rows += rows as u64,
            Err(BadPayload { reason, .. }) => {
                self.report.bad_rows += 1;
                self.report.first_bad.get_or_insert((self.records, reason.label()));
            }
        }
    }

    fn flush(&mut self, rows_min: usize, each: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        if self.rows.len() < rows_min {
            return Ok(());
        }
        let columns = self.rows.finish()?.split_off(usize::from(!self.timed));
        each(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

fn read_csv(
    mut input: impl Read,
    wanted: &Wanted<'_>,
    each: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<TableReport, ReadError> {
    let mut records = Records::new(Ending::CsvRecord { delimiter: wanted.delimiter }, PAYLOAD_BYTES_MAX);
    let mut table: Option<CsvTable> = None;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match input.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        records.push(chunk.get(..read).unwrap_or_default());
        while let Some(record) = if read > 0 { records.next_record() } else { records.last_record() } {
            match &mut table {
                None => table = Some(CsvTable::new(record, wanted)?),
                Some(table) => {
                    table.push(record);
                    table.flush(BATCH_ROWS, each)?;
                }
            }
        }
        if read == 0 {
            break;
        }
    }
    let mut table =
        table.ok_or_else(|| Error::data("the file is empty; its first line must name the columns"))?;
    table.flush(1, each)?;
    if records.too_long() > 0 {
        table.report.bad_rows += records.too_long();
        table.report.first_bad.get_or_insert((0, "too_large"));
    }
    Ok(table.report)
}

/// Writes rows of one format. CSV and Parquet take the columns of the first batch; others are refused.
pub struct TableWriter {
    format: TableFormat,
    ndjson: NdjsonWriter,
    csv: CsvWriter,
    /// Parquet's writer takes `out` when it begins, which is when the columns are known.
    parquet: Option<ArrowWriter<Box<dyn Write + Send>>>,
    out: Option<Box<dyn Write + Send>>,
    /// What the output is called in messages.
    name: String,
    schema: Option<SchemaRef>,
    buffer: Vec<u8>,
    closed: bool,
}

impl TableWriter {
    /// Opens a file, or standard output without a path.
    ///
    /// # Errors
    /// If the file cannot be made, or Parquet would go to a terminal.
    pub fn open(format: TableFormat, path: Option<&Path>) -> Result<Self> {
        match path {
            Some(path) => {
                let name = path.display().to_string();
                let file =
                    File::create(path).map_err(|error| Error::io(format!("creating {name}"), &error))?;
                Ok(Self::new(format, Box::new(BufWriter::new(file)), name))
            }
            None if format == TableFormat::Parquet && std::io::stdout().is_terminal() => {
                Err(Error::config("Parquet is not for terminals; name a file with --output"))
            }
            None => Ok(Self::new(format, Box::new(std::io::stdout()), "standard output".to_owned())),
        }
    }

    fn new(format: TableFormat, out: Box<dyn Write + Send>, name: String) -> Self {
        Self {
            format,
            ndjson: NdjsonWriter::new(),
            csv: CsvWriter::new(b','),
            parquet: None,
            out: Some(out),
            name,
            schema: None,
            buffer: Vec::new(),
            closed: false,
        }
    }

    /// Whether the reader at the other end has had enough (`| head`): nothing more needs to be written.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes rows.
    ///
    /// # Errors
    /// Of kind `Data` if the rows have other columns than those before, or ones that the format cannot carry:
    /// nothing of them is then written, and others may follow. Of other kinds if writing fails.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let first = self.schema.is_none();
        if let Some(schema) = &self.schema
            && self.format != TableFormat::Ndjson
            && *schema != batch.schema()
        {
            return Err(Error::data(format!(
                "the rows have other columns than the first ones ({} for {}); NDJSON could hold both",
                names(&batch.schema()),
                names(schema)
            )));
        }
        match self.format {
            TableFormat::Parquet => self.write_parquet(batch)?,
            TableFormat::Ndjson => self.ndjson.write(batch, &mut self.buffer)?,
            TableFormat::Csv => {
                if first {
                    self.csv.write_header(&batch.schema(), &mut self.buffer);
                }
                if let Err(error) = self.csv.write(batch, &mut self.buffer) {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
        self.schema.get_or_insert_with(|| batch.schema());
        self.write_out()
    }

    fn write_out(&mut self) -> Result<()> {
        let written = match &mut self.out {
            Some(out) if !self.closed => out.write_all(&self.buffer),
            _ => Ok(()),
        };
        self.buffer.clear();
        self.note(written)
    }

    fn write_parquet(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.parquet.is_none()
            && let Some(out) = self.out.take()
        {
            let level = ZstdLevel::try_new(3).map_err(|error| self.failed(&error))?;
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(level))
                .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                .build();
            let writer = ArrowWriter::try_new(out, batch.schema(), Some(properties));
            self.parquet = Some(writer.map_err(|error| Error::data(format!("as Parquet: {error}")))?);
        }
        match &mut self.parquet {
            Some(writer) => writer.write(batch).map_err(|error| self.failed(&error)),
            None => Ok(()),
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// If that fails. A reader that went away is no failure.
    pub fn finish(mut self) -> Result<()> {
        if let Some(writer) = self.parquet.take() {
            self.out = Some(writer.into_inner().map_err(|error| self.failed(&error))?);
        }
        let flushed = match &mut self.out {
            Some(out) if !self.closed => out.flush(),
            _ => Ok(()),
        };
        self.note(flushed)
    }

    fn note(&mut self, outcome: std::io::Result<()>) -> Result<()> {
        match outcome {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            outcome => outcome.map_err(|error| Error::io(format!("writing {}", self.name), &error)),
        }
    }

    fn failed(&self, error: &ParquetError) -> Error {
        Error::new(Kind::Io, format!("writing {}: {error}", self.name))
    }
}

fn names(schema: &Schema) -> String {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    names.join(", ")
}

/// Refuses to write over what is read.
///
/// # Errors
/// Names the file.
pub fn check_output(output: Option<&Path>, inputs: &[PathBuf]) -> Result<()> {
    let Some(output) = output.and_then(|output| output.canonicalize().ok()) else { return Ok(()) };
    match inputs.iter().find(|input| input.canonicalize().is_ok_and(|input| input == output)) {
        Some(input) => Err(Error::config(format!("{} is read and cannot be the output", input.display()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Float64Type};

    fn read(path: &Path, columns: &[&str], others: bool) -> Result<(Vec<RecordBatch>, TableReport)> {
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Wanted { columns: &columns, others, delimiter: b',' };
        let mut batches = Vec::new();
        let report = read_table(path, &wanted, &mut |batch| {
            batches.push(batch);
            Ok(())
        })?;
        Ok((batches, report))
    }

    #[test]
    fn csv_gives_numbers_and_says_what_it_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.csv");
        let mut text = "\u{feff}time,device,temp,\"rpm, motor\"\r\n".to_owned();
        text += "2024-01-01T00:00:00Z,a,1.5,3\n1704067201,\"b\"\"c\",,4\nx,d,2,5\n1704067202,e,no,6\n";
        text += "1704067203,f,-7e1,8";
        std::fs::write(&path, text).unwrap();
        let (batches, report) = read(&path, &["rpm, motor", "temp"], false).unwrap();
        assert_eq!(report, TableReport { rows: 4, bad_rows: 1, first_bad: Some((4, "wrong_type")) });
        let [batch] = &batches[..] else { panic!("one batch") };
        assert_eq!(names(&batch.schema()), "temp, rpm, motor");
        let temps = batch.column(0).as_primitive::<Float64Type>().iter().collect::<Vec<_>>();
        assert_eq!(temps, [Some(1.5), None, Some(2.0), Some(-70.0)]);

        let (batches, report) = read(&path, &["temp"], true).unwrap();
        assert_eq!((report.rows, report.bad_rows, report.first_bad), (3, 2, Some((3, "bad_time"))));
        assert_eq!(names(&batches[0].schema()), "time, device, temp, rpm, motor");
        assert_eq!(batches[0].column(1).as_string::<i32>().value(1), "b\"c");
        assert_eq!(*batches[0].column(3).data_type(), DataType::Utf8);

        let error = read(&path, &["tmep"], false).unwrap_err().message;
        assert!(error.ends_with("a.csv: column \"tmep\" does not exist; did you mean \"temp\"?"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert!(read(&path, &["temp"], false).unwrap_err().message.contains("the file is empty"));
        let error = read(&directory.path().join("gone"), &[], false).unwrap_err().message;
        assert!(error.starts_with("reading ") && error.contains("gone"), "{error}");
    }

    fn table(rows: i64) -> RecordBatch {
        RecordBatch::try_from_iter([
            ("seq", Arc::new((0..rows).collect::<Int64Array>()) as ArrayRef),
            ("temp", Arc::new((0..rows).map(|row| row as f64 / 3.0).collect::<Float64Array>())),
            (
                "note",
                Arc::new((0..rows).map(|row| (row % 2 == 0).then_some("even")).collect::<StringArray>()),
            ),
        ])
        .unwrap()
    }

    #[test]
    fn what_is_written_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let whole = table(20_000);
        for format in [TableFormat::Csv, TableFormat::Parquet] {
            let path = directory.path().join("out");
            let mut writer = TableWriter::open(format, Some(&path)).unwrap();
            for start in (0..20_000).step_by(7_000) {
                writer.write(&whole.slice(start, 7_000.min(20_000 - start))).unwrap();
            }
            let other = RecordBatch::try_from_iter([("x", Arc::clone(whole.column(0)))]).unwrap();
            let error = writer.write(&other).unwrap_err();
            assert!(error.kind == Kind::Data && error.message.contains("(x for seq, temp, note)"), "{error}");
            writer.finish().unwrap();
            let (batches, report) = read(&path, &["temp", "seq"], true).unwrap();
            assert_eq!((report.rows, report.bad_rows), (20_000, 0));
            let read = concat_batches(&batches[0].schema(), &batches).unwrap();
            assert_eq!(read.column(1), whole.column(1), "{format:?}");
            assert_eq!(read.column(2), whole.column(2), "{format:?}");
            check_output(Some(&path), std::slice::from_ref(&path)).unwrap_err();
            check_output(Some(&path), &[directory.path().join("other")]).unwrap();
        }
        let path = directory.path().join("out");
        let error = read(&path, &["note"], true).unwrap_err().message;
        assert!(error.ends_with("column \"note\" is Utf8, not a number"), "{error}");
        std::fs::write(&path, b"PAR1 and then nothing of the kind").unwrap();
        assert!(read(&path, &["note"], true).unwrap_err().message.contains("not readable as Parquet"));
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_reader_that_has_had_enough_is_no_failure() {
        let mut writer = TableWriter::new(TableFormat::Ndjson, Box::new(Closed), "pipe".to_owned());
        assert!(!writer.is_closed());
        writer.write(&table(3)).unwrap();
        assert!(writer.is_closed());
        writer.write(&table(3)).unwrap();
        writer.finish().unwrap();
    }
}
