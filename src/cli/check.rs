//! `tidegate check` and `tidegate graph`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::files::{LoadFailure, PipelineFile, load};
use super::prepare::show_warnings;
use super::{Failure, Outcome, PipelineArgs};
use crate::config::{Pipeline, Planned, draw};
use crate::error::Error;
use crate::runtime::durable::{FoundColumns, peek_columns};

/// Arguments of `tidegate check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Pipeline files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Sample messages of sources without `fields`, as `tidegate infer` takes them: checks all over the columns in them.
    /// With several such sources, one for each: `SOURCE=FILE`.
    #[arg(long = "sample", value_name = "[SOURCE=]FILE")]
    pub samples: Vec<String>,
    /// What every pipeline command takes.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

/// Arguments of `tidegate graph`.
#[derive(Debug, Args)]
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

/// Checks files; all are looked at even when the first is wrong.
///
/// # Errors
/// If one is wrong.
pub fn check(args: &CheckArgs) -> Outcome {
    let styled = std::io::stderr().is_terminal();
    let mut wrong = false;
    for path in &args.files {
        let planned = PipelineFile::read(path, &args.pipeline);
        match planned.and_then(|file| plan(&file, &args.samples)) {
            Ok(Planned::Ready(pipeline)) => {
                show_warnings(&pipeline.warnings);
                print_summary(&path.display().to_string(), &pipeline);
            }
            Ok(Planned::Unsampled(outline)) => {
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

/// Checks a file over the columns in samples, over those that its data directory keeps, or without.
fn plan(file: &PipelineFile, samples: &[String]) -> Result<Planned, LoadFailure> {
    if samples.is_empty() {
        return file.plan_kept();
    }
    let wrong = |message: String| LoadFailure::Error(Error::config(message));
    let Planned::Unsampled(outline) = file.plan(&FoundColumns::new())? else {
        let message = "--sample: all sources of this pipeline say their columns; leave it out";
        return Err(wrong(format!("{}: {message}", file.name())));
    };
    let names: Vec<&str> = outline.unsampled.iter().map(|source| source.source.name.as_str()).collect();
    let mut found = match &outline.settings.data_dir {
        Some(root) => peek_columns(Path::new(root), &outline.settings.name).map_err(LoadFailure::Error)?,
        None => FoundColumns::new(),
    };
    for sample in samples {
        let (source, path) = match (sample.split_once('='), outline.unsampled.as_slice()) {
            (Some((name, path)), sources) if !name.contains(['/', '.']) => {
                let source = sources.iter().find(|source| source.source.name == name);
                let known = names.join(", ");
                let missing =
                    || wrong(format!("--sample {sample}: the sources without `fields` are: {known}"));
                (source.ok_or_else(missing)?, path)
            }
            (_, [source]) => (source, sample.as_str()),
            _ => {
                let message = "several sources have no `fields`; say of which one, for example";
                return Err(wrong(format!("--sample {sample}: {message} `--sample {}={sample}`", names[0])));
            }
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("{path}: {error}")))?;
        let columns = source.finder.columns_in(&text).map_err(|error| wrong(format!("{path}: {error}")))?;
        found.insert(source.source.name.clone(), columns);
    }
    file.plan(&found)
}

fn print_summary(path: &str, pipeline: &Pipeline) {
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
}

/// Draws a graph.
///
/// # Errors
/// If the file is wrong.
pub fn graph(args: &GraphArgs) -> Outcome {
    let pipeline = load(&args.file, &args.pipeline)?;
    let text = match args.format {
        Drawing::Mermaid => draw::mermaid(&pipeline),
        Drawing::Dot => draw::dot(&pipeline),
    };
    print!("{text}");
    Ok(())
}
