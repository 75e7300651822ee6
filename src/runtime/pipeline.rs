//! Starts one checked pipeline: channels, tasks, threads, and what is recovered from its data directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::admin::Served;
use super::coordinator::{Coordinator, CoordinatorLines, Request, Settings};
use super::durable::DataDir;
use super::engine_thread::{self, EngineLines};
use super::health::PipelineHealth;
use super::journal::{self, JournalLines};
use super::metrics::PipelineMetrics;
use super::models::Models;
use super::sink_task::{self, SinkLines};
use super::source_task::{self, SourceLines};
use super::spool::{Letters, Spooled, tell_forsaken};
use crate::clock::Clock;
use crate::config::{LogKeys, Pipeline, PlannedSink, PlannedSource};
use crate::core::{Engine, Graph, ModelSlot, Position, Restored, SequencerSettings, Snapshot};
use crate::error::{Error, Result};
use crate::store::journal::{Replay, ReplayFrom, Replayed, Writer};
use crate::store::log::Log;
use crate::store::recovery::Recovered;
use crate::store::{LogOptions, Retain};

/// How long tasks may take to end after everything is committed.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Most requests waiting at once.
const REQUESTS_MAX: usize = 16;

/// A pipeline that runs.
pub struct Running {
    /// What the admin port and displays see of it.
    pub served: Served,
    /// Asks it for something.
    pub requests: mpsc::Sender<Request>,
    /// Ends when everything is committed, or with the failure of a part.
    pub task: JoinHandle<Result<()>>,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// Whether its state survives a stop.
    pub keeps_state: bool,
}

/// Starts a pipeline on the current runtime.
///
/// # Errors
/// If its data directory cannot be used or holds state that cannot be loaded.
pub async fn start(pipeline: Pipeline) -> Result<Running> {
    let settings = &pipeline.settings;
    let root = settings.data_dir.as_ref();
    let data = root.map(|root| DataDir::open(Path::new(root), &settings.name)).transpose()?;
    start_in(pipeline, data).await
}

