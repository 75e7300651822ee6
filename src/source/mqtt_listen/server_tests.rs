//! The server without a world: conversations as tables, cut anywhere, and bytes that nobody should send.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use bytes::BytesMut;
use proptest::prelude::*;
use rumqttc::v5::mqttbytes::v5;

use super::access::Access;
use super::packet::{self, Reason};
use super::server::{Fed, Moment, PeerId, Server};
use super::settings::ServerSettings;
use crate::core::Position;
use crate::registry::BatchLimits;
use crate::source::mqtt_wire::Protocol::{self, V4, V5};
use crate::source::topics::TopicFilters;

fn settings() -> ServerSettings {
    ServerSettings {
        filters: TopicFilters::new(&["t/+".to_owned(), "will/#".to_owned()]),
        topic_bytes_max: 20,
        packet_bytes_max: 2048,
        in_flight: 4,
        rate: None,
        clients_max: 3,
        session_expiry: Duration::from_secs(100),
        batch: BatchLimits { rows: 10_000, ..BatchLimits::default() },
    }
}

/// A server, the buffers of its clients, and a clock that stands until it is moved.
struct Rig {
    server: Server,
    received: BTreeMap<PeerId, BytesMut>,
    now: Duration,
    position: Option<Position>,
}

impl Rig {
    fn new(settings: ServerSettings) -> Self {
        Self::from(settings, None)
    }

    fn from(settings: ServerSettings, position: Option<Position>) -> Self {
        let access = Access::new([("user".to_owned(), "pass".to_owned())], true);
        let server = Server::new(settings, access, position.as_ref(), Duration::ZERO).unwrap();
        Self { server, received: BTreeMap::new(), now: Duration::ZERO, position }
    }

    fn moment(&self) -> Moment {
        Moment { mono: self.now, wall_micros: self.now.as_micros() as i64 }
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
        self.server.tick(self.moment());
        self.again();
    }

    fn again(&mut self) {
        for id in self.server.take_again() {
            self.send(id, &[]);
        }
    }

    fn connected(&mut self, id: PeerId) {
        self.server.connected(id, false);
        self.received.insert(id, BytesMut::new());
    }

    fn send(&mut self, id: PeerId, bytes: &[u8]) -> Fed {
        let moment = self.moment();
        let received = self.received.get_mut(&id).unwrap();
        received.extend_from_slice(bytes);
        self.server.feed(id, received, moment)
    }

    /// What a client is sent, and whether it is closed then.
    fn told(&mut self, id: PeerId) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let told = self.server.output(id, &mut out);
        (out, told.is_none_or(|told| told.close))
    }

    /// Connects a client and forgets what it is told.
    fn join(&mut self, id: PeerId, connect: &[u8]) -> Vec<u8> {
        self.connected(id);
        self.send(id, connect);
        self.told(id).0
    }

    /// Says something and gives the answer.
    fn ask(&mut self, id: PeerId, bytes: &[u8]) -> Vec<u8> {
        self.send(id, bytes);
        self.told(id).0
    }

    /// The rows there are, handed on but not safe.
    fn rows(&mut self) -> Vec<(String, String)> {
        let Some(batch) = self.server.finish().unwrap() else { return Vec::new() };
        self.position = Some(batch.position.after(self.position.take()));
        rows(&batch.batch)
    }

    /// Hands on and makes safe.
    fn sync(&mut self) -> Vec<(String, String)> {
        let rows = self.rows();
        if let Some(position) = &self.position {
            let number = crate::source::sessions::Sessions::number_in(position).unwrap();
            self.server.acknowledge(number);
            self.again();
        }
        rows
    }

    fn counts(&mut self) -> BTreeMap<String, u64> {
        let counts = self.server.take_counts().into_iter();
        counts.map(|(count, by)| (format!("{} {}", count.what, count.reason).trim().to_owned(), by)).collect()
    }

    /// Kills it and starts it again at the position that was handed on last.
    fn crash(self, settings: ServerSettings) -> Self {
        Self::from(settings, self.position)
    }
}

