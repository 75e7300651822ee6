//! What a subscriber has taken, and what it owes the broker for that. It waits for nothing and reads no clock.
//!
//! Everything that must be safe before it is answered has a number: a row, the release of an identifier of QoS 2, a
//! session that begins. Answers stand in one queue in the order of receipt.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::core::Position;
use crate::error::Result;
use crate::source::mqtt_wire as wire;
use crate::source::sessions::Sessions;

/// An answer that goes out when what it is for is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owed {
    needs: u64,
    kind: u8,
    packet: u16,
}

/// The books of one subscriber.
pub struct Taken {
    /// The name of the session; empty where the broker keeps none.
    client: Arc<str>,
    /// Whether identifiers are kept, which QoS 2 needs.
    twice: bool,
    /// Answer on receipt, whatever is safe.
    at_once: bool,
    sessions: Sessions,
    owed: VecDeque<Owed>,
    safe: u64,
    handed: u64,
    /// Answers owed for what was not handed on yet.
    gathered: usize,
    /// The session begins with this number.
    begins: u64,
}

impl Taken {
    /// Nothing taken yet; `twice` for QoS 2.
    pub fn new(client: Option<&str>, twice: bool, at_once: bool) -> Self {
        Self {
            client: client.unwrap_or_default().into(),
            twice,
            at_once,
            sessions: Sessions::default(),
            owed: VecDeque::new(),
            safe: 0,
            handed: 0,
            gathered: 0,
            begins: 0,
        }
    }

    /// Goes on from a position. Only QoS 2 has anything in it that the broker does not know better.
    ///
    /// # Errors
    /// If the position is not one of an MQTT source.
    pub fn open(&mut self, from: Option<&Position>) -> Result<()> {
        if !self.twice {
            return Ok(());
        }
        self.sessions = from.map(Sessions::read).transpose()?.unwrap_or_default();
        (self.safe, self.handed) = (self.sessions.number(), self.sessions.number());
        // Another client identifier is another session, with identifiers of its own.
        let others =
            self.sessions.clients().filter(|client| **client != self.client || self.client.is_empty());
        for other in others.cloned().collect::<Vec<_>>() {
            self.sessions.end(&other);
        }
        Ok(())
    }

    /// A connection is up; the broker says whether it still has the session.
    pub fn connected(&mut self, session_present: bool) {
        self.owed.clear();
        if self.twice && !(session_present && self.sessions.has(&self.client)) {
            // What identifiers stood for is forgotten: from now on they stand for new messages.
            self.sessions.begin(&self.client);
            self.begins = self.sessions.number();
        }
    }

    /// The connection is gone, and packet identifiers of QoS 1 with it.
    pub fn disconnected(&mut self) {
        self.owed.clear();
        self.gathered = 0;
    }

    /// Whether no message may be taken now: the session's beginning is not safe. Else a crash could bring back
    /// identifiers of an older one, and a new message that bears one of them would pass for an old one.
    pub fn must_wait(&self) -> bool {
        !self.at_once && self.safe < self.begins
    }

    /// Whether a message is new; if it is a QoS 2, its identifier is held from now on.
    pub fn is_new(&mut self, quality: u8, packet: u16) -> bool {
        quality < 2 || self.sessions.hold(&self.client, packet)
    }

    /// A message became a row.
    pub fn row(&mut self) {
        self.sessions.advance();
    }

    /// A message is to be answered, after everything that was taken so far.
    pub fn answer(&mut self, quality: u8, packet: u16, out: &mut Vec<u8>) {
        match quality {
            0 => {}
            1 => self.owe(wire::PUBACK, packet, out),
            _ => self.owe(wire::PUBREC, packet, out),
        }
    }

    /// PUBREL has come. An identifier that is not known is released too: the broker has not heard it yet.
    pub fn release(&mut self, packet: u16, out: &mut Vec<u8>) {
        self.sessions.release(&self.client, packet);
        self.owe(wire::PUBCOMP, packet, out);
    }

    fn owe(&mut self, kind: u8, packet: u16, out: &mut Vec<u8>) {
        let needs = self.sessions.number();
        if self.at_once || (needs <= self.safe && self.owed.is_empty()) {
            wire::answer(kind, packet, out);
        } else {
            self.owed.push_back(Owed { needs, kind, packet });
            self.gathered += 1;
        }
    }

    /// Everything up to a position is safe: what needed that is answered.
    ///
    /// # Errors
    /// If the position is not one of an MQTT source.
    pub fn acknowledge(&mut self, upto: &Position) -> Result<()> {
        self.safe = self.safe.max(Sessions::number_in(upto)?);
        Ok(())
    }

