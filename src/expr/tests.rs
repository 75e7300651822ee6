//! Expressions against their expectations: a table over one small batch, a table of errors, truth tables, limits, and
//! two laws: how a batch is cut does not matter, and a naive interpreter that goes row by row agrees.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, DictionaryArray, DurationMicrosecondArray,
    Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::compute::{cast, concat};
use arrow::datatypes::{
    DataType, DurationMicrosecondType, Field, Float32Type, Float64Type, Int32Type, Int64Type, Schema,
    TimestampMicrosecondType,
};
use proptest::prelude::*;

use super::number::integers_as;
use super::types::Kind;
use super::{DEPTH_MAX, Expr, ExprError, TOKENS_MAX};
use crate::error::Kind as ErrorKind;

fn time_type() -> DataType {
    Kind::Time.data_type()
}

fn schema() -> Schema {
    let tag = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    Schema::new(vec![
        Field::new("time", time_type(), false),
        Field::new("device", tag, true),
        Field::new("note", DataType::Utf8, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("i", DataType::Int64, true),
        Field::new("j", DataType::Int64, false),
        Field::new("x", DataType::Float64, true),
        Field::new("y", DataType::Float64, false),
        Field::new("f", DataType::Float32, true),
        Field::new("raw", DataType::Binary, true),
        Field::new("lapse", Kind::Duration.data_type(), true),
        Field::new("small", DataType::Int32, true),
        Field::new("motor.temp", DataType::Float64, false),
        Field::new("list", DataType::new_list(DataType::Int64, true), true),
    ])
}

fn micros(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

fn batch() -> RecordBatch {
    let times = [
        "2024-05-01T10:00:00Z",
        "2024-05-01T10:30:15.250Z",
        "2024-12-31T23:59:59.999999Z",
        "2025-01-01T00:00:00Z",
        "1969-12-31T23:59:59.500Z",
    ];
    let times = Int64Array::from_iter_values(times.iter().map(|text| micros(text)));
    let devices: DictionaryArray<Int32Type> =
        [Some("pump-1"), Some("pump-2"), None, Some("pump-1"), Some("fan")].into_iter().collect();
    let lapses =
        DurationMicrosecondArray::from(vec![Some(5_000_000), Some(-1), None, Some(0), Some(90_000_000)]);
    let columns: Vec<ArrayRef> = vec![
        integers_as(times, &time_type()),
        Arc::new(devices),
        Arc::new(StringArray::from(vec![Some("Hello"), Some("50% up"), None, Some(""), Some(" äÖ ")])),
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true), None])),
        Arc::new(Int64Array::from(vec![Some(1), Some(-7), None, Some(i64::MAX), Some(4)])),
        Arc::new(Int64Array::from(vec![2, 2, 0, -1, 3])),
        Arc::new(Float64Array::from(vec![Some(1.5), Some(-2.5), None, Some(f64::NAN), Some(f64::INFINITY)])),
        Arc::new(Float64Array::from(vec![2.0, 0.0, 0.0, -0.0, 1.0])),
        Arc::new(Float32Array::from(vec![Some(0.5), Some(0.25), None, Some(1.0), Some(2.0)])),
        Arc::new(BinaryArray::from_opt_vec(vec![
            Some(b"\x01"),
            None,
            Some(b"\x01\x02"),
            Some(b""),
            Some(b"\xff"),
        ])),
        Arc::new(lapses),
        Arc::new(Int32Array::from(vec![Some(10), Some(-10), None, Some(0), Some(7)])),
        Arc::new(Float64Array::from(vec![20.0, 21.5, 22.0, 95.0, -4.0])),
        arrow::array::new_null_array(&DataType::new_list(DataType::Int64, true), 5),
    ];
    RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
}

/// The rows of an array, joined by `|`; null is `_`.
fn rendered(array: &dyn Array) -> String {
    let rows: Vec<String> = (0..array.len()).map(|row| rendered_row(array, row)).collect();
    rows.join("|")
}

fn rendered_row(array: &dyn Array, row: usize) -> String {
    if let Some(dictionary) = array.as_dictionary_opt::<Int32Type>() {
        return match dictionary.key(row) {
            Some(key) => rendered_row(dictionary.values(), key),
            None => "_".to_owned(),
        };
    }
    if array.is_null(row) || array.data_type() == &DataType::Null {
        return "_".to_owned();
    }
    match array.data_type() {
        DataType::Boolean => if array.as_boolean().value(row) { "t" } else { "f" }.to_owned(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).to_string(),
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Binary => format!("{:02x?}", array.as_binary::<i32>().value(row)),
        DataType::Duration(_) => format!("{}us", array.as_primitive::<DurationMicrosecondType>().value(row)),
        DataType::Timestamp(..) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            chrono::DateTime::from_timestamp_micros(micros)
                .unwrap()
                .format("%Y-%m-%dT%H:%M:%S%.f")
                .to_string()
        }
        other => panic!("no rendering of {other}"),
    }
}

