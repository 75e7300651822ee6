//! `tidegate eval`: how good a detector is, by the protocols of published benchmarks and on labelled files of one's own.
//!
//! What is scored is the operator `detect` in an engine, as in a pipeline; the scores are computed in [`crate::eval`].
//! Trivial detectors stand beside it: whoever is no better than those is not good.

mod nab;
mod operator;
mod series;
mod skab;
mod streams;
mod tables;
mod tep;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};

use self::operator::Verdicts;
use self::series::Series;
use super::files::DiskFiles;
use super::{Failure, Outcome};
use crate::error::{Error, Result};
use crate::eval::plot::{self, Picture};
use crate::registry::Registry;

/// Arguments of `tidegate eval`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate eval csv press.csv --time ts --label fault --plots pictures
  tidegate eval nab --data NAB --out results --plots pictures")]
pub struct EvalArgs {
    /// By which protocol.
    #[command(subcommand)]
    pub what: What,
}

/// By which protocol.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Numenta Anomaly Benchmark: alarms inside labelled windows earn, by how early they come; others cost.
    Nab(NabArgs),
    /// Skoltech Anomaly Benchmark: rows marked right and wrong, after 400 rows of learning for each file.
    Skab(CorpusArgs),
    /// Tennessee Eastman process: how much of each fault is found when one normal row in a hundred is marked.
    Tep(CorpusArgs),
    /// Streams with labels, as those of the touchstone benchmark: how well scores rank rows.
    Streams(CorpusArgs),
    /// Tables of your own, CSV or Parquet, with a column of labels or without one.
    Csv(CsvArgs),
}

/// What is evaluated, and where its results go.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// How `detect` scores; without it, and without a model, what suits the corpus: `metric` for NAB and tables of one
    /// column, `process` for SKAB and TEP, `signal` for streams and other tables.
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// A key of `detect`, e.g. --set half_life_rows=200; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Draw a picture of every file into this directory, as SVG: series, score, labels and alarms.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
}

/// Arguments for a corpus.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:
  tidegate eval streams --data DIR --plots pictures")]
pub struct CorpusArgs {
    /// The directory of the corpus.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The detector, and pictures.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments for NAB.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:
  tidegate eval nab --data NAB --out results --plots pictures")]
pub struct NabArgs {
    /// The directory of the corpus, and the detector.
    #[command(flatten)]
    pub corpus: CorpusArgs,
    /// Write result files as the benchmark's own programs read them, into this directory.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Arguments for files of one's own.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:
  tidegate eval csv press.csv --time ts --label fault --plots pictures")]
pub struct CsvArgs {
    /// CSV files with a header, or Parquet files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// The column of event times; without it, rows count as a second apart.
    #[arg(long, value_name = "NAME")]
    pub time: Option<String>,
    /// The column of labels: 0, false or empty where a row is normal. Without it there is nothing to compare with: alarms
    /// and pictures only.
    #[arg(long, value_name = "NAME")]
    pub label: Option<String>,
    /// The columns that are looked at, with commas between them; without it, all numbers.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub columns: Vec<String>,
    /// What stands between the cells of CSV.
    #[arg(long, default_value_t = ',')]
    pub delimiter: char,
    /// The detector, and pictures.
    #[command(flatten)]
    pub common: Common,
}

/// Evaluates.
///
/// # Errors
/// If data cannot be read, or the configuration of the detector is wrong.
pub fn run(args: &EvalArgs, registry: &Registry) -> Outcome {
    let common = match &args.what {
        What::Nab(args) => &args.corpus.common,
        What::Skab(args) | What::Tep(args) | What::Streams(args) => &args.common,
        What::Csv(args) => &args.common,
    };
    let runner = Runner::new(common, registry)?;
    match &args.what {
        What::Nab(args) => nab::run(args, &runner)?,
        What::Skab(args) => skab::run(args, &runner)?,
        What::Tep(args) => tep::run(args, &runner)?,
        What::Streams(args) => streams::run(args, &runner)?,
        What::Csv(args) => tables::run(args, &runner)?,
    }
    Ok(())
}

/// A detector under evaluation.
pub(super) struct Runner<'a> {
    body: toml::Table,
    registry: &'a Registry,
    plots: Option<&'a Path>,
}

impl<'a> Runner<'a> {
    fn new(common: &'a Common, registry: &'a Registry) -> std::result::Result<Self, Failure> {
        let mut body = toml::Table::new();
        for set in &common.set {
            let line: toml::Table = set.parse().or_else(|_| quoted(set)).map_err(|_: toml::de::Error| {
                Error::config(format!("--set {set}: write KEY=VALUE, e.g. half_life_rows=200"))
            })?;
            body.extend(line);
        }
        if let Some(method) = &common.method {
            body.insert("method".to_owned(), method.clone().into());
        }
        Ok(Self { body, registry, plots: common.plots.as_deref() })
    }