    /// Writes the answers that may go out.
    pub fn settle(&mut self, out: &mut Vec<u8>) {
        while let Some(owed) = self.owed.pop_front_if(|owed| owed.needs <= self.safe) {
            wire::answer(owed.kind, owed.packet, out);
        }
    }

    /// Whether something was taken that was not handed on.
    pub fn is_changed(&self) -> bool {
        self.sessions.number() > self.handed
    }

    /// The position behind everything taken, which is handed on with this.
    ///
    /// # Errors
    /// Never in fact: what is in it can be written.
    pub fn hand_on(&mut self) -> Result<Position> {
        self.handed = self.sessions.number();
        self.gathered = 0;
        self.sessions.position()
    }

    /// Answers that are owed.
    pub fn under_way(&self) -> usize {
        self.owed.len()
    }

    /// Those of them for what was not handed on yet.
    pub fn gathered(&self) -> usize {
        self.gathered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn short(kind: u8, packet: u8) -> [u8; 4] {
        [kind, 2, 0, packet]
    }

    /// Takes a message as the source does; whether it became a row, and what was answered at once.
    fn take(taken: &mut Taken, quality: u8, packet: u16) -> (bool, Vec<u8>) {
        let mut out = Vec::new();
        let new = taken.is_new(quality, packet);
        if new {
            taken.row();
        }
        taken.answer(quality, packet, &mut out);
        (new, out)
    }

    /// Makes everything safe.
    fn sync(taken: &mut Taken, position: &mut Option<Position>) -> Vec<u8> {
        let mut out = Vec::new();
        let step = taken.hand_on().unwrap();
        taken.acknowledge(&step).unwrap();
        *position = Some(step.after(position.take()));
        taken.settle(&mut out);
        out
    }

    #[test]
    fn each_message_of_quality_2_becomes_one_row_over_connections_and_crashes() {
        let mut position = None;
        let mut taken = Taken::new(Some("gateway"), true, false);
        taken.open(None).unwrap();
        taken.connected(false);
        assert!(taken.must_wait() && taken.is_changed());
        sync(&mut taken, &mut position);
        assert!(!taken.must_wait());
        assert_eq!(take(&mut taken, 2, 1), (true, vec![]));
        assert_eq!(take(&mut taken, 1, 2), (true, vec![]));
        assert_eq!(sync(&mut taken, &mut position), [short(0x50, 1), short(0x40, 2)].concat());
        assert_eq!(take(&mut taken, 2, 3), (true, vec![]));

        let mut taken = Taken::new(Some("gateway"), true, false);
        taken.open(position.as_ref()).unwrap();
        taken.connected(true);
        assert!(!taken.must_wait());
        assert_eq!(take(&mut taken, 2, 1), (false, short(0x50, 1).to_vec()), "it is safe already");
        assert_eq!(take(&mut taken, 2, 3), (true, vec![]), "this one was lost with the crash");
        let mut out = Vec::new();
        taken.release(1, &mut out);
        assert!(out.is_empty(), "a release must be safe first");
        assert_eq!(sync(&mut taken, &mut position), [short(0x50, 3), short(0x70, 1)].concat());
        taken.release(9, &mut out);
        assert_eq!(out, short(0x70, 9), "an unknown one is answered, or the broker asks for ever");
        taken.disconnected();
        taken.connected(true);
        assert_eq!(take(&mut taken, 2, 1), (true, vec![]), "a new message");

        // A broker without the session starts its identifiers anew, and so does another client identifier.
        for (client, present) in [(Some("gateway"), false), (Some("other"), true), (None, false)] {
            let mut taken = Taken::new(client, true, false);
            taken.open(position.as_ref()).unwrap();
            taken.connected(present);
            assert!(taken.must_wait(), "{client:?}");
            let mut behind = position.clone();
            sync(&mut taken, &mut behind);
            assert_eq!(take(&mut taken, 2, 3), (true, vec![]), "{client:?}");
        }
    }

    #[test]
    fn without_quality_2_positions_are_numbers_and_nothing_waits() {
        let mut taken = Taken::new(Some("gateway"), false, false);
        taken.open(Some(&Position("written by something else".to_owned()))).unwrap();
        taken.connected(false);
        assert!(!taken.must_wait() && !taken.is_changed());
        take(&mut taken, 0, 0);
        take(&mut taken, 1, 5);
        let mut position = None;
        assert_eq!(sync(&mut taken, &mut position), short(0x40, 5));
        assert_eq!(position.unwrap().0, "2");
        let mut early = Taken::new(None, true, true);
        early.open(None).unwrap();
        early.connected(false);
        assert!(!early.must_wait());
        assert_eq!(take(&mut early, 2, 1), (true, short(0x50, 1).to_vec()));
        assert_eq!(take(&mut early, 2, 1), (false, short(0x50, 1).to_vec()));
    }
}
