//! The `mqtt_listen` source with real clients: rumqttc, Mosquitto's, and sensors that outlive a power cut.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions};
use tidegate::source::mqtt_listen::MqttListenConfig;

use crate::mqtt::{certificates, rows};
use crate::sensor::Sensor;
use crate::support::{
    Running, build_source, free_port, lines, metric, publish_packet, read_packet, series, soon,
};

/// Topic and payload of each row.
type Rows = Vec<(String, Vec<u8>)>;
type Counts = BTreeMap<String, u64>;

/// An open source that is listened to: rows are safe as soon as they come.
struct Door {
    port: u16,
    rows: Arc<Mutex<Rows>>,
    counts: Arc<Mutex<Counts>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    async fn open(table: &str) -> Self {
        let port = free_port();
        let text = format!("listen = \"127.0.0.1:{port}\"\ntopics = [\"plant/{{device}}\"]\n{table}");
        let mut source = build_source::<MqttListenConfig>(&text).source;
        source.open(None).await.unwrap();
        let (rows, counts) = (Arc::<Mutex<Rows>>::default(), Arc::<Mutex<Counts>>::default());
        let (into, counting) = (Arc::clone(&rows), Arc::clone(&counts));
        let task = tokio::spawn(async move {
            loop {
                let next = tokio::time::timeout(Duration::from_millis(20), source.next()).await;
                for (count, by) in source.take_counts() {
                    let name = format!("{} {}", count.what, count.reason).trim().to_owned();
                    *counting.lock().unwrap().entry(name).or_default() += by;
                }
                if let Ok(next) = next {
                    let next = next.unwrap().unwrap();
                    into.lock().unwrap().extend(self::rows(&next.batch));
                    source.acknowledge(&next.position).await.unwrap();
                }
            }
        });
        Self { port, rows, counts, task }
    }

