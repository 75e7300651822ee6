//! The `mqtt` sink against a real broker, and against one that dies at the worst moments.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use bytes::BytesMut;
use rumqttc::{ConnAck, ConnectReturnCode, Packet, PubAck};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::MqttConfig;
use crate::core::{Attempt, DeliveryId, Epoch, Parcel, Peer, Sink, Source};
use crate::registry::{
    BatchLimits, Checked, Context, InputSchema, NoFiles, SinkConfig, SourceConfig, example_schema,
};
use crate::runtime::broker;
use crate::source;

fn build(body: &str, batch: &RecordBatch) -> Checked<Box<dyn Sink>> {
    let inputs = [InputSchema { name: "in".to_owned(), schema: batch.schema() }];
    let limits = BatchLimits::default();
    let context = Context { name: "cloud", pipeline: "p", inputs: &inputs, files: &NoFiles, batch: limits };
    toml::from_str::<MqttConfig>(body).unwrap().build(&context).map(|built| built.sink)
}

fn id(offset: u64) -> DeliveryId {
    DeliveryId { origin: "box/p/cloud".into(), offset, nth: 0 }
}

fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
    let names: ArrayRef =
        Arc::new(StringArray::from_iter_values(numbers.clone().map(|n| format!("d{}", n % 2))));
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
    RecordBatch::try_from_iter([("device", names), ("n", column)]).unwrap()
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn subscribe(body: &str) -> Box<dyn Source> {
    let limits = BatchLimits::default();
    let context = Context { name: "in", pipeline: "p", inputs: &[], files: &NoFiles, batch: limits };
    let config: source::mqtt::MqttConfig = toml::from_str(body).unwrap();
    let mut source = config.build(&context).unwrap().source;
    source.open(None).await.unwrap();
    source
}

/// The messages that come until there are `count`.
async fn messages(source: &mut dyn Source, count: usize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(3), source.next()).await;
        let rows = next.unwrap_or_else(|_| panic!("only {found:?}")).unwrap().unwrap();
        source.acknowledge(&rows.position).await.unwrap();
        let topics = rows.batch.column(0).as_dictionary::<Int32Type>();
        let payloads = rows.batch.column(1).as_binary::<i32>();
        for row in 0..rows.batch.num_rows() {
            let name = topics.values().as_string::<i32>().value(topics.keys().value(row) as usize);
            found.push((name.to_owned(), String::from_utf8_lossy(payloads.value(row)).into_owned()));
        }
    }
    found
}

#[tokio::test]
async fn rows_become_messages_on_a_real_broker_in_both_versions() {
    let (listen, listen_v5) = (free_port(), free_port());
    let settings = broker::BrokerSettings {
        listen,
        listen_v5: Some(listen_v5),
        packet_bytes_max: 1 << 20,
        connections_max: 20,
        inflight_max: 100,
    };
    broker::start(settings).unwrap();
    let mut reader =
        subscribe(&format!("url = \"mqtt://{listen}\"\nversion = \"3.1.1\"\ntopics = [\"out/#\"]")).await;
    // Nothing is there yet; meanwhile it subscribes.
    assert!(tokio::time::timeout(Duration::from_millis(300), reader.next()).await.is_err());
    let batch = rows(0..3);
    let cases = [
        // `auto` speaks 5 first, which this listener does not know.
        (
            listen,
            "",
            ["{\"device\":\"d0\",\"n\":0}", "{\"device\":\"d1\",\"n\":1}", "{\"device\":\"d0\",\"n\":2}"],
        ),
        (listen_v5, "version = \"5\"\npayload = \"{n}!\"", ["0!", "1!", "2!"]),
        (listen_v5, "qos = 0\npayload_column = \"device\"", ["d0", "d1", "d0"]),
    ];
    for (at, body, payloads) in cases {
        let text = format!("url = \"mqtt://{at}\"\ntopic = \"out/{{device}}\"\n{body}");
        let mut sink = build(&text, &batch).unwrap();
        sink.open(None).await.unwrap();
        sink.write(id(7), batch.clone()).await.unwrap();
        let position =
            tokio::time::timeout(Duration::from_secs(4), sink.flush(Epoch(1))).await.unwrap().unwrap();
        assert_eq!(position.0, "box/p/cloud/7-0");
        let mut found = messages(reader.as_mut(), 3).await;
        // The broker keeps order within a topic.
        found.sort_by_key(|(topic, _)| topic.clone());
        let expected = [("out/d0", payloads[0]), ("out/d0", payloads[2]), ("out/d1", payloads[1])];
        let found: Vec<_> = found.iter().map(|(topic, payload)| (topic.as_str(), payload.as_str())).collect();
        assert_eq!(found, expected, "{body}");
    }
}

