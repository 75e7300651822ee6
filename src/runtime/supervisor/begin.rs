//! How an engine begins: built on what was recovered, its threads started, the log given to it, its ends opened.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Ready, Replaying, Run, Supervisor};
use crate::clock::Clock;
use crate::config::{LogKeys, Pipeline, PlannedSink, Renamed};
use crate::core::{
    Engine, Epoch, Fingerprint, Graph, ModelSlot, Position, Restored, SequencerSettings, Snapshot, Start,
};
use crate::error::{Error, Result};
use crate::registry::Companion;
use crate::runtime::activity::Held;
use crate::runtime::coordinator::{Coordinator, CoordinatorLines, Outcome, Request, Settings};
use crate::runtime::durable::DataDir;
use crate::runtime::ends::{CLOSING_MAX, Handover, Reopen, SinkToRun};
use crate::runtime::engine_thread::{self, EngineLines};
use crate::runtime::journal::{self, JournalLines};
use crate::runtime::metrics::PipelineMetrics;
use crate::runtime::models::Models;
use crate::runtime::reload::Replacement;
use crate::runtime::spool::{Spooled, tell_forsaken};
use crate::runtime::suspects::Mark;
use crate::runtime::valve::Caller;
use crate::runtime::wire::{Report, SourceId};
use crate::store::journal::{Replay, ReplayFrom, Replayed, Writer};
use crate::store::log::Log;
use crate::store::recovery::Recovered;
use crate::store::{LogOptions, Retain};

/// The threads of one engine.
struct Threads {
    engine: std::thread::JoinHandle<()>,
    journal: Option<std::thread::JoinHandle<bool>>,
    replayed: Replaying,
}

