//! How well scores rank rows, whatever the threshold: areas under curves. Pure.

/// A place in a ranking at which the threshold can stand: how many rows are at or above it, and how many of them count
/// as anomalous.
struct Step {
    /// The lowest score at or above the threshold.
    score: f64,
    rows: f64,
    hits: f64,
}

/// The steps of a ranking from the highest score down; rows of equal score are one step. `weights` says how much each
/// row is an anomaly, between 0 and 1.
fn steps(order: &[usize], scores: &[f64], weights: &[f64]) -> Vec<Step> {
    let mut steps = Vec::new();
    let (mut rows, mut hits) = (0.0, 0.0);
    for (place, row) in order.iter().enumerate() {
        rows += 1.0;
        hits += weights[*row];
        let next = order.get(place + 1).map(|row| scores[*row]);
        if next != Some(scores[*row]) {
            steps.push(Step { score: scores[*row], rows, hits });
        }
    }
    steps
}

/// Rows from the highest score down. A score that is NaN counts as the lowest there is.
fn ranked(scores: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let lowest = scores.iter().copied().filter(|score| score.is_finite()).fold(f64::INFINITY, f64::min);
    let lowest = if lowest.is_finite() { lowest } else { 0.0 };
    let scores: Vec<f64> = scores.iter().map(|score| if score.is_nan() { lowest } else { *score }).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|one, other| scores[*other].total_cmp(&scores[*one]));
    (scores, order)
}

fn weights(labels: &[bool]) -> Vec<f64> {
    labels.iter().map(|label| f64::from(u8::from(*label))).collect()
}

/// The area under the ROC curve: how probable it is that an anomalous row has a higher score than a normal one, ties
/// counting half. None without rows of both kinds.
pub fn roc_auc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let (scores, order) = ranked(scores);
    let anomalous = labels.iter().filter(|label| **label).count() as f64;
    let normal = labels.len() as f64 - anomalous;
    let (mut area, mut rows_before, mut hits_before) = (0.0, 0.0, 0.0);
    for step in steps(&order, &scores, &weights(labels)) {
        let misses = (step.rows - rows_before) - (step.hits - hits_before);
        area += misses * (step.hits + hits_before) / 2.0;
        (rows_before, hits_before) = (step.rows, step.hits);
    }
    (anomalous > 0.0 && normal > 0.0).then(|| area / anomalous / normal)
}

/// Average precision: precision at each threshold, weighted by what recall gains there. None without anomalies.
pub fn average_precision(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let (scores, order) = ranked(scores);
    let anomalous = labels.iter().filter(|label| **label).count() as f64;
    let (mut area, mut before) = (0.0, 0.0);
    for step in steps(&order, &scores, &weights(labels)) {
        area += (step.hits - before) * step.hits / step.rows;
        before = step.hits;
    }
    (anomalous > 0.0).then(|| area / anomalous)
}

/// Buffers around anomalies, in rows, over which VUS-PR is the mean.
pub const BUFFERS: [usize; 6] = [0, 20, 40, 60, 80, 100];

/// VUS-PR: the area under the precision-recall curve for labels with soft edges, mean over widths of the edge
/// ([`BUFFERS`]). None without anomalies.
///
/// Source: J. Paparrizos, P. Boniol, T. Palpanas, R. Tsay, A. Elmore, M. Franklin, "Volume Under the Surface: A New
/// Accuracy Evaluation Measure for Time-Series Anomaly Detection", VLDB 2022. An edge of buffer ℓ reaches ℓ/2 rows to
/// both sides of an anomaly and falls as √(1 − distance/ℓ). Recall is over the mean of the hard and the soft labels' sums,
/// times the share of anomalies in which anything is marked. Here every threshold counts, where the authors' program
/// takes 250.
pub fn vus_pr(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let (scores, order) = ranked(scores);
    let spans = spans(labels);
    let anomalous = labels.iter().filter(|label| **label).count() as f64;
    if spans.is_empty() {
        return None;
    }
    let areas = BUFFERS.map(|buffer| {
        let soft = soften(labels, &spans, buffer);
        let positives = (anomalous + soft.iter().sum::<f64>()) / 2.0;
        let mut peaks: Vec<f64> =
            spans.iter().map(|span| peak(&scores, widened(*span, buffer, labels.len()))).collect();
        peaks.sort_by(|one, other| other.total_cmp(one));
        let (mut area, mut before, mut found) = (0.0, 0.0, 0);
        for step in steps(&order, &scores, &soft) {
            while peaks.get(found).is_some_and(|peak| *peak >= step.score) {
                found += 1;
            }
            let recall = (step.hits / positives).min(1.0) * found as f64 / spans.len() as f64;
            area += (recall - before) * step.hits / step.rows;
            before = recall;
        }
        area
    });
    Some(areas.iter().sum::<f64>() / BUFFERS.len() as f64)
}

