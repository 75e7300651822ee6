//! The pipeline file's side of the `simulate` source: the plant's settings as people write them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::super::config::{ClockUnit, PlantConfig, Profile};
use super::super::devices::DeviceKind;
use super::super::faults::{FaultKind, FaultSpec, Faults, RandomFaults};
use super::super::payloads::PayloadFormat;
use super::super::plant::Plant;
use super::super::signals::Signal;
use super::{Publish, SimulateSettings, SimulateSource};
use crate::codec::timestamp::parse_rfc3339;
use crate::net::mqtt::parse_url;
use crate::net::publisher::PublisherSettings;
use crate::net::tls::TlsSettings;
use crate::registry::{BuiltSource, Checked, Context, Problem, SourceConfig, SourceOutput};
use crate::units::{Period, Secret};

/// A simulated plant: a fleet of devices that looks like an industrial site, with noise, drop-outs and labelled faults.
/// The same settings give the same readings, byte for byte, so it serves for trying a pipeline out, for tests and for
/// measuring a detector.
///
/// Its columns are `time`, the tags `line` and `device`, `seq` (the device's count), and one for each signal of the
/// profile. With `publish` the readings go to a broker as messages instead, as those of a real fleet would, for an
/// `mqtt` source to read; then this source itself gives no rows. A restart goes on behind the last row that was
/// committed, with `publish` from the beginning.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulateConfig {
    /// Where all randomness comes from. Another seed is another plant of the same sort.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The plant: `press-line`, `pump-vibration`, `cold-chain`, `energy-meters` or `water-loop`.
    #[serde(default = "default_profile")]
    pub profile: Profile,
    /// The kinds of devices, taken in turn, in place of the profile's. Columns are all signals of these kinds; a device
    /// leaves out what it does not measure.
    #[serde(default)]
    pub kinds: Vec<DeviceKind>,
    /// How many devices; at most 100,000.
    #[serde(default = "default_devices")]
    pub devices: u32,
    /// How many lines they are spread over, named `line-1` and on. Without it two, or one for a single device.
    #[serde(default)]
    pub lines: Option<u32>,
    /// Readings per second of each device, from 0.001 to 50,000.
    #[serde(default = "default_rate")]
    pub rate_hz: f64,
    /// Event time of the first reading: `"now"`, or RFC 3339 such as `"2024-01-01T00:00:00Z"`.
    #[serde(default = "default_start")]
    pub start: String,
    /// How fast event time goes: 1.0 as the clock, 60.0 an hour in a minute, `"max"` as fast as the pipeline takes it.
    #[serde(default)]
    pub speed: Speed,
    /// How long the plant runs, in event time; without it, for ever.
    #[serde(default)]
    pub duration: Option<Period>,
    /// Length of a load cycle; without it as the profile has it (`"1m"` for machines, `"10m"` for cold rooms, `"15m"`
    /// for meters and tanks). Each device differs by up to 10 %.
    #[serde(default)]
    pub load_cycle: Option<Period>,
    /// Whether machines idle from 22:00 to 06:00 UTC.
    #[serde(default)]
    pub shifts: bool,
    /// Factor on the sensors' noise: 0 is none, 1 is usual.
    #[serde(default = "default_noise")]
    pub noise: f64,
    /// Share of readings that never arrive, from 0 to 0.9. Their sequence numbers are missing.
    #[serde(default)]
    pub dropout: f64,
    /// Share of single values that are missing from a reading, from 0 to 0.9.
    #[serde(default)]
    pub missing: f64,
    /// Share of readings that arrive twice, from 0 to 0.9. The second comes up to `delay_max` later.
    #[serde(default)]
    pub duplicate: f64,
    /// Share of readings that are delayed and so arrive out of order, from 0 to 1.
    #[serde(default)]
    pub late: f64,
    /// The longest delay of a late reading, up to `"1h"`.
    #[serde(default = "no_time")]
    pub delay_max: Period,
    /// By how much the moment of a reading differs from its turn at most, up to `"1m"`.
    #[serde(default = "no_time")]
    pub clock_jitter_max: Period,
    /// Resolution of event times and unit of `ts` in payloads: `ms` or `us`.
    #[serde(default = "default_time_unit")]
    pub time_unit: ClockUnit,
    /// What fails at stated times. On one device faults must not overlap.
    #[serde(default)]
    #[schemars(length(max = 10_000))]
    pub faults: Vec<FaultKeys>,
    /// Faults drawn from the seed, beside the stated ones and never overlapping them.
    #[serde(default)]
    pub random_faults: Option<RandomFaultKeys>,
    /// A broker to publish to: `mqtt://host:port` or `mqtts://host:port`. Messages go out at QoS 1; a broker that is
    /// away is tried again for ever.
    #[serde(default)]
    pub publish: Option<String>,
    /// With `publish`: what messages look like.
    #[serde(default = "default_payload")]
    pub payload: PayloadFormat,
    /// With `publish`: user name.
    #[serde(default)]
    pub username: Option<String>,
    /// With `publish`: password, by reference: `{ env = "MQTT_PASSWORD" }` or `{ file = "/run/secrets/mqtt" }`.
    #[serde(default)]
    pub password: Option<Secret>,
    /// With `publish` to `mqtts://`: PEM file with the certificates of the authorities to trust. Without it the
    /// system's are.
    #[serde(default)]
    pub ca: Option<String>,
}

