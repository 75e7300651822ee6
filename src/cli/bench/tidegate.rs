//! The whole pipeline as a variant: the same code that `tidegate run` runs.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use super::{Measured, Variant, VariantArgs, usage};
use crate::builtin;
use crate::cli::PipelineArgs;
use crate::cli::files::{LoadFailure, load_text};
use crate::cli::run::runtime;
use crate::config::LogMode;
use crate::error::{Error, Result};
use crate::runtime::coordinator::Request;
use crate::runtime::pipeline::start;

const PIPELINE: &str = include_str!("ingest.toml");

/// How often the count of messages is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs the pipeline until it has taken all messages.
///
/// # Errors
/// If the pipeline fails.
pub fn run(args: &VariantArgs) -> Result<Measured> {
    let out = args.directory.join("windows.ndjson");
    let log = args.variant == Variant::PipelineLog;
    let pipeline = PipelineArgs {
        data_dir: log.then(|| args.directory.join("data").display().to_string()),
        set: vec![
            format!("source.plant.url=\"mqtt://127.0.0.1:{}\"", args.port),
            format!("source.plant.qos={}", args.qos),
            format!("source.plant.ack=\"{}\"", if log { "safe" } else { "receive" }),
            "pipeline.log=\"off\"".to_owned(),
            format!("sink.out.path=\"{}\"", out.display()),
        ],
    };
    let mut pipeline = load_text(PIPELINE, "ingest.toml", &pipeline, &builtin::registry()).map_err(
        |failure| match failure {
            LoadFailure::Error(error) => error,
            LoadFailure::Diagnostics(diagnostics) => Error::config(diagnostics.to_string()),
        },
    )?;
    if log {
        // Set behind the check, which refuses a log over QoS 0: its cost there is a figure, not a promise.
        pipeline.settings.log.mode = LogMode::On;
    }
    let (messages, seconds) = runtime()?.block_on(async {
        let running = start(pipeline).await?;
        let mut first = None;
        let mut task = running.task;
        loop {
            tokio::select! {
                outcome = &mut task => {
                    outcome.map_err(|error| Error::data(error.to_string()))??;
                    return Err(Error::data("the pipeline ended before it had everything"));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let rows = running.served.metrics().totals().source_rows;
            if rows > 0 {
                first.get_or_insert_with(Instant::now);
            }
            if rows >= args.messages {
                let _ = running.requests.send(Request::Stop).await;
                task.await.map_err(|error| Error::data(error.to_string()))??;
                return Ok((rows, first.map_or(0.0, |first| first.elapsed().as_secs_f64())));
            }
        }
    })?;
    let (cpu_seconds, peak_bytes) = usage::of_this_process()?;
    let file = std::fs::File::open(&out).map_err(|error| Error::io(out.display(), &error))?;
    let windows = BufReader::new(file).lines().count() as u64;
    Ok(Measured { messages, seconds, cpu_seconds, peak_bytes, windows })
}