    async fn wait_for_rows(&self, count: usize) {
        let wait = async {
            while self.rows.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("rows", wait).await;
    }

    async fn wait_for_count(&self, name: &str, count: u64) {
        let wait = async {
            while self.counts.lock().unwrap().get(name).copied().unwrap_or(0) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(name, wait).await;
    }

    fn take_rows(&self) -> Rows {
        std::mem::take(&mut self.rows.lock().unwrap())
    }
}

/// Payloads as numbers, in the order they came.
fn numbers(rows: &[(String, Vec<u8>)]) -> Vec<u32> {
    rows.iter().map(|(_, payload)| std::str::from_utf8(payload).unwrap().trim().parse().unwrap()).collect()
}

async fn publish_with_version_4(port: u16, quality: u8, count: u32) {
    let mut options = MqttOptions::new(format!("four-{quality}"), "127.0.0.1", port);
    options.set_clean_session(false).set_inflight(50);
    let (client, mut events) = AsyncClient::new(options, 16);
    let quality_of = rumqttc::qos(quality).unwrap();
    let sending = async {
        for number in 0..count {
            client.publish("plant/four", quality_of, true, number.to_string()).await.unwrap();
        }
    };
    let polling = async {
        let mut answered = 0;
        while answered < count {
            match events.poll().await.unwrap() {
                Event::Incoming(Incoming::PubAck(_)) if quality == 1 => answered += 1,
                Event::Incoming(Incoming::PubComp(_)) if quality == 2 => answered += 1,
                Event::Outgoing(rumqttc::Outgoing::Publish(_)) if quality == 0 => answered += 1,
                _ => {}
            }
        }
    };
    soon("answers", async { tokio::join!(sending, polling) }).await;
    client.disconnect().await.unwrap();
    while events.poll().await.is_ok() {}
}

async fn publish_with_version_5(port: u16, quality: u8, count: u32) {
    use rumqttc::v5::{self, mqttbytes::v5::Packet};
    let mut options = v5::MqttOptions::new(format!("five-{quality}"), "127.0.0.1", port);
    options.set_clean_start(false).set_session_expiry_interval(Some(60));
    let (client, mut events) = v5::AsyncClient::new(options, 16);
    let quality_of = v5::mqttbytes::qos(quality).unwrap();
    let sending = async {
        for number in 0..count {
            client.publish("plant/five", quality_of, true, number.to_string()).await.unwrap();
        }
    };
    let polling = async {
        let mut answered = 0;
        while answered < count {
            match events.poll().await.unwrap() {
                v5::Event::Incoming(Packet::PubAck(_)) if quality == 1 => answered += 1,
                v5::Event::Incoming(Packet::PubComp(_)) if quality == 2 => answered += 1,
                v5::Event::Outgoing(rumqttc::Outgoing::Publish(_)) if quality == 0 => answered += 1,
                _ => {}
            }
        }
    };
    soon("answers", async { tokio::join!(sending, polling) }).await;
    client.disconnect().await.unwrap();
    while events.poll().await.is_ok() {}
}

#[tokio::test]
async fn both_versions_on_one_port_at_every_quality() {
    let door = Door::open("anonymous = true\nin_flight = 20").await;
    for quality in 0..=2 {
        publish_with_version_4(door.port, quality, 500).await;
        publish_with_version_5(door.port, quality, 500).await;
        door.wait_for_rows(1000).await;
        let rows = door.take_rows();
        for topic in ["plant/four", "plant/five"] {
            let of: Vec<_> = rows.iter().filter(|(name, _)| name == topic).cloned().collect();
            assert_eq!(numbers(&of), (0..500).collect::<Vec<_>>(), "QoS {quality}, {topic}");
        }
    }
    let counts = door.counts.lock().unwrap().clone();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["connections"], "{counts:?}");
}

/// Mosquitto's client, each line of the input one message; `None`, said on standard error, where it is not installed.
fn mosquitto_pub(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    // It tries for ever where a connection breaks off.
    let child = Command::new("timeout")
        .args(["5", "mosquitto_pub", "-h", "localhost", "-t", "plant/mosquitto", "-l"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    match child {
        Ok(mut child) => {
            // It may be gone before it has read everything.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            let output = child.wait_with_output().unwrap();
            if output.status.code() == Some(127) {
                assert!(std::env::var_os("TIDEGATE_REQUIRE_MOSQUITTO").is_none(), "no mosquitto_pub");
                eprintln!("skipped: mosquitto_pub is not installed");
                return None;
            }
            Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
        }
        Err(error) => panic!("timeout: {error}"),
    }
}

/// The same beside the source.
async fn mosquitto(port: u16, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let port = port.to_string();
    let mut all: Vec<String> = vec!["-p".to_owned(), port];
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let input = input.to_owned();
    let run = move || mosquitto_pub(&all.iter().map(String::as_str).collect::<Vec<_>>(), &input);
    soon("mosquitto_pub", tokio::task::spawn_blocking(run)).await.unwrap()
}

#[tokio::test]
async fn mosquitto_publishes_at_every_quality_and_passwords_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "open sesame\n").unwrap();
    let door = Door::open(&format!("users = {{ press = {{ file = {secret:?} }} }}")).await;
    let input: String = (0..300).map(|number| format!("{number}\n")).collect();
    for version in ["311", "5"] {
        for quality in ["0", "1", "2"] {
            let arguments = ["-V", version, "-q", quality, "-u", "press", "-P", "open sesame"];
            let Some((good, said)) = mosquitto(door.port, &arguments, &input).await else { return };
            assert!(good, "{version} QoS {quality}: {said}");
            door.wait_for_rows(300).await;
            assert_eq!(numbers(&door.take_rows()), (0..300).collect::<Vec<_>>(), "{version} QoS {quality}");
        }
        for login in
            [vec![], vec!["-u", "press", "-P", "open barley"], vec!["-u", "oven", "-P", "open sesame"]]
        {
            let arguments: Vec<&str> = ["-V", version, "-q", "1"].into_iter().chain(login).collect();
            let (good, said) = mosquitto(door.port, &arguments, "1\n").await.unwrap();
            assert!(!good, "{arguments:?}: {said}");
        }
    }
    door.wait_for_count("disconnects bad_login", 6).await;
    assert!(door.take_rows().is_empty());
}

#[tokio::test]
async fn tls_asks_for_the_right_certificates() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path(), "");
    certificates(directory.path(), "other-");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let door = Door::open(&format!(
        "certificate = {:?}\nkey = {:?}\nclient_ca = {:?}",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    ))
    .await;
    let (ca, other_ca) = (path("ca.pem"), path("other-ca.pem"));
    let (cert, key) = (path("client.pem"), path("client.key"));
    let (other_cert, other_key) = (path("other-client.pem"), path("other-client.key"));
    let right = ["-q", "1", "--cafile", &ca, "--cert", &cert, "--key", &key];
    let Some((good, said)) = mosquitto(door.port, &right, "1\n2\n").await else { return };
    assert!(good, "{said}");
    door.wait_for_rows(2).await;
    for (why, arguments) in [
        ("another authority", vec!["--cafile", &*other_ca, "--cert", &cert, "--key", &key]),
        ("no client certificate", vec!["--cafile", &ca]),
        (
            "a certificate of another authority",
            vec!["--cafile", &ca, "--cert", &other_cert, "--key", &other_key],
        ),
        ("no TLS", vec![]),
    ] {
        let arguments: Vec<&str> = ["-q", "1", "-V", "5"].into_iter().chain(arguments).collect();
        let (good, said) = mosquitto(door.port, &arguments, "3\n").await.unwrap();
        assert!(!good, "{why}: {said}");
    }
    door.wait_for_count("refused_connections tls", 4).await;
    assert_eq!(numbers(&door.take_rows()), [1, 2]);
}

