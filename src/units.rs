//! Quantities as people write them in a pipeline file: `"5s"`, `"64KiB"`. Pure.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration, written `"250ms"`, `"10s"`, `"5m"`, `"1h"`, `"7d"` or several of these in a row (`"1h30m"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

/// A size in bytes, written `"512B"`, `"64KiB"`, `"10MiB"`, `"2GiB"` or with decimal units `"10MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// Room on disk: a size, or `"off"` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Room(pub u64);

const PERIOD_UNITS: [(&str, u64); 7] = [
    ("us", 1),
    ("µs", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

impl Period {
    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Reads the written form.
    ///
    /// # Errors
    /// Says how a duration is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is not a duration; write for example \"250ms\", \"10s\", \"5m\" or \"1h30m\"")
        };
        let (mut rest, mut total) = (text.trim(), 0u64);
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let (micros, behind) = quantity(rest, &PERIOD_UNITS).ok_or_else(wrong)?;
            total = total.checked_add(micros).ok_or_else(|| format!("`{text}` is too long a duration"))?;
            rest = behind.trim_start();
        }
        // Everything downstream counts in signed microseconds.
        match i64::try_from(total) {
            Ok(_) => Ok(Self(Duration::from_micros(total))),
            Err(_) => Err(format!("`{text}` is too long a duration")),
        }
    }

    /// In microseconds.
    pub fn micros(self) -> i64 {
        crate::core::event::micros(self.0)
    }
}

impl Size {
    /// Reads the written form.
    ///
    /// # Errors
    /// Says how a size is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        match quantity(text.trim(), &SIZE_UNITS) {
            Some((bytes, "")) => Ok(Self(bytes)),
            _ => Err(format!("`{text}` is not a size; write for example \"64KiB\", \"10MiB\" or \"2GB\"")),
        }
    }

    /// As a length in memory; a size beyond the address space is the largest there is.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Room {
    /// Reads the written form.
    ///
    /// # Errors
    /// Says how it is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "off" => Ok(Self(0)),
            size => Size::parse(size)
                .map(|size| Self(size.0))
                .map_err(|_| format!("`{text}` is neither a size nor \"off\"; write for example \"256MiB\"")),
        }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("off"),
            bytes => Size(bytes).fmt(f),
        }
    }
}

/// Reads a number and its unit from the front: the value in base units, and what follows.
fn quantity<'a>(text: &'a str, units: &[(&str, u64)]) -> Option<(u64, &'a str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|digits| *digits > 0)?;
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.' || c.is_whitespace()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let scale = units.iter().find(|(name, _)| *name == unit)?.1;
    if let Ok(whole) = number.parse::<u64>() {
        return Some((whole.checked_mul(scale)?, rest));
    }
    let value = number.parse::<f64>().ok()? * scale as f64;
    (value < u64::MAX as f64 && value.fract() == 0.0).then_some((value as u64, rest))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.micros() as u64;
        let exact =
            PERIOD_UNITS.iter().rev().find(|(unit, scale)| *unit != "µs" && micros.is_multiple_of(*scale));
        match exact {
            Some(_) if micros == 0 => f.write_str("0s"),
            Some((unit, scale)) => write!(f, "{}{unit}", micros / scale),
            None => write!(f, "{micros}us"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary =
            SIZE_UNITS[..4].iter().rev().find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        match binary {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

macro_rules! written {
    ($type:ident, $name:literal, $format:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format, "examples": [$example] })
            }
        }
    };
}

written!(Period, "Period", "duration", "10s");
written!(Size, "Size", "size", "64KiB");
written!(Room, "Room", "room", "256MiB");

/// A password, token or key: never written in the file itself, never printed, never in a snapshot.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Secret {
    /// The name of an environment variable that holds it: `{ env = "MQTT_PASSWORD" }`.
    Env(String),
    /// The path of a file that holds it (a line end at its end is cut off): `{ file = "/run/secrets/mqtt" }`.
    File(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "Secret(env {name})"),
            Self::File(path) => write!(f, "Secret(file {path})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, micros, written) in [
            ("250ms", 250_000, "250ms"),
            ("10s", 10_000_000, "10s"),
            ("1h30m", 5_400_000_000, "90m"),
            ("1.5s", 1_500_000, "1500ms"),
            ("7d", 604_800_000_000, "7d"),
            ("5 us", 5, "5us"),
            ("5µs", 5, "5us"),
            ("0s", 0, "0s"),
            ("1m 30s", 90_000_000, "90s"),
        ] {
            let period = Period::parse(text).unwrap();
            assert_eq!((period.micros(), period.to_string().as_str()), (micros, written), "{text}");
            assert_eq!(Period::parse(written).unwrap(), period);
        }
        for text in
            ["", "s", "10", "10 sec", "-5s", "1.2.3s", "99999999999999999999s", "9999999999d", "1e3s", "5s,"]
        {
            assert!(Period::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, written) in [
            ("512B", 512, "512B"),
            ("64KiB", 65_536, "64KiB"),
            ("1.5MiB", 1_572_864, "1536KiB"),
            ("10MB", 10_000_000, "10000000B"),
            ("2GiB", 2_147_483_648, "2GiB"),
        ] {
            let size = Size::parse(text).unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, written), "{text}");
        }
        for text in ["", "64", "64K", "64kib", "-1B", "1KiB 2B", "99999999999999GiB"] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_says_where_it_is_and_not_what_it_is() {
        #[derive(Deserialize)]
        struct Table {
            password: Secret,
        }
        let table: Table = toml::from_str(r#"password = { env = "PW" }"#).unwrap();
        assert_eq!(format!("{:?}", table.password), "Secret(env PW)");
        assert!(toml::from_str::<Table>(r#"password = "hunter2""#).is_err());
    }
}
