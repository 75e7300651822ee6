//! The physics of each kind of device: which signals it has, how they follow its load, and what a fault does
//! to them. Pure: a reading is a function of (device, time, tick).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::PlantConfig;
use super::faults::Symptoms;
use super::random::{Random, derive, wander};
use super::signals::{Load, LoadMoment, Signal, Wave, decay, sine};

const DAY_US: i64 = 86_400_000_000;
/// How slowly a machine's body follows its load: the time constant of its temperature.
const THERMAL_LAG_S: f64 = 120.0;
/// Strokes of a press per second: 120 per minute. A 10 Hz reading sees five points of each, which is enough
/// for a window of whole seconds to look like the next one.
const STROKES_HZ: f64 = 2.0;
/// Ball-pass frequency of the outer race per turn of the shaft: a common deep-groove bearing (6205).
const BALL_PASS_PER_TURN: f64 = 3.585;
/// Where the housing rings when a damaged bearing hits it.
const RING_HZ: f64 = 2_870.0;

// Purposes of a device's random streams; the stream of readings' noise is the device's seed itself.
const TRAITS: u64 = 0x01;
const ROUGH: u64 = 0x02;
const WANDER: u64 = 0x03;
const DOOR: u64 = 0x04;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A stamping press: temp, vib, rpm of the flywheel, current, hydraulic pressure with every stroke.
    Press,
    /// An electric motor: temp, vib, rpm, current.
    Motor,
    /// A bearing housing with raw acceleration: temp, vib, acc, rpm.
    Bearing,
    /// A centrifugal pump: temp, vib, acc, rpm, current, pressure, flow.
    Pump,
    /// A cold room at 2 to 8 °C: temp, humidity, door, power of its compressor.
    Fridge,
    /// A three-phase energy meter: current, voltage, power_factor, power, energy.
    Meter,
    /// A water tank: pressure, flow_in, flow_out, level, in balance with one another.
    Tank,
}

/// One signal of a kind of device, with the range a sound device stays in (`noise` 1, no shifts).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Channel {
    /// What is measured.
    pub signal: Signal,
    /// The least value of a sound device, in the signal's unit.
    pub low: f64,
    /// The largest value of a sound device, in the signal's unit.
    pub high: f64,
    /// True where the sensor itself can fail: sticking, spiking or drifting.
    pub sensor_faults: bool,
}

const fn channel(signal: Signal, low: f64, high: f64) -> Channel {
    Channel { signal, low, high, sensor_faults: true }
}

const fn sure(signal: Signal, low: f64, high: f64) -> Channel {
    Channel { signal, low, high, sensor_faults: false }
}

const PRESS: &[Channel] = &[
    channel(Signal::Temp, 52.0, 72.0),
    channel(Signal::Vib, 1.5, 3.0),
    sure(Signal::Rpm, 1_435.0, 1_470.0),
    channel(Signal::Current, 20.0, 44.0),
    channel(Signal::Pressure, 40.0, 170.0),
];
const MOTOR: &[Channel] = &[
    channel(Signal::Temp, 50.0, 71.0),
    channel(Signal::Vib, 1.2, 2.1),
    sure(Signal::Rpm, 1_455.0, 1_480.0),
    channel(Signal::Current, 17.0, 29.0),
];
const BEARING: &[Channel] = &[
    channel(Signal::Temp, 39.0, 58.0),
    channel(Signal::Vib, 1.0, 1.75),
    channel(Signal::Acc, -5.5, 5.5),
    sure(Signal::Rpm, 1_455.0, 1_480.0),
];
const PUMP: &[Channel] = &[
    channel(Signal::Temp, 44.0, 63.0),
    channel(Signal::Vib, 1.1, 1.95),
    channel(Signal::Acc, -7.0, 7.0),
    sure(Signal::Rpm, 2_905.0, 2_945.0),
    channel(Signal::Current, 16.0, 26.0),
    channel(Signal::Pressure, 5.3, 6.6),
    channel(Signal::Flow, 34.0, 50.0),
];
const FRIDGE: &[Channel] = &[
    channel(Signal::Temp, 2.5, 6.8),
    channel(Signal::Humidity, 66.0, 92.0),
    sure(Signal::Door, 0.0, 1.0),
    channel(Signal::Power, 0.0, 0.55),
];
const METER: &[Channel] = &[
    channel(Signal::Current, 18.0, 80.0),
    channel(Signal::Voltage, 393.0, 407.0),
    channel(Signal::PowerFactor, 0.9, 0.96),
    channel(Signal::Power, 12.0, 51.0),
    sure(Signal::Energy, 0.0, 1e9),
];
const TANK: &[Channel] = &[
    channel(Signal::Pressure, 2.34, 2.53),
    channel(Signal::FlowIn, 18.0, 100.0),
    channel(Signal::FlowOut, 48.0, 72.0),
    channel(Signal::Level, 1.85, 2.95),
];

