//! The task that gives records their one order, makes cuts, and commits epochs.
//!
//! It never waits for one thing only: reports and requests are heard while the engine or a sink is busy, so
//! control does not stand in line behind data.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, warn};

use super::activity::Held;
use super::durable::{Checkpoints, Saved};
use super::metrics::PipelineMetrics;
use super::wire::{Arrival, Report, SinkOrder, Stamped};
use crate::clock::Clock;
use crate::core::{Change, Commit, Epoch, Model, Position, Sequencer, SequencerSettings, Start};
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

/// How the coordinator works.
pub struct Settings {
    /// How records are put in order and when cuts are made.
    pub sequencer: SequencerSettings,
    /// Whether there is a journal, so that a record is safe once it is synced; else once it is committed.
    pub journal: bool,
}

/// The [`Sequencer`] of one pipeline with its connections. What it decides, it decides in there.
pub struct Coordinator {
    clock: Clock,
    lines: CoordinatorLines,
    journal: bool,
    checkpoints: Option<Checkpoints>,
    metrics: Arc<PipelineMetrics>,
    sequencer: Sequencer,
    waiting: VecDeque<Request>,
    answers: VecDeque<(Epoch, oneshot::Sender<Result<()>>)>,
    committing: Option<tokio::task::JoinHandle<Result<Saved>>>,
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
        let sequencer = Sequencer::new(settings.sequencer, sink_names, start, clock.now().mono);
        Self {
            clock,
            journal: settings.journal,
            checkpoints,
            metrics,
            sequencer,
            waiting: VecDeque::new(),
            answers: VecDeque::new(),
            committing: None,
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
            self.metrics.held.stay(self.held() as u16);
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
        let idle = self.sequencer.waiting() == 0;
        let (taking, stopping) = (self.sequencer.takes(), self.sequencer.is_stopping());
        let due = self.sequencer.due(*self.lines.deadline.borrow());
        let at = due.map(|mono| self.clock.instant(mono));
        let lines = &mut self.lines;
        let committing = &mut self.committing;
        tokio::select! {
            biased;
            Some(report) = lines.reports.recv() => Wake::Report(report),
            outcome = async { joined(committing).await }, if committing.is_some() => Wake::Committed(outcome),
            request = lines.requests.recv(), if !stopping => Wake::Request(request),
            room = lines.feed.reserve(), if !idle => {
                drop(room);
                Wake::Room
            }
            arrival = lines.arrivals.recv(), if taking => Wake::Arrival(arrival),
            () = sleep_until(at), if idle && at.is_some() => Wake::Timer,
            Ok(()) = lines.deadline.changed(), if idle => Wake::Room,
        }
    }

    /// What keeps rows from being taken.
    fn held(&self) -> Held {
        let sequencer = &self.sequencer;
        match () {
            () if sequencer.takes() => Held::Free,
            () if sequencer.is_stopping() => Held::Stopping,
            () if sequencer.is_tight() => Held::LogFull,
            () if sequencer.waiting() > 0 => Held::RecordsBefore,
            () => Held::FirstCheckpoint,
        }
    }

    fn timer(&mut self) {
        let deadline = *self.lines.deadline.borrow();
        self.sequencer.pass(self.clock.now(), deadline);
    }

    fn arrival(&mut self, arrival: Arrival) {
        let now = self.clock.now();
        match arrival {
            Arrival::Batch { input, batch, position } => {
                self.metrics.source(input, &batch);
                self.sequencer.rows(now, input, batch, position);
            }
            Arrival::End { input } => {
                debug!(source = self.metrics.source_name(input), "the source has ended");
                self.sequencer.end(now, input);
            }
        }
    }

    /// Requests that had to wait for a place among the epochs under way.
    fn begin_waiting(&mut self) {
        while !self.sequencer.is_stopping()
            && let Some(request) = self.waiting.pop_front()
        {
            match request {
                Request::Stop => self.sequencer.stop(self.clock.now()),
                Request::Model { node, model, answer } if self.sequencer.may_cut() => {
                    let epoch = self.sequencer.cut(self.clock.now(), Some(Change::Model { node, model }));
                    self.answers.push_back((epoch, answer));
                }
                request => {
                    self.waiting.push_front(request);
                    break;
                }
            }
        }
    }

    fn send_outbox(&mut self) -> Result<()> {
        while let Some(stamped) = self.sequencer.poll() {
            match self.lines.feed.try_send(stamped) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(stamped)) => {
                    self.sequencer.put_back(stamped);
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
            Report::Synced { below, positions, grown_bytes, log_bytes, retained_bytes } => {
                debug!(below, log_bytes, retained_bytes, "log synced");
                self.sequencer.logged(grown_bytes, log_bytes);
                self.metrics.set_log_bytes(log_bytes + retained_bytes);
                for (input, position) in positions {
                    let _ = self.lines.sources[input].send(position);
                }
            }
            Report::Snapshot(snapshot) => self.sequencer.snapshot(snapshot),
            Report::Rejected { epoch, node, error } => {
                warn!(node, %error, "change refused");
                self.answer(epoch, Err(error));
            }
            Report::Flushed { sink, epoch, position } => self.sequencer.flushed(sink, epoch, position),
            Report::Failed(error) => return Err(error),
        }
        self.metrics.set_owed(self.sequencer.epochs());
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
            && let Some(commit) = self.sequencer.commit()
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
        self.sequencer.committed();
        let last = self.sequencer.is_last(commit.epoch);
        debug!(epoch = commit.epoch.0, offset = commit.offset, "epoch committed");
        self.metrics.set_committed(commit.epoch);
        for sink in &self.lines.sinks {
            let order =
                if last { SinkOrder::Close(commit.epoch) } else { SinkOrder::Committed(commit.epoch) };
            let _ = sink.send(order);
        }
        if !self.journal {
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
