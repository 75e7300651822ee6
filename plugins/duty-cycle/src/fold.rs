//! The arithmetic of one key: values that hold for a while, and time cut into stretches. Pure.

use serde::{Deserialize, Serialize};

/// The lengths that time is cut and held by, in µs, both positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Of a stretch.
    pub every: i64,
    /// For how long a value holds at most.
    pub hold: i64,
}

/// What is known of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fold {
    /// Up to where time is accounted for, µs.
    at: i64,
    /// The newest row's time; its value holds from there.
    row: i64,
    /// Whether it was above.
    on: bool,
    known_us: i64,
    on_us: i64,
    starts: i64,
}

/// A stretch of one key that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub end: i64,
    pub known_us: i64,
    pub on_us: i64,
    pub starts: i64,
}

impl Fold {
    /// Begins with a key's first row.
    pub fn new(time: i64, on: bool) -> Self {
        Self { at: time, row: time, on, known_us: 0, on_us: 0, starts: 0 }
    }

    /// Takes the next row; rows come in the order of time. Stretches that end up to then are given to `over`.
    pub fn row(&mut self, time: i64, on: bool, lengths: Lengths, over: &mut impl FnMut(Stretch)) {
        self.advance(time, lengths, over);
        // What went on while nobody looked is no start that was seen.
        let was_known = time <= self.row.saturating_add(lengths.hold);
        self.starts += i64::from(on && !self.on && was_known);
        (self.row, self.on) = (time, on);
    }

    /// Lets time pass; the newest value holds as long as it may. Stretches that end up to then are given to `over`.
    pub fn advance(&mut self, to: i64, lengths: Lengths, over: &mut impl FnMut(Stretch)) {
        let known_until = self.row.saturating_add(lengths.hold);
        while self.at < to {
            let end = end_of(self.at, lengths.every);
            let step = to.min(end);
            let known = step.min(known_until).saturating_sub(self.at).max(0);
            self.known_us += known;
            self.on_us += if self.on { known } else { 0 };
            self.at = step;
            if step == end {
                self.close(end, over);
            }
            if self.at >= known_until {
                // Nothing is known of what follows, however many stretches it is.
                self.at = to;
            }
        }
    }

    /// Whatever is open is over: known up to the last row.
    pub fn finish(&mut self, lengths: Lengths, over: &mut impl FnMut(Stretch)) {
        self.close(end_of(self.at, lengths.every), over);
    }

    fn close(&mut self, end: i64, over: &mut impl FnMut(Stretch)) {
        if self.known_us > 0 {
            over(Stretch { end, known_us: self.known_us, on_us: self.on_us, starts: self.starts });
        }
        (self.known_us, self.on_us, self.starts) = (0, 0, 0);
    }
}

/// The end of the stretch that a moment is in.
fn end_of(time: i64, every: i64) -> i64 {
    time.div_euclid(every).saturating_add(1).saturating_mul(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: Lengths = Lengths { every: 10, hold: 4 };

    /// Time and whether it is on.
    type Row = (i64, bool);
    /// End, known, on, starts.
    type Told = (i64, i64, i64, i64);

    /// Takes rows, then time passes to `to`: what it tells of each stretch.
    fn fold(rows: &[Row], to: i64) -> Vec<Told> {
        let mut found = Vec::new();
        let mut over = |stretch: Stretch| {
            found.push((stretch.end, stretch.known_us, stretch.on_us, stretch.starts));
        };
        let mut fold = Fold::new(rows[0].0, rows[0].1);
        rows[1..].iter().for_each(|(time, on)| fold.row(*time, *on, LENGTHS, &mut over));
        match to {
            i64::MAX => fold.finish(LENGTHS, &mut over),
            to => fold.advance(to, LENGTHS, &mut over),
        }
        found
    }

    #[test]
    fn time_is_held_cut_and_counted() {
        let table: [(&[Row], i64, &[Told]); 9] = [
            // On at 2, off at 5, on at 7: 2 to 5 and 7 to 10 are on.
            (&[(2, true), (5, false), (7, true)], 10, &[(10, 8, 6, 1)]),
            // A value holds for 4 and then nothing is known, also over an edge.
            (&[(2, true)], 10, &[(10, 4, 4, 0)]),
            (&[(8, true)], 20, &[(10, 2, 2, 0), (20, 2, 2, 0)]),
            // Not over yet.
            (&[(2, true)], 9, &[]),
            // Silence of many stretches has no rows; going on after it is no start.
            (&[(2, false), (75, true)], 80, &[(10, 4, 0, 0), (80, 4, 4, 0)]),
            // Before 1970.
            (&[(-12, true), (-9, false)], 0, &[(-10, 2, 2, 0), (0, 5, 1, 0)]),
            // Two rows at one moment: the later one counts from there.
            (&[(0, false), (3, true), (3, false), (5, true)], 10, &[(10, 9, 4, 2)]),
            // The end: known up to the last row.
            (&[(2, true), (5, false)], i64::MAX, &[(10, 3, 3, 0)]),
            (&[(2, true)], i64::MAX, &[]),
        ];
        for (rows, to, expected) in table {
            assert_eq!(fold(rows, to), expected, "{rows:?} to {to}");
        }
    }

    #[test]
    fn it_does_not_matter_in_how_many_steps_time_passes() {
        let rows = [(3, true), (9, false), (11, true), (30, true)];
        let whole = fold(&rows, 47);
        let mut found = Vec::new();
        let mut over = |stretch: Stretch| {
            found.push((stretch.end, stretch.known_us, stretch.on_us, stretch.starts));
        };
        let mut key = Fold::new(rows[0].0, rows[0].1);
        for at in 4..=47 {
            match rows.iter().find(|(time, _)| *time == at) {
                Some((time, on)) => key.row(*time, *on, LENGTHS, &mut over),
                None => key.advance(at, LENGTHS, &mut over),
            }
        }
        assert_eq!(found, whole);
        assert_eq!(whole, [(10, 5, 4, 0), (20, 5, 4, 1), (40, 4, 4, 0)]);
    }
}
