//! Affine int8 quantization and fixed-point requantization: the arithmetic every kernel must reproduce
//! bit for bit. Pure: numbers in, numbers out.
//!
//! The scheme is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference" (CVPR 2018), with the int8 conventions of the LiteRT (TensorFlow
//! Lite) 8-bit quantization specification: `real = scale * (quantized - zero_point)`, activations
//! asymmetric per tensor, weights symmetric per output channel, biases i32 with the scale
//! `input scale * weight scale` and zero point 0.
//!
//! Requantization is LiteRT's `MultiplyByQuantizedMultiplier` in its single-rounding form (kernels built
//! with `TFLITE_SINGLE_ROUNDING`): one 64-bit product, one rounding. The older form, gemmlowp's
//! `SaturatingRoundingDoublingHighMul` followed by `RoundingDivideByPOT`, rounds twice and is off by a code
//! now and then; the two cannot both be matched, and the MLPerf Tiny autoencoder's reference outputs are
//! those of the single rounding.

use crate::error::{Error, Result};

/// The affine map between real values and int8 codes of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    /// Real distance between two neighbouring codes; finite, normal and positive.
    pub scale: f32,
    /// The code that stands for 0.0 exactly.
    pub zero_point: i8,
}

impl Quantization {
    /// The map that covers `[low, high]`, widened to contain 0 so that zero has a code of its own, with
    /// the zero point nudged to the nearest code as LiteRT's `ChooseQuantizationParams` does. An empty
    /// range gives scale 1 and zero point 0. Both ends must be finite.
    pub fn from_range(low: f32, high: f32) -> Self {
        assert!(low.is_finite() && high.is_finite(), "a quantization range must be finite");
        let low = f64::from(low.min(0.0));
        let high = f64::from(high.max(0.0));
        if low == high {
            return Self { scale: 1.0, zero_point: 0 };
        }
        let scale = ((high - low) / 255.0).max(f64::from(f32::MIN_POSITIVE)) as f32;
        let zero_point = (-128.0 - low / f64::from(scale)).round().clamp(-128.0, 127.0) as i8;
        Self { scale, zero_point }
    }

    /// The code of `value`: `value / scale` in f32, rounded half away from zero (LiteRT's `TfLiteRound`),
    /// plus the zero point, saturated to int8. NaN becomes the zero point.
    #[inline(always)]
    pub fn quantize(self, value: f32) -> i8 {
        // The clamp keeps the cast exact and leaves every code that is not saturated untouched.
        let quotient = (value / self.scale).clamp(-1024.0, 1024.0);
        let whole = quotient as i32;
        let fraction = quotient - whole as f32;
        let away = i32::from(fraction >= 0.5) - i32::from(fraction <= -0.5);
        (whole + away + i32::from(self.zero_point)).clamp(-128, 127) as i8
    }

    /// The real value that a code stands for.
    #[inline(always)]
    pub fn dequantize(self, code: i8) -> f32 {
        (i32::from(code) - i32::from(self.zero_point)) as f32 * self.scale
    }

    /// Refuses a scale that is not finite, normal and positive; `place` names the tensor.
    pub fn check(self, place: &str) -> Result<()> {
        if self.scale.is_normal() && self.scale > 0.0 {
            return Ok(());
        }
        Err(Error::model(format!("{place}: the scale {} is not a normal positive number", self.scale)))
    }
}

/// A non-negative real factor as a Q0.31 mantissa and a power of two: `value / 2^31 * 2^shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multiplier {
    /// The mantissa: 0, or in `[2^30, 2^31)`.
    pub value: i32,
    /// The power of two, in `-31..=30`; negative shifts right.
    pub shift: i8,
}

impl Multiplier {
    /// Decomposes a factor as LiteRT's `QuantizeMultiplier` does: factors below 2^-32 become zero,
    /// factors too large for a shift of 30 become the largest that single rounding takes. Negative and non-finite factors are bugs
    /// of the caller.
    pub fn from_real(factor: f64) -> Self {
        assert!(
            factor.is_finite() && factor >= 0.0,
            "a requantization factor must be finite and not negative"
        );
        if factor == 0.0 {
            return Self { value: 0, shift: 0 };
        }
        let (fraction, mut exponent) = split_exponent(factor);
        let mut mantissa = (fraction * 2_147_483_648.0).round() as i64;
        if mantissa == 1 << 31 {
            mantissa >>= 1;
            exponent += 1;
        }
        match exponent {
            ..-31 => Self { value: 0, shift: 0 },
            31.. => Self { value: i32::MAX, shift: 30 },
            _ => Self { value: mantissa as i32, shift: exponent as i8 },
        }
    }

