//! MQTT on the wire, as far as both MQTT sources need it: finding packets in a buffer and reading PUBLISH in place.
//!
//! What else a subscriber reads goes through rumqttc's packet types. PUBLISH is read where it lies, without a copy
//! or an allocation per message (rumqttc's own makes two of each), and a packet that is too large, or whose
//! topic is not UTF-8, costs that message and not the connection.
//! MQTT 3.1.1 (OASIS, 2014) sections 2.2 and 3.3; MQTT 5.0 (OASIS, 2019) sections 2.1 and 3.3.

use std::ops::Range;

/// Which version of the protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// A fixed header that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Packet type, 1 (CONNECT) to 15 (AUTH).
    pub kind: u8,
    /// The four flag bits.
    pub flags: u8,
    /// Where the rest of the packet lies, counted from the start of the packet.
    pub body: Range<usize>,
}

/// A message.
pub const PUBLISH: u8 = 3;
/// Acknowledgement of a PUBLISH at QoS 1.
pub const PUBACK: u8 = 4;
/// First answer to a PUBLISH at QoS 2: the message is taken.
pub const PUBREC: u8 = 5;
/// What the sender says to PUBREC: its identifier may be used again once that is answered.
pub const PUBREL: u8 = 6;
/// Answer to PUBREL.
pub const PUBCOMP: u8 = 7;

/// Reads a fixed header: `Ok(None)` if more bytes are needed.
///
/// # Errors
/// If the length is written with more than four bytes: what follows cannot be found any more.
pub fn head(buffer: &[u8]) -> Result<Option<Head>, &'static str> {
    let Some(first) = buffer.first() else { return Ok(None) };
    let mut length = 0usize;
    for (index, byte) in buffer.iter().skip(1).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let start = index + 2;
            return Ok(Some(Head { kind: first >> 4, flags: first & 0x0f, body: start..start + length }));
        }
        if index == 3 {
            return Err("a packet length longer than four bytes");
        }
    }
    Ok(None)
}

/// A PUBLISH as it lies in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The topic, not yet known to be UTF-8.
    pub topic: &'a [u8],
    /// The message.
    pub payload: &'a [u8],
    /// The packet identifier; 0 at QoS 0.
    pub packet: u16,
    /// The properties of MQTT 5, not yet read; see [`properties`].
    pub properties: &'a [u8],
}

/// The quality of service that the flags of a PUBLISH ask for; 3 is none.
pub fn quality(flags: u8) -> u8 {
    (flags >> 1) & 3
}

/// Reads the body of a PUBLISH; `None` if it is cut short or its QoS is 3.
pub fn publish(flags: u8, body: &[u8], protocol: Protocol) -> Option<Publish<'_>> {
    let (topic, packet, mut rest) = publish_head(flags, body)?;
    let mut properties: &[u8] = &[];
    if protocol == Protocol::V5 {
        (properties, rest) = property_bytes(rest)?;
    }
    Some(Publish { topic, payload: rest, packet, properties })
}

/// Topic, packet identifier and what follows them: enough to acknowledge a packet whose end is not wanted.
pub fn publish_head(flags: u8, body: &[u8]) -> Option<(&[u8], u16, &[u8])> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    match quality(flags) {
        0 => Some((topic, 0, rest)),
        3 => None,
        _ => {
            let (packet, rest) = rest.split_first_chunk::<2>()?;
            Some((topic, u16::from_be_bytes(*packet), rest))
        }
    }
}

/// A number of one to four bytes, low digits first, and what follows it.
pub fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0usize;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// The properties that begin here, with their length in front, and what follows them.
pub fn property_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, behind) = varint(bytes)?;
    behind.split_at_checked(length)
}

/// Text or bytes with a length of two bytes in front, and what follows them.
pub fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// One property of MQTT 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property<'a> {
    /// Which (section 2.2.2.2).
    pub id: u8,
    /// Its value, where that is a number.
    pub number: u32,
    /// Its value, where that is text or bytes; of a pair, the first.
    pub bytes: &'a [u8],
}

/// Properties that matter here, by their numbers.
pub mod property {
    /// Seconds.
    pub const SESSION_EXPIRY: u8 = 0x11;
    /// The identifier that a server chose.
    pub const ASSIGNED_CLIENT: u8 = 0x12;
    /// A method of authentication beyond name and password.
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    /// Seconds.
    pub const WILL_DELAY: u8 = 0x18;
    /// Most messages under way.
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    /// A number in place of a topic.
    pub const TOPIC_ALIAS: u8 = 0x23;
    /// What only a server sends with a message.
    pub const SUBSCRIPTION: u8 = 0x0b;
    /// Pairs of text, the only property that may come twice.
    pub const USER: u8 = 0x26;
    /// Bytes.
    pub const PACKET_BYTES_MAX: u8 = 0x27;
}