fn rows(batch: &RecordBatch) -> Vec<(String, String)> {
    let topics = batch.column(0).as_dictionary::<Int32Type>();
    let names: &StringArray = topics.values().as_string();
    let payloads = batch.column(1).as_binary::<i32>();
    let row = |row| {
        let payload = String::from_utf8_lossy(payloads.value(row)).into_owned();
        (names.value(topics.key(row).unwrap()).to_owned(), payload)
    };
    (0..batch.num_rows()).map(row).collect()
}

fn row(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

/// Packets as rumqttc writes them.
fn connect4(client: &str, clean: bool) -> Vec<u8> {
    let mut connect = rumqttc::Connect::new(client);
    connect.clean_session = clean;
    connect.keep_alive = 10;
    let mut bytes = BytesMut::new();
    connect.write(&mut bytes).unwrap();
    bytes.to_vec()
}

fn connect5(client: &str, clean: bool, expiry: u32, will: Option<(&str, u32)>) -> Vec<u8> {
    let mut properties = v5::ConnectProperties::new();
    properties.session_expiry_interval = Some(expiry);
    properties.user_properties = vec![("a".to_owned(), "b".to_owned()), ("a".to_owned(), "b".to_owned())];
    let connect = v5::Connect {
        keep_alive: 10,
        client_id: client.to_owned(),
        clean_start: clean,
        properties: Some(properties),
    };
    let will = will.map(|(topic, delay)| v5::LastWill {
        topic: topic.to_owned().into(),
        message: "gone".into(),
        qos: rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
        retain: true,
        properties: Some(v5::LastWillProperties {
            delay_interval: Some(delay),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        }),
    });
    let mut bytes = BytesMut::new();
    connect.write(&will, &None, &mut bytes).unwrap();
    bytes.to_vec()
}

fn publish(protocol: Protocol, quality: u8, packet: u16, topic: &str, payload: &str) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    match protocol {
        V4 => {
            let quality = rumqttc::qos(quality).unwrap();
            let mut publish = rumqttc::Publish::new(topic, quality, payload);
            publish.pkid = packet;
            publish.write(&mut bytes).unwrap();
        }
        V5 => {
            let quality = rumqttc::v5::mqttbytes::qos(quality).unwrap();
            let mut publish = v5::Publish::new(topic, quality, payload.to_owned(), None);
            publish.pkid = packet;
            publish.write(&mut bytes).unwrap();
        }
    }
    bytes.to_vec()
}

const fn short(kind: u8, packet: u8) -> [u8; 4] {
    [kind, 2, 0, packet]
}

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const ACCEPTED4: [u8; 4] = [0x20, 2, 0, 0];
const RESUMED4: [u8; 4] = [0x20, 2, 1, 0];

#[test]
fn answers_go_out_in_order_and_only_when_what_they_are_for_is_safe() {
    for protocol in [V4, V5] {
        let mut rig = Rig::new(settings());
        let connect = if protocol == V4 { connect4("a", true) } else { connect5("a", true, 0, None) };
        assert_eq!(rig.join(1, &connect)[..4][2..], [0, 0]);
        let messages = [(1, 7, "x"), (0, 0, "y"), (2, 8, "z"), (1, 9, "")];
        for (quality, packet, payload) in messages {
            assert!(rig.ask(1, &publish(protocol, quality, packet, "t/1", payload)).is_empty());
        }
        assert!(rig.server.is_ready(Duration::ZERO, true), "somebody waits");
        let rows = rig.rows();
        assert_eq!(rows, [row("t/1", "x"), row("t/1", "y"), row("t/1", "z"), row("t/1", "")]);
        assert!(rig.told(1).0.is_empty(), "handed on is not safe");
        rig.server.acknowledge(3);
        assert_eq!(rig.told(1).0, [short(PUBACK, 7), short(PUBREC, 8)].concat());
        rig.ask(1, &short(PUBREL, 8));
        rig.server.acknowledge(4);
        let mut wanted = short(PUBACK, 9).to_vec();
        // This session ends with the connection, so there is nothing to be made safe.
        wanted.extend(short(PUBCOMP, 8));
        assert_eq!(rig.told(1).0, wanted);
        assert_eq!(rig.ask(1, &[0xc0, 0]), [0xd0, 0]);
        assert_eq!(rig.send(1, &[0xe0, 0]), Fed::Closed);
        assert_eq!(rig.told(1), (vec![], true));
        assert_eq!(rig.counts(), BTreeMap::from([("connections".to_owned(), 1)]));
    }
}