/// The same in a data directory that is open already.
///
/// # Errors
/// If it holds state that cannot be loaded.
pub async fn start_in(pipeline: Pipeline, mut data: Option<DataDir>) -> Result<Running> {
    let has_log = pipeline.has_log();
    let keeps_state = pipeline.settings.data_dir.is_some();
    let Pipeline { settings, graph, sources, sinks, renamed, .. } = pipeline;
    let source_names: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
    let sink_names: Vec<String> = sinks.iter().map(|sink| sink.name.clone()).collect();
    let connected = sources.iter().map(|source| source.connected.clone()).collect();
    let metrics = PipelineMetrics::new(&settings.name, source_names.clone(), sink_names.clone());
    let metrics = Arc::new(
        metrics
            .with_connected(connected)
            .with_checkpoint(settings.checkpoint.0)
            .with_log(has_log && data.is_some()),
    );

    let mut recovered = match &mut data {
        Some(data) => data.recover()?,
        None => Recovered::default(),
    };
    if let Some(snapshot) = &mut recovered.snapshot {
        for node in &mut snapshot.nodes {
            if let Some(rename) = renamed.iter().find(|rename| rename.was == node.name) {
                node.name.clone_from(&rename.name);
            }
        }
    }
    // Without a log nothing comes again under its old name, so names must not be the same in two lives.
    let installation = match &data {
        Some(data) if has_log => data.installation().to_owned(),
        _ => uuid::Uuid::new_v4().to_string(),
    };
    let slots: BTreeMap<String, ModelSlot> =
        graph.nodes.iter().filter_map(|node| Some((node.name.clone(), node.models.clone()?))).collect();
    let engine = build_engine(graph, recovered.snapshot.as_ref())?;

    let (reports, reports_in) = mpsc::unbounded_channel();
    let (feed, feed_in) = mpsc::channel(settings.queue);
    let (removals, removals_in) = mpsc::unbounded_channel();
    let (deadline, deadline_in) = watch::channel(None);
    let mut tasks = Tasks::default();
    let letters = match &data {
        Some(data) if settings.dead_letters_bytes() > 0 => {
            Some(Letters::open(data.store(), settings.dead_letters_bytes())?)
        }
        _ => None,
    };
    if let Some(letters) = &letters {
        let _ = metrics.letters.set(letters.clone());
    }
    if let Some(data) = &data {
        let spooled = sinks.iter().filter(|sink| sink.spool.is_some()).map(|sink| sink.name.as_str());
        tell_forsaken(data.store().as_ref(), &data.spools(), &spooled.collect::<Vec<_>>());
    }
    let sinks = with_spools(sinks, data.as_ref(), letters.as_ref(), &metrics);
    let (deliveries, orders) =
        start_sinks(sinks, &recovered.sinks, settings.queue, &reports, &metrics, &mut tasks.sinks)?;

    let positions: Vec<Option<Position>> =
        source_names.iter().map(|name| recovered.sources.get(name).cloned()).collect();
    let mono = recovered.snapshot.as_ref().map_or(Duration::ZERO, |snapshot| snapshot.now.mono);
    let engine_lines = |feed| EngineLines {
        feed,
        sinks: deliveries,
        origins: sink_names
            .iter()
            .map(|sink| format!("{installation}/{}/{sink}", settings.name).into())
            .collect(),
        reports: reports.clone(),
        deadline,
        stats: Arc::clone(&metrics.engine),
        does: Arc::clone(&metrics.engine_does),
    };
    let batch_bytes = sources.iter().map(|source| source.batch.bytes).max().unwrap_or(0);
    let log_options = LogOptions {
        offset_min: recovered.log_offset,
        needed_from: recovered.needed_from,
        ..log_options(settings.log, batch_bytes)
    };
    let from = ReplayFrom {
        offset: recovered.log_offset,
        epoch: recovered.epoch,
        sources: source_names.clone(),
        positions,
        mono,
    };
    let replayed = match &data {
        Some(data) if has_log => {
            // The journal holds a group of its own; more need not wait in between.
            let (engine_feed, engine_feed_in) = mpsc::channel(1);
            engine_thread::spawn(engine, engine_lines(engine_feed_in))?;
            let (log, report) = Log::open(data.store(), "log", log_options)?;
            if report.torn_bytes > 0 {
                info!(bytes = report.torn_bytes, "an unfinished write at the end of the log was cut off");
            }
            if report.lost_at_end > 0 || report.damages.records > 0 {
                warn!(
                    lost = report.lost_at_end,
                    damaged = report.damages.records,
                    "the log has lost records"
                );
            }
            let (models, kept) = (slots.clone(), data.models());
            let recall = Box::new(move |node: &str, id: &str| Models::recall(&models, &kept, node, id));
            let replay = Replay::new(&log, from, recall);
            let (replayed, replayed_in) = oneshot::channel();
            let lines = JournalLines {
                feed: feed_in,
                removals: removals_in,
                engine: engine_feed,
                reports: reports.clone(),
                replayed,
                does: Arc::clone(&metrics.journal_does),
            };
            journal::spawn(log, Writer::new(source_names.clone()), replay, lines)?;
            wait_for_replay(replayed_in).await?
        }
        _ => {
            engine_thread::spawn(engine, engine_lines(feed_in))?;
            Replayed::nothing(from)
        }
    };

    for vitals in sources.iter().filter_map(|source| source.vitals.as_ref()) {
        let metrics = Arc::downgrade(&metrics);
        let ask = move || {
            metrics.upgrade().map_or_else(Vec::new, |metrics| PipelineHealth::of(&metrics, true).problems)
        };
        let _ = vitals.set(Box::new(ask));
    }
    let (arrivals, arrivals_in) = mpsc::channel(settings.queue);
    let (requests, requests_in) = mpsc::channel(REQUESTS_MAX);
    let companions = companions(&sources);
    let acknowledgements =
        start_sources(sources, &replayed.start.positions, &arrivals, &reports, &metrics, &mut tasks.sources);
    drop(arrivals);
    let models = Arc::new(Models::new(
        slots.clone(),
        requests.clone(),
        Arc::clone(&metrics),
        data.as_ref().map(DataDir::models),
    ));
    follow_models(&models, &slots, companions, &mut tasks.followers);

    let coordinator = Coordinator::new(
        Clock::from(replayed.mono),
        CoordinatorLines {
            arrivals: arrivals_in,
            reports: reports_in,
            requests: requests_in,
            feed,
            removals,
            deadline: deadline_in,
            sources: acknowledgements,
            sinks: orders,
        },
        Settings {
            sequencer: SequencerSettings {
                checkpoint: settings.checkpoint.0,
                log_bytes_max: log_options.bytes_max,
                keeps_state,
            },
            journal: has_log && data.is_some(),
        },
        data.as_ref().map(|data| data.checkpoints(source_names, sink_names.clone())),
        Arc::clone(&metrics),
        sink_names,
        replayed.start,
    );
    let ready = Arc::new(AtomicBool::new(true));
    let served = Served { metrics, models, ready: Arc::clone(&ready) };
    info!(pipeline = settings.name, log = has_log, data_dir = settings.data_dir, "pipeline started");
    let task = tokio::spawn(async move {
        // The directory's lock goes with the last handle.
        let _data = data;
        let outcome = coordinator.run().await;
        ready.store(false, Ordering::Relaxed);
        tasks.end(outcome.is_ok()).await;
        outcome
    });
    Ok(Running { served, requests, task, stop_timeout: settings.stop_timeout.0, keeps_state })
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

fn build_engine(graph: Graph, snapshot: Option<&Snapshot>) -> Result<Engine> {
    let (engine, restored) = Engine::new(graph, snapshot)?;
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
        for (node, outcome) in engine.graph().nodes.iter().zip(restored) {
            match outcome {
                Restored::Loaded => {}
                Restored::New => info!(node = node.name, "starts fresh: the checkpoint has no such node"),
                Restored::Changed => warn!(
                    node = node.name,
                    "starts fresh: its settings or inputs have changed since the checkpoint"
                ),
            }
        }
    }
    Ok(engine)
}

