//! rumqttc's two clients behind one face, as far as a publisher needs them. One value is one connection: it is never
//! asked to connect again, so that rumqttc's own memory of unacknowledged messages plays no part.

use std::time::Duration;

use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5 as packet5;
use rumqttc::{Outgoing, Packet, TlsConfiguration, Transport};

use super::publisher::{Message, Protocol, PublisherSettings};
use super::secret;
use crate::error::Result;

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// What is sent is small beside this; what comes in is acknowledgements.
const INCOMING_BYTES_MAX: usize = 64 << 10;

/// Room for the packet's head, its topic and identifier beside the payload.
pub(super) const HEAD_BYTES: usize = 16;

/// What a connection needs, secrets included.
#[derive(Clone)]
pub(super) struct Connect {
    host: String,
    port: u16,
    tls: Option<TlsConfiguration>,
    client_id: String,
    login: Option<(String, String)>,
    keep_alive: Duration,
    packet_bytes_max: usize,
    in_flight: u16,
}

impl Connect {
    /// Reads secrets and certificates.
    pub(super) fn new(settings: &PublisherSettings) -> Result<Self> {
        let login = match (&settings.username, &settings.password) {
            (Some(user), Some(password)) => Some((user.clone(), secret::resolve(password)?)),
            (Some(user), None) => Some((user.clone(), String::new())),
            (None, _) => None,
        };
        let tls = settings.tls.as_ref().map(|tls| tls.client_config()).transpose()?;
        let random = || format!("tidegate-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        Ok(Self {
            host: settings.host.clone(),
            port: settings.port,
            tls: tls.map(TlsConfiguration::Rustls),
            client_id: settings.client_id.clone().unwrap_or_else(random),
            login,
            keep_alive: settings.keep_alive,
            packet_bytes_max: settings.packet_bytes_max,
            in_flight: settings.in_flight,
        })
    }

    fn transport(&self) -> Transport {
        self.tls.clone().map_or_else(Transport::tcp, Transport::tls_with_config)
    }

    /// A connection that will be made by polling its events.
    pub(super) fn start(&self, protocol: Protocol) -> (Client, Events) {
        let capacity = usize::from(self.in_flight) + 2;
        match protocol {
            Protocol::V4 => {
                let mut options = rumqttc::MqttOptions::new(&self.client_id, &self.host, self.port);
                options.set_transport(self.transport());
                options.set_keep_alive(self.keep_alive);
                options.set_clean_session(true);
                options.set_inflight(self.in_flight);
                options.set_max_packet_size(INCOMING_BYTES_MAX, self.packet_bytes_max);
                if let Some((user, password)) = &self.login {
                    options.set_credentials(user, password);
                }
                let (client, mut events) = rumqttc::AsyncClient::new(options, capacity);
                events.network_options.set_connection_timeout(CONNECT_MAX.as_secs());
                events.network_options.set_tcp_nodelay(true);
                (Client::V4(client), Events::V4(Box::new(events)))
            }
            Protocol::V5 => {
                let mut options = v5::MqttOptions::new(&self.client_id, &self.host, self.port);
                options.set_transport(self.transport());
                options.set_keep_alive(self.keep_alive);
                options.set_clean_start(true);
                options.set_outgoing_inflight_upper_limit(self.in_flight);
                options.set_connection_timeout(CONNECT_MAX.as_secs());
                let mut network = rumqttc::NetworkOptions::new();
                network.set_tcp_nodelay(true);
                options.set_network_options(network);
                if let Some((user, password)) = &self.login {
                    options.set_credentials(user, password);
                }
                let (client, events) = v5::AsyncClient::new(options, capacity);
                (Client::V5(client), Events::V5(Box::new(events)))
            }
        }
    }
}

/// Puts messages into a connection; never waits.
#[derive(Clone)]
pub(super) enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

impl Client {
    /// Hands a message over; false if the connection takes none now.
    pub(super) fn publish(&self, message: &Message) -> bool {
        use rumqttc::QoS as Qos4;
        use v5::mqttbytes::QoS as Qos5;
        let (topic, retain) = (message.topic.as_str(), message.retain);
        match self {
            Self::V4(client) => {
                let qos = if message.qos == 0 { Qos4::AtMostOnce } else { Qos4::AtLeastOnce };
                client.try_publish(topic, qos, retain, message.payload.as_ref()).is_ok()
            }
            Self::V5(client) => {
                let qos = if message.qos == 0 { Qos5::AtMostOnce } else { Qos5::AtLeastOnce };
                let payload = message.payload.clone();
                if !message.replayed {
                    return client.try_publish(topic, qos, retain, payload).is_ok();
                }
                let properties = packet5::PublishProperties {
                    user_properties: vec![("replayed".to_owned(), "true".to_owned())],
                    ..packet5::PublishProperties::default()
                };
                client.try_publish_with_properties(topic, qos, retain, payload, properties).is_ok()
            }
        }
    }

