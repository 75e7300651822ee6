//! One connection to a broker: from the first byte to the subscription, then reading and acknowledging.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::tokio_rustls::TlsConnector;
use rumqttc::tokio_rustls::rustls::pki_types::ServerName;
use rumqttc::{Packet, v5};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::net::tls::TlsSettings;
use crate::source::mqtt_wire::{self as wire, Protocol};

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// Handshake packets are small; larger ones are no answer to ours.
const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

/// What a connection needs to know.
#[derive(Clone)]
pub struct ConnectSettings {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS, if the connection is to be encrypted.
    pub tls: Option<TlsSettings>,
    /// The client identifier.
    pub client_id: String,
    /// Whether the broker forgets the session when the connection ends.
    pub clean: bool,
    /// How long (seconds) a broker that speaks MQTT 5 keeps the session.
    pub session_expiry: u32,
    /// Most unacknowledged messages under way, where the broker speaks MQTT 5.
    pub receive_max: u16,
    /// The largest packet to announce, where the broker speaks MQTT 5.
    pub packet_bytes_max: u32,
    /// Seconds between signs of life.
    pub keep_alive: u16,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// Filters to subscribe to.
    pub filters: Vec<String>,
    /// 0, 1 or 2.
    pub qos: u8,
}

/// Why a connection did not come up or ended.
#[derive(Debug)]
pub struct Lost {
    /// In words.
    pub reason: String,
    /// Whether the broker does not seem to speak the version that was tried.
    pub version: bool,
}

