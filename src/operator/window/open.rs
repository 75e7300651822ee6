//! Which windows are open: for each key a list of its windows, newest first, and for each window a slot, the
//! index of its cells in the slabs. Pure.
//!
//! A window here is a pane (the part of a tumbling or hopping window between two neighbouring edges), a session
//! or the rows counted so far. The windows of one key never overlap, so the order of their starts is the order
//! of their ends, and whatever is over is at the old end of the list.

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// The most windows of one key that are open at once. The list of a key is searched from its newest end, so
/// this also bounds the work for a row that is far behind.
pub(super) const PER_KEY_MAX: u32 = 4096;

/// One open window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slot {
    /// Where it starts, µs since 1970.
    pub start: i64,
    /// The first moment behind it.
    pub end: i64,
    /// Its rows.
    pub rows: u64,
    /// Its key's group id.
    pub key: u32,
    /// The next older window of the same key, or [`NONE`].
    pub older: u32,
}

/// All open windows.
#[derive(Debug)]
pub(super) struct Open {
    slots: Vec<Slot>,
    free: Vec<u32>,
    newest: Vec<u32>,
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
            slots: Vec::new(),
            free: Vec::new(),
            newest: Vec::new(),
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
    pub fn of(&self, key: u32) -> impl Iterator<Item = u32> {
        let some = |slot: u32| Some(slot).filter(|slot| *slot != NONE);
        std::iter::successors(some(self.newest(key)), move |slot| some(self.get(*slot).older))
    }

    /// The slot of a key's pane, opened if need be; `None` beyond the limits or for an id that is no key's.
    #[inline]
    pub fn pane(&mut self, key: u32, start: i64, end: i64) -> Option<u32> {
        let newest = self.newest(key);
        match self.slots.get(newest as usize) {
            Some(slot) if slot.start == start => Some(newest),
            _ => self.older_pane(key, start, end),
        }
    }

    #[cold]
    fn older_pane(&mut self, key: u32, start: i64, end: i64) -> Option<u32> {
        let mut newer = NONE;
        for slot in self.of(key) {
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
        let slot = self.take(Slot { start, end, rows: 0, key, older });
        match newer {
            NONE => self.newest[key as usize] = slot,
            newer => self.get_mut(newer).older = slot,
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

    /// Takes the newest window out of its key's list; its slot stays in use until it is given back.
    pub fn unlist_newest(&mut self, key: u32) {
        let newest = self.newest(key);
        if newest != NONE {
            self.newest[key as usize] = self.get(newest).older;
            self.per_key[key as usize] -= 1;
            self.listed -= 1;
        }
    }

    /// Takes the window behind `newer` out of their key's list; its slot stays in use until it is given back.
    pub fn unlist_behind(&mut self, newer: u32) -> u32 {
        let slot = self.get(newer).older;
        if slot != NONE {
            let Slot { key, older, .. } = *self.get(slot);
            self.get_mut(newer).older = older;
            self.per_key[key as usize] -= 1;
            self.listed -= 1;
        }
        slot
    }

    /// Takes the windows of a key that are over out of its list, newest first. `over` holds for all windows
    /// older than one for which it holds. Their slots stay in use until they are given back.
    pub fn unlist(&mut self, key: u32, over: impl Fn(&Slot) -> bool, taken: &mut Vec<u32>) {
        let (mut last, mut slot) = (NONE, self.newest(key));
        while slot != NONE && !over(self.get(slot)) {
            (last, slot) = (slot, self.get(slot).older);
        }
        if slot == NONE {
            return;
        }
        match last {
            NONE => self.newest[key as usize] = NONE,
            last => self.get_mut(last).older = NONE,
        }
        while slot != NONE {
            taken.push(slot);
            self.per_key[key as usize] -= 1;
            self.listed -= 1;
            slot = self.get(slot).older;
        }
    }

    /// Sets another limit; windows that are open beyond it stay.
    pub fn limit(&mut self, windows_max: usize) {
        self.windows_max = windows_max;
    }

    /// Gives a slot back that is in no list any more.
    pub fn give_back(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Finds the least end of all windows again, after some were taken out.
    pub fn settle(&mut self) {
        let oldest = (0..self.keys()).filter_map(|key| self.of(key).last());
        self.end_min = oldest.map(|slot| self.get(slot).end).min().unwrap_or(i64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(open: &Open, key: u32) -> Vec<i64> {
        open.of(key).map(|slot| open.get(slot).start).collect()
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
        open.unlist(0, |slot| slot.end <= 20, &mut taken);
        assert_eq!(taken.iter().map(|slot| open.get(*slot).start).collect::<Vec<_>>(), [10, 0]);
        taken.iter().for_each(|slot| open.give_back(*slot));
        open.settle();
        assert_eq!((starts(&open, 0), open.len(), open.end_min), (vec![30, 20], 3, 15));
        let slots = open.slots();
        open.pane(0, 40, 50).unwrap();
        open.pane(0, 10, 20).unwrap();
        assert_eq!((starts(&open, 0), open.slots()), (vec![40, 30, 20, 10], slots), "slots are used again");
        let taken = open.unlist_behind(open.newest(0));
        assert_eq!(open.get(taken).start, 30);
        open.unlist_newest(0);
        assert_eq!((starts(&open, 0), open.len()), (vec![20, 10], 3));
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
