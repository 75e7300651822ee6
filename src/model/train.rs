//! Training: normal rows in, a model file out. Pure: deterministic for the same data, options and seed.
//!
//! Rows are taken to be in time order. The last part is held out: it stops the training early, and its
//! scores give the threshold. Everything the model is scaled and fitted by comes from the rows before it.

use super::dense::{Dense, Scratch};
use super::format::{self, Column, LAYERS_MAX, ModelFile, ModelId, Origin, Score, SelfTest, WIDTH_MAX};
use super::kernels::Kernel;
use super::network::{Adam, Network, Tensors};
use super::quantize::{self, Calibration};
use super::random::Random;
use crate::error::{Error, Result};

/// The smallest number of usable rows.
pub const ROWS_MIN: usize = 100;
/// Rows of the held-out part that become self-test vectors; one far outside joins them.
const SELF_TEST_ROWS: usize = 4;

/// The rows to learn from.
#[derive(Debug, Clone, Copy)]
pub struct TrainingData<'a> {
    /// The column names.
    pub names: &'a [String],
    /// Raw values in time order, row-major: a whole number of rows of `names.len()` values. Rows with a
    /// value that is not finite are skipped and counted.
    pub rows: &'a [f64],
}

/// What to train and how.
#[derive(Debug, Clone)]
pub struct TrainingOptions {
    /// The model's name.
    pub name: String,
    /// The model's version number.
    pub version: u64,
    /// The time of creation, µs since 1970.
    pub created_us: i64,
    /// The model this one follows.
    pub parent: Option<ModelId>,
    /// The widths of the hidden layers; by default `2n, max(1, n / 2), 2n` for `n` columns.
    pub hidden: Option<Vec<usize>>,
    /// The seed of initial weights and shuffles.
    pub seed: u64,
    /// The largest number of passes over the training rows.
    pub epochs_max: usize,
    /// Passes without a better held-out loss after which training stops.
    pub patience_epochs: usize,
    /// Rows per step.
    pub batch_rows: usize,
    /// Adam's step size.
    pub learning_rate: f32,
    /// The share of the rows, the last ones, that is held out; in `(0, 0.9]`.
    pub held_out_share: f64,
    /// The share of normal rows that may score above the threshold; in `[0, 1)`.
    pub false_alarm_rate: f64,
    /// How activation ranges are found.
    pub calibration: Calibration,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        Self {
            name: "autoencoder".to_owned(),
            version: 1,
            created_us: 0,
            parent: None,
            hidden: None,
            seed: 0,
            epochs_max: 200,
            patience_epochs: 10,
            batch_rows: 32,
            learning_rate: 1e-3,
            held_out_share: 0.2,
            false_alarm_rate: 0.001,
            calibration: Calibration::MinMax,
        }
    }
}

/// Where training stands after an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// The largest number of epochs.
    pub epochs_max: usize,
    /// The mean squared error over the training rows, as it was met during the epoch.
    pub training_loss: f64,
    /// The mean squared error over the held-out rows after the epoch.
    pub held_out_loss: f64,
    /// The best held-out loss so far.
    pub best_loss: f64,
}

/// What training did, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingReport {
    /// Rows skipped because a value was not finite.
    pub rows_skipped: usize,
    /// Rows fitted to.
    pub training_rows: usize,
    /// Rows held out.
    pub held_out_rows: usize,
    /// Epochs done.
    pub epochs: usize,
    /// The epoch whose weights were kept.
    pub epoch_kept: usize,
    /// The mean score of the held-out rows by the float network.
    pub float_score_mean: f64,
    /// The mean score of the held-out rows by the int8 model.
    pub int8_score_mean: f64,
    /// The threshold.
    pub threshold: f64,
    /// How many held-out rows the asked false alarm rate needs. With fewer the threshold is the largest
    /// held-out score, and the rate is likely to be higher than asked. `None` for a rate of 0, which no
    /// number of rows can promise.
    pub held_out_rows_needed: Option<usize>,
}

/// A trained model.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Its id.
    pub id: ModelId,
    /// The model as data.
    pub file: ModelFile,
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// What training did.
    pub report: TrainingReport,
}