/// What each connection of a test's broker received.
type Seen = Arc<Mutex<Vec<Vec<String>>>>;

/// A broker (3.1.1) that takes so many messages on each connection and acknowledges so many of them, then closes it.
/// Behind the script it takes and acknowledges everything.
async fn dying_broker(at: SocketAddr, script: Vec<(usize, usize)>, seen: Seen) {
    let listener = TcpListener::bind(at).await.unwrap();
    let mut script = script.into_iter();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (takes, acknowledges) = script.next().unwrap_or((usize::MAX, usize::MAX));
        seen.lock().unwrap().push(Vec::new());
        serve(stream, takes, acknowledges, &seen).await;
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    takes: usize,
    acknowledges: usize,
    seen: &Mutex<Vec<Vec<String>>>,
) {
    let (mut buffer, mut taken) = (BytesMut::new(), 0);
    while taken < takes {
        let Ok(packet) = Packet::read(&mut buffer, 1 << 20) else {
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => continue,
            }
        };
        let mut answer = BytesMut::new();
        match packet {
            Packet::Connect(_) => {
                ConnAck::new(ConnectReturnCode::Success, false).write(&mut answer).unwrap();
            }
            Packet::Publish(publish) => {
                let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                seen.lock().unwrap().last_mut().unwrap().push(payload);
                taken += 1;
                if taken <= acknowledges {
                    PubAck::new(publish.pkid).write(&mut answer).unwrap();
                }
            }
            Packet::Disconnect => seen.lock().unwrap().last_mut().unwrap().push("goodbye".to_owned()),
            _ => {}
        }
        if stream.write_all(&answer).await.is_err() {
            break;
        }
    }
    // Closed in peace, so that acknowledgements on their way arrive.
    let _ = stream.shutdown().await;
    buffer.clear();
    while stream.read_buf(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
        buffer.clear();
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_published_again_in_order() {
    let at = free_port();
    let batch = rows(0..40);
    let text = format!(
        "url = \"mqtt://{at}\"\nversion = \"3.1.1\"\ntopic = \"out\"\npayload = \"{{n}}\"\nin_flight = 5"
    );
    let mut sink = build(&text, &batch).unwrap();
    // The broker is away at the start.
    sink.open(None).await.unwrap();
    sink.write(id(1), batch).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), sink.flush(Epoch(1))).await;
    assert!(early.is_err(), "nothing is acknowledged, so nothing is safe");
    let seen = Seen::default();
    let script = vec![(0, 0), (5, 0), (12, 9), (3, 3)];
    let broker = tokio::spawn(dying_broker(at, script, seen.clone()));
    tokio::time::timeout(Duration::from_secs(4), sink.flush(Epoch(1))).await.unwrap().unwrap();
    broker.abort();
    let seen = seen.lock().unwrap().clone();
    assert!(seen.len() >= 5, "{seen:?}");
    // Each connection goes on, in order, with the first message that is not acknowledged.
    let mut first_open = 0;
    for (connection, acknowledged) in seen.iter().zip([0, 0, 9, 3, usize::MAX]) {
        let expected: Vec<String> =
            (first_open..first_open + connection.len()).map(|n| n.to_string()).collect();
        assert_eq!(*connection, expected);
        first_open += acknowledged.min(connection.len());
    }
    assert_eq!(first_open, 40);
}

