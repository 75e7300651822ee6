//! `tidegate bench`: what this program costs on this machine, beside plain loops that do the same work.
//!
//! Every variant is a process of its own, fed by a process that sends MQTT as fast as the socket takes it. CPU
//! time and peak memory are the operating system's account of the variant's process. Variants take turns, so
//! that a machine whose speed drifts treats them alike; medians are printed.

mod broker;
mod codec;
mod cut;
mod firehose;
mod loops;
mod startup;
mod tidegate;
mod usage;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{Failure, Outcome};
use crate::error::{Error, Result};
use crate::registry::Registry;

/// Arguments of `tidegate bench`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate bench ingest --messages 2000000 --runs 5")]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: What,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum What {
    /// MQTT to windows: bare client, plain loops, and the whole pipeline; and how long a start takes.
    Ingest(IngestArgs),
    /// How small and how fast frames and others' formats are, on your own data.
    Codec(codec::CodecArgs),
    /// The engine's pause at a cut, and what a checkpoint writes, by the number of keys.
    Cut(cut::CutArgs),
    /// Through a Mosquitto at QoS 1: how near it comes to what the broker, the round trip and the disk allow.
    Broker(broker::BrokerArgs),
    /// One variant, as a child process of `ingest`.
    #[command(hide = true)]
    Variant(VariantArgs),
    /// The sender, as a child process of `ingest`.
    #[command(hide = true)]
    Firehose(firehose::FirehoseArgs),
}

/// Arguments of `tidegate bench ingest`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate bench ingest --messages 2000000 --runs 5")]
pub struct IngestArgs {
    /// Messages in each run.
    #[arg(long, default_value_t = 1_000_000)]
    pub messages: u64,
    /// Runs of each variant; the median counts.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Only these variants.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Variant>,
    /// Only this quality of service, 0 or 1.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub qos: Option<u8>,
    /// Messages a second; without it as fast as they are taken.
    #[arg(long)]
    pub rate: Option<u32>,
    /// Print one JSON object per line instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// What consumes the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// (a) rumqttc alone; counts messages.
    Bare,
    /// (b) rumqttc and `serde_json::Value`.
    Value,
    /// (c) rumqttc, a typed parse and windows in a plain loop.
    Loop,
    /// (d) the whole pipeline, no log.
    Pipeline,
    /// (d) the whole pipeline with its log.
    PipelineLog,
    /// (e) the pipeline over `mqtt_listen`, which the sender connects to, no log. At QoS 0 only: without a log, answers wait
    /// for checkpoints.
    Listen,
    /// (e) the same with its log.
    ListenLog,
}

impl Variant {
    /// Whether it is the server, and the sender its client.
    fn listens(self) -> bool {
        matches!(self, Self::Listen | Self::ListenLog)
    }

    /// Whether it has a log.
    fn logs(self) -> bool {
        matches!(self, Self::PipelineLog | Self::ListenLog)
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Starts it as a process of its own.
    fn start(self, port: u16, messages: u64, qos: u8, resume: bool, directory: &Path) -> Result<Child> {
        let program = std::env::current_exe().map_err(|error| Error::io("finding this program", &error))?;
        Command::new(&program)
            .args(["--log-level", "error", "bench", "variant", &self.name(), "--port", &port.to_string()])
            .args(["--messages", &messages.to_string(), "--qos", &qos.to_string()])
            .args(resume.then_some("--resume"))
            .arg("--directory")
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Error::io("starting the variant", &error))
    }

    /// Waits for its end, and for what it says then.
    fn reports(self, process: &mut Child) -> Result<Measured> {
        let line = first_line(process);
        let _ = process.wait();
        let line = line?;
        serde_json::from_str(&line)
            .map_err(|error| Error::data(format!("{} reports `{}`: {error}", self.name(), line.trim())))
    }
}

/// Arguments of a variant.
#[derive(Debug, Args)]
pub struct VariantArgs {
    /// Which.
    #[arg(value_enum)]
    pub variant: Variant,
    /// Where the sender listens, or is listened for.
    #[arg(long)]
    pub port: u16,
    /// Messages to take.
    #[arg(long)]
    pub messages: u64,
    /// Quality of service.
    #[arg(long)]
    pub qos: u8,
    /// Go on with the session that the broker keeps.
    #[arg(long)]
    pub resume: bool,
    /// Where results go.
    #[arg(long)]
    pub directory: PathBuf,
}

