//! What a component is: a type name, a documented config struct, and a `build` without side effects. Pure.
//!
//! The one visible list of components is in `builtin.rs`. The reference, the JSON Schema and the checks of the
//! pipeline file are all made from what is registered here.

mod columns;
mod limits;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::datatypes::SchemaRef;
use schemars::{JsonSchema, Schema, schema_for};
use serde::de::DeserializeOwned;

use crate::core::{BadMessages, Edge, Fingerprint, ModelSlot, Node, Operator, Peer, Port, Sink, Source};
use crate::error::Result;

pub use columns::{Columns, Sampler, SplitMessages};
pub use limits::{Delivery, Kept, Keyed};

/// Something wrong with one component's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which key of the component's table, e.g. `columns.vib[1]`; empty for the table itself.
    pub path: String,
    /// Where inside the text of that value, in bytes, for values with a language of their own (expressions).
    pub span: Option<Range<usize>>,
    /// What is wrong and why.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// That nothing is wrong, but the columns are unknown until messages are seen, and how they are found then.
    /// Only the decoder of a source may say so.
    pub sampler: Option<Sampler>,
}

impl Problem {
    /// A problem at a key.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), span: None, message: message.into(), help: None, sampler: None }
    }

    /// The same with a way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, narrowed to a part of the value's text.
    #[must_use]
    pub fn within(mut self, span: Option<Range<usize>>) -> Self {
        self.span = span;
        self
    }

    /// That a column does not exist, with the nearest name if one is near.
    pub fn no_column(path: impl Into<String>, wanted: &str, schema: &arrow::datatypes::Schema) -> Self {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let problem = Self::new(path, format!("column \"{wanted}\" does not exist"));
        match nearest(wanted, names.iter().copied()) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => problem.help(format!("the columns here are: {}", names.join(", "))),
        }
    }
}

/// The candidate that a misspelt word most likely meant, if any is near enough.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// All that is wrong, or the thing built.
pub type Checked<T> = std::result::Result<T, Vec<Problem>>;

/// Reads files that a configuration names (models, certificates for a check). Injected: pure code opens nothing.
pub trait Files {
    /// The contents of a file, its path relative to the pipeline file.
    ///
    /// # Errors
    /// If it cannot be read, with the reason.
    fn read(&self, path: &str) -> Result<Vec<u8>>;
}

/// No files at all, for tests and examples.
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>> {
        Err(crate::Error::config(format!("{path}: no such file")))
    }
}

/// What an operator or a sink is built over.
#[derive(Clone)]
pub struct InputSchema {
    /// What it is called in the file: `plant`, `features.late`.
    pub name: String,
    /// Its columns.
    pub schema: SchemaRef,
}

/// What a component may look at while it is built.
pub struct Context<'a> {
    /// The component's own name.
    pub name: &'a str,
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// Its inputs; none for a source.
    pub inputs: &'a [InputSchema],
    /// Files that the configuration names.
    pub files: &'a dyn Files,
    /// How large the batches of a source may grow.
    pub batch: BatchLimits,
}

/// Bounds of a batch of raw messages: it is handed on when the first of them is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most messages.
    pub rows: usize,
    /// Most bytes of payload.
    pub bytes: usize,
    /// Longest wait for the batch to fill, from its first message on.
    pub age: std::time::Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { rows: 8192, bytes: 1 << 20, age: std::time::Duration::from_millis(20) }
    }
}

impl Context<'_> {
    /// The schema of the first input, for components that have one.
    pub fn schema(&self) -> &SchemaRef {
        &self.inputs[0].schema
    }
}

/// An operator, built.
pub struct Built {
    /// The running part.
    pub operator: Box<dyn Operator>,
    /// Its ways out; the first is the main one, with an empty name.
    pub ports: Vec<Port>,
    /// The state-relevant part of the configuration in a stable form; the engine adds type, input schemas and
    /// the meaning of the inputs.
    pub meaning: String,
    /// Whether it makes its own watermark.
    pub own_watermark: bool,
    /// How models reach it.
    pub models: Option<ModelSlot>,
    /// What it keeps from row to row, if that depends on the rows of a key or of all.
    pub keyed: Option<Keyed>,
    /// What is wrong unless there is a saved state to go on from: an error without a data directory, else a warning.
    pub unless_saved: Vec<Problem>,
}

impl Built {
    /// A node of a graph that runs it.
    pub fn node(
        self,
        name: impl Into<String>,
        kind: &'static str,
        inputs: Vec<Edge>,
        fingerprint: Fingerprint,
    ) -> Node {
        Node {
            name: name.into(),
            kind,
            operator: self.operator,
            inputs,
            ports: self.ports,
            fingerprint,
            own_watermark: self.own_watermark,
            models: self.models,
        }
    }

    /// An operator with one way out.
    pub fn new(operator: impl Operator + 'static, schema: SchemaRef, meaning: impl Into<String>) -> Self {
        Self {
            operator: Box::new(operator),
            ports: vec![Port { name: "", schema }],
            meaning: meaning.into(),
            own_watermark: false,
            models: None,
            keyed: None,
            unless_saved: Vec::new(),
        }
    }

