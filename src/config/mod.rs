//! The pipeline file: parsing with places, checking, and building the graph. Pure: text in, pipeline or
//! diagnostics out.
//!
//! The way of a file: [`tree`] (keys and values with their places) → [`overrides`] (`--set`) → [`declare`]
//! (tables, names, types and keys, against JSON Schemas in [`check`]) → [`wire`] (inputs, cycles, unused
//! ones) → [`build`] (each component over the columns it reads). Each step goes on behind what is wrong, so
//! that everything wrong is told at once. [`reference`](mod@reference) and [`draw`] show what there is.

mod build;
mod check;
pub mod columns;
mod declare;
pub mod diagnostic;
mod difference;
pub mod draw;
pub mod keys;
pub mod limits;
mod overrides;
pub mod reference;
mod shape;
mod spooling;
mod tree;
pub mod wear;
mod wire;

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;

use crate::core::{Fingerprint, Graph, Peer, Sink, Source};
use crate::registry::{BatchLimits, Columns, Companion, Delivery, Files, Keyed, LetterBox, Registry};

pub use columns::{Finder, Outline, Planned, Unsampled};
pub use diagnostic::{Diagnostic, Diagnostics, Origin, Place, Severity};
pub use keys::{BatchKeys, Broker, LogKeys, LogMode, Priority, Settings, SpoolFull, Spooling};
pub use limits::Bounds;
pub use reference::{explain, reference, schema, undocumented};
pub use wear::Wear;

use declare::{Component, Role};
use diagnostic::Report;

/// What comes from the command line, and how files are read.
pub struct Options<'o> {
    /// Site overrides, each `path=value`.
    pub set: Vec<String>,
    /// `--data-dir`; it has precedence over the file.
    pub data_dir: Option<String>,
    /// What messages have said about sources that do not say their columns themselves, by source.
    pub columns: BTreeMap<String, Columns>,
    /// Reads files that the configuration names.
    pub files: &'o dyn Files,
}

impl<'o> Options<'o> {
    /// Nothing overridden.
    pub fn new(files: &'o dyn Files) -> Self {
        Self { set: Vec::new(), data_dir: None, columns: BTreeMap::new(), files }
    }
}

/// A source with its place in the pipeline.
pub struct PlannedSource {
    /// The name in the file.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// Its type and configuration after overrides, without how its payloads are read: while it is the same, the
    /// source can run on.
    pub identity: Fingerprint,
    /// The running part.
    pub source: Box<dyn Source>,
    /// The columns of its batches, before decoding.
    pub schema: SchemaRef,
    /// Whether the other side waits for acknowledgements.
    pub acknowledges: bool,
    /// Whether it follows the wall clock.
    pub live: bool,
    /// When its batches are closed.
    pub batch: BatchLimits,
    /// Makes a second source on the same connection settings, for models that come by broker.
    pub companion: Option<Companion>,
    /// Whether it is connected right now, for sources that talk to a peer.
    pub connected: Option<std::sync::Arc<std::sync::atomic::AtomicBool>>,
    /// How a broker gives it messages, for sources that have one.
    pub delivery: Option<Delivery>,
    /// Where to say whom to ask for the pipeline's problems.
    pub vitals: Option<crate::registry::Vitals>,
    /// What `check` should tell the user about it.
    pub notes: Vec<String>,
}

/// A sink with its place in the pipeline.
pub struct PlannedSink {
    /// The name in the file.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// Its type, its configuration after overrides and the columns it is given: while it is the same, the sink can run
    /// on.
    pub identity: Fingerprint,
    /// What its rows mean: everything between the sources and the sink. Deliveries of two graphs have the same names only
    /// if this is the same, so that what another graph makes of a record is not taken for a repetition.
    pub lineage: Fingerprint,
    /// The running part.
    pub sink: Box<dyn Sink>,
    /// Whether it writes to a receiver that may be away.
    pub network: bool,
    /// The receiver alone, if it writes to one that may be away.
    pub peer: Option<Box<dyn Peer>>,
    /// The spool before it.
    pub spool: Option<Spooling>,
    /// Where the runtime puts the pipeline's dead letters, if it writes there.
    pub letters: Option<LetterBox>,
    /// What `check` should tell the user about it.
    pub notes: Vec<String>,
}

/// An operator that had another name when its state was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// Its name now.
    pub name: String,
    /// The name under which its state was saved.
    pub was: String,
}