/// Expression, and its result for the five rows of [`batch`].
const TABLE: &[(&str, &str)] = &[
    // Columns and literals.
    ("i", "1|-7|_|9223372036854775807|4"),
    ("device", "pump-1|pump-2|_|pump-1|fan"),
    ("\"note\"", "Hello|50% up|_|| äÖ "),
    ("motor.temp", "20|21.5|22|95|-4"),
    ("\"motor.temp\"", "20|21.5|22|95|-4"),
    ("f", "0.5|0.25|_|1|2"),
    ("raw", "[01]|_|[01, 02]|[]|[ff]"),
    ("1", "1|1|1|1|1"),
    ("1.5e2", "150|150|150|150|150"),
    ("'it''s'", "it's|it's|it's|it's|it's"),
    ("TRUE", "t|t|t|t|t"),
    (
        "-9223372036854775808",
        "-9223372036854775808|-9223372036854775808|-9223372036854775808|-9223372036854775808|-9223372036854775808",
    ),
    (
        "9223372036854775808",
        "9223372036854776000|9223372036854776000|9223372036854776000|9223372036854776000|9223372036854776000",
    ),
    ("CAST(NULL AS DOUBLE)", "_|_|_|_|_"),
    ("X'00fF'", "[00, ff]|[00, ff]|[00, ff]|[00, ff]|[00, ff]"),
    // Whole-number arithmetic: overflow and division by zero are null.
    ("i + 1", "2|-6|_|_|5"),
    ("i + j", "3|-5|_|9223372036854775806|7"),
    ("j - i", "1|9|_|-9223372036854775808|-1"),
    ("i * 2", "2|-14|_|_|8"),
    ("i * i", "1|49|_|_|16"),
    ("i / j", "0|-3|_|-9223372036854775807|1"),
    ("7 / j", "3|3|_|-7|2"),
    ("i / 0", "_|_|_|_|_"),
    ("i % j", "1|-1|_|0|1"),
    ("mod(i, 3)", "1|-1|_|1|1"),
    ("(-9223372036854775807 - 1) / j", "-4611686018427387904|-4611686018427387904|_|_|-3074457345618258602"),
    ("(-9223372036854775807 - 1) % j", "0|0|_|0|-2"),
    ("-i", "-1|7|_|-9223372036854775807|-4"),
    ("+i", "1|-7|_|9223372036854775807|4"),
    ("2 + 3 * 4", "14|14|14|14|14"),
    ("(2 + 3) * j", "10|10|0|-5|15"),
    ("small + 1", "11|-9|_|1|8"),
    ("small / 4", "2|-2|_|0|1"),
    // Floats follow IEEE 754; a whole number meets a float as a float.
    ("x + y", "3.5|-2.5|_|NaN|inf"),
    ("x / y", "0.75|-inf|_|NaN|inf"),
    ("y / 0", "inf|NaN|NaN|NaN|inf"),
    ("x % 1", "0.5|-0.5|_|NaN|NaN"),
    ("i / 2.0", "0.5|-3.5|_|4611686018427388000|2"),
    ("-x", "-1.5|2.5|_|NaN|-inf"),
    ("f * 2", "1|0.5|_|2|4"),
    ("x + NULL", "_|_|_|_|_"),
    // Comparison.
    ("i > 0", "t|f|_|t|t"),
    ("i = j", "f|f|_|f|f"),
    ("i <> 4", "t|t|_|t|f"),
    ("i != 4", "t|t|_|t|f"),
    ("j <= 2", "t|t|t|t|f"),
    ("0 < x", "t|f|_|f|t"),
    ("x = x", "t|t|_|f|t"),
    ("x <> x", "f|f|_|t|f"),
    ("x >= -2.5", "t|t|_|f|t"),
    ("y = 0", "f|t|t|t|f"),
    ("y < 0", "f|f|f|f|f"),
    ("i < x", "t|t|_|f|t"),
    ("b = TRUE", "t|f|_|t|_"),
    ("b <> (i > 0)", "f|f|_|f|_"),
    ("x = NULL", "_|_|_|_|_"),
    ("NULL = NULL AND b", "_|f|_|_|_"),
    ("raw = X'01'", "t|_|f|f|f"),
    ("note < 'a'", "t|t|_|t|t"),
    ("note = ''", "f|f|_|t|f"),
    ("device = 'pump-1'", "t|f|_|t|f"),
    ("'pump-1' <> device", "f|t|_|f|t"),
    ("device = note", "f|f|_|f|f"),
    ("device >= 'pump'", "t|t|_|t|f"),
    // Logic, with nulls.
    ("b AND i > 0", "t|f|_|t|_"),
    ("b OR i > 0", "t|f|_|t|t"),
    ("NOT b", "f|t|_|f|_"),
    ("b AND FALSE", "f|f|f|f|f"),
    ("b OR TRUE", "t|t|t|t|t"),
    ("b AND TRUE", "t|f|_|t|_"),
    ("b AND NULL", "_|f|_|_|_"),
    ("b OR NULL", "t|_|_|t|_"),
    ("i = 1 OR i = 4 OR i = -7 OR FALSE", "t|t|_|f|t"),
    ("b IS NULL", "f|f|t|f|t"),
    ("b IS NOT NULL", "t|t|f|t|f"),
    ("device IS NULL", "f|f|t|f|f"),
    ("list IS NULL", "t|t|t|t|t"),
    ("1 / 0 IS NULL", "t|t|t|t|t"),
    ("b IS TRUE", "t|f|f|t|f"),
    ("b IS NOT TRUE", "f|t|t|f|t"),
    ("b IS FALSE", "f|t|f|f|f"),
    ("b IS NOT FALSE", "t|f|t|t|t"),
    ("b IS UNKNOWN", "f|f|t|f|t"),
    ("i IS DISTINCT FROM 4", "t|t|t|t|f"),
    ("b IS NOT DISTINCT FROM NULL", "f|f|t|f|t"),
    ("device IS DISTINCT FROM 'fan'", "t|t|t|t|f"),
    // BETWEEN and IN.
    ("i BETWEEN 1 AND 4", "t|f|_|f|t"),
    ("i NOT BETWEEN 1 AND 4", "f|t|_|t|f"),
    ("x BETWEEN -10 AND i", "f|f|_|f|f"),
    ("i BETWEEN j AND NULL", "f|f|_|_|_"),
    ("device BETWEEN 'a' AND 'g'", "f|f|_|f|t"),
    ("i IN (4, 1, 99)", "t|f|_|f|t"),
    ("i NOT IN (4, 1)", "f|t|_|t|f"),
    ("i IN (4, NULL)", "_|_|_|_|t"),
    ("i NOT IN (4, NULL)", "_|_|_|_|f"),
    ("i IN (j, 1)", "t|f|_|f|f"),
    ("x IN (1.5, -2.5, 0)", "t|t|_|f|f"),
    ("y IN (0)", "f|t|t|t|f"),
    ("x IN (1, 1.5)", "t|f|_|f|f"),
    ("device IN ('fan', 'pump-2')", "f|t|_|f|t"),
    ("b IN (TRUE)", "t|f|_|t|_"),
    ("time IN ('2024-05-01 10:00:00', '2025-01-01')", "t|f|f|t|f"),
    // LIKE.
    ("note LIKE 'H%'", "t|f|_|f|f"),
    ("note LIKE '_ello'", "t|f|_|f|f"),
    ("note NOT LIKE '%o'", "f|t|_|t|t"),
    ("note ILIKE 'hELLO'", "t|f|_|f|f"),
    ("note LIKE '50\\%%'", "f|t|_|f|f"),
    ("note LIKE '50!%%' ESCAPE '!'", "f|t|_|f|f"),
    ("note LIKE note", "t|t|_|t|t"),
    ("device LIKE 'pump%'", "t|t|_|t|f"),
    ("device NOT ILIKE 'PUMP-_'", "f|f|_|f|t"),
    ("note LIKE NULL", "_|_|_|_|_"),
    // CASE and its relatives.
    ("CASE WHEN i > 0 THEN 'up' WHEN i < 0 THEN 'down' ELSE 'none' END", "up|down|none|up|up"),
    ("CASE WHEN i > 0 THEN 'up' END", "up|_|_|up|up"),
    ("CASE i WHEN 1 THEN 10 WHEN j THEN 20 ELSE 0.5 END", "10|0.5|0.5|0.5|0.5"),
    ("CASE device WHEN 'fan' THEN 1 WHEN 'pump-1' THEN 2 END", "2|_|_|2|1"),
    ("CASE WHEN j <> 0 THEN 6 / j ELSE -1 END", "3|3|-1|-6|2"),
    ("CASE WHEN TRUE THEN device ELSE note END", "pump-1|pump-2|_|pump-1|fan"),
    ("CASE WHEN NULL THEN 1 ELSE j END", "2|2|0|-1|3"),
    ("CASE 1 WHEN 1 THEN j END", "2|2|0|-1|3"),
    ("CASE WHEN b THEN NULL END IS NULL", "t|t|t|t|t"),
    (
        "CASE WHEN b THEN '2024-05-01' ELSE time END",
        "2024-05-01T00:00:00|2024-05-01T10:30:15.250|2024-12-31T23:59:59.999999|2024-05-01T00:00:00|1969-12-31T23:59:59.500",
    ),
    ("COALESCE(i, j)", "1|-7|0|9223372036854775807|4"),
    ("COALESCE(NULL, b, FALSE)", "t|f|f|t|f"),
    ("COALESCE(device, note, '?')", "pump-1|pump-2|?|pump-1|fan"),
    ("NULLIF(i, 4)", "1|-7|_|9223372036854775807|_"),
    ("NULLIF(4, i)", "4|4|4|4|_"),
    ("NULLIF(device, 'fan')", "pump-1|pump-2|_|pump-1|_"),
    ("greatest(i, j, 2)", "2|2|2|9223372036854775807|4"),
    ("least(x, y)", "1.5|-2.5|0|-0|1"),
    ("greatest(x, y, 1)", "2|1|1|1|inf"),
    ("least(note, device)", "Hello|50% up|_|| äÖ "),
    ("greatest(NULL, b)", "t|f|_|t|_"),
    // CAST.
    ("CAST(x AS BIGINT)", "1|-2|_|_|_"),
    ("CAST(i AS DOUBLE)", "1|-7|_|9223372036854776000|4"),
    ("CAST(i AS TEXT)", "1|-7|_|9223372036854775807|4"),
    ("i::TEXT || '!'", "1!|-7!|_|9223372036854775807!|4!"),
    ("CAST(b AS INTEGER)", "1|0|_|1|_"),
    ("CAST(j AS BOOLEAN)", "t|t|f|t|t"),
    ("CAST(note AS DOUBLE)", "_|_|_|_|_"),
    ("TRY_CAST('12.5' AS DOUBLE)", "12.5|12.5|12.5|12.5|12.5"),
    ("CAST('7' AS BIGINT) + j", "9|9|7|6|10"),
    ("CAST(i AS REAL)", "1|-7|_|9223372000000000000|4"),
    (
        "CAST(time AS TEXT)",
        "2024-05-01T10:00:00Z|2024-05-01T10:30:15.250Z|2024-12-31T23:59:59.999999Z|2025-01-01T00:00:00Z|1969-12-31T23:59:59.500Z",
    ),
    ("CAST(CAST(time AS TEXT) AS TIMESTAMP) = time", "t|t|t|t|t"),
    ("CAST('2024-05-01T12:00:00+02:00' AS TIMESTAMP) = time", "t|f|f|f|f"),
    ("CAST(device AS TEXT)", "pump-1|pump-2|_|pump-1|fan"),
    // Numbers.
    ("abs(i)", "1|7|_|9223372036854775807|4"),
    ("abs(-9223372036854775808)", "_|_|_|_|_"),
    ("ABS(x)", "1.5|2.5|_|NaN|inf"),
    ("sign(i)", "1|-1|_|1|1"),
    ("sign(x)", "1|-1|_|NaN|1"),
    ("round(x)", "2|-3|_|NaN|inf"),
    ("round(i)", "1|-7|_|9223372036854775807|4"),
    ("round(motor.temp / 3, 2)", "6.67|7.17|7.33|31.67|-1.33"),
    ("round(motor.temp, -1)", "20|20|20|100|-0"),
    ("round(x, 400)", "1.5|-2.5|_|NaN|inf"),
    ("floor(x)", "1|-3|_|NaN|inf"),
    ("ceil(x)", "2|-2|_|NaN|inf"),
    ("ceiling(i)", "1|-7|_|9223372036854775807|4"),
    ("trunc(x)", "1|-2|_|NaN|inf"),
    ("sqrt(motor.temp + 5)", "5|5.1478150704935|5.196152422706632|10|1"),
    ("sqrt(-1)", "NaN|NaN|NaN|NaN|NaN"),
    ("exp(y) > 1", "t|f|f|f|t"),
    ("ln(exp(1))", "1|1|1|1|1"),
    ("log10(1000)", "3|3|3|3|3"),
    ("log2(8)", "3|3|3|3|3"),
    ("pow(j, 2)", "4|4|0|1|9"),
    ("power(2, i)", "2|0.0078125|_|inf|16"),
    ("sin(0) + cos(0) + tan(0)", "1|1|1|1|1"),
    ("asin(0) + acos(1) + atan(0)", "0|0|0|0|0"),
    ("atan2(0, 1)", "0|0|0|0|0"),
    ("is_nan(x)", "f|f|_|t|f"),
    ("isfinite(x)", "t|t|_|f|f"),
    ("is_infinite(x)", "f|f|_|f|t"),
    // Text.
    ("lower(note)", "hello|50% up|_|| äö "),
    ("upper(note)", "HELLO|50% UP|_|| ÄÖ "),
    ("upper(device)", "PUMP-1|PUMP-2|_|PUMP-1|FAN"),
    ("trim(note)", "Hello|50% up|_||äÖ"),
    ("ltrim(note)", "Hello|50% up|_||äÖ "),
    ("rtrim(note)", "Hello|50% up|_|| äÖ"),
    ("TRIM(BOTH 'Ho' FROM note)", "ell|50% up|_|| äÖ "),
    ("trim(LEADING 'p' FROM device)", "ump-1|ump-2|_|ump-1|fan"),
    ("length(note)", "5|6|_|0|4"),
    ("length(device)", "6|6|_|6|3"),
    ("length(raw)", "1|_|2|0|1"),
    ("concat(device, ':', i, NULL)", "pump-1:1|pump-2:-7|:|pump-1:9223372036854775807|fan:4"),
    ("device || ':' || i", "pump-1:1|pump-2:-7|_|pump-1:9223372036854775807|fan:4"),
    ("device || '/a'", "pump-1/a|pump-2/a|_|pump-1/a|fan/a"),
    ("note || NULL", "_|_|_|_|_"),
    ("substr(note, 2)", "ello|0% up|_||äÖ "),
    ("substr(note, 2, 3)", "ell|0% |_||äÖ "),
    ("substr(note, 0, 3)", "He|50|_|| ä"),
    ("substring(note FROM 3 FOR 1)", "l|%|_||Ö"),
    ("substr(note, 1, -5)", "||_||"),
    ("substr(note, j, 2)", "el|0%|_||Ö "),
    ("replace(note, 'l', 'LL')", "HeLLLLo|50% up|_|| äÖ "),
    ("replace(device, 'pump', 'p')", "p-1|p-2|_|p-1|fan"),
    ("replace(note, '', 'x')", "Hello|50% up|_|| äÖ "),
    ("starts_with(device, 'pump')", "t|t|_|t|f"),
    ("ends_with(note, 'o')", "t|f|_|f|f"),
    ("contains(note, '%')", "f|t|_|f|f"),
    ("lower(device) LIKE 'f%' AND length(device) = 3", "f|f|_|f|t"),
    // Times and durations.
    ("time > '2024-06-01'", "f|f|t|t|f"),
    ("'2024-05-01T10:00:00Z' = time", "t|f|f|f|f"),
    ("time >= TIMESTAMP '2025-01-01 00:00:00'", "f|f|f|t|f"),
    ("time BETWEEN '2024-05-01' AND '2024-05-02'", "t|t|f|f|f"),
    (
        "time - INTERVAL '5 seconds'",
        "2024-05-01T09:59:55|2024-05-01T10:30:10.250|2024-12-31T23:59:54.999999|2024-12-31T23:59:55|1969-12-31T23:59:54.500",
    ),
    ("INTERVAL '1' DAY + time > '2025-01-01'", "f|f|t|t|f"),
    (
        "time + lapse",
        "2024-05-01T10:00:05|2024-05-01T10:30:15.249999|_|2025-01-01T00:00:00|1970-01-01T00:01:29.500",
    ),
    ("time - '2025-01-01'", "-21132000000000us|-21130184750000us|-1us|0us|-1735689600500000us"),
    ("time + '1 hour 30 min' = '2024-05-01T11:30:00Z'", "t|f|f|f|f"),
    ("time - time", "0us|0us|0us|0us|0us"),
    ("lapse > INTERVAL 1 SECOND", "t|f|_|f|t"),
    ("lapse = '5s'", "t|f|_|f|f"),
    ("lapse * 2", "10000000us|-2us|_|0us|180000000us"),
    ("2 * lapse", "10000000us|-2us|_|0us|180000000us"),
    ("lapse * 1.5", "7500000us|-2us|_|0us|135000000us"),
    ("lapse / 2", "2500000us|0us|_|0us|45000000us"),
    ("lapse / j", "2500000us|0us|_|0us|30000000us"),
    ("lapse / INTERVAL '1 second'", "5|-0.000001|_|0|90"),
    ("lapse % INTERVAL '4 seconds'", "1000000us|-1us|_|0us|2000000us"),
    ("-lapse", "-5000000us|1us|_|0us|-90000000us"),
    ("lapse - INTERVAL '1 second'", "4000000us|-1000001us|_|-1000000us|89000000us"),
    ("epoch(time)", "1714557600|1714559415.25|1735689599.999999|1735689600|-0.5"),
    ("epoch(lapse)", "5|-0.000001|_|0|90"),
    ("to_timestamp(epoch(time)) = time", "t|t|t|t|t"),
    (
        "to_timestamp(j)",
        "1970-01-01T00:00:02|1970-01-01T00:00:02|1970-01-01T00:00:00|1969-12-31T23:59:59|1970-01-01T00:00:03",
    ),
    ("to_timestamp(x)", "1970-01-01T00:00:01.500|1969-12-31T23:59:57.500|_|_|_"),
    ("to_timestamp(i) IS NULL", "f|f|t|t|f"),
    (
        "date_trunc('hour', time)",
        "2024-05-01T10:00:00|2024-05-01T10:00:00|2024-12-31T23:00:00|2025-01-01T00:00:00|1969-12-31T23:00:00",
    ),
    (
        "date_trunc('week', time)",
        "2024-04-29T00:00:00|2024-04-29T00:00:00|2024-12-30T00:00:00|2024-12-30T00:00:00|1969-12-29T00:00:00",
    ),
    (
        "date_trunc('quarter', time)",
        "2024-04-01T00:00:00|2024-04-01T00:00:00|2024-10-01T00:00:00|2025-01-01T00:00:00|1969-10-01T00:00:00",
    ),
    (
        "date_trunc('YEAR', time)",
        "2024-01-01T00:00:00|2024-01-01T00:00:00|2024-01-01T00:00:00|2025-01-01T00:00:00|1969-01-01T00:00:00",
    ),
    ("extract(hour FROM time)", "10|10|23|0|23"),
    ("extract(minute FROM time)", "0|30|59|0|59"),
    ("extract(second FROM time)", "0|15|59|0|59"),
    ("extract(millisecond FROM time)", "0|15250|59999|0|59500"),
    ("extract(week FROM time)", "18|18|1|1|1"),
    ("extract(dow FROM time)", "3|3|2|3|3"),
    ("extract(isodow FROM time)", "3|3|2|3|3"),
    ("extract(doy FROM time)", "122|122|366|1|365"),
    ("date_part('year', time)", "2024|2024|2024|2025|1969"),
    ("date_part('epoch', time)", "1714557600|1714559415.25|1735689599.999999|1735689600|-0.5"),
];

