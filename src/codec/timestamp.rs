//! Times in payloads and in text: numbers of a unit and RFC 3339, to and from µs since 1970. Pure.
//!
//! Calendar arithmetic is the proleptic Gregorian one of H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
//! What is finer than a microsecond is cut off, towards the past.

use std::str::FromStr;

use super::fields::suggestion;
use super::number::Number;
use crate::error::{Error, Result};

const DAY_US: i64 = 86_400_000_000;

/// First supported time: 1900-01-01T00:00:00Z. Earlier ones are mistakes of unit or clock.
pub const TIME_US_MIN: i64 = -25_567 * DAY_US;

/// First time no longer supported: 2262-01-01T00:00:00Z, so that every time also fits nanoseconds in 64 bits.
pub const TIME_US_END: i64 = 106_651 * DAY_US;

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds since 1970, with or without a fraction.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// Microseconds since 1970.
    Microseconds,
    /// Nanoseconds since 1970.
    Nanoseconds,
    /// Text, see [`parse_rfc3339`].
    Rfc3339,
    /// Text as in `Rfc3339`; a number is taken as seconds below 10^11, milliseconds below 10^14, microseconds
    /// below 10^17, and nanoseconds from there: right for every time from March 1973 to the year 5138.
    Auto,
}

impl TimeUnit {
    /// The word that [`TimeUnit::from_str`] takes for it.
    pub fn word(self) -> &'static str {
        match self {
            TimeUnit::Seconds => "s",
            TimeUnit::Milliseconds => "ms",
            TimeUnit::Microseconds => "us",
            TimeUnit::Nanoseconds => "ns",
            TimeUnit::Rfc3339 => "rfc3339",
            TimeUnit::Auto => "auto",
        }
    }
}

impl FromStr for TimeUnit {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        Ok(match word {
            "s" => TimeUnit::Seconds,
            "ms" => TimeUnit::Milliseconds,
            "us" | "µs" => TimeUnit::Microseconds,
            "ns" => TimeUnit::Nanoseconds,
            "rfc3339" => TimeUnit::Rfc3339,
            "auto" => TimeUnit::Auto,
            _ => {
                let known = ["s", "ms", "us", "ns", "rfc3339", "auto"];
                let hint = suggestion(word, known.into_iter(), "one of");
                return Err(Error::config(format!("time unit \"{word}\" does not exist{hint}")));
            }
        })
    }
}

#[inline]
fn supported(us: i64) -> Option<i64> {
    (TIME_US_MIN..TIME_US_END).contains(&us).then_some(us)
}

/// A number of the unit as µs since 1970; nothing where it is outside the supported years or the unit is text.
#[inline(always)]
pub(super) fn from_number(number: Number, unit: TimeUnit) -> Option<i64> {
    let power = match unit {
        TimeUnit::Seconds => 6,
        TimeUnit::Milliseconds => 3,
        TimeUnit::Microseconds => 0,
        TimeUnit::Nanoseconds => -3,
        TimeUnit::Rfc3339 => return None,
        TimeUnit::Auto => match number.floor_scaled(0)?.unsigned_abs() {
            0..100_000_000_000 => 6,
            100_000_000_000..100_000_000_000_000 => 3,
            100_000_000_000_000..100_000_000_000_000_000 => 0,
            _ => -3,
        },
    };
    supported(number.floor_scaled(power)?)
}

/// A text that is no number as µs since 1970.
pub(super) fn from_text(text: &[u8], unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Rfc3339 | TimeUnit::Auto => parse_rfc3339(text),
        _ => None,
    }
}