/// One fault at a stated time.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultKeys {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The device's name, e.g. `press-03`.
    pub device: String,
    /// The signal whose sensor fails, for `stuck`, `spike` and `drift`. Without it the device's first signal whose
    /// sensor can fail.
    #[serde(default)]
    pub signal: Option<Signal>,
    /// From the plant's start to the fault's start, in event time.
    pub start: Period,
    /// How long it lasts.
    pub duration: Period,
    /// How strong it is: 1 is plain to see, 0.3 is hard to find, 3 is gross.
    #[serde(default = "default_severity")]
    pub severity: f64,
}

/// Faults drawn from the plant's seed.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomFaultKeys {
    /// How many faults a device has per hour, on average.
    pub per_device_hour: f64,
    /// Which kinds. Empty: every kind that fits the device. A kind that does not fit a device is left out for it.
    pub kinds: Vec<FaultKind>,
    /// The shortest fault.
    pub duration_min: Period,
    /// The longest fault.
    pub duration_max: Period,
    /// The least severity; 1 is plain to see.
    pub severity_min: f64,
    /// The largest severity.
    pub severity_max: f64,
    /// Time after the start in which nothing fails, so that a detector can learn.
    pub warm_up: Period,
    /// Sound operation between two faults of a device, at least.
    pub spacing: Period,
}

impl Default for RandomFaultKeys {
    fn default() -> Self {
        let usual = RandomFaults::default();
        let period = |seconds: f64| Period(std::time::Duration::from_secs_f64(seconds));
        Self {
            per_device_hour: usual.per_device_hour,
            kinds: usual.kinds,
            duration_min: period(usual.duration_s_min),
            duration_max: period(usual.duration_s_max),
            severity_min: usual.severity_min,
            severity_max: usual.severity_max,
            warm_up: period(usual.warm_up_s),
            spacing: period(usual.spacing_s),
        }
    }
}

fn default_seed() -> u64 {
    1
}

fn default_profile() -> Profile {
    Profile::PressLine
}

fn default_devices() -> u32 {
    8
}

fn default_rate() -> f64 {
    10.0
}

fn default_start() -> String {
    "now".to_owned()
}

fn default_noise() -> f64 {
    1.0
}

fn no_time() -> Period {
    Period::seconds(0)
}

fn default_time_unit() -> ClockUnit {
    ClockUnit::Ms
}

fn default_payload() -> PayloadFormat {
    PayloadFormat::Json
}

fn default_severity() -> f64 {
    1.0
}

/// How fast event time goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// Seconds of event time in one second.
    Times(f64),
    /// As fast as the pipeline takes rows.
    Max,
}

