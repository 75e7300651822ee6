//! The graph: nodes in topological order, the edges between them, and where sinks hang.

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use super::model::ModelSlot;
use super::operator::Operator;
use crate::error::{Error, Result};

/// What a node's state means: its type, the configuration that matters to the state, its input schemas and
/// the meaning of its inputs. State is loaded only where it is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// The fingerprint of some parts, each told apart from the next.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }
}

/// Where an edge comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Edge {
    /// An input of the graph, that is a source.
    Input(usize),
    /// A port of a node.
    Node {
        /// Index of the node; always before the node or sink that the edge goes to.
        node: usize,
        /// Index of the node's port.
        port: usize,
    },
}

/// A named way out of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Empty for the main port; `late`, `bad` and so on for the others (`features.late` in the file).
    pub name: &'static str,
    /// What leaves here.
    pub schema: SchemaRef,
}

/// An operator in its place.
pub struct Node {
    /// The name in the pipeline file.
    pub name: String,
    /// The component's type, e.g. `window`.
    pub kind: &'static str,
    /// The running part.
    pub operator: Box<dyn Operator>,
    /// Where its inputs come from; the position is the port that `process` sees.
    pub inputs: Vec<Edge>,
    /// Its ways out.
    pub ports: Vec<Port>,
    /// What its state means.
    pub fingerprint: Fingerprint,
    /// Whether it makes its own watermark instead of passing its inputs' on.
    pub own_watermark: bool,
    /// How models reach it; `None` if it takes none.
    pub models: Option<ModelSlot>,
}

/// A sink's place in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkNode {
    /// The name in the pipeline file.
    pub name: String,
    /// Where its rows come from.
    pub inputs: Vec<Edge>,
}

/// A checked graph, ready to run.
pub struct Graph {
    /// The names of the inputs (sources).
    pub inputs: Vec<String>,
    /// The operators, each behind all it reads from.
    pub nodes: Vec<Node>,
    /// The sinks.
    pub sinks: Vec<SinkNode>,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(|node| (&node.name, node.kind, &node.inputs)).collect();
        f.debug_struct("Graph")
            .field("inputs", &self.inputs)
            .field("nodes", &nodes)
            .field("sinks", &self.sinks)
            .finish()
    }
}

impl Graph {
    /// One node between the input `in` and the sink `out`.
    ///
    /// # Errors
    /// The node reads from something else.
    pub fn of_one(node: Node) -> Result<Self> {
        let sink = SinkNode { name: "out".to_owned(), inputs: vec![Edge::Node { node: 0, port: 0 }] };
        Self::new(vec!["in".to_owned()], vec![node], vec![sink])
    }

    /// Checks that every edge comes from something earlier that is there.
    ///
    /// # Errors
    /// Names the node or sink whose edge goes nowhere or backwards.
    pub fn new(inputs: Vec<String>, nodes: Vec<Node>, sinks: Vec<SinkNode>) -> Result<Self> {
        let valid = |edge: &Edge, before: usize| match *edge {
            Edge::Input(input) => input < inputs.len(),
            Edge::Node { node, port } => node < before && port < nodes[node].ports.len(),
        };
        for (index, node) in nodes.iter().enumerate() {
            if node.inputs.is_empty() || !node.inputs.iter().all(|edge| valid(edge, index)) {
                return Err(
                    Error::config("an input does not exist or comes later in the graph").at(&node.name)
                );
            }
        }
        for sink in &sinks {
            if sink.inputs.is_empty() || !sink.inputs.iter().all(|edge| valid(edge, nodes.len())) {
                return Err(Error::config("an input does not exist").at(&sink.name));
            }
        }
        Ok(Self { inputs, nodes, sinks })
    }

    /// The index of a node by its name.
    pub fn node(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }
}
