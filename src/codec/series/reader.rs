//! The reader of series, over foreign bytes. Pure. The format is described in [`super`].

use super::super::stage::{Block, BlockReader};
use super::super::wire::Reader;
use super::bits::BitReader;
use super::decimal::{Float, undo_narrow, undo_order, undo_scale};
use super::plan::{Coder, Head, Mapping};
use super::tokens::Tokens;
use super::{BLOCK_WORDS, Fault, Meaning, adaptive, unknown};
use crate::error::{Error, Result};

/// Reads series; its buffers hold one block of [`BLOCK_WORDS`] words each.
#[derive(Default)]
pub(crate) struct SeriesReader {
    tokens: Tokens,
    values: Vec<u64>,
    missing: Vec<u64>,
    distinct: Vec<u64>,
}

impl SeriesReader {
    /// Fills `out`, which holds words of `width` bytes, from all that is left in `reader`.
    pub(crate) fn read(
        &mut self,
        meaning: Meaning,
        width: usize,
        reader: &mut Reader<'_>,
        blocks: &mut BlockReader,
        out: &mut [u8],
    ) -> Result<(), Fault> {
        let block_bytes = BLOCK_WORDS * width;
        let mut rest = out;
        while !rest.is_empty() {
            let last = rest.len() <= block_bytes;
            let (part, after) = rest.split_at_mut(rest.len().min(block_bytes));
            rest = after;
            let bytes = if last { reader.take(reader.remaining())? } else { reader.bytes()? };
            let mut block = Reader::new(bytes);
            self.values.clear();
            self.values.resize(part.len() / width, 0);
            self.block(meaning, width, &mut block, blocks)?;
            if block.remaining() > 0 {
                return Err(Error::data(format!("{} bytes behind a series", block.remaining())).into());
            }
            store(width, &self.values, part);
        }
        Ok(())
    }

    /// Reads one block into `values`, which has its length.
    fn block(
        &mut self,
        meaning: Meaning,
        width: usize,
        reader: &mut Reader<'_>,
        blocks: &mut BlockReader,
    ) -> Result<(), Fault> {
        let head = Head::take(reader)?;
        let has_missing = matches!(head.mapping, Mapping::Decimal { missing: true, .. });
        if has_missing {
            let mut nested = Reader::new(reader.bytes()?);
            self.missing.clear();
            self.missing.resize(self.values.len(), 0);
            integers(&mut nested, &mut self.tokens, blocks, &mut self.missing)?;
        }
        if head.ranked {
            let count = reader.length(self.values.len(), "the number of distinct values")?;
            let mut nested = Reader::new(reader.bytes()?);
            self.distinct.clear();
            self.distinct.resize(count, 0);
            integers(&mut nested, &mut self.tokens, blocks, &mut self.distinct)?;
        }
        residuals(&head, reader, &mut self.tokens, blocks, &mut self.values)?;
        head.order.restore(&mut self.values);
        head.line.restore(&mut self.values);
        if head.ranked {
            for value in &mut self.values {
                let place = usize::try_from(*value).ok().and_then(|place| self.distinct.get(place));
                *value =
                    *place.ok_or_else(|| Error::data(format!("{value} is beyond the distinct values")))?;
            }
        }
        let float = match (meaning, width, head.narrowed) {
            (Meaning::Floats, 2, false) => Float::Half,
            (Meaning::Floats, 4, false) | (Meaning::Floats, 8, true) => Float::Single,
            (Meaning::Floats, 8, false) => Float::Double,
            _ if head.mapping == Mapping::Integers && !head.narrowed => return Ok(()),
            _ => return Err(Error::data("integers that are said to be floats").into()),
        };
        match head.mapping {
            Mapping::Integers => {}
            Mapping::Ordered => undo_order(float, &mut self.values),
            Mapping::Decimal { .. } if float == Float::Half => {
                return Err(Error::data("floats of two bytes that are said to be decimals").into());
            }
            Mapping::Decimal { exponent, .. } => {
                let missing = has_missing.then_some(&self.missing[..]);
                undo_scale(float, exponent, &mut self.values, missing);
            }
        }
        if head.narrowed {
            undo_narrow(&mut self.values);
        }
        Ok(())
    }
}

