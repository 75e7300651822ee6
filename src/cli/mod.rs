//! The command line: one file per subcommand.
//!
//! It is a library so that a program with components of its own has all of it: see [`main_with`].

pub mod bench;
pub mod check;
pub mod dead_letters;
pub mod decode;
pub mod demo;
pub mod eval;
pub mod files;
pub mod infer;
pub mod log;
pub mod log_export;
pub mod log_replay;
pub mod model;
pub mod prepare;
pub mod reference;
pub mod replay;
pub mod run;
pub mod state;
pub mod status;
pub mod tables;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::config::Diagnostics;
use crate::error::{Error, Kind};
use crate::registry::Registry;

/// Streaming dataflow for time-series analytics on industrial gateways.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about,
    max_term_width = 100,
    after_help = "Examples:
  tidegate demo                                 a simulated plant, end to end, in this terminal
  tidegate check pipelines/press-line.toml      find what is wrong with a file, all at once
  tidegate run pipelines/press-line.toml --data-dir /var/lib/tidegate
  tidegate explain window                       the reference of one component

Exit codes: 0 fine, 1 failure while running, 2 usage or configuration, 3 the demo missed a fault,
75 stopped with work in the log, 130 second signal."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines on standard error look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Which log lines are shown: error, warn, info, debug, trace, or a filter such as
    /// `info,tidegate::source=debug`.
    #[arg(long, global = true, value_name = "LEVEL", env = "TIDEGATE_LOG", default_value = "info")]
    pub log_level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run pipelines until their sources end or a signal comes.
    Run(run::RunArgs),
    /// Ask a running process how its pipelines do, and on whom they wait.
    Status(status::StatusArgs),
    /// Check pipeline files without touching anything.
    Check(check::CheckArgs),
    /// Run a pipeline over recorded data, as fast as it goes, sinks to files.
    Replay(replay::ReplayArgs),
    /// Look into the input log of a pipeline: show, verify, export.
    Log(log::LogArgs),
    /// Turn compressed frames back into rows.
    Decode(decode::DecodeArgs),
    /// Train, inspect and try models.
    Model(model::ModelArgs),
    /// Tell how good a detector is, on published benchmarks or labelled files.
    Eval(eval::EvalArgs),
    /// Look at what could not be delivered or used, and send it again.
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Look at sample payloads and write the `format` and `fields` of a source.
    Infer(infer::InferArgs),
    /// Draw the graph of a pipeline.
    Graph(check::GraphArgs),
    /// Print the JSON Schema of pipeline files, for editors.
    #[command(after_help = "Example:
  tidegate schema > tidegate.schema.json")]
    Schema,
    /// Print the reference of a component, or of all.
    Explain(reference::ExplainArgs),
    /// List the components.
    #[command(after_help = "Example:
  tidegate list")]
    List,
    /// A simulated plant, a broker and a pipeline, end to end in this terminal.
    Demo(demo::DemoArgs),
    /// Look at saved state.
    State(state::StateArgs),
    /// Measure this program beside plain loops that do the same work.
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell.
    Completions(reference::CompletionsArgs),
}