    /// The real factor this stands for.
    pub fn to_real(self) -> f64 {
        f64::from(self.value) / 2_147_483_648.0 * 2f64.powi(i32::from(self.shift))
    }

    /// Refuses what [`Multiplier::from_real`] never makes; `place` names the channel.
    pub fn check(self, place: &dyn Fn() -> String) -> Result<()> {
        let normal = self.value >= 1 << 30 && (-31..=30).contains(&self.shift);
        if normal || (self.value == 0 && self.shift == 0) {
            return Ok(());
        }
        let Self { value, shift } = self;
        Err(Error::model(format!("{}: {value} with shift {shift} is not a requantization factor", place())))
    }
}

/// `frexp` for a positive finite number: a fraction in `[0.5, 1)` and the power of two beside it.
fn split_exponent(value: f64) -> (f64, i32) {
    let bits = value.to_bits();
    let exponent = (bits >> 52) as i32 & 0x7ff;
    if exponent == 0 {
        let (fraction, scaled) = split_exponent(value * 2f64.powi(64));
        return (fraction, scaled - 64);
    }
    (f64::from_bits(bits & !(0x7ff << 52) | (1022 << 52)), exponent - 1022)
}

/// The accumulator times the factor, rounded once to the nearest integer, halves up: the single-rounding
/// `MultiplyByQuantizedMultiplier`. The result is left in 64 bits; LiteRT demands that it fit 32.
#[inline(always)]
pub fn multiply_by_quantized_multiplier(accumulator: i32, multiplier: Multiplier) -> i64 {
    // 1 to 62, so the half below is at most 2^61 beside a product of at most 2^62.
    let shift = 31 - i32::from(multiplier.shift);
    let half = 1_i64 << (shift - 1);
    (i64::from(accumulator) * i64::from(multiplier.value) + half) >> shift
}

/// What turns an accumulator of one layer into a code: output zero point and the range of the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputStage {
    /// The zero point of the layer's output.
    pub zero_point: i8,
    /// The smallest code: -128, or the zero point under a ReLU.
    pub low: i8,
    /// The largest code.
    pub high: i8,
}

