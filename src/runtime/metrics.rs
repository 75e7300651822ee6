//! What a running pipeline counts, and its Prometheus text form.
//!
//! The names follow one pattern: `tidegate_<source|operator|sink>_<what>_total`; every count an operator makes
//! is `tidegate_<what>_total` with the labels pipeline, node and, where it has one, reason.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

use super::activity::Activity;
use super::control::Control;
use super::engine_thread::EngineStats;
use super::sink_task::SinkCounters;
use super::spool::Letters;
use crate::clock::wall;
use crate::core::{Count, Epoch, Epochs, ModelId};
use crate::error::Error;

/// What one source has given.
#[derive(Debug, Default)]
pub struct SourceCounters {
    rows: AtomicU64,
    batches: AtomicU64,
    bytes: AtomicU64,
    others: Mutex<BTreeMap<Count, u64>>,
    /// Since when there were no rows.
    quiet: Activity,
}

impl SourceCounters {
    /// It has given a batch.
    pub(super) fn rows(&self, batch: &RecordBatch) {
        self.quiet.begin(0);
        self.rows.fetch_add(batch.num_rows() as u64, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        let payload = batch.column_by_name("payload").map_or_else(
            || batch.get_array_memory_size(),
            |column| {
                let column = column.as_any().downcast_ref::<arrow::array::BinaryArray>();
                column.map_or(0, |column| {
                    let offsets = column.value_offsets();
                    (offsets[offsets.len() - 1] - offsets[0]) as usize
                })
            },
        );
        self.bytes.fetch_add(payload as u64, Relaxed);
    }

    /// It has counted something itself.
    pub(super) fn add(&self, counts: Vec<(Count, u64)>) {
        if let (false, Ok(mut others)) = (counts.is_empty(), self.others.lock()) {
            counts.into_iter().for_each(|(count, by)| *others.entry(count).or_default() += by);
        }
    }
}

/// The counts of one pipeline.
#[derive(Debug)]
pub struct PipelineMetrics {
    pipeline: String,
    source_names: Vec<String>,
    /// What each source has given.
    pub sources: Vec<Arc<SourceCounters>>,
    connected: Vec<Option<Arc<AtomicBool>>>,
    sink_names: Vec<String>,
    /// What each sink has taken.
    pub sinks: Vec<Arc<SinkCounters>>,
    /// What the engine has done.
    pub engine: Arc<Mutex<EngineStats>>,
    log_bytes: AtomicU64,
    /// Bytes appended to the log, and syncs of it, since the pipeline's start.
    log_written: AtomicU64,
    log_syncs: AtomicU64,
    epoch: AtomicU64,
    owed: Mutex<Vec<Owed>>,
    /// Since when checkpoints cannot be written, and why.
    unsaved: Mutex<Option<(Instant, String)>>,
    /// Since the pipeline's start.
    started: Instant,
    checkpoint: Duration,
    has_log: bool,
    /// What the engine's thread does: [`EngineDoes`](super::activity::EngineDoes).
    pub engine_does: Arc<Activity>,
    /// What the journal's thread does, where there is one: [`JournalDoes`](super::activity::JournalDoes).
    pub journal_does: Arc<Activity>,
    /// What keeps rows from being taken: [`Held`](super::activity::Held).
    pub held: Activity,
    /// The pipeline's dead letters, if it keeps any.
    pub letters: OnceLock<Letters>,
    /// What became of models: applied or refused, by node and by the way they came.
    submitted: Mutex<BTreeMap<(&'static str, String, &'static str), u64>>,
    /// What was done to it while it ran.
    pub control: Arc<Control>,
}

/// An epoch under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Its number.
    pub epoch: u64,
    /// On whom it waits: `engine` or the names of sinks.
    pub whom: Vec<String>,
    /// When it was first seen under way.
    pub since: Instant,
}

