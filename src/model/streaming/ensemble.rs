//! Detectors put together for a kind of data, and what one key of them has learned. Pure.

use serde::{Deserialize, Serialize};

use super::categories::{self, Categories};
use super::clusters::{self, Clusters};
use super::linear::{Autoregression, Level, LinearScratch};
use super::neighbours::{Neighbours, Stretch};
use super::profile::Profile;
use super::scale::Scale;
use super::tail::Tail;

/// Which detectors judge a row together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One number about a machine or a service: what the last hours looked like, the time of day, and records.
    Metric,
    /// Sampled signals: what predicts the next row, and the shapes of the last rows.
    Signal,
    /// A process that is known to be normal at first: its level and what predicts its next row.
    Process,
}

/// How far back values count, in rows, before they are forgotten.
const METRIC_MEMORY: f64 = 4_000.0;
const SIGNAL_MEMORY: f64 = 2_000.0;
const SCALE_MEMORY: f64 = 10_000.0;
const TAIL_MEMORY: f64 = 5_000.0;
/// What the past of a metric is compared by, and that of signals.
const METRIC_STRETCH: Stretch = Stretch { rows: 60, step: 4, past: 1_660 };
const SIGNAL_STRETCH: Stretch = Stretch { rows: 16, step: 4, past: 528 };
/// Values of the past that are kept at most for signals: 12 KiB.
const PAST_VALUES_MAX: usize = 3_072;
/// Rows of a part of a stretch that is told to a category.
const CATEGORY_PART_ROWS: usize = 6;
/// Categories see what neighbours see, less sharply and from further back: they have half a say.
const CATEGORY_WEIGHT: f64 = 0.5;
/// Rows over whose mean the distance to the neighbours and the category, and that from the time of day, is judged.
const SHAPE_ROWS: f64 = 5.0;
const PROFILE_ROWS: f64 = 30.0;
/// The share of a row in a running mean of decades.
const PREDICTION_SHARE: f64 = 0.1;
const SHAPE_SHARE: f64 = 0.03;
/// The share of a row in the level of a signal, and in those of a process: one for small shifts that stay, one for large ones.
const SIGNAL_LEVEL_SHARE: f64 = 0.3;
const PROCESS_LEVEL_SHARES: [f64; 2] = [0.05, 0.2];
/// A value this far outside everything before it, as a share of its range, is a record.
const RECORD_MARGIN: f64 = 0.02;
/// Rows before records count.
const RECORD_WARM_UP: u32 = 200;

/// What is said of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// How rare it is, in powers of ten, added over the detectors; NaN while nothing is known.
    pub decades: f64,
    /// Whether it is a record of a column, of a row that is not usual to all detectors either.
    pub is_record: bool,
}

/// What one key has learned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    rows: u32,
    scale: Scale,
    neighbours: Neighbours,
    clusters: Clusters,
    categories: Categories,
    profile: Profile,
    autoregression: Autoregression,
    levels: [Level; 2],
    tails: [Tail; 4],
    means: [f64; 3],
    extremes: Vec<(f64, f64)>,
    /// Rows since the last alarm, for who makes alarms of judgements.
    pub quiet_rows: Option<u32>,
}

/// Space that is used from row to row and means nothing between.
#[derive(Debug, Default)]
pub struct Scratch {
    scaled: Vec<f64>,
    example: Vec<f32>,
    linear: LinearScratch,
}

impl Learned {
    /// The most bytes that a key of so many columns takes.
    pub fn bytes_max(kind: Kind, width: usize) -> usize {
        let triangle = |width: usize| 8 * width * (width + 1) / 2;
        let level = triangle(width) + 8 * width;
        let own = size_of::<Self>() + 32 * width;
        own + match kind {
            Kind::Metric => {
                let parts = METRIC_STRETCH.rows / CATEGORY_PART_ROWS;
                let values = METRIC_STRETCH.past * 5 / 4 + METRIC_STRETCH.rows + 288;
                4 * values + categories::bytes_max(parts)
            }
            Kind::Process => 2 * level,
            Kind::Signal => {
                let past = 4 * width * (signal_stretch(width).past * 5 / 4 + SIGNAL_STRETCH.rows);
                let stretch = SIGNAL_STRETCH.rows * width;
                let clusters = 4 * clusters::centres_max(stretch) * (stretch + 1);
                level + triangle(width + 1) + triangle(width) + 8 * width * (width + 2) + past + clusters
            }
        }
    }

