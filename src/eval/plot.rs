//! A picture of a series, its score and what is labelled, as SVG that a browser shows. Pure.

use std::fmt::Write;

/// Width of the drawing area, in pixels; as many columns of the series are drawn.
const WIDTH: usize = 1_100;
/// Height of a panel for one column of the data, and of the one for the score.
const PANEL_HEIGHT: f64 = 120.0;
/// Space left of panels, between them, and above all of them.
const LEFT: f64 = 90.0;
const GAP: f64 = 28.0;
const TOP: f64 = 40.0;
/// Panels of data at most; what is beyond is named below the picture.
const PANELS_MAX: usize = 12;

/// What is drawn.
pub struct Picture<'a> {
    /// Above everything.
    pub title: &'a str,
    /// The columns, by name.
    pub columns: &'a [(String, &'a [f64])],
    /// A score per row; NaN where there is none.
    pub scores: &'a [f64],
    /// The score from which on a row is an alarm.
    pub threshold: Option<f64>,
    /// The rows that are alarms.
    pub alarms: &'a [bool],
    /// Labelled anomalies, as first row and row behind the last.
    pub windows: &'a [(usize, usize)],
    /// Rows at the beginning that are not judged.
    pub unjudged: usize,
}

/// Draws: a panel for each column and one for the score, labelled windows shaded, alarms as strokes.
pub fn svg(picture: &Picture<'_>) -> String {
    let shown = &picture.columns[..picture.columns.len().min(PANELS_MAX)];
    let height = TOP + (shown.len() + 1) as f64 * (PANEL_HEIGHT + GAP) + GAP;
    let width = LEFT + WIDTH as f64 + 20.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"15\">{}</text>\n",
        escape(picture.title)
    );
    legend(picture, width, &mut out);
    for (index, (name, values)) in shown.iter().enumerate() {
        panel(picture, top_of(index), name, values, "#1f5fa8", None, &mut out);
    }
    let top = top_of(shown.len());
    panel(picture, top, "score", picture.scores, "#7a3b93", picture.threshold, &mut out);
    if picture.columns.len() > shown.len() {
        let more = picture.columns.len() - shown.len();
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">and {more} more columns</text>", height - 8.0);
    }
    out.push_str("</svg>\n");
    out
}

fn top_of(index: usize) -> f64 {
    TOP + index as f64 * (PANEL_HEIGHT + GAP)
}

fn legend(picture: &Picture<'_>, width: f64, out: &mut String) {
    let alarms = picture.alarms.iter().filter(|alarm| **alarm).count();
    let text = format!(
        "{} rows, {} labelled (shaded), {alarms} alarms (red), grey: not judged",
        picture.scores.len(),
        picture.windows.len()
    );
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"18\" text-anchor=\"end\" fill=\"#555\">{text}</text>",
        width - 20.0
    );
}

/// One panel: shades, strokes, the curve, its extremes.
fn panel(
    picture: &Picture<'_>,
    top: f64,
    name: &str,
    values: &[f64],
    colour: &str,
    threshold: Option<f64>,
    out: &mut String,
) {
    let rows = values.len().max(1) as f64;
    let x = |row: usize| LEFT + row as f64 / rows * WIDTH as f64;
    let mut shade = |from: usize, to: usize, colour: &str| {
        let (left, wide) = (x(from), (x(to) - x(from)).max(1.0));
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{wide:.1}\" height=\"{PANEL_HEIGHT}\" fill=\"{colour}\"/>"
        );
    };
    shade(0, picture.unjudged, "#eeeeee");
    picture.windows.iter().for_each(|(from, to)| shade(*from, *to, "#f8dca0"));
    let bottom = top + PANEL_HEIGHT;
    let mut last = f64::NEG_INFINITY;
    for (row, _) in picture.alarms.iter().enumerate().filter(|(_, alarm)| **alarm) {
        // Strokes that would lie on each other are one.
        if x(row) - last >= 0.5 {
            last = x(row);
            let _ = writeln!(
                out,
                "<path d=\"M{last:.1} {top}V{bottom}\" stroke=\"#d62728\" stroke-opacity=\".6\"/>"
            );
        }
    }
    let (low, high) = extremes(values, threshold);
    let y = |value: f64| bottom - (value - low) / (high - low) * PANEL_HEIGHT;
    let _ = writeln!(
        out,
        "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1\"/>",
        curve(values, x, y)
    );
    if let Some(threshold) = threshold {
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {0:.1}h{WIDTH}\" stroke=\"#d62728\" stroke-dasharray=\"4 3\"/>",
            y(threshold)
        );
    }
    let _ = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{PANEL_HEIGHT}\" fill=\"none\" stroke=\"#999\"/>\n\
         <g text-anchor=\"end\"><text x=\"{0}\" y=\"{1}\">{2}</text><text x=\"{0}\" y=\"{3}\">{high:.4}</text>\
         <text x=\"{0}\" y=\"{4}\">{low:.4}</text></g>",
        LEFT - 6.0,
        top + PANEL_HEIGHT / 2.0,
        escape(name),
        top + 10.0,
        bottom
    );
}

