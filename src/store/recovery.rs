//! A committed epoch as a checkpoint, and back. Touches files only through `Store`.
//!
//! The runtime and the simulated world run this same code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Store;
use super::checkpoint::{self, Checkpoint};
use crate::core::{Commit, Epoch, Now, Position, Snapshot};
use crate::{Error, Result};

const ENDS: &str = "ends";
const SNAPSHOT: &str = "snapshot";

/// Where the sources and sinks stood, by name: a person can read it, and a pipeline can lose or gain some.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ends {
    sources: BTreeMap<String, Position>,
    sinks: BTreeMap<String, Position>,
}

/// What a checkpoint brings back.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The state of the graph; `None` at the first start.
    pub snapshot: Option<Snapshot>,
    /// The epoch of the checkpoint.
    pub epoch: Epoch,
    /// Offset of the first log record behind it.
    pub log_offset: u64,
    /// Log records before this offset are needed by no checkpoint that is kept.
    pub needed_from: u64,
    /// Where each source stood, by name.
    pub sources: BTreeMap<String, Position>,
    /// Where each sink stood, by name.
    pub sinks: BTreeMap<String, Position>,
    /// Newer checkpoints that could not be used, each with the reason.
    pub passed_over: Vec<String>,
}

/// The newest whole checkpoint, or the beginning of everything.
///
/// # Errors
/// If there are checkpoints and none can be read, or they are of a newer version.
pub fn recover(store: &mut dyn Store) -> Result<Recovered> {
    let Some((checkpoint, report)) = checkpoint::load(store)? else { return Ok(Recovered::default()) };
    let epoch = checkpoint.epoch;
    let section = |name: &str| {
        let missing = || Error::state(format!("checkpoint {epoch} has no section `{name}`"));
        checkpoint.sections.get(name).ok_or_else(missing)
    };
    let unreadable = |error: String| Error::state(format!("checkpoint {epoch}: {error}"));
    let ends: Ends = serde_json::from_slice(section(ENDS)?).map_err(|error| unreadable(error.to_string()))?;
    let snapshot: Snapshot =
        postcard::from_bytes(section(SNAPSHOT)?).map_err(|error| unreadable(error.to_string()))?;
    Ok(Recovered {
        snapshot: Some(snapshot),
        epoch: Epoch(epoch),
        log_offset: checkpoint.log_offset,
        needed_from: checkpoint::needed_from(store)?.min(checkpoint.log_offset),
        sources: ends.sources,
        sinks: ends.sinks,
        passed_over: report.passed_over,
    })
}

/// Makes a commit durable, and says before which offset the log is needed by no checkpoint that is kept. The names
/// are in the order of the graph.
///
/// # Errors
/// If the checkpoint cannot be written; it does not count then.
pub fn save(
    store: &mut dyn Store,
    commit: &Commit,
    now: Now,
    source_names: &[String],
    sink_names: &[String],
) -> Result<u64> {
    let unwritable = |error: String| Error::state(format!("the checkpoint cannot be written: {error}"));
    let sources = source_names.iter().cloned().zip(commit.sources.iter().cloned());
    let ends = Ends {
        sources: sources.filter_map(|(name, position)| Some((name, position?))).collect(),
        sinks: sink_names.iter().cloned().zip(commit.sinks.iter().cloned()).collect(),
    };
    let ends = serde_json::to_vec(&ends).map_err(|error| unwritable(error.to_string()))?;
    let snapshot = postcard::to_stdvec(&commit.snapshot).map_err(|error| unwritable(error.to_string()))?;
    let checkpoint = Checkpoint {
        epoch: commit.epoch.0,
        log_offset: commit.offset,
        mono_us: u64::try_from(now.mono.as_micros()).unwrap_or(u64::MAX),
        wall_us: now.wall.micros(),
        sections: BTreeMap::from([(ENDS.to_owned(), ends), (SNAPSHOT.to_owned(), snapshot)]),
    };
    checkpoint::save(store, &checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn a_commit_comes_back_and_the_log_is_kept_for_the_one_before_it() {
        let mut store = Memory::new();
        let first = recover(&mut store).unwrap();
        assert!(first.snapshot.is_none() && first.epoch == Epoch(0) && first.log_offset == 0);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let position = |text: &str| Position(text.to_owned());
        let mut needed = Vec::new();
        for (epoch, offset) in [(1, 10), (2, 20), (3, 30)] {
            let snapshot = Snapshot { epoch: Epoch(epoch), now: Now::ZERO, nodes: Vec::new() };
            let commit = Commit {
                epoch: Epoch(epoch),
                offset,
                snapshot,
                sources: vec![None, Some(position("s"))],
                sinks: vec![position("o")],
            };
            needed.push(save(&mut store, &commit, Now::ZERO, &names(&["a", "b"]), &names(&["out"])).unwrap());
        }
        assert_eq!(needed, [10, 10, 20]);
        let back = recover(&mut store).unwrap();
        assert_eq!((back.epoch, back.log_offset, back.needed_from), (Epoch(3), 30, 20));
        assert_eq!(back.snapshot.unwrap().epoch, Epoch(3));
        assert_eq!(back.sources, BTreeMap::from([("b".to_owned(), position("s"))]));
        assert_eq!(back.sinks, BTreeMap::from([("out".to_owned(), position("o"))]));
    }
}
