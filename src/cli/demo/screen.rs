//! The demo's picture in the terminal; plain lines where there is no terminal.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::DemoArgs;
use super::plant::{DemoPlant, SPEED};
use super::score::{belongs, findings};
use super::watch::Watch;
use crate::runtime::metrics::PipelineMetrics;
use crate::source::simulate::Label;

/// Scores shown per press.
const PLOT_WIDTH: usize = 56;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is drawn.
pub struct View<'a> {
    elapsed: Duration,
    sent: u64,
    messages: u64,
    bytes_in: u64,
    rows_out: u64,
    watch: &'a Watch,
}

impl<'a> View<'a> {
    /// Collects what is drawn.
    pub fn of(metrics: &PipelineMetrics, watch: &'a Watch, elapsed: Duration, sent: u64) -> Self {
        let totals = metrics.totals();
        Self {
            elapsed,
            sent,
            messages: totals.source_rows,
            bytes_in: totals.source_bytes,
            rows_out: totals.sink_rows.iter().map(|(_, rows)| rows).sum(),
            watch,
        }
    }
}

/// The terminal.
pub struct Screen {
    terminal: bool,
    labels: Vec<Label>,
    names: Vec<String>,
    start_us: i64,
    seconds: u64,
    admin: SocketAddr,
    notes: Vec<String>,
    lines: usize,
    last: (Instant, u64, u64),
    rates: (f64, f64),
    printed: Instant,
}

impl Screen {
    /// Nothing drawn yet.
    pub fn new(args: &DemoArgs, plant: &DemoPlant, admin: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            terminal: std::io::stdout().is_terminal(),
            labels: plant.labels().to_vec(),
            names: plant.names().to_vec(),
            start_us: plant.start_us(),
            seconds: args.seconds,
            admin,
            notes: Vec::new(),
            lines: 0,
            last: (now, 0, 0),
            rates: (0.0, 0.0),
            printed: now.checked_sub(LINE_EVERY).unwrap_or(now),
        }
    }

    /// Adds a line of what happened.
    pub fn note(&mut self, text: String) {
        if !self.terminal {
            println!("{text}");
        }
        self.notes.push(text);
    }

    /// Draws.
    pub fn draw(&mut self, view: &View<'_>) {
        let now = Instant::now();
        let seconds = (now - self.last.0).as_secs_f64();
        if seconds >= 0.5 {
            let rate = |new: u64, old: u64| (new - old.min(new)) as f64 / seconds;
            self.rates = (rate(view.messages, self.last.1), rate(view.rows_out, self.last.2));
            self.last = (now, view.messages, view.rows_out);
        }
        if self.terminal {
            let text = self.picture(view);
            let up = if self.lines > 0 { format!("\x1b[{}A", self.lines) } else { String::new() };
            self.lines = text.lines().count();
            let text = text.replace('\n', "\x1b[K\n");
            print!("{up}{text}\x1b[J");
            let _ = std::io::stdout().flush();
        } else if self.printed.elapsed() >= LINE_EVERY {
            self.printed = now;
            println!(
                "{:>5.1} s  {:>6} messages ({:.0}/s)  {:>4} windows  {:>3} alarms  model {}  {:.1} KiB in, {:.1} KiB out",
                view.elapsed.as_secs_f64(),
                view.messages,
                self.rates.0,
                view.watch.windows,
                view.watch.alarms.len(),
                view.watch.models.last().map_or("-", |(model, _)| model),
                view.bytes_in as f64 / 1024.0,
                view.watch.frame_bytes as f64 / 1024.0,
            );
        }
    }

    /// The picture stays; what follows is printed below it.
    pub fn leave(&mut self) {
        self.lines = 0;
    }

    fn picture(&self, view: &View<'_>) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let watch = view.watch;
        let ratio = view.bytes_in as f64 / watch.frame_bytes.max(1) as f64;
        let model = watch.models.last().map_or("-", |(model, _)| model);
        let _ = writeln!(
            text,
            "Tidegate demo   {:>4.1} of {} s   plant time {SPEED} × faster   admin http://{}",
            view.elapsed.as_secs_f64(),
            self.seconds,
            self.admin
        );
        let _ = writeln!(
            text,
            "  messages {:>8} ({:>5.0}/s)   rows out {:>7} ({:>5.0}/s)   windows {:>5}   alarms {:>4}",
            view.messages,
            self.rates.0,
            view.rows_out,
            self.rates.1,
            watch.windows,
            watch.alarms.len()
        );
        let _ = writeln!(
            text,
            "  {:.1} KiB of JSON in   {:.1} KiB of frames out{}   model {model}   published {}",
            view.bytes_in as f64 / 1024.0,
            watch.frame_bytes as f64 / 1024.0,
            if watch.frame_bytes > 0 { format!(" ({ratio:.1} : 1)") } else { String::new() },
            view.sent
        );
        let _ = writeln!(text);
        let now_us = self.start_us + (view.elapsed.as_micros() as i64).saturating_mul(SPEED as i64);
        let found = findings(&self.labels, &watch.alarms);
        for name in &self.names {
            let scores = watch.scores.get(name).map_or(&[][..], Vec::as_slice);
            let shown = &scores[scores.len().saturating_sub(PLOT_WIDTH)..];
            let plot: String = shown.iter().map(|score| bar(*score)).collect();
            let mut said = String::new();
            for finding in found.iter().filter(|finding| finding.label.device == *name) {
                if finding.label.start_us > now_us {
                    continue;
                }
                let kind = finding.label.kind.name();
                said = match finding.found_after_s {
                    Some(after) => format!("\x1b[31m{kind}\x1b[0m, found after {after:.0} s"),
                    None => format!("{kind}, not found yet"),
                };
            }
            let stray = watch.alarms.iter().filter(|alarm| {
                alarm.device == *name && !self.labels.iter().any(|label| belongs(alarm, label))
            });
            let stray = stray.count();
            if stray > 0 {
                let _ = write!(said, " {stray} false");
            }
            let _ = writeln!(text, "  {name:<9} {plot:<PLOT_WIDTH$} {said}");
        }
        for note in self.notes.iter().rev().take(3).rev() {
            let _ = writeln!(text, "  {note}");
        }
        text
    }
}

/// A bar for a score, on a logarithmic scale from 0.1 to 100.
fn bar(score: f64) -> char {
    let place = ((score.max(0.1).log10() + 1.0) / 3.0 * 7.99) as usize;
    BARS[place.min(7)]
}
