//! Parquet files as columns: `time` first, tags as dictionaries, integers and numbers of 64 bits.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::compute::{cast, filter_record_batch, is_not_null};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit as ArrowUnit};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::pace::TIME_UNKNOWN;
use super::reader::Portion;
use crate::codec::timestamp::{TIME_US_END, TIME_US_MIN, TimeUnit, parse_rfc3339};
use crate::core::schema::{TIME, tag_type, time_field, time_type, type_name};
use crate::error::{Error, Kind, Result};
use crate::registry::{BatchLimits, Checked, Problem};

/// The columns of a Parquet file, given its bytes.
///
/// # Errors
/// If it is no Parquet file.
pub fn schema_of(bytes: Vec<u8>) -> Result<SchemaRef> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes))
        .map_err(|error| Error::data(format!("this is no Parquet file that can be read: {error}")))?;
    Ok(reader.schema().clone())
}

/// How the columns of a file become those of a batch.
#[derive(Debug, Clone)]
pub struct ColumnPlan {
    /// The columns of a batch.
    pub schema: SchemaRef,
    /// What is left out, in words.
    pub left_out: Vec<String>,
    /// The name of the time column in the file.
    time: String,
    unit: TimeUnit,
    tags: Vec<String>,
    /// Which column of the file each column after `time` is.
    sources: Vec<usize>,
    time_index: usize,
}

impl ColumnPlan {
    /// Finds the columns in a file's schema.
    ///
    /// # Errors
    /// A column that is not there, or a time that cannot be read as one.
    pub fn new(file: &Schema, time: Option<&str>, unit: TimeUnit, tags: &[String]) -> Checked<Self> {
        let mut problems = Vec::new();
        let time = time.unwrap_or(TIME).to_owned();
        let time_index = file.index_of(&time).ok();
        match time_index.map(|index| file.field(index).data_type()) {
            Some(kind) if !is_time_like(kind) => problems.push(Problem::new(
                "time",
                format!("column \"{time}\" is {}, which cannot be a time", type_name(kind)),
            )),
            Some(_) => {}
            None => problems.push(Problem::no_column("time", &time, file)),
        }
        for (index, tag) in tags.iter().enumerate() {
            match file.field_with_name(tag) {
                Ok(field) if is_text(field.data_type()) => {}
                Ok(field) => problems.push(Problem::new(
                    format!("tags[{index}]"),
                    format!("column \"{tag}\" is {}, a tag is text", type_name(field.data_type())),
                )),
                Err(_) => problems.push(Problem::no_column(format!("tags[{index}]"), tag, file)),
            }
        }
        let (mut fields, mut sources, mut left_out) = (vec![time_field()], Vec::new(), Vec::new());
        for (index, field) in file.fields().iter().enumerate().filter(|(index, _)| Some(*index) != time_index)
        {
            let name = field.name();
            match column_type(field.data_type(), tags.contains(name)) {
                Some(_) if fields.iter().any(|known| known.name() == name) => problems.push(
                    Problem::new("time", format!("the file has another column \"{name}\""))
                        .help("the time of every row is in a column of that name; rename one of them"),
                ),
                Some(data_type) => {
                    fields.push(Field::new(name, data_type, true));
                    sources.push(index);
                }
                None => left_out.push(format!(
                    "the column \"{name}\" is left out: values of type {} are not supported",
                    field.data_type()
                )),
            }
        }
        match (problems.is_empty(), time_index) {
            (true, Some(time_index)) => Ok(Self {
                schema: Arc::new(Schema::new(fields)),
                left_out,
                time,
                unit,
                tags: tags.to_vec(),
                sources,
                time_index,
            }),
            _ => Err(problems),
        }
    }

    /// The same for a further file, which must give the same columns.
    fn of_file(&self, file: &Schema, name: &str) -> Result<Self> {
        let plan = Self::new(file, Some(&self.time), self.unit, &self.tags).map_err(|problems| {
            let words: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            Error::data(format!("{name}: {}", words.join("; ")))
        })?;
        if plan.schema == self.schema {
            return Ok(plan);
        }
        let words = |schema: &Schema| {
            let columns = schema.fields().iter();
            columns
                .map(|field| format!("{} {}", field.name(), field.data_type()))
                .collect::<Vec<_>>()
                .join(", ")
        };
        Err(Error::data(format!(
            "{name} has other columns than the first file: {}; expected {}",
            words(&plan.schema),
            words(&self.schema)
        )))
    }