    /// The same, with what it keeps.
    #[must_use]
    pub fn keeps(mut self, by: &[String], kept: Vec<Kept>) -> Self {
        self.keyed = Some(Keyed { by: by.to_vec(), kept });
        self
    }

    /// The same with one more way out.
    #[must_use]
    pub fn port(mut self, name: &'static str, schema: SchemaRef) -> Self {
        self.ports.push(Port { name, schema });
        self
    }
}

/// How many inputs an operator takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// Exactly one.
    One,
    /// One or more, all with the same columns.
    Many,
}

/// The configuration of an operator type. Its doc comment and its fields' doc comments are the reference.
pub trait OperatorConfig: DeserializeOwned + JsonSchema + 'static {
    /// The name in `type = "…"`.
    const TYPE: &'static str;
    /// How many inputs it takes.
    const INPUTS: Inputs = Inputs::One;
    /// Bodies of `[operator.x]` without `type` and `inputs`, each valid over the columns of
    /// [`example_schema`]. They stand in the reference, and the laws of operators are tested on them.
    const EXAMPLES: &'static [&'static str];

    /// Checks and builds; touches nothing.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first thing.
    fn build(self, context: &Context<'_>) -> Checked<Built>;
}

/// What a source gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceOutput {
    /// Raw messages in the schema [`crate::core::schema::raw`]; `format` and `fields` say what is in them.
    Raw,
    /// Columns, with `time` first.
    Columns(SchemaRef),
}

/// A source, built.
pub struct BuiltSource {
    /// The running part.
    pub source: Box<dyn Source>,
    /// What it gives.
    pub output: SourceOutput,
    /// Topic patterns whose `{names}` become tag columns, in order; empty for sources without topics.
    pub topics: Vec<String>,
    /// Whether the other side waits for acknowledgements, so that a log makes sense.
    pub acknowledges: bool,
    /// Whether it follows the wall clock: `idle` and `ahead` apply.
    pub live: bool,
    /// Makes a second source on the same connection settings for one topic, for models that come by broker.
    pub companion: Option<Companion>,
    /// Whether it is connected (and subscribed) right now, for sources that talk to a peer.
    pub connected: Option<Arc<AtomicBool>>,
    /// How a broker gives it messages, for sources that have one.
    pub delivery: Option<Delivery>,
    /// Where the runtime says whom to ask for the pipeline's problems, for sources that tell of them.
    pub vitals: Option<Vitals>,
    /// What `check` should tell the user about this source.
    pub notes: Vec<String>,
}

/// Gives what is wrong with a running pipeline, in words.
pub type Ask = dyn Fn() -> Vec<String> + Send + Sync;

/// Whom a source asks for the pipeline's problems; filled in before it is opened.
pub type Vitals = Arc<std::sync::OnceLock<Box<Ask>>>;

/// The pipeline's dead letters, for a sink that writes there; filled in before it is opened.
pub type LetterBox = Arc<std::sync::OnceLock<Box<dyn BadMessages>>>;

/// Makes a source of raw messages for one topic.
pub type Companion = Arc<dyn Fn(&str) -> Box<dyn Source> + Send + Sync>;

/// The configuration of a source type.
pub trait SourceConfig: DeserializeOwned + JsonSchema + 'static {
    /// The name in `type = "…"`.
    const TYPE: &'static str;
    /// Bodies of `[source.x]` without `type`.
    const EXAMPLES: &'static [&'static str];
    /// A key with which the source gives the graph no rows, so that nothing need read from it.
    const ALONE_WITH: Option<&'static str> = None;

    /// Checks and builds; touches nothing (only `open` does).
    ///
    /// # Errors
    /// Everything that is wrong.
    fn build(self, context: &Context<'_>) -> Checked<BuiltSource>;
}

/// A sink, built.
pub struct BuiltSink {
    /// The running part.
    pub sink: Box<dyn Sink>,
    /// The receiver alone, if the sink writes to one that may be away: a spool can stand before it.
    pub peer: Option<Box<dyn Peer>>,
    /// Where the runtime puts the pipeline's dead letters, for a sink that writes there.
    pub letters: Option<LetterBox>,
    /// What `check` should tell the user about this sink.
    pub notes: Vec<String>,
}

/// The configuration of a sink type.
pub trait SinkConfig: DeserializeOwned + JsonSchema + 'static {
    /// The name in `type = "…"`.
    const TYPE: &'static str;
    /// Bodies of `[sink.x]` without `type` and `inputs`, valid over the columns of [`example_schema`].
    const EXAMPLES: &'static [&'static str];

    /// Checks and builds; touches nothing (only `open` does).
    ///
    /// # Errors
    /// Everything that is wrong.
    fn build(self, context: &Context<'_>) -> Checked<BuiltSink>;
}

