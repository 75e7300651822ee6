//! Tables of the user's own: alarms, and how good they are where there are labels.

use std::fmt::Write as _;

use super::operator::Verdicts;
use super::series::{self, Layout, Series};
use super::{CsvArgs, Runner, baseline, method, say, streams};
use crate::codec::timestamp::TimeWriter;
use crate::error::{Error, Result};
use crate::eval::ranking::spans;
use crate::eval::rates::Confusion;

/// Alarms that are listed for each file.
const LISTED_MAX: usize = 20;

/// Scores the files and prints what was found.
pub(super) fn run(args: &CsvArgs, runner: &Runner<'_>) -> Result<()> {
    let delimiter = u8::try_from(args.delimiter).ok().filter(u8::is_ascii).ok_or_else(|| {
        Error::config(format!("{:?} cannot be a delimiter; use , ; | : or a tab", args.delimiter))
    })?;
    let layout = Layout {
        time: args.time.as_deref(),
        label: args.label.as_deref(),
        without: &[],
        columns: &args.columns,
        delimiter,
    };
    let (mut corpus, mut all) = (Vec::new(), Vec::new());
    for path in &args.files {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let series = series::read(path, &name, &layout)?;
        let verdicts = runner.score(&series, &method(suited(&series)))?;
        say(format_args!("{}", list(&series, &verdicts, args.time.is_some()).trim_end()))?;
        runner.draw(suited(&series), &series, &verdicts, 0, None)?;
        corpus.push(series);
        all.push(verdicts);
    }
    if args.label.is_some() {
        compare(runner, &corpus, &all)?;
    }
    Ok(())
}

/// The method for one column, or for several.
fn suited(series: &Series) -> &'static str {
    if series.columns.len() == 1 { "metric" } else { "signal" }
}

/// What was marked in one file, in words.
fn list(series: &Series, verdicts: &Verdicts, timed: bool) -> String {
    let alarms = spans(&verdicts.anomalies);
    let mut text = format!(
        "{}: {} rows, {} columns ({}), {} alarms\n",
        series.name,
        series.rows(),
        series.names.len(),
        series.names.join(", "),
        alarms.len()
    );
    for (from, to) in alarms.iter().take(LISTED_MAX) {
        let peak = verdicts.scores[*from..*to].iter().copied().fold(f64::NAN, f64::max);
        let mut time = Vec::new();
        if timed {
            TimeWriter::new().write_us(series.times[*from], &mut time);
        }
        let time = String::from_utf8_lossy(&time).into_owned();
        let _ = writeln!(text, "  row {} {time}: {} rows, score {peak:.1}", from + 1, to - from);
    }
    if alarms.len() > LISTED_MAX {
        let _ = writeln!(text, "  and {} more", alarms.len() - LISTED_MAX);
    }
    text
}

/// Areas and rates, beside those of detectors that anybody could write.
fn compare(runner: &Runner<'_>, corpus: &[Series], all: &[Verdicts]) -> Result<()> {
    say(format_args!("\n| detector | ROC-AUC | average precision | VUS-PR | µs per row | bytes per key |"))?;
    say(format_args!("|---|--:|--:|--:|--:|--:|"))?;
    for (name, score) in streams::BASELINES {
        let verdicts: Vec<Verdicts> = corpus.iter().map(|series| baseline(score, series)).collect();
        streams::print_row(name, corpus, &verdicts)?;
    }
    streams::print_row(&runner.name(corpus.first().map_or("signal", suited)), corpus, all)?;
    let mut confusion = Confusion::default();
    corpus.iter().zip(all).for_each(|(series, verdict)| confusion.add(&verdict.anomalies, &series.labels));
    let met = |(series, verdict): (&Series, &Verdicts)| -> usize {
        series.windows.iter().filter(|(from, to)| verdict.anomalies[*from..*to].contains(&true)).count()
    };
    let met: usize = corpus.iter().zip(all).map(met).sum();
    let windows: usize = corpus.iter().map(|series| series.windows.len()).sum();
    say(format_args!(
        "\n{met} of {windows} labelled stretches have an alarm; by rows F1 {:.3}, false alarm rate {:.2} %, missed alarm rate \
         {:.1} %",
        confusion.f1(),
        100.0 * confusion.false_alarm_rate(),
        100.0 * confusion.missed_alarm_rate()
    ))
}
