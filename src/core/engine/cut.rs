//! What happens at a barrier: the change, then the snapshot, then word to the sinks. Pure.

use std::sync::Arc;

use super::{Effect, Engine, route_end};
use crate::core::event::{Barrier, Change, Event};
use crate::core::graph::Graph;
use crate::core::snapshot::{NodeState, Snapshot};
use crate::core::state::StateWriter;
use crate::error::{Error, Result};

impl Engine {
    /// A cut: make the change, then save every node, then pass the barrier on. What is saved is what the
    /// next record will meet.
    pub(super) fn cut(&mut self, barrier: Barrier) -> Result<()> {
        match barrier.change.as_deref() {
            None | Some(Change::Stop) => {}
            Some(Change::Model { node, model }) => {
                let outcome = match self.graph.node(node) {
                    Some(index) => self.graph.nodes[index].operator.update(Arc::clone(model)),
                    None => Err(Error::model(format!("there is no operator `{node}`"))),
                };
                if let Err(error) = outcome {
                    self.effects.push_back(Effect::Rejected {
                        epoch: barrier.epoch,
                        node: node.clone(),
                        error: error.at(node),
                    });
                }
            }
            Some(Change::Graph(graph)) => {
                let graph = graph.lock().ok().and_then(|mut graph| graph.take());
                if let Some(graph) = graph {
                    self.replace(graph, &barrier)?;
                }
            }
        }
        let snapshot = self.save(&barrier)?;
        self.effects.push_back(Effect::Snapshot(snapshot));
        for sink in 0..self.graph.sinks.len() {
            self.effects.push_back(Effect::Emit { sink, event: Event::Barrier(barrier.clone()) });
        }
        Ok(())
    }

    fn replace(&mut self, graph: Graph, barrier: &Barrier) -> Result<()> {
        let snapshot = self.save(barrier)?;
        match Self::new(graph, Some(&snapshot)) {
            Ok((mut engine, _)) => {
                std::mem::swap(&mut engine.effects, &mut self.effects);
                engine.now = self.now;
                engine.output.set_now(self.now);
                let old = std::mem::replace(self, engine);
                self.end_again(&old)?;
            }
            Err(error) => {
                let node = error.node.clone().unwrap_or_default();
                self.effects.push_back(Effect::Rejected { epoch: barrier.epoch, node, error });
            }
        }
        Ok(())
    }

    /// Tells a graph that has just taken another's place which of its inputs have ended: their sources will not
    /// say it again. A sink that has heard it keeps it.
    fn end_again(&mut self, old: &Self) -> Result<()> {
        for (input, name) in self.graph.inputs.iter().enumerate() {
            let before = old.graph.inputs.iter().position(|known| known == name);
            self.inputs_ended[input] = before.is_some_and(|before| old.inputs_ended[before]);
            if self.inputs_ended[input] {
                for target in &self.input_targets[input] {
                    route_end(*target, &mut self.places, &mut self.effects, &mut self.sink_edges_open);
                }
            }
        }
        self.run(false)?;
        let sinks = &self.graph.sinks;
        let knows = |sink: usize| {
            let before = old.graph.sinks.iter().position(|known| known.name == sinks[sink].name);
            before.is_some_and(|before| old.sink_edges_open[before] == 0)
        };
        self.effects
            .retain(|effect| !matches!(effect, Effect::Emit { sink, event: Event::End } if knows(*sink)));
        Ok(())
    }

    fn save(&mut self, barrier: &Barrier) -> Result<Snapshot> {
        let mut nodes = Vec::with_capacity(self.graph.nodes.len());
        for (node, place) in self.graph.nodes.iter_mut().zip(&self.places) {
            let mut writer = StateWriter::new();
            node.operator.save(&mut writer);
            let state = writer.freeze().map_err(|error| error.at(&node.name))?;
            nodes.push(NodeState {
                name: node.name.clone(),
                kind: node.kind.to_owned(),
                fingerprint: node.fingerprint,
                state,
                model: node.operator.model(),
                watermark: place.watermark,
                idle: place.idle,
                edges: place.edges.clone(),
            });
        }
        Ok(Snapshot { epoch: barrier.epoch, now: self.now, nodes })
    }
}
