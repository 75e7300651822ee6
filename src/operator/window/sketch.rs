//! A quantile sketch with relative accuracy, after DDSketch: C. Masson, J. E. Rim, H. K. Lee, "DDSketch: A Fast
//! and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees", PVLDB 12(12), 2019. Pure.
//!
//! The paper puts a value into the bin of its logarithm. Here the logarithm is interpolated linearly inside an
//! octave: each octave is cut into 64 bins of equal width, so the bin is the exponent with the first six bits
//! of the mantissa, read straight from the value's bits. That needs more bins per octave than a true logarithm
//! (64 against 35), but no call of `ln`: it is fast and gives the same bits on every machine.

use crate::core::{StateReader, StateWriter};
use crate::error::{Error, Result};

/// Mantissa bits that are dropped: 52 less the six that number the bins of an octave.
const SHIFT: u32 = 46;

/// The greatest possible relative error of a quantile: half a bin's width over its lower end. The promise to
/// the user is 1 %.
#[cfg(test)]
const ERROR_MAX: f64 = 1.0 / 128.0;

/// The most bins of one sketch, 24 KiB. Both signs together fill it only if the magnitudes range over more
/// than sixteen octaves; then the values nearest zero count as zero, which keeps their error below 2⁻¹³ of
/// the greatest magnitude.
pub(super) const BINS_MAX: usize = 2048;

/// The key of zero, and of what is too small for a normal `f64`.
const ZERO: i32 = 0;

/// How many values fell into which bin. Bins are sparse and in the order of the values.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sketch {
    keys: Vec<i32>,
    counts: Vec<u64>,
    /// Magnitudes with keys below this count as zero; raised when there are too many bins.
    floor: i32,
}

/// The bin of a finite value: negative for negative values, growing with the value.
fn key(value: f64) -> i32 {
    // At most 2047 × 64 + 63, so it fits.
    let magnitude = (value.abs().to_bits() >> SHIFT) as i32;
    match magnitude {
        // Below the least normal number bins of equal width are not narrow enough.
        ..64 => ZERO,
        _ if value < 0.0 => -magnitude,
        _ => magnitude,
    }
}

/// The value in the middle of a bin.
fn middle(key: i32) -> f64 {
    if key == ZERO {
        return 0.0;
    }
    let bits = (u64::from(key.unsigned_abs()) << SHIFT) | (1 << (SHIFT - 1));
    f64::from_bits(bits).copysign(f64::from(key))
}

impl Sketch {
    /// Takes in a finite value.
    pub fn push(&mut self, value: f64) {
        self.add(key(value), 1);
    }

    fn add(&mut self, key: i32, count: u64) {
        let key = if key.abs() < self.floor { ZERO } else { key };
        match self.keys.binary_search(&key) {
            Ok(place) => self.counts[place] += count,
            Err(place) => {
                self.keys.insert(place, key);
                self.counts.insert(place, count);
                if self.keys.len() > BINS_MAX {
                    self.raise_floor();
                }
            }
        }
    }