/// A nested block, which holds integers and nothing else.
fn integers(
    reader: &mut Reader<'_>,
    tokens: &mut Tokens,
    blocks: &mut BlockReader,
    values: &mut [u64],
) -> Result<(), Fault> {
    let head = Head::take(reader)?;
    if head.mapping != Mapping::Integers || head.narrowed || head.ranked {
        return Err(unknown("a series within a series that is not of integers".to_owned()));
    }
    residuals(&head, reader, tokens, blocks, values)?;
    head.order.restore(values);
    head.line.restore(values);
    if reader.remaining() > 0 {
        return Err(Error::data(format!("{} bytes behind a series", reader.remaining())).into());
    }
    Ok(())
}

fn residuals(
    head: &Head,
    reader: &mut Reader<'_>,
    tokens: &mut Tokens,
    blocks: &mut BlockReader,
    values: &mut [u64],
) -> Result<(), Fault> {
    match head.coder {
        Coder::ZEROS => values.fill(0),
        Coder::PACKED => {
            let width = u32::from(reader.u8()?);
            if width > u64::BITS {
                return Err(Error::data(format!("packed numbers of {width} bits")).into());
            }
            let mut bits = BitReader::new(reader.take(reader.remaining())?);
            values.iter_mut().for_each(|value| *value = bits.take(width));
            bits.finish()?;
        }
        Coder::ADAPTIVE => adaptive::decode(reader, values)?,
        Coder::TOKENS => tokens.decode(reader, values)?,
        planes_or_words => {
            let width = usize::from(reader.u8()?);
            if width == 0 || width > 8 {
                return Err(Error::data(format!("words of {width} bytes")).into());
            }
            let block = Block::read(reader)?;
            if !blocks.knows(block.stage) {
                return Err(unknown(format!("its stage {}", block.stage)));
            }
            let raw = blocks.read(block, values.len() * width)?;
            if raw.len() != values.len() * width {
                let expected = values.len() * width;
                return Err(
                    Error::data(format!("{} bytes of words where {expected} belong", raw.len())).into()
                );
            }
            if planes_or_words == Coder::PLANES {
                join_planes(raw, values);
            } else {
                join_words(width, raw, values);
            }
        }
    }
    Ok(())
}

fn join_planes(raw: &[u8], values: &mut [u64]) {
    values.fill(0);
    for (at, plane) in raw.chunks_exact(values.len().max(1)).enumerate() {
        for (value, &byte) in values.iter_mut().zip(plane) {
            *value |= u64::from(byte) << (8 * at);
        }
    }
}

fn join_words(width: usize, raw: &[u8], values: &mut [u64]) {
    for (value, bytes) in values.iter_mut().zip(raw.chunks_exact(width)) {
        let mut word = [0; 8];
        word[..width].copy_from_slice(bytes);
        *value = u64::from_le_bytes(word);
    }
}

/// Puts the low bytes of values into words of 2, 4 or 8 bytes.
fn store(width: usize, values: &[u64], out: &mut [u8]) {
    match width {
        8 => out
            .chunks_exact_mut(8)
            .zip(values)
            .for_each(|(to, value)| to.copy_from_slice(&value.to_le_bytes())),
        4 => {
            let words = out.chunks_exact_mut(4).zip(values);
            words.for_each(|(to, &value)| to.copy_from_slice(&(value as u32).to_le_bytes()));
        }
        _ => {
            let words = out.chunks_exact_mut(2).zip(values);
            words.for_each(|(to, &value)| to.copy_from_slice(&(value as u16).to_le_bytes()));
        }
    }
}
