//! A whole world from one seed: readings are published, a process handles them and dies at any step, disks tear, fail,
//! run full and rot, sinks stall, clocks jump, models and graphs change; and in the end everything must be as if
//! nothing had been. Pure.
//!
//! What is held, at every step or at the end:
//! - nothing is acknowledged before it is safe; every acknowledged reading is delivered, and nothing is that was not
//!   published;
//! - the file has exactly what the oracle says, once, in the order of the log; so has the receiver, by the
//!   deliveries' names (without a log: at least that); a fresh engine on the same records says the same;
//! - what was said to be safe comes back after any crash, and the same record never comes back as another; what a
//!   rotten bit costs is told to the record, is never more than a block, and everything else is delivered;
//! - another graph starts with the state of those nodes that mean the same in it, and of no other;
//! - epochs commit in order, few at a time, each with the file exactly where its cut was;
//! - a receiver behind a spool gets everything, each lane in its order, and twice only under a name that it knows;
//! - every queue, the log and the disk stay within their bounds, and monotonic time never goes back;
//! - once faults stop, a fresh reading arrives, everything is acknowledged, and a stop ends, within bounded steps.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::act::{Act, WEIGHTS};
use super::around::{Fall, Lost, Surroundings};
use super::bug::Bug;
use super::dice::Dice;
use super::faults;
use super::outside::{Broker, Manner, Sink};
use super::plant::{Guest, REFUSED_FACTOR, Reading, SOURCES, Variant};
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
    /// Turns of the coordinator in which as many epochs were under way as there may be.
    pub epochs_full: u64,
    /// Times the disk ran full.
    pub full_disks: u64,
    /// Times the process was stopped, with all it had safe.
    pub stops: u64,
    /// Graphs that the plant has run.
    pub graphs: u64,
    /// Ends of sources in the order that counts.
    pub ends: u64,
    /// Records that bit rot has cost.
    pub lost: u64,
    /// Deliveries that went into a spool.
    pub spooled: u64,
    /// Deliveries that a spool knew already.
    pub known: u64,
    /// Tries to spool for which there was no room.
    pub spool_full: u64,
    /// Checkpoints that the disk has refused, and that were tried again.
    pub unsaved: u64,
    /// Times a damaged checkpoint was passed over for the one before it.
    pub fallbacks: u64,
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
        self.epochs_full += other.epochs_full;
        self.full_disks += other.full_disks;
        self.stops += other.stops;
        self.graphs += other.graphs;
        self.ends += other.ends;
        self.lost += other.lost;
        self.fallbacks += other.fallbacks;
        self.unsaved += other.unsaved;
        self.spooled += other.spooled;
        self.known += other.known;
        self.spool_full += other.spool_full;
    }
}

