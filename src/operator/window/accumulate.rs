//! What is kept of the values of one column in one window: small cells that take in a value, and slabs of cells
//! that take in a column. Pure.
//!
//! Values are folded in the order of the rows, so the bits of a result do not depend on how rows were cut into
//! batches. Cells merge, which is how hopping windows are put together from panes and sessions grow into one.

use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use super::stat::{Plan, Summary};
use crate::core::chunks::Element;
use crate::core::{Chunks, StateReader, StateWriter};
use crate::error::{Error, Result};

/// One accumulator of one column in one window.
pub(super) trait Cell: Element {
    /// What it is, for those who look at saved state.
    const NAME: &'static str;
    /// What it is written as (see [`StateWriter::chunks`]).
    const FIELDS: &'static str = "";
    /// Bytes that it takes beside its own size, at most.
    const HEAP_BYTES_MAX: usize = 0;

    /// Takes in a finite value at a time (µs since 1970).
    fn push(&mut self, time: i64, value: f64);

    /// Takes in all that another cell has. The two have no moment in common.
    fn merge(&mut self, other: &Self);

    /// Starts anew.
    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes what it knows into a summary.
    fn describe<'a>(&'a self, summary: &mut Summary<'a>);
}

/// The cells of one accumulator of one column, indexed by the slot of the window.
pub(super) trait Slab: Send {
    /// Bytes that one cell takes at most.
    fn cell_bytes_max(&self) -> usize;
    /// Makes room for this many slots.
    fn grow(&mut self, slots: usize);
    /// Takes in one value per row; rows whose slot is beyond the slab, and values that are NaN, are left out.
    fn fold(&mut self, slots: &[u32], times: &[i64], values: &[f64]);
    /// Merges the cells of some slots into another's, in this order. No two have a moment in common.
    fn merge(&mut self, into: u32, from: &[u32]);
    /// Clears the cells of some slots for their next windows.
    fn clear(&mut self, slots: &[u32]);
    /// Writes what a slot's cell knows into a summary.
    fn describe<'a>(&'a self, slot: u32, summary: &mut Summary<'a>);
    /// Writes all cells, of a column of this name, into a node's state.
    fn save(&mut self, column: &str, state: &mut StateWriter);
    /// Takes all cells back, for so many slots.
    ///
    /// # Errors
    /// If the state is damaged.
    fn load(&mut self, state: &mut StateReader<'_>, slots: usize) -> Result<()>;
}

/// The slabs that serve a plan.
pub(super) fn slabs(plan: Plan) -> Vec<Box<dyn Slab>> {
    fn of<C: Cell + 'static>() -> Box<dyn Slab> {
        Box::new(Chunks::<C>::new())
    }
    let moments = match plan.order {
        0 => of::<Moments<0>>(),
        1 => of::<Moments<1>>(),
        2 => of::<Moments<2>>(),
        3 => of::<Moments<3>>(),
        _ => of::<Moments<4>>(),
    };
    let others = [
        (plan.extremes, of::<Extremes> as fn() -> Box<dyn Slab>),
        (plan.sum, of::<Sum>),
        (plan.ends, of::<Ends>),
        (plan.slope, of::<Slope>),
        (plan.sketch, of::<Sketch>),
    ];
    let others = others.into_iter().filter(|(wanted, _)| *wanted).map(|(_, make)| make());
    std::iter::once(moments).chain(others).collect()
}

impl<C: Cell> Slab for Chunks<C> {
    fn cell_bytes_max(&self) -> usize {
        size_of::<C>() + C::HEAP_BYTES_MAX
    }

    fn grow(&mut self, slots: usize) {
        Chunks::grow(self, slots);
    }

    fn fold(&mut self, slots: &[u32], times: &[i64], values: &[f64]) {
        for ((slot, time), value) in slots.iter().zip(times).zip(values) {
            if let Some(cell) = self.get_mut(*slot as usize)
                && !value.is_nan()
            {
                cell.push(*time, *value);
            }
        }
    }

    fn merge(&mut self, into: u32, from: &[u32]) {
        let mut whole = std::mem::take(&mut self[into as usize]);
        from.iter().for_each(|slot| whole.merge(&self[*slot as usize]));
        self[into as usize] = whole;
    }

    fn clear(&mut self, slots: &[u32]) {
        slots.iter().for_each(|slot| self[*slot as usize].clear());
    }

    fn describe<'a>(&'a self, slot: u32, summary: &mut Summary<'a>) {
        self[slot as usize].describe(summary);
    }

    fn save(&mut self, column: &str, state: &mut StateWriter) {
        state.chunks(&format!("{} of {column}", C::NAME), C::FIELDS, self);
    }

    fn load(&mut self, state: &mut StateReader<'_>, slots: usize) -> Result<()> {
        *self = Chunks::load(state)?;
        if self.len() > slots {
            return Err(Error::state("there are more saved statistics than windows"));
        }
        Chunks::grow(self, slots);
        Ok(())
    }
}