/// A checked and built pipeline, ready to run.
pub struct Pipeline {
    /// `[pipeline]`; the data directory is the one that counts.
    pub settings: Settings,
    /// `[broker]`.
    pub broker: Option<Broker>,
    /// The graph.
    pub graph: Graph,
    /// The sources, in the order of the graph's inputs.
    pub sources: Vec<PlannedSource>,
    /// The sinks, in the order of the graph's sinks.
    pub sinks: Vec<PlannedSink>,
    /// Operators whose state is to be looked for under another name.
    pub renamed: Vec<Renamed>,
    /// What operators keep from row to row, with their names.
    pub keeping: Vec<(String, Keyed)>,
    /// The whole file after overrides: equal while it says the same.
    pub digest: Fingerprint,
    /// What may not be as meant.
    pub warnings: Diagnostics,
}

impl Pipeline {
    /// The pipeline's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Whether input is written to a log before it is acknowledged.
    pub fn has_log(&self) -> bool {
        has_log(&self.settings, self.sources.iter())
    }

    /// What it may need of memory and disk.
    pub fn bounds(&self) -> Bounds {
        Bounds::of(self)
    }
}

fn has_log<'s>(settings: &Settings, mut sources: impl Iterator<Item = &'s PlannedSource>) -> bool {
    match settings.log.mode {
        LogMode::On => true,
        LogMode::Off => false,
        LogMode::Auto => settings.data_dir.is_some() && sources.any(|source| source.acknowledges),
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sources: Vec<_> = self.sources.iter().map(|source| (&source.name, source.kind)).collect();
        let sinks: Vec<_> = self.sinks.iter().map(|sink| (&sink.name, sink.kind)).collect();
        f.debug_struct("Pipeline")
            .field("settings", &self.settings)
            .field("graph", &self.graph)
            .field("sources", &sources)
            .field("sinks", &sinks)
            .finish_non_exhaustive()
    }
}

/// Reads, checks and builds a pipeline; touches nothing. `file` is what the file is called in messages. That the
/// columns of a source are unknown is an error here; [`plan`] takes it as an answer.
///
/// # Errors
/// Everything that is wrong with it, not only the first thing.
pub fn load(
    text: &str,
    file: &str,
    registry: &Registry,
    options: &Options<'_>,
) -> Result<Pipeline, Diagnostics> {
    match plan(text, file, registry, options)? {
        Planned::Ready(pipeline) => Ok(*pipeline),
        Planned::Unsampled(outline) => Err(outline.refused()),
    }
}

/// The same, for callers that can look at messages where a source does not say its columns.
///
/// # Errors
/// Everything that is wrong with it, not only the first thing.
pub fn plan(
    text: &str,
    file: &str,
    registry: &Registry,
    options: &Options<'_>,
) -> Result<Planned, Diagnostics> {
    let mut report = Report::default();
    let parts = assemble(text, registry, options, &mut report);
    let failed = report.errors() > 0;
    if failed {
        // What may not be as meant is news only when nothing else is wrong.
        report.list.retain(|diagnostic| diagnostic.severity == Severity::Error);
    }
    let diagnostics = Diagnostics::new(file, text, &options.set, report);
    match parts {
        Some(Parts { settings, broker, built: Ok((graph, sources, sinks)), renamed, keeping, digest })
            if !failed =>
        {
            let warnings = diagnostics;
            let pipeline =
                Pipeline { settings, broker, graph, sources, sinks, renamed, keeping, digest, warnings };
            Ok(Planned::Ready(Box::new(pipeline)))
        }
        Some(Parts { settings, broker, built: Err(unsampled), .. }) if !failed => {
            let outline = Outline { settings, broker, unsampled, warnings: diagnostics };
            Ok(Planned::Unsampled(Box::new(outline)))
        }
        _ => Err(diagnostics),
    }
}

/// A pipeline without its warnings; or the sources without which it cannot be built.
struct Parts {
    settings: Settings,
    broker: Option<Broker>,
    built: Result<(Graph, Vec<PlannedSource>, Vec<PlannedSink>), Vec<Unsampled>>,
    renamed: Vec<Renamed>,
    keeping: Vec<(String, Keyed)>,
    digest: Fingerprint,
}

