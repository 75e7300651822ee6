//! `tidegate run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::files::{PipelineFile, load_all};
use super::prepare::{Prepared, Startable, Waiting, prepare, show_warnings};
use super::{EXIT_STOPPED_EARLY, Failure, Outcome, PipelineArgs};
use crate::config::Planned;
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
    let runtime = runtime()?;
    let outcome = runtime.block_on(async move {
        let stop = stop_signal()?;
        let brokers = files.iter().filter_map(|(_, planned)| planned.broker());
        for settings in brokers {
            broker::start(settings.try_into()?)?;
        }
        let names = files.iter().map(|(_, planned)| planned.settings().name.clone()).collect();
        let board = admin::Board::new(Vec::new(), names);
        // Before any pipeline starts: a start that waits for a disk, say, can be asked why.
        if let Some(listen) = args.admin {
            let (address, _task) = admin::serve(listen, token, board.clone()).await?;
            info!(%address, "admin port");
        }
        reload_at_signal(board.clone())?;
        tokio::spawn(systemd::keep_telling(board.clone()));
        Supervisor::new(board, files, args.watch).until_the_end(stop).await
    });
    // Threads that wait for a disk which never answers are not waited for.
    runtime.shutdown_background();
    outcome
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

/// How far a file has come.
enum Begun {
    /// Its pipeline runs.
    Running(Box<Running>),
    /// Messages must be seen first.
    Waiting(Box<Waiting>),
}

/// Does something on a thread that may wait for the disk: signals and the admin port are served meanwhile.
async fn aside(
    work: impl Future<Output = Result<Begun, Failure>> + Send + 'static,
) -> Result<Begun, Failure> {
    let handle = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || handle.block_on(work)).await;
    done.unwrap_or_else(|error| Err(Error::data(format!("the start has failed: {error}")).into()))
}

async fn begin(file: PipelineFile, planned: Planned) -> Result<Begun, Failure> {
    match prepare(file, planned)? {
        Prepared::Ready(pipeline) => start(pipeline).await,
        Prepared::Waiting(pipeline) => Ok(Begun::Waiting(Box::new(pipeline))),
    }
}

async fn start(pipeline: Startable) -> Result<Begun, Failure> {
    show_warnings(&pipeline.pipeline().warnings);
    Ok(Begun::Running(Box::new(pipeline.start().await?)))
}

/// Starts all pipelines, each beside the others, and waits until they have ended, or stops them when told.
struct Supervisor {
    board: admin::Board,
    /// Pipelines that start.
    starting: JoinSet<(String, Result<Begun, Failure>)>,
    /// Pipelines that wait for messages; each starts as soon as it can.
    waiting: JoinSet<(String, Result<Startable, Failure>)>,
    requests: Vec<tokio::sync::mpsc::Sender<Request>>,
    ends: JoinSet<(String, Result<()>)>,
    patience: Duration,
    keeps_state: bool,
    failure: Option<Failure>,
    /// Whether files are watched.
    watch: bool,
    /// Whether every pipeline has started once, or waits for messages.
    up: bool,
    stopping: bool,
}

impl Supervisor {
    fn new(board: admin::Board, files: Vec<(PipelineFile, Planned)>, watch: bool) -> Self {
        let settings = || files.iter().map(|(_, planned)| planned.settings());
        let mut supervisor = Self {
            board,
            patience: settings().map(|settings| settings.stop_timeout.0).max().unwrap_or_default(),
            keeps_state: settings().all(|settings| settings.data_dir.is_some()),
            starting: JoinSet::new(),
            waiting: JoinSet::new(),
            requests: Vec::new(),
            ends: JoinSet::new(),
            failure: None,
            watch,
            up: false,
            stopping: false,
        };
        for (file, planned) in files {
            let name = planned.settings().name.clone();
            supervisor.starting.spawn(async move { (name, aside(begin(file, planned)).await) });
        }
        supervisor
    }

    async fn until_the_end(mut self, stop: tokio::sync::oneshot::Receiver<()>) -> Outcome {
        let mut stop = std::pin::pin!(stop);
        let mut stop_told = false;
        let mut give_up_at = None;
        while !self.starting.is_empty() || !self.waiting.is_empty() || !self.ends.is_empty() {
            if self.stopping && give_up_at.is_none() {
                give_up_at = Some(tokio::time::Instant::now() + self.patience);
                self.stop().await;
            }
            tokio::select! {
                Some(end) = self.ends.join_next() => self.ended(end),
                Some(begun) = self.starting.join_next() => self.begun(begun).await,
                Some(complete) = self.waiting.join_next() => self.complete(complete),
                _ = &mut stop, if !stop_told => (stop_told, self.stopping) = (true, true),
                () = until(give_up_at), if give_up_at.is_some() => {
                    let code = if self.keeps_state { EXIT_STOPPED_EARLY } else { 1 };
                    warn!(
                        seconds = self.patience.as_secs(),
                        code, "not everything left in time; what was acknowledged is in the log"
                    );
                    return Err(self.failure.unwrap_or(Failure::Code(code)));
                }
            }
        }
        self.failure.map_or(Ok(()), Err)
    }

    async fn stop(&mut self) {
        systemd::stopping();
        // Who waits for messages has taken nothing that it could lose at QoS 1.
        self.waiting.abort_all();
        for request in &self.requests {
            let _ = request.send(Request::Stop).await;
        }
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

    /// A pipeline runs, or waits for messages, or cannot start. Where one cannot at the start of the program, none runs:
    /// whoever has begun it looks now.
    async fn begun(&mut self, begun: Joined<(String, Result<Begun, Failure>)>) {
        match begun {
            Ok((_, Ok(Begun::Running(running)))) => self.running(*running).await,
            Ok((name, Ok(Begun::Waiting(pipeline)))) if !self.stopping => {
                self.board.waits(&name, admin::MESSAGES);
                self.waiting.spawn(async move { (name, pipeline.complete().await) });
            }
            Ok((_, Ok(Begun::Waiting(_)))) | Err(_) => {}
            Ok((name, Err(failure))) if self.up => self.failed(&name, failure),
            Ok((name, Err(failure))) => {
                if !self.starting.is_empty() || !self.ends.is_empty() {
                    warn!(pipeline = name, "the pipeline cannot start, so the others stop");
                }
                self.failure = Some(failure);
                self.stopping = true;
            }
        }
        if self.starting.is_empty() && !self.up && !self.stopping {
            self.up = true;
            systemd::ready();
        }
    }

    async fn running(&mut self, running: Running) {
        self.board.started(running.served.clone());
        if self.stopping {
            let _ = running.requests.send(Request::Stop).await;
        }
        self.requests.push(running.requests.clone());
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

    /// A pipeline has found its columns, or cannot.
    fn complete(&mut self, complete: Joined<(String, Result<Startable, Failure>)>) {
        match complete {
            Ok((name, Ok(pipeline))) if !self.stopping => {
                self.board.waits(&name, admin::ITS_STATE);
                self.starting.spawn(async move { (name, aside(start(pipeline)).await) });
            }
            Ok((name, Err(failure))) => self.failed(&name, failure),
            // Ended by a stop before it began.
            Ok(_) | Err(_) => {}
        }
    }

    fn failed(&mut self, pipeline: &str, failure: Failure) {
        match &failure {
            Failure::Error(error) => tracing::error!(pipeline, %error, "pipeline failed"),
            _ => tracing::error!(pipeline, "the pipeline does not fit the columns found"),
        }
        self.failure = Some(failure);
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

type Joined<T> = std::result::Result<T, tokio::task::JoinError>;
