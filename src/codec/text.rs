//! What the text writers share: one cell of an Arrow column as JSON or CSV text. Pure.
//!
//! Numbers are the shortest that read back exactly, times RFC 3339 in UTC, bytes Base64 (RFC 4648, with padding),
//! lists JSON arrays. NaN and infinities have no number in JSON: they become null, in CSV an empty cell.

use arrow::array::DictionaryArray;
use arrow::array::{
    Array, BinaryArray, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, LargeBinaryArray, LargeListArray, LargeStringArray,
    ListArray, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Int32Type, Schema};

use super::timestamp::TimeWriter;
use crate::error::{Error, Result};

/// Deepest nesting of lists that is written.
const LIST_DEPTH_MAX: usize = 8;

/// Refuses a schema with a column that has no text form, naming it.
pub fn check_schema(schema: &Schema) -> Result<()> {
    for field in schema.fields() {
        if !has_text(field.data_type(), 0) {
            return Err(Error::config(format!(
                "column \"{}\" is {}, which cannot be written as text; leave it out or CAST it",
                field.name(),
                field.data_type()
            )));
        }
    }
    Ok(())
}

fn has_text(data_type: &DataType, depth: usize) -> bool {
    match data_type {
        DataType::Dictionary(key, value) => {
            **key == DataType::Int32 && matches!(**value, DataType::Utf8 | DataType::LargeUtf8)
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            depth < LIST_DEPTH_MAX && has_text(item.data_type(), depth + 1)
        }
        DataType::Null
        | DataType::Boolean
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::FixedSizeBinary(_)
        | DataType::Timestamp(..) => true,
        other => other.is_integer(),
    }
}

/// How a cell is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Json,
    Csv { delimiter: u8 },
}

