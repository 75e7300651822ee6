//! The operator as its users meet it: in a pipeline file, in the gateway's command line, under the laws.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use duty_cycle::{DutyCycleConfig, registry};
use tidegate::codec::text_ndjson::NdjsonWriter;
use tidegate::config::{self, Options};
use tidegate::core::schema::time_array;
use tidegate::core::{Effect, Engine, Event, EventTime, Now, Record};
use tidegate::registry::NoFiles;
use tidegate::sim::laws;
use tidegate::{cli::files::DiskFiles, embed};

#[test]
fn it_keeps_the_laws_of_operators() {
    laws::hold::<DutyCycleConfig>().unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn all_of_it_is_documented() {
    registry().check_names().unwrap();
    assert_eq!(config::undocumented(&registry()), Vec::<String>::new());
}

/// Pushes rows (second, device, vib, ok) through a pipeline with this operator; gives what the two ports said.
fn run(body: &str, rows: &[(i64, &str, Option<f64>, bool)]) -> Vec<String> {
    let text = format!(
        r#"
[pipeline]
name = "test"
[source.plant]
type = "rows"
columns = {{ device = "tag", vib = "f64", ok = "bool", n = "i64" }}
event_time = {{ lateness = "2s", grid = "1s" }}
[operator.duty]
type = "duty_cycle"
inputs = ["plant"]
{body}
[sink.main]
type = "rows"
inputs = ["duty"]
[sink.late]
type = "rows"
inputs = ["duty.late"]
"#
    );
    let registry = embed::registry().operator::<DutyCycleConfig>();
    let pipeline = config::load(&text, "test.toml", &registry, &Options::new(&NoFiles)).unwrap();
    let schema = pipeline.sources[0].schema.clone();
    let mut engine = Engine::new(pipeline.graph, None).unwrap().0;
    let now = Now { mono: Duration::ZERO, wall: EventTime(0) };
    for row in rows {
        let batch = RecordBatch::try_from_iter([
            ("time", time_array(vec![row.0 * 1_000_000])),
            ("device", Arc::new(StringArray::from(vec![row.1])) as ArrayRef),
            ("vib", Arc::new(Float64Array::from(vec![row.2]))),
            ("ok", Arc::new(BooleanArray::from(vec![row.3]))),
            ("n", Arc::new(Int64Array::from(vec![row.0]))),
        ]);
        let batch = embed::fit(&schema, &batch.unwrap()).unwrap();
        engine.handle(now, Record::Batch { input: 0, batch }).unwrap();
    }
    engine.handle(now, Record::End { input: 0 }).unwrap();
    let mut told = Vec::new();
    while let Some(effect) = engine.poll() {
        if let Effect::Emit { sink, event: Event::Batch(batch) } = effect {
            let mut bytes = Vec::new();
            NdjsonWriter::new().write(&batch, &mut bytes).unwrap();
            let lines = String::from_utf8(bytes).unwrap();
            told.extend(lines.lines().map(|line| format!("{} {line}", ["main", "late"][sink])));
        }
    }
    for (node, stats) in engine.stats().filter(|(node, _)| *node == "duty") {
        told.extend(
            stats.counts.iter().map(|(count, by)| format!("{node} {} {}: {by}", count.what, count.reason)),
        );
    }
    told
}

fn stretch(end: &str, device: &str, numbers: &str) -> String {
    let start = if end == "10" { "00" } else { "10" };
    let last = end.parse::<i64>().unwrap() - 1;
    format!(
        r#"main {{"time":"1970-01-01T00:00:{last:02}.999999Z","window_start":"1970-01-01T00:00:{start}.000000Z","window_end":"1970-01-01T00:00:{end}.000000Z","device":"{device}",{numbers}}}"#
    )
}

#[test]
fn time_above_is_told_per_device_whatever_order_rows_come_in() {
    let body = "column = \"vib\"\nthreshold = 2.5\nevery = \"10s\"\nhold = \"5s\"\nby = [\"device\"]";
    let rows = [
        (1, "a", Some(9.0), false),
        // Out of order, within the lateness.
        (4, "a", Some(1.0), false),
        (3, "a", Some(9.0), false),
        (4, "b", Some(2.5), false),
        (5, "a", None, false),
        (6, "a", Some(3.0), false),
        (13, "b", Some(3.0), false),
        // Two seconds are over: this one is late.
        (2, "a", Some(0.0), false),
    ];
    let expected = [
        r#"late {"time":"1970-01-01T00:00:02.000000Z","device":"a","vib":0.0,"ok":false,"n":2}"#.to_owned(),
        stretch("10", "a", r#""duty":0.7777777777777778,"on_seconds":7.0,"known_seconds":9.0,"starts":1"#),
        stretch("10", "b", r#""duty":0.0,"on_seconds":0.0,"known_seconds":5.0,"starts":0"#),
        // At the end: of `a` what its last value holds into the next stretch.
        stretch("20", "a", r#""duty":1.0,"on_seconds":1.0,"known_seconds":1.0,"starts":0"#),
        "duty late_rows : 1".to_owned(),
        "duty skipped_values : 1".to_owned(),
    ];
    let mut told = run(body, &rows);
    let mut expected = expected.to_vec();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

#[test]
fn limits_are_kept_and_counted() {
    let body = "column = \"ok\"\nevery = \"10s\"\nby = [\"device\"]\nmax_keys = 1\nmax_waiting = 2";
    let rows: Vec<_> = (0..3).flat_map(|at| [(0, "a", None, at == 0), (0, "b", None, true)]).collect();
    let told = run(body, &rows);
    assert_eq!(told, ["duty refused_rows max_keys: 3", "duty refused_rows max_waiting: 1"]);
}

#[test]
fn mistakes_are_told_with_the_way_out() {
    let problems = |body: &str| {
        let text = format!(
            "[pipeline]\nname = \"x\"\n[source.plant]\ntype = \"simulate\"\n[operator.duty]\ntype = \"duty_cycle\"\ninputs = [\"plant\"]\n{body}\n[sink.out]\ntype = \"stdout\"\ninputs = [\"duty\"]\n"
        );
        match config::load(&text, "x.toml", &registry(), &Options::new(&NoFiles)) {
            Ok(_) => String::new(),
            Err(found) => found.to_string(),
        }
    };
    let table: [(&str, &[&str]); 6] = [
        (
            "column = \"vibb\"\nthreshold = 1\nevery = \"1s\"",
            &["\"vibb\" does not exist", "did you mean \"vib\"?"],
        ),
        ("column = \"vib\"\nevery = \"1s\"", &["above which value of \"vib\"", "threshold = 2.5"]),
        ("column = \"device\"\nthreshold = 1\nevery = \"1s\"", &["is text; it must be a number"]),
        ("column = \"vib\"\nthreshold = 1\nevery = \"0s\"", &["`every` is no time at all"]),
        ("column = \"vib\"\nthreshold = 1\nevery = \"1m\"\nkey_ttl = \"90s\"", &["`key_ttl` is shorter"]),
        (
            "column = \"vib\"\nthreshold = 1\nevery = \"1s\"\nby = [\"device\", \"device\", \"time\"]",
            &["stands there twice", "\"time\" is the name of a column that comes out"],
        ),
    ];
    for (body, expected) in table {
        let told = problems(body);
        for text in expected {
            assert!(told.contains(text), "{body}\n{told}");
        }
    }
}

fn gateway(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duty-cycle")).current_dir(directory).args(arguments).output().unwrap()
}

#[test]
fn the_gateway_has_it_built_in_and_runs_the_pipeline() {
    let directory = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/compressors.toml");
    let file = file.to_str().unwrap();
    for arguments in [&["check", file][..], &["explain", "duty_cycle"], &["graph", file], &["run", file]] {
        let output = gateway(directory.path(), arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let rows = std::fs::read_to_string(directory.path().join("out/compressors/duty.ndjson")).unwrap();
    // Six stretches of four devices; each compressor is on for a part of the time.
    assert_eq!(rows.lines().count(), 24, "{rows}");
    let on =
        rows.lines().filter(|row| !row.contains("\"duty\":0.0,") && !row.contains("\"duty\":1.0,")).count();
    assert!(on > 20, "{rows}");
    // The file as a program may load it, too.
    let text = std::fs::read_to_string(file).unwrap();
    config::load(&text, file, &registry(), &Options::new(&DiskFiles)).unwrap();
}
