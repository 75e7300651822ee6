//! The engine: records in, effects out. One pass over the nodes in topological order per record.
//!
//! `handle` takes a record and runs the graph to rest; afterwards `poll` gives the effects until `None`.
//! There is no alignment of barriers here: one log orders all inputs of a pipeline, so a barrier is one
//! record and a cut is a place between two others; nothing is in flight when it comes.

mod cut;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use arrow::array::RecordBatch;

use super::event::{Epoch, Event, EventTime, Now, Record};
use super::graph::{Edge, Graph};
use super::model::ModelId;
use super::operator::{Count, Flow, Output};
use super::snapshot::{EdgeState, Restored, Snapshot};
use super::state::StateReader;
use crate::error::{Error, Result};

/// What the engine wants done outside.
#[derive(Debug)]
pub enum Effect {
    /// Rows, a barrier or the end for a sink.
    Emit {
        /// Index of the sink.
        sink: usize,
        /// What it gets.
        event: Event,
    },
    /// The state of the whole graph at a barrier; the sinks' barriers follow it.
    Snapshot(Snapshot),
    /// A change could not be made; everything goes on as before.
    Rejected {
        /// The cut at which it should have been made.
        epoch: Epoch,
        /// The node that refused.
        node: String,
        /// Why.
        error: Error,
    },
}

/// What one node has done since the engine was built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeStats {
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that left, over all ports that something reads.
    pub rows_out: u64,
    /// Batches that came in.
    pub batches_in: u64,
    /// What the operator counted.
    pub counts: BTreeMap<Count, u64>,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Node { node: usize, port: usize },
    Sink(usize),
}

#[derive(Debug)]
enum Item {
    Flow(Flow),
    End,
}

/// Per node: what waits for it, and how far its inputs are.
struct Place {
    inbox: VecDeque<(usize, Item)>,
    edges: Vec<EdgeState>,
    ended: Vec<bool>,
    watermark: i64,
    idle: bool,
    /// Consumers of each port.
    targets: Vec<Vec<Target>>,
    /// A bit for each port without consumers.
    unread: u64,
    stats: NodeStats,
}

/// One pipeline's graph with its state.
pub struct Engine {
    graph: Graph,
    places: Vec<Place>,
    input_targets: Vec<Vec<Target>>,
    inputs_ended: Vec<bool>,
    sink_edges_open: Vec<usize>,
    effects: VecDeque<Effect>,
    output: Output,
    now: Now,
}

impl Engine {
    /// Builds an engine on a graph, fresh or from a snapshot. The second part says what became of each
    /// node's saved state, in graph order.
    ///
    /// # Errors
    /// If a node's state has the right meaning but cannot be loaded: it is damaged.
    pub fn new(graph: Graph, from: Option<&Snapshot>) -> Result<(Self, Vec<Restored>)> {
        let mut engine = Self::fresh(graph);
        let mut restored = Vec::with_capacity(engine.graph.nodes.len());
        for (node, place) in engine.graph.nodes.iter_mut().zip(&mut engine.places) {
            let saved = from.and_then(|snapshot| snapshot.nodes.iter().find(|state| state.name == node.name));
            let outcome = match saved {
                None => Restored::New,
                Some(saved) if saved.fingerprint != node.fingerprint => Restored::Changed,
                Some(saved) => {
                    let bytes = saved.state.to_bytes().map_err(|error| error.at(&node.name))?;
                    let mut reader = StateReader::new(&bytes);
                    node.operator
                        .load(&mut reader)
                        .and_then(|()| reader.finish())
                        .map_err(|error| error.at(&node.name))?;
                    if saved.edges.len() == place.edges.len() {
                        place.edges.clone_from(&saved.edges);
                        (place.watermark, place.idle) = (saved.watermark, saved.idle);
                    }
                    Restored::Loaded
                }
            };
            restored.push(outcome);
        }
        if let Some(snapshot) = from {
            engine.now = snapshot.now;
            engine.output.set_now(snapshot.now);
            engine.catch_up(&restored)?;
        }
        Ok((engine, restored))
    }

    /// Tells nodes that start fresh among others that go on how far their inputs are: those have said it before and
    /// say nothing again until they get further. Without it such a node would hold back everything behind it.
    fn catch_up(&mut self, restored: &[Restored]) -> Result<()> {
        for (index, outcome) in restored.iter().enumerate() {
            if *outcome == Restored::Loaded {
                continue;
            }
            for (port, edge) in self.graph.nodes[index].inputs.iter().enumerate() {
                let Edge::Node { node, .. } = *edge else { continue };
                let (watermark, idle) = (self.places[node].watermark, self.places[node].idle);
                let inbox = &mut self.places[index].inbox;
                if watermark != i64::MIN && watermark != i64::MAX {
                    inbox.push_back((port, Item::Flow(Flow::Watermark(EventTime(watermark)))));
                }
                // One that has ended says so again; until then it counts as idle, as it does for nodes that go on.
                if idle || watermark == i64::MAX {
                    inbox.push_back((port, Item::Flow(Flow::Idle(true))));
                }
            }
        }
        self.run(false)
    }

