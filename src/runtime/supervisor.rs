//! Runs one engine after the other for one pipeline: the first, one with another graph after a reload, one more like it
//! after a failure. Sources and sinks go on meanwhile wherever that is right.
//!
//! There is one way to begin, from a checkpoint and what the log holds behind it, and a reload uses it as well: the old
//! engine makes a cut, nothing follows that cut until it is committed, and then the new graph begins from it like a
//! process that is started. So a crash at any moment of a reload is a crash before or after a start, and needs no
//! code of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::coordinator::{Coordinator, CoordinatorLines, Doors, Outcome, Request, Settings};
use super::durable::DataDir;
use super::ends::{CLOSING_MAX, Ends, Handover, Opened, Reopen, SinkToRun};
use super::engine_thread::{self, EngineLines};
use super::journal::{self, JournalLines};
use super::metrics::PipelineMetrics;
use super::models::Models;
use super::reload::{Current, Rebuild, Reloaded, Replacement};
use super::served::Served;
use super::spool::{Letters, Spooled};
use super::suspects::{FAILURES_MAX, Mark, Suspects};
use super::valve::Caller;
use super::wire::{Report, SinkOrder, SourceId, Stamped};
use crate::clock::Clock;
use crate::config::keys::LOG_BYTES_MAX;
use crate::config::{self, Pipeline, PlannedSink, PlannedSource, Renamed};
use crate::core::{Commit, Engine, Epoch, Graph, ModelSlot, Restored, SequencerSettings, Snapshot};
use crate::error::{Error, Kind, Result};
use crate::net::backoff::Backoff;
use crate::registry::Companion;
use crate::store::LogOptions;
use crate::store::journal::{Replay, ReplayFrom, Replayed, Writer};
use crate::store::log::Log;
use crate::store::recovery::Recovered;

/// Waits before an engine that has failed is built again.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A restart waits so long for everything of the engine before it to be written.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);

/// One pipeline's engines.
pub(super) struct Supervisor {
    name: String,
    data: Option<DataDir>,
    installation: String,
    /// Where dead letters go, if anywhere; their room is that of the start.
    letters: Option<Letters>,
    rebuild: Option<Rebuild>,
    doors: Doors,
    requests: mpsc::Sender<Request>,
    ends: Ends,
    clock: Option<Clock>,
    served: Served,
    current: Arc<Current>,
    suspects: Suspects,
    generation: u64,
    followers: Vec<JoinHandle<()>>,
    backoff: Backoff,
    /// Engines in a row that have failed before anything was committed.
    failures: u32,
    /// Requests that no engine has heard yet.
    unheard: VecDeque<Request>,
}

/// A graph that can be run, and where it goes on.
struct Ready {
    engine: Engine,
    restored: Vec<(String, Restored)>,
    recovered: Recovered,
}

/// One engine with its threads.
pub(super) struct Run {
    engine: std::thread::JoinHandle<()>,
    journal: Option<std::thread::JoinHandle<bool>>,
    caller: Caller,
    replayed: Replaying,
    reports: Option<mpsc::UnboundedReceiver<Report>>,
    feed: Option<mpsc::Sender<Stamped>>,
    removals: Option<mpsc::UnboundedSender<u64>>,
    deadline: watch::Receiver<Option<Duration>>,
    orders: Vec<mpsc::UnboundedSender<SinkOrder>>,
    sources: Vec<PlannedSource>,
    reopen: Reopen,
    sink_names: Vec<String>,
    metrics: Arc<PipelineMetrics>,
    models: Arc<Models>,
    slots: BTreeMap<String, ModelSlot>,
    settings: config::Settings,
    has_log: bool,
    coordinator: Option<Coordinator>,
    /// What is being opened for it.
    opened: Vec<Opened>,
}

enum Replaying {
    Done(Box<Replayed>),
    FromLog(oneshot::Receiver<Replayed>),
}

/// The channels that outlive engines.
pub(super) struct Channels {
    pub doors: Doors,
    pub requests: mpsc::Sender<Request>,
    pub ends: Ends,
}