/// What a variant reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// Messages taken.
    pub messages: u64,
    /// Seconds from the first message to the last.
    pub seconds: f64,
    /// CPU seconds of the process, user and system.
    pub cpu_seconds: f64,
    /// Largest resident memory, in bytes.
    pub peak_bytes: u64,
    /// Windows written, as a check that the work was done.
    pub windows: u64,
    /// What it wrote to its log.
    pub log: LogWrites,
    /// Bytes that the process gave to the disk, as the operating system counts them.
    pub disk_bytes: u64,
}

/// What was written to a log.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct LogWrites {
    /// Bytes appended.
    pub bytes: u64,
    /// Times that it was synced.
    pub syncs: u64,
}

/// Runs a benchmark.
///
/// # Errors
/// If a child process cannot be started or does not do its work.
pub fn run(args: BenchArgs, registry: &Registry) -> Outcome {
    match args.what {
        What::Ingest(args) => ingest(&args),
        What::Codec(args) => codec::run(&args),
        What::Cut(args) => cut::run(&args, registry),
        What::Broker(args) => broker::run(&args),
        What::Variant(args) => {
            let measured = match args.variant {
                Variant::Bare | Variant::Value | Variant::Loop => loops::run(&args)?,
                Variant::Pipeline | Variant::PipelineLog | Variant::Listen | Variant::ListenLog => {
                    tidegate::run(&args)?
                }
            };
            let line = serde_json::to_string(&measured).map_err(|error| Error::data(error.to_string()))?;
            println!("{line}");
            Ok(())
        }
        What::Firehose(args) => firehose::run(&args).map_err(Failure::Error),
    }
}

const VARIANTS: [(Variant, &str); 7] = [
    (Variant::Bare, "(a) rumqttc alone"),
    (Variant::Value, "(b) rumqttc + serde_json::Value"),
    (Variant::Loop, "(c) rumqttc + typed parse + windows"),
    (Variant::Pipeline, "(d) Tidegate pipeline"),
    (Variant::PipelineLog, "(d) Tidegate pipeline with log"),
    (Variant::Listen, "(e) the same, mqtt_listen"),
    (Variant::ListenLog, "(e) the same, mqtt_listen with log"),
];

fn ingest(args: &IngestArgs) -> Outcome {
    let chosen = |variant: &Variant| args.only.is_empty() || args.only.contains(variant);
    for qos in [0u8, 1].into_iter().filter(|qos| args.qos.is_none_or(|only| only == *qos)) {
        let mut results: Vec<(Variant, &str, Vec<Measured>)> = VARIANTS
            .iter()
            .filter(|(variant, _)| chosen(variant) && (qos == 0 || *variant != Variant::Listen))
            .map(|(v, name)| (*v, *name, Vec::new()))
            .collect();
        for run in 0..args.runs {
            for (variant, name, measured) in &mut results {
                eprintln!("QoS {qos}, run {} of {}: {name}", run + 1, args.runs);
                measured.push(measure(*variant, args.messages, qos, args.rate)?);
            }
        }
        if args.json {
            for (variant, _, measured) in &results {
                println!("{}", serde_json::json!({ "qos": qos, "variant": variant, "runs": measured }));
            }
        } else {
            print_table(qos, args.messages, &results);
        }
    }
    if args.only.is_empty() {
        starts(args)?;
    }
    Ok(())
}

/// How long it takes from the start of the process to the first row.
fn starts(args: &IngestArgs) -> Result<()> {
    let directory = bench_directory();
    for (log, name) in [(false, "without a log"), (true, "with a log")] {
        let runs = (0..args.runs.max(3)).map(|_| startup::measure(&directory, log));
        let runs: Vec<startup::Started> = runs.collect::<Result<_>>()?;
        if args.json {
            println!("{}", serde_json::json!({ "start": name, "runs": runs }));
            continue;
        }
        let of = |what: fn(&startup::Started) -> f64| median(runs.iter().map(what));
        println!(
            "\nStart {name}, medians of {} runs: CONNECT after {:.0} ms, SUBSCRIBE after {:.0} ms, first row in the \
             file after {:.0} ms (of which a batch waits for others up to 20 ms).",
            runs.len(),
            of(|run| run.connect_ms),
            of(|run| run.subscribe_ms),
            of(|run| run.row_ms)
        );
    }
    Ok(())
}

