//! The `mqtt` source against real brokers, and against a peer that does what no broker should.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tidegate::core::Source;
use tidegate::runtime::broker::{self, BrokerSettings};
use tidegate::source::mqtt::MqttConfig;

use crate::support::{Mosquitto, build_source, free_port, publish_packet, soon, wait_for_port};

fn source(table: &str) -> Box<dyn Source> {
    build_source::<MqttConfig>(table).source
}

/// Topic and payload of each row.
pub fn rows(batch: &RecordBatch) -> Vec<(String, Vec<u8>)> {
    let topics = batch.column(0).as_dictionary::<Int32Type>();
    let names: &StringArray = topics.values().as_string();
    let payloads = batch.column(1).as_binary::<i32>();
    (0..batch.num_rows())
        .map(|row| (names.value(topics.key(row).unwrap()).to_owned(), payloads.value(row).to_vec()))
        .collect()
}

/// Takes rows until there are `count`, acknowledging each batch.
async fn take(source: &mut dyn Source, count: usize) -> Vec<(String, Vec<u8>)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let next = soon("a batch", source.next()).await.unwrap().unwrap();
        taken.extend(rows(&next.batch));
        source.acknowledge(&next.position).await.unwrap();
    }
    taken
}

/// Publishes numbered messages at QoS 1 and waits until all are acknowledged.
async fn publish(port: u16, topic: &str, numbers: std::ops::Range<u32>) {
    let mut options = MqttOptions::new(format!("publisher-{}", numbers.start), "127.0.0.1", port);
    options.set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, 64);
    let count = numbers.len();
    let topic = topic.to_owned();
    let sending = tokio::spawn(async move {
        for number in numbers {
            client.publish(topic.as_str(), QoS::AtLeastOnce, false, number.to_string()).await.unwrap();
        }
        client
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        if let Event::Incoming(Incoming::PubAck(_)) = soon("a PUBACK", events.poll()).await.unwrap() {
            acknowledged += 1;
        }
    }
    sending.await.unwrap().disconnect().await.unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(200), events.poll()).await;
}

fn numbers(rows: &[(String, Vec<u8>)]) -> BTreeSet<u32> {
    rows.iter().map(|(_, payload)| String::from_utf8_lossy(payload).parse().unwrap()).collect()
}

#[tokio::test]
async fn every_message_arrives_from_the_embedded_broker_which_may_come_up_later() {
    let port = free_port();
    let mut source = source(&format!(
        r#"url = "mqtt://127.0.0.1:{port}"{}"#,
        "\ntopics = [\"plant/{line}/x\", \"other/{line}/#\"]"
    ));
    source.open(None).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), source.next()).await;
    assert!(early.is_err(), "there is no broker yet");
    let settings = BrokerSettings { listen: (Ipv4Addr::LOCALHOST, port).into(), ..BrokerSettings::default() };
    tokio::task::spawn_blocking(move || broker::start(settings)).await.unwrap().unwrap();
    // Messages before the subscription would be lost: the first one is sent until one arrives.
    let taken = soon("messages", async {
        let (first, _) = tokio::join!(take(source.as_mut(), 1), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            publish(port, "other/1/deep/er", 0..1).await;
        });
        first
    })
    .await;
    assert_eq!(taken, [("other/1/deep/er".to_owned(), b"0".to_vec())]);
    let (taken, ()) = tokio::join!(take(source.as_mut(), 5000), publish(port, "plant/1/x", 10..5010));
    assert_eq!(numbers(&taken), (10..5010).collect());
    assert!(taken.iter().all(|(topic, _)| topic == "plant/1/x"));
}