impl Lost {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), version: false }
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// What a peer that is no broker of this version does.
const NOT_CONNACK: &str = "the broker answers CONNECT with another packet";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is subscribed.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// The version agreed on.
    pub protocol: Protocol,
    /// Whether the broker still had the session.
    pub session_present: bool,
    /// Bytes received and not yet taken.
    pub received: BytesMut,
    /// Bytes to be sent, some of them sent already: to be added to.
    pub sending: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Connects, logs in and subscribes.
    ///
    /// # Errors
    /// Why not; the caller decides about trying again.
    pub async fn open(settings: Arc<ConnectSettings>, protocol: Protocol) -> Result<Self, Lost> {
        match tokio::time::timeout(CONNECT_MAX, Self::handshake(&settings, protocol)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Lost::new(format!("no answer within {} s", CONNECT_MAX.as_secs()))),
        }
    }

    async fn handshake(settings: &ConnectSettings, protocol: Protocol) -> Result<Self, Lost> {
        let tcp = TcpStream::connect((settings.host.as_str(), settings.port)).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &settings.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let config = tls.client_config().map_err(|error| Lost::new(error.message))?;
                let name = ServerName::try_from(settings.host.clone()).map_err(|_| {
                    Lost::new(format!("`{}` is not a name that TLS can check", settings.host))
                })?;
                Box::new(TlsConnector::from(config).connect(name, tcp).await?)
            }
        };
        let mut connection = Self {
            stream,
            protocol,
            session_present: false,
            received: BytesMut::with_capacity(READ_BYTES),
            sending: Vec::new(),
            sent: 0,
        };
        connection.connect(settings).await?;
        connection.subscribe(settings).await?;
        Ok(connection)
    }

    async fn connect(&mut self, settings: &ConnectSettings) -> Result<(), Lost> {
        let mut bytes = BytesMut::new();
        let written = match self.protocol {
            Protocol::V4 => {
                let mut connect = rumqttc::Connect::new(&settings.client_id);
                connect.keep_alive = settings.keep_alive;
                connect.clean_session = settings.clean;
                if let Some((user, password)) = &settings.login {
                    connect.set_login(user, password);
                }
                connect.write(&mut bytes).map_err(|error| error.to_string())
            }
            Protocol::V5 => {
                let mut properties = v5::mqttbytes::v5::ConnectProperties::new();
                properties.session_expiry_interval = (!settings.clean).then_some(settings.session_expiry);
                properties.receive_maximum = Some(settings.receive_max);
                properties.max_packet_size = Some(settings.packet_bytes_max);
                let connect = v5::mqttbytes::v5::Connect {
                    keep_alive: settings.keep_alive,
                    client_id: settings.client_id.clone(),
                    clean_start: settings.clean,
                    properties: Some(properties),
                };
                let login = settings.login.as_ref();
                let login = login.map(|(user, password)| v5::mqttbytes::v5::Login::new(user, password));
                connect.write(&None, &login, &mut bytes).map_err(|error| error.to_string())
            }
        };
        written.map_err(Lost::new)?;
        self.stream.write_all(&bytes).await?;
        // A broker that knows only the other version closes the connection or says so.
        let refused = |reason: String| Lost { reason, version: true };
        let packet = match self.next_handshake_packet().await {
            Ok(packet) => packet,
            Err(lost) => return Err(refused(lost.reason)),
        };
        match packet {
            Handshake::V4(packet) => {
                let Packet::ConnAck(ack) = packet else { return Err(refused(NOT_CONNACK.to_owned())) };
                self.session_present = ack.session_present;
                match ack.code {
                    rumqttc::ConnectReturnCode::Success => Ok(()),
                    rumqttc::ConnectReturnCode::RefusedProtocolVersion => {
                        Err(refused("the broker does not speak MQTT 3.1.1".to_owned()))
                    }
                    code => Err(Lost::new(format!("the broker refuses the connection: {code:?}"))),
                }
            }
            Handshake::V5(packet) => {
                let v5::mqttbytes::v5::Packet::ConnAck(ack) = *packet else {
                    return Err(refused(NOT_CONNACK.to_owned()));
                };
                use v5::mqttbytes::v5::ConnectReturnCode as Code;
                self.session_present = ack.session_present;
                match ack.code {
                    Code::Success => Ok(()),
                    Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
                        Err(refused("the broker does not speak MQTT 5".to_owned()))
                    }
                    code => Err(Lost::new(format!("the broker refuses the connection: {code:?}"))),
                }
            }
        }
    }

    async fn subscribe(&mut self, settings: &ConnectSettings) -> Result<(), Lost> {
        let mut bytes = BytesMut::new();
        let written = match self.protocol {
            Protocol::V4 => {
                let qos = rumqttc::qos(settings.qos).map_err(|error| Lost::new(error.to_string()))?;
                let filters = settings.filters.iter().cloned();
                let mut subscribe = rumqttc::Subscribe::new_many(
                    filters.map(|filter| rumqttc::SubscribeFilter::new(filter, qos)),
                );
                subscribe.pkid = 1;
                subscribe.write(&mut bytes).map_err(|error| error.to_string())
            }
            Protocol::V5 => {
                use v5::mqttbytes::{QoS, v5::Filter, v5::Subscribe};
                let qos = match settings.qos {
                    0 => QoS::AtMostOnce,
                    1 => QoS::AtLeastOnce,
                    _ => QoS::ExactlyOnce,
                };
                let filters = settings.filters.iter().map(|filter| Filter::new(filter.clone(), qos));
                let mut subscribe = Subscribe::new_many(filters, None);
                subscribe.pkid = 1;
                subscribe.write(&mut bytes).map_err(|error| error.to_string())
            }
        };
        written.map_err(Lost::new)?;
        self.stream.write_all(&bytes).await?;
        // Messages of the old session may come before the answer; the reader takes SUBACK in its stride.
        Ok(())
    }

    async fn next_handshake_packet(&mut self) -> Result<Handshake, Lost> {
        loop {
            if let Some(head) = wire::head(&self.received).map_err(Lost::new)? {
                if head.body.end > HANDSHAKE_BYTES_MAX {
                    return Err(Lost::new("the broker's first packet is too long"));
                }
                if self.received.len() >= head.body.end {
                    let mut packet = self.received.split_to(head.body.end);
                    return parse(&mut packet, self.protocol);
                }
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(Lost::new("the broker closes the connection"));
            }
        }
    }

    /// Reads what has come; cancel-safe.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn read(&mut self) -> Result<(), Lost> {
        if self.received.capacity() - self.received.len() < READ_BYTES / 4 {
            self.received.reserve(READ_BYTES);
        }
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(Lost::new("the broker closes the connection")),
            _ => Ok(()),
        }
    }

    /// Adds a PINGREQ to what is to be sent.
    pub fn ping(&mut self) {
        self.sending.extend_from_slice(&[0xc0, 0]);
    }

    /// Whether something waits to be sent.
    pub fn has_to_send(&self) -> bool {
        self.sent < self.sending.len()
    }

    /// Sends what is to be sent; cancel-safe.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn send(&mut self) -> Result<(), Lost> {
        while self.has_to_send() {
            self.sent += self.stream.write(&self.sending[self.sent..]).await?;
        }
        self.stream.flush().await?;
        self.sending.clear();
        self.sent = 0;
        Ok(())
    }

    /// Says good-bye as far as that is possible at once.
    pub async fn close(mut self) {
        let goodbye = async {
            self.send().await?;
            self.stream.write_all(&[0xe0, 0]).await?;
            self.stream.shutdown().await?;
            Ok::<_, Lost>(())
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    }
}

