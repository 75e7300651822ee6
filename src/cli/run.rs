//! `tidegate run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tracing::{info, warn};

use super::files::load_all;
use super::{EXIT_STOPPED_EARLY, Failure, Outcome, PipelineArgs};
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::runtime::coordinator::Request;
use crate::runtime::pipeline::{Running, start};
use crate::runtime::{admin, broker};

/// Arguments of `tidegate run`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate run press-line.toml --data-dir /var/lib/tidegate --admin 127.0.0.1:9600")]
pub struct RunArgs {
    /// Pipeline files; each runs by itself, and their names must differ.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// What every pipeline command takes.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Serve health, metrics and models here, e.g. 127.0.0.1:9600.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
    /// A file with the token that requests to the admin port must carry; required unless the address is loopback.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
}

/// Runs pipelines.
///
/// # Errors
/// If a file is wrong or a pipeline fails.
pub fn run(args: RunArgs, registry: &Registry) -> Outcome {
    let pipelines = load_all(&args.files, &args.pipeline, registry)?;
    for pipeline in &pipelines {
        eprintln!("{}", pipeline.warnings.render(std::io::IsTerminal::is_terminal(&std::io::stderr())));
        if pipeline.settings.data_dir.is_none() {
            warn!(pipeline = pipeline.name(), "no data directory: nothing survives a restart");
        }
    }
    let token = match &args.admin_token_file {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::config(format!("{}: {error}", path.display())))?;
            Some(text.trim().to_owned())
        }
    };
    runtime()?.block_on(async move {
        let stop = stop_signal()?;
        for pipeline in &pipelines {
            if let Some(settings) = &pipeline.broker {
                broker::start(settings.try_into()?)?;
            }
        }
        let running = start_all(pipelines).await?;
        if let Some(listen) = args.admin {
            let served = running.iter().map(|running| running.served.clone()).collect();
            let (address, _task) = admin::serve(listen, token, served).await?;
            info!(%address, "admin port");
        }
        supervise(running, stop).await
    })
}

/// The runtime that sources, sinks and coordinators run on: one thread, since the engines have their own.
///
/// # Errors
/// If the system gives no resources.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("starting the async runtime", &error))
}

async fn start_all(pipelines: Vec<Pipeline>) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for pipeline in pipelines {
        let name = pipeline.name().to_owned();
        running.push(start(pipeline).await.map_err(|error| error.at(&name))?);
    }
    Ok(running)
}

/// Resolves at the first SIGTERM or SIGINT; the second ends the process.
///
/// # Errors
/// If the system lets nobody listen for signals.
pub fn stop_signal() -> Result<tokio::sync::oneshot::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| Error::io("listening for signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        info!("stopping; a second signal ends at once");
        let _ = stop.send(());
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(130);
    });
    Ok(stopped)
}

/// Waits until all pipelines have ended, or stops them when told.
async fn supervise(running: Vec<Running>, stop: tokio::sync::oneshot::Receiver<()>) -> Outcome {
    let requests: Vec<_> = running.iter().map(|running| running.requests.clone()).collect();
    let patience = running.iter().map(|running| running.stop_timeout).max().unwrap_or(Duration::ZERO);
    let keeps_state = running.iter().all(|running| running.keeps_state);
    let mut ends = tokio::task::JoinSet::new();
    for running in running {
        ends.spawn(async move {
            let name = running.served.metrics.pipeline().to_owned();
            let outcome = match running.task.await {
                Ok(outcome) => outcome,
                Err(error) => Err(Error::data(format!("the pipeline's task has failed: {error}"))),
            };
            (name, outcome)
        });
    }
    let mut failure = None;
    let mut stop = std::pin::pin!(stop);
    let mut deadline = std::pin::pin!(tokio::time::sleep(Duration::MAX.min(Duration::from_secs(1 << 32))));
    let mut stopping = false;
    loop {
        tokio::select! {
            end = ends.join_next() => match end {
                None => break,
                Some(Ok((name, Ok(())))) => info!(pipeline = name, "pipeline ended"),
                Some(Ok((name, Err(error)))) => {
                    tracing::error!(pipeline = name, %error, "pipeline failed");
                    failure = Some(Failure::Error(error));
                }
                Some(Err(_)) => {}
            },
            _ = &mut stop, if !stopping => {
                stopping = true;
                for request in &requests {
                    let _ = request.send(Request::Stop).await;
                }
                deadline.as_mut().reset(tokio::time::Instant::now() + patience);
            }
            () = &mut deadline, if stopping => {
                let code = if keeps_state { EXIT_STOPPED_EARLY } else { 1 };
                warn!(seconds = patience.as_secs(), code, "not everything left in time; what was acknowledged is in the log");
                return Err(Failure::Code(code));
            }
        }
    }
    failure.map_or(Ok(()), Err)
}
