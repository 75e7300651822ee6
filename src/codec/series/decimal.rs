//! Floats as integers: the order of their bits, and decimals with corrections. Pure.
//!
//! Sensors give decimal numbers, so most floats are some integer divided by a power of ten. Where a float is not quite
//! that (it was computed, or is the nearest `f32`), it is a few representable numbers beside it: the correction.
//! Any bit pattern is an integer and a correction, so nothing needs an exception.
//!
//! *Ordered* bits are the bits read as a signed integer, with all bits but the sign flipped where the sign is set: a
//! greater float has a greater ordered integer, and neighbours differ by one. −0.0 is −1, +0.0 is 0.

/// The powers of ten that are exact as `f64`.
pub(super) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Added to a number of less than 2^51, this leaves its nearest integer in the low bits.
const ROUNDER: f64 = 6_755_399_441_055_744.0;
const ROUNDED_MAX: f64 = (1u64 << 51) as f64;

/// The width of a float whose bits lie in the low end of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Float {
    Half,
    Single,
    Double,
}

/// The ordered integer of a double's bits; undoes itself.
#[inline]
fn ordered_double(bits: u64) -> i64 {
    let bits = bits as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[inline]
fn ordered_single(bits: u32) -> i64 {
    let bits = bits as i32;
    i64::from(bits ^ (((bits >> 31) as u32) >> 1) as i32)
}

#[inline]
fn single_of(ordered: i64) -> u32 {
    ordered_single(ordered as u32) as u32
}

#[inline]
fn ordered_half(bits: u16) -> i64 {
    let bits = bits as i16;
    i64::from(bits ^ (((bits >> 15) as u16) >> 1) as i16)
}

/// Ordered integers of words.
pub(super) fn order(float: Float, words: &[u64], out: &mut Vec<i64>) {
    out.clear();
    match float {
        Float::Half => out.extend(words.iter().map(|&word| ordered_half(word as u16))),
        Float::Single => out.extend(words.iter().map(|&word| ordered_single(word as u32))),
        Float::Double => out.extend(words.iter().map(|&word| ordered_double(word))),
    }
}

/// Undoes [`order`] in place: `values` come as ordered integers and leave as words.
pub(super) fn undo_order(float: Float, values: &mut [u64]) {
    match float {
        Float::Half => values.iter_mut().for_each(|value| *value = ordered_half(*value as u16) as u16 as u64),
        Float::Single => values.iter_mut().for_each(|value| *value = u64::from(single_of(*value as i64))),
        Float::Double => values.iter_mut().for_each(|value| *value = ordered_double(*value) as u64),
    }
}

/// The nearest integers to `words * 10^exponent`, and what is then missing, in ordered integers. Where there is no such
/// integer, the one before is taken. Says whether anything is missing.
pub(super) fn scale(
    float: Float,
    exponent: usize,
    words: &[u64],
    integers: &mut Vec<i64>,
    missing: &mut Vec<i64>,
) -> bool {
    let power = POWERS[exponent.min(POWERS.len() - 1)];
    integers.clear();
    integers.resize(words.len(), 0);
    missing.clear();
    missing.resize(words.len(), 0);
    let places = words.iter().zip(integers.iter_mut()).zip(missing.iter_mut());
    let mut outside = false;
    let mut any = 0;
    if float == Float::Double {
        for ((&word, integer), missing) in places {
            let scaled = f64::from_bits(word) * power;
            let fits = scaled.abs() < ROUNDED_MAX;
            outside |= !fits;
            let rounded = (if fits { scaled } else { 0.0 }) + ROUNDER;
            *integer = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()) as i64;
            let back = (rounded - ROUNDER) / power;
            *missing = ordered_double(word).wrapping_sub(ordered_double(back.to_bits()));
            any |= *missing;
        }
    } else {
        for ((&word, integer), missing) in places {
            let scaled = f64::from(f32::from_bits(word as u32)) * power;
            let fits = scaled.abs() < ROUNDED_MAX;
            outside |= !fits;
            let rounded = (if fits { scaled } else { 0.0 }) + ROUNDER;
            *integer = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()) as i64;
            let back = ((rounded - ROUNDER) / power) as f32;
            *missing = ordered_single(word as u32).wrapping_sub(ordered_single(back.to_bits()));
            any |= *missing;
        }
    }
    if outside {
        hold(float, power, words, integers, missing);
    }
    any != 0 || outside
}