/// A connection by hand; what is said, and what is answered until it is closed or enough.
struct Hand(TcpStream);

impl Hand {
    fn connect(port: u16, client: &str, keep_alive: u8) -> Self {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes =
            vec![0x10, 13 + client.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, keep_alive, 0];
        bytes.extend([0, client.len() as u8]);
        bytes.extend(client.as_bytes());
        stream.write_all(&bytes).unwrap();
        let mut hand = Self(stream);
        assert_eq!(hand.answer().unwrap().0, 0x20);
        hand
    }

    fn answer(&mut self) -> Option<(u8, Vec<u8>)> {
        read_packet(&mut self.0).ok()
    }

    /// The last word of the other side.
    fn last_word(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        rest
    }
}

#[tokio::test]
async fn foul_clients_are_closed_with_a_reason_and_nobody_else_notices() {
    let door =
        Door::open("anonymous = true\npacket_size = \"4KiB\"\nclients = 3\nconnect_timeout = \"300ms\"")
            .await;
    let port = door.port;
    let by_hand = move || {
        // A version 5 PUBLISH has its properties between identifier and payload: none.
        let packet = |id, payload: &[u8]| publish_packet(b"plant/1", id, &[&[0], payload].concat());
        let mut good = Hand::connect(port, "good", 0);
        let first = Hand::connect(port, "twin", 0);
        let mut second = Hand::connect(port, "twin", 0);
        assert_eq!(first.last_word(), [0xe0, 1, 0x8e], "taken over");
        second.0.write_all(&packet(1, &vec![b'x'; 5000])).unwrap();
        assert_eq!(second.last_word(), [0xe0, 1, 0x95], "too large");
        let mut cut = Hand::connect(port, "cut", 1);
        let whole = packet(1, b"whole");
        cut.0.write_all(&whole[..whole.len() - 1]).unwrap();
        drop(cut);
        let mut cut = Hand::connect(port, "cut", 1);
        cut.0.write_all(&whole).unwrap();
        assert_eq!(cut.answer(), Some((0x40, vec![0, 1])));
        assert_eq!(
            cut.last_word(),
            [0xe0, 1, 0x8d],
            "quiet for more than one and a half times its keep-alive"
        );
        let mute = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let mut rest = Vec::new();
        let begun = Instant::now();
        (&mute).read_to_end(&mut rest).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(290) && rest.is_empty());
        good.0.write_all(&packet(7, b"good")).unwrap();
        assert_eq!(good.answer(), Some((0x40, vec![0, 7])), "all the while nobody else noticed");
    };
    soon("conversations", tokio::task::spawn_blocking(by_hand)).await.unwrap();
    for (name, by) in [
        ("disconnects taken_over", 1),
        ("disconnects packet_too_large", 1),
        // The one that was cut off; the good one does not say good-bye either.
        ("disconnects connection_lost", 2),
        ("disconnects keep_alive", 2),
    ] {
        door.wait_for_count(name, by).await;
    }
    let payloads: Vec<_> = door.take_rows().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, [b"whole".to_vec(), b"good".to_vec()]);
}

#[tokio::test]
async fn there_is_room_for_so_many_clients_and_a_stopped_pipeline_says_good_bye() {
    let port = free_port();
    let mut source = build_source::<MqttListenConfig>(&format!(
        "listen = \"127.0.0.1:{port}\"\ntopics = [\"#\"]\nanonymous = true\nclients = 2"
    ));
    let listening = source.connected.take().unwrap();
    let mut source = source.source;
    source.open(None).await.unwrap();
    assert!(listening.load(Ordering::Relaxed));
    let by_hand = tokio::task::spawn_blocking(move || {
        let pair = (Hand::connect(port, "one", 60), Hand::connect(port, "two", 60));
        let mut third = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        third.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(matches!(third.read(&mut [0; 8]), Ok(0) | Err(_)), "there is no room");
        pair
    });
    let driving = async {
        loop {
            assert!(source.next().await.unwrap().is_none(), "nobody says anything");
        }
    };
    let (one, two) = tokio::select! {
        pair = soon("three connections", by_hand) => pair.unwrap(),
        () = driving => unreachable!(),
    };
    soon("the end", source.close()).await;
    assert!(!listening.load(Ordering::Relaxed));
    for hand in [one, two] {
        assert_eq!(hand.last_word(), [0xe0, 1, 0x8b]);
    }
    let refused: u64 = source
        .take_counts()
        .iter()
        .filter(|(count, _)| (count.what, count.reason) == ("refused_connections", "too_many_clients"))
        .map(|(_, by)| by)
        .sum();
    assert_eq!(refused, 1);
    // The port is free again, and the next one goes on.
    source.open(None).await.unwrap();
}