    fn fresh(graph: Graph) -> Self {
        let mut input_targets = vec![Vec::new(); graph.inputs.len()];
        let mut places: Vec<Place> = graph
            .nodes
            .iter()
            .map(|node| Place {
                inbox: VecDeque::new(),
                edges: vec![EdgeState::START; node.inputs.len()],
                ended: vec![false; node.inputs.len()],
                watermark: i64::MIN,
                idle: false,
                targets: vec![Vec::new(); node.ports.len()],
                unread: 0,
                stats: NodeStats::default(),
            })
            .collect();
        let mut connect = |edge: Edge, target: Target| match edge {
            Edge::Input(input) => input_targets[input].push(target),
            Edge::Node { node, port } => places[node].targets[port].push(target),
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            for (port, edge) in node.inputs.iter().enumerate() {
                connect(*edge, Target::Node { node: index, port });
            }
        }
        for (index, sink) in graph.sinks.iter().enumerate() {
            for edge in &sink.inputs {
                connect(*edge, Target::Sink(index));
            }
        }
        for place in &mut places {
            let ports = place.targets.iter().take(u64::BITS as usize).enumerate();
            place.unread =
                ports.filter(|(_, targets)| targets.is_empty()).fold(0, |bits, (port, _)| bits | 1 << port);
        }
        let sink_edges_open = graph.sinks.iter().map(|sink| sink.inputs.len()).collect();
        Self {
            graph,
            places,
            inputs_ended: vec![false; input_targets.len()],
            input_targets,
            sink_edges_open,
            effects: VecDeque::new(),
            output: Output::new(Now::ZERO),
            now: Now::ZERO,
        }
    }

    /// Takes one record and runs the graph to rest.
    ///
    /// # Errors
    /// If an operator cannot go on; the engine must then be built again from its last snapshot.
    pub fn handle(&mut self, now: Now, record: Record) -> Result<()> {
        self.now = now;
        self.output.set_now(now);
        match record {
            Record::Batch { input, batch } => {
                for target in &self.input_targets[input] {
                    route_batch(*target, batch.clone(), &mut self.places, &mut self.effects);
                }
                self.run(false)
            }
            Record::End { input } => {
                // A source opened again at its end says so again; the sinks have heard it once.
                if !std::mem::replace(&mut self.inputs_ended[input], true) {
                    for target in &self.input_targets[input] {
                        route_end(*target, &mut self.places, &mut self.effects, &mut self.sink_edges_open);
                    }
                }
                self.run(false)
            }
            Record::Tick => self.run(true),
            Record::Barrier(barrier) => self.cut(barrier),
        }
    }

