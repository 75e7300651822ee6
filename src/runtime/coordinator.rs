//! The task that gives records their one order, makes cuts, and commits epochs.
//!
//! It never waits for one thing only: reports and requests are heard while the engine or a sink is busy, so
//! control does not stand in line behind data.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::durable::{Checkpoints, Saved};
use super::metrics::PipelineMetrics;
use super::wire::{Arrival, Report, SinkOrder, Stamped};
use crate::clock::Clock;
use crate::core::{Barrier, Change, Commit, Epoch, Epochs, Model, Now, Position, Record};
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
        /// Where the answer goes.
        answer: oneshot::Sender<Result<()>>,
    },
}

/// What the coordinator is connected to.
pub struct CoordinatorLines {
    /// Rows from all sources.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// From every part of the pipeline.
    pub reports: mpsc::UnboundedReceiver<Report>,
    /// From outside.
    pub requests: mpsc::Receiver<Request>,
    /// To the journal or the engine.
    pub feed: mpsc::Sender<Stamped>,
    /// Offsets before which the journal needs nothing any more.
    pub removals: mpsc::UnboundedSender<u64>,
    /// When the engine wants its next tick.
    pub deadline: watch::Receiver<Option<Duration>>,
    /// Positions that are safe, to each source.
    pub sources: Vec<mpsc::UnboundedSender<Position>>,
    /// Orders to each sink.
    pub sinks: Vec<mpsc::UnboundedSender<SinkOrder>>,
}

/// Where a pipeline begins: fresh, or behind what was recovered.
#[derive(Debug, Clone)]
pub struct Start {
    /// Offset of the next record.
    pub offset: u64,
    /// Number of the next cut.
    pub epoch: Epoch,
    /// Where each source stands.
    pub positions: Vec<Option<Position>>,
    /// Epochs that began before the restart and are still under way: epoch, offset, positions.
    pub under_way: Vec<(Epoch, u64, Vec<Option<Position>>)>,
}

/// How the coordinator works.
pub struct Settings {
    /// Time between two checkpoints.
    pub checkpoint: Duration,
    /// Whether there is a journal, so that a record is safe once it is synced; else once it is committed.
    pub journal: bool,
    /// Bytes of log since the last cut that bring the next one forward.
    pub log_bytes_max: u64,
    /// Whether state survives a stop; if not, a stop lets everything flow out.
    pub keeps_state: bool,
}

/// The state of one pipeline's order and epochs.
pub struct Coordinator {
    clock: Clock,
    lines: CoordinatorLines,
    settings: Settings,
    checkpoints: Option<Checkpoints>,
    metrics: Arc<PipelineMetrics>,
    epochs: Epochs,
    next_offset: u64,
    next_epoch: Epoch,
    positions: Vec<Option<Position>>,
    ended: Vec<bool>,
    outbox: VecDeque<Stamped>,
    waiting: VecDeque<Request>,
    answers: VecDeque<(Epoch, oneshot::Sender<Result<()>>)>,
    committing: Option<tokio::task::JoinHandle<Result<Saved>>>,
    checkpoint_at: Duration,
    records_since_cut: u64,
    log_bytes_at_cut: u64,
    log_bytes: u64,
    ticked: Option<Duration>,
    stopping: Option<Epoch>,
}

/// What woke the coordinator.
enum Wake {
    Report(Report),
    Request(Option<Request>),
    Room,
    Arrival(Option<Arrival>),
    Timer,
    Committed(Result<Saved>),
}

/// How many epochs may be under way at once.
pub const EPOCHS_UNDER_WAY_MAX: usize = 4;

impl Coordinator {
    /// Ready to run from `start`; `sink_names` in graph order.
    pub fn new(
        clock: Clock,
        lines: CoordinatorLines,
        settings: Settings,
        checkpoints: Option<Checkpoints>,
        metrics: Arc<PipelineMetrics>,
        sink_names: Vec<String>,
        start: Start,
    ) -> Self {
        let mut epochs = Epochs::new(sink_names, EPOCHS_UNDER_WAY_MAX);
        for (epoch, offset, positions) in start.under_way {
            epochs.begin(epoch, offset, positions);
        }
        let checkpoint_at = clock.now().mono + settings.checkpoint;
        Self {
            clock,
            settings,
            checkpoints,
            metrics,
            epochs,
            next_offset: start.offset,
            next_epoch: start.epoch,
            ended: vec![false; start.positions.len()],
            positions: start.positions,
            outbox: VecDeque::new(),
            waiting: VecDeque::new(),
            answers: VecDeque::new(),
            committing: None,
            checkpoint_at,
            records_since_cut: 0,
            log_bytes_at_cut: 0,
            log_bytes: 0,
            ticked: None,
            stopping: None,
            lines,
        }
    }