impl Supervisor {
    /// Ready to begin.
    ///
    /// # Errors
    /// If the data directory cannot be read.
    pub fn new(
        pipeline: &Pipeline,
        mut data: Option<DataDir>,
        rebuild: Option<Rebuild>,
        channels: Channels,
        served: Served,
    ) -> Result<Self> {
        let installation = match &data {
            Some(data) => data.installation().to_owned(),
            None => uuid::Uuid::new_v4().to_string(),
        };
        let room = pipeline.settings.dead_letters_bytes();
        let letters = match data.as_ref().filter(|_| room > 0) {
            Some(data) => Some(Letters::open(data.store(), room)?),
            None => None,
        };
        let suspects = match &mut data {
            Some(data) => Suspects::load(data)?,
            None => Suspects::default(),
        };
        Ok(Self {
            name: pipeline.settings.name.clone(),
            data,
            installation,
            letters,
            rebuild,
            doors: channels.doors,
            requests: channels.requests,
            ends: channels.ends,
            clock: None,
            current: Arc::clone(served.current()),
            served,
            suspects,
            generation: 0,
            followers: Vec::new(),
            backoff: Backoff::new(RESTART_AFTER.0, RESTART_AFTER.1),
            failures: 0,
            unheard: VecDeque::new(),
        })
    }

    /// What the data directory holds.
    fn recover(&mut self) -> Result<Recovered> {
        match &mut self.data {
            Some(data) => data.recover(),
            None => Ok(Recovered::default()),
        }
    }

    /// Builds the first engine.
    ///
    /// # Errors
    /// If the data directory holds state that cannot be loaded, or the system gives no threads.
    pub async fn first(&mut self, mut pipeline: Pipeline) -> Result<Run> {
        let recovered = self.recover()?;
        let ready = ready(&mut pipeline, recovered)?;
        self.begin(pipeline, ready, Handover::FromCheckpoint, Reopen::None).await
    }

    /// Runs until the pipeline has stopped, or cannot go on.
    ///
    /// # Errors
    /// The failure of whichever part cannot go on.
    pub async fn run(mut self, first: Run) -> Result<()> {
        let outcome = self.engines(first).await;
        self.served.ready.store(false, Ordering::Relaxed);
        self.followers.iter().for_each(JoinHandle::abort);
        self.ends.close(outcome.is_ok()).await;
        // The directory's lock goes with the last handle.
        drop(self.data);
        outcome
    }

    async fn engines(&mut self, mut run: Run) -> Result<()> {
        loop {
            let outcome = self.live(&mut run).await;
            if run.coordinator.as_ref().is_some_and(|coordinator| coordinator.committed_offset().is_some()) {
                self.failures = 0;
                self.backoff.reset();
            }
            run = match outcome {
                Ok(Outcome::Stopped) => {
                    self.served.ready.store(false, Ordering::Relaxed);
                    self.wind_down(run, true).await?;
                    return Ok(());
                }
                Ok(Outcome::Reload { replacement, commit }) => self.reload(run, *replacement, commit).await?,
                Ok(Outcome::EngineFailed { offset, error }) => self.restart(run, offset, error).await?,
                Err(error) => {
                    self.ends.drop_sinks();
                    let _ = self.wind_down(run, false).await;
                    return Err(error);
                }
            };
        }
    }

