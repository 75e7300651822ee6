//! How rare a detector's raw number is, by what it has been before: powers of ten that can be added. Pure.

use std::f64::consts::LOG10_2;

use serde::{Deserialize, Serialize};

use super::normal::upper_tail_decades;

/// Numbers that must be known before one is judged.
const WARM_UP: f64 = 100.0;
/// The most that one number may say: one in 10³⁰.
const DECADES_MAX: f64 = 30.0;
/// In how many deviations a number may teach the distribution something new at most.
const CUT: f64 = 4.0;

/// A normal distribution that forgets, of raw numbers or of their logarithms, and the tail beyond a mean of the last few.
///
/// Source: S. Ahmad, A. Lavin, S. Purdy, Z. Agha, "Unsupervised real-time anomaly detection for streaming data",
/// Neurocomputing 262, 2017, "anomaly likelihood": what is rare is not a large error but an error that is large for this
/// stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    mean: f64,
    variance: f64,
    count: f64,
    recent: f64,
}

impl Tail {
    /// Judges the mean of about `short` numbers by the last `memory` of them, then learns the number if it may. NaN during
    /// the warm-up.
    pub fn step(&mut self, number: f64, short: f64, memory: f64, learn: bool) -> f64 {
        let distance = self.deviations(number, short, memory, learn);
        if distance > 0.0 || distance.is_nan() { decades(distance) } else { 0.0 }
    }

    /// The same for numbers that are rare when they are large and when they are small.
    pub fn step_two_sided(&mut self, number: f64, memory: f64, learn: bool) -> f64 {
        decades(self.deviations(number, 1.0, memory, learn).abs()) - LOG10_2
    }

    /// How far the mean of the last few is from the mean of all, then the number is learned if it may.
    fn deviations(&mut self, number: f64, short: f64, memory: f64, learn: bool) -> f64 {
        let begun = self.count + 1.0;
        self.recent += (number - self.recent) * (1.0 / short).max(if learn { 1.0 / begun } else { 0.0 });
        let distance = match self.count >= WARM_UP && self.variance > 0.0 {
            true => (self.recent - self.mean) / self.variance.sqrt(),
            false => f64::NAN,
        };
        if learn {
            self.learn(number, begun.min(memory));
        }
        distance
    }

    fn learn(&mut self, number: f64, count: f64) {
        self.count = count;
        let mut step = number - self.mean;
        if count >= WARM_UP / 2.0 {
            let farthest = CUT * self.variance.sqrt();
            step = step.clamp(-farthest, farthest);
        }
        let gain = 1.0 / count;
        self.mean += gain * step;
        self.variance = (1.0 - gain) * (self.variance + gain * step * step);
    }
}

/// How rare it is to be so many deviations above the mean; NaN stays what it is.
fn decades(distance: f64) -> f64 {
    if distance.is_nan() { f64::NAN } else { upper_tail_decades(distance).min(DECADES_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_as_rare_as_its_like_were() {
        let mut tail = Tail::default();
        let wave = |row: usize| (row as f64 * 0.7).sin();
        let warm: Vec<f64> = (0..2_000).map(|row| tail.step(wave(row), 1.0, 1_000.0, true)).collect();
        assert!(warm[..100].iter().all(|decades| decades.is_nan()));
        assert!(warm[101..].iter().all(|decades| (0.0..1.3).contains(decades)));
        // Five deviations of a sine, which are 0.707 each.
        let mut frozen = tail;
        let far = frozen.step(5.0 * 0.5f64.sqrt(), 1.0, 1_000.0, false);
        assert!((far - 6.54).abs() < 0.2, "{far}");
        assert_eq!(frozen.step(f64::MAX, 1.0, 1_000.0, true), DECADES_MAX);
        assert!(frozen.variance < 1.0);
    }
}
