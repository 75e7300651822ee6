//! Starts one checked pipeline.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::info;

use super::coordinator::{Doors, Request};
use super::durable::DataDir;
use super::ends::Ends;
use super::metrics::PipelineMetrics;
use super::reload::{Current, Rebuild};
use super::served::Served;
use super::supervisor::{Channels, Supervisor};
use crate::config::Pipeline;
use crate::error::Result;

/// Most requests waiting at once.
const REQUESTS_MAX: usize = 16;

/// A pipeline that runs.
pub struct Running {
    /// What the admin port and displays see of it.
    pub served: Served,
    /// Asks it for something.
    pub requests: mpsc::Sender<Request>,
    /// Ends when everything is committed, or with the failure of a part.
    pub task: JoinHandle<Result<()>>,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// Whether its state survives a stop.
    pub keeps_state: bool,
}

/// Starts a pipeline on the current runtime. If its engine fails the pipeline ends.
///
/// # Errors
/// If its data directory cannot be used or holds state that cannot be loaded.
pub async fn start(pipeline: Pipeline) -> Result<Running> {
    start_in(pipeline, None, None).await
}

/// The same, in a data directory that may be open already. With a way to build the pipeline again, an engine that fails
/// is built again from the last checkpoint.
///
/// # Errors
/// If the data directory cannot be used or holds state that cannot be loaded.
pub async fn start_in(
    pipeline: Pipeline,
    data: Option<DataDir>,
    rebuild: Option<Rebuild>,
) -> Result<Running> {
    let (has_log, keeps_state) = (pipeline.has_log(), pipeline.settings.data_dir.is_some());
    let settings = pipeline.settings.clone();
    let data = match (data, &settings.data_dir) {
        (None, Some(root)) => Some(DataDir::open(Path::new(root), &settings.name)?),
        (data, _) => data,
    };
    let (arrivals, arrivals_in) = mpsc::channel(settings.queue);
    let (failures, failures_in) = mpsc::unbounded_channel();
    let (requests, requests_in) = mpsc::channel(REQUESTS_MAX);
    let channels = Channels {
        doors: Doors { arrivals: arrivals_in, failures: failures_in, requests: requests_in },
        requests: requests.clone(),
        ends: Ends::new(arrivals, failures),
    };
    let metrics = Arc::new(PipelineMetrics::new(&settings.name, Vec::new(), Vec::new()));
    let served = Served::new(metrics, Arc::new(Current::of(&pipeline)));
    let mut supervisor = Supervisor::new(&pipeline, data, rebuild, channels, served.clone())?;
    let first = supervisor.first(pipeline).await?;
    info!(pipeline = settings.name, log = has_log, data_dir = settings.data_dir, "pipeline started");
    let task = tokio::spawn(supervisor.run(first));
    Ok(Running { served, requests, task, stop_timeout: settings.stop_timeout.0, keeps_state })
}
