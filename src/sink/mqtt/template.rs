//! Texts with the values of columns in them: `alerts/{line}/{device}`. Pure.

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};

use crate::codec::timestamp::TimeWriter;
use crate::core::schema::{time_type, type_name};
use crate::error::{Error, Result};
use crate::registry::{InputSchema, Problem};

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

/// A text with columns in braces; `{{` and `}}` stand for braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

impl Template {
    /// Reads a template; `key` is where it stands in the configuration.
    ///
    /// # Errors
    /// If a brace is open.
    pub fn parse(key: &str, text: &str) -> std::result::Result<Self, Problem> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        let problem = |message: &str| {
            Problem::new(key, message)
                .help("columns stand in braces: `{device}`; a brace itself is doubled: `{{`")
        };
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(behind) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                literal.push_str(&from[..1]);
                rest = behind;
                continue;
            }
            let Some(inside) = from.strip_prefix('{') else {
                return Err(problem("a `}` without its `{`"));
            };
            let Some((name, behind)) = inside.split_once('}') else {
                return Err(problem("a `{` without its `}`"));
            };
            if name.is_empty() || name.contains('{') {
                return Err(problem("empty braces or a `{` without its `}`"));
            }
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Column(name.to_owned()));
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    /// The text outside braces, with nothing where columns are.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Column(_) => None,
        })
    }

    /// Checks that the columns are there and can be written.
    pub fn check(&self, key: &str, input: &InputSchema, problems: &mut Vec<Problem>) {
        for part in &self.parts {
            let Part::Column(name) = part else { continue };
            match input.schema.field_with_name(name) {
                Ok(field) if !can_be_text(field.data_type()) => problems.push(Problem::new(
                    key,
                    format!(
                        "column \"{name}\" is {}, which cannot be part of a text",
                        type_name(field.data_type())
                    ),
                )),
                Ok(_) => {}
                Err(_) => problems.push(Problem::no_column(key, name, &input.schema)),
            }
        }
    }

    /// Prepares the columns of a batch.
    ///
    /// # Errors
    /// If a column is not there or cannot be written.
    pub fn over(&self, batch: &RecordBatch) -> Result<Filled> {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => Ok(Piece::Text(text.clone())),
            Part::Column(name) => {
                let column = batch
                    .column_by_name(name)
                    .ok_or_else(|| Error::data(format!("column \"{name}\" does not exist")))?;
                Ok(match *column.data_type() == time_type() {
                    true => Piece::Times(column.as_primitive::<TimestampMicrosecondType>().clone()),
                    false => Piece::Texts(cast(column, &DataType::Utf8)?.as_string::<i32>().clone()),
                })
            }
        });
        Ok(Filled { pieces: parts.collect::<Result<_>>()?, times: TimeWriter::new() })
    }
}

fn can_be_text(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => can_be_text(value),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Boolean | DataType::Float32 | DataType::Float64 => {
            true
        }
        kind => kind.is_integer() || *kind == time_type(),
    }
}

enum Piece {
    Text(String),
    Texts(StringArray),
    Times(TimestampMicrosecondArray),
}

/// A template over a batch.
pub struct Filled {
    pieces: Vec<Piece>,
    times: TimeWriter,
}

impl Filled {
    /// The text of a row as a topic. In the values of columns `/`, `+`, `#` and control characters become `_`, as does
    /// a `$` at the beginning of the topic; a null or empty value is `_`. So a value can neither add a level nor
    /// make the topic one that MQTT forbids.
    pub fn topic(&mut self, row: usize) -> String {
        let mut topic = String::new();
        self.write(row, &mut topic, true);
        topic
    }

    /// The text of a row as it is; null is nothing.
    pub fn text(&mut self, row: usize) -> String {
        let mut text = String::new();
        self.write(row, &mut text, false);
        text
    }

    fn write(&mut self, row: usize, out: &mut String, as_topic: bool) {
        for piece in &self.pieces {
            let mut time = Vec::new();
            let value = match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Piece::Texts(texts) if texts.is_valid(row) => texts.value(row),
                Piece::Times(times) if times.is_valid(row) => {
                    self.times.write_us(times.value(row), &mut time);
                    std::str::from_utf8(&time).unwrap_or_default()
                }
                Piece::Texts(_) | Piece::Times(_) => "",
            };
            match as_topic {
                false => out.push_str(value),
                true if value.is_empty() => out.push('_'),
                true => {
                    for character in value.chars() {
                        let forbidden = matches!(character, '/' | '+' | '#') || character.is_control();
                        let forbidden = forbidden || (character == '$' && out.is_empty());
                        out.push(if forbidden { '_' } else { character });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, DictionaryArray, Float64Array, Int64Array};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch() -> RecordBatch {
        let tags: DictionaryArray<Int32Type> =
            vec![Some("$a/b+c#d\0e"), None, Some("ü")].into_iter().collect();
        let columns: [(&str, ArrayRef); 4] = [
            ("time", crate::core::schema::time_array(vec![0, 1_700_000_000_123_456, 2])),
            ("tag", Arc::new(tags)),
            ("score", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(-1.25)]))),
            ("n", Arc::new(Int64Array::from(vec![7, 8, 9]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn texts_are_filled_row_by_row() {
        let cases = [
            ("plain", ["plain"; 3]),
            ("x/{tag}/{n}", ["x/$a_b_c_d_e/7", "x/_/8", "x/ü/9"]),
            ("{tag}", ["_a_b_c_d_e", "_", "ü"]),
            ("{score}|{{{n}}}", ["0.5|{7}", "_|{8}", "-1.25|{9}"]),
            (
                "{time}",
                ["1970-01-01T00:00:00.000000Z", "2023-11-14T22:13:20.123456Z", "1970-01-01T00:00:00.000002Z"],
            ),
        ];
        for (text, expected) in cases {
            let mut filled = Template::parse("topic", text).unwrap().over(&batch()).unwrap();
            let found: Vec<String> = (0..3).map(|row| filled.topic(row)).collect();
            assert_eq!(found, expected, "{text}");
        }
        let mut filled = Template::parse("payload", "{tag}={score}").unwrap().over(&batch()).unwrap();
        assert_eq!([filled.text(0), filled.text(1)], ["$a/b+c#d\0e=0.5", "="]);
    }

    #[test]
    fn mistakes_are_told() {
        for text in ["{", "a}", "{}", "{a{b}", "x{{}"] {
            assert!(Template::parse("topic", text).is_err(), "{text}");
        }
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(["x"]));
        let schema = RecordBatch::try_from_iter([("frame", bytes)]).unwrap().schema();
        let input = InputSchema { name: "in".to_owned(), schema };
        let mut problems = Vec::new();
        Template::parse("topic", "{frame}/{fram}").unwrap().check("topic", &input, &mut problems);
        assert!(problems[0].message.contains("is bytes"), "{problems:?}");
        assert_eq!(problems[1].help.as_deref(), Some("did you mean \"frame\"?"));
    }
}
