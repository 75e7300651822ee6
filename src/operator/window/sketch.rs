//! A quantile sketch with relative accuracy, after DDSketch: C. Masson, J. E. Rim, H. K. Lee, "DDSketch: A Fast
//! and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees", PVLDB 12(12), 2019. Pure.
//!
//! The paper puts a value into the bin of its logarithm. Here the logarithm is interpolated linearly inside an
//! octave: each octave is cut into 64 bins of equal width, so the bin is the exponent with the first six bits
//! of the mantissa, read straight from the value's bits. That needs more bins per octave than a true logarithm
//! (64 against 35), but no call of `ln`: it is fast and gives the same bits on every machine.

use serde::{Deserialize, Serialize};

/// Bins of one octave.
const BINS: usize = 64;

/// Mantissa bits that do not matter: 52 less the six that number the bins of an octave.
const SHIFT: u32 = 46;

/// The greatest possible relative error of a quantile: half a bin's width over its lower end. The promise to
/// the user is 1 %.
#[cfg(test)]
const ERROR_MAX: f64 = 1.0 / 128.0;

/// The most octaves of one sketch, both signs together; they take 6 KiB. Where values range wider (beyond 1 : 16 million
/// of one sign, 1 : 4,096 of both), those nearest zero count as zero, which keeps their error below 2⁻¹¹ of the greatest
/// magnitude.
const OCTAVES_MAX: usize = 24;

/// The greatest exponent field of a finite value.
const EXPONENT_MAX: u16 = 2046;

/// How many values fell into which bin. Only octaves with values in them are kept, in the order of the values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Saved", try_from = "Saved")]
pub(super) struct Sketch {
    /// The exponent field of each octave, negative for negative values.
    octaves: Vec<i16>,
    /// The counts of each octave's bins, by magnitude: those of octave `n` from `n * BINS` on. One that is full stays so:
    /// four billion rows beside each other.
    counts: Vec<u32>,
    /// How many values were zero, too small for a normal `f64`, or below the floor.
    zeros: u64,
    /// Octaves with exponent fields below this count as zero; raised when there are too many.
    floor: u16,
}

/// The octave and the bin of a finite value. The octave of what is no normal number is 0.
fn place(value: f64) -> (i16, usize) {
    let magnitude = value.abs().to_bits() >> SHIFT;
    let octave = (magnitude / BINS as u64) as i16;
    (if value < 0.0 { -octave } else { octave }, magnitude as usize % BINS)
}

fn sum(counts: &[u32]) -> u64 {
    counts.iter().map(|count| u64::from(*count)).sum()
}

/// The value in the middle of a bin.
fn middle(octave: i16, bin: usize) -> f64 {
    let magnitude = u64::from(octave.unsigned_abs()) * BINS as u64 + bin as u64;
    f64::from_bits((magnitude << SHIFT) | (1 << (SHIFT - 1))).copysign(f64::from(octave))
}

impl Sketch {
    /// Bytes of all octaves that there can be.
    pub const HEAP_BYTES_MAX: usize = OCTAVES_MAX * (BINS * size_of::<u32>() + size_of::<i16>());

    /// Takes in a finite value.
    #[inline]
    pub fn push(&mut self, value: f64) {
        let (octave, bin) = place(value);
        self.add(octave, bin, 1);
    }

    #[inline]
    fn add(&mut self, octave: i16, bin: usize, count: u32) {
        // Few octaves, and values jump between them: counting the lesser ones mispredicts nothing.
        let lesser: usize = self.octaves.iter().map(|other| usize::from(*other < octave)).sum();
        if self.octaves.get(lesser) == Some(&octave) {
            let counted = &mut self.counts[lesser * BINS + bin];
            *counted = counted.saturating_add(count);
        } else {
            self.open(lesser, octave, bin, count);
        }
    }

    /// Takes a value in whose octave is not there.
    #[cold]
    fn open(&mut self, at: usize, octave: i16, bin: usize, count: u32) {
        if octave == 0 || octave.unsigned_abs() < self.floor {
            self.zeros = self.zeros.saturating_add(u64::from(count));
            return;
        }
        self.octaves.insert(at, octave);
        let start = at * BINS;
        self.counts.splice(start..start, [0; BINS]);
        self.counts[start + bin] = count;
        while self.octaves.len() > OCTAVES_MAX {
            let least = self.octaves.iter().map(|octave| octave.unsigned_abs()).min();
            self.raise_floor(least.unwrap_or(0) + 1);
        }
    }

    /// Counts what is in octaves below the floor as zero.
    fn raise_floor(&mut self, floor: u16) {
        self.floor = self.floor.max(floor);
        while let Some(low) = self.octaves.iter().position(|octave| octave.unsigned_abs() < self.floor) {
            self.octaves.remove(low);
            let below = self.counts.drain(low * BINS..(low + 1) * BINS);
            self.zeros = below.fold(self.zeros, |zeros, count| zeros.saturating_add(u64::from(count)));
        }
    }

    /// Takes in all that another sketch has. The result is that of one sketch of all values.
    pub fn merge(&mut self, other: &Self) {
        self.raise_floor(other.floor);
        self.zeros = self.zeros.saturating_add(other.zeros);
        for (octave, bin, count) in other.bins() {
            self.add(octave, bin, count);
        }
    }

    /// Forgets everything but keeps its memory.
    pub fn clear(&mut self) {
        self.octaves.clear();
        self.counts.clear();
        (self.zeros, self.floor) = (0, 0);
    }

    /// The bins with something in them but that of zero: octave, bin, count. In order of octaves.
    fn bins(&self) -> impl Iterator<Item = (i16, usize, u32)> {
        let octaves = self.octaves.iter().zip(self.counts.chunks_exact(BINS));
        octaves
            .flat_map(|(octave, counts)| counts.iter().enumerate().map(|(bin, count)| (*octave, bin, *count)))
            .filter(|(.., count)| *count > 0)
    }

