//! The pipeline file's side of the `mqtt_listen` source.

use std::net::SocketAddr;
use std::time::Duration;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::settings::ServerSettings;
use super::source::{ListenSettings, ListenSource};
use crate::net::tls::ServerTlsSettings;
use crate::registry::{BuiltSource, Checked, Context, Delivery, Problem, SourceConfig, SourceOutput};
use crate::source::topics::{TopicFilters, filters};
use crate::units::{Period, Secret, Size};

/// Takes messages from sensors that connect straight to Tidegate, with no broker between: the server's side of MQTT 3.1.1
/// and 5, both on one port.
///
/// A message at QoS 1 or 2 is acknowledged (PUBACK, PUBREC) only when it is safe: written to the log and synced where
/// there is one, else when the checkpoint after it is committed. QoS 1 delivers at least once; QoS 2 exactly once, also
/// over a crash: the identifiers that are taken and not released yet are logged with the messages. Sessions of clients
/// that ask for one are logged too, so that a client which comes back after a crash goes on where it was.
///
/// It takes messages in and routes none: subscriptions are answered with a failure code, the retain flag is
/// passed over, and a message on a topic that fits none of `topics` is refused with reason code 0x90 in MQTT 5;
/// MQTT 3.1.1 has no way to say so, and there it is acknowledged, counted (`refused_messages`) and dropped. A last will
/// becomes a message when its client is lost; not when the pipeline stops, nor for clients that were connected when the
/// process was killed. A packet that breaks the rules closes its connection with a reason code and counts
/// (`disconnects`); nothing else is touched by it. Where the pipeline is full, sockets are not read.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttListenConfig {
    /// Address and port to listen on: `0.0.0.0:1883` for all networks, `127.0.0.1:1883` for this machine only.
    pub listen: String,
    /// Which topics are taken. `+` and `#` are MQTT's wildcards; a name in braces is a `+` whose text becomes a tag
    /// column: `plant/{line}/{device}/telemetry`. All topics of one source name the same tags.
    #[schemars(length(min = 1, max = 64))]
    pub topics: Vec<String>,
    /// User names and their passwords, by reference: `{ press = { env = "PRESS_PASSWORD" } }` or `{ press = { file =
    /// "/run/secrets/press" } }`. Any number of clients may use one name.
    #[serde(default)]
    pub users: IndexMap<String, Secret>,
    /// Whether clients may connect without a user name.
    #[serde(default)]
    pub anonymous: bool,
    /// PEM file with the certificate to show, for TLS. The port then takes encrypted connections only.
    #[serde(default)]
    pub certificate: Option<String>,
    /// PEM file with the private key of `certificate`.
    #[serde(default)]
    pub key: Option<String>,
    /// PEM file with the certificates of the authorities of which every client must show one. Without `users` such a
    /// certificate is all that is asked for.
    #[serde(default)]
    pub client_ca: Option<String>,
    /// Most connections at once; one more is closed at once and counted (`refused_connections`). Four times as many
    /// sessions are kept, beyond that the one that would end first is forgotten.
    #[serde(default = "default_clients")]
    #[schemars(range(min = 1, max = 65_536))]
    pub clients: u32,
    /// Largest packet taken, announced in MQTT 5. A larger one closes the connection; in MQTT 3.1.1, where it cannot be
    /// announced and would come again for ever, it is counted (`oversize_messages`), acknowledged and passed over.
    #[serde(default = "default_packet_size")]
    pub packet_size: Size,
    /// Most messages of one client at QoS 1 and 2 that wait for their answers, announced in MQTT 5 as the receive
    /// maximum. A client of MQTT 3.1.1 is not read from while so many wait. All kept sessions together hold at most
    /// `clients` × `in_flight` identifiers of QoS 2.
    #[serde(default = "default_in_flight")]
    #[schemars(range(min = 1))]
    pub in_flight: u16,
    /// Most messages per second of one client, on average; as many may come at once. A faster one is read from more
    /// slowly. Without it there is no limit.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub rate: Option<u32>,
    /// Longest topic, in bytes; a longer one is refused like one that fits no pattern.
    #[serde(default = "default_topic_length")]
    #[schemars(range(min = 1))]
    pub topic_length: u16,
    /// How long a client may take to log in, TLS included.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Period,
    /// Longest time that a session is kept after its connection is lost; a client of MQTT 5 may ask for less. After a
    /// restart it counts from there.
    #[serde(default = "default_session_expiry")]
    pub session_expiry: Period,
}

fn default_clients() -> u32 {
    1000
}

fn default_packet_size() -> Size {
    Size(256 << 10)
}

fn default_in_flight() -> u16 {
    1000
}

fn default_topic_length() -> u16 {
    256
}

fn default_connect_timeout() -> Period {
    Period::seconds(10)
}

fn default_session_expiry() -> Period {
    Period::seconds(86_400)
}

/// The smallest limit for packets: CONNECT, the head of a message and its topic have room in it.
const PACKET_BYTES_MIN: usize = 1024;

