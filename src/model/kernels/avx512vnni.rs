//! The AVX-512 VNNI kernel: `vpdpbusd`, four 8-bit products per 32-bit lane. Pure; `unsafe` for intrinsics
//! and unchecked loads only.
//!
//! The instruction multiplies unsigned by signed bytes, so codes are moved up by 128 (their top bit is
//! flipped) and the bias takes that back: `Σ (c + 128) w - (zero point + 128) Σ w`. Weights lie in memory as
//! `[block of 16 outputs][quad of inputs][16 outputs][4]`, 64 bytes a step. A tile is 6 rows × 4 blocks
//! (24 accumulators of 32 registers), or 1 row × 8 blocks, so that a single row is not held up by the
//! instruction's latency.
//!
//! The tiles are generic over the handful of instructions they use: on a processor without AVX-512 the
//! tests still run this file's packing, tiling and correction over emulated instructions.

use super::{BLOCK, Channels, avx2};
use crate::model::format::Layer;
use std::arch::x86_64::*;

/// A layer packed for VNNI.
#[derive(Debug)]
pub(super) struct Packed {
    inputs: usize,
    outputs: usize,
    /// Quads of inputs, the last padded with zero weights.
    quads: usize,
    weights: Vec<i8>,
    channels: Channels,
}

/// The instructions a tile is made of.
trait Dot {
    /// Sixteen 32-bit sums.
    type Sums: Copy;

    /// Sums of zero.
    ///
    /// # Safety
    /// The processor has the features of the implementation; so for every function here.
    unsafe fn zero() -> Self::Sums;

    /// Adds to each sum the dot product of its four weights with the four unsigned codes in `word`.
    ///
    /// # Safety
    /// As for `zero`.
    unsafe fn dot(sums: Self::Sums, word: i32, weights: &[i8; 4 * BLOCK]) -> Self::Sums;

    /// The sums of one row and block to codes, as many as `out` has room for.
    ///
    /// # Safety
    /// As for `zero`.
    unsafe fn finish(sums: Self::Sums, channels: &Channels, block: usize, out: &mut [i8]);
}

/// The real instructions.
struct Zmm;

// Every function is inlined into `Packed::run`, which enables the features.
impl Dot for Zmm {
    type Sums = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller guarantees AVX-512 F.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512i, word: i32, weights: &[i8; 4 * BLOCK]) -> __m512i {
        // SAFETY: the caller guarantees AVX-512 F and VNNI; `weights` has the 64 bytes that are loaded.
        unsafe {
            let weights = _mm512_loadu_si512(weights.as_ptr().cast());
            _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(word), weights)
        }
    }

    #[inline(always)]
    unsafe fn finish(sums: __m512i, channels: &Channels, block: usize, out: &mut [i8]) {
        // SAFETY: the caller guarantees AVX-512 F and AVX2.
        unsafe {
            let halves = [_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums)];
            avx2::store(avx2::requantize_block(halves, channels, block), out);
        }
    }
}

impl Packed {
    pub fn new(layer: &Layer, input_zero_point: i8) -> Self {
        let quads = layer.inputs.div_ceil(4);
        let blocks = layer.outputs.div_ceil(BLOCK);
        let mut weights = vec![0; blocks * quads * 4 * BLOCK];
        for output in 0..layer.outputs {
            for (input, &weight) in layer.row(output).iter().enumerate() {
                let step = output / BLOCK * quads + input / 4;
                weights[(step * BLOCK + output % BLOCK) * 4 + input % 4] = weight;
            }
        }
        let channels = Channels::new(layer, i32::from(input_zero_point) + 128);
        Self { inputs: layer.inputs, outputs: layer.outputs, quads, weights, channels }
    }

    /// `codes`: `count` rows of inputs; `out`: `count` rows of outputs; `words` is scratch.
    #[target_feature(enable = "avx2,avx512f,avx512vnni")]
    pub fn run(&self, codes: &[i8], count: usize, out: &mut [i8], words: &mut Vec<i32>) {
        // SAFETY: this function's own features are those of `Zmm`.
        unsafe { self.run_with::<Zmm>(codes, count, out, words) }
    }

    /// # Safety
    /// The processor has the features of `D`.
    #[inline(always)]
    unsafe fn run_with<D: Dot>(&self, codes: &[i8], count: usize, out: &mut [i8], words: &mut Vec<i32>) {
        if words.len() < count * self.quads {
            words.resize(count * self.quads, 0);
        }
        for (row, words) in codes.chunks_exact(self.inputs).zip(words.chunks_exact_mut(self.quads)) {
            move_up(row, words);
        }
        let words = &words[..count * self.quads];
        let (row_words, row_out) = (self.quads, self.outputs);
        // SAFETY: the caller guarantees the features.
        unsafe {
            if count == 1 {
                return self.band::<D, 1, 8>(words, out);
            }
            for (words, out) in words.chunks(6 * row_words).zip(out.chunks_mut(6 * row_out)) {
                match words.len() / row_words {
                    6 => self.band::<D, 6, 4>(words, out),
                    5 => self.band::<D, 5, 4>(words, out),
                    4 => self.band::<D, 4, 4>(words, out),
                    3 => self.band::<D, 3, 4>(words, out),
                    2 => self.band::<D, 2, 4>(words, out),
                    _ => self.band::<D, 1, 4>(words, out),
                }
            }
        }
    }

