//! The Skoltech Anomaly Benchmark.

use super::operator::Verdicts;
use super::series::{self, Series};
use super::{Baseline, CorpusArgs, Runner, baseline, costs, method, say};
use crate::error::Result;
use crate::eval::baseline::{constant, random, range_check, windowed_gaussian};
use crate::eval::nab::{Corpus, PROFILES, window_rows};
use crate::eval::rates::Confusion;

/// Rows at the beginning of each file that are normal and known to be.
const LEARN_ROWS: usize = 400;
/// How long after a change point its alarm counts.
const CHANGE_WINDOW_US: i64 = 60_000_000;
/// False alarm rates up to which the best threshold in hindsight is looked for.
const RATES_MAX: [f64; 2] = [0.20, 0.15];

/// What suits the corpus.
const METHOD: &str = "process";
/// What the detector is compared with.
const BASELINES: [Baseline; 4] = [
    ("always anomalous", |series| constant(series.rows())),
    ("random", |series| random(series.rows())),
    ("range check", |series| range_check(&series.slices())),
    ("windowed Gaussian", |series| windowed_gaussian(&series.slices())),
];

/// Scores all files and prints the table.
pub(super) fn run(args: &CorpusArgs, runner: &Runner<'_>) -> Result<()> {
    let (corpus, changes): (Vec<Series>, Vec<Vec<bool>>) = series::skab(&args.data)?.into_iter().unzip();
    say(format_args!(
        "SKAB: {} files. The first {LEARN_ROWS} rows of each are learned and not judged; nothing is learned behind them. F1 \
         and rates over the rows of all files; change points by NAB (standard), a window of 60 s from each.\n",
        corpus.len()
    ))?;
    say(format_args!(
        "| detector | F1 | false alarm rate | missed alarm rate | change points | µs per row | bytes per key |"
    ))?;
    say(format_args!("|---|--:|--:|--:|--:|--:|--:|"))?;
    for (name, score) in BASELINES {
        let verdicts: Vec<Verdicts> = corpus.iter().map(|series| baseline(score, series)).collect();
        let marks: Vec<Vec<bool>> = verdicts.iter().map(|verdict| verdict.anomalies.clone()).collect();
        print_row(name, &corpus, &changes, &marks, &verdicts)?;
    }
    let mut defaults = method(METHOD);
    defaults.extend([("learn_rows".to_owned(), (LEARN_ROWS as i64).into())]);
    let score = |series| runner.score(series, &defaults);
    let verdicts = corpus.iter().map(score).collect::<Result<Vec<Verdicts>>>()?;
    let marks: Vec<Vec<bool>> = verdicts.iter().map(|verdict| verdict.anomalies.clone()).collect();
    let name = runner.name(METHOD);
    print_row(&format!("{name}, as it alarms"), &corpus, &changes, &marks, &verdicts)?;
    for rate_max in RATES_MAX {
        let threshold = best_threshold(&corpus, &verdicts, rate_max);
        let marks: Vec<Vec<bool>> = verdicts.iter().map(|verdict| above(verdict, threshold)).collect();
        let name = format!("{name}, hindsight, rate ≤ {:.0} %, score > {threshold:.2}", rate_max * 100.0);
        print_row(&name, &corpus, &changes, &marks, &verdicts)?;
    }
    for (series, verdict) in corpus.iter().zip(&verdicts) {
        runner.draw(METHOD, series, verdict, LEARN_ROWS, None)?;
    }
    Ok(())
}

fn above(verdict: &Verdicts, threshold: f64) -> Vec<bool> {
    verdict.scores.iter().map(|score| *score > threshold).collect()
}

fn confusion(corpus: &[Series], marks: &[Vec<bool>]) -> Confusion {
    let mut confusion = Confusion::default();
    for (series, marks) in corpus.iter().zip(marks) {
        let from = LEARN_ROWS.min(marks.len());
        confusion.add(&marks[from..], &series.labels[from..]);
    }
    confusion
}

/// The threshold of the best F1 whose false alarm rate is not larger, one for all files.
fn best_threshold(corpus: &[Series], verdicts: &[Verdicts], rate_max: f64) -> f64 {
    let mut rows: Vec<(f64, bool)> = Vec::new();
    for (series, verdict) in corpus.iter().zip(verdicts) {
        rows.extend(verdict.scores.iter().copied().zip(series.labels.iter().copied()).skip(LEARN_ROWS));
    }
    rows.sort_by(|one, other| other.0.total_cmp(&one.0));
    let anomalous = rows.iter().filter(|row| row.1).count() as f64;
    let normal = rows.len() as f64 - anomalous;
    let (mut hits, mut false_alarms) = (0.0, 0.0);
    let mut best = (0.0, f64::INFINITY);
    for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
        if row.1 {
            hits += 1.0
        } else {
            false_alarms += 1.0
        }
        let f1 = 2.0 * hits / (hits + false_alarms + anomalous);
        if next.0 < row.0 && false_alarms <= rate_max * normal && f1 > best.0 {
            best = (f1, next.0);
        }
    }
    best.1
}

fn print_row(
    name: &str,
    corpus: &[Series],
    changes: &[Vec<bool>],
    marks: &[Vec<bool>],
    verdicts: &[Verdicts],
) -> Result<()> {
    let confusion = confusion(corpus, marks);
    say(format_args!(
        "| {name} | {:.3} | {:.1} % | {:.1} % | {:.1} | {} |",
        confusion.f1(),
        100.0 * confusion.false_alarm_rate(),
        100.0 * confusion.missed_alarm_rate(),
        change_score(corpus, changes, marks),
        costs(corpus.iter().zip(verdicts))
    ))
}

/// How well the beginnings of marked stretches meet the change points.
fn change_score(corpus: &[Series], changes: &[Vec<bool>], marks: &[Vec<bool>]) -> f64 {
    let mut judged = Corpus::default();
    for ((series, changes), marks) in corpus.iter().zip(changes).zip(marks) {
        let begins = |row: usize| marks[row] && (row == 0 || !marks[row - 1]);
        let onsets: Vec<f64> = (0..marks.len()).map(|row| f64::from(u8::from(begins(row)))).collect();
        let mut windows: Vec<(usize, usize)> = Vec::new();
        for (row, _) in changes.iter().enumerate().filter(|(_, change)| **change) {
            let time = series.times[row];
            let (from, to) = window_rows(&series.times, time, time + CHANGE_WINDOW_US);
            // The next change ends the window of the one before.
            if let Some(before) = windows.last_mut() {
                before.1 = before.1.min(from);
            }
            windows.push((from, to));
        }
        windows.retain(|(from, to)| from < to);
        judged.add(&onsets, &windows, LEARN_ROWS);
    }
    judged.at(&PROFILES[0], 1.0).score
}
