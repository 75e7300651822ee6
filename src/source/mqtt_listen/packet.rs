//! What a client says, read where it lies, and what it is answered. Pure.
//!
//! rumqttc's packet types are those of a client: what they read from a server they read well, but they pass over much
//! that a server must refuse (reserved flags, a property that comes twice, a will of quality 3), and never say with
//! which reason code. So the few packets that come in here are read here, without a copy, and every length is checked
//! against what is there before anything is made of it.
//! MQTT 3.1.1 (OASIS, 2014) section 3; MQTT 5.0 (OASIS, 2019) section 3.

use crate::source::mqtt_wire::{Protocol, field, identifier, next_property, property, property_bytes};

/// Why a connection is refused or closed: the reason code of MQTT 5 and the word it is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// The code in DISCONNECT and CONNACK of MQTT 5 (section 2.4); 0 where the client just left.
    pub code: u8,
    /// The word in metrics.
    pub word: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal $word:literal;)*) => {
        impl Reason {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, word: $word };)*
        }
    };
}

reasons! {
    /// The client said good-bye.
    LEFT = 0x00 "left";
    /// The connection ended without a good-bye.
    LOST = 0x80 "connection_lost";
    /// A packet that cannot be read.
    MALFORMED = 0x81 "malformed_packet";
    /// A packet that may not come there.
    PROTOCOL = 0x82 "protocol_error";
    /// Neither 3.1.1 nor 5.
    VERSION = 0x84 "unsupported_version";
    /// A client identifier that is not taken.
    CLIENT_ID = 0x85 "client_identifier";
    /// Wrong name or password, or none.
    LOGIN = 0x86 "bad_login";
    /// More clients than there is room for.
    BUSY = 0x89 "too_many_clients";
    /// The pipeline stops.
    STOPPING = 0x8b "stopping";
    /// A method of authentication that is not known.
    METHOD = 0x8c "authentication_method";
    /// Nothing came for one and a half times the keep-alive, or no CONNECT in time.
    SILENT = 0x8d "keep_alive";
    /// Another connection came with the same client identifier.
    TAKEN_OVER = 0x8e "taken_over";
    /// A topic that no pattern fits.
    TOPIC = 0x90 "topic";
    /// More messages under way than was announced.
    IN_FLIGHT = 0x93 "receive_maximum";
    /// A topic alias, which was not offered.
    ALIAS = 0x94 "topic_alias";
    /// A packet larger than announced.
    TOO_LARGE = 0x95 "packet_too_large";
    /// More identifiers of QoS 2 held than there is room for.
    QUOTA = 0x97 "quota";
    /// TLS did not come about.
    TLS = 0x80 "tls";
}

impl Reason {
    /// What CONNACK of MQTT 3.1.1 says (section 3.2.2.3); `None` where it has no code and the connection just closes.
    fn return_code(self) -> Option<u8> {
        match self {
            Self::VERSION => Some(1),
            Self::CLIENT_ID => Some(2),
            Self::BUSY | Self::STOPPING => Some(3),
            Self::LOGIN => Some(4),
            Self::METHOD => Some(5),
            _ => None,
        }
    }
}

/// The last will of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// Seconds between the loss of the connection and the message.
    pub delay: u32,
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    pub protocol: Protocol,
    /// Whether what an earlier session left is forgotten.
    pub clean: bool,
    /// Seconds; 0 for none.
    pub keep_alive: u16,
    pub client_id: &'a str,
    /// Seconds that the session outlives the connection.
    pub session_expiry: u32,
    pub will: Option<Will<'a>>,
    pub user: Option<&'a str>,
    pub password: Option<&'a [u8]>,
}

/// Why CONNECT is refused, and in which version to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub protocol: Protocol,
}

/// Text as MQTT wants it: UTF-8 without NUL.
pub fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// What of the properties of a packet is of interest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Noted {
    pub session_expiry: Option<u32>,
    pub will_delay: Option<u32>,
    pub topic_alias: bool,
    pub subscription: bool,
    pub authentication: bool,
}

/// Reads all properties, so that none of them is malformed, unknown or there twice.
pub fn note(mut bytes: &[u8]) -> Result<Noted, Reason> {
    let mut noted = Noted::default();
    let mut seen = 0u64;
    while !bytes.is_empty() {
        let (found, rest) = next_property(bytes).ok_or(Reason::MALFORMED)?;
        bytes = rest;
        let bit = 1u64 << (found.id & 63);
        if found.id != property::USER && seen & bit != 0 {
            return Err(Reason::PROTOCOL);
        }
        seen |= bit;
        match found.id {
            property::SESSION_EXPIRY => noted.session_expiry = Some(found.number),
            property::WILL_DELAY => noted.will_delay = Some(found.number),
            property::TOPIC_ALIAS => noted.topic_alias = true,
            property::SUBSCRIPTION => noted.subscription = true,
            property::AUTHENTICATION_METHOD => noted.authentication = true,
            // None of these may be 0 (section 3.1.2.11).
            property::RECEIVE_MAXIMUM | property::PACKET_BYTES_MAX if found.number == 0 => {
                return Err(Reason::PROTOCOL);
            }
            _ => {}
        }
    }
    Ok(noted)
}