/// A packet of either version, other than PUBLISH.
pub enum Handshake {
    /// MQTT 3.1.1.
    V4(Packet),
    /// MQTT 5.
    V5(Box<v5::mqttbytes::v5::Packet>),
}

/// Reads a whole packet through rumqttc.
///
/// # Errors
/// If it is malformed.
pub fn parse(packet: &mut BytesMut, protocol: Protocol) -> Result<Handshake, Lost> {
    let size = packet.len();
    match protocol {
        Protocol::V4 => {
            Packet::read(packet, size).map(Handshake::V4).map_err(|error| Lost::new(error.to_string()))
        }
        Protocol::V5 => v5::mqttbytes::v5::Packet::read(packet, Some(size as u32))
            .map(|packet| Handshake::V5(Box::new(packet)))
            .map_err(|error| Lost::new(error.to_string())),
    }
}

/// Takes a packet other than PUBLISH and PUBREL; a subscription that is granted is noted.
///
/// # Errors
/// If the connection is of no use.
pub fn control(
    packet: &mut bytes::BytesMut,
    protocol: Protocol,
    subscribed: &AtomicBool,
) -> std::result::Result<(), Lost> {
    use rumqttc::{Packet, SubscribeReasonCode as V4Code, v5::mqttbytes::v5};
    let refused = |what: String| Lost { reason: what, version: false };
    match parse(packet, protocol)? {
        Handshake::V4(Packet::SubAck(ack)) => {
            match ack.return_codes.iter().position(|code| *code == V4Code::Failure) {
                Some(index) => Err(refused(format!("the broker refuses subscription {}", index + 1))),
                None => {
                    subscribed.store(true, Ordering::Relaxed);
                    Ok(())
                }
            }
        }
        Handshake::V4(_) => Ok(()),
        Handshake::V5(packet) => match *packet {
            v5::Packet::SubAck(ack) => {
                let granted =
                    |code: &v5::SubscribeReasonCode| matches!(code, v5::SubscribeReasonCode::Success(_));
                match ack.return_codes.iter().find(|code| !granted(code)) {
                    Some(code) => Err(refused(format!("the broker refuses a subscription: {code:?}"))),
                    None => {
                        subscribed.store(true, Ordering::Relaxed);
                        Ok(())
                    }
                }
            }
            v5::Packet::Disconnect(disconnect) => {
                Err(refused(format!("the broker ends the connection: {:?}", disconnect.reason_code)))
            }
            _ => Ok(()),
        },
    }
}