impl DeviceKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Press, Self::Motor, Self::Bearing, Self::Pump, Self::Fridge, Self::Meter, Self::Tank];

    /// The name in configuration and in device names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Press => "press",
            Self::Motor => "motor",
            Self::Bearing => "bearing",
            Self::Pump => "pump",
            Self::Fridge => "fridge",
            Self::Meter => "meter",
            Self::Tank => "tank",
        }
    }

    /// What it measures, in the order of columns.
    pub fn channels(self) -> &'static [Channel] {
        match self {
            Self::Press => PRESS,
            Self::Motor => MOTOR,
            Self::Bearing => BEARING,
            Self::Pump => PUMP,
            Self::Fridge => FRIDGE,
            Self::Meter => METER,
            Self::Tank => TANK,
        }
    }

    /// The channel of a signal, where this kind has it.
    pub fn channel(self, signal: Signal) -> Option<Channel> {
        self.channels().iter().copied().find(|channel| channel.signal == signal)
    }

    /// True where a load cycle is one of a turning machine, which can wear and can follow shifts.
    pub fn is_machine(self) -> bool {
        matches!(self, Self::Press | Self::Motor | Self::Bearing | Self::Pump)
    }
}

/// The names of a device, as they appear in topics and columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceId {
    /// The line, e.g. `line-1`.
    pub line: String,
    /// The device, unique in the plant, e.g. `press-03`.
    pub device: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Index of its line, from 0.
    pub line_index: u32,
}

impl DeviceId {
    /// Names device `index`; devices are dealt to lines and kinds in turn.
    pub(super) fn new(index: u32, config: &PlantConfig, kinds: &[DeviceKind]) -> Self {
        let kind = kinds[index as usize % kinds.len()];
        let line_index = index % config.lines;
        let width = (config.devices.ilog10() as usize + 1).max(2);
        Self {
            line: format!("line-{}", line_index + 1),
            device: format!("{}-{:0width$}", kind.name(), index + 1),
            kind,
            line_index,
        }
    }
}

/// What all devices of a plant share.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub seed: u64,
    pub start_us: i64,
    /// Factor on all noise.
    pub noise: f64,
    /// Whether machines idle at night.
    pub shifts: bool,
}

impl Site {
    fn seconds(&self, time_us: i64) -> f64 {
        time_us.saturating_sub(self.start_us) as f64 * 1e-6
    }

    /// Air temperature: warmest at 15:00 UTC, with weather that changes within half an hour.
    fn ambient_c(&self, time_us: i64) -> f64 {
        let day = day_turns(time_us);
        21.0 + 2.5 * sine(day - 0.375) + 0.5 * wander(self.seed, self.seconds(time_us) / 1_800.0)
    }

