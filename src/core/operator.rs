//! What an operator is, and what it may say.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

use super::event::{EventTime, Now};
use super::model::{Model, ModelId};
use super::state::{StateReader, StateWriter};
use crate::error::{Error, Result};

/// One step of the graph: synchronous and pure. It never sees barriers, channels, tasks, locks or a clock.
///
/// What it emits may depend only on its configuration and on the rows, watermarks, ticks and models it was
/// given since it was built or loaded: never on how rows were cut into batches.
pub trait Operator: Send {
    /// Takes rows that arrived on one of its inputs.
    ///
    /// # Errors
    /// Only for what makes going on impossible; a row that cannot be used is counted and left out.
    fn process(&mut self, port: usize, batch: RecordBatch, out: &mut Output) -> Result<()>;

    /// No row before `to` will come on any input. [`EventTime::MAX`] means that nothing will come at all:
    /// whatever is still held back leaves now.
    ///
    /// # Errors
    /// As for [`Operator::process`].
    fn watermark(&mut self, _to: EventTime, _out: &mut Output) -> Result<()> {
        Ok(())
    }

    /// The monotonic time at which [`Operator::tick`] is wanted, if any.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// The deadline has passed; `out.now()` says by how much.
    ///
    /// # Errors
    /// As for [`Operator::process`].
    fn tick(&mut self, _out: &mut Output) -> Result<()> {
        Ok(())
    }

    /// Takes another model, from the next row on.
    ///
    /// # Errors
    /// If it takes no model, or not this one; it then goes on with the one it has.
    fn update(&mut self, _model: Arc<Model>) -> Result<()> {
        Err(Error::model("this operator takes no model"))
    }

    /// The model it runs now, for those that run one.
    fn model(&self) -> Option<ModelId> {
        None
    }

    /// Writes down everything that the next row's result depends on, except the configuration. The engine stands
    /// still meanwhile: what is large belongs into [`Chunks`](super::Chunks), which are shared instead of written.
    fn save(&mut self, _state: &mut StateWriter) {}

    /// Takes back what [`Operator::save`] wrote, into an operator just built.
    ///
    /// # Errors
    /// If the state is damaged or of another shape.
    fn load(&mut self, _state: &mut StateReader<'_>) -> Result<()> {
        Ok(())
    }
}

/// What leaves an operator.
#[derive(Debug, Clone)]
pub enum Flow {
    /// Rows on one of its ports.
    Batch(RecordBatch),
    /// Its own watermark, to all its ports. Only from nodes that make their own.
    Watermark(EventTime),
    /// Whether it is idle and holds no other input back. Only from nodes that make their own watermark.
    Idle(bool),
}

/// A count that an operator makes, e.g. rows left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count {
    /// What is counted, e.g. `"late_rows"`: the metric is `tidegate_<what>_total`.
    pub what: &'static str,
    /// Why, where one count has several reasons; else empty.
    pub reason: &'static str,
}

/// Collects what an operator says during one call.
#[derive(Debug)]
pub struct Output {
    now: Now,
    flows: Vec<(usize, Flow)>,
    counts: Vec<(Count, u64)>,
    /// A bit for each port that nobody reads; ports beyond have readers.
    unread: u64,
}

impl Output {
    /// Empty, at a moment; all ports are read.
    pub fn new(now: Now) -> Self {
        Self { now, flows: Vec::new(), counts: Vec::new(), unread: 0 }
    }

    /// The moment at which the record that caused this call entered.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Whether anybody reads a port. Rows for one that nobody reads need not be made; what an operator says on the
    /// others, what it counts and what it keeps must not depend on it.
    pub fn wants(&self, port: usize) -> bool {
        port >= u64::BITS as usize || self.unread & (1 << port) == 0
    }

    /// Sends rows out of a port. An empty batch is nothing and is left out, as is one that nobody would read.
    pub fn emit(&mut self, port: usize, batch: RecordBatch) {
        if batch.num_rows() > 0 && self.wants(port) {
            self.flows.push((port, Flow::Batch(batch)));
        }
    }

    /// Sends the node's own watermark out of all its ports.
    pub fn watermark(&mut self, to: EventTime) {
        self.flows.push((0, Flow::Watermark(to)));
    }

    /// Says on all ports that this node is idle, or no longer so.
    pub fn idle(&mut self, idle: bool) {
        self.flows.push((0, Flow::Idle(idle)));
    }

    /// Adds to a count.
    pub fn count(&mut self, what: &'static str, reason: &'static str, by: u64) {
        if by > 0 {
            self.counts.push((Count { what, reason }, by));
        }
    }

    /// Says for the next calls which ports nobody reads: a bit for each, the first port the lowest.
    pub fn set_unread(&mut self, unread: u64) {
        self.unread = unread;
    }

    /// Sets the moment for the next call.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// Takes out what was sent, in order: port and flow.
    pub fn drain(&mut self) -> std::vec::Drain<'_, (usize, Flow)> {
        self.flows.drain(..)
    }

    /// Takes out what was counted.
    pub fn drain_counts(&mut self) -> std::vec::Drain<'_, (Count, u64)> {
        self.counts.drain(..)
    }
}
