//! Bit streams, lowest bit first: what is left of a number when its high bits are coded elsewhere. Pure.

use crate::error::{Error, Result};

/// The largest word whose bits are put or taken at once.
const PIECE_BITS: u32 = 32;

/// Appends bits to bytes.
pub(super) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    word: u64,
    /// How many bits of `word` wait; fewer than 32 between calls.
    filled: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, word: 0, filled: 0 }
    }

    /// Appends the lowest `bits` of `value`, whose higher ones are zero; at most 64.
    #[inline]
    pub(super) fn put(&mut self, value: u64, bits: u32) {
        if bits > PIECE_BITS {
            self.piece(value & u64::from(u32::MAX), PIECE_BITS);
            self.piece(value >> PIECE_BITS, bits - PIECE_BITS);
        } else {
            self.piece(value, bits);
        }
    }

    #[inline]
    fn piece(&mut self, value: u64, bits: u32) {
        self.word |= value << self.filled;
        self.filled += bits;
        if self.filled >= PIECE_BITS {
            self.out.extend_from_slice(&(self.word as u32).to_le_bytes());
            self.word >>= PIECE_BITS;
            self.filled -= PIECE_BITS;
        }
    }

    /// Appends what waits; the last byte is filled with zero bits.
    pub(super) fn finish(self) {
        let bytes = self.word.to_le_bytes();
        self.out.extend_from_slice(&bytes[..self.filled.div_ceil(8) as usize]);
    }
}

/// Takes bits from foreign bytes. Behind their end are zeros; [`BitReader::finish`] finds out whether any were taken.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Next bit.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `bits` bits, at most 64.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> u64 {
        if bits > PIECE_BITS {
            let low = self.piece(PIECE_BITS);
            return low | self.piece(bits - PIECE_BITS) << PIECE_BITS;
        }
        self.piece(bits)
    }

    #[inline]
    fn piece(&mut self, bits: u32) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = match rest.first_chunk::<8>() {
            Some(word) => u64::from_le_bytes(*word),
            None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        };
        let value = (word >> (self.at % 8)) & ((1 << bits) - 1);
        self.at += bits as usize;
        value
    }

    /// Checks that the stream ends where its last bit was taken.
    pub(super) fn finish(self) -> Result<()> {
        if self.at.div_ceil(8) != self.bytes.len() {
            return Err(Error::data(format!(
                "{} bytes of bits where {} belong",
                self.bytes.len(),
                self.at.div_ceil(8)
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back_and_end_where_they_ended() {
        let values: Vec<(u64, u32)> =
            (0..500u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15), (at % 65) as u32)).collect();
        let kept = |value: u64, bits: u32| if bits == 64 { value } else { value & ((1 << bits) - 1) };
        let mut bytes = vec![9];
        let mut writer = BitWriter::new(&mut bytes);
        values.iter().for_each(|&(value, bits)| writer.put(kept(value, bits), bits));
        writer.finish();
        let mut reader = BitReader::new(&bytes[1..]);
        for &(value, bits) in &values {
            assert_eq!(reader.take(bits), kept(value, bits));
        }
        reader.finish().unwrap();
        let mut short = BitReader::new(&bytes[1..bytes.len() - 1]);
        values.iter().for_each(|&(_, bits)| _ = short.take(bits));
        assert!(short.finish().is_err());
        assert!(BitReader::new(&[0]).finish().is_err(), "a byte too many");
    }
}
