//! The program as its user runs it: a process of its own, with real signals, sockets and files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};

use crate::support::{Message, Mosquitto, Plant, Running, free_port, lines, text, tidegate};

const DEVICES: u64 = 1000;
const START_MS: u64 = 1_700_000_000_000;

/// Publishes numbered readings of a thousand devices at QoS 1, and one far ahead that closes all windows.
fn publish(port: u16, messages: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = MqttOptions::new("fleet", "127.0.0.1", port);
        options.set_inflight(500);
        let (client, mut events) = AsyncClient::new(options, 1000);
        let sending = tokio::spawn(async move {
            for number in 0..=messages {
                // One millisecond each; the last one a day later.
                let ts = START_MS + number + if number == messages { 86_400_000 } else { 0 };
                let (device, seq) = (number % DEVICES, number / DEVICES);
                let topic = format!("plant/line-{}/device-{device:03}/telemetry", device % 10);
                let payload = format!(r#"{{"ts":{ts},"seq":{seq},"value":{}}}"#, number % 97);
                client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
            }
            client
        });
        let mut acknowledged = 0;
        while acknowledged <= messages {
            if let Event::Incoming(Incoming::PubAck(_)) = events.poll().await.unwrap() {
                acknowledged += 1;
            }
        }
        drop(sending.await.unwrap());
    });
}

const FLEET: &str = r#"
[pipeline]
name = "fleet"
checkpoint = "300ms"

[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:PORT"
client_id = "fleet-gateway"
topics = ["plant/{line}/{device}/telemetry"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { seq = "i64", value = "f64" }
event_time = { lateness = "10s", ahead = "3650d" }

[operator.once]
type = "dedup"
inputs = ["plant"]
by = ["device", "seq"]
horizon = "1h"

[operator.windows]
type = "window"
inputs = ["once"]
size = "5s"
by = ["line"]
columns = { value = ["sum", "count"] }

[sink.rows]
type = "file"
inputs = ["once"]
path = "OUT/rows.ndjson"

[sink.windows-file]
type = "file"
inputs = ["windows"]
path = "OUT/windows.ndjson"
"#;

/// What the windows must be, computed from the messages alone.
fn expected_windows(messages: u64) -> BTreeMap<(u64, u64), (u64, u64)> {
    let mut windows = BTreeMap::new();
    for number in 0..messages {
        let window = (START_MS + number) / 5000;
        let entry = windows.entry((window, number % DEVICES % 10)).or_insert((0, 0));
        *entry = (entry.0 + 1, entry.1 + number % 97);
    }
    windows
}

fn check_fleet(directory: &Path, messages: u64, at_least_once: bool) {
    let rows = lines(&directory.join("rows.ndjson"));
    let distinct: BTreeSet<(String, i64)> = rows
        .iter()
        .map(|row| (row["device"].as_str().unwrap().to_owned(), row["seq"].as_i64().unwrap()))
        .collect();
    println!("{messages} messages published, {} rows, {} distinct ids", rows.len(), distinct.len());
    assert_eq!(distinct.len() as u64, messages + 1, "every message, and the one that closes the windows");
    assert_eq!(rows.len(), distinct.len(), "none twice (at least once: {at_least_once})");
    let mut windows = BTreeMap::new();
    for row in lines(&directory.join("windows.ndjson")) {
        let end = row["window_end"].as_str().unwrap();
        let end = tidegate::codec::timestamp::parse_rfc3339(end.as_bytes()).unwrap() as u64 / 5_000_000;
        let line: u64 = row["line"].as_str().unwrap().trim_start_matches("line-").parse().unwrap();
        let counted = (row["value_count"].as_u64().unwrap(), row["value_sum"].as_f64().unwrap() as u64);
        assert!(windows.insert((end - 1, line), counted).is_none(), "a window came twice");
    }
    assert_eq!(windows, expected_windows(messages));
}

/// How many messages; a long run sets `TIDEGATE_MESSAGES=1000000`.
fn messages() -> u64 {
    std::env::var("TIDEGATE_MESSAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(40_000)
}

fn fleet_pipeline(directory: &Path, port: u16) -> std::path::PathBuf {
    let path = directory.join("fleet.toml");
    let out = directory.display().to_string();
    std::fs::write(&path, FLEET.replace("PORT", &port.to_string()).replace("OUT", &out)).unwrap();
    path
}

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
fn killed_again_and_again_it_loses_nothing_and_counts_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let settings = "max_queued_messages 0\nmax_inflight_messages 1000";
    let Some(broker) = Mosquitto::start(directory.path(), settings) else { return };
    println!("Mosquitto, {}", settings.replace('\n', ", "));
    let pipeline = fleet_pipeline(directory.path(), broker.port);
    let data = directory.path().join("data").display().to_string();
    let messages = messages();
    let started = Instant::now();
    let mut running = Running::start(&pipeline, &["--data-dir", &data]);
    let port = broker.port;
    let publisher = std::thread::spawn(move || publish(port, messages));
    for part in 1..=3 {
        wait_for_rows(directory.path(), messages * part / 5);
        running.kill();
        running = Running::start(&pipeline, &["--data-dir", &data]);
    }
    publisher.join().unwrap();
    wait_for_rows(directory.path(), messages + 1);
    println!("{:.0} messages/s, three times killed", messages as f64 / started.elapsed().as_secs_f64());
    // The windows are flushed with the next checkpoint.
    assert_eq!(running.terminate(), Some(0));
    check_fleet(directory.path(), messages, true);
}

#[test]
fn every_message_of_the_embedded_broker_arrives_once() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let pipeline = fleet_pipeline(directory.path(), port);
    let mut file = std::fs::OpenOptions::new().append(true).open(&pipeline).unwrap();
    write!(file, "\n[broker]\nlisten = \"127.0.0.1:{port}\"\n").unwrap();
    let data = directory.path().join("data").display().to_string();
    let messages = messages();
    let running = Running::start(&pipeline, &["--data-dir", &data]);
    let started = Instant::now();
    publish(port, messages);
    wait_for_rows(directory.path(), messages + 1);
    println!("rumqttd: {:.0} messages/s", messages as f64 / started.elapsed().as_secs_f64());
    assert_eq!(running.terminate(), Some(0));
    check_fleet(directory.path(), messages, false);
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