#[test]
fn a_message_of_quality_2_is_taken_once_whatever_crashes() {
    for protocol in [V4, V5] {
        let connect = if protocol == V4 { connect4("a", false) } else { connect5("a", false, 50, None) };
        let message = |packet, payload| publish(protocol, 2, packet, "t/1", payload);
        let mut rig = Rig::new(settings());
        assert_eq!(rig.join(1, &connect)[2], 0, "no session yet");
        assert_eq!(rig.send(1, &message(1, "one")), Fed::Aside, "the session must be safe first");
        assert!(rig.server.is_ready(Duration::ZERO, true));
        assert_eq!(rig.sync(), []);
        assert_eq!(rig.rows(), [row("t/1", "one")]);
        let mut rig = Rig::new(settings());
        rig.join(1, &connect);
        rig.sync();
        rig.ask(1, &[message(1, "one"), message(2, "two")].concat());
        assert_eq!(rig.sync().len(), 2);
        assert_eq!(rig.told(1).0, [short(PUBREC, 1), short(PUBREC, 2)].concat());
        rig.ask(1, &message(3, "three"));
        // The third is not in the log when the power goes.
        let mut rig = rig.crash(settings());
        assert_eq!(rig.join(2, &connect)[2], 1, "the session is known");
        let again = rig.ask(2, &[message(1, "one"), message(2, "two"), message(3, "three")].concat());
        assert_eq!(again, [short(PUBREC, 1), short(PUBREC, 2)].concat(), "they are safe already");
        assert_eq!(rig.sync(), [row("t/1", "three")]);
        assert_eq!(rig.told(2).0, short(PUBREC, 3));
        assert!(rig.ask(2, &short(PUBREL, 1)).is_empty(), "a release must be safe first");
        assert!(rig.server.is_ready(Duration::ZERO, true));
        assert_eq!(rig.sync(), [], "a batch without rows carries it");
        assert_eq!(rig.told(2).0, short(PUBCOMP, 1));
        rig.ask(2, &short(PUBREL, 2));
        // This release is lost; the client says it again, and is answered.
        let mut rig = rig.crash(settings());
        rig.join(3, &connect);
        rig.ask(3, &[short(PUBREL, 2), short(PUBREL, 3)].concat());
        rig.sync();
        assert_eq!(rig.told(3).0, [short(PUBCOMP, 2), short(PUBCOMP, 3)].concat());
        // Now all identifiers stand for new messages.
        rig.ask(3, &[message(1, "1"), message(2, "2"), message(3, "3")].concat());
        assert_eq!(rig.sync().len(), 3);
        assert_eq!(rig.counts().get("repeated_messages"), None);
        let mut wanted = [short(PUBREC, 1), short(PUBREC, 2), short(PUBREC, 3)].concat();
        wanted.extend_from_slice(if protocol == V4 {
            &[PUBCOMP, 2, 0, 4]
        } else {
            &[PUBCOMP, 3, 0, 4, 0x92]
        });
        assert_eq!(rig.ask(3, &short(PUBREL, 4)), wanted, "an unknown identifier is answered too");
    }
}

#[test]
fn what_an_older_session_held_does_not_come_back_and_hide_a_new_message() {
    let mut rig = Rig::new(settings());
    rig.join(1, &connect4("a", false));
    rig.sync();
    rig.send(1, &publish(V4, 2, 5, "t/1", "old"));
    assert_eq!(rig.sync().len(), 1);
    // It begins anew, and uses the same identifier; the power goes before that is safe.
    rig.join(2, &connect5("a", true, 60, None));
    assert_eq!(rig.send(2, &publish(V5, 2, 5, "t/1", "new")), Fed::Aside);
    let mut rig = rig.crash(settings());
    // The old session is still known, but the new message was never taken: it comes first, or anew.
    rig.join(3, &connect5("a", true, 60, None));
    assert_eq!(rig.send(3, &publish(V5, 2, 5, "t/1", "new")), Fed::Aside);
    assert_eq!(rig.sync(), [], "the new session");
    assert_eq!(rig.sync(), [row("t/1", "new")]);
    assert_eq!(rig.told(3).0[..1], short(PUBREC, 5)[..1]);
}

