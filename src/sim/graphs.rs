//! Random graphs of registered operators over random scripts: an engine that is stopped and started again from what it
//! saved, or is given the same graph anew at a cut, says what one says that runs through. Pure.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::cells;
use super::dice::Dice;
use super::harness::Step;
use super::laws::script::{self, Form};
use crate::core::schema::{time_array, times};
use crate::core::{
    Barrier, Change, Commit, Edge, Effect, Engine, Epoch, Event, EventTime, Fingerprint, Graph, Node, Now,
    Operator, Output, Port, Record, SinkNode, Snapshot, StateReader, StateWriter,
};
use crate::registry::{BatchLimits, Built, Context, InputSchema, Inputs, NoFiles, Registry, example_schema};
use crate::store::Memory;
use crate::store::recovery::{self, Saver};
use crate::{Error, Result};

/// Inputs of every graph.
const INPUTS: usize = 2;
/// Most operators of a graph, besides those that make watermarks.
const OPERATORS_MAX: usize = 8;
/// How often an operator is tried that might not fit what is there.
const ATTEMPTS_MAX: usize = 40;
/// Most inputs of one node or sink.
const EDGES_MAX: usize = 3;
/// How far behind the newest row the watermark stays, µs, and its grid.
const LATENESS_US: i64 = 1_000_000;
const GRID_US: i64 = 500_000;
/// Where event time may lie, as distance from November 2023, µs: there, at the epoch, and at both ends of what decoders
/// let through.
const SHIFTS_US: [i64; 4] = [0, -1_699_999_200_000_000, -3_900_000_000_000_000, 7_480_000_000_000_000];

/// What was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    /// The types that took part.
    pub kinds: BTreeSet<&'static str>,
    /// Rows that came out.
    pub rows: u64,
    /// Cuts at which the engine was made anew.
    pub cuts: u64,
}

/// An operator in its place, before it is built.
struct Place {
    component: usize,
    body: &'static str,
    edges: Vec<Edge>,
}

/// A graph before it is built: it can be built any number of times.
struct Recipe<'a> {
    registry: &'a Registry,
    places: Vec<Place>,
    sinks: Vec<Vec<Edge>>,
}

/// How the engine goes over a cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// It goes on.
    GoesOn,
    /// Another one is made from what it saved.
    Restarts,
    /// It is given the same graph anew.
    Reloads,
}

/// Draws a graph and a script and runs it in each way.
///
/// # Errors
/// If an engine fails, or says something else when it was made anew at its cuts.
pub fn try_graph(registry: &Registry, seed: u64) -> Result<Tried> {
    let mut dice = Dice::new(seed);
    let recipe = Recipe::draw(registry, &mut dice)?;
    let script = draw_script(&mut dice)?;
    let mut tried = Tried { kinds: recipe.kinds(), ..Tried::default() };
    let through = recipe.run(&script, Over::GoesOn, &mut tried)?;
    for over in [Over::Restarts, Over::Reloads] {
        let anew = recipe.run(&script, over, &mut tried)?;
        if let Some(at) = (0..through.len().max(anew.len())).find(|at| through.get(*at) != anew.get(*at)) {
            let way = if over == Over::Restarts { "a restart" } else { "a reload" };
            return Err(Error::data(format!(
                "{:?}: what it says, {at}th, was {:?}, and with {way} is {:?}",
                tried.kinds,
                through.get(at),
                anew.get(at)
            )));
        }
    }
    tried.rows = through.iter().filter(|said| said.starts_with("row")).count() as u64;
    Ok(tried)
}

