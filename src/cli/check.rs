//! `tidegate check` and `tidegate graph`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::files::{LoadFailure, PipelineFile, load};
use super::prepare::show_warnings;
use super::{Failure, Outcome, PipelineArgs};
use crate::config::limits::about;
use crate::config::wear::per_year;
use crate::config::{Bounds, Outline, Pipeline, Planned, SpoolFull, Unsampled, Wear, draw};
use crate::error::Error;
use crate::registry::Registry;
use crate::runtime::durable::{FoundColumns, peek_columns};

/// Arguments of `tidegate check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate check pipelines/*.toml
  tidegate check press-line.toml --sample plant.messages --rate 5000")]
pub struct CheckArgs {
    /// Pipeline files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Sample messages of sources without `fields`, as `tidegate infer` takes them: checks all over the columns in them.
    /// With several such sources, one for each: `SOURCE=FILE`.
    #[arg(long = "sample", value_name = "[SOURCE=]FILE")]
    pub samples: Vec<String>,
    /// Messages per second, over all sources: says for how long the log holds while a sink is away, and refuses a rate
    /// that acknowledgements at checkpoints cannot keep up with. Messages are as large as those of `--sample`, or 100 B.
    #[arg(long, value_name = "MESSAGES_PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// What every pipeline command takes.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

/// Arguments of `tidegate graph`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate graph press-line.toml --format dot | dot -Tsvg > press-line.svg")]
pub struct GraphArgs {
    /// Pipeline file.
    pub file: PathBuf,
    /// The drawing's language.
    #[arg(long, value_enum, default_value_t = Drawing::Mermaid)]
    pub format: Drawing,
    /// What every pipeline command takes.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

/// The language of a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Drawing {
    /// Mermaid, as shown by many Markdown viewers.
    Mermaid,
    /// Graphviz.
    Dot,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write a number of messages per second above 0".to_owned()),
    }
}

/// The size of a message when there is no sample.
const MESSAGE_BYTES: f64 = 100.0;

/// Checks files; all are looked at even when the first is wrong.
///
/// # Errors
/// If one is wrong.
pub fn check(args: &CheckArgs, registry: &Registry) -> Outcome {
    let styled = std::io::stderr().is_terminal();
    let mut wrong = false;
    for path in &args.files {
        let planned = PipelineFile::read(path, &args.pipeline, registry);
        match planned.and_then(|file| plan(&file, &args.samples)) {
            Ok((Planned::Ready(pipeline), message_bytes)) => {
                show_warnings(&pipeline.warnings);
                wrong |= !print_summary(&path.display().to_string(), &pipeline, args.rate, message_bytes);
            }
            Ok((Planned::Unsampled(outline), _)) => {
                show_warnings(&outline.warnings);
                println!(
                    "{}: pipeline `{}` is fine as far as can be said: columns are unknown",
                    path.display(),
                    outline.settings.name
                );
            }
            Err(LoadFailure::Diagnostics(diagnostics)) => {
                eprintln!("{}", diagnostics.render(styled));
                wrong = true;
            }
            Err(LoadFailure::Error(error)) => {
                eprintln!("error: {error}");
                wrong = true;
            }
        }
    }
    if wrong { Err(Failure::Code(2)) } else { Ok(()) }
}

/// Checks a file over the columns in samples, over those that its data directory keeps, or without. With samples, the
/// mean size of a message too.
fn plan(file: &PipelineFile, samples: &[String]) -> Result<(Planned, Option<f64>), LoadFailure> {
    if samples.is_empty() {
        return Ok((file.plan_kept()?, None));
    }
    let wrong = |message: String| LoadFailure::Error(Error::config(message));
    let Planned::Unsampled(outline) = file.plan(&FoundColumns::new())? else {
        let message = "--sample: all sources of this pipeline say their columns; leave it out";
        return Err(wrong(format!("{}: {message}", file.name())));
    };
    let mut found = match &outline.settings.data_dir {
        Some(root) => peek_columns(Path::new(root), &outline.settings.name).map_err(LoadFailure::Error)?,
        None => FoundColumns::new(),
    };
    let mut sizes: Vec<usize> = Vec::new();
    for sample in samples {
        let (source, path) = sampled(&outline, sample).map_err(wrong)?;
        let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("{path}: {error}")))?;
        let messages = source.finder.messages(&text);
        let columns = source.finder.columns(&messages).map_err(|error| wrong(format!("{path}: {error}")))?;
        sizes.extend(messages.iter().map(|message| message.len()));
        found.insert(source.source.name.clone(), columns);
    }
    let mean = sizes.iter().sum::<usize>() as f64 / sizes.len().max(1) as f64;
    Ok((file.plan(&found)?, Some(mean)))
}