    /// The share of the load that the hour of the day leaves: 1 from 06:10 to 21:50 UTC, 0.15 at night;
    /// and the same as a body with thermal lag feels it.
    fn shift(&self, time_us: i64) -> (f64, f64) {
        if !self.shifts {
            return (1.0, 1.0);
        }
        let hour = day_turns(time_us) * 24.0;
        let between = |ramp: f64| {
            let up = ((hour - 6.0) / ramp).clamp(0.0, 1.0);
            let down = ((22.0 + ramp - 1.0 / 6.0 - hour) / ramp).clamp(0.0, 1.0);
            let part = up.min(down);
            0.15 + 0.85 * part * part * (3.0 - 2.0 * part)
        };
        (between(1.0 / 6.0), between(0.5))
    }
}

fn day_turns(time_us: i64) -> f64 {
    time_us.rem_euclid(DAY_US) as f64 / DAY_US as f64
}

/// The values of one reading, by signal; NaN where the device has no such signal.
pub(super) type Values = [f64; Signal::COUNT];

/// One device: its kind, its traits and its load.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub kind: DeviceKind,
    pub seed: u64,
    /// Size of this copy against the kind's: within 3 %.
    gain: f64,
    phases: [f64; 3],
    cycle_s: f64,
    load: Load,
    wander_seed: u64,
}

/// What a machine's signals have in common at one moment.
struct Moment {
    t: f64,
    /// Load with the shift's share.
    drive: f64,
    load: LoadMoment,
    ambient_c: f64,
    heat: f64,
    /// The slow change of foundations, oil and sensors: within 1.5 %.
    drift: f64,
    noise: Random,
    noise_scale: f64,
    /// Randomness of faults: a stream of its own, so that a fault does not shift the noise of a sound signal.
    rough: Random,
}

impl Moment {
    fn noise(&mut self, deviation: f64) -> f64 {
        deviation * self.noise_scale * self.noise.normal()
    }
}

impl Device {
    /// Device `number` of the plant; `cycle_s` is the plant's load cycle, from which each device's differs by
    /// up to 10 %.
    pub fn new(kind: DeviceKind, site: &Site, number: u64, cycle_s: f64) -> Self {
        let seed = derive(site.seed, number);
        let mut traits = Random::at(derive(seed, TRAITS), 0);
        let gain = 1.0 + 0.03 * traits.signed();
        let cycle_s = cycle_s * (1.0 + 0.1 * traits.signed());
        let phases = [traits.uniform(), traits.uniform(), traits.uniform()];
        let wave = |amplitude, frequency_hz, phase_turns| Wave { amplitude, frequency_hz, phase_turns };
        let day_hz = 1.0 / 86_400.0;
        // Largest at 14:00 UTC.
        let day_phase = day_turns(site.start_us) + 0.25 - 14.0 / 24.0;
        let (mean, cycle, overtone, day) = match kind {
            DeviceKind::Meter => (0.6, 0.10, 0.04, 0.18),
            DeviceKind::Tank => (2.4, 0.40, 0.10, 0.0),
            _ => (0.75, 0.09, 0.04, 0.0),
        };
        let load = Load {
            mean,
            waves: [
                wave(cycle, 1.0 / cycle_s, phases[0]),
                wave(overtone, 2.7 / cycle_s, phases[1]),
                wave(day, day_hz, day_phase),
            ],
        };
        Self { kind, seed, gain, phases, cycle_s, load, wander_seed: derive(seed, WANDER) }
    }