/// A consistent-enough copy of the counts, for a display.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Rows from all sources.
    pub source_rows: u64,
    /// Bytes of payload from all sources.
    pub source_bytes: u64,
    /// Rows to each sink by name.
    pub sink_rows: Vec<(String, u64)>,
}

impl PipelineMetrics {
    /// All zero.
    pub fn new(pipeline: &str, source_names: Vec<String>, sink_names: Vec<String>) -> Self {
        Self {
            started: Instant::now(),
            checkpoint: Duration::from_secs(30),
            has_log: false,
            engine_does: Arc::default(),
            journal_does: Arc::default(),
            held: Activity::default(),
            pipeline: pipeline.to_owned(),
            sources: source_names.iter().map(|_| Arc::default()).collect(),
            source_names,
            connected: Vec::new(),
            sinks: sink_names.iter().map(|_| Arc::new(SinkCounters::default())).collect(),
            sink_names,
            engine: Arc::default(),
            log_bytes: AtomicU64::new(0),
            log_written: AtomicU64::new(0),
            log_syncs: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            owed: Mutex::default(),
            unsaved: Mutex::default(),
            letters: OnceLock::new(),
            submitted: Mutex::default(),
            control: Arc::default(),
        }
    }

    /// Goes on counting where the counts of the graph before stood, for whatever bears the same name.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for (name, counters) in self.source_names.iter().zip(&mut self.sources) {
            if let Some(known) = before.source_names.iter().position(|known| known == name) {
                *counters = Arc::clone(&before.sources[known]);
            }
        }
        for (name, counters) in self.sink_names.iter().zip(&mut self.sinks) {
            if let Some(known) = before.sink_names.iter().position(|known| known == name) {
                *counters = Arc::clone(&before.sinks[known]);
            }
        }
        self.started = before.started;
        let (written, syncs) = before.log_writes();
        self.log_bytes = AtomicU64::new(before.log_bytes.load(Relaxed));
        (self.log_written, self.log_syncs) = (AtomicU64::new(written), AtomicU64::new(syncs));
        self.epoch = AtomicU64::new(before.committed());
        if let Ok(submitted) = before.submitted.lock() {
            self.submitted = Mutex::new(submitted.clone());
        }
        self.control = Arc::clone(&before.control);
        self
    }

    /// Takes over how the sources say whether they are connected, in order.
    #[must_use]
    pub fn with_connected(mut self, connected: Vec<Option<Arc<AtomicBool>>>) -> Self {
        self.connected = connected;
        self
    }

    /// Takes over how often epochs are meant to be committed.
    #[must_use]
    pub fn with_checkpoint(mut self, checkpoint: Duration) -> Self {
        self.checkpoint = checkpoint;
        self
    }

    /// Takes over whether there is an input log.
    #[must_use]
    pub fn with_log(mut self, has_log: bool) -> Self {
        self.has_log = has_log;
        self
    }

    /// Whether there is an input log.
    pub fn has_log(&self) -> bool {
        self.has_log
    }

    /// How often epochs are meant to be committed.
    pub fn checkpoint(&self) -> Duration {
        self.checkpoint
    }

    /// How long it has run.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The pipeline's name.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// The names of the sources, in the order of the graph.
    pub fn source_names(&self) -> &[String] {
        &self.source_names
    }

    /// The name of a source.
    pub fn source_name(&self, input: usize) -> &str {
        &self.source_names[input]
    }

    pub(super) fn log_synced(&self, grown_bytes: u64, bytes: u64) {
        self.log_bytes.store(bytes, Relaxed);
        self.log_written.fetch_add(grown_bytes, Relaxed);
        self.log_syncs.fetch_add(1, Relaxed);
    }

    pub(super) fn set_committed(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Relaxed);
    }

    pub(super) fn set_owed(&self, epochs: &Epochs) {
        if let Ok(mut owed) = self.owed.lock() {
            let now = Instant::now();
            let known = std::mem::take(&mut *owed);
            owed.extend(epochs.owed().map(|(epoch, whom)| Owed {
                epoch: epoch.0,
                whom: whom.into_iter().map(str::to_owned).collect(),
                since: known.iter().find(|known| known.epoch == epoch.0).map_or(now, |known| known.since),
            }));
        }
    }

    /// A checkpoint could not be written; true if the one before it could.
    pub(super) fn save_failed(&self, error: &Error) -> bool {
        let Ok(mut unsaved) = self.unsaved.lock() else { return false };
        let since = unsaved.as_ref().map(|(since, _)| *since);
        *unsaved = Some((since.unwrap_or_else(Instant::now), error.to_string()));
        since.is_none()
    }

    /// A checkpoint was written; how long none could be, if that was so.
    pub(super) fn saves_again(&self) -> Option<Duration> {
        self.unsaved.lock().ok()?.take().map(|(since, _)| since.elapsed())
    }

    /// For how long checkpoints cannot be written, and why; nothing if they can.
    pub fn unsaved(&self) -> Option<(Duration, String)> {
        let unsaved = self.unsaved.lock().ok()?;
        unsaved.as_ref().map(|(since, why)| (since.elapsed(), why.clone()))
    }

    pub(super) fn model_applied(&self, node: &str, origin: &'static str) {
        self.count_model("applied", node, origin);
    }

    pub(super) fn model_refused(&self, node: &str, origin: &'static str) {
        self.count_model("refused", node, origin);
    }

    fn count_model(&self, outcome: &'static str, node: &str, origin: &'static str) {
        if let Ok(mut submitted) = self.submitted.lock() {
            *submitted.entry((outcome, node.to_owned(), origin)).or_default() += 1;
        }
    }

    /// Which model each node runs, by node.
    pub fn models(&self) -> BTreeMap<String, ModelId> {
        let stats = self.engine_stats();
        let named = stats.nodes.iter().zip(&stats.models);
        named.filter_map(|((name, _), model)| Some((name.clone(), (*model)?))).collect()
    }

    /// Whether every source that talks to a peer is connected.
    pub fn is_connected(&self) -> bool {
        self.connected.iter().flatten().all(|connected| connected.load(Relaxed))
    }

    /// The epoch committed last; 0 if none.
    pub fn committed(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// On whom each epoch under way waits.
    pub fn owed(&self) -> Vec<Owed> {
        self.owed.lock().map(|owed| owed.clone()).unwrap_or_default()
    }

    /// Each source: its name, whether it is connected if it talks to a peer, its rows, and how long ago the last came.
    pub fn source_states(&self) -> impl Iterator<Item = (&str, Option<bool>, u64, Duration)> {
        self.source_names.iter().zip(&self.sources).enumerate().map(|(index, (name, source))| {
            let connected = self.connected.get(index).and_then(Option::as_ref);
            let connected = connected.map(|connected| connected.load(Relaxed));
            (name.as_str(), connected, source.rows.load(Relaxed), source.quiet.get().1)
        })
    }

    /// The names of the sinks, in graph order.
    pub fn sink_names(&self) -> &[String] {
        &self.sink_names
    }

    /// Bytes of the input log.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Relaxed)
    }

    /// Bytes appended to the input log, and how often it was synced, since the pipeline's start.
    pub fn log_writes(&self) -> (u64, u64) {
        (self.log_written.load(Relaxed), self.log_syncs.load(Relaxed))
    }

    /// The counts as a display needs them.
    pub fn totals(&self) -> Totals {
        Totals {
            source_rows: self.sources.iter().map(|source| source.rows.load(Relaxed)).sum(),
            source_bytes: self.sources.iter().map(|source| source.bytes.load(Relaxed)).sum(),
            sink_rows: (self.sink_names.iter().zip(&self.sinks))
                .map(|(name, sink)| (name.clone(), sink.rows.load(Relaxed)))
                .collect(),
        }
    }

    #[cfg(test)]
    pub(super) fn age_owed(&self, by: Duration) {
        if let Ok(mut owed) = self.owed.lock() {
            owed.iter_mut().for_each(|epoch| epoch.since -= by);
        }
    }

    /// What the engine has done, as last published.
    pub fn engine_stats(&self) -> EngineStats {
        self.engine.lock().map(|stats| stats.clone()).unwrap_or_default()
    }
}