    /// Says goodbye to the broker.
    pub(super) fn disconnect(&self) {
        // If it takes nothing now it is down or stuck, and closing the socket says the same.
        let _ = match self {
            Self::V4(client) => client.try_disconnect().is_ok(),
            Self::V5(client) => client.try_disconnect().is_ok(),
        };
    }
}

/// What happens on a connection.
#[derive(Debug)]
pub(super) enum Happened {
    /// It is up. A broker may state the largest packet that it takes, in bytes.
    Connected { packet_bytes_max: Option<usize> },
    /// The next message in turn was written to the socket, under this packet identifier (0 at QoS 0).
    Written(u16),
    /// The broker has it; the reason if it will not do anything with it.
    Acknowledged(u16, Option<String>),
    /// Nothing that matters here.
    Other,
}

/// Why a connection did not come up or ended.
#[derive(Debug)]
pub(super) struct Lost {
    /// In words.
    pub reason: String,
    /// Whether the broker may not speak this version.
    pub version: bool,
}

/// The events of one connection, in order. Must be polled alone and never dropped half-way.
pub(super) enum Events {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

impl Events {
    /// The next event.
    pub(super) async fn next(&mut self) -> std::result::Result<Happened, Lost> {
        match self {
            Self::V4(events) => events.poll().await.map(happened_v4).map_err(|error| lost_v4(&error)),
            Self::V5(events) => events.poll().await.map(happened_v5).map_err(|error| lost_v5(&error)),
        }
    }

    /// What had happened before the connection ended and was not told yet: acknowledgements that came with the end.
    pub(super) fn rest(&mut self) -> Vec<Happened> {
        match self {
            Self::V4(events) => events.state.events.drain(..).map(happened_v4).collect(),
            Self::V5(events) => events.state.events.drain(..).map(happened_v5).collect(),
        }
    }
}

fn happened_v4(event: rumqttc::Event) -> Happened {
    match event {
        rumqttc::Event::Incoming(Packet::ConnAck(_)) => Happened::Connected { packet_bytes_max: None },
        rumqttc::Event::Incoming(Packet::PubAck(ack)) => Happened::Acknowledged(ack.pkid, None),
        rumqttc::Event::Outgoing(Outgoing::Publish(packet)) => Happened::Written(packet),
        _ => Happened::Other,
    }
}

fn happened_v5(event: v5::Event) -> Happened {
    use packet5::PubAckReason as Reason;
    match event {
        v5::Event::Incoming(packet5::Packet::ConnAck(ack)) => {
            let stated = ack.properties.and_then(|properties| properties.max_packet_size);
            Happened::Connected { packet_bytes_max: stated.map(|bytes| bytes as usize) }
        }
        v5::Event::Incoming(packet5::Packet::PubAck(ack)) => {
            let refused = match ack.reason {
                Reason::Success | Reason::NoMatchingSubscribers => None,
                reason => Some(format!("{reason:?}")),
            };
            Happened::Acknowledged(ack.pkid, refused)
        }
        v5::Event::Outgoing(Outgoing::Publish(packet)) => Happened::Written(packet),
        _ => Happened::Other,
    }
}

fn lost_v4(error: &rumqttc::ConnectionError) -> Lost {
    use rumqttc::ConnectionError as Failure;
    // A broker that does not know a version answers nonsense or closes the connection.
    let version = match error {
        Failure::Io(error) => closed(error),
        Failure::ConnectionRefused(code) => *code == rumqttc::ConnectReturnCode::RefusedProtocolVersion,
        Failure::MqttState(_) | Failure::NotConnAck(_) => true,
        _ => false,
    };
    Lost { reason: error.to_string(), version }
}

fn lost_v5(error: &v5::ConnectionError) -> Lost {
    use v5::ConnectionError as Failure;
    let version = match error {
        Failure::Io(error) => closed(error),
        Failure::ConnectionRefused(code) => {
            use packet5::ConnectReturnCode as Code;
            matches!(code, Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion)
        }
        Failure::MqttState(_) | Failure::NotConnAck(_) => true,
        _ => false,
    };
    Lost { reason: error.to_string(), version }
}

fn closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
    )
}