/// Gives numbers that have no integer the integer before, so that the integers do not jump.
#[cold]
fn hold(float: Float, power: f64, words: &[u64], integers: &mut [i64], missing: &mut [i64]) {
    let mut before = 0;
    for ((&word, integer), missing) in words.iter().zip(integers).zip(missing) {
        let value = match float {
            Float::Double => f64::from_bits(word),
            _ => f64::from(f32::from_bits(word as u32)),
        };
        if (value * power).abs() < ROUNDED_MAX {
            before = *integer;
            continue;
        }
        *integer = before;
        let back = before as f64 / power;
        *missing = match float {
            Float::Double => ordered_double(word).wrapping_sub(ordered_double(back.to_bits())),
            _ => ordered_single(word as u32).wrapping_sub(ordered_single((back as f32).to_bits())),
        };
    }
}

/// Undoes [`scale`]: `values` come as integers and leave as words. No `missing` means that nothing is.
pub(super) fn undo_scale(float: Float, exponent: usize, values: &mut [u64], missing: Option<&[u64]>) {
    let power = POWERS[exponent.min(POWERS.len() - 1)];
    let double = |integer: u64, missing: u64| {
        let back = integer as i64 as f64 / power;
        ordered_double(ordered_double(back.to_bits()).wrapping_add(missing as i64) as u64) as u64
    };
    let single = |integer: u64, missing: u64| {
        let back = (integer as i64 as f64 / power) as f32;
        u64::from(single_of(ordered_single(back.to_bits()).wrapping_add(missing as i64)))
    };
    match (float, missing) {
        (Float::Double, None) => values.iter_mut().for_each(|value| *value = double(*value, 0)),
        (Float::Double, Some(missing)) => {
            values.iter_mut().zip(missing).for_each(|(value, &missing)| *value = double(*value, missing));
        }
        (_, None) => values.iter_mut().for_each(|value| *value = single(*value, 0)),
        (_, Some(missing)) => {
            values.iter_mut().zip(missing).for_each(|(value, &missing)| *value = single(*value, missing));
        }
    }
}

/// A single's bits as those of the double with the same value, NaN payloads and all.
#[inline]
fn widened(single: u32) -> u64 {
    if single >> 23 & 0xff == 0xff {
        let sign = u64::from(single >> 31) << 63;
        return sign | 0x7ff << 52 | u64::from(single & 0x7f_ffff) << 29;
    }
    f64::from(f32::from_bits(single)).to_bits()
}

#[inline]
fn narrowed(double: u64) -> u32 {
    if double >> 52 & 0x7ff == 0x7ff {
        let sign = ((double >> 63) as u32) << 31;
        return sign | 0xff << 23 | (double >> 29 & 0x7f_ffff) as u32;
    }
    (f64::from_bits(double) as f32).to_bits()
}

/// The singles that all of these doubles are, if they are.
pub(super) fn narrow(words: &[u64], out: &mut Vec<u64>) -> bool {
    // Doubles that were never singles show it in their lowest bits at once.
    if words.iter().take(16).any(|&word| word & 0x1fff_ffff != 0 && word >> 52 & 0x7ff > 0x390) {
        return false;
    }
    out.clear();
    out.extend(words.iter().map(|&word| u64::from(narrowed(word))));
    words.iter().zip(out.iter()).all(|(&word, &single)| widened(single as u32) == word)
}

/// Undoes [`narrow`].
pub(super) fn undo_narrow(values: &mut [u64]) {
    values.iter_mut().for_each(|value| *value = widened(*value as u32));
}
