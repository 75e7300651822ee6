//! The AVX2 kernel: 8-bit codes and weights widened to 16 bits, `vpmaddwd` into i32. Pure; `unsafe` for
//! intrinsics and unchecked loads only.
//!
//! `vpmaddubsw` would take 8-bit operands directly, but saturates its 16-bit pair sums; with 16-bit
//! operands a pair sum is at most 2 · 128 · 128, exact in i32. Weights lie in memory as
//! `[block of 16 outputs][pair of inputs][16 outputs][2]`, still 8 bits each, so that a step reads 32 bytes
//! and multiplies them with one broadcast pair of codes per row. A tile is 6 rows × 16 outputs: 12
//! accumulators, 2 weight vectors and the broadcast fill the 16 registers. Rows beside each other share
//! the weights; a single row takes four vectors of outputs at a time instead.

use super::{BLOCK, Channels, rows};
use crate::model::format::Layer;
use crate::model::quant::Quantization;
use std::arch::x86_64::*;

/// Rows of a tile.
const TILE_ROWS: usize = 6;

/// A layer packed for AVX2.
#[derive(Debug)]
pub(super) struct Packed {
    inputs: usize,
    outputs: usize,
    /// Pairs of inputs, the last padded with zero.
    pairs: usize,
    weights: Vec<i8>,
    channels: Channels,
}

impl Packed {
    pub fn new(layer: &Layer, input_zero_point: i8) -> Self {
        let pairs = layer.inputs.div_ceil(2);
        let blocks = layer.outputs.div_ceil(BLOCK);
        let mut weights = vec![0; blocks * pairs * 2 * BLOCK];
        for output in 0..layer.outputs {
            for (input, &weight) in layer.row(output).iter().enumerate() {
                let step = output / BLOCK * pairs + input / 2;
                weights[(step * BLOCK + output % BLOCK) * 2 + input % 2] = weight;
            }
        }
        let channels = Channels::new(layer, i32::from(input_zero_point));
        Self { inputs: layer.inputs, outputs: layer.outputs, pairs, weights, channels }
    }

    /// `codes`: `count` rows of inputs; `out`: `count` rows of outputs; `words` is scratch.
    #[target_feature(enable = "avx2")]
    pub fn run(&self, codes: &[i8], count: usize, out: &mut [i8], words: &mut Vec<i32>) {
        if words.len() < count * self.pairs {
            words.resize(count * self.pairs, 0);
        }
        for (row, words) in codes.chunks_exact(self.inputs).zip(words.chunks_exact_mut(self.pairs)) {
            widen(row, words);
        }
        let words = &words[..count * self.pairs];
        let blocks = self.outputs.div_ceil(BLOCK);
        if count == 1 {
            let mut block = 0;
            while block + 2 <= blocks {
                self.tile::<1, 2>(words, block, out);
                block += 2;
            }
            if block < blocks {
                self.tile::<1, 1>(words, block, out);
            }
            return;
        }
        for block in 0..blocks {
            let tiles = words.chunks(TILE_ROWS * self.pairs).zip(out.chunks_mut(TILE_ROWS * self.outputs));
            for (words, out) in tiles {
                match words.len() / self.pairs {
                    6 => self.tile::<6, 1>(words, block, out),
                    5 => self.tile::<5, 1>(words, block, out),
                    4 => self.tile::<4, 1>(words, block, out),
                    3 => self.tile::<3, 1>(words, block, out),
                    2 => self.tile::<2, 1>(words, block, out),
                    _ => self.tile::<1, 1>(words, block, out),
                }
            }
        }
    }

    /// `ROWS` rows of words × `BLOCKS` blocks of outputs from `block` on; `out` begins at the first row.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn tile<const ROWS: usize, const BLOCKS: usize>(&self, words: &[i32], block: usize, out: &mut [i8]) {
        let block_bytes = self.pairs * 2 * BLOCK;
        let weights = &self.weights[block * block_bytes..][..BLOCKS * block_bytes];
        assert_eq!(words.len(), ROWS * self.pairs, "a tile has its rows' words");
        let mut sums = [[[_mm256_setzero_si256(); 2]; ROWS]; BLOCKS];
        for pair in 0..self.pairs {
            for (at, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `weights` holds `BLOCKS` blocks of `pairs` steps of 32 bytes (sliced above), and
                // `at < BLOCKS`, `pair < pairs`; both loads read 16 of those 32 bytes, unaligned.
                let (low, high) = unsafe {
                    let step = weights.as_ptr().add(at * block_bytes + pair * 2 * BLOCK).cast::<__m128i>();
                    (_mm_loadu_si128(step), _mm_loadu_si128(step.add(1)))
                };
                let (low, high) = (_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high));
                for (row, [first, second]) in sums.iter_mut().enumerate() {
                    // SAFETY: `words` holds `ROWS * pairs` words (asserted above).
                    let word = unsafe { *words.get_unchecked(row * self.pairs + pair) };
                    let codes = _mm256_set1_epi32(word);
                    *first = _mm256_add_epi32(*first, _mm256_madd_epi16(codes, low));
                    *second = _mm256_add_epi32(*second, _mm256_madd_epi16(codes, high));
                }
            }
        }
        for (at, sums) in sums.iter().enumerate() {
            self.finish(sums, block + at, out);
        }
    }

    /// One block's sums of some rows to codes; `out` begins at the first row. Apart from the tiles, so that
    /// its code exists once.
    #[inline(never)]
    #[target_feature(enable = "avx2")]
    fn finish(&self, sums: &[[__m256i; 2]], block: usize, out: &mut [i8]) {
        for (&sums, out) in sums.iter().zip(out.chunks_exact_mut(self.outputs)) {
            store(requantize_block(sums, &self.channels, block), &mut out[block * BLOCK..]);
        }
    }
}

