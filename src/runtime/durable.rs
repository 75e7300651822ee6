//! What a pipeline keeps in its data directory besides the log: its identity, checkpoints, models.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use crate::core::{Commit, Now};
use crate::error::{Error, Result};
use crate::store::recovery::{self, Recovered};
use crate::store::{Disk, Store};

/// The data directory of one pipeline, held by this process.
pub struct DataDir {
    disk: Disk,
    root: PathBuf,
    installation: String,
}

const ID: &str = "id";

impl DataDir {
    /// Opens, or makes, `<root>/<pipeline>`.
    ///
    /// # Errors
    /// If another process has it or it cannot be read or written.
    pub fn open(root: &Path, pipeline: &str) -> Result<Self> {
        let root = root.join(pipeline);
        let mut disk = Disk::open(&root)?;
        let installation = identity(&mut disk)?;
        Ok(Self { disk, root, installation })
    }

    /// The UUID of this installation, made at the first start.
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// Where models are kept.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// A handle of the store for the log.
    pub fn store(&self) -> Box<dyn Store> {
        self.disk.share()
    }

    /// The newest whole checkpoint.
    ///
    /// # Errors
    /// If there are checkpoints and none can be read, or they are of a newer version.
    pub fn recover(&mut self) -> Result<Recovered> {
        let recovered = recovery::recover(&mut self.disk)?;
        for reason in &recovered.passed_over {
            warn!(reason, "a newer checkpoint was passed over");
        }
        Ok(recovered)
    }

    /// The writer of checkpoints; the names are in the order of the graph.
    pub fn checkpoints(&self, source_names: Vec<String>, sink_names: Vec<String>) -> Checkpoints {
        Checkpoints { store: Arc::new(Mutex::new(self.disk.share())), source_names, sink_names }
    }
}

fn identity(disk: &mut Disk) -> Result<String> {
    let names = disk.list("")?;
    if names.iter().any(|name| name == ID) {
        let mut bytes = [0; 64];
        let read = disk.read(ID, 0, &mut bytes)?;
        let text = String::from_utf8_lossy(&bytes[..read]).trim().to_owned();
        return match uuid::Uuid::parse_str(&text) {
            Ok(id) => Ok(id.to_string()),
            Err(_) => {
                Err(Error::state(format!("the file `{ID}` in the data directory holds no UUID but `{text}`")))
            }
        };
    }
    let id = uuid::Uuid::new_v4().to_string();
    let unfinished = format!("{ID}.part");
    let file = disk.create(&unfinished)?;
    disk.append(file, id.as_bytes())?;
    disk.sync(file)?;
    disk.close(file);
    disk.rename(&unfinished, ID)?;
    disk.sync_dir("")?;
    Ok(id)
}

/// Writes checkpoints, off the tasks' thread.
pub struct Checkpoints {
    store: Arc<Mutex<Box<dyn Store>>>,
    source_names: Vec<String>,
    sink_names: Vec<String>,
}

/// A commit that is durable.
#[derive(Debug)]
pub struct Saved {
    /// The commit.
    pub commit: Commit,
    /// Log records before this offset are needed by no checkpoint that is kept.
    pub remove_before: u64,
}

impl Checkpoints {
    /// Makes a commit durable.
    pub fn save(&self, commit: Commit, now: Now) -> JoinHandle<Result<Saved>> {
        let store = Arc::clone(&self.store);
        let (sources, sinks) = (self.source_names.clone(), self.sink_names.clone());
        spawn_blocking(move || {
            let mut store = store
                .lock()
                .map_err(|_| Error::state("the checkpoint cannot be written: an earlier write panicked"))?;
            let remove_before = recovery::save(store.as_mut(), &commit, now, &sources, &sinks)?;
            Ok(Saved { commit, remove_before })
        })
    }
}