fn evaluated(text: &str, batch: &RecordBatch) -> ArrayRef {
    let expr = Expr::parse(text, &batch.schema()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let result = expr.evaluate(batch).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(result.data_type(), expr.data_type(), "type of {text}");
    assert_eq!(result.len(), batch.num_rows(), "rows of {text}");
    assert!(expr.nullable() || result.logical_null_count() == 0, "{text} says that it is never null");
    result
}

#[test]
fn expressions_give_what_the_table_says() {
    let batch = batch();
    let wrong: Vec<String> = TABLE
        .iter()
        .map(|(text, expected)| (text, expected, rendered(&evaluated(text, &batch))))
        .filter(|(_, expected, found)| *expected != found)
        .map(|(text, expected, found)| format!("{text}\n  expected {expected}\n  found    {found}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), TABLE.len(), wrong.join("\n"));
}

#[test]
fn three_valued_logic_is_sqls() {
    // (left, right, AND, OR)
    let table = [
        ("TRUE", "TRUE", "t", "t"),
        ("TRUE", "FALSE", "f", "t"),
        ("TRUE", "NULL", "_", "t"),
        ("FALSE", "TRUE", "f", "t"),
        ("FALSE", "FALSE", "f", "f"),
        ("FALSE", "NULL", "f", "_"),
        ("NULL", "TRUE", "_", "t"),
        ("NULL", "FALSE", "f", "_"),
        ("NULL", "NULL", "_", "_"),
    ];
    let value = |name: &str| match name {
        "TRUE" => Some(true),
        "FALSE" => Some(false),
        _ => None,
    };
    let schema = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Boolean, true),
        Field::new("b", DataType::Boolean, true),
    ]));
    for (left, right, and, or) in table {
        let column = |name: &str| Arc::new(BooleanArray::from(vec![value(name)])) as ArrayRef;
        let batch = RecordBatch::try_new(schema.clone(), vec![column(left), column(right)]).unwrap();
        for (a, b) in [("a", "b"), (left, "b"), ("a", right), (left, right)] {
            assert_eq!(rendered(&evaluated(&format!("{a} AND {b}"), &batch)), and, "{left} AND {right}");
            assert_eq!(rendered(&evaluated(&format!("{a} OR {b}"), &batch)), or, "{left} OR {right}");
            let not_and = rendered(&evaluated(&format!("NOT ({a} AND {b})"), &batch));
            assert_eq!(not_and, rendered(&evaluated(&format!("NOT {a} OR NOT {b}"), &batch)), "De Morgan");
        }
    }
}

