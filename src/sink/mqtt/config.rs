//! The pipeline file's side of the `mqtt` sink.

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;

use super::peer::MqttPeer;
use super::template::Template;
use super::writer::{MqttSettings, MqttSink, Payload};
use crate::codec::text;
use crate::core::schema::type_name;
use crate::net::mqtt::{Version, parse_url};
use crate::net::publisher::{Protocol, PublisherSettings};
use crate::net::tls::TlsSettings;
use crate::registry::{BuiltSink, Checked, Context, Problem, SinkConfig};
use crate::units::{Period, Secret, Size};

/// Publishes every row as a message to an MQTT broker, version 5 or 3.1.1, in order. A broker that is away is tried
/// again for ever, with growing pauses; meanwhile rows wait in the spool, and without one the pipeline waits.
///
/// At QoS 1 a row counts as delivered when the broker has acknowledged it; what was not acknowledged before the
/// connection broke is published again, so a message may come twice. At QoS 0 it counts when it is written to the
/// connection. A message that the broker refuses, or that is larger than `packet_size`, is logged and counted; its row
/// becomes a dead letter, or is dropped where none are kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// Where the broker is: `mqtt://host:port`, or `mqtts://host:port` for TLS. Ports default to 1883 and 8883.
    pub url: String,
    /// What to publish on. A column in braces stands for its value: `alerts/{line}/{device}`. In values `/`, `+`, `#`
    /// and control characters become `_`, as does a `$` at the beginning; a null is `_`.
    pub topic: String,
    /// What to send: a text with columns in braces, e.g. `"{score}"`. Without it, and without `payload_column`, the row
    /// as a JSON object.
    #[serde(default)]
    pub payload: Option<String>,
    /// The column whose text or bytes are the payload, e.g. `frame`. Rows in which it is null are passed over.
    #[serde(default)]
    pub payload_column: Option<String>,
    /// 0: at most once, without acknowledgement. 1: at least once.
    #[serde(default = "default_qos")]
    #[schemars(range(min = 0, max = 1))]
    pub qos: u8,
    /// Whether the broker keeps the last message of each topic for those who subscribe later.
    #[serde(default)]
    pub retain: bool,
    /// The name by which the broker knows this client; without one a random name. Two clients of the same name throw
    /// each other out.
    #[serde(default)]
    pub client_id: Option<String>,
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
    /// Time between signs of life on a quiet connection, from 5s to 65535s.
    #[serde(default = "default_keep_alive")]
    pub keep_alive: Period,
    /// Largest packet sent, topic included. Many brokers take no more than 1 MiB or less; one that speaks MQTT 5 says
    /// so itself.
    #[serde(default = "default_packet_size")]
    pub packet_size: Size,
    /// Most unacknowledged messages under way.
    #[serde(default = "default_in_flight")]
    #[schemars(range(min = 1))]
    pub in_flight: u16,
}

fn default_qos() -> u8 {
    1
}

fn default_keep_alive() -> Period {
    Period::seconds(30)
}

fn default_packet_size() -> Size {
    Size(4 << 20)
}

fn default_in_flight() -> u16 {
    100
}

/// The largest packet that MQTT can write: 256 MiB.
const MQTT_PACKET_MAX: usize = 268_435_455;

impl SinkConfig for MqttConfig {
    const TYPE: &'static str = "mqtt";
    const EXAMPLES: &'static [&'static str] = &[
        r#"url = "mqtt://localhost:1883"
topic = "alerts/{line}/{device}""#,
        r#"url = "mqtts://broker.example:8883"
topic = "plant/{line}/{device}/temp"
payload = "{temp}"
qos = 0
retain = true
username = "gateway"
password = { env = "MQTT_PASSWORD" }"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSink> {
        let mut problems = Vec::new();
        let address = parse_url(&self.url).map_err(|problem| problems.push(problem)).ok();
        let encrypted = address.as_ref().is_some_and(|address| address.encrypted);
        self.check_connection(address.is_some() && !encrypted, &mut problems);
        let topic = self.topic(context, &mut problems);
        let payload = self.payload(context, &mut problems);
        let (Some(address), Some(topic), Some(payload), true) =
            (address, topic, payload, problems.is_empty())
        else {
            return Err(problems);
        };
        let publisher = PublisherSettings {
            host: address.host,
            port: address.port,
            tls: encrypted.then_some(TlsSettings {
                ca: self.ca,
                certificate: self.client_certificate,
                key: self.client_key,
            }),
            client_id: self.client_id,
            protocol: match self.version {
                Version::Auto => None,
                Version::V4 => Some(Protocol::V4),
                Version::V5 => Some(Protocol::V5),
            },
            username: self.username,
            password: self.password,
            keep_alive: self.keep_alive.0,
            packet_bytes_max: self.packet_size.as_usize().min(MQTT_PACKET_MAX),
            in_flight: self.in_flight,
        };
        let settings = MqttSettings { publisher, topic, payload, qos: self.qos, retain: self.retain };
        let peer = Box::new(MqttPeer::new(settings.clone()));
        Ok(BuiltSink {
            sink: Box::new(MqttSink::new(settings)),
            peer: Some(peer),
            letters: None,
            notes: Vec::new(),
        })
    }
}