#[tokio::test]
async fn a_message_too_large_is_dropped_and_the_others_go() {
    let at = free_port();
    let frames: ArrayRef =
        Arc::new(BinaryArray::from_opt_vec(vec![Some(b"a"), Some(&[b'x'; 2000]), None, Some(b"b")]));
    let batch = RecordBatch::try_from_iter_with_nullable([("frame", frames, true)]).unwrap();
    let text = format!(
        "url = \"mqtt://{at}\"\nversion = \"3.1.1\"\ntopic = \"out\"\npayload_column = \"frame\"\npacket_size = \"1KiB\""
    );
    let seen = Seen::default();
    let broker = tokio::spawn(dying_broker(at, Vec::new(), seen.clone()));
    let mut sink = build(&text, &batch).unwrap();
    sink.open(None).await.unwrap();
    sink.write(id(1), batch).await.unwrap();
    tokio::time::timeout(Duration::from_secs(4), sink.flush(Epoch(1))).await.unwrap().unwrap();
    broker.abort();
    assert_eq!(seen.lock().unwrap().concat(), ["a", "b"]);
}

#[tokio::test]
async fn a_full_queue_makes_the_pipeline_wait() {
    let at = free_port();
    let batch = rows(0..2_000);
    let text = format!("url = \"mqtt://{at}\"\nversion = \"3.1.1\"\ntopic = \"out\"\npayload = \"{{n}}\"");
    let mut sink = build(&text, &batch).unwrap();
    sink.open(None).await.unwrap();
    let (seen, mut write) = (Seen::default(), sink.write(id(1), batch));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut write).await;
    assert!(early.is_err(), "2000 messages are more than the queue holds");
    let broker = tokio::spawn(dying_broker(at, Vec::new(), seen.clone()));
    tokio::time::timeout(Duration::from_secs(4), write).await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(4), sink.flush(Epoch(1))).await.unwrap().unwrap();
    broker.abort();
    assert!(seen.lock().unwrap().concat().iter().map(|n| n.parse::<usize>().unwrap()).eq(0..2_000));
}

#[tokio::test]
async fn a_sink_that_is_dropped_says_goodbye() {
    let at = free_port();
    let batch = rows(0..1);
    let seen = Seen::default();
    let broker = tokio::spawn(dying_broker(at, Vec::new(), seen.clone()));
    let text = format!("url = \"mqtt://{at}\"\nversion = \"3.1.1\"\ntopic = \"out\"\npayload = \"{{n}}\"");
    let mut sink = build(&text, &batch).unwrap();
    sink.open(None).await.unwrap();
    sink.write(id(1), batch).await.unwrap();
    tokio::time::timeout(Duration::from_secs(4), sink.flush(Epoch(1))).await.unwrap().unwrap();
    drop(sink);
    for _ in 0..200 {
        if seen.lock().unwrap().concat().contains(&"goodbye".to_owned()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broker.abort();
    assert_eq!(seen.lock().unwrap().concat(), ["0", "goodbye"]);
}

#[tokio::test]
async fn tls_trusts_the_given_authority_and_nobody_else() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let (ca, wrong) = (write("ca.pem", made.cert.pem()), write("wrong.pem", stranger.cert.pem()));
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let acceptor = rumqttc::tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let received = seen.clone();
    let broker = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                received.lock().unwrap().push(Vec::new());
                serve(stream, usize::MAX, usize::MAX, &received).await;
            }
        }
    });
    let batch = rows(0..2);
    for (ca, trusted) in [(&wrong, false), (&ca, true)] {
        let text = format!(
            "url = \"mqtts://localhost:{port}\"\nversion = \"3.1.1\"\ntopic = \"out\"\npayload = \"{{n}}\"\nca = {ca:?}"
        );
        let mut sink = build(&text, &batch).unwrap();
        sink.open(None).await.unwrap();
        sink.write(id(1), batch.clone()).await.unwrap();
        let most = Duration::from_millis(if trusted { 4000 } else { 500 });
        let flushed = tokio::time::timeout(most, sink.flush(Epoch(1))).await;
        assert_eq!(flushed.is_ok(), trusted);
    }
    broker.abort();
    assert_eq!(seen.lock().unwrap().concat(), ["0", "1"]);
}

