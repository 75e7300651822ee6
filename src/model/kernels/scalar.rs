//! The reference kernel: what every other must equal bit for bit. Pure and plain; read this one first.

use crate::model::format::Layer;
use crate::model::quant::{Multiplier, OutputStage, requantize};

/// A layer as the definition has it.
#[derive(Debug)]
pub(super) struct Packed {
    inputs: usize,
    outputs: usize,
    input_zero_point: i32,
    /// `outputs` rows of `inputs`.
    weights: Vec<i8>,
    biases: Vec<i32>,
    multipliers: Vec<Multiplier>,
    stage: OutputStage,
}

impl Packed {
    pub fn new(layer: &Layer, input_zero_point: i8) -> Self {
        Self {
            inputs: layer.inputs,
            outputs: layer.outputs,
            input_zero_point: i32::from(input_zero_point),
            weights: layer.weights.clone(),
            biases: layer.biases.clone(),
            multipliers: layer.multipliers.clone(),
            stage: layer.output_stage(),
        }
    }

    /// `out[row][o] = requantize(bias[o] + Σ (code[row][i] - zero point) · weight[o][i])`.
    pub fn run(&self, codes: &[i8], out: &mut [i8]) {
        for (row, results) in codes.chunks_exact(self.inputs).zip(out.chunks_exact_mut(self.outputs)) {
            let weights = self.weights.chunks_exact(self.inputs);
            let channels = weights.zip(self.biases.iter().zip(&self.multipliers));
            for (result, (weights, (&bias, &multiplier))) in results.iter_mut().zip(channels) {
                let sum = row.iter().zip(weights).fold(bias, |sum, (&code, &weight)| {
                    // A checked model cannot overflow; wrapping makes the equality of kernels hold for any.
                    sum.wrapping_add((i32::from(code) - self.input_zero_point) * i32::from(weight))
                });
                *result = requantize(sum, multiplier, self.stage);
            }
        }
    }
}
