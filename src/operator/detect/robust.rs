//! A running, forgetting, outlier-proof estimate of location and scale, one per key and column. Pure.
//!
//! Source of the method: P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical
//! Statistics 35(1), 1964, "Proposal 2": location μ and scale σ solve Σψ(u) = 0 and Σ(ψ(u)² − β) = 0 for
//! u = (x − μ)/σ, with ψ(u) = u cut at ±k and β = E ψ(Z)² for a standard normal Z, so that σ is the standard
//! deviation where the data are normal. Here both are solved by stochastic approximation (H. Robbins, S. Monro,
//! 1951), one step per value with the gain 1/w:
//!
//! ```text
//! w ← w · 2^(−Δt / half-life) + 1,   μ ← μ + σ ψ(u) / w,   σ ← σ (1 + (ψ(u)² / β − 1) / 2w)
//! ```
//!
//! The weight w is the sum of the values' weights: at first the gain is 1/n, later that of an exponentially
//! weighted mean. No value moves μ by more than kσ/w, however far out it lies; but while a new level lasts, σ
//! grows by a factor of e every 1.06 w values, so that any lasting shift is learned in the end.
//!
//! A value equal to the one before teaches no scale: a stuck sensor, or a set point that holds for hours, would
//! otherwise shrink σ to nothing and make an alarm of the first movement after it.

use serde::{Deserialize, Serialize};

use crate::core::Chunks;

/// Where ψ is cut: 96 % as efficient as the mean for normal data, and σ stays finite with up to β/k² = 35 % outliers.
const CUT: f64 = 1.5;
/// E ψ(Z)² for that cut: (2Φ(k) − 1) − 2kφ(k) + 2k²(1 − Φ(k)).
const CONSISTENCY: f64 = 0.778_464_8;
/// Values that the first μ and σ are made of, as median and median absolute deviation: two may be outliers.
const SEEDS: usize = 5;
/// The median absolute deviation of normal data, as a factor to their standard deviation.
const DEVIATIONS_PER_MEDIAN_DEVIATION: f64 = 1.482_602_2;
/// The mean absolute deviation of normal data, as a factor to their standard deviation.
const DEVIATIONS_PER_MEAN_DEVIATION: f64 = 1.253_314_1;
/// σ stays below this, far from where arithmetic overflows.
const DEVIATION_MAX: f64 = 1e300;

/// How old values lose weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum HalfLife {
    /// Event time, in microseconds.
    Micros(f64),
    /// Values of the same key and column.
    Rows(f64),
}

/// What is estimated and when it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimation {
    /// How old values lose weight.
    pub(super) half_life: HalfLife,
    /// Values, each unlike the one before, that must be learned before a score is given; the memory is never
    /// shorter than this many values either.
    pub(super) warm_up: u32,
}

/// What is known of one column of one key: 56 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Estimate {
    /// The first values, each unlike the one before; when all are there: mean, deviation, weight, last value.
    slots: [f64; SEEDS],
    /// The latest time of a value, µs since 1970.
    last_us: i64,
    /// How many values, each unlike the one before, were learned.
    learned: u32,
}

/// The decay over a time step, computed again only when the step is another: most rows come evenly.
struct Decay {
    half_life: HalfLife,
    step_us: i64,
    factor: f64,
}

impl Decay {
    fn new(half_life: HalfLife) -> Self {
        let factor = match half_life {
            HalfLife::Micros(_) => 1.0,
            HalfLife::Rows(rows) => (-1.0 / rows).exp2(),
        };
        Self { half_life, step_us: 0, factor }
    }

    #[inline]
    fn over(&mut self, step_us: i64) -> f64 {
        if let HalfLife::Micros(half_life_us) = self.half_life
            && step_us != self.step_us
        {
            self.step_us = step_us;
            self.factor = (-(step_us as f64) / half_life_us).exp2();
        }
        self.factor
    }
}