#[test]
fn examples_and_mistakes() {
    let example = RecordBatch::new_empty(example_schema());
    for body in MqttConfig::EXAMPLES {
        assert!(build(body, &example).is_ok(), "{body}");
    }
    let cases: [(&str, &[(&str, &str)]); 7] = [
        (
            "url = \"http://h\"\ntopic = \"a/+\"",
            &[("url", "not the url"), ("topic", "cannot be in the topic")],
        ),
        ("url = \"mqtt://h\"\ntopic = \"$SYS/x\"\nqos = 2", &[("qos", "0 or 1"), ("topic", "broker's own")]),
        ("url = \"mqtt://h\"\ntopic = \"a/{devic}\"", &[("topic", "\"devic\" does not exist")]),
        (
            "url = \"mqtt://h\"\ntopic = \"a/{payload}\"\npayload = \"{\"",
            &[("topic", "is bytes"), ("payload", "without its")],
        ),
        (
            "url = \"mqtt://h\"\ntopic = \"\"\npayload = \"x\"\npayload_column = \"note\"",
            &[("topic", "from 1"), ("payload_column", "together")],
        ),
        ("url = \"mqtt://h\"\ntopic = \"a\"\npayload_column = \"temp\"", &[("payload_column", "is number")]),
        (
            "url = \"mqtt://h\"\ntopic = \"a\"\nca = \"c\"\nclient_key = \"k\"\npassword = { env = \"P\" }\nkeep_alive = \"1s\"",
            &[
                ("ca", "TLS"),
                ("client_key", "TLS"),
                ("", "together"),
                ("password", "username"),
                ("keep_alive", "5s"),
            ],
        ),
    ];
    for (body, expected) in cases {
        let problems = build(body, &example).map(|_| ()).unwrap_err();
        assert_eq!(problems.len(), expected.len(), "{body}: {problems:?}");
        for (problem, (path, part)) in problems.iter().zip(expected) {
            assert!(problem.path == *path && problem.message.contains(part), "{body}: {problem:?}");
        }
    }
}

fn peer(body: &str, batch: &RecordBatch) -> Box<dyn Peer> {
    let inputs = [InputSchema { name: "in".to_owned(), schema: batch.schema() }];
    let limits = BatchLimits::default();
    let context = Context { name: "cloud", pipeline: "p", inputs: &inputs, files: &NoFiles, batch: limits };
    toml::from_str::<MqttConfig>(body).unwrap().build(&context).ok().and_then(|built| built.peer).unwrap()
}

#[tokio::test]
async fn a_peer_says_what_was_acknowledged_before_the_broker_went_and_sends_only_the_rest_again() {
    let at = free_port();
    let text = format!(
        "url = \"mqtt://{at}\"\nversion = \"3.1.1\"\ntopic = \"out\"\npayload = \"{{n}}\"\nin_flight = 5"
    );
    let mut peer = peer(&text, &rows(0..1));
    peer.open().await.unwrap();
    let mut parcels: Vec<Parcel> =
        (0..4).map(|n| Parcel::new(id(n), rows(10 * n as i64..10 * n as i64 + 10))).collect();
    // Nobody is there.
    let away = soon(peer.deliver(&mut parcels)).await.unwrap();
    assert!(matches!(away, Attempt::Away { .. }), "{away:?}");
    assert_eq!(parcels[0].settled, 0);
    let seen = Seen::default();
    let broker = tokio::spawn(dying_broker(at, vec![(16, 13), (0, 0)], seen.clone()));
    soon(peer.back()).await;
    let away = soon(peer.deliver(&mut parcels)).await.unwrap();
    assert!(matches!(away, Attempt::Away { .. }), "{away:?}");
    assert_eq!(parcels.iter().map(|parcel| parcel.settled).collect::<Vec<_>>(), [10, 3, 0, 0]);
    let mut attempt = away;
    while attempt != Attempt::Settled {
        soon(peer.back()).await;
        attempt = soon(peer.deliver(&mut parcels)).await.unwrap();
    }
    assert!(parcels.iter().all(|parcel| parcel.is_settled() && parcel.refused.is_empty()));
    broker.abort();
    let seen = seen.lock().unwrap().clone();
    let numbers = |range: std::ops::Range<i64>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(seen[0], numbers(0..16));
    assert_eq!(*seen.last().unwrap(), numbers(13..40));
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), future).await.unwrap()
}