/// The Prometheus text exposition (format 0.0.4) of several pipelines.
pub fn exposition(pipelines: &[Arc<PipelineMetrics>]) -> String {
    let mut families: BTreeMap<String, (&'static str, Vec<String>)> = BTreeMap::new();
    for metrics in pipelines {
        collect(metrics, &mut families);
    }
    let mut text = String::new();
    for (name, (kind, lines)) in families {
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for line in lines {
            let _ = writeln!(text, "{name}{line}");
        }
    }
    text
}

/// Takes one value: family, type, labels beside the pipeline's, value.
pub(crate) type Add<'a> = dyn FnMut(String, &'static str, &[(&str, &str)], f64) + 'a;

type Families = BTreeMap<String, (&'static str, Vec<String>)>;

fn collect(metrics: &PipelineMetrics, families: &mut Families) {
    let mut add = |name: String, kind: &'static str, labels: &[(&str, &str)], value: f64| {
        let mut line = format!("{{pipeline=\"{}\"", escape(&metrics.pipeline));
        for (label, text) in labels {
            let _ = write!(line, ",{label}=\"{}\"", escape(text));
        }
        let _ = write!(line, "}} {value}");
        families.entry(name).or_insert((kind, Vec::new())).1.push(line);
    };
    for (index, (name, source)) in metrics.source_names.iter().zip(&metrics.sources).enumerate() {
        for (what, count) in [("rows", &source.rows), ("batches", &source.batches), ("bytes", &source.bytes)]
        {
            let family = format!("tidegate_source_{what}_total");
            add(family, "counter", &[("node", name)], count.load(Relaxed) as f64);
        }
        if let Some(connected) = metrics.connected.get(index).and_then(Option::as_ref) {
            let connected = if connected.load(Relaxed) { 1.0 } else { 0.0 };
            add("tidegate_source_connected".to_owned(), "gauge", &[("node", name)], connected);
        }
        let others = source.others.lock().map(|others| others.clone()).unwrap_or_default();
        for (count, by) in others {
            add_count(&mut add, name, count, by);
        }
    }
    for (name, sink) in metrics.sink_names.iter().zip(&metrics.sinks) {
        for (what, count) in [("rows", &sink.rows), ("batches", &sink.batches)] {
            add(
                format!("tidegate_sink_{what}_total"),
                "counter",
                &[("node", name)],
                count.load(Relaxed) as f64,
            );
        }
        let others = sink.others.lock().map(|others| others.clone()).unwrap_or_default();
        for (count, by) in others {
            add_count(&mut add, name, count, by);
        }
        if let Some(status) = sink.spool.lock().ok().and_then(|status| status.clone()) {
            status.collect(name, wall(), &mut add);
        }
    }
    if let Some(letters) = metrics.letters.get() {
        let (bytes, dropped) = letters.bytes_and_dropped();
        add("tidegate_dead_letters_bytes".to_owned(), "gauge", &[], bytes as f64);
        add("tidegate_dead_letters_dropped_total".to_owned(), "counter", &[], dropped as f64);
    }
    let engine = metrics.engine_stats();
    let wall = wall().micros();
    for ((name, node), watermark) in engine.nodes.iter().zip(&engine.watermarks) {
        for (what, count) in
            [("rows_in", node.rows_in), ("rows_out", node.rows_out), ("batches", node.batches_in)]
        {
            add(format!("tidegate_operator_{what}_total"), "counter", &[("node", name)], count as f64);
        }
        for (count, by) in &node.counts {
            add_count(&mut add, name, *count, *by);
        }
        if *watermark != i64::MIN && *watermark != i64::MAX {
            let lag = wall.saturating_sub(*watermark) as f64 / 1e6;
            add("tidegate_watermark_lag_seconds".to_owned(), "gauge", &[("node", name)], lag);
        }
    }
    for (node, model) in metrics.models() {
        add("tidegate_model_info".to_owned(), "gauge", &[("node", &node), ("model", &model.short())], 1.0);
    }
    let submitted = metrics.submitted.lock().map(|submitted| submitted.clone()).unwrap_or_default();
    for ((outcome, node, origin), count) in submitted {
        let labels = [("node", node.as_str()), ("origin", origin)];
        add(format!("tidegate_models_{outcome}_total"), "counter", &labels, count as f64);
    }
    for (outcome, count) in metrics.control.reloads() {
        let labels = [("outcome", outcome.word())];
        add("tidegate_reloads_total".to_owned(), "counter", &labels, count as f64);
    }
    let restarts = metrics.control.restarts();
    add("tidegate_engine_restarts_total".to_owned(), "counter", &[], restarts as f64);
    let skipped = metrics.control.records_skipped();
    add("tidegate_records_skipped_total".to_owned(), "counter", &[], skipped as f64);
    let call_max = Duration::as_secs_f64(&engine.call_max);
    add("tidegate_engine_call_seconds_max".to_owned(), "gauge", &[], call_max);
    add("tidegate_log_bytes".to_owned(), "gauge", &[], metrics.log_bytes.load(Relaxed) as f64);
    let (written, syncs) = metrics.log_writes();
    add("tidegate_log_written_bytes_total".to_owned(), "counter", &[], written as f64);
    add("tidegate_log_syncs_total".to_owned(), "counter", &[], syncs as f64);
    add("tidegate_epoch".to_owned(), "gauge", &[], metrics.committed() as f64);
    let mut owed: BTreeMap<String, u64> = BTreeMap::new();
    for epoch in metrics.owed() {
        epoch.whom.into_iter().for_each(|name| *owed.entry(name).or_default() += 1);
    }
    for name in metrics.sink_names.iter().map(String::as_str).chain(["engine"]) {
        let count = owed.get(name).copied().unwrap_or(0);
        add("tidegate_epochs_owed".to_owned(), "gauge", &[("node", name)], count as f64);
    }
}

