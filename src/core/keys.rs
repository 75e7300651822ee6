//! Keyed state: from the values of the key columns to a dense group id, with a bound on how many there are.
//!
//! An operator keeps its state in vectors indexed by group id. The common case is tag columns (dictionaries)
//! that stay the same from batch to batch: then a row costs one table look-up.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, DictionaryArray, Int64Builder, StringBuilder,
    StringDictionaryBuilder,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::event::EventTime;
use super::state::{StateReader, StateWriter};
use crate::error::{Error, Result};

/// What happens to a new key when `max_keys` are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// Rows of new keys are left out and counted.
    #[default]
    Refuse,
    /// The key that was seen longest ago gives way; its state is lost, and counted.
    Evict,
}

/// How many keys there may be, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct KeyLimits {
    /// The most keys at once.
    pub max_keys: usize,
    /// A key not seen for this long in event time is forgotten; `None` keeps it.
    pub key_ttl: Option<Duration>,
    /// What happens beyond `max_keys`.
    pub on_full: OnFull,
}

impl Default for KeyLimits {
    fn default() -> Self {
        Self { max_keys: 100_000, key_ttl: None, on_full: OnFull::Refuse }
    }
}

/// The id of a row whose key was refused.
pub const REFUSED: u32 = u32::MAX;

/// No neighbour in the list of least recent use.
const NONE: u32 = u32::MAX;

/// Tables of up to this many combinations are flat; beyond, they are hashed.
const FLAT_MAX: usize = 1 << 16;

/// Rows whose combinations are numbered together.
const CHUNK: usize = 256;

/// Group ids of dictionary keys seen last time, valid while the dictionaries are the same.
#[derive(Default)]
struct Cache {
    dictionaries: Vec<ArrayRef>,
    flat: Vec<u32>,
    hashed: HashMap<u64, u32>,
}

/// The map from key values to group ids.
pub struct Keys {
    types: Vec<DataType>,
    limits: KeyLimits,
    ids: HashMap<Box<[u8]>, u32>,
    names: Vec<Option<Box<[u8]>>>,
    last_seen: Vec<i64>,
    free: Vec<u32>,
    /// Order of use, only kept where eviction needs it: neighbours of each id, newest first.
    newer: Vec<u32>,
    older: Vec<u32>,
    newest: u32,
    oldest: u32,
    /// The key that has to give way next; its name stays readable until the caller has dealt with it.
    doomed: Option<u32>,
    evicted: Vec<u32>,
    cache: Cache,
    scratch: Vec<u8>,
}

impl Keys {
    /// No keys yet, over columns of these types.
    ///
    /// # Errors
    /// Names the position of a column that cannot be part of a key.
    pub fn new(types: Vec<DataType>, limits: KeyLimits) -> Result<Self> {
        if let Some(wrong) = types.iter().position(|data_type| !Self::supports(data_type)) {
            let name = super::schema::type_name(&types[wrong]);
            return Err(Error::config(format!(
                "key column {} is a {name}; keys are texts, integers or true/false",
                wrong + 1
            )));
        }
        Ok(Self {
            types,
            limits,
            ids: HashMap::new(),
            names: Vec::new(),
            last_seen: Vec::new(),
            free: Vec::new(),
            newer: Vec::new(),
            older: Vec::new(),
            newest: NONE,
            oldest: NONE,
            doomed: None,
            evicted: Vec::new(),
            cache: Cache::default(),
            scratch: Vec::new(),
        })
    }