/// Expression, the text its error points at, its message, and a part of its help.
const ERRORS: &[(&str, &str, &str, &str)] = &[
    ("temp + devise", "temp", "column \"temp\" does not exist", "the columns are time, device"),
    ("i + 1 > 0 AND devise = 'a'", "devise", "column \"devise\" does not exist", "did you mean \"device\"?"),
    ("Device = 'a'", "Device", "column \"Device\" does not exist", "did you mean \"device\"?"),
    ("motor.tmp > 1", "motor.tmp", "column \"motor.tmp\" does not exist", "did you mean \"motor.temp\"?"),
    (
        "device = \"overheated\"",
        "\"overheated\"",
        "column \"overheated\" does not exist",
        "a text is written 'overheated'",
    ),
    ("note > 5", "note > 5", "cannot compare text with a whole number", "CAST(note AS"),
    ("i = 'on'", "i = 'on'", "cannot compare a whole number with text", "CAST(i AS TEXT)"),
    ("b = 1", "b = 1", "cannot compare true/false with a whole number", "CAST(b AS DOUBLE)"),
    ("time > 5", "time > 5", "cannot compare a time with a whole number", "epoch(time)"),
    ("time > note", "time > note", "cannot compare a time with text", "CAST(note AS TIMESTAMP)"),
    ("time > 'yesterday'", "'yesterday'", "'yesterday' is no time", "2024-05-01T12:00:00Z"),
    ("raw = 'a'", "raw = 'a'", "cannot compare bytes with text", "decode"),
    (
        "note + 1",
        "note + 1",
        "`+` does not go with text on the left and a whole number on the right",
        "CAST(note AS DOUBLE)",
    ),
    (
        "1 + (b * 2)",
        "b * 2",
        "`*` does not go with true/false on the left and a whole number on the right",
        "CAST(b AS DOUBLE)",
    ),
    (
        "time + 5",
        "time + 5",
        "`+` does not go with a time on the left and a whole number on the right",
        "5 * INTERVAL '1 second'",
    ),
    (
        "time + time",
        "time + time",
        "`+` does not go with a time on the left and a time on the right",
        "INTERVAL",
    ),
    ("i AND b", "i", "AND takes true/false, but `i` is a whole number", "i <> 0"),
    ("NOT (x + 1)", "x + 1", "NOT takes true/false, but `x + 1` is a number", "x + 1 <> 0"),
    ("CASE WHEN i THEN 1 END", "i", "WHEN takes true/false, but `i` is a whole number", "i <> 0"),
    (
        "CASE WHEN b THEN 1 ELSE 'a' END",
        "'a'",
        "CASE cannot take a whole number together with text",
        "CAST('a' AS BIGINT)",
    ),
    ("coalesce(note, i)", "i", "coalesce cannot take text together with a whole number", "CAST(i AS TEXT)"),
    ("i IN (1, 'a')", "'a'", "IN cannot take a whole number together with text", "CAST('a' AS BIGINT)"),
    ("sqrt(note)", "note", "sqrt takes a number, but `note` is text", "CAST(note AS DOUBLE)"),
    (
        "1 + sqrt(upper(device))",
        "upper(device)",
        "sqrt takes a number, but `upper(device)` is text",
        "CAST(upper(device) AS DOUBLE)",
    ),
    ("i LIKE 'a%'", "i", "LIKE takes text, but `i` is a whole number", "CAST(i AS TEXT)"),
    (
        "list = 1",
        "list = 1",
        "cannot compare a value of a type without operators with a whole number",
        "IS NULL",
    ),
    ("-note", "note", "a sign takes a number, but `note` is text", "CAST(note AS DOUBLE)"),
    ("sqrt(1, 2)", "sqrt(1, 2)", "sqrt does not take 2 arguments", "sqrt(number)"),
    ("squirt(1)", "squirt(1)", "there is no function squirt", "did you mean sqrt?"),
    ("date_trunc('fortnight', time)", "'fortnight'", "`fortnight` is no part of a time", "microsecond"),
    (
        "date_trunc(note, time)",
        "note",
        "date_trunc takes its unit as text, first",
        "date_trunc('hour', time)",
    ),
    ("extract(century FROM time)", "time", "`CENTURY` is no part of a time", "year"),
    ("sum(i)", "sum(i)", "sum is an aggregate over many rows; an expression sees one row", "window"),
    ("count(*)", "count(*)", "count is an aggregate over many rows; an expression sees one row", "window"),
    (
        "avg(x) OVER (PARTITION BY device)",
        "avg(x)",
        "the window function avg(…) OVER is not part of an expression",
        "window",
    ),
    (
        "sum(x) FILTER (WHERE b)",
        "sum(x) FILTER (WHERE b)",
        "the aggregate sum(…) is not part of an expression",
        "window",
    ),
    ("lag(x)", "lag(x)", "lag is a window function over many rows; an expression sees one row", "window"),
    (
        "now() - time",
        "now()",
        "now would read a clock, and a replay would then give other results",
        "the column \"time\"",
    ),
    ("log(x)", "log(x)", "log means different logarithms in different databases", "log10"),
    ("i IN (SELECT 1)", "i IN (SELECT 1)", "a subquery is not supported in an expression", "one row"),
    ("x > (SELECT 1)", "SELECT 1", "a subquery is not supported in an expression", "one row"),
    ("SELECT x", "SELECT", "this is a query, not an expression", "temp > 80"),
    (
        "x SIMILAR TO 'a'",
        "x SIMILAR TO 'a'",
        "a regular expression is not supported in an expression",
        "LIKE",
    ),
    ("x ^ 2", "x ^ 2", "the operator ^ is not supported", "pow"),
    ("CAST(x AS DATE)", "x", "CAST to DATE is not supported", "date_trunc"),
    ("CAST(time AS BIGINT)", "time", "a time cannot become a whole number by CAST", "epoch(time)"),
    ("CAST(i AS TIMESTAMP)", "i", "a whole number cannot become a time by CAST", "to_timestamp(i)"),
    ("lapse > INTERVAL '1 month'", "'1 month'", "a duration in `month` has no fixed length; use days", ""),
    ("lapse > INTERVAL '5'", "'5'", "the duration `5` has no unit; write e.g. INTERVAL '5 seconds'", ""),
    ("i +", "", "the expression ends where an expression must follow", ""),
    ("i + ) 2", ")", "`)` where an expression must stand", ""),
    ("i i", "i", "unexpected `i` after the expression", "operator"),
    ("", "", "the expression is empty", ""),
    ("  -- nothing", "  -- nothing", "the expression is empty", ""),
    ("NULL", "NULL", "the expression is always null and has no type", "CAST(NULL AS DOUBLE)"),
    ("coalesce(NULL, NULL)", "coalesce(NULL, NULL)", "the expression is always null and has no type", "CAST"),
    ("'äö' = devise", "devise", "column \"devise\" does not exist", "device"),
    ("b AND\n  devise = 'a'", "devise", "column \"devise\" does not exist", "device"),
];

