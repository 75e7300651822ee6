//! The admin port: health, metrics, models, reload. Off unless asked for.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use super::activity::EngineDoes;
use super::health::PipelineHealth;
use super::metrics::exposition;
use super::models::{MODEL_BYTES_MAX, Submitted};
use super::reload;
pub use super::served::Served;
use crate::core::ModelOrigin;
use crate::error::{Error, Result};

/// All pipelines of this process: those that run, and those that have not begun.
#[derive(Clone)]
pub struct Board(Arc<RwLock<Pipelines>>);

struct Pipelines {
    /// The names of all, in the order of the command line.
    order: Vec<String>,
    running: Vec<Served>,
    /// Names, and what they wait for.
    waiting: Vec<(String, &'static str)>,
}

/// What a pipeline waits for that has not begun.
pub const ITS_STATE: &str = "its state";

/// What a pipeline waits for whose columns are unknown.
pub const MESSAGES: &str = "messages";

impl Board {
    /// Pipelines that run, and the names of those that are about to.
    pub fn new(running: Vec<Served>, starting: Vec<String>) -> Self {
        let waiting = starting.iter().map(|name| (name.clone(), ITS_STATE)).collect();
        Self(Arc::new(RwLock::new(Pipelines { order: starting, running, waiting })))
    }

    fn change(&self) -> RwLockWriteGuard<'_, Pipelines> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that has not begun waits for something else.
    pub fn waits(&self, pipeline: &str, waits_for: &'static str) {
        let mut pipelines = self.change();
        pipelines
            .waiting
            .iter_mut()
            .filter(|(name, _)| name == pipeline)
            .for_each(|(_, whom)| *whom = waits_for);
    }

    /// One that waited runs.
    pub fn started(&self, served: Served) {
        let mut pipelines = self.change();
        pipelines.waiting.retain(|(name, _)| name != served.metrics().pipeline());
        pipelines.running.push(served);
        let Pipelines { order, running, .. } = &mut *pipelines;
        running.sort_by_key(|served| {
            let metrics = served.metrics();
            order.iter().position(|name| name == metrics.pipeline())
        });
    }

    /// The state of every pipeline.
    pub fn health(&self) -> Vec<PipelineHealth> {
        let waiting = self.waiting().into_iter().map(|(name, whom)| PipelineHealth::waiting(name, whom));
        self.running().iter().map(Served::health).chain(waiting).collect()
    }

    /// The state of all in one line: what is wrong first, or how many there are.
    pub fn status_line(&self) -> String {
        let pipelines = self.health();
        let problem = pipelines.iter().find_map(|health| Some((&health.pipeline, health.problems.first()?)));
        match problem {
            Some((pipeline, problem)) => format!("{pipeline}: {problem}"),
            None => {
                let waits = |health: &PipelineHealth| {
                    Some(format!(", `{}` waits for {}", health.pipeline, health.waits_for.as_ref()?))
                };
                let waiting: Vec<String> = pipelines.iter().filter_map(waits).collect();
                format!("{} pipelines run{}", pipelines.len() - waiting.len(), waiting.concat())
            }
        }
    }

    /// Whether an engine has been at one record for at least so long.
    pub fn is_stuck(&self, at_least: Duration) -> bool {
        self.running().iter().any(|served| {
            let (does, since) = served.metrics().engine_does.get();
            EngineDoes::of(does) == EngineDoes::Works && since >= at_least
        })
    }

    /// Those that run.
    pub fn running(&self) -> Vec<Served> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).running.clone()
    }

    fn waiting(&self) -> Vec<(String, &'static str)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).waiting.clone()
    }
}

struct Admin {
    board: Board,
    token: Option<String>,
}

/// Listens; gives the address it got (the port may be 0) and the task that serves.
///
/// # Errors
/// If the address cannot be listened on, or is not loopback and there is no token.
pub async fn serve(
    listen: SocketAddr,
    token: Option<String>,
    board: Board,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    if !listen.ip().is_loopback() && token.is_none() {
        return Err(Error::config(format!(
            "the admin port on {listen} can be reached from outside, so it needs a token: give --admin-token-file"
        )));
    }
    let socket = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(|error| Error::io(format!("the admin port cannot listen on {listen}"), &error))?;
    let address =
        socket.local_addr().map_err(|error| Error::io("asking for the admin port's address", &error))?;
    let admin = Arc::new(Admin { board, token });
    let router = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/reload", post(reload_all))
        .route("/reload/{pipeline}", post(reload_named))
        .route("/models", get(models))
        .route("/models/{node}", post(submit))
        .route("/models/{pipeline}/{node}", post(submit_to))
        .layer(DefaultBodyLimit::max(MODEL_BYTES_MAX))
        .layer(from_fn_with_state(Arc::clone(&admin), authorize))
        .with_state(admin);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(socket, router).await {
            tracing::error!(%error, "the admin port has stopped");
        }
    });
    Ok((address, task))
}

async fn authorize(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec());
    let allowed = match &admin.token {
        None => true,
        Some(token) => given.is_some_and(|given| {
            // Compared through a hash, so that the time taken says nothing about the token.
            blake3::hash(&given) == blake3::hash(format!("Bearer {token}").as_bytes())
        }),
    };
    if allowed {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, "give the admin token as `Authorization: Bearer …`\n").into_response()
    }
}

fn answer(status: StatusCode, value: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}

