//! The running window operator: gives each row its window, folds columns into the slabs, fires. Pure.

use std::ops::Range;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;

use super::column::Floats;
use super::emit::{self, Column, Due, EMIT_ROWS, Tags};
use super::open::{NONE, Open, Slot};
use crate::core::keys::REFUSED;
use crate::core::{EventTime, Keys, Operator, Output, StateReader, StateWriter, schema};
use crate::error::Result;

/// Times beyond this, either side of 1970 (36,000 years), are in no window: near the ends of an `i64` the
/// edges of windows could not be computed.
pub(super) const TIME_MAX: i64 = 1 << 60;

/// What makes a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Intervals of `size`, one every `slide`, kept in panes that divide both. All in µs.
    Panes { size: i64, slide: i64, pane: i64 },
    /// Rows less than `gap` µs apart.
    Session { gap: i64 },
    /// So many rows.
    Count { rows: u64 },
}

/// Rows of one batch that are in no window.
#[derive(Debug, Default)]
struct Dropped {
    /// Which rows came too late.
    late: Vec<u32>,
    /// How many had a key too many.
    keys: u64,
    /// How many would have opened a window too many.
    windows: u64,
}

/// The operator.
pub(super) struct Window {
    extent: Extent,
    /// Positions of the key columns in the input.
    by: Vec<usize>,
    columns: Vec<Column>,
    schema: SchemaRef,
    keys: Keys,
    key_ttl: Option<Duration>,
    watermark: EventTime,
    open: Open,
    due: Vec<Due>,
    tags: Tags,
    /// Per row of the batch at hand: its group id and its slot. They keep their memory.
    ids: Vec<u32>,
    slots: Vec<u32>,
    /// Slots picked from one key's list, while it fires.
    members: Vec<u32>,
    over: Vec<u32>,
}

/// The first edge from which a window of `size`, one every `slide`, is still open at a time: at a watermark
/// the first window not to have fired, at a row's time the first window that holds the row.
fn first_open(time: i64, size: i64, slide: i64) -> i64 {
    let time = time.clamp(-2 * TIME_MAX, 2 * TIME_MAX);
    ((time - size).div_euclid(slide) + 1) * slide
}

impl Window {
    /// Nothing seen yet. The schema is time, start, end, the keys, the rows, then each column's statistics.
    pub fn new(
        extent: Extent,
        by: Vec<usize>,
        columns: Vec<Column>,
        schema: SchemaRef,
        (keys, key_ttl): (Keys, Option<Duration>),
        windows_max: usize,
    ) -> Self {
        Self {
            extent,
            by,
            columns,
            schema,
            keys,
            key_ttl,
            watermark: EventTime::MIN,
            open: Open::new(windows_max),
            due: Vec::new(),
            tags: Tags::default(),
            ids: Vec::new(),
            slots: Vec::new(),
            members: Vec::new(),
            over: Vec::new(),
        }
    }

    /// Rows before this are late, whatever their key.
    fn late_before(&self) -> i64 {
        match self.extent {
            _ if self.watermark == EventTime::MIN => i64::MIN,
            Extent::Panes { size, slide, .. } => first_open(self.watermark.micros(), size, slide),
            // Whether a row is late depends on the sessions of its key.
            Extent::Session { .. } => i64::MIN,
            Extent::Count { .. } => self.watermark.micros(),
        }
    }

    /// Sends late rows on their way and leaves out those whose time is out of range.
    fn set_apart(&self, batch: RecordBatch, out: &mut Output) -> Result<RecordBatch> {
        let late_before = self.late_before();
        let times = schema::times(&batch)?.values();
        let (least, greatest) = times
            .iter()
            .fold((i64::MAX, i64::MIN), |(least, greatest), time| (least.min(*time), greatest.max(*time)));
        if least >= late_before.max(-TIME_MAX) && greatest <= TIME_MAX {
            return Ok(batch);
        }
        let late: BooleanArray = times.iter().map(|time| Some(*time < late_before)).collect();
        let kept: BooleanArray = times
            .iter()
            .map(|time| Some(*time >= late_before && (-TIME_MAX..=TIME_MAX).contains(time)))
            .collect();
        let refused = times.len() - late.true_count() - kept.true_count();
        out.count("late_rows", "", late.true_count() as u64);
        out.count("refused_rows", "time_range", refused as u64);
        if out.wants(1) {
            out.emit(1, filter_record_batch(&batch, &late)?);
        }
        Ok(filter_record_batch(&batch, &kept)?)
    }