fn bench_directory() -> PathBuf {
    std::env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()))
}

/// One run of a variant against a fresh sender.
fn measure(variant: Variant, messages: u64, qos: u8, rate: Option<u32>) -> Result<Measured> {
    let program = std::env::current_exe().map_err(|error| Error::io("finding this program", &error))?;
    let failed = |what: &str, error: &std::io::Error| Error::io(format!("starting the {what}"), error);
    let start_sender = |to: Option<u16>| {
        let mut sender = Command::new(&program);
        sender.args(["bench", "firehose", "--messages", &messages.to_string(), "--qos", &qos.to_string()]);
        sender.args(to.map(|port| format!("--to={port}"))).args(rate.map(|rate| format!("--rate={rate}")));
        sender.stdout(Stdio::piped()).spawn().map_err(|error| failed("sender", &error))
    };
    let (port, sender) = if variant.listens() {
        (free_port()?, None)
    } else {
        let mut sender = start_sender(None)?;
        let line = first_line(&mut sender)?;
        let port =
            line.trim().parse().map_err(|_| Error::data(format!("the sender says `{line}`, no port")))?;
        (port, Some(sender))
    };
    let directory = bench_directory();
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)
        .map_err(|error| Error::io("making a directory for results", &error))?;
    let mut consumer = variant.start(port, messages, qos, false, &directory)?;
    let mut sender = match sender {
        Some(sender) => sender,
        None => start_sender(Some(port))?,
    };
    let measured = variant.reports(&mut consumer);
    let _ = sender.kill();
    let _ = sender.wait();
    let _ = std::fs::remove_dir_all(&directory);
    measured
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0");
    let port = listener.and_then(|listener| listener.local_addr()).map(|address| address.port());
    port.map_err(|error| Error::io("finding a free port", &error))
}

fn first_line(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(|error| Error::io("reading from a child", &error))?;
    }
    Ok(line)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print_table(qos: u8, messages: u64, results: &[(Variant, &str, Vec<Measured>)]) {
    let cpu = |measured: &[Measured]| {
        median(measured.iter().map(|run| run.cpu_seconds * 1e6 / run.messages as f64))
    };
    let of =
        |wanted: Variant| results.iter().find(|(variant, ..)| *variant == wanted).map(|(.., runs)| cpu(runs));
    let (bare, plain) = (of(Variant::Bare), of(Variant::Loop));
    println!("\nQoS {qos}, {messages} messages of about 60 bytes of JSON, 100 devices, medians:");
    println!(
        "{:<36} {:>12} {:>14} {:>8} {:>8} {:>10} {:>9}",
        "variant", "messages/s", "CPU s/million", "÷ (a)", "÷ (c)", "peak MiB", "windows"
    );
    for (_, name, measured) in results {
        let ratio = |reference: Option<f64>| match reference {
            Some(reference) => format!("{:.2}", cpu(measured) / reference),
            None => "–".to_owned(),
        };
        println!(
            "{name:<36} {:>12.0} {:>14.3} {:>8} {:>8} {:>10.1} {:>9}",
            median(measured.iter().map(|run| run.messages as f64 / run.seconds)),
            cpu(measured),
            ratio(bare),
            ratio(plain),
            median(measured.iter().map(|run| run.peak_bytes as f64)) / f64::from(1 << 20),
            measured.first().map_or(0, |run| run.windows),
        );
    }
    for (_, name, measured) in results.iter().filter(|(variant, ..)| variant.logs()) {
        let per = |of: fn(&Measured) -> f64| median(measured.iter().map(of));
        println!(
            "{name}: {:.1} bytes of log a message, {:.1} bytes to the disk in all, {:.0} syncs a second",
            per(|run| run.log.bytes as f64 / run.messages as f64),
            per(|run| run.disk_bytes as f64 / run.messages as f64),
            per(|run| run.log.syncs as f64 / run.seconds),
        );
    }
}
