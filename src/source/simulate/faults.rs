//! Labelled faults: which there are, when they strike, and how far along they are. Pure.
//!
//! A schedule is either written down or drawn from the seed. The drawn one needs no memory: the time of each
//! device is cut into blocks, each block holds one fault with a chance of one half, and the fault keeps the
//! spacing at the end of its block free, so that two never touch on one device.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::devices::{DeviceId, DeviceKind};
use super::random::{Random, derive};
use super::signals::Signal;
use crate::{Error, Result};

const BLOCKS: u64 = 0x11;
/// The chance that a block of the drawn schedule holds a fault.
const BLOCK_CHANCE: f64 = 0.5;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A damaged bearing: vibration grows and becomes impulsive (kurtosis), current creeps up, and from 40 %
    /// of the time on the temperature follows. Machines only.
    BearingWear,
    /// Vapour bubbles in a pump: pressure and flow fall and become unsteady, vibration is broadband, the
    /// current dips. Pumps only.
    Cavitation,
    /// A compressor that does not cool: power stays down, temperature and humidity climb. Fridges only.
    CoolingLoss,
    /// Water lost: the level falls, the inflow rises, the pressure drops. Tanks only.
    Leak,
    /// A sensor that repeats the value it had at the fault's start.
    Stuck,
    /// A sensor that reads far too high in every third reading.
    Spike,
    /// A sensor that moves away from the truth, evenly until the fault's end.
    Drift,
    /// A device that sends nothing.
    Silence,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::BearingWear,
        Self::Cavitation,
        Self::CoolingLoss,
        Self::Leak,
        Self::Stuck,
        Self::Spike,
        Self::Drift,
        Self::Silence,
    ];

    /// The name in configuration and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::BearingWear => "bearing_wear",
            Self::Cavitation => "cavitation",
            Self::CoolingLoss => "cooling_loss",
            Self::Leak => "leak",
            Self::Stuck => "stuck",
            Self::Spike => "spike",
            Self::Drift => "drift",
            Self::Silence => "silence",
        }
    }

    /// True where this kind of device can have the fault.
    pub fn fits(self, device: DeviceKind) -> bool {
        match self {
            Self::BearingWear => device.is_machine(),
            Self::Cavitation => device == DeviceKind::Pump,
            Self::CoolingLoss => device == DeviceKind::Fridge,
            Self::Leak => device == DeviceKind::Tank,
            Self::Stuck | Self::Spike | Self::Drift | Self::Silence => true,
        }
    }

    /// True for a fault of one sensor, which needs a signal.
    pub fn is_sensor_fault(self) -> bool {
        matches!(self, Self::Stuck | Self::Spike | Self::Drift)
    }
}

/// The faults of a plant. Without any of them the plant is sound.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Faults at stated times. On one device they must not overlap. At most 10,000.
    pub list: Vec<FaultSpec>,
    /// Faults drawn from the seed, beside the stated ones and never overlapping them.
    pub random: Option<RandomFaults>,
}

/// One fault at a stated time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The device's name, e.g. `press-03`.
    pub device: String,
    /// The signal whose sensor fails, for `stuck`, `spike` and `drift`. Without it the device's first signal
    /// whose sensor can fail.
    #[serde(default)]
    pub signal: Option<Signal>,
    /// Seconds from the plant's start to the fault's start.
    pub start_s: f64,
    /// How long it lasts, in seconds.
    pub duration_s: f64,
    /// How strong it is: 1 is plain to see, 0.3 is hard to find, 3 is gross.
    #[serde(default = "one")]
    pub severity: f64,
}

fn one() -> f64 {
    1.0
}