/// The count, the mean and the sums of powers of differences from it, up to the `K`-th. One value at a time
/// after B. P. Welford, "Note on a method for calculating corrected sums of squares and products",
/// Technometrics 4(3), 1962; higher powers and merging after P. Pébay, "Formulas for robust, one-pass parallel
/// computation of covariances and arbitrary-order statistical moments", Sandia report SAND2008-6212, 2008.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "(u64, Vec<f64>)", try_from = "(u64, Vec<f64>)")]
struct Moments<const K: usize> {
    count: u64,
    /// The mean, then the sums of the second, third and fourth powers.
    powers: [f64; K],
}

impl<const K: usize> Default for Moments<K> {
    fn default() -> Self {
        Self { count: 0, powers: [0.0; K] }
    }
}

impl<const K: usize> From<Moments<K>> for (u64, Vec<f64>) {
    fn from(cell: Moments<K>) -> Self {
        (cell.count, cell.powers.to_vec())
    }
}

impl<const K: usize> TryFrom<(u64, Vec<f64>)> for Moments<K> {
    type Error = &'static str;

    fn try_from((count, powers): (u64, Vec<f64>)) -> std::result::Result<Self, Self::Error> {
        let powers = powers.try_into().map_err(|_| "moments of another order")?;
        Ok(Self { count, powers })
    }
}

impl<const K: usize> Cell for Moments<K> {
    const NAME: &'static str = "moments";
    const FIELDS: &'static str = "#windows count:u mean_and_powers:fs";

    #[inline]
    fn push(&mut self, _time: i64, value: f64) {
        let before = self.count as f64;
        self.count += 1;
        if K == 0 {
            return;
        }
        let count = self.count as f64;
        let delta = value - self.powers[0];
        let step = delta / count;
        self.powers[0] += step;
        let square = delta * step * before;
        if K >= 4 {
            let shape = count * count - 3.0 * count + 3.0;
            self.powers[3] += square * step * step * shape + 6.0 * step * step * self.powers[1]
                - 4.0 * step * self.powers[2];
        }
        if K >= 3 {
            self.powers[2] += square * step * (count - 2.0) - 3.0 * step * self.powers[1];
        }
        if K >= 2 {
            self.powers[1] += square;
        }
    }

    fn merge(&mut self, later: &Self) {
        if self.count == 0 || later.count == 0 {
            if self.count == 0 {
                *self = *later;
            }
            return;
        }
        let (one, other) = (self.count as f64, later.count as f64);
        let total = one + other;
        self.count += later.count;
        if K == 0 {
            return;
        }
        let delta = later.powers[0] - self.powers[0];
        let step = delta / total;
        self.powers[0] += step * other;
        let square = delta * step * one * other;
        if K >= 4 {
            let (mine, theirs) = (self.powers[1], later.powers[1]);
            self.powers[3] += later.powers[3]
                + square * step * step * (one * one - one * other + other * other)
                + 6.0 * step * step * (one * one * theirs + other * other * mine)
                + 4.0 * step * (one * later.powers[2] - other * self.powers[2]);
        }
        if K >= 3 {
            self.powers[2] += later.powers[2]
                + square * step * (one - other)
                + 3.0 * step * (one * later.powers[1] - other * self.powers[1]);
        }
        if K >= 2 {
            self.powers[1] += later.powers[1] + square;
        }
    }

    fn describe<'a>(&'a self, summary: &mut Summary<'a>) {
        summary.count = self.count;
        if let Some((mean, powers)) = self.powers.split_first() {
            summary.mean = *mean;
            summary.powers.iter_mut().zip(powers).for_each(|(place, power)| *place = *power);
        }
    }
}

/// The least and the greatest value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Extremes {
    least: f64,
    greatest: f64,
}

impl Default for Extremes {
    fn default() -> Self {
        Self { least: f64::INFINITY, greatest: f64::NEG_INFINITY }
    }
}

impl Cell for Extremes {
    const NAME: &'static str = "extremes";
    const FIELDS: &'static str = "#windows least:f greatest:f";

    #[inline]
    fn push(&mut self, _time: i64, value: f64) {
        self.least = if value < self.least { value } else { self.least };
        self.greatest = if value > self.greatest { value } else { self.greatest };
    }

    fn merge(&mut self, later: &Self) {
        self.least = if later.least < self.least { later.least } else { self.least };
        self.greatest = if later.greatest > self.greatest { later.greatest } else { self.greatest };
    }

    fn describe<'a>(&'a self, summary: &mut Summary<'a>) {
        (summary.min, summary.max) = (self.least, self.greatest);
    }
}