/// Reads the body of CONNECT.
///
/// # Errors
/// Why it is refused.
pub fn connect(body: &[u8]) -> Result<Connect<'_>, Refusal> {
    let old = |reason| Refusal { reason, protocol: Protocol::V4 };
    let (name, rest) = field(body).ok_or(old(Reason::MALFORMED))?;
    let (level, rest) = rest.split_first().ok_or(old(Reason::MALFORMED))?;
    let protocol = match (name, level) {
        (b"MQTT", 4) => Protocol::V4,
        (b"MQTT", 5) => Protocol::V5,
        (b"MQTT", 6..) => return Err(Refusal { reason: Reason::VERSION, protocol: Protocol::V5 }),
        (b"MQTT" | b"MQIsdp", _) => return Err(old(Reason::VERSION)),
        _ => return Err(old(Reason::MALFORMED)),
    };
    connect_rest(protocol, rest).map_err(|reason| Refusal { reason, protocol })
}

fn connect_rest(protocol: Protocol, rest: &[u8]) -> Result<Connect<'_>, Reason> {
    const MALFORMED: Reason = Reason::MALFORMED;
    let five = protocol == Protocol::V5;
    let ([flags, high, low], mut rest) = rest.split_first_chunk::<3>().ok_or(MALFORMED)?;
    let has = |bit: u8| flags & bit != 0;
    let (will_quality, will_retain) = ((flags >> 3) & 3, has(0x20));
    if has(0x01) || will_quality == 3 || (!has(0x04) && (will_quality != 0 || will_retain)) {
        return Err(MALFORMED);
    }
    if !five && has(0x40) && !has(0x80) {
        return Err(MALFORMED);
    }
    let mut noted = Noted::default();
    if five {
        let (properties, behind) = property_bytes(rest).ok_or(MALFORMED)?;
        noted = note(properties)?;
        rest = behind;
    }
    let (client_id, mut rest) = field(rest).ok_or(MALFORMED)?;
    let client_id = text(client_id).ok_or(Reason::CLIENT_ID)?;
    let mut will = None;
    if has(0x04) {
        let mut delay = 0;
        if five {
            let (properties, behind) = property_bytes(rest).ok_or(MALFORMED)?;
            delay = note(properties)?.will_delay.unwrap_or(0);
            rest = behind;
        }
        let (topic, behind) = field(rest).ok_or(MALFORMED)?;
        let (payload, behind) = field(behind).ok_or(MALFORMED)?;
        let topic = text(topic).filter(|topic| is_topic(topic)).ok_or(MALFORMED)?;
        will = Some(Will { topic, payload, delay });
        rest = behind;
    }
    let (mut user, mut password) = (None, None);
    if has(0x80) {
        let (name, behind) = field(rest).ok_or(MALFORMED)?;
        user = Some(text(name).ok_or(MALFORMED)?);
        rest = behind;
    }
    if has(0x40) {
        let (secret, behind) = field(rest).ok_or(MALFORMED)?;
        password = Some(secret);
        rest = behind;
    }
    if !rest.is_empty() {
        return Err(MALFORMED);
    }
    if noted.authentication {
        return Err(Reason::METHOD);
    }
    let clean = has(0x02);
    // A session of 3.1.1 lives on unless it is clean; how long is for the server to say.
    let session_expiry = match (five, clean) {
        (true, _) => noted.session_expiry.unwrap_or(0),
        (false, true) => 0,
        (false, false) => u32::MAX,
    };
    let keep_alive = u16::from_be_bytes([*high, *low]);
    Ok(Connect { protocol, clean, keep_alive, client_id, session_expiry, will, user, password })
}

/// Whether a text can be the topic of a message.
pub fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#'])
}

/// PUBREL and its kin, and the first two bytes of SUBSCRIBE: the packet identifier, which is not 0, and the rest.
pub fn packet_identifier(body: &[u8]) -> Result<(u16, &[u8]), Reason> {
    identifier(body).filter(|(packet, _)| *packet != 0).ok_or(Reason::MALFORMED)
}