/// One accumulator to one code: scaled, shifted by the zero point, clamped to the activation's range.
#[inline(always)]
pub fn requantize(accumulator: i32, multiplier: Multiplier, stage: OutputStage) -> i8 {
    let zero_point = i64::from(stage.zero_point);
    let scaled = multiply_by_quantized_multiplier(accumulator, multiplier);
    (scaled + zero_point).clamp(i64::from(stage.low), i64::from(stage.high)) as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn multipliers_decompose_as_in_litert() {
        // Factor, mantissa, shift: the cases of LiteRT's quantization_util_test.
        let cases = [
            (0.0, 0, 0),
            (0.25, 1 << 30, -1),
            (0.5 - 5e-9, 2_147_483_627, -1),
            (0.5 - 1e-10, 1 << 30, 0),
            (0.5, 1 << 30, 0),
            (0.75, 1_610_612_736, 0),
            (1.0 - 1e-9, 2_147_483_646, 0),
            (1.0 + 1e-11, 1 << 30, 1),
            (1.25, 1_342_177_280, 1),
            (1.75, 1_879_048_192, 1),
            (2.0 - 1e-9, 2_147_483_647, 1),
            (2.0 - 1e-11, 1 << 30, 2),
            (2.0, 1 << 30, 2),
            // Beyond both ends of the shift.
            (2f64.powi(-33), 0, 0),
            (2f64.powi(-32), 1 << 30, -31),
            (f64::MIN_POSITIVE / 8.0, 0, 0),
            (2f64.powi(40), i32::MAX, 30),
        ];
        for (factor, value, shift) in cases {
            assert_eq!(Multiplier::from_real(factor), Multiplier { value, shift }, "factor {factor:e}");
        }
    }

    #[test]
    fn products_are_rounded_once_and_halves_go_up() {
        let cases = [
            (1, 0.5, 1),
            (-1, 0.5, 0),
            (3, 0.5, 2),
            (-3, 0.5, -1),
            (100, 1.0, 100),
            (7, 2.0, 14),
            (i32::MAX, 1.0, i64::from(i32::MAX)),
            (i32::MIN, 2.0, -(1 << 32)),
            (i32::MIN, 2f64.powi(-31), -1),
            (5, 0.0, 0),
        ];
        for (accumulator, factor, want) in cases {
            let got = multiply_by_quantized_multiplier(accumulator, Multiplier::from_real(factor));
            assert_eq!(got, want, "{accumulator} * {factor}");
        }
        let stage = OutputStage { zero_point: -10, low: -10, high: 127 };
        let code = |accumulator| requantize(accumulator, Multiplier::from_real(0.25), stage);
        assert_eq!([code(-400), code(0), code(40), code(2000)], [-10, -10, 0, 127]);
    }

    /// gemmlowp's two roundings, which this module deliberately does not use.
    fn rounded_twice(accumulator: i32, multiplier: Multiplier) -> i64 {
        let product = i64::from(accumulator) * i64::from(multiplier.value);
        let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
        let high = ((product + nudge) / (1 << 31)) as i32;
        let exponent = -i32::from(multiplier.shift);
        let mask = (1 << exponent) - 1;
        let threshold = (mask >> 1) + i32::from(high < 0);
        i64::from((high >> exponent) + i32::from((high & mask) > threshold))
    }

    #[test]
    fn a_product_just_under_a_half_is_not_rounded_up_by_way_of_a_half() {
        // 383.6 / 256 = 1.498…: nearest is 1. Rounded first to 384, it looks like one and a half.
        let multiplier = Multiplier { value: (383.6 / 384.0 * 2_147_483_648.0) as i32, shift: -8 };
        assert_eq!(multiply_by_quantized_multiplier(384, multiplier), 1);
        assert_eq!(rounded_twice(384, multiplier), 2);
        assert_eq!(multiply_by_quantized_multiplier(-384, multiplier), -1);
        assert_eq!(rounded_twice(-384, multiplier), -2);
    }

    proptest! {
        #[test]
        fn requantize_equals_the_wide_reference(
            accumulator in prop_oneof![any::<i32>(), -40_000..40_000_i32],
            mantissa in prop_oneof![Just(0), Just(i32::MAX), (1 << 30)..=i32::MAX],
            shift in -31..=30_i8,
            zero_point in any::<i8>(),
            relu in any::<bool>(),
        ) {
            let low = if relu { zero_point } else { -128 };
            let stage = OutputStage { zero_point, low, high: 127 };
            let shift = if mantissa == 0 { 0 } else { shift };
            let multiplier = Multiplier { value: mantissa, shift };
            // Twice the exact product over its denominator, plus one, halved: the nearest, halves up.
            let denominator = 1_i128 << (31 - i32::from(shift));
            let twice = 2 * i128::from(accumulator) * i128::from(mantissa);
            let rounded = (twice + denominator).div_euclid(2 * denominator);
            let want = (rounded + i128::from(zero_point)).clamp(i128::from(low), 127) as i8;
            prop_assert_eq!(requantize(accumulator, multiplier, stage), want);
            let real = (f64::from(accumulator) * multiplier.to_real() + f64::from(zero_point))
                .clamp(f64::from(low), 127.0);
            prop_assert!((f64::from(want) - real).abs() <= 0.5, "{} against {}", want, real);
        }

        #[test]
        fn a_code_survives_the_way_there_and_back(low in -1e6_f32..0.0, high in 0.0_f32..1e6, code in any::<i8>()) {
            let map = Quantization::from_range(low, high);
            prop_assert_eq!(map.quantize(map.dequantize(code)), code);
            prop_assert_eq!(map.dequantize(map.zero_point), 0.0);
        }

        #[test]
        fn a_value_in_range_moves_at_most_half_a_step(low in -100_f32..0.0, width in 0.1_f32..1e3, at in 0.0_f32..1.0) {
            let high = (low + width).max(0.0);
            let map = Quantization::from_range(low, high);
            let value = low + (high - low) * at;
            // The nudged zero point can cost half a step more at the two ends.
            prop_assert!((map.dequantize(map.quantize(value)) - value).abs() <= map.scale * 1.001);
        }
    }

    #[test]
    fn quantize_rounds_half_away_from_zero_and_saturates() {
        let map = Quantization { scale: 0.5, zero_point: 3 };
        let cases = [
            (0.0, 3),
            (0.25, 4),
            (-0.25, 2),
            (0.249_999_99, 3),
            (0.75, 5),
            (-0.75, 1),
            (1e30, 127),
            (-1e30, -128),
            (f32::INFINITY, 127),
            (f32::NEG_INFINITY, -128),
            (f32::NAN, 3),
        ];
        for (value, code) in cases {
            assert_eq!(map.quantize(value), code, "value {value}");
        }
        let empty = Quantization::from_range(0.0, 0.0);
        assert_eq!((empty.scale, empty.zero_point), (1.0, 0));
        assert_eq!(Quantization::from_range(0.0, 5.1).zero_point, -128);
        assert_eq!(Quantization::from_range(-5.1, 0.0).zero_point, 127);
    }
}
