//! The order in which keys were used last: a list through two vectors of ids. Pure.

use serde::{Deserialize, Serialize};

use super::super::chunks::Chunks;
use super::super::state::{StateReader, StateWriter};
use super::NONE;
use crate::error::Result;

/// The neighbours of an id, [`NONE`] at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Neighbours {
    newer: u32,
    older: u32,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { newer: NONE, older: NONE }
    }
}

/// Neighbours of each id; only kept where eviction needs it.
pub(super) struct Recency {
    neighbours: Chunks<Neighbours>,
    newest: u32,
    oldest: u32,
}

impl Default for Recency {
    fn default() -> Self {
        Self { neighbours: Chunks::new(), newest: NONE, oldest: NONE }
    }
}

impl Recency {
    /// The ids of these that have a name, the first one used longest ago.
    pub fn of<'a>(ids: impl Iterator<Item = (u32, &'a super::Name)>, count: usize) -> Self {
        let mut recency = Self::default();
        recency.neighbours.grow(count);
        ids.filter(|(_, name)| name.is_some()).for_each(|(id, _)| recency.push(id));
        recency
    }

    /// Whether no id is in the order.
    pub fn is_empty(&self) -> bool {
        self.oldest == NONE
    }

    /// The id used longest ago; [`NONE`] if there is none.
    pub fn oldest(&self) -> u32 {
        self.oldest
    }

    /// Moves an id that is in the order to its front.
    pub fn touch(&mut self, id: u32) {
        if self.newest != id {
            self.remove(id);
            self.push(id);
        }
    }

    /// Puts an id that is not in the order to its front.
    pub fn push(&mut self, id: u32) {
        self.neighbours.grow(id as usize + 1);
        self.neighbours[id as usize] = Neighbours { newer: NONE, older: self.newest };
        match self.newest {
            NONE => self.oldest = id,
            newest => self.neighbours[newest as usize].newer = id,
        }
        self.newest = id;
    }

    /// Takes an id out of the order.
    pub fn remove(&mut self, id: u32) {
        let Neighbours { newer, older } = self.neighbours[id as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.neighbours[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.neighbours[older as usize].newer = newer,
        }
    }

    pub fn save(&mut self, state: &mut StateWriter) {
        state.value(&(self.newest, self.oldest));
        state.chunks("order of keys", "", &mut self.neighbours);
    }

    pub fn load(state: &mut StateReader<'_>) -> Result<Self> {
        let (newest, oldest) = state.value()?;
        Ok(Self { neighbours: Chunks::load(state)?, newest, oldest })
    }

    /// Whether it is the order of just the ids that have a name, or no order at all.
    pub fn fits(&self, names: &Chunks<super::Name>) -> bool {
        if self.is_empty() {
            return self.newest == NONE;
        }
        let live = names.iter().filter(|name| name.is_some()).count();
        let (mut older, mut id) = (NONE, self.oldest);
        // Each step is held against the way back, so no id comes twice, and `live` steps are all there are.
        for _ in 0..live {
            let is_live = names.get(id as usize).is_some_and(Option::is_some);
            match self.neighbours.get(id as usize) {
                Some(neighbours) if is_live && neighbours.older == older => {
                    (older, id) = (id, neighbours.newer);
                }
                _ => return false,
            }
        }
        id == NONE && older == self.newest
    }
}