impl Supervisor {
    /// Starts the sinks and the threads. The sources take part when the log is replayed.
    pub(super) async fn begin(
        &mut self,
        pipeline: Pipeline,
        ready: Ready,
        handover: Handover,
        reopen: Reopen,
    ) -> Result<Run> {
        let has_log = pipeline.has_log() && self.data.is_some();
        let metrics = self.metrics_of(&pipeline, has_log);
        metrics.set_committed(ready.recovered.epoch);
        let Pipeline { settings, sources, sinks, digest, .. } = pipeline;
        let Ready { engine, recovered, .. } = ready;
        self.generation += 1;
        let slots: BTreeMap<String, ModelSlot> = (engine.graph().nodes.iter())
            .filter_map(|node| Some((node.name.clone(), node.models.clone()?)))
            .collect();
        let sink_names: Vec<String> = sinks.iter().map(|sink| sink.name.clone()).collect();
        let lineages: Vec<Fingerprint> = sinks.iter().map(|sink| sink.lineage).collect();
        let spooled: Vec<String> =
            sinks.iter().filter(|sink| sink.spool.is_some()).map(|sink| sink.name.clone()).collect();
        let sinks = self.with_spools(sinks, &metrics);
        let (reports, reports_in) = mpsc::unbounded_channel();
        let (feed, feed_in) = mpsc::channel(settings.queue);
        let (removals, removals_in) = mpsc::unbounded_channel();
        let (deadline, deadline_in) = watch::channel(None);
        let exits = self
            .ends
            .take_sinks(sinks, &recovered.sinks, handover, settings.queue, &reports, &metrics)
            .await?;
        self.tell_forsaken(&spooled);
        let caller = Caller::new();
        // Without a log nothing comes again under its old name, so names must not be the same in two lives.
        let installation = match self.data.as_ref().filter(|_| has_log) {
            Some(data) => data.installation().to_owned(),
            None => uuid::Uuid::new_v4().to_string(),
        };
        let origin = |(sink, lineage): (&String, &Fingerprint)| {
            format!("{installation}/{}/{sink}/{:016x}", self.name, lineage.0).into()
        };
        let lines = EngineLines {
            feed: feed_in,
            sinks: exits.deliveries,
            origins: sink_names.iter().zip(&lineages).map(origin).collect(),
            reports,
            deadline,
            stats: Arc::clone(&metrics.engine),
            valve: caller.valve()?,
            does: Arc::clone(&metrics.engine_does),
            mark: self.data.as_ref().filter(|_| has_log).map(Mark::open).transpose()?,
            treatments: self.suspects.treatments(),
        };
        let batch_bytes = sources.iter().map(|source| source.batch.bytes).max().unwrap_or(0);
        let log = LogOptions {
            offset_min: recovered.log_offset,
            now_us: crate::clock::wall().micros(),
            needed_from: recovered.needed_from,
            ..log_options(settings.log, batch_bytes)
        };
        let log_bytes_max = log.bytes_max;
        let threads = self.threads(engine, lines, log, &recovered, &metrics, &slots, removals_in, &caller)?;
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
            engine: threads.engine,
            journal: threads.journal,
            caller,
            replayed: threads.replayed,
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
            log_bytes_max,
            coordinator: None,
            opened: exits.opened,
        })
    }

    /// The counts of a graph; those of ends that were there before go on.
    fn metrics_of(&self, pipeline: &Pipeline, has_log: bool) -> Arc<PipelineMetrics> {
        let sources = pipeline.sources.iter().map(|source| source.name.clone()).collect();
        let sinks = pipeline.sinks.iter().map(|sink| sink.name.clone()).collect();
        let metrics = PipelineMetrics::new(&self.name, sources, sinks)
            .with_connected(self.ends.connected(&pipeline.sources))
            .with_checkpoint(pipeline.settings.checkpoint.0)
            .with_log(has_log)
            .after(&self.served.metrics());
        if let Some(letters) = &self.letters {
            let _ = metrics.letters.set(letters.clone());
        }
        Arc::new(metrics)
    }

    /// Starts the engine's thread and, with a log, the journal's before it.
    #[expect(clippy::too_many_arguments, reason = "what both threads are connected to")]
    fn threads(
        &self,
        engine: Engine,
        mut lines: EngineLines,
        log: LogOptions,
        recovered: &Recovered,
        metrics: &PipelineMetrics,
        slots: &BTreeMap<String, ModelSlot>,
        removals: mpsc::UnboundedReceiver<u64>,
        caller: &Caller,
    ) -> Result<Threads> {
        let sources = metrics.source_names().to_vec();
        let from = ReplayFrom {
            offset: recovered.log_offset,
            epoch: recovered.epoch,
            positions: sources.iter().map(|name| recovered.sources.get(name).cloned()).collect(),
            sources: sources.clone(),
            mono: recovered.snapshot.as_ref().map_or(Duration::ZERO, |snapshot| snapshot.now.mono),
        };
        let Some(data) = self.data.as_ref().filter(|_| metrics.has_log()) else {
            let engine = engine_thread::spawn(engine, lines)?;
            let replayed = Replaying::Done(Box::new(Replayed::nothing(from)));
            return Ok(Threads { engine, journal: None, replayed });
        };
        // The journal holds a group of its own; more need not wait in between.
        let (engine_feed, engine_feed_in) = mpsc::channel(1);
        let feed = std::mem::replace(&mut lines.feed, engine_feed_in);
        let reports = lines.reports.clone();
        let engine = engine_thread::spawn(engine, lines)?;
        let log = open_log(data, log)?;
        let (models, kept) = (slots.clone(), data.models());
        let recall = Box::new(move |node: &str, id: &str| Models::recall(&models, &kept, node, id));
        let replay = Replay::new(&log, from, recall);
        let (replayed, replayed_in) = oneshot::channel();
        let lines = JournalLines {
            feed,
            removals,
            engine: engine_feed,
            reports,
            replayed,
            valve: caller.valve()?,
            does: Arc::clone(&metrics.journal_does),
        };
        let journal = journal::spawn(log, Writer::new(sources), replay, lines)?;
        Ok(Threads { engine, journal: Some(journal), replayed: Replaying::FromLog(replayed_in) })
    }

    /// Says what waits in spools that no sink has any more; one whose sink has not let go of it is not looked at.
    fn tell_forsaken(&self, spooled: &[String]) {
        let Some(data) = &self.data else { return };
        let held = self.ends.leaving();
        let names: Vec<&str> = spooled.iter().map(String::as_str).chain(held).collect();
        tell_forsaken(data.store().as_ref(), &data.spools(), &names);
    }

    /// Puts the spools before the sinks that have one.
    fn with_spools(&self, sinks: Vec<PlannedSink>, metrics: &PipelineMetrics) -> Vec<SinkToRun> {
        if let Some(data) = self.data.as_ref().filter(|_| self.generation == 1) {
            let spooled = sinks.iter().filter(|sink| sink.spool.is_some()).map(|sink| sink.name.as_str());
            tell_forsaken(data.store().as_ref(), &data.spools(), &spooled.collect::<Vec<_>>());
        }
        let sinks = sinks.into_iter().zip(&metrics.sinks).map(|(planned, counters)| {
            let PlannedSink { name, identity, mut sink, peer, spool, letters, .. } = planned;
            if let (Some(place), Some(letters)) = (letters, &self.letters) {
                let _ = place.set(Box::new(letters.clone()));
            }
            let network = peer.is_some();
            if let (Some(data), Some(settings), Some(peer)) = (&self.data, spool, peer) {
                let (letters, counters) = (self.letters.clone(), Arc::clone(counters));
                sink = Box::new(Spooled::new(&name, data.store(), settings, peer, letters, counters));
            }
            SinkToRun { name, identity, sink, network }
        });
        sinks.collect()
    }

    /// What the log holds is given to the engine; then the sources take part and the coordinator begins.
    pub(super) async fn enter(&mut self, run: &mut Run) -> Result<Option<Outcome>> {
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
            // What the log holds is safe, whoever was told so before. A source that was opened anew counts from its start:
            // the position of another life would call safe what it has not even given yet.
            for (entrance, position) in entrances.iter().zip(positions) {
                position.iter().filter(|_| entrance.goes_on).for_each(|position| {
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
        let mut coordinator = self.coordinator(run, clock, entrances, source_names, replayed.start)?;
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

    fn coordinator(
        &self,
        run: &mut Run,
        clock: Clock,
        sources: Vec<(SourceId, mpsc::UnboundedSender<Position>)>,
        source_names: Vec<String>,
        start: Start,
    ) -> Result<Coordinator> {
        let (Some(reports), Some(feed), Some(removals)) =
            (run.reports.take(), run.feed.take(), run.removals.take())
        else {
            return Err(Error::data("the engine has begun already"));
        };
        let (deadline, sinks) = (run.deadline.clone(), run.orders.clone());
        Ok(Coordinator::new(
            clock,
            CoordinatorLines { reports, feed, removals, deadline, sources, sinks },
            Settings {
                sequencer: SequencerSettings {
                    checkpoint: run.settings.checkpoint.0,
                    log_bytes_max: run.log_bytes_max,
                    keeps_state: self.data.is_some(),
                },
                journal: run.has_log,
                patience: run.settings.stop_timeout.0,
                generation: self.generation,
            },
            self.data.as_ref().map(|data| data.checkpoints(source_names, run.sink_names.clone())),
            Arc::clone(&run.metrics),
            run.sink_names.clone(),
            start,
        ))
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
        run.metrics.held.begin(Held::Replay as u16);
        let mut wanted: Option<Box<Replacement>> = None;
        let patience = tokio::time::sleep(Duration::from_secs(1 << 32));
        let mut patience = std::pin::pin!(patience);
        // A stop and the like wait: all that is in the log has been promised already.
        let listens = |unheard: &VecDeque<Request>| unheard.len() < 64;
        loop {
            tokio::select! {
                biased;
                Some(report) = reports.recv() => match report {
                    Report::Engine { offset, row, error } => {
                        self.unheard.extend(wanted.map(Request::Reload));
                        return Ok(Err(Outcome::EngineFailed { offset, row, error }));
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

/// How a log is opened for batches of so many bytes: the smaller it is, the smaller its parts.
fn log_options(keys: LogKeys, batch_bytes: usize) -> LogOptions {
    // A record has a batch and the one message that closes it, which has its own bound.
    let block_bytes_max = (2 * batch_bytes).clamp(4 << 20, 32 << 20);
    LogOptions {
        block_bytes_max,
        segment_bytes_max: (keys.size.0 / 32)
            .clamp(block_bytes_max as u64, (8 << 20).max(block_bytes_max as u64)),
        bytes_max: keys.size.0.max(3 * block_bytes_max as u64),
        retain: Retain { time: keys.retain.0, bytes_max: keys.retained_bytes_max() },
        ..LogOptions::default()
    }
}

/// The log behind a checkpoint.
fn open_log(data: &DataDir, options: LogOptions) -> Result<Log> {
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
pub(super) fn ready(pipeline: &mut Pipeline, mut recovered: Recovered) -> Result<Ready> {
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