/// The largest packet that MQTT can write: 256 MiB.
const PACKET_BYTES_MAX: usize = 268_435_455;

impl MqttListenConfig {
    fn tls(&self, problems: &mut Vec<Problem>) -> Option<ServerTlsSettings> {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some(ServerTlsSettings {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: self.client_ca.clone(),
            }),
            (None, None) => {
                if self.client_ca.is_some() {
                    problems.push(
                        Problem::new("client_ca", "client certificates need TLS")
                            .help("give `certificate` and `key` too"),
                    );
                }
                None
            }
            _ => {
                problems.push(Problem::new("", "`certificate` and `key` go together: one is missing"));
                None
            }
        }
    }

    fn check_access(&self, problems: &mut Vec<Problem>) {
        if self.users.is_empty() && !self.anonymous && self.client_ca.is_none() {
            problems.push(
                Problem::new("", "nobody could connect: there are no users")
                    .help("list `users`, demand certificates with `client_ca`, or write `anonymous = true`"),
            );
        }
        for name in self.users.keys() {
            if name.is_empty() || name.contains('\0') {
                problems.push(Problem::new("users", "a user name is not empty and has no NUL"));
            }
        }
    }

    fn notes(&self, listen: SocketAddr) -> Vec<String> {
        let mut notes = Vec::new();
        if self.certificate.is_none() && !listen.ip().is_loopback() {
            notes.push(if self.users.is_empty() {
                "anyone who reaches the port can send messages, and anyone on the way can read and change them"
                    .to_owned()
            } else {
                "without TLS (`certificate`, `key`) passwords and messages can be read on the way".to_owned()
            });
        }
        let buffers = u64::from(self.clients) * (self.packet_size.as_usize() as u64 + (64 << 10));
        notes.push(format!(
            "packets that {} clients have sent in part can take {} of memory (`clients` × (`packet_size` + 64KiB))",
            self.clients,
            Size(buffers)
        ));
        notes
    }
}

impl SourceConfig for MqttListenConfig {
    const TYPE: &'static str = "mqtt_listen";
    const EXAMPLES: &'static [&'static str] = &[
        r#"listen = "127.0.0.1:1883"
anonymous = true
topics = ["plant/{line}/{device}/telemetry"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { temp = "f64", vib = "f64", rpm = "i64" }"#,
        r#"listen = "0.0.0.0:8883"
topics = ["meters/{meter}"]
certificate = "/etc/tidegate/server.pem"
key = "/etc/tidegate/server.key"
client_ca = "/etc/tidegate/plant-ca.pem"
users = { meters = { env = "METERS_PASSWORD" } }
rate = 100"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSource> {
        let mut problems = Vec::new();
        let listen: Option<SocketAddr> = self.listen.parse().ok();
        if listen.is_none() {
            problems.push(
                Problem::new("listen", format!("`{}` is not an address with a port", self.listen))
                    .help("write for example \"0.0.0.0:1883\" or \"[::]:1883\""),
            );
        }
        let tls = self.tls(&mut problems);
        self.check_access(&mut problems);
        let filters = filters(&self.topics, &mut problems);
        for (index, topic) in self.topics.iter().enumerate() {
            if topic.starts_with("$share/") {
                problems.push(
                    Problem::new(format!("topics[{index}]"), "clients publish here; nothing is shared")
                        .help("leave `$share/GROUP/` out"),
                );
            }
        }
        let packet_bytes_max = self.packet_size.as_usize();
        if !(PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&packet_bytes_max) {
            problems.push(Problem::new("packet_size", "must be from 1KiB to 255MiB"));
        }
        if self.connect_timeout.0.is_zero() {
            problems.push(Problem::new("connect_timeout", "nobody could connect in no time"));
        }
        let (Some(listen), true) = (listen, problems.is_empty()) else { return Err(problems) };
        let notes = self.notes(listen);
        let settings = ListenSettings {
            listen,
            tls,
            anonymous: self.anonymous,
            users: self.users.into_iter().collect(),
            connect_timeout: self.connect_timeout.0,
            server: ServerSettings {
                filters: TopicFilters::new(&filters),
                topic_bytes_max: usize::from(self.topic_length),
                packet_bytes_max,
                in_flight: self.in_flight,
                rate: self.rate,
                clients_max: self.clients as usize,
                // What MQTT can write: 32 bits of seconds.
                session_expiry: self.session_expiry.0.min(Duration::from_secs(u64::from(u32::MAX))),
                batch: context.batch,
            },
        };
        let in_flight = self.clients.saturating_mul(u32::from(self.in_flight));
        let source = ListenSource::new(settings);
        let connected = Some(source.listening());
        Ok(BuiltSource {
            source: Box::new(source),
            output: SourceOutput::Raw,
            topics: self.topics,
            acknowledges: true,
            live: true,
            companion: None,
            connected,
            delivery: Some(Delivery {
                comes_again: true,
                decided_by: "",
                in_flight,
                in_flight_key: "in_flight",
                shared: Vec::new(),
                shared_by_topic: false,
            }),
            vitals: None,
            notes,
        })
    }
}
