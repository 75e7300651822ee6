//! From a float network to int8 layers: post-training quantization with calibration. Pure.
//!
//! Every activation tensor gets one asymmetric range from what it holds on calibration rows; every output
//! of a layer gets its own symmetric weight scale (Krishnamoorthi, "Quantizing deep convolutional networks
//! for efficient inference", 2018; the LiteRT 8-bit specification).

use super::format::{Activation, Layer};
use super::network::{FloatLayer, Network, Tensors};
use super::quant::{Multiplier, Quantization};

/// How the range of an activation tensor is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Calibration {
    /// From the least to the largest value seen.
    MinMax,
    /// Between the quantiles `1 - p` and `p` of the values seen, `p` in `(0.5, 1]`: rarer values saturate,
    /// the others get finer steps.
    Percentile(f64),
}

/// The largest number of values of one tensor that calibration holds: 4 Mi, 16 MiB.
const VALUES_MAX: usize = 4 << 20;
/// The largest number of calibration rows.
const ROWS_MAX: usize = 4096;
/// The largest magnitude of a quantized bias; leaves the rest of an i32 to the products.
const BIAS_MAX: f64 = (1 << 29) as f64;

/// The quantization of the inputs, and the layers. `rows` are scaled, row-major; calibration takes at most
/// 4,096 of them, evenly spread.
pub(super) fn quantize(
    network: &Network,
    rows: &[f32],
    width: usize,
    how: Calibration,
) -> (Quantization, Vec<Layer>) {
    let widest = network.layers.iter().map(|layer| layer.outputs).fold(width, usize::max);
    let count = rows.len() / width;
    let limit = (VALUES_MAX / widest).clamp(1, ROWS_MAX);
    let step = count.div_ceil(limit).max(1);
    let sample: Vec<f32> = rows.chunks_exact(width).step_by(step).flatten().copied().collect();
    let mut tensors = Tensors::default();
    network.forward(&sample, &mut tensors);
    let mut maps = tensors.values.iter_mut().map(|values| range(values, how));
    let mut input = maps.next().unwrap_or(Quantization::from_range(0.0, 0.0));
    let first = input;
    let mut layers = Vec::with_capacity(network.layers.len());
    for (layer, output) in network.layers.iter().zip(maps) {
        layers.push(quantize_layer(layer, input, output));
        input = output;
    }
    (first, layers)
}

fn range(values: &mut [f32], how: Calibration) -> Quantization {
    values.sort_unstable_by(f32::total_cmp);
    let (Some(&least), Some(&largest)) = (values.first(), values.last()) else {
        return Quantization::from_range(0.0, 0.0);
    };
    match how {
        Calibration::MinMax => Quantization::from_range(least, largest),
        Calibration::Percentile(share) => {
            let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
            Quantization::from_range(at(1.0 - share), at(share))
        }
    }
}

fn quantize_layer(layer: &FloatLayer, input: Quantization, output: Quantization) -> Layer {
    let input_scale = f64::from(input.scale);
    let mut weights = Vec::with_capacity(layer.weights.len());
    let mut biases = Vec::with_capacity(layer.outputs);
    let mut multipliers = Vec::with_capacity(layer.outputs);
    for (row, &bias) in layer.weights.chunks_exact(layer.inputs).zip(&layer.biases) {
        let largest = row.iter().fold(0_f32, |largest, weight| largest.max(weight.abs()));
        // The bias shares the weights' scale: where it is far larger than they are, the scale follows it.
        let for_bias = f64::from(bias.abs()) / (input_scale * BIAS_MAX);
        let scale = (f64::from(largest) / 127.0).max(for_bias);
        if scale < f64::from(f32::MIN_POSITIVE) {
            // An output that is always zero.
            weights.resize(weights.len() + layer.inputs, 0);
            biases.push(0);
            multipliers.push(Multiplier { value: 0, shift: 0 });
            continue;
        }
        weights
            .extend(row.iter().map(|&weight| (f64::from(weight) / scale).round().clamp(-127.0, 127.0) as i8));
        biases.push((f64::from(bias) / (input_scale * scale)).round() as i32);
        multipliers.push(Multiplier::from_real(input_scale * scale / f64::from(output.scale)));
    }
    let activation = layer.activation;
    // A ReLU's range begins at 0, so its zero point is -128 and the clamp to int8 is the ReLU.
    debug_assert!(activation == Activation::Linear || output.zero_point == -128 || output.scale == 1.0);
    Layer { inputs: layer.inputs, outputs: layer.outputs, activation, weights, biases, multipliers, output }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(weights: Vec<f32>, biases: Vec<f32>) -> FloatLayer {
        let inputs = weights.len() / biases.len();
        FloatLayer { inputs, outputs: biases.len(), activation: Activation::Linear, weights, biases }
    }

    #[test]
    fn a_layer_keeps_its_real_meaning() {
        let float = layer(vec![0.6, -1.0, 0.0011, 0.002], vec![0.25, -0.01]);
        let input = Quantization::from_range(-2.0, 2.0);
        let output = Quantization::from_range(-3.0, 3.0);
        let int8 = quantize_layer(&float, input, output);
        assert_eq!(int8.weights, [76, -127, 70, 127]);
        for (output_index, real) in [(0, 0.6 * 1.5 - 1.0 * -0.5 + 0.25), (1, 0.00165 - 0.001 - 0.01)] {
            let codes = [input.quantize(1.5), input.quantize(-0.5)]
                .map(|code| i32::from(code) - i32::from(input.zero_point));
            let row = int8.row(output_index);
            let sum = i32::from(row[0]) * codes[0] + i32::from(row[1]) * codes[1] + int8.biases[output_index];
            let got = f64::from(sum) * int8.multipliers[output_index].to_real() * f64::from(output.scale);
            assert!((got - real).abs() < 0.01, "output {output_index}: {got} instead of {real}");
        }
    }

    #[test]
    fn a_large_bias_beside_tiny_weights_stays_in_range() {
        let int8 = quantize_layer(
            &layer(vec![1e-12, 0.0, 0.0, 0.0], vec![50.0, 0.0]),
            Quantization::from_range(-1.0, 1.0),
            Quantization::from_range(0.0, 60.0),
        );
        assert!(int8.biases[0].abs() <= 1 << 29);
        let value = f64::from(int8.biases[0]) * int8.multipliers[0].to_real() * f64::from(int8.output.scale);
        assert!((value - 50.0).abs() < 0.01, "{value}");
        assert_eq!((int8.biases[1], int8.multipliers[1].value), (0, 0));
    }

    #[test]
    fn percentiles_leave_outliers_out() {
        let mut values: Vec<f32> = (0..=1000).map(|at| at as f32 / 1000.0).collect();
        values.push(100.0);
        let all = range(&mut values, Calibration::MinMax);
        let most = range(&mut values, Calibration::Percentile(0.99));
        assert!((all.scale - 100.0 / 255.0).abs() < 1e-3);
        assert!((most.scale - 0.99 / 255.0).abs() < 1e-3);
    }
}
