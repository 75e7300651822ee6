//! Rows as texts that are equal exactly when the rows are: dictionaries by their values, floats bit for bit (all
//! NaNs are one), frames by the rows inside. Pure.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::codec::frame::{self, FRAME_COLUMN};
use crate::{Error, Result};

/// Every row of a batch as one text.
///
/// # Errors
/// If a column has a type that Arrow cannot show, or a frame cannot be decoded.
pub fn rows(batch: &RecordBatch) -> Result<Vec<String>> {
    let mut rows = vec![String::new(); batch.num_rows()];
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        for (index, row) in rows.iter_mut().enumerate() {
            if !row.is_empty() {
                row.push_str(", ");
            }
            row.push_str(&cell(column.as_ref(), index, field.name() == FRAME_COLUMN)?);
        }
    }
    Ok(rows)
}

/// The times of a batch in microseconds since 1970, where it has them.
pub fn times(batch: &RecordBatch) -> Vec<i64> {
    crate::core::schema::times(batch).map_or_else(|_| Vec::new(), |times| times.values().to_vec())
}

fn cell(array: &dyn Array, row: usize, is_frame: bool) -> Result<String> {
    if array.is_null(row) {
        return Ok("null".to_owned());
    }
    Ok(match array.data_type() {
        // The shortest text that reads back as the same bits, `-0.0` and all.
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Float32 => format!("{:?}", array.as_primitive::<Float32Type>().value(row)),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
        }
        DataType::Utf8 => format!("{:?}", array.as_string::<i32>().value(row)),
        DataType::Binary if is_frame => framed(array.as_binary::<i32>().value(row))?,
        DataType::Binary => format!("{:?}", array.as_binary::<i32>().value(row)),
        DataType::Dictionary(key, _) if **key == DataType::Int32 => {
            let dictionary = array.as_dictionary::<Int32Type>();
            match dictionary.key(row) {
                Some(key) => cell(dictionary.values().as_ref(), key, false)?,
                None => "null".to_owned(),
            }
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            let items: Result<Vec<String>> =
                (0..items.len()).map(|item| cell(items.as_ref(), item, false)).collect();
            format!("[{}]", items?.join(", "))
        }
        _ => {
            let formatter = ArrayFormatter::try_new(array, &FormatOptions::default().with_null("null"))?;
            formatter.value(row).try_to_string()?
        }
    })
}

fn framed(bytes: &[u8]) -> Result<String> {
    let decoded = frame::decode(bytes)?;
    if decoded.consumed != bytes.len() || !decoded.skipped.is_empty() {
        return Err(Error::data(format!(
            "a frame of {} bytes has {} with {} columns skipped",
            bytes.len(),
            decoded.consumed,
            decoded.skipped.len()
        )));
    }
    Ok(format!("{{{}}}", rows(&decoded.batch)?.join("; ")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray, Float64Array, ListArray, StringArray};

    use super::*;
    use crate::codec::stage::Stage;

    #[test]
    fn equal_rows_are_equal_texts_and_others_are_not() {
        let tag: DictionaryArray<Int32Type> =
            [Some("b"), None, Some("a"), Some("null")].into_iter().collect();
        let number = Float64Array::from(vec![Some(-0.0), Some(0.1), Some(f64::NAN), None]);
        let text = StringArray::from(vec![Some("x, \"y\""), Some(""), None, Some("null")]);
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
            Some(vec![Some(2)]),
        ]);
        let columns: [(&str, ArrayRef); 4] =
            [("t", Arc::new(tag)), ("n", Arc::new(number)), ("s", Arc::new(text)), ("l", Arc::new(list))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let expected = [
            r#""b", -0.0, "x, \"y\"", [1, null]"#,
            r#"null, 0.1, "", null"#,
            r#""a", NaN, null, []"#,
            r#""null", null, "null", [2]"#,
        ];
        assert_eq!(rows(&batch).unwrap(), expected);
        assert_eq!(rows(&batch.slice(2, 1)).unwrap(), expected[2..3]);
    }

    #[test]
    fn a_frame_is_its_rows_whatever_bytes_it_took() {
        let frame = |stage| {
            let number = Float64Array::from(vec![1.5, 2.5, 1.5]);
            let inside = RecordBatch::try_from_iter([("n", Arc::new(number) as ArrayRef)]).unwrap();
            let options = frame::FrameOptions { stage };
            let mut bytes = Vec::new();
            frame::FrameEncoder::new(options).unwrap().encode(&inside, &mut bytes).unwrap();
            let column = arrow::array::BinaryArray::from_vec(vec![&bytes]);
            RecordBatch::try_from_iter([("frame", Arc::new(column) as ArrayRef)]).unwrap()
        };
        let (stored, coded) = (frame(Stage::Stored), frame(Stage::Huffman));
        assert_ne!(stored, coded);
        assert_eq!(rows(&stored).unwrap(), ["{1.5; 2.5; 1.5}"]);
        assert_eq!(rows(&coded).unwrap(), ["{1.5; 2.5; 1.5}"]);
    }
}