#[tokio::test]
async fn both_versions_are_spoken_and_a_session_is_kept_with_what_was_not_acknowledged() {
    for version in ["3.1.1", "5"] {
        let directory = tempfile::tempdir().unwrap();
        let Some(broker) = Mosquitto::start(directory.path(), "max_queued_messages 0") else { return };
        let port = broker.port;
        let table = format!(
            "url = \"mqtt://127.0.0.1:{port}\"\nclient_id = \"gateway\"\ntopics = [\"t\"]\nversion = \"{version}\""
        );
        let mut first = source(&table);
        first.open(None).await.unwrap();
        let (taken, ()) = tokio::join!(take(first.as_mut(), 1), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            publish(port, "t", 0..1).await;
        });
        assert_eq!(numbers(&taken), BTreeSet::from([0]));
        // Taken but not acknowledged: the broker must send it to the next connection again.
        let (unacknowledged, ()) = tokio::join!(
            async { soon("a batch", first.next()).await.unwrap().unwrap() },
            publish(port, "t", 1..2)
        );
        assert_eq!(numbers(&rows(&unacknowledged.batch)), BTreeSet::from([1]));
        drop(first);
        publish(port, "t", 2..1000).await;
        let mut second = source(&table);
        second.open(None).await.unwrap();
        let taken = take(second.as_mut(), 999).await;
        assert_eq!(numbers(&taken), (1..1000).collect(), "MQTT {version}");
        second.close().await;
    }
}

#[tokio::test]
async fn a_broker_that_restarts_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let Some(broker) = Mosquitto::start(directory.path(), "") else { return };
    let port = broker.port;
    let built = build_source::<MqttConfig>(&format!("url = \"mqtt://127.0.0.1:{port}\"\ntopics = [\"t\"]"));
    let (mut source, subscribed) = (built.source, built.connected.unwrap());
    source.open(None).await.unwrap();
    let wait_and_publish = |numbers| {
        let subscribed = subscribed.clone();
        async move {
            let wait = async {
                while !subscribed.load(std::sync::atomic::Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            soon("a subscription", wait).await;
            publish(port, "t", numbers).await;
        }
    };
    let (taken, ()) = tokio::join!(take(source.as_mut(), 10), wait_and_publish(0..10));
    assert_eq!(taken.len(), 10);
    broker.terminate();
    let gone = tokio::time::timeout(Duration::from_millis(500), source.next()).await;
    assert!(gone.is_err());
    let _broker = Mosquitto::start_on(port, directory.path(), "").unwrap();
    let (taken, ()) = tokio::join!(take(source.as_mut(), 10), wait_and_publish(10..20));
    assert_eq!(numbers(&taken), (10..20).collect());
    let reconnects: u64 =
        source.take_counts().iter().filter(|(count, _)| count.what == "reconnects").map(|(_, by)| by).sum();
    assert_eq!(reconnects, 1);
}

/// One authority, a certificate for the server and one for a client, as PEM files in a directory.
pub fn certificates(directory: &std::path::Path, prefix: &str) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write =
        |name: &str, text: String| std::fs::write(directory.join(format!("{prefix}{name}")), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, format!("{prefix}authority"));
    let certificate = authority.self_signed(&key).unwrap();
    write("ca.pem", certificate.pem());
    let issuer = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        write(&format!("{name}.pem"), certificate.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[tokio::test]
async fn a_broker_with_tls_takes_the_right_certificates_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path(), "");
    certificates(directory.path(), "other-");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let tls_port = free_port();
    let lines = format!(
        "listener {tls_port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        path("ca.pem"),
        path("server.pem"),
        path("server.key")
    );
    let Some(broker) = Mosquitto::start(directory.path(), &lines) else { return };
    wait_for_port(tls_port);
    let table = |ca: &str, client: Option<&str>| {
        let client = client.map_or(String::new(), |client| {
            format!(
                "client_certificate = {:?}\nclient_key = {:?}\n",
                path(&format!("{client}.pem")),
                path(&format!("{client}.key"))
            )
        });
        format!("url = \"mqtts://localhost:{tls_port}\"\ntopics = [\"t\"]\nca = {:?}\n{client}", path(ca))
    };
    let mut right = source(&table("ca.pem", Some("client")));
    right.open(None).await.unwrap();
    let (taken, ()) = tokio::join!(take(right.as_mut(), 3), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        publish(broker.port, "t", 0..3).await;
    });
    assert_eq!(numbers(&taken), (0..3).collect());
    for (why, ca, client) in [
        ("another authority", "other-ca.pem", Some("client")),
        ("no client certificate", "ca.pem", None),
        ("a client certificate of another authority", "ca.pem", Some("other-client")),
    ] {
        let mut wrong = source(&table(ca, client));
        wrong.open(None).await.unwrap();
        let (taken, ()) =
            tokio::join!(tokio::time::timeout(Duration::from_millis(1500), wrong.next()), async {
                tokio::time::sleep(Duration::from_millis(700)).await;
                publish(broker.port, "t", 3..6).await;
            });
        assert!(taken.is_err(), "{why} must be refused");
    }
}

