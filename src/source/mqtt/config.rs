//! The pipeline file's side of the `mqtt` source.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::session::{MqttSource, SessionSettings};
use crate::net::mqtt::{Version, parse_url};
use crate::net::tls::TlsSettings;
use crate::registry::{BuiltSource, Checked, Context, Delivery, Problem, SourceConfig, SourceOutput};
use crate::units::{Period, Secret, Size};

/// Subscribes to topics of an MQTT broker, version 5 or 3.1.1, and goes on for ever: a broker that is away, also at
/// the start, is tried again with growing pauses.
///
/// With `qos = 1` a message is acknowledged when it is safe: written to the log and synced where there is one,
/// else when the checkpoint after it is committed. QoS 1 delivers at least once: a message may come twice.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// Where the broker is: `mqtt://host:port`, or `mqtts://host:port` for TLS. Ports default to 1883 and 8883.
    pub url: String,
    /// What to subscribe to. `+` and `#` are MQTT's wildcards; a name in braces is a `+` whose text becomes a tag
    /// column: `plant/{line}/{device}/telemetry`. All topics of one source name the same tags.
    #[schemars(length(min = 1, max = 64))]
    pub topics: Vec<String>,
    /// 0: at most once, without acknowledgement. 1: at least once.
    #[serde(default = "default_qos")]
    #[schemars(range(min = 0, max = 1))]
    pub qos: u8,
    /// The name by which the broker knows this client. With a name the broker keeps the session, and at QoS 1 the
    /// messages that come while the gateway is away; two clients of the same name throw each other out. Without
    /// one a random name is used and nothing is kept.
    #[serde(default)]
    pub client_id: Option<String>,
    /// How long the broker keeps the session after the connection is lost (MQTT 5 only; a 3.1.1 broker decides
    /// for itself). Only with `client_id`.
    #[serde(default = "default_session_expiry")]
    pub session_expiry: Period,
    /// Which version of MQTT to speak; `auto` tries 5 first and falls back to 3.1.1.
    #[serde(default)]
    pub version: Version,
    /// User name.
    #[serde(default)]
    pub username: Option<String>,
    /// Password, by reference: `{ env = "MQTT_PASSWORD" }` or `{ file = "/run/secrets/mqtt" }`.
    #[serde(default)]
    pub password: Option<Secret>,
    /// PEM file with the certificates of the authorities to trust, for `mqtts://`. Without it the system's are.
    #[serde(default)]
    pub ca: Option<String>,
    /// PEM file with our certificate, for a broker that asks for one.
    #[serde(default)]
    pub client_certificate: Option<String>,
    /// PEM file with the private key of `client_certificate`.
    #[serde(default)]
    pub client_key: Option<String>,
    /// Time between signs of life on a quiet connection; after one and a half times this the broker takes the client
    /// for gone.
    #[serde(default = "default_keep_alive")]
    pub keep_alive: Period,
    /// Largest packet taken. A larger one is counted (`oversize_messages`), acknowledged and passed over.
    #[serde(default = "default_packet_size")]
    pub packet_size: Size,
    /// Most unacknowledged messages under way at QoS 1, announced to an MQTT 5 broker as its receive maximum. A
    /// 3.1.1 broker has a setting of its own (Mosquitto: `max_inflight_messages`, 20).
    #[serde(default = "default_in_flight")]
    #[schemars(range(min = 1))]
    pub in_flight: u16,
    /// At QoS 1: `safe` acknowledges as described above; `receive` at once on receipt, so that a crash loses what
    /// was inside, for pipelines without a log that must not wait for checkpoints.
    #[serde(default)]
    pub ack: Ack,
    /// For shared subscriptions (`$share/GROUP/…`): how the broker spreads messages over the subscribers of the group.
    /// `any`: as it likes, so that operators with a key see only a part of its messages, which is refused. `topic`: all
    /// of one topic go to the same subscriber, as EMQX does with `hash_topic`.
    #[serde(default)]
    pub shared_by: SharedBy,
}

/// How the messages of a shared subscription are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SharedBy {
    /// Each message may go to another subscriber.
    #[default]
    Any,
    /// All messages of one topic go to the same subscriber.
    Topic,
}

/// When a message at QoS 1 is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// When it is synced in the log or, without one, committed.
    #[default]
    Safe,
    /// On receipt.
    Receive,
}

fn default_qos() -> u8 {
    1
}

fn default_session_expiry() -> Period {
    Period::seconds(86_400)
}

fn default_keep_alive() -> Period {
    Period::seconds(30)
}

fn default_packet_size() -> Size {
    Size(4 << 20)
}

fn default_in_flight() -> u16 {
    1000
}

