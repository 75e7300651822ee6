//! `tidegate run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::files::load_all;
use super::prepare::{Prepared, Waiting, prepare, show_warnings};
use super::{EXIT_STOPPED_EARLY, Failure, Outcome, PipelineArgs};
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::runtime::coordinator::Request;
use crate::runtime::pipeline::Running;
use crate::runtime::{admin, broker, systemd};

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
    /// Reload a pipeline when its file changes. SIGHUP and a POST to /reload of the admin port reload as well.
    #[arg(long)]
    pub watch: bool,
}

/// Runs pipelines.
///
/// # Errors
/// If a file is wrong or a pipeline fails.
pub fn run(args: RunArgs, registry: &Registry) -> Outcome {
    let files = load_all(&args.files, &args.pipeline, registry)?;
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
        let brokers = files.iter().filter_map(|(_, planned)| planned.broker());
        for settings in brokers {
            broker::start(settings.try_into()?)?;
        }
        let mut startable = Vec::new();
        let mut waiting = Vec::new();
        for (file, planned) in files {
            match prepare(file, planned)? {
                Prepared::Ready(pipeline) => startable.push(pipeline),
                Prepared::Waiting(pipeline) => waiting.push(pipeline),
            }
        }
        let mut running = Vec::new();
        for pipeline in startable {
            show_warnings(&pipeline.pipeline().warnings);
            running.push(pipeline.start().await?);
        }
        let served = running.iter().map(|running| running.served.clone()).collect();
        let names = waiting.iter().map(|waiting| waiting.name().to_owned()).collect();
        let board = admin::Board::new(served, names);
        if let Some(listen) = args.admin {
            let (address, _task) = admin::serve(listen, token, board.clone()).await?;
            info!(%address, "admin port");
        }
        reload_at_signal(board.clone())?;
        systemd::ready();
        tokio::spawn(systemd::keep_telling(board.clone()));
        Supervisor::new(board, running, waiting, args.watch).until_the_end(stop).await
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

/// Reloads all pipelines at every SIGHUP.
fn reload_at_signal(board: admin::Board) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| Error::io("listening for signals", &error))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            for served in board.running() {
                if let Some(reloader) = &served.reloader {
                    reloader.reload_and_log(served.metrics().pipeline()).await;
                }
            }
        }
    });
    Ok(())
}

/// Waits until all pipelines have ended, or stops them when told.
struct Supervisor {
    board: admin::Board,
    /// Pipelines that wait for messages; each starts as soon as it can.
    waiting: JoinSet<(String, Result<Running, Failure>)>,
    requests: Vec<tokio::sync::mpsc::Sender<Request>>,
    ends: JoinSet<(String, Result<()>)>,
    patience: Duration,
    keeps_state: bool,
    failure: Option<Failure>,
    /// Whether files are watched.
    watch: bool,
}

impl Supervisor {
    fn new(board: admin::Board, running: Vec<Running>, pipelines: Vec<Waiting>, watch: bool) -> Self {
        let mut waiting = JoinSet::new();
        for pipeline in pipelines {
            waiting.spawn(async move {
                let name = pipeline.name().to_owned();
                let started = async {
                    let pipeline = pipeline.complete().await?;
                    show_warnings(&pipeline.pipeline().warnings);
                    pipeline.start().await
                };
                (name, started.await)
            });
        }
        let mut supervisor = Self {
            board,
            waiting,
            requests: Vec::new(),
            ends: JoinSet::new(),
            patience: Duration::ZERO,
            keeps_state: true,
            failure: None,
            watch,
        };
        running.into_iter().for_each(|running| supervisor.watch(running));
        supervisor
    }

    fn watch(&mut self, running: Running) {
        self.requests.push(running.requests.clone());
        self.patience = self.patience.max(running.stop_timeout);
        self.keeps_state &= running.keeps_state;
        if let Some(reloader) = running.served.reloader.as_ref().filter(|_| self.watch) {
            tokio::spawn(Arc::clone(reloader).watch(running.served.metrics().pipeline().to_owned()));
        }
        self.ends.spawn(async move {
            let name = running.served.metrics().pipeline().to_owned();
            let outcome = match running.task.await {
                Ok(outcome) => outcome,
                Err(error) => Err(Error::data(format!("the pipeline's task has failed: {error}"))),
            };
            (name, outcome)
        });
    }

    async fn until_the_end(mut self, stop: tokio::sync::oneshot::Receiver<()>) -> Outcome {
        let mut stop = std::pin::pin!(stop);
        let mut deadline = std::pin::pin!(tokio::time::sleep(Duration::from_secs(1 << 32)));
        let mut stopping = false;
        while !self.waiting.is_empty() || !self.ends.is_empty() {
            tokio::select! {
                Some(end) = self.ends.join_next() => self.ended(end),
                Some(started) = self.waiting.join_next() => self.started(started, stopping).await,
                _ = &mut stop, if !stopping => {
                    stopping = true;
                    systemd::stopping();
                    // Who waits for messages has taken nothing that it could lose at QoS 1.
                    self.waiting.abort_all();
                    for request in &self.requests {
                        let _ = request.send(Request::Stop).await;
                    }
                    deadline.as_mut().reset(tokio::time::Instant::now() + self.patience);
                }
                () = &mut deadline, if stopping => {
                    let code = if self.keeps_state { EXIT_STOPPED_EARLY } else { 1 };
                    warn!(
                        seconds = self.patience.as_secs(),
                        code, "not everything left in time; what was acknowledged is in the log"
                    );
                    return Err(Failure::Code(code));
                }
            }
        }
        self.failure.map_or(Ok(()), Err)
    }

    fn ended(&mut self, end: Joined<(String, Result<()>)>) {
        match end {
            Ok((name, Ok(()))) => info!(pipeline = name, "pipeline ended"),
            Ok((name, Err(error))) => {
                tracing::error!(pipeline = name, %error, "pipeline failed");
                self.failure = Some(Failure::Error(error));
            }
            Err(_) => {}
        }
    }

    /// A pipeline has found its columns and runs, or cannot.
    async fn started(&mut self, started: Joined<(String, Result<Running, Failure>)>, stopping: bool) {
        match started {
            Ok((_, Ok(running))) => {
                self.board.started(running.served.clone());
                if stopping {
                    let _ = running.requests.send(Request::Stop).await;
                }
                self.watch(running);
            }
            Ok((name, Err(failure))) => {
                match &failure {
                    Failure::Error(error) => tracing::error!(pipeline = name, %error, "pipeline failed"),
                    _ => tracing::error!(pipeline = name, "the pipeline does not fit the columns found"),
                }
                self.failure = Some(failure);
            }
            // Ended by a stop before its first message came.
            Err(_) => {}
        }
    }
}

type Joined<T> = std::result::Result<T, tokio::task::JoinError>;