/// Trains, quantizes, calibrates and seals a model; `progress` hears of every epoch.
///
/// Refuses options out of range, fewer than two columns, columns without variation, fewer than
/// [`ROWS_MIN`] usable rows, and a training that diverges; each with the reason.
pub fn train(
    data: TrainingData<'_>,
    options: &TrainingOptions,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Trained> {
    let widths = check(data, options)?;
    let prepared = Prepared::new(data, options)?;
    let fitted = fit(&prepared, &widths, options, progress)?;
    finish(&prepared, &fitted, options)
}

/// The widths of all tensors, inputs to outputs, if options and shape are usable.
fn check(data: TrainingData<'_>, options: &TrainingOptions) -> Result<Vec<usize>> {
    let width = data.names.len();
    if !(2..=WIDTH_MAX).contains(&width) {
        return Err(Error::config(format!(
            "a model needs 2 to {WIDTH_MAX} columns, not {width}: it learns how columns go together"
        )));
    }
    assert_eq!(data.rows.len() % width, 0, "training rows are whole");
    let hidden = match &options.hidden {
        Some(hidden) => hidden.clone(),
        None => vec![(2 * width).min(WIDTH_MAX), (width / 2).max(1), (2 * width).min(WIDTH_MAX)],
    };
    if hidden.is_empty() || hidden.len() >= LAYERS_MAX {
        let count = hidden.len();
        return Err(Error::config(format!(
            "hidden: 1 to {} layers are possible, not {count}",
            LAYERS_MAX - 1
        )));
    }
    if let Some(wrong) = hidden.iter().find(|&&wide| !(1..=WIDTH_MAX).contains(&wide)) {
        return Err(Error::config(format!("hidden: a layer has 1 to {WIDTH_MAX} units, not {wrong}")));
    }
    let positive = |value: usize, name: &str| match value {
        0 => Err(Error::config(format!("{name} must be at least 1"))),
        _ => Ok(()),
    };
    positive(options.epochs_max, "epochs_max")?;
    positive(options.patience_epochs, "patience_epochs")?;
    positive(options.batch_rows, "batch_rows")?;
    let range = |within: bool, name: &str, range: &str, value: f64| match within {
        true => Ok(()),
        false => Err(Error::config(format!("{name} must be in {range}, not {value}"))),
    };
    let (rate, share) = (f64::from(options.learning_rate), options.held_out_share);
    range(rate > 0.0 && rate <= 1.0, "learning_rate", "(0, 1]", rate)?;
    range(share > 0.0 && share <= 0.9, "held_out_share", "(0, 0.9]", share)?;
    let alarms = options.false_alarm_rate;
    range((0.0..1.0).contains(&alarms), "false_alarm_rate", "[0, 1)", alarms)?;
    if let Calibration::Percentile(share) = options.calibration {
        range(share > 0.5 && share <= 1.0, "the calibration's percentile", "(0.5, 1]", share)?;
    }
    let mut widths = vec![width];
    widths.extend(hidden);
    widths.push(width);
    Ok(widths)
}

/// Usable rows, split and scaled.
struct Prepared<'a> {
    width: usize,
    rows_skipped: usize,
    columns: Vec<Column>,
    /// Held-out rows as they came.
    held_out_raw: Vec<&'a [f64]>,
    /// Scaled, row-major.
    training: Vec<f32>,
    /// Scaled, row-major.
    held_out: Vec<f32>,
}

