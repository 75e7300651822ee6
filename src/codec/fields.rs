//! What a payload decoder is asked for: the fields of a row, where they stand in the payload, and the time.
//! Pure: descriptions only.

use std::collections::BTreeSet;
use std::str::FromStr;

use arrow::datatypes::{DataType, Field as ArrowField};

use super::timestamp::TimeUnit;
use crate::core::schema::{TIME, time_type};
use crate::error::{Error, Result};

/// Most fields that one format may ask for.
pub const FIELDS_MAX: usize = 4_096;

/// Most keys on the way to one field.
pub const PATH_KEYS_MAX: usize = 32;

/// The type of a field, and with it of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// `Float64`.
    F64,
    /// `Float32`.
    F32,
    /// `Int64`.
    I64,
    /// `Boolean`.
    Bool,
    /// `Utf8`.
    Text,
    /// `Timestamp(µs, UTC)`, read from numbers of this unit or from text.
    Time(TimeUnit),
}

impl FieldKind {
    /// The words that [`FieldKind::from_str`] takes.
    pub const WORDS: [&'static str; 11] = [
        "f64",
        "f32",
        "i64",
        "bool",
        "text",
        "time",
        "time_s",
        "time_ms",
        "time_us",
        "time_ns",
        "time_rfc3339",
    ];

    /// The word that [`FieldKind::from_str`] takes for it.
    pub fn word(self) -> &'static str {
        match self {
            FieldKind::F64 => "f64",
            FieldKind::F32 => "f32",
            FieldKind::I64 => "i64",
            FieldKind::Bool => "bool",
            FieldKind::Text => "text",
            FieldKind::Time(TimeUnit::Auto) => "time",
            FieldKind::Time(TimeUnit::Seconds) => "time_s",
            FieldKind::Time(TimeUnit::Milliseconds) => "time_ms",
            FieldKind::Time(TimeUnit::Microseconds) => "time_us",
            FieldKind::Time(TimeUnit::Nanoseconds) => "time_ns",
            FieldKind::Time(TimeUnit::Rfc3339) => "time_rfc3339",
        }
    }

    /// The Arrow type of the column.
    pub fn data_type(self) -> DataType {
        match self {
            FieldKind::F64 => DataType::Float64,
            FieldKind::F32 => DataType::Float32,
            FieldKind::I64 => DataType::Int64,
            FieldKind::Bool => DataType::Boolean,
            FieldKind::Text => DataType::Utf8,
            FieldKind::Time(_) => time_type(),
        }
    }
}

impl FromStr for FieldKind {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        Ok(match word {
            "f64" => FieldKind::F64,
            "f32" => FieldKind::F32,
            "i64" => FieldKind::I64,
            "bool" => FieldKind::Bool,
            "text" => FieldKind::Text,
            "time" => FieldKind::Time(TimeUnit::Auto),
            "time_s" => FieldKind::Time(TimeUnit::Seconds),
            "time_ms" => FieldKind::Time(TimeUnit::Milliseconds),
            "time_us" => FieldKind::Time(TimeUnit::Microseconds),
            "time_ns" => FieldKind::Time(TimeUnit::Nanoseconds),
            "time_rfc3339" => FieldKind::Time(TimeUnit::Rfc3339),
            _ => {
                let known = FieldKind::WORDS;
                return Err(Error::config(format!(
                    "field type \"{word}\" does not exist{}",
                    suggestion(word, known.iter().copied(), "one of")
                )));
            }
        })
    }
}

/// One field: the name of its column, its type, and where it stands in the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Name of the column.
    pub name: String,
    /// Type of the column.
    pub kind: FieldKind,
    /// The keys from the payload's object to the value; for CSV one column name or one column number from 0.
    pub path: Vec<String>,
}

impl Field {
    /// A field that stands under its own name.
    pub fn new(name: &str, kind: FieldKind) -> Self {
        Self { name: name.to_owned(), kind, path: vec![name.to_owned()] }
    }

    /// A field that stands under a path of keys with dots between them, e.g. `motor.bearing.temp`.
    pub fn at(name: &str, kind: FieldKind, path: &str) -> Self {
        Self { name: name.to_owned(), kind, path: path.split('.').map(str::to_owned).collect() }
    }
}

/// Where the time of a row comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeField {
    /// When the message arrived.
    Arrival,
    /// A value in the payload. A row without it is bad.
    At {
        /// As in [`Field::path`].
        path: Vec<String>,
        /// The unit of numbers, or the form of text.
        unit: TimeUnit,
    },
}

/// All that is asked of one payload format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFormat {
    /// The columns after `time`, in order.
    pub fields: Vec<Field>,
    /// The time of the rows.
    pub time: TimeField,
    /// Whether a value that says the same in another type is taken: `"12.5"` for a number, `1` or `"true"` for a
    /// Boolean, `17` for a text. It never loosens the JSON grammar. On by default, since many devices do this.
    pub lenient: bool,
}

impl RowFormat {
    /// A lenient format.
    pub fn new(fields: Vec<Field>, time: TimeField) -> Self {
        Self { fields, time, lenient: true }
    }