/// Parses `2023-11-14T22:13:20.123456Z` (RFC 3339) into µs since 1970.
///
/// Also taken: a space or `t` for the `T`, `z`, a comma before the fraction, offsets `+01:00`, `+0100` and `+01`,
/// a fraction of any length, and no offset at all, which means UTC. Second 60 is the first of the next minute.
/// Nothing for any other text and for times outside the supported years.
pub fn parse_rfc3339(text: &[u8]) -> Option<i64> {
    let (head, mut rest) = text.split_first_chunk::<19>()?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T' | b't' | b' ', h0, h1, b':', n0, n1, b':', s0, s1] =
        *head
    else {
        return None;
    };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    let (month, day) = (two(m0, m1)?, two(d0, d1)?);
    let (hour, minute, second) = (two(h0, h1)?, two(n0, n1)?, two(s0, s1)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut fraction_us = 0;
    if let [b'.' | b',', digits @ ..] = rest {
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (fraction, after) = digits.split_at(count);
        let mut place = 100_000;
        for digit in fraction {
            fraction_us += i64::from(digit - b'0') * place;
            place /= 10;
        }
        if count == 0 {
            return None;
        }
        rest = after;
    }
    let offset_minutes = parse_offset(rest)?;
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    supported((seconds - offset_minutes * 60) * 1_000_000 + fraction_us)
}

/// Minutes east of UTC.
fn parse_offset(text: &[u8]) -> Option<i64> {
    let (sign, h0, h1, m0, m1) = match *text {
        [] | [b'Z' | b'z'] => return Some(0),
        [sign, h0, h1, b':', m0, m1] | [sign, h0, h1, m0, m1] => (sign, h0, h1, m0, m1),
        [sign, h0, h1] => (sign, h0, h1, b'0', b'0'),
        _ => return None,
    };
    let (hours, minutes) = (two(h0, h1)?, two(m0, m1)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    match sign {
        b'+' => Some(hours * 60 + minutes),
        b'-' => Some(-(hours * 60 + minutes)),
        _ => None,
    }
}

#[inline]
fn two(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the date.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // The year starts in March here, so that the leap day comes last.
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date (year, month, day) that many days after 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Writes times as RFC 3339 in UTC, remembering the last day: neighbouring times share it.
#[derive(Debug)]
pub struct TimeWriter {
    day: i64,
    /// `YYYY-MM-DDT`.
    date: Vec<u8>,
}

impl Default for TimeWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl TimeWriter {
    /// A writer that remembers no day yet.
    pub fn new() -> Self {
        Self { day: i64::MIN, date: Vec::with_capacity(16) }
    }

    /// Appends µs since 1970 as `2023-11-14T22:13:20.123456Z`, always with six decimals. Years beyond 9999 or
    /// before 0 are written in the expanded form of ISO 8601, `+012345-…`.
    pub fn write_us(&mut self, us: i64, out: &mut Vec<u8>) {
        self.write_seconds(us.div_euclid(1_000_000), out);
        let fraction = us.rem_euclid(1_000_000) as u32;
        let [a, b] = digits2(fraction / 10_000);
        let [c, d] = digits2(fraction / 100 % 100);
        let [e, f] = digits2(fraction % 100);
        out.extend_from_slice(&[b'.', a, b, c, d, e, f, b'Z']);
    }

    /// Appends ns since 1970 with nine decimals.
    pub fn write_ns(&mut self, ns: i64, out: &mut Vec<u8>) {
        self.write_us(ns.div_euclid(1_000), out);
        let [_, b] = digits2((ns.rem_euclid(1_000) / 100) as u32);
        let [c, d] = digits2((ns.rem_euclid(1_000) % 100) as u32);
        out.pop();
        out.extend_from_slice(&[b, c, d, b'Z']);
    }

    fn write_seconds(&mut self, seconds: i64, out: &mut Vec<u8>) {
        let day = seconds.div_euclid(86_400);
        if day != self.day {
            self.day = day;
            write_date(day, &mut self.date);
        }
        let second = seconds.rem_euclid(86_400) as u32;
        let [h0, h1] = digits2(second / 3_600);
        let [m0, m1] = digits2(second / 60 % 60);
        let [s0, s1] = digits2(second % 60);
        out.extend_from_slice(&self.date);
        out.extend_from_slice(&[h0, h1, b':', m0, m1, b':', s0, s1]);
    }
}

fn write_date(day: i64, date: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(day);
    date.clear();
    if (0..=9_999).contains(&year) {
        date.extend_from_slice(&digits2(year as u32 / 100));
        date.extend_from_slice(&digits2(year as u32 % 100));
    } else {
        date.extend_from_slice(format!("{year:+07}").as_bytes());
    }
    let [m0, m1] = digits2(month as u32);
    let [d0, d1] = digits2(day as u32);
    date.extend_from_slice(&[b'-', m0, m1, b'-', d0, d1, b'T']);
}

/// Two decimal digits of a number below 100.
#[inline]
fn digits2(value: u32) -> [u8; 2] {
    [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    use super::*;
    use crate::codec::number;

    fn number_of(text: &str, unit: TimeUnit) -> Option<i64> {
        from_number(number::scan(text.as_bytes(), 0).unwrap().0, unit)
    }

    fn written(us: i64) -> String {
        let mut out = Vec::new();
        TimeWriter::new().write_us(us, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_of_every_unit() {
        use TimeUnit::{Auto, Microseconds, Milliseconds, Nanoseconds, Rfc3339, Seconds};
        let cases = [
            ("0", Seconds, Some(0)),
            ("0", Nanoseconds, Some(0)),
            ("1700000000", Seconds, Some(1_700_000_000_000_000)),
            ("1700000000.123456789", Seconds, Some(1_700_000_000_123_456)),
            ("1.7e9", Seconds, Some(1_700_000_000_000_000)),
            ("-1.5", Seconds, Some(-1_500_000)),
            ("-0.0000001", Seconds, Some(-1)),
            ("1700000000.00000000000000000000001", Seconds, Some(1_700_000_000_000_000)),
            ("1700000000123", Milliseconds, Some(1_700_000_000_123_000)),
            ("1700000000123.5", Milliseconds, Some(1_700_000_000_123_500)),
            ("1700000000123456", Microseconds, Some(1_700_000_000_123_456)),
            ("1700000000123456789", Nanoseconds, Some(1_700_000_000_123_456)),
            ("-1", Nanoseconds, Some(-1)),
            ("4102444800", Seconds, Some(4_102_444_800_000_000)), // 2100-01-01
            ("4102444800000000000", Nanoseconds, Some(4_102_444_800_000_000)),
            ("9214646399", Seconds, Some(9_214_646_399_000_000)), // the last second of 2261
            ("9214646400", Seconds, None),
            ("-2208988800", Seconds, Some(-2_208_988_800_000_000)), // the first of 1900
            ("-2208988801", Seconds, None),
            ("1700000000123", Seconds, None),
            ("9223372036854775807", Milliseconds, None),
            ("1e300", Milliseconds, None),
            ("1700000000", Auto, Some(1_700_000_000_000_000)),
            ("1700000000123", Auto, Some(1_700_000_000_123_000)),
            ("1700000000123456", Auto, Some(1_700_000_000_123_456)),
            ("1700000000123456789", Auto, Some(1_700_000_000_123_456)),
            ("1700000000", Rfc3339, None),
        ];
        for (text, unit, expected) in cases {
            assert_eq!(number_of(text, unit), expected, "{text} {unit:?}");
        }
    }

    #[test]
    fn rfc3339_and_its_neighbours() {
        let at = 1_700_000_000_000_000; // 2023-11-14T22:13:20Z
        let cases = [
            ("2023-11-14T22:13:20Z", Some(at)),
            ("2023-11-14t22:13:20z", Some(at)),
            ("2023-11-14 22:13:20", Some(at)),
            ("2023-11-14T22:13:20.1Z", Some(at + 100_000)),
            ("2023-11-14T22:13:20,123456789Z", Some(at + 123_456)),
            ("2023-11-14T23:13:20+01:00", Some(at)),
            ("2023-11-14T16:43:20-0530", Some(at)),
            ("2023-11-15T00:13:20+02", Some(at)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59.999999Z", Some(-1)),
            ("2100-01-01T00:00:00Z", Some(4_102_444_800_000_000)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800_000_000)),
            ("1900-01-01T00:00:00Z", Some(TIME_US_MIN)),
            ("2261-12-31T23:59:59.999999Z", Some(TIME_US_END - 1)),
            ("1899-12-31T23:59:59Z", None),
            ("2262-01-01T00:00:00Z", None),
            ("1900-01-01T00:00:00+00:01", None),
            ("2023-02-29T00:00:00Z", None),
            ("2100-02-29T00:00:00Z", None),
            ("2023-13-01T00:00:00Z", None),
            ("2023-00-01T00:00:00Z", None),
            ("2023-04-31T00:00:00Z", None),
            ("2023-11-14T24:00:00Z", None),
            ("2023-11-14T22:60:00Z", None),
            ("2023-11-14T22:13:61Z", None),
            ("2023-11-14T22:13:20.Z", None),
            ("2023-11-14T22:13:20+24:00", None),
            ("2023-11-14T22:13:20+01:0", None),
            ("2023-11-14T22:13:20*01:00", None),
            ("2023-11-14T22:13:20Zz", None),
            ("2023-11-14T22:13", None),
            ("2023-11-14", None),
            ("-023-11-14T22:13:20Z", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_rfc3339(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn writing_covers_every_64_bit_time() {
        assert_eq!(written(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(written(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(written(1_700_000_000_123_456), "2023-11-14T22:13:20.123456Z");
        assert_eq!(written(i64::MAX), "+294247-01-10T04:00:54.775807Z");
        assert_eq!(written(i64::MIN), "-290308-12-21T19:59:05.224192Z");
        let mut out = Vec::new();
        let mut writer = TimeWriter::new();
        writer.write_ns(1_700_000_000_123_456_789, &mut out);
        writer.write_ns(-1, &mut out);
        assert_eq!(out, b"2023-11-14T22:13:20.123456789Z1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn units_have_words() {
        assert_eq!("ms".parse::<TimeUnit>().unwrap(), TimeUnit::Milliseconds);
        assert!("mss".parse::<TimeUnit>().unwrap_err().message.contains("did you mean \"ms\"?"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn dates_are_those_of_chrono(us in TIME_US_MIN..TIME_US_END, offset in -1_439i64..1_440) {
            let text = written(us);
            let expected = DateTime::<Utc>::from_timestamp_micros(us).unwrap();
            prop_assert_eq!(&text, &expected.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
            prop_assert_eq!(parse_rfc3339(text.as_bytes()), Some(us));
            let local = expected + chrono::TimeDelta::minutes(offset);
            let sign = if offset < 0 { '-' } else { '+' };
            let (hours, minutes) = (offset.abs() / 60, offset.abs() % 60);
            let text = format!("{}{sign}{hours:02}:{minutes:02}", local.format("%Y-%m-%d %H:%M:%S%.6f"));
            prop_assert_eq!(parse_rfc3339(text.as_bytes()), Some(us));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40), at in 0usize..30, byte: u8) {
            let _ = parse_rfc3339(&bytes);
            let mut near = *b"2023-11-14T22:13:20.1+01:00";
            if let Some(place) = near.get_mut(at) { *place = byte; }
            let _ = parse_rfc3339(&near);
        }
    }
}
