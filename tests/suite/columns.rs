//! Sources that do not say their columns: found at the start, kept, used again, and nothing lost by it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, MqttOptions, QoS};

use crate::support::{Mosquitto, free_port};

const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

fn tidegate(args: &[&str]) -> Output {
    Command::new(TIDEGATE).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running `tidegate`, killed with the value.
struct Running(Child);

impl Running {
    fn start(args: &[&str]) -> Self {
        Self(Command::new(TIDEGATE).args(args).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it as an operator would; gives the exit code and the log.
    fn terminate(mut self) -> (Option<i32>, String) {
        Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.0.wait().unwrap().code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Status and body of what the admin port answers.
fn request(admin: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, admin)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some((answer.split(' ').nth(1)?.parse().ok()?, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited half a minute for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn rows(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes a pipeline and `count` messages for it; gives the paths.
fn pipeline(directory: &Path, source: &str, count: u64) -> [String; 3] {
    let messages: String = (0..count)
        .map(|number| {
            format!("{{\"ts\":{},\"n\":{number},\"temp\":{}.5}}\n", 1_700_000_000_000 + number, number % 7)
        })
        .collect();
    let at = |name: &str| directory.join(name).display().to_string();
    std::fs::write(directory.join("plant.ndjson"), messages).unwrap();
    let file = format!(
        "[pipeline]\nname = \"found\"\n[source.plant]\n{}\nformat = {{ type = \"json\" }}\n[operator.warm]\ntype = \
         \"filter\"\ninputs = [\"plant\"]\nwhere = \"temp > -1\"\n[sink.rows]\ntype = \"file\"\ninputs = [\"warm\"]\n\
         path = \"{}\"\nexisting = \"replace\"\n",
        source.replace("FILE", &at("plant.ndjson")),
        at("rows.ndjson"),
    );
    std::fs::write(directory.join("found.toml"), file).unwrap();
    [at("found.toml"), at("plant.ndjson"), at("data")]
}

const FROM_FILE: &str = "type = \"file\"\npath = \"FILE\"";

#[test]
fn columns_are_found_kept_and_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let [file, messages, data] = pipeline(directory.path(), FROM_FILE, 500);
    let first = tidegate(&["run", &file, "--data-dir", &data]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(text(&first.stderr).contains("columns found"), "{}", text(&first.stderr));
    let found = rows(&directory.path().join("rows.ndjson"));
    assert_eq!(found.len(), 500, "the messages of the sample are rows too");
    assert_eq!(found[3]["time"], "2023-11-14T22:13:20.003000Z");
    assert_eq!((&found[3]["n"], &found[3]["temp"]), (&3.into(), &3.5.into()));

    // What is kept counts, whatever the next messages look like.
    let kept = directory.path().join("data/found/schema.json");
    let before = std::fs::read_to_string(&kept).unwrap();
    assert!(before.contains("\"version\": 1") && before.contains("\"temp\": \"f64\""), "{before}");
    std::fs::write(&messages, "{\"ts\":1700000000000,\"other\":1}\n").unwrap();
    let checked = tidegate(&["check", &file, "--data-dir", &data]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert!(!text(&checked.stderr).contains("columns are unknown"), "{}", text(&checked.stderr));
    std::fs::remove_dir_all(directory.path().join("data/found/checkpoint")).ok();
    let again = tidegate(&["run", &file, "--data-dir", &data]);
    assert!(!text(&again.stderr).contains("columns found"), "{}", text(&again.stderr));
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), before);

    for (damage, part) in [("{\"version\": 2}", "version 2"), ("{", "cannot be read")] {
        std::fs::write(&kept, damage).unwrap();
        for command in ["run", "check"] {
            let refused = tidegate(&[command, &file, "--data-dir", &data]);
            let log = text(&refused.stderr);
            assert!(!refused.status.success() && log.contains("schema.json"), "{log}");
            assert!(log.contains(part) && log.contains("remove the file"), "{log}");
        }
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), damage, "it is not overwritten");
    }
}

#[test]
fn columns_that_do_not_fit_the_pipeline_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let [file, messages, data] = pipeline(directory.path(), FROM_FILE, 3);
    std::fs::write(&messages, "{\"ts\":1700000000000,\"tmp\":1}\n").unwrap();
    let refused = tidegate(&["run", &file, "--data-dir", &data]);
    let log = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{log}");
    assert!(log.contains("column \"temp\" does not exist") && log.contains("did you mean \"tmp\"?"), "{log}");
    assert!(!directory.path().join("data/found/schema.json").exists());
    std::fs::write(&messages, "online\n").unwrap();
    let refused = tidegate(&["run", &file]);
    let log = text(&refused.stderr);
    assert!(refused.status.code() == Some(1) && log.contains("no columns found"), "{log}");
}

#[test]
fn check_says_what_is_unknown_and_takes_samples() {
    let directory = tempfile::tempdir().unwrap();
    let [file, messages, _] = pipeline(directory.path(), FROM_FILE, 50);
    let unknown = tidegate(&["check", &file]);
    let log = text(&unknown.stderr);
    assert!(unknown.status.success(), "{log}");
    assert!(log.contains("found.toml:6:") && log.contains("columns are unknown"), "{log}");
    assert!(log.contains("--sample") && log.contains("tidegate infer"), "{log}");
    assert!(text(&unknown.stdout).contains("as far as can be said"));
    for sample in [messages.clone(), format!("plant={messages}")] {
        let known = tidegate(&["check", &file, "--sample", &sample]);
        assert!(
            known.status.success() && text(&known.stdout).contains("is fine\n"),
            "{}",
            text(&known.stderr)
        );
    }
    let other = directory.path().join("other.txt").display().to_string();
    std::fs::write(&other, "plant/a {\"vib\":1.5}\n").unwrap();
    let wrong = tidegate(&["check", &file, "--sample", &other]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("column \"temp\" does not exist"), "{}", text(&wrong.stderr));
    for (sample, part) in [
        (format!("plnt={messages}"), "the sources without `fields` are: plant"),
        ("/nowhere.txt".to_owned(), "/nowhere.txt: No such file"),
        (file.clone(), "found.toml: none of"),
    ] {
        let wrong = tidegate(&["check", &file, "--sample", &sample]);
        assert!(
            wrong.status.code() == Some(2) && text(&wrong.stderr).contains(part),
            "{}",
            text(&wrong.stderr)
        );
    }
    // What can be found without columns is found.
    let text_of = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text_of.replace("[\"warm\"]", "[\"wram\"]").replace("where =", "were =")).unwrap();
    let wrong = tidegate(&["check", &file]);
    let log = text(&wrong.stderr);
    assert!(wrong.status.code() == Some(2) && log.contains("`wram`") && log.contains("`were`"), "{log}");
}

#[test]
fn check_prints_what_is_needed_and_refuses_what_cannot_keep_up() {
    let directory = tempfile::tempdir().unwrap();
    let source = "type = \"mqtt\"\nurl = \"mqtt://localhost\"\ntopics = [\"plant\"]\nclient_id = \"a\"";
    let [file, messages, data] = pipeline(directory.path(), source, 100);
    let sampled = ["check", &file, "--sample", &messages, "--rate", "1000"];
    let without_log = tidegate(&sampled);
    let log = text(&without_log.stderr);
    assert_eq!(without_log.status.code(), Some(2), "{log}");
    assert!(
        log.contains("1000 messages/s are more than can be acknowledged") && log.contains("at most 33"),
        "{log}"
    );
    let slower = tidegate(&["check", &file, "--sample", &messages, "--rate", "33"]);
    let said = text(&slower.stdout);
    assert!(slower.status.success() && said.contains("at most 33 messages/s"), "{said}");
    assert!(said.contains("outage: there is no log"), "{said}");
    let with_log = tidegate(&[&sampled[..], &["--data-dir", &data]].concat());
    let said = text(&with_log.stdout);
    assert!(with_log.status.success(), "{}", text(&with_log.stderr));
    assert!(
        said.contains("memory: messages at most") && said.contains("disk: log at most 256 MiB"),
        "{said}"
    );
    // 192 MiB ÷ (1000/s × (38 ÷ 4 + 3) B), and ÷ (1000/s × (38 + 6) B).
    assert!(said.contains("1000 messages/s of 38 B the log holds about 4.5 hours"), "{said}");
    assert!(said.contains("at least about 1.3 hours"), "{said}");
    // 1000/s × 12.3 B, and 50 syncs of 8 KiB a second beside them.
    assert!(said.contains("flash: the log writes about 367 GiB a year"), "{said}");
    assert!(said.contains("up to 50 syncs a second"), "{said}");
    let wrong = tidegate(&["check", &file, "--rate", "0"]);
    assert!(wrong.status.code() == Some(2) && text(&wrong.stderr).contains("above 0"));
}

#[test]
fn replay_finds_columns_in_what_is_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let source = "type = \"mqtt\"\nurl = \"mqtt://localhost\"\ntopics = [\"plant\"]";
    let [file, messages, _] = pipeline(directory.path(), source, 300);
    let out = directory.path().join("out").display().to_string();
    let replayed = tidegate(&["replay", &file, "--input", &format!("plant={messages}"), "--out", &out]);
    assert!(replayed.status.success(), "{}", text(&replayed.stderr));
    assert_eq!(rows(&directory.path().join("out/rows.ndjson")).len(), 300);
}

#[test]
fn a_pipeline_that_waits_says_so_holds_nobody_up_and_ends_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let source = format!("type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{}\"\ntopics = [\"plant\"]", free_port());
    let [file, ..] = pipeline(directory.path(), &source, 5);
    let other = directory.path().join("other.toml").display().to_string();
    let ready = std::fs::read_to_string(&file)
        .unwrap()
        .replace("\"found\"", "\"ready\"")
        .replace("format = { type = \"json\" }", "format = { type = \"json\" }\nfields = { temp = \"f64\" }");
    std::fs::write(&other, ready.replace("rows.ndjson", "others.ndjson")).unwrap();
    let admin = free_port();
    let running = Running::start(&["run", &file, &other, "--admin", &format!("127.0.0.1:{admin}")]);
    let health = || {
        let (_, text) = request(admin, "/health")?;
        serde_json::from_str::<serde_json::Value>(&text).ok()
    };
    wait_for("the ready one, first because it runs", || {
        health().is_some_and(|health| {
            let pipelines = &health["pipelines"];
            pipelines[0]["pipeline"] == "ready"
                && pipelines[0]["ready"] == true
                && pipelines[1]["pipeline"] == "found"
                && pipelines[1]["waits_for"] == "messages"
        })
    });
    assert_eq!(request(admin, "/ready").unwrap().0, 503);
    let told = Instant::now();
    let (code, log) = running.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(told.elapsed() < Duration::from_secs(9), "a wait for messages holds up the stop");
    assert_eq!(log.matches("waiting for the first message").count(), 1, "{log}");
}

/// Messages at QoS 0 that come while the columns are found are there afterwards.
#[test]
fn nothing_is_lost_at_qos_0() {
    let directory = tempfile::tempdir().unwrap();
    let Some(broker) = Mosquitto::start(directory.path(), "") else { return };
    let source =
        format!("type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{}\"\ntopics = [\"plant\"]\nqos = 0", broker.port);
    let [file, _, data] = pipeline(directory.path(), &source, 0);
    let admin = free_port();
    let address = format!("127.0.0.1:{admin}");
    let running = Running::start(&["run", &file, "--data-dir", &data, "--admin", &address]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, mut events) = AsyncClient::new(MqttOptions::new("plant", "127.0.0.1", broker.port), 100);
        let publishing = tokio::spawn(async move {
            // From before the subscription until after the start of the graph, two seconds after the first message.
            for number in 0u64.. {
                let payload =
                    format!("{{\"ts\":{},\"n\":{number},\"temp\":0.5}}", 1_700_000_000_000 + number);
                client.publish("plant", QoS::AtMostOnce, false, payload).await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
        let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
        let enough = move || {
            let metrics = request(admin, "/metrics").map(|(_, metrics)| metrics).unwrap_or_default();
            let rows = metrics.lines().find(|line| line.starts_with("tidegate_source_rows_total"));
            rows.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .is_some_and(|rows| rows > 130.0)
        };
        let waited = tokio::task::spawn_blocking(move || wait_for("rows", enough)).await;
        publishing.abort();
        polling.abort();
        waited.unwrap();
    });
    let (code, log) = running.terminate();
    assert_eq!(code, Some(0), "{log}");
    let numbers: Vec<u64> = rows(&directory.path().join("rows.ndjson"))
        .iter()
        .map(|row| row["n"].as_f64().unwrap() as u64)
        .collect();
    assert!(numbers.len() > 130, "{}", numbers.len());
    let expected: Vec<u64> = (numbers[0]..numbers[0] + numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "a gap or a repetition");
}