/// Faults drawn from the plant's seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomFaults {
    /// How many faults a device has per hour, on average.
    pub per_device_hour: f64,
    /// Which kinds. Empty: every kind that fits the device. A kind that does not fit a device is left out for
    /// it.
    pub kinds: Vec<FaultKind>,
    /// The shortest fault, in seconds.
    pub duration_s_min: f64,
    /// The longest fault, in seconds.
    pub duration_s_max: f64,
    /// The least severity; 1 is plain to see.
    pub severity_min: f64,
    /// The largest severity.
    pub severity_max: f64,
    /// Seconds after the start in which nothing fails, so that a detector can learn.
    pub warm_up_s: f64,
    /// Seconds of sound operation between two faults of a device, at least.
    pub spacing_s: f64,
}

impl Default for RandomFaults {
    fn default() -> Self {
        Self {
            per_device_hour: 1.0,
            kinds: Vec::new(),
            duration_s_min: 20.0,
            duration_s_max: 60.0,
            severity_min: 0.8,
            severity_max: 1.5,
            warm_up_s: 120.0,
            spacing_s: 60.0,
        }
    }
}

impl RandomFaults {
    /// Seconds of one block of the schedule.
    pub(super) fn block_s(&self) -> f64 {
        3_600.0 * BLOCK_CHANCE / self.per_device_hour
    }
}

/// A fault that was injected: what a detector is measured against. Times are event times; a reading belongs
/// to the fault if `start_us <= time < end_us`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// What went wrong.
    pub kind: FaultKind,
    /// The line of the device.
    pub line: String,
    /// The device.
    pub device: String,
    /// The signal whose sensor failed; none for a fault of the machine.
    pub signal: Option<Signal>,
    /// Start in µs since 1970, inclusive.
    pub start_us: i64,
    /// End in µs since 1970, exclusive.
    pub end_us: i64,
    /// How strong it was.
    pub severity: f64,
}

/// A fault of a device, without names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fault {
    pub kind: FaultKind,
    pub signal: Option<Signal>,
    pub start_us: i64,
    pub end_us: i64,
    pub severity: f64,
}

impl Fault {
    pub fn covers(&self, time_us: i64) -> bool {
        self.start_us <= time_us && time_us < self.end_us
    }

    /// How much of the fault has passed, from 0 to 1.
    pub fn progress(&self, time_us: i64) -> f64 {
        (time_us - self.start_us) as f64 / (self.end_us - self.start_us).max(1) as f64
    }

    /// What the machine feels. Faults of sensors and silence leave it sound.
    pub fn symptoms(&self, time_us: i64) -> Symptoms {
        let progress = self.progress(time_us);
        let mut symptoms = Symptoms::default();
        match self.kind {
            FaultKind::BearingWear => {
                // Seen at once, full after half of its time; a detector that reads windows of seconds has the
                // second half to confirm it.
                symptoms.wear = self.severity * (0.4 + 1.2 * progress).min(1.0);
                symptoms.wear_heat = self.severity * ((progress - 0.4) / 0.6).max(0.0);
            }
            FaultKind::Cavitation => symptoms.cavitation = self.severity * (0.5 + 2.0 * progress).min(1.0),
            FaultKind::CoolingLoss => {
                symptoms.cooling_loss = self.severity;
                symptoms.cooling_loss_grown = self.severity * progress;
            }
            FaultKind::Leak => {
                symptoms.leak = self.severity * (0.3 + 2.0 * progress).min(1.0);
                symptoms.leak_grown = self.severity * progress;
            }
            FaultKind::Stuck | FaultKind::Spike | FaultKind::Drift | FaultKind::Silence => {}
        }
        symptoms
    }
}

/// How far a machine's faults have come; all zero for a sound one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Symptoms {
    pub wear: f64,
    pub wear_heat: f64,
    pub cavitation: f64,
    pub cooling_loss: f64,
    pub cooling_loss_grown: f64,
    pub leak: f64,
    pub leak_grown: f64,
}

/// The faults of one device, past and future.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    /// Stated faults, by start, not overlapping.
    pub listed: Vec<Fault>,
    random: Option<Drawn>,
    /// The block looked up last, which the next question is nearly always about too.
    block: i64,
    block_fault: Option<Fault>,
}

