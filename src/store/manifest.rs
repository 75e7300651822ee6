//! What a checkpoint says about itself: where the pipeline stood, what its nodes are, and in which file each part of
//! their state lies. Pure.
//!
//! It is written with `postcard`, behind the parts that are in the same file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::snapshot::EdgeState;
use crate::core::{EventTime, Fingerprint, ModelId, Now, Position};

/// A checkpoint without the bytes of its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The time of the cut, as the engine had it.
    pub cut_at: Now,
    /// Where each source stood, by name: a pipeline can lose or gain some.
    pub sources: BTreeMap<String, Position>,
    /// Where each sink stood, by name.
    pub sinks: BTreeMap<String, Position>,
    /// Every node, in graph order.
    pub nodes: Vec<SavedNode>,
}

/// A node and where its state is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedNode {
    /// Its name in the pipeline file.
    pub name: String,
    /// The component's type, e.g. `window`.
    pub kind: String,
    /// What the state means.
    pub fingerprint: Fingerprint,
    /// The node's watermark, µs since 1970.
    pub watermark: i64,
    /// Whether all its inputs are idle.
    pub idle: bool,
    /// Watermark and idleness of its inputs.
    pub edges: Vec<EdgeState>,
    /// The model it runs, for those that run one.
    pub model: Option<ModelId>,
    /// Its state, in order.
    pub sections: Vec<SavedSection>,
}

impl SavedNode {
    /// Where its state is, in order.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.sections.iter().flat_map(|section| &section.places)
    }

    /// How many bytes its state has.
    pub fn bytes(&self) -> u64 {
        self.places().map(|place| u64::from(place.bytes)).sum()
    }
}

/// A section of a node's state: see [`crate::core::state::Section`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedSection {
    /// What it is; empty for what has no name.
    pub name: String,
    /// What its elements are.
    pub fields: String,
    /// How many there are.
    pub elements: u64,
    /// Where its parts are, in order.
    pub places: Vec<Place>,
}

/// Where a part of a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The epoch of the file it is in.
    pub epoch: u64,
    /// Where it begins there.
    pub offset: u64,
    /// How long it is.
    pub bytes: u32,
    /// CRC-32 of the epoch and the bytes.
    pub checksum: u32,
}

impl Place {
    /// The place of a part that is written to the file of an epoch, and nothing if it is too long for one.
    pub fn of(part: &[u8], epoch: u64, offset: u64) -> Option<Self> {
        let bytes = u32::try_from(part.len()).ok()?;
        Some(Self { epoch, offset, bytes, checksum: checksum(epoch, part) })
    }

    /// Whether these bytes are the part.
    pub fn is(&self, part: &[u8]) -> bool {
        part.len() == self.bytes as usize && checksum(self.epoch, part) == self.checksum
    }
}

/// CRC-32 of an epoch and bytes: a part of another file is another part.
pub(super) fn checksum(epoch: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&epoch.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}

impl Manifest {
    /// The epochs of all files that hold parts of the state.
    pub fn files(&self) -> std::collections::BTreeSet<u64> {
        self.nodes.iter().flat_map(SavedNode::places).map(|place| place.epoch).collect()
    }

    /// Nothing anywhere, at the beginning of time.
    pub fn empty() -> Self {
        let cut_at = Now { mono: Duration::ZERO, wall: EventTime(0) };
        Self { cut_at, sources: BTreeMap::new(), sinks: BTreeMap::new(), nodes: Vec::new() }
    }
}