    /// Whether a column of this type can be part of a key.
    pub fn supports(data_type: &DataType) -> bool {
        match data_type {
            DataType::Utf8 | DataType::Int64 | DataType::Boolean => true,
            DataType::Dictionary(key, value) => **key == DataType::Int32 && **value == DataType::Utf8,
            _ => false,
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// One more than the largest id ever given out: the length of an operator's state vectors.
    pub fn capacity(&self) -> usize {
        self.names.len()
    }

    /// The group ids of the rows `from..`, appended to `ids`, and the row at which it stopped: the number of
    /// rows, or earlier if a key had to give way. Then [`Keys::take_evicted`] says which ids start anew; deal
    /// with the rows so far, clear those ids' state, and call again from the row it stopped at. Until then
    /// [`Keys::columns`] still knows the key that gives way, so that what is finished can be sent under its name.
    pub fn resolve(&mut self, columns: &[ArrayRef], times: &[i64], from: usize, ids: &mut Vec<u32>) -> usize {
        self.evict();
        let rows = times.len();
        if columns.is_empty() {
            return self.resolve_single(times, from, ids);
        }
        if !columns.iter().all(|column| matches!(column.data_type(), DataType::Dictionary(..))) {
            return self.resolve_plain(columns, times, from, ids);
        }
        if !self.refresh_cache(columns) {
            return self.resolve_plain(columns, times, from, ids);
        }
        let dictionaries: Vec<&DictionaryArray<Int32Type>> =
            columns.iter().map(|column| column.as_dictionary::<Int32Type>()).collect();
        ids.reserve(rows - from);
        let mut places = [0; CHUNK];
        for start in (from..rows).step_by(CHUNK) {
            let end = rows.min(start + CHUNK);
            number(&dictionaries, start, &mut places[..end - start]);
            let mut row = start;
            while row < end {
                // Mostly keys are known: a run of them is looked up in one loop and touched in another.
                let (run, places) = (ids.len(), &places[row - start..end - start]);
                if self.cache.flat.is_empty() {
                    ids.extend(places.iter().map_while(|place| self.cache.hashed.get(place)));
                } else {
                    let flat = &self.cache.flat[..];
                    ids.extend(
                        places.iter().map_while(|place| Some(flat[*place as usize]).filter(|id| *id != NONE)),
                    );
                }
                self.touch_all(&ids[run..], &times[row..]);
                row += ids.len() - run;
                if row < end {
                    let Some(id) = self.look_up(columns, row) else { return row };
                    if id != REFUSED {
                        let place = places[ids.len() - run];
                        match self.cache.flat.get_mut(place as usize) {
                            Some(slot) => *slot = id,
                            None => _ = self.cache.hashed.insert(place, id),
                        }
                    }
                    self.touch(id, times[row]);
                    ids.push(id);
                    row += 1;
                }
            }
        }
        rows
    }

    /// The ids whose keys gave way since the last call. Their state must start anew.
    pub fn take_evicted(&mut self) -> Vec<u32> {
        self.evict();
        std::mem::take(&mut self.evicted)
    }

    fn evict(&mut self) {
        if let Some(id) = self.doomed.take() {
            self.forget(id);
            self.evicted.push(id);
        }
    }

    /// Forgets the keys not seen since `key_ttl` before the watermark and gives their ids back, in order.
    pub fn expire(&mut self, watermark: EventTime) -> Vec<u32> {
        let Some(ttl) = self.limits.key_ttl else { return Vec::new() };
        if watermark == EventTime::MAX {
            return Vec::new();
        }
        let before = watermark.minus(ttl).micros();
        let gone: Vec<u32> = (0..self.names.len() as u32)
            .filter(|id| self.names[*id as usize].is_some() && self.last_seen[*id as usize] < before)
            .collect();
        for id in &gone {
            self.forget(*id);
        }
        gone
    }

    /// The key columns of some ids, one array per key column, in the columns' own types.
    pub fn columns(&self, ids: &[u32]) -> Vec<ArrayRef> {
        (0..self.types.len()).map(|column| self.column(column, ids)).collect()
    }

    /// Whether an id is in use.
    pub fn is_live(&self, id: u32) -> bool {
        self.names.get(id as usize).is_some_and(Option::is_some)
    }

    /// Writes the keys into a node's state.
    pub fn save(&self, state: &mut StateWriter) {
        let order: Vec<u32> = std::iter::successors(Some(self.oldest).filter(|id| *id != NONE), |id| {
            Some(self.newer[*id as usize]).filter(|id| *id != NONE)
        })
        .collect();
        state.value(&(&self.names, &self.last_seen, &self.free, &order));
    }

    /// Takes the keys back.
    ///
    /// # Errors
    /// If the state is damaged.
    pub fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        type Saved = (Vec<Option<Box<[u8]>>>, Vec<i64>, Vec<u32>, Vec<u32>);
        let (names, last_seen, free, order): Saved = state.value()?;
        let sound = names.len() == last_seen.len()
            && free.iter().all(|id| names.get(*id as usize).is_some_and(Option::is_none))
            && order.iter().all(|id| names.get(*id as usize).is_some_and(Option::is_some))
            && names.iter().flatten().all(|name| self.decode(name).is_some());
        if !sound {
            return Err(Error::state("saved keys do not fit together"));
        }
        self.ids = (0u32..).zip(&names).filter_map(|(id, name)| Some((name.clone()?, id))).collect();
        (self.newer, self.older) = (vec![NONE; names.len()], vec![NONE; names.len()]);
        (self.newest, self.oldest) = (NONE, NONE);
        (self.names, self.last_seen, self.free) = (names, last_seen, free);
        if self.limits.on_full == OnFull::Evict {
            order.iter().for_each(|id| self.link_newest(*id));
        }
        self.cache = Cache::default();
        Ok(())
    }

    fn resolve_single(&mut self, times: &[i64], from: usize, ids: &mut Vec<u32>) -> usize {
        for time in &times[from..] {
            let id = self.look_up(&[], 0).unwrap_or(REFUSED);
            self.touch(id, *time);
            ids.push(id);
        }
        times.len()
    }

    fn resolve_plain(
        &mut self,
        columns: &[ArrayRef],
        times: &[i64],
        from: usize,
        ids: &mut Vec<u32>,
    ) -> usize {
        for (row, time) in times.iter().enumerate().skip(from) {
            let Some(id) = self.look_up(columns, row) else { return row };
            self.touch(id, *time);
            ids.push(id);
        }
        times.len()
    }

    /// The id of the key in a row; `None` if another key just gave way for it: the caller stops and calls again.
    fn look_up(&mut self, columns: &[ArrayRef], row: usize) -> Option<u32> {
        let mut name = std::mem::take(&mut self.scratch);
        name.clear();
        columns.iter().for_each(|column| encode(column, row, &mut name));
        let id = match self.ids.get(name.as_slice()) {
            Some(id) => Some(*id),
            None if self.ids.len() < self.limits.max_keys => Some(self.insert(&name)),
            None => match self.limits.on_full {
                OnFull::Refuse => Some(REFUSED),
                OnFull::Evict => {
                    self.doomed = Some(self.oldest);
                    None
                }
            },
        };
        self.scratch = name;
        id
    }

    fn insert(&mut self, name: &[u8]) -> u32 {
        let id = self.free.pop().unwrap_or(self.names.len() as u32);
        let place = id as usize;
        if place == self.names.len() {
            self.names.push(None);
            self.last_seen.push(i64::MIN);
            self.newer.push(NONE);
            self.older.push(NONE);
        }
        self.names[place] = Some(name.into());
        self.last_seen[place] = i64::MIN;
        self.ids.insert(name.into(), id);
        if self.limits.on_full == OnFull::Evict {
            self.link_newest(id);
        }
        id
    }

    fn forget(&mut self, id: u32) {
        if let Some(name) = self.names.get_mut(id as usize).and_then(Option::take) {
            self.ids.remove(&name);
            self.free.push(id);
            if self.limits.on_full == OnFull::Evict {
                self.unlink(id);
            }
            // Ids in the cache may be this one.
            self.cache.dictionaries.clear();
        }
    }

    /// Notes that these keys, none refused, were seen.
    fn touch_all(&mut self, ids: &[u32], times: &[i64]) {
        if self.limits.on_full == OnFull::Evict {
            return ids.iter().zip(times).for_each(|(id, time)| self.touch(*id, *time));
        }
        let last_seen = &mut self.last_seen[..];
        for (id, time) in ids.iter().zip(times) {
            let seen = &mut last_seen[*id as usize];
            *seen = (*seen).max(*time);
        }
    }

    fn touch(&mut self, id: u32, time: i64) {
        if id == REFUSED {
            return;
        }
        let seen = &mut self.last_seen[id as usize];
        *seen = (*seen).max(time);
        if self.limits.on_full == OnFull::Evict && self.newest != id {
            self.unlink(id);
            self.link_newest(id);
        }
    }

    fn link_newest(&mut self, id: u32) {
        self.older[id as usize] = self.newest;
        self.newer[id as usize] = NONE;
        match self.newest {
            NONE => self.oldest = id,
            newest => self.newer[newest as usize] = id,
        }
        self.newest = id;
    }

    fn unlink(&mut self, id: u32) {
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

    /// Makes the cache fit the dictionaries; false if there are more combinations than a `u64` can number.
    fn refresh_cache(&mut self, columns: &[ArrayRef]) -> bool {
        let same = self.cache.dictionaries.len() == columns.len()
            && columns
                .iter()
                .zip(&self.cache.dictionaries)
                .all(|(column, known)| Arc::ptr_eq(column.as_dictionary::<Int32Type>().values(), known));
        if same {
            return true;
        }
        self.cache.dictionaries =
            columns.iter().map(|column| Arc::clone(column.as_dictionary::<Int32Type>().values())).collect();
        let combinations = self
            .cache
            .dictionaries
            .iter()
            .try_fold(1u64, |product, values| product.checked_mul(values.len() as u64 + 1));
        self.cache.flat.clear();
        self.cache.hashed.clear();
        let Some(combinations) = combinations else {
            self.cache.dictionaries.clear();
            return false;
        };
        if combinations <= FLAT_MAX as u64 {
            self.cache.flat.resize(combinations as usize, NONE);
        }
        true
    }

    fn column(&self, column: usize, ids: &[u32]) -> ArrayRef {
        let part = |id: &u32| {
            let name = self.names.get(*id as usize)?.as_ref()?;
            self.decode(name)?.into_iter().nth(column)
        };
        match &self.types[column] {
            DataType::Int64 => {
                let mut builder = Int64Builder::with_capacity(ids.len());
                ids.iter().for_each(|id| {
                    builder.append_option(match part(id) {
                        Some(Part::Integer(value)) => Some(value),
                        _ => None,
                    })
                });
                Arc::new(builder.finish())
            }
            DataType::Boolean => {
                let mut builder = BooleanBuilder::with_capacity(ids.len());
                ids.iter().for_each(|id| {
                    builder.append_option(match part(id) {
                        Some(Part::Boolean(value)) => Some(value),
                        _ => None,
                    })
                });
                Arc::new(builder.finish())
            }
            DataType::Utf8 => {
                let mut builder = StringBuilder::new();
                ids.iter().for_each(|id| builder.append_option(part(id).and_then(Part::text)));
                Arc::new(builder.finish())
            }
            _ => {
                let mut builder = StringDictionaryBuilder::<Int32Type>::new();
                ids.iter().for_each(|id| builder.append_option(part(id).and_then(Part::text)));
                Arc::new(builder.finish())
            }
        }
    }

    fn decode<'a>(&self, mut name: &'a [u8]) -> Option<Vec<Part<'a>>> {
        let mut parts = Vec::with_capacity(self.types.len());
        for _ in &self.types {
            let (kind, rest) = name.split_first()?;
            name = rest;
            parts.push(match kind {
                0 => Part::Null,
                1 => {
                    let (length, rest) = name.split_first_chunk::<4>()?;
                    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                    name = rest;
                    Part::Text(std::str::from_utf8(text).ok()?)
                }
                2 => {
                    let (value, rest) = name.split_first_chunk::<8>()?;
                    name = rest;
                    Part::Integer(i64::from_le_bytes(*value))
                }
                3 => {
                    let (value, rest) = name.split_first()?;
                    name = rest;
                    Part::Boolean(*value == 1)
                }
                _ => return None,
            });
        }
        name.is_empty().then_some(parts)
    }
}