/// What drawing faults for one device needs.
#[derive(Debug, Clone)]
struct Drawn {
    config: RandomFaults,
    seed: u64,
    kind: DeviceKind,
    kinds: Vec<FaultKind>,
    first_us: i64,
    block_us: i64,
}

impl Schedule {
    pub fn new(
        listed: Vec<Fault>,
        random: Option<&RandomFaults>,
        kind: DeviceKind,
        seed: u64,
        start_us: i64,
    ) -> Self {
        let random = random.and_then(|config| {
            let asked = if config.kinds.is_empty() { &FaultKind::ALL[..] } else { &config.kinds };
            let kinds: Vec<FaultKind> = asked.iter().copied().filter(|fault| fault.fits(kind)).collect();
            (!kinds.is_empty() && config.per_device_hour > 0.0).then(|| Drawn {
                seed: derive(seed, BLOCKS),
                kind,
                kinds,
                first_us: start_us.saturating_add((config.warm_up_s * 1e6) as i64),
                block_us: (config.block_s() * 1e6) as i64,
                config: config.clone(),
            })
        });
        Self { listed, random, block: i64::MIN, block_fault: None }
    }

    /// The fault the device has at this time.
    pub fn active(&mut self, time_us: i64) -> Option<Fault> {
        if !self.listed.is_empty() {
            let after = self.listed.partition_point(|fault| fault.start_us <= time_us);
            let last = after.checked_sub(1).map(|index| self.listed[index]);
            if let Some(fault) = last.filter(|fault| fault.covers(time_us)) {
                return Some(fault);
            }
        }
        let random = self.random.as_ref()?;
        let block = (time_us - random.first_us).div_euclid(random.block_us);
        if block != self.block {
            self.block_fault = random.fault_of(block, &self.listed);
            self.block = block;
        }
        self.block_fault.filter(|fault| fault.covers(time_us))
    }

    /// All faults that start before `until_us`, by start; `count_max` at most.
    pub fn until(&self, until_us: i64, count_max: usize) -> Vec<Fault> {
        let mut faults: Vec<Fault> =
            self.listed.iter().copied().filter(|fault| fault.start_us < until_us).take(count_max).collect();
        if let Some(random) = &self.random {
            let blocks = (until_us - random.first_us).div_euclid(random.block_us);
            let drawn = (0..=blocks).filter_map(|block| random.fault_of(block, &self.listed));
            let room = count_max - faults.len();
            faults.extend(drawn.filter(|fault| fault.start_us < until_us).take(room));
        }
        faults.sort_by_key(|fault| fault.start_us);
        faults
    }
}

impl Drawn {
    /// The fault of a block, unless it has none or a stated fault is too near.
    fn fault_of(&self, block: i64, listed: &[Fault]) -> Option<Fault> {
        if block < 0 {
            return None;
        }
        let config = &self.config;
        let mut random = Random::at(self.seed, block as u64);
        if random.uniform() >= BLOCK_CHANCE {
            return None;
        }
        let duration_s = random.between(config.duration_s_min, config.duration_s_max);
        let room_s = self.block_us as f64 * 1e-6 - config.spacing_s - duration_s;
        let offset_s = random.between(0.0, room_s.max(0.0));
        let kind = self.kinds[random.below(self.kinds.len())];
        let sensors = self.kind.channels().iter().filter(|channel| channel.sensor_faults);
        let chosen = random.below(sensors.clone().count());
        let signal = sensors.map(|channel| channel.signal).nth(chosen).filter(|_| kind.is_sensor_fault());
        let severity = random.between(config.severity_min, config.severity_max);
        // Whole milliseconds, so that a label can be written in any unit a payload uses.
        let block_us = self.first_us + block * self.block_us;
        let start_us = block_us + (offset_s * 1e3) as i64 * 1_000;
        let end_us = (start_us + (duration_s * 1e3).ceil() as i64 * 1_000).min(block_us + self.block_us);
        let spacing_us = (config.spacing_s * 1e6) as i64;
        let near =
            |other: &Fault| other.start_us < end_us + spacing_us && start_us < other.end_us + spacing_us;
        (!listed.iter().any(near)).then_some(Fault { kind, signal, start_us, end_us, severity })
    }
}

