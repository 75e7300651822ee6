//! Numbers in text: a scanner for the JSON grammar that reads eight digits at a time, and exact conversions. Pure.
//!
//! `f64` and `f32` results equal `str::parse` bit for bit: where mantissa and power of ten are both exact in the
//! type, one multiplication or division rounds correctly (W. D. Clinger, "How to Read Floating Point Numbers
//! Accurately", 1990); everything else goes to `str::parse`. The parallel digit conversion is the well-known one
//! on 64-bit words (D. Lemire, "Number Parsing at a Gigabyte per Second", 2021).

use super::fields::FieldKind;
use super::payload::BadReason;
use super::timestamp;

/// Powers of ten that are exact in `f64`.
const POWERS_F64: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Powers of ten that are exact in `f32`.
const POWERS_F32: [f32; 11] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];

/// Powers of ten that fit 64 bits.
const POWERS_U64: [u64; 20] = {
    let mut powers = [1; 20];
    let mut i = 1;
    while i < 20 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// A decimal number: ± `mantissa` · 10^`exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    /// The first 19 significant digits at most.
    pub(super) mantissa: u64,
    pub(super) exponent: i64,
    pub(super) negative: bool,
    /// Digits follow that the mantissa does not hold.
    pub(super) truncated: bool,
}

/// Eight bytes from `at`, the first one lowest; bytes past the end are 0.
#[inline(always)]
pub(super) fn load8(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => load_tail(bytes, at),
    }
}

#[inline(never)]
fn load_tail(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    match bytes.last_chunk::<8>() {
        _ if rest.is_empty() => 0,
        Some(chunk) => u64::from_le_bytes(*chunk) >> (64 - 8 * rest.len()),
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

/// How many of the eight bytes are leading decimal digits, and their value.
#[inline(always)]
fn digits8(word: u64) -> (usize, u64) {
    const LOW_7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let nibbles = word ^ 0x3030_3030_3030_3030;
    let others = (((nibbles & LOW_7) + 0x7676_7676_7676_7676) | nibbles) & !LOW_7;
    let count = others.trailing_zeros() / 8;
    if count == 0 {
        return (0, 0);
    }
    // Shifted up so that the last digit is the highest byte; the bytes that come in are leading zeros.
    let digits = nibbles << (64 - 8 * count);
    let pairs = (digits * 10).wrapping_add(digits >> 8);
    let high = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let low = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    (count as usize, high.wrapping_add(low) >> 32)
}

/// Goes on after eight digits or more. The value wraps beyond 19 digits.
#[inline(never)]
fn more_digits(bytes: &[u8], mut at: usize, mut value: u64) -> (usize, u64) {
    loop {
        let (count, digits) = digits8(load8(bytes, at));
        value = value.wrapping_mul(power_u64(count)).wrapping_add(digits);
        at += count;
        if count < 8 {
            return (at, value);
        }
    }
}

/// 10^`exponent` for `exponent` up to 19.
#[inline(always)]
fn power_u64(exponent: usize) -> u64 {
    POWERS_U64.get(exponent).copied().unwrap_or(0)
}

/// Scans a number of the JSON grammar (RFC 8259 §6) that starts at `start`. Returns it and where it ends, or
/// nothing if there is none. What follows the number is the caller's to judge.
///
/// Inlined where numbers are the hot path, since its result is slow to pass through memory; elsewhere there is
/// [`scan_apart`].
#[inline(always)]
pub(super) fn scan(bytes: &[u8], start: usize) -> Option<(Number, usize)> {
    let negative = bytes.get(start) == Some(&b'-');
    let whole_at = start + usize::from(negative);
    let (count, mut mantissa) = digits8(load8(bytes, whole_at));
    let mut at = whole_at + count;
    if count == 8 {
        // Times have 10 to 19 digits: the second eight are as common as the first.
        let (count, value) = digits8(load8(bytes, at));
        mantissa = mantissa * power_u64(count) + value;
        at += count;
        if count == 8 {
            (at, mantissa) = more_digits(bytes, at, mantissa);
        }
    }
    let mut digits = at - whole_at;
    if digits == 0 || (digits > 1 && bytes.get(whole_at) == Some(&b'0')) {
        return None;
    }
    let mut exponent = 0;
    if bytes.get(at) == Some(&b'.') {
        let fraction_at = at + 1;
        let (count, value) = digits8(load8(bytes, fraction_at));
        if count == 0 {
            return None;
        }
        mantissa = mantissa.wrapping_mul(power_u64(count)).wrapping_add(value);
        at = fraction_at + count;
        if count == 8 {
            (at, mantissa) = more_digits(bytes, at, mantissa);
        }
        exponent = -((at - fraction_at) as i64);
        digits += at - fraction_at;
    }
    let digits_end = at;
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let (shift, end) = scan_exponent(bytes, at + 1)?;
        exponent += shift;
        at = end;
    }
    let number = Number { mantissa, exponent, negative, truncated: false };
    if digits <= 19 {
        return Some((number, at));
    }
    Some((long(bytes.get(whole_at..digits_end)?, number), at))
}

/// [`scan`], not inlined.
#[inline(never)]
pub(super) fn scan_apart(bytes: &[u8], start: usize) -> Option<(Number, usize)> {
    scan(bytes, start)
}

/// Where the number that starts at `start` ends: [`scan`] without its value.
#[inline]
pub(super) fn skip(bytes: &[u8], start: usize) -> Option<usize> {
    let digits = |at: usize| {
        let rest = bytes.get(at..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let whole_at = start + usize::from(bytes.get(start) == Some(&b'-'));
    let count = digits(whole_at);
    if count == 0 || (count > 1 && bytes.get(whole_at) == Some(&b'0')) {
        return None;
    }
    let mut at = whole_at + count;
    if bytes.get(at) == Some(&b'.') {
        let count = digits(at + 1);
        if count == 0 {
            return None;
        }
        at += 1 + count;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'-' | b'+')));
        let count = digits(at);
        if count == 0 {
            return None;
        }
        at += count;
    }
    Some(at)
}

