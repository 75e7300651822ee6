//! What a pipeline keeps in its data directory besides the log: its identity, checkpoints, models, the columns found in
//! messages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, warn};

use crate::config::columns;
use crate::core::{Commit, Now};
use crate::error::{Error, Result};
use crate::registry::Columns;
use crate::store::recovery::{self, Recovered, Saver};
use crate::store::{Disk, Store};

/// The data directory of one pipeline, held by this process.
pub struct DataDir {
    disk: Disk,
    root: PathBuf,
    installation: String,
}

const ID: &str = "id";

/// Columns that were found in messages.
const SCHEMA: &str = "schema.json";

/// Schema files larger than this are none.
const SCHEMA_BYTES_MAX: u64 = 16 << 20;

/// Small files larger than this are none.
const NOTE_BYTES_MAX: u64 = 1 << 20;

/// Columns that were found in messages, by source.
pub type FoundColumns = BTreeMap<String, Columns>;

/// The columns kept in a data directory, for those who only look: nothing is made or locked.
///
/// # Errors
/// If there is a file and it cannot be read, or is of a newer version.
pub fn peek_columns(root: &Path, pipeline: &str) -> Result<FoundColumns> {
    let path = root.join(pipeline).join(SCHEMA);
    let shown = path.display().to_string();
    match std::fs::read(&path) {
        Ok(text) => columns::read(&text, &shown),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(FoundColumns::new()),
        Err(error) => Err(Error::io(format!("reading {shown}"), &error)),
    }
}

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

    /// The columns that were found in messages at an earlier start.
    ///
    /// # Errors
    /// If there is a file and it cannot be read, or is of a newer version.
    pub fn columns(&mut self) -> Result<FoundColumns> {
        if !self.disk.list("")?.iter().any(|name| name == SCHEMA) {
            return Ok(FoundColumns::new());
        }
        let shown = self.root.join(SCHEMA).display().to_string();
        let length = self.disk.len(SCHEMA)?;
        if length > SCHEMA_BYTES_MAX {
            return Err(Error::state(format!("{shown} is too large to be a list of columns; remove it")));
        }
        let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = self.disk.read(SCHEMA, 0, &mut text)?;
        text.truncate(read);
        columns::read(&text, &shown)
    }

    /// Keeps columns, durably and whole: after a crash there are those before or these.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn keep_columns(&mut self, found: &FoundColumns) -> Result<()> {
        write_whole(&mut self.disk, SCHEMA, columns::write(found)?.as_bytes())
    }

    /// Where a file of the directory lies.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A small file, if it is there.
    pub(super) fn note(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        if !self.disk.list("")?.iter().any(|there| there == name) {
            return Ok(None);
        }
        let mut text = vec![0; usize::try_from(self.disk.len(name)?.min(NOTE_BYTES_MAX)).unwrap_or(0)];
        let read = self.disk.read(name, 0, &mut text)?;
        text.truncate(read);
        Ok(Some(text))
    }

    /// Keeps a small file, durably and whole.
    pub(super) fn keep_note(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        write_whole(&mut self.disk, name, bytes)
    }

    /// A handle of the store for the log.
    pub fn store(&self) -> Box<dyn Store> {
        self.disk.share()
    }

    /// The sinks that have, or had, a spool.
    pub fn spools(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join("spool")).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
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
        let saver = Saver::new(source_names, sink_names);
        Checkpoints { writer: Arc::new(Mutex::new((self.disk.share(), saver))) }
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
    write_whole(disk, ID, id.as_bytes())?;
    Ok(id)
}

/// Writes a small file so that after a crash it is there whole or as it was.
fn write_whole(disk: &mut Disk, name: &str, bytes: &[u8]) -> Result<()> {
    let unfinished = format!("{name}.part");
    if disk.list("")?.contains(&unfinished) {
        disk.remove(&unfinished)?;
    }
    let file = disk.create(&unfinished)?;
    let written = disk.append(file, bytes).and_then(|()| disk.sync(file));
    disk.close(file);
    written?;
    disk.rename(&unfinished, name)?;
    disk.sync_dir("")
}

/// Writes checkpoints, off the tasks' thread.
pub struct Checkpoints {
    writer: Arc<Mutex<(Box<dyn Store>, Saver)>>,
}

/// A commit that is durable.
#[derive(Debug)]
pub struct Saved {
    /// The commit, without the state of its nodes.
    pub commit: Commit,
    /// Log records before this offset are needed by no checkpoint that is kept.
    pub remove_before: u64,
}

/// A commit that could not be made durable, so that it can be tried again.
#[derive(Debug)]
pub struct Unsaved {
    /// The commit, whole.
    pub commit: Commit,
    /// Why not.
    pub error: Error,
}

/// What became of a commit.
pub type Saving = std::result::Result<Saved, Box<Unsaved>>;

impl Checkpoints {
    /// Makes a commit durable, or gives it back.
    pub fn save(&self, mut commit: Commit, now: Now) -> JoinHandle<Saving> {
        let writer = Arc::clone(&self.writer);
        spawn_blocking(move || {
            let saved = match writer.lock() {
                Ok(mut writer) => {
                    let (store, saver) = &mut *writer;
                    saver.save(store.as_mut(), &commit, now)
                }
                Err(_) => Err(Error::state("the checkpoint cannot be written: an earlier write panicked")),
            };
            let saved = match saved {
                Ok(saved) => saved,
                Err(error) => return Err(Box::new(Unsaved { commit, error })),
            };
            debug!(epoch = commit.epoch.0, bytes = saved.bytes, base = saved.is_base, "checkpoint written");
            // What is written is let go here: the engine takes it back without a copy, and nobody waits for the rest.
            commit.snapshot.nodes.clear();
            Ok(Saved { commit, remove_before: saved.remove_before })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_kept_and_what_is_unreadable_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let found = BTreeMap::from([("plant".to_owned(), Columns::default())]);
        {
            let mut data = DataDir::open(directory.path(), "a").unwrap();
            assert_eq!(data.columns().unwrap(), FoundColumns::new());
            data.keep_columns(&FoundColumns::new()).unwrap();
            // What a crash in the middle leaves behind is no obstacle.
            std::fs::write(directory.path().join("a/schema.json.part"), "{").unwrap();
            data.keep_columns(&found).unwrap();
            assert_eq!(data.columns().unwrap(), found);
        }
        assert_eq!(peek_columns(directory.path(), "a").unwrap(), found);
        assert_eq!(peek_columns(directory.path(), "b").unwrap(), FoundColumns::new());
        let path = directory.path().join("a/schema.json");
        std::fs::write(&path, "{\"version\":9}").unwrap();
        let error = DataDir::open(directory.path(), "a").unwrap().columns().unwrap_err().to_string();
        assert!(error.contains("a/schema.json: ") && error.contains("version 9"), "{error}");
        assert_eq!(peek_columns(directory.path(), "a").unwrap_err().to_string(), error);
    }
}