/// The runs of anomalous rows, as first row and row behind the last.
pub fn spans(labels: &[bool]) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for (row, _) in labels.iter().enumerate().filter(|(_, label)| **label) {
        match spans.last_mut().filter(|span| span.1 == row) {
            Some(span) => span.1 = row + 1,
            None => spans.push((row, row + 1)),
        }
    }
    spans
}

fn widened((from, to): (usize, usize), buffer: usize, rows: usize) -> (usize, usize) {
    (from.saturating_sub(buffer / 2), (to + buffer / 2).min(rows))
}

fn peak(scores: &[f64], (from, to): (usize, usize)) -> f64 {
    scores[from..to].iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn soften(labels: &[bool], spans: &[(usize, usize)], buffer: usize) -> Vec<f64> {
    let mut soft = weights(labels);
    for (from, to) in spans {
        let (first, behind) = widened((*from, *to), buffer, labels.len());
        let fall = |distance: usize| (1.0 - distance as f64 / buffer as f64).max(0.0).sqrt();
        for (row, label) in soft.iter_mut().enumerate().take(behind).skip(first) {
            if row < *from {
                *label += fall(from - row);
            } else if row >= *to {
                *label += fall(row + 1 - to);
            }
        }
    }
    soft.iter_mut().for_each(|label| *label = label.min(1.0));
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: Option<f64>, expected: f64) {
        assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?} for {expected}");
    }

    #[test]
    fn areas_of_small_rankings() {
        let labels = [false, false, true, true];
        // The usual example: one pair of four is in the wrong order.
        near(roc_auc(&[0.1, 0.4, 0.35, 0.8], &labels), 0.75);
        near(average_precision(&[0.1, 0.4, 0.35, 0.8], &labels), 0.5 + 0.5 * 2.0 / 3.0);
        near(roc_auc(&[0.0, 0.1, 0.2, 0.3], &labels), 1.0);
        near(average_precision(&[0.0, 0.1, 0.2, 0.3], &labels), 1.0);
        // All equal: a coin, and the share of anomalies.
        near(roc_auc(&[1.0; 4], &labels), 0.5);
        near(average_precision(&[f64::NAN; 4], &labels), 0.5);
        // What has no score ranks with the lowest.
        near(roc_auc(&[f64::NAN, 0.1, 0.2, f64::NAN], &labels), 0.75);
        assert_eq!((roc_auc(&[1.0], &[false]), average_precision(&[1.0], &[false])), (None, None));
        assert_eq!(vus_pr(&[1.0], &[false]), None);
    }

    #[test]
    fn soft_edges_forgive_what_is_near() {
        let rows = 1_000;
        let labels: Vec<bool> = (0..rows).map(|row| (500..550).contains(&row)).collect();
        let scores = |from: usize, to: usize| -> Vec<f64> {
            (0..rows).map(|row| if (from..to).contains(&row) { 1.0 } else { 0.0 }).collect()
        };
        let exact = vus_pr(&scores(500, 550), &labels).unwrap();
        let near = vus_pr(&scores(480, 530), &labels).unwrap();
        let far = vus_pr(&scores(200, 250), &labels).unwrap();
        assert!(exact > 0.75 && exact > near && near > 0.5 && far < 0.15, "{exact} {near} {far}");
        let hard = average_precision(&scores(480, 530), &labels).unwrap();
        assert!(near > hard, "{near} {hard}");
    }

    #[test]
    fn spans_are_runs() {
        let labels = [true, false, true, true, false, false, true];
        assert_eq!(spans(&labels), [(0, 1), (2, 4), (6, 7)]);
        assert_eq!(
            soften(&[false, false, true, false, false], &[(2, 3)], 2),
            [0.0, 0.5f64.sqrt(), 1.0, 0.5f64.sqrt(), 0.0]
        );
    }
}
