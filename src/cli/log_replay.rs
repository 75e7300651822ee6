//! `tidegate replay --log`: a pipeline over the records of a log, that is, over what the plant really sent.
//!
//! The engine gets the same records at the same times as in the run that wrote the log, so the same pipeline gives
//! the same rows, and its `file` sinks the same bytes. Sources are those of the file but never opened; sinks write to a
//! directory. There is no clock, no channel and no task: one record after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};

use super::files::{PipelineFile, ready};
use super::log::{Bound, bound, open, pipeline_dir};
use super::replay::{ReplayArgs, section};
use super::run::runtime;
use super::{Outcome, PipelineArgs};
use crate::config::{Pipeline, Planned, PlannedSink};
use crate::core::{DeliveryId, Effect, Engine, Epoch, Event, ModelSlot, Restored, Stamped};
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::runtime::durable::{FoundColumns, peek_columns};
use crate::runtime::models::Models;
use crate::store::journal::{Recall, ReplayFrom};
use crate::store::look::ReadOnly;
use crate::store::recovery::{self, Recovered};
use crate::store::{Disk, LogReader};

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At the oldest record, with no state.
    Start,
    /// At the newest checkpoint, with its state.
    Checkpoint,
    /// At a place in the log, with no state.
    At(Bound),
}

/// Reads where a replay begins.
///
/// # Errors
/// Says what there is.
pub fn begin(text: &str) -> std::result::Result<Begin, String> {
    match text {
        "start" => Ok(Begin::Start),
        "checkpoint" => Ok(Begin::Checkpoint),
        other => bound(other).map(Begin::At).map_err(|error| format!("{error}, `start` or `checkpoint`")),
    }
}

/// Runs a pipeline over a log.
///
/// # Errors
/// If the file is wrong, the log cannot be read, or a part fails.
pub fn replay(args: &ReplayArgs, dir: &Path, registry: &Registry) -> Outcome {
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| Error::config(format!("{}: {error}", args.file.display())))?;
    let mut set = args.set.clone();
    let mut candidates = Vec::new();
    for model in &args.models {
        let (node, file) = model.split_once('=').ok_or_else(|| {
            Error::config(format!("--model {model}: write NODE=FILE, e.g. anomaly=candidate.tgm"))
        })?;
        set.push(format!("operator.{node}.model.file={file}"));
        candidates.push(node.to_owned());
    }
    // The file itself is checked first, so that places in messages are those of the file.
    let given = PipelineArgs { data_dir: None, set: set.clone() };
    let file = PipelineFile::of(&text, &args.file.display().to_string(), &given, registry);
    let planned = file.plan(&FoundColumns::new())?;
    let name = planned.settings().name.clone();
    let dir = pipeline_dir(dir, Some(args.pipeline.as_deref().unwrap_or(&name)))?;
    let columns = match planned {
        Planned::Ready(_) => FoundColumns::new(),
        Planned::Unsampled(_) => kept_columns(&dir)?,
    };
    ready(file.plan(&columns)?)?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| Error::config(error.to_string()))?;
    let set =
        set.into_iter().filter(|set| !set.starts_with("sink.") && !set.starts_with("pipeline.")).collect();
    let text = rewire(table, &args.out).to_string();
    let name = format!("{} (replay)", args.file.display());
    let file = PipelineFile::of(&text, &name, &PipelineArgs { data_dir: None, set }, registry);
    let pipeline = ready(file.plan(&columns)?)?;
    std::fs::create_dir_all(&args.out)
        .map_err(|error| Error::io(format!("making {}", args.out.display()), &error))?;
    runtime()?.block_on(Run::new(pipeline, args, &dir, candidates)?.run())?;
    Ok(())
}

fn kept_columns(dir: &Path) -> Result<FoundColumns> {
    match (dir.parent(), dir.file_name().and_then(|name| name.to_str())) {
        (Some(root), Some(name)) => peek_columns(root, name),
        _ => Ok(FoundColumns::new()),
    }
}