    /// Starts the sinks, the threads and, before everything else, nothing that could not be taken back.
    async fn begin(
        &mut self,
        pipeline: Pipeline,
        ready: Ready,
        handover: Handover,
        reopen: Reopen,
    ) -> Result<Run> {
        let has_log = pipeline.has_log() && self.data.is_some();
        let Pipeline { settings, sources, sinks, digest, .. } = pipeline;
        let Ready { engine, recovered, .. } = ready;
        self.generation += 1;
        let slots: BTreeMap<String, ModelSlot> = (engine.graph().nodes.iter())
            .filter_map(|node| Some((node.name.clone(), node.models.clone()?)))
            .collect();
        let source_names: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
        let sink_names: Vec<String> = sinks.iter().map(|sink| sink.name.clone()).collect();
        let metrics = PipelineMetrics::new(&self.name, source_names.clone(), sink_names.clone());
        let metrics = metrics
            .with_connected(self.ends.connected(&sources))
            .with_checkpoint(settings.checkpoint.0)
            .with_log(has_log)
            .after(&self.served.metrics());
        let metrics = Arc::new(metrics);
        if let Some(letters) = &self.letters {
            let _ = metrics.letters.set(letters.clone());
        }
        let sinks = self.with_spools(sinks, &metrics);

        let (reports, reports_in) = mpsc::unbounded_channel();
        let (feed, feed_in) = mpsc::channel(settings.queue);
        let (removals, removals_in) = mpsc::unbounded_channel();
        let (deadline, deadline_in) = watch::channel(None);
        let exits = self
            .ends
            .take_sinks(sinks, &recovered.sinks, handover, settings.queue, &reports, &metrics)
            .await?;
        let caller = Caller::new();
        let origin = |sink: &String| format!("{}/{}/{sink}", self.installation, self.name).into();
        let mut lines = EngineLines {
            feed: feed_in,
            sinks: exits.deliveries,
            origins: sink_names.iter().map(origin).collect(),
            reports: reports.clone(),
            deadline,
            stats: Arc::clone(&metrics.engine),
            valve: caller.valve()?,
            does: Arc::clone(&metrics.engine_does),
            mark: self.data.as_ref().filter(|_| has_log).map(Mark::open).transpose()?,
            skip: self.suspects.skipped().map(|suspect| suspect.offset).collect(),
        };
        let positions = source_names.iter().map(|name| recovered.sources.get(name).cloned()).collect();
        let mono = recovered.snapshot.as_ref().map_or(Duration::ZERO, |snapshot| snapshot.now.mono);
        let from = ReplayFrom {
            offset: recovered.log_offset,
            epoch: recovered.epoch,
            sources: source_names.clone(),
            positions,
            mono,
        };
        let (engine, journal, replayed) = match &self.data {
            Some(data) if has_log => {
                // The journal holds a group of its own; more need not wait in between.
                let (engine_feed, engine_feed_in) = mpsc::channel(1);
                let feed_in = std::mem::replace(&mut lines.feed, engine_feed_in);
                let engine = engine_thread::spawn(engine, lines)?;
                let log = open_log(data, recovered.log_offset)?;
                let (models, kept) = (slots.clone(), data.models());
                let recall = Box::new(move |node: &str, id: &str| Models::recall(&models, &kept, node, id));
                let replay = Replay::new(&log, from, recall);
                let (replayed, replayed_in) = oneshot::channel();
                let lines = JournalLines {
                    feed: feed_in,
                    removals: removals_in,
                    engine: engine_feed,
                    reports,
                    replayed,
                    valve: caller.valve()?,
                    does: Arc::clone(&metrics.journal_does),
                };
                let journal = journal::spawn(log, Writer::new(source_names), replay, lines)?;
                (engine, Some(journal), Replaying::FromLog(replayed_in))
            }
            _ => {
                let engine = engine_thread::spawn(engine, lines)?;
                (engine, None, Replaying::Done(Box::new(Replayed::nothing(from))))
            }
        };
        let models = Arc::new(Models::new(
            slots.clone(),
            self.requests.clone(),
            Arc::clone(&metrics),
            self.data.as_ref().map(DataDir::models),
            self.generation,
        ));
        for vitals in sources.iter().filter_map(|source| source.vitals.as_ref()) {
            // Whatever graph runs when it asks.
            let served = self.served.clone();
            let _ = vitals.set(Box::new(move || served.health().problems));
        }
        self.current.set(digest, &settings);
        self.served.set(Arc::clone(&metrics), Arc::clone(&models));
        Ok(Run {
            engine,
            journal,
            caller,
            replayed,
            reports: Some(reports_in),
            feed: Some(feed),
            removals: Some(removals),
            deadline: deadline_in,
            orders: exits.orders,
            sources,
            reopen,
            sink_names,
            metrics,
            models,
            slots,
            settings,
            has_log,
            coordinator: None,
            opened: exits.opened,
        })
    }

