//! How a series is written: what is chosen once and kept for many batches. Pure.

use serde::{Deserialize, Serialize};

use super::super::wire::{Reader, put_varint};
use super::adaptive::{Shape, bit_length};
use super::decimal::POWERS;
use super::order::{COEFFICIENTS_MAX, Line, Linear, Order, unzigzag, zigzag};
use super::{Fault, unknown};
use crate::error::{Error, Result};

/// What integers stand for words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mapping {
    /// The words themselves.
    Integers,
    /// Floats by their ordered bits.
    Ordered,
    /// Floats as integers times `10^-exponent`; `missing` says whether corrections follow.
    Decimal { exponent: usize, missing: bool },
}

/// Which coder takes the residuals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Coder {
    /// All residuals are zero.
    Zeros,
    /// All with the same number of bits.
    Packed,
    Adaptive(Shape),
    Tokens,
    /// Bytes of equal significance together, behind a byte coder.
    Planes,
    /// Whole words, behind a byte coder.
    Words,
}

impl Coder {
    pub(super) const ZEROS: u8 = 0;
    pub(super) const PACKED: u8 = 1;
    pub(super) const ADAPTIVE: u8 = 2;
    pub(super) const TOKENS: u8 = 3;
    pub(super) const PLANES: u8 = 4;
    pub(super) const WORDS: u8 = 5;

    fn id(self) -> u8 {
        match self {
            Self::Zeros => Self::ZEROS,
            Self::Packed => Self::PACKED,
            Self::Adaptive(_) => Self::ADAPTIVE,
            Self::Tokens => Self::TOKENS,
            Self::Planes => Self::PLANES,
            Self::Words => Self::WORDS,
        }
    }
}

/// Which line is taken away before the prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Trend {
    /// The first value, so that the first difference is zero.
    First,
    /// The mean.
    Mean,
    /// The line through the first two values, which is that of regular times.
    FirstTwo,
    /// The line through the first and the last value.
    Ends,
}

/// All that is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Doubles that are singles.
    pub(super) narrowed: bool,
    pub(super) mapping: Mapping,
    pub(super) trend: Trend,
    pub(super) step: u64,
    pub(super) order: Order,
    pub(super) ranked: bool,
    pub(super) coder: Coder,
}

/// What stands before a block's residuals.
pub(super) struct Head {
    pub(super) narrowed: bool,
    pub(super) mapping: Mapping,
    pub(super) ranked: bool,
    pub(super) coder: u8,
    pub(super) line: Line,
    pub(super) order: Order,
}

const SLOPE: u8 = 4;
const STEP: u8 = 8;
const NARROWED: u8 = 0x80;
const RANKED: u8 = 0x80;

impl Trend {
    /// The line for these values.
    pub(super) fn line(self, values: &[i64], step: u64) -> Line {
        let first = values.first().copied().unwrap_or_default();
        let whole = |value: i64| match i64::try_from(step) {
            Ok(step) if step > 1 => value.wrapping_sub(value.wrapping_rem(step)),
            _ => value,
        };
        let (base, slope) = match self {
            Self::First => (first, 0),
            Self::Mean => {
                let sum: i128 = values.iter().map(|&value| i128::from(value)).sum();
                let mean = sum / values.len().max(1) as i128;
                (first.wrapping_add(whole((mean as i64).wrapping_sub(first))), 0)
            }
            Self::FirstTwo => (first, values.get(1).map_or(0, |second| whole(second.wrapping_sub(first)))),
            Self::Ends => {
                let rise = values.last().map_or(0, |last| last.wrapping_sub(first));
                (first, whole(rise / (values.len() as i64 - 1).max(1)))
            }
        };
        Line { base, slope, step }
    }
}

impl Plan {
    /// Whether its numbers are among those that are ever chosen: it may come out of saved state.
    pub(super) fn is_sound(&self) -> bool {
        let linear = |linear: &Linear| (1..=COEFFICIENTS_MAX).contains(&linear.count) && linear.shift < 32;
        let shape = |shape: &Shape| {
            shape.context <= 2 && (1..=4).contains(&shape.modelled) && (5..=8).contains(&shape.rate)
        };
        (match &self.order {
            Order::Linear(order) => linear(order),
            _ => true,
        }) && match &self.coder {
            Coder::Adaptive(coder) => shape(coder),
            _ => true,
        } && !matches!(self.mapping, Mapping::Decimal { exponent, .. } if exponent >= POWERS.len())
    }

