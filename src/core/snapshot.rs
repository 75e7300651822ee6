//! The state of a whole graph at a cut.

use serde::{Deserialize, Serialize};

use super::event::{Epoch, Now};
use super::graph::Fingerprint;
use super::model::ModelId;
use super::state::State;

/// What a node had learned or collected at a cut.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// The node's name.
    pub name: String,
    /// The component's type, e.g. `window`.
    pub kind: String,
    /// What the state means; it is loaded only into a node of the same meaning.
    pub fingerprint: Fingerprint,
    /// What the node wrote in `save`.
    pub state: State,
    /// The model it runs, for those that run one.
    pub model: Option<ModelId>,
    /// The node's own watermark, microseconds since 1970. It can be ahead of what its inputs say now: one that was
    /// idle may have come back.
    pub watermark: i64,
    /// Whether all its inputs are idle.
    pub idle: bool,
    /// Watermark and idleness of each of the node's inputs.
    pub edges: Vec<EdgeState>,
}

/// How far one input of a node had come. That an input has ended is not kept, since its source, opened again at its
/// end, says so again; until then it counts as idle and holds no other back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeState {
    /// The input's watermark, microseconds since 1970.
    pub watermark: i64,
    /// Whether the input is idle and holds no other back.
    pub idle: bool,
}

impl EdgeState {
    /// An input that has said nothing yet.
    pub const START: Self = Self { watermark: i64::MIN, idle: false };
    /// An input that has ended.
    pub const ENDED: Self = Self { watermark: i64::MAX, idle: true };
}

/// The state of all nodes at one cut. With the records behind the cut it gives the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The cut.
    pub epoch: Epoch,
    /// The time of the cut.
    pub now: Now,
    /// Every node's state, in graph order.
    pub nodes: Vec<NodeState>,
}

/// What became of a node's saved state when a graph was built on a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The node goes on where it was.
    Loaded,
    /// The snapshot has no such node: it starts fresh.
    New,
    /// The node means something else now (another window size, other columns): it starts fresh.
    Changed,
}