    fn convert(&self, batch: &RecordBatch) -> Result<(Vec<ArrayRef>, TimestampMicrosecondArray)> {
        let row_times = times(batch.column(self.time_index), self.unit)?;
        let fields = self.schema.fields().iter().skip(1);
        let columns = self.sources.iter().zip(fields).map(|(source, field)| {
            let column = batch.column(*source);
            Ok(match column.data_type() {
                kind if kind == field.data_type() => Arc::clone(column),
                _ if *field.data_type() == time_type() => Arc::new(times(column, self.unit)?),
                _ => cast(column, field.data_type())?,
            })
        });
        Ok((columns.collect::<Result<Vec<_>>>()?, row_times))
    }
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

fn is_time_like(kind: &DataType) -> bool {
    is_text(kind)
        || kind.is_integer()
        || matches!(
            kind,
            DataType::Timestamp(..)
                | DataType::Date32
                | DataType::Date64
                | DataType::Float32
                | DataType::Float64
        )
}

/// The type that a column of a file gets; `None` for what no operator takes.
fn column_type(kind: &DataType, tag: bool) -> Option<DataType> {
    Some(match kind {
        _ if tag => tag_type(),
        DataType::Dictionary(_, value) if is_text(value) => tag_type(),
        DataType::Dictionary(_, value) => column_type(value, false)?,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Boolean => DataType::Boolean,
        DataType::Float32 => DataType::Float32,
        DataType::Float16 | DataType::Float64 | DataType::Decimal128(..) => DataType::Float64,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => time_type(),
        kind if kind.is_integer() => DataType::Int64,
        _ => return None,
    })
}

/// A column as times; null where there is none, or none within the supported years.
fn times(column: &ArrayRef, unit: TimeUnit) -> Result<TimestampMicrosecondArray> {
    let kind = column.data_type();
    let read: Vec<Option<i64>> = if is_text(kind) {
        let texts = cast(column, &DataType::Utf8)?;
        texts.as_string::<i32>().iter().map(|text| parse_rfc3339(text?.as_bytes())).collect()
    } else if kind.is_floating() {
        let numbers = cast(column, &DataType::Float64)?;
        let numbers: &Float64Array = numbers.as_primitive::<Float64Type>();
        numbers.iter().map(|number| from_float(number?, unit)).collect()
    } else {
        // Times are whole numbers of a unit since 1970 UTC; a time zone only says how to show them.
        let (factor, unit) = match kind {
            DataType::Timestamp(ArrowUnit::Second, _) => (1, TimeUnit::Seconds),
            DataType::Timestamp(ArrowUnit::Millisecond, _) | DataType::Date64 => (1, TimeUnit::Milliseconds),
            DataType::Timestamp(ArrowUnit::Microsecond, _) => (1, TimeUnit::Microseconds),
            DataType::Timestamp(ArrowUnit::Nanosecond, _) => (1, TimeUnit::Nanoseconds),
            DataType::Date32 => (86_400, TimeUnit::Seconds),
            _ => (1, unit),
        };
        let numbers = cast(column, &DataType::Int64)?;
        let numbers: &Int64Array = numbers.as_primitive::<Int64Type>();
        numbers.iter().map(|number| from_integer(number?.checked_mul(factor)?, unit)).collect()
    };
    let supported = |time: &i64| (TIME_US_MIN..TIME_US_END).contains(time);
    let read = read.into_iter().map(|time| time.filter(supported));
    Ok(TimestampMicrosecondArray::from_iter(read).with_timezone("UTC"))
}

/// The unit of a number: as stated, or by its size as [`TimeUnit::Auto`] says.
fn unit_of(size: f64, unit: TimeUnit) -> TimeUnit {
    match unit {
        TimeUnit::Auto if size < 1e11 => TimeUnit::Seconds,
        TimeUnit::Auto if size < 1e14 => TimeUnit::Milliseconds,
        TimeUnit::Auto if size < 1e17 => TimeUnit::Microseconds,
        TimeUnit::Auto => TimeUnit::Nanoseconds,
        unit => unit,
    }
}

fn from_integer(number: i64, unit: TimeUnit) -> Option<i64> {
    match unit_of(number.unsigned_abs() as f64, unit) {
        TimeUnit::Seconds => number.checked_mul(1_000_000),
        TimeUnit::Milliseconds => number.checked_mul(1_000),
        TimeUnit::Microseconds => Some(number),
        TimeUnit::Nanoseconds => Some(number.div_euclid(1_000)),
        TimeUnit::Rfc3339 | TimeUnit::Auto => None,
    }
}

fn from_float(number: f64, unit: TimeUnit) -> Option<i64> {
    let micros = match unit_of(number.abs(), unit) {
        TimeUnit::Seconds => number * 1e6,
        TimeUnit::Milliseconds => number * 1e3,
        TimeUnit::Microseconds => number,
        TimeUnit::Nanoseconds => number / 1e3,
        TimeUnit::Rfc3339 | TimeUnit::Auto => return None,
    };
    (micros.abs() < 9e18).then(|| micros.floor() as i64)
}

/// A Parquet file, being read.
pub struct ParquetReader {
    name: String,
    plan: ColumnPlan,
    reader: ParquetRecordBatchReader,
    /// The next row of the file.
    row: u64,
    /// Rows of this source given before it.
    record: u64,
}

impl ParquetReader {
    /// Opens a file at a row; `record` is the number of rows given before.
    ///
    /// # Errors
    /// If it cannot be read, has other columns than planned, or fewer rows than were read before.
    pub fn open(path: &Path, plan: &ColumnPlan, limits: BatchLimits, row: u64, record: u64) -> Result<Self> {
        let name = path.display().to_string();
        let failed =
            |error: parquet::errors::ParquetError| Error::new(Kind::Io, format!("reading {name}: {error}"));
        let file = File::open(path).map_err(|error| Error::io(format!("reading {name}"), &error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
        let plan = plan.of_file(builder.schema(), &name)?;
        let groups = builder.metadata().row_groups();
        let rows: u64 = groups.iter().map(|group| group.num_rows().unsigned_abs()).sum();
        if rows < row {
            return Err(Error::state(format!(
                "{name} has {rows} rows, but {row} were read before: it was changed; put the old file back, or start \
                 without the saved state"
            )));
        }
        let (mut wanted, mut before, mut offset) = (Vec::new(), 0, None);
        for (index, group) in groups.iter().enumerate() {
            let end = before + group.num_rows().unsigned_abs();
            if end > row {
                offset.get_or_insert(row.saturating_sub(before) as usize);
                wanted.push(index);
            }
            before = end;
        }
        let reader = builder
            .with_batch_size(limits.rows)
            .with_row_groups(wanted)
            .with_offset(offset.unwrap_or(0))
            .build()
            .map_err(failed)?;
        Ok(Self { name, plan, reader, row, record })
    }

    /// The next rows; `None` at the end of the file.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn read(&mut self) -> Result<Option<Portion>> {
        let Some(batch) = self.reader.next() else { return Ok(None) };
        let batch = batch.map_err(|error| Error::data(format!("reading {}: {error}", self.name)))?;
        let (mut columns, times) = self.plan.convert(&batch)?;
        let rows = batch.num_rows() as u64;
        let nulls = times.null_count() as u64;
        let mut portion = Portion {
            first_record: self.record,
            ends: (self.row + 1..=self.row + rows).collect(),
            times: times.iter().map(|time| time.unwrap_or(TIME_UNKNOWN)).collect(),
            without_time: nulls,
            ..Portion::default()
        };
        (self.row, self.record) = (self.row + rows, self.record + rows - nulls);
        // A row that goes on has a time. Those that stay behind are counted, and their numbers are passed over.
        let keep = is_not_null(&times)?;
        columns.insert(0, Arc::new(times));
        let nullable =
            self.plan.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let nullable = Schema::new(nullable.collect::<Vec<_>>());
        let mut batch = RecordBatch::try_new(Arc::new(nullable), columns)?;
        if nulls > 0 {
            batch = filter_record_batch(&batch, &keep)?;
            let mut kept = keep.values().iter();
            portion.ends.retain(|_| kept.next().unwrap_or(false));
            portion.times.retain(|time| *time != TIME_UNKNOWN);
        }
        let batch = RecordBatch::try_new(self.plan.schema.clone(), batch.columns().to_vec())?;
        portion.batch = Some(batch).filter(|batch| batch.num_rows() > 0);
        Ok(Some(portion))
    }
}