/// Reads SUBSCRIBE or UNSUBSCRIBE: its packet identifier and how many filters it names, at least one.
pub fn filters(body: &[u8], subscribe: bool, protocol: Protocol) -> Result<(u16, usize), Reason> {
    let (packet, mut rest) = packet_identifier(body)?;
    if protocol == Protocol::V5 {
        let (properties, behind) = property_bytes(rest).ok_or(Reason::MALFORMED)?;
        note(properties)?;
        rest = behind;
    }
    let mut count = 0;
    while !rest.is_empty() {
        let (filter, behind) = field(rest).ok_or(Reason::MALFORMED)?;
        text(filter).filter(|filter| !filter.is_empty()).ok_or(Reason::MALFORMED)?;
        rest = if subscribe { behind.get(1..).ok_or(Reason::MALFORMED)? } else { behind };
        count += 1;
    }
    if count == 0 { Err(Reason::PROTOCOL) } else { Ok((packet, count)) }
}

/// Reads DISCONNECT of MQTT 5: its reason code and a new session expiry.
pub fn disconnect(body: &[u8]) -> Result<(u8, Option<u32>), Reason> {
    let Some((code, rest)) = body.split_first() else { return Ok((0, None)) };
    if rest.is_empty() {
        return Ok((*code, None));
    }
    let (properties, behind) = property_bytes(rest).ok_or(Reason::MALFORMED)?;
    if !behind.is_empty() {
        return Err(Reason::MALFORMED);
    }
    Ok((*code, note(properties)?.session_expiry))
}

/// What an accepted client is told.
#[derive(Debug, Clone, Copy)]
pub struct Accepted<'a> {
    pub session_present: bool,
    /// The name it was given, if it came without one (MQTT 5).
    pub assigned: Option<&'a str>,
    /// Seconds that its session is kept, if fewer than it asked for (MQTT 5).
    pub session_expiry: Option<u32>,
    pub receive_max: u16,
    pub packet_bytes_max: u32,
}

/// Appends CONNACK with success.
pub fn accept(protocol: Protocol, told: &Accepted<'_>, out: &mut Vec<u8>) {
    let present = u8::from(told.session_present);
    if protocol == Protocol::V4 {
        out.extend_from_slice(&[0x20, 2, present, 0]);
        return;
    }
    let mut properties = Vec::with_capacity(32);
    if let Some(seconds) = told.session_expiry {
        properties.push(property::SESSION_EXPIRY);
        properties.extend_from_slice(&seconds.to_be_bytes());
    }
    if let Some(client) = told.assigned {
        properties.push(property::ASSIGNED_CLIENT);
        properties.extend_from_slice(&(client.len() as u16).to_be_bytes());
        properties.extend_from_slice(client.as_bytes());
    }
    properties.push(property::RECEIVE_MAXIMUM);
    properties.extend_from_slice(&told.receive_max.to_be_bytes());
    properties.push(property::PACKET_BYTES_MAX);
    properties.extend_from_slice(&told.packet_bytes_max.to_be_bytes());
    // No wildcard, identified or shared subscriptions: there are none at all.
    properties.extend_from_slice(&[0x28, 0, 0x29, 0, 0x2a, 0]);
    // Well below 125 bytes (a name given here has 29): both lengths are one byte.
    out.extend_from_slice(&[0x20, 3 + properties.len() as u8, present, 0, properties.len() as u8]);
    out.extend_from_slice(&properties);
}

/// Appends CONNACK with a refusal, where the version has one for it.
pub fn refuse(refusal: Refusal, out: &mut Vec<u8>) {
    match refusal.protocol {
        Protocol::V5 => out.extend_from_slice(&[0x20, 3, 0, refusal.reason.code, 0]),
        Protocol::V4 => {
            if let Some(code) = refusal.reason.return_code() {
                out.extend_from_slice(&[0x20, 2, 0, code]);
            }
        }
    }
}

/// Appends DISCONNECT, which a server may send in MQTT 5 only.
pub fn dismiss(protocol: Protocol, reason: Reason, out: &mut Vec<u8>) {
    if protocol == Protocol::V5 && reason.code != 0 {
        out.extend_from_slice(&[0xe0, 1, reason.code]);
    }
}

/// Appends SUBACK or UNSUBACK: nothing is subscribed to, and nothing was.
pub fn no_subscription(subscribe: bool, protocol: Protocol, packet: u16, count: usize, out: &mut Vec<u8>) {
    let five = protocol == Protocol::V5;
    let codes = if subscribe || five { count } else { 0 };
    // 0x83: implementation specific error; 0x11: no subscription existed.
    let code = match (subscribe, five) {
        (true, true) => 0x83,
        (true, false) => 0x80,
        (false, _) => 0x11,
    };
    out.push(if subscribe { 0x90 } else { 0xb0 });
    let mut length = 2 + usize::from(five) + codes;
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        out.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(&packet.to_be_bytes());
    if five {
        out.push(0);
    }
    out.resize(out.len() + codes, code);
}
