//! The order in which keys were used last: a list through two vectors of ids. Pure.

use super::NONE;

/// Neighbours of each id, newest first; only kept where eviction needs it.
pub(super) struct Recency {
    newer: Vec<u32>,
    older: Vec<u32>,
    newest: u32,
    oldest: u32,
}

impl Recency {
    /// No ids in the order, with room for some.
    pub fn with_ids(ids: usize) -> Self {
        Self { newer: vec![NONE; ids], older: vec![NONE; ids], newest: NONE, oldest: NONE }
    }

    /// Makes room for one more id.
    pub fn grow(&mut self) {
        self.newer.push(NONE);
        self.older.push(NONE);
    }

    /// The id used longest ago; [`NONE`] if there is none.
    pub fn oldest(&self) -> u32 {
        self.oldest
    }

    /// All ids, the one used longest ago first.
    pub fn oldest_first(&self) -> impl Iterator<Item = u32> {
        let some = |id: u32| Some(id).filter(|id| *id != NONE);
        std::iter::successors(some(self.oldest), move |id| some(self.newer[*id as usize]))
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
        self.older[id as usize] = self.newest;
        self.newer[id as usize] = NONE;
        match self.newest {
            NONE => self.oldest = id,
            newest => self.newer[newest as usize] = id,
        }
        self.newest = id;
    }

    /// Takes an id out of the order.
    pub fn remove(&mut self, id: u32) {
        let (newer, older) = (self.newer[id as usize], self.older[id as usize]);
        match newer {
            NONE => self.newest = older,
            newer => self.older[newer as usize] = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.newer[older as usize] = newer,
        }
    }
}
