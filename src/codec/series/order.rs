//! From integers to residuals: a line is taken away, then the value before, the line through the two before, or a
//! linear prediction from up to eight before. Pure. All arithmetic is modulo 2^64.
//!
//! `x[i] = (v[i] - base - slope * i) / step`, and the residual `r[i]` is `x[i]` less its prediction:
//!
//! | order | prediction of `x[i]` |
//! |---:|---|
//! | 0 | 0 |
//! | 1 | `x[i-1]` |
//! | 2 | `2 x[i-1] - x[i-2]` |
//! | 3 | for `i` less than the number `p` of coefficients `x[i-1]`, else `(c[1] x[i-1] + … + c[p] x[i-p]) >> shift` |
//!
//! with `x[-1] = x[-2] = 0`; the shift keeps the sign. What is coded is `z = (r << 1) ^ (r >> 63)`.
//! Linear prediction with coefficients in the frame is that of lossless audio (T. Robinson, "Shorten", 1994); the
//! coefficients are those of least squares (covariance method).

use serde::{Deserialize, Serialize};

/// The most coefficients.
pub(super) const COEFFICIENTS_MAX: usize = 8;
const LAGS: usize = COEFFICIENTS_MAX + 1;

/// A linear prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Linear {
    pub(super) count: usize,
    pub(super) shift: u32,
    /// The first weighs the value before.
    pub(super) coefficients: [i64; COEFFICIENTS_MAX],
}

/// How a value is predicted from those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    None,
    Delta,
    Second,
    Linear(Linear),
}

/// The line that is taken away, and the number that divides what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) base: i64,
    pub(super) slope: i64,
    pub(super) step: u64,
}

#[inline]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

impl Line {
    /// Takes the line away in place. With a step, says whether it divides everything.
    pub(super) fn remove(&self, values: &mut [i64]) -> bool {
        let base = self.base;
        if self.slope == 0 {
            values.iter_mut().for_each(|value| *value = value.wrapping_sub(base));
        } else {
            let mut line = base;
            for value in values.iter_mut() {
                *value = value.wrapping_sub(line);
                line = line.wrapping_add(self.slope);
            }
        }
        if self.step <= 1 {
            return true;
        }
        let Ok(step) = i64::try_from(self.step) else { return false };
        let mut rest = 0;
        for value in values {
            rest |= *value % step;
            *value /= step;
        }
        rest == 0
    }

    /// Undoes [`Line::remove`].
    pub(super) fn restore(&self, values: &mut [u64]) {
        let mut line = self.base as u64;
        for value in values {
            *value = value.wrapping_mul(self.step).wrapping_add(line);
            line = line.wrapping_add(self.slope as u64);
        }
    }
}

impl Linear {
    #[inline]
    fn predict(&self, past: &[i64; COEFFICIENTS_MAX]) -> i64 {
        let mut sum = 0i64;
        for (&value, &coefficient) in past.iter().zip(&self.coefficients) {
            sum = sum.wrapping_add(value.wrapping_mul(coefficient));
        }
        sum >> self.shift
    }

    fn residuals(&self, values: &[i64], out: &mut Vec<u64>) {
        let first = self.count.min(values.len());
        let mut before = 0i64;
        out.extend(values[..first].iter().map(|&value| {
            let delta = value.wrapping_sub(before);
            before = value;
            zigzag(delta)
        }));
        let count = self.count.max(1);
        for window in values.windows(count + 1) {
            let Some((&value, past)) = window.split_last() else { continue };
            let mut sum = 0i64;
            for (&value, &coefficient) in past.iter().rev().zip(&self.coefficients) {
                sum = sum.wrapping_add(value.wrapping_mul(coefficient));
            }
            out.push(zigzag(value.wrapping_sub(sum >> self.shift)));
        }
    }

    fn restore(&self, values: &mut [u64]) {
        let mut past = [0i64; COEFFICIENTS_MAX];
        for (at, value) in values.iter_mut().enumerate() {
            let prediction = if at < self.count { past[0] } else { self.predict(&past) };
            let here = prediction.wrapping_add(unzigzag(*value));
            past.copy_within(..COEFFICIENTS_MAX - 1, 1);
            past[0] = here;
            *value = here as u64;
        }
    }

    /// About how many bytes the coefficients take in a frame.
    pub(super) fn head_bytes(&self) -> usize {
        let bits = |value: i64| u64::BITS - zigzag(value).leading_zeros();
        1 + self.coefficients[..self.count]
            .iter()
            .map(|&value| bits(value).max(1).div_ceil(7) as usize)
            .sum::<usize>()
    }

