//! What survives the process: brokers that deliver again what was not acknowledged, a file that is cut at the
//! committed position, a receiver that knows deliveries by their names. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use super::dice::Dice;
use super::plant::Reading;
use super::world::Violation;
use crate::core::Position;
use crate::{Error, Result};

/// Most messages on their way without an acknowledgement: MQTT's receive maximum.
const IN_FLIGHT_MAX: usize = 40;

/// A broker with a persistent session: it keeps every message until it is acknowledged.
#[derive(Debug, Default)]
pub(super) struct Broker {
    /// All messages ever published.
    pub messages: Vec<Reading>,
    /// All before this were acknowledged.
    pub acknowledged: usize,
    /// Nothing more will be published: the source ends behind the last message.
    pub is_closed: bool,
    /// All before this are acknowledged as far as the broker knows: the last acknowledgements may get lost.
    confirmed: usize,
    connection: u64,
    sent: usize,
}

impl Broker {
    /// A new connection: what was not acknowledged comes again, also where the acknowledgement got lost on its way,
    /// and acknowledgements of the old connection are void.
    pub fn connect(&mut self) {
        self.connection += 1;
        self.sent = self.confirmed;
    }

    /// All acknowledgements so far have arrived.
    pub fn confirm(&mut self) {
        self.confirmed = self.acknowledged;
    }

    /// Whether the source has come to its end.
    pub fn is_at_end(&self) -> bool {
        self.is_closed && self.sent == self.messages.len()
    }

    /// The next messages, at most `max`, and where the source stands behind them; `None` if there are none now.
    pub fn receive(&mut self, max: usize) -> Result<Option<(Vec<Reading>, Position)>> {
        let window = self.confirmed.max(self.acknowledged) + IN_FLIGHT_MAX;
        let to = self.messages.len().min(self.sent + max).min(window);
        let taken = self.messages.get(self.sent..to).unwrap_or_default().to_vec();
        if taken.is_empty() {
            return Ok(None);
        }
        self.sent = to;
        Ok(Some((taken, Position::of(&(self.connection, to))?)))
    }

    /// Everything up to a position is safe on the other side.
    pub fn acknowledge(&mut self, upto: &Position) -> Result<()> {
        let (connection, to): (u64, usize) = upto.get()?;
        if connection == self.connection {
            // That one more arrives shows that those before it have.
            self.confirmed = self.confirmed.max(self.acknowledged);
            self.acknowledged = self.acknowledged.max(to);
        }
        Ok(())
    }

    /// How far it is, for the message when something gets stuck.
    pub fn stands(&self) -> String {
        format!("{} of {} acknowledged, {} sent", self.acknowledged, self.messages.len(), self.sent)
    }

    /// Whether every message is acknowledged.
    pub fn is_done(&self) -> bool {
        self.acknowledged == self.messages.len()
    }
}

/// The name of a delivery: incarnation (0 where there is a log), offset, which emission.
pub(super) type Name = (u64, u64, u32);

/// How a sink treats what is written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// A file: cut to the committed position when it is opened.
    Truncating,
    /// A receiver that takes each named delivery once.
    Naming,
}

/// One sink: the part in the process, and the part outside it.
#[derive(Debug)]
pub(super) struct Sink {
    manner: Manner,
    /// Outside. Of a file: in the order written. Of a receiver: as they came first.
    deliveries: Vec<(Name, Vec<String>)>,
    /// So many of the deliveries are sure to survive the power.
    durable: usize,
    names: BTreeMap<Name, usize>,
    /// Offsets at which what came before need not be what comes again.
    pub disputed: Vec<Range<u64>>,
    /// In the process: written, and not yet with the receiver.
    in_flight: Vec<(Name, Vec<String>)>,
}

impl Sink {
    /// An empty one.
    pub fn new(manner: Manner) -> Self {
        Self {
            manner,
            deliveries: Vec::new(),
            durable: 0,
            names: BTreeMap::new(),
            disputed: Vec::new(),
            in_flight: Vec::new(),
        }
    }

    /// Whether what a record brought here may be what it meant before others were lost, or the graph was another.
    pub fn is_disputed(&self, offset: u64) -> bool {
        self.manner == Manner::Naming && self.disputed.iter().any(|range| range.contains(&offset))
    }

