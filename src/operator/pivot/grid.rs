//! The grid of `pivot`: readings that wait for their grid point, and values that hold. Pure.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Aggregate;
use crate::core::{Chunks, EventTime, StateReader, StateWriter};
use crate::error::{Error, Result};
use crate::registry::Kept;

/// What the readings of one cell come to, as far as they are there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Cell {
    /// The grid point, counted from 1970.
    point: i64,
    /// The newest reading's time.
    time: i64,
    value: f64,
    count: u64,
}

/// One signal of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Slot {
    /// The newest reading's time and the value of the last cell that was passed.
    held: Option<(i64, f64)>,
    /// Cells that wait, in ascending order.
    waiting: VecDeque<Cell>,
}

impl Slot {
    const EMPTY: Self = Self { held: None, waiting: VecDeque::new() };
}

/// What became of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    Kept,
    /// Too many cells wait.
    NoRoom,
}

/// Rows of grid points: for each its time, its key's id, and per column value and validity.
pub(super) struct Filled {
    pub(super) times: Vec<i64>,
    pub(super) ids: Vec<u32>,
    pub(super) columns: Vec<(Vec<f64>, Vec<bool>)>,
}

/// What a key takes, a signal of it that has had a reading, and a cell that waits, in bytes.
const KEY_BYTES: usize = 100;
const SIGNAL_BYTES_MAX: usize = 184;
const CELL_BYTES: usize = 32;

/// What is kept for so many keys of so many signals, and for cells that wait.
pub(super) fn kept(keys_max: usize, signals: usize, cells_max: usize) -> Vec<Kept> {
    let bytes = KEY_BYTES + signals * SIGNAL_BYTES_MAX;
    vec![
        Kept { what: "keys", max: keys_max, key: "max_keys", bytes },
        Kept { what: "cells", max: cells_max, key: "max_cells", bytes: CELL_BYTES },
    ]
}

/// All keys and signals.
pub(super) struct Grid {
    grid: i64,
    hold: i64,
    columns: usize,
    aggregate: Aggregate,
    cells_max: usize,
    cells: usize,
    /// The next grid point to be passed, counted from 1970; all before it are. None before the first watermark.
    next: Option<i64>,
    /// The grid point of the newest reading.
    newest: i64,
    /// Per key the slots of its columns.
    slots: Chunks<Box<[Slot]>>,
    /// Per key, the last grid point at which it can have a value, as far as its readings are known.
    until: Chunks<i64>,
}

impl Grid {
    /// Nothing yet. The distance of grid points (positive) and the hold are in microseconds.
    pub(super) fn new(
        (grid, hold): (i64, i64),
        columns: usize,
        aggregate: Aggregate,
        cells_max: usize,
    ) -> Self {
        Self {
            grid,
            hold,
            columns,
            aggregate,
            cells_max,
            cells: 0,
            next: None,
            newest: i64::MIN,
            slots: Chunks::new(),
            until: Chunks::new(),
        }
    }

    /// The first grid point at or behind a moment.
    fn point(&self, micros: i64) -> i64 {
        micros.div_euclid(self.grid) + i64::from(micros.rem_euclid(self.grid) > 0)
    }

    /// Whether the grid point of a reading is still to be passed; none if it lies beyond the range of times.
    pub(super) fn is_open(&self, micros: i64) -> Option<bool> {
        let point = self.point(micros);
        point.checked_mul(self.grid)?;
        Some(self.next.is_none_or(|next| point >= next))
    }

    /// Adds a reading whose grid point is open.
    pub(super) fn place(&mut self, id: u32, column: u32, time: i64, value: f64) -> Placed {
        let point = self.point(time);
        let id = id as usize;
        while id >= self.until.len() {
            self.until.push(i64::MIN);
            self.slots.push(vec![Slot::EMPTY; self.columns].into());
        }
        let waiting = &mut self.slots[id][column as usize].waiting;
        // Readings come roughly in order: the cell is the last one or a new one behind it.
        let place = match waiting.back() {
            Some(last) if last.point > point => waiting.partition_point(|cell| cell.point < point),
            Some(last) if last.point == point => waiting.len() - 1,
            _ => waiting.len(),
        };
        match waiting.get_mut(place).filter(|cell| cell.point == point) {
            Some(cell) => cell.add(time, value, self.aggregate),
            None if self.cells >= self.cells_max => return Placed::NoRoom,
            None => {
                waiting.insert(place, Cell { point, time, value, count: 1 });
                self.cells += 1;
            }
        }
        // A value counts at points before time + hold, and its cell's point may lie behind even that.
        let last = self.point(time.saturating_add(self.hold).saturating_sub(1)).max(point);
        self.until[id] = self.until[id].max(last);
        self.newest = self.newest.max(point);
        Placed::Kept
    }

