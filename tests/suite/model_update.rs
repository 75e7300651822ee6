//! Models replaced in the running program, by request, by file and by retained topic, while data flow.
//!
//! Whatever the way, every row must carry the score that `tidegate replay` gives it with the model that the row
//! names, and for each device the model must change once, at one row.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tidegate::model::ModelFile;

use crate::support::{Mosquitto, Running, free_port, lines, metric, series, text, tidegate};

const START_MS: u64 = 1_700_000_000_000;

/// Two columns that go together.
fn values(number: u64) -> (f64, f64) {
    let x = (number % 100) as f64 / 10.0;
    (x, 2.0 * x + (number * 7919 % 13) as f64 / 100.0)
}

fn payload(number: u64) -> String {
    let (a, b) = values(number);
    format!(r#"{{"ts":{},"n":{number},"a":{a},"b":{b}}}"#, START_MS + number)
}

fn topic(number: u64) -> String {
    format!("t/d{}", number % 3)
}

/// A directory with models, trained with different seeds, and a pipeline that scores by `current.tgm`, a copy of
/// the first.
struct Site {
    directory: tempfile::TempDir,
    models: Vec<Vec<u8>>,
    port: u16,
}

const MODEL_TOPIC: &str = "models/scored";

impl Site {
    fn new(models: usize, port: u16, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut table = "a,b,c\n".to_owned();
        for number in 0..600 {
            let (a, b) = values(number);
            table += &format!("{a},{b},{}\n", a + b);
        }
        std::fs::write(at("normal.csv"), &table).unwrap();
        let train = |columns: &str, seed: usize| {
            let (data, out, seed) = (at("normal.csv"), at("trained.tgm"), seed.to_string());
            let words = [
                "model",
                "train",
                &data,
                "--columns",
                columns,
                "--out",
                &out,
                "--seed",
                &seed,
                "--epochs",
                "4",
            ];
            let trained = tidegate(&words);
            assert!(trained.status.success(), "{}", text(&trained.stderr));
            std::fs::read(&out).unwrap()
        };
        let models: Vec<Vec<u8>> = (1..=models).map(|seed| train("a,b", seed)).collect();
        std::fs::write(at("current.tgm"), &models[0]).unwrap();
        // A model that wants a column that is not there.
        std::fs::write(at("other.tgm"), train("a,c", 1)).unwrap();
        let pipeline = format!(
            r#"
[pipeline]
name = "scoring"
checkpoint = "200ms"
log = {{ retain = "1h" }}
{more}
[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:{port}"
client_id = "scoring"
topics = ["t/{{device}}"]
format = {{ type = "json", time = "ts", time_unit = "ms" }}
fields = {{ n = "i64", a = "f64", b = "f64" }}
[operator.once]
type = "dedup"
inputs = ["plant"]
by = ["n"]
horizon = "1h"
[operator.scored]
type = "detect"
inputs = ["once"]
columns = ["a", "b"]
model = {{ file = {:?}, topic = "{MODEL_TOPIC}" }}
[sink.out]
type = "file"
inputs = ["scored"]
path = {:?}
"#,
            at("current.tgm"),
            at("scored.ndjson")
        );
        std::fs::write(at("scoring.toml"), pipeline).unwrap();
        Self { directory, models, port }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self) -> Running {
        let data = self.at("data").display().to_string();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.at("log")).unwrap();
        Running::start_logging(&self.at("scoring.toml"), &["--data-dir", &data], log.into())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap()
    }

    /// The number of a model as rows name it.
    fn short(&self, model: usize) -> String {
        ModelFile::read(&self.models[model]).unwrap().0.short()
    }

    /// Puts another file in the place of the model file, whole from one moment to the next.
    fn replace_file(&self, bytes: &[u8]) {
        std::fs::write(self.at("new.tgm"), bytes).unwrap();
        std::fs::rename(self.at("new.tgm"), self.at("current.tgm")).unwrap();
    }

    fn wait_for_model(&self, running: &Running, model: usize) {
        let short = self.short(model);
        let labels = [("node", "scored"), ("model", short.as_str())];
        running.wait_for("the model", |metrics| series(metrics, "tidegate_model_info", &labels) == 1.0);
    }

    fn post(&self, running: &Running, bytes: &[u8]) -> (u16, String) {
        running.request("POST", "/models/scored", bytes).unwrap()
    }

    /// A few rows more, so that every model gets some.
    fn rows_more(&self, running: &Running) {
        let rows = |metrics: &str| metric(metrics, "tidegate_sink_rows_total");
        let before = rows(&running.metrics());
        running.wait_for("more rows", |metrics| rows(metrics) >= before + 30.0);
    }

    /// What replay makes of the first rows with a model, by number.
    fn replayed(&self, rows: u64, model: usize) -> Vec<serde_json::Value> {
        let recorded: String =
            (0..rows).map(|number| format!("{} {}\n", topic(number), payload(number))).collect();
        std::fs::write(self.at("plant.messages"), recorded).unwrap();
        std::fs::write(self.at("candidate.tgm"), &self.models[model]).unwrap();
        let path = |name: &str| self.at(name).display().to_string();
        let replayed = tidegate(&[
            "replay",
            &path("scoring.toml"),
            "--input",
            &format!("plant={}", path("plant.messages")),
            "--out",
            &path("replayed"),
            "--set",
            &format!("operator.scored.model.file={}", path("candidate.tgm")),
        ]);
        assert!(replayed.status.success(), "{}", text(&replayed.stderr));
        let rows_out = lines(&self.at("replayed/out.ndjson"));
        assert_eq!(rows_out.len() as u64, rows);
        rows_out
    }

    /// The log gives every row again, bit for bit, with the models that came between; or all of them with another model.
    fn check_replay_of_log(&self, model: usize) {
        self.replace_file(&self.models[0]);
        std::fs::write(self.at("candidate.tgm"), &self.models[model]).unwrap();
        let path = |name: &str| self.at(name).display().to_string();
        let replay = |more: &[&str]| {
            let words = ["replay", &path("scoring.toml"), "--log", &path("data"), "--out", &path("again")];
            let replayed = tidegate(&[&words[..], more].concat());
            assert!(replayed.status.success(), "{}", text(&replayed.stderr));
            std::fs::read(self.at("again/out.ndjson")).unwrap()
        };
        let written = std::fs::read(self.at("scored.ndjson")).unwrap();
        let again = replay(&[]);
        assert!(written == again, "{} bytes written, {} replayed", written.len(), again.len());
        replay(&["--model", &format!("scored={}", path("candidate.tgm"))]);
        let rows = lines(&self.at("again/out.ndjson"));
        assert_eq!(rows.len(), lines(&self.at("scored.ndjson")).len());
        assert!(rows.iter().all(|row| row["model"] == self.short(model).as_str()));
    }

    /// Every row there once, scored by the model it names as replay scores it, the models in this order.
    fn check(&self, rows: u64, models: &[usize]) {
        let scored = lines(&self.at("scored.ndjson"));
        let mut numbers: Vec<u64> = scored.iter().map(|row| row["n"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..rows).collect::<Vec<_>>(), "every row once");
        let offline: BTreeMap<String, Vec<serde_json::Value>> =
            models.iter().map(|model| (self.short(*model), self.replayed(rows, *model))).collect();
        let mut changes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for row in &scored {
            let model = row["model"].as_str().unwrap();
            let expected = &offline[model][row["n"].as_u64().unwrap() as usize];
            assert_eq!(row, expected, "scored as by {model}");
            let seen = changes.entry(row["device"].as_str().unwrap()).or_default();
            if seen.last() != Some(&model) {
                seen.push(model);
            }
        }
        let order: Vec<String> = models.iter().map(|model| self.short(*model)).collect();
        assert_eq!(changes.len(), 3, "devices");
        for (device, seen) in changes {
            assert_eq!(seen, order, "{device}: each change once");
        }
        println!("{rows} rows, models {order:?}, all as replayed");
    }
}

/// Sends numbered rows, a few every two milliseconds, until told to stop; then gives their count.
struct Sender {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Sender {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(send(port, &told))
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn send(port: u16, stop: &AtomicBool) -> u64 {
    let (client, mut events) = AsyncClient::new(MqttOptions::new("sender", "127.0.0.1", port), 1000);
    let (mut sent, mut acknowledged) = (0, 0);
    // Bounded, should nobody ever tell it to stop.
    while acknowledged < sent || (!stop.load(Ordering::Relaxed) && sent < 60_000) {
        if !stop.load(Ordering::Relaxed) && sent < acknowledged + 50 {
            for number in sent..sent + 3 {
                client.publish(topic(number), QoS::AtLeastOnce, false, payload(number)).await.unwrap();
            }
            sent += 3;
        }
        let pause = tokio::time::Instant::now() + Duration::from_millis(2);
        while let Ok(event) = tokio::time::timeout_at(pause, events.poll()).await {
            if let Event::Incoming(Incoming::PubAck(_)) = event.unwrap() {
                acknowledged += 1;
            }
        }
    }
    sent
}

/// Publishes a retained message and waits for its acknowledgement.
fn publish_retained(port: u16, payload: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = MqttOptions::new("publisher", "127.0.0.1", port);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 10);
        client.publish(MODEL_TOPIC, QoS::AtLeastOnce, true, payload).await.unwrap();
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Incoming::PubAck(_))) {}
        // A broker forgets what a publisher that leaves at once has sent.
        let _ = tokio::time::timeout(Duration::from_millis(200), events.poll()).await;
    });
}

