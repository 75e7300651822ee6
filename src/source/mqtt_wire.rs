//! MQTT on the wire, as far as a subscriber needs it: finding packets in a buffer and reading PUBLISH in place.
//!
//! Everything but PUBLISH goes through rumqttc's packet types. PUBLISH is read where it lies, without a copy
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

/// Packet types that a subscriber meets.
pub const PUBLISH: u8 = 3;
/// Acknowledgement of a PUBLISH at QoS 1.
pub const PUBACK: u8 = 4;

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
}

/// Reads the body of a PUBLISH; `None` if it is cut short or its QoS is 3.
pub fn publish(flags: u8, body: &[u8], protocol: Protocol) -> Option<Publish<'_>> {
    let (topic, packet, mut rest) = publish_head(flags, body)?;
    if protocol == Protocol::V5 {
        let (length, behind) = varint(rest)?;
        rest = behind.get(length..)?;
    }
    Some(Publish { topic, payload: rest, packet })
}

/// Topic, packet identifier and what follows them: enough to acknowledge a packet whose end is not wanted.
pub fn publish_head(flags: u8, body: &[u8]) -> Option<(&[u8], u16, &[u8])> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    match (flags >> 1) & 3 {
        0 => Some((topic, 0, rest)),
        3 => None,
        _ => {
            let (packet, rest) = rest.split_first_chunk::<2>()?;
            Some((topic, u16::from_be_bytes(*packet), rest))
        }
    }
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0usize;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// Appends a PUBACK (the same in both versions when the reason is success).
pub fn puback(packet: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&[PUBACK << 4, 2, (packet >> 8) as u8, packet as u8]);
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
            prop_assert_eq!(read, Publish { topic: topic.as_bytes(), payload: &payload, packet: message.pkid });
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, flags: u8, five: bool) {
            let _ = head(&bytes);
            let _ = publish(flags, &bytes, if five { Protocol::V5 } else { Protocol::V4 });
        }
    }

    #[test]
    fn properties_of_version_5_are_passed_over() {
        // Two bytes of properties: a payload format indicator.
        let body = [0, 1, b't', 0, 7, 2, 0x01, 0x01, b'x'];
        let read = publish(2, &body[..], Protocol::V5).unwrap();
        assert_eq!(read, Publish { topic: b"t", payload: b"x", packet: 7 });
        assert_eq!(publish(6, &body, Protocol::V5), None, "there is no QoS 3");
    }
}
