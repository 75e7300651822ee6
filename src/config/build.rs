//! From checked components to a built pipeline: each is built over the columns of what it reads. Pure.
//!
//! A component that cannot be built is reported; what reads from it is left out in silence, since nothing can
//! be said about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::core::schema::raw;
use crate::core::{Edge, Fingerprint, Graph, Node as GraphNode, Port, SinkNode};
use crate::registry::{
    BatchLimits, Built, BuiltSource, Columns, ComponentType, Context, Files, InputSchema, Inputs, Keyed,
    Registry, Sampler, SourceOutput, fingerprint, nearest,
};

use super::declare::{Component, Role, report_problems};
use super::diagnostic::{Place, Report, Severity};
use super::difference::difference;
use super::keys::DECODE_KEYS;
use super::shape::Shape;
use super::spooling::spooling;
use super::tree::{Node, Table};
use super::wire::{Link, Wires};
use super::{Finder, PlannedSink, PlannedSource, Unsampled};

/// The operator type that turns what a source gives into columns.
const DECODE: &str = "decode";

/// What can be read from a component.
struct Output {
    /// Index of its node in the graph.
    node: usize,
    ports: Vec<Port>,
    fingerprint: Fingerprint,
    /// The sources that its rows come from, by the index of their component.
    origins: BTreeSet<usize>,
}

/// What is needed beside the components.
pub(super) struct Planner<'p> {
    pub registry: &'p Registry,
    pub pipeline: &'p str,
    pub files: &'p dyn Files,
    pub batch: BatchLimits,
    /// What is known of sources that do not say their columns.
    pub columns: &'p BTreeMap<String, Columns>,
    /// Whether there is a data directory, which may hold a state to go on from.
    pub keeps_state: bool,
}

/// An operator that keeps state from row to row.
pub(super) struct Keeper {
    /// The index of its component.
    pub component: usize,
    /// The sources that its rows come from, by the index of their component.
    pub origins: BTreeSet<usize>,
    pub keyed: Keyed,
}

/// A plan in the making.
#[derive(Default)]
pub(super) struct Plan {
    pub sources: Vec<PlannedSource>,
    pub nodes: Vec<GraphNode>,
    pub sinks: Vec<PlannedSink>,
    pub sink_nodes: Vec<SinkNode>,
    /// Operators that keep state from row to row.
    pub keepers: Vec<Keeper>,
    /// Sources whose columns are unknown; what reads from them is not built.
    pub unsampled: Vec<Unsampled>,
    /// What the node just tried has said of its columns.
    unknown: Option<(Place, Sampler)>,
    /// What the node just built keeps.
    keyed: Option<Keyed>,
    outputs: Vec<Option<Output>>,
}

/// An input, ready to build over.
struct Resolved {
    edge: Edge,
    schema: InputSchema,
    fingerprint: Fingerprint,
    origins: BTreeSet<usize>,
}

impl Plan {
    /// The graph, if everything could be built.
    ///
    /// # Errors
    /// If an edge goes nowhere, which the wiring has ruled out.
    pub fn graph(self) -> crate::Result<(Graph, Vec<PlannedSource>, Vec<PlannedSink>)> {
        let inputs = self.sources.iter().map(|source| source.name.clone()).collect();
        Ok((Graph::new(inputs, self.nodes, self.sink_nodes)?, self.sources, self.sinks))
    }
}

