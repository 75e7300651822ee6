//! What `dedup` remembers: which keys were seen, each until its span of time is forgotten. Pure.
//!
//! Time is divided into spans, aligned to 1970; everything remembered belongs to the span of its row. A key that
//! is a name and a whole number is kept in [`Runs`] of consecutive numbers, one list per name: a device that
//! counts its messages costs one run of 24 bytes per span, not one entry per message. All other keys are kept
//! as 128-bit hashes in one table.

use std::collections::BTreeMap;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use crate::core::{StateReader, StateWriter};
use crate::error::{Error, Result};

/// Farther from the end of its list than this, a new run is not moved in but hashed: numbers without order
/// would make each row move the whole list.
pub(super) const MOVED_RUNS_MAX: usize = 512;

/// When the memory is full, older spans give way only if they hold at least this part of it: dropping a span
/// looks at everything.
const WORTHWHILE_PART: usize = 64;

/// The most spans looked at when the memory is full.
const SPANS_LOOKED_AT_MAX: usize = 1024;

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// For the first time; it is remembered now.
    First,
    /// It is remembered already.
    Again,
    /// For the first time, but there is no room to remember it.
    Unremembered,
}

/// Consecutive numbers seen in the same span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    first: i64,
    last: i64,
    span: i64,
}

/// The numbers of one name: runs in ascending order that do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Runs(Vec<Run>);

/// A hashed key and its span: 24 bytes, with its place in the table at most 57.
type Entry = ([u64; 2], i64);

/// All that is remembered.
pub(super) struct Memory {
    /// Length of a span in microseconds.
    span_micros: i64,
    entries_max: usize,
    /// Spans before this one are forgotten.
    floor: i64,
    /// The span that was asked for last: its number, its start and the first moment behind it.
    current: (i64, i64, i64),
    runs: Vec<Runs>,
    hashes: HashTable<Entry>,
    /// How many entries (runs and hashes) each span has.
    entries: BTreeMap<i64, usize>,
    total: usize,
}

impl Memory {
    /// Remembers nothing yet. `span_micros` is positive.
    pub(super) fn new(span_micros: i64, entries_max: usize) -> Self {
        Self {
            span_micros,
            entries_max,
            floor: i64::MIN,
            current: (0, 0, 0),
            runs: Vec::new(),
            hashes: HashTable::new(),
            entries: BTreeMap::new(),
            total: 0,
        }
    }

    /// The span of a moment; none if it is forgotten already.
    pub(super) fn span(&mut self, micros: i64) -> Option<i64> {
        let (_, start, end) = self.current;
        if micros < start || micros >= end {
            let span = micros.div_euclid(self.span_micros);
            let start = span.saturating_mul(self.span_micros);
            self.current = (span, start, start.saturating_add(self.span_micros));
        }
        Some(self.current.0).filter(|span| *span >= self.floor)
    }

    /// Forgets the spans that end at or before a moment; says whether the memory begins later now.
    pub(super) fn forget_before(&mut self, micros: i64) -> bool {
        let floor = micros.div_euclid(self.span_micros);
        if floor <= self.floor {
            return false;
        }
        self.floor = floor;
        self.sweep();
        true
    }

    /// One more than the largest id of a name whose numbers are kept.
    pub(super) fn names(&self) -> usize {
        self.runs.len()
    }

