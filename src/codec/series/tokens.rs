//! The hybrid Huffman coder of residuals: a token of one byte for the magnitude and the first bits, Huffman codes for the
//! tokens, and the other bits as they are. Pure.
//!
//! ## Format
//!
//! A varint, the length of the Huffman bytes (see [`super::super::huffman`]; as many tokens as residuals); those bytes;
//! the bit stream, to the end.
//!
//! A residual `z` below 16 is the token `z`. One of `k >= 5` significant bits is the token `16 + 4 (k - 5) + t`, where
//! `t` are the two bits after its leading one; its `k - 3` lowest bits follow in the bit stream.
//! (Tokens of this kind are those of JPEG XL's hybrid integers, ISO/IEC 18181-1.)

use super::super::huffman::Huffman;
use super::super::stage::Coder;
use super::super::wire::{Reader, put_varint};
use super::adaptive::bit_length;
use super::bits::{BitReader, BitWriter};
use crate::error::Result;

const DIRECT: u64 = 16;

/// The coder with its buffers.
#[derive(Default)]
pub(super) struct Tokens {
    huffman: Huffman,
    tokens: Vec<u8>,
    packed: Vec<u8>,
    rest: Vec<u8>,
}

impl Tokens {
    /// Appends residuals.
    pub(super) fn encode(&mut self, residuals: &[u64], out: &mut Vec<u8>) -> Result<()> {
        self.tokens.clear();
        self.rest.clear();
        let mut bits = BitWriter::new(&mut self.rest);
        self.tokens.extend(residuals.iter().map(|&residual| {
            if residual < DIRECT {
                return residual as u8;
            }
            let tail = bit_length(residual) - 3;
            bits.put(residual & ((1 << tail) - 1), tail);
            (DIRECT as u32 + 4 * (tail - 2) + (residual >> tail & 3) as u32) as u8
        }));
        bits.finish();
        self.packed.clear();
        self.huffman.compress(&self.tokens, 0, &mut self.packed)?;
        put_varint(self.packed.len() as u64, out);
        out.extend_from_slice(&self.packed);
        out.extend_from_slice(&self.rest);
        Ok(())
    }

    /// Reads residuals from foreign bytes, all that are left.
    pub(super) fn decode(&mut self, reader: &mut Reader<'_>, residuals: &mut [u64]) -> Result<()> {
        let packed = reader.bytes()?;
        self.tokens.clear();
        self.tokens.resize(residuals.len(), 0);
        self.huffman.decompress(packed, &mut self.tokens)?;
        let mut bits = BitReader::new(reader.take(reader.remaining())?);
        for (residual, &token) in residuals.iter_mut().zip(&self.tokens) {
            let token = u64::from(token);
            *residual = if token < DIRECT {
                token
            } else {
                let above = token - DIRECT;
                let tail = (above / 4) as u32 + 2;
                (4 + above % 4) << tail | bits.take(tail)
            };
        }
        bits.finish()
    }
}