    /// Makes room: the bins of the least magnitudes, an eighth of all, become part of the zero bin.
    fn raise_floor(&mut self) {
        let mut magnitudes: Vec<i32> = self.keys.iter().map(|key| key.abs()).collect();
        magnitudes.sort_unstable();
        self.floor = magnitudes[BINS_MAX / 8] + 1;
        let (keys, counts) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.counts));
        keys.into_iter().zip(counts).for_each(|(key, count)| self.add(key, count));
    }

    /// Takes in all that another sketch has. The result is that of one sketch of all values, unless one of the
    /// two was too wide.
    pub fn merge(&mut self, other: &Self) {
        if other.floor > self.floor {
            self.floor = other.floor;
            let (keys, counts) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.counts));
            keys.into_iter().zip(counts).for_each(|(key, count)| self.add(key, count));
        }
        other.keys.iter().zip(&other.counts).for_each(|(key, count)| self.add(*key, *count));
    }

    /// Forgets everything but keeps its memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.counts.clear();
        self.floor = 0;
    }

    /// The value at a share of the way through the sorted values: that of rank ⌊share × (n − 1)⌋ from 0,
    /// within 1 %. Nothing if there are no values.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.counts.iter().sum();
        let rank = (share * total.checked_sub(1)? as f64) as u64;
        let mut before = 0;
        let place = self.counts.iter().position(|count| {
            before += count;
            before > rank
        });
        self.keys.get(place?).map(|key| middle(*key))
    }

    /// Writes it into a node's state.
    pub fn save(&self, state: &mut StateWriter) {
        state.value(&(&self.keys, &self.counts, self.floor));
    }

    /// Takes it back.
    ///
    /// # Errors
    /// If it is none that [`Sketch::save`] could have written.
    pub fn load(state: &mut StateReader<'_>) -> Result<Self> {
        let (keys, counts, floor): (Vec<i32>, Vec<u64>, i32) = state.value()?;
        let sound = keys.len() == counts.len()
            && keys.len() <= BINS_MAX
            && keys.is_sorted_by(|one, next| one < next)
            && keys.iter().all(|key| *key == ZERO || (64..=(2047 << 6) + 63).contains(&key.unsigned_abs()))
            && counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count)).is_some();
        if sound { Ok(Self { keys, counts, floor }) } else { Err(Error::state("a saved sketch is damaged")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|value| sketch.push(*value));
        sketch
    }

    fn exact(values: &[f64], share: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[(share * (sorted.len() - 1) as f64) as usize]
    }

    #[test]
    fn bins_are_in_the_order_of_values_and_no_wider_than_promised() {
        let mut value = f64::MIN_POSITIVE;
        while value < f64::MAX / 1.01 {
            let middle = middle(key(value));
            assert!((middle - value).abs() <= ERROR_MAX * value, "{value}: {middle}");
            assert_eq!(key(-value), -key(value));
            assert!(key(value * 1.02) > key(value));
            value *= 1.0077;
        }
        assert_eq!([key(0.0), key(-0.0), key(f64::MIN_POSITIVE / 2.0)], [ZERO; 3]);
        assert!(middle(key(f64::MAX)).is_finite() && middle(key(f64::MIN)).is_finite());
    }

    #[test]
    fn nothing_has_no_quantile_and_one_value_is_all_of_them() {
        assert_eq!(Sketch::default().quantile(0.5), None);
        for share in [0.001, 0.5, 0.999] {
            assert!((sketch(&[-7.0]).quantile(share).unwrap() + 7.0).abs() < 0.07);
        }
    }

    #[test]
    fn too_wide_a_range_gives_up_what_is_near_zero() {
        // Two signs and twenty octaves are 2,560 bins.
        let mut values = Vec::new();
        for octave in 0..20 {
            for step in 0..64 {
                let value = f64::from(1u32 << octave) * (1.0 + (f64::from(step) + 0.5) / 64.0);
                values.extend([value, -value]);
            }
        }
        let sketch = sketch(&values);
        assert!(sketch.keys.len() <= BINS_MAX, "{}", sketch.keys.len());
        let greatest = f64::from(1u32 << 20);
        for share in [0.001, 0.1, 0.25, 0.499, 0.5, 0.6, 0.75, 0.9, 0.999] {
            let (found, wanted) = (sketch.quantile(share).unwrap(), exact(&values, share));
            let error = (found - wanted).abs();
            assert!(
                error <= ERROR_MAX * wanted.abs() || error <= greatest / 8192.0,
                "{share}: {found} {wanted}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn quantiles_are_within_one_percent_however_sketches_are_merged(
            values in prop::collection::vec(prop_oneof![-1e3..1e3f64, -1.0..1.0f64, Just(0.0)], 1..300),
            share in 0.0..1.0f64,
            cut in any::<prop::sample::Index>(),
        ) {
            let (head, tail) = values.split_at(cut.index(values.len()));
            let mut merged = sketch(head);
            merged.merge(&sketch(tail));
            prop_assert_eq!(&merged, &sketch(&values));
            let (found, wanted) = (merged.quantile(share).unwrap(), exact(&values, share));
            prop_assert!((found - wanted).abs() <= 0.01 * wanted.abs(), "{} {}", found, wanted);

            let mut state = StateWriter::new();
            merged.save(&mut state);
            let bytes = state.finish().unwrap();
            prop_assert_eq!(Sketch::load(&mut StateReader::new(&bytes)).unwrap(), merged);
        }
    }

    #[test]
    fn a_damaged_sketch_is_refused() {
        let table: [(Vec<i32>, Vec<u64>); 5] = [
            (vec![100, 100], vec![1, 1]),
            (vec![100], vec![]),
            (vec![3], vec![1]),
            (vec![100, 200], vec![u64::MAX, 1]),
            ((1000..1000 + BINS_MAX as i32 + 1).collect(), vec![1; BINS_MAX + 1]),
        ];
        for (keys, counts) in table {
            let mut state = StateWriter::new();
            state.value(&(keys, counts, 0i32));
            let bytes = state.finish().unwrap();
            assert!(Sketch::load(&mut StateReader::new(&bytes)).is_err());
        }
    }
}