    /// The value at a share of the way through the sorted values: that of rank ⌊share × (n − 1)⌋ from 0,
    /// within 1 %. Nothing if there are no values.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.zeros.saturating_add(sum(&self.counts));
        let mut left = (share * total.checked_sub(1)? as f64) as u64;
        let mut is_zero_passed = false;
        for (octave, counts) in self.octaves.iter().zip(self.counts.chunks_exact(BINS)) {
            if *octave > 0 && !is_zero_passed {
                if left < self.zeros {
                    return Some(0.0);
                }
                (left, is_zero_passed) = (left - self.zeros, true);
            }
            let inside = sum(counts);
            if left >= inside {
                left -= inside;
                continue;
            }
            // The greater the magnitude of a negative value, the earlier it comes.
            let mut passed = |count: &u32| {
                let is_here = left < u64::from(*count);
                left = left.saturating_sub(u64::from(*count));
                is_here
            };
            let bin = match *octave < 0 {
                true => counts.iter().rposition(&mut passed),
                false => counts.iter().position(&mut passed),
            };
            return bin.map(|bin| middle(*octave, bin));
        }
        Some(0.0)
    }
}

/// As which it is written: the values counted as zero, the floor, and the bins with something in them.
type Saved = (u64, u16, Vec<(i16, u8, u32)>);

impl From<Sketch> for Saved {
    fn from(sketch: Sketch) -> Self {
        let bins = sketch.bins().map(|(octave, bin, count)| (octave, bin as u8, count)).collect();
        (sketch.zeros, sketch.floor, bins)
    }
}

impl TryFrom<Saved> for Sketch {
    type Error = &'static str;

    fn try_from((zeros, floor, bins): Saved) -> std::result::Result<Self, Self::Error> {
        let sound = floor <= EXPONENT_MAX
            && bins.is_sorted_by_key(|(octave, bin, _)| (*octave, *bin))
            && bins.iter().all(|(octave, bin, _)| {
                (floor.max(1)..=EXPONENT_MAX).contains(&octave.unsigned_abs()) && usize::from(*bin) < BINS
            })
            && bins.len() <= OCTAVES_MAX * BINS;
        if !sound {
            return Err("a damaged sketch");
        }
        let mut sketch = Self { zeros, floor, ..Self::default() };
        bins.iter().for_each(|(octave, bin, count)| sketch.add(*octave, usize::from(*bin), *count));
        Ok(sketch)
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
            let (octave, bin) = place(value);
            let middle = middle(octave, bin);
            assert!((middle - value).abs() <= ERROR_MAX * value, "{value}: {middle}");
            assert_eq!(place(-value), (-octave, bin));
            assert!(place(value * 1.02) > (octave, bin));
            value *= 1.0077;
        }
        for nothing in [0.0, -0.0, f64::MIN_POSITIVE / 2.0, -f64::MIN_POSITIVE / 2.0] {
            assert_eq!(place(nothing).0, 0);
        }
        for greatest in [f64::MAX, f64::MIN] {
            let (octave, bin) = place(greatest);
            assert_eq!(octave.unsigned_abs(), EXPONENT_MAX);
            assert!(middle(octave, bin).is_finite());
        }
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
        // Two signs of twenty octaves.
        let mut values = Vec::new();
        for octave in 0..20 {
            for step in 0..64 {
                let value = f64::from(1u32 << octave) * (1.0 + (f64::from(step) + 0.5) / 64.0);
                values.extend([value, -value]);
            }
        }
        let sketch = sketch(&values);
        assert_eq!(sketch.octaves.len(), OCTAVES_MAX);
        let greatest = f64::from(1u32 << 20);
        for share in [0.001, 0.1, 0.25, 0.499, 0.5, 0.6, 0.75, 0.9, 0.999] {
            let (found, wanted) = (sketch.quantile(share).unwrap(), exact(&values, share));
            let error = (found - wanted).abs();
            assert!(
                error <= ERROR_MAX * wanted.abs() || error <= greatest / 2048.0,
                "{share}: {found} {wanted}"
            );
        }
    }

    #[test]
    fn what_one_sketch_gave_up_is_given_up_when_merged() {
        let octave = |octave: i32| f64::from(octave).exp2();
        let wide: Vec<f64> = (0..13).map(octave).chain((0..12).map(|n| -octave(n))).collect();
        let low = [octave(-1), octave(-1)];
        let mut merged = sketch(&low);
        merged.merge(&sketch(&wide));
        assert_eq!((merged.zeros, merged.octaves.len()), (4, 23));
        assert_eq!(merged, sketch(&[&wide[..], &low].concat()));
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

            let bytes = postcard::to_stdvec(&merged).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Sketch>(&bytes).unwrap(), merged);
        }
    }

    #[test]
    fn a_damaged_sketch_is_refused() {
        let table: [Saved; 7] = [
            (0, 0, vec![(0, 1, 1)]),
            (0, 0, vec![(2047, 1, 1)]),
            (0, 0, vec![(i16::MIN, 1, 1)]),
            (0, 0, vec![(5, 64, 1)]),
            (0, 0, vec![(5, 2, 1), (5, 1, 1)]),
            (0, 9, vec![(5, 2, 1)]),
            (1, 0, vec![(5, 2, 1); OCTAVES_MAX * BINS + 1]),
        ];
        for saved in table {
            let bytes = postcard::to_stdvec(&saved).unwrap();
            assert!(postcard::from_bytes::<Sketch>(&bytes).is_err());
        }
    }
}