    /// How many runs and hashes there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.total
    }

    /// Looks up a key that is a name (by its dense id) and a number, and remembers it. `hash` is the hash of
    /// the same key; it is only computed if it is needed. The second part counts what gave way.
    pub(super) fn see_number(
        &mut self,
        name: u32,
        number: i64,
        span: i64,
        mut hash: impl FnMut() -> [u64; 2],
    ) -> (Seen, u64) {
        let name = name as usize;
        if name >= self.runs.len() {
            self.runs.resize_with(name + 1, Runs::default);
        }
        let place = match self.runs[name].find(number) {
            Ok(()) => return (Seen::Again, 0),
            Err(place) => place,
        };
        if !self.hashes.is_empty() && self.has_hash(hash()) {
            return (Seen::Again, 0);
        }
        match self.runs[name].join(place, number, span) {
            Joined::Extended => return (Seen::First, 0),
            Joined::Bridged => {
                self.count_out(span);
                return (Seen::First, 0);
            }
            Joined::Apart => {}
        }
        let (is_room, forgotten) = self.make_room(span);
        if !is_room {
            return (Seen::Unremembered, 0);
        }
        self.count_in(span);
        // What gave way may have stood before the place.
        let place = if forgotten > 0 { self.runs[name].find(number).err().unwrap_or(0) } else { place };
        let runs = &mut self.runs[name].0;
        if runs.len() - place <= MOVED_RUNS_MAX {
            runs.insert(place, Run { first: number, last: number, span });
        } else {
            self.add_hash(hash(), span);
        }
        (Seen::First, forgotten)
    }

    /// Looks up a hashed key and remembers it. The second part counts what gave way.
    pub(super) fn see_hash(&mut self, hash: [u64; 2], span: i64) -> (Seen, u64) {
        if self.has_hash(hash) {
            return (Seen::Again, 0);
        }
        let (is_room, forgotten) = self.make_room(span);
        if !is_room {
            return (Seen::Unremembered, 0);
        }
        self.count_in(span);
        self.add_hash(hash, span);
        (Seen::First, forgotten)
    }

    fn has_hash(&self, hash: [u64; 2]) -> bool {
        self.hashes.find(hash[0], |(other, _)| *other == hash).is_some()
    }

    fn add_hash(&mut self, hash: [u64; 2], span: i64) {
        self.hashes.insert_unique(hash[0], (hash, span), |(hash, _)| hash[0]);
    }

    fn count_in(&mut self, span: i64) {
        *self.entries.entry(span).or_default() += 1;
        self.total += 1;
    }

    fn count_out(&mut self, span: i64) {
        if let Some(count) = self.entries.get_mut(&span) {
            *count -= 1;
            self.total -= 1;
        }
    }

    /// Whether one more entry fits, older spans than its own giving way; and how many entries did.
    fn make_room(&mut self, span: i64) -> (bool, u64) {
        if self.total < self.entries_max {
            return (true, 0);
        }
        let worthwhile = (self.entries_max / WORTHWHILE_PART).max(1);
        let (mut freed, mut floor) = (0, self.floor);
        for (older, count) in self.entries.range(..span).take(SPANS_LOOKED_AT_MAX) {
            if freed >= worthwhile {
                break;
            }
            freed += count;
            floor = older + 1;
        }
        if freed < worthwhile {
            return (false, 0);
        }
        self.floor = floor;
        self.sweep();
        (true, freed as u64)
    }

    /// Drops everything of forgotten spans.
    fn sweep(&mut self) {
        let kept = self.entries.split_off(&self.floor);
        let dropped = std::mem::replace(&mut self.entries, kept);
        if dropped.is_empty() {
            return;
        }
        self.total -= dropped.values().sum::<usize>();
        let floor = self.floor;
        for Runs(runs) in &mut self.runs {
            runs.retain(|run| run.span >= floor);
            // A burst of single runs is not paid for for ever.
            if runs.capacity() > 64 && runs.len() < runs.capacity() / 4 {
                runs.shrink_to(runs.len() * 2);
            }
        }
        self.hashes.retain(|(_, span)| *span >= floor);
        if self.hashes.capacity() > 1024 && self.hashes.len() < self.hashes.capacity() / 4 {
            self.hashes.shrink_to(self.hashes.len() * 2, |(hash, _)| hash[0]);
        }
    }

    /// Writes everything down, in an order of its own.
    pub(super) fn save(&self, state: &mut StateWriter) {
        let mut hashes: Vec<Entry> = self.hashes.iter().copied().collect();
        hashes.sort_unstable();
        state.value(&(self.floor, &self.runs, hashes));
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// If the state is damaged.
    pub(super) fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let (floor, runs, hashes): (i64, Vec<Runs>, Vec<Entry>) = state.value()?;
        let sound = runs.iter().all(|Runs(runs)| {
            runs.iter().all(|run| run.first <= run.last && run.span >= floor)
                && runs.windows(2).all(|pair| pair[0].last < pair[1].first)
        }) && hashes.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && hashes.iter().all(|(_, span)| *span >= floor);
        if !sound {
            return Err(Error::state("the remembered keys do not fit together"));
        }
        *self = Self { floor, ..Self::new(self.span_micros, self.entries_max) };
        for Runs(runs) in &runs {
            runs.iter().for_each(|run| self.count_in(run.span));
        }
        self.runs = runs;
        self.hashes.reserve(hashes.len(), |(hash, _)| hash[0]);
        for (hash, span) in hashes {
            self.count_in(span);
            self.add_hash(hash, span);
        }
        Ok(())
    }

    /// How many hashes there are.
    #[cfg(test)]
    pub(super) fn hashed(&self) -> usize {
        self.hashes.len()
    }

    /// How many bytes all that takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(|Runs(runs)| runs.capacity() * size_of::<Run>()).sum();
        runs + self.runs.capacity() * size_of::<Runs>() + self.hashes.allocation_size()
    }
}

/// How a number fits between the runs beside its place.
enum Joined {
    Extended,
    /// It closed the gap between two runs, which are one now.
    Bridged,
    Apart,
}

impl Runs {
    /// Whether a number is there; if not, the place where a run that begins with it would stand.
    fn find(&self, number: i64) -> std::result::Result<(), usize> {
        match self.0.last() {
            // The next message of a device: nothing to search.
            Some(run) if number <= run.last => {}
            _ => return Err(self.0.len()),
        }
        let place = self.0.partition_point(|run| run.last < number);
        if self.0[place].first <= number { Ok(()) } else { Err(place) }
    }

    /// Adds a number to the runs of the same span beside its place.
    fn join(&mut self, place: usize, number: i64, span: i64) -> Joined {
        let (left, right) = self.0.split_at_mut(place);
        let before =
            left.last_mut().filter(|run| run.span == span && run.last.checked_add(1) == Some(number));
        let behind =
            right.first_mut().filter(|run| run.span == span && number.checked_add(1) == Some(run.first));
        match (before, behind) {
            (Some(before), Some(behind)) => {
                before.last = behind.last;
                self.0.remove(place);
                Joined::Bridged
            }
            (Some(before), None) => {
                before.last = number;
                Joined::Extended
            }
            (None, Some(behind)) => {
                behind.first = number;
                Joined::Extended
            }
            (None, None) => Joined::Apart,
        }
    }
}
