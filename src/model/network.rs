//! A float dense network and its training by gradient descent. Pure: every sum has a fixed order and the
//! random source is given, so the same data, options and seed give the same weights on every machine.
//!
//! Adam after Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015), algorithm 1;
//! initial weights after He et al., "Delving Deep into Rectifiers" (ICCV 2015), in its uniform form.

use super::format::Activation;
use super::random::Random;

/// Partial sums of a dot product.
const LANES: usize = 8;

/// One layer in floats.
#[derive(Debug, Clone)]
pub(super) struct FloatLayer {
    pub inputs: usize,
    pub outputs: usize,
    pub activation: Activation,
    /// `outputs` rows of `inputs`.
    pub weights: Vec<f32>,
    pub biases: Vec<f32>,
}

/// Layers, first to last.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub layers: Vec<FloatLayer>,
}

/// The values of every tensor for a number of rows: inputs first, then each layer's outputs.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    pub values: Vec<Vec<f32>>,
}

impl Network {
    /// A network over the given widths. Layers are ReLU, but the last and the narrowest are linear: the
    /// last must reach any value, and a ReLU of one or two units would be dead for some seeds.
    pub fn new(widths: &[usize], random: &mut Random) -> Self {
        let narrowest = widths.iter().copied().min().unwrap_or(0);
        let mut layers = Vec::with_capacity(widths.len() - 1);
        for (index, pair) in widths.windows(2).enumerate() {
            let (inputs, outputs) = (pair[0], pair[1]);
            let last = index + 2 == widths.len();
            let activation = if last || outputs == narrowest { Activation::Linear } else { Activation::Relu };
            let gain = if activation == Activation::Relu { 6.0 } else { 3.0 };
            let bound = (gain / inputs as f32).sqrt();
            let weights = (0..inputs * outputs).map(|_| random.symmetric() * bound).collect();
            layers.push(FloatLayer { inputs, outputs, activation, weights, biases: vec![0.0; outputs] });
        }
        Self { layers }
    }

    /// Runs all layers over row-major `rows`, keeping every tensor.
    pub fn forward(&self, rows: &[f32], tensors: &mut Tensors) {
        tensors.values.resize(self.layers.len() + 1, Vec::new());
        tensors.values[0].clear();
        tensors.values[0].extend_from_slice(rows);
        for (index, layer) in self.layers.iter().enumerate() {
            let (before, after) = tensors.values.split_at_mut(index + 1);
            let (inputs, outputs) = (&before[index], &mut after[0]);
            outputs.resize(inputs.len() / layer.inputs * layer.outputs, 0.0);
            layer.forward(inputs, outputs);
        }
    }

    /// The mean squared difference between each row and its reconstruction, one per row.
    pub fn scores(&self, rows: &[f32], width: usize, tensors: &mut Tensors) -> Vec<f64> {
        let mut scores = Vec::with_capacity(rows.len() / width);
        // A few rows at a time keep the tensors small however many rows there are.
        for chunk in rows.chunks(64 * width) {
            self.forward(chunk, tensors);
            let reconstructed = &tensors.values[self.layers.len()];
            for (row, output) in chunk.chunks_exact(width).zip(reconstructed.chunks_exact(width)) {
                let squares = row.iter().zip(output).map(|(&x, &y)| f64::from(x - y) * f64::from(x - y));
                scores.push(squares.sum::<f64>() / width as f64);
            }
        }
        scores
    }
}

impl FloatLayer {
    fn forward(&self, inputs: &[f32], outputs: &mut [f32]) {
        for (row, results) in inputs.chunks_exact(self.inputs).zip(outputs.chunks_exact_mut(self.outputs)) {
            let weights = self.weights.chunks_exact(self.inputs).zip(&self.biases);
            for (result, (weights, bias)) in results.iter_mut().zip(weights) {
                let value = dot(row, weights) + bias;
                *result = if self.activation == Activation::Relu { value.max(0.0) } else { value };
            }
        }
    }

