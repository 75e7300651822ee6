//! The task that gives records their one order, makes cuts, and commits epochs.
//!
//! It never waits for one thing only: reports and requests are heard while the engine or a sink is busy, so
//! control does not stand in line behind data. What cannot be done in time is given up with the reason.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use super::activity::Held;
use super::durable::{Checkpoints, Saving};
pub use super::lines::{CoordinatorLines, Doors, Outcome, Request, Settings};
use super::metrics::PipelineMetrics;
use super::reload::Replacement;
use super::wire::{Arrival, Report, SinkOrder, SourceId};
use crate::clock::Clock;
use crate::core::{Change, Commit, Epoch, Record, Sequencer, Snapshot, Start};
use crate::error::{Error, Kind, Result};
use crate::store::{Letter, LetterBody, LetterKind};

/// How long a part that has ended may take to say why.
const REASON_MAX: Duration = Duration::from_secs(1);

/// How long to wait before a checkpoint that could not be written is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The [`Sequencer`] of one engine with its connections. What it decides, it decides in there.
pub struct Coordinator {
    clock: Clock,
    lines: CoordinatorLines,
    settings: Settings,
    checkpoints: Option<Checkpoints>,
    metrics: Arc<PipelineMetrics>,
    sequencer: Sequencer,
    /// Requests that wait for a place among the epochs, and until when.
    waiting: VecDeque<(Instant, Request)>,
    answers: VecDeque<(Epoch, oneshot::Sender<Result<()>>)>,
    /// A reload whose cut is made, and until when its commit is waited for.
    held: Option<(Instant, Box<Replacement>)>,
    committing: Option<tokio::task::JoinHandle<Saving>>,
    /// A commit that the disk has refused, and when it is tried again.
    unsaved: Option<(Instant, Commit)>,
    /// Dead letters that are being written.
    keeping: tokio::task::JoinSet<Result<()>>,
    /// Offset of the first record behind the checkpoint committed last.
    committed_offset: Option<u64>,
}