/// The digits after `e`, with their sign; an exponent beyond a million says no more than a million.
#[inline(never)]
fn scan_exponent(bytes: &[u8], mut at: usize) -> Option<(i64, usize)> {
    let sign = bytes.get(at).copied();
    at += usize::from(matches!(sign, Some(b'-' | b'+')));
    let digits_at = at;
    let mut value: i64 = 0;
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        // Saturates where even a mantissa as long as the longest payload cannot bring the number back in range.
        value = (value * 10 + i64::from(digit - b'0')).min(1 << 40);
        at += 1;
    }
    if at == digits_at {
        return None;
    }
    Some((if sign == Some(b'-') { -value } else { value }, at))
}

/// The first 19 significant digits of more than 19 digits (and a point); `number` brings exponent and sign.
#[inline(never)]
fn long(text: &[u8], number: Number) -> Number {
    let (mut mantissa, mut kept, mut dropped, mut truncated) = (0u64, 0, 0i64, false);
    for byte in text.iter().filter(|byte| **byte != b'.') {
        let digit = byte - b'0';
        if kept == 19 {
            dropped += 1;
            truncated |= digit != 0;
        } else {
            mantissa = mantissa * 10 + u64::from(digit);
            kept += u32::from(mantissa != 0);
        }
    }
    Number { mantissa, exponent: number.exponent + dropped, truncated, ..number }
}

impl Number {
    /// The nearest `f64`; `token` is the number's text.
    #[inline(always)]
    pub(super) fn to_f64(self, token: &[u8]) -> Result<f64, BadReason> {
        let power = POWERS_F64.get(self.exponent.unsigned_abs() as usize);
        match power {
            Some(power) if self.mantissa <= 1 << 53 && !self.truncated => {
                let mantissa = self.mantissa as f64;
                let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
                Ok(if self.negative { -value } else { value })
            }
            _ => parse_f64(token),
        }
    }

