//! What a user may ask of a simulated plant, and what is refused with a reason. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::devices::DeviceKind;
use super::faults::{FaultSpec, Faults, RandomFaults};
use crate::{Error, Result};

/// 2024-01-01T00:00:00Z, so that a plant without a stated start is the same every time.
const START_US_DEFAULT: i64 = 1_704_067_200_000_000;
/// 2200-01-01T00:00:00Z: room for any duration below the limits of nanosecond timestamps.
const START_US_MAX: i64 = 7_258_118_400_000_000;
pub(super) const DEVICES_MAX: u32 = 100_000;
/// Readings on their way at any moment, at most (24 bytes each).
pub(super) const UNDERWAY_MAX: f64 = 4_000_000.0;
const FAULTS_MAX: usize = 10_000;
const TEN_YEARS_S: f64 = 315_576_000.0;
const WEEK_S: f64 = 604_800.0;

/// A ready-made plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Stamping presses: temp, vib, rpm, current, pressure.
    PressLine,
    /// Pumps with raw acceleration: temp, vib, acc, rpm, current, pressure, flow.
    PumpVibration,
    /// Cold rooms: temp, humidity, door, power.
    ColdChain,
    /// Energy meters: current, voltage, power_factor, power, energy.
    EnergyMeters,
    /// Water tanks: pressure, flow_in, flow_out, level.
    WaterLoop,
}

impl Profile {
    /// The kinds of devices, unless the configuration says otherwise.
    pub(super) fn kinds(self) -> &'static [DeviceKind] {
        match self {
            Self::PressLine => &[DeviceKind::Press],
            Self::PumpVibration => &[DeviceKind::Pump],
            Self::ColdChain => &[DeviceKind::Fridge],
            Self::EnergyMeters => &[DeviceKind::Meter],
            Self::WaterLoop => &[DeviceKind::Tank],
        }
    }

    /// Seconds of a load cycle, unless the configuration says otherwise.
    pub(super) fn load_cycle_s(self) -> f64 {
        match self {
            Self::PressLine | Self::PumpVibration => 60.0,
            Self::ColdChain => 600.0,
            Self::EnergyMeters | Self::WaterLoop => 900.0,
        }
    }
}

/// The unit of `ts` in payloads, and with it the resolution of the devices' clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClockUnit {
    /// Milliseconds since 1970.
    Ms,
    /// Microseconds since 1970.
    Us,
}

impl ClockUnit {
    /// Microseconds of one unit.
    pub fn us(self) -> i64 {
        match self {
            Self::Ms => 1_000,
            Self::Us => 1,
        }
    }
}

/// A simulated plant: which devices, how often they report, what goes wrong on the way, and which of them
/// fail. The same configuration gives the same readings, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlantConfig {
    /// Where all randomness comes from. Another seed is another plant of the same sort.
    pub seed: u64,
    /// The plant: `press-line`, `pump-vibration`, `cold-chain`, `energy-meters` or `water-loop`.
    pub profile: Profile,
    /// The kinds of devices, taken in turn, in place of the profile's: `press`, `motor`, `bearing`, `pump`,
    /// `fridge`, `meter`, `tank`. Columns are all signals of these kinds; a device leaves out what it does not
    /// measure.
    pub kinds: Vec<DeviceKind>,
    /// How many devices; at most 100,000.
    pub devices: u32,
    /// How many lines they are spread over, named `line-1` and on.
    pub lines: u32,
    /// Readings per second of each device, from 0.001 to 50,000.
    pub rate_hz: f64,
    /// Event time of the start, in µs since 1970.
    pub start_us: i64,
    /// After how many seconds of event time the plant ends; without it, never.
    pub duration_s: Option<f64>,
    /// Seconds of a load cycle; without it as the profile has it (60 for machines, 600 for cold rooms, 900 for
    /// meters and tanks). Each device differs by up to 10 %.
    pub load_cycle_s: Option<f64>,
    /// Whether machines idle from 22:00 to 06:00 UTC.
    pub shifts: bool,
    /// Factor on the sensors' noise: 0 is none, 1 is usual.
    pub noise: f64,
    /// Share of readings that never arrive, from 0 to 0.9. Their sequence numbers are missing.
    pub dropout: f64,
    /// Share of single values that are missing from a reading, from 0 to 0.9.
    pub missing: f64,
    /// Share of readings that arrive twice, from 0 to 0.9. The second comes up to `delay_ms_max` later.
    pub duplicate: f64,
    /// Share of readings that are delayed and so arrive out of order, from 0 to 1.
    pub late: f64,
    /// The longest delay of a late reading, in milliseconds, up to one hour.
    pub delay_ms_max: f64,
    /// By how many milliseconds the moment of a reading differs from its turn at most, up to 60,000.
    pub clock_jitter_ms_max: f64,
    /// Resolution of event times and unit of `ts` in payloads: `ms` or `us`.
    pub time_unit: ClockUnit,
    /// What fails, and when.
    pub faults: Faults,
}