    /// Whether this is what rows of so many columns have taught, as far as the shapes tell.
    pub fn fits(&self, kind: Kind, width: usize) -> bool {
        let begun = self.scale.width() == width
            && self.extremes.len() == width
            && self
                .levels
                .iter()
                .zip(Self::levels(kind))
                .all(|(level, used)| level.fits(if used { width } else { 0 }))
            && self.autoregression.fits(if kind == Kind::Signal { width } else { 0 })
            && self.neighbours.fits(width)
            && self.categories.fits(METRIC_STRETCH.rows / CATEGORY_PART_ROWS)
            && self.clusters.fits(SIGNAL_STRETCH.rows * width)
            && self.profile.fits();
        self.rows == 0 || begun
    }

    /// Which of the levels are used.
    fn levels(kind: Kind) -> [bool; 2] {
        [kind != Kind::Metric, kind == Kind::Process]
    }

    fn begin(&mut self, kind: Kind, width: usize) {
        self.scale = Scale::new(width);
        self.extremes = vec![(f64::INFINITY, f64::NEG_INFINITY); width];
        if kind == Kind::Signal {
            self.autoregression = Autoregression::new(width);
        }
        for (level, used) in self.levels.iter_mut().zip(Self::levels(kind)) {
            *level = if used { Level::new(width) } else { Level::default() };
        }
    }

    /// Judges a row by what was learned before it, and learns it while there are no more than `learn_rows`. Values that are
    /// missing are NaN.
    pub fn step(
        &mut self,
        kind: Kind,
        row: &[f64],
        time_us: i64,
        learn_rows: u32,
        scratch: &mut Scratch,
    ) -> Judgement {
        if self.rows == 0 {
            self.begin(kind, row.len());
        }
        let learn = self.rows < learn_rows;
        self.rows = self.rows.saturating_add(1);
        let memory = match kind {
            Kind::Metric => METRIC_MEMORY,
            Kind::Signal => SCALE_MEMORY,
            Kind::Process => f64::INFINITY,
        };
        self.scale.step(row, memory, learn, &mut scratch.scaled);
        let (decades, is_record) = match kind {
            Kind::Metric => (self.metric(time_us, learn, scratch), self.record(row, learn)),
            Kind::Signal => (self.signal(learn, scratch), false),
            Kind::Process => (self.process(learn, scratch), false),
        };
        // A value that wanders to a new extreme is no event while it moves as always.
        Judgement { decades, is_record: is_record && decades > 0.0 }
    }

    fn metric(&mut self, time_us: i64, learn: bool, scratch: &mut Scratch) -> f64 {
        let row = &scratch.scaled;
        let [shape, daily, category, _] = &mut self.tails;
        let near = self.neighbours.step(row, METRIC_STRETCH, learn);
        let unlike = self.neighbours.recent(METRIC_STRETCH, row.len()).map_or(f64::NAN, |recent| {
            self.categories.step(recent, CATEGORY_PART_ROWS, learn, &mut scratch.example)
        });
        let near = judged(near, |near| shape.step(near, SHAPE_ROWS, METRIC_MEMORY, learn));
        let unlike = judged(unlike, |unlike| category.step(unlike, SHAPE_ROWS, METRIC_MEMORY, learn));
        let usual = row.first().map_or(f64::NAN, |value| self.profile.step(*value, time_us, learn));
        let usual = judged(usual, |usual| daily.step(usual, PROFILE_ROWS, METRIC_MEMORY, learn));
        sum([near, usual, CATEGORY_WEIGHT * unlike])
    }

