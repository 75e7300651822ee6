//! Streams with labels: how well scores rank rows, whatever the threshold.

use super::operator::Verdicts;
use super::series::{self, Series};
use super::{Baseline, CorpusArgs, Runner, baseline, costs, method, say};
use crate::error::Result;
use crate::eval::baseline::{constant, random, range_check, windowed_gaussian};
use crate::eval::ranking::{BUFFERS, average_precision, roc_auc, vus_pr};

/// What suits the corpus.
const METHOD: &str = "signal";
/// What the detector is compared with.
pub(super) const BASELINES: [Baseline; 4] = [
    ("constant", |series| constant(series.rows())),
    ("random", |series| random(series.rows())),
    ("range check", |series| range_check(&series.slices())),
    ("windowed Gaussian", |series| windowed_gaussian(&series.slices())),
];

/// Areas of one stream, or means of several.
#[derive(Debug, Clone, Copy, Default)]
struct Areas([f64; 3]);

impl Areas {
    fn of(series: &Series, verdicts: &Verdicts) -> Option<Self> {
        let (scores, labels) = (&verdicts.scores, &series.labels);
        Some(Self([roc_auc(scores, labels)?, average_precision(scores, labels)?, vus_pr(scores, labels)?]))
    }

    fn mean(all: &[Self]) -> Self {
        Self([0, 1, 2].map(|area| all.iter().map(|one| one.0[area]).sum::<f64>() / all.len().max(1) as f64))
    }
}

impl std::fmt::Display for Areas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [roc, precision, volume] = self.0;
        write!(f, "{roc:.3} | {precision:.3} | {volume:.3}")
    }
}

/// Scores all streams and prints the tables.
pub(super) fn run(args: &CorpusArgs, runner: &Runner<'_>) -> Result<()> {
    let corpus = series::streams(&args.data)?;
    say(format_args!(
        "streams: {} files, every row from the first judged, nothing learned before. Means over the files; VUS-PR over \
         buffers of {BUFFERS:?} rows.\n",
        corpus.len()
    ))?;
    say(format_args!("| detector | ROC-AUC | average precision | VUS-PR | µs per row | bytes per key |"))?;
    say(format_args!("|---|--:|--:|--:|--:|--:|"))?;
    for (name, score) in BASELINES {
        let verdicts: Vec<Verdicts> = corpus.iter().map(|series| baseline(score, series)).collect();
        print_row(name, &corpus, &verdicts)?;
    }
    let score = |series| runner.score(series, &method(METHOD));
    let verdicts = corpus.iter().map(score).collect::<Result<Vec<Verdicts>>>()?;
    print_row(&runner.name(METHOD), &corpus, &verdicts)?;
    say(format_args!("\n| stream | rows | columns | ROC-AUC | average precision | VUS-PR |"))?;
    say(format_args!("|---|--:|--:|--:|--:|--:|"))?;
    for (series, verdict) in corpus.iter().zip(&verdicts) {
        let areas = Areas::of(series, verdict).map_or("no labels | | ".to_owned(), |areas| areas.to_string());
        say(format_args!("| {} | {} | {} | {areas} |", series.name, series.rows(), series.columns.len()))?;
        runner.draw(METHOD, series, verdict, 0, None)?;
    }
    Ok(())
}

/// One line of the first table.
pub(super) fn print_row(name: &str, corpus: &[Series], verdicts: &[Verdicts]) -> Result<()> {
    let pairs = || corpus.iter().zip(verdicts);
    let areas: Vec<Areas> = pairs().filter_map(|(series, verdict)| Areas::of(series, verdict)).collect();
    say(format_args!("| {name} | {} | {} |", Areas::mean(&areas), costs(pairs())))
}
