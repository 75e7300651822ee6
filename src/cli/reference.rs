//! `tidegate schema`, `explain`, `list` and `completions`: what can be known without a pipeline.

use clap::{Args, CommandFactory};

use super::{Cli, Outcome};
use crate::config;
use crate::registry::Registry;

/// Arguments of `tidegate explain`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate explain window")]
pub struct ExplainArgs {
    /// A component's type, e.g. `window`; without it, the reference of everything.
    #[arg(name = "TYPE")]
    pub name: Option<String>,
}

/// Arguments of `tidegate completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate completions bash > /etc/bash_completion.d/tidegate")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Prints the JSON Schema of pipeline files.
///
/// # Errors
/// Never.
pub fn schema(registry: &Registry) -> Outcome {
    println!("{:#}", config::schema(registry));
    Ok(())
}

/// Prints the reference of a component, or of all.
///
/// # Errors
/// If there is no component of that name.
pub fn explain(args: &ExplainArgs, registry: &Registry) -> Outcome {
    match &args.name {
        Some(name) => print!("{}", config::explain(registry, name)?),
        None => print!("{}", config::reference(registry)),
    }
    Ok(())
}

/// Prints the components, a line each.
///
/// # Errors
/// Never.
pub fn list(registry: &Registry) -> Outcome {
    let line = |kind: &str, name: &str, schema: schemars::Schema| {
        let text = schema.get("description").and_then(|text| text.as_str()).unwrap_or("");
        let sentence = text.split("\n\n").next().unwrap_or("").replace('\n', " ");
        let end = sentence.find(". ").map_or(sentence.len(), |dot| dot + 1);
        println!("{kind:<9} {name:<12} {}", &sentence[..end]);
    };
    registry.sources.iter().for_each(|component| line("source", component.name, (component.schema)()));
    registry.operators.iter().for_each(|component| line("operator", component.name, (component.schema)()));
    registry.sinks.iter().for_each(|component| line("sink", component.name, (component.schema)()));
    Ok(())
}

/// Prints a completion script.
///
/// # Errors
/// Never.
pub fn completions(args: &CompletionsArgs) -> Outcome {
    clap_complete::generate(args.shell, &mut Cli::command(), "tidegate", &mut std::io::stdout());
    Ok(())
}