/// Goes the whole way. None only if something was reported.
fn assemble(text: &str, registry: &Registry, options: &Options<'_>, report: &mut Report) -> Option<Parts> {
    let mut tree = tree::parse(text, report)?;
    overrides::apply(&mut tree, &options.set, report);
    let mut declared = declare::declare(&tree, registry, report);
    let wires = wire::wire(&declared, registry, report);
    let renamed = renamed(&declared.components, report);
    if let Some(settings) = &mut declared.settings {
        settings.data_dir = options.data_dir.clone().or(settings.data_dir.take());
        check_data_dir(settings, &tree, report);
        check_dead_letters(settings, &tree, report);
    }
    if let (Some(_), Some(entry)) = (&declared.broker, tree.entry("broker")) {
        let message = "the broker keeps messages in memory only: what is not delivered when it stops is lost";
        report.warning(&entry.node.place, message, "");
    }
    let settings = declared.settings.as_ref();
    let planner = build::Planner {
        registry,
        pipeline: settings.map_or("", |settings| &settings.name),
        files: options.files,
        batch: settings.map(|settings| settings.batch).unwrap_or_default().over(BatchLimits::default()),
        columns: &options.columns,
        keeps_state: settings.is_some_and(|settings| settings.data_dir.is_some()),
    };
    let mut plan = planner.plan(&declared.components, &wires, report);
    if let (Some(settings), Some(entry)) = (settings, tree.entry("pipeline")) {
        let whole =
            limits::Whole { settings, node: &entry.node, components: &declared.components, plan: &plan };
        whole.check(report);
        check_letter_sinks(settings, &declared.components, &plan.sinks, report);
    }
    if report.errors() > 0 {
        return None;
    }
    let keepers = std::mem::take(&mut plan.keepers).into_iter();
    let keeping: Vec<(String, Keyed)> =
        keepers.map(|keeper| (declared.components[keeper.component].name.to_owned(), keeper.keyed)).collect();
    let unsampled = std::mem::take(&mut plan.unsampled);
    let built = if unsampled.is_empty() { plan.graph().map(Ok) } else { Ok(Err(unsampled)) };
    match built {
        Ok(built) => {
            let (settings, broker) = (declared.settings?, declared.broker);
            let digest = build::identity(["pipeline"], &tree.to_toml(), &[]);
            Some(Parts { settings, broker, built, renamed, keeping, digest })
        }
        Err(error) => {
            report.error(&Place::file(0..0), error.to_string(), "");
            None
        }
    }
}

fn check_data_dir(settings: &Settings, tree: &tree::Table, report: &mut Report) {
    let Some(entry) = tree.entry("pipeline").filter(|_| settings.data_dir.is_none()) else { return };
    if settings.log.mode == LogMode::On {
        let help = "give one with `data_dir = \"…\"` or `--data-dir`";
        report.error(&entry.node.find("log", None), "a log needs a data directory, and there is none", help);
    } else {
        let message = "nothing survives a restart: there is no data directory";
        report.warning(&entry.node.place, message, "give one with `data_dir = \"…\"` or `--data-dir`");
    }
}

fn check_dead_letters(settings: &Settings, tree: &tree::Table, report: &mut Report) {
    let wanted = settings.dead_letters.is_some_and(|room| room.0 > 0) && settings.data_dir.is_none();
    if let (true, Some(entry)) = (wanted, tree.entry("pipeline")) {
        let message = "dead letters need a data directory, and there is none";
        let help = "give one with `data_dir = \"…\"` or `--data-dir`";
        report.error(&entry.node.find("dead_letters", None), message, help);
    }
}

/// A sink that writes dead letters wants a place for them.
fn check_letter_sinks(
    settings: &Settings,
    components: &[Component<'_>],
    sinks: &[PlannedSink],
    report: &mut Report,
) {
    if settings.dead_letters_bytes() > 0 {
        return;
    }
    let (message, help) = match settings.data_dir {
        None => (
            "this sink writes dead letters, and without a data directory none are kept",
            "give one with `data_dir = \"…\"` or `--data-dir`",
        ),
        Some(_) => (
            "this sink writes dead letters, and `dead_letters = \"off\"` keeps none",
            "remove `dead_letters` under [pipeline], or say how much room they have",
        ),
    };
    for sink in sinks.iter().filter(|sink| sink.letters.is_some()) {
        let sinks = components.iter().filter(|component| component.role == Role::Sink);
        for component in sinks.filter(|component| component.name == sink.name) {
            report.error(&component.node.find("type", None), message, help);
        }
    }
}

fn renamed(components: &[Component<'_>], report: &mut Report) -> Vec<Renamed> {
    let mut renamed: Vec<Renamed> = Vec::new();
    for component in components.iter().filter(|component| component.role == Role::Operator) {
        let Some((node, was)) = component.was.and_then(|node| Some((node, node.text()?))) else { continue };
        if components.iter().any(|other| other.name == was) {
            let message = format!("`{was}` is still there, so its state is its own");
            report.error(&node.place, message, "`was` is for an operator that has a new name");
        } else if let Some(other) = renamed.iter().find(|other| other.was == was) {
            let message = format!("the state of `{was}` goes to `{}` already", other.name);
            report.error(&node.place, message, "only one operator can go on with it");
        } else {
            renamed.push(Renamed { name: component.name.to_owned(), was: was.to_owned() });
        }
    }
    renamed
}
