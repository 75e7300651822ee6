//! Payloads of messages: JSON, CSV and bare values, over fields of every kind; and finding columns in them.

use std::cell::RefCell;

use tidegate::codec::csv::{CsvDecoder, CsvFormat};
use tidegate::codec::fields::{Field, FieldKind, RowFormat, TimeField};
use tidegate::codec::infer::{Known, Layout, infer};
use tidegate::codec::json::{JsonDecoder, JsonFormat};
use tidegate::codec::payload::PayloadDecoder;
use tidegate::codec::rows::Rows;
use tidegate::codec::timestamp::TimeUnit;
use tidegate::codec::value::ValueDecoder;

use super::{Target, fuzz};

const JSON_WORDS: [&[u8]; 22] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\u",
    b"\\ud83d",
    b"\\",
    b"null",
    b"true",
    b"1e999",
    b"-",
    b"0x1",
    b"NaN",
    b"9223372036854775808",
    b"\"ts\":",
    b"\"x\":{",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\xff",
    b"\xf0\x9f",
];
const CSV_WORDS: [&[u8]; 12] =
    [b",", b"\n", b"\r\n", b"\"", b"\"\"", b",,,,,,,,,", b"1e400", b"ts", b"\"\n", b"\xff", b" ", b"-"];

/// Fields of every kind under one time.
fn format(time: TimeField) -> RowFormat {
    let kinds = FieldKind::WORDS.map(|word| (word, word.parse::<FieldKind>().unwrap()));
    let fields =
        kinds.into_iter().map(|(name, kind)| Field::at(&format!("{name}_field"), kind, name)).collect();
    RowFormat::new(fields, time)
}

/// One decoder over all inputs, as in life; a refused payload must leave the rows as they were.
fn read_with(decoder: PayloadDecoder, format: &RowFormat) -> impl Fn(&[u8]) -> bool {
    let state = RefCell::new((decoder, Rows::new(format)));
    let format = format.clone();
    move |payload| {
        let (decoder, rows) = &mut *state.borrow_mut();
        let before = (rows.len(), rows.times().len());
        let outcome = decoder.decode(payload, 1_700_000_000_000_000, rows);
        match outcome {
            Ok(count) => assert_eq!(rows.len(), before.0 + count),
            Err(bad) => {
                assert!(bad.at <= payload.len(), "{bad}");
                assert_eq!((rows.len(), rows.times().len()), before, "{bad}");
            }
        }
        if rows.len() > 200 {
            let columns = rows.finish().unwrap();
            assert!(columns.iter().all(|column| column.len() == columns[0].len()));
            assert_eq!(columns.len(), format.arrow_fields().len());
        }
        outcome.is_ok()
    }
}

/// A text may be unescaped and repeated on each row of an array, and vectors grow by doubling.
fn request_bytes_max(length: usize) -> usize {
    (1 << 18) + 64 * length
}

