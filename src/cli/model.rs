//! `tidegate model`: train models, look into them, and score recorded data with them.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use clap::{Args, Subcommand};

use super::tables::{TableFormat, TableReport, TableWriter, Wanted, check_output, read_table};
use crate::codec::timestamp::parse_rfc3339;
use crate::error::{Error, Result};
use crate::model::{
    Dense, Kernel, ModelFile, Progress, Scratch, Trained, TrainingData, TrainingOptions, inspect, train,
    verify,
};
use crate::operator::detect::{ADDED, ModelName, Numbers, output_schema, with_scores};

/// The most values that training holds in memory: 2²⁷, 1 GiB.
const VALUES_MAX: usize = 1 << 27;

/// Arguments of `tidegate model`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate model train normal.csv --columns vib_mean,vib_std --out press.tgm")]
pub struct ModelArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ModelCommand,
}

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Train a model on rows of normal operation.
    Train(TrainArgs),
    /// Print what a model file holds.
    Inspect(InspectArgs),
    /// Score recorded rows, as `detect` would online.
    Score(ScoreArgs),
}

/// Arguments of `tidegate model train`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate model train normal.parquet --columns temp_mean,vib_rms,vib_kurtosis --out models/pump.tgm

The rows should show normal operation in all its states, in the order of time: the last part is held out, and its
scores set the threshold. The same data, options and --created give the same file, byte for byte.")]
pub struct TrainArgs {
    /// CSV files with a header, or Parquet files, in the order of time.
    #[arg(required = true)]
    pub data: Vec<PathBuf>,
    /// The columns that the model looks at, with commas between them.
    #[arg(long, value_delimiter = ',', required = true, value_name = "NAMES")]
    pub columns: Vec<String>,
    /// The model file to write.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// The model's name; the file's without its ending by default.
    #[arg(long)]
    pub name: Option<String>,
    /// The model file that this one follows; its id is noted, and the version counts on from it.
    #[arg(long, value_name = "FILE")]
    pub parent: Option<PathBuf>,
    /// The model's version number.
    #[arg(long, value_name = "NUMBER")]
    pub model_version: Option<u64>,
    /// The widths of the hidden layers, e.g. 12,3,12; by default 2n, n/2, 2n for n columns.
    #[arg(long, value_delimiter = ',', value_name = "WIDTHS")]
    pub hidden: Option<Vec<usize>>,
    /// The most passes over the rows; training stops earlier when it no longer gets better.
    #[arg(long, default_value_t = TrainingOptions::default().epochs_max)]
    pub epochs: usize,
    /// Adam's step size.
    #[arg(long, default_value_t = TrainingOptions::default().learning_rate)]
    pub learning_rate: f32,
    /// The seed of initial weights and shuffles.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The share of normal rows that may be marked as anomalies; sets the threshold.
    #[arg(long, default_value_t = TrainingOptions::default().false_alarm_rate)]
    pub false_alarm_rate: f64,
    /// The share of the rows, the last ones, that is held out.
    #[arg(long, default_value_t = TrainingOptions::default().held_out_share)]
    pub held_out_share: f64,
    /// The time of creation to note, e.g. 2026-01-31T12:00:00Z; now by default.
    #[arg(long, value_name = "TIME")]
    pub created: Option<String>,
    /// The character between the cells of CSV.
    #[arg(long, default_value_t = ',')]
    pub delimiter: char,
}

/// Arguments of `tidegate model inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate model inspect press.tgm")]
pub struct InspectArgs {
    /// Model file.
    pub file: PathBuf,
}

/// Arguments of `tidegate model score`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate model score models/pump.tgm features.parquet --to csv -o scored.csv

All columns go on, with `score`, `anomaly` and `model` behind them (those of an earlier scoring are replaced).")]
pub struct ScoreArgs {
    /// Model file.
    pub model: PathBuf,
    /// CSV files with a header, or Parquet files.
    #[arg(required = true)]
    pub data: Vec<PathBuf>,
    /// What the rows become.
    #[arg(long, value_enum, default_value_t = TableFormat::Ndjson)]
    pub to: TableFormat,
    /// Write here instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Rows with a score above this are anomalies; the model's own threshold by default.
    #[arg(long)]
    pub threshold: Option<f64>,
    /// Which code computes it: auto, scalar, avx2 or avx512-vnni. All give the same scores, bit for bit.
    #[arg(long, default_value = "auto")]
    pub kernel: String,
    /// The character between the cells of CSV.
    #[arg(long, default_value_t = ',')]
    pub delimiter: char,
}