    /// The next effect of the last record; `None` when all are out.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The earliest monotonic time at which a [`Record::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Duration> {
        self.graph.nodes.iter().filter_map(|node| node.operator.deadline()).min()
    }

    /// The running graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What each node has done, in graph order.
    pub fn stats(&self) -> impl Iterator<Item = (&str, &NodeStats)> {
        self.graph.nodes.iter().zip(&self.places).map(|(node, place)| (node.name.as_str(), &place.stats))
    }

    /// The model that a node by index runs now, for those that run one.
    pub fn model(&self, node: usize) -> Option<ModelId> {
        self.graph.nodes[node].operator.model()
    }

    /// The watermark of a node by index: no row before it will come.
    pub fn watermark(&self, node: usize) -> EventTime {
        EventTime(self.places[node].watermark)
    }

    fn run(&mut self, tick: bool) -> Result<()> {
        for index in 0..self.graph.nodes.len() {
            while let Some((port, item)) = self.places[index].inbox.pop_front() {
                self.dispatch(index, port, item).map_err(|error| error.at(&self.graph.nodes[index].name))?;
            }
            self.output.set_unread(self.places[index].unread);
            let operator = &mut self.graph.nodes[index].operator;
            if tick && operator.deadline().is_some_and(|deadline| deadline <= self.now.mono) {
                operator.tick(&mut self.output).map_err(|error| error.at(&self.graph.nodes[index].name))?;
                self.route(index);
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, index: usize, port: usize, item: Item) -> Result<()> {
        let place = &mut self.places[index];
        match item {
            Item::Flow(Flow::Batch(batch)) => {
                place.stats.rows_in += batch.num_rows() as u64;
                place.stats.batches_in += 1;
                self.output.set_unread(place.unread);
                self.graph.nodes[index].operator.process(port, batch, &mut self.output)?;
                self.route(index);
                Ok(())
            }
            Item::Flow(Flow::Watermark(to)) => {
                let edge = &mut place.edges[port];
                edge.watermark = edge.watermark.max(to.0);
                self.advance(index)
            }
            Item::Flow(Flow::Idle(idle)) => {
                place.edges[port].idle = idle;
                self.advance(index)
            }
            Item::End => {
                place.ended[port] = true;
                place.edges[port] = EdgeState::ENDED;
                self.advance(index)?;
                if self.places[index].ended.iter().all(|ended| *ended) {
                    self.end(index)?;
                }
                Ok(())
            }
        }
    }

    /// Recomputes a node's watermark and idleness from its inputs and passes changes on.
    fn advance(&mut self, index: usize) -> Result<()> {
        let node = &mut self.graph.nodes[index];
        if node.own_watermark {
            return Ok(());
        }
        let place = &mut self.places[index];
        let (watermark, idle) = combine(&place.edges, &place.ended, place.watermark);
        let (moved, turned) = (watermark > place.watermark, idle != place.idle);
        (place.watermark, place.idle) = (watermark, idle);
        if moved {
            self.output.set_unread(self.places[index].unread);
            node.operator.watermark(EventTime(watermark), &mut self.output)?;
            self.route(index);
            self.pass(index, &Flow::Watermark(EventTime(watermark)));
        }
        if turned {
            self.pass(index, &Flow::Idle(idle));
        }
        Ok(())
    }

    fn end(&mut self, index: usize) -> Result<()> {
        if self.graph.nodes[index].own_watermark {
            self.output.set_unread(self.places[index].unread);
            self.graph.nodes[index].operator.watermark(EventTime::MAX, &mut self.output)?;
            self.route(index);
            self.pass(index, &Flow::Watermark(EventTime::MAX));
        }
        let targets = std::mem::take(&mut self.places[index].targets);
        for target in targets.iter().flatten() {
            route_end(*target, &mut self.places, &mut self.effects, &mut self.sink_edges_open);
        }
        self.places[index].targets = targets;
        Ok(())
    }

    /// Moves what an operator said to those who read from it.
    fn route(&mut self, index: usize) {
        let mut output = std::mem::replace(&mut self.output, Output::new(self.now));
        for (count, by) in output.drain_counts() {
            *self.places[index].stats.counts.entry(count).or_default() += by;
        }
        for (port, flow) in output.drain() {
            match flow {
                Flow::Batch(batch) => {
                    self.places[index].stats.rows_out += batch.num_rows() as u64;
                    let targets = std::mem::take(&mut self.places[index].targets);
                    for target in targets.get(port).into_iter().flatten() {
                        route_batch(*target, batch.clone(), &mut self.places, &mut self.effects);
                    }
                    self.places[index].targets = targets;
                }
                flow => {
                    debug_assert!(
                        self.graph.nodes[index].own_watermark,
                        "{} makes a watermark but is not declared to",
                        self.graph.nodes[index].name
                    );
                    self.pass(index, &flow);
                }
            }
        }
        // The two vectors inside keep their room for the next call.
        self.output = output;
    }

    /// Sends a watermark or idleness out of all ports of a node. Sinks take neither.
    fn pass(&mut self, index: usize, flow: &Flow) {
        if self.graph.nodes[index].own_watermark {
            let place = &mut self.places[index];
            match flow {
                Flow::Watermark(to) => place.watermark = place.watermark.max(to.0),
                Flow::Idle(idle) => place.idle = *idle,
                Flow::Batch(_) => {}
            }
        }
        let targets = std::mem::take(&mut self.places[index].targets);
        for target in targets.iter().flatten() {
            if let Target::Node { node, port } = target {
                self.places[*node].inbox.push_back((*port, Item::Flow(flow.clone())));
            }
        }
        self.places[index].targets = targets;
    }
}

/// The watermark and idleness of a node from those of its inputs; never behind `current`.
fn combine(edges: &[EdgeState], ended: &[bool], current: i64) -> (i64, bool) {
    let holds = |(edge, ended): &(&EdgeState, &bool)| !edge.idle && !**ended;
    let least = edges.iter().zip(ended).filter(holds).map(|(edge, _)| edge.watermark).min();
    let all_ended = ended.iter().all(|ended| *ended);
    let idle = least.is_none() && !all_ended;
    let watermark = match least {
        Some(least) => least,
        None if all_ended => i64::MAX,
        // All that is left is idle: time stands still rather than running ahead of what may come back.
        None => current,
    };
    (watermark.max(current), idle)
}

fn route_batch(target: Target, batch: RecordBatch, places: &mut [Place], effects: &mut VecDeque<Effect>) {
    match target {
        Target::Node { node, port } => places[node].inbox.push_back((port, Item::Flow(Flow::Batch(batch)))),
        Target::Sink(sink) => effects.push_back(Effect::Emit { sink, event: Event::Batch(batch) }),
    }
}

fn route_end(target: Target, places: &mut [Place], effects: &mut VecDeque<Effect>, open: &mut [usize]) {
    match target {
        Target::Node { node, port } => places[node].inbox.push_back((port, Item::End)),
        Target::Sink(sink) => {
            open[sink] = open[sink].saturating_sub(1);
            if open[sink] == 0 {
                effects.push_back(Effect::Emit { sink, event: Event::End });
            }
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