/// Sorts the stated faults by device, with every name checked.
pub(super) fn resolve(list: &[FaultSpec], ids: &[DeviceId], start_us: i64) -> Result<Vec<Vec<Fault>>> {
    let mut faults = vec![Vec::new(); ids.len()];
    for spec in list {
        // Names end in the device's number, so there is no need of a map.
        let number = spec.device.rsplit('-').next().and_then(|digits| digits.parse::<usize>().ok());
        let index = number.and_then(|number| number.checked_sub(1));
        let index = index.filter(|&index| ids.get(index).is_some_and(|id| id.device == spec.device));
        let index = index.ok_or_else(|| unknown_device(&spec.device, ids))?;
        let kind = ids[index].kind;
        let signal = sensor(spec, kind)?;
        let from_us = start_us.saturating_add((spec.start_s * 1e3) as i64 * 1_000);
        faults[index].push(Fault {
            kind: spec.kind,
            signal,
            start_us: from_us,
            end_us: from_us.saturating_add((spec.duration_s * 1e3).ceil() as i64 * 1_000),
            severity: spec.severity,
        });
    }
    for (faults, id) in faults.iter_mut().zip(ids) {
        faults.sort_by_key(|fault| fault.start_us);
        for pair in faults.windows(2) {
            if pair[1].start_us < pair[0].end_us {
                return Err(Error::config(format!(
                    "two faults of device \"{}\" overlap: {} ends {} s after {} starts; move or shorten one",
                    id.device,
                    pair[0].kind.name(),
                    (pair[0].end_us - pair[1].start_us) as f64 * 1e-6,
                    pair[1].kind.name()
                )));
            }
        }
    }
    Ok(faults)
}

fn unknown_device(name: &str, ids: &[DeviceId]) -> Error {
    let near = ids.iter().take(1_000).max_by(|a, b| {
        let likeness = |id: &DeviceId| strsim::jaro_winkler(&id.device, name);
        likeness(a).total_cmp(&likeness(b))
    });
    let near = near.map_or_else(String::new, |id| format!("; did you mean \"{}\"?", id.device));
    Error::config(format!("a fault names device \"{name}\", which does not exist{near}"))
}

/// The signal that a stated fault is about: none for a fault of the machine.
fn sensor(spec: &FaultSpec, device: DeviceKind) -> Result<Option<Signal>> {
    let (fault, name) = (spec.kind.name(), &spec.device);
    if !spec.kind.fits(device) {
        let fitting: Vec<&str> =
            FaultKind::ALL.into_iter().filter(|kind| kind.fits(device)).map(FaultKind::name).collect();
        return Err(Error::config(format!(
            "device \"{name}\" cannot have {fault}; use one of {}",
            fitting.join(", ")
        )));
    }
    if !spec.kind.is_sensor_fault() {
        return match spec.signal {
            None => Ok(None),
            Some(signal) => Err(Error::config(format!(
                "{fault} of device \"{name}\" is a fault of the whole device; leave out signal = \"{}\"",
                signal.name()
            ))),
        };
    }
    let sensors =
        || device.channels().iter().filter(|channel| channel.sensor_faults).map(|channel| channel.signal);
    match spec.signal {
        None => Ok(sensors().next()),
        Some(signal) if sensors().any(|sensor| sensor == signal) => Ok(Some(signal)),
        Some(signal) => {
            let names: Vec<&str> = sensors().map(Signal::name).collect();
            Err(Error::config(format!(
                "device \"{name}\" has no sensor \"{}\" that can have {fault}; use one of {}",
                signal.name(),
                names.join(", ")
            )))
        }
    }
}
