//! The shapes that a signal has, as a few centres that follow it. Pure.
//!
//! Source: J. MacQueen, "Some Methods for Classification and Analysis of Multivariate Observations", 5th Berkeley Symposium,
//! 1967 (k-means, one point at a time). Here a centre forgets, so that it follows a signal whose shapes drift.

use serde::{Deserialize, Serialize};

use super::neighbours::squared_distance;

/// Centres at most, and values in all of them at most: 16 KiB.
const CENTRES_MAX: usize = 32;
const VALUES_MAX: usize = 4_096;
/// Stretches over which a centre is a mean.
const MEMORY: f32 = 1_000.0;

/// How many centres there are for stretches of so many values.
pub(super) const fn centres_max(values: usize) -> usize {
    let centres = VALUES_MAX / if values == 0 { 1 } else { values };
    if centres > CENTRES_MAX {
        CENTRES_MAX
    } else if centres < 2 {
        2
    } else {
        centres
    }
}

/// Centres of stretches of rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Clusters {
    /// One behind the other.
    centres: Vec<f32>,
    /// How many stretches each has taken, up to the memory.
    counts: Vec<f32>,
    /// Rows since a centre was begun, while there are too few.
    waited: u32,
}

impl Clusters {
    /// Whether this is for stretches of so many values.
    pub(super) fn fits(&self, values: usize) -> bool {
        self.centres.len() == self.counts.len() * values && self.counts.len() <= centres_max(values)
    }

    /// The root of the mean squared distance of a stretch to its centre, then the centre moves if it may; NaN while there are
    /// too few centres. The first ones begin where stretches of `rows` rows lie side by side.
    pub fn step(&mut self, stretch: &[f32], rows: u32, learn: bool) -> f64 {
        if self.counts.len() < centres_max(stretch.len()) {
            self.waited += u32::from(learn);
            if self.waited >= rows {
                self.waited = 0;
                self.centres.extend_from_slice(stretch);
                self.counts.push(1.0);
            }
            return f64::NAN;
        }
        let mut best = (f32::INFINITY, 0);
        for (index, centre) in self.centres.chunks_exact(stretch.len()).enumerate() {
            let distance = squared_distance(stretch, centre, best.0);
            if distance < best.0 {
                best = (distance, index);
            }
        }
        let (distance, index) = best;
        let centre = self.centres.chunks_exact_mut(stretch.len()).nth(index);
        if let (true, Some(count), Some(centre)) = (learn, self.counts.get_mut(index), centre) {
            *count = (*count + 1.0).min(MEMORY);
            let gain = 1.0 / *count;
            centre.iter_mut().zip(stretch).for_each(|(place, value)| *place += gain * (value - *place));
        }
        (f64::from(distance) / stretch.len() as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shapes_are_near_and_others_far() {
        let mut clusters = Clusters::default();
        let wave = |row: usize| (row as f32 * std::f32::consts::TAU / 40.0).sin();
        let stretch = |from: usize| -> Vec<f32> { (from..from + 16).map(wave).collect() };
        let (mut begun, mut usual) = (0, 0.0f64);
        for row in 0..3_000 {
            let distance = clusters.step(&stretch(row), 16, true);
            begun += usize::from(distance.is_nan());
            usual = if row > 1_000 { usual.max(distance) } else { usual };
        }
        assert_eq!(begun, 16 * centres_max(16));
        let frozen = clusters.clone();
        let flat = clusters.step(&[0.9; 16], 16, false);
        assert!(flat > 1.5 * usual && usual < 0.2, "{flat} beside {usual}");
        assert_eq!(clusters, frozen);
    }

    #[test]
    fn centres_are_fewer_the_longer_stretches_are() {
        for (values, centres) in [(0, 32), (16, 32), (608, 6), (1 << 20, 2)] {
            assert_eq!(centres_max(values), centres, "{values} values");
        }
    }
}
