//! Tests of the JSON decoder: tables of input and rows, and laws against `serde_json`.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Float64Type;
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::codec::fields::{Field, TimeField};
use crate::codec::timestamp::TimeUnit;

fn at(path: &str, unit: TimeUnit) -> TimeField {
    TimeField::At { path: path.split('.').map(str::to_owned).collect(), unit }
}

fn sensor() -> RowFormat {
    let fields = vec![
        Field::new("temp", FieldKind::F64),
        Field::new("rpm", FieldKind::I64),
        Field::new("on", FieldKind::Bool),
        Field::new("id", FieldKind::Text),
    ];
    RowFormat::new(fields, at("ts", TimeUnit::Milliseconds))
}

fn path(text: &str) -> JsonFormat {
    JsonFormat { records: text.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect() }
}

/// The rows as text: cells with `|` between, the time in µs, `-` for null.
fn shown(columns: &[ArrayRef]) -> Vec<String> {
    let times = columns[0].as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    let cell = |column: &ArrayRef, row| match column.is_null(row) {
        true => "-".to_owned(),
        false => array_value_to_string(column, row).unwrap(),
    };
    let line = |row| {
        let cells = columns[1..].iter().map(|column| cell(column, row));
        std::iter::once(times.value(row).to_string()).chain(cells).collect::<Vec<_>>().join("|")
    };
    (0..times.len()).map(line).collect()
}

fn decode_with(format: &RowFormat, json: &JsonFormat, payload: &[u8]) -> Result<Vec<String>, BadReason> {
    let mut rows = Rows::new(format);
    let mut decoder = JsonDecoder::new(format, json).unwrap();
    // Twice, so that the second time meets the order that the first has taught; only its rows are looked at.
    let first = decoder.decode(payload, 77, &mut rows);
    let count = rows.len();
    let second = decoder.decode(payload, 77, &mut rows);
    assert_eq!(first, second);
    assert_eq!(rows.len(), count + second.unwrap_or(0));
    let columns = rows.finish().unwrap();
    second.map(|added| shown(&columns)[count..count + added].to_vec()).map_err(|bad| {
        assert!(bad.at <= payload.len());
        bad.reason
    })
}

fn decode(payload: &str) -> Result<Vec<String>, BadReason> {
    decode_with(&sensor(), &JsonFormat::default(), payload.as_bytes())
}

fn check(
    cases: &[(&str, Result<&[&str], BadReason>)],
    decode: impl Fn(&str) -> Result<Vec<String>, BadReason>,
) {
    for (payload, expected) in cases {
        let expected = expected.map(|rows| rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>());
        assert_eq!(decode(payload), expected, "{payload}");
    }
}

