//! Kernels over times: the calendar (proleptic Gregorian, UTC) computed from microseconds since 1970. Pure: the
//! calendar is arithmetic, no clock and no time zone data. Days from and to dates follow Howard Hinnant,
//! "chrono-compatible low-level date algorithms" (2013).

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array};
use arrow::datatypes::{Float64Type, Int64Type};
use std::sync::Arc;

use super::number::{floats, integers, integers_as, whole};
use super::types::Kind;
use crate::error::Result;

pub(super) const MILLISECOND: i64 = 1_000;
pub(super) const SECOND: i64 = 1_000 * MILLISECOND;
pub(super) const MINUTE: i64 = 60 * SECOND;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// What `date_trunc` cuts to and `extract` takes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    /// 0 is Sunday.
    DayOfWeek,
    /// 1 is Monday, 7 Sunday.
    IsoDayOfWeek,
    DayOfYear,
    Epoch,
}

/// The names of the parts a time can be cut to, for messages.
pub(super) const TRUNC_UNITS: &[&str] =
    &["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];

/// The names of the parts a time has, for messages.
pub(super) const PARTS: &[&str] = &[
    "microsecond",
    "millisecond",
    "second",
    "minute",
    "hour",
    "day",
    "week",
    "month",
    "quarter",
    "year",
    "dow",
    "isodow",
    "doy",
    "epoch",
];

impl Part {
    pub(super) fn parse(name: &str) -> Option<Part> {
        Some(match name.to_lowercase().as_str() {
            "microsecond" | "microseconds" => Part::Microsecond,
            "millisecond" | "milliseconds" => Part::Millisecond,
            "second" | "seconds" => Part::Second,
            "minute" | "minutes" => Part::Minute,
            "hour" | "hours" => Part::Hour,
            "day" | "days" => Part::Day,
            "week" | "weeks" | "isoweek" => Part::Week,
            "month" | "months" => Part::Month,
            "quarter" => Part::Quarter,
            "year" | "years" => Part::Year,
            "dow" | "dayofweek" => Part::DayOfWeek,
            "isodow" => Part::IsoDayOfWeek,
            "doy" | "dayofyear" => Part::DayOfYear,
            "epoch" => Part::Epoch,
            _ => return None,
        })
    }

    pub(super) fn can_trunc(self) -> bool {
        !matches!(self, Part::DayOfWeek | Part::IsoDayOfWeek | Part::DayOfYear | Part::Epoch)
    }
}

/// The year, month (1–12) and day (1–31) of a day counted from 1970-01-01.
fn date_of(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468; // days since 0000-03-01: a leap day is then the last of its year
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day, counted from 1970-01-01, of a date.
fn day_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Days since Monday of the day's week; 1970-01-01 was a Thursday.
fn days_since_monday(day: i64) -> i64 {
    (day + 3).rem_euclid(7)
}

/// The start of the part of the calendar that a time lies in; `None` if that start is out of range.
fn trunc(part: Part, micros: i64) -> Option<i64> {
    let step = match part {
        Part::Microsecond => return Some(micros),
        Part::Millisecond => MILLISECOND,
        Part::Second => SECOND,
        Part::Minute => MINUTE,
        Part::Hour => HOUR,
        Part::Day => DAY,
        _ => {
            let day = micros.div_euclid(DAY);
            let (year, month, _) = date_of(day);
            let start = match part {
                Part::Week => day - days_since_monday(day),
                Part::Month => day_of(year, month, 1),
                Part::Quarter => day_of(year, (month - 1) / 3 * 3 + 1, 1),
                _ => day_of(year, 1, 1),
            };
            return start.checked_mul(DAY);
        }
    };
    micros.div_euclid(step).checked_mul(step)
}

/// A part of a time as a whole number. Milliseconds and microseconds count from the start of the minute, as in
/// PostgreSQL; weeks are those of ISO 8601.
fn part_of(part: Part, micros: i64) -> i64 {
    let day = micros.div_euclid(DAY);
    let in_day = micros.rem_euclid(DAY);
    let (year, month, day_of_month) = date_of(day);
    match part {
        Part::Microsecond => in_day % MINUTE,
        Part::Millisecond => in_day % MINUTE / MILLISECOND,
        Part::Second => in_day % MINUTE / SECOND,
        Part::Minute => in_day % HOUR / MINUTE,
        Part::Hour => in_day / HOUR,
        Part::Day => day_of_month,
        Part::Week => {
            // A week belongs to the year that its Thursday lies in.
            let thursday = day - days_since_monday(day) + 3;
            (thursday - day_of(date_of(thursday).0, 1, 1)) / 7 + 1
        }
        Part::Month => month,
        Part::Quarter => (month - 1) / 3 + 1,
        Part::Year => year,
        Part::DayOfWeek => (days_since_monday(day) + 1) % 7,
        Part::IsoDayOfWeek => days_since_monday(day) + 1,
        Part::DayOfYear => day - day_of(year, 1, 1) + 1,
        Part::Epoch => micros.div_euclid(SECOND),
    }
}

/// `date_trunc` of a column of times.
pub(super) fn trunc_times(part: Part, times: &dyn Array) -> Result<ArrayRef> {
    let cut = integers(times)?.unary_opt::<_, Int64Type>(|micros| trunc(part, micros));
    Ok(integers_as(cut, &Kind::Time.data_type()))
}

/// `extract` of a column of times; not for [`Part::Epoch`], which is a float.
pub(super) fn part_of_times(part: Part, times: &dyn Array) -> Result<ArrayRef> {
    let parts: Int64Array = integers(times)?.unary(|micros| part_of(part, micros));
    Ok(Arc::new(parts))
}

/// Times (since 1970) or durations as seconds.
pub(super) fn seconds(times: &dyn Array) -> Result<ArrayRef> {
    let seconds: Float64Array = integers(times)?.unary(|micros| micros as f64 / SECOND as f64);
    Ok(Arc::new(seconds))
}

/// Seconds since 1970 as times, rounded to microseconds; null out of range.
pub(super) fn from_seconds(seconds: &dyn Array) -> Result<ArrayRef> {
    let micros = if seconds.data_type() == &arrow::datatypes::DataType::Int64 {
        integers(seconds)?.unary_opt::<_, Int64Type>(|seconds| seconds.checked_mul(SECOND))
    } else {
        floats(seconds)?.unary_opt::<_, Int64Type>(|seconds| whole((seconds * SECOND as f64).round()))
    };
    Ok(integers_as(micros, &Kind::Time.data_type()))
}

/// Durations as a float of microseconds, for arithmetic with floats.
pub(super) fn durations_to_floats(durations: &dyn Array) -> Result<ArrayRef> {
    let micros = integers(durations)?.unary::<_, Float64Type>(|micros| micros as f64);
    Ok(Arc::new(micros))
}

/// The way back from [`durations_to_floats`]; null out of range.
pub(super) fn floats_to_durations(micros: &dyn Array) -> Result<ArrayRef> {
    let micros = floats(micros)?.unary_opt::<_, Int64Type>(|micros| whole(micros.round()));
    Ok(integers_as(micros, &Kind::Duration.data_type()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_there_and_back_over_all_of_time() {
        for day in (-800_000..800_000).step_by(97).chain([i64::MIN / DAY, i64::MAX / DAY, 0, -1, 11_016]) {
            let (year, month, of_month) = date_of(day);
            assert_eq!(day_of(year, month, of_month), day);
        }
        assert_eq!(date_of(0), (1970, 1, 1));
        assert_eq!(date_of(11_016), (2000, 2, 29));
        assert_eq!(date_of(-1), (1969, 12, 31));
    }

    #[test]
    fn the_calendar_agrees_with_chrono() {
        use chrono::{DateTime, Datelike, Timelike};
        for step in -3_000i64..3_000 {
            let micros = step * 987_654_321_987_654 / 7;
            let Some(time) = DateTime::from_timestamp_micros(micros) else { continue };
            let expected = [
                (Part::Year, i64::from(time.year())),
                (Part::Month, i64::from(time.month())),
                (Part::Day, i64::from(time.day())),
                (Part::Hour, i64::from(time.hour())),
                (Part::Minute, i64::from(time.minute())),
                (Part::Second, i64::from(time.second())),
                (Part::Week, i64::from(time.iso_week().week())),
                (Part::DayOfYear, i64::from(time.ordinal())),
                (Part::DayOfWeek, i64::from(time.weekday().num_days_from_sunday())),
                (Part::IsoDayOfWeek, i64::from(time.weekday().number_from_monday())),
                (Part::Epoch, time.timestamp()),
            ];
            for (part, value) in expected {
                assert_eq!(part_of(part, micros), value, "{part:?} of {time}");
            }
        }
    }

    #[test]
    fn a_start_out_of_range_is_none() {
        assert_eq!(trunc(Part::Year, i64::MIN), None);
        assert_eq!(trunc(Part::Day, i64::MIN), None);
        assert_eq!(trunc(Part::Microsecond, i64::MIN), Some(i64::MIN));
        assert!(trunc(Part::Week, i64::MAX).is_some());
    }
}