    fn signal(&mut self, learn: bool, scratch: &mut Scratch) -> f64 {
        let row = &scratch.scaled;
        let [prediction, shape, level, cluster] = &mut self.tails;
        let stretch = signal_stretch(row.len());
        let error = self.autoregression.step(row, SIGNAL_MEMORY, learn, &mut scratch.linear);
        let near = self.neighbours.step(row, stretch, learn);
        let recent = self.neighbours.recent(stretch, row.len());
        let centre = recent.map_or(f64::NAN, |recent| self.clusters.step(recent, stretch.rows as u32, learn));
        let far = self.levels[0].step(row, SIGNAL_LEVEL_SHARE, SIGNAL_MEMORY, learn, &mut scratch.linear);
        let logarithm = |number: f64, tail: &mut Tail| {
            judged(number, |number| tail.step(number.max(f64::MIN_POSITIVE).ln(), 1.0, TAIL_MEMORY, learn))
        };
        let error = logarithm(error, prediction);
        let near = logarithm(near, shape);
        let far = logarithm(far, level);
        let centre = judged(centre, |centre| {
            cluster.step_two_sided(centre.max(f64::MIN_POSITIVE).ln(), TAIL_MEMORY, learn)
        });
        let [errors, nears, centres] = &mut self.means;
        for (mean, decades, share) in [
            (&mut *errors, error, PREDICTION_SHARE),
            (&mut *nears, near, SHAPE_SHARE),
            (&mut *centres, centre, SHAPE_SHARE),
        ] {
            *mean += if decades.is_nan() { 0.0 } else { share * (decades - *mean) };
        }
        let known = |decades: f64, mean: f64| if decades.is_nan() { f64::NAN } else { mean };
        sum([known(error, *errors), known(near, *nears), known(centre, *centres), far])
    }

    fn process(&mut self, learn: bool, scratch: &mut Scratch) -> f64 {
        let mut decades = [f64::NAN; 2];
        let levels = self.levels.iter_mut().zip(&mut self.tails).zip(PROCESS_LEVEL_SHARES);
        for (decades, ((level, tail), share)) in decades.iter_mut().zip(levels) {
            let far = level.step(&scratch.scaled, share, f64::INFINITY, learn, &mut scratch.linear);
            *decades =
                judged(far, |far| tail.step(far.max(f64::MIN_POSITIVE).ln(), 1.0, f64::INFINITY, learn));
        }
        sum(decades)
    }

    /// Whether a value is outside everything before it.
    fn record(&mut self, row: &[f64], learn: bool) -> bool {
        let warm = self.rows > RECORD_WARM_UP;
        let mut is_record = false;
        for ((low, high), value) in self.extremes.iter_mut().zip(row) {
            let margin = RECORD_MARGIN * (*high - *low);
            is_record |= warm && *low < *high && (*value > *high + margin || *value < *low - margin);
            if learn {
                *low = low.min(*value);
                *high = high.max(*value);
            }
        }
        is_record
    }
}

/// The past of signals is the shorter the more columns there are.
fn signal_stretch(width: usize) -> Stretch {
    let past = SIGNAL_STRETCH.past.min(PAST_VALUES_MAX / width.max(1)).max(3 * SIGNAL_STRETCH.rows);
    Stretch { past, ..SIGNAL_STRETCH }
}

/// NaN stays what it is.
fn judged(number: f64, judge: impl FnOnce(f64) -> f64) -> f64 {
    if number.is_nan() { number } else { judge(number) }
}

