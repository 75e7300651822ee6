//! What travels between the tasks of one pipeline.
//!
//! Sources send `Arrival`s to the coordinator. The coordinator gives each record its place in the one order
//! (`Stamped`), and the records go through the journal, if there is one, to the engine thread; from there
//! `Delivery`s go to the sinks. `Report`s come back to the coordinator from everywhere.

use arrow::array::RecordBatch;
use tokio::sync::mpsc;

pub use crate::core::Stamped;
use crate::core::{DeliveryId, Epoch, Position, Record, Snapshot};
use crate::error::{Error, Result};

/// The number of a source that runs. It is never used twice in one process, so what a source gave before it was
/// opened anew cannot be taken for what it gives now.
pub type SourceId = u64;

/// From a source to the coordinator.
#[derive(Debug)]
pub enum Arrival {
    /// Rows, and where the source stands behind them.
    Batch {
        /// Which source.
        source: SourceId,
        /// The rows.
        batch: RecordBatch,
        /// Where the source stands behind them.
        position: Position,
    },
    /// The source has ended.
    End {
        /// Which source.
        source: SourceId,
    },
}

/// From the engine to a sink.
#[derive(Debug)]
pub enum Delivery {
    /// Rows.
    Batch {
        /// The delivery's name.
        id: DeliveryId,
        /// The rows.
        batch: RecordBatch,
    },
    /// Everything before this belongs to the epoch.
    Barrier(Epoch),
    /// Nothing more will come.
    End,
}

/// To a sink, beside its deliveries.
#[derive(Debug)]
pub enum SinkOrder {
    /// The epoch is committed.
    Committed(Epoch),
    /// The epoch is committed and it was the last: close.
    Close(Epoch),
    /// The pipeline goes on without it: what is open is finished.
    Finish(Epoch),
    /// Another engine writes from here on.
    Join(Joining),
}

/// A sink's place behind an engine.
#[derive(Debug)]
pub struct Joining {
    /// Which sink of the graph.
    pub sink: usize,
    /// From the engine; bounded.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// To the coordinator.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// From anywhere to the coordinator.
#[derive(Debug)]
pub enum Report {
    /// Everything before the offset is on disk; for each source that gave something, how far that is.
    Synced {
        /// Offset of the first record that may not be on disk.
        below: u64,
        /// Source and position.
        positions: Vec<(usize, Position)>,
        /// What the log has grown by since the last report.
        grown_bytes: u64,
        /// What the log holds now that a restart would need.
        log_bytes: u64,
        /// What it keeps beyond that.
        retained_bytes: u64,
    },
    /// The engine has made a cut.
    Snapshot(Snapshot),
    /// A change of the running cut was refused; everything else goes on.
    Rejected {
        /// The cut.
        epoch: Epoch,
        /// The node that refused.
        node: String,
        /// Why.
        error: Error,
    },
    /// A sink has everything up to a barrier safe.
    Flushed {
        /// Which sink.
        sink: usize,
        /// The epoch of the barrier.
        epoch: Epoch,
        /// Where the sink stands.
        position: Position,
    },
    /// The engine cannot go on: an operator failed or panicked.
    Engine {
        /// The record at which it did; none if it was between two.
        offset: Option<u64>,
        /// Why.
        error: Error,
    },
    /// A record that has failed too often was left out.
    Skipped {
        /// Its offset.
        offset: u64,
        /// The record.
        record: Record,
    },
    /// A part cannot go on.
    Failed(Error),
}

/// The end of a task that may fail: its failure goes to the coordinator.
pub fn report_failure(outcome: Result<()>, name: &str, reports: &mpsc::UnboundedSender<Report>) {
    if let Err(error) = outcome {
        // The coordinator may be gone already, and then nobody waits for it.
        let _ = reports.send(Report::Failed(error.at(name)));
    }
}
