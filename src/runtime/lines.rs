//! What the coordinator is connected to, what is asked of it, and why it comes to a halt.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::reload::Replacement;
use super::wire::{Arrival, Report, SinkOrder, SourceId, Stamped};
use crate::core::{Commit, Model, Position, SequencerSettings};
use crate::error::{Error, Result};

/// What somebody outside wants of a running pipeline.
pub enum Request {
    /// Stop at a cut.
    Stop,
    /// Give a node another model; the answer comes when the cut is committed, or refused.
    Model {
        /// The node.
        node: String,
        /// The verified model.
        model: Arc<Model>,
        /// For which engine it was verified: behind a reload the node may be another.
        generation: u64,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<()>>,
    },
    /// Put another graph in the place of the running one.
    Reload(Box<Replacement>),
}

/// What comes from outside the engine; it outlives engines.
pub struct Doors {
    /// Rows from all sources.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// Sources that cannot go on.
    pub failures: mpsc::UnboundedReceiver<(SourceId, Error)>,
    /// What is wanted.
    pub requests: mpsc::Receiver<Request>,
}

/// What the coordinator is connected to.
pub struct CoordinatorLines {
    /// From the engine, the journal and the sinks.
    pub reports: mpsc::UnboundedReceiver<Report>,
    /// To the journal or the engine.
    pub feed: mpsc::Sender<Stamped>,
    /// Offsets before which the journal needs nothing any more.
    pub removals: mpsc::UnboundedSender<u64>,
    /// When the engine wants its next tick.
    pub deadline: watch::Receiver<Option<Duration>>,
    /// Each source of the graph, with the way back for positions that are safe.
    pub sources: Vec<(SourceId, mpsc::UnboundedSender<Position>)>,
    /// Orders to each sink.
    pub sinks: Vec<mpsc::UnboundedSender<SinkOrder>>,
}

/// How the coordinator works.
pub struct Settings {
    /// How records are put in order and when cuts are made.
    pub sequencer: SequencerSettings,
    /// Whether there is a journal, so that a record is safe once it is synced; else once it is committed.
    pub journal: bool,
    /// How long a change may wait for its cut to be committed.
    pub patience: Duration,
    /// Which engine of this process this is.
    pub generation: u64,
}

/// Why the coordinator has come to an end, or to a halt.
pub enum Outcome {
    /// The pipeline has stopped and everything is committed.
    Stopped,
    /// Another graph is wanted. With the commit of the cut at which everything stands still; without one where that
    /// could not be had in time.
    Reload {
        /// The graph, and who waits for an answer.
        replacement: Box<Replacement>,
        /// The cut.
        commit: Option<Commit>,
    },
    /// The engine cannot go on.
    EngineFailed {
        /// The record at which it failed; none if it was between two.
        offset: Option<u64>,
        /// Why.
        error: Error,
    },
}
