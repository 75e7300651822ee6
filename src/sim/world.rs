//! A whole world from one seed: readings are published, a process handles them and dies at any step, disks tear
//! and fail, sinks stall, clocks jump, models change; and in the end everything must be as if nothing had been. Pure.
//!
//! What is held, at every step or at the end:
//! - every acknowledged reading is delivered, and nothing is that was not published;
//! - the file has exactly what the oracle says, once, in the order of the log; so has the receiver, by the
//!   deliveries' names (without a log: at least that); a fresh engine on the same records says the same;
//! - what was said to be safe comes back after any crash, and the same record never comes back as another;
//! - epochs commit in order, few at a time, each with the file exactly where its cut was;
//! - every queue and the log stay within their bounds, and monotonic time never goes back;
//! - once faults stop, a fresh reading arrives, everything is acknowledged, and a stop ends, within bounded steps.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::around::{Fall, Surroundings};
use super::dice::Dice;
use super::outside::{Broker, Manner, Sink};
use super::plant::{Guest, REFUSED_FACTOR, Reading, SOURCES};
use super::shell::Shell;
use super::verdict::verify;
use crate::store::Memory;
use crate::store::memory::Faults;

/// Steps with faults.
const STEPS_MAX: usize = 1600;
/// Steps within which a fresh reading must arrive after faults have stopped, all must be acknowledged, and a stop
/// must end. Each takes a few hundred on the way.
const CALM_STEPS_MAX: usize = 20_000;
/// Devices of each source.
const DEVICES: usize = 3;
/// Where event time and the wall clock begin, µs: November 2023.
const BEGIN_US: i64 = 1_700_000_000_000_000;

/// A mistake to be made on purpose, so that the world's own sight is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Sources acknowledge what is appended and not yet synced.
    AcknowledgeBeforeSync,
    /// At a cut the state is saved first, and then the change is made.
    SnapshotBeforeChange,
    /// A sink says that it has flushed and has not.
    CommitWithoutFlush,
    /// The file is not cut to the committed position when it is opened again.
    TruncationIgnored,
    /// A replay begins one record late.
    ReplayFromWrongOffset,
    /// The engine gets records before they are synced.
    EffectsBeforeSync,
    /// After a restart the epochs that the log holds behind the checkpoint are forgotten.
    ForgetUnflushedEpochs,
    /// The first rows do not wait for a first checkpoint.
    RowsBeforeFirstCheckpoint,
}

impl Bug {
    /// Every mistake there is.
    pub const ALL: [Self; 8] = [
        Self::AcknowledgeBeforeSync,
        Self::SnapshotBeforeChange,
        Self::CommitWithoutFlush,
        Self::TruncationIgnored,
        Self::ReplayFromWrongOffset,
        Self::EffectsBeforeSync,
        Self::ForgetUnflushedEpochs,
        Self::RowsBeforeFirstCheckpoint,
    ];
}

/// What kind of world.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// A mistake on purpose.
    pub bug: Option<Bug>,
    /// With or without a log; else chance decides.
    pub log: Option<bool>,
    /// An operator of the house that runs beside the plant's own.
    pub guest: Option<&'a Guest<'a>>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which, and how.
    pub what: String,
    /// At which step.
    pub step: usize,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at step {}: {}", self.step, self.what)
    }
}

impl std::error::Error for Violation {}

/// What happened in a world, so that a test can see that something did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Readings published.
    pub readings: u64,
    /// Records accepted in the order that counts.
    pub records: u64,
    /// Times the power went.
    pub power_cuts: u64,
    /// Times the process died otherwise: killed, or failed by a disk.
    pub deaths: u64,
    /// Epochs committed.
    pub commits: u64,
    /// Models that were sent to the plant.
    pub models: u64,
    /// Models that were refused.
    pub refused: u64,
    /// Readings that came more than once.
    pub duplicates: u64,
    /// Deliveries that have arrived at all sinks.
    pub deliveries: u64,
    /// Turns of the coordinator in which rows had to wait for room in the log.
    pub log_tight: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.readings += other.readings;
        self.records += other.records;
        self.power_cuts += other.power_cuts;
        self.deaths += other.deaths;
        self.commits += other.commits;
        self.models += other.models;
        self.refused += other.refused;
        self.duplicates += other.duplicates;
        self.deliveries += other.deliveries;
        self.log_tight += other.log_tight;
    }
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Publish,
    Receive,
    Acknowledge,
    Coordinate,
    Keep,
    Run,
    Deliver,
    Save,
    Time,
    Power,
    Kill,
    Disconnect,
    Disk,
    Clock,
    Model,
    Stall,
    Fail,
}