impl<'a> Recipe<'a> {
    fn draw(registry: &'a Registry, dice: &mut Dice) -> Result<Self> {
        let mut recipe = Self { registry, places: Vec::new(), sinks: Vec::new() };
        let mut open: Vec<(Edge, SchemaRef)> =
            (0..INPUTS).map(|node| (Edge::Node { node, port: 0 }, example_schema())).collect();
        let wanted = 1 + dice.below(OPERATORS_MAX);
        for _ in 0..ATTEMPTS_MAX {
            let component = dice.below(registry.operators.len());
            let kind = &registry.operators[component];
            let Some(body) = kind.examples.get(dice.below(kind.examples.len())) else { continue };
            // The newer the edge, the likelier: else all would hang on the inputs.
            let (_, schema) = &open[open.len() - 1 - dice.below(open.len()).min(dice.below(open.len()))];
            let many = matches!(kind.inputs, Some(Inputs::Many));
            let edges = some_edges(dice, &open, schema, if many { EDGES_MAX } else { 1 });
            let place = Place { component, body, edges };
            let Ok(built) = place.build(registry, schema) else { continue };
            let node = INPUTS + recipe.places.len();
            let ports = built.ports.iter().enumerate();
            open.extend(ports.map(|(port, out)| (Edge::Node { node, port }, Arc::clone(&out.schema))));
            recipe.places.push(place);
            if recipe.places.len() == wanted {
                break;
            }
        }
        for _ in 0..=dice.below(3) {
            let (_, schema) = &open[dice.below(open.len())];
            recipe.sinks.push(some_edges(dice, &open, schema, EDGES_MAX));
        }
        Ok(recipe)
    }

    fn kinds(&self) -> BTreeSet<&'static str> {
        self.places.iter().map(|place| self.registry.operators[place.component].name).collect()
    }

    fn build(&self) -> Result<Graph> {
        let front = |node: usize| Node {
            name: format!("front-{node}"),
            kind: "front",
            operator: Box::new(Front { watermark: i64::MIN, idle: false }),
            inputs: vec![Edge::Input(node)],
            ports: vec![Port { name: "", schema: example_schema() }],
            fingerprint: Fingerprint(node as u64),
            own_watermark: true,
            models: None,
        };
        let mut nodes: Vec<Node> = (0..INPUTS).map(front).collect();
        for place in &self.places {
            let schema = match place.edges.first() {
                Some(Edge::Node { node, port }) => Arc::clone(&nodes[*node].ports[*port].schema),
                _ => example_schema(),
            };
            let built = place.build(self.registry, &schema)?;
            let number = nodes.len();
            let kind = self.registry.operators[place.component].name;
            let fingerprint = Fingerprint::of([built.meaning.as_bytes(), &number.to_le_bytes()]);
            nodes.push(built.node(format!("node-{number}"), kind, place.edges.clone(), fingerprint));
        }
        let sinks = self.sinks.iter().enumerate();
        let sinks =
            sinks.map(|(number, edges)| SinkNode { name: format!("sink-{number}"), inputs: edges.clone() });
        Graph::new((0..INPUTS).map(|input| format!("input-{input}")).collect(), nodes, sinks.collect())
    }

    /// Everything that an engine says, as texts.
    fn run(&self, script: &[(Now, Option<Record>)], over: Over, tried: &mut Tried) -> Result<Vec<String>> {
        let (mut engine, _) = Engine::new(self.build()?, None)?;
        let mut said = Vec::new();
        let mut epoch = Epoch(0);
        for (now, record) in script {
            let record = match record {
                Some(record) => record.clone(),
                None => {
                    epoch = Epoch(epoch.0 + 1);
                    tried.cuts += 1;
                    let change = match over {
                        Over::Reloads => Some(Arc::new(Change::Graph(Mutex::new(Some(self.build()?))))),
                        _ => None,
                    };
                    Record::Barrier(Barrier { epoch, change })
                }
            };
            engine.handle(*now, record)?;
            let mut cut = None;
            while let Some(effect) = engine.poll() {
                note(effect, &mut said, &mut cut)?;
            }
            if let Some(snapshot) = cut.filter(|_| over == Over::Restarts) {
                let snapshot = through_a_checkpoint(snapshot, *now)?;
                engine = Engine::new(self.build()?, snapshot.as_ref())?.0;
            }
            said.push(format!("deadline {:?}", engine.deadline()));
        }
        Ok(said)
    }
}

fn note(effect: Effect, said: &mut Vec<String>, cut: &mut Option<Snapshot>) -> Result<()> {
    match effect {
        Effect::Emit { sink, event: Event::Batch(batch) } => {
            said.extend(cells::rows(&batch)?.into_iter().map(|row| format!("row for {sink}: {row}")));
        }
        Effect::Emit { sink, event: Event::End } => said.push(format!("end for {sink}")),
        Effect::Emit { event: Event::Barrier(_), .. } => {}
        Effect::Snapshot(snapshot) => *cut = Some(snapshot),
        Effect::Rejected { node, error, .. } => {
            return Err(Error::state(format!("`{node}` refuses the graph it was in: {error}")));
        }
    }
    Ok(())
}

