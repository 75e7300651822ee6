//! `tidegate replay`: any pipeline over recorded data, as fast as it goes, sinks to files.
//!
//! The pipeline file stays as it is; its sources become `file` sources on the recorded data, its sinks `file`
//! sinks in a directory. Recorded data follow no clock, so `idle` and `ahead` do not apply and the same data give the
//! same results.

use std::path::PathBuf;

use clap::Args;
use toml::{Table, Value};

use super::files::PipelineFile;
use super::prepare::{Prepared, prepare};
use super::run::runtime;
use super::{Failure, Outcome, PipelineArgs};
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::runtime::durable::FoundColumns;

/// Arguments of `tidegate replay`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  mosquitto_sub -v -t 'plant/#' > plant.messages
  tidegate replay press-line.toml --input plant=plant.messages --out results

From the log of a pipeline, with another model:
  tidegate replay press-line.toml --log /var/lib/tidegate --model anomaly=candidate.tgm --out results")]
pub struct ReplayArgs {
    /// Pipeline file.
    pub file: PathBuf,
    /// Recorded data of a source: NDJSON or CSV in the source's format, recorded messages (topic, space, payload; ending
    /// `.messages`), or Parquet with the source's columns.
    #[arg(long = "input", value_name = "SOURCE=FILE", required_unless_present = "log_dir")]
    pub inputs: Vec<String>,
    /// Replay what the plant really sent: the log in the data directory of a pipeline, which may be running. Records go to
    /// the source of their name, at the times at which they came, with the models that came between them.
    #[arg(long = "log", value_name = "DIR", conflicts_with = "inputs")]
    pub log_dir: Option<PathBuf>,
    /// With `--log`: the pipeline that wrote it, where it is not the one of the file.
    #[arg(long, value_name = "NAME", requires = "log_dir")]
    pub pipeline: Option<String>,
    /// With `--log`: where to begin. `start`: at its oldest record, with no state; `checkpoint`: at the newest checkpoint,
    /// with its state; an offset or a time (2026-11-24T08:00:00Z): there, with no state.
    #[arg(long, value_name = "PLACE", value_parser = super::log_replay::begin, default_value = "start")]
    pub from: super::log_replay::Begin,
    /// With `--log`: the offset or time at which to end; the record there is left out.
    #[arg(long, value_name = "PLACE", value_parser = super::log::bound, requires = "log_dir")]
    pub to: Option<super::log::Bound>,
    /// With `--log`: the model of a node, instead of the one in the file and all that came later.
    #[arg(long = "model", value_name = "NODE=FILE", requires = "log_dir")]
    pub models: Vec<String>,
    /// Directory for the results, replaced if there: one NDJSON file per sink; with `--log`, sinks of type `file` write
    /// theirs as they do.
    #[arg(long)]
    pub out: PathBuf,
    /// Override a value of the file, e.g. another model: `--set operator.anomaly.model.file=candidate.tgm`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// Keys of a source that say how its messages are decoded; all others belong to the connection.
const DECODE_KEYS: [&str; 4] = ["format", "fields", "event_time", "batch"];

/// Runs a pipeline over recorded data.
///
/// # Errors
/// If the file is wrong, a source has no data, or a part fails.
pub fn replay(args: &ReplayArgs, registry: &Registry) -> Outcome {
    if let Some(dir) = &args.log_dir {
        return super::log_replay::replay(args, dir, registry);
    }
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| Error::config(format!("{}: {error}", args.file.display())))?;
    // The file itself is checked first, so that places in messages are those of the file.
    let given = PipelineArgs { data_dir: None, set: args.set.clone() };
    PipelineFile::of(&text, &args.file.display().to_string(), &given, registry).plan(&FoundColumns::new())?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| Error::config(error.to_string()))?;
    let table = rewire(table, args)?;
    let name = format!("{} (replay)", args.file.display());
    let set = args.set.iter().filter(|set| set.starts_with("operator.")).cloned().collect();
    let file = PipelineFile::of(&table.to_string(), &name, &PipelineArgs { data_dir: None, set }, registry);
    let planned = file.plan(&FoundColumns::new())?;
    let rows = runtime()?.block_on(async {
        let pipeline = match prepare(file, planned)? {
            Prepared::Ready(pipeline) => pipeline,
            Prepared::Waiting(waiting) => waiting.complete().await?,
        };
        let running = pipeline.start().await?;
        match running.task.await {
            Ok(outcome) => outcome?,
            Err(error) => return Err(Failure::Error(Error::data(error.to_string()))),
        }
        Ok(running.served.metrics().totals())
    })?;
    eprintln!("{} rows in", rows.source_rows);
    for (sink, count) in rows.sink_rows {
        eprintln!("{count} rows out: {}", args.out.join(format!("{sink}.ndjson")).display());
    }
    Ok(())
}

fn rewire(mut table: Table, args: &ReplayArgs) -> Result<Table> {
    let mut inputs = Vec::new();
    for input in &args.inputs {
        let (name, path) = input.split_once('=').ok_or_else(|| {
            Error::config(format!("--input {input}: write SOURCE=FILE, e.g. plant=plant.messages"))
        })?;
        inputs.push((name, path));
    }
    table.remove("broker");
    if let Some(Value::Table(pipeline)) = table.get_mut("pipeline") {
        pipeline.remove("data_dir");
        pipeline.remove("log");
    }
    let sources = section(&mut table, "source");
    if let Some((name, _)) = inputs.iter().find(|(name, _)| !sources.contains_key(*name)) {
        return Err(Error::config(format!("--input {name}=…: the pipeline has no source `{name}`")));
    }
    for (name, source) in sources.iter_mut() {
        let Some((_, path)) = inputs.iter().find(|(input, _)| input == name) else {
            return Err(Error::config(format!("source `{name}` has no data: add --input {name}=FILE")));
        };
        let Value::Table(old) = source else { continue };
        let mut new = Table::from_iter([
            ("type".to_owned(), Value::from("file")),
            ("path".to_owned(), Value::from(*path)),
        ]);
        new.extend(
            old.iter()
                .filter(|(key, _)| DECODE_KEYS.contains(&key.as_str()))
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        if let (Some(topics), true) = (old.get("topics"), path.ends_with(".messages")) {
            new.insert("topics".to_owned(), topics.clone());
        }
        if path.ends_with(".parquet") {
            new.remove("format");
            new.remove("fields");
        }
        *source = Value::Table(new);
    }
    for (name, sink) in section(&mut table, "sink").iter_mut() {
        let inputs = sink.get("inputs").cloned().unwrap_or(Value::Array(Vec::new()));
        let path = args.out.join(format!("{name}.ndjson")).display().to_string();
        *sink = Value::Table(Table::from_iter([
            ("type".to_owned(), Value::from("file")),
            ("inputs".to_owned(), inputs),
            ("path".to_owned(), Value::from(path)),
            ("existing".to_owned(), Value::from("replace")),
        ]));
    }
    Ok(table)
}

pub(super) fn section<'t>(table: &'t mut Table, name: &str) -> &'t mut Table {
    if !table.get(name).is_some_and(Value::is_table) {
        table.insert(name.to_owned(), Value::Table(Table::new()));
    }
    match table.get_mut(name) {
        Some(Value::Table(section)) => section,
        _ => unreachable!("it was made a table just above"),
    }
}
