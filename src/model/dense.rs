//! A model ready to run: layers packed for one kernel, rows in, scores out. Pure.

use super::format::{ModelFile, ModelId};
use super::kernels::{self, FullyConnected, Kernel, Workspace};

/// Rows that go through all layers together: enough to share each weight, few enough for the cache.
const CHUNK_ROWS: usize = 96;

/// A model prepared for one kernel. A row's score is the same, bit for bit, with every kernel, whatever
/// rows are beside it.
#[derive(Debug)]
pub struct Dense {
    id: ModelId,
    file: ModelFile,
    kernel: Kernel,
    layers: Vec<FullyConnected>,
    /// The widest of all layers' inputs and outputs.
    width_max: usize,
}

/// The buffers of one user of models; they grow to the largest model seen (96 rows of its widest layer:
/// 18 MiB at the width limit) and then are only reused.
#[derive(Debug, Default)]
pub struct Scratch {
    rows: Vec<f32>,
    codes: Vec<i8>,
    other: Vec<i8>,
    workspace: Workspace,
}

impl Dense {
    /// Packs a model that [`ModelFile::read`] or [`ModelFile::write`] has accepted under `id`. Models from
    /// outside go through [`verify`](super::verify()) instead. The kernel must be available.
    pub fn new(id: ModelId, file: ModelFile, kernel: Kernel) -> Self {
        let mut zero_point = file.input.zero_point;
        let mut layers = Vec::with_capacity(file.layers.len());
        let mut width_max = file.width();
        for layer in &file.layers {
            layers.push(FullyConnected::new(layer, zero_point, kernel));
            zero_point = layer.output.zero_point;
            width_max = width_max.max(layer.outputs);
        }
        Self { id, file, kernel, layers, width_max }
    }

    /// The model's id.
    pub fn id(&self) -> ModelId {
        self.id
    }

    /// The model as data.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// The kernel it is packed for.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.file.width()
    }

    /// Whether a score marks an anomaly: above the threshold. A NaN does not.
    pub fn is_anomaly(&self, score: f64) -> bool {
        score > self.file.threshold
    }

    /// Writes raw values of one column, scaled, into its place in row-major `rows`; `rows` has
    /// [`width`](Self::width) places for each value.
    pub fn scale_column(&self, column: usize, values: &[f64], rows: &mut [f32]) {
        let width = self.width();
        assert_eq!(rows.len(), values.len() * width, "one place per value and column");
        let scaling = &self.file.columns[column];
        for (row, &value) in rows.chunks_exact_mut(width).zip(values) {
            row[column] = ((value - scaling.mean) / scaling.deviation) as f32;
        }
    }

    /// Scores scaled rows: row-major `rows` of `scores.len()` × [`width`](Self::width), columns in the
    /// model's order, scaled as [`scale_column`](Self::scale_column) does. A row with a NaN scores NaN.
    pub fn score(&self, scratch: &mut Scratch, rows: &[f32], scores: &mut [f64]) {
        let width = self.width();
        assert_eq!(rows.len(), scores.len() * width, "one value per row and column");
        let output = self.layers_output();
        for (rows, scores) in rows.chunks(CHUNK_ROWS * width).zip(scores.chunks_mut(CHUNK_ROWS)) {
            scratch.fit(scores.len() * self.width_max);
            kernels::quantize_rows(self.kernel, self.file.input, rows, &mut scratch.codes[..rows.len()]);
            self.run_layers(scratch, scores.len());
            let codes = &scratch.codes[..rows.len()];
            kernels::mean_squared_errors(self.kernel, output, rows, codes, width, scores);
        }
    }

    /// Scores raw values, one slice per column in the model's order, all as long as `scores`.
    pub fn score_columns(&self, scratch: &mut Scratch, columns: &[&[f64]], scores: &mut [f64]) {
        let width = self.width();
        assert_eq!(columns.len(), width, "one slice per column");
        assert!(columns.iter().all(|column| column.len() == scores.len()), "one value per score");
        let mut rows = std::mem::take(&mut scratch.rows);
        for start in (0..scores.len()).step_by(CHUNK_ROWS) {
            let end = scores.len().min(start + CHUNK_ROWS);
            rows.resize((end - start) * width, 0.0);
            for (index, column) in columns.iter().enumerate() {
                self.scale_column(index, &column[start..end], &mut rows);
            }
            self.score(scratch, &rows, &mut scores[start..end]);
        }
        scratch.rows = rows;
    }

    /// Input codes to output codes, without scaling and score: `count` rows of [`width`](Self::width) each.
    pub fn run_codes(&self, scratch: &mut Scratch, codes: &[i8], out: &mut [i8]) {
        let width = self.width();
        assert_eq!(codes.len(), out.len(), "an autoencoder gives as many codes as it takes");
        assert_eq!(codes.len() % width, 0, "whole rows");
        for (codes, out) in codes.chunks(CHUNK_ROWS * width).zip(out.chunks_mut(CHUNK_ROWS * width)) {
            let count = codes.len() / width;
            scratch.fit(count * self.width_max);
            scratch.codes[..codes.len()].copy_from_slice(codes);
            self.run_layers(scratch, count);
            out.copy_from_slice(&scratch.codes[..codes.len()]);
        }
    }

    /// All layers over `count` rows of codes at the front of `scratch.codes`; the results are left there.
    fn run_layers(&self, scratch: &mut Scratch, count: usize) {
        for layer in &self.layers {
            let codes = &scratch.codes[..count * layer.inputs()];
            let out = &mut scratch.other[..count * layer.outputs()];
            layer.run(codes, count, out, &mut scratch.workspace);
            std::mem::swap(&mut scratch.codes, &mut scratch.other);
        }
    }

    /// The quantization of the reconstruction.
    fn layers_output(&self) -> super::quant::Quantization {
        self.file.layers.last().map_or(self.file.input, |layer| layer.output)
    }
}

