//! The adaptive coder of residuals: a class for the magnitude, the first bits after the leading one, and the rest
//! as it is. Pure.
//!
//! There is no table to send: both ends begin with the same guess, a bell around a stated class, and learn. That is
//! what makes columns of 50 values small. The class before tells how wild the series is just now.
//!
//! ## Format
//!
//! Two bytes of parameters; a varint, the length of the range coder's bytes; those bytes; the bit stream, to the end.
//!
//! | byte | bits | parameter |
//! |---:|---|---|
//! | 0 | 0–5 | `floor`: residuals of at most so many bits are of class 0 |
//! | 0 | 6–7 | `context`: 0 none, 1 the class before, 2 the mean of the two classes before, rounded up |
//! | 1 | 0–3 | `centre`: the class that is most likely at first |
//! | 1 | 4–5 | `modelled - 1`: how many bits after the leading one are coded with models |
//! | 1 | 6–7 | `rate - 5`: how slowly models learn in the end |
//!
//! For each residual `z` (zigzag) of `k` significant bits: the class is 0 if `k <= floor`, else `min(k - floor, 15)`. The
//! class is coded with the model of its context. Class 15 is followed in the bit stream by 6 bits, `k - floor - 15`.
//! In class 0 the lowest `floor` bits of `z` follow in the bit stream. In other classes `z` has `k - 1` bits after its
//! leading one; the first `t = min(k - 1, modelled)` of them, if any, are one symbol for the model of that class, and
//! the others follow in the bit stream.

use serde::{Deserialize, Serialize};

use super::super::wire::Reader;
use super::bits::{BitReader, BitWriter};
use super::range::{Model, RangeDecoder, RangeEncoder};
use crate::error::{Error, Result};

const CLASSES: usize = 16;
const ESCAPE: usize = CLASSES - 1;
const ESCAPE_BITS: u32 = 6;

/// How likely classes are around the centre: what the differences of many kinds of series have in common.
const BELL: [u32; 31] = [
    1, 1, 1, 1, 2, 2, 3, 4, 6, 9, 14, 25, 50, 100, 180, 240, 180, 70, 20, 8, 4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1,
];

/// What stands in the first two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub(super) floor: u8,
    pub(super) context: u8,
    pub(super) centre: u8,
    pub(super) modelled: u8,
    pub(super) rate: u8,
}

/// Significant bits of a residual.
#[inline]
pub(super) fn bit_length(value: u64) -> u32 {
    u64::BITS - value.leading_zeros()
}

impl Shape {
    /// Sets `floor` and `centre` to what a histogram of bit lengths asks for.
    pub(super) fn fitted(self, lengths: &[u32; 65]) -> Self {
        let total: u32 = lengths.iter().sum();
        let mut below = 0;
        let mut floor = 0;
        // Classes above the floor must reach what is common at the top; what is rare at the bottom pays with its bits.
        for (bits, &count) in lengths.iter().enumerate() {
            below += count;
            if below > total / 64 {
                break;
            }
            floor = bits;
        }
        let common = |share: u32| {
            let mut above = 0;
            let reaches = |(_, count): &(usize, &u32)| {
                above += **count;
                above > total / share
            };
            lengths.iter().enumerate().rev().find(reaches).map_or(0, |(bits, _)| bits)
        };
        let floor = floor.min(common(64).saturating_sub(6)).min(63);
        let half = common(2);
        Self { floor: floor as u8, centre: half.saturating_sub(floor).min(15) as u8, ..self }
    }

    fn bytes(self) -> [u8; 2] {
        [self.floor | self.context << 6, self.centre | (self.modelled - 1) << 4 | (self.rate - 5) << 6]
    }

    fn from_bytes(low: u8, high: u8) -> Result<Self> {
        let shape = Self {
            floor: low & 63,
            context: low >> 6,
            centre: high & 15,
            modelled: (high >> 4 & 3) + 1,
            rate: (high >> 6) + 5,
        };
        if shape.context > 2 {
            return Err(Error::data(format!("{} is no context of the adaptive coder", shape.context)));
        }
        Ok(shape)
    }
}

/// The models of one series.
struct Models {
    classes: [Model; CLASSES],
    heads: [Model; CLASSES],
    before: [u8; 2],
    context: u8,
}