    /// The nearest `f32`; `token` is the number's text.
    #[inline(always)]
    pub(super) fn to_f32(self, token: &[u8]) -> Result<f32, BadReason> {
        let power = POWERS_F32.get(self.exponent.unsigned_abs() as usize);
        match power {
            Some(power) if self.mantissa <= 1 << 24 && !self.truncated => {
                let mantissa = self.mantissa as f32;
                let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
                Ok(if self.negative { -value } else { value })
            }
            _ => parse_f32(token),
        }
    }

    /// The number as an integer: `12`, `12.0` and `1.2e1` are 12, `12.5` is none.
    #[inline(always)]
    pub(super) fn to_i64(self) -> Result<i64, BadReason> {
        let (magnitude, exact) = self.shifted(0).ok_or(BadReason::OutOfRange)?;
        if !exact {
            return Err(BadReason::WrongType);
        }
        signed(magnitude, self.negative).ok_or(BadReason::OutOfRange)
    }

    /// ⌊number · 10^`power`⌋, or nothing where 64 bits do not hold it.
    #[inline(always)]
    pub(super) fn floor_scaled(self, power: i64) -> Option<i64> {
        let (magnitude, exact) = self.shifted(power)?;
        signed(magnitude.checked_add(u64::from(self.negative && !exact))?, self.negative)
    }

    /// |number| · 10^`power` without what stands behind the point, and whether nothing stood there.
    #[inline(always)]
    fn shifted(self, power: i64) -> Option<(u64, bool)> {
        let exponent = self.exponent + power;
        if exponent == 0 || self.mantissa == 0 {
            return Some((self.mantissa, !self.truncated));
        }
        let power = POWERS_U64.get(exponent.unsigned_abs() as usize);
        if exponent < 0 {
            let Some(power) = power else { return Some((0, false)) };
            return Some((self.mantissa / power, !self.truncated && self.mantissa.is_multiple_of(*power)));
        }
        // Digits that the mantissa lacks stand before the point here, beyond 64 bits.
        if self.truncated {
            return None;
        }
        Some((self.mantissa.checked_mul(*power?)?, true))
    }

    /// [`Number::to_bits`], not inlined.
    #[inline(never)]
    pub(super) fn to_bits_apart(self, kind: FieldKind, token: &[u8]) -> Result<u64, BadReason> {
        self.to_bits(kind, token)
    }

    /// The bits that a slot of this kind takes.
    #[inline(always)]
    pub(super) fn to_bits(self, kind: FieldKind, token: &[u8]) -> Result<u64, BadReason> {
        match kind {
            FieldKind::F64 => self.to_f64(token).map(f64::to_bits),
            FieldKind::F32 => self.to_f32(token).map(|value| u64::from(value.to_bits())),
            FieldKind::I64 => self.to_i64().map(|value| value as u64),
            FieldKind::Time(unit) => {
                timestamp::from_number(self, unit).map(|us| us as u64).ok_or(BadReason::BadTime)
            }
            FieldKind::Bool => match self.to_i64() {
                Ok(bit @ (0 | 1)) => Ok(bit as u64),
                _ => Err(BadReason::WrongType),
            },
            FieldKind::Text => Err(BadReason::WrongType),
        }
    }
}