#[test]
fn errors_say_place_cause_and_fix() {
    let schema = schema();
    let mut wrong = Vec::new();
    for (text, place, message, help) in ERRORS {
        let error = match Expr::parse(text, &schema) {
            Ok(_) => panic!("{text} compiles"),
            Err(error) => error,
        };
        let found_place = error.span.clone().and_then(|span| text.get(span)).unwrap_or("nowhere");
        let found_help = error.help.clone().unwrap_or_default();
        if found_place != *place || error.message != *message || !found_help.contains(help) {
            wrong.push(format!("{text}\n  at `{found_place}`: {}\n  help: {found_help}", error.message));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_error_is_a_configuration_error_in_one_sentence() {
    let error =
        Expr::parse("vibr > 1", &Schema::new(vec![Field::new("vib", DataType::Float64, true)])).unwrap_err();
    assert_eq!(error.to_string(), "column \"vibr\" does not exist; did you mean \"vib\"?");
    let error: crate::Error = error.into();
    assert_eq!(error.kind, ErrorKind::Config);
}

/// Every shape in which a text could make something recurse without end. Tests run on threads of 2 MiB.
#[test]
fn no_text_overflows_the_stack() {
    let schema = schema();
    let parse = |text: String| Expr::parse(&text, &schema).map(|_| ());
    let message = |result: Result<(), ExprError>| result.unwrap_err().message;
    let too_deep = format!("the expression is nested more than {DEPTH_MAX} levels deep");
    let too_many = format!("the expression has more than {TOKENS_MAX} words and signs");
    assert!(message(parse("(".repeat(100_000))).contains("bytes, more than"));
    assert_eq!(message(parse("(".repeat(50_000))), too_deep);
    assert_eq!(message(parse("NOT ".repeat(2_000) + "b")), too_deep);
    assert_eq!(message(parse("- ".repeat(2_000) + "i")), too_deep);
    assert_eq!(message(parse("i".to_owned() + &" + 1".repeat(1_900))), too_deep);
    assert_eq!(message(parse("i".to_owned() + &" IS NULL".repeat(1_900))), too_deep);
    assert_eq!(message(parse("i".to_owned() + &"::BIGINT".repeat(1_900))), too_deep);
    assert_eq!(message(parse("i".to_owned() + &" + 1".repeat(2_100))), too_many);
    assert_eq!(message(parse("CASE WHEN b THEN ".repeat(200) + "1" + &" END".repeat(200))), too_deep);
    assert_eq!(message(parse("abs(".repeat(200) + "i" + &")".repeat(200))), too_deep);
    assert_eq!(message(parse("i".to_owned() + &" ^ 1".repeat(1_900))), "the operator ^ is not supported");
    assert_eq!(message(parse(format!("abs(i{})", " + 1".repeat(1_900)))), too_deep);
    // What is long but not deep is fine.
    assert_eq!(parse("b".to_owned() + &" OR b".repeat(1_900)), Ok(()));
    assert_eq!(parse("note".to_owned() + &" || note".repeat(1_900)), Ok(()));
    assert_eq!(parse(format!("i IN (0{})", ", 1".repeat(1_900))), Ok(()));
    assert_eq!(parse("(".repeat(120) + "i" + &")".repeat(120)), Ok(()));
    assert_eq!(parse("abs(".repeat(120) + "i" + &")".repeat(120)), Ok(()));
    assert_eq!(parse("CASE WHEN b THEN ".repeat(120) + "1" + &" END".repeat(120)), Ok(()));
    assert_eq!(parse("NOT ".repeat(120) + "b"), Ok(()));
    assert_eq!(parse("i".to_owned() + &" + 1".repeat(100)), Ok(()));
}

/// Nested tests of one value are evaluated once each, so depth costs no more than length.
#[test]
fn nesting_is_not_exponential() {
    let mut text = "b".to_owned();
    for _ in 0..60 {
        text = format!("({text} BETWEEN FALSE AND TRUE)");
    }
    assert_eq!(rendered(&evaluated(&text, &batch())), "t|t|_|t|_");
    let mut text = "i".to_owned();
    for _ in 0..60 {
        text = format!("CASE {text} WHEN 1 THEN 1 WHEN 4 THEN 4 ELSE j END");
    }
    assert_eq!(rendered(&evaluated(&text, &batch())), "1|2|0|-1|4");
}

#[test]
fn text_that_grows_without_end_is_an_error_of_the_batch() {
    let kilobyte = "a".repeat(1_000);
    let text =
        format!("replace(replace(replace(note, 'l', '{kilobyte}'), 'a', '{kilobyte}'), 'a', '{kilobyte}')");
    let expr = Expr::parse(&text, &schema()).unwrap();
    let error = expr.evaluate(&batch()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.contains("67108864 bytes"), "{error}");
}

#[test]
fn a_batch_of_another_schema_is_refused() {
    let expr = Expr::parse("i + j", &schema()).unwrap();
    assert_eq!(expr.columns(), [4, 5]);
    let schema = Arc::new(Schema::new(vec![Field::new("i", DataType::Int64, true)]));
    let other = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1]))]).unwrap();
    assert_eq!(expr.evaluate(&other).unwrap_err().kind, ErrorKind::Data);
}

