//! The distance of the last stretch of rows to its nearest likes in the past. Pure.
//!
//! Source of the idea: V. Ishimtsev, A. Bernstein, E. Burnaev, I. Nazarov, "Conformal k-NN Anomaly Detector for Univariate
//! Data Streams", COPA 2017. Here stretches begin at every few rows of a ring of past rows, so that a long past fits in a
//! small state.

use serde::{Deserialize, Serialize};

/// Neighbours whose mean distance counts.
const NEIGHBOURS: usize = 3;

/// How long stretches are, and what past they are looked for in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// Rows of a stretch.
    pub rows: usize,
    /// Rows from one stretch of the past to the next.
    pub step: usize,
    /// Rows of the past that are kept.
    pub past: usize,
}

/// Past rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Neighbours {
    /// The newest row last; shortened by a half when it is twice as long as it need be.
    past: Vec<f32>,
    /// Rows that came before those, modulo the step between stretches.
    gone: usize,
    /// Rows that were learned; later ones are only the stretch that is looked for.
    recent: Vec<f32>,
}

impl Neighbours {
    /// Whether this is for rows of so many values.
    pub(super) fn fits(&self, width: usize) -> bool {
        let whole = |values: &Vec<f32>| values.len().is_multiple_of(width.max(1));
        whole(&self.past) && whole(&self.recent)
    }

    /// The last rows, once there are as many as a stretch has.
    pub(super) fn recent(&self, stretch: Stretch, width: usize) -> Option<&[f32]> {
        Some(self.recent.as_slice()).filter(|recent| recent.len() == stretch.rows * width)
    }

    /// Takes a row of scaled values; the root of the mean squared distance per value to the nearest stretches, NaN while the
    /// past is short.
    pub fn step(&mut self, row: &[f64], stretch: Stretch, learn: bool) -> f64 {
        let width = row.len();
        let wanted = stretch.rows * width;
        self.recent.extend(row.iter().map(|value| *value as f32));
        if self.recent.len() > wanted {
            self.recent.drain(..width);
        }
        if learn {
            self.past.extend(row.iter().map(|value| *value as f32));
            let rows = self.past.len() / width.max(1);
            // One step at a time would move all rows each time.
            if rows > stretch.past + stretch.past / 4 {
                let surplus = rows - stretch.past;
                self.past.drain(..surplus * width);
                self.gone = (self.gone + surplus) % stretch.step;
            }
        }
        match self.recent.len() == wanted {
            true => self.nearest(stretch, width, learn),
            false => f64::NAN,
        }
    }

    fn nearest(&self, stretch: Stretch, width: usize, learn: bool) -> f64 {
        let rows = self.past.len() / width.max(1);
        // Stretches that overlap with the one that is looked for are like it for that alone.
        let end =
            if learn { rows.saturating_sub(2 * stretch.rows) } else { rows.saturating_sub(stretch.rows) };
        let begin =
            (rows.saturating_sub(stretch.past) + self.gone).next_multiple_of(stretch.step) - self.gone;
        let mut best = [f32::INFINITY; NEIGHBOURS];
        for first in (begin..=end).step_by(stretch.step) {
            let Some(other) = self.past.get(first * width..(first + stretch.rows) * width) else { break };
            let distance = squared_distance(&self.recent, other, best[NEIGHBOURS - 1]);
            if distance < best[NEIGHBOURS - 1] {
                best[NEIGHBOURS - 1] = distance;
                best.sort_unstable_by(f32::total_cmp);
            }
        }
        let mean = best.iter().map(|distance| f64::from(distance.sqrt())).sum::<f64>() / NEIGHBOURS as f64;
        if mean.is_finite() { mean / (self.recent.len() as f64).sqrt() } else { f64::NAN }
    }
}

/// The squared distance, or something above `enough` when it is above that.
pub(super) fn squared_distance(one: &[f32], other: &[f32], enough: f32) -> f32 {
    const LANES: usize = 16;
    let mut sum = 0.0;
    let mut ones = one.chunks_exact(LANES);
    let mut others = other.chunks_exact(LANES);
    for (one, other) in ones.by_ref().zip(others.by_ref()) {
        let mut lanes = [0f32; LANES];
        for lane in 0..LANES {
            let difference = one[lane] - other[lane];
            lanes[lane] = difference * difference;
        }
        sum += lanes.iter().sum::<f32>();
        if sum > enough {
            return sum;
        }
    }
    let rest = ones.remainder().iter().zip(others.remainder());
    sum + rest.map(|(one, other)| (one - other) * (one - other)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRETCH: Stretch = Stretch { rows: 20, step: 4, past: 400 };

    #[test]
    fn what_was_before_is_near_and_what_was_not_is_far() {
        let mut neighbours = Neighbours::default();
        let wave = |row: usize| (row as f64 * std::f64::consts::TAU / 41.0).sin();
        let mut near: f64 = 0.0;
        for row in 0..3_000 {
            let distance = neighbours.step(&[wave(row)], STRETCH, true);
            assert_eq!(distance.is_nan(), row < 2 * STRETCH.rows + 2 * STRETCH.step - 1, "row {row}");
            near = if row > 600 { near.max(distance) } else { near };
            assert!(neighbours.past.len() <= 500);
        }
        assert!(near < 0.15, "{near}");
        let mut frozen = neighbours.clone();
        let far: Vec<f64> = (3_000..3_040).map(|_| frozen.step(&[0.9], STRETCH, false)).collect();
        assert!(far[25..].iter().all(|distance| *distance > 0.25), "{far:?}");
        assert_eq!(frozen.past, neighbours.past);
    }

    #[test]
    fn distances_are_sums_of_squares() {
        let one: Vec<f32> = (0..37).map(|index| index as f32).collect();
        let other = vec![1f32; 37];
        let expected: f32 = one.iter().map(|value| (value - 1.0) * (value - 1.0)).sum();
        assert_eq!(squared_distance(&one, &other, f32::INFINITY), expected);
        assert!(squared_distance(&one, &other, 5.0) > 5.0);
    }
}