    /// Appends the two bytes and the parameters of a block.
    pub(super) fn put_head(&self, line: &Line, out: &mut Vec<u8>) {
        let order = match self.order {
            Order::None => 0,
            Order::Delta => 1,
            Order::Second => 2,
            Order::Linear(_) => 3,
        };
        let mapping = match self.mapping {
            Mapping::Integers => 0,
            Mapping::Ordered => 1,
            Mapping::Decimal { missing: false, .. } => 2,
            Mapping::Decimal { missing: true, .. } => 3,
        };
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(line.slope != 0, SLOPE) | flag(line.step > 1, STEP) | flag(self.narrowed, NARROWED);
        out.push(order | flags | mapping << 4);
        out.push(self.coder.id() | flag(self.ranked, RANKED));
        if let Mapping::Decimal { exponent, .. } = self.mapping {
            out.push(exponent as u8);
        }
        put_varint(zigzag(line.base), out);
        if line.slope != 0 {
            put_varint(zigzag(line.slope), out);
        }
        if line.step > 1 {
            put_varint(line.step, out);
        }
        if let Order::Linear(linear) = self.order {
            out.push((linear.count - 1) as u8 | (linear.shift as u8) << 3);
            for &coefficient in &linear.coefficients[..linear.count] {
                put_varint(zigzag(coefficient), out);
            }
        }
    }
}

impl Head {
    /// Reads what [`Plan::put_head`] writes, from foreign bytes.
    pub(super) fn take(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let (first, second) = (reader.u8()?, reader.u8()?);
        let coder = second & !RANKED;
        if coder > Coder::WORDS {
            return Err(unknown(format!("its coder {coder}")));
        }
        let mapping = match first >> 4 & 7 {
            0 => Mapping::Integers,
            1 => Mapping::Ordered,
            number @ (2 | 3) => {
                let exponent = usize::from(reader.u8()?);
                if exponent >= POWERS.len() {
                    return Err(Error::data(format!("10^{exponent} is not among the powers of ten")).into());
                }
                Mapping::Decimal { exponent, missing: number == 3 }
            }
            other => return Err(unknown(format!("its mapping {other}"))),
        };
        let base = unzigzag(reader.varint()?);
        let slope = if first & SLOPE != 0 { unzigzag(reader.varint()?) } else { 0 };
        let step = if first & STEP != 0 { reader.varint()? } else { 1 };
        let order = match first & 3 {
            0 => Order::None,
            1 => Order::Delta,
            2 => Order::Second,
            _ => {
                let head = reader.u8()?;
                let mut linear = Linear {
                    count: usize::from(head & 7) + 1,
                    shift: u32::from(head >> 3),
                    coefficients: [0; COEFFICIENTS_MAX],
                };
                for coefficient in &mut linear.coefficients[..linear.count] {
                    *coefficient = unzigzag(reader.varint()?);
                }
                Order::Linear(linear)
            }
        };
        Ok(Self {
            narrowed: first & NARROWED != 0,
            mapping,
            ranked: second & RANKED != 0,
            coder,
            line: Line { base, slope, step },
            order,
        })
    }
}

/// How many residuals have how many significant bits.
pub(super) fn lengths(residuals: &[u64]) -> [u32; 65] {
    let mut counts = [0u32; 65];
    for &residual in residuals {
        counts[bit_length(residual) as usize] += 1;
    }
    counts
}

/// About how many bits residuals with these lengths take: the entropy of the lengths, and the bits after the first.
pub(super) fn estimated_bits(lengths: &[u32; 65]) -> f64 {
    let total: u32 = lengths.iter().sum();
    let whole = f64::from(total.max(1));
    lengths
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(bits, &count)| {
            let count = f64::from(count);
            count * ((whole / count).log2() + bits.saturating_sub(1) as f64)
        })
        .sum()
}