/// Scores one column and learns from it, row by row. `ids` says which estimate is each row's; rows whose id is
/// beyond `estimates` and values that are NaN are passed over. A score in `scores` becomes the larger of itself
/// and |x − μ| / σ; NaN counts as none.
pub(super) fn score_column(
    estimation: Estimation,
    values: &[f64],
    times: &[i64],
    ids: &[u32],
    estimates: &mut Chunks<Estimate>,
    scores: &mut [f64],
) {
    let mut decay = Decay::new(estimation.half_life);
    let rows = values.iter().zip(times).zip(ids).zip(scores);
    for (((value, time), id), score) in rows {
        let Some(estimate) = estimates.get_mut(*id as usize) else { continue };
        if value.is_nan() {
            continue;
        }
        if (estimate.learned as usize) < SEEDS {
            estimate.seed(*value, *time);
            continue;
        }
        let found = estimate.step(*value, *time, estimation.warm_up, &mut decay);
        // `f64::max` takes the other where one is NaN.
        *score = score.max(found);
    }
}

impl Estimate {
    /// As what it is written; the first five are the slots.
    pub(super) const FIELDS: &'static str =
        "#keys mean:f deviation:f weight:f previous:f unused:f last:time learned:u";

    /// One of the first values.
    #[cold]
    fn seed(&mut self, value: f64, time: i64) {
        let known = self.learned as usize;
        self.last_us = if known == 0 { time } else { self.last_us.max(time) };
        if known > 0 && self.slots[known - 1] == value {
            return;
        }
        self.slots[known] = value;
        self.learned += 1;
        if self.learned as usize == SEEDS {
            let (mean, deviation) = first_estimate(self.slots);
            self.slots = [mean, deviation, SEEDS as f64, value, 0.0];
        }
    }

    /// The distance of a value by what was known before it, NaN during the warm-up; then learns the value.
    #[inline]
    fn step(&mut self, value: f64, time: i64, warm_up: u32, decay: &mut Decay) -> f64 {
        let [mean, deviation, weight, previous, _] = &mut self.slots;
        let step_us = time.saturating_sub(self.last_us).max(0);
        self.last_us = self.last_us.max(time);
        let changed = value != *previous;
        *previous = value;
        let distance = (value - *mean) / *deviation;
        let warm = self.learned >= warm_up;
        self.learned = self.learned.saturating_add(u32::from(changed));

        let shortest = f64::from(self.learned.min(warm_up));
        *weight = (*weight * decay.over(step_us) + 1.0).max(shortest);
        let gain = 1.0 / *weight;
        let cut = distance.clamp(-CUT, CUT);
        *mean += gain * *deviation * cut;
        if changed {
            let grown = *deviation * (1.0 + 0.5 * gain * (cut * cut / CONSISTENCY - 1.0));
            *deviation = grown.clamp(deviation_min(*mean), DEVIATION_MAX);
        }
        if warm { distance.abs().min(f64::MAX) } else { f64::NAN }
    }
}

/// What a mean of this size can still resolve.
fn deviation_min(mean: f64) -> f64 {
    (mean.abs() * f64::EPSILON).clamp(f64::MIN_POSITIVE, DEVIATION_MAX)
}