    /// Puts the spools before the sinks that have one.
    fn with_spools(&self, sinks: Vec<PlannedSink>, metrics: &PipelineMetrics) -> Vec<SinkToRun> {
        let sinks = sinks.into_iter().zip(&metrics.sinks).map(|(planned, counters)| {
            let PlannedSink { name, identity, mut sink, peer, spool, .. } = planned;
            let network = peer.is_some();
            if let (Some(data), Some(settings), Some(peer)) = (&self.data, spool, peer) {
                let (letters, counters) = (self.letters.clone(), Arc::clone(counters));
                sink = Box::new(Spooled::new(&name, data.store(), settings, peer, letters, counters));
            }
            SinkToRun { name, identity, sink, network }
        });
        sinks.collect()
    }

    /// Lets an engine run until something else must happen.
    async fn live(&mut self, run: &mut Run) -> Result<Outcome> {
        if run.coordinator.is_none()
            && let Some(outcome) = self.enter(run).await?
        {
            return Ok(outcome);
        }
        let Some(coordinator) = &mut run.coordinator else {
            return Err(Error::data("the engine has not begun"));
        };
        for request in self.unheard.drain(..) {
            coordinator.request(request);
        }
        self.served.ready.store(true, Ordering::Relaxed);
        coordinator.run(&mut self.doors).await
    }

    /// What the log holds is given to the engine; then the sources take part and the coordinator begins.
    async fn enter(&mut self, run: &mut Run) -> Result<Option<Outcome>> {
        let mut early = Vec::new();
        let replayed = match std::mem::replace(&mut run.replayed, Replaying::Done(Box::new(nothing()))) {
            Replaying::Done(replayed) => *replayed,
            Replaying::FromLog(replayed) => match self.replay(run, replayed, &mut early).await? {
                Ok(replayed) => replayed,
                Err(outcome) => return Ok(Some(outcome)),
            },
        };
        let clock = *self.clock.get_or_insert_with(|| Clock::from(replayed.mono));
        let planned = std::mem::take(&mut run.sources);
        let companions: Vec<Companion> =
            planned.iter().filter_map(|source| source.companion.clone()).collect();
        let source_names: Vec<String> = planned.iter().map(|source| source.name.clone()).collect();
        let positions = &replayed.start.positions;
        let (entrances, opened) = self.ends.take_sources(planned, positions, run.reopen, &run.metrics).await;
        run.opened.extend(opened);
        if run.has_log {
            // What the log holds is safe, whoever was told so before.
            for (entrance, position) in entrances.iter().zip(positions) {
                position.iter().for_each(|position| {
                    let _ = entrance.acknowledgements.send(position.clone());
                });
            }
        }
        let ended: Vec<usize> = entrances
            .iter()
            .enumerate()
            .filter(|(_, entrance)| entrance.ended)
            .map(|(input, _)| input)
            .collect();
        let entrances: Vec<(SourceId, _)> =
            entrances.into_iter().map(|entrance| (entrance.id, entrance.acknowledgements)).collect();
        let (Some(reports), Some(feed), Some(removals)) =
            (run.reports.take(), run.feed.take(), run.removals.take())
        else {
            return Err(Error::data("the engine has begun already"));
        };
        let mut coordinator = Coordinator::new(
            clock,
            CoordinatorLines {
                reports,
                feed,
                removals,
                deadline: run.deadline.clone(),
                sources: entrances,
                sinks: run.orders.clone(),
            },
            Settings {
                sequencer: SequencerSettings {
                    checkpoint: run.settings.checkpoint.0,
                    log_bytes_max: LOG_BYTES_MAX,
                    keeps_state: self.data.is_some(),
                },
                journal: run.has_log,
                patience: run.settings.stop_timeout.0,
                generation: self.generation,
            },
            self.data.as_ref().map(|data| data.checkpoints(source_names, run.sink_names.clone())),
            Arc::clone(&run.metrics),
            run.sink_names.clone(),
            replayed.start,
        );
        self.followers.drain(..).for_each(|follower| follower.abort());
        follow_models(&run.models, &run.slots, companions, &mut self.followers);
        for report in early {
            if let Some(outcome) = coordinator.reported(report)? {
                run.coordinator = Some(coordinator);
                return Ok(Some(outcome));
            }
        }
        ended.into_iter().for_each(|input| coordinator.source_ended(input));
        run.coordinator = Some(coordinator);
        Ok(None)
    }