    /// What the detector is called in tables.
    fn name(&self, method: &str) -> String {
        match self.body.get("method").and_then(toml::Value::as_str) {
            Some(asked) => asked.to_owned(),
            None if self.body.contains_key("model") => "model".to_owned(),
            None => method.to_owned(),
        }
    }

    /// The keys of `detect`: those of --set, and others where these say nothing.
    fn body(&self, defaults: &toml::Table) -> toml::Table {
        let mut body = self.body.clone();
        let model = body.contains_key("model");
        for (key, value) in defaults.iter().filter(|_| !model) {
            if !body.contains_key(key) {
                body.insert(key.clone(), value.clone());
            }
        }
        body
    }

    /// The detector's verdicts on a series. Keys of `defaults` hold where --set says nothing.
    fn score(&self, series: &Series, defaults: &toml::Table) -> Result<Verdicts> {
        operator::run(
            &self.body(defaults),
            &series.names,
            &series.columns,
            &series.times,
            &DiskFiles,
            self.registry,
        )
        .map_err(|error| Error { message: format!("{}: {}", series.name, error.message), ..error })
    }

    /// Draws what the detector said of a series, if pictures are wanted.
    fn draw(
        &self,
        method: &str,
        series: &Series,
        verdicts: &Verdicts,
        unjudged: usize,
        threshold: Option<f64>,
    ) -> Result<()> {
        let Some(folder) = self.plots else { return Ok(()) };
        let columns: Vec<(String, &[f64])> =
            series.names.iter().cloned().zip(series.columns.iter().map(Vec::as_slice)).collect();
        let picture = plot::svg(&Picture {
            title: &format!("{} by {}", series.name, self.name(method)),
            columns: &columns,
            scores: &verdicts.scores,
            threshold,
            alarms: &verdicts.anomalies,
            windows: &series.windows,
            unjudged,
        });
        let path = folder.join(format!("{}.svg", series.name));
        let failed = |error: std::io::Error| Error::io(format!("writing {}", path.display()), &error);
        std::fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(failed)?;
        std::fs::write(&path, picture).map_err(failed)
    }
}

fn quoted(set: &str) -> std::result::Result<toml::Table, toml::de::Error> {
    let (key, value) = set.split_once('=').unwrap_or((set, ""));
    format!("{key} = {value:?}").parse()
}

/// The table of `detect` with a method.
fn method(name: &str) -> toml::Table {
    toml::Table::from_iter([("method".to_owned(), name.into())])
}

/// Writes a line to standard output, where a reader may have gone away.
fn say(line: std::fmt::Arguments<'_>) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
        .map_err(|error| Error::io("writing to standard output", &error))
}

/// A detector that needs no operator, for comparison.
type Baseline = (&'static str, fn(&Series) -> Vec<f64>);

/// The verdicts of a detector that needs no operator: scores, and marks where they are above 0.5.
fn baseline(score: fn(&Series) -> Vec<f64>, series: &Series) -> Verdicts {
    let start = Instant::now();
    let scores = score(series);
    let anomalies = scores.iter().map(|score| *score > 0.5).collect();
    Verdicts { scores, anomalies, taken: start.elapsed(), state_bytes: 0 }
}

/// The two last cells of a table: what the detector costs.
fn costs<'v>(verdicts: impl Iterator<Item = (&'v Series, &'v Verdicts)>) -> String {
    let (mut micros, mut rows, mut bytes) = (0.0, 0, 0);
    for (series, verdict) in verdicts {
        micros += verdict.taken.as_secs_f64() * 1e6;
        rows += series.rows();
        bytes = bytes.max(verdict.state_bytes);
    }
    let per_row = micros / rows.max(1) as f64;
    if bytes > 0 { format!("{per_row:.2} | {bytes}") } else { format!("{per_row:.2} | ") }
}
