//! How models reach a running pipeline: by request, by a changed file, by a retained topic.
//!
//! Whatever the way, a model is verified here, off the engine thread, kept durably where there is a data
//! directory, and then applied at a cut. The one that runs goes on until then, and also when the new one is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arrow::array::AsArray;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::coordinator::Request;
use super::metrics::PipelineMetrics;
use crate::core::{Model, ModelId, ModelOrigin, ModelSlot, Source};
use crate::error::{Error, Kind, Result};

/// How often a model file is looked at for changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a submitter waits for the commit before being told that it is still to come.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Largest model file, in bytes.
pub const MODEL_BYTES_MAX: usize = 64 << 20;

/// How many models are kept in the data directory. A restart needs those that the log names behind the older of two
/// checkpoints: no more than there can be epochs under way and requests waiting, which are fewer.
const KEPT_MAX: usize = 32;

/// What became of a submitted model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It runs, and the cut at which it began is committed.
    Applied(ModelId),
    /// It is the one that runs already.
    Same(ModelId),
    /// There is no such node, or it takes no models.
    NoNode(String),
    /// The node cannot take it, and why.
    Refused(String),
    /// It was accepted, but a sink holds up the commit.
    Pending(ModelId),
    /// It could not be applied for now, and why; nothing has changed.
    Busy(String),
}

/// The models of one pipeline.
pub struct Models {
    slots: BTreeMap<String, ModelSlot>,
    requests: mpsc::Sender<Request>,
    metrics: Arc<PipelineMetrics>,
    directory: Option<PathBuf>,
    /// Of which engine the nodes are.
    generation: u64,
    /// What each node's topic brought last, since the start: a retained message comes again with every connection.
    by_topic: Mutex<BTreeMap<String, ModelId>>,
}

impl Models {
    /// Over the nodes that take models; they are kept in `directory` where there is one.
    pub fn new(
        slots: BTreeMap<String, ModelSlot>,
        requests: mpsc::Sender<Request>,
        metrics: Arc<PipelineMetrics>,
        directory: Option<PathBuf>,
        generation: u64,
    ) -> Self {
        Self { slots, requests, metrics, directory, generation, by_topic: Mutex::default() }
    }

    /// The nodes that take models.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.slots.keys().map(String::as_str)
    }

    /// Verifies a model for a node, applies it at a cut, and counts what became of it.
    pub async fn submit(&self, node: &str, bytes: Vec<u8>, origin: ModelOrigin) -> Submitted {
        let Some(slot) = self.slots.get(node) else {
            let nodes: Vec<&str> = self.nodes().collect();
            return Submitted::NoNode(format!(
                "`{node}` takes no models; those that do: {}",
                nodes.join(", ")
            ));
        };
        let outcome = self.verify_and_apply(node, slot, bytes, origin).await;
        match &outcome {
            Submitted::Applied(_) => self.metrics.model_applied(node, origin.word()),
            Submitted::Refused(_) => self.metrics.model_refused(node, origin.word()),
            Submitted::Same(_) | Submitted::NoNode(_) | Submitted::Pending(_) | Submitted::Busy(_) => {}
        }
        outcome
    }

    async fn verify_and_apply(
        &self,
        node: &str,
        slot: &ModelSlot,
        bytes: Vec<u8>,
        origin: ModelOrigin,
    ) -> Submitted {
        let gate = Arc::clone(&slot.gate);
        let directory = self.directory.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let model = Model { origin, ..gate.admit(&bytes)? };
            if let Some(directory) = directory {
                keep(&directory, &model)?;
            }
            Ok::<_, Error>(Arc::new(model))
        });
        let model = match verified.await {
            Ok(Ok(model)) => model,
            Ok(Err(error)) => return Submitted::Refused(error.message),
            Err(error) => return Submitted::Refused(format!("verifying it failed: {error}")),
        };
        let id = model.id;
        let same = self.metrics.models().get(node) == Some(&id);
        // That the file or the topic has what runs already is worth a cut the first time: it must be remembered that
        // it was heeded.
        let again = match origin {
            ModelOrigin::Request => same,
            ModelOrigin::File => false,
            ModelOrigin::Topic => self.topic_brings(node, id),
        };
        if again {
            return Submitted::Same(id);
        }
        let (answer, answered) = oneshot::channel();
        let (node, generation) = (node.to_owned(), self.generation);
        let request = Request::Model { node, model, generation, answer };
        if self.requests.send(request).await.is_err() {
            return Submitted::Refused("the pipeline is stopping".to_owned());
        }
        match tokio::time::timeout(ANSWER_MAX, answered).await {
            Ok(Ok(Ok(()))) if same => Submitted::Same(id),
            Ok(Ok(Ok(()))) => Submitted::Applied(id),
            Ok(Ok(Err(error))) if error.kind == Kind::Unavailable => Submitted::Busy(error.message),
            Ok(Ok(Err(error))) => Submitted::Refused(error.message),
            Ok(Err(_)) => Submitted::Refused("the pipeline is stopping".to_owned()),
            Err(_) => Submitted::Pending(id),
        }
    }

    /// Whether the topic brings the same again.
    fn topic_brings(&self, node: &str, id: ModelId) -> bool {
        self.by_topic.lock().is_ok_and(|mut known| known.insert(node.to_owned(), id) == Some(id))
    }

    /// Submits and says in the log what became of it; false if it is to be tried again.
    async fn submit_and_log(&self, node: &str, bytes: Vec<u8>, origin: ModelOrigin) -> bool {
        let outcome = self.submit(node, bytes, origin).await;
        let origin = origin.word();
        match outcome {
            Submitted::Applied(id) => info!(node, model = id.short(), origin, "model applied"),
            Submitted::Same(_) => {}
            Submitted::Pending(id) => warn!(node, model = id.short(), origin, "model not committed yet"),
            Submitted::NoNode(reason) | Submitted::Refused(reason) => {
                warn!(node, origin, reason, "model refused; the old one goes on");
            }
            Submitted::Busy(reason) => {
                warn!(node, origin, reason, "model not applied for now; it is tried again");
                return false;
            }
        }
        true
    }

    /// Follows a node's model file for ever.
    pub async fn follow_file(self: Arc<Self>, node: String, path: PathBuf) {
        let mut known = look(&path);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let seen = look(&path);
            if seen == known || seen.is_none() {
                continue;
            }
            // A file that is still being written changes again: wait until it stands still.
            tokio::time::sleep(LOOK_EVERY / 5).await;
            if look(&path) != seen {
                continue;
            }
            known = seen;
            match tokio::fs::read(&path).await {
                Ok(bytes) => {
                    if !self.submit_and_log(&node, bytes, ModelOrigin::File).await {
                        known = None;
                    }
                }
                Err(error) => warn!(node, path = %path.display(), %error, "the model file cannot be read"),
            }
        }
    }

    /// Follows a node's model topic for ever.
    pub async fn follow_topic(self: Arc<Self>, node: String, mut source: Box<dyn Source>) {
        if let Err(error) = source.open(None).await {
            warn!(node, %error, "the model topic cannot be followed");
            return;
        }
        loop {
            let rows = match source.next().await {
                Ok(Some(rows)) => rows,
                Ok(None) => return,
                Err(error) => {
                    warn!(node, %error, "the model topic cannot be followed any more");
                    return;
                }
            };
            if let Some(payloads) =
                rows.batch.column_by_name("payload").and_then(|column| column.as_binary_opt::<i32>())
            {
                // Only the newest counts; an empty payload is how MQTT deletes a retained message.
                if let Some(newest) = payloads.iter().flatten().filter(|payload| !payload.is_empty()).last() {
                    while !self.submit_and_log(&node, newest.to_vec(), ModelOrigin::Topic).await {
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                }
            }
            if let Err(error) = source.acknowledge(&rows.position).await {
                warn!(node, %error, "a model message could not be acknowledged");
            }
        }
    }

    /// A model that was kept, by its id, prepared for a node again.
    ///
    /// # Errors
    /// If it is not there or not admitted any more.
    pub fn recall(
        slots: &BTreeMap<String, ModelSlot>,
        directory: &std::path::Path,
        node: &str,
        id: &str,
    ) -> Result<Model> {
        let path = directory.join(file_name(id));
        let bytes =
            std::fs::read(&path).map_err(|error| Error::io(format!("reading {}", path.display()), &error))?;
        let slot = slots.get(node).ok_or_else(|| Error::model(format!("`{node}` takes no models")))?;
        slot.gate.admit(&bytes)
    }
}