    /// Waits for the log to be replayed. A sink that does not take what it is given can make that long, so a reload is
    /// heard meanwhile.
    async fn replay(
        &mut self,
        run: &mut Run,
        mut replayed: oneshot::Receiver<Replayed>,
        early: &mut Vec<Report>,
    ) -> Result<std::result::Result<Replayed, Outcome>> {
        let Some(reports) = &mut run.reports else {
            return Err(Error::data("the engine has begun already"));
        };
        let mut wanted: Option<Box<Replacement>> = None;
        let patience = tokio::time::sleep(Duration::from_secs(1 << 32));
        let mut patience = std::pin::pin!(patience);
        // A stop and the like wait: all that is in the log has been promised already.
        let listens = |unheard: &VecDeque<Request>| unheard.len() < 64;
        loop {
            tokio::select! {
                biased;
                Some(report) = reports.recv() => match report {
                    Report::Engine { offset, error } => {
                        self.unheard.extend(wanted.map(Request::Reload));
                        return Ok(Err(Outcome::EngineFailed { offset, error }));
                    }
                    Report::Failed(error) => return Err(error),
                    report => early.push(report),
                },
                done = &mut replayed => {
                    self.unheard.extend(wanted.map(Request::Reload));
                    return match done {
                        Ok(replayed) => Ok(Ok(replayed)),
                        Err(_) => Err(failure_of(reports).await),
                    };
                }
                Some(request) = self.doors.requests.recv(), if wanted.is_none() && listens(&self.unheard) => {
                    match request {
                        Request::Reload(replacement) => {
                            wanted = Some(replacement);
                            patience.as_mut().reset(tokio::time::Instant::now() + run.settings.stop_timeout.0);
                        }
                        request => self.unheard.push_back(request),
                    }
                }
                () = &mut patience, if wanted.is_some() => {
                    if let Some(replacement) = wanted.take() {
                        return Ok(Err(Outcome::Reload { replacement, commit: None }));
                    }
                }
            }
        }
    }