/// A column, ready to be written cell by cell.
pub(super) struct Cells<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Null,
    Boolean(&'a BooleanArray),
    Int8(&'a Int8Array),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    UInt8(&'a UInt8Array),
    UInt16(&'a UInt16Array),
    UInt32(&'a UInt32Array),
    UInt64(&'a UInt64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Seconds(&'a TimestampSecondArray),
    Milliseconds(&'a TimestampMillisecondArray),
    Microseconds(&'a TimestampMicrosecondArray),
    Nanoseconds(&'a TimestampNanosecondArray),
    Text(&'a StringArray),
    LargeText(&'a LargeStringArray),
    /// Every distinct text as it is written, `ends` gives where each stops in `written`.
    Encoded {
        keys: &'a Int32Array,
        written: Vec<u8>,
        ends: Vec<usize>,
    },
    /// A dictionary larger than the batch: texts are written one by one.
    Dictionary {
        keys: &'a Int32Array,
        texts: Box<Cells<'a>>,
    },
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    FixedBinary(&'a FixedSizeBinaryArray),
    List(&'a ListArray, Box<Cells<'a>>),
    LargeList(&'a LargeListArray, Box<Cells<'a>>),
    FixedList(&'a FixedSizeListArray, Box<Cells<'a>>),
}

impl<'a> Cells<'a> {
    /// `style` must be the one the cells are written in: it is needed for what is encoded beforehand.
    pub(super) fn new(array: &'a dyn Array, style: Style) -> Result<Self> {
        let values =
            scalars(array).map(Ok).or_else(|| nested(array, style).transpose()).unwrap_or_else(|| {
                let data_type = array.data_type();
                Err(Error::data(format!("a column of type {data_type} cannot be written as text; CAST it")))
            })?;
        Ok(Self { nulls: array.nulls(), values })
    }

    /// Appends the cell of this row.
    #[inline]
    pub(super) fn write(&self, row: usize, style: Style, times: &mut TimeWriter, out: &mut Vec<u8>) {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return write_null(style, out);
        }
        match &self.values {
            Values::Null => write_null(style, out),
            Values::Boolean(array) => {
                out.extend_from_slice(if array.value(row) { b"true" } else { b"false" })
            }
            Values::Int8(array) => write_integer(array.value(row), out),
            Values::Int16(array) => write_integer(array.value(row), out),
            Values::Int32(array) => write_integer(array.value(row), out),
            Values::Int64(array) => write_integer(array.value(row), out),
            Values::UInt8(array) => write_integer(array.value(row), out),
            Values::UInt16(array) => write_integer(array.value(row), out),
            Values::UInt32(array) => write_integer(array.value(row), out),
            Values::UInt64(array) => write_integer(array.value(row), out),
            Values::Float32(array) => write_float(array.value(row), array.value(row).is_finite(), style, out),
            Values::Float64(array) => write_float(array.value(row), array.value(row).is_finite(), style, out),
            Values::Seconds(array) => write_time(array.value(row), 1_000_000, style, times, out),
            Values::Milliseconds(array) => write_time(array.value(row), 1_000, style, times, out),
            Values::Microseconds(array) => write_time(array.value(row), 1, style, times, out),
            Values::Nanoseconds(array) => {
                quote(style, out);
                times.write_ns(array.value(row), out);
                quote(style, out);
            }
            Values::Text(array) => write_text(array.value(row), style, out),
            Values::LargeText(array) => write_text(array.value(row), style, out),
            Values::Encoded { keys, written, ends } => {
                let key = keys.value(row) as usize;
                let start = key.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
                let end = ends.get(key).copied().unwrap_or(start);
                out.extend_from_slice(written.get(start..end).unwrap_or_default());
            }
            Values::Dictionary { keys, texts } => texts.write(keys.value(row) as usize, style, times, out),
            Values::Binary(array) => write_binary(array.value(row), style, out),
            Values::LargeBinary(array) => write_binary(array.value(row), style, out),
            Values::FixedBinary(array) => write_binary(array.value(row), style, out),
            Values::List(array, items) => {
                let offsets = array.value_offsets();
                write_list(items, offsets[row] as usize..offsets[row + 1] as usize, style, times, out);
            }
            Values::LargeList(array, items) => {
                let offsets = array.value_offsets();
                write_list(items, offsets[row] as usize..offsets[row + 1] as usize, style, times, out);
            }
            Values::FixedList(array, items) => {
                let start = array.value_offset_at(row);
                write_list(items, start..start + array.value_length() as usize, style, times, out);
            }
        }
    }
}

/// The column as one without inner columns, if it is.
fn scalars(array: &dyn Array) -> Option<Values<'_>> {
    macro_rules! first_of {
        ($($variant:ident),+) => {
            $(if let Some(array) = array.as_any().downcast_ref() {
                return Some(Values::$variant(array));
            })+
        };
    }
    if array.data_type() == &DataType::Null {
        return Some(Values::Null);
    }
    first_of!(
        Float64,
        Int64,
        Microseconds,
        Text,
        Boolean,
        Float32,
        Int8,
        Int16,
        Int32,
        UInt8,
        UInt16,
        UInt32
    );
    first_of!(UInt64, Seconds, Milliseconds, Nanoseconds, LargeText, Binary, LargeBinary, FixedBinary);
    None
}

/// The column as a dictionary or a list, if it is one.
fn nested(array: &dyn Array, style: Style) -> Result<Option<Values<'_>>> {
    // Inside a list everything is JSON, whatever is around it.
    let items = |items| Cells::new(items, Style::Json).map(Box::new);
    if let Some(list) = array.as_any().downcast_ref::<ListArray>() {
        return Ok(Some(Values::List(list, items(list.values().as_ref())?)));
    }
    if let Some(list) = array.as_any().downcast_ref::<LargeListArray>() {
        return Ok(Some(Values::LargeList(list, items(list.values().as_ref())?)));
    }
    if let Some(list) = array.as_any().downcast_ref::<FixedSizeListArray>() {
        return Ok(Some(Values::FixedList(list, items(list.values().as_ref())?)));
    }
    let Some(dictionary) = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>() else {
        return Ok(None);
    };
    let keys = dictionary.keys();
    let texts = Cells::new(dictionary.values().as_ref(), style)?;
    if dictionary.values().len() > keys.len() {
        return Ok(Some(Values::Dictionary { keys, texts: Box::new(texts) }));
    }
    let (mut written, mut times) = (Vec::new(), TimeWriter::new());
    let encode = |text| {
        texts.write(text, style, &mut times, &mut written);
        written.len()
    };
    let ends = (0..dictionary.values().len()).map(encode).collect();
    Ok(Some(Values::Encoded { keys, written, ends }))
}

fn write_null(style: Style, out: &mut Vec<u8>) {
    if style == Style::Json {
        out.extend_from_slice(b"null");
    }
}

fn quote(style: Style, out: &mut Vec<u8>) {
    if style == Style::Json {
        out.push(b'"');
    }
}

#[inline]
fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[inline]
fn write_float(value: impl ryu::Float, finite: bool, style: Style, out: &mut Vec<u8>) {
    if finite {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        write_null(style, out);
    }
}

/// A time in units of `unit_us` µs; one beyond 64 bits of µs is written as null.
#[inline]
fn write_time(value: i64, unit_us: i64, style: Style, times: &mut TimeWriter, out: &mut Vec<u8>) {
    let Some(us) = value.checked_mul(unit_us) else { return write_null(style, out) };
    quote(style, out);
    times.write_us(us, out);
    quote(style, out);
}

#[inline]
fn write_text(text: &str, style: Style, out: &mut Vec<u8>) {
    match style {
        Style::Json => {
            out.push(b'"');
            escape_json(text, out);
            out.push(b'"');
        }
        Style::Csv { delimiter } => write_csv_text(text.as_bytes(), delimiter, out),
    }
}

/// Appends a CSV cell, in quotes where it needs them. An empty text gets them, to tell it from a null.
pub(super) fn write_csv_text(text: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    let special = |&byte: &u8| matches!(byte, b'"' | b'\n' | b'\r') || byte == delimiter;
    if !text.is_empty() && !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    let mut parts = text.split(|&byte| byte == b'"');
    out.extend_from_slice(parts.next().unwrap_or_default());
    for part in parts {
        out.extend_from_slice(b"\"\"");
        out.extend_from_slice(part);
    }
    out.push(b'"');
}

fn write_binary(bytes: &[u8], style: Style, out: &mut Vec<u8>) {
    // No Base64 digit means anything to CSV, so the quotes that tell empty from null are enough.
    let quoted = style == Style::Json || bytes.is_empty();
    out.extend(quoted.then_some(b'"'));
    write_base64(bytes, out);
    out.extend(quoted.then_some(b'"'));
}

fn write_list(
    items: &Cells<'_>,
    range: std::ops::Range<usize>,
    style: Style,
    times: &mut TimeWriter,
    out: &mut Vec<u8>,
) {
    let write = |times: &mut TimeWriter, out: &mut Vec<u8>| {
        out.push(b'[');
        for item in range.clone() {
            if item > range.start {
                out.push(b',');
            }
            items.write(item, Style::Json, times, out);
        }
        out.push(b']');
    };
    match style {
        Style::Json => write(times, out),
        Style::Csv { delimiter } => {
            let mut text = Vec::new();
            write(times, &mut text);
            write_csv_text(&text, delimiter, out);
        }
    }
}

/// For each byte what stands after the backslash in JSON: 0 for none, `u` for `\u00XX`.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        escapes[control] = b'u';
        control += 1;
    }
    escapes[0x08] = b'b';
    escapes[0x09] = b't';
    escapes[0x0a] = b'n';
    escapes[0x0c] = b'f';
    escapes[0x0d] = b'r';
    escapes[b'"' as usize] = b'"';
    escapes[b'\\' as usize] = b'\\';
    escapes
};

/// Appends the inside of a JSON string, escaping no more than it must.
pub fn escape_json(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(byte)];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(bytes.get(plain_from..at).unwrap_or_default());
        plain_from = at + 1;
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            let hex = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
            out.extend_from_slice(&[b'0', b'0', hex(byte >> 4), hex(byte)]);
        }
    }
    out.extend_from_slice(bytes.get(plain_from..).unwrap_or_default());
}