/// Arguments of every subcommand that reads pipeline files.
#[derive(Debug, Clone, Default, Args)]
pub struct PipelineArgs {
    /// Keep state, log and models here; without it, and without `data_dir` in the file, nothing survives a restart.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Override a value of the file, e.g. `--set source.plant.url=mqtt://10.0.0.7`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// Why a command ended without success.
pub enum Failure {
    /// Something failed.
    Error(Error),
    /// Pipeline files are wrong.
    Diagnostics(Diagnostics),
    /// With a code of its own, everything said already.
    Code(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::Diagnostics(diagnostics)
    }
}

/// What a command gives.
pub type Outcome = Result<(), Failure>;

/// The exit code for work that waits in the log.
pub const EXIT_STOPPED_EARLY: u8 = 75;

/// The exit code for wrong usage or configuration.
const EXIT_USAGE: u8 = 2;

/// The whole command line over these components: reads the arguments, starts the log, runs the command. A program
/// with operators of its own is this, with `builtin::registry().operator::<Mine>()`, in its `main`.
pub fn main_with(registry: Registry) -> ExitCode {
    refuse_huge_pages();
    let cli = Cli::parse();
    let started = registry.check_names().and_then(|()| start_log(&cli));
    if let Err(error) = started {
        eprintln!("error: {error}");
        return ExitCode::from(EXIT_USAGE);
    }
    dispatch(cli, &registry)
}

/// Asks the system not to back memory with huge pages. Buffers of a megabyte that come and go would each keep two
/// megabytes resident: peak memory halves without them, at the same CPU time. A system that knows no such
/// request goes on as it is.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Clients and brokers that tell of every connection and packet, and call an ordinary good-bye an error.
const TALKATIVE: [&str; 2] = ["rumqttc", "rumqttd"];

/// Which log lines are shown: what was asked for, and the talkative only where they are named.
fn log_filter(asked: &str, is_demo: bool) -> String {
    // The demo's picture is not to be broken by what goes as it should.
    let mut filter = if is_demo && asked == "info" { "warn" } else { asked }.to_owned();
    for target in TALKATIVE.iter().filter(|target| !asked.contains(**target)) {
        filter.push_str(&format!(",{target}=off"));
    }
    filter
}

fn start_log(cli: &Cli) -> crate::Result<()> {
    let filter = EnvFilter::try_new(log_filter(&cli.log_level, matches!(cli.command, Command::Demo(_))))
        .map_err(|error| Error::config(format!("--log-level {}: {error}", cli.log_level)))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => subscriber.with_target(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// Runs a command; says what went wrong.
fn dispatch(cli: Cli, registry: &Registry) -> ExitCode {
    let outcome = match cli.command {
        Command::Run(args) => run::run(args, registry),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => check::check(&args, registry),
        Command::Replay(args) => replay::replay(&args, registry),
        Command::Log(args) => log::run(&args),
        Command::Decode(args) => decode::run(&args).map_err(Failure::Error),
        Command::Model(args) => model::run(&args).map_err(Failure::Error),
        Command::Eval(args) => eval::run(&args, registry),
        Command::DeadLetters(args) => dead_letters::run(&args, registry),
        Command::Infer(args) => infer::infer(&args),
        Command::Graph(args) => check::graph(&args, registry),
        Command::Schema => reference::schema(registry),
        Command::Explain(args) => reference::explain(&args, registry),
        Command::List => reference::list(registry),
        Command::Demo(args) => demo::run(&args),
        Command::State(args) => state::run(&args),
        Command::Bench(args) => bench::run(args, registry),
        Command::Completions(args) => reference::completions(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Code(code)) => ExitCode::from(code),
        Err(Failure::Diagnostics(diagnostics)) => {
            eprintln!("{}", diagnostics.render(std::io::IsTerminal::is_terminal(&std::io::stderr())));
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Error(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.kind == Kind::Config { EXIT_USAGE } else { 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_help_has_an_example() {
        fn walk(command: &clap::Command, path: &str, without: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if !command.get_after_help().is_some_and(|help| help.to_string().contains("Example")) {
                without.push(path.clone());
            }
            for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
                walk(below, &path, without);
            }
        }
        let mut without = Vec::new();
        walk(&Cli::command(), "", &mut without);
        assert_eq!(without, Vec::<String>::new());
    }

    #[test]
    fn the_talkative_are_heard_only_where_they_are_named() {
        for (asked, is_demo, expected) in [
            ("info", false, "info,rumqttc=off,rumqttd=off"),
            ("info", true, "warn,rumqttc=off,rumqttd=off"),
            ("debug", true, "debug,rumqttc=off,rumqttd=off"),
            ("info,rumqttd=debug", false, "info,rumqttd=debug,rumqttc=off"),
        ] {
            assert_eq!(log_filter(asked, is_demo), expected);
            EnvFilter::try_new(expected).unwrap();
        }
    }
}