impl<'a> Prepared<'a> {
    fn new(data: TrainingData<'a>, options: &TrainingOptions) -> Result<Self> {
        let width = data.names.len();
        let finite = |row: &&[f64]| row.iter().all(|value| value.is_finite());
        let usable: Vec<&[f64]> = data.rows.chunks_exact(width).filter(finite).collect();
        let rows_skipped = data.rows.len() / width - usable.len();
        if usable.len() < ROWS_MIN {
            return Err(Error::data(format!(
                "training needs at least {ROWS_MIN} rows in which every column is a finite number; there are {} \
                 ({rows_skipped} rows with missing or non-finite values were skipped)",
                usable.len()
            )));
        }
        let held_out_count = (usable.len() as f64 * options.held_out_share).ceil() as usize;
        let (training, held_out) = usable.split_at(usable.len() - held_out_count);
        let columns = scaling(data.names, training)?;
        let scale = |rows: &[&[f64]]| {
            let values = rows.iter().flat_map(|row| row.iter().zip(&columns));
            values
                .map(|(value, column)| ((value - column.mean) / column.deviation) as f32)
                .collect::<Vec<_>>()
        };
        let (training, scaled_held_out) = (scale(training), scale(held_out));
        if !scaled_held_out.iter().all(|value| value.is_finite()) {
            return Err(Error::data(
                "a held-out row lies so far from the training rows that it cannot be scaled",
            ));
        }
        let held_out_raw = held_out.to_vec();
        Ok(Self { width, rows_skipped, columns, held_out_raw, training, held_out: scaled_held_out })
    }
}

/// Mean and deviation of every column; refuses all columns without variation at once.
fn scaling(names: &[String], rows: &[&[f64]]) -> Result<Vec<Column>> {
    let count = rows.len() as f64;
    let mut columns = Vec::with_capacity(names.len());
    let mut constant = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let values = || rows.iter().map(|row| row[index]);
        let mean = values().map(|value| value / count).sum::<f64>();
        let deviation = (values().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count).sqrt();
        let first = rows[0][index];
        if values().all(|value| value == first) || (deviation.is_finite() && !deviation.is_normal()) {
            constant.push(format!("\"{name}\" (always {first})"));
        } else if !deviation.is_finite() {
            return Err(Error::data(format!("column \"{name}\" holds values too large to be scaled")));
        }
        columns.push(Column { name: name.clone(), mean, deviation });
    }
    if constant.is_empty() {
        return Ok(columns);
    }
    Err(Error::data(format!(
        "nothing can be learned from a column that never changes in the {} training rows; leave out {}",
        rows.len(),
        constant.join(", ")
    )))
}

/// A float network and how it came about.
struct Fitted {
    network: Network,
    epochs: usize,
    epoch_kept: usize,
}