enum Part<'a> {
    Null,
    Text(&'a str),
    Integer(i64),
    Boolean(bool),
}

impl<'a> Part<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Part::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Numbers the combinations of dictionary keys of the rows from `start` on: one digit per column, the last of
/// each column's range for null.
fn number(dictionaries: &[&DictionaryArray<Int32Type>], start: usize, places: &mut [u64]) {
    places.fill(0);
    for dictionary in dictionaries {
        let null = dictionary.values().len() as u64;
        let keys = dictionary.keys();
        let digits = &keys.values()[start..];
        match keys.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => {
                for (place, key) in places.iter_mut().zip(digits) {
                    *place = *place * (null + 1) + *key as u64;
                }
            }
            Some(nulls) => {
                for (offset, (place, key)) in places.iter_mut().zip(digits).enumerate() {
                    let digit = if nulls.is_valid(start + offset) { *key as u64 } else { null };
                    *place = *place * (null + 1) + digit;
                }
            }
        }
    }
}

fn encode(column: &ArrayRef, row: usize, name: &mut Vec<u8>) {
    let text = |text: &str, name: &mut Vec<u8>| {
        name.push(1);
        name.extend_from_slice(&(text.len() as u32).to_le_bytes());
        name.extend_from_slice(text.as_bytes());
    };
    if column.is_null(row) {
        return name.push(0);
    }
    match column.data_type() {
        DataType::Utf8 => text(column.as_string::<i32>().value(row), name),
        DataType::Int64 => {
            name.push(2);
            name.extend_from_slice(&column.as_primitive::<Int64Type>().value(row).to_le_bytes());
        }
        DataType::Boolean => {
            name.push(3);
            name.push(u8::from(column.as_boolean().value(row)));
        }
        _ => {
            let dictionary = column.as_dictionary::<Int32Type>();
            match dictionary.key(row) {
                Some(key) => text(dictionary.values().as_string::<i32>().value(key), name),
                None => name.push(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Int64Array, StringArray};

    use super::*;
    use crate::core::schema::tag_type;

    fn tags(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(values.iter().copied().collect::<DictionaryArray<Int32Type>>())
    }

    fn limits(max_keys: usize, on_full: OnFull) -> KeyLimits {
        KeyLimits { max_keys, key_ttl: None, on_full }
    }

    /// Resolves everything, noting for each eviction the row before which it happened.
    fn all(keys: &mut Keys, columns: &[ArrayRef]) -> (Vec<u32>, Vec<(usize, u32)>) {
        let times = vec![0; columns[0].len()];
        let (mut ids, mut evictions, mut from) = (Vec::new(), Vec::new(), 0);
        while from < times.len() {
            from = keys.resolve(columns, &times, from, &mut ids);
            evictions.extend(keys.take_evicted().into_iter().map(|id| (from, id)));
        }
        (ids, evictions)
    }

    #[test]
    fn equal_keys_get_equal_ids_across_dictionaries_and_types() {
        let mut keys = Keys::new(vec![tag_type(), tag_type()], KeyLimits::default()).unwrap();
        let (ids, _) =
            all(&mut keys, &[tags(&[Some("l"), Some("l"), None]), tags(&[Some("a"), Some("b"), Some("a")])]);
        assert_eq!(ids, [0, 1, 2]);
        let (ids, _) =
            all(&mut keys, &[tags(&[None, Some("l"), Some("m")]), tags(&[Some("a"), Some("b"), Some("c")])]);
        assert_eq!(ids, [2, 1, 3]);
        let columns = keys.columns(&[2, 3, 0]);
        let text: Vec<_> = columns[0]
            .as_dictionary::<Int32Type>()
            .downcast_dict::<StringArray>()
            .unwrap()
            .into_iter()
            .collect();
        assert_eq!(text, [None, Some("m"), Some("l")]);

        let mut keys =
            Keys::new(vec![DataType::Int64, DataType::Boolean, DataType::Utf8], KeyLimits::default())
                .unwrap();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(1), Some(1), None, Some(1)])),
            Arc::new(BooleanArray::from(vec![true, false, true, true])),
            Arc::new(StringArray::from(vec!["x", "x", "x", "x"])),
        ];
        let (ids, _) = all(&mut keys, &columns);
        assert_eq!(ids, [0, 1, 2, 0]);
        let back = keys.columns(&ids);
        assert_eq!(format!("{back:?}"), format!("{columns:?}"));
    }

    #[test]
    fn a_key_longer_than_another_does_not_run_into_it() {
        let mut keys = Keys::new(vec![tag_type(), tag_type()], KeyLimits::default()).unwrap();
        let (ids, _) = all(&mut keys, &[tags(&[Some("ab"), Some("a")]), tags(&[Some("c"), Some("bc")])]);
        assert_eq!(ids, [0, 1]);
    }

    #[test]
    fn beyond_the_limit_new_keys_are_refused_and_old_ones_go_on() {
        let mut keys = Keys::new(vec![tag_type()], limits(2, OnFull::Refuse)).unwrap();
        let (ids, evictions) =
            all(&mut keys, &[tags(&[Some("a"), Some("b"), Some("c"), Some("a"), Some("c")])]);
        assert_eq!(ids, [0, 1, REFUSED, 0, REFUSED]);
        assert!(evictions.is_empty());
    }

    #[test]
    fn beyond_the_limit_the_least_recently_seen_key_gives_way_however_batches_are_cut() {
        let names = ["a", "b", "a", "c", "b", "a", "d", "d", "c"].map(Some);
        let mut whole = Keys::new(vec![tag_type()], limits(2, OnFull::Evict)).unwrap();
        let (expected, evictions) = all(&mut whole, &[tags(&names)]);
        assert_eq!(expected, [0, 1, 0, 1, 0, 1, 0, 0, 1]);
        assert_eq!(evictions, [(3, 1), (4, 0), (5, 1), (6, 0), (8, 1)]);
        for cut in 0..=names.len() {
            let mut keys = Keys::new(vec![tag_type()], limits(2, OnFull::Evict)).unwrap();
            let (mut ids, _) =
                if cut > 0 { all(&mut keys, &[tags(&names[..cut])]) } else { Default::default() };
            let mut state = StateWriter::new();
            keys.save(&mut state);
            let bytes = state.finish().unwrap();
            let mut keys = Keys::new(vec![tag_type()], limits(2, OnFull::Evict)).unwrap();
            keys.load(&mut StateReader::new(&bytes)).unwrap();
            if cut < names.len() {
                ids.extend(all(&mut keys, &[tags(&names[cut..])]).0);
            }
            assert_eq!(ids, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_key_that_gives_way_keeps_its_name_until_it_is_dealt_with() {
        let mut keys = Keys::new(vec![DataType::Utf8], limits(1, OnFull::Evict)).unwrap();
        let columns: [ArrayRef; 1] = [Arc::new(StringArray::from(vec!["a", "b"]))];
        let mut ids = Vec::new();
        assert_eq!(keys.resolve(&columns, &[0, 0], 0, &mut ids), 1);
        assert_eq!(keys.columns(&[0])[0].as_string::<i32>().value(0), "a");
        assert_eq!(keys.take_evicted(), [0]);
        assert!(!keys.is_live(0));
        assert_eq!(keys.resolve(&columns, &[0, 0], 1, &mut ids), 2);
        assert_eq!(keys.columns(&[0])[0].as_string::<i32>().value(0), "b");
        assert_eq!((keys.take_evicted(), ids), (Vec::new(), vec![0, 0]));
    }

    #[test]
    fn keys_not_seen_for_their_time_are_forgotten_and_their_ids_used_again() {
        let limits = KeyLimits { key_ttl: Some(Duration::from_secs(1)), ..KeyLimits::default() };
        let mut keys = Keys::new(vec![tag_type()], limits).unwrap();
        let mut ids = Vec::new();
        keys.resolve(&[tags(&[Some("a"), Some("b")])], &[0, 900_000], 0, &mut ids);
        assert_eq!(keys.expire(EventTime(1_000_000)), Vec::<u32>::new());
        assert_eq!(keys.expire(EventTime(1_000_001)), [0]);
        ids.clear();
        keys.resolve(&[tags(&[Some("c"), Some("b")])], &[1_000_001; 2], 0, &mut ids);
        assert_eq!(ids, [0, 1]);
        assert_eq!(keys.len(), 2);
    }

    #[test]
    fn many_combinations_are_hashed_rather_than_tabled() {
        let wide: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        let wide: Vec<Option<&str>> = wide.iter().map(|name| Some(name.as_str())).collect();
        let mut keys = Keys::new(vec![tag_type(), tag_type()], KeyLimits::default()).unwrap();
        let (ids, _) = all(&mut keys, &[tags(&wide), tags(&wide)]);
        assert_eq!(ids, (0..300).collect::<Vec<u32>>());
        assert!(keys.cache.flat.is_empty() && keys.cache.hashed.len() == 300);
        let (again, _) = all(&mut keys, &[tags(&wide), tags(&wide)]);
        assert_eq!(again, ids);
    }

    #[test]
    fn a_number_is_no_key() {
        let error = Keys::new(vec![tag_type(), DataType::Float64], KeyLimits::default()).err().unwrap();
        assert!(error.message.contains("key column 2 is a number"), "{error}");
    }
}