    /// All outputs of `ROWS` rows: tiles of `BLOCKS` blocks, then single blocks.
    ///
    /// # Safety
    /// The processor has the features of `D`.
    #[inline(always)]
    unsafe fn band<D: Dot, const ROWS: usize, const BLOCKS: usize>(&self, words: &[i32], out: &mut [i8]) {
        let blocks = self.outputs.div_ceil(BLOCK);
        let mut block = 0;
        // SAFETY: the caller guarantees the features.
        unsafe {
            while block + BLOCKS <= blocks {
                self.tile::<D, ROWS, BLOCKS>(words, block, out);
                block += BLOCKS;
            }
            while block < blocks {
                self.tile::<D, ROWS, 1>(words, block, out);
                block += 1;
            }
        }
    }

    /// # Safety
    /// The processor has the features of `D`.
    #[inline(always)]
    unsafe fn tile<D: Dot, const ROWS: usize, const BLOCKS: usize>(
        &self,
        words: &[i32],
        block: usize,
        out: &mut [i8],
    ) {
        let (steps, _) = self.weights.as_chunks::<{ 4 * BLOCK }>();
        let steps = &steps[block * self.quads..][..BLOCKS * self.quads];
        assert_eq!(words.len(), ROWS * self.quads, "a tile has its rows' words");
        // SAFETY: the caller guarantees the features; `steps` holds `BLOCKS * quads` steps (sliced above)
        // and `words` `ROWS * quads` words (asserted above).
        unsafe {
            let mut sums = [[D::zero(); BLOCKS]; ROWS];
            for quad in 0..self.quads {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let word = *words.get_unchecked(row * self.quads + quad);
                    for (at, sums) in sums.iter_mut().enumerate() {
                        let weights = steps.get_unchecked(at * self.quads + quad);
                        *sums = D::dot(*sums, word, weights);
                    }
                }
            }
            for (sums, out) in sums.iter().zip(out.chunks_exact_mut(self.outputs)) {
                for (at, &sums) in sums.iter().enumerate() {
                    let first = (block + at) * BLOCK;
                    D::finish(sums, &self.channels, block + at, &mut out[first..]);
                }
            }
        }
    }
}

/// A row of codes moved up by 128, four to a word, first in the lowest byte.
#[inline(always)]
fn move_up(row: &[i8], words: &mut [i32]) {
    let (quads, rest) = row.as_chunks::<4>();
    for (&quad, word) in quads.iter().zip(words.iter_mut()) {
        *word = i32::from_le_bytes(quad.map(|code| code as u8 ^ 0x80));
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        for (byte, &code) in last.iter_mut().zip(rest) {
            *byte = code as u8 ^ 0x80;
        }
        words[quads.len()] = i32::from_le_bytes(last);
    }
}

#[cfg(test)]
mod emulated {
    use super::*;
    use crate::model::quant::{Multiplier, requantize};

    /// The instructions, lane by lane.
    struct Emulated;

    impl Dot for Emulated {
        type Sums = [i32; BLOCK];

        unsafe fn zero() -> [i32; BLOCK] {
            [0; BLOCK]
        }

        unsafe fn dot(mut sums: [i32; BLOCK], word: i32, weights: &[i8; 4 * BLOCK]) -> [i32; BLOCK] {
            for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                for (code, &weight) in word.to_le_bytes().into_iter().zip(weights) {
                    *sum = sum.wrapping_add(i32::from(code) * i32::from(weight));
                }
            }
            sums
        }

        unsafe fn finish(sums: [i32; BLOCK], channels: &Channels, block: usize, out: &mut [i8]) {
            for (lane, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                let at = block * BLOCK + lane;
                // The shifts of every 8 outputs lie evens first.
                let place = at & !7 | (at & 1) << 2 | (at >> 1) & 3;
                let shift = (31 - channels.shifts[place]) as i8;
                let multiplier = Multiplier { value: channels.mantissas[at], shift };
                *out = requantize(sum.wrapping_add(channels.biases[at]), multiplier, channels.stage);
            }
        }
    }

    impl Packed {
        /// As `run`, on any processor.
        pub fn run_emulated(&self, codes: &[i8], count: usize, out: &mut [i8], words: &mut Vec<i32>) {
            // SAFETY: the emulation needs no features.
            unsafe { self.run_with::<Emulated>(codes, count, out, words) }
        }
    }
}