    /// Fills `ids` for the rows from `from` on; the row it stopped at, as [`Keys::resolve`].
    fn resolve(&mut self, columns: &[ArrayRef], times: &[i64], from: usize) -> usize {
        self.ids.clear();
        if !columns.is_empty() {
            return self.keys.resolve(columns, times, from, &mut self.ids);
        }
        // One key for all rows is looked up once.
        let latest = times[from..].iter().copied().max().unwrap_or(i64::MIN);
        self.keys.resolve(columns, &[latest], 0, &mut self.ids);
        self.ids.resize(times.len() - from, self.ids[0]);
        times.len()
    }

    /// Gives rows their slots, one per id from `done` on, and appends them to `slots`. It stops early, before a
    /// row that lies between two sessions and makes them one: the slot of the newer is returned.
    fn assign(&mut self, times: &[i64], done: usize, dropped: &mut Dropped) -> Option<u32> {
        match self.extent {
            Extent::Panes { pane, .. } => {
                let refuse = |id| _ = dropped.refuse(id);
                self.open.panes(&self.ids[done..], times, pane, &mut self.slots, refuse);
            }
            Extent::Session { gap } => return self.assign_sessions(times, done, gap, dropped),
            Extent::Count { rows } => self.assign_counts(times, done, rows, dropped),
        }
        None
    }

    fn assign_counts(&mut self, times: &[i64], done: usize, rows: u64, dropped: &mut Dropped) {
        for (id, time) in self.ids[done..].iter().zip(times) {
            let slot = match self.open.newest(*id) {
                NONE => self.open.open(*id, NONE, *time, *time + 1),
                slot => Some(slot),
            };
            let Some(slot) = slot else {
                self.slots.push(dropped.refuse(*id));
                continue;
            };
            self.slots.push(slot);
            let window = self.open.get_mut(slot);
            window.start = window.start.min(*time);
            window.end = window.end.max(*time + 1);
            window.rows += 1;
            if window.rows >= rows {
                let Slot { start, end, key, .. } = *window;
                self.due.push(Due { slot, key, time: end - 1, start, end });
                self.open.unlist(slot);
            }
        }
    }

    fn assign_sessions(
        &mut self,
        times: &[i64],
        done: usize,
        gap: i64,
        dropped: &mut Dropped,
    ) -> Option<u32> {
        for (id, time) in self.ids[done..].iter().zip(times) {
            let end = *time + gap;
            let (mut newer, mut found) = (NONE, NONE);
            for slot in self.open.newest_first(*id) {
                let session = self.open.get(slot);
                if *time >= session.end {
                    break;
                }
                if end > session.start {
                    found = slot;
                    break;
                }
                newer = slot;
            }
            if found != NONE {
                let session = self.open.get(found);
                if session.older != NONE && *time < self.open.get(session.older).end {
                    return Some(found);
                }
                let session = self.open.get_mut(found);
                session.start = session.start.min(*time);
                session.end = session.end.max(end);
                session.rows += 1;
            } else if end <= self.watermark.micros() {
                dropped.late.push(self.slots.len() as u32);
            } else if let Some(slot) = self.open.open(*id, newer, *time, end) {
                self.open.get_mut(slot).rows = 1;
                found = slot;
            } else {
                found = dropped.refuse(*id);
            }
            self.slots.push(found);
        }
        None
    }

    /// Makes one session of this and the next older one of its key. All rows so far are folded.
    fn join_older(&mut self, newer: u32) {
        let older = self.open.get(newer).older;
        self.open.unlist(older);
        let Slot { start, rows, .. } = *self.open.get(older);
        let session = self.open.get_mut(newer);
        session.start = start;
        session.rows += rows;
        merge(&mut self.columns, newer, &[older]);
        self.give_back(&[older]);
    }

