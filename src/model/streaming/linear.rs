//! What the columns say about each other and about the next row: a vector autoregression, and a chart of the level. Pure.
//!
//! Sources: recursive least squares (L. Ljung, T. Söderström, "Theory and Practice of Recursive Identification", 1983) for
//! a VAR(1) with an intercept; Hotelling's T² of its errors; and the multivariate exponentially weighted moving average of
//! the rows (C. A. Lowry, W. H. Woodall, C. W. Champ, S. E. Rigdon, Technometrics 34(1), 1992), whose covariance is learned
//! and not derived, since rows are not independent.

use serde::{Deserialize, Serialize};

use super::inverse::InverseCovariance;

/// A row this many times as far out as usual teaches only as much as one at that distance.
const OUTLIER: f64 = 9.0;

/// Space that is used from row to row and means nothing between.
#[derive(Debug, Default)]
pub struct LinearScratch {
    errors: Vec<f64>,
    regressors: Vec<f64>,
    gain: Vec<f64>,
    product: Vec<f64>,
}

/// Predicts each row from the one before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Autoregression {
    /// Per column the coefficients of all columns of the row before, and the intercept.
    coefficients: Vec<f64>,
    regressors: InverseCovariance,
    errors: InverseCovariance,
    previous: Vec<f64>,
    rows: u32,
}

impl Autoregression {
    /// Nothing learned, for rows of this many values.
    pub fn new(width: usize) -> Self {
        Self {
            coefficients: vec![0.0; width * (width + 1)],
            regressors: InverseCovariance::new(width + 1),
            errors: InverseCovariance::new(width),
            previous: Vec::new(),
            rows: 0,
        }
    }

    /// Whether this is for rows of so many values; none if it is not used.
    pub(super) fn fits(&self, width: usize) -> bool {
        let lines = self.coefficients.len() == width * (width + 1);
        let previous = self.previous.is_empty() || self.previous.len() == width;
        let used = self.regressors.fits(width + 1) && self.errors.fits(width);
        lines && previous && (width == 0 || used)
    }

    /// How far a row is from what was predicted, as T² per column; NaN while little is known.
    pub fn step(&mut self, row: &[f64], memory: f64, learn: bool, scratch: &mut LinearScratch) -> f64 {
        if self.previous.is_empty() {
            self.previous = row.to_vec();
            return f64::NAN;
        }
        let width = row.len();
        scratch.regressors.clear();
        scratch.regressors.extend_from_slice(&self.previous);
        scratch.regressors.push(1.0);
        scratch.errors.clear();
        scratch.errors.extend(row.iter().zip(self.coefficients.chunks(width + 1)).map(|(value, line)| {
            value - line.iter().zip(&scratch.regressors).map(|(one, other)| one * other).sum::<f64>()
        }));
        let distance = self.errors.distance(&scratch.errors, &mut scratch.product) / width as f64;
        let warm = self.rows as usize > 3 * width.max(10);
        if learn {
            self.rows = self.rows.saturating_add(1);
            if warm && distance > OUTLIER {
                let shrink = (OUTLIER / distance).sqrt();
                scratch.errors.iter_mut().for_each(|error| *error *= shrink);
            }
            self.regressors.learn(&scratch.regressors, memory, &mut scratch.gain);
            for (error, line) in scratch.errors.iter().zip(self.coefficients.chunks_mut(width + 1)) {
                line.iter_mut()
                    .zip(&scratch.gain)
                    .for_each(|(coefficient, gain)| *coefficient += gain * error);
            }
            self.errors.learn(&scratch.errors, memory, &mut scratch.product);
        }
        self.previous.copy_from_slice(row);
        if warm { distance } else { f64::NAN }
    }
}

/// A chart of the rows' running mean.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Level {
    mean: Vec<f64>,
    means: InverseCovariance,
    rows: u32,
}

impl Level {
    /// Nothing learned, for rows of this many values.
    pub fn new(width: usize) -> Self {
        Self { mean: vec![0.0; width], means: InverseCovariance::new(width), rows: 0 }
    }

    /// Whether this is for rows of so many values; none if it is not used.
    pub(super) fn fits(&self, width: usize) -> bool {
        self.mean.len() == width && self.means.fits(width)
    }

    /// How far the running mean is from its usual place, as T² per column; NaN while little is known. A row has the share
    /// `share` in the mean.
    pub fn step(
        &mut self,
        row: &[f64],
        share: f64,
        memory: f64,
        learn: bool,
        scratch: &mut LinearScratch,
    ) -> f64 {
        let width = row.len();
        self.mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += share * (value - *mean));
        let distance = self.means.distance(&self.mean, &mut scratch.product) / width as f64;
        let warm = self.rows as usize > 3 * width.max(10);
        if learn {
            self.rows = self.rows.saturating_add(1);
            let shrink = if warm && distance > OUTLIER { (OUTLIER / distance).sqrt() } else { 1.0 };
            scratch.errors.clear();
            scratch.errors.extend(self.mean.iter().map(|mean| shrink * mean));
            self.means.learn(&scratch.errors, memory, &mut scratch.product);
        }
        if warm { distance } else { f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::random::Random;

    /// Two columns: the second follows the first by one row.
    fn rows(count: usize) -> Vec<[f64; 2]> {
        let mut random = Random::new(5);
        let mut first = 0.0;
        (0..count)
            .map(|_| {
                let second = first;
                first = 0.5 * first + f64::from(random.symmetric());
                [first, second]
            })
            .collect()
    }

    #[test]
    fn a_row_that_does_not_follow_is_far() {
        let (mut model, mut scratch) = (Autoregression::new(2), LinearScratch::default());
        let rows = rows(3_000);
        let found: Vec<f64> = rows.iter().map(|row| model.step(row, 2_000.0, true, &mut scratch)).collect();
        assert!(found[..30].iter().all(|distance| distance.is_nan()));
        let usual = found[1_000..].iter().copied().fold(0.0, f64::max);
        let before = model.clone();
        let far = model.step(&[rows[2_999][0], 1.0 + rows[2_999][0]], 2_000.0, false, &mut scratch);
        assert!(far > 20.0 * usual, "{far} {usual}");
        assert_eq!(model.coefficients, before.coefficients);
    }

    #[test]
    fn a_small_shift_that_stays_is_far_in_the_end() {
        let (mut level, mut scratch) = (Level::new(2), LinearScratch::default());
        let rows = rows(4_000);
        let mut shifted = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let shift = if index < 3_900 { 0.0 } else { 2.0 };
            let row = row.map(|value| value + shift);
            shifted.push(level.step(&row, 0.05, 1e9, index < 3_900, &mut scratch));
        }
        let usual = shifted[1_000..3_900].iter().copied().fold(0.0, f64::max);
        assert!(shifted[3_960..].iter().all(|distance| *distance > usual), "{usual}");
    }
}