/// Mean and deviation from the first values, by medians; by the mean absolute deviation where most are equal.
fn first_estimate(mut values: [f64; SEEDS]) -> (f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values[SEEDS / 2];
    let mut distances = values.map(|value| (value - middle).abs());
    distances.sort_unstable_by(f64::total_cmp);
    let deviation = match distances[SEEDS / 2] {
        0.0 => DEVIATIONS_PER_MEAN_DEVIATION * distances.iter().map(|one| one / SEEDS as f64).sum::<f64>(),
        median => DEVIATIONS_PER_MEDIAN_DEVIATION * median,
    };
    (middle, deviation.clamp(deviation_min(middle), DEVIATION_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64 and the transformation of Box and Muller.
    struct Normal(u64);

    impl Normal {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = self.0;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn next(&mut self) -> f64 {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            radius * (std::f64::consts::TAU * self.uniform()).cos()
        }
    }

    const BY_ROWS: Estimation = Estimation { half_life: HalfLife::Rows(500.0), warm_up: 100 };

    /// Scores of one key's values, one second apart.
    fn run(estimation: Estimation, estimate: &mut Estimate, values: &[f64]) -> Vec<f64> {
        let times: Vec<i64> = (0..values.len() as i64).map(|row| row * 1_000_000).collect();
        let mut scores = vec![f64::NAN; values.len()];
        let ids = vec![0; values.len()];
        let mut estimates: Chunks<Estimate> = [*estimate].into_iter().collect();
        score_column(estimation, values, &times, &ids, &mut estimates, &mut scores);
        *estimate = estimates[0];
        scores
    }

    #[test]
    fn one_estimate_fits_its_cache_line() {
        assert!(size_of::<Estimate>() <= 64);
    }

    #[test]
    fn normal_data_give_their_own_mean_and_deviation() {
        for (mean, deviation) in [(0.0, 1.0), (1e6, 0.5), (-3e-9, 1e-12)] {
            let mut normal = Normal(1);
            let values: Vec<f64> = (0..20_000).map(|_| mean + deviation * normal.next()).collect();
            let mut estimate = Estimate::default();
            let scores = run(BY_ROWS, &mut estimate, &values);
            let [got_mean, got_deviation, weight, ..] = estimate.slots;
            assert!((got_mean - mean).abs() < 0.15 * deviation, "{got_mean} for {mean}");
            assert!((got_deviation / deviation - 1.0).abs() < 0.12, "{got_deviation} for {deviation}");
            // 1 / (1 - 2^(-1/500)).
            assert!((weight - 721.8).abs() < 1.0, "{weight}");
            assert!(scores[..100].iter().all(|score| score.is_nan()) && !scores[101].is_nan());
            let largest = scores.iter().copied().fold(0.0, f64::max);
            assert!((3.0..6.0).contains(&largest), "{largest}");
        }
    }

    /// The numbers that the reference tells: how often normal noise of some kinds lies beyond 6.
    #[test]
    fn false_alarms_are_as_rare_as_stated() {
        let alarms = |sample: &mut dyn FnMut(&mut Normal) -> f64| {
            let mut normal = Normal(7);
            let values: Vec<f64> = (0..200_000).map(|_| sample(&mut normal)).collect();
            let scores = run(BY_ROWS, &mut Estimate::default(), &values);
            scores.iter().filter(|score| **score > 6.0).count()
        };
        assert_eq!(alarms(&mut |normal| normal.next()), 0);
        assert_eq!(alarms(&mut |normal| normal.uniform()), 0);
        // Laplace noise: heavier tails than any sensor's in good order.
        let laplace = alarms(&mut |normal| -> f64 {
            let uniform = normal.uniform() - 0.5;
            -uniform.signum() * (1.0 - 2.0 * uniform.abs()).max(f64::MIN_POSITIVE).ln()
        });
        assert!((100..400).contains(&laplace), "{laplace} of 200,000");
    }

    #[test]
    fn outliers_move_the_estimate_little_wherever_they_fall() {
        for far in [50.0, 1e6, 1e300] {
            for first in [false, true] {
                let mut normal = Normal(3);
                let values: Vec<f64> = (0..5_000)
                    .map(|row| {
                        let outlier = row % 10 == 9 || (first && row < 2);
                        if outlier { far + normal.next() } else { normal.next() }
                    })
                    .collect();
                let mut estimate = Estimate::default();
                let scores = run(BY_ROWS, &mut estimate, &values);
                let [mean, deviation, ..] = estimate.slots;
                assert!(mean.abs() < 0.5 && (0.8..1.7).contains(&deviation), "{far}: {mean} ± {deviation}");
                let found = (200..5_000).filter(|row| row % 10 == 9 && scores[*row] > 6.0).count();
                assert_eq!(found, 480, "{far}");
                assert!((200..5_000).all(|row| row % 10 == 9 || scores[row] < 6.0), "{far}");
            }
        }
    }

    #[test]
    fn a_lasting_shift_is_an_alarm_and_then_the_new_level() {
        let mut normal = Normal(5);
        let values: Vec<f64> =
            (0..20_000).map(|row| normal.next() + if row < 5_000 { 0.0 } else { 40.0 }).collect();
        let mut estimate = Estimate::default();
        let scores = run(BY_ROWS, &mut estimate, &values);
        let alarms = (5_000..20_000).filter(|row| scores[*row] > 6.0).collect::<Vec<_>>();
        let last = alarms.last().copied().unwrap();
        assert!(alarms.len() > 500 && last < 5_000 + 5 * 500, "{} alarms, the last at {last}", alarms.len());
        let [mean, deviation, ..] = estimate.slots;
        assert!((mean - 40.0).abs() < 0.2 && (0.85..1.15).contains(&deviation), "{mean} ± {deviation}");
    }

    #[test]
    fn what_repeats_teaches_no_scale() {
        let mut normal = Normal(11);
        let mut values: Vec<f64> = (0..2_000).map(|_| normal.next()).collect();
        values.extend([values[1_999]; 20_000]);
        values.extend((0..2_000).map(|_| normal.next()));
        let mut estimate = Estimate::default();
        let scores = run(BY_ROWS, &mut estimate, &values);
        assert!(scores[200..].iter().all(|score| *score < 6.0));
        // A column that never moves is never scored, and its first steps are no alarms.
        let mut values = vec![5.0; 1_000];
        values.extend([6.0, 5.0, 6.0, 5.0, 7.0, 5.0]);
        let scores = run(BY_ROWS, &mut Estimate::default(), &values);
        assert!(scores.iter().all(|score| score.is_nan()));
        // Two levels have a scale of their own.
        let values: Vec<f64> = (0..1_000).map(|row| f64::from(row / 3 % 2)).collect();
        let scores = run(BY_ROWS, &mut Estimate::default(), &values);
        assert!(scores[400..].iter().all(|score| *score < 4.0));
    }

    #[test]
    fn time_decides_how_much_is_forgotten_and_memory_has_a_least_length() {
        let by_time = |seconds: f64| Estimation { half_life: HalfLife::Micros(seconds * 1e6), warm_up: 50 };
        let mut normal = Normal(13);
        let values: Vec<f64> = (0..4_000).map(|_| normal.next()).collect();
        for (seconds, weight) in [(500.0, 721.8), (1.0, 50.0), (1e9, 4_000.0)] {
            let mut estimate = Estimate::default();
            run(by_time(seconds), &mut estimate, &values);
            assert!((estimate.slots[2] - weight).abs() < 3.0, "{seconds}: {}", estimate.slots[2]);
        }
        // Rows of the same time, and late ones, weigh as much as others.
        let mut estimates: Chunks<Estimate> = [Estimate::default()].into_iter().collect();
        let mut scores = vec![f64::NAN; 4_000];
        let times: Vec<i64> = (0..4_000).map(|row| if row % 2 == 0 { 10 } else { 5 }).collect();
        score_column(by_time(500.0), &values, &times, &[0; 4_000], &mut estimates, &mut scores);
        assert!((estimates[0].slots[2] - 4_000.0).abs() < 1e-6 && estimates[0].last_us == 10);
    }

    #[test]
    fn the_farthest_column_makes_the_score_and_strangers_are_passed_over() {
        let ready = Estimate { slots: [10.0, 2.0, 1e9, 0.0, 0.0], last_us: 0, learned: 1_000 };
        let mut estimates: Chunks<Estimate> = [ready; 2].into_iter().collect();
        let mut scores = [f64::NAN, 4.0, 0.25, f64::NAN, f64::NAN];
        let values = [13.0, 13.0, 9.0, f64::NAN, 99.0];
        score_column(BY_ROWS, &values, &[0; 5], &[0, 1, 0, 1, 7], &mut estimates, &mut scores);
        let rounded: Vec<f64> = scores.iter().map(|score| (score * 1e3).round() / 1e3).collect();
        assert_eq!(format!("{rounded:?}"), "[1.5, 4.0, 0.5, NaN, NaN]");
    }

    #[test]
    fn extremes_leave_finite_estimates() {
        let ends = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 0.0, -0.0, 5e-324];
        let values: Vec<f64> = (0..600).map(|row| ends[(row * 7 + row / 11) % ends.len()]).collect();
        let mut estimate = Estimate::default();
        run(BY_ROWS, &mut estimate, &values);
        assert!(estimate.slots.iter().all(|slot| slot.is_finite()), "{estimate:?}");
        let mut estimate = Estimate::default();
        let values: Vec<f64> = (0..600).map(|row| f64::from_bits(row % 9)).collect();
        let scores = run(BY_ROWS, &mut estimate, &values);
        assert!(estimate.slots.iter().all(|slot| slot.is_finite()), "{estimate:?}");
        assert!(scores[200..].iter().all(|score| score.is_finite()));
    }
}