const DOOR: &str = r#"
[pipeline]
name = "door"
checkpoint = "200ms"

[source.plant]
type = "mqtt_listen"
listen = "127.0.0.1:PORT"
anonymous = true
topics = ["plant/{device}"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { n = "i64" }
event_time = { lateness = "1h", ahead = "3650d" }

[operator.once]
type = "dedup"
inputs = ["plant"]
by = ["device", "n"]
horizon = "10h"

[sink.all]
type = "file"
inputs = ["plant"]
path = "OUT/all.ndjson"

[sink.deduped]
type = "file"
inputs = ["once"]
path = "OUT/once.ndjson"
"#;

/// How often each message of a device is in a file.
fn taken(path: &Path) -> BTreeMap<(String, u64), u64> {
    let mut taken = BTreeMap::new();
    for row in lines(path) {
        let device = row["device"].as_str().unwrap().to_owned();
        *taken.entry((device, row["n"].as_u64().unwrap())).or_default() += 1;
    }
    taken
}

/// Messages of each sensor; a long run sets `TIDEGATE_MESSAGES`, its number of all messages.
fn messages() -> u64 {
    std::env::var("TIDEGATE_MESSAGES")
        .ok()
        .and_then(|count| count.parse::<u64>().ok())
        .map_or(3000, |all| all / 4)
}

#[test]
fn killed_again_and_again_it_has_every_acknowledged_message_and_those_of_quality_2_once() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let pipeline = directory.path().join("door.toml");
    let out = directory.path().display().to_string();
    std::fs::write(&pipeline, DOOR.replace("PORT", &port.to_string()).replace("OUT", &out)).unwrap();
    let data = directory.path().join("data").display().to_string();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut running = Running::start(&pipeline, &["--data-dir", &data]);
    let each = messages();
    let sensors: Vec<_> = (0..4)
        .map(|number| {
            let sensor = Sensor {
                name: format!("sensor-{number}"),
                quality: 1 + number % 2,
                numbers: 0..each,
                window: 100,
            };
            let acknowledged = Arc::clone(&acknowledged);
            std::thread::spawn(move || sensor.run(port, &acknowledged))
        })
        .collect();
    let begun = Instant::now();
    let kills = 8;
    for part in 1..=kills {
        while acknowledged.load(Ordering::Relaxed) < 4 * each * part / (kills + 1) {
            assert!(begun.elapsed() < Duration::from_secs(240), "the sensors stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
        running.kill();
        running = Running::start(&pipeline, &["--data-dir", &data]);
    }
    let outcomes: Vec<_> = sensors.into_iter().map(|sensor| sensor.join().unwrap()).collect();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(running.terminate(), Some(0));
    let again: u64 = outcomes.iter().map(|outcome| outcome.again).sum();
    let reconnects: u64 = outcomes.iter().map(|outcome| outcome.reconnects).sum();
    let (all, once) =
        (taken(&directory.path().join("all.ndjson")), taken(&directory.path().join("once.ndjson")));
    let repeated = all.values().filter(|count| **count > 1).count();
    println!(
        "{} messages of 4 sensors (2 at QoS 1, 2 at QoS 2), {kills} times killed in {seconds:.1} s, {reconnects} \
         reconnects, {again} packets sent again; {} rows before dedup ({repeated} messages twice), {} after",
        4 * each,
        all.values().sum::<u64>(),
        once.len()
    );
    for sensor in 0..4 {
        for number in 0..each {
            let key = (format!("sensor-{sensor}"), number);
            assert_eq!(once.get(&key), Some(&1), "{key:?} after dedup");
            let count = all.get(&key).copied().unwrap_or(0);
            assert!(count == 1 || (count > 1 && sensor % 2 == 0), "{key:?} came {count} times");
        }
    }
    assert!(reconnects >= 4 && again > 0, "the kills fell into the stream");
}

#[test]
fn what_is_refused_shows_in_the_metrics_without_any_message() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let pipeline = directory.path().join("door.toml");
    let out = directory.path().display().to_string();
    let text = DOOR.replace("PORT", &port.to_string()).replace("OUT", &out);
    std::fs::write(&pipeline, text.replace("anonymous = true", "users = { a = { env = \"PATH\" } }"))
        .unwrap();
    let running = Running::start(&pipeline, &[]);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0").unwrap();
    assert_eq!(read_packet(&mut stream).unwrap(), (0x20, vec![0, 4]));
    running.wait_for("a refusal", |metrics| {
        series(metrics, "tidegate_disconnects_total", &[("node", "plant"), ("reason", "bad_login")]) >= 1.0
            && metric(metrics, "tidegate_source_rows_total") == 0.0
    });
    assert_eq!(running.terminate(), Some(0));
}