/// The least and the largest value, apart.
fn extremes(values: &[f64], threshold: Option<f64>) -> (f64, f64) {
    let finite = values.iter().copied().filter(|value| value.is_finite()).chain(threshold);
    let (low, high) = finite
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low < high {
        (low, high)
    } else if low.is_finite() {
        (low - 0.5, low + 0.5)
    } else {
        (0.0, 1.0)
    }
}

/// A path through the least and the largest value of each pixel's rows, in their order; broken where there is no value.
fn curve(values: &[f64], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) -> String {
    let per_pixel = values.len().div_ceil(WIDTH).max(1);
    let mut path = String::new();
    let mut pen_down = false;
    for (index, chunk) in values.chunks(per_pixel).enumerate() {
        let mut ends: Vec<usize> = Vec::with_capacity(2);
        for (place, value) in chunk.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            match ends.as_mut_slice() {
                [] => ends.extend([place, place]),
                [low, high] => {
                    *low = if *value < chunk[*low] { place } else { *low };
                    *high = if *value > chunk[*high] { place } else { *high };
                }
                _ => {}
            }
        }
        ends.sort_unstable();
        ends.dedup();
        for place in &ends {
            let command = if pen_down { 'L' } else { 'M' };
            let _ = write!(path, "{command}{:.1} {:.1}", x(index * per_pixel + place), y(chunk[*place]));
            pen_down = true;
        }
        pen_down &= !ends.is_empty();
    }
    path
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture_of(rows: usize, columns: usize) -> String {
        let values: Vec<f64> = (0..rows).map(|row| (row as f64 / 9.0).sin()).collect();
        let columns: Vec<_> = (0..columns).map(|index| (format!("<{index}>"), values.as_slice())).collect();
        let mut scores: Vec<f64> = values.iter().map(|value| value.abs()).collect();
        scores[..rows / 10].fill(f64::NAN);
        let alarms: Vec<bool> = (0..rows).map(|row| row % 500 == 499).collect();
        svg(&Picture {
            title: "a & b",
            columns: &columns,
            scores: &scores,
            threshold: Some(2.0),
            alarms: &alarms,
            windows: &[(rows / 2, rows / 2 + 40)],
            unjudged: rows / 10,
        })
    }

    #[test]
    fn a_picture_is_small_whatever_it_shows() {
        let small = picture_of(1_000, 1);
        assert!(small.starts_with("<svg ") && small.ends_with("</svg>\n"));
        assert!(
            small.contains("a &amp; b") && small.contains("&lt;0&gt;") && small.contains("stroke-dasharray")
        );
        assert_eq!(small.matches("#f8dca0").count(), 2);
        assert!(!small.contains("NaN") && !small.contains("inf"));
        let large = picture_of(200_000, 30);
        assert!(large.len() < 1 << 20, "{} bytes", large.len());
        assert!(large.contains("and 18 more columns"));
        assert!(
            svg(&Picture {
                title: "",
                columns: &[],
                scores: &[],
                threshold: None,
                alarms: &[],
                windows: &[],
                unjudged: 0
            })
            .contains("0 rows")
        );
    }

    #[test]
    fn a_curve_keeps_every_peak_and_breaks_at_gaps() {
        let mut values = vec![0.0; 110_000];
        values[54_321] = 1.0;
        let path = curve(&values, |row| row as f64, |value| value * 10.0);
        assert!(path.contains("L54321.0 10.0"));
        let gap = curve(&[1.0, f64::NAN, 2.0], |row| row as f64, |value| value);
        assert_eq!(gap, "M0.0 1.0M2.0 2.0");
    }
}
