//! Models for this folder's tests.

use super::dense::{Dense, Scratch};
use super::format::{Activation, Column, Layer, ModelFile, ModelId, Origin, Score, SelfTest};
use super::kernels::Kernel;
use super::quant::{Multiplier, Quantization};
use super::random::Random;

/// A layer that passes its inputs on, by the same quantization as [`random_model`] uses.
pub(super) fn identity_layer(width: usize) -> Layer {
    let mut weights = vec![0; width * width];
    weights.iter_mut().step_by(width + 1).for_each(|weight| *weight = 127);
    Layer {
        inputs: width,
        outputs: width,
        activation: Activation::Linear,
        weights,
        biases: vec![0; width],
        multipliers: vec![Multiplier::from_real(1.0 / 127.0); width],
        output: Quantization { scale: 0.02, zero_point: 5 },
    }
}

/// An autoencoder of the given widths with random weights and true self-tests.
pub(super) fn random_model(widths: &[usize], seed: u64) -> ModelFile {
    let mut random = Random::new(seed);
    let layers = widths.windows(2).enumerate().map(|(index, widths)| {
        let (inputs, outputs) = (widths[0], widths[1]);
        let code = |random: &mut Random| random.next_u64() as i8;
        let relu = index % 2 == 0;
        // A ReLU's zero point lies low, as real ones do: otherwise hardly any unit would be alive.
        let zero_point = if relu { code(&mut random) / 4 - 96 } else { code(&mut random) / 4 };
        Layer {
            inputs,
            outputs,
            activation: if relu { Activation::Relu } else { Activation::Linear },
            weights: (0..inputs * outputs).map(|_| code(&mut random).max(-127)).collect(),
            biases: (0..outputs).map(|_| i32::from(code(&mut random)) * 8).collect(),
            multipliers: (0..outputs)
                .map(|_| {
                    Multiplier::from_real(f64::from(random.symmetric().abs() + 0.1) / 64.0 / inputs as f64)
                })
                .collect(),
            output: Quantization { scale: 0.02, zero_point },
        }
    });
    let layers = layers.collect();
    let columns = (0..widths[0]).map(|index| Column {
        name: format!("c{index}"),
        mean: index as f64 * 10.0,
        deviation: 1.0 + index as f64,
    });
    let mut model = ModelFile {
        name: "sample".to_owned(),
        version: 3,
        created_us: 1_700_000_000_000_000,
        producer: "tidegate test".to_owned(),
        parent: None,
        columns: columns.collect(),
        input: Quantization { scale: 0.025, zero_point: -3 },
        layers,
        score: Score::MeanSquaredError,
        threshold: 1.5,
        origin: Origin { training_rows: 100, held_out_rows: 20, false_alarm_rate: 0.01 },
        self_tests: Vec::new(),
        signature: None,
    };
    let dense = Dense::new(ModelId([0; 32]), model.clone(), Kernel::Scalar);
    for _ in 0..2 {
        let value = |column: &Column| f64::from(random.symmetric()) * column.deviation + column.mean;
        let values: Vec<f64> = model.columns.iter().map(value).collect();
        let columns: Vec<&[f64]> = values.chunks(1).collect();
        let mut score = [0.0];
        dense.score_columns(&mut Scratch::default(), &columns, &mut score);
        model.self_tests.push(SelfTest { values, score: score[0] });
    }
    model
}

/// A model small enough to damage in every bit.
pub(super) fn small_model() -> ModelFile {
    random_model(&[3, 4, 3], 42)
}