#[inline]
fn signed(magnitude: u64, negative: bool) -> Option<i64> {
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

#[inline(never)]
fn parse_f64(token: &[u8]) -> Result<f64, BadReason> {
    match std::str::from_utf8(token).ok().and_then(|text| text.parse::<f64>().ok()) {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => Err(BadReason::OutOfRange),
        None => Err(BadReason::Malformed),
    }
}

#[inline(never)]
fn parse_f32(token: &[u8]) -> Result<f32, BadReason> {
    match std::str::from_utf8(token).ok().and_then(|text| text.parse::<f32>().ok()) {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => Err(BadReason::OutOfRange),
        None => Err(BadReason::Malformed),
    }
}

/// A value that stands alone as text: a CSV cell, a bare payload, the inside of a JSON string. The bits that a
/// slot of this kind takes, or nothing for a null.
///
/// Beyond the JSON grammar it takes what instruments write: white space around, a leading `+`, `.5`, `5.`,
/// leading zeros. `NaN` in any case says that there is no value: null. Infinities are out of range.
pub(super) fn text_to_bits(kind: FieldKind, text: &[u8]) -> Result<Option<u64>, BadReason> {
    let text = text.trim_ascii();
    match kind {
        FieldKind::Bool if text.eq_ignore_ascii_case(b"true") => return Ok(Some(1)),
        FieldKind::Bool if text.eq_ignore_ascii_case(b"false") => return Ok(Some(0)),
        FieldKind::Text => return Err(BadReason::WrongType),
        _ => {}
    }
    // A plus before a digit is common in logs; what else deviates is rewritten below.
    let unsigned = text.strip_prefix(b"+").filter(|rest| rest.first().is_some_and(u8::is_ascii_digit));
    let text = unsigned.unwrap_or(text);
    if let Some((number, end)) = scan_apart(text, 0)
        && end == text.len()
    {
        return number.to_bits_apart(kind, text).map(Some);
    }
    if let FieldKind::Time(unit) = kind {
        if let Some(us) = timestamp::from_text(text, unit) {
            return Ok(Some(us as u64));
        }
    } else if text.eq_ignore_ascii_case(b"nan") {
        return Ok(None);
    }
    if let Some(plain) = plain_number(text)
        && let Some((number, end)) = scan_apart(&plain, 0)
        && end == plain.len()
    {
        return number.to_bits_apart(kind, &plain).map(Some);
    }
    Err(match kind {
        FieldKind::Time(_) => BadReason::BadTime,
        FieldKind::F64 | FieldKind::F32 if is_infinity(text) => BadReason::OutOfRange,
        _ => BadReason::WrongType,
    })
}

fn is_infinity(text: &[u8]) -> bool {
    let word = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"infinity")
}