    fn fold(&mut self, rows: Range<usize>, times: &[i64], values: &[Floats]) {
        let slots = self.open.slots();
        for (column, floats) in self.columns.iter_mut().zip(values) {
            for slab in &mut column.slabs {
                slab.grow(slots);
                slab.fold(&self.slots[rows.clone()], &times[rows.clone()], &floats.usable[rows.clone()]);
            }
        }
    }

    fn give_back(&mut self, slots: &[u32]) {
        if slots.is_empty() {
            return;
        }
        let slabs = self.columns.iter_mut().flat_map(|column| &mut column.slabs);
        slabs.for_each(|slab| slab.clear(slots));
        slots.iter().for_each(|slot| self.open.give_back(*slot));
    }

    /// Forgets a key's windows and says how many rows were in them.
    fn drop_key(&mut self, key: u32) -> u64 {
        let mut over = std::mem::take(&mut self.over);
        self.open.unlist_over(key, |_| true, &mut over);
        let rows = over.iter().map(|slot| self.open.get(*slot).rows).sum();
        self.give_back(&over);
        over.clear();
        self.over = over;
        self.tags.forget();
        rows
    }

    fn fire_panes(&mut self, [size, slide, pane]: [i64; 3], to: i64, out: &mut Output) -> Result<()> {
        let to = to.min(2 * TIME_MAX);
        let mut start = first_open(self.watermark.micros(), size, slide);
        while self.open.len() > 0 {
            // Where there are no rows there are no windows: go on at the first that holds the oldest pane.
            start = start.max(first_open(self.open.end_min - pane, size, slide));
            if start + size > to {
                break;
            }
            for key in 0..self.open.keys() {
                self.fire_window(key, start, size, slide);
            }
            self.open.settle();
            if self.due.len() >= EMIT_ROWS {
                self.flush(out)?;
            }
            start += slide;
        }
        Ok(())
    }

    /// Puts one key's window together from its panes and takes out the panes that are in no later window.
    fn fire_window(&mut self, key: u32, start: i64, size: i64, slide: i64) {
        let is_last = |pane: &Slot| pane.start < start + slide;
        let end = start + size;
        let (mut members, mut over) = (std::mem::take(&mut self.members), std::mem::take(&mut self.over));
        let panes = self.open.oldest_first(key).skip_while(|pane| self.open.get(*pane).start < start);
        members.extend(panes.take_while(|pane| self.open.get(*pane).start < end));
        self.open.unlist_over(key, is_last, &mut over);
        match members[..] {
            [] => {}
            [only] if is_last(self.open.get(only)) => {
                over.retain(|slot| *slot != only);
                self.due.push(Due { slot: only, key, time: end - 1, start, end });
            }
            _ => {
                let rows = members.iter().map(|slot| self.open.get(*slot).rows).sum();
                let whole = self.open.take(Slot::new(key, start, end, rows));
                let slots = self.open.slots();
                let slabs = self.columns.iter_mut().flat_map(|column| &mut column.slabs);
                slabs.for_each(|slab| slab.grow(slots));
                merge(&mut self.columns, whole, &members);
                self.due.push(Due { slot: whole, key, time: end - 1, start, end });
            }
        }
        self.give_back(&over);
        members.clear();
        over.clear();
        (self.members, self.over) = (members, over);
    }

    /// Fires what is over among windows without a grid. They are emitted by time, then in the order of keys;
    /// never before `time_min`, where the watermark already stood.
    fn fire_over(&mut self, over: impl Fn(&Slot) -> bool, time_min: i64) {
        let mut slots = std::mem::take(&mut self.over);
        for key in 0..self.open.keys() {
            self.open.unlist_over(key, &over, &mut slots);
        }
        for slot in slots.drain(..) {
            let Slot { start, end, key, .. } = *self.open.get(slot);
            self.due.push(Due { slot, key, time: time_min.max(end - 1), start, end });
        }
        self.over = slots;
        self.due.sort_by_key(|due| (due.time, due.end, due.key));
        self.open.settle();
    }

