//! What surrounds the layers, over whole rows: quantizing inputs, and the reconstruction error. Pure.
//!
//! Plain code, inlined into functions with and without AVX2: the same IEEE operations in the same order,
//! so the same bits, only wider registers.

use crate::model::quant::Quantization;

/// Partial sums of the error; column `i` goes to lane `i % LANES`.
const LANES: usize = 8;

/// Quantizes value by value.
#[inline(always)]
pub(super) fn quantize(map: Quantization, values: &[f32], codes: &mut [i8]) {
    for (code, &value) in codes.iter_mut().zip(values) {
        *code = map.quantize(value);
    }
}

/// One score per row of `width`.
#[inline(always)]
pub(super) fn mean_squared_errors(
    map: Quantization,
    values: &[f32],
    codes: &[i8],
    width: usize,
    scores: &mut [f64],
) {
    let rows = values.chunks_exact(width).zip(codes.chunks_exact(width));
    for (score, (values, codes)) in scores.iter_mut().zip(rows) {
        *score = squared_error(map, values, codes) / width as f64;
    }
}

/// `Σ (value - dequantized code)²` in f64: eight partial sums, then a fixed tree.
#[inline(always)]
fn squared_error(map: Quantization, values: &[f32], codes: &[i8]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let mut add = |values: &[f32], codes: &[i8]| {
        for ((lane, &value), &code) in lanes.iter_mut().zip(values).zip(codes) {
            let difference = f64::from(value) - f64::from(map.dequantize(code));
            *lane += difference * difference;
        }
    };
    let (value_chunks, value_rest) = values.as_chunks::<LANES>();
    let (code_chunks, code_rest) = codes.as_chunks::<LANES>();
    for (values, codes) in value_chunks.iter().zip(code_chunks) {
        add(values, codes);
    }
    add(value_rest, code_rest);
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}