    /// Opens at the committed position. With `keep_all` it forgets to cut.
    pub fn open(&mut self, committed: Option<&Position>, keep_all: bool) -> Result<(), Violation> {
        self.in_flight.clear();
        if self.manner == Manner::Naming {
            return Ok(());
        }
        let at: usize = match committed {
            Some(position) => position.get().map_err(|error| Violation::of(error.to_string()))?,
            // It cannot tell what it wrote itself from what was there before it, and keeps it.
            None => self.deliveries.len(),
        };
        if self.deliveries.len() < at {
            let there = self.deliveries.len();
            return Err(Violation::of(format!("the file was committed at {at} and has only {there}")));
        }
        if !keep_all {
            self.deliveries.truncate(at);
        }
        self.durable = self.durable.min(self.deliveries.len());
        Ok(())
    }

    /// Takes a delivery. A receiver may get it at once, or with a later write or flush.
    pub fn write(&mut self, dice: &mut Dice, name: Name, rows: Vec<String>) -> Result<(), Violation> {
        match self.manner {
            Manner::Truncating => {
                self.deliveries.push((name, rows));
                Ok(())
            }
            Manner::Naming => {
                self.in_flight.push((name, rows));
                let arrive = dice.below(self.in_flight.len() + 1);
                self.arrive(arrive)
            }
        }
    }

    /// Everything written is safe. With `in_name_only` it only says so.
    pub fn flush(&mut self, in_name_only: bool) -> Result<Position, Violation> {
        let deliveries = self.deliveries.len() + self.in_flight.len();
        if !in_name_only {
            self.arrive(self.in_flight.len())?;
            self.durable = self.deliveries.len();
        }
        Position::of(&deliveries).map_err(|error| Violation::of(error.to_string()))
    }

    fn arrive(&mut self, count: usize) -> Result<(), Violation> {
        for (name, rows) in self.in_flight.drain(..count) {
            if let Some(known) = self.names.get(&name) {
                let (_, before) = &self.deliveries[*known];
                if *before != rows && !self.disputed.iter().any(|range| range.contains(&name.1)) {
                    return Err(Violation::of(format!(
                        "delivery {name:?} came again with other rows: {before:?}, then {rows:?}"
                    )));
                }
                continue;
            }
            self.names.insert(name, self.deliveries.len());
            self.deliveries.push((name, rows));
        }
        Ok(())
    }

    /// The process is gone: what was in it is lost, and with the power some of what a file had not synced.
    pub fn die(&mut self, dice: &mut Dice, power: bool) {
        self.in_flight.clear();
        if self.manner == Manner::Truncating && power {
            let kept = self.durable + dice.below(self.deliveries.len() - self.durable + 1);
            self.deliveries.truncate(kept);
        }
        self.durable = self.deliveries.len();
    }

    /// What is outside, by the offset of the record that caused it, rows in order; of several incarnations' the
    /// newest. Only a file must have the offsets in order.
    pub fn by_offset(&self) -> Result<BTreeMap<u64, Vec<String>>, Violation> {
        let in_order = self.deliveries.is_sorted_by_key(|((_, offset, nth), _)| (*offset, *nth));
        if self.manner == Manner::Truncating && !in_order {
            return Err(Violation::of("the file is not in the order of the log"));
        }
        let named: BTreeMap<Name, &Vec<String>> =
            self.deliveries.iter().map(|(name, rows)| (*name, rows)).collect();
        if self.manner == Manner::Truncating && named.len() != self.deliveries.len() {
            return Err(Violation::of("the file has a delivery twice"));
        }
        let mut merged: BTreeMap<u64, (u64, Vec<String>)> = BTreeMap::new();
        for ((incarnation, offset, _), rows) in named {
            let place = merged.entry(offset).or_default();
            if place.0 != incarnation {
                *place = (incarnation, Vec::new());
            }
            place.1.extend_from_slice(rows);
        }
        Ok(merged.into_iter().map(|(offset, (_, rows))| (offset, rows)).collect())
    }

    /// How many deliveries are outside that records before an offset have caused.
    pub fn deliveries_before(&self, offset: u64) -> usize {
        self.deliveries.iter().filter(|((_, of, _), _)| *of < offset).count()
    }

    /// How many deliveries are outside.
    pub fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Whether a row with this in it is outside.
    pub fn has(&self, part: &str) -> bool {
        self.deliveries.iter().rev().any(|(_, rows)| rows.iter().any(|row| row.contains(part)))
    }
}

impl Violation {
    /// A breach of what the world promises.
    pub(super) fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), step: 0 }
    }
}

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        Self::of(format!("an error where none may be: {error}"))
    }
}
