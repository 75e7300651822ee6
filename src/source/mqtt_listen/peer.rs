//! One client: what it has sent, what it is owed, what it is told. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::source::mqtt_wire::{self as wire, Protocol};
use crate::source::sessions::Identifiers;

/// An answer that goes out when what it is for is safe.
#[derive(Debug, Clone, Copy)]
pub struct Owed {
    /// The number of what must be safe first.
    pub needs: u64,
    /// [`wire::PUBACK`], [`wire::PUBREC`] or [`wire::PUBCOMP`].
    pub kind: u8,
    pub packet: u16,
    /// Reason code of MQTT 5.
    pub code: u8,
}

/// A message that is published when the client is lost.
#[derive(Debug, Clone)]
pub struct Testament {
    pub topic: String,
    pub payload: Vec<u8>,
    pub delay: Duration,
}

/// Messages that a client may still send: so many per second, and as many at once.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    per_second: f64,
    left: f64,
    at: Duration,
}

impl Allowance {
    /// Full.
    pub fn new(per_second: u32, now: Duration) -> Self {
        Self { per_second: f64::from(per_second), left: f64::from(per_second), at: now }
    }

    /// Takes one, or says when there will be one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        if self.left < 1.0 {
            // A little later than exactly then, so that rounding does not make it come too early for ever.
            let wait = (1.0 - self.left) / self.per_second;
            return Err(now + Duration::from_secs_f64(wait) + Duration::from_micros(1));
        }
        self.left -= 1.0;
        Ok(())
    }
}

/// A connection and its client.
pub struct Peer {
    pub protocol: Protocol,
    /// Whether CONNECT has come and was accepted.
    pub greeted: bool,
    /// Whether it has shown a certificate that was demanded.
    pub certified: bool,
    pub client: Arc<str>,
    /// Nothing may come for longer than this.
    pub idle_max: Option<Duration>,
    /// How long the session outlives the connection.
    pub session_expiry: Duration,
    /// Identifiers of QoS 2 that it holds, if its session ends with the connection; else they are in the journal.
    pub identifiers: Identifiers,
    pub testament: Option<Testament>,
    pub owed: VecDeque<Owed>,
    /// Its session begins with this number: no message of QoS 2 is taken before that is safe. Else a crash could bring
    /// identifiers of an older session back, and a new message that bears one of them would pass for an old one.
    pub begins: u64,
    /// Whether it is in the list of those who are owed something.
    pub owing: bool,
    /// Messages above QoS 0 that are not answered for good (MQTT 5.0 section 4.9).
    pub under_way: usize,
    /// Bytes of a packet too large that are still to come.
    pub to_skip: usize,
    /// The topic of the last message, which is known to fit.
    pub known_topic: Vec<u8>,
    pub allowance: Option<Allowance>,
    /// Whether it waits until something of what it is owed has gone out.
    pub aside: bool,
    /// What is to be sent.
    pub out: Vec<u8>,
    /// Whether it is in the list of those with something to send.
    pub touched: bool,
    /// Whether it is closed once that is sent.
    pub closing: bool,
}

impl Peer {
    /// A connection of which nothing is known yet.
    pub fn new(certified: bool) -> Self {
        Self {
            protocol: Protocol::V4,
            greeted: false,
            certified,
            client: Arc::from(""),
            idle_max: None,
            session_expiry: Duration::ZERO,
            identifiers: Identifiers::default(),
            testament: None,
            owed: VecDeque::new(),
            begins: 0,
            owing: false,
            under_way: 0,
            to_skip: 0,
            known_topic: Vec::new(),
            allowance: None,
            aside: false,
            out: Vec::new(),
            touched: false,
            closing: false,
        }
    }

    /// Writes an answer.
    pub fn answer(&mut self, owed: Owed) {
        let final_answer = owed.kind != wire::PUBREC || owed.code >= 0x80;
        if final_answer {
            self.under_way = self.under_way.saturating_sub(1);
        }
        if owed.code == 0 || self.protocol == Protocol::V4 {
            wire::answer(owed.kind, owed.packet, &mut self.out);
        } else {
            let [high, low] = owed.packet.to_be_bytes();
            self.out.extend_from_slice(&[owed.kind << 4, 3, high, low, owed.code]);
        }
    }

    /// Writes all answers that need nothing beyond a number; true if there was one.
    pub fn settle(&mut self, safe: u64) -> bool {
        let mut any = false;
        while let Some(owed) = self.owed.pop_front_if(|owed| owed.needs <= safe) {
            self.answer(owed);
            any = true;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_fills_with_time_up_to_a_second_of_it() {
        let at = Duration::from_millis;
        let mut allowance = Allowance::new(2, at(0));
        assert!(allowance.take(at(0)).is_ok() && allowance.take(at(0)).is_ok());
        let next = allowance.take(at(0)).unwrap_err();
        assert!(next >= at(500) && next < at(501), "{next:?}");
        assert!(allowance.take(next).is_ok());
        let taken = (0..10).filter(|_| allowance.take(at(60_000)).is_ok()).count();
        assert_eq!(taken, 2);
    }
}
