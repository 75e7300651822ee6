//! Columns brought to one scale by what they have been. Pure.

use serde::{Deserialize, Serialize};

/// Values are cut at this many deviations, so that one cannot drown all others.
const CUT: f64 = 20.0;

/// A running mean and deviation per column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Mean and variance.
    columns: Vec<(f64, f64)>,
    count: f64,
}

impl Scale {
    /// Nothing learned, for rows of this many columns.
    pub fn new(width: usize) -> Self {
        Self { columns: vec![(0.0, 0.0); width], count: 0.0 }
    }

    /// How many columns there are.
    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }

    /// Learns a row if it may, over the last `memory` of them, and gives it in deviations from the mean. A value that is
    /// missing (NaN) stands at the mean.
    pub fn step(&mut self, row: &[f64], memory: f64, learn: bool, scaled: &mut Vec<f64>) {
        if learn {
            self.count = (self.count + 1.0).min(memory);
        }
        let gain = 1.0 / self.count.max(1.0);
        scaled.clear();
        for ((mean, variance), value) in self.columns.iter_mut().zip(row) {
            let step = if value.is_nan() { 0.0 } else { (value - *mean).clamp(-1e150, 1e150) };
            if learn && !value.is_nan() {
                *mean += gain * step;
                *variance = (1.0 - gain) * (*variance + gain * step * step);
            }
            let distance = if value.is_nan() { 0.0 } else { value - *mean };
            let moves = *variance > (*mean * f64::EPSILON).powi(2).max(f64::MIN_POSITIVE);
            let still = if distance == 0.0 { 0.0 } else { CUT.copysign(distance) / 2.0 };
            scaled.push(if moves { (distance / variance.sqrt()).clamp(-CUT, CUT) } else { still });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_to_one_scale() {
        let (mut scale, mut scaled) = (Scale::new(3), Vec::new());
        for row in 0..1_000 {
            let wave = (row as f64 * 0.7).sin();
            scale.step(&[100.0 + wave, 1e-6 * wave, 7.0], 1e4, true, &mut scaled);
        }
        scale.step(&[100.0 + 3.0 * 0.5f64.sqrt(), f64::NAN, 7.5], 1e4, false, &mut scaled);
        assert!((scaled[0] - 3.0).abs() < 0.02 && scaled[1] == 0.0 && scaled[2] == 10.0, "{scaled:?}");
        scale.step(&[f64::MAX, f64::MIN, 7.0], 1e4, true, &mut scaled);
        assert!(scaled.iter().all(|value| value.abs() <= CUT), "{scaled:?}");
    }
}
