//! The whole pipeline as a variant: the same code that `tidegate run` runs.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use super::broker::CLIENT;
use super::{LogWrites, Measured, VariantArgs, usage};
use crate::builtin;
use crate::cli::PipelineArgs;
use crate::cli::files::{LoadFailure, load_text};
use crate::cli::run::runtime;
use crate::config::LogMode;
use crate::error::{Error, Result};
use crate::runtime::coordinator::Request;
use crate::runtime::pipeline::start;

const PIPELINE: &str = include_str!("ingest.toml");

/// The lines in it that name the source.
const MQTT: &str = "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1883\"\nversion = \"3.1.1\"";

/// How often the count of messages is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs the pipeline until it has taken all messages.
///
/// # Errors
/// If the pipeline fails.
pub fn run(args: &VariantArgs) -> Result<Measured> {
    let out = args.directory.join("windows.ndjson");
    let log = args.variant.logs();
    let (text, source) = if args.variant.listens() {
        let listen =
            format!("type = \"mqtt_listen\"\nlisten = \"127.0.0.1:{}\"\nanonymous = true", args.port);
        // As many under way as the sender likes.
        (PIPELINE.replace(MQTT, &listen), vec!["source.plant.in_flight=65535".to_owned()])
    } else {
        let mut set = vec![
            format!("source.plant.url=\"mqtt://127.0.0.1:{}\"", args.port),
            format!("source.plant.qos={}", args.qos),
            format!("source.plant.ack=\"{}\"", if log { "safe" } else { "receive" }),
        ];
        set.extend(args.resume.then(|| format!("source.plant.client_id=\"{CLIENT}\"")));
        (PIPELINE.to_owned(), set)
    };
    let pipeline = PipelineArgs {
        data_dir: log.then(|| args.directory.join("data").display().to_string()),
        set: source
            .into_iter()
            .chain(["pipeline.log=\"off\"".to_owned(), format!("sink.out.path=\"{}\"", out.display())])
            .collect(),
    };
    let mut pipeline = load_text(&text, "ingest.toml", &pipeline, &builtin::registry()).map_err(
        |failure| match failure {
            LoadFailure::Error(error) => error,
            LoadFailure::Diagnostics(diagnostics) => Error::config(diagnostics.to_string()),
        },
    )?;
    if log {
        // Set behind the check, which refuses a log over QoS 0: its cost there is a figure, not a promise.
        pipeline.settings.log.mode = LogMode::On;
    }
    let (messages, seconds, log) = runtime()?.block_on(async {
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
            let metrics = running.served.metrics();
            let rows = metrics.totals().source_rows;
            if rows > 0 {
                first.get_or_insert_with(Instant::now);
            }
            if rows >= args.messages {
                let _ = running.requests.send(Request::Stop).await;
                task.await.map_err(|error| Error::data(error.to_string()))??;
                let (bytes, syncs) = metrics.log_writes();
                return Ok((
                    rows,
                    first.map_or(0.0, |first| first.elapsed().as_secs_f64()),
                    LogWrites { bytes, syncs },
                ));
            }
        }
    })?;
    let used = usage::of_this_process()?;
    let file = std::fs::File::open(&out).map_err(|error| Error::io(out.display(), &error))?;
    let windows = BufReader::new(file).lines().count() as u64;
    Ok(used.measured(messages, seconds, windows, log))
}
