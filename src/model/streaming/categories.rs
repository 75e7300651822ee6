//! What the last stretch of rows is an example of, among categories that are made as they are needed. Pure.
//!
//! Source of the idea: G. A. Carpenter, S. Grossberg, "ART 2: self-organization of stable category recognition codes for
//! analog input patterns", Applied Optics 26(23), 1987: an example joins the category most like it if it is like enough (the
//! vigilance), and else begins one of its own. How unlike it was is the number; examples are stretches in parts, each by its
//! mean.

use serde::{Deserialize, Serialize};

/// Categories at most.
const CATEGORIES_MAX: usize = 64;
/// Farther than this from all categories, in deviations per part, an example begins its own.
const VIGILANCE: f32 = 0.3;
/// Examples over which a category is a mean.
const MEMORY: f32 = 50.0;

/// The most bytes of categories of so many parts, beside themselves.
pub(super) const fn bytes_max(parts: usize) -> usize {
    size_of::<f32>() * CATEGORIES_MAX * (parts + 1)
}

/// Categories of stretches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Categories {
    /// The means of the parts, one category behind the other.
    means: Vec<f32>,
    /// How many examples each has had, up to the memory.
    counts: Vec<f32>,
}

impl Categories {
    /// Whether this is for examples of so many parts.
    pub(super) fn fits(&self, parts: usize) -> bool {
        self.means.len() == self.counts.len() * parts && self.counts.len() <= CATEGORIES_MAX
    }

    /// How far a stretch is from its category, as the root of the mean squared distance per part, and learns it if it may;
    /// NaN for the first. Parts are of `rows` values each.
    pub fn step(&mut self, stretch: &[f32], rows: usize, learn: bool, example: &mut Vec<f32>) -> f64 {
        example.clear();
        example.extend(stretch.chunks_exact(rows).map(|part| part.iter().sum::<f32>() / rows as f32));
        let parts = example.len();
        let mut best = (f32::INFINITY, 0);
        for (index, means) in self.means.chunks_exact(parts.max(1)).enumerate() {
            let distance: f32 =
                means.iter().zip(&*example).map(|(one, other)| (one - other) * (one - other)).sum();
            if distance < best.0 {
                best = (distance, index);
            }
        }
        let distance = (best.0 / parts as f32).sqrt();
        if learn && distance > VIGILANCE && self.counts.len() < CATEGORIES_MAX {
            self.means.extend_from_slice(example);
            self.counts.push(1.0);
        } else if learn && let Some(count) = self.counts.get_mut(best.1) {
            *count = (*count + 1.0).min(MEMORY);
            let gain = 1.0 / *count;
            let means = self.means.iter_mut().skip(best.1 * parts);
            means.zip(&*example).for_each(|(mean, value)| *mean += gain * (value - *mean));
        }
        if distance.is_finite() { f64::from(distance) } else { f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_far_and_then_known() {
        let (mut categories, mut example) = (Categories::default(), Vec::new());
        let low = [0.0f32; 12];
        let high: Vec<f32> = (0..12).map(|row| if row < 6 { 0.0 } else { 2.0 }).collect();
        assert!(categories.step(&low, 6, true, &mut example).is_nan());
        assert_eq!(categories.step(&low, 6, true, &mut example), 0.0);
        // Half of the parts are 2 off.
        let before = categories.clone();
        assert!((categories.step(&high, 6, false, &mut example) - 2f64.sqrt()).abs() < 1e-6);
        assert_eq!(categories, before);
        categories.step(&high, 6, true, &mut example);
        assert_eq!(categories.step(&high, 6, true, &mut example), 0.0);
        assert_eq!((categories.counts.as_slice(), categories.fits(2)), ([2.0, 2.0].as_slice(), true));
    }

    #[test]
    fn categories_are_bounded() {
        let (mut categories, mut example) = (Categories::default(), Vec::new());
        for row in 0..1_000u16 {
            categories.step(&[f32::from(row); 6], 6, true, &mut example);
        }
        assert!(categories.fits(1) && categories.counts.len() == CATEGORIES_MAX);
    }
}