fn file_name(id: &str) -> String {
    format!("{id}.tgm")
}

/// Writes a model under its id so that it is there after a power cut.
fn keep(directory: &std::path::Path, model: &Model) -> Result<()> {
    use std::io::Write;
    let path = directory.join(file_name(&model.id.to_string()));
    let failed =
        |error: std::io::Error| Error::io(format!("keeping the model in {}", directory.display()), &error);
    if let Ok(file) = std::fs::File::options().write(true).open(&path) {
        // Now it is among the newest again.
        return file.set_modified(SystemTime::now()).map_err(failed);
    }
    std::fs::create_dir_all(directory).map_err(failed)?;
    let partial = path.with_extension("part");
    let mut file = std::fs::File::create(&partial).map_err(failed)?;
    file.write_all(&model.bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&partial, &path).map_err(failed)?;
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    forget_oldest(directory);
    Ok(())
}

/// Removes all but the newest models. What cannot be removed now will be with the next one.
fn forget_oldest(directory: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut kept: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let path = entry.path();
            let whole = path.extension().is_some_and(|ending| ending == "tgm");
            whole.then_some((entry.metadata().ok()?.modified().ok()?, path))
        })
        .collect();
    kept.sort();
    let old = kept.len().saturating_sub(KEPT_MAX);
    for (_, path) in kept.drain(..old) {
        let _ = std::fs::remove_file(path);
    }
}

/// What tells one state of a file from the next.
fn look(path: &std::path::Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_models_are_kept_and_one_that_comes_again_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let model = |number: u8| Model {
            id: ModelId([number; 32]),
            bytes: Arc::from([number]),
            origin: ModelOrigin::Request,
            prepared: Box::new(()),
        };
        let path = |number: u8| directory.path().join(file_name(&ModelId([number; 32]).to_string()));
        let count = KEPT_MAX as u8;
        for number in 0..count {
            keep(directory.path(), &model(number)).unwrap();
            // Times of files are coarse.
            let age = Duration::from_secs(100 - u64::from(number));
            let file = std::fs::File::options().write(true).open(path(number)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        assert!(path(0).exists(), "as many as are kept");
        keep(directory.path(), &model(0)).unwrap();
        keep(directory.path(), &model(count)).unwrap();
        assert!(path(0).exists() && !path(1).exists() && path(2).exists() && path(count).exists());
        assert_eq!(std::fs::read(path(count)).unwrap(), [count]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), KEPT_MAX);
    }
}
