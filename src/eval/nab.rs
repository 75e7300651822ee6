//! The score of the Numenta Anomaly Benchmark. Pure.
//!
//! Source: A. Lavin, S. Ahmad, "Evaluating Real-Time Anomaly Detection Algorithms – the Numenta Anomaly Benchmark",
//! ICMLA 2015. An alarm inside a labelled window earns by how early it comes, by a sigmoid that is 1 at the window's
//! left end and 0 at its right; only the earliest of a window counts. An alarm outside costs by how far behind a window
//! it comes, up to the full weight of a false positive. A window without an alarm costs the weight of a false negative.
//! The sum over all files is scaled so that no alarm at all is 0 and every window met at its first row is 100.

/// Rows at the beginning of a file that are not judged: this share of them …
const PROBATION_SHARE: f64 = 0.15;
/// … of at most so many rows.
const PROBATION_OF_ROWS_MAX: usize = 5_000;
/// The steepness of the sigmoid.
const STEEPNESS: f64 = 5.0;
/// Beyond this many window widths behind a window, a false alarm costs its full weight.
const FAR_BEHIND: f64 = 3.0;

/// What hits and misses weigh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// How it is called.
    pub name: &'static str,
    /// What a window that is met earns at most.
    pub true_positive: f64,
    /// What a false alarm costs at most.
    pub false_positive: f64,
    /// What a window that is missed costs.
    pub false_negative: f64,
}

/// The three profiles of the benchmark.
pub const PROFILES: [Profile; 3] = [
    Profile { name: "standard", true_positive: 1.0, false_positive: 0.11, false_negative: 1.0 },
    Profile { name: "reward low FP", true_positive: 1.0, false_positive: 0.22, false_negative: 1.0 },
    Profile { name: "reward low FN", true_positive: 1.0, false_positive: 0.11, false_negative: 2.0 },
];

/// How many rows at the beginning of a file are not judged.
pub fn probation_rows(rows: usize) -> usize {
    (PROBATION_SHARE * rows.min(PROBATION_OF_ROWS_MAX) as f64) as usize
}

/// 1 far before its middle, 0 there, −1 far behind.
fn sigmoid(position: f64) -> f64 {
    if position > FAR_BEHIND { -1.0 } else { 2.0 / (1.0 + (STEEPNESS * position).exp()) - 1.0 }
}

/// A row that is judged, before any profile's weights.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    score: f64,
    /// Which window it lies in, counted over all files.
    window: Option<usize>,
    /// What an alarm here would be worth, between 1 and −1.
    worth: f64,
}

/// All judged rows of a corpus.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    points: Vec<Point>,
    windows: usize,
}

/// A corpus under one profile at one threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Rows with a score from this up are alarms.
    pub threshold: f64,
    /// 0 for no alarm, 100 for the best that can be.
    pub score: f64,
    /// Windows in which there is an alarm.
    pub met: usize,
    /// Alarms outside windows.
    pub false_alarms: usize,
}

impl Corpus {
    /// Adds a file: the score of each row, NaN counting as none, and the windows as first row and row behind the
    /// last, in order, apart and none of them empty. Rows of the probation, the first ones, are not judged, nor is a window
    /// that ends there.
    pub fn add(&mut self, scores: &[f64], windows: &[(usize, usize)], probation: usize) {
        let unjudged = windows.iter().filter(|(_, to)| *to <= probation).count();
        let earliest = sigmoid(-1.0);
        let mut next = 0;
        let mut behind: Option<(usize, usize)> = None;
        for (row, score) in scores.iter().enumerate() {
            while let Some((from, to)) = windows.get(next).copied().filter(|(_, to)| *to <= row) {
                behind = Some((from, to));
                next += 1;
            }
            let inside = windows.get(next).copied().filter(|(from, _)| *from <= row);
            if row < probation {
                continue;
            }
            let score = if score.is_nan() { f64::NEG_INFINITY } else { *score };
            let point = match (inside, behind) {
                (Some((from, to)), _) => {
                    let position = -((to - row) as f64) / (to - from) as f64;
                    Point {
                        score,
                        window: Some(self.windows + next - unjudged),
                        worth: sigmoid(position) / earliest,
                    }
                }
                (None, None) => Point { score, window: None, worth: -1.0 },
                (None, Some((from, to))) => {
                    let position = (row + 1 - to) as f64 / ((to - from).max(2) - 1) as f64;
                    Point { score, window: None, worth: sigmoid(position) }
                }
            };
            self.points.push(point);
        }
        self.windows += windows.len() - unjudged;
    }

    /// How many windows there are.
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// The best threshold in hindsight, one for all files.
    pub fn best(&self, profile: &Profile) -> Scored {
        let mut best = Scored { threshold: f64::INFINITY, score: 0.0, met: 0, false_alarms: 0 };
        self.sweep(profile, |scored| {
            if scored.score > best.score {
                best = scored;
            }
        });
        best
    }

    /// At a threshold that was set before.
    pub fn at(&self, profile: &Profile, threshold: f64) -> Scored {
        let mut found = Scored { threshold, score: 0.0, met: 0, false_alarms: 0 };
        self.sweep(profile, |scored| {
            if scored.threshold >= threshold {
                found = Scored { threshold, ..scored };
            }
        });
        found
    }

