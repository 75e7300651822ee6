//! What the admin port and displays see of one pipeline. After a reload it shows the graph that runs then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::health::PipelineHealth;
use super::metrics::PipelineMetrics;
use super::models::Models;
use super::reload::{Current, Reloader};

/// What can be seen of one pipeline.
#[derive(Clone)]
pub struct Served {
    running: Arc<RwLock<(Arc<PipelineMetrics>, Option<Arc<Models>>)>>,
    current: Arc<Current>,
    /// Whether it takes rows.
    pub ready: Arc<AtomicBool>,
    /// Reads its file again, where it has one.
    pub reloader: Option<Arc<Reloader>>,
}

impl Served {
    /// Of a pipeline that has not begun.
    pub fn new(metrics: Arc<PipelineMetrics>, current: Arc<Current>) -> Self {
        let running = Arc::new(RwLock::new((metrics, None)));
        Self { running, current, ready: Arc::new(AtomicBool::new(false)), reloader: None }
    }

    /// Its counts.
    pub fn metrics(&self) -> Arc<PipelineMetrics> {
        Arc::clone(&self.running.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The state of the pipeline.
    pub fn health(&self) -> PipelineHealth {
        PipelineHealth::of(&self.metrics(), self.ready.load(Ordering::Relaxed))
    }

    /// Its models; none before it has begun.
    pub fn models(&self) -> Option<Arc<Models>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// What it was built from.
    pub fn current(&self) -> &Arc<Current> {
        &self.current
    }

    /// Another graph runs.
    pub(super) fn set(&self, metrics: Arc<PipelineMetrics>, models: Arc<Models>) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = (metrics, Some(models));
    }
}