/// Files that no node may take, and a part of the reason that must be said.
fn bad_models(site: &Site) -> Vec<(Vec<u8>, &'static str)> {
    let good = &site.models[1];
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let mut failing = ModelFile::read(good).unwrap().1;
    failing.self_tests[0].score += 1e-6;
    vec![
        (b"hello".to_vec(), "not a model file"),
        (good[..good.len() - 1].to_vec(), "cut or has bytes too many"),
        (flipped, "does not match its checksum"),
        (std::fs::read(site.at("other.tgm")).unwrap(), "wants column \"c\" that the input does not have"),
        (failing.write().unwrap().1, "self-test vector 0"),
    ]
}

#[test]
fn models_come_by_request_topic_and_file_while_data_flow_and_bad_ones_change_nothing() {
    let port = free_port();
    let site = Site::new(4, port, &format!("[broker]\nlisten = \"127.0.0.1:{port}\""));
    let running = site.start();
    let sender = Sender::start(port);
    let refused = |running: &Running, origin: &str, count: usize| {
        let labels = [("node", "scored"), ("origin", origin)];
        let refused = |metrics: &str| series(metrics, "tidegate_models_refused_total", &labels) as usize;
        running.wait_for("a refusal", |metrics| refused(metrics) == count);
    };
    let bad = bad_models(&site);
    site.rows_more(&running);

    for ((bytes, reason), count) in bad.iter().zip(1..) {
        let (status, answer) = site.post(&running, bytes);
        assert_eq!(status, 422, "{answer}");
        let said: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert!(said["error"].as_str().unwrap().contains(reason), "{reason}: {answer}");
        refused(&running, "request", count);
    }
    assert_eq!(running.request("POST", "/models/other", &site.models[1]).unwrap().0, 404);
    site.wait_for_model(&running, 0);
    let (status, answer) = site.post(&running, &site.models[1]);
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = site.post(&running, &site.models[1]);
    assert_eq!(status, 409, "{answer}");
    site.wait_for_model(&running, 1);
    site.rows_more(&running);

    for ((bytes, _), count) in bad.iter().zip(1..) {
        publish_retained(port, bytes.clone());
        refused(&running, "topic", count);
    }
    publish_retained(port, site.models[2].clone());
    site.wait_for_model(&running, 2);
    site.rows_more(&running);

    for ((bytes, _), count) in bad.iter().zip(1..) {
        site.replace_file(bytes);
        refused(&running, "file", count);
    }
    site.replace_file(&site.models[3]);
    site.wait_for_model(&running, 3);
    site.rows_more(&running);

    let rows = sender.stop();
    running.wait_for("all rows", |metrics| metric(metrics, "tidegate_sink_rows_total") >= rows as f64);
    let applied = series(&running.metrics(), "tidegate_models_applied_total", &[("node", "scored")]);
    assert_eq!(running.terminate(), Some(0));
    assert_eq!(applied, 3.0);
    let log = site.log();
    for (_, reason) in &bad {
        // Log lines quote text with quotes in it.
        let reason = reason.replace('"', "\\\"");
        let said =
            log.lines().filter(|line| line.contains("model refused") && line.contains(&reason)).count();
        assert_eq!(said, 2, "by topic and by file: {reason}\n{log}");
    }
    site.check(rows, &[0, 1, 2, 3]);
}

