//! Tests of the CSV decoder: tables of input and rows, and laws.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::*;
use crate::codec::fields::{Field, TimeField};
use crate::codec::timestamp::TimeUnit;

fn sensor() -> RowFormat {
    let fields = vec![
        Field::new("temp", FieldKind::F64),
        Field::new("rpm", FieldKind::I64),
        Field::new("on", FieldKind::Bool),
        Field::new("id", FieldKind::Text),
    ];
    RowFormat::new(fields, TimeField::At { path: vec!["ts".into()], unit: TimeUnit::Auto })
}

fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn listed() -> CsvFormat {
    CsvFormat { columns: names("ts,temp,rpm,on,id"), ..CsvFormat::default() }
}

/// The rows as text: the time in µs, cells with `|` between, `-` for null.
fn shown(columns: &[ArrayRef]) -> Vec<String> {
    let times = columns[0].as_primitive::<TimestampMicrosecondType>();
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

fn decode_with(format: &RowFormat, csv: &CsvFormat, payload: &[u8]) -> Result<Vec<String>, BadReason> {
    let mut rows = Rows::new(format);
    let count = CsvDecoder::new(format, csv).unwrap().decode(payload, 77, &mut rows);
    assert_eq!(rows.len(), count.unwrap_or(0));
    count.map(|_| shown(&rows.finish().unwrap())).map_err(|bad| {
        assert!(bad.at <= payload.len());
        bad.reason
    })
}

fn check(csv: &CsvFormat, cases: &[(&str, Result<&[&str], BadReason>)]) {
    for (payload, expected) in cases {
        let expected = expected.map(|rows| rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>());
        assert_eq!(decode_with(&sensor(), csv, payload.as_bytes()), expected, "{payload:?}");
    }
}

#[test]
fn records_of_every_shape() {
    use BadReason::{BadTime, Empty, Malformed, OutOfRange, WrongType};
    check(
        &listed(),
        &[
            ("1,21.5,1480,true,a", Ok(&["1000000|21.5|1480|true|a"])),
            ("1,21.5,1480,1,a\n", Ok(&["1000000|21.5|1480|true|a"])),
            (
                "1,21.5,1480,0,a\r\n2,,,,\r\n\r\n\n3,1,2.0,FALSE,b c",
                Ok(&["1000000|21.5|1480|false|a", "2000000|-|-|-|-", "3000000|1.0|2|false|b c"]),
            ),
            ("1, 21.5 ,\t7,,", Ok(&["1000000|21.5|7|-|-"])),
            ("\"1\",\"21.5\",\"7\",\"true\",\"a,b\"", Ok(&["1000000|21.5|7|true|a,b"])),
            ("1,,,,\"a \"\"b\"\"\nc\"\n2,,,,\"\"", Ok(&["1000000|-|-|-|a \"b\"\nc", "2000000|-|-|-|"])),
            ("1,\"\",,,\"\"\"\"", Ok(&["1000000|-|-|-|\""])),
            ("1,NaN,,,é", Ok(&["1000000|-|-|-|é"])),
            ("1,+.5,007,,", Ok(&["1000000|0.5|7|-|-"])),
            ("1970-01-01T00:00:00Z,1,2,,\r", Ok(&["0|1.0|2|-|-"])),
            ("2100-01-01 00:00:00,1,2,,x\r", Ok(&["4102444800000000|1.0|2|-|x"])),
            ("", Err(Empty)),
            (" \r\n", Err(Empty)),
            ("1,2,3", Err(Malformed)),
            ("1,2,3,true,a,6", Err(Malformed)),
            ("1,2,3,true,a\n2,2\n", Err(Malformed)),
            ("1,2,3,true,\"a", Err(Malformed)),
            ("1,2,3,true,\"a\"b", Err(Malformed)),
            ("1,2,3,true,a\"b", Err(Malformed)),
            ("1,2,3,true,\"a\"\r", Ok(&["1000000|2.0|3|true|a"])),
            ("1,warm,3,true,a", Err(WrongType)),
            ("1,2,3.5,true,a", Err(WrongType)),
            ("1,2,3,2,a", Err(WrongType)),
            ("1,2,3,on,a", Err(WrongType)),
            ("1,inf,3,true,a", Err(OutOfRange)),
            ("1,-Infinity,3,true,a", Err(OutOfRange)),
            ("1,1e999,3,true,a", Err(OutOfRange)),
            ("1,2,9223372036854775808,true,a", Err(OutOfRange)),
            (",2,3,true,a", Err(BadTime)),
            ("soon,2,3,true,a", Err(BadTime)),
            ("1e300,2,3,true,a", Err(BadTime)),
        ],
    );
    assert_eq!(decode_with(&sensor(), &listed(), b"1,2,3,true,\xff"), Err(BadReason::NotUtf8));
    assert_eq!(decode_with(&sensor(), &listed(), b"\xff,2,3,true,a"), Err(BadReason::BadTime));
    let long = format!("1,2,3,true,{}", "x".repeat(1 << 20));
    assert_eq!(decode_with(&sensor(), &listed(), long.as_bytes()).unwrap()[0].len(), 19 + (1 << 20));
}

#[test]
fn headers_in_messages() {
    use BadReason::{Empty, Malformed, Missing};
    let csv = CsvFormat { delimiter: b';', header: true, columns: vec![] };
    check(
        &csv,
        &[
            ("id;ts;x;\"temp\";rpm;on\na;1;?;2;3;true\n", Ok(&["1000000|2.0|3|true|a"])),
            (" ts ;temp;rpm;on;id\r\n1;2;3;;\r\n2;3;4;;", Ok(&["1000000|2.0|3|-|-", "2000000|3.0|4|-|-"])),
            ("ts;temp;rpm;on;id", Ok(&[])),
            ("ts;temp;rpm;on\n1;2;3;true\n", Err(Missing)),
            ("ts;temp;rpm;on;id;ts\n1;2;3;true;a;1\n", Err(Missing)),
            ("ts;\"temp\n", Err(Malformed)),
            ("", Err(Empty)),
        ],
    );
    // The columns are those of each message's own header, also after one that was refused.
    let format = sensor();
    let mut decoder = CsvDecoder::new(&format, &csv).unwrap();
    let mut rows = Rows::new(&format);
    for payload in [
        "ts;temp;rpm;on;id\n1;2;3;;",
        "temp;ts;rpm;on;id\n2;1;3;;",
        "temp;ts\n2;1",
        "ts;temp;rpm;on;id\n1;2;3;;",
    ] {
        let _ = decoder.decode(payload.as_bytes(), 0, &mut rows);
    }
    assert_eq!(shown(&rows.finish().unwrap()), ["1000000|2.0|3|-|-"; 3]);
}

#[test]
fn a_file_is_decoded_record_by_record() {
    let format = sensor();
    let mut decoder = CsvDecoder::new(&format, &listed()).unwrap();
    decoder.set_header(b"\xef\xbb\xbfid,ts,temp,rpm,on").unwrap();
    let mut rows = Rows::new(&format);
    assert_eq!(decoder.decode(b"\"a\nb\",1,2,3,true", 0, &mut rows), Ok(1));
    assert_eq!(shown(&rows.finish().unwrap()), ["1000000|2.0|3|true|a\nb"]);
    let error = decoder.set_header(b"id,ts,tmp,rpm,on").unwrap_err().message;
    assert!(error.contains("\"temp\" does not exist; did you mean \"tmp\"?"), "{error}");
    assert!(decoder.set_header(b"id,\"ts").is_err());
    assert_eq!(column_names(b"a;\"b;c\"\r\n", b';').unwrap(), ["a", "b;c"]);
    assert!(column_names(b"a\nb", b';').is_err());
}

#[test]
fn columns_by_number() {
    let fields = vec![
        Field::at("a", FieldKind::F64, "2"),
        Field::at("b", FieldKind::Text, "2"),
        Field::at("c", FieldKind::I64, "0"),
    ];
    let format = RowFormat::new(fields, TimeField::Arrival);
    let decode = |payload: &str| decode_with(&format, &CsvFormat::default(), payload.as_bytes());
    assert_eq!(decode("7,x,1.50,more,and more"), Ok(vec!["77|1.5|1.50|7".to_owned()]));
    assert_eq!(decode("7,x"), Err(BadReason::Malformed));
}

#[test]
fn formats_that_cannot_be_are_refused() {
    let refused = |format: &RowFormat, csv: &CsvFormat| CsvDecoder::new(format, csv).unwrap_err().message;
    let delimiter = CsvFormat { delimiter: b'"', ..listed() };
    assert!(refused(&sensor(), &delimiter).contains("cannot be a delimiter"));
    assert!(refused(&sensor(), &CsvFormat::default()).contains("nothing names the columns"));
    assert!(refused(&sensor(), &CsvFormat { header: true, ..listed() }).contains("leave columns out"));
    let missing = CsvFormat { columns: names("ts,tmep,rpm,on,id"), ..CsvFormat::default() };
    assert!(refused(&sensor(), &missing).contains("did you mean \"tmep\"?"));
    let nested = RowFormat::new(vec![Field::at("a", FieldKind::F64, "x.y")], TimeField::Arrival);
    assert!(refused(&nested, &listed()).contains("no inner parts"));
}

#[test]
fn the_limit_of_rows_is_held() {
    let format = RowFormat::new(vec![Field::at("a", FieldKind::I64, "0")], TimeField::Arrival);
    let mut decoder = CsvDecoder::new(&format, &CsvFormat::default()).unwrap();
    let mut rows = Rows::new(&format);
    assert_eq!(decoder.decode("1\n".repeat(PAYLOAD_ROWS_MAX).as_bytes(), 0, &mut rows), Ok(PAYLOAD_ROWS_MAX));
    let refused = decoder.decode("1\n".repeat(PAYLOAD_ROWS_MAX + 1).as_bytes(), 0, &mut rows);
    assert_eq!(refused.unwrap_err().reason, BadReason::TooLarge);
    assert_eq!(rows.len(), PAYLOAD_ROWS_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_text_comes_back(texts in proptest::collection::vec("[a\",;\n\ré ]{0,8}", 1..8), delimiter in proptest::sample::select(&b",;\t"[..])) {
        let format = RowFormat::new(vec![Field::at("a", FieldKind::Text, "1")], TimeField::Arrival);
        let mut payload = Vec::new();
        for text in &texts {
            payload.extend_from_slice(b"x");
            payload.push(delimiter);
            crate::codec::text::write_csv_text(text.as_bytes(), delimiter, &mut payload);
            payload.push(b'\n');
        }
        let csv = CsvFormat { delimiter, ..CsvFormat::default() };
        let expected = texts.iter().map(|text| format!("77|{text}")).collect::<Vec<_>>();
        prop_assert_eq!(decode_with(&format, &csv, &payload), Ok(expected));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(&b",,\n\r\"\"1.e"[..])], 0..60),
        header: bool,
    ) {
        let csv = if header { CsvFormat { header: true, ..CsvFormat::default() } } else { listed() };
        let _ = decode_with(&sensor(), &csv, &bytes);
        let mut framed = b"ts,temp,rpm,on,id\n1,".to_vec();
        framed.extend_from_slice(&bytes);
        let _ = decode_with(&sensor(), &CsvFormat { header: true, ..CsvFormat::default() }, &framed);
    }
}