impl Default for Speed {
    fn default() -> Self {
        Self::Times(1.0)
    }
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Speed;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number above 0 or \"max\"")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Speed, E> {
                match (1e-6..=1e6).contains(&value) {
                    true => Ok(Speed::Times(value)),
                    false => {
                        Err(E::custom(format!("`{value}` must be from 0.000001 to 1000000, or \"max\"")))
                    }
                }
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Speed, E> {
                self.visit_f64(value as f64)
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Speed, E> {
                match value {
                    "max" => Ok(Speed::Max),
                    other => Err(E::custom(format!("`{other}` is not a speed; write a number or \"max\""))),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Speed {
    fn schema_name() -> Cow<'static, str> {
        "Speed".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "number", "minimum": 1e-6, "maximum": 1e6 },
                { "type": "string", "enum": ["max"] },
            ],
            "default": 1.0,
        })
    }
}

fn seconds(period: Period) -> f64 {
    period.0.as_secs_f64()
}

impl SimulateConfig {
    /// The plant that these settings ask for, before `start = "now"` is looked up.
    fn plant(&self, start_us: Option<i64>) -> PlantConfig {
        let usual = PlantConfig::default();
        let faults = self.faults.iter().map(|fault| FaultSpec {
            kind: fault.kind,
            device: fault.device.clone(),
            signal: fault.signal,
            start_s: seconds(fault.start),
            duration_s: seconds(fault.duration),
            severity: fault.severity,
        });
        let random = self.random_faults.as_ref().map(|random| RandomFaults {
            per_device_hour: random.per_device_hour,
            kinds: random.kinds.clone(),
            duration_s_min: seconds(random.duration_min),
            duration_s_max: seconds(random.duration_max),
            severity_min: random.severity_min,
            severity_max: random.severity_max,
            warm_up_s: seconds(random.warm_up),
            spacing_s: seconds(random.spacing),
        });
        PlantConfig {
            seed: self.seed,
            profile: self.profile,
            kinds: self.kinds.clone(),
            devices: self.devices,
            lines: self.lines.unwrap_or_else(|| usual.lines.min(self.devices.max(1))),
            rate_hz: self.rate_hz,
            start_us: start_us.unwrap_or(usual.start_us),
            duration_s: self.duration.map(seconds),
            load_cycle_s: self.load_cycle.map(seconds),
            shifts: self.shifts,
            noise: self.noise,
            dropout: self.dropout,
            missing: self.missing,
            duplicate: self.duplicate,
            late: self.late,
            delay_ms_max: seconds(self.delay_max) * 1e3,
            clock_jitter_ms_max: seconds(self.clock_jitter_max) * 1e3,
            time_unit: self.time_unit,
            faults: Faults { list: faults.collect(), random },
        }
    }

    fn publish(&self, problems: &mut Vec<Problem>) -> Option<Publish> {
        let Some(url) = &self.publish else {
            let keys = [
                ("username", self.username.is_some()),
                ("password", self.password.is_some()),
                ("ca", self.ca.is_some()),
                ("payload", self.payload != default_payload()),
            ];
            for (key, _) in keys.into_iter().filter(|(_, said)| *said) {
                problems.push(Problem::new(key, format!("`{key}` goes with `publish`, which is not there")));
            }
            return None;
        };
        let address = match parse_url(url) {
            Ok(address) => address,
            Err(problem) => {
                problems.push(Problem { path: "publish".to_owned(), ..problem });
                return None;
            }
        };
        if self.ca.is_some() && !address.encrypted {
            problems.push(
                Problem::new("ca", "this needs TLS, but the url is `mqtt://`")
                    .help("write `mqtts://` in `publish`"),
            );
        }
        if self.password.is_some() && self.username.is_none() {
            problems.push(Problem::new("password", "a password needs a `username`"));
        }
        let tls = TlsSettings { ca: self.ca.clone(), certificate: None, key: None };
        let publisher = PublisherSettings {
            host: address.host,
            port: address.port,
            tls: address.encrypted.then_some(tls),
            client_id: None,
            protocol: None,
            username: self.username.clone(),
            password: self.password.clone(),
            keep_alive: std::time::Duration::from_secs(30),
            packet_bytes_max: 1 << 20,
            in_flight: 100,
        };
        Some(Publish { publisher, format: self.payload })
    }
}