/// Reads properties (without the length in front): the next one and what follows; `None` if they are malformed.
/// Section 2.2.2.2 says which has which type.
pub fn next_property(bytes: &[u8]) -> Option<(Property<'_>, &[u8])> {
    let (id, rest) = bytes.split_first()?;
    let number = |number: u32, rest| Some((Property { id: *id, number, bytes: &[] }, rest));
    match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => {
            let (value, rest) = rest.split_first()?;
            number(u32::from(*value), rest)
        }
        0x13 | 0x21 | 0x22 | 0x23 => {
            let (value, rest) = rest.split_first_chunk::<2>()?;
            number(u32::from(u16::from_be_bytes(*value)), rest)
        }
        0x02 | 0x11 | 0x18 | 0x27 => {
            let (value, rest) = rest.split_first_chunk::<4>()?;
            number(u32::from_be_bytes(*value), rest)
        }
        0x0b => {
            let (value, rest) = varint(rest)?;
            number(u32::try_from(value).ok()?, rest)
        }
        0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
            let (bytes, rest) = field(rest)?;
            Some((Property { id: *id, number: 0, bytes }, rest))
        }
        0x26 => {
            let (bytes, rest) = field(rest)?;
            let (_, rest) = field(rest)?;
            Some((Property { id: *id, number: 0, bytes }, rest))
        }
        _ => None,
    }
}

/// The packet identifier that a body begins with, and what follows it.
pub fn identifier(body: &[u8]) -> Option<(u16, &[u8])> {
    let (packet, rest) = body.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*packet), rest))
}

/// Appends an answer that is only a packet identifier: PUBACK, PUBREC, PUBREL or PUBCOMP, the same in both versions
/// when the reason is success.
pub fn answer(kind: u8, packet: u16, out: &mut Vec<u8>) {
    // PUBREL alone has a flag set (section 3.6.1).
    let flags = if kind == PUBREL { 2 } else { 0 };
    out.extend_from_slice(&[kind << 4 | flags, 2, (packet >> 8) as u8, packet as u8]);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use rumqttc::QoS;

    use super::*;

    #[test]
    fn headers() {
        assert_eq!(head(&[]), Ok(None));
        assert_eq!(head(&[0x30]), Ok(None));
        assert_eq!(head(&[0x30, 0x80]), Ok(None));
        assert_eq!(head(&[0x32, 5]), Ok(Some(Head { kind: 3, flags: 2, body: 2..7 })));
        assert_eq!(head(&[0x30, 0xff, 0xff, 0xff, 0x7f]).unwrap().unwrap().body, 5..268_435_460);
        assert!(head(&[0x30, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    proptest! {
        #[test]
        fn what_rumqttc_writes_is_read(topic in "[a-z/]{0,40}", payload: Vec<u8>, qos in 0u8..2, packet in 1u16..) {
            let qos = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            let mut message = rumqttc::Publish::new(&topic, qos, payload.clone());
            message.pkid = if qos == QoS::AtMostOnce { 0 } else { packet };
            let mut bytes = BytesMut::new();
            message.write(&mut bytes).unwrap();
            let found = head(&bytes).unwrap().unwrap();
            prop_assert_eq!(found.body.end, bytes.len());
            let read = publish(found.flags, &bytes[found.body], Protocol::V4).unwrap();
            prop_assert_eq!(read, Publish { topic: topic.as_bytes(), payload: &payload, packet: message.pkid, properties: &[] });
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, flags: u8, five: bool) {
            let _ = head(&bytes);
            let mut rest = bytes.as_slice();
            while let Some((_, behind)) = next_property(rest) {
                rest = behind;
            }
            let _ = publish(flags, &bytes, if five { Protocol::V5 } else { Protocol::V4 });
        }
    }

    #[test]
    fn properties_of_version_5_are_passed_over() {
        // Two bytes of properties: a payload format indicator.
        let body = [0, 1, b't', 0, 7, 2, 0x01, 0x01, b'x'];
        let read = publish(2, &body[..], Protocol::V5).unwrap();
        assert_eq!(read, Publish { topic: b"t", payload: b"x", packet: 7, properties: &[0x01, 0x01] });
        assert_eq!(publish(6, &body, Protocol::V5), None, "there is no QoS 3");
        let (property, rest) = next_property(read.properties).unwrap();
        assert_eq!((property.id, property.number, rest.len()), (1, 1, 0));
    }
}
