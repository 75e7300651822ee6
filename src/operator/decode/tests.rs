//! `decode` from its configuration to what leaves it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, BinaryArray, DictionaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::DecodeConfig;
use crate::core::{EventTime, Flow, Now, Operator, Output, StateReader, StateWriter, schema};
use crate::registry::{
    BatchLimits, Built, Checked, Context, InputSchema, NoFiles, OperatorConfig, example_schema,
};

fn build_over(text: &str, input: SchemaRef) -> Checked<Built> {
    let table: toml::Table = text.parse().unwrap();
    let config: DecodeConfig = table.try_into().unwrap();
    let inputs = [InputSchema { name: "in".into(), schema: input }];
    config.build(&Context {
        name: "x",
        pipeline: "p",
        inputs: &inputs,
        files: &NoFiles,
        batch: BatchLimits::default(),
    })
}

/// As the node of a source of messages.
fn source(text: &str) -> Built {
    build_over(text, schema::raw()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Messages: topic, payload, time of arrival in µs.
fn messages(rows: &[(&str, &[u8], i64)]) -> RecordBatch {
    let topics: DictionaryArray<Int32Type> = rows.iter().map(|(topic, ..)| *topic).collect();
    let payloads: BinaryArray = rows.iter().map(|(_, payload, _)| Some(*payload)).collect();
    let arrivals = schema::time_array(rows.iter().map(|(.., arrival)| *arrival).collect());
    RecordBatch::try_new(schema::raw(), vec![Arc::new(topics), Arc::new(payloads), arrivals]).unwrap()
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "∅".to_owned();
    }
    match column.data_type() {
        DataType::Timestamp(..) => {
            let micros = arrow::compute::cast(column, &DataType::Int64).unwrap();
            array_value_to_string(&micros, row).unwrap()
        }
        DataType::Binary => {
            let bytes = column.as_any().downcast_ref::<BinaryArray>().unwrap().value(row);
            String::from_utf8_lossy(bytes).into_owned()
        }
        _ => array_value_to_string(column, row).unwrap(),
    }
}

/// All that an operator said: per port the rows as text; watermarks and idleness stand between the rows of port 0.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    ports: BTreeMap<usize, Vec<String>>,
    counts: BTreeMap<String, u64>,
}

impl Said {
    fn take(&mut self, out: &mut Output, built: &[SchemaRef]) {
        for (port, flow) in out.drain() {
            let lines = self.ports.entry(port).or_default();
            match flow {
                Flow::Batch(batch) => {
                    assert_eq!(batch.schema(), built[port]);
                    lines.extend((0..batch.num_rows()).map(|row| {
                        let cells: Vec<String> = batch.columns().iter().map(|c| cell(c, row)).collect();
                        cells.join("|")
                    }));
                }
                Flow::Watermark(to) => lines.push(format!("w{}", to.0)),
                Flow::Idle(idle) => lines.push(format!("idle {idle}")),
            }
        }
        for (count, by) in out.drain_counts() {
            let name = format!("{} {}", count.what, count.reason).trim().to_owned();
            *self.counts.entry(name).or_default() += by;
        }
    }

    fn port(&self, port: usize) -> Vec<&str> {
        self.ports.get(&port).into_iter().flatten().map(String::as_str).collect()
    }

    /// The rows of the main port.
    fn rows(&self) -> Vec<&str> {
        self.port(0).into_iter().filter(|line| !line.starts_with(['w', 'i'])).collect()
    }
}

fn schemas(built: &Built) -> Vec<SchemaRef> {
    built.ports.iter().map(|port| port.schema.clone()).collect()
}

fn run(mut built: Built, batches: &[RecordBatch]) -> Said {
    let (schemas, mut said) = (schemas(&built), Said::default());
    let mut out = Output::new(Now::ZERO);
    for batch in batches {
        built.operator.process(0, batch.clone(), &mut out).unwrap();
        said.take(&mut out, &schemas);
    }
    said
}

fn columns(schema: &SchemaRef) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

