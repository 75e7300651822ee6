//! What moves: events inside the graph, and the records of the input log that cause them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::graph::Graph;
use super::model::Model;

/// The number of a cut. Grows by one per barrier; never used twice in one data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A moment in the data's own time: microseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// It comes from the data, never from a clock. As a watermark it promises that no row before it will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Before everything: the watermark of an input that has said nothing yet.
    pub const MIN: Self = Self(i64::MIN);
    /// After everything: the watermark of an input that has ended.
    pub const MAX: Self = Self(i64::MAX);

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// This moment moved back by a duration, stopping at [`EventTime::MIN`].
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// This moment moved on by a duration, stopping at [`EventTime::MAX`].
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

/// A duration in whole microseconds, at most `i64::MAX`.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The time at which a record entered the engine. Injected: the engine reads no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Monotonic time; it never goes back and goes on where it stopped after a restart.
    pub mono: Duration,
    /// Wall-clock time; it may jump.
    pub wall: EventTime,
}

impl Now {
    /// The start of all time, for tests and for an engine that has seen nothing.
    pub const ZERO: Self = Self { mono: Duration::ZERO, wall: EventTime(0) };
}

/// What a sink receives.
#[derive(Debug, Clone)]
pub enum Event {
    /// Rows.
    Batch(RecordBatch),
    /// A cut: everything before it belongs to its epoch.
    Barrier(Barrier),
    /// Nothing more will come.
    End,
}

/// A cut between two records, with what is changed there.
#[derive(Debug, Clone)]
pub struct Barrier {
    /// The number of this cut.
    pub epoch: Epoch,
    /// What changes at the cut; `None` for a plain checkpoint.
    pub change: Option<Arc<Change>>,
}

/// What can be changed at a cut.
pub enum Change {
    /// Another graph takes the place of the running one; matching nodes keep their state.
    Graph(std::sync::Mutex<Option<Graph>>),
    /// A node takes another model.
    Model {
        /// The node's name in the pipeline file.
        node: String,
        /// The verified model.
        model: Arc<Model>,
    },
    /// The pipeline stops here; its state is kept.
    Stop,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph(_) => f.write_str("Graph"),
            Self::Model { node, model } => write!(f, "Model({node} <- {})", model.id),
            Self::Stop => f.write_str("Stop"),
        }
    }
}

/// Everything the engine is ever given. One log per pipeline holds these, in this order, each with its
/// [`Now`]; the engine is a pure function of a snapshot and the records after it.
#[derive(Debug, Clone)]
pub enum Record {
    /// Rows from a source: raw messages, or columns where the source has them.
    Batch {
        /// Which input of the graph.
        input: usize,
        /// The rows, in the input's schema.
        batch: RecordBatch,
    },
    /// A source has ended.
    End {
        /// Which input of the graph.
        input: usize,
    },
    /// Time has passed and some node asked to be told.
    Tick,
    /// A cut.
    Barrier(Barrier),
}

impl Record {
    /// The memory that its rows take, in bytes; 0 for what has none.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Batch { batch, .. } => batch.get_array_memory_size(),
            Self::End { .. } | Self::Tick | Self::Barrier(_) => 0,
        }
    }
}
