//! The statistics a window can be asked for: their names, what each needs to be accumulated, and the formula
//! that makes a value of it. Pure.

use super::sketch::Sketch;

/// One statistic of one column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stat {
    Count,
    Nulls,
    Sum,
    Mean,
    Min,
    Max,
    Range,
    First,
    Last,
    Std,
    Var,
    Skew,
    Kurtosis,
    Rms,
    CrestFactor,
    Slope,
    /// The value below which this share (0 to 1, both excluded) of the values lies.
    Quantile(f64),
}

/// All names but those of quantiles.
const NAMES: [(&str, Stat); 17] = [
    ("count", Stat::Count),
    ("nulls", Stat::Nulls),
    ("sum", Stat::Sum),
    ("mean", Stat::Mean),
    ("min", Stat::Min),
    ("max", Stat::Max),
    ("range", Stat::Range),
    ("first", Stat::First),
    ("last", Stat::Last),
    ("std", Stat::Std),
    ("var", Stat::Var),
    ("skew", Stat::Skew),
    ("kurtosis", Stat::Kurtosis),
    ("rms", Stat::Rms),
    ("crest_factor", Stat::CrestFactor),
    ("slope", Stat::Slope),
    ("median", Stat::Quantile(0.5)),
];

/// The names a misspelt word is compared with.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name).chain(["p50", "p90", "p95", "p99", "p99_9"])
}

/// What the accumulators of one column in one window say, ready for the formulas.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Summary<'a> {
    /// How many rows the window has.
    pub rows: u64,
    /// How many usable values: neither null, nor NaN, nor infinite.
    pub count: u64,
    pub mean: f64,
    /// Sums of the second, third and fourth powers of the differences from the mean.
    pub powers: [f64; 3],
    pub sum: f64,
    pub min: f64,
    pub max: f64,
    pub first: f64,
    pub last: f64,
    /// The least-squares slope per second, where there is one.
    pub slope: Option<f64>,
    pub sketch: Option<&'a Sketch>,
}

impl Stat {
    /// Reads a name: one of the fixed ones, or `p` with one or two digits and, behind `_`, up to three more
    /// (`p5`, `p99`, `p99_9`).
    pub fn parse(name: &str) -> Option<Self> {
        if let Some((_, stat)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Some(*stat);
        }
        let digits = name.strip_prefix('p')?;
        let (whole, part) = digits.split_once('_').unwrap_or((digits, "0"));
        let fits = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !fits(whole, 2) || !fits(part, 3) {
            return None;
        }
        // One division of whole numbers, so that `p99_9` is the float nearest to 0.999.
        let digits: u32 = format!("{whole}{part}").parse().ok()?;
        let share = f64::from(digits) / f64::from(100 * 10u32.pow(part.len() as u32));
        (digits > 0).then_some(Self::Quantile(share))
    }

    /// Whether the result is a whole number that is always there.
    pub fn is_count(self) -> bool {
        matches!(self, Self::Count | Self::Nulls)
    }

    /// The result of a counting statistic; 0 for the others.
    pub fn whole(self, summary: &Summary<'_>) -> u64 {
        match self {
            Self::Count => summary.count,
            Self::Nulls => summary.rows - summary.count,
            _ => 0,
        }
    }

    /// The result, or nothing where there is none: no values, too few for this statistic, a constant signal
    /// where its spread would divide, or a result beyond the range of an `f64`.
    pub fn value(self, summary: &Summary<'_>) -> Option<f64> {
        if summary.count == 0 {
            return None;
        }
        let count = summary.count as f64;
        let [second, third, fourth] = summary.powers;
        let at_least = |least: u64, value: f64| (summary.count >= least).then_some(value);
        let rms = (summary.mean * summary.mean + second / count).sqrt();
        let value = match self {
            Self::Count | Self::Nulls => self.whole(summary) as f64,
            Self::Sum => summary.sum,
            Self::Mean => summary.mean,
            Self::Min => summary.min,
            Self::Max => summary.max,
            Self::Range => summary.max - summary.min,
            Self::First => summary.first,
            Self::Last => summary.last,
            Self::Var => at_least(2, second / (count - 1.0))?,
            Self::Std => at_least(2, (second / (count - 1.0)).sqrt())?,
            Self::Skew => at_least(3, count.sqrt() * third / (second * second.sqrt()))?,
            Self::Kurtosis => at_least(4, count * fourth / (second * second))?,
            Self::Rms => rms,
            Self::CrestFactor => summary.max.abs().max(summary.min.abs()) / rms,
            Self::Slope => summary.slope?,
            Self::Quantile(share) => summary.sketch?.quantile(share)?.max(summary.min).min(summary.max),
        };
        value.is_finite().then_some(value)
    }
}