/// A sum and what rounding took from it, after A. Neumaier, "Rundungsfehleranalyse einiger Verfahren zur
/// Summation endlicher Summen", ZAMM 54, 1974.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Sum {
    sum: f64,
    lost: f64,
}

impl Cell for Sum {
    const NAME: &'static str = "sums";
    const FIELDS: &'static str = "#windows sum:f lost:f";

    #[inline]
    fn push(&mut self, _time: i64, value: f64) {
        let sum = self.sum + value;
        self.lost +=
            if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
    }

    fn merge(&mut self, later: &Self) {
        self.push(0, later.sum);
        self.lost += later.lost;
    }

    fn describe<'a>(&'a self, summary: &mut Summary<'a>) {
        summary.sum = self.sum + self.lost;
    }
}

/// The values with the earliest and the latest time; of equal times the first row and the last row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Ends {
    first_time: i64,
    first: f64,
    last_time: i64,
    last: f64,
}

impl Default for Ends {
    fn default() -> Self {
        Self { first_time: i64::MAX, first: 0.0, last_time: i64::MIN, last: 0.0 }
    }
}

impl Cell for Ends {
    const NAME: &'static str = "first and last";
    const FIELDS: &'static str = "#windows first_time:time first:f last_time:time last:f";

    #[inline]
    fn push(&mut self, time: i64, value: f64) {
        if time < self.first_time {
            (self.first_time, self.first) = (time, value);
        }
        if time >= self.last_time {
            (self.last_time, self.last) = (time, value);
        }
    }

    fn merge(&mut self, later: &Self) {
        if later.first_time < self.first_time {
            (self.first_time, self.first) = (later.first_time, later.first);
        }
        if later.last_time >= self.last_time {
            (self.last_time, self.last) = (later.last_time, later.last);
        }
    }

    fn describe<'a>(&'a self, summary: &mut Summary<'a>) {
        (summary.first, summary.last) = (self.first, self.last);
    }
}

/// The least-squares line through the values over time: co-moments after Pébay (see [`Moments`]). Times count
/// from the first value's, in µs, so that they are small and exact.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Slope {
    count: u64,
    origin: i64,
    mean_time: f64,
    mean_value: f64,
    /// The sum of the squared differences of the times from their mean.
    square_time: f64,
    /// The sum of the products of the differences of times and values from their means.
    product: f64,
}

impl Cell for Slope {
    const NAME: &'static str = "slopes";
    const FIELDS: &'static str =
        "#windows count:u origin:time mean_time:f mean_value:f square_time:f product:f";

    #[inline]
    fn push(&mut self, time: i64, value: f64) {
        if self.count == 0 {
            self.origin = time;
        }
        self.count += 1;
        let count = self.count as f64;
        let time = (time - self.origin) as f64 - self.mean_time;
        let value = value - self.mean_value;
        self.mean_time += time / count;
        self.mean_value += value / count;
        let share = (count - 1.0) / count;
        self.square_time += time * time * share;
        self.product += time * value * share;
    }

    fn merge(&mut self, later: &Self) {
        if self.count == 0 || later.count == 0 {
            if self.count == 0 {
                *self = *later;
            }
            return;
        }
        let (one, other) = (self.count as f64, later.count as f64);
        let total = one + other;
        self.count += later.count;
        let time = later.mean_time + (later.origin - self.origin) as f64 - self.mean_time;
        let value = later.mean_value - self.mean_value;
        self.mean_time += time * other / total;
        self.mean_value += value * other / total;
        let share = one * other / total;
        self.square_time += later.square_time + time * time * share;
        self.product += later.product + time * value * share;
    }

    fn describe<'a>(&'a self, summary: &mut Summary<'a>) {
        summary.slope = (self.square_time > 0.0).then(|| self.product / self.square_time * 1e6);
    }
}

impl Cell for Sketch {
    const NAME: &'static str = "quantile sketches";
    const HEAP_BYTES_MAX: usize = Sketch::HEAP_BYTES_MAX;

    fn push(&mut self, _time: i64, value: f64) {
        Sketch::push(self, value);
    }

    fn merge(&mut self, later: &Self) {
        Sketch::merge(self, later);
    }

    fn clear(&mut self) {
        Sketch::clear(self);
    }

    fn describe<'a>(&'a self, summary: &mut Summary<'a>) {
        summary.sketch = Some(self);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::stat::Stat;
    use super::*;

    fn all() -> Plan {
        Plan { order: 4, sum: true, extremes: true, ends: true, slope: true, sketch: true }
    }

