//! Kernels over text. Pure. Every result is built through [`TextColumn`], which bounds its size.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, StringBuilder};
use std::sync::Arc;

use super::node::{Side, Value};
use super::number::{integers, wrong_type};
use crate::error::{Error, Result};

/// The most bytes of text one evaluation may produce for one batch: `replace` and `concat` can make text grow
/// without end.
pub const TEXT_RESULT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A column of texts under construction.
struct TextColumn {
    builder: StringBuilder,
    bytes: usize,
}

impl TextColumn {
    fn new(rows: usize) -> Self {
        Self { builder: StringBuilder::with_capacity(rows, rows * 8), bytes: 0 }
    }

    /// Adds to the text of the current row.
    fn push(&mut self, part: &str) -> Result<()> {
        self.bytes += part.len();
        if self.bytes > TEXT_RESULT_BYTES_MAX {
            return Err(Error::data(format!(
                "a text expression gives more than {TEXT_RESULT_BYTES_MAX} bytes for one batch; use smaller batches"
            )));
        }
        // Writing into a builder in memory cannot fail.
        let _ = self.builder.write_str(part);
        Ok(())
    }

    fn push_char(&mut self, character: char) -> Result<()> {
        self.push(character.encode_utf8(&mut [0; 4]))
    }

    /// Ends the current row.
    fn end(&mut self) {
        self.builder.append_value("");
    }

    fn finish(mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

/// A text argument: one text per row, or one for all.
struct Texts<'a> {
    array: &'a StringArray,
    scalar: bool,
}

impl<'a> Texts<'a> {
    fn new(value: &'a Value) -> Result<Self> {
        let array = value.array().as_string_opt().ok_or_else(|| wrong_type(value.array()))?;
        Ok(Self { array, scalar: value.is_scalar() })
    }

    fn get(&self, row: usize) -> Option<&'a str> {
        let row = if self.scalar { 0 } else { row };
        self.array.is_valid(row).then(|| self.array.value(row))
    }
}

/// An integer argument.
struct Integers {
    array: Int64Array,
    scalar: bool,
}

impl Integers {
    fn new(value: &Value) -> Result<Self> {
        Ok(Self { array: integers(value.array())?, scalar: value.is_scalar() })
    }

    fn get(&self, row: usize) -> Option<i64> {
        let row = if self.scalar { 0 } else { row };
        self.array.is_valid(row).then(|| self.array.value(row))
    }
}

/// `write` for every row where all of `args` are texts; null elsewhere.
fn map_texts<const N: usize>(
    args: [&Value; N],
    rows: usize,
    write: impl Fn([&str; N], &mut TextColumn) -> Result<()>,
) -> Result<ArrayRef> {
    let mut texts = Vec::with_capacity(N);
    for value in args {
        texts.push(Texts::new(value)?);
    }
    let mut column = TextColumn::new(rows);
    for row in 0..rows {
        let mut given = [""; N];
        let mut complete = true;
        for (slot, texts) in given.iter_mut().zip(&texts) {
            match texts.get(row) {
                Some(text) => *slot = text,
                None => complete = false,
            }
        }
        if complete {
            write(given, &mut column)?;
            column.end();
        } else {
            column.builder.append_null();
        }
    }
    Ok(column.finish())
}

pub(super) fn lower(texts: &Value, rows: usize) -> Result<ArrayRef> {
    map_texts([texts], rows, |[text], column| {
        text.chars().flat_map(char::to_lowercase).try_for_each(|character| column.push_char(character))
    })
}

pub(super) fn upper(texts: &Value, rows: usize) -> Result<ArrayRef> {
    map_texts([texts], rows, |[text], column| {
        text.chars().flat_map(char::to_uppercase).try_for_each(|character| column.push_char(character))
    })
}

/// White space cut off.
pub(super) fn trim(side: Side, texts: &Value, rows: usize) -> Result<ArrayRef> {
    map_texts([texts], rows, |[text], column| {
        column.push(match side {
            Side::Both => text.trim(),
            Side::Start => text.trim_start(),
            Side::End => text.trim_end(),
        })
    })
}

/// Every character that is one of `characters` cut off.
pub(super) fn trim_characters(
    side: Side,
    texts: &Value,
    characters: &Value,
    rows: usize,
) -> Result<ArrayRef> {
    map_texts([texts, characters], rows, |[text, characters], column| {
        let one_of = |character: char| characters.contains(character);
        column.push(match side {
            Side::Both => text.trim_matches(one_of),
            Side::Start => text.trim_start_matches(one_of),
            Side::End => text.trim_end_matches(one_of),
        })
    })
}

/// Every `from` replaced by `to`; an empty `from` is nowhere.
pub(super) fn replace(texts: &Value, from: &Value, to: &Value, rows: usize) -> Result<ArrayRef> {
    map_texts([texts, from, to], rows, |[text, from, to], column| {
        if from.is_empty() {
            return column.push(text);
        }
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(from) {
            column.push(before)?;
            column.push(to)?;
            rest = after;
        }
        column.push(rest)
    })
}

/// The characters from `start` (1 is the first) on, `count` of them if given. As in SQL, a start before the first
/// character uses up some of the count.
pub(super) fn substr(texts: &Value, start: &Value, count: Option<&Value>, rows: usize) -> Result<ArrayRef> {
    let texts = Texts::new(texts)?;
    let start = Integers::new(start)?;
    let count = count.map(Integers::new).transpose()?;
    let mut column = TextColumn::new(rows);
    for row in 0..rows {
        let length = match &count {
            Some(count) => count.get(row),
            None => Some(i64::MAX),
        };
        let (Some(text), Some(start), Some(length)) = (texts.get(row), start.get(row), length) else {
            column.builder.append_null();
            continue;
        };
        column.push(characters(text, start, length))?;
        column.end();
    }
    Ok(column.finish())
}

fn characters(text: &str, start: i64, count: i64) -> &str {
    let end = start.saturating_add(count.max(0)).max(1);
    let start = start.max(1);
    let byte_of = |index: i64| {
        let index = usize::try_from(index - 1).unwrap_or(usize::MAX);
        text.char_indices().nth(index).map_or(text.len(), |(at, _)| at)
    };
    if end <= start {
        return "";
    }
    text.get(byte_of(start)..byte_of(end)).unwrap_or_default()
}

/// All texts of a row in a line. A null text is skipped, or makes the row null if `strict`.
pub(super) fn concat(args: &[Value], strict: bool, rows: usize) -> Result<ArrayRef> {
    let texts = args.iter().map(Texts::new).collect::<Result<Vec<_>>>()?;
    let mut column = TextColumn::new(rows);
    for row in 0..rows {
        if strict && texts.iter().any(|texts| texts.get(row).is_none()) {
            column.builder.append_null();
            continue;
        }
        for text in texts.iter().filter_map(|texts| texts.get(row)) {
            column.push(text)?;
        }
        column.end();
    }
    Ok(column.finish())
}

/// Characters in a text; bytes in bytes.
pub(super) fn length(array: &dyn Array) -> Result<ArrayRef> {
    let lengths: Int64Array = match (array.as_string_opt::<i32>(), array.as_binary_opt::<i32>()) {
        (Some(texts), _) => texts.iter().map(|text| text.map(|text| text.chars().count() as i64)).collect(),
        (None, Some(bytes)) => bytes.iter().map(|bytes| bytes.map(|bytes| bytes.len() as i64)).collect(),
        (None, None) => return Err(wrong_type(array)),
    };
    Ok(Arc::new(lengths))
}