/// Does what was asked.
///
/// # Errors
/// If files cannot be read or written, the data do not fit, or a model is refused.
pub fn run(args: &ModelArgs) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    match &args.command {
        ModelCommand::Train(args) => train_model(args, terminal, &mut std::io::stderr()),
        ModelCommand::Inspect(args) => {
            let (id, file) = read_model(&args.file)?;
            print!("{}", inspect(&id, &file));
            Ok(())
        }
        ModelCommand::Score(args) => score(args, &mut std::io::stderr()),
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::io(format!("reading {}", path.display()), &error))
}

fn read_model(path: &Path) -> Result<(crate::core::ModelId, ModelFile)> {
    ModelFile::read(&read_bytes(path)?)
        .map_err(|error| Error { message: format!("{}: {}", path.display(), error.message), ..error })
}

fn delimiter(character: char) -> Result<u8> {
    u8::try_from(character)
        .ok()
        .filter(u8::is_ascii)
        .ok_or_else(|| Error::config(format!("{character:?} cannot be a delimiter; use , ; | : or a tab")))
}

/// Tells of rows that could not be read.
fn report_bad(path: &Path, table: &TableReport, report: &mut dyn Write) {
    if let Some((row, reason)) = table.first_bad {
        let _ = writeln!(
            report,
            "{}: {} rows cannot be read and are left out; the first is row {row} ({reason})",
            path.display(),
            table.bad_rows
        );
    }
}

fn train_model(args: &TrainArgs, terminal: bool, report: &mut dyn Write) -> Result<()> {
    let options = training_options(args)?;
    check_output(Some(&args.out), &args.data)?;
    let rows = read_rows(args, report)?;
    let data = TrainingData { names: &args.columns, rows: &rows };
    let trained = train(data, &options, &mut |progress| show_progress(progress, terminal, report))?;
    if terminal {
        let _ = writeln!(report);
    }
    write_model(&args.out, &trained.bytes)?;
    tell(args, &trained, report);
    Ok(())
}

fn training_options(args: &TrainArgs) -> Result<TrainingOptions> {
    let parent = args.parent.as_deref().map(read_model).transpose()?;
    let counted_on = parent.as_ref().map_or(1, |(_, file)| file.version.saturating_add(1));
    let created_us = match &args.created {
        None => crate::clock::wall().micros(),
        Some(text) => parse_rfc3339(text.as_bytes()).ok_or_else(|| {
            Error::config(format!("--created {text}: not a time; write for example 2026-01-31T12:00:00Z"))
        })?,
    };
    let stem = args.out.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    Ok(TrainingOptions {
        name: args.name.clone().or(stem).unwrap_or_else(|| TrainingOptions::default().name),
        version: args.model_version.unwrap_or(counted_on),
        created_us,
        parent: parent.map(|(id, _)| id),
        hidden: args.hidden.clone(),
        seed: args.seed,
        epochs_max: args.epochs,
        learning_rate: args.learning_rate,
        held_out_share: args.held_out_share,
        false_alarm_rate: args.false_alarm_rate,
        ..TrainingOptions::default()
    })
}

/// The rows of all files, row-major, NaN where there is no number.
fn read_rows(args: &TrainArgs, report: &mut dyn Write) -> Result<Vec<f64>> {
    let wanted = Wanted { columns: &args.columns, others: false, delimiter: delimiter(args.delimiter)? };
    let width = args.columns.len();
    let mut rows: Vec<f64> = Vec::new();
    for path in &args.data {
        let table = read_table(path, &wanted, &mut |batch| {
            let start = rows.len();
            if start + batch.num_rows() * width > VALUES_MAX {
                return Err(Error::data(format!(
                    "more than {} rows of {width} columns; train on fewer",
                    VALUES_MAX / width
                )));
            }
            rows.resize(start + batch.num_rows() * width, f64::NAN);
            for (place, name) in args.columns.iter().enumerate() {
                let column = numbers(&batch, name)?;
                let values = column.as_primitive::<Float64Type>().iter();
                for (row, value) in rows[start..].chunks_exact_mut(width).zip(values) {
                    row[place] = value.unwrap_or(f64::NAN);
                }
            }
            Ok(())
        })?;
        report_bad(path, &table, report);
    }
    Ok(rows)
}