impl Models {
    fn new(shape: &Shape) -> Self {
        let bell = |centre: usize| {
            let mut weights = [0; CLASSES];
            for (class, weight) in weights.iter_mut().enumerate() {
                *weight = BELL.get(15 + class - centre).copied().unwrap_or(1);
            }
            Model::new(&weights, shape.rate)
        };
        let centre = usize::from(shape.centre);
        let classes = std::array::from_fn(|context| match shape.context {
            0 => bell(centre),
            _ => bell((centre + context).div_ceil(2)),
        });
        let floor = u32::from(shape.floor);
        let heads = std::array::from_fn(|class| {
            let after = (class as u32 + floor).saturating_sub(1).min(u32::from(shape.modelled));
            let mut weights = [0; CLASSES];
            weights[..1 << after].fill(1);
            Model::new(&weights, shape.rate)
        });
        Self { classes, heads, before: [shape.centre; 2], context: shape.context }
    }

    /// The model for the next class.
    #[inline]
    fn class(&mut self) -> &mut Model {
        let [last, other] = self.before;
        let context = match self.context {
            0 => 0,
            1 => last,
            _ => (last + other).div_ceil(2),
        };
        &mut self.classes[usize::from(context) % CLASSES]
    }

    #[inline]
    fn passed(&mut self, class: usize) {
        self.before = [class as u8, self.before[0]];
    }
}

/// Appends residuals (zigzag); `scratch` is for its own use.
pub(super) fn encode(residuals: &[u64], shape: Shape, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    out.extend_from_slice(&shape.bytes());
    let mut models = Models::new(&shape);
    let floor = u32::from(shape.floor);
    let modelled = u32::from(shape.modelled);
    scratch.clear();
    let coded_from = out.len();
    // The range coder's bytes go to their place; their length is put before them in the end.
    let mut coder = RangeEncoder::new(out);
    let mut bits = BitWriter::new(scratch);
    for &residual in residuals {
        let length = bit_length(residual);
        let class = (length.saturating_sub(floor) as usize).min(ESCAPE);
        models.class().encode(class, &mut coder);
        models.passed(class);
        if class == 0 {
            bits.put(residual, floor);
            continue;
        }
        if class == ESCAPE {
            bits.put(u64::from(length - floor - ESCAPE as u32), ESCAPE_BITS);
        }
        let after = length - 1;
        let head = after.min(modelled);
        let tail = after - head;
        if head > 0 {
            let symbol = (residual >> tail) as usize & ((1 << head) - 1);
            models.heads[class].encode(symbol, &mut coder);
        }
        bits.put(residual & ((1 << tail) - 1), tail);
    }
    bits.finish();
    coder.finish();
    let coded = out.len() - coded_from;
    let mut length = [0u8; 10];
    let mut used = 0;
    let mut rest = coded as u64;
    loop {
        length[used] = (rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 };
        used += 1;
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    out.splice(coded_from..coded_from, length[..used].iter().copied());
    out.extend_from_slice(scratch);
}

/// Reads residuals from foreign bytes, all that are left.
pub(super) fn decode(reader: &mut Reader<'_>, residuals: &mut [u64]) -> Result<()> {
    let shape = Shape::from_bytes(reader.u8()?, reader.u8()?)?;
    let coded = reader.bytes()?;
    let mut coder = RangeDecoder::new(coded);
    let mut bits = BitReader::new(reader.take(reader.remaining())?);
    let mut models = Models::new(&shape);
    let floor = u32::from(shape.floor);
    let modelled = u32::from(shape.modelled);
    for residual in residuals {
        let class = models.class().decode(&mut coder);
        models.passed(class);
        if class == 0 {
            *residual = bits.take(floor);
            continue;
        }
        let mut length = floor + class as u32;
        if class == ESCAPE {
            length += bits.take(ESCAPE_BITS) as u32;
        }
        if length > u64::BITS {
            return Err(Error::data(format!("the adaptive coder: a residual of {length} bits")));
        }
        let after = length - 1;
        let head = after.min(modelled);
        let tail = after - head;
        let symbol = if head > 0 { models.heads[class].decode(&mut coder) as u64 } else { 0 };
        *residual = ((1 << head | symbol & ((1 << head) - 1)) << tail) | bits.take(tail);
    }
    if coder.remaining() > 0 {
        return Err(Error::data(format!("the adaptive coder: {} bytes too many", coder.remaining())));
    }
    bits.finish()
}
