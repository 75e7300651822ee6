//! What sensors and files should never send, and what becomes of it: every format, every case, one running process.
//!
//! A hand-made broker sends the cases below one by one, a good message behind each. The rows that come out must be
//! exactly those that the table says, in order, and so must the bad payloads; the counters must add up to the table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use serde_json::{Value, json};

use crate::support::{Message, Plant, Running, lines, series, text, tidegate};

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    /// It is refused and counted, for this reason; none of its rows remain.
    Bad(&'static str),
    /// These rows, each with at least these columns.
    Rows(Vec<Value>),
    /// One row, which comes when its window has long been closed.
    Late(Value),
    /// One row, too far ahead of the clock: it goes elsewhere.
    Ahead(Value),
    /// The packet is larger than what is taken: counted, acknowledged, passed over.
    Oversize,
}

use Fate::{Ahead, Bad, Late, Oversize, Rows};

/// A message, and what is to become of it.
struct Case {
    what: &'static str,
    message: Message,
    fate: Fate,
}

/// 2023-11-14T22:13:20Z.
const START_MS: u64 = 1_700_000_000_000;

const MIB: usize = 1 << 20;

fn one(row: Value) -> Fate {
    Rows(vec![row])
}

/// A table of cases as messages on a topic.
fn cases(topic: &str, table: Vec<(&'static str, Vec<u8>, Fate)>) -> Vec<Case> {
    let case = |(what, payload, fate)| Case { what, message: Message::new(topic, payload), fate };
    table.into_iter().map(case).collect()
}

/// JSON text with a string in the middle, of bytes that need not be text.
fn around(before: &str, bytes: &[u8], after: &str) -> Vec<u8> {
    [before.as_bytes(), bytes, after.as_bytes()].concat()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Objects of JSON: `ts` in milliseconds, `n` i64, `x` f64, `on` bool, `s` text.
#[rustfmt::skip]
fn json_cases() -> Vec<Case> {
    let body = |text: &str| format!(r#"{{"ts":{START_MS},{text}}}"#).into_bytes();
    let at = |ts: &str| format!(r#"{{"ts":{ts},"n":7}}"#).into_bytes();
    let long = "é".repeat(MIB / 2);
    let mut all = cases("json/d1", vec![
        // Not JSON, or not all of it.
        ("empty",                       b"".to_vec(),                           Bad("empty")),
        ("white space",                 b" \r\n\t".to_vec(),                    Bad("empty")),
        ("words",                       b"temperature high".to_vec(),           Bad("malformed")),
        ("cut in a number",             br#"{"ts":17000000000"#.to_vec(),       Bad("malformed")),
        ("cut in a text",               br#"{"ts":1700000000000,"s":"o"#.to_vec(), Bad("malformed")),
        ("cut before the last brace",   br#"{"ts":1700000000000,"n":1"#.to_vec(), Bad("malformed")),
        ("two objects",                 br#"{"ts":1700000000000}{"ts":1700000000000}"#.to_vec(), Bad("malformed")),
        ("a comma too many",            body(r#""n":1,"#),                      Bad("malformed")),
        ("a byte order mark",           around("\u{feff}", &body(r#""n":1"#), ""), Bad("malformed")),
        ("UTF-16",                      utf16(r#"{"ts":1700000000000,"n":1}"#), Bad("malformed")),
        ("bytes",                       vec![0xff, 0xfe, 0x00, 0x80],           Bad("malformed")),
        ("a NUL behind it",             around("", &body(r#""n":1"#), "\0"),    Bad("malformed")),
        // Other JSON than an object.
        ("null",                        b"null".to_vec(),                       Bad("wrong_type")),
        ("a number",                    b"17".to_vec(),                         Bad("wrong_type")),
        ("a text",                      br#""{}""#.to_vec(),                    Bad("wrong_type")),
        ("an empty array",              b"[]".to_vec(),                         Rows(vec![])),
        ("an array of numbers",         b"[1,2]".to_vec(),                      Bad("wrong_type")),
        // Types.
        ("an object for a number",      body(r#""x":{"value":1}"#),             Bad("wrong_type")),
        ("an array for a number",       body(r#""x":[1]"#),                     Bad("wrong_type")),
        ("a word for a number",         body(r#""x":"on""#),                    Bad("wrong_type")),
        ("true for a number",           body(r#""n":true"#),                    Bad("wrong_type")),
        ("a fraction for an integer",   body(r#""n":12.5"#),                    Bad("wrong_type")),
        ("a word for a boolean",        body(r#""on":"maybe""#),                Bad("wrong_type")),
        ("an object for a text",        body(r#""s":{}"#),                      Bad("wrong_type")),
        ("a number in quotes",          body(r#""x":"12.5","n":"-3""#),         one(json!({"x": 12.5, "n": -3}))),
        ("a number for a text",         body(r#""s":17.50"#),                   one(json!({"s": "17.50"}))),
        ("nulls",                       body(r#""n":null,"x":null,"on":null,"s":null"#),
                                        one(json!({"n": null, "x": null, "on": null, "s": null}))),
        // Numbers.
        ("1e400",                       body(r#""x":1e400"#),                   Bad("out_of_range")),
        ("-1e400",                      body(r#""x":-1e400"#),                  Bad("out_of_range")),
        ("1e-400",                      body(r#""x":1e-400"#),                  one(json!({"x": 0.0}))),
        ("2^63 as an integer",          body(r#""n":9223372036854775808"#),     Bad("out_of_range")),
        ("2^63 as a number",            body(r#""x":9223372036854775808"#),     one(json!({"x": 9223372036854775808.0}))),
        ("the largest integers",        body(r#""n":9223372036854775807"#),     one(json!({"n": i64::MAX}))),
        ("the smallest integer",        body(r#""n":-9223372036854775808"#),    one(json!({"n": i64::MIN}))),
        ("40 digits as an integer",     body(&format!(r#""n":{}"#, "9".repeat(40))), Bad("out_of_range")),
        ("40 digits as a number",       body(&format!(r#""x":1{}"#, "0".repeat(40))), one(json!({"x": 1e40}))),
        ("10,000 digits",               body(&format!(r#""x":{}"#, "9".repeat(10_000))), Bad("out_of_range")),
        ("10,000 decimals",             body(&format!(r#""x":0.{}1"#, "0".repeat(10_000))), one(json!({"x": 0.0}))),
        ("an exponent of 40 digits",    body(&format!(r#""x":1e{}"#, "9".repeat(40))), Bad("out_of_range")),
        ("the token NaN",               body(r#""x":NaN"#),                     Bad("malformed")),
        ("the token Infinity",          body(r#""x":Infinity"#),                Bad("malformed")),
        ("the token -Infinity",         body(r#""x":-Infinity"#),               Bad("malformed")),
        ("the text NaN",                body(r#""x":"NaN""#),                   one(json!({"x": null}))),
        ("the text Infinity",           body(r#""x":"Infinity""#),              Bad("out_of_range")),
        ("the text -inf",               body(r#""x":"-inf""#),                  Bad("out_of_range")),
        ("hexadecimal",                 body(r#""n":0x10"#),                    Bad("malformed")),
        ("leading zeros",               body(r#""n":007"#),                     Bad("malformed")),
        ("a plus",                      body(r#""n":+1"#),                      Bad("malformed")),
        // Times.
        ("no time",                     br#"{"n":7}"#.to_vec(),                 Bad("bad_time")),
        ("an empty object",             b"{}".to_vec(),                         Bad("bad_time")),
        ("time null",                   at("null"),                             Bad("bad_time")),
        ("time as a word",              at(r#""yesterday""#),                   Bad("bad_time")),
        ("time of 1e400",               at("1e400"),                            Bad("bad_time")),
        ("time in the year 33658",      at("1000000000000000"),                 Bad("bad_time")),
        ("time in 1653",                at("-10000000000000"),                  Bad("bad_time")),
        ("1970",                        at("0"),                                Late(json!({"time": "1970-01-01T00:00:00.000000Z", "n": 7}))),
        ("1969",                        at("-1"),                               Late(json!({"time": "1969-12-31T23:59:59.999000Z", "n": 7}))),
        ("2100",                        at("4102444800000"),                    Ahead(json!({"time": "2100-01-01T00:00:00.000000Z", "n": 7}))),
        // Texts.
        ("a text that is not UTF-8",    around(r#"{"ts":1700000000000,"s":""#, b"\xff\xfe", r#""}"#), Bad("not_utf8")),
        ("the same where nobody looks", around(r#"{"ts":1700000000000,"n":3,"else":""#, b"\xff\xfe", r#""}"#), one(json!({"n": 3, "s": null}))),
        ("a line break in a text",      body("\"s\":\"a\nb\""),                 Bad("malformed")),
        ("a NUL in a text",             body("\"s\":\"a\0b\""),                 Bad("malformed")),
        ("escaped control characters",  body(r#""s":"a\u0000\u001b\nb""#),      one(json!({"s": "a\0\u{1b}\nb"}))),
        ("half a surrogate pair",       body(r#""s":"\ud83d""#),                Bad("malformed")),
        ("1 MiB",                       body(&format!(r#""s":"{long}""#)),      one(json!({"s": long}))),
        ("1 MiB of white space",        vec![b' '; MIB],                        Bad("empty")),
        // Structure.
        ("a key twice",                 body(r#""n":1,"n":2"#),                 one(json!({"n": 2}))),
        ("the time twice",              format!(r#"{{"ts":0,"n":1,"ts":{START_MS}}}"#).into_bytes(), one(json!({"n": 1, "time": "2023-11-14T22:13:20.000000Z"}))),
        ("1000 unknown keys",           body(&(0..1000).map(|key| format!(r#""k{key}":{key},"#)).chain([r#""n":5"#.to_owned()]).collect::<String>()), one(json!({"n": 5}))),
        ("60 levels",                   body(&format!(r#""n":4,"else":{}{}"#, "[".repeat(60), "]".repeat(60))), one(json!({"n": 4}))),
        ("100 levels",                  body(&format!(r#""n":4,"else":{}{}"#, "[".repeat(100), "]".repeat(100))), Bad("too_deep")),
        ("1 MiB of brackets",           vec![b'['; MIB],                        Bad("too_deep")),
        ("1 MiB of braces",             br#"{"a":"#.repeat(MIB / 5),            Bad("too_deep")),
        ("3 MiB, more than is taken",   body(&format!(r#""s":"{}""#, "x".repeat(3 * MIB))), Oversize),
    ]);
    let good = |n: u64| format!(r#"{{"ts":{START_MS},"n":{n}}}"#).into_bytes();
    let topic = |topic: &[u8], n| Message { topic: topic.to_vec(), payload: good(n), cut: false };
    all.push(Case { what: "a topic that is not UTF-8", message: topic(b"json/\xffd\xfe", 11), fate: one(json!({"device": "\u{fffd}d\u{fffd}", "n": 11})) });
    all.push(Case { what: "a topic of another shape", message: topic(b"json/a/b/c", 12), fate: one(json!({"device": null, "n": 12})) });
    all.push(Case { what: "an empty topic", message: topic(b"", 13), fate: one(json!({"device": null, "n": 13})) });
    all.push(Case { what: "a control character in the topic", message: topic(b"json/\x01", 14), fate: one(json!({"device": "\u{1}", "n": 14})) });
    all.push(Case { what: "a connection that breaks off inside", message: Message { cut: true, ..topic(b"json/d1", 15) }, fate: one(json!({"device": "d1", "n": 15})) });
    all
}

/// Arrays of records within a message: `readings`, each with `n` i64, `x` f64, `s` text.
#[rustfmt::skip]
fn array_cases() -> Vec<Case> {
    let body = |readings: &str| format!(r#"{{"ts":{START_MS},"readings":{readings}}}"#).into_bytes();
    let many = |count: usize| body(&format!("[{}]", vec!["{}"; count].join(",")));
    let blown_up = format!(r#"{{"ts":{START_MS},"s":"{}","readings":[{}]}}"#, "x".repeat(64 << 10), vec!["{}"; 2000].join(","));
    cases("array/d1", vec![
        ("two readings",                body(r#"[{"n":1},{"n":2}]"#),           Rows(vec![json!({"n": 1}), json!({"n": 2})])),
        ("none",                        body("[]"),                             Rows(vec![])),
        ("empty",                       b"".to_vec(),                           Bad("empty")),
        ("no array",                    br#"{"ts":1700000000000}"#.to_vec(),    Bad("missing")),
        ("null for the array",          body("null"),                           Bad("missing")),
        ("an object for the array",     body(r#"{"n":1}"#),                     Bad("wrong_type")),
        ("a number for the array",      body("1"),                              Bad("wrong_type")),
        ("a number among readings",     body(r#"[{"n":1},2]"#),                 Bad("wrong_type")),
        ("an array among readings",     body(r#"[{"n":1},[{"n":2}]]"#),         Bad("wrong_type")),
        ("one bad reading of three",    body(r#"[{"n":1},{"n":"x"},{"n":3}]"#), Bad("wrong_type")),
        ("one out of range of two",     body(r#"[{"n":1},{"x":1e400}]"#),       Bad("out_of_range")),
        ("2^63 in the second",          body(r#"[{"n":1},{"n":9223372036854775808}]"#), Bad("out_of_range")),
        ("a NaN token in the second",   body(r#"[{"x":1},{"x":NaN}]"#),         Bad("malformed")),
        ("a NaN text in the second",    body(r#"[{"x":1},{"x":"NaN"}]"#),       Rows(vec![json!({"x": 1.0}), json!({"x": null})])),
        ("cut between readings",        br#"{"ts":1700000000000,"readings":[{"n":1},"#.to_vec(), Bad("malformed")),
        ("cut within a reading",        br#"{"ts":1700000000000,"readings":[{"n":1},{"n""#.to_vec(), Bad("malformed")),
        ("the array twice",             format!(r#"{{"ts":{START_MS},"readings":[{{"n":1}}],"readings":[{{"n":2}}]}}"#).into_bytes(), Bad("malformed")),
        ("a key twice in a reading",    body(r#"[{"n":1,"n":2}]"#),             one(json!({"n": 2}))),
        ("the time behind the array",   format!(r#"{{"readings":[{{"n":1}}],"ts":{START_MS}}}"#).into_bytes(), one(json!({"n": 1, "time": "2023-11-14T22:13:20.000000Z"}))),
        ("no time anywhere",            br#"{"readings":[{"n":1}]}"#.to_vec(),  Bad("bad_time")),
        ("one reading without a time",  format!(r#"{{"readings":[{{"n":1,"ts":{START_MS}}},{{"n":2}}]}}"#).into_bytes(), Bad("bad_time")),
        ("a reading of 1970",           br#"{"readings":[{"n":7,"ts":0}]}"#.to_vec(), Late(json!({"n": 7}))),
        ("a reading of 2100",           br#"{"readings":[{"n":7,"ts":4102444800000}]}"#.to_vec(), Ahead(json!({"n": 7}))),
        ("a text that is not UTF-8",    around(r#"{"ts":1700000000000,"readings":[{"s":""#, b"\xc3", r#""}]}"#), Bad("not_utf8")),
        ("a control character",         body("[{\"s\":\"\t\"}]"),               Bad("malformed")),
        ("a byte order mark",           around("\u{feff}", &body("[]"), ""),    Bad("malformed")),
        ("100 levels in a reading",     body(&format!(r#"[{{"else":{}{}}}]"#, "[".repeat(100), "]".repeat(100))), Bad("too_deep")),
        ("65,536 readings",             many(65_536),                           Rows(vec![json!({"n": null}); 65_536])),
        ("65,537 readings",             many(65_537),                           Bad("too_large")),
        ("a text repeated to 125 MiB",  blown_up.into_bytes(),                  Bad("too_large")),
        ("1 MiB in a reading",          body(&format!(r#"[{{"s":"{}"}}]"#, "x".repeat(MIB))), one(json!({"s": "x".repeat(MIB)}))),
        ("3 MiB, more than is taken",   body(&format!(r#"[{{"s":"{}"}}]"#, "x".repeat(3 * MIB))), Oversize),
    ])
}

/// CSV records: `ts` in milliseconds, `n` i64, `x` f64, `on` bool, `s` text.
#[rustfmt::skip]
fn csv_cases() -> Vec<Case> {
    let body = |text: &str| format!("{START_MS},{text}").into_bytes();
    let at = |ts: &str| format!("{ts},7,,,").into_bytes();
    let long = "x".repeat(MIB);
    cases("csv/d1", vec![
        ("empty",                       b"".to_vec(),                           Bad("empty")),
        ("blank lines",                 b"\r\n\n".to_vec(),                     Bad("empty")),
        ("words",                       b"temperature high".to_vec(),           Bad("bad_time")),
        ("JSON",                        br#"{"ts":1700000000000,"n":1}"#.to_vec(), Bad("malformed")),
        ("a cell too few",              body("1,0.5,true"),                     Bad("malformed")),
        ("a cell too many",             body("1,0.5,true,ok,more"),             Bad("malformed")),
        ("a quote in a cell",           body("1,0.5,true,o\"k"),                Bad("malformed")),
        ("a quote that never ends",     body("1,0.5,true,\"ok"),                Bad("malformed")),
        ("text behind a quote",         body("1,0.5,true,\"o\"k"),              Bad("malformed")),
        ("two lines",                   body(&format!("1,,,a\n{START_MS},2,,,b\n")), Rows(vec![json!({"n": 1, "s": "a"}), json!({"n": 2, "s": "b"})])),
        ("two lines, one bad",          body(&format!("1,,,a\n{START_MS},x,,,b\n")), Bad("wrong_type")),
        ("two lines, one cut",          body(&format!("1,,,a\n{START_MS},2")),  Bad("malformed")),
        ("empty cells",                 body(",,,"),                            one(json!({"n": null, "x": null, "on": null, "s": null}))),
        ("an empty text",               body(",,,\"\""),                        one(json!({"s": ""}))),
        ("CRLF and white space",        body(" 1 , 0.5 ,true,ok\r\n"),          one(json!({"n": 1, "x": 0.5, "s": "ok"}))),
        ("quotes with all in them",     body("1,0.5,true,\"a,\"\"b\"\"\r\nc\""), one(json!({"s": "a,\"b\"\r\nc"}))),
        ("a word for a number",         body("1,high,true,"),                   Bad("wrong_type")),
        ("a fraction for an integer",   body("1.5,,,"),                         Bad("wrong_type")),
        ("a word for a boolean",        body(",,maybe,"),                       Bad("wrong_type")),
        ("1e400",                       body(",1e400,,"),                       Bad("out_of_range")),
        ("1e-400",                      body(",1e-400,,"),                      one(json!({"x": 0.0}))),
        ("2^63 as an integer",          body("9223372036854775808,,,"),         Bad("out_of_range")),
        ("2^63 as a number",            body(",9223372036854775808,,"),         one(json!({"x": 9223372036854775808.0}))),
        ("40 digits as an integer",     body(&format!("{},,,", "9".repeat(40))), Bad("out_of_range")),
        ("40 digits as a number",       body(&format!(",1{},,", "0".repeat(40))), one(json!({"x": 1e40}))),
        ("10,000 digits",               body(&format!(",{},,", "9".repeat(10_000))), Bad("out_of_range")),
        ("NaN",                         body(",NaN,,"),                         one(json!({"x": null}))),
        ("inf",                         body(",inf,,"),                         Bad("out_of_range")),
        ("-Infinity",                   body(",-Infinity,,"),                   Bad("out_of_range")),
        ("no time",                     at(""),                                 Bad("bad_time")),
        ("time as a word",              at("yesterday"),                        Bad("bad_time")),
        ("time of 1e400",               at("1e400"),                            Bad("bad_time")),
        ("time in the year 33658",      at("1000000000000000"),                 Bad("bad_time")),
        ("1970",                        at("0"),                                Late(json!({"n": 7}))),
        ("2100",                        at("4102444800000"),                    Ahead(json!({"n": 7}))),
        ("a byte order mark",           around("\u{feff}", &at("1700000000000"), ""), Bad("bad_time")),
        ("a text that is not UTF-8",    around("1700000000000,,,,", b"\xff", ""), Bad("not_utf8")),
        ("a number that is not UTF-8",  around("1700000000000,,", b"\xff", ",,"), Bad("wrong_type")),
        ("control characters",          body(",,,a\0\u{1b}b"),                  one(json!({"s": "a\0\u{1b}b"}))),
        ("bytes",                       vec![0xff, 0xfe, 0x00, 0x80],           Bad("bad_time")),
        ("1 MiB",                       body(&format!(",,,{long}")),            one(json!({"s": long}))),
        ("1 MiB of quotes",             body(&format!(",,,{}", "\"".repeat(MIB))), one(json!({"s": "\"".repeat(MIB / 2 - 1)}))),
        ("1 MiB of commas",             vec![b','; MIB],                        Bad("malformed")),
        ("3 MiB, more than is taken",   body(&format!(",,,{}", "x".repeat(3 * MIB))), Oversize),
    ])
}

/// One bare number.
#[rustfmt::skip]
fn value_cases() -> Vec<Case> {
    cases("value/d1", vec![
        ("empty",                       b"".to_vec(),                           Bad("empty")),
        ("white space",                 b" \r\n".to_vec(),                      Bad("empty")),
        ("a word",                      b"high".to_vec(),                       Bad("wrong_type")),
        ("two numbers",                 b"23.5 24".to_vec(),                    Bad("wrong_type")),
        ("a decimal comma",             b"23,5".to_vec(),                       Bad("wrong_type")),
        ("cut behind the sign",         b"-".to_vec(),                          Bad("wrong_type")),
        ("cut in the exponent",         b"1e".to_vec(),                         Bad("wrong_type")),
        ("JSON",                        br#"{"value":1}"#.to_vec(),             Bad("wrong_type")),
        ("brackets",                    vec![b'['; 1000],                       Bad("wrong_type")),
        ("hexadecimal",                 b"0x10".to_vec(),                       Bad("wrong_type")),
        ("white space around",          b" 23.5\r\n".to_vec(),                  one(json!({"value": 23.5}))),
        ("null",                        b"null".to_vec(),                       one(json!({"value": null}))),
        ("NaN",                         b"NaN".to_vec(),                        one(json!({"value": null}))),
        ("inf",                         b"inf".to_vec(),                        Bad("out_of_range")),
        ("-Infinity",                   b"-Infinity".to_vec(),                  Bad("out_of_range")),
        ("1e400",                       b"1e400".to_vec(),                      Bad("out_of_range")),
        ("1e-400",                      b"1e-400".to_vec(),                     one(json!({"value": 0.0}))),
        ("2^63",                        b"9223372036854775808".to_vec(),        one(json!({"value": 9223372036854775808.0}))),
        ("40 digits",                   [b"1".as_slice(), &[b'0'; 40]].concat(), one(json!({"value": 1e40}))),
        ("1 MiB of digits",             vec![b'9'; MIB],                        Bad("out_of_range")),
        ("1 MiB of letters",            vec![b'x'; MIB],                        Bad("wrong_type")),
        ("a byte order mark",           "\u{feff}1".as_bytes().to_vec(),        Bad("wrong_type")),
        ("not UTF-8",                   vec![0xff, 0xfe],                       Bad("wrong_type")),
        ("UTF-16",                      utf16("23.5"),                          Bad("wrong_type")),
        ("a control character",         b"1\x002".to_vec(),                     Bad("wrong_type")),
        ("3 MiB, more than is taken",   vec![b'1'; 3 * MIB],                    Oversize),
    ])
}

/// The good message of a format with this number, and the row that it becomes.
fn good(format: &str, number: usize) -> (Vec<u8>, Value) {
    let ts = START_MS + number as u64;
    let payload = match format {
        "json" => format!(r#"{{"ts":{ts},"n":{number},"x":0.5,"on":true,"s":"ok"}}"#),
        "array" => format!(r#"{{"ts":{ts},"readings":[{{"n":{number},"x":0.5,"s":"ok"}}]}}"#),
        "csv" => format!("{ts},{number},0.5,true,ok"),
        _ => return (number.to_string().into_bytes(), json!({ "device": "good", "value": number as f64 })),
    };
    (payload.into_bytes(), json!({ "device": "good", "n": number, "x": 0.5, "s": "ok" }))
}

/// A pipeline over one format, with every way out in a file.
fn pipeline(name: &str, port: u16, decoding: &str, column: &str, out: &Path) -> String {
    let sinks = [("rows", "plant"), ("bad", "plant.bad"), ("ahead", "plant.ahead"), ("late", "windows.late")];
    let sinks: String = sinks
        .iter()
        .map(|(sink, input)| {
            let path = out.join(format!("{name}-{sink}.ndjson"));
            format!("[sink.{sink}]\ntype = \"file\"\ninputs = [{input:?}]\npath = {path:?}\n")
        })
        .collect();
    let windows = out.join(format!("{name}-windows.ndjson"));
    format!(
        r#"
[pipeline]
name = "{name}"
[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:{port}"
version = "3.1.1"
client_id = "{name}"
topics = ["{name}/{{device}}"]
packet_size = "2MiB"
event_time = {{ ahead = "1h" }}
{decoding}
[operator.windows]
type = "window"
inputs = ["plant"]
size = "1s"
columns = {{ {column} = ["count"] }}
{sinks}
[sink.closed]
type = "file"
inputs = ["windows"]
path = {windows:?}
"#
    )
}

/// Whether a row has all these columns with these values.
fn has(row: &Value, expected: &Value) -> bool {
    expected.as_object().unwrap().iter().all(|(column, value)| row.get(column) == Some(value))
}

/// A format: its cases, and how the source's table describes it.
struct Format {
    name: &'static str,
    cases: Vec<Case>,
    decoding: &'static str,
    column: &'static str,
}

fn formats() -> Vec<Format> {
    let typed = r#"fields = { n = "i64", x = "f64", on = "bool", s = "text" }"#;
    let decoding = |format: &str, fields: &str| -> &'static str {
        Box::leak(format!("format = {{ {format} }}\n{fields}").into_boxed_str())
    };
    vec![
        Format {
            name: "json",
            cases: json_cases(),
            decoding: decoding(r#"type = "json", time = "ts", time_unit = "ms""#, typed),
            column: "n",
        },
        Format {
            name: "array",
            cases: array_cases(),
            decoding: decoding(
                r#"type = "json", time = "ts", time_unit = "ms", array = "readings""#,
                r#"fields = { n = "i64", x = "f64", s = "text" }"#,
            ),
            column: "n",
        },
        Format {
            name: "csv",
            cases: csv_cases(),
            decoding: decoding(
                r#"type = "csv", time = "ts", time_unit = "ms", columns = ["ts", "n", "x", "on", "s"]"#,
                typed,
            ),
            column: "n",
        },
        Format {
            name: "value",
            cases: value_cases(),
            decoding: r#"format = { type = "value" }"#,
            column: "value",
        },
    ]
}

impl Format {
    /// The cases, with a good message in front of all and behind each.
    fn messages(&self) -> Vec<Message> {
        let good = |number| Message::new(&format!("{}/good", self.name), good(self.name, number).0);
        let cases = self.cases.iter().zip(1..);
        std::iter::once(good(0))
            .chain(cases.flat_map(|(case, number)| [case.message.clone(), good(number)]))
            .collect()
    }

    /// The rows with a name of the case each is of, for messages; none where the message leaves none.
    fn expected(&self, of: impl Fn(&Fate) -> Vec<Value>) -> Vec<(&'static str, Value)> {
        let cases = self.cases.iter();
        cases.flat_map(|case| of(&case.fate).into_iter().map(|row| (case.what, row))).collect()
    }

    fn check_file(&self, directory: &Path, sink: &str, expected: &[(&'static str, Value)]) {
        let rows = lines(&directory.join(format!("{}-{sink}.ndjson", self.name)));
        for (row, (what, expected)) in rows.iter().zip(expected) {
            let (row, short) = (row.to_string(), has(row, expected));
            assert!(
                short,
                "{} {sink}, {what}: {} is not {}",
                self.name,
                cut(&row),
                cut(&expected.to_string())
            );
        }
        assert_eq!(rows.len(), expected.len(), "{} {sink}", self.name);
    }

    /// The rows that come out, good ones and those of cases.
    fn rows(&self) -> Vec<(&'static str, Value)> {
        let good = |number| ("a good one", good(self.name, number).1);
        let mut rows = vec![good(0)];
        for (case, number) in self.cases.iter().zip(1..) {
            match &case.fate {
                Rows(found) => rows.extend(found.iter().map(|row| (case.what, row.clone()))),
                Late(row) => rows.push((case.what, row.clone())),
                Bad(_) | Ahead(_) | Oversize => {}
            }
            rows.push(good(number));
        }
        rows
    }

    fn check(&self, directory: &Path, metrics: &str) {
        let rows = self.rows();
        self.check_file(directory, "rows", &rows);
        let bad = self.expected(|fate| match fate {
            Bad(reason) => vec![json!({ "reason": reason, "topic": format!("{}/d1", self.name) })],
            _ => vec![],
        });
        self.check_file(directory, "bad", &bad);
        let late = self.expected(|fate| if let Late(row) = fate { vec![row.clone()] } else { vec![] });
        self.check_file(directory, "late", &late);
        let ahead = self.expected(|fate| if let Ahead(row) = fate { vec![row.clone()] } else { vec![] });
        self.check_file(directory, "ahead", &ahead);

        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for case in &self.cases {
            if let Bad(reason) = case.fate {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        let count = |name: &str, more: &[(&str, &str)]| {
            let labels = [&[("pipeline", self.name)], more].concat();
            series(metrics, &format!("tidegate_{name}_total"), &labels) as usize
        };
        println!("{}: {} cases, {} rows, bad {reasons:?}", self.name, self.cases.len(), rows.len());
        for (reason, expected) in &reasons {
            assert_eq!(count("bad_payloads", &[("reason", reason)]), *expected, "{} {reason}", self.name);
        }
        assert_eq!(count("bad_payloads", &[]), bad.len(), "{}: no other reasons", self.name);
        assert_eq!(count("late_rows", &[]), late.len(), "{}", self.name);
        assert_eq!(count("ahead_rows", &[]), ahead.len(), "{}", self.name);
        let oversize = self.cases.iter().filter(|case| case.fate == Oversize).count();
        assert_eq!(count("oversize_messages", &[]), oversize, "{}", self.name);
        assert_eq!(count("malformed_packets", &[]), 0, "{}", self.name);
        let cuts = self.cases.iter().filter(|case| case.message.cut).count();
        assert_eq!(count("reconnects", &[]), cuts, "{}", self.name);
        assert_eq!(count("source_rows", &[]), self.messages().len() - oversize, "{}", self.name);
        assert_eq!(count("sink_rows", &[("node", "rows")]), rows.len(), "{}", self.name);
    }
}

/// The beginning of a text.
fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

/// One source on one file: its lines, or its rows, and the rows and bad payloads that come of them.
struct Recording {
    name: &'static str,
    /// The rest of the source's table.
    keys: &'static str,
    bytes: Vec<u8>,
    rows: Vec<Value>,
    bad: Vec<&'static str>,
    /// Other counters, and what they must say.
    counts: Vec<(&'static str, usize)>,
}

fn recordings() -> Vec<Recording> {
    let numbers = |numbers: &[i64]| numbers.iter().map(|n| json!({ "n": n })).collect::<Vec<_>>();
    let json = "format = { type = \"json\", time = \"ts\", time_unit = \"ms\" }\nfields = { n = \"i64\", x = \"f64\" }";
    let line = |n: i64| format!("{{\"ts\":{START_MS},\"n\":{n}}}\n").into_bytes();
    let ndjson = [
        around("\u{feff}", &line(1), ""),
        b"not json\n".to_vec(),
        line(2),
        b"\r\n\n".to_vec(),
        b"{\"ts\":17000000".to_vec(),
        b"\n".to_vec(),
        line(3),
        around("{\"ts\":1700000000000,\"n\":", b"\xff", "}\n"),
        line(4),
        // Longer than a record may be.
        around("{\"ts\":1700000000000,\"s\":\"", &vec![b'x'; 16 * MIB], "\"}\n"),
        line(5),
        b"{\"ts\":1700000000000,\"n\":1e400}\n".to_vec(),
        b"{\"n\":6}\n".to_vec(),
        around("", &[b'['; 200], "\n"),
        // The last line has no line break.
        line(7).trim_ascii_end().to_vec(),
    ];
    let messages = [
        around("rec/d1 ", &line(1), ""),
        around("rec/d1 ", b"not json", "\n"),
        b"rec/d1\n".to_vec(),
        b"rec/d1 \n".to_vec(),
        around("", &[b"rec/\xff ".as_slice(), &line(2)].concat(), ""),
        around("rec/d1 ", b"{\"ts\":1700000000000,\"x\":NaN}", "\r\n"),
        around("other/topic/here ", &line(3), ""),
    ];
    let csv = format!(
        "\u{feff}ts,n,s\r\n{START_MS},1,a\r\n{START_MS},x,a\r\n\r\n{START_MS},2\r\n{START_MS},3,\"a\nb\"\r\n\
         ts,n,s\r\n{START_MS},1e400,\r\n{START_MS},9223372036854775808,\r\n{START_MS},NaN,nan\r\n,4,\r\n{START_MS},5,\"cut"
    );
    vec![
        Recording {
            name: "cases.ndjson",
            keys: json,
            bytes: ndjson.concat(),
            rows: numbers(&[1, 2, 3, 4, 5, 7]),
            bad: vec!["malformed", "malformed", "malformed", "out_of_range", "bad_time", "too_deep"],
            counts: vec![("too_long_records", 1)],
        },
        Recording {
            name: "cases.messages",
            keys: json,
            bytes: messages.concat(),
            rows: numbers(&[1, 2, 3]),
            bad: vec!["malformed", "empty", "empty", "malformed"],
            counts: vec![],
        },
        Recording {
            name: "cases.csv",
            keys: "format = { type = \"csv\", header = true, time = \"ts\", time_unit = \"ms\" }\n\
                   fields = { n = \"i64\", s = \"text\" }",
            bytes: csv.into_bytes(),
            rows: vec![
                json!({ "n": 1, "s": "a" }),
                json!({ "n": 3, "s": "a\nb" }),
                json!({ "n": null, "s": "nan" }),
            ],
            bad: vec![
                "wrong_type",
                "malformed",
                "bad_time",
                "out_of_range",
                "out_of_range",
                "bad_time",
                "malformed",
            ],
            counts: vec![],
        },
        Recording {
            name: "cases.parquet",
            keys: "",
            bytes: parquet_cases(),
            rows: vec![
                json!({ "n": 1, "x": 0.5, "s": "ok" }),
                json!({ "n": i64::MAX, "x": null, "s": null }),
                json!({ "n": 4, "x": null, "s": "" }),
                json!({ "n": null, "x": null, "s": "a\u{0}b" }),
            ],
            bad: vec![],
            counts: vec![("rows_without_time", 3)],
        },
    ]
}

/// Rows with NaN, infinities and nulls; two whose times are beyond the supported years and one that has none.
fn parquet_cases() -> Vec<u8> {
    let now = START_MS as i64;
    let far = 95_000_000_000_000;
    let times = [Some(now), Some(far), Some(now), None, Some(-far), Some(now), Some(now)];
    let columns: [(&str, ArrayRef); 4] = [
        ("time", Arc::new(TimestampMillisecondArray::from_iter(times))),
        (
            "n",
            Arc::new(Int64Array::from(vec![
                Some(1),
                Some(2),
                Some(i64::MAX),
                Some(3),
                Some(3),
                Some(4),
                None,
            ])),
        ),
        (
            "x",
            Arc::new(Float64Array::from(vec![
                0.5,
                0.5,
                f64::NAN,
                0.5,
                0.5,
                f64::INFINITY,
                f64::NEG_INFINITY,
            ])),
        ),
        ("s", Arc::new(StringArray::from(vec![Some("ok"), None, None, None, None, Some(""), Some("a\0b")]))),
    ];
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

impl Recording {
    fn source(&self) -> String {
        self.name.replace("cases.", "")
    }

    /// Its part of a pipeline: the source, and files for its rows and bad payloads.
    fn tables(&self, directory: &Path) -> String {
        let (source, path) = (self.source(), directory.join(self.name));
        std::fs::write(&path, &self.bytes).unwrap();
        let mut tables = format!("[source.{source}]\ntype = \"file\"\npath = {path:?}\n{}\n", self.keys);
        for port in ["", ".bad"].iter().take(if self.keys.is_empty() { 1 } else { 2 }) {
            let path = directory.join(format!("file-{source}{port}.ndjson"));
            let name = format!("{source}{}", port.replace('.', "-"));
            tables += &format!(
                "[sink.{name}-out]\ntype = \"file\"\ninputs = [\"{source}{port}\"]\npath = {path:?}\n"
            );
        }
        tables
    }

    fn check(&self, directory: &Path, metrics: &str) {
        let source = self.source();
        let rows = lines(&directory.join(format!("file-{source}.ndjson")));
        assert_eq!(rows.len(), self.rows.len(), "{source}: {rows:?}");
        for (row, expected) in rows.iter().zip(&self.rows) {
            assert!(has(row, expected), "{source}: {row} is not {expected}");
        }
        let bad = lines(&directory.join(format!("file-{source}.bad.ndjson")));
        let reasons: Vec<&str> = bad.iter().map(|row| row["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, self.bad, "{source}");
        let count = |name: &str, more: &[(&str, &str)]| {
            let labels = [&[("pipeline", "recorded"), ("node", source.as_str())], more].concat();
            series(metrics, &format!("tidegate_{name}_total"), &labels) as usize
        };
        assert_eq!(count("bad_payloads", &[]), self.bad.len(), "{source}");
        for reason in &self.bad {
            let expected = self.bad.iter().filter(|other| *other == reason).count();
            assert_eq!(count("bad_payloads", &[("reason", reason)]), expected, "{source} {reason}");
        }
        for (name, expected) in &self.counts {
            assert_eq!(count(name, &[]), *expected, "{source} {name}");
        }
        assert_eq!(count("source_rows", &[]), self.rows.len() + self.bad.len(), "{source}");
    }
}

#[test]
fn every_bad_message_costs_itself_and_is_counted_for_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let formats = formats();
    let filters: Vec<String> = formats.iter().map(|format| format!("{}/+", format.name)).collect();
    let feeds = filters.iter().map(String::as_str).zip(formats.iter().map(Format::messages)).collect();
    let plant = Plant::start(feeds);
    let files: Vec<PathBuf> = formats
        .iter()
        .map(|format| {
            let path = directory.path().join(format!("{}.toml", format.name));
            let (decoding, column) = (format.decoding, format.column);
            std::fs::write(&path, pipeline(format.name, plant.port, decoding, column, directory.path()))
                .unwrap();
            path
        })
        .collect();
    let data = directory.path().join("data").display().to_string();
    let recordings = recordings();
    let mut recorded = "[pipeline]\nname = \"recorded\"\n".to_owned();
    recorded.extend(recordings.iter().map(|recording| recording.tables(directory.path())));
    let recorded_path = directory.path().join("recorded.toml");
    std::fs::write(&recorded_path, recorded).unwrap();
    let mut extra: Vec<String> =
        files[1..].iter().chain([&recorded_path]).map(|path| path.display().to_string()).collect();
    extra.extend(["--data-dir".to_owned(), data]);
    let extra: Vec<&str> = extra.iter().map(String::as_str).collect();
    let running = Running::start_logging(&files[0], &extra, Stdio::null());
    for (format, filter) in formats.iter().zip(&filters) {
        let all = format.messages().len();
        running.wait_for("all acknowledgements", |_| plant.acknowledged(filter) == all);
        // What is logged is decoded a moment later.
        running.wait_for("all rows", |metrics| {
            let of = |name, node| series(metrics, name, &[("pipeline", format.name), ("node", node)]);
            of("tidegate_operator_rows_in_total", "plant") == of("tidegate_source_rows_total", "plant")
                && of("tidegate_sink_rows_total", "rows") >= format.rows().len() as f64
        });
    }
    running.wait_for("all recorded rows", |metrics| {
        let of = |name| series(metrics, name, &[("pipeline", "recorded")]) as usize;
        of("tidegate_sink_rows_total")
            == recordings.iter().map(|all| all.rows.len() + all.bad.len()).sum::<usize>()
    });
    let metrics = running.metrics();
    assert_eq!(running.terminate(), Some(0));
    for format in &formats {
        format.check(directory.path(), &metrics);
    }
    for recording in &recordings {
        recording.check(directory.path(), &metrics);
    }
}

#[test]
fn a_file_that_cannot_be_read_at_all_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let whole = parquet_cases();
    let mut damaged = whole.clone();
    // Within the first column's page.
    damaged[8..40].fill(0xff);
    let json = "format = { type = \"json\", time = \"ts\" }\nfields = { n = \"i64\" }";
    let csv = "format = { type = \"csv\", header = true, time = \"ts\" }\nfields = { n = \"i64\" }";
    let cases = [
        ("cut.parquet", Some(whole[..whole.len() - 7].to_vec()), "", 2, "no Parquet file"),
        ("text.parquet", Some(b"ts,n\n1,2\n".to_vec()), "", 2, "no Parquet file"),
        ("empty.parquet", Some(vec![]), "", 2, "no Parquet file"),
        ("damaged.parquet", Some(damaged), "", 1, "damaged.parquet"),
        ("missing.parquet", None, "", 2, "missing.parquet"),
        ("missing.ndjson", None, json, 1, "missing.ndjson"),
        ("empty.ndjson", Some(vec![]), json, 0, ""),
        ("empty.csv", Some(vec![]), csv, 0, ""),
    ];
    for (name, bytes, keys, code, said) in cases {
        let path = directory.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        let out = directory.path().join("out.ndjson");
        let pipeline = directory.path().join("refused.toml");
        let source = format!("[source.plant]\ntype = \"file\"\npath = {path:?}\n{keys}\n");
        let sink = format!("[sink.out]\ntype = \"file\"\ninputs = [\"plant\"]\npath = {out:?}\n");
        std::fs::write(&pipeline, format!("[pipeline]\nname = \"refused\"\n{source}{sink}")).unwrap();
        let ran = tidegate(&["run", &pipeline.display().to_string()]);
        let stderr = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{name}: {stderr}");
        assert!(stderr.contains(said), "{name}: {stderr}");
        assert!(!stderr.contains("panicked"), "{name}: {stderr}");
        assert!(lines(&out).is_empty(), "{name}");
    }
}
