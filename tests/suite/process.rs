//! The program as its user runs it: a process of its own, with real signals, sockets and files.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Message, Plant, Running, lines, text, tidegate};

const START_MS: u64 = 1_700_000_000_000;

fn wait_for_rows(directory: &Path, rows: u64) {
    let started = Instant::now();
    loop {
        let text = std::fs::read(directory.join("rows.ndjson")).unwrap_or_default();
        if memchr::memchr_iter(b'\n', &text).count() as u64 >= rows {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "waited five minutes for {rows} rows");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_wrong_file_is_refused_with_all_its_faults_and_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrong.toml");
    std::fs::write(
        &path,
        r#"
[pipeline]
name = "wrong"
[source.plant]
type = "mqtt"
url = "mqtt://localhost"
topics = ["a"]
format = { type = "json" }
fields = { temp = "f64" }
[operator.w]
type = "window"
inputs = ["plant"]
sizes = "1s"
columns = { temp = ["men"] }
[operator.f]
type = "filter"
inputs = ["plant"]
where = "tmp > 1"
[sink.out]
type = "stdout"
inputs = ["w", "f.rest"]
"#,
    )
    .unwrap();
    let checked = tidegate(&["check", &path.display().to_string()]);
    let said = text(&checked.stderr);
    assert_eq!(checked.status.code(), Some(2), "{said}");
    for part in ["did you mean `size`", "wrong.toml:13:1", "tmp", "did you mean \"temp\""] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    assert_eq!(tidegate(&["run", &path.display().to_string()]).status.code(), Some(2));
    assert_eq!(tidegate(&["run", "no-such-file.toml"]).status.code(), Some(2));
    assert_eq!(tidegate(&["no-such-command"]).status.code(), Some(2));
}

#[test]
fn recorded_messages_replayed_give_rows_and_frames_decode_back() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let mut recorded = String::new();
    for number in 0..500 {
        recorded += &format!(
            "plant/line-1/press-0{}/telemetry {{\"ts\":{},\"seq\":{number},\"temp\":{},\"vib\":0.5,\"current\":3}}\n",
            number % 3,
            START_MS + number * 500,
            60 + number % 20
        );
    }
    recorded += "plant/line-1/press-01/telemetry not json\n";
    std::fs::write(at("plant.messages"), recorded).unwrap();
    let input = format!("plant={}", at("plant.messages"));
    let replayed = tidegate(&["replay", "pipelines/fan-out.toml", "--input", &input, "--out", &at("out")]);
    assert!(replayed.status.success(), "{}", text(&replayed.stderr));
    let hot = lines(&directory.path().join("out/control-room.ndjson"));
    assert_eq!(hot.len(), 225, "temperatures from 71 to 79 of 60 to 79");
    let historian = lines(&directory.path().join("out/historian.ndjson"));
    assert_eq!(historian.len(), 500, "the line that is no JSON costs itself");

    let pipeline = format!(
        r#"
[pipeline]
name = "pack"
[source.readings]
type = "file"
path = {:?}
format = {{ type = "json", time = "time", time_unit = "rfc3339" }}
fields = {{ device = "text", temp = "f64", seq = "i64" }}
[operator.frames]
type = "compress"
inputs = ["readings"]
codec = "huffman"
rows = 100
[sink.packed]
type = "file"
inputs = ["frames"]
path = {:?}
"#,
        at("out/historian.ndjson"),
        at("packed.tgf")
    );
    std::fs::write(at("pack.toml"), pipeline).unwrap();
    let packed = tidegate(&["run", &at("pack.toml")]);
    assert!(packed.status.success(), "{}", text(&packed.stderr));
    let decoded = tidegate(&["decode", &at("packed.tgf"), "--to", "ndjson"]);
    assert!(decoded.status.success(), "{}", text(&decoded.stderr));
    let rows: Vec<serde_json::Value> =
        text(&decoded.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 500);
    for (row, read) in rows.iter().zip(&historian) {
        for column in ["time", "device", "temp", "seq"] {
            assert_eq!(row[column], read[column]);
        }
    }
}

#[test]
fn every_variant_of_the_benchmark_does_its_work() {
    let output = tidegate(&["bench", "ingest", "--messages", "3000", "--runs", "1", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let variants = lines.iter().filter(|line| line["variant"].is_string());
    let taken: Vec<_> = variants.map(|line| line["runs"][0]["messages"].as_u64().unwrap()).collect();
    // Five variants and sensors that connect, with a log and at QoS 0 without one too; starts with and
    // without a log.
    assert_eq!((taken, lines.len()), (vec![3000; 13], 15));
}

#[test]
fn every_key_of_every_component_is_documented() {
    let undocumented = tidegate::config::undocumented(&tidegate::builtin::registry());
    assert!(undocumented.is_empty(), "{undocumented:#?}");
}

#[test]
fn a_row_can_be_read_a_moment_after_it_came_and_long_before_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let message = |n: u64| Message::new("plant/1", format!("{{\"ts\":{},\"n\":{n}}}", START_MS + n));
    let plant = Plant::start(vec![("plant/1", (0..3).map(message).collect())]);
    let pipeline = directory.path().join("soon.toml");
    let out = directory.path().join("rows.ndjson");
    let text = format!(
        r#"
[pipeline]
name = "soon"
checkpoint = "1h"
[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:{}"
version = "3.1.1"
client_id = "soon"
topics = ["plant/1"]
format = {{ type = "json", time = "ts", time_unit = "ms" }}
fields = {{ n = "i64" }}
[sink.out]
type = "file"
inputs = ["plant"]
path = {out:?}
"#,
        plant.port
    );
    std::fs::write(&pipeline, text).unwrap();
    let data = directory.path().join("data").display().to_string();
    for extra in [&["--data-dir", data.as_str()][..], &[]] {
        let _ = std::fs::remove_file(&out);
        let running = Running::start(&pipeline, extra);
        wait_for_rows(directory.path(), 3);
        drop(running);
        // For the next one they come again.
        plant.forget("plant/1");
    }
}