fn add_count(
    add: &mut impl FnMut(String, &'static str, &[(&str, &str)], f64),
    name: &str,
    count: Count,
    by: u64,
) {
    let labels: &[(&str, &str)] = match count.reason {
        "" => &[("node", name)],
        reason => &[("node", name), ("reason", reason)],
    };
    add(format!("tidegate_{}_total", count.what), "counter", labels, by as f64);
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Count;
    use crate::core::engine::NodeStats;

    #[test]
    fn every_family_is_declared_once_and_labels_are_escaped() {
        let first = PipelineMetrics::new("a\"b", vec!["plant".into()], vec!["out".into()]);
        let counts = BTreeMap::from([(Count { what: "bad_payloads", reason: "malformed" }, 3)]);
        *first.engine.lock().unwrap() = EngineStats {
            nodes: vec![("plant".into(), NodeStats { rows_in: 7, counts, ..NodeStats::default() })],
            watermarks: vec![i64::MIN],
            ..EngineStats::default()
        };
        let second = PipelineMetrics::new("second", vec!["plant".into()], vec![]);
        let text = exposition(&[Arc::new(first), Arc::new(second)]);
        let families: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let mut unique = families.clone();
        unique.dedup();
        assert_eq!(families, unique);
        assert!(
            text.contains("tidegate_operator_rows_in_total{pipeline=\"a\\\"b\",node=\"plant\"} 7\n"),
            "{text}"
        );
        assert!(text.contains(
            "tidegate_bad_payloads_total{pipeline=\"a\\\"b\",node=\"plant\",reason=\"malformed\"} 3\n"
        ));
    }
}