/// Up to `most` different ones of the edges with these columns.
fn some_edges(dice: &mut Dice, open: &[(Edge, SchemaRef)], schema: &SchemaRef, most: usize) -> Vec<Edge> {
    let mut fitting: Vec<Edge> =
        open.iter().filter(|(_, other)| other == schema).map(|(edge, _)| *edge).collect();
    let count = 1 + dice.below(most.min(fitting.len()));
    (0..count).map(|_| fitting.swap_remove(dice.below(fitting.len()))).collect()
}

impl Place {
    fn build(&self, registry: &Registry, schema: &SchemaRef) -> Result<Built> {
        let table: toml::Table =
            toml::from_str(self.body).map_err(|error| Error::config(error.to_string()))?;
        let input = |number: usize| InputSchema { name: format!("in-{number}"), schema: Arc::clone(schema) };
        let inputs: Vec<InputSchema> = (0..self.edges.len()).map(input).collect();
        let context = Context {
            name: "node",
            pipeline: "graphs",
            inputs: &inputs,
            files: &NoFiles,
            batch: BatchLimits::default(),
        };
        (registry.operators[self.component].build)(table, &context)
            .map_err(|problems| Error::config(format!("{problems:?}")))
    }
}

/// Rows, ticks, and cuts where there is no record; at the end every input ends.
fn draw_script(dice: &mut Dice) -> Result<Vec<(Now, Option<Record>)>> {
    let shift_us = SHIFTS_US[dice.below(SHIFTS_US.len())];
    let form = [Form::Plain, Form::Sliced, Form::Reordered][dice.below(3)];
    let items = script::items(&script::draw(dice), INPUTS);
    let often = 1 + dice.below(6);
    let steps = script::steps(&items, form, &mut || dice.below(often) == 0)?;
    let mut now = Now { mono: Duration::ZERO, wall: EventTime(0) };
    let mut script = Vec::new();
    for step in steps {
        match step {
            Step::Rows { port, batch, now: at } => {
                now = at;
                let batch = shifted(&batch, shift_us)?;
                if dice.happens(50) {
                    script.push((now, Some(Record::Batch { input: port, batch: batch.slice(0, 0) })));
                }
                script.push((now, Some(Record::Batch { input: port, batch })));
            }
            Step::Tick(at) => {
                now = at;
                script.push((now, Some(Record::Tick)));
            }
            // Watermarks come from the rows here.
            Step::Watermark(_) => {}
        }
        if dice.happens(150) {
            script.push((now, None));
        }
    }
    let first = dice.below(INPUTS);
    for input in [first, INPUTS - 1 - first] {
        script.push((now, Some(Record::End { input })));
        script.push((now, Some(Record::Tick)));
    }
    Ok(script)
}

fn shifted(batch: &RecordBatch, by_us: i64) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    let shifted = times(batch)?.values().iter().map(|time| time + by_us).collect();
    if let Some(column) = columns.first_mut() {
        *column = time_array(shifted);
    }
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// What a source's decoder does for its rows: it passes them on, moves the watermark along, and is idle now and then.
struct Front {
    watermark: i64,
    idle: bool,
}

/// What comes back of a snapshot that was written and read again.
fn through_a_checkpoint(snapshot: Snapshot, now: Now) -> Result<Option<Snapshot>> {
    let (epoch, sources, sinks) = (snapshot.epoch, Vec::new(), Vec::new());
    let commit = Commit { epoch, offset: 0, snapshot, sources, sinks };
    let mut store = Memory::new();
    Saver::new(Vec::new(), Vec::new()).save(&mut store, &commit, now)?;
    Ok(recovery::recover(&mut store)?.snapshot)
}

impl Operator for Front {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        if std::mem::take(&mut self.idle) {
            out.idle(false);
        }
        let newest = times(&batch)?.values().iter().copied().max();
        let rows = batch.num_rows();
        out.emit(0, batch);
        if let Some(newest) = newest {
            let to = (newest - LATENESS_US).div_euclid(GRID_US) * GRID_US;
            if to > self.watermark {
                self.watermark = to;
                out.watermark(EventTime(to));
            }
        }
        if rows % 5 == 3 {
            self.idle = true;
            out.idle(true);
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        state.value(&(self.watermark, self.idle));
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        (self.watermark, self.idle) = state.value()?;
        Ok(())
    }
}
