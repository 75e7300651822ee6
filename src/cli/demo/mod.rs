//! `tidegate demo`: a simulated plant, a broker, a pipeline of `pipelines/`, end to end in one terminal.
//!
//! Everything is what a user would run: the plant publishes over MQTT, the pipeline is `pipelines/press-line.toml`,
//! the second model goes in through the admin port. What is shown comes from the files that the sinks write.

mod plant;
mod score;
mod screen;
mod train;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::files::load_text;
use super::run::{runtime, stop_signal};
use super::{Failure, Outcome, PipelineArgs};
use crate::builtin;
use crate::core::ModelId;
use crate::error::{Error, Result};
use crate::runtime::coordinator::Request;
use crate::runtime::models::Submitted;
use crate::runtime::pipeline::{Running, start};
use crate::runtime::{admin, broker};
use plant::DemoPlant;
use score::Verdict;
use screen::{Screen, View};
use watch::Watch;

/// The pipeline that is shown, as it stands in the repository.
pub(crate) const PIPELINE: &str = include_str!("../../../pipelines/press-line.toml");

/// The exit code when a fault went unfound or false alarms were too many.
const EXIT_MISSED: u8 = 3;

/// How often the screen is drawn.
const FRAME: Duration = Duration::from_millis(250);

/// How long results may take to arrive after the plant has stopped.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Arguments of `tidegate demo`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  tidegate demo --seed 7 --out results\n\nExit code 1: the broker of --broker is not there, or went away for good. Exit code 3: an \
                  injected fault went unfound, or there were more false alarms than 0.5 per device-hour of the \
                  plant's time."
)]
pub struct DemoArgs {
    /// Another seed is another plant, with other faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How long the plant runs, in seconds of wall-clock time; its own time runs ten times as fast.
    #[arg(long, default_value_t = 36, value_parser = clap::value_parser!(u64).range(12..=3600))]
    pub seconds: u64,
    /// Let no device fail.
    #[arg(long)]
    pub no_faults: bool,
    /// Where results go; what an earlier demo left there is replaced.
    #[arg(long, default_value = "tidegate-demo")]
    pub out: PathBuf,
    /// Use this broker instead of the embedded one, e.g. mqtt://localhost:1883.
    #[arg(long)]
    pub broker: Option<String>,
}

/// Runs the demo.
///
/// # Errors
/// If a part fails; with code 3 if a fault went unfound.
pub fn run(args: &DemoArgs) -> Outcome {
    let verdict = runtime()?.block_on(show(args))?;
    print!("{verdict}");
    println!("\nResults are in {}:", args.out.display());
    for (file, what) in [
        ("windows.ndjson", "five-second features of every press, scored"),
        ("alarms.ndjson", "the anomalous ones"),
        ("readings.tgf", "all readings, compressed (tidegate decode reads it)"),
        ("faults.json", "the faults that were really injected"),
    ] {
        println!("  {:<30} {what}", args.out.join(file).display());
    }
    if let Some(away) = &verdict.broker_away {
        return Err(Error::unavailable(format!("{away}; what it did not deliver was not scored")).into());
    }
    if verdict.is_good() { Ok(()) } else { Err(Failure::Code(EXIT_MISSED)) }
}

