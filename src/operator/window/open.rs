//! Which windows are open: for each key a list of its windows, newest first, and for each window a slot, the
//! index of its cells in the slabs. Pure.
//!
//! A window here is a pane (the part of a tumbling or hopping window between two neighbouring edges), a session
//! or the rows counted so far. The windows of one key never overlap, so the order of their starts is the order
//! of their ends: rows find theirs from the new end of the list, and whatever is over is at the old end.

use serde::{Deserialize, Serialize};

use crate::core::{Chunks, StateReader, StateWriter};
use crate::error::{Error, Result};

/// No slot, no key.
pub(super) const NONE: u32 = u32::MAX;

/// Edges of windows lie within this of 1970, in µs.
const EDGE_MAX: i64 = 4 * super::running::TIME_MAX;

/// The most windows of one key that are open at once. The list of a key is searched from its newest end, so
/// this also bounds the work for a row that is far behind.
pub(super) const PER_KEY_MAX: u32 = 4096;

/// One open window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Slot {
    /// Its key's group id; [`NONE`] if the slot is free.
    pub key: u32,
    /// Where it starts, µs since 1970.
    pub start: i64,
    /// The first moment behind it.
    pub end: i64,
    /// Its rows.
    pub rows: u64,
    /// The next older window of the same key, or [`NONE`]. Found anew from the starts when state is loaded.
    #[serde(skip, default = "none")]
    pub older: u32,
    /// The next newer window of the same key, or [`NONE`].
    #[serde(skip, default = "none")]
    pub newer: u32,
}

/// What a slot is written as.
const FIELDS: &str = "key:key start:time end:time rows:u";

fn none() -> u32 {
    NONE
}

/// A free slot.
impl Default for Slot {
    fn default() -> Self {
        Self::new(NONE, 0, 0, 0)
    }
}

impl Slot {
    /// A window of some rows that is in no list.
    pub fn new(key: u32, start: i64, end: i64, rows: u64) -> Self {
        Self { start, end, rows, key, older: NONE, newer: NONE }
    }
}

/// All open windows.
#[derive(Debug)]
pub(super) struct Open {
    slots: Chunks<Slot>,
    free: Vec<u32>,
    newest: Vec<u32>,
    oldest: Vec<u32>,
    per_key: Vec<u32>,
    listed: usize,
    windows_max: usize,
    /// No window ends before this.
    pub end_min: i64,
}

impl Open {
    /// No windows, and never more than so many.
    pub fn new(windows_max: usize) -> Self {
        Self {
            slots: Chunks::new(),
            free: Vec::new(),
            newest: Vec::new(),
            oldest: Vec::new(),
            per_key: Vec::new(),
            listed: 0,
            windows_max,
            end_min: i64::MAX,
        }
    }

    /// Makes room for keys up to this id, exclusive.
    pub fn grow_keys(&mut self, keys: usize) {
        if self.newest.len() < keys {
            self.newest.resize(keys, NONE);
            self.oldest.resize(keys, NONE);
            self.per_key.resize(keys, 0);
        }
    }

    /// How many keys there is room for.
    pub fn keys(&self) -> u32 {
        self.newest.len() as u32
    }

    /// How many slots there ever were: the length of the slabs.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many windows are open.
    pub fn len(&self) -> usize {
        self.listed
    }

    /// The newest window of a key, or [`NONE`]; also for ids that are no key's.
    #[inline]
    pub fn newest(&self, key: u32) -> u32 {
        self.newest.get(key as usize).copied().unwrap_or(NONE)
    }