    /// Writes what the sensors measure at `time_us` into `values`, unrounded. `tick` chooses the noise.
    pub fn measure(&self, site: &Site, time_us: i64, tick: u64, symptoms: &Symptoms, values: &mut Values) {
        values.fill(f64::NAN);
        let t = site.seconds(time_us);
        let load = self.load.at(t, THERMAL_LAG_S);
        let (share, warm_share) = site.shift(time_us);
        let mut moment = Moment {
            t,
            drive: share * load.value,
            load,
            ambient_c: site.ambient_c(time_us),
            heat: warm_share * load.lagged,
            drift: 1.0 + 0.015 * wander(self.wander_seed, t / 1_800.0),
            noise: Random::at(self.seed, tick),
            noise_scale: site.noise,
            rough: Random::at(self.seed ^ ROUGH, tick),
        };
        match self.kind {
            DeviceKind::Press => self.press(&mut moment, symptoms, values),
            DeviceKind::Motor => self.motor(&mut moment, symptoms, values),
            DeviceKind::Bearing => self.bearing(&mut moment, symptoms, values),
            DeviceKind::Pump => self.pump(&mut moment, symptoms, values),
            DeviceKind::Fridge => self.fridge(&mut moment, symptoms, values),
            DeviceKind::Meter => self.meter(&mut moment, values),
            DeviceKind::Tank => self.tank(&mut moment, time_us, symptoms, values),
        }
    }

    fn press(&self, moment: &mut Moment, symptoms: &Symptoms, values: &mut Values) {
        // A raised cosine has no overtones, so a few samples per stroke already give its mean exactly.
        let stroke = 0.5 - 0.5 * sine(STROKES_HZ * self.gain * moment.t + self.phases[2] + 0.25);
        let drive = moment.drive;
        let rpm = 1_475.0 - 22.0 * drive - 10.0 * stroke + moment.noise(1.5);
        let current = self.gain * (14.0 + 26.0 * drive * (0.6 + 0.5 * stroke)) + moment.noise(0.4);
        let vib = 1.4 * (rpm / 1_475.0) + 0.6 * drive + 0.8 * drive * stroke;
        values[Signal::Rpm as usize] = rpm;
        values[Signal::Current as usize] = current * (1.0 + 0.03 * symptoms.wear);
        values[Signal::Pressure as usize] = 45.0 + 125.0 * self.gain * drive * stroke + moment.noise(1.0);
        values[Signal::Vib as usize] = self.vibration(vib, 0.05, moment, symptoms);
        values[Signal::Temp as usize] = self.temperature(14.0, 36.0, moment, symptoms);
    }

    fn motor(&self, moment: &mut Moment, symptoms: &Symptoms, values: &mut Values) {
        let rpm = 1_490.0 - 28.0 * moment.drive + moment.noise(1.5);
        let current = self.gain * (8.0 + 20.0 * moment.drive) + moment.noise(0.25);
        values[Signal::Rpm as usize] = rpm;
        values[Signal::Current as usize] = current * (1.0 + 0.03 * symptoms.wear);
        values[Signal::Vib as usize] =
            self.vibration(1.1 * (rpm / 1_490.0) + 0.7 * moment.drive, 0.05, moment, symptoms);
        values[Signal::Temp as usize] = self.temperature(14.0, 34.0, moment, symptoms);
    }

    fn bearing(&self, moment: &mut Moment, symptoms: &Symptoms, values: &mut Values) {
        values[Signal::Rpm as usize] = 1_490.0 - 28.0 * moment.drive + moment.noise(1.5);
        let turns = (1_490.0 * moment.t - 28.0 * moment.load.integral) / 60.0;
        values[Signal::Acc as usize] = self.acceleration(turns, 0.7, moment, symptoms);
        values[Signal::Vib as usize] = self.vibration(0.9 + 0.6 * moment.drive, 0.04, moment, symptoms);
        values[Signal::Temp as usize] = self.temperature(8.0, 26.0, moment, symptoms);
    }