async fn show(args: &DemoArgs) -> std::result::Result<Verdict, Failure> {
    let mut stop = stop_signal()?;
    prepare(&args.out)?;
    let plant = DemoPlant::new(args)?;
    eprintln!("Training two models on ten minutes of a sound plant …");
    let (first, second) = train::two_models(&plant)?;
    write(&args.out.join("model-1.tgm"), &first.bytes)?;
    write(&args.out.join("model-2.tgm"), &second.bytes)?;
    write(&args.out.join("faults.json"), plant.labels_json().as_bytes())?;

    let url = match &args.broker {
        Some(url) => url.clone(),
        None => start_broker()?,
    };
    let running = start_pipeline(args, &url).await?;
    let served = vec![running.served.clone()];
    let (admin, _task) =
        admin::serve((Ipv4Addr::LOCALHOST, 0).into(), None, admin::Board::new(served, Vec::new())).await?;
    if !wait_for_subscription(&running).await {
        return Err(Error::unavailable(format!(
            "no broker answers at {url}; start one there, or leave out --broker to use the embedded one"
        ))
        .into());
    }
    let publisher = plant.publish(&url, args.seconds)?;

    let mut watch = Watch::new(&args.out, &plant);
    let mut screen = Screen::new(args, &plant, admin);
    let started = Instant::now();
    let half = Duration::from_secs(args.seconds) / 2;
    let whole = Duration::from_secs(args.seconds);
    let mut swap: Option<tokio::task::JoinHandle<Result<Submitted>>> = None;
    let mut task = running.task;
    let mut interrupted = false;
    let mut connected = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(FRAME) => {}
            outcome = &mut task => {
                outcome.map_err(|error| Error::data(error.to_string()))??;
                return Err(Error::data("the pipeline has ended early").into());
            }
            _ = &mut stop, if !interrupted => interrupted = true,
        }
        if swap.is_none() && started.elapsed() >= half {
            swap = Some(submit(admin, second.bytes.clone()));
            screen.note(format!(
                "{:>5.1} s  model 2 posted to http://{admin}/models/anomaly",
                started.elapsed().as_secs_f64()
            ));
        }
        if running.served.metrics().is_connected() != connected {
            connected = !connected;
            let what = if connected { "the broker is back" } else { "the broker is away; waiting for it" };
            screen.note(format!("{:>5.1} s  {what}", started.elapsed().as_secs_f64()));
        }
        watch.look()?;
        screen.draw(&View::of(&running.served.metrics(), &watch, started.elapsed(), publisher.sent()));
        if interrupted || started.elapsed() >= whole {
            break;
        }
    }
    publisher.stop().await;
    drain(&running.served.metrics(), publisher_total(&publisher), &mut watch).await?;
    let _ = running.requests.send(Request::Stop).await;
    task.await.map_err(|error| Error::data(error.to_string()))??;
    watch.look()?;
    let seen = started.elapsed();
    screen.draw(&View::of(&running.served.metrics(), &watch, seen, publisher.sent()));
    screen.leave();
    let swapped = match swap {
        Some(swap) => matches!(swap.await, Ok(Ok(Submitted::Applied(_)))),
        None => false,
    };
    let models = Models { first: first.id, second: second.id, swapped };
    let mut verdict =
        Verdict::new(&plant, &watch, &running.served.metrics(), publisher.sent(), &models, interrupted);
    verdict.broker_away =
        (!connected).then(|| format!("the broker at {url} went away and did not come back"));
    Ok(verdict)
}

/// Which models ran.
pub(crate) struct Models {
    first: ModelId,
    second: ModelId,
    swapped: bool,
}

fn publisher_total(publisher: &plant::Publisher) -> u64 {
    publisher.sent()
}

fn prepare(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|error| Error::io(format!("making {}", out.display()), &error))?;
    for name in ["windows.ndjson", "alarms.ndjson", "readings.tgf"] {
        let path = out.join(name);
        if path.exists() {
            std::fs::remove_file(&path)
                .map_err(|error| Error::io(format!("removing {}", path.display()), &error))?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| Error::io(format!("writing {}", path.display()), &error))
}

fn start_broker() -> Result<String> {
    let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| Error::io("finding a free port", &error))?
        .port();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    broker::start(broker::BrokerSettings { listen, ..broker::BrokerSettings::default() })?;
    Ok(format!("mqtt://{listen}"))
}

async fn start_pipeline(args: &DemoArgs, url: &str) -> std::result::Result<Running, Failure> {
    let out = |name: &str| args.out.join(name).display().to_string();
    let set = vec![
        format!("source.plant.url={url:?}"),
        // Flushed often, so that the files show what happens.
        "pipeline.checkpoint=\"500ms\"".to_owned(),
        "source.plant.ack=\"receive\"".to_owned(),
        format!("operator.anomaly.model.file={:?}", out("model-1.tgm")),
        format!("sink.windows.path={:?}", out("windows.ndjson")),
        format!("sink.alarms.path={:?}", out("alarms.ndjson")),
        format!("sink.cloud.path={:?}", out("readings.tgf")),
    ];
    let pipeline = load_text(
        PIPELINE,
        "pipelines/press-line.toml",
        &PipelineArgs { data_dir: None, set },
        &builtin::registry(),
    )?;
    Ok(start(pipeline).await?)
}

/// Messages published before the subscription would be lost without anyone's fault.
async fn wait_for_subscription(running: &Running) -> bool {
    let started = Instant::now();
    while !running.served.metrics().is_connected() {
        if started.elapsed() > Duration::from_secs(5) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

/// Posts the model as an operator would, with a client of its own.
fn submit(admin: SocketAddr, bytes: Vec<u8>) -> tokio::task::JoinHandle<Result<Submitted>> {
    tokio::spawn(async move {
        let failed = |error: reqwest::Error| Error::unavailable(format!("posting the model: {error}"));
        let client = crate::net::http::client()?;
        let answer =
            client.post(format!("http://{admin}/models/anomaly")).body(bytes).send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        match status.as_u16() {
            200 => Ok(Submitted::Applied(ModelId([0; 32]))),
            _ => Ok(Submitted::Refused(text)),
        }
    })
}

/// Waits until everything that was sent has come in, or cannot come.
async fn drain(
    metrics: &crate::runtime::metrics::PipelineMetrics,
    sent: u64,
    watch: &mut Watch,
) -> Result<()> {
    let started = Instant::now();
    while metrics.totals().source_rows < sent && metrics.is_connected() && started.elapsed() < DRAIN_MAX {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    watch.look()
}
