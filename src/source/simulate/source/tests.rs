//! The `simulate` source: by the clock, as fast as it goes, resumed, and published to a real broker.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};

use super::SimulateConfig;
use crate::core::Position;
use crate::registry::{BatchLimits, BuiltSource, Checked, Context, NoFiles, SourceConfig, SourceOutput};
use crate::runtime::broker;
use crate::source::mqtt::MqttConfig;

fn build<C: SourceConfig>(body: &str, rows: usize) -> Checked<BuiltSource> {
    let batch = BatchLimits { rows, ..BatchLimits::default() };
    let context = Context { name: "plant", pipeline: "p", inputs: &[], files: &NoFiles, batch };
    let config: C = toml::from_str(body).unwrap();
    config.build(&context)
}

async fn all(
    body: &str,
    rows: usize,
    from: Option<&Position>,
) -> (Option<RecordBatch>, Vec<(usize, Position)>) {
    let mut source = build::<SimulateConfig>(body, rows).unwrap().source;
    source.open(from).await.unwrap();
    let (mut batches, mut positions, mut count) = (Vec::new(), Vec::new(), 0);
    while let Some(rows) = source.next().await.unwrap() {
        count += rows.batch.num_rows();
        batches.push(rows.batch);
        positions.push((count, rows.position));
    }
    let whole = batches.first().map(|first| concat_batches(&first.schema(), &batches).unwrap());
    (whole, positions)
}

const MAX: &str = r#"start = "2024-01-01T00:00:00Z"
speed = "max"
duration = "2s"
devices = 3
late = 0.2
delay_max = "300ms"
dropout = 0.1"#;

#[tokio::test]
async fn resuming_gives_what_an_undisturbed_run_gives() {
    let (whole, positions) = all(MAX, 7, None).await;
    let whole = whole.unwrap();
    assert!(whole.num_rows() > 40 && positions.len() > 5, "{}", whole.num_rows());
    let SourceOutput::Columns(schema) = build::<SimulateConfig>(MAX, 7).unwrap().output else { panic!() };
    assert_eq!(whole.schema(), schema);
    for (count, position) in positions {
        let (rest, _) = all(MAX, 100, Some(&position)).await;
        let expected = whole.slice(count, whole.num_rows() - count);
        assert_eq!(rest.unwrap_or_else(|| whole.slice(0, 0)), expected, "behind {count} rows");
    }
}

#[tokio::test]
async fn event_time_goes_by_the_clock() {
    let body = "speed = 4.0\nduration = \"2s\"\ndevices = 2";
    let built = build::<SimulateConfig>(body, 100).unwrap();
    assert!(!built.live && build::<SimulateConfig>("", 100).unwrap().live);
    let (mut source, started, before) = (built.source, Instant::now(), crate::clock::wall().0);
    source.open(None).await.unwrap();
    let (mut rows, mut batches) = (0, 0);
    while let Some(next) = source.next().await.unwrap() {
        let now = started.elapsed().as_micros() as i64;
        let times = next.batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let newest = times.values().iter().copied().max().unwrap();
        // The plant may have begun a little after `before`, and its times are cut to milliseconds.
        assert!(newest - before <= now * 4 + 500_000, "a row {newest} before its time");
        assert!(newest - before >= -1_000);
        rows += next.batch.num_rows();
        batches += 1;
    }
    assert_eq!(rows, 40);
    assert!(batches > 5, "{batches}");
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(450) && elapsed < Duration::from_secs(3), "{elapsed:?}");
}

