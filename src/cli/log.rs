//! `tidegate log`: what is in the input log of a pipeline: shown, verified, exported. The log is only read, so a running
//! pipeline may go on writing it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use clap::{Args, Subcommand};

use super::log_export::{ExportArgs, export};
use super::{Failure, Outcome};
use crate::codec::timestamp::{TimeWriter, parse_rfc3339};
use crate::config::limits::about;
use crate::error::{Error, Result};
use crate::store::look::ReadOnly;
use crate::store::record::raw_schema;
use crate::store::{Disk, LogReader, LogRecord, RecordKind};

/// Arguments of `tidegate log`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate log show /var/lib/tidegate/press-line
  tidegate log verify /var/lib/tidegate/press-line
  tidegate log export /var/lib/tidegate/press-line --source plant --format messages -o plant.messages")]
pub struct LogArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: LogCommand,
}

/// What can be done with a log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Show the segments of a log, what they hold, and how small it is.
    #[command(after_help = "Example:
  tidegate log show /var/lib/tidegate/press-line --records --from 2026-11-24T08:00:00Z")]
    Show(ShowArgs),
    /// Read everything, and say what is damaged; exit code 1 if anything is.
    #[command(after_help = "Example:
  tidegate log verify /var/lib/tidegate/press-line")]
    Verify(VerifyArgs),
    /// Write the messages of a source as they came.
    #[command(after_help = "Examples:
  tidegate log export /var/lib/tidegate/press-line --source plant --format parquet -o plant.parquet
  tidegate log export /var/lib/tidegate/press-line --format messages -o plant.messages --from 120000 --to 130000")]
    Export(ExportArgs),
}

/// Arguments of `tidegate log show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The data directory of a pipeline, or one with a single pipeline in it.
    pub dir: PathBuf,
    /// Print every record.
    #[arg(long)]
    pub records: bool,
    /// With `--records`: from this offset, or time (2026-11-24T08:00:00Z), on.
    #[arg(long, value_parser = bound, default_value = "0")]
    pub from: Bound,
    /// With `--records`: up to this offset, or time, which itself is not shown.
    #[arg(long, value_parser = bound)]
    pub to: Option<Bound>,
}

/// Arguments of `tidegate log verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The data directory of a pipeline, or one with a single pipeline in it.
    pub dir: PathBuf,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The record with this number.
    Offset(u64),
    /// The first record that came at this time or later, in µs since 1970.
    Time(i64),
}

/// Reads an offset or a time.
///
/// # Errors
/// Says how the two are written.
pub fn bound(text: &str) -> std::result::Result<Bound, String> {
    if let Ok(offset) = text.parse() {
        return Ok(Bound::Offset(offset));
    }
    let time = parse_rfc3339(text.as_bytes()).map(Bound::Time);
    time.ok_or_else(|| "write an offset (120000) or a time (2026-11-24T08:00:00Z)".to_owned())
}

impl Bound {
    /// Whether a record is at this place or behind it.
    pub fn is_reached(self, offset: u64, wall_us: i64) -> bool {
        match self {
            Self::Offset(from) => offset >= from,
            Self::Time(from) => wall_us >= from,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the log cannot be read, or what was asked for cannot be written; the code 1 where `verify` finds damage.
pub fn run(args: &LogArgs) -> Outcome {
    match &args.what {
        LogCommand::Show(args) => Ok(show(args, &mut std::io::stdout().lock())?),
        LogCommand::Verify(args) => match verify(&args.dir, &mut std::io::stdout().lock())? {
            true => Ok(()),
            false => Err(Failure::Code(1)),
        },
        LogCommand::Export(args) => Ok(export(args)?),
    }
}

/// The directory of the pipeline whose log is meant: `dir` itself, the one above it if it is a `log`, the one called
/// `name` in it, or the only one in it.
///
/// # Errors
/// If there is none, or several.
pub fn pipeline_dir(dir: &Path, name: Option<&str>) -> Result<PathBuf> {
    let has_log = |dir: &Path| dir.join("log").is_dir();
    if has_log(dir) {
        return Ok(dir.to_owned());
    }
    if let (true, Some(above)) = (dir.file_name().is_some_and(|name| name == "log"), dir.parent())
        && has_log(above)
    {
        return Ok(above.to_owned());
    }
    if let Some(named) = name.map(|name| dir.join(name)).filter(|named| has_log(named)) {
        return Ok(named);
    }
    let entries = std::fs::read_dir(dir)
        .map_err(|error| Error::config(format!("there is no log in {}: {error}", dir.display())))?;
    let mut found: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| has_log(path)).collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::config(format!(
            "there is no log in {}: give the data directory of a pipeline, DIR/PIPELINE",
            dir.display()
        ))),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Error::config(format!("several pipelines have a log there; give one: {}", names.join(", "))))
        }
    }
}