fn numbers(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    let column = batch.column(batch.schema_ref().index_of(name)?);
    Ok(cast(column, &DataType::Float64)?)
}

/// On a terminal one line that is written over; else a line now and then.
fn show_progress(progress: &Progress, terminal: bool, report: &mut dyn Write) {
    let Progress { epoch, epochs_max, training_loss, held_out_loss, .. } = progress;
    if !terminal && epoch % 10 != 0 && *epoch != 1 {
        return;
    }
    let (start, end) = if terminal { ("\r", "") } else { ("", "\n") };
    let _ = write!(
        report,
        "{start}epoch {epoch:>4} of {epochs_max}   training {training_loss:<10.6}   held out {held_out_loss:<10.6}{end}"
    );
    let _ = report.flush();
}

/// Writes the file under another name first, so that a pipeline that watches it never sees half of it.
fn write_model(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| Error::io(format!("writing {}", path.display()), &error);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let partial = path.with_file_name(name);
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut file = std::fs::File::create(&partial).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&partial, path).map_err(failed)
}

fn tell(args: &TrainArgs, trained: &Trained, report: &mut dyn Write) {
    let facts = &trained.report;
    let mut say = |text: String| {
        let _ = writeln!(report, "{text}");
    };
    say(format!(
        "trained on {} rows, {} held out, {} skipped for missing values; kept epoch {} of {}",
        facts.training_rows, facts.held_out_rows, facts.rows_skipped, facts.epoch_kept, facts.epochs
    ));
    say(format!(
        "held-out score {:.6} as floats, {:.6} as int8; threshold {:.6}",
        facts.float_score_mean, facts.int8_score_mean, facts.threshold
    ));
    if let Some(needed) = facts.held_out_rows_needed.filter(|needed| *needed > facts.held_out_rows) {
        say(format!(
            "note: a false alarm rate of {} needs {needed} held-out rows; with {} it is likely to be higher",
            args.false_alarm_rate, facts.held_out_rows
        ));
    }
    say(format!("{}: model {}, {} bytes", args.out.display(), trained.id.short(), trained.bytes.len()));
}

/// How many rows were scored, and not.
#[derive(Debug, Default)]
struct Scored {
    rows: usize,
    unscored: usize,
    anomalies: usize,
}

fn score(args: &ScoreArgs, report: &mut dyn Write) -> Result<()> {
    if args.threshold.is_some_and(|threshold| !threshold.is_finite()) {
        return Err(Error::config("--threshold must be a number"));
    }
    check_output(args.output.as_deref(), &args.data)?;
    let kernel = Kernel::parse(&args.kernel)?;
    let bytes = read_bytes(&args.model)?;
    let names: Vec<String> =
        read_model(&args.model)?.1.columns.into_iter().map(|column| column.name).collect();
    let dense = verify(&bytes, &names, kernel)?;
    let mut scorer = Scorer {
        threshold: args.threshold.unwrap_or(dense.file().threshold),
        name: ModelName::new(Some(&dense.id().short())),
        dense: &dense,
        names: &names,
        schema: None,
        scratch: Scratch::default(),
        counted: Scored::default(),
    };
    let wanted = Wanted { columns: &names, others: true, delimiter: delimiter(args.delimiter)? };
    let mut writer = TableWriter::open(args.to, args.output.as_deref())?;
    for path in &args.data {
        let table = read_table(path, &wanted, &mut |batch| writer.write(&scorer.score(&batch)?))?;
        report_bad(path, &table, report);
        if writer.is_closed() {
            return Ok(());
        }
    }
    writer.finish()?;
    let Scored { rows, unscored, anomalies } = scorer.counted;
    let _ = writeln!(report, "{rows} rows, {anomalies} anomalies, {unscored} without a score");
    Ok(())
}