    /// From `deltas`, the loss's derivative by this layer's outputs, to the gradient of its weights and
    /// biases (added up over the rows) and, where wanted, to the derivative by its inputs.
    fn backward(
        &self,
        inputs: &[f32],
        outputs: &[f32],
        deltas: &mut [f32],
        gradient: &mut Gradient,
        mut input_deltas: Option<&mut [f32]>,
    ) {
        if self.activation == Activation::Relu {
            for (delta, &output) in deltas.iter_mut().zip(outputs) {
                *delta = if output > 0.0 { *delta } else { 0.0 };
            }
        }
        let rows = inputs.chunks_exact(self.inputs).zip(deltas.chunks_exact(self.outputs));
        for (index, (row, deltas)) in rows.enumerate() {
            let weights = gradient.weights.chunks_exact_mut(self.inputs).zip(&mut gradient.biases);
            for (&delta, (weights, bias)) in deltas.iter().zip(weights) {
                add_scaled(weights, delta, row);
                *bias += delta;
            }
            if let Some(all) = input_deltas.as_deref_mut() {
                let before = &mut all[index * self.inputs..][..self.inputs];
                before.fill(0.0);
                for (&delta, weights) in deltas.iter().zip(self.weights.chunks_exact(self.inputs)) {
                    add_scaled(before, delta, weights);
                }
            }
        }
    }
}

/// The dot product, in eight partial sums so that it can use wide registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    lanes.iter().sum()
}

fn add_scaled(into: &mut [f32], factor: f32, values: &[f32]) {
    for (into, &value) in into.iter_mut().zip(values) {
        *into += factor * value;
    }
}

/// The gradient of one layer, or one of Adam's moments of it.
#[derive(Debug, Clone)]
struct Gradient {
    weights: Vec<f32>,
    biases: Vec<f32>,
}

impl Gradient {
    fn zero(layer: &FloatLayer) -> Self {
        Self { weights: vec![0.0; layer.weights.len()], biases: vec![0.0; layer.biases.len()] }
    }
}

/// Adam over a network, with its moments and buffers.
#[derive(Debug)]
pub(super) struct Adam {
    learning_rate: f32,
    /// `β₁ᵗ` and `β₂ᵗ` of the step to come, by repeated multiplication.
    powers: [f32; 2],
    gradients: Vec<Gradient>,
    means: Vec<Gradient>,
    squares: Vec<Gradient>,
    tensors: Tensors,
    deltas: [Vec<f32>; 2],
}

impl Adam {
    const BETA: [f32; 2] = [0.9, 0.999];
    const EPSILON: f32 = 1e-8;

    pub fn new(network: &Network, learning_rate: f32) -> Self {
        let zeros: Vec<_> = network.layers.iter().map(Gradient::zero).collect();
        Self {
            learning_rate,
            powers: Self::BETA,
            gradients: zeros.clone(),
            means: zeros.clone(),
            squares: zeros,
            tensors: Tensors::default(),
            deltas: Default::default(),
        }
    }

    /// One step on the mean squared reconstruction error of a minibatch of row-major `rows`; returns that
    /// error as it was before the step.
    pub fn step(&mut self, network: &mut Network, rows: &[f32]) -> f64 {
        network.forward(rows, &mut self.tensors);
        let loss = self.gradient(network, rows);
        let corrections = self.powers.map(|power| 1.0 - power);
        for (index, layer) in network.layers.iter_mut().enumerate() {
            let (mean, square) = (&mut self.means[index], &mut self.squares[index]);
            let gradient = &self.gradients[index];
            let rate = self.learning_rate;
            update(
                &mut layer.weights,
                &gradient.weights,
                &mut mean.weights,
                &mut square.weights,
                rate,
                corrections,
            );
            update(
                &mut layer.biases,
                &gradient.biases,
                &mut mean.biases,
                &mut square.biases,
                rate,
                corrections,
            );
        }
        for (power, beta) in self.powers.iter_mut().zip(Self::BETA) {
            *power *= beta;
        }
        loss
    }

    /// Fills the gradients from the tensors of a forward pass over `rows`; returns the loss.
    fn gradient(&mut self, network: &Network, rows: &[f32]) -> f64 {
        let outputs = &self.tensors.values[network.layers.len()];
        let [deltas, before] = &mut self.deltas;
        deltas.clear();
        let scale = 2.0 / rows.len() as f32;
        let mut loss = 0.0;
        for (&output, &value) in outputs.iter().zip(rows) {
            let difference = output - value;
            loss += f64::from(difference * difference);
            deltas.push(difference * scale);
        }
        for (index, layer) in network.layers.iter().enumerate().rev() {
            let gradient = &mut self.gradients[index];
            gradient.weights.fill(0.0);
            gradient.biases.fill(0.0);
            let (inputs, outputs) = (&self.tensors.values[index], &self.tensors.values[index + 1]);
            before.resize(inputs.len(), 0.0);
            let input_deltas = (index > 0).then_some(before.as_mut_slice());
            layer.backward(inputs, outputs, deltas, gradient, input_deltas);
            std::mem::swap(deltas, before);
        }
        loss / rows.len() as f64
    }
}