    /// Forgets a key.
    pub(super) fn clear(&mut self, id: u32) {
        let id = id as usize;
        if let Some(until) = self.until.get_mut(id) {
            *until = i64::MIN;
            for slot in &mut self.slots[id] {
                self.cells -= slot.waiting.len();
                *slot = Slot::EMPTY;
            }
        }
    }

    /// The rows of grid points before the watermark, at least `rows` of them unless they are all; none when
    /// all points are passed.
    pub(super) fn fill(&mut self, to: EventTime, rows: usize) -> Option<Filled> {
        // The point at the watermark itself may still get readings.
        let end = match to {
            EventTime::MAX => self.newest.saturating_add(1),
            to => self.point(to.micros()),
        };
        let mut filled = Filled {
            times: Vec::new(),
            ids: Vec::new(),
            columns: vec![(Vec::new(), Vec::new()); self.columns],
        };
        let mut point = self.next.unwrap_or(i64::MIN);
        while point < end && filled.times.len() < rows {
            // Where no key has a value, the next point is that of the first reading that waits.
            match self.fill_point(point, &mut filled) {
                true => point += 1,
                false => point = self.first_waiting().unwrap_or(end).min(end).max(point + 1),
            }
        }
        if to == EventTime::MAX && point >= end {
            point = i64::MAX;
        }
        self.next = Some(point);
        (!filled.times.is_empty()).then_some(filled)
    }

    /// The first grid point with readings that wait.
    fn first_waiting(&self) -> Option<i64> {
        if self.cells == 0 {
            return None;
        }
        self.slots.iter().flatten().filter_map(|slot| slot.waiting.front()).map(|cell| cell.point).min()
    }

    /// Passes a grid point; says whether any key has a value there.
    fn fill_point(&mut self, point: i64, filled: &mut Filled) -> bool {
        // Where no time can be, no reading is.
        let Some(time) = point.checked_mul(self.grid) else { return false };
        let oldest = time.saturating_sub(self.hold);
        let before = filled.times.len();
        for (id, _) in self.until.iter().enumerate().filter(|(_, until)| **until >= point) {
            let slots = &mut self.slots[id];
            let mut has_value = false;
            for slot in slots.iter_mut() {
                if let Some(cell) = slot.waiting.pop_front_if(|cell| cell.point <= point) {
                    self.cells -= 1;
                    slot.held = Some((cell.time, cell.value));
                    // A backlog is not paid for for ever.
                    if slot.waiting.is_empty() && slot.waiting.capacity() > 64 {
                        slot.waiting.shrink_to(4);
                    }
                }
                has_value |= slot.held.is_some_and(|(newest, _)| newest > oldest);
            }
            if !has_value {
                continue;
            }
            filled.times.push(time);
            filled.ids.push(id as u32);
            for (slot, (values, valid)) in slots.iter().zip(&mut filled.columns) {
                let value = slot.held.filter(|(newest, _)| *newest > oldest);
                values.push(value.map_or(0.0, |(_, value)| value));
                valid.push(value.is_some());
            }
        }
        filled.times.len() > before
    }

    /// Writes everything down.
    pub(super) fn save(&mut self, state: &mut StateWriter) {
        state.value(&(self.next, self.newest));
        state.chunks("keys until", "#keys point:i", &mut self.until);
        state.chunks("readings", "", &mut self.slots);
    }

    /// Takes everything back, for so many keys.
    ///
    /// # Errors
    /// If the state is damaged.
    pub(super) fn load(&mut self, state: &mut StateReader<'_>, keys: usize) -> Result<()> {
        let (next, newest): (Option<i64>, i64) = state.value()?;
        let until = Chunks::<i64>::load(state)?;
        let slots = Chunks::<Box<[Slot]>>::load(state)?;
        let first = next.unwrap_or(i64::MIN);
        let sound = until.len() <= keys
            && slots.len() == until.len()
            && slots.iter().all(|slots| slots.len() == self.columns)
            && slots.iter().flatten().all(|slot| {
                let points = || slot.waiting.iter().map(|cell| cell.point);
                points().zip(points().skip(1)).all(|(one, next)| one < next)
                    && points().all(|point| point >= first && point <= newest)
            });
        if !sound {
            return Err(Error::state("the saved readings do not fit together"));
        }
        self.cells = slots.iter().flatten().map(|slot| slot.waiting.len()).sum();
        (self.next, self.newest, self.until, self.slots) = (next, newest, until, slots);
        Ok(())
    }
}

impl Cell {
    fn add(&mut self, time: i64, value: f64, aggregate: Aggregate) {
        self.count += 1;
        match aggregate {
            Aggregate::Last if time < self.time => {}
            Aggregate::Last => self.value = value,
            Aggregate::Min => self.value = self.value.min(value),
            Aggregate::Max => self.value = self.value.max(value),
            Aggregate::Mean => {
                // The running mean, divided first so that large values do not overflow.
                let count = self.count as f64;
                self.value += value / count - self.value / count;
            }
        }
        self.time = self.time.max(time);
    }
}