/// A model over batches of recorded rows.
struct Scorer<'a> {
    dense: &'a Dense,
    names: &'a [String],
    threshold: f64,
    name: ModelName,
    /// The columns of the last batch, those kept of them, and what comes out.
    schema: Option<(SchemaRef, Vec<usize>, SchemaRef)>,
    scratch: Scratch,
    counted: Scored,
}

impl Scorer<'_> {
    fn score(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let schema = batch.schema();
        let known = self.schema.take().filter(|(known, ..)| *known == schema);
        let (_, kept, output) = &*self.schema.insert(match known {
            Some(known) => known,
            None => {
                let kept = (0..schema.fields().len())
                    .filter(|place| !ADDED.contains(&schema.field(*place).name().as_str()));
                let kept: Vec<usize> = kept.collect();
                let output = output_schema(&schema.project(&kept)?);
                (schema, kept, output)
            }
        });
        let places = self.names.iter().map(|name| Ok(batch.schema_ref().index_of(name)?));
        let mut numbers = Numbers::new(places.collect::<Result<_>>()?);
        numbers.read(batch)?;
        let columns: Vec<&[f64]> = numbers.columns().collect();
        let mut scores = vec![f64::NAN; batch.num_rows()];
        self.dense.score_columns(&mut self.scratch, &columns, &mut scores);
        self.counted.rows += scores.len();
        self.counted.unscored += scores.iter().filter(|score| score.is_nan()).count();
        self.counted.anomalies += scores.iter().filter(|score| **score > self.threshold).count();
        with_scores(&batch.project(kept)?, output, scores, self.threshold, &self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    use tempfile::TempDir;

    /// Two columns that go together, one that does not belong, and gaps.
    fn csv(rows: usize) -> String {
        let mut text = "time,device,temp,rpm\n".to_owned();
        for row in 0..rows {
            let load = (row as f64 * 0.7).sin();
            let temp = if row % 50 == 7 { String::new() } else { format!("{}", 60.0 + 5.0 * load) };
            let noise = (row * 7919 % 13) as f64 / 13.0;
            writeln!(text, "{},pump,{temp},{}", 1_700_000_000 + row, 1500.0 + 100.0 * load + noise).unwrap();
        }
        text
    }

    fn write(directory: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Parses arguments as the command line would.
    fn parse(words: &[&str]) -> ModelArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ModelArgs,
        }
        <Line as clap::Parser>::parse_from(std::iter::once(&"model").chain(words)).args
    }

    fn train_on(words: &[&str]) -> (String, Result<()>) {
        let ModelCommand::Train(args) = parse(words).command else { panic!("trains") };
        let mut report = Vec::new();
        let outcome = train_model(&args, false, &mut report);
        (String::from_utf8(report).unwrap(), outcome)
    }

    fn score_on(words: &[&str]) -> (String, Result<()>) {
        let ModelCommand::Score(args) = parse(words).command else { panic!("scores") };
        let mut report = Vec::new();
        let outcome = score(&args, &mut report);
        (String::from_utf8(report).unwrap(), outcome)
    }

    #[test]
    fn a_model_is_trained_inspected_and_scores() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let text = csv(600);
        write(&directory, "normal.csv", &text);
        let (data, out) = (path("normal.csv"), path("models/pump.tgm"));
        let base = ["train", &data, "--columns", "temp,rpm", "--created", "2026-01-31T12:00:00Z"];
        let train = |out: &str, more: &[&str]| {
            let (report, outcome) = train_on(&[&base[..], &["--epochs", "12", "--out", out], more].concat());
            outcome.unwrap();
            report
        };
        let report = train(&out, &["--hidden", "4,1,4"]);
        assert!(report.starts_with("epoch    1 of 12") && report.contains("epoch   10 of 12"), "{report}");
        assert!(report.contains("trained on 470 rows, 118 held out, 12 skipped"), "{report}");
        assert!(report.contains("a false alarm rate of 0.001 needs 999 held-out rows"), "{report}");
        let (id, file) = read_model(Path::new(&out)).unwrap();
        assert_eq!((file.name.as_str(), file.version, file.created_us), ("pump", 1, 1_769_860_800_000_000));
        assert!(report.contains(&format!("model {}", id.short())), "{report}");
        // The same again is the same file; another seed is not; a child names its parent and counts on.
        train(&path("again/pump.tgm"), &["--hidden", "4,1,4"]);
        assert_eq!(std::fs::read(path("again/pump.tgm")).unwrap(), std::fs::read(&out).unwrap());
        train(&path("child.tgm"), &["--parent", &out, "--seed", "1", "--name", "child"]);
        let (child_id, child) = read_model(Path::new(&path("child.tgm"))).unwrap();
        assert!(child_id != id && child.parent == Some(id) && child.version == 2 && child.name == "child");

        let (report, outcome) = score_on(&["score", &out, &data, "-o", &path("scored.ndjson")]);
        outcome.unwrap();
        let scored = std::fs::read_to_string(path("scored.ndjson")).unwrap();
        let lines: Vec<serde_json::Value> =
            scored.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 600);
        let anomalies = lines.iter().filter(|line| line["anomaly"] == true).count();
        assert_eq!(report, format!("600 rows, {anomalies} anomalies, 12 without a score\n"));
        assert!(lines[7]["score"].is_null() && lines[7]["model"] == id.short().as_str());
        assert!(lines[8]["score"].as_f64().is_some_and(|score| score >= 0.0) && lines[8]["device"] == "pump");
        assert_eq!(lines[8]["time"], "2023-11-14T22:13:28.000000Z");
    }

    #[test]
    fn scores_are_the_same_by_every_kernel_format_and_repetition() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        write(&directory, "normal.csv", &csv(600));
        let (data, model) = (path("normal.csv"), path("m.tgm"));
        let train = ["train", &data, "--columns", "temp,rpm", "--out", &model, "--epochs", "3"];
        train_on(&train).1.unwrap();
        for (kernel, to, out) in
            [("auto", "csv", "a.csv"), ("scalar", "csv", "b.csv"), ("auto", "parquet", "c.parquet")]
        {
            let words = ["score", &model, &data, "--kernel", kernel, "--to", to, "-o", &path(out)];
            score_on(&words).1.unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        assert_eq!(read("a.csv"), read("b.csv"));
        // What was scored can be scored again, from Parquet too; the old score gives way.
        for from in ["a.csv", "c.parquet"] {
            score_on(&["score", &model, &path(from), "--to", "csv", "-o", &path("d.csv")]).1.unwrap();
            assert_eq!(read("d.csv"), read("a.csv"), "{from}");
        }
        let all = ["score", &model, &data, "--threshold=-1", "-o", &path("e")];
        assert_eq!(score_on(&all).0, "600 rows, 588 anomalies, 12 without a score\n");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        write(&directory, "few.csv", "temp,rpm\n1,2\n3,x\n");
        let (few, out) = (path("few.csv"), path("m.tgm"));
        let (report, outcome) = train_on(&["train", &few, "--columns", "temp,rpm", "--out", &out]);
        assert!(report.contains("1 rows cannot be read and are left out; the first is row 2 (wrong_type)"));
        assert!(outcome.unwrap_err().message.contains("training needs at least 100 rows"));
        assert!(!Path::new(&out).exists());
        let (_, outcome) = train_on(&["train", &few, "--columns", "temp,rmp", "--out", &out]);
        assert!(outcome.unwrap_err().message.contains("did you mean \"rpm\"?"));
        let (_, outcome) = train_on(&["train", &few, "--columns", "temp,rpm", "--out", &few]);
        assert!(outcome.unwrap_err().message.contains("is read and cannot be the output"));
        let late = ["train", &few, "--columns", "temp,rpm", "--out", &out, "--created", "yesterday"];
        assert!(train_on(&late).1.unwrap_err().message.starts_with("--created yesterday: not a time"));
        let (_, outcome) = score_on(&["score", &few, &few]);
        assert!(outcome.unwrap_err().message.contains("few.csv: this is not a model file"));
        let wide = ["train", &few, "--columns", "temp,rpm", "--out", &out, "--delimiter", "é"];
        assert!(train_on(&wide).1.unwrap_err().message.contains("cannot be a delimiter"));
    }
}