/// The log in a pipeline's directory, to look at.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn open(dir: &Path) -> Result<LogReader> {
    LogReader::open(Box::new(ReadOnly::new(Box::new(Disk::look(dir)?))), "log")
}

/// Writes µs since 1970 as text.
fn time(us: i64) -> String {
    let mut text = Vec::new();
    TimeWriter::new().write_us(us, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// What a log holds, counted.
#[derive(Debug, Default)]
struct Counts {
    records: u64,
    ticks: u64,
    ends: u64,
    barriers: u64,
    changes: u64,
    unreadable: Vec<(u64, Error)>,
    /// By source: batches, rows, bytes of payloads.
    sources: BTreeMap<String, (u64, u64, u64)>,
    first_us: Option<i64>,
    last_us: i64,
}

/// Records that cannot be read are told up to this many.
const UNREADABLE_TOLD_MAX: usize = 16;

impl Counts {
    fn add(&mut self, offset: u64, record: Result<LogRecord>) {
        self.records += 1;
        let record = match record {
            Ok(record) => record,
            Err(error) => return self.unreadable.push((offset, error)),
        };
        self.first_us.get_or_insert(record.now.wall_us);
        self.last_us = record.now.wall_us;
        match record.kind {
            RecordKind::Tick => self.ticks += 1,
            RecordKind::End { .. } => self.ends += 1,
            RecordKind::Barrier { change, .. } => {
                self.barriers += 1;
                self.changes += u64::from(change.is_some());
            }
            RecordKind::Batch { source, batch, .. } => {
                let entry = self.sources.entry(source).or_default();
                entry.0 += 1;
                entry.1 += batch.num_rows() as u64;
                entry.2 += payload_bytes(&batch);
            }
        }
    }

    fn print(&self, stored: u64, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { records, ticks, ends, barriers, changes, .. } = self;
        if let Some(first) = self.first_us {
            writeln!(out, "{records} records from {} to {}", time(first), time(self.last_us))?;
        }
        writeln!(
            out,
            "  {ticks} ticks, {ends} ends of sources, {barriers} barriers ({changes} with a change)"
        )?;
        let payloads: u64 = self.sources.values().map(|counts| counts.2).sum();
        for (source, (batches, rows, bytes)) in &self.sources {
            let each = *bytes as f64 / (*rows).max(1) as f64;
            writeln!(
                out,
                "  source {source}: {batches} batches, {rows} messages, {} of payload, {each:.1} B each",
                about(*bytes)
            )?;
        }
        let rows: u64 = self.sources.values().map(|counts| counts.1).sum();
        if rows > 0 && payloads > 0 {
            writeln!(
                out,
                "  on disk {:.1} B a message, {:.1} % of its payload",
                stored as f64 / rows as f64,
                stored as f64 * 100.0 / payloads as f64
            )?;
        }
        Ok(())
    }
}

/// Bytes of the messages of a batch; of columns, what they take in memory.
fn payload_bytes(batch: &RecordBatch) -> u64 {
    let raw = (*batch.schema_ref() == raw_schema()).then(|| batch.column(1).as_binary_opt::<i32>()).flatten();
    match raw.map(|payload| payload.value_offsets()) {
        Some([first, .., last]) => (last - first) as u64,
        Some(_) => 0,
        None => batch.get_array_memory_size() as u64,
    }
}

pub(super) fn broken(error: std::io::Error) -> Error {
    Error::io("writing", &error)
}

fn show(args: &ShowArgs, out: &mut dyn Write) -> Result<()> {
    let dir = pipeline_dir(&args.dir, None)?;
    let mut log = open(&dir)?;
    if args.records {
        return show_records(&mut log, args, out);
    }
    let mut stored = 0;
    for (at, segment) in log.segments().into_iter().enumerate() {
        let (blocks, raw, bytes) = log.sizes(at)?;
        stored += segment.bytes;
        let begun = match segment.begun_s {
            0 => "at an unknown time".to_owned(),
            seconds => time(i64::from(seconds) * 1_000_000),
        };
        writeln!(
            out,
            "{}: offsets {} to {}, begun {begun}, {} in {blocks} blocks, {:.2} of {}",
            segment.path,
            segment.first,
            segment.end,
            about(segment.bytes),
            bytes as f64 / raw.max(1) as f64,
            about(raw)
        )
        .map_err(broken)?;
    }
    let counts = count(&mut log)?;
    counts.print(stored, out).map_err(broken)?;
    if log.damages().stretches > 0 || !counts.unreadable.is_empty() {
        writeln!(out, "  damaged: `tidegate log verify` says where").map_err(broken)?;
    }
    Ok(())
}

fn count(log: &mut LogReader) -> Result<Counts> {
    let mut counts = Counts::default();
    while let Some((offset, bytes)) = log.next_record()? {
        let record = LogRecord::decode(bytes);
        counts.add(offset, record);
    }
    Ok(counts)
}

fn show_records(log: &mut LogReader, args: &ShowArgs, out: &mut dyn Write) -> Result<()> {
    each(log, args.from, args.to, |offset, record| {
        let what = match record.kind {
            RecordKind::Tick => "tick".to_owned(),
            RecordKind::End { source } => format!("end of {source}"),
            RecordKind::Barrier { epoch, change } => {
                let change = change.map(|change| String::from_utf8_lossy(&change).into_owned());
                format!(
                    "barrier of epoch {epoch}{}",
                    change.map_or(String::new(), |change| format!(", {change}"))
                )
            }
            RecordKind::Batch { source, position, batch } => {
                let (rows, bytes) = (batch.num_rows(), payload_bytes(&batch));
                format!("{rows} rows of {source}, {bytes} B, position {position}")
            }
        };
        writeln!(out, "{offset} {} {what}", time(record.now.wall_us)).map_err(broken)
    })
}

/// Gives every readable record between two bounds.
///
/// # Errors
/// If the log cannot be read, or `f` fails.
pub(super) fn each(
    log: &mut LogReader,
    from: Bound,
    to: Option<Bound>,
    mut f: impl FnMut(u64, LogRecord) -> Result<()>,
) -> Result<()> {
    seek(log, from);
    while let Some((offset, bytes)) = log.next_record()? {
        let Ok(record) = LogRecord::decode(bytes) else { continue };
        let wall_us = record.now.wall_us;
        if to.is_some_and(|to| to.is_reached(offset, wall_us)) {
            break;
        }
        if from.is_reached(offset, wall_us) {
            f(offset, record)?;
        }
    }
    Ok(())
}

/// Goes to where a bound may be reached at the earliest.
pub fn seek(log: &mut LogReader, from: Bound) {
    let offset = match from {
        Bound::Offset(offset) => offset,
        Bound::Time(us) => {
            let seconds = us.div_euclid(1_000_000);
            let before = |segment: &crate::store::look::SegmentInfo| {
                segment.begun_s > 0 && i64::from(segment.begun_s) <= seconds
            };
            log.segments().iter().rev().find(|segment| before(segment)).map_or(0, |segment| segment.first)
        }
    };
    log.seek(offset);
}

/// Reads everything and reports; whether all is whole.
fn verify(dir: &Path, out: &mut dyn Write) -> Result<bool> {
    let dir = pipeline_dir(dir, None)?;
    let mut log = open(&dir)?;
    let counts = count(&mut log)?;
    let (damages, report) = (log.damages().clone(), log.report().clone());
    let mut tell = |text: String| writeln!(out, "{text}").map_err(broken);
    for damage in &damages.first {
        tell(format!(
            "{} at byte {}: records {} to {} cannot be read",
            damage.path, damage.position, damage.from, damage.to
        ))?;
    }
    if damages.stretches > damages.first.len() as u64 {
        tell(format!("and {} more stretches", damages.stretches - damages.first.len() as u64))?;
    }
    for (offset, error) in counts.unreadable.iter().take(UNREADABLE_TOLD_MAX) {
        tell(format!("record {offset}: {error}"))?;
    }
    if report.heads_damaged > 0 {
        tell(format!(
            "{} segments have a damaged head; their records are read all the same",
            report.heads_damaged
        ))?;
    }
    if report.torn_bytes > 0 {
        tell(format!("{} bytes at the end are a write that is not finished", report.torn_bytes))?;
    }
    if log.gone() > 0 {
        tell(format!("{} segments were removed meanwhile by the pipeline", log.gone()))?;
    }
    let lost = damages.records + counts.unreadable.len() as u64;
    tell(format!(
        "{}: {} segments, offsets {} to {}, {} records read, {lost} lost",
        dir.join("log").display(),
        log.segments().len(),
        log.first_offset(),
        log.end(),
        counts.records
    ))?;
    Ok(lost == 0 && report.heads_damaged == 0)
}