#[test]
fn json() {
    let body = r#"{"ts":1700000000000,"f64":-1.5e3,"f32":0.25,"i64":-9007199254740993,"bool":true,"text":"a\u00e9\n","time":"2024-01-01T00:00:00Z","time_s":17,"time_ms":17.5,"time_us":null,"time_ns":"5","time_rfc3339":"2024-01-01T00:00:00.5+01:00","x":{"deep":[1,{"y":[]}]}}"#;
    let strict = body.replace(r#""5""#, "5").replace("17.5", "17");
    let other =
        r#" { "ts" : 1.7e12 , "text":"\ud83d\ude00", "time" : "2024-02-29T12:00:00Z", "u":[{},[],""] } "#;
    let strict_seeds = [strict.clone(), format!("[{strict},{strict}]"), other.to_owned()];
    let lenient_seeds =
        [body.to_owned(), r#"{"ts":"1700000000000","bool":0,"i64":"12","text":17.50}"#.to_owned()];
    let time = TimeField::At { path: vec!["ts".to_owned()], unit: TimeUnit::Milliseconds };
    for lenient in [false, true] {
        let format = RowFormat { lenient, ..format(time.clone()) };
        let decoder = PayloadDecoder::Json(JsonDecoder::new(&format, &JsonFormat::default()).unwrap());
        let more: &[String] = if lenient { &lenient_seeds } else { &[] };
        let seeds = strict_seeds.iter().chain(more).map(|seed| seed.clone().into_bytes());
        fuzz(
            &Target {
                name: if lenient { "JSON, lenient" } else { "JSON" },
                seeds: seeds.collect(),
                words: &JSON_WORDS,
                reseal: None,
                read: &read_with(decoder, &format),
                request_bytes_max: &request_bytes_max,
            },
            1,
        );
    }
}

#[test]
fn csv() {
    let names = || ["ts"].into_iter().chain(FieldKind::WORDS);
    let header = names().collect::<Vec<_>>().join(",");
    let row = "1700000000000,-1.5e3,0.25,-12,true,\"a \"\"b\"\", c\",2024-01-01T00:00:00Z,17,17.5,,5,2024-01-01T00:00:00.5+01:00";
    let time = TimeField::At { path: vec!["ts".to_owned()], unit: TimeUnit::Milliseconds };
    let format = format(time);
    for with_header in [false, true] {
        let columns = if with_header { Vec::new() } else { names().map(str::to_owned).collect() };
        let layout = CsvFormat { header: with_header, columns, ..CsvFormat::default() };
        let decoder = PayloadDecoder::Csv(CsvDecoder::new(&format, &layout).unwrap());
        let first = if with_header { format!("{header}\n") } else { String::new() };
        let seeds = [
            format!("{first}{row}"),
            format!("{first}{row}\r\n{row}\n"),
            format!("{first}{}", row.replace('"', "")),
        ];
        let seeds = seeds.into_iter().filter(|seed| !seed.contains("a b, c")).map(String::into_bytes);
        fuzz(
            &Target {
                name: if with_header { "CSV with a header" } else { "CSV" },
                seeds: seeds.take(2).collect(),
                words: &CSV_WORDS,
                reseal: None,
                read: &read_with(decoder, &format),
                request_bytes_max: &request_bytes_max,
            },
            2,
        );
    }
}

#[test]
fn bare_values() {
    for kind in FieldKind::WORDS {
        let format = RowFormat::new(vec![Field::new("value", kind.parse().unwrap())], TimeField::Arrival);
        let decoder = PayloadDecoder::Value(ValueDecoder::new(&format).unwrap());
        let seed: &[u8] = match kind {
            "bool" => b"true",
            "time_rfc3339" | "time" => b"2024-02-29T12:00:00.123456+01:00",
            _ => b" 12 ",
        };
        fuzz(
            &Target {
                name: kind,
                seeds: vec![seed.to_vec()],
                words: &JSON_WORDS,
                reseal: None,
                read: &read_with(decoder, &format),
                request_bytes_max: &request_bytes_max,
            },
            8,
        );
    }
}

#[test]
fn columns_are_looked_for() {
    let seeds = [
        r#"{"ts":1700000000000,"device":{"id":"a"},"readings":[{"t":1,"v":2.5},{"t":2,"v":null,"on":true}]}"#,
        r#"[{"time":"2024-01-01T00:00:00Z","n":1},{"n":"2"}]"#,
    ];
    let csv = "ts,a,b\n1700000000000,1.5,\"x\"\n1700000000001,,y\n";
    let csv_layout = Layout::Csv { delimiter: b',', columns: Vec::new() };
    let layouts = [
        (Known::default(), seeds.map(|seed| seed.as_bytes().to_vec()).to_vec()),
        (Known { layout: csv_layout, ..Known::default() }, vec![csv.as_bytes().to_vec()]),
    ];
    for (known, seeds) in layouts {
        fuzz(
            &Target {
                name: "columns",
                seeds,
                words: &JSON_WORDS,
                reseal: None,
                read: &|bytes| infer(&known, [bytes, bytes].into_iter()).is_ok(),
                request_bytes_max: &request_bytes_max,
            },
            2,
        );
    }
}