    /// The Arrow fields of the rows: `time`, not null, then every field, nullable.
    pub fn arrow_fields(&self) -> Vec<ArrowField> {
        let mut fields = Vec::with_capacity(self.fields.len() + 1);
        fields.push(ArrowField::new(TIME, time_type(), false));
        fields.extend(self.fields.iter().map(|f| ArrowField::new(&f.name, f.kind.data_type(), true)));
        fields
    }

    /// Refuses what no decoder can do: names that are empty, doubled or `time`; paths that are empty, too long, or
    /// that run through another field's value; too many fields.
    pub fn check(&self) -> Result<()> {
        if self.fields.len() > FIELDS_MAX {
            let count = self.fields.len();
            return Err(Error::config(format!("{count} fields are more than the limit of {FIELDS_MAX}")));
        }
        let mut names = BTreeSet::from([TIME]);
        for field in &self.fields {
            let name = &field.name;
            if name.is_empty() {
                return Err(Error::config("a field has an empty name"));
            }
            if name == TIME {
                return Err(Error::config(
                    "field \"time\" has the name of the column that holds the time of every row; call it otherwise",
                ));
            }
            if !names.insert(name) {
                return Err(Error::config(format!("field \"{name}\" is asked for twice")));
            }
            check_path(name, &field.path)?;
        }
        if let TimeField::At { path, .. } = &self.time {
            check_path(TIME, path)?;
        }
        Ok(())
    }

    /// The place of the time, if it is in the payload, then of every field, each with the number of its slot.
    pub(super) fn targets(&self) -> impl Iterator<Item = (&[String], Target)> {
        let time = match &self.time {
            TimeField::Arrival => None,
            TimeField::At { path, unit } => {
                Some((path.as_slice(), Target { slot: 0, kind: FieldKind::Time(*unit) }))
            }
        };
        let fields = self.fields.iter().enumerate().map(|(index, field)| {
            (field.path.as_slice(), Target { slot: index as u16 + 1, kind: field.kind })
        });
        time.into_iter().chain(fields)
    }
}

/// Where a value goes: slot 0 is the time, slot *n* the field *n − 1* ([`FIELDS_MAX`] keeps it within 16 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) slot: u16,
    pub(super) kind: FieldKind,
}

fn check_path(name: &str, path: &[String]) -> Result<()> {
    if path.is_empty() || path.iter().any(String::is_empty) {
        let path = path.join(".");
        return Err(Error::config(format!("the path \"{path}\" of field \"{name}\" has an empty key")));
    }
    if path.len() > PATH_KEYS_MAX {
        let keys = path.len();
        return Err(Error::config(format!(
            "the path of field \"{name}\" has {keys} keys, more than the limit of {PATH_KEYS_MAX}"
        )));
    }
    Ok(())
}

/// `; did you mean "x"?` where a known word is near, or the known words after `lead`.
pub(super) fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone, lead: &str) -> String {
    let near = known
        .clone()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4);
    match near {
        Some((_, candidate)) => format!("; did you mean \"{candidate}\"?"),
        None => format!("; {lead} {}", known.take(12).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_cannot_be_is_refused_with_its_cause() {
        let field = |name: &str| Field::new(name, FieldKind::F64);
        let deep = Field::at("deep", FieldKind::F64, &["k"; PATH_KEYS_MAX + 1].join("."));
        let cases: [(Vec<Field>, &str); 6] = [
            (vec![field("a"), field("b")], ""),
            (vec![field("a"), field("a")], "twice"),
            (vec![field("time")], "holds the time"),
            (vec![Field::new("", FieldKind::F64)], "empty name"),
            (vec![Field::at("a", FieldKind::F64, "x..y")], "empty key"),
            (vec![deep], "more than the limit"),
        ];
        for (fields, expected) in cases {
            let checked = RowFormat::new(fields, TimeField::Arrival).check();
            match checked {
                Ok(()) => assert_eq!(expected, ""),
                Err(error) => assert!(!expected.is_empty() && error.message.contains(expected), "{error}"),
            }
        }
        let many = (0..=FIELDS_MAX).map(|i| field(&format!("f{i}"))).collect();
        assert!(RowFormat::new(many, TimeField::Arrival).check().is_err());
    }

    #[test]
    fn kinds_have_words() {
        for word in FieldKind::WORDS {
            assert!(word.parse::<FieldKind>().is_ok(), "{word}");
        }
        let near = "f46".parse::<FieldKind>().unwrap_err().message;
        assert!(near.contains("did you mean \"f64\"?"), "{near}");
        let far = "complex".parse::<FieldKind>().unwrap_err().message;
        assert!(far.contains("one of f64, f32"), "{far}");
    }

    #[test]
    fn columns_follow_the_fields() {
        let format = RowFormat::new(
            vec![Field::new("temp", FieldKind::F64), Field::new("id", FieldKind::Text)],
            TimeField::Arrival,
        );
        let fields = format.arrow_fields();
        assert_eq!(fields[0], ArrowField::new("time", time_type(), false));
        assert_eq!(fields[1], ArrowField::new("temp", DataType::Float64, true));
        assert_eq!(fields[2], ArrowField::new("id", DataType::Utf8, true));
    }
}