/// Sign-extends a row of codes to 16 bits, two to a word, low half first; an odd last is beside a zero.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(row: &[i8], words: &mut [i32]) {
    let (chunks, rest) = row.as_chunks::<16>();
    let (wide, wide_rest) = words.split_at_mut(chunks.len() * 8);
    for (chunk, wide) in chunks.iter().zip(wide.chunks_exact_mut(8)) {
        // SAFETY: `chunk` has 16 bytes to read, `wide` 32 to write; neither access asks for alignment.
        unsafe {
            let codes = _mm_loadu_si128(chunk.as_ptr().cast());
            _mm256_storeu_si256(wide.as_mut_ptr().cast(), _mm256_cvtepi8_epi16(codes));
        }
    }
    for (pair, word) in rest.chunks(2).zip(wide_rest) {
        let high = pair.get(1).copied().unwrap_or(0);
        *word = i32::from(pair[0]) & 0xffff | i32::from(high) << 16;
    }
}

/// Stores as many of 16 codes as there is room for.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(codes: __m128i, out: &mut [i8]) {
    if let Some(whole) = out.first_chunk_mut::<BLOCK>() {
        // SAFETY: `whole` has 16 bytes; the store asks for no alignment.
        unsafe { _mm_storeu_si128(whole.as_mut_ptr().cast(), codes) };
        return;
    }
    let mut all = [0_i8; BLOCK];
    // SAFETY: as above, for `all`.
    unsafe { _mm_storeu_si128(all.as_mut_ptr().cast(), codes) };
    out.copy_from_slice(&all[..out.len()]);
}

/// The sums of 16 outputs of one row to their codes, in order: [`crate::model::quant::requantize`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn requantize_block(sums: [__m256i; 2], channels: &Channels, block: usize) -> __m128i {
    let low = requantize_half(sums[0], channels, block * BLOCK);
    let high = requantize_half(sums[1], channels, block * BLOCK + 8);
    // Packing works within 128-bit halves; the permutation puts the four quarters in order. Values are
    // clamped to int8 already, so neither packing saturates.
    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
    _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
}

#[inline]
#[target_feature(enable = "avx2")]
fn requantize_half(sums: __m256i, channels: &Channels, output: usize) -> __m256i {
    let words = |values: &[i32]| {
        let values = &values[output..][..8];
        // SAFETY: `values` has 32 bytes (sliced above); the load asks for no alignment.
        unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
    };
    let longs = |values: &[i64]| {
        let values = &values[output..][..8];
        // SAFETY: `values` has 64 bytes (sliced above); the loads ask for no alignment.
        unsafe {
            let at = values.as_ptr().cast::<__m256i>();
            (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
        }
    };
    let mut values = _mm256_add_epi32(sums, words(&channels.biases));
    if channels.any_left {
        let limits = words(&channels.limits);
        // The complement is one below the negative, so that the largest limit cuts nothing.
        let least = _mm256_xor_si256(limits, _mm256_set1_epi32(-1));
        values = _mm256_max_epi32(_mm256_min_epi32(values, limits), least);
    }

    // The 64-bit products of even and odd lanes, apart.
    let mantissas = words(&channels.mantissas);
    let even = _mm256_mul_epi32(values, mantissas);
    let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(values), _mm256_srli_epi64::<32>(mantissas));
    let (even_addends, odd_addends) = longs(&channels.addends);
    let (even_shifts, odd_shifts) = longs(&channels.shifts);
    let even = _mm256_srlv_epi64(_mm256_add_epi64(even, even_addends), even_shifts);
    let odd = _mm256_srlv_epi64(_mm256_add_epi64(odd, odd_addends), odd_shifts);
    // Every result fits 32 bits, so its low half, less the low half of the surplus, is all of it.
    let both = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
    let scaled = _mm256_sub_epi32(both, words(&channels.surplus));

    // Clamped before the zero point is added, which could overflow otherwise.
    let zero_point = i32::from(channels.stage.zero_point);
    let least = _mm256_set1_epi32(i32::from(channels.stage.low) - zero_point);
    let most = _mm256_set1_epi32(i32::from(channels.stage.high) - zero_point);
    let clamped = _mm256_min_epi32(_mm256_max_epi32(scaled, least), most);
    _mm256_add_epi32(clamped, _mm256_set1_epi32(zero_point))
}

/// [`rows::quantize`], compiled for AVX2.
#[target_feature(enable = "avx2")]
pub(super) fn quantize_rows(map: Quantization, values: &[f32], codes: &mut [i8]) {
    rows::quantize(map, values, codes);
}

/// [`rows::mean_squared_errors`], compiled for AVX2.
#[target_feature(enable = "avx2")]
pub(super) fn mean_squared_errors(
    map: Quantization,
    values: &[f32],
    codes: &[i8],
    width: usize,
    scores: &mut [f64],
) {
    rows::mean_squared_errors(map, values, codes, width, scores);
}