async fn health(State(admin): State<Arc<Admin>>) -> Response {
    let pipelines = admin.board.health();
    let healthy = pipelines.iter().all(|pipeline| pipeline.problems.is_empty());
    answer(StatusCode::OK, &json!({ "healthy": healthy, "pipelines": pipelines }))
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let running = admin.board.running();
    let ready =
        admin.board.waiting().is_empty() && running.iter().all(|served| served.ready.load(Ordering::Relaxed));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reloading: Vec<_> = (running.iter().map(Served::metrics))
        .filter(|metrics| metrics.control.is_reloading())
        .map(|metrics| metrics.pipeline().to_owned())
        .collect();
    answer(status, &json!({ "ready": ready, "reloading": reloading }))
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let pipelines: Vec<_> = admin.board.running().iter().map(Served::metrics).collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], exposition(&pipelines)).into_response()
}

async fn models(State(admin): State<Arc<Admin>>) -> Response {
    let rows: Vec<_> = admin
        .board
        .running()
        .iter()
        .flat_map(|served| {
            let metrics = served.metrics();
            let running = metrics.models();
            let pipeline = metrics.pipeline();
            let row = |node: &str| {
                let id = running.get(node).map(ToString::to_string);
                json!({ "pipeline": pipeline, "node": node, "model": id })
            };
            served
                .models()
                .iter()
                .flat_map(|models| models.nodes().map(row).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        })
        .collect();
    answer(StatusCode::OK, &json!({ "models": rows }))
}

async fn submit(State(admin): State<Arc<Admin>>, Path(node): Path<String>, body: Bytes) -> Response {
    let running = admin.board.running();
    let takers: Vec<&Served> = running.iter().filter(|served| takes_models(served, &node)).collect();
    match takers.as_slice() {
        [] => refuse(StatusCode::NOT_FOUND, &format!("no pipeline has a node `{node}` that takes models")),
        [served] => submit_there(served, &node, body).await,
        _ => refuse(
            StatusCode::BAD_REQUEST,
            &format!("several pipelines have a node `{node}`: post to /models/<pipeline>/{node}"),
        ),
    }
}

async fn submit_to(
    State(admin): State<Arc<Admin>>,
    Path((pipeline, node)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    match admin.board.running().iter().find(|served| served.metrics().pipeline() == pipeline) {
        Some(served) => submit_there(served, &node, body).await,
        None => refuse(StatusCode::NOT_FOUND, &format!("there is no pipeline `{pipeline}`")),
    }
}

fn takes_models(served: &Served, node: &str) -> bool {
    served.models().is_some_and(|models| models.nodes().any(|name| name == node))
}

async fn submit_there(served: &Served, node: &str, body: Bytes) -> Response {
    match served.models() {
        Some(models) => outcome(models.submit(node, body.to_vec(), ModelOrigin::Request).await),
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "the pipeline has not begun"),
    }
}

/// Reads the files of all pipelines again.
async fn reload_all(State(admin): State<Arc<Admin>>) -> Response {
    let mut worst = StatusCode::CONFLICT;
    let mut outcomes = Vec::new();
    for served in admin.board.running() {
        let (status, outcome) = reload_one(&served).await;
        worst = match (worst, status) {
            (worst, status) if worst.is_success() || worst == StatusCode::CONFLICT => {
                if status == StatusCode::CONFLICT { worst } else { status }
            }
            (worst, _) => worst,
        };
        outcomes.push(outcome);
    }
    answer(worst, &json!({ "pipelines": outcomes }))
}

/// Reads the file of one pipeline again.
async fn reload_named(State(admin): State<Arc<Admin>>, Path(pipeline): Path<String>) -> Response {
    match admin.board.running().iter().find(|served| served.metrics().pipeline() == pipeline) {
        Some(served) => {
            let (status, outcome) = reload_one(served).await;
            answer(status, &outcome)
        }
        None if admin.board.waiting().iter().any(|(name, _)| *name == pipeline) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("`{pipeline}` has not begun"))
        }
        None => refuse(StatusCode::NOT_FOUND, &format!("there is no pipeline `{pipeline}`")),
    }
}

async fn reload_one(served: &Served) -> (StatusCode, serde_json::Value) {
    let metrics = served.metrics();
    let pipeline = metrics.pipeline();
    let Some(reloader) = &served.reloader else {
        let error = "it was not started from a file";
        return (StatusCode::UNPROCESSABLE_ENTITY, json!({ "pipeline": pipeline, "error": error }));
    };
    let failed = |status, error: String| (status, json!({ "pipeline": pipeline, "error": error }));
    match reloader.reload().await {
        reload::Outcome::Applied(reloaded) => {
            let outcome = json!({
                "pipeline": pipeline,
                "epoch": reloaded.epoch.0,
                "kept": reloaded.kept,
                "fresh": reloaded.fresh,
                "from_checkpoint": reloaded.from_checkpoint,
            });
            (StatusCode::OK, outcome)
        }
        reload::Outcome::Unchanged => {
            failed(StatusCode::CONFLICT, "the file says what runs already".to_owned())
        }
        reload::Outcome::Wrong(reason) | reload::Outcome::Refused(reason) => {
            failed(StatusCode::UNPROCESSABLE_ENTITY, reason)
        }
        reload::Outcome::Busy(reason) => failed(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

fn refuse(status: StatusCode, reason: &str) -> Response {
    answer(status, &json!({ "error": reason }))
}

fn outcome(submitted: Submitted) -> Response {
    match submitted {
        Submitted::Applied(id) => answer(StatusCode::OK, &json!({ "model": id.to_string() })),
        Submitted::Pending(id) => {
            answer(StatusCode::ACCEPTED, &json!({ "model": id.to_string(), "committed": false }))
        }
        Submitted::Same(id) => refuse(StatusCode::CONFLICT, &format!("model {} runs already", id.short())),
        Submitted::NoNode(reason) => refuse(StatusCode::NOT_FOUND, &reason),
        Submitted::Busy(reason) => refuse(StatusCode::SERVICE_UNAVAILABLE, &reason),
        Submitted::Refused(reason) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &reason),
    }
}
