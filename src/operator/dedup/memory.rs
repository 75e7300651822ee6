//! What `dedup` remembers: which keys were seen, each until its span of time is forgotten. Pure.
//!
//! Time is divided into spans, aligned to 1970; everything remembered belongs to the span of its row. A key that
//! is a name and a whole number is kept in [`Runs`] of consecutive numbers, one list per name: a device that
//! counts its messages costs one run of 24 bytes per span, not one entry per message. All other keys are kept
//! as 128-bit hashes in one table.

use std::collections::BTreeMap;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use crate::core::{Chunks, StateReader, StateWriter};
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

/// Tables that the hashes are divided among, by their last bits: what a cut shares, and what is copied at once where
/// one changes while the snapshot is written. A power of two.
const SHARDS: usize = 64;

/// The hashes of one table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "Vec<Entry>", try_from = "Vec<Entry>")]
struct Shard(HashTable<Entry>);

impl Shard {
    fn add(&mut self, entry: Entry) {
        self.0.insert_unique(entry.0[0], entry, |(hash, _)| hash[0]);
    }
}

/// In an order of its own, so that equal tables are written alike.
impl From<Shard> for Vec<Entry> {
    fn from(shard: Shard) -> Self {
        let mut entries: Vec<Entry> = shard.0.into_iter().collect();
        entries.sort_unstable();
        entries
    }
}

impl TryFrom<Vec<Entry>> for Shard {
    type Error = &'static str;

    fn try_from(entries: Vec<Entry>) -> std::result::Result<Self, Self::Error> {
        if !entries.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            return Err("hashes out of order");
        }
        let mut shard = Self(HashTable::with_capacity(entries.len()));
        entries.into_iter().for_each(|entry| shard.add(entry));
        Ok(shard)
    }
}

fn shard_of(hash: [u64; 2]) -> usize {
    hash[1] as usize % SHARDS
}

/// All that is remembered.
pub(super) struct Memory {
    /// Length of a span in microseconds.
    span_micros: i64,
    entries_max: usize,
    /// Spans before this one are forgotten.
    floor: i64,
    /// The span that was asked for last: its number, its start and the first moment behind it.
    current: (i64, i64, i64),
    runs: Chunks<Runs>,
    hashes: Chunks<Shard, 1>,
    /// How many hashes there are, in all tables.
    hashed: usize,
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
            runs: Chunks::new(),
            hashes: (0..SHARDS).map(|_| Shard::default()).collect(),
            hashed: 0,
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
        self.runs.grow(name + 1);
        let place = match self.runs[name].find(number) {
            Ok(()) => return (Seen::Again, 0),
            Err(place) => place,
        };
        if self.hashed > 0 && self.has_hash(hash()) {
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
        let shard = self.hashes.get(shard_of(hash));
        shard.is_some_and(|shard| shard.0.find(hash[0], |(other, _)| *other == hash).is_some())
    }

    fn add_hash(&mut self, hash: [u64; 2], span: i64) {
        self.hashes[shard_of(hash)].add((hash, span));
        self.hashed += 1;
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
        let is_gone = |run: &Run| run.span < floor;
        for name in 0..self.runs.len() {
            // What loses nothing is not touched: it would count as changed.
            if self.runs[name].0.iter().any(is_gone) {
                let Runs(runs) = &mut self.runs[name];
                runs.retain(|run| !is_gone(run));
                // A burst of single runs is not paid for for ever.
                if runs.capacity() > 64 && runs.len() < runs.capacity() / 4 {
                    runs.shrink_to(runs.len() * 2);
                }
            }
        }
        self.hashed = 0;
        for shard in 0..self.hashes.len() {
            if self.hashes[shard].0.iter().any(|(_, span)| *span < floor) {
                let Shard(hashes) = &mut self.hashes[shard];
                hashes.retain(|(_, span)| *span >= floor);
                if hashes.capacity() > 1024 && hashes.len() < hashes.capacity() / 4 {
                    hashes.shrink_to(hashes.len() * 2, |(hash, _)| hash[0]);
                }
            }
            self.hashed += self.hashes[shard].0.len();
        }
    }

    /// Writes everything down.
    pub(super) fn save(&mut self, state: &mut StateWriter) {
        state.value(&self.floor);
        state.chunks("runs of numbers", "", &mut self.runs);
        state.chunks("hashes", "", &mut self.hashes);
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// If the state is damaged.
    pub(super) fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let floor: i64 = state.value()?;
        let (runs, hashes) = (Chunks::<Runs>::load(state)?, Chunks::<Shard, 1>::load(state)?);
        let sound = runs.iter().all(|Runs(runs)| {
            runs.iter().all(|run| run.first <= run.last && run.span >= floor)
                && runs.windows(2).all(|pair| pair[0].last < pair[1].first)
        }) && hashes.len() == SHARDS
            && hashes.iter().enumerate().all(|(index, Shard(hashes))| {
                hashes.iter().all(|(hash, span)| *span >= floor && shard_of(*hash) == index)
            });
        if !sound {
            return Err(Error::state("the remembered keys do not fit together"));
        }
        *self = Self { floor, ..Self::new(self.span_micros, self.entries_max) };
        for Runs(runs) in runs.iter() {
            runs.iter().for_each(|run| self.count_in(run.span));
        }
        for Shard(hashes) in hashes.iter() {
            hashes.iter().for_each(|(_, span)| self.count_in(*span));
            self.hashed += hashes.len();
        }
        (self.runs, self.hashes) = (runs, hashes);
        Ok(())
    }

    /// How many hashes there are.
    #[cfg(test)]
    pub(super) fn hashed(&self) -> usize {
        self.hashed
    }

    /// How many bytes all that takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(|Runs(runs)| runs.capacity() * size_of::<Run>()).sum();
        let hashes: usize = self.hashes.iter().map(|Shard(hashes)| hashes.allocation_size()).sum();
        runs + self.runs.len() * size_of::<Runs>() + hashes
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