/// How often each act happens, in relation to the others.
const WEIGHTS: [(Act, usize); 17] = [
    (Act::Publish, 160),
    (Act::Receive, 140),
    (Act::Acknowledge, 60),
    (Act::Coordinate, 220),
    (Act::Keep, 180),
    (Act::Run, 220),
    (Act::Deliver, 200),
    (Act::Save, 30),
    (Act::Time, 60),
    (Act::Power, 4),
    (Act::Kill, 4),
    (Act::Disconnect, 5),
    (Act::Disk, 6),
    (Act::Clock, 6),
    (Act::Model, 12),
    (Act::Stall, 5),
    (Act::Fail, 4),
];

impl Act {
    fn is_deadly(self) -> bool {
        matches!(self, Self::Power | Self::Kill | Self::Fail | Self::Disk)
    }

    fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Power
                | Self::Kill
                | Self::Disconnect
                | Self::Disk
                | Self::Clock
                | Self::Model
                | Self::Stall
                | Self::Fail
        )
    }
}

/// A world before it has begun.
pub struct World<'a> {
    around: Surroundings,
    shell: Option<Shell>,
    guest: Option<&'a Guest<'a>>,
    /// Which acts happen in this world: not every world has every fault, or the frequent ones hide the rare.
    acts: Vec<(Act, usize)>,
    event_us: i64,
    counts: [[i64; DEVICES]; SOURCES.len()],
    step: usize,
    summary: Summary,
}

impl<'a> World<'a> {
    /// The world of a seed.
    pub fn new(seed: u64, options: Options<'a>) -> Self {
        let mut dice = Dice::new(seed);
        // Where processes live longer, more gathers in them.
        let calm = 1 + 3 * dice.below(2);
        let acts = WEIGHTS.into_iter().filter(|(act, _)| !act.is_fault() || dice.happens(750));
        let acts =
            acts.map(|(act, weight)| (act, if act.is_deadly() { weight.div_ceil(calm) } else { weight }));
        let acts = acts.collect();
        let has_log = options.log.unwrap_or_else(|| dice.happens(750));
        let mut sinks = vec![Sink::new(Manner::Truncating), Sink::new(Manner::Naming)];
        sinks.extend(options.guest.map(|_| Sink::new(Manner::Naming)));
        let mut stalled = vec![false; sinks.len() + 1];
        stalled.push(dice.happens(250));
        let around = Surroundings {
            checkpoint: Duration::from_millis(500 + 500 * dice.below(20) as u64),
            dice,
            bug: options.bug,
            has_log,
            memory: Memory::new(),
            brokers: [Broker::default(), Broker::default()],
            stalled,
            failing: vec![false; sinks.len()],
            sinks,
            wall_us: BEGIN_US,
            incarnation: 0,
            accepted: BTreeMap::new(),
            safe: 0,
            commits: Vec::new(),
            refused: 0,
            log_tight: 0,
        };
        Self {
            around,
            shell: None,
            guest: options.guest,
            acts,
            event_us: BEGIN_US,
            counts: [[0; DEVICES]; SOURCES.len()],
            step: 0,
            summary: Summary::default(),
        }
    }