impl Planner<'_> {
    /// Builds everything that can be built.
    pub fn plan(&self, components: &[Component<'_>], wires: &Wires<'_>, report: &mut Report) -> Plan {
        let mut plan = Plan::default();
        plan.outputs.resize_with(components.len(), || None);
        for (index, component) in components.iter().enumerate() {
            if component.role == Role::Source {
                plan.outputs[index] = self.source(index, component, &mut plan, report);
            }
        }
        for index in &wires.order {
            let resolved = resolve(*index, components, wires, &plan, report);
            if let Some(resolved) = resolved {
                let output = self.operator(&components[*index], resolved, &mut plan, report);
                if let (Some(keyed), Some(output)) = (plan.keyed.take(), &output) {
                    plan.keepers.push(Keeper { component: *index, origins: output.origins.clone(), keyed });
                }
                plan.outputs[*index] = output;
            }
        }
        for (index, component) in components.iter().enumerate() {
            if component.role == Role::Sink
                && let Some(resolved) = resolve(index, components, wires, &plan, report)
            {
                self.sink(component, resolved, &mut plan, report);
            }
        }
        plan
    }

    fn context<'c>(&'c self, component: &Component<'c>, inputs: &'c [InputSchema]) -> Context<'c> {
        let batch = component.batch.over(self.batch);
        Context { name: component.name, pipeline: self.pipeline, inputs, files: self.files, batch }
    }

    fn source(
        &self,
        index: usize,
        component: &Component<'_>,
        plan: &mut Plan,
        report: &mut Report,
    ) -> Option<Output> {
        let kind = find(&self.registry.sources, component)?;
        let built = match (kind.build)(component.own.to_toml(), &self.context(component, &[])) {
            Ok(built) => built,
            Err(problems) => {
                report_problems(component.node, problems, Severity::Error, report);
                return None;
            }
        };
        let schema = match &built.output {
            SourceOutput::Raw => raw(),
            SourceOutput::Columns(schema) => schema.clone(),
        };
        let mut output = self.decode(component, &built, &schema, plan, report);
        if let Some(output) = &mut output {
            output.origins.insert(index);
        }
        let planned = PlannedSource {
            name: component.name.to_owned(),
            kind: kind.name,
            identity: self.source_identity(component),
            source: built.source,
            schema,
            acknowledges: built.acknowledges,
            live: built.live,
            batch: component.batch.over(self.batch),
            companion: built.companion,
            connected: built.connected,
            delivery: built.delivery,
            vitals: built.vitals,
            notes: built.notes,
        };
        if output.is_some() {
            plan.sources.push(planned);
        } else if let Some((place, sampler)) = plan.unknown.take() {
            let format = component.decode.node("format").and_then(Node::table);
            let written = format.map(Table::to_toml).unwrap_or_default();
            let finder = Finder { sampler, written };
            plan.unsampled.push(Unsampled { source: planned, finder, place });
        }
        output
    }

    /// How its payloads are read is the graph's matter; how its batches are cut is not.
    fn source_identity(&self, component: &Component<'_>) -> Fingerprint {
        let batch = format!("{:?}", component.batch.over(self.batch));
        identity(["source", component.name, &batch], &table_without(component, &DECODE_KEYS), &[])
    }

    /// The node that makes columns of what a source gives. It has the source's name, so that inputs find it.
    fn decode(
        &self,
        component: &Component<'_>,
        built: &BuiltSource,
        schema: &SchemaRef,
        plan: &mut Plan,
        report: &mut Report,
    ) -> Option<Output> {
        let Some(decode) = self.registry.operator_type(DECODE) else {
            report.error(
                component.name_place,
                format!("there is no operator type `{DECODE}` to read sources with"),
                "",
            );
            return None;
        };
        if built.output == SourceOutput::Raw && lacks_decode_keys(component, decode, report) {
            return None;
        }
        let mut table = component.decode.to_toml();
        if let Some(columns) = self.columns.get(component.name) {
            fill_in(&mut table, columns);
        }
        let topics = built.topics.iter().cloned().map(toml::Value::String).collect();
        table.insert("topics".to_owned(), toml::Value::Array(topics));
        table.insert("live".to_owned(), toml::Value::Boolean(built.live));
        let input = Resolved {
            edge: Edge::Input(plan.sources.len()),
            schema: InputSchema { name: component.name.to_owned(), schema: schema.clone() },
            // What a source means is its name: another address or another type of source gives the same data,
            // another source does not.
            fingerprint: Fingerprint::of([b"source".as_slice(), component.name.as_bytes()]),
            origins: BTreeSet::new(),
        };
        self.node(component, decode, table, vec![input], plan, report)
    }

    fn operator(
        &self,
        component: &Component<'_>,
        inputs: Vec<Resolved>,
        plan: &mut Plan,
        report: &mut Report,
    ) -> Option<Output> {
        let kind = find(&self.registry.operators, component)?;
        let several = kind.inputs == Some(Inputs::Many);
        // Several inputs where one is taken are reported with the wiring.
        if inputs.len() > 1 && !several {
            return None;
        }
        self.node(component, kind, component.own.to_toml(), inputs, plan, report)
    }

    fn node(
        &self,
        component: &Component<'_>,
        kind: &ComponentType<Built>,
        table: toml::Table,
        inputs: Vec<Resolved>,
        plan: &mut Plan,
        report: &mut Report,
    ) -> Option<Output> {
        let schemas: Vec<InputSchema> = inputs.iter().map(|input| input.schema.clone()).collect();
        let mut built = match (kind.build)(table, &self.context(component, &schemas)) {
            Ok(built) => built,
            Err(problems) => {
                let (unknown, wrong): (Vec<_>, Vec<_>) =
                    problems.into_iter().partition(|problem| problem.sampler.is_some());
                report_problems(component.node, wrong, Severity::Error, report);
                plan.unknown = unknown.into_iter().find_map(|problem| {
                    let place = component.node.find(&problem.path, None);
                    report.warning(&place, problem.message, problem.help.unwrap_or_default());
                    Some((place, problem.sampler?))
                });
                return None;
            }
        };
        let severity = if self.keeps_state { Severity::Warning } else { Severity::Error };
        let unless_saved = std::mem::take(&mut built.unless_saved).into_iter().map(|mut problem| {
            if self.keeps_state {
                problem.message.push_str("; it starts only where a saved state can go on");
            }
            problem
        });
        report_problems(component.node, unless_saved.collect(), severity, report);
        let upstream = inputs.iter().map(|input| input.fingerprint);
        let fingerprint = fingerprint(kind.name, &built.meaning, &schemas, upstream);
        let origins = inputs.iter().flat_map(|input| input.origins.iter().copied()).collect();
        let output = Output { node: plan.nodes.len(), ports: built.ports.clone(), fingerprint, origins };
        let edges = inputs.iter().map(|input| input.edge).collect();
        plan.keyed = built.keyed.take();
        plan.nodes.push(built.node(component.name, kind.name, edges, fingerprint));
        Some(output)
    }

    fn sink(&self, component: &Component<'_>, inputs: Vec<Resolved>, plan: &mut Plan, report: &mut Report) {
        let Some(kind) = find(&self.registry.sinks, component) else { return };
        let schemas: Vec<InputSchema> = inputs.iter().map(|input| input.schema.clone()).collect();
        match (kind.build)(component.own.to_toml(), &self.context(component, &schemas)) {
            Ok(built) => {
                let name = component.name.to_owned();
                let upstream: Vec<[u8; 8]> =
                    inputs.iter().map(|input| input.fingerprint.0.to_le_bytes()).collect();
                let lineage = Fingerprint::of(upstream.iter().map(<[u8; 8]>::as_slice));
                let inputs = inputs.iter().map(|input| input.edge).collect();
                plan.sink_nodes.push(SinkNode { name: name.clone(), inputs });
                let network = built.peer.is_some();
                let spool = spooling(component, &schemas, network, self.keeps_state, report);
                let identity =
                    identity(["sink", component.name], &table_without(component, &["inputs"]), &schemas);
                plan.sinks.push(PlannedSink {
                    name,
                    kind: kind.name,
                    identity,
                    lineage,
                    sink: built.sink,
                    network,
                    peer: built.peer,
                    spool,
                    letters: built.letters,
                    notes: built.notes,
                });
            }
            Err(problems) => report_problems(component.node, problems, Severity::Error, report),
        }
    }
}