    fn fire(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        let before = self.watermark.micros();
        match self.extent {
            Extent::Panes { size, slide, pane } => {
                self.fire_panes([size, slide, pane], to.micros(), out)?;
            }
            Extent::Session { .. } => {
                if self.open.end_min <= to.micros() {
                    self.fire_over(|session| session.end <= to.micros(), before);
                }
            }
            // A count window that its key will not fill any more leaves as it is: at the end, or with its key.
            Extent::Count { .. } => {
                let silent_before = match self.key_ttl {
                    _ if to == EventTime::MAX => i64::MAX,
                    Some(ttl) => to.minus(ttl).micros(),
                    None => i64::MIN,
                };
                if self.open.end_min <= silent_before {
                    self.fire_over(|window| window.end <= silent_before, before);
                }
            }
        }
        self.flush(out)
    }

    /// Emits what is due and gives its slots back.
    fn flush(&mut self, out: &mut Output) -> Result<()> {
        let mut due = std::mem::take(&mut self.due);
        for chunk in due.chunks(EMIT_ROWS) {
            let tags = self.tags.of(&self.keys, chunk)?;
            out.emit(0, emit::batch(&self.schema, chunk, tags, &self.open, &self.columns)?);
            let slots: Vec<u32> = chunk.iter().map(|due| due.slot).collect();
            self.give_back(&slots);
        }
        due.clear();
        self.due = due;
        Ok(())
    }
}

impl Dropped {
    /// Counts a row that gets no slot; what it gets instead.
    fn refuse(&mut self, id: u32) -> u32 {
        match id {
            REFUSED => self.keys += 1,
            _ => self.windows += 1,
        }
        NONE
    }
}

fn merge(columns: &mut [Column], into: u32, from: &[u32]) {
    let slabs = columns.iter_mut().flat_map(|column| &mut column.slabs);
    slabs.for_each(|slab| slab.merge(into, from));
}

impl Operator for Window {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let batch = self.set_apart(batch, out)?;
        let times = schema::times(&batch)?.values();
        let keys: Vec<ArrayRef> = self.by.iter().map(|place| batch.column(*place).clone()).collect();
        let values: Vec<Floats> = self
            .columns
            .iter()
            .map(|column| Floats::of(batch.column(column.place)))
            .collect::<Result<_>>()?;
        let mut dropped = Dropped::default();
        self.slots.clear();
        let mut from = 0;
        while from < times.len() {
            let to = self.resolve(&keys, times, from);
            self.open.grow_keys(self.keys.capacity());
            let mut at = from;
            while at < to {
                let joined = self.assign(&times[at..to], at - from, &mut dropped);
                let stop = self.slots.len();
                self.fold(at..stop, times, &values);
                if let Some(newer) = joined {
                    self.join_older(newer);
                }
                at = stop;
            }
            if to < times.len() {
                // A key has to give way: what is finished still leaves under its name.
                self.flush(out)?;
                for key in self.keys.take_evicted() {
                    out.count("evicted_keys", "", 1);
                    out.count("lost_rows", "evicted", self.drop_key(key));
                }
            }
            from = to;
        }
        values.iter().for_each(|values| values.count_skipped(&self.slots, NONE, out));
        out.count("late_rows", "", dropped.late.len() as u64);
        out.count("refused_rows", "max_keys", dropped.keys);
        out.count("refused_rows", "window_limit", dropped.windows);
        if !dropped.late.is_empty() && out.wants(1) {
            out.emit(1, take_record_batch(&batch, &UInt32Array::from(dropped.late))?);
        }
        self.flush(out)
    }

    fn watermark(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        if to <= self.watermark {
            return Ok(());
        }
        self.fire(to, out)?;
        self.watermark = to;
        for key in self.keys.expire(to) {
            // All its windows have fired: a key lives longer than they do.
            out.count("lost_rows", "expired", self.drop_key(key));
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        debug_assert!(self.due.is_empty(), "nothing waits between two calls");
        state.value(&self.watermark);
        self.keys.save(state);
        self.open.save(state);
        for column in &mut self.columns {
            column.slabs.iter_mut().for_each(|slab| slab.save(&column.name, state));
        }
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.watermark = state.value()?;
        self.keys.load(state)?;
        let keys = &self.keys;
        self.open.load(state, keys.capacity(), |id| keys.is_live(id))?;
        let slots = self.open.slots();
        for slab in self.columns.iter_mut().flat_map(|column| &mut column.slabs) {
            slab.load(state, slots)?;
        }
        self.tags.forget();
        Ok(())
    }
}