/// A number as people and instruments write it (`+1`, `007`, `.5`, `5.`), rewritten to the JSON grammar. This is
/// the rare way; it may allocate.
fn plain_number(text: &[u8]) -> Option<Vec<u8>> {
    let (sign, digits) = match text.split_first()? {
        (b'-', rest) => (&b"-"[..], rest),
        (b'+', rest) => (&b""[..], rest),
        _ => (&b""[..], text),
    };
    let end = digits.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(digits.len());
    let (number, exponent) = digits.split_at(end);
    let point = number.iter().position(|&byte| byte == b'.').unwrap_or(number.len());
    let (whole, fraction) = number.split_at(point);
    let fraction = fraction.strip_prefix(b".").unwrap_or(fraction);
    if (whole.is_empty() && fraction.is_empty()) || !whole.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = whole.iter().take_while(|&&byte| byte == b'0').count();
    let whole = whole.get(zeros..).filter(|rest| !rest.is_empty()).unwrap_or(b"0");
    let mut plain = Vec::with_capacity(text.len() + 2);
    plain.extend_from_slice(sign);
    plain.extend_from_slice(whole);
    if !fraction.is_empty() {
        plain.push(b'.');
        plain.extend_from_slice(fraction);
    }
    plain.extend_from_slice(exponent);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::timestamp::TimeUnit;

    fn whole(text: &str) -> Option<Number> {
        scan(text.as_bytes(), 0).filter(|(_, end)| *end == text.len()).map(|(number, _)| number)
    }

    #[test]
    fn grammar_is_that_of_json() {
        let good = [
            "0",
            "-0",
            "7",
            "12345678",
            "123456789",
            "1234567890123456789",
            "0.5",
            "-0.0",
            "1e5",
            "1E+5",
            "1e-5",
            "10.25e02",
            "123456789012345678901234567890",
            "0.00000000000000000000000001",
            "1e999",
            "0e0",
        ];
        for text in good {
            assert!(whole(text).is_some(), "{text}");
            // The same at every distance from the end of the bytes.
            for tail in 0..10 {
                let longer = format!("{text}{}", " ".repeat(tail));
                assert_eq!(scan(longer.as_bytes(), 0), Some((whole(text).unwrap(), text.len())));
            }
        }
        for text in [
            "", "-", "+1", "01", "-01", "00", ".5", "1.", "1.e5", "1e", "1e+", "NaN", "Infinity", "0x10",
            "--1", "1_0",
        ] {
            assert!(whole(text).is_none(), "{text}");
            assert!(skip(text.as_bytes(), 0).is_none_or(|end| end < text.len()), "{text}");
        }
    }

    #[test]
    fn integers_are_exact_or_refused() {
        use BadReason::{OutOfRange, WrongType};
        let cases = [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("12.0", Ok(12)),
            ("1.2e1", Ok(12)),
            ("120e-1", Ok(12)),
            ("12.5", Err(WrongType)),
            ("1e-400", Err(WrongType)),
            ("0e400", Ok(0)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(OutOfRange)),
            ("-9223372036854775809", Err(OutOfRange)),
            ("1e18", Ok(1_000_000_000_000_000_000)),
            ("1e19", Err(OutOfRange)),
            ("1e99999999999999999999", Err(OutOfRange)),
            ("12.000000000000000000000000", Ok(12)),
            ("12.000000000000000000000001", Err(WrongType)),
            ("99999999999999999999999", Err(OutOfRange)),
            ("1000000000000000000000e-3", Ok(1_000_000_000_000_000_000)),
        ];
        for (text, expected) in cases {
            assert_eq!(whole(text).unwrap().to_i64(), expected, "{text}");
        }
    }

    #[test]
    fn floats_out_of_range_are_refused() {
        assert_eq!(whole("1e999").unwrap().to_f64(b"1e999"), Err(BadReason::OutOfRange));
        assert_eq!(whole("-1e309").unwrap().to_f64(b"-1e309"), Err(BadReason::OutOfRange));
        assert_eq!(whole("1e39").unwrap().to_f32(b"1e39"), Err(BadReason::OutOfRange));
        assert_eq!(whole("1e-999").unwrap().to_f64(b"1e-999"), Ok(0.0));
        assert_eq!(whole("-0").unwrap().to_f64(b"-0").map(f64::to_bits), Ok((-0.0f64).to_bits()));
    }

    #[test]
    fn text_takes_what_instruments_write() {
        use BadReason::{BadTime, OutOfRange, WrongType};
        let f = |value: f64| Ok(Some(value.to_bits()));
        let cases = [
            ("12.5", f(12.5)),
            (" 12.5\t", f(12.5)),
            ("+12.5", f(12.5)),
            ("++1", Err(WrongType)),
            ("+007.", f(7.0)),
            ("007", f(7.0)),
            ("-.5", f(-0.5)),
            ("5.", f(5.0)),
            ("5.e1", f(50.0)),
            ("000", f(0.0)),
            ("NaN", Ok(None)),
            ("nan", Ok(None)),
            ("inf", Err(OutOfRange)),
            ("-Infinity", Err(OutOfRange)),
            ("1e999", Err(OutOfRange)),
            ("", Err(WrongType)),
            (".", Err(WrongType)),
            ("+", Err(WrongType)),
            ("+-1", Err(WrongType)),
            ("1 2", Err(WrongType)),
            ("12,5", Err(WrongType)),
            ("abc", Err(WrongType)),
        ];
        for (text, expected) in cases {
            assert_eq!(text_to_bits(FieldKind::F64, text.as_bytes()), expected, "{text:?}");
        }
        let bools =
            [("true", Ok(Some(1))), ("FALSE", Ok(Some(0))), ("1", Ok(Some(1))), ("2", Err(WrongType))];
        for (text, expected) in bools {
            assert_eq!(text_to_bits(FieldKind::Bool, text.as_bytes()), expected, "{text:?}");
        }
        let time = FieldKind::Time(TimeUnit::Seconds);
        assert_eq!(text_to_bits(time, b"1.5"), Ok(Some(1_500_000)));
        assert_eq!(text_to_bits(time, b"soon"), Err(BadTime));
    }

    fn close_to_a_number() -> impl Strategy<Value = String> {
        let digits = |most| proptest::collection::vec(0u8..10, 0..most);
        let join = |digits: Vec<u8>| digits.into_iter().map(|d| char::from(b'0' + d)).collect::<String>();
        (any::<bool>(), digits(25), proptest::option::of(digits(25)), proptest::option::of(-340i32..320))
            .prop_map(move |(minus, whole, fraction, exponent)| {
                let mut text = String::new();
                text.push_str(if minus { "-" } else { "" });
                text.push_str(&join(whole));
                if let Some(fraction) = fraction {
                    text.push('.');
                    text.push_str(&join(fraction));
                }
                if let Some(exponent) = exponent {
                    text.push_str(&format!("e{exponent}"));
                }
                text
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn floats_equal_those_of_the_standard_library(text in close_to_a_number()) {
            let accepted = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            let number = whole(&text);
            prop_assert_eq!(number.is_some(), accepted, "{}", text);
            prop_assert_eq!(skip(text.as_bytes(), 0) == Some(text.len()), accepted, "{}", text);
            let Some(number) = number else { return Ok(()) };
            let expected = text.parse::<f64>().unwrap();
            match number.to_f64(text.as_bytes()) {
                Ok(value) => prop_assert_eq!(value.to_bits(), expected.to_bits(), "{}", text),
                Err(_) => prop_assert!(expected.is_infinite(), "{}", text),
            }
            let expected = text.parse::<f32>().unwrap();
            match number.to_f32(text.as_bytes()) {
                Ok(value) => prop_assert_eq!(value.to_bits(), expected.to_bits(), "{}", text),
                Err(_) => prop_assert!(expected.is_infinite(), "{}", text),
            }
        }

        #[test]
        fn printed_values_come_back(value in any::<f64>().prop_filter("finite", |v| v.is_finite()), integer in any::<i64>()) {
            for text in [format!("{value}"), format!("{value:e}"), ryu::Buffer::new().format(value).to_owned()] {
                let number = whole(&text).unwrap();
                prop_assert_eq!(number.to_f64(text.as_bytes()).unwrap().to_bits(), value.to_bits());
            }
            prop_assert_eq!(whole(&integer.to_string()).unwrap().to_i64(), Ok(integer));
        }

        #[test]
        fn scaling_floors(mantissa in -10_000_000_000i64..10_000_000_000, decimals in 0usize..9, power in 0u32..7) {
            let scale = 10i64.pow(decimals as u32);
            let sign = if mantissa < 0 { "-" } else { "" };
            let (whole_part, rest) = (mantissa.abs() / scale, mantissa.abs() % scale);
            let text = if decimals == 0 { format!("{mantissa}") } else { format!("{sign}{whole_part}.{rest:0decimals$}") };
            let expected = (i128::from(mantissa) * 10i128.pow(power)).div_euclid(i128::from(scale));
            let scaled = whole(&text).unwrap().floor_scaled(i64::from(power));
            prop_assert_eq!(scaled.map(i128::from), Some(expected), "{}", text);
        }
    }
}