    /// A window by its slot.
    #[inline]
    pub fn get(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    /// A window by its slot.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    /// The windows of a key, newest first.
    pub fn newest_first(&self, key: u32) -> impl Iterator<Item = u32> {
        self.walk(self.newest(key), |slot| slot.older)
    }

    /// The windows of a key, oldest first.
    pub fn oldest_first(&self, key: u32) -> impl Iterator<Item = u32> {
        self.walk(self.oldest[key as usize], |slot| slot.newer)
    }

    fn walk(&self, from: u32, next: fn(&Slot) -> u32) -> impl Iterator<Item = u32> {
        let some = |slot: u32| Some(slot).filter(|slot| *slot != NONE);
        std::iter::successors(some(from), move |slot| some(next(self.get(*slot))))
    }

    /// Gives each row its pane of the grid, opened if need be, and counts it there. A row beyond the limits or
    /// with an id that is no key's gets [`NONE`], and `refuse` hears of its id.
    pub fn panes(
        &mut self,
        ids: &[u32],
        times: &[i64],
        pane: i64,
        slots: &mut Vec<u32>,
        mut refuse: impl FnMut(u32),
    ) {
        let (mut start, mut end) = (i64::MAX, i64::MIN);
        let mut row = 0;
        while row < ids.len() {
            // Mostly a row is in the newest pane of its key: a run of those is dealt with in one tight loop.
            let (newest, windows) = (&self.newest[..], &mut self.slots);
            let run = slots.len();
            slots.extend(ids[row..].iter().zip(&times[row..]).map_while(|(id, time)| {
                if *time < start || *time >= end {
                    start = time.div_euclid(pane) * pane;
                    end = start + pane;
                }
                let slot = *newest.get(*id as usize)?;
                let window = windows.get_mut(slot as usize).filter(|window| window.start == start)?;
                window.rows += 1;
                Some(slot)
            }));
            row += slots.len() - run;
            if let Some(id) = ids.get(row) {
                match self.pane(*id, start, end) {
                    Some(slot) => {
                        self.get_mut(slot).rows += 1;
                        slots.push(slot);
                    }
                    None => {
                        refuse(*id);
                        slots.push(NONE);
                    }
                }
                row += 1;
            }
        }
    }

    /// The slot of a key's pane, opened if need be; `None` beyond the limits or for an id that is no key's.
    fn pane(&mut self, key: u32, start: i64, end: i64) -> Option<u32> {
        let mut newer = NONE;
        for slot in self.newest_first(key) {
            match self.get(slot).start {
                found if found == start => return Some(slot),
                found if found < start => break,
                _ => newer = slot,
            }
        }
        self.open(key, newer, start, end)
    }

    /// Opens a window right behind a newer one of the same key, or as its newest if that is [`NONE`];
    /// `None` beyond the limits or for an id that is no key's.
    pub fn open(&mut self, key: u32, newer: u32, start: i64, end: i64) -> Option<u32> {
        let count = self.per_key.get_mut(key as usize)?;
        if self.listed >= self.windows_max || *count >= PER_KEY_MAX {
            return None;
        }
        *count += 1;
        self.listed += 1;
        self.end_min = self.end_min.min(end);
        let older = if newer == NONE { self.newest(key) } else { self.get(newer).older };
        let slot = self.take(Slot { older, newer, ..Slot::new(key, start, end, 0) });
        match newer {
            NONE => self.newest[key as usize] = slot,
            newer => self.get_mut(newer).older = slot,
        }
        match older {
            NONE => self.oldest[key as usize] = slot,
            older => self.get_mut(older).newer = slot,
        }
        Some(slot)
    }

    /// A slot that is in no list: for what is put together only to be emitted.
    pub fn take(&mut self, window: Slot) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = window;
                slot
            }
            None => {
                self.slots.push(window);
                self.slots.len() as u32 - 1
            }
        }
    }

    /// Takes a window out of its key's list; its slot stays in use until it is given back.
    pub fn unlist(&mut self, slot: u32) {
        let Slot { key, older, newer, .. } = *self.get(slot);
        match newer {
            NONE => self.newest[key as usize] = older,
            newer => self.get_mut(newer).older = older,
        }
        match older {
            NONE => self.oldest[key as usize] = newer,
            older => self.get_mut(older).newer = newer,
        }
        self.per_key[key as usize] -= 1;
        self.listed -= 1;
    }

    /// Takes the windows of a key that are over out of its list, oldest first. `over` holds for all windows
    /// older than one for which it holds. Their slots stay in use until they are given back.
    pub fn unlist_over(&mut self, key: u32, over: impl Fn(&Slot) -> bool, taken: &mut Vec<u32>) {
        loop {
            let slot = self.oldest[key as usize];
            if slot == NONE || !over(self.get(slot)) {
                return;
            }
            taken.push(slot);
            self.unlist(slot);
        }
    }

    /// Gives a slot back that is in no list any more.
    pub fn give_back(&mut self, slot: u32) {
        *self.get_mut(slot) = Slot::default();
        self.free.push(slot);
    }

    /// Writes the windows down, by slot.
    pub fn save(&mut self, state: &mut StateWriter) {
        state.chunks("windows", FIELDS, &mut self.slots);
    }

    /// Takes the windows back, for keys up to this id, exclusive, of which `is_live` says whether they are there. What
    /// was open stays, also if the limit is lower now.
    ///
    /// # Errors
    /// If the state is damaged.
    pub fn load(
        &mut self,
        state: &mut StateReader<'_>,
        keys: usize,
        is_live: impl Fn(u32) -> bool,
    ) -> Result<()> {
        *self = Self { slots: Chunks::load(state)?, ..Self::new(self.windows_max) };
        self.grow_keys(keys);
        let mut listed: Vec<(u32, Slot)> = (0u32..).zip(self.slots.iter().copied()).collect();
        // What is free is taken from the end, so that the first slots are used first.
        self.free =
            listed.iter().rev().filter(|(_, slot)| slot.key == NONE).map(|(index, _)| *index).collect();
        listed.retain(|(_, slot)| slot.key != NONE);
        let range = -EDGE_MAX..=EDGE_MAX;
        let is_window = |slot: &Slot| {
            slot.start < slot.end
                && slot.rows > 0
                && range.contains(&slot.start)
                && range.contains(&slot.end)
                && (slot.key as usize) < keys
                && is_live(slot.key)
        };
        listed.sort_unstable_by_key(|(_, slot)| (slot.key, slot.start));
        let mut sound = listed.iter().all(|(_, slot)| is_window(slot));
        for (index, slot) in listed {
            if !sound {
                break;
            }
            let (key, older) = (slot.key as usize, self.newest(slot.key));
            match older {
                NONE => self.oldest[key] = index,
                older => {
                    sound = self.get(older).end <= slot.start;
                    self.get_mut(older).newer = index;
                }
            }
            self.get_mut(index).older = older;
            self.newest[key] = index;
            self.per_key[key] += 1;
            sound &= self.per_key[key] <= PER_KEY_MAX;
            self.listed += 1;
        }
        if !sound {
            return Err(Error::state("saved windows do not fit together"));
        }
        self.settle();
        Ok(())
    }

    /// Finds the least end of all windows again, after some were taken out.
    pub fn settle(&mut self) {
        let oldest = self.oldest.iter().filter(|slot| **slot != NONE);
        self.end_min = oldest.map(|slot| self.get(*slot).end).min().unwrap_or(i64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The starts of a key's windows, newest first; the list is the same from both ends.
    fn starts(open: &Open, key: u32) -> Vec<i64> {
        let newest_first: Vec<u32> = open.newest_first(key).collect();
        let mut oldest_first: Vec<u32> = open.oldest_first(key).collect();
        oldest_first.reverse();
        assert_eq!(newest_first, oldest_first);
        newest_first.into_iter().map(|slot| open.get(slot).start).collect()
    }

    #[test]
    fn panes_are_found_again_and_kept_in_order() {
        let mut open = Open::new(10);
        open.grow_keys(2);
        for start in [20, 0, 30, 10, 20, 0] {
            open.pane(0, start, start + 10).unwrap();
        }
        open.pane(1, 5, 15).unwrap();
        assert_eq!((starts(&open, 0), starts(&open, 1)), (vec![30, 20, 10, 0], vec![5]));
        assert_eq!((open.len(), open.end_min), (5, 10));
        let mut taken = Vec::new();
        open.unlist_over(0, |slot| slot.end <= 20, &mut taken);
        assert_eq!(taken.iter().map(|slot| open.get(*slot).start).collect::<Vec<_>>(), [0, 10]);
        taken.iter().for_each(|slot| open.give_back(*slot));
        open.settle();
        assert_eq!((starts(&open, 0), open.len(), open.end_min), (vec![30, 20], 3, 15));
        let slots = open.slots();
        open.pane(0, 40, 50).unwrap();
        open.pane(0, 10, 20).unwrap();
        assert_eq!((starts(&open, 0), open.slots()), (vec![40, 30, 20, 10], slots), "slots are used again");
        for (start, left) in [(30, vec![40, 20, 10]), (40, vec![20, 10]), (10, vec![20]), (20, vec![])] {
            let slot = open.newest_first(0).find(|slot| open.get(*slot).start == start).unwrap();
            open.unlist(slot);
            assert_eq!(starts(&open, 0), left);
        }
        assert_eq!(open.len(), 1);
    }

    #[test]
    fn rows_are_given_panes_in_runs_and_one_by_one() {
        let mut open = Open::new(4);
        open.grow_keys(2);
        let ids = [0, 1, 0, 0, 7, 0, 1, 0, 0];
        let times = [1, 2, 3, 15, 15, 4, 11, 25, 16];
        let (mut slots, mut refused) = (Vec::new(), Vec::new());
        open.panes(&ids, &times, 10, &mut slots, |id| refused.push(id));
        assert_eq!(slots, [0, 1, 0, 2, NONE, 0, 3, NONE, 2]);
        assert_eq!(refused, [7, 0]);
        assert_eq!([0, 1, 2, 3].map(|slot| open.get(slot).rows), [3, 1, 2, 1]);
        assert_eq!(starts(&open, 0), [10, 0]);
    }

    #[test]
    fn there_are_never_more_windows_than_allowed() {
        let mut open = Open::new(3);
        open.grow_keys(4);
        let opened = (0..4).map(|key| open.pane(key, 0, 10)).filter(Option::is_some).count();
        assert_eq!((opened, open.len()), (3, 3));
        assert!(open.pane(0, 0, 10).is_some() && open.pane(0, 10, 20).is_none());
        assert_eq!(open.pane(9, 0, 10), None, "no key's id");

        let mut open = Open::new(usize::MAX);
        open.grow_keys(1);
        let opened = (0..5000).filter(|start| open.pane(0, *start, start + 1).is_some()).count();
        assert_eq!(opened, PER_KEY_MAX as usize);
    }
}
