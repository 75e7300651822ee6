//! `tidegate log export`: the messages of a source as they came, out of the log of its pipeline.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray, UInt64Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use clap::{Args, ValueEnum};

use super::log::{Bound, bound, broken, each, open, pipeline_dir};
use super::tables::{TableFormat, TableWriter};
use crate::error::{Error, Result};
use crate::store::RecordKind;
use crate::store::record::raw_schema;

/// Arguments of `tidegate log export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The data directory of a pipeline, or one with a single pipeline in it.
    pub dir: PathBuf,
    /// The source whose messages are wanted; may be left out where the log has only one.
    #[arg(long)]
    pub source: Option<String>,
    /// What the messages become.
    #[arg(long, value_enum, default_value_t = ExportFormat::Ndjson)]
    pub format: ExportFormat,
    /// Write here instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// From this offset, or time (2026-11-24T08:00:00Z), on.
    #[arg(long, value_parser = bound, default_value = "0")]
    pub from: Bound,
    /// Up to this offset, or time, which itself is left out.
    #[arg(long, value_parser = bound)]
    pub to: Option<Bound>,
}

/// What messages become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Topic, space, payload, a line each: what `tidegate replay --input` reads. A payload with a line break is left out
    /// and counted.
    Messages,
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet, zstd-compressed.
    Parquet,
}

/// Where messages go.
enum Export {
    Table(Box<TableWriter>),
    Messages { out: Box<dyn Write>, left_out: u64 },
}

/// Writes messages out.
///
/// # Errors
/// If the log cannot be read, has messages of several sources, or the output cannot be written.
pub fn export(args: &ExportArgs) -> Result<()> {
    let dir = pipeline_dir(&args.dir, None)?;
    let mut log = open(&dir)?;
    let table = |format| TableWriter::open(format, args.output.as_deref());
    let mut export = match args.format {
        ExportFormat::Ndjson => Export::Table(Box::new(table(TableFormat::Ndjson)?)),
        ExportFormat::Csv => Export::Table(Box::new(table(TableFormat::Csv)?)),
        ExportFormat::Parquet => Export::Table(Box::new(table(TableFormat::Parquet)?)),
        ExportFormat::Messages => {
            let out: Box<dyn Write> = match &args.output {
                None => Box::new(BufWriter::new(std::io::stdout())),
                Some(path) => {
                    let file = File::create(path)
                        .map_err(|error| Error::io(format!("creating {}", path.display()), &error))?;
                    Box::new(BufWriter::new(file))
                }
            };
            Export::Messages { out, left_out: 0 }
        }
    };
    let mut wanted = args.source.clone();
    let mut rows = 0;
    each(&mut log, args.from, args.to, |offset, record| {
        let RecordKind::Batch { source, batch, .. } = record.kind else { return Ok(()) };
        match &wanted {
            None => wanted = Some(source),
            Some(wanted) if *wanted == source => {}
            Some(_) if args.source.is_some() => return Ok(()),
            Some(first) => {
                return Err(Error::config(format!(
                    "the log has messages of several sources: say --source {first} or --source {source}"
                )));
            }
        }
        rows += batch.num_rows();
        export.write(offset, &batch)
    })?;
    if let (0, Some(source)) = (rows, &args.source) {
        eprintln!("there are no messages of a source `{source}` there");
    }
    export.finish()?;
    eprintln!("{rows} messages");
    Ok(())
}

impl Export {
    fn write(&mut self, offset: u64, batch: &RecordBatch) -> Result<()> {
        let is_raw = *batch.schema_ref() == raw_schema();
        match self {
            Self::Table(writer) if is_raw => writer.write(&readable(offset, batch)?),
            Self::Table(writer) => writer.write(batch),
            Self::Messages { out, left_out } if is_raw => {
                let topics = cast(batch.column(0), &DataType::Utf8)?;
                let (topics, payloads) = (topics.as_string::<i32>(), batch.column(1).as_binary::<i32>());
                for (topic, payload) in topics.iter().zip(payloads) {
                    let (topic, payload) = (topic.unwrap_or_default(), payload.unwrap_or_default());
                    if payload.contains(&b'\n') || topic.contains([' ', '\n']) {
                        *left_out += 1;
                        continue;
                    }
                    let line = [topic.as_bytes(), b" ", payload, b"\n"];
                    line.iter().try_for_each(|part| out.write_all(part)).map_err(broken)?;
                }
                Ok(())
            }
            Self::Messages { .. } => {
                Err(Error::config("this source gives columns, not messages: use --format parquet"))
            }
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Table(writer) => writer.finish(),
            Self::Messages { mut out, left_out } => {
                if left_out > 0 {
                    eprintln!("{left_out} messages left out: a line cannot hold them");
                }
                out.flush().map_err(broken)
            }
        }
    }
}

/// Messages as rows that can be read: offset of their record, arrival, topic, and the payload as text, or, where it is
/// none, as bytes.
fn readable(offset: u64, batch: &RecordBatch) -> Result<RecordBatch> {
    let payload = batch.column(1).as_binary::<i32>();
    let all_text = payload.iter().all(|bytes| std::str::from_utf8(bytes.unwrap_or_default()).is_ok());
    let text = payload.iter().map(|bytes| bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()));
    let text: StringArray = text.collect();
    let bytes: ArrayRef = match all_text {
        true => new_null_array(&DataType::Binary, batch.num_rows()),
        false => {
            let others =
                payload.iter().map(|bytes| bytes.filter(|bytes| std::str::from_utf8(bytes).is_err()));
            Arc::new(others.collect::<BinaryArray>())
        }
    };
    let topic = cast(batch.column(0), &DataType::Utf8)?;
    let offsets: ArrayRef = Arc::new(UInt64Array::from_value(offset, batch.num_rows()));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("offset", offsets, false),
        ("arrival", Arc::clone(batch.column(2)), false),
        ("topic", topic, false),
        ("payload", Arc::new(text) as ArrayRef, true),
        ("payload_bytes", bytes, true),
    ])?)
}
