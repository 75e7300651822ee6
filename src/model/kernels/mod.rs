//! Int8 fully connected layers: one reference kernel, SIMD kernels that equal it bit for bit, and the
//! choice between them at run time. Pure; `unsafe` lives in `avx2` and `avx512vnni`, and in the calls here.
//!
//! A layer is packed once, when a model is loaded, into the order its kernel reads. All kernels sum in
//! i32, where order does not matter, and requantize by the integer rules of [`super::quant`]; so a row's
//! codes depend on neither the kernel nor the rows beside it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod rows;
mod scalar;

use super::format::Layer;
use super::quant::{Multiplier, OutputStage, Quantization};
use crate::error::{Error, Result};
use std::fmt;

/// Outputs are packed in blocks of this many by the SIMD kernels.
const BLOCK: usize = 16;

/// A way to compute a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Plain code: the reference, and what other processors than x86-64 use.
    Scalar,
    /// x86-64 with AVX2: sign-extended 16-bit multiply-add.
    Avx2,
    /// x86-64 with AVX-512 F and VNNI: 8-bit dot products.
    Avx512Vnni,
}

impl Kernel {
    /// Every kernel, fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512Vnni, Self::Avx2, Self::Scalar];

    /// The fastest kernel this processor has.
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|kernel| kernel.available()).unwrap_or(Self::Scalar)
    }

    /// Whether this processor can run the kernel.
    pub fn available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512Vnni => false,
        }
    }

    /// The name used in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }

    /// The kernel a person asked for: `auto` or a name. Refuses an unknown name, and a kernel that this
    /// processor cannot run, with what it can.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::best());
        }
        let Some(kernel) = Self::ALL.into_iter().find(|kernel| kernel.name() == text) else {
            return Err(Error::config(format!(
                "kernel \"{text}\" does not exist; choose auto, scalar, avx2 or avx512-vnni"
            )));
        };
        if kernel.available() {
            return Ok(kernel);
        }
        let names: Vec<_> = Self::ALL.into_iter().filter(|other| other.available()).map(Self::name).collect();
        Err(Error::config(format!(
            "this processor cannot run kernel \"{text}\"; it can run {} (auto picks the first)",
            names.join(", ")
        )))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Buffers that kernels keep between calls, so that a call allocates nothing once they have grown. Their
/// size is bounded by the largest row count given × half the widest layer, in 32-bit words.
#[derive(Debug, Default)]
pub struct Workspace {
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the SIMD kernels widen codes"))]
    words: Vec<i32>,
}

/// One layer, packed for one kernel.
#[derive(Debug)]
pub struct FullyConnected {
    inputs: usize,
    outputs: usize,
    packed: Packed,
}

#[derive(Debug)]
enum Packed {
    Scalar(scalar::Packed),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Packed),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(avx512vnni::Packed),
}

impl FullyConnected {
    /// Packs a layer whose input codes have the given zero point. The kernel must be available.
    pub fn new(layer: &Layer, input_zero_point: i8, kernel: Kernel) -> Self {
        assert!(kernel.available(), "kernel {kernel} is chosen by Kernel::parse or Kernel::best");
        let packed = match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => Packed::Avx2(avx2::Packed::new(layer, input_zero_point)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni => Packed::Avx512Vnni(avx512vnni::Packed::new(layer, input_zero_point)),
            _ => Packed::Scalar(scalar::Packed::new(layer, input_zero_point)),
        };
        Self { inputs: layer.inputs, outputs: layer.outputs, packed }
    }