impl SourceConfig for MqttConfig {
    const TYPE: &'static str = "mqtt";
    const EXAMPLES: &'static [&'static str] = &[
        r#"url = "mqtt://localhost:1883"
client_id = "gateway-7"
topics = ["plant/{line}/{device}/telemetry"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { temp = "f64", vib = "f64", rpm = "i64" }"#,
        r#"url = "mqtts://broker.example:8883"
topics = ["meters/#"]
qos = 0
username = "gateway"
password = { env = "MQTT_PASSWORD" }
ca = "/etc/ssl/plant-ca.pem""#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSource> {
        let mut problems = Vec::new();
        let address = parse_url(&self.url).map_err(|problem| problems.push(problem)).ok();
        let encrypted = address.as_ref().is_some_and(|address| address.encrypted);
        let tls_keys = [
            ("ca", &self.ca),
            ("client_certificate", &self.client_certificate),
            ("client_key", &self.client_key),
        ];
        for (key, value) in tls_keys {
            if value.is_some() && address.is_some() && !encrypted {
                problems.push(
                    Problem::new(key, "this needs TLS, but the url is `mqtt://`")
                        .help("write `mqtts://` in the url"),
                );
            }
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            problems
                .push(Problem::new("", "`client_certificate` and `client_key` go together: one is missing"));
        }
        if self.password.is_some() && self.username.is_none() {
            problems.push(Problem::new("password", "a password needs a `username`"));
        }
        let keep_alive = u16::try_from(self.keep_alive.0.as_secs()).ok().filter(|seconds| *seconds > 0);
        if keep_alive.is_none() {
            problems.push(Problem::new("keep_alive", "must be from 1s to 65535s"));
        }
        let filters = filters(&self.topics, &mut problems);
        let shared = self.topics.iter().enumerate().filter(|(_, topic)| topic.starts_with("$share/"));
        let delivery = Delivery {
            comes_again: self.qos > 0 && self.ack == Ack::Safe,
            decided_by: if self.qos > 0 { "ack" } else { "qos" },
            in_flight: u32::from(self.in_flight),
            in_flight_key: "in_flight",
            shared: shared.map(|(index, _)| index).collect(),
            shared_by_topic: self.shared_by == SharedBy::Topic,
        };
        if delivery.shared_by_topic && delivery.shared.is_empty() {
            problems.push(
                Problem::new("shared_by", "no topic here is a shared subscription")
                    .help("leave `shared_by` out, or subscribe to `$share/GROUP/…`"),
            );
        }
        let (Some(address), Some(keep_alive), true) = (address, keep_alive, problems.is_empty()) else {
            return Err(problems);
        };
        let acknowledges = self.qos > 0 && self.ack == Ack::Safe;
        let clean = self.client_id.is_none();
        let mut notes = Vec::new();
        if self.qos > 0 && clean {
            notes.push(
                "qos = 1 without `client_id`: what is published while the gateway is away is not kept by the broker"
                    .to_owned(),
            );
        }
        let settings = SessionSettings {
            host: address.host,
            port: address.port,
            tls: encrypted.then_some(TlsSettings {
                ca: self.ca,
                certificate: self.client_certificate,
                key: self.client_key,
            }),
            client_id: self.client_id,
            session_expiry: u32::try_from(self.session_expiry.0.as_secs()).unwrap_or(u32::MAX),
            version: self.version,
            username: self.username,
            password: self.password,
            keep_alive,
            packet_bytes_max: self.packet_size.as_usize().min(MQTT_PACKET_MAX),
            in_flight: self.in_flight,
            acknowledge_on_receipt: self.ack == Ack::Receive,
            qos: self.qos,
            filters,
            batch: context.batch,
        };
        let shared = settings.clone();
        let source = MqttSource::new(settings);
        let connected = Some(source.subscribed());
        Ok(BuiltSource {
            source: Box::new(source),
            output: SourceOutput::Raw,
            topics: self.topics,
            acknowledges,
            live: true,
            companion: Some(Arc::new(move |topic: &str| {
                Box::new(MqttSource::new(SessionSettings {
                    client_id: None,
                    filters: vec![topic.to_owned()],
                    qos: 1,
                    packet_bytes_max: MQTT_PACKET_MAX,
                    acknowledge_on_receipt: true,
                    ..shared.clone()
                }))
            })),
            connected,
            delivery: Some(delivery),
            vitals: None,
            notes,
        })
    }
}

/// The largest packet that MQTT can write: 256 MiB.
const MQTT_PACKET_MAX: usize = 268_435_455;

