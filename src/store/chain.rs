//! A base and the deltas behind it: decides which parts of a snapshot are written and which are there already. Touches
//! files only through `Store`.
//!
//! A part that the operator has not touched since is the same piece at the same address: it is not even looked at. The
//! rest is written down and hashed, so that what was only copied, or has become again what it was, is not written
//! either. All that runs beside the engine.

use std::sync::{Arc, Weak};

use super::Store;
use super::checkpoint::{self, Checkpoint, Head, Writing};
use super::manifest::{Manifest, Place, SavedNode, SavedSection};
use crate::core::state::{Part, Piece};
use crate::core::{NodeState, Snapshot};
use crate::{Error, Result};

/// Most deltas behind a base: each may keep the file of another alive.
const DELTAS_MAX: usize = 16;

/// What is on disk of one part.
struct Known {
    /// Where it came from, as long as nobody has changed it. A weak pointer keeps the address from being used again.
    piece: Option<Weak<dyn Piece>>,
    hash: [u8; 16],
    place: Place,
}

/// What is on disk of one node: sections of parts.
struct KnownNode {
    name: String,
    sections: Vec<Vec<Known>>,
}

/// What is on disk of one chain.
#[derive(Default)]
pub(super) struct Chain {
    nodes: Vec<KnownNode>,
    base_epoch: Option<u64>,
    base_bytes: u64,
    deltas: usize,
    delta_bytes: u64,
    /// What the last file had beside its parts: its manifest, mostly. The next one has as much.
    manifest_bytes: u64,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("base_epoch", &self.base_epoch)
            .field("deltas", &self.deltas)
            .finish_non_exhaustive()
    }
}

/// Why a delta was not written.
enum Outcome {
    /// The file, what is known now, and how many bytes of parts were written.
    Written(Checkpoint, Vec<KnownNode>, u64),
    /// The deltas would come to more than the base.
    OverBase,
}

impl Chain {
    /// Writes a snapshot as the next file of the chain: a delta, or a new base where deltas would no longer pay.
    pub fn save(
        &mut self,
        store: &mut dyn Store,
        head: Head,
        manifest: &Manifest,
        snapshot: &Snapshot,
    ) -> Result<Checkpoint> {
        if let Some(base_epoch) = self.base_epoch
            && self.deltas < DELTAS_MAX
            && let used = self.delta_bytes + self.manifest_bytes
            && let Some(room) = self.base_bytes.checked_sub(used)
            // Half of it, since state grows; and a delta that is as long as a base is none.
            && self.expected(snapshot) <= room / 2
        {
            let head = Head { base_epoch, ..head };
            let outcome = self.write(store, head, manifest, snapshot, room)?;
            if let Outcome::Written(written, nodes, part_bytes) = outcome {
                self.deltas += 1;
                self.delta_bytes += written.file_bytes;
                self.manifest_bytes = written.file_bytes - part_bytes;
                self.nodes = nodes;
                return Ok(written);
            }
        }
        // A base that is not written leaves the chain as it was.
        let before = std::mem::take(&mut self.nodes);
        match self.write(store, head, manifest, snapshot, u64::MAX) {
            Ok(Outcome::Written(written, nodes, part_bytes)) => {
                let base_bytes = written.file_bytes;
                let manifest_bytes = base_bytes - part_bytes;
                let base_epoch = Some(head.epoch);
                *self = Self { nodes, base_epoch, base_bytes, manifest_bytes, ..Self::default() };
                Ok(written)
            }
            Ok(Outcome::OverBase) => Err(Error::state("the checkpoint is larger than any can be")),
            Err(error) => {
                self.nodes = before;
                Err(error)
            }
        }
    }

    /// The epochs of the files that it builds on.
    pub fn files(&self) -> impl Iterator<Item = u64> {
        let parts = self.nodes.iter().flat_map(|node| node.sections.iter().flatten());
        parts.map(|known| known.place.epoch)
    }

