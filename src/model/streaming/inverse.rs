//! The inverse of a covariance that grows row by row. Pure.
//!
//! Source of the method: J. Sherman, W. J. Morrison, "Adjustment of an Inverse Matrix Corresponding to a Change in One
//! Element of a Given Matrix", Annals of Mathematical Statistics 21(1), 1950: with P = (Σ xxᵀ)⁻¹ and k = Px,
//! one row more makes P − kkᵀ / (1 + xᵀk). Old rows lose weight by a factor each step once there are `memory` of them.

use serde::{Deserialize, Serialize};

/// What stands for the first row in every direction, as a variance: small beside standardized values.
const RIDGE: f64 = 0.1;

/// A symmetric matrix, as the inverse of the sum of rows' squares.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InverseCovariance {
    /// The lower triangle, row by row.
    lower: Vec<f64>,
    /// The sum of the rows' weights.
    weight: f64,
}

impl InverseCovariance {
    /// Nothing learned, for rows of this many values.
    pub fn new(width: usize) -> Self {
        let mut lower = vec![0.0; width * (width + 1) / 2];
        for (index, row) in rows_mut(&mut lower, width) {
            row[index] = 1.0 / RIDGE;
        }
        Self { lower, weight: 1.0 }
    }

    /// Whether this is for rows of so many values.
    pub(super) fn fits(&self, width: usize) -> bool {
        self.lower.len() == width * (width + 1) / 2
    }

    /// The inverse of the sum times a row into `product`; returns the row times that.
    fn product(&self, row: &[f64], product: &mut Vec<f64>) -> f64 {
        product.clear();
        product.resize(row.len(), 0.0);
        let mut begin = 0;
        for (index, value) in row.iter().enumerate() {
            let (left, rest) = product.split_at_mut(index);
            let triangle = &self.lower[begin..begin + index];
            let mut sum = self.lower[begin + index] * value;
            for ((entry, other), sum_of_other) in triangle.iter().zip(row).zip(left) {
                sum += entry * other;
                *sum_of_other += entry * value;
            }
            rest[0] += sum;
            begin += index + 1;
        }
        row.iter().zip(product).map(|(value, product)| value * *product).sum::<f64>().max(0.0)
    }

    /// The squared distance of a row from zero, in standard deviations (Mahalanobis; Hotelling's T² for one row).
    pub fn distance(&self, row: &[f64], scratch: &mut Vec<f64>) -> f64 {
        self.weight * self.product(row, scratch)
    }

    /// Learns a row and leaves the gain in `gain`: by how much each coefficient of a least squares fit on such rows moves
    /// for an error of 1 (recursive least squares).
    pub fn learn(&mut self, row: &[f64], memory: f64, gain: &mut Vec<f64>) {
        let keep = if self.weight >= memory { 1.0 - 1.0 / memory } else { 1.0 };
        let divisor = keep + self.product(row, gain);
        let mut grown = false;
        for (index, line) in rows_mut(&mut self.lower, row.len()) {
            let factor = gain[index] / divisor;
            for (entry, other) in line.iter_mut().zip(gain.iter()) {
                *entry = (*entry - factor * other) / keep;
            }
            grown |= line[index] > 1.0 / RIDGE;
        }
        if grown {
            self.bound(row.len());
        }
        gain.iter_mut().for_each(|gain| *gain /= divisor);
        self.weight = self.weight * keep + 1.0;
    }

    /// A direction in which nothing moves would be forgotten without end: none is known less than at the beginning.
    #[cold]
    fn bound(&mut self, width: usize) {
        let mut scales = vec![1.0; width];
        for (index, row) in rows_mut(&mut self.lower, width) {
            scales[index] = (1.0 / RIDGE / row[index]).sqrt().min(1.0);
        }
        for (index, row) in rows_mut(&mut self.lower, width) {
            for (entry, scale) in row.iter_mut().zip(&scales) {
                *entry *= scale * scales[index];
            }
        }
    }
}

/// The rows of a lower triangle, with their numbers.
fn rows_mut(lower: &mut [f64], width: usize) -> impl Iterator<Item = (usize, &mut [f64])> {
    let mut rest = lower;
    (0..width).map(move |index| {
        let (row, behind) = std::mem::take(&mut rest).split_at_mut(index + 1);
        rest = behind;
        (index, row)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::random::Random;

    /// Values between −1 and 1 whose variance is 1/3; the second leans on the first.
    fn row(random: &mut Random) -> [f64; 2] {
        let first = f64::from(random.symmetric());
        [first, first + 0.5 * f64::from(random.symmetric())]
    }

    #[test]
    fn distances_are_those_of_the_inverted_covariance() {
        let (mut random, mut inverse, mut scratch) = (Random::new(1), InverseCovariance::new(2), Vec::new());
        for _ in 0..20_000 {
            inverse.learn(&row(&mut random), f64::INFINITY, &mut scratch);
        }
        // Covariance (1/3, 1/3; 1/3, 5/12), inverse (15, −12; −12, 12).
        for (point, expected) in
            [([1.0, 0.0], 15.0), ([0.0, 1.0], 12.0), ([1.0, 1.0], 3.0), ([0.0, 0.0], 0.0)]
        {
            let found = inverse.distance(&point, &mut scratch);
            assert!((found - expected).abs() < 0.5, "{point:?}: {found}");
        }
    }

    #[test]
    fn the_gain_is_that_of_least_squares() {
        let (mut random, mut inverse, mut gain) = (Random::new(2), InverseCovariance::new(2), Vec::new());
        let mut fitted = [0.0, 0.0];
        for _ in 0..5_000 {
            let row = row(&mut random);
            let error = 3.0 * row[0] - row[1] - (fitted[0] * row[0] + fitted[1] * row[1]);
            inverse.learn(&row, f64::INFINITY, &mut gain);
            fitted.iter_mut().zip(&gain).for_each(|(fitted, gain)| *fitted += gain * error);
        }
        assert!((fitted[0] - 3.0).abs() < 1e-2 && (fitted[1] + 1.0).abs() < 1e-2, "{fitted:?}");
    }

    #[test]
    fn what_does_not_move_does_not_run_away() {
        let (mut random, mut inverse, mut scratch) = (Random::new(3), InverseCovariance::new(3), Vec::new());
        for _ in 0..100_000 {
            let [first, second] = row(&mut random);
            inverse.learn(&[first, 0.0, second], 100.0, &mut scratch);
        }
        let still = inverse.distance(&[0.0, 1.0, 0.0], &mut scratch);
        let moving = inverse.distance(&[1.0, 0.0, 1.0], &mut scratch);
        assert!(still.is_finite() && still < 2_000.0 && (1.5..6.0).contains(&moving), "{still} {moving}");
    }
}