/// A world before it has begun.
pub struct World<'a> {
    around: Surroundings,
    shell: Option<Shell>,
    guest: Option<&'a Guest<'a>>,
    /// Which acts happen in this world: not every world has every fault, or the frequent ones hide the rare.
    acts: Vec<(Act, usize)>,
    /// Whether bits rot here.
    rots: bool,
    /// Whether the clock is lost with the power: gateways without a battery wake up in 1970.
    forgets_time: bool,
    /// The next stop is the last.
    is_last: bool,
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
        let spools = has_log && dice.happens(500);
        let postbox = if spools { Manner::Spooled } else { Manner::Naming };
        let mut sinks = vec![Sink::new(Manner::Truncating), Sink::new(postbox)];
        sinks.extend(options.guest.map(|_| Sink::new(Manner::Naming)));
        let mut stalled = vec![false; sinks.len() + 1];
        stalled.push(dice.happens(250));
        let (rots, forgets_time) = (has_log && dice.happens(500), dice.happens(250));
        let slow = sinks.iter().map(|_| [0, 0, 500, 900][dice.below(4)]).collect();
        let around = Surroundings {
            checkpoint: Duration::from_millis(500 + 500 * dice.below(20) as u64),
            bug: options.bug,
            has_log,
            memory: Memory::new(),
            brokers: [Broker::default(), Broker::default()],
            hung: vec![0; stalled.len()],
            stalled,
            slow,
            failing: vec![false; sinks.len()],
            fills_at_cut: false,
            spools,
            live_first: dice.happens(500),
            spooled: 0,
            known: 0,
            spool_full: 0,
            unsaved: 0,
            sinks,
            wall_us: if dice.happens(250) { 0 } else { BEGIN_US },
            incarnation: 0,
            accepted: BTreeMap::new(),
            offsets: BTreeMap::new(),
            safe: 0,
            commits: Vec::new(),
            running: Variant::default(),
            variant: Variant::of(dice.below(Variant::COUNT)),
            variants: Vec::new(),
            lost: Lost::default(),
            refused: 0,
            log_tight: 0,
            epochs_full: 0,
            dice,
        };
        Self {
            around,
            shell: None,
            guest: options.guest,
            acts,
            rots,
            forgets_time,
            is_last: false,
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
        self.calm_down();
        let open: Vec<usize> =
            (0..SOURCES.len()).filter(|source| !self.around.brokers[*source].is_closed).collect();
        let fresh: Vec<Reading> = open.into_iter().map(|source| self.publish(source, 1)).collect();
        let rows: Vec<(String, i64)> =
            fresh.into_iter().map(|reading| (reading.device, reading.seq)).collect();
        self.until("a fresh reading arrives", |world| {
            let ledger = &world.around.sinks[0];
            rows.iter().all(|(device, seq)| ledger.has(&format!(", {device:?}, {seq}, ")))
        })?;
        self.until("everything is acknowledged", |world| world.around.brokers.iter().all(Broker::is_done))?;
        self.is_last = true;
        if self.around.dice.happens(500) {
            // The end of all sources is a stop too.
            self.around.brokers.iter_mut().for_each(|broker| broker.is_closed = true);
        } else if let Some(shell) = &mut self.shell {
            shell.stop(&self.around);
        }
        self.until("the stop is committed and the spool is empty", |world| {
            world.shell.as_ref().is_some_and(|shell| shell.finished && shell.has_drained())
        })
    }

    fn calm_down(&mut self) {
        self.acts.retain(|(act, _)| !act.is_fault() && *act != Act::Publish);
        self.rots = false;
        self.around.memory.set_faults(Faults::default());
        self.around.fills_at_cut = false;
        self.around.stalled.fill(false);
        self.around.hung.fill(0);
        self.around.failing.fill(false);
        self.around.slow.fill(0);
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
        self.around.hung.iter_mut().for_each(|left| *left = left.saturating_sub(1));
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
                let (mut source, value) = (dice.below(SOURCES.len()), dice.below(100) as i64);
                if self.around.brokers[source].is_closed {
                    source = SOURCES.len() - 1 - source;
                }
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
            Act::Clock => faults::clock(&mut self.around, self.event_us),
            Act::Power => self.die(true),
            Act::Kill => self.die(false),
            Act::Disk => faults::disk(&mut self.around),
            Act::Full => self.summary.full_disks += u64::from(faults::space(&mut self.around)),
            Act::Hang => faults::hang(&mut self.around),
            Act::Disconnect => {
                let broker = &mut self.around.brokers[dice.below(SOURCES.len())];
                // Who has come to its end reads nothing again before the next start.
                if !broker.is_closed {
                    if dice.happens(500) {
                        broker.confirm();
                    }
                    broker.connect();
                }
            }
            Act::Graph => self.around.variant = Variant::of(dice.below(Variant::COUNT)),
            Act::End => {
                let brokers = &mut self.around.brokers;
                if !brokers.iter().any(|broker| broker.is_closed) {
                    brokers[dice.below(SOURCES.len())].is_closed = true;
                }
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
            Act::Drain => shell.drain(around)?,
            Act::Save => shell.save(around)?,
            Act::Stop => shell.stop(around),
            Act::Model => shell.request(1 + around.dice.below(usize::from(REFUSED_FACTOR)) as u8),
            _ => {}
        }
        shell.check_bounds(around)?;
        if shell.finished && !self.is_last {
            self.summary.stops += 1;
            self.shell = None;
            self.die(false);
        }
        Ok(())
    }

    fn die(&mut self, power: bool) {
        let dice = &mut self.around.dice;
        if power {
            self.summary.power_cuts += 1;
            self.around.memory.crash(dice.roll());
            if self.forgets_time {
                self.around.wall_us = 0;
            }
        } else if self.shell.is_some() {
            self.summary.deaths += 1;
        }
        self.shell = None;
        for sink in &mut self.around.sinks {
            sink.die(dice, power);
        }
        if self.rots && dice.happens(400) {
            faults::rot(&mut self.around);
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
        // A publisher that hears no acknowledgement in time sends again.
        let times = 1 + usize::from(dice.happens(40));
        self.around.brokers[source].messages.extend(vec![reading.clone(); times]);
        self.summary.readings += 1;
        reading
    }
}