impl SourceConfig for SimulateConfig {
    const TYPE: &'static str = "simulate";
    const ALONE_WITH: Option<&'static str> = Some("publish");
    const EXAMPLES: &'static [&'static str] = &[
        r#"profile = "press-line"
devices = 20
rate_hz = 5.0
random_faults = { per_device_hour = 2.0 }"#,
        r#"profile = "pump-vibration"
start = "2024-01-01T00:00:00Z"
speed = "max"
duration = "10m"
faults = [{ kind = "bearing_wear", device = "pump-03", start = "5m", duration = "2m" }]"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSource> {
        let mut problems = Vec::new();
        let start_us = match self.start.as_str() {
            "now" => None,
            text => {
                let parsed = parse_rfc3339(text.as_bytes());
                if parsed.is_none() {
                    problems.push(
                        Problem::new("start", format!("`{text}` is neither \"now\" nor a time"))
                            .help("write for example \"2024-01-01T00:00:00Z\""),
                    );
                }
                parsed
            }
        };
        let publish = self.publish(&mut problems);
        let config = self.plant(start_us);
        // The plant names its own keys; here they are written as the user knows them.
        let plant = Plant::new(&config).map_err(|error| problems.push(problem_of(&error.message))).ok();
        let Some(plant) = plant.filter(|_| problems.is_empty()) else { return Err(problems) };
        let schema = plant.schema().clone();
        let follows_clock = self.start == "now" && self.speed == Speed::Times(1.0);
        let notes = match &self.publish {
            Some(url) => vec![format!("publishes to {url}; it gives no rows to the pipeline itself")],
            None => Vec::new(),
        };
        let settings = SimulateSettings {
            config,
            start_now: self.start == "now",
            speed: self.speed,
            publish,
            batch: context.batch,
        };
        Ok(BuiltSource {
            source: Box::new(SimulateSource::new(settings)),
            output: SourceOutput::Columns(schema),
            topics: Vec::new(),
            acknowledges: false,
            live: follows_clock,
            companion: None,
            connected: None,
            delivery: None,
            vitals: None,
            notes,
        })
    }
}

/// Names of the plant's own settings and what they are called in the pipeline file, longer ones first.
const NAMES: [(&str, &str); 17] = [
    ("faults.random.duration_s_min", "random_faults.duration_min"),
    ("faults.random.duration_s_max", "random_faults.duration_max"),
    ("faults.random.warm_up_s", "random_faults.warm_up"),
    ("faults.random.spacing_s", "random_faults.spacing"),
    ("faults.random", "random_faults"),
    ("faults.list", "faults"),
    ("start_s of a fault", "`start` of a fault (in seconds)"),
    ("duration_s of a fault", "`duration` of a fault (in seconds)"),
    ("clock_jitter_ms_max", "clock_jitter_max (in milliseconds)"),
    ("delay_ms_max", "delay_max (in milliseconds)"),
    ("load_cycle_s", "load_cycle (in seconds)"),
    ("duration_s", "duration (in seconds)"),
    ("start_us", "start (in µs)"),
    ("warm_up_s", "warm_up"),
    ("spacing_s", "spacing"),
    ("number of kinds", "number of `kinds`"),
    ("severity of a fault", "`severity` of a fault"),
];

/// A plant's complaint as a problem at the key that it begins with, if it begins with one.
fn problem_of(message: &str) -> Problem {
    let mut text = message.to_owned();
    for (from, to) in NAMES {
        text = text.replace(from, to);
    }
    let key: String =
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')).collect();
    let keys = [
        "devices",
        "lines",
        "rate_hz",
        "start",
        "duration",
        "load_cycle",
        "noise",
        "dropout",
        "missing",
        "duplicate",
        "late",
        "delay_max",
        "clock_jitter_max",
        "faults",
    ];
    let known = keys.contains(&key.as_str()) || key.starts_with("random_faults.");
    Problem::new(if known { key } else { String::new() }, text)
}