/// Appends Base64 in the standard alphabet with padding (RFC 4648 §4).
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let digit =
        |bits: u32| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(bits & 63) as usize];
    out.reserve(bytes.len().div_ceil(3) * 4);
    let (groups, rest) = bytes.as_chunks::<3>();
    for &[a, b, c] in groups {
        let bits = u32::from_be_bytes([0, a, b, c]);
        out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), digit(bits)]);
    }
    match *rest {
        [a] => {
            let bits = u32::from_be_bytes([0, a, 0, 0]);
            out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), b'=', b'=']);
        }
        [a, b] => {
            let bits = u32::from_be_bytes([0, a, b, 0]);
            out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), b'=']);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, expected) in cases {
            let mut out = Vec::new();
            write_base64(bytes.as_bytes(), &mut out);
            assert_eq!(out, expected.as_bytes());
        }
        let mut out = Vec::new();
        write_base64(&[0xfb, 0xff, 0xfe], &mut out);
        assert_eq!(out, b"+//+");
    }

    #[test]
    fn json_escapes_are_those_of_serde_json() {
        let text: String = (0..0x250).filter_map(char::from_u32).chain("€😀\u{2028}".chars()).collect();
        let mut out = vec![b'"'];
        escape_json(&text, &mut out);
        out.push(b'"');
        assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
    }

    #[test]
    fn a_schema_without_text_names_its_column() {
        let list = DataType::List(Field::new("item", DataType::Float32, true).into());
        assert!(check_schema(&Schema::new(vec![Field::new("a", list, true)])).is_ok());
        let schema = Schema::new(vec![Field::new("when", DataType::Date32, true)]);
        let message = check_schema(&schema).unwrap_err().message;
        assert!(message.contains("\"when\"") && message.contains("CAST"), "{message}");
        let array = arrow::array::Date32Array::from(vec![1]);
        assert!(Cells::new(&array, Style::Json).is_err());
    }
}
