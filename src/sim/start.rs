//! What a start means for the world: which checkpoint comes back, and with which file the plant goes on. Pure.

use super::around::{Step, Surroundings, breach};
use crate::core::{Graph, Snapshot};
use crate::store::recovery::Recovered;

/// What the checkpoint means for what is known outside: it is the newest that was committed, unless that has rotted;
/// and from its cut on the file holds with which the process starts now.
pub(super) fn come_back(around: &mut Surroundings, recovered: &Recovered) -> Step {
    if let Some((epoch, ..)) = around.commits.last()
        && recovered.epoch < *epoch
    {
        if around.lost.flips == 0 || recovered.passed_over.is_empty() {
            return breach(format!("epoch {epoch} was committed, and {} comes back", recovered.epoch));
        }
        around.commits.retain(|(epoch, ..)| *epoch <= recovered.epoch);
        around.lost.fallbacks += 1;
    }
    around.running = around.variant;
    let (cut, before) = (recovered.log_offset, around.variants.clone());
    around.variants.retain(|(from, _)| *from < cut);
    if around.variants.last().is_none_or(|(_, variant)| *variant != around.variant) {
        around.variants.push((cut, around.variant));
    }
    if around.has_log && around.variants != before {
        let end = around.accepted.last_key_value().map_or(cut, |(last, _)| last + 1);
        around.dispute(cut..end);
    }
    Ok(())
}

/// Makes the engine believe that nodes of the same name mean what they meant before.
pub(super) fn take_for_the_same(graph: &mut Graph, snapshot: Option<&Snapshot>) {
    let saved = snapshot.into_iter().flat_map(|snapshot| &snapshot.nodes);
    for state in saved {
        if let Some(node) = graph.nodes.iter_mut().find(|node| node.name == state.name) {
            node.fingerprint = state.fingerprint;
        }
    }
}