/// Accepts a connection, answers CONNECT and SUBSCRIBE of MQTT 3.1.1.
fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    let mut buffer = [0; 512];
    assert!(stream.read(&mut buffer).unwrap() > 0);
    stream.write_all(&[0x20, 2, 0, 0]).unwrap();
    assert!(stream.read(&mut buffer).unwrap() > 0);
    stream.write_all(&[0x90, 3, 0, 1, 1]).unwrap();
    stream
}

#[tokio::test]
async fn foul_packets_cost_themselves_and_nothing_else() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = std::thread::spawn(move || {
        let mut stream = accept(&listener);
        let mut bytes = publish_packet(b"good", 1, b"1");
        bytes.extend(publish_packet(b"bad/\xff\xfe", 2, b"2"));
        bytes.extend(publish_packet(b"big", 3, &vec![b'x'; 100_000]));
        bytes.extend(publish_packet(b"empty", 4, b""));
        bytes.extend(publish_packet(b"good", 5, &[0xff, 0x00]));
        // In pieces, so that every boundary falls inside something.
        for piece in bytes.chunks(997) {
            stream.write_all(piece).unwrap();
        }
        let mut acknowledged = vec![0; 20];
        stream.read_exact(&mut acknowledged).unwrap();
        // Cut off in the middle of a packet; the next connection sends it whole.
        let last = publish_packet(b"good", 6, b"6");
        stream.write_all(&last[..last.len() - 1]).unwrap();
        drop(stream);
        let mut stream = accept(&listener);
        stream.write_all(&last).unwrap();
        let mut acknowledgement = [0; 4];
        stream.read_exact(&mut acknowledgement).unwrap();
        (acknowledged, acknowledgement)
    });
    let mut source = source(&format!(
        "url = \"mqtt://127.0.0.1:{port}\"\ntopics = [\"#\"]\nversion = \"3.1.1\"\npacket_size = \"64KiB\""
    ));
    source.open(None).await.unwrap();
    let drive = async {
        let mut taken = Vec::new();
        loop {
            let next = soon("a batch", source.next()).await.unwrap().unwrap();
            taken.extend(rows(&next.batch));
            source.acknowledge(&next.position).await.unwrap();
            if taken.len() >= 5 {
                break;
            }
        }
        // One more step sends the last acknowledgement.
        let _ = tokio::time::timeout(Duration::from_millis(300), source.next()).await;
        taken
    };
    let taken = drive.await;
    let payloads: Vec<&[u8]> = taken.iter().map(|(_, payload)| payload.as_slice()).collect();
    assert_eq!(payloads, [b"1".as_slice(), b"2", b"", &[0xff, 0x00], b"6"]);
    assert_eq!(taken[1].0, "bad/\u{fffd}\u{fffd}");
    let (acknowledged, last) = peer.join().unwrap();
    let ids: Vec<u8> = acknowledged.chunks(4).map(|puback| puback[3]).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5], "all in the order of receipt");
    assert_eq!(last, [0x40, 2, 0, 6]);
    let oversize: u64 = source
        .take_counts()
        .iter()
        .filter(|(count, _)| count.what == "oversize_messages")
        .map(|(_, by)| by)
        .sum();
    assert_eq!(oversize, 1);
}
