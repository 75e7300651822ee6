//! Tests of both text writers: tables, `serde_json` as a second opinion, and the way back through the decoders.

use std::sync::Arc;

use arrow::array::types::{Float32Type, Int32Type};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, DictionaryArray, FixedSizeListArray, Float32Array, Float64Array,
    Int64Array, LargeStringArray, ListArray, NullArray, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array,
};
use arrow::datatypes::Schema;
use proptest::prelude::*;

use super::*;
use crate::codec::csv::{CsvDecoder, CsvFormat};
use crate::codec::fields::{Field, FieldKind, RowFormat, TimeField};
use crate::codec::json::{JsonDecoder, JsonFormat};
use crate::codec::records::lines;
use crate::codec::rows::Rows;
use crate::codec::text_csv::CsvWriter;
use crate::codec::timestamp::TimeUnit;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

fn ndjson(batch: &RecordBatch) -> String {
    let mut out = Vec::new();
    NdjsonWriter::new().write(batch, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn csv(batch: &RecordBatch, delimiter: u8) -> String {
    let mut out = Vec::new();
    let mut writer = CsvWriter::new(delimiter);
    writer.write_header(&batch.schema(), &mut out);
    writer.write(batch, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// A column, and its second and third cell as JSON and as CSV (the first is sliced off, to meet offsets).
fn cells() -> Vec<(ArrayRef, [&'static str; 2], [&'static str; 2])> {
    let words = || vec![Some("sliced off"), Some("a \"b\",\n\u{1}"), None];
    vec![
        (Arc::new(NullArray::new(3)), ["null", "null"], ["", ""]),
        (Arc::new(BooleanArray::from(vec![None, Some(true), None])), ["true", "null"], ["true", ""]),
        (
            Arc::new(Int64Array::from(vec![0, i64::MIN, 7])),
            ["-9223372036854775808", "7"],
            ["-9223372036854775808", "7"],
        ),
        (Arc::new(UInt8Array::from(vec![0, 255, 7])), ["255", "7"], ["255", "7"]),
        (Arc::new(Float64Array::from(vec![0.0, 0.1, f64::NAN])), ["0.1", "null"], ["0.1", ""]),
        (Arc::new(Float64Array::from(vec![0.0, 1e300, f64::NEG_INFINITY])), ["1e300", "null"], ["1e300", ""]),
        (Arc::new(Float32Array::from(vec![0.0, 0.1, f32::INFINITY])), ["0.1", "null"], ["0.1", ""]),
        (
            Arc::new(StringArray::from(words())),
            [r#""a \"b\",\n\u0001""#, "null"],
            ["\"a \"\"b\"\",\n\u{1}\"", ""],
        ),
        (Arc::new(LargeStringArray::from(vec!["", "", "é"])), [r#""""#, r#""é""#], ["\"\"", "é"]),
        (
            Arc::new(words().into_iter().collect::<DictionaryArray<Int32Type>>()),
            [r#""a \"b\",\n\u0001""#, "null"],
            ["\"a \"\"b\"\",\n\u{1}\"", ""],
        ),
        (
            Arc::new(BinaryArray::from(vec![&b""[..], b"foob", b""])),
            [r#""Zm9vYg==""#, r#""""#],
            ["Zm9vYg==", "\"\""],
        ),
        (
            Arc::new(TimestampMicrosecondArray::from(vec![0, 1, -1]).with_timezone("UTC")),
            [r#""1970-01-01T00:00:00.000001Z""#, r#""1969-12-31T23:59:59.999999Z""#],
            ["1970-01-01T00:00:00.000001Z", "1969-12-31T23:59:59.999999Z"],
        ),
        (
            Arc::new(TimestampNanosecondArray::from(vec![0, 1, -1])),
            [r#""1970-01-01T00:00:00.000000001Z""#, r#""1969-12-31T23:59:59.999999999Z""#],
            ["1970-01-01T00:00:00.000000001Z", "1969-12-31T23:59:59.999999999Z"],
        ),
        (
            Arc::new(TimestampMillisecondArray::from(vec![0, 4_102_444_800_000, i64::MAX])),
            [r#""2100-01-01T00:00:00.000000Z""#, "null"],
            ["2100-01-01T00:00:00.000000Z", ""],
        ),
        (
            Arc::new(TimestampSecondArray::from(vec![Some(0), Some(1_700_000_000), None])),
            [r#""2023-11-14T22:13:20.000000Z""#, "null"],
            ["2023-11-14T22:13:20.000000Z", ""],
        ),
        (
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
                vec![Some(vec![Some(9.0), Some(9.0)]), Some(vec![Some(1.5), None]), None],
                2,
            )),
            ["[1.5,null]", "null"],
            ["\"[1.5,null]\"", ""],
        ),
        (
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
                Some(vec![Some(9)]),
                Some(vec![]),
                Some(vec![Some(1), Some(2)]),
            ])),
            ["[]", "[1,2]"],
            ["[]", "\"[1,2]\""],
        ),
    ]
}

#[test]
fn every_type_has_its_text() {
    for (array, json, text) in cells() {
        let data_type = array.data_type().clone();
        let batch = batch(vec![("c", array)]).slice(1, 2);
        crate::codec::text::check_schema(&batch.schema()).unwrap();
        assert_eq!(ndjson(&batch), format!("{{\"c\":{}}}\n{{\"c\":{}}}\n", json[0], json[1]), "{data_type}");
        assert_eq!(csv(&batch, b','), format!("c\n{}\n{}\n", text[0], text[1]), "{data_type}");
        for line in ndjson(&batch).lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}

#[test]
fn columns_keys_and_delimiters() {
    let one = batch(vec![
        ("a\"b", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("c;d", Arc::new(StringArray::from(vec!["x;y,z"])) as ArrayRef),
    ]);
    assert_eq!(ndjson(&one), "{\"a\\\"b\":1,\"c;d\":\"x;y,z\"}\n");
    assert_eq!(csv(&one, b';'), "\"a\"\"b\";\"c;d\"\n1;\"x;y,z\"\n");
    assert_eq!(csv(&one, b','), "\"a\"\"b\",c;d\n1,\"x;y,z\"\n");
    // A writer follows the schema from batch to batch.
    let other = batch(vec![("n", Arc::new(Int64Array::from(vec![2])) as ArrayRef)]);
    let mut out = Vec::new();
    let mut writer = NdjsonWriter::new();
    writer.write(&one, &mut out).unwrap();
    writer.write(&other, &mut out).unwrap();
    assert!(out.ends_with(b"}\n{\"n\":2}\n"));
}

#[test]
fn a_dictionary_larger_than_the_batch_is_read_entry_by_entry() {
    let words: Vec<String> = (0..100).map(|i| format!("device-{i}")).collect();
    let array: DictionaryArray<Int32Type> = words.iter().map(|word| Some(word.as_str())).collect();
    let batch = batch(vec![("d", Arc::new(array) as ArrayRef)]).slice(42, 2);
    assert_eq!(ndjson(&batch), "{\"d\":\"device-42\"}\n{\"d\":\"device-43\"}\n");
    assert_eq!(csv(&batch, b','), "d\ndevice-42\ndevice-43\n");
}

fn format() -> RowFormat {
    let fields = vec![
        Field::new("f", FieldKind::F64),
        Field::new("g", FieldKind::F32),
        Field::new("i", FieldKind::I64),
        Field::new("b", FieldKind::Bool),
        Field::new("s", FieldKind::Text),
    ];
    RowFormat::new(fields, TimeField::At { path: vec!["time".into()], unit: TimeUnit::Rfc3339 })
}

type Cells = (i64, Option<f64>, Option<f32>, Option<i64>, Option<bool>, Option<String>);

fn any_row() -> impl Strategy<Value = Cells> {
    (
        crate::codec::timestamp::TIME_US_MIN..crate::codec::timestamp::TIME_US_END,
        proptest::option::of(any::<f64>().prop_filter("finite", |v| v.is_finite())),
        proptest::option::of(any::<f32>().prop_filter("finite", |v| v.is_finite())),
        any::<Option<i64>>(),
        any::<Option<bool>>(),
        proptest::option::of("[\u{0}-\u{7f}é😀]{0,10}"),
    )
}

fn batch_of(rows: &[Cells]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.0)).with_timezone("UTC"),
        ),
        Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(Float32Array::from_iter(rows.iter().map(|row| row.2))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.3))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.4))),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.5.as_deref()))),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(format().arrow_fields())), columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_is_written_reads_back(rows in proptest::collection::vec(any_row(), 1..12)) {
        let expected = batch_of(&rows);
        let (format, schema) = (format(), expected.schema());

        let mut decoder = JsonDecoder::new(&format, &JsonFormat::default()).unwrap();
        let mut decoded = Rows::new(&format);
        for line in lines(ndjson(&expected).as_bytes()) {
            prop_assert_eq!(decoder.decode(line, 0, &mut decoded), Ok(1));
        }
        prop_assert_eq!(&RecordBatch::try_new(schema.clone(), decoded.finish().unwrap()).unwrap(), &expected);

        let layout = CsvFormat { header: true, ..CsvFormat::default() };
        let mut decoder = CsvDecoder::new(&format, &layout).unwrap();
        prop_assert_eq!(decoder.decode(csv(&expected, b',').as_bytes(), 0, &mut decoded), Ok(rows.len()));
        prop_assert_eq!(&RecordBatch::try_new(schema, decoded.finish().unwrap()).unwrap(), &expected);
    }

    #[test]
    fn every_line_is_json_whatever_the_float(value in any::<f64>()) {
        let one = batch(vec![("v", Arc::new(Float64Array::from(vec![value])) as ArrayRef)]);
        let line: serde_json::Value = serde_json::from_str(&ndjson(&one)).unwrap();
        prop_assert_eq!(line["v"].is_null(), !value.is_finite());
    }
}