    fn pump(&self, moment: &mut Moment, symptoms: &Symptoms, values: &mut Values) {
        let drive = moment.drive;
        let cavitation = symptoms.cavitation;
        let rpm = 2_960.0 - 45.0 * drive + moment.noise(2.0);
        let turns = (2_960.0 * moment.t - 45.0 * moment.load.integral) / 60.0;
        // Along a pump's curve the pressure falls as the flow grows.
        let flow = self.gain * (18.0 + 32.0 * drive) + moment.noise(0.3);
        let pressure = 7.6 - 2.2 * self.gain * drive + moment.noise(0.04);
        let current = self.gain * (9.0 + 16.0 * drive) + moment.noise(0.25);
        let acceleration = self.acceleration(turns, 1.0, moment, symptoms);
        let vib = self.vibration(1.0 * (rpm / 2_960.0) + 0.7 * drive, 0.05, moment, symptoms);
        // Collapsing bubbles: less head and flow and both unsteady, broadband vibration, a current that dips.
        let rough = &mut moment.rough;
        values[Signal::Rpm as usize] = rpm;
        values[Signal::Flow as usize] = flow * (1.0 - 0.06 * cavitation) + 1.8 * cavitation * rough.normal();
        values[Signal::Pressure as usize] =
            pressure * (1.0 - 0.07 * cavitation) + 0.3 * cavitation * rough.normal();
        values[Signal::Current as usize] =
            current * (1.0 + 0.03 * symptoms.wear - 0.04 * cavitation) - 1.2 * cavitation * rough.uniform();
        values[Signal::Acc as usize] = acceleration + 4.0 * cavitation * rough.normal();
        values[Signal::Vib as usize] = vib + cavitation * (0.8 + 0.5 * rough.uniform());
        values[Signal::Temp as usize] = self.temperature(10.0, 30.0, moment, symptoms);
    }

    /// Velocity in mm/s rms. A worn bearing raises it and makes it uneven: one reading in six catches a burst.
    fn vibration(&self, sound: f64, noise: f64, moment: &mut Moment, symptoms: &Symptoms) -> f64 {
        let value = self.gain * sound * moment.drift + moment.noise(noise);
        if symptoms.wear == 0.0 {
            return value;
        }
        let burst = if moment.rough.uniform() < 1.0 / 6.0 { moment.rough.between(1.0, 2.5) } else { 0.0 };
        value * (1.0 + 1.3 * symptoms.wear) + burst * symptoms.wear
    }

    /// One sample of acceleration in m/s²: unbalance at the shaft's frequency, misalignment at twice it, and
    /// noise. A damaged outer race adds a decaying ring at every passing ball (McFadden and Smith, "Model for
    /// the vibration produced by a single point defect in a rolling element bearing", J. Sound Vib. 96, 1984).
    fn acceleration(&self, turns: f64, noise: f64, moment: &mut Moment, symptoms: &Symptoms) -> f64 {
        // The coupling's play: without it a slow sampler could beat with the shaft and see no vibration.
        let turns = turns + 0.4 * wander(self.wander_seed ^ 1, moment.t * 2.0);
        let shaft = 2.0 * sine(turns + self.phases[1]) + 0.7 * sine(2.0 * turns + self.phases[2]);
        let sound = self.gain * shaft * (0.85 + 0.2 * moment.drive) + moment.noise(noise);
        if symptoms.wear == 0.0 {
            return sound;
        }
        // Balls slip by a per cent or two, so the phase of the hits is never locked to the shaft's.
        let hits = turns * BALL_PASS_PER_TURN + 0.8 * wander(self.wander_seed ^ 2, moment.t * 3.0);
        let since_hit = hits - hits.floor();
        sound + 30.0 * symptoms.wear * decay(since_hit / 0.08) * sine(RING_HZ * moment.t)
    }

    /// A body above the air: `rest` when idle, `rise` more at full load, and hotter late in a bearing's wear.
    fn temperature(&self, rest: f64, rise: f64, moment: &mut Moment, symptoms: &Symptoms) -> f64 {
        let own = self.gain * (rest + rise * moment.heat);
        moment.ambient_c + own + 16.0 * symptoms.wear_heat + moment.noise(0.08)
    }