    /// Runs until the pipeline has stopped and everything is committed.
    ///
    /// # Errors
    /// The failure of whichever part cannot go on.
    pub async fn run(mut self) -> Result<()> {
        loop {
            self.begin_waiting();
            self.send_outbox()?;
            match self.wake().await {
                Wake::Report(report) => self.report(report)?,
                Wake::Request(Some(request)) => self.waiting.push_back(request),
                Wake::Request(None) => self.waiting.push_back(Request::Stop),
                Wake::Room => {}
                Wake::Arrival(Some(arrival)) => self.arrival(arrival),
                Wake::Arrival(None) => {}
                Wake::Timer => self.timer(),
                Wake::Committed(saved) => {
                    self.committing = None;
                    let saved = saved?;
                    let _ = self.lines.removals.send(saved.remove_before);
                    if self.committed(&saved.commit) {
                        return Ok(());
                    }
                }
            }
            if self.commit_next() {
                return Ok(());
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let idle = self.outbox.is_empty();
        let taking = idle && self.stopping.is_none();
        let timer = self.next_timer();
        let at = timer.map(|mono| self.clock.instant(mono));
        let lines = &mut self.lines;
        let committing = &mut self.committing;
        tokio::select! {
            biased;
            Some(report) = lines.reports.recv() => Wake::Report(report),
            outcome = async { joined(committing).await }, if committing.is_some() => Wake::Committed(outcome),
            request = lines.requests.recv(), if self.stopping.is_none() => Wake::Request(request),
            room = lines.feed.reserve(), if !idle => {
                drop(room);
                Wake::Room
            }
            arrival = lines.arrivals.recv(), if taking => Wake::Arrival(arrival),
            () = sleep_until(at), if idle && at.is_some() => Wake::Timer,
            Ok(()) = lines.deadline.changed(), if idle => Wake::Room,
        }
    }

    /// When something is due next: a tick of the engine or a checkpoint.
    fn next_timer(&self) -> Option<Duration> {
        if self.stopping.is_some() {
            return None;
        }
        let deadline = *self.lines.deadline.borrow();
        let tick = deadline.filter(|_| deadline != self.ticked);
        let due = self.records_since_cut > 0 && self.epochs.may_begin();
        tick.into_iter().chain(due.then_some(self.checkpoint_at)).min()
    }

    fn timer(&mut self) {
        let now = self.clock.now();
        let deadline = *self.lines.deadline.borrow();
        if let Some(due) = deadline.filter(|due| *due <= now.mono && deadline != self.ticked) {
            // Once per deadline: the engine says a new one after it has seen the tick.
            self.ticked = Some(due);
            self.sequence(now, Record::Tick, None);
        }
        if now.mono >= self.checkpoint_at && self.records_since_cut > 0 && self.epochs.may_begin() {
            self.barrier(None);
        }
    }

    fn arrival(&mut self, arrival: Arrival) {
        let now = self.clock.now();
        match arrival {
            Arrival::Batch { input, batch, position } => {
                self.metrics.source(input, &batch);
                self.positions[input] = Some(position.clone());
                self.sequence(now, Record::Batch { input, batch }, Some(position));
            }
            Arrival::End { input } => {
                debug!(source = self.metrics.source_name(input), "the source has ended");
                self.ended[input] = true;
                self.sequence(now, Record::End { input }, None);
                if self.ended.iter().all(|ended| *ended) {
                    self.stop();
                }
            }
        }
        if self.log_bytes.saturating_sub(self.log_bytes_at_cut) > self.settings.log_bytes_max / 2
            && self.stopping.is_none()
            && self.epochs.may_begin()
        {
            self.barrier(None);
        }
    }

    fn sequence(&mut self, now: Now, record: Record, position: Option<Position>) -> u64 {
        let offset = self.next_offset;
        self.next_offset += 1;
        self.records_since_cut += 1;
        self.outbox.push_back(Stamped { offset, now, record, position });
        offset
    }

    /// Puts a cut into the order and gives its number.
    fn barrier(&mut self, change: Option<Change>) -> Epoch {
        let epoch = self.next_epoch;
        self.next_epoch = Epoch(epoch.0 + 1);
        let now = self.clock.now();
        let barrier = Barrier { epoch, change: change.map(Arc::new) };
        let offset = self.sequence(now, Record::Barrier(barrier), None);
        self.epochs.begin(epoch, offset + 1, self.positions.clone());
        self.records_since_cut = 0;
        self.log_bytes_at_cut = self.log_bytes;
        self.checkpoint_at = now.mono + self.settings.checkpoint;
        epoch
    }

    /// Requests that had to wait for a place among the epochs under way.
    fn begin_waiting(&mut self) {
        while self.stopping.is_none()
            && let Some(request) = self.waiting.pop_front()
        {
            match request {
                Request::Stop => self.stop(),
                Request::Model { node, model, answer } if self.epochs.may_begin() => {
                    let epoch = self.barrier(Some(Change::Model { node, model }));
                    self.answers.push_back((epoch, answer));
                }
                request => {
                    self.waiting.push_front(request);
                    break;
                }
            }
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        if !self.settings.keeps_state {
            // Nothing survives, so nothing may stay inside: windows and frames leave as they are.
            for input in 0..self.ended.len() {
                if !self.ended[input] {
                    self.ended[input] = true;
                    self.sequence(self.clock.now(), Record::End { input }, None);
                }
            }
        }
        self.stopping = Some(self.barrier(Some(Change::Stop)));
    }

    fn send_outbox(&mut self) -> Result<()> {
        while let Some(stamped) = self.outbox.pop_front() {
            match self.lines.feed.try_send(stamped) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(stamped)) => {
                    self.outbox.push_front(stamped);
                    break;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    // Whoever closed it has said why, or is about to.
                    let reason =
                        std::iter::from_fn(|| self.lines.reports.try_recv().ok()).find_map(|report| {
                            match report {
                                Report::Failed(error) => Some(error),
                                _ => None,
                            }
                        });
                    return Err(
                        reason.unwrap_or_else(|| Error::data("the engine has stopped without a word"))
                    );
                }
            }
        }
        Ok(())
    }

    fn report(&mut self, report: Report) -> Result<()> {
        match report {
            Report::Synced { below, positions, log_bytes } => {
                debug!(below, log_bytes, "log synced");
                self.log_bytes = log_bytes;
                self.metrics.set_log_bytes(log_bytes);
                for (input, position) in positions {
                    let _ = self.lines.sources[input].send(position);
                }
            }
            Report::Snapshot(snapshot) => self.epochs.snapshot(snapshot),
            Report::Rejected { epoch, node, error } => {
                warn!(node, %error, "change refused");
                self.answer(epoch, Err(error));
            }
            Report::Flushed { sink, epoch, position } => self.epochs.flushed(sink, epoch, position),
            Report::Failed(error) => return Err(error),
        }
        self.metrics.set_owed(&self.epochs);
        Ok(())
    }

    fn answer(&mut self, epoch: Epoch, outcome: Result<()>) {
        while let Some((first, _)) = self.answers.front() {
            if *first > epoch {
                break;
            }
            if let Some((_, answer)) = self.answers.pop_front() {
                let _ = answer.send(outcome.clone());
            }
        }
    }

    /// Commits complete epochs, one at a time; true when the last one is committed.
    fn commit_next(&mut self) -> bool {
        while self.committing.is_none()
            && let Some(commit) = self.epochs.poll()
        {
            if let Some(checkpoints) = &self.checkpoints {
                self.committing = Some(checkpoints.save(commit, self.clock.now()));
            } else if self.committed(&commit) {
                return true;
            }
        }
        false
    }

    /// Tells everyone that an epoch is committed; true if it was the last.
    fn committed(&mut self, commit: &Commit) -> bool {
        let last = self.stopping == Some(commit.epoch);
        info!(epoch = commit.epoch.0, offset = commit.offset, "epoch committed");
        self.metrics.set_committed(commit.epoch);
        for sink in &self.lines.sinks {
            let order =
                if last { SinkOrder::Close(commit.epoch) } else { SinkOrder::Committed(commit.epoch) };
            let _ = sink.send(order);
        }
        if !self.settings.journal {
            for (source, position) in self.lines.sources.iter().zip(&commit.sources) {
                if let Some(position) = position {
                    let _ = source.send(position.clone());
                }
            }
        }
        self.answer(commit.epoch, Ok(()));
        last
    }
}

async fn joined(task: &mut Option<tokio::task::JoinHandle<Result<Saved>>>) -> Result<Saved> {
    match task {
        Some(task) => match task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::data(format!("writing the checkpoint failed: {error}"))),
        },
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