/// The same pipeline with its sinks in a directory.
fn rewire(mut table: Table, out: &Path) -> Table {
    table.remove("broker");
    if let Some(Value::Table(pipeline)) = table.get_mut("pipeline") {
        pipeline.remove("data_dir");
        pipeline.remove("log");
    }
    for (name, sink) in section(&mut table, "sink").iter_mut() {
        let Value::Table(sink) = sink else { continue };
        let is_file = sink.get("type").and_then(Value::as_str) == Some("file");
        let path = sink.get("path").and_then(Value::as_str).map(PathBuf::from).filter(|_| is_file);
        if path.is_none() {
            sink.retain(|key, _| key == "inputs");
        }
        let ending = path.as_deref().and_then(Path::extension).and_then(|ending| ending.to_str());
        let path = out.join(format!("{name}.{}", ending.unwrap_or("ndjson")));
        sink.insert("type".to_owned(), Value::from("file"));
        sink.insert("path".to_owned(), Value::from(path.display().to_string()));
        sink.insert("existing".to_owned(), Value::from("replace"));
    }
    table
}

/// A replay under way.
struct Run {
    engine: Engine,
    sinks: Vec<PlannedSink>,
    rows: Vec<u64>,
    log: LogReader,
    replay: crate::store::journal::Replay,
    begin: Begin,
    to: Option<Bound>,
    epoch: Epoch,
    ended: bool,
    records: u64,
}

impl Run {
    fn new(pipeline: Pipeline, args: &ReplayArgs, dir: &Path, candidates: Vec<String>) -> Result<Self> {
        let log = open(dir)?;
        let mut recovered = Recovered::default();
        if args.from == Begin::Checkpoint {
            let mut store = ReadOnly::new(Box::new(Disk::look(dir)?));
            recovered = recovery::recover(&mut store)?;
            if recovered.snapshot.is_none() {
                return Err(Error::state(format!("there is no checkpoint in {}", dir.display())));
            }
            if recovered.log_offset < log.first_offset() {
                return Err(Error::state("the log does not reach back to the checkpoint"));
            }
        }
        if let Some(snapshot) = &mut recovered.snapshot {
            for node in &mut snapshot.nodes {
                if let Some(rename) = pipeline.renamed.iter().find(|rename| rename.was == node.name) {
                    node.name.clone_from(&rename.name);
                }
            }
        }
        let offset = match args.from {
            Begin::Start => log.first_offset(),
            Begin::Checkpoint => recovered.log_offset,
            Begin::At(Bound::Offset(offset)) => offset,
            Begin::At(Bound::Time(_)) => 0,
        };
        if offset > 0 && args.from == Begin::Start {
            eprintln!("the log begins at offset {offset}: what came before is not in it, nor in any state");
        }
        let Pipeline { graph, sinks, .. } = pipeline;
        let slots: BTreeMap<String, ModelSlot> =
            graph.nodes.iter().filter_map(|node| Some((node.name.clone(), node.models.clone()?))).collect();
        if let Some(node) = candidates.iter().find(|node| !slots.contains_key(*node)) {
            return Err(Error::config(format!("--model {node}=…: no operator of this name takes models")));
        }
        let from = ReplayFrom {
            offset,
            epoch: recovered.epoch,
            sources: graph.inputs.clone(),
            positions: vec![None; graph.inputs.len()],
            mono: recovered.snapshot.as_ref().map_or(Duration::ZERO, |snapshot| snapshot.now.mono),
        };
        let models = dir.join("models");
        let recall: Recall = Box::new(move |node: &str, id: &str| {
            if candidates.iter().any(|candidate| candidate == node) {
                return Err(Error::model("the one given with --model stays"));
            }
            Models::recall(&slots, &models, node, id)
        });
        let (engine, restored) = Engine::new(graph, recovered.snapshot.as_ref())?;
        for (node, outcome) in engine.graph().nodes.iter().zip(restored) {
            if recovered.snapshot.is_some() && outcome != Restored::Loaded {
                eprintln!("`{}` starts fresh: the checkpoint has no state of this meaning", node.name);
            }
        }
        let replay = log.replay(from, recall);
        let rows = vec![0; sinks.len()];
        Ok(Self {
            engine,
            sinks,
            rows,
            log,
            replay,
            begin: args.from,
            to: args.to,
            epoch: recovered.epoch,
            ended: false,
            records: 0,
        })
    }

