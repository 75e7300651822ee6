//! `tidegate check` and `tidegate graph`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::files::{LoadFailure, load};
use super::{Failure, Outcome, PipelineArgs};
use crate::config::{Pipeline, draw};
use crate::registry::Registry;

/// Arguments of `tidegate check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Pipeline files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
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
pub fn check(args: &CheckArgs, registry: &Registry) -> Outcome {
    let styled = std::io::stderr().is_terminal();
    let mut wrong = false;
    for path in &args.files {
        match load(path, &args.pipeline, registry) {
            Ok(pipeline) => {
                if !pipeline.warnings.is_empty() {
                    eprintln!("{}", pipeline.warnings.render(styled));
                }
                print_summary(&path.display().to_string(), &pipeline);
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
pub fn graph(args: &GraphArgs, registry: &Registry) -> Outcome {
    let pipeline = load(&args.file, &args.pipeline, registry)?;
    let text = match args.format {
        Drawing::Mermaid => draw::mermaid(&pipeline),
        Drawing::Dot => draw::dot(&pipeline),
    };
    print!("{text}");
    Ok(())
}