fn fit(
    data: &Prepared<'_>,
    widths: &[usize],
    options: &TrainingOptions,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Fitted> {
    let width = data.width;
    let mut random = Random::new(options.seed);
    let mut network = Network::new(widths, &mut random);
    let mut adam = Adam::new(&network, options.learning_rate);
    let mut order: Vec<usize> = (0..data.training.len() / width).collect();
    let mut batch = Vec::with_capacity(options.batch_rows.min(order.len()) * width);
    let mut tensors = Tensors::default();
    let mut best = Fitted { network: network.clone(), epochs: 0, epoch_kept: 0 };
    let mut best_loss = f64::INFINITY;
    for epoch in 1..=options.epochs_max {
        random.shuffle(&mut order);
        let mut loss = 0.0;
        for rows in order.chunks(options.batch_rows) {
            batch.clear();
            rows.iter().for_each(|&row| batch.extend_from_slice(&data.training[row * width..][..width]));
            loss += adam.step(&mut network, &batch) * rows.len() as f64;
        }
        let training_loss = loss / order.len() as f64;
        let held_out_loss = mean(&network.scores(&data.held_out, width, &mut tensors));
        if !training_loss.is_finite() || !held_out_loss.is_finite() {
            return Err(Error::data(format!(
                "training diverged in epoch {epoch}; a learning_rate below {} may help",
                options.learning_rate
            )));
        }
        best.epochs = epoch;
        if held_out_loss < best_loss {
            best_loss = held_out_loss;
            best.network.clone_from(&network);
            best.epoch_kept = epoch;
        }
        progress(&Progress {
            epoch,
            epochs_max: options.epochs_max,
            training_loss,
            held_out_loss,
            best_loss,
        });
        if epoch - best.epoch_kept >= options.patience_epochs {
            break;
        }
    }
    Ok(best)
}

/// Quantizes, finds the threshold, adds the self-tests and seals.
fn finish(data: &Prepared<'_>, fitted: &Fitted, options: &TrainingOptions) -> Result<Trained> {
    let (input, layers) =
        quantize::quantize(&fitted.network, &data.training, data.width, options.calibration);
    let mut file = ModelFile {
        name: options.name.clone(),
        version: options.version,
        created_us: options.created_us,
        producer: format!("tidegate {}", env!("CARGO_PKG_VERSION")),
        parent: options.parent,
        columns: data.columns.clone(),
        input,
        layers,
        score: Score::MeanSquaredError,
        threshold: 0.0,
        origin: Origin {
            training_rows: (data.training.len() / data.width) as u64,
            held_out_rows: data.held_out_raw.len() as u64,
            false_alarm_rate: options.false_alarm_rate,
        },
        self_tests: Vec::new(),
        signature: None,
    };
    // The id comes with the last byte; until then a score needs none.
    let dense = Dense::new(ModelId([0; 32]), file.clone(), Kernel::best());
    let mut scores = vec![0.0; data.held_out_raw.len()];
    dense.score(&mut Scratch::default(), &data.held_out, &mut scores);
    let float_scores = fitted.network.scores(&data.held_out, data.width, &mut Tensors::default());
    let (threshold, held_out_rows_needed) = threshold(&scores, options.false_alarm_rate);
    file.threshold = threshold;
    file.self_tests = self_tests(data, &dense);
    let report = TrainingReport {
        rows_skipped: data.rows_skipped,
        training_rows: data.training.len() / data.width,
        held_out_rows: scores.len(),
        epochs: fitted.epochs,
        epoch_kept: fitted.epoch_kept,
        float_score_mean: mean(&float_scores),
        int8_score_mean: mean(&scores),
        threshold,
        held_out_rows_needed,
    };
    let (id, bytes) = file.write()?;
    Ok(Trained { id, file, bytes, report })
}

/// The threshold that a fresh normal row exceeds with at most the asked probability, if rows are
/// exchangeable: the `⌊rate · (n + 1)⌋`-th largest score (split conformal prediction: Vovk, Gammerman,
/// Shafer, "Algorithmic Learning in a Random World", 2005). Beside it, how many rows the rate needs.
fn threshold(scores: &[f64], rate: f64) -> (f64, Option<usize>) {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (rate * (sorted.len() + 1) as f64).floor() as usize;
    let at = sorted.len().saturating_sub(rank.max(1));
    let needed = (rate > 0.0).then(|| ((1.0 / rate).ceil() as usize).saturating_sub(1).max(1));
    (sorted.get(at).copied().unwrap_or(0.0), needed)
}

/// Rows spread over the held-out part, and one far outside of everything, with their scores.
fn self_tests(data: &Prepared<'_>, dense: &Dense) -> Vec<SelfTest> {
    let step = data.held_out_raw.len().div_ceil(SELF_TEST_ROWS).max(1);
    let mut rows: Vec<Vec<f64>> = data.held_out_raw.iter().step_by(step).map(|row| row.to_vec()).collect();
    let outside = data.columns.iter().enumerate().map(|(index, column)| {
        let side = if index % 2 == 0 { 10.0 } else { -10.0 };
        column.mean + side * column.deviation
    });
    rows.push(outside.collect());
    rows.truncate(format::SELF_TESTS_MAX);
    let mut scratch = Scratch::default();
    let score = |values: Vec<f64>| {
        let columns: Vec<&[f64]> = values.chunks(1).collect();
        let mut score = [0.0];
        dense.score_columns(&mut scratch, &columns, &mut score);
        SelfTest { values, score: score[0] }
    };
    rows.into_iter().map(score).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verify;

    const NAMES: [&str; 5] = ["load", "current", "rpm", "temperature", "vibration"];

    fn names() -> Vec<String> {
        NAMES.map(str::to_owned).to_vec()
    }

    /// Five columns that follow two hidden causes, with a little noise; each in a unit of its own.
    fn machine(count: usize, random: &mut Random) -> Vec<f64> {
        let mut rows = Vec::with_capacity(count * NAMES.len());
        for _ in 0..count {
            let (load, speed) = (f64::from(random.symmetric()), f64::from(random.symmetric()));
            let mut noise = || f64::from(random.symmetric()) * 0.05;
            rows.extend([
                50.0 + 20.0 * (load + noise()),
                12.0 + 5.0 * (0.8 * load + 0.2 * speed + noise()),
                1500.0 + 300.0 * (speed + noise()),
                340.0 + 8.0 * (0.5 * load + 0.5 * speed + noise()),
                0.02 + 0.01 * (0.9 * speed - 0.3 * load + noise()),
            ]);
        }
        rows
    }

    /// Every column on its own as before, but each row's values drawn from different rows.
    fn broken(rows: &[f64], random: &mut Random) -> Vec<f64> {
        let (width, count) = (NAMES.len(), rows.len() / NAMES.len());
        (0..rows.len()).map(|at| rows[random.below(count) * width + at % width]).collect()
    }

    fn options() -> TrainingOptions {
        TrainingOptions {
            name: "machine".to_owned(),
            created_us: 1_750_000_000_000_000,
            seed: 17,
            epochs_max: 40,
            batch_rows: 16,
            learning_rate: 5e-3,
            false_alarm_rate: 0.02,
            ..TrainingOptions::default()
        }
    }

    fn train_rows(rows: &[f64], options: &TrainingOptions) -> Result<Trained> {
        train(TrainingData { names: &names(), rows }, options, &mut |_| ())
    }

    fn score(trained: &Trained, rows: &[f64]) -> Vec<f64> {
        let dense = verify(&trained.bytes, &names(), Kernel::best()).unwrap();
        let column = |at: usize| rows.iter().skip(at).step_by(NAMES.len()).copied().collect::<Vec<_>>();
        let columns: Vec<Vec<f64>> = (0..NAMES.len()).map(column).collect();
        let columns: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
        let mut scores = vec![0.0; rows.len() / NAMES.len()];
        dense.score_columns(&mut Scratch::default(), &columns, &mut scores);
        scores
    }

    /// The probability that an anomaly scores above a normal row.
    fn area_under_curve(normal: &[f64], anomalies: &[f64]) -> f64 {
        let above = |anomaly: &f64| normal.iter().filter(|&score| score < anomaly).count();
        anomalies.iter().map(above).sum::<usize>() as f64 / (normal.len() * anomalies.len()) as f64
    }

    #[test]
    fn a_trained_model_tells_broken_correlations_from_normal_rows() {
        let mut random = Random::new(99);
        let rows = machine(600, &mut random);
        let mut epochs = 0;
        let trained = train(TrainingData { names: &names(), rows: &rows }, &options(), &mut |progress| {
            epochs += 1;
            assert_eq!((progress.epoch, progress.epochs_max), (epochs, 40));
            assert!(progress.best_loss <= progress.held_out_loss);
        })
        .unwrap();
        let report = trained.report;
        assert_eq!((report.epochs, report.training_rows, report.held_out_rows), (epochs, 480, 120));
        // Int8 is as good as float: the mean score of normal rows within 15 % and 0.003 (a thousandth of a
        // deviation squared each, the size of the input's rounding).
        let difference = (report.int8_score_mean - report.float_score_mean).abs();
        assert!(difference < 0.15 * report.float_score_mean + 0.003, "{report:?}");

        let fresh = machine(300, &mut random);
        let (normal, anomalies) = (score(&trained, &fresh), score(&trained, &broken(&fresh, &mut random)));
        let area = area_under_curve(&normal, &anomalies);
        assert!(area > 0.95, "area under the curve {area}, {report:?}");
        let alarms = normal.iter().filter(|&&score| score > report.threshold).count();
        assert!(alarms <= 300 * 6 / 100, "{alarms} false alarms of 300 at a rate of 0.02");
        let found = anomalies.iter().filter(|&&score| score > report.threshold).count();
        assert!(found >= 300 * 7 / 10, "{found} of 300 broken rows found");
    }

    #[test]
    fn the_same_seed_gives_the_same_file_and_another_seed_another() {
        let rows = machine(150, &mut Random::new(5));
        let short = TrainingOptions { epochs_max: 3, ..options() };
        let first = train_rows(&rows, &short).unwrap();
        let second = train_rows(&rows, &short).unwrap();
        assert_eq!((first.id, &first.bytes), (second.id, &second.bytes));
        let other = train_rows(&rows, &TrainingOptions { seed: 18, ..short }).unwrap();
        assert_ne!(first.id, other.id);
        // Saved and loaded it is the same model with the same scores.
        let (id, file) = ModelFile::read(&first.bytes).unwrap();
        assert_eq!((id, &file), (first.id, &first.file));
        assert_eq!(score(&first, &rows), score(&second, &rows));
    }

    #[test]
    fn rows_with_gaps_are_skipped_and_counted() {
        let mut rows = machine(150, &mut Random::new(6));
        let width = NAMES.len();
        rows[3] = f64::NAN;
        rows[width * 70 + 1] = f64::INFINITY;
        let short = TrainingOptions { epochs_max: 1, ..options() };
        let report = train_rows(&rows, &short).unwrap().report;
        assert_eq!((report.rows_skipped, report.training_rows, report.held_out_rows), (2, 118, 30));
    }

    #[test]
    fn training_stops_when_nothing_gets_better() {
        let rows = machine(150, &mut Random::new(7));
        let eager = TrainingOptions { epochs_max: 200, patience_epochs: 2, learning_rate: 0.05, ..options() };
        let report = train_rows(&rows, &eager).unwrap().report;
        assert!(report.epochs < 200 && report.epochs == report.epoch_kept + 2, "{report:?}");
    }

    #[test]
    fn what_cannot_be_trained_is_refused_with_the_reason() {
        let rows = machine(150, &mut Random::new(8));
        let mut constant = rows.clone();
        constant.iter_mut().skip(1).step_by(NAMES.len()).for_each(|value| *value = 0.1);
        constant.iter_mut().skip(4).step_by(NAMES.len()).for_each(|value| *value = 3.0);
        let mut gaps = rows.clone();
        gaps.iter_mut().step_by(NAMES.len() * 2).for_each(|value| *value = f64::NAN);
        let mut huge = rows.clone();
        huge.iter_mut().step_by(NAMES.len()).for_each(|value| *value *= 1e300);
        type Change = fn(&mut TrainingOptions);
        let cases: [(&[f64], Change, &str); 11] = [
            (&constant, |_| (), "leave out \"current\" (always 0.1), \"vibration\" (always 3)"),
            (&gaps, |_| (), "there are 75 (75 rows with missing"),
            (&rows[..50 * 5], |_| (), "at least 100 rows"),
            (&huge, |_| (), "\"load\" holds values too large"),
            (&rows, |o| o.hidden = Some(vec![]), "1 to 63 layers are possible, not 0"),
            (&rows, |o| o.hidden = Some(vec![8, 0, 8]), "1 to 16384 units, not 0"),
            (&rows, |o| o.batch_rows = 0, "batch_rows must be at least 1"),
            (&rows, |o| o.learning_rate = f32::NAN, "learning_rate must be in (0, 1]"),
            (&rows, |o| o.held_out_share = 0.0, "held_out_share must be in (0, 0.9]"),
            (&rows, |o| o.false_alarm_rate = 1.0, "false_alarm_rate must be in [0, 1)"),
            (&rows, |o| o.calibration = Calibration::Percentile(0.5), "percentile must be in (0.5, 1]"),
        ];
        for (rows, change, reason) in cases {
            let mut options = options();
            change(&mut options);
            let error = train_rows(rows, &options).unwrap_err();
            assert!(error.message.contains(reason), "wanted \"{reason}\" in \"{error}\"");
        }
        let one = train(TrainingData { names: &names()[..1], rows: &[1.0; 200] }, &options(), &mut |_| ());
        assert!(one.unwrap_err().message.contains("2 to 16384 columns, not 1"));
    }

    #[test]
    fn the_threshold_is_the_quantile_asked_for() {
        let scores: Vec<f64> = (1..=99).map(f64::from).collect();
        // Of 100 equally likely places among 99 scores, one lies above the largest.
        assert_eq!(threshold(&scores, 0.01), (99.0, Some(99)));
        assert_eq!(threshold(&scores, 0.05), (95.0, Some(19)));
        assert_eq!(threshold(&scores, 0.001), (99.0, Some(999)));
        assert_eq!(threshold(&scores, 0.0), (99.0, None));
    }
}