    /// The number of inputs of a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The number of outputs of a row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `codes` holds `count` rows of `inputs` codes, `out` receives `count` rows of `outputs` codes.
    pub fn run(&self, codes: &[i8], count: usize, out: &mut [i8], workspace: &mut Workspace) {
        assert_eq!(codes.len(), count * self.inputs, "one code per row and input");
        assert_eq!(out.len(), count * self.outputs, "one place per row and output");
        match &self.packed {
            Packed::Scalar(packed) => packed.run(codes, out),
            // SAFETY: `new` asserted that this processor has the kernel's features.
            #[cfg(target_arch = "x86_64")]
            Packed::Avx2(packed) => unsafe { packed.run(codes, count, out, &mut workspace.words) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Packed::Avx512Vnni(packed) => unsafe { packed.run(codes, count, out, &mut workspace.words) },
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = workspace;
    }
}

/// Quantizes scaled inputs into codes of the same number.
pub(super) fn quantize_rows(kernel: Kernel, map: Quantization, values: &[f32], codes: &mut [i8]) {
    assert_eq!(values.len(), codes.len(), "one code per value");
    match kernel {
        // SAFETY: kernels reach this module through `available`, and both of these need AVX2.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 | Kernel::Avx512Vnni => unsafe { avx2::quantize_rows(map, values, codes) },
        _ => rows::quantize(map, values, codes),
    }
}

/// The mean squared error of every row of reconstructed `codes` against its scaled `values`; one score per
/// row of `width`, summed in an order that depends on the width alone.
pub(super) fn mean_squared_errors(
    kernel: Kernel,
    map: Quantization,
    values: &[f32],
    codes: &[i8],
    width: usize,
    scores: &mut [f64],
) {
    assert_eq!(values.len(), codes.len(), "one code per value");
    assert_eq!(values.len(), scores.len() * width, "one score per row");
    match kernel {
        // SAFETY: kernels reach this module through `available`, and both of these need AVX2.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 | Kernel::Avx512Vnni => unsafe {
            avx2::mean_squared_errors(map, values, codes, width, scores);
        },
        _ => rows::mean_squared_errors(map, values, codes, width, scores),
    }
}

/// The per-output constants of a layer in the SIMD kernels' form, padded to whole blocks.
///
/// The 64-bit ones lie as the multiplication of 32-bit lanes gives its results: of every 8 outputs first
/// the 4 at even places, then the 4 at odd ones.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the SIMD kernels pad channels"))]
struct Channels {
    /// Bias minus the share of the input's zero point.
    biases: Vec<i32>,
    /// Mantissas of the requantization factors.
    mantissas: Vec<i32>,
    /// Right shifts of the product, 1 to 62.
    shifts: Vec<i64>,
    /// What is added to the product: half of the divisor, for rounding, and 2^63, which makes it a number
    /// without sign, so that an unsigned shift does (AVX2 has no signed one).
    addends: Vec<i64>,
    /// What the 2^63 has become after the shift, modulo 2^32.
    surplus: Vec<i32>,
    /// Where a factor shifts left, a magnitude of accumulators from which on every result lies beyond the
    /// codes; cut there, all results fit 32 bits. Where it does not, they fit anyway: the largest number.
    limits: Vec<i32>,
    /// Whether any factor shifts left, so that `limits` matter.
    any_left: bool,
    stage: OutputStage,
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the SIMD kernels pad channels"))]
impl Channels {
    /// `offset` is what the kernel's codes exceed the real numerators by: the zero point of its inputs.
    fn new(layer: &Layer, offset: i32) -> Self {
        let padded = layer.outputs.next_multiple_of(BLOCK);
        let mut factors = layer.multipliers.clone();
        factors.resize(padded, Multiplier { value: 0, shift: 0 });
        let mut biases: Vec<i32> =
            (0..layer.outputs).map(|output| corrected_bias(layer, output, offset)).collect();
        biases.resize(padded, 0);
        let shifts: Vec<i64> = factors.iter().map(|factor| 31 - i64::from(factor.shift)).collect();
        Self {
            biases,
            mantissas: factors.iter().map(|factor| factor.value).collect(),
            addends: evens_first(shifts.iter().map(|shift| (1 << (shift - 1)) ^ i64::MIN)),
            surplus: shifts.iter().map(|shift| ((1_u64 << 63) >> shift) as i32).collect(),
            shifts: evens_first(shifts.iter().copied()),
            limits: factors.iter().map(|factor| accumulator_limit(factor.shift)).collect(),
            any_left: factors.iter().any(|factor| factor.shift > 0),
            stage: layer.output_stage(),
        }
    }
}

/// A mantissa is 2^30 or more: from this limit on a product has a magnitude of 2^9 or more, beyond all codes
/// whatever the zero point. One above the limit, it stays below 2^31.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the SIMD kernels need it"))]
fn accumulator_limit(shift: i8) -> i32 {
    match shift {
        ..=0 => i32::MAX,
        1..=10 => 1 << (10 - shift),
        11.. => 1,
    }
}

/// Of every 8 values first those at even places, then those at odd ones.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the SIMD kernels need it"))]
fn evens_first(values: impl Iterator<Item = i64>) -> Vec<i64> {
    let values: Vec<i64> = values.collect();
    let (eights, _) = values.as_chunks::<8>();
    eights.iter().flat_map(|&[a, b, c, d, e, f, g, h]| [a, c, e, g, b, d, f, h]).collect()
}

/// The bias with `offset × sum of weights` taken off, so that a kernel can multiply codes as they are.
/// Models are checked so that nothing overflows; wrapping keeps kernels equal even where one is not.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the SIMD kernels need it"))]
fn corrected_bias(layer: &Layer, output: usize, offset: i32) -> i32 {
    let sum = layer.row(output).iter().fold(0_i32, |sum, &weight| sum.wrapping_add(i32::from(weight)));
    layer.biases[output].wrapping_sub(sum.wrapping_mul(offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::format::Activation;
    use crate::model::random::Random;
    use proptest::prelude::*;

    /// A layer of random content; `extreme` draws weights and codes from the ends of their range only.
    fn layer(inputs: usize, outputs: usize, relu: bool, extreme: bool, random: &mut Random) -> Layer {
        let weights = (0..inputs * outputs).map(|_| code(extreme, random)).collect();
        let biases = (0..outputs).map(|_| (random.next_u64() as i32) >> (random.below(32) as u32)).collect();
        let multipliers = (0..outputs)
            .map(|_| match random.below(8) {
                0 => Multiplier { value: 0, shift: 0 },
                1 => Multiplier { value: i32::MAX, shift: random.below(31) as i8 },
                2 => Multiplier { value: 1 << 30, shift: random.below(31) as i8 },
                _ => Multiplier {
                    value: (1 << 30) + random.below(1 << 30) as i32,
                    shift: -(random.below(32) as i8),
                },
            })
            .collect();
        let output = Quantization { scale: 1.0, zero_point: random.next_u64() as i8 };
        let activation = if relu { Activation::Relu } else { Activation::Linear };
        Layer { inputs, outputs, activation, weights, biases, multipliers, output }
    }

    fn code(extreme: bool, random: &mut Random) -> i8 {
        match (extreme, random.below(2)) {
            (false, _) => random.next_u64() as i8,
            (true, 0) => i8::MIN,
            (true, _) => i8::MAX,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn every_kernel_equals_the_reference(
            inputs in 1_usize..70,
            outputs in 1_usize..150,
            count in 0_usize..15,
            relu in any::<bool>(),
            extreme in any::<bool>(),
            zero_point in prop_oneof![Just(i8::MIN), Just(i8::MAX), any::<i8>()],
            seed in any::<u64>(),
        ) {
            let mut random = Random::new(seed);
            let layer = layer(inputs, outputs, relu, extreme, &mut random);
            let codes: Vec<i8> = (0..count * inputs).map(|_| code(extreme, &mut random)).collect();
            let run = |kernel, codes: &[i8], count: usize| {
                let mut out = vec![0; count * outputs];
                FullyConnected::new(&layer, zero_point, kernel)
                    .run(codes, count, &mut out, &mut Workspace::default());
                out
            };
            let want = run(Kernel::Scalar, &codes, count);
            for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.available()) {
                prop_assert_eq!(&run(kernel, &codes, count), &want, "{}", kernel);
                // One row at a time, the other path of every kernel.
                let single: Vec<i8> = codes.chunks(inputs).flat_map(|row| run(kernel, row, 1)).collect();
                prop_assert_eq!(&single, &want, "{} row by row", kernel);
            }
            // The AVX-512 kernel's layout and tiling, with its instructions emulated: on every x86-64.
            #[cfg(target_arch = "x86_64")]
            {
                let packed = avx512vnni::Packed::new(&layer, zero_point);
                let mut out = vec![0; count * outputs];
                packed.run_emulated(&codes, count, &mut out, &mut Vec::new());
                prop_assert_eq!(&out, &want, "avx512-vnni, emulated");
            }
        }

        #[test]
        fn rows_are_quantized_and_compared_alike_by_every_kernel(
            values in prop::collection::vec(prop_oneof![-10_f32..10.0, any::<f32>()], 1..60),
            scale in 1e-3_f32..1.0,
            zero_point in any::<i8>(),
        ) {
            let map = Quantization { scale, zero_point };
            let codes = |kernel| {
                let mut codes = vec![0; values.len()];
                quantize_rows(kernel, map, &values, &mut codes);
                codes
            };
            let want = codes(Kernel::Scalar);
            let each: Vec<i8> = values.iter().map(|&value| map.quantize(value)).collect();
            prop_assert_eq!(&want, &each);
            let error = |kernel| {
                let mut score = [0.0];
                mean_squared_errors(kernel, map, &values, &want, values.len(), &mut score);
                score[0].to_bits()
            };
            for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.available()) {
                prop_assert_eq!(codes(kernel), want.clone(), "{}", kernel);
                let (got, reference) = (error(kernel), error(Kernel::Scalar));
                let both_nan = f64::from_bits(got).is_nan() && f64::from_bits(reference).is_nan();
                prop_assert!(got == reference || both_nan, "{}", kernel);
            }
        }
    }

    #[test]
    fn wide_rows_of_extremes_do_not_saturate_on_the_way() {
        // 16,384 products of -128 and -128 reach 2^28, far beyond what 16-bit pair sums could hold.
        let inputs = crate::model::format::WIDTH_MAX;
        let mut layer = layer(inputs, 3, false, true, &mut Random::new(1));
        layer.weights.fill(i8::MIN);
        layer.biases.fill(-(1 << 28));
        layer.multipliers.fill(Multiplier { value: 1 << 30, shift: -21 });
        layer.output.zero_point = 0;
        let mut codes = vec![i8::MIN; inputs * 2];
        codes[inputs..].fill(i8::MAX);
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.available()) {
            let mut out = vec![1; 6];
            let packed = FullyConnected::new(&layer, 0, kernel);
            packed.run(&codes, 2, &mut out, &mut Workspace::default());
            // (2^28 - 2^28) / 2^22 and (-16,384 · 127 · 128 - 2^28) / 2^22 = -127.5, halves up.
            assert_eq!(out, [0, 0, 0, -127, -127, -127], "{kernel}");
        }
    }

    #[test]
    fn a_kernel_is_chosen_by_name_or_refused_with_what_there_is() {
        assert_eq!(Kernel::parse("scalar").unwrap(), Kernel::Scalar);
        assert_eq!(Kernel::parse("auto").unwrap(), Kernel::best());
        assert!(Kernel::best().available());
        let error = Kernel::parse("sse9").unwrap_err().message;
        assert!(
            error.contains("\"sse9\" does not exist; choose auto, scalar, avx2 or avx512-vnni"),
            "{error}"
        );
        for kernel in Kernel::ALL {
            match Kernel::parse(kernel.name()) {
                Ok(parsed) => assert!(parsed == kernel && kernel.available()),
                Err(error) => {
                    assert!(!kernel.available());
                    assert!(error.message.contains("cannot run kernel") && error.message.contains("scalar"));
                }
            }
        }
    }
}
