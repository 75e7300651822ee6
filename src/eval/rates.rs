//! How often marks are right, row by row: F1, false alarm rate, missed alarm rate. Pure.

/// Rows by what they are and what was said of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confusion {
    /// Anomalous and marked.
    pub true_positives: u64,
    /// Normal and marked.
    pub false_positives: u64,
    /// Anomalous and not marked.
    pub false_negatives: u64,
    /// Normal and not marked.
    pub true_negatives: u64,
}

impl Confusion {
    /// Counts rows.
    pub fn add(&mut self, marks: &[bool], labels: &[bool]) {
        for (mark, label) in marks.iter().zip(labels) {
            match (*mark, *label) {
                (true, true) => self.true_positives += 1,
                (true, false) => self.false_positives += 1,
                (false, true) => self.false_negatives += 1,
                (false, false) => self.true_negatives += 1,
            }
        }
    }

    /// The harmonic mean of precision and recall; 0 where there is nothing to find.
    pub fn f1(&self) -> f64 {
        ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)
    }

    /// The share of normal rows that are marked.
    pub fn false_alarm_rate(&self) -> f64 {
        ratio(self.false_positives, self.false_positives + self.true_negatives)
    }

    /// The share of anomalous rows that are not marked.
    pub fn missed_alarm_rate(&self) -> f64 {
        ratio(self.false_negatives, self.false_negatives + self.true_positives)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_counts() {
        let mut confusion = Confusion::default();
        assert_eq!(
            (confusion.f1(), confusion.false_alarm_rate(), confusion.missed_alarm_rate()),
            (0.0, 0.0, 0.0)
        );
        confusion.add(&[true, true, false, false, true], &[true, false, true, false, true]);
        confusion.add(&[false; 3], &[false; 3]);
        assert_eq!(confusion.f1(), 4.0 / 6.0);
        assert_eq!(confusion.false_alarm_rate(), 1.0 / 5.0);
        assert_eq!(confusion.missed_alarm_rate(), 1.0 / 3.0);
    }
}