    /// About how many bytes a delta would have: what was changed is as long as it was.
    fn expected(&self, snapshot: &Snapshot) -> u64 {
        let mut bytes = 0;
        for node in &snapshot.nodes {
            for (index, section) in node.state.sections().iter().enumerate() {
                for (at, part) in section.parts.iter().enumerate() {
                    bytes += match (self.known(&node.name, index, at), part) {
                        (Some(known), part) if is_same(known, part) => 0,
                        (_, Part::Bytes(bytes)) => bytes.len() as u64,
                        (Some(known), Part::Piece(_)) => u64::from(known.place.bytes),
                        (None, Part::Piece(_)) => 0,
                    };
                }
            }
        }
        bytes
    }

    fn known(&self, node: &str, section: usize, part: usize) -> Option<&Known> {
        let node = self.nodes.iter().find(|known| known.name == node)?;
        node.sections.get(section)?.get(part)
    }

    /// Writes a file with at most so many bytes of parts.
    fn write(
        &self,
        store: &mut dyn Store,
        head: Head,
        manifest: &Manifest,
        snapshot: &Snapshot,
        bytes_max: u64,
    ) -> Result<Outcome> {
        let mut is_over = false;
        let written = checkpoint::write(store, &head, |file| {
            let mut manifest = manifest.clone();
            let mut nodes = Vec::with_capacity(snapshot.nodes.len());
            for node in &snapshot.nodes {
                let (saved, known) = self.write_node(file, node).map_err(|error| error.at(&node.name))?;
                manifest.nodes.push(saved);
                nodes.push(known);
                if file.part_bytes() > bytes_max {
                    is_over = true;
                    return Err(Error::state("the deltas come to more than their base"));
                }
            }
            Ok((manifest, (nodes, file.part_bytes())))
        });
        match written {
            Ok((written, (nodes, part_bytes))) => Ok(Outcome::Written(written, nodes, part_bytes)),
            Err(_) if is_over => Ok(Outcome::OverBase),
            Err(error) => Err(error),
        }
    }

    fn write_node(&self, file: &mut Writing<'_>, node: &NodeState) -> Result<(SavedNode, KnownNode)> {
        let before = self.nodes.iter().find(|known| known.name == node.name);
        let mut sections = Vec::with_capacity(node.state.sections().len());
        let mut known_sections = Vec::with_capacity(node.state.sections().len());
        for (index, section) in node.state.sections().iter().enumerate() {
            let before = before.and_then(|before| before.sections.get(index));
            let known = section
                .parts
                .iter()
                .enumerate()
                .map(|(at, part)| write_part(file, part, before.and_then(|before| before.get(at))));
            let known = known.collect::<Result<Vec<Known>>>()?;
            sections.push(SavedSection {
                name: section.name.clone(),
                fields: section.fields.clone(),
                elements: section.elements,
                places: known.iter().map(|known| known.place).collect(),
            });
            known_sections.push(known);
        }
        let saved = SavedNode {
            name: node.name.clone(),
            kind: node.kind.clone(),
            fingerprint: node.fingerprint,
            watermark: node.watermark,
            idle: node.idle,
            edges: node.edges.clone(),
            model: node.model,
            sections,
        };
        Ok((saved, KnownNode { name: node.name.clone(), sections: known_sections }))
    }
}

/// Whether a part is the very one that is on disk.
fn is_same(known: &Known, part: &Part) -> bool {
    match (&known.piece, part) {
        (Some(weak), Part::Piece(piece)) => std::ptr::addr_eq(weak.as_ptr(), Arc::as_ptr(piece)),
        _ => false,
    }
}

/// Writes a part unless it is there.
fn write_part(file: &mut Writing<'_>, part: &Part, before: Option<&Known>) -> Result<Known> {
    let piece = match part {
        Part::Bytes(_) => None,
        Part::Piece(piece) => Some(Arc::downgrade(piece)),
    };
    if let Some(known) = before.filter(|known| is_same(known, part)) {
        return Ok(Known { piece, hash: known.hash, place: known.place });
    }
    let bytes = part.bytes()?;
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
    let place = match before.filter(|known| known.hash == hash && known.place.bytes as usize == bytes.len()) {
        Some(known) => known.place,
        None => file.part(&bytes)?,
    };
    Ok(Known { piece, hash, place })
}