/// The sum of what is known; NaN if nothing is.
fn sum<const N: usize>(decades: [f64; N]) -> f64 {
    let known = decades.iter().filter(|decades| !decades.is_nan());
    if decades.iter().all(|decades| decades.is_nan()) { f64::NAN } else { known.sum() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::random::Random;

    fn run(kind: Kind, learn_rows: u32, values: &[[f64; 2]], width: usize) -> (Vec<f64>, Learned) {
        let (mut learned, mut scratch) = (Learned::default(), Scratch::default());
        let decades = values
            .iter()
            .enumerate()
            .map(|(row, values)| {
                let time = row as i64 * 300_000_000;
                learned.step(kind, &values[..width], time, learn_rows, &mut scratch).decades
            })
            .collect();
        (decades, learned)
    }

    fn noise(rows: usize) -> Vec<[f64; 2]> {
        let mut random = Random::new(9);
        let mut state = 0.0;
        (0..rows)
            .map(|row| {
                state = 0.8 * state + f64::from(random.symmetric());
                let daily = (row as f64 * std::f64::consts::TAU / 288.0).sin();
                [3.0 * daily + 0.3 * state, state + 0.2 * f64::from(random.symmetric())]
            })
            .collect()
    }

    #[test]
    fn what_breaks_out_is_rare_for_every_kind() {
        for (kind, width, learn_rows) in
            [(Kind::Metric, 1, u32::MAX), (Kind::Signal, 2, u32::MAX), (Kind::Process, 2, 3_000)]
        {
            let mut values = noise(4_000);
            let (before, _) = run(kind, learn_rows, &values, width);
            values[3_500..3_540].iter_mut().for_each(|row| *row = row.map(|value| value + 4.0));
            let (after, _) = run(kind, learn_rows, &values, width);
            // What is to come changes nothing that was said.
            let same = |row: usize| before[row].to_bits() == after[row].to_bits();
            assert!((0..3_500).all(same), "{kind:?}");
            let usual = before[3_000..].iter().copied().fold(0.0, f64::max);
            let found = after[3_500..3_550].iter().copied().fold(0.0, f64::max);
            assert!(found > 1.5 * usual, "{kind:?}: {found} beside {usual}");
        }
    }

    #[test]
    fn records_count_late_and_where_the_row_is_rare() {
        // Waves that grow reach a new extreme again and again, in the way that they always do.
        let grown = |row: usize| (1.0 + row as f64 / 300.0) * (row as f64 * 0.35).sin();
        let (mut learned, mut scratch) = (Learned::default(), Scratch::default());
        let mut early = 0;
        for row in 0..1_000 {
            let time = row as i64 * 300_000_000;
            let value = if row == 900 { 20.0 } else { grown(row) };
            let judgement = learned.step(Kind::Metric, &[value], time, u32::MAX, &mut scratch);
            assert!(!judgement.is_record || judgement.decades > 0.0, "row {row}: {judgement:?}");
            early += usize::from(judgement.is_record && row < 250);
            assert!(row != 900 || judgement.is_record, "{judgement:?}");
        }
        assert!(early <= 1, "{early} records in the first 250 rows");
    }

    #[test]
    fn state_is_bounded_and_goes_on_from_a_saved_one() {
        for (kind, width) in [(Kind::Metric, 1), (Kind::Signal, 38), (Kind::Process, 52)] {
            let mut random = Random::new(4);
            let (mut learned, mut scratch) = (Learned::default(), Scratch::default());
            let mut row = || -> Vec<f64> { (0..width).map(|_| f64::from(random.symmetric())).collect() };
            for time in 0..1_200 {
                learned.step(kind, &row(), time, u32::MAX, &mut scratch);
            }
            let saved = postcard::to_allocvec(&learned).unwrap();
            assert!(saved.len() <= 64 << 10, "{kind:?}: {} bytes", saved.len());
            let mut loaded: Learned = postcard::from_bytes(&saved).unwrap();
            for time in 1_200..1_300 {
                let row = row();
                let one = learned.step(kind, &row, time, u32::MAX, &mut scratch);
                let other = loaded.step(kind, &row, time, u32::MAX, &mut Scratch::default());
                assert_eq!(one.decades.to_bits(), other.decades.to_bits());
            }
        }
    }

    #[test]
    fn values_that_are_missing_or_extreme_do_no_harm() {
        let values: Vec<[f64; 2]> = (0..2_000)
            .map(|row| match row % 50 {
                7 => [f64::NAN, 1.0],
                8 => [f64::NAN; 2],
                9 => [f64::MAX, f64::MIN],
                _ => [(row as f64).sin(), 5.0],
            })
            .collect();
        for kind in [Kind::Metric, Kind::Signal, Kind::Process] {
            let (decades, _) = run(kind, u32::MAX, &values, 2);
            assert!(decades[1_000..].iter().all(|decades| decades.is_finite()), "{kind:?}");
        }
    }
}