#[test]
fn sessions_last_as_long_as_they_may() {
    let mut rig = Rig::new(settings());
    assert_eq!(rig.join(1, &connect4("a", false)), ACCEPTED4);
    rig.server.lost(1, Reason::LOST, rig.moment());
    rig.later(Duration::from_secs(99));
    assert_eq!(rig.join(2, &connect4("a", false)), RESUMED4);
    rig.server.lost(2, Reason::LOST, rig.moment());
    rig.later(Duration::from_secs(100));
    assert_eq!(rig.join(3, &connect4("a", false)), ACCEPTED4, "100 s without a connection are too long");
    rig.server.lost(3, Reason::LOST, rig.moment());
    assert_eq!(rig.join(4, &connect4("a", true)), ACCEPTED4, "a clean one ends it");
    rig.server.lost(4, Reason::LOST, rig.moment());
    assert_eq!(rig.join(5, &connect4("a", false)), ACCEPTED4);
    rig.rows();
    let mut rig = rig.crash(settings());
    assert_eq!(rig.join(1, &connect4("a", false)), RESUMED4);
    // Version 5 may end it when it goes.
    rig.server.lost(1, Reason::LOST, rig.moment());
    let answer = rig.join(2, &connect5("a", false, 1000, None));
    assert_eq!((answer[2], &answer[5..10]), (1, [0x11, 0, 0, 0, 100].as_slice()), "100 s are all there is");
    rig.send(2, &[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    assert_eq!(rig.join(3, &connect4("a", false)), ACCEPTED4);
    // More than four times three sessions there are not: the one that would end first goes.
    rig.send(3, &[0xe0, 0]);
    for number in 0..12 {
        rig.later(Duration::from_millis(10));
        rig.join(100 + number, &connect4(&format!("c{number}"), false));
        rig.send(100 + number, &[0xe0, 0]);
    }
    assert_eq!(rig.join(4, &connect4("c1", false)), RESUMED4);
    assert_eq!(rig.join(5, &connect4("a", false)), ACCEPTED4);
    assert_eq!(rig.counts()["forgotten_sessions"], 2);
}

#[test]
fn the_newest_connection_of_a_client_wins_and_wills_are_published_when_due() {
    let mut rig = Rig::new(settings());
    rig.join(1, &connect5("a", true, 0, Some(("will/a", 0))));
    let answer = rig.join(2, &connect5("a", true, 60, Some(("will/a", 30))));
    assert_eq!(answer[3], 0);
    assert_eq!(rig.told(1), (vec![0xe0, 1, 0x8e], true));
    assert_eq!(rig.sync(), [row("will/a", "gone")]);
    rig.server.lost(2, Reason::LOST, rig.moment());
    rig.later(Duration::from_secs(29));
    assert_eq!(rig.sync(), [], "not yet");
    rig.join(3, &connect5("a", false, 60, Some(("will/a", 30))));
    rig.later(Duration::from_secs(60));
    assert_eq!(rig.sync(), [], "it came back in time");
    rig.server.lost(3, Reason::SILENT, rig.moment());
    rig.later(Duration::from_secs(30));
    assert_eq!(rig.sync(), [row("will/a", "gone")]);
    rig.join(4, &connect5("a", false, 60, Some(("will/a", 30))));
    rig.send(4, &[0xe0, 0]);
    rig.later(Duration::from_secs(60));
    assert_eq!(rig.sync(), [], "it said good-bye");
    rig.join(5, &connect5("a", false, 60, Some(("will/a", 0))));
    rig.send(5, &[0xe0, 1, 4]);
    assert_eq!(rig.sync(), [row("will/a", "gone")], "and wanted its will all the same");
    rig.join(6, &connect5("a", false, 0, Some(("nowhere", 10))));
    rig.server.lost(6, Reason::LOST, rig.moment());
    assert_eq!(rig.sync(), []);
    let counts = rig.counts();
    assert_eq!((counts["disconnects taken_over"], counts["will_messages"]), (1, 3));
    assert_eq!(counts["refused_messages will_topic"], 1);
}

/// The reason, what is said before, what breaks the rules, and the answer.
type Case<'a> = (&'a str, &'a [u8], Vec<u8>, Vec<u8>);

#[test]
fn what_breaks_the_rules_is_refused_with_a_reason() {
    let five = connect5("a", true, 0, None);
    let four = connect4("a", true);
    let long = vec![b'x'; 3000];
    let mut alias = publish(V5, 1, 1, "t/1", "");
    // A topic alias in place of no properties.
    alias.splice(9..10, [3, 0x23, 0, 1]);
    alias[1] += 3;
    let mut twice = publish(V5, 1, 1, "t/1", "");
    twice.splice(9..10, [4, 0x01, 0, 0x01, 0]);
    twice[1] += 4;
    let cases: Vec<Case<'_>> = vec![
        ("malformed_packet", &five, vec![0x30, 0xff, 0xff, 0xff, 0xff], vec![0xe0, 1, 0x81]),
        ("malformed_packet", &five, vec![0x36, 2, 0, 0], vec![0xe0, 1, 0x81]),
        ("malformed_packet", &four, vec![0x32, 7, 0, 3, b't', b'/', b'1', 0, 0], vec![]),
        ("malformed_packet", &five, vec![0x30, 3, 0, 9, b't'], vec![0xe0, 1, 0x81]),
        ("malformed_packet", &five, vec![0x30, 4, 0, 1, 0xff, 0], vec![0xe0, 1, 0x81]),
        ("malformed_packet", &five, vec![0x60, 2, 0, 1], vec![0xe0, 1, 0x81]),
        ("malformed_packet", &five, short(PUBREL, 0).to_vec(), vec![0xe0, 1, 0x81]),
        ("protocol_error", &five, five.clone(), vec![0xe0, 1, 0x82]),
        ("protocol_error", &five, short(PUBACK, 1).to_vec(), vec![0xe0, 1, 0x82]),
        ("protocol_error", &five, vec![0xf0, 0], vec![0xe0, 1, 0x82]),
        ("protocol_error", &five, twice, vec![0xe0, 1, 0x82]),
        ("protocol_error", &five, vec![0x82, 3, 0, 1, 0], vec![0xe0, 1, 0x82]),
        ("topic", &five, publish(V5, 0, 0, "t/#", ""), vec![0xe0, 1, 0x90]),
        ("topic_alias", &five, alias, vec![0xe0, 1, 0x94]),
        (
            "packet_too_large",
            &five,
            publish(V5, 1, 1, "t/1", std::str::from_utf8(&long).unwrap()),
            vec![0xe0, 1, 0x95],
        ),
        ("packet_too_large", &[], vec![0x10, 0xff, 0xff, 0x7f], vec![]),
        ("protocol_error", &[], vec![0xc0, 0], vec![]),
        ("malformed_packet", &[], b"\x10\x06\0\x04HTTP".to_vec(), vec![]),
        ("unsupported_version", &[], b"\x10\x09\0\x06MQIsdp\x03".to_vec(), vec![0x20, 2, 0, 1]),
        ("unsupported_version", &[], b"\x10\x07\0\x04MQTT\x06".to_vec(), vec![0x20, 3, 0, 0x84, 0]),
        ("client_identifier", &[], connect4(&"x".repeat(129), true), vec![0x20, 2, 0, 2]),
        ("client_identifier", &[], b"\x10\x0c\0\x04MQTT\x04\x00\0\0\0\0".to_vec(), vec![0x20, 2, 0, 2]),
        ("bad_login", &[], b"\x10\x10\0\x04MQTT\x04\x82\0\0\0\0\0\x02me".to_vec(), vec![0x20, 2, 0, 4]),
        (
            "bad_login",
            &[],
            b"\x10\x11\0\x04MQTT\x05\x82\0\0\0\0\0\0\x02me".to_vec(),
            vec![0x20, 3, 0, 0x86, 0],
        ),
        (
            "authentication_method",
            &[],
            b"\x10\x11\0\x04MQTT\x05\x02\0\0\x04\x15\0\x01x\0\0".to_vec(),
            vec![0x20, 3, 0, 0x8c, 0],
        ),
        ("malformed_packet", &[], b"\x10\x0c\0\x04MQTT\x04\x03\0\0\0\0".to_vec(), vec![]),
    ];
    for (index, (reason, before, bytes, answer)) in cases.into_iter().enumerate() {
        let mut rig = Rig::new(settings());
        rig.connected(1);
        rig.join(2, &connect4("other", true));
        if !before.is_empty() {
            assert!(rig.ask(1, before).len() >= 4);
        }
        rig.counts();
        assert_eq!(rig.send(1, &bytes), Fed::Closed, "case {index}: {reason}");
        assert_eq!(rig.told(1), (answer, true), "case {index}: {reason}");
        let counts = rig.counts();
        assert_eq!(counts, BTreeMap::from([(format!("disconnects {reason}"), 1)]), "case {index}");
        assert_eq!(rig.ask(2, &[0xc0, 0]), [0xd0, 0], "others do not notice");
    }
}

#[test]
fn a_password_opens_the_door_and_a_name_is_given_to_who_has_none() {
    let mut rig = Rig::new(settings());
    let answer = rig.join(1, b"\x10\x18\0\x04MQTT\x04\xc2\0\0\0\0\0\x04user\0\x04pass");
    assert_eq!(answer, ACCEPTED4);
    let answer = rig.join(2, b"\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0\0");
    let read = v5::Packet::read(&mut BytesMut::from(&answer[..]), None).unwrap();
    let v5::Packet::ConnAck(ack) = read else { panic!("{read:?}") };
    let told = ack.properties.unwrap();
    assert!(told.assigned_client_identifier.unwrap().starts_with("tidegate-"));
    assert_eq!((told.receive_max, told.max_packet_size, told.topic_alias_max), (Some(4), Some(2048), None));
    assert_eq!(told.shared_subscription_available, Some(0));
}

#[test]
fn topics_that_fit_nothing_and_subscriptions_are_refused_as_the_version_allows() {
    let mut rig = Rig::new(settings());
    rig.join(1, &connect5("a", true, 0, None));
    let refused =
        [publish(V5, 1, 1, "x", ""), publish(V5, 2, 2, "x", ""), publish(V5, 0, 0, "x", "")].concat();
    assert_eq!(rig.ask(1, &refused), [PUBACK, 3, 0, 1, 0x90, PUBREC, 3, 0, 2, 0x90]);
    rig.join(2, &connect4("b", true));
    let dropped = [
        publish(V4, 1, 1, "x", ""),
        publish(V4, 2, 2, "t/01234567890123456789", ""),
        short(PUBREL, 2).to_vec(),
        publish(V4, 1, 3, "t/1", &"x".repeat(3000)),
    ];
    let wanted = [short(PUBACK, 1), short(PUBREC, 2), short(PUBCOMP, 2), short(PUBACK, 3)].concat();
    assert_eq!(rig.ask(2, &dropped.concat()), wanted, "nothing to be made safe");
    assert_eq!(rig.rows(), []);
    let counts = rig.counts();
    assert_eq!((counts["refused_messages topic"], counts["oversize_messages"]), (5, 1));
    let subscribe = [0x82, 10, 0, 9, 0, 1, b'a', 0, 0, 1, b'b', 1];
    assert_eq!(rig.ask(2, &subscribe), [0x90, 4, 0, 9, 0x80, 0x80]);
    assert_eq!(rig.ask(2, &[0xa2, 5, 0, 9, 0, 1, b'a']), [0xb0, 2, 0, 9]);
    assert_eq!(rig.ask(1, &[0x82, 7, 0, 9, 0, 0, 1, b'a', 0]), [0x90, 4, 0, 9, 0, 0x83]);
    assert_eq!(rig.ask(1, &[0xa2, 6, 0, 9, 0, 0, 1, b'a']), [0xb0, 4, 0, 9, 0, 0x11]);
    let mut out = Vec::new();
    packet::no_subscription(true, V4, 1, 200, &mut out);
    assert_eq!((&out[..5], out.len()), ([0x90, 0xca, 1, 0, 1].as_slice(), 205));
}

#[test]
fn limits_are_reached_and_held() {
    // Version 5 knows how many messages may be under way, 3.1.1 is not read from.
    let mut rig = Rig::new(settings());
    rig.join(1, &connect5("a", true, 0, None));
    for packet in 1..=4 {
        assert!(matches!(rig.send(1, &publish(V5, 1, packet, "t/1", "")), Fed::Dry(_)));
    }
    assert_eq!(rig.send(1, &publish(V5, 1, 5, "t/1", "")), Fed::Closed);
    assert_eq!(rig.told(1).0, [0xe0, 1, 0x93]);
    rig.sync();
    rig.join(2, &connect4("b", true));
    let many: Vec<u8> = (1..=10).flat_map(|packet| publish(V4, 1, packet, "t/1", "")).collect();
    assert_eq!(rig.send(2, &many), Fed::Aside);
    let mut taken = Vec::new();
    while taken.len() < 10 {
        let rows = rig.sync();
        assert!((1..=4).contains(&rows.len()), "{}", rows.len());
        taken.extend(rows);
    }
    assert_eq!(rig.told(2).0.len(), 40);

    // So many identifiers are held for all sessions together.
    let mut rig = Rig::new(settings());
    rig.join(1, &connect4("a", false));
    rig.sync();
    for packet in 1..=12 {
        assert!(matches!(rig.send(1, &publish(V4, 2, packet, "t/1", "")), Fed::Dry(_)), "{packet}");
        rig.sync();
    }
    assert_eq!(rig.send(1, &publish(V4, 2, 13, "t/1", "")), Fed::Closed);
    assert_eq!(rig.counts()["disconnects quota"], 1);

    // A rate is an average; a second's worth may come at once.
    let mut rig = Rig::new(ServerSettings { rate: Some(5), ..settings() });
    rig.join(1, &connect4("a", true));
    let many: Vec<u8> = (0..12).flat_map(|_| publish(V4, 0, 0, "t/1", "")).collect();
    assert_eq!(rig.send(1, &many), Fed::Aside);
    assert_eq!(rig.rows().len(), 5);
    let due = rig.server.due().unwrap();
    assert!(due > Duration::from_millis(199) && due < Duration::from_millis(202), "{due:?}");
    rig.later(Duration::from_millis(1401));
    assert_eq!(rig.rows().len(), 5);
    rig.later(Duration::from_millis(401));
    assert_eq!(rig.rows().len(), 2);

    // A batch that is full waits to be handed on.
    let batch = BatchLimits { rows: 3, ..BatchLimits::default() };
    let mut rig = Rig::new(ServerSettings { batch, ..settings() });
    rig.join(1, &connect4("a", true));
    assert_eq!(rig.send(1, &many), Fed::Full);
    let mut sizes = vec![rig.rows().len()];
    while rig.send(1, &[]) == Fed::Full {
        sizes.push(rig.rows().len());
    }
    assert_eq!(sizes, [3, 3, 3, 3]);
}

#[test]
fn a_batch_grows_while_another_is_on_its_way() {
    let mut rig = Rig::new(settings());
    rig.join(1, &connect4("a", true));
    assert!(!rig.server.is_ready(rig.now, true), "there is nothing");
    rig.send(1, &publish(V4, 1, 1, "t/1", "1"));
    assert!(!rig.server.is_ready(rig.now, false) && rig.server.is_ready(rig.now, true));
    assert_eq!(rig.rows().len(), 1);
    rig.send(1, &publish(V4, 1, 2, "t/1", "2"));
    assert!(!rig.server.is_ready(rig.now, true), "the first is not safe yet");
    let due = rig.server.due().unwrap();
    assert!(rig.server.is_ready(due, false), "but it does not wait for ever");
    rig.server.acknowledge(1);
    assert!(rig.server.is_ready(rig.now, true));
    rig.rows();
    rig.server.acknowledge(2);
    rig.send(1, &publish(V4, 0, 0, "t/1", "3"));
    assert!(!rig.server.is_ready(rig.now, true), "nobody waits at QoS 0");
    assert!(rig.server.is_ready(rig.server.due().unwrap(), false));
}

/// Everything that a client may say, in one conversation.
fn conversation(protocol: Protocol) -> Vec<u8> {
    let connect =
        if protocol == V4 { connect4("a", false) } else { connect5("a", false, 60, Some(("will/x", 0))) };
    let subscribe: &[u8] =
        if protocol == V4 { &[0x82, 6, 0, 9, 0, 1, b'a', 0] } else { &[0x82, 7, 0, 9, 0, 0, 1, b'a', 0] };
    let large = if protocol == V4 { publish(V4, 1, 4, "t/3", &"x".repeat(5000)) } else { Vec::new() };
    [
        connect,
        publish(protocol, 0, 0, "t/1", "zero"),
        publish(protocol, 1, 1, "t/2", &"long ".repeat(100)),
        publish(protocol, 2, 2, "t/3", ""),
        publish(protocol, 2, 2, "t/3", ""),
        large,
        vec![0xc0, 0],
        subscribe.to_vec(),
        publish(protocol, 1, 3, "elsewhere", "x"),
        short(PUBREL, 2).to_vec(),
        vec![0xe0, 0],
    ]
    .concat()
}

/// The rows and the answers of a conversation in pieces.
fn hold(pieces: &[&[u8]], generous: bool) -> (Vec<(String, String)>, Vec<u8>) {
    let mut rig = Rig::new(ServerSettings { in_flight: if generous { 100 } else { 4 }, ..settings() });
    rig.connected(1);
    let (mut rows, mut out) = (Vec::new(), Vec::new());
    for piece in pieces {
        rig.send(1, piece);
        // What a line would let in.
        assert!(rig.received[&1].len() <= 65_536 + 16 + piece.len());
        // More than once: what waits until a session is safe comes after.
        for _ in 0..3 {
            rows.extend(rig.sync());
            out.extend(rig.told(1).0);
        }
    }
    (rows, out)
}

#[test]
fn a_conversation_is_the_same_wherever_it_is_cut() {
    for protocol in [V4, V5] {
        let whole = conversation(protocol);
        // The last word comes by itself, so that all that is owed was sent before.
        let (talk, bye) = whole.split_at(whole.len() - 2);
        let wanted = hold(&[talk, bye], true);
        assert_eq!(wanted.0.len(), 3, "{protocol:?}");
        for cut in 0..=talk.len() {
            let (first, second) = talk.split_at(cut);
            let (rows, out) = hold(&[first, second, bye], true);
            assert_eq!(rows, wanted.0, "{protocol:?} cut at {cut}");
            // Answers that need nothing may go out before others that wait: PINGRESP and SUBACK are in no order.
            let sorted = |mut bytes: Vec<u8>| {
                bytes.sort_unstable();
                bytes
            };
            assert_eq!(sorted(out), sorted(wanted.1.clone()), "{protocol:?} cut at {cut}");
        }
        let bytes: Vec<&[u8]> = talk.chunks(1).chain([bye]).collect();
        assert_eq!(hold(&bytes, true).0, wanted.0);
    }
}

/// A valid conversation with bytes changed, left out, put in, or another's behind it.
fn mutated() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0u8..4);
    let changes = proptest::collection::vec(change, 0..6);
    (any::<bool>(), any::<bool>(), changes, 1usize..300).prop_map(|(five, head, changes, piece)| {
        let mut bytes = conversation(if five { V5 } else { V4 });
        if head {
            // Most mutations then hit what comes before the first message.
            bytes.truncate(120);
        }
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte & 7),
                2 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes.chunks(piece).map(<[u8]>::to_vec).collect()
    })
}

/// How many foul conversations a run tries; `TIDEGATE_FUZZ_CASES` says another number.
fn cases() -> u32 {
    std::env::var("TIDEGATE_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_client_sends_makes_it_panic_or_hold_more_than_was_sent(pieces in mutated()) {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let (rows, out) = hold(&pieces, false);
        let sent: usize = pieces.iter().map(|piece| piece.len()).sum();
        prop_assert!(rows.iter().map(|(topic, payload)| topic.len() + payload.len()).sum::<usize>() <= 3 * sent);
        prop_assert!(out.len() <= 3 * sent + 100);
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(bytes: Vec<u8>, connected: bool) {
        let connect = if connected { connect5("a", true, 0, None) } else { Vec::new() };
        hold(&[&connect, &bytes], false);
        let _ = packet::connect(&bytes);
        let _ = packet::filters(&bytes, connected, V5);
        let _ = packet::disconnect(&bytes);
        let _ = packet::note(&bytes);
    }
}