#[tokio::test]
async fn a_dropped_call_loses_nothing() {
    let mut source = build::<SimulateConfig>(MAX, 5).unwrap().source;
    source.open(None).await.unwrap();
    let (mut batches, mut dropped) = (Vec::new(), 0);
    loop {
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => dropped += 1,
            rows = source.next() => match rows.unwrap() {
                Some(rows) => batches.push(rows.batch),
                None => break,
            }
        }
        assert!(dropped < 1_000_000);
    }
    let whole = all(MAX, 1000, None).await.0.unwrap();
    assert!(dropped > 0);
    assert_eq!(concat_batches(&whole.schema(), &batches).unwrap(), whole);
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn published_readings_reach_a_broker_whole_and_in_order() {
    let listen = free_port();
    let settings = broker::BrokerSettings {
        listen,
        listen_v5: None,
        packet_bytes_max: 1 << 20,
        connections_max: 8,
        inflight_max: 100,
    };
    broker::start(settings).unwrap();
    let url = format!("mqtt://{listen}");
    let mut reader =
        build::<MqttConfig>(&format!("url = {url:?}\ntopics = [\"plant/#\"]\nversion = \"3.1.1\""), 50);
    let reader = &mut reader.as_mut().unwrap().source;
    reader.open(None).await.unwrap();
    // Nothing is there yet; meanwhile it subscribes.
    assert!(tokio::time::timeout(Duration::from_millis(300), reader.next()).await.is_err());
    let body = format!(
        "start = \"2024-01-01T00:00:00Z\"\nspeed = \"max\"\nduration = \"20s\"\ndevices = 2\npayload = \"tags\"\n\
         publish = {url:?}"
    );
    let built = build::<SimulateConfig>(&body, 50).unwrap();
    assert!(built.notes[0].contains("no rows"));
    let mut fleet = built.source;
    fleet.open(None).await.unwrap();
    let published = tokio::spawn(async move {
        let end = fleet.next().await.unwrap();
        assert!(end.is_none());
        fleet
    });
    // 2 devices, 10 readings per second for 20 s, 5 signals each.
    let mut messages = Vec::new();
    while messages.len() < 2_000 {
        let rows =
            tokio::time::timeout(Duration::from_secs(4), reader.next()).await.unwrap().unwrap().unwrap();
        reader.acknowledge(&rows.position).await.unwrap();
        let topics = rows.batch.column(0).as_dictionary::<Int32Type>();
        let payloads = rows.batch.column(1).as_binary::<i32>();
        for row in 0..rows.batch.num_rows() {
            let name = topics.values().as_string::<i32>().value(topics.keys().value(row) as usize);
            messages.push((name.to_owned(), String::from_utf8(payloads.value(row).to_vec()).unwrap()));
        }
    }
    published.await.unwrap().close().await;
    let first: Vec<_> = messages.iter().filter(|(topic, _)| topic == "plant/line-1/press-01/temp").collect();
    assert_eq!(first.len(), 200);
    let times = first.iter().map(|(_, payload)| {
        serde_json::from_str::<serde_json::Value>(payload).unwrap()["ts"].as_i64().unwrap()
    });
    assert!(times.is_sorted());
}

#[test]
fn examples_and_mistakes() {
    for example in SimulateConfig::EXAMPLES {
        assert!(build::<SimulateConfig>(example, 10).is_ok(), "{example}");
    }
    let cases: [(&str, &[(&str, &str)]); 8] = [
        ("start = \"yesterday\"", &[("start", "neither")]),
        ("devices = 0", &[("devices", "out of range")]),
        ("late = 0.5", &[("late", "")]),
        ("delay_max = \"2h\"", &[("delay_max", "delay_max (in milliseconds) = 7200000")]),
        (
            "random_faults = { warm_up = \"400d\", duration_min = \"8d\" }",
            &[("random_faults.duration_min", "out of range")],
        ),
        ("username = \"u\"\npayload = \"csv\"", &[("username", "goes with"), ("payload", "goes with")]),
        ("publish = \"http://x\"", &[("publish", "not the url")]),
        (
            "publish = \"mqtt://x\"\nca = \"c\"\npassword = { env = \"P\" }",
            &[("ca", "TLS"), ("password", "username")],
        ),
    ];
    for (body, expected) in cases {
        let problems = build::<SimulateConfig>(body, 10).map(|_| ()).unwrap_err();
        assert_eq!(problems.len(), expected.len(), "{body}: {problems:?}");
        for (problem, (path, part)) in problems.iter().zip(expected) {
            assert!(problem.path == *path && problem.message.contains(part), "{body}: {problem:?}");
        }
    }
    for (text, fine) in [("0", false), ("\"max\"", true), ("60", true), ("\"fast\"", false), ("true", false)]
    {
        let parsed = toml::from_str::<SimulateConfig>(&format!("speed = {text}"));
        assert_eq!(parsed.is_ok(), fine, "{text}");
    }
}