#[test]
fn after_a_power_cut_the_model_that_came_last_goes_on_whatever_file_and_topic_still_say() {
    let directory = tempfile::tempdir().unwrap();
    let Some(broker) = Mosquitto::start(directory.path(), "max_queued_messages 0") else { return };
    let site = Site::new(4, broker.port, "");
    let running = site.start();
    let sender = Sender::start(site.port);
    site.rows_more(&running);
    site.replace_file(&site.models[1]);
    site.wait_for_model(&running, 1);
    site.rows_more(&running);
    publish_retained(site.port, site.models[2].clone());
    site.wait_for_model(&running, 2);
    site.rows_more(&running);
    let (status, answer) = site.post(&running, &site.models[3]);
    assert_eq!(status, 200, "{answer}");
    running.kill();

    for _ in 0..2 {
        let running = site.start();
        site.wait_for_model(&running, 3);
        // The broker sends its retained message again.
        let labels = [("node", "scored"), ("origin", "topic")];
        let refused = |metrics: &str| series(metrics, "tidegate_models_refused_total", &labels);
        running.wait_for("the retained message", |metrics| refused(metrics) == 1.0);
        site.wait_for_model(&running, 3);
        site.rows_more(&running);
        running.kill();
    }
    let running = site.start();
    let rows = sender.stop();
    let all = |site: &Site| std::fs::read(site.at("scored.ndjson")).unwrap_or_default();
    running.wait_for("all rows", |_| memchr::memchr_iter(b'\n', &all(&site)).count() as u64 >= rows);
    assert_eq!(running.terminate(), Some(0));
    site.check(rows, &[0, 1, 2, 3]);
    let log = std::fs::read_to_string(site.at("log")).unwrap();
    assert!(log.contains("another one has come since"), "{log}");
    site.check_replay_of_log(2);
}

