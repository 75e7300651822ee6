//! The admin port: health, metrics, models. Off unless asked for.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
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
use super::metrics::{PipelineMetrics, exposition};
use super::models::{MODEL_BYTES_MAX, Models, Submitted};
use crate::core::ModelOrigin;
use crate::error::{Error, Result};

/// What the admin port knows of one pipeline.
#[derive(Clone)]
pub struct Served {
    /// Its counts.
    pub metrics: Arc<PipelineMetrics>,
    /// Its models.
    pub models: Arc<Models>,
    /// Whether it takes rows.
    pub ready: Arc<AtomicBool>,
}

impl Served {
    /// The state of the pipeline.
    pub fn health(&self) -> PipelineHealth {
        PipelineHealth::of(&self.metrics, self.ready.load(Ordering::Relaxed))
    }
}

/// All pipelines of this process: those that run, and those that wait for messages to find their columns.
#[derive(Clone)]
pub struct Board(Arc<RwLock<Pipelines>>);

struct Pipelines {
    running: Vec<Served>,
    waiting: Vec<String>,
}

impl Board {
    /// Pipelines that run, and the names of those that wait.
    pub fn new(running: Vec<Served>, waiting: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(Pipelines { running, waiting })))
    }

    /// One that waited runs.
    pub fn started(&self, served: Served) {
        let mut pipelines = self.0.write().unwrap_or_else(PoisonError::into_inner);
        pipelines.waiting.retain(|name| name != served.metrics.pipeline());
        pipelines.running.push(served);
    }

    /// The state of every pipeline.
    pub fn health(&self) -> Vec<PipelineHealth> {
        let waiting = self.waiting().into_iter().map(PipelineHealth::waiting);
        self.running().iter().map(Served::health).chain(waiting).collect()
    }

    /// The state of all in one line: what is wrong first, or how many there are.
    pub fn status_line(&self) -> String {
        let pipelines = self.health();
        let problem = pipelines.iter().find_map(|health| Some((&health.pipeline, health.problems.first()?)));
        match problem {
            Some((pipeline, problem)) => format!("{pipeline}: {problem}"),
            None => {
                let waiting = pipelines.iter().filter(|health| health.waits_for.is_some()).count();
                format!("{} pipelines run, {waiting} wait for messages", pipelines.len() - waiting)
            }
        }
    }

    /// Whether an engine has been at one record for at least so long.
    pub fn is_stuck(&self, at_least: Duration) -> bool {
        self.running().iter().any(|served| {
            let (does, since) = served.metrics.engine_does.get();
            EngineDoes::of(does) == EngineDoes::Works && since >= at_least
        })
    }

    fn running(&self) -> Vec<Served> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).running.clone()
    }

    fn waiting(&self) -> Vec<String> {
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
    answer(status, &json!({ "ready": ready }))
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let pipelines: Vec<_> = admin.board.running().iter().map(|served| Arc::clone(&served.metrics)).collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], exposition(&pipelines)).into_response()
}

async fn models(State(admin): State<Arc<Admin>>) -> Response {
    let rows: Vec<_> = admin
        .board
        .running()
        .iter()
        .flat_map(|served| {
            let running = served.metrics.models();
            let pipeline = served.metrics.pipeline();
            let row = |node: &str| {
                let id = running.get(node).map(ToString::to_string);
                json!({ "pipeline": pipeline, "node": node, "model": id })
            };
            served.models.nodes().map(row).collect::<Vec<_>>()
        })
        .collect();
    answer(StatusCode::OK, &json!({ "models": rows }))
}

async fn submit(State(admin): State<Arc<Admin>>, Path(node): Path<String>, body: Bytes) -> Response {
    let running = admin.board.running();
    let takers: Vec<&Served> =
        running.iter().filter(|served| served.models.nodes().any(|name| name == node)).collect();
    match takers.as_slice() {
        [] => refuse(StatusCode::NOT_FOUND, &format!("no pipeline has a node `{node}` that takes models")),
        [served] => outcome(served.models.submit(&node, body.to_vec(), ModelOrigin::Request).await),
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
    match admin.board.running().iter().find(|served| served.metrics.pipeline() == pipeline) {
        Some(served) => outcome(served.models.submit(&node, body.to_vec(), ModelOrigin::Request).await),
        None => refuse(StatusCode::NOT_FOUND, &format!("there is no pipeline `{pipeline}`")),
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
        Submitted::Refused(reason) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &reason),
    }
}
