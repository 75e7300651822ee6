//! What a pipeline keeps in its data directory besides the log: its identity, checkpoints, models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use crate::core::{Commit, Epoch, Now, Position, Snapshot};
use crate::error::{Error, Result};
use crate::store::checkpoint::{self, Checkpoint};
use crate::store::{Disk, Store};

/// The data directory of one pipeline, held by this process.
pub struct DataDir {
    disk: Disk,
    root: PathBuf,
    installation: String,
}

/// Where the sources and sinks stood, by name: a person can read it, and a pipeline can lose or gain some.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ends {
    sources: BTreeMap<String, Position>,
    sinks: BTreeMap<String, Position>,
}

/// What a checkpoint brings back.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The state of the graph; `None` at the first start.
    pub snapshot: Option<Snapshot>,
    /// The epoch of the checkpoint.
    pub epoch: Epoch,
    /// Offset of the first log record behind it.
    pub log_offset: u64,
    /// Where each source stood, by name.
    pub sources: BTreeMap<String, Position>,
    /// Where each sink stood, by name.
    pub sinks: BTreeMap<String, Position>,
}

const ENDS: &str = "ends";
const SNAPSHOT: &str = "snapshot";
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
        let Some((checkpoint, report)) = checkpoint::load(&mut self.disk)? else {
            return Ok(Recovered::default());
        };
        for reason in report.passed_over {
            warn!(reason, "a newer checkpoint was passed over");
        }
        let section = |name: &str| {
            checkpoint.sections.get(name).ok_or_else(|| {
                Error::state(format!("checkpoint {} has no section `{name}`", checkpoint.epoch))
            })
        };
        let ends: Ends = serde_json::from_slice(section(ENDS)?)
            .map_err(|error| Error::state(format!("checkpoint {}: {error}", checkpoint.epoch)))?;
        let snapshot: Snapshot = postcard::from_bytes(section(SNAPSHOT)?)
            .map_err(|error| Error::state(format!("checkpoint {}: {error}", checkpoint.epoch)))?;
        Ok(Recovered {
            snapshot: Some(snapshot),
            epoch: Epoch(checkpoint.epoch),
            log_offset: checkpoint.log_offset,
            sources: ends.sources,
            sinks: ends.sinks,
        })
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
        let named = |names: &[String], positions: Vec<Option<Position>>| {
            let named = names.iter().cloned().zip(positions);
            named.filter_map(|(name, position)| Some((name, position?))).collect()
        };
        let ends = Ends {
            sources: named(&self.source_names, commit.sources.clone()),
            sinks: named(&self.sink_names, commit.sinks.iter().cloned().map(Some).collect()),
        };
        spawn_blocking(move || {
            let damaged = |error: String| Error::state(format!("the checkpoint cannot be written: {error}"));
            let ends = serde_json::to_vec(&ends).map_err(|error| damaged(error.to_string()))?;
            let snapshot =
                postcard::to_stdvec(&commit.snapshot).map_err(|error| damaged(error.to_string()))?;
            let checkpoint = Checkpoint {
                epoch: commit.epoch.0,
                log_offset: commit.offset,
                mono_us: u64::try_from(now.mono.as_micros()).unwrap_or(u64::MAX),
                wall_us: now.wall.micros(),
                sections: BTreeMap::from([(ENDS.to_owned(), ends), (SNAPSHOT.to_owned(), snapshot)]),
            };
            let mut store = store.lock().map_err(|_| damaged("an earlier write panicked".to_owned()))?;
            let remove_before = checkpoint::save(store.as_mut(), &checkpoint)?;
            Ok(Saved { commit, remove_before })
        })
    }
}