    /// Predictions from 2, 4 and 8 values, coarse and fine, that make the squares of the residuals least; says how many.
    pub(super) fn fitted(values: &[i64], out: &mut [Self; 6]) -> usize {
        let mut products = [[0f64; LAGS]; LAGS];
        for window in values.windows(LAGS) {
            let mut lags = [0f64; LAGS];
            lags.iter_mut().zip(window.iter().rev()).for_each(|(lag, &value)| *lag = value as f64);
            for (row, sums) in products.iter_mut().enumerate() {
                sums.iter_mut().zip(&lags).for_each(|(sum, lag)| *sum += lags[row] * lag);
            }
        }
        let ridge = products[0][0] * 1e-9 + 1e-3;
        let mut found = 0;
        for count in [2, 4, COEFFICIENTS_MAX] {
            let Some(solution) = solve(&products, count, ridge) else { continue };
            for bits in [7, 12] {
                if let (Some(linear), Some(slot)) =
                    (Self::rounded(&solution, count, bits), out.get_mut(found))
                {
                    *slot = linear;
                    found += 1;
                }
            }
        }
        found
    }

    /// Coefficients of at most `bits` bits.
    fn rounded(solution: &[f64; COEFFICIENTS_MAX], count: usize, bits: i32) -> Option<Self> {
        let largest = solution.iter().fold(0f64, |largest, value| largest.max(value.abs()));
        if !largest.is_finite() || largest == 0.0 {
            return None;
        }
        let whole_bits = largest.log2().floor() as i32 + 1;
        let shift = (bits - 1 - whole_bits).clamp(0, 20) as u32;
        let mut linear = Self { count, shift, ..Self::default() };
        for (coefficient, &value) in linear.coefficients[..count].iter_mut().zip(solution) {
            *coefficient = (value * f64::from(1u32 << shift)).round() as i64;
        }
        Some(linear)
    }
}

/// Solves the normal equations by Cholesky's method. `products[j][k]`, `j <= k`, is the sum of lag `j` times lag `k`.
fn solve(products: &[[f64; LAGS]; LAGS], count: usize, ridge: f64) -> Option<[f64; COEFFICIENTS_MAX]> {
    let mut lower = [[0f64; COEFFICIENTS_MAX]; COEFFICIENTS_MAX];
    for row in 0..count {
        for column in 0..=row {
            let mut sum = products[column + 1][row + 1];
            if row == column {
                sum += ridge;
            }
            let (left, above) = (&lower[row][..column], &lower[column][..column]);
            sum -= left.iter().zip(above).map(|(left, above)| left * above).sum::<f64>();
            if row == column {
                if sum.is_nan() || sum <= 0.0 {
                    return None;
                }
                lower[row][row] = sum.sqrt();
            } else {
                lower[row][column] = sum / lower[column][column];
            }
        }
    }
    let mut solution = [0f64; COEFFICIENTS_MAX];
    for row in 0..count {
        let known: f64 = (0..row).map(|at| lower[row][at] * solution[at]).sum();
        solution[row] = (products[0][row + 1] - known) / lower[row][row];
    }
    for row in (0..count).rev() {
        let known: f64 = (row + 1..count).map(|at| lower[at][row] * solution[at]).sum();
        solution[row] = (solution[row] - known) / lower[row][row];
    }
    Some(solution)
}

impl Order {
    /// Puts the residuals of `values` into `out`, whose former content is lost.
    pub(super) fn residuals(&self, values: &[i64], out: &mut Vec<u64>) {
        out.clear();
        match self {
            Self::None => out.extend(values.iter().map(|&value| zigzag(value))),
            Self::Delta => {
                out.extend(values.first().map(|&value| zigzag(value)));
                out.extend(values.windows(2).map(|pair| zigzag(pair[1].wrapping_sub(pair[0]))));
            }
            Self::Second => {
                out.extend(values.first().map(|&value| zigzag(value)));
                out.extend(values.get(1).map(|&value| zigzag(value.wrapping_sub(values[0].wrapping_mul(2)))));
                out.extend(values.windows(3).map(|three| {
                    let line = three[1].wrapping_mul(2).wrapping_sub(three[0]);
                    zigzag(three[2].wrapping_sub(line))
                }));
            }
            Self::Linear(linear) => linear.residuals(values, out),
        }
    }

    /// Undoes [`Order::residuals`] in place.
    pub(super) fn restore(&self, values: &mut [u64]) {
        match self {
            Self::None => values.iter_mut().for_each(|value| *value = unzigzag(*value) as u64),
            Self::Delta => {
                let mut before = 0i64;
                for value in values {
                    before = before.wrapping_add(unzigzag(*value));
                    *value = before as u64;
                }
            }
            Self::Second => {
                let (mut before, mut earlier) = (0i64, 0i64);
                for value in values {
                    let line = before.wrapping_mul(2).wrapping_sub(earlier);
                    earlier = before;
                    before = line.wrapping_add(unzigzag(*value));
                    *value = before as u64;
                }
            }
            Self::Linear(linear) => linear.restore(values),
        }
    }
}
