//! The short way from dictionary keys to ids: a table that is valid while the dictionaries stay the same. Pure.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray};
use arrow::datatypes::Int32Type;
use hashbrown::HashMap;

use super::NONE;

/// Tables of up to this many combinations are flat; beyond, they are hashed.
const FLAT_MAX: usize = 1 << 16;

/// Ids by the combination of dictionary keys, as seen last time.
#[derive(Default)]
pub(super) struct Places {
    dictionaries: Vec<ArrayRef>,
    flat: Vec<u32>,
    hashed: HashMap<u64, u32>,
}

impl Places {
    /// Makes the table fit the dictionaries; false if there are more combinations than a `u64` can number.
    pub fn fit(&mut self, columns: &[ArrayRef]) -> bool {
        let same = self.dictionaries.len() == columns.len()
            && columns
                .iter()
                .zip(&self.dictionaries)
                .all(|(column, known)| Arc::ptr_eq(column.as_dictionary::<Int32Type>().values(), known));
        if same {
            return true;
        }
        self.dictionaries =
            columns.iter().map(|column| Arc::clone(column.as_dictionary::<Int32Type>().values())).collect();
        let combinations = self
            .dictionaries
            .iter()
            .try_fold(1u64, |product, values| product.checked_mul(values.len() as u64 + 1));
        self.flat.clear();
        self.hashed.clear();
        let Some(combinations) = combinations else {
            self.dictionaries.clear();
            return false;
        };
        if combinations <= FLAT_MAX as u64 {
            self.flat.resize(combinations as usize, NONE);
        }
        true
    }

    /// Forgets everything: an id in it may have become another key's.
    pub fn clear(&mut self) {
        self.dictionaries.clear();
    }

    /// Appends the ids at these places up to the first that is not known.
    #[inline]
    pub fn look_up_run(&self, places: &[u64], ids: &mut Vec<u32>) {
        if self.flat.is_empty() {
            ids.extend(places.iter().map_while(|place| self.hashed.get(place)));
        } else {
            let flat = &self.flat[..];
            ids.extend(places.iter().map_while(|place| Some(flat[*place as usize]).filter(|id| *id != NONE)));
        }
    }

    /// Notes the id at a place.
    pub fn set(&mut self, place: u64, id: u32) {
        match self.flat.get_mut(place as usize) {
            Some(slot) => *slot = id,
            None => _ = self.hashed.insert(place, id),
        }
    }

    /// How many ids are in the flat table and in the hashed one.
    #[cfg(test)]
    pub fn sizes(&self) -> (usize, usize) {
        (self.flat.len(), self.hashed.len())
    }
}

/// Numbers the combinations of dictionary keys of the rows from `start` on: one digit per column, the last of
/// each column's range for null.
pub(super) fn number(dictionaries: &[&DictionaryArray<Int32Type>], start: usize, places: &mut [u64]) {
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