    /// Puts another graph in the place of one that stands still at a cut, or has to be given up.
    async fn reload(
        &mut self,
        mut run: Run,
        replacement: Replacement,
        commit: Option<Commit>,
    ) -> Result<Run> {
        let Replacement { mut pipeline, rebuild, answer } = replacement;
        let epoch = commit.as_ref().map(|commit| commit.epoch);
        let from_checkpoint = commit.is_none();
        // While the old engine is still there, the new one is built on what it will begin from.
        let tried = match commit {
            Some(commit) => self.base(&run, commit),
            None => self.recover(),
        };
        let ready = match tried.and_then(|recovered| ready(&mut pipeline, recovered)) {
            Ok(ready) => ready,
            Err(error) => {
                let _ = answer.send(Err(error));
                return Ok(self.go_on(run));
            }
        };
        let (handover, reopen) = match epoch {
            Some(epoch) => (Handover::AtCut(epoch), Reopen::None),
            None => {
                self.ends.drop_sinks();
                let complete = self.give_up(&mut run).await;
                (Handover::FromCheckpoint, self.reopen(&run, complete))
            }
        };
        // From here on there is a way back only by starting the old graph again.
        let patience = run.settings.stop_timeout.0;
        let complete = self.wind_down(run, epoch.is_some()).await?;
        let reopen = if complete { reopen } else { Reopen::All };
        let recovered = ready.recovered.clone();
        let restored = ready.restored.clone();
        let began = match self.begin(pipeline, ready, handover, reopen).await {
            Ok(mut run) => match self.enter_and_open(&mut run, handover, patience).await {
                Ok(()) => Ok(run),
                Err(error) => {
                    self.ends.drop_sinks();
                    let _ = self.wind_down(run, false).await;
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        match began {
            Ok(run) => {
                self.rebuild = rebuild;
                let named = |wanted: fn(&Restored) -> bool| {
                    let nodes = restored.iter().filter(|(_, outcome)| wanted(outcome));
                    nodes.map(|(name, _)| name.clone()).collect()
                };
                let reloaded = Reloaded {
                    epoch: epoch.unwrap_or(recovered.epoch),
                    kept: named(|outcome| *outcome == Restored::Loaded),
                    fresh: named(|outcome| *outcome != Restored::Loaded),
                    from_checkpoint,
                };
                let _ = answer.send(Ok(reloaded));
                Ok(run)
            }
            Err(error) => {
                let reason = error.to_string();
                let _ = answer.send(Err(error));
                self.back(recovered, &reason).await
            }
        }
    }

    /// The graph before goes on at the same cut.
    async fn back(&mut self, recovered: Recovered, reason: &str) -> Result<Run> {
        warn!(reason, "the new graph cannot run; the one before is started again");
        let Some(rebuild) = self.rebuild.clone() else {
            return Err(Error::config(format!(
                "the new graph cannot run, and the one before is gone: {reason}"
            )));
        };
        let mut pipeline = rebuild()?;
        let ready = ready(&mut pipeline, recovered)?;
        let reopen = if pipeline.has_log() && self.data.is_some() { Reopen::None } else { Reopen::All };
        self.begin(pipeline, ready, Handover::FromCheckpoint, reopen).await
    }

    fn go_on(&mut self, mut run: Run) -> Run {
        if let Some(coordinator) = &mut run.coordinator {
            coordinator.release();
        }
        run
    }

    /// What a cut that was committed left to begin from: what a start would find.
    fn base(&mut self, run: &Run, commit: Commit) -> Result<Recovered> {
        if self.data.is_some() {
            let recovered = self.recover()?;
            return if recovered.epoch == commit.epoch {
                Ok(recovered)
            } else {
                Err(Error::state(format!("the checkpoint of epoch {} cannot be read back", commit.epoch)))
            };
        }
        let names = |names: Vec<String>| names.into_iter();
        let sources = names(run.metrics.source_names().to_vec()).zip(commit.sources);
        Ok(Recovered {
            epoch: commit.epoch,
            log_offset: commit.offset,
            sources: sources.filter_map(|(name, position)| Some((name, position?))).collect(),
            sinks: names(run.sink_names.clone()).zip(commit.sinks).collect(),
            snapshot: Some(commit.snapshot),
            passed_over: Vec::new(),
        })
    }

    /// Takes part in the pipeline with a new engine and waits until all that is new is open.
    async fn enter_and_open(&mut self, run: &mut Run, handover: Handover, patience: Duration) -> Result<()> {
        // Behind a cut nothing is replayed; a log that is may wait for its sinks for long.
        if handover != Handover::FromCheckpoint {
            let entered = tokio::time::timeout(patience, self.enter(run)).await;
            match entered {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(Outcome::EngineFailed { error, .. }))) => return Err(error),
                Ok(Ok(Some(_))) => return Err(Error::data("the engine has stopped at once")),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::new(Kind::Unavailable, "the log is not replayed in time")),
            }
        }
        let all = async {
            for opened in run.opened.drain(..) {
                if let Ok(outcome) = opened.await {
                    outcome?;
                }
            }
            Ok(())
        };
        // What is not open by then is still waiting for its peer.
        tokio::time::timeout(patience, all).await.unwrap_or(Ok(()))
    }