impl Default for PlantConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            profile: Profile::PressLine,
            kinds: Vec::new(),
            devices: 8,
            lines: 2,
            rate_hz: 10.0,
            start_us: START_US_DEFAULT,
            duration_s: None,
            load_cycle_s: None,
            shifts: false,
            noise: 1.0,
            dropout: 0.0,
            missing: 0.0,
            duplicate: 0.0,
            late: 0.0,
            delay_ms_max: 0.0,
            clock_jitter_ms_max: 0.0,
            time_unit: ClockUnit::Ms,
            faults: Faults::default(),
        }
    }
}

/// Refuses a value outside its limits, by name; NaN is outside of any.
fn within(name: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::config(format!("{name} = {value} is out of range; use a value from {low} to {high}")))
}

impl PlantConfig {
    /// The kinds of devices in turn: the configured ones or the profile's.
    pub(super) fn kinds(&self) -> &[DeviceKind] {
        if self.kinds.is_empty() { self.profile.kinds() } else { &self.kinds }
    }

    /// The load cycle: the configured one or the profile's.
    pub(super) fn cycle_s(&self) -> f64 {
        self.load_cycle_s.unwrap_or(self.profile.load_cycle_s())
    }

    /// Checks everything that does not need the devices' names.
    ///
    /// # Errors
    /// The first value that is out of its range or does not go with another, with the way out.
    pub fn check(&self) -> Result<()> {
        within("devices", f64::from(self.devices), 1.0, f64::from(DEVICES_MAX))?;
        within("lines", f64::from(self.lines), 1.0, f64::from(self.devices))?;
        within("rate_hz", self.rate_hz, 0.001, 50_000.0)?;
        within("start_us", self.start_us as f64, 0.0, START_US_MAX as f64)?;
        within("duration_s", self.duration_s.unwrap_or(1.0), 0.001, TEN_YEARS_S)?;
        within("load_cycle_s", self.cycle_s(), 1.0, 86_400.0)?;
        within("noise", self.noise, 0.0, 10.0)?;
        within("dropout", self.dropout, 0.0, 0.9)?;
        within("missing", self.missing, 0.0, 0.9)?;
        within("duplicate", self.duplicate, 0.0, 0.9)?;
        within("late", self.late, 0.0, 1.0)?;
        within("delay_ms_max", self.delay_ms_max, 0.0, 3_600_000.0)?;
        within("clock_jitter_ms_max", self.clock_jitter_ms_max, 0.0, 60_000.0)?;
        within("number of kinds", self.kinds.len() as f64, 0.0, 1_000.0)?;
        if self.late > 0.0 && self.delay_ms_max == 0.0 {
            return Err(Error::config("late readings need a delay; set delay_ms_max above 0, or late = 0"));
        }
        let underway = f64::from(self.devices) * (4.0 + 8.0 * self.delay_ms_max * 1e-3 * self.rate_hz);
        if underway > UNDERWAY_MAX {
            return Err(Error::config(format!(
                "up to {underway:.0} readings could be under way at once, more than {UNDERWAY_MAX:.0}; use \
                 fewer devices, a lower rate_hz or a shorter delay_ms_max"
            )));
        }
        self.faults.check()
    }
}

impl Faults {
    fn check(&self) -> Result<()> {
        if self.list.len() > FAULTS_MAX {
            let count = self.list.len();
            return Err(Error::config(format!(
                "faults.list has {count} faults; at most {FAULTS_MAX} are possible"
            )));
        }
        self.list.iter().try_for_each(FaultSpec::check)?;
        self.random.as_ref().map_or(Ok(()), RandomFaults::check)
    }
}

impl FaultSpec {
    fn check(&self) -> Result<()> {
        within("start_s of a fault", self.start_s, 0.0, TEN_YEARS_S)?;
        within("duration_s of a fault", self.duration_s, 0.001, WEEK_S)?;
        within("severity of a fault", self.severity, 0.01, 10.0)
    }
}

impl RandomFaults {
    fn check(&self) -> Result<()> {
        within("faults.random.per_device_hour", self.per_device_hour, 0.0, 1_000.0)?;
        within("faults.random.duration_s_min", self.duration_s_min, 0.001, WEEK_S)?;
        within("faults.random.duration_s_max", self.duration_s_max, self.duration_s_min, WEEK_S)?;
        within("faults.random.severity_min", self.severity_min, 0.01, 10.0)?;
        within("faults.random.severity_max", self.severity_max, self.severity_min, 10.0)?;
        within("faults.random.warm_up_s", self.warm_up_s, 0.0, TEN_YEARS_S)?;
        within("faults.random.spacing_s", self.spacing_s, 0.0, WEEK_S)?;
        within("number of faults.random.kinds", self.kinds.len() as f64, 0.0, 64.0)?;
        if self.per_device_hour > 0.0 && self.block_s() < self.duration_s_max + self.spacing_s {
            let most = self.per_device_hour * self.block_s() / (self.duration_s_max + self.spacing_s);
            return Err(Error::config(format!(
                "faults.random.per_device_hour = {} leaves no room for faults of {} s with {} s between them; \
                 use at most {most:.1}, or shorter faults or spacing",
                self.per_device_hour, self.duration_s_max, self.spacing_s
            )));
        }
        // A block of more than ten years would leave the range of times.
        if self.per_device_hour > 0.0 {
            within("faults.random.per_device_hour", self.per_device_hour, 1e-4, 1_000.0)?;
        }
        Ok(())
    }
}