/// A component's table as it is after overrides, without some of its keys.
fn table_without(component: &Component<'_>, keys: &[&str]) -> toml::Table {
    let mut table = component.node.table().map(Table::to_toml).unwrap_or_default();
    table.retain(|key, _| !keys.contains(&key));
    table
}

/// What a table says, and over which columns: equal while nothing has changed but the order of keys and the layout.
pub(super) fn identity<const N: usize>(
    name: [&str; N],
    table: &toml::Table,
    inputs: &[InputSchema],
) -> Fingerprint {
    let names = name.iter().map(|name| (*name).to_owned());
    let columns = inputs.iter().map(|input| format!("{}: {:?}", input.name, input.schema));
    let parts: Vec<String> = names.chain([canonical(table)]).chain(columns).collect();
    Fingerprint::of(parts.iter().map(String::as_bytes))
}

/// A table as text, its keys in order.
fn canonical(table: &toml::Table) -> String {
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| *key);
    let said = keys.into_iter().map(|(key, value)| match value {
        toml::Value::Table(table) => format!("{key:?}={{{}}}", canonical(table)),
        value => format!("{key:?}={value}"),
    });
    said.collect::<Vec<_>>().join(",")
}

/// Lays the keys that were found in messages under those that the source has itself.
fn fill_in(table: &mut toml::Table, columns: &Columns) {
    let says_fields =
        table.get("fields").and_then(toml::Value::as_table).is_some_and(|said| !said.is_empty());
    let Some(toml::Value::Table(format)) = table.get_mut("format") else { return };
    if says_fields || *format != columns.written {
        return;
    }
    for (key, value) in &columns.format {
        format.entry(key.clone()).or_insert_with(|| value.clone());
    }
    table.insert("fields".to_owned(), toml::Value::Table(columns.fields.clone()));
}