    /// The engine has failed: it is built again from the last checkpoint, and gets what the log holds behind it.
    async fn restart(&mut self, mut run: Run, offset: Option<u64>, error: Error) -> Result<Run> {
        self.served.ready.store(false, Ordering::Relaxed);
        self.failures += 1;
        let in_log = offset.filter(|_| run.has_log);
        let failures = match in_log {
            Some(offset) => self.suspects.failed(offset, &error.message, self.data.as_mut())?,
            None => self.failures,
        };
        let Some(rebuild) = self.rebuild.clone().filter(|_| self.data.is_some()) else {
            self.ends.drop_sinks();
            let _ = self.wind_down(run, false).await;
            return Err(error);
        };
        // A cut cannot be left out, and without a log the record is not there to be left out.
        let hopeless = if in_log.is_some() { failures > FAILURES_MAX } else { failures >= FAILURES_MAX };
        if hopeless {
            self.ends.drop_sinks();
            let _ = self.wind_down(run, false).await;
            return Err(error);
        }
        let wait = self.backoff.wait();
        error!(
            %error,
            offset = in_log,
            failures,
            wait_ms = wait.as_millis() as u64,
            "the engine has failed; it is built again from the last checkpoint"
        );
        self.served.metrics().control.restarting(&error.to_string());
        self.ends.drop_sinks();
        let complete = self.give_up(&mut run).await;
        let reopen = self.reopen(&run, complete);
        let complete = self.wind_down(run, false).await?;
        let reopen = if complete { reopen } else { Reopen::All };
        tokio::time::sleep(wait).await;
        let recovered = self.recover()?;
        if run_is_past(&self.suspects, recovered.log_offset) {
            self.suspects.forget_before(recovered.log_offset, self.data.as_mut())?;
        }
        let mut pipeline = rebuild()?;
        let ready = ready(&mut pipeline, recovered)?;
        self.begin(pipeline, ready, Handover::FromCheckpoint, reopen).await
    }

    /// Takes from a coordinator what the next one must know; whether all that it was given is on its way to the log.
    async fn give_up(&mut self, run: &mut Run) -> bool {
        run.caller.call_off();
        let Some(mut coordinator) = run.coordinator.take() else { return true };
        self.unheard.extend(coordinator.unheard());
        let given = tokio::time::timeout(HAND_OVER_MAX, coordinator.hand_over(run.has_log)).await;
        given.unwrap_or(false)
    }

    /// What must be opened anew where not all that sources have given is in the log.
    fn reopen(&self, run: &Run, complete: bool) -> Reopen {
        match (run.has_log, &self.data) {
            (true, _) if complete => Reopen::None,
            (_, Some(_)) => Reopen::All,
            (_, None) => {
                warn!("there is no data directory: state, and rows that were under way, are lost");
                Reopen::Acknowledging
            }
        }
    }

    /// Ends an engine and what stands before it; whether the log has all that it was given.
    async fn wind_down(&mut self, mut run: Run, in_order: bool) -> Result<bool> {
        if !in_order {
            run.caller.call_off();
        }
        let patience = run.settings.stop_timeout.0.max(CLOSING_MAX);
        if let Some(mut coordinator) = run.coordinator.take() {
            self.unheard.extend(coordinator.unheard());
        }
        drop((run.feed.take(), run.reports.take(), run.removals.take(), std::mem::take(&mut run.orders)));
        let complete = match run.journal.take() {
            None => true,
            Some(journal) => match join(journal, patience).await {
                Some(complete) => complete,
                None => return Err(Error::state("the log's disk does not answer")),
            },
        };
        if join(run.engine, CLOSING_MAX).await.is_none() {
            warn!("an operator does not come to an end; its thread is left behind");
        }
        Ok(complete)
    }
}

fn run_is_past(suspects: &Suspects, offset: u64) -> bool {
    suspects.skipped().any(|suspect| suspect.offset < offset)
}

/// Waits for a thread to end.
async fn join<T: Send + 'static>(thread: std::thread::JoinHandle<T>, most: Duration) -> Option<T> {
    let ended = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&ended);
    let joined = tokio::time::timeout(most, async {
        while !thread.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tell.store(true, Ordering::Relaxed);
    });
    let _ = joined.await;
    if ended.load(Ordering::Relaxed) { thread.join().ok() } else { None }
}

