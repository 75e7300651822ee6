//! Reads the text of a duration: `5 seconds`, `1 hour 30 minutes`, `-250ms`. Pure.

use super::time::{DAY, HOUR, MILLISECOND, MINUTE, SECOND};

/// The length of a unit in microseconds, or what to say about it.
fn unit_micros(unit: &str) -> Result<i64, String> {
    match unit.to_lowercase().as_str() {
        "us" | "µs" | "microsecond" | "microseconds" => Ok(1),
        "ms" | "millisecond" | "milliseconds" => Ok(MILLISECOND),
        "s" | "sec" | "secs" | "second" | "seconds" => Ok(SECOND),
        "m" | "min" | "mins" | "minute" | "minutes" => Ok(MINUTE),
        "h" | "hour" | "hours" => Ok(HOUR),
        "d" | "day" | "days" => Ok(DAY),
        "w" | "week" | "weeks" => Ok(7 * DAY),
        "month" | "months" | "mon" | "mons" | "quarter" | "quarters" | "y" | "year" | "years" => {
            Err(format!("a duration in `{unit}` has no fixed length; use days"))
        }
        _ => Err(format!("`{unit}` is no unit of a duration; use us, ms, s, min, h, days or weeks")),
    }
}

/// The microseconds of a duration's text. `default_unit` is the unit that stands behind the literal
/// (`INTERVAL '5' SECOND`); without it, the text must name its units.
pub(super) fn parse_micros(text: &str, default_unit: Option<&str>) -> Result<i64, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("a duration is empty; write e.g. INTERVAL '5 seconds'".to_owned());
    }
    let mut total = 0i64;
    while !rest.is_empty() {
        let number_end =
            rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(number_end);
        let behind = behind.trim_start();
        let unit_end = behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len());
        let (unit, after) = behind.split_at(unit_end);
        let unit = match (unit, default_unit) {
            ("", Some(unit)) => unit,
            ("", None) => {
                return Err(format!("the duration `{text}` has no unit; write e.g. INTERVAL '5 seconds'"));
            }
            (unit, _) => unit,
        };
        let micros = scaled(number, unit_micros(unit)?)
            .ok_or_else(|| format!("`{text}` is no duration; write e.g. INTERVAL '1 hour 30 minutes'"))?;
        total = total
            .checked_add(micros)
            .ok_or_else(|| format!("the duration `{text}` is longer than 292,000 years"))?;
        rest = after.trim_start();
    }
    Ok(total)
}

/// `number × unit` in whole microseconds, exact for whole numbers.
fn scaled(number: &str, unit: i64) -> Option<i64> {
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(unit);
    }
    let micros = (number.parse::<f64>().ok()? * unit as f64).round();
    super::number::whole(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, unit, expected) in [
            ("5 seconds", None, Some(5 * SECOND)),
            ("1 hour 30 minutes", None, Some(90 * MINUTE)),
            ("1h30min", None, Some(90 * MINUTE)),
            ("-250ms", None, Some(-250 * MILLISECOND)),
            ("1.5 days", None, Some(36 * HOUR)),
            ("5", Some("SECOND"), Some(5 * SECOND)),
            ("7", None, None),
            ("", None, None),
            ("seconds", None, None),
            ("1 fortnight", None, None),
            ("1 month", None, None),
            ("1..5 s", None, None),
            ("9223372036854775807 s", None, None),
            ("9000000000000 s 9000000000000 s", None, None),
        ] {
            assert_eq!(parse_micros(text, unit).ok(), expected, "{text}");
        }
    }
}