#[test]
fn after_a_power_cut_a_changed_file_is_heeded_and_a_broken_one_is_not() {
    let port = free_port();
    let site = Site::new(3, port, &format!("[broker]\nlisten = \"127.0.0.1:{port}\""));
    let running = site.start();
    let (status, answer) = site.post(&running, &site.models[1]);
    assert_eq!(status, 200, "{answer}");
    running.kill();
    site.replace_file(&site.models[2][..300]);
    let running = site.start();
    site.wait_for_model(&running, 1);
    running.kill();
    let log = site.log();
    assert!(log.contains("the model file is not taken; the saved one goes on"), "{log}");
    std::fs::remove_file(site.at("current.tgm")).unwrap();
    let running = site.start();
    site.wait_for_model(&running, 1);
    running.kill();
    site.replace_file(&site.models[2]);
    let running = site.start();
    site.wait_for_model(&running, 2);
    assert_eq!(running.terminate(), Some(0));

    // Without a saved model a broken file is an error, with a data directory and without.
    site.replace_file(&site.models[2][..300]);
    let (pipeline, fresh) =
        (site.at("scoring.toml").display().to_string(), site.at("fresh").display().to_string());
    for extra in [&["run", &pipeline, "--data-dir", &fresh][..], &["run", &pipeline], &["check", &pipeline]] {
        let ran = tidegate(extra);
        let said = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{extra:?}: {said}");
        assert!(said.contains("cut or has bytes too many"), "{extra:?}: {said}");
    }
}
