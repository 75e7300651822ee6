//! Everything that a client says beside its messages: coming, going, releasing, asking for what there is not.

use std::sync::Arc;
use std::time::Duration;

use super::packet::{self, Accepted, Connect, Reason, Refusal};
use super::peer::{Allowance, Peer, Testament};
use super::server::{Moment, PeerId, Server};
use crate::source::mqtt_wire::{self as wire, Protocol};

/// Longest client identifier. The standard demands 23 (MQTT 3.1.1 section 3.1.3.1).
pub const CLIENT_ID_BYTES_MAX: usize = 128;

const CONNECT: u8 = 1;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// In MQTT 5: the connection ends in order, and the will is to be published all the same.
const WITH_WILL: u8 = 0x04;

/// In MQTT 5: no message of this identifier is known; not an error.
const NOT_FOUND: u8 = 0x92;

impl Server {
    /// A whole packet other than a message.
    pub(super) fn control(
        &mut self,
        id: PeerId,
        peer: &mut Peer,
        kind: u8,
        flags: u8,
        body: &[u8],
        now: Moment,
    ) -> Result<(), Reason> {
        let flags_wanted = if matches!(kind, wire::PUBREL | SUBSCRIBE | UNSUBSCRIBE) { 2 } else { 0 };
        if flags != flags_wanted {
            return Err(Reason::MALFORMED);
        }
        match (kind, peer.greeted) {
            (CONNECT, false) => self.connect(id, peer, body, now),
            (wire::PUBREL, true) => self.release(id, peer, body),
            (SUBSCRIBE | UNSUBSCRIBE, true) => {
                let (packet, count) = packet::filters(body, kind == SUBSCRIBE, peer.protocol)?;
                packet::no_subscription(kind == SUBSCRIBE, peer.protocol, packet, count, &mut peer.out);
                self.count("refused_subscriptions", "");
                Ok(())
            }
            (PINGREQ, true) if body.is_empty() => {
                peer.out.extend_from_slice(&[0xd0, 0]);
                Ok(())
            }
            (DISCONNECT, true) => self.disconnect(peer, body),
            // Whatever else there is answers what is never sent, is for a server to say, or comes out of turn.
            _ => Err(Reason::PROTOCOL),
        }
    }

    fn release(&mut self, id: PeerId, peer: &mut Peer, body: &[u8]) -> Result<(), Reason> {
        let (packet, rest) = packet::packet_identifier(body)?;
        if peer.protocol == Protocol::V4 && !rest.is_empty() {
            return Err(Reason::MALFORMED);
        }
        let held = if self.sessions.has(&peer.client) {
            // It must be safe before PUBCOMP: from then on the identifier may stand for another message.
            self.sessions.release(&peer.client, packet)
        } else {
            peer.identifiers.remove(packet)
        };
        self.owe(id, peer, wire::PUBCOMP, packet, if held { 0 } else { NOT_FOUND });
        Ok(())
    }

    fn disconnect(&mut self, peer: &mut Peer, body: &[u8]) -> Result<(), Reason> {
        let (mut code, mut expiry) = (0, None);
        if peer.protocol == Protocol::V5 {
            (code, expiry) = packet::disconnect(body)?;
        } else if !body.is_empty() {
            return Err(Reason::MALFORMED);
        }
        if let Some(seconds) = expiry {
            // A session that was to end with the connection cannot be kept after all (section 3.14.2.2.2).
            if peer.session_expiry.is_zero() && seconds > 0 {
                return Err(Reason::PROTOCOL);
            }
            let wanted = Duration::from_secs(u64::from(seconds));
            peer.session_expiry = wanted.min(self.settings.session_expiry);
        }
        if code != WITH_WILL {
            peer.testament = None;
        }
        Err(Reason::LEFT)
    }

    fn connect(&mut self, id: PeerId, peer: &mut Peer, body: &[u8], now: Moment) -> Result<(), Reason> {
        let outcome = packet::connect(body).and_then(|connect| {
            self.admit(id, peer, &connect, now)
                .map_err(|reason| Refusal { reason, protocol: connect.protocol })
        });
        outcome.map_err(|refusal| {
            packet::refuse(refusal, &mut peer.out);
            refusal.reason
        })
    }

    fn admit(
        &mut self,
        id: PeerId,
        peer: &mut Peer,
        connect: &Connect<'_>,
        now: Moment,
    ) -> Result<(), Reason> {
        let nameless = connect.client_id.is_empty();
        if connect.client_id.len() > CLIENT_ID_BYTES_MAX
            || (nameless && connect.protocol == Protocol::V4 && !connect.clean)
        {
            return Err(Reason::CLIENT_ID);
        }
        if !self.access.admits(connect, peer.certified) {
            return Err(Reason::LOGIN);
        }
        let client: Arc<str> = if nameless {
            format!("tidegate-{}", &uuid::Uuid::new_v4().simple().to_string()[..16]).into()
        } else {
            connect.client_id.into()
        };
        if let Some(old) = self.online.get(&client).copied() {
            self.take_over(old, now);
        }
        let before = self.sessions.number();
        let session_present = self.resume(&client, connect, now);
        let wanted = Duration::from_secs(u64::from(connect.session_expiry));
        peer.session_expiry = wanted.min(self.settings.session_expiry);
        if !session_present && !peer.session_expiry.is_zero() {
            self.make_room();
            self.sessions.begin(&client);
        }
        if !session_present && self.sessions.number() > before {
            peer.begins = self.sessions.number();
        }
        peer.protocol = connect.protocol;
        peer.greeted = true;
        peer.idle_max =
            (connect.keep_alive > 0).then(|| Duration::from_millis(u64::from(connect.keep_alive) * 1500));
        peer.testament = connect.will.map(|will| Testament {
            topic: will.topic.to_owned(),
            payload: will.payload.to_vec(),
            delay: Duration::from_secs(u64::from(will.delay)),
        });
        peer.allowance = self.settings.rate.map(|rate| Allowance::new(rate, now.mono));
        let told = Accepted {
            session_present,
            assigned: nameless.then_some(&*client),
            session_expiry: (peer.session_expiry < wanted)
                .then(|| u32::try_from(peer.session_expiry.as_secs()).unwrap_or(u32::MAX)),
            receive_max: self.settings.in_flight,
            packet_bytes_max: u32::try_from(self.settings.packet_bytes_max).unwrap_or(u32::MAX),
        };
        packet::accept(connect.protocol, &told, &mut peer.out);
        peer.client = Arc::clone(&client);
        self.online.insert(client, id);
        Ok(())
    }

    /// Finds a client's session, or ends it if the client wants a clean one; whether it goes on.
    fn resume(&mut self, client: &Arc<str>, connect: &Connect<'_>, now: Moment) -> bool {
        self.no_longer_away(client);
        if connect.clean {
            self.sessions.end(client);
        }
        let resumes = self.sessions.has(client);
        self.back(client, resumes, now);
        resumes
    }

    /// Ends the session that would end first of those that are away, when there are too many.
    fn make_room(&mut self) {
        if self.sessions.len() < self.settings.sessions_max() {
            return;
        }
        if let Some(client) = self.first_to_go() {
            self.forget(&client);
            self.count("forgotten_sessions", "");
        }
    }
}
