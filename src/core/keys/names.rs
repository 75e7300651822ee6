//! The name of a key: the values of its columns as bytes that read back. Pure.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Int64Builder, StringBuilder, StringDictionaryBuilder,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type};

/// Whether a column of this type can be part of a key.
pub(super) fn supports(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::Int64 | DataType::Boolean => true,
        DataType::Dictionary(key, value) => **key == DataType::Int32 && **value == DataType::Utf8,
        _ => false,
    }
}

/// One value of a name.
pub(super) enum Part<'a> {
    Null,
    Text(&'a str),
    Integer(i64),
    Boolean(bool),
}

impl<'a> Part<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Part::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Writes the value of a row behind a name in the making. No value runs into the next: texts say their length.
pub(super) fn encode(column: &ArrayRef, row: usize, name: &mut Vec<u8>) {
    let text = |text: &str, name: &mut Vec<u8>| {
        name.push(1);
        name.extend_from_slice(&(text.len() as u32).to_le_bytes());
        name.extend_from_slice(text.as_bytes());
    };
    if column.is_null(row) {
        return name.push(0);
    }
    match column.data_type() {
        DataType::Utf8 => text(column.as_string::<i32>().value(row), name),
        DataType::Int64 => {
            name.push(2);
            name.extend_from_slice(&column.as_primitive::<Int64Type>().value(row).to_le_bytes());
        }
        DataType::Boolean => {
            name.push(3);
            name.push(u8::from(column.as_boolean().value(row)));
        }
        _ => {
            let dictionary = column.as_dictionary::<Int32Type>();
            match dictionary.key(row) {
                Some(key) => text(dictionary.values().as_string::<i32>().value(key), name),
                None => name.push(0),
            }
        }
    }
}

/// The values of a name over columns of these types; none if it is damaged.
pub(super) fn decode<'a>(types: &[DataType], mut name: &'a [u8]) -> Option<Vec<Part<'a>>> {
    let mut parts = Vec::with_capacity(types.len());
    for _ in types {
        let (kind, rest) = name.split_first()?;
        name = rest;
        parts.push(match kind {
            0 => Part::Null,
            1 => {
                let (length, rest) = name.split_first_chunk::<4>()?;
                let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                name = rest;
                Part::Text(std::str::from_utf8(text).ok()?)
            }
            2 => {
                let (value, rest) = name.split_first_chunk::<8>()?;
                name = rest;
                Part::Integer(i64::from_le_bytes(*value))
            }
            3 => {
                let (value, rest) = name.split_first()?;
                name = rest;
                Part::Boolean(*value == 1)
            }
            _ => return None,
        });
    }
    name.is_empty().then_some(parts)
}

/// A name as a person reads it, whatever its columns are; none if it is damaged.
pub(super) fn show(name: &[u8]) -> Option<String> {
    let mut shown: Vec<String> = Vec::new();
    let mut rest = name;
    while let Some(kind) = rest.first() {
        let length = match kind {
            0 => 1,
            1 => 5 + u32::from_le_bytes(*rest.get(1..)?.first_chunk()?) as usize,
            2 => 9,
            _ => 2,
        };
        let (part, behind) = rest.split_at_checked(length)?;
        // One value at a time decodes as a name of one column; the type matters to the others only.
        shown.push(match decode(&[DataType::Null], part)?.pop()? {
            Part::Null => "-".to_owned(),
            Part::Text(text) => text.to_owned(),
            Part::Integer(value) => value.to_string(),
            Part::Boolean(value) => value.to_string(),
        });
        rest = behind;
    }
    Some(shown.join("/"))
}

/// One column of some keys, in its own type.
pub(super) fn column<'a>(data_type: &DataType, parts: impl Iterator<Item = Option<Part<'a>>>) -> ArrayRef {
    match data_type {
        DataType::Int64 => {
            let mut builder = Int64Builder::new();
            parts.for_each(|part| {
                builder.append_option(match part {
                    Some(Part::Integer(value)) => Some(value),
                    _ => None,
                })
            });
            Arc::new(builder.finish())
        }
        DataType::Boolean => {
            let mut builder = BooleanBuilder::new();
            parts.for_each(|part| {
                builder.append_option(match part {
                    Some(Part::Boolean(value)) => Some(value),
                    _ => None,
                })
            });
            Arc::new(builder.finish())
        }
        DataType::Utf8 => {
            let mut builder = StringBuilder::new();
            parts.for_each(|part| builder.append_option(part.and_then(Part::text)));
            Arc::new(builder.finish())
        }
        _ => {
            let mut builder = StringDictionaryBuilder::<Int32Type>::new();
            parts.for_each(|part| builder.append_option(part.and_then(Part::text)));
            Arc::new(builder.finish())
        }
    }
}