    /// A compressor that switches on at the upper and off at the lower temperature, and a door that someone
    /// opens in four of ten cycles for a twenty-fifth of the cycle.
    fn fridge(&self, moment: &mut Moment, symptoms: &Symptoms, values: &mut Values) {
        const DUTY: f64 = 0.4;
        let turns = moment.t / self.cycle_s + self.phases[0];
        let cycle = turns.floor();
        let part = turns - cycle;
        let running = part < DUTY;
        let ease = |x: f64| x * (2.0 - x);
        let air = if running {
            5.0 - 2.2 * ease(part / DUTY)
        } else {
            2.8 + 2.2 * ease((part - DUTY) / (1.0 - DUTY))
        };
        let (mut warmth, mut open) = (0.0, false);
        for back in [0.0, 1.0] {
            let mut visit = Random::at(self.seed ^ DOOR, (cycle - back) as i64 as u64);
            let since = part + back - visit.between(0.05, 0.9);
            if visit.uniform() < 0.4 && since >= 0.0 {
                open |= since < 0.04;
                warmth += if since < 0.04 { since / 0.04 } else { decay((since - 0.04) / 0.12) };
            }
        }
        let loss = symptoms.cooling_loss;
        let cooling = if running { (1.0 - loss).max(0.0) } else { 0.0 };
        values[Signal::Temp as usize] =
            self.gain * air + 1.2 * warmth + 5.0 * symptoms.cooling_loss_grown + moment.noise(0.04);
        let humidity =
            76.0 - if running { 6.0 * ease(part / DUTY) } else { 6.0 * (1.0 - part) / (1.0 - DUTY) };
        values[Signal::Humidity as usize] =
            humidity + 9.0 * warmth + 8.0 * symptoms.cooling_loss_grown + moment.noise(0.4);
        values[Signal::Door as usize] = f64::from(u8::from(open));
        values[Signal::Power as usize] = (0.05 + 0.42 * self.gain * cooling + moment.noise(0.004)).max(0.0);
    }

    /// Energy is the integral of the power without its noise: exact, and it never falls.
    fn meter(&self, moment: &mut Moment, values: &mut Values) {
        let full_kw = 50.0 * self.gain;
        let load = moment.load;
        let power = full_kw * load.value + moment.noise(0.006 * full_kw);
        let power_factor = 0.93 + 0.04 * (load.value - 0.6) + moment.noise(0.002);
        let voltage = 400.0 - 6.0 * (load.value - 0.6)
            + 1.5 * wander(self.wander_seed, moment.t / 120.0)
            + moment.noise(0.6);
        values[Signal::Current as usize] = power * 1_000.0 / (1.732 * voltage * power_factor);
        values[Signal::Voltage as usize] = voltage;
        values[Signal::PowerFactor as usize] = power_factor;
        values[Signal::Power as usize] = power;
        let before_kwh = 10_000.0 * (1.0 + 20.0 * self.phases[2]);
        values[Signal::Energy as usize] = before_kwh + full_kw * load.integral / 3_600.0;
    }

    /// What flows in is what flows out plus what the level gains: a tank of 1.5 m² (scaled with the cycle, so
    /// that a faster cycle does not need a larger pump).
    fn tank(&self, moment: &mut Moment, time_us: i64, symptoms: &Symptoms, values: &mut Values) {
        let area_m2 = 1.5 * self.cycle_s / 900.0;
        let day = sine(day_turns(time_us) - 0.25);
        let flow_out = 60.0 * self.gain + 5.0 * day + 3.0 * wander(self.wander_seed, moment.t / 240.0);
        let level = moment.load.value;
        let (leak, lost) = (symptoms.leak, symptoms.leak_grown);
        let gain_m3_h = area_m2 * moment.load.derivative * 3_600.0;
        values[Signal::Level as usize] = level - 0.6 * lost + moment.noise(0.004);
        values[Signal::FlowOut as usize] = flow_out + moment.noise(0.4);
        // The pump's control sees the level fall and adds; the leak takes it.
        values[Signal::FlowIn as usize] = flow_out + gain_m3_h + 12.0 * leak + moment.noise(0.4);
        values[Signal::Pressure as usize] =
            2.2 + 0.098_1 * (level - 0.6 * lost) - 0.1 * leak + moment.noise(0.004);
    }
}