#[test]
fn a_dictionary_stays_one_through_text_functions() {
    let batch = batch();
    for (text, is_dictionary) in [
        ("device", true),
        ("upper(device) || '/x'", true),
        ("device || note", false),
        ("length(device)", false),
    ] {
        let found = evaluated(text, &batch);
        assert_eq!(matches!(found.data_type(), DataType::Dictionary(..)), is_dictionary, "{text}");
    }
    let upper = evaluated("upper(device)", &batch);
    assert_eq!(upper.as_dictionary::<Int32Type>().values().len(), 3, "computed once per value");
}

#[test]
fn columns_are_each_named_once() {
    let expr = Expr::parse("upper(device) = note OR x > 1 AND device = 'a' OR x < y", &schema()).unwrap();
    assert_eq!(expr.columns(), [1, 2, 6, 7]);
}

#[test]
fn every_function_of_the_list_is_in_the_table() {
    for (names, usage) in super::functions() {
        let used = TABLE.iter().any(|(text, _)| {
            let text = text.to_lowercase();
            names.iter().any(|name| text.contains(&format!("{name}(")))
        });
        assert!(used, "{usage} is not tested");
    }
}

/// Columns of other widths and units are computed in the engine's own.
#[test]
fn foreign_types_widen() {
    use arrow::array::{Date32Array, LargeStringArray, TimestampSecondArray, UInt64Array};
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("u", Arc::new(UInt64Array::from(vec![Some(5), Some(u64::MAX)]))),
        ("s", Arc::new(TimestampSecondArray::from(vec![0, 86_400]).with_timezone("Europe/Berlin"))),
        ("d", Arc::new(Date32Array::from(vec![0, 1]))),
        ("t", Arc::new(LargeStringArray::from(vec!["a", "b"]))),
        ("n", Arc::new(arrow::array::NullArray::new(2))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    for (text, expected) in [
        ("u + 1", "6|_"),
        ("s = d", "t|t"),
        ("s + INTERVAL '1 second'", "1970-01-01T00:00:01|1970-01-02T00:00:01"),
        ("CAST(s AS TEXT)", "1970-01-01T00:00:00Z|1970-01-02T00:00:00Z"),
        ("t || '!'", "a!|b!"),
        ("n IS NULL", "t|t"),
        ("n = 1", "_|_"),
        ("n", "_|_"),
        ("coalesce(n, u)", "5|_"),
    ] {
        assert_eq!(rendered(&evaluated(text, &batch)), expected, "{text}");
    }
}

// --- laws ------------------------------------------------------------------------------------------------------------

/// A row of [`schema`] by numbers: each picks from a small set in which the awkward values are.
fn random_batch(picks: &[(u8, u8, u8, u8)]) -> RecordBatch {
    let whole = [None, Some(0), Some(1), Some(-7), Some(4), Some(i64::MAX), Some(i64::MIN), Some(1_000)];
    let float = [
        None,
        Some(0.0),
        Some(-0.0),
        Some(1.5),
        Some(f64::NAN),
        Some(f64::INFINITY),
        Some(-2.5),
        Some(1e300),
    ];
    let text = [
        None,
        Some(""),
        Some("Hello"),
        Some("50% up"),
        Some(" äÖ "),
        Some("pump-1"),
        Some("fan"),
        Some("a\\"),
    ];
    let pick = |at: u8| usize::from(at % 8);
    let whole = |at: u8| whole[pick(at)];
    let float = |at: u8| float[pick(at)];
    let times = Int64Array::from_iter_values(
        picks.iter().map(|(a, b, ..)| i64::from(*a) * 86_399_999_999 - i64::from(*b)),
    );
    let devices: DictionaryArray<Int32Type> = picks.iter().map(|(_, b, ..)| text[pick(*b)]).collect();
    let lapses: DurationMicrosecondArray = picks.iter().map(|(.., d)| whole(d / 8)).collect();
    let rows = picks.len();
    let columns: Vec<ArrayRef> = vec![
        integers_as(times, &time_type()),
        Arc::new(devices),
        Arc::new(picks.iter().map(|(a, ..)| text[pick(*a)]).collect::<StringArray>()),
        Arc::new(
            picks
                .iter()
                .map(|(_, b, ..)| [None, Some(true), Some(false)][usize::from(b / 8 % 3)])
                .collect::<BooleanArray>(),
        ),
        Arc::new(picks.iter().map(|(_, _, c, _)| whole(*c)).collect::<Int64Array>()),
        Arc::new(picks.iter().map(|(.., d)| whole(*d).or(Some(3))).collect::<Int64Array>()),
        Arc::new(picks.iter().map(|(a, ..)| float(a / 8)).collect::<Float64Array>()),
        Arc::new(picks.iter().map(|(_, b, ..)| float(b / 8).or(Some(2.0))).collect::<Float64Array>()),
        Arc::new(
            picks.iter().map(|(_, _, c, _)| float(c / 8).map(|value| value as f32)).collect::<Float32Array>(),
        ),
        Arc::new(picks.iter().map(|(_, _, c, _)| text[pick(*c)].map(str::as_bytes)).collect::<BinaryArray>()),
        Arc::new(lapses),
        Arc::new(picks.iter().map(|(a, ..)| Some(i32::from(*a) - 100)).collect::<Int32Array>()),
        Arc::new(picks.iter().map(|(.., d)| Some(f64::from(*d))).collect::<Float64Array>()),
        arrow::array::new_null_array(&DataType::new_list(DataType::Int64, true), rows),
    ];
    RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
}

fn decoded(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Dictionary(_, values) => cast(array, values).unwrap(),
        _ => array.clone(),
    }
}

