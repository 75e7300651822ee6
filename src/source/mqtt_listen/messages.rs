//! Messages: which are taken, which wait, and what they are answered.

use super::packet::{self, Reason};
use super::peer::Peer;
use super::server::{Moment, PeerId, Server};
use crate::source::mqtt_wire::{self as wire, Head, Protocol};

impl Server {
    /// Whether a client's next packet stays where it is for now: so many answers are owed to it that it must not be
    /// owed more, or it sends faster than it may.
    pub(super) fn must_wait(&mut self, id: PeerId, peer: &mut Peer, head: &Head, now: Moment) -> bool {
        // A client of MQTT 5 knows the limit for messages and is held to it; releases come on top.
        let most = usize::from(self.settings.in_flight) * if peer.protocol == Protocol::V5 { 2 } else { 1 };
        let answered =
            head.kind == wire::PUBREL || (head.kind == wire::PUBLISH && wire::quality(head.flags) > 0);
        if answered && peer.owed.len() >= most {
            peer.aside = true;
            return true;
        }
        if head.kind == wire::PUBLISH && wire::quality(head.flags) == 2 && self.safe < peer.begins {
            peer.aside = true;
            self.wait_for(id, peer, peer.begins);
            return true;
        }
        if head.kind == wire::PUBLISH
            && let Some(allowance) = &mut peer.allowance
            && let Err(at) = allowance.take(now.mono)
        {
            self.slowed.push((at, id));
            return true;
        }
        false
    }

    /// A message too large of a client that could not be told the limit: it would only send it again.
    pub(super) fn pass_over(&mut self, id: PeerId, peer: &mut Peer, head: &Head, packet: u16) {
        self.count("oversize_messages", "");
        self.answer_message(id, peer, wire::quality(head.flags), packet, 0);
        peer.to_skip = head.body.end;
    }

    pub(super) fn publish(
        &mut self,
        id: PeerId,
        peer: &mut Peer,
        flags: u8,
        body: &[u8],
        now: Moment,
    ) -> std::result::Result<(), Reason> {
        let message = wire::publish(flags, body, peer.protocol).ok_or(Reason::MALFORMED)?;
        let quality = wire::quality(flags);
        if quality > 0 {
            if message.packet == 0 {
                return Err(Reason::MALFORMED);
            }
            if peer.protocol == Protocol::V5 && peer.under_way >= usize::from(self.settings.in_flight) {
                return Err(Reason::IN_FLIGHT);
            }
            peer.under_way += 1;
        }
        if !message.properties.is_empty() {
            let noted = packet::note(message.properties)?;
            if noted.topic_alias {
                return Err(Reason::ALIAS);
            }
            if noted.subscription {
                return Err(Reason::PROTOCOL);
            }
        }
        let topic = packet::text(message.topic).ok_or(Reason::MALFORMED)?;
        if peer.known_topic != message.topic {
            if !packet::is_topic(topic) {
                return Err(if topic.is_empty() { Reason::PROTOCOL } else { Reason::TOPIC });
            }
            if !self.takes(topic) {
                self.count("refused_messages", Reason::TOPIC.word);
                self.answer_message(id, peer, quality, message.packet, Reason::TOPIC.code);
                return Ok(());
            }
            peer.known_topic.clear();
            peer.known_topic.extend_from_slice(message.topic);
        }
        if quality == 2 && !self.hold(peer, message.packet)? {
            // It was taken before, and waits for its PUBREL.
            self.count("repeated_messages", "");
        } else {
            self.builder.push(topic, message.payload, now.wall_micros, now.mono);
            self.sessions.advance();
        }
        self.answer_message(id, peer, quality, message.packet, 0);
        Ok(())
    }

    /// Whether messages of a topic are wanted.
    pub(super) fn takes(&self, topic: &str) -> bool {
        topic.len() <= self.settings.topic_bytes_max && self.settings.filters.fit(topic)
    }

    /// Holds an identifier of QoS 2; false if it is held already.
    fn hold(&mut self, peer: &mut Peer, packet: u16) -> std::result::Result<bool, Reason> {
        if !self.sessions.has(&peer.client) {
            return Ok(peer.identifiers.insert(packet));
        }
        let new = self.sessions.hold(&peer.client, packet);
        if new && self.sessions.identifiers() > self.settings.identifiers_max() {
            self.sessions.release(&peer.client, packet);
            return Err(Reason::QUOTA);
        }
        Ok(new)
    }

    pub(super) fn answer_message(&mut self, id: PeerId, peer: &mut Peer, quality: u8, packet: u16, code: u8) {
        let kind = match quality {
            0 => return,
            1 => wire::PUBACK,
            _ => wire::PUBREC,
        };
        self.owe(id, peer, kind, packet, code);
    }
}