    /// Lives through the world and says what happened.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn run(mut self) -> Result<Summary, Violation> {
        let outcome = self.live().and_then(|()| verify(&self.around, self.guest, &mut self.summary));
        outcome.map_err(|violation| Violation { step: self.step, ..violation })?;
        Ok(self.summary)
    }

    fn live(&mut self) -> Result<(), Violation> {
        let steps = STEPS_MAX / 2 + self.around.dice.below(STEPS_MAX / 2);
        for _ in 0..steps {
            self.step()?;
        }
        self.acts.retain(|(act, _)| !act.is_fault() && *act != Act::Publish);
        self.around.memory.set_faults(Faults::default());
        self.around.stalled.fill(false);
        self.around.failing.fill(false);
        let fresh: Vec<Reading> = (0..SOURCES.len()).map(|source| self.publish(source, 1)).collect();
        let rows: Vec<(String, i64)> =
            fresh.into_iter().map(|reading| (reading.device, reading.seq)).collect();
        self.until("a fresh reading arrives", |world| {
            let ledger = &world.around.sinks[0];
            rows.iter().all(|(device, seq)| ledger.has(&format!(", {device:?}, {seq}, ")))
        })?;
        self.until("everything is acknowledged", |world| world.around.brokers.iter().all(Broker::is_done))?;
        if let Some(shell) = &mut self.shell {
            shell.stop(&self.around);
        }
        self.until("the stop is committed", |world| world.shell.as_ref().is_some_and(|shell| shell.finished))
    }

    fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let last = self.step + CALM_STEPS_MAX;
        while !reached(self) {
            if self.step > last {
                let waits = self.shell.as_ref().map_or_else(|| "no process".to_owned(), Shell::waits_for);
                let brokers: Vec<String> = self.around.brokers.iter().map(Broker::stands).collect();
                return Err(Violation::of(format!(
                    "not within {CALM_STEPS_MAX} steps: {what}; it waits: {waits}; brokers {brokers:?}"
                )));
            }
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.step += 1;
        let act = self.choose();
        match self.outside(act) {
            true => Ok(()),
            false => match self.inside(act) {
                Ok(()) => Ok(()),
                Err(Fall::Died) => {
                    self.die(false);
                    Ok(())
                }
                Err(Fall::Breach(violation)) => Err(violation),
            },
        }
    }

    fn choose(&mut self) -> Act {
        let total = self.acts.iter().map(|(_, weight)| weight).sum();
        let mut roll = self.around.dice.below(total);
        for (act, weight) in &self.acts {
            if roll < *weight {
                return *act;
            }
            roll -= weight;
        }
        Act::Time
    }

    /// What happens whether or not a process runs; false if it is for the process.
    fn outside(&mut self, act: Act) -> bool {
        let dice = &mut self.around.dice;
        match act {
            Act::Publish => {
                let (source, value) = (dice.below(SOURCES.len()), dice.below(100) as i64);
                self.publish(source, value);
            }
            Act::Time => {
                let passed = 1 + dice.below(800_000) as u64;
                self.event_us += passed as i64;
                self.around.wall_us += passed as i64;
                if let Some(shell) = &mut self.shell {
                    shell.mono += Duration::from_micros(passed);
                }
            }
            Act::Clock => self.around.wall_us += dice.below(7_200_000_000) as i64 - 3_600_000_000,
            Act::Power => self.die(true),
            Act::Kill => self.die(false),
            Act::Disk => {
                let after = Some(dice.below(6) as u64);
                let mut faults = Faults::default();
                match dice.below(3) {
                    0 => faults.fail_sync_after = after,
                    1 => faults.fail_after = after,
                    _ => faults.fail_reads = 1,
                }
                self.around.memory.set_faults(faults);
            }
            Act::Disconnect => {
                let source = dice.below(SOURCES.len());
                self.around.brokers[source].connect();
            }
            Act::Stall => {
                let who = dice.below(self.around.stalled.len());
                self.around.stalled[who] ^= true;
            }
            Act::Fail => {
                let sink = dice.below(self.around.sinks.len());
                self.around.failing[sink] = true;
            }
            _ => return false,
        }
        true
    }

    /// What the process does next. Without one, one starts sooner or later.
    fn inside(&mut self, act: Act) -> Result<(), Fall> {
        let around = &mut self.around;
        let Some(shell) = &mut self.shell else {
            if around.dice.happens(300) {
                self.shell = Some(Shell::open(around, self.guest)?);
            }
            return Ok(());
        };
        let (source, sink) = (around.dice.below(SOURCES.len()), around.dice.below(around.sinks.len()));
        match act {
            Act::Receive => shell.receive(around, source)?,
            Act::Acknowledge => shell.acknowledge(around, source)?,
            Act::Coordinate => shell.coordinate(around)?,
            Act::Keep => shell.keep(around)?,
            Act::Run => shell.run(around)?,
            Act::Deliver => shell.deliver(around, sink)?,
            Act::Save => shell.save(around)?,
            Act::Model => shell.request(1 + around.dice.below(usize::from(REFUSED_FACTOR)) as u8),
            _ => {}
        }
        shell.check_bounds()
    }

    fn die(&mut self, power: bool) {
        let dice = &mut self.around.dice;
        if power {
            self.summary.power_cuts += 1;
            self.around.memory.crash(dice.roll());
        } else if self.shell.is_some() {
            self.summary.deaths += 1;
        }
        self.shell = None;
        for sink in &mut self.around.sinks {
            sink.die(dice, power);
        }
    }

    /// A device publishes a reading: mostly in order of time, now and then late.
    fn publish(&mut self, source: usize, value: i64) -> Reading {
        let dice = &mut self.around.dice;
        let number = dice.below(DEVICES);
        let behind = if dice.happens(100) { dice.below(9_000_000) } else { dice.below(500_000) };
        self.counts[source][number] += 1;
        let reading = Reading {
            time: self.event_us - behind as i64,
            device: format!("{}-{number}", SOURCES[source]),
            seq: self.counts[source][number],
            value,
        };
        self.around.brokers[source].messages.push(reading.clone());
        self.summary.readings += 1;
        reading
    }
}