/// Adam's rule, element by element.
fn update(
    values: &mut [f32],
    gradient: &[f32],
    means: &mut [f32],
    squares: &mut [f32],
    rate: f32,
    corrections: [f32; 2],
) {
    let moments = means.iter_mut().zip(squares);
    for ((value, &slope), (mean, square)) in values.iter_mut().zip(gradient).zip(moments) {
        *mean = Adam::BETA[0] * *mean + (1.0 - Adam::BETA[0]) * slope;
        *square = Adam::BETA[1] * *square + (1.0 - Adam::BETA[1]) * slope * slope;
        let step = (*mean / corrections[0]) / ((*square / corrections[1]).sqrt() + Adam::EPSILON);
        *value -= rate * step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loss of a network over rows, from its definition.
    fn loss(network: &Network, rows: &[f32]) -> f64 {
        let mut tensors = Tensors::default();
        network.forward(rows, &mut tensors);
        let outputs = &tensors.values[network.layers.len()];
        let squares = outputs.iter().zip(rows).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        squares.sum::<f64>() / rows.len() as f64
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let mut random = Random::new(11);
        let network = Network::new(&[5, 9, 2, 9, 5], &mut random);
        let rows: Vec<f32> = (0..35).map(|_| random.symmetric()).collect();
        let mut adam = Adam::new(&network, 0.0);
        network.forward(&rows, &mut adam.tensors);
        adam.gradient(&network, &rows);
        let step = 2e-3;
        let mut compared = 0;
        for index in 0..network.layers.len() {
            for at in (0..network.layers[index].weights.len()).step_by(3) {
                let moved = |by: f32| {
                    let mut network = network.clone();
                    network.layers[index].weights[at] += by;
                    loss(&network, &rows)
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
                let got = f64::from(adam.gradients[index].weights[at]);
                // A ReLU that changes side within the step bends the difference a little.
                assert!(
                    (slope - got).abs() < 0.01 + 0.05 * slope.abs(),
                    "layer {index}, {at}: {got} / {slope}"
                );
                compared += 1;
            }
            for at in 0..network.layers[index].outputs {
                let mut up = network.clone();
                up.layers[index].biases[at] += step;
                let slope = (loss(&up, &rows) - loss(&network, &rows)) / f64::from(step);
                let got = f64::from(adam.gradients[index].biases[at]);
                assert!(
                    (slope - got).abs() < 0.02 + 0.05 * slope.abs(),
                    "layer {index}, bias {at}: {got} / {slope}"
                );
            }
        }
        assert!(compared > 30);
    }

    #[test]
    fn adam_lowers_the_loss_of_rows_on_a_line() {
        let mut random = Random::new(3);
        let mut network = Network::new(&[4, 8, 1, 8, 4], &mut random);
        let rows: Vec<f32> = (0..32)
            .flat_map(|_| {
                let t = random.symmetric();
                [t, -t, 0.5 * t, 2.0 * t]
            })
            .collect();
        let before = loss(&network, &rows);
        let mut adam = Adam::new(&network, 1e-2);
        let first = adam.step(&mut network, &rows);
        assert!((first - before).abs() < 1e-6, "{first} {before}");
        for _ in 0..150 {
            adam.step(&mut network, &rows);
        }
        let after = loss(&network, &rows);
        assert!(after < before / 20.0, "{before} to {after}");
    }

    #[test]
    fn the_narrowest_and_the_last_layer_are_linear() {
        let network = Network::new(&[4, 8, 2, 8, 4], &mut Random::new(1));
        let activations: Vec<_> = network.layers.iter().map(|layer| layer.activation).collect();
        use Activation::{Linear, Relu};
        assert_eq!(activations, [Relu, Linear, Relu, Linear]);
    }
}