/// Turns topic patterns into MQTT filters, checking them.
pub fn filters(topics: &[String], problems: &mut Vec<Problem>) -> Vec<String> {
    let mut tags_of_first: Option<Vec<&str>> = None;
    let mut filters = Vec::new();
    for (index, topic) in topics.iter().enumerate() {
        let at = format!("topics[{index}]");
        let mut tags = Vec::new();
        // A shared subscription is `$share/<group>/<filter>`.
        let levels: Vec<&str> = topic.split('/').collect();
        let mut filter = Vec::with_capacity(levels.len());
        for (level, text) in levels.iter().enumerate() {
            match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                Some(name) if !name.is_empty() && !name.contains(['{', '}', '.']) => {
                    tags.push(name);
                    filter.push("+");
                }
                Some(name) => {
                    problems.push(Problem::new(&at, format!("`{{{name}}}` is not the name of a tag")))
                }
                None if text.contains(['{', '}']) => problems.push(Problem::new(
                    &at,
                    format!("`{text}`: a tag in braces is a whole level between two `/`"),
                )),
                None if text.contains('+') && *text != "+" => {
                    problems.push(Problem::new(&at, format!("`{text}`: `+` stands alone between two `/`")));
                }
                None if text.contains('#') && (*text != "#" || level + 1 != levels.len()) => {
                    problems.push(Problem::new(&at, "`#` stands alone at the end of a topic"));
                }
                None => filter.push(text),
            }
        }
        if topic.is_empty() || topic.contains('\0') {
            problems.push(Problem::new(&at, "a topic is not empty and has no NUL"));
        }
        match &tags_of_first {
            Some(first) if *first != tags => problems.push(
                Problem::new(&at, format!("this topic names the tags {tags:?}, the first one {first:?}"))
                    .help("name the same tags in the same order, or make two sources"),
            ),
            Some(_) => {}
            None => tags_of_first = Some(tags),
        }
        filters.push(filter.join("/"));
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let read = |url: &str| parse_url(url).map(|address| (address.host, address.port, address.encrypted));
        assert_eq!(read("mqtt://localhost").unwrap(), ("localhost".into(), 1883, false));
        assert_eq!(read("mqtts://b.example:1/").unwrap(), ("b.example".into(), 1, true));
        assert_eq!(read("mqtt://[::1]:1884").unwrap(), ("::1".into(), 1884, false));
        for wrong in
            ["localhost", "http://x", "mqtt://", "mqtt://h:x", "mqtt://u:p@h", "mqtt://h:70000", "mqtt://h/t"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn topics_become_filters() {
        let mut problems = Vec::new();
        let topics = ["plant/{line}/{device}/telemetry".to_owned(), "other/{line}/{device}/#".to_owned()];
        assert_eq!(filters(&topics, &mut problems), ["plant/+/+/telemetry", "other/+/+/#"]);
        assert!(problems.is_empty());
        for wrong in ["a/b{c}", "a/#/b", "a/b+", "", "{}", "a/{x.y}"] {
            let mut problems = Vec::new();
            filters(&[wrong.to_owned()], &mut problems);
            assert!(!problems.is_empty(), "{wrong}");
        }
        let mut problems = Vec::new();
        filters(&["a/{x}".to_owned(), "b/{y}".to_owned()], &mut problems);
        assert_eq!(problems[0].path, "topics[1]");
    }

    #[test]
    fn what_the_broker_keeps_and_spreads() {
        let delivery = |text: &str| {
            let config: MqttConfig = toml::from_str(&format!("url = \"mqtt://h\"\n{text}")).unwrap();
            let files = crate::registry::NoFiles;
            let context =
                Context { name: "a", pipeline: "a", inputs: &[], files: &files, batch: Default::default() };
            config.build(&context).map(|built| built.delivery.unwrap())
        };
        let plain = delivery("topics = [\"a\"]\nin_flight = 7").unwrap();
        assert_eq!((plain.comes_again, plain.in_flight, plain.shared.len()), (true, 7, 0));
        let lossy = delivery("topics = [\"a\"]\nqos = 0").unwrap();
        assert_eq!((lossy.comes_again, lossy.decided_by), (false, "qos"));
        let early = delivery("topics = [\"a\"]\nack = \"receive\"").unwrap();
        assert_eq!((early.comes_again, early.decided_by), (false, "ack"));
        let shared = delivery("topics = [\"a\", \"$share/g/b\"]\nshared_by = \"topic\"").unwrap();
        assert_eq!((shared.shared, shared.shared_by_topic), (vec![1], true));
        let problems = delivery("topics = [\"a\"]\nshared_by = \"topic\"").unwrap_err();
        assert_eq!(problems[0].path, "shared_by");
    }
}
