//! The log of a process that is killed and started again: looked at while it is written, verified, exported, and replayed
//! to the same bytes.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{Message, Plant, Running, metric, text, tidegate};

const MESSAGES: u64 = 6000;
const START_MS: u64 = 1_700_000_000_000;

const PIPELINE: &str = r#"
[pipeline]
name = "site"
checkpoint = "150ms"
log = { retain = "1h" }
batch = { rows = 100, age = "5ms" }

[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:PORT"
version = "3.1.1"
client_id = "site"
topics = ["plant/{device}"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { n = "i64", temp = "f64" }
event_time = { lateness = "1s", ahead = "3650d" }

[operator.windows]
type = "window"
inputs = ["plant"]
size = "200ms"
by = ["device"]
columns = { temp = ["mean", "std", "p99"], n = ["count"] }

[sink.rows]
type = "file"
inputs = ["plant"]
path = "OUT/rows.csv"

[sink.closed]
type = "file"
inputs = ["windows"]
path = "OUT/closed.ndjson"
"#;

fn message(n: u64) -> Message {
    let temp = 20.0 + (n * 7919 % 1000) as f64 / 100.0;
    Message::new(
        &format!("plant/device-{}", n % 10),
        format!(r#"{{"ts":{},"n":{n},"temp":{temp:.2}}}"#, START_MS + n),
    )
}

/// Runs the program, and gives what it wrote to standard output; it must end with this code.
fn run(words: &[&str], code: i32) -> String {
    let output = tidegate(words);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}{said}", text(&output.stdout));
    text(&output.stdout) + &said
}

/// What a file holds; a sink that had nothing to write has made none.
fn bytes(path: &Path) -> Vec<u8> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        outcome => outcome.unwrap(),
    }
}

#[test]
fn the_log_of_a_killed_process_replays_to_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let plant = Plant::start(vec![("plant/+", (0..MESSAGES).map(message).collect())]);
    let pipeline = PIPELINE.replace("PORT", &plant.port.to_string()).replace("OUT", &at("out"));
    std::fs::write(at("site.toml"), pipeline).unwrap();
    let (file, data) = (at("site.toml"), at("data"));
    let start = || Running::start(Path::new(&file), &["--data-dir", &data]);
    for part in [3, 2] {
        let running = start();
        let enough = MESSAGES / part;
        running.wait_for("a part of the messages", |metrics| {
            plant.acknowledged("plant/+") as u64 >= enough && metric(metrics, "tidegate_epoch") >= 1.0
        });
        running.kill();
    }

    // From the checkpoint before the kill: what a restart is about to write again, and no more.
    run(&["replay", &file, "--log", &data, "--out", &at("all")], 0);
    run(&["replay", &file, "--log", &data, "--from", "checkpoint", "--out", &at("behind")], 0);
    let (all, behind) = (
        bytes(&directory.path().join("all/closed.ndjson")),
        bytes(&directory.path().join("behind/closed.ndjson")),
    );
    assert!(all.ends_with(&behind) && !all.is_empty(), "{} and {} bytes", all.len(), behind.len());

    let running = start();
    running.wait_for("all acknowledgements", |_| plant.acknowledged("plant/+") as u64 == MESSAGES);
    // Looking at a log that is in use changes nothing for its writer.
    run(&["log", "verify", &data], 0);
    run(&["log", "show", &data], 0);
    let rows = |metrics: &str| metric(metrics, "tidegate_epoch");
    let epoch = rows(&running.metrics());
    running.wait_for("another checkpoint", |metrics| rows(metrics) > epoch || rows(metrics) >= 3.0);
    assert_eq!(running.terminate(), Some(0));

    run(&["replay", &file, "--log", &data, "--out", &at("again")], 0);
    for name in ["rows.csv", "closed.ndjson"] {
        let (written, again) = (
            bytes(&directory.path().join("out").join(name)),
            bytes(&directory.path().join("again").join(name)),
        );
        assert!(written.len() > 10_000, "{name}: {} bytes", written.len());
        assert!(written == again, "{name}: {} bytes written, {} replayed", written.len(), again.len());
    }

    let shown = run(&["log", "show", &data], 0);
    print!("{shown}");
    assert!(shown.contains("source plant: ") && shown.contains("% of its payload"), "{shown}");
    let records = run(&["log", "show", &data, "--records", "--from", "1", "--to", "4"], 0);
    assert_eq!(records.lines().count(), 3, "{records}");
    exports(&directory.path().join("data"), directory.path());
    damage_is_told(&directory.path().join("data"));
}

/// Every message, as it came; those that came twice, twice.
fn exports(data: &Path, out: &Path) {
    let (data, file) = (data.display().to_string(), out.join("plant.messages"));
    let said = run(&["log", "export", &data, "--format", "messages", "-o", &file.display().to_string()], 0);
    let exported = std::fs::read_to_string(&file).unwrap();
    assert!(said.contains(&format!("{} messages", exported.lines().count())), "{said}");
    let distinct: BTreeSet<&str> = exported.lines().collect();
    let first = r#"plant/device-0 {"ts":1700000000000,"n":0,"temp":20.00}"#;
    assert!(distinct.len() as u64 == MESSAGES && distinct.contains(first), "{}", distinct.len());
    let rows = run(&["log", "export", &data, "--source", "plant", "--format", "csv", "--to", "20"], 0);
    assert!(rows.starts_with("offset,arrival,topic,payload,payload_bytes\n"), "{rows}");
    let parquet = out.join("plant.parquet").display().to_string();
    run(&["log", "export", &data, "--format", "parquet", "-o", &parquet], 0);
    assert!(bytes(Path::new(&parquet)).ends_with(b"PAR1"));
    let none = run(&["log", "export", &data, "--source", "elsewhere"], 0);
    assert!(none.contains("no messages of a source `elsewhere`"), "{none}");
}

/// A flipped bit is found, with its place, and costs its block alone.
fn damage_is_told(data: &Path) {
    let log = data.join("site/log");
    let mut names: Vec<_> = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut first = bytes(&names[0]);
    let at = first.len() / 2;
    first[at] ^= 16;
    std::fs::write(&names[0], first).unwrap();
    let said = run(&["log", "verify", &data.display().to_string()], 1);
    assert!(said.contains("cannot be read") && said.contains(" at byte "), "{said}");
    let missing = run(&["log", "show", &log.display().to_string()], 0);
    assert!(missing.contains("damaged: `tidegate log verify` says where"), "{missing}");
    assert!(run(&["log", "show", "/nowhere/at/all"], 2).contains("there is no log in"));
}
