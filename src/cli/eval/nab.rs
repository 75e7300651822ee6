//! The Numenta Anomaly Benchmark.

use std::io::Write as _;
use std::path::Path;

use super::operator::Verdicts;
use super::series::{self, Series};
use super::{Baseline, NabArgs, Runner, baseline, costs, method, say};
use crate::codec::timestamp::TimeWriter;
use crate::error::{Error, Result};
use crate::eval::baseline::{constant, random, range_check, windowed_gaussian};
use crate::eval::nab::{Corpus, PROFILES, Scored, probation_rows};

/// Thresholds that are tried in hindsight, among the highest scores of each file.
const THRESHOLDS: usize = 24;
const PEAKS: usize = 60;
/// What suits the corpus.
const METHOD: &str = "metric";
/// What the detector is compared with.
const BASELINES: [Baseline; 4] = [
    ("constant", |series| constant(series.rows())),
    ("random", |series| random(series.rows())),
    ("range check", |series| range_check(&series.slices())),
    ("windowed Gaussian", |series| windowed_gaussian(&series.slices())),
];

/// Scores all files and prints the table.
pub(super) fn run(args: &NabArgs, runner: &Runner<'_>) -> Result<()> {
    let corpus = series::nab(&args.corpus.data)?;
    let windows: usize = corpus.iter().map(|series| series.windows.len()).sum();
    say(format_args!(
        "NAB: {} files, {windows} windows. Score by profile: 0 for no alarm, 100 for the best possible. `hindsight`: one \
         threshold for all files, the best for each profile. The first 15 % of each file, at most 750 rows, are not judged.\n",
        corpus.len()
    ))?;
    say(format_args!(
        "| detector | standard | low FP | low FN | windows met | false alarms | µs per row | bytes per key |"
    ))?;
    say(format_args!("|---|--:|--:|--:|--:|--:|--:|--:|"))?;
    for (name, score) in BASELINES {
        let verdicts: Vec<Verdicts> = corpus.iter().map(|series| baseline(score, series)).collect();
        print_row(&format!("{name}, hindsight"), &hindsight(&corpus, &verdicts), &corpus, &verdicts)?;
    }
    let score = |series| runner.score(series, &method(METHOD));
    let verdicts = corpus.iter().map(score).collect::<Result<Vec<Verdicts>>>()?;
    let name = runner.name(METHOD);
    print_row(&format!("{name}, hindsight"), &best(&corpus, &verdicts, runner)?, &corpus, &verdicts)?;
    print_row(&format!("{name}, as it alarms"), &as_it_alarms(&corpus, &verdicts), &corpus, &verdicts)?;
    for (series, verdict) in corpus.iter().zip(&verdicts) {
        if let Some(out) = &args.out {
            write_results(out, &name, series, verdict)?;
        }
        runner.draw(METHOD, series, verdict, probation_rows(series.rows()), None)?;
    }
    Ok(())
}

/// The best threshold for each profile.
fn hindsight(corpus: &[Series], verdicts: &[Verdicts]) -> [Scored; 3] {
    let judged = judge(corpus, verdicts.iter().map(|verdict| verdict.scores.clone()));
    PROFILES.map(|profile| judged.best(&profile))
}

/// The best threshold of the operator for each profile: it runs once for each, since an alarm may depend on those before.
fn best(corpus: &[Series], verdicts: &[Verdicts], runner: &Runner<'_>) -> Result<[Scored; 3]> {
    let mut peaks: Vec<f64> = Vec::new();
    for verdict in verdicts {
        let known = verdict.scores.iter().skip(probation_rows(verdict.scores.len()));
        let mut scores: Vec<f64> = known.copied().filter(|score| *score > 0.0).collect();
        scores.sort_by(|one, other| other.total_cmp(one));
        peaks.extend(scores.iter().take(PEAKS));
    }
    peaks.sort_by(f64::total_cmp);
    let mut best = PROFILES.map(|_| Scored { threshold: f64::INFINITY, score: 0.0, met: 0, false_alarms: 0 });
    for index in 0..THRESHOLDS.min(peaks.len()) {
        let threshold = peaks[index * (peaks.len() - 1) / (THRESHOLDS - 1)];
        let mut defaults = method(METHOD);
        defaults.insert("threshold".to_owned(), threshold.into());
        let run = |series| runner.score(series, &defaults);
        let verdicts = corpus.iter().map(run).collect::<Result<Vec<Verdicts>>>()?;
        for (best, scored) in best.iter_mut().zip(as_it_alarms(corpus, &verdicts)) {
            if scored.score > best.score {
                *best = Scored { threshold, ..scored };
            }
        }
    }
    Ok(best)
}

/// The alarms that the operator made, by its own threshold.
fn as_it_alarms(corpus: &[Series], verdicts: &[Verdicts]) -> [Scored; 3] {
    let marks =
        |verdict: &Verdicts| verdict.anomalies.iter().map(|mark| f64::from(u8::from(*mark))).collect();
    let judged = judge(corpus, verdicts.iter().map(marks));
    PROFILES.map(|profile| judged.at(&profile, 1.0))
}

fn judge(corpus: &[Series], scores: impl Iterator<Item = Vec<f64>>) -> Corpus {
    let mut judged = Corpus::default();
    for (series, scores) in corpus.iter().zip(scores) {
        judged.add(&scores, &series.windows, probation_rows(scores.len()));
    }
    judged
}

fn print_row(
    name: &str,
    [standard, low_fp, low_fn]: &[Scored; 3],
    corpus: &[Series],
    verdicts: &[Verdicts],
) -> Result<()> {
    say(format_args!(
        "| {name} (from {:.2}) | {:.1} | {:.1} | {:.1} | {} | {} | {} |",
        standard.threshold,
        standard.score,
        low_fp.score,
        low_fn.score,
        standard.met,
        standard.false_alarms,
        costs(corpus.iter().zip(verdicts))
    ))
}

/// One result file as the benchmark's own programs read them. They want scores between 0 and 1: from 0.5 up the operator
/// alarms, and the order is that of its scores.
fn write_results(out: &Path, detector: &str, series: &Series, verdict: &Verdicts) -> Result<()> {
    let (folder, file) = series.name.rsplit_once('/').unwrap_or(("", &series.name));
    let folder = out.join(detector).join(folder);
    let path = folder.join(format!("{detector}_{file}"));
    let failed = |error: std::io::Error| Error::io(format!("writing {}", path.display()), &error);
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let mut writer = std::io::BufWriter::new(std::fs::File::create(&path).map_err(failed)?);
    writeln!(writer, "timestamp,value,anomaly_score,label").map_err(failed)?;
    let largest = verdict.scores.iter().copied().filter(|score| score.is_finite()).fold(0.0, f64::max);
    for row in 0..series.rows() {
        let score = verdict.scores[row];
        let share = if score.is_finite() && largest > 0.0 { 0.499 * score / largest } else { 0.0 };
        let score = share + if verdict.anomalies[row] { 0.5 } else { 0.0 };
        let (value, label) = (series.columns[0][row], u8::from(series.labels[row]));
        writeln!(writer, "{},{value},{score},{label}", timestamp(series.times[row])).map_err(failed)?;
    }
    writer.flush().map_err(failed)
}

/// As the corpus writes times: no zone, no fraction.
fn timestamp(time_us: i64) -> String {
    let mut text = Vec::new();
    TimeWriter::new().write_us(time_us, &mut text);
    String::from_utf8_lossy(&text).replace('T', " ").chars().take(19).collect()
}