/// The source that a sample is of, and the path of its file.
fn sampled<'o, 's>(outline: &'o Outline, sample: &'s str) -> Result<(&'o Unsampled, &'s str), String> {
    let names: Vec<&str> = outline.unsampled.iter().map(|source| source.source.name.as_str()).collect();
    match (sample.split_once('='), outline.unsampled.as_slice()) {
        (Some((name, path)), sources) if !name.contains(['/', '.']) => {
            let known = names.join(", ");
            let source = sources.iter().find(|source| source.source.name == name);
            let source = source
                .ok_or_else(|| format!("--sample {sample}: the sources without `fields` are: {known}"))?;
            Ok((source, path))
        }
        (_, [source]) => Ok((source, sample)),
        _ => Err(format!(
            "--sample {sample}: several sources have no `fields`; say of which one, for example `--sample {}={sample}`",
            names[0]
        )),
    }
}

/// Says what the pipeline is and needs; whether all is well.
fn print_summary(path: &str, pipeline: &Pipeline, rate: Option<f64>, message_bytes: Option<f64>) -> bool {
    let bounds = pipeline.bounds();
    if let Some(refusal) = rate.and_then(|rate| too_fast(pipeline, &bounds, rate)) {
        eprintln!("error: {path}: {refusal}");
        return false;
    }
    println!("{path}: pipeline `{}` is fine", pipeline.name());
    let nodes = &pipeline.graph.nodes;
    println!(
        "  {} sources, {} operators, {} sinks",
        pipeline.sources.len(),
        nodes.len() - pipeline.sources.len(),
        pipeline.sinks.len()
    );
    for source in &pipeline.sources {
        for note in &source.notes {
            println!("  note: source {}: {note}", source.name);
        }
    }
    for sink in &pipeline.sinks {
        for note in &sink.notes {
            println!("  note: sink {}: {note}", sink.name);
        }
    }
    match (&pipeline.settings.data_dir, pipeline.has_log()) {
        (None, _) => println!("  note: no data directory: nothing survives a restart"),
        (Some(directory), true) => println!("  log and checkpoints in {directory}: acknowledged when synced"),
        (Some(directory), false) => {
            println!("  checkpoints in {directory}, no log: acknowledged at checkpoints")
        }
    }
    print_bounds(pipeline, &bounds);
    if let Some(rate) = rate {
        print_outage(&bounds, rate, message_bytes.unwrap_or(MESSAGE_BYTES));
    }
    true
}

/// Why so many messages per second cannot be taken, if so: it is certain only where all sources wait for checkpoints.
fn too_fast(pipeline: &Pipeline, bounds: &Bounds, rate: f64) -> Option<String> {
    let most: f64 = bounds.rates_max.iter().map(|(_, rate)| rate).sum();
    let all_wait = bounds.rates_max.len() == pipeline.sources.len();
    (all_wait && rate > most).then(|| {
        format!(
            "{rate} messages/s are more than can be acknowledged: without a log at most {most:.0} messages/s, those \
             under way ÷ the checkpoint interval; give it a data directory and a log, a shorter `checkpoint`, or a \
             larger `in_flight`"
        )
    })
}