    fn summary(slabs: &[Box<dyn Slab>], slot: u32) -> Summary<'_> {
        let mut summary = Summary::default();
        slabs.iter().for_each(|slab| slab.describe(slot, &mut summary));
        summary
    }

    fn folded(times: &[i64], values: &[f64], slots: &[u32]) -> Vec<Box<dyn Slab>> {
        let mut slabs = slabs(all());
        for slab in &mut slabs {
            slab.grow(2);
            slab.fold(slots, times, values);
        }
        slabs
    }

    #[test]
    fn a_small_spread_on_a_large_offset_keeps_its_digits() {
        // The variance of 0, 1, 2 … 9 is 55/6 wherever they stand; with sums of squares nothing would be left.
        let values: Vec<f64> = (0..1000).map(|n| 1e9 + f64::from(n % 10)).collect();
        let times: Vec<i64> = (0..1000).collect();
        let slabs = folded(&times, &values, &vec![0; 1000]);
        let summary = summary(&slabs, 0);
        let close = |stat: Stat, wanted: f64| {
            let found = stat.value(&summary).unwrap();
            assert!((found - wanted).abs() <= 1e-8 * wanted.abs().max(1.0), "{stat:?}: {found} {wanted}");
        };
        close(Stat::Var, 8.25 * 1000.0 / 999.0);
        close(Stat::Mean, 1e9 + 4.5);
        close(Stat::Skew, 0.0);
        close(Stat::Kurtosis, 1.775_757_575_757_576);
        close(Stat::Sum, 1e12 + 4500.0);
    }

    #[test]
    fn small_values_are_not_lost_beside_large_ones() {
        let values = [1.0, 1e100, 1.0, -1e100];
        let slabs = folded(&[0, 1, 2, 3], &values, &[0; 4]);
        assert_eq!(Stat::Sum.value(&summary(&slabs, 0)), Some(2.0));
    }

    #[test]
    fn a_slope_is_per_second_whatever_the_century() {
        for origin in [0i64, 1_700_000_000_000_000, 1 << 60, -(1 << 60)] {
            let times: Vec<i64> = (0..50).map(|n| origin + n * 1000).collect();
            let values: Vec<f64> = (0..50).map(|n| 3.0 - 0.25 * f64::from(n)).collect();
            let slabs = folded(&times, &values, &[0; 50]);
            let slope = summary(&slabs, 0).slope.unwrap();
            assert!((slope + 250.0).abs() < 1e-9, "{slope}");
        }
        let slabs = folded(&[5, 5], &[1.0, 2.0], &[0, 0]);
        assert_eq!(summary(&slabs, 0).slope, None, "no line through one moment");
    }

    #[test]
    fn rows_without_a_slot_and_values_without_a_number_are_left_out() {
        let slabs = folded(&[0, 1, 2, 3], &[1.0, f64::NAN, 9.0, 2.0], &[0, 0, u32::MAX, 1]);
        assert_eq!((summary(&slabs, 0).count, summary(&slabs, 1).count), (1, 1));
        assert_eq!(summary(&slabs, 0).max, 1.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Merged parts say the same as the whole; saved and loaded cells are bit for bit the same.
        #[test]
        fn parts_merge_into_the_whole(
            values in prop::collection::vec(-100.0..100.0f64, 2..80),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(values.len());
            let times: Vec<i64> = (0..values.len() as i64).map(|n| n * 7000).collect();
            let parts: Vec<u32> = (0..values.len()).map(|row| u32::from(row >= cut)).collect();
            let mut parted = folded(&times, &values, &parts);
            parted.iter_mut().for_each(|slab| slab.merge(0, &[1]));
            let whole = folded(&times, &values, &vec![0; values.len()]);
            let (merged, whole) = (summary(&parted, 0), summary(&whole, 0));
            // The last of three is the scale of what is added up; exact where it is zero.
            for (one, other, scale) in [
                (merged.count as f64, whole.count as f64, 0.0),
                (merged.min, whole.min, 0.0),
                (merged.max, whole.max, 0.0),
                (merged.first, whole.first, 0.0),
                (merged.last, whole.last, 0.0),
                (merged.mean, whole.mean, 1e2),
                (merged.sum, whole.sum, 1e4),
                (merged.powers[0], whole.powers[0], 1e6),
                (merged.powers[1], whole.powers[1], 1e8),
                (merged.powers[2], whole.powers[2], 1e10),
                (merged.slope.unwrap_or(0.0), whole.slope.unwrap_or(0.0), 1e5),
            ] {
                prop_assert!((one - other).abs() <= 1e-12 * scale, "{} {}", one, other);
            }

            let merged = format!("{merged:?}");
            let mut state = StateWriter::new();
            parted.iter_mut().for_each(|slab| slab.save("x", &mut state));
            let bytes = state.finish().unwrap();
            let mut reader = StateReader::new(&bytes);
            let mut loaded = slabs(all());
            for slab in &mut loaded {
                slab.load(&mut reader, 3).unwrap();
            }
            reader.finish().unwrap();
            prop_assert_eq!(format!("{:?}", summary(&loaded, 0)), merged);
        }
    }
}
