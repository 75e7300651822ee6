//! The tail of the normal distribution, as far out as there are numbers. Pure.

use std::f64::consts::{LN_10, TAU};

/// Below this a series converges fast, above it a continued fraction.
const SERIES_BELOW: f64 = 3.0;
/// Terms that are enough for full precision on either side.
const TERMS: u32 = 80;

/// How probable a value this many deviations above the mean, or farther, is.
///
/// Sources: for small z the series z + z³/3 + z⁵/15 + … of (Φ(z) − ½)/φ(z), for large z Laplace's continued fraction of
/// Mills' ratio (Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.2.11 and 26.2.14).
pub fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    let density = (-z * z / 2.0).exp() / TAU.sqrt();
    if z < SERIES_BELOW { 0.5 - density * series(z) } else { density / continued_fraction(z) }
}

/// How rare a value this many deviations above the mean, or farther, is, in powers of ten: 3 means one in a thousand.
/// Unlike the probability it stays a number however far out z is.
pub fn upper_tail_decades(z: f64) -> f64 {
    if z < SERIES_BELOW {
        return -upper_tail(z).log10();
    }
    let z = z.min(1e100);
    (z * z / 2.0 + 0.5 * TAU.ln() + continued_fraction(z).ln()) / LN_10
}

fn series(z: f64) -> f64 {
    let (mut term, mut sum) = (z, z);
    for index in 1..=TERMS {
        term *= z * z / f64::from(2 * index + 1);
        sum += term;
    }
    sum
}

/// z + 1/(z + 2/(z + 3/(z + …))): one over Mills' ratio.
fn continued_fraction(z: f64) -> f64 {
    (1..=TERMS).rev().fold(z, |below, index| z + f64::from(index) / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_tables() {
        // Abramowitz and Stegun, table 26.1 and 26.2.
        for (z, tail) in [
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457),
            (2.0, 0.022_750_131_948_179),
            (2.999_999_9, 0.001_349_898_474_8),
            (3.0, 0.001_349_898_031_630),
            (5.0, 2.866_515_718_791_9e-7),
            (-1.0, 0.841_344_746_068_543),
        ] {
            assert!((upper_tail(z) / tail - 1.0).abs() < 1e-9, "{z}: {}", upper_tail(z));
        }
        for (z, decades) in [(0.0, std::f64::consts::LOG10_2), (10.0, 23.118_05), (50.0, 544.966_34)] {
            assert!((upper_tail_decades(z) - decades).abs() < 1e-5, "{z}: {}", upper_tail_decades(z));
        }
        assert!(upper_tail_decades(f64::MAX).is_finite());
    }
}
