//! A committed epoch as a checkpoint, and back. Touches files only through `Store`.
//!
//! The runtime and the simulated world run this same code.

use std::collections::BTreeMap;

use super::Store;
use super::chain::Chain;
use super::checkpoint::{self, Head};
use super::manifest::Manifest;
use crate::Result;
use crate::core::{Commit, Epoch, NodeState, Now, Position, Snapshot, State};

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
/// If there are checkpoints and none can be read, or they are of another version.
pub fn recover(store: &mut dyn Store) -> Result<Recovered> {
    let Some(((checkpoint, states), report)) = checkpoint::load(store)? else {
        return Ok(Recovered::default());
    };
    let (head, manifest) = (checkpoint.head, checkpoint.manifest);
    let nodes = manifest.nodes.into_iter().zip(states).map(|(node, state)| NodeState {
        name: node.name,
        kind: node.kind,
        fingerprint: node.fingerprint,
        state: State::of_bytes(state),
        model: node.model,
        watermark: node.watermark,
        idle: node.idle,
        edges: node.edges,
    });
    let epoch = Epoch(head.epoch);
    Ok(Recovered {
        snapshot: Some(Snapshot { epoch, now: manifest.cut_at, nodes: nodes.collect() }),
        epoch,
        log_offset: head.log_offset,
        needed_from: checkpoint::needed_from(store)?.min(head.log_offset),
        sources: manifest.sources,
        sinks: manifest.sinks,
        passed_over: report.passed_over,
    })
}

/// Writes checkpoints, and knows what of the state is on disk already. The names are in the order of the graph.
#[derive(Debug, Default)]
pub struct Saver {
    source_names: Vec<String>,
    sink_names: Vec<String>,
    /// What the next checkpoint builds on, and the one after it.
    chains: [Chain; 2],
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The log is needed by no checkpoint that is kept before this offset.
    pub remove_before: u64,
    /// Bytes of the file that was written.
    pub bytes: u64,
    /// Whether it builds on no other.
    pub is_base: bool,
}

impl Saver {
    /// For a pipeline whose sources and sinks have these names; nothing is known of what is on disk.
    pub fn new(source_names: Vec<String>, sink_names: Vec<String>) -> Self {
        Self { source_names, sink_names, ..Self::default() }
    }

    /// Makes a commit durable.
    ///
    /// # Errors
    /// If the checkpoint cannot be written; it does not count then.
    pub fn save(&mut self, store: &mut dyn Store, commit: &Commit, now: Now) -> Result<Saved> {
        let sources = self.source_names.iter().cloned().zip(commit.sources.iter().cloned());
        let manifest = Manifest {
            cut_at: commit.snapshot.now,
            sources: sources.filter_map(|(name, position)| Some((name, position?))).collect(),
            sinks: self.sink_names.iter().cloned().zip(commit.sinks.iter().cloned()).collect(),
            nodes: Vec::new(),
        };
        let head = Head {
            epoch: commit.epoch.0,
            log_offset: commit.offset,
            mono_us: u64::try_from(now.mono.as_micros()).unwrap_or(u64::MAX),
            wall_us: now.wall.micros(),
            base_epoch: commit.epoch.0,
        };
        let [chain, _] = &mut self.chains;
        let written = chain.save(store, head, &manifest, &commit.snapshot)?;
        // The next one builds on the other chain, so that the two that are kept have no file in common.
        self.chains.swap(0, 1);
        // The new one is safe from here on, whatever becomes of the old ones.
        let builds_on = self.chains.iter().flat_map(Chain::files).collect();
        let remove_before = checkpoint::prune(store, &written, builds_on).unwrap_or(0);
        let is_base = written.head.base_epoch == written.head.epoch;
        Ok(Saved { remove_before, bytes: written.file_bytes, is_base })
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
