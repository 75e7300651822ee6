//! QoS 2 from a broker: every message once, without `dedup`, whatever is killed in the middle.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tidegate::runtime::broker::{self, BrokerSettings};

use crate::support::{Mosquitto, Running, free_port, series};

/// Publishes numbered messages at QoS 2 and counts those that are complete.
fn publish(port: u16, messages: u64, complete: &AtomicU64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = MqttOptions::new("publisher", "127.0.0.1", port);
        options.set_inflight(50);
        let (client, mut events) = AsyncClient::new(options, 100);
        let sending = tokio::spawn(async move {
            for n in 0..messages {
                let payload = format!("{{\"ts\":{},\"n\":{n}}}", 1_700_000_000_000 + n);
                client.publish("plant/one", QoS::ExactlyOnce, false, payload).await.unwrap();
            }
            client
        });
        while complete.load(Ordering::Relaxed) < messages {
            if let Event::Incoming(Incoming::PubComp(_)) = events.poll().await.unwrap() {
                complete.fetch_add(1, Ordering::Relaxed);
            }
        }
        drop(sending.await.unwrap());
    });
}

/// How often each number is in the sink's file, which may be in the middle of its last line.
fn taken(path: &Path) -> BTreeMap<u64, u64> {
    let mut taken = BTreeMap::new();
    let text = std::fs::read_to_string(path).unwrap_or_default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        *taken.entry(row["n"].as_u64().unwrap()).or_default() += 1;
    }
    taken
}

fn count_lines(path: &Path) -> u64 {
    memchr::memchr_iter(b'\n', &std::fs::read(path).unwrap_or_default()).count() as u64
}

/// Runs a pipeline over a broker and kills it a few times in the middle of the stream.
///
/// `keeps_identifiers`: whether the broker sends a message again under the identifier that it had, as it must.
fn killed_over(broker: &str, port: u16, version: &str, messages: u64, keeps_identifiers: bool) {
    let directory = tempfile::tempdir().unwrap();
    let rows = directory.path().join("rows.ndjson");
    let pipeline = directory.path().join("twice.toml");
    let text = format!(
        r#"
[pipeline]
name = "twice"
checkpoint = "200ms"
[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:{port}"
version = "{version}"
client_id = "gateway"
qos = 2
topics = ["plant/{{device}}"]
format = {{ type = "json", time = "ts", time_unit = "ms" }}
fields = {{ n = "i64" }}
event_time = {{ lateness = "1h", ahead = "3650d" }}
[sink.rows]
type = "file"
inputs = ["plant"]
path = {rows:?}
"#
    );
    std::fs::write(&pipeline, text).unwrap();
    let data = directory.path().join("data").display().to_string();
    let mut running = Running::start(&pipeline, &["--data-dir", &data]);
    let complete = Arc::new(AtomicU64::new(0));
    let publisher = {
        let complete = Arc::clone(&complete);
        std::thread::spawn(move || publish(port, messages, &complete))
    };
    let (begun, kills, mut repeated) = (Instant::now(), 5, 0.0);
    for part in 1..=kills {
        while count_lines(&rows) < messages * part / (kills + 1) {
            assert!(begun.elapsed() < Duration::from_secs(120), "{broker}: {} rows", count_lines(&rows));
            std::thread::sleep(Duration::from_millis(1));
        }
        repeated += series(&running.metrics(), "tidegate_repeated_messages_total", &[]);
        running.kill();
        running = Running::start(&pipeline, &["--data-dir", &data]);
    }
    publisher.join().unwrap();
    // Rows alone would not do: where messages come twice there are enough of them before the last one.
    while (taken(&rows).len() as u64) < messages {
        assert!(begun.elapsed() < Duration::from_secs(120), "{broker}: {} rows", count_lines(&rows));
        std::thread::sleep(Duration::from_millis(20));
    }
    repeated += series(&running.metrics(), "tidegate_repeated_messages_total", &[]);
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(running.terminate(), Some(0));
    let taken = taken(&rows);
    println!(
        "{broker}, MQTT {version}: {messages} messages at QoS 2, {kills} times killed in {seconds:.1} s; {} rows, {} \
         different, {repeated} sent again and recognised",
        taken.values().sum::<u64>(),
        taken.len()
    );
    assert_eq!(taken.len() as u64, messages, "{broker}: every message");
    let twice: Vec<_> = taken.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty() || !keeps_identifiers, "{broker}: none twice: {twice:?}");
}

#[test]
fn every_message_of_mosquitto_comes_once_whatever_is_killed() {
    for version in ["3.1.1", "5"] {
        let directory = tempfile::tempdir().unwrap();
        let settings = "max_queued_messages 0\nmax_inflight_messages 100";
        let Some(broker) = Mosquitto::start(directory.path(), settings) else { return };
        killed_over("Mosquitto", broker.port, version, 4000, true);
    }
}

#[test]
fn every_message_of_rumqttd_comes_whatever_is_killed() {
    let port = free_port();
    let settings = BrokerSettings { listen: (Ipv4Addr::LOCALHOST, port).into(), ..BrokerSettings::default() };
    broker::start(settings).unwrap();
    // After a lost connection it gives messages new identifiers, and nobody can tell them from new messages then.
    killed_over("rumqttd", port, "3.1.1", 4000, false);
}