#[tokio::test]
async fn a_peer_names_the_rows_that_cannot_go() {
    let at = free_port();
    let frames: ArrayRef =
        Arc::new(BinaryArray::from_opt_vec(vec![None, Some(b"a"), Some(&[b'x'; 2000]), Some(b"b"), None]));
    let batch = RecordBatch::try_from_iter_with_nullable([("frame", frames, true)]).unwrap();
    let text = format!(
        "url = \"mqtt://{at}\"\nversion = \"3.1.1\"\ntopic = \"out\"\npayload_column = \"frame\"\npacket_size = \"1KiB\""
    );
    let seen = Seen::default();
    let broker = tokio::spawn(dying_broker(at, Vec::new(), seen.clone()));
    let mut peer = peer(&text, &batch);
    peer.open().await.unwrap();
    let mut parcels = [Parcel::new(id(1), batch)];
    while soon(peer.deliver(&mut parcels)).await.unwrap() != Attempt::Settled {
        soon(peer.back()).await;
    }
    broker.abort();
    assert_eq!(seen.lock().unwrap().concat(), ["a", "b"]);
    let [refusal] = <[_; 1]>::try_from(parcels[0].refused.clone()).unwrap();
    assert_eq!((refusal.rows, refusal.status), (2..3, None));
    assert!(refusal.reason.contains("the largest packet 1024"), "{}", refusal.reason);
}

#[tokio::test]
async fn a_broker_of_version_5_that_may_not_take_a_message_says_so_and_gathered_rows_are_marked() {
    // CONNACK; then each PUBLISH is answered: with "not authorized" where it says it was replayed, else with success.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        assert!(stream.read(&mut bytes).await.unwrap() > 0);
        stream.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
        loop {
            let count = stream.read(&mut bytes).await.unwrap();
            if count == 0 {
                return;
            }
            let mut rest = &bytes[..count];
            // Short packets: one byte of length, the topic "out", the identifier behind it.
            while rest.len() > 8 && rest[0] & 0xf0 == 0x30 {
                let end = 2 + usize::from(rest[1]);
                let (packet, behind) = rest.split_at(end);
                let replayed = packet.windows(8).any(|part| part == b"replayed");
                let reason = if replayed { 0x87 } else { 0 };
                stream.write_all(&[0x40, 4, packet[7], packet[8], reason, 0]).await.unwrap();
                rest = behind;
            }
        }
    });
    let text = format!("url = \"mqtt://{at}\"\nversion = \"5\"\ntopic = \"out\"\npayload = \"{{n}}\"");
    let mut peer = peer(&text, &rows(0..1));
    peer.open().await.unwrap();
    let mut parcels =
        [Parcel::new(id(1), rows(0..2)), Parcel { replayed: true, ..Parcel::new(id(2), rows(2..3)) }];
    assert_eq!(soon(peer.deliver(&mut parcels)).await.unwrap(), Attempt::Settled);
    assert_eq!(parcels[0].refused, []);
    let [refusal] = <[_; 1]>::try_from(parcels[1].refused.clone()).unwrap();
    assert_eq!((refusal.rows, &*refusal.reason), (0..1, "NotAuthorized"));
}
