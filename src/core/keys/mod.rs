//! Keyed state: from the values of the key columns to a dense group id, with a bound on how many there are.
//!
//! An operator keeps its state in vectors indexed by group id. The common case is tag columns (dictionaries)
//! that stay the same from batch to batch: then a row costs one table look-up (`places`). A key's name is its values as
//! bytes (`names`); where keys give way, `recency` knows which.

mod names;
mod places;
mod recency;

use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray};
use arrow::datatypes::{DataType, Int32Type};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::chunks::Chunks;
use super::event::EventTime;
use super::state::{StateReader, StateWriter};
use crate::error::{Error, Result};
use places::Places;
use recency::Recency;

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

/// The section of a saved state with the names of keys, and what is in it.
pub const NAMES: &str = "keys";
const NAMES_FIELDS: &str = "#keys name:name";

/// Rows whose combinations are numbered together.
const CHUNK: usize = 256;

/// The name of a key in the tables of a checkpoint; none for an id that is free.
type Name = Option<Box<[u8]>>;

/// The map from key values to group ids.
pub struct Keys {
    types: Vec<DataType>,
    limits: KeyLimits,
    ids: HashMap<Box<[u8]>, u32>,
    names: Chunks<Name>,
    last_seen: Chunks<i64>,
    /// The id that is given out next is the last one.
    free: Chunks<u32>,
    /// Only kept where eviction needs it.
    recency: Recency,
    /// The key that has to give way next; its name stays readable until the caller has dealt with it.
    doomed: Option<u32>,
    evicted: Vec<u32>,
    places: Places,
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
            names: Chunks::new(),
            last_seen: Chunks::new(),
            free: Chunks::new(),
            recency: Recency::default(),
            doomed: None,
            evicted: Vec::new(),
            places: Places::default(),
            scratch: Vec::new(),
        })
    }

    /// Whether a column of this type can be part of a key.
    pub fn supports(data_type: &DataType) -> bool {
        names::supports(data_type)
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
        if !self.places.fit(columns) {
            return self.resolve_plain(columns, times, from, ids);
        }
        let dictionaries: Vec<&DictionaryArray<Int32Type>> =
            columns.iter().map(|column| column.as_dictionary::<Int32Type>()).collect();
        ids.reserve(rows - from);
        let mut places = [0; CHUNK];
        for start in (from..rows).step_by(CHUNK) {
            let end = rows.min(start + CHUNK);
            places::number(&dictionaries, start, &mut places[..end - start]);
            let mut row = start;
            while row < end {
                // Mostly keys are known: a run of them is looked up in one loop and touched in another.
                let (run, places) = (ids.len(), &places[row - start..end - start]);
                self.places.look_up_run(places, ids);
                self.touch_all(&ids[run..], &times[row..]);
                row += ids.len() - run;
                if row < end {
                    let Some(id) = self.look_up(columns, row) else { return row };
                    if id != REFUSED {
                        self.places.set(places[ids.len() - run], id);
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
        let keys = (0u32..).zip(self.names.iter().zip(self.last_seen.iter()));
        let gone: Vec<u32> =
            keys.filter(|(_, (name, seen))| **seen < before && name.is_some()).map(|(id, _)| id).collect();
        for id in &gone {
            self.forget(*id);
        }
        gone
    }

    /// The key columns of some ids, one array per key column, in the columns' own types.
    pub fn columns(&self, ids: &[u32]) -> Vec<ArrayRef> {
        let part = |id: &u32, column| {
            let name = self.names.get(*id as usize)?.as_ref()?;
            names::decode(&self.types, name)?.into_iter().nth(column)
        };
        let columns = self.types.iter().enumerate();
        columns.map(|(column, kind)| names::column(kind, ids.iter().map(|id| part(id, column)))).collect()
    }

    /// A key's name as a person reads it: its values, divided by `/`. `None` if these bytes, out of a saved state, are no
    /// name.
    pub fn show(name: &[u8]) -> Option<String> {
        names::show(name)
    }

    /// Whether an id is in use.
    pub fn is_live(&self, id: u32) -> bool {
        self.names.get(id as usize).is_some_and(Option::is_some)
    }

    /// Writes the keys into a node's state.
    pub fn save(&mut self, state: &mut StateWriter) {
        state.chunks(NAMES, NAMES_FIELDS, &mut self.names);
        state.chunks("keys last seen", "#keys time:time", &mut self.last_seen);
        state.chunks("free ids", "", &mut self.free);
        self.recency.save(state);
    }

    /// Takes the keys back.
    ///
    /// # Errors
    /// If the state is damaged.
    pub fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let (names, last_seen) = (Chunks::<Name>::load(state)?, Chunks::load(state)?);
        let free = Chunks::<u32>::load(state)?;
        let recency = Recency::load(state)?;
        let ids: HashMap<Box<[u8]>, u32> =
            (0u32..).zip(names.iter()).filter_map(|(id, name)| Some((name.clone()?, id))).collect();
        let mut is_free = vec![false; names.len()];
        let free_once = |id: &u32| {
            is_free.get_mut(*id as usize).is_some_and(|seen| !std::mem::replace(seen, true))
                && names.get(*id as usize).is_some_and(Option::is_none)
        };
        let sound = names.len() == last_seen.len()
            && free.iter().all(free_once)
            && ids.len() + free.len() == names.len()
            && names.iter().flatten().all(|name| names::decode(&self.types, name).is_some())
            && recency.fits(&names);
        if !sound {
            return Err(Error::state("saved keys do not fit together"));
        }
        self.recency = match self.limits.on_full {
            OnFull::Refuse => Recency::default(),
            // What was kept without an order is evicted in the order of ids.
            OnFull::Evict if recency.is_empty() => Recency::of((0u32..).zip(names.iter()), names.len()),
            OnFull::Evict => recency,
        };
        (self.ids, self.names, self.last_seen, self.free) = (ids, names, last_seen, free);
        self.places = Places::default();
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
        columns.iter().for_each(|column| names::encode(column, row, &mut name));
        let id = match self.ids.get(name.as_slice()) {
            Some(id) => Some(*id),
            None if self.ids.len() < self.limits.max_keys => Some(self.insert(&name)),
            None => match self.limits.on_full {
                OnFull::Refuse => Some(REFUSED),
                OnFull::Evict => {
                    self.doomed = Some(self.recency.oldest());
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
        }
        self.names[place] = Some(name.into());
        self.last_seen[place] = i64::MIN;
        self.ids.insert(name.into(), id);
        if self.limits.on_full == OnFull::Evict {
            self.recency.push(id);
        }
        id
    }

    fn forget(&mut self, id: u32) {
        if self.is_live(id)
            && let Some(name) = self.names.get_mut(id as usize).and_then(Option::take)
        {
            self.ids.remove(&name);
            self.free.push(id);
            if self.limits.on_full == OnFull::Evict {
                self.recency.remove(id);
            }
            self.places.clear();
        }
    }

    /// Notes that these keys, none refused, were seen.
    fn touch_all(&mut self, ids: &[u32], times: &[i64]) {
        if self.limits.on_full == OnFull::Evict {
            return ids.iter().zip(times).for_each(|(id, time)| self.touch(*id, *time));
        }
        for (id, time) in ids.iter().zip(times) {
            let seen = &mut self.last_seen[*id as usize];
            *seen = (*seen).max(*time);
        }
    }

    fn touch(&mut self, id: u32, time: i64) {
        if id == REFUSED {
            return;
        }
        let seen = &mut self.last_seen[id as usize];
        *seen = (*seen).max(time);
        if self.limits.on_full == OnFull::Evict {
            self.recency.touch(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        assert_eq!(keys.places.sizes(), (0, 300));
        let (again, _) = all(&mut keys, &[tags(&wide), tags(&wide)]);
        assert_eq!(again, ids);
    }

    #[test]
    fn a_number_is_no_key() {
        let error = Keys::new(vec![tag_type(), DataType::Float64], KeyLimits::default()).err().unwrap();
        assert!(error.message.contains("key column 2 is a number"), "{error}");
    }
}