    async fn run(mut self) -> Result<()> {
        for sink in &mut self.sinks {
            sink.sink.open(None).await.map_err(|error| error.at(&sink.name))?;
        }
        while let Some(stamped) = self.log.next_of(&mut self.replay)? {
            let (offset, wall_us) = (stamped.offset, stamped.now.wall.micros());
            if self.to.is_some_and(|to| to.is_reached(offset, wall_us)) {
                break;
            }
            if let Begin::At(from) = self.begin
                && !from.is_reached(offset, wall_us)
            {
                continue;
            }
            self.records += 1;
            self.handle(stamped).await?;
        }
        let last = Epoch(self.epoch.0 + 1);
        for sink in &mut self.sinks {
            if !self.ended {
                sink.sink.end().await?;
            }
            sink.sink.flush(last).await?;
            sink.sink.committed(last).await.map_err(|error| error.at(&sink.name))?;
        }
        self.report();
        Ok(())
    }

    /// One record and all its effects.
    async fn handle(&mut self, stamped: Stamped) -> Result<()> {
        let offset = stamped.offset;
        self.engine.handle(stamped.now, stamped.record)?;
        let mut emitted = vec![0u32; self.sinks.len()];
        while let Some(effect) = self.engine.poll() {
            match effect {
                Effect::Emit { sink, event } => {
                    let (Some(planned), Some(nth)) = (self.sinks.get_mut(sink), emitted.get_mut(sink)) else {
                        continue;
                    };
                    let target = &mut planned.sink;
                    let outcome = match event {
                        Event::Batch(batch) => {
                            if let Some(rows) = self.rows.get_mut(sink) {
                                *rows += batch.num_rows() as u64;
                            }
                            let id = DeliveryId { origin: Arc::from("replay"), offset, nth: *nth };
                            *nth += 1;
                            target.write(id, batch).await
                        }
                        Event::Barrier(barrier) => {
                            self.epoch = self.epoch.max(barrier.epoch);
                            // One after the other: what is flushed here is committed at once.
                            match target.flush(barrier.epoch).await {
                                Ok(_) => target.committed(barrier.epoch).await,
                                Err(error) => Err(error),
                            }
                        }
                        Event::End => {
                            self.ended = true;
                            target.end().await
                        }
                    };
                    outcome.map_err(|error| error.at(&planned.name))?;
                }
                Effect::Snapshot(_) => {}
                Effect::Rejected { epoch, node, error } => {
                    eprintln!("`{node}` refuses the change at epoch {epoch}: {error}");
                }
            }
        }
        Ok(())
    }

    fn report(self) {
        let replayed = self.log.finish(self.replay);
        eprintln!("{} records of the log", self.records);
        if replayed.damages.records > 0 {
            let damages = &replayed.damages;
            eprintln!(
                "{} records in {} stretches are damaged and left out",
                damages.records, damages.stretches
            );
        }
        for (source, records) in &replayed.without_place {
            eprintln!(
                "{records} records of a source `{source}`, which this pipeline does not have, are left out"
            );
        }
        for model in &replayed.forgotten {
            eprintln!("a model that came is not taken: {model}");
        }
        for (sink, rows) in self.sinks.iter().zip(&self.rows) {
            eprintln!("{rows} rows out: {}", sink.name);
        }
    }
}