type Picks = Vec<(u8, u8, u8, u8)>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Also over empty slices, and over slices shorter than the dictionary they share.
    #[test]
    fn cutting_a_batch_changes_nothing(
        picks in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 0..40),
        first in 0usize..40,
        second in 0usize..40,
    ) {
        let batch = random_batch(&picks);
        let (first, second) = (first.min(second).min(picks.len()), first.max(second).min(picks.len()));
        let cuts = [(0, first), (first, second - first), (second, picks.len() - second)];
        for (text, _) in TABLE {
            let whole = decoded(&evaluated(text, &batch));
            let parts: Vec<ArrayRef> =
                cuts.iter().map(|(at, rows)| decoded(&evaluated(text, &batch.slice(*at, *rows)))).collect();
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            prop_assert_eq!(&whole, &concat(&parts).unwrap(), "{}", text);
        }
    }
}

/// A value of the naive interpreter.
#[derive(Debug, Clone, Copy)]
enum Cell {
    Null,
    Whole(i64),
    Float(f64),
    Bool(bool),
}

/// An expression of the naive interpreter. It knows nothing of columns: one row in, one value out.
#[derive(Debug, Clone)]
enum Naive {
    Column(&'static str),
    Literal(Cell),
    Arithmetic(char, Box<Naive>, Box<Naive>),
    Negate(Box<Naive>),
    Compare(&'static str, Box<Naive>, Box<Naive>),
    And(Box<Naive>, Box<Naive>),
    Or(Box<Naive>, Box<Naive>),
    Not(Box<Naive>),
    IsNull(Box<Naive>),
    Between(Box<Naive>, Box<Naive>, Box<Naive>),
    In(Box<Naive>, Vec<Naive>),
    Case(Box<Naive>, Box<Naive>, Box<Naive>),
}

impl Naive {
    fn text(&self) -> String {
        match self {
            Naive::Column(name) => (*name).to_owned(),
            Naive::Literal(Cell::Null) => "NULL".to_owned(),
            Naive::Literal(Cell::Whole(value)) => format!("({value})"),
            Naive::Literal(Cell::Float(value)) => format!("({value:?})"),
            Naive::Literal(Cell::Bool(value)) => value.to_string(),
            Naive::Arithmetic(op, a, b) => format!("({} {op} {})", a.text(), b.text()),
            Naive::Negate(a) => format!("(- {})", a.text()),
            Naive::Compare(op, a, b) => format!("({} {op} {})", a.text(), b.text()),
            Naive::And(a, b) => format!("({} AND {})", a.text(), b.text()),
            Naive::Or(a, b) => format!("({} OR {})", a.text(), b.text()),
            Naive::Not(a) => format!("(NOT {})", a.text()),
            Naive::IsNull(a) => format!("({} IS NULL)", a.text()),
            Naive::Between(a, low, high) => {
                format!("({} BETWEEN {} AND {})", a.text(), low.text(), high.text())
            }
            Naive::In(a, list) => {
                let list: Vec<String> = list.iter().map(Naive::text).collect();
                format!("({} IN ({}))", a.text(), list.join(", "))
            }
            Naive::Case(when, a, b) => {
                format!("(CASE WHEN {} THEN {} ELSE {} END)", when.text(), a.text(), b.text())
            }
        }
    }

    fn value(&self, row: &dyn Fn(&str) -> Cell) -> Cell {
        match self {
            Naive::Column(name) => row(name),
            Naive::Literal(value) => *value,
            Naive::Arithmetic(op, a, b) => arithmetic(*op, a.value(row), b.value(row)),
            Naive::Negate(a) => match a.value(row) {
                Cell::Whole(value) => value.checked_neg().map_or(Cell::Null, Cell::Whole),
                Cell::Float(value) => Cell::Float(-value),
                _ => Cell::Null,
            },
            Naive::Compare(op, a, b) => bool_cell(compare(op, a.value(row), b.value(row))),
            Naive::And(a, b) => bool_cell(and(truth(a.value(row)), truth(b.value(row)))),
            Naive::Or(a, b) => bool_cell(or(truth(a.value(row)), truth(b.value(row)))),
            Naive::Not(a) => bool_cell(truth(a.value(row)).map(|value| !value)),
            Naive::IsNull(a) => Cell::Bool(matches!(a.value(row), Cell::Null)),
            Naive::Between(a, low, high) => {
                let a = a.value(row);
                bool_cell(and(compare(">=", a, low.value(row)), compare("<=", a, high.value(row))))
            }
            Naive::In(a, list) => {
                let a = a.value(row);
                let mut found = Some(false);
                for member in list {
                    found = or(found, compare("=", a, member.value(row)));
                }
                bool_cell(found)
            }
            Naive::Case(when, a, b) => if truth(when.value(row)) == Some(true) { a } else { b }.value(row),
        }
    }
}

fn bool_cell(value: Option<bool>) -> Cell {
    value.map_or(Cell::Null, Cell::Bool)
}

fn truth(cell: Cell) -> Option<bool> {
    match cell {
        Cell::Bool(value) => Some(value),
        _ => None,
    }
}

fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    and(a.map(|a| !a), b.map(|b| !b)).map(|value| !value)
}

fn float(cell: Cell) -> Option<f64> {
    match cell {
        Cell::Whole(value) => Some(value as f64),
        Cell::Float(value) => Some(value),
        _ => None,
    }
}

fn arithmetic(op: char, a: Cell, b: Cell) -> Cell {
    if let (Cell::Whole(a), Cell::Whole(b)) = (a, b) {
        let result = match op {
            '+' => a.checked_add(b),
            '-' => a.checked_sub(b),
            '*' => a.checked_mul(b),
            '/' => a.checked_div(b),
            _ if b == -1 => Some(0),
            _ => a.checked_rem(b),
        };
        return result.map_or(Cell::Null, Cell::Whole);
    }
    let (Some(a), Some(b)) = (float(a), float(b)) else { return Cell::Null };
    Cell::Float(match op {
        '+' => a + b,
        '-' => a - b,
        '*' => a * b,
        '/' => a / b,
        _ => a % b,
    })
}

fn compare(op: &str, a: Cell, b: Cell) -> Option<bool> {
    let order = match (a, b) {
        (Cell::Whole(a), Cell::Whole(b)) => a.partial_cmp(&b),
        _ => {
            let (a, b) = (float(a)?, float(b)?);
            a.partial_cmp(&b)
        }
    };
    Some(match op {
        "=" => order.is_some_and(|order| order.is_eq()),
        "<>" => order.is_none_or(|order| order.is_ne()),
        "<" => order.is_some_and(|order| order.is_lt()),
        "<=" => order.is_some_and(|order| order.is_le()),
        ">" => order.is_some_and(|order| order.is_gt()),
        _ => order.is_some_and(|order| order.is_ge()),
    })
}

/// Random expressions from a seed (SplitMix64; Steele, Lea and Flood 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize]
    }

    /// A number: whole numbers only, or floats only, so that both interpreters convert at the same places.
    fn number(&mut self, whole: bool, depth: u32) -> Box<Naive> {
        let deeper = |dice: &mut Self| dice.number(whole, depth - 1);
        Box::new(match self.roll(if depth == 0 { 3 } else { 7 }) {
            0 | 1 => Naive::Column(if whole { self.one_of(&["i", "j"]) } else { self.one_of(&["x", "y"]) }),
            2 if whole => Naive::Literal(Cell::Whole(self.one_of(&[0, 1, -1, 7, i64::MAX, i64::MIN]))),
            2 => Naive::Literal(Cell::Float(self.one_of(&[0.0, 1.5, -2.5, 1e300, 0.1]))),
            3 => Naive::Negate(deeper(self)),
            4 => Naive::Case(self.condition(depth - 1), deeper(self), deeper(self)),
            _ => Naive::Arithmetic(self.one_of(&['+', '-', '*', '/', '%']), deeper(self), deeper(self)),
        })
    }

    fn condition(&mut self, depth: u32) -> Box<Naive> {
        let down = depth.saturating_sub(1);
        Box::new(match self.roll(if depth == 0 { 2 } else { 10 }) {
            0 => Naive::Column("b"),
            1 => Naive::Literal(self.one_of(&[Cell::Bool(true), Cell::Bool(false), Cell::Null])),
            2 => Naive::And(self.condition(down), self.condition(down)),
            3 => Naive::Or(self.condition(down), self.condition(down)),
            4 => Naive::Not(self.condition(down)),
            5 => {
                let whole = self.roll(2) == 0;
                Naive::IsNull(self.number(whole, down))
            }
            6 => {
                let whole = self.roll(2) == 0;
                Naive::Between(self.number(whole, down), self.number(whole, down), self.number(whole, down))
            }
            7 => {
                let whole = self.roll(2) == 0;
                let mut list: Vec<Naive> = (0..=self.roll(3)).map(|_| *self.number(whole, 0)).collect();
                list.push(Naive::Literal(if self.roll(2) == 0 { Cell::Null } else { Cell::Whole(1) }));
                Naive::In(self.number(whole, down), list)
            }
            _ => {
                let op = self.one_of(&["=", "<>", "<", "<=", ">", ">="]);
                let (left, right) = (self.roll(2) == 0, self.roll(2) == 0);
                Naive::Compare(op, self.number(left, down), self.number(right, down))
            }
        })
    }
}

