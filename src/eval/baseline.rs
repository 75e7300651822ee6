//! Detectors that anybody could write in a minute: what a better one is better than. Pure.

use crate::model::random::Random;
use crate::model::streaming::normal::upper_tail;

/// Every row is as anomalous as any other.
pub fn constant(rows: usize) -> Vec<f64> {
    vec![1.0; rows]
}

/// A number between 0 and 1 for every row, the same ones every time.
pub fn random(rows: usize) -> Vec<f64> {
    let mut random = Random::new(1);
    (0..rows).map(|_| f64::from(random.symmetric()) * 0.5 + 0.5).collect()
}

/// 1 where a value is outside everything before it by more than a twentieth of its range, else 0; the largest over the
/// columns.
pub fn range_check(columns: &[&[f64]]) -> Vec<f64> {
    over_columns(columns, |values| {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut check = move |value: f64| {
            let margin = (high - low) / 20.0;
            let outside = low < high && (value > high + margin || value < low - margin);
            low = low.min(value);
            high = high.max(value);
            f64::from(u8::from(outside))
        };
        values.iter().map(|value| check(*value)).collect()
    })
}

/// Values that a windowed Gaussian is made of, and how many are new between two estimates.
const WINDOW: usize = 6_400;
const WINDOW_STEP: usize = 100;

/// One minus the tail of a normal distribution with the mean and deviation of the last thousands of values, as the
/// Numenta Anomaly Benchmark's "windowed Gaussian"; the largest over the columns.
pub fn windowed_gaussian(columns: &[&[f64]]) -> Vec<f64> {
    over_columns(columns, |values| {
        let (mut window, mut waiting) = (Vec::new(), Vec::new());
        let (mut mean, mut deviation) = (0.0, 0.0);
        let score = |value: &f64| {
            let known = !window.is_empty();
            let score = if known { 1.0 - upper_tail((value - mean).abs() / deviation) } else { 0.0 };
            if window.len() < WINDOW {
                window.push(*value);
                (mean, deviation) = moments(&window);
            } else {
                waiting.push(*value);
                if waiting.len() == WINDOW_STEP {
                    window.drain(..WINDOW_STEP);
                    window.append(&mut waiting);
                    (mean, deviation) = moments(&window);
                }
            }
            score
        };
        values.iter().map(score).collect()
    })
}

fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt().max(1e-6))
}

fn over_columns(columns: &[&[f64]], score: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut largest = vec![0.0f64; columns.first().map_or(0, |values| values.len())];
    for values in columns {
        largest.iter_mut().zip(score(values)).for_each(|(largest, score)| *largest = largest.max(score));
    }
    largest
}
