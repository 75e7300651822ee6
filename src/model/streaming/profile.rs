//! What a value usually is at this time of the day. Pure.

use serde::{Deserialize, Serialize};

/// Microseconds of a day, and parts that it has.
const DAY_US: i64 = 86_400_000_000;
const PARTS: usize = 288;
/// The share of a value in what is usual.
const SHARE: f64 = 0.3;
/// Values that make the usual deviation.
const MEMORY: f64 = 2_000.0;
/// Values that must be known before one is judged.
const WARM_UP: f64 = 50.0;

/// A value for each five minutes of the day.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    usual: Vec<f32>,
    variance: f64,
    count: f64,
}

impl Profile {
    /// Whether this can be a profile.
    pub(super) fn fits(&self) -> bool {
        self.usual.is_empty() || self.usual.len() == PARTS
    }

    /// How far a value is from what is usual at its time, in deviations; then it is learned if it may. NaN where nothing is
    /// known.
    pub fn step(&mut self, value: f64, time_us: i64, learn: bool) -> f64 {
        if self.usual.is_empty() {
            self.usual = vec![f32::NAN; PARTS];
        }
        let part = (time_us.rem_euclid(DAY_US) as i128 * PARTS as i128 / i128::from(DAY_US)) as usize;
        let Some(usual) = self.usual.get_mut(part) else { return f64::NAN };
        if usual.is_nan() {
            *usual = if learn { value as f32 } else { *usual };
            return f64::NAN;
        }
        let error = value - f64::from(*usual);
        let known = self.count > WARM_UP && self.variance > 0.0;
        let distance = if known { error.abs() / self.variance.sqrt() } else { f64::NAN };
        if learn {
            self.count = (self.count + 1.0).min(MEMORY);
            self.variance += (error * error - self.variance) / self.count;
            *usual += (SHARE * error) as f32;
        }
        distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_is_usual_at_noon_and_not_at_night() {
        let mut profile = Profile::default();
        let hour = |row: i64| (row % 24) as f64;
        for row in 0..24 * 20 {
            let wave = 10.0 * (hour(row) * std::f64::consts::TAU / 24.0).sin() + (row % 7) as f64 * 0.1;
            let distance = profile.step(wave, row * 3_600_000_000, true);
            assert!(row < 100 || distance < 8.0, "row {row}: {distance}");
        }
        let before = profile.clone();
        assert!(profile.step(10.0, 6 * 3_600_000_000, false) < 3.0);
        assert!(profile.step(10.0, 18 * 3_600_000_000, false) > 20.0);
        assert!(profile.step(10.0, 17 * 3_600_000_000 + 1_800_000_000, false).is_nan());
        assert_eq!(format!("{profile:?}"), format!("{before:?}"));
    }
}