const TELEMETRY: &str = r#"
topics = ["p/{line}/{device}"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { temp = "f64", rpm = { type = "i64", path = "motor.rpm" } }
event_time = { lateness = "0s", grid = "10ms" }
"#;

#[test]
fn messages_become_rows_with_time_tags_and_fields() {
    let built = source(TELEMETRY);
    assert!(built.own_watermark);
    let names: Vec<&str> = built.ports.iter().map(|port| port.name).collect();
    assert_eq!(names, ["", "bad", "ahead"]);
    let mut expected = columns(&built.ports[0].schema);
    expected.sort_unstable();
    assert_eq!(expected, ["device", "line", "rpm", "temp", "time"]);
    assert_eq!(columns(&built.ports[1].schema), ["time", "topic", "reason", "payload"]);
    assert_eq!(built.ports[2].schema, built.ports[0].schema);

    let fields = columns(&built.ports[0].schema);
    let temp_first = fields[3] == "temp";
    let row = |time: &str, tags: &str, temp: &str, rpm: &str| match temp_first {
        true => format!("{time}|{tags}|{temp}|{rpm}"),
        false => format!("{time}|{tags}|{rpm}|{temp}"),
    };
    let batch = messages(&[
        ("p/1/a", br#"{"ts":1,"temp":1.5,"motor":{"rpm":7}}"#, 100),
        ("p/1/b", br#"{"ts":2,"temp":"#, 101),
        ("p/2/a", br#"[{"ts":12,"temp":2.5},{"ts":9}]"#, 102),
        ("q/1/a", br#"{"ts":13,"temp":null,"x":[1]}"#, 103),
        ("p/1/b", b"", 104),
        ("p/1/b", b"[]", 105),
    ]);
    let said = run(built, &[batch]);
    assert_eq!(
        said.port(0),
        [
            row("1000", "1|a", "1.5", "7"),
            "w0".to_owned(),
            row("12000", "2|a", "2.5", "∅"),
            "w10000".to_owned(),
            row("9000", "2|a", "∅", "∅"),
            row("13000", "∅|∅", "∅", "∅"),
        ]
    );
    assert_eq!(said.port(1), [r#"101|p/1/b|malformed|{"ts":2,"temp":"#, "104|p/1/b|empty|"]);
    let counts = said.counts.iter().map(|(name, by)| (name.as_str(), *by)).collect::<Vec<_>>();
    assert_eq!(counts, [("bad_payloads empty", 1), ("bad_payloads malformed", 1)]);
}

#[test]
fn every_format_of_a_source() {
    for (text, payloads, expected) in [
        // An array of readings, with what stands around it; the time of arrival.
        (
            "format = { type = \"json\", array = \"data.list\" }\nfields = { id = \"text\", v = \"f64\" }",
            &[r#"{"id":"a","data":{"list":[{"v":1},{"v":2,"id":"b"}]}}"#][..],
            &["7|a|1.0", "7|b|2.0"][..],
        ),
        // Keys with dots: as a name, and as a list.
        (
            "format = { type = \"json\" }\nfields = { \"a.b\" = \"bool\", c = { type = \"i64\", path = [\"x.y\", \"z\"] } }",
            &[r#"{"a.b":true,"x.y":{"z":3}}"#],
            &["7|true|3"],
        ),
        (
            "format = { type = \"json\", lenient = false }\nfields = { a = \"f64\" }",
            &[r#"{"a":"1"}"#, r#"{"a":1}"#],
            &["7|1.0"],
        ),
        (
            "format = { type = \"csv\", delimiter = \";\", header = true, time = \"t\", time_unit = \"s\" }\nfields = { v = \"f64\" }",
            &["v;t\n1.5;1\n2.5;2", "t;v\n3;4"],
            &["1000000|1.5", "2000000|2.5", "3000000|4.0"],
        ),
        (
            "format = { type = \"csv\", columns = [\"a\", \"b.c\"] }\nfields = { v = { type = \"f64\", path = \"b.c\" } }",
            &["x,5"],
            &["7|5.0"],
        ),
        (
            "format = { type = \"csv\", delimiter = \"\\t\" }\nfields = { v = { type = \"f64\", path = \"1\" } }",
            &["x\t5"],
            &["7|5.0"],
        ),
        ("format = { type = \"value\" }", &["23.5", "x"], &["7|23.5"]),
        ("format = { type = \"value\" }\nfields = { state = \"text\" }", &["run"], &["7|run"]),
        ("format = { type = \"value\", column = \"n\" }\nfields = { n = \"i64\" }", &["3"], &["7|3"]),
        ("", &["\u{1}"], &["7|x|p/x|\u{1}"]),
        ("format = { type = \"none\" }", &["a", ""], &["7|x|p/x|a", "7|x|p/x|"]),
    ] {
        let with_tag = expected[0].contains("p/x");
        let topics = if with_tag { "topics = [\"p/{t}\"]" } else { "topics = []" };
        let rows: Vec<(&str, &[u8], i64)> = payloads.iter().map(|p| ("p/x", p.as_bytes(), 7)).collect();
        let said = run(source(&format!("{topics}\n{text}")), &[messages(&rows)]);
        assert_eq!(said.rows(), expected, "{text}");
    }
}

#[test]
fn numbers_of_every_unit_are_times() {
    for (unit, written, micros) in [
        ("s", "2", 2_000_000i64),
        ("float_s", "2.5", 2_500_000),
        ("ms", "2", 2_000),
        ("us", "2", 2),
        ("ns", "2000", 2),
        ("rfc3339", "\"1970-01-01T00:00:01Z\"", 1_000_000),
        ("auto", "1700000000123", 1_700_000_000_123_000),
    ] {
        let text = format!(
            "topics = []\nformat = {{ type = \"json\", time = \"t\", time_unit = \"{unit}\" }}\nfields = {{ v = \"f64\" }}"
        );
        let payload = format!("{{\"t\":{written},\"v\":1}}");
        let said = run(source(&text), &[messages(&[("x", payload.as_bytes(), 7)])]);
        assert_eq!(said.rows(), [format!("{micros}|1.0")], "{unit}");
    }
}

/// Rows over the columns of the examples.
fn example_rows(payloads: &[Option<&[u8]>], notes: &[Option<&str>]) -> RecordBatch {
    let schema = example_schema();
    let count = payloads.len();
    let arrays: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "time" => schema::time_array((0..count as i64).map(|row| 1_000 + row).collect()),
            "payload" => Arc::new(payloads.iter().copied().collect::<BinaryArray>()) as ArrayRef,
            "note" => Arc::new(notes.iter().copied().collect::<StringArray>()) as ArrayRef,
            "device" => {
                let device: DictionaryArray<Int32Type> = (0..count).map(|row| ["a", "b"][row % 2]).collect();
                Arc::new(device) as ArrayRef
            }
            _ => arrow::array::new_null_array(field.data_type(), count),
        })
        .collect();
    RecordBatch::try_new(schema, arrays).unwrap()
}

#[test]
fn a_column_is_decoded_beside_the_others() {
    let text = r#"
        column = "payload"
        format = { type = "json", array = "r" }
        fields = { a = "f64" }
    "#;
    let built = build_over(text, example_schema()).unwrap_or_else(|problems| panic!("{problems:?}"));
    // Without a time of its own the rows keep that of the input, and its watermark.
    assert!(!built.own_watermark);
    let names: Vec<&str> = built.ports.iter().map(|port| port.name).collect();
    assert_eq!(names, ["", "bad"]);
    let around = ["time", "line", "device", "seq", "temp", "vib", "rpm", "ok", "note"];
    assert_eq!(columns(&built.ports[0].schema), [&around[..], &["a"]].concat());
    assert_eq!(columns(&built.ports[1].schema), [&around[..], &["reason", "payload"]].concat());
    let payloads = [Some(&br#"{"r":[{"a":1},{"a":2}]}"#[..]), None, Some(br#"{"r":[{"a":3}]}"#), Some(b"{}")];
    let batch = example_rows(&payloads, &[Some("x"), None, None, None]);
    let said = run(built, std::slice::from_ref(&batch));
    assert_eq!(
        said.port(0),
        ["1000|∅|a|∅|∅|∅|∅|∅|x|1.0", "1000|∅|a|∅|∅|∅|∅|∅|x|2.0", "1002|∅|a|∅|∅|∅|∅|∅|∅|3.0"]
    );
    assert_eq!(said.port(1), ["1001|∅|b|∅|∅|∅|∅|∅|∅|empty|∅", "1003|∅|b|∅|∅|∅|∅|∅|∅|missing|{}"]);

    // One row each, of a slice: what is carried along is not copied.
    let built = build_over(text, example_schema()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let schemas = schemas(&built);
    let mut operator = built.operator;
    let mut out = Output::new(Now::ZERO);
    operator.process(0, batch.slice(2, 1), &mut out).unwrap();
    let mut said = Said::default();
    said.take(&mut out, &schemas);
    assert_eq!(said.rows(), ["1002|∅|a|∅|∅|∅|∅|∅|∅|3.0"]);

    // With a time it makes its own watermark.
    let text = "format = { type = \"json\", time = \"ts\", time_unit = \"ms\" }\nfields = { a = \"f64\" }";
    let built = build_over(text, example_schema()).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(built.own_watermark);
    let batch = example_rows(&[Some(br#"{"ts":6000,"a":1}"#)], &[None]);
    assert_eq!(run(built, &[batch]).port(0), ["6000000|∅|a|∅|∅|∅|∅|∅|∅|1.0", "w1000000"]);
}

#[test]
fn texts_are_decoded_as_bytes_are() {
    let text = "column = \"note\"\nformat = { type = \"value\", column = \"n\" }";
    let built = build_over(text, example_schema()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let batch = example_rows(&[None, None, None], &[Some("5"), Some("x"), None]);
    let said = run(built, &[batch]);
    assert_eq!(said.rows(), ["1000|∅|a|∅|∅|∅|∅|∅|∅|5.0"]);
    let bad: Vec<&str> = said.port(1).iter().filter_map(|row| row.split('|').nth(9)).collect();
    assert_eq!(bad, ["wrong_type", "empty"]);
}

#[test]
fn a_source_with_columns_gets_time_and_nothing_else() {
    let built = build_over("topics = []\nlive = true\nevent_time = { lateness = \"0s\" }", example_schema())
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(built.own_watermark);
    assert_eq!(built.ports[0].schema, example_schema());
    let said = run(built, &[example_rows(&[None, None], &[None, None])]);
    assert_eq!(said.rows().len(), 2);
    assert_eq!(said.port(0)[1], "w0");
}

#[test]
fn examples_can_be_built() {
    for example in DecodeConfig::EXAMPLES {
        if let Err(problems) = build_over(example, example_schema()) {
            panic!("{example}\n{problems:?}");
        }
    }
    let schema = schemars::schema_for!(DecodeConfig).to_value();
    let mut keys: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["column", "event_time", "fields", "format", "live"]);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let json = "format = { type = \"json\" }";
    let case = |text: &str, input: SchemaRef, path: &str, part: &str| {
        let Err(problems) = build_over(text, input) else { panic!("accepted: {text}") };
        let found = problems.iter().find(|problem| {
            problem.path == path && format!("{} {:?}", problem.message, problem.help).contains(part)
        });
        assert!(found.is_some(), "{text}\n{problems:?}");
    };
    for (text, path, part) in [
        (json.to_owned(), "format", "tidegate infer"),
        ("fields = { a = \"f64\" }".to_owned(), "fields", "format = { type"),
        (format!("{json}\nfields = {{ time = \"f64\" }}"), "fields.time", "time of every row"),
        (
            format!("topics = [\"{{a}}\"]\n{json}\nfields = {{ a = \"f64\" }}"),
            "fields.a",
            "a tag of the topics",
        ),
        (format!("topics = [\"{{a}}/{{a}}\"]\n{json}\nfields = {{ b = \"f64\" }}"), "topics[0]", "twice"),
        ("topics = [\"{time}\"]".to_owned(), "topics[0]", "every message has"),
        ("topics = [\"a\", \"b/{payload}\"]".to_owned(), "topics[1]", "every message has"),
        (format!("{json}\ncolumn = \"x\"\nfields = {{ b = \"f64\" }}"), "column", "for operators"),
        (
            "format = { type = \"json\", time_unit = \"ms\" }\nfields = { b = \"f64\" }".to_owned(),
            "format.time_unit",
            "no time",
        ),
        (format!("{json}\nfields = {{ b = {{ type = \"f64\", path = \"x..y\" }} }}"), "fields", "empty key"),
        (
            "format = { type = \"csv\", columns = [\"temp\"], time = \"tmie\" }\nfields = { temp = \"f64\" }"
                .to_owned(),
            "format.time",
            "the columns are",
        ),
        (
            "format = { type = \"csv\", columns = [\"temp\"] }\nfields = { tmep = \"f64\" }".to_owned(),
            "fields.tmep",
            "did you mean \\\"temp\\\"",
        ),
        (
            "format = { type = \"csv\" }\nfields = { temp = \"f64\" }".to_owned(),
            "format",
            "nothing names the columns",
        ),
        (
            "format = { type = \"csv\", delimiter = \"ä\" }\nfields = { a = \"f64\" }".to_owned(),
            "format.delimiter",
            "cannot be a delimiter",
        ),
        (
            "format = { type = \"value\" }\nfields = { a = \"f64\", b = \"f64\" }".to_owned(),
            "fields",
            "one column, not 2",
        ),
        (
            "format = { type = \"value\", column = \"a\" }\nfields = { b = \"f64\" }".to_owned(),
            "format.column",
            "goes to \"a\"",
        ),
        (
            "format = { type = \"value\" }\nfields = { b = { type = \"f64\", path = \"c\" } }".to_owned(),
            "fields.b.path",
            "no inner parts",
        ),
        ("event_time = { grid = \"0s\" }".to_owned(), "event_time.grid", "from \"1ms\""),
        ("event_time = { idle = \"0s\" }".to_owned(), "event_time.idle", "from \"1ms\""),
        ("event_time = { lateness = \"9999d\" }".to_owned(), "event_time.lateness", "to \"3660d\""),
    ] {
        case(&text, schema::raw(), path, part);
    }
    for (text, path, part) in [
        ("column = \"payload\"".to_owned(), "format", "format = { type"),
        (format!("{json}\ncolumn = \"pyload\"\nfields = {{ b = \"f64\" }}"), "column", "did you mean"),
        (format!("{json}\ncolumn = \"temp\"\nfields = {{ b = \"f64\" }}"), "column", "is number"),
        (format!("{json}\ncolumn = \"line\"\nfields = {{ b = \"f64\" }}"), "column", "a tag"),
        (format!("{json}\nfields = {{ temp = \"f64\" }}"), "fields.temp", "a column of the input"),
        (format!("{json}\nfields = {{ b = \"f64\" }}\nevent_time = {{}}"), "event_time", "does not apply"),
        (format!("{json}\nfields = {{ b = \"f64\" }}\nlive = true"), "live", "does not apply"),
        (format!("topics = []\n{json}"), "format", "nothing to decode"),
        ("topics = []\nfields = { b = \"f64\" }".to_owned(), "fields", "nothing to decode"),
    ] {
        case(&text, example_schema(), path, part);
    }
    let without_time: Vec<_> = example_schema().fields().iter().skip(1).cloned().collect();
    let without_time = Arc::new(arrow::datatypes::Schema::new(without_time));
    case("topics = []", without_time.clone(), "", "no column \"time\"");
    case(&format!("{json}\nfields = {{ b = \"f64\" }}"), without_time, "", "no column \"time\"");
    // Several at once.
    let text = format!("{json}\nfields = {{ temp = \"f64\", rpm = \"i64\" }}\nlive = true");
    assert!(build_over(&text, example_schema()).is_err_and(|problems| problems.len() >= 2));
}

/// Nothing that a device sends stops the pipeline or costs a good row: each payload comes between two good ones.
#[test]
fn bad_input_of_every_format() {
    let long = "x".repeat(1 << 20);
    let deep = format!("{{\"ts\":1,\"x\":{}", "[".repeat(80));
    let keyed = |text: &str| format!("{{\"ts\":1,\"s\":\"{text}\"}}").into_bytes();
    let bytes = |text: &str| text.as_bytes().to_vec();
    let with = |text: &[u8]| [b"{\"ts\":1,\"s\":\"".as_slice(), text, b"\"}"].concat();
    let json = (
        "format = { type = \"json\", time = \"ts\", time_unit = \"ms\" }\nfields = { v = \"f64\", n = \"i64\", s = \"text\" }",
        br#"{"ts":1,"v":1}"#.as_slice(),
        vec![
            (bytes("{\"ts\":1"), "malformed"),
            (bytes("{'ts':1}"), "malformed"),
            (bytes("{\"ts\":1}}"), "malformed"),
            (bytes("{\"ts\":1,\"v\":{}}"), "wrong_type"),
            (bytes("{\"ts\":1,\"n\":1.5}"), "wrong_type"),
            (bytes("17"), "wrong_type"),
            (bytes("{\"ts\":1,\"v\":1e999}"), "out_of_range"),
            (bytes("{\"ts\":1,\"n\":9223372036854775808}"), "out_of_range"),
            (bytes("{\"ts\":1,\"v\":NaN}"), "malformed"),
            (bytes("{\"ts\":1,\"v\":Infinity}"), "malformed"),
            (bytes("{\"ts\":1,\"v\":\"NaN\"}"), ""),
            (bytes(""), "empty"),
            (bytes(" \n"), "empty"),
            (bytes(&long), "malformed"),
            (keyed(&long), ""),
            (bytes("{\"ts\":0}"), ""),
            (bytes("{\"ts\":4102444800000}"), ""),
            (bytes("{\"ts\":1e300}"), "bad_time"),
            (bytes("{\"v\":1}"), "bad_time"),
            (bytes("{\"ts\":null}"), "bad_time"),
            (bytes(&deep), "too_deep"),
            (with(b"\xff\xfe"), "not_utf8"),
            (bytes("\u{feff}{}"), "malformed"),
        ],
    );
    let csv = (
        "format = { type = \"csv\", columns = [\"ts\", \"v\", \"n\", \"s\"], time = \"ts\", time_unit = \"ms\" }\nfields = { v = \"f64\", n = \"i64\", s = \"text\" }",
        b"1,1,1,x".as_slice(),
        vec![
            (bytes("1,1,1"), "malformed"),
            (bytes("1,1,1,\"x"), "malformed"),
            (bytes("1,x,1,x"), "wrong_type"),
            (bytes("1,1,1.5,x"), "wrong_type"),
            (bytes("1,1e999,1,x"), "out_of_range"),
            (bytes("1,1,9223372036854775808,x"), "out_of_range"),
            (bytes("1,NaN,1,x"), ""),
            (bytes("1,inf,1,x"), "out_of_range"),
            (bytes(""), "empty"),
            (bytes("\r\n\r\n"), "empty"),
            (bytes(&long), "bad_time"),
            (bytes(&format!("1,1,1,{long}")), ""),
            (bytes("0,1,1,x"), ""),
            (bytes("4102444800000,1,1,x"), ""),
            (bytes(",1,1,x"), "bad_time"),
            (bytes("1e300,1,1,x"), "bad_time"),
            (b"1,1,1,\xff".to_vec(), "not_utf8"),
        ],
    );
    let value = (
        "format = { type = \"value\", column = \"v\" }",
        b"1".as_slice(),
        vec![
            (bytes("x"), "wrong_type"),
            (bytes("{}"), "wrong_type"),
            (bytes("1e999"), "out_of_range"),
            (bytes("inf"), "out_of_range"),
            (bytes("NaN"), ""),
            (bytes(""), "empty"),
            (bytes(&long), "wrong_type"),
            (bytes("\u{0}"), "wrong_type"),
            (b"\xff\xfe".to_vec(), "wrong_type"),
        ],
    );
    for (text, good, cases) in [json, csv, value] {
        for (payload, reason) in cases {
            let shown = String::from_utf8_lossy(&payload[..payload.len().min(60)]).into_owned();
            let built = source(&format!("topics = [\"{{t}}\"]\n{text}"));
            let said = run(built, &[messages(&[("a", good, 5), ("b", &payload, 6), ("c", good, 7)])]);
            let counts: Vec<(&str, u64)> =
                said.counts.iter().map(|(name, by)| (name.as_str(), *by)).collect();
            let name = format!("bad_payloads {reason}");
            let expected = if reason.is_empty() { vec![] } else { vec![(name.as_str(), 1)] };
            assert_eq!(counts, expected, "{text} {shown:?}");
            assert_eq!(said.rows().len(), if reason.is_empty() { 3 } else { 2 }, "{text} {shown:?}");
            assert_eq!(said.port(1).len() as u64, counts.iter().map(|(_, by)| by).sum::<u64>());
        }
    }
}

#[test]
fn many_readings_leave_in_pieces() {
    let text = "topics = [\"{t}\"]\nformat = { type = \"json\" }\nfields = { v = \"i64\" }";
    let readings = |count: usize| format!("[{}]", vec!["{\"v\":1}"; count].join(","));
    let (large, small) = (readings(60_000), readings(10));
    let rows: Vec<(&str, &[u8], i64)> = vec![
        ("a", large.as_bytes(), 1),
        ("b", small.as_bytes(), 2),
        ("c", large.as_bytes(), 3),
        ("d", large.as_bytes(), 4),
    ];
    let mut built = source(text);
    let mut out = Output::new(Now::ZERO);
    built.operator.process(0, messages(&rows), &mut out).unwrap();
    let batches: Vec<RecordBatch> = out
        .drain()
        .filter_map(|(_, flow)| match flow {
            Flow::Batch(batch) => Some(batch),
            _ => None,
        })
        .collect();
    // The first row moves the watermark; then what there is behind the payload that fills a piece, and the rest.
    let lengths: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(lengths, [1, 120_009, 60_000]);
    assert_eq!(cell(batches[1].column(1), 120_008), "c");
    assert_eq!(cell(batches[2].column(1), 0), "d");
}

#[test]
fn the_end_is_nothing_to_wait_for() {
    let mut built = source("topics = []\nlive = true");
    let mut out = Output::new(Now::ZERO);
    assert!(built.operator.deadline().is_some());
    built.operator.watermark(EventTime::MAX, &mut out).unwrap();
    assert_eq!((built.operator.deadline(), out.drain().count()), (None, 0));
}

#[test]
fn the_meaning_is_that_of_the_rows() {
    let meaning = |text: &str| source(text).meaning;
    let base = "format = { type = \"json\", time = \"t\" }\nfields = { a = \"f64\" }";
    for same in ["topics = [\"x\"]", "live = true", "event_time = { lateness = \"1s\", grid = \"1s\" }"] {
        assert_eq!(meaning(base), meaning(&format!("{same}\n{base}")));
    }
    let two = |fields: &str| source(&format!("format = {{ type = \"json\" }}\nfields = {{ {fields} }}"));
    let (one, other) = (two("b = \"f64\", a = \"i64\""), two("a = \"i64\", b = \"f64\""));
    assert_eq!(one.meaning, other.meaning);
    let names: Vec<&str> = one.ports[0].schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["time", "b", "a"], "in the order of the file");
    for other in [
        "format = { type = \"json\", time = \"t\", time_unit = \"s\" }\nfields = { a = \"f64\" }",
        "format = { type = \"json\", time = \"t\" }\nfields = { a = { type = \"f64\", path = \"b\" } }",
        "format = { type = \"json\", time = \"t\", array = \"x\" }\nfields = { a = \"f64\" }",
        "",
    ] {
        assert_ne!(meaning(base), meaning(other));
    }
}

/// A stretch of messages that come at one moment, with a tick before it.
#[derive(Debug, Clone)]
struct Stretch {
    /// After the stretch before, in seconds.
    after_s: u64,
    /// Of each message: topic, whether it is good, and the times of its readings in ms behind the base.
    messages: Vec<(u8, bool, Vec<i64>)>,
}

const BASE_MS: i64 = 1_800_000_000_000;

fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    let time = prop_oneof![6 => 0i64..2_000, 1 => 100_000i64..100_010, 1 => -50_000i64..0];
    let message = (0u8..5, prop::bool::weighted(0.9), prop::collection::vec(time, 0..4));
    let stretch = (0u64..50, prop::collection::vec(message, 0..12))
        .prop_map(|(after_s, messages)| Stretch { after_s, messages });
    prop::collection::vec(stretch, 1..6)
}

const LAW: &str = r#"
topics = ["p/{device}"]
live = true
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { v = "i64" }
event_time = { lateness = "250ms", idle = "30s", ahead = "10s", grid = "100ms" }
"#;

fn stretch_batch(stretch: &Stretch, from: usize, to: usize) -> RecordBatch {
    let written: Vec<(String, String)> = stretch.messages[from..to]
        .iter()
        .map(|(topic, good, times)| {
            let readings: Vec<String> =
                times.iter().map(|time| format!("{{\"ts\":{},\"v\":{time}}}", BASE_MS + time)).collect();
            let topic = if *topic == 4 { "other".to_owned() } else { format!("p/{topic}") };
            (topic, format!("[{}{}", readings.join(","), if *good { "]" } else { "" }))
        })
        .collect();
    let rows: Vec<(&str, &[u8], i64)> =
        written.iter().map(|(topic, payload)| (topic.as_str(), payload.as_bytes(), 7)).collect();
    messages(&rows)
}

/// Runs a script, cut at `cuts` (of a hundred per message) and saved and loaded wherever it is cut if `restore`.
fn run_script(script: &[Stretch], cuts: &[u8], restore: bool) -> Said {
    let mut operator = source(LAW).operator;
    let schemas = schemas(&source(LAW));
    let mut said = Said::default();
    let mut out = Output::new(Now::ZERO);
    let mut cuts = cuts.iter().cycle();
    let mut mono = Duration::ZERO;
    let reload = |operator: &mut Box<dyn Operator>| {
        if restore {
            let mut writer = StateWriter::new();
            operator.save(&mut writer);
            let bytes = writer.finish().unwrap();
            *operator = source(LAW).operator;
            let mut reader = StateReader::new(&bytes);
            operator.load(&mut reader).unwrap();
            reader.finish().unwrap();
        }
    };
    for stretch in script {
        mono += Duration::from_secs(stretch.after_s);
        let wall = EventTime(BASE_MS * 1_000 + mono.as_micros() as i64);
        out.set_now(Now { mono, wall });
        if operator.deadline().is_some_and(|deadline| deadline <= mono) {
            operator.tick(&mut out).unwrap();
        }
        reload(&mut operator);
        let mut from = 0;
        for to in 1..=stretch.messages.len() {
            let cut = cuts.next().is_some_and(|cut| *cut < 40);
            if to == stretch.messages.len() || cut {
                operator.process(0, stretch_batch(stretch, from, to), &mut out).unwrap();
                said.take(&mut out, &schemas);
                reload(&mut operator);
                from = to;
            }
        }
        said.take(&mut out, &schemas);
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn neither_cuts_nor_restarts_change_anything(script in stretches(), cuts in prop::collection::vec(0u8..100, 1..40)) {
        let whole = run_script(&script, &[99], false);
        prop_assert_eq!(&run_script(&script, &cuts, false), &whole);
        prop_assert_eq!(&run_script(&script, &cuts, true), &whole);
    }

    #[test]
    fn the_watermark_is_that_of_a_naive_account(script in stretches()) {
        let said = run_script(&script, &[99], false);
        let (mut largest, mut watermark) = (i64::MIN, i64::MIN);
        let mut lines = said.port(0).into_iter().peekable();
        while let Some(line) = lines.next() {
            if line.starts_with("idle") {
                continue;
            }
            let time: i64 = line.split('|').next().unwrap().parse().unwrap();
            largest = largest.max(time);
            let reached = (largest - 250_000).div_euclid(100_000) * 100_000;
            if reached > watermark {
                watermark = reached;
                let expected = format!("w{watermark}");
                prop_assert_eq!(lines.next(), Some(expected.as_str()));
            }
        }
        // All readings of good messages are there, on one port or the other.
        let readings: usize = script.iter().flat_map(|stretch| &stretch.messages)
            .filter(|(_, good, _)| *good).map(|(.., times)| times.len()).sum();
        prop_assert_eq!(said.rows().len() + said.port(2).len(), readings);
        let bad = script.iter().flat_map(|stretch| &stretch.messages).filter(|(_, good, _)| !*good).count();
        prop_assert_eq!(said.port(1).len(), bad);
        prop_assert_eq!(said.counts.values().sum::<u64>() as usize, bad + said.port(2).len());
    }

    #[test]
    fn damaged_state_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut operator = source(LAW).operator;
        if operator.load(&mut StateReader::new(&bytes)).is_ok() {
            let mut out = Output::new(Now::ZERO);
            operator.process(0, messages(&[("p/1", br#"{"ts":1,"v":1}"#, 1)]), &mut out).unwrap();
        }
    }
}