#[test]
fn good_messages() {
    check(
        &[
            (r#"{"ts":1,"temp":21.5,"rpm":1480,"on":true,"id":"a"}"#, Ok(&["1000|21.5|1480|true|a"])),
            (r#"{"id":"a","on":false,"rpm":-1,"temp":-0.0,"ts":0}"#, Ok(&["0|-0.0|-1|false|a"])),
            (" {\n\t\"ts\" : 1 , \"temp\" : 2 } \r\n", Ok(&["1000|2.0|-|-|-"])),
            (r#"{"ts":1}"#, Ok(&["1000|-|-|-|-"])),
            (r#"{"ts":1,"temp":null,"rpm":null,"on":null,"id":null}"#, Ok(&["1000|-|-|-|-"])),
            (r#"{"ts":1,"x":{"temp":[1,{"ts":9}]},"temp":3,"y":"\"}","z":[]}"#, Ok(&["1000|3.0|-|-|-"])),
            (r#"{"ts":1,"temp":1,"temp":2,"rpm":5,"rpm":null}"#, Ok(&["1000|2.0|-|-|-"])),
            (r#"{"ts":1,"temp":1e2,"rpm":1.2e1}"#, Ok(&["1000|100.0|12|-|-"])),
            (r#"{"ts":1,"rpm":12.0}"#, Ok(&["1000|-|12|-|-"])),
            (r#"{"t\u0073":1,"\u0069d":"\u00e9\n😀\ud83d\ude00"}"#, Ok(&["1000|-|-|-|é\n😀😀"])),
            (r#"{"ts":1,"id":"","temp ":5,"tem":6,"tempo":7}"#, Ok(&["1000|-|-|-|"])),
            (r#"{"ts":1,"\ud800":1,"id":"x"}"#, Ok(&["1000|-|-|-|x"])),
            (
                r#"[{"ts":1,"temp":1},{"ts":2,"rpm":2} , {"ts":3}]"#,
                Ok(&["1000|1.0|-|-|-", "2000|-|2|-|-", "3000|-|-|-|-"]),
            ),
            ("[]", Ok(&[])),
            // Times of 1970, 2100 and before 1970.
            (r#"{"ts":0}"#, Ok(&["0|-|-|-|-"])),
            (r#"{"ts":4102444800000}"#, Ok(&["4102444800000000|-|-|-|-"])),
            (r#"{"ts":-1.5}"#, Ok(&["-1500|-|-|-|-"])),
        ],
        decode,
    );
}

#[test]
fn lenient_values() {
    let cases = [
        (r#"{"ts":"1","temp":"12.5","rpm":" 7 ","on":"TRUE"}"#, "1000|12.5|7|true|-"),
        (r#"{"ts":1,"on":0,"id":17}"#, "1000|-|-|false|17"),
        (r#"{"ts":1,"on":1,"id":-1.50e3}"#, "1000|-|-|true|-1.50e3"),
        (r#"{"ts":1,"temp":"NaN","rpm":"\u0031"}"#, "1000|-|1|-|-"),
    ];
    let strict = RowFormat { lenient: false, ..sensor() };
    for (payload, row) in cases {
        assert_eq!(decode(payload), Ok(vec![row.to_owned()]), "{payload}");
        let refused = decode_with(&strict, &JsonFormat::default(), payload.as_bytes());
        assert!(matches!(refused, Err(BadReason::WrongType | BadReason::BadTime)), "{payload}");
    }
    let good = br#"{"ts":1,"temp":1,"rpm":2,"on":true,"id":"x"}"#;
    assert_eq!(decode_with(&strict, &JsonFormat::default(), good), Ok(vec!["1000|1.0|2|true|x".to_owned()]));
}

#[test]
fn bad_messages() {
    use BadReason::{BadTime, Empty, Malformed, OutOfRange, TooDeep, WrongType};
    let deep = format!(r#"{{"ts":1,"x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    let deep_enough = format!(r#"{{"ts":1,"x":{}{}}}"#, "[".repeat(63), "]".repeat(63));
    check(
        &[
            ("", Err(Empty)),
            (" \n\t", Err(Empty)),
            ("{", Err(Malformed)),
            ("\0", Err(Malformed)),
            (r#"{"ts":1"#, Err(Malformed)),
            (r#"{"ts":1,}"#, Err(Malformed)),
            (r#"{"ts":1}}"#, Err(Malformed)),
            (r#"{"ts":1} x"#, Err(Malformed)),
            (r#"{"ts":1}{"ts":2}"#, Err(Malformed)),
            (r#"{"ts":1 "temp":2}"#, Err(Malformed)),
            (r#"{"ts":01}"#, Err(Malformed)),
            (r#"{"ts":+1}"#, Err(Malformed)),
            (r#"{"ts":1.}"#, Err(Malformed)),
            (r#"{"ts":1,"temp":NaN}"#, Err(Malformed)),
            (r#"{"ts":1,"temp":-Infinity}"#, Err(Malformed)),
            (r#"{"ts":1,"temp":Infinity}"#, Err(Malformed)),
            (r#"{"ts":1,"temp":nan}"#, Err(Malformed)),
            (r#"{"ts":1,"temp":nul}"#, Err(Malformed)),
            (r#"{"ts":1,"on":tru}"#, Err(Malformed)),
            (r#"{"ts":1,"temp":1x}"#, Err(Malformed)),
            (r#"{"ts":1,"temp":[1,}"#, Err(Malformed)),
            (r#"{"ts":1,"x":[1,}"#, Err(Malformed)),
            (r#"{"ts":1,"id":"a"#, Err(Malformed)),
            (r#"{"ts":1,"id":"\ud800"}"#, Err(Malformed)),
            (r#"{"ts":1,"id":"\x"}"#, Err(Malformed)),
            ("{\"ts\":1,\"id\":\"a\nb\"}", Err(Malformed)),
            (r#"{'ts':1}"#, Err(Malformed)),
            ("temp=21.5", Err(Malformed)),
            ("21.5", Err(WrongType)),
            ("null", Err(WrongType)),
            (r#""text""#, Err(WrongType)),
            ("[1]", Err(WrongType)),
            (r#"[{"ts":1},null]"#, Err(WrongType)),
            (r#"[{"ts":1},{"ts":2]"#, Err(Malformed)),
            (r#"[{"ts":1},]"#, Err(Malformed)),
            (r#"[{"ts":1}"#, Err(Malformed)),
            (r#"{"ts":1,"temp":"warm"}"#, Err(WrongType)),
            (r#"{"ts":1,"temp":""}"#, Err(WrongType)),
            (r#"{"ts":1,"temp":true}"#, Err(WrongType)),
            (r#"{"ts":1,"temp":{"v":1}}"#, Err(WrongType)),
            (r#"{"ts":1,"rpm":12.5}"#, Err(WrongType)),
            (r#"{"ts":1,"on":2}"#, Err(WrongType)),
            (r#"{"ts":1,"id":true}"#, Err(WrongType)),
            (r#"{"ts":1,"id":["a"]}"#, Err(WrongType)),
            (r#"{"ts":1,"temp":1e999}"#, Err(OutOfRange)),
            (r#"{"ts":1,"temp":-1e999}"#, Err(OutOfRange)),
            (r#"{"ts":1,"rpm":9223372036854775808}"#, Err(OutOfRange)),
            (r#"{"ts":1,"rpm":1e99}"#, Err(OutOfRange)),
            (r#"{"temp":1}"#, Err(BadTime)),
            ("{}", Err(BadTime)),
            (r#"{"ts":null}"#, Err(BadTime)),
            (r#"{"ts":"yesterday"}"#, Err(BadTime)),
            (r#"{"ts":1e300}"#, Err(BadTime)),
            (r#"{"ts":99999999999999}"#, Err(BadTime)),
            (r#"[{"ts":1},{"temp":1}]"#, Err(BadTime)),
            (deep.as_str(), Err(TooDeep)),
            (deep_enough.as_str(), Ok(&["1000|-|-|-|-"])),
        ],
        decode,
    );
    let not_utf8 = |payload: &[u8]| decode_with(&sensor(), &JsonFormat::default(), payload);
    assert_eq!(not_utf8(b"{\"ts\":1,\"id\":\"\xff\"}"), Err(BadReason::NotUtf8));
    assert_eq!(not_utf8(b"\xff\xfe\x00"), Err(Malformed));
    assert_eq!(not_utf8(b"{\"ts\":1,\"\xff\":\"\xff\"}"), Ok(vec!["1000|-|-|-|-".to_owned()]));
}

#[test]
fn nested_paths_and_one_value_for_several_fields() {
    let fields = vec![
        Field::at("a", FieldKind::F64, "m.x.a"),
        Field::at("b", FieldKind::I64, "m.x.b"),
        Field::at("c", FieldKind::Text, "m.c"),
        Field::at("seconds", FieldKind::I64, "head.ts"),
    ];
    let format = RowFormat::new(fields, at("head.ts", TimeUnit::Seconds));
    let decode = |payload: &str| decode_with(&format, &JsonFormat::default(), payload.as_bytes());
    check(
        &[
            (r#"{"head":{"ts":2},"m":{"x":{"a":1,"b":2},"c":"k"}}"#, Ok(&["2000000|1.0|2|k|2"])),
            (r#"{"m":{"c":"k","x":{"b":2}},"a":9,"head":{"q":{"ts":5},"ts":2}}"#, Ok(&["2000000|-|2|k|2"])),
            (r#"{"head":{"ts":2},"m":null}"#, Ok(&["2000000|-|-|-|2"])),
            (r#"{"head":{"ts":2},"m":{}}"#, Ok(&["2000000|-|-|-|2"])),
            // Repeated objects are merged.
            (r#"{"head":{"ts":2},"m":{"x":{"a":1}},"m":{"x":{"b":2}}}"#, Ok(&["2000000|1.0|2|-|2"])),
            (r#"{"head":{"ts":2},"m":{"x":5}}"#, Err(BadReason::WrongType)),
            (r#"{"head":{"ts":2.5}}"#, Err(BadReason::WrongType)),
            (r#"{"head":[{"ts":2}]}"#, Err(BadReason::WrongType)),
        ],
        decode,
    );
}

#[test]
fn records_within_a_message() {
    let decode = |payload: &str| decode_with(&sensor(), &path("data.readings"), payload.as_bytes());
    use BadReason::{BadTime, Malformed, Missing, WrongType};
    check(
        &[
            (
                r#"{"id":"a","data":{"readings":[{"ts":1,"temp":1},{"ts":2,"temp":2}]}}"#,
                Ok(&["1000|1.0|-|-|a", "2000|2.0|-|-|a"]),
            ),
            // What stands behind the records belongs to them all the same.
            (
                r#"{"data":{"readings":[{"ts":1,"temp":1},{"ts":2}]},"id":"\u0061","rpm":4}"#,
                Ok(&["1000|1.0|4|-|a", "2000|-|4|-|a"]),
            ),
            // A record's own value wins, also its null.
            (
                r#"{"ts":5,"temp":7,"data":{"readings":[{"temp":1},{"temp":null},{}]}}"#,
                Ok(&["5000|1.0|-|-|-", "5000|-|-|-|-", "5000|7.0|-|-|-"]),
            ),
            (
                r#"{"data":{"readings":[{"id":"\u0062"},{}]},"ts":5,"id":"\u0063\u0063"}"#,
                Ok(&["5000|-|-|-|b", "5000|-|-|-|cc"]),
            ),
            (r#"{"ts":5,"data":{"readings":[]}}"#, Ok(&[])),
            (
                r#"[{"id":"a","data":{"readings":[{"ts":1}]}},{"data":{"readings":[{"ts":2},{"ts":3}]},"id":"b"}]"#,
                Ok(&["1000|-|-|-|a", "2000|-|-|-|b", "3000|-|-|-|b"]),
            ),
            (r#"{"ts":5}"#, Err(Missing)),
            (r#"{"ts":5,"data":{"readings":null}}"#, Err(Missing)),
            (r#"{"ts":5,"data":{"readings":{}}}"#, Err(WrongType)),
            (r#"{"ts":5,"data":{"readings":[1]}}"#, Err(WrongType)),
            (r#"{"ts":5,"data":{"readings":[],"readings":[]}}"#, Err(Malformed)),
            (r#"{"data":{"readings":[{"temp":1}]}}"#, Err(BadTime)),
            (r#"{"data":{"readings":[{"ts":1},{"ts":2}}}"#, Err(Malformed)),
        ],
        decode,
    );
    let error = JsonDecoder::new(&sensor(), &path("id")).unwrap_err().message;
    assert!(error.contains("\"id\" is asked for as a value and as"), "{error}");
    assert!(JsonDecoder::new(&sensor(), &path("id.x")).is_err());
}

#[test]
fn a_bad_message_leaves_no_rows() {
    let format = sensor();
    let mut rows = Rows::new(&format);
    let mut decoder = JsonDecoder::new(&format, &JsonFormat::default()).unwrap();
    let mut expected = Vec::new();
    for index in 0..40 {
        let good = format!(
            r#"{{"ts":{index},"id":"{}"{}}}"#,
            "x".repeat(index % 5),
            if index % 3 == 0 { r#","rpm":1"# } else { "" }
        );
        assert_eq!(decoder.decode(good.as_bytes(), 0, &mut rows), Ok(1));
        expected.push(format!(
            "{}|-|{}|-|{}",
            index * 1_000,
            if index % 3 == 0 { "1" } else { "-" },
            "x".repeat(index % 5)
        ));
        let bad = r#"[{"ts":1,"id":"gone","temp":1},{"ts":2,"on":true},{"ts":3,"rpm":{}}]"#;
        let refused = decoder.decode(bad.as_bytes(), 0, &mut rows).unwrap_err();
        assert_eq!((refused.reason, refused.at), (BadReason::WrongType, bad.find("{}").unwrap()));
    }
    assert_eq!(rows.len(), 40);
    assert_eq!(rows.bytes(), 40 * 5 * 8 + (0..40).map(|i| i % 5).sum::<usize>());
    assert_eq!(shown(&rows.finish().unwrap()), expected);
    assert!(rows.is_empty() && rows.bytes() == 0);
    assert_eq!(rows.finish().unwrap()[4].len(), 0);
}

#[test]
fn limits_are_reached_and_held() {
    let format = sensor();
    let mut rows = Rows::new(&format);
    let mut decoder = JsonDecoder::new(&format, &JsonFormat::default()).unwrap();
    let many = |count: usize| format!("[{}]", vec![r#"{"ts":1}"#; count].join(","));
    assert_eq!(decoder.decode(many(PAYLOAD_ROWS_MAX).as_bytes(), 0, &mut rows), Ok(PAYLOAD_ROWS_MAX));
    let refused = decoder.decode(many(PAYLOAD_ROWS_MAX + 1).as_bytes(), 0, &mut rows);
    assert_eq!(refused.unwrap_err().reason, BadReason::TooLarge);
    assert_eq!(rows.len(), PAYLOAD_ROWS_MAX);

    // A payload of 1 MiB is fine; one whose outer text would be repeated into gigabytes is not.
    let text = "é".repeat(1 << 19);
    let mut rows = Rows::new(&format);
    let large = format!(r#"{{"ts":1,"id":"{text}"}}"#);
    assert_eq!(decoder.decode(large.as_bytes(), 0, &mut rows), Ok(1));
    assert_eq!(rows.finish().unwrap()[4].as_string::<i32>().value(0), text);
    let mut decoder = JsonDecoder::new(&format, &path("r")).unwrap();
    let blown = format!(r#"{{"ts":1,"id":"{text}","r":[{}]}}"#, vec!["{}"; 100].join(","));
    assert_eq!(decoder.decode(blown.as_bytes(), 0, &mut rows).unwrap_err().reason, BadReason::TooLarge);
    assert!(rows.is_empty() && rows.bytes() == 0);
}

#[test]
fn keys_of_every_length_and_kind_are_found() {
    let mut names: Vec<String> = (1..80).map(|length| "k".repeat(length)).collect();
    names.extend(["é", "a\"b", "tab\tkey", "a/b", "😀", "a.b"].map(str::to_owned));
    let fields = names.iter().enumerate().map(|(i, name)| Field {
        name: format!("f{i}"),
        kind: FieldKind::I64,
        path: vec![name.clone()],
    });
    let format = RowFormat::new(fields.collect(), TimeField::Arrival);
    for reversed in [false, true] {
        let mut members: Vec<_> =
            names.iter().enumerate().map(|(i, name)| format!("{}:{i}", json!(name))).collect();
        if reversed {
            members.reverse();
        }
        let payload = format!("{{{}}}", members.join(","));
        let expected = std::iter::once("77".to_owned()).chain((0..names.len()).map(|i| i.to_string()));
        let row = expected.collect::<Vec<_>>().join("|");
        assert_eq!(decode_with(&format, &JsonFormat::default(), payload.as_bytes()), Ok(vec![row]));
    }
}

#[test]
fn paths_through_values_are_refused() {
    let fields = vec![Field::new("a", FieldKind::F64), Field::at("b", FieldKind::F64, "a.b")];
    let error =
        JsonDecoder::new(&RowFormat::new(fields, TimeField::Arrival), &JsonFormat::default()).unwrap_err();
    assert!(error.message.contains("\"a\" is asked for as a value and as"), "{error}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1_000i64..1_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-100.0..100.0).prop_map(Value::from),
        "[a-c\"\\\\\n\u{0}é😀 0-9]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec(("(temp|rpm|on|id|ts|m|[a-z\"é]{0,9})", inner), 0..6)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn any_document() -> impl Strategy<Value = Vec<u8>> {
    (any_json(), any::<bool>()).prop_map(|(value, pretty)| match pretty {
        true => serde_json::to_vec_pretty(&value).unwrap(),
        false => serde_json::to_vec(&value).unwrap(),
    })
}

/// Replaces, inserts, removes or repeats a few bytes.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec(
        (
            any::<prop::sample::Index>(),
            0..4,
            proptest::sample::select(&b"{}[]:,\"\\0159.eE+-ntu \n\x00\xff\x80"[..]),
        ),
        0..4,
    );
    (any_document(), edits).prop_map(|(mut bytes, edits)| {
        for (index, edit, byte) in edits {
            let at = index.index(bytes.len() + 1);
            match edit {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

/// What the decoder is to make of a document, said over a tree: temp (f64), m.rpm (i64), id (text).
fn expected_row(value: &Value) -> Option<(Option<f64>, Option<i64>, Option<String>)> {
    let object = value.as_object()?;
    let present = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
    let temp = match present(object.get("temp")) {
        None => None,
        Some(Value::Number(number)) => Some(number.as_f64()?),
        _ => return None,
    };
    let rpm = match present(object.get("m")) {
        None => None,
        Some(Value::Object(inner)) => match present(inner.get("rpm")) {
            None => None,
            Some(Value::Number(number)) => match number.as_i64() {
                Some(integer) => Some(integer),
                None => {
                    let float = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e18)?;
                    Some(float as i64)
                }
            },
            _ => return None,
        },
        _ => return None,
    };
    let id = match present(object.get("id")) {
        None => None,
        Some(Value::String(text)) => Some(text),
        _ => return None,
    };
    Some((temp, rpm, id))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn accepts_what_serde_json_accepts(bytes in mutated()) {
        let format = RowFormat::new(vec![], TimeField::Arrival);
        let grammar = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
        match decode_with(&format, &JsonFormat::default(), &bytes) {
            Ok(_) => prop_assert!(grammar),
            Err(BadReason::WrongType) => {
                // Found before the end was seen: the rest may be broken, but the start is another value.
                let object = bytes.trim_ascii_start().first() == Some(&b'{');
                prop_assert!(!object);
            }
            Err(reason) => prop_assert!(!grammar, "{reason:?}"),
        }
        // With fields: never a row out of what is no JSON.
        let fields = sensor();
        let result = decode_with(&RowFormat { time: TimeField::Arrival, ..fields }, &JsonFormat::default(), &bytes);
        prop_assert!(result.is_err() || grammar);
    }

    #[test]
    fn rows_are_those_of_a_tree(value in any_json(), pretty: bool) {
        let fields = vec![
            Field::new("temp", FieldKind::F64),
            Field::at("rpm", FieldKind::I64, "m.rpm"),
            Field::new("id", FieldKind::Text),
        ];
        let format = RowFormat { lenient: false, ..RowFormat::new(fields, TimeField::Arrival) };
        let bytes = if pretty { serde_json::to_vec_pretty(&value).unwrap() } else { serde_json::to_vec(&value).unwrap() };
        let mut rows = Rows::new(&format);
        let mut decoder = JsonDecoder::new(&format, &JsonFormat::default()).unwrap();
        let count = decoder.decode(&bytes, 0, &mut rows);
        if value.as_array().is_some_and(|array| array.iter().all(|item| expected_row(item).is_some())) {
            prop_assert_eq!(count, Ok(value.as_array().unwrap().len()));
            return Ok(());
        }
        prop_assert_eq!(count.is_ok(), expected_row(&value).is_some());
        if let Some((temp, rpm, id)) = expected_row(&value) {
            let columns = rows.finish().unwrap();
            let temps = columns[1].as_primitive::<Float64Type>();
            prop_assert_eq!(temps.is_valid(0).then(|| temps.value(0).to_bits()), temp.map(f64::to_bits));
            let rpms = columns[2].as_primitive::<arrow::datatypes::Int64Type>();
            prop_assert_eq!(rpms.is_valid(0).then(|| rpms.value(0)), rpm);
            let ids = columns[3].as_string::<i32>();
            prop_assert_eq!(ids.is_valid(0).then(|| ids.value(0).to_owned()), id);
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), records: bool) {
        let _ = decode_with(&sensor(), &path(if records { "m.r" } else { "" }), &bytes);
        let mut framed = b"{\"ts\":1,\"temp\":".to_vec();
        framed.extend_from_slice(&bytes);
        let _ = decode_with(&sensor(), &JsonFormat::default(), &framed);
    }
}
