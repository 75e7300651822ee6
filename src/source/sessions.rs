//! What an MQTT receiver must know again after a crash: which clients have sessions, and which packet identifiers of
//! QoS 2 are taken and not yet released. It travels in the source's position, so that it is exactly as old as the rows
//! that were logged with it. Pure.
//!
//! MQTT 5.0 (OASIS, 2019) section 4.3.3, receiver of QoS 2: from PUBREC to PUBREL a PUBLISH with the same identifier
//! is the same message. MQTT 3.1.1 says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::Position;
use crate::error::{Error, Result};

/// Steps may take so many bytes before the whole is written again, or as many as the whole if that is longer.
const STEPS_BYTES_MIN: usize = 4096;

/// Packet identifiers, written as ranges: `4-9,11`. Most clients count up, so that a window of any size is one range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identifiers(BTreeSet<u16>);

impl Identifiers {
    /// Adds one; false if it was there.
    pub fn insert(&mut self, packet: u16) -> bool {
        self.0.insert(packet)
    }

    /// Takes one out; false if it was not there.
    pub fn remove(&mut self, packet: u16) -> bool {
        self.0.remove(&packet)
    }

    /// Whether it is there.
    pub fn contains(&self, packet: u16) -> bool {
        self.0.contains(&packet)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut rest = self.0.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| Some(*next) == last.checked_add(1)) {
                last = next;
            }
            let comma = if text.is_empty() { "" } else { "," };
            // Writing into a text cannot fail.
            let _ = match last - first {
                0 => write!(text, "{comma}{first}"),
                _ => write!(text, "{comma}{first}-{last}"),
            };
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut found = BTreeSet::new();
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            found.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
        }
        Some(Self(found))
    }
}

/// One position or step as it is written: the number of the last thing taken, and sessions; `null` for one that is gone.
#[derive(Serialize, Deserialize)]
struct Written {
    n: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    s: BTreeMap<String, Option<String>>,
}

/// Sessions of clients by name, and a number that counts everything taken: rows, releases, sessions that begin or end.
#[derive(Debug, Default)]
pub struct Sessions {
    number: u64,
    known: BTreeMap<Arc<str>, Identifiers>,
    /// Identifiers of all sessions together.
    identifiers: usize,
    changed: BTreeSet<Arc<str>>,
    /// Bytes of the last whole position, and of the steps since; none yet in this process.
    written: Option<(usize, usize)>,
}

impl Sessions {
    /// What a position says.
    ///
    /// # Errors
    /// If it is not one of these.
    pub fn read(position: &Position) -> Result<Self> {
        let mut read = Self::default();
        for written in parts(position) {
            let Written { n, s } = written?;
            read.number = n;
            for (client, identifiers) in s {
                match identifiers {
                    None => {
                        read.known.remove(client.as_str());
                    }
                    Some(text) => {
                        let identifiers = Identifiers::parse(&text).ok_or_else(|| unreadable(position))?;
                        read.known.insert(client.into(), identifiers);
                    }
                }
            }
        }
        read.identifiers = read.known.values().map(Identifiers::len).sum();
        Ok(read)
    }

    /// Only the number of a position.
    ///
    /// # Errors
    /// If it is not one of these.
    pub fn number_in(position: &Position) -> Result<u64> {
        parts(position).last().unwrap_or_else(|| Err(unreadable(position))).map(|written| written.n)
    }

