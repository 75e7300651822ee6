//! All that is not the process: its brokers, sinks and disk, and what it has accepted so far. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::dice::Dice;
use super::oracle::Accepted;
use super::outside::{Broker, Sink};
use super::plant::{self, SOURCES};
use super::world::{Bug, Violation};
use crate::core::{Change, Epoch, Now, Position, Record, Stamped};
use crate::store::Memory;
use crate::{Error, Kind};

/// A record that was accepted, and when.
pub(super) struct Entry {
    /// When it entered.
    pub now: Now,
    /// The record as the oracle sees it.
    pub accepted: Accepted,
    /// The record as the engine sees it.
    pub record: Record,
}

/// All that is not the process.
pub(super) struct Surroundings {
    pub dice: Dice,
    pub bug: Option<Bug>,
    pub has_log: bool,
    pub checkpoint: Duration,
    pub memory: Memory,
    pub brokers: [Broker; SOURCES.len()],
    pub sinks: Vec<Sink>,
    /// Which sinks stall, and, behind them, whether the log's sync and the writer of checkpoints do.
    pub stalled: Vec<bool>,
    /// Which sinks fail with the next delivery, before or after it has taken effect.
    pub failing: Vec<bool>,
    pub wall_us: i64,
    pub incarnation: u64,
    /// Every record in the order of the log. What the log lost before it was synced is forgotten here too.
    pub accepted: BTreeMap<u64, Entry>,
    /// All before this was said to be safe.
    pub safe: u64,
    /// Commits that were made durable: epoch, offset, where the first sink stood.
    pub commits: Vec<(Epoch, u64, Position)>,
    pub refused: u64,
    /// Turns of the coordinator in which rows had to wait for room in the log.
    pub log_tight: u64,
}

/// Why a process is no more.
pub(super) enum Fall {
    /// Something outside failed it. It starts again.
    Died,
    /// A promise is broken.
    Breach(Violation),
}

impl From<Violation> for Fall {
    fn from(violation: Violation) -> Self {
        Self::Breach(violation)
    }
}

impl From<Error> for Fall {
    /// A disk may fail at any time; nothing else may.
    fn from(error: Error) -> Self {
        match error.kind {
            Kind::Io => Self::Died,
            _ => Self::Breach(error.into()),
        }
    }
}

pub(super) type Step<T = ()> = Result<T, Fall>;

/// A promise is broken.
pub(super) fn breach<T>(what: impl Into<String>) -> Step<T> {
    Err(Fall::Breach(Violation::of(what)))
}

/// Remembers an accepted record for the oracle.
pub(super) fn note(around: &mut Surroundings, stamped: &Stamped) -> Step {
    let accepted = accepted_of(&stamped.record)?;
    let entry = Entry { now: stamped.now, accepted, record: stamped.record.clone() };
    if around.accepted.last_key_value().is_some_and(|(last, _)| *last >= stamped.offset) {
        return breach(format!("offset {} is given out twice", stamped.offset));
    }
    around.accepted.insert(stamped.offset, entry);
    Ok(())
}

/// A record as the oracle sees it.
pub(super) fn accepted_of(record: &Record) -> Step<Accepted> {
    Ok(match record {
        Record::Batch { input, batch } => {
            Accepted::Messages { input: *input, readings: plant::read_messages(batch)? }
        }
        Record::Tick => Accepted::Tick,
        Record::Barrier(barrier) => Accepted::Cut {
            factor: match barrier.change.as_deref() {
                Some(Change::Model { model, .. }) => model.bytes.first().copied(),
                _ => None,
            },
        },
        Record::End { input } => return breach(format!("source {input} has ended, and none does")),
    })
}