    /// Tells the score at every threshold at which it can change, from the highest down.
    fn sweep(&self, profile: &Profile, mut tell: impl FnMut(Scored)) {
        let mut points: Vec<&Point> =
            self.points.iter().filter(|point| point.score > f64::NEG_INFINITY).collect();
        points.sort_by(|one, other| other.score.total_cmp(&one.score));
        let mut worth = vec![None::<f64>; self.windows];
        let (mut gained, mut met, mut false_alarms) = (0.0, 0, 0);
        let span = self.windows as f64 * (profile.true_positive + profile.false_negative);
        for (index, point) in points.iter().enumerate() {
            match point.window.and_then(|window| worth.get_mut(window)) {
                Some(window) => {
                    let earned = profile.true_positive * point.worth;
                    let before = window.replace(window.map_or(earned, |known| known.max(earned)));
                    gained += window.unwrap_or(earned) - before.unwrap_or(-profile.false_negative);
                    met += usize::from(before.is_none());
                }
                None => {
                    gained += profile.false_positive * point.worth;
                    false_alarms += 1;
                }
            }
            let more = points.get(index + 1).is_some_and(|next| next.score == point.score);
            if !more {
                let score = if span > 0.0 { 100.0 * gained / span } else { 0.0 };
                tell(Scored { threshold: point.score, score, met, false_alarms });
            }
        }
    }
}

/// The rows from one time to another, both included, as first row and row behind the last.
pub fn window_rows(times_us: &[i64], from_us: i64, to_us: i64) -> (usize, usize) {
    let from = times_us.iter().position(|time| *time >= from_us).unwrap_or(times_us.len());
    let to = times_us.iter().rposition(|time| *time <= to_us).map_or(from, |last| last + 1);
    (from, to.max(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(alarms: &[usize]) -> Corpus {
        let mut scores = vec![0.0; 100];
        alarms.iter().for_each(|row| scores[*row] = 1.0);
        let mut corpus = Corpus::default();
        corpus.add(&scores, &[(40, 50), (60, 71)], probation_rows(100));
        corpus
    }

    #[test]
    fn alarms_earn_and_cost_what_the_paper_says() {
        let [standard, low_fp, low_fn] = PROFILES;
        assert_eq!(corpus(&[]).at(&standard, 0.5).score, 0.0);
        for profile in PROFILES {
            assert_eq!(corpus(&[40, 60]).at(&profile, 0.5).score, 100.0);
            // What comes later in a window that is met, and what comes in the probation, is nothing.
            assert_eq!(corpus(&[3, 14, 40, 45, 60, 70]).at(&profile, 0.5).score, 100.0);
        }
        // One of two windows; a false alarm before any window costs all its weight.
        assert_eq!(corpus(&[40]).at(&standard, 0.5).score, 50.0);
        assert!((corpus(&[20, 40]).at(&standard, 0.5).score - (50.0 - 11.0 / 4.0)).abs() < 1e-9);
        assert!((corpus(&[20, 40]).at(&low_fp, 0.5).score - (50.0 - 22.0 / 4.0)).abs() < 1e-9);
        assert!((corpus(&[20, 40]).at(&low_fn, 0.5).score - (50.0 - 11.0 / 6.0)).abs() < 1e-9);
        // The middle of a window of eleven rows, and one row behind it.
        let sigmoid = |position: f64| 2.0 / (1.0 + (5.0 * position).exp()) - 1.0;
        let expected = 25.0 * (sigmoid(-6.0 / 11.0) / sigmoid(-1.0) + 1.0);
        assert!((corpus(&[65]).at(&standard, 0.5).score - expected).abs() < 1e-9);
        let expected = 25.0 * 0.11 * sigmoid(1.0 / 10.0);
        assert!((corpus(&[71]).at(&standard, 0.5).score - expected).abs() < 1e-9);
        // Far behind, all its weight again.
        assert!(
            (corpus(&[99]).at(&standard, 0.5).score + 25.0 * 0.11 * (-sigmoid(29.0 / 10.0))).abs() < 1e-9
        );
    }

    #[test]
    fn the_best_threshold_is_one_for_all_files() {
        let mut corpus = Corpus::default();
        let scores = |peak: f64| -> Vec<f64> {
            (0..100)
                .map(|row| match row {
                    40 => peak,
                    80 => 0.5,
                    _ => 0.0,
                })
                .collect()
        };
        corpus.add(&scores(0.9), &[(40, 50)], 15);
        corpus.add(&scores(0.6), &[(3, 9), (40, 50)], 15);
        corpus.add(&[f64::NAN; 100], &[], 15);
        assert_eq!(corpus.windows(), 2);
        let best = corpus.best(&PROFILES[0]);
        assert_eq!((best.threshold, best.score, best.met, best.false_alarms), (0.6, 100.0, 2, 0));
        assert_eq!(corpus.at(&PROFILES[0], 0.7).score, 50.0);
        assert!(corpus.at(&PROFILES[0], 0.5).score < 100.0);
    }

    #[test]
    fn windows_are_found_by_time() {
        let times = [0, 10, 20, 30, 40];
        for (from, to, expected) in [(10, 30, (1, 4)), (5, 35, (1, 4)), (50, 60, (5, 5)), (-9, 0, (0, 1))] {
            assert_eq!(window_rows(&times, from, to), expected);
        }
        assert_eq!([100, 4_032, 5_000, 15_902].map(probation_rows), [15, 604, 750, 750]);
    }
}