fn rows_agree(naive: &Naive, batch: &RecordBatch) -> Result<(), TestCaseError> {
    if matches!(naive, Naive::Literal(Cell::Null)) {
        return Ok(()); // refused: it has no type
    }
    let text = naive.text();
    let result = evaluated(&text, batch);
    for row in 0..batch.num_rows() {
        let cell = |array: &dyn Array| -> Cell {
            if array.is_null(row) {
                return Cell::Null;
            }
            match array.data_type() {
                DataType::Boolean => Cell::Bool(array.as_boolean().value(row)),
                DataType::Int64 => Cell::Whole(array.as_primitive::<Int64Type>().value(row)),
                _ => Cell::Float(array.as_primitive::<Float64Type>().value(row)),
            }
        };
        let expected = naive.value(&|name| cell(batch.column_by_name(name).unwrap()));
        let agree = match (expected, cell(&result)) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Whole(a), Cell::Whole(b)) => a == b,
            (Cell::Bool(a), Cell::Bool(b)) => a == b,
            (Cell::Float(a), Cell::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
            _ => false,
        };
        prop_assert!(agree, "{} in row {}: {:?} and {}", text, row, expected, rendered_row(&result, row));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_naive_interpreter_agrees(seed in any::<u64>(), picks in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 1..20)) {
        let picks: Picks = picks;
        let batch = random_batch(&picks);
        let mut dice = Dice(seed);
        for _ in 0..20 {
            rows_agree(&dice.condition(4), &batch)?;
            rows_agree(&dice.number(true, 4), &batch)?;
            rows_agree(&dice.number(false, 4), &batch)?;
        }
    }

    /// Whatever the text, the parser returns, and places lie in the text.
    #[test]
    fn any_text_is_compiled_or_refused(
        words in prop::collection::vec(prop::sample::select(vec![
            "i", "x", "b", "note", "device", "time", "1", "2.5", "'a'", "NULL", "(", ")", ",", "+", "-", "*", "/", "=",
            "<", "AND", "OR", "NOT", "IS", "IN", "BETWEEN", "LIKE", "CASE", "WHEN", "THEN", "ELSE", "END", "CAST(",
            "AS DOUBLE)", "abs(", "coalesce(", "INTERVAL", "'5 s'", "\"", "'", "ä", "::", ".", "[", "\n", "--", "/*",
        ]), 0..24),
    ) {
        let text = words.join(" ");
        if let Err(error) = Expr::parse(&text, &schema())
            && let Some(span) = error.span
        {
            prop_assert!(text.get(span.clone()).is_some(), "{:?} of {:?}", span, text);
        }
    }
}