/// One registered type; `B` is what it builds.
pub struct ComponentType<B> {
    /// The name in `type = "…"`.
    pub name: &'static str,
    /// How many inputs it takes; none for sources.
    pub inputs: Option<Inputs>,
    /// For sources: a key with which it gives no rows, so that nothing need read from it.
    pub alone_with: Option<&'static str>,
    /// Example bodies.
    pub examples: &'static [&'static str],
    /// The JSON Schema of its config struct, doc comments included.
    pub schema: fn() -> Schema,
    /// Builds it from its table (without the keys common to its kind).
    pub build: fn(toml::Table, &Context<'_>) -> Checked<B>,
}

// By hand: a derived one would want `B` to be `Clone`, of which nothing is in it.
impl<B> Clone for ComponentType<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for ComponentType<B> {}

/// All types of components.
#[derive(Default, Clone)]
pub struct Registry {
    /// Source types.
    pub sources: Vec<ComponentType<BuiltSource>>,
    /// Operator types.
    pub operators: Vec<ComponentType<Built>>,
    /// Sink types.
    pub sinks: Vec<ComponentType<BuiltSink>>,
}

impl Registry {
    /// Nothing registered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source type.
    #[must_use]
    pub fn source<C: SourceConfig>(mut self) -> Self {
        self.sources.push(ComponentType {
            name: C::TYPE,
            inputs: None,
            alone_with: C::ALONE_WITH,
            examples: C::EXAMPLES,
            schema: || schema_for!(C),
            build: |table, context| parse::<C>(table)?.build(context),
        });
        self
    }

    /// Adds an operator type.
    #[must_use]
    pub fn operator<C: OperatorConfig>(mut self) -> Self {
        self.operators.push(ComponentType {
            name: C::TYPE,
            inputs: Some(C::INPUTS),
            alone_with: None,
            examples: C::EXAMPLES,
            schema: || schema_for!(C),
            build: |table, context| parse::<C>(table)?.build(context),
        });
        self
    }

    /// Adds a sink type.
    #[must_use]
    pub fn sink<C: SinkConfig>(mut self) -> Self {
        self.sinks.push(ComponentType {
            name: C::TYPE,
            inputs: Some(Inputs::Many),
            alone_with: None,
            examples: C::EXAMPLES,
            schema: || schema_for!(C),
            build: |table, context| parse::<C>(table)?.build(context),
        });
        self
    }

    /// Says that no two types of a kind have one name.
    ///
    /// # Errors
    /// Names the first type that is there twice: a pipeline file could mean either.
    pub fn check_names(&self) -> Result<()> {
        let kinds: [(&str, Vec<&str>); 3] = [
            ("source", self.sources.iter().map(|component| component.name).collect()),
            ("operator", self.operators.iter().map(|component| component.name).collect()),
            ("sink", self.sinks.iter().map(|component| component.name).collect()),
        ];
        for (kind, names) in kinds {
            for (index, name) in names.iter().enumerate() {
                if names[..index].contains(name) {
                    return Err(crate::Error::config(format!(
                        "the {kind} type `{name}` is registered twice; give one of them another name"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Finds an operator type by name.
    pub fn operator_type(&self, name: &str) -> Option<&ComponentType<Built>> {
        self.operators.iter().find(|component| component.name == name)
    }
}

fn parse<C: DeserializeOwned>(table: toml::Table) -> Checked<C> {
    C::deserialize(table).map_err(|error| vec![Problem::new("", error.message())])
}

/// The fingerprint of a node: its type and meaning, its input columns, and what its inputs mean.
pub fn fingerprint(
    kind: &str,
    meaning: &str,
    inputs: &[InputSchema],
    upstream: impl IntoIterator<Item = Fingerprint>,
) -> Fingerprint {
    let columns: Vec<String> = inputs
        .iter()
        .map(|input| {
            let fields = input.schema.fields().iter();
            fields
                .map(|field| format!("{}:{}:{};", field.name(), field.data_type(), field.is_nullable()))
                .collect()
        })
        .collect();
    let upstream: Vec<[u8; 8]> = upstream.into_iter().map(|print| print.0.to_le_bytes()).collect();
    Fingerprint::of(
        [kind.as_bytes(), meaning.as_bytes()]
            .into_iter()
            .chain(columns.iter().map(String::as_bytes))
            .chain(upstream.iter().map(<[u8; 8]>::as_slice)),
    )
}

/// The columns that operator and sink examples are written over: `time`, the tags `line` and `device`,
/// `seq` (integer), `temp`, `vib` (numbers), `rpm` (integer), `ok` (true/false), `note` (text),
/// `payload` (bytes: JSON with `ts` in ms, `a` and `b`). All but `time` and the tags may be null.
pub fn example_schema() -> SchemaRef {
    use crate::core::schema::{tag_type, time_field};
    use arrow::datatypes::{DataType, Field, Schema};
    Arc::new(Schema::new(vec![
        time_field(),
        Field::new("line", tag_type(), true),
        Field::new("device", tag_type(), true),
        Field::new("seq", DataType::Int64, true),
        Field::new("temp", DataType::Float64, true),
        Field::new("vib", DataType::Float64, true),
        Field::new("rpm", DataType::Int64, true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("note", DataType::Utf8, true),
        Field::new("payload", DataType::Binary, true),
    ]))
}