/// Why the journal has ended: it says so behind closing its lines.
async fn failure_of(reports: &mut mpsc::UnboundedReceiver<Report>) -> Error {
    while let Ok(Some(report)) = tokio::time::timeout(CLOSING_MAX, reports.recv()).await {
        if let Report::Failed(error) = report {
            return error;
        }
    }
    Error::state("the log could not be replayed; the lines before say why")
}

fn nothing() -> Replayed {
    let (sources, positions) = (Vec::new(), Vec::new());
    Replayed::nothing(ReplayFrom { offset: 0, epoch: Epoch(0), sources, positions, mono: Duration::ZERO })
}

/// The log behind a checkpoint.
fn open_log(data: &DataDir, offset_min: u64) -> Result<Log> {
    let options = LogOptions { offset_min, bytes_max: LOG_BYTES_MAX, ..LogOptions::default() };
    let (log, report) = Log::open(data.store(), "log", options)?;
    if report.torn_bytes > 0 {
        info!(bytes = report.torn_bytes, "an unfinished write at the end of the log was cut off");
    }
    if report.lost_at_end > 0 || report.damages.records > 0 {
        warn!(lost = report.lost_at_end, damaged = report.damages.records, "the log has lost records");
    }
    Ok(log)
}

/// Builds the engine on what was recovered. Nothing outside is touched.
fn ready(pipeline: &mut Pipeline, mut recovered: Recovered) -> Result<Ready> {
    if let Some(snapshot) = &mut recovered.snapshot {
        rename(snapshot, &pipeline.renamed);
    }
    let empty = Graph { inputs: Vec::new(), nodes: Vec::new(), sinks: Vec::new() };
    let graph = std::mem::replace(&mut pipeline.graph, empty);
    let (engine, restored) = build_engine(graph, recovered.snapshot.as_ref())?;
    Ok(Ready { engine, restored, recovered })
}

/// Operators that had another name when their state was saved.
fn rename(snapshot: &mut Snapshot, renamed: &[Renamed]) {
    for node in &mut snapshot.nodes {
        if let Some(rename) = renamed.iter().find(|rename| rename.was == node.name) {
            node.name.clone_from(&rename.name);
        }
    }
}

fn build_engine(graph: Graph, snapshot: Option<&Snapshot>) -> Result<(Engine, Vec<(String, Restored)>)> {
    let (engine, restored) = Engine::new(graph, snapshot)?;
    let names = engine.graph().nodes.iter().map(|node| node.name.clone());
    let restored: Vec<(String, Restored)> = names.zip(restored).collect();
    for (index, node) in engine.graph().nodes.iter().enumerate() {
        let refused = node.models.as_ref().and_then(|slot| slot.refused.as_ref());
        let (Some(reason), name) = (refused, &node.name) else { continue };
        match engine.model(index) {
            None => return Err(Error::config(format!("`{name}`: {reason}; and no model was saved"))),
            Some(saved) => {
                warn!(
                    node = name,
                    model = saved.short(),
                    reason,
                    "the model file is not taken; the saved one goes on"
                );
            }
        }
    }
    if snapshot.is_some() {
        for (node, outcome) in &restored {
            match outcome {
                Restored::Loaded => {}
                Restored::New => info!(node, "starts fresh: the checkpoint has no such node"),
                Restored::Changed => {
                    warn!(node, "starts fresh: its settings or inputs have changed since the checkpoint");
                }
            }
        }
    }
    Ok((engine, restored))
}

fn follow_models(
    models: &Arc<Models>,
    slots: &BTreeMap<String, ModelSlot>,
    companions: Vec<Companion>,
    tasks: &mut Vec<JoinHandle<()>>,
) {
    for (node, slot) in slots {
        if let Some(file) = &slot.file {
            tasks.push(tokio::spawn(Arc::clone(models).follow_file(node.clone(), file.into())));
        }
        if let Some(topic) = &slot.topic {
            match companions.first() {
                Some(companion) => {
                    tasks.push(tokio::spawn(Arc::clone(models).follow_topic(node.clone(), companion(topic))));
                }
                None => {
                    warn!(node, topic, "no MQTT source in this pipeline: the model topic is not followed")
                }
            }
        }
    }
}
