//! The Tennessee Eastman process.

use std::path::Path;

use super::operator::Verdicts;
use super::series::{self, Series};
use super::{Baseline, CorpusArgs, Runner, baseline, costs, method, say};
use crate::error::{Error, Result};
use crate::eval::baseline::{constant, random, range_check, windowed_gaussian};

/// Rows of the test files before the fault.
const NORMAL_ROWS: usize = 160;
/// Minutes between rows.
const STEP_MINUTES: f64 = 3.0;
/// The share of normal rows that may be marked.
const FALSE_ALARM_RATE: f64 = 0.01;
/// Faults that no method is known to find, left out of the mean as the literature does.
const UNOBSERVABLE: [usize; 3] = [3, 9, 15];
/// Faults that there can be.
const FAULTS: std::ops::RangeInclusive<usize> = 1..=21;

/// What suits the corpus.
const METHOD: &str = "process";
/// What the detector is compared with.
const BASELINES: [Baseline; 4] = [
    ("constant", |series| constant(series.rows())),
    ("random", |series| random(series.rows())),
    ("range check", |series| range_check(&series.slices())),
    ("windowed Gaussian", |series| windowed_gaussian(&series.slices())),
];

/// Test data of one fault behind the normal training data.
struct Fault {
    number: usize,
    series: Series,
}

/// What was found of one fault.
struct Found {
    rate: f64,
    /// Minutes from the fault to the first of three marked rows one after the other.
    delay_minutes: Option<f64>,
}

/// Scores all faults and prints the tables.
pub(super) fn run(args: &CorpusArgs, runner: &Runner<'_>) -> Result<()> {
    let (learn_rows, faults) = read(&args.data)?;
    say(format_args!(
        "TEP: {} faults. Learned: the {learn_rows} normal rows of d00.dat, nothing behind them. Threshold: marks {:.0} % of \
         the normal rows of d00_te.dat. Mean without faults {UNOBSERVABLE:?}.\n",
        faults.len() - 1,
        FALSE_ALARM_RATE * 100.0
    ))?;
    say(format_args!(
        "| detector | detection rate | false alarms before the faults | µs per row | bytes per key |"
    ))?;
    say(format_args!("|---|--:|--:|--:|--:|"))?;
    for (name, score) in BASELINES {
        let verdicts: Vec<Verdicts> = faults.iter().map(|fault| baseline(score, &fault.series)).collect();
        print_row(name, learn_rows, &faults, &verdicts)?;
    }
    let mut defaults = method(METHOD);
    defaults.extend([("learn_rows".to_owned(), (learn_rows as i64).into())]);
    let score = |fault: &Fault| runner.score(&fault.series, &defaults);
    let verdicts = faults.iter().map(score).collect::<Result<Vec<Verdicts>>>()?;
    print_row(&runner.name(METHOD), learn_rows, &faults, &verdicts)?;
    let threshold = threshold(learn_rows, &verdicts);
    say(format_args!("\n| fault | detection rate | delay of the first three marked rows |"))?;
    say(format_args!("|---|--:|--:|"))?;
    for (fault, verdict) in faults.iter().zip(&verdicts).skip(1) {
        let found = find(learn_rows, verdict, threshold);
        let delay = found.delay_minutes.map_or("never".to_owned(), |minutes| format!("{minutes:.0} min"));
        say(format_args!("| {} | {:.3} | {delay} |", fault.number, found.rate))?;
        runner.draw(METHOD, &fault.series, verdict, learn_rows, Some(threshold))?;
    }
    Ok(())
}

/// The normal rows' number, and the faults that there are, the normal test data as fault 0 first.
fn read(folder: &Path) -> Result<(usize, Vec<Fault>)> {
    let normal = series::tep(&folder.join("d00.dat"))?;
    let learn_rows = normal.first().map_or(0, Vec::len);
    let mut faults = Vec::new();
    for number in [0].into_iter().chain(FAULTS) {
        let path = folder.join(format!("d{number:02}_te.dat"));
        if !path.exists() {
            continue;
        }
        let test = series::tep(&path)?;
        let columns: Vec<Vec<f64>> = normal
            .iter()
            .zip(test)
            .map(|(normal, test)| normal.iter().copied().chain(test).collect())
            .collect();
        let rows = columns.first().map_or(0, Vec::len);
        let begin = learn_rows + NORMAL_ROWS;
        let is_fault = number > 0 && begin < rows;
        let series = Series {
            name: format!("fault-{number:02}"),
            times: (0..rows as i64).map(|row| row * 180_000_000).collect(),
            names: (1..=columns.len()).map(|index| format!("v{index:02}")).collect(),
            labels: (0..rows).map(|row| is_fault && row >= begin).collect(),
            windows: if is_fault { vec![(begin, rows)] } else { Vec::new() },
            columns,
        };
        faults.push(Fault { number, series });
    }
    match faults.first().is_some_and(|fault| fault.number == 0) && faults.len() > 1 {
        true => Ok((learn_rows, faults)),
        false => Err(Error::data(format!("{}: d00_te.dat and files of faults are wanted", folder.display()))),
    }
}

/// The score that one in a hundred of the normal test rows is above.
fn threshold(learn_rows: usize, verdicts: &[Verdicts]) -> f64 {
    let Some(normal) = verdicts.first() else { return f64::INFINITY };
    let mut scores: Vec<f64> =
        normal.scores[learn_rows..].iter().copied().filter(|score| !score.is_nan()).collect();
    scores.sort_by(|one, other| other.total_cmp(one));
    let above = (FALSE_ALARM_RATE * scores.len() as f64) as usize;
    scores.get(above).copied().unwrap_or(f64::INFINITY)
}

fn find(learn_rows: usize, verdict: &Verdicts, threshold: f64) -> Found {
    let scores = verdict.scores.get(learn_rows + NORMAL_ROWS..).unwrap_or_default();
    let marked = scores.iter().filter(|score| **score > threshold).count();
    let first = scores.windows(3).position(|three| three.iter().all(|score| *score > threshold));
    Found {
        rate: marked as f64 / scores.len().max(1) as f64,
        delay_minutes: first.map(|row| (row + 2) as f64 * STEP_MINUTES),
    }
}

fn print_row(name: &str, learn_rows: usize, faults: &[Fault], verdicts: &[Verdicts]) -> Result<()> {
    let threshold = threshold(learn_rows, verdicts);
    let counted =
        faults.iter().zip(verdicts).skip(1).filter(|(fault, _)| !UNOBSERVABLE.contains(&fault.number));
    let rates: Vec<f64> = counted.map(|(_, verdict)| find(learn_rows, verdict, threshold).rate).collect();
    let (mut marked, mut rows) = (0, 0);
    for verdict in verdicts.iter().skip(1) {
        let before = verdict.scores.get(learn_rows..learn_rows + NORMAL_ROWS).unwrap_or_default();
        marked += before.iter().filter(|score| **score > threshold).count();
        rows += before.len();
    }
    say(format_args!(
        "| {name} | {:.4} | {:.2} % | {} |",
        rates.iter().sum::<f64>() / rates.len().max(1) as f64,
        100.0 * marked as f64 / rows.max(1) as f64,
        costs(faults.iter().map(|fault| &fault.series).zip(verdicts))
    ))
}