    /// The number of the last thing taken.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// One thing more is taken; its number.
    pub fn advance(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The clients that have sessions.
    pub fn clients(&self) -> impl Iterator<Item = &Arc<str>> {
        self.known.keys()
    }

    /// How many identifiers all sessions hold together.
    pub fn identifiers(&self) -> usize {
        self.identifiers
    }

    /// Whether a client has a session.
    pub fn has(&self, client: &str) -> bool {
        self.known.contains_key(client)
    }

    /// Begins a session, with nothing in it.
    pub fn begin(&mut self, client: &Arc<str>) {
        let before = self.known.insert(Arc::clone(client), Identifiers::default());
        self.identifiers -= before.map_or(0, |before| before.len());
        self.change(client);
    }

    /// Ends a session; false if there was none.
    pub fn end(&mut self, client: &Arc<str>) -> bool {
        let Some(before) = self.known.remove(client) else { return false };
        self.identifiers -= before.len();
        self.change(client);
        true
    }

    /// What a client's session holds.
    pub fn of(&self, client: &str) -> Option<&Identifiers> {
        self.known.get(client)
    }

    /// Holds an identifier for a client that has a session; false if it is held already.
    pub fn hold(&mut self, client: &Arc<str>, packet: u16) -> bool {
        let new = self.known.get_mut(client).is_some_and(|known| known.insert(packet));
        if new {
            self.identifiers += 1;
            self.changed.insert(Arc::clone(client));
        }
        new
    }

    /// Releases an identifier; false if it is not held.
    pub fn release(&mut self, client: &Arc<str>, packet: u16) -> bool {
        let held = self.known.get_mut(client).is_some_and(|known| known.remove(packet));
        if held {
            self.identifiers -= 1;
            self.change(client);
        }
        held
    }

    fn change(&mut self, client: &Arc<str>) {
        self.number += 1;
        self.changed.insert(Arc::clone(client));
    }

    /// The position behind everything taken: whole, or a step from the last one.
    ///
    /// # Errors
    /// Never in fact: what is in it can be written.
    pub fn position(&mut self) -> Result<Position> {
        if self.known.is_empty() && self.changed.is_empty() {
            self.written = None;
            return Ok(Position(self.number.to_string()));
        }
        let changed = std::mem::take(&mut self.changed);
        let text = |client: &Arc<str>| self.known.get(client).map(Identifiers::text);
        if let Some((whole, steps)) = &mut self.written {
            let s = changed.into_iter().map(|client| (client.to_string(), text(&client))).collect();
            let step = Position::of(&Written { n: self.number, s })?;
            *steps += step.0.len() + 1;
            if *steps <= STEPS_BYTES_MIN.max(*whole) {
                return Ok(Position(format!("+{}", step.0)));
            }
        }
        let s = self.known.keys().map(|client| (client.to_string(), text(client))).collect();
        let whole = Position::of(&Written { n: self.number, s })?;
        self.written = Some((whole.0.len(), 0));
        Ok(whole)
    }
}

fn unreadable(position: &Position) -> Error {
    Error::state(format!("the saved position `{}` is not one of an MQTT source", position.0))
}

/// The whole position and the steps behind it.
fn parts(position: &Position) -> impl Iterator<Item = Result<Written>> {
    let mut rest = position.0.as_str();
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('+').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        let text = rest;
        // A number alone, as it is written where there are no sessions.
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            rest = &text[digits..];
            let number = text[..digits].parse().map_err(|_| unreadable(position));
            return Some(number.map(|n| Written { n, s: BTreeMap::new() }));
        }
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Written>();
        match values.next() {
            Some(Ok(written)) => {
                rest = &text[values.byte_offset()..];
                Some(Ok(written))
            }
            _ => {
                rest = "";
                Some(Err(unreadable(position)))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identifiers_are_ranges() {
        for (packets, text) in [
            (vec![], ""),
            (vec![7], "7"),
            (vec![4, 5, 6, 11, 65_535], "4-6,11,65535"),
            (vec![65_534, 65_535], "65534-65535"),
        ] {
            let identifiers = Identifiers(packets.into_iter().collect());
            assert_eq!(identifiers.text(), text);
            assert_eq!(Identifiers::parse(text), Some(identifiers));
        }
        for wrong in ["x", "1-", "-", "70000", "1-2-3"] {
            assert_eq!(Identifiers::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn positions_are_numbers_until_there_are_sessions() {
        let mut sessions = Sessions::default();
        sessions.advance();
        assert_eq!(sessions.position().unwrap().0, "1");
        let client: Arc<str> = "press \"7\"".into();
        sessions.begin(&client);
        assert_eq!(sessions.position().unwrap().0, r#"{"n":2,"s":{"press \"7\"":""}}"#);
        assert!(sessions.hold(&client, 9) && !sessions.hold(&client, 9));
        assert_eq!(sessions.position().unwrap().0, r#"+{"n":2,"s":{"press \"7\"":"9"}}"#);
        assert_eq!(sessions.position().unwrap().0, r#"+{"n":2}"#);
        assert!(sessions.release(&client, 9) && !sessions.release(&client, 9));
        assert!(sessions.end(&client) && !sessions.end(&client));
        assert_eq!(sessions.position().unwrap().0, r#"+{"n":4,"s":{"press \"7\"":null}}"#);
        assert_eq!(sessions.position().unwrap().0, "4", "and again when there are none");
        for wrong in ["", "x", "{", "{\"n\":1}x", "{\"n\":1,\"s\":{\"a\":\"b\"}}", "99999999999999999999"] {
            assert!(Sessions::read(&Position(wrong.to_owned())).is_err() || wrong.is_empty(), "{wrong}");
            let number = Sessions::number_in(&Position(wrong.to_owned()));
            assert!(number.is_err() || wrong.contains('s'), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_is_read_back_from_any_position_on(
            acts in proptest::collection::vec((0u8..6, 0usize..4, 1u16..40), 1..200)
        ) {
            let clients: Vec<Arc<str>> = ["a", "b", "ö+{", "d"].into_iter().map(Arc::from).collect();
            let mut sessions = Sessions::default();
            let mut place: Option<Position> = None;
            let mut longest = 0;
            for (act, client, packet) in acts {
                let client = &clients[client];
                match act {
                    0 => sessions.begin(client),
                    1 => drop(sessions.end(client)),
                    2 => drop(sessions.release(client, packet)),
                    3 => drop(sessions.advance()),
                    _ => drop(sessions.hold(client, packet)),
                }
                if packet % 3 == 0 {
                    let position = sessions.position().unwrap();
                    prop_assert_eq!(Sessions::number_in(&position).unwrap(), sessions.number());
                    let whole = position.after(place.take());
                    longest = longest.max(whole.0.len());
                    let read = Sessions::read(&whole).unwrap();
                    prop_assert_eq!(read.number(), sessions.number());
                    prop_assert_eq!(&read.known, &sessions.known);
                    prop_assert_eq!(read.identifiers(), sessions.identifiers());
                    prop_assert_eq!(Sessions::number_in(&whole).unwrap(), sessions.number());
                    place = Some(whole);
                }
            }
            prop_assert!(longest < 3 * STEPS_BYTES_MIN, "positions stay bounded");
        }
    }
}