/// The type of a component whose keys are all right.
fn find<'r, B>(types: &'r [ComponentType<B>], component: &Component<'_>) -> Option<&'r ComponentType<B>> {
    types.iter().find(|kind| component.valid && Some(kind.name) == component.kind)
}

/// Reports keys of decoding that raw messages cannot be read without; says whether there are such.
fn lacks_decode_keys(component: &Component<'_>, decode: &ComponentType<Built>, report: &mut Report) -> bool {
    let schema = (decode.schema)().to_value();
    let shape = Shape::root(&schema);
    let missing = shape
        .required()
        .filter(|key| super::keys::DECODE_KEYS.contains(key) && component.decode.entry(key).is_none());
    let before = report.errors();
    for key in missing {
        let sample = shape.property(key).map_or_else(String::new, |value| value.sample());
        let message =
            format!("[source.{}] lacks the key `{key}`: this source gives raw messages", component.name);
        report.error(&component.node.place, message, format!("add for example `{key} = {sample}`"));
    }
    report.errors() > before
}

/// The inputs of a component with their columns; none if one of them is not there.
fn resolve(
    index: usize,
    components: &[Component<'_>],
    wires: &Wires<'_>,
    plan: &Plan,
    report: &mut Report,
) -> Option<Vec<Resolved>> {
    let links = wires.links[index].as_ref()?;
    let resolved: Vec<Option<Resolved>> = links
        .iter()
        .map(|link| {
            let output = plan.outputs[link.from].as_ref()?;
            let Some(port) = output.ports.iter().position(|port| port.name == link.port) else {
                report_unknown_port(link, components[link.from].name, output, report);
                return None;
            };
            Some(Resolved {
                edge: Edge::Node { node: output.node, port },
                schema: InputSchema {
                    name: link.node.text().unwrap_or_default().to_owned(),
                    schema: output.ports[port].schema.clone(),
                },
                fingerprint: match link.port {
                    "" => output.fingerprint,
                    // Rows of another port mean something else, even with the same columns.
                    port => Fingerprint::of([&output.fingerprint.0.to_le_bytes()[..], port.as_bytes()]),
                },
                origins: output.origins.clone(),
            })
        })
        .collect();
    let mut resolved: Vec<Resolved> = resolved.into_iter().collect::<Option<_>>()?;
    same_columns(links, &mut resolved, report).then_some(resolved)
}

fn report_unknown_port(link: &Link<'_>, name: &str, output: &Output, report: &mut Report) {
    let ports: Vec<&str> =
        output.ports.iter().map(|port| port.name).filter(|port| !port.is_empty()).collect();
    let quoted: Vec<String> = ports.iter().map(|port| format!("\"{name}.{port}\"")).collect();
    let help = match (nearest(link.port, ports.iter().copied()), quoted.as_slice()) {
        (_, []) => format!("it has its main output only: write \"{name}\""),
        (Some(near), _) => format!("did you mean \"{name}.{near}\"?"),
        (None, quoted) => format!("it can be {} or \"{name}\" for the main output", quoted.join(", ")),
    };
    let place = if link.port.is_empty() { link.node.place.clone() } else { link.port_place() };
    let message = match link.port {
        "" => format!("`{name}` has no main output"),
        port => format!("`{name}` has no port `{port}`"),
    };
    report.error(&place, message, help);
}

/// Several inputs must have the same columns. A column that may be null in one of them may be null in all:
/// the component is built over what can come from any of them.
fn same_columns(links: &[Link<'_>], resolved: &mut [Resolved], report: &mut Report) -> bool {
    let Some((first, rest)) = resolved.split_first() else { return false };
    let mut same = true;
    for (link, other) in links[1..].iter().zip(rest.iter()) {
        if let Some(difference) = difference(&first.schema, &other.schema) {
            let message =
                format!("\"{}\" has not the same columns as \"{}\"", other.schema.name, first.schema.name);
            report.error(&link.node.place, message, difference);
            same = false;
        }
    }
    let nullable: Vec<bool> = (0..first.schema.schema.fields().len())
        .map(|column| {
            resolved
                .iter()
                .any(|input| input.schema.schema.fields().get(column).is_some_and(|f| f.is_nullable()))
        })
        .collect();
    for input in resolved.iter_mut().filter(|_| same && links.len() > 1) {
        let fields = input.schema.schema.fields().iter().zip(&nullable);
        let fields: Vec<Field> =
            fields.map(|(field, nullable)| field.as_ref().clone().with_nullable(*nullable)).collect();
        input.schema.schema = Arc::new(Schema::new(fields));
    }
    same
}