async fn wait_for_replay(replayed: oneshot::Receiver<Replayed>) -> Result<Replayed> {
    replayed.await.map_err(|_| Error::state("the log could not be replayed; the lines before say why"))
}

#[derive(Default)]
struct Tasks {
    sources: Vec<JoinHandle<()>>,
    sinks: Vec<JoinHandle<()>>,
    followers: Vec<JoinHandle<()>>,
}

impl Tasks {
    async fn end(self, in_order: bool) {
        self.followers.iter().for_each(JoinHandle::abort);
        let tasks = self.sources.into_iter().chain(self.sinks);
        for task in tasks {
            if !in_order {
                task.abort();
            }
            let abort = task.abort_handle();
            if tokio::time::timeout(CLOSING_MAX, task).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// Puts the spools before the sinks that have one.
fn with_spools(
    sinks: Vec<PlannedSink>,
    data: Option<&DataDir>,
    letters: Option<&Letters>,
    metrics: &PipelineMetrics,
) -> Vec<PlannedSink> {
    let sinks = sinks.into_iter().zip(&metrics.sinks).map(|(mut planned, counters)| {
        if let (Some(data), Some(settings), Some(peer)) = (data, planned.spool, planned.peer.take()) {
            let (letters, counters) = (letters.cloned(), Arc::clone(counters));
            let spooled = Spooled::new(&planned.name, data.store(), settings, peer, letters, counters);
            planned.sink = Box::new(spooled);
        }
        planned
    });
    sinks.collect()
}

type SinkChannels =
    (Vec<mpsc::Sender<super::wire::Delivery>>, Vec<mpsc::UnboundedSender<super::wire::SinkOrder>>);

fn start_sinks(
    sinks: Vec<PlannedSink>,
    committed: &BTreeMap<String, Position>,
    queue: usize,
    reports: &mpsc::UnboundedSender<super::wire::Report>,
    metrics: &Arc<PipelineMetrics>,
    tasks: &mut Vec<JoinHandle<()>>,
) -> Result<SinkChannels> {
    let mut channels = (Vec::new(), Vec::new());
    for (index, planned) in sinks.into_iter().enumerate() {
        let (deliveries, deliveries_in) = mpsc::channel(queue);
        let (orders, orders_in) = mpsc::unbounded_channel();
        channels.0.push(deliveries);
        channels.1.push(orders);
        let lines = SinkLines {
            sink: index,
            committed: committed.get(&planned.name).cloned(),
            name: planned.name,
            deliveries: deliveries_in,
            orders: orders_in,
            reports: reports.clone(),
            counters: Arc::clone(&metrics.sinks[index]),
        };
        tasks.push(sink_task::spawn(planned.sink, planned.network, lines)?);
    }
    Ok(channels)
}

fn start_sources(
    sources: Vec<PlannedSource>,
    positions: &[Option<Position>],
    arrivals: &mpsc::Sender<super::wire::Arrival>,
    reports: &mpsc::UnboundedSender<super::wire::Report>,
    metrics: &Arc<PipelineMetrics>,
    tasks: &mut Vec<JoinHandle<()>>,
) -> Vec<mpsc::UnboundedSender<Position>> {
    let mut channels = Vec::new();
    for (input, planned) in sources.into_iter().enumerate() {
        let (acknowledgements, acknowledgements_in) = mpsc::unbounded_channel();
        channels.push(acknowledgements);
        let lines = SourceLines {
            input,
            name: planned.name,
            from: positions[input].clone(),
            arrivals: arrivals.clone(),
            acknowledgements: acknowledgements_in,
            metrics: Arc::clone(metrics),
            reports: reports.clone(),
        };
        tasks.push(tokio::spawn(source_task::run(planned.source, lines)));
    }
    channels
}

fn companions(sources: &[PlannedSource]) -> Vec<crate::registry::Companion> {
    sources.iter().filter_map(|source| source.companion.clone()).collect()
}

fn follow_models(
    models: &Arc<Models>,
    slots: &BTreeMap<String, ModelSlot>,
    companions: Vec<crate::registry::Companion>,
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