impl MqttConfig {
    fn check_connection(&self, plain: bool, problems: &mut Vec<Problem>) {
        let tls_keys = [
            ("ca", &self.ca),
            ("client_certificate", &self.client_certificate),
            ("client_key", &self.client_key),
        ];
        for (key, _) in tls_keys.into_iter().filter(|(_, value)| value.is_some() && plain) {
            problems.push(
                Problem::new(key, "this needs TLS, but the url is `mqtt://`")
                    .help("write `mqtts://` in the url"),
            );
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            problems
                .push(Problem::new("", "`client_certificate` and `client_key` go together: one is missing"));
        }
        if self.password.is_some() && self.username.is_none() {
            problems.push(Problem::new("password", "a password needs a `username`"));
        }
        if !(5..=65_535).contains(&self.keep_alive.0.as_secs()) {
            problems.push(Problem::new("keep_alive", "must be from 5s to 65535s"));
        }
        if self.qos > 1 {
            problems.push(Problem::new("qos", "must be 0 or 1"));
        }
        if self.in_flight == 0 {
            problems.push(Problem::new("in_flight", "must be at least 1"));
        }
    }

    fn topic(&self, context: &Context<'_>, problems: &mut Vec<Problem>) -> Option<Template> {
        let topic = match Template::parse("topic", &self.topic) {
            Ok(topic) => topic,
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        };
        if self.topic.is_empty() || self.topic.len() > usize::from(u16::MAX) {
            problems.push(Problem::new("topic", "a topic has from 1 to 65535 bytes"));
        }
        if topic.literals().any(|text| text.contains(['+', '#']) || text.contains(char::is_control)) {
            problems.push(
                Problem::new("topic", "`+`, `#` and control characters cannot be in the topic of a message")
                    .help("wildcards are for subscriptions; a column in braces gives each row its topic"),
            );
        }
        if self.topic.starts_with('$') {
            problems.push(Problem::new("topic", "topics that begin with `$` are the broker's own"));
        }
        for input in context.inputs {
            topic.check("topic", input, problems);
        }
        Some(topic)
    }

    fn payload(&self, context: &Context<'_>, problems: &mut Vec<Problem>) -> Option<Payload> {
        match (&self.payload, &self.payload_column) {
            (Some(_), Some(_)) => {
                problems.push(
                    Problem::new("payload_column", "`payload` and `payload_column` together")
                        .help("leave one of them out"),
                );
                None
            }
            (Some(text), None) => {
                let template =
                    Template::parse("payload", text).map_err(|problem| problems.push(problem)).ok()?;
                context.inputs.iter().for_each(|input| template.check("payload", input, problems));
                Some(Payload::Template(template))
            }
            (None, Some(name)) => {
                for input in context.inputs {
                    match input.schema.field_with_name(name) {
                        Ok(field) if matches!(field.data_type(), DataType::Utf8 | DataType::Binary) => {}
                        Ok(field) => {
                            let kind = type_name(field.data_type());
                            let message = format!("column \"{name}\" is {kind}, a payload is text or bytes");
                            problems.push(
                                Problem::new("payload_column", message)
                                    .help(format!("write `payload = \"{{{name}}}\"`")),
                            );
                        }
                        Err(_) => problems.push(Problem::no_column("payload_column", name, &input.schema)),
                    }
                }
                Some(Payload::Column(name.clone()))
            }
            (None, None) => {
                for input in context.inputs {
                    if let Err(error) = text::check_schema(&input.schema) {
                        problems.push(Problem::new("", error.message));
                    }
                }
                Some(Payload::Row)
            }
        }
    }
}