impl Scratch {
    /// Makes room for `codes` codes in each of the two layers' buffers.
    fn fit(&mut self, codes: usize) {
        if self.codes.len() < codes {
            self.codes.resize(codes, 0);
        }
        if self.other.len() < codes {
            self.other.resize(codes, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::random::Random;
    use crate::model::samples;
    use proptest::prelude::*;

    /// The score of one scaled row, from the definition, without any kernel.
    fn naive(model: &ModelFile, row: &[f32]) -> f64 {
        let mut map = model.input;
        let mut codes: Vec<i8> = row.iter().map(|&value| map.quantize(value)).collect();
        for layer in &model.layers {
            let stage = layer.output_stage();
            codes = (0..layer.outputs)
                .map(|output| {
                    let products = layer.row(output).iter().zip(&codes);
                    let sum: i32 = products
                        .map(|(&weight, &code)| {
                            i32::from(weight) * (i32::from(code) - i32::from(map.zero_point))
                        })
                        .sum();
                    let multiplier = layer.multipliers[output];
                    crate::model::quant::requantize(sum + layer.biases[output], multiplier, stage)
                })
                .collect();
            map = layer.output;
        }
        let mut lanes = [0.0; 8];
        for (index, (&value, &code)) in row.iter().zip(&codes).enumerate() {
            lanes[index % 8] += (f64::from(value) - f64::from(map.dequantize(code))).powi(2);
        }
        let [a, b, c, d, e, f, g, h]: [f64; 8] = lanes;
        (((a + b) + (c + d)) + ((e + f) + (g + h))) / row.len() as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_score_depends_on_its_row_alone(
            widths in (2_usize..20, 1_usize..40, 1_usize..6),
            count in 1_usize..12,
            cut in 1_usize..6,
            seed in any::<u64>(),
        ) {
            let (width, hidden, narrow) = widths;
            let model = samples::random_model(&[width, hidden, narrow, hidden, width], seed);
            let (id, _) = model.write().unwrap();
            let mut random = Random::new(seed ^ 1);
            let rows: Vec<f32> = (0..count * width).map(|_| random.symmetric() * 4.0).collect();
            let want: Vec<u64> = rows.chunks(width).map(|row| naive(&model, row).to_bits()).collect();
            for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.available()) {
                let dense = Dense::new(id, model.clone(), kernel);
                let mut scratch = Scratch::default();
                let mut scores = vec![0.0; count];
                for (rows, scores) in rows.chunks(cut * width).zip(scores.chunks_mut(cut)) {
                    dense.score(&mut scratch, rows, scores);
                }
                let got: Vec<u64> = scores.iter().map(|score| score.to_bits()).collect();
                prop_assert_eq!(&got, &want, "{} cut every {}", kernel, cut);
            }
        }
    }

    #[test]
    fn chunks_of_many_rows_join_without_a_seam() {
        let model = samples::random_model(&[5, 9, 2, 5], 3);
        let (id, _) = model.write().unwrap();
        let mut random = Random::new(4);
        let count = 2 * CHUNK_ROWS + 7;
        let raw: Vec<Vec<f64>> = (0..5)
            .map(|at| {
                let scaling = &model.columns[at];
                let value =
                    |random: &mut Random| f64::from(random.symmetric()) * scaling.deviation + scaling.mean;
                (0..count).map(|_| value(&mut random)).collect()
            })
            .collect();
        let dense = Dense::new(id, model, Kernel::best());
        let columns: Vec<&[f64]> = raw.iter().map(Vec::as_slice).collect();
        let mut scratch = Scratch::default();
        let mut scores = vec![0.0; count];
        dense.score_columns(&mut scratch, &columns, &mut scores);
        for (at, &score) in scores.iter().enumerate() {
            let row: Vec<&[f64]> = columns.iter().map(|column| &column[at..=at]).collect();
            let mut alone = [0.0];
            dense.score_columns(&mut scratch, &row, &mut alone);
            assert_eq!(alone[0].to_bits(), score.to_bits(), "row {at}");
        }
    }

    #[test]
    fn buffers_stop_growing_after_the_first_call() {
        let model = samples::random_model(&[6, 12, 6], 5);
        let (id, _) = model.write().unwrap();
        let dense = Dense::new(id, model, Kernel::best());
        let mut scratch = Scratch::default();
        let rows = vec![0.5; 6 * 300];
        let sizes =
            |scratch: &Scratch| (scratch.codes.as_ptr(), scratch.codes.capacity(), scratch.other.capacity());
        dense.score(&mut scratch, &rows, &mut [0.0; 300]);
        let warm = sizes(&scratch);
        assert!(warm.1 <= CHUNK_ROWS * 12, "{warm:?}");
        for count in [1, 50, 300] {
            dense.score(&mut scratch, &rows[..6 * count], &mut vec![0.0; count]);
            let now = sizes(&scratch);
            // The two buffers trade places with every layer; two layers bring them back.
            assert_eq!((now.0, now.1, now.2), warm);
        }
    }

    #[test]
    fn values_that_are_not_numbers_score_so() {
        let model = samples::random_model(&[3, 4, 3], 6);
        let (id, _) = model.write().unwrap();
        let dense = Dense::new(id, model, Kernel::best());
        let rows = [0.0, f32::NAN, 0.0, 0.0, f32::INFINITY, 0.0, 0.1, 0.2, 0.3];
        let mut scores = [0.0; 3];
        dense.score(&mut Scratch::default(), &rows, &mut scores);
        assert!(scores[0].is_nan() && !dense.is_anomaly(scores[0]));
        assert!(scores[1].is_infinite() && dense.is_anomaly(scores[1]));
        assert!(scores[2].is_finite());
    }
}
