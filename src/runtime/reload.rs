//! Another graph for a running pipeline, and who asks for it: a signal, a changed file, the admin port.
//!
//! The file is read, checked and built here, without any effect on what runs; `supervisor` then puts the new graph in the
//! old one's place.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::control::{Control, ReloadOutcome};
use super::coordinator::Request;
use crate::config::{Pipeline, Settings};
use crate::core::{Epoch, Fingerprint};
use crate::error::{Error, Kind, Result};

/// How often a pipeline file is looked at for changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Builds the pipeline that runs again, as it was: for an engine that has failed, and where a reload cannot be carried
/// through.
pub type Rebuild = Arc<dyn Fn() -> Result<Pipeline> + Send + Sync>;

/// Reads the pipeline file as it is now. An error says all that is wrong with it.
pub type Reread = Arc<dyn Fn() -> std::result::Result<(Pipeline, Rebuild), String> + Send + Sync>;

/// A graph that is to take another's place.
pub struct Replacement {
    /// The pipeline, checked and built; nothing of it is open.
    pub pipeline: Pipeline,
    /// Builds it again.
    pub rebuild: Option<Rebuild>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Reloaded>>,
}

impl Replacement {
    /// It does not take place.
    pub fn refuse(self, error: Error) {
        let _ = self.answer.send(Err(error));
    }
}

/// What became of the parts of a pipeline in a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The cut at which the new graph began.
    pub epoch: Epoch,
    /// Operators that go on with their state.
    pub kept: Vec<String>,
    /// Operators that start fresh.
    pub fresh: Vec<String>,
    /// Whether the cut could not be had in time, so that everything went back to the last checkpoint and what the log
    /// holds behind it is given to the new graph.
    pub from_checkpoint: bool,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The new graph runs.
    Applied(Reloaded),
    /// The file says what runs already.
    Unchanged,
    /// The file is wrong: all that is.
    Wrong(String),
    /// What it says cannot take the place of what runs; that goes on.
    Refused(String),
    /// It cannot be done now; what runs goes on.
    Busy(String),
}

/// What a pipeline was built from, as far as a reload must know it.
#[derive(Debug)]
pub struct Current(Mutex<(Fingerprint, Settings)>);

impl Current {
    /// Of this pipeline.
    pub fn of(pipeline: &Pipeline) -> Self {
        Self(Mutex::new((pipeline.digest, pipeline.settings.clone())))
    }

    /// Another runs now.
    pub fn set(&self, digest: Fingerprint, settings: &Settings) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (digest, settings.clone());
    }

    fn get(&self) -> (Fingerprint, Settings) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reloads one pipeline.
pub struct Reloader {
    path: PathBuf,
    reread: Reread,
    requests: mpsc::Sender<Request>,
    control: Arc<Control>,
    current: Arc<Current>,
    /// One at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Reloader {
    /// For a pipeline that runs, from the file at `path`.
    pub fn new(
        path: PathBuf,
        reread: Reread,
        requests: mpsc::Sender<Request>,
        control: Arc<Control>,
        current: Arc<Current>,
    ) -> Self {
        Self { path, reread, requests, control, current, turn: tokio::sync::Mutex::new(()) }
    }

    /// Reads the file and puts what it says in the place of what runs.
    pub async fn reload(&self) -> Outcome {
        let _turn = self.turn.lock().await;
        self.control.reloading();
        let outcome = self.attempt().await;
        let (word, message) = match &outcome {
            Outcome::Applied(reloaded) => (ReloadOutcome::Applied, reloaded.to_string()),
            Outcome::Unchanged => (ReloadOutcome::Unchanged, "nothing has changed".to_owned()),
            Outcome::Wrong(reason) | Outcome::Refused(reason) | Outcome::Busy(reason) => {
                (ReloadOutcome::Rejected, reason.clone())
            }
        };
        self.control.reloaded(word, &message);
        outcome
    }

    async fn attempt(&self) -> Outcome {
        let reread = Arc::clone(&self.reread);
        let read = tokio::task::spawn_blocking(move || reread()).await;
        let (pipeline, rebuild) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(reason)) => return Outcome::Wrong(reason),
            Err(error) => return Outcome::Wrong(format!("reading the pipeline file failed: {error}")),
        };
        let (digest, settings) = self.current.get();
        if pipeline.digest == digest {
            return Outcome::Unchanged;
        }
        if let Some(reason) = unchangeable(&settings, &pipeline.settings) {
            return Outcome::Refused(reason);
        }
        let (answer, answered) = oneshot::channel();
        let request = Request::Reload(Box::new(Replacement { pipeline, rebuild: Some(rebuild), answer }));
        if self.requests.send(request).await.is_err() {
            return Outcome::Busy("the pipeline is stopping".to_owned());
        }
        match answered.await {
            Ok(Ok(reloaded)) => Outcome::Applied(reloaded),
            Ok(Err(error)) if error.kind == Kind::Unavailable => Outcome::Busy(error.message),
            Ok(Err(error)) => Outcome::Refused(error.to_string()),
            Err(_) => Outcome::Busy("the pipeline has ended".to_owned()),
        }
    }

    /// The same, said in the log.
    pub async fn reload_and_log(&self, pipeline: &str) {
        match self.reload().await {
            Outcome::Applied(reloaded) => info!(pipeline, %reloaded, "reloaded"),
            Outcome::Unchanged => info!(pipeline, "nothing to reload: the file says what runs"),
            Outcome::Wrong(reason) | Outcome::Refused(reason) | Outcome::Busy(reason) => {
                warn!(pipeline, reason, "not reloaded; what runs goes on");
            }
        }
    }

    /// Reloads whenever the file changes, for ever.
    pub async fn watch(self: Arc<Self>, pipeline: String) {
        let mut known = look(&self.path);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let seen = look(&self.path);
            if seen == known || seen.is_none() {
                continue;
            }
            // A file that is still being written changes again: wait until it stands still.
            tokio::time::sleep(LOOK_EVERY / 5).await;
            if look(&self.path) == seen {
                known = seen;
                self.reload_and_log(&pipeline).await;
            }
        }
    }
}

/// What tells one state of a file from the next.
fn look(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Why one pipeline cannot take the other's place while it runs, if so.
fn unchangeable(running: &Settings, wanted: &Settings) -> Option<String> {
    let changed = [
        ("name", running.name != wanted.name),
        ("data_dir", running.data_dir != wanted.data_dir),
        ("log", running.log != wanted.log),
    ];
    let keys: Vec<&str> = changed.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key).collect();
    let restart = "cannot change while the pipeline runs; stop it and start it again";
    (!keys.is_empty()).then(|| format!("`{}` under [pipeline] {restart}", keys.join("`, `")))
}

impl std::fmt::Display for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        write!(f, "since epoch {}; kept: {}; fresh: {}", self.epoch, names(&self.kept), names(&self.fresh))?;
        if self.from_checkpoint {
            write!(f, "; from the last checkpoint, with what the log holds behind it")?;
        }
        Ok(())
    }
}
