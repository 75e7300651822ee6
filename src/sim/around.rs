//! All that is not the process: its brokers, sinks and disk, and what it has accepted so far. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::bug::{Bug, Mistaken};
use super::dice::Dice;
use super::oracle::Accepted;
use super::outside::{Broker, Sink};
use super::plant::{self, Reading, SOURCES, Variant};
use super::world::Violation;
use crate::core::{Change, Epoch, Now, Position, Record, Stamped};
use crate::store::{Memory, Store};
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
    /// For how many steps more each of the same hangs.
    pub hung: Vec<u32>,
    /// Of a thousand turns of each sink, how many it lets go by.
    pub slow: Vec<usize>,
    /// Whether there is a spool before the postbox.
    pub spools: bool,
    /// Whether new rows go before those that have gathered in the spool.
    pub live_first: bool,
    /// Deliveries that were spooled, those that were known already, and tries for which there was no room.
    pub spooled: u64,
    pub known: u64,
    pub spool_full: u64,
    /// Which sinks fail with the next delivery, before or after it has taken effect.
    pub failing: Vec<bool>,
    /// The disk runs full when the next cut or commit comes.
    pub fills_at_cut: bool,
    /// Checkpoints that the disk has refused.
    pub unsaved: u64,
    pub wall_us: i64,
    pub incarnation: u64,
    /// Every record in the order of the log. What the log lost before it was synced is forgotten here too.
    pub accepted: BTreeMap<u64, Entry>,
    /// The offsets of the records that brought the sources to their positions.
    pub offsets: BTreeMap<(usize, Position), u64>,
    /// All before this was said to be safe.
    pub safe: u64,
    /// Commits that were made durable: epoch, offset, where the first sink stood.
    pub commits: Vec<(Epoch, u64, Position)>,
    /// The file that the process was started with.
    pub running: Variant,
    /// The file that the next process is started with.
    pub variant: Variant,
    /// Which file holds from which offset on.
    pub variants: Vec<(u64, Variant)>,
    pub lost: Lost,
    pub refused: u64,
    /// Turns of the coordinator in which rows had to wait for room in the log.
    pub log_tight: u64,
    /// Turns of the coordinator in which no further epoch could begin.
    pub epochs_full: u64,
}

/// What bit rot has cost.
#[derive(Default)]
pub(super) struct Lost {
    /// Bits that have rotted.
    pub flips: u64,
    /// The bytes that they were in, by file and place.
    pub rotten: BTreeSet<(String, usize)>,
    /// Those of them in the log.
    pub log_flips: u64,
    /// Checkpoints written since the last one rotted. Two are kept, so where there are two one may rot.
    pub whole_checkpoints: u64,
    /// Times that a process came back on an older checkpoint.
    pub fallbacks: u64,
    /// Offsets of records that were safe and cannot be read any more.
    pub offsets: BTreeSet<u64>,
    /// The readings in them: nobody can deliver these.
    pub readings: BTreeSet<Reading>,
}

impl Surroundings {
    /// A handle on the disk, for the process.
    pub fn store(&self) -> Box<dyn Store> {
        Mistaken::on(&self.memory, self.bug)
    }

    /// Whether a sink, the log's sync or the writer of checkpoints does nothing now.
    pub fn is_stuck(&self, who: usize) -> bool {
        self.stalled.get(who) == Some(&true) || self.hung.get(who).is_some_and(|left| *left > 0)
    }

    /// What a record at these offsets had brought to a receiver before it was lost, or before the graph became
    /// another, need not be what the records say now.
    pub fn dispute(&mut self, offsets: Range<u64>) {
        if !offsets.is_empty() {
            self.sinks.iter_mut().for_each(|sink| sink.disputed.push(offsets.clone()));
        }
    }

    /// A cut or a commit begins: the moment for a disk to be full.
    pub fn cut_begins(&mut self) {
        if std::mem::take(&mut self.fills_at_cut) {
            self.fill_disk(0);
        }
    }

    /// Leaves so many bytes free.
    pub fn fill_disk(&mut self, free: u64) {
        let mut faults = self.memory.faults();
        faults.disk_bytes_max = Some(self.memory.used_bytes() + free);
        self.memory.set_faults(faults);
    }
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
    let accepted = accepted_of(around.running, &stamped.record)?;
    let entry = Entry { now: stamped.now, accepted, record: stamped.record.clone() };
    if around.accepted.last_key_value().is_some_and(|(last, _)| *last >= stamped.offset) {
        return breach(format!("offset {} is given out twice", stamped.offset));
    }
    if let (Record::Batch { input, .. }, Some(position)) = (&stamped.record, &stamped.position) {
        let source = around.running.place_of(*input);
        around.offsets.insert((source, position.clone()), stamped.offset);
    }
    around.accepted.insert(stamped.offset, entry);
    Ok(())
}

/// A record as the oracle sees it: with sources, not with their places in the graph of the moment.
pub(super) fn accepted_of(running: Variant, record: &Record) -> Step<Accepted> {
    Ok(match record {
        Record::Batch { input, batch } => {
            Accepted::Messages { source: running.place_of(*input), readings: plant::read_messages(batch)? }
        }
        Record::Tick => Accepted::Tick,
        Record::Barrier(barrier) => Accepted::Cut {
            factor: match barrier.change.as_deref() {
                Some(Change::Model { model, .. }) => model.bytes.first().copied(),
                _ => None,
            },
        },
        Record::End { input } => Accepted::End { source: running.place_of(*input) },
    })
}
