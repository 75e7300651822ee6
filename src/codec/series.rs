//! Series: columns of numbers as few bytes, bit for bit. Pure.
//!
//! A series is `n` words of 2, 4 or 8 bytes: integers, or the bits of floats. It is cut into blocks of at most 65,536
//! words; before every block but the last stands a varint, its length in bytes. A block:
//!
//! | | |
//! |---|---|
//! | byte | bits 0–1 the order, bit 2 a slope follows, bit 3 a step follows, bits 4–6 the mapping, bit 7 narrowed |
//! | byte | bits 0–6 the coder, bit 7 ranked |
//! | byte | with the mappings 2 and 3: the exponent, 0 to 22 |
//! | varints | the base (zigzag); the slope (zigzag) and the step where they are announced |
//! | byte, varints | with order 3: `count - 1` in bits 0–2, the shift above; `count` coefficients (zigzag) |
//! | | with mapping 3: a varint length and a block of integers, the corrections |
//! | | if ranked: a varint, the number of distinct values; a varint length and a block of integers, those values |
//! | | the coder's bytes, to the end of the block |
//!
//! *Mappings*: 0 the words are the integers (sign-extended if the type is signed); 1 ordered bits; 2 decimals; 3 decimals
//! with corrections, see [`decimal`]. *Narrowed*: the words are those of `f64`, and each has the value of an `f32`, whose
//! bits are mapped. *Ranked*: the integers are places, counted from 0, in the list of distinct values. *Orders*, base,
//! slope and step: see [`order`].
//!
//! *Coders* of the `n` residuals:
//!
//! | id | coder | bytes |
//! |---:|---|---|
//! | 0 | zeros | none: every residual is 0 |
//! | 1 | packed | a byte `b`; a bit stream of `n` residuals of `b` bits |
//! | 2 | adaptive | see [`adaptive`] |
//! | 3 | tokens | see [`tokens`] |
//! | 4 | planes | a byte `w`; a block of [`super::stage`] that holds first all lowest bytes, then all second ones, … of `w` bytes each |
//! | 5 | words | a byte `w`; such a block that holds the residuals as words of `w` bytes |
//!
//! A *bit stream* is filled from the lowest bit of its first byte upwards, the lowest bit of a number first; unused bits
//! of the last byte are zero.

mod adaptive;
mod bits;
mod choose;
mod decimal;
mod order;
mod plan;
pub(crate) mod range;
mod reader;
mod tokens;
mod writer;

use serde::{Deserialize, Serialize};

use crate::error::Error;

pub(crate) use self::reader::SeriesReader;
pub(crate) use self::writer::SeriesWriter;

/// No block is longer, so that what a reader needs on the way is small.
pub(crate) const BLOCK_WORDS: usize = 1 << 16;

/// What the words of a series are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Meaning {
    /// Signed numbers, times.
    Signed,
    /// Unsigned numbers, keys, lengths.
    Unsigned,
    /// IEEE 754 numbers.
    Floats,
}

/// Why a series could not be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It uses something that this version does not know.
    Unknown(String),
    /// Its bytes contradict themselves.
    Damaged(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Damaged(error)
    }
}

fn unknown(what: String) -> Fault {
    Fault::Unknown(format!("{what} is not known to this version"))
}

#[cfg(test)]
mod tests;