fn print_bounds(pipeline: &Pipeline, bounds: &Bounds) {
    for (source, most) in &bounds.rates_max {
        println!(
            "  note: source {source}: at most {most:.0} messages/s, for they are acknowledged at the checkpoint (every {}) \
             and no more than `in_flight` wait for it; the broker's own limit may be lower (Mosquitto: 20)",
            pipeline.settings.checkpoint
        );
    }
    println!(
        "  memory: messages at most {} in {} batches, and one message for each; results about {} in at most {} batches",
        about(bounds.batches.bytes),
        bounds.batches.count,
        about(bounds.results_bytes),
        bounds.results
    );
    for (name, keyed) in &bounds.keeping {
        for kept in &keyed.kept {
            println!(
                "  memory: {name} keeps at most {} {} (`{}`) of up to about {}: {} when full",
                kept.max,
                kept.what,
                kept.key,
                about(kept.bytes as u64),
                about(kept.bytes_max())
            );
        }
    }
    if pipeline.settings.data_dir.is_some() {
        if !bounds.keeping.is_empty() {
            println!(
                "  memory: of this, what changes while a checkpoint is written is there twice meanwhile"
            );
        }
        let retained = match bounds.retained_bytes_max {
            0 => String::new(),
            bytes => format!(" and {} that `retain` keeps", about(bytes)),
        };
        let log = bounds.log_bytes_max.map(|bytes| format!("log at most {}{retained}; ", about(bytes)));
        let log = log.unwrap_or_default();
        println!(
            "  disk: {log}two checkpoints, each with what it builds on, and one in the making, together at most about {} \
             when all state is full and little of it changes",
            about(bounds.checkpoint_bytes)
        );
        print_spools(bounds);
    }
}

fn print_spools(bounds: &Bounds) {
    for (sink, spool) in &bounds.spools {
        let when_full = match spool.on_full {
            SpoolFull::Block => "the pipeline waits when it is full",
            SpoolFull::DropOldest => "the oldest rows are dropped when it is full",
        };
        println!("  disk: spool of {sink} at most {}; {when_full}", about(spool.bytes_max));
    }
    if bounds.dead_letters_bytes > 0 {
        println!("  disk: dead letters at most {}", about(bounds.dead_letters_bytes));
    }
    let all = bounds.spools.iter().map(|(_, spool)| spool.bytes_max).sum::<u64>()
        + bounds.dead_letters_bytes
        + bounds.log_bytes_max.unwrap_or(0)
        + bounds.retained_bytes_max
        + bounds.checkpoint_bytes;
    println!("  disk: {} in all", about(all));
}

fn print_outage(bounds: &Bounds, rate: f64, message_bytes: f64) {
    let at_least = bounds.outage_seconds(rate, message_bytes);
    let likely = bounds.likely_outage_seconds(rate, message_bytes);
    let (Some(at_least), Some(likely)) = (at_least, likely) else {
        println!("  outage: there is no log; sources wait as soon as sinks take nothing");
        return;
    };
    println!(
        "  outage: with {rate} messages/s of {message_bytes:.0} B the log holds {} while sinks take nothing, at least {} \
         where messages cannot be shortened; then sources wait",
        for_about(likely),
        for_about(at_least)
    );
    if let Some(wear) = bounds.wear(rate, message_bytes) {
        print_wear(&wear);
    }
}

fn for_about(seconds: f64) -> String {
    match seconds / 3600.0 {
        hours if hours >= 1.0 => format!("about {hours:.1} hours"),
        hours => format!("about {:.0} minutes", hours * 60.0),
    }
}

/// Bytes that a flash of 8 GB bears to be written with 3000 erasures of each block: an ordinary eMMC.
const EMMC_BYTES: f64 = 8e9 * 3000.0;

fn print_wear(wear: &Wear) {
    println!(
        "  flash: the log writes about {} a year into its files, and the device about {} for it: {:.1} times as much, for \
         each of up to {:.0} syncs a second writes whole pages; checkpoints up to {} a year when all state is full",
        about(per_year(wear.file_bytes)),
        about(per_year(wear.device_bytes)),
        wear.device_bytes / wear.file_bytes,
        wear.syncs,
        about(per_year(wear.checkpoint_bytes))
    );
    let years = EMMC_BYTES / per_year(wear.device_bytes + wear.checkpoint_bytes).max(1) as f64;
    println!("  flash: an eMMC of 8 GB that bears 3000 erasures lasts about {years:.1} years of this");
    if years < 5.0 {
        println!("  warning: to write less, raise `batch.age` and `checkpoint`, or lower `max_keys`");
    }
}

/// Draws a graph.
///
/// # Errors
/// If the file is wrong.
pub fn graph(args: &GraphArgs, registry: &Registry) -> Outcome {
    let pipeline = load(&args.file, &args.pipeline, registry)?;
    let text = match args.format {
        Drawing::Mermaid => draw::mermaid(&pipeline),
        Drawing::Dot => draw::dot(&pipeline),
    };
    print!("{text}");
    Ok(())
}