/// What has to be accumulated for the statistics of one column, and nothing more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Up to which power moments are kept: 0 only counts, 1 the mean, 2 to 4 the central moments.
    pub order: u8,
    pub sum: bool,
    pub extremes: bool,
    pub ends: bool,
    pub slope: bool,
    pub sketch: bool,
}

impl Plan {
    /// The least that serves all these statistics.
    pub fn of(stats: impl IntoIterator<Item = Stat>) -> Self {
        let mut plan = Self::default();
        for stat in stats {
            let order = match stat {
                Stat::Mean => 1,
                Stat::Std | Stat::Var | Stat::Rms | Stat::CrestFactor => 2,
                Stat::Skew => 3,
                Stat::Kurtosis => 4,
                _ => 0,
            };
            plan.order = plan.order.max(order);
            plan.sum |= stat == Stat::Sum;
            plan.ends |= matches!(stat, Stat::First | Stat::Last);
            plan.slope |= stat == Stat::Slope;
            plan.sketch |= matches!(stat, Stat::Quantile(_));
            // A quantile is held between the true extremes.
            plan.extremes |=
                matches!(stat, Stat::Min | Stat::Max | Stat::Range | Stat::CrestFactor | Stat::Quantile(_));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let table = [
            ("mean", Some(Stat::Mean)),
            ("crest_factor", Some(Stat::CrestFactor)),
            ("median", Some(Stat::Quantile(0.5))),
            ("p5", Some(Stat::Quantile(0.05))),
            ("p99", Some(Stat::Quantile(0.99))),
            ("p99_9", Some(Stat::Quantile(0.999))),
            ("p0_125", Some(Stat::Quantile(0.00125))),
            ("p0", None),
            ("p00_000", None),
            ("p100", None),
            ("p", None),
            ("p_5", None),
            ("p9_", None),
            ("p9.5", None),
            ("p-5", None),
            ("p99_9999", None),
            ("Mean", None),
            ("", None),
        ];
        for (name, expected) in table {
            assert_eq!(Stat::parse(name), expected, "{name}");
        }
        assert!(names().all(|name| Stat::parse(name).is_some()));
    }

    #[test]
    fn a_plan_keeps_only_what_is_needed() {
        let nothing = Plan::default();
        assert_eq!(Plan::of([Stat::Count, Stat::Nulls]), nothing);
        assert_eq!(Plan::of([Stat::Mean]), Plan { order: 1, ..nothing });
        assert_eq!(
            Plan::of([Stat::Mean, Stat::Min, Stat::Max, Stat::Std]),
            Plan { order: 2, extremes: true, ..nothing }
        );
        assert_eq!(Plan::of([Stat::Quantile(0.5)]), Plan { extremes: true, sketch: true, ..nothing });
        assert_eq!(Plan::of([Stat::Kurtosis, Stat::Last]), Plan { order: 4, ends: true, ..nothing });
    }

    #[test]
    fn what_cannot_be_said_is_not_said() {
        let one = Summary { rows: 3, count: 1, mean: 2.0, min: 2.0, max: 2.0, ..Summary::default() };
        let table = [
            (Stat::Mean, Some(2.0)),
            (Stat::Nulls, Some(2.0)),
            (Stat::Std, None),
            (Stat::Skew, None),
            (Stat::Slope, None),
            (Stat::Rms, Some(2.0)),
            (Stat::CrestFactor, Some(1.0)),
            (Stat::Quantile(0.5), None),
        ];
        for (stat, expected) in table {
            assert_eq!(stat.value(&one), expected, "{stat:?}");
        }
        // A constant signal has no shape, and silence no crest.
        let constant = Summary { rows: 9, count: 9, ..Summary::default() };
        for stat in [Stat::Skew, Stat::Kurtosis, Stat::CrestFactor] {
            assert_eq!(stat.value(&constant), None, "{stat:?}");
        }
        assert_eq!(Stat::Std.value(&constant), Some(0.0));
        let huge = Summary { count: 2, min: -f64::MAX, max: f64::MAX, ..Summary::default() };
        assert_eq!(Stat::Range.value(&huge), None);
        for (name, stat) in NAMES {
            let none = stat.value(&Summary { rows: 4, ..Summary::default() });
            assert_eq!(none, None, "{name} of no values");
        }
    }
}