/// What woke the coordinator.
enum Wake {
    Report(Report),
    SourceFailed(SourceId, Error),
    Request(Option<Request>),
    Room,
    Arrival(Option<Arrival>),
    Timer,
    Committed(Result<Saving>),
    Kept(Result<()>),
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
            settings,
            checkpoints,
            metrics,
            sequencer,
            waiting: VecDeque::new(),
            answers: VecDeque::new(),
            held: None,
            committing: None,
            unsaved: None,
            keeping: tokio::task::JoinSet::new(),
            committed_offset: None,
            lines,
        }
    }

    /// A source that has ended before this engine was built: it will not say so again.
    pub fn source_ended(&mut self, input: usize) {
        self.sequencer.end(self.clock.now(), input);
    }

    /// A request that came before this could hear it.
    pub fn request(&mut self, request: Request) {
        self.waiting.push_back((Instant::now() + self.settings.patience, request));
    }

    /// Something was reported before this could hear it.
    ///
    /// # Errors
    /// The failure of whichever part cannot go on.
    pub fn reported(&mut self, report: Report) -> Result<Option<Outcome>> {
        self.report(report)
    }

    /// What was asked for and not done.
    pub fn unheard(&mut self) -> Vec<Request> {
        let held = self.held.take().map(|(_, replacement)| Request::Reload(replacement));
        let waiting = self.waiting.drain(..).map(|(_, request)| request);
        let stop = self.sequencer.is_stopping().then_some(Request::Stop);
        held.into_iter().chain(waiting).chain(stop).collect()
    }

    /// Whether an epoch was committed since this engine was built, and behind which offset.
    pub fn committed_offset(&self) -> Option<u64> {
        self.committed_offset
    }

    /// Behind a halt everything goes on as before.
    pub fn release(&mut self) {
        self.sequencer.release();
    }

    /// Runs until the pipeline has stopped and everything is committed, or something else must happen first.
    ///
    /// # Errors
    /// The failure of whichever part cannot go on.
    pub async fn run(&mut self, doors: &mut Doors) -> Result<Outcome> {
        loop {
            if let Some(outcome) = self.begin_waiting() {
                return Ok(outcome);
            }
            if let Some(outcome) = self.send_outbox().await? {
                return Ok(outcome);
            }
            self.metrics.held.stay(self.held_by() as u16);
            match self.wake(doors).await {
                Wake::Report(report) => {
                    if let Some(outcome) = self.report(report)? {
                        return Ok(outcome);
                    }
                }
                Wake::SourceFailed(source, error) => {
                    if self.input_of(source).is_some() {
                        return Err(error);
                    }
                }
                Wake::Request(request) => self.request(request.unwrap_or(Request::Stop)),
                Wake::Room => {}
                Wake::Arrival(Some(arrival)) => self.arrival(arrival),
                Wake::Arrival(None) => {}
                Wake::Timer => self.timer(),
                Wake::Kept(Ok(())) => {}
                Wake::Kept(Err(error)) => warn!(%error, "a dead letter could not be kept"),
                Wake::Committed(saved) => {
                    self.committing = None;
                    if let Some(outcome) = self.saved(saved?)? {
                        return Ok(outcome);
                    }
                }
            }
            if let Some(outcome) = self.commit_next() {
                return Ok(outcome);
            }
        }
    }

    async fn wake(&mut self, doors: &mut Doors) -> Wake {
        let idle = self.sequencer.waiting() == 0;
        let (taking, stopping) = (self.sequencer.takes(), self.sequencer.is_stopping());
        let due = self.sequencer.due(*self.lines.deadline.borrow()).filter(|_| idle);
        let patience = self.held.iter().map(|(until, _)| *until);
        let patience = patience.chain(self.waiting.front().map(|(until, _)| *until)).min();
        let again = self.unsaved.iter().map(|(at, _)| *at);
        let at = due.map(|mono| self.clock.instant(mono)).into_iter().chain(patience).chain(again).min();
        let lines = &mut self.lines;
        let committing = &mut self.committing;
        let keeping = &mut self.keeping;
        tokio::select! {
            biased;
            Some(report) = lines.reports.recv() => Wake::Report(report),
            outcome = async { joined(committing).await }, if committing.is_some() => Wake::Committed(outcome),
            Some(kept) = keeping.join_next(), if !keeping.is_empty() => Wake::Kept(kept.unwrap_or(Ok(()))),
            Some((source, error)) = doors.failures.recv() => Wake::SourceFailed(source, error),
            request = doors.requests.recv(), if !stopping => Wake::Request(request),
            room = lines.feed.reserve(), if !idle => {
                drop(room);
                Wake::Room
            }
            arrival = doors.arrivals.recv(), if taking => Wake::Arrival(arrival),
            () = sleep_until(at), if at.is_some() => Wake::Timer,
            Ok(()) = lines.deadline.changed(), if idle => Wake::Room,
        }
    }

    /// What keeps rows from being taken.
    fn held_by(&self) -> Held {
        let sequencer = &self.sequencer;
        match () {
            () if sequencer.takes() => Held::Free,
            () if sequencer.is_stopping() => Held::Stopping,
            () if self.held.is_some() => Held::Reload,
            () if sequencer.is_tight() => Held::LogFull,
            () if sequencer.waiting() > 0 => Held::RecordsBefore,
            () => Held::FirstCheckpoint,
        }
    }

    fn timer(&mut self) {
        let deadline = *self.lines.deadline.borrow();
        if self.sequencer.waiting() == 0 {
            self.sequencer.pass(self.clock.now(), deadline);
        }
    }

    fn input_of(&self, source: SourceId) -> Option<usize> {
        self.lines.sources.iter().position(|(known, _)| *known == source)
    }

    fn arrival(&mut self, arrival: Arrival) {
        let now = self.clock.now();
        let (Arrival::Batch { source, .. } | Arrival::End { source }) = &arrival;
        // What a source gave that is gone or was opened anew since counts for nothing: it was not acknowledged.
        let Some(input) = self.input_of(*source) else { return };
        match arrival {
            Arrival::Batch { batch, position, .. } => {
                self.metrics.sources[input].rows(&batch);
                self.sequencer.rows(now, input, batch, position);
            }
            Arrival::End { .. } => {
                debug!(source = self.metrics.source_name(input), "the source has ended");
                self.sequencer.end(now, input);
            }
        }
    }

    /// Requests that had to wait for a place among the epochs under way, and what has waited long enough.
    fn begin_waiting(&mut self) -> Option<Outcome> {
        let now = Instant::now();
        if let Some((_, replacement)) = self.held.take_if(|(until, _)| *until <= now) {
            warn!(waits_for = self.owed(), "the cut for the new graph is not committed in time");
            return Some(Outcome::Reload { replacement, commit: None });
        }
        while !self.sequencer.is_stopping()
            && let Some((until, request)) = self.waiting.pop_front()
        {
            match request {
                Request::Stop => {
                    if let Some((_, replacement)) = self.held.take() {
                        replacement.refuse(Error::new(Kind::Unavailable, "the pipeline is stopping"));
                    }
                    self.sequencer.stop(self.clock.now());
                }
                Request::Model { generation, answer, .. } if generation != self.settings.generation => {
                    let reason = "the pipeline was reloaded meanwhile; send it again";
                    let _ = answer.send(Err(Error::new(Kind::Unavailable, reason)));
                }
                Request::Model { node, model, answer, .. } if self.sequencer.may_cut() => {
                    let epoch = self.sequencer.cut(self.clock.now(), Some(Change::Model { node, model }));
                    self.answers.push_back((epoch, answer));
                }
                Request::Model { answer, .. } if until <= now => {
                    let reason = format!("no change can be made now: {}", self.owed());
                    let _ = answer.send(Err(Error::new(Kind::Unavailable, reason)));
                }
                Request::Reload(replacement) if self.sequencer.may_cut() => {
                    self.sequencer.hold(self.clock.now());
                    self.held = Some((until, replacement));
                }
                Request::Reload(replacement) if until <= now && self.held.is_none() => {
                    warn!(
                        waits_for = self.owed(),
                        "there is no place for the cut at which the new graph begins"
                    );
                    return Some(Outcome::Reload { replacement, commit: None });
                }
                request => {
                    self.waiting.push_front((until, request));
                    break;
                }
            }
        }
        None
    }

    /// On whom the epochs under way wait, in words.
    fn owed(&self) -> String {
        let epochs = self.sequencer.epochs().owed();
        let epochs = epochs.map(|(epoch, whom)| format!("epoch {epoch} waits for {}", whom.join(", ")));
        epochs.collect::<Vec<_>>().join("; ")
    }

    async fn send_outbox(&mut self) -> Result<Option<Outcome>> {
        while let Some(stamped) = self.sequencer.poll() {
            match self.lines.feed.try_send(stamped) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(stamped)) => {
                    self.sequencer.put_back(stamped);
                    break;
                }
                Err(mpsc::error::TrySendError::Closed(stamped)) => {
                    self.sequencer.put_back(stamped);
                    // Whoever closed it has said why, or is about to.
                    while let Ok(Some(report)) = timeout(REASON_MAX, self.lines.reports.recv()).await {
                        if let Some(outcome) = self.report(report)? {
                            return Ok(Some(outcome));
                        }
                    }
                    return Err(Error::data("the engine has stopped without a word"));
                }
            }
        }
        Ok(None)
    }

    /// The engine is given up: a checkpoint that is being written is finished, and what was put in order goes on to the
    /// log; false if it cannot.
    pub async fn hand_over(&mut self, has_log: bool) -> bool {
        if let Some(committing) = self.committing.take() {
            // Whether it counts, the next start finds out.
            let _ = committing.await;
        }
        let lost = "the engine is built again; GET /models says whether it runs";
        for (_, answer) in self.answers.drain(..) {
            let _ = answer.send(Err(Error::new(Kind::Unavailable, lost)));
        }
        if !has_log {
            return true;
        }
        while let Some(stamped) = self.sequencer.poll() {
            if self.lines.feed.send(stamped).await.is_err() {
                return false;
            }
        }
        true
    }

    fn report(&mut self, report: Report) -> Result<Option<Outcome>> {
        match report {
            Report::Synced { below, positions, grown_bytes, log_bytes, retained_bytes } => {
                debug!(below, log_bytes, retained_bytes, "log synced");
                self.sequencer.logged(grown_bytes, log_bytes);
                self.metrics.log_synced(grown_bytes, log_bytes + retained_bytes);
                for (input, position) in positions {
                    let _ = self.lines.sources[input].1.send(position);
                }
            }
            Report::Snapshot(snapshot) => self.snapshot(snapshot),
            Report::Rejected { epoch, node, error } => {
                warn!(node, %error, "change refused");
                self.answer(epoch, Err(error));
            }
            Report::Flushed { sink, epoch, position } => self.sequencer.flushed(sink, epoch, position),
            Report::Engine { offset, row, error } => {
                return Ok(Some(Outcome::EngineFailed { offset, row, error }));
            }
            Report::Skipped { offset, record } => self.skipped(offset, record),
            Report::Failed(error) => return Err(error),
        }
        self.metrics.set_owed(self.sequencer.epochs());
        Ok(None)
    }

    fn snapshot(&mut self, snapshot: Snapshot) {
        self.sequencer.snapshot(snapshot);
    }

    /// A record was left out: what is in it becomes a dead letter, where there is a place for them, before any commit
    /// lets the log forget it.
    fn skipped(&mut self, offset: u64, record: Record) {
        let reason = "the engine failed at it three times";
        let Record::Batch { input, batch } = record else {
            error!(offset, "a record is left out: {reason}");
            return self.metrics.control.skipped(offset, reason);
        };
        let (source, rows) = (self.metrics.source_name(input), batch.num_rows());
        error!(offset, source, rows, "a record is left out: {reason}");
        self.metrics.control.skipped(offset, &format!("{reason}; {rows} rows of `{source}`"));
        let letter = Letter {
            kind: LetterKind::Poison,
            node: source.to_owned(),
            place: format!("record {offset}"),
            reason: reason.to_owned(),
            status: None,
            wall_us: self.clock.now().wall.micros(),
            offset: Some(offset),
            body: LetterBody::Rows(batch),
        };
        if let Some(letters) = self.metrics.letters.get().cloned() {
            self.keeping.spawn(async move { letters.keep(vec![letter]).await });
        }
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

    /// Commits complete epochs, one at a time.
    fn commit_next(&mut self) -> Option<Outcome> {
        while self.committing.is_none()
            && self.keeping.is_empty()
            && let Some(commit) = self.next_commit()
        {
            if let Some(checkpoints) = &self.checkpoints {
                self.committing = Some(checkpoints.save(commit, self.clock.now()));
            } else if let Some(outcome) = self.committed(commit) {
                return Some(outcome);
            }
        }
        None
    }

    /// The epoch that is committed next: the one that could not be, once it is time to try it again.
    fn next_commit(&mut self) -> Option<Commit> {
        match self.unsaved.take_if(|(at, _)| *at <= Instant::now()) {
            Some((_, commit)) => Some(commit),
            None if self.unsaved.is_some() => None,
            None => self.sequencer.commit(),
        }
    }

    /// A checkpoint was written, or the disk has refused it. Then nothing is acknowledged for it or removed, and it is
    /// tried again: rows come as long as the log has room, and epochs gather up to their limit.
    fn saved(&mut self, saving: Saving) -> Result<Option<Outcome>> {
        match saving {
            Ok(saved) => {
                if let Some(length) = self.metrics.saves_again() {
                    info!(seconds = length.as_secs(), "checkpoints can be written again");
                }
                let _ = self.lines.removals.send(saved.remove_before);
                Ok(self.committed(saved.commit))
            }
            Err(unsaved) if unsaved.error.kind == Kind::Io => {
                if self.metrics.save_failed(&unsaved.error) {
                    warn!(error = %unsaved.error, "the checkpoint cannot be written; trying again");
                }
                self.unsaved = Some((Instant::now() + RETRY_AFTER, unsaved.commit));
                Ok(None)
            }
            Err(unsaved) => Err(unsaved.error),
        }
    }

    /// Tells everyone that an epoch is committed.
    fn committed(&mut self, commit: Commit) -> Option<Outcome> {
        self.sequencer.committed();
        let last = self.sequencer.is_last(commit.epoch);
        debug!(epoch = commit.epoch.0, offset = commit.offset, "epoch committed");
        self.metrics.set_committed(commit.epoch);
        self.committed_offset = Some(commit.offset);
        for sink in &self.lines.sinks {
            let order =
                if last { SinkOrder::Close(commit.epoch) } else { SinkOrder::Committed(commit.epoch) };
            let _ = sink.send(order);
        }
        if !self.settings.journal {
            for ((_, source), position) in self.lines.sources.iter().zip(&commit.sources) {
                if let Some(position) = position {
                    let _ = source.send(position.clone());
                }
            }
        }
        self.answer(commit.epoch, Ok(()));
        if last {
            return Some(Outcome::Stopped);
        }
        let held = self.held.take_if(|_| self.sequencer.is_held(commit.epoch));
        held.map(|(_, replacement)| Outcome::Reload { replacement, commit: Some(commit) })
    }
}

async fn joined(task: &mut Option<tokio::task::JoinHandle<Saving>>) -> Result<Saving> {
    match task {
        Some(task) => match task.await {
            Ok(outcome) => Ok(outcome),
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
